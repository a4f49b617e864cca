"""A lock on a file, between processes and threads, that ends with its process and that fork does not pass on."""

# The write path imports this before the first append, so it takes nothing from dataclasses, typing or logging.
from __future__ import annotations

import errno
import os
import stat
import time

from dreamlake.errors import CorruptTrackError, LocksUnsupportedError, LockTimeoutError

try:
    import fcntl
except ImportError:  # Windows: no locks, so it writes with single_writer=True only
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

#: Most bytes that are read of a lock file.
MOST_BYTES = 4096

# Every call that changes the disk goes through this name, so that a test can fail the n-th one.
os_ = os

_OPEN = os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_BUSY = frozenset({errno.EAGAIN, errno.EACCES})
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_REMEDY = "if nothing else writes there, open the session with single_writer=True"

# Locks held by this process. A POSIX record lock belongs to the process: a second descriptor on the file would get it
# again, and would take it away from the first by being closed. So one path is claimed here before it is opened.
_claims: dict[tuple[int, int, int, str], object] = {}


class FileLock:
    """An exclusive lock on a file, between processes and between threads, and the few bytes that the file holds.

    It is a POSIX record lock: it ends with its process, and a forked child does not inherit it. Take it with
    ``acquire``; it ends with ``release`` or the ``with`` block. The system also ends it when its process closes any
    other descriptor of the file, so nothing else may open the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        folder = os.stat(os.path.dirname(path) or ".")
        self._key = (os.getpid(), folder.st_dev, folder.st_ino, os.path.basename(path))
        self._token = object()

    @classmethod
    def acquire(cls, path: str, timeout: float, *, locked: bool = True) -> Self:
        """Take the lock, creating the file if need be, within ``timeout`` seconds.

        Parameters
        ----------
        locked
            False takes no lock and only opens the file: for ``single_writer=True``, where nobody else writes.

        Raises
        ------
        LockTimeoutError
            Another process or thread held it all the time.
        LocksUnsupportedError
            The filesystem has no locks.
        """
        lock = cls(path)
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while not lock._try(locked):
            left = deadline - time.monotonic()
            if left <= 0:
                raise LockTimeoutError(
                    f"{path} was locked by another process or thread, and still is after {timeout:g} s"
                )
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.002)  # short: a busy writer lets go for about as long
        return lock

    def read(self) -> bytes:
        """The content of the file; of a long one, which no lock is, the beginning."""
        if not hasattr(os, "pread"):
            os.lseek(self._fd, 0, os.SEEK_SET)
            return os.read(self._fd, MOST_BYTES)
        return os.pread(self._fd, MOST_BYTES, 0)

    def write(self, data: bytes) -> None:
        """Replace the content of the file, in place."""
        if _write_at_start(self._fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        if os_.fstat(self._fd).st_size != len(data):
            os_.ftruncate(self._fd, len(data))

    def release(self) -> None:
        """End the lock; again is harmless. In a forked child this only closes what the child inherited."""
        fd, self._fd = self._fd, -1
        try:
            if fd >= 0:
                os_.close(fd)  # ends the lock
        finally:
            # After the close: a thread that claimed the path before it would lose its lock to it.
            if _claims.get(self._key) is self._token:
                del _claims[self._key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        # A signal handler can raise between `acquire` and the `with` that would release.
        if hasattr(self, "_token"):
            self.release()

    def _try(self, locked: bool) -> bool:
        """Take the lock if it is free; leave nothing behind if not, or if a signal handler raises in the middle."""
        taken = False
        try:
            if _claims.setdefault(self._key, self._token) is self._token:
                self._open()
                taken = not locked or (self._lock() and self._still_there())
        finally:
            if not taken:
                self.release()
        return taken

    def _open(self) -> None:
        try:
            self._fd = os_.open(self.path, _OPEN, 0o666)
        except OSError as error:
            if os.path.islink(self.path):
                raise CorruptTrackError(self.path, "its place", detail="it is a link, which is not followed") from error
            raise
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise CorruptTrackError(self.path, "its place", detail="it is not a plain file")

    def _lock(self) -> bool:
        if fcntl is None:
            raise LocksUnsupportedError(f"this system has no file locks for {self.path}; {_REMEDY}")
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            if error.errno in _UNSUPPORTED:
                said = f"the filesystem of {self.path} has no file locks ({error.strerror}); {_REMEDY}"
                raise LocksUnsupportedError(said) from error
            raise
        return True

    def _still_there(self) -> bool:
        # Somebody may have removed or replaced the file while this process waited: then the lock is on a dead file.
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except FileNotFoundError:
            return False


def _write_at_start(fd: int, data: bytes) -> int:
    if hasattr(os, "pwrite"):
        return os_.pwrite(fd, data, 0)
    os_.lseek(fd, 0, os.SEEK_SET)
    return os_.write(fd, data)
