"""Files on a local disk as the writer needs them: append, write beside and rename; locks stand in ``lock.py``.

Absolute paths, few system calls, and each function says what it leaves behind when it fails. The store over a folder
stands in ``localstore.py``.
"""

# The write path imports this before the first append, so it takes nothing from dataclasses, typing or logging.
from __future__ import annotations

import errno
import itertools
import os
import stat
import time

from dreamlake.errors import CorruptTrackError
from dreamlake.storage.lock import FileLock as FileLock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer


TMP_PREFIX = ".tmp-"
#: Most bytes of a file that are taken into memory: no file of a session is so long, and a sparse one costs a stranger
#: nothing.
MAX_BYTES = 2 << 30

# Every call that changes the disk goes through this name, so that a test can fail the n-th one.
os_ = os

_tmp_numbers = itertools.count()
_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EINVAL}
)
_NO_WRITING = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_DIR_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class SizeChanged(Exception):
    """A file is not as long as the writer left it: somebody else wrote. ``size`` is its length in bytes now."""

    def __init__(self, path: str, expected: int, size: int) -> None:
        self.size = size
        super().__init__(f"{path} is {size} bytes long, not {expected}")


class PartialWriteError(OSError):
    """A write ended early. The first ``written`` bytes are in the file; the cause tells why the others are not.

    It does not reach the users of a session, who get an OSError with the same errno and path.
    """

    def __init__(self, error: OSError, path: str, written: int) -> None:
        super().__init__(error.errno, error.strerror, path)
        self.written = written


class FsyncFailed(OSError):
    """Bytes were written, and an fsync failed: they may be gone after a power loss, whatever a second fsync says."""

    def __init__(self, error: OSError, path: str) -> None:
        super().__init__(error.errno, error.strerror, path)


class CommittedUnsynced(FsyncFailed):
    """A new file has its name, which could be neither synced nor taken back: it counts, and others may have read it."""


def plain(error: PartialWriteError | FsyncFailed) -> OSError:
    """What the disk said, for the users of a session: the classes here only tell a writer how to go on."""
    return OSError(error.errno, error.strerror, error.filename)


# ------------------------------------------------------------------------------------------------ writing


def atomic_write(path: str, data: Buffer, fsync: bool) -> None:
    """Write a whole file beside and rename it to ``path``, over an older one.

    When it fails before the rename the old file is untouched, and nothing is left beside. A ``FsyncFailed`` may also
    come from the folder, after the rename. Without ``fsync`` a power cut leaves the older file or this one; only where
    there was none, or this one is empty, it may leave something else.
    """
    tmp = _write_tmp(path, data, fsync or (bool(data) and os.path.lexists(path)))
    try:
        os_.replace(tmp, path)
    except BaseException:
        remove_quietly(tmp)
        raise
    if fsync:
        fsync_dir(_parent(path))


def write_new(path: str, data: Buffer) -> None:
    """Write a whole file and give it the name ``path``, which must be free; on disk for good when this returns.

    When it fails otherwise there is no file of that name by this call, and nothing is left beside. Where the
    filesystem has no hard links, two that write one name at the same moment can replace each other: hold the lock.

    Raises
    ------
    FileExistsError
        There is a file of that name; it is untouched.
    CommittedUnsynced
        The folder could not be synced, nor the name taken back: the file is there and counts.
    """
    commit_new(write_beside(path, data), path)


def write_beside(path: str, data: Buffer, freed: Callable[[], None] | None = None) -> str:
    """Write what `commit_new` will give the name ``path`` to a file beside it, fsynced, and return that file's path.

    ``freed`` is called just before the fsync, which takes long and needs no lock of Python's.
    """
    return _write_tmp(path, data, True, freed)


def stream_beside(folder: str, pieces: Iterable[Buffer]) -> str:
    """Write pieces, one after the other, to a new file in a folder, fsynced, and return its path: ``.tmp-…``.

    When it fails, in writing or in `pieces`, nothing is left.
    """
    tmp, fd = _open_tmp(folder)
    try:
        try:
            written = 0
            for piece in pieces:
                written += _write_all(fd, piece, tmp, written)
            _fsync(fd, tmp)
        finally:
            os_.close(fd)
    except BaseException:
        remove_quietly(tmp)
        raise
    return tmp


def commit_new(tmp: str, path: str) -> None:
    """Give a file that `write_beside` wrote its name, as `write_new` does; the other name is gone in any case."""
    try:
        _link_new(tmp, path)
    finally:
        remove_quietly(tmp)
    try:
        fsync_dir(_parent(path))
    except BaseException as error:
        remove_quietly(path)  # what may not last must not count: the caller still has the points
        if isinstance(error, OSError) and os.path.lexists(path):
            raise CommittedUnsynced(error, path) from error
        raise


