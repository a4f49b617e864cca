"""Snapshots of a track: the order of looks, races, drifting schemas, damage."""

from __future__ import annotations

import logging
import math
import random
import shutil
from bisect import bisect_left
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from build import CountingStore, RacingStore, TrackOnDisk, points_of
from columnar import assert_same_points, point_lists
from damagelib import damage_column
from hypothesis import given
from hypothesis import strategies as st

from dreamlake.engine.bytime import rows_by_time
from dreamlake.engine.reader import MAX_LOOKS, TrackReader
from dreamlake.engine.snapshot import Snapshot
from dreamlake.errors import CorruptTrackError, DreamlakeError
from dreamlake.format.layout import SegmentName
from dreamlake.storage.localstore import LocalStore


def read_all(snapshot: Snapshot) -> list[dict[str, Any]]:
    rows = snapshot.points(0, snapshot.total)
    assert [index for index, _ in rows] == list(range(snapshot.total))
    return [point for _, point in rows]


# ------------------------------------------------------------------------------------------------ what is there


def test_segments_and_hot_file_are_one_series(lake_dir: Path) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(25)
    track.segments(points[:20], 10)
    track.hot(points[20:], 20)
    snapshot = track.reader().snapshot()
    assert snapshot.total == 25
    assert len(snapshot.hot) == 5
    assert_same_points(points, read_all(snapshot))
    assert [point["step"] for _, point in snapshot.points(8, 22)] == list(range(8, 22))


def test_hot_points_below_the_end_of_the_segments_are_the_segments(lake_dir: Path) -> None:
    """A crash between the two steps of a roll leaves points in both."""
    track, points = TrackOnDisk(lake_dir), points_of(12)
    track.segment(points[:10], 0)
    track.hot([point | {"value": -1.0} for point in points], 0)
    snapshot = track.reader().snapshot()
    assert snapshot.total == 12
    assert [point["value"] for point in read_all(snapshot)] == [point["value"] for point in points[:10]] + [-1.0, -1.0]


def test_a_torn_tail_does_not_count_and_later_lines_update(lake_dir: Path) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(3)
    lines = [*enumerate(points), (1, {"value": 9.0, "late": None})]
    track.hot_lines(lines, tail=b'{"index": 3, "data": {"value": 1.0, "_ts"')
    assert read_all(track.reader().snapshot()) == [
        points[0],
        {"value": 9.0, "step": 1, "epoch": 0, "late": None, "_ts": 1000.5},
        points[2],
    ]


def test_missing_and_empty_tracks(lake_dir: Path) -> None:
    nothing = TrackReader(TrackOnDisk(lake_dir).reader().store, "w/s/tracks/none", "none").snapshot(described=True)
    assert (nothing.exists, nothing.total, nothing.schema) == (False, 0, {})
    assert nothing.table(0, 0).schema.names == ["_index", "_ts"]
    described = TrackOnDisk(lake_dir, "described")
    described.write_metadata(tags=["a"])
    snapshot = described.reader().snapshot(described=True)
    assert (snapshot.exists, snapshot.total) == (True, 0)
    assert snapshot.ts_bounds == (float("inf"), float("-inf"))
    parent = TrackOnDisk(lake_dir, "described/child")
    parent.hot(points_of(1))
    assert described.reader().snapshot().total == 0


