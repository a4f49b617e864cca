"""Frames and dicts of columns of other libraries, as ``append_batch`` gets them, turned into columns of a track.

In a frame null means absent and NaN is NaN, in pandas too, whose own conversion would make it null. A dict of Python
lists is no frame: None in it is an explicit None. Nothing here imports NumPy, pandas or Polars: who brings a frame of
theirs has imported them.
"""

from __future__ import annotations

import sys
from array import array as Packed
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from dreamlake.format.adopt import adopt, has_numbers
from dreamlake.format.columns import build_column, packed, validity
from dreamlake.format.layout import check_field
from dreamlake.format.logical import Logical, TrackSchema
from dreamlake.format.point import MAX_POINT_BYTES, SCALARS, check_ts, encode_text, take_value
from dreamlake.format.schema import NONE_FIELD, TS, TS_FIELD, Batch, none_column, to_points, ts_array

_NO_COLUMNS = (str, bytes, bytearray, memoryview, set, frozenset, Mapping)

Timestamps: TypeAlias = "Packed[float] | list[float | None] | None"


_NUMBER_BYTES = 80  # bounds the JSON of a number, a bool, a datetime


@dataclass(frozen=True)
class Frame:
    """The rows of a frame as columns that can be stored.

    Parameters
    ----------
    ts
        The timestamps given, seconds since the epoch: None when there is no ``_ts`` column, a list when some rows lack
        one (None), else an array of doubles. All are finite.
    schema
        The logical type of each field.
    data
        The fields in the frame's order, then ``_none`` only if some field is an explicit None.
    count
        The number of rows.
    whole
        Whether a timestamp of -1 was given as an integer, which a column of integers does.
    """

    ts: Timestamps
    schema: TrackSchema
    data: pa.RecordBatch
    count: int
    whole: bool = True

    def __len__(self) -> int:
        return self.count

    def batch(self, ts: Sequence[float] | pa.Array) -> Batch:
        """The rows as a batch, with these timestamps, one a row."""
        fields = pa.schema([TS_FIELD, *self.data.schema])
        return Batch(self.schema, pa.RecordBatch.from_arrays([ts_array(ts), *self.data.columns], schema=fields))


# -------------------------------------------------------------------------------------------------------- read


def is_frame(obj: Any) -> bool:
    """Whether ``read_frame`` knows this type: frames of Polars and pandas, tables and record batches of PyArrow."""
    known = isinstance(obj, (pa.Table, pa.RecordBatch))
    return known or _is(obj, "polars", "DataFrame") or _is(obj, "pandas", "DataFrame")


def read_frame(obj: Any) -> Frame:
    """The rows of a ``pl.DataFrame``, a ``pandas.DataFrame``, a ``pa.Table`` or a ``pa.RecordBatch``.

    Column types are kept where a point can hold them and widened without loss otherwise: small integers to int64,
    float32 to double, timestamps to microseconds when exact. A pandas index is left out.

    Raises
    ------
    TypeError
        ``obj`` is no such frame, a column name is no string, or a column has a type that no point can hold.
    ValueError
        A column name is reserved or there twice, ``_ts`` is not finite, or a value cannot be stored exactly.
    """
    if _is(obj, "polars", "LazyFrame"):
        raise TypeError("a LazyFrame has no rows yet: give lazy_frame.collect()")
    if not is_frame(obj):
        raise TypeError(f"expected a frame of Polars, pandas or PyArrow, not {type(obj).__name__}")
    if isinstance(obj, (pa.Table, pa.RecordBatch)):
        names, columns = obj.schema.names, list(obj.columns)
    elif _is(obj, "polars", "DataFrame"):
        names, columns = obj.columns, obj.get_columns()
    else:
        names, columns = list(obj.columns), [obj.iloc[:, at] for at in range(obj.shape[1])]
    for name in names:
        check_field(name)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"a column name is there twice: {', '.join(map(repr, twice))}")
    return _frame(dict(zip(names, columns, strict=True)), len(obj))


def read_columns(columns: Mapping[str, Any]) -> Frame:
    """The rows of a dict of equally long columns: lists, tuples, arrays of NumPy or torch, series, Arrow arrays.

    Raises
    ------
    TypeError
        A column is not a sequence, or a value cannot be stored.
    ValueError
        The lengths differ, or as for ``read_frame``.
    """
    lengths = {}
    for name, column in columns.items():
        check_field(name)
        if isinstance(column, (str, bytes, bytearray, memoryview, set, frozenset, Mapping)) or not hasattr(
            column, "__len__"
        ):
            raise TypeError(
                f"column {name!r} is a {type(column).__name__}; expected a list or an array, one value a row"
            )
        try:
            lengths[name] = len(column)
        except TypeError:
            raise TypeError(f"column {name!r} is a single value; expected one value a row") from None
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise ValueError(f"the columns differ in length: {said}")
    return _frame(columns, next(iter(lengths.values()), 0))


