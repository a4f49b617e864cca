"""Random lives of a session against a plain Python list: whatever happens to it, what was flushed is there, once."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import values
from columnar import point_lists
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from model import Row
from onelife import Life, counts, steps
from reading import WAYS, check_reading
from world import DISK, NETWORK, TRACKS

from dreamlake import Lake, Session

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

#: What each life is of, whatever is drawn; any of them where it is empty.
only_kind = ""


class Lives(Life, RuleBasedStateMachine):
    """The steps that a life may take."""

    @initialize(
        kind=st.sampled_from(["local", "local", "replica", "replica", "temporary"]),
        fsync=st.booleans(),
        points=st.sampled_from([3, 5, 12]),
    )
    def begin(self, kind: str, fsync: bool, points: int) -> None:
        self.start(only_kind or kind, fsync, points)

    # -- appending ---------------------------------------------------------------------------------------------------

    @rule(which=which, session=which, name=names, given=fields, stamp=stamps, count=st.integers(1, 4))
    def append_anything(
        self, which: int, session: int, name: str, given: dict[str, Any], stamp: Any, count: int
    ) -> None:
        steps["append"] += 1
        self.append(which, session, name, given, stamp, count)

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
        points = [{**point, "_ts": -1 if point["_ts"] == -1 else point["_ts"]} for point in points]
        self.given.update(point["_ts"] for point in points)
        self.batch(self.process(which), name, points, points, trouble)

    @rule(
        which=which,
        name=names,
        count=st.integers(1, 40),
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
            # Among times as small as these only the integer inherits.
            columns["_ts"] = [-1 if first == -1 else float(first + i if rising else first) for i in range(count)]
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
        self.settle_others([name])

    @rule(which=which, name=names, count=st.integers(0, 40), trouble=disk)
    def compact(self, which: int, name: str, count: int, trouble: tuple[str, int]) -> None:
        steps["compact"] += 1
        process = self.process(which)
        if count > 5:  # for something to merge
            points = [{"loss": i / 2} for i in range(count)]
            self.batch(process, name, points, points, ("", 0))
        done = self.flushes(process, [name], process.session.track(name).compact, trouble)
        counts["segments merged"] += done["merged"] if done else 0
        self.settle(name)

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
            return made, track.read(limit=None) if flush and read and not self.is_cut_off else None

        may_wait = self.world.may_wait(name)
        made, found = process.fork(work)
        written = [Row(*row) for row in made] if flush else []
        self.drawn |= {row.ts for row in written if row.automatic}
        left = self.settle(name, written, (), may_wait)
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

    @has_replica
    @rule(dead=st.booleans())
    def cut_or_mend_the_network(self, dead: bool) -> None:
        steps["network"] += 1
        self.world.network.is_dead = dead

    @precondition(lambda self: self.world.kind == "replica")
    @rule(synced=st.booleans())
    def lose_the_disk(self, synced: bool) -> None:
        steps["lose the disk"] += 1
        if synced:
            self.heal()
            self.flush_first(self.processes[0])
            self.flushes(self.processes[0], TRACKS, self.processes[0].session.sync)
            self.check_replica(complete=True)
        for process in self.processes:
            process.die()
        self.world.lose_disk()
        self.go_on_from_replica()
        for process in self.processes:
            self.open(process)

    # -- everything --------------------------------------------------------------------------------------------------


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=30)
