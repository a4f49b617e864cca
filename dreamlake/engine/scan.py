"""The lazy frame over snapshots: a Polars source that reads only the pieces a query can need."""

from __future__ import annotations

import inspect
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from dreamlake.engine.forkgate import forks_wait_for_parts
from dreamlake.engine.piece import joined, tables_of
from dreamlake.engine.process import side_by_side
from dreamlake.engine.prune import conditions, may_match
from dreamlake.engine.shape import INDEX, TS, Shape
from dreamlake.engine.valuecolumn import frame_of
from dreamlake.errors import CorruptTrackError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dreamlake.engine.piece import Piece
    from dreamlake.engine.prune import Test
    from dreamlake.engine.snapshot import Snapshot
    from dreamlake.format.logical import TrackSchema

#: Rows read side by side at a time. The first window is small, so that a query that stops early reads little, and each
#: window so many times as large as the one before, since at its end all threads wait for the last.
FIRST_WINDOW_ROWS = 100_000
WINDOW_GROWTH = 10
MAX_WINDOW_ROWS = 4_000_000
#: Rows that what is the same in all rows of a run is written out for at a time: many and long parameters are not held
#: for all rows of a window by a query that takes them bit by bit.
WRITTEN_OUT_ROWS = 100_000


class Part(NamedTuple):
    """A range of one snapshot, and the texts that are the same in all its rows (which run it is of)."""

    snapshot: Snapshot
    start: int
    stop: int
    labels: tuple[tuple[str, str], ...] = ()


class _Stretch(NamedTuple):
    piece: Piece
    labels: tuple[tuple[str, str], ...]
    #: Which part it is of: the number of its row of constants.
    run: int


