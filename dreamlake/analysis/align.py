"""Tracks joined by time: each point of the first with the points of the others that belong to its moment."""

from __future__ import annotations

from datetime import timedelta
from math import inf, nextafter
from typing import TYPE_CHECKING, Literal

import polars as pl

from dreamlake.engine.shape import TS

if TYPE_CHECKING:
    from collections.abc import Sequence

How = Literal["exact", "backward", "forward", "nearest"]
HOW = ("exact", "backward", "forward", "nearest")


def align(
    tracks: Sequence[tuple[str, pl.LazyFrame]],
    how: How,
    tolerance: float | timedelta | None,
    start_time: float | None,
    end_time: float | None,
) -> pl.LazyFrame:
    """The rows of the first track, and beside each the row of every other track that fits it; see `Session.align`."""
    seconds = _checked(tracks, how, tolerance)
    low = -inf if start_time is None else start_time
    high = inf if end_time is None else end_time
    # What is further away than this fits no row, so that its segments are not read. A step more, for the rounding.
    reach = inf if seconds is None else seconds
    lowest = low if how == "forward" else nextafter(low - reach, -inf)
    highest = high if how == "backward" else nextafter(high + reach, inf)
    (name, frame), *others = tracks
    joined = _sorted(name, _between(frame, low, high).filter(pl.col(TS) < high) if high < inf else _between(frame, low))
    for name, frame in others:
        joined = joined.join_asof(
            _sorted(name, _between(frame, lowest, highest)),
            on=TS,
            strategy="backward" if how == "exact" else how,
            tolerance=seconds,
        )
    return joined


def _checked(tracks: Sequence[tuple[str, object]], how: str, tolerance: float | timedelta | None) -> float | None:
    """The tolerance in seconds; None for as far as it is."""
    names = [name for name, _ in tracks]
    if len(names) < 2:
        raise ValueError(f"align joins two tracks or more; got {len(names)}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is named twice, and its columns would have one name")
    if how not in HOW:
        raise ValueError(f"how is one of {', '.join(map(repr, HOW))}, not {how!r}")
    if isinstance(tolerance, timedelta):
        tolerance = tolerance.total_seconds()
    if tolerance is None:
        return 0.0 if how == "exact" else None
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise TypeError(f"tolerance is a number of seconds or a timedelta, not {type(tolerance).__name__}")
    if not 0 <= tolerance < inf:
        raise ValueError(f"tolerance is 0 or more seconds, or None for any distance; got {tolerance}")
    if how == "exact" and tolerance:
        raise ValueError('how="exact" takes points of the same _ts only: take how="nearest" for a tolerance')
    return float(tolerance)


def _between(frame: pl.LazyFrame, low: float, high: float = inf) -> pl.LazyFrame:
    if low > -inf:
        frame = frame.filter(pl.col(TS) >= low)
    return frame.filter(pl.col(TS) <= high) if high < inf else frame


def _sorted(name: str, frame: pl.LazyFrame) -> pl.LazyFrame:
    # Of points that share a timestamp the later one is met, as it is the one that was written last.
    return frame.sort(TS, maintain_order=True).select(TS, pl.exclude(TS).name.prefix(f"{name}."))
