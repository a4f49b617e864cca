"""What this process can do: work side by side in a few threads, and Polars queries, which a forked child cannot."""

from __future__ import annotations

import os
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Item = TypeVar("Item")
    Made = TypeVar("Made")

#: More threads than this gain nothing on local files: decoding is bound by memory bandwidth.
MAX_WIDTH = 8
#: With fewer values a local file, threads wait for Python's lock longer than they decode without it.
FEW_VALUES = 5_000

_forked = False
_polars_lost = False


def _in_child() -> None:
    global _forked, _polars_lost
    _forked = True
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
    """``[work(item) for item in items]`` by this thread and up to ``width - 1`` others, which end before it returns.

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

    ended = threading.Semaphore(0)

    def help_out() -> None:
        try:
            run()
        finally:
            ended.release()

    helpers = _start(help_out, min(width, len(items)) - 1)
    run()
    for _ in range(helpers):
        # Not join(), which would enter Polars' own threads, when they call, among Python's for good.
        ended.acquire()
    if failed:
        raise min(failed, key=lambda pair: pair[0])[1]
    return made  # type: ignore[return-value]


def _start(run: Callable[[], None], count: int) -> int:
    for started in range(count):
        # Daemons: a reader in a daemon thread must not hold up the end of the process through its helpers.
        helper = threading.Thread(target=run, name="dreamlake-read", daemon=True)
        try:
            helper.start()
        except RuntimeError:
            return started
    return max(count, 0)
