"""Batches of points: checked and copied as a whole, turned into columns, put behind what is pending, flushed."""

from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from dreamlake.clock import TICK, check_doubtful, is_inherited
from dreamlake.engine.forkgate import forks_wait
from dreamlake.engine.pending import Block
from dreamlake.engine.rows import BatchRows, ColumnRows, MixedRow, Rows, one_type, plain_type
from dreamlake.format.point import (
    INT_BYTES,
    MAX_POINT_BYTES,
    SCALAR_BYTES,
    SCALARS,
    check_ts,
    take,
    take_name,
    take_value,
    types_of,
    within_doubles,
)

if TYPE_CHECKING:
    from dreamlake.clock import SessionClock
    from dreamlake.engine.trackwriter import TrackWriter
    from dreamlake.engine.writer import Writer
    from dreamlake.format.frames import Frame
    from dreamlake.types import AppendResult

#: Seconds that `append_batch` waits for its flush before it leaves the points to the background.
PATIENCE = 60.0


def append_batch(writer: "Writer", track: "TrackWriter", points: Any, merge: bool = True) -> "AppendResult":
    """Append a batch to a track and flush it; see `Track.append_batch`.

    Without `merge` each row is a point of its own, as with an automatic timestamp, also where its ``_ts`` is that of
    another: what an importer needs, since other tools give two points one time.
    """
    if hasattr(points, "__next__"):  # out here, where no fork waits: what it gives may come from a forked process
        points = list(points)
    count, block = _add(writer, track, points, merge)
    start, stop = None, None
    if block is not None:
        writer.wake()
        try:
            writer.flush(track, PATIENCE, tell=False)
            if block.result is not None:
                start, stop = block.result
        except OSError as error:
            writer.notices.warn("flush", "a batch of %d points for %r stays pending: %s", count, track.name, error)
    return {"count": count, "startIndex": start, "endIndex": stop}


@forks_wait
def _add(writer: "Writer", track: "TrackWriter", points: Any, merge: bool) -> tuple[int, Block | None]:
    """Put a batch behind what is pending; return how many rows it has, and where they are, if there are any."""
    given = _read(points)
    if not given.count:
        return 0, None
    with writer.lock:
        writer.admit()
        return given.count, given.add_to(track, writer.clock, merge)


def _read(points: Any) -> "_Columns | _Points":
    """Check and copy what was given, in the form that suits it."""
    if isinstance(points, Mapping):
        from dreamlake.format.frames import read_columns

        return _from_frame(read_columns(points))
    if isinstance(points, (list, tuple)):
        return _from_dicts(points)
    from dreamlake.format.frames import is_frame, read_frame

    if is_frame(points):
        return _from_frame(read_frame(points))
    if isinstance(points, (str, bytes)) or not hasattr(points, "__iter__"):
        raise TypeError(
            "append_batch takes a list of dicts, a dict of columns, or a Polars, pandas or Arrow frame, "
            f"not {type(points).__name__}"
        )
    return _from_dicts(list(points))


class _Columns:
    """Rows of one shape whose timestamps are all automatic, or all explicit and rising."""

    def __init__(self, count: int, make: Any, ts: Sequence[float] | None, arrow: bool = False) -> None:
        self.count = count
        self.arrow = arrow
        self.make = make
        self.ts = ts

    def add_to(self, track: "TrackWriter", clock: "SessionClock", merge: bool) -> Block:
        pending = track.pending
        if self.ts is None:
            start, tick = clock.reserve(self.count)
            rows: Rows = self.make(_stamps(start, tick, self.count, self.arrow), False)
            return pending.add(rows, start + (self.count - 1) * tick)
        rows = self.make(self.ts, merge)
        clock.note(self.ts[-1])
        if not merge or self.ts[0] > pending.max_ts:
            return pending.add(rows, self.ts[-1])
        return pending.add(rows.mixed(), self.ts[-1])


class _Points:
    """Rows of any shapes; each says its timestamp, None for an automatic one, or -1 for the one before."""

    def __init__(self, points: list[tuple[Any, dict[str, Any]]], doubtful: Any = None) -> None:
        self.points = points
        self.count = len(points)
        #: The -1.0 of the first row, if that is what it has.
        self.doubtful = doubtful

    def add_to(self, track: "TrackWriter", clock: "SessionClock", merge: bool) -> Block:
        if self.doubtful is not None:
            check_doubtful(self.doubtful, clock.latest)
        rows: list[MixedRow] = []
        for ts, fields in self.points:
            if ts is None:
                rows.append((clock.draw(), False, fields))
            elif ts is INHERITED:
                explicit = clock.latest is not None  # with nothing to inherit it is an automatic one
                rows.append((clock.inherit(), explicit, fields))
            else:
                clock.note(ts)
                rows.append((ts, merge, fields))
        return track.pending.add(rows, max(row[0] for row in rows))


#: Stands for ``_ts=-1``.
INHERITED = object()


def _checked_ts(ts: Any) -> Any:
    """Return None for an automatic timestamp, INHERITED for -1, else the timestamp as a float."""
    if ts is None:
        return None
    return INHERITED if is_inherited(ts) else check_ts(ts)


def _from_dicts(points: Sequence[Any]) -> "_Columns | _Points":
    columns = _columns_of(points)
    if columns is not None:
        return columns
    rows, stamps = [], []
    for number, given in enumerate(points):
        if not isinstance(given, Mapping):
            raise TypeError(f"row {number} of the batch is a {type(given).__name__}, not a dict of fields")
        fields = dict(given)
        try:
            stamps.append(fields.pop("_ts", None))
            rows.append((_checked_ts(stamps[-1]), take(fields)[0]))
        except (TypeError, ValueError) as error:
            raise type(error)(f"row {number} of the batch: {error}") from error
    return _Points(rows, _refuse_doubtful(stamps))


