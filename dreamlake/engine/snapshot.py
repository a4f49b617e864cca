"""What a track held at one moment, piece by piece: points and tables of any range, schema and time bounds."""

from __future__ import annotations

from bisect import bisect_left

from dreamlake.engine.arriving import of_each
from dreamlake.engine.piece import Piece, one_table, tables_of
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.engine.samerun import SameRun
from dreamlake.engine.segments import WHOLE_BYTES
from dreamlake.engine.shape import INDEX, TS, Shape
from dreamlake.errors import CorruptTrackError, DreamlakeError, PointsNotHereError
from dreamlake.format.layout import SegmentName
from dreamlake.format.live import covering, end_of, parse_listing, survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    import pyarrow as pa

    from dreamlake.engine.away import Away
    from dreamlake.engine.hotpart import HotPart
    from dreamlake.engine.piece import Rows
    from dreamlake.engine.segments import Bounds, SegmentFiles
    from dreamlake.format.logical import TrackSchema
    from dreamlake.format.segment import SegmentInfo


#: A segment that vanishes is looked for again this often: in a replacement, and in what replaced that meanwhile.
MAX_RELISTS = 5


class Snapshot:
    """What a track held at one moment; immutable, and good for any number of reads from any thread.

    The points of the hot file are held, the segments are read when they are asked for. One that a later form has
    replaced by then, and a sweep has deleted, is read from its replacement: the same rows, without columns that are
    newer than the snapshot.

    Parameters
    ----------
    files
        The segments of the track.
    live, sizes
        The live segments, in order, and the bytes of those of which they are known.
    hot
        The points of the hot file that no segment holds.
    hot_bytes
        Bytes of the hot file.
    exists
        Whether anything is there: a segment, a hot file, or metadata.
    away
        Those of `live` that were not here, since only the replica holds them, and what is known of each. To read of
        them raises PointsNotHereError, or leaves them out where damage is skipped.
    """

    #: Whether damage is logged and read round, instead of raised; set before the first read.
    skip = False

    def __init__(
        self,
        files: SegmentFiles,
        live: tuple[SegmentName, ...],
        sizes: Mapping[SegmentName, int],
        hot: HotPart,
        *,
        hot_bytes: int = 0,
        exists: bool = True,
        away: Mapping[SegmentName, Away] | None = None,
    ) -> None:
        self.live = live
        self.away = away or {}
        self.hot = hot
        self.exists = exists
        #: Points in the track: one above the highest index.
        self.total = max(end_of(self.live), hot.stop)
        self._found: tuple[TrackSchema, Bounds] | None = None
        self._hot_bytes = hot_bytes
        #: The segments of the track.
        self.files = files
        self._sizes = sizes
        self._run = SameRun(files)

    # ---------------------------------------------------------------------------------------------- what it holds

    def describe(self) -> None:
        """Take schema and time bounds now, while the listed segments are there.

        Raises
        ------
        FileNotFoundError
            A segment has vanished since the listing.
        CorruptTrackError
            A footer is damaged.
        """
        _ = self._described

    def held(self, room: int) -> int:
        """How many bytes `describe` has kept for the next read; they are let go where they are more than `room`."""
        return self.files.held(room)

    @property
    def schema(self) -> TrackSchema:
        """The fields in order of first arrival, with types as wide as all points need."""
        return self._described[0]

    @property
    def ts_bounds(self) -> tuple[float, float]:
        """The lowest and the highest ``_ts``, in seconds; (inf, -inf) when there is no point."""
        bounds = [*self._described[1].values(), self.hot.ts_bounds]
        return min(low for low, _ in bounds), max(high for _, high in bounds)

    def ts_bounds_of(self, segment: SegmentName | None) -> tuple[float, float] | None:
        """The ``_ts`` bounds of one segment, or of the hot points (None); None when they are not known."""
        return self.hot.ts_bounds if segment is None else self._described[1].get(segment)

    @property
    def lost(self) -> int:
        """How many points, of the total, a repair gave up."""
        return sum(name.stop - name.start for name in self._lost)

    @property
    def _lost(self) -> frozenset[SegmentName]:
        return frozenset(name for name, (low, high) in self._described[1].items() if low > high)

    @property
    def lacking(self) -> PointsNotHereError | None:
        """The error that a read of the oldest points which are not here would raise; None where all are here."""
        return self._not_here(next(iter(self.away))) if self.away else None

    def field_types(self) -> dict[str, str]:
        """Each field's Arrow type as text, ``"json"`` for a column of JSON text."""
        from dreamlake.format.logical import to_arrow

        return {name: "json" if kind == "json" else str(to_arrow(kind)) for name, kind in self.schema.items()}

    @property
    def bytes(self) -> int:
        """Bytes of the live segments and the hot file; of segments that are gone by now, none."""
        if not self._sizes:
            return self._hot_bytes + sum(self.files.sizes(self.live))
        known = sum(self._sizes.get(name, 0) for name in self.live)
        return self._hot_bytes + known + sum(self.files.sizes([name for name in self.live if name not in self._sizes]))

    def segment_paths(self) -> list[str]:
        """The live segments' files, fit for other tools.

        Raises
        ------
        PointsNotHereError
            Some are only on the replica.
        """
        if self.lacking is not None:
            raise self.lacking
        return [self.files.place(name) for name in self.live]

    @property
    def _described(self) -> tuple[TrackSchema, Bounds]:
        # No cached_property, which in Python 3.11 lets one thread at a time through, of all snapshots there are.
        if self._found is None:
            self._found = self._describe()
        return self._found

    def _describe(self) -> tuple[TrackSchema, Bounds]:
        from dreamlake.format.logical import unify_schemas

        # Segments are immutable: what was found out of the same ones at an earlier look still holds.
        known = self.files.described
        if known is None or not self.files.describes(self.live):
            known = self.live, *self._describe_segments()
            if len(known[2]) == len(self.live):
                self.files.described = known
        _, schema, bounds = known
        return unify_schemas(schema, self.hot.batch.schema) if self.hot else schema, bounds

    def _describe_segments(self) -> tuple[TrackSchema, Bounds]:
        from dreamlake.format.logical import unify_schemas

        schema: TrackSchema = {}
        bounds: Bounds = {}
        # The newest footer knows all segments before it, but for those that got a later form after it was written.
        for name in reversed(self.live):
            if name in self.away:
                continue
            newest = self._info(name, self.files.newest)
            if newest is not None:
                schema = newest.track_schema
                # Plain tuples, which are equal to names: to make a hundred names takes longer than all the rest.
                said = {bounds[:3]: bounds[3:5] for bounds in newest.before}
                said[name] = (newest.ts_min, newest.ts_max)
                bounds = {name: said[name] for name in self.live if name in said}
                break
        for name, away in self.away.items():
            if name in bounds:
                continue
            if away.schema is None:
                self._skip_or_raise(self._not_here(name))
                continue
            bounds[name] = (away.bounds.ts_min, away.bounds.ts_max)
            schema = unify_schemas(schema, away.schema)
        unknown = [name for name in self.live if name not in bounds and name not in self.away]
        for name, info in zip(unknown, side_by_side(self._info, unknown, self.width()), strict=True):
            if info is not None:
                bounds[name] = (info.ts_min, info.ts_max)
                schema = unify_schemas(schema, info.track_schema)
        return schema, bounds

    def _info(
        self, name: SegmentName, ask: Callable[[SegmentName, int | None], SegmentInfo] | None = None
    ) -> SegmentInfo | None:
        try:
            return (ask or self.files.info)(name, self._sizes.get(name))
        except CorruptTrackError as error:
            self._skip_or_raise(error)
            return None

    # ---------------------------------------------------------------------------------------------- ranges

    def pieces(self, start: int = 0, stop: int | None = None) -> list[Piece]:
        """The pieces that hold the indices [start, stop), in order; `stop` None: to the end.

        Once the snapshot was described, segments of lost points are left out, which have no rows: the length of every
        piece then is that of its rows.
        """
        stop = self.total if stop is None else stop
        lost = self._lost if self._found is not None else frozenset()
        found = [
            Piece(self, name, max(start, name.start), min(stop, name.stop))
            for name in covering(self.live, start, stop)
            if name not in lost
        ]
        below = end_of(self.live)
        if self.hot and stop > below:
            found.append(Piece(self, None, max(start, below), stop))
        return found

    def points(self, start: int, stop: int) -> Rows:
        """The points with indices in [start, stop), each with its index, in order."""
        return [row for rows in of_each(Piece.rows, self.pieces(start, stop), self.width()) for row in rows]

    def table(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The points with indices in [start, stop) as a table.

        Parameters
        ----------
        columns
            Which columns, in which order; None for ``_index``, ``_ts`` and all fields.
        """
        import pyarrow as pa

        shape = Shape([INDEX, TS, *self.schema] if columns is None else columns, self.schema)
        pieces = self.pieces(start, stop)
        parts = tables_of(pieces, shape)
        return pa.concat_tables(parts) if parts else shape.empty()

    def reads(self, shape: Shape) -> bool:
        """Whether segments have to be read for a table of this shape."""
        # Damage that is skipped leaves out whole segments, whatever column it is in: all queries see the same rows.
        return self.skip or bool(shape.stored)

    def width(self, values: int | None = None) -> int:
        """How many pieces are best read side by side, of about so many `values` each."""
        return reading_width(self.files.store, values)

    def is_far(self, name: SegmentName) -> bool:
        """Whether segment `name` is small, best asked for along with others, and not held yet."""
        size = self._sizes.get(name)
        at_once = getattr(self.files.store, "at_once", False)
        return at_once and size is not None and size <= WHOLE_BYTES and not self.files.holds(name)

    # ---------------------------------------------------------------------------------------------- one piece

    def piece_rows(self, piece: Piece) -> Rows:
        """The rows of `piece` as points, each with its index."""
        if piece.segment is None:
            first, last = self._hot_span(piece)
            return list(zip(self.hot.indices[first:last], self.hot.points[first:last], strict=True))
        rows: Rows = []
        for part, table, schema in self.read(piece, None):
            rows += zip(_indices(part, table), self.points_of(part, table, schema), strict=not self.skip)
        return rows

    def points_of(self, part: Piece, table: pa.Table, schema: TrackSchema) -> list[dict[str, Any]]:
        """Rows that `read` gave as points; none of them where one holds what is no value, and damage is skipped."""
        assert part.segment is not None
        try:
            return self.files.points(part.segment, table, schema)
        except CorruptTrackError as error:
            self._skip_or_raise(error)
            return []

    def piece_table(self, piece: Piece, shape: Shape) -> pa.Table:
        """The rows of `piece` as a table."""
        import pyarrow as pa

        if piece.segment is None:
            first, last = self._hot_span(piece)
            batch = self.hot.batch.slice(first, last)
            return shape.of(pa.Table.from_batches([batch.data]), batch.schema, self.hot.indices[first:last])
        if not self.reads(shape):
            return shape.of(None, {}, range(piece.start, piece.stop))
        stored = None if self.skip else shape.stored  # with ``_none``, whose damage leaves the segment out, too
        tables = []
        for part, table, have in self.read(piece, stored):
            wider = shape.fits(have)
            if wider is not None:
                raise DreamlakeError(
                    f"the track {self.files.track!r} got other types in the field {wider!r} since this snapshot was "
                    "taken, and the older form is gone: scan it anew"
                )
            try:
                tables.append(shape.of(table, have, _indices(part, table)))
            except (ValueError, OverflowError) as error:
                assert part.segment is not None
                self._skip_or_raise(self.files.no_value(part.segment, error))
        return one_table(tables or [shape.empty()])

    def _hot_span(self, piece: Piece) -> tuple[int, int]:
        return bisect_left(self.hot.indices, piece.start), bisect_left(self.hot.indices, piece.stop)

    def read(self, piece: Piece, columns: Sequence[str] | None) -> list[tuple[Piece, pa.Table, TrackSchema]]:
        """The rows of a piece of a segment: in one table, or in several when the segment had to be looked for again."""
        todo: list[Piece] = [piece]
        read: list[tuple[Piece, pa.Table, TrackSchema]] = []
        relists = 0
        self._run.check_there()
        while todo:
            part = todo.pop(0)
            assert part.segment is not None
            replaced = part.segment != piece.segment
            wanted = [TS, *(name for name in columns if name != TS)] if replaced and columns is not None else columns
            try:
                size = self._sizes.get(part.segment)
                table, schema = self.files.read(part.segment, size, wanted, part.start, part.stop)
            except FileNotFoundError as error:
                relists += 1
                todo = [*self._replacements(part, relists, error), *todo]
            except CorruptTrackError as error:
                self._skip_or_raise(error)
            else:
                if replaced:
                    self._check_replacement(part, table)
                else:
                    self._run.check_bounds(part.segment, self._said_of(part.segment))
                read.append((part, table, schema))
        return read

    def check(self, name: SegmentName) -> None:
        """Refuse a segment of the snapshot, whose footer was read, where it is one of a run that was made anew since.

        Raises
        ------
        DreamlakeError
            It is.
        """
        self._run.check_there()
        self._run.check_bounds(name, self._said_of(name))

    def _said_of(self, name: SegmentName) -> tuple[float, float] | None:
        """The ``_ts`` bounds of one of the segments, where the snapshot was described."""
        return None if self._found is None else self._found[1].get(name)

    def _check_replacement(self, part: Piece, table: pa.Table) -> None:
        """Refuse a segment that has the place of vanished ones, and these rows of it, where it is another run's."""
        name = part.segment
        assert name is not None
        before = {each: self._said_of(each) for each in covering(self.live, name.start, name.stop)}
        hot = [point["_ts"] for point in self.hot.points[: bisect_left(self.hot.indices, name.stop)]]
        # Where damage is skipped, hot points may be missing.
        self._run.check_form(name, before, hot, is_all=name.stop <= self.total and not self.skip)
        (of,) = covering(self.live, part.start, part.stop)
        self._run.check_rows(name, table, self._said_of(of), is_all=len(part) == of.stop - of.start)

    def _replacements(self, gone: Piece, relists: int, error: FileNotFoundError) -> Iterable[Piece]:
        """Pieces of the segments that now hold the rows of a segment that has vanished."""
        assert gone.segment is not None
        listing = self.files.listing()
        names = {*parse_listing(listing), *self.files.away(listing)}
        live, _ = survey(names)
        there = self.files.listing_there() if gone.segment in live else None
        if there is not None:  # it is away, and another machine has merged it meanwhile
            live, _ = survey(names.union(parse_listing(there)))
            if gone.segment in live:
                place = self.files.place(gone.segment)
                self._skip_or_raise(self.files.not_here([gone.segment], live, gone.segment, place))
                return ()
        now = [
            Piece(self, name, max(gone.start, name.start), min(gone.stop, name.stop))
            for name in covering(live, gone.start, gone.stop)
        ]
        if relists <= MAX_RELISTS and sum(map(len, now)) == len(gone):
            away = [] if there else [name for name in live if name.filename not in listing]
            for piece in now:
                if piece.segment in away:
                    self._skip_or_raise(self.files.not_here(away, live, piece.segment))
            return [piece for piece in now if piece.segment not in away]
        if self._run.is_younger():
            raise self._run.made_anew(gone.segment)
        lost = CorruptTrackError(
            self.files.place(gone.segment), "its place", gone.segment.start, gone.segment.stop, "the file is missing"
        )
        if not self.skip:
            raise lost from error
        self._skip_or_raise(lost)
        return ()

    def _not_here(self, name: SegmentName) -> PointsNotHereError:
        return self.files.not_here(self.away, self.live, name)

    def _skip_or_raise(self, error: CorruptTrackError | PointsNotHereError) -> None:
        if not self.skip:
            raise error
        self.files.tell(error)


def _indices(part: Piece, table: pa.Table) -> range:
    """The index of each row of a table that was read for `part`: none where its points are lost."""
    return range(part.start, part.stop) if table.num_rows else range(0)
