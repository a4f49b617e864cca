"""The store over a URL: any fsspec filesystem, S3 above all. This is the only door to fsspec.

It makes a filesystem of its own, without caches of listings, which would be stale, and a new one in a forked child,
where the inherited one is dead. ``s3.py`` and ``plain.py`` say how each thing is asked of it; ``faults.py`` makes
built-in errors of what it raises.
"""

from __future__ import annotations

import builtins
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dreamlake.storage.faults import Cancelled as Cancelled
from dreamlake.storage.faults import Refused, Secrets, translated

if TYPE_CHECKING:
    from dreamlake.storage.plain import PlainFiles
    from dreamlake.storage.s3 import Arrival, S3Objects
    from dreamlake.storage.store import Entry, Stat

Made = TypeVar("Made")

_S3 = frozenset({"s3", "s3a"})
_SFTP = frozenset({"sftp", "ssh"})

# Filesystems inherited by a fork. Their end would close sockets and event queues under the parent, so they never end.
_inherited: list[Any] = []


class ObjectChanged(OSError):
    """A file is not the version that was to be replaced. ``version`` is what is there; None: nothing."""

    def __init__(self, place: str, version: str | None) -> None:
        self.version = version
        self.place = place
        super().__init__(errno.EBUSY, "it was replaced by another writer" if version else "it is gone", place)

    def __reduce__(self) -> tuple[type[ObjectChanged], tuple[str, str | None]]:
        return type(self), (self.place, self.version)


