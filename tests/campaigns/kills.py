"""kill -9 at any moment, again and again: what was acknowledged is there once, on the disk and on the replica.

A *history* is one session that is written and killed some ten times, with other options, threads and processes each
time: killed by the clock, at some call to the disk or to the replica, in the middle of a write. What each process tries
and what is acknowledged to it goes through a pipe to the process that looks on, which reads all of it after each death.
"""

from __future__ import annotations

import argparse
import os
import random
import selectors
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import crashlib
import deaths
import planted
from actors import SECOND, TRACK, Actor, Direct
from promises import SESSION, Promises, Teller

from campaigns.log import Log
from dreamlake import Lake, Session
from dreamlake.engine import sweep
from dreamlake.engine.overlay import OverlayStore
from dreamlake.engine.replica import tracks
from dreamlake.storage.local import LocalStore
from dreamlake.storage.remote import RemoteStore

TRACKS = (TRACK, SECOND, "robot/höhe [m]")
#: Kinds of histories, and how often each is drawn.
KINDS = {"one process": 9, "two processes": 5, "replica": 4, "keeps nothing": 2}
#: Failures after which the campaign ends.
ENOUGH = 3


class Plan(NamedTuple):
    """How one process lives and dies; all of it is drawn.

    Parameters
    ----------
    options
        Of its session.
    threads
        How many write.
    death
        ``time``: after so many seconds; ``stop``, ``stop half``, ``request`` or ``done``: at its so manieth disk call,
        or request; ``none``: it ends by itself.
    when
        See `death`.
    grace
        Seconds that superseded segments stay.
    seed
        Of what it does.
    """

    options: dict[str, Any]
    threads: int
    death: str
    when: float
    grace: float
    seed: int


def draw_plan(draw: random.Random, kind: str, death: str = "") -> Plan:
    """Draw how a process lives and dies, the latter if it is not told."""
    remote = kind in ("replica", "keeps nothing")
    options: dict[str, Any] = {
        "segment_points": draw.choice([5, 10, 50, 200]),
        "flush_interval": draw.choice([0.003, 0.02, 0.2, 5.0]),
        "fsync": draw.random() < 0.2,
    }
    if remote:
        options |= {"replica": True, "trims": kind == "keeps nothing", "sync_interval": draw.choice([0.02, 0.3, 10.0])}
    ways = ["time", "stop", "stop half"] + ["request", "done"] * remote
    death = death or (draw.choice(ways) if draw.random() < 0.96 else "none")
    most = {"time": 0.25, "stop": 400, "stop half": 120, "request": 40, "done": 40, "none": 1}[death]
    when = most ** draw.random() if death != "time" else draw.uniform(0.0, most)
    return Plan(options, draw.choice([1, 1, 1, 2, 3]), death, when, draw.choice([0.01, 60.0]), draw.randrange(1 << 30))


# -- a process that is killed -----------------------------------------------------------------------------------------


