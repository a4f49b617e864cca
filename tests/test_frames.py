"""Frames and dicts of columns: the values of every library, as they were, with null as absent and NaN as NaN."""

from __future__ import annotations

import array
import math
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from columnar import holds_float, same
from hypothesis import given
from hypothesis import strategies as st
from support import run_python
from values import floats, texts, values

from dreamlake.format import frames
from dreamlake.format.frames import Frame, is_frame, read_columns, read_frame
from dreamlake.format.schema import to_points

BERLIN_WINTER, BERLIN_SUMMER = timezone(timedelta(hours=1)), timezone(timedelta(hours=2))


def rows(frame: Frame) -> list[dict[str, Any]]:
    batch = frame.batch([0.0] * len(frame))
    batch.data.validate(full=True)
    points = to_points(batch.data, batch.schema)
    for point in points:
        del point["_ts"]
    return points


def column(frame: Frame, name: str = "x") -> list[Any]:
    """The values of one field, ``...`` where it is absent."""
    return [row.get(name, ...) for row in rows(frame)]


def same_column(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(x is y or same(x, y) for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------------------ each library


POLARS = [
    (pl.Series([1, None, -3], dtype=pl.Int8), "int", [1, ..., -3]),
    (pl.Series([1, None, 2**40], dtype=pl.UInt64), "int", [1, ..., 2**40]),
    (pl.Series([2**62, None], dtype=pl.UInt64), "int64", [2**62, ...]),
    (pl.Series([2**64 - 1, None, 0], dtype=pl.UInt64), "json", [2**64 - 1, ..., 0]),
    (pl.Series([2**100, None], dtype=pl.Int128), "json", [2**100, ...]),
    (pl.Series([7, None], dtype=pl.Int128), "int", [7, ...]),
    (pl.Series([1.5, None, math.nan, -0.0]), "double", [1.5, ..., math.nan, -0.0]),
    (pl.Series([0.1, None], dtype=pl.Float32), "double", [float(np.float32(0.1)), ...]),
    (pl.Series([True, None]), "bool", [True, ...]),
    (pl.Series(["é", None, ""]), "string", ["é", ..., ""]),
    (pl.Series(["a", None, "b"], dtype=pl.Categorical), "string", ["a", ..., "b"]),
    (pl.Series(["a", None], dtype=pl.Enum(["a", "b"])), "string", ["a", ...]),
    (pl.Series([b"\0", None, b""]), "binary", [b"\0", ..., b""]),
    (pl.Series([None, None]), "null", [..., ...]),
    (pl.Series([[1, None], [], None]), {"list": "int"}, [[1, None], [], ...]),
    (pl.Series([[1, 2], None], dtype=pl.Array(pl.Int16, 2)), {"list": "int"}, [[1, 2], ...]),
    (pl.Series([[["a"], None]], dtype=pl.List(pl.List(pl.Categorical))), {"list": {"list": "string"}}, [[["a"], None]]),
    (pl.Series([{"a": 1, "b": None}, None]), {"struct": {"a": "int", "b": "null"}}, [{"a": 1, "b": None}, ...]),
    (pl.Series([{"a": [2**63]}], dtype=pl.Struct({"a": pl.List(pl.UInt64)})), "json", [{"a": [2**63]}]),
    (pl.Series([{}, None], dtype=pl.Struct({})), "json", [{}, ...]),
    (pl.Series([datetime(2026, 1, 1, 1, 2, 3, 4), None]), "timestamp", [datetime(2026, 1, 1, 1, 2, 3, 4), ...]),
    (pl.Series([datetime(2026, 1, 1)], dtype=pl.Datetime("ms")), "timestamp", [datetime(2026, 1, 1)]),
    (pl.Series([datetime(2026, 1, 1)], dtype=pl.Datetime("ns")), "timestamp", [datetime(2026, 1, 1)]),
    (
        pl.Series([datetime(2026, 1, 1)]).dt.replace_time_zone("UTC"),
        "timestamp:UTC",
        [datetime(2026, 1, 1, tzinfo=UTC)],
    ),
    (
        pl.Series([datetime(2026, 1, 1), None, datetime(2026, 7, 1)]).dt.replace_time_zone("Europe/Berlin"),
        "json",
        [datetime(2026, 1, 1, tzinfo=BERLIN_WINTER), ..., datetime(2026, 7, 1, tzinfo=BERLIN_SUMMER)],
    ),
    (
        pl.Series([datetime(2026, 1, 1)]).dt.replace_time_zone("Europe/Berlin"),
        "timestamp:+01:00",
        [datetime(2026, 1, 1, tzinfo=BERLIN_WINTER)],
    ),
    (pl.Series([1, "a", None], dtype=pl.Object), "json", [1, "a", ...]),
]


@pytest.mark.parametrize(("series", "logical", "expected"), POLARS, ids=lambda case: str(getattr(case, "dtype", "")))
def test_polars(series: pl.Series, logical: Any, expected: list[Any]) -> None:
    frame = read_frame(pl.DataFrame({"x": series}))
    assert frame.schema == {"x": logical}
    assert same_column(column(frame), expected)
    assert same_column(column(read_columns({"x": series})), expected)
    # A slice is not the same buffers again.
    assert same_column(column(read_frame(pl.DataFrame({"x": series}).slice(1))), expected[1:])


PANDAS = [
    (pd.Series([1.5, math.nan, None]), "double", [1.5, math.nan, math.nan]),
    (pd.Series([1, 2], dtype="uint8"), "int", [1, 2]),
    (pd.Series([2**64 - 1, 0], dtype="uint64"), "json", [2**64 - 1, 0]),
    (pd.Series([0.1], dtype="float32"), "double", [float(np.float32(0.1))]),
    (pd.Series([1, None], dtype="Int64"), "int", [1, ...]),
    (pd.Series([1.5, None], dtype="Float64"), "double", [1.5, ...]),
    (pd.Series([True, None], dtype="boolean"), "bool", [True, ...]),
    (pd.Series([True, False]), "bool", [True, False]),
    (pd.Series(["a", None, ""]), "string", ["a", ..., ""]),
    (pd.Series(["a", None], dtype="string"), "string", ["a", ...]),
    (pd.Series(["a", math.nan, None, pd.NA], dtype=object), "string", ["a", ..., ..., ...]),
    (pd.Series([1.5, math.nan, None, 2], dtype=object), "double", [1.5, math.nan, ..., 2.0]),
    (pd.Series([math.nan, None], dtype=object), "double", [math.nan, ...]),
    (pd.Series([True, math.nan], dtype=object), "bool", [True, ...]),
    (pd.Series([[1], {"a": None}, None], dtype=object), "json", [[1], {"a": None}, ...]),
    (pd.Series([np.float32(1), np.array([1, 2])], dtype=object), "json", [1.0, [1, 2]]),
    (pd.Series(["a", None, "b"], dtype="category"), "string", ["a", ..., "b"]),
    (pd.Series(pd.to_datetime(["2026-01-01", None])), "timestamp", [datetime(2026, 1, 1), ...]),
    (pd.Series(["2026-01-01", None], dtype="datetime64[s]"), "timestamp", [datetime(2026, 1, 1), ...]),
    (pd.Series(["2026-01-01"], dtype="datetime64[ns, UTC]"), "timestamp:UTC", [datetime(2026, 1, 1, tzinfo=UTC)]),
    (pd.Series([0.0, 1.0], dtype="Sparse[float]"), "double", [0.0, 1.0]),
    (pd.Series([1.0, None], dtype=pd.ArrowDtype(pa.float32())), "double", [1.0, ...]),
    (pd.Series([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int8()))), {"list": "int"}, [[1], ...]),
]


@pytest.mark.parametrize(("series", "logical", "expected"), PANDAS, ids=lambda case: str(getattr(case, "dtype", "")))
def test_pandas(series: pd.Series[Any], logical: Any, expected: list[Any]) -> None:
    frame = read_frame(pd.DataFrame({"x": series}))
    assert frame.schema == {"x": logical}
    assert same_column(column(frame), expected)
    assert same_column(column(read_columns({"x": series})), expected)


def test_a_nullable_float_of_pandas_tells_nan_from_missing() -> None:
    values = pd.array([0.0, 1.0, None], dtype="Float64")
    values._data[0] = math.nan  # type: ignore[attr-defined]
    assert same_column(column(read_frame(pd.DataFrame({"x": values}))), [math.nan, 1.0, ...])


def test_the_index_of_pandas_is_left_out() -> None:
    assert rows(read_frame(pd.DataFrame({"x": [1, 2]}, index=[7, 7]))) == [{"x": 1}, {"x": 2}]


ARROW = [
    (pa.array([1.5, None], pa.float16()), "double", [1.5, ...]),
    (pa.array([1, None], pa.uint32()), "int", [1, ...]),
    (pa.array(["a", None], pa.string_view()), "string", ["a", ...]),
    (pa.array(["a", None], pa.large_string()), "string", ["a", ...]),
    (pa.array([b"ab", None], pa.binary(2)), "binary", [b"ab", ...]),
    (pa.array([b"ab", None], pa.binary_view()), "binary", [b"ab", ...]),
    (pa.array(["a", None, "a"]).dictionary_encode(), "string", ["a", ..., "a"]),
    (pa.array([["a"], None], pa.list_(pa.dictionary(pa.int8(), pa.string()))), {"list": "string"}, [["a"], ...]),
    (pa.RunEndEncodedArray.from_arrays([2, 3], [5, None]), "int", [5, 5, ...]),
    (pa.array([[1], None, [2, 3]], pa.large_list(pa.int8())), {"list": "int"}, [[1], ..., [2, 3]]),
    (pa.array([[1], None, [2, 3]], pa.list_view(pa.int8())), {"list": "int"}, [[1], ..., [2, 3]]),
    (pa.array([[1], None, [2, 3]], pa.large_list_view(pa.int8())), {"list": "int"}, [[1], ..., [2, 3]]),
    (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), {"list": "int"}, [[1, 2], ...]),
    (pa.array([0, None], pa.timestamp("us", "+05:30")), "timestamp:+05:30", None),
    (pa.array([0], pa.timestamp("s", "Etc/UTC")), "timestamp:UTC", [datetime(1970, 1, 1, tzinfo=UTC)]),
    (pa.array([1000], pa.timestamp("ns")), "timestamp", [datetime(1970, 1, 1, 0, 0, 0, 1)]),
    (pa.nulls(2), "null", [..., ...]),
]


