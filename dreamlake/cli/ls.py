"""``dreamlake ls``: the runs of a lake, and how they compare by parameters and by fields of tracks."""

from __future__ import annotations

import os
from typing import Any

import click

from dreamlake.cli.compare import (
    DAMAGED,
    OWN,
    Column,
    Row,
    check_columns,
    chosen,
    columns_in,
    look,
    ordered,
    parse_column,
    parse_columns,
)
from dreamlake.cli.completion import complete_folders
from dreamlake.cli.options import WholeNumber, json_option, storage_options
from dreamlake.cli.places import DEFAULT_LAKE, Mistake, open_lake, place_of, runs_of, split_url
from dreamlake.cli.progress import bar
from dreamlake.cli.text import complain, say, say_json, table, time_text, value_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dreamlake.lake import SessionView

#: What is shown without --columns.
USUAL = ("run", "status", "tracks", "created", "description")
STATUS_STYLES = {"running": "cyan", "finished": "green", "failed": "red", "lost": "yellow", DAMAGED: "bold red"}


@click.command("ls", short_help="list runs, and compare them")
@click.argument("lake", required=False, metavar="[LAKE]", shell_complete=complete_folders)
@click.option("--path", metavar="LAKE", help="The lake, as other commands name it.", shell_complete=complete_folders)
@click.option(
    "-c",
    "--columns",
    multiple=True,
    metavar="LIST",
    help="Columns, with commas between: a parameter (lr, optimizer.name), a field of a track (TRACK:FIELD, its last "
    "value, or TRACK:FIELD.min, .max, .mean, .first, .count), or status, created, updated, tags, description, tracks.",
)
@click.option("-s", "--sort", metavar="COLUMN", help="By this column, the lowest first; what has no value comes last.")
@click.option("-r", "--reverse", is_flag=True, help="The highest first; without --sort, the latest run first.")
@click.option("-w", "--where", metavar="CONDITION", help="Only runs for which this holds, written as in SQL.")
@click.option("-n", "--limit", type=WholeNumber(0), metavar="N", help="The first so many only.")
@storage_options
@json_option
def command(
    lake: str | None,
    path: str | None,
    columns: tuple[str, ...],
    sort: str | None,
    reverse: bool,
    where: str | None,
    limit: int | None,
    storage_options: dict[str, Any] | None,
    as_json: bool,
) -> int:
    """List the runs of a lake, and compare them.

    LAKE is a lake, or a workspace's folder, or the URL of one; .dreamlake by default. The exit status is 1 when part of
    a run is damaged, which does not keep the others from being listed.

    The five runs with the lowest validation loss, of those with a small learning rate:

    \b
    dreamlake ls s3://my-team/lake -c lr,eval:val_loss.min \\
        --sort eval:val_loss.min --limit 5 --where "lr < 0.01"
    """
    from dreamlake.engine.process import reading_width, side_by_side

    asked = parse_columns(columns)
    by = None if sort is None else parse_column(sort)
    if by is not None and by not in asked and by.text not in USUAL:
        asked.append(by)
    shown = [Column(name) for name in (("run", "status") if columns else USUAL)]
    shown += [column for column in asked if column not in shown]
    needed = list(dict.fromkeys([*shown, *([by] if by else []), *(columns_in(where) if where else [])]))
    with_parameters = bool(where) or any(column.track is None and column.text not in OWN for column in needed)

    if lake is not None and path is not None:
        raise Mistake(f"two lakes are named, {place_of(lake)} and {place_of(path)}; name one")
    path = lake or path or DEFAULT_LAKE
    runs = _runs(path, storage_options)
    width = reading_width(runs[0]._store, 0) if runs else 1
    with bar("looking at", "runs", len(runs)) as progress:

        def look_at(view: SessionView) -> Row | None:
            try:
                return look(view, needed, with_parameters)
            finally:
                progress.advance()

        rows = [row for row in side_by_side(look_at, runs, width) if row is not None]
    check_columns(needed, rows)
    damage = [line for row in rows for line in row.damage]
    if where:
        rows = chosen(rows, where)
    if by is not None:
        rows = ordered(rows, by, reverse=reverse)
    elif reverse:
        rows = sorted(rows, key=lambda row: str(row.about.get("createdAt") or ""), reverse=True)
    rows = rows if limit is None else rows[:limit]
    if as_json:
        say_json([_json(row, asked) for row in rows])
    elif rows:
        _say_table(rows, shown)
    else:
        say(f"no runs in {place_of(path)}" if not runs else "no run is so")
    for line in damage:
        complain(line)
    return 1 if damage else 0


def _json(row: Row, asked: list[Column]) -> dict[str, Any]:
    about = {key: value for key, value in row.about.items() if key != "run"}
    return about | ({"columns": {column.text: row.values[column.text] for column in asked}} if asked else {})


def _say_table(rows: list[Row], shown: list[Column]) -> None:
    header = [column.text.upper() if column.text in OWN else column.text for column in shown]
    right = {
        name
        for name, column in zip(header, shown, strict=True)
        if all(isinstance(row.values[column.text], int | float | None) for row in rows)
        and any(row.values[column.text] is not None for row in rows)
    }
    cells = [[_cell(column, row.values[column.text]) for column in shown] for row in rows]
    say(table(header, cells, right, lambda name, cell: STATUS_STYLES.get(cell, "") if name == "STATUS" else ""))


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return ""
    if column.text in ("created", "updated"):
        return time_text(value)
    if column.text == "tags":
        return ", ".join(map(str, value))
    return value if column.text in OWN and isinstance(value, str) else value_text(value)


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
