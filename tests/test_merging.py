"""Points with equal timestamps are one point, wherever the earlier one lies and whenever flushes happen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import build
import pytest
from columnar import assert_same_points, point_lists
from hypothesis import given, settings
from hypothesis import strategies as st
from model import ModelTrack, points_of
from support import run_python, start_python
from world import Process, World

from dreamlake import Lake, Session
from dreamlake.engine.ondisk import TrackOnDisk
from dreamlake.engine.sorting import with_changes
from dreamlake.format.point import encode_text
from dreamlake.format.schema import to_points

HOUR = 3600.0


@pytest.fixture
def make(lake_dir: Path) -> Callable[..., Session]:
    def make(**options: Any) -> Session:
        return Session("s", "w", lake_dir, **{"flush_interval": HOUR, "segment_points": 7, **options})

    return make


# ------------------------------------------------------------------------------------------------ wherever it lies

STEPS: dict[str, Callable[[Session], Any]] = {
    "pending": lambda session: None,
    "hot": lambda session: session.flush(),
    "in a segment": lambda session: session.track("t").append_batch([{"n": n} for n in range(7)]),
    "in a later run": lambda session: (session.close(), session.open()),
}


@pytest.mark.parametrize("between", STEPS)
@pytest.mark.parametrize("explicit_first", [True, False])
def test_a_later_field_reaches_its_point(make: Any, between: str, explicit_first: bool) -> None:
    with make() as session:
        track = session.track("t")
        track.append(a=1, b=1, **({"_ts": 5.0} if explicit_first else {}))
        ts = 5.0 if explicit_first else session.writer.clock.last
        STEPS[between](session)
        track.append(b=2, c=[1.0], _ts=ts)
        STEPS[between](session)
        track.append(d=None, _ts=ts)
        assert points_of(track)[0] == {"a": 1, "b": 2, "c": [1.0], "d": None, "_ts": ts}
        assert len(track) == (15 if between == "in a segment" else 1)


@given(point_lists(max_size=9), st.data())
def test_late_fields_of_a_wide_segment_change_their_row_groups_only(
    points: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Whatever types come: the points are what they would be if all of them were made anew."""
    points = [{**point, "_ts": float(at)} for at, point in enumerate(points)]
    changes = data.draw(
        st.dictionaries(st.integers(0, len(points) - 1), point_lists(max_size=1).map(lambda got: got[0]))
    )
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        track = build.TrackOnDisk(Path(folder))
        track.segment(points, 0)
        disk = TrackOnDisk(str(track.folder), track.name, 10, False, lambda: None)
        disk.learn(1, 1)
        table, kinds = disk.read_segment(disk.live[0], None)
        stored = to_points(table, kinds)
        patch.setattr("dreamlake.format.segment.WIDE_ROW_GROUP", 2)
        batch = disk._changed(disk.live[0], changes)
    expected = with_changes(points, 0, changes)
    if batch is None:
        assert_same_points(points, expected)
    else:
        batch.data.validate(full=True)
        found = to_points(batch.data, batch.schema)
        assert_same_points(expected, found)
        for before, after in zip(with_changes(stored, 0, changes), found, strict=True):
            for name, kind in batch.schema.items():
                if kind == "json" and name in before:  # JSON widens nothing, and keeps the order of keys
                    assert encode_text(after[name]) == encode_text(before[name])


