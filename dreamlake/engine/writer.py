"""The writer of one session folder in this process: takes the points of all its tracks and writes them on one thread.

Every write to the session happens on that thread, under the session's lock; callers of `flush` wait for it. So an
exception that Python raises in the caller (KeyboardInterrupt, the SystemExit of SIGTERM) can end the waiting, never a
write half-way; and there is one place to wait for before a fork.
"""

import os
import sys
import time
from _thread import allocate_lock
from collections.abc import Callable
from math import inf
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple, TypeVar

from dreamlake.clock import SessionClock
from dreamlake.engine.logfile import LogFile
from dreamlake.engine.pending import Block, Pending, chain_of
from dreamlake.engine.runfile import RunFile
from dreamlake.engine.sessionlock import SessionLock
from dreamlake.errors import PointsDroppedError, SessionClosedError, SessionExistsError, SessionNotFoundError
from dreamlake.format import layout
from dreamlake.notices import Notices, log

T = TypeVar("T")

#: Sealed rows of one track that wake the thread, however far the track is from a whole segment.
FEW_THOUSAND = 8192
#: Sealed rows of one track above which `append` lets the thread catch up, for at most `PATIENCE` seconds a block.
CROWDED = 12_288
PATIENCE = 0.01
#: Seconds that an append waits once for room in memory, before points are dropped: the disk works, but cannot keep up.
LAST_PATIENCE = 1.0
#: Seconds that a flush waits for another process's lock: in the background, and for a caller.
BACKGROUND_LOCK, CALLER_LOCK = 5.0, 30.0


class Options(NamedTuple):
    """How a session is written; sessions on one folder in one process share a writer, so these must agree."""

    flush_interval: float = 1.0
    segment_points: int = 10_000
    max_pending_bytes: int = 256 << 20
    fsync: bool = False
    single_writer: bool = False


