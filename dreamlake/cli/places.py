"""What people type for a lake, a run or a track, and what it means."""

from __future__ import annotations

import difflib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dreamlake.lake import Lake, SessionView
    from dreamlake.storage.remote import RemoteStore
    from dreamlake.view import TrackView

#: Where `Session` writes when it is not told.
DEFAULT_LAKE = ".dreamlake"

_opened: list[RemoteStore] = []


class Mistake(Exception):
    """What was asked for makes no sense, or is not there; the message says what to do."""


# ------------------------------------------------------------------------------------------------ lakes


def open_lake(path: str, options: dict[str, Any] | None = None) -> Lake:
    """The lake at `path`, a folder or a URL.

    Raises
    ------
    Mistake
        There is no such folder, or it is of a kind that cannot be read.
    OSError
        The package that reads such URLs is not installed.
    """
    from dreamlake.lake import Lake
    from dreamlake.storage import scheme_of
    from dreamlake.storage.remote import RemoteStore

    if scheme_of(path) is None and options:
        raise Mistake(f"{path} is a folder of this machine, which has no use for --storage-options")
    try:
        lake = Lake(path, options)
    except ValueError as error:
        raise Mistake(str(error)) from None
    except ImportError as error:
        raise OSError(str(error)) from None
    if isinstance(lake._store, RemoteStore):
        _opened.append(lake._store)
    elif scheme_of(path) is None and not os.path.isdir(os.path.expanduser(path)):
        if path == DEFAULT_LAKE and not os.path.lexists(path):
            hint = "go to where the runs were written, or name their lake: dreamlake ls LAKE, or --path LAKE"
            raise Mistake(f"{path} does not exist in this folder; {hint} (a folder or URL)")
        what = "is no folder" if os.path.exists(path) else "does not exist"
        raise Mistake(f"{path} {what}; name the folder that holds the workspaces")
    return lake


def open_remote(url: str, options: dict[str, Any] | None) -> RemoteStore:
    """The store over a URL to write to. Raises as `open_lake`."""
    from dreamlake.storage.remote import RemoteStore

    try:
        store = RemoteStore(url, options)
    except ValueError as error:
        raise Mistake(str(error)) from None
    except ImportError as error:
        raise OSError(str(error)) from None
    _opened.append(store)
    return store


def close_opened() -> None:
    """Close the connections of all that was opened."""
    while _opened:
        _opened.pop().close()


def is_remote(lake: Lake) -> bool:
    """Whether each look at the lake costs a request."""
    return not getattr(lake._store, "is_local", True)


def place_of(path: str) -> str:
    """A folder as it was typed, a URL without user-info and query."""
    from dreamlake.storage import scheme_of
    from dreamlake.storage.remote import shown

    return path if scheme_of(path) is None else shown(path)


# ------------------------------------------------------------------------------------------------ runs


def find_run(name: str, path: str, options: dict[str, Any] | None = None) -> SessionView:
    """The run that a person calls `name`, in the lake at `path` unless it is a folder or a URL itself.

    Raises
    ------
    Mistake
        There is none, or there are several; the message names them.
    """
    from dreamlake.format.layout import SESSION_FILE
    from dreamlake.storage import scheme_of

    if scheme_of(name) is not None:
        return _run_at_url(name, options)
    folder = os.path.expanduser(name)
    if os.path.isfile(os.path.join(folder, SESSION_FILE)):
        return _run_in_folder(folder)
    if name.startswith(("/", "./", "../", "~")) and not os.path.exists(folder):
        raise Mistake(f"{name} does not exist; name a run as workspace/session, or its folder or URL")
    lake = open_lake(path, options)
    if is_remote(lake) and (named := _run_named(lake, name.strip("/"))):
        return named
    runs = runs_of(lake)
    # A whole name first: a session called as another one's workspace/session must not hide that.
    found = [run for run in runs if f"{run.workspace}/{run.name}" == name.strip("/")]
    found = found or [run for run in runs if run.name == name]
    if not found:
        known = {f"{run.workspace}/{run.name}": f"{run.workspace}/{run.name}" for run in runs}
        known |= {run.name: f"{run.workspace}/{run.name}" for run in runs}
        raise Mistake(f"no run {name!r} in {place_of(path)}; {_hint(name, known, 'dreamlake ls shows what is there')}")
    if len(found) > 1:
        choices = ", ".join(sorted(f"{run.workspace}/{run.name}" for run in found))
        raise Mistake(f"{name!r} may be any of {choices}; give workspace/session, or the session's folder")
    return found[0]


