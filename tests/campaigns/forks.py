"""Forks at random moments of the first calls of another thread: no child may hang at a lock that it inherited.

``python -m campaigns forks --minutes 10``; what a trial is stands in ``tests/forkwork.py``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from forkwork import PLANTED, SPAN

from campaigns.log import ROOT, Log

#: Processes that make trials, of each mode, side by side.
WIDTH = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what else may be asked of this campaign."""
    parser.add_argument("--minutes", type=float, default=10.0, help="of trials (default: 10)")


def run(args: argparse.Namespace, log: Log) -> int:
    """Look for the planted bugs, then make trials; 0 when nothing was wrong but what was planted."""
    failed = 0
    with tempfile.TemporaryDirectory() as root:
        if not args.no_planted:
            for name in PLANTED:
                found = _side_by_side(Path(root), 120.0, args.seed, name)
                failed += not log.planted(name, next(iter(sum((each["wrong"] for each in found), Counter())), ""))
        if not args.only_planted:
            found = _side_by_side(Path(root), 60 * args.minutes, args.seed)
            for mode, said in zip([mode for mode in SPAN for _ in range(WIDTH)], found, strict=True):
                wrong = ", ".join(f"{what} ({count})" for what, count in said["wrong"].items())
                log.say(f"{mode}: {said['trials']} forks; {wrong or '0 wrong'}")
                failed += bool(wrong)
    return int(failed > 0)


def _side_by_side(root: Path, seconds: float, seed: int, planted: str = "") -> list[dict[str, Any]]:
    """What each process said, those of the first mode first."""
    command = [sys.executable, str(ROOT / "tests" / "forkwork.py")]
    running = [
        subprocess.Popen(
            [
                *command,
                str(root / f"{mode}-{number}"),
                str(seconds),
                str(seed + number),
                mode,
                *filter(None, [planted]),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )
        for mode in SPAN
        for number in range(WIDTH)
    ]
    found = []
    for process in running:
        said = json.loads(process.communicate()[0])
        found.append({"trials": said["trials"], "wrong": Counter(said["wrong"])})
    return found
