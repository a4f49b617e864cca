"""Every error that dreamlake raises on its own account, in one tree.

    DreamlakeError
    ├── SessionClosedError      (RuntimeError)        append, log or set on a closed session
    ├── SessionExistsError      (FileExistsError)     resume="never" and the session is there
    ├── SessionNotFoundError    (FileNotFoundError)   resume="must", or a lake without that session
    ├── TrackNotFoundError      (KeyError)            a read of a track that has no point
    ├── StoredFileNotFoundError (FileNotFoundError)   no such uploaded file, or its bytes are not here
    ├── PointsDroppedError      (OSError)             a disk that stayed dead until memory was full
    ├── PointsNotHereError      (OSError)             points that only the replica holds, asked of this machine
    ├── CorruptTrackError       (ValueError)          damage found in a stored file
    │   └── CorruptFileError    (ValueError)          an uploaded file is not what was uploaded
    ├── LockTimeoutError        (TimeoutError)        another process holds the session's lock
    ├── LocksUnsupportedError   (OSError)             a filesystem without locks
    └── RemoteConflictError     (OSError)             two machines wrote one track of one replica

Each is also the built-in error that a caller would catch who has never heard of dreamlake. Bad arguments raise plain
``ValueError`` and ``TypeError``.
"""

from __future__ import annotations

__all__ = [
    "CorruptFileError",
    "CorruptTrackError",
    "DreamlakeError",
    "LockTimeoutError",
    "LocksUnsupportedError",
    "PointsDroppedError",
    "PointsNotHereError",
    "RemoteConflictError",
    "SessionClosedError",
    "SessionExistsError",
    "SessionNotFoundError",
    "StoredFileNotFoundError",
    "TrackNotFoundError",
]


class DreamlakeError(Exception):
    """The root of every error that dreamlake raises on its own account."""


class SessionClosedError(DreamlakeError, RuntimeError):
    """The session was closed; open it again (or make a new ``Session``) to go on."""


class SessionExistsError(DreamlakeError, FileExistsError):
    """The session exists, and ``resume="never"`` asked for a new one."""


class SessionNotFoundError(DreamlakeError, FileNotFoundError):
    """There is no such session."""


class TrackNotFoundError(DreamlakeError, KeyError):
    """There is no such track, or it has no stored point yet."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a message is a sentence and needs no quotes.
        return Exception.__str__(self)


class StoredFileNotFoundError(DreamlakeError, FileNotFoundError):
    """There is no such uploaded file, or its bytes are not on this machine."""


class PointsDroppedError(DreamlakeError, OSError):
    """Points were dropped, since the disk refused writes until ``max_pending_bytes`` were pending; or log records.

    Parameters
    ----------
    message
        What happened, as a sentence.
    dropped
        How many points were dropped since the last such error.
    log_records
        How many records of the log were.
    """

    def __init__(self, message: str, dropped: int, log_records: int = 0) -> None:
        super().__init__(message)
        self.dropped = dropped
        self.log_records = log_records

    def __reduce__(self) -> tuple[type[PointsDroppedError], tuple[str, int, int]]:
        return type(self), (str(self), self.dropped, self.log_records)


class PointsNotHereError(DreamlakeError, OSError):
    """Points that only the replica holds were asked of this machine, by a reader that does not know the replica.

    Nothing is damaged or lost. A session with ``remote=`` reads such points from its replica by itself; there this is
    raised where the replica has not got them now: it is not mounted, say, or another one in its place.

    Parameters
    ----------
    path
        The folder of the track, fit for messages.
    start, stop
        The half-open range of indices that is not here.
    replicas
        The roots of the lake elsewhere that this machine knows of, without user-info and query of a URL.
    missing
        The file that should hold them on the replica, where that was asked and has not got it.
    """

    def __init__(
        self, path: str, start: int, stop: int, replicas: tuple[str, ...] = (), missing: str | None = None
    ) -> None:
        self.path = path
        self.start = start
        self.stop = stop
        self.replicas = replicas
        self.missing = missing
        if missing is not None:
            super().__init__(
                f"{path}: the points {start} to {stop} (exclusive) are on the replica only, and now it has neither "
                f"{missing} nor another segment with them"
            )
            return
        lakes = " or ".join(f"Lake({url!r})" for url in replicas) or "Lake(<its remote>)"
        super().__init__(
            f"{path}: the points {start} to {stop} (exclusive) were never fetched here, or dropped here after their "
            f"upload; the replica alone holds them: read them there, as {lakes}"
        )

    def __reduce__(self) -> tuple[type[PointsNotHereError], tuple[str, int, int, tuple[str, ...], str | None]]:
        return type(self), (self.path, self.start, self.stop, self.replicas, self.missing)


class CorruptTrackError(DreamlakeError, ValueError):
    """A stored file is damaged: what it holds cannot be trusted.

    Parameters
    ----------
    path
        The damaged file, fit for messages (no user-info, no query of a URL).
    place
        Where in it: ``"byte 120, line 3"``, ``"footer"``, ``"column 'x'"``.
    start, stop
        The half-open range of indices that is affected; None where it is not known.
    detail
        What is wrong there.
    """

    def __init__(
        self, path: str, place: str, start: int | None = None, stop: int | None = None, detail: str = ""
    ) -> None:
        self.path = path
        self.place = place
        self.start = start
        self.stop = stop
        self.detail = detail
        what = f": {detail}" if detail else ""
        super().__init__(f"{path} is damaged ({place}{_range(start, stop)}){what}")

    def __reduce__(self) -> tuple[type[CorruptTrackError], tuple[str, str, int | None, int | None, str]]:
        return type(self), (self.path, self.place, self.start, self.stop, self.detail)


class CorruptFileError(CorruptTrackError):
    """The bytes of an uploaded file are missing, or not those whose SHA-256 was taken when it was uploaded."""


class LockTimeoutError(DreamlakeError, TimeoutError):
    """Another process held the lock for the whole time that was allowed for waiting."""


class LocksUnsupportedError(DreamlakeError, OSError):
    """The filesystem has no file locks; ``single_writer=True`` writes without them, from one process only."""


class RemoteConflictError(DreamlakeError, OSError):
    """Another machine wrote the same track to the same replica; the local data is kept and not uploaded."""


def _range(start: int | None, stop: int | None) -> str:
    if start is None:
        return ""
    return f"; indices {start} and up" if stop is None else f"; indices {start} to {stop}, exclusive"
