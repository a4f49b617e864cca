"""What one side, this machine or the replica, holds of a track; and whether it holds all that the other side does."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import md5
from math import inf
from typing import Any

from dreamlake.engine import away
from dreamlake.engine.hotpart import HotPart
from dreamlake.engine.replica.state import digest
from dreamlake.engine.segments import SegmentFiles
from dreamlake.engine.snapshot import Snapshot
from dreamlake.format import hot, layout, live
from dreamlake.format.layout import SegmentName
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Entry, Store

#: Points of a track that are held in memory at once, of both sides, to be compared.
WINDOW = 25_000

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class Side:
    """What one side holds of a track; segments are read when they are asked for.

    Parameters
    ----------
    store, folder, name
        Where it is kept, and the name of the track.
    hot
        The bytes of its hot file; what follows the last newline is torn, and does not count.
    sizes
        Its segments, superseded ones among them, with the bytes of each.
    gone
        What is known of those segments that are not here but on the replica.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        name: str,
        hot: bytes,
        sizes: Mapping[SegmentName, int],
        gone: Mapping[SegmentName, away.Away] | None = None,
    ) -> None:
        self.store = store
        self.folder = folder
        self.name = name
        self.hot = hot[: hot.rfind(b"\n") + 1]
        self.sha = digest(self.hot)
        self.sizes = sizes
        self.gone = gone or {}
        self.live, self.holes = live.survey(sizes)
        self._counting = frozenset(self.live)
        self.files = SegmentFiles(store, folder, name)
        self._snapshot: Snapshot | None = None

    @property
    def place(self) -> str:
        """Where it is, fit for messages."""
        return self.store.describe(self.folder)

    @property
    def is_empty(self) -> bool:
        """Whether it holds no point."""
        return not self.sizes and not self.hot

    @property
    def snapshot(self) -> Snapshot:
        """Its points. Raises CorruptTrackError where a line of the hot file cannot be read."""
        if self._snapshot is None:
            lines = hot.parse(self.hot, path=self.store.describe(f"{self.folder}/{layout.HOT_FILE}"))
            runs = hot.merge_runs(lines, live.end_of(self.live))
            indices = [index for start, points in runs for index in range(start, start + len(points))]
            part = HotPart(indices, [point for _, points in runs for point in points])
            self._snapshot = Snapshot(self.files, self.live, self.sizes, part)
        return self._snapshot

    @property
    def is_whole(self) -> bool:
        """Whether no point is missing before others. Raises CorruptTrackError as `snapshot`."""
        indices = self.snapshot.hot.indices
        return not self.holes and list(indices) == list(range(live.end_of(self.live), self.snapshot.total))

    def has_made(self, name: SegmentName) -> bool:
        """Whether the segment counts, or what counts in its place was made from it: it is, or was, here."""
        return name in self._counting or (name in self.sizes and name not in self.gone)

    def segment_path(self, name: SegmentName) -> str:
        """The path of a segment below the root of the store."""
        return f"{self.folder}/{name.filename}"


def here(folder: str, below: str) -> Side:
    """What the session in `folder` on this machine holds of the track in the folder `below` it.

    Raises
    ------
    CorruptTrackError
        What is said of its away segments cannot be read.
    """
    store = LocalStore(folder)
    try:
        data = store.get(f"{below}/{layout.HOT_FILE}")
    except FileNotFoundError:
        data = b""
    entries = {entry.name: entry.size for entry in store.list(below) if not entry.is_dir}
    sizes = {name: entries[name.filename] for name in live.parse_listing(entries)}
    records = away.read(os.path.join(folder, *below.split("/"))) if layout.AWAY_FILE in entries else {}
    gone = {name: record for name, record in records.items() if name not in sizes}
    sizes |= {name: record.nbytes for name, record in gone.items()}
    return Side(store, below, layout.track_name(below), data, sizes, gone)


