"""Fuzzes each reader of stored files: right values or a documented error, in bounded memory and time, and nothing else.

Coverage guides it where atheris (``pip install atheris``) is found; ``--blind`` and its absence do without. A process a
reader, since what it looks for may end the interpreter. What was found is kept in ``--keep`` and fails the campaign.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fuzzing
import fuzzreaders

from campaigns.log import Log

TESTS = Path(fuzzing.__file__).resolve().parent
#: What libFuzzer says by its exit status, where not the input but the process failed.
STATUS = {70: "a hang", 71: "too much memory", 77: "a crash of the interpreter"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this campaign."""
    parser.add_argument("--seconds", type=float, default=600, help="for each reader (default: 600)")
    parser.add_argument("--planted-seconds", type=float, default=40, help="for each planted bug (default: 40)")
    parser.add_argument("--readers", nargs="*", default=sorted(fuzzreaders.READERS), help="only these")
    parser.add_argument("--width", type=int, default=1, help="readers side by side (default: 1)")
    parser.add_argument("--blind", action="store_true", help="do without atheris")
    parser.add_argument("--keep", type=Path, help="where what was found is kept (default: a new temporary folder)")
    parser.add_argument("--grow-corpus", action="store_true", help="keep a minimised corpus in tests/corpus")


def run(args: argparse.Namespace, log: Log) -> int:
    """Look for the planted bugs, then for others; 1 where one was not found, or another was."""
    top = args.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    failed = 0
    if not args.no_planted:
        for number, (bug, planted) in enumerate(fuzzreaders.PLANTED.items()):
            if planted.reader in args.readers:
                found = _fuzz(planted.reader, args.planted_seconds, args, top / f"planted-{number}", f"--plant={bug}")
                failed += not log.planted(f"{planted.reader}: {bug}", "; ".join(found))
    if args.only_planted:
        return int(failed > 0)
    with ThreadPoolExecutor(args.width) as pool:
        all_found = list(pool.map(lambda name: _fuzz(name, args.seconds, args, top / name), args.readers))
    for name, found in zip(args.readers, all_found, strict=True):
        folder = top / name
        counts = json.loads((folder / "counts.json").read_text())
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()))
        engine = (folder / "engine.txt").read_text()
        log.say(f"{name} ({engine}, {args.seconds:.0f} s, seed {args.seed}): {sum(counts.values()):,} inputs: {told}")
        for each in found:
            log.say(f"  FOUND {each}")
        failed += len(found)
        if args.grow_corpus:
            log.say(f"  {_grow(name, folder)} inputs in the corpus")
    if failed:
        log.say(f"kept in {top}")
    return int(failed > 0)


def _fuzz(name: str, seconds: float, args: argparse.Namespace, folder: Path, *options: str) -> list[str]:
    """Fuzz one reader for some seconds, anew after a crash; what was found, each with the input's file."""
    folder.mkdir(parents=True)
    planted = bool(options)
    options += ("--blind",) * args.blind
    stop = time.monotonic() + seconds
    found: list[str] = []
    for attempt in range(10):
        left = stop - time.monotonic()
        if left < 1 or (found and planted):
            break
        command = [sys.executable, "-m", "fuzzing", name, str(int(left) + 1), str(args.seed + attempt), str(folder)]
        with (folder / f"said-{attempt}.txt").open("wb") as said:
            environment = {
                **os.environ,
                "TMPDIR": str(folder),
                "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}",
            }
            process = subprocess.Popen(
                [*command, *options], cwd=TESTS, stdout=said, stderr=subprocess.STDOUT, env=environment
            )
            status = _wait(process, folder, planted)
        crashes = sorted(set(folder.glob("crash-*")) - {Path(each.rpartition(" ")[2]) for each in found})
        if status not in (0, None):
            kept = crashes[0] if crashes else folder / f"said-{attempt}.txt"
            found.append(f"{STATUS.get(status, f'exit status {status}')}, {kept}")
        found += [
            f"{path.read_text().strip().splitlines()[-1][:300]}, {path}"
            for path in sorted(folder.glob("found-*.txt"))
            if not any(each.endswith(str(path)) for each in found)
        ]
    return found


def _wait(process: subprocess.Popen[bytes], folder: Path, planted: bool) -> int | None:
    """Wait until it ends; with a planted bug until that is found (None)."""
    while process.poll() is None:
        time.sleep(0.2)
        if planted and any(folder.glob("found-*.txt")):
            process.kill()
            process.wait()
            return None
    return process.returncode


# ------------------------------------------------------------------------------------------------ the corpus

#: Inputs of a reader that are kept, and bytes of each at most: the shortest one of each way through the code.
KEPT, KEPT_BYTES = 40, 6000


def _grow(name: str, folder: Path) -> int:
    """Keep those of the inputs met that go new ways through the code, the shortest first; how many are kept."""
    inputs = [path.read_bytes() for path in (folder / "corpus").glob("*")]
    inputs = sorted((each for each in inputs if len(each) <= KEPT_BYTES), key=lambda each: (len(each), each))
    reader = fuzzreaders.READERS[name](Path(tempfile.mkdtemp(prefix="grow-")))
    random.Random(1).shuffle(inputs)
    inputs = sorted(inputs[:3000], key=len)
    seen: set[tuple[str, int]] = set()
    kept: list[bytes] = []
    for data in inputs:
        lines = _lines_of(reader, data)
        if not lines <= seen and len(kept) < KEPT:
            seen |= lines
            kept.append(data)
    target = fuzzing.CORPUS / name
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*"):
        old.unlink()
    for number, data in enumerate(kept):
        (target / f"{number:02d}").write_bytes(data)
    return len(kept)


def _lines_of(reader: object, data: bytes) -> set[tuple[str, int]]:
    """The lines of the library that this input reaches on this thread."""
    lines: set[tuple[str, int]] = set()

    def trace(frame: object, event: str, argument: object) -> object:
        code = frame.f_code  # type: ignore[attr-defined]
        if "/dreamlake/" not in code.co_filename:
            return None
        lines.add((code.co_filename, frame.f_lineno))  # type: ignore[attr-defined]
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        fuzzing.Run(reader).one(data)
    finally:
        sys.settrace(before)
    return lines