def _refuse_doubtful(stamps: Sequence[Any]) -> Any:
    """Refuse a batch in which -1.0 may be a time; see `check_doubtful`.

    Returns
    -------
    Any
        The -1.0 of a first row, about which only the append before the batch can tell; else None.
    """
    doubtful = {at: ts for at, ts in enumerate(stamps) if is_inherited(ts) and not hasattr(ts, "__index__")}
    lowest = min((float(ts) for ts in stamps if ts is not None and not is_inherited(ts)), default=None)
    if doubtful and lowest is not None:
        check_doubtful(next(iter(doubtful.values())), lowest)
    return doubtful.get(0)


def _columns_of(points: Sequence[Any]) -> _Columns | None:
    """Return the rows as columns where all have the same fields and plain values; None for the general way."""
    if not points or type(points[0]) is not dict:
        return None
    names = tuple(points[0])
    if types_of(points) != {dict} or list(map(len, points)).count(len(names)) != len(points) or not names:
        return None
    try:
        columns = [list(map(itemgetter(name), points)) for name in names]
    except KeyError:
        return None
    ts = None
    if "_ts" in names:
        place = names.index("_ts")
        ts = columns.pop(place)
        names = names[:place] + names[place + 1 :]
        if one_type(ts) is not float or not _is_rising(ts) or -1.0 in ts:
            return None
    largest = 2 + sum(take_name(name)[1] for name in names)  # row, in bytes of JSON, at most
    taken: list[Sequence[Any]] = []
    types: list[type | None] = []
    for name, column in zip(names, columns, strict=True):
        kinds = types_of(column)
        values: Sequence[Any] | None
        if kinds <= SCALARS:
            values, size = column, _most_bytes(column, kinds)
            types.append(kinds.pop() if len(kinds) == 1 else None)
        else:
            values, size = _take_column(name, column)
            types.append(plain_type(values or ()))
        largest += size
        if values is None or largest > MAX_POINT_BYTES:
            return None
        taken.append(values)
    return _Columns(len(points), lambda ts, explicit: ColumnRows(names, taken, ts, explicit, types), ts)


def _most_bytes(column: Sequence[Any], kinds: set[type]) -> int:
    """Return the bytes that a scalar of a column takes at most; too many for any point where that asks for a look."""
    if int not in kinds:
        return SCALAR_BYTES
    integers = column if len(kinds) == 1 else [value for value in column if type(value) is int]
    return INT_BYTES if within_doubles(integers) else MAX_POINT_BYTES


def _take_column(name: str, column: Sequence[Any]) -> tuple[Sequence[Any] | None, int]:
    """Return a snapshot of a column, None when a row is refused, and the size of its largest value in bytes."""
    try:
        taken = [take_value(name, value) for value in column]
    except (TypeError, ValueError):  # the general way says of which row
        return None, 0
    return [value for value, _ in taken], max(size for _, size in taken)


def _stamps(start: float, tick: float, count: int, arrow: bool) -> Any:
    """Return rising timestamps: a list, or an Arrow array, made without a Python float for each."""
    if not arrow:
        exact = (start / TICK).is_integer() and (tick / TICK).is_integer() and 0 <= start < 2.0**31 - count * tick
        if exact:
            # Multiples of a tick below 2**31 are exact: adding up gives what multiplying does, at half the cost.
            return list(accumulate(repeat(tick, count - 1), initial=start))
        return [start + i * tick for i in range(count)]
    import pyarrow as pa
    import pyarrow.compute as pc

    # Scalars out of a buffer, since pa.scalar() imports pandas wherever that is installed.
    first, step = pa.Array.from_buffers(pa.float64(), 2, [None, pa.py_buffer(array("d", [start, tick]))])
    return pc.add(pc.multiply(pc.cast(pa.arange(0, count), pa.float64()), step), first)


def _is_rising(ts: Sequence[float]) -> bool:
    """Whether each timestamp is finite and above the one before."""
    previous = float("-inf")
    for value in ts:
        if not previous < value < float("inf"):
            return False
        previous = value
    return True


def _from_frame(frame: "Frame") -> "_Columns | _Points":
    """Return the rows of a frame: as they are where the timestamps allow it, else one by one."""
    if not frame.count:
        return _Points([])
    if frame.ts is None or _is_column_of_new_points(frame.ts):
        # Rising, so no row lacks its timestamp.
        return _Columns(frame.count, lambda ts, explicit: BatchRows(frame.batch(ts), explicit), frame.ts, arrow=True)  # type: ignore[arg-type]
    from dreamlake.format.schema import to_points

    batch = frame.batch([0.0] * frame.count)
    points = to_points(batch.data, batch.schema)
    for point in points:
        del point["_ts"]
    rows = [(_checked_ts(ts), point) for ts, point in zip(frame.ts, points, strict=True)]
    return _Points(rows, None if frame.whole else _refuse_doubtful(frame.ts))


def _is_column_of_new_points(ts: Sequence[float | None]) -> bool:
    """Whether all rows have a timestamp, none of them inherits, and each is above the one before."""
    if isinstance(ts, list) or -1.0 in ts:
        return False
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pa.Array.from_buffers(pa.float64(), len(ts), [None, pa.py_buffer(ts)])
    return len(ts) == 1 or bool(pc.all(pc.less(column[:-1], column[1:])).as_py())
