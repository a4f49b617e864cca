"""The page of `dreamlake report`: runs compared, in one file that needs no network and no server."""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import polars as pl

from dreamlake.analysis.columns import named, numeric_fields
from dreamlake.analysis.thin import WINDOW, thin
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.engine.shape import INDEX, TS
from dreamlake.errors import DreamlakeError, PointsNotHereError, TrackNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dreamlake.lake import SessionView
    from dreamlake.view import TrackView

#: Points of a curve. At most 1,600 are drawn at a time (report.js), so that there is more to see when zooming.
POINTS = 4000
#: Stretches whose means stand for a longer curve when it is smoothed: extremes would not average to anything.
MEANS = 500
STEP = "step"


@dataclass(frozen=True)
class Report:
    """What was written: how many runs, tracks and curves, and what could not be read."""

    runs: int
    tracks: int
    curves: int
    damage: tuple[str, ...]


def write_report(
    runs: Sequence[SessionView],
    path: str | os.PathLike[str],
    *,
    title: str = "dreamlake report",
    points: int = POINTS,
    wanted: Callable[[str], bool] = lambda name: True,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Report:
    """Write the page. It replaces a file at `path` in one step, once it is whole.

    Parameters
    ----------
    runs
        The runs that are compared, in this order.
    points
        The most points of a curve, extremes kept; see `TrackView.downsample`.
    wanted
        Which tracks, by their names.
    progress
        Told how many tracks of how many are done.

    Raises
    ------
    ImportError
        Plotly is not installed.
    OSError
        The file cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError('a report needs Plotly: pip install "dreamlake[report]"') from error
    if points < 4:
        raise ValueError(f"points is 4 or more, since each stretch of a curve keeps as many; got {points}")
    store = runs[0]._store if runs else None
    names = side_by_side(lambda run: [name for name in run.tracks.list() if wanted(name)], runs, reading_width(store))
    holders: dict[str, list[int]] = {}
    for number, tracks in enumerate(names):
        for name in tracks:
            holders.setdefault(name, []).append(number)
    damage: list[str] = []
    listed: list[dict[str, Any]] = []
    blobs: list[str] = []
    for done, name in enumerate(sorted(holders)):
        progress(done, len(holders))
        for field, curves in _fields(runs, name, holders[name], points, damage).items():
            listed.append({"track": name, "field": field, "runs": [curve["run"] for curve in curves]})
            blobs.append(_packed(curves))
    progress(len(holders), len(holders))
    about = {
        "title": title,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": side_by_side(lambda run: _about(run, damage), runs, reading_width(store)),
        "panels": listed,
        "damage": damage,
    }
    _write(os.fspath(path), _page(title, about, blobs, get_plotlyjs()))
    return Report(len(runs), len(holders), sum(len(panel["runs"]) for panel in listed), tuple(damage))


def _fields(
    runs: Sequence[SessionView], track: str, holders: Sequence[int], points: int, damage: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """The curves of each field of a track, of all runs that hold it; what is damaged is added to `damage`."""

    def look(number: int) -> list[dict[str, Any]] | ValueError | PointsNotHereError:
        try:
            return _curves(runs[number].track(track), number, points)
        except TrackNotFoundError:
            return []  # removed since it was listed
        except (ValueError, PointsNotHereError) as error:  # damage, or the track of another name
            return error

    fields: dict[str, list[dict[str, Any]]] = {}
    for found in side_by_side(look, holders, reading_width(runs[0]._store)):
        if isinstance(found, Exception):
            damage.append(str(found))
            continue
        for curve in found:
            fields.setdefault(curve.pop("field"), []).append(curve)
    return fields


def _about(run: SessionView, damage: list[str]) -> dict[str, Any]:
    """What a run says of itself; what is damaged of that is left out, and added to `damage`."""
    info: Mapping[str, Any] = {"status": "damaged"}
    parameters: Mapping[str, Any] = {}
    try:
        info = run.info
    except DreamlakeError as error:
        damage.append(str(error))
    try:
        parameters = run.parameters().get()
    except DreamlakeError as error:
        damage.append(str(error))
    return {
        "name": f"{run.workspace}/{run.name}",
        "status": info.get("status"),
        "description": info.get("description"),
        "parameters": {name: _scalar(value) for name, value in parameters.items()},
    }


def _scalar(value: Any) -> Any:
    """A parameter as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _curves(track: TrackView, run: int, points: int) -> list[dict[str, Any]]:
    """The curves of one track of one run, a dict each of plain lists."""
    frame = track.scan()
    schema = frame.collect_schema()
    fields = numeric_fields(schema)
    stop = len(track)
    if not fields or not stop:
        return []
    frame = frame.select(INDEX, TS, *map(named, fields))
    if stop <= WINDOW:
        frame = frame.collect().lazy()  # once for all fields
    drawn = [name for name in fields if name != STEP] or fields
    start, count = frame.select(pl.col(TS).min(), pl.len()).collect().row(0)
    found = []
    for field in drawn:
        shown = frame.select(*map(named, dict.fromkeys([INDEX, TS, *({STEP} & set(fields)), field])))
        few = _with_step(thin(shown, 0, stop, points, [field], INDEX, f"the track {track.name!r}"), shown, fields)
        curve = {"run": run, "field": field, "count": count, "start": start, **_lists(few, field, start)}
        if schema[field].is_float():
            curve["nan"] = shown.select(named(field).is_nan().sum()).collect().item()
        if count > points:
            curve["means"] = _lists(_means(shown, field, stop), field, start)
        found.append(curve)
    return found


def _with_step(few: pl.DataFrame, frame: pl.LazyFrame, fields: Sequence[str]) -> pl.DataFrame:
    if STEP not in fields or STEP in few.columns:
        return few
    steps = frame.select(INDEX, STEP).filter(pl.col(INDEX).is_in(few[INDEX].implode())).collect()
    return few.join(steps, on=INDEX, how="left", maintain_order="left")


def _means(frame: pl.LazyFrame, field: str, stop: int) -> pl.DataFrame:
    """The means of all columns over equal stretches of the index; what is not finite counts in none."""
    stretch = (pl.col(INDEX) * MEANS // stop).alias("_stretch")
    finite = [_finite(name, pl.Float64) for name in frame.collect_schema() if name in (field, STEP)]
    means = frame.with_columns(finite).group_by(stretch).agg(pl.all().mean())
    return means.sort("_stretch").drop("_stretch").collect()


def _lists(frame: pl.DataFrame, field: str, start: float) -> dict[str, list[Any]]:
    columns = frame.select(
        pl.col(INDEX).alias("index"),
        (pl.col(TS) - start).round(6).alias("elapsed"),
        _finite(field, pl.Float64).alias("value"),
        *([_finite(STEP, frame.schema[STEP])] if STEP in frame.columns else []),
    )
    return columns.to_dict(as_series=False)


def _finite(name: str, kind: pl.DataType | type[pl.Float64]) -> pl.Expr:
    """The values of a column that JSON has a form for, and null in the place of the others."""
    value = named(name).cast(kind)
    return pl.when(value.is_finite()).then(value).alias(name)


# -- the file ----------------------------------------------------------------------------------------------------------


def _packed(data: object) -> str:
    """JSON, compressed, as text."""
    packed = gzip.compress(json.dumps(data, separators=(",", ":"), allow_nan=False).encode(), 6, mtime=0)
    return base64.b64encode(packed).decode()


def _page(title: str, about: object, blobs: Sequence[str], plotly: str) -> str:
    def part(name: str) -> str:
        return files("dreamlake.pictures").joinpath(name).read_text(encoding="utf-8")

    # "<" has no place in the text of a script element that strangers named a track in.
    inside = json.dumps(about, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    data = "\n".join(f'<script type="text/plain" id="panel-{at}">{blob}</script>' for at, blob in enumerate(blobs))
    pieces = {
        "TITLE": escape(title),
        "STYLE": part("report.css"),
        "ABOUT": inside,
        "DATA": data,
        "PLOTLY": plotly,
        "SCRIPT": part("report.js"),
    }
    page = part("report.html")
    head, *rest = page.split("@@")
    # Piece by piece, so that what is put in is not looked through for further places.
    return head + "".join(pieces[text] if at % 2 == 0 else text for at, text in enumerate(rest))


def _write(path: str, text: str) -> None:
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
