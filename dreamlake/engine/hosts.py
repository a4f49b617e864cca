"""One session written by several machines: what each says of it below ``hosts/``, merged into one.

The plain session.json, parameters.json and logs of a replica are those of the machine that made the session; every
other machine writes its own below ``hosts/<machine>/``. Clocks of machines differ, so "later" is as exact as they are.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime
from math import inf

from dreamlake.errors import CorruptTrackError
from dreamlake.format import about
from dreamlake.format.layout import HOSTS_DIR, MAX_SMALL_BYTES, PARAMETERS_FILE
from dreamlake.storage import get_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any

    from dreamlake.storage.store import Store

#: What sorts directly behind the dot: all that begins with ``a.`` is below ``a/``.
AFTER_DOT = chr(ord(".") + 1)


def host_files(store: Store, session: str) -> dict[str, list[str]]:
    """The files of the other machines of the session in folder `session`; with none of them, one LIST on S3.

    Returns
    -------
    dict[str, list[str]]
        By the folder of each machine, from the store's root on, the paths of its files below that folder.
    """
    top = f"{session}/{HOSTS_DIR}" if session else HOSTS_DIR
    found: dict[str, list[str]] = {}
    for path in store.walk(top):
        machine, _, below = path[len(top) + 1 :].partition("/")
        if below:
            found.setdefault(f"{top}/{machine}", []).append(below)
    return found


def host_paths(store: Store, session: str, filename: str) -> list[str]:
    """The paths of this file of each of the other machines, from the store's root on."""
    return [f"{folder}/{filename}" for folder, files in host_files(store, session).items() if filename in files]


def paths_of_all(store: Store, session: str, filename: str, files: Collection[str] | None = None) -> list[str]:
    """The paths of this file of all machines, from the store's root on, of which the first may not be there.

    Parameters
    ----------
    files
        The paths of all files of the session, from its folder on, where they are known.
    """
    above = f"{session}/" if session else ""
    if files is None:
        return [above + filename, *host_paths(store, session, filename)]
    others = (path.split("/", 2) for path in files if path.startswith(f"{HOSTS_DIR}/"))
    plain = [filename] if filename in files else []
    return [above + path for path in [*plain, *("/".join(parts) for parts in others if parts[2:] == [filename])]]


def moment(iso: object) -> float:
    """A stored ISO time as seconds since the epoch, so that times compare; below all others where it is none."""
    try:
        at = datetime.fromisoformat(iso)  # type: ignore[arg-type]
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return -inf


# ------------------------------------------------------------------------------------------------ session.json


def merged_info(infos: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What the session.json files of one session say together.

    In the order of their ``updatedAt`` the later wins: metadata by key, all else whole, unless it is empty.
    ``createdAt`` is the earliest, ``lastTs`` the highest.
    """
    merged: dict[str, Any] = {}
    for info in sorted(infos, key=lambda info: moment(info.get("updatedAt"))):
        before = dict(merged)
        merged |= {key: value for key, value in info.items() if key not in merged or value not in (None, "", [])}
        if isinstance(before.get("metadata"), dict):
            own = info.get("metadata")
            merged["metadata"] = before["metadata"] | (own if isinstance(own, dict) else {})
        for key, choose in (("createdAt", _earlier), ("lastTs", _higher)):
            if key in before:
                merged[key] = choose(before[key], info.get(key))
    return merged


def _earlier(one: Any, other: Any) -> Any:
    return min((each for each in (one, other) if moment(each) > -inf), key=moment, default=one)


def _higher(one: Any, other: Any) -> Any:
    known = [each for each in (one, other) if isinstance(each, int | float)]
    return max(known, default=None)


# ------------------------------------------------------------------------------------------------ parameters.json


def read_parameters(store: Store, path: str) -> dict[str, Any]:
    """What one parameters.json says, with its values decoded; version 0 and no data where there is none.

    Raises
    ------
    CorruptTrackError
        The file is damaged.
    """
    try:
        raw = get_whole(store, path, MAX_SMALL_BYTES)
    except FileNotFoundError:
        raw = b""
    if not raw:
        return {"version": 0, "data": {}, "createdAt": None, "updatedAt": None}
    try:
        content = about.check(about.decode(raw))
        data = content["data"]
        if not isinstance(data, dict):
            raise TypeError("its data is not an object")
        version = int(content["version"])
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise CorruptTrackError(store.describe(path), "the whole file", None, None, str(error)) from error
    return {
        "version": version,
        "data": data,
        "createdAt": content.get("createdAt"),
        "updatedAt": content.get("updatedAt"),
    }


def all_parameters(store: Store, session: str, files: Collection[str] | None = None) -> dict[str, Any]:
    """The parameters of the session in folder `session`, those of all machines together. Raises CorruptTrackError.

    `files` is as for `paths_of_all`.
    """
    from dreamlake.engine.process import reading_width, side_by_side

    paths = paths_of_all(store, session, PARAMETERS_FILE, files)
    contents = side_by_side(lambda path: read_parameters(store, path), paths, reading_width(store, 0))
    return merged_parameters(contents)


def merged_parameters(contents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The data of the parameters.json files of one session, key by key that of the file updated last."""
    merged: dict[str, Any] = {}
    for content in sorted(contents, key=lambda content: moment(content["updatedAt"])):
        merged = with_parameters(merged, content["data"])
    return merged


def with_parameters(stored: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Flat parameters with later ones in their place; a value also replaces its parts, and a part the whole."""
    hidden = parts_of(later, stored) | wholes_of(later, stored)
    return {key: value for key, value in stored.items() if key not in hidden} | later


# Sessions of thousands of parameters set them under a lock that other processes wait for: each key is looked up in a
# sorted list, where to compare it with every other key takes a minute. The dotted starts of a stranger's key, which may
# be a million dots, are not made.


def parts_of(wholes: Iterable[str], keys: Iterable[str]) -> set[str]:
    """Those of `keys` that are parts of one of `wholes`, as ``a.b.c`` is one of ``a`` and of ``a.b``."""
    ordered = sorted(keys)
    found: set[str] = set()
    done = 0
    for start in sorted(whole + "." for whole in wholes):
        first = bisect_left(ordered, start, done)
        if first < len(ordered) and ordered[first].startswith(start):
            done = bisect_left(ordered, start[:-1] + AFTER_DOT, first)  # what stands there is no part of later ones
            found.update(ordered[first:done])
    return found


def wholes_of(parts: Iterable[str], keys: Iterable[str]) -> set[str]:
    """Those of `keys` of which one of `parts` is a part, as ``a.b.c`` is one of ``a`` and of ``a.b``."""
    ordered = sorted(parts)
    found: set[str] = set()
    for key in keys:
        first = bisect_left(ordered, key + ".")
        if first < len(ordered) and ordered[first].startswith(key + "."):
            found.add(key)
    return found
