"""Values of every kind through append or batch, both tiers and a reopen, compared one by one with strict types."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from columnar import assert_same_points, point_lists
from hypothesis import given, settings
from hypothesis import strategies as st
from model import points_of
from values import fields, same

from dreamlake import Lake, Session

HOUR = 3600.0


@contextmanager
def folder() -> Iterator[str]:
    """A folder for one example of a property."""
    path = tempfile.mkdtemp(prefix="dreamlake-test-")
    try:
        yield path
    finally:
        shutil.rmtree(path)


def session_in(path: str, segment_points: int) -> Session:
    return Session("s", "w", path, flush_interval=HOUR, segment_points=segment_points)


def with_times(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points with timestamps that rise."""
    return [{**{k: v for k, v in point.items() if k != "_ts"}, "_ts": float(n)} for n, point in enumerate(points)]


#: A track of one segment and hot points, of segments only, and of hot points only.
SEGMENT_POINTS = st.sampled_from([1, 2, 3, 1000])


@settings(max_examples=120)
@given(st.lists(fields, min_size=1, max_size=5), SEGMENT_POINTS, st.booleans())
def test_any_values_come_back(points: list[dict[str, Any]], segment_points: int, batch: bool) -> None:
    expected = with_times(points)
    with folder() as path:
        with session_in(path, segment_points) as session:
            track = session.track("t")
            if batch:
                track.append_batch(expected)
            else:
                for point in expected:
                    track.append(**point)
            assert_same_points(expected, points_of(track))
        with session_in(path, segment_points) as session:
            session.track("t").append(_ts=1e6)
            assert_same_points(expected, points_of(session.track("t"))[:-1])
        view = Lake(path).session("s", "w").track("t")
        assert_same_points(expected, points_of(view)[:-1])
        assert view.to_polars().height == view.to_arrow().num_rows == len(expected) + 1


@settings(max_examples=60)
@given(point_lists(), SEGMENT_POINTS)
def test_fields_that_mostly_have_one_kind_come_back(points: list[dict[str, Any]], segment_points: int) -> None:
    expected = with_times(points)
    with folder() as path, session_in(path, segment_points) as session:
        track = session.track("t")
        for number, point in enumerate(expected):
            track.append(**point)
            if number % 2:
                track.flush()
        assert_same_points(expected, points_of(track))
        assert track.to_polars()["_index"].to_list() == list(range(len(expected)))


VALUES: list[Any] = [
    *[None, True, False, 0, 1, -1, 0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308],
    *[2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30, -(10**400), 10**4500],
    *["", "a", "null", "\x00", '"\\', "\n", "漢字", "\U0001f600", "\u2028", "$date", "NaN"],
    *[b"", b"\x00\xff", b"ab"],
    *[
        datetime(1, 1, 1),
        datetime.max,
        datetime(2026, 1, 2, 3, 4, 5, 678901),
        datetime(1969, 12, 31, 23, 59, 59, 999999),
    ],
    *[datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45)))],
    datetime(2026, 1, 1, tzinfo=timezone(-timedelta(hours=3, seconds=7, microseconds=9))),
    *[[], [[]], [None], [1, 2], [1, "a", None], [True, 1], [math.nan, math.inf], [[1], [2, [3]]], [b"x", None]],
    *[{}, {"a": {}}, {"": 1}, {"$date": "x"}, {"$numberDouble": "NaN"}, {"a": [1, {"b": None}]}, {"_ts": 1, "$$": 2}],
    *[{"k": -0.0}, {"k": True}, {"k": 2**70}, [{"k": 1}, {"l": 2}], [{"k": 1}, {"k": None}]],
]


@pytest.mark.parametrize("hot", [True, False], ids=["hot", "segment"])
def test_each_value_alone_comes_back_exactly(hot: bool) -> None:
    """A track each, so that no column is widened for the sake of another value."""
    with folder() as path:
        with session_in(path, 1000 if hot else 2) as session:
            for number, value in enumerate(VALUES):
                session.track(f"t{number}").append(x=value).append(x=value)
        lake = Lake(path).session("s", "w")
        for number, value in enumerate(VALUES):
            view = lake.track(f"t{number}")
            assert view.stats()["bufferedDataPoints"] == (2 if hot else 0)
            for point in points_of(view):
                assert list(point) == ["x", "_ts"]
                assert same(point["x"], value), (value, point["x"])


def test_all_values_in_one_field_come_back_exactly() -> None:
    """They have no common type, so that nothing is widened either."""
    with folder() as path:
        with session_in(path, 20) as session:
            for value in VALUES:
                session.track("t").append(x=value)
        points = points_of(Lake(path).session("s", "w").track("t"))
    assert len(points) == len(VALUES)
    for value, point in zip(VALUES, points, strict=True):
        assert same(point["x"], value), (value, point["x"])