@pytest.mark.parametrize(("data", "logical", "expected"), ARROW, ids=lambda case: str(getattr(case, "type", "")))
def test_arrow(data: pa.Array, logical: Any, expected: list[Any] | None) -> None:
    table = pa.table({"x": data})
    zone = timezone(timedelta(hours=5, minutes=30))
    expected = [datetime(1970, 1, 1, 5, 30, tzinfo=zone), ...] if expected is None else expected
    for given_ in (table, table.to_batches()[0], pa.concat_tables([table, table.slice(0, 0)])):
        frame = read_frame(given_)
        assert frame.schema == {"x": logical}
        assert same_column(column(frame), expected)
    assert same_column(column(read_frame(pa.concat_tables([table, table.slice(1)]))), [*expected, *expected[1:]])
    assert same_column(column(read_columns({"x": data})), expected)
    assert same_column(column(read_columns({"x": pa.chunked_array([data])})), expected)


def test_json_columns_are_read_as_values() -> None:
    data = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a":[1]}', None, '{"$numberDouble":"NaN"}']))
    assert same_column(column(read_frame(pa.table({"x": data}))), [{"a": [1]}, ..., math.nan])
    bad = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{"]))
    with pytest.raises(ValueError, match="column 'x'"):
        read_frame(pa.table({"x": bad}))


def test_what_lies_under_a_null_does_no_harm() -> None:
    big = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\1"), pa.py_buffer(array.array("q", [1, 2**62]))])
    assert read_frame(pa.table({"x": big})).schema == {"x": "int"}
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2]), pa.array([1, 2**62]), mask=pa.array([False, True]))
    frame = read_frame(pa.table({"x": lists}))
    assert (frame.schema, column(frame)) == ({"x": {"list": "int"}}, [[1], ...])
    from dreamlake.format.schema import conform

    wide = conform(frame.batch([0.0, 1.0]), {"x": {"list": "double"}})
    assert wide.column(1).to_pylist() == [[1.0], None]


