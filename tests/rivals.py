"""Random lives of one session on several machines with one replica, judged by what each of them was told.

The machines go on from one another as they should, or write beside one another as they should not. Each writes fields
of its own, so that of every value it is known who wrote it, and which are older; timestamps are explicit, and two
machines may give the same. There is no one right outcome, but there are wrong ones, see `Life.look`.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
from world import FOREVER, NETWORK, SESSION, TRACKS, Killed, Process, Shaky, World, points_in

import dreamlake.engine.replica.tracks as sending
import dreamlake.storage.local as local
from dreamlake import Lake, Session
from dreamlake.engine.overlay import OverlayStore
from dreamlake.engine.replica.check import holds_session, look
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.errors import PointsNotHereError, RemoteConflictError
from dreamlake.format import hot, layout
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore

NAMES = TRACKS[:2]
MOST_MACHINES = 3
#: The steps taken so far, by rule, and what came of them.
steps: Counter[str] = Counter()
counts: Counter[str] = Counter()

#: Values of one field of one point, by the point's timestamp and the field's name; of one track.
Values = dict[tuple[float, str], int]


class Network(Shaky):
    """A machine's way to the replica, which may take so long that another machine acts in the middle of a request."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.meanwhile: Callable[[], None] = lambda: None

    def _do(self, path: str, work: Callable[[Any], Any]) -> Any:
        if self._kind != "meanwhile":
            return super()._do(path, work)
        self._when -= 1
        if self._when == 0:
            self._kind = ""
            self.meanwhile()
        return RemoteStore._do(self, path, work)


class Machine:
    """The disk of one machine from its first file to its last, the one process that writes there, and what it knows.

    It has what `Process` asks of a world.

    Parameters
    ----------
    number
        Of this machine: its fields are called by it.
    root
        Its lake's folder.
    """

    def __init__(self, world: World, number: int, root: str) -> None:
        self.world = world
        self.time = world.time
        self.number = number
        self.root = root
        self.network = Network(world.url)
        self.process = Process(self)  # type: ignore[arg-type]
        #: What was appended and not flushed, by track, then what must be read here.
        self.pending: dict[str, Values] = {name: {} for name in NAMES}
        self.mine: dict[str, Values] = {name: {} for name in NAMES}
        #: The timestamps of the points as they were read here last, by track, in the order of their indices.
        self.order: dict[str, list[float]] = {name: [] for name in NAMES}
        #: When it last wrote to each track, and when the last of that came to the replica, as it was told.
        self.wrote = dict.fromkeys(NAMES, 0)
        self.arrived = dict.fromkeys(NAMES, 0)
        #: When it last had all that is there, as it had when it opened the session; by track.
        self.agreed = dict.fromkeys(NAMES, 0)
        #: When it was told that all it has is there, and when it lost its disk.
        self.sent = 0
        self.gone: float = FOREVER

    def __str__(self) -> str:
        return f"machine {self.number}"

    def session(self) -> Session:
        """The session, not opened yet."""
        session = Session(
            "s",
            "w",
            self.root,
            flush_interval=FOREVER,
            remote=self.world.url,
            sync_interval=FOREVER,
            **self.world.options,
        )
        assert session._remote is not None
        session._remote._store = self.network
        return session

    @property
    def folder(self) -> str:
        """The session's folder here."""
        return os.path.join(self.root, *SESSION.split("/"))

    @property
    def is_open(self) -> bool:
        """Whether it can append."""
        return self.process.is_open

    def points(self, name: str) -> list[dict[str, Any]]:
        """The points of a track as its own session reads them, what is away from the replica."""
        there = self.world.there
        return points_in(OverlayStore(LocalStore(self.root), lambda: there), name)  # type: ignore[arg-type,return-value]

    def files(self, name: str) -> set[str]:
        """The names in a track's folder here."""
        folder = os.path.join(self.folder, *layout.track_dir(name).split("/"))
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    def waiting(self, name: str) -> list[dict[str, Any]]:
        """The late fields that wait here for segments which are only on the replica."""
        path = os.path.join(self.folder, *layout.track_dir(name).split("/"), layout.LATE_FILE)
        return hot.parse(local.read_if_there(path), path=path).points


class Held(NamedTuple):
    """A frame that was made and not collected, and the points that the track had then."""

    frame: pl.LazyFrame
    name: str
    points: list[dict[str, Any]]
    machine: Machine | None  # none: it is one of the replica


