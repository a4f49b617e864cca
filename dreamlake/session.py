"""A session: one experiment run, its tracks, parameters and log, opened for writing on a local folder."""

from __future__ import annotations

import errno
import os
from threading import RLock

from dreamlake.arguments import LONGEST_WAIT, description_of, local_folder, options_of, remote_of
from dreamlake.engine.ending import Ending
from dreamlake.engine.forkgate import forks_wait
from dreamlake.engine.lifecycle import ending_of, give_temporary_back, open_writer, release_writer, take_temporary
from dreamlake.errors import PointsDroppedError, SessionClosedError, SessionNotFoundError, TrackNotFoundError
from dreamlake.format import layout
from dreamlake.track import Track
from dreamlake.tracks import Tracks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Literal, Self, Unpack

    import altair
    import polars as pl

    from dreamlake.analysis.align import How, Tolerance
    from dreamlake.engine.writer import Writer
    from dreamlake.files import Files
    from dreamlake.logs import Level
    from dreamlake.parameters import Parameters
    from dreamlake.storage.store import Store
    from dreamlake.types import PlotOptions

RESUME = ("allow", "never", "must")


class Session:
    """One experiment run, in the folder ``<local_path>/<workspace>/<name>``.

    A context manager; without `with`, `open` and `close` do the same, a first append opens, and what is pending at
    interpreter exit is flushed. Opening a session that exists resumes it. Thread-safe; several sessions, in one
    process or several, may write to one folder.

    Parameters
    ----------
    name, workspace
        Name the run. Any text that is not empty; what is not fit for a folder's name is escaped.
    local_path
        The folder that holds all workspaces, on this machine. None, which needs `remote`, writes to a temporary folder:
        what was uploaded is dropped there as the run goes on, and after `close` it is gone, unless something could
        not be uploaded.
    remote
        The URL under which a replica is kept, on any filesystem that fsspec knows: ``s3://bucket/prefix`` holds the
        same workspaces as `local_path`. Every point is safe locally first; a background thread uploads what is new. A
        session that is not on this machine, or older, goes on where the replica ends.
    storage_options
        Options of the replica's filesystem, as fsspec takes them. Without, S3 finds endpoint and credentials in the
        usual places: environment, profiles, the role of the machine.
    description, tags, folder, metadata
        Kept in session.json; given again, a later description, tags or folder replaces the earlier one, and metadata is
        merged by key.
    resume
        ``"allow"`` resumes a session that exists, ``"never"`` raises SessionExistsError, ``"must"`` raises
        SessionNotFoundError when there is none.
    flush_interval
        Seconds between flushes in the background. A process that is killed loses at most what came after the last one.
    sync_interval
        Seconds between uploads of what is new; more where these take long. Whole segments are uploaded at once.
    segment_points
        Points of a track before they are rolled into a Parquet segment.
    max_pending_bytes
        Memory for points that a dead disk does not take; more points are dropped and counted.
    fsync
        Whether a flush survives power loss too, and not only the death of the process.
    single_writer
        Take no locks, for filesystems without them. The caller promises that nothing else writes to the session.

    Raises
    ------
    ValueError, TypeError
        A name that cannot be stored, a URL as `local_path`, an option out of its range.
    """

    @forks_wait
    def __init__(
        self,
        name: str,
        workspace: str,
        local_path: str | os.PathLike[str] | None = ".dreamlake",
        *,
        remote: str | None = None,
        storage_options: dict[str, Any] | None = None,
        description: str | None = None,
        tags: list[str] | None = None,
        folder: str | None = None,
        metadata: dict[str, Any] | None = None,
        resume: Literal["allow", "never", "must"] = "allow",
        flush_interval: float = 1.0,
        sync_interval: float = 10.0,
        segment_points: int = 10_000,
        max_pending_bytes: int = 256 << 20,
        fsync: bool = False,
        single_writer: bool = False,
    ) -> None:
        self.name = layout.check_name("session", name)
        self.workspace = layout.check_name("workspace", workspace)
        self._remote = remote_of(remote, storage_options, sync_interval)
        if local_path is None and self._remote is None:
            raise ValueError("local_path=None keeps nothing on this machine, so it needs remote=, where all goes to")
        self._is_temporary = local_path is None
        #: The folder of the workspaces; None while there is no temporary one.
        self._root = None if local_path is None else local_folder(local_path)
        if resume not in RESUME:
            raise ValueError(f"resume is one of {', '.join(RESUME)}, not {resume!r}")
        self._resume = resume
        self._described, _ = description_of(description, tags, folder, metadata)
        self._options = options_of(
            flush_interval, segment_points, max_pending_bytes, fsync, single_writer, self._remote
        )
        self._tracks: dict[str, Track] = {}
        self._lock = RLock()
        self._writer: Writer | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed" if self._closed else "not open"
        where = self._root or "a temporary folder"
        return f"<Session {self.workspace}/{self.name} in {where} ({state})>"

    def _repr_html_(self) -> str:
        """The session as a notebook shows it: parameters, tracks, and lines of these."""
        from dreamlake.engine.process import check_polars

        check_polars()
        from dreamlake.pictures.html import session_html

        state = "open" if self.is_open else "closed" if self._closed else "not open"
        return session_html(self, self.store(), lambda: state)

    # -- opening and closing ---------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The session's folder.

        Raises
        ------
        SessionClosedError
            ``local_path=None``: the temporary folder is there while the session is open.
        """
        if self._root is None:
            raise SessionClosedError(f"the temporary folder of {self.name!r} is there while the session is open only")
        return os.path.join(self._root, *layout.session_dir(self.workspace, self.name).split("/"))

    @property
    def root(self) -> str | None:
        """The local folder of the workspaces; None where there is none now, and the replica is read."""
        return self._root

    @property
    def is_open(self) -> bool:
        """Whether points can be appended now."""
        return self._writer is not None

    @property
    def is_closed(self) -> bool:
        """Whether the session was closed and not opened again."""
        return self._closed

    @property
    def writer(self) -> Writer:
        """The writer behind an open session; for the library's own use."""
        writer = self._writer
        if writer is None:
            raise SessionClosedError(f"the session {self.name!r} is not open")
        return writer

    @forks_wait
    def open(self) -> Self:
        """Make or resume the session, and return it. Does nothing when it is open.

        Raises
        ------
        SessionExistsError, SessionNotFoundError
            As `resume` asks.
        ValueError
            The folder is open in this process with other options, or belongs to another name on this disk; or
            session.json would take more than 64 MiB with this metadata.
        OSError
            The folder cannot be written. `LocksUnsupportedError` when its filesystem has no locks. The replica does
            not answer, and nothing of the session is on this machine.
        RemoteConflictError
            The replica and the local folder both hold points that the other lacks.
        """
        with self._lock:
            if self._writer is None:
                resume = "allow" if self._closed else self._resume
                if self._remote is not None and self._root is None:
                    self._root = take_temporary(self._remote, self.folder)
                try:
                    writer = open_writer(self.path, self.workspace, self.name, self._options, resume, self._described)
                except BaseException:
                    self._leave_temporary(empty=True)
                    raise
                if writer.replica is not None:
                    writer.replica.trims = self._is_temporary
                    if self._is_temporary:
                        writer.replica.reserve.keep()
                self._attach(writer)
        return self

    def _leave_temporary(self, empty: bool) -> None:
        """Give the temporary folder back, if there is one; it is removed when nothing in it is needed any more."""
        if self._is_temporary and self._root is not None:
            give_temporary_back(self._root, empty)
            self._root = None

    def _attach(self, writer: Writer) -> None:
        self._writer = writer
        self._closed = False
        for track in self._tracks.values():
            track._attach(writer.track(track.name).pending)

    def check_there(self) -> None:
        """Raise SessionNotFoundError where the session is open and its folder is gone; for the library's own use.

        Else what was flushed would read as empty once somebody removed it, or a disk is not mounted any more.
        """
        if self.is_open and self._root is not None and not os.path.isdir(self.path):
            raise SessionNotFoundError(
                errno.ENOENT, "the folder of this open session was removed, or is not mounted any more", self.path
            )

    def open_if_needed(self) -> None:
        """Open a session that was never opened, as a first append does; a closed one raises SessionClosedError."""
        if self._closed:
            raise SessionClosedError(f"the session {self.name!r} is closed; open it again: session.open()")
        self.open()

    def close(self, timeout: float | None = None) -> None:
        """Flush everything and end the run with the status "finished". Does nothing when it is not open.

        A session with a replica then uploads what is left, with a progress bar on a terminal when that lasts.

        Parameters
        ----------
        timeout
            Seconds to wait for a slow disk, None for as long as it takes; and for the upload, None for 30.

        Raises
        ------
        OSError
            The disk failed or took too long. The session stays open then, and what is pending is not given up: `close`
            can be called again, and the exit of the interpreter tries once more; the error, or a note of it, says how
            many points are pending, and how many were dropped before. Or the upload failed or took too
            long: then the session is closed, all is safe on the local disk, and the error names the command that
            finishes the upload.
        RemoteConflictError
            Another machine wrote a track of this session to the replica. The session is closed; its own points are
            kept locally.
        PointsDroppedError
            Points or log records were dropped earlier because memory and disk were full.
        """
        self._close(Ending("finished"), None if timeout is None else min(timeout, LONGEST_WAIT))

    def _close(self, ending: Ending, timeout: float | None = None, quiet: bool = False) -> None:
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is None:
                return
            self._closed = True
            for track in self._tracks.values():
                track._detach()
        dropped: PointsDroppedError | None = None
        try:
            _unless_full(writer, lambda: release_writer(writer, ending, timeout), timeout)
        except PointsDroppedError as error:
            dropped = error
        except BaseException:
            with self._lock:
                self._attach(writer)
            raise
        if writer.replica is not None:
            self._finish_replica(writer, timeout, quiet)
        if dropped is not None:
            raise dropped

    def _finish_replica(self, writer: Writer, timeout: float | None, quiet: bool) -> None:
        """Upload what is left; with `quiet`, since another exception is on its way, trouble is logged instead."""
        replica = writer.replica
        assert replica is not None
        all_there = False
        try:
            replica.finish(timeout, last=writer.closed)
            all_there = True
        except (OSError, ValueError) as error:
            if not quiet:
                raise
            from dreamlake.notices import log

            log().error("%s", error)
        finally:
            self._leave_temporary(empty=all_there)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(ending_of(error), quiet=error is not None)

    # -- tracks ----------------------------------------------------------------------------------------------------

    def track(
        self,
        name: str,
        description: str | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Track:
        """Return the track of this name, the same object each time; ``/`` in the name makes a hierarchy.

        A track is listed once it has a flushed point or was given a description, tags or metadata. Given again, these
        are merged: later ones win.

        Raises
        ------
        ValueError, TypeError
            A name that cannot be stored, or that this disk does not tell from the one of another track of the session;
            metadata that cannot be stored; or all that was said of the track would take more
            than 64 MiB. Nothing new is taken then.
        """
        track = (self._tracks.get(name) if isinstance(name, str) else None) or self._new_track(name)
        if description is not None or tags is not None or metadata is not None:
            described, nbytes = description_of(description, tags, None, metadata)
            self.open_if_needed()
            self.writer.track(track.name).describe(nbytes, **described)
            self.writer.wake()
        return track

    @forks_wait
    def _new_track(self, name: str) -> Track:
        name = layout.check_name("track", name)
        with self._lock:
            if self._writer is not None:
                self._writer.refuse_twin(name)
            track = self._tracks.setdefault(name, Track(self, name))
            if self._writer is not None:
                track._attach(self._writer.track(name).pending)
        return track

    @property
    def tracks(self) -> Tracks:
        """The tracks of the session as a collection."""
        return Tracks(self)

    @property
    def folder(self) -> str:
        """The session's folder below `local_path`, as the library's own functions take it."""
        return layout.session_dir(self.workspace, self.name)

    @forks_wait
    def store(self) -> Store:
        """The lake of the session as a store; for the library's own use."""
        from dreamlake.storage.localstore import LocalStore

        remote = self._remote
        if remote is None:
            assert self._root is not None
            return LocalStore(self._root)
        if self._root is None:
            there: Store = remote.store()
            return there
        from dreamlake.engine.overlay import OverlayStore

        return OverlayStore(LocalStore(self._root), remote.store, self._note_vanished)

    def _note_vanished(self) -> None:
        writer = self._writer
        if writer is not None and writer.replica is not None:
            writer.replica.vanished()

    # -- parameters, files and log ------------------------------------------------------------------------------

    @forks_wait
    def parameters(self) -> Parameters:
        """Return the parameters of the session, to set and to get."""
        from dreamlake.parameters import Parameters

        return Parameters(self.store(), self.folder, self._open_writer, self.check_there)

    def _open_writer(self) -> Writer:
        self.open_if_needed()
        return self.writer

    @forks_wait
    def files(self) -> Files:
        """Return the files of the session: models, plots and the like, to upload, list, download and delete."""
        from dreamlake.files import Files

        return Files(self.store, self.folder, self._open_writer)

    @forks_wait
    def log(self, message: str, level: Level = "info", metadata: dict[str, Any] | None = None) -> None:
        """Add a record to the session's log; it is written with the next flush, off this thread.

        Trouble with the disk is never raised here. While it lasts, 100,000 records or 64 MiB of them are kept, and more
        are dropped and counted. Where records come faster than a disk that works takes them, this waits a moment.

        Parameters
        ----------
        message
            What happened.
        level
            debug, info, warn (or warning), error, fatal (or critical).
        metadata
            Anything that a point may hold.
        """
        from dreamlake.logs import make_record

        record, nbytes = make_record(message, level, metadata)
        self.open_if_needed()
        self.writer.log(record, nbytes)

    @forks_wait
    def logs(self, level: Level | None = None, *, errors: Literal["raise", "skip"] = "raise") -> pl.DataFrame:
        """Return the log, oldest first, as a frame: sequenceNumber, timestamp, level, message, metadata (JSON text).

        Parameters
        ----------
        level
            The least serious level wanted; None for all.
        errors
            ``"skip"`` leaves damaged lines out and logs them.
        """
        from dreamlake.logs import read_logs

        self.flush()
        return read_logs(self.store(), self.folder, level, errors)

    # -- analysis --------------------------------------------------------------------------------------------------

    @forks_wait
    def align(
        self,
        *tracks: str,
        how: How | Mapping[str, How] = "exact",
        tolerance: Tolerance | Mapping[str, Tolerance] = None,
        start_time: float | None = None,
        end_time: float | None = None,
        errors: Literal["raise", "skip"] = "raise",
    ) -> pl.LazyFrame:
        """Join tracks by time into one lazy frame: each point of the first track, and the others at its moment.

        Parameters
        ----------
        tracks
            The names of two tracks or more. Each point of the first becomes a row; of the others it is met by at most
            one point each, or by nulls.
        how
            ``"exact"``: the point with the same ``_ts``, as ``_ts=-1`` gives it. ``"backward"``: the latest that is not
            after it, which is what was known then. ``"forward"``: the earliest that is not before it. ``"nearest"``:
            whichever is nearer. Of points with the same ``_ts`` it is the latest. Or a dict that gives one of these for
            each track but the first.
        tolerance
            The furthest that a point may be away, in seconds or as a timedelta; None for any distance. Or a dict, as
            for `how`.
        start_time, end_time
            Half-open range of ``_ts`` of the rows, in seconds since the epoch; None for no bound. Only segments that
            can matter are read.
        errors
            ``"raise"``, or ``"skip"`` to read round damage.

        Returns
        -------
        polars.LazyFrame
            ``_ts``, which rises, then for each track ``<track>._index`` and ``<track>.<field>``. It is a snapshot of
            each track as of this call.

        Raises
        ------
        ValueError
            Fewer than two tracks, one named twice, two columns of one name (``v`` of a track ``a.b`` beside ``b.v`` of
            ``a``), an unknown `how`, a tolerance below 0, a dict of other tracks, a time that is NaN.
        TypeError
            A time or a tolerance that is no number.
        TrackNotFoundError
            There is no such track.
        CorruptTrackError, RuntimeError
            As for `TrackView.scan`.
        """
        from dreamlake.analysis.align import align

        frames = [(name, self.track(name).scan(errors=errors)) for name in tracks]
        absent = sorted({name for name, frame in frames if len(frame.collect_schema()) == 2} - set(self.tracks.list()))
        if absent:
            raise TrackNotFoundError(f"no track {absent[0]!r} in {self.workspace}/{self.name}")
        return align(frames, how, tolerance, start_time, end_time)

    @forks_wait
    def plot(
        self,
        tracks: str | Sequence[str],
        y: str | Sequence[str] | None = None,
        x: str | None = None,
        **options: Unpack[PlotOptions],
    ) -> altair.VConcatChart:
        """Draw several tracks together: a panel for each field that any of them has, a colour a track.

        Parameters
        ----------
        tracks
            The names of the tracks.
        y, x, options
            As for `TrackView.plot`. A track in which a field holds no numbers has no curve in its panel.

        Raises
        ------
        ImportError, ValueError
            As from `TrackView.plot`.
        """
        from dreamlake.engine.process import check_polars

        check_polars()
        from dreamlake.pictures.chart import plot

        return plot([(name, self.track(name)) for name in _names(tracks)], y, x, **options)

    # -- writing ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is pending of all tracks and the log; when it returns, that survives a kill of the process.

        Raises
        ------
        OSError
            The disk failed; the points stay pending.
        PointsDroppedError
            Points or log records were dropped because memory and disk were full.
        """
        if self._writer is not None:
            self._writer.flush()

    def sync(self, timeout: float | None = None) -> None:
        """Flush, then upload what the replica lacks; when it returns, everything appended before is there.

        A session without `remote` only flushes.

        Parameters
        ----------
        timeout
            Seconds to wait for the upload, None for as long as it takes; it goes on in the background.

        Raises
        ------
        OSError
            The disk or the network failed, or the time is up; all that was flushed is safe on the local disk.
        RemoteConflictError
            Another machine wrote a track of this session to the replica. All other tracks were uploaded.
        SessionClosedError
            The session is closed.
        """
        if self._closed:
            raise SessionClosedError(f"the session {self.name!r} is closed; open it again: session.open()")
        writer = self._writer
        if writer is not None:
            _unless_full(writer, writer.flush, timeout)
            if writer.replica is not None:
                writer.replica.sync(None if timeout is None else min(timeout, LONGEST_WAIT))


def _unless_full(writer: Writer, write: Callable[[], None], timeout: float | None) -> None:
    """Write; where the disk is full, and holds what is on the replica too, once more when that was dropped."""
    try:
        write()
    except OSError as error:
        timeout = None if timeout is None else min(timeout, LONGEST_WAIT)
        replica = writer.replica
        if replica is None or isinstance(error, PointsDroppedError) or not replica.make_room(error, timeout):
            raise
        write()


def _names(tracks: str | Sequence[str]) -> list[str]:
    return [tracks] if isinstance(tracks, str) else list(dict.fromkeys(tracks))