def test_values_beside_a_late_field_keep_their_types_where_the_column_is_json(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamlake.format.segment.WIDE_ROW_GROUP", 2)
    odd = {"n": 4, "list": [1, 2], "dict": {"p": 1, "q": 2}, "late": 3}
    even = {"n": 0.5, "list": [0.5], "dict": {"q": 1, "p": 2}}
    rows = [{"n": "x", "list": ["x"], "dict": "x"}, *(odd if at % 2 else even for at in range(1, 7))]
    with make() as session:
        track = session.track("t")
        track.append_batch([{**row, "_ts": float(at)} for at, row in enumerate(rows)])
        before = [dict(point) for point in points_of(track)]
        # The second makes a field JSON that was of integers, and the third brings a float to one beside it.
        for changes in ({3.0: {"more": 1}}, {0.0: {"late": "x"}, 4.0: {"late": 0.5}}):
            for ts, fields in changes.items():
                track.append(**fields, _ts=ts)
                before[int(ts)].update(fields)
            track.flush()
            found = points_of(track)
            for index, point in enumerate(before):
                assert {name: repr(value) for name, value in found[index].items()} == {
                    name: repr(value) for name, value in point.items()
                }


def test_timestamps_of_few_segments_are_kept_for_late_fields(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamlake.engine.known.CACHED_STAMPS", 15)
    stamps = [100.0 * (at // 7) + (3, 0, 6, 1, 5, 2, 4)[at % 7] for at in range(28)]
    late = (27, 0, 8, 20, 3, 15)
    with make() as session:
        track = session.track("t")
        track.append_batch([{"n": at, "_ts": ts} for at, ts in enumerate(stamps)])
        for at in late:
            track.append(late=at, _ts=stamps[at]).flush()
            assert 1 <= len(session.writer.tracks["t"]._disk._columns) <= 2
        found = {point["n"]: point.get("late") for point in points_of(track)}
    assert found == {at: at if at in late else None for at in range(28)}


def test_a_late_field_makes_the_next_generation(make: Any, lake_dir: Path) -> None:
    folder = lake_dir / "w" / "s" / "tracks" / "t"
    with make() as session:
        track = session.track("t")
        track.append_batch([{"n": n, "_ts": float(n)} for n in range(14)])
        track.append(late=1, _ts=3.0).append(late=2, _ts=3.0).append(late=3, _ts=5.0).flush()
        names = sorted(path.name for path in folder.glob("*.parquet"))
        assert names == [
            "000000000000-000000000007.1.parquet",
            "000000000000-000000000007.parquet",
            "000000000007-000000000014.parquet",
        ], "the late fields of one flush make one generation"
        track.append(late=3, _ts=5.0).flush()
        assert sorted(path.name for path in folder.glob("*.parquet")) == names, "nothing new, nothing written"
        assert [p.get("late") for p in points_of(track)[:7]] == [None, None, None, 2, None, 3, None]


def test_late_fields_of_several_segments_are_all_in_the_frame(make: Any) -> None:
    """A footer that knows the generations before it knows their columns too."""
    for order in ((1.0, 9.0), (9.0, 1.0)):
        with make() as session:
            track = session.track(f"t{order[0]}")
            track.append_batch([{"loss": n / 2, "_ts": float(n)} for n in range(14)])
            track.append(first=1, _ts=order[0])
            track.append(second=1, loss={"k": 1}, _ts=order[1])
            track.flush()
            for view in (track, Lake(session.store().root).session("s", "w").track(track.name)):
                frame = view.to_polars()
                assert frame.columns[:3] == ["_index", "_ts", "loss"]
                assert set(frame.columns[3:]) == {"first", "second"}
                assert frame["first"].drop_nulls().to_list() == frame["second"].drop_nulls().to_list() == [1]
                assert frame["loss"].to_list()[int(order[1])] == '{"k":1}'
                assert set(view.stats()["fields"]) == {"loss", "first", "second"}
            track.append(third=3, _ts=100.0)
            track.append_batch([{"n": n} for n in range(7)])
            assert {"first", "second", "third", "n"} <= set(track.to_polars().columns)


def test_a_segment_is_asked_only_within_its_bounds(make: Any) -> None:
    with make() as session:
        track = session.track("t")
        track.append_batch([{"n": n, "_ts": 10.0 * n} for n in range(14)])
        track.append(n=100, _ts=45.0)
        track.append(n=101, _ts=65.0)
        points = points_of(track)
    assert [point["n"] for point in points] == [*range(14), 100, 101], "the index is the order of first arrival"
    assert [point["_ts"] for point in points[-2:]] == [45.0, 65.0]


def test_merging_goes_to_the_lowest_index_across_tiers(make: Any) -> None:
    with make() as session:
        clock = session.writer.clock
        track = session.track("t")
        for tier in range(3):  # three automatic points of one timestamp, one in a segment and two hot
            now, last = clock.now, clock.last
            clock.now, clock.last = (lambda: 50.0), float("-inf")
            track.append_batch([{"tier": tier}])
            clock.now, clock.last = now, max(last, 50.0)
            if tier == 0:
                track.append_batch([{"n": n} for n in range(6)])
        assert [p["tier"] for p in points_of(track) if p["_ts"] == 50.0] == [0, 1, 2]
        track.append(x=1, _ts=50.0)
        assert [p.get("x") for p in points_of(track) if p["_ts"] == 50.0] == [1, None, None]


# ------------------------------------------------------------------------------------------------ whenever it happens

rows = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(0, 3), st.none(), st.just(0.5)), max_size=2),
        st.sampled_from(["", "", "", "flush", "reopen", "batch"]),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(rows)
def test_merging_does_not_depend_on_flushes(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    root = tmp_path_factory.mktemp("lake")
    model = ModelTrack()
    sessions = [Session(name, "w", root, flush_interval=HOUR, segment_points=5).open() for name in ("lazy", "eager")]
    for ts, fields, then in rows:
        model.add(fields, float(ts), automatic=False)
        for session in sessions:
            track = session.track("t")
            if then == "batch":
                track.append_batch([{**fields, "_ts": ts}])
            else:
                track.append(**fields, _ts=ts)
        eager = sessions[1]
        if then == "flush":
            eager.flush()
        elif then == "reopen":
            eager.close()
            eager.open()
    for session in sessions:
        model.assert_read(session.track("t").read(limit=None))
        session.close()
        model.assert_read(session.track("t").read(limit=None))


# ------------------------------------------------------------------------------------------------ processes

WRITE = """
    import sys
    from dreamlake import Session
    me, folder = sys.argv[1:]
    session = Session("s", "w", folder, segment_points=50, flush_interval=3600).open()
    track = session.track("t")
    print("ready", flush=True)
    sys.stdin.readline()
    for step in range(300):
        track.append(**{me: step}, _ts=float(step))
        session.track("log").append(me=me, step=step)
        if step % 23 == 0:
            session.flush()
    session.close()
"""


def test_processes_add_fields_to_the_same_points(lake_dir: Path) -> None:
    with start_python(WRITE, "one", lake_dir) as one, start_python(WRITE, "two", lake_dir) as two:
        for process in (one, two):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        results = []
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in (one, two):
            results.append(process.communicate(timeout=120))
            assert process.returncode == 0, results
    view = Lake(lake_dir).session("s", "w")
    points = points_of(view.track("t"))
    assert sorted(point["_ts"] for point in points) == [float(step) for step in range(300)]
    assert all(point["one"] == point["two"] == point["_ts"] for point in points)
    assert view.track("t").to_polars()["one"].null_count() == 0
    log = points_of(view.track("log"))
    for me in ("one", "two"):
        assert [point["step"] for point in log if point["me"] == me] == list(range(300))


def test_a_point_of_another_process_is_found_without_a_reopen(lake_dir: Path, make: Any) -> None:
    with make() as session:
        track = session.track("t")
        for step in range(3):
            track.append(mine=step, _ts=float(step))
        track.flush()
        code = """
        import sys
        from dreamlake import Session
        with Session("s", "w", sys.argv[1], segment_points=7, flush_interval=3600) as session:
            for step in range(2, 20):
                session.track("t").append(theirs=step, _ts=float(step))
        """
        run_python(code, lake_dir)
        track.append(late=1, _ts=10.0).append(late=2, _ts=19.0).append(new=1, _ts=20.0)
        points = points_of(track)
        assert [point["_ts"] for point in points] == [float(step) for step in range(21)]
        assert points[2] == {"mine": 2, "theirs": 2, "_ts": 2.0}
        assert points[10] == {"theirs": 10, "late": 1, "_ts": 10.0}
        assert points[19] == {"theirs": 19, "late": 2, "_ts": 19.0}


def test_a_hot_file_that_another_process_wrote_anew_is_read_anew() -> None:
    """Without a roll, and longer than before by now: where this process had read to is the middle of a line."""
    world = World("local", segment_points=1000)
    first, second = Process(world), Process(world)
    try:
        for process in (first, second):
            process.open()
        first.session.track("a").append(i=0, _ts=1.0)
        first.session.flush()
        second.session.track("a").append(i=1, _ts=2.0)
        second.session.flush()
        path = Path(world.track_folder("a"), "data.jsonl")
        lines = []
        for number in range(8):
            first.session.track("a").append(x=number, _ts=1.0)
            first.session.flush()
            lines.append(path.read_bytes().count(b"\n"))
        assert lines != sorted(lines), "it was written anew"
        first.session.track("a").append(text="long " * 100)
        first.session.flush()
        second.session.track("a").append(i=3)
        second.session.flush()
        points = world.points("a")
        assert [point.get("i") for point in points] == [0, 1, None, 3]
        assert points[0]["x"] == 7
    finally:
        for process in (first, second):
            process.die()
        world.end()
