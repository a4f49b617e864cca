"""What the footer of a segment says of it, as JSON values of Parquet's key-value metadata, and back.

``dreamlake.segment``
    The format version, track, index range, generation, bounds of ``_ts``, whether it rises, schema of this segment.
``dreamlake.track``
    The schema of the whole track up to and with this segment (null when equal to this segment's) and, for every live
    segment before it, ``[start, stop, generation, tsMin, tsMax, tsRising]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from dreamlake.format.logical import TrackSchema, check, identical

VERSION = 1

_SEGMENT_KEY = b"dreamlake.segment"
_TRACK_KEY = b"dreamlake.track"


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
    )
