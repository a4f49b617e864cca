"""``dreamlake tail``: the newest points of a run, or the end of its log, and with ``-f`` what comes after them."""

from __future__ import annotations

import heapq
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import click

from dreamlake.cli.completion import complete_tracks
from dreamlake.cli.options import Seconds, WholeNumber, json_option, lake_options, run_argument
from dreamlake.cli.places import Mistake, find_run, find_track
from dreamlake.cli.text import clean, complain, painted, say, time_text, unicode_fits, value_text
from dreamlake.errors import SessionNotFoundError, TrackNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dreamlake.engine.snapshot import Snapshot
    from dreamlake.lake import SessionView
    from dreamlake.view import TrackView

NEWEST = 10
#: Points of one track that are held at a time.
AT_ONCE = 10_000
#: Seconds between two looks, at a folder and where each look costs requests.
INTERVAL, INTERVAL_AWAY = 1.0, 5.0

LEVEL_STYLES = {"debug": "dim", "warn": "yellow", "error": "red", "fatal": "bold red"}


@click.command("tail", short_help="show the newest points or log lines, and follow a live run")
@run_argument
@click.argument("tracks", nargs=-1, metavar="[TRACK]...", shell_complete=complete_tracks)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the run has ended or Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=WholeNumber(0),
    default=NEWEST,
    show_default=True,
    metavar="N",
    help="So many of the newest points of each track, or lines of the log.",
)
@click.option("--log", is_flag=True, help="The run's log instead of its points.")
@click.option(
    "--interval",
    type=Seconds(),
    metavar="SECONDS",
    help=f"Between two looks with -f.  [default: {INTERVAL:g}, and {INTERVAL_AWAY:g} for a URL]",
)
@click.option(
    "--patience",
    type=Seconds(),
    metavar="SECONDS",
    help="With -f: give up, with status 1, on a run that says it is running and has written nothing for so long. A run "
    "that was killed cannot be told from one that is busy; without this option both are waited for.",
)
@lake_options
@json_option
def command(
    run: str,
    tracks: tuple[str, ...],
    follow: bool,
    lines: int,
    log: bool,
    interval: float | None,
    patience: float | None,
    path: str,
    storage_options: dict[str, Any] | None,
    as_json: bool,
) -> int:
    """Show the newest points of the tracks of a run (all of them by default), or the end of its log, and with -f what
    comes after them.

    Each point is shown once, and those of a track in their order, whatever the writer does meanwhile. A field that is
    added later to a point which was shown already is not shown. With -f, tracks that are new are shown from their first
    point on; it ends by itself when the run has ended and everything was shown, and with status 130 by Ctrl-C.

    With --json each point is a line {"track", "index", "data"}, with exact values.

    \b
    dreamlake tail hello/first train -n 3
    dreamlake tail hello/first --log -f
    dreamlake tail s3://my-team/lake/hello/first -f --json
    """
    view = find_run(run, path, storage_options)
    if log and tracks:
        raise Mistake("--log shows the log of the run; name no track with it")
    for name in tracks:
        if follow and view.info.get("status") == "running" and name not in view.tracks:
            # Just begun, or what it wrote is not there yet; a name that is misspelt is seen by this.
            complain(f"{view.workspace}/{view.name} has no track {name!r} yet; waiting for it")
        else:
            find_track(view, name)
    source: _Log | _Points = _Log(view, lines, as_json) if log else _Points(view, tracks, lines, as_json)
    try:
        _print(source.more())
        if not follow:
            return 0
        away = not getattr(view._store, "is_local", True)
        return _follow(view, source, interval or (INTERVAL_AWAY if away else INTERVAL), patience)
    except _ReaderGone:
        raise BrokenPipeError from None


def _follow(view: SessionView, source: _Log | _Points, interval: float, patience: float | None) -> int:
    name = f"{view.workspace}/{view.name}"
    heard = time.monotonic()
    troubled = told = False
    while True:
        try:
            # What a run wrote is there before it says that it has ended.
            status = view.info.get("status")
            printed = _print(source.more())
        except SessionNotFoundError:
            raise OSError(f"{name} was removed while it was followed") from None
        except (ConnectionError, TimeoutError) as error:
            if not troubled:
                complain(f"{error}; still trying")
            troubled, printed, status = True, 0, None
        else:
            troubled = False
        if printed:
            heard, told = time.monotonic(), False
        elif status not in ("running", "lost", None):
            return 0
        elif status == "lost" and not told:
            told = True
            complain(f"{name} says it is running and has written nothing for a minute: killed, or busy; still waiting")
        if patience is not None and time.monotonic() - heard >= patience:
            raise OSError(f"{name} has written nothing for {patience:g} s and has not ended; gave up waiting")
        time.sleep(interval)