NUMPY = [
    (np.arange(3, dtype="u1"), "int", [0, 1, 2]),
    (np.arange(3, dtype=">i4"), "int", [0, 1, 2]),
    (np.array([1.5, np.nan], dtype=">f4"), "double", [1.5, math.nan]),
    (np.array([1.5], dtype=np.longdouble), "double", [1.5]),
    (np.array([2**64 - 1], dtype="u8"), "json", [2**64 - 1]),
    (np.array([True, False]), "bool", [True, False]),
    (np.arange(6)[::2], "int", [0, 2, 4]),
    (np.zeros((2, 2)), {"list": "double"}, [[0.0, 0.0], [0.0, 0.0]]),
    (np.array(["a", "bc"]), "string", ["a", "bc"]),
    (np.array([1, None, "a"], dtype=object), "json", [1, None, "a"]),
    (np.array(["2026-01-01", "NaT"], dtype="M8[ns]"), "timestamp", [datetime(2026, 1, 1), ...]),
    (np.array(["2026-01-01"], dtype="M8[D]"), "timestamp", [datetime(2026, 1, 1)]),
    (np.ma.masked_array([1.0, 2.0], mask=[False, True]), "double", [1.0, ...]),
]


@pytest.mark.parametrize(("data", "logical", "expected"), NUMPY, ids=lambda case: str(getattr(case, "dtype", "")))
def test_numpy(data: Any, logical: Any, expected: list[Any]) -> None:
    frame = read_columns({"x": data})
    assert frame.schema == {"x": logical}
    assert same_column(column(frame), expected)