def _run_named(lake: Lake, name: str) -> SessionView | None:
    """The run of which this is plainly workspace/session; None where it takes a list of all runs to tell."""
    from dreamlake.errors import SessionNotFoundError

    workspace, slash, session = name.partition("/")
    if not slash or "/" in session:
        return None
    try:
        return lake.session(session, workspace)
    except (SessionNotFoundError, ValueError):
        return None


def find_remains(name: str, path: str, options: dict[str, Any] | None = None) -> SessionView | None:
    """The rest of a run that was half-removed, which a person calls as `find_run` has it; None where there is none."""
    from dreamlake.engine.catalog import session_folders
    from dreamlake.engine.removal import is_remains
    from dreamlake.lake import SessionView
    from dreamlake.storage import scheme_of

    if scheme_of(name) is not None or os.path.isdir(os.path.expanduser(name)):
        try:
            place = name if scheme_of(name) is not None else os.path.abspath(os.path.expanduser(name))
            view = _view_at(place, options)
        except Mistake:
            return None
        return view if is_remains(view._store, view._folder) else None
    store = open_lake(path, options)._store
    pairs = session_folders(store, sure=False)
    views = [SessionView(store, *pair) for pair in pairs if name.strip("/") in (f"{pair[0]}/{pair[1]}", pair[1])]
    views = [view for view in views if is_remains(store, view._folder)]
    return views[0] if len(views) == 1 else None


def find_track(run: SessionView, name: str) -> TrackView:
    """The track that a person calls `name`.

    Raises
    ------
    Mistake
        There is none; the message names one like it.
    """
    tracks = run.tracks.list()
    if name not in tracks:
        hint = _hint(
            name, {each: each for each in tracks}, f"it has {', '.join(tracks[:5])}{', …' if len(tracks) > 5 else ''}"
        )
        raise Mistake(f"no track {name!r} in {run.workspace}/{run.name}; {hint if tracks else 'it has none yet'}")
    return run.track(name)


def chosen_runs(
    what: str | None, track: str | None, path: str, options: dict[str, Any] | None
) -> tuple[list[SessionView], str | None]:
    """The runs that a person means, and the one track if only that is meant; damaged ones, and tracks, among them.

    Parameters
    ----------
    what
        A lake, a workspace, a run or the folder of a track; None for the lake at `path`.
    track
        The name of a track, where `what` is a run.

    Raises
    ------
    Mistake
        There is no such thing.
    """
    from dreamlake.storage import scheme_of

    if what is None:
        return _runs_below(path, options), None
    if scheme_of(what) is not None or os.path.isdir(os.path.expanduser(what)):
        found, named = _runs_at(what, options)
        if named is not None and track is not None:
            raise Mistake(f"{what} is the folder of a track already")
        track = track if named is None else named
        if track is not None and len(found) != 1:
            raise Mistake(f"{place_of(what)} holds {len(found)} runs; name the one of the track")
    else:
        found = [find_run(what, path, options)]
    if track is not None and track not in found[0].tracks:
        find_track(found[0], track)
    return found, track


def _runs_at(what: str, options: dict[str, Any] | None) -> tuple[list[SessionView], str | None]:
    """The runs at a folder or URL, and the track whose folder it is."""
    from dreamlake.storage import scheme_of

    if scheme_of(what) is None:
        what = os.path.abspath(os.path.expanduser(what))
        of_track = _track_in_folder(what)
        if of_track is not None:
            return of_track
    names = {entry.name for entry in open_lake(what, options)._store.list()}
    runs = [] if names & _RUN_FILES else _runs_below(what, options)
    return (runs if runs or not _is_run(names) else [_view_at(what, options)]), None


def _track_in_folder(folder: str) -> tuple[list[SessionView], str] | None:
    """The run and the track in whose folder this is; None where it is none."""
    from dreamlake.format.layout import TRACKS_DIR, track_name

    parts = folder.split(os.sep)
    for place in range(len(parts) - 2, 1, -1):
        run = os.sep.join(parts[:place])
        if parts[place] == TRACKS_DIR and _is_run(os.listdir(run)):
            try:
                return [_view_at(run, None)], track_name("/".join(parts[place:]))
            except (ValueError, Mistake):
                continue
    return None