def append_at(path: str, offset: int, data: Buffer, fsync: bool, name_lasts: bool = True) -> int:
    """Write ``data`` at the end of a file that must be ``offset`` bytes long; create it when ``offset`` is 0.

    With ``fsync`` the bytes last, and so does the name of a file that was empty, or does not ``name_lasts``.

    Returns
    -------
    int
        How many bytes were written: all of them.

    Raises
    ------
    SizeChanged
        The file has another length; nothing was written.
    PartialWriteError
        Fewer were written; its ``written`` says how many.
    FsyncFailed
        All were written, and may not be on disk (an fsync or the close failed). Write them anew to a new file.
    """
    # A link in the place of the file would lead the write out of the folder: O_NOFOLLOW refuses it.
    fd = os_.open(path, os.O_CREAT | os.O_RDWR | _CLOEXEC | NOFOLLOW, 0o666)
    try:
        size = os_.fstat(fd).st_size
        if size != offset:
            raise SizeChanged(path, offset, size)
        written = _write_all(fd, data, path, offset)
        if fsync:
            _fsync(fd, path)
    except BaseException:
        _close_quietly(fd)  # the first error says what was written; one of the close must not hide it
        raise
    try:
        os_.close(fd)
        if fsync and (offset == 0 or not name_lasts):
            fsync_dir(_parent(path))
    except OSError as error:  # over NFS a write can fail as late as at the close
        raise FsyncFailed(error, path) from error
    return written


def truncate(path: str, size: int, fsync: bool = False) -> None:
    """Cut a file off at ``size`` bytes."""
    fd = os_.open(path, os.O_RDWR | _CLOEXEC | NOFOLLOW)
    try:
        os_.ftruncate(fd, size)
        if fsync:
            _fsync(fd, path)
    finally:
        os_.close(fd)


def cut_off(path: str, size: int) -> bool:
    """Try to take back what was written behind ``size`` bytes of a file and did not last; return whether it is gone."""
    try:
        truncate(path, size)
    except OSError:  # perhaps only the close failed: the file itself is asked
        return _is_within(path, size)
    return True


