"""Bring a replica up to date from outside of the process that writes: for runs that were killed, or closed offline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from dreamlake.engine.replica import check, state
from dreamlake.engine.replica.progress import Progress
from dreamlake.engine.replica.push import Outcome, push
from dreamlake.format import layout
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
    deleted on the replica are sent again, and what was sent without a note is recognised.

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
        known = state.load(folder)
        tree = check.look(remote, session)
        check.compare(folder, session, remote, known.remote(remote.describe()), tree)
        state.save(folder, known)
        return push(folder, session, remote, known, progress=progress, stop=stop)


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
