"""Where the points of a damaged range can still be had: the damaged file, other forms of it, hot lines, the replica."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dreamlake.engine.catalog import read_object
from dreamlake.engine.inspecttrack import TrackLook
from dreamlake.engine.reader import TrackReader
from dreamlake.engine.salvage import NONE, Stretch, check_identity, in_words, open_at, stretches
from dreamlake.engine.segments import SegmentFiles
from dreamlake.engine.snapshot import Snapshot
from dreamlake.errors import CorruptTrackError
from dreamlake.format import hot, layout, live
from dreamlake.format.layout import SegmentName
from dreamlake.format.schema import to_points
from dreamlake.format.segment import SegmentDamage, open_segment
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.store import Store

Point = dict[str, Any]


class ReplicaSource:
    """The replica of a session, as a source of what is damaged here.

    Parameters
    ----------
    store
        The root of the lake there.
    session
        The folder of the session below it.
    """

    def __init__(self, store: Store, session: str) -> None:
        self.store = store
        self.session = session
        self._snapshots: dict[str, Snapshot | None] = {}

    def segment(self, below: str, track: str, name: SegmentName) -> bytes | None:
        """The bytes of a segment that is whole there."""
        try:
            data = self.store.get(f"{self.session}/{below}/{name.filename}")
            segment = open_segment(data)
            check_identity(segment.info, track, name)
            segment.read()
        except (FileNotFoundError, SegmentDamage):
            return None
        return data

    def snapshot(self, below: str, track: str) -> Snapshot | None:
        """The track there, damage left out; None where it cannot be read at all."""
        if below not in self._snapshots:
            reader = TrackReader(self.store, f"{self.session}/{below}", track)
            try:
                self._snapshots[below] = reader.snapshot(errors="skip")
            except CorruptTrackError:
                self._snapshots[below] = None
        return self._snapshots[below]

    def points(self, below: str, track: str, start: int, stop: int) -> dict[int, Point]:
        """The points of a range that are there."""
        snapshot = self.snapshot(below, track)
        return {} if snapshot is None else dict(snapshot.points(start, min(stop, snapshot.total)))

    def object(self, path: str) -> Mapping[str, Any] | None:
        """A small file of the session, where it is whole there."""
        try:
            return read_object(self.store, f"{self.session}/{path}")
        except CorruptTrackError:
            return None


@dataclass
class Gathered:
    """The points of a range, None where one is lost, and what was lost of them and of their fields, in words."""

    start: int
    points: list[Point | None]
    losses: list[str] = field(default_factory=list)

    @property
    def lost(self) -> list[tuple[int, int]]:
        """The ranges of indices that are lost."""
        return [(start, stop) for start, stop, is_there in self.runs() if not is_there]

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """The range in stretches that are there, or are not."""
        at = 0
        while at < len(self.points):
            is_there = self.points[at] is not None
            end = at
            while end < len(self.points) and (self.points[end] is not None) is is_there:
                end += 1
            yield self.start + at, self.start + end, is_there
            at = end

    def of(self, start: int, stop: int) -> list[Point]:
        """The points of a stretch that is there."""
        return [point for point in self.points[start - self.start : stop - self.start] if point is not None]

    @property
    def loses(self) -> str:
        """All that is lost, in words."""
        return "; ".join([*(in_points(*span) for span in self.lost), *dict.fromkeys(self.losses)])


def in_points(start: int, stop: int) -> str:
    """A range of points in words."""
    return f"the points {start} to {stop} (exclusive)" if stop > start + 1 else f"the point {start}"


class Sources:
    """All places at which points of one track can be had.

    Parameters
    ----------
    store, below
        The session's lake, and the track's folder below the session.
    look
        What was seen of the track.
    """

    def __init__(self, store: LocalStore, below: str, look: TrackLook, replica: ReplicaSource | None) -> None:
        self.store = store
        self.below = below
        self.look = look
        self.replica = replica
        self._files = SegmentFiles(store, look.folder, look.name)
        self._lines: dict[int, Point] | None = None

    def gather(self, start: int, stop: int, damaged: SegmentName | None = None) -> Gathered:
        """What can be had of the points of a range, or of a damaged segment."""
        found = Gathered(start, [None] * (stop - start))
        if damaged is not None:
            for part in stretches(self.store, f"{self.look.folder}/{damaged.filename}", self.look.name, damaged):
                self._take_stretch(part, found)
        recorded = self.recorded(start, stop) if damaged is None else damaged.generation
        for index, (point, name) in self._elsewhere(start, stop, found).items():
            found.points[index - start] = point
            form = _form(name, start, stop)
            if form < recorded:
                found.losses.append(f"fields of {in_points(start, stop)} that were merged after generation {form}")
        if self.replica is not None and None in found.points:
            for index, point in self.replica.points(self.below, self.look.name, start, stop).items():
                if found.points[index - start] is None:
                    found.points[index - start] = point
                    if damaged is not None:
                        said = "as the replica has them, in an earlier form"
                        found.losses.append(f"fields of {in_points(start, stop)}: they are {said}")
        return found

    def recorded(self, start: int, stop: int) -> int:
        """The highest generation of a range that anything tells of; -1 where nothing does."""
        names = [*self.look.told, *self.look.segments, *self.look.away]
        return max((generation for first, last, generation in names if (first, last) == (start, stop)), default=-1)

    # -- the damaged file ------------------------------------------------------------------------------------------

    def _take_stretch(self, part: Stretch, found: Gathered) -> None:
        span = range(part.start, part.stop)
        lacks = part.lacks
        whole = self._elsewhere(part.start, part.stop) if lacks or not part.has_times else {}
        stamps = None
        if not part.has_times:
            if len(whole) < len(span):
                return
            stamps = [whole[index][0]["_ts"] for index in span]
        points = part.points(stamps)
        order = list(part.info.schema)
        for place, index in enumerate(span):
            point = points[place]
            if lacks and index in whole:
                point = _filled(point, whole[index][0], lacks, order)
            found.points[index - found.start] = point
        if lacks:
            self._tell_lacking(part, lacks, whole, found)

    def _tell_lacking(
        self, part: Stretch, lacks: list[str], whole: Mapping[int, tuple[Point, SegmentName | None]], found: Gathered
    ) -> None:
        of = in_points(part.start, part.stop)
        if len(whole) < part.stop - part.start:
            found.losses.append(f"{in_words(lacks)} of {of}")
            return
        info = part.info
        oldest = min(_form(name, info.start, info.stop) for _, name in whole.values())
        if oldest < part.info.generation:
            found.losses.append(f"what was merged after generation {oldest} into {in_words(lacks)} of {of}")

    # -- other places ----------------------------------------------------------------------------------------------

    def _elsewhere(
        self, start: int, stop: int, found: Gathered | None = None
    ) -> dict[int, tuple[Point, SegmentName | None]]:
        """Points of a range in hot lines, or whole segments that do not count; by index, with the segment.

        Parameters
        ----------
        found
            Only those that it lacks.
        """
        wanted = range(start, stop)
        if found is not None:
            wanted_set = {index for index in wanted if found.points[index - start] is None}
        else:
            wanted_set = set(wanted)
        there: dict[int, tuple[Point, SegmentName | None]] = {}
        if not wanted_set:
            return there
        for index in wanted_set & self.lines.keys():
            there[index] = self.lines[index], None
        for name in self._others(start, stop):
            missing = [index for index in range(max(start, name.start), min(stop, name.stop)) if index not in there]
            if not any(index in wanted_set for index in missing):
                continue
            for index, point in self._points_of(name, missing):
                if index in wanted_set:
                    there[index] = point, name
        return there

    @property
    def lines(self) -> dict[int, Point]:
        """All points that lines of the hot file tell, those that segments hold as well among them."""
        if self._lines is None:
            runs = hot.merge_runs(self.look.lines, 0) if self.look.lines is not None else []
            self._lines = {start + at: point for start, points in runs for at, point in enumerate(points)}
        return self._lines

    def _others(self, start: int, stop: int) -> list[SegmentName]:
        """Whole segments that hold points of a range; later forms first."""
        names = [
            name
            for name, seen in self.look.segments.items()
            if not seen.damage and seen.info is not None and not seen.info.lost
        ]
        return sorted(
            (name for name in names if name.start < stop and name.stop > start), key=lambda name: -name.generation
        )

    def _points_of(self, name: SegmentName, indices: Iterable[int]) -> Iterator[tuple[int, Point]]:
        indices = list(indices)
        table, kinds = self._files.read(name, None, None, indices[0], indices[-1] + 1)
        return zip(range(indices[0], indices[-1] + 1), to_points(table, kinds), strict=True)

    def points_of(self, name: SegmentName, start: int, stop: int) -> list[Point]:
        """The points of a range in a segment that is whole."""
        return [point for _, point in self._points_of(name, range(start, stop))]

    def replica_names(self, start: int, stop: int) -> list[SegmentName]:
        """The segments that count on the replica and lie within a range, if they hold all of it."""
        snapshot = self.replica.snapshot(self.below, self.look.name) if self.replica is not None else None
        names = live.covering(snapshot.live, start, stop) if snapshot is not None else ()
        at = start
        for name in names:
            if name.start != at:
                return []
            at = name.stop
        return list(names) if at == stop else []

    def path(self, filename: str) -> str:
        """The absolute path of a file of the track."""
        return os.path.join(self.store.describe(self.look.folder), filename)

    def open_info(self, name: SegmentName) -> Any:
        """What the footer of a segment says now; None where it is damaged or gone."""
        try:
            info = open_at(self.store, f"{self.look.folder}/{name.filename}").info
            check_identity(info, self.look.name, name)
        except (SegmentDamage, CorruptTrackError, FileNotFoundError):
            return None
        return info


def _form(name: SegmentName | None, start: int, stop: int) -> int:
    """Which generation of a range another source of its points tells: hot lines and parts are what the first was."""
    return name.generation if name is not None and name[:2] == (start, stop) else 0


def _filled(point: Point, other: Point, lacks: list[str], order: list[str]) -> Point:
    """A point with the fields that it lacks as another form of it has them."""
    merged = dict(point)
    for name in lacks:
        if name != NONE and name in other:
            merged[name] = other[name]
    if NONE in lacks:
        merged |= {name: None for name, value in other.items() if value is None and name not in merged}
    places = {name: place for place, name in enumerate(order)}
    names = sorted((name for name in merged if name != "_ts"), key=lambda name: places.get(name, len(places)))
    return {name: merged[name] for name in names} | {"_ts": merged["_ts"]}


def session_object(replica: ReplicaSource | None, filename: str, machine: str | None) -> Mapping[str, Any] | None:
    """What the replica has of a session's own file of this machine: plain, or below ``hosts/``."""
    if replica is None:
        return None
    path = filename if machine is None else f"{layout.HOSTS_DIR}/{machine}/{filename}"
    return replica.object(path)
