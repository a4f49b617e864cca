"""The lazy frame: any query on it gives what the eager frame gives, and reads only what it needs."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from build import CountingStore, RacingStore, TrackOnDisk, points_of
from hypothesis import given, reject
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from dreamlake.engine.scan import Part, lazy_frame
from dreamlake.errors import CorruptTrackError
from dreamlake.lake import Lake
from dreamlake.session import Session
from dreamlake.view import TrackView

Query = Callable[[pl.LazyFrame], pl.LazyFrame]


def changing_track(root: Path) -> TrackOnDisk:
    """Seven segments and a hot file: times out of order, types that widen, columns that come late, nested values."""
    track = TrackOnDisk(root)
    points: list[dict[str, Any]] = []
    for i in range(75):
        point: dict[str, Any] = {"value": i if i < 30 else i / 4, "tag": f"t{i % 5}"}
        if i >= 20:
            point["mixed"] = i if i < 50 else str(i)
        if i % 3 == 0:
            point["none"] = None if i % 2 else math.nan
        if i >= 40:
            point |= {"list": [i, i + 1], "pair": {"a": i, "b": None if i % 2 else "x"}}
        # Within a segment the times are mixed up, and two segments overlap in time.
        points.append({**point, "_ts": 100.0 + i * 7 % 10 + i // 10 * 8})
    track.segments(points[:70], 10)
    track.hot(points[70:], 70)
    return track


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> TrackView:
    return TrackView(changing_track(tmp_path_factory.mktemp("lake")).reader())


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> TrackView:
    """The same with row groups of three points, as wide segments have some of ten thousand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamlake.format.segment.ROW_GROUP", 3)
        return TrackView(changing_track(tmp_path_factory.mktemp("lake")).reader())


# ------------------------------------------------------------------------------------------------ any query is right


def _literal(column: str, value: float, typed: int) -> pl.Expr:
    if column == "_index" and typed == 0:
        return pl.lit(int(value))
    return pl.lit(value, dtype=pl.Float32 if typed == 1 else None)


@st.composite
def conditions(draw: st.DrawFn) -> pl.Expr:
    column = draw(st.sampled_from(["_index", "_ts", "value"]))
    low, high = sorted(draw(st.tuples(*[st.sampled_from(range(-20, 400))] * 2)))
    scale, base = (0.5, 95.0) if column == "_ts" else (0.25, 0.0)
    ends = [_literal(column, base + end * scale, draw(st.integers(0, 2))) for end in (low, high)]
    compare = draw(st.sampled_from(["__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"]))
    shapes: list[Callable[[], pl.Expr]] = [
        lambda: getattr(pl.col(column), compare)(ends[0]),
        lambda: getattr(ends[0], compare)(pl.col(column)),
        lambda: pl.col(column).is_between(*ends, closed=draw(st.sampled_from(["both", "left", "right", "none"]))),
        lambda: pl.col(column).cast(pl.Float64).is_in([base + low * scale, base + high * scale]),
        lambda: pl.col("_index").is_in([low, high]),
        lambda: pl.col(column) * 2 - 10 > ends[0],
        lambda: pl.col("tag") == f"t{low % 6}",
        lambda: pl.col("mixed").is_null(),
        lambda: pl.col("none").is_nan(),
        lambda: pl.col(column).cast(pl.Float64) < ends[1],
        lambda: pl.lit(bool(low % 2)),
    ]
    return draw(st.sampled_from(shapes))()


