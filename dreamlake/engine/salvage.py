"""What can still be had of a segment: which columns of which row groups are as they were written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any

import pyarrow as pa

from dreamlake.errors import CorruptTrackError
from dreamlake.format import columns, logical, schema
from dreamlake.format.layout import SegmentName
from dreamlake.format.segment import INDEX, Segment, SegmentDamage, SegmentInfo, open_segment
from dreamlake.format.segmentinfo import SegmentBounds
from dreamlake.storage.store import Store

#: A larger file is read part by part.
WHOLE_BYTES = 64 << 20

TS, NONE = "_ts", "_none"


@dataclass
class Seen:
    """What was seen in a segment.

    Parameters
    ----------
    info
        What its footer says; None where that is damaged.
    damage
        What is wrong, if anything.
    bad
        The columns in which pages are damaged.
    """

    info: SegmentInfo | None = None
    damage: list[SegmentDamage] = field(default_factory=list)
    bad: tuple[str, ...] = ()

    def loses(self, damage: SegmentDamage, start: int, stop: int) -> str:
        """What cannot be read because of this damage."""
        points = f"the points {start} to {stop} (exclusive)"
        column = next((name for name in self.bad if damage.place == place_of(name)), None)
        if column is None:
            return points
        if column == INDEX:
            return f"nothing: the file's name says the indices of {points}"
        if column == TS:
            return f"the timestamps of {points}"
        return f"which fields are None in {points}" if column == NONE else f"the field {column!r} of {points}"


def place_of(column: str) -> str:
    """A column as the place of a damage."""
    return f"column {column!r}"


def open_at(store: Store, path: str, size: int | None = None) -> Segment:
    """Open the segment at a path of a store. Raises SegmentDamage, FileNotFoundError, CorruptTrackError, OSError."""
    size = store.size(path) if size is None else size
    if size <= WHOLE_BYTES:
        return open_segment(store.get(path))
    return open_segment(lambda start, stop: store.get(path, start, stop), size)


def look_into(store: Store, path: str, size: int | None, track: str, name: SegmentName) -> Seen:
    """Verify a segment in full: that it is the one its name says, every page, every value, and its bounds."""
    seen = Seen()
    try:
        segment = open_at(store, path, size)
        check_identity(segment.info, track, name)
        seen.info = segment.info
        table = segment.read()
    except SegmentDamage as damage:
        if seen.info is None:
            seen.damage.append(damage)
            return seen
        _look_at_columns(segment, seen)
        seen.damage = seen.damage or [damage]
        return seen
    _check_values(segment, table, seen)
    return seen


def check_identity(info: SegmentInfo, track: str, name: SegmentName) -> None:
    """Raise SegmentDamage where a segment is not the one that its name says."""
    if (info.start, info.stop, info.generation) != tuple(name):
        said = f"it says indices {info.start} to {info.stop}, generation {info.generation}: renamed or swapped"
        raise SegmentDamage("footer", said)
    if info.track != track:
        raise SegmentDamage("footer", f"it belongs to the track {info.track!r}, not {track!r}")


def _look_at_columns(segment: Segment, seen: Seen) -> None:
    for name in segment.footer.columns:
        try:
            segment.read([name])
        except SegmentDamage as damage:
            seen.bad = (*seen.bad, name)
            seen.damage.append(SegmentDamage(place_of(name), damage.detail))


def _check_values(segment: Segment, table: pa.Table, seen: Seen) -> None:
    """What checksums do not tell, where a stranger or a defect made the file."""
    info = segment.info
    for name, kind in info.schema.items():
        if said := _unreadable(table.column(name), kind):
            seen.bad = (*seen.bad, name)
            seen.damage.append(SegmentDamage(place_of(name), said))
    if info.lost:
        return
    stamps = schema.timestamps(table)
    if not all(map(isfinite, stamps)):
        seen.bad = (*seen.bad, TS)
        seen.damage.append(SegmentDamage(place_of(TS), "a timestamp is no number"))
    elif bounds_of(info, stamps) != info.bounds:
        seen.damage.append(SegmentDamage("footer", "the times that it tells are not those of its points"))


def bounds_of(info: SegmentInfo, stamps: list[float]) -> SegmentBounds:
    """The bounds that a segment with these timestamps has."""
    rising = all(one < other for one, other in pairwise(stamps))
    return SegmentBounds(info.start, info.stop, info.generation, min(stamps), max(stamps), rising)


def _unreadable(column: Any, kind: Any) -> str:
    if logical.is_native(kind):
        return ""
    try:
        columns.column_values(column, kind)
    except (ValueError, OverflowError, RecursionError) as error:
        return str(error)[:200]
    return ""


# ------------------------------------------------------------------------------------------------ what is left


@dataclass
class Stretch:
    """The rows [start, stop) of a damaged segment, with those columns that can be read."""

    start: int
    stop: int
    columns: dict[str, pa.ChunkedArray]
    info: SegmentInfo

    @property
    def has_times(self) -> bool:
        """Whether its timestamps are known."""
        return TS in self.columns

    @property
    def lacks(self) -> list[str]:
        """The fields that are damaged here, ``_none`` among them."""
        return [name for name in (*self.info.schema, NONE) if name not in self.columns]

    def points(self, stamps: list[float] | None = None) -> list[dict[str, Any]]:
        """Its points, without the fields that it lacks.

        Parameters
        ----------
        stamps
            Their timestamps, where it does not have them.
        """
        arrays = dict(self.columns)
        if stamps is not None:
            arrays[TS] = pa.chunked_array([pa.array(stamps, pa.float64())])
        names = [TS, *(name for name in self.info.schema if name in arrays), *([NONE] if NONE in arrays else [])]
        table = pa.table({name: arrays[name] for name in names})
        return schema.to_points(table, {name: kind for name, kind in self.info.schema.items() if name in arrays})


def stretches(store: Store, path: str, track: str, name: SegmentName) -> Iterator[Stretch]:
    """The row groups of a damaged segment with what can be read of them; none where nothing of it can."""
    try:
        segment = open_at(store, path)
        check_identity(segment.info, track, name)
        groups = segment.footer.groups
    except (SegmentDamage, CorruptTrackError, OSError):
        return
    start = segment.info.start
    has_none = NONE in segment.footer.columns
    for group in groups:
        stop = start + group.rows
        found: dict[str, pa.ChunkedArray] = {}
        for column in segment.footer.columns:
            if column == INDEX:
                continue
            try:
                values = segment.read([column], start, stop).column(column)
            except SegmentDamage:
                continue
            if column == TS and not all(map(isfinite, values.to_pylist())):
                continue
            if column in segment.info.schema and _unreadable(values, segment.info.schema[column]):
                continue
            found[column] = values
        if not has_none:
            found[NONE] = pa.chunked_array([pa.nulls(group.rows, pa.list_(pa.string()))])
        yield Stretch(start, stop, found, segment.info)
        start = stop


def in_words(lacking: list[str]) -> str:
    """Fields that are lacking, in words."""
    named = [repr(name) for name in lacking if name != NONE]
    said = f"the {'field' if len(named) == 1 else 'fields'} {', '.join(named)}" if named else ""
    nones = "which fields were None" if NONE in lacking else ""
    return " and ".join(part for part in (said, nones) if part)
