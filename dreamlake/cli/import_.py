"""``dreamlake import``: runs of TensorBoard, Weights & Biases and MLflow, and tables, brought into a lake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

import click

from dreamlake.cli.options import json_option
from dreamlake.cli.places import DEFAULT_LAKE, Mistake
from dreamlake.cli.progress import bar
from dreamlake.cli.text import clean, complain, say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.integrations.run import Run, Told

KINDS = ("tensorboard", "wandb", "mlflow", "csv", "jsonl", "parquet")
TABLES = ("csv", "jsonl", "parquet")


@click.command("import", short_help="bring in runs of other tools, and tables")
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--path", default=DEFAULT_LAKE, metavar="LAKE", show_default=True, help="The folder of the workspaces to write to."
)
@click.option("-w", "--workspace", metavar="NAME", help="The workspace of the sessions; by default the source's.")
@click.option("--name", metavar="NAME", help="The name of the session; by default that of the run.")
@click.option("--only", metavar="PATTERN", help="Only runs of this name or workspace/name; * stands for anything.")
@click.option("--track", metavar="NAME", help="The track of a table; by default the name of its file.")
@click.option("--time", metavar="COLUMN", help="The column of a table with the time; by default _ts, where it is.")
@click.option("--force", is_flag=True, help="Add to sessions that are not of these runs, too.")
@json_option
def command(
    kind: str,
    sources: tuple[str, ...],
    path: str,
    workspace: str | None,
    name: str | None,
    only: str | None,
    track: str | None,
    time: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Bring runs of another tool into a lake on this machine: their points, parameters, tags and status.

    KIND is tensorboard (a folder of event files), wandb (.wandb files, the wandb folder, or an exported history),
    mlflow (mlruns, an SQLite file, or a tracking URI), or csv, jsonl or parquet (files, or a folder of them). A run
    that is imported again is the same session: only points that came since are added.

    \b
    dreamlake import tensorboard runs/
    dreamlake import wandb wandb/ --path lake --workspace baselines
    dreamlake import mlflow sqlite:///mlflow.db --only 'vision/*'
    dreamlake import csv losses.csv --time timestamp

    The exit status is 1 where a source is damaged, or a run could not be imported; the others were.
    """
    from dreamlake.integrations.run import ImportRefused
    from dreamlake.storage import scheme_of

    if scheme_of(path) is not None:
        raise Mistake("--path is a folder of this machine; import into one, and upload that with dreamlake sync")
    if kind not in TABLES and (track or time):
        raise Mistake(f"--track and --time are for tables ({', '.join(TABLES)}), not for {kind}")
    lake = os.path.abspath(os.path.expanduser(path))
    try:
        runs = [
            run for source in sources for run in _runs(kind, source, track, time) if _is_wanted(run, only, workspace)
        ]
    except ImportError as error:
        raise OSError(str(error)) from None
    except ImportRefused as error:
        raise Mistake(str(error)) from None
    if not runs:
        raise Mistake(f"no run is named like {only!r} there")
    if name is not None and len(runs) > 1:
        raise Mistake(f"--name names one session, and there are {len(runs)} runs; choose one with --only")
    return _import_all(runs, lake, workspace, name, force, as_json)


def _runs(kind: str, source: str, track: str | None, time: str | None) -> Iterator[Run]:
    if kind == "tensorboard":
        from dreamlake.integrations.tensorboard import runs
    elif kind == "wandb":
        from dreamlake.integrations.wandb import runs
    elif kind == "mlflow":
        from dreamlake.integrations.mlflow import runs
    else:
        from dreamlake.integrations import tables

        return tables.runs(kind, source, track=track, time=time)
    return runs(source)


def _is_wanted(run: Run, only: str | None, workspace: str | None) -> bool:
    return only is None or any(
        fnmatchcase(name, only) for name in (run.name, f"{run.workspace}/{run.name}", f"{workspace}/{run.name}")
    )


def _import_all(runs: list[Run], lake: str, workspace: str | None, name: str | None, force: bool, as_json: bool) -> int:
    from dreamlake.errors import DreamlakeError
    from dreamlake.integrations.intake import Earlier, take_in
    from dreamlake.integrations.run import ImportRefused

    status, done = 0, []
    earlier = Earlier(lake)
    with bar("importing", "points") as shown:
        for run in runs:
            try:
                told = take_in(
                    run, lake, workspace=workspace, name=name, force=force, advance=shown.advance, earlier=earlier
                )
            except (ImportRefused, DreamlakeError, OSError) as error:
                if len(runs) == 1:
                    raise (Mistake(str(error)) if isinstance(error, ImportRefused) else error) from None
                shown.hide()
                complain(f"{run.source}: {error}")
                status = 1
                continue
            done.append(told)
            status = 1 if told.damage else status
            shown.hide()
            if not as_json:
                _say(told)
    if as_json:
        say_json([_as_json(told) for told in done])
    return status


def _say(told: Told) -> None:
    all_of_it = f"{_many(told.total, 'point')} in {_many(told.tracks, 'track')}"
    new = "nothing new" if not told.points else f"{told.points:,} new" if told.points < told.total else "all new"
    say(clean(f"{told.run}: {all_of_it}, {new}"))
    if told.left_out:
        say(clean("  left out: " + ", ".join(f"{count:,} {what}" for what, count in sorted(told.left_out.items()))))
    for note in told.notes:
        say(clean(f"  {note}"))
    for line in told.damage:
        complain(line)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _as_json(told: Told) -> dict[str, Any]:
    return {
        "run": told.run,
        "source": told.source,
        "tracks": told.tracks,
        "points": told.total,
        "new": told.points,
        "leftOut": dict(told.left_out),
        "notes": told.notes,
        "damage": told.damage,
    }