predicates = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
        st.builds(lambda a, b: a ^ b, inner, inner),
    ),
    max_leaves=4,
)
counts = st.one_of(st.integers(0, 12), st.integers(0, 90))
_columns = ["_index", "_ts", "value", "tag", "mixed", "none", "list", "pair"]
steps = st.one_of(
    predicates.map(lambda predicate: lambda frame: frame.filter(predicate)),
    counts.map(lambda n: lambda frame: frame.head(n)),
    counts.map(lambda n: lambda frame: frame.tail(n)),
    st.tuples(st.integers(-80, 80), counts).map(lambda pair: lambda frame: frame.slice(*pair)),
    st.integers(1, 7).map(lambda n: lambda frame: frame.gather_every(n)),
    st.just(lambda frame: frame.sort("_index", descending=True, maintain_order=True)),
    st.just(lambda frame: frame.sort("_ts", maintain_order=True)),
    st.just(lambda frame: frame.with_columns(value=pl.col("value") + 1, _index=pl.col("_index") * 2)),
    st.just(lambda frame: frame.with_row_index("row").drop("row")),
    st.just(lambda frame: frame.filter(pl.col("_index") == pl.col("_index").max())),
    st.just(lambda frame: frame.filter(pl.col("value") > pl.col("value").mean())),
    st.just(lambda frame: pl.concat([frame, frame])),
    st.just(lambda frame: frame.join(frame.select("_index", twin="value"), on="_index", maintain_order="left_right")),
)
ends = st.one_of(
    st.just(lambda frame: frame),
    st.lists(st.sampled_from(_columns), min_size=1, unique=True).map(lambda names: lambda frame: frame.select(names)),
    st.just(lambda frame: frame.select(pl.len())),
    st.just(lambda frame: frame.select(pl.col("value").sum(), last=pl.col("_ts").max())),
    st.just(lambda frame: frame.group_by("tag", maintain_order=True).agg(pl.len(), pl.col("_index").max())),
    st.just(lambda frame: frame.group_by(pl.col("_index") // 10, maintain_order=True).agg(pl.col("value"))),
    st.just(lambda frame: frame.select(pl.col("pair").struct.field("b"), pl.col("list").list.sum())),
    st.just(lambda frame: frame.select(one=pl.lit(1)).head(3)),
    st.just(lambda frame: frame.unique(["tag"], keep="first", maintain_order=True)),
)


def right_answer(query: pl.LazyFrame) -> pl.DataFrame:
    """What the eager frame gives; queries that Polars itself refuses, or panics at, are not tried."""
    try:
        return query.collect()
    except BaseException as error:
        if isinstance(error, pl.exceptions.PolarsError) or type(error).__name__ == "PanicException":
            reject()
        raise


@given(st.lists(steps, max_size=3), ends, st.sampled_from(["in-memory", "streaming"]), st.integers(-90, 90), st.data())
def test_every_query_gives_what_it_gives_on_the_eager_frame(
    changing: TrackView, before: list[Query], end: Query, engine: Any, start: int, data: st.DataObject
) -> None:
    limit = data.draw(st.none() | counts, label="limit")
    lazy, eager = changing.scan(start, limit), changing.to_polars(start, limit).lazy()
    for step in before:
        lazy, eager = step(lazy), step(eager)
    lazy, eager = end(lazy), end(eager)
    expected = right_answer(eager)
    assert_frame_equal(lazy.collect(engine=engine), expected)
    assert lazy.collect_schema() == expected.schema


@given(predicates, steps, ends, st.sampled_from(["in-memory", "streaming"]), st.integers(0, 60))
def test_every_filter_is_right_where_row_groups_are_left_out(
    grouped: TrackView, predicate: pl.Expr, step: Query, end: Query, engine: Any, start: int
) -> None:
    eager = end(step(grouped.to_polars(start).lazy().filter(predicate)))
    expected = right_answer(eager)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamlake.format.segment.WIDE", 5)
        assert_frame_equal(end(step(grouped.scan(start).filter(predicate))).collect(engine=engine), expected)


@given(steps, ends)
def test_every_query_is_right_where_damage_is_skipped(tmp_path_factory: Any, step: Query, end: Query) -> None:
    logging.logThreads = False  # it would enter Polars' threads among Python's, as threads that never end
    root = tmp_path_factory.mktemp("lake")
    track = changing_track(root)
    damaged = sorted(track.folder.glob("*.parquet"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    view = TrackView(track.reader())
    eager = view.to_polars(errors="skip")
    assert len(eager) == 65
    expected = right_answer(end(step(eager.lazy())))
    assert_frame_equal(end(step(view.scan(errors="skip"))).collect(), expected)


def test_the_eager_frame_holds_the_points(changing: TrackView) -> None:
    frame = changing.to_polars()
    assert dict(frame.schema) == {
        "_index": pl.Int64,
        "_ts": pl.Float64,
        "value": pl.Float64,
        "tag": pl.String,
        "none": pl.Float64,
        "mixed": pl.String,
        "list": pl.List(pl.Int64),
        "pair": pl.Struct({"a": pl.Int64, "b": pl.String}),
    }
    for row, point in zip(frame.iter_rows(named=True), changing.read(limit=None)["data"], strict=True):
        assert row["_index"] == point["index"]
        data = point["data"]
        assert (row["_ts"], row["value"], row["tag"]) == (data["_ts"], data["value"], data["tag"])
        assert row["mixed"] == (json.dumps(data["mixed"]) if "mixed" in data else None)
        assert row["list"] == data.get("list")
        assert row["pair"] == data.get("pair")
        assert (row["none"] is None) == (data.get("none") is None)


# ------------------------------------------------------------------------------------------------ what is read


@pytest.fixture
def counted(lake_dir: Path) -> tuple[TrackView, RacingStore, list[str]]:
    """A view of 100 points in ten segments, half a second a point from 1000.0 on; all footers known, nothing hot."""
    track = TrackOnDisk(lake_dir)
    names = [path.name for path in track.segments(points_of(100), 10)]
    store = RacingStore(lake_dir)
    view = TrackView(track.reader(store))
    view.to_arrow()
    return view, store, names


index, ts = pl.col("_index"), pl.col("_ts")


@pytest.mark.parametrize(
    ("query", "read"),
    [
        (lambda frame: frame.filter(index == 42), [4]),
        (lambda frame: frame.filter((index >= 28) & (index < 31)), [2, 3]),
        (lambda frame: frame.filter(index.is_between(39, 40)), [3, 4]),
        (lambda frame: frame.filter(index.is_between(39, 40, closed="none")), []),
        (lambda frame: frame.filter(pl.lit(88) < index), [8, 9]),
        (lambda frame: frame.filter(index > 89.5), [9]),
        (lambda frame: frame.filter((index < 3) | (index >= 97)), [0, 9]),
        (lambda frame: frame.filter(~(index < 95)), [9]),
        (lambda frame: frame.filter(ts < 1004.5), [0]),
        (lambda frame: frame.filter(ts <= 1005), [0, 1]),
        (lambda frame: frame.filter(ts.is_between(1012, 1013)), [2]),
        (lambda frame: frame.filter(ts == 1049.5), [9]),
        (lambda frame: frame.filter(ts > 1e9), []),
        (lambda frame: frame.filter(index > 50, ts < 1027), [5]),
        (lambda frame: frame.filter(pl.col("value") > 5, index < 5), [0]),
        (lambda frame: frame.head(12), [0, 1]),
        (lambda frame: frame.head(30).filter(ts >= 1010), [2]),
        (lambda frame: frame.select(pl.len()), []),
        (lambda frame: frame.select("_index"), []),
        (lambda frame: frame.filter(index < 10).select("step"), [0]),
        (lambda frame: frame.rename({"_index": "i"}).filter(pl.col("i") < 10), [0]),
    ],
)
def test_only_the_segments_that_a_query_needs_are_read(
    counted: tuple[TrackView, RacingStore, list[str]], query: Query, read: list[int]
) -> None:
    view, store, names = counted
    lazy = view.scan()
    store.calls.clear()
    frame = query(lazy).collect()
    assert sorted(store.got()) == [names[at] for at in read]
    assert_frame_equal(frame, query(view.to_polars().lazy()).collect())


@pytest.mark.parametrize(
    ("condition", "groups"),
    [
        (index == 54_321, 1),
        (index.is_between(19_999, 20_000), 2),
        (ts < 1004.5, 1),
        (ts.is_between(6_000.0, 16_000.0), 3),
        ((index < 5) | (ts > 55_990), 2),
        (pl.col("value") == 0.0, 11),
    ],
)
def test_only_the_row_groups_that_a_query_needs_are_read(lake_dir: Path, condition: pl.Expr, groups: int) -> None:
    noise = random.Random(3)
    points = [{"value": noise.random(), "more": noise.random(), "_ts": 1000.0 + i / 2} for i in range(110_000)]
    track = TrackOnDisk(lake_dir)
    size = track.segment(points, 0).stat().st_size
    assert size > 1 << 20
    store = CountingStore(lake_dir)
    view = TrackView(track.reader(store))
    view.scan(limit=1).collect()
    store.spans.clear()
    frame = view.scan().filter(condition).collect()
    assert_frame_equal(frame, view.to_polars().filter(condition))
    store.spans.clear()
    assert view.scan().filter(condition).collect().height == frame.height
    assert size * groups / 11 * 0.9 < store.amount < size * groups / 11 + 200_000


def test_a_range_reads_only_its_segments(counted: tuple[TrackView, RacingStore, list[str]]) -> None:
    view, store, names = counted
    store.calls.clear()
    assert view.scan(start_index=45, limit=10).collect()["_index"].to_list() == list(range(45, 55))
    assert sorted(store.got()) == [*names[4:6], "data.jsonl"]
    assert view.scan(-3).collect()["_index"].to_list() == [97, 98, 99]
    assert view.scan(200).collect().height == 0


# ------------------------------------------------------------------------------------------------ a snapshot


def test_it_is_a_snapshot_also_when_collected_later_and_twice(lake_dir: Path) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(25)
    paths = track.segments(points[:20], 10)
    track.hot(points[20:], 20)
    lazy = TrackView(track.reader()).scan()
    expected = lazy.collect()
    track.hot([], 40)
    track.segment([*points[20:], *points_of(15, 25)], 20)
    track.segment([point | {"late": 1} for point in points[:10]], 0, generation=1)
    assert_frame_equal(lazy.collect(), expected)
    track.segment([point | {"late": 1} for point in points[:20]], 0)
    for path in paths:
        path.unlink()
    assert_frame_equal(lazy.collect(), expected)
    assert_frame_equal(
        lazy.filter(index > 15).select("step", "_ts").collect(), expected.filter(index > 15).select("step", "_ts")
    )
    assert TrackView(track.reader()).scan().collect().shape == (40, 6)


def test_two_scans_of_one_shape_are_not_taken_for_one(lake_dir: Path) -> None:
    views = []
    for at, name in enumerate(["a", "b"]):
        track = TrackOnDisk(lake_dir, name)
        track.hot([{"value": float(at), "_ts": 1.0}])
        views.append(TrackView(track.reader()).scan())
    assert pl.concat([*views, views[0]]).collect()["value"].to_list() == [0.0, 1.0, 0.0]


def test_damage_raises_our_error_from_collect(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    paths = track.segments(points_of(30), 10)
    paths[1].write_bytes(b"")
    lazy = TrackView(track.reader()).scan()
    for engine in ("in-memory", "streaming"):
        with pytest.raises(CorruptTrackError, match=r"000000000010.*empty") as caught:
            lazy.collect(engine=engine)
        assert (caught.value.start, caught.value.stop) == (10, 20)
    assert lazy.filter(index >= 20).collect().height == 10
    assert lazy.filter(index < 10).collect().height == 10


def test_python_functions_in_a_filter(changing: TrackView) -> None:
    # Polars pickles such a predicate for the source, with this library.
    pytest.importorskip("cloudpickle", reason="Polars needs it")
    limit = 60
    odd = pl.col("_index").map_batches(lambda column: column > limit, return_dtype=pl.Boolean, is_elementwise=True)
    assert changing.scan().filter(odd).collect()["_index"].to_list() == list(range(61, 75))


def test_the_plan_names_the_track(changing: TrackView) -> None:
    assert "dreamlake loss" in changing.scan().explain()


def test_a_field_whose_name_is_empty(lake_dir: Path) -> None:
    track = TrackOnDisk(lake_dir)
    points = [{"": i, "column_2": -i, "a": {"": i}, "_ts": float(i)} for i in range(15)]
    track.segments(points[:10], 10)
    track.hot(points[10:], 10)
    view = TrackView(track.reader())
    frame = view.to_polars()
    assert frame.columns == ["_index", "_ts", "", "column_2", "a"]
    assert frame[""].to_list() == list(range(15))
    assert_frame_equal(view.scan().collect(), frame)
    assert view.scan().filter(pl.col("") > 12).select("", "column_2").collect().rows() == [(13, -13), (14, -14)]


def test_labels_are_columns_that_prune_too(lake_dir: Path) -> None:
    store = RacingStore(lake_dir)
    parts = []
    for run in ("a", "b", "c"):
        track = TrackOnDisk(lake_dir, session=run)
        track.segments(points_of(20), 10)
        snapshot = track.reader(store).snapshot(described=True)
        parts.append(Part(snapshot, 0, snapshot.total, (("_session", run),)))
    lazy = lazy_frame(parts, parts[0].snapshot.schema, name="loss", labels=["_session"])
    assert lazy.collect_schema().names() == ["_session", "_index", "_ts", "value", "step", "epoch"]
    everything = lazy.collect()
    assert everything["_session"].to_list() == [run for run in "abc" for _ in range(20)]
    store.calls.clear()
    one = lazy.filter(pl.col("_session") == "b", index < 5)
    assert_frame_equal(one.collect(), everything.filter(pl.col("_session") == "b", index < 5))
    assert len(store.got()) == 1
    assert lazy.select("_session").collect()["_session"].value_counts(sort=True)["count"].to_list() == [20, 20, 20]
    assert_frame_equal(
        lazy.select("step", "_session").head(25).collect(), everything.select("step", "_session").head(25)
    )


# ------------------------------------------------------------------------------------------------ of many runs


PARAMETERS: dict[str, dict[str, Any]] = {
    "r0": {"lr": 0.1, "layers": [4, 4], "tag": "a"},
    "r1": {"lr": 0.1, "tag": "b", "value": 7},
    "r2": {},
    "r3": {"lr": 0.3, "layers": [], "only": True},
    "r4": {"lr": 1, "layers": [8], "tag": "5"},
    "r5": {"lr": None, "tag": "a"},
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six runs of 36 points in segments and hot files, one with a damaged segment; and one run without the track."""
    root = tmp_path_factory.mktemp("lake")
    for run, parameters in PARAMETERS.items():
        track = TrackOnDisk(root, session=run)
        points = [{"value": i, "run": f"{run} {i % 3}", "_ts": float(i)} for i in range(36)]
        paths = track.segments(points[:30], 10)
        track.hot(points[30:], 30)
        stored = {"version": 1, "data": parameters, "createdAt": None, "updatedAt": None}
        (track.session / "parameters.json").write_text(json.dumps(stored))
        if run == "r2":
            paths[1].write_bytes(paths[1].read_bytes()[:-9])
    TrackOnDisk(root, "other", session="without").hot(points_of(2))
    return root


def eager_sweep(root: Path, names: dict[str, str]) -> pl.DataFrame:
    """The points and `names` of the parameters, as they are called in the frame, joined where order is kept."""
    lake = Lake(root)
    points = lake.scan("loss", errors="skip").collect()
    runs = lake.sessions().to_polars().select("_session", **{called: pl.col(name) for name, called in names.items()})
    return points.join(runs, on="_session", how="left", maintain_order="left")


EVERY = {"lr": "lr", "layers": "layers", "tag": "tag", "value": "parameters.value", "only": "only"}


def test_a_slice_of_a_scan_with_parameters_keeps_its_order(sweep: Path) -> None:
    # A join would lose it in some runs of a query, where nothing behind the slice asks for the order.
    lazy = Lake(sweep).scan("loss", parameters=True, errors="skip")
    eager = eager_sweep(sweep, EVERY)
    queries: list[Query] = [
        lambda frame: frame.slice(30, 50).group_by("_session").agg(pl.len()).sort("_session"),
        lambda frame: frame.slice(-80, 20).filter(pl.col("_session") == "r4").select(pl.len()),
    ]
    for query in queries:
        expected = query(eager.lazy()).collect(engine="in-memory")
        for _ in range(60):
            assert_frame_equal(query(lazy).collect(), expected)


lr = pl.col("lr")
_of_parameters = st.sampled_from(
    [
        lr > 0.2,
        lr == 0.1,
        lr.is_null(),
        lr.is_in([0.1, 1.0]),
        ~(lr > 0.2),
        lr > lr.mean(),
        lr.is_first_distinct(),
        lr == lr.shift(1),
        pl.col("layers").list.len() > 0,
        pl.col("tag") == "a",
        pl.col("tag").str.starts_with("b") | pl.col("only"),
        pl.col("tag").cast(pl.Int64, strict=False) == 5,
        pl.col("parameters.value") == pl.col("value"),
        (lr > 0.2) & (pl.col("_session") != "r4"),
        (lr > 0.2) & (index < 12),
        (lr > 0.2) | (index < 12),
        pl.when(lr > 0.2).then(True).otherwise(pl.col("_session") == "r0"),
        index >= 33,
        pl.col("run").str.ends_with("2"),
        pl.lit(True),
    ]
)
_rows = st.one_of(st.integers(0, 12), st.integers(0, 220))
_steps_of_many = st.one_of(
    _of_parameters.map(lambda predicate: lambda frame: frame.filter(predicate)),
    _rows.map(lambda n: lambda frame: frame.head(n)),
    _rows.map(lambda n: lambda frame: frame.tail(n)),
    st.tuples(st.integers(-220, 220), _rows).map(lambda pair: lambda frame: frame.slice(*pair)),
    st.just(lambda frame: frame.sort("lr", "_index", "_session")),
    st.just(lambda frame: frame.with_columns(lr=pl.col("lr") * pl.col("value"))),
    st.just(lambda frame: pl.concat([frame, frame])),
)
_columns_of_many = ["_workspace", "_session", "_index", "_ts", "value", "run", *EVERY.values()]
_ends_of_many = st.one_of(
    st.just(lambda frame: frame),
    st.lists(st.sampled_from(_columns_of_many), min_size=1, unique=True).map(
        lambda names: lambda frame: frame.select(names)
    ),
    st.just(lambda frame: frame.select(pl.len())),
    st.just(lambda frame: frame.select("lr", "layers")),
    st.just(lambda frame: frame.select(one=pl.lit(1)).head(3)),
    st.just(
        lambda frame: frame.group_by("_session", "lr").agg(pl.len(), pl.col("_index").sum()).sort("_session", "lr")
    ),
    st.just(lambda frame: frame.group_by("tag", maintain_order=True).agg(pl.col("only").first(), pl.col("layers"))),
    st.just(lambda frame: frame.unique(["lr"], keep="first", maintain_order=True)),
)


@given(st.lists(_steps_of_many, max_size=3), _ends_of_many, st.sampled_from(["in-memory", "streaming"]), st.booleans())
def test_every_query_of_parameters_is_that_of_the_eager_frame(
    sweep: Path, before: list[Query], end: Query, engine: Any, whole: bool
) -> None:
    logging.logThreads = False  # as above
    names = ["r0", "r1", "r3", "r4", "r5"] if whole else None
    lazy = Lake(sweep).scan("loss", sessions=names, parameters=True, errors="raise" if whole else "skip")
    eager = eager_sweep(sweep, EVERY).lazy()
    if names:
        eager = eager.filter(pl.col("_session").is_in(names)).collect().lazy()
    for step in before:
        lazy, eager = step(lazy), step(eager)
    lazy, eager = end(lazy), end(eager)
    expected = right_answer(eager)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamlake.engine.scan.WRITTEN_OUT_ROWS", 7)
        patch.setattr("dreamlake.engine.scan.FIRST_WINDOW_ROWS", 25)
        assert_frame_equal(lazy.collect(engine=engine), expected)
    assert lazy.collect_schema() == expected.schema


@pytest.fixture
def three(lake_dir: Path) -> tuple[list[Part], RacingStore]:
    """Three runs of two segments each, whose footers are known."""
    store, parts = RacingStore(lake_dir), []
    for run in ("a", "b", "c"):
        track = TrackOnDisk(lake_dir, session=run)
        track.segments(points_of(20), 10)
        snapshot = track.reader(store).snapshot(described=True)
        parts.append(Part(snapshot, 0, snapshot.total, (("_session", run),)))
    return parts, store


def of_three(parts: list[Part], *constants: pl.Series) -> pl.LazyFrame:
    return lazy_frame(parts, parts[0].snapshot.schema, name="loss", labels=["_session"], constants=constants)


@pytest.mark.parametrize(
    ("condition", "runs", "segments"),
    [
        (lr > 0.2, "c", 2),
        (lr.is_null(), "b", 2),
        (lr.is_in([0.1, 0.3]), "ac", 4),
        (~(lr > 0.2), "a", 2),
        (pl.col("_session").is_in(["a", "b"]), "ab", 4),
        ((lr > 0.2) & (index < 5), "c", 1),
        ((index < 5) & (lr < 0.2) & (pl.col("_session") != "c") & (pl.col("value") >= 0), "a", 1),
        ((lr > 0.2) | (index < 5), "abc", 4),
        ((lr > 5), "", 0),
        (lr > pl.col("value") - 100, "ac", 6),
    ],
)
def test_conditions_on_what_all_points_of_a_run_share_leave_whole_runs_out(
    three: tuple[list[Part], RacingStore], condition: pl.Expr, runs: str, segments: int
) -> None:
    parts, store = three
    lazy = of_three(parts, pl.Series("lr", [0.1, None, 0.3]))
    assert lazy.collect_schema().names() == ["_session", "_index", "_ts", "value", "step", "epoch", "lr"]
    eager = lazy.collect()
    assert eager["lr"].to_list() == [value for value in (0.1, None, 0.3) for _ in range(20)]
    store.calls.clear()
    frame = lazy.filter(condition).select("_session", "step").collect()
    assert frame["_session"].unique(maintain_order=True).to_list() == list(runs)
    assert_frame_equal(frame, eager.filter(condition).select("_session", "step"))
    if "|" not in str(condition):
        assert len(store.got()) == segments


def test_a_value_that_a_condition_cannot_take_fails_only_with_points_that_have_it(
    three: tuple[list[Part], RacingStore],
) -> None:
    parts, _ = three
    number = pl.col("tag").cast(pl.Int64) > 1
    tags = pl.Series("tag", ["1", "2", "x"])
    with pytest.raises(pl.exceptions.InvalidOperationError):
        of_three(parts, tags).filter(number).collect()
    without = [*parts[:2], parts[2]._replace(stop=0)]
    assert of_three(without, tags).filter(number).collect()["_session"].to_list() == ["b"] * 20


def test_what_points_of_a_run_share_is_not_written_out_for_all_points_at_once(
    three: tuple[list[Part], RacingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, _ = three
    monkeypatch.setattr("dreamlake.engine.scan.WRITTEN_OUT_ROWS", 25)
    monkeypatch.setattr("dreamlake.engine.scan.register_io_source", lambda source, **_: source)
    source: Any = of_three(parts, pl.Series("layers", [[1], None, [1, 2]]))
    assert [len(frame) for frame in source(None, None, None, None)] == [25, 25, 10]
    assert [len(frame) for frame in source(["step"], None, None, None)] == [60]
    # Nor for those that do not pass.
    written: list[tuple[list[str], int]] = []
    with_constants = type(source)._with_constants

    def noted(self: Any, frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
        written.append((names, len(frame)))
        return with_constants(self, frame, names)

    monkeypatch.setattr(type(source), "_with_constants", noted)
    assert sum(len(frame) for frame in source(["layers"], pl.col("step") == 3, None, None)) == 3
    assert sum(rows for names, rows in written if "layers" in names) == 3


@pytest.mark.parametrize(
    "names",
    [["*"], ["^s$", "s"], [""], ["", "column_2"], ["", "column_0", "*", "^.*$"]],
    ids=str,
)
def test_parameters_of_any_name_are_columns(tmp_path: Path, names: list[str]) -> None:
    """None of them is a pattern, and none is renamed."""
    with Session("s", "w", tmp_path) as session:
        session.parameters().set({name: place for place, name in enumerate(names)})
        session.track("t").append_batch([{"x": 1}, {"x": 2}])
    frame = Lake(tmp_path).scan("t", parameters=True)
    for found in (frame.collect(), frame.filter(pl.col("x") > 0).collect()):
        assert found.columns == ["_workspace", "_session", "_index", "_ts", "x", *names]
        assert [found[name].to_list() for name in names] == [[place] * 2 for place in range(len(names))]
