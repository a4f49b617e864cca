"""Points to Arrow and back: nothing that a point held may change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from columnar import assert_same_points, point_lists, same, timestamps
from hypothesis import example, given
from hypothesis import strategies as st
from support import run_python
from values import values

from dreamlake.format import schema
from dreamlake.format.logical import to_arrow, unify_schemas
from dreamlake.format.schema import (
    Batch,
    batch_from_columns,
    batch_from_points,
    combine,
    conform,
    conform_table,
    plain_json,
    to_points,
    ts_bounds,
)


def through(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    batch = batch_from_points(points)
    batch.data.validate(full=True)
    return to_points(batch.data, batch.schema)


def logical_of(*column: Any) -> Any:
    return batch_from_points([{"x": value, "_ts": float(at)} for at, value in enumerate(column)]).schema["x"]


# ------------------------------------------------------------------------------------------------- round trips


@given(point_lists())
def test_points_come_back(points: list[dict[str, Any]]) -> None:
    assert_same_points(points, through(points))


@given(st.lists(values, min_size=1, max_size=6))
def test_any_mix_of_values_in_one_field_comes_back(column: list[Any]) -> None:
    points = [{"x": value, "_ts": float(at)} for at, value in enumerate(column)]
    assert_same_points(points, through(points))


_edges = [2**bits + near for bits in (15, 16, 31, 32, 47, 48, 52, 53, 55, 56, 62) for near in (-1, 0, 1)]


@given(st.lists(st.sampled_from(_edges) | st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9)))
@example([2**56 - 1, 0])
@example([-(2**56), 0])
@example([2**48, -1])
def test_the_type_of_integers_says_whether_doubles_could_hold_them(column: list[int]) -> None:
    column = [each for value in column for each in (value, -value) if -(2**63) <= each < 2**63]
    if column:
        assert logical_of(*column) == ("int" if max(map(abs, column)) <= 2**53 else "int64")
        many = column * (5000 // len(column) + 1)
        assert logical_of(*many) == logical_of(*column)


@given(point_lists(max_size=12), st.data())
def test_a_combination_of_batches_holds_the_points_of_all(points: list[dict[str, Any]], data: st.DataObject) -> None:
    cuts = sorted({0, len(points), *data.draw(st.lists(st.integers(0, len(points)), max_size=3))})
    parts = [batch_from_points(points[start:stop]) for start, stop in pairwise(cuts)]
    whole = combine(parts)
    whole.data.validate(full=True)
    assert_same_points(points, to_points(whole.data, whole.schema))
    assert whole.schema == batch_from_points(points).schema or "json" in whole.schema.values()


@given(point_lists(min_size=2, max_size=8), st.data())
def test_a_slice_holds_its_rows(points: list[dict[str, Any]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(points) - 1))
    stop = data.draw(st.integers(start, len(points)))
    part = batch_from_points(points).slice(start, stop)
    assert len(part) == stop - start
    whole = batch_from_points(points)
    got = to_points(part.data, part.schema)
    assert all(same(a, b) for a, b in zip(to_points(whole.data, whole.schema)[start:stop], got, strict=True))
    # A slice is combined and widened like any batch.
    joined = combine([part, batch_from_points([{"x": "text", "_ts": 0.0}])])
    after = to_points(joined.data, joined.schema)
    assert all(same(a, b, widened=True) for a, b in zip([*got, {"x": "text", "_ts": 0.0}], after, strict=True))


@given(point_lists(), point_lists())
def test_conform_to_a_wider_schema_changes_no_value(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    left, right = batch_from_points(a), batch_from_points(b)
    wide = unify_schemas(left.schema, right.schema)
    data = conform(left, wide)
    data.validate(full=True)
    assert [field.type for field in data.schema][1 : 1 + len(wide)] == [to_arrow(kind) for kind in wide.values()]
    got = to_points(data, wide)
    table = conform_table(pa.Table.from_batches([left.data]), left.schema, wide)
    assert len(got) == len(a)
    for before, after, again in zip(a, got, to_points(table, wide), strict=True):
        assert before.keys() == after.keys() == again.keys()
        for name in before:
            assert same(before[name], after[name], widened=True)
            assert same(after[name], again[name])


@given(st.lists(st.floats(), min_size=1), st.integers(-(2**63), 2**63 - 1), st.data())
def test_columns_and_points_make_the_same_batch(losses: list[float], step: int, data: st.DataObject) -> None:
    count = len(losses)
    flags = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    ts = data.draw(st.lists(timestamps, min_size=count, max_size=count))
    columns = [losses, [step] * count, flags, [None] * count]
    known = batch_from_columns(["loss", "step", "ok", "no"], columns, [float, int, bool, type(None)], ts)
    found = batch_from_columns(["loss", "step", "ok", "no"], columns, [None] * 4, ts)
    rows = zip(*columns, ts, strict=True)
    points = batch_from_points([dict(zip(["loss", "step", "ok", "no", "_ts"], row, strict=True)) for row in rows])
    assert known.schema == found.schema == points.schema
    assert known.data.schema == found.data.schema == points.data.schema
    got = to_points(known.data, known.schema)
    for other in (found, points):
        assert all(same(a, b) for a, b in zip(got, to_points(other.data, other.schema), strict=True))


# ------------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("column", "logical"),
    [
        ([None, None], "null"),
        ([True, False], "bool"),
        ([1, -(2**53)], "int"),
        ([1, 2**53 + 1], "int64"),
        ([1, 2**63], "json"),
        ([1.0, math.nan], "double"),
        ([1, 1.5], "double"),
        ([2**53 + 1, 1.5], "json"),
        ([True, 1], "json"),
        (["a", None, "é"], "string"),
        (["a", 1], "json"),
        ([b"\0", b""], "binary"),
        ([datetime(2026, 1, 1)], "timestamp"),
        ([datetime(2026, 1, 1, tzinfo=UTC)], "timestamp:UTC"),
        ([datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))], "timestamp:-03:30"),
        ([datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)], "json"),
        ([datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1)))], "json"),
        ([[1.5], [], [None, 2.5]], {"list": "double"}),
        ([[1], [2.5]], {"list": "double"}),
        ([[]], {"list": "null"}),
        ([[1], ["a"]], "json"),
        ([[1], 1], "json"),
        ([{"a": 1, "b": None}, {"b": "x", "a": 2}], {"struct": {"a": "int", "b": "string"}}),
        ([{"a": 1}, {"b": 1}], "json"),
        ([{"a": 1}, {"a": 1, "b": 1}], "json"),
        ([{}], "json"),
        ([{"a\0b": 1}], "json"),
        ([[{}]], "json"),
        ([{"a": [{"b": True}]}], {"struct": {"a": {"list": {"struct": {"b": "bool"}}}}}),
    ],
)
def test_each_column_gets_the_narrowest_type(column: list[Any], logical: Any) -> None:
    assert logical_of(*column) == logical


def test_a_dict_of_very_many_keys_and_a_very_deep_list_are_json() -> None:
    assert logical_of({str(key): 1.0 for key in range(256)}) != "json"
    assert logical_of({str(key): 1.0 for key in range(257)}) == "json"
    assert logical_of([{str(key): 1.0 for key in range(200)}, None]) != "json"
    assert (
        logical_of({"a": {str(key): 1.0 for key in range(200)}, "b": {str(key): 1.0 for key in range(200)}}) == "json"
    )
    nested: Any = 1.0
    for depth in range(1, 65):
        nested = [nested]
        logical = logical_of(nested)
        assert (logical == "json") == (depth > 16)
        assert through([{"x": nested, "_ts": 0.0}]) == [{"x": nested, "_ts": 0.0}]


def test_absent_and_none_are_told_apart() -> None:
    points = [
        {"a": None, "_ts": 0.0},
        {"_ts": 1.0},
        {"a": 1, "b": None, "_ts": 2.0},
        {"a": None, "b": None, "_ts": 3.0},
    ]
    batch = batch_from_points(points)
    assert batch.data.schema.names == ["_ts", "a", "b", "_none"]
    assert batch.data.column("_none").to_pylist() == [["a"], None, ["b"], ["a", "b"]]
    assert through(points) == points
    assert "_none" not in batch_from_points([{"_ts": 1.0}, {"a": 1, "_ts": 2.0}]).data.schema.names


def test_fields_keep_the_order_of_their_first_arrival() -> None:
    batch = batch_from_points([{"_ts": 1.0, "z": 1}, {"_ts": 2.0, "a": 1, "z": 2}, {"b": 1, "_ts": 3.0}])
    assert list(batch.schema) == ["z", "a", "b"]
    assert batch.data.schema.names == ["_ts", "z", "a", "b"]


def test_points_of_one_length_with_other_fields() -> None:
    points = [{"a": 1, "_ts": 1.0}, {"b": 2, "_ts": 2.0}]
    assert through(points) == points


def test_points_without_fields() -> None:
    assert through([{"_ts": 1.0}, {"_ts": 2.0}]) == [{"_ts": 1.0}, {"_ts": 2.0}]
    assert through([]) == []


def test_datetimes_at_the_ends_of_time_with_an_offset() -> None:
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    points = [
        {"a": datetime.min.replace(tzinfo=east), "b": datetime.max.replace(tzinfo=west), "_ts": 0.0},
        {"a": datetime.max.replace(tzinfo=east), "b": datetime.min.replace(tzinfo=west), "_ts": 1.0},
    ]
    assert batch_from_points(points).schema == {"a": "timestamp:+14:00", "b": "timestamp:-12:00"}
    assert_same_points(points, through(points))


def test_a_projection_by_conform_table() -> None:
    batch = batch_from_points([{"a": 1, "b": "x", "_ts": 1.0}, {"a": None, "b": "y", "_ts": 2.0}])
    table = conform_table(pa.Table.from_batches([batch.data]), batch.schema, {"b": "json", "c": {"list": "double"}})
    assert table.schema.names == ["_ts", "_none", "b", "c"]
    assert plain_json(table).column("b").to_pylist() == ['"x"', '"y"']
    assert table.column("c").type == pa.list_(pa.float64())
    assert table.column("c").null_count == 2


def test_conform_refuses_to_narrow() -> None:
    batch = batch_from_points([{"a": "x", "b": {"k": 1}, "_ts": 1.0}])
    with pytest.raises(ValueError, match="cannot become"):
        conform(batch, {"a": "double"})
    with pytest.raises(ValueError, match="other keys"):
        conform(batch, {"b": {"struct": {"k": "int", "l": "int"}}})


def test_combine_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no batch"):
        combine([])


def test_what_is_no_value_is_said_with_its_column() -> None:
    text = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{", "1"]))
    late = pa.array([2**62, 0]).cast(pa.timestamp("us"))
    ts = pa.array([0.0, 1.0])
    with pytest.raises(ValueError, match="column 'j' holds what is no value"):
        to_points(pa.table({"_ts": ts, "j": text}), {"j": "json"})
    with pytest.raises(ValueError, match="column 't' holds what is no value"):
        to_points(pa.table({"_ts": ts, "t": late}), {"t": "timestamp"})


# -------------------------------------------------------------------------------------------------- timestamps


def test_bounds_of_the_timestamps() -> None:
    def bounds(*ts: float) -> tuple[float, float, bool]:
        return ts_bounds(batch_from_points([{"_ts": value} for value in ts]))

    assert bounds(5.0) == (5.0, 5.0, True)
    assert bounds(1.0, 2.0, 3.5) == (1.0, 3.5, True)
    assert bounds(1.0, 1.0) == (1.0, 1.0, False)
    assert bounds(2.0, -1.0, 3.0) == (-1.0, 3.0, False)
    assert schema.timestamps(batch_from_points([{"a": 1, "_ts": 4.0}, {"_ts": 2.0}])) == [4.0, 2.0]


# ------------------------------------------------------------------------------------------------------ habits


def test_the_write_and_read_path_imports_neither_pandas_nor_polars() -> None:
    result = run_python(
        """
        import sys
        from datetime import datetime, UTC
        from dreamlake.format import schema, segment
        from dreamlake.format.segment import SegmentInfo
        kinds = [1, 1.5, True, "a", "é", b"x", None, datetime(2026, 1, 1, tzinfo=UTC), [1, 2.5], {"k": [None]}, 2**70]
        points = [{f"f{i}": value for i, value in enumerate(kinds)} | {"_ts": float(at)} for at in range(3)]
        batch = schema.combine([schema.batch_from_points(points), schema.batch_from_points([{"f0": "x", "_ts": 3.0}])])
        info = SegmentInfo("t", 0, 4, 0, *schema.ts_bounds(batch), batch.schema, batch.schema)
        opened = segment.open_segment(segment.encode(batch, info))
        assert len(schema.to_points(opened.read(), opened.info.schema)) == 4
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"pandas", "polars"}))
        """
    )
    assert result.stdout == "[]\n"


def test_a_batch_knows_its_length() -> None:
    batch = batch_from_points([{"a": 1, "_ts": 1.0}])
    assert isinstance(batch, Batch)
    assert len(batch) == 1
