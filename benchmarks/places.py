"""The S3 server of the tests and proxies before it, in a process of their own, so that they share no interpreter's lock
with what is measured.

The process imports this module, so nothing heavy may be imported at the top.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.harness import Settings, scratch
from benchmarks.lakes import child_environment


class Places:
    """A context manager: the server is up in its block.

    Parameters
    ----------
    folder
        Where the server keeps its data.
    """

    def __init__(self, folder: Path) -> None:
        code = f"from benchmarks.places import serve; serve({str(folder)!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
            text=True,
        )
        self._made: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._made = self._ask({})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()  # the end of its input is its end
        if self._process.returncode and error is None:
            raise RuntimeError("the process of the S3 server failed")

    @property
    def endpoint(self) -> str:
        """The server's own endpoint."""
        return str(self._made["endpoint"])

    def proxy(self, latency: float) -> str:
        """The endpoint of a new proxy that keeps each request for `latency` seconds before it passes it on."""
        return str(self._ask({"do": "proxy", "latency": latency})["endpoint"])

    def hang(self, endpoint: str) -> None:
        """From now on a proxy takes requests, and never answers."""
        self._ask({"do": "hang", "endpoint": endpoint})

    def close(self, endpoint: str) -> None:
        """End a proxy: its port is closed from now on."""
        self._ask({"do": "close", "endpoint": endpoint})

    def requests(self, endpoint: str) -> int:
        """How many requests came to a proxy so far."""
        return int(self._ask({"do": "count", "endpoint": endpoint})["requests"])

    def options(self, endpoint: str | None = None) -> dict[str, Any]:
        """Storage options for the server, or for a proxy."""
        return {**self._made["options"], "endpoint_url": endpoint or self.endpoint}

    def prefix(self) -> str:
        """The URL of a prefix that nobody has used."""
        return f"s3://{self._made['bucket']}/{uuid.uuid4().hex}"

    def filesystem(self, endpoint: str | None = None) -> Any:
        """An s3fs filesystem of its own, with a connection that is open already: what the floors use."""
        import s3fs

        options = self.options(endpoint)
        found = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
        found.exists(f"{self._made['bucket']}/.ready")
        return found

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the process of the S3 server ended")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def places(settings: Settings) -> Iterator[Places]:
    """A server for the block."""
    with scratch(settings) as folder, Places(folder) as found:
        yield found


def serve(folder: str) -> None:
    """In a process of its own: answer what is asked on the standard input, a line each, until that ends."""
    import logging

    from tests.s3.proxy import Fault, Proxy
    from tests.s3.server import BUCKET, S3Server

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # a proxy that ends amid requests, as is meant here
    server = S3Server(Path(folder))
    proxies: dict[str, Proxy] = {}
    try:
        for line in sys.stdin:
            question = json.loads(line)
            kind, endpoint = question.get("do"), question.get("endpoint")
            answer: dict[str, Any] = {}
            if kind is None:
                answer = {"endpoint": server.endpoint, "options": server.options(), "bucket": BUCKET}
            elif kind == "proxy":
                proxy = Proxy(server.port)
                proxy.latency = question["latency"]
                proxies[proxy.endpoint] = proxy
                answer = {"endpoint": proxy.endpoint}
            elif kind == "hang":
                proxies[endpoint].fail(Fault.HANG)
            elif kind == "close":
                proxies.pop(endpoint).close()
            elif kind == "count":
                answer = {"requests": len(proxies[endpoint].requests)}
            print(json.dumps(answer), flush=True)
    finally:
        for proxy in proxies.values():
            proxy.close()
        server.stop()
