"""One track on its way to a replica, in the order that keeps readers there safe."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from dreamlake.engine.replica.check import Pair, Verdict
from dreamlake.engine.replica.ledger import BREATH
from dreamlake.engine.replica.looking import Look, Object, TrackHere
from dreamlake.engine.replica.noting import SMALL, Notes
from dreamlake.engine.replica.sending import Foreign, Gone, Sender, make_last
from dreamlake.engine.replica.sides import here, holds, there
from dreamlake.engine.replica.state import Sent, TrackState, digest
from dreamlake.engine.sweep import GRACE
from dreamlake.engine.trackfile import is_described_alike
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout, live
from dreamlake.format.layout import SegmentName
from dreamlake.notices import log
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.store import Entry

#: The SHA-256 of a hot file without a line.
EMPTY = digest(b"")
#: Looks taken at a track that changes meanwhile: its segments vanish as they are swept or dropped.
LOOKS = 3


class TrackSender:
    """Brings one track of the replica up to date, once.

    Parameters
    ----------
    below
        The track's folder below the session.
    local
        The session's folder here.
    session
        The session's folder below the root of the replica's lake.
    known
        What is known of the track there; is kept in step.
    seen
        What earlier passes saw of all tracks, or an empty dict.
    now
        Seconds since the epoch.
    grace
        Seconds for which segments stay there that a later form has replaced, by default `sweep.GRACE`.
    """

    def __init__(
        self,
        below: str,
        local: LocalStore,
        session: str,
        known: TrackState,
        sender: Sender,
        seen: dict[str, Any],
        now: Callable[[], float],
        grace: float | None = None,
    ) -> None:
        self.below = below
        self.there = f"{session}/{below}"
        self.known = known
        self.sender = sender
        self._seen = seen
        self._now = now
        self._grace = GRACE if grace is None else grace
        self._segments = set(known.segments)
        self._changed = False  # since they were noted in the state
        self._here = TrackHere(below, local, known, self._segments)
        self._notes = Notes(self._here, sender)
        self._lock = threading.Lock()  # `send_ahead` is called by several threads
        self._noted_at = time.monotonic()
        self._end = 0
        self._ahead: Look | None = None
        self._is_left = False
        self._failed: list[SegmentName] = []  # of those that were sent ahead
        self._created: list[SegmentName] = []  # by this pass
        #: Objects and bytes that the sender expects of this track.
        self._expected = 0, 0

    def estimate(self, filenames: Iterable[str]) -> bool:
        """Tell the sender about how much is to be sent, by these names in the track's folder; False if nothing is."""
        if self._here.stands(filenames) == self._seen.get(self.below, ()):
            return False
        unsent = [name for name in live.parse_listing(filenames) if name not in self._segments]
        about = [layout.METADATA_FILE] if self.known.about.version is None else []
        files = [layout.HOT_FILE, *about, *(name.filename for name in unsent)]
        sizes = [self._here.size(each) for each in files if each in filenames]
        self._expect(len(sizes), sum(sizes))
        return True

    @property
    def expected(self) -> int:
        """Objects that are to be sent, about."""
        return self._expected[0]

    @property
    def is_begun(self) -> bool:
        """Whether segments of it are on the replica, or may be, since sending them was begun."""
        return bool(self._segments or self.known.going)

    @property
    def has_hole(self) -> bool:
        """Whether readers of the replica may miss a segment that comes before one that they find."""
        there, damage = live.survey(self._segments)
        unsure = live.parse_listing(self.known.going)
        return self.known.conflict is None and (bool(damage) or any(name.start > live.end_of(there) for name in unsure))

    def fill(self) -> None:
        """Send what is missing there before the last segment that is there; what cannot be read here is left to `run`.

        Raises
        ------
        Stopped, OSError
            As `run`; or one of the segments was refused before by this pass, and is not tried again.
        """
        with suppress(CorruptTrackError, Foreign):  # these are left to `run`, too
            for _ in range(LOOKS):
                with suppress(FileNotFoundError):  # a sweep was under way
                    missing = self._missing()
                    if not set(self._failed).isdisjoint(missing):
                        raise OSError(errno.EAGAIN, "segments before others are still to be sent", self._here.folder)
                    for name in missing:
                        self._send_segment(name)
                    break
        self.note()

    def _missing(self) -> list[SegmentName]:
        """The live segments here that are not there, before the last one that is, or may be, and can be read.

        Behind one that cannot be read only those before the last one that is there: no other hole is to be made.
        """
        sure = max((name.start for name in self._segments), default=0)
        last = max((name.start for name in live.parse_listing(self.known.going)), default=0)
        counting, _ = live.survey(live.parse_listing(self._here.local.names(self.below)))
        missing: list[SegmentName] = []
        for name in counting:
            if name not in self._segments and name.start < max(sure, last):
                if self._here.is_readable(name):
                    missing.append(name)
                else:
                    last = 0
        return missing

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
            The bytes that are held until `run`, or were read.
        """
        try:
            look = self._here.look()
            self._notes.expect(look.unsent)
            small = self._notes.some(most=SMALL, at_least=0)
        except Exception:  # `run` looks again, and tells
            return 0
        self._ahead = look
        self._notes.objects(((look.about, self.known.about), (look.hot, self.known.hot)))
        return small + sum(len(each.data) for each in look.objects)

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
                if last or not self._is_all_here():
                    self._conflict()  # first: the next pass would not know what this one has made
                    self._take_back()
                    return
        raise OSError(errno.EBUSY, "it is deleted as fast as it is written", self.sender.remote.describe(self.there))

    def prepare_claim(self) -> None:
        """Note what `claim` is going to send, which is saved for many tracks at once."""
        try:
            look = self._here.look()
        except (CorruptTrackError, FileNotFoundError):  # `run` looks again, and tells
            return
        if look.about is not None:
            self._notes.objects([(look.about, self.known.about)])
        self._notes.expect(look.unsent)
        self._notes.some()

    def claim(self) -> list[SegmentName]:
        """Send the description and the first segment of a new track, which only one machine can.

        Returns
        -------
        list[SegmentName]
            The other segments, which may now be sent in any order; none where that is better left to `run`.
        """
        try:
            look = self._here.look()
            self._end = live.end_of(look.counting)
            self._expect_all(look)
            if look.about is not None:
                self._replace(layout.METADATA_FILE, look.about, self.known.about)
            if look.counting[:1] == tuple(look.unsent[:1]):
                self.send_ahead(look.unsent.pop(0))
            return [] if self._is_left else look.unsent
        except (CorruptTrackError, FileNotFoundError, Foreign, Gone):
            return []

    def send_ahead(self, name: SegmentName) -> None:
        """Send one of the segments that `claim` gave; may be called by several threads."""
        try:
            self._notes.up_to(name)
            if self._is_left or (self._notes.unreadable is not None and self._notes.unreadable < name):
                return
            self._send_segment(name)
            self._note_sometimes()
        except (CorruptTrackError, FileNotFoundError, Foreign):
            self._is_left = True  # to `run`, which looks again
        except OSError:
            self._failed.append(name)
            raise

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        look, self._ahead = self._ahead or self._here.look(), None
        self._notes.expect(look.unsent)
        self._end = live.end_of(look.counting)
        self._expect_all(look)
        try:
            if look.about is not None:
                self._replace(layout.METADATA_FILE, look.about, self.known.about)
            lines = look.hot is not None and bool(look.hot.data)
            may_meet = not self.sender.is_first and bool(look.unsent or (lines and self._has_no_lines()))
            if may_meet:
                self._check_beside(look.unsent, lines)
            end, version = live.end_of(live.survey(self._segments)[0]), self.known.hot.version
            self._send_segments(look.unsent)
            if may_meet and self._are_later_forms(look.unsent, end):
                self._check_beside(look.unsent, lines)  # while the lines that a merge has are still there
            if look.hot is not None:
                self._replace(layout.HOT_FILE, look.hot, self.known.hot)
            if may_meet and not self._was_guarded(version):
                self._check_beside(look.unsent, lines)
        finally:
            self.note()
        self._sweep(look.counting)
        if look.stands is not None:  # the files are those that were looked at; or later ones, which have other times
            self._seen[self.below] = self._here.sent(look.stands)

    def _expect_all(self, look: Look) -> None:
        sizes = [*(len(each.data) for each in look.objects), *(self._here.size(n.filename) for n in look.unsent)]
        self._expect(len(sizes), sum(sizes))

    def _replace(self, filename: str, each: Object, sent: Sent) -> None:
        check = self._believe if sent is self.known.hot else _no_check
        if each.data:  # an empty hot file was rolled: its points are in segments, which last
            make_last(self._here.local, f"{self.below}/{filename}", self._seen)
        self.sender.replace(f"{self.there}/{filename}", each.data, sent, check, self._notes.number)
        self._sent(len(each.data))

    def _send_segments(self, names: list[SegmentName]) -> None:
        """Send segments one after the other: a reader must never find a later one without those before it."""
        for name in names:
            self._send_segment(name)
            self._note_sometimes()

    def _send_segment(self, name: SegmentName) -> None:
        self._notes.up_to(name)
        with self.sender.segments.of(self._here.size(name.filename)):
            data = self._here.segment(name)
            self._notes.last(name, data)
            is_new = self.sender.create(f"{self.there}/{name.filename}", data)
        with self._lock:
            if is_new:
                self._created.append(name)
            self._sent(len(data))
            self._segments.add(name)
            self._changed = True

    def _note_sometimes(self) -> None:
        if time.monotonic() - self._noted_at > BREATH:
            self.note()
            self.sender.ledger.breathe()

    def note(self) -> None:
        """Note in the state which segments are there."""
        self._noted_at = time.monotonic()
        if self._changed:
            with self._lock, self.sender.ledger:  # one after the other: an older set must not come last
                self._changed = False
                self.known.segments = frozenset(self._segments)

    def _has_no_lines(self) -> bool:
        """Whether no line was left on the replica: segments of others do not show in the hot object then.

        Where lines were left, whoever has rolled them has replaced it.
        """
        return self.known.hot.version is None or self.known.hot.sha == EMPTY

    def _are_later_forms(self, names: Sequence[SegmentName], end: int) -> bool:
        """Whether any of these segments takes the place of others there, which reached to `end`.

        It may leave the hot object as it is. Who sends one looks again, as does the other, and one of them sees both.
        """
        return any(name.start < end for name in names)

    def _was_guarded(self, version: str | None) -> bool:
        """Whether of two machines that looked at one moment, and then sent new points, one was refused.

        Both replace the hot object, each the version that it knows: here `version` was known before.
        """
        return version is not None and self.known.hot.version != version

    def _check_beside(self, names: list[SegmentName], lines: bool) -> None:
        """See that nobody else's lines or segments there are hidden by what is sent, nor this by segments of others.

        These segments are to be sent, and perhaps `lines`.

        A merge of another machine hides what is sent beside it, and leaves the hot object as it was. Raises `Foreign`,
        `Gone`.
        """
        entries = self._listed()
        self._check_hot(entries.get(layout.HOT_FILE))
        strange = set(live.parse_listing(entries)) - self._segments - set(names)
        if lines and any(name.stop > self._end for name in strange):
            raise Foreign(b"", "")  # it has gone on from where the lines here begin
        if any(live.overlap(each, name) for each in strange for name in names):
            if self._may_lie_beside(self._without_created(entries)):
                return
            raise Foreign(b"", "")

    def _check_hot(self, there: Entry | None) -> None:
        """See that nobody else wrote the hot object, whose lines a new segment would hide. Raises `Foreign`, `Gone`."""
        path = f"{self.there}/{layout.HOT_FILE}"
        known = self.known.hot
        if known.version is not None:
            if there is None:
                raise self.sender.gone()
            if there.version != known.version:
                self.sender.understand(path, known, self._believe)
        elif there is not None:
            try:
                data, version = self.sender.ask(lambda: self.sender.remote.read(path))
            except FileNotFoundError:
                return
            if data and digest(data) not in known.lately:
                raise Foreign(data, version)

    def _believe(self, data: bytes, version: str) -> None:
        """Believe that the hot object is ours, unless somebody else has gone on from it: an empty one says little.

        Where it is an older one, segments that were sent since may be missing, too: those of a disk that was mounted in
        another's place meanwhile, or of a bucket that was brought back from a copy. Raises `Foreign`, `Gone`.
        """
        found = live.parse_listing(self._listed())
        mine = {*self._segments, *live.parse_listing((*self.known.going, *self._here.local.names(self.below)))}
        if any(name.stop > self._end or name not in mine for name in found):
            raise Foreign(data, version)
        if not self._segments.issubset(found):
            raise self.sender.gone()

    def _forget_what_is_gone(self) -> None:
        names = self._listed()
        with self.sender.ledger:
            for filename, sent in ((layout.HOT_FILE, self.known.hot), (layout.METADATA_FILE, self.known.about)):
                if filename not in names:
                    sent.version = sent.sha = None
        self._segments.intersection_update(live.parse_listing(names))
        self._notes.forget()
        self._changed = True
        self.note()

    def _is_all_here(self) -> bool:
        """Whether this machine has every point of the track that the replica has; then it goes on from there.

        So it is when what was sent lately is not known any more: a reply was lost, and the network stayed away.
        """
        entries = self._without_created(self._listed())
        try:
            pair = self._pair(entries)
            if pair.verdict() is not Verdict.MINE or not self._may_describe(entries, pair):
                return False
        except CorruptTrackError:
            return False
        with self.sender.ledger:
            pair.note()
        self._segments.clear()
        self._segments.update(self.known.segments, self._created)
        self._changed = True
        return True

    def _may_describe(self, entries: dict[str, Entry], pair: Pair) -> bool:
        """Whether metadata.json here may take the place of the one there, which is noted then."""
        entry, known = entries.get(layout.METADATA_FILE), self.known.about
        if entry is None or entry.version == known.version:
            return True
        try:
            data, version = self.sender.ask(lambda: self.sender.remote.read(f"{self.there}/{layout.METADATA_FILE}"))
        except FileNotFoundError:
            return True
        if digest(data) not in known.lately:
            try:
                mine = self._here.local.get(f"{self.below}/{layout.METADATA_FILE}")
            except FileNotFoundError:  # then none is sent
                return True
            # Without a point another machine has just begun to send it.
            if pair.theirs.is_empty or not is_described_alike(mine, data):
                return False
        with self.sender.ledger:
            known.is_sent(version, digest(data))
        return True

    def _listed(self) -> dict[str, Entry]:
        """What is in the track's folder there, by name."""
        entries = self.sender.ask(lambda: self.sender.remote.list(self.there))
        return {entry.name: entry for entry in entries if not entry.is_dir}

    def _without_created(self, entries: dict[str, Entry]) -> dict[str, Entry]:
        """These files without what this pass has made, which may hide what another machine sent meanwhile."""
        created = {name.filename for name in self._created}
        return {filename: entry for filename, entry in entries.items() if filename not in created}

    def _may_lie_beside(self, entries: dict[str, Entry]) -> bool:
        """Whether no point and no field is hidden where the segments of both sides are in one folder."""
        try:
            return self._pair(entries).loses_nothing()
        except CorruptTrackError:
            return False

    def _pair(self, entries: dict[str, Entry]) -> Pair:
        mine = here(self._here.local.root, self.below)
        theirs = self.sender.ask(lambda: there(self.sender.remote, self.there, mine.name, entries, mine.hot))
        return Pair(mine, theirs, self.known)

    def _take_back(self) -> None:
        """Delete what this pass has made there and what hides points or fields that another machine sent meanwhile.

        It looked before it sent them; whoever sent something since was told that it is there. They are all here. What
        hides nothing stays: the other may have gone on from it already, and would miss it.
        """
        for name in reversed(self._hiding()):
            path = f"{self.there}/{name.filename}"
            try:
                self.sender.ask(lambda path=path: self.sender.remote.delete(path))  # type: ignore[misc]
            except PermissionError as error:
                log().error("%s hides what another machine wrote, and may not be deleted: %s", path, error)
                break  # one before it alone would leave a hole
            self._segments.discard(name)
            self._changed = True
        self.note()

    def _hiding(self) -> list[SegmentName]:
        """Those of the segments of this pass that hide something, in order, with those that would hang in the air."""
        if not self._created:
            return []
        try:
            pair = self._pair(self._without_created(self._listed()))
            mine, theirs = pair.mine, pair.theirs
            total = theirs.snapshot.total
            found = {n for n in self._created if not holds(mine, theirs, n.start, max(n.start, min(n.stop, total)))}
        except CorruptTrackError:
            return []
        left = sorted(set(self._created) - found)
        while found and left and live.survey({*theirs.sizes, *left})[1]:
            found.add(left.pop())
        return sorted(found)

    def _conflict(self) -> None:
        name = layout.track_name(self.below)
        sentence = (
            f"another machine wrote the track {name!r} to {self.sender.remote.describe(self.there)}: what this machine "
            f"has of it is kept in {self._here.folder}, and no more of it is uploaded"
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
            if now - when >= self._grace:
                path = f"{self.there}/{filename}"
                try:
                    self.sender.ask(lambda path=path: self.sender.remote.delete(path))  # type: ignore[misc]
                except PermissionError as error:  # all of the track is there: what stays beside it is only room
                    log().warning("%s is superseded and stays, since it may not be deleted: %s", filename, error)
                self._segments.discard(dead[filename])
                self._changed = True
                with self.sender.ledger:
                    del self.known.superseded[filename]
        self.note()


def _no_check(data: bytes, version: str) -> None:
    return
