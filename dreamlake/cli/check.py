"""``dreamlake check``: reads every file of runs in full, and tells what is damaged."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from dreamlake.cli.places import add_lake, chosen_runs
from dreamlake.cli.text import clean, say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.engine.findings import Finding


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "check",
        help="verify every file of runs",
        description="Read every file of a lake, a run or a track in full, and tell what is damaged: where, which "
        "points it costs, and what `dreamlake repair` would do. It changes nothing and locks nothing. The exit status "
        "is 0 where nothing is damaged, and 1 where something is.",
    )
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name what is to be looked at."""
    parser.add_argument(
        "what",
        nargs="?",
        metavar="WHAT",
        help="the folder or URL of a lake, a workspace or a run, the folder of a track, or the name of a run; "
        "the whole lake by default",
    )
    parser.add_argument("track", nargs="?", metavar="TRACK", help="the name of a track of the run")
    add_lake(parser)


def run(args: argparse.Namespace) -> int:
    """Check runs; 1 when something is damaged."""
    from dreamlake.engine.findings import is_damaged
    from dreamlake.engine.repair import told

    runs, track = chosen_runs(args.what, args.track, args.path, args.storage_options)
    rows = []
    damaged = 0
    for view in runs:
        tracks = None if track is None else [track]
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
        if not args.json:
            say(f"{clean(name)}: {'damaged' if is_damaged(findings) else 'no damage'}")
            for finding in findings:
                say_finding(finding)
    if args.json:
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
