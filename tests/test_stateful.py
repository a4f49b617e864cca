"""Random lives of a session against a plain Python list: whatever happens to it, what was flushed is there, once."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import polars as pl
import pyarrow as pa
import values
from columnar import point_lists
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from model import ModelTrack, Row
from reading import WAYS, check_reading
from world import DISK, NETWORK, SESSION, TRACKS, Killed, Process, World, disk_trouble

from dreamlake import Lake, Session
from dreamlake.engine.replica.check import holds_session, look
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.errors import PointsDroppedError, RemoteConflictError

scalars = st.one_of(
    st.integers(-2, 2),
    st.sampled_from([0.5, -0.0, float("nan"), float("inf"), 2**60, 10**30, None, True, "s", "", b"b"]),
)
plain = st.fixed_dictionaries({"loss": st.sampled_from([0.5, 1.5]), "step": st.integers(0, 3)})
fields = st.one_of(
    plain,
    plain,
    st.dictionaries(st.sampled_from(["loss", "step", "self", "len", "x y", "$d"]), scalars, max_size=3),
    values.fields,
)
#: How a row gets its timestamp: not at all, from the point before, a small one, one of a point that is there, or the
#: one that the clock will show in a second.
stamps = st.one_of(
    st.sampled_from(["automatic", "automatic", "automatic", "inherited", "ahead"]),
    st.tuples(st.just("small"), st.integers(0, 9)),
    st.tuples(st.just("known"), st.integers(0, 10_000)),
)
rows = st.lists(st.tuples(fields, stamps), min_size=1, max_size=9)
names = st.sampled_from(TRACKS)
which = st.integers(0, 1)
#: What goes wrong with the disk, and at which call; mostly nothing.
nothing = st.just(("", 0))
places = st.one_of(st.integers(1, 12), st.integers(1, 40))
disk = st.one_of(nothing, nothing, st.tuples(st.sampled_from(sorted(DISK)), places))
network = st.one_of(nothing, nothing, st.tuples(st.sampled_from(NETWORK), places))

#: The steps taken so far, by rule, and what came of them.
steps: Counter[str] = Counter()
counts: Counter[str] = Counter()


class Lives(RuleBasedStateMachine):
    """Processes that share a session, its replica, and the model."""

    @initialize(
        kind=st.sampled_from(["local", "local", "replica", "replica", "temporary"]),
        fsync=st.booleans(),
        points=st.sampled_from([3, 7, 20]),
    )
    def begin(self, kind: str, fsync: bool, points: int) -> None:
        counts[f"lives: {kind}"] += 1
        self.world = World(kind, fsync=fsync, segment_points=points)
        self.tracks = {name: ModelTrack() for name in TRACKS}
        #: Flushed rows that wait for segments which are only on the replica, by track.
        self.waiting: dict[str, list[Row]] = {name: [] for name in TRACKS}
        self.drawn: set[float] = set()
        self.given: set[float] = set()
        self.processes = [Process(self.world) for _ in range(1 if self.world.kind == "temporary" else 2)]
        for process in self.processes:
            self.open(process)

    def teardown(self) -> None:
        if not hasattr(self, "processes"):
            return
        try:
            if sys.exc_info()[0] is None:  # what a step found is not to be hidden by what follows from it
                self.heal()
                for process in self.processes:
                    self.flush_first(process)
                    self.flushes(process, TRACKS, process.session.sync)
                for process in self.processes[1:]:
                    self.close_all(process)
                self.check_everything(self.processes[0])
        finally:
            for process in self.processes:
                process.die()
            self.world.end()

    def process(self, which: int) -> Process:
        return self.processes[which % len(self.processes)]

    # -- the model keeps up ------------------------------------------------------------------------------------------

    def settle(self, name: str, rows: Sequence[Row] = (), held: set[float] | None = None) -> list[Row]:
        """Compare a track with the disk; `rows` may be written or not. Returns those that are not.

        `held` are the explicit timestamps that their writer still holds.
        """
        held = held or set()
        model = self.tracks[name]
        before = len(model.points)
        stamps = self.world.waiting_stamps(name)

        def waits(row: Row) -> bool:
            return not row.automatic and row.ts in stamps

        waiting = sorted(self.waiting[name], key=waits)  # those that were merged come first
        direct = [row for row in rows if not waits(row)]
        rest = model.take_in([*direct, *waiting], self.world.points(name), held)
        late = [row for row in rows if waits(row)]
        self.waiting[name] = [row for row in self.waiting[name] + late if waits(row)]
        counts["points stored"] += len(model.points) - before
        return [row for row in rest if not waits(row)] + [row for row in late if row.ts in held]

    def flushes(
        self, process: Process, names: Sequence[str], act: Callable[[], Any], trouble: tuple[str, int] = ("", 0)
    ) -> Any:
        """Do what flushes these tracks; with trouble some of it may not be written. Returns what `act` does."""
        kind, when = trouble
        result = None
        try:
            if kind in DISK:
                with disk_trouble(kind, when):
                    result = act()
            elif kind:
                with self.world.network.trouble(kind, when):
                    result = act()
            else:
                result = act()
        except Killed:
            counts["killed in the middle"] += 1
            self.dies(process, names)
            return None
        except (RemoteConflictError, PointsDroppedError):
            raise
        except OSError:
            assert kind or self.is_cut_off, "nothing was wrong"
            counts["flushes and syncs that failed"] += 1
        else:
            if not (isinstance(result, dict) and result.get("startIndex", 0) is None):
                counts["flushes and syncs acknowledged"] += 1
                for name in names:
                    if not (process.pending[name] or self.waiting[name]):
                        continue  # nothing of it was to be written
                    left = self.settle(name, process.pending[name])
                    assert not left, f"acknowledged, but not written: {left}"
                    process.pending[name] = []
                return result
        for name in names:
            held = process.held_rows(name)
            left = self.settle(name, process.pending[name], {ts for ts, automatic in held if not automatic})
            if self.world.has_away():  # rows that may belong to an away point come behind the others by now
                left.sort(key=lambda row: held.index((row.ts, row.automatic)))
            process.pending[name] = left
        return result

    def flush_first(self, process: Process) -> None:
        """Flush before something that also merges rows which wait for an away segment: they come behind the others."""
        if self.world.has_away():
            self.flushes(process, TRACKS, process.session.flush)

    def dies(self, process: Process, names: Sequence[str] = (), finish: bool = True) -> None:
        """A process is dead; of these tracks it was writing what was pending."""
        rows = {name: process.pending[name] for name in names}
        process.die()
        if self.world.kind == "temporary":
            for name in TRACKS:
                self.settle(name, rows.get(name, ()))
            self.recover(finish)
        else:
            for name in TRACKS:
                self.settle(name, rows.get(name, ()))
        self.open(process)

    def open(self, process: Process) -> None:
        process.open()
        if len(process.sessions) > 1:
            return
        automatic = self.drawn - self.given
        stored = [p["_ts"] for model in self.tracks.values() for p in model.points if p["_ts"] in automatic]
        assert process.clock.last >= max(stored, default=-math.inf), "automatic timestamps would be used again"

    @property
    def is_cut_off(self) -> bool:
        return self.world.kind != "local" and self.world.network.is_dead

    def heal(self) -> None:
        if self.world.kind != "local":
            self.world.network.is_dead = False

    # -- appending ---------------------------------------------------------------------------------------------------

    def stamp(self, stamp: Any, process: Process, name: str) -> float | None:
        """The `_ts` to give for a kind of stamp; None for none."""
        if isinstance(stamp, str):
            ts = {"automatic": None, "inherited": -1.0, "ahead": self.world.time.now + 1}[stamp]
        else:
            kind, number = stamp
            known = [point["_ts"] for point in self.tracks[name].points] + [row.ts for row in process.pending[name]]
            ts = float(known[number % len(known)]) if kind == "known" and known else float(number % 10)
        if ts is not None and ts != -1:
            self.given.add(ts)
        return ts

    def row(self, process: Process, given: dict[str, Any], ts: float | None, drawn: list[float]) -> Row:
        """What an append must have made, which drew these timestamps."""
        automatic = ts is None or (ts == -1 and process.latest is None)
        if automatic:
            at = drawn.pop(0)
            self.drawn.add(at)
        else:
            at = process.latest if ts == -1 else ts  # type: ignore[assignment]
        process.latest = at
        counts["rows appended"] += 1
        return Row(given, at, automatic)

    @rule(which=which, session=which, name=names, given=fields, stamp=stamps, count=st.integers(1, 4))
    def append_anything(
        self, which: int, session: int, name: str, given: dict[str, Any], stamp: Any, count: int
    ) -> None:
        steps["append"] += 1
        self.append(which, session, name, given, stamp, count)

    def append(self, which: int, session: int, name: str, given: dict[str, Any], stamp: Any, count: int) -> None:
        process = self.process(which)
        track = process.sessions[session % len(process.sessions)].track(name)
        for _ in range(count):
            ts = self.stamp(stamp, process, name)
            last, now = process.clock.last, self.world.time.now
            assert track.append(**given, **({} if ts is None else {"_ts": ts})) is track
            row = self.row(process, given, ts, [process.clock.last])
            if row.automatic:
                assert row.ts == (now if now > last else math.nextafter(last, math.inf))
            process.pending[name].append(row)
        process.clock.take()

    @rule(which=which, name=names, given=plain, stamp=stamps, count=st.integers(1, 15))
    def append_numbers(self, which: int, name: str, given: dict[str, Any], stamp: Any, count: int) -> None:
        steps["append"] += 1
        self.append(which, 0, name, given, stamp, count)

    @rule(which=which, name=names, count=st.integers(1, 9), first=st.integers(0, 60))
    def append_late_fields(self, which: int, name: str, count: int, first: int) -> None:
        steps["late fields"] += 1
        for number in range(count):
            self.append(which, 0, name, {f"late{number % 3}": first}, ("known", first + 3 * number), 1)

    @rule(which=which, name=names, rows=rows, trouble=disk)
    def batch_of_dicts(self, which: int, name: str, rows: list[Any], trouble: tuple[str, int]) -> None:
        process = self.process(which)
        points = []
        for given, stamp in rows:
            ts = self.stamp(stamp, process, name)
            points.append(dict(given) if ts is None else {**given, "_ts": ts})
        self.batch(process, name, points, points, trouble)

    @rule(which=which, name=names, points=point_lists(), trouble=disk)
    def batch_of_one_kind(self, which: int, name: str, points: list[dict[str, Any]], trouble: tuple[str, int]) -> None:
        self.given.update(point["_ts"] for point in points)
        self.batch(self.process(which), name, points, points, trouble)

    @rule(
        which=which,
        name=names,
        count=st.integers(1, 20),
        stamp=stamps,
        rising=st.booleans(),
        form=st.sampled_from(["dicts", "columns", "polars", "arrow", "numbers"]),
        trouble=disk,
    )
    def batch_of_columns(
        self, which: int, name: str, count: int, stamp: Any, rising: bool, form: str, trouble: tuple[str, int]
    ) -> None:
        process = self.process(which)
        first = self.stamp(stamp, process, name)
        columns: dict[str, list[Any]] = {"loss": [i * 0.5 for i in range(count)], "step": list(range(count))}
        if first is not None:
            columns["_ts"] = [float(first + i if rising and first != -1 else first) for i in range(count)]
            self.given.update(columns["_ts"])
        if form == "columns":
            columns["tag"] = [None, "t"] * (count // 2) + ["t"] * (count % 2)
        points = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        made: Any = points
        if form in ("columns", "numbers"):
            made = columns
        elif form == "polars":
            made = pl.DataFrame(columns)
        elif form == "arrow":
            made = pa.table(columns)
        self.batch(process, name, points, made, trouble)

    def batch(
        self, process: Process, name: str, points: list[dict[str, Any]], made: Any, trouble: tuple[str, int]
    ) -> None:
        steps["batch"] += 1
        process.clock.take()
        last = process.clock.last
        indices: list[int] = []

        def act() -> Any:
            try:
                return process.session.track(name).append_batch(made)
            finally:
                drawn = process.clock.take()
                assert [last, *drawn] == sorted({last, *drawn}), "automatic timestamps rise"
                model = self.tracks[name]._copy()
                for row in process.pending[name]:
                    model.add(*row)
                for point in points:
                    given = {field: value for field, value in point.items() if field != "_ts"}
                    row = self.row(process, given, point.get("_ts"), drawn)
                    process.pending[name].append(row)
                    indices.append(model.add(*row))

        before = bool(self.waiting[name])
        result = self.flushes(process, [name], act, trouble)
        if result is None:
            return
        assert result["count"] == len(points)
        if result["startIndex"] is None:
            assert trouble[0] or self.waiting[name], "nothing was wrong"
        elif not before and not self.waiting[name]:
            assert (result["startIndex"], result["endIndex"]) == (min(indices), max(indices) + 1)

    @rule(seconds=st.sampled_from([0.0, 1.0, 1.0, 3.5, -5.0, 2.0**-30]))
    def move_the_clock(self, seconds: float) -> None:
        steps["clock"] += 1
        self.world.time.now += seconds

    # -- flushing, reading -------------------------------------------------------------------------------------------

    @rule(which=which, name=names, how=st.sampled_from(["track", "tracks", "session"]), trouble=disk)
    def flush(self, which: int, name: str, how: str, trouble: tuple[str, int]) -> None:
        steps["flush"] += 1
        process = self.process(which)
        session = process.session
        flushed = [name] if how == "track" else TRACKS
        acts = {"track": lambda: session.track(name).flush(), "tracks": session.tracks.flush, "session": session.flush}
        self.flushes(process, flushed, acts[how], trouble)

    @rule(
        which=which,
        name=names,
        way=st.sampled_from(WAYS),
        by=st.sampled_from(["session", "session", "lake"]),
        first=st.integers(-30, 30),
        second=st.integers(-30, 30),
        limit=st.one_of(st.none(), st.integers(0, 30)),
    )
    def read(self, which: int, name: str, way: str, by: str, first: int, second: int, limit: int | None) -> None:
        steps["read"] += 1
        process = self.process(which)
        self.flushes(process, [name], process.session.track(name).flush)
        if self.waiting[name]:
            self.flushes(process, [], lambda: process.session.track(name).read(0, 1))
            self.settle(name)
            if self.waiting[name]:
                assert self.is_cut_off, "late fields still wait"
                return
        model = self.tracks[name]
        if self.is_cut_off and self.world.has_away():
            return
        if by == "session" or self.world.kind == "temporary" or self.world.has_away():
            check_reading(process.session.track(name), model, way, first, second, limit)
        elif model.points:
            check_reading(Lake(self.world.root).session("s", "w").track(name), model, way, first, second, limit)

    # -- processes come and go ---------------------------------------------------------------------------------------

    @rule(which=which, finish=st.booleans())
    def crash(self, which: int, finish: bool) -> None:
        steps["crash"] += 1
        self.heal()
        self.dies(self.process(which), finish=finish)

    @rule(which=which, new_object=st.booleans())
    def close_and_open(self, which: int, new_object: bool) -> None:
        steps["close and open"] += 1
        process = self.process(which)
        self.close_all(process)
        if self.world.kind == "temporary":
            self.recover(finish=True)
            self.open(process)
        elif new_object:
            process.sessions.clear()
            self.open(process)
        else:
            del process.sessions[1:]
            process.reopen()

    def close_all(self, process: Process) -> None:
        self.flush_first(process)
        if self.world.kind == "temporary":  # nothing is left here after it
            self.flushes(process, TRACKS, process.session.sync)
            for place in range(len(process.sessions)):
                with suppress(OSError):
                    process.close(place)
            process.die()
            return
        for place in range(len(process.sessions)):
            self.flushes(process, TRACKS, lambda place=place: process.close(place))  # type: ignore[misc]
            assert not process.sessions[place].is_open

    @rule(which=which, first=st.booleans())
    def one_session_object_or_two(self, which: int, first: bool) -> None:
        steps["one object or two"] += 1
        process = self.process(which)
        if len(process.sessions) < 2:
            self.open(process)
        else:
            self.flush_first(process)
            self.flushes(process, TRACKS, lambda: process.close(0 if first else 1))
            process.sessions.pop(0 if first else 1)

    @rule(which=which, name=names, rows=rows, flush=st.booleans(), read=st.booleans(), really=st.integers(0, 3))
    def fork(self, which: int, name: str, rows: list[Any], flush: bool, read: bool, really: int) -> None:
        if really:  # it takes as long as ten other steps
            return
        steps["fork"] += 1
        process = self.process(which)
        given = [(fields, self.stamp(stamp, process, name)) for fields, stamp in rows]

        def work(session: Session) -> Any:
            track = session.track(name)
            made = []
            latest: float | None = None
            for fields, ts in given:
                track.append(**fields, **({} if ts is None else {"_ts": ts}))
                automatic = ts is None or (ts == -1 and latest is None)
                latest = session.writer.clock.last if automatic else latest if ts == -1 else ts
                made.append((fields, latest, automatic))
            if flush:
                track.flush()
            waits = self.world.waiting_stamps(name)
            return made, waits, track.read(limit=None) if flush and read and not self.is_cut_off else None

        made, waits, found = process.fork(work)
        written = [Row(*row) for row in made] if flush else []
        written.sort(key=lambda row: not row.automatic and row.ts in waits)  # those are merged later
        self.drawn |= {row.ts for row in written if row.automatic}
        left = self.settle(name, written)
        assert not left, f"acknowledged by a child, but not written: {left}"
        if found is not None and not self.waiting[name]:
            self.tracks[name].assert_read(found)

    # -- the replica -------------------------------------------------------------------------------------------------

    has_replica = precondition(lambda self: self.world.kind != "local")

    @has_replica
    @rule(which=which, by_itself=st.booleans(), trouble=st.one_of(network, disk))
    def sync(self, which: int, by_itself: bool, trouble: tuple[str, int]) -> None:
        steps["sync"] += 1
        process = self.process(which)
        self.flush_first(process)
        complete = False

        def act() -> None:
            nonlocal complete
            replica = process.session.writer.replica
            assert replica is not None
            if by_itself:
                replica.thread.call(replica._tick, None, "a pass")
            else:
                process.session.sync()
                complete = True

        self.flushes(process, [] if by_itself else TRACKS, act, trouble)
        for name in TRACKS:
            self.settle(name)
        self.check_replica(complete)

    def check_replica(self, complete: bool) -> None:
        """What is on the replica is the beginning of what is here, as it is or was; with `complete`, all of it."""
        for name, model in self.tracks.items():
            assert not (complete and self.waiting[name]), "synced, but late fields wait"
            found = self.world.points_there(name)
            if complete:
                model.all_sent()
            model.assert_earlier(found)

    @has_replica
    @rule(dead=st.booleans())
    def cut_or_mend_the_network(self, dead: bool) -> None:
        steps["network"] += 1
        self.world.network.is_dead = dead

    @precondition(lambda self: self.world.kind == "replica")
    @rule()
    def lose_the_disk(self) -> None:
        steps["lose the disk"] += 1
        for process in self.processes:
            process.die()
        self.world.lose_disk()
        self.go_on_from_replica()
        for process in self.processes:
            self.open(process)

    def go_on_from_replica(self) -> None:
        """Whatever was not there yet is lost."""
        self.heal()
        assert self.world.there is not None
        there = holds_session(look(self.world.there, SESSION))  # type: ignore[arg-type]
        for name, model in self.tracks.items():
            self.waiting[name] = []
            found = model.assert_earlier(self.world.points_there(name))
            model.go_back_to(found if there else [])
        if not there:
            self.world.begin_anew()

    def recover(self, finish: bool) -> None:
        """The process with the temporary folder is gone: upload what is in it, or lose it."""
        self.heal()
        if finish and os.path.isdir(f"{self.world.root}/{SESSION}"):
            os.utime(f"{self.world.root}/{SESSION}/.lock", (0, 0))  # as it is some time later
            outcome = sync_folder(f"{self.world.root}/{SESSION}", SESSION, self.world.network)
            assert outcome.complete, outcome
            for name in TRACKS:
                self.settle(name)
            self.check_replica(complete=True)
        shutil.rmtree(self.world.root, ignore_errors=True)
        self.go_on_from_replica()

    # -- everything --------------------------------------------------------------------------------------------------

    def check_everything(self, process: Process) -> None:
        session = process.session
        filled = sorted(name for name, model in self.tracks.items() if model.points)
        listed = session.tracks.list()  # a flush that failed or was cut short can leave a track without points, too
        assert [name for name in listed if name in filled] == filled
        for name, model in self.tracks.items():
            model.assert_read(session.track(name).read(limit=None))
        check_reading(session.track(TRACKS[0]), self.tracks[TRACKS[0]], "frames", 0, 0, None)
        if self.world.kind != "local":
            self.check_replica(complete=True)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=200, stateful_step_count=30)
