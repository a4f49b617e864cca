"""Random lives of one session on several machines with one replica: what a machine was told to be there stays there.

What a life is, and what is wrong, stands in ``tests/rivals.py``. A failure is printed as the fewest steps that lead to
it.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager

import pytest
import rivals

import dreamlake.engine.trackfile as trackfile
from campaigns.log import Log
from dreamlake.engine.replica.check import Pair, Verdict
from dreamlake.engine.replica.tracks import TrackSender

#: Lives of one round, which one process lives.
LIVES = 50
#: Lives in which a planted bug must show.
MOST = 3000

Plant = Callable[[pytest.MonkeyPatch], None]


# -- planted bugs ----------------------------------------------------------------------------------------------------


def _no_look_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TrackSender, "_check_beside", lambda sender, names, lines: None)


def _no_look_after(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TrackSender, "_are_later_forms", lambda sender, names, end: False)
    patch.setattr(TrackSender, "_was_guarded", lambda sender, version: True)


def _not_taken_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TrackSender, "_take_back", lambda sender: None)


def _replaced_all_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TrackSender, "_is_all_here", lambda sender: True)


def _nothing_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pair, "loses_nothing", lambda pair: True)


def _mine_goes_on(patch: pytest.MonkeyPatch) -> None:
    real = Pair.verdict
    patch.setattr(Pair, "verdict", lambda pair: Verdict.MINE if real(pair) is Verdict.CLASH else real(pair))


def _no_id(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trackfile, "make_id", lambda: "")


PLANTED: dict[str, Plant] = {
    "the replica is not looked at before segments are sent": _no_look_before,
    "nor after a later form of some was sent": _no_look_after,
    "segments that hide what another machine sent meanwhile stay": _not_taken_back,
    "another machine's object is replaced all the same": _replaced_all_the_same,
    "a merge hides the fields of another machine": _nothing_is_lost,
    "of two sides that both have points of their own this one goes on": _mine_goes_on,
    "metadata.json has no id": _no_id,
}


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("dreamlake")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def find_planted(plant: Plant, seed: int, most: int = MOST) -> str:
    """What found a planted bug, or nothing."""
    with _quiet(), pytest.MonkeyPatch.context() as patch:
        plant(patch)
        for number in range(seed, seed + most):
            told = rivals.live(rivals.draw_life(number))
            if told:
                word = told.strip().rpartition("\n")[2]
                return "" if word.startswith(("TypeError", "AttributeError", "NameError")) else word
    return ""


# -- the campaign ----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say how long it runs."""
    parser.add_argument("--processes", type=int, default=2, help="that live side by side (default: 2)")
    parser.add_argument("--lives", type=int, default=3000, help="to live at least (default: 3,000)")


def run(args: argparse.Namespace, log: Log) -> int:
    """Find the planted bugs, then live; 1 when a bug was not found, or something else was."""
    good = True
    if not args.no_planted:
        for name, plant in PLANTED.items():
            log.note(name)
            good &= log.planted(name, find_planted(plant, args.seed * 1_000_000))
    if args.only_planted:
        return 0 if good else 1
    return max(_live(args, log), 0 if good else 1)


def _live(args: argparse.Namespace, log: Log) -> int:
    steps: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    firsts = iter(range(args.seed * 1_000_000, args.seed * 1_000_000 + args.lives, LIVES))
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn"), max_tasks_per_child=20) as pool:
        running = {pool.submit(round_of, first) for first, _ in zip(firsts, range(args.processes), strict=False)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for told, more_steps, more_counts in [each.result() for each in ended]:
                if told:
                    log.say(told)
                    return 1
                steps += more_steps
                counts += more_counts
                running |= {pool.submit(round_of, first) for first, _ in zip(firsts, range(1), strict=False)}
            log.note(f"{steps.total()} steps, {counts['syncs acknowledged']} syncs acknowledged")
    log.say(f"seed {args.seed}: {args.lives} lives, {steps.total()} steps:")
    for name, count in (*sorted(steps.items()), *sorted(counts.items())):
        log.say(f"  {name}: {count}")
    return 0


def round_of(first: int) -> tuple[str, Counter[str], Counter[str]]:
    """Some lives, drawn from this seed on; how the first that failed did, and the steps taken and what came of them."""
    rivals.steps.clear()
    rivals.counts.clear()
    with _quiet():
        for number in range(first, first + LIVES):
            drawn = rivals.draw_life(number)
            if rivals.live(drawn):
                fewer, told = rivals.shortened(drawn)
                lines = "\n".join(f"  {name} {given}" for name, given in fewer)
                return f"life {number}:\n{lines}\n{told or 'it does not fail any more'}", rivals.steps, rivals.counts
    return "", rivals.steps, rivals.counts
