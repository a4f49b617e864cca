"""A run is removed: session.json first, so that what a crash leaves half-removed is no run to any reader.

The rest goes in an order in which what is left is known for the rest of a run until the very end: logs and files, then
the tracks, and last the parameters and (in a folder) the lock. Links are removed, and not followed.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack

import dreamlake.storage.local as local
from dreamlake.engine.catalog import CLEARLY, SILENCE, session_info
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.errors import CorruptTrackError, LocksUnsupportedError, LockTimeoutError
from dreamlake.format import layout
from dreamlake.storage.lock import FileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dreamlake.storage.store import Store

#: Objects that are removed between two looks at who waits.
WAVE = 200
#: Seconds to wait for a writer that is at work.
PATIENCE = 2.0

_LAST = (layout.PARAMETERS_FILE, layout.REPLICA_LOCK_FILE, layout.LOCK_FILE)
_FOLDERS = (layout.LOGS_DIR, layout.FILES_DIR, layout.TRACKS_DIR, layout.HOSTS_DIR)
_OWN = frozenset({layout.SESSION_FILE, layout.REPLICA_FILE, *_LAST, *_FOLDERS})


def is_remains(store: Store, folder: str) -> bool:
    """Whether a folder without a session.json holds the rest of a run, and nothing that dreamlake does not make."""
    names = {entry.name for entry in store.list(folder)}
    if not all(name in _OWN or name.startswith(layout.TMP_PREFIX) or ".damaged-" in name for name in names):
        return False
    if names & {layout.TRACKS_DIR, layout.HOSTS_DIR, *_LAST}:
        return bool(store.walk(folder))  # empty folders stay where a store has any: they are nothing to remove
    logs = [path.rpartition("/")[2] for path in store.walk(f"{folder}/{layout.LOGS_DIR}")]
    return names == {layout.LOGS_DIR} and all(
        f"{layout.LOGS_DIR}/{name}" == layout.LOGS_FILE or layout.parse_log_archive(name) is not None for name in logs
    )


def why_live(store: Store, workspace: str, session: str, now: float | None = None) -> str | None:
    """Why a run is not to be removed now: it says that it is running, or is written; None for one that is over.

    Whatever is written after session.json says that the run has ended is the work of another process. Where there is no
    session.json to tell, as in a run that is half-removed, or not yet there in full, all that was written counts.
    """
    now = time.time() if now is None else now
    folder = layout.session_dir(workspace, session)
    try:
        info = session_info(store, workspace, session, now)
    except CorruptTrackError:
        info = None
    if info is not None and info.get("status") == "running":
        return "it says that it is running (of one that was killed this is believed for a minute)"
    written = dict(files_of(store, folder))
    ended = max(now - SILENCE, written.get(layout.SESSION_FILE, (0, 0.0))[1] + CLEARLY)
    # Uploads follow the end of a run, and a compaction that found nothing to do has taken the lock.
    ours = (layout.REPLICA_FILE, layout.REPLICA_LOCK_FILE, layout.LOCK_FILE)
    if any(modified > ended for path, (_, modified) in written.items() if path not in ours):
        return "something was written to it in the last minute"
    return None


def files_of(store: Store, folder: str) -> list[tuple[str, tuple[int, float]]]:
    """The files of a run, links among them and not followed: path, bytes, and when each was written.

    Of a folder on this machine the logs and uploaded files are among them, too, and whatever else is in it.
    """
    tree = getattr(store, "tree", None)
    if tree is not None:
        return [(entry.name, (entry.size, entry.modified)) for entry in tree(folder)]
    top = store.describe(folder)
    found = []
    for path in _tree(top)[0]:
        try:
            status = os.lstat(path)
        except OSError:
            continue  # gone since
        found.append((path[len(top) + 1 :].replace(os.sep, "/"), (status.st_size, status.st_mtime)))
    return found


def remove_local(folder: str, *, force: bool, progress: Callable[[int], None]) -> None:
    """Remove the run in a folder of this machine, and that folder.

    Parameters
    ----------
    force
        Whether it is removed also while a writer is in the middle of its work.
    progress
        Is told how many more entries of the folder are gone.

    Raises
    ------
    LockTimeoutError
        A writer, or an upload, is at work.
    OSError
        The disk refused; what is left goes with the next try. The folder is a link, or none.
    """
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise NotADirectoryError(f"{folder} is a link or no folder; only the folder of a run itself is removed")
    with ExitStack() as locks:
        for name in (layout.LOCK_FILE, layout.REPLICA_LOCK_FILE):
            if not os.path.lexists(os.path.join(folder, name)):
                continue  # a copy, which nobody has written to
            try:
                locks.enter_context(FileLock.acquire(os.path.join(folder, name), PATIENCE))
            except (LockTimeoutError, LocksUnsupportedError, CorruptTrackError, PermissionError) as error:
                if isinstance(error, LockTimeoutError) and not force:
                    raise
        for machine in _entries(os.path.join(folder, layout.HOSTS_DIR)):
            _remove(os.path.join(folder, layout.HOSTS_DIR, machine, layout.SESSION_FILE))
        _remove(os.path.join(folder, layout.SESSION_FILE))
        local.fsync_dir(folder)
        for name in sorted(_entries(folder), key=_turn):
            _remove(os.path.join(folder, name))
            progress(1)
    os.rmdir(folder)


def remove_remote(store: Store, folder: str, *, progress: Callable[[int], None]) -> None:
    """Remove all objects of the run in `folder` of a store over a URL.

    Parameters
    ----------
    progress
        Is told how many more objects are gone.

    Raises
    ------
    OSError
        The network or the server refused; what is left goes with the next try.
    """
    paths = [path[len(folder) + 1 :] for path in store.walk(folder)]
    first = [path for path in paths if path.rpartition("/")[2] == layout.SESSION_FILE and _is_said(path)]
    for path in sorted(first, reverse=True):
        store.delete(f"{folder}/{path}")
        progress(1)
    rest = sorted((path for path in paths if path not in set(first)), key=lambda path: _turn(path.partition("/")[0]))
    width = reading_width(store, 0)
    for below in (False, True):
        part = [path for path in rest if (path in _LAST) is below]
        for start in range(0, len(part), WAVE):
            wave = part[start : start + WAVE]
            side_by_side(lambda path: store.delete(f"{folder}/{path}"), wave, width)
            progress(len(wave))


def _is_said(path: str) -> bool:
    """Whether a session.json at this path says that there is a run, and is not a file that somebody uploaded."""
    parts = path.split("/")
    return len(parts) == 1 or (len(parts) == 3 and parts[0] == layout.HOSTS_DIR)


def _turn(name: str) -> tuple[int, str]:
    """When an entry of a run's folder goes: what tells that this is the rest of a run, last."""
    if name in _LAST:
        return len(_FOLDERS) + 1 + _LAST.index(name), name
    return (1 + _FOLDERS.index(name) if name in _FOLDERS else 0), name


def _entries(folder: str) -> Iterable[str]:
    """The names in a folder; none where it is a link, or not there."""
    try:
        return [] if os.path.islink(folder) else os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: str) -> None:
    """Remove a file, a link, or a folder and what is in it; one that is not there is no error."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    # Not shutil.rmtree, which goes as deep into the folders of a stranger as a recursion does.
    files, folders = _tree(path)
    for each in files:
        os.unlink(each)
    for each in reversed(folders):
        os.rmdir(each)


def _tree(top: str) -> tuple[list[str], list[str]]:
    """All files and links below a folder, and all folders, itself first, each before those in it; no link followed."""
    files: list[str] = []
    folders = [top]
    for folder in folders:  # which grows
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.path)
    return files, folders
