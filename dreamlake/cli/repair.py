"""``dreamlake repair``: saves what can be saved of damaged runs, keeps what is damaged beside, and says all it did."""

from __future__ import annotations

import argparse

from dreamlake.cli.check import add_target, say_finding
from dreamlake.cli.places import Mistake, chosen_runs, is_folder, open_remote
from dreamlake.cli.text import clean, complain, say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.engine.mending import Step
    from dreamlake.engine.repair import Report


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "repair",
        help="repair damaged runs",
        description="Save what can be saved of the damaged files of a lake, a run or a track on this machine. Every "
        "damaged file is kept beside, as <name>.damaged-<time>. What is read afterwards is what was written, or "
        "missing and told so; indices keep. Points that nothing holds any more are given up only with --give-up-lost. "
        "The exit status is 0 where nothing is damaged any more.",
    )
    add_target(parser)
    parser.add_argument(
        "--remote",
        metavar="URL",
        help="the lake's root with the replica: what is damaged here and whole there comes from it",
    )
    parser.add_argument(
        "--give-up-lost",
        action="store_true",
        help="let statements take the place of points and fields that nothing holds any more",
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and tell what would be done")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Repair runs; 1 when something is damaged afterwards."""
    from dreamlake.engine.repair import repair_session

    options = args.storage_options
    runs, track = chosen_runs(args.what, args.track, args.path, None if args.remote else options)
    if not all(map(is_folder, runs)):
        raise Mistake("repair works on folders of this machine; of a replica, repair the run and sync it")
    remote = open_remote(args.remote, options) if args.remote else None
    rows = []
    clean_runs = 0
    for view in runs:
        report = repair_session(
            view._store.describe(),
            view._folder,
            None if track is None else [track],
            remote=remote,
            give_up_lost=args.give_up_lost,
            dry_run=args.dry_run,
        )
        clean_runs += report.is_clean
        name = f"{view.workspace}/{view.name}"
        rows.append(_row(name, report))
        if not args.json:
            say_report(name, report, args.dry_run)
        for place, error in report.failures:
            complain(f"{place}: {error}")
    if args.json:
        say_json(rows)
    return 0 if clean_runs == len(runs) else 1


def say_report(name: str, report: Report, dry_run: bool) -> None:
    """Print what was done to a run."""
    if not report.steps and report.is_clean:
        say(f"{clean(name)}: nothing to repair")
        return
    say(f"{clean(name)}: {'no damage is left' if report.is_clean else 'still damaged'}")
    for step in report.steps:
        state = "done" if step.done else "would be done" if dry_run and not step.refused else "not done"
        say(clean(f"  {state}: {step.path}: {step.does}"))
        if step.loses:
            say(clean(f"    lost for good: {step.loses}"))
        if step.refused:
            say(clean(f"    {step.refused}"))
    if not dry_run:
        for finding in report.findings:
            if not finding.note:
                say_finding(finding)


def _row(name: str, report: Report) -> dict[str, Any]:
    return {
        "run": name,
        "isClean": report.is_clean,
        "steps": [_step(step) for step in report.steps],
        "failures": [f"{place}: {error}" for place, error in report.failures],
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "path": step.path,
        "does": step.does,
        "loses": step.loses,
        "givesUp": step.gives_up,
        "done": step.done,
        "refused": step.refused,
    }
