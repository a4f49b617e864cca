"""Objects of an S3 bucket: one request for each thing asked, conditional writes, and one policy of retries.

s3fs gives the client, with credentials and options in all the usual ways. What it adds to a request (a HEAD before a
GET, a second LIST, five retries each in turn repeated, multipart uploads without conditions) is not used.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from queue import SimpleQueue
from typing import Any, BinaryIO, TypeVar

import aiohttp
import botocore.exceptions
import botocore.utils
from aiobotocore.config import AioConfig
from fsspec.asyn import sync

from dreamlake.storage.faults import Cancelled, Refused, response_of
from dreamlake.storage.store import Entry, Stat

Made = TypeVar("Made")
#: Which of the things that were asked for came, and its bytes, or what went wrong.
Arrival = tuple[int, bytes | Exception]

#: Requests side by side, and connections kept.
WIDTH = 32
#: Seconds until a server must have taken a connection, and until it must have sent its next bytes.
CONNECT_TIMEOUT, READ_TIMEOUT = 4.0, 15.0
#: Bytes a second below which an upload counts as stuck.
SLOWEST = 50_000
#: Bytes up to which a file is sent by one PUT, and of the parts of a larger one; and parts on their way at once.
PIECE, PARTS_AT_ONCE = 8 << 20, 2
#: Parts that an object has at most.
MOST_PARTS = 10_000
#: Attempts at one request; from the third on, none begins later than PATIENCE seconds after the first.
ATTEMPTS, PATIENCE = 5, 8.0

_PASSING = frozenset(
    {
        "ConditionalRequestConflict",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)
_CUT_OFF = (
    TimeoutError,
    ConnectionError,
    aiohttp.ClientError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
)


def options_for(options: dict[str, Any]) -> dict[str, Any]:
    """The storage options with timeouts, where the user has set none, and without retries."""
    config = {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "max_pool_connections": WIDTH,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "tcp_keepalive": True,
    }
    config |= options.get("config_kwargs") or {}
    AioConfig(**config)  # a wrong one shows now, not at the first request
    return {**options, "config_kwargs": config, "asynchronous": False}


class S3Objects:
    """The objects below one prefix of a bucket.

    Parameters
    ----------
    fs
        The s3fs filesystem, of which this object is the only user.
    root
        Bucket and prefix, as s3fs writes them.
    """

    width = WIDTH
    #: A round trip costs more than the requests made in it, and an object is replaced at once, never missing meanwhile.
    at_once = True

    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._fs.retries = 1  # retries happen here
        self._bucket, prefix, _ = fs.split_path(root)
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        config = fs.config_kwargs
        self._timeout = float(config["connect_timeout"]) + float(config["read_timeout"])
        self._reads_times_fast = False

    def close(self) -> None:
        """Close the connections."""
        client = self._fs._s3
        if client is not None:
            self._wait(client.close)

    # ------------------------------------------------------------------------------------------------ reading

    def list(self, folder: str) -> list[Entry]:
        """The entries of one folder, by one LIST a 1,000 of them."""
        below = self._key(f"{folder}/" if folder else "")
        return self._wait(self._list, below, "/")

    def walk(self, folder: str) -> builtins.list[Entry]:
        """All objects below a folder, their names being the paths from there on; one LIST a 1,000."""
        below = self._key(f"{folder}/" if folder else "")
        return self._wait(self._list, below, "")

    def page(self, folder: str, after: str) -> tuple[builtins.list[Entry], bool]:
        """As `walk`, by one LIST: up to 1,000 behind `after`, in the order of keys; and whether there are more."""
        below = self._key(f"{folder}/" if folder else "")
        return self._wait(self._page_after, below, after)

    def get(self, path: str, start: int, stop: int | None) -> bytes:
        """The bytes ``[start, stop)``, by one GET."""
        if stop is not None and stop <= start:
            self.stat(path)  # it must be there all the same
            return b""
        return self._wait(self._get, path, start, stop)[0]

    def get_many(self, wanted: Sequence[tuple[str, int, int | None]]) -> builtins.list[bytes | Exception]:
        """As many GETs side by side; what failed is in the place of its bytes."""
        return self._wait(self._get_many, wanted)

    @contextmanager
    def arrivals(self, wanted: Sequence[tuple[str, int, int | None]]) -> Iterator[Callable[[], Arrival]]:
        """As many GETs side by side, each given out as it comes; no more than `WIDTH` are begun and not given out."""
        came: SimpleQueue[Arrival] = SimpleQueue()
        gate = asyncio.Semaphore(WIDTH)
        loop = self._fs.loop

        async def one(number: int, path: str, start: int, stop: int | None) -> None:
            await gate.acquire()
            try:
                came.put((number, (await self._get(path, start, stop))[0]))
            except Exception as error:
                came.put((number, error))

        async def all_of_them() -> None:
            await asyncio.gather(*(one(number, *each) for number, each in enumerate(wanted)))

        def take() -> Arrival:
            arrival = came.get()
            loop.call_soon_threadsafe(gate.release)
            return arrival

        running = asyncio.run_coroutine_threadsafe(all_of_them(), loop)
        try:
            yield take
        finally:
            running.cancel()  # does nothing to what has ended

    def read(self, path: str) -> tuple[bytes, str]:
        """The whole object and its ETag, by one GET."""
        return self._wait(self._get, path, 0, None)

    def stat(self, path: str) -> Stat:
        """Size, time and ETag, by one HEAD."""
        return self._wait(self._stat, path)

    # ------------------------------------------------------------------------------------------------ writing

    def put(self, path: str, data: bytes) -> str:
        """Write an object, whatever is there; the ETag."""
        return self._wait(self._put, path, data)

    def put_file(self, path: str, local_path: str, watch: Callable[[int], bool]) -> str:
        """Write an object of any size from a file: one PUT, or one request a part and two more; the ETag."""
        with open(local_path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > PIECE:
                return self._wait(self._put_parts, path, file, size, watch)
            version = self.put(path, file.read())
        watch(size)
        return version

    def put_if(self, path: str, data: bytes, version: str | None) -> str:
        """Write an object in the place of that ETag, or (None) where there is none; raises ``Refused``."""
        return self._wait(self._put_if, path, data, version)

    def put_if_unchanged(self, path: str, data: bytes, version: str | None) -> str:
        """As `put_if` where the server knows no conditions: a look just before, which another writer can slip past."""
        try:
            there = self.stat(path).version
        except FileNotFoundError:
            there = None
        if there != version:
            raise Refused(there)
        return self.put(path, data)

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""
        self._wait(self._call, "delete_object", Key=self._key(path))

    def probe(self) -> bool:
        """Whether the server honours conditions, tried out on a small object that is removed again."""
        path = f".tmp-probe-{uuid.uuid4().hex}"
        try:
            return self._wait(self._probe, path)
        finally:
            with suppress(Exception):  # without permission to delete, a few bytes stay that no reader looks at
                self.delete(path)

    # ------------------------------------------------------------------------------------------------ requests

    def _wait(self, work: Callable[..., Awaitable[Made]], *args: Any, **kwargs: Any) -> Made:
        # fsspec's loop runs in a thread of its own, so that this works in a running loop (Jupyter) too.
        return sync(self._fs.loop, work, *args, **kwargs)  # type: ignore[no-any-return]

    def _key(self, path: str) -> str:
        return self._prefix + path

    async def _once(self, method: str, **asked: Any) -> Any:
        limit = self._timeout + len(asked.get("Body", b"")) / SLOWEST
        try:
            return await asyncio.wait_for(self._fs._call_s3(method, Bucket=self._bucket, **asked), limit)
        except OSError as error:
            code, status = response_of(error)
            if status == 404 and method != "head_object" and not code.startswith("NoSuch"):
                # A reply to HEAD has no body that could say more; any other has, from an S3 server.
                raise _no_s3("a 404 of its own") from None
            raise

    async def _call(self, method: str, **asked: Any) -> Any:
        return await _retried(lambda: self._once(method, **asked))

    async def _read_times_fast(self) -> None:
        """Have botocore read times by a parser that takes a hundredth of the time: a listing has one an entry."""
        if self._reads_times_fast:
            return
        await self._fs.set_session()
        if getattr(self._fs, "_session_is_owned", False):  # one that the user gave stays as it is
            factory = self._fs.session.get_component("response_parser_factory")
            factory.set_parser_defaults(timestamp_parser=_time)
        self._reads_times_fast = True

    async def _list(self, prefix: str, delimiter: str) -> builtins.list[Entry]:
        await self._read_times_fast()
        found: builtins.list[Entry] = []
        asked = {"Prefix": prefix, **({"Delimiter": delimiter} if delimiter else {})}
        while True:
            entries, token = await self._page(prefix, **asked)
            found += entries
            if token is None:
                return found
            asked["ContinuationToken"] = token

    async def _page_after(self, prefix: str, after: str) -> tuple[builtins.list[Entry], bool]:
        await self._read_times_fast()
        entries, token = await self._page(prefix, Prefix=prefix, **({"StartAfter": prefix + after} if after else {}))
        return entries, token is not None

    async def _page(self, prefix: str, **asked: str) -> tuple[builtins.list[Entry], str | None]:
        """The entries that one LIST gives, and what the next one asks with, if there are more."""
        page = await self._call("list_objects_v2", **asked)
        if "IsTruncated" not in page:
            raise _no_s3("a listing that is none")
        folders = [each["Prefix"][len(prefix) : -1] for each in page.get("CommonPrefixes", ())]
        found = [Entry(name, 0, 0.0, True) for name in folders if name]
        for each in page.get("Contents", ()):
            name = each["Key"][len(prefix) :]
            if name and not name.endswith("/"):  # an object of that name stands for an empty folder
                found.append(Entry(name, each["Size"], each["LastModified"].timestamp(), False, each["ETag"]))
        return found, page["NextContinuationToken"] if page["IsTruncated"] else None

    async def _get(self, path: str, start: int, stop: int | None) -> tuple[bytes, str]:
        asked = {"Key": self._key(path)}
        if start or stop is not None:
            asked["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"

        async def attempt() -> tuple[bytes, str]:
            reply = await self._once("get_object", **asked)
            async with reply["Body"] as body:
                data = await body.read()
            if len(data) != reply["ContentLength"]:
                raise ConnectionError(f"{len(data)} of {reply['ContentLength']} bytes came")
            return data, _etag(reply)

        try:
            return await _retried(attempt)
        except Exception as error:
            if response_of(error)[1] == 416:  # it ends before `start`, or is empty
                return b"", ""
            raise

    async def _get_many(self, wanted: Sequence[tuple[str, int, int | None]]) -> builtins.list[bytes | Exception]:
        gate = asyncio.Semaphore(WIDTH)

        async def one(path: str, start: int, stop: int | None) -> bytes | Exception:
            async with gate:
                try:
                    return (await self._get(path, start, stop))[0]
                except Exception as error:
                    return error

        return list(await asyncio.gather(*(one(*each) for each in wanted)))

    async def _stat(self, path: str) -> Stat:
        reply = await self._call("head_object", Key=self._key(path))
        version = _etag(reply)
        return Stat(reply["ContentLength"], reply["LastModified"].timestamp(), version)

    async def _put(self, path: str, data: bytes, **condition: str) -> str:
        # One PUT whatever the size: in parts, the condition would hold for the last request only.
        reply = await self._call("put_object", Key=self._key(path), Body=data, **condition)
        return _etag(reply)

    async def _put_parts(self, path: str, file: BinaryIO, size: int, watch: Callable[[int], bool]) -> str:
        key = self._key(path)
        piece = max(PIECE, -(-size // MOST_PARTS))
        upload = (await self._call("create_multipart_upload", Key=key))["UploadId"]
        gate = asyncio.Semaphore(PARTS_AT_ONCE)

        async def send(number: int) -> dict[str, object]:
            async with gate:
                if not watch(0):
                    raise Cancelled
                body = _read_at(file, number * piece, min(piece, size - number * piece))
                sent = await self._call("upload_part", Key=key, UploadId=upload, PartNumber=number + 1, Body=body)
                watch(len(body))
                return {"PartNumber": number + 1, "ETag": _etag(sent)}

        tasks = [asyncio.ensure_future(send(number)) for number in range(-(-size // piece))]
        try:
            parts = await asyncio.gather(*tasks)
            whole = {"Key": key, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
            return _etag(await self._call("complete_multipart_upload", **whole))
        except BaseException as error:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if response_of(error)[0] == "NoSuchUpload":
                there = await self._stat(path)
                if there.size == size:  # the reply to the last request was lost, and it was sent again
                    return there.version
            with suppress(Exception):  # what stays of it costs room, and is for the bucket's own rules to remove
                await self._once("abort_multipart_upload", Key=key, UploadId=upload)
            raise

    async def _put_if(self, path: str, data: bytes, version: str | None) -> str:
        try:
            return await self._put(path, data, **_condition(version))
        except Exception as error:
            code, status = response_of(error)
            gone = version is not None and status == 404 and code != "NoSuchBucket"
            if not gone and status != 412 and code != "PreconditionFailed":
                raise
        return await self._ours(path, data)

    async def _ours(self, path: str, data: bytes) -> str:
        """The ETag of the object that refused a write, if it holds these very bytes.

        The reply to the write that made it may have been lost, and the request sent again: here, or by the HTTP client
        without a word. Else raises ``Refused``.
        """
        try:
            there = await self._stat(path)
            if there.size == len(data):
                found, version = await self._get(path, 0, None)
                if found == data:
                    return version
        except FileNotFoundError:
            raise Refused(None) from None
        raise Refused(there.version)

    async def _probe(self, path: str) -> bool:
        await self._put(path, b"1")
        for version in (None, '"00000000000000000000000000000000"'):
            try:
                await self._put(path, b"2", **_condition(version))
                return False
            except Exception as error:
                code, status = response_of(error)
                if status == 501 or code == "NotImplemented":
                    return False
                if status != 412 and code != "PreconditionFailed":
                    raise
        return True


def _read_at(file: BinaryIO, start: int, count: int) -> bytes:
    """Bytes of a file, all that were asked for."""
    file.seek(start)
    data = file.read(count)
    if len(data) != count:
        raise OSError(errno.EIO, "it was cut off while it was sent", file.name)
    return data


def _no_s3(what: str) -> OSError:
    """For a proxy, a login page or any other web server, which must not look like an empty bucket."""
    return OSError(errno.EPROTO, f"what answers at this endpoint is no S3 server: {what}")


def _etag(reply: Mapping[str, Any]) -> str:
    if "ETag" not in reply:
        raise _no_s3("a reply without an ETag")
    return str(reply["ETag"])


def _condition(version: str | None) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed in a moment."""
    code, status = response_of(error)
    if code or status:
        return code in _PASSING or status == 429 or (status >= 500 and status != 501)
    return isinstance(error, _CUT_OFF) or type(error).__name__ == "ResponseParserError"


async def _retried(attempt: Callable[[], Awaitable[Made]]) -> Made:
    began = time.monotonic()
    count = 0
    while True:
        try:
            return await attempt()
        except Exception as error:
            count += 1
            late = count > 1 and time.monotonic() - began > PATIENCE
            if count == ATTEMPTS or late or not _may_pass(error):
                raise
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(0.1 * 2**count, 2.0))


def _time(value: Any) -> datetime:
    """What botocore's own parser gives, at once where the text is ISO 8601, as S3 writes it in listings."""
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return botocore.utils.parse_timestamp(value)  # type: ignore[no-any-return]
    return found if found.tzinfo is not None else botocore.utils.parse_timestamp(value)
