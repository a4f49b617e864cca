"""The pieces of a snapshot: rows that lie in one segment or in the hot file, and tables of many, read side by side."""

from __future__ import annotations

from itertools import islice, pairwise

from dreamlake.engine.arriving import of_each
from dreamlake.engine.process import side_by_side
from dreamlake.engine.shape import INDEX, TS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    import pyarrow as pa

    from dreamlake.engine.shape import Shape
    from dreamlake.engine.snapshot import Snapshot
    from dreamlake.format.layout import SegmentName
    from dreamlake.format.logical import TrackSchema

    Rows = list[tuple[int, dict[str, Any]]]


class Piece:
    """The rows [start, stop) of a snapshot that lie in one segment, or (``segment`` None) in the hot file."""

    __slots__ = ("segment", "snapshot", "start", "stop")

    def __init__(self, snapshot: Snapshot, segment: SegmentName | None, start: int, stop: int) -> None:
        self.snapshot = snapshot
        self.segment = segment
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"<Piece [{self.start}, {self.stop}) of {self.segment.filename if self.segment else 'the hot file'}>"

    def head(self, count: int) -> Piece:
        """Its first `count` rows at most."""
        return Piece(self.snapshot, self.segment, self.start, min(self.stop, self.start + count))

    @property
    def is_wide(self) -> bool:
        """Whether its segment is so long that it has row groups much shorter than itself."""
        from dreamlake.format.segment import WIDE

        return self.segment is not None and self.segment.stop - self.segment.start >= WIDE

    def split(self, count: int) -> list[Piece]:
        """Some `count` pieces of about one size that share no row group; itself where its segment is not wide.

        Nor is it divided where its segment is not on this machine, and each part would cost a request of its own.
        """
        from dreamlake.format.segment import WIDE_ROW_GROUP

        name = self.segment
        if name is None or not len(self) or not self.is_wide or not self.snapshot.files.is_local:
            return [self]
        groups = -(-len(self) // (WIDE_ROW_GROUP * count)) * WIDE_ROW_GROUP
        first = self.start - (self.start - name.start) % WIDE_ROW_GROUP + groups
        marks = [self.start, *range(first, self.stop, groups), self.stop]
        return [Piece(self.snapshot, name, start, stop) for start, stop in pairwise(marks)]

    def groups(self) -> list[tuple[Piece, tuple[float, float]]]:
        """Its row groups, each as a piece, and the lowest and highest ``_ts`` that it can have.

        Raises
        ------
        FileNotFoundError, CorruptTrackError
            Its segment is gone, or its footer is damaged.
        DreamlakeError
            The run was made anew since.
        """
        assert self.segment is not None
        found, at = [], self.segment.start
        groups = self.snapshot.files.group_bounds(self.segment)
        self.snapshot.check(self.segment)  # or those of another run would say that it holds nothing of what is sought
        for rows, low, high in groups:
            start, stop = max(self.start, at), min(self.stop, at + rows)
            at += rows
            if start < stop:
                found.append((Piece(self.snapshot, self.segment, start, stop), (low, high)))
        return found

    @property
    def is_far(self) -> bool:
        """Whether it is a small segment's, which is best asked for along with others, and is not here yet."""
        return self.segment is not None and self.snapshot.is_far(self.segment)

    def whole(self) -> tuple[str, int, int]:
        """What to ask the store for, to have all of its segment: path, start and stop."""
        assert self.segment is not None
        return self.snapshot.files.whole(self.segment)

    def hold(self, data: bytes) -> None:
        """Keep what came of `whole` for the next read of its segment."""
        assert self.segment is not None
        self.snapshot.files.hold(self.segment, data)

    @property
    def bounds(self) -> dict[str, tuple[Any, Any]]:
        """Lowest and highest ``_index`` and ``_ts`` that its rows can have; ``_ts`` is left out when not known."""
        known: dict[str, tuple[Any, Any]] = {INDEX: (self.start, self.stop - 1)}
        ts = self.snapshot.ts_bounds_of(self.segment)
        if ts is not None:
            known[TS] = ts
        return known

    def table(self, shape: Shape) -> pa.Table:
        """Its rows as a table."""
        return self.snapshot.piece_table(self, shape)

    def rows(self) -> Rows:
        """Its rows as points, each with its index."""
        return self.snapshot.piece_rows(self)

    def read(self) -> list[tuple[Piece, pa.Table, TrackSchema]]:
        """Its rows as they are stored in its segment, with all columns; see `Snapshot.read`."""
        return self.snapshot.read(self, None)


def tables_of(pieces: Sequence[Piece], shape: Shape) -> list[pa.Table]:
    """The rows of pieces as tables, read side by side."""
    if not pieces:
        return []
    snapshot = pieces[0].snapshot
    width = snapshot.width(shape.values_of(pieces))
    if not snapshot.reads(shape):
        return side_by_side(lambda piece: piece.table(shape), pieces, width)
    parts = [piece.split(width) for piece in pieces] if len(pieces) < width and not snapshot.skip else []
    if not any(len(each) > 1 for each in parts):
        return of_each(lambda piece: piece.table(shape), pieces, width)
    tables = iter(of_each(lambda part: part.table(shape), [part for each in parts for part in each], width))
    return [one_table(list(islice(tables, len(each)))) for each in parts]


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces in the order of their indices, with neighbours in one segment as one."""
    found: list[Piece] = []
    for piece in pieces:
        before = found[-1] if found else None
        if before is not None and before.segment == piece.segment and before.stop == piece.start:
            found[-1] = Piece(piece.snapshot, piece.segment, before.start, piece.stop)
        else:
            found.append(piece)
    return found


def one_table(tables: list[pa.Table]) -> pa.Table:
    """Tables one after the other."""
    import pyarrow as pa

    return tables[0] if len(tables) == 1 else pa.concat_tables(tables)
