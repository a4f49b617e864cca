"""Merges the segments of tracks that grow long, by itself, on a thread of its own that waits for everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Protocol

from dreamlake.engine.forkgate import forks_wait
from dreamlake.errors import CorruptTrackError
from dreamlake.notices import log

if TYPE_CHECKING:
    from dreamlake.engine.trackwriter import TrackWriter

#: Seconds from the roll that makes a track worth merging to the merge: a burst of points comes first.
DELAY = 10.0
#: Seconds from a merge to the removal of the parts, a little more than their grace (`sweep.GRACE`); and from a failed
#: attempt to the next.
AFTER = 65.0


class Stopped(Exception):
    """The session closes; the merge is given up, and leaves nothing behind."""


class WriterOfTracks(Protocol):
    """What merging needs of the writer of its session."""

    tracks: dict[str, TrackWriter]

    def under_lock(self, work: Callable[[], Any]) -> Any:
        """Run `work` on the writer's thread with the session's lock held."""


class Compactor:
    """The tracks of one writer that are to be merged, each at its time; the thread lives while there are any."""

    def __init__(self, writer: WriterOfTracks) -> None:
        self._writer = writer
        self._changed = Condition()
        #: When each track is due, in seconds of the monotonic clock.
        self._due: dict[str, float] = {}
        #: Tracks that are damaged, and those whose last attempt failed otherwise.
        self._damaged: set[str] = set()
        self._failing: set[str] = set()
        self._thread: Thread | None = None
        self._stopped = False

    def note(self, track: str) -> None:
        """Have a track merged soon; called after a roll, on the writer's thread."""
        with self._changed:
            if self._stopped or track in self._damaged:
                return
            self._due[track] = min(self._due.get(track, float("inf")), time.monotonic() + DELAY)
            if self._thread is None:
                thread = Thread(target=self._run, name="dreamlake-compactor", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is ending
                    return
                self._thread = thread
            self._changed.notify()

    def stop(self, timeout: float) -> None:
        """Merge nothing more; a merge that runs is given up, and waited for, for at most `timeout` seconds."""
        with self._changed:
            self._stopped = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join(timeout)

    def _run(self) -> None:
        while (track := self._next()) is not None:
            pause = self._merge(track)
            if pause is not None:
                with self._changed:
                    self._due.setdefault(track, time.monotonic() + pause)

    def _next(self) -> str | None:
        """Wait for the next track that is due; None when there is none, or when all ends."""
        with self._changed:
            while self._due and not self._stopped:
                track = min(self._due, key=self._due.__getitem__)
                pause = self._due[track] - time.monotonic()
                if pause <= 0:
                    del self._due[track]
                    return track
                self._changed.wait(pause)
            self._thread = None
            return None

    @forks_wait
    def _merge(self, track: str) -> float | None:
        """Merge what can be merged of a track, and sweep it; returns the seconds after which to come again, if any."""
        try:
            done = self._writer.tracks[track].compact(self._under_lock, self._check)
        except Stopped:
            return None
        except CorruptTrackError as damage:
            self._damaged.add(track)
            log().warning("the segments of %r are not merged any more by this process: %s", track, damage)
            return None
        except Exception as error:
            if track not in self._failing:
                self._failing.add(track)
                log().warning("the segments of %r cannot be merged now, trying again later: %s", track, error)
            return AFTER
        self._failing.discard(track)
        return AFTER if done["merged"] else None

    def _check(self) -> None:
        if self._stopped:
            raise Stopped

    def _under_lock(self, work: Callable[[], Any]) -> Any:
        def unless_stopped() -> Any:
            self._check()
            return work()

        return self._writer.under_lock(unless_stopped)
