"""One track on its way to a replica, in the order that keeps readers there safe."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from dreamlake.engine import away
from dreamlake.engine.replica.ledger import BREATH
from dreamlake.engine.replica.sending import Foreign, Gone, Sender
from dreamlake.engine.replica.stand import stand
from dreamlake.engine.replica.state import TrackState, digest
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


class Look(NamedTuple):
    """What a track holds: its hot bytes were read before its folder was listed.

    ``about`` and ``hot`` are the bytes of metadata.json and the whole lines of the hot file, None where they are there
    already; ``counting`` are the live segments, and ``unsent`` those among them that are to be sent.
    """

    about: bytes | None
    hot: bytes | None
    counting: tuple[SegmentName, ...]
    unsent: list[SegmentName]


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
        self._noted_at = time.monotonic()
        self._end = 0
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

    def run(self) -> None:
        """Send what is new. A conflict is noted, in the state and by the sender.

        Raises
        ------
        Stopped
            The pass is to end.
        OSError, CorruptTrackError
            It cannot be sent.
        """
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
        hot = self._whole_lines(hot, self._end)
        if about is not None and _is_there(self.known.about.version, self.known.about.sha, about):
            about = None
        return Look(about, hot, counting, unsent)

    def _read(self, filename: str) -> bytes | None:
        try:
            return self.local.get(f"{self.below}/{filename}")
        except FileNotFoundError:
            return None

    def _whole_lines(self, data: bytes | None, end: int) -> bytes | None:
        """The whole lines of the hot file, None when they are there already; of damage, what costs little to see."""
        sent = self.known.hot
        if data is None:
            if sent.version is None:
                return None
            data = b""  # all is in segments
        data = data[: data.rfind(b"\n") + 1]
        if _is_there(sent.version, sent.sha, data):
            return None
        if data:
            place = self.local.describe(f"{self.below}/{layout.HOT_FILE}")
            for line in (data[: data.index(b"\n")], data[data.rfind(b"\n", 0, -1) + 1 :]):
                try:
                    index = msgspec.json.decode(line, type=_Index).index
                except (msgspec.DecodeError, ValueError) as error:
                    raise CorruptTrackError(place, "a line", end, None, f"it is no point: {error}") from error
                if line == data[: len(line)] and index > end:
                    raise CorruptTrackError(place, "its indices", end, index, "points are missing")
            if b"\0" in data:
                raise CorruptTrackError(place, f"byte {data.index(0)}", end, None, "there are zeros in it")
        return data

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        with self.sender.hot.of(_size(os.path.join(self.folder, layout.HOT_FILE))):
            seen = self._print(self.local.names(self.below))
            about, hot, counting, unsent = self._look()
            files = [len(data) for data in (about, hot) if data is not None]
            sizes = [_size(os.path.join(self.folder, name.filename)) for name in unsent]
            self._expect(len(files) + len(sizes), sum(files) + sum(sizes))
            try:
                if about is not None:
                    self.sender.replace(f"{self.there}/{layout.METADATA_FILE}", about, self.known.about)
                    self._sent(len(about))
                self._send_segments(unsent)
                if hot is not None:
                    self.sender.replace(f"{self.there}/{layout.HOT_FILE}", hot, self.known.hot, self._believe)
                    self._sent(len(hot))
            finally:
                self._note()
        self._sweep(counting)
        if seen is not None:  # the files are those that were looked at; or later ones, which have other times
            self._seen[self.below] = (*seen[:-1], self._state())

    def _send_segments(self, names: list[SegmentName]) -> None:
        """Send segments one after the other: a reader must never find a later one without those before it."""
        if names and self.known.hot.version is not None:
            self._claim()
        for name in names:
            path = os.path.join(self.folder, name.filename)
            with self.sender.segments.of(_size(path)):
                data = self.local.get(f"{self.below}/{name.filename}")
                _check_ends(path, name, data)
                self.sender.create(f"{self.there}/{name.filename}", data)
            self._sent(len(data))
            self._segments.add(name)
            if time.monotonic() - self._noted_at > BREATH:
                self._note()
                self.sender.ledger.breathe()

    def _note(self) -> None:
        """Note in the state which segments are there."""
        self._noted_at = time.monotonic()
        if len(self._segments) != sum(count for _, _, count, _ in self.known.runs):
            with self.sender.ledger:
                self.known.segments = frozenset(self._segments)

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
        self._note()

    def _conflict(self) -> None:
        name = layout.track_name(self.below)
        sentence = (
            f"another machine wrote the track {name!r} to {self.sender.remote.describe(self.there)}: what this machine "
            f"has of it is kept in {self.folder}, and no more of it is uploaded"
        )
        with self.sender.ledger:
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
        self._note()


def _is_there(version: str | None, sha: str | None, data: bytes) -> bool:
    return version is not None and sha == digest(data)


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
