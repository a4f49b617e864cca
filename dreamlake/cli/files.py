"""``dreamlake files``: exactly the files that hold a track, for other tools to read."""

from __future__ import annotations

import click

from dreamlake.cli.completion import complete_tracks
from dreamlake.cli.options import json_option, lake_options, run_argument
from dreamlake.cli.places import find_run, find_track
from dreamlake.cli.text import complain, say, say_json, size_text, table
from dreamlake.format.layout import HOT_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.view import TrackView


@click.command("files", short_help="list the Parquet files of a track")
@run_argument
@click.argument("track", metavar="TRACK", shell_complete=complete_tracks)
@click.option("-l", "--long", is_flag=True, help="With points and sizes, and the newest points' file.")
@lake_options
@json_option
def command(run: str, track: str, long: bool, path: str, storage_options: dict[str, Any] | None, as_json: bool) -> int:
    """List the Parquet files that count, in order, one path a line, for other tools to read. The newest points, which
    are in none of them yet, are in data.jsonl beside them; --long and --json list that too.

    \b
    dreamlake files hello/first train
    """
    rows = file_rows(find_track(find_run(run, path, storage_options), track))
    if as_json:
        say_json(rows)
    elif long:
        header = ("START", "STOP", "SIZE", "FILE")
        cells = [(f"{row['start']:,}", f"{row['stop']:,}", size_text(row["bytes"] or 0), row["path"]) for row in rows]
        say(table(header, cells, right=("START", "STOP", "SIZE")))
    else:
        for row in rows:
            if row["kind"] == "segment":
                say(row["path"])
        if rows and rows[-1]["kind"] == "hot":
            newer = rows[-1]["stop"] - rows[-1]["start"]
            points = "newer point is" if newer == 1 else "newer points are"
            complain(f"{newer:,} {points} in {rows[-1]['path']}")
    return 0


def file_rows(track: TrackView) -> list[dict[str, Any]]:
    """The files of a track in the order of their points, each with the indices [start, stop) that count in it.

    ``bytes`` is None for a file that was replaced while this looked.
    """
    reader = track._reader
    snapshot = track._snapshot()
    sizes = {entry.name: entry.size for entry in reader.store.list(reader.folder)}
    rows: list[dict[str, Any]] = [
        {"kind": "segment", "path": path, "start": name.start, "stop": name.stop, "bytes": sizes.get(name.filename)}
        for name, path in zip(snapshot.live, snapshot.segment_paths(), strict=True)
    ]
    start = snapshot.live[-1].stop if snapshot.live else 0
    if snapshot.total > start:
        path = reader.store.describe(f"{reader.folder}/{HOT_FILE}")
        size = sizes.get(HOT_FILE)
        rows.append({"kind": "hot", "path": path, "start": start, "stop": snapshot.total, "bytes": size})
    return rows
