"""A thread that works for a session: it does what it is asked, in turn, and what is due when it is time to."""

import time
from _thread import LockType, allocate_lock
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")


class Request:
    """Something the thread is asked to do, and how it went."""

    __slots__ = ("_done", "error", "result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self._done = allocate_lock()
        self._done.acquire()

    def run(self) -> None:
        """Do it; called on the thread."""
        try:
            self.result = self.work()
        except BaseException as error:
            self.error = error
        finally:
            self._done.release()

    @property
    def is_done(self) -> bool:
        """Whether it was done; for a moment no, too, while somebody finds that out by `wait`."""
        return not self._done.locked()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it was done, for at most `timeout` seconds; return whether it was."""
        done = self._done.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        if done:
            self._done.release()
        return done


class Worker:
    """Runs requests one after the other, and `tick` when it is due, while `busy` is held.

    The thread starts with the first request, or by `start`.

    Parameters
    ----------
    name
        Of the thread.
    pause
        Gives the seconds until the next tick; asked after every tick and at the start, and after a request, which may
        have made it come earlier.
    tick
        What is done regularly; it raises nothing.
    prepare
        Done once, first of all: imports what the work needs, so that no caller has to wait for it.
    arm
        Called by the thread that starts this one, before: installs the hooks of the process that see to its end.
    """

    def __init__(
        self,
        name: str,
        pause: Callable[[], float],
        tick: Callable[[], None],
        prepare: Callable[[], None],
        arm: Callable[[], None],
    ) -> None:
        self._name = name
        self._pause = pause
        self._tick = tick
        self._prepare = prepare
        self._arm = arm
        #: Held while the thread works; what a fork waits for.
        self.busy = Lock()
        self._inbox: SimpleQueue[Request | None] = SimpleQueue()
        self._thread: Thread | None = None
        #: Locks of those who wait until the thread needs no lock of Python's for a while.
        self._waiting: list[LockType] = []
        self._stopped = False
        self._starting = Lock()

    @property
    def is_running(self) -> bool:
        """Whether there is a thread now."""
        return self._thread is not None

    def start(self, request: Request | None = None) -> bool:
        """See that the thread runs, and give it a request; False when none can be started."""
        with self._starting:
            if self._stopped:
                return False
            if self._thread is None:
                self._arm()
                thread = Thread(target=self._run, args=(self._inbox,), name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
            if request is not None:
                self._inbox.put(request)
        return True

    def post(self, work: Callable[[], Any]) -> Request:
        """Have `work` done in its turn; returns at once."""
        request = Request(work)
        self._inbox.put(request)
        return request

    def call(
        self,
        work: Callable[[], T],
        timeout: float | None,
        what: str,
        wait: Callable[[Request, float | None], bool] = Request.wait,
    ) -> T:
        """Have `work` done and return what it returns, or raise what it raises; `wait` does the waiting.

        Raises TimeoutError, which says that `what` has not ended, after `timeout` seconds; it goes on then.
        """
        request = Request(work)
        if not self.start(request):  # stopped, or the interpreter is ending and starts no thread any more
            with self.busy:
                request.run()
        if not wait(request, timeout):
            raise TimeoutError(f"{what} has not ended after {timeout:g} s; it goes on")
        if request.error is not None:
            raise request.error
        return request.result  # type: ignore[no-any-return]

    def free(self) -> None:
        """Let those go on who wait in `wait_until_free`; called on the thread, or on one that helps it."""
        waiting = self._waiting
        while waiting:
            try:
                waiting.pop().release()
            except IndexError:  # it has stopped waiting just now
                return

    def wait_until_free(self, timeout: float) -> None:
        """Wait until the thread says that it is `free`, or has done a request, for at most `timeout` seconds.

        A loop that never lets go of Python's lock keeps the thread from its work: Python takes it away every 5 ms only,
        and the thread needs it some thirty times for a segment. So such a loop waits here at times.
        """
        mine = allocate_lock()
        mine.acquire()
        self._waiting.append(mine)
        if not mine.acquire(timeout=timeout):
            with suppress(ValueError):
                self._waiting.remove(mine)

    def stop(self, timeout: float) -> None:
        """End the thread after what it was asked before, and wait for that for at most `timeout` seconds."""
        with self._starting:
            thread, self._thread = self._thread, None
            self._stopped = True
            self._inbox.put(None)
        if thread is not None:
            thread.join(timeout)

    def after_fork_in_child(self) -> None:
        """Start anew: the thread, its requests and the holders of its locks are the parent's."""
        self.busy, self._starting = Lock(), Lock()
        self._inbox = SimpleQueue()
        self._thread = None
        self._waiting = []

    def _run(self, inbox: "SimpleQueue[Request | None]") -> None:
        try:
            with self.busy:
                self._prepare()
            self._serve(inbox)
        finally:
            with self._starting:  # what was put there before this is refused, what comes later finds another thread
                if self._inbox is inbox:
                    self._thread = None
            _refuse_all(inbox)  # those who wait must not wait for ever, whatever ended this thread

    def _serve(self, inbox: "SimpleQueue[Request | None]") -> None:
        due = time.monotonic() + self._pause()
        while True:
            if time.monotonic() >= due:  # also when one request follows another
                with self.busy:
                    self._tick()
                due = time.monotonic() + self._pause()
            try:
                request = inbox.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                continue
            if request is None:
                return
            with self.busy:
                request.run()
            request = None
            self.free()
            due = min(due, time.monotonic() + self._pause())


def _refuse_all(inbox: "SimpleQueue[Request | None]") -> None:
    """Tell those who still wait for a thread that has ended."""
    while True:
        try:
            request = inbox.get_nowait()
        except Empty:
            return
        if request is not None:
            request.work = _ended
            request.run()


def _ended() -> None:
    raise OSError("the thread that was to do this has ended before it did")
