"""A track as its readers hold it: dicts, frames, statistics, and the arguments that are refused."""

from __future__ import annotations

import math
import shutil
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from build import RacingStore, TrackOnDisk, points_of
from hypothesis import given
from hypothesis import strategies as st

from dreamlake import Lake, Session
from dreamlake.engine.reader import TrackReader
from dreamlake.errors import CorruptTrackError, DreamlakeError, TrackNotFoundError
from dreamlake.view import TrackView


@pytest.fixture
def view(lake_dir: Path) -> TrackView:
    """45 points: four segments of ten and five hot ones, half a second apart from 1000.0 on."""
    track = TrackOnDisk(lake_dir)
    points = points_of(45)
    track.segments(points[:40], 10)
    track.hot(points[40:], 40)
    return TrackView(track.reader())


def indices(result: Any) -> list[int]:
    return [point["index"] for point in result["data"]]


# ------------------------------------------------------------------------------------------------ read


def test_read_gives_points_with_their_range(view: TrackView) -> None:
    assert view.read(start_index=9, limit=2) == {
        "data": [
            {"index": 9, "data": {"value": 4.5, "step": 9, "epoch": 0, "_ts": 1004.5}},
            {"index": 10, "data": {"value": 5.0, "step": 10, "epoch": 1, "_ts": 1005.0}},
        ],
        "startIndex": 9,
        "endIndex": 11,
        "total": 45,
        "hasMore": True,
    }


@pytest.mark.parametrize(
    ("start", "limit", "first", "stop"),
    [
        (0, 1000, 0, 45),
        (0, None, 0, 45),
        (0, 0, 0, 0),
        (44, 5, 44, 45),
        (45, 5, 45, 45),
        (100, 5, 45, 45),
        (-1, 5, 44, 45),
        (-10, 3, 35, 38),
        (-45, None, 0, 45),
        (-100, 3, 0, 3),
        (np.int64(39), np.int32(2), 39, 41),
    ],
)
def test_the_range_of_read(view: TrackView, start: int, limit: int | None, first: int, stop: int) -> None:
    result = view.read(start, limit)
    assert indices(result) == list(range(first, stop))
    assert (result["startIndex"], result["endIndex"], result["total"]) == (first, stop, 45)
    assert result["hasMore"] == (stop < 45)
    assert view.to_arrow(start, limit).column("_index").to_pylist() == list(range(first, stop))
    assert view.scan(start, limit).collect()["step"].to_list() == list(range(first, stop))


