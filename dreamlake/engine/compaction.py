"""Wide segments in the place of many small ones: which become one, and the bytes of that one.

Segments do not change, so that merging needs no lock; only giving the merged one its name does
(`TrackOnDisk.replace_parts`). Until then, and for a grace time after it, the parts are there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import dreamlake.storage.local as local
from dreamlake.engine import roll
from dreamlake.engine.ondisk import TrackOnDisk
from dreamlake.engine.outside import TrackFromOutside
from dreamlake.engine.roll import FACTOR, USUAL_POINTS
from dreamlake.engine.segments import SegmentFiles
from dreamlake.engine.sessionlock import SessionLock
from dreamlake.errors import CorruptTrackError, DreamlakeError
from dreamlake.format import layout, logical, pages, segment
from dreamlake.format.layout import SegmentName
from dreamlake.format.schema import NONE, Batch
from dreamlake.format.segmentinfo import SegmentBounds, SegmentInfo

if TYPE_CHECKING:
    from dreamlake.types import CompactResult

#: Bytes of parts that are merged into one segment, which is held in memory while it is made; more are left apart.
MOST_BYTES = 256 << 20
#: Points of one segment.
MOST_POINTS = segment.MAX_ROWS // 4


@dataclass(frozen=True)
class Merged:
    """A segment that was written beside and has no name yet.

    Parameters
    ----------
    parts
        The live segments whose points it holds.
    info
        What its footer says.
    tmp
        The file.
    """

    parts: tuple[SegmentName, ...]
    info: SegmentInfo
    tmp: str

    @property
    def name(self) -> SegmentName:
        """The range of all its parts."""
        return SegmentName(self.info.start, self.info.stop, self.info.generation)


def plan(
    live: Sequence[SegmentName], segment_points: int, sizes: Sequence[int], left_out: Collection[SegmentName] = ()
) -> list[tuple[SegmentName, ...]]:
    """Runs of neighbouring segments each of which is to become one, in order.

    The widest that can be had come first: a run has at least 100 times the points of a usual segment, or 10 times, and
    only of segments that have fewer. So a point is written anew twice at most, and of a track of n million points no
    more than n and 18 segments stay.

    Parameters
    ----------
    live
        The live segments.
    segment_points
        The points of a usual one.
    sizes
        The bytes of each.
    left_out
        Segments that stay as they are: those that are not here, or have no rows.
    """
    found: list[tuple[SegmentName, ...]] = []
    bytes_of = dict(zip(live, sizes, strict=True))
    done = set(left_out)
    for factor in (FACTOR**2, FACTOR):
        wide = min(segment_points * factor, MOST_POINTS)
        run: list[SegmentName] = []
        for name in live:
            if name in done or name.stop - name.start >= wide or bytes_of[name] >= MOST_BYTES // 2:
                run = []
                continue
            run.append(name)
            is_wide = name.stop - run[0].start >= wide or sum(bytes_of[part] for part in run) >= MOST_BYTES // 2
            if is_wide and len(run) > 1:
                found.append(tuple(run))
                done.update(run)
                run = []
    return sorted(found)


def is_due(disk: TrackOnDisk) -> bool:
    """Whether a track has grown by enough usual segments for a merge by itself; asked after each roll."""
    enough = FACTOR * max(disk.segment_points, USUAL_POINTS)
    points = 0
    for name in reversed(disk.live):
        if name.stop - name.start >= enough or name in disk.away:
            return False
        points += name.stop - name.start
        if points >= enough:
            return True
    return False


def merge(
    files: SegmentFiles,
    parts: Sequence[SegmentName],
    known: logical.TrackSchema,
    before: tuple[SegmentBounds, ...],
    check: Callable[[], None] = lambda: None,
    sizes: dict[SegmentName, int] | None = None,
) -> Merged:
    """Write the segment of all these points beside, fsynced, and read it back; one part is in memory at a time.

    Parameters
    ----------
    known, before
        The schema of the track up to `parts`, and the bounds of the live segments before them.
    check
        Called before each part is read; what it raises ends the merge.
    sizes
        Gets what each part takes that was read, see `segment.decoded_size`.

    Raises
    ------
    CorruptTrackError
        A part is damaged, or what was written does not read back.
    FileNotFoundError
        A part is gone: another process has merged it, or a later form has taken its place.
    SegmentTooLarge
        The points would take more memory than those of a segment should: the same text again and again, of which their
        footers do not tell.
    """
    infos = [files.info(name, None) for name in parts]
    schema = logical.unify_schemas(*(info.schema for info in infos))
    info = SegmentInfo(
        track=files.track,
        start=parts[0].start,
        stop=parts[-1].stop,
        generation=0,
        ts_min=min(info.ts_min for info in infos),
        ts_max=max(info.ts_max for info in infos),
        ts_rising=all(info.ts_rising for info in infos)
        and all(one.ts_max < next_one.ts_min for one, next_one in pairwise(infos)),
        schema=schema,
        track_schema=logical.unify_schemas(known, *(info.track_schema for info in infos)),
        before=before,
        repaired="; ".join(info.repaired for info in infos if info.repaired),
    )
    has_none = any(NONE in files.columns(name) for name in parts)
    data = segment.encode_parts(_batches(files, parts, check, {} if sizes is None else sizes), info, has_none)
    path = files.place(SegmentName(info.start, info.stop, info.generation))
    check()
    tmp = local.write_beside(path, data)
    try:
        _read_back(tmp, parts, check)
    except BaseException:
        local.remove_quietly(tmp)
        raise
    return Merged(tuple(parts), info, tmp)


def _read_back(path: str, parts: Sequence[SegmentName], check: Callable[[], None]) -> None:
    """Read all pages of what was written, whose parts will be deleted."""
    with open(path, "rb") as file:
        written = segment.open_segment(file)
        try:
            for name in parts:
                check()
                written.read(None, name.start, name.stop)
        except segment.SegmentDamage as damage:
            start, stop = parts[0].start, parts[-1].stop
            raise CorruptTrackError(path, damage.place, start, stop, f"just written, and {damage.detail}") from damage


def compact(
    under_lock: Callable[[Callable[[TrackOnDisk], Any]], Any], check: Callable[[], None] | None = None
) -> CompactResult:
    """Merge what can be merged of one track, and sweep what was merged long enough ago; may take long.

    Parameters
    ----------
    under_lock
        Runs something on the track with the session's lock held and with all learnt that other writers did, and
        returns what that returns. It is held for moments only: not while segments are read and written.
    check
        Given where merging happens by itself: called now and then, and what it raises ends it. Short segments, which
        only somebody who chose them has, are merged into the same wide ones as usual ones then.

    Raises
    ------
    OSError
        The disk failed. What was merged by then counts; nothing is lost.
    CorruptTrackError
        A segment is damaged; it and its neighbours stay as they are. All else was merged.
    """
    merged = into = 0
    damage: CorruptTrackError | None = None
    tried: set[tuple[int, int]] = set()
    # One after the other, from the lowest on: so the footer of each knows those before it in the form that they have.
    find = partial(_next_to_merge, at_least=0 if check is None else USUAL_POINTS, tried=tried)
    while (todo := under_lock(find)) is not None:
        run, files, known, before = todo
        tried.add(_span(run))  # once, though a late field may have given a part a new generation meanwhile
        sizes: dict[SegmentName, int] = {}
        try:
            done = merge(files, run, known, before, check or (lambda: None), sizes)
        except FileNotFoundError:
            continue
        except segment.SegmentTooLarge:
            under_lock(partial(_note_sizes, sizes=sizes))  # then fewer of them are tried
            continue
        except CorruptTrackError as error:
            damage = damage or error
            continue
        try:
            counts = under_lock(partial(TrackOnDisk.replace_parts, merged=done))
        except BaseException:
            local.remove_quietly(done.tmp)
            raise
        if counts:
            under_lock(partial(_note_sizes, sizes={done.name: sum(sizes.values())}))
            merged, into = merged + len(run), into + 1
    segments = under_lock(_swept)
    if damage is not None:
        raise damage
    return {"merged": merged, "into": into, "segments": segments}


def compact_session(folder: str, tracks: Iterable[str]) -> Iterator[tuple[str, CompactResult | Exception]]:
    """Merge what can be merged of these tracks of the session in a folder, from outside of the process that writes it.

    Yields each track with what `compact` returns, or with what it raises.
    """
    lock = SessionLock(os.path.join(folder, layout.LOCK_FILE), single_writer=False)
    for name in tracks:
        try:
            yield name, compact(TrackFromOutside(folder, layout.track_dir(name), lock).change)
        except (OSError, DreamlakeError) as error:
            yield name, error


def _swept(disk: TrackOnDisk) -> int:
    disk.sweep()
    return len(disk.live)


Todo = tuple[tuple[SegmentName, ...], SegmentFiles, logical.TrackSchema, tuple[SegmentBounds, ...]]


def _next_to_merge(disk: TrackOnDisk, at_least: int, tried: Collection[tuple[int, int]]) -> Todo | None:
    """The first run of a track that can be merged now and was not tried yet, with what `merge` wants."""
    left_out = {name for name, bounds in zip(disk.live, disk.bounds, strict=True) if bounds.ts_min > bounds.ts_max}
    left_out.update(disk.away)
    sizes = [0 if name in left_out else disk.files.size(name) for name in disk.live]
    for planned in plan(disk.live, max(disk.segment_points, at_least), sizes, left_out):
        run = _fitting(disk, planned)
        if run and _span(run) not in tried:
            return run, disk.files, disk.schema, disk.bounds[: disk.live.index(run[0])]
    return None


def _fitting(disk: TrackOnDisk, run: tuple[SegmentName, ...]) -> tuple[SegmentName, ...]:
    """The first neighbours among these, two at least, that are not too large together once they are read."""
    found: list[SegmentName] = []
    together = _Together()
    for name in run:
        try:
            size = disk.decoded_sizes.get(name) or disk.files.decoded_size(name)
            alone = _Together(size, disk.files.info(name, None))
        except (CorruptTrackError, FileNotFoundError):  # whoever merges them is told
            alone = _Together()
        more = together + alone
        if more.size > roll.DECODED_BYTES and len(found) > 1:
            break
        if more.size > roll.DECODED_BYTES:
            found, more = [], alone
        found.append(name)
        together = more
    return tuple(found) if len(found) > 1 else ()


class _Together:
    """What one segment of some parts takes once it is read, with the columns that some of them lack."""

    def __init__(self, size: int = 0, info: SegmentInfo | None = None) -> None:
        self.own = size
        self.rows = 0 if info is None else info.rows
        self.schema: logical.TrackSchema = {} if info is None else info.schema
        self.values = self.rows * self._leaves

    @property
    def _leaves(self) -> int:
        return sum(map(logical.leaf_count, self.schema.values()))

    @property
    def size(self) -> int:
        """In bytes, about."""
        return self.own + max(0, self.rows * self._leaves - self.values) * pages.VALUE_BYTES

    def __add__(self, other: _Together) -> _Together:
        both = _Together(self.own + other.own)
        both.rows, both.values = self.rows + other.rows, self.values + other.values
        both.schema = logical.unify_schemas(self.schema, other.schema)
        return both


def _note_sizes(disk: TrackOnDisk, sizes: dict[SegmentName, int]) -> None:
    disk.decoded_sizes.update(sizes)


def _span(run: Sequence[SegmentName]) -> tuple[int, int]:
    return run[0].start, run[-1].stop


def _batches(
    files: SegmentFiles, parts: Sequence[SegmentName], check: Callable[[], None], sizes: dict[SegmentName, int]
) -> Iterator[Batch]:
    for name in parts:
        check()
        table, schema = files.read(name)
        part = Batch(schema, table.combine_chunks().to_batches()[0])
        sizes[name] = segment.decoded_size(part)
        yield part
