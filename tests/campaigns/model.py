"""Random lives of a session (crashes, faults, forks, two processes, a replica) against a plain Python list.

The machine is that of ``test_stateful.py``: each step is followed by a comparison of every point, value by value. A
failure is shrunk and printed as the steps that lead to it.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import onelife
import pytest
import test_stateful
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

import dreamlake.engine.ondisk as ondisk
import dreamlake.engine.replica.trim as trim
import dreamlake.format.extjson as extjson
import dreamlake.storage.local as local
from campaigns.log import Log
from dreamlake.engine.ondisk import TrackOnDisk
from dreamlake.engine.pending import Pending
from dreamlake.engine.replica.sending import Foreign, Sender
from dreamlake.engine.replica.tracks import TrackSender
from dreamlake.engine.sessionlock import Counter as Written
from dreamlake.engine.sessionlock import SessionLock
from dreamlake.engine.sorting import SegmentAway, Sorter
from dreamlake.format import layout, live

#: Lives of one round, each round with a seed of its own; and steps of a life.
LIVES, STEPS = 40, 50
#: Lives in which a planted bug must show.
MOST = 1500

#: Rounds after which a process ends, since a long one grows.
ROUNDS = 10

Plant = Callable[[pytest.MonkeyPatch], None]
#: Its number, how it failed, and the steps taken and what came of them.
Round = tuple[int, str, Counter[str], Counter[str]]


# -- planted bugs ----------------------------------------------------------------------------------------------------


def _rest_after_a_roll_stays_pending(patch: pytest.MonkeyPatch) -> None:
    real = TrackOnDisk.write
    patch.setattr(TrackOnDisk, "write", lambda disk, rows, whole_segments_only, last: real(disk, rows, True, last))


def _stale_after_anothers_roll(patch: pytest.MonkeyPatch) -> None:
    real = SessionLock._notice

    def notice(lock: SessionLock, data: bytes) -> Written:
        full = lock.full_epoch
        try:
            return real(lock, data)
        finally:
            if lock._seen is not None:
                lock.full_epoch = full

    patch.setattr(SessionLock, "_notice", notice)


def _emptied_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    real = ondisk.roll.write_all

    def write_all(folder: str, *args: Any) -> None:
        local.atomic_write(f"{folder}/{layout.HOT_FILE}", b"", fsync=True)
        real(folder, *args)

    patch.setattr(ondisk.roll, "write_all", write_all)


def _highest_index_instead_of_the_lowest(patch: pytest.MonkeyPatch) -> None:
    real = TrackOnDisk.find_in_hot

    def find_in_hot(disk: TrackOnDisk, ts: float) -> int | None:
        if real(disk, ts) is None:
            return None
        found = [ts for batch in disk.pieces for ts in ondisk.schema.timestamps(batch.data)]
        return disk.start + max(place for place, each in enumerate(found) if each == ts)

    patch.setattr(TrackOnDisk, "find_in_hot", find_in_hot)


def _half_written_lines_stay_pending(patch: pytest.MonkeyPatch) -> None:
    real = TrackOnDisk._cut_torn_tail_quietly

    def take_over(disk: TrackOnDisk, rows: Any, payload: bytes, written: int) -> None:
        disk.size += payload.rfind(b"\n", 0, written) + 1

    def cut(disk: TrackOnDisk, size: int) -> None:
        real(disk, size)
        disk.forget()

    patch.setattr(TrackOnDisk, "_take_over", take_over)
    patch.setattr(TrackOnDisk, "_cut_torn_tail_quietly", cut)


def _torn_line_kept(patch: pytest.MonkeyPatch) -> None:
    def cut_torn_tail(disk: TrackOnDisk, size: int) -> None:
        disk.size = max(disk.size, size)

    patch.setattr(TrackOnDisk, "_cut_torn_tail", cut_torn_tail)
    patch.setattr(TrackOnDisk, "_cut_torn_tail_quietly", lambda disk, size: disk.forget())


def _child_keeps_what_is_pending(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pending, "clear", lambda pending: None)


def _one_infinity_for_both(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(extjson, "_nonfinite", lambda value: "NaN" if value != value else "Infinity")


def _late_field_takes_the_place_of_others(patch: pytest.MonkeyPatch) -> None:
    real = ondisk.with_changes

    def with_changes(points: list[dict[str, Any]], start: int, changes: Any) -> list[dict[str, Any]]:
        bare = [{"_ts": p["_ts"]} if start + place in changes else p for place, p in enumerate(points)]
        return real(bare, start, changes)

    patch.setattr(ondisk, "with_changes", with_changes)


def _timestamps_not_kept(patch: pytest.MonkeyPatch) -> None:
    real = SessionLock._raise
    patch.setattr(SessionLock, "_raise", lambda lock, found, last_ts: real(lock, found, found.last_ts))
    patch.setattr(SessionLock, "cover", lambda lock, last_ts: None)


def _hot_object_first(patch: pytest.MonkeyPatch) -> None:
    real = TrackSender._send_segments

    def send_segments(sender: TrackSender, names: Any) -> None:
        hot = sender._here.look().hot
        if hot is not None:
            sender._replace(layout.HOT_FILE, hot, sender.known.hot)
        real(sender, names)

    patch.setattr(TrackSender, "_send_segments", send_segments)


def _lost_reply_taken_for_another_machine(patch: pytest.MonkeyPatch) -> None:
    def understand(sender: Sender, path: str, sent: Any, check: Any) -> None:
        raise Foreign(*sender.remote.read(path))

    patch.setattr(Sender, "understand", understand)
    patch.setattr(TrackSender, "_is_all_here", lambda sender: False)


def _dropped_before_it_is_sent(patch: pytest.MonkeyPatch) -> None:
    def droppable(folder: str, known: Any, held_back: int) -> Any:
        for below in sorted(known.tracks):
            here = live.parse_listing(trim._listdir(f"{folder}/{below}"))
            if here[:-1]:
                yield below, list(here[:-1])

    patch.setattr(trim, "droppable", droppable)


def _late_field_of_an_away_point_makes_a_new_one(patch: pytest.MonkeyPatch) -> None:
    real = Sorter._merge

    def merge(sorter: Sorter, ts: float, fields: dict[str, Any]) -> int | None:
        try:
            sorter.disk.find_in_segments(ts)
        except SegmentAway:
            return sorter._add_point(ts, True, fields)
        return real(sorter, ts, fields)

    patch.setattr(Sorter, "_merge", merge)


def _parts_still_count_for_who_merged_them(patch: pytest.MonkeyPatch) -> None:
    real = TrackOnDisk.replace_parts

    def replace_parts(disk: TrackOnDisk, *args: Any, **options: Any) -> Any:
        before = disk.live, disk.bounds
        done = real(disk, *args, **options)
        disk.live, disk.bounds = before
        return done

    patch.setattr(TrackOnDisk, "replace_parts", replace_parts)


#: Real ways to get it wrong: in which kind of life each shows, and how it is planted.
PLANTED: dict[str, tuple[str, Plant]] = {
    "a flush that rolls returns with the rest pending": ("local", _rest_after_a_roll_stays_pending),
    "what was known stays, though another writer has rolled": ("local", _stale_after_anothers_roll),
    "the hot file is emptied before the segment's commit": ("local", _emptied_before_the_commit),
    "of two points with one timestamp the later gets the field": ("local", _highest_index_instead_of_the_lowest),
    "after a short write the whole lines are written again": ("local", _half_written_lines_stay_pending),
    "a torn line is written behind": ("local", _torn_line_kept),
    "a forked child writes what was pending": ("local", _child_keeps_what_is_pending),
    "-Infinity is written as Infinity": ("local", _one_infinity_for_both),
    "a late field takes the place of the others": ("local", _late_field_takes_the_place_of_others),
    "the lock file does not say which timestamps are drawn": ("local", _timestamps_not_kept),
    "merged segments still count for who merged them": ("local", _parts_still_count_for_who_merged_them),
    "the hot object is sent before the segments": ("replica", _hot_object_first),
    "a lost reply is taken for another machine": ("replica", _lost_reply_taken_for_another_machine),
    "segments are dropped before they are sent": ("temporary", _dropped_before_it_is_sent),
    "a late field of a point that is away makes a new point": (
        "temporary",
        _late_field_of_an_away_point_makes_a_new_one,
    ),
}


def live_through(number: int, most: int, shrink: bool) -> str:
    """So many lives, drawn from this seed; returns how the first failure came about, or nothing."""
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    chosen = settings(
        max_examples=most,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=phases,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(seed(number)(test_stateful.Lives), settings=chosen)
    except Exception:
        return traceback.format_exc()
    return ""


def find_planted(kind: str, plant: Plant, number: int, most: int = MOST) -> str:
    """What found a planted bug, or nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_stateful, "only_kind", kind)
        plant(patch)
        told = live_through(number, most, shrink=False)
    word = _last_word(told)
    return "" if word.startswith(("TypeError", "AttributeError", "NameError")) else word  # a mistake of the planting


