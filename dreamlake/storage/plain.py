"""Files of any fsspec filesystem, by what all of them have: whole files, listings, sizes and times.

None of them is asked for conditional writes. A version is what the filesystem tells of a file (size, times, an ETag),
looked at just before a write: another process can slip in between. Within this process nothing does.
"""

from __future__ import annotations

import builtins
import os
import threading
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fsspec.callbacks import Callback

from dreamlake.storage.faults import Cancelled, Refused
from dreamlake.storage.local import check_inside
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.store import Entry, Stat

#: Filesystems on which a plain write can be seen half done, and that can rename.
_RENAMING = frozenset({"file", "local", "sftp", "ssh", "smb", "webdav", "webdavs", "dav", "davs", "hdfs", "ftp"})
#: Filesystems that are known to bear several threads at once, beside all with an event loop.
_THREADED = frozenset({"file", "local", "memory"})
#: Bytes up to which a file is written in one piece.
PIECE = 16 << 20
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "timeModified", "created")
_VERSION = ("ETag", "etag", "md5Hash", "generation", "ino", "size", *_TIMES)

# For all stores of the process, since two of them may look at one place: a path has always the same of them.
_locks = [threading.RLock() for _ in range(64)]


def _in_child() -> None:
    _locks[:] = [threading.RLock() for _ in _locks]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class PlainFiles:
    """The files below one folder of a filesystem.

    Parameters
    ----------
    fs
        The fsspec filesystem.
    root
        The folder, as `fs` writes it.
    """

    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
        self._renames = bool(protocols & _RENAMING)
        self._links = bool(protocols & {"file", "local"}) and hasattr(os, "link")
        # A disk of this machine, whose links and pipes a stranger may have made, is read as one.
        self._local = LocalStore(root) if self._links else None
        self._is_memory = "memory" in protocols
        self._is_async = bool(getattr(fs, "async_impl", False))
        self.width = 32 if self._is_async else 8 if protocols & _THREADED else 1
        self._one_at_a_time: Any = threading.RLock() if self.width == 1 else None
        self._made: set[str] = set()

    def close(self) -> None:
        """Let go of the filesystem, which closes what it has open when it is collected."""
        self._fs = None

    # ------------------------------------------------------------------------------------------------ reading

    def list(self, folder: str) -> list[Entry]:
        """The entries of one folder; none if there is no such folder."""
        return [entry for entry, _ in self._listed(folder)]

    def walk(self, folder: str) -> builtins.list[Entry]:
        """All files below a folder, their names being the paths from there on."""
        if self._is_async or self._is_memory:
            top = self._path(folder)
            found = self._do(self._fs.find, top, detail=True)
            return [entry_of(info, name[len(top) + 1 :]) for name, info in found.items() if name != top]
        files, left = [], [""]
        while left:
            below = left.pop()
            for entry, leads_on in self._listed(f"{folder}/{below}".strip("/")):
                name = f"{below}/{entry.name}".lstrip("/")
                if entry.is_dir:
                    left.append(name)
                elif not leads_on:
                    files.append(replace(entry, name=name))
        return files

    def get(self, path: str, start: int, stop: int | None) -> bytes:
        """The bytes ``[start, stop)``."""
        if stop is not None and stop <= start:
            self.stat(path)
            return b""
        if self._local is not None:
            return self._local.get(path, start, stop)
        # Without a range some filesystems ask for the size first. Half of them take no end beyond the file's.
        return bytes(self._do(self._fs.cat_file, self._path(path), start=start, end=stop))

    def get_many(self, wanted: Sequence[tuple[str, int, int | None]]) -> builtins.list[bytes | Exception]:
        """Ranges of several files, side by side where the filesystem can; what failed is in the place of its bytes."""
        if self._local is not None:
            return [self._got(*each) for each in wanted]
        paths = [self._path(path) for path, _, _ in wanted]
        starts, stops = [start for _, start, _ in wanted], [stop for _, _, stop in wanted]
        found = self._do(self._fs.cat_ranges, paths, starts, stops, on_error="return")
        return [each if isinstance(each, Exception) else bytes(each) for each in found]

    def _got(self, path: str, start: int, stop: int | None) -> bytes | Exception:
        try:
            return self.get(path, start, stop)
        except (OSError, ValueError) as error:
            return error

    def read(self, path: str) -> tuple[bytes, str]:
        """A whole file and its version, which is looked at first: an older one only makes a later write be refused."""
        with self._writing(path):
            version = self.stat(path).version
            return self.get(path, 0, None), version

    def stat(self, path: str) -> Stat:
        """Size, time and version of a file."""
        info = self._do(self._fs.info, self._path(path))
        if info.get("type") == "directory":
            raise FileNotFoundError(path)
        return Stat(int(info.get("size") or 0), _time(info), _version(info))

    # ------------------------------------------------------------------------------------------------ writing

    def put(self, path: str, data: bytes) -> str:
        """Write a file, whatever is there; its version."""
        with self._writing(path):
            full = self._writable(path)
            if self._renames:
                beside = self._write_beside(full, data)
                try:
                    self._do(self._fs.mv, beside, full)
                except BaseException:
                    self._remove_quietly(beside)
                    raise
            else:
                self._do(self._fs.pipe_file, full, data)
            return self.stat(path).version

    def put_file(self, path: str, local_path: str, watch: Callable[[int], bool]) -> str:
        """Write a file of any size from one on this machine, piece by piece; its version."""
        full = self._writable(path)
        with open(local_path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= PIECE:
                version = self.put(path, file.read())
                watch(size)
                return version
        # Not under the lock of the writes: it may take hours, and asks nothing of what is there.
        beside = f"{full.rpartition('/')[0]}/.tmp-{os.getpid()}-{uuid.uuid4().hex}" if self._renames else full
        try:
            self._do(self._fs.put_file, local_path, beside, callback=_Watch(watch, self._renames or self._is_async))
            if self._renames:
                self._do(self._fs.mv, beside, full)
        except BaseException:
            if self._renames:
                self._remove_quietly(beside)
            raise
        return self.stat(path).version

    def put_if(self, path: str, data: bytes, version: str | None) -> str:
        """Write a file in the place of that version, or (None) where there is none; raises ``Refused``."""
        with self._writing(path):
            try:
                there = self.stat(path).version
            except (FileNotFoundError, NotADirectoryError):
                there = None
            if there != version:
                raise Refused(there)
            if version is None and self._links:
                self._link_new(path, data)
                return self.stat(path).version
            return self.put(path, data)

    put_if_unchanged = put_if

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        if self._local is not None:
            self._local.delete(path)
            return
        try:
            self._do(self._fs.rm_file, self._path(path))
        except (FileNotFoundError, NotADirectoryError):
            return

    def probe(self) -> bool:
        """Whether conditional writes are sure: never, here."""
        return False

    # ------------------------------------------------------------------------------------------------ details

    def _do(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        if self._one_at_a_time is None:
            return call(*args, **kwargs)
        with self._one_at_a_time:
            return call(*args, **kwargs)

    def _writing(self, path: str) -> threading.RLock:
        """The lock to hold from the look at a file's version until the file is written."""
        return _locks[zlib.crc32(self._path(path).lstrip("/").encode()) % len(_locks)]

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root or self._fs.root_marker

    def _listed(self, folder: str) -> builtins.list[tuple[Entry, bool]]:
        """The entries of a folder, and of each whether it is a link to a folder."""
        top = self._path(folder)
        try:
            infos = self._do(self._fs.ls, top, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        named = [(info, info["name"].rstrip("/").rpartition("/")[2]) for info in infos]
        # A file is listed as the only entry of itself, an empty folder's marker as one without a name.
        same = top.rstrip("/").lstrip("/")
        return [
            (entry_of(info, name), bool(info.get("islink")) and self._do(self._fs.isdir, info["name"]))
            for info, name in named
            if name and info["name"].rstrip("/").lstrip("/") != same
        ]

    def _writable(self, path: str) -> str:
        full = self._path(path)
        folder = full.rpartition("/")[0]
        if self._local is not None:
            check_inside(self._local.root, folder)
        if not self._is_memory and folder not in self._made:
            self._do(self._fs.makedirs, folder, exist_ok=True)
            self._made.add(folder)
        return full

    def _write_beside(self, full: str, data: bytes) -> str:
        folder = full.rpartition("/")[0]
        known = folder in self._made
        try:
            return self._write_in(folder, data)
        except FileNotFoundError:
            if not known:
                raise
        self._do(self._fs.makedirs, folder, exist_ok=True)  # it was there, and was removed since
        self._made.add(folder)
        return self._write_in(folder, data)

    def _write_in(self, folder: str, data: bytes) -> str:
        beside = f"{folder}/.tmp-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            self._do(self._fs.pipe_file, beside, data)
        except BaseException:
            self._made.discard(folder)
            self._remove_quietly(beside)
            raise
        return beside

    def _link_new(self, path: str, data: bytes) -> None:
        full = self._writable(path)
        beside = self._write_beside(full, data)
        try:
            os.link(beside, full)
        except FileExistsError:
            raise Refused(self.stat(path).version) from None
        finally:
            self._remove_quietly(beside)

    def _remove_quietly(self, full: str) -> None:
        try:
            self._do(self._fs.rm_file, full)
        except Exception:  # the first error counts, and a leftover is swept
            return


class _Watch(Callback):  # type: ignore[misc]
    """What fsspec tells of a transfer, on its way to the one who watches it.

    Parameters
    ----------
    may_end
        Whether the transfer can be ended half-way; some filesystems would keep what has come by then.
    """

    def __init__(self, watch: Callable[[int], bool], may_end: bool) -> None:
        super().__init__()
        self._watch = watch
        self._may_end = may_end

    def relative_update(self, inc: int = 1) -> None:
        """So many bytes have gone."""
        if not self._watch(inc) and self._may_end:
            raise Cancelled

    def absolute_update(self, value: int) -> None:
        """So many bytes have gone in all."""
        self.value, before = value, self.value
        self.relative_update(value - before)


def entry_of(info: dict[str, Any], name: str) -> Entry:
    """What fsspec tells of a file or folder, under this name."""
    if info.get("type") == "directory":
        return Entry(name, 0, 0.0, not info.get("islink"))
    return Entry(name, int(info.get("size") or 0), _time(info), False, _version(info))


def _version(info: dict[str, Any]) -> str:
    """What tells one version of a file from another, the same in a listing and for the file alone."""
    found = [info[key] for key in _VERSION if key in info]
    # In one of the two, some filesystems give a time as seconds and in the other as an object.
    return "|".join(f"{each.timestamp() if isinstance(each, datetime) else each}" for each in found)


def _time(info: dict[str, Any]) -> float:
    """Seconds since the epoch of the last change, in whichever form a filesystem gives it; 0.0 where it does not."""
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0
