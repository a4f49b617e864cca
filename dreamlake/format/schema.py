"""Points to Arrow and back: columns built in bulk, widened, and read back to exactly the values that were taken.

Null means absent. Where a field was set to None, the ``_none`` column names it for that row.
"""

from __future__ import annotations

from array import array as Packed
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dreamlake.format.columns import (
    NoneType,
    build_column,
    column_values,
    doubles,
    json_texts,
    lists_of_doubles,
    packed,
)
from dreamlake.format.extjson import types_of
from dreamlake.format.logical import Logical, TrackSchema, identical, is_native, to_arrow, unify_schemas

TS = "_ts"
NONE = "_none"
TS_FIELD = pa.field(TS, pa.float64(), nullable=False)
NONE_FIELD = pa.field(NONE, pa.list_(pa.field("element", pa.string())))

_AbsentType = type("_AbsentType", (), {})
_ABSENT: Any = _AbsentType()  # stands in a column of Python values for a field that a point lacks


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


# ------------------------------------------------------------------------------------------- points to columns


def batch_from_columns(
    names: Sequence[str],
    columns: Sequence[Sequence[Any]],
    types: Sequence[type | None],
    ts: Sequence[float],
    floats: Sequence[int] = (),
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
    floats
        For each column how many floats each value is a list of, packed as the bytes of so many doubles; 0 where the
        values are what they are. Empty where none is packed.
    """
    kinds = [{kind} if kind is not None else types_of(column) for kind, column in zip(types, columns, strict=True)]
    return _assemble(names, columns, kinds, ts, floats)


def batch_from_points(points: Sequence[Mapping[str, Any]], texts: Collection[str] = ()) -> Batch:
    """The batch of ``points``: dicts of any shape, each with its ``_ts``, values as ``point.take_value`` gives them.

    The fields ``texts`` become JSON, whatever their values: a number that became a double first would be another text.
    """
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
        return _assemble(names, columns, [types_of(column) for column in columns], [], texts=texts)
    at = names.index(TS)
    ts = columns.pop(at)
    names.pop(at)
    return _assemble(names, columns, [types_of(column) for column in columns], ts, texts=texts)


def _assemble(
    names: Sequence[str],
    columns: Sequence[Sequence[Any]],
    kinds: Sequence[set[type]],
    ts: Sequence[float],
    floats: Sequence[int] = (),
    texts: Collection[str] = (),
) -> Batch:
    arrays = [ts_array(ts)]
    fields = [TS_FIELD]
    schema: TrackSchema = {}
    nones: dict[str, Sequence[Any]] = {}
    for name, column, kind, length in zip(names, columns, kinds, floats or [0] * len(names), strict=True):
        if NoneType in kind:
            nones[name] = column
        if length:
            logical, array = lists_of_doubles(column, length)
        elif name in texts:
            logical, array = "json", json_texts(None if value is _ABSENT else value for value in column)
        elif _AbsentType in kind:
            values: Sequence[Any] = [None if value is _ABSENT else value for value in column]
            logical, array = build_column(values, kind - {_AbsentType} | {NoneType})
        else:
            logical, array = build_column(column, kind)
        schema[name] = logical
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    if nones:
        arrays.append(none_column(nones, len(ts)))
        fields.append(NONE_FIELD)
    return Batch(schema, pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)))


def ts_array(ts: Sequence[float] | pa.Array) -> pa.Array:
    """The ``_ts`` column; an ``array("d")`` or an Arrow array is taken without a copy, and must not change any more."""
    if isinstance(ts, pa.Array):
        return ts
    if isinstance(ts, Packed) and ts.typecode == "d":
        return packed(pa.float64(), len(ts), None, ts)
    return doubles(ts, None)


def none_column(nones: Mapping[str, Sequence[Any]], count: int) -> pa.Array:
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
    return build_column(rows, {list, NoneType})[1]


# ---------------------------------------------------------------------------------------------------- widening


def conform(batch: Batch, schema: Mapping[str, Logical], has_none: bool = False) -> pa.RecordBatch:
    """The batch's data with the columns and types of ``schema``, which must be as wide as its own (``unify``).

    Returns ``_ts``, the fields of ``schema`` in its order, missing ones null, and ``_none`` where the batch has it, or
    with ``has_none`` in any case.
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
    elif has_none:
        arrays.append(pa.nulls(data.num_rows, NONE_FIELD.type))
        fields.append(NONE_FIELD)
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
            if not identical(old[name], logical):
                chunks = [conform_array(chunk, old[name], logical) for chunk in column.chunks]
                column = pa.chunked_array(chunks, type=kind)
        else:
            column = pa.chunked_array([_nulls(table.num_rows, logical)], type=kind)
        arrays.append(column)
        fields.append(pa.field(name, kind))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def conform_array(array: pa.Array, old: Logical, new: Logical) -> pa.Array:
    """The same values under the type ``new``, which ``unify`` made from ``old`` and others."""
    if identical(old, new) or (old == "int" and new == "int64"):
        return array
    if new == "json":
        return json_texts(column_values(array, old))
    if old == "null":
        return _nulls(len(array), new)
    if old == "int" and new == "double":
        return array.cast(pa.float64(), safe=False)  # exact by the type; what lies under null may be anything
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
    parts = [batch.data if identical(batch.schema, schema) else conform(batch, schema) for batch in batches]
    if any(part.schema.names != parts[0].schema.names for part in parts):
        parts = [conform(batch, schema, has_none=True) for batch in batches]
    table = pa.Table.from_batches(parts).combine_chunks()
    return Batch(schema, table.to_batches()[0] if table.num_rows else parts[0])


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


def packed_timestamps(table: pa.Table) -> Packed[float]:
    """The ``_ts`` of each row, at a quarter of the memory that a list of them takes."""
    packed = Packed("d")
    for chunk in table.column(_position(table, TS)).chunks:
        data = chunk.buffers()[1]
        packed.frombytes(memoryview(data)[8 * chunk.offset : 8 * (chunk.offset + len(chunk))])
    return packed


def ts_bounds(batch: Batch) -> tuple[float, float, bool]:
    """The least and the greatest ``_ts`` of a batch that is not empty, and whether it rises strictly."""
    ts = batch.data.column(0)
    rises = pc.all(pc.less(ts.slice(0, len(ts) - 1), ts.slice(1))).as_py() is not False  # None: no pair to compare
    if rises:  # asked first, since the bounds are at its ends then, and `min_max` takes four times as long
        return ts[0].as_py(), ts[len(ts) - 1].as_py(), True
    bounds = pc.min_max(ts)
    return bounds["min"].as_py(), bounds["max"].as_py(), False


# ------------------------------------------------------------------------------------------- columns to points


def to_points(data: pa.Table | pa.RecordBatch, schema: Mapping[str, Logical]) -> list[dict[str, Any]]:
    """Each row as the point it was: the fields that it has, in the order of ``data``, and ``_ts`` last.

    Parameters
    ----------
    data
        ``_ts``, fields, and ``_none`` where there is one; other columns that begin with an underscore are left out.
    schema
        The logical types of its fields.

    Raises
    ------
    ValueError
        A column holds what cannot be a value, which dreamlake does not write: text that is not JSON in a JSON column, a
        datetime outside of the years 1 to 9999.
    """
    names = [name for name in data.schema.names if name in schema]
    at = {name: position for position, name in enumerate(data.schema.names)}
    columns = [data.column(at[name]) for name in names]
    ts = data.column(at[TS])
    if all(is_native(schema[name]) for name in names):
        fields = [*names, TS]
        rows: list[dict[str, Any]] = data.select([at[name] for name in fields]).to_struct_array().to_pylist()
    else:
        lists = [_field_values(name, column, schema[name]) for name, column in zip(names, columns, strict=True)]
        fields = [*names, TS]
        rows = [dict(zip(fields, row, strict=True)) for row in zip(*lists, ts.to_pylist(), strict=True)]
    if NONE in at:
        return _with_explicit_none(rows, data.column(at[NONE]).to_pylist())
    if any(column.null_count for column in columns):
        return [{name: value for name, value in row.items() if value is not None} for row in rows]
    return rows


def _field_values(name: str, column: pa.Array | pa.ChunkedArray, logical: Logical) -> list[Any]:
    try:
        return column_values(column, logical)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"column {name!r} holds what is no value: {error}") from error


def _with_explicit_none(rows: list[dict[str, Any]], nones: list[list[str] | None]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if value is not None or (names and name in names)}
        for row, names in zip(rows, nones, strict=True)
    ]
