"""The lattice of column types: what unify makes holds both, whatever the order."""

from __future__ import annotations

import json
from datetime import UTC, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlake.format.logical import (
    MAX_DEPTH,
    MAX_LEAVES,
    Logical,
    check,
    depth,
    identical,
    is_native,
    leaf_count,
    leaves,
    timestamp,
    timezone_of,
    to_arrow,
    too_wide,
    unify,
    unify_schemas,
    zone_offset,
)

PLAIN = ["null", "bool", "int", "int64", "double", "string", "binary", "timestamp", "timestamp:UTC", "timestamp:+02:00"]

nested = st.recursive(
    st.sampled_from(PLAIN),
    lambda inner: st.one_of(
        st.builds(lambda item: {"list": item}, inner),
        st.builds(lambda fields: {"struct": fields}, st.dictionaries(st.sampled_from("abc"), inner, min_size=1)),
    ),
    max_leaves=4,
)
types = st.one_of(nested, st.just("json"))


def holds(wide: Logical, narrow: Logical) -> bool:
    """Whether every value of ``narrow`` is one of ``wide``, written down a second time and without unify."""
    if wide == "json" or narrow == "null" or wide == narrow:
        return True
    if isinstance(wide, str) or isinstance(narrow, str):
        return wide in ("int64", "double") and narrow == "int"
    if wide.keys() != narrow.keys():
        return False
    if "list" in wide:
        return holds(wide["list"], narrow["list"])
    a, b = wide["struct"], narrow["struct"]
    return a.keys() == b.keys() and all(holds(a[key], b[key]) for key in a)


@given(types, types)
def test_unify_gives_a_type_that_holds_both(a: Logical, b: Logical) -> None:
    assert holds(unify(a, b), a)
    assert holds(unify(a, b), b)


@given(types, types)
def test_unify_does_not_depend_on_the_order(a: Logical, b: Logical) -> None:
    assert unify(a, b) == unify(b, a)


@given(types, types, types)
def test_unify_does_not_depend_on_the_grouping_except_for_json(a: Logical, b: Logical, c: Logical) -> None:
    # int + int64 + double: a conflict wherever it is met, and json swallows everything afterwards.
    assert unify(unify(a, b), c) == unify(a, unify(b, c))


@given(types)
def test_unify_with_itself_and_with_nothing_changes_nothing(a: Logical) -> None:
    assert unify(a, a) == a
    assert unify(a, "null") == a
    assert unify(a, "json") == "json"


@given(types, types)
def test_unify_gives_up_only_where_no_type_holds_both(a: Logical, b: Logical) -> None:
    if holds(a, b) and a != "json":
        assert unify(a, b) == a


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        ("int", "int64", "int64"),
        ("int", "double", "double"),
        ("int64", "double", "json"),
        ("bool", "int", "json"),
        ("string", "binary", "json"),
        ("timestamp", "timestamp:UTC", "json"),
        ("timestamp:UTC", "timestamp:+02:00", "json"),
        ({"list": "int"}, {"list": "double"}, {"list": "double"}),
        ({"list": "null"}, {"list": {"list": "bool"}}, {"list": {"list": "bool"}}),
        ({"list": "int64"}, {"list": "double"}, "json"),
        ({"list": "int"}, {"struct": {"list": "int"}}, "json"),
        ({"struct": {"a": "int", "b": "null"}}, {"struct": {"b": "bool", "a": "double"}}, None),
        ({"struct": {"a": "int"}}, {"struct": {"a": "int", "b": "int"}}, "json"),
        ({"struct": {"a": "int"}}, {"struct": {"a": "bool"}}, "json"),
    ],
)
def test_unify(a: Logical, b: Logical, both: Logical | None) -> None:
    assert unify(a, b) == ({"struct": {"a": "double", "b": "bool"}} if both is None else both)


