"""What a fork waits for: calls of other threads that import, or use Arrow, whose locks a child would inherit."""

from __future__ import annotations

import os
import sys
import time
from _thread import get_ident
from functools import wraps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, ParamSpec, TypeVar

    Given = ParamSpec("Given")
    Made = TypeVar("Made")

#: Seconds that a fork waits for calls of other threads: those of a kind that none has ended of in this process, and the
#: others. The first ones import, which takes long from a slow disk, and have Arrow make what it makes once.
FIRST_PATIENCE, PATIENCE = 10.0, 0.2
#: Seconds between looks whether a call has ended, or a fork.
PAUSE = 0.0005

# Dicts, of which each operation below is one step for Python, and no locks: a child would inherit those too, and an
# interrupt behind the acquisition of one could leave it locked.
#: The calls that run, each with its thread and its kind.
_running: dict[object, tuple[int, str]] = {}
#: The threads that are about to fork. While there are any, other threads begin no call.
_forking: dict[int, None] = {}
#: The kinds of which a call has ended.
_ended: set[str] = set()


def forks_wait(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Have forks by other threads wait for calls of this function, a moment; and its calls for such forks.

    A child has no thread but the one that forked, and all locks as they were: of modules that were being imported, of
    what Arrow makes at its first use and later, of objects that both threads use. It would wait for ever at one that
    another thread held. Not for what the writer's thread does, which a fork waits for anyway, nor for what waits for
    the network.
    """
    return _waited_for(function, lambda me, running: me in running)


def forks_wait_for_parts(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """As `forks_wait`, of what may be a part of another thread's call that waits for it: as Polars' threads work.

    While there is such a call, of any thread, it does not wait for forks.
    """
    return _waited_for(function, lambda me, running: any(thread not in _forking for thread in running))


def _waited_for(
    function: Callable[Given, Made], is_part: Callable[[int, Collection[int]], bool]
) -> Callable[Given, Made]:
    kind = function.__qualname__

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        this = object()
        try:
            _begin(this, kind, is_part)
            made = function(*args, **kwargs)
        finally:
            _running.pop(this, None)
        _ended.add(kind)
        return made

    return call


def _begin(this: object, kind: str, is_part: Callable[[int, Collection[int]], bool]) -> None:
    """Note that a call runs; behind the forks that are being made, unless it is a part of one that they wait for."""
    me = get_ident()
    _running[this] = me, kind
    if not _forking or me in _forking:
        return
    deadline = time.monotonic() + FIRST_PATIENCE + PATIENCE
    while _forking and time.monotonic() < deadline:
        del _running[this]
        if is_part(me, [thread for thread, _ in list(_running.values())]):
            _running[this] = me, kind
            return
        time.sleep(PAUSE)
        _running[this] = me, kind


def as_part(work: Callable[[], None]) -> Callable[[], None]:
    """`work` for another thread, as a part of the call that this thread is in, if it is in one."""
    me = get_ident()
    kinds = [kind for thread, kind in list(_running.values()) if thread == me]
    if not kinds:
        return work

    def part() -> None:
        this = object()
        try:
            _running[this] = get_ident(), kinds[0]
            work()
        finally:
            _running.pop(this, None)

    return part


def before_fork() -> None:
    """Keep other threads from beginning a call, and wait for those that they are in; once for a fork."""
    me = get_ident()
    if me in _forking:
        return
    _forking[me] = None
    started = time.monotonic()
    while _is_waited_for(me, time.monotonic() - started):
        time.sleep(PAUSE)


def _is_waited_for(me: int, waited: float) -> bool:
    """Whether any call of a thread that is not about to fork itself is to be waited for longer."""
    return any(
        waited < (PATIENCE if kind in _ended else FIRST_PATIENCE)
        for thread, kind in list(_running.values())
        if thread != me and thread not in _forking
    )


def others_locks() -> Callable[[], None]:
    """Let go of what Python's own hooks took for a fork, which calls that are waited for may need.

    Those of modules that were imported since ours was registered have run by now. Modules that are imported while we
    wait register hooks of which Python runs only those behind the fork, which let go of what was never taken.

    Returns
    -------
    Callable
        Takes all that the hooks behind the fork will let go of.
    """
    before = _hooked()
    log_lock = before.get("logging")
    if log_lock is not None and log_lock._is_owned():
        log_lock.release()
        del before["logging"]

    def take() -> None:
        for name, lock in _hooked().items():
            if name not in before:
                lock.acquire()

    return take


def _hooked() -> dict[str, Any]:
    """The locks that modules of Python take before a fork and let go behind it, of those whose hooks are registered."""
    found = {}
    for name, lock, later in (
        ("logging", "_lock", "_after_at_fork_child_reinit_locks"),
        ("concurrent.futures.thread", "_global_shutdown_lock", "_WorkItem"),
    ):
        module = sys.modules.get(name)
        if hasattr(module, later):  # which comes behind the hooks, while the module is imported
            found[name] = getattr(module, lock)
    return found


def _before_fork() -> None:
    take = others_locks()
    before_fork()
    take()


def after_fork() -> None:
    """Let calls begin again; in the parent."""
    _forking.pop(get_ident(), None)


def after_fork_in_child() -> None:
    """Forget the calls of threads that are not here."""
    me = get_ident()
    _forking.clear()
    for this, (thread, _) in list(_running.items()):
        if thread != me:
            del _running[this]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=after_fork, after_in_child=after_fork_in_child)
