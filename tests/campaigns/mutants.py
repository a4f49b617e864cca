"""Takes away, one at a time, what the promises rest on, and fails if the tests do not notice.

The test that noticed in the run whose log is kept is asked first, then the tests that look at the file, then all.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from mutations import EQUIVALENT, Mutant, by_hand, by_rule

from campaigns.log import LOGS, ROOT, Log

#: Tests that look at a file first, the likeliest before the others; then all the tests there are.
FIRST: list[tuple[str, list[str]]] = [
    ("storage/unchanged", ["test_unchanged.py"]),
    ("storage/", ["test_local.py", "test_lock.py", "test_powerloss.py", "test_files.py", "test_crash.py",
                  "test_disk.py"]),
    ("format/point", ["test_point.py", "test_batch.py", "test_track.py"]),
    ("format/f", ["test_point.py", "test_batch.py", "test_frames.py"]),
    ("format/hot", ["test_hot.py", "test_strangers.py"]),
    ("format/live", ["test_live.py", "test_reader.py"]),
    ("format/", ["test_segment.py", "test_damage.py", "test_strangers.py", "test_compaction.py"]),
    ("engine/replica/state", ["test_replica_state.py", "test_replicator.py", "test_powerloss.py",
                              "test_replica_session.py", "test_replica_crash.py", "test_cli_sync.py"]),
    ("engine/replica/", ["test_powerloss.py", "test_powerloss_replica.py", "test_replica_push.py",
                         "test_replica_state.py", "test_replicator.py", "test_replica_pull.py",
                         "test_replica_session.py", "test_replica_crash.py", "test_cli_sync.py"]),
    ("engine/away", ["test_away.py", "test_powerloss.py", "test_overlay.py", "test_replica_crash.py"]),
    ("engine/late", ["test_away.py", "test_powerloss.py", "test_overlay.py", "test_replica_session.py"]),
    ("engine/hotpath", ["test_track.py", "test_pending.py", "test_session.py"]),
    ("engine/writer", ["test_fork.py", "test_processes.py", "test_logs.py", "test_disk.py", "test_powerloss.py"]),
    ("engine/batch", ["test_batch.py", "test_frames.py"]),
    ("engine/logfile", ["test_logs.py", "test_powerloss.py", "test_disk.py", "test_crash.py"]),
    ("engine/reader", ["test_reader.py", "test_at_once.py", "test_unchanged.py", "test_processes.py"]),
    ("engine/segments", ["test_reader.py", "test_damage.py"]),
    ("parameters", ["test_parameters.py", "test_powerloss_replica.py", "test_crash.py"]),
    ("engine/", ["test_processes.py", "test_merging.py", "test_crash.py", "test_disk.py", "test_compaction.py",
                 "test_away.py", "test_files.py", "test_powerloss.py", "test_stateful.py"]),
]  # fmt: skip
#: A test run that takes longer than this, in seconds, hangs.
PATIENCE = 600.0
#: Not part of a check of the library's code: pages, style, and these mutants themselves.
LEFT_OUT = ["test_docs.py", "test_readme.py", "test_tree.py", "test_mutations.py", "test_demo.py"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", metavar="TEXT", action="append", default=[],
        help="mutants whose line in the table holds this; again for more",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at once (default: 2)")
    parser.add_argument("--list", action="store_true", help="name the mutants and try none")
    parser.add_argument("--quick", action="store_true", help="try only the tests that look at the file first")


def run(args: argparse.Namespace, log: Log) -> int:
    mutants = [m for m in [*by_hand(ROOT), *by_rule(ROOT)] if _wanted(args.only, m)]
    if args.list:
        for mutant in mutants:
            log.say(f"{mutant.kind:9} {_row(mutant)}")
        return 0
    noticed = _noticed()
    todo: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        todo.put(mutant)
    killed: Counter[str] = Counter()
    tried = 0
    survivors: list[str] = []
    lock = threading.Lock()

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="dreamlake-mutants-") as folder:
            tree = _copy(Path(folder))
            while True:
                try:
                    mutant = todo.get_nowait()
                except queue.Empty:
                    return
                begun = time.monotonic()
                found = _try(tree, mutant, noticed.get(_name(mutant), ""), args.quick)
                with lock:
                    nonlocal tried
                    tried += 1
                    killed[mutant.kind] += bool(found)
                    why = EQUIVALENT.get((mutant.file, mutant.said))
                    if not found and why is None:
                        survivors.append(_row(mutant))
                    found = found or (f"the same program: {why}" if why else "SURVIVED")
                    log.say(f"{mutant.kind:9} {_row(mutant)}: {found}")
                    log.note(f"{time.monotonic() - begun:.0f} s, {todo.qsize()} left")

    if not args.no_planted and not _passes_without(log):
        return 1
    threads = [threading.Thread(target=work) for _ in range(args.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.say(f"killed: {sum(killed.values())} of {len(mutants)} ({', '.join(f'{k} {n}' for k, n in killed.items())})")
    for survivor in survivors:
        log.say(f"survivor: {survivor}")
    if tried < len(mutants):
        log.say(f"only {tried} of {len(mutants)} were tried: something is wrong with this campaign")
    return bool(survivors) or tried < len(mutants)


def _wanted(texts: list[str], mutant: Mutant) -> bool:
    row = f"{mutant.kind} {_row(mutant)}"
    return not texts or any(text in row for text in texts)


def _name(mutant: Mutant) -> tuple[str, str]:
    """The file and what is done to it: what stays when lines move."""
    return mutant.file, " ".join(mutant.said.split())[:140]


def _row(mutant: Mutant) -> str:
    file, said = _name(mutant)
    return f"{file}:{mutant.line}: {said}"


def _noticed() -> dict[tuple[str, str], str]:
    """The test that noticed each mutant in the run whose log is kept, without its parameters.

    Mutants of one file that read alike share a test; the other is then found by the tests that come after it.
    """
    try:
        lines = (LOGS / "mutants.txt").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found = (re.fullmatch(r"\w+ +(\S+?):\d+: (.*): (test_\w+\.py::[\w:]+).*", line) for line in lines)
    return {(match[1], match[2]): match[3] for match in found if match}


def _copy(folder: Path) -> Path:
    tree = folder / "tree"
    shutil.copytree(
        ROOT,
        tree,
        ignore=shutil.ignore_patterns(".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".venv"),
        symlinks=True,
    )
    return tree


def _passes_without(log: Log) -> bool:
    """Whether the tests pass where nothing is changed: otherwise every mutant would seem to be found."""
    with tempfile.TemporaryDirectory(prefix="dreamlake-mutants-") as folder:
        tree = _copy(Path(folder))
        found = _run(tree, _rest(tree, []), PATIENCE * 4)
    log.say(f"without a mutant: {found or 'all tests pass'}")
    return not found


def _try(tree: Path, mutant: Mutant, noticed: str, quick: bool) -> str:
    """The test that noticed; empty when none did."""
    path = tree / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    try:
        first = next((tests for place, tests in FIRST if mutant.file.startswith(f"dreamlake/{place}")), [])
        for name in [noticed, *first]:
            there = (tree / "tests" / name.partition("::")[0]).is_file()
            if there and (found := _run(tree, [f"tests/{name}"], PATIENCE)):
                return found
        return "" if quick else _run(tree, _rest(tree, first), PATIENCE * 4)
    finally:
        path.write_text(before, encoding="utf-8")


def _rest(tree: Path, without: list[str]) -> list[str]:
    return sorted(
        f"tests/{path.name}"
        for path in (tree / "tests").glob("test_*.py")
        if path.name not in without and path.name not in LEFT_OUT
    )


def _run(tree: Path, tests: list[str], patience: float) -> str:
    """Run tests until the first that fails, and return its name; empty when all pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", *tests]
    own = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_PROFILE": "mutants"}
    with subprocess.Popen(
        command, cwd=tree, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"{tests[0]} never ended"
    if process.returncode == 0:
        return ""
    if "::" in tests[0] and process.returncode == pytest.ExitCode.USAGE_ERROR:
        return ""  # the kept log names a test that is gone
    if process.returncode in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"the tests were not run at all\n{out}")
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", out, re.MULTILINE)
    return failed.group(1) if failed else f"{tests[0]} ended with {process.returncode}"