def polars_frame(table: pa.Table) -> pl.DataFrame:
    """The table as a Polars frame, its buffers shared where Polars has the same form."""
    # By place first: Polars renames a column without a name, and refuses a table that has the name which it gives.
    frame = pl.from_arrow(table.rename_columns([str(i) for i in range(table.num_columns)]), rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    frame.columns = table.column_names
    return frame


def lazy_frame(
    parts: Sequence[Part],
    schema: TrackSchema,
    *,
    name: str,
    labels: Sequence[str] = (),
    constants: Sequence[pl.Series] = (),
) -> pl.LazyFrame:
    """The rows of `parts`, one after the other, as a lazy frame.

    Parameters
    ----------
    schema
        The fields of the frame, with types as wide as those of every part.
    name
        What the source is called in a query plan.
    labels
        The names of the parts' labels; they are the first columns.
    constants
        The last columns: a value a part, which all its rows have. Their names are none of other columns.
    """
    source = _Source(parts, schema, labels, constants)
    # Options that an older Polars does not have only make plans nicer and repeated scans cheaper.
    options = {"validate_schema": True, "is_pure": True, "explain_name": f"dreamlake {name}"}
    known = inspect.signature(register_io_source).parameters
    options = {option: value for option, value in options.items() if option in known}
    return register_io_source(source, schema=source.schema, **options)  # type: ignore[arg-type]


class _Source:
    """Answers Polars' calls; immutable, and called from any of its threads, any number of times."""

    def __init__(
        self, parts: Sequence[Part], fields: TrackSchema, labels: Sequence[str], constants: Sequence[pl.Series]
    ) -> None:
        self._stretches = [
            _Stretch(piece, part.labels, run)
            for run, part in enumerate(parts)
            for piece in part.snapshot.pieces(part.start, part.stop)
        ]
        self._fields = fields
        # Where damage is skipped, how many rows a stretch has is known only once it was read.
        self._counted = not any(part.snapshot.skip for part in parts)
        said = [dict(part.labels) for part in parts]
        texts = [pl.Series(label, [each[label] for each in said], pl.String) for label in labels]
        #: What is the same in all rows of a part, a row each. To join it in would be left to Polars' streaming engine,
        #: which loses the order of a join where a slice follows and whatever comes behind does not ask for the order.
        self._runs = frame_of([*texts, *constants])
        self._constants = dict(self._runs.schema)
        empty = polars_frame(Shape([INDEX, TS, *fields], fields).empty())
        self.schema: dict[str, pl.DataType] = dict.fromkeys(labels, pl.String()) | dict(empty.schema) | self._constants
        #: The column that has the number of each row's run, as long as a frame is being made.
        self._run = "run"
        while self._run in self.schema:
            self._run += "_"

    def __call__(
        self, with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = list(self.schema) if with_columns is None else with_columns
        tested = [] if predicate is None else predicate.meta.root_names()
        columns = [name for name in self.schema if name in wanted or name in tested]
        left = n_rows
        stretches = self._needed(predicate, n_rows)
        for window in _windows(stretches):
            for rows in self._frames(window, columns):
                frame = rows
                if left is not None and not self._counted:
                    frame = frame.head(left)
                    left -= len(frame)
                if predicate is not None:
                    frame = self._with_constants(frame, tested).filter(predicate)
                # Only now the others, which would have been written out for rows that do not pass.
                frame = self._with_constants(frame, wanted)
                if not wanted:
                    frame = frame.drop(frame.columns)  # where select([]) would lose the number of rows
                elif frame.columns != wanted:
                    frame = frame[wanted]  # by `select` a name such as "*" would be a pattern
                yield frame
        if not stretches:
            yield pl.DataFrame(schema={name: self.schema[name] for name in wanted})

    @forks_wait_for_parts
    def _needed(self, predicate: pl.Expr | None, n_rows: int | None) -> list[_Stretch]:
        # Polars counts n_rows before it filters: head(9).filter(…) comes with both, filter(…).head(9) without n_rows.
        stretches = self._stretches
        if n_rows is not None:
            if not self._counted:
                return stretches
            stretches = list(_first(stretches, n_rows))
        if predicate is not None:
            test = may_match(predicate)
            stretches = [stretch for stretch in self._of_runs(stretches, predicate) if test(_bounds(stretch))]
            if stretches and self._counted and not {INDEX, TS}.isdisjoint(predicate.meta.root_names()):
                width = stretches[0].piece.snapshot.width(0)
                parts = side_by_side(lambda stretch: _narrowed(stretch, test), stretches, width)
                stretches = [part for each in parts for part in each]
        return stretches

    def _of_runs(self, stretches: list[_Stretch], predicate: pl.Expr) -> list[_Stretch]:
        """Those of runs that pass the conditions which look only at what is the same in all rows of a run."""
        if self._constants.keys().isdisjoint(predicate.meta.root_names()):
            return stretches
        roots = [(each, each.meta.root_names()) for each in conditions(predicate)]
        told = [each for each, names in roots if names and self._constants.keys() >= {*names}]
        if not told:
            return stretches
        try:
            passing = {*self._runs.with_row_index(self._run).filter(told)[self._run]}
        except pl.exceptions.PolarsError:  # which the rows raise again, if there are any
            return stretches
        return [stretch for stretch in stretches if stretch.run in passing]

    def _frames(self, window: Sequence[_Stretch], columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The rows of a window with those of `columns` that are read, and what the others are written out from."""
        frame = self._frame(window, columns)
        if self._run in frame.columns and len(frame) > WRITTEN_OUT_ROWS:
            yield from frame.iter_slices(WRITTEN_OUT_ROWS)
        else:
            yield frame

    @forks_wait_for_parts
    def _frame(self, window: Sequence[_Stretch], columns: Sequence[str]) -> pl.DataFrame:
        read = [name for name in columns if name not in self._constants]
        # Where nothing is read the index still says how many rows there are.
        tables = tables_of([stretch.piece for stretch in window], Shape(read or [INDEX], self._fields))
        frame = polars_frame(pa.concat_tables(tables))
        if len(read) == len(columns):
            return frame
        return frame.with_columns(_numbers(window, tables).alias(self._run))

    def _with_constants(self, frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
        """The frame with those of the columns `names` that all rows of a run have in common."""
        missing = [name for name in self._constants if name in names and name not in frame.columns]
        return frame.hstack(self._runs[missing][frame[self._run]]) if missing else frame


def _numbers(window: Sequence[_Stretch], tables: Sequence[pa.Table]) -> pl.Series:
    """The number of the run of each row, in a tenth of the time that Polars' `repeat_by` takes."""
    numbers = array("I")
    for stretch, table in zip(window, tables, strict=True):
        numbers += array("I", [stretch.run]) * table.num_rows
    column = pl.from_arrow(pa.Array.from_buffers(pa.uint32(), len(numbers), [None, pa.py_buffer(numbers)]))
    assert isinstance(column, pl.Series)
    return column


def _bounds(stretch: _Stretch) -> dict[str, tuple[Any, Any]]:
    return stretch.piece.bounds | {name: (text, text) for name, text in stretch.labels}


def _narrowed(stretch: _Stretch, test: Test) -> list[_Stretch]:
    """What of a wide segment may pass a test of bounds, by its row groups; any other stretch as it is."""
    if not stretch.piece.is_wide:
        return [stretch]
    try:
        groups = stretch.piece.groups()
    except (FileNotFoundError, CorruptTrackError):  # to read it finds out what has become of it
        return [stretch]
    labels = {name: (text, text) for name, text in stretch.labels}
    kept = [group for group, within in groups if test(group.bounds | {TS: within} | labels)]
    if len(kept) == len(groups):
        return [stretch]
    return [stretch._replace(piece=piece) for piece in joined(kept)]


def _first(stretches: Sequence[_Stretch], count: int) -> Iterator[_Stretch]:
    """The stretches, cut off after `count` rows."""
    for stretch in stretches:
        if count <= 0:
            return
        yield stretch._replace(piece=stretch.piece.head(count))
        count -= len(stretch.piece)


def _windows(stretches: Sequence[_Stretch]) -> Iterator[list[_Stretch]]:
    """The stretches in windows that grow."""
    window: list[_Stretch] = []
    rows, room = 0, FIRST_WINDOW_ROWS
    for stretch in stretches:
        window.append(stretch)
        rows += len(stretch.piece)
        if rows >= room:
            yield window
            window, rows, room = [], 0, min(WINDOW_GROWTH * room, MAX_WINDOW_ROWS)
    if window:
        yield window