def die(name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Be killed before a disk call."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def die_half(name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Be killed in the middle of a write; before any other call."""
    if name in ("pwrite", "write"):
        fd, data, *offset = args
        getattr(os, name)(fd, bytes(data)[: len(data) // 2], *offset)
    die(name, real, args)


def arm(plan: Plan) -> None:
    """See that this process is killed when its time has come, if that is a call."""
    sweep.GRACE = tracks.GRACE = plan.grace
    if plan.death in ("stop", "stop half"):
        crashlib.Seam(int(plan.when), die if plan.death == "stop" else die_half).install()
    elif plan.death in ("request", "done"):
        requests = deaths.Requests(int(plan.when), "stop" if plan.death == "request" else "done")
        requests.end = lambda: die("", lambda: None, ())
        requests.install()


class Life:
    """What one process does until it is killed.

    Parameters
    ----------
    folder
        Of the history.
    name
        Of the process.
    teller
        To whom it is told.
    first, step
        The ids that it may use.
    known
        Timestamps that fields can be added to.
    """

    def __init__(
        self, folder: str, name: str, plan: Plan, teller: Teller, first: int, step: int, known: dict[str, list[float]]
    ) -> None:
        self.plan = plan
        self.step = step * plan.threads
        self.actors = [
            Actor(folder, teller, f"{name}{place}", first + place * step, known, self.step)
            for place in range(plan.threads)
        ]

    def run(self) -> None:
        """Open the session, write to it from all threads, and close it."""
        draw = random.Random(self.plan.seed)
        first = self.actors[0]
        opened = (first.describe_session if draw.random() < 0.3 else first.open)(**self.plan.options)
        failed: list[BaseException] = []

        def write(actor: Actor, draw: random.Random) -> None:
            try:
                for _ in range(150):
                    self.act(actor, opened, draw)
            except BaseException as error:
                traceback.print_exc()
                failed.append(error)

        rest = [
            threading.Thread(target=write, args=(actor, random.Random(draw.random())), daemon=True)
            for actor in self.actors[1:]
        ]
        for thread in rest:
            thread.start()
        write(first, draw)
        for thread in rest:
            thread.join()
        if failed:
            raise failed[0]
        for actor in self.actors[1:]:
            actor.flush(opened)
        first.close(opened, bool(self.plan.options.get("replica")))

    def act(self, actor: Actor, opened: Session, draw: random.Random) -> None:
        """Do one thing."""
        track = draw.choice(TRACKS) if draw.random() < 0.4 else TRACK
        kind = draw.random()
        known = actor.known.get(track)
        if kind < 0.5:
            actor.points(opened, draw.randrange(1, 12), draw.random() < 0.5, track)
        elif kind < 0.66 and known:
            actor.late(opened, draw.choice([-1, 0, draw.randrange(-len(known), 0)]), track)
        elif kind < 0.76:
            self.batch(actor, opened, draw, track)
        elif kind < 0.8:
            actor.log(opened)
        elif kind < 0.82:
            actor.parameter(opened)
        elif kind < 0.84:
            actor.describe(opened, track)
        elif kind < 0.87:
            actor.compact(opened, track)
        elif kind < 0.94:
            actor.flush(opened, draw.choice(["", track]))
        elif kind < 0.96:
            opened.track(track).read(limit=5)
            actor.teller.acknowledge("flush", actor.name, track)
        elif self.plan.options.get("replica"):
            actor.sync(opened)

    def batch(self, actor: Actor, opened: Session, draw: random.Random, track: str) -> None:
        """Append a batch, in one of its forms; it is flushed when this returns."""
        form = draw.choice(["dicts", "columns", "table", "batch"])
        rows = [actor.fields(draw.random() < 0.5, track) for _ in range(draw.choice([1, 3, 20, 70]))]
        points: Any = rows
        if form != "dicts":
            explicit = draw.random() < 0.5
            rows = [
                {"id": row["id"], "v": row["v"]} | ({"_ts": 1000.0 + row["id"]} if explicit else {}) for row in rows
            ]
            points = {name: [row[name] for row in rows] for name in rows[0]}
        if form in ("table", "batch"):
            import pyarrow

            points = (pyarrow.table if form == "table" else pyarrow.RecordBatch.from_pydict)(points)
        actor.known[track] = [ts for ts in actor.known.get(track, []) if ts < 1000.0 + rows[0]["id"]]
        actor.known[track] += [row["_ts"] for row in rows if "_ts" in row]
        if not actor.batch(opened, rows, points, track):  # some rows wait for a segment that is away
            assert self.plan.options.get("replica"), "a batch was not written"
            actor.flush(opened, track)


def start(life: Life, plant: Callable[[], None]) -> tuple[int, int]:
    """Fork a process that lives; its id, and what it tells."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        for actor in life.actors:
            actor.teller = Teller(writing)
        shared = life.actors[0].teller
        for actor in life.actors:
            actor.teller = shared
        plant()
        arm(life.plan)
        life.run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def watch(started: list[tuple[int, int, Plan]]) -> list[tuple[int, list[bytes]]]:
    """Listen to processes, and kill those whose time has come; their exit statuses, and what they told."""
    told: dict[int, bytearray] = {reading: bytearray() for _, reading, _ in started}
    due: dict[int, float] = {}
    left = {reading: (pid, plan) for pid, reading, plan in started}
    latest = time.monotonic() + 120
    with selectors.DefaultSelector() as ready:
        for reading in left:
            ready.register(reading, selectors.EVENT_READ)
        while left:
            wait = min(due.values(), default=latest) - time.monotonic()
            for key, _ in ready.select(max(0.0, wait)):
                reading = key.fd
                data = os.read(reading, 1 << 16)
                told[reading] += data
                if not data:
                    ready.unregister(reading)
                    del left[reading]
                    due.pop(reading, None)
                elif reading in left and reading not in due and left[reading][1].death == "time":
                    due[reading] = time.monotonic() + left[reading][1].when
            now = time.monotonic()
            for reading in [reading for reading in left if due.get(reading, latest) <= now]:
                os.kill(left[reading][0], signal.SIGKILL)
                due[reading] = now + 120
    ended = []
    for pid, reading, _ in started:
        os.close(reading)
        ended.append((os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), bytes(told[reading]).splitlines(keepends=True)))
    return ended


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
                deaths.finish(actor, str(kept / SESSION))
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
            deaths.finish(actor)
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
    planted.parts_removed_first: ("one process", "stop"),
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
                good &= log.planted(planted.said(plant), find_planted(folder, plant, args.seed, 400))
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
