"""Analysis: tracks joined by time, repeats left out, points chosen for pictures, runs with their parameters."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from dreamlake import Lake, Session
from dreamlake.analysis import thin as thinning
from dreamlake.analysis.thin import thin
from dreamlake.errors import TrackNotFoundError
from dreamlake.lake import SessionView


@pytest.fixture
def session(tmp_path: Path) -> Any:
    with Session("s", "w", tmp_path / "lake", segment_points=10) as session:
        yield session


def view_of(session: Session) -> SessionView:
    session.flush()
    assert session.root is not None
    return Lake(session.root).session(session.name, session.workspace)


# ------------------------------------------------------------------------------------------------ align


@pytest.fixture
def robot(session: Session) -> Session:
    """A pose each 0.1 s; an image with each fourth, on its moment; a force each 0.25 s; three rolled segments."""
    for i in range(33):
        session.track("robot/pose").append(x=float(i), _ts=1000 + i / 10)
        if i % 4 == 0:
            session.track("camera/left/image").append(frame=i // 4, _ts=-1)
    for i in range(12):
        session.track("force").append(n=i, _ts=1000.02 + i / 4)
    return session


@pytest.mark.parametrize("look", [lambda session: session, view_of], ids=["session", "lake"])
def test_exact_takes_points_of_the_same_moment(robot: Session, look: Any) -> None:
    frame = look(robot).align("robot/pose", "camera/left/image").collect()
    assert frame.columns == [
        "_ts", "robot/pose._index", "robot/pose.x", "camera/left/image._index", "camera/left/image.frame",
    ]  # fmt: skip
    assert frame["robot/pose.x"].to_list() == [float(i) for i in range(33)]
    assert frame["camera/left/image.frame"].to_list() == [i // 4 if i % 4 == 0 else None for i in range(33)]
    assert frame["camera/left/image._index"].to_list() == [i // 4 if i % 4 == 0 else None for i in range(33)]


def nearest(times: list[float], at: float, how: str, tolerance: float) -> int | None:
    """The index of the point of rising `times` that fits `at`, the plain way."""
    fits = [
        (abs(time - at), -index)
        for index, time in enumerate(times)
        if abs(time - at) <= tolerance
        and not (how == "backward" and time > at)
        and not (how == "forward" and time < at)
    ]
    return -min(fits)[1] if fits else None


@pytest.mark.parametrize("how", ["backward", "forward", "nearest"])
@pytest.mark.parametrize("tolerance", [None, 0.05, 0.0, timedelta(milliseconds=50)])
@pytest.mark.parametrize("bounds", [(None, None), (1001.0, 1002.0), (None, 1000.3), (1003.0, None), (1002.0, 1001.0)])
def test_as_of_joins_are_those_of_a_plain_search(
    robot: Session, how: Any, tolerance: Any, bounds: tuple[float | None, float | None]
) -> None:
    low, high = bounds
    frame = robot.align("robot/pose", "force", how=how, tolerance=tolerance, start_time=low, end_time=high).collect()
    seconds = tolerance.total_seconds() if isinstance(tolerance, timedelta) else tolerance
    times = [1000.02 + i / 4 for i in range(12)]
    wanted = [t for t in (1000 + i / 10 for i in range(33)) if (low or 0) <= t and (high is None or t < high)]
    assert frame["_ts"].to_list() == wanted
    assert frame["force.n"].to_list() == [
        nearest(times, at, how, math.inf if seconds is None else seconds) for at in wanted
    ]


@given(
    left=st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=25),
    right=st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=25),
    how=st.sampled_from(["exact", "backward", "forward"]),
    tolerance=st.none() | st.integers(0, 8),
)
def test_align_in_any_order_of_arrival(left: list[int], right: list[int], how: Any, tolerance: int | None) -> None:
    from dreamlake.analysis.align import align

    tolerance = None if how == "exact" else tolerance
    frames = [
        (name, pl.LazyFrame({"_index": range(len(times)), "_ts": [float(t) for t in times]}))
        for name, times in (("a", left), ("b", right))
    ]
    frame = align(frames, how, tolerance, None, None).collect()
    assert frame["_ts"].to_list() == sorted(left)
    reach = 0 if how == "exact" else math.inf if tolerance is None else tolerance
    for at, _, found in frame.iter_rows():
        expected = nearest(sorted(map(float, right)), at, how, reach)
        assert found == (None if expected is None else right.index(sorted(right)[expected]))


@given(
    left=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    right=st.lists(st.integers(0, 12), max_size=25),
    how=st.sampled_from(["exact", "backward", "forward", "nearest"]),
    tolerance=st.none() | st.integers(0, 3),
)
def test_of_points_with_one_time_the_later_is_met(
    left: list[int], right: list[int], how: Any, tolerance: int | None
) -> None:
    """Points may share a ``_ts`` where they were imported."""
    from dreamlake.analysis.align import align

    tolerance = None if how == "exact" else tolerance
    frames = [
        (name, pl.LazyFrame({"_index": range(len(times)), "_ts": times}, {"_index": pl.Int64, "_ts": pl.Float64}))
        for name, times in (("a", left), ("b", right))
    ]
    frame = align(frames, how, tolerance, None, None).collect()
    assert frame["a._index"].to_list() == sorted(range(len(left)), key=left.__getitem__)
    reach = 0 if how == "exact" else math.inf if tolerance is None else tolerance
    later = {time: index for index, time in enumerate(right)}
    for at, _, found in frame.iter_rows():
        expected = nearest(sorted(later), at, how, reach)
        if expected is None:
            assert found is None
        else:
            assert found in later.values()
            time = sorted(later)[expected]
            # Of two that are equally near, one before and one after, either may be met.
            assert right[found] == time or (how == "nearest" and abs(right[found] - at) == abs(time - at))


def test_three_tracks_and_one_that_grows_later(robot: Session) -> None:
    lazy = robot.align("force", "robot/pose", "camera/left/image", how="backward")
    robot.track("force").append(n=99, _ts=2000.0)
    frame = lazy.collect()
    assert len(frame) == 12  # a snapshot as of the call
    assert frame["robot/pose.x"].to_list() == [float(math.floor((0.02 + i / 4) * 10 + 1e-9)) for i in range(12)]
    assert frame.row(-1, named=True)["camera/left/image.frame"] == 6


def test_a_range_of_time_reads_only_its_segments(robot: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamlake.engine import scan

    looked: list[int] = []
    real = scan.tables_of

    def counting(pieces: Any, shape: Any) -> Any:
        looked.append(sum(len(range(piece.start, piece.stop)) for piece in pieces))
        return real(pieces, shape)

    monkeypatch.setattr(scan, "tables_of", counting)
    robot.align("robot/pose", "force", how="nearest", tolerance=0.1, start_time=1002.0, end_time=1002.1).collect()
    assert sum(looked) <= 20  # of 45


def test_align_joins_each_track_in_its_own_way(robot: Session) -> None:
    names = ("robot/pose", "force", "camera/left/image")
    both = robot.align(*names, how={"force": "backward", "camera/left/image": "nearest"}, tolerance=0.05).collect()
    first, *others = names
    for other, how in zip(others, ("backward", "nearest"), strict=True):
        alone = robot.align(first, other, how=how, tolerance=0.05).collect()  # type: ignore[arg-type]
        assert_frame_equal(both.select(alone.columns), alone)
    far = robot.align(*names, how="nearest", tolerance={"force": 0.0, "camera/left/image": None}).collect()
    alone = robot.align(first, "force", how="nearest", tolerance=0.0).collect()
    assert_frame_equal(far.select(alone.columns), alone)
    assert far["camera/left/image._index"].null_count() == 0
    with pytest.raises(ValueError, match="how= by track names each track but the first, 'force'; got 'robot/pose'"):
        robot.align("robot/pose", "force", how={"robot/pose": "nearest"})
    with pytest.raises(ValueError, match="tolerance= by track names each track but the first, 'force'; got none"):
        robot.align("robot/pose", "force", tolerance={})
    with pytest.raises(ValueError, match='take how="nearest"'):
        robot.align(*names, how={"force": "exact", "camera/left/image": "nearest"}, tolerance=0.05)


def test_align_refuses_two_columns_of_one_name(session: Session) -> None:
    session.track("a").append(**{"b.v": 1, "v": 2}, _ts=1.0)
    session.track("a.b").append(v=3, _ts=1.0)
    session.track("c").append(v=4, _ts=1.0)
    session.flush()
    for names in (("a", "a.b"), ("a.b", "a"), ("c", "a", "a.b")):
        with pytest.raises(ValueError, match=r"would both be the column 'a\.b\.v'; .* rename a column"):
            session.align(*names)
    assert session.align("a", "c").collect().row(0, named=True)["a.b.v"] == 1
    session.track("d").append(**{"e._index": 9}, _ts=1.0)
    session.track("d.e").append(v=1, _ts=1.0)
    session.flush()
    with pytest.raises(ValueError, match=r"column 'd\.e\._index'"):
        session.align("d", "d.e")


def test_align_takes_times_as_read_by_time_does(robot: Session) -> None:
    for bound in ("start_time", "end_time"):
        with pytest.raises(ValueError, match=f"{bound} .* got NaN"):
            robot.align("force", "robot/pose", **{bound: math.nan})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"{bound} is a time in seconds"):
            robot.align("force", "robot/pose", **{bound: "1"})  # type: ignore[arg-type]
    expected = robot.align("force", "robot/pose", how="nearest", tolerance=1.0, start_time=1001.0).collect()
    for tolerance in (np.float32(1), np.int64(1), Fraction(1)):
        frame = robot.align("force", "robot/pose", how="nearest", tolerance=tolerance, start_time=np.float64(1001))
        assert frame.collect().equals(expected)


def test_what_align_refuses(robot: Session) -> None:
    with pytest.raises(ValueError, match="two tracks or more; got 1"):
        robot.align("force")
    with pytest.raises(ValueError, match="'force' is named twice"):
        robot.align("force", "force")
    with pytest.raises(ValueError, match="how is one of 'exact', 'backward', 'forward', 'nearest', not 'outer'"):
        robot.align("force", "robot/pose", how="outer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance is 0 or more seconds"):
        robot.align("force", "robot/pose", how="nearest", tolerance=-1)
    with pytest.raises(ValueError, match="tolerance is 0 or more seconds"):
        robot.align("force", "robot/pose", how="nearest", tolerance=math.nan)
    with pytest.raises(TypeError, match="a number of seconds or a timedelta, not str"):
        robot.align("force", "robot/pose", how="nearest", tolerance="1s")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='take how="nearest"'):
        robot.align("force", "robot/pose", tolerance=0.1)
    for look in (robot, view_of(robot)):
        with pytest.raises(TrackNotFoundError, match="no track 'pose'"):
            look.align("force", "pose")


# ------------------------------------------------------------------------------------------------ latest


def test_the_last_of_repeated_steps_wins(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path, segment_points=10) as session:
        for step in range(25):
            session.track("loss").append(step=step, value=float(step), first=True)
    with Session("s", "w", tmp_path, segment_points=10) as session:  # back at its checkpoint
        session.log("resumed")
        for step in range(18, 30):
            session.track("loss").append(step=step, value=100.0 + step)
        track = session.track("loss")
        frame = track.latest().collect()
        assert frame["step"].to_list() == list(range(30))
        assert frame["value"].to_list() == [float(step) if step < 18 else 100.0 + step for step in range(30)]
        assert frame["first"].to_list() == [True] * 18 + [None] * 12  # a point wins as a whole
        assert len(track) == len(track.scan().collect()) == 37  # nothing is deleted
        assert_frame_equal(Lake(tmp_path).session("s", "w").track("loss").latest(by="step").collect(), frame)


def test_steps_that_were_not_reached_again_stay_in_their_place(session: Session) -> None:
    track = session.track("t")
    for step in (0, 1, 2, 3, 1, 2):
        track.append(step=step, at=len(track))
    assert track.latest().collect().select("step", "at").rows() == [(0, 0), (1, 4), (2, 5), (3, 3)]


def test_points_without_a_step_are_kept(session: Session) -> None:
    track = session.track("t")
    for fields in ({"step": 1, "v": 1}, {"v": 2}, {"step": 1, "v": 3}, {"v": 4}, {"step": None, "v": 5}, {"step": 0}):
        track.append(**fields)
    assert track.latest().collect().select("step", "v").rows() == [(None, 2), (None, 4), (None, 5), (0, None), (1, 3)]


def test_latest_by_several_fields(session: Session) -> None:
    track = session.track("t")
    for epoch, batch, v in ((0, 0, 1), (0, 1, 2), (1, 0, 3), (0, 1, 4)):
        track.append(epoch=epoch, batch=batch, v=v)
    assert track.latest(by=["epoch", "batch"]).collect()["v"].to_list() == [1, 4, 3]


@pytest.mark.parametrize("by", ["^step$", "*"])
def test_latest_by_a_field_whose_name_polars_takes_for_a_pattern(session: Session, by: str) -> None:
    track = session.track("t")
    for step in (0, 1, 2, 1, 2, 3):
        track.append(**{"^step$": step, "step": 0, "*": step})
    latest = track.latest(by=by).collect()
    assert (latest[by].to_list(), latest["_index"].to_list()) == ([0, 1, 2, 3], [0, 3, 4, 5])
    assert len(track.latest(by=[by, by, "step"]).collect()) == 4
    alone = session.track("alone")
    for step in (0, 1, 0):
        alone.append(**{by: step})
    assert alone.latest(by=by).collect()["_index"].to_list() == [2, 1]


def test_what_latest_refuses(session: Session) -> None:
    track = session.track("t").append(step=1, joints=[1.0])
    with pytest.raises(ValueError, match=r"no field 'stop' in the track 't': did you mean 'step'\?"):
        track.latest(by="stop")
    with pytest.raises(ValueError, match="element of a list"):
        track.latest(by="joints[0]")
    with pytest.raises(ValueError, match="names no field"):
        track.latest(by=[])


# ------------------------------------------------------------------------------------------------ downsample


def check_extremes(full: pl.DataFrame, few: pl.DataFrame, fields: list[str]) -> None:
    for field in fields:
        values = full[field].fill_nan(None) if full[field].dtype.is_float() else full[field]
        kept = few[field].fill_nan(None) if few[field].dtype.is_float() else few[field]
        assert kept.min() == values.min()
        assert kept.max() == values.max()
    assert few["_index"].n_unique() == len(few)
    assert_frame_equal(few, full.select(few.columns).filter(pl.col("_index").is_in(few["_index"].implode())))


@given(
    values=st.lists(st.floats(width=32) | st.none(), min_size=1, max_size=300),
    n=st.integers(4, 60),
    window=st.sampled_from([3, 17, 1000]),
)
def test_what_is_kept(values: list[float | None], n: int, window: int) -> None:
    full = pl.DataFrame(
        {"_index": range(len(values)), "_ts": [float(i) for i in range(len(values))], "v": values},
        schema_overrides={"_index": pl.Int64, "v": pl.Float64},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinning, "WINDOW", window)
        few = thin(full.lazy(), 0, len(full), n, None, "_index", "it")
    assert len(few) <= n
    check_extremes(full, few, ["v"])
    assert few["_index"][0] == 0
    assert few["_index"][-1] == len(values) - 1
    assert_frame_equal(few, thin(full.lazy(), 0, len(full), n, None, "_index", "it"))  # however it was windowed


def test_a_picture_has_its_extremes_at_every_width(session: Session) -> None:
    track = session.track("t")
    track.append_batch(
        {"v": [math.sin(i / 50) + (5 if i == 777 else 0) for i in range(2000)], "step": [i * 3 for i in range(2000)]}
    )
    full = track.to_polars()
    for n in (4, 10, 100, 1999):
        few = track.downsample(n, "v")
        assert few.columns == ["_index", "_ts", "v"]
        assert n / 8 < len(few) <= n
        check_extremes(full, few, ["v"])
    both = track.downsample(60, ["v", "step"], x="_ts")
    assert len(both) <= 60
    check_extremes(full, both, ["v", "step"])
    by_step = track.downsample(60, x="step")
    assert by_step.columns == ["_index", "_ts", "step", "v"]
    check_extremes(full, by_step, ["v"])
    assert_frame_equal(track.downsample(5000), full.select("_index", "_ts", "v", "step"))
    part = track.downsample(10, "v", start_index=-1000, limit=500)
    assert part["_index"].min() == 1000
    assert part["_index"].max() == 1499


def test_odd_positions(session: Session) -> None:
    track = session.track("t")
    for i in range(100):
        track.append(
            v=i,
            x=[1.0, math.nan, math.inf, None, -5.0, 1e308, -1e308][i % 7],
            when=datetime(2026, 1, 1 + i % 28, tzinfo=UTC),
        )
    few = track.downsample(20, "v", x="x")
    assert set(few["x"]) <= {1.0, -5.0, 1e308, -1e308}
    assert few["x"].is_sorted()
    assert len(track.downsample(20, "v", x="when")) <= 20
    track.append(v=1.0, one=1)
    assert track.downsample(20, "v", x="one")["one"].to_list() == [1]
    empty = session.track("empty")
    assert len(empty.downsample(10)) == 0


def test_elements_of_lists_are_fields(session: Session) -> None:
    track = session.track("pose")
    for i in range(500):
        track.append(position=[float(i), -float(i), 0.5][: 1 + i % 3], name="arm")
    few = track.downsample(40, ["position[0]", "position[1]"])
    assert few.columns == ["_index", "_ts", "position[0]", "position[1]"]
    assert few["position[0]"].max() == 499.0
    assert few["position[1]"].min() == -499.0
    assert track.downsample(10, "position[-1]")["position[-1]"].max() == 498.0
    with pytest.raises(TypeError, match=r"no field of the track 'pose' holds numbers.*position\[0\] names an element"):
        track.downsample(10)


@pytest.mark.parametrize("name", ["^x$", "*"])
def test_names_that_polars_takes_for_patterns_are_fields(session: Session, name: str) -> None:
    track = session.track("t")
    for i in range(60):
        values = {name: i % 7 + (100.0 if i == 33 else 0), "x": -1.0, "at": float(i)}
        track.append(**values, **{f"{name}s": [values[name]]})
    few = track.downsample(20, name)
    assert few.columns == ["_index", "_ts", name]
    assert len(few) <= 20
    assert few[name].max() == 105.0
    assert track.downsample(100, name)[name].to_list() == track.to_polars()[name].to_list()
    assert track.downsample(100, "at", x=name)[name].to_list() == sorted(track.to_polars()[name].to_list())
    of_lists = track.downsample(20, f"{name}s[0]")
    assert of_lists[f"{name}s[0]"].to_list() == few[name].to_list()


def test_downsample_of_what_holds_no_numbers_says_how_to_name_those_inside(session: Session) -> None:
    lists = session.track("lists").append(q=[1.0], text="a", step=1)
    assert lists.downsample(10)["step"].to_list() == [1]
    with pytest.raises(TypeError, match=r"no field of the track 'lists' but 'step' holds numbers.*q\[0\] names"):
        lists.downsample(10, x="step")
    dicts = session.track("dicts").append(pose={"name": "a", "x": 1.0})
    with pytest.raises(TypeError, match=r"pl\.col\('pose'\)\.struct\.field\('x'\) takes a number of the dicts") as told:
        dicts.downsample(10)
    taken = re.search(r"pl\.col\S+", str(told.value))
    assert taken is not None
    assert dicts.scan().select(eval(taken[0])).collect().item() == 1.0
    flags = session.track("flags").append(on=True, words=["a"], deep=[[1]])
    with pytest.raises(TypeError, match=r"extremes can be kept; 'on' holds bools, which are taken where") as told:
        flags.downsample(10)
    assert "words" not in str(told.value)
    assert "deep" not in str(told.value)
    assert flags.downsample(10, "on")["on"].to_list() == [True]
    with pytest.raises(TypeError, match=r"extremes can be kept$"):
        session.track("text").append(text="a").downsample(10)
    assert session.track("none yet").downsample(10).columns == ["_index", "_ts"]


def test_what_downsample_refuses(session: Session) -> None:
    track = session.track("t").append(value=1.0, name="a", other=2)
    with pytest.raises(ValueError, match="n is at least 6 for 2 fields"):
        track.downsample(5)
    with pytest.raises(TypeError, match="n is a whole number, not float"):
        track.downsample(5.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no field 'valu' in the track 't': did you mean 'value'\?"):
        track.downsample(10, "valu")
    with pytest.raises(TypeError, match="'name' of the track 't' holds String"):
        track.downsample(10, "name")
    with pytest.raises(TypeError, match="positions are numbers or times"):
        track.downsample(10, "value", x="name")


def test_no_other_read_leaves_points_out(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        track = session.track("t")
        track.append_batch({"v": list(range(30_000))})
        assert len(track.to_polars()) == len(track.scan().collect()) == len(track.read(limit=None)["data"]) == 30_000


# ------------------------------------------------------------------------------------------------ pandas


def test_pandas_with_arrow_types(session: Session) -> None:
    track = session.track("t")
    track.append(a=1, b=1.5, c=[1, 2], d="x").append(b=math.nan).append(a=2**60 + 1)
    frame = track.to_pandas(dtype_backend="pyarrow")
    assert all(isinstance(kind, pd.ArrowDtype) for kind in frame.dtypes)
    assert frame["a"].tolist()[2] == 2**60 + 1
    assert frame["a"].isna().tolist() == [False, True, False]
    assert frame["b"].array._pa_array.to_pylist()[2] is None
    assert math.isnan(frame["b"].array._pa_array.to_pylist()[1])
    assert frame["c"].array._pa_array.to_pylist()[0] == [1, 2]
    with pytest.raises(ValueError, match="dtype_backend is"):
        track.to_pandas(dtype_backend="numpy_nullable")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ parameters


@pytest.fixture
def sweep(tmp_path: Path) -> Lake:
    for run in range(5):
        with Session(f"run{run}", "sweep", tmp_path) as session:
            session.parameters().set(lr=10.0**-run, model={"layers": run}, value="a name of a field")
            if run == 3:
                session.parameters().set(only="here")
            for step in range(3):
                session.track("val").append(value=run + step / 10, step=step)
    with Session("bare", "sweep", tmp_path) as session:
        session.track("val").append(value=-1.0, step=0)
    return Lake(tmp_path)


def test_parameters_joined_into_a_scan(sweep: Lake) -> None:
    frame = sweep.scan("val", parameters=["lr", "model.layers"]).collect()
    assert frame.columns == ["_workspace", "_session", "_index", "_ts", "value", "step", "lr", "model.layers"]
    best = (
        sweep.scan("val", parameters=["lr"])
        .filter(pl.col("lr") > 0.005)
        .group_by("_session")
        .agg(pl.col("value").min())
    )
    assert sorted(best.collect().rows()) == [("run0", 0.0), ("run1", 1.0), ("run2", 2.0)]
    assert frame.filter(_session="bare").select("lr", "model.layers").rows() == [(None, None)]
    everything = sweep.scan("val", parameters=True).collect()
    assert everything.columns[6:] == ["lr", "model.layers", "parameters.value", "only"]
    assert_frame_equal(everything.select(frame.columns), frame)
    assert_frame_equal(sweep.scan("val").collect(), frame.drop("lr", "model.layers"))
    assert len(sweep.scan("val", sessions="run1", parameters="lr").collect()) == 3


def test_a_text_names_a_parameter_and_the_empty_one_too(sweep: Lake, tmp_path: Path) -> None:
    with Session("run1", "sweep", tmp_path) as session:
        session.parameters().set({"": "nameless"})
    plain = sweep.scan("val").collect()
    for parameters in (None, False, (), []):
        assert_frame_equal(sweep.scan("val", parameters=parameters).collect(), plain)
    frame = sweep.scan("val", sessions="run1", parameters="").collect()
    assert frame.columns == [*plain.columns, ""]
    assert frame[""].to_list() == ["nameless"] * 3
    assert_frame_equal(sweep.scan("val", sessions="run1", parameters=[""]).collect(), frame)
    with pytest.raises(ValueError, match="has a parameter ''"):
        sweep.scan("val", sessions="run0", parameters="")


def test_a_parameter_that_no_run_has(sweep: Lake) -> None:
    with pytest.raises(
        ValueError, match=r"none of the 6 runs has a parameter 'model.layer': did you mean 'model.layers'"
    ):
        sweep.scan("val", parameters=["model.layer"])
