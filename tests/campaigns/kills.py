"""kill -9 at any moment, again and again: what was acknowledged is there once, on the disk and on the replica.

A *history* is one session that is written and killed some ten times, with other options, threads and processes each
time: killed by the clock, at some call to the disk or to the replica, in the middle of a write. What each process tries
and what is acknowledged to it goes through a pipe to the process that looks on, which reads all of it after each death.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import deaths
import planted
from actors import Actor, Direct, finish
from lives import TRACKS, Life, draw_plan, start, watch
from promises import SESSION, Promises, Teller

from campaigns.log import Log
from dreamlake import Lake
from dreamlake.engine.overlay import OverlayStore
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore

#: Kinds of histories, and how often each is drawn.
KINDS = {"one process": 9, "two processes": 5, "replica": 4, "keeps nothing": 2}
#: Failures after which the campaign ends.
ENOUGH = 3


# -- histories --------------------------------------------------------------------------------------------------------


class Lost(Exception):
    """What was promised is not so; the message says where it can be looked at."""


class History:
    """One session from its first process to its last.

    Parameters
    ----------
    folder
        Where it happens.
    kind
        One of `KINDS`.
    draw
        Of all that is drawn.
    plant
        Called in each process before it begins: spoils the library.
    death
        The only way in which its processes die; any, if not told.
    """

    def __init__(
        self, folder: str, kind: str, draw: random.Random, plant: Callable[[], None] = lambda: None, death: str = ""
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.draw = draw
        self.plant = plant
        self.death = death
        self.promises = Promises()
        self.promises.one_process = kind != "two processes"
        self.promises.one_machine = kind != "keeps nothing"
        self.promises.may_wait = kind == "keeps nothing"
        self.counts: Counter[str] = Counter()
        #: What each cycle was.
        self.told: list[str] = []

    def cycle(self) -> None:
        """Let one or two processes live and die, and look at what they left. Raises Lost."""
        plans = [draw_plan(self.draw, self.kind, self.death) for _ in range(1 + (self.kind == "two processes"))]
        self.told.append("; ".join(f"{plan.death} {plan.when:.3g}, {plan.threads}, {plan.options}" for plan in plans))
        tempfile.tempdir = self.folder  # for the session that keeps nothing here
        first = self.promises.next_id + 1000
        known = {track: self.promises.targets(track) for track in TRACKS}
        started = []
        for place, plan in enumerate(plans):
            life = Life(self.folder, "ab"[place], plan, Teller(-1), first + place, len(plans), known)
            started.append((*start(life, self.plant), plan))
        for (status, lines), plan in zip(watch(started), plans, strict=True):
            self.promises.hear(lines)
            self.counts["killed"] += status == -signal.SIGKILL
            self.counts["ended"] += status == 0
            self.counts[f"by {plan.death}"] += status == -signal.SIGKILL
            if status not in (0, -signal.SIGKILL):
                raise Lost(f"a process ended with the status {status}")
        try:
            self.look()
        except Lost:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise Lost(f"{type(error).__name__}: {error} [{frame.name}:{frame.lineno}]") from error

    def look(self) -> None:
        """Hold both sides against what was promised; at times finish the upload, at times lose the disk."""
        actor = Actor(self.folder, Direct(self.promises), "n", 0)
        there = Lake(actor.url)
        if self.kind == "keeps nothing":
            self.promises.check(there, "there")
            for kept in sorted(Path(self.folder).glob("dreamlake-*/")):
                finish(actor, str(kept / SESSION))
                shutil.rmtree(kept)
                self.counts["uploads finished"] += 1
            self.promises.check(there, "there", whole=True)
            self.promises.settle(there)
            return
        if not self.promises.may_wait:
            self._look_here(actor)
        if self.kind != "replica":
            return
        self.promises.check(there, "there")
        if not self.promises.may_wait:
            self.promises.compare()
        if self.promises.may_wait or self.draw.random() < 0.4:
            finish(actor)
            self.counts["uploads finished"] += 1
            self._look_here(actor)
            self.promises.check(there, "there", whole=os.path.exists(f"{actor.session_folder}/session.json"))
        if self.draw.random() < 0.25:
            shutil.rmtree(actor.root, ignore_errors=True)
            self.promises.settle(there, moved=True)
            self.counts["disks lost"] += 1

    def _look_here(self, actor: Actor) -> None:
        lake = Lake(actor.root)
        store = RemoteStore(actor.url)
        if self.promises.may_wait:
            if not os.path.exists(f"{actor.session_folder}/session.json"):
                return  # it was not taken over yet
            lake._store = OverlayStore(LocalStore(actor.root), lambda: store)
        self.promises.check(lake, "here")
        self.promises.settle(lake)
        store.close()

    def count(self, into: Counter[str]) -> None:
        """Add up what there was."""
        into.update(self.counts)
        for op in self.promises.ops:
            into[f"{op.kind}s tried"] += 1
            into[f"{op.kind}s acknowledged"] += op.here or op.there
        for how, calls in self.promises.returned.items():
            into[f"{how} returned"] += calls


def live_through(history: History, cycles: int, counts: Counter[str]) -> str:
    """Live through a history; returns what went wrong, with all that is needed to look at it, or nothing."""
    os.makedirs(history.folder)
    for number in range(cycles):
        counts["cycles"] += 1
        try:
            history.cycle()
        except Lost as error:
            said = "\n    ".join(history.told)
            return f"{error}\n  {history.kind}, cycle {number} of the history in {history.folder}:\n    {said}"
    history.count(counts)
    shutil.rmtree(history.folder)
    return ""


# -- the campaign -----------------------------------------------------------------------------------------------------

#: The histories in which planted bugs show, and the deaths that show them; any, where none is named.
PLANTED: dict[Callable[[], None], tuple[str, str]] = {
    planted.acknowledged_too_early: ("one process", "time"),
    planted.emptied_before_the_commit: ("one process", "stop"),
    planted.torn_line_kept: ("one process", "stop half"),
    planted.in_place: ("one process", "stop"),
    planted.old_form_removed_first: ("one process", "stop"),
    planted.no_lock: ("two processes", ""),
    planted.synced_too_early: ("replica", "time"),
    planted.hot_object_first: ("replica", "done"),
}


def find_planted(folder: Path, plant: Callable[[], None], seed: int, most: int) -> str:
    """Look for a planted bug in at most so many cycles; returns what found it, or nothing."""
    kind, death = PLANTED[plant]
    counts: Counter[str] = Counter()
    number = 0
    while counts["cycles"] < most:
        number += 1
        place = folder / f"planted{number}"
        history = History(str(place), kind, random.Random(f"{seed} {plant.__name__} {number}"), plant, death)
        found = live_through(history, 12, counts)
        shutil.rmtree(place, ignore_errors=True)
        if found:
            return f"in cycle {counts['cycles']}, {found}".replace(f"{folder}/", "")
    return ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this campaign."""
    parser.add_argument("--kills", type=int, default=2000, help="processes to kill (default: 2000)")
    parser.add_argument("--history", type=int, help="only the history of this number, as a failure names it")
    parser.add_argument("--folder", type=Path, help="where it happens, and what failed is kept (default: a new one)")


