"""Merging of segments: which become one, that nothing of them changes, and that nobody ever notices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from crashlib import in_thread
from hypothesis import given
from hypothesis import strategies as st
from model import points_of
from polars.testing import assert_frame_equal
from values import same

import dreamlake.engine.compaction as compaction
import dreamlake.engine.sweep as sweeping
from dreamlake import Lake, Session
from dreamlake.engine.compaction import MOST_BYTES, plan
from dreamlake.errors import CorruptTrackError, SessionClosedError
from dreamlake.format.layout import SegmentName
from dreamlake.format.segment import open_segment

HOUR = 3600.0
SIZE = 5


@pytest.fixture
def session(lake_dir: Path) -> Iterator[Session]:
    with Session("s", "w", lake_dir, segment_points=SIZE, flush_interval=HOUR) as session:
        yield session


def segments(lake_dir: Path, track: str = "a") -> list[str]:
    """The live segments of a track, by their ranges."""
    files = Lake(lake_dir).session("s", "w").track(track).files()
    return [Path(file).name.removesuffix(".parquet") for file in files if file.endswith(".parquet")]


def ranges(*bounds: int) -> list[str]:
    return [f"{start:012}-{stop:012}" for start, stop in pairwise(bounds)]


# -- which ---------------------------------------------------------------------------------------------------------


def tiling(counts: list[int]) -> list[SegmentName]:
    names, start = [], 0
    for count in counts:
        names.append(SegmentName(start, start + count))
        start += count
    return names


def spans(runs: list[tuple[SegmentName, ...]]) -> list[tuple[int, int]]:
    return [(run[0].start, run[-1].stop) for run in runs]


def test_ten_become_one_and_a_hundred_too() -> None:
    assert spans(plan(tiling([10] * 9), 10, [1] * 9)) == []
    assert spans(plan(tiling([10] * 10), 10, [1] * 10)) == [(0, 100)]
    assert spans(plan(tiling([10] * 37), 10, [1] * 37)) == [(0, 100), (100, 200), (200, 300)]
    assert spans(plan(tiling([10] * 123), 10, [1] * 123)) == [(0, 1000), (1000, 1100), (1100, 1200)]
    assert spans(plan(tiling([100] * 9 + [10] * 12), 10, [1] * 21)) == [(0, 1000)]
    assert spans(plan(tiling([1000] + [100] * 9 + [10] * 9), 10, [1] * 19)) == []


def test_what_is_left_out_is_never_merged_over() -> None:
    names = tiling([10] * 25)
    assert spans(plan(names, 10, [1] * 25, {names[12]})) == [(0, 100), (130, 230)]


def test_large_segments_are_merged_in_fewer_and_then_let_be() -> None:
    sizes = [MOST_BYTES // 7] * 12
    runs = plan(tiling([10] * 12), 10, sizes)
    assert spans(runs) == [(0, 40), (40, 80), (80, 120)]
    assert plan(tiling([40, 40, 40]), 10, [4 * MOST_BYTES // 7] * 3) == []


def test_a_segment_of_wide_ones_keeps_row_groups_that_a_short_range_can_do_with(lake_dir: Path) -> None:
    with Session("wide", "w", lake_dir, flush_interval=HOUR) as session:
        track = session.track("a")
        for _ in range(10):
            track.append_batch({"v": [0.5] * 100_000})
            track.compact()
        (file,) = track.files()
    about = pq.read_metadata(file)
    assert {about.row_group(group).num_rows for group in range(about.num_row_groups)} == {10_000}
    assert about.num_rows == 1_000_000


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 200)), max_size=300), st.integers(1, 12), st.data())
def test_a_plan_is_of_neighbours_and_leaves_nothing_to_plan(
    segments: list[tuple[int, int]], usual: int, data: st.DataObject
) -> None:
    names = tiling([count for count, _ in segments])
    left_out = set(data.draw(st.lists(st.sampled_from(names), max_size=3))) if names else set()
    runs = plan(names, usual, [size for _, size in segments], left_out)
    place = 0
    for run in runs:
        at = names.index(run[0], place)
        assert tuple(names[at : at + len(run)]) == run
        assert len(run) > 1
        assert left_out.isdisjoint(run)
        assert 10 * usual <= run[-1].stop - run[0].start <= max(200 * usual, 2 * 40)
        place = at + len(run)
    after = list(names)
    for run in runs:
        at = after.index(run[0])
        after[at : at + len(run)] = [SegmentName(run[0].start, run[-1].stop)]
    assert plan(after, usual, [1] * len(after), left_out) == []


# -- what they hold ------------------------------------------------------------------------------------------------

ODD = [
    {"v": 0.5},
    {"v": 1, "text": "é"},
    {"v": float("nan"), "none": None},
    {"v": 2**70, "list": [1.5, None]},
    {},
    {"text": "t", "dict": {"a": 1}},
    {"dict": {"b": [True]}, "v": -0.0},
]


def write(session: Session, count: int, track: str = "a") -> list[dict[str, Any]]:
    """Points of many shapes, flushed by two or three, some with late fields; what they are."""
    target = session.track(track)
    points = []
    for number in range(count):
        fields = {"n": number, **ODD[number // 11 % len(ODD)], "_ts": 1000.0 + number}
        points.append(fields)
        target.append(**fields)
        if number % 3 == 0:
            target.flush()
        if number % 17 == 16:
            target.append(late=number, _ts=1000.0 + number - 12)
            points[number - 12] = {**points[number - 12], "late": number}
    target.flush()
    return points


def check(track: Any, points: list[dict[str, Any]]) -> None:
    found = points_of(track)
    assert len(found) == len(points)
    for point, expected in zip(found, points, strict=True):
        assert point.keys() == expected.keys()
        for name, value in expected.items():
            got = point[name]
            assert same(got, value) or (type(value) is int and same(got, float(value))), (name, got, value)


@pytest.mark.parametrize("count", [49, 55, 260, 523])
def test_nothing_changes_but_the_files(lake_dir: Path, session: Session, count: int) -> None:
    points = write(session, count)
    track = session.track("a")
    frame = track.to_polars()
    before = len(segments(lake_dir))
    result = track.compact()
    assert result["segments"] == len(segments(lake_dir)) == before - result["merged"] + result["into"]
    assert (result["into"] > 0) == (count >= 50)
    for view in (track, session.track("a"), Lake(lake_dir).session("s", "w").track("a")):
        check(view, points)
        # Of "v" an integer may show as 1.0 now: a neighbour in the same segment holds floats.
        assert_frame_equal(view.to_polars().drop("v"), frame.drop("v"))
        part = view.scan().filter(pl.col("_index").is_between(13, 61)).collect()
        assert_frame_equal(part.drop("v"), frame[13:62].drop("v"))
        assert [row["index"] for row in view.read_by_time(1010.0, 1030.0)["data"]] == list(range(10, 30))
        assert [row["index"] for row in view.read(17, 9)["data"]] == list(range(17, 26))
    again = track.compact()
    assert (again["merged"], again["into"]) == (0, 0)


def test_a_hundred_and_more_become_few(lake_dir: Path, session: Session) -> None:
    session.track("a").append_batch({"v": [0.5 * i for i in range(SIZE * 123)]})
    assert session.track("a").compact() == {"merged": 120, "into": 3, "segments": 6}
    assert segments(lake_dir) == ranges(0, 500, 550, 600, 605, 610, 615)
    session.track("a").append_batch({"v": [0.5 * i for i in range(SIZE * 77)]})
    assert session.track("a").compact() == {"merged": 82, "into": 1, "segments": 2}
    assert segments(lake_dir) == ranges(0, 500, 1000)


def test_it_goes_on_with_appends_late_fields_and_resumes(lake_dir: Path) -> None:
    options: dict[str, Any] = {"local_path": lake_dir, "segment_points": SIZE, "flush_interval": HOUR}
    with Session("s", "w", **options) as session:
        points = write(session, 60)
        session.track("a").compact()
        session.track("a").append(extra="x", _ts=1003.0)
        points[3] = {**points[3], "extra": "x"}
        session.track("a").append(n=60, _ts=1060.0)
        points.append({"n": 60, "_ts": 1060.0})
        session.flush()
        assert f"{ranges(0, 50)[0]}.1" in segments(lake_dir)
        check(session.track("a"), points)
    with Session("s", "w", **options) as session:
        session.track("a").append(n=61, _ts=1061.0)
        session.track("a").append(extra="y", _ts=1004.0)
        points.append({"n": 61, "_ts": 1061.0})
        points[4] = {**points[4], "extra": "y"}
        check(session.track("a"), points)
        session.track("a").compact()
        check(session.track("a"), points)


def test_a_track_that_was_never_opened_is_opened(lake_dir: Path) -> None:
    with Session("s", "w", lake_dir, segment_points=SIZE) as session:
        session.track("a").append_batch({"v": list(range(SIZE * 10))})
    again = Session("s", "w", lake_dir, segment_points=SIZE)
    assert again.track("a").compact() == {"merged": 10, "into": 1, "segments": 1}
    again.close()
    with pytest.raises(SessionClosedError):
        again.track("a").compact()
    with Session("s", "w", lake_dir) as session:
        assert session.track("nothing").compact() == {"merged": 0, "into": 0, "segments": 0}


# -- beside others -------------------------------------------------------------------------------------------------


def test_the_parts_go_after_their_grace(lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    points = write(session, 60)
    track, folder = session.track("a"), lake_dir / "w/s/tracks/a"
    lazy = track.scan()
    kept = Lake(lake_dir).session("s", "w").track("a")
    kept.read(limit=3)
    track.compact()
    parts = sorted(path.name for path in folder.glob("*.parquet"))
    assert len(parts) > 12
    assert lazy.collect().height == 60
    monkeypatch.setattr(sweeping, "GRACE", -60.0)
    track.compact()
    assert sorted(path.name for path in folder.glob("*.parquet")) == [f"{name}.parquet" for name in segments(lake_dir)]
    assert lazy.collect()["n"].to_list() == list(range(60)), "a frame over parts that went"
    check(kept, points)


def test_a_late_field_during_the_merge_wins(lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was merged meanwhile lacks the field: it must not take the place of the later generation."""
    points = write(session, 60)
    track = session.track("a")
    merge = compaction.merge

    def slow(*args: Any) -> Any:
        merged = merge(*args)
        if "extra" not in points[2]:
            track.append(extra=1.5, _ts=1002.0)
            track.flush()
            points[2] = {**points[2], "extra": 1.5}
        return merged

    monkeypatch.setattr(compaction, "merge", slow)
    assert track.compact()["into"] == 0
    check(track, points)
    assert not list((lake_dir / "w/s/tracks/a").glob(".tmp-*"))
    assert track.compact()["into"] == 1
    check(track, points)
    check(Lake(lake_dir).session("s", "w").track("a"), points)


