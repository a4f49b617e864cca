"""Points to Arrow and back: columns built in bulk, widened, and read back to exactly the values that were taken.

Null means absent. Where a field was set to None, the ``_none`` column names it for that row. PyArrow's own conversion
of Python values (``pa.array``) is not used, since it imports pandas wherever that is installed; buffers are packed by
``struct`` instead, which is also faster.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, chain, pairwise
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dreamlake.format.logical import (
    MAX_DEPTH,
    MAX_EXACT_INT,
    MAX_LEAVES,
    Logical,
    TrackSchema,
    is_native,
    timestamp,
    timezone_of,
    to_arrow,
    too_wide,
    unify_schemas,
)
from dreamlake.format.point import decode_text, encode_text

TS = "_ts"
NONE = "_none"
TS_FIELD = pa.field(TS, pa.float64(), nullable=False)
NONE_FIELD = pa.field(NONE, pa.list_(pa.field("element", pa.string())))

NoneType = type(None)
_AbsentType = type("_AbsentType", (), {})
_ABSENT: Any = _AbsentType()  # stands in a column of Python values for a field that a point lacks
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Batch:
    """Points as columns.

    Parameters
    ----------
    schema
        The logical type of each field, in order of first arrival.
    data
        ``_ts`` (double, no null), then the fields in that order, then ``_none`` only if some field was set to None.
    """

    schema: TrackSchema
    data: pa.RecordBatch

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def slice(self, start: int, stop: int) -> Batch:
        """The rows [start, stop), without a copy; the schema stays as it is."""
        return Batch(self.schema, self.data.slice(start, stop - start))


class _Conflict(Exception):
    """The values of a column have no common type; the column becomes JSON."""


# ------------------------------------------------------------------------------------------- points to columns


def batch_from_columns(
    names: Sequence[str], columns: Sequence[Sequence[Any]], types: Sequence[type | None], ts: Sequence[float]
) -> Batch:
    """The batch of points that all have the fields ``names``.

    Parameters
    ----------
    names, columns
        The fields and, for each, its values as ``point.take_value`` gives them; None is an explicit None.
    types
        For each column the exact type of all its values, or None when that is not known.
    ts
        Seconds since the epoch, one a point.
    """
    kinds = [
        {kind} if kind is not None else set(map(type, column)) for kind, column in zip(types, columns, strict=True)
    ]
    return _assemble(names, columns, kinds, ts)


def batch_from_points(points: Sequence[Mapping[str, Any]]) -> Batch:
    """The batch of ``points``: dicts of any shape, each with its ``_ts``, values as ``point.take_value`` gives them."""
    names = list(points[0]) if points else []
    same = len(names)
    try:
        if any(len(point) != same for point in points):
            raise KeyError
        columns: list[Sequence[Any]] = [list(map(itemgetter(name), points)) for name in names]
    except KeyError:  # not one shape: as many fields as the first, and all of the first's, would be one
        names = list(dict.fromkeys(chain.from_iterable(points)))
        columns = [[point.get(name, _ABSENT) for point in points] for name in names]
    if TS not in names:
        return _assemble(names, columns, [set(map(type, column)) for column in columns], [])
    at = names.index(TS)
    ts = columns.pop(at)
    names.pop(at)
    return _assemble(names, columns, [set(map(type, column)) for column in columns], ts)


def _assemble(
    names: Sequence[str], columns: Sequence[Sequence[Any]], kinds: Sequence[set[type]], ts: Sequence[float]
) -> Batch:
    arrays = [_doubles(ts, None)]
    fields = [TS_FIELD]
    schema: TrackSchema = {}
    nones: dict[str, Sequence[Any]] = {}
    for name, column, kind in zip(names, columns, kinds, strict=True):
        if NoneType in kind:
            nones[name] = column
        if _AbsentType in kind:
            values: Sequence[Any] = [None if value is _ABSENT else value for value in column]
            logical, array = _column(values, kind - {_AbsentType} | {NoneType})
        else:
            logical, array = _column(column, kind)
        schema[name] = logical
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    if nones:
        arrays.append(_none_column(nones, len(ts)))
        fields.append(NONE_FIELD)
    return Batch(schema, pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)))


def _none_column(nones: Mapping[str, Sequence[Any]], count: int) -> pa.Array:
    """For each row the names of the fields that are explicitly None, or null when there is none."""
    rows: list[list[str] | None] = [None] * count
    for name, column in nones.items():
        for row, value in enumerate(column):
            if value is None:
                names = rows[row]
                if names is None:
                    rows[row] = [name]
                else:
                    names.append(name)
    return _build(rows, {list, NoneType}, 0)[1]


def _column(values: Sequence[Any], kinds: set[type]) -> tuple[Logical, pa.Array]:
    """One field's column, None being null."""
    try:
        logical, array = _build(values, kinds, 0)
        if not too_wide(logical):
            return logical, array
    except _Conflict:
        pass
    return "json", _json_texts(values)


