"""The shapes of what reads return: dicts with fixed keys."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Point(TypedDict):
    """One point as `read` gives it."""

    index: int
    data: dict[str, Any]


class ReadResult(TypedDict):
    """What `read` and `read_by_time` return.

    ``startIndex`` and ``endIndex`` (exclusive) are the range of indices read, ``total`` the points in the track, and
    ``hasMore`` says whether the range or time asked for goes on behind the last point given.
    """

    data: list[Point]
    startIndex: int
    endIndex: int
    total: int
    hasMore: bool


class TrackStats(TypedDict):
    """What `stats` returns; ``tsMin`` and ``tsMax`` are seconds since the epoch, None for a track without points."""

    name: str
    totalDataPoints: int
    bufferedDataPoints: int
    chunkedDataPoints: int
    lostDataPoints: int
    totalChunks: int
    chunkSize: int
    bytes: int
    tsMin: float | None
    tsMax: float | None
    fields: dict[str, str]
    description: str | None
    tags: list[str]
    metadata: dict[str, Any]


class SessionInfo(TypedDict, total=False):
    """What session.json says of a session; ``status`` is also ``"lost"`` where a running one has fallen silent."""

    name: str
    workspace: str
    description: str | None
    tags: list[str]
    folder: str | None
    metadata: dict[str, Any]
    status: str
    createdAt: str
    updatedAt: str


class AppendResult(TypedDict):
    """What `append_batch` returns.

    ``count`` is the number of rows given; ``startIndex`` and ``endIndex`` (exclusive) span the indices of their points,
    and are None when the disk failed and the points are still pending.
    """

    count: int
    startIndex: int | None
    endIndex: int | None


class CompactResult(TypedDict):
    """What `Track.compact` returns: ``merged`` segments became ``into`` wider ones, and ``segments`` are live now."""

    merged: int
    into: int
    segments: int


class PlotOptions(TypedDict, total=False):
    """What `TrackView.plot` takes beside `y` and `x`, and with it all that draw tracks."""

    log: bool
    smooth: float | None
    points: int | None
    width: int
    height: int
    errors: Literal["raise", "skip"]


class FileRecord(TypedDict):
    """What is said of one uploaded file.

    ``path`` is the folder in the session's files (``"/models"``) and ``filename`` the name in it; ``checksum`` is the
    SHA-256 of its bytes in hex. Times are ISO 8601 text in UTC; ``deletedAt`` is None unless it was deleted.
    """

    id: str
    path: str
    filename: str
    description: str | None
    tags: list[str]
    contentType: str
    sizeBytes: int
    checksum: str
    metadata: dict[str, Any]
    uploadedAt: str
    updatedAt: str
    deletedAt: str | None
