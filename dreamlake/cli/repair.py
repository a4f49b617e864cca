"""``dreamlake repair``: saves what can be saved of damaged runs, keeps what is damaged beside, and says all it did."""

from __future__ import annotations

import click

from dreamlake.cli.check import say_finding
from dreamlake.cli.options import json_option, target
from dreamlake.cli.places import Mistake, chosen_runs, is_folder, open_remote
from dreamlake.cli.progress import bar
from dreamlake.cli.text import clean, complain, say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.engine.mending import Step
    from dreamlake.engine.repair import Report


@click.command("repair", short_help="repair damaged runs")
@target
@click.option(
    "--remote",
    metavar="URL",
    help="The lake's root with the replica: what is damaged here and whole there comes from it.",
)
@click.option(
    "--give-up-lost",
    is_flag=True,
    help="Let statements take the place of points and fields that nothing holds any more.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, and tell what would be done.")
@json_option
def command(
    what: str | None,
    track: str | None,
    path: str,
    storage_options: dict[str, Any] | None,
    remote: str | None,
    give_up_lost: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Save what can be saved of the damaged files of a lake, a run or a track on this machine. Every damaged file is
    kept beside, as <name>.damaged-<time>. What is read afterwards is what was written, or missing and told so; indices
    keep. Points that nothing holds any more are given up only with --give-up-lost.

    WHAT is the folder of a lake, a workspace, a run or a track, or the name of a run; the whole lake by default. TRACK
    is the name of a track of the run.

    The exit status is 0 where nothing is damaged any more.

    \b
    dreamlake repair hello/first --dry-run
    dreamlake repair hello/first --remote s3://my-team/lake
    """
    from dreamlake.engine.repair import repair_session

    runs, only = chosen_runs(what, track, path, None if remote else storage_options)
    if not all(map(is_folder, runs)):
        raise Mistake("repair works on folders of this machine; of a replica, repair the run and sync it")
    store = open_remote(remote, storage_options) if remote else None
    rows = []
    clean_runs = 0
    with bar("repairing", "runs", len(runs)) as shown:
        for view in runs:
            report = repair_session(
                view._store.describe(),
                view._folder,
                None if only is None else [only],
                remote=store,
                give_up_lost=give_up_lost,
                dry_run=dry_run,
            )
            shown.hide()
            clean_runs += report.is_clean
            name = f"{view.workspace}/{view.name}"
            rows.append(_row(name, report))
            if not as_json:
                say_report(name, report, dry_run)
            for place, error in report.failures:
                complain(f"{place}: {error}")
            shown.advance()
    if as_json:
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
