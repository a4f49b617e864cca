"""Arrow columns of other makers, turned into columns that a track can store: the same values under our types.

Types are widened only where every value stays exact. What no point can hold is refused with the column's name and what
to do; what has no typed form here (a zone with daylight saving, a struct without keys) goes by way of Python values.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dreamlake.format.columns import build_column, counting, int_type
from dreamlake.format.extjson import decoder
from dreamlake.format.logical import Logical, is_struct, timestamp, to_arrow, too_wide, zone_offset
from dreamlake.format.point import decode_text, take_value

_REMEDIES = {
    "date": "cast it to a timestamp",
    "time": "cast it to a string, or to a number of seconds",
    "duration": "cast it to a number of seconds",
    "decimal": "cast it to a float, an integer or a string",
    "map": "cast it to a list of structs",
}
_MICROSECOND = timedelta(microseconds=1)
_FIRST_TICK = (datetime.min - datetime(1970, 1, 1)) // _MICROSECOND
_LAST_TICK = (datetime.max - datetime(1970, 1, 1)) // _MICROSECOND


class _NoTypedForm(Exception):
    """The values can be stored, though not by a change of the Arrow type alone."""


def adopt(name: str, column: pa.Array | pa.ChunkedArray, owned: bool = False) -> tuple[Logical, pa.Array]:
    """The logical type and the column, null being absent: a snapshot, which shares no memory with what was given.

    Parameters
    ----------
    owned
        Whether nobody else has the memory of the column, so that it need not be copied.

    Raises
    ------
    TypeError
        No point can hold values of this type.
    ValueError
        A value cannot be stored exactly.
    """
    if isinstance(column, pa.ChunkedArray):
        owned = owned or column.num_chunks != 1  # several are copied on the way
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # Arrow could not join them
            raise ValueError(f"column {name!r} holds over 2 GiB of text; give the rows in several frames")
    if isinstance(column.type, pa.JsonType):
        return build_column([None if text is None else _decoded(name, text) for text in column.storage.to_pylist()])
    if _holds_views(column.type):
        return _by_value(name, column)
    if _is_dictionary(column.type):
        column = _written_out(column)
    elif not owned:
        # Whoever gave it may fill the same memory again for the next batch, and a hot point is kept for its segment.
        column = pa.concat_arrays([column])
    column = _cast(name, column, _widened(name, column.type))
    column.validate(full=True)  # text that is not UTF-8 could be written, and then never be read
    try:
        logical = _logical(name, column)
    except _NoTypedForm:
        return _by_value(name, column)
    return _by_value(name, column) if too_wide(logical) else (logical, _cast(name, column, to_arrow(logical)))


def _by_value(name: str, column: pa.Array) -> tuple[Logical, pa.Array]:
    try:
        values = column.to_pylist()
    except OverflowError as error:
        raise ValueError(
            f"column {name!r}: a value of type {column.type} is outside of the years 1 to 9999 there; cast it to UTC"
        ) from error
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"column {name!r} has the type {column.type}, whose zone is none that Python knows; cast it to UTC, to an "
            "offset such as +05:30, or to a zone of the module zoneinfo"
        ) from error
    return build_column([take_value(name, value)[0] for value in values])


def _decoded(name: str, text: str) -> Any:
    """What the text of an arrow.json column says."""
    try:
        return decode_text(text)
    except ValueError as error:
        try:
            decoder().decode(text)
        except ValueError:
            raise ValueError(f"column {name!r} holds text that is no JSON: {error}") from error
        hint = "; keys that begin with $ have one more $ in such text: or give dicts and lists" if "$" in text else ""
        raise ValueError(f"column {name!r} holds JSON that stands for no value here: {error}{hint}") from error


def _written_out(column: pa.Array) -> pa.Array:
    """The values of a column that is encoded by a dictionary, by the ends of runs, or by one within the other."""
    while _is_dictionary(column.type):
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
            continue
        # By their places, since Arrow decodes runs of few types only.
        ends, values = column.run_ends, column.values
        places = pa.RunEndEncodedArray.from_buffers(
            pa.run_end_encoded(ends.type, pa.int64()),
            len(column),
            [None],
            offset=column.offset,
            children=[ends, counting(0, len(values))],
        )
        column = values.take(pc.run_end_decode(places))
    return column


def has_numbers(logical: Logical) -> bool:
    """Whether a column of this type can be read as numbers (null alone counts)."""
    return logical in ("int", "int64", "double", "null")


def _is_dictionary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind))


def _cast(name: str, column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    try:
        return column.cast(kind)
    except pa.ArrowNotImplementedError:
        raise _refusal(name, column.type) from None
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"column {name!r}: a value of type {column.type} has no exact form as {kind}: {error}"
        ) from None


def _refusal(name: str, kind: pa.DataType) -> TypeError:
    remedy = next((remedy for word, remedy in _REMEDIES.items() if str(kind).startswith(word)), "cast it")
    return TypeError(f"column {name!r} has the type {kind}, which no point can hold: {remedy}")


# ------------------------------------------------------------------------------------------------------- types


def _widened(name: str, kind: pa.DataType) -> pa.DataType:
    """Our type for values of ``kind``; unsigned 64-bit integers and zones are left for ``_logical``."""
    is_ = pa.types
    if is_.is_null(kind) or is_.is_boolean(kind) or is_.is_uint64(kind):
        return kind
    if is_.is_integer(kind):
        return pa.int64()
    if is_.is_floating(kind):
        return pa.float64()
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        return pa.string()
    if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind) or is_.is_binary_view(kind):
        return pa.binary()
    if is_.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if _is_dictionary(kind):
        return _widened(name, kind.value_type)
    if _is_list(kind):
        return pa.list_(pa.field("element", _widened(name, kind.value_type)))
    if is_.is_struct(kind):
        return pa.struct([pa.field(field.name, _widened(name, field.type)) for field in kind])
    raise _refusal(name, kind)


def _is_list(kind: pa.DataType) -> bool:
    is_ = pa.types
    return bool(is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind))


def _holds_views(kind: pa.DataType) -> bool:
    """Whether there are list views in it, which PyArrow (26) casts to lists with wrong offsets."""
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return True
    if pa.types.is_struct(kind):
        return any(_holds_views(field.type) for field in kind)
    return _is_list(kind) and _holds_views(kind.value_type)


def _logical(name: str, column: pa.Array) -> Logical:
    """The logical type of a column of widened type, for which its values have to be looked at."""
    kind = column.type
    if pa.types.is_int64(kind):
        return int_type(column)
    if pa.types.is_uint64(kind):
        highest = pc.max(column).as_py() or 0
        if highest >= 1 << 63:
            raise _NoTypedForm
        return int_type(column.cast(pa.int64()))
    if pa.types.is_timestamp(kind):
        return _timestamp(name, column)
    if pa.types.is_list(kind):
        return {"list": _logical(name, column.flatten())}
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        if not is_struct(names):
            raise _NoTypedForm
        if len(set(names)) != len(names):
            raise TypeError(f"column {name!r} has a struct with a field name that is there twice")
        return {"struct": {field: _logical(name, child) for field, child in zip(names, column.flatten(), strict=True)}}
    plain: dict[Any, str] = {
        pa.null(): "null",
        pa.bool_(): "bool",
        pa.float64(): "double",
        pa.string(): "string",
        pa.binary(): "binary",
    }
    return plain[kind]


def _timestamp(name: str, column: pa.Array) -> str:
    zone = column.type.tz
    offset = None if zone is None else zone_offset(zone)
    if zone is not None and offset is None:
        raise _NoTypedForm  # its offset differs from value to value
    shift = 0 if offset is None else offset // _MICROSECOND
    bounds = pc.min_max(column.view(pa.int64()))
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if low is not None and (low + shift < _FIRST_TICK or high + shift > _LAST_TICK):
        raise ValueError(f"column {name!r} holds a timestamp outside of the years 1 to 9999")
    logical = timestamp(offset)
    assert logical is not None  # a zone's name has whole minutes
    return logical
