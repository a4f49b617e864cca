"""``.replica.json``: this machine's id, and what was sent to each replica, so that only what changed is sent.

The file is local only. It is read and written by whoever holds the replica's lock (``.replica.lock``), one process at
a time. Losing it loses no point: the two sides are compared by what they hold then.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from hashlib import sha256

import msgspec

import dreamlake.storage.local as local
from dreamlake.format import layout
from dreamlake.format.layout import SegmentName
from dreamlake.notices import log
from dreamlake.storage.lock import FileLock

#: SHA-256s kept of what was sent lately to one object: a refusal by one of these is the lost reply to our own write.
SHAS_KEPT = 16

#: Segments kept of those that were going to be sent, and are not known to be there: more than go side by side.
GOING_KEPT = 256

#: Longest file, and most segments in it: more than the largest sessions have, and bounds for one that was forged.
MAX_STATE_BYTES, MAX_SEGMENTS = 256 << 20, 1 << 22


class Sent(msgspec.Struct, omit_defaults=True):
    """What is known of one object on the replica.

    Parameters
    ----------
    version
        The version that was last written or read here; None where none is known to be there.
    sha
        SHA-256 of the bytes of that version, in hex.
    lately
        SHA-256s of bytes that were sent, oldest first, `sha` or later ones whose reply never came among them.
    """

    version: str | None = None
    sha: str | None = None
    lately: list[str] = []

    def about_to_send(self, sha: str) -> None:
        """Note what is going to be sent; saved before it is."""
        self.lately = [*(each for each in self.lately if each != sha), sha][-SHAS_KEPT:]

    def is_sent(self, version: str, sha: str) -> None:
        """Note what is there now."""
        self.version, self.sha = version, sha
        self.about_to_send(sha)


class TrackState(msgspec.Struct, omit_defaults=True):
    """What is known of one track on the replica.

    Parameters
    ----------
    hot, about
        Its hot object, and its metadata.json.
    runs
        The segments that are there, as ``[start, width, count, generation]`` of neighbours of equal width; see
        `segments`.
    superseded
        Those among them that a later form has replaced, by file name, with the time at which it was there, in seconds
        since the epoch.
    going
        Segments that were going to be sent, and may be there, by file name, oldest first, with the SHA-256 of their
        bytes: another machine may make a segment of the same name.
    conflict
        Why nothing more is sent of the track: another machine wrote it.
    """

    hot: Sent = msgspec.field(default_factory=Sent)
    about: Sent = msgspec.field(default_factory=Sent)
    runs: list[tuple[int, int, int, int]] = []
    superseded: dict[str, float] = {}
    going: dict[str, str] = {}
    conflict: str | None = None

    def about_to_send(self, segments: Mapping[str, str]) -> None:
        """Note segments that are going to be sent, by file name with their SHA-256; saved before they are."""
        kept = {filename: sha for filename, sha in self.going.items() if filename not in segments}
        self.going = {**kept, **segments}

    @property
    def segments(self) -> frozenset[SegmentName]:
        """The segments that are there."""
        return frozenset(
            SegmentName(start + place * width, start + (place + 1) * width, generation)
            for start, width, count, generation in self.runs
            for place in range(count)
        )

    @segments.setter
    def segments(self, names: frozenset[SegmentName]) -> None:
        runs: list[tuple[int, int, int, int]] = []
        for start, stop, generation in sorted(names, key=lambda name: (name.generation, name.start, name.stop)):
            if runs:
                first, width, count, of = runs[-1]
                if of == generation and width == stop - start and first + width * count == start:
                    runs[-1] = (first, width, count + 1, of)
                    continue
            runs.append((start, stop - start, 1, generation))
        self.runs = runs
        if self.going:
            unsure = [each for each in self.going.items() if layout.parse_segment(each[0]) not in names]
            self.going = dict(unsure[-GOING_KEPT:])


class RemoteState(msgspec.Struct, omit_defaults=True):
    """What is known of one replica of the session.

    Parameters
    ----------
    origin
        Whether the plain session.json, parameters.json and logs there are this machine's; otherwise it writes its own
        below ``hosts/<machine>/``. None: not known yet.
    tracks
        By the track's folder below the session, such as ``tracks/loss``.
    files
        Every other object, by its path below the session here on this machine.
    base
        The parameters (as JSON) that were taken over from other machines: they are not sent as this one's.
    told
        What other machines say of uploaded files, as far as it is known: by the path of each one's bytes below the
        session, when its record was written. These records are not sent as this machine's, and while they count, the
        bytes are there.
    heard
        The versions of the objects in which they say so, by path below the session.
    held
        Passes that have kept the session from being found there, since segments were missing between others.
    """

    origin: bool | None = None
    tracks: dict[str, TrackState] = {}
    files: dict[str, Sent] = {}
    base: dict[str, object] = {}
    told: dict[str, str] = {}
    heard: dict[str, str] = {}
    held: int = 0

    def track(self, folder: str) -> TrackState:
        """What is known of one track, made where there is nothing yet."""
        return self.tracks.setdefault(folder, TrackState())

    def file(self, path: str) -> Sent:
        """What is known of another object, made where there is nothing yet."""
        return self.files.setdefault(path, Sent())


class ReplicaState(msgspec.Struct):
    """All that ``.replica.json`` says.

    Parameters
    ----------
    machine
        This machine's id, drawn anew for every folder that gets one.
    remotes
        By the URL of the lake's root there, without user-info and query.
    """

    machine: str
    remotes: dict[str, RemoteState] = {}

    def remote(self, url: str) -> RemoteState:
        """What is known of the replica at this URL, made where there is nothing yet."""
        return self.remotes.setdefault(url, RemoteState())


def load(folder: str) -> ReplicaState:
    """Read the state of a session folder; a new one where there is none, or a damaged one."""
    path = os.path.join(folder, layout.REPLICA_FILE)
    if not os.path.lexists(path):
        return _new()
    try:
        return decode_state(local.read_if_there(path, most=MAX_STATE_BYTES))
    except ValueError as error:
        log().warning("%s is damaged, what was sent is found out by comparing: %s", path, error)
        return _new()


def decode_state(data: bytes) -> ReplicaState:
    """What the bytes of the file say. Raises ValueError where they are no state."""
    try:
        state = msgspec.json.decode(data, type=ReplicaState)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    _check(state)
    return state


def _check(state: ReplicaState) -> None:
    """Raise ValueError where the state, which a stranger may have written, says what no state does."""
    if not re.fullmatch("[0-9a-z]{1,64}", state.machine):
        raise ValueError(f"no id of a machine: {state.machine!a:.80}")
    left = MAX_SEGMENTS
    for known in state.remotes.values():
        for folder, track in known.tracks.items():
            layout.track_name(folder)
            for start, width, count, generation in track.runs:
                left -= count
                if min(start, count - 1, left) < 0:
                    raise ValueError(f"no segments of {folder}: {count} from {start} on")
                SegmentName(start, start + width * count, generation)


def save(folder: str, state: ReplicaState) -> None:
    """Replace the state of a session folder, for good. Raises OSError.

    Were a power cut to bring an older one back, a segment that was sent, and replaced here since, would look as if
    another machine had made it.
    """
    local.atomic_write(os.path.join(folder, layout.REPLICA_FILE), msgspec.json.encode(state), fsync=True)


def hold(folder: str, timeout: float, single_writer: bool = False) -> FileLock:
    """Take the lock under which one process at a time replicates the session in this folder; a context manager.

    Raises
    ------
    LockTimeoutError
        Another process holds it.
    """
    return FileLock.acquire(os.path.join(folder, layout.REPLICA_LOCK_FILE), timeout, locked=not single_writer)


def digest(data: bytes) -> str:
    """The SHA-256 of some bytes in hex, as the state keeps it."""
    return sha256(data).hexdigest()


def _new() -> ReplicaState:
    return ReplicaState(uuid.uuid4().hex[:16])