class RemoteStore:
    """The contract of ``storage.store`` over a URL; usable from any thread, in a running event loop, and after a fork.

    What it raises is a built-in error with the URL of the file, and never a secret: ``FileNotFoundError``,
    ``FileExistsError``, ``PermissionError`` (also for wrong credentials), ``TimeoutError``, ``ConnectionError``, and
    ``OSError`` for the rest. Requests to S3 are repeated while that may help, for some 8 seconds.

    Parameters
    ----------
    url
        The root, such as ``s3://bucket/prefix``.
    storage_options
        Options of the fsspec filesystem. For S3, ``config_kwargs`` (of botocore) may set ``connect_timeout`` and
        ``read_timeout``, in seconds; they are 4 and 15.

    Raises
    ------
    ValueError
        No such kind of URL, or options that its filesystem does not take.
    ImportError
        The package that reads such URLs is not installed.
    """

    is_local = False

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._url = url
        self._options = dict(storage_options or {})
        self._secrets = Secrets(url, self._options)
        self._name = shown(url)
        self._conditional: bool | None = None
        self._held: tuple[int, S3Objects | PlainFiles | None] = os.getpid(), self._connect()

    def __repr__(self) -> str:
        return f"RemoteStore({self._name!r})"

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str, dict[str, Any]]]:
        return type(self), (self._url, self._options)

    def close(self) -> None:
        """Close the connections that are kept open; the next call opens new ones."""
        owner, files = self._held
        if files is not None and owner == os.getpid():
            self._held = owner, None
            files.close()

    @property
    def width(self) -> int:
        """How many reads are best made side by side."""
        return self._files.width

    @property
    def at_once(self) -> bool:
        """Whether what can be asked for at once should be; only where a file that is replaced is never missing."""
        return getattr(self._files, "at_once", False)

    @property
    def conditional(self) -> bool:
        """Whether `create` and `replace_if` are sure to notice other writers.

        Found out by a probe, which writes and removes a small file, when it is first asked or needed. Where it is
        False they look at size and time just before they write: best effort, since another writer can slip in between.
        """
        if self._conditional is None:
            self._conditional = self._do("", lambda files: files.probe())
        return self._conditional

    # ------------------------------------------------------------------------------------------------ reading

    def describe(self, path: str = "") -> str:
        """The URL of ``path``, without user-info and query."""
        return self._name + ("" if not path or self._name.endswith("/") else "/") + path

    def list(self, path: str = "") -> builtins.list[Entry]:
        """The entries of one folder, sorted by name; none if there is no such folder. One LIST a 1,000 on S3."""
        folder = _folder(path)
        return sorted(self._do(path, lambda files: files.list(folder)), key=lambda entry: entry.name)

    def walk(self, path: str = "") -> builtins.list[str]:
        """The paths, from the root on, of all files in ``path`` and below, sorted. One LIST a 1,000 on S3."""
        above = f"{path}/" if path else ""
        return sorted(above + entry.name for entry in self.tree(path))

    def tree(self, path: str = "") -> builtins.list[Entry]:
        """All files in ``path`` and below, their names being the paths from there on."""
        folder = _folder(path)
        try:
            return self._do(path, lambda files: files.walk(folder))
        except FileNotFoundError:
            return []

    def page(self, path: str, after: str = "") -> tuple[builtins.list[Entry], bool]:
        """A thousand of the files of `tree` by one LIST, in the order of their keys; where `at_once` is true.

        Parameters
        ----------
        after
            Only those that come behind this one; the first ones by default.

        Returns
        -------
        tuple[list[Entry], bool]
            The files, and whether there are more behind them.
        """
        folder = _folder(path)
        return self._do(path, lambda files: files.page(folder, after))  # type: ignore[union-attr]

    def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``[start, stop)`` of a file, to its end by default; fewer, or none, when it ends before.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """
        _check_range(start, stop)
        _file(path)
        return self._do(path, lambda files: files.get(path, start, stop))

    def get_many(self, wanted: Iterable[tuple[str, int, int | None]]) -> builtins.list[bytes | Exception]:
        """Byte ranges of several files, side by side.

        Parameters
        ----------
        wanted
            Path, start and stop of each, as for `get`.

        Returns
        -------
        list[bytes | Exception]
            The bytes of each, or what `get` would have raised.
        """
        ranges = [(_file(path), *_check_range(start, stop)) for path, start, stop in wanted]
        found = self._do("", lambda files: files.get_many(ranges))
        return [
            each if isinstance(each, bytes) else translated(each, self.describe(path), self._secrets)
            for each, (path, _, _) in zip(found, ranges, strict=True)
        ]

    @contextmanager
    def arrivals(self, wanted: Iterable[tuple[str, int, int | None]]) -> Iterator[Callable[[], Arrival]]:
        """Byte ranges as for `get_many`, given out one by one as they come, in bounded memory; where `at_once` is true.

        Yields
        ------
        Callable[[], tuple[int, bytes | Exception]]
            Waits for the next one that comes: its place in `wanted`, and its bytes or what `get` would have raised. To
            be called once for each, from any thread. What is not there yet when the block ends is given up.
        """
        ranges = [(_file(path), *_check_range(start, stop)) for path, start, stop in wanted]
        with self._files.arrivals(ranges) as take:  # type: ignore[union-attr]

            def translating() -> Arrival:
                number, found = take()
                if isinstance(found, Exception):
                    found = translated(found, self.describe(ranges[number][0]), self._secrets)
                return number, found

            yield translating

    def read(self, path: str) -> tuple[bytes, str]:
        """A whole file and its version, for `replace_if`. Raises ``FileNotFoundError``."""
        _file(path)
        return self._do(path, lambda files: files.read(path))

    def stat(self, path: str) -> Stat:
        """Size, time and version of a file. Raises ``FileNotFoundError``."""
        _file(path)
        return self._do(path, lambda files: files.stat(path))

    def size(self, path: str) -> int:
        """The length of a file in bytes. Raises ``FileNotFoundError``."""
        return self.stat(path).size

    # ------------------------------------------------------------------------------------------------ writing

    def put(self, path: str, data: bytes) -> None:
        """Write a file, in the place of an older one."""
        _file(path)
        self._do(path, lambda files: files.put(path, data))

    def put_file(
        self, path: str, local_path: str | os.PathLike[str], watch: Callable[[int], bool] = lambda nbytes: True
    ) -> str:
        """Write a file of any size from one on this machine, in the place of an older one, in bounded memory.

        Parameters
        ----------
        watch
            Is told how many bytes have gone since the last call, from any thread, and returns whether to go on. How
            often, depends on the filesystem.

        Returns
        -------
        str
            The version that is there now.

        Raises
        ------
        OSError
            Of the local file, with its path as file name; or of the remote one.
        Cancelled
            `watch` said so. What was there before is untouched.
        """
        _file(path)
        source = os.fspath(local_path)
        with open(source, "rb"):  # what is wrong with it is told as it is, not as trouble with the URL
            pass
        return self._do(path, lambda files: files.put_file(path, source, watch))

    def create(self, path: str, data: bytes) -> None:
        """Write a file that must be new.

        On S3, one that holds these very bytes already counts as created: so it looks when the reply to a write was
        lost. Other writers are noticed for sure where `conditional` is true.

        Raises
        ------
        FileExistsError
            There is one with other bytes; it is untouched.
        """
        self.replace_if(path, data, None)

    def replace_if(self, path: str, data: bytes, version: str | None) -> str:
        """Write a file in the place of one version of it, or (None) where there is none, as `create`.

        Returns
        -------
        str
            The version that is there now.

        Raises
        ------
        FileExistsError
            `version` is None, and there is a file with other bytes.
        ObjectChanged
            Another version is there, or none; it is untouched.
        """
        _file(path)
        sure = self.conditional
        try:
            return self._do(
                path,
                lambda files: (files.put_if if sure else files.put_if_unchanged)(path, data, version),
            )
        except Refused as error:
            there = error.version
        if version is None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.describe(path))
        raise ObjectChanged(self.describe(path), there)

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        _file(path)
        self._do(path, lambda files: files.delete(path))

    # ------------------------------------------------------------------------------------------------ details

    @property
    def _files(self) -> S3Objects | PlainFiles:
        owner, files = self._held
        if files is None or owner != os.getpid():
            _inherited.append(files)
            files = self._connect()
            self._held = os.getpid(), files
        return files

    def _do(self, path: str, work: Callable[[S3Objects | PlainFiles], Made]) -> Made:
        """What `work` makes of the filesystem; its errors translated, without the original in their context."""
        try:
            return work(self._files)
        except (Refused, Cancelled):
            raise
        except Exception as error:
            failure = translated(error, self.describe(path), self._secrets)
        raise failure

    def _connect(self) -> S3Objects | PlainFiles:
        scheme, _, rest = self._url.partition("://")
        scheme = scheme.lower()
        if scheme in _S3 and ("@" in rest.partition("/")[0] or "?" in rest):
            raise ValueError("an s3:// URL takes no user and no query; credentials and the like are storage_options")
        options = {**self._options, "use_listings_cache": False, "skip_instance_cache": True}
        url = self._url
        if scheme == "file":
            url = "file://" + url2pathname(urlsplit(url).path)
        failure: Exception
        try:
            return (_s3 if scheme in _S3 else _sftp if scheme in _SFTP else _plain)(url, options)
        except ImportError as error:
            failure = ImportError(f"{scheme}:// URLs need another package: {self._secrets.clean(str(error))}")
        except Exception as error:
            failure = ValueError(f"{self._name} cannot be opened: {self._secrets.clean(str(error))}")
        raise failure


def _s3(url: str, options: dict[str, Any]) -> S3Objects:
    from fsspec.core import url_to_fs

    from dreamlake.storage.s3 import S3Objects, options_for

    return S3Objects(*url_to_fs(url, **options_for(options)))


def _sftp(url: str, options: dict[str, Any]) -> PlainFiles:
    try:
        from dreamlake.storage.sftp import Sftp, SftpFiles
    except ModuleNotFoundError as error:
        raise ImportError('pip install "dreamlake[sftp]"') from error
    given = {**Sftp._get_kwargs_from_urls(url), **options}
    del given["use_listings_cache"]  # what sshfs does not know goes to asyncssh, which does not know it either
    return SftpFiles(Sftp(**given), Sftp._strip_protocol(url))


def _plain(url: str, options: dict[str, Any]) -> PlainFiles:
    from fsspec.core import url_to_fs

    from dreamlake.storage.plain import PlainFiles

    return PlainFiles(*url_to_fs(url, **options))


def shown(url: str) -> str:
    """The URL for people."""
    scheme, _, rest = url.partition("://")
    rest = re.split(r"[?#]", rest)[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/") if rest else f"{scheme}://"


def _folder(path: str) -> str:
    if path and (path[0] == "/" or not _is_below(path)):
        _refuse(path)
    return path


def _file(path: str) -> str:
    if not _is_below(path):
        _refuse(path)
    return path


def _is_below(path: str) -> bool:
    return "\0" not in path and not any(part in ("", ".", "..") for part in path.split("/"))


def _refuse(path: str) -> NoReturn:
    raise ValueError(f"{path!r} is not a relative path below the root")


def _check_range(start: int, stop: int | None) -> tuple[int, int | None]:
    if start < 0 or (stop is not None and stop < 0):
        raise ValueError(f"a byte range begins and ends at 0 or above, not at {start} and {stop}")
    return start, stop
