"""Segments that are *away*: uploaded and not kept on the local disk, where only their range, bounds and ``_ts`` stay.

``.away.jsonl`` in a track's folder has a line for each. Where a segment is both there and on the local disk, as after a
crash between the two steps of a drop, the local file counts. Its ``_ts`` column may stay behind as ``.ts-<range>``, a
small segment of its own without fields, so that a flush can tell which timestamps an away segment holds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

import dreamlake.storage.local as local
from dreamlake.engine.segments import SegmentFiles
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout, live
from dreamlake.format.layout import SegmentName
from dreamlake.format.logical import TrackSchema, check
from dreamlake.format.segmentinfo import SegmentBounds, SegmentInfo
from dreamlake.notices import log
from dreamlake.storage.localstore import LocalStore

#: Bytes of a column of timestamps above which it is taken for damaged: a segment has 16 million points at most.
MAX_STAMPS_BYTES = 1 << 28


@dataclass(frozen=True)
class Away:
    """What the local side knows of a segment that is only on the replica.

    Parameters
    ----------
    name
        Its range and generation.
    nbytes
        Bytes of its file.
    bounds
        What a later footer says of it.
    schema
        The types of its fields; None where the footer of the track's last segment knows this form of it, and so these.
    """

    name: SegmentName
    nbytes: int
    bounds: SegmentBounds
    schema: TrackSchema | None = None


class _Line(msgspec.Struct, rename="camel"):
    """A line of the file."""

    segment: str
    bytes: int
    ts_min: float
    ts_max: float
    ts_rising: bool
    schema: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_Line)


class _Remotes(msgspec.Struct):
    """What a reader needs of ``.replica.json``."""

    remotes: dict[str, msgspec.Raw] = {}


# ------------------------------------------------------------------------------------------------ the records


def read(folder: str) -> dict[SegmentName, Away]:
    """What is away of the track in `folder`; some of it may be on the local disk too, or superseded.

    Raises
    ------
    CorruptTrackError
        A whole line is damaged.
    """
    path = _path(folder)
    return parse(local.read_if_there(path), path)


def parse(data: bytes, path: str) -> dict[SegmentName, Away]:
    """The records in the bytes of the file at `path`; what follows the last newline is torn, and does not count."""
    found = {}
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            away = _decode(line)
        except (ValueError, RecursionError) as error:
            raise CorruptTrackError(path, f"line {number}", detail=str(error)) from error
        found[away.name] = away
    return found


@lru_cache(maxsize=32)
def parse_kept(data: bytes, path: str) -> Mapping[SegmentName, Away]:
    """As `parse`, for readers, most of whose looks find the same bytes."""
    return parse(data, path)


def replicas(data: bytes) -> tuple[str, ...]:
    """The roots of the lake elsewhere that the bytes of a ``.replica.json`` name; none where they are damaged."""
    try:
        return tuple(sorted(msgspec.json.decode(data, type=_Remotes).remotes))
    except (ValueError, RecursionError):
        return ()


def add(folder: str, records: Collection[Away], fsync: bool) -> None:
    """Note that these segments are away too. Raises OSError, also with them noted, and CorruptTrackError.

    Parameters
    ----------
    fsync
        Whether this survives power loss; needed before a segment is deleted.
    """
    # Whole, not appended: without a line of it that can be read nobody knows which segments there are.
    write(folder, {**read(folder), **{away.name: away for away in records}}.values(), fsync)


def write(folder: str, records: Iterable[Away], fsync: bool = False) -> None:
    """Note that these segments and no others are away: all of it takes effect, or nothing. Raises OSError."""
    local.atomic_write(_path(folder), _encode(records), fsync)


def _path(folder: str) -> str:
    return os.path.join(folder, layout.AWAY_FILE)


def _encode(records: Iterable[Away]) -> bytes:
    return msgspec.json.Encoder().encode_lines([_line(away) for away in records])


def _line(away: Away) -> _Line:
    low, high, rising = away.bounds[3:]
    return _Line(away.name.filename, away.nbytes, low, high, rising, away.schema)


def _decode(data: bytes) -> Away:
    line = _decoder.decode(data)
    name = layout.parse_segment(line.segment)
    if name is None or line.bytes < 0:
        raise ValueError(f"{line.segment!r} of {line.bytes} bytes is no segment")
    bounds = SegmentBounds(*name, line.ts_min, line.ts_max, line.ts_rising)
    return Away(name, line.bytes, bounds, None if line.schema is None else check(line.schema))


# ------------------------------------------------------------------------------------------------ their timestamps


def stamps(folder: str, name: SegmentName) -> list[float] | None:
    """The ``_ts`` of each row of an away segment, in seconds; None where they are not known."""
    from dreamlake.format.schema import timestamps
    from dreamlake.format.segment import SegmentDamage, open_segment

    path = stamps_path(folder, name)
    if not os.path.lexists(path):
        return None
    try:
        segment = open_segment(local.read_if_there(path, most=MAX_STAMPS_BYTES))
        info = segment.info
        if (info.start, info.stop, info.generation) != tuple(name):
            raise SegmentDamage("footer", "it belongs to another segment")
        return timestamps(segment.read(["_ts"]))
    except (SegmentDamage, CorruptTrackError) as damage:
        log().warning("%s is damaged, the segment is asked instead: %s", path, damage)
        return None


def write_stamps(folder: str, track: str, bounds: SegmentBounds, column: Any, fsync: bool) -> None:
    """Keep the ``_ts`` column, an Arrow array without a null, of the segment with these bounds. Raises OSError."""
    import pyarrow as pa

    from dreamlake.format import segment
    from dreamlake.format.schema import TS_FIELD, Batch

    batch = Batch({}, pa.RecordBatch.from_arrays([column], schema=pa.schema([TS_FIELD])))
    info = SegmentInfo(track, *bounds, {}, {})
    path = stamps_path(folder, SegmentName(bounds.start, bounds.stop, bounds.generation))
    local.atomic_write(path, segment.encode(batch, info), fsync)


def stamps_path(folder: str, name: SegmentName) -> str:
    """The file that keeps the ``_ts`` of a segment."""
    return os.path.join(folder, layout.STAMPS_PREFIX + name.filename.removesuffix(layout.SEGMENT_SUFFIX))


# ------------------------------------------------------------------------------------------------ going away


def drop(
    folder: str, track: str, names: Collection[SegmentName], fsync: bool, bare: bool = False
) -> dict[SegmentName, Away]:
    """Make segments that are on the replica away: they are deleted here, and what must be known of them stays.

    The session's lock is held, and a rewrite announced. Passed over, though named: the last segment of the track, which
    tells the bounds and fields of all before it; one that does not count, or is not here; one that is damaged here.

    Parameters
    ----------
    folder, track
        The track's folder, and its name.
    fsync
        Whether the timestamps that stay survive power loss; the records do always.
    bare
        Whether no timestamps stay, of no segment of the track: on a full disk. Late fields look for their points by
        the bounds then, and may have to fetch more.

    Returns
    -------
    dict[SegmentName, Away]
        What went away.

    Raises
    ------
    OSError
        The disk failed; some may be away and some not, each of them whole on one side.
    CorruptTrackError
        Segments are missing, or the last one is damaged.
    """
    filenames = os.listdir(folder)
    here = set(live.parse_listing(filenames))
    known = read(folder) if layout.AWAY_FILE in filenames else {}
    try:
        counting = live.live_segments(here | known.keys())
    except live.HoleError as error:
        raise CorruptTrackError(folder, "its segments", error.start, error.stop, str(error)) from error
    chosen = [name for name in counting[:-1] if name in here and name in set(names)]
    if not chosen:
        return {}
    files = SegmentFiles(LocalStore(os.path.dirname(folder)), os.path.basename(folder), track)
    told = {SegmentName(*bounds[:3]) for bounds in files.newest(counting[-1], None).before}
    if bare:
        sweep_stamps(folder, filenames, ())
    dropped = {}
    for name in chosen:
        try:
            dropped[name] = _prepare(files, name, told, None if bare else fsync)
        except CorruptTrackError as error:
            log().warning("not dropped, though it is on the replica: %s", error)
    if not dropped:
        return {}
    add(folder, list(dropped.values()), fsync=True)
    for name in [*dropped, *live.superseded(here, list(dropped))]:
        local.os_.unlink(os.path.join(folder, name.filename))
    sweep_stamps(folder, filenames, {*known, *dropped} & set(counting))
    return dropped


def _prepare(files: SegmentFiles, name: SegmentName, told: Collection[SegmentName], fsync: bool | None) -> Away:
    """Keep the timestamps of a segment, for good with `fsync`, if it is not None; return what stays known of it."""
    size = files.size(name)
    info = files.info(name, size)
    table, schema = files.read(name, size, ["_ts"])
    folder = files.store.describe(files.folder)
    if fsync is not None:
        write_stamps(folder, files.track, info.bounds, table.column("_ts").combine_chunks(), fsync)
    return Away(name, size, info.bounds, None if name in told else schema)


def sweep_stamps(folder: str, filenames: Iterable[str], needed: Collection[SegmentName]) -> None:
    """Remove the timestamps of segments that are not `needed`: they are superseded, or here."""
    kept = {os.path.basename(stamps_path(folder, name)) for name in needed}
    for filename in filenames:
        if filename.startswith(layout.STAMPS_PREFIX) and filename not in kept:
            local.remove_quietly(os.path.join(folder, filename))
