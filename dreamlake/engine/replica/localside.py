"""What the replicator changes in the session's folder: each on the writer's thread, and under the session's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from dreamlake.engine.writer import CALLER_LOCK
from dreamlake.format import layout

if TYPE_CHECKING:
    from dreamlake.engine.replica.reserve import Reserve
    from dreamlake.engine.trackwriter import TrackWriter
    from dreamlake.engine.writer import Writer
    from dreamlake.format.layout import SegmentName


class LocalSide:
    """The local side of a session that has a replica.

    Parameters
    ----------
    writer
        The writer of the session.
    """

    def __init__(self, writer: Writer) -> None:
        self.folder = writer.folder
        self._writer = writer

    @property
    def last_ts(self) -> float:
        """The highest automatic timestamp drawn so far; -inf before the first."""
        return self._writer.clock.last

    def go_on_above(self, last: float) -> None:
        """Draw automatic timestamps above this one from now on."""
        with self._writer.lock:
            self._writer.clock.last = max(self._writer.clock.last, last)

    def change(self, work: Callable[[], None]) -> None:
        """Do `work`, which changes tracks: what is known of all of them is learnt anew."""
        self._writer.call(lambda: self.change_now(work))

    def change_now(self, work: Callable[[], None]) -> None:
        """As `change`, on this thread: while the session is being opened, and nothing is written yet."""
        with self._locked():
            self._writer.session_lock.announce_rewrite()
            try:
                work()
            finally:
                for track in list(self._writer.tracks.values()):
                    track.learn_anew()

    @property
    def is_failing(self) -> bool:
        """Whether the last flush could not write: for want of room, most likely."""
        return self._writer.pressure.is_failing

    def alone(self, work: Callable[[], None]) -> None:
        """Do `work` while no flush of this process is under way."""
        self._writer.call(work)

    def drop(self, track: str, names: Sequence[SegmentName], reserve: Reserve) -> None:
        """Drop segments of the track in this folder below the session that are on the replica."""
        writer = self._writer.track(layout.track_name(track))

        def work() -> None:
            with self._locked():  # no flush comes in between, and takes the room
                try:
                    writer.drop(names)
                except OSError as error:
                    if not reserve.helps(error):
                        raise
                    reserve.in_room(lambda: writer.drop(names, bare=True))

        self._writer.call(work)

    def drop_files(self, paths: Sequence[str]) -> None:
        """Drop the bytes at these paths below the session, which are on the replica."""
        from dreamlake.engine.filestore import remove_bytes
        from dreamlake.storage.localstore import LocalStore

        def work() -> None:
            with self._locked():
                for path in paths:
                    remove_bytes(LocalStore(self.folder), path)

        if paths:
            self._writer.call(work)

    def waiting(self) -> list[TrackWriter]:
        """The tracks with late fields that wait for segments which are, or were, only on the replica."""
        from dreamlake.engine.late import tracks_that_wait

        # Asked of the disk each time: other processes let rows wait, too, on tracks that this one may never write to.
        return [self._writer.track(layout.track_name(below)) for below in tracks_that_wait(self.folder)]

    def settle(self, track: TrackWriter, fetched: dict[SegmentName, bytes]) -> None:
        """Merge the late fields of a track into the segments that were fetched for them."""

        def work() -> None:
            with self._locked():
                track.settle(fetched)

        self._writer.call(work)

    def _locked(self) -> AbstractContextManager[Any]:
        return self._writer.session_lock.hold(CALLER_LOCK, self._writer.clock.last)
