"""The writer of one session folder in this process: takes the points of all its tracks and writes them on one thread.

Every write to the session happens on that thread, under the session's lock; callers of `flush` wait for it. So an
exception that Python raises in the caller (KeyboardInterrupt, the SystemExit of SIGTERM) can end the waiting, never a
write half-way; and there is one place to wait for before a fork.
"""

import os
import sys
from collections.abc import Callable
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from dreamlake.clock import SessionClock
from dreamlake.engine.compactor import Compactor
from dreamlake.engine.ending import Ending
from dreamlake.engine.footing import Footing
from dreamlake.engine.logfile import LogFile
from dreamlake.engine.logpressure import LogPressure
from dreamlake.engine.options import Options
from dreamlake.engine.pending import Block, Pending
from dreamlake.engine.pressure import Pressure
from dreamlake.engine.runfile import RunFile, iso_now
from dreamlake.engine.sessionlock import SessionLock
from dreamlake.engine.thread import Worker
from dreamlake.engine.trackwriter import TrackWriter
from dreamlake.errors import (
    DreamlakeError,
    PointsDroppedError,
    SessionClosedError,
    SessionExistsError,
    SessionNotFoundError,
)
from dreamlake.format import layout
from dreamlake.notices import Notices

if TYPE_CHECKING:
    from dreamlake.engine.replica.replicator import Replicator
    from dreamlake.types import FileRecord

T = TypeVar("T")

#: Seconds that a flush waits for another process's lock: in the background, and for a caller.
BACKGROUND_LOCK, CALLER_LOCK = 5.0, 30.0