def _last_word(told: str) -> str:
    """The error in a traceback, in a line."""
    lines = [line for line in told.splitlines() if line and not line.startswith((" ", "Traceback"))]
    errors = [line for line in lines if "Error" in line.partition(":")[0]]
    return errors[-1] if errors else told.strip()[:160]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say how long it runs."""
    parser.add_argument("--processes", type=int, default=2, help="that live side by side (default: 2)")
    parser.add_argument("--steps", type=int, default=100_000, help="to take at least (default: 100,000)")


def run(args: argparse.Namespace, log: Log) -> int:
    """Find the planted bugs, then live until the steps are taken; 1 when a bug was not found, or something else was."""
    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    good = True
    if not args.no_planted:
        for name, (kind, plant) in PLANTED.items():
            log.note(name)
            good &= log.planted(name, find_planted(kind, plant, args.seed))
    if args.only_planted:
        return 0 if good else 1
    return max(_live(args, log), 0 if good else 1)


def _live(args: argparse.Namespace, log: Log) -> int:
    steps: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    done = begun = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, context, max_tasks_per_child=ROUNDS) as pool:
        running: set[Future[Round]] = set()
        while steps.total() < args.steps:
            while len(running) < args.processes:
                running.add(pool.submit(round_of, args.seed * 10_000 + begun))
                begun += 1
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for number, told, more_steps, more_counts in [each.result() for each in ended]:
                if told:
                    log.say(f"round {number % 10_000} of seed {args.seed}:\n{told}")
                    return 1
                done += 1
                steps += more_steps
                counts += more_counts
                log.note(f"{done} rounds, {steps.total()} steps")
    log.say(f"seed {args.seed}: {done} rounds of {LIVES} lives, {steps.total()} steps:")
    for name, count in (*sorted(steps.items()), *sorted(counts.items())):
        log.say(f"  {name}: {count}")
    return 0


def round_of(number: int) -> Round:
    """One round, in a process of its own."""
    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    onelife.steps.clear()
    onelife.counts.clear()
    told = live_through(number, LIVES, shrink=True)
    return number, told, onelife.steps, onelife.counts
