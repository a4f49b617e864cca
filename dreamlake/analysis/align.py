"""Tracks joined by time: each point of the first with the points of the others that belong to its moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from math import inf, nextafter
from numbers import Real
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import polars as pl

from dreamlake.arguments import seconds_of
from dreamlake.engine.shape import TS

if TYPE_CHECKING:
    from collections.abc import Sequence

How = Literal["exact", "backward", "forward", "nearest"]
Tolerance: TypeAlias = "float | timedelta | None"
Given = TypeVar("Given")
HOW = ("exact", "backward", "forward", "nearest")


def align(
    tracks: Sequence[tuple[str, pl.LazyFrame]],
    how: How | Mapping[str, How],
    tolerance: Tolerance | Mapping[str, Tolerance],
    start_time: float | None,
    end_time: float | None,
) -> pl.LazyFrame:
    """The rows of the first track, and beside each the row of every other track that fits it; see `Session.align`."""
    names = [name for name, _ in tracks]
    _check_names(names)
    hows: list[How] = _each("how", how, names[1:])
    tolerances: list[Tolerance] = _each("tolerance", tolerance, names[1:])
    low = seconds_of("start_time", start_time, -inf)
    high = seconds_of("end_time", end_time, inf)
    _check_columns(tracks)
    (name, frame), *others = tracks
    joined = _sorted(name, _between(frame, low, high).filter(pl.col(TS) < high) if high < inf else _between(frame, low))
    for (name, frame), manner, furthest in zip(others, hows, tolerances, strict=True):
        seconds = _checked(manner, furthest)
        # What is further away than this fits no row, so that its segments are not read. A step more, for the rounding.
        reach = inf if seconds is None else seconds
        lowest = low if manner == "forward" else nextafter(low - reach, -inf)
        highest = high if manner == "backward" else nextafter(high + reach, inf)
        joined = joined.join_asof(
            _last_of_each(_sorted(name, _between(frame, lowest, highest))),
            on=TS,
            strategy="backward" if manner == "exact" else manner,
            tolerance=seconds,
        )
    return joined


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise ValueError(f"align joins two tracks or more; got {len(names)}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is named twice, and its columns would have one name")


def _check_columns(tracks: Sequence[tuple[str, pl.LazyFrame]]) -> None:
    """Refuse two columns of one name, of which the join would give the first its name and the second another."""
    sources: dict[str, tuple[str, str]] = {}
    for track, frame in tracks:
        for field in frame.collect_schema():
            if field == TS:
                continue
            other, its = sources.setdefault(f"{track}.{field}", (track, field))
            if other != track:
                raise ValueError(
                    f"{its!r} of {other!r} and {field!r} of {track!r} would both be the column {f'{track}.{field}'!r}; "
                    "align these tracks apart, or rename a column of scan(), and join the frames with join_asof"
                )


def _each(what: str, given: Given | Mapping[str, Given], others: Sequence[str]) -> list[Given]:
    """What is given for each of the other tracks: the same for all, or by their names."""
    if not isinstance(given, Mapping):
        return [given for _ in others]
    if set(given) != set(others):
        raise ValueError(
            f"{what}= by track names each track but the first, {', '.join(map(repr, others))}; "
            f"got {', '.join(map(repr, given)) or 'none'}"
        )
    return [given[name] for name in others]


def _checked(how: str, tolerance: Tolerance) -> float | None:
    """The tolerance in seconds; None for as far as it is."""
    if how not in HOW:
        raise ValueError(f"how is one of {', '.join(map(repr, HOW))}, not {how!r}")
    if isinstance(tolerance, timedelta):
        tolerance = tolerance.total_seconds()
    if tolerance is None:
        return 0.0 if how == "exact" else None
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real):
        raise TypeError(f"tolerance is a number of seconds or a timedelta, not {type(tolerance).__name__}")
    tolerance = float(tolerance)
    if not 0 <= tolerance < inf:
        raise ValueError(f"tolerance is 0 or more seconds, or None for any distance; got {tolerance}")
    if how == "exact" and tolerance:
        raise ValueError('how="exact" takes points of the same _ts only: take how="nearest" for a tolerance')
    return tolerance


def _between(frame: pl.LazyFrame, low: float, high: float = inf) -> pl.LazyFrame:
    if low > -inf:
        frame = frame.filter(pl.col(TS) >= low)
    return frame.filter(pl.col(TS) <= high) if high < inf else frame


def _sorted(name: str, frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.sort(TS, maintain_order=True).select(TS, pl.exclude(TS).name.prefix(f"{name}."))


def _last_of_each(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Of points that share a timestamp, which come one after the other, the one that was written last.

    Polars meets the last of them in some strategies and the first in others.
    """
    return frame.filter(pl.col(TS).ne_missing(pl.col(TS).shift(-1)))
