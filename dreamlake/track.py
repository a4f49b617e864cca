"""A track that can be written to as well as read."""

from __future__ import annotations

from dreamlake.engine.forkgate import forks_wait
from dreamlake.errors import SessionClosedError, TrackNotFoundError
from dreamlake.format.layout import track_dir
from dreamlake.view import TrackView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Self

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from dreamlake.engine.pending import Pending
    from dreamlake.engine.reader import TrackReader
    from dreamlake.engine.trackwriter import TrackWriter
    from dreamlake.engine.writer import Writer
    from dreamlake.session import Session
    from dreamlake.types import AppendResult, CompactResult


class Track(TrackView):
    """A named, ordered series of points of an open session; made by `Session.track`.

    Thread-safe. Appending never touches disk or network on the caller's thread; a background thread writes what is
    pending every `flush_interval` seconds. Every read flushes first.
    """

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name
        self._made_reader: TrackReader | None = None
        self._made_for: str | None = None

    @property
    def _reader(self) -> TrackReader:  # type: ignore[override]
        # Made at the first read: a training script that only appends does not import what reads.
        place = self._session.root
        if self._made_reader is None or self._made_for != place:
            from dreamlake.engine.reader import TrackReader

            folder = f"{self._session.folder}/{track_dir(self._name)}"
            self._made_reader = TrackReader(self._session.store(), folder, self._name)
            self._made_for = place
        return self._made_reader

    @property
    def name(self) -> str:
        """The name of the track, ``/`` and all."""
        return self._name

    def append(self, /, **fields: Any) -> Self:
        """Take one point, and return the track for chaining.

        Parameters
        ----------
        fields
            None, bool, int, float, str, bytes, datetime, and lists, tuples and dicts of those; NumPy and torch scalars
            and arrays too. A snapshot is taken: changing a list afterwards changes nothing stored.
            ``_ts`` is the point's timestamp in seconds since the epoch; without it the time now, above every earlier
            automatic one. ``_ts=-1`` takes the timestamp of the latest append to the session, on any track. A point
            whose explicit or inherited ``_ts`` equals that of an earlier point of the track merges into it.

        Raises
        ------
        TypeError, ValueError
            A value or a name that cannot be stored; nothing was appended. Trouble with the disk is never raised here
            but by `flush` and `Session.close`.
        SessionClosedError
            The session is closed.
        """
        # Replaced on each track of an open session by what `hotpath.bind` returns.
        session = self._session
        if session.is_closed:
            raise SessionClosedError(
                f"the session {session.name!r} is closed; session.open() opens it again for {self.name!r}"
            )
        session.open()
        session.writer.track(self.name).pending.append(fields)
        return self

    def append_batch(
        self,
        points: (
            Sequence[Mapping[str, Any]]
            | Mapping[str, Sequence[Any]]
            | pl.DataFrame
            | pd.DataFrame
            | pa.Table
            | pa.RecordBatch
        ),
    ) -> AppendResult:
        """Append many points at once, in order and behind all earlier appends; they are flushed when this returns.

        Parameters
        ----------
        points
            A list of dicts, a dict of equally long columns, or a Polars, pandas or Arrow frame. ``_ts`` is handled for
            each row as by `append`; ``_ts=-1`` takes the previous row's. In frames null means absent and
            NaN stays NaN. A snapshot is taken: the same memory may be filled again for the next batch.

        Returns
        -------
        AppendResult
            ``count`` is the number of rows given; ``startIndex`` and ``endIndex`` (exclusive) span the indices of their
            points. Both are None when the disk failed: the points stay pending then, and the next flush tries again. So
            they are where all rows wait for segments that are only on the replica; the range leaves out rows that do.

        Raises
        ------
        TypeError, ValueError
            A row that cannot be stored; nothing of the batch was appended.
        SessionClosedError
            The session is closed.
        """
        self._session.open_if_needed()
        writer = self._session.writer
        return _batch_writer()(writer, writer.track(self._name), points)

    def flush(self) -> Self:
        """Write what is pending of this track; when it returns, that survives a kill of the process.

        Raises
        ------
        OSError
            The disk failed; the points stay pending.
        PointsDroppedError
            Points were dropped because memory and disk were full.
        """
        if self._session.is_open:
            self._session.writer.flush(self._session.writer.track(self._name))
        return self

    @forks_wait
    def compact(self) -> CompactResult:
        """Merge neighbouring segments into wide ones: 10,000 points become 100,000, and these 1,000,000.

        What is pending is flushed first. Reading and appending go on meanwhile, in this process and in others. The
        merged segments stay for a minute, for readers that have found them, and are removed by a later `compact`, open
        or `dreamlake sync`. Segments that are only on the replica stay as they are.

        Returns
        -------
        CompactResult
            ``{"merged", "into", "segments"}``: so many segments became so many wider ones; so many are there now.

        Raises
        ------
        SessionClosedError
            The session is closed.
        OSError
            The disk failed. Nothing is lost: what was merged by then counts.
        CorruptTrackError
            A segment is damaged; it stays as it is.
        """
        self._session.open_if_needed()
        self.flush()
        writer = self._session.writer
        return writer.track(self._name).compact(writer.under_lock)

    def _before_read(self) -> None:
        self.flush()
        if self._session.is_open:
            self._session.writer.settle_before_read(self._name)

    def _refuse_missing(self) -> None:
        # It may get its first point yet; not so where it had some, or where all of the session is gone.
        self._session.check_there()
        if self._session.is_open and self._session.writer.track(self._name).has_written:
            raise TrackNotFoundError(
                f"the track {self._name!r} has points that were flushed, and nothing is at {self._reader.place} any "
                "more: it was removed, or is not mounted"
            )

    def _attach(self, pending: Pending) -> None:
        """Append to these pending points from now on: the session is open."""
        from dreamlake.engine.hotpath import bind

        def install(append: Callable[..., Self]) -> None:
            if "append" in self.__dict__:  # not closed meanwhile
                self.__dict__["append"] = append

        self.__dict__["append"] = bind(self, pending, install)

    def _detach(self) -> None:
        """Take no more points: the session is closed."""
        self.__dict__.pop("append", None)


@forks_wait
def _batch_writer() -> Callable[[Writer, TrackWriter, Any], AppendResult]:
    from dreamlake.engine.batch import append_batch

    return append_batch
