"""One pass that brings a replica up to date with what a session folder holds now; only what changed is sent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dreamlake.engine.process import side_by_side
from dreamlake.engine.replica.check import is_track
from dreamlake.engine.replica.ledger import Ledger
from dreamlake.engine.replica.ownfiles import Moved, OwnFiles
from dreamlake.engine.replica.progress import Progress as Progress
from dreamlake.engine.replica.reserve import Reserve
from dreamlake.engine.replica.sending import Outcome as Outcome
from dreamlake.engine.replica.sending import Sender, Stopped
from dreamlake.engine.replica.state import ReplicaState
from dreamlake.engine.replica.tracks import TrackSender
from dreamlake.format import layout
from dreamlake.format.layout import SegmentName
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore

#: Tracks of which the hot files are held until they are sent, and the bytes of these: the state is saved once for all.
WAVE, WAVE_BYTES = 500, 32 << 20
#: Objects of a track up to which it is not worth a request to find out whether they may go in any order.
FEW = 4

#: Passes that keep a session from being found while segments of it are missing between others.
HELD = 3

#: Seconds between looks at the tracks while large files are on their way, unless a session has its own interval.
INTERVAL = 10.0

_DOWN = ""  # the key in `seen`, beside paths, of whether the last pass ended for trouble


def push(
    folder: str,
    session: str,
    remote: RemoteStore,
    state: ReplicaState,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    seen: dict[str, Any] | None = None,
    last_ts: float | None = None,
    now: Callable[[], float] = time.time,
    interval: float = INTERVAL,
    grace: float | None = None,
    reserve: Reserve | None = None,
) -> Outcome:
    """Bring the replica of a session up to date with its folder.

    The folder is read as by any reader: a session may be written meanwhile. A reader of the replica finds, at any
    moment, all points up to some index. What fails (a damaged track, the network) is told in the outcome; a pass ends
    early when two requests in a row failed after all their repetitions. What was sent is known to the next pass, also
    after a kill.

    Parameters
    ----------
    folder
        The session's folder here, an absolute path.
    session
        Its path below the lake's root, as `layout.session_dir` makes it; the same on the replica.
    remote
        The store over the root of the replica's lake.
    state
        What was sent before; the caller holds its lock. It is kept in step, here and on disk.
    progress
        Is told how many objects and bytes were sent, and are to be sent as far as that is known.
    stop
        Is asked before each object whether to end early.
    seen
        A dict that the caller keeps from pass to pass, empty at first: files that were not touched since are not read
        again. For one replica, in one process.
    last_ts
        The highest automatic timestamp, seconds since the epoch, which a machine that resumes from the replica has to
        go on above. None: as the session's lock file says.
    now
        The time in seconds since the epoch.
    interval
        Seconds between looks at the tracks while large files are on their way.
    grace
        Seconds for which segments stay on the replica that a merged one, or one with late fields, has replaced, for
        readers that have listed them; by default `sweep.GRACE`. Without it they look again, which costs a request.
    reserve
        Room for what is to be saved where the disk is full.
    """
    ledger = Ledger(folder, state, reserve)
    sender = Sender(remote, ledger, progress or Progress(), stop)
    seen = {} if seen is None else seen
    pass_ = _Pass(folder, session, sender, seen, last_ts, now, grace)
    pass_.interval = interval
    try:
        pass_.run()
    except Stopped:
        sender.end()
        if pass_.interrupt is not None:  # which another thread, that ended for it, was told before
            raise pass_.interrupt from None
    finally:
        try:
            ledger.save()
        except OSError as error:
            sender.failed(layout.REPLICA_FILE, error)
    seen[_DOWN] = sender.outcome.ended and bool(sender.outcome.failures)
    return sender.outcome


class _Pass:
    """See `push`."""

    def __init__(
        self,
        folder: str,
        session: str,
        sender: Sender,
        seen: dict[str, Any],
        last_ts: float | None,
        now: Callable[[], float],
        grace: float | None,
    ) -> None:
        self.local = LocalStore(folder)
        self.session = session
        self.sender = sender
        self.seen = seen
        self.now = now
        self.grace = grace
        state = sender.ledger.state
        self.known = state.remote(sender.remote.describe())
        self.interval = INTERVAL
        #: What ends this pass that is no failure of it, as Ctrl-C does.
        self.interrupt: BaseException | None = None
        self.own = OwnFiles(self.local, session, state, self.known, sender, seen, last_ts)

    def run(self) -> None:
        self.attempt(layout.SESSION_FILE, self.own.check)
        if self.seen.get(_DOWN):
            self.attempt(layout.SESSION_FILE, self.knock)
        if self.sender.outcome.failures:
            raise Stopped
        tracks = self.changed_tracks()
        self.go_ahead([track for track in tracks if track.expected > FEW or track.is_begun])
        self.attempt(layout.SESSION_FILE, self.own.introduce)
        if self.own.is_unknown:  # without it readers do not find the session, and nobody knows whose it is
            raise Stopped
        self.send_tracks(tracks)
        self.own.run(self.attempt, lambda: self.send_tracks(self.changed_tracks()), self.interval)

    def send_tracks(self, tracks: list[TrackSender]) -> None:
        """Bring tracks up to date, many side by side."""
        while tracks:
            wave = self.next_wave(tracks)
            side_by_side(lambda track: self.attempt(track.below, track.run), wave, self.sender.remote.width)
            self.sender.check()

    def knock(self) -> None:
        """See that the network is back before anything is noted as sent: only so many such notes are kept."""
        with suppress(FileNotFoundError):
            self.sender.ask(lambda: self.sender.remote.stat(f"{self.session}/{layout.SESSION_FILE}"))

    def send_ahead(self, tracks: list[TrackSender]) -> None:
        """Send segments side by side, in any order, while no reader can find the session.

        Otherwise none may ever be there without those before it, so that each takes a round trip.
        """
        width = self.sender.remote.width
        side_by_side(lambda track: self.attempt(track.below, track.prepare_claim), tracks, width)
        left: list[tuple[TrackSender, SegmentName]] = []

        def claim(track: TrackSender) -> None:
            left.extend((track, name) for name in track.claim())

        try:
            side_by_side(lambda track: self.attempt(track.below, lambda: claim(track)), tracks, width)
            side_by_side(lambda each: self.attempt(each[0].below, lambda: each[0].send_ahead(each[1])), left, width)
        finally:
            for track in tracks:
                track.note()

    def go_ahead(self, tracks: list[TrackSender]) -> None:
        """Send what may go in any order while nobody can find the session; nor may they with segments missing there.

        What fails is tried by the next pass, and nobody misses it until then; but only so many passes wait for it,
        since all the rest of the session waits with it.
        """
        unheard: list[bool] = []
        if tracks:
            self.attempt(layout.SESSION_FILE, lambda: unheard.append(self.own.is_unheard_of()))
            if not unheard:
                raise Stopped
        if not any(unheard):
            return
        self.send_ahead(tracks)
        with_holes = [track for track in tracks if track.has_hole]
        done: list[None] = []
        for track in with_holes:
            self.attempt(track.below, lambda track=track: done.append(track.fill()))  # type: ignore[misc]
        if len(done) < len(with_holes):
            with self.sender.ledger:
                self.known.held += 1
            if self.known.held < HELD:
                raise Stopped

    def next_wave(self, tracks: list[TrackSender]) -> list[TrackSender]:
        """Take tracks off the front, as many as can be held in memory; what they are about to send is noted."""
        wave: list[TrackSender] = []
        held = 0
        while tracks and len(wave) < WAVE and held < WAVE_BYTES:
            track = tracks.pop(0)
            held += track.prepare()
            wave.append(track)
        return wave

    def attempt(self, place: str, work: Callable[[], None]) -> None:
        """Do one thing; what fails is noted, and does not keep the pass from the others."""
        try:
            work()
        except (Stopped, Moved):
            raise
        except Exception as error:
            self.sender.failed(place, error)
        except BaseException as error:
            self.interrupt = error
            self.sender.end()  # for the threads that help
            raise

    def changed_tracks(self) -> list[TrackSender]:
        """The tracks of which there may be something to send, those with most first: each goes piece by piece."""
        found: list[TrackSender] = []
        left = [layout.TRACKS_DIR]
        while left:
            below = left.pop()

            def look(below: str = below) -> None:
                names, folders = _listed(self.local.describe(below))
                left.extend(f"{below}/{name}" for name in folders)
                if is_track(below, names):
                    self.consider(below, names, found)

            self.attempt(below, look)
        return sorted(found, key=lambda track: -track.expected)

    def consider(self, below: str, names: list[str], found: list[TrackSender]) -> None:
        with self.sender.ledger:
            known = self.known.track(below)
        if known.conflict is not None:
            self.sender.conflict(known.conflict)
            return
        track = TrackSender(below, self.local, self.session, known, self.sender, self.seen, self.now, self.grace)
        if track.estimate(names):
            found.append(track)


def _listed(path: str) -> tuple[list[str], list[str]]:
    """The names of the files and of the folders in a folder; links to folders are not followed."""
    names: list[str] = []
    folders: list[str] = []
    with suppress(FileNotFoundError), os.scandir(path) as entries:  # a session without a track has no such folder
        for entry in entries:
            (folders if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
    return names, folders