def _is(obj: Any, library: str, name: str) -> bool:
    """Whether ``obj`` is of this type of a library; none is imported for the question."""
    kind = getattr(sys.modules.get(library), name, None)
    return kind is not None and isinstance(obj, kind)


def _frame(columns: Mapping[str, Any], count: int) -> Frame:
    schema: TrackSchema = {}
    arrays, fields = [], []
    nones: dict[str, Sequence[Any]] = {}
    ts: Timestamps = None
    whole = True
    for name, column in columns.items():
        if name == TS:
            ts, whole = _timestamps(column)
            continue
        schema[name], data, explicit = _column(name, column)
        arrays.append(data)
        fields.append(pa.field(name, data.type))
        if explicit is not None:
            nones[name] = explicit
    if nones:
        arrays.append(none_column(nones, count))
        fields.append(NONE_FIELD)
    frame = Frame(ts, schema, pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)), count, whole)
    _check_sizes(frame)
    return frame


def _column(name: str, column: Any) -> tuple[Logical, pa.Array, Sequence[Any] | None]:
    """The type and the column, and the values themselves where some are an explicit None."""
    if isinstance(column, (pa.Array, pa.ChunkedArray)):
        return *adopt(name, column), None
    if _is(column, "polars", "Series"):
        return *_from_polars(name, column), None
    if _is(column, "pandas", "Series") or _is(column, "pandas", "Index"):
        return *_from_pandas(name, column), None
    if _is(column, "numpy", "ndarray") and column.dtype.kind != "O":
        return *_from_numpy(name, column), None
    values = _taken(name, column.tolist() if hasattr(column, "tolist") else column)  # a tensor, an array.array
    return *build_column(values), values if any(value is None for value in values) else None


def _taken(name: str, column: Any) -> list[Any]:
    """The values of a column as a point takes them."""
    values = list(column)
    if SCALARS.issuperset(map(type, values)):
        return values
    return [take_value(name, value)[0] for value in values]


# --------------------------------------------------------------------------------------------------- libraries


def _from_polars(name: str, column: Any) -> tuple[Logical, pa.Array]:
    leaves = set(map(str, _leaves(column.dtype)))
    if not leaves.isdisjoint(("Object", "Int128", "UInt128")):  # no Arrow form that PyArrow reads
        if any("'ns'" in leaf for leaf in leaves):
            raise TypeError(f"column {name!r} has the type {column.dtype}; cast its times to microseconds")
        return build_column(_taken(name, column.to_list()))
    return adopt(name, column.alias("").to_arrow())  # Polars panics on the way when there is a NUL in the name


def _leaves(dtype: Any) -> list[Any]:
    """The types within a type of Polars that are no list, array or struct."""
    inner = [field.dtype for field in getattr(dtype, "fields", ())] or [getattr(dtype, "inner", None)]
    return [dtype] if inner == [None] else [leaf for each in inner for leaf in _leaves(each)]


def _from_pandas(name: str, column: Any) -> tuple[Logical, pa.Array]:
    dtype = column.dtype
    if type(dtype).__name__ == "SparseDtype":
        column = sys.modules["pandas"].Series(column.array.to_dense())
        dtype = column.dtype
    if not _is(dtype, "numpy", "dtype"):
        try:
            data = pa.array(column.array)  # pandas' own types know their Arrow form
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):  # several types, an odd offset
            pairs = zip(column.tolist(), column.isna().tolist(), strict=True)
            return build_column(_taken(name, [None if missing else value for value, missing in pairs]))
        return adopt(name, data)
    if dtype.kind == "O":
        return build_column(_taken(name, _without_missing(column.tolist())))
    return _from_numpy(name, column.to_numpy())


def _without_missing(values: list[Any]) -> list[Any]:
    """Values of an object column with None for what is missing.

    pandas writes NaN where a string is missing. Among numbers a NaN is taken for one.
    """
    pandas = sys.modules["pandas"]
    values = [None if value is pandas.NA or value is pandas.NaT else value for value in values]
    nan = [isinstance(value, float) and value != value for value in values]
    if not any(nan):
        return values
    others = [value for value, is_nan in zip(values, nan, strict=True) if not is_nan and value is not None]
    if not others or any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in others):
        return values
    return [None if is_nan else value for value, is_nan in zip(values, nan, strict=True)]