def _is_within(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size <= size
    except OSError:
        return False


def fsync_file(path: str) -> None:
    """Make the bytes of a file last that was written without; nothing where there is none."""
    try:
        fd = os_.open(path, os.O_RDWR | _CLOEXEC | NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _NO_WRITING:
            raise
        fd = os_.open(path, os.O_RDONLY | _CLOEXEC | NOFOLLOW)  # enough on most systems
    try:
        _fsync(fd, path)
    finally:
        os_.close(fd)


def fsync_dir(path: str) -> None:
    """Make the names in a folder last; does nothing where folders cannot be synced."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os_.open(path, os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC)
    try:
        os_.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIR_FSYNC:
            raise FsyncFailed(error, path) from error
    finally:
        os_.close(fd)


def make_dirs(path: str, fsync: bool) -> bool:
    """Make a folder and those above it that are missing; with ``fsync`` their names last.

    Returns
    -------
    bool
        Whether the folder itself was made by this call.
    """
    missing = []
    made = False
    while not os.path.isdir(path):
        missing.append(path)
        parent = _parent(path)
        if parent == path:
            break
        path = parent
    for folder in reversed(missing):
        try:
            os_.mkdir(folder)
            made = True
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
            made = False
        if fsync:
            fsync_dir(_parent(folder))
    return made


def sweep_tmp(folder: str, older_than: float) -> int:
    """Remove what crashed writers left beside in ``folder``, if it is older than ``older_than`` seconds.

    Returns
    -------
    int
        How many files were removed.
    """
    removed = 0
    newest = time.time() - older_than
    for entry in scan(folder):
        try:
            if entry.name.startswith(TMP_PREFIX) and entry.stat(follow_symlinks=False).st_mtime < newest:
                os_.unlink(entry.path)
                removed += 1
        except OSError:
            continue  # swept by another process, a folder, or not ours to remove: nothing depends on it
    return removed


def _parent(path: str) -> str:
    return os.path.dirname(path) or "."


def _open_tmp(folder: str) -> tuple[str, int]:
    while True:
        # Two containers on one volume can both be process 1, so the name may be taken: try the next number.
        tmp = os.path.join(folder, f"{TMP_PREFIX}{os.getpid()}-{next(_tmp_numbers)}")
        try:
            return tmp, os_.open(tmp, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _CLOEXEC, 0o666)
        except FileExistsError:
            continue


def _write_tmp(path: str, data: Buffer, fsync: bool, freed: Callable[[], None] | None = None) -> str:
    tmp, fd = _open_tmp(_parent(path))
    try:
        try:
            _write_all(fd, data, tmp, 0)
            if freed is not None:
                freed()
            if fsync:
                _fsync(fd, tmp)
        finally:
            os_.close(fd)
    except BaseException:
        remove_quietly(tmp)
        raise
    return tmp


def _write_all(fd: int, data: Buffer, path: str, offset: int) -> int:
    view = memoryview(data).cast("B")
    written = 0
    while written < len(view):
        try:
            count = _pwrite(fd, view[written:], offset + written)
            if count == 0:
                raise OSError(errno.EIO, "the file takes no more bytes")
        except OSError as error:
            raise PartialWriteError(error, path, written) from error
        written += count
    return written


def _pwrite(fd: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os_.pwrite(fd, data, offset)
    os_.lseek(fd, offset, os.SEEK_SET)
    return os_.write(fd, data)


def _fsync(fd: int, path: str) -> None:
    try:
        if hasattr(fcntl, "F_FULLFSYNC"):
            # On macOS fsync leaves the bytes in the drive's own cache.
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os_.fsync(fd)
    except OSError as error:
        raise FsyncFailed(error, path) from error


def _link_new(tmp: str, path: str) -> None:
    """Give ``tmp`` the free name ``path``."""
    try:
        os_.link(tmp, path)
    except FileExistsError:
        # Over NFS the reply to a link that succeeded can get lost, and its repetition says "exists".
        if os.stat(tmp).st_nlink < 2:
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os_.rename(tmp, path)


def read_if_there(path: str, offset: int = 0, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file from `offset` on; none where there is no file.

    Raises
    ------
    CorruptTrackError
        It is a link, which may lead anywhere, or no plain file, or there are more than `most` bytes to read.
    """
    try:
        fd = open_plain(path, os.O_RDONLY | NOFOLLOW)
    except FileNotFoundError:
        return b""
    try:
        return read_range(fd, path, offset, os.fstat(fd).st_size, most)
    finally:
        os.close(fd)


def check_inside(root: str, path: str) -> None:
    """Raise CorruptTrackError where a link leads `path` out of the folder `root`, itself a link or not."""
    if _leads_straight(root, path):
        return
    real_root, real = os.path.realpath(root), os.path.realpath(path)
    if real != real_root and not real.startswith(real_root.rstrip(os.sep) + os.sep):
        said = f"it is a link that leads out of {root}; what lies outside is not read or written"
        raise CorruptTrackError(path, "its place", detail=said)


def _leads_straight(root: str, path: str) -> bool:
    """Whether no name of `path` below `root` is a link: the usual case, found out with one look at each name."""
    prefix = root.rstrip(os.sep) + os.sep
    if not path.startswith(prefix):
        return False
    at = root
    for name in path[len(prefix) :].split(os.sep):
        at = at.rstrip(os.sep) + os.sep + name
        if name in ("", os.curdir, os.pardir) or os.path.islink(at):
            return False
    return True


def remove_quietly(path: str) -> None:
    """Remove a file that should not stay; one that cannot be removed is left to the sweep."""
    try:
        os_.unlink(path)
    except OSError:
        return  # gone already, or a dead disk: the sweep takes care of it


def _close_quietly(fd: int) -> None:
    try:
        os_.close(fd)
    except OSError:
        return  # Linux has closed it all the same


def scan(folder: str | int) -> list[os.DirEntry[str]]:
    """The entries of a folder, by its path or its descriptor; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def open_plain(path: str, flags: int) -> int:
    """Open a file that must be a plain one, and with `NOFOLLOW` no link. Raises CorruptTrackError."""
    try:
        # Not blocking: a named pipe from a stranger must not hold the reader for ever.
        fd = os.open(path, flags | _CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if flags & NOFOLLOW and os.path.islink(path):
            raise CorruptTrackError(path, "its place", detail="it is a link, which is not followed") from error
        if error.errno == errno.ENXIO:  # a socket
            raise CorruptTrackError(path, "its place", detail="it is not a plain file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CorruptTrackError(path, "its place", detail="it is not a plain file")
    return fd


def read_range(fd: int, path: str, start: int, end: int, most: int = MAX_BYTES) -> bytes:
    if start >= end:
        return b""
    if end - start > most:
        raise CorruptTrackError(path, "its end", detail=f"it is over {most} bytes long")
    if not hasattr(os, "pread"):
        os.lseek(fd, start, os.SEEK_SET)
    chunks = []
    while start < end:
        chunk = os.pread(fd, end - start, start) if hasattr(os, "pread") else os.read(fd, end - start)
        if not chunk:
            break  # cut off by its writer since
        chunks.append(chunk)
        start += len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
