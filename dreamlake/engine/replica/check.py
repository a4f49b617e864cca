"""Which side is ahead: what a session holds here, against what its replica holds, track by track.

Where the replica is as it was left, by the versions of its objects, nothing is asked of it. Else its content decides:
an upload whose reply was lost, another machine that went on from here, or two that went different ways.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import md5, sha256
from operator import eq

import dreamlake.storage.local as local
from dreamlake.engine.process import side_by_side
from dreamlake.engine.replica.meeting import meet
from dreamlake.engine.replica.sides import Side, There, covers, here, holds, is_md5, is_md5_of, there
from dreamlake.engine.replica.state import RemoteState, Sent, TrackState, digest
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout, live
from dreamlake.format.layout import SegmentName
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Entry

#: Tracks that are compared or taken over side by side: each may hold a hot file and a segment.
WIDTH = 16
#: Bytes of a segment that are read at once to be compared.
CHUNK = 8 << 20
#: Seconds after which what was written beside an object, and did not become it, is what a killed upload left.
LEFT_BESIDE = 86_400.0
#: The name of such a file, see `storage.plain`.
_BESIDE = re.compile(r"\.tmp-[0-9]+-[0-9a-f]{32}")
#: Files that the machine which made the session writes under these names, every other below ``hosts/``.
_OWN = (layout.SESSION_FILE, layout.PARAMETERS_FILE, layout.FILES_METADATA_FILE)


@dataclass(frozen=True)
class Findings:
    """What a comparison found.

    Parameters
    ----------
    session_there
        Whether the replica holds the session.
    pull
        The folders, below the session, of tracks in which the replica is ahead, and this side has nothing of its own.
    conflicts
        For the folders of tracks in which both sides are ahead of one another: a sentence that says what to do.
    described
        Those of `pull` of which only metadata.json, the hot file or the segments are ahead there: the rest may have to
        be sent.
    lost
        Whether anything that was there is not any more.
    """

    session_there: bool
    pull: tuple[str, ...]
    conflicts: dict[str, str]
    described: tuple[str, ...] = ()
    lost: bool = False


class Verdict(Enum):
    """Which of two sides of a track goes on."""

    MINE = auto()
    """This one: it holds all that the replica does."""
    THEIRS = auto()
    """The replica, which holds all that this side does, and more."""
    TOLD = auto()
    """This one, but the track was described elsewhere."""
    LINES = auto()
    """This one with the hot file of the replica: all that is here, and lines that are not here any more."""
    SEGMENTS = auto()
    """This one with the segments of the replica: another machine has merged them, and points were added here."""
    CLASH = auto()
    """Neither."""


#: Something of the replica is taken over, and points of this side may have to be sent all the same.
_PARTLY = (Verdict.TOLD, Verdict.LINES, Verdict.SEGMENTS)


# ------------------------------------------------------------------------------------------------ a session


def look(remote: RemoteStore, session: str) -> dict[str, Entry]:
    """What the replica of a session holds: its files by their paths below the session; one LIST a 1,000 on S3."""
    return {entry.name: entry for entry in remote.tree(session)}


def sweep_beside(remote: RemoteStore, session: str, tree: Mapping[str, Entry], now: float) -> None:
    """Remove what killed uploads left beside their objects a day ago, on filesystems that show files half written.

    Parameters
    ----------
    tree
        What `look` found.
    now
        Seconds since the epoch.
    """
    for path, entry in tree.items():
        if _BESIDE.fullmatch(path.rpartition("/")[2]) and 0 < entry.modified < now - LEFT_BESIDE:
            with suppress(OSError):  # it is only room
                remote.delete(f"{session}/{path}")


def holds_session(tree: Mapping[str, Entry]) -> bool:
    """Whether there is a session in what `look` found, whichever machine's."""
    return layout.SESSION_FILE in tree or bool(hosts_with(tree, layout.SESSION_FILE))


def hosts_with(tree: Mapping[str, Entry], path: str) -> list[str]:
    """The paths at which other machines keep this file of theirs."""
    found = (each.split("/", 2) for each in tree if each.startswith(f"{layout.HOSTS_DIR}/"))
    return sorted("/".join(parts) for parts in found if parts[2:] == [path])


def tracks_in(tree: Mapping[str, Entry]) -> dict[str, dict[str, Entry]]:
    """The tracks in what `look` found: by each one's folder below the session, its files by their names."""
    found: dict[str, dict[str, Entry]] = {}
    for path, entry in tree.items():
        folder, _, filename = path.rpartition("/")
        if folder.startswith(f"{layout.TRACKS_DIR}/"):
            found.setdefault(folder, {})[filename] = entry
    found = {
        folder: {name: e for name, e in entries.items() if _is_of_track(name)} for folder, entries in found.items()
    }
    return {folder: entries for folder, entries in found.items() if is_track(folder, entries)}


