"""The types that a column can have, as plain JSON values, and how two of them become one.

A *logical* type is one of

=====================  ===================================================================  ====================
logical                values                                                               Arrow
=====================  ===================================================================  ====================
``"null"``             no value yet: only None or absent                                    null
``"bool"``             bool                                                                 bool
``"int"``              int, every one within +-2**53, so that a double holds it exactly     int64
``"int64"``            int, some beyond that                                                int64
``"double"``           float                                                                double
``"string"``           str                                                                  string
``"binary"``           bytes                                                                binary
``"timestamp"``        datetime without a timezone                                          timestamp[us]
``"timestamp:+02:00"`` datetime, each with this offset from UTC (``UTC`` for zero)          timestamp[us, UTC]
``{"list": T}``        list of T                                                            list<element: T>
``{"struct": {..}}``   dict, each with exactly these keys                                   struct
``"json"``             anything: one JSON text a value (``format/point.py``)                arrow.json of string
=====================  ===================================================================  ====================

``"json"`` stands for whole columns only, never inside a list or struct. The offset of a timestamp is kept here and not
in the Arrow type, since not every reader knows zones like ``+05:30``; Arrow gets the instant in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, timedelta, timezone
from functools import lru_cache
from typing import Any, TypeAlias

import pyarrow as pa

Logical: TypeAlias = "str | dict[str, Any]"
TrackSchema: TypeAlias = "dict[str, Logical]"  # user fields in order of first arrival

MAX_DEPTH = 16  # lists and structs within one column; deeper values are stored as JSON
MAX_LEAVES = 256  # Parquet columns that one field may become; a dict with more keys is stored as JSON
MAX_EXACT_INT = 1 << 53  # the largest magnitude up to which every int is also a double

_PLAIN: dict[str, pa.DataType] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "timestamp": pa.timestamp("us"),
    "json": pa.json_(),
}
#: What an exported column of strings has in its metadata where they are JSON. Not ``arrow.json``, which is no string to
#: Polars and DuckDB.
JSON_MARK = {b"dreamlake.type": b"json"}
_NUMBERS = frozenset({"int", "int64", "double"})
_ZONED = "timestamp:"
_UTC_NAMES = frozenset({"UTC", "Etc/UTC", "Z", "GMT", "Etc/GMT"})
_OFFSET = re.compile(r"([+-])([01][0-9]|2[0-3]):([0-5][0-9])")


# ------------------------------------------------------------------------------------------------------ unify


def unify(a: Logical, b: Logical) -> Logical:
    """The narrowest type that holds every value of both without a change; ``"json"`` where there is none.

    Nothing is widened by guess: an int meets a float only when every int is exact as a double, and a conflict anywhere
    inside a list or struct makes the whole column JSON.
    """
    if a == b:
        return a
    merged = _merge(a, b)
    return "json" if merged is None or too_wide(merged) else merged


def _merge(a: Logical, b: Logical) -> Logical | None:
    """The common type, or None for a conflict."""
    if a == b or b == "null":
        return a
    if a == "null":
        return b
    if isinstance(a, str) and isinstance(b, str):
        return _merge_numbers(a, b) if a in _NUMBERS and b in _NUMBERS else None
    if isinstance(a, str) or isinstance(b, str) or a.keys() != b.keys():
        return None
    if "list" in a:
        inner = _merge(a["list"], b["list"])
        return None if inner is None else {"list": inner}
    left, right = a["struct"], b["struct"]
    if left.keys() != right.keys():
        return None
    fields = {key: _merge(left[key], right[key]) for key in left}
    return None if None in fields.values() else {"struct": fields}


def _merge_numbers(a: str, b: str) -> Logical | None:
    if "double" not in (a, b):
        return "int64"
    return None if "int64" in (a, b) else "double"


def unify_schemas(*schemas: Mapping[str, Logical]) -> TrackSchema:
    """One schema that holds the points of all: the union of the fields in order of first arrival, types widened."""
    union: TrackSchema = {}
    for schema in schemas:
        for name, logical in schema.items():
            union[name] = unify(union[name], logical) if name in union else logical
    return union


def identical(a: object, b: object) -> bool:
    """Whether two types, or two schemas, are equal to the order of their keys, as Arrow compares them."""
    return a == b and (isinstance(a, str) or repr(a) == repr(b))


# ---------------------------------------------------------------------------------------------------- measure


def too_wide(logical: Logical) -> bool:
    """Whether values of this type are stored as JSON all the same, since the columns would be too many or too deep."""
    return not isinstance(logical, str) and (depth(logical) > MAX_DEPTH or leaf_count(logical) > MAX_LEAVES)


def is_struct(keys: Collection[str]) -> bool:
    """Whether these can be a struct's keys; Arrow hands names to other libraries as text that ends at a NUL."""
    return 0 < len(keys) <= MAX_LEAVES and not any("\0" in key for key in keys)


