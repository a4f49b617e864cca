"""``dreamlake compact``: merges the many small segments of long tracks into a few wide ones."""

from __future__ import annotations

import argparse

from dreamlake.cli.check import add_target
from dreamlake.cli.places import Mistake, chosen_runs, is_folder
from dreamlake.cli.text import clean, complain, say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "compact",
        help="merge small segments",
        description="Merge neighbouring segments of the tracks of a lake, a run or a track on this machine into wide "
        "ones: 10,000 points become 100,000, and these 1,000,000. Readers and writers may go on meanwhile. The merged "
        "segments stay for a minute, for readers that have found them. A run that goes on does this by itself. The "
        "exit status is 1 where something could not be merged.",
    )
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Merge what can be merged; 1 when something could not be."""
    from dreamlake.engine.compaction import compact_session

    runs, track = chosen_runs(args.what, args.track, args.path, args.storage_options)
    if not all(map(is_folder, runs)):
        raise Mistake("compact works on folders of this machine; of a replica, compact the run and sync it")
    rows: list[dict[str, Any]] = []
    failed = merged = 0
    for view in runs:
        name = f"{view.workspace}/{view.name}"
        tracks = view.tracks.list() if track is None else [track]
        for of, done in compact_session(view._store.describe(view._folder), tracks):
            if isinstance(done, Exception):
                failed += 1
                rows.append({"run": name, "track": of, "error": str(done)})
                complain(f"{name}: {of}: {done}")
                continue
            rows.append({"run": name, "track": of, **done})
            merged += done["merged"]
            if done["merged"] and not args.json:
                became = "1 segment" if done["into"] == 1 else f"{done['into']} segments"
                say(clean(f"{name}: {of}: {done['merged']} segments became {became}"))
    if args.json:
        say_json(rows)
    elif not merged and not failed:
        say("nothing to merge" if runs else "no runs")
    return 1 if failed else 0
