"""Keeps the replica of one session up to date while it is written, on a thread of its own: only this uses the network.

It looks at the session folder as any reader does, so that it never makes the writer wait, and what it has not sent yet
costs disk and no memory. What it changes locally (points taken over from the replica, uploaded segments dropped, late
fields merged into fetched ones) it does on the writer's thread, under the session's lock.
"""

from __future__ import annotations

import errno
import os
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dreamlake.engine.replica.comparing import OPEN_LOCK, Comparing
from dreamlake.engine.replica.pace import Pace
from dreamlake.engine.replica.reserve import Reserve, is_full
from dreamlake.engine.thread import Worker
from dreamlake.errors import CorruptTrackError, LockTimeoutError, PointsNotHereError, RemoteConflictError
from dreamlake.notices import log

if TYPE_CHECKING:
    from dreamlake.engine.options import Remote
    from dreamlake.engine.replica.localside import LocalSide
    from dreamlake.engine.replica.push import Outcome, Progress
    from dreamlake.engine.replica.state import ReplicaState
    from dreamlake.engine.trackwriter import TrackWriter
    from dreamlake.format.layout import SegmentName
    from dreamlake.storage.remote import RemoteStore
    from dreamlake.storage.store import Entry

#: Seconds that `close` gives the last upload, where it is not told otherwise.
CLOSE_TIMEOUT = 30.0
#: Segments that are dropped in one turn of the writer's thread, so that flushes need not wait long.
DROPPED_AT_ONCE = 8
#: Passes that one `sync` makes at most: what was merged or rolled meanwhile is sent by the next.
MAX_PASSES = 5


