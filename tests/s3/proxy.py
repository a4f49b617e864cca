"""A proxy before an S3 server: records every request, and makes trouble on demand. Signatures stay valid."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import parse_qs, unquote, urlsplit


class Fault(Enum):
    """Trouble that a request can meet."""

    RESET = auto()
    """The connection is reset, and the server never sees the request."""
    LOST_REPLY = auto()
    """The server acts, and the connection is reset before its reply."""
    UNAVAILABLE = auto()
    """503, which the server never sees."""
    SLOW_DOWN = auto()
    """503 with the error that S3 sends to those who ask too often; the server never sees it."""
    WEB_PAGE = auto()
    """404 and a web page, as from a server that is no S3 server."""
    TRUNCATED = auto()
    """Half of the reply's body, then a reset."""
    HANG = auto()
    """No answer, for ever."""


@dataclass
class Request:
    """One request that came by.

    Parameters
    ----------
    method, target
        As in its first line.
    range, condition
        Its ``Range``, and its ``If-Match`` or ``If-None-Match``; empty where it has none.
    status
        The status of the server's reply; 0 where none was asked or came.
    number
        Counts all requests, from 0.
    """

    method: str
    target: str
    range: str = ""
    condition: str = ""
    status: int = 0
    number: int = 0

    @property
    def key(self) -> str:
        """Bucket and key, or the prefix of a listing."""
        parts = urlsplit(self.target)
        prefix = parse_qs(parts.query).get("prefix", [""])[0]
        return unquote(parts.path).strip("/") + (f"/{prefix}" if prefix else "")

    @property
    def kind(self) -> str:
        """The method, ``LIST`` for a listing."""
        return "LIST" if "list-type=" in self.target else self.method


SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class Proxy:
    """A proxy on a free port, run by a thread of its own until `close`.

    ``latency`` is waited for before each request is passed on, in seconds; ``plan`` says of each request what trouble
    it meets, None for none; ``hold`` does the waiting. All may be changed at any time.
    """

    def __init__(self, upstream: int) -> None:
        self.latency = 0.0
        self.plan: Callable[[Request], Fault | None] = lambda request: None
        self.hold: Callable[[float], Awaitable[None]] = asyncio.sleep
        self.requests: list[Request] = []
        self._upstream = upstream
        self._serving: set[asyncio.Task[None] | None] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="s3-proxy")
        ready = threading.Event()
        self._loop.call_soon(ready.set)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._thread.start()
        ready.wait()

    @property
    def endpoint(self) -> str:
        """The URL to give as ``endpoint_url``."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @contextmanager
    def counting(self) -> Iterator[list[Request]]:
        """Fill a list, at the end of the block, with the requests made in it."""
        seen: list[Request] = []
        first = len(self.requests)
        yield seen
        seen += self.requests[first:]

    def fail(self, fault: Fault, method: str = "", key: str = "", times: int = 1 << 30) -> None:
        """Let the next `times` requests of this method (or ``LIST``), whose key holds `key`, meet `fault`."""
        left = [times]

        def plan(request: Request) -> Fault | None:
            if method not in ("", request.kind) or key not in request.key or not left[0]:
                return None
            left[0] -= 1
            return fault

        self.plan = plan

    def close(self) -> None:
        """End it, with whatever it is passing on."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())

    async def _end(self) -> None:
        self._server.close()
        # Also connections that were just taken: each is a task that makes the task which serves it.
        while running := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = None
        task = asyncio.current_task()
        # The loop refers to its tasks weakly: one that waits for a connection that is gone would be collected.
        self._serving.add(task)
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
            while await self._pass_on(reader, writer, *upstream):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, upstream[1] if upstream else writer):
                each.transport.abort()
            await asyncio.sleep(0)  # the transports close in the loop's next round
            self._serving.discard(task)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> bool:
        """One request and its reply; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        if b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
        request = self._recorded(head)
        fault = self.plan(request)
        body = await _body(reader, head)
        await self.hold(self.latency)
        if fault is Fault.HANG:
            await reader.read()  # until the client gives up
        if fault in (Fault.RESET, Fault.HANG):
            return False
        if fault in (Fault.UNAVAILABLE, Fault.SLOW_DOWN):
            said = SLOW_DOWN if fault is Fault.SLOW_DOWN and request.method != "HEAD" else b""
            writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))
            await writer.drain()
            return True
        if fault is Fault.WEB_PAGE:
            said = b"" if request.method == "HEAD" else b"<html>Not Found</html>"
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))
            await writer.drain()
            return True
        server.write(head + body)
        await server.drain()
        reply = await server_reader.readuntil(b"\r\n\r\n")
        while b" 100 " in reply.split(b"\r\n")[0]:
            reply = await server_reader.readuntil(b"\r\n\r\n")
        request.status = int(reply.split(b" ")[1])
        bodiless = request.method == "HEAD" or request.status in (204, 304)
        content = b"" if bodiless else await _body(server_reader, reply)
        if fault is Fault.LOST_REPLY:
            return False
        writer.write(reply + (content[: len(content) // 2] if fault is Fault.TRUNCATED else content))
        await writer.drain()
        if fault is Fault.TRUNCATED:
            await asyncio.sleep(0.01)  # what was written is to arrive before the reset
        return fault is not Fault.TRUNCATED

    def _recorded(self, head: bytes) -> Request:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        request = Request(method, target, _header(head, "range"), number=len(self.requests))
        request.condition = _header(head, "if-match") or _header(head, "if-none-match")
        self.requests.append(request)
        return request


def _header(head: bytes, name: str) -> str:
    found = re.search(rb"(?i)\r\n%s: *([^\r]*)" % name.encode(), head)
    return found[1].decode() if found else ""


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The body after this head, as it came."""
    if "chunked" not in _header(head, "transfer-encoding").lower():
        return await reader.readexactly(int(_header(head, "content-length") or 0))
    body = b""
    while True:
        line = await reader.readline()
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2 if size else 0)
        if not size:
            while (line := await reader.readline()) != b"\r\n":
                body += line
            return body + line
