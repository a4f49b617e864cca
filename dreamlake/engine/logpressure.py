"""Log records of one session that come faster than they are written: who waits, how long, and what is given up."""

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from dreamlake.engine.pressure import LAST_PATIENCE, PATIENCE, Losses
from dreamlake.engine.thread import Request, Worker

if TYPE_CHECKING:
    from dreamlake.engine.logfile import LogFile

#: Records that wait, and their bytes, from which on the thread is woken before the next flush is due.
MANY, MANY_BYTES = 8192, 4 << 20
#: The same above which a caller lets the thread catch up, for at most `PATIENCE` seconds a stride.
CROWDED, CROWDED_BYTES = 12_288, 8 << 20
#: Records and bytes of a stride: a wait at each record would hold up a loop whose disk is slow.
STRIDE, STRIDE_BYTES = 256, 1 << 20
#: Records, and bytes of them, that are kept while the disk takes none.
MOST, MOST_BYTES = 100_000, 64 << 20


class WriterOfLog(Protocol):
    """What is asked of the writer of the session."""

    lock: Lock
    logs: "LogFile"
    thread: Worker

    def admit(self) -> None:
        """Raise SessionClosedError when nothing more is taken; called with the lock held."""


class LogPressure(Losses):
    """Takes log records, has them flushed before there are too many, and holds back callers, as `Pressure` for points.

    A disk that works costs no record, however fast they come; one that takes none costs those beyond `MOST`.

    Parameters
    ----------
    writer
        Its lock guards the records that wait, and the counts here.
    flush
        Writes the log on the writer's thread; it raises nothing.
    """

    def __init__(self, writer: WriterOfLog, flush: Callable[[], None]) -> None:
        self._writer = writer
        self._flush_now = flush
        self._reset()

    def _reset(self) -> None:
        super()._reset()
        # The last flush failed; a caller has waited for room in vain since the last flush that did not.
        self._failing = self._overrun = False
        self._request: Request | None = None

    def after_fork_in_child(self) -> None:
        """Start anew: what waited and was dropped is the parent's."""
        self._reset()

    def failed(self) -> None:
        """Say that the disk took not all: callers wait for nothing then."""
        self._failing = True

    def worked(self) -> None:
        """Say that a flush wrote all that there was."""
        self._failing = self._overrun = False

    # -- records that come -----------------------------------------------------------------------------------------

    def take(self, record: dict[str, Any], nbytes: int) -> None:
        """Take a record of about `nbytes`, and see that it is written soon where many wait; the thread runs.

        Raises SessionClosedError.
        """
        logs = self._writer.logs
        with self._writer.lock:
            self._writer.admit()
            taken = not (self._is_full() and (self._failing or self._overrun))
            if taken:
                logs.add(record, nbytes)
                ends_stride = (
                    len(logs.pending) % STRIDE == 0
                    or logs.nbytes // STRIDE_BYTES > (logs.nbytes - nbytes) // STRIDE_BYTES
                )
            else:
                self.dropped += 1
                ends_stride = self.dropped % STRIDE == 0
            count, waiting = len(logs.pending), logs.nbytes
        if count >= MANY or waiting >= MANY_BYTES:
            self._hold_back(ends_stride, count >= CROWDED or waiting >= CROWDED_BYTES)

    def _is_full(self) -> bool:
        logs = self._writer.logs
        return len(logs.pending) >= MOST or logs.nbytes >= MOST_BYTES

    def _hold_back(self, ends_stride: bool, is_crowded: bool) -> None:
        if self._failing and not ends_stride:
            return  # the disk is tried again each second, and not at each record
        request = self._request
        if request is None or request.is_done:
            self._request = request = self._writer.thread.post(self._relieve)
        if self._failing or self._overrun:
            return
        if self._is_full():
            if not request.wait(LAST_PATIENCE):
                self._overrun = True
        elif ends_stride and is_crowded:
            request.wait(PATIENCE)

    def _relieve(self) -> None:
        self._request = None
        self._flush_now()

    # -- records that were given up --------------------------------------------------------------------------------

    def told(self, count: int) -> str:
        """What an error says of so many that were dropped."""
        return f"{count} log records were dropped: the disk took none and {MOST}, or {MOST_BYTES} bytes, were pending"
