"""Random histories of a session against a plain-Python model, once flushed and read at every step and once not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from model import ModelTrack, Spy, Time, spy_on

import dreamlake.engine.lifecycle as lifecycle
from dreamlake import Session

TRACKS = ["a", "a/b", "漢字"]
SEGMENT_POINTS = 7

scalars = st.one_of(
    st.integers(-2, 2),
    st.sampled_from([0.5, -0.0, float("nan"), float("inf"), 2**60, 10**30, None, True, "s", "", b"b"]),
)
values = st.one_of(
    scalars,
    st.lists(st.sampled_from([1.0, 2, None]), max_size=3),
    st.dictionaries(st.sampled_from(["k", "$l"]), scalars, max_size=2),
    st.just(datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
)
fields = st.one_of(
    st.fixed_dictionaries({"loss": st.sampled_from([0.5, 1.5]), "step": st.integers(0, 3)}),
    st.dictionaries(st.sampled_from(["loss", "step", "self", "len", "x y", "$d"]), values, max_size=3),
)
#: How a row gets its timestamp: not at all, from the point before, a small one, one of a point that is there, or the
#: one that the clock will show in a second.
stamps = st.one_of(
    st.sampled_from(["automatic", "automatic", "inherited", "ahead"]),
    st.tuples(st.just("small"), st.integers(0, 9)),
    st.tuples(st.just("known"), st.integers(0, 10_000)),
)
rows = st.lists(st.tuples(fields, stamps), min_size=1, max_size=9)


class Twin:
    """One of the two lakes that get the same history: `eager` flushes after every step."""

    def __init__(self, time: Time, eager: bool) -> None:
        self.time = time
        self.eager = eager
        self.folder = tempfile.mkdtemp(prefix="dreamlake-test-")
        self.sessions: list[Session] = []
        self.clock: Spy
        self.open()

    def open(self) -> None:
        session = Session(
            "s", "w", self.folder, segment_points=SEGMENT_POINTS, flush_interval=3600.0, metadata={"eager": self.eager}
        )
        self.sessions.append(session.open())
        self.clock = spy_on(session, self.time)

    def track(self, name: str, which: int) -> Any:
        return self.sessions[which % len(self.sessions)].track(name)

    def end(self) -> None:
        for session in self.sessions:
            session.close()
        shutil.rmtree(self.folder)


class History(RuleBasedStateMachine):
    """The same steps on two lakes and on the model."""

    @initialize()
    def begin(self) -> None:
        self.time = Time()
        self.twins = [Twin(self.time, eager=False), Twin(self.time, eager=True)]
        self.tracks = {name: ModelTrack() for name in TRACKS}
        #: The timestamp of the latest append in these sessions; the highest automatic one.
        self.latest: float | None = None
        self.highest = float("-inf")

    def teardown(self) -> None:
        if hasattr(self, "twins"):
            try:
                for twin in self.twins:
                    self.check(twin)
            finally:
                for twin in self.twins:
                    twin.end()

    def check(self, twin: Twin) -> None:
        session = twin.sessions[-1]
        filled = sorted(name for name, model in self.tracks.items() if model.points)
        assert session.tracks.list() == filled
        for name, model in self.tracks.items():
            track = session.track(name)
            model.assert_read(track.read(limit=None))
            frame = track.to_polars()
            assert len(frame) == len(track) == len(model.points)
            assert set(frame.columns) == {"_index", "_ts"}.union(*model.points)
            assert frame["_ts"].to_list() == [point["_ts"] for point in model.points]

    def after_step(self) -> None:
        self.check(self.twins[1])

    # -- time

    def stamp(self, stamp: Any, model: ModelTrack) -> float | None:
        """The `_ts` to give for a kind of stamp; None for none."""
        if stamp == "automatic":
            return None
        if stamp == "inherited":
            return -1
        if stamp == "ahead":
            return self.time.now + 1
        kind, number = stamp
        if kind == "small" or not model.points:
            return float(number % 10)
        return float(model.points[number % len(model.points)]["_ts"])

    def drawn(self, ts: float) -> None:
        assert ts > self.highest, "automatic timestamps rise"
        self.highest = ts

    def model_add(self, model: ModelTrack, given: dict[str, Any], ts: float | None, drawn: list[float]) -> None:
        automatic = ts is None or (ts == -1 and self.latest is None)
        if automatic:
            at = drawn.pop(0)
            self.drawn(at)
        else:
            at = self.latest if ts == -1 else ts  # type: ignore[assignment]
        self.latest = at
        model.add(given, at, automatic)

    # -- steps

    @rule(name=st.sampled_from(TRACKS), given=fields, stamp=stamps, which=st.integers(0, 1), count=st.integers(1, 4))
    def append(self, name: str, given: dict[str, Any], stamp: Any, which: int, count: int) -> None:
        model = self.tracks[name]
        for _ in range(count):
            ts = self.stamp(stamp, model)
            extra = {} if ts is None else {"_ts": ts}
            draws = []
            for twin in self.twins:
                track = twin.track(name, which)
                assert track.append(**given, **extra) is track
                draws.append(twin.clock.last)
                twin.clock.take()
            assert draws[0] == draws[1], "timestamps depend on flushes"
            self.model_add(model, given, ts, [draws[0]])
        self.after_step()

    @rule(name=st.sampled_from(TRACKS), rows=rows, which=st.integers(0, 1))
    def batch_of_dicts(self, name: str, rows: list[Any], which: int) -> None:
        model = self.tracks[name]
        points = []
        for given, stamp in rows:
            ts = self.stamp(stamp, model)
            points.append(dict(given) if ts is None else {**given, "_ts": ts})
        self.batch(name, points, points, which)

    @rule(
        name=st.sampled_from(TRACKS),
        count=st.integers(1, 20),
        stamp=stamps,
        rising=st.booleans(),
        form=st.sampled_from(["dicts", "columns", "polars", "arrow", "numbers"]),
        which=st.integers(0, 1),
    )
    def batch_of_columns(self, name: str, count: int, stamp: Any, rising: bool, form: str, which: int) -> None:
        model = self.tracks[name]
        first = self.stamp(stamp, model)
        columns: dict[str, list[Any]] = {"loss": [i * 0.5 for i in range(count)], "step": list(range(count))}
        if first is not None:
            columns["_ts"] = [float(first + i if rising and first != -1 else first) for i in range(count)]
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
        self.batch(name, points, made, which)

    def batch(self, name: str, points: list[dict[str, Any]], made: Any, which: int) -> None:
        model = self.tracks[name]
        results, draws = [], []
        for twin in self.twins:
            twin.clock.take()
            results.append(twin.track(name, which).append_batch(made))
            draws.append(twin.clock.take())
        assert draws[0] == draws[1], "timestamps depend on flushes"
        drawn = draws[0]
        indices = []
        for point in points:
            given = {field: value for field, value in point.items() if field != "_ts"}
            before = len(model.points)
            ts = point.get("_ts")
            self.model_add(model, given, ts, drawn)
            grown = len(model.points) > before
            indices.append(before if grown else self.index_of(model, self.latest))
        assert not drawn
        expected = {"count": len(points), "startIndex": min(indices), "endIndex": max(indices) + 1}
        assert results == [expected, expected]
        self.after_step()

    @staticmethod
    def index_of(model: ModelTrack, ts: float | None) -> int:
        return next(index for index, point in enumerate(model.points) if point["_ts"] == ts)

    @rule(seconds=st.sampled_from([0.0, 1.0, 1.0, 3.5, -5.0, 2.0**-30]))
    def move_the_clock(self, seconds: float) -> None:
        self.time.now += seconds

    @rule(name=st.sampled_from(TRACKS), how=st.sampled_from(["track", "tracks", "session"]))
    def flush(self, name: str, how: str) -> None:
        session = self.twins[0].sessions[-1]
        if how == "track":
            session.track(name).flush()
        elif how == "tracks":
            session.tracks.flush()
        else:
            session.flush()

    @rule()
    def read(self) -> None:
        self.check(self.twins[0])

    @rule(new_object=st.booleans())
    def close_and_open(self, new_object: bool) -> None:
        for twin in self.twins:
            for session in twin.sessions:
                session.close()
            if new_object:
                twin.sessions.clear()
                twin.open()
            else:
                del twin.sessions[1:]
                twin.sessions[0].open()
                twin.clock = spy_on(twin.sessions[0], self.time)
        self.latest = None
        self.after_step()

    @rule()
    def another_session_object(self) -> None:
        for twin in self.twins:
            if len(twin.sessions) < 2:
                twin.open()

    @rule(first=st.booleans())
    def close_one_of_two(self, first: bool) -> None:
        for twin in self.twins:
            if len(twin.sessions) == 2:
                twin.sessions.pop(0 if first else 1).close()


class Process:
    """A session that shares nothing with others in this interpreter, as one of another process would not."""

    def __init__(self, time: Time, folder: str) -> None:
        self.time = time
        self.folder = folder
        self.state = lifecycle._Process()
        #: What was appended and not flushed, by track: fields, timestamp, whether that is an automatic one.
        self.pending: dict[str, list[tuple[dict[str, Any], float, bool]]] = {name: [] for name in TRACKS}
        self.open()

    @contextmanager
    def running(self) -> Iterator[None]:
        before, lifecycle._process = lifecycle._process, self.state
        try:
            yield
        finally:
            lifecycle._process = before

    def open(self) -> None:
        with self.running():
            self.session = Session("s", "w", self.folder, segment_points=SEGMENT_POINTS, flush_interval=3600.0).open()
        self.clock = spy_on(self.session, self.time)
        self.latest: float | None = None

    def close(self) -> None:
        with self.running():
            self.session.close()


class TwoProcesses(RuleBasedStateMachine):
    """Two writers take turns on one lake; what a flush of either wrote is there for both, in the order of flushes."""

    @initialize()
    def begin(self) -> None:
        self.time = Time()
        self.folder = tempfile.mkdtemp(prefix="dreamlake-test-")
        self.processes = [Process(self.time, self.folder), Process(self.time, self.folder)]
        self.tracks = {name: ModelTrack() for name in TRACKS}

    def teardown(self) -> None:
        if hasattr(self, "processes"):
            try:
                for process in self.processes:
                    self.flushed(process, *TRACKS)
                    process.close()
                self.check(self.processes[0])
            finally:
                for process in self.processes:
                    process.close()
                shutil.rmtree(self.folder)

    def flushed(self, process: Process, *names: str) -> None:
        for name in names:
            for row in process.pending[name]:
                self.tracks[name].add(*row)
            process.pending[name].clear()

    def check(self, process: Process) -> None:
        for name, model in self.tracks.items():
            track = process.session.track(name)
            model.assert_read(track.read(limit=None))
            assert set(track.to_polars().columns) == {"_index", "_ts"}.union(*model.points)

    @rule(
        name=st.sampled_from(TRACKS[:2]), given=fields, stamp=stamps, which=st.integers(0, 1), count=st.integers(1, 9)
    )
    def append(self, name: str, given: dict[str, Any], stamp: Any, which: int, count: int) -> None:
        process = self.processes[which]
        for _ in range(count):
            ts = self.stamp(stamp, name)
            automatic = ts is None or (ts == -1 and process.latest is None)
            process.session.track(name).append(**given, **({} if ts is None else {"_ts": ts}))
            given_at = process.latest if ts == -1 else ts
            process.latest = at = process.clock.last if automatic or given_at is None else given_at
            process.pending[name].append((given, at, automatic))

    def stamp(self, stamp: Any, name: str) -> float | None:
        """The `_ts` to give; None for none."""
        if isinstance(stamp, str):
            return {"automatic": None, "inherited": -1.0, "ahead": self.time.now + 1}[stamp]
        kind, number = stamp
        points = self.tracks[name].points
        return float(points[number % len(points)]["_ts"]) if kind == "known" and points else float(number % 10)

    @rule(name=st.sampled_from(TRACKS[:2]), which=st.integers(0, 1), count=st.integers(1, 20), first=st.integers(0, 30))
    def batch(self, name: str, which: int, count: int, first: int) -> None:
        process = self.processes[which]
        self.flushed(process, name)
        rows = [{"n": n, "_ts": float(first + n)} for n in range(count)]
        before = len(self.tracks[name].points)
        result = process.session.track(name).append_batch(rows)
        indices = [self.tracks[name].add({"n": row["n"]}, row["_ts"], False) for row in rows]
        process.latest = rows[-1]["_ts"]
        assert result == {"count": count, "startIndex": min(indices), "endIndex": max(indices) + 1}, before

    @rule(name=st.sampled_from(TRACKS[:2]), which=st.integers(0, 1))
    def flush_one(self, name: str, which: int) -> None:
        self.processes[which].session.track(name).flush()
        self.flushed(self.processes[which], name)

    @rule(which=st.integers(0, 1))
    def flush(self, which: int) -> None:
        self.processes[which].session.flush()
        self.flushed(self.processes[which], *TRACKS)

    @rule(which=st.integers(0, 1))
    def read(self, which: int) -> None:
        self.flush(which)
        self.check(self.processes[which])

    @rule(which=st.integers(0, 1))
    def close_and_open(self, which: int) -> None:
        process = self.processes[which]
        process.close()
        self.flushed(process, *TRACKS)
        process.open()

    @rule(seconds=st.sampled_from([0.0, 1.0, 1.0, -5.0]))
    def move_the_clock(self, seconds: float) -> None:
        self.time.now += seconds


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=25)
TestTwoProcesses = TwoProcesses.TestCase
TestTwoProcesses.settings = settings(max_examples=60, stateful_step_count=25)