def test_appends_and_reads_go_on_during_a_merge(
    lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = write(session, 60)
    track = session.track("a")
    merging, go_on = threading.Event(), threading.Event()
    merge = compaction.merge

    def slow(*args: Any) -> Any:
        merging.set()
        assert go_on.wait(60)
        return merge(*args)

    monkeypatch.setattr(compaction, "merge", slow)
    thread = in_thread(track.compact)
    assert merging.wait(60)
    try:
        for number in range(60, 75):
            track.append(n=number, _ts=1000.0 + number)
            points.append({"n": number, "_ts": 1000.0 + number})
            track.flush()
        check(track, points)
    finally:
        go_on.set()
        thread.join(60)
    check(track, points)
    assert segments(lake_dir)[0] == ranges(0, 50)[0]


def test_readers_see_all_points_throughout(lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "GRACE", -60.0)
    track = session.track("a")
    seen: list[int] = [0]
    wrong: list[str] = []
    ended = threading.Event()

    def look() -> None:
        view = Lake(lake_dir).session("s", "w").track("a")
        while not ended.is_set():
            numbers = [row["data"]["n"] for row in view.read(limit=None)["data"]]
            if numbers != list(range(len(numbers))) or len(numbers) < seen[-1]:
                wrong.append(f"{len(numbers)} after {seen[-1]}: {numbers[:5]}")
            seen.append(len(numbers))

    track.append(n=0)
    track.flush()
    reader = in_thread(look)
    for number in range(1, 700):
        track.append(n=number)
        if number % 7 == 0:
            track.flush()
        if number % 53 == 0:
            track.compact()
    ended.set()
    reader.join(60)
    assert not wrong, wrong[:3]
    assert len(seen) > 3


def test_a_damaged_segment_stays_and_the_others_are_merged(lake_dir: Path, session: Session) -> None:
    session.track("a").append_batch({"v": [0.5 * i for i in range(SIZE * 30)]})
    path = lake_dir / "w/s/tracks/a" / f"{ranges(60, 65)[0]}.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(CorruptTrackError, match=r"60 to 65"):
        session.track("a").compact()
    assert segments(lake_dir)[0] == ranges(0, 50)[0]
    assert segments(lake_dir)[-1] == ranges(100, 150)[0]
    assert path.read_bytes() == data
    with pytest.raises(CorruptTrackError, match=r"60 to 65"):
        session.track("a").read(limit=None)


def test_what_does_not_read_back_is_not_committed(
    lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.track("a").append_batch({"v": [0.5 * i for i in range(SIZE * 10)]})
    before = segments(lake_dir)
    real = compaction.segment.encode_parts

    def bad(*args: Any) -> Any:
        data = real(*args)
        data[200] ^= 1
        return data

    monkeypatch.setattr(compaction.segment, "encode_parts", bad)
    with pytest.raises(CorruptTrackError, match="just written"):
        session.track("a").compact()
    assert segments(lake_dir) == before
    assert not list((lake_dir / "w/s/tracks/a").glob(".tmp-*"))


def test_a_merged_file_that_was_swept_meanwhile_is_made_again(
    lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = write(session, 60)
    track = session.track("a")
    merge = compaction.merge

    def stopped(*args: Any) -> Any:
        merged = merge(*args)
        Path(merged.tmp).unlink()
        return merged

    monkeypatch.setattr(compaction, "merge", stopped)
    assert track.compact()["into"] == 0
    check(track, points)
    monkeypatch.setattr(compaction, "merge", merge)
    assert track.compact()["into"] == 1
    check(track, points)


def test_two_sessions_of_two_processes_merge_one_track(lake_dir: Path, run_python: Any) -> None:
    code = """
        import sys
        from dreamlake import Session
        with Session("s", "w", sys.argv[1], segment_points=5, flush_interval=3600.0) as session:
            track = session.track("a")
            for turn in range(30):
                track.append_batch([{"who": sys.argv[2], "turn": turn, "n": n} for n in range(7)])
                track.compact()
    """
    threads = [in_thread(lambda who=who: run_python(code, lake_dir, who)) for who in ("x", "y")]
    for thread in threads:
        thread.join(120)
    rows = [row["data"] for row in Lake(lake_dir).session("s", "w").track("a").read(limit=None)["data"]]
    for who in ("x", "y"):
        own = [(row["turn"], row["n"]) for row in rows if row["who"] == who]
        assert own == [(turn, n) for turn in range(30) for n in range(7)]
    assert len(segments(lake_dir)) < 40


def test_the_newest_footer_knows_all_before_it_in_their_new_form(lake_dir: Path, session: Session) -> None:
    """So a reader that knows nothing asks one footer about the whole track."""
    write(session, 20 * SIZE * 10)
    assert session.track("a").compact()["into"] == 2
    last = lake_dir / "w/s/tracks/a" / "000000000500-000000001000.parquet"
    before = open_segment(last.read_bytes()).info.before
    assert [(bounds.start, bounds.stop) for bounds in before] == [(0, 500)]
