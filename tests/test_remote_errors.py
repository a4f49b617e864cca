"""What S3 servers answer when they refuse: the forms in which AWS does, word for word, and moto as a second opinion.

The tests against moto need a ``moto_server``, which depends on another botocore than s3fs allows, and so cannot live in
one environment with it. They are skipped unless DREAMLAKE_MOTO names the command::

    python3 -m venv /tmp/moto && /tmp/moto/bin/pip install "moto[server]"
    DREAMLAKE_MOTO=/tmp/moto/bin/moto_server python -m pytest tests/test_remote_errors.py
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from store_tests import StoreTests

from dreamlake import Lake, Session
from dreamlake.storage import s3
from dreamlake.storage.remote import ObjectChanged, RemoteStore

KEY, SECRET, TOKEN = "AKIAEXAMPLEKEY", "secret-key-0123456789", "session-token-0123456789"

# ------------------------------------------------------------------------------------------------ the forms of AWS


@dataclass
class Answers:
    """A server that gives one answer to everything, and notes what it was asked."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def error(self, status: int, code: str, message: str, more: str = "") -> None:
        """Answer as AWS: an XML body, which a reply to HEAD does not have."""
        self.status = status
        self.body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}'
            f"<RequestId>656c76696e6727732072657175657374</RequestId><HostId>Uuag1LuByRx9e6j5OnimrSAMPLEtRPfTaOAa=</HostId>"
            f"</Error>"
        ).encode()


