"""Rows of one track on their way to disk, in the forms they arrive in: columns, single points, a frame.

Each form gives the same things: the Arrow batch (built once), the JSON lines from a given index on, the points, slices.
"""

import struct
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dreamlake.format.point import SCALARS, types_of, within_doubles

if TYPE_CHECKING:  # pyarrow takes 190 ms to import; a training script appends before it is there
    from dreamlake.format.schema import Batch

#: What an item of a list costs in memory, estimated.
ITEM_BYTES = 64
#: What a point of its own costs beside its values.
_POINT_BYTES = 128
#: A row of any shape: its timestamp, whether that was given (and so may merge), and its fields without ``_ts``.
MixedRow = tuple[float, bool, dict[str, Any]]


class Rows(ABC):
    """New points in the order of their indices, all with automatic or all with rising explicit timestamps.

    `PointRows` is the exception: it says of each point whether its timestamp was explicit.
    """

    __slots__ = ()
    count: int
    explicit: bool

    @property
    @abstractmethod
    def first_ts(self) -> float:
        """The timestamp of the first row."""

    @property
    @abstractmethod
    def max_ts(self) -> float:
        """The highest timestamp of all rows."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that these rows take, estimated."""

    @abstractmethod
    def batch(self) -> "Batch":
        """Return the rows as Arrow, built at the first call."""

    @abstractmethod
    def lines(self, start: int) -> bytes:
        """Return the hot file's lines of these rows, the first of which has the index `start`."""

    @abstractmethod
    def slice(self, start: int, stop: int) -> "Rows":
        """Return the rows from `start` up to, not with, `stop`."""

    @abstractmethod
    def points(self) -> list[dict[str, Any]]:
        """Return the rows as points with their ``_ts``."""

    def mixed(self) -> list[MixedRow]:
        """Return the rows one by one, as a flush looks at them to sort them into new, hot and late ones."""
        rows = []
        for point in self.points():
            ts = point.pop("_ts")
            rows.append((ts, self.explicit, point))
        return rows


class ColumnRows(Rows):
    """Rows of one shape, a sequence of Python values for each field; their lists may be tuples here, or packed floats.

    Floats and integers may come as an ``array``, which must not change any more.

    Parameters
    ----------
    types
        For each field the exact type of all its values, None where there are several, or integers beyond doubles.
    floats
        For each field how many floats each of its lists has where they are *packed*, as the bytes of so many doubles of
        this machine; 0 where the values are what they are. Empty, as given, where none is packed.
    """

    __slots__ = ("_batch", "_ts", "columns", "count", "explicit", "floats", "names", "types")

    def __init__(
        self,
        names: tuple[str, ...],
        columns: Sequence[Sequence[Any]],
        ts: Sequence[float],
        explicit: bool,
        types: Sequence[type | None] | None = None,
        floats: Sequence[int] = (),
    ) -> None:
        self.names = names
        self.columns = columns
        self._ts = ts
        self.explicit = explicit
        self.count = len(ts)
        self.floats: Sequence[int] = floats or (0,) * len(columns)
        if types is None:
            types = [
                tuple if length else plain_type(column) for column, length in zip(columns, self.floats, strict=True)
            ]
        self.types = types
        self._batch: Batch | None = None

    @property
    def first_ts(self) -> float:
        return self._ts[0]

    @property
    def max_ts(self) -> float:
        return self._ts[-1]

    @property
    def nbytes(self) -> int:
        batch = 0 if self._batch is None else int(self._batch.data.nbytes)
        held = sum(map(_held_by_column, self.columns, self.types, self.floats))
        places = sum(8 if isinstance(column, array) else 32 for column in (*self.columns, self._ts))
        return places * self.count + held + batch

    def batch(self) -> "Batch":
        if self._batch is None:
            from dreamlake.format.schema import batch_from_columns

            self._batch = batch_from_columns(self.names, self.columns, self.types, self._ts, self.floats)
        return self._batch

    def lines(self, start: int) -> bytes:
        from dreamlake.format.point import line_encoder

        return line_encoder(self.names).encode(start, self._unpacked(), self.types, self._ts)

    def slice(self, start: int, stop: int) -> "ColumnRows":
        if start == 0 and stop >= self.count:
            return self
        columns = [column[start:stop] for column in self.columns]
        part = ColumnRows(self.names, columns, self._ts[start:stop], self.explicit, self.types, self.floats)
        if self._batch is not None:
            part._batch = self._batch.slice(start, start + part.count)
        return part

    def points(self) -> list[dict[str, Any]]:
        names = (*self.names, "_ts")
        columns = [
            list(map(_as_list, column)) if kind is tuple or kind is None else column
            for column, kind in zip(self._unpacked(), self.types, strict=True)
        ]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, self._ts, strict=True)]

    def _unpacked(self) -> Sequence[Sequence[Any]]:
        return [
            list(struct.iter_unpack(f"{length}d", b"".join(column))) if length else column
            for column, length in zip(self.columns, self.floats, strict=True)
        ]


