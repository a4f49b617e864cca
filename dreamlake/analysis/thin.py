"""Tracks thinned for pictures: of each stretch its first, last, lowest and highest points, whatever the rest.

This is the M4 aggregation (Jugel, Jerzak, Hackenbroich and Markl, "M4: A Visualization-Oriented Time Series Data
Aggregation", PVLDB 7(10), 2014): drawn as a line with a stretch to each column of pixels, what it keeps gives the same
picture as all points would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from dreamlake.analysis.columns import column, named, numbers_inside, numeric_fields
from dreamlake.engine.shape import INDEX, TS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Indices that are looked at at a time, which bounds the memory.
WINDOW = 4_000_000

#: Columns that are only there while rows are chosen; no field has such a name.
AT, STRETCH, ROW = "_at", "_stretch", "_row"


def thin(
    frame: pl.LazyFrame, start: int, stop: int, n: int, fields: Sequence[str] | None, x: str, of: str
) -> pl.DataFrame:
    """At most `n` of the rows with indices from `start` to `stop`; see `TrackView.downsample`."""
    schema = frame.collect_schema()
    position, at = _position(schema, x, of)
    if fields is None:
        fields = [name for name in numeric_fields(schema) if name != x]
        # A track without any field is one that has just begun, and has no points to leave out.
        if not fields and any(not name.startswith("_") for name in schema):
            but = f" but {x!r}" if x in numeric_fields(schema) else ""
            raise TypeError(
                f"no field of {of}{but} holds numbers, of which extremes can be kept{numbers_inside(schema)}"
            )
    elif isinstance(fields, str):
        fields = [fields]
    names = list(dict.fromkeys(fields))
    values = [column(schema, name, of) for name in names]
    kept = 2 + 2 * len(names)
    if n < kept:
        raise ValueError(f"n is at least {kept} for {len(names)} fields, two rows and two for each; got {n}")
    shown = {INDEX: pl.col(INDEX), TS: pl.col(TS), x: position, **dict(zip(names, values, strict=True))}
    rows = frame.select(*shown.values(), at.alias(AT)).filter(pl.col(AT).is_finite())
    types = rows.collect_schema()
    for name in names:
        if not (types[name].is_numeric() or types[name] == pl.Boolean):
            hint = f"; {name}[0] names an element" if isinstance(types[name], pl.List) else ""
            raise TypeError(f"{name!r} of {of} holds {types[name]}, and only numbers have extremes to keep{hint}")
    bounds = [pl.len(), pl.col(AT).min().alias("low"), pl.col(AT).max().alias("high")]
    count, low, high = rows.select(bounds).collect().row(0)
    if count <= n:
        return _in_order(rows.collect(), x)
    stretches = n // kept
    # Halved, so that the width of all finite numbers is one, too.
    part = (pl.col(AT) / 2 - low / 2) / ((high / 2 - low / 2) or 1.0)
    rows = rows.with_columns((part * stretches).floor().clip(0, stretches - 1).cast(pl.Int32).alias(STRETCH))
    chosen = [
        _choose(rows.filter(pl.col(INDEX).is_between(first, first + WINDOW, closed="left")).collect(), names)
        for first in range(start, stop, WINDOW)
    ]
    # What is first, last or an extreme of a stretch is so, too, of each window that the stretch reaches into.
    return _in_order(_choose(pl.concat(chosen), names), x)


def _position(schema: pl.Schema, x: str, of: str) -> tuple[pl.Expr, pl.Expr]:
    """The column of positions, and the same as doubles."""
    position = column(schema, x, of)
    kind = pl.LazyFrame(schema=schema).select(position).collect_schema()[x]
    if kind.is_numeric():
        return position, position.cast(pl.Float64)
    if kind.is_temporal():
        return position, position.to_physical().cast(pl.Float64)
    raise TypeError(f"x={x!r} holds {kind} in {of}; positions are numbers or times")


def _choose(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Of each stretch the first, the last, and by each field the lowest and the highest: the earliest of equal ones."""
    row = pl.col(ROW)
    wanted = [row.min_by(AT).alias("first"), row.max_by(AT).alias("last")]
    for number, name in enumerate(names):
        # NaN is no extreme, and is not left to whatever `min_by` makes of it.
        value = named(name).fill_nan(None) if rows[name].dtype.is_float() else named(name)
        wanted += [row.min_by(value).alias(f"low {number}"), row.max_by(value).alias(f"high {number}")]
    numbers = rows.with_row_index(ROW).group_by(STRETCH).agg(wanted).drop(STRETCH)
    picked = pl.concat([numbers[name] for name in numbers.columns]).drop_nulls().unique().sort()
    return rows[picked]


def _in_order(rows: pl.DataFrame, x: str) -> pl.DataFrame:
    return rows.sort(named(x), INDEX).drop(AT, STRETCH, strict=False)