def test_a_numpy_column_is_a_snapshot() -> None:
    losses = np.array([1.0, 2.0])
    steps, flags = np.array([1, 2]), np.array([True, True])
    frame = read_columns({"x": losses, "y": steps, "z": flags, "_ts": losses})
    losses[:], steps[:], flags[:] = 9, 9, False
    assert rows(frame) == [{"x": 1.0, "y": 1, "z": True}, {"x": 2.0, "y": 2, "z": True}]
    assert frame.ts == array.array("d", [1.0, 2.0])


TEXT = b"abcdefgh"

SHARING: dict[str, Callable[[Any, Any], Any]] = {
    "polars": lambda data, _: pl.DataFrame({"x": data}),
    "polars, a series": lambda data, _: {"x": pl.Series(data)},
    "pandas, masked": lambda data, _: pd.DataFrame(
        {"x": pd.arrays.FloatingArray(data, np.zeros(len(data), bool))}, copy=False
    ),
    "pandas": lambda data, _: pd.DataFrame({"x": data}, copy=False),
    "numpy": lambda data, _: {"x": data},
    "arrow": lambda data, _: {"x": pa.array(data)},
    "arrow, batch": lambda data, _: pa.record_batch({"x": pa.array(data)}),
    "arrow, table": lambda data, _: pa.table({"x": pa.array(data)}),
    "arrow, a chunk and an empty one": lambda data, _: pa.table(
        {"x": pa.chunked_array([pa.array(data), pa.array(data[:0])])}
    ),
    "arrow, in a struct": lambda data, _: {"x": pa.StructArray.from_arrays([pa.array(data)], ["y"])},
    "arrow, in lists": lambda data, _: {"x": pa.ListArray.from_arrays(pa.array(range(9), pa.int32()), pa.array(data))},
    "arrow, in lists of a size": lambda data, _: {"x": pa.FixedSizeListArray.from_arrays(pa.array(data), 1)},
    "arrow, text": lambda _, text: {"x": text},
    "arrow, a slice": lambda _, text: {"x": text[1:7]},
    "arrow, bytes": lambda _, text: {"x": text.view(pa.binary())},
    "arrow, large text": lambda _, text: {"x": text.cast(pa.large_string())},
    "arrow, a view of text": lambda _, text: {"x": text.cast(pa.string_view())},
    "arrow, a dictionary": lambda _, text: {"x": pa.DictionaryArray.from_arrays(pa.array([*range(8)]), text)},
    "arrow, runs": lambda _, text: {"x": pa.RunEndEncodedArray.from_arrays(pa.array(range(1, 9), pa.int32()), text)},
}