class Life:
    """The machines, their replica, and what each of them was told.

    Parameters
    ----------
    points
        Of a segment.
    grace
        Seconds that merged segments stay on the replica.
    """

    def __init__(self, points: int, grace: float) -> None:
        self.world = World("replica", segment_points=points)
        self.lake = Lake(self.world.url)
        self._grace, sending.GRACE = sending.GRACE, grace
        self._numbers = itertools.count(1)
        self._now = itertools.count(1)
        self._values = itertools.count(1)
        self._stamps = itertools.count(1)
        #: Every value that was ever appended, by track, in the order in which they were.
        self.written: dict[str, dict[tuple[float, str], list[int]]] = {name: {} for name in NAMES}
        #: What the replica must hold at least, by track: what was seen there, and what somebody was told to be there.
        self.there: dict[str, Values] = {name: {} for name in NAMES}
        self.order: dict[str, list[float]] = {name: [] for name in NAMES}
        self.held: list[Held] = []
        self.machines: list[Machine] = []
        self.gone: list[Machine] = []
        for _ in range(2):
            self.machines.append(self._new())

    def finish(self) -> None:
        """Close what is open, and look once more."""
        for machine in self.machines:
            if machine.is_open:
                self._close(machine)
        for held in self.held:
            self._collect(held)

    def end(self) -> None:
        """Remove everything."""
        for machine in self.machines:
            machine.process.die()
        sending.GRACE = self._grace
        self.world.end()

    # -- machines ----------------------------------------------------------------------------------------------------

    def _new(self) -> Machine:
        number = next(self._numbers)
        return Machine(self.world, number, os.path.join(self.world.folder, f"machine-{number}"))

    def in_session(self, which: int) -> Machine | None:
        """A machine that has the session open, now if it had not; None where it is in conflict."""
        machine = self.machines[which % len(self.machines)]
        if not machine.is_open:
            self._open(machine)
        return machine if machine.is_open else None

    def _open(self, machine: Machine) -> None:
        steps["open"] += 1
        try:
            machine.process.open()
        except RemoteConflictError as error:
            machine.process.die()
            self._in_conflict(machine, error)
        else:
            now = next(self._now)
            for name in NAMES:
                machine.agreed[name] = now
                machine.mine[name] = {**self._values_of(name, self._there(name)), **machine.mine[name]}
        self.look()

    def out_of_session(self, which: int) -> Machine:
        """A machine on which nobody has the session open, closed now if it had."""
        machine = self.machines[which % len(self.machines)]
        if machine.is_open:
            self._close(machine)
        return machine

    def _close(self, machine: Machine) -> None:
        steps["close"] += 1
        self._flush(machine)
        self._syncs(machine, machine.process.close)
        assert not machine.is_open
        self.look()

    def close_and_open(self, which: int) -> None:
        self.out_of_session(which)
        self.in_session(which)

    def kill(self, which: int, again: bool) -> None:
        machine = self.in_session(which)
        if machine is not None:
            steps["kill"] += 1
            self._dies(machine)
            self.look()
            if again:
                self._open(machine)

    def _dies(self, machine: Machine) -> None:
        machine.process.die()
        machine.pending = {name: {} for name in NAMES}

    def lose_the_disk(self, which: int, killed: bool) -> None:
        steps["lose the disk"] += 1
        machine = self.machines[which % len(self.machines)]
        if killed:
            self._dies(machine)
        self.out_of_session(which)
        shutil.rmtree(machine.root, ignore_errors=True)
        machine.gone = next(self._now)
        self.held = [held for held in self.held if held.machine is not machine]
        self.gone.append(machine)
        self.machines[self.machines.index(machine)] = self._new()

    def copy_the_folder(self, which: int) -> None:
        machine = self.out_of_session(which)
        if os.path.isdir(machine.root) and len(self.machines) < MOST_MACHINES:
            steps["copy the folder"] += 1
            copy = self._new()
            shutil.copytree(machine.root, copy.root)
            copy.mine = {name: dict(values) for name, values in machine.mine.items()}
            copy.order = {name: list(order) for name, order in machine.order.items()}
            copy.agreed = dict(machine.agreed)
            if machine.sent < max(machine.wrote.values()):
                copy.wrote = dict(machine.wrote)  # what the other has not sent, this one may send
            self.machines.append(copy)
            self.look()

    # -- writing -----------------------------------------------------------------------------------------------------

    def append(self, which: int, name: str, count: int, again: bool, flush: bool) -> None:
        """New points; with `again` the last timestamps that anybody gave, which may be new here."""
        machine = self.in_session(which)
        if machine is None:
            return
        steps["append"] += 1
        for _ in range(count):
            last = next(self._stamps)
            ts = max(0, last - count) if again else last
            self._append(machine, name, float(ts), f"m{machine.number}")
        if flush:
            self._flush(machine)
        self.look()

    def append_late_fields(self, which: int, name: str, places: list[int], second: bool, flush: bool) -> None:
        """Fields of points that this machine knows."""
        machine = self.in_session(which)
        if machine is None or not machine.order[name]:
            return
        steps["append late fields"] += 1
        for place in places:
            ts = machine.order[name][place % len(machine.order[name])]
            self._append(machine, name, ts, f"m{machine.number}" + "b" * second)
        if flush:
            self._flush(machine)
        self.look()

    def _append(self, machine: Machine, name: str, ts: float, field: str) -> None:
        value = next(self._values)
        self.written[name].setdefault((ts, field), []).append(value)
        machine.process.session.track(name).append(**{field: value}, _ts=ts)
        machine.pending[name][ts, field] = value
        counts["values appended"] += 1

    def flush(self, which: int) -> None:
        machine = self.in_session(which)
        if machine is not None:
            steps["flush"] += 1
            self._flush(machine)
            self.look()

    def _flush(self, machine: Machine) -> None:
        machine.process.session.flush()
        self._flushed(machine)

    def _flushed(self, machine: Machine, names: Sequence[str] = NAMES) -> None:
        for name in names:
            if machine.pending[name]:
                machine.mine[name].update(machine.pending[name])
                machine.pending[name] = {}
                machine.wrote[name] = next(self._now)

    def compact(self, which: int, name: str) -> None:
        machine = self.in_session(which)
        if machine is not None and machine.order[name]:
            steps["compact"] += 1
            self._compact(machine, name)
            self.look()

    def _compact(self, machine: Machine, name: str) -> None:
        before = machine.files(name)
        machine.process.session.track(name).compact()
        self._flushed(machine, [name])
        if machine.files(name) != before:
            machine.wrote[name] = next(self._now)

    # -- the replica -------------------------------------------------------------------------------------------------

    def sync(self, which: int, trouble: tuple[str, int]) -> None:
        """Send all; with trouble only where no other machine has the session open.

        What a machine leaves half sent that dies, or loses the network, is not told of those that write beside it.
        """
        machine = self.in_session(which)
        if machine is not None:
            steps["sync"] += 1
            if any(other.is_open for other in self.machines if other is not machine):
                trouble = "", 0
            self._flush(machine)
            self._syncs(machine, machine.process.session.sync, trouble)
            self.look()

    def sync_while_another_acts(self, which: int, other: int, when: int, act: str, name: str) -> None:
        """At one of its requests, of which another machine does not know."""
        machine, another = self.in_session(which), self.in_session(other)
        if machine is None or another is None or machine is another or not machine.is_open:
            return
        steps["sync while another acts"] += 1
        self._flush(machine)

        def meanwhile() -> None:
            if another.order[name] and act == "late":
                self._append(another, name, another.order[name][0], f"m{another.number}")
            elif another.order[name] and act == "compact":
                self._compact(another, name)
            else:
                self._append(another, name, float(next(self._stamps)), f"m{another.number}")
            self._flush(another)
            self._syncs(another, another.process.session.sync)

        machine.network.meanwhile = meanwhile
        self._syncs(machine, machine.process.session.sync, ("meanwhile", when))
        self.look()

    def sync_from_outside(self, which: int, killed: bool) -> None:
        """`dreamlake sync` of a folder that nobody writes to."""
        if killed:
            self._dies(self.machines[which % len(self.machines)])
        machine = self.out_of_session(which)
        if not os.path.isfile(f"{machine.folder}/{layout.LOCK_FILE}"):
            return
        steps["sync from outside"] += 1
        os.utime(f"{machine.folder}/{layout.LOCK_FILE}", (0, 0))  # as it is some time later
        outcome = sync_folder(machine.folder, SESSION, machine.network)
        assert not outcome.failures, outcome.failures
        if outcome.complete:
            self._is_sent(machine)
        else:
            assert outcome.conflicts, outcome
            self._in_conflict(machine, outcome.conflicts)
        self.look()

    def _syncs(self, machine: Machine, act: Callable[[], Any], trouble: tuple[str, int] = ("", 0)) -> None:
        kind, when = trouble
        try:
            with machine.network.trouble(kind, when):
                act()
        except Killed:
            counts["killed in the middle"] += 1
            self._dies(machine)
        except RemoteConflictError as error:
            self._in_conflict(machine, error)
        except OSError:
            if kind not in NETWORK:
                raise
            counts["syncs that failed"] += 1
        else:
            self._is_sent(machine)

    def _is_sent(self, machine: Machine) -> None:
        """What it had flushed when it began is on the replica, it is told."""
        counts["syncs acknowledged"] += 1
        now = next(self._now)
        for name in NAMES:
            if machine.wrote[name] > machine.sent:
                machine.arrived[name] = now
        machine.sent = now
        for name in NAMES:
            for key, value in machine.mine[name].items():
                if not self._is_as_new(name, key, self.there[name].get(key), value):
                    self.there[name][key] = value

    def _in_conflict(self, machine: Machine, told: object) -> None:
        """It is told of another machine's writes; there must be such."""
        counts["conflicts"] += 1
        others = [other for other in (*self.machines, *self.gone) if other is not machine]
        for other in others:
            for name in NAMES:
                may_arrive = other.wrote[name] > other.sent and other.gone > machine.agreed[name]
                if may_arrive or other.arrived[name] > machine.agreed[name]:
                    return
        raise AssertionError(f"nobody else wrote, but {machine} was told: {told}")

    # -- looking -----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read all there is. Wrong is

        - a value that nobody wrote, or that is older than one that was seen in this place or was acknowledged;
        - a value that is gone from the replica, once it was seen there or a sync acknowledged it;
        - a flushed value that is gone from its machine, or one that was on the replica when that opened the session;
        - two points with one timestamp, and a point that gets another index;
        - any error.
        """
        for name in NAMES:
            points = self._there(name)
            found = self._judge(name, points, self.there[name], self.order[name], "the replica")
            self.there[name].update(found)
            self.order[name] = [point["_ts"] for point in points]
            for machine in self.machines:
                if not os.path.isdir(machine.folder):
                    continue
                points = machine.points(name)
                waiting = self._values_of(name, machine.waiting(name))
                self._judge(name, points, machine.mine[name], machine.order[name], str(machine), waiting)
                machine.order[name] = [point["_ts"] for point in points]

    def _there(self, name: str) -> list[dict[str, Any]]:
        there = self.world.there
        assert there is not None
        if not holds_session(look(there, SESSION)):  # type: ignore[arg-type]
            return []  # a first upload that was cut off, which no reader finds
        return points_in(there, name)

    def _judge(
        self,
        name: str,
        points: list[dict[str, Any]],
        least: Mapping[tuple[float, str], int],
        order: list[float],
        by: str,
        waiting: Mapping[tuple[float, str], int] | None = None,
    ) -> Values:
        """The values of these points, which must hold `least` (or what waits does), and begin with those of `order`."""
        stamps = [point["_ts"] for point in points]
        assert len(set(stamps)) == len(stamps), f"{by} has {name} twice: {stamps}"
        assert stamps[: len(order)] == order, f"{by} had the points {order} of {name} and has {stamps}"
        found = self._values_of(name, points)
        for key, value in found.items():
            assert value in self.written[name].get(key, ()), f"nobody wrote {value} to {key} of {name}, which {by} has"
        late = {**found, **(waiting or {})}
        for key, value in least.items():
            assert self._is_as_new(name, key, late.get(key), value), (
                f"{by} has {late.get(key, 'lost')} for {value} of {key} of {name}"
            )
        return found

    def _is_as_new(self, name: str, key: tuple[float, str], found: int | None, value: int) -> bool:
        values = self.written[name][key]
        return found is not None and values.index(found) >= values.index(value)

    def _values_of(self, name: str, points: list[dict[str, Any]]) -> Values:
        return {(point["_ts"], field): value for point in points for field, value in point.items() if field != "_ts"}

    # -- frames that were held ---------------------------------------------------------------------------------------

    def hold_a_frame(self, which: int, name: str, there: bool) -> None:
        machine = self.in_session(which)
        if there and self.order[name]:
            steps["hold a frame"] += 1
            frame = self.lake.session("s", "w").track(name).scan()
            self.held.append(Held(frame, name, self._there(name), None))
        elif not there and machine is not None and machine.order[name]:
            steps["hold a frame"] += 1
            self._flush(machine)
            track = machine.process.session.track(name)
            try:
                frame = track.scan()
                points = [row["data"] for row in track.read(limit=None)["data"]]
            except PointsNotHereError as error:  # as where another one has merged what this one has added fields to
                self._in_conflict(machine, error)
                return
            # Its columns are those that this machine knows: another one may have added fields to what is away here.
            columns = frame.collect_schema().names()
            known = [{field: value for field, value in point.items() if field in columns} for point in points]
            self.held.append(Held(frame, name, known, machine))

    def collect(self, which: int) -> None:
        if self.held:
            steps["collect"] += 1
            self._collect(self.held[which % len(self.held)])

    def _collect(self, held: Held) -> None:
        by = f"a frame of {held.machine or 'the replica'}"
        rows = held.frame.collect().to_dicts()
        points = [{key: value for key, value in row.items() if key != "_index" and value is not None} for row in rows]
        stamps = [point["_ts"] for point in held.points]
        assert [row["_index"] for row in rows] == list(range(len(stamps))), f"{by} has not the points it had"
        self._judge(held.name, points, self._values_of(held.name, held.points), stamps, by)


# -- whole lives ---------------------------------------------------------------------------------------------------

#: What a step is, and how it is taken.
Step = tuple[str, dict[str, Any]]


def _trouble(draw: random.Random) -> tuple[str, int]:
    return (draw.choice(NETWORK), draw.randrange(1, 25)) if draw.random() < 0.3 else ("", 0)


def _place(draw: random.Random) -> int:
    return draw.choice([0, -1, draw.randrange(40)])


#: How often each step comes, and what is drawn for it beside the machine.
STEPS: dict[str, tuple[float, Callable[[random.Random], dict[str, Any]]]] = {
    "close_and_open": (1, lambda draw: {}),
    "kill": (0.7, lambda draw: {"again": draw.random() < 0.5}),
    "lose_the_disk": (0.4, lambda draw: {"killed": draw.random() < 0.5}),
    "copy_the_folder": (0.2, lambda draw: {}),
    "append": (
        4,
        lambda draw: {
            "name": draw.choice(NAMES),
            "count": draw.randrange(1, 8),
            "again": draw.random() < 0.2,
            "flush": draw.random() < 0.5,
        },
    ),
    "append_late_fields": (
        3,
        lambda draw: {
            "name": draw.choice(NAMES),
            "places": [_place(draw) for _ in range(draw.randrange(1, 4))],
            "second": draw.random() < 0.3,
            "flush": draw.random() < 0.5,
        },
    ),
    "flush": (0.5, lambda draw: {}),
    "compact": (1, lambda draw: {"name": draw.choice(NAMES)}),
    "sync": (3, lambda draw: {"trouble": _trouble(draw)}),
    "sync_while_another_acts": (
        0.7,
        lambda draw: {
            "other": draw.randrange(6),
            "when": draw.randrange(1, 12),
            "act": draw.choice(["late", "compact", "append"]),
            "name": draw.choice(NAMES),
        },
    ),
    "sync_from_outside": (0.7, lambda draw: {"killed": draw.random() < 0.5}),
    "hold_a_frame": (0.6, lambda draw: {"name": draw.choice(NAMES), "there": draw.random() < 0.5}),
    "collect": (0.6, lambda draw: {}),
}


def draw_life(seed: int) -> list[Step]:
    """The steps of a life; the first says how it begins."""
    draw = random.Random(seed)
    drawn: list[Step] = [("begin", {"points": draw.choice([2, 3, 5]), "grace": draw.choice([-1.0, 60.0])})]
    faithful = draw.choice([0.5, 0.9, 0.98])  # how often the machine of the step before goes on
    which = 0
    for _ in range(draw.randrange(8, 60)):
        name = draw.choices(list(STEPS), [weight for weight, _ in STEPS.values()])[0]
        if draw.random() > faithful:
            which = draw.randrange(6)
        drawn.append((name, {"which": which, **STEPS[name][1](draw)}))
    return drawn


def live(drawn: list[Step]) -> str:
    """Take these steps; how they failed, or nothing."""
    (_, begin), *rest = drawn
    life = Life(**begin)
    try:
        for name, given in rest:
            getattr(life, name)(**given)
        life.finish()
    except Exception:
        return traceback.format_exc()
    finally:
        life.end()
    return ""


def shortened(drawn: list[Step]) -> tuple[list[Step], str]:
    """The fewest of these steps that are left when each is left out that is not needed to fail, and how they fail."""
    told = live(drawn)
    kind = kind_of(told)
    size = max(1, len(drawn) // 2)
    while told:
        at, before = 1, len(drawn)
        while at < len(drawn):
            fewer = drawn[:at] + drawn[at + size :]
            said = live(fewer)
            if said and kind_of(said) == kind:
                drawn, told = fewer, said
            else:
                at += size
        if size == 1 and len(drawn) == before:
            break
        size = max(1, size // 2)
    return drawn, told


def kind_of(told: str) -> str:
    """The error that a life ended with, without what differs from life to life."""
    last = told.strip().rpartition("\n")[2]
    return re.sub(r"\S*[/\d]\S*", "_", last)
