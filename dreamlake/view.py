"""A track as its readers hold it: points as dicts, frames and lazy frames, of whatever is stored at the call."""

from __future__ import annotations

from dreamlake.arguments import seconds_of
from dreamlake.engine.forkgate import forks_wait
from dreamlake.engine.process import check_polars  # here, so that it knows of every fork from now on
from dreamlake.errors import TrackNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal, Unpack

    import altair
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from dreamlake.engine.reader import TrackReader
    from dreamlake.engine.snapshot import Snapshot
    from dreamlake.types import PlotOptions, ReadResult, TrackStats

    Errors = Literal["raise", "skip"]


class TrackView:
    """One track of a session, read-only.

    Every read takes a fresh look at the files, so that a track of a live run grows between calls. Reads take no locks
    and never write.

    All reads accept ``errors``: ``"raise"`` (a `CorruptTrackError` for any damage met) or ``"skip"`` (damaged segments
    and lines are logged and left out).

    Points that only the replica holds count here, but a read that needs one of them raises `PointsNotHereError`, unless
    it is of a session with ``remote=``, which fetches them; ``"skip"`` leaves them out.
    """

    def __init__(self, reader: TrackReader) -> None:
        self._reader = reader

    @property
    def name(self) -> str:
        """The name of the track, ``/`` and all."""
        return self._reader.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _repr_html_(self) -> str:
        """The track as a notebook shows it: its fields, the newest values, a line of each."""
        check_polars()
        from dreamlake.pictures.html import track_html

        return track_html(self)

    def _before_read(self) -> None:
        """Called before every read; a track that can write flushes here."""

    def _refuse_missing(self) -> None:
        """Called where nothing of the track is stored: an error, but a session's own track is empty yet."""
        raise TrackNotFoundError(f"no track {self.name!r} at {self._reader.place}")

    def _snapshot(
        self, errors: Errors = "raise", *, described: bool = False, wanted: tuple[int, int | None] = (0, None)
    ) -> Snapshot:
        self._before_read()
        snapshot = self._reader.snapshot(errors=errors, described=described, wanted=wanted)
        if not snapshot.exists:
            self._refuse_missing()
        return snapshot

    @forks_wait
    def __len__(self) -> int:
        """The number of points in the track."""
        return self._snapshot().total

    def __bool__(self) -> bool:
        # Without this an empty track would be false, and ``track or other`` would read files.
        return True

    # ---------------------------------------------------------------------------------------------- points as dicts

    @forks_wait
    def read(self, start_index: int = 0, limit: int | None = 1000, *, errors: Errors = "raise") -> ReadResult:
        """Points by index.

        Parameters
        ----------
        start_index
            The first index wanted; a negative one counts from the end of the track.
        limit
            The most points to give; None for all.
        errors
            ``"raise"``, or ``"skip"`` to read round damage.

        Returns
        -------
        ReadResult
            ``{"data": [{"index", "data"}], "startIndex", "endIndex" (exclusive), "total", "hasMore"}``.

        Raises
        ------
        TypeError, ValueError
            A start or limit that is not a whole number; a negative limit.
        TrackNotFoundError
            A lake has no such track (a session's own track reads as empty).
        CorruptTrackError
            A file of this range is damaged.
        """
        start_index, limit = _whole("start_index", start_index), _limit(limit)
        snapshot = self._snapshot(errors, wanted=(start_index, limit))
        start, stop = _range(start_index, limit, snapshot.total)
        points = snapshot.points(start, stop)
        return {
            "data": [{"index": index, "data": point} for index, point in points],
            "startIndex": start,
            "endIndex": stop,
            "total": snapshot.total,
            "hasMore": stop < snapshot.total,
        }

    @forks_wait
    def read_by_time(
        self,
        start_time: float | None = None,
        end_time: float | None = None,
        limit: int | None = 1000,
        reverse: bool = False,
        *,
        errors: Errors = "raise",
    ) -> ReadResult:
        """Points by time, in the order of ``_ts`` (of the index among equal ones).

        Parameters
        ----------
        start_time, end_time
            Half-open range of ``_ts``, in seconds since the epoch; None for no bound.
        limit
            The most points to give, None for all: the earliest ones, with ``reverse`` the latest.
        reverse
            Latest first.
        errors
            ``"raise"``, or ``"skip"`` to read round damage.

        Returns
        -------
        ReadResult
            As from `read`; ``startIndex`` and ``endIndex`` span the indices of the points given, and ``hasMore`` says
            whether the time range holds more than ``limit``.

        Raises
        ------
        TypeError, ValueError, TrackNotFoundError, CorruptTrackError
            As from `read`.
        """
        from dreamlake.engine.bytime import rows_by_time

        low = seconds_of("start_time", start_time, float("-inf"))
        high = seconds_of("end_time", end_time, float("inf"))
        limit = _limit(limit)
        snapshot = self._snapshot(errors, described=True)
        points, more = rows_by_time(snapshot, low, high, limit, reverse)
        indices = [index for index, _ in points]
        return {
            "data": [{"index": index, "data": point} for index, point in points],
            "startIndex": min(indices, default=0),
            "endIndex": max(indices, default=-1) + 1,
            "total": snapshot.total,
            "hasMore": more,
        }

    # ---------------------------------------------------------------------------------------------- frames

    @forks_wait
    def scan(self, start_index: int = 0, limit: int | None = None, *, errors: Errors = "raise") -> pl.LazyFrame:
        """The track as a lazy frame: ``_index``, ``_ts``, then the fields in the order of their first arrival.

        It is a snapshot, of points and schema, as of this call, also when it is collected later or twice. The range
        given here, ``head``, a projection, and filters on ``_index`` and ``_ts`` reach only the segments that they
        need; every other query is right as well, and reads all. (Of a segment that a later form has replaced, and that
        was deleted after its grace time, the later form is read: the same points, with the fields merged since.)

        Parameters
        ----------
        start_index
            The first index wanted; a negative one counts from the end of the track.
        limit
            The most points to give; None for all.
        errors
            ``"raise"``, or ``"skip"`` to read round damage.

        Raises
        ------
        TypeError, ValueError, TrackNotFoundError
            As from `read`.
        CorruptTrackError
            The hot file or the newest segment is damaged; damage elsewhere raises it from ``collect``.
        RuntimeError
            In a forked child process, where Polars queries would hang.
        """
        check_polars()
        from dreamlake.engine.scan import Part, lazy_frame

        start_index, limit = _whole("start_index", start_index), _limit(limit)
        snapshot = self._snapshot(errors, described=True, wanted=(start_index, limit))
        start, stop = _range(start_index, limit, snapshot.total)
        return lazy_frame([Part(snapshot, start, stop)], snapshot.schema, name=self.name)

    @forks_wait
    def to_polars(self, start_index: int = 0, limit: int | None = None, *, errors: Errors = "raise") -> pl.DataFrame:
        """The track as a Polars frame, with the columns of `scan`.

        JSON columns are strings, and datetimes with an offset are shown in UTC. Parameters and errors as for `scan`.
        """
        check_polars()
        from dreamlake.engine.scan import polars_frame

        return polars_frame(self.to_arrow(start_index, limit, errors=errors))

    @forks_wait
    def to_arrow(self, start_index: int = 0, limit: int | None = None, *, errors: Errors = "raise") -> pa.Table:
        """The track as an Arrow table, with the columns of `scan`; JSON columns are strings.

        Parameters and errors as for `scan`; works in a forked child process too.
        """
        start_index, limit = _whole("start_index", start_index), _limit(limit)
        snapshot = self._snapshot(errors, described=True, wanted=(start_index, limit))
        return snapshot.table(*_range(start_index, limit, snapshot.total))

    @forks_wait
    def to_pandas(
        self,
        start_index: int = 0,
        limit: int | None = None,
        *,
        dtype_backend: Literal["pyarrow"] | None = None,
        errors: Errors = "raise",
    ) -> pd.DataFrame:
        """The track as a pandas frame, with the columns of `scan`.

        Columns of integers or bools in which a value is absent get pandas' nullable types, so that no digit is lost;
        an absent double shows as NaN. In dicts and lists integers stay integers beside an absent one, which is None.
        Works in a forked child process too.

        Parameters
        ----------
        start_index, limit, errors
            As for `scan`.
        dtype_backend
            ``"pyarrow"`` keeps the columns as Arrow's (`pandas.ArrowDtype`): nothing is copied, absent is NA and NaN
            is NaN in all columns, and lists stay lists. By default NumPy's.

        Raises
        ------
        ImportError
            pandas is not installed.
        ValueError
            Another dtype_backend; and as for `scan`.
        """
        if dtype_backend not in (None, "pyarrow"):
            raise ValueError(f'dtype_backend is "pyarrow", or None for NumPy\'s types; got {dtype_backend!r}')
        table = self.to_arrow(start_index, limit, errors=errors)
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas: pip install pandas") from error
        if dtype_backend == "pyarrow":
            frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
            return frame
        return _pandas_frame(table, pd)

    # ---------------------------------------------------------------------------------------------- analysis

    @forks_wait
    def latest(self, by: str | Sequence[str] = "step", *, errors: Errors = "raise") -> pl.LazyFrame:
        """The track with repeats left out: of the points with one value of `by`, the last that was appended.

        A run that was resumed from a checkpoint appends the steps since then once more; this shows the run that
        counts, in the order of `by`. The last point wins as a whole. Nothing is deleted: `scan` has all.

        Parameters
        ----------
        by
            The field that counts, or several. Points without it are all kept, and stand first.
        errors
            As for `scan`.

        Returns
        -------
        polars.LazyFrame
            The columns of `scan`. It is a snapshot as of this call; to collect it reads the whole track.

        Raises
        ------
        ValueError
            The track has no such field.
        """
        import polars as pl
        import polars.selectors as cs

        from dreamlake.analysis.columns import column, named

        frame = self.scan(errors=errors)
        schema = frame.collect_schema()
        names = [by] if isinstance(by, str) else list(dict.fromkeys(by))
        if not names:
            raise ValueError("by names no field; points repeat each other in a field such as step")
        for name in names:
            if name not in schema:
                column(schema, name, f"the track {self.name!r}")
                raise ValueError(f"{name!r} is an element of a list; by names whole fields")
        # A point without a step repeats none: its index is unlike all others.
        alone = pl.when(pl.any_horizontal(named(name).is_null() for name in names)).then(pl.col("_index"))
        return (
            frame.with_columns(alone.alias("_alone"))
            .unique(subset=cs.by_name("_alone", *names), keep="last", maintain_order=True)
            .drop("_alone")
            .sort(*map(named, names), nulls_last=False, maintain_order=True)
        )

    @forks_wait
    def downsample(
        self,
        n: int,
        fields: str | Sequence[str] | None = None,
        x: str = "_index",
        *,
        start_index: int = 0,
        limit: int | None = None,
        errors: Errors = "raise",
    ) -> pl.DataFrame:
        """At most `n` points that draw the same line as all: the same ones every time, extremes kept.

        The range of `x` is cut into equal stretches, and of each stay its first and last point and, for each field,
        those with the lowest and the highest value (the M4 aggregation). All are points of the track; nothing is
        averaged. No other read leaves points out.

        Parameters
        ----------
        n
            The most rows to give: two, and two for each field, times the number of stretches.
        fields
            The numeric fields whose extremes are kept, or one; ``position[0]`` is an element of a field of lists.
            None for all numeric fields.
        x
            What the points are drawn over: ``_index``, ``_ts``, or a field of numbers or times. Points without a
            finite one are left out.
        start_index, limit, errors
            As for `scan`.

        Returns
        -------
        polars.DataFrame
            ``_index``, ``_ts``, `x` and `fields`, in the order of `x`. All rows where there are no more than `n`.

        Raises
        ------
        ValueError
            A field that is not there; an `n` that is too small for the fields.
        TypeError
            A field that holds no numbers; none that does, where `fields` is None.
        """
        check_polars()
        from dreamlake.analysis.thin import thin
        from dreamlake.engine.scan import Part, lazy_frame

        n, start_index, limit = _whole("n", n), _whole("start_index", start_index), _limit(limit)
        snapshot = self._snapshot(errors, described=True, wanted=(start_index, limit))
        start, stop = _range(start_index, limit, snapshot.total)
        frame = lazy_frame([Part(snapshot, start, stop)], snapshot.schema, name=self.name)
        return thin(frame, start, stop, n, fields, x, f"the track {self.name!r}")

    # ---------------------------------------------------------------------------------------------- pictures

    @forks_wait
    def plot(
        self, y: str | Sequence[str] | None = None, x: str | None = None, **options: Unpack[PlotOptions]
    ) -> altair.VConcatChart:
        """Draw the track: a panel a field, which zoom and move together.

        Needs Altair: ``pip install "dreamlake[plot]"``. The chart shows itself in a notebook; ``chart.save(path)``
        writes a page or, with vl-convert-python, a picture.

        Parameters
        ----------
        y
            The field to draw, or several; ``position[0]`` is an element of a field of lists. None for all fields of
            numbers but `x`.
        x
            What they are drawn over: ``_index``, ``_ts`` (a time), ``_elapsed`` (seconds since the first point), or a
            field. None for ``step`` where there is one, or else ``_index``.
        log
            Whether the vertical axis is logarithmic; what is 0 or less leaves a gap then.
        smooth
            Draw an exponential moving average in front, and the values faintly behind: above 0 and below 1, the weight
            of what came before. It is made of all points.
        points
            The most points of a curve, chosen as by `downsample` (extremes are kept); 2000 by default, None for all.
        width, height
            Of each panel, in pixels.
        errors
            As for `scan`.

        Raises
        ------
        ImportError
            Altair is not installed.
        ValueError
            A field that is not there, or nothing that can be drawn.
        """
        check_polars()
        from dreamlake.pictures.chart import plot

        return plot([(self.name, self)], y, x, **options)

    # ---------------------------------------------------------------------------------------------- about the track

    @forks_wait
    def stats(self) -> TrackStats:
        """What is stored of the track: counts, bytes, time bounds, fields, and what metadata.json says.

        ``bufferedDataPoints`` lie in the hot file, ``chunkedDataPoints`` in ``totalChunks`` segments,
        ``lostDataPoints`` were given up by a repair, and keep their indices; ``fields`` gives
        each field's Arrow type (``"json"`` where values have no common one).

        Raises
        ------
        TrackNotFoundError, CorruptTrackError
            As from `read`.
        """
        return self._stats_of(self._snapshot(described=True))

    def _stats_of(self, snapshot: Snapshot) -> TrackStats:
        about = self._reader.metadata()
        low, high = snapshot.ts_bounds
        lost = snapshot.lost
        return {
            "name": self.name,
            "totalDataPoints": snapshot.total,
            "bufferedDataPoints": len(snapshot.hot),
            "chunkedDataPoints": snapshot.total - len(snapshot.hot) - lost,
            "lostDataPoints": lost,
            "totalChunks": len(snapshot.live),
            "chunkSize": about.get("segment_points") or 10_000,
            "bytes": snapshot.bytes,
            "tsMin": low if low <= high else None,
            "tsMax": high if low <= high else None,
            "fields": snapshot.field_types(),
            "description": about.get("description"),
            "tags": about.get("tags") or [],
            "metadata": about.get("metadata") or {},
        }

    @forks_wait
    def files(self) -> list[str]:
        """The segments that count, in order: exactly the Parquet files to give to another tool.

        A plain ``*.parquet`` glob may also catch parts that a later form has replaced and that await their sweep. The
        newest points, which are in no segment yet, are in ``data.jsonl`` beside them.

        Raises
        ------
        TrackNotFoundError, CorruptTrackError
            As from `read`.
        """
        return self._snapshot().segment_paths()


