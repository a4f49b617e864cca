"""Sessions, tracks and lakes as small tables for notebooks, with a line drawn for each field of numbers."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from dreamlake.analysis.columns import named, numeric_fields
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.errors import DreamlakeError
from dreamlake.format.point import encode_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dreamlake.storage.store import Store
    from dreamlake.types import SessionInfo, TrackStats
    from dreamlake.view import TrackView

#: Rows of a table; a notebook that shows a session reads no more tracks than these.
ROWS = 30
#: Lines drawn of a track.
LINES = 3
#: The newest points that a line is drawn of; so many are read of each track.
NEWEST = 100_000
WIDTH, HEIGHT = 120, 24
#: Characters of a value.
LONG = 60


class Holder(Protocol):
    """What is asked of a session here: one to write to, or one of a lake."""

    name: str
    workspace: str

    def track(self, name: str) -> TrackView: ...

    def parameters(self) -> Any: ...

    @property
    def tracks(self) -> Any: ...


def track_html(track: TrackView) -> str:
    """One track: how many points it has, and of each field its type, its newest value and its line."""
    try:
        stats, points = track.stats(), _newest(track)
    except DreamlakeError as error:
        return _page(track.name, str(error), "")
    latest = points[-1] if points else {}
    about = _count(stats)
    lines: dict[str, str] = {}
    try:
        lines = _lines(track, len(stats["fields"]))
    except DreamlakeError as error:
        about += f"; {error}"
    rows = [
        (escape(name), escape(kind), _value(latest.get(name)), lines.get(name, ""))
        for name, kind in list(stats["fields"].items())[:ROWS]
    ]
    return _page(track.name, about, _table(("field", "type", "newest", ""), rows, len(stats["fields"])))


def session_html(session: Holder, store: Store, status: Callable[[], str]) -> str:
    """A session: its parameters, and of each track how many points it has, the newest, and lines.

    What is damaged is said in the place of what it would show; nothing here raises for that.
    """
    names = session.tracks.list()

    def row(name: str) -> tuple[str, ...]:
        track = session.track(name)
        try:
            newest, stats = _newest(track), track.stats()
            try:
                lines = " ".join(_lines(track, LINES).values())
            except DreamlakeError as error:
                lines = escape(str(error))
            shown = " ".join(
                f"{escape(key)}={_value(value)}" for key, value in (newest or [{}])[-1].items() if key != "_ts"
            )
            return escape(name), _count(stats, ""), shown, lines
        except DreamlakeError as error:
            return escape(name), "", escape(str(error)), ""

    rows = side_by_side(row, names[:ROWS], reading_width(store, 0))
    try:
        parameters = session.parameters().get()
        about = ", ".join(f"{name}={_plain(value)}" for name, value in list(parameters.items())[:ROWS])
    except DreamlakeError as error:
        about = str(error)
    table = _table(("track", "points", "newest", ""), rows, len(names))
    try:
        said = status()
    except DreamlakeError as error:
        said = str(error)
    return _page(f"{session.workspace}/{session.name}", f"{said}{'; ' if about else ''}{about}", table)


def sessions_html(title: str, sessions: Sequence[SessionInfo]) -> str:
    """The runs of a lake: their status, when they began, and what they say of themselves."""
    rows = [
        (
            escape(f"{info['workspace']}/{info['name']}"),
            escape(str(info.get("status", ""))),
            escape(str(info.get("createdAt", ""))[:19].replace("T", " ")),
            escape(", ".join(map(str, info.get("tags") or []))),
            escape(_short(str(info.get("description") or ""))),
        )
        for info in sessions[:ROWS]
    ]
    header = ("run", "status", "created", "tags", "description")
    return _page(title, f"{len(sessions):,} runs", _table(header, rows, len(sessions)))


def trouble_html(title: str, error: Exception) -> str:
    """What cannot be shown, and why."""
    return _page(title, str(error), "")


def sparkline(values: Iterable[tuple[float, float | None]], title: str = "") -> str:
    """A line through points of x and y as an SVG picture; a y of None is a gap."""
    points = list(values)
    xs = [x for x, y in points if y is not None]
    ys = [y for _, y in points if y is not None]
    if not xs:
        return ""
    left, width = min(xs), (max(xs) - min(xs)) or 1.0
    low, height = min(ys), (max(ys) - min(ys)) or 1.0
    strokes: list[list[str]] = [[]]
    for x, y in points:
        if y is None:
            strokes.append([])
        else:
            across = (x - left) / width * (WIDTH - 2) + 1
            down = HEIGHT - 2 - (y - low) / height * (HEIGHT - 4)
            strokes[-1].append(f"{across:.1f},{down:.1f}")
    # A stroke of one point gets a second one beside it, or it would not be seen.
    path = "".join(f"M{' L'.join(stroke)}{'h1' if len(stroke) == 1 else ''}" for stroke in strokes if stroke)
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>"
        f'<path d="{path}" fill="none" stroke="#4c78a8" stroke-width="1.2"/></svg>'
    )


def _count(stats: TrackStats, what: str = " points") -> str:
    lost = stats["lostDataPoints"]
    return f"{stats['totalDataPoints']:,}{what}" + (f" ({lost:,} lost)" if lost else "")


def _newest(track: TrackView) -> list[dict[str, Any]]:
    return [point["data"] for point in track.read(-1, 1)["data"]]


def _lines(track: TrackView, most: int) -> dict[str, str]:
    """The first fields of numbers, and a line of each."""
    frame = track.scan(-NEWEST)
    fields = numeric_fields(frame.collect_schema())[: min(most, ROWS)]
    if not fields:
        return {}
    few = track.downsample((2 + 2 * len(fields)) * (WIDTH // 4), fields, start_index=-NEWEST)
    return {field: sparkline(_drawable(few, field), field) for field in fields}


def _drawable(frame: pl.DataFrame, field: str) -> list[tuple[float, float | None]]:
    value = named(field).cast(pl.Float64)
    return frame.select("_index", pl.when(value.is_finite() & (value.abs() < 1e300)).then(value)).rows()


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return _short(value if isinstance(value, str) else encode_text(value))


def _value(value: object) -> str:
    return "" if value is None else escape(_plain(value))


def _short(text: str) -> str:
    return text if len(text) <= LONG else text[: LONG - 1] + "…"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], count: int) -> str:
    head = "".join(f'<th style="text-align:left">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in row) + "</tr>" for row in rows
    )
    more = f"<p>and {count - len(rows):,} more</p>" if count > len(rows) else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _page(title: str, about: str, table: str) -> str:
    return f"<div><b>{escape(title)}</b> <small>{escape(about)}</small>{table}</div>"