class There(Side):
    """What the replica holds of a track.

    Parameters
    ----------
    entries
        The files in its folder, by name.
    version
        The version of the hot object; None where there is none.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        name: str,
        hot: bytes,
        entries: Mapping[str, Entry],
        version: str | None,
    ) -> None:
        super().__init__(
            store, folder, name, hot, {each: entries[each.filename].size for each in live.parse_listing(entries)}
        )
        self.entries = entries
        self.version = version


def there(remote: RemoteStore, folder: str, name: str, entries: Mapping[str, Entry], known: bytes = b"") -> There:
    """What the replica holds of the track in `folder`.

    The listing was made before the hot object is read, so it is made again where that has changed since.

    Parameters
    ----------
    entries
        The files in its folder, by name.
    known
        The bytes that the hot object probably has; it is not read when its version says that it does.
    """
    entry = entries.get(layout.HOT_FILE)
    data, version = b"", None
    if entry is not None and is_md5_of(entry, known):
        data, version = known, entry.version
    elif entry is not None:
        data, version = _read(remote, f"{folder}/{layout.HOT_FILE}")
        if version != entry.version:
            entries = {entry.name: entry for entry in remote.list(folder) if not entry.is_dir}
    return There(remote, folder, name, data, entries, version)


def _read(remote: RemoteStore, path: str) -> tuple[bytes, str | None]:
    try:
        return remote.read(path)
    except FileNotFoundError:
        return b"", None


def is_md5_of(entry: Entry, data: bytes) -> bool:
    """Whether an object holds these bytes for sure, by its version; that it does not, says nothing."""
    return entry.size == len(data) and is_md5(entry, md5(data, usedforsecurity=False).hexdigest())


def is_md5(entry: Entry, digest: str) -> bool:
    """Whether the version of an object is the MD5, in hex, of some bytes of the same length."""
    found = _MD5.fullmatch(entry.version)
    return found is not None and found[1] == digest


# -------------------------------------------------------------------------------- who holds whose points


def covers(
    over: Side,
    under: Side,
    alike: Callable[[SegmentName], bool],
    *,
    values: bool = True,
    lines: bool = True,
    stop: float = inf,
) -> bool:
    """Whether one side holds every point of the other, with its fields.

    Parameters
    ----------
    alike
        Whether both have the same bytes under the name of this segment, which both have.
    values
        Whether the fields must be equal; else their names and the timestamps suffice.
    lines
        Whether the points of the hot file are looked at too.
    stop
        Only pieces are looked at that begin before this index.

    Raises
    ------
    CorruptTrackError
        Something of either is damaged.
    """
    pieces = [piece for piece in under.snapshot.pieces() if piece.start < stop]
    if under.hot and over.hot.startswith(under.hot) and live.end_of(under.live) >= live.end_of(over.live):
        lines = False  # what follows was written after it
    if not lines:
        pieces = [piece for piece in pieces if piece.segment is not None]
    for piece in pieces:
        name = piece.segment
        if name is not None and over.has_made(name) and alike(name):
            continue
        if name is not None and name in under.gone:
            held = live.covering(over.live, piece.start, piece.stop)
            if sum(min(each.stop, piece.stop) - max(each.start, piece.start) for each in held) < len(piece):
                return False
            continue  # its points came from the replica, and are the replica's to tell
        same = _resembles if not values else _equal_points if name is not None and name in over.sizes else _holds
        if not holds(over, under, piece.start, piece.stop, same):
            return False
    return True


Rows = Iterable[tuple[int, dict[str, Any]]]


def holds(
    over: Side,
    under: Side,
    start: int,
    stop: int,
    same: Callable[[dict[str, Any], dict[str, Any]], bool] | None = None,
) -> bool:
    """Whether one side holds the points of the other in a half-open range of indices, which are read.

    Parameters
    ----------
    same
        Whether a point of the one holds that of the other; by default, whether it has all of its fields.

    Raises
    ------
    CorruptTrackError
        Something of either is damaged.
    """
    if any(each in over.gone for each in live.covering(over.live, start, stop)):
        return False  # nobody here knows what it holds
    for at in range(start, stop, WINDOW):
        end = min(at + WINDOW, stop)
        if not _all(same or _holds, over.snapshot.points(at, end), under.snapshot.points(at, end)):
            return False
    return True


def _all(same: Callable[[dict[str, Any], dict[str, Any]], bool], over: Rows, under: Rows) -> bool:
    found = dict(over)
    return all(index in found and same(found[index], point) for index, point in under)


def _holds(over: dict[str, Any], under: dict[str, Any]) -> bool:
    return all(field in over and equal(over[field], value) for field, value in under.items())


def _equal_points(over: dict[str, Any], under: dict[str, Any]) -> bool:
    return len(over) == len(under) and _holds(over, under)


def _resembles(over: dict[str, Any], under: dict[str, Any]) -> bool:
    return over["_ts"] == under["_ts"] and under.keys() <= over.keys()


def equal(one: Any, other: Any) -> bool:
    """Whether two values are the same; an int may have become the equal float, as it does in a column of floats."""
    if type(one) is not type(other):
        numbers = {type(one), type(other)} == {int, float}
        return numbers and bool(one == other) and not _is_negative_zero(one, other)
    if isinstance(one, float):
        return (one != one and other != other) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, dt.datetime):
        return bool(one.replace(tzinfo=None) == other.replace(tzinfo=None) and one.utcoffset() == other.utcoffset())
    return bool(one == other)


def _is_negative_zero(*values: float) -> bool:
    return any(value == 0 and math.copysign(1, value) < 0 for value in values)