@pytest.mark.parametrize("form", SHARING)
def test_what_was_given_may_be_filled_again(form: str) -> None:
    data = np.arange(8.0)
    text = bytearray(TEXT)
    places = pa.py_buffer(np.arange(9, dtype="i4"))
    arrow = pa.Array.from_buffers(pa.string(), 8, [None, places, pa.py_buffer(text)])
    given_ = SHARING[form](data, arrow)
    frame = read_columns(given_) if isinstance(given_, dict) else read_frame(given_)
    before = rows(frame)
    data[:] = -7.0
    text[:] = b"\xff" * 8
    assert rows(frame) == before
    kept = [leaf for row in before for leaf in _leaves(row["x"])]
    assert kept in ([*map(float, range(8))], [*"abcdefgh"], [*"bcdefg"], [bytes([byte]) for byte in TEXT])


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


# --------------------------------------------------------------------------------------------- dicts of columns


def test_none_in_a_list_is_explicit_and_null_in_a_series_is_absent() -> None:
    frame = read_columns({"a": [1, None], "b": pl.Series([None, 2]), "c": (None, None)})
    assert rows(frame) == [{"a": 1, "c": None}, {"a": None, "b": 2, "c": None}]
    assert frame.data.schema.names == ["a", "b", "c", "_none"]


@given(st.lists(values, max_size=5))
def test_lists_of_any_values_are_taken_as_points_are(given_: list[Any]) -> None:
    got = [row["x"] for row in rows(read_columns({"x": given_}))]
    assert len(got) == len(given_)
    for before, after in zip(given_, got, strict=True):
        assert same(before, after, widened=holds_float(given_))


@given(st.lists(st.tuples(st.one_of(st.none(), floats), st.one_of(st.none(), texts))))
def test_floats_and_texts_of_every_library_come_back(given_: list[tuple[Any, Any]]) -> None:
    numbers, words = [number for number, _ in given_], [word for _, word in given_]
    table = pa.table({"n": pa.array(numbers, pa.float64()), "w": pa.array(words, pa.string())})
    polars = pl.DataFrame({"n": numbers, "w": words}, schema={"n": pl.Float64, "w": pl.String})
    pandas = pd.DataFrame({"n": pd.array(table.column("n"), dtype=pd.ArrowDtype(pa.float64())), "w": pd.Series(words)})
    for frame in (table, polars, pandas):
        read = read_frame(frame)
        assert same_column(column(read, "n"), [... if number is None else number for number in numbers])
        assert same_column(column(read, "w"), [... if word is None else word for word in words])


def test_a_dict_of_columns_takes_every_sequence() -> None:
    frame = read_columns({"a": range(2), "b": array.array("f", [1.5, 2.5]), "c": ["x", np.str_("y")], "d": (b"", b"1")})
    assert rows(frame) == [{"a": 0, "b": 1.5, "c": "x", "d": b""}, {"a": 1, "b": 2.5, "c": "y", "d": b"1"}]


@pytest.mark.parametrize("given_", ["ab", b"ab", {"a": 1}, {1, 2}, 5, None, np.array(5.0), iter([1])])
def test_what_is_no_column_is_refused(given_: Any) -> None:
    with pytest.raises(TypeError, match="column 'x' is a"):
        read_columns({"x": given_})


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' has 1, 'b' has 2, '_ts' has 1"):
        read_columns({"a": [1], "b": [1, 2], "_ts": [1.0]})


def test_no_columns_and_no_rows() -> None:
    assert len(read_columns({})) == 0
    assert rows(read_columns({"a": []})) == []
    empty = read_frame(pl.DataFrame(schema={"a": pl.Int64, "_ts": pl.Float64, "b": pl.List(pl.String)}))
    assert (len(empty), empty.ts) == (0, None)
    only = read_columns({"_ts": [1.0, 2.0]})
    assert (len(only), rows(only)) == (2, [{}, {}])


