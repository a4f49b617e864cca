"""What a track holds here, and what of that its replica does not have."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from dreamlake.engine import away
from dreamlake.engine.replica.stand import stand
from dreamlake.engine.replica.state import Sent, TrackState, digest
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout, live
from dreamlake.format.layout import SegmentName
from dreamlake.storage.localstore import LocalStore

_MAGIC = b"PAR1"


class _Index(msgspec.Struct):
    index: int


class Object(NamedTuple):
    """Bytes to send, and their SHA-256."""

    data: bytes
    sha: str


class Look(NamedTuple):
    """What a track holds: its hot bytes were read before its folder was listed.

    Parameters
    ----------
    about, hot
        Its metadata.json, and the whole lines of its hot file; None where they are there already.
    counting, unsent
        Its live segments, and those among them that are to be sent.
    stands
        What would be another if the track was; None while that cannot be told.
    """

    about: Object | None
    hot: Object | None
    counting: tuple[SegmentName, ...]
    unsent: list[SegmentName]
    stands: tuple[object, ...] | None

    @property
    def objects(self) -> list[Object]:
        """Those of its files that are to be sent, segments apart."""
        return [each for each in (self.about, self.hot) if each is not None]


class TrackHere:
    """One track in the session's folder on this machine.

    Parameters
    ----------
    below
        The track's folder below the session.
    local
        The session's folder.
    known, segments
        What is known of the track on the replica, and which segments are there.
    """

    def __init__(self, below: str, local: LocalStore, known: TrackState, segments: Collection[SegmentName]) -> None:
        self.below = below
        self.local = local
        self.folder = local.describe(below)
        self.known = known
        self.segments = segments

    def path(self, filename: str) -> str:
        """The absolute path of one of its files."""
        return os.path.join(self.folder, filename)

    def stands(self, filenames: Iterable[str]) -> tuple[object, ...] | None:
        """What would be another if anything was to be done; None while that cannot be told by names and times."""
        files = (layout.METADATA_FILE, layout.HOT_FILE, layout.AWAY_FILE)
        stands = [stand(self.path(filename)) for filename in files]
        if None in stands or self.known.superseded:
            return None
        return (*stands, hash(tuple(sorted(filenames))), self._state())

    def sent(self, stands: tuple[object, ...]) -> tuple[object, ...]:
        """What `stands` gives once all is sent that stood so."""
        return (*stands[:-1], self._state())

    def _state(self) -> tuple[object, ...]:
        return self.known.hot.version, self.known.about.version, tuple(self.known.runs)

    def look(self) -> Look:
        """Look at it.

        Raises
        ------
        CorruptTrackError
            It is damaged, or changes just then.
        OSError
            Some of it is only in another replica; or the disk fails.
        """
        stands = self.stands(self.local.names(self.below))
        about = self.about()
        hot = self._read(layout.HOT_FILE)
        listing = self.local.names(self.below)
        here = set(live.parse_listing(listing))
        gone = set(away.read(self.folder)) - here if layout.AWAY_FILE in listing else set()
        try:
            counting = live.live_segments(here | gone)
        except live.HoleError as error:
            raise CorruptTrackError(self.folder, "its segments", error.start, error.stop, str(error)) from error
        unsent = [name for name in counting if name not in self.segments]
        for name in unsent:
            if name in gone:
                said = f"the points {name.start} to {name.stop} (exclusive) are only on a replica, and not on this one"
                raise OSError(errno.ENODATA, said, self.folder)
        new_hot = _news(self._whole_lines(hot), self.known.hot)
        if new_hot is not None and new_hot.data:
            _check_lines(self.path(layout.HOT_FILE), new_hot.data, live.end_of(counting))
        return Look(about, new_hot, counting, unsent, stands)

    def about(self) -> Object | None:
        """Its metadata.json; None where it is there already."""
        return _news(self._read(layout.METADATA_FILE), self.known.about)

    def segment(self, name: SegmentName) -> bytes:
        """The bytes of a segment. Raises CorruptTrackError, and FileNotFoundError when it was swept or dropped."""
        data = self.local.get(f"{self.below}/{name.filename}")
        length = int.from_bytes(data[-8:-4], "little")
        if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC or length > len(data) - 12:
            # As a power loss may leave it, or a copy that was cut off.
            place = self.path(name.filename)
            raise CorruptTrackError(place, "its ends", name.start, name.stop, "it is no whole Parquet file")
        return data

    def is_readable(self, name: SegmentName) -> bool:
        """Whether a segment can be read. Raises FileNotFoundError as `segment`."""
        try:
            self.segment(name)
        except FileNotFoundError:
            raise
        except (OSError, CorruptTrackError):
            return False
        return True

    def size(self, filename: str) -> int:
        """The bytes of one of its files; 0 where there is none, which is found out when it is read."""
        try:
            return os.stat(self.path(filename)).st_size
        except FileNotFoundError:
            return 0

    def _read(self, filename: str) -> bytes | None:
        try:
            return self.local.get(f"{self.below}/{filename}")
        except FileNotFoundError:
            return None

    def _whole_lines(self, data: bytes | None) -> bytes | None:
        if data is None:
            # Without a hot file all is in segments; an older one on the replica has to become empty.
            return None if self.known.hot.version is None else b""
        return data[: data.rfind(b"\n") + 1]


def _news(data: bytes | None, sent: Sent) -> Object | None:
    """The bytes to send; None where there are none, or where they are there already."""
    if data is None:
        return None
    each = Object(data, digest(data))
    return None if sent.version is not None and sent.sha == each.sha else each


def _check_lines(path: str, data: bytes, end: int) -> None:
    """Refuse a damaged hot file, as far as that costs little to see: its first line, its last one, zeros in it."""
    try:
        first = msgspec.json.decode(data[: data.index(b"\n")], type=_Index).index
        msgspec.json.decode(data[data.rfind(b"\n", 0, -1) + 1 :], type=_Index)
    except (ValueError, RecursionError) as error:
        raise CorruptTrackError(path, "a line", end, None, f"it is no point: {error}") from error
    if first > end:
        raise CorruptTrackError(path, "its indices", end, first, "points are missing")
    if b"\0" in data:
        raise CorruptTrackError(path, f"byte {data.index(0)}", end, None, "there are zeros in it")