def test_what_grows_too_wide_or_too_deep_becomes_json() -> None:
    wide: Logical = {"struct": {str(key): "int" for key in range(MAX_LEAVES)}}
    assert not too_wide(wide)
    assert too_wide({"struct": {"a": wide, "b": "int"}})
    two: Logical = {"struct": {"a": "null", "b": wide}}
    assert unify(two, {"struct": {"a": "null", "b": "null"}}) == "json"  # 257 columns
    deep: Logical = "int"
    for _ in range(MAX_DEPTH):
        deep = {"list": deep}
    assert not too_wide(deep)
    assert too_wide({"list": deep})
    assert (depth(deep), leaf_count(wide)) == (MAX_DEPTH, MAX_LEAVES)


def test_schemas_unite_in_the_order_of_first_arrival() -> None:
    union = unify_schemas({"b": "int", "a": "null"}, {"c": "bool", "a": "string"}, {"b": "double"})
    assert list(union.items()) == [("b", "double"), ("a", "string"), ("c", "bool")]
    assert unify_schemas() == {}


def test_identical_looks_at_the_order_of_keys() -> None:
    a, b = {"struct": {"x": "int", "y": "int"}}, {"struct": {"y": "int", "x": "int"}}
    assert a == b
    assert not identical(a, b)
    assert identical(a, json.loads(json.dumps(a)))
    assert not identical("int", "int64")


@given(nested)
def test_leaves_are_the_columns_that_parquet_gets(logical: Logical) -> None:
    import io

    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"x": pa.nulls(1, to_arrow(logical))}), sink)
    paths = [pq.read_metadata(sink).schema.column(at).path for at in range(leaf_count(logical))]
    assert [path for path, _ in leaves("x", logical)] == paths


@given(types)
def test_types_survive_their_json_and_the_check(logical: Logical) -> None:
    assert check(json.loads(json.dumps({"x": logical}))) == {"x": logical}


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {1: "int"},
        {"x": None},
        {"x": "integer"},
        {"x": ["int"]},
        {"x": {}},
        {"x": {"list": "json"}},
        {"x": {"list": "int", "struct": {"a": "int"}}},
        {"x": {"struct": {}}},
        {"x": {"struct": {"a": "json"}}},
        {"x": {"struct": ["int"]}},
        {"x": {"struct": {"a\0": "int"}}},
        {"x": {"map": "int"}},
        {"x": "timestamp:"},
        {"x": "timestamp:Europe/Berlin"},
        {"x": "timestamp:+24:00"},
        {"x": "timestamp:-00:00"},
        {"x": "timestamp:+2:00"},
        {"x": "timestamp:Z"},
    ],
)
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match=r" is "):
        check(schema)


def test_a_schema_too_deep_is_refused() -> None:
    deep: Any = "int"
    for _ in range(MAX_DEPTH + 1):
        deep = {"list": deep}
    with pytest.raises(ValueError, match="not too deep"):
        check({"x": deep})
    assert check({"x": deep["list"]})


@given(st.integers(-24 * 60 + 1, 24 * 60 - 1))
def test_offsets_of_whole_minutes_have_a_type_and_come_back(minutes: int) -> None:
    offset = timedelta(minutes=minutes)
    logical = timestamp(offset)
    assert logical is not None
    zone = timezone_of(logical)
    assert zone == timezone(offset)
    assert (zone is UTC) == (minutes == 0)
    assert zone_offset(logical.partition(":")[2]) == offset


def test_other_offsets_have_none() -> None:
    assert timestamp(timedelta(seconds=1)) is None
    assert timestamp(timedelta(minutes=1, microseconds=1)) is None
    assert timestamp(None) == "timestamp"
    assert timezone_of("timestamp") is None
    assert zone_offset("Europe/Berlin") is None


def test_arrow_types() -> None:
    assert to_arrow("int") == to_arrow("int64") == pa.int64()
    assert to_arrow("timestamp:+05:30") == pa.timestamp("us", "UTC")
    assert to_arrow("json") == pa.json_()
    assert to_arrow({"list": {"struct": {"a": "double"}}}) == pa.list_(pa.struct([("a", pa.float64())]))


def test_native_types_are_those_without_json_and_timestamps() -> None:
    assert is_native({"list": {"struct": {"a": "double", "b": "binary"}}})
    assert not is_native({"struct": {"a": {"list": "timestamp:UTC"}}})
    assert not is_native("json")
