"""One field's Python values to one Arrow column, and back to exactly these values.

PyArrow's own conversion of Python values (``pa.array``) is not used, since it imports pandas where that is installed;
buffers are packed by ``struct`` instead, which is also faster. The typed form is found from the set of the values'
types, so that the work on each single value is done in C.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dreamlake.format.logical import (
    MAX_DEPTH,
    MAX_EXACT_INT,
    Logical,
    is_native,
    is_struct,
    timestamp,
    timezone_of,
    to_arrow,
    too_wide,
)
from dreamlake.format.point import decode_text, encode_text, types_of

NoneType = type(None)
_HIGHEST, _SECOND = (7, 6) if sys.byteorder == "little" else (0, 1)  # byte of an int64
_FEW_BYTES = 1 << 15
_FEW_LISTS = 1 << 11  # what a block of an append loop holds
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)


class _Conflict(Exception):
    """The values of a column have no common type; the column becomes JSON."""


# ---------------------------------------------------------------------------------------------- values to column


def build_column(values: Sequence[Any], kinds: set[type] | None = None) -> tuple[Logical, pa.Array]:
    """The narrowest type of one field's values, and their column, None being null.

    Parameters
    ----------
    values
        As ``point.take_value`` gives them.
    kinds
        The exact types of the values, when they are known already.
    """
    if kinds is None:
        kinds = types_of(values)
    try:
        logical, built = _build(values, kinds, 0)
        if not too_wide(logical):
            return logical, built
    except _Conflict:
        pass
    return "json", json_texts(values)


def json_texts(values: Iterable[Any]) -> pa.Array:
    texts = [None if value is None else encode_text(value) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), _strings(texts, validity(texts) if None in texts else None))


def _build(values: Sequence[Any], kinds: set[type], level: int) -> tuple[Logical, pa.Array]:
    """The array of ``values``, whose types are exactly ``kinds``, and its logical type.

    Raises
    ------
    _Conflict
        They have no common type.
    """
    valid = None
    if NoneType in kinds:
        kinds = kinds - {NoneType}
        if kinds:
            valid = validity(values)
    if not kinds:
        return "null", pa.nulls(len(values))
    if kinds == {int, float}:
        return _mixed_numbers(values, valid)
    if len(kinds) > 1:
        raise _Conflict
    builder = _BUILDERS.get(next(iter(kinds)))
    if builder is None or level > MAX_DEPTH:
        raise _Conflict
    return builder(values, valid, level)


def validity(values: Sequence[Any]) -> pa.Buffer:
    """The bitmap of the values that are not None."""
    return _bits([value is not None for value in values]).buffers()[1]


def _bits(flags: Sequence[bool]) -> pa.Array:
    return packed(pa.uint8(), len(flags), None, bytes(flags)).cast(pa.bool_())


def _filled(values: Sequence[Any], valid: pa.Buffer | None, blank: Any) -> Sequence[Any]:
    return values if valid is None else [blank if value is None else value for value in values]


def packed(kind: pa.DataType, count: int, valid: pa.Buffer | None, data: Any) -> pa.Array:
    """An array of ``count`` values of fixed size whose bytes lie in ``data``, any buffer."""
    return pa.Array.from_buffers(kind, count, [valid, pa.py_buffer(data)])


def counting(start: int, stop: int) -> pa.Array:
    """The numbers of [start, stop)."""
    if hasattr(pa, "arange"):
        return pa.arange(start, stop)
    return packed(pa.int64(), stop - start, None, array("q", range(start, stop)))  # PyArrow before 21


def doubles(values: Sequence[Any], valid: pa.Buffer | None) -> pa.Array:
    """The column of floats, and of ints that are exact as floats; an ``array("d")`` must not change any more."""
    if isinstance(values, array) and values.typecode == "d":
        return packed(pa.float64(), len(values), None, values)
    data = struct.pack(f"{len(values)}d", *_filled(values, valid, 0.0))
    return packed(pa.float64(), len(values), valid, data)


def _build_double(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    return "double", doubles(values, valid)


def _mixed_numbers(values: Sequence[Any], valid: pa.Buffer | None) -> tuple[Logical, pa.Array]:
    ints = [value for value in values if type(value) is int]
    if max(ints) > MAX_EXACT_INT or min(ints) < -MAX_EXACT_INT:
        raise _Conflict
    return "double", doubles(values, valid)


def _build_int(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    try:
        is_packed = isinstance(values, array) and values.typecode == "q"
        data = values.tobytes() if is_packed else struct.pack(f"{len(values)}q", *_filled(values, valid, 0))  # type: ignore[attr-defined]
    except struct.error:
        raise _Conflict from None  # beyond int64
    column = packed(pa.int64(), len(values), valid, data)
    return "int" if _are_short(data) else int_type(column), column


def _are_short(data: bytes) -> bool:
    """Whether all of these int64 have less than 48 bits: Arrow takes ten times as long for a few."""
    if len(data) > _FEW_BYTES:
        return False
    high = data[_HIGHEST::8]
    return high == data[_SECOND::8] and not high.strip(b"\x00\xff")


def int_type(array: pa.Array | pa.ChunkedArray) -> str:
    """``"int"`` where a double could hold every value, else ``"int64"``."""
    bounds = pc.min_max(array)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    return "int" if low is None or (low >= -MAX_EXACT_INT and high <= MAX_EXACT_INT) else "int64"


def _build_bool(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    bits = _bits(_filled(values, valid, False))
    return "bool", pa.Array.from_buffers(pa.bool_(), len(values), [valid, bits.buffers()[1]])


def _strings(values: Sequence[Any], valid: pa.Buffer | None) -> pa.Array:
    values = _filled(values, valid, "")
    text = "".join(values)
    if text.isascii():
        return _from_offsets(pa.string(), list(map(len, values)), valid, pa.py_buffer(text.encode()))
    return _blobs(pa.string(), [value.encode() for value in values], valid)


def _build_string(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    return "string", _strings(values, valid)


def _build_binary(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    return "binary", _blobs(pa.binary(), _filled(values, valid, b""), valid)


def _blobs(kind: pa.DataType, values: Sequence[bytes], valid: pa.Buffer | None) -> pa.Array:
    return _from_offsets(kind, list(map(len, values)), valid, pa.py_buffer(b"".join(values)))


def _from_offsets(
    kind: pa.DataType,
    lengths: list[int],
    valid: pa.Buffer | None,
    data: pa.Buffer | None,
    child: pa.Array | None = None,
) -> pa.Array:
    """A variable-length array: of text or bytes with ``data``, of lists with ``child``."""
    buffers = [valid, _offsets(lengths)]
    if child is not None:
        return pa.Array.from_buffers(kind, len(lengths), buffers, children=[child])
    return pa.Array.from_buffers(kind, len(lengths), [*buffers, data])


def _offsets(lengths: list[int]) -> pa.Buffer:
    try:
        return pa.py_buffer(struct.pack(f"{len(lengths) + 1}i", 0, *accumulate(lengths)))
    except struct.error:
        raise ValueError("one column of one batch holds over 2 GiB; store fewer or smaller values a point") from None


def _build_timestamp(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    offsets = {value.utcoffset() for value in values if value is not None}
    logical = timestamp(offsets.pop()) if len(offsets) == 1 else None
    if logical is None:
        raise _Conflict
    zero = _EPOCH if logical == "timestamp" else _EPOCH_UTC
    ticks = [(value - zero) // _MICROSECOND for value in _filled(values, valid, zero)]
    return logical, packed(to_arrow(logical), len(ticks), valid, struct.pack(f"{len(ticks)}q", *ticks))


def _build_list(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    values = _filled(values, valid, ())
    flat = list(chain.from_iterable(values))
    inner, child = _build(flat, types_of(flat), level + 1)
    logical: Logical = {"list": inner}
    return logical, _from_offsets(to_arrow(logical), list(map(len, values)), valid, None, child)


def lists_of_doubles(values: Sequence[bytes], length: int) -> tuple[Logical, pa.Array]:
    """The column of lists of ``length`` floats each, given as the bytes of so many doubles, and its type."""
    child = packed(pa.float64(), len(values) * length, None, b"".join(values))
    logical: Logical = {"list": "double"}
    offsets = _even_offsets(length, len(values))
    return logical, pa.Array.from_buffers(to_arrow(logical), len(values), [None, offsets], children=[child])


def _even_offsets(length: int, count: int) -> pa.Buffer:
    """The offsets of ``count`` lists of one ``length``; of few lists they are the first of those that are kept."""
    if count > _FEW_LISTS:
        return _offsets([length] * count)
    return _kept_offsets(length).slice(0, (count + 1) * struct.calcsize("i"))


@lru_cache(maxsize=32)
def _kept_offsets(length: int) -> pa.Buffer:
    return _offsets([length] * _FEW_LISTS)


def _build_struct(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    rows = values if valid is None else [value for value in values if value is not None]
    keys = list(rows[0])
    if not is_struct(keys) or any(len(row) != len(keys) for row in rows):
        raise _Conflict
    types: dict[str, Logical] = {}
    children = []
    for key in keys:
        try:
            column = [None if row is None else row[key] for row in values]
        except KeyError:
            raise _Conflict from None
        types[key], child = _build(column, types_of(column), level + 1)
        children.append(child)
    logical: Logical = {"struct": types}
    return logical, pa.Array.from_buffers(to_arrow(logical), len(values), [valid], children=children)


_Builder = Callable[[Sequence[Any], "pa.Buffer | None", int], "tuple[Logical, pa.Array]"]
_BUILDERS: dict[type, _Builder] = {
    float: _build_double,
    int: _build_int,
    bool: _build_bool,
    str: _build_string,
    bytes: _build_binary,
    datetime: _build_timestamp,
    list: _build_list,
    tuple: _build_list,  # a list that waits in memory
    dict: _build_struct,
}


# ---------------------------------------------------------------------------------------------- column to values


def column_values(array: pa.Array | pa.ChunkedArray, logical: Logical) -> list[Any]:
    """The Python values of a column, null being None."""
    if isinstance(array, pa.ChunkedArray):
        return list(chain.from_iterable(column_values(chunk, logical) for chunk in array.chunks))
    if is_native(logical):
        values: list[Any] = array.to_pylist()
        return values
    if logical == "json":
        return [None if text is None else decode_text(text) for text in array.storage.to_pylist()]
    if isinstance(logical, str):
        return _datetimes(array, logical)
    return _list_values(array, logical["list"]) if "list" in logical else _struct_values(array, logical["struct"])


def _datetimes(array: pa.Array, logical: str) -> list[datetime | None]:
    """Computed from the ticks: Arrow's own conversion fails near the years 1 and 9999, and may import pandas."""
    zone = timezone_of(logical)
    shift = timedelta(0) if zone is None else zone.utcoffset(None)
    ticks = array.view(pa.int64()).to_pylist()
    return [
        None if tick is None else (_EPOCH + (timedelta(microseconds=tick) + shift)).replace(tzinfo=zone)
        for tick in ticks
    ]


def _list_values(array: pa.Array, inner: Logical) -> list[Any]:
    offsets = array.offsets.to_pylist()
    first = offsets[0] if offsets else 0
    flat = column_values(array.values.slice(first, (offsets[-1] if offsets else 0) - first), inner)
    lists = [flat[start - first : stop - first] for start, stop in pairwise(offsets)]
    return _masked(array, lists)


def _struct_values(array: pa.Array, types: Mapping[str, Logical]) -> list[Any]:
    columns = [column_values(array.field(key), inner) for key, inner in types.items()]
    return _masked(array, [dict(zip(types, row, strict=True)) for row in zip(*columns, strict=True)])


def _masked(array: pa.Array, values: list[Any]) -> list[Any]:
    if not array.null_count:
        return values
    return [value if valid else None for value, valid in zip(values, array.is_valid().to_pylist(), strict=True)]