class PointRows(Rows):
    """Points of any shapes, one dict each."""

    __slots__ = ("_batch", "_points", "count", "explicit", "flags")

    def __init__(self, points: list[dict[str, Any]], flags: list[bool]) -> None:
        self._points = points
        #: For each point whether its timestamp was explicit.
        self.flags = flags
        self.count = len(points)
        self.explicit = True
        self._batch: Batch | None = None

    @property
    def first_ts(self) -> float:
        return self._points[0]["_ts"]  # type: ignore[no-any-return]

    @property
    def max_ts(self) -> float:
        return max(point["_ts"] for point in self._points)  # type: ignore[no-any-return]

    @property
    def nbytes(self) -> int:
        return sum(_POINT_BYTES + 32 * len(point) + sum(map(_held, point.values())) for point in self._points)

    def batch(self) -> "Batch":
        if self._batch is None:
            from dreamlake.format.schema import batch_from_points

            self._batch = batch_from_points(self._points)
        return self._batch

    def lines(self, start: int) -> bytes:
        from dreamlake.format.point import encode_lines

        return encode_lines(enumerate(self._points, start))

    def slice(self, start: int, stop: int) -> "PointRows":
        if start == 0 and stop >= self.count:
            return self
        return PointRows(self._points[start:stop], self.flags[start:stop])

    def points(self) -> list[dict[str, Any]]:
        return [dict(point) for point in self._points]

    def mixed(self) -> list[MixedRow]:
        return [
            (point["_ts"], flag, {name: value for name, value in point.items() if name != "_ts"})
            for point, flag in zip(self._points, self.flags, strict=True)
        ]


class BatchRows(Rows):
    """Rows that arrived as a frame; JSON is made of them only where they stay in the hot file."""

    __slots__ = ("_batch", "count", "explicit")

    def __init__(self, batch: "Batch", explicit: bool) -> None:
        self._batch = batch
        self.explicit = explicit
        self.count = batch.data.num_rows

    @property
    def first_ts(self) -> float:
        return self._batch.data.column("_ts")[0].as_py()  # type: ignore[no-any-return]

    @property
    def max_ts(self) -> float:
        return self._batch.data.column("_ts")[self.count - 1].as_py()  # type: ignore[no-any-return]

    @property
    def nbytes(self) -> int:
        return int(self._batch.data.nbytes)

    def batch(self) -> "Batch":
        return self._batch

    def lines(self, start: int) -> bytes:
        from dreamlake.format.point import encode_lines

        return encode_lines(enumerate(self.points(), start))

    def slice(self, start: int, stop: int) -> "BatchRows":
        if start == 0 and stop >= self.count:
            return self
        return BatchRows(self._batch.slice(start, min(stop, self.count)), self.explicit)

    def points(self) -> list[dict[str, Any]]:
        from dreamlake.format.schema import to_points

        return to_points(self._batch.data, self._batch.schema)


def held_bytes(rows: Sequence[MixedRow]) -> int:
    """Return what the values of these rows take in memory beside a place each, estimated."""
    return sum(_held(value) for _, _, fields in rows for value in fields.values())


def _held(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    return ITEM_BYTES * len(value) if isinstance(value, (list, tuple, dict)) else 0


def _as_list(value: Any) -> Any:
    return list(value) if value.__class__ is tuple else value


def packed_bytes(floats: int) -> int:
    """Return what a packed list of so many floats takes in memory beside a place, estimated."""
    return 40 + 8 * floats


def _held_by_column(column: Sequence[Any], kind: type | None, packed: int) -> int:
    if packed:
        return packed_bytes(packed) * len(column)
    if kind in SCALARS:
        return 0
    if kind is str or kind is bytes:
        return sum(map(len, column))
    if kind is tuple or kind is list:
        return ITEM_BYTES * sum(map(len, column))
    return sum(map(_held, column))


def one_type(column: Sequence[Any]) -> type | None:
    """Return the one exact type of all values of a column, or None when there are several or no values."""
    types = types_of(column)
    return types.pop() if len(types) == 1 else None


def plain_type(column: Sequence[Any]) -> type | None:
    """Return the one exact type of all values of a column; None, too, for integers that are not within doubles."""
    kind = one_type(column)
    return None if kind is int and not within_doubles(column) else kind
