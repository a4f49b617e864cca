"""The store over a local folder: the contract of ``storage.store``, where no link leads out of the folder."""

# The write path imports this before the first append, so it takes nothing from dataclasses, typing or logging.
from __future__ import annotations

import errno
import os
import stat

import dreamlake.storage.local as local
from dreamlake.errors import CorruptTrackError
from dreamlake.storage.local import (
    NOFOLLOW,
    atomic_write,
    check_inside,
    make_dirs,
    open_plain,
    read_range,
    scan,
    write_new,
)
from dreamlake.storage.unchanged import forget, names_in, sizes_in, stamp_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Sequence
    from io import FileIO

    from dreamlake.storage.store import Entry
    from dreamlake.storage.unchanged import Sizes

_RELATIVE = os.stat in os.supports_dir_fd


def _names(folder: str | int) -> list[str]:
    return sorted([entry.name for entry in scan(folder) if not entry.is_dir(follow_symlinks=False)])


class LocalStore:
    """The contract of ``storage.store`` over a local folder.

    Parameters
    ----------
    root
        The folder; it need not exist before the first write.
    fsync
        Whether ``put`` makes sure that the file survives power loss. ``create`` always does.
    """

    def __init__(self, root: str | os.PathLike[str], *, fsync: bool = True) -> None:
        self.root = os.path.abspath(os.fspath(root))
        self._fsync = fsync
        self._inside: set[str] = set()  # folders known to lie inside the root, links resolved

    def __repr__(self) -> str:
        return f"LocalStore({self.root!r})"

    def describe(self, path: str = "") -> str:
        """The absolute path of ``path``."""
        return os.path.join(self.root, path) if path else self.root

    def list(self, path: str = "") -> list[Entry]:
        """The entries of one folder, sorted by name, links followed; none if there is no such folder."""
        from dreamlake.storage.store import Entry

        folder = self._folder(path)
        found = []
        for entry in scan(folder):
            try:
                status = entry.stat()
            except OSError:
                continue  # gone since, or a link to nothing
            is_dir = entry.is_dir(follow_symlinks=False)
            found.append(Entry(entry.name, 0 if is_dir else status.st_size, status.st_mtime, is_dir))
        return sorted(found, key=lambda entry: entry.name)

    def names(self, path: str = "") -> builtins.list[str]:
        """The names of the files in one folder, sorted: `list` without a system call for each file."""
        folder = self._folder(path)
        forget(folder)
        return _names(folder)

    def remembered_names(self, path: str = "") -> builtins.list[str]:
        """`names`, remembered for as long as the folder's own status says that they stand; see ``unchanged.py``."""
        return names_in(self._folder(path), _names)

    def walk(self, path: str = "") -> builtins.list[str]:
        """The paths, from the root on, of all files in ``path`` and the folders below, sorted."""
        self._folder(path)
        found = []
        left = [path]
        while left:
            folder = left.pop()
            try:
                for entry in scan(self.describe(folder)):
                    below = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        left.append(below)
                    elif entry.is_file():
                        found.append(below)
            except OSError as error:
                import logging

                logging.getLogger("dreamlake").warning("%s cannot be listed: %s", self.describe(folder), error.strerror)
        return sorted(found)

    def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``[start, stop)`` of a file: fewer, or none, when it ends before; to its end by default.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        CorruptTrackError
            A link in the path leads out of the root; it is no plain file, or too long to be one of a session.
        ValueError
            The path itself leads out of the root.
        """
        if start < 0 or (stop is not None and stop < 0):
            raise ValueError(f"a byte range begins and ends at 0 or above, not at {start} and {stop}")
        fd = self._open(path)
        try:
            size = os.fstat(fd).st_size
            return read_range(fd, self.describe(path), start, size if stop is None else min(stop, size))
        finally:
            os.close(fd)

    def open(self, path: str) -> FileIO:
        """A file, opened for reading: what is removed or replaced meanwhile is read to its end. Raises as `get`."""
        return os.fdopen(self._open(path), "rb", buffering=0)

    def identity(self, path: str) -> object | None:
        """What is another one where another file has this path; None where there is none, or one that is elsewhere."""
        folder, name = self._split(path)
        try:
            status = os.lstat(os.path.join(self._folder(folder), name))
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def size(self, path: str) -> int:
        """The length of a file in bytes."""
        folder, name = self._split(path)
        try:
            status = os.lstat(os.path.join(self._folder(folder), name))
        except OSError:
            status = None  # to open it says what is wrong
        if status is not None and stat.S_ISREG(status.st_mode):
            return status.st_size
        fd = self._open(path)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def sizes(self, path: str, names: Iterable[str]) -> builtins.list[int]:
        """The lengths of files in one folder, in bytes; 0 for one that is not there. Otherwise raises as `size`.

        The files must be such as are written once: their sizes are remembered as their names are.
        """
        folder = self._folder(path)
        return sizes_in(folder, [*names], lambda lacking: self._sizes(path, folder, lacking))

    def _sizes(self, path: str, folder: str, names: Sequence[str]) -> Sizes:
        at = stamp = None
        if _RELATIVE:  # a third less, where the kernel need not walk the whole path of each
            try:
                at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                return [0] * len(names), None, [0] * len(names)
        above = folder + os.sep if at is None else ""
        found, changes = [], []
        try:
            stamp = None if at is None else stamp_of(os.fstat(at))
            for name in names:
                size = changed = 0
                try:
                    status = os.lstat(above + name, dir_fd=at)
                    if stat.S_ISREG(status.st_mode):
                        size, changed = status.st_size, status.st_ctime_ns
                    else:
                        size = self.size(f"{path}/{name}")
                except FileNotFoundError:
                    size = 0
                found.append(size)
                changes.append(changed)
        finally:
            if at is not None:
                os.close(at)
        return found, stamp, changes

    def put(self, path: str, data: bytes) -> None:
        """Write a file, in the place of an older one: readers see all of the old or all of the new."""
        atomic_write(self._writable(path), data, self._fsync)

    def create(self, path: str, data: bytes) -> None:
        """Write a file that must be new: all of it appears, or nothing. Raises ``FileExistsError``."""
        write_new(self._writable(path), data)

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        folder, name = self._split(path)
        try:
            local.os_.unlink(os.path.join(self._folder(folder), name))
        except (FileNotFoundError, NotADirectoryError):
            return

    def _split(self, path: str) -> tuple[str, str]:
        folder, _, name = path.rpartition("/")
        if not name or name in (".", ".."):
            raise ValueError(f"{path!r} is not the path of a file")
        return folder, name

    def _folder(self, path: str) -> str:
        """The absolute path of a folder, which must lie inside the root whatever links are in it."""
        full = self.describe(path)
        if full in self._inside:
            return full
        parts = path.split("/") if path else []
        if "\0" in path or any(part in ("", ".", "..") or (os.sep != "/" and os.sep in part) for part in parts):
            raise ValueError(f"{path!r} is not a relative path below {self.root}")
        check_inside(self.root, full)
        if os.path.isdir(full):
            self._inside.add(full)
        return full

    def _writable(self, path: str) -> str:
        folder, name = self._split(path)
        full = self._folder(folder)
        make_dirs(full, self._fsync)
        return os.path.join(full, name)

    def _open(self, path: str) -> int:
        folder, name = self._split(path)
        full = os.path.join(self._folder(folder), name)
        try:
            return open_plain(full, os.O_RDONLY | NOFOLLOW)
        except NotADirectoryError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), full) from None
        except CorruptTrackError:
            if not os.path.islink(full):
                raise
        check_inside(self.root, full)
        return open_plain(full, os.O_RDONLY)