# -------------------------------------------------------------------------------------------------- timestamps


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"_ts": [1, 2], "x": [1, 2]}),
        pd.DataFrame({"_ts": [1.0, 2.0], "x": [1, 2]}),
        pa.table({"_ts": pa.array([1, 2], pa.uint64()), "x": [1, 2]}),
        pa.table({"_ts": pa.array([0.0, 1.0, 2.0]), "x": [0, 1, 2]}).slice(1),
    ],
)
def test_timestamps_are_doubles(frame: Any) -> None:
    read = read_frame(frame)
    assert read.ts == array.array("d", [1.0, 2.0])
    assert rows(read) == [{"x": 1}, {"x": 2}]
    batch = read.batch(read.ts)
    assert to_points(batch.data, batch.schema) == [{"x": 1, "_ts": 1.0}, {"x": 2, "_ts": 2.0}]


def test_rows_may_lack_their_timestamp() -> None:
    assert read_frame(pl.DataFrame({"_ts": [1.0, None]})).ts == [1.0, None]
    assert read_frame(pl.DataFrame({"_ts": [None, None], "x": [1, 2]})).ts is None
    assert read_frame(pl.DataFrame({"_ts": [None], "x": [1]}, schema_overrides={"_ts": pl.Float64})).ts is None
    assert read_columns({"_ts": [None, 2], "x": [1, 2]}).ts == [None, 2.0]
    assert read_columns({"x": [1, 2]}).ts is None
    assert read_columns({"_ts": [np.float32(1.5), 2]}).ts == array.array("d", [1.5, 2.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_timestamps_are_finite(bad: float) -> None:
    for frame in (pl.DataFrame({"_ts": [1.0, bad, None]}), pd.DataFrame({"_ts": [1.0, bad]})):
        with pytest.raises(ValueError, match="finite"):
            read_frame(frame)
    with pytest.raises(ValueError, match="finite"):
        read_columns({"_ts": [bad]})


@pytest.mark.parametrize("bad", [["a"], [True], [datetime(2026, 1, 1)], [[1.0]]])
def test_timestamps_are_numbers(bad: list[Any]) -> None:
    with pytest.raises(TypeError, match="_ts"):
        read_frame(pl.DataFrame({"_ts": bad}))
    with pytest.raises(TypeError, match="_ts"):
        read_columns({"_ts": bad})


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (pa.array([date(2026, 1, 1)]), "date32.*cast it to a timestamp"),
        (pa.array([time(1)]), "time64.*cast it to a string"),
        (pa.array([timedelta(1)]), "duration.*cast it to a number of seconds"),
        (pa.array([Decimal("1.5")]), "decimal128.*cast it to a float"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())), "map.*cast it to a list of structs"),
        (pa.array([[timedelta(1)]]), "duration"),
        (pa.array([{"a": date(2026, 1, 1)}]), "date32"),
        (pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]), "dense_union"),
    ],
)
def test_types_that_no_point_can_hold_are_refused_with_a_remedy(data: pa.Array, remedy: str) -> None:
    with pytest.raises(TypeError, match=f"column 'x' has the type {remedy}"):
        read_frame(pa.table({"x": data}))


def test_refusals_of_the_other_libraries_name_the_column_too() -> None:
    for frame in (
        pl.DataFrame({"x": [date(2026, 1, 1)]}),
        pl.DataFrame({"x": [Decimal(1)]}),
        pd.DataFrame({"x": pd.to_timedelta([1])}),
        pd.DataFrame({"x": pd.period_range("2026", periods=1)}),
        pd.DataFrame({"x": [1j]}),
        pd.DataFrame({"x": [{1}]}),
    ):
        with pytest.raises(TypeError, match="'x'"):
            read_frame(frame)


