"""``dreamlake ls``: the runs of a lake, with their status and number of tracks."""

from __future__ import annotations

import os

import click

from dreamlake.cli.options import json_option, storage_options
from dreamlake.cli.places import (
    DEFAULT_LAKE,
    Mistake,
    open_lake,
    place_of,
    runs_of,
    split_url,
)
from dreamlake.cli.text import complain, say, say_json, table, time_text
from dreamlake.errors import CorruptTrackError, SessionNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.lake import SessionView

#: The status of a run whose session.json cannot be read.
DAMAGED = "damaged"


@click.command("ls", short_help="list runs")
@click.argument("path", default=DEFAULT_LAKE, metavar="[LAKE]")
@storage_options
@json_option
def command(path: str, storage_options: dict[str, Any] | None, as_json: bool) -> int:
    """List the runs of a lake, and how they stand.

    LAKE is a lake, or a workspace's folder, or the URL of one; .dreamlake by default. The exit status is 1 when a run
    is damaged.
    """
    from dreamlake.engine.process import reading_width, side_by_side

    runs = _runs(path, storage_options)
    width = reading_width(runs[0]._store, 0) if runs else 1
    rows = [row for row in side_by_side(_row, runs, width) if row is not None]
    if as_json:
        say_json(rows)
    elif rows:
        header = ("RUN", "STATUS", "TRACKS", "CREATED", "DESCRIPTION")
        say(table(header, [_cells(row) for row in rows], right=("TRACKS",)))
    else:
        say(f"no runs in {place_of(path)}")
    damaged = [row for row in rows if row["status"] == DAMAGED]
    for row in damaged:
        complain(row["detail"])
    return 1 if damaged else 0


def _runs(path: str, options: dict[str, Any] | None) -> list[SessionView]:
    from dreamlake.format.layout import SESSION_FILE, decode_component
    from dreamlake.storage import scheme_of

    lake = open_lake(path, options)
    runs = runs_of(lake)
    if runs:
        return runs
    if any(entry.name == SESSION_FILE for entry in lake._store.list()):
        raise Mistake(f"{place_of(path)} is a single run: dreamlake show {place_of(path)}")
    # A workspace's folder, as the shell completes it: its runs are one level down.
    try:
        if scheme_of(path) is not None:
            root, (folder,) = split_url(path, 1)
        else:
            root, folder = os.path.split(os.path.abspath(os.path.expanduser(path)))
        return runs_of(open_lake(root, options), decode_component(folder))
    except (ValueError, Mistake):
        return []


def _row(run: SessionView) -> dict[str, Any] | None:
    named = {"workspace": run.workspace, "name": run.name}
    try:
        info: dict[str, Any] = dict(run.info)
    except CorruptTrackError as error:
        return {**named, "status": DAMAGED, "detail": str(error), "tracks": len(run.tracks)}
    except SessionNotFoundError:
        return None  # removed since it was listed
    return {**info, "tracks": len(run.tracks)}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    created = time_text(row.get("createdAt"))
    named = f"{row['workspace']}/{row['name']}"
    return named, str(row.get("status", "")), str(row["tracks"]), created, str(row.get("description") or "")
