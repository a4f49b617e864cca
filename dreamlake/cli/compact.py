"""``dreamlake compact``: merges the many small segments of long tracks into a few wide ones."""

from __future__ import annotations

import click

from dreamlake.cli.options import json_option, target
from dreamlake.cli.places import Mistake, chosen_runs, is_folder
from dreamlake.cli.progress import bar
from dreamlake.cli.text import clean, complain, say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command("compact", short_help="merge small segments")
@target
@json_option
def command(
    what: str | None, track: str | None, path: str, storage_options: dict[str, Any] | None, as_json: bool
) -> int:
    """Merge neighbouring segments of the tracks of a lake, a run or a track on this machine into wide ones: 10,000
    points become 100,000, and these 1,000,000. Readers and writers may go on meanwhile. The merged segments stay for a
    minute, for readers that have found them. A run that goes on does this by itself.

    WHAT is the folder of a lake, a workspace, a run or a track, or the name of a run; the whole lake by default. TRACK
    is the name of a track of the run.

    The exit status is 1 where something could not be merged.
    """
    from dreamlake.engine.compaction import compact_session

    runs, only = chosen_runs(what, track, path, storage_options)
    if not all(map(is_folder, runs)):
        raise Mistake("compact works on folders of this machine; of a replica, compact the run and sync it")
    rows: list[dict[str, Any]] = []
    failed = merged = 0
    with bar("compacting", "runs", len(runs)) as shown:
        for view in runs:
            name = f"{view.workspace}/{view.name}"
            tracks = view.tracks.list() if only is None else [only]
            for of, done in compact_session(view._store.describe(view._folder), tracks):
                shown.hide()
                if isinstance(done, Exception):
                    failed += 1
                    rows.append({"run": name, "track": of, "error": str(done)})
                    complain(f"{name}: {of}: {done}")
                    continue
                rows.append({"run": name, "track": of, **done})
                merged += done["merged"]
                if done["merged"] and not as_json:
                    became = "1 segment" if done["into"] == 1 else f"{done['into']} segments"
                    say(clean(f"{name}: {of}: {done['merged']} segments became {became}"))
            shown.advance()
    if as_json:
        say_json(rows)
    elif not merged and not failed:
        say("nothing to merge" if runs else "no runs")
    return 1 if failed else 0
