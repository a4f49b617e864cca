"""What went wrong on a remote filesystem, as the built-in errors that callers know, without a secret in any of them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from dreamlake.errors import CorruptTrackError

#: Shorter texts are no secrets worth the name, and would turn messages into dots.
MIN_SECRET = 4

_ENVIRONMENT = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_USER_INFO = re.compile(r"(?<=://)[^/@\s\"'<>]*@")
_QUERY = re.compile(r"(\w://[^\s\"'<>?]*)\?[^\s\"'<>]*")

_DENIED = frozenset(
    {
        "403",
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_DENIED_TYPES = frozenset(
    {
        "CredentialRetrievalError",
        "NoAuthTokenError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)
_CONNECTION_TYPES = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionClosedError",
        "ConnectionError",
        "HTTPClientError",
        "IncompleteReadError",
        "ResponseStreamingError",
    }
)
_TIMEOUT_TYPES = frozenset({"ConnectTimeoutError", "ReadTimeoutError", "FSTimeoutError"})
#: Mistakes in a program, ours or a library's: their traceback is worth more than a translation.
_BUGS = (TypeError, AttributeError, NameError, LookupError, AssertionError, NotImplementedError)


class Refused(Exception):
    """A conditional write met another version (None: no object at all) than the one it asked for."""

    def __init__(self, version: str | None) -> None:
        self.version = version
        super().__init__(f"found version {version!r}")


class Cancelled(Exception):
    """An upload was given up half-way, since the one who watches it said so."""


class Secrets:
    """What must not be shown: all texts in storage options, user-info and query of a URL, the environment's keys."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._texts = {text for text in _texts(dict(options)) if len(text) >= MIN_SECRET}
        info = re.match(r"[^/]*://([^/@]*)@", url)
        for part in info[1].split(":") if info else ():
            self._texts |= {text for text in (part, unquote(part)) if len(text) >= MIN_SECRET}

    def clean(self, text: str) -> str:
        """The text with dots in the place of secrets, and URLs without user-info and query."""
        text = _QUERY.sub(r"\1", _USER_INFO.sub("", text))
        hidden = self._texts | {os.environ.get(name, "") for name in _ENVIRONMENT}
        for secret in sorted(filter(None, hidden), key=len, reverse=True):
            text = text.replace(secret, "…")
        return text


def response_of(error: BaseException) -> tuple[str, int]:
    """The error code and the HTTP status in what an S3 server answered; ``("", 0)`` where no server did."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, Mapping):
        return "", 0
    code = str(response.get("Error", {}).get("Code", ""))
    return code, int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def translated(error: Exception, place: str, secrets: Secrets) -> Exception:
    """The error to raise for what a filesystem raised at `place`; raise it outside of the ``except`` block.

    An ``OSError`` of the fitting kind, its file name being `place`. Mistakes in a program come back as they are.
    """
    code, status = response_of(error)
    types = {kind.__name__ for kind in type(error).__mro__}
    text = secrets.clean(_words(error, code))
    if code == "NoSuchBucket":
        # Not FileNotFoundError: where a file may be missing, a missing bucket is no answer.
        return OSError(errno.ENXIO, "there is no such bucket", place)
    if code in _DENIED or status in (401, 403) or types & _DENIED_TYPES or isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, text or os.strerror(errno.EACCES), place)
    if isinstance(error, FileNotFoundError | NotADirectoryError) or status == 404:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place)
    if isinstance(error, TimeoutError) or types & _TIMEOUT_TYPES:
        return TimeoutError(errno.ETIMEDOUT, text if str(error) else "no answer in time", place)
    if isinstance(error, ConnectionError) or (types & _CONNECTION_TYPES and not code):
        return ConnectionError(getattr(error, "errno", None) or errno.ECONNABORTED, text, place)
    if isinstance(error, OSError):
        return OSError(error.errno or errno.EIO, text, place)
    if isinstance(error, CorruptTrackError):
        return CorruptTrackError(place, error.place, error.start, error.stop, secrets.clean(error.detail))
    if isinstance(error, _BUGS):
        return error
    if isinstance(error, ValueError):
        return ValueError(f"{text} ({place})")
    return OSError(errno.EIO, text, place)


def _words(error: Exception, code: str) -> str:
    if code:
        response = getattr(error, "response", None) or getattr(error.__cause__, "response", {})
        said = str(response.get("Error", {}).get("Message") or "the server refused")
        return f"{said} ({code})"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _texts(each)