def is_track(folder: str, filenames: Iterable[str]) -> bool:
    """Whether a folder below the session is that of a track, and holds anything of it."""
    if not any(map(_is_of_track, filenames)):
        return False
    try:
        layout.track_name(folder)
    except ValueError:  # a folder that dreamlake never makes
        return False
    return True


def _is_of_track(filename: str) -> bool:
    return filename in (layout.HOT_FILE, layout.METADATA_FILE) or layout.parse_segment(filename) is not None


def compare(folder: str, session: str, remote: RemoteStore, state: RemoteState, tree: Mapping[str, Entry]) -> Findings:
    """Find out which side is ahead in which track; what the state says of the replica is put right.

    The lock of the replica is held. Nothing but the state is changed, here or there.

    Parameters
    ----------
    folder
        The session's folder on this machine.
    session
        The session's folder below the root of `remote`.
    state
        What is known of this replica.
    tree
        What `look` found.

    Raises
    ------
    OSError
        The replica does not answer, or the disk fails.
    """
    tracks = tracks_in(tree)
    meet(folder, session, remote, state, tree)
    lost = _forget(state, tree, tracks)
    for below in tracks:
        state.track(below)  # not by several threads
    work = [(below, entries) for below, entries in sorted(tracks.items())]
    judged = side_by_side(lambda each: _compare(folder, session, remote, state, *each), work, min(remote.width, WIDTH))
    found = {below: verdict for (below, _), verdict in zip(work, judged, strict=True)}
    for below, verdict in found.items():
        state.track(below).conflict = verdict if isinstance(verdict, str) else None
    return Findings(
        session_there=holds_session(tree),
        pull=tuple(below for below, verdict in found.items() if verdict in (Verdict.THEIRS, *_PARTLY)),
        conflicts={below: verdict for below, verdict in found.items() if isinstance(verdict, str)},
        described=tuple(below for below, verdict in found.items() if verdict in _PARTLY),
        lost=lost,
    )


def _forget(state: RemoteState, tree: Mapping[str, Entry], tracks: Mapping[str, Mapping[str, Entry]]) -> bool:
    """Forget what is not on the replica any more, so that it is sent again; return whether anything is not.

    Segments that a later form has replaced may have been swept by another machine: they do not count.
    """
    lost = False
    for below, known in state.tracks.items():
        counting = live.survey(known.segments)[0]
        here = set(live.parse_listing(tracks.get(below, {})))
        lost = lost or (known.hot.version is not None and layout.HOT_FILE not in tracks.get(below, {}))
        lost = lost or live.end_of(live.survey(here)[0]) < live.end_of(counting)
        if below not in tracks:
            _forget_track(known, {})
            known.conflict = None
    for path, sent in state.files.items():
        own = path in _OWN or path.startswith(f"{layout.LOGS_DIR}/")
        there = hosts_with(tree, path) if own and state.origin is False else [path] if path in tree else []
        lost = lost or (sent.version is not None and not there)
        # Of what is replaced an older form may be there, as in a bucket that was brought back from a copy.
        _forget_object(sent, any(not own or tree[each].version == sent.version for each in there))
    return lost


def _forget_track(known: TrackState, entries: Mapping[str, Entry]) -> None:
    _forget_object(known.hot, layout.HOT_FILE in entries)
    _forget_object(known.about, layout.METADATA_FILE in entries)
    note_segments(known, known.segments.intersection(live.parse_listing(entries)))


def _forget_object(sent: Sent, is_there: bool) -> None:
    if not is_there:
        sent.version = sent.sha = None


def note_segments(known: TrackState, names: frozenset[SegmentName]) -> None:
    """Note which segments are on the replica."""
    known.segments = names
    filenames = {name.filename for name in names}
    known.superseded = {name: since for name, since in known.superseded.items() if name in filenames}


# ------------------------------------------------------------------------------------------------ one track