def test_only_the_segments_of_the_range_are_opened(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    paths = track.segments(points_of(50), 10)
    store = RacingStore(lake_dir)
    rows = track.reader(store).snapshot().points(19, 31)
    assert [index for index, _ in rows] == list(range(19, 31))
    assert sorted(store.got()) == [*(path.name for path in paths[1:4]), "data.jsonl"]


def test_a_footer_is_verified_once_and_kept(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    track.segments(points_of(30), 10)
    store = RacingStore(lake_dir)
    reader = track.reader(store)
    reader.snapshot(described=True)
    store.calls.clear()
    reader.snapshot(described=True)
    assert store.got() == ["data.jsonl"]


class Naming(LocalStore):
    """A store that lists names without a look at each file."""

    def names(self, path: str) -> list[str]:
        return [entry.name for entry in super().list(path) if not entry.is_dir]

    def list(self, path: str = "") -> Any:
        raise AssertionError("the sizes of all files were asked for")


@pytest.mark.parametrize("whole", [1 << 20, 100])
def test_sizes_are_not_needed(lake_dir: Path, monkeypatch: pytest.MonkeyPatch, whole: int) -> None:
    monkeypatch.setattr("dreamlake.engine.segments.WHOLE_BYTES", whole)
    track, points = TrackOnDisk(lake_dir), points_of(25)
    paths = track.segments(points[:20], 10)
    track.hot(points[20:], 20)
    snapshot = track.reader(Naming(lake_dir)).snapshot(described=True)
    assert_same_points(points, read_all(snapshot))
    assert snapshot.bytes == sum(path.stat().st_size for path in [*paths, track.folder / "data.jsonl"])
    track.segment(points[:20], 0)
    for path in paths:
        path.unlink()
    assert_same_points(points, read_all(snapshot))


def test_wide_segments_are_read_by_ranges(lake_dir: Path) -> None:
    noise = random.Random(5)
    points = [{"a": noise.random(), "b": noise.random(), "c": i, "_ts": float(i)} for i in range(90_000)]
    track = TrackOnDisk(lake_dir)
    size = track.segment(points, 0).stat().st_size
    assert size > 1 << 20
    store = CountingStore(lake_dir)
    snapshot = track.reader(store).snapshot()
    table = snapshot.table(40_000, 40_003, ["c"])
    assert table.column("c").to_pylist() == [40_000, 40_001, 40_002]
    assert store.amount < size // 4
    assert_same_points(points[89_998:], [point for _, point in snapshot.points(89_998, 90_000)])


def test_a_wide_segment_is_read_in_parts_that_share_nothing(lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many threads as cores decode one wide segment; each row group is read once, and the rows are the same."""
    noise = random.Random(5)
    points = [{"a": noise.random(), "b": i, "c": noise.random(), "_ts": float(i)} for i in range(110_000)]
    track = TrackOnDisk(lake_dir)
    track.segment(points, 0)
    store = CountingStore(lake_dir)
    snapshot = track.reader(store).snapshot(described=True)
    snapshot.table(0, 1)  # the footer is kept from here on

    def read(start: int, stop: int, threads: int) -> tuple[Any, list[tuple[int, int]]]:
        monkeypatch.setattr("dreamlake.engine.process.local_width", lambda: threads)
        store.spans.clear()
        table = snapshot.table(start, stop)
        return table, sorted(span for span in store.spans if span[1] - span[0] > 1 << 17)  # and not the footer

    for start, stop, threads in [(0, 110_000, 2), (3, 109_999, 3), (15_000, 97_001, 7), (29_999, 60_000, 2)]:
        alone, (whole,) = read(start, stop, 1)
        together, parts = read(start, stop, threads)
        assert together.equals(alone)
        assert alone.column("b").equals(alone.column("_index"))
        assert alone.column("_index")[0].as_py() == start
        assert len(alone) == stop - start
        assert 1 < len(parts) <= threads
        assert (parts[0][0], parts[-1][1]) == whole
        assert all(before[1] <= behind[0] for before, behind in pairwise(parts))
    pieces = snapshot.pieces(5, 109_000)[0].split(3)
    assert [(piece.start, piece.stop) for piece in pieces] == [(5, 40_000), (40_000, 80_000), (80_000, 109_000)]


def test_a_time_range_reads_the_row_groups_that_can_hold_it(lake_dir: Path) -> None:
    """Of timestamps that go back and forth, with equal ones: what is found is what a look at all of them finds."""
    noise = random.Random(7)
    stamps = [float(round(i / 4 + noise.random() * 6000)) for i in range(120_000)]
    points = [{"a": noise.random(), "b": noise.random(), "i": i, "_ts": ts} for i, ts in enumerate(stamps)]
    track = TrackOnDisk(lake_dir)
    size = track.segment(points[:110_000], 0).stat().st_size
    track.segment(points[110_000:115_000], 110_000)
    track.hot(points[115_000:], 115_000)
    store = CountingStore(lake_dir)
    snapshot = track.reader(store).snapshot(described=True)
    skipping = track.reader().snapshot(described=True, errors="skip")
    order = sorted(range(len(points)), key=lambda i: (stamps[i], i))
    keys = [stamps[i] for i in order]

    def found(low: float, high: float, limit: int | None, reverse: bool, of: Snapshot = snapshot) -> list[int]:
        rows, more = rows_by_time(of, low, high, limit, reverse)
        picked = order[bisect_left(keys, low) : bisect_left(keys, high)]
        picked = picked[::-1] if reverse else picked
        assert more == (limit is not None and len(picked) > limit)
        assert [index for index, _ in rows] == picked[:limit]
        assert [point["i"] for _, point in rows] == picked[:limit]
        return picked

    for turn in range(30):
        low = noise.randrange(-5, 36_010)
        high = low + noise.choice([0, 1, 3, 40, 700])
        limit = noise.choice([None, 0, 1, 7, 1000])
        found(low, high, limit, turn % 2 == 0)
    for group in range(0, 110_000, 10_000):
        for edge in (min(stamps[group : group + 10_000]), max(stamps[group : group + 10_000])):
            found(edge, edge + 0.5, None, False)
            found(edge, edge + 0.5, 1, True)
    for reverse in (False, True):
        found(-math.inf, math.inf, 5, reverse)
        found(10_000.0, math.inf, 5, reverse)
        found(-math.inf, 10_000.0, 5, reverse)
    assert len(found(3_000.0, 3_100.0, None, False)) > 100
    found(3_000.0, 3_100.0, None, False, skipping)
    store.spans.clear()
    found(100.0, 101.0, None, False)
    assert store.amount < size / 2


def test_damage_leaves_out_the_whole_of_a_wide_segment_however_many_cores_there_are(
    lake_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dreamlake.engine.process.local_width", lambda: 3)
    noise = random.Random(5)
    points = [{"a": noise.random(), "_ts": float(i)} for i in range(120_000)]
    track = TrackOnDisk(lake_dir)
    path = track.segment(points[:110_000], 0)
    track.segment(points[110_000:], 110_000)
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptTrackError) as caught:
        track.reader().snapshot(described=True).table(0, 120_000)
    assert (caught.value.start, caught.value.stop) == (0, 110_000)
    with caplog.at_level(logging.WARNING, logger="dreamlake"):
        table = track.reader().snapshot(described=True, errors="skip").table(0, 120_000)
    assert table.column("_index").to_pylist() == list(range(110_000, 120_000))


# ------------------------------------------------------------------------------------------------ races


def test_the_hot_file_is_taken_before_the_listing(lake_dir: Path) -> None:
    """A roll between the two looks: the points are then found in the segment."""
    track, points = TrackOnDisk(lake_dir), points_of(10)
    track.hot(points)
    store = RacingStore(lake_dir)

    def roll(_: str) -> None:
        track.segment(points, 0)
        track.hot([], 10)

    store.then["get"] = [roll]
    snapshot = track.reader(store).snapshot()
    assert [method for method, _ in store.calls[:2]] == ["get", "list"]
    assert_same_points(points, read_all(snapshot))


def test_the_listing_is_asked_even_when_there_is_no_hot_file(lake_dir: Path) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(4)
    store = RacingStore(lake_dir)
    store.first["list"] = [lambda _: track.segment(points, 0)]
    assert track.reader(store).snapshot().total == 4


def test_a_hole_gets_one_more_look(lake_dir: Path) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(30)
    paths = track.segments(points, 10)
    hidden = lake_dir / "hidden"
    paths[1].rename(hidden)
    store = RacingStore(lake_dir)
    store.then["list"] = [lambda _: hidden.rename(paths[1])]
    assert_same_points(points, read_all(track.reader(store).snapshot()))
    paths[1].unlink()
    with pytest.raises(CorruptTrackError) as caught:
        track.reader().snapshot()
    assert (caught.value.start, caught.value.stop) == (10, 20)
    assert str(track.folder) in caught.value.path


def test_skipping_waits_for_the_second_look_too(lake_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(30)
    paths = track.segments(points, 10)
    hidden = lake_dir / "hidden"
    paths[1].rename(hidden)
    store = RacingStore(lake_dir)
    store.then["list"] = [lambda _: hidden.rename(paths[1])]
    assert_same_points(points, read_all(track.reader(store).snapshot(errors="skip")))
    assert not caplog.records


def test_hot_lines_that_change_under_the_reader_get_one_more_look(lake_dir: Path) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(3)
    track.hot_lines(enumerate(points), tail=b'{"index": 3, "da\n')
    store = RacingStore(lake_dir)
    store.then["get"] = [lambda _: track.hot(points)]
    assert track.reader(store).snapshot().total == 3


def test_a_segment_that_vanishes_before_it_is_described_is_looked_for_again(lake_dir: Path) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(20)
    paths = track.segments(points, 10)
    store = RacingStore(lake_dir)

    def compact(_: str) -> None:
        track.segment(points, 0)
        for path in paths:
            path.unlink()

    store.then["list"] = [compact]
    snapshot = track.reader(store).snapshot(described=True)
    assert snapshot.live == (SegmentName(0, 20),)
    assert_same_points(points, read_all(snapshot))


def test_a_segment_that_never_stays_is_an_error_and_no_endless_loop(lake_dir: Path) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(10)
    path = track.segment(points, 0)
    data = path.read_bytes()
    store = RacingStore(lake_dir)
    store.first["list"] = [lambda _: path.write_bytes(data)] * 50
    store.then["list"] = [lambda _: path.unlink(missing_ok=True)] * 50
    with pytest.raises(CorruptTrackError, match="vanish"):
        track.reader(store).snapshot(described=True)
    assert [method for method, _ in store.calls].count("list") == MAX_LOOKS
    snapshot = track.reader(store).snapshot()
    store.first.clear()
    with pytest.raises(CorruptTrackError, match="the file is missing") as caught:
        snapshot.points(0, 10)
    assert (caught.value.start, caught.value.stop) == (0, 10)


@pytest.mark.parametrize("grace", [True, False])
def test_a_snapshot_is_read_later_and_twice_while_its_segments_are_replaced(lake_dir: Path, grace: bool) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(40)
    paths = track.segments(points[:30], 10)
    track.hot(points[30:], 30)
    snapshot = track.reader().snapshot(described=True)
    before = snapshot.table(0, 40)
    # The hot points roll, a late field makes a later form, and a compaction makes one of three.
    track.segment(points[30:], 30)
    track.hot([], 40)
    late = [point | {"late": "x"} for point in points[:10]]
    later = track.segment(late, 0, generation=1)
    if not grace:
        paths[0].unlink()
    assert snapshot.table(0, 40).equals(before)
    track.segment(late + points[10:30], 0)
    if not grace:
        for path in [later, *paths[1:]]:
            path.unlink()
    assert snapshot.table(0, 40).equals(before)
    assert snapshot.table(5, 35, ["step"]).column("step").to_pylist() == list(range(5, 35))
    assert [index for index, _ in snapshot.points(9, 31)] == list(range(9, 31))


def test_a_snapshot_whose_types_are_gone_says_so(lake_dir: Path) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(10)
    path = track.segment(points, 0)
    snapshot = track.reader().snapshot(described=True)
    track.segment([point | {"step": "many"} for point in points], 0, generation=1)
    path.unlink()
    with pytest.raises(DreamlakeError, match=r"'step'.*scan it anew"):
        snapshot.table(0, 10)
    assert snapshot.table(0, 10, ["value"]).num_rows == 10


# ------------------------------------------------------------------------------------------------ schemas


def test_types_widen_between_segments_and_the_hot_file(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    track.segment([{"a": 1, "b": 1, "_ts": 1.0}], 0)
    track.segment([{"a": 2.5, "b": "x", "c": [1], "_ts": 2.0}], 1)
    track.hot([{"a": 3, "d": None, "_ts": 3.0}], 2)
    snapshot = track.reader().snapshot(described=True)
    assert snapshot.field_types() == {"a": "double", "b": "json", "c": "list<element: int64>", "d": "null"}
    table = snapshot.table(0, 3)
    assert table.schema.names == ["_index", "_ts", "a", "b", "c", "d"]
    assert table.to_pylist() == [
        {"_index": 0, "_ts": 1.0, "a": 1.0, "b": "1", "c": None, "d": None},
        {"_index": 1, "_ts": 2.0, "a": 2.5, "b": '"x"', "c": [1], "d": None},
        {"_index": 2, "_ts": 3.0, "a": 3.0, "b": None, "c": None, "d": None},
    ]
    assert [str(table.schema.field(name).type) for name in "ab"] == ["double", "string"]
    # Points keep the types of their own segment, and None apart from absent.
    assert [point for _, point in snapshot.points(0, 3)] == [
        {"a": 1, "b": 1, "_ts": 1.0},
        {"a": 2.5, "b": "x", "c": [1], "_ts": 2.0},
        {"a": 3, "d": None, "_ts": 3.0},
    ]


def test_a_later_generation_with_more_columns_is_found_though_the_newest_footer_is_older(
    lake_dir: Path,
) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(30)
    paths = track.segments(points, 10)
    late = [point | {"late": i, "_ts": point["_ts"] - 5} for i, point in enumerate(points[:10])]
    track.segment(late, 0, generation=1)
    paths[0].unlink()
    snapshot = track.reader().snapshot(described=True)
    assert list(snapshot.schema) == ["value", "step", "epoch", "late"]
    assert snapshot.ts_bounds == (995.0, 1014.5)
    assert snapshot.table(0, 30, ["late"]).column("late").to_pylist() == [*range(10), *[None] * 20]


@given(point_lists(min_size=1, max_size=14), st.data())
def test_every_value_comes_back_from_any_tier(points: list[dict[str, Any]], data: st.DataObject) -> None:
    import tempfile

    cuts = sorted(data.draw(st.sets(st.integers(1, len(points)), max_size=3), label="cuts"))
    with tempfile.TemporaryDirectory() as folder:
        track = TrackOnDisk(Path(folder), "any/track")
        start = 0
        for stop in cuts:
            track.segment(points[start:stop], start)
            start = stop
        if start < len(points):
            track.hot(points[start:], start)
        snapshot = track.reader().snapshot(described=True)
        assert_same_points(points, read_all(snapshot))
        table = snapshot.table(0, len(points))
        assert table.column("_ts").to_pylist() == [point["_ts"] for point in points]
        assert set(table.schema.names) == {"_index", "_ts"}.union(*points)
        for name in table.schema.names[2:]:
            absent = [point.get(name) is None for point in points]
            assert table.column(name).is_null().to_pylist() == absent


# ------------------------------------------------------------------------------------------------ damage


def damaged_track(lake_dir: Path) -> tuple[TrackOnDisk, list[Path], list[dict[str, Any]]]:
    track, points = TrackOnDisk(lake_dir), points_of(35)
    paths = track.segments(points[:30], 10)
    track.hot(points[30:], 30)
    return track, paths, points


def flip_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip_page,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b"no parquet at all, but long enough to be looked at"),
        lambda path: shutil.copy(path.with_name(SegmentName(0, 10).filename), path),
    ],
    ids=["page", "empty", "cut", "other", "swapped"],
)
def test_damage_in_a_segment_names_file_place_and_range(
    lake_dir: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    track, paths, points = damaged_track(lake_dir)
    damage(paths[1])
    snapshot = track.reader().snapshot(described=True)
    for attempt in (lambda: snapshot.points(0, 35), lambda: snapshot.table(15, 16)):
        with pytest.raises(CorruptTrackError) as caught:
            attempt()
        assert (caught.value.path, caught.value.start, caught.value.stop) == (str(paths[1]), 10, 20)
        assert caught.value.place
    assert_same_points(points[20:], [point for _, point in snapshot.points(20, 35)])
    assert not caplog.records
    rest = track.reader().snapshot(errors="skip", described=True)
    assert [index for index, _ in rest.points(0, 35)] == [*range(10), *range(20, 35)]
    assert rest.table(0, 35).column("_index").to_pylist() == [*range(10), *range(20, 35)]
    assert rest.table(0, 35, ["_index"]).num_rows == 25
    assert any(str(paths[1]) in record.getMessage() for record in caplog.records)


def test_damage_in_the_explicit_nones_leaves_out_the_same_rows_of_points_and_tables(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    points = [{"a": None if i % 2 else i, "_ts": float(i)} for i in range(40)]
    path, _ = track.segments(points, 20)
    damage_column(path, "_none")
    snapshot = track.reader().snapshot(described=True, errors="skip")
    assert [index for index, _ in snapshot.points(0, 40)] == list(range(20, 40))
    assert snapshot.table(0, 40).column("_index").to_pylist() == list(range(20, 40))
    assert snapshot.table(0, 40, ["_index"]).column("_index").to_pylist() == list(range(20, 40))


def test_a_damaged_newest_segment_stops_a_scan_but_skips_well(lake_dir: Path) -> None:
    track, paths, _ = damaged_track(lake_dir)
    paths[2].write_bytes(b"")
    with pytest.raises(CorruptTrackError, match="empty"):
        track.reader().snapshot(described=True)
    assert track.reader().snapshot().points(0, 2)
    rest = track.reader().snapshot(errors="skip", described=True)
    assert list(rest.schema) == ["value", "step", "epoch"]
    assert rest.table(0, 35).column("_index").to_pylist() == [*range(20), *range(30, 35)]


def test_a_missing_segment_is_read_round(lake_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    track, paths, _ = damaged_track(lake_dir)
    paths[0].unlink()
    with pytest.raises(CorruptTrackError):
        track.reader().snapshot()
    rest = track.reader().snapshot(errors="skip", described=True)
    assert [index for index, _ in rest.points(0, 35)] == list(range(10, 35))
    assert rest.table(0, 35).column("_index").to_pylist() == list(range(10, 35))
    assert "0 to 10" in caplog.text


def test_a_gap_between_segments_and_hot_lines_is_damage(lake_dir: Path) -> None:
    track, paths, _ = damaged_track(lake_dir)
    paths[2].unlink()
    with pytest.raises(CorruptTrackError) as caught:
        track.reader().snapshot()
    assert (caught.value.start, caught.value.stop) == (20, 30)
    assert caught.value.path.endswith("data.jsonl")
    rest = track.reader().snapshot(errors="skip", described=True)
    assert rest.total == 35
    assert rest.table(0, 35).column("_index").to_pylist() == [*range(20), *range(30, 35)]
    assert [index for index, _ in rest.points(19, 32)] == [19, 30, 31]


def test_a_damaged_hot_line(lake_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    track, _, _ = damaged_track(lake_dir)
    hot = track.folder / "data.jsonl"
    lines = hot.read_bytes().splitlines(keepends=True)
    hot.write_bytes(b"".join([*lines[:2], b"{nonsense\n", *lines[3:]]))
    with pytest.raises(CorruptTrackError, match="line 3") as caught:
        track.reader().snapshot()
    assert caught.value.path == str(hot)
    with caplog.at_level(logging.WARNING, "dreamlake"):
        rest = track.reader().snapshot(errors="skip", described=True)
    assert [index for index, _ in rest.points(29, 35)] == [29, 30, 31, 33, 34]
    assert rest.table(31, 35).column("step").to_pylist() == [31, 33, 34]
    assert "line 3" in caplog.text


def test_a_folder_that_holds_another_name_is_never_mixed(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir, "loss")
    track.hot(points_of(2))
    track.write_metadata()
    other = TrackReader(track.reader().store, "w/s/tracks/loss", "Loss")
    with pytest.raises(ValueError, match="'loss', not 'Loss'"):
        other.snapshot()


def test_a_segment_of_another_track_is_damage(lake_dir: Path) -> None:
    TrackOnDisk(lake_dir, "other").segment(points_of(10), 0)
    track = TrackOnDisk(lake_dir)
    name = SegmentName(0, 10).filename
    shutil.copy(TrackOnDisk(lake_dir, "other").folder / name, track.folder / name)
    with pytest.raises(CorruptTrackError, match="'other', not 'loss'"):
        track.reader().snapshot().points(0, 10)


def test_a_hot_file_beyond_all_bounds_is_refused(lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track = TrackOnDisk(lake_dir)
    track.hot(points_of(20))
    monkeypatch.setattr("dreamlake.engine.reader.MAX_HOT_BYTES", 200)
    with pytest.raises(CorruptTrackError, match="200 bytes"):
        track.reader().snapshot()


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_metadata_that_is_no_object_is_damage(lake_dir: Path, content: bytes) -> None:
    track = TrackOnDisk(lake_dir)
    (track.folder / "metadata.json").write_bytes(content)
    with pytest.raises(CorruptTrackError, match=r"metadata\.json"):
        track.reader().metadata()


def test_points_are_read_round_a_damaged_description(lake_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    track = TrackOnDisk(lake_dir)
    track.hot(points_of(3))
    (track.folder / "metadata.json").write_bytes(b"{")
    with pytest.raises(CorruptTrackError, match=r"metadata\.json"):
        track.reader().snapshot()
    assert len(track.reader().snapshot(errors="skip").points(0, 3)) == 3
    assert "metadata.json is damaged" in caplog.text


def test_an_empty_description_is_none(lake_dir: Path) -> None:
    """As a power cut may leave it."""
    track = TrackOnDisk(lake_dir)
    track.hot(points_of(3))
    (track.folder / "metadata.json").write_bytes(b"")
    reader = track.reader()
    assert len(reader.snapshot().points(0, 3)) == 3
    assert reader.metadata() == {}