@pytest.mark.parametrize(
    "data",
    [
        pa.array([1], pa.timestamp("ns")),
        pa.array([[1]], pa.list_(pa.timestamp("ns"))),
        pa.array([2**62], pa.timestamp("s")),
        pa.array([2**62], pa.timestamp("us")),
        pa.array([253402300799999999], pa.timestamp("us", "+05:30")),
    ],
)
def test_timestamps_that_cannot_be_kept_are_refused(data: pa.Array) -> None:
    with pytest.raises(ValueError, match="column 'x'"):
        read_frame(pa.table({"x": data}))
    with pytest.raises(ValueError, match="column 'x'"):
        read_columns({"x": np.array(["2026-01-01T00:00:00.000000001"], dtype="M8[ns]")})


@pytest.mark.parametrize(
    "values", [["a", None, "b"], [[1], None, [2, 3]], [{"a": 1}, None, {"a": 2}], [1.5, None, 2.5]]
)
@pytest.mark.parametrize("by_dictionary", [False, True])
def test_runs_of_any_values_are_written_out(values: list[Any], by_dictionary: bool) -> None:
    data = pa.array(values)
    if by_dictionary:
        data = pa.DictionaryArray.from_arrays(pa.array([0, None, 1]), data.take(pa.array([0, 2])))
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 5, 6], pa.int16()), data)
    expected = [
        ... if value is None else value for value in values for _ in range({0: 2, 1: 3, 2: 1}[values.index(value)])
    ]
    assert column(read_columns({"x": runs})) == expected
    for start in range(6):
        for stop in range(start + 1, 7):
            assert column(read_columns({"x": runs[start:stop]})) == expected[start:stop]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (pd.Index(pd.arrays.SparseArray([0, 0, 1])), [0, 0, 1]),
        (pd.Series(pd.Categorical([1, "a", None])), [1, "a", ...]),
        (pd.CategoricalIndex([1, "a", None, 2.5]), [1, "a", ..., 2.5]),
        (
            pd.Series(pd.to_datetime([0, None])).dt.tz_localize(timezone(timedelta(hours=5, seconds=15))),
            [datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=5, seconds=15))), ...],
        ),
        (pl.Series([[1, 2**100], None, []], dtype=pl.List(pl.Int128)), [[1, 2**100], ..., []]),
        (pl.Series([[1, 2], [3, None]], dtype=pl.Array(pl.Int128, 2)), [[1, 2], [3, None]]),
        (pl.Series([{"a": 1}, {"a": 2**100}], dtype=pl.Struct({"a": pl.UInt128})), [{"a": 1}, {"a": 2**100}]),
        (pl.Series([[{"a": 7}]], dtype=pl.List(pl.Struct({"a": pl.Int128, "b": pl.Null}))), [[{"a": 7, "b": None}]]),
    ],
    ids=lambda case: str(getattr(case, "dtype", "")),
)  # fmt: skip
def test_what_has_no_arrow_form_is_taken_by_its_values(data: Any, expected: list[Any]) -> None:
    frame = read_columns({"x": data})
    assert same_column(column(frame), expected)


@pytest.mark.parametrize("zone", ["utc", "+5:30", "+05:30:15", "Nowhere/At_all"])
@pytest.mark.parametrize("inside", [False, True])
def test_zones_that_nobody_knows_are_refused_by_name(zone: str, inside: bool) -> None:
    kind = pa.timestamp("us", zone)
    data = pa.array([[0]]).cast(pa.list_(kind)) if inside else pa.array([0]).cast(kind)
    with pytest.raises(ValueError, match=f"column 'x' has the type .*{re.escape(zone)}.*; cast it to UTC"):
        read_columns({"x": data})


def test_moments_that_are_outside_of_the_calendar_in_their_zone_are_refused() -> None:
    ticks = (datetime.min - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    data = pa.array([ticks]).cast(pa.timestamp("us", "America/New_York"))
    with pytest.raises(ValueError, match=r"'x': a value of type .*New_York.* outside of the years 1 to 9999 there"):
        read_columns({"x": data})
    assert column(read_columns({"x": data.cast(pa.timestamp("us", "UTC"))})) == [datetime.min.replace(tzinfo=UTC)]


def test_times_beside_integers_of_128_bits_are_not_cut() -> None:
    data = pl.Series([{"a": 1, "t": datetime(2026, 1, 1)}], dtype=pl.Struct({"a": pl.Int128, "t": pl.Datetime("ns")}))
    with pytest.raises(TypeError, match=r"column 'x' has the type Struct.*; cast its times to microseconds"):
        read_columns({"x": data})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"$oid":"a"}', "holds JSON that stands for no value here: unknown .* one more"),
        ('{"$date":7}', "holds JSON that stands for no value here: damaged .* one more"),
        ("[" * 65 + "]" * 65, "holds JSON that stands for no value here: nested more than 64 deep$"),
        ('{"$oid', "holds text that is no JSON"),
    ],
)
def test_json_that_cannot_be_read_is_told_from_what_is_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"column 'x' {said}"):
        read_columns({"x": pa.array([text], pa.json_())})


