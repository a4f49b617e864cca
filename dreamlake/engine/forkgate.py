"""What a fork waits for: calls of other threads that import, or use Arrow, whose locks a child would inherit."""

from __future__ import annotations

import os
import sys
import time
from _thread import get_ident
from contextlib import suppress
from functools import wraps
from threading import Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, ParamSpec, TypeVar

    Given = ParamSpec("Given")
    Made = TypeVar("Made")

#: Seconds that a fork waits for calls of other threads: those of a kind that none has ended of in this process, and the
#: others. The first ones import, which takes long from a slow disk, and have Arrow make what it makes once.
FIRST_PATIENCE, PATIENCE = 3.0, 0.2
#: Seconds between looks whether a call has ended, or a fork.
PAUSE = 0.0005

# Dicts, of which each operation below is one step for Python, and no locks: a child would inherit those too, and an
# interrupt behind the acquisition of one could leave it locked.
#: The calls that run, each with its thread and its kind.
_running: dict[object, tuple[int, str]] = {}
#: Those among them that a fork has waited for in vain: no other one waits for them.
_given_up: dict[object, None] = {}
#: The threads that are about to fork, and when that must have ended. While there are any, others begin no call.
_forking: dict[int, float] = {}
#: The kinds of which a call has ended.
_ended: set[str] = set()
#: The threads in whose fork Ctrl-C came: Python swallows what is raised there.
_interrupted: dict[int, None] = {}


def forks_wait(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Have forks by other threads wait for calls of this function, a moment; and its calls for such forks.

    A child has no thread but the one that forked, and all locks as they were: of modules that were being imported, of
    what Arrow makes at its first use and later, of objects that both threads use. It would wait for ever at one that
    another thread held. Not for what the writer's thread does, which a fork waits for anyway, nor for what mostly waits
    for the network or runs code of the user's.
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
    while _a_fork_is_made():
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


def _a_fork_is_made() -> bool:
    for thread, deadline in list(_forking.items()):
        if time.monotonic() > deadline:  # its end was not told: a signal's handler raised instead
            _forking.pop(thread, None)
    return bool(_forking)


def before_fork() -> None:
    """Keep other threads from beginning a call, and wait for those that they are in; once for a fork."""
    me = get_ident()
    if me in _forking:
        return
    started = time.monotonic()
    _forking[me] = started + 2 * (FIRST_PATIENCE + PATIENCE)
    for call in list(_given_up):
        if call not in _running:  # it ended while it was given up
            _given_up.pop(call, None)
    try:
        while _is_waited_for(me, time.monotonic() - started):
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        _interrupted[me] = None
    _given_up.update(dict.fromkeys(_calls_of_others(me)))


def _is_waited_for(me: int, waited: float) -> bool:
    """Whether any call of a thread that is not about to fork itself is to be waited for longer."""
    kinds = [kind for call, kind in _calls_of_others(me).items() if call not in _given_up]
    return any(waited < (PATIENCE if kind in _ended else FIRST_PATIENCE) for kind in kinds)


def _calls_of_others(me: int) -> dict[object, str]:
    running = list(_running.items())
    return {call: kind for call, (thread, kind) in running if thread != me and thread not in _forking}


def others_locks(known: Collection[str]) -> Callable[[], None]:
    """Let go of what Python's own hooks took for a fork, which calls that are waited for may need.

    Those of modules that were imported since ours was registered have run by now. Modules that are imported while we
    wait register hooks of which Python runs only those behind the fork, which let go of what was never taken.

    Parameters
    ----------
    known
        What `hooked` gave when the hook was registered that calls this.

    Returns
    -------
    Callable
        Takes all that the hooks behind the fork will let go of.
    """
    for name, lock in hooked().items():
        if name not in known:
            with suppress(RuntimeError):  # imported just now, behind the hooks that Python runs before the fork
                lock.release()

    def take() -> None:
        for name, lock in hooked().items():
            if name not in known:
                lock.acquire()

    return take


def hooked() -> dict[str, Any]:
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
    if get_ident() not in _forking:  # else the hook of `engine.lifecycle` has seen to it
        take = others_locks(_known)
        before_fork()
        take()


def after_fork() -> None:
    """Let calls begin again; in the parent."""
    me = get_ident()
    _forking.pop(me, None)
    if me in _interrupted:
        import signal

        del _interrupted[me]
        Timer(0.01, lambda: signal.pthread_kill(me, signal.SIGINT)).start()  # behind the hooks


def after_fork_in_child() -> None:
    """Forget the calls of threads that are not here."""
    me = get_ident()
    _forking.clear()
    _interrupted.clear()
    for this, (thread, _) in list(_running.items()):
        if thread != me:
            del _running[this]
    _given_up.clear()


_known = frozenset(hooked())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=after_fork, after_in_child=after_fork_in_child)
    # Once more: a signal's handler may raise before the first one has begun, and Python swallows that.
    os.register_at_fork(after_in_parent=after_fork)