class _ReaderGone(Exception):
    """Who reads the output is gone; no trouble with the network, which may be a broken pipe as well."""


def _print(lines: Iterator[str]) -> int:
    count = 0
    for line in lines:
        _say(line)
        count += 1
    _say(None)
    return count


def _say(line: str | None) -> None:
    """Print a line; with None what is not printed yet."""
    try:
        if line is None:
            sys.stdout.flush()
        else:
            say(line)
    except BrokenPipeError:
        raise _ReaderGone from None


class _Points:
    """The points of tracks that were not given out yet."""

    def __init__(self, view: SessionView, tracks: tuple[str, ...], newest: int, as_json: bool) -> None:
        self._view = view
        self._named = tracks
        self._newest = newest
        self._as_json = as_json
        self._tracks: dict[str, TrackView] = {}
        #: The first index of each track that was not given out; of a track that is not here, none was.
        self._next: dict[str, int] = {}
        self._began = False

    def more(self) -> Iterator[str]:
        """The new points, those of several tracks by their time, and those of one by their index."""
        found = []
        names = self._named or self._view.tracks.list()
        for name in names:
            track = self._tracks.setdefault(name, self._view.track(name))
            try:
                snapshot = track._snapshot(wanted=(self._next.get(name, 0) if self._began else -self._newest, None))
            except TrackNotFoundError:
                continue  # removed since it was listed
            if not self._began:
                self._next[name] = max(0, snapshot.total - self._newest)
            elif snapshot.total < self._next.get(name, 0):  # its end was cut off, and its indices are free again
                complain(f"{name} has lost points that were shown, from index {snapshot.total} on")
                self._next[name] = snapshot.total
            found.append(self._lines(name, snapshot, len(names) > 1))
        self._began = True
        for _, name, index, line in heapq.merge(*found, key=lambda new: new[0]):
            # Only now: what was not given out, because the network went away, is asked for again.
            self._next[name] = index + 1
            yield line

    def _lines(self, name: str, snapshot: Snapshot, several: bool) -> Iterator[tuple[float, str, int, str]]:
        show = _json_point if self._as_json else _text_point
        for start in range(self._next.get(name, 0), snapshot.total, AT_ONCE):
            for index, point in snapshot.points(start, min(start + AT_ONCE, snapshot.total)):
                line = show(name if several or self._as_json else "", index, point)
                yield point["_ts"], name, index, line


class _Log:
    """The log records that were not given out yet."""

    def __init__(self, view: SessionView, newest: int, as_json: bool) -> None:
        self._view = view
        self._newest: int | None = newest
        self._show: Callable[[dict[str, Any]], str] = _json_line if as_json else _text_record
        self._seen: set[str] = set()

    def more(self) -> Iterator[str]:
        """The new records, those of each machine in their order."""
        from dreamlake.engine.logread import log_records

        records = log_records(self._view._store, self._view._folder)
        # Where several machines write, one's new record may stand between another's old ones.
        new = [(key, record) for record in records if (key := repr(record)) not in self._seen]
        if self._newest is not None:
            first = max(0, len(new) - self._newest)
            self._seen.update(key for key, _ in new[:first])
            new, self._newest = new[first:], None
        for key, record in new:
            self._seen.add(key)
            yield self._show(record)


def _text_point(track: str, index: int, point: dict[str, Any]) -> str:
    fields = " ".join(f"{key}={value_text(value)}" for key, value in point.items() if key != "_ts")
    named = f"{painted(clean(track), 'cyan')}  " if track else ""
    return f"{named}{index:,}  {_moment(point['_ts'])}  {clean(fields)}"


def _json_point(track: str, index: int, point: dict[str, Any]) -> str:
    return _json_line({"track": track, "index": index, "data": point})


def _text_record(record: dict[str, Any]) -> str:
    level = str(record.get("level") or "")
    said = f"{time_text(record.get('timestamp'))}  {painted(f'{clean(level):5}', LEVEL_STYLES.get(level, ''))}"
    more, trace = record.get("metadata"), None
    if isinstance(more, dict) and isinstance(more.get("traceback"), str):  # of a run that failed
        trace = more["traceback"]
        more = None
    line = f"{said}  {clean(str(record.get('message') or ''))}" + (f"  {value_text(more)}" if more else "")
    return "\n    ".join([line, *map(clean, (trace or "").splitlines())])


def _json_line(value: dict[str, Any]) -> str:
    from dreamlake.format.point import to_json

    return json.dumps(to_json(value), ensure_ascii=not unicode_fits(), allow_nan=False)


def _moment(ts: float) -> str:
    """A ``_ts`` on the clock of this machine; the number itself where it is none of the last decades."""
    try:
        return datetime.fromtimestamp(ts).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if ts > 1e8 else f"{ts:g}"
    except (ValueError, OverflowError, OSError):
        return f"{ts:g}"
