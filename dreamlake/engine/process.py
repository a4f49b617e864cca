"""What this process can do: work side by side in a few threads, and Polars queries, which a forked child cannot."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from queue import Empty, SimpleQueue

from dreamlake.engine.forkgate import as_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Item = TypeVar("Item")
    Made = TypeVar("Made")

#: More threads than this gain nothing on local files: decoding is bound by memory bandwidth.
MAX_WIDTH = 8
#: Seconds that a thread waits for more to do.
PATIENCE = 1.0
#: With fewer values a local file, threads wait for Python's lock longer than they decode without it.
FEW_VALUES = 5_000

_forked = False
_polars_lost = False


def _in_child() -> None:
    global _forked, _helpers, _polars_lost
    _forked = True
    _helpers = Helpers()  # those of the parent are not here
    # Polars' thread pool does not survive the fork, and every query waits for it for ever. Where Polars is first
    # imported in the child, the child has a pool of its own.
    _polars_lost = _polars_lost or "polars" in sys.modules


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def check_polars() -> None:
    """Refuse to hang.

    Raises
    ------
    RuntimeError
        This process was forked from one that had imported Polars, so that a Polars query here would wait for ever.
    """
    if _polars_lost:
        raise RuntimeError(
            "Polars queries hang in a forked child process: use read(), to_arrow() or to_pandas() here, "
            'or start the process with the "spawn" or "forkserver" method'
        )


def local_width() -> int:
    """How many threads work on local files side by side: 1 in a forked child, else one a core, at most `MAX_WIDTH`."""
    if _forked:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MAX_WIDTH))


def reading_width(store: object, values: int | None = None) -> int:
    """How many threads read the files of a store side by side: as many as its ``width`` says, else as on local files.

    Parameters
    ----------
    values
        About how many values each file gives, where that is known.
    """
    width: int = getattr(store, "width", 0)
    if width and not _forked:
        return width
    return 1 if values is not None and values < FEW_VALUES else local_width()


def side_by_side(work: Callable[[Item], Made], items: Sequence[Item], width: int) -> list[Made]:
    """``[work(item) for item in items]`` by this thread and up to ``width - 1`` others, done when it returns.

    Where no thread can be had (the interpreter is exiting), this one does it all.

    Raises
    ------
    BaseException
        What `work` raised, of the first item in order that failed; items not begun by then are left.
    """
    made: list[Made | None] = [None] * len(items)
    failed: list[tuple[int, BaseException]] = []
    # next() on a range iterator is atomic, so each thread takes items of its own without a lock.
    places = iter(range(len(items)))

    def run() -> None:
        for place in places:
            if failed:
                return
            try:
                made[place] = work(items[place])
            except BaseException as error:
                failed.append((place, error))
                return

    # No locks of Python's here, nor in `Helpers`: an interrupt just behind one's acquisition could leave it locked.
    begun: list[object] = []
    ended: SimpleQueue[object] = SimpleQueue()

    def help_out() -> None:
        this = object()
        begun.append(this)
        try:
            run()
        finally:
            ended.put(this)

    helpers = min(width, len(items)) - 1
    if helpers > 0:
        _helpers.ask(as_part(help_out), helpers)
    run()
    # A helper that begins only now finds nothing to do, and is not waited for, nor does its end count for another's.
    working = set(begun)
    while working:
        # Not join(), which would enter Polars' own threads, when they call, among Python's for good.
        working.discard(ended.get())
    if failed:
        raise min(failed, key=lambda pair: pair[0])[1]
    return made  # type: ignore[return-value]


class Helpers:
    """Threads that do what they are asked, and wait for more for a moment before they end.

    To start one for each call costs more than a small file: it begins on the core of the one who asked, and until the
    system has moved it to another, both wait for Python's lock, up to 5 ms each time.
    """

    def __init__(self) -> None:
        #: The threads that have nothing to do, each with what it waits at.
        self._idle: deque[tuple[SimpleQueue[Callable[[], None]], threading.Thread]] = deque()

    def ask(self, job: Callable[[], None], count: int) -> None:
        """Have `job` done by so many threads; fewer where no more can be had, or one ends just now."""
        for _ in range(count):
            try:
                inbox = self._idle.pop()[0]
            except IndexError:
                if not self._start(job):
                    return
            else:
                inbox.put(job)

    def idle(self) -> set[threading.Thread]:
        """The threads that wait for something to do."""
        return {thread for _, thread in self._idle.copy()}

    def _start(self, job: Callable[[], None]) -> bool:
        inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        inbox.put(job)
        # Daemons: a reader in a daemon thread must not hold up the end of the process through its helpers.
        helper = threading.Thread(target=self._serve, args=(inbox,), name="dreamlake-read", daemon=True)
        try:
            helper.start()
        except RuntimeError:  # the interpreter is exiting
            return False
        return True

    def _serve(self, inbox: SimpleQueue[Callable[[], None]]) -> None:
        this = inbox, threading.current_thread()
        while True:
            try:
                job = inbox.get(timeout=PATIENCE)
            except Empty:
                try:
                    self._idle.remove(this)
                    return
                except ValueError:  # somebody took it just now, and is about to ask, unless he was interrupted
                    try:
                        job = inbox.get(timeout=PATIENCE)
                    except Empty:
                        return
            job()
            del job  # and with it all that was made
            self._idle.append(this)


_helpers = Helpers()
