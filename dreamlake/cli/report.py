"""``dreamlake report``: runs compared, as one page that opens without a network."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

import click

from dreamlake.cli.options import WholeNumber, json_option, lake_options
from dreamlake.cli.places import Mistake, chosen_runs, open_lake, place_of, runs_of
from dreamlake.cli.progress import bar
from dreamlake.cli.text import clean, complain, say, say_json, size_text
from dreamlake.errors import DreamlakeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dreamlake.lake import SessionView


@click.command("report", short_help="write runs compared as a page")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", default="report.html", show_default=True, metavar="FILE", help="The page.")
@click.option(
    "--track",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only tracks of this name, in which * stands for anything; can be given again.",
)
@click.option("--points", type=WholeNumber(4), default=4000, show_default=True, help="The most points of a curve.")
@click.option("--title", help="What stands above the page; by default the names of the runs.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@lake_options
@json_option
def command(
    runs: tuple[str, ...],
    output: str,
    patterns: tuple[str, ...],
    points: int,
    title: str | None,
    force: bool,
    path: str,
    storage_options: dict[str, Any] | None,
    as_json: bool,
) -> int:
    """Write a page that compares runs: their parameters, and each field of their tracks as a picture with all of them.

    The page is one file and asks nobody for anything, so it can be sent, and opened offline. Of long tracks it holds
    few points, extremes kept.

    RUN is workspace/session, a session's name, or a folder or URL of a run, a workspace or a lake. In names * stands
    for anything (in quotes, or the shell takes it).

    \b
    dreamlake report hello/first hello/second -o report.html
    dreamlake report 'sweep/*' --track val --path s3://my-team/lake

    The exit status is 1 where a track is damaged; the page names it.
    """
    from dreamlake.pictures.report import write_report

    output = os.path.expanduser(output)
    if output == "-":
        raise Mistake("the page is a file, which a browser opens; name one with -o")
    if os.path.isdir(output):
        raise Mistake(f"{output} is a folder; name a file, such as {os.path.join(output, 'report.html')}")
    if os.path.lexists(output) and not force:
        raise Mistake(f"{output} is there already; --force replaces it")
    found = list({(run._store.describe(run._folder)): run for run in _chosen(runs, path, storage_options)}.values())
    names = [f"{run.workspace}/{run.name}" for run in found]

    def wanted(name: str) -> bool:
        return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)

    if patterns:
        there = {name for run in found for name in run.tracks.list()}
        if not any(map(wanted, there)):
            some = ", ".join(sorted(there)[:5]) + (", …" if len(there) > 5 else "")
            raise Mistake(f"no track is named like {' or '.join(map(repr, patterns))}; there are {some or 'none'}")
    with bar("reading", "tracks") as shown:
        done = 0

        def progress(now: int, of: int) -> None:
            nonlocal done
            if not now:
                shown.more(of)
            shown.advance(now - done)
            done = now

        try:
            told = write_report(
                found,
                output,
                title=title or (", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")),
                points=points,
                wanted=wanted,
                progress=progress,
            )
        except ImportError as error:
            raise OSError(str(error)) from None
    size = os.path.getsize(output)
    if as_json:
        say_json({"file": output, "bytes": size, "runs": names, **_counts(told)})
    else:
        say(clean(f"{output}: {_many(told.runs, 'run')}, {_many(told.curves, 'curve')}, {size_text(size)}"))
        if not told.curves:
            say(clean(f"no track has a field of numbers{_inside(found, wanted)}"))
    for line in told.damage:
        complain(line)
    return 1 if told.damage else 0


def _inside(runs: list[SessionView], wanted: Callable[[str], bool]) -> str:
    """What else the tracks hold; the page draws whole fields only."""
    from dreamlake.analysis.columns import numbers_inside

    for run in runs:
        for name in filter(wanted, run.tracks.list()):
            try:
                inside = numbers_inside(run.track(name).scan().collect_schema())
            except (DreamlakeError, ValueError):
                continue
            if inside:
                return f", which is all that a page draws; for plot() and downsample() of {name!r}{inside[1:]}"
    return ""


def _counts(told: Any) -> dict[str, Any]:
    return {"tracks": told.tracks, "curves": told.curves, "damage": list(told.damage)}


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _chosen(names: tuple[str, ...], path: str, options: dict[str, Any] | None) -> list[SessionView]:
    found: list[SessionView] = []
    for name in names:
        if "*" in name and "://" not in name and not os.path.exists(name):
            matching = [
                run
                for run in runs_of(open_lake(path, options))
                if fnmatchcase(f"{run.workspace}/{run.name}", name) or fnmatchcase(run.name, name)
            ]
            if not matching:
                raise Mistake(f"no run is named like {name!r} in {place_of(path)}; dreamlake ls shows what is there")
            found += matching
        else:
            found += chosen_runs(name, None, path, options)[0]
    return found