def _whole(what: str, value: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} is a whole number, not {type(value).__name__}")
    return value.__index__()


def _limit(limit: int | None) -> int | None:
    if limit is None:
        return None
    limit = _whole("limit", limit)
    if limit < 0:
        raise ValueError(f"limit is 0 or more, or None for all points; got {limit}")
    return limit


def _range(start_index: int, limit: int | None, total: int) -> tuple[int, int]:
    """The half-open range of indices that a start and a limit mean in a track of `total` points."""
    start = max(0, total + start_index) if start_index < 0 else min(start_index, total)
    return start, total if limit is None else min(total, start + limit)


def _pandas_frame(table: pa.Table, pandas: Any) -> pd.DataFrame:
    import pyarrow as pa

    nullable = {pa.int64(): pandas.Int64Dtype(), pa.bool_(): pandas.BooleanDtype()}
    holed = [name for name in table.column_names if table[name].null_count and table[name].type in nullable]
    full = table
    for name in holed:
        full = full.set_column(full.column_names.index(name), name, pa.nulls(len(table)))
    # In dicts and lists with an absent integer all would become doubles, and lose digits.
    frame = full.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    # to_pandas asks for types by type and not by column: full columns keep NumPy's, the others are made again.
    for name, column in table.select(holed).to_pandas(ignore_metadata=True, types_mapper=nullable.get).items():
        frame[name] = column
    return frame
