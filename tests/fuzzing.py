"""Feeds mutated files to a reader of `fuzzreaders`, guided by coverage if atheris is installed, and keeps what fails.

``python -m fuzzing READER SECONDS SEED FOLDER`` is one run in a process of its own: a fault may end the interpreter.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import importlib
import json
import logging
import random
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
#: What one input may take: bytes of address space of the whole process, and seconds.
MEMORY, SECONDS = 6 << 30, 30
LONGEST = 1 << 16


def seeds(reader: Any) -> list[bytes]:
    """What a reader's fuzzing begins with: sound files, and the corpus of earlier runs."""
    kept = sorted((CORPUS / reader.name).glob("*"))
    return [*reader.seeds(), *(path.read_bytes() for path in kept)]


class Run:
    """Counts what comes of the inputs, and keeps one of each kind that fails.

    Parameters
    ----------
    reader
        Out of `fuzzreaders`.
    folder
        Where the inputs that fail and the counts go; None: nowhere.
    """

    def __init__(self, reader: Any, folder: Path | None = None) -> None:
        self.reader = reader
        self.folder = folder
        self.counts: dict[str, int] = {}
        self.findings: dict[str, bytes] = {}
        self._told = 0.0

    def one(self, data: bytes) -> str:
        """Let the reader read one input; what came of it."""
        try:
            outcome = self.reader.read(bytes(data))
        except Exception as error:
            outcome = self._found(data, error)
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        if self.folder is not None and time.monotonic() > self._told + 1:
            self._told = time.monotonic()
            (self.folder / "counts.json").write_text(json.dumps(self.counts))
        return outcome

    def _found(self, data: bytes, error: Exception) -> str:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
        where = " < ".join(f"{Path(f.filename).name}:{f.name}" for f in reversed(frames[-4:]))
        kind = f"{type(error).__name__} in {where}"
        if kind not in self.findings:
            self.findings[kind] = data
            if self.folder is not None:
                name = hashlib.sha256(kind.encode()).hexdigest()[:12]
                (self.folder / f"found-{name}").write_bytes(data)
                (self.folder / f"found-{name}.txt").write_text("".join(traceback.format_exception(error))[-6000:])
        return "FOUND"


def mutate_blindly(reader: Any, seed: int, stop: float, run: Run, most: int | None = None) -> int:
    """Mutate without a look at coverage until `stop` (of time.monotonic), or so many times; how many times it was."""
    rnd = random.Random(seed)
    sound, pool = reader.seeds(), seeds(reader)
    done = 0
    while time.monotonic() < stop and (most is None or done < most):
        data = rnd.choice(sound if rnd.random() < 0.5 else pool)
        for _ in range(rnd.choice([1, 1, 1, 2, 4])):
            data = reader.mutate(data, rnd, flip)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        outcome = run.one(data[:LONGEST])
        done += 1
        if outcome == "values" and len(pool) < 1000 and rnd.random() < 0.1:
            pool.append(data[:LONGEST])
    faulthandler.cancel_dump_traceback_later()
    return done


def flip(data: bytes, rnd: random.Random) -> bytes:
    """Change a few bytes, as fuzzers do."""
    changed = bytearray(data)
    for _ in range(rnd.choice([1, 1, 2, 8])):
        at = rnd.randrange(len(changed) + 1)
        size = rnd.choice([1, 1, 2, 4, 16, 64])
        match rnd.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rnd.randrange(8)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = rnd.randbytes(size)
            case 3:
                changed[at:at] = changed[at : at + size] * rnd.choice([1, 2, 50])
            case 4:
                other = rnd.randrange(len(changed) + 1)
                changed[at : at + size] = changed[other : other + size]
            case _:
                changed[at : at + size] = (
                    rnd.choice([b"\xff", b"\x00", b"\x80", b"\x7f", b"9", b"-", b"[", b'"']) * size
                )
    return bytes(changed)


# ------------------------------------------------------------------------------------------------ a run of its own


def main(name: str, seconds: str, seed: str, folder: str, *options: str) -> None:
    """Fuzz one reader for some seconds; ``--plant=BUG`` patches the library first, ``--blind`` does without atheris."""
    where = Path(folder)
    atheris = None
    with contextlib.suppress(ImportError):
        if "--blind" not in options:
            atheris = importlib.import_module("atheris")
    if atheris is not None:
        atheris.instrument_imports(include=["dreamlake"]).__enter__()  # for good: some is imported later
    readers = importlib.import_module("fuzzreaders")
    for option in options:
        if option.startswith("--plant="):
            readers.PLANTED[option.removeprefix("--plant=")].plant()
    readers.limit_memory()
    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    reader = readers.READERS[name](where)
    run = Run(reader, where)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    stop = time.monotonic() + float(seconds)
    (where / "engine.txt").write_text("blind" if atheris is None else "atheris")
    if atheris is None:
        mutate_blindly(reader, int(seed), stop, run)
        (where / "counts.json").write_text(json.dumps(run.counts))
        return
    corpus = where / "corpus"
    corpus.mkdir(exist_ok=True)
    sound = reader.seeds()
    for data in seeds(reader):
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rnd = random.Random(seed)
        # Of what covers something new most is damaged at once: half begins with what is sound.
        data = rnd.choice(sound) if rnd.random() < 0.5 else data
        blindly = rnd.random() < 0.5
        mutated: bytes = reader.mutate(data, rnd, flip if blindly else lambda part, _: atheris.Mutate(part, most))
        return mutated[:most]

    limits = [f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={SECONDS}", "-rss_limit_mb=4096"]
    quiet = [
        "-mutate_depth=1",
        f"-artifact_prefix={where}/crash-",
        "-verbosity=0",
        f"-max_len={LONGEST}",
        "-print_final_stats=1",
    ]

    def one(data: bytes) -> None:
        run.one(data)

    atheris.Setup([sys.argv[0], *limits, *quiet, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    main(*sys.argv[1:])
