"""Files on an SSH server, over sshfs with what a store needs beyond it.

sshfs reads the whole file where a range is asked for, does not connect again after its connection was lost, waits for
ever for a server that has fallen silent, and trusts whatever answers at an address. Here each of these is put right.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import asyncssh
from fsspec.asyn import sync, sync_wrapper
from sshfs import SSHFileSystem

from dreamlake.storage.faults import Refused
from dreamlake.storage.plain import PIECE, PlainFiles, entry_of
from dreamlake.storage.store import Entry

Made = TypeVar("Made")
Given = ParamSpec("Given")

#: What asyncssh is told unless the user says otherwise: seconds until a server must have let us in; seconds of silence
#: after which it is asked for a sign of life, and how often, until the connection counts as lost; and host keys as in
#: ~/.ssh/known_hosts, where sshfs would take any.
DEFAULTS = {"connect_timeout": 8, "keepalive_interval": 4, "keepalive_count_max": 3, "known_hosts": ()}
#: Requests side by side.
WIDTH = 32
#: Seconds until a request must be answered, and the bytes a second that a file must move at beyond that. A server can
#: be alive and its disk not.
TIMEOUT, SLOWEST = 15.0, 50_000

_LOST = (asyncssh.ConnectionLost, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.ChannelOpenError)
_ERRNO: dict[type[Exception], int] = {
    asyncssh.SFTPNoSuchFile: errno.ENOENT,
    asyncssh.SFTPNoSuchPath: errno.ENOENT,
    asyncssh.SFTPNotADirectory: errno.ENOENT,
    asyncssh.SFTPFileAlreadyExists: errno.EEXIST,
    asyncssh.SFTPPermissionDenied: errno.EACCES,
    asyncssh.SFTPWriteProtect: errno.EACCES,
    asyncssh.PermissionDenied: errno.EACCES,
    asyncssh.HostKeyNotVerifiable: errno.EACCES,
    asyncssh.SFTPNoSpaceOnFilesystem: errno.ENOSPC,
    asyncssh.SFTPQuotaExceeded: errno.EDQUOT,
    asyncssh.SFTPFileIsADirectory: errno.EISDIR,
    **dict.fromkeys(_LOST, errno.ECONNRESET),
    asyncssh.DisconnectError: errno.ECONNABORTED,
}


def _asking(method: Callable[Given, Awaitable[Made]]) -> Callable[Given, Awaitable[Made]]:
    """The method, asked once more when the connection was lost, with built-in errors."""

    @_telling
    @functools.wraps(method)
    async def asked(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        with suppress(*_LOST):
            return await method(*args, **kwargs)
        return await method(*args, **kwargs)

    return asked


def _telling(method: Callable[Given, Awaitable[Made]]) -> Callable[Given, Awaitable[Made]]:
    """The method with built-in errors."""

    @functools.wraps(method)
    async def told(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return await method(*args, **kwargs)
        except asyncssh.Error as error:
            failure = _built_in(error)
        raise failure

    return told


def _built_in(error: asyncssh.Error) -> OSError:
    number = next((_ERRNO[kind] for kind in type(error).__mro__ if kind in _ERRNO), errno.EIO)
    return OSError(number, error.reason)  # of the kind that fits the number


class Sftp(SSHFileSystem):  # type: ignore[misc]
    """The fsspec filesystem: connected when it is first asked for something, and again when that was lost.

    Parameters
    ----------
    host
        The server.
    options
        Of sshfs, which hands most of them to ``asyncssh.connect``: ``username``, ``password``, ``client_keys``, …
    """

    protocol = ("sftp", "ssh")  # which sshfs leaves to the registry

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(host, **{**DEFAULTS, **options})

    def connect(self, host: str, pool_type: Any, *, connect_args: Any, sftp_client_kwargs: Any, **_: Any) -> Any:
        """What sshfs calls for its connection and its channels."""
        return None, _Channel(host, connect_args, sftp_client_kwargs)

    @staticmethod
    def _finalize(loop: asyncio.AbstractEventLoop, channel: _Channel, stack: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed, and its connections with it
            loop.call_soon_threadsafe(channel.abort)

    def disconnect(self) -> None:
        """Close the connection."""
        sync(self.loop, self._pool.close)

    # ------------------------------------------------------------------------------------------------ reading

    @_asking
    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        async with self._pool.get() as sftp:
            return {**self._decode_attributes(await sftp.stat(path)), "name": path}

    @_asking
    async def _ls(self, path: str, detail: bool = True, **_: Any) -> builtins.list[Any]:
        async with self._pool.get() as sftp:
            found = [each for each in await sftp.readdir(path) if each.filename not in (".", "..")]
            infos = [{**self._decode_attributes(each.attrs), "name": f"{path}/{each.filename}"} for each in found]
            for info in infos:
                if info["type"] == "link":
                    info["islink"] = True
                    with suppress(asyncssh.SFTPError):  # it leads nowhere
                        info.update(self._decode_attributes(await sftp.stat(info["name"])))
        return infos if detail else [info["name"] for info in infos]

    @_asking
    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        first = start or 0
        count = (await self._info(path))["size"] - first if end is None else end - first
        if count <= 0:
            return b""
        async with self._pool.get(count) as sftp, sftp.open(path, "rb") as file:
            return bytes(await file.read(count if end is not None else -1, first))

    # ------------------------------------------------------------------------------------------------ writing

    @_asking
    async def _pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        async with self._pool.get(len(value)) as sftp, sftp.open(path, "wb") as file:
            await file.write(value)
            await _fsync(file)

    @_asking
    async def _put_file(self, lpath: str, rpath: str, callback: Any = None, **_: Any) -> None:
        with open(lpath, "rb") as source:
            size = os.fstat(source.fileno()).st_size
            async with self._pool.get(size) as sftp, sftp.open(rpath, "wb") as file:
                while piece := source.read(PIECE):
                    await file.write(piece)
                    if callback is not None:
                        callback.relative_update(len(piece))
                await _fsync(file)

    @_asking
    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        async with self._pool.get() as sftp:
            if not await sftp.isdir(path):
                await sftp.makedirs(path, exist_ok=exist_ok)

    makedirs = sync_wrapper(_makedirs)  # sshfs binds its own

    @_asking
    async def _rm_file(self, path: str, **_: Any) -> None:
        async with self._pool.get() as sftp:
            await sftp.remove(path)

    @_telling
    async def _mv(self, path1: str, path2: str, new: bool = False, **_: Any) -> None:
        """Rename a file whose name nobody else uses; with `new`, there must be none of the other name."""
        with suppress(*_LOST):
            return await self._rename(path1, path2, new)
        async with self._pool.get() as sftp:
            if not await sftp.lexists(path1):
                return None  # it went through, and the reply was lost
        return await self._rename(path1, path2, new)

    async def _rename(self, path1: str, path2: str, new: bool) -> None:
        async with self._pool.get() as sftp:
            await (sftp.rename if new else sftp.posix_rename)(path1, path2)


class _Channel:
    """The connection to a server, in the place of sshfs's pool: requests share one channel, which numbers them."""

    def __init__(self, host: str, options: dict[str, Any], sftp_options: dict[str, Any]) -> None:
        self._host = host
        self._options = options
        self._sftp_options = sftp_options
        self._opening = asyncio.Lock()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._sftp: asyncssh.SFTPClient | None = None

    @asynccontextmanager
    async def get(self, size: int = 0) -> AsyncIterator[asyncssh.SFTPClient]:
        """The channel, for requests that move `size` bytes; when they take too long, the connection is given up."""
        async with self._opening:
            if self._sftp is None:
                self.abort()
                self._connection = await asyncssh.connect(self._host, **self._options)
                self._sftp = await self._connection.start_sftp_client(**self._sftp_options)
            sftp, connection = self._sftp, self._connection
            assert connection is not None
        # Not by a cancellation, after which the file would be closed: by one more request.
        watch = asyncio.get_running_loop().call_later(TIMEOUT + size / SLOWEST, connection.abort)
        try:
            yield sftp
        except _LOST:
            if self._sftp is sftp:  # else another request has noticed, and there is a new one
                self.abort()
            raise
        finally:
            watch.cancel()

    def abort(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            self._connection.abort()
        self._connection = self._sftp = None

    async def close(self) -> None:
        """Give the connection up, and wait until its socket is closed."""
        connection = self._connection
        self.abort()
        if connection is not None:
            await connection.wait_closed()


async def _fsync(file: asyncssh.SFTPClientFile) -> None:
    with suppress(asyncssh.SFTPOpUnsupported):
        await file.fsync()


class SftpFiles(PlainFiles):
    """The files below one folder of a server.

    Parameters
    ----------
    fs
        The filesystem, of which this object is the only user.
    root
        The folder.
    """

    _fs: Sftp

    def __init__(self, fs: Sftp, root: str) -> None:
        super().__init__(fs, root)
        self._links = True  # by a rename that does not replace

    def close(self) -> None:
        """Close the connection."""
        self._fs.disconnect()

    def walk(self, folder: str) -> builtins.list[Entry]:
        """All files below a folder, their names being the paths from there on; folders are listed side by side."""
        return sync(self._fs.loop, self._walk, self._path(folder))  # type: ignore[no-any-return]

    async def _walk(self, top: str) -> builtins.list[Entry]:
        gate = asyncio.Semaphore(WIDTH)

        async def look(folder: str) -> builtins.list[dict[str, Any]]:
            async with gate:
                with suppress(FileNotFoundError):
                    return await self._fs._ls(folder)
                return []

        files, level = [], [top]
        while level:
            infos = [info for found in await asyncio.gather(*map(look, level)) for info in found]
            level = [info["name"] for info in infos if info["type"] == "directory" and not info.get("islink")]
            files += [entry_of(info, info["name"][len(top) + 1 :]) for info in infos if info["type"] != "directory"]
        return files

    def _link_new(self, path: str, data: bytes) -> None:
        full = self._writable(path)
        beside = self._write_beside(full, data)
        try:
            self._fs.mv(beside, full, new=True)
        except OSError:
            self._remove_quietly(beside)
            # Half of the servers say "failure" to all that has no number in the third version of the protocol.
            with suppress(FileNotFoundError):
                raise Refused(self.stat(path).version) from None
            raise