class Writer:
    """See the module. Made by `engine.lifecycle.open_writer`, which also counts the sessions that share it."""

    def __init__(
        self, folder: str, workspace: str, name: str, options: Options, arm: Callable[[], None] = lambda: None
    ) -> None:
        self.folder = folder
        self.options = options
        #: Guards pending points and the clock; held for microseconds.
        self.lock = Lock()
        self.clock = SessionClock()
        self.session_lock = SessionLock(os.path.join(folder, layout.LOCK_FILE), options.single_writer)
        self.run_file = RunFile(folder, workspace, name, options.fsync)
        self.footing = Footing(folder)
        self.logs = LogFile(folder, options.fsync, self.footing, self.lock)
        self.tracks: dict[str, TrackWriter] = {}
        #: The first of the tracks of each name, as disks that fold names see it.
        self._folded: dict[str, str] = {}
        self.notices = Notices()
        self.closed = False
        #: The process that may say in session.json how the run ends.
        self.opener = os.getpid()
        #: Whether anything was written to the session by this process.
        self.wrote = False
        #: Whether what crashes left of uploaded files was looked for.
        self.swept_files = False
        #: The records of uploaded files as this process wrote them last, and how their file stands then.
        self.known_files: tuple[tuple[int, ...] | None, dict[tuple[str, str], FileRecord]] = (None, {})
        #: Whether the log has been given why the run failed.
        self._has_said_why = False
        self._encoding = False
        self.thread = Worker("dreamlake-writer", lambda: options.flush_interval, self._tick, self._warm_up, arm)
        self.pressure = Pressure(self, self._roll_full_tracks, self._tick)
        self.log_pressure = LogPressure(self, self._flush_log)
        self.compactor = Compactor(self)
        #: What keeps the replica up to date; None without one.
        self.replica = _replicator(self, workspace, name, arm) if options.remote is not None else None

    # -- opening ---------------------------------------------------------------------------------------------------

    def open(self, resume: str, described: dict[str, Any]) -> None:
        """Make the folder or find the run in it, and set the clock above its last automatic timestamp.

        Raises SessionExistsError, SessionNotFoundError (as `resume` asks), LocksUnsupportedError, OSError.
        """
        from dreamlake.storage.local import make_dirs, sweep_tmp

        there = found = self.run_file.read() is not None
        replica, tree, last = self.replica, None, None
        rest = False
        if replica is not None and not (found and resume == "never"):
            from dreamlake.engine.replica.check import holds_session, tracks_in

            tree = replica.contact(found)
            there = found or holds_session(tree or {})
            # Of a first upload that was cut off, where tracks come first; it would become the new run's beginning.
            rest = bool(tracks_in(tree or {}))
        if resume == "never" and (there or rest):
            raise self._exists()
        if resume == "must" and not there:
            raise SessionNotFoundError(f"{self.folder} holds no session, and resume='must' was asked for")
        make_dirs(self.folder, self.options.fsync)
        if replica is not None and tree is not None:
            last = replica.comparing.take_over(tree, found)
        with self.session_lock.hold(CALLER_LOCK, -inf if last is None else last) as counter:
            self.clock.resume(max(counter.last_ts, -inf if last is None else last))
            stored = self.run_file.read()
            if resume == "never" and stored is not None:
                raise self._exists()
            if stored is not None and isinstance(stored.get("lastTs"), float):
                self.clock.resume(stored["lastTs"])
            given = {key: value for key, value in described.items() if value is not None}
            if stored is None or given:
                self.run_file.update(**given)
                self.wrote = stored is None
            if self.options.fsync:
                self.footing.secure(self.folder)
            sweep_tmp(self.folder, 60.0)
        if replica is not None:
            replica.start()

    def _exists(self) -> SessionExistsError:
        held = self.folder if self.replica is None else f"{self.folder} or {self.replica.place}"
        return SessionExistsError(f"{held} holds a session already, and resume='never' was asked for")

    # -- what pending points need of it ----------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether what a flush needs was imported."""
        return self._encoding

    def admit(self) -> None:
        """Raise SessionClosedError when no more points and files are taken."""
        if self.closed:
            raise SessionClosedError("the session is closed; open it again to append")

    def wake(self) -> None:
        """See that the thread runs, which flushes what is pending."""
        if not self.thread.is_running:
            self.thread.start()

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more may stay in memory; counted as pending if so. The lock is held."""
        return self.pressure.has_room(nbytes)

    def count_dropped(self, points: int) -> None:
        """Count points that were given up because memory and disk are full. The lock is held."""
        self.pressure.count_dropped(points)

    def on_sealed(self, pending: Pending, block: Block) -> None:
        """Encode a block on its caller's thread, and hold that back where the thread must catch up."""
        if self._encoding:  # else the first flush is still importing what encodes; the thread encodes this one
            block.encode()
            self.pressure.hold_back(pending, block)

    def free(self) -> None:
        """Let a loop go on that waits for a roll: the thread needs no lock of Python's for a while."""
        self.thread.free()

    # -- what the session asks of it -------------------------------------------------------------------------------

    def track(self, name: str) -> TrackWriter:
        """Return the track of this name, the same object each time."""
        found = self.tracks.get(name)
        if found is None:
            name = layout.check_name("track", name)
            with self.lock:
                found = self.tracks.setdefault(name, TrackWriter(self, name))
                self._folded.setdefault(_folded(name), name)
        return found

    def refuse_twin(self, name: str) -> None:
        """Raise ValueError where the disk does not tell a new track's name from that of another track here.

        Else its points would be taken, and no flush could write them. Of tracks that are on the disk only, and of names
        that differ in their Unicode form before there are folders, only the flush finds that out.
        """
        twin = self._folded.get(_folded(name), name)
        if name in self.tracks or twin == name:
            return
        mine, other = (os.path.join(self.folder, *layout.track_dir(each).split("/")) for each in (name, twin))
        if not os.path.isdir(other):
            if name.lower() != twin.lower():
                return
            mine, other = os.path.join(self.folder, layout.SESSION_FILE.upper()), self.run_file.path
        try:
            is_one = os.path.samefile(mine, other)
        except OSError:  # as a rule there is no such name, since the disk tells the two apart
            return
        if is_one:
            raise ValueError(
                f"the track {name!r} would share the folder of the track {twin!r}: this disk does not tell the two "
                "names apart; rename one of them"
            )

    def log(self, record: dict[str, Any], nbytes: int) -> None:
        """Take a log record that takes about so many bytes. Raises SessionClosedError."""
        self.wake()
        self.log_pressure.take(record, nbytes)

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
            Points, or log records where all tracks are flushed, were dropped since the last time this was said,
            because memory and disk were full.
        """
        tracks = [track] if track is not None else list(self.tracks.values())
        if any(t.needs_flush() for t in tracks) or (track is None and self.logs.pending):
            self.call(lambda: self._flush(tracks, CALLER_LOCK, logs=track is None), timeout)
        if tell:
            self._tell_dropped(records_too=track is None)

    def call(self, work: Callable[[], T], timeout: float | None = None) -> T:
        """Run `work` on the writer's thread and return what it returns, or raise what it raises.

        What a write to the disk raised is a plain OSError here: its own class only tells the thread how to go on.

        Raises TimeoutError when it has not ended after `timeout` seconds; it goes on then.
        """
        try:
            return self.thread.call(work, timeout, f"the write to {self.folder}")
        except OSError as error:
            said = plain(error)
            if said is error:
                raise
        raise said  # out here: what the caller's own code raised before stays its context

    def under_lock(self, work: Callable[[], T], timeout: float | None = None) -> T:
        """Run `work` on the writer's thread with the session's lock held; it is about to change the session."""

        def locked() -> T:
            with self.session_lock.hold(CALLER_LOCK, self.clock.last):
                self._mark_running()
                try:
                    return work()
                finally:
                    self._tell_replica()

        return self.call(locked, timeout)

    def settle_before_read(self, name: str) -> None:
        """Have late fields merged that wait for a segment on the replica, so that a read sees them. Raises OSError."""
        track = self.tracks.get(name)
        if self.replica is not None and track is not None and track.waits():
            try:
                self.replica.settle()
            except (DreamlakeError, OSError):
                if track.waits():  # else it was of other tracks
                    raise

    def close(self, ending: Ending | None, timeout: float | None = None, last: bool = False) -> None:
        """Write everything, say in session.json how the run ended, and end the thread; then appends are refused.

        Why a run failed becomes a record in its log, if it has written anything.

        When the disk fails, the error is raised and the writer stays open: what is pending is not given up. With `last`
        there is no later try, so how the run ended is said all the same. The error, or a note of it, says how many
        points are pending, and how many were dropped before.
        """
        with self.lock:
            self.closed = True
            for track in self.tracks.values():
                track.pending.shut()
        failed: OSError | None = None
        try:
            self.call(lambda: self._finish(ending, last), timeout)
        except BaseException as error:
            self.closed = False
            costs = self._costs(error, last)
            if not (costs and isinstance(error, OSError) and error.errno and not isinstance(error, DreamlakeError)):
                if costs:
                    error.add_note(costs)
                raise
            failed = OSError(error.errno, f"{error.strerror}; {costs}", error.filename)
        if failed is not None:
            raise failed  # out here, as in `call`
        patience = timeout if timeout is not None else 10.0
        self.compactor.stop(patience)
        self.thread.stop(patience)
        self._tell_dropped(records_too=True)

    def _tell_dropped(self, records_too: bool) -> None:
        """Raise PointsDroppedError when points or log records were dropped that no error has told of yet."""
        with self.lock:
            points = self.pressure.tell()
            records = self.log_pressure.tell() if records_too else 0
        said = []
        if points:
            most = self.options.max_pending_bytes
            said.append(
                f"{points} points were dropped: the disk took none and {most} bytes were pending (max_pending_bytes)"
            )
        if records:
            said.append(self.log_pressure.told(records))
        if said:
            raise PointsDroppedError("; ".join(said), points, records)

    def _costs(self, error: BaseException, last: bool) -> str:
        """What a close that failed has not written, and what was given up before; empty for nothing."""
        with self.lock:
            pending = {
                "points": sum(track.pending.waiting_rows() for track in self.tracks.values()),
                "log records": self.logs.waiting,
            }
            dropped = {"points": self.pressure.dropped, "log records": self.log_pressure.dropped}
        goes_on = type(error) is TimeoutError and error.errno is None
        if last:
            kept = f"{'may be' if goes_on else 'are'} lost with this process"
        else:
            kept = "may still be pending" if goes_on else "are still pending"
        said = [f"{_counted(pending)} {kept}"] if any(pending.values()) else []
        if any(dropped.values()):
            said.append(f"{_counted(dropped)} were dropped before, since disk and memory were full")
        return ", and ".join(said)

    def _finish(self, ending: Ending | None, last: bool) -> None:
        status = None if ending is None else ending.status
        if ending is not None and ending.why is not None:
            self._log_why(ending.why)
        self._log_dropped()
        if status == "finished" and (self.pressure.untold or self.log_pressure.untold):
            status = "failed"  # `_tell_dropped` raises when all else is done
        try:
            self._flush(list(self.tracks.values()), CALLER_LOCK, logs=True, last=True)
        except Exception:
            if last:  # however well the program ended: what it recorded last is lost
                self._say("failed" if status == "finished" else status)
            raise
        self._say(status)

    def _log_why(self, why: dict[str, Any]) -> None:
        """Have the log of the run say why it failed, once, though a close that fails is tried again."""
        wrote = self.wrote or self.logs.pending or any(track.needs_flush() for track in self.tracks.values())
        if wrote and not self._has_said_why:
            self._has_said_why = True
            self._log(why)

    def _log_dropped(self) -> None:
        """Have the log of the run say how much of it is missing, for whoever reads it later."""
        dropped = {"points": self.pressure.unlogged(), "log records": self.log_pressure.unlogged()}
        for what, count in dropped.items():
            if count:
                message = f"{count} {what} were dropped, since disk and memory were full"
                metadata = {what.split()[-1]: count}
                self._log({"timestamp": iso_now(), "level": "error", "message": message, "metadata": metadata})

    def _log(self, record: dict[str, Any]) -> None:
        """Have the log say something of the writer's own, however much waits."""
        with self.lock:
            self.logs.add(record)

    def _say(self, status: str | None) -> None:
        if status is not None and self.wrote and os.getpid() == self.opener:
            with self.session_lock.hold(CALLER_LOCK, self.clock.last):
                last = self.clock.last
                self.run_file.update(status=status, lastTs=None if last == -inf else last)
                self._tell_replica()

    # -- on the thread ---------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._attempt(list(self.tracks.values()), whole_segments_only=False)

    def _roll_full_tracks(self) -> None:
        full = [track for track in list(self.tracks.values()) if self.pressure.is_full(track.pending)]
        self._attempt(full, whole_segments_only=True)

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
            if not _is_of_some_points(error):
                self.pressure.failed()
                self._count_pending(tracks, give_up=True)
            self.notices.warn(
                "flush", "cannot write to %s, %d bytes are pending: %s", self.folder, self.pressure.nbytes, error
            )
        if self.pressure.untold:
            self.notices.warn(
                "drop",
                "%s: %d points were dropped, since disk and memory are full",
                self.folder,
                self.pressure.dropped,
            )
        if self.log_pressure.untold:
            self.notices.warn(
                "log",
                "%s: %d log records were dropped, since disk and memory are full",
                self.folder,
                self.log_pressure.dropped,
            )

    def _flush_log(self) -> None:
        """Write the log in the background, where more of it waits than the next flush should meet."""
        if not self.logs.pending:
            return
        try:
            with self.session_lock.hold(BACKGROUND_LOCK, self.clock.last):
                self._mark_running()
                self._write_log()
                self._tell_replica(self.session_lock.has_announced)
        except Exception as error:
            self.log_pressure.failed()
            self.notices.warn("flush", "cannot write to %s: %s", self.folder, error)

    def _write_log(self) -> None:
        """Write the log records that wait; the session's lock is held."""
        try:
            self.logs.flush(self.session_lock.tail_epoch)
        except BaseException:
            self.log_pressure.failed()
            raise
        self.log_pressure.worked()

    def _flush(
        self,
        tracks: list[TrackWriter],
        lock_timeout: float,
        whole_segments_only: bool = False,
        logs: bool = False,
        last: bool = False,
    ) -> None:
        waiting = [track for track in tracks if track.needs_flush()]
        logs = logs and bool(self.logs.pending)
        if not waiting and not logs:
            return
        errors: list[Exception] = []
        failed: list[TrackWriter] = []
        try:
            with self.session_lock.hold(lock_timeout, self.clock.last):
                self._mark_running()
                for track in waiting:
                    try:
                        track.flush(whole_segments_only, last)
                        if track.is_to_be_merged():
                            self.compactor.note(track.name)
                    except Exception as error:
                        errors.append(error)
                        failed.append(track)
                if logs:
                    try:
                        self._write_log()
                    except Exception as error:
                        errors.append(error)
                self._tell_replica(self.session_lock.has_announced)
        except Exception:
            self._count_pending(waiting, give_up=True)
            if logs:
                self.log_pressure.failed()
            raise
        self._count_pending(failed, give_up=bool(errors))
        if not [error for error in errors if not _is_of_some_points(error)] and self.pressure.worked():
            self.notices.recovered("flush", "writing to %s works again", self.folder)
        if errors:
            for other in errors[1:]:
                self.notices.warn("flush", "cannot write to %s: %s", self.folder, other)
            raise errors[0]

    def _count_pending(self, waiting: list[TrackWriter], give_up: bool) -> None:
        """Sum up what is pending after a flush, and give up what is too much when the disk took none."""
        self.pressure.recount([track.pending for track in waiting] if give_up else [])

    def _tell_replica(self, rolled: bool = False) -> None:
        if self.replica is not None:
            self.replica.changed(rolled)

    def _mark_running(self) -> None:
        """Say in session.json that the run goes on, at the first write of this process."""
        if not self.wrote:
            self.run_file.update(status="running")
            self.wrote = True

    # -- fork ------------------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Start anew in a forked child: what was pending is the parent's, and so are its locks and its thread.

        What the parent was just writing, the child learns at its first write: the lock's counter stands higher then
        than when the parent began.
        """
        # The same object, since every track's `append` holds it; another thread may have held it at the fork.
        self.lock._at_fork_reinit()  # type: ignore[attr-defined]
        self.clock.resume(self.clock.last)  # the latest append was the parent's
        self.thread.after_fork_in_child()
        self.pressure.after_fork_in_child()
        self.log_pressure.after_fork_in_child()
        self.logs.clear()
        self.notices = Notices()
        self.compactor = Compactor(self)
        self._encoding = "dreamlake.engine.ondisk" in sys.modules
        if self.replica is not None:
            self.replica.after_fork_in_child()
        for track in self.tracks.values():
            track.forget()


def plain(error: OSError) -> OSError:
    """An error of the disk as the built-in one, where its own class only tells the thread how to go on."""
    from dreamlake.storage import local

    return local.plain(error) if isinstance(error, local.FsyncFailed | local.PartialWriteError) else error


def _folded(name: str) -> str:
    """The name without what some disks do not tell apart: case, and the forms of Unicode."""
    if name.isascii():
        return name.casefold()
    from unicodedata import normalize

    return normalize("NFC", normalize("NFC", name).casefold())


def _counted(counts: dict[str, int]) -> str:
    """How many there are of what: "3 points and 2 log records", without that of which there is none."""
    return " and ".join(f"{count} {what}" for what, count in counts.items() if count)


def _is_of_some_points(error: Exception) -> bool:
    from dreamlake.engine.sorting import is_of_some_points  # not at the top, see `_warm_up`

    return is_of_some_points(error)


def _replicator(writer: Writer, workspace: str, name: str, arm: Callable[[], None]) -> "Replicator":
    # Not at the top: most sessions have none.
    from dreamlake.engine.replica.localside import LocalSide
    from dreamlake.engine.replica.replicator import Replicator

    remote, options = writer.options.remote, writer.options
    assert remote is not None
    session = layout.session_dir(workspace, name)
    return Replicator(LocalSide(writer), session, remote, arm, single_writer=options.single_writer, fsync=options.fsync)