def run(args: argparse.Namespace, log: Log) -> int:
    """Find the planted bugs, then kill; 1 when a bug was not found, or something else was."""
    deaths.calm()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(exist_ok=True)
    good = True
    if not args.no_planted:
        with silence():
            for plant in PLANTED:
                good &= log.planted(planted.said(plant), find_planted(folder, plant, args.seed, 1000))
    if args.only_planted:
        return 0 if good else 1
    counts: Counter[str] = Counter()
    failures = 0
    for number in [args.history] if args.history is not None else range(1 << 30):
        if counts["killed"] >= args.kills or failures == ENOUGH:
            break
        found = history_of(folder, args.seed, number, counts)
        if found:
            failures += 1
            log.say(f"FAILED: history {number}, seed {args.seed}: {found}")
        if number % 10 == 9:
            log.note(f"{counts['killed']} killed")
    for line in report(counts):
        log.say(line)
    if not failures and not any(folder.iterdir()):
        folder.rmdir()
    return 0 if good and not failures else 1


def history_of(folder: Path, seed: int, number: int, counts: Counter[str]) -> str:
    """The history of this number; returns what went wrong in it, or nothing."""
    draw = random.Random(f"{seed} {number}")
    kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
    counts[f"histories: {kind}"] += 1
    return live_through(History(str(folder / f"history{number}"), kind, draw), draw.randrange(6, 16), counts)


def report(counts: Counter[str]) -> Iterable[str]:
    """The counts, for the log."""
    first = ("cycles", "killed", "ended")
    for name in [*first, *sorted(set(counts) - set(first))]:
        yield f"{name}: {counts[name]:,}"


class silence:
    """Lets processes with planted bugs complain to nobody."""

    def __enter__(self) -> None:
        self._kept = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._kept, 2)
        os.close(self._kept)
