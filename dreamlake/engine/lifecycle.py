"""The writers of this process from open to exit: shared between sessions, safe across fork, flushed however it ends."""

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from dreamlake.engine.ending import Ending
from dreamlake.engine.forkgate import before_fork, hooked, others_locks
from dreamlake.engine.options import Options, Remote
from dreamlake.engine.writer import Writer, plain
from dreamlake.errors import PointsDroppedError, SessionExistsError
from dreamlake.notices import log

#: Seconds that a fork waits for running flushes, and that all flushes at interpreter exit may take.
FORK_PATIENCE, EXIT_DEADLINE = 1.0, 5.0
#: Seconds that a fork waits for a flush thread that still imports what it needs; that ends by itself, on any disk.
IMPORT_PATIENCE = 60.0
#: The exit status of a process that SIGTERM ended, by convention 128 + 15.
TERMINATED = 143


class _Process:
    """What this process has armed; one object, so that a forked child starts with a new one."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Condition()
        #: Open writers and the number of sessions that hold each, by the real path of their folder.
        self.writers: dict[str, tuple[Writer, int]] = {}
        #: Temporary folders in use, and how many sessions use each, by the replica and the session's folder.
        self.temporary: dict[tuple[str, str], tuple[str, int]] = {}
        #: The timestamp of this process's latest append to a session that was closed, which ``_ts=-1`` goes on from.
        self.latest: dict[str, float] = {}
        self.terminated = False
        #: Whether the exit hooks are flushing: a SIGTERM then is no news, and must not cut that short.
        self.exiting = False
        self.exit_code: Any = None
        #: Whether the main thread runs a hook of a fork, in which Python swallows what the handler of SIGTERM raises.
        self.in_fork_hook = False
        #: In a child of multiprocessing: what flushes at its end, and what sees to it that SIGTERM ends it.
        self.finalizer: Any = None
        self.watch: Any = None


_process = _Process()
_busy: list[Writer] = []
#: The signals that a forking thread had blocked before a fork that SIGTERM has to wait for, by thread.
_unblocked: dict[int, set[Any]] = {}
_armed = False
#: The hooks of Python's own that run before those here, see `forkgate.others_locks`.
_known: frozenset[str] = frozenset()
_plain_exit = sys.exit


def open_writer(
    folder: str, workspace: str, name: str, options: Options, resume: str, described: dict[str, Any]
) -> Writer:
    """Return the writer of a session folder, shared with the other sessions of this process on it.

    Raises ValueError when another session on the folder was opened with other options, and what `Writer.open` raises.
    """
    arm()
    key = os.path.realpath(folder)
    with _process.lock:
        while key in _process.writers and not _process.writers[key][1]:
            _process.lock.wait()  # its last session is closing it
        writer, count = _process.writers.get(key, (None, 0))
        if writer is None:
            writer = Writer(folder, workspace, name, options, arm)
            try:
                writer.open(resume, described)
            except OSError as error:
                said = plain(error)
                if said is error:
                    raise
                raise said from None
            if key in _process.latest:
                writer.clock.note(_process.latest[key])
        else:
            _check_same(writer, options, resume)
            given = {k: v for k, v in described.items() if v is not None}
            if given:
                writer.under_lock(lambda: writer.run_file.update(**given))
        _process.writers[key] = (writer, count + 1)
    return writer


def _check_same(writer: Writer, options: Options, resume: str) -> None:
    if resume == "never":
        raise SessionExistsError(f"{writer.folder} is open in this process already, and resume='never' was asked for")
    for field, mine, theirs in zip(Options._fields, options, writer.options, strict=True):
        if mine != theirs and repr(mine) == repr(theirs):
            raise ValueError(
                f"{writer.folder} is open in this process already with the same {field} but other storage_options or "
                "sync_interval; sessions on one folder share a writer, so open both with the same options"
            )
        if mine != theirs:
            raise ValueError(
                f"{writer.folder} is open in this process already with {field}={theirs!r}, not {mine!r}; "
                "sessions on one folder share a writer, so open both with the same options"
            )


def release_writer(writer: Writer, ending: Ending | None, timeout: float | None) -> None:
    """Give a session's hold on its writer back; the last one closes it. Otherwise what is pending is flushed.

    When that fails the hold is kept, and the error raised; PointsDroppedError tells of what was lost before.
    """
    with _process.lock:
        key = next((k for k, (w, _) in _process.writers.items() if w is writer), None)
        if key is None:
            return
        count = _process.writers[key][1] - 1
        _process.writers[key] = (writer, count)
    kept = 0
    try:
        if count:
            writer.flush(timeout=timeout)
        else:
            writer.close(ending, timeout)
    except PointsDroppedError:
        raise
    except BaseException:
        kept = 1
        raise
    finally:
        with _process.lock:
            found, count = _process.writers.get(key, (None, 0))
            if found is writer:  # another session may have closed it meanwhile, and a third opened a new one
                _process.writers[key] = (writer, count + kept)
                if not count + kept:
                    del _process.writers[key]
                    if writer.clock.latest is not None:
                        _process.latest[key] = writer.clock.latest
            if not _process.writers:
                _disarm()
            _process.lock.notify_all()


# -- sessions that keep nothing here ----------------------------------------------------------------------------


def take_temporary(remote: Remote, session: str) -> str:
    """Return a temporary folder for a session, the same for all sessions of this process on one replica of it."""
    from tempfile import mkdtemp

    key = (remote.url.rstrip("/"), session)
    with _process.lock:
        path, users = _process.temporary.get(key, ("", 0))
        path = path or mkdtemp(prefix="dreamlake-")
        _process.temporary[key] = (path, users + 1)
    return path


def give_temporary_back(path: str, empty: bool) -> None:
    """End a session's use of a temporary folder; the last one removes it, where all that was in it is elsewhere."""
    with _process.lock:
        key = next((key for key, (found, _) in _process.temporary.items() if found == path), None)
        if key is None:
            return
        users = _process.temporary[key][1] - 1
        if users:
            _process.temporary[key] = (path, users)
            return
        del _process.temporary[key]
    if empty:
        from shutil import rmtree

        rmtree(path, ignore_errors=True)


