"""Pending points of one session that grow faster than they are written: who waits, how long, and what is given up."""

from collections.abc import Callable, Iterable
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from dreamlake.engine.pending import BLOCK_ROWS, Block, Pending
from dreamlake.engine.thread import Request, Worker

if TYPE_CHECKING:
    from dreamlake.engine.options import Options
    from dreamlake.engine.trackwriter import TrackWriter

#: Sealed rows of one track that wake the thread, however far the track is from a whole segment.
FEW_THOUSAND = 8192
#: Sealed rows of one track above which `append` lets the thread catch up, for at most `PATIENCE` seconds a block.
CROWDED = 12_288
PATIENCE = 0.01
#: Bytes of a segment's worth of pending points from which on `append` goes on while the thread encodes and syncs it,
#: and waits for what is between: three short waits for a segment. Smaller ones are waited for once, for about as long
#: in all, since a wait in 10,000 appends hides behind the slowest 0.01 % of them, and three do not.
LARGE_SEGMENT = 2 << 20
#: Seconds that an append waits once for room in memory, before points are dropped: the disk works, but cannot keep up.
LAST_PATIENCE = 1.0


class WriterOfTracks(Protocol):
    """What is asked of the writer of the session."""

    lock: Lock
    options: "Options"
    thread: Worker
    tracks: "dict[str, TrackWriter]"


class Losses:
    """How much was given up because memory and disk are full, and how much of that was told; the lock guards it."""

    def _reset(self) -> None:
        #: All of it.
        self.dropped = 0
        self._told = self._logged = 0

    @property
    def untold(self) -> int:
        """How many were dropped that no error has told of yet."""
        return self.dropped - self._told

    def tell(self) -> int:
        """How many were dropped that no error has told of yet; the caller is about to. The lock is held."""
        count, self._told = self.untold, self.dropped
        return count

    def unlogged(self) -> int:
        """How many were dropped since this was asked last."""
        count, self._logged = self.dropped - self._logged, self.dropped
        return count


class Pressure(Losses):
    """Counts what is pending in memory, and holds back appends and drops points where that is too much.

    Parameters
    ----------
    writer
        Its lock guards pending points, and the counts here.
    roll, flush
        Write the tracks that `is_full`, and all, on the writer's thread; they raise nothing.
    """

    def __init__(self, writer: "WriterOfTracks", roll: Callable[[], None], flush: Callable[[], None]) -> None:
        self._writer = writer
        self._options = writer.options
        self._roll_now = roll
        self._flush_now = flush
        self._reset()

    def _reset(self) -> None:
        #: Bytes that wait in memory, estimated.
        self.nbytes = 0
        super()._reset()
        # The last flush failed; an append has waited for room in vain since the last flush that did not.
        self._failing = self._overrun = False
        self._roll: Request | None = None
        self._relief: Request | None = None

    def after_fork_in_child(self) -> None:
        """Start anew: what was pending and dropped is the parent's."""
        self._reset()

    # -- room in memory --------------------------------------------------------------------------------------------

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more may stay in memory; counted as pending if so. The lock is held.

        A disk that works makes room soon, and `hold_back` waits for that; only one that does not costs points.
        """
        too_much = self.nbytes + nbytes > self._options.max_pending_bytes
        if too_much and (self._failing or self._overrun):
            return False
        self.nbytes += nbytes
        return True

    def recount(self, give_up: Iterable[Pending]) -> None:
        """Sum up what is pending after a flush, and give up what is too much, of what these tracks have left."""
        with self._writer.lock:
            self.nbytes = sum(track.pending.waiting_bytes() for track in self._writer.tracks.values())
        for pending in give_up:
            excess = self.nbytes - self._options.max_pending_bytes
            if excess <= 0:
                break
            dropped = pending.drop_newest(excess)
            with self._writer.lock:
                self.nbytes -= dropped

    def failed(self) -> None:
        """Say that the disk took nothing: appends wait for nothing then."""
        self._failing = True

    @property
    def is_failing(self) -> bool:
        """Whether the last flush in the background could not write."""
        return self._failing

    def worked(self) -> bool:
        """Say that a flush wrote all; returns whether the one before had failed."""
        failing, self._failing, self._overrun = self._failing, False, False
        return failing

    # -- appends that are held back --------------------------------------------------------------------------------

    def is_full(self, pending: Pending) -> bool:
        """Whether a track has a whole segment, or so many rows that they are written in any case."""
        rows = pending.waiting_rows()
        return rows + pending.hot_points >= self._options.segment_points or rows >= FEW_THOUSAND

    def hold_back(self, pending: Pending, block: Block) -> None:
        """Have a track's whole segment rolled behind its newest block, and wait a moment where it is crowded."""
        if 2 * self.nbytes > self._options.max_pending_bytes:
            self._make_room()
            return
        if not self.is_full(pending):
            return
        roll = self._roll
        if roll is None or roll.is_done:  # by the thread, before it was noted here
            self._roll = roll = self._writer.thread.post(self._roll_full_tracks)
        if self._failing:
            return
        rows, segment_points = pending.waiting_rows(), self._options.segment_points
        is_large = (
            rows + pending.hot_points >= segment_points and block.nbytes * segment_points >= LARGE_SEGMENT * block.count
        )
        if rows >= CROWDED + is_large * BLOCK_ROWS:
            roll.wait(PATIENCE)
        elif (
            is_large
            and rows >= FEW_THOUSAND
            and rows // BLOCK_ROWS > (rows - block.count) // BLOCK_ROWS  # blocks of long points are many
        ):
            self._writer.thread.wait_until_free(PATIENCE)

    def _make_room(self) -> None:
        """Have everything flushed, and wait for it: a moment, or longer where memory is full."""
        relief = self._relief
        if relief is None or relief.is_done:
            self._relief = relief = self._writer.thread.post(self._relieve)
        if self._failing or self._overrun:
            return
        if self.nbytes <= self._options.max_pending_bytes:
            relief.wait(PATIENCE)
        elif not relief.wait(LAST_PATIENCE):
            self._overrun = True

    def _relieve(self) -> None:
        self._relief = None
        self._flush_now()

    def _roll_full_tracks(self) -> None:
        self._roll = None
        self._roll_now()

    # -- points that were given up ---------------------------------------------------------------------------------

    def count_dropped(self, points: int) -> None:
        """Count points that were given up because memory and disk are full. The lock is held."""
        self.dropped += points