def test_an_int_beside_a_float_may_become_one_but_no_digit_is_lost() -> None:
    values = [[1, 2.5], [2**53 + 1, 2.5], 1, 2.5, {"k": 1}, {"k": 2.5}]
    with folder() as path, session_in(path, 2) as session:
        for number in range(0, 6, 2):
            session.track(f"t{number}").append_batch([{"x": value} for value in values[number : number + 2]])
        got = [point["x"] for number in range(0, 6, 2) for point in points_of(session.track(f"t{number}"))]
    assert got == values
    assert type(got[1][0]) is int, "a double has no such number"


def test_absent_and_none_are_two_things_in_both_tiers() -> None:
    given = [{"a": 1, "b": None}, {"a": None}, {}, {"b": 2.5}, {"a": 3, "b": None}]
    with folder() as path, session_in(path, 3) as session:
        track = session.track("t")
        for fields_ in given:
            track.append(**fields_)
        got = [{k: v for k, v in point.items() if k != "_ts"} for point in points_of(track)]
        assert got == given
        frame = track.to_polars()
        assert frame.columns == ["_index", "_ts", "a", "b"]
        assert frame["a"].to_list() == [1, None, None, None, 3]
        assert frame["b"].to_list() == [None, None, None, 2.5, None]


def test_a_column_may_change_its_type_along_the_way() -> None:
    steps: list[Any] = [1, 2, 2.5, 3, "text", None, [1], 2**60, True]
    with folder() as path, session_in(path, 2) as session:
        track = session.track("t")
        for value in steps:
            track.append(x=value).flush()
            got = [point["x"] for point in points_of(track)]
            assert got == steps[: len(got)]
            assert track.to_polars().height == len(got)
        assert [type(value) for value in got[4:]] == [str, type(None), list, int, bool]
        assert track.to_polars()["x"].to_list() == ["1", "2", "2.5", "3.0", '"text"', None, "[1]", str(2**60), "true"]


NUMPY = {
    "f4": (np.float32(0.1), float(np.float32(0.1))),
    "f8": (np.float64(0.1), 0.1),
    "i1": (np.int8(-5), -5),
    "u8": (np.uint64(2**64 - 1), 2**64 - 1),
    "b1": (np.bool_(True), True),
    "str": (np.str_("é"), "é"),
    "1d": (np.arange(3, dtype=np.float32), [0.0, 1.0, 2.0]),
    "2d": (np.ones((2, 2), dtype=np.int16), [[1, 1], [1, 1]]),
    "0d": (np.array(5), 5),
    "M8": (np.datetime64("2026-01-02T03:04:05.000006"), datetime(2026, 1, 2, 3, 4, 5, 6)),
    "tuple": ((1, (2, 3)), [1, [2, 3]]),
    "timestamp": (pd.Timestamp("2026-01-02", tz="UTC"), datetime(2026, 1, 2, tzinfo=UTC)),
    "bytearray": (bytearray(b"ab"), b"ab"),
    "in a list": ([np.int64(2**60), np.int32(2)], [2**60, 2]),
    "in a dict": ({"k": np.array([True])}, {"k": [True]}),
}


@pytest.mark.parametrize("segment_points", [1, 1000])
def test_foreign_values_become_plain_ones(segment_points: int) -> None:
    with folder() as path, session_in(path, segment_points) as session:
        track = session.track("t").append(**{name: given for name, (given, _) in NUMPY.items()})
        (point,) = points_of(track)
        for name, (_, expected) in NUMPY.items():
            assert same(point[name], expected), name


def test_an_instance_of_a_subclass_becomes_plain() -> None:
    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    class Map(dict[str, Any]):
        pass

    with folder() as path, session_in(path, 1) as session:
        track = session.track("t").append(**{Text("a"): Text("x")}, b=Number(5), c=Map(k=Number(1)), d=[Text("y")])
        (point,) = points_of(track)
    del point["_ts"]
    assert same(point, {"a": "x", "b": 5, "c": {"k": 1}, "d": ["y"]})


def test_other_libraries_read_the_segments(tmp_path: Any) -> None:
    with Session("s", "w", tmp_path, flush_interval=HOUR, segment_points=5) as session:
        track = session.track("t")
        track.append_batch([{"loss": n / 2, "step": n, "tag": "a", "q": [0.5, n]} for n in range(20)])
        paths = track.files()
        mine = track.to_polars()
    frame = pl.read_parquet(paths).drop("_none", strict=False)
    assert frame.select(mine.columns).equals(mine)
    table = pq.read_table(paths[0])
    assert table["_index"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["step"].to_pylist() == [0, 1, 2, 3, 4]