def _from_numpy(name: str, column: Any) -> tuple[Logical, pa.Array]:
    """Numbers, bools and datetimes in bulk, always as a copy; any others value by value."""
    kind, size, count = column.dtype.kind, column.dtype.itemsize, len(column)
    if hasattr(column, "mask"):
        return build_column(_taken(name, column.tolist()))
    if column.ndim != 1:
        return build_column([take_value(name, row)[0] for row in column])
    if kind == "f" and size <= 8:
        return "double", packed(pa.float64(), count, None, column.astype("=f8"))
    if kind == "i" or (kind == "u" and size < 8):
        return adopt(name, packed(pa.int64(), count, None, column.astype("=i8")), owned=True)
    if kind == "b":
        return "bool", packed(pa.uint8(), count, None, column.astype("=u1")).cast(pa.bool_())
    if kind == "M":
        return _from_datetime64(name, column)
    return build_column([take_value(name, value)[0] for value in column])


def _from_datetime64(name: str, column: Any) -> tuple[Logical, pa.Array]:
    """Datetimes to the microsecond, NaT being absent."""
    there = column == column
    ticks = column.astype("M8[us]")
    if (ticks.astype(column.dtype) != column)[there].any():  # finer, or so far away that the way there wrapped round
        raise ValueError(f"column {name!r}: {column.dtype} loses digits as microseconds; round it to datetime64[us]")
    valid = None if there.all() else validity([True if value else None for value in there.tolist()])
    return adopt(name, packed(pa.timestamp("us"), len(column), valid, ticks.astype("=i8")), owned=True)


# -------------------------------------------------------------------------------------------------- timestamps


def _timestamps(column: Any) -> tuple[Timestamps, bool]:
    """The ``_ts`` column, None when no row has one; and whether -1 is an integer in it."""
    if isinstance(column, (list, tuple)):
        given = [None if value is None else check_ts(value) for value in column]
        whole = all(hasattr(value, "__index__") for value, ts in zip(column, given, strict=True) if ts == -1)
    else:
        logical, data, _ = _column(TS, column)
        if not has_numbers(logical):
            raise TypeError(f"column '_ts' holds {logical}; expected numbers: seconds since the epoch")
        whole = pa.types.is_integer(data.type)
        data = data.cast(pa.float64(), safe=False)
        if not pc.all(pc.is_finite(data.drop_null())).as_py() and data.null_count < len(data):
            raise ValueError("column '_ts' holds NaN or an infinity; a timestamp is a finite number of seconds")
        if len(data) and not data.null_count:
            ticks = Packed("d")
            ticks.frombytes(memoryview(data.buffers()[1])[data.offset * 8 : (data.offset + len(data)) * 8])
            return ticks, whole
        given = data.to_pylist()
    present = [value for value in given if value is not None]
    if present and len(present) == len(given):
        return Packed("d", present), whole
    return given if present else None, whole


# ------------------------------------------------------------------------------------------------------- sizes


def _check_sizes(frame: Frame) -> None:
    """Refuse a row of over 1 MB, as a point of it would be; only rows that could be are looked at."""
    if frame.data.nbytes <= MAX_POINT_BYTES // 8:
        return
    if sum(map(_row_bound, frame.data.columns)) + 40 * (len(frame.schema) + 1) <= MAX_POINT_BYTES:
        return
    names = sum(6 * len(name.encode()) + 4 for name in frame.schema)
    batch = frame.batch([0.0] * frame.count)
    for row in range(frame.count):
        one = batch.slice(row, row + 1)
        if names + 6 * one.data.nbytes > MAX_POINT_BYTES // 8:
            (point,) = to_points(one.data, one.schema)
            if len(encode_text(point).encode()) > MAX_POINT_BYTES:
                raise ValueError(f"row {row} takes over 1 MB as JSON; store large values with session.files()")


def _row_bound(column: pa.Array) -> int:
    """At most how many bytes of JSON one row of a column takes."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _row_bound(column.storage)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return 64 + 6 * (pc.max(pc.binary_length(column)).as_py() or 0)
    if pa.types.is_list(kind):
        return 2 + (pc.max(pc.list_value_length(column)).as_py() or 0) * (1 + _row_bound(column.values))
    if pa.types.is_struct(kind):
        return 2 + sum(
            6 * len(kind.field(at).name.encode()) + 6 + _row_bound(column.field(at)) for at in range(kind.num_fields)
        )
    return _NUMBER_BYTES