def _compare(
    folder: str, session: str, remote: RemoteStore, state: RemoteState, below: str, entries: Mapping[str, Entry]
) -> Verdict | str:
    """Which side goes on with a track, or why neither does."""
    known = state.track(below)
    hot, about = entries.get(layout.HOT_FILE), entries.get(layout.METADATA_FILE)
    told = about is not None and not _is_known_about(folder, session, remote, known, below, about)
    is_known = hot is None or hot.version == known.hot.version
    is_known = is_known and known.segments.issuperset(live.parse_listing(entries))
    if is_known and _is_here(folder, below, known, hot):
        _forget_track(known, entries)
        return Verdict.TOLD if told else Verdict.MINE
    try:
        mine = here(folder, below)
        if mine.is_empty:
            return Verdict.THEIRS
        pair = Pair(mine, there(remote, f"{session}/{below}", mine.name, entries, mine.hot), known)
        verdict = pair.verdict()
        if verdict is Verdict.CLASH:
            return pair.sentence()
    except CorruptTrackError as error:
        return f"the track {layout.track_name(below)!r} cannot be compared with its replica: {error}"
    if verdict is Verdict.MINE:
        # It may have come from there, by an attempt that ended where its folder could not be synced.
        local.fsync_dir(os.path.join(folder, *below.split("/")))
        pair.note()
        _forget_track(known, entries)
        return Verdict.TOLD if told else Verdict.MINE
    return verdict


def _is_here(folder: str, below: str, known: TrackState, hot: Entry | None) -> bool:
    """Whether all that was sent of a track still is here: after a power loss the replica can hold more than the disk.

    Lines are only added to a hot file, until it is written anew; then this says False, and the content decides.
    """
    try:
        mine = here(folder, below)
    except CorruptTrackError:  # a flush says so, and an upload; the replica is as it was left
        return True
    if live.end_of(mine.live) < live.end_of(live.survey(known.segments)[0]):
        return False
    return hot is None or not hot.size or digest(mine.hot[: hot.size]) == known.hot.sha


def _is_known_about(
    folder: str, session: str, remote: RemoteStore, known: TrackState, below: str, entry: Entry
) -> bool:
    """Whether metadata.json on the replica is what was sent, or the same as here."""
    if entry.version == known.about.version:
        return True
    try:
        data = LocalStore(folder).get(f"{below}/{layout.METADATA_FILE}")
    except FileNotFoundError:
        return False
    version: str | None = entry.version
    if not is_md5_of(entry, data):
        try:
            found, version = remote.read(f"{session}/{below}/{layout.METADATA_FILE}")
        except FileNotFoundError:
            return True
        if digest(found) not in (*known.about.lately, digest(data)):
            return False
        data = found
    known.about.version, known.about.sha = version, digest(data)
    return True


