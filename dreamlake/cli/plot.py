"""``dreamlake plot``: fields of a track, of one run or of several, drawn on the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import click

from dreamlake.cli.completion import complete_runs_and_tracks
from dreamlake.cli.options import WholeNumber, json_option, lake_options
from dreamlake.cli.places import Mistake, find_run, find_track
from dreamlake.cli.text import clean, cut, say, say_json, shows_colours, terminal_columns, terminal_lines, unicode_fits

TYPE_CHECKING = False
if TYPE_CHECKING:
    import polars as pl

    from dreamlake.lake import SessionView
    from dreamlake.view import TrackView

MISSING = 'plots need plotext: pip install "dreamlake[plot]"'
#: The largest picture that is drawn unasked, in characters, and the least.
MOST_COLUMNS, LEAST_COLUMNS, MOST_LINES, LEAST_LINES = 120, 20, 24, 6
COLOURS = ("blue", "red", "green", "magenta", "orange", "cyan", "yellow", "gray")
#: What tells lines apart where there are no colours.
MARKS = "*o+x#@%&"
#: Frames, ticks and corners of plotext, and what stands for them on a terminal without them.
PLAIN = str.maketrans("┌┐└┘─│┤├┬┴┼", "++++-||||++")
#: Of numbers above this plotext, which adds and multiplies them, makes infinities: a part of each is drawn.
MOST_DRAWN, PART = 1e300, 2.0**-32


class Line(NamedTuple):
    """A line of a picture: what it is called, and its points."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@click.command("plot", short_help="draw tracks on the terminal")
@click.argument("what", nargs=-1, required=True, metavar="RUN... [TRACK]", shell_complete=complete_runs_and_tracks)
@click.option(
    "--track",
    metavar="TRACK",
    help="The track, where several runs are drawn in one picture.",
)
@click.option(
    "-F",
    "--field",
    "fields",
    multiple=True,
    metavar="FIELD",
    help="What to draw; may be given again. The first field of numbers by default.",
)
@click.option(
    "--x",
    default="_index",
    show_default=True,
    metavar="FIELD",
    help="What goes from left to right: _index, _ts or a field.",
)
@click.option("--log", is_flag=True, help="A logarithmic vertical axis; values that are not above 0 are left out.")
@click.option(
    "--points", type=WholeNumber(10), metavar="N", help="The most points of a line; as many as can be seen by default."
)
@lake_options
@json_option
def command(
    what: tuple[str, ...],
    track: str | None,
    fields: tuple[str, ...],
    x: str,
    log: bool,
    points: int | None,
    path: str,
    storage_options: dict[str, Any] | None,
    as_json: bool,
) -> int:
    """Draw fields of a track on the terminal: RUN TRACK, or several runs in one picture: RUN RUN... --track TRACK.

    Long tracks are drawn from a part of their points that keeps the extremes. Values that are not finite are left out.
    With --json the points are printed that would be drawn. It needs an extra: pip install "dreamlake[plot]".

    \b
    dreamlake plot hello/first train
    dreamlake plot hello/first train --field loss --x step --log
    dreamlake plot sweep/1 sweep/2 --track eval --field val_loss
    """
    if not as_json:
        _plotext()  # before anything is read
    tracks = _tracks(what, track, path, storage_options)
    columns = max(LEAST_COLUMNS, min(terminal_columns(), MOST_COLUMNS))
    lines = []
    others: set[str] = set()
    for view, found in tracks:
        chosen, more = _fields(found, fields, x)
        others |= set(more)
        frame = found.downsample(max(points or 4 * columns, 2 + 2 * len(chosen)), chosen, x)
        for field in chosen:
            run = f"{view.workspace}/{view.name} " if len(tracks) > 1 else ""
            lines.append(_line(f"{run}{field}", frame, x, field, log))
    if as_json:
        say_json([{"name": line.name, "x": list(line.xs), "y": list(line.ys)} for line in lines])
        return 0
    name = tracks[0][1].name
    run = f" of {tracks[0][0].workspace}/{tracks[0][0].name}" if len(tracks) == 1 else ""
    say(clean(f"{name}{run}" + (f": {lines[0].name}" if len(lines) == 1 else "")))
    height = max(LEAST_LINES, min(terminal_lines() - 3, MOST_LINES))
    say(picture(lines, columns, height, log=log, x=x))
    if others and not fields:
        say(clean(f"--field draws others: {', '.join(sorted(others))}"))
    return 0


def _tracks(
    what: tuple[str, ...], track: str | None, path: str, options: dict[str, Any] | None
) -> list[tuple[SessionView, TrackView]]:
    runs = list(what)
    if track is None and len(runs) == 2:
        runs, track = runs[:1], runs[1]
    if track is None and len(runs) > 2:
        raise Mistake("with several runs the track is named by --track")
    views = [find_run(name, path, options) for name in dict.fromkeys(runs)]
    if track is None:
        names = views[0].tracks.list()
        if len(names) != 1:
            has = f"name one of its tracks: {', '.join(names[:9])}" if names else "it has no track yet"
            raise Mistake(f"which track of {views[0].workspace}/{views[0].name}? {has}")
        (track,) = names
    return [(view, find_track(view, track)) for view in views]


