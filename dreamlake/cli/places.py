"""What people type for a lake, a run or a track, and what it means."""

from __future__ import annotations

import argparse
import difflib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dreamlake.lake import Lake, SessionView
    from dreamlake.view import TrackView

#: Where `Session` writes when it is not told.
DEFAULT_LAKE = ".dreamlake"


class Mistake(Exception):
    """What was asked for makes no sense, or is not there; the message says what to do."""


def add_lake(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the lake."""
    parser.add_argument(
        "--path",
        default=DEFAULT_LAKE,
        metavar="LAKE",
        help="the folder of the workspaces (default: %(default)s)",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a run, and the option that names its lake."""
    parser.add_argument("name", metavar="RUN", help="workspace/session, a session's name, or a session's folder")
    add_lake(parser)


def open_lake(path: str) -> Lake:
    """The lake at `path`.

    Raises
    ------
    Mistake
        There is no such folder, or it is of a kind that cannot be read.
    """
    from dreamlake.lake import Lake
    from dreamlake.storage import scheme_of

    try:
        lake = Lake(path)
    except ValueError as error:
        raise Mistake(str(error)) from None
    if scheme_of(path) is None and not os.path.isdir(os.path.expanduser(path)):
        what = "is no folder" if os.path.exists(path) else "does not exist"
        raise Mistake(f"{path} {what}; name the folder that holds the workspaces")
    return lake


def find_run(name: str, path: str) -> SessionView:
    """The run that a person calls `name`, in the lake at `path` unless it is a folder itself.

    Raises
    ------
    Mistake
        There is none, or there are several; the message names them.
    """
    from dreamlake.format.layout import SESSION_FILE

    folder = os.path.expanduser(name)
    if os.path.isfile(os.path.join(folder, SESSION_FILE)):
        return _run_in_folder(folder)
    lake = open_lake(path)
    runs = runs_of(lake)
    # A whole name first: a session called as another one's workspace/session must not hide that.
    found = [run for run in runs if f"{run.workspace}/{run.name}" == name.strip("/")]
    found = found or [run for run in runs if run.name == name]
    if not found:
        known = [f"{run.workspace}/{run.name}" for run in runs]
        raise Mistake(f"no run {name!r} in {path}; {_hint(name, known, 'dreamlake ls shows what is there')}")
    if len(found) > 1:
        choices = ", ".join(sorted(f"{run.workspace}/{run.name}" for run in found))
        raise Mistake(f"{name!r} may be any of {choices}; give workspace/session, or the session's folder")
    return found[0]


def find_track(run: SessionView, name: str) -> TrackView:
    """The track that a person calls `name`.

    Raises
    ------
    Mistake
        There is none; the message names one like it.
    """
    tracks = run.tracks.list()
    if name not in tracks:
        hint = _hint(name, tracks, f"it has {', '.join(tracks[:5])}{', …' if len(tracks) > 5 else ''}")
        raise Mistake(f"no track {name!r} in {run.workspace}/{run.name}; {hint if tracks else 'it has none yet'}")
    return run.track(name)


def runs_of(lake: Lake, workspace: str | None = None) -> list[SessionView]:
    """All runs of a lake, by workspace and name; unlike `Lake.sessions` it reads none of their files.

    A damaged run is among them, so that it does not hide the others.
    """
    from dreamlake.engine.catalog import session_folders
    from dreamlake.lake import SessionView

    return [SessionView(lake._store, *names) for names in session_folders(lake._store, workspace)]


def _run_in_folder(folder: str) -> SessionView:
    from dreamlake.format.layout import session_names

    top, session = os.path.split(os.path.abspath(folder))
    root, workspace = os.path.split(top)
    try:
        names = session_names(f"{workspace}/{session}")
    except ValueError as error:
        raise Mistake(f"{folder} is not named as a session's folder is: {error}") from None
    return open_lake(root).session(names[1], names[0])


def _hint(name: str, known: list[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"is it {close[0]!r}?" if close else otherwise
