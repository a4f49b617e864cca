"""What the footer of a segment says of it, as JSON values of Parquet's key-value metadata, and back.

``dreamlake.segment``
    The format version, track, index range, generation, bounds of ``_ts``, whether it rises, schema of this segment.
``dreamlake.track``
    The schema of the whole track up to and with this segment (null when equal to this segment's) and, for every live
    segment before it, ``[start, stop, generation, tsMin, tsMax, tsRising]``.
``dreamlake.repaired``
    Where a repair made the segment: in words what was lost. Kept by later generations.

A segment of *lost* points has no rows, though its name has a range: a repair gave these up. Its bounds are the wrong
way round (`LOST_BOUNDS`), so that no time lies within them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from dreamlake.format.logical import TrackSchema, check, identical

VERSION = 1

#: The least and the greatest ``_ts`` of no rows at all: they leave the bounds of other segments as they are.
LOST_BOUNDS = (sys.float_info.max, -sys.float_info.max)

_SEGMENT_KEY = b"dreamlake.segment"
_TRACK_KEY = b"dreamlake.track"
_REPAIRED_KEY = b"dreamlake.repaired"


class SegmentBounds(NamedTuple):
    """What a later segment's footer remembers of an earlier one.

    ``start`` and ``stop`` are the half-open index range, ``ts_min`` and ``ts_max`` inclusive seconds; ``ts_rising``
    says whether ``_ts`` rises strictly within it.
    """

    start: int
    stop: int
    generation: int
    ts_min: float
    ts_max: float
    ts_rising: bool


@dataclass(frozen=True)
class SegmentInfo:
    """What a segment's footer says.

    Parameters
    ----------
    track
        The track's name.
    start, stop, generation
        The half-open index range and its generation, as in the file's name.
    ts_min, ts_max
        The least and the greatest ``_ts``, both inclusive, in seconds since the epoch.
    ts_rising
        Whether ``_ts`` rises strictly from row to row.
    schema
        The fields of this segment in its column order.
    track_schema
        The fields of all live segments up to and with this one.
    before
        The bounds of the live segments before it, in order.
    version
        The format version.
    repaired
        What a repair lost of it, in words; empty where none did.
    """

    track: str
    start: int
    stop: int
    generation: int
    ts_min: float
    ts_max: float
    ts_rising: bool
    schema: TrackSchema
    track_schema: TrackSchema
    before: tuple[SegmentBounds, ...] = ()
    version: int = VERSION
    repaired: str = ""

    @property
    def lost(self) -> bool:
        """Whether its points are lost: it has no rows."""
        return self.ts_min > self.ts_max

    @property
    def rows(self) -> int:
        """The rows that its file has."""
        return 0 if self.lost else self.stop - self.start

    @property
    def bounds(self) -> SegmentBounds:
        """What the footers of later segments remember of this one."""
        return SegmentBounds(self.start, self.stop, self.generation, self.ts_min, self.ts_max, self.ts_rising)


class _SegmentWire(msgspec.Struct, rename="camel"):
    """``dreamlake.segment`` as JSON."""

    version: int
    track: str
    start: int
    stop: int
    generation: int
    ts_min: float
    ts_max: float
    ts_rising: bool
    schema: dict[str, Any]


class _TrackWire(msgspec.Struct):
    """``dreamlake.track`` as JSON."""

    schema: dict[str, Any] | None
    before: list[SegmentBounds]


_segment_decoder = msgspec.json.Decoder(_SegmentWire)
_track_decoder = msgspec.json.Decoder(_TrackWire)


def to_key_values(info: SegmentInfo) -> dict[str, str]:
    """The key-value metadata that says it."""
    segment = _SegmentWire(
        info.version,
        info.track,
        info.start,
        info.stop,
        info.generation,
        info.ts_min,
        info.ts_max,
        info.ts_rising,
        info.schema,
    )
    same = identical(info.track_schema, info.schema)
    track = _TrackWire(None if same else info.track_schema, list(info.before))
    return {
        _SEGMENT_KEY.decode(): msgspec.json.encode(segment).decode(),
        _TRACK_KEY.decode(): msgspec.json.encode(track).decode(),
        **({_REPAIRED_KEY.decode(): info.repaired} if info.repaired else {}),
    }


def from_key_values(values: Mapping[bytes, bytes]) -> SegmentInfo:
    """What the key-value metadata says.

    Raises
    ------
    ValueError
        It is not dreamlake's, of another version, or damaged.
    """
    missing = [key.decode() for key in (_SEGMENT_KEY, _TRACK_KEY) if key not in values]
    if missing:
        raise ValueError(f"there is no {missing[0]!r} in it: another program's file")
    try:
        segment = _segment_decoder.decode(values[_SEGMENT_KEY])
        track = _track_decoder.decode(values[_TRACK_KEY])
        repaired = values.get(_REPAIRED_KEY, b"").decode()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"what it says of itself is unreadable: {error}") from error
    if segment.version != VERSION:
        raise ValueError(f"format version {segment.version}; this dreamlake reads version {VERSION}")
    schema = check(segment.schema)
    return SegmentInfo(
        segment.track,
        segment.start,
        segment.stop,
        segment.generation,
        segment.ts_min,
        segment.ts_max,
        segment.ts_rising,
        schema,
        schema if track.schema is None else check(track.schema),
        tuple(track.before),
        segment.version,
        repaired,
    )