def test_the_default_limit_is_1000(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    track.segment(points_of(1001), 0)
    result = TrackView(track.reader()).read()
    assert (len(result["data"]), result["hasMore"]) == (1000, True)


def test_what_read_gave_is_the_callers(view: TrackView) -> None:
    for start in (0, 44):
        view.read(start)["data"][0]["data"].clear()
        assert view.read(start)["data"][0]["data"]["step"] == start


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda view: view.read("0"), TypeError),
        (lambda view: view.read(1.0), TypeError),
        (lambda view: view.read(True), TypeError),
        (lambda view: view.read(0, "all"), TypeError),
        (lambda view: view.read(0, -1), ValueError),
        (lambda view: view.scan(limit=-1), ValueError),
        (lambda view: view.to_arrow(limit=2.5), TypeError),
        (lambda view: view.read(errors="ignore"), ValueError),
        (lambda view: view.read_by_time("now"), TypeError),
        (lambda view: view.read_by_time(datetime.now(UTC)), TypeError),
        (lambda view: view.read_by_time(False), TypeError),
        (lambda view: view.read_by_time(0, math.nan), ValueError),
        (lambda view: view.read_by_time(0, limit=-1), ValueError),
    ],
)
def test_bad_arguments_are_refused(view: TrackView, call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call(view)


# ------------------------------------------------------------------------------------------------ read_by_time


def test_a_time_range_is_half_open(view: TrackView) -> None:
    result = view.read_by_time(1004.5, 1006.0)
    assert indices(result) == [9, 10, 11]
    assert {key: result[key] for key in ("startIndex", "endIndex", "total", "hasMore")} == {
        "startIndex": 9,
        "endIndex": 12,
        "total": 45,
        "hasMore": False,
    }
    assert indices(view.read_by_time(1004.5, 1006.0, limit=2)) == [9, 10]
    assert view.read_by_time(1004.5, 1006.0, limit=2)["hasMore"]
    assert indices(view.read_by_time(1019.0, None)) == [38, 39, 40, 41, 42, 43, 44]
    assert indices(view.read_by_time(None, 1000.5)) == [0]
    assert indices(view.read_by_time(None, None, 3, reverse=True)) == [44, 43, 42]
    assert indices(view.read_by_time(1004.5, 1006.0, 2, reverse=True)) == [11, 10]
    empty = view.read_by_time(5.0, 6.0)
    assert (empty["data"], empty["startIndex"], empty["endIndex"], empty["hasMore"]) == ([], 0, 0, False)


def test_a_time_range_opens_only_the_segments_that_hold_it(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    names = [path.name for path in track.segments(points_of(100), 10)]
    store = RacingStore(lake_dir)
    view = TrackView(track.reader(store))
    view.stats()
    for call, read in (
        (lambda: view.read_by_time(1022, 1023), [names[4]]),
        (lambda: view.read_by_time(1000, None, limit=15), names[:2]),
        (lambda: view.read_by_time(None, None, 5, reverse=True), [names[9]]),
        (lambda: view.read_by_time(7, 8), []),
    ):
        store.calls.clear()
        call()
        assert sorted(store.got()) == [*read, "data.jsonl"]


def test_equal_times_in_two_segments_are_in_the_order_of_the_index(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    track.segment([{"_ts": 5.0}], 0)
    track.segment([{"_ts": 0.0}, {"_ts": 5.0}, {"_ts": 5.0}], 1)
    track.segment([{"_ts": 9.0}, {"_ts": 5.0}, {"_ts": 5.0}], 4)
    view = TrackView(track.reader())
    assert indices(view.read_by_time(limit=2)) == [1, 0]
    assert indices(view.read_by_time(limit=None)) == [1, 0, 2, 3, 5, 6, 4]
    assert indices(view.read_by_time(0, 9, limit=2, reverse=True)) == [6, 5]
    assert indices(view.read_by_time(limit=5, reverse=True)) == [4, 6, 5, 3, 2]


@given(
    st.lists(st.sampled_from([float(ts) for ts in range(12)]), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(0, 40),
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 45),
    st.booleans(),
)
def test_times_that_do_not_rise(
    tmp_path_factory: pytest.TempPathFactory,
    stamps: list[float],
    size: int,
    hot: int,
    low: int | None,
    high: int | None,
    limit: int | None,
    reverse: bool,
) -> None:
    track = TrackOnDisk(tmp_path_factory.mktemp("lake"))
    points = [{"i": i, "_ts": ts} for i, ts in enumerate(stamps)]
    cold = max(0, len(points) - hot)
    track.segments(points[:cold], size)
    track.hot(points[cold:], cold)
    result = TrackView(track.reader()).read_by_time(low, high, limit, reverse)
    expected = sorted(
        (ts, i) for i, ts in enumerate(stamps) if (low is None or ts >= low) and (high is None or ts < high)
    )
    if reverse:
        expected.reverse()
    assert indices(result) == [i for _, i in expected[:limit]]
    assert all(point["data"] == points[point["index"]] for point in result["data"])
    assert result["hasMore"] == (limit is not None and len(expected) > limit)


# ------------------------------------------------------------------------------------------------ frames


def test_frames_show_json_as_text_and_times_in_utc(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    points = [
        {"any": 1, "at": at, "naive": datetime(1, 1, 1), "blob": b"\0", "big": 2**70, "_ts": 1.0},
        {"any": "x", "at": at, "naive": datetime.max, "blob": b"", "none": None, "_ts": 2.0},
    ]
    track.segment(points[:1], 0)
    track.hot(points[1:], 1)
    view = TrackView(track.reader())
    assert [point["data"] for point in view.read()["data"]] == points
    frame = view.to_polars()
    assert frame["any"].to_list() == ["1", '"x"']
    assert frame["big"].to_list() == [str(2**70), None]
    assert frame.schema["at"] == pl.Datetime("us", "UTC")
    assert frame["at"][0] == at
    assert frame["naive"].to_list() == [datetime(1, 1, 1), datetime.max]
    assert frame["blob"].to_list() == [b"\0", b""]
    assert frame.schema["none"] == pl.Null
    assert frame.equals(view.scan().collect())
    table = view.to_arrow()
    assert isinstance(table, pa.Table)
    assert table.schema.names == frame.columns == list(view.to_pandas().columns)


def test_pandas_frames_lose_no_digit(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    track.hot(
        [
            {"big": 2**53 + 1, "full": 1, "flag": True, "x": 1.5, "_ts": 1.0},
            {"full": 2, "x": math.nan, "_ts": 2.0},
            {"full": 3, "_ts": 3.0},
        ]
    )
    frame = TrackView(track.reader()).to_pandas()
    assert list(frame.columns) == ["_index", "_ts", "big", "full", "flag", "x"]
    assert (frame["big"][0], frame["big"].dtype) == (2**53 + 1, pd.Int64Dtype())
    assert frame["big"].isna().tolist() == [False, True, True]
    assert (frame["full"].dtype, frame["x"].dtype) == (np.dtype("int64"), np.dtype("float64"))
    assert frame["flag"].dtype == pd.BooleanDtype()
    assert frame["x"].isna().tolist() == [False, True, True]


def test_pandas_frames_keep_integers_inside_dicts_and_lists(lake_dir: Path) -> None:
    big = 2**53 + 1
    given = [
        {
            "dict": {"a": big, "b": True},
            "list": [big, None],
            "flags": [True, None],
            "deep": [{"a": [big, None]}, {"a": None}],
            "nested": [[big], [None], None],
            "doubles": [1.5, None],
            "count": big,
            "_ts": 1.0,
        },
        {"dict": {"a": None, "b": None}, "list": [1], "flags": [False], "_ts": 2.0},
        {"_ts": 3.0},
    ]
    track = TrackOnDisk(lake_dir)
    track.hot(given)
    frame = TrackView(track.reader()).to_pandas()
    assert repr(frame["dict"].tolist()) == repr([given[0]["dict"], given[1]["dict"], None])
    assert repr([each if each is None else each.tolist() for each in frame["list"]]) == repr([[big, None], [1], None])
    assert frame["flags"][0].tolist() == [True, None]
    assert [each["a"] if each["a"] is None else each["a"].tolist() for each in frame["deep"][0]] == [[big, None], None]
    assert [each if each is None else each.tolist() for each in frame["nested"][0]] == [[big], [None], None]
    assert frame["doubles"][0].dtype == np.dtype("float64")
    assert (frame["count"][0], frame["count"].dtype) == (big, pd.Int64Dtype())
    whole = TrackView(track.reader()).to_pandas(limit=2)
    assert (whole["_index"].dtype, whole["count"].dtype) == (np.dtype("int64"), pd.Int64Dtype())


def test_to_pandas_says_what_to_install(view: TrackView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        view.to_pandas()


def test_reading_dicts_and_arrow_imports_neither_polars_nor_pandas(view: TrackView, run_python: Any) -> None:
    code = """
    import sys
    from dreamlake.lake import Lake
    track = Lake(sys.argv[1]).session("s", "w").track("loss")
    track.read(), track.read_by_time(0.0, None, None), track.to_arrow(), len(track), track.stats(), track.files()
    print(sorted({"polars", "pandas", "fsspec"} & sys.modules.keys()))
    """
    root = view.files()[0].partition("/w/s/")[0]
    assert run_python(code, root).stdout == "[]\n"


# ------------------------------------------------------------------------------------------------ about the track


def test_stats_and_files_and_len(lake_dir: Path, view: TrackView) -> None:
    track = TrackOnDisk(lake_dir)
    track.write_metadata(description="falling", tags=["a"], metadata={"k": 1}, segment_points=10)
    sizes = [path.stat().st_size for path in track.folder.glob("0*.parquet")]
    assert view.stats() == {
        "name": "loss",
        "totalDataPoints": 45,
        "bufferedDataPoints": 5,
        "chunkedDataPoints": 40,
        "lostDataPoints": 0,
        "totalChunks": 4,
        "chunkSize": 10,
        "bytes": sum(sizes) + (track.folder / "data.jsonl").stat().st_size,
        "tsMin": 1000.0,
        "tsMax": 1022.0,
        "fields": {"value": "double", "step": "int64", "epoch": "int64"},
        "description": "falling",
        "tags": ["a"],
        "metadata": {"k": 1},
    }
    assert len(view) == 45
    track.segment([point | {"late": 1} for point in points_of(10)], 0, generation=1)
    files = view.files()
    assert [Path(file).name for file in files] == [
        "000000000000-000000000010.1.parquet",
        "000000000010-000000000020.parquet",
        "000000000020-000000000030.parquet",
        "000000000030-000000000040.parquet",
    ]
    assert sum(pl.read_parquet(file).height for file in files) == 40


def test_a_missing_track_is_an_error_and_an_empty_one_is_not(lake_dir: Path) -> None:
    described = TrackOnDisk(lake_dir, "described")
    described.write_metadata()
    empty = TrackView(described.reader())
    assert (len(empty), empty.read()["data"], empty.read(-5)["startIndex"]) == (0, [], 0)
    assert empty.scan().collect().columns == ["_index", "_ts"]
    assert empty.to_pandas().shape == (0, 2)
    assert (empty.stats()["tsMin"], empty.stats()["fields"], empty.files()) == (None, {}, [])
    assert empty.read_by_time(0, 1)["data"] == []
    missing = TrackView(TrackReader(described.reader().store, "w/s/tracks/lost", "lost"))
    for call in (missing.read, missing.scan, missing.to_arrow, missing.stats, missing.files, missing.__len__):
        with pytest.raises(TrackNotFoundError, match=r"^no track 'lost' at "):
            call()
    with pytest.raises(KeyError):
        missing.read_by_time()
    assert bool(missing)
    assert repr(missing) == "<TrackView 'lost'>"

    class Own(TrackView):
        def _refuse_missing(self) -> None:
            pass

    own = Own(TrackReader(described.reader().store, "w/s/tracks/lost", "lost"))
    assert (len(own), own.to_polars().shape) == (0, (0, 2))


def test_every_read_comes_after_the_hook(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    track.hot([])

    class Flushing(TrackView):
        def _before_read(self) -> None:
            track.hot(points_of(3))

    for call in (
        lambda view: len(view.read()["data"]),
        lambda view: len(view.read_by_time()["data"]),
        lambda view: view.scan().collect().height,
        lambda view: view.to_polars().height,
        lambda view: view.to_arrow().num_rows,
        lambda view: len(view.to_pandas()),
        lambda view: view.stats()["totalDataPoints"],
        len,
    ):
        track.hot([])
        assert call(Flushing(track.reader())) == 3


def test_damage_is_raised_or_skipped_by_every_read(lake_dir: Path, view: TrackView) -> None:
    damaged = Path(view.files()[1])
    damaged.write_bytes(damaged.read_bytes()[:100])
    for call in (
        lambda **how: len(view.read(**how)["data"]),
        lambda **how: len(view.read_by_time(limit=None, **how)["data"]),
        lambda **how: len(view.read_by_time(limit=44, **how)["data"]),
        lambda **how: view.scan(**how).collect().height,
        lambda **how: view.to_polars(**how).height,
        lambda **how: view.to_arrow(**how).num_rows,
        lambda **how: len(view.to_pandas(**how)),
    ):
        with pytest.raises(CorruptTrackError) as caught:
            call()
        assert (caught.value.path, caught.value.start, caught.value.stop) == (str(damaged), 10, 20)
        assert call(errors="skip") == 35


# ------------------------------------------------------------------------------------------------ runs made anew


def make_run(root: Path, run: int, count: int, **more: Any) -> None:
    shutil.rmtree(root, ignore_errors=True)
    with Session("s", "w", root, segment_points=10) as session:
        session.track("t").append_batch([{"run": run, "i": i, **more} for i in range(count)])


def test_a_kept_view_knows_nothing_of_the_run_before(tmp_path: Path) -> None:
    """A notebook keeps its view while the script is run again: the segments have the same names, and other points."""
    make_run(tmp_path / "lake", 1, 25, v=1)
    track = Lake(tmp_path / "lake").session("s", "w").track("t")
    first = track.stats()
    assert track.scan().filter(pl.col("_ts") > first["tsMin"]).collect().height == 24
    make_run(tmp_path / "lake", 2, 25, v=0.5)
    assert track.scan().filter(pl.col("_ts") > first["tsMax"]).collect()["run"].to_list() == [2] * 25
    assert len(track.read_by_time(first["tsMax"])["data"]) == 25
    again = track.stats()
    assert again["tsMin"] > first["tsMax"]
    assert again["fields"]["v"] == "double"
    assert track.to_polars()["v"].to_list() == [0.5] * 25


def test_a_kept_view_knows_no_row_groups_of_the_run_before(tmp_path: Path) -> None:
    for start in (1_000.0, 1e9):
        shutil.rmtree(tmp_path, ignore_errors=True)
        with Session("s", "w", tmp_path) as session:
            session.track("t").append_batch({"_ts": start + np.arange(200_000), "i": np.arange(200_000)})
        if start == 1_000.0:
            track = Lake(tmp_path).session("s", "w").track("t")
        few = (
            track.scan().filter(pl.col("_ts").is_between(start + 49_998, start + 49_999)).collect()
        )  # not in the newest
        assert few["i"].to_list() == [49_998, 49_999]


def test_a_frame_of_the_run_before_is_refused_and_not_mixed(tmp_path: Path) -> None:
    make_run(tmp_path / "lake", 1, 25)
    frames = [Lake(tmp_path / "lake").scan("t"), Lake(tmp_path / "lake").session("s", "w").track("t").scan()]
    make_run(tmp_path / "lake", 2, 30)
    for frame in frames:
        with pytest.raises(DreamlakeError, match="holds other points than when this snapshot was taken"):
            frame.collect()
    assert Lake(tmp_path / "lake").scan("t").collect()["run"].to_list() == [2] * 30


@pytest.mark.parametrize("read_before", [False, True])
def test_a_frame_of_a_run_with_the_same_times_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_before: bool
) -> None:
    """A replay, a simulation, an import again: nothing but the files themselves tells one from the other."""
    monkeypatch.setattr("dreamlake.engine.samerun.YOUNG", 0.0)

    def make(run: int) -> None:
        shutil.rmtree(tmp_path / "lake", ignore_errors=True)
        with Session("s", "w", tmp_path / "lake", segment_points=10) as session:
            session.track("t").append_batch([{"run": run, "_ts": float(i)} for i in range(25)])

    make(1)
    frames = [Lake(tmp_path / "lake").scan("t"), Lake(tmp_path / "lake").session("s", "w").track("t").scan()]
    if read_before:
        assert [frame.collect()["run"].to_list() for frame in frames] == [[1] * 25] * 2
    make(2)
    for frame in frames:
        with pytest.raises(DreamlakeError, match="holds other points than when this snapshot was taken"):
            frame.collect()


def test_a_merge_is_no_other_run(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path, segment_points=10) as session:
        track = session.track("t")
        track.append_batch([{"i": i} for i in range(1_200)])
        view = Lake(tmp_path).session("s", "w").track("t")
        frame, stats = view.scan(), view.stats()
        track.compact()
        track.append(late=1, _ts=track.read(limit=1)["data"][0]["data"]["_ts"])
        track.flush()
        assert frame.collect()["i"].to_list() == list(range(1_200))
        assert view.stats()["tsMin"] == stats["tsMin"]
        assert view.to_polars()["late"].drop_nulls().to_list() == [1]


def test_a_kept_view_of_a_replica_knows_nothing_of_the_run_before(
    tmp_path: Path, elsewhere: tuple[str, dict[str, Any] | None]
) -> None:
    url, options = elsewhere
    lake = Lake(url, options)
    with ExitStack() as stack:
        stack.callback(getattr(lake._store, "close", lambda: None))
        for run in (1, 2):
            if run == 2:
                for path in lake._store.walk():
                    lake._store.delete(path)
            shutil.rmtree(tmp_path / "lake", ignore_errors=True)
            with Session(
                "s", "w", tmp_path / "lake", remote=url, storage_options=options, segment_points=10
            ) as session:
                session.track("t").append_batch([{"run": run, "i": i} for i in range(25)])
            if run == 1:
                track = lake.session("s", "w").track("t")
                first = track.stats()
                held = track.scan()
                assert track.to_polars()["run"].to_list() == [1] * 25
        assert track.scan().filter(pl.col("_ts") > first["tsMax"]).collect()["run"].to_list() == [2] * 25
        assert len(track.read_by_time(first["tsMax"])["data"]) == 25
        with pytest.raises(DreamlakeError, match="holds other points than when this snapshot was taken"):
            held.collect()
