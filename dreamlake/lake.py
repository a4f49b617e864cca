"""A lake as its readers hold it: runs found, looked into, and scanned together, while they are being written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dreamlake.engine.catalog import is_session, session_folders, session_info, session_there, track_names, workspaces
from dreamlake.engine.forkgate import forks_wait
from dreamlake.engine.process import check_polars, reading_width, side_by_side
from dreamlake.engine.reader import TrackReader
from dreamlake.engine.runlisting import files_of_runs, in_folder
from dreamlake.errors import CorruptTrackError, SessionNotFoundError, TrackNotFoundError
from dreamlake.files import FilesView
from dreamlake.format import layout
from dreamlake.logs import read_logs
from dreamlake.parameters import ParametersView
from dreamlake.runs import Sessions, parameter_columns
from dreamlake.storage import open_store
from dreamlake.view import TrackView

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    import altair
    import polars as pl

    from dreamlake.analysis.align import How, Tolerance
    from dreamlake.engine.snapshot import Snapshot
    from dreamlake.logs import Level
    from dreamlake.storage.store import Store
    from dreamlake.types import PlotOptions, SessionInfo
    from dreamlake.view import Errors

LABELS = ("_workspace", "_session")
#: Bytes that a scan of many remote runs may keep between the look at them and the first query.
MAX_HELD_BYTES = 128 << 20


class Lake:
    """The runs below one root, read-only; nothing is locked, and runs may be live.

    Parameters
    ----------
    url
        The root that holds the workspaces: a folder of this machine, or the URL of one on S3 (``s3://bucket/prefix``)
        or any other filesystem that fsspec knows.
    storage_options
        Options for the filesystem of a URL, as fsspec takes them. Without, S3 finds endpoint and credentials in the
        usual places: environment, profiles, the role of the machine.

    Raises
    ------
    ValueError
        A URL of a kind that cannot be read, or options that its filesystem does not take.
    ImportError
        The package that reads such URLs is not installed.
    """

    @forks_wait
    def __init__(self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
        self._store: Store = open_store(url, storage_options)

    def __repr__(self) -> str:
        return f"Lake({self._store.describe()!r})"

    def _repr_html_(self) -> str:
        """The runs, as a notebook shows them."""
        try:
            return self.sessions()._repr_html_()
        except CorruptTrackError as damage:
            from dreamlake.pictures.html import trouble_html

            return trouble_html(self._store.describe(), damage)

    @forks_wait
    def workspaces(self) -> list[str]:
        """The workspaces that hold a session, sorted."""
        return workspaces(self._store)

    @forks_wait
    def sessions(self, workspace: str | None = None) -> Sessions:
        """What session.json says of each session, sorted by workspace and name.

        A list of dicts, whose ``to_polars()`` has the parameters, too, a column each.

        The status of a run whose file says running, but which has written nothing for a minute, is ``"lost"``. Where
        several machines write one session, what they say is merged, later wins.

        Parameters
        ----------
        workspace
            Only sessions of this workspace; None for all.

        Raises
        ------
        CorruptTrackError
            A session.json is not readable.
        """
        names = session_folders(self._store, workspace, sure=False)
        listed = files_of_runs(self._store, [layout.session_dir(*pair) for pair in names])

        def info(pair: tuple[str, str]) -> dict[str, Any] | None:
            return session_info(self._store, *pair, files=listed.get(layout.session_dir(*pair)))

        found = side_by_side(info, names, reading_width(self._store))
        return Sessions([info for info in found if info is not None], self._store)  # type: ignore[misc]

    @forks_wait
    def session(self, name: str, workspace: str) -> SessionView:
        """One session, to read.

        Raises
        ------
        SessionNotFoundError
            There is none of this name.
        CorruptTrackError
            Its session.json is not readable.
        """
        if not session_there(self._store, workspace, name):
            raise _no_session(self._store, workspace, name)
        return SessionView(self._store, workspace, name)

    @forks_wait
    def scan(
        self,
        track: str,
        workspace: str | None = None,
        sessions: Iterable[str] | str | None = None,
        *,
        parameters: Sequence[str] | bool | None = False,
        errors: Errors = "raise",
    ) -> pl.LazyFrame:
        """One track of many runs as a lazy frame: ``_workspace``, ``_session``, ``_index``, ``_ts``, then the fields.

        The columns are those of all runs together, null where a run does not have one, with types as wide as all
        need. Runs follow one another in the order of their names. It is a snapshot, as `TrackView.scan` is, and
        filters on the first four columns and on parameters reach only the segments that they need.

        Parameters
        ----------
        track
            The name of the track.
        workspace
            Only runs of this workspace; None for all.
        sessions
            Only sessions of these names (or of this one); None for all. Sessions without the track are left out.
        parameters
            The parameters of the runs that are columns behind the fields, one each under their dotted names, as
            `Sessions.to_polars` has them, or a text for one; True for all; None, False and an empty list for none. One
            that has the name of a field is ``parameters.<name>``.
        errors
            ``"raise"``, or ``"skip"`` to log damage and read round it.

        Raises
        ------
        SessionNotFoundError
            One of `sessions` does not exist.
        ValueError
            No run has a parameter that is named in `parameters`.
        TrackNotFoundError
            No session has the track.
        CorruptTrackError
            The hot file or the newest segment of a run is damaged; damage elsewhere raises it from ``collect``.
        RuntimeError
            In a forked child process, where Polars queries would hang.
        """
        check_polars()
        from dreamlake.engine.scan import Part, lazy_frame
        from dreamlake.format.logical import unify_schemas

        pairs = self._chosen(workspace, sessions)
        listed = files_of_runs(self._store, [layout.session_dir(*pair) for pair in pairs])
        room = MAX_HELD_BYTES

        def look(pair: tuple[str, str]) -> Snapshot | None:
            nonlocal room
            reader = SessionView(self._store, *pair).track(track)._reader
            files = listed.get(layout.session_dir(*pair))
            listing = None if files is None else in_folder(files, layout.track_dir(track))
            if listing is not None and not listing:
                return None
            try:
                snapshot = reader.snapshot(errors=errors, described=True, listing=listing)
            except CorruptTrackError:
                # Until its session.json is there, a run in its first upload is no run, and may have holes.
                if not is_session(self._store, layout.session_dir(*pair)):
                    return None
                snapshot = reader.snapshot(errors=errors, described=True)
            room -= snapshot.held(room)
            return snapshot if snapshot.exists else None

        found = side_by_side(look, pairs, reading_width(self._store))
        parts = [
            Part(snapshot, 0, snapshot.total, tuple(zip(LABELS, pair, strict=True)))
            for pair, snapshot in zip(pairs, found, strict=True)
            if snapshot is not None
        ]
        if not parts:
            raise TrackNotFoundError(f"none of the {len(pairs)} sessions looked at in {self!r} has a track {track!r}")
        schema = unify_schemas(*(part.snapshot.schema for part in parts))
        columns: list[pl.Series] = []
        # The empty text is a parameter's name.
        named = [parameters] if isinstance(parameters, str) else parameters
        if named:
            runs = [(workspace, session) for (_, workspace), (_, session) in (part.labels for part in parts)]
            wanted = None if named is True else list(named)
            columns = parameter_columns(self._store, runs, {*LABELS, "_index", "_ts", *schema}, wanted, errors)
        return lazy_frame(parts, schema, name=track, labels=LABELS, constants=columns)

    @forks_wait
    def plot(
        self,
        track: str,
        y: str | Sequence[str] | None = None,
        x: str | None = None,
        *,
        workspace: str | None = None,
        sessions: Iterable[str] | str | None = None,
        **options: Unpack[PlotOptions],
    ) -> altair.VConcatChart:
        """Draw one track of many runs in one picture: a panel a field, a colour a run.

        Parameters
        ----------
        track
            The name of the track.
        workspace, sessions
            As for `scan`; sessions without the track are left out.
        y, x, options
            As for `TrackView.plot`; over ``_elapsed`` runs of different days lie on each other. A run in which a field
            holds no numbers has no curve in its panel.

        Raises
        ------
        SessionNotFoundError, TrackNotFoundError
            As from `scan`.
        ImportError, ValueError
            As from `TrackView.plot`.
        """
        check_polars()
        from dreamlake.pictures.chart import plot

        pairs = self._chosen(workspace, sessions)
        several = len({workspace for workspace, _ in pairs}) > 1
        views = [SessionView(self._store, *pair).track(track) for pair in pairs]
        there = side_by_side(
            lambda view: view._reader.snapshot(errors="skip").exists, views, reading_width(self._store)
        )
        drawn = [
            ("/".join(pair) if several else pair[1], view)
            for pair, view, exists in zip(pairs, views, there, strict=True)
            if exists
        ]
        if not drawn:
            raise TrackNotFoundError(f"none of the {len(pairs)} sessions looked at in {self!r} has a track {track!r}")
        return plot(drawn, y, x, **options)

    def _chosen(self, workspace: str | None, sessions: Iterable[str] | str | None) -> list[tuple[str, str]]:
        # Where looking costs requests, a run is one that has the track.
        pairs = session_folders(self._store, workspace, sure=getattr(self._store, "is_local", True))
        if sessions is None:
            return pairs
        wanted = {sessions} if isinstance(sessions, str) else set(sessions)
        unknown = sorted(wanted - {session for _, session in pairs})
        if unknown:
            where = f"workspace {workspace!r} of {self!r}" if workspace is not None else repr(self)
            raise SessionNotFoundError(f"no session {unknown[0]!r} in {where}")
        return [pair for pair in pairs if pair[1] in wanted]


class SessionView:
    """One session of a lake, read-only."""

    def __init__(self, store: Store, workspace: str, name: str) -> None:
        self._store = store
        self._folder = layout.session_dir(workspace, name)
        self.workspace = str.__str__(workspace)
        self.name = str.__str__(name)

    def __repr__(self) -> str:
        return f"<SessionView {self.workspace!r}/{self.name!r}>"

    def _repr_html_(self) -> str:
        """The session as a notebook shows it: parameters, tracks, and lines of these."""
        check_polars()
        from dreamlake.pictures.html import session_html

        return session_html(self, self._store, lambda: self.info.get("status", ""))

    @property
    @forks_wait
    def info(self) -> SessionInfo:
        """What session.json says now; the status is ``"lost"`` where a running session has fallen silent.

        Of a session that several machines write this is what all of them say; in doubt, the one that said it last.

        Raises
        ------
        SessionNotFoundError
            The session is not there.
        CorruptTrackError
            A session.json is not readable.
        """
        info = session_info(self._store, self.workspace, self.name)
        if info is None:
            raise _no_session(self._store, self.workspace, self.name)
        return info  # type: ignore[return-value]

    @forks_wait
    def track(self, name: str) -> TrackView:
        """One track; whether it is there shows when it is read.

        Raises
        ------
        TypeError, ValueError
            Not a track's name.
        """
        return TrackView(TrackReader(self._store, f"{self._folder}/{layout.track_dir(name)}", name))

    @property
    def tracks(self) -> TracksView:
        """The tracks of the session."""
        return TracksView(self._store, self._folder)

    @forks_wait
    def parameters(self) -> ParametersView:
        """The parameters of the session."""
        return ParametersView(self._store, self._folder)

    @forks_wait
    def files(self) -> FilesView:
        """The uploaded files of the session, those of all machines that write it."""
        return FilesView(lambda: self._store, self._folder)

    @forks_wait
    def logs(self, level: Level | None = None, *, errors: Errors = "raise") -> pl.DataFrame:
        """The log, oldest first: ``sequenceNumber``, ``timestamp``, ``level``, ``message``, ``metadata`` (JSON text).

        Of several machines that write the session each counts its own records.

        Parameters
        ----------
        level
            The least serious level wanted; None for all.
        errors
            ``"raise"``, or ``"skip"`` to log damaged lines and leave them out.

        Raises
        ------
        ValueError
            No such level.
        CorruptTrackError
            A line of the log is damaged.
        RuntimeError
            In a forked child process, where Polars would hang.
        """
        return read_logs(self._store, self._folder, level, errors)

    @forks_wait
    def align(
        self,
        *tracks: str,
        how: How | Mapping[str, How] = "exact",
        tolerance: Tolerance | Mapping[str, Tolerance] = None,
        start_time: float | None = None,
        end_time: float | None = None,
        errors: Errors = "raise",
    ) -> pl.LazyFrame:
        """Join tracks by time into one lazy frame; see `Session.align`.

        Of tracks on S3 all are looked at side by side.
        """
        from dreamlake.analysis.align import align

        frames = side_by_side(
            lambda name: (name, self.track(name).scan(errors=errors)), tracks, reading_width(self._store)
        )
        return align(frames, how, tolerance, start_time, end_time)

    @forks_wait
    def plot(
        self,
        tracks: str | Sequence[str],
        y: str | Sequence[str] | None = None,
        x: str | None = None,
        **options: Unpack[PlotOptions],
    ) -> altair.VConcatChart:
        """Draw several tracks together; see `Session.plot`."""
        check_polars()
        from dreamlake.pictures.chart import plot

        names = [tracks] if isinstance(tracks, str) else dict.fromkeys(tracks)
        return plot([(name, self.track(name)) for name in names], y, x, **options)


def _no_session(store: Store, workspace: str, name: str) -> SessionNotFoundError:
    place = store.describe(layout.session_dir(workspace, name))
    return SessionNotFoundError(f"no session {name!r} in workspace {workspace!r}: {place} has none")


class TracksView:
    """The names of a session's tracks: those with a stored point or metadata."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder

    @forks_wait
    def list(self) -> list[str]:
        """The names, sorted."""
        return track_names(self._store, self._folder)

    def __iter__(self) -> Iterator[str]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self.list())

    def __contains__(self, name: object) -> bool:
        return name in self.list()
