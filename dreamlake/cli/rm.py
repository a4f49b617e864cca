"""``dreamlake rm``: removes runs, after it has shown what goes and asked."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from dreamlake.cli.completion import complete_runs
from dreamlake.cli.options import json_option, lake_options
from dreamlake.cli.places import Mistake, find_remains, find_run, is_folder
from dreamlake.cli.progress import bar
from dreamlake.cli.text import clean, complain, say, say_json, size_text, table
from dreamlake.errors import CorruptTrackError, DreamlakeError, SessionNotFoundError, TrackNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dreamlake.lake import SessionView

#: The status of a run without a session.json.
REMAINS = "half-removed"


@click.command("rm", short_help="remove runs")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=complete_runs)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Remove a run that is live, too; what still writes to it will fail.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@lake_options
@json_option
def command(
    runs: tuple[str, ...],
    yes: bool,
    force: bool,
    dry_run: bool,
    path: str,
    storage_options: dict[str, Any] | None,
    as_json: bool,
) -> int:
    """Remove runs for good: shows what will go, and asks first.

    RUN is workspace/session, a session's name, or a session's folder or URL. A run that is live is refused: one that is
    running, or to which something was written in the last minute. What is elsewhere stays: of a run in a folder its
    replica, of a run at a URL the folders of the machines that wrote it.

    Where it is interrupted, what is left is no run to any reader any more, and a second `dreamlake rm` finishes. The
    exit status is 1 where something could not be removed, or the answer is no.

    \b
    dreamlake rm hello/first
    dreamlake rm --yes sweep/7 sweep/8
    dreamlake rm s3://my-team/lake/hello/first
    """
    from dreamlake.engine.removal import why_live

    found = {}
    for name in runs:
        view = _find(name, path, storage_options)
        found[view._store.describe(view._folder)] = view
    for view in found.values():
        why = None if force or dry_run else why_live(view._store, view.workspace, view.name)
        if why is not None:
            raise Mistake(f"{_named(view)} is live: {why}; end it first, or remove it all the same with --force")
    rows = [_row(view) for view in found.values()]
    if not as_json:
        say(_table(rows))
    if not dry_run:
        _ask(rows, yes)
    failed = 0
    for view, row in zip(found.values(), rows, strict=True):
        row["removed"] = not dry_run and _remove(view, row, force)
        failed += not row["removed"]
        if row["removed"] and not as_json:
            say(clean(f"removed {row['run']}"))
            _say_what_stays(view, row)
    if as_json:
        say_json(rows)
    return 1 if failed and not dry_run else 0


def _find(name: str, path: str, options: dict[str, Any] | None) -> SessionView:
    try:
        return find_run(name, path, options)
    except (Mistake, SessionNotFoundError):
        view = find_remains(name, path, options)
        if view is None:
            raise
        return view


def _ask(rows: list[dict[str, Any]], yes: bool) -> None:
    """Return when the runs are to be removed."""
    if yes:
        return
    if not (sys.stdin is not None and sys.stdin.isatty()):
        raise Mistake("rm asks before it removes anything, and there is no terminal to ask on; --yes answers it")
    what = rows[0]["run"] if len(rows) == 1 else f"these {len(rows)} runs"
    if not click.confirm(f"Remove {clean(what)} for good?", err=True):
        raise OSError("nothing was removed")


def _remove(view: SessionView, row: dict[str, Any], force: bool) -> bool:
    from dreamlake.engine.removal import remove_local, remove_remote

    with bar(f"removing {clean(row['run'])}", "files") as shown:
        try:
            if is_folder(view):
                folder = view._store.describe(view._folder)
                shown.more(len(os.listdir(folder)))
                remove_local(folder, force=force, progress=shown.advance)
            else:
                shown.more(row["files"])
                remove_remote(view._store, view._folder, progress=shown.advance)
        except (DreamlakeError, OSError) as error:
            shown.hide()
            complain(f"{row['run']} is not removed in full: {error}; the same command goes on with it")
            return False
    return True


def _say_what_stays(view: SessionView, row: dict[str, Any]) -> None:
    if not is_folder(view):
        say("  folders on machines that wrote it are untouched; dreamlake sync would upload them again")
    for place in row["replicas"]:
        say(clean(f"  its replica is untouched: {place}"))


# ------------------------------------------------------------------------------------------------ what will go


def _row(view: SessionView) -> dict[str, Any]:
    """What there is of a run: points are None where damage keeps them from being counted."""
    from dreamlake.engine.removal import files_of

    try:
        status = str(view.info.get("status") or "")
    except SessionNotFoundError:
        status = REMAINS
    except CorruptTrackError:
        status = "damaged"
    names = view.tracks.list()
    points: int | None = 0
    for name in names:
        try:
            points = None if points is None else points + len(view.track(name))
        except TrackNotFoundError:
            continue
        except (CorruptTrackError, ValueError):
            points = None
    sizes = [size for _, (size, _) in files_of(view._store, view._folder)]
    return {
        "run": _named(view),
        "status": status,
        "tracks": len(names),
        "points": points,
        "files": len(sizes),
        "bytes": sum(sizes),
        "replicas": _replicas(view),
    }


def _named(view: SessionView) -> str:
    return f"{view.workspace}/{view.name}"


def _replicas(view: SessionView) -> list[str]:
    """Where a run in a folder was uploaded to."""
    if not is_folder(view):
        return []
    from dreamlake.engine.replica.state import load

    folder = view._store.describe(view._folder)
    return [f"{url.rstrip('/')}/{view._folder}" for url in load(folder).remotes]


def _table(rows: list[dict[str, Any]]) -> str:
    header = ("RUN", "STATUS", "TRACKS", "POINTS", "FILES", "SIZE")
    cells = [
        (
            row["run"],
            row["status"],
            str(row["tracks"]),
            "?" if row["points"] is None else f"{row['points']:,}",
            str(row["files"]),
            size_text(row["bytes"]),
        )
        for row in rows
    ]
    return table(header, cells, right=("TRACKS", "POINTS", "FILES", "SIZE"))
