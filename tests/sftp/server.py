"""An SFTP server of this process, by asyncssh: on a free port, over a folder, with trouble on demand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

Made = TypeVar("Made")

USER, PASSWORD = "dreamlake-test", "test pass/word-0123456789"


class SftpServer:
    """A running server, run by a thread of its own until `stop`.

    ``silent`` set, it takes requests and answers none. ``lose`` names requests (``posix_rename``) of which the next
    is done, and its connection cut before the reply; ``before`` is called once before the next. ``asked`` are the
    names of all requests.

    Parameters
    ----------
    folder
        What it shows as its root; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.silent = False
        self.lose: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        self.asked: list[str] = []
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sftp-server")
        self._thread.start()
        self._listener: asyncssh.SSHAcceptor | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._listener = self._do(self._listen())
        self.port = self._listener.get_port()

    def pause(self) -> None:
        """Listen no longer, and cut every connection."""
        self._do(self._unlisten())

    def cut(self) -> int:
        """Cut every connection; how many there were."""
        return self._do(self._cut())

    def stop(self) -> None:
        """End it."""
        self.pause()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The URL of its root, without a user."""
        return f"sftp://127.0.0.1:{self.port}"

    def options(self) -> dict[str, Any]:
        """Storage options that let one in."""
        known = f"[127.0.0.1]:{self.port} {self.key.export_public_key().decode()}".encode()
        return {"username": USER, "password": PASSWORD, "known_hosts": known, "client_keys": None, "config": None}

    def _do(self, work: Coroutine[Any, Any, Made]) -> Made:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_host_keys=[self.key],
            server_factory=lambda: _Door(self._connections),
            sftp_factory=lambda channel: _Files(self, channel),
        )

    async def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
            self._listener = None
        await self._cut()

    async def _cut(self) -> int:
        cut = list(self._connections)
        for connection in cut:
            connection.abort()
        for connection in cut:
            await connection.wait_closed()
        return len(cut)


class _Door(asyncssh.SSHServer):
    def __init__(self, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._connections = connections

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._mine = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._mine)

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, PASSWORD)


def _counted(name: str) -> Any:
    """The request of this name as asyncssh does it, counted, and with the trouble that is planned."""
    real = getattr(asyncssh.SFTPServer, name)

    async def request(self: _Files, *args: Any) -> Any:
        self._server.asked.append(name)
        while self._server.silent:
            await asyncio.sleep(0.01)
        self._server.before.pop(name, lambda: None)()
        found = real(self, *args)
        if name in self._server.lose:
            self._server.lose.remove(name)
            self._channel.get_connection().abort()
        return found

    return request


class _Files(asyncssh.SFTPServer):
    def __init__(self, server: SftpServer, channel: Any) -> None:
        self._server = server
        self._channel = channel
        super().__init__(channel, chroot=str(server.folder).encode())

    open, read, write, stat, lstat, fsync = map(_counted, ("open", "read", "write", "stat", "lstat", "fsync"))
    rename, posix_rename, remove, mkdir = map(_counted, ("rename", "posix_rename", "remove", "mkdir"))