def _fields(track: TrackView, asked: tuple[str, ...], x: str) -> tuple[list[str], list[str]]:
    """The fields that are drawn, and which others could be."""
    from dreamlake.analysis.columns import ELEMENT

    there = track.stats()["fields"]
    numbers = [name for name, kind in there.items() if _is_number(kind)]
    for name in (*asked, x):
        if name not in there and (element := ELEMENT.fullmatch(name)) and _is_list(there.get(element[1], "")):
            continue
        if name not in there and (name not in ("_index", "_ts") or name in asked):
            has = ", ".join(numbers) or "none"
            raise Mistake(f"no field {name!r} in the track {track.name!r}; its fields of numbers: {has}")
        if name in there and name not in numbers:
            hint = f"; {name}[0] is its first element" if _is_list(there[name]) else ""
            raise Mistake(f"the field {name!r} of the track {track.name!r} is {there[name]}, and no number{hint}")
    left = [name for name in numbers if name != x]
    if not asked and not left:
        raise Mistake(f"the track {track.name!r} has no field of numbers to draw{_inside(track)}")
    chosen = list(dict.fromkeys(asked)) or left[:1]
    return chosen, [name for name in left if name not in chosen]


def _inside(track: TrackView) -> str:
    from dreamlake.analysis.columns import numbers_inside

    return numbers_inside(track.scan().collect_schema())


def _is_list(kind: str) -> bool:
    return kind.startswith("list<")


def _is_number(kind: str) -> bool:
    return kind.startswith(("int", "uint", "double", "float", "bool"))


def _line(name: str, frame: pl.DataFrame, x: str, field: str, log: bool) -> Line:
    """The points of a line that can be drawn: their numbers as they are, of which a float may lack digits."""
    pairs = [
        (_number(at), _number(value))
        for at, value in zip(frame[x], frame[field], strict=True)
        if at is not None
        and value is not None
        and math.isfinite(at)
        and math.isfinite(value)
        and (value > 0 or not log)
    ]
    return Line(name, [at for at, _ in pairs], [value for _, value in pairs])


def _number(value: float) -> float:
    return int(value) if isinstance(value, bool) else value


# ------------------------------------------------------------------------------------------------ drawing


def _plotext() -> Any:
    try:
        import plotext
    except ImportError:
        raise OSError(MISSING) from None
    return plotext


def picture(lines: Sequence[Line], width: int, height: int, *, log: bool = False, x: str = "_index") -> str:
    """The lines of a picture `width` characters wide and `height` high, frame and labels included.

    Raises
    ------
    OSError
        plotext is not installed.
    """
    plotext = _plotext()
    lines = [Line(line.name, list(map(float, line.xs)), list(map(float, line.ys))) for line in lines if line.xs]
    if not lines:
        return "(nothing to plot)"
    coloured = shows_colours(sys.stdout)
    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.plotsize(width, height)
    plotext.theme("clear")
    across = _scale(x for line in lines for x in line.xs)
    upward = _scale(y for line in lines for y in line.ys)
    for place, line in enumerate(lines):
        plain = "braille" if unicode_fits() and (coloured or len(lines) == 1) else MARKS[place % len(MARKS)]
        plotext.plot(
            [at * across for at in line.xs],
            [_scaled(y, upward, log) for y in line.ys],
            marker=plain,
            color=COLOURS[place % len(COLOURS)] if coloured else None,
            label=cut(clean(line.name), width // 2) if len(lines) > 1 else None,
        )
    if log:
        plotext.yscale("log")
    _label_axes(plotext, lines, height, log, x, across, upward)
    drawn: str = plotext.build()
    plotext.clear_figure()
    rows = [row.rstrip() for row in (drawn if coloured else plotext.uncolorize(drawn)).splitlines()]
    text = "\n".join(row for row in rows if row)
    return text if unicode_fits() else text.translate(PLAIN)


def _scale(numbers: Iterable[float]) -> float:
    return PART if max(map(abs, numbers)) > MOST_DRAWN else 1.0


def _scaled(value: float, scale: float, log: bool) -> float:
    return max(value * scale, sys.float_info.min) if log and scale < 1 else value * scale


def _label_axes(
    plotext: Any, lines: Sequence[Line], height: int, log: bool, x: str, across: float, upward: float
) -> None:
    """Put ticks with few digits at both axes, whose numbers are drawn as the parts `across` and `upward` of them."""
    ys = [y for line in lines for y in line.ys]
    lowest, highest = min(ys), max(ys)
    ends = (math.log10(lowest), math.log10(highest)) if log else (lowest, highest)
    ticks = _ticks(*ends, max(2, min(7, height // 3)))
    # Rounded up, the highest power may be beyond all doubles.
    values = [10**tick if tick < ends[1] else highest for tick in ticks] if log else ticks
    plotext.yticks([_scaled(value, upward, log) for value in values], [f"{value:.4g}" for value in values])
    xs = [at for line in lines for at in line.xs]
    first, last = min(xs), max(xs)
    marks = _ticks(first, last, 5)
    plotext.xticks([mark * across for mark in marks], [_mark(mark, last - first, x) for mark in marks])
    plotext.xlabel(clean(x))


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Numbers from the lowest to the highest, equally far apart; one where these are the same."""
    if not high > low:
        return [low]
    last = count - 1
    if math.isinf((high - low) * last):
        return [low * (1 - step / last) + high * (step / last) for step in range(count)]
    return [low + (high - low) * step / last for step in range(count)]


def _mark(value: float, span: float, x: str) -> str:
    if x != "_ts" or value < 1e8:
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.6g}"
    try:
        return datetime.fromtimestamp(value).strftime("%H:%M:%S" if span < 86_400 else "%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"{value:.6g}"
