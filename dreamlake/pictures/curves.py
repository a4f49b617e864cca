"""What a picture shows of tracks: of each field a curve with few points, extremes kept, and the smoothed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import polars as pl

from dreamlake.analysis.columns import column, named, numbers_inside, numeric_fields
from dreamlake.analysis.thin import thin
from dreamlake.engine.shape import INDEX, TS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Points of a curve, unless others are asked for: more than a screen has columns of pixels.
POINTS = 2000
#: The last date that browsers know, in seconds since the epoch; the first is as far before it.
LAST_DATE = 8.64e12
#: The x of seconds since the track's first point: what runs of different days have in common.
ELAPSED = "_elapsed"
SMOOTHED = "_smoothed"

Kind = Literal["number", "time"]


class Readable(Protocol):
    """What is asked of a track here."""

    @property
    def name(self) -> str: ...

    def scan(self, *, errors: Literal["raise", "skip"] = ...) -> pl.LazyFrame: ...

    def stats(self) -> Any: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Curve:
    """One line of a picture.

    Parameters
    ----------
    label
        What the legend calls it.
    field
        Which picture it belongs in.
    points
        The columns ``x``, a number or a time, ``value``, and ``smoothed`` if that was asked for; in the order of x.
    """

    label: str
    field: str
    points: pl.DataFrame


def curves(
    tracks: Sequence[tuple[str, Readable]],
    y: str | Sequence[str] | None = None,
    x: str | None = None,
    points: int | None = POINTS,
    smooth: float | None = None,
    errors: Literal["raise", "skip"] = "raise",
) -> tuple[list[Curve], str, Kind]:
    """The curves of labelled tracks, by field and then by track, and what they are drawn over.

    Parameters
    ----------
    y
        The fields; None for all that are numeric in any of the tracks. A track without a field, or in which it holds
        no numbers, has no curve in it.
    x
        ``_index``, ``_ts``, ``_elapsed``, or a field; None for ``step`` where all tracks have it, or else ``_index``.
    points
        The most points of a curve; None for all.
    smooth
        The weight of what came before in an exponential moving average, above 0 and below 1.

    Returns
    -------
    curves, x, kind
        ``kind`` is "time" where x is a point in time.

    Raises
    ------
    ValueError
        No field is numeric, or one is not there; times that no axis of dates reaches.
    TypeError
        A field that is named holds numbers in none of the tracks.
    """
    _check(points, smooth)
    frames = [(label, track, track.scan(errors=errors)) for label, track in tracks]
    schemas = [frame.collect_schema() for _, _, frame in frames]
    if x is None:
        x = "step" if all("step" in numeric_fields(schema) for schema in schemas) else INDEX
    fields = [y] if isinstance(y, str) else y
    if fields is None:
        fields = list(dict.fromkeys(name for schema in schemas for name in numeric_fields(schema) if name != x))
        if not fields:
            named = _named([track.name for _, track, _ in frames])
            raise ValueError(
                f"there is nothing to draw: no field of {named} holds numbers in all its points; "
                f"y= names the fields{numbers_inside(*schemas)}"
            )
    found: list[Curve] = []
    kinds: set[Kind] = set()
    for field in dict.fromkeys(fields):
        holders = [each for each, schema in zip(frames, schemas, strict=True) if _has(schema, field)]
        # Another track may hold text under the name; where all do, the first says so.
        drawn = [each for each in holders if _is_drawn(each[2].collect_schema(), field)] or holders[:1]
        for label, track, frame in drawn:
            curve, kind = _curve(label, track, frame, field, x, points, smooth)
            kinds.add(kind)
            found.append(curve)
        if not holders:
            merged = pl.Schema({name: kind for schema in schemas for name, kind in schema.items()})
            column(merged, field, _named([track.name for _, track, _ in frames]))
    return found, x, "time" if kinds == {"time"} else "number"


def _named(names: list[str]) -> str:
    different = list(dict.fromkeys(names))
    return f"the track {different[0]!r}" if len(different) == 1 else f"the {len(different)} tracks"


def _has(schema: pl.Schema, field: str) -> bool:
    try:
        column(schema, field, "")
    except ValueError:
        return False
    return True


def _is_drawn(schema: pl.Schema, field: str) -> bool:
    kind = pl.LazyFrame(schema=schema).select(column(schema, field, "")).collect_schema()[field]
    return kind.is_numeric() or kind == pl.Boolean


def _check(points: int | None, smooth: float | None) -> None:
    if points is not None and (isinstance(points, bool) or not isinstance(points, int) or points < 6):
        raise ValueError(f"points is a whole number from 6 on, or None for all points; got {points!r}")
    if smooth is not None and not (isinstance(smooth, (int, float)) and 0 < smooth < 1):
        raise ValueError(f"smooth is a number above 0 and below 1, the weight of what came before; got {smooth!r}")


def _curve(
    label: str, track: Readable, frame: pl.LazyFrame, field: str, x: str, points: int | None, smooth: float | None
) -> tuple[Curve, Kind]:
    of = f"the track {track.name!r}"
    if x == ELAPSED:
        frame = frame.with_columns((pl.col(TS) - (track.stats()["tsMin"] or 0.0)).alias(ELAPSED))
    schema = frame.collect_schema()
    values = [field]
    if smooth is not None:
        # Of all points, not of those that are drawn: an average of extremes would be none.
        frame = frame.select(column(schema, name, of) for name in dict.fromkeys([INDEX, TS, x, field]))
        average = named(field).cast(pl.Float64).fill_nan(None).ewm_mean(alpha=1 - smooth, ignore_nulls=True)
        frame = frame.with_columns(average.alias(SMOOTHED)).collect().lazy()
        values.append(SMOOTHED)
    stop = len(track)
    few = thin(frame, 0, stop, max(6, stop) if points is None else points, values, x, of)
    shown = [named(x).alias("x"), named(field).alias("value")]
    if smooth is not None:
        shown.append(pl.col(SMOOTHED).alias("smoothed"))
    few = few.select(shown)
    if x == TS:
        if (few["x"].abs().max() or 0.0) > LAST_DATE:  # type: ignore[operator]
            raise ValueError(
                f"the _ts of {of} reach beyond the dates that a picture can show; draw it over x='_index' or '_elapsed'"
            )
        few = few.with_columns(pl.from_epoch((pl.col("x") * 1e6).round().cast(pl.Int64), "us").alias("x"))
    return Curve(label, field, few), "time" if few["x"].dtype.is_temporal() else "number"