def test_names_are_checked() -> None:
    for name in ("_index", "_none", "_x"):
        with pytest.raises(ValueError, match="reserved"):
            read_frame(pl.DataFrame({name: [1]}))
        with pytest.raises(ValueError, match="reserved"):
            read_columns({name: [1]})
    with pytest.raises(TypeError, match="string, not int"):
        read_frame(pd.DataFrame({0: [1]}))
    with pytest.raises(ValueError, match="there twice: 'a'"):
        read_frame(pa.table([pa.array([1]), pa.array([1])], names=["a", "a"]))
    with pytest.raises(ValueError, match="there twice: 'a'"):
        read_frame(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    assert rows(read_frame(pl.DataFrame({"": [1], "a.b": [2], "漢\0": [3]}))) == [{"": 1, "a.b": 2, "漢\0": 3}]


def test_a_struct_with_a_name_twice_is_refused() -> None:
    data = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(TypeError, match="twice"):
        read_frame(pa.table({"x": data}))


def test_what_is_no_frame_is_refused() -> None:
    assert is_frame(pl.DataFrame())
    assert is_frame(pd.DataFrame())
    assert is_frame(pa.table({}))
    assert not is_frame([{"a": 1}])
    with pytest.raises(TypeError, match="collect"):
        read_frame(pl.LazyFrame({"a": [1]}))
    with pytest.raises(TypeError, match="not list"):
        read_frame([1])


def test_text_that_is_not_unicode_is_refused() -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    with pytest.raises(ValueError, match="UTF"):
        read_frame(pa.table({"x": bad}))
    with pytest.raises(ValueError, match="surrogate"):
        read_columns({"x": ["\ud800"]})


# ------------------------------------------------------------------------------------------------------- sizes


def test_rows_of_over_a_megabyte_are_refused() -> None:
    fits = "x" * (1_000_000)
    assert len(read_frame(pl.DataFrame({"x": [fits, "", fits]}))) == 3
    for column_ in (
        ["", "x" * (1 << 20)],
        ["", "\0" * 200_000],
        [[], [fits[:600_000]] * 2],
        [{"a": ""}, {"a": "x" * (1 << 20)}],
    ):
        with pytest.raises(ValueError, match="row 1 takes over 1 MB"):
            read_frame(pl.DataFrame({"x": column_}))
    with pytest.raises(ValueError, match="row 0 takes over 1 MB"):
        read_frame(pl.DataFrame({"x": [fits], "y": [fits]}))
    with pytest.raises(ValueError, match="1 MB"):
        read_columns({"x": [fits + fits]})


def test_rows_are_not_looked_at_when_none_can_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("looked at each row")

    monkeypatch.setattr(frames, "to_points", refuse)
    count = 100_000
    assert len(read_frame(pl.DataFrame({"x": [0.5] * count, "s": ["abc"] * count, "l": [[1.0, 2.0]] * count}))) == count


# ------------------------------------------------------------------------------------------------------ habits


def test_no_library_is_imported_for_the_question() -> None:
    result = run_python(
        """
        import sys
        from dreamlake.format.frames import is_frame, read_columns, read_frame
        import pyarrow as pa
        assert not is_frame([1])
        read_columns({"a": [1, None, "x"], "_ts": [1.0, 2.0, None]})
        read_frame(pa.table({"a": pa.Array.from_buffers(pa.int8(), 2, [None, pa.py_buffer(b"12")])}))
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"pandas", "polars"}))
        """
    )
    assert result.stdout == "[]\n"
