"""One track on its way to a replica, in the order that keeps readers there safe."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from dreamlake.engine import away
from dreamlake.engine.replica.ledger import BREATH
from dreamlake.engine.replica.sending import Foreign, Gone, Sender
from dreamlake.engine.replica.stand import stand
from dreamlake.engine.replica.state import Sent, TrackState, digest
from dreamlake.engine.sweep import GRACE
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout, live
from dreamlake.format.layout import SegmentName
from dreamlake.storage.local import LocalStore

#: Looks taken at a track that changes meanwhile: its segments vanish as they are swept or dropped.
LOOKS = 3

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


class TrackSender:
    """Brings one track of the replica up to date, once.

    Parameters
    ----------
    below
        The track's folder below the session.
    local
        The session's folder here.
    there
        The session's folder below the root of the replica's lake.
    known
        What is known of the track there; is kept in step.
    seen
        What earlier passes saw of all tracks, or an empty dict.
    now
        Seconds since the epoch.
    """

    def __init__(
        self,
        below: str,
        local: LocalStore,
        there: str,
        known: TrackState,
        sender: Sender,
        seen: dict[str, Any],
        now: Callable[[], float],
    ) -> None:
        self.below = below
        self.local = local
        self.folder = local.describe(below)
        self.there = f"{there}/{below}"
        self.known = known
        self.sender = sender
        self._seen = seen
        self._now = now
        self._segments = set(known.segments)
        self._lock = threading.Lock()  # `send_ahead` is called by several threads
        self._noted_at = time.monotonic()
        self._end = 0
        self._ahead: Look | None = None
        self._noted: int | None = None
        #: Objects and bytes that the sender expects of this track.
        self._expected = 0, 0

    def estimate(self, filenames: Iterable[str]) -> bool:
        """Tell the sender about how much is to be sent, by these names in the track's folder; False if nothing is."""
        if self._print(filenames) == self._seen.get(self.below, ()):
            return False
        unsent = [name for name in live.parse_listing(filenames) if name not in self._segments]
        about = [layout.METADATA_FILE] if self.known.about.version is None else []
        files = [layout.HOT_FILE, *about, *(name.filename for name in unsent)]
        sizes = [_size(os.path.join(self.folder, each)) for each in files if each in filenames]
        self._expect(len(sizes), sum(sizes))
        return True

    @property
    def expected(self) -> int:
        """Objects that are to be sent, about."""
        return self._expected[0]

    def _expect(self, objects: int, nbytes: int) -> None:
        before = self._expected
        self._expected = objects, nbytes
        self.sender.expect(objects - before[0], nbytes - before[1])

    def _sent(self, nbytes: int) -> None:
        objects, before = self._expected
        self._expected = objects - 1, before - nbytes

    def prepare(self) -> int:
        """Look at the track, and note what is going to be sent, which is saved for many tracks at once.

        Returns
        -------
        int
            The bytes that are held until `run`.
        """
        try:
            look = self._look()
        except Exception:  # `run` looks again, and tells
            return 0
        objects = [(each, sent) for each, sent in ((look.about, self.known.about), (look.hot, self.known.hot)) if each]
        self._ahead = look
        self._noted = self.sender.note((sent, each.sha) for each, sent in objects)
        return sum(len(each.data) for each, _ in objects)

    def run(self) -> None:
        """Send what is new. A conflict is noted, in the state and by the sender.

        Raises
        ------
        Stopped
            The pass is to end.
        OSError, CorruptTrackError
            It cannot be sent.
        """
        if self.known.conflict is not None:  # found out by `claim`
            return
        for number in range(LOOKS):
            last = number == LOOKS - 1
            try:
                self._send()
                return
            except Gone:
                self._forget_what_is_gone()
            except (FileNotFoundError, CorruptTrackError):  # a sweep or a roll was under way
                if last:
                    raise
            except Foreign:
                self._conflict()
                return
        raise OSError(errno.EBUSY, "it is deleted as fast as it is written", self.sender.remote.describe(self.there))

    def claim(self) -> list[SegmentName]:
        """Send the description and the first segment of a new track, which only one machine can.

        Returns
        -------
        list[SegmentName]
            The other segments, which may now be sent in any order; none where that is better left to `run`.
        """
        try:
            look = self._look()
            self._expect_all(look)
            if look.about is not None:
                self._replace(layout.METADATA_FILE, look.about, self.known.about)
            if look.counting[:1] == tuple(look.unsent[:1]):
                self.send_ahead(look.unsent.pop(0))
            return look.unsent
        except (CorruptTrackError, FileNotFoundError, Gone):
            return []
        except Foreign:
            self._conflict()
            return []

    def send_ahead(self, name: SegmentName) -> None:
        """Send one of the segments that `claim` gave; may be called by several threads."""
        if self.known.conflict is not None:
            return
        try:
            self._send_segment(name)
            self._note_sometimes()
        except (CorruptTrackError, FileNotFoundError):  # `run` looks again
            return
        except Foreign:
            self._conflict()

    # -- looking ---------------------------------------------------------------------------------------------------

    def _print(self, filenames: Iterable[str]) -> tuple[object, ...] | None:
        """What would be another if anything was to be done; None when that cannot be said by names and times."""
        files = (layout.METADATA_FILE, layout.HOT_FILE, layout.AWAY_FILE)
        stands = [stand(os.path.join(self.folder, filename)) for filename in files]
        if None in stands or self.known.superseded:
            return None
        return (*stands, hash(tuple(sorted(filenames))), self._state())

    def _state(self) -> tuple[object, ...]:
        return self.known.hot.version, self.known.about.version, tuple(self.known.runs)

    def _look(self) -> Look:
        stands = self._print(self.local.names(self.below))
        about = self._read(layout.METADATA_FILE)
        hot = self._read(layout.HOT_FILE)
        listing = self.local.names(self.below)
        here = set(live.parse_listing(listing))
        gone = set(away.read(self.folder)) - here if layout.AWAY_FILE in listing else set()
        try:
            counting = live.live_segments(here | gone)
        except live.HoleError as error:
            raise CorruptTrackError(self.folder, "its segments", error.start, error.stop, str(error)) from error
        self._end = live.end_of(counting)
        unsent = [name for name in counting if name not in self._segments]
        for name in unsent:
            if name in gone:
                said = f"the points {name.start} to {name.stop} (exclusive) are kept only in the other replica"
                raise OSError(errno.ENODATA, said, self.folder)
        lines = self._whole_lines(hot)
        new_about, new_hot = _news(about, self.known.about), _news(lines, self.known.hot)
        if new_hot is not None:
            self._check_lines(new_hot.data)
        return Look(new_about, new_hot, counting, unsent, stands)

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

    def _check_lines(self, data: bytes) -> None:
        """Refuse a damaged hot file, as far as that costs little to see: its first line, its last one, zeros in it."""
        if not data:
            return
        place = self.local.describe(f"{self.below}/{layout.HOT_FILE}")
        lines = data[: data.index(b"\n")], data[data.rfind(b"\n", 0, -1) + 1 :]
        try:
            first, _ = (msgspec.json.decode(line, type=_Index).index for line in lines)
        except (msgspec.DecodeError, ValueError) as error:
            raise CorruptTrackError(place, "a line", self._end, None, f"it is no point: {error}") from error
        if first > self._end:
            raise CorruptTrackError(place, "its indices", self._end, first, "points are missing")
        if b"\0" in data:
            raise CorruptTrackError(place, f"byte {data.index(0)}", self._end, None, "there are zeros in it")

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        look, self._ahead = self._ahead or self._look(), None
        self._expect_all(look)
        try:
            if look.about is not None:
                self._replace(layout.METADATA_FILE, look.about, self.known.about)
            self._send_segments(look.unsent)
            if look.hot is not None:
                self._replace(layout.HOT_FILE, look.hot, self.known.hot)
        finally:
            self.note()
        self._sweep(look.counting)
        if look.stands is not None:  # the files are those that were looked at; or later ones, which have other times
            self._seen[self.below] = (*look.stands[:-1], self._state())

    def _expect_all(self, look: Look) -> None:
        objects = [each for each in (look.about, look.hot) if each is not None]
        sizes = [*(len(each.data) for each in objects), *(self._size(name) for name in look.unsent)]
        self._expect(len(sizes), sum(sizes))

    def _replace(self, filename: str, each: Object, sent: Sent) -> None:
        check = self._believe if sent is self.known.hot else _no_check
        self.sender.replace(f"{self.there}/{filename}", each.data, sent, check, self._noted)
        self._sent(len(each.data))

    def _size(self, name: SegmentName) -> int:
        return _size(os.path.join(self.folder, name.filename))

    def _send_segments(self, names: list[SegmentName]) -> None:
        """Send segments one after the other: a reader must never find a later one without those before it."""
        if names and self.known.hot.version is not None:
            self._claim()
        for name in names:
            self._send_segment(name)
            self._note_sometimes()

    def _send_segment(self, name: SegmentName) -> None:
        with self.sender.segments.of(self._size(name)):
            data = self.local.get(f"{self.below}/{name.filename}")
            _check_ends(os.path.join(self.folder, name.filename), name, data)
            self.sender.create(f"{self.there}/{name.filename}", data)
        with self._lock:
            self._sent(len(data))
            self._segments.add(name)

    def _note_sometimes(self) -> None:
        if time.monotonic() - self._noted_at > BREATH:
            self.note()
            self.sender.ledger.breathe()

    def note(self) -> None:
        """Note in the state which segments are there."""
        self._noted_at = time.monotonic()
        if len(self._segments) != sum(count for _, _, count, _ in self.known.runs):
            with self._lock:
                names = frozenset(self._segments)
            with self.sender.ledger:
                self.known.segments = names

    def _claim(self) -> None:
        """See that nobody else replaced the hot object, whose lines a new segment would hide. Raises `Foreign`."""
        path = f"{self.there}/{layout.HOT_FILE}"
        try:
            version = self.sender.ask(lambda: self.sender.remote.stat(path)).version
        except FileNotFoundError:
            raise Gone from None
        if version != self.known.hot.version:
            self.sender.understand(path, self.known.hot, self._believe)

    def _believe(self, data: bytes, version: str) -> None:
        """Believe that the hot object is ours, unless somebody else has gone on from it: an empty one says little."""
        there = self.sender.ask(lambda: self.sender.remote.list(self.there))
        if any(name.stop > self._end for name in live.parse_listing(entry.name for entry in there)):
            raise Foreign(data, version)

    def _forget_what_is_gone(self) -> None:
        there = {entry.name for entry in self.sender.ask(lambda: self.sender.remote.list(self.there))}
        with self.sender.ledger:
            for filename, sent in ((layout.HOT_FILE, self.known.hot), (layout.METADATA_FILE, self.known.about)):
                if filename not in there:
                    sent.version = sent.sha = None
        self._segments.intersection_update(live.parse_listing(there))
        self.note()

    def _conflict(self) -> None:
        name = layout.track_name(self.below)
        sentence = (
            f"another machine wrote the track {name!r} to {self.sender.remote.describe(self.there)}: what this machine "
            f"has of it is kept in {self.folder}, and no more of it is uploaded"
        )
        with self.sender.ledger:
            if self.known.conflict is not None:
                return
            self.known.conflict = sentence
        self.sender.conflict(sentence)

    # -- sweeping --------------------------------------------------------------------------------------------------

    def _sweep(self, counting: tuple[SegmentName, ...]) -> None:
        """Delete segments on the replica that a later form has replaced, once readers had time to notice."""
        if len(self._segments) == len(counting) and not self.known.superseded:
            return
        now = self._now()
        dead = {name.filename: name for name in live.superseded(self._segments, counting)}
        since = {filename: min(self.known.superseded.get(filename, now), now) for filename in dead}
        with self.sender.ledger:
            self.known.superseded = since
        for filename, when in list(since.items()):
            if now - when >= GRACE:
                path = f"{self.there}/{filename}"
                self.sender.ask(lambda path=path: self.sender.remote.delete(path))  # type: ignore[misc]
                self._segments.discard(dead[filename])
                with self.sender.ledger:
                    del self.known.superseded[filename]
        self.note()


def _news(data: bytes | None, sent: Sent) -> Object | None:
    """The bytes to send; None where there are none, or where they are there already."""
    if data is None:
        return None
    each = Object(data, digest(data))
    return None if sent.version is not None and sent.sha == each.sha else each


def _no_check(data: bytes, version: str) -> None:
    return


def _size(path: str) -> int:
    """The bytes of a file; 0 where there is none, which is found out when it is read."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _check_ends(path: str, name: SegmentName, data: bytes) -> None:
    """Refuse a segment that is no whole Parquet file: as a power loss may leave it, or a copy that was cut off."""
    length = int.from_bytes(data[-8:-4], "little")
    if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC or length > len(data) - 12:
        raise CorruptTrackError(path, "its ends", name.start, name.stop, "it is no whole Parquet file")
