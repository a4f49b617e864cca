"""``dreamlake files``: exactly the files that hold a track, for other tools to read."""

from __future__ import annotations

import argparse

from dreamlake.cli.places import add_run, find_run, find_track
from dreamlake.cli.text import complain, say, say_json, size_text, table
from dreamlake.format.layout import HOT_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.view import TrackView


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "files",
        help="list the Parquet files of a track",
        description="List the Parquet files that count, in order, one path a line. The newest points, which are in "
        "none of them yet, are in data.jsonl beside them; --long and --json list that too.",
    )
    add_run(parser)
    parser.add_argument("track", metavar="TRACK", help="the track's name")
    parser.add_argument("-l", "--long", action="store_true", help="with points and sizes, and the newest points' file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the files of one track."""
    track = find_track(find_run(args.name, args.path, args.storage_options), args.track)
    rows = file_rows(track)
    if args.json:
        say_json(rows)
    elif args.long:
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
