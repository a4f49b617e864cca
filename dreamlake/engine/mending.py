"""The steps of a repair, what is kept of damaged files, and the small files of a session: rebuilt as far as known."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import dreamlake.storage.local as local
from dreamlake.engine.findings import KEPT, read_json
from dreamlake.engine.inspect import not_a_record
from dreamlake.engine.runfile import iso_now
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout, point
from dreamlake.format.layout import SegmentName


@dataclass
class Step:
    """One thing that a repair does, or would do.

    Parameters
    ----------
    path
        The file that it mends.
    does
        What it does, as a sentence.
    run
        Does it; None where it cannot be done, and ``does`` says why.
    loses
        What is lost for good with it; empty where nothing is.
    gives_up
        Whether these are points, or fields of points, whose place in the track is known: asked for first.
    done
        Whether it was done.
    refused
        Why it was not.
    """

    path: str
    does: str
    run: Callable[[], None] | None = None
    loses: str = ""
    gives_up: bool = False
    done: bool = False
    refused: str = ""


def keep(path: str) -> str:
    """Keep a damaged file beside, under a name that nothing else takes for one of its own; returns that name.

    The file stays where it is, too; but a link, which may lead anywhere, is moved. Done again, as after a crash, it is
    the same name.
    """
    folder, filename = os.path.split(path)
    is_link = os.path.islink(path)
    for other in [] if is_link else os.listdir(folder):
        if other.startswith(filename + KEPT) and _is_same(os.path.join(folder, other), path):
            return other
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    number = 0
    while os.path.lexists(kept := f"{path}{KEPT}{stamp}" + (f"-{number}" if number else "")):
        number += 1
    try:
        (local.os_.rename if is_link else local.os_.link)(path, kept)
        local.fsync_dir(folder)
    except OSError:
        if os.path.lexists(kept):
            raise
        with open(path, "rb") as file:  # a filesystem without hard links
            local.atomic_write(kept, file.read(), fsync=True)
    return os.path.basename(kept)


def _is_same(kept: str, path: str) -> bool:
    one, other = os.lstat(kept), os.lstat(path)  # a link to the damaged file keeps nothing
    if os.path.samestat(one, other):
        return True
    try:
        return one.st_size == other.st_size and local.read_if_there(kept) == local.read_if_there(path)
    except CorruptTrackError:  # a pipe, or too long to be looked into
        return False


def set_aside(path: str) -> None:
    """Keep a damaged file beside, and take it away from its place."""
    keep(path)
    if os.path.lexists(path):
        local.os_.unlink(path)
    local.fsync_dir(os.path.dirname(path))


def put_in_place(path: str, data: bytes) -> None:
    """Put good bytes in the place of a damaged file, which is kept beside; on disk for good when it returns."""
    if os.path.lexists(path):
        keep(path)
    local.atomic_write(path, data, fsync=True)


# ------------------------------------------------------------------------------------------------ JSON


def salvage_object(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """What a damaged JSON object says, written with one key a line as dreamlake does; and what cannot be read of it."""
    lines = data.decode("utf-8", "surrogateescape").splitlines()
    return _salvage(lines, 1)


def _salvage(lines: list[str], depth: int) -> tuple[dict[str, Any], list[str]]:
    key = re.compile(rf'^ {{{depth}}}("(?:[^"\\]|\\.)*"): (.*)$')
    found: dict[str, Any] = {}
    lost: list[str] = []
    places = [at for at, line in enumerate(lines) if key.match(line)]
    for at, end in pairwise([*places, len(lines)]):
        match = key.match(lines[at])
        assert match is not None
        below = [line for line in lines[at + 1 : end] if line.startswith(" " * depth)]
        _salvage_value(match[1], [match[2], *below], depth, found, lost)
    return found, lost


def _salvage_value(key: str, lines: list[str], depth: int, found: dict[str, Any], lost: list[str]) -> None:
    text = "\n".join(lines).rstrip().removesuffix(",")
    try:
        name = json.loads(key)
        name.encode()
    except ValueError:
        lost.append(ascii(key))
        return
    try:
        text.encode()
        found[name] = point.from_json(json.loads(text))
    except (ValueError, RecursionError):
        if not lines[0].startswith("{"):
            lost.append(name)
            return
        found[name], below = _salvage(lines[1:], depth + 1)
        lost += [f"{name}.{each}" for each in below] or [f"a part of {name}"]


def _with_shape(found: Mapping[str, Any], shape: Mapping[str, tuple[type, ...]], lost: list[str]) -> dict[str, Any]:
    """Those of the fields that are known and of their kind; of the others it is noted which are lost."""
    good = {}
    for name, kinds in shape.items():
        if name in found and isinstance(found[name], kinds) and not isinstance(found[name], bool):
            good[name] = found[name]
        elif name not in lost:
            lost.append(name)
    return good


_TEXT = (str, type(None))
_ABOUT: dict[str, tuple[type, ...]] = {"description": _TEXT, "tags": (list,), "metadata": (dict,)}
_SESSION = {**_ABOUT, "folder": _TEXT, "createdAt": (str,), "updatedAt": (str,), "status": (str,)}


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(point.to_json(content), ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"


@dataclass
class Rebuilt:
    """A small file as far as it could be rebuilt, and what of it was lost."""

    content: dict[str, Any]
    lost: list[str] = field(default_factory=list)

    def step(self, path: str, what: str) -> Step:
        """The step that puts it in its place."""
        data = _encode(self.content)
        lost = f"{', '.join(self.lost)} of {what}" if self.lost else ""
        return Step(path, "it is written anew with what can be read", lambda: put_in_place(path, data), lost)


def _fields_of(data: bytes, replica: Mapping[str, Any] | None, shape: Mapping[str, tuple[type, ...]]) -> Rebuilt:
    """The fields of this shape in a small file that may be damaged; what it does not say, as the replica says it."""
    whole, _ = read_json(data)
    found, lost = (dict(whole), []) if whole is not None else salvage_object(data)
    good = _with_shape(found, shape, lost)
    if replica is not None:
        good = _with_shape(replica, shape, []) | good
    return Rebuilt(good, [name for name in lost if name.partition(".")[0] not in good or "." in name])


def session_file(
    folder: str, workspace: str, name: str, data: bytes, last_ts: float | None, replica: Mapping[str, Any] | None
) -> Rebuilt:
    """session.json, made anew; what cannot be known is as in a new run, and how it ended is open."""
    rebuilt = _fields_of(data, replica, _SESSION)
    good = rebuilt.content
    whole = read_json(data)[0] or {}
    if isinstance(whole.get("lastTs"), float):
        last_ts = max(whole["lastTs"], last_ts or whole["lastTs"])
    if good.get("status") not in ("running", "finished", "failed", "interrupted"):
        good.pop("status", None)
    rebuilt.content = {
        "name": name,
        "workspace": workspace,
        "description": good.get("description"),
        "tags": good.get("tags", []),
        "folder": good.get("folder"),
        "metadata": good.get("metadata", {}),
        "createdAt": good.get("createdAt") or _oldest(folder),
        "updatedAt": iso_now(),
        "status": good.get("status", "running"),  # shown as lost
        "format_version": layout.FORMAT_VERSION,
    }
    if last_ts is not None:
        rebuilt.content["lastTs"] = last_ts
    rebuilt.lost = [each for each in rebuilt.lost if each != "updatedAt"]
    return rebuilt


def _oldest(folder: str) -> str:
    times = [os.stat(os.path.join(top, name)).st_mtime for top, _, names in os.walk(folder) for name in names]
    return datetime.fromtimestamp(min(times, default=time.time()), UTC).isoformat(timespec="microseconds")


def track_file(name: str, data: bytes, live: Iterable[SegmentName], replica: Mapping[str, Any] | None) -> Rebuilt:
    """metadata.json of a track, made anew."""
    rebuilt = _fields_of(data, replica, _ABOUT)
    good = rebuilt.content
    points = (read_json(data)[0] or salvage_object(data)[0]).get("segment_points")
    if not isinstance(points, int) or isinstance(points, bool) or points < 1:
        widths = Counter(each.stop - each.start for each in live)
        points = widths.most_common(1)[0][0] if widths else 10_000
    rebuilt.content = {
        "name": name,
        "description": good.get("description"),
        "tags": good.get("tags", []),
        "metadata": good.get("metadata", {}),
        "segment_points": points,
        "format_version": layout.FORMAT_VERSION,
    }
    return rebuilt


def parameters_file(data: bytes, replica: Mapping[str, Any] | None) -> Rebuilt:
    """parameters.json, made anew with the parameters that can be read."""
    shape: dict[str, tuple[type, ...]] = {"version": (int,), "data": (dict,), "createdAt": _TEXT, "updatedAt": _TEXT}
    rebuilt = _fields_of(data, None, shape)
    good = rebuilt.content
    if replica is not None:
        good["data"] = {**replica["data"], **good.get("data", {})}
        good["version"] = max(replica["version"], good.get("version", 1))
        rebuilt.lost = [f"{each} (as on the replica)" for each in rebuilt.lost]
    rebuilt.content = {
        "version": good.get("version", 1),
        "data": good.get("data", {}),
        "createdAt": good.get("createdAt"),
        "updatedAt": iso_now(),
    }
    rebuilt.lost = [each for each in rebuilt.lost if each not in ("version", "createdAt", "updatedAt")]
    return rebuilt


# ------------------------------------------------------------------------------------------------ lines


def log_file(path: str, data: bytes) -> Step:
    """A log without the lines that are no records."""
    good = [line for line in data.split(b"\n")[:-1] if not not_a_record(line)]
    bad = data.count(b"\n") - len(good)
    kept = b"".join(line + b"\n" for line in good)
    return Step(path, "its good lines are kept", lambda: put_in_place(path, kept), lines_lost(bad))


def lines_lost(count: int) -> str:
    """So many lines, in words."""
    return f"{count} {'line' if count == 1 else 'lines'} that cannot be read"