class Replicator:
    """See the module. Made with its writer; `begin` at open, then `start`; `finish` or `abandon` at the end.

    Parameters
    ----------
    local
        The session's folder, and what is changed in it.
    session
        The session's folder below the lake's root, the same here and there.
    remote
        Where the replica is.
    arm
        Installs the hooks of the process; see `Worker`.
    single_writer, fsync
        As the session's.
    """

    def __init__(
        self,
        local: LocalSide,
        session: str,
        remote: Remote,
        arm: Callable[[], None],
        *,
        single_writer: bool = False,
        fsync: bool = False,
    ) -> None:
        self.local = local
        self.session = session
        self.remote = remote
        self.folder = local.folder
        #: Whether segments are dropped locally once they are on the replica.
        self.trims = False
        self.reserve = Reserve(self.folder, local.alone)
        self.comparing = Comparing(local, session, remote, self.reserve, single_writer=single_writer, fsync=fsync)
        self._single_writer = single_writer
        self._arm = arm
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.thread = Worker("dreamlake-replica", self._pause, self._tick, lambda: None, self._arm)
        self._pace = Pace(self.remote.interval)
        self._stop = False
        #: Whether nobody will sweep the replica after this process.
        self._is_last = False
        self._hurry = False
        #: Stats of files at their last look, see `push`.
        self._seen: dict[str, Any] = {}
        #: Whether anything was written here since the last pass that sent all there was.
        self.behind = True
        #: Whether a segment that is away was not on the replica any more: another machine has merged it.
        self._vanished = False
        self._told: set[str] = set()
        self._warned = False
        self.progress: Progress | None = None

    @property
    def place(self) -> str:
        """The replica of the session, fit for messages."""
        return self.comparing.place

    @property
    def command(self) -> str:
        """The command that finishes what is left."""
        return f"dreamlake sync {shlex.quote(self.folder)} {shlex.quote(self.remote.store().describe())}"

    # -- opening ---------------------------------------------------------------------------------------------------

    def contact(self, local_there: bool) -> dict[str, Entry] | None:
        """Look at the replica when a session is opened; None when it does not answer, and can be looked at later.

        Raises
        ------
        OSError
            It does not answer within 10 seconds, and there is nothing local to go on from.
        """
        # Imported here, all that passes need: a fork while a thread imports would leave the child waiting for ever.
        from dreamlake.engine.replica import check, pull, push, state, trim  # noqa: F401

        try:
            return self.comparing.look()
        except OSError as error:
            if local_there:
                self._warn(error)
                return None
            what = "nothing of this session is here to go on from without its replica"
            raise _with_words(error, what, self.place) from error

    def start(self) -> None:
        """See that the thread runs."""
        if not self.thread.is_running:
            self.thread.start()

    # -- what the writer tells ---------------------------------------------------------------------------------------

    def changed(self, rolled: bool) -> None:
        """Note that something was written; a roll is sent soon."""
        self.behind = True
        if rolled and not self._hurry and self.thread.is_running:
            self._hurry = True
            self.thread.post(self._woken)

    def vanished(self) -> None:
        """Note that a segment that is away is not on the replica any more; what it has instead is taken over soon."""
        self._vanished = True
        self.changed(rolled=True)

    def _woken(self) -> None:
        self._hurry = False
        self._pace.hurry()

    # -- what the session asks ---------------------------------------------------------------------------------------

    def sync(self, timeout: float | None) -> None:
        """Send all that is on the local disk now, and return when it is there; with a progress bar when it lasts.

        Raises
        ------
        OSError
            Not all could be sent: the network, or a disk; TimeoutError after `timeout` seconds, when it goes on.
        RemoteConflictError
            Another machine wrote one of the tracks; all else was sent.
        CorruptTrackError
            A local track is damaged; all else was sent.
        PointsNotHereError
            Late fields wait for points that are neither here nor on the replica any more; all else was sent.
        """
        from dreamlake.engine.replica.progress import Progress, watch

        self.progress = progress = Progress()
        try:
            self.thread.call(
                self._sync, timeout, f"the upload to {self.place}", lambda request, left: watch(request, left, progress)
            )
        except (RemoteConflictError, PointsNotHereError):
            raise
        except OSError as error:
            what = f"all is safe in {self.folder}, and is uploaded by `{self.command}`"
            raise _with_words(error, what, self.place) from error

    def _sync(self) -> None:
        for number in range(MAX_PASSES):
            self.behind = False
            outcome = self._pass(patient=True)
            if not outcome.complete:
                self.behind = True
            if outcome.lost and outcome.failures and number == 0:
                continue  # the next one compares, and tells what another machine has done there
            self._raise(outcome)
            if not self.behind and not self.local.waiting():
                return
        # What keeps it going by now is what was written since: all that was there at the call has been sent.

    def _raise(self, outcome: Outcome) -> None:
        failures = [error for _, error in outcome.failures]
        if failures:
            raise failures[0]
        if outcome.conflicts:
            raise RemoteConflictError("; ".join(outcome.conflicts))
        if not outcome.complete:
            raise OSError(errno.EAGAIN, "the upload was ended before all was sent", self.place)

    def make_room(self, error: OSError, timeout: float | None) -> bool:
        """Where the disk is full, make a pass, which drops what is on the replica; return whether it was."""
        if not self.trims or not is_full(error):
            return False
        with suppress(OSError, ValueError):  # the write that follows says whether there is room now
            patience = CLOSE_TIMEOUT if timeout is None else timeout
            self.thread.call(lambda: self._pass(patient=True, needs_room=True), patience, f"the upload to {self.place}")
        return True

    def finish(self, timeout: float | None, last: bool) -> None:
        """Send what is left within `timeout` seconds, 30 by default; after the `last` session the thread ends.

        Raises what `sync` does, saying which command finishes it; the thread ends all the same.
        """
        deadline = CLOSE_TIMEOUT if timeout is None else timeout
        if not last:
            self.sync(deadline)
            return
        ended = False
        self._is_last = True
        try:
            self.sync(deadline)
            ended = True
        except Exception as error:
            ended = not isinstance(error, TimeoutError)
            raise
        finally:
            # After a timeout, or Ctrl-C, it may hang: nobody waits, and its connections are not closed under it.
            self._stop = True
            self.thread.stop(deadline if ended else 0.0)
            if ended:
                self.remote.store().close()

    def abandon(self) -> None:
        """End without the network: at interpreter exit it may not work any more. Says how to finish what is left."""
        self._stop = True
        if self.behind:
            log().warning("%s is not wholly uploaded; this does it: %s", self.folder, self.command)

    def settle(self, timeout: float | None = None) -> None:
        """Fetch the segments that late fields wait for, and merge these, before a read. Raises OSError."""
        if self.local.waiting():
            self.thread.call(self._settle_or_pass, timeout, f"the fetch from {self.place}")

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _pause(self) -> float:
        return self._pace.wait()

    def _tick(self) -> None:
        """Make a pass in the background: trouble becomes one log record, and the next try comes later and later."""
        started = time.monotonic()
        well = False
        try:
            self.behind, was_behind = False, self.behind
            outcome = self._pass(patient=False)
            well = not outcome.failures
            self.behind = self.behind or not outcome.complete
            for _, error in outcome.failures[:1]:
                self._warn(error)
            for conflict in outcome.conflicts:
                if conflict not in self._told:
                    self._told.add(conflict)
                    log().error("%s", conflict)
        except LockTimeoutError:
            well, self.behind = True, was_behind  # another process does it
        except Exception as error:
            self.behind = True
            self._warn(error)
        if well and self._warned:
            self._warned = False
            log().warning("the replica %s is kept up to date again", self.place)
        self._pace.ended(well, time.monotonic() - started)

    def _warn(self, error: Exception) -> None:
        """Log the first failure of an outage, and no other until it is over."""
        if not self._warned:
            self._warned = True
            log().warning("%s cannot be brought up to date, trying again until it can: %s", self.place, error)

    def _pass(self, patient: bool, needs_room: bool = False) -> Outcome:
        from dreamlake.engine.replica import state
        from dreamlake.engine.replica.push import push

        with state.hold(self.folder, OPEN_LOCK if patient else 0.0, self._single_writer):
            if self._vanished:
                self._vanished = self.comparing.is_done = False
            self.comparing.compare_if_due()
            known = state.load(self.folder)
            # What is sent before some trouble may go elsewhere than what comes behind it.
            self.comparing.is_done = False
            outcome = push(
                self.folder,
                self.session,
                self.remote.store(),
                known,
                progress=self.progress,
                stop=lambda: self._stop,
                seen=self._seen,
                last_ts=self.local.last_ts,
                interval=self.remote.interval,
                grace=0.0 if self._is_last and self.trims else None,
                reserve=self.reserve,
            )
            if outcome.lost:
                self.behind = True
                self.comparing.distrust()
                self._pace.hurry()
            failures = [error for _, error in outcome.failures if isinstance(error, OSError)]
            # EILSEQ: a name here that cannot be there.
            self.comparing.is_done = all(error.errno == errno.EILSEQ for error in failures)
            if self.trims and not outcome.lost and not self._stop:
                needs_room = needs_room or self.local.is_failing
                if needs_room or not self.comparing.is_distrusted:
                    # As the disk has it: what could not be saved is not known after this pass.
                    self._trim(state.load(self.folder), needs_room)
        if self.local.waiting() and not outcome.failures and not self._stop:
            self._settle_merged(outcome, patient)
            self._pace.hurry()
        return outcome

    def _trim(self, known: ReplicaState, needs_room: bool) -> None:
        """Drop what is on the replica: segments, a few at a time, and uploaded files; what is to be merged, too, if it
        `needs_room`.
        """
        from dreamlake.engine.replica.trim import HELD_BACK, droppable, droppable_files

        mine = known.remote(self.remote.store().describe())
        self.local.drop_files(droppable_files(self.folder, mine))
        for track, names in droppable(self.folder, mine, 0 if needs_room else HELD_BACK):
            for place in range(0, len(names), DROPPED_AT_ONCE):
                self.local.drop(track, names[place : place + DROPPED_AT_ONCE], self.reserve)
        if self.reserve.is_kept:
            self.reserve.keep()  # there may be room for it again

    def _settle_merged(self, outcome: Outcome, patient: bool) -> None:
        """As `_settle`; where what is to be fetched has gone from the replica, both sides are compared anew first."""
        from dreamlake.engine.replica import state

        with suppress(PointsNotHereError):
            self._settle()
            return
        with state.hold(self.folder, OPEN_LOCK if patient else 0.0, self._single_writer):
            self.comparing.is_done = False
            self.comparing.compare_if_due()
        try:
            self._settle()
        except PointsNotHereError:
            if not outcome.conflicts:  # what is here of such a track stays as it is, and is told otherwise
                raise

    def _settle_or_pass(self) -> None:
        """As `_settle`; what another machine has merged comes here first, once all was sent."""
        try:
            self._settle()
        except PointsNotHereError:
            with suppress(RemoteConflictError):  # of another track, perhaps
                self._sync()
            self._settle()

    def _settle(self) -> None:
        """Fetch the segments that late fields wait for, and have these merged.

        Raises
        ------
        PointsNotHereError
            One is not on the replica any more.
        """
        from dreamlake.engine.sorting import FieldsDoNotFit

        errors: list[Exception] = []
        for track in self.local.waiting():
            try:
                self._settle_track(track)
            except PointsNotHereError as error:
                errors.insert(0, error)
            except (CorruptTrackError, FieldsDoNotFit) as error:
                errors.append(error)
            self.behind = True
        if errors:
            raise errors[0]  # the late fields of other tracks were merged all the same

    def _settle_track(self, track: TrackWriter) -> None:
        from dreamlake.engine.late import fetch, settle_all

        store: RemoteStore = self.remote.store()
        there = f"{self.session}/{os.path.relpath(track.folder, self.folder).replace(os.sep, '/')}"

        def merge(names: list[SegmentName]) -> None:
            self.local.settle(track, {name: fetch(store, there, name, track.folder) for name in names})

        settle_all(track.wanted, merge)

    # -- fork --------------------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Start anew in a forked child, where the parent's thread is not; the parent goes on replicating."""
        self._begin_anew()


def _with_words(error: OSError, more: str, place: str) -> OSError:
    """The error as the built-in one of its kind, with more to read."""
    kinds: tuple[type[OSError], ...] = (PermissionError, TimeoutError, ConnectionError, FileNotFoundError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), OSError)
    number = error.errno or (errno.ETIMEDOUT if kind is TimeoutError else errno.EIO)
    return kind(number, f"{error.strerror or error}; {more}", error.filename or place)
