"""``dreamlake check``: reads every file of runs in full, and tells what is damaged."""

from __future__ import annotations

from dataclasses import asdict

import click

from dreamlake.cli.options import json_option, target
from dreamlake.cli.places import chosen_runs
from dreamlake.cli.progress import bar
from dreamlake.cli.text import clean, say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.engine.findings import Finding


@click.command("check", short_help="verify every file of runs")
@target
@json_option
def command(
    what: str | None, track: str | None, path: str, storage_options: dict[str, Any] | None, as_json: bool
) -> int:
    """Read every file of a lake, a run or a track in full, and tell what is damaged: where, which points it costs, and
    what `dreamlake repair` would do. It changes nothing and locks nothing.

    WHAT is the folder or URL of a lake, a workspace or a run, the folder of a track, or the name of a run; the whole
    lake by default. TRACK is the name of a track of the run.

    The exit status is 0 where nothing is damaged, and 1 where something is.

    \b
    dreamlake check
    dreamlake check hello/first train
    """
    from dreamlake.engine.findings import is_damaged
    from dreamlake.engine.repair import told

    runs, only = chosen_runs(what, track, path, storage_options)
    rows = []
    damaged = 0
    with bar("checking", "runs", len(runs)) as shown:
        for view in runs:
            tracks = None if only is None else [only]
            findings = told(view._store, view._folder, tracks)
            damaged += is_damaged(findings)
            name = f"{view.workspace}/{view.name}"
            rows.append(
                {
                    "run": name,
                    "damage": [_row(finding) for finding in findings if not finding.note],
                    "notes": [_row(finding) for finding in findings if finding.note],
                }
            )
            if not as_json:
                shown.hide()
                say(f"{clean(name)}: {'damaged' if is_damaged(findings) else 'no damage'}")
                for finding in findings:
                    say_finding(finding)
            shown.advance()
    if as_json:
        say_json(rows)
    elif not runs:
        say("no runs")
    elif len(runs) > 1:
        say(f"{damaged} of {len(runs)} runs are damaged")
    return 1 if damaged else 0


def say_finding(finding: Finding) -> None:
    """Print one finding."""
    if finding.note:
        say(clean(f"  note: {finding.path}: {finding.detail}"))
        return
    say(clean(f"  {finding}"))
    say(clean(f"    cannot be read: {finding.lost}"))
    if finding.remedy:
        say(clean(f"    repair: {finding.remedy}"))


def _row(finding: Finding) -> dict[str, Any]:
    row = asdict(finding)
    del row["note"]
    return row