def _json_texts(values: Iterable[Any]) -> pa.Array:
    texts = [None if value is None else encode_text(value) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), _strings(texts, _validity(texts) if None in texts else None))


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
            valid = _validity(values)
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


def _validity(values: Sequence[Any]) -> pa.Buffer:
    """The bitmap of the values that are not None."""
    return _bits([value is not None for value in values]).buffers()[1]


def _bits(flags: Sequence[bool]) -> pa.Array:
    wide = pa.Array.from_buffers(pa.uint8(), len(flags), [None, pa.py_buffer(bytes(flags))])
    return wide.cast(pa.bool_())


def _filled(values: Sequence[Any], valid: pa.Buffer | None, blank: Any) -> Sequence[Any]:
    return values if valid is None else [blank if value is None else value for value in values]


def _doubles(values: Sequence[Any], valid: pa.Buffer | None) -> pa.Array:
    packed = struct.pack(f"{len(values)}d", *_filled(values, valid, 0.0))
    return pa.Array.from_buffers(pa.float64(), len(values), [valid, pa.py_buffer(packed)])


def _build_double(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    return "double", _doubles(values, valid)


def _mixed_numbers(values: Sequence[Any], valid: pa.Buffer | None) -> tuple[Logical, pa.Array]:
    ints = [value for value in values if type(value) is int]
    if max(ints) > MAX_EXACT_INT or min(ints) < -MAX_EXACT_INT:
        raise _Conflict
    return "double", _doubles(values, valid)


def _build_int(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    try:
        packed = struct.pack(f"{len(values)}q", *_filled(values, valid, 0))
    except struct.error:
        raise _Conflict from None  # beyond int64
    array = pa.Array.from_buffers(pa.int64(), len(values), [valid, pa.py_buffer(packed)])
    return _int_type(array), array


def _int_type(array: pa.Array | pa.ChunkedArray) -> str:
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
    try:
        offsets = struct.pack(f"{len(lengths) + 1}i", 0, *accumulate(lengths))
    except struct.error:
        raise ValueError("one column of one batch holds over 2 GiB; store fewer or smaller values a point") from None
    buffers = [valid, pa.py_buffer(offsets)]
    if child is not None:
        return pa.Array.from_buffers(kind, len(lengths), buffers, children=[child])
    return pa.Array.from_buffers(kind, len(lengths), [*buffers, data])


def _build_timestamp(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    offsets = {value.utcoffset() for value in values if value is not None}
    logical = timestamp(offsets.pop()) if len(offsets) == 1 else None
    if logical is None:
        raise _Conflict
    zero = _EPOCH if logical == "timestamp" else _EPOCH_UTC
    ticks = [(value - zero) // _MICROSECOND for value in _filled(values, valid, zero)]
    packed = struct.pack(f"{len(ticks)}q", *ticks)
    return logical, pa.Array.from_buffers(to_arrow(logical), len(ticks), [valid, pa.py_buffer(packed)])


def _build_list(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    values = _filled(values, valid, ())
    flat = list(chain.from_iterable(values))
    inner, child = _build(flat, set(map(type, flat)), level + 1)
    logical: Logical = {"list": inner}
    return logical, _from_offsets(to_arrow(logical), list(map(len, values)), valid, None, child)


def _build_struct(values: Sequence[Any], valid: pa.Buffer | None, level: int) -> tuple[Logical, pa.Array]:
    rows = values if valid is None else [value for value in values if value is not None]
    keys = list(rows[0])
    if not 0 < len(keys) <= MAX_LEAVES or any(len(row) != len(keys) for row in rows):
        raise _Conflict
    types: dict[str, Logical] = {}
    children = []
    for key in keys:
        try:
            column = [None if row is None else row[key] for row in values]
        except KeyError:
            raise _Conflict from None
        types[key], child = _build(column, set(map(type, column)), level + 1)
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
    dict: _build_struct,
}


# ---------------------------------------------------------------------------------------------------- widening


def conform(batch: Batch, schema: Mapping[str, Logical]) -> pa.RecordBatch:
    """The batch's data with the columns and types of ``schema``, which must be as wide as its own (``unify``).

    Returns ``_ts``, the fields of ``schema`` in its order, missing ones null, and ``_none`` where the batch has it.
    """
    data = batch.data
    arrays, fields = [data.column(0)], [data.schema.field(0)]
    for name, logical in schema.items():
        if name in batch.schema:
            array = conform_array(data.column(_position(data, name)), batch.schema[name], logical)
        else:
            array = _nulls(data.num_rows, logical)
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    if data.schema.names[-1] == NONE:
        arrays.append(data.column(data.num_columns - 1))
        fields.append(data.schema.field(data.num_columns - 1))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def conform_table(table: pa.Table, old: Mapping[str, Logical], new: Mapping[str, Logical]) -> pa.Table:
    """Like ``conform``, for a table as segments give it: the columns with an underscore stay, before the fields.

    ``table`` may hold only some of the fields of ``old``; a field of ``new`` that it lacks is null, so that a
    projection is made by giving fewer fields in ``new``.
    """
    arrays, fields = [], []
    for at, field in enumerate(table.schema):
        if field.name[:1] == "_":
            arrays.append(table.column(at))
            fields.append(field)
    have = {name: at for at, name in enumerate(table.column_names)}
    for name, logical in new.items():
        kind = to_arrow(logical)
        if name in have and name in old:
            column = table.column(have[name])
            if old[name] != logical:
                chunks = [conform_array(chunk, old[name], logical) for chunk in column.chunks]
                column = pa.chunked_array(chunks, type=kind)
        else:
            column = pa.chunked_array([_nulls(table.num_rows, logical)], type=kind)
        arrays.append(column)
        fields.append(pa.field(name, kind))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def conform_array(array: pa.Array, old: Logical, new: Logical) -> pa.Array:
    """The same values under the type ``new``, which ``unify`` made from ``old`` and others."""
    if old == new or (old == "int" and new == "int64"):
        return array
    if new == "json":
        return _json_texts(_values(array, old))
    if old == "null":
        return _nulls(len(array), new)
    if old == "int" and new == "double":
        return array.cast(pa.float64())
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return _conform_list(array, old, new) if "list" in old else _conform_struct(array, old, new)
    raise ValueError(f"a column of type {old!r} cannot become {new!r}")


def _conform_list(array: pa.Array, old: dict[str, Any], new: dict[str, Any]) -> pa.Array:
    child = conform_array(array.values, old["list"], new["list"])
    valid, offsets = array.buffers()[:2]
    return pa.Array.from_buffers(to_arrow(new), len(array), [valid, offsets], children=[child], offset=array.offset)


def _conform_struct(array: pa.Array, old: dict[str, Any], new: dict[str, Any]) -> pa.Array:
    before, after = old["struct"], new["struct"]
    if before.keys() != after.keys():
        raise ValueError("a struct cannot get other keys")
    children = [conform_array(array.field(key), before[key], after[key]) for key in after]
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(children, fields=list(to_arrow(new)), mask=mask)


def _nulls(count: int, logical: Logical) -> pa.Array:
    if logical == "json":
        return pa.ExtensionArray.from_storage(pa.json_(), pa.nulls(count, pa.string()))
    return pa.nulls(count, to_arrow(logical))


def _position(data: pa.RecordBatch | pa.Table, name: str) -> int:
    return int(data.schema.get_field_index(name))


def combine(batches: Sequence[Batch]) -> Batch:
    """One batch of the points of all, in order; columns united, types widened.

    Raises
    ------
    ValueError
        ``batches`` is empty, or the text of one column passes 2 GiB.
    """
    if not batches:
        raise ValueError("there is no batch to combine")
    if len(batches) == 1:
        return batches[0]
    schema = unify_schemas(*(batch.schema for batch in batches))
    parts = [batch.data if batch.schema == schema else conform(batch, schema) for batch in batches]
    if any(part.schema.names != parts[0].schema.names for part in parts):
        parts = [_with_none(conform(batch, schema)) for batch in batches]
    table = pa.Table.from_batches(parts).combine_chunks()
    return Batch(schema, table.to_batches()[0] if table.num_rows else parts[0])


def _with_none(data: pa.RecordBatch) -> pa.RecordBatch:
    if data.schema.names[-1] == NONE:
        return data
    return data.append_column(NONE_FIELD, pa.nulls(data.num_rows, NONE_FIELD.type))


def plain_json(table: pa.Table) -> pa.Table:
    """The table with its JSON columns as plain strings, as frames show them."""
    for at, field in enumerate(table.schema):
        if isinstance(field.type, pa.JsonType):
            chunks = [chunk.storage for chunk in table.column(at).chunks]
            column = pa.chunked_array(chunks, type=pa.string())
            table = table.set_column(at, pa.field(field.name, pa.string()), column)
    return table


# ------------------------------------------------------------------------------------------------- timestamps


def timestamps(data: Batch | pa.Table | pa.RecordBatch) -> list[float]:
    """The ``_ts`` of each row, in seconds since the epoch."""
    columns = data.data if isinstance(data, Batch) else data
    values: list[float] = columns.column(_position(columns, TS)).to_pylist()
    return values


def ts_bounds(batch: Batch) -> tuple[float, float, bool]:
    """The least and the greatest ``_ts`` of a batch that is not empty, and whether it rises strictly."""
    ts = batch.data.column(0)
    bounds = pc.min_max(ts)
    rises = pc.all(pc.less(ts.slice(0, len(ts) - 1), ts.slice(1))).as_py()
    return bounds["min"].as_py(), bounds["max"].as_py(), rises is not False  # None: there is no pair to compare


# ------------------------------------------------------------------------------------------- columns to points


def to_points(data: pa.Table | pa.RecordBatch, schema: Mapping[str, Logical]) -> list[dict[str, Any]]:
    """Each row as the point it was: the fields that it has, in the order of ``data``, and ``_ts`` last.

    Parameters
    ----------
    data
        ``_ts``, fields, and ``_none`` where there is one; other columns that begin with an underscore are left out.
    schema
        The logical types of its fields.
    """
    names = [name for name in data.schema.names if name in schema]
    at = {name: position for position, name in enumerate(data.schema.names)}
    columns = [data.column(at[name]) for name in names]
    ts = data.column(at[TS])
    if all(is_native(schema[name]) for name in names):
        fields = [*names, TS]
        rows: list[dict[str, Any]] = data.select([at[name] for name in fields]).to_struct_array().to_pylist()
    else:
        lists = [_values(column, schema[name]) for name, column in zip(names, columns, strict=True)]
        fields = [*names, TS]
        rows = [dict(zip(fields, row, strict=True)) for row in zip(*lists, ts.to_pylist(), strict=True)]
    if NONE in at:
        return _with_explicit_none(rows, data.column(at[NONE]).to_pylist())
    if any(column.null_count for column in columns):
        return [{name: value for name, value in row.items() if value is not None} for row in rows]
    return rows


def _with_explicit_none(rows: list[dict[str, Any]], nones: list[list[str] | None]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if value is not None or (names and name in names)}
        for row, names in zip(rows, nones, strict=True)
    ]


def _values(array: pa.Array | pa.ChunkedArray, logical: Logical) -> list[Any]:
    """The Python values of a column, null being None."""
    if isinstance(array, pa.ChunkedArray):
        return list(chain.from_iterable(_values(chunk, logical) for chunk in array.chunks))
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
    flat = _values(array.values.slice(first, (offsets[-1] if offsets else 0) - first), inner)
    lists = [flat[start - first : stop - first] for start, stop in pairwise(offsets)]
    return _masked(array, lists)


def _struct_values(array: pa.Array, types: Mapping[str, Logical]) -> list[Any]:
    columns = [_values(array.field(key), inner) for key, inner in types.items()]
    return _masked(array, [dict(zip(types, row, strict=True)) for row in zip(*columns, strict=True)])


def _masked(array: pa.Array, values: list[Any]) -> list[Any]:
    if not array.null_count:
        return values
    return [value if valid else None for value, valid in zip(values, array.is_valid().to_pylist(), strict=True)]
