"""What a lake holds: its workspaces and sessions, the tracks of a session, and what session.json says of it."""

from __future__ import annotations

import time

from dreamlake.engine.hosts import host_paths, merged_info, moment, paths_of_all
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.engine.runlisting import files_of_runs
from dreamlake.errors import CorruptTrackError
from dreamlake.format import about, layout
from dreamlake.format.layout import HOSTS_DIR, HOT_FILE, LOCK_FILE, METADATA_FILE, SESSION_FILE, TRACKS_DIR
from dreamlake.storage import get_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.engine.runlisting import Files
    from dreamlake.storage.store import Store

#: A session that says it is running and has written nothing for this many seconds is shown as lost.
SILENCE = 60.0
#: What is written this many seconds after a machine ended its run is surely the work of another one.
CLEARLY = 5.0


def workspaces(store: Store) -> list[str]:
    """The workspaces that hold a session, sorted."""
    found = set()
    for top in _folders(store, ""):
        for folder, (workspace, _) in _candidates(store, top).items():
            if is_session(store, folder):
                found.add(workspace)
                break
    return sorted(found)


def session_folders(store: Store, workspace: str | None = None, *, sure: bool = True) -> list[tuple[str, str]]:
    """The (workspace, session) pairs in a lake, sorted: folders two levels down with a session.json.

    Parameters
    ----------
    workspace
        Only those of this workspace; None for all.
    sure
        Whether each folder is looked into for its session.json; for a caller that finds that out anyway.
    """
    if workspace is None:
        tops = _folders(store, "")
    else:
        layout.check_name("workspace", workspace)
        tops = [layout.encode_component(workspace)]
    width = reading_width(store, 0)
    found: dict[str, tuple[str, str]] = {}
    for candidates in side_by_side(lambda top: _candidates(store, top), tops, width):
        found |= candidates
    if not sure:
        return sorted(found.values())
    listed = files_of_runs(store, list(found))
    looks = side_by_side(lambda folder: is_session(store, folder, listed.get(folder)), list(found), width)
    return sorted(names for names, there in zip(found.values(), looks, strict=True) if there)


def track_names(store: Store, session: str) -> list[str]:
    """The tracks in the session folder `session`, sorted: those with a stored point or metadata."""
    found = set()
    for path in store.walk(f"{session}/{TRACKS_DIR}"):
        folder, _, filename = path[len(session) + 1 :].rpartition("/")
        if filename in (METADATA_FILE, HOT_FILE) or layout.parse_segment(filename) is not None:
            try:
                found.add(layout.track_name(folder))
            except ValueError:
                continue  # a folder that dreamlake never makes
    return sorted(found)


def session_there(store: Store, workspace: str, session: str) -> bool:
    """Whether there is such a session; one GET where there is. Raises CorruptTrackError for a damaged session.json."""
    folder = layout.session_dir(workspace, session)
    there = read_object(store, f"{folder}/{SESSION_FILE}") is not None
    return there or bool(host_paths(store, folder, SESSION_FILE))


def session_info(
    store: Store, workspace: str, session: str, now: float | None = None, files: Files | None = None
) -> dict[str, Any] | None:
    """What session.json says, with ``workspace`` and ``name``; None where there is no such session.

    Where several machines write the session, what they say is merged; see `merged_info`. The status is that of the one
    whose session.json was updated last, but ``"running"`` while another machine that says so goes on to write. It is
    ``"lost"`` where the file says ``"running"`` and nothing of the session was written lately. `files` are all that it
    holds, where that is known.

    Raises
    ------
    CorruptTrackError
        A session.json is not readable.
    """
    folder = layout.session_dir(workspace, session)
    paths = paths_of_all(store, folder, SESSION_FILE, files)
    read = side_by_side(lambda path: read_object(store, path), paths, reading_width(store, 0))
    infos = [info for info in read if info is not None]
    if not infos:
        return None
    info = merged_info(infos) | {"workspace": workspace, "name": session}
    silent_since = (time.time() if now is None else now) - SILENCE

    def wrote_since(since: float, but: str = "") -> bool:
        # `files` may be older than what was read since, and lack a write: they prove that there was one, not that none.
        known = files is not None and _last_write(store, folder, since, but, files) > since
        return known or _last_write(store, folder, since, but) > since

    if info.get("status") == "running":
        if not wrote_since(silent_since):
            info["status"] = "lost"
    elif any(each.get("status") == "running" for each in infos):
        ended = max(silent_since, moment(info.get("updatedAt")) + CLEARLY)
        # Not a session.json: that of a machine which died long ago may have been uploaded just now.
        if wrote_since(ended, SESSION_FILE):
            info["status"] = "running"
    return info


def read_object(store: Store, path: str, *, may_be_empty: bool = False) -> dict[str, Any] | None:
    """The JSON object in a small file, its special values decoded; None where there is no file.

    With `may_be_empty` an empty file, as a power cut may leave it, is taken for none.

    Raises
    ------
    CorruptTrackError
        The file holds something else.
    """
    try:
        data = get_whole(store, path, layout.MAX_SMALL_BYTES)
    except FileNotFoundError:
        return None
    if not data and may_be_empty:
        return None
    try:
        return about.check(about.decode(data))
    except ValueError as error:
        raise CorruptTrackError(store.describe(path), "the whole file", detail=str(error)) from error


def _last_write(store: Store, folder: str, enough: float, but: str = "", files: Files | None = None) -> float:
    """When the session last wrote, in seconds since the epoch; looked into no further once that is above `enough`.

    Files of the name `but` do not count.
    """
    tree = getattr(store, "tree", None)
    if files is not None or tree is not None:  # all at once, where each folder would cost a request
        entries = files.values() if files is not None else tree(folder)  # type: ignore[misc]
        return max((entry.modified for entry in entries if entry.name.rpartition("/")[2] != but), default=0.0)
    top = [entry.modified for entry in store.list(folder) if entry.name in {SESSION_FILE, LOCK_FILE} - {but}]
    latest = max(top, default=0.0)
    left = [f"{folder}/{HOSTS_DIR}", f"{folder}/{TRACKS_DIR}"]
    while left and latest <= enough:
        below = left.pop()
        for entry in store.list(below):
            if entry.is_dir:
                left.append(f"{below}/{entry.name}")
            elif entry.name != but:
                latest = max(latest, entry.modified)
    return latest


def _candidates(store: Store, top: str) -> dict[str, tuple[str, str]]:
    """The folders below `top` that are named as sessions are, with workspace and session."""
    found = {}
    for folder in _folders(store, top):
        try:
            found[f"{top}/{folder}"] = layout.session_names(f"{top}/{folder}")
        except ValueError:
            continue
    return found


def is_session(store: Store, folder: str, files: Files | None = None) -> bool:
    """Whether the session folder `folder` holds a session.json, whichever machine's; `files` are all, where known."""
    if files is not None:
        return bool(paths_of_all(store, folder, SESSION_FILE, files))
    names = {entry.name for entry in store.list(folder)}
    return SESSION_FILE in names or (HOSTS_DIR in names and bool(host_paths(store, folder, SESSION_FILE)))


def _folders(store: Store, path: str) -> list[str]:
    return [entry.name for entry in store.list(path) if entry.is_dir]
