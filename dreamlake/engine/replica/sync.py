"""Bring a replica up to date from outside of the process that writes: for runs that were killed, or closed offline."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial

from dreamlake.engine.catalog import SILENCE, read_object
from dreamlake.engine.late import fetch, settle_all, tracks_that_wait
from dreamlake.engine.ondisk import TrackOnDisk
from dreamlake.engine.outside import WRITERS_PATIENCE, TrackFromOutside
from dreamlake.engine.replica import check, pull, state
from dreamlake.engine.replica.progress import Progress
from dreamlake.engine.replica.push import Outcome, push
from dreamlake.engine.sessionlock import SessionLock
from dreamlake.errors import PointsNotHereError
from dreamlake.format import layout
from dreamlake.format.layout import SegmentName
from dreamlake.notices import log
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore

#: Seconds that another process, which replicates the session just then, is waited for.
PATIENCE = 60.0


def sync_folder(
    folder: str,
    session: str,
    remote: RemoteStore,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    lock_timeout: float = PATIENCE,
) -> Outcome:
    """Send what the replica of a session lacks, as its own process would; also while that one runs.

    Both sides are compared first, so that it can be done again at any time, and after anything: objects that were
    deleted on the replica are sent again, and what was sent without a note is recognised. Late fields that wait for
    segments which only the replica has are merged into these, unless the run still goes on and does it itself.

    Parameters
    ----------
    folder
        The session's folder here, an absolute path.
    session
        Its path below the root of `remote`, as `layout.session_dir` makes it.
    progress
        Is told how far it is.
    stop
        Is asked before each object whether to end early.
    lock_timeout
        Seconds to wait for another process that replicates the session.

    Returns
    -------
    Outcome
        What was sent, and what was not and why. A track in which the replica is ahead has nothing to send.

    Raises
    ------
    OSError
        The replica does not answer. `LockTimeoutError` when another process goes on replicating.
    """
    with state.hold(folder, lock_timeout):
        is_live = _is_live(folder)  # before this process takes the session's lock itself
        known = state.load(folder)
        tree = check.look(remote, session)
        mine = known.remote(remote.describe())
        found = check.compare(folder, session, remote, mine, tree)
        lost = pull.is_behind(folder, session, remote, mine, known.machine, tree)
        # Described: or their points would stay unsent, as those of a track in which the replica is ahead. And what late
        # fields wait for may have been merged there by another machine.
        taken = sorted({*found.described, *set(found.pull).intersection(tracks_that_wait(folder))})
        if taken or lost:
            lock = SessionLock(os.path.join(folder, layout.LOCK_FILE), single_writer=False)
            with lock.hold(WRITERS_PATIENCE):
                lock.announce_rewrite()
                # Points come back with the timestamps that another process drew: later ones go on above them.
                lock.cover(pull.pull(folder, session, remote, mine, tree, taken))
        ahead = set(found.pull).difference(taken)
        state.save(folder, known)
        check.sweep_beside(remote, session, tree, time.time())

        def send() -> Outcome:
            return _push_all_but(sorted(ahead), folder, session, remote, known, progress, stop)

        outcome = send()
        waiting = tracks_that_wait(folder)
        if not waiting or outcome.ended:
            return outcome
        if is_live:
            outcome.failures += [(below, _still_waiting()) for below in waiting]
            return outcome
        failures = _settle(folder, session, remote, waiting, mine)
        settled = send()
    settled.objects += outcome.objects
    settled.bytes += outcome.bytes
    settled.failures += failures
    return settled


def _push_all_but(
    ahead: Collection[str],
    folder: str,
    session: str,
    remote: RemoteStore,
    known: state.ReplicaState,
    progress: Progress | None,
    stop: Callable[[], bool],
) -> Outcome:
    """Send all but the tracks in which the replica is ahead: it holds all that this side has of these."""
    tracks = [known.remote(remote.describe()).track(below) for below in ahead]
    said = f"{remote.describe(session)} is ahead in {', '.join(map(layout.track_name, ahead))}"
    for track in tracks:
        track.conflict = said
    try:
        outcome = push(folder, session, remote, known, progress=progress, stop=stop)
    finally:
        for track in tracks:
            track.conflict = None
        if tracks:
            state.save(folder, known)
    if tracks:
        log().warning("%s: to go on from there, open the session with remote=", said)
        outcome.conflicts = [conflict for conflict in outcome.conflicts if conflict != said]
    return outcome


# ------------------------------------------------------------------------------------------------ late fields


def _is_live(folder: str) -> bool:
    """Whether a process seems to write to the session, perhaps one that takes no locks."""
    about = read_object(LocalStore(folder), layout.SESSION_FILE) or {}
    try:
        written = os.stat(os.path.join(folder, layout.LOCK_FILE)).st_mtime
    except FileNotFoundError:
        return False
    return about.get("status") == "running" and written > time.time() - SILENCE


def _still_waiting() -> OSError:
    return OSError(
        errno.EAGAIN,
        "late fields wait for segments that only the replica has; a run that goes on merges them itself, else sync "
        "again, a minute after it was killed",
    )


def _settle(
    folder: str, session: str, remote: RemoteStore, waiting: list[str], known: state.RemoteState
) -> list[tuple[str, Exception]]:
    """Merge the late fields of these tracks into the segments that they wait for; returns what failed, and why.

    A track in conflict of which the replica has these segments no more stays as it is: that it is one was told.
    """
    failures: list[tuple[str, Exception]] = []
    lock = SessionLock(os.path.join(folder, layout.LOCK_FILE), single_writer=False)
    for below in waiting:
        try:
            _settle_track(folder, session, remote, below, lock)
        except PointsNotHereError as error:
            if known.track(below).conflict is None:
                failures.append((below, error))
        except Exception as error:
            failures.append((below, error))
    return failures


def _settle_track(folder: str, session: str, remote: RemoteStore, below: str, lock: SessionLock) -> None:
    track = TrackFromOutside(folder, below, lock)

    def merge(names: list[SegmentName]) -> None:
        fetched = {name: fetch(remote, f"{session}/{below}", name, os.path.join(folder, below)) for name in names}
        track.change(partial(TrackOnDisk.settle, fetched=fetched))

    settle_all(track.disk.wanted, merge)
    if os.path.exists(track.disk.late.path):
        raise _still_waiting()


# ------------------------------------------------------------------------------------------------ what is there


def sessions_below(path: str) -> Iterator[tuple[str, str]]:
    """The sessions in the folder of a session, a workspace or a lake: each one's folder, and path below the root."""
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(os.path.join(path, layout.SESSION_FILE)):
        found = [path]
    else:
        below = [os.path.join(path, name) for name in sorted(_folders(path))]
        deeper = [os.path.join(top, name) for top in below for name in sorted(_folders(top))]
        found = [each for each in (*below, *deeper) if os.path.isfile(os.path.join(each, layout.SESSION_FILE))]
    for folder in found:
        session = "/".join(folder.split(os.sep)[-2:])
        try:
            layout.session_names(session)
        except ValueError:
            continue  # a folder that dreamlake never makes
        yield folder, session


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
