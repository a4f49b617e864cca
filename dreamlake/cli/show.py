"""``dreamlake show``: one run with its parameters, its tracks and the end of its log."""

from __future__ import annotations

import click

from dreamlake.cli.options import json_option, lake_options, run_argument
from dreamlake.cli.places import find_run
from dreamlake.cli.text import clean, complain, say, say_json, size_text, table, time_text, value_text
from dreamlake.errors import CorruptTrackError, PointsNotHereError, TrackNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dreamlake.lake import SessionView

#: Lines of the log that are shown.
LOG_LINES = 5


@click.command("show", short_help="show one run")
@run_argument
@lake_options
@json_option
def command(run: str, path: str, storage_options: dict[str, Any] | None, as_json: bool) -> int:
    """Show a run's parameters, its tracks, and the end of its log.

    RUN is workspace/session, a session's name, or a session's folder or URL. Where part of the run is damaged the rest
    is shown all the same, and the exit status is 1. It tells which of a track's points a repair gave up, and which only
    the replica holds.

    \b
    dreamlake show hello/first
    dreamlake show s3://my-team/lake/hello/first
    """
    view = find_run(run, path, storage_options)
    damage: list[str] = []
    about = {
        "session": dict(view.info),
        "parameters": _whole(damage, lambda: view.parameters().get(), {}),
        "tracks": track_rows(view, damage),
        "logs": _whole(damage, lambda: view.logs().tail(LOG_LINES).to_dicts(), []),
    }
    if as_json:
        say_json({**about, "damage": damage})
    else:
        say_run(about)
    for line in damage:
        complain(line)
    return 1 if damage else 0


def track_rows(view: SessionView, damage: list[str] | None = None) -> list[dict[str, Any]]:
    """What `TrackView.stats` says of each track, with its ``latest`` point.

    ``awayDataPoints`` of them are only on the replica, one of the lakes ``replicas``, where these are known.
    Of a track that cannot be read there is only the name; what is wrong with it is added to `damage` (raised without).
    """
    from dreamlake.engine.process import reading_width, side_by_side

    def look(name: str) -> tuple[dict[str, Any] | None, Exception | None]:
        track = view.track(name)
        try:
            snapshot = track._snapshot(described=True)
            newest = snapshot.points(max(0, snapshot.total - 1), snapshot.total)
            lacking = snapshot.lacking
            row = {
                **track._stats_of(snapshot),
                "awayDataPoints": sum(name.stop - name.start for name in snapshot.away),
                "replicas": list(lacking.replicas) if lacking is not None else [],
                "latest": newest[0][1] if newest else None,
            }
            return row, None
        except TrackNotFoundError:
            return None, None  # removed since it was listed
        except (ValueError, PointsNotHereError) as error:  # damage, or the track of another name
            return {"name": name, "state": "(not here)" if isinstance(error, OSError) else "(damaged)"}, error

    rows: list[dict[str, Any]] = []
    for row, error in side_by_side(look, view.tracks.list(), reading_width(view._store, 0)):
        if row is not None:
            rows.append(row)
        if error is not None:
            if damage is None:
                raise error
            damage.append(str(error))
    return rows


def track_table(rows: list[dict[str, Any]]) -> str:
    """`track_rows` for people."""
    header = ("TRACK", "POINTS", "SEGMENTS", "SIZE", "LATEST POINT")
    shown = table(header, [_cells(row) for row in rows], right=("POINTS", "SEGMENTS", "SIZE"))
    return "\n".join([shown, *(clean(note) for row in rows for note in _notes(row))])


def say_run(about: dict[str, Any]) -> None:
    """Print what is known of a run."""
    info = about["session"]
    say(clean(f"{info['workspace']}/{info['name']}  {info.get('status', '')}"))
    if info.get("description"):
        say(clean(str(info["description"])))
    for label, key in (("created", "createdAt"), ("updated", "updatedAt")):
        say(f"{label}  {clean(time_text(info.get(key)))}")
    if info.get("tags"):
        say(f"tags     {clean(', '.join(map(str, info['tags'])))}")
    if about["parameters"]:
        say("\n" + table(("PARAMETER", "VALUE"), [(key, value_text(at)) for key, at in about["parameters"].items()]))
    if about["tracks"]:
        say("\n" + track_table(about["tracks"]))
    if about["logs"]:
        say()
    for record in about["logs"]:
        say(clean(f"{time_text(record['timestamp'])}  {record['level'] or '':5}  {record['message'] or ''}"))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if "totalDataPoints" not in row:
        return row["name"], "", "", "", row["state"]
    latest = row["latest"] or {}
    newest = " ".join(f"{key}={value_text(value)}" for key, value in latest.items() if key != "_ts")
    return row["name"], f"{row['totalDataPoints']:,}", str(row["totalChunks"]), size_text(row["bytes"]), newest


def _notes(row: dict[str, Any]) -> list[str]:
    """What the count of a track's points does not say."""
    notes = []
    if lost := row.get("lostDataPoints"):
        notes.append(f"{row['name']}: {lost:,} of these points are lost, a repair gave them up")
    if away := row.get("awayDataPoints"):
        there = f": {', '.join(row['replicas'])}" if row["replicas"] else ""
        notes.append(f"{row['name']}: {away:,} older points only on the replica{there}")
    return notes


def _whole(damage: list[str], read: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return read()
    except CorruptTrackError as error:
        damage.append(str(error))
        return otherwise