class Pair:
    """Both sides of a track.

    Parameters
    ----------
    known
        What is known of the replica, which was left in that state.
    """

    def __init__(self, mine: Side, theirs: There, known: TrackState) -> None:
        self.mine = mine
        self.theirs = theirs
        self.known = known
        self._sent = known.segments
        self._alike: dict[SegmentName, bool] = {}
        self._going: dict[SegmentName, bool] = {}

    def verdict(self) -> Verdict:
        """Which side goes on. Raises OSError, and CorruptTrackError where something of either is damaged."""
        if self.mine.is_empty:
            return Verdict.THEIRS
        union, damage = live.survey({*self.mine.sizes, *self.theirs.sizes})
        if not self.mine.is_whole:
            raise CorruptTrackError(self.mine.place, "its files", detail="points are missing here")
        # What was sent from here is an older form of what is here, unless the disk lost the end of that.
        if (
            union == self.mine.live
            and not damage
            and covers(self.mine, self.theirs, self.alike, values=not self._is_ours())
        ):
            return Verdict.MINE
        if not self.theirs.is_whole:
            raise CorruptTrackError(self.theirs.place, "its files", detail="points are missing on the replica")
        if not damage and (
            covers(self.theirs, self.mine, self.alike)
            or (self._is_unchanged() and covers(self.theirs, self.mine, self.alike, values=False))
        ):
            return Verdict.THEIRS
        if not damage and self._lacks_only_lines():
            return Verdict.LINES
        if not damage and self._lacks_only_segments():
            return Verdict.SEGMENTS
        return Verdict.CLASH

    def loses_nothing(self) -> bool:
        """Whether the segments of both may lie in one folder: what counts there holds the points of all the others.

        Raises OSError, and CorruptTrackError where something of either is damaged.
        """
        union, damage = live.survey({*self.mine.sizes, *self.theirs.sizes})
        return (
            not damage
            and self._is_held(union, self.theirs, self.mine, self.mine.gone)
            # What was sent from here, and was replaced here since, is in what replaced it.
            and self._is_held(union, self.mine, self.theirs, self._sent)
        )

    def _is_held(self, union: Sequence[SegmentName], over: Side, under: Side, known: Container[SegmentName]) -> bool:
        """Whether points of one side whose segments count no more among those of both are held by the other."""
        hidden = [name for name in under.live if name not in union and name not in known]
        return all(holds(over, under, name.start, name.stop) for name in hidden)

    def _lacks_only_lines(self) -> bool:
        """Whether the replica has the segments in older forms only, and a hot file that goes on from the one here.

        A power cut leaves that where the disk refused to sync lines that then were sent, while late fields were merged
        here and not sent yet.
        """
        return (
            live.survey({*self.mine.sizes, *self.theirs.sizes})[0] == self.mine.live
            and live.end_of(self.mine.live) == live.end_of(self.theirs.live)
            and self.theirs.hot.startswith(self.mine.hot)
            and covers(self.mine, self.theirs, self.alike, values=not self._is_ours(), lines=False)
        )

    def _lacks_only_segments(self) -> bool:
        """Whether the replica's segments hold all that those here do as far as they reach, and what follows is here.

        Another machine leaves that which merges, or gives late fields to, what this one goes on from.
        """
        end = live.end_of(self.theirs.live)
        return (
            live.end_of(self.mine.live) >= end
            and covers(self.theirs, self.mine, self.alike, lines=False, stop=end)
            and holds(self.mine, self.theirs, end, self.theirs.snapshot.total)
        )

    def _is_ours(self) -> bool:
        """Whether the replica holds what this machine sent, though the reply to it may have been lost."""
        hot = self.known.hot
        is_ours = self.theirs.version is None or self.theirs.sha in (*hot.lately, hot.sha, self.mine.sha)
        return is_ours and all(
            name in self._sent or (self.mine.has_made(name) and self.alike(name)) or self._was_going(name)
            for name in self.theirs.sizes
        )

    def _was_going(self, name: SegmentName) -> bool:
        """Whether a segment of the replica has the bytes of one that was going to be sent from here.

        Not where there are others here under its name now, as in a folder that was brought back from a copy.
        """
        sha = self.known.going.get(name.filename)
        if sha is None:
            return False
        if name not in self._going:
            mine = _digest(self.mine, name) if name in self.mine.sizes and name not in self.mine.gone else None
            self._going[name] = mine in (None, sha) and _digest(self.theirs, name) == sha
        return self._going[name]

    def _is_unchanged(self) -> bool:
        """Whether this side holds nothing that was not on the replica once."""
        sha = self.known.hot.sha
        return (not self.mine.hot if sha is None else self.mine.sha == sha) and self._sent.issuperset(self.mine.live)

    def alike(self, name: SegmentName) -> bool:
        """Whether both sides have the same bytes under the name of this segment, which both have."""
        if name not in self._alike:
            self._alike[name] = self._is_alike(name)
        return self._alike[name]

    def _is_alike(self, name: SegmentName) -> bool:
        entry = self.theirs.entries[name.filename]
        if self.mine.sizes[name] != entry.size:
            return False
        if name in self._sent or name in self.mine.gone:
            return True
        try:
            return self._is_same(name, entry)
        except FileNotFoundError:  # swept meanwhile, here or there: then a later form counts
            return False

    def _is_same(self, name: SegmentName, entry: Entry) -> bool:
        digest = md5(usedforsecurity=False)
        for data in _chunks(self.mine, name):
            digest.update(data)
        if is_md5(entry, digest.hexdigest()):
            return True
        return all(map(eq, _chunks(self.mine, name), _chunks(self.theirs, name)))

    def note(self) -> None:
        """Note what is on the replica, as the state in which it was left."""
        self.known.hot.version = self.theirs.version
        self.known.hot.sha = None if self.theirs.version is None else self.theirs.sha
        note_segments(self.known, frozenset(self.theirs.sizes))

    def sentence(self) -> str:
        """What is wrong where neither side goes on, and what to do."""
        return (
            f"the track {self.mine.name!r} was written by two machines: {self.mine.place} holds {_extent(self.mine)}, "
            f"{self.theirs.place} holds {_extent(self.theirs)}, and neither holds all that the other does. All of it "
            "is kept. Move the local folder of the session away to go on from the replica; to have this side there "
            "too, rename the folder and upload it as another session, with `dreamlake sync`"
        )


def _digest(side: Side, name: SegmentName) -> str | None:
    """The SHA-256 of a segment in hex; None where it was swept meanwhile."""
    found = sha256()
    try:
        for data in _chunks(side, name):
            found.update(data)
    except FileNotFoundError:
        return None
    return found.hexdigest()


def _chunks(side: Side, name: SegmentName) -> Iterator[bytes]:
    """The bytes of a segment, piece by piece."""
    path = side.segment_path(name)
    for start in range(0, side.sizes[name], CHUNK):
        yield side.store.get(path, start, start + CHUNK)


def _extent(side: Side) -> str:
    count = side.snapshot.total
    last = max((point["_ts"] for point in side.snapshot.hot.points), default=None)
    return f"{count} points" + ("" if last is None else f" (_ts up to {last})")
