"""Points by time: the first ones of a time range, out of the pieces whose bounds can hold them."""

from __future__ import annotations

from math import inf

from dreamlake.engine.piece import joined
from dreamlake.engine.process import side_by_side
from dreamlake.errors import CorruptTrackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from dreamlake.engine.piece import Piece, Rows
    from dreamlake.engine.snapshot import Snapshot


def rows_by_time(snapshot: Snapshot, low: float, high: float, limit: int | None, reverse: bool) -> tuple[Rows, bool]:
    """Up to `limit` points with ``low <= _ts < high``, in the order of ``_ts``, those with equal ``_ts`` by index.

    Parameters
    ----------
    low, high
        Half-open time range, in seconds since the epoch.
    limit
        The most points to give; None for all.
    reverse
        Whether the order is turned round: the latest come first.

    Returns
    -------
    The points, each with its index, and whether the time range holds more.
    """
    most = None if limit is None else limit + 1
    pieces = _overlapping(snapshot, low, high, reverse)
    found: Rows = []
    while pieces:
        lowest, highest = pieces[0][1]
        if most is not None and len(found) == most:
            # Enough, unless the next piece reaches before the last one found. Those behind it reach no further.
            last = found[-1][1]["_ts"]
            if highest < last if reverse else lowest > last:
                break
        # As many at once as may be needed: all of them, or those of a few thousand points.
        count = _enough([len(piece) for piece, _ in pieces], most)
        now = joined(sorted((piece for piece, _ in pieces[:count]), key=lambda piece: piece.start))
        parts = side_by_side(lambda piece: _rows(piece, low, high, most, reverse), now, snapshot.width())
        found = _ordered([*found, *(row for rows in parts for row in rows)], reverse)[:most]
        pieces = pieces[count:]
    return found[:limit], most is not None and len(found) == most


def _enough(lengths: Sequence[int], most: int | None) -> int:
    """How many of these pieces hold at least so many points together; all of them where that is None."""
    total = 0
    for count, length in enumerate(lengths, 1):
        total += length
        if most is not None and total >= most:
            return count
    return len(lengths)


def _overlapping(snapshot: Snapshot, low: float, high: float, reverse: bool) -> list[tuple[Piece, tuple[float, float]]]:
    """The pieces that can hold a point of the time range, and their bounds, in the order in which they begin."""
    pieces = [(piece, piece.bounds.get("_ts", (-inf, inf))) for piece in snapshot.pieces()]
    pieces = [each for each in pieces if _can_hold(each[1], low, high)]
    pieces = [part for piece, bounds in pieces for part in _parts(piece, bounds, low, high)]
    if reverse:
        return sorted(pieces, key=lambda each: each[1][1], reverse=True)
    return sorted(pieces, key=lambda each: each[1][0])


def _can_hold(bounds: tuple[float, float], low: float, high: float) -> bool:
    return bounds[0] < high and bounds[1] >= low


def _parts(
    piece: Piece, bounds: tuple[float, float], low: float, high: float
) -> list[tuple[Piece, tuple[float, float]]]:
    """The row groups of a wide segment that can hold a point of the time range; any other piece as it is.

    Where damage is skipped, it leaves out whole segments: then all of it is read.
    """
    if not piece.is_wide or piece.snapshot.skip:
        return [(piece, bounds)]
    try:
        groups = piece.groups()
    except (FileNotFoundError, CorruptTrackError):  # to read it finds out what has become of it
        return [(piece, bounds)]
    return [(group, within) for group, within in groups if _can_hold(within, low, high)]


def _rows(piece: Piece, low: float, high: float, most: int | None, reverse: bool) -> Rows:
    """The first `most` points of one piece in the time range."""
    if piece.segment is None:
        rows = piece.rows()
        return [rows[pick] for pick in _picks([point["_ts"] for _, point in rows], low, high, most, reverse)]
    from dreamlake.format.schema import timestamps

    found: Rows = []
    for part, table, schema in piece.read():
        picks = _picks(timestamps(table), low, high, most, reverse)
        points = piece.snapshot.points_of(part, _taken(table, picks), schema)
        found += zip([part.start + pick for pick in picks], points, strict=not piece.snapshot.skip)
    return found


def _picks(stamps: Sequence[float], low: float, high: float, most: int | None, reverse: bool) -> list[int]:
    """The places of the first `most` timestamps of the range, in order."""
    picks = [place for place, ts in enumerate(stamps) if low <= ts < high]
    picks.sort(key=stamps.__getitem__)
    if reverse:
        picks.reverse()
    return picks if most is None else picks[:most]


def _ordered(rows: Rows, reverse: bool) -> Rows:
    return sorted(rows, key=lambda row: (row[1]["_ts"], row[0]), reverse=reverse)


def _taken(table: pa.Table, picks: list[int]) -> pa.Table:
    from array import array

    import pyarrow as pa

    if picks == list(range(picks[0], picks[0] + len(picks))) if picks else True:
        return table.slice(picks[0] if picks else 0, len(picks))
    return table.take(pa.Array.from_buffers(pa.int64(), len(picks), [None, pa.py_buffer(array("q", picks))]))