@pytest.fixture
def aws() -> Iterator[tuple[Answers, str]]:
    """Such a server, and its address."""
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            answers.asked.append(self.command)
            if self.headers.get("Expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(answers.status)
            for name, value in {"x-amz-request-id": "656C76696E672773", **answers.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answers.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answers.body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield answers, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(aws: tuple[Answers, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    """A store there, which does not wait between its attempts."""
    monkeypatch.setattr(s3.random, "uniform", lambda low, high: 0.0)
    store = RemoteStore("s3://bucket/lake", {"endpoint_url": aws[1], "key": KEY, "secret": SECRET, "token": TOKEN})
    yield store
    store.close()


@pytest.fixture
def answers(aws: tuple[Answers, str]) -> Answers:
    return aws[0]


Use = Callable[[RemoteStore], object]
USES: dict[str, Use] = {
    "get": lambda store: store.get("x"),
    "range": lambda store: store.get("x", 2, 5),
    "list": lambda store: store.list("a"),
    "walk": lambda store: store.walk(),
    "put": lambda store: store.put("x", b"1"),
    "delete": lambda store: store.delete("x"),
    "probe": lambda store: store.conditional,
}


def assert_told(error: OSError, kind: type[OSError], *words: str) -> None:
    assert type(error) is kind
    assert str(error.filename).startswith("s3://bucket/lake")
    assert error.__context__ is None
    assert error.__cause__ is None
    said = f"{error!r} {error}"
    assert not [secret for secret in (KEY, SECRET, TOKEN) if secret in said]
    assert [word for word in words if word not in said] == []


DENIED, OTHER, LATE = PermissionError, OSError, TimeoutError
# Code, status, what AWS says (the beginning of it), the error it is, and whether it is worth asking again.
FORMS: dict[str, tuple[int, str, type[OSError], bool]] = {
    "AccessDenied": (403, "Access Denied", DENIED, False),
    "AccountProblem": (403, "There is a problem with your AWS account", DENIED, False),
    "AllAccessDisabled": (403, "All access to this object has been disabled", DENIED, False),
    "ExpiredToken": (400, "The provided token has expired.", DENIED, False),
    "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist", DENIED, False),
    "InvalidToken": (400, "The provided token is malformed or otherwise invalid.", DENIED, False),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time", DENIED, False),
    "SignatureDoesNotMatch": (403, "The request signature we calculated does not match", DENIED, False),
    "InvalidObjectState": (403, "The action is not valid for the object's storage class", DENIED, False),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource.", DENIED, False),
    "NoSuchBucket": (404, "The specified bucket does not exist", OTHER, False),
    "InvalidBucketName": (400, "The specified bucket is not valid.", OTHER, False),
    "KMS.DisabledException": (400, "arn:aws:kms:key is disabled.", OTHER, False),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size", OTHER, False),
    "InternalError": (500, "We encountered an internal error. Please try again.", OTHER, True),
    "OperationAborted": (409, "A conflicting conditional operation is currently in progress", OTHER, True),
    "RequestTimeout": (400, "Your socket connection to the server was not read from", LATE, True),
    "ServiceUnavailable": (503, "Reduce your request rate.", OTHER, True),
    "SlowDown": (503, "Please reduce your request rate.", OTHER, True),
}
WORDS = {"NoSuchBucket": "there is no such bucket", "RequestTimeout": "no answer in time"}


@pytest.mark.parametrize("code", FORMS)
def test_what_aws_says_is_told(store: RemoteStore, answers: Answers, code: str) -> None:
    status, message, kind, passes = FORMS[code]
    answers.error(status, code, message, f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId>" if "Signature" in code else "")
    for use, work in USES.items():  # of one store, since a client takes half a second to make
        answers.asked.clear()
        with pytest.raises(OSError) as caught:  # noqa: PT011
            work(store)
        assert_told(caught.value, kind, *([WORDS[code]] if code in WORDS else [code, message]))
        method = {"put": "PUT", "probe": "PUT", "delete": "DELETE"}.get(use, "GET")
        assert answers.asked.count(method) == (s3.ATTEMPTS if passes else 1), use


@pytest.mark.parametrize(
    ("status", "kind", "times"),
    [
        (404, FileNotFoundError, 1),
        (403, PermissionError, 1),
        (400, OSError, 2),  # the client asks for the bucket's region once
        (503, OSError, s3.ATTEMPTS),
        (500, OSError, s3.ATTEMPTS),
    ],
)
def test_a_refused_head_has_no_words(
    store: RemoteStore, answers: Answers, status: int, kind: type[OSError], times: int
) -> None:
    answers.status = status
    with pytest.raises(OSError) as caught:  # noqa: PT011
        store.stat("x")
    assert_told(caught.value, kind)
    assert answers.asked == ["HEAD"] * times


def test_a_missing_object_is_no_trouble(store: RemoteStore, answers: Answers) -> None:
    answers.error(404, "NoSuchKey", "The specified key does not exist.", "<Key>lake/x</Key>")
    for use in (lambda: store.get("x"), lambda: store.get("x", 1, 2), lambda: store.read("x")):
        with pytest.raises(FileNotFoundError) as caught:
            use()
        assert_told(caught.value, FileNotFoundError)
    (found,) = store.get_many([("x", 0, None)])
    assert isinstance(found, FileNotFoundError)


def test_a_range_beyond_the_end_is_empty(store: RemoteStore, answers: Answers) -> None:
    more = "<RangeRequested>bytes=9-20</RangeRequested><ActualObjectSize>3</ActualObjectSize>"
    answers.error(416, "InvalidRange", "The requested range is not satisfiable", more)
    assert store.get("x", 9, 21) == b""
    assert store.get_many([("x", 9, None)]) == [b""]


@pytest.mark.parametrize(
    "code", ["PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"]
)
def test_a_bucket_in_another_region(store: RemoteStore, answers: Answers, code: str) -> None:
    """What the server says of it is told, after the client has looked for the region itself."""
    status = 301 if code == "PermanentRedirect" else 400
    message = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'"
    answers.error(status, code, message, "<Region>eu-west-1</Region><Bucket>bucket</Bucket>")
    answers.headers = {"x-amz-bucket-region": "eu-west-1"}
    for use in ("get", "list", "put"):
        with pytest.raises(OSError, match=code) as caught:
            USES[use](store)
        assert_told(caught.value, type(caught.value), "eu-west-1")


def test_conditions_are_refused_in_two_ways(
    store: RemoteStore, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """412 is final, and looked into; 409 is a race that the server could not decide, and asked again."""
    monkeypatch.setattr(store, "_conditional", True)
    said = "At least one of the pre-conditions you specified did not hold"
    answers.error(412, "PreconditionFailed", said, "<Condition>If-None-Match</Condition>")
    with pytest.raises(OSError):  # noqa: PT011  # the look afterwards is answered by 412 too
        store.create("x", b"1")
    assert answers.asked == ["PUT", "HEAD"]
    answers.asked.clear()
    answers.error(
        409, "ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation"
    )
    with pytest.raises(OSError, match="ConditionalRequestConflict"):
        store.create("x", b"1")
    assert answers.asked == ["PUT"] * s3.ATTEMPTS
    answers.asked.clear()
    answers.error(404, "NoSuchKey", "The specified key does not exist.")
    with pytest.raises(ObjectChanged, match="gone") as caught:
        store.replace_if("x", b"1", '"0123"')
    assert caught.value.version is None


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (200, "")])
def test_a_server_that_knows_no_conditions(store: RemoteStore, answers: Answers, status: int, code: str) -> None:
    """Some say so, and some write all the same; here the probe's first write is answered like that too."""
    if status == 200:
        answers.headers = {"ETag": '"00000000000000000000000000000001"'}
        assert store.conditional is False
    else:
        answers.error(status, code, "A header you provided implies functionality that is not implemented.")
        with pytest.raises(OSError, match="NotImplemented"):
            _ = store.conditional
        assert answers.asked[0] == "PUT"


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"<Error><Code>", b"\xff\xfe\x00"])
def test_bodies_that_are_no_xml(store: RemoteStore, answers: Answers, body: bytes) -> None:
    """As a gateway in between sends them."""
    answers.status, answers.body = 502, body
    with pytest.raises(OSError) as caught:  # noqa: PT011
        store.get("x")
    assert_told(caught.value, OSError)


@pytest.mark.parametrize("body", [b"", b"<html>Log in to the hotel's network</html>"])
@pytest.mark.parametrize("use", [use for use in USES if use != "delete"])
def test_a_web_page_is_no_answer(store: RemoteStore, answers: Answers, use: str, body: bytes) -> None:
    """A listing of nothing, a file of that content or an acknowledged write least of all."""
    answers.body, answers.headers = body, {"Content-Type": "text/html"}
    with pytest.raises(OSError, match="no S3 server") as caught:
        USES[use](store)
    assert_told(caught.value, OSError)
    with pytest.raises(OSError, match="no S3 server"):
        store.stat("x")


# ------------------------------------------------------------------------------------------------ a second opinion


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Storage options for a moto server with a bucket."""
    command = os.environ.get("DREAMLAKE_MOTO")
    if not command:
        pytest.skip("DREAMLAKE_MOTO names no moto_server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    with (tmp_path_factory.mktemp("moto") / "log").open("wb") as log:
        process = subprocess.Popen([command, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"{endpoint}/lake", method="PUT")
                with urllib.request.urlopen(request, timeout=5):
                    break
            except OSError:
                assert process.poll() is None, "moto_server ended"
                assert time.monotonic() < deadline, "moto_server does not answer"
                time.sleep(0.1)
        yield {"endpoint_url": endpoint, "key": KEY, "secret": SECRET}
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def at_moto(moto: dict[str, Any]) -> Iterator[RemoteStore]:
    store = RemoteStore(f"s3://lake/{uuid.uuid4().hex}", moto)
    yield store
    store.close()


class TestMoto(StoreTests):
    @pytest.fixture
    def store(self, at_moto: RemoteStore) -> RemoteStore:
        return at_moto

    @pytest.fixture(autouse=True)
    def _raw(self, moto: dict[str, Any]) -> Iterator[None]:
        self.fs = fsspec.filesystem("s3", **moto, use_listings_cache=False, skip_instance_cache=True)
        yield
        self.fs.close_session(self.fs.loop, self.fs._s3) if self.fs._s3 else None

    def raw_put(self, store: Any, path: str, data: bytes) -> None:
        self.fs.pipe_file(store.describe(path), data)

    def raw_get(self, store: Any, path: str) -> bytes:
        return self.fs.cat_file(store.describe(path))  # type: ignore[no-any-return]


def test_moto_refuses_as_the_other_server_does(at_moto: RemoteStore, moto: dict[str, Any]) -> None:
    assert at_moto.conditional
    first = at_moto.replace_if("x", b"one", None)
    assert at_moto.replace_if("x", b"one", None) == first, "these bytes are ours"
    with pytest.raises(FileExistsError):
        at_moto.create("x", b"two")
    second = at_moto.replace_if("x", b"two", first)
    with pytest.raises(ObjectChanged, match="another writer") as caught:
        at_moto.replace_if("x", b"three", first)
    assert caught.value.version == second
    assert [entry.version for entry in at_moto.list()] == [second]
    at_moto.delete("x")
    with pytest.raises(ObjectChanged, match="gone"):
        at_moto.replace_if("x", b"three", second)
    elsewhere = RemoteStore("s3://no-such-bucket/x", moto)
    for use in (elsewhere.list, elsewhere.walk, lambda: elsewhere.get("x"), lambda: elsewhere.put("x", b"1")):
        with pytest.raises(OSError, match="no such bucket") as missing:
            use()
        assert not isinstance(missing.value, FileNotFoundError)
    elsewhere.close()


def test_a_run_is_kept_at_moto_and_goes_on_from_there(moto: dict[str, Any], tmp_path: Path) -> None:
    url = f"s3://lake/{uuid.uuid4().hex}"
    for machine in range(2):
        with Session(
            "run", "w", tmp_path / str(machine), remote=url, storage_options=moto, segment_points=10
        ) as session:
            for step in range(25):
                session.track("loss").append(step=machine * 25 + step)
    lake = Lake(url, moto)
    assert lake.session("run", "w").track("loss").to_polars()["step"].to_list() == list(range(50))
    lake._store.close()  # type: ignore[attr-defined]