def depth(logical: Logical) -> int:
    """How many lists and structs lie within each other."""
    if isinstance(logical, str):
        return 0
    if "list" in logical:
        return 1 + depth(logical["list"])
    return 1 + max(map(depth, logical["struct"].values()))


def leaf_count(logical: Logical) -> int:
    """How many Parquet columns a column of this type becomes."""
    if isinstance(logical, str):
        return 1
    if "list" in logical:
        return leaf_count(logical["list"])
    return sum(map(leaf_count, logical["struct"].values()))


def leaves(path: str, logical: Logical) -> Iterator[tuple[str, str]]:
    """Each Parquet column below the column ``path`` as (its dotted path, its type)."""
    if isinstance(logical, str):
        yield path, logical
    elif "list" in logical:
        yield from leaves(f"{path}.list.element", logical["list"])
    else:
        for key, inner in logical["struct"].items():
            yield from leaves(f"{path}.{key}", inner)


# ------------------------------------------------------------------------------------------------------ Arrow


def to_arrow(logical: Logical) -> pa.DataType:
    """The Arrow type that stores it."""
    if isinstance(logical, str):
        return _plain_arrow(logical)
    if "list" in logical:
        return pa.list_(pa.field("element", to_arrow(logical["list"])))
    return pa.struct([pa.field(key, to_arrow(inner)) for key, inner in logical["struct"].items()])


@lru_cache(maxsize=256)
def _plain_arrow(logical: str) -> pa.DataType:
    if logical.startswith(_ZONED):
        return pa.timestamp("us", "UTC")
    return _PLAIN[logical]


def is_native(logical: Logical) -> bool:
    """Whether Arrow's own values of this type are the user's values: no JSON and no timestamps inside."""
    if isinstance(logical, str):
        return logical != "json" and not logical.startswith("timestamp")
    if "list" in logical:
        return is_native(logical["list"])
    return all(map(is_native, logical["struct"].values()))


# -------------------------------------------------------------------------------------------------- timestamps


def timestamp(offset: timedelta | None) -> str | None:
    """The type of datetimes with this offset from UTC (None: naive); None when only JSON can keep the offset."""
    if offset is None:
        return "timestamp"
    if not offset:
        return _ZONED + "UTC"
    minutes, rest = divmod(abs(offset), timedelta(minutes=1))
    if rest:
        return None
    return f"{_ZONED}{'-' if offset < timedelta(0) else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


def timezone_of(logical: str) -> timezone | None:
    """The timezone of the datetimes of a timestamp type; None for naive ones."""
    zone = logical.partition(":")[2]
    if not zone:
        return None
    offset = zone_offset(zone)
    if offset is None or timestamp(offset) != logical:
        raise ValueError(f"{logical[:80]!r} is no timestamp type: expected an offset like +02:00")
    return timezone(offset) if offset else UTC


def zone_offset(zone: str) -> timedelta | None:
    """The offset from UTC of a zone by name, when it is always the same one: ``UTC``, ``+02:00``."""
    if zone in _UTC_NAMES:
        return timedelta(0)
    match = _OFFSET.fullmatch(zone)
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return -offset if match[1] == "-" else offset


# ---------------------------------------------------------------------------------------------------- validate


def check(schema: object) -> TrackSchema:
    """``schema``, once it is known to be one: what stands in a file is not trusted before.

    Raises
    ------
    ValueError
        Something in it is no logical type.
    """
    if not isinstance(schema, dict):
        raise ValueError(f"a schema is an object of types, not {type(schema).__name__}")
    for name, logical in schema.items():
        if not isinstance(name, str):
            raise ValueError("a column name is a string")
        if logical != "json":
            _check_type(logical, MAX_DEPTH)
    return schema


def _check_type(logical: object, levels: int) -> None:
    if isinstance(logical, str):
        if logical.startswith(_ZONED):
            if timezone_of(logical) is None:
                raise ValueError(f"{logical!r} is no type of a value")
        elif logical == "json" or logical not in _PLAIN:
            raise ValueError(f"{logical[:80]!r} is no type of a value")
        return
    if levels == 0 or not isinstance(logical, dict) or len(logical) != 1:
        raise ValueError("a type is a name, {'list': type} or {'struct': {key: type}}, and not too deep")
    if "list" in logical:
        _check_type(logical["list"], levels - 1)
        return
    fields = logical.get("struct")
    if not isinstance(fields, dict) or not is_struct(fields):
        raise ValueError("a type is a list or a struct of at least one key, of not too many, and none with a NUL")
    for inner in fields.values():
        _check_type(inner, levels - 1)