# -- how a run ends ------------------------------------------------------------------------------------------------


def ending_of(error: BaseException | None) -> Ending:
    """Return how a run ended that was left by this exception, or by none."""
    return Ending.by(error, _process.terminated)


def _ending_at_exit() -> Ending:
    if _process.terminated:
        return Ending("interrupted")
    if _process.exit_code:
        return Ending.by_exit(_process.exit_code)
    # Set by the interpreter when an exception ends the program; at a prompt it may be one of long ago.
    return ending_of(None if hasattr(sys, "ps1") else getattr(sys, "last_value", None))


def _at_exit() -> None:
    """Flush what no close() has; on the writers' own threads, since the exiting one could hang on a dead disk."""
    _process.exiting = True
    deadline = time.monotonic() + EXIT_DEADLINE
    ending = _ending_at_exit() if _process.pid == os.getpid() else None
    for writer, _ in list(_process.writers.values()):
        try:
            writer.close(ending, max(0.1, deadline - time.monotonic()), last=True)
        except Exception as error:
            log().error("at exit: %s: %s", writer.folder, "; ".join([str(error), *getattr(error, "__notes__", ())]))
        # In a forked child the parent goes on replicating what both wrote.
        if writer.replica is not None and writer.opener == os.getpid():
            writer.replica.abandon()
    _process.writers.clear()
    _disarm()
    _process.exiting = False


def _exit(code: Any = None) -> None:
    """Stand in for sys.exit while a session is open: notes the code, which an exit hook cannot see otherwise."""
    if threading.current_thread() is threading.main_thread():  # in another thread it ends no more than that
        _process.exit_code = code
    _plain_exit(code)


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    """End the program by SystemExit, so that `with` blocks and exit hooks flush. Takes no lock, does no I/O."""
    watch = _process.watch
    if _process.exiting or (watch is not None and watch.noticed and watch.sent_again):
        return
    # A child that was forked round the hooks below, or the last session was closed in a thread, which cannot disarm.
    if os.getpid() != _process.pid or not _process.writers:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        return
    if _process.in_fork_hook:
        main = threading.get_ident()
        threading.Timer(0.01, lambda: signal.pthread_kill(main, signal.SIGTERM)).start()
        return
    _process.terminated = True
    if watch is not None:
        watch.noticed = True
    raise SystemExit(TERMINATED)


# -- hooks of the process ------------------------------------------------------------------------------------------