class Request:
    """Something the writer's thread is asked to do, and how it went."""

    __slots__ = ("_done", "error", "result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self._done = allocate_lock()
        self._done.acquire()

    def run(self) -> None:
        """Do it; called on the writer's thread."""
        try:
            self.result = self.work()
        except BaseException as error:
            self.error = error
        finally:
            self._done.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it was done, for at most `timeout` seconds; return whether it was."""
        done = self._done.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        if done:
            self._done.release()
        return done


class TrackWriter:
    """One track of a writer: its pending points and, from the first flush on, what is known of it on disk."""

    def __init__(self, writer: "Writer", name: str) -> None:
        self.writer = writer
        self.name = name
        self.folder = os.path.join(writer.folder, *layout.track_dir(name).split("/"))
        self.pending = Pending(writer)
        #: A description, tags and metadata that no flush has written yet.
        self.described: dict[str, Any] = {}
        self._has_folder = False
        self._disk: Any = None

    def describe(self, **given: Any) -> None:
        """Take a description, tags or metadata; merged into metadata.json by the next flush, later values win."""
        for key, value in given.items():
            if value is not None:
                merged = {**self.described.get(key, {}), **value} if key == "metadata" else value
                self.described = {**self.described, key: merged}

    def needs_flush(self) -> bool:
        """Whether a flush has anything to write."""
        return (
            bool(self.described) or not self.pending.is_empty() or (self._disk is not None and self._disk.must_rewrite)
        )

    def flush(self, whole_segments_only: bool) -> None:
        """Write what is pending; the session's lock is held. What an error leaves unwritten stays pending."""
        from dreamlake.engine.ondisk import TrackOnDisk

        options, lock = self.writer.options, self.writer.session_lock
        chain = self.pending.take()
        if any(block.awaited for block in chain):
            whole_segments_only = False  # a batch's caller waits for all of it, and wants to know its indices
        lock.cover(self.writer.clock.last)  # points that were appended since the lock was taken are among these
        if self._disk is None:
            self._disk = TrackOnDisk(
                self.folder, self.name, options.segment_points, options.fsync, lock.announce_rewrite
            )
        if not self._has_folder or self.described:
            described = self.described
            self._disk.make_folder(described)
            self._has_folder = True
            if self.described is described:
                self.described = {}
        if chain or self._disk.must_rewrite:
            self._write(chain, whole_segments_only)

    def _write(self, chain: list[Block], whole_segments_only: bool) -> None:
        from dreamlake.engine.sorting import Sorter
        from dreamlake.storage.local import SizeChanged

        lock = self.writer.session_lock
        for attempt in (1, 2):
            self._disk.learn(lock.tail_epoch, lock.full_epoch)
            rows = Sorter(self._disk).sort(chain)
            try:
                self._disk.write(rows, whole_segments_only)
                return
            except SizeChanged as error:
                # Somebody who does not keep to the lock wrote to the hot file: look again, once.
                log().warning("%s; reading it again", error)
                if attempt == 2:
                    raise OSError(f"{error}: another program keeps writing to the file") from error
            except OSError:
                raise
            except BaseException:
                self._disk.forget()
                raise
            finally:
                if chain:
                    if rows.new.count or rows.hot or rows.late or rows.stuck:
                        for block in chain:
                            block.result = None
                    rest = rows.rest()
                    self.pending.replace(chain[-1], rest)
                    chain = chain_of(rest)
                self.pending.hot_points = self._disk.hot_count

    def forget(self) -> None:
        """Drop what is pending, and read the disk again before the next write: in a forked child."""
        self.pending.clear()
        self.described = {}
        self._disk = None
        self._has_folder = False


class Writer:
    """See the module. Made by `engine.lifecycle.open_writer`, which also counts the sessions that share it."""

    def __init__(
        self, folder: str, workspace: str, name: str, options: Options, arm: Callable[[], None] = lambda: None
    ) -> None:
        #: Installs the hooks of the process that see to flushes at its end; called before the thread starts.
        self._arm = arm
        self.folder = folder
        self.options = options
        #: Guards pending points and the clock; held for microseconds.
        self.lock = Lock()
        #: Held by the thread while it works; what a fork waits for.
        self.busy = Lock()
        self.clock = SessionClock()
        self.session_lock = SessionLock(os.path.join(folder, layout.LOCK_FILE), options.single_writer)
        self.run_file = RunFile(folder, workspace, name, options.fsync)
        self.logs = LogFile(folder, options.fsync)
        self.tracks: dict[str, TrackWriter] = {}
        self.notices = Notices()
        self.closed = False
        #: The process that may say in session.json how the run ends.
        self.opener = os.getpid()
        #: Whether anything was written to the session by this process.
        self.wrote = False
        self._pending_bytes = 0
        self._dropped = 0
        self._dropped_told = 0
        # The last flush failed; an append has waited for room in vain since the last flush that did not.
        self._failing = self._overrun = False
        self._encoding = False
        self._roll: Request | None = None
        self._relief: Request | None = None
        self._inbox: SimpleQueue[Request | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._ended = False
        self._starting = Lock()

    # -- opening ---------------------------------------------------------------------------------------------------

    def open(self, resume: str, described: dict[str, Any]) -> None:
        """Make the folder or find the run in it, and set the clock above its last automatic timestamp.

        Raises SessionExistsError, SessionNotFoundError (as `resume` asks), LocksUnsupportedError, OSError.
        """
        from dreamlake.storage.local import make_dirs, sweep_tmp

        found = self.run_file.read()
        if resume == "never" and found is not None:
            raise SessionExistsError(f"{self.folder} holds a session already, and resume='never' was asked for")
        if resume == "must" and found is None:
            raise SessionNotFoundError(f"{self.folder} holds no session, and resume='must' was asked for")
        make_dirs(self.folder, self.options.fsync)
        with self.session_lock.hold(CALLER_LOCK) as counter:
            self.clock.resume(counter.last_ts)
            found = self.run_file.read()
            if resume == "never" and found is not None:
                raise SessionExistsError(f"{self.folder} holds a session already, and resume='never' was asked for")
            if found is not None and isinstance(found.get("lastTs"), float):
                self.clock.resume(found["lastTs"])
            given = {key: value for key, value in described.items() if value is not None}
            if found is None or given:
                self.run_file.update(**given)
                self.wrote = found is None
            sweep_tmp(self.folder, 60.0)

    # -- what pending points need of it ----------------------------------------------------------------------------

    def admit(self) -> None:
        """Raise SessionClosedError when no more points are taken."""
        if self.closed:
            raise SessionClosedError("the session is closed; open it again to append")

    def wake(self) -> None:
        """See that the thread runs, which flushes what is pending."""
        if self._thread is None:
            self._start()

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more may stay in memory; counted as pending if so. The lock is held.

        A disk that works makes room soon, and `on_sealed` waits for that; only one that does not costs points.
        """
        too_much = self._pending_bytes + nbytes > self.options.max_pending_bytes
        if too_much and (self._failing or self._overrun):
            return False
        self._pending_bytes += nbytes
        return True

    def count_dropped(self, points: int) -> None:
        """Count points that were given up because memory and disk are full. The lock is held."""
        self._dropped += points

    def on_sealed(self, pending: Pending, block: Block) -> None:
        """Encode a block on its caller's thread, have a whole segment rolled, wait a moment where it is crowded."""
        if not self._encoding:
            return  # the first flush is still importing what encodes; the thread encodes this one
        block.encode()
        if 2 * self._pending_bytes > self.options.max_pending_bytes:
            self._make_room()
            return
        rows = pending.waiting_rows()
        if rows + pending.hot_points < self.options.segment_points and rows < FEW_THOUSAND:
            return
        roll = self._roll
        if roll is None:
            self._roll = roll = Request(self._roll_whole_segments)
            self._inbox.put(roll)
        if rows >= CROWDED and not self._failing:
            roll.wait(PATIENCE)

    def _make_room(self) -> None:
        """Have everything flushed, and wait for it: a moment, or longer where memory is full."""
        relief = self._relief
        if relief is None:
            self._relief = relief = Request(self._relieve)
            self._inbox.put(relief)
        if self._failing or self._overrun:
            return
        if self._pending_bytes <= self.options.max_pending_bytes:
            relief.wait(PATIENCE)
        elif not relief.wait(LAST_PATIENCE):
            self._overrun = True

    def _relieve(self) -> None:
        self._relief = None
        self._attempt(list(self.tracks.values()), whole_segments_only=False)

    def _roll_whole_segments(self) -> None:
        self._roll = None
        full = [
            track
            for track in list(self.tracks.values())
            if track.pending.waiting_rows() + track.pending.hot_points >= self.options.segment_points
            or track.pending.waiting_rows() >= FEW_THOUSAND
        ]
        self._attempt(full, whole_segments_only=True)

    # -- what the session asks of it -------------------------------------------------------------------------------

    def track(self, name: str) -> TrackWriter:
        """Return the track of this name, the same object each time."""
        found = self.tracks.get(name)
        if found is None:
            layout.check_name("track", name)
            with self.lock:
                found = self.tracks.setdefault(name, TrackWriter(self, name))
        return found

    def flush(self, track: TrackWriter | None = None, timeout: float | None = None, tell: bool = True) -> None:
        """Write what is pending, of one track or of all, and return when it is written.

        Parameters
        ----------
        tell
            Whether to raise PointsDroppedError; otherwise that is left to the next flush.

        Raises
        ------
        OSError
            The disk failed; the points stay pending.
        PointsDroppedError
            Points were dropped since the last time this was said, because memory and disk were full.
        """
        tracks = [track] if track is not None else list(self.tracks.values())
        if any(t.needs_flush() for t in tracks) or (track is None and self.logs.pending):
            self.call(lambda: self._flush(tracks, CALLER_LOCK, logs=track is None), timeout)
        if tell:
            self.tell_dropped()

    def tell_dropped(self) -> None:
        """Raise PointsDroppedError when points were dropped that no error has told of yet."""
        with self.lock:
            count = self._dropped - self._dropped_told
            self._dropped_told = self._dropped
        if count:
            raise PointsDroppedError(
                f"{count} points were dropped: the disk took none and {self.options.max_pending_bytes} bytes were "
                "pending (max_pending_bytes)",
                count,
            )

    def call(self, work: Callable[[], T], timeout: float | None = None) -> T:
        """Run `work` on the writer's thread and return what it returns, or raise what it raises.

        Raises TimeoutError when it has not ended after `timeout` seconds; it goes on then.
        """
        request = Request(work)
        if not self._start(request):  # no thread can be started any more: the session or the interpreter has ended
            with self.busy:
                request.run()
        if not request.wait(timeout):
            raise TimeoutError(f"the write to {self.folder} has not ended after {timeout:g} s; it goes on")
        if request.error is not None:
            raise request.error
        return request.result  # type: ignore[no-any-return]

    def under_lock(self, work: Callable[[], T], timeout: float | None = None) -> T:
        """Run `work` on the writer's thread with the session's lock held; it is about to change the session."""

        def locked() -> T:
            with self.session_lock.hold(CALLER_LOCK, self.clock.last):
                self._mark_running()
                return work()

        return self.call(locked, timeout)

    def close(self, status: str | None, timeout: float | None = None, last: bool = False) -> None:
        """Write everything, say in session.json how the run ended, and end the thread; then appends are refused.

        When the disk fails, the error is raised and the writer stays open: what is pending is not given up. With `last`
        there is no later try, so how the run ended is said all the same.
        """
        with self.lock:
            self.closed = True
            for track in self.tracks.values():
                track.pending.shut()
        try:
            self.call(lambda: self._finish(status, last), timeout)
        except BaseException:
            self.closed = False
            raise
        with self._starting:
            thread, self._thread = self._thread, None
            self._ended = True
            self._inbox.put(None)
        if thread is not None:
            thread.join(timeout if timeout is not None else 10.0)
        self.tell_dropped()

    def _finish(self, status: str | None, last: bool) -> None:
        try:
            self._flush(list(self.tracks.values()), CALLER_LOCK, logs=True)
        except Exception:
            if last:
                self._say(status)
            raise
        self._say(status)

    def _say(self, status: str | None) -> None:
        if status is not None and self.wrote and os.getpid() == self.opener:
            with self.session_lock.hold(CALLER_LOCK, self.clock.last):
                last = self.clock.last
                self.run_file.update(status=status, lastTs=None if last == -inf else last)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _start(self, request: Request | None = None) -> bool:
        """See that the thread runs, and give it a request; False when no thread can be started."""
        with self._starting:
            if self._ended:
                return False
            if self._thread is None:
                self._arm()
                thread = Thread(target=self._run, args=(self._inbox,), name="dreamlake-writer", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
            if request is not None:
                self._inbox.put(request)
        return True

    def _run(self, inbox: "SimpleQueue[Request | None]") -> None:
        try:
            with self.busy:
                self._warm_up()
            self._serve(inbox)
        finally:
            with self._starting:  # what was put there before this is refused, what comes later finds another thread
                if self._inbox is inbox:
                    self._thread = None
            _refuse_all(inbox)  # those who wait must not wait for ever, whatever ended this thread

    def _serve(self, inbox: "SimpleQueue[Request | None]") -> None:
        due = time.monotonic() + self.options.flush_interval
        while True:
            if time.monotonic() >= due:  # also when one request follows another
                with self.busy:
                    self._attempt(list(self.tracks.values()), whole_segments_only=False)
                due = time.monotonic() + self.options.flush_interval
            try:
                request = inbox.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                continue
            if request is None:
                return
            with self.busy:
                request.run()
            request = None

    def _warm_up(self) -> None:
        """Import what flushing needs, here and not in a caller's append. What fails, fails again in the flush."""
        try:
            import dreamlake.engine.ondisk
            import dreamlake.engine.sorting  # noqa: F401
        except Exception as error:
            self.notices.warn("import", "what writes cannot be imported: %s", error)
            return
        self._encoding = True

    def _attempt(self, tracks: list[TrackWriter], whole_segments_only: bool) -> None:
        """Flush in the background: trouble becomes a log record, and the next attempt comes in a second."""
        try:
            self._flush(tracks, BACKGROUND_LOCK, whole_segments_only, logs=not whole_segments_only)
        except Exception as error:
            self._failing = True
            self._count_pending(tracks, give_up=True)
            self.notices.warn(
                "flush", "cannot write to %s, %d bytes are pending: %s", self.folder, self._pending_bytes, error
            )
        if self._dropped > self._dropped_told:
            self.notices.warn(
                "drop", "%s: %d points were dropped, since disk and memory are full", self.folder, self._dropped
            )

    def _flush(
        self, tracks: list[TrackWriter], lock_timeout: float, whole_segments_only: bool = False, logs: bool = False
    ) -> None:
        waiting = [track for track in tracks if track.needs_flush()]
        logs = logs and bool(self.logs.pending)
        if not waiting and not logs:
            return
        errors: list[Exception] = []
        try:
            with self.session_lock.hold(lock_timeout, self.clock.last):
                self._mark_running()
                for track in waiting:
                    try:
                        track.flush(whole_segments_only)
                    except Exception as error:
                        errors.append(error)
                if logs:
                    if self.logs.dropped:
                        self.notices.warn("log", "%s: %d log records were dropped", self.folder, self.logs.dropped)
                    try:
                        self.logs.flush(self.session_lock.tail_epoch)
                    except Exception as error:
                        errors.append(error)
        except Exception:
            self._count_pending(waiting, give_up=True)
            raise
        self._count_pending(waiting, give_up=bool(errors))
        if errors:
            for other in errors[1:]:
                self.notices.warn("flush", "cannot write to %s: %s", self.folder, other)
            raise errors[0]
        self._overrun = False
        if self._failing:
            self._failing = False
            self.notices.recovered("flush", "writing to %s works again", self.folder)

    def _count_pending(self, waiting: list[TrackWriter], give_up: bool) -> None:
        """Sum up what is pending after a flush, and give up what is too much when the disk took none."""
        with self.lock:
            total = sum(track.pending.waiting_bytes() for track in list(self.tracks.values()))
        for track in waiting if give_up else ():
            excess = total - self.options.max_pending_bytes
            if excess <= 0:
                break
            total -= track.pending.drop_newest(excess)
        self._pending_bytes = total

    def _mark_running(self) -> None:
        """Say in session.json that the run goes on, at the first write of this process."""
        if not self.wrote:
            self.run_file.update(status="running")
            self.wrote = True

    # -- fork ------------------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Start anew in a forked child: what was pending is the parent's, and so are its locks and its thread."""
        # The same object, since every track's `append` holds it; another thread may have held it at the fork.
        self.lock._at_fork_reinit()  # type: ignore[attr-defined]
        self.clock.resume(self.clock.last)  # the latest append was the parent's
        self.busy, self._starting = Lock(), Lock()
        self._inbox = SimpleQueue()
        self._thread = None
        self._roll = self._relief = None
        self._failing = self._overrun = False
        self._pending_bytes = self._dropped = self._dropped_told = 0
        self.logs.pending = []
        self.logs.forget()
        self.session_lock.forget()
        self.notices = Notices()
        self._encoding = "dreamlake.engine.ondisk" in sys.modules
        for track in self.tracks.values():
            track.forget()


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
    raise OSError("the writer's thread has ended before this could be written")
