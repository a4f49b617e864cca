"""Tracks as an Altair chart: a panel a field, a colour a track or run, zoomed together."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from dreamlake.pictures.curves import POINTS, curves

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair

    from dreamlake.pictures.curves import Curve, Kind, Readable

#: Opacity of the raw line under a smoothed one.
FAINT = 0.25


def plot(
    tracks: Sequence[tuple[str, Readable]],
    y: str | Sequence[str] | None,
    x: str | None,
    *,
    log: bool = False,
    smooth: float | None = None,
    points: int | None = POINTS,
    width: int = 640,
    height: int = 240,
    errors: Literal["raise", "skip"] = "raise",
) -> altair.VConcatChart:
    """Draw labelled tracks; see `TrackView.plot`."""
    try:
        import altair as alt
    except ImportError as error:
        raise ImportError('pictures need Altair: pip install "dreamlake[plot]"') from error
    found, x, kind = curves(tracks, y, x, points, smooth, errors)
    if not found:
        raise ValueError("there is nothing to draw: y= names no field")
    zoom = alt.selection_interval(name="zoom", bind="scales", encodings=["x"])
    names = list(dict.fromkeys(curve.label for curve in found))
    # A legend of one name says nothing, and a selection that is bound to none cannot be drawn.
    picked = alt.selection_point(name="picked", fields=["label"], bind="legend") if names[1:] else None
    panels = [
        _panel(alt, [curve for curve in found if curve.field == field], field, x, kind, log, names, picked)
        .properties(width=width, height=height)
        .add_params(*([zoom] if picked is None else [zoom, picked]))
        for field in dict.fromkeys(curve.field for curve in found)
    ]
    with warnings.catch_warnings():
        # The same selections in all panels are what makes these move together; Altair supposes a slip.
        warnings.filterwarnings("ignore", "Automatically deduplicated selection parameter", UserWarning)
        drawn: altair.VConcatChart = alt.vconcat(*panels)
    return drawn


def _panel(
    alt: Any, curves: Sequence[Curve], field: str, x: str, kind: Kind, log: bool, names: Sequence[str], picked: Any
) -> Any:
    smooth = any("smoothed" in curve.points.columns for curve in curves)
    data = alt.InlineData(values=[row for curve in curves for row in _rows(curve, kind, log)])
    vertical = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    base = alt.Chart(data).encode(
        x=alt.X("x", type="temporal" if kind == "time" else "quantitative", title=x, scale=alt.Scale(zero=False)),
        # The domain of all panels, so that a run has one colour in all.
        color=alt.Color(
            "label",
            type="nominal",
            title=None,
            scale=alt.Scale(domain=names, scheme="tableau20" if len(names) > 10 else "tableau10"),
            legend=None if picked is None else alt.Legend(symbolOpacity=1),
        ),
        tooltip=[
            alt.Tooltip("label", type="nominal"),
            alt.Tooltip("x", type="temporal" if kind == "time" else "quantitative", title=x),
            alt.Tooltip("value", type="quantitative", title=field),
        ],
    )

    def line(column: str, opacity: float) -> Any:
        return base.mark_line(strokeWidth=1.5, clip=True).encode(
            y=alt.Y(column, type="quantitative", title=field, scale=vertical),
            opacity=alt.value(opacity)
            if picked is None
            else alt.when(picked).then(alt.value(opacity)).otherwise(alt.value(opacity / 8)),
        )

    raw = line("value", FAINT if smooth else 1.0)
    return alt.layer(raw, line("smoothed", 1.0)) if smooth else alt.layer(raw)


def _rows(curve: Curve, kind: Kind, log: bool) -> list[dict[str, Any]]:
    frame = curve.points
    if kind == "time":
        frame = frame.with_columns(pl.col("x").dt.epoch("ms"))
    for name in [name for name in ("value", "smoothed") if name in frame.columns]:
        value = pl.col(name).cast(pl.Float64)
        drawable = value.is_finite() & (value > 0) if log else value.is_finite()
        frame = frame.with_columns(pl.when(drawable).then(value))
    return frame.with_columns(pl.lit(curve.label).alias("label")).to_dicts()