def arm() -> None:
    """Install the hooks for exit, SIGTERM and fork; called whenever a session opens or a writer's thread starts."""
    global _armed, _known, _plain_exit
    if not _armed:
        _armed = True
        _known = frozenset(hooked())
        for _ in range(2):  # a SIGTERM can end a hook before its first step: then the other one flushes
            atexit.register(_at_exit)
        if hasattr(threading, "_register_atexit"):
            with suppress(RuntimeError):  # the interpreter is ending; then it is no child of multiprocessing
                threading._register_atexit(_at_end_of_child)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
    if sys.exit is not _exit:
        _plain_exit = sys.exit
        sys.exit = _exit  # type: ignore[assignment]
    _arm_child_of_multiprocessing()
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_sigterm)
        if _process.finalizer is not None and _handles_sigterm() and hasattr(signal, "pthread_kill"):
            _watch_sigterm()


def _arm_child_of_multiprocessing() -> None:
    # Children of multiprocessing leave by os._exit after their own finalizers, and never run atexit.
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None and _process.finalizer is None:
        from multiprocessing.util import Finalize

        _process.finalizer = Finalize(None, _at_exit, exitpriority=0)


def _watch_sigterm() -> None:
    # A pool that ends sends SIGTERM to its workers once, and then waits for them for ever.
    if _process.watch is None:
        from dreamlake.engine.sigwatch import SigtermWatch

        _process.watch = SigtermWatch(_handles_sigterm)
    else:
        _process.watch.resume()


def _at_end_of_child() -> None:
    """Flush behind the finalizers of a child of multiprocessing, which SIGTERM can end before ours has begun."""
    if _process.finalizer is not None:
        _at_exit()


def _handles_sigterm() -> bool:
    return signal.getsignal(signal.SIGTERM) is _on_sigterm


def _disarm() -> None:
    """Take the hooks away that others can see, after the last session was closed."""
    if sys.exit is _exit:
        sys.exit = _plain_exit
    if threading.current_thread() is threading.main_thread() and _handles_sigterm():
        if _process.watch is not None:
            _process.watch.pause()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _before_fork() -> None:
    """Wait for the imports of all threads, and a moment for running calls and flushes.

    A child inherits the locks that these hold, and not the threads that would release them. And it inherits the handler
    of SIGTERM: what comes before the child takes that away would be swallowed, so the kernel keeps it until then.
    """
    if _handles_sigterm():
        if threading.current_thread() is threading.main_thread():
            _process.in_fork_hook = True
        _unblocked[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    take_others_locks = others_locks(_known)
    before_fork()  # sooner than by its own hook: the calls that it waits for may wait for a flush
    started = time.monotonic()
    for writer, _ in list(_process.writers.values()):
        patience = FORK_PATIENCE if writer.is_ready else IMPORT_PATIENCE
        if writer.thread.busy.acquire(timeout=max(0.0, started + patience - time.monotonic())):
            _busy.append(writer)
    take_others_locks()
    _settle_arrow()


def _settle_arrow() -> None:
    """Have Arrow, if it is loaded, do now what it does once and under locks that it does not see to at a fork.

    Its allocator reserves memory, and its pools of threads are made. A child that inherited such a lock from another
    thread would wait for ever at its first use of Arrow. For threads that use Arrow without dreamlake: for the others
    `before_fork` waits. Not all of the locks can be reached from here.
    """
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None and hasattr(pyarrow, "cpu_count"):  # not half-way through its import
        pyarrow.allocate_buffer(1)
        pyarrow.io_thread_count()
        pyarrow.cpu_count()


def _after_fork() -> None:
    while _busy:
        _busy.pop().thread.busy.release()
    _unblock_sigterm()


def _unblock_sigterm() -> None:
    before = _unblocked.pop(threading.get_ident(), None)
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if threading.current_thread() is threading.main_thread():
        _process.in_fork_hook = False


def _in_child() -> None:
    global _process
    _busy.clear()
    # One without a session is being closed, by a thread that is not here.
    writers = {key: (writer, count) for key, (writer, count) in _process.writers.items() if count}
    if _process.watch is not None:
        _process.watch.after_fork_in_child()
    _process = _Process()
    _process.writers = writers
    for writer, _ in writers.values():
        writer.after_fork_in_child()
    if threading.current_thread() is threading.main_thread() and _handles_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _unblock_sigterm()
    _unblocked.clear()  # other threads that were forking are not here
