"""What people give a session or a track, checked, and in the form in which it is kept."""

from __future__ import annotations

import os
from operator import index

from dreamlake.engine.options import Options, Remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that a thread can be asked to wait; infinity as an interval or a timeout comes to this.
LONGEST_WAIT = 1e6
#: No segment can have so many points: indices are int64. What metadata.json says beyond is damage to its readers.
MOST_SEGMENT_POINTS = 1 << 63


def local_folder(local_path: str | os.PathLike[str]) -> str:
    """Return the absolute path of the folder of the workspaces. Raises TypeError, ValueError."""
    path = os.fspath(local_path)
    if not isinstance(path, str):
        raise TypeError(f"local_path is a string or a Path, not {type(path).__name__}")
    if "://" in path:
        scheme = path.partition("://")[0]
        raise ValueError(
            f"local_path is a folder on this machine, not a {scheme}:// URL; to keep a replica there use remote="
        )
    return os.path.abspath(os.path.expanduser(path))


def description_of(
    description: str | None, tags: list[str] | None, folder: str | None, metadata: dict[str, Any] | None
) -> tuple[dict[str, Any], int]:
    """Return what a session or track is described with, checked and copied, and an upper bound of it as JSON.

    Raises TypeError, ValueError.
    """
    from dreamlake.format.point import take_value

    for what, text in (("description", description), ("folder", folder)):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{what} is a string, not {type(text).__name__}")
    if tags is not None and not (isinstance(tags, (list, tuple)) and all(isinstance(tag, str) for tag in tags)):
        raise TypeError(f"tags is a list of strings, not {tags!r}")
    if metadata is not None and not isinstance(metadata, dict):
        raise TypeError(f"metadata is a dict, not {type(metadata).__name__}")
    given = {
        "description": description,
        "tags": None if tags is None else list(tags),
        "folder": folder,
        "metadata": metadata,
    }
    taken = {key: (None, 0) if value is None else take_value(key, value) for key, value in given.items()}
    return {key: value for key, (value, _) in taken.items()}, sum(size for _, size in taken.values())


def remote_of(url: str | None, storage_options: dict[str, Any] | None, sync_interval: float) -> Remote | None:
    """Return where the replica is, None without one. Raises TypeError, ValueError."""
    if not _is_number(sync_interval) or not sync_interval > 0:
        raise ValueError(f"sync_interval is a number of seconds above 0, not {sync_interval!r}")
    if url is None:
        if storage_options is not None:
            raise ValueError("storage_options are those of remote=, which was not given")
        return None
    if not isinstance(url, str):
        raise TypeError(f"remote is a URL such as 's3://bucket/prefix', not {type(url).__name__}")
    if "://" not in url or "::" in url:
        raise ValueError("remote is a URL such as 's3://bucket/prefix', and not a path or a chain of URLs")
    if storage_options is not None and not isinstance(storage_options, dict):
        raise TypeError(f"storage_options is a dict, not {type(storage_options).__name__}")
    return Remote(str.__str__(url), storage_options, min(float(sync_interval), LONGEST_WAIT))


def options_of(
    flush_interval: float,
    segment_points: int,
    max_pending_bytes: int,
    fsync: bool,
    single_writer: bool,
    remote: Remote | None,
) -> Options:
    """Return how a session is written. Raises ValueError for a value out of its range."""
    if not _is_number(flush_interval) or not flush_interval > 0:
        raise ValueError(f"flush_interval is a number of seconds above 0, not {flush_interval!r}")
    points = _whole(segment_points)
    if points is None or not 0 < points < MOST_SEGMENT_POINTS:
        raise ValueError(
            f"segment_points is a whole number of points, 1 or more and below 2**63, not {segment_points!r}"
        )
    if not _is_number(max_pending_bytes) or not 0 < max_pending_bytes < float("inf"):
        raise ValueError(f"max_pending_bytes is a number of bytes above 0, not {max_pending_bytes!r}")
    interval = min(float(flush_interval), LONGEST_WAIT)
    return Options(interval, points, int(max_pending_bytes), bool(fsync), bool(single_writer), remote)


def _whole(value: object) -> int | None:
    """A whole number as a plain int, which also one of an enum or of NumPy is; None for anything else."""
    try:
        return None if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def seconds_of(what: str, value: float | None, default: float) -> float:
    """Return a time that was given as seconds since the epoch; the default for None. Raises TypeError, ValueError."""
    if value is None:
        return default
    if not _is_number(value):
        raise TypeError(f"{what} is a time in seconds since the epoch, not {type(value).__name__}")
    value = float(value)
    if value != value:
        raise ValueError(f"{what} is a time in seconds since the epoch; got NaN")
    return value


def _is_number(value: object) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool)