def _view_at(place: str, options: dict[str, Any] | None) -> SessionView:
    """The run in a folder or at a URL, whether it has a session.json or not."""
    from dreamlake.lake import SessionView
    from dreamlake.storage import scheme_of

    if scheme_of(place) is not None:
        root, folders = split_url(place, 2)
    else:
        top, session = os.path.split(place)
        root, workspace = os.path.split(top)
        folders = [workspace, session]
    try:
        names = _names(*folders)
    except ValueError:
        raise Mistake(f"{place_of(place)} is not named as a session's folder is") from None
    return SessionView(open_lake(root, options)._store, *names)


#: What only the folder of a run holds.
_RUN_FILES = frozenset({"session.json", ".lock", "parameters.json"})


def _is_run(names: Iterable[str]) -> bool:
    """Whether these are the entries of a run's folder, which may have lost its session.json."""
    from dreamlake.format.layout import FILES_DIR, HOSTS_DIR, LOGS_DIR, TRACKS_DIR

    names = set(names)
    folders = {TRACKS_DIR, HOSTS_DIR, LOGS_DIR, FILES_DIR}
    return bool(names & _RUN_FILES) or (bool(names & {TRACKS_DIR, HOSTS_DIR}) and names <= folders)


def _runs_below(path: str, options: dict[str, Any] | None) -> list[SessionView]:
    """The runs of a lake or a workspace, those without a session.json among them."""
    from dreamlake.engine.catalog import session_folders
    from dreamlake.format.layout import decode_component
    from dreamlake.lake import SessionView
    from dreamlake.storage import scheme_of

    def below(lake: Lake, workspace: str | None) -> list[SessionView]:
        views = [SessionView(lake._store, *names) for names in session_folders(lake._store, workspace, sure=False)]
        return [view for view in views if _is_run(entry.name for entry in lake._store.list(view._folder))]

    lake = open_lake(path, options)
    runs = below(lake, None)
    if runs:
        return runs
    try:
        if scheme_of(path) is not None:
            root, (folder,) = split_url(path, 1)
        else:
            root, folder = os.path.split(os.path.abspath(os.path.expanduser(path)))
        return below(open_lake(root, options), decode_component(folder))
    except (ValueError, Mistake):
        return []


def is_folder(run: SessionView) -> bool:
    """Whether the run is in a folder of this machine."""
    from dreamlake.storage.localstore import LocalStore

    return isinstance(run._store, LocalStore)


def runs_of(lake: Lake, workspace: str | None = None) -> list[SessionView]:
    """All runs of a lake, by workspace and name; unlike `Lake.sessions` it reads none of their files.

    A damaged run is among them, so that it does not hide the others.
    """
    from dreamlake.engine.catalog import session_folders
    from dreamlake.lake import SessionView

    return [SessionView(lake._store, *names) for names in session_folders(lake._store, workspace)]


def _run_in_folder(folder: str) -> SessionView:
    top, session = os.path.split(os.path.abspath(folder))
    root, workspace = os.path.split(top)
    try:
        names = _names(workspace, session)
    except ValueError as error:
        raise Mistake(f"{folder} is not named as a session's folder is: {error}") from None
    return open_lake(root).session(names[1], names[0])


def _run_at_url(url: str, options: dict[str, Any] | None) -> SessionView:
    root, folders = split_url(url, 2)
    try:
        names = _names(*folders)
    except ValueError:  # it may name a part of the URL that must not be shown
        raise Mistake(f"{place_of(url)} is not the URL of a session's folder") from None
    return open_lake(root, options).session(names[1], names[0])


def _names(workspace: str, session: str) -> tuple[str, str]:
    from dreamlake.format.layout import session_names

    return session_names(f"{workspace}/{session}")


def split_url(url: str, count: int) -> tuple[str, list[str]]:
    """The URL without its last `count` folders, and these. Raises Mistake where it does not have so many."""
    scheme, _, rest = url.partition("://")
    if "?" in rest or "#" in rest:
        raise Mistake(f"{place_of(url)} has a query: name the lake's root alone by such a URL")
    top, *folders = rest.rstrip("/").rsplit("/", count)
    if len(folders) < count and scheme == "memory":  # where nothing stands for a host
        top, folders = "", [top, *folders]
    if len(folders) < count or not all(folders):
        raise Mistake(f"{place_of(url)} has too few folders: root, workspace, session")
    return f"{scheme}://{top or ('/' if rest.startswith('/') else '')}", folders


def _hint(name: str, known: dict[str, str], otherwise: str) -> str:
    """What is like `name` among the ways to say something, each with what it stands for."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"is it {known[close[0]]!r}?" if close else otherwise
