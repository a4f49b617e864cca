"""What a repair does to one track: segments, the hot file, and what is kept beside them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa

import dreamlake.storage.local as local
from dreamlake.engine import away, late, roll
from dreamlake.engine.findings import Finding, is_damaged
from dreamlake.engine.gather import Gathered, Point, ReplicaSource, Sources, in_points
from dreamlake.engine.inspecttrack import away_records, hot_gaps, look_at_track, overlapping, vanished
from dreamlake.engine.mending import Step, keep, lines_lost, put_in_place, set_aside, track_file
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout, live, logical, schema, segment
from dreamlake.format.layout import SegmentName
from dreamlake.format.point import encode_lines
from dreamlake.format.schema import TS_FIELD, Batch
from dreamlake.format.segmentinfo import LOST_BOUNDS, SegmentBounds, SegmentInfo
from dreamlake.storage.localstore import LocalStore

#: Points of a segment that a repair writes.
SEGMENT_POINTS = 10_000


class TrackRepair:
    """Finds out what can be done for one track on this machine; nothing is changed until a step is run.

    Parameters
    ----------
    store
        The root of the session's lake.
    session
        The session's folder below it.
    name
        The track.
    replica
        Where else its points may be had.
    """

    def __init__(self, store: LocalStore, session: str, name: str, replica: ReplicaSource | None) -> None:
        self.store = store
        self.name = name
        self.below = layout.track_dir(name)
        self.folder = f"{session}/{self.below}"
        self.replica = replica
        self.look = look_at_track(store, self.folder, name)
        self.sources = Sources(store, self.below, self.look, replica)

    @property
    def is_damaged(self) -> bool:
        """Whether anything is damaged, or torn."""
        return is_damaged(self.look.findings) or bool(self.look.torn)

    def state_steps(self) -> list[Step]:
        """What has to be done first, since it says which segments there are, and what stands for itself."""
        return [*self._metadata(), *self._away(), *self._late(), *self._stamps()]

    def steps(self) -> list[Step]:
        """What is to be done then, in order."""
        steps: list[Step] = []
        for start, stop, name in self._damaged_ranges():
            steps += self._range_steps(start, stop, name)
        steps += self._hot_steps()
        # Last of all, since what these hold was taken from them.
        steps += [self._overlap_step(name) for name in overlapping(self.look)]
        return [*steps, *self._superseded_steps()]

    # -- segments --------------------------------------------------------------------------------------------------

    def _damaged_ranges(self) -> list[tuple[int, int, SegmentName | None]]:
        """Segments that count and are damaged or not there, and ranges that none holds; lowest first."""
        look = self.look
        found: list[tuple[int, int, SegmentName | None]] = [
            (name.start, name.stop, name) for name in look.live if name in look.segments and look.segments[name].damage
        ]
        if look.live and look.live[-1] in look.away:
            found.append((look.live[-1].start, look.live[-1].stop, look.live[-1]))
        found += [(hole.start, hole.stop, None) for hole in look.holes if not hole.overlap]
        found += [(name.start, name.stop, name) for name in vanished(look)]
        return sorted(found, key=lambda each: each[0])

    def _range_steps(self, start: int, stop: int, name: SegmentName | None) -> list[Step]:
        restored = self._restore_steps(start, stop, name)
        if restored:
            return restored
        here = name if name in self.look.segments else None
        found = self.sources.gather(start, stop, here)
        path = self.store.describe(f"{self.folder}/{name.filename}" if name is not None else self.folder)
        if not found.lost:
            how = f"{in_points(start, stop)} are written anew, in the next generation"
        elif all(point is None for point in found.points):
            how = f"{in_points(start, stop)} are given up: a segment without points says so"
        else:
            how = "what is left of its points is written anew; segments without points stand for the others"
        step = Step(path, how, partial(self._rebuild, start, stop, here, found), found.loses)
        step.gives_up = bool(found.loses)
        return [step]

    def _restore_steps(self, start: int, stop: int, name: SegmentName | None) -> list[Step]:
        """Take whole segments from the replica, if it has them."""
        if self.replica is None:
            return []
        names = [name] if name is not None else self.sources.replica_names(start, stop)
        fetched = [(each, self.replica.segment(self.below, self.name, each)) for each in names]
        if not fetched or any(data is None for _, data in fetched):
            return []
        steps = []
        for each, data in fetched:
            assert data is not None
            path = self.sources.path(each.filename)
            steps.append(Step(path, "the replica's copy is put in its place", partial(put_in_place, path, data)))
        return steps

    def _rebuild(self, start: int, stop: int, damaged: SegmentName | None, found: Gathered) -> None:
        """Write what is left, and what stands for the rest; then the damaged file goes out of the way.

        Until the last step the damaged file counts as before, or, where one segment takes its place, that one does.
        """
        if damaged is not None:
            keep(self.sources.path(damaged.filename))
        generation = self.sources.recorded(start, stop) + 1
        whole = len(list(found.runs())) == 1
        for first, last, is_there in found.runs():
            said = self._statement(found, first, last, is_there, damaged)
            names = self._pieces(first, last, generation if whole else None) if is_there else None
            for name in names or self._lost_names(first, last, generation if whole else None):
                points = found.of(name.start, name.stop) if is_there else None
                self.write(name, points, said)
        forms = [each for each in self.look.segments if each[:2] == (start, stop)]
        for name in forms if damaged is not None and not whole else [damaged] if damaged is not None else []:
            set_aside(self.sources.path(name.filename))

    def _statement(self, found: Gathered, start: int, stop: int, is_there: bool, damaged: SegmentName | None) -> str:
        """What the footer of a repaired segment says of the repair."""
        info = self.look.segments[damaged].info if damaged is not None else None
        before = [info.repaired] if info is not None and info.repaired else []
        day = time.strftime("%Y-%m-%d", time.gmtime())
        if not is_there:
            return "; ".join([*before, f"{in_points(start, stop)}, lost and given up on {day}"])
        said = [f"lost on {day}: {loss}" for loss in dict.fromkeys(found.losses)]
        return "; ".join([*before, *said])

    def _pieces(self, start: int, stop: int, generation: int | None) -> list[SegmentName]:
        """The segments of a stretch of points: one, of this generation; or some of a usual size."""
        if generation is not None:
            return [SegmentName(start, stop, generation)]
        cuts = [*range(start, stop, SEGMENT_POINTS), stop]
        return [SegmentName(*pair) for pair in pairwise(cuts)]

    def _lost_names(self, start: int, stop: int, generation: int | None) -> list[SegmentName]:
        """The segments that stand for lost points; the later form of those that footers tell of, where these fit."""
        if generation:
            return [SegmentName(start, stop, generation)]
        names = live.survey(each for each in self.look.told if start <= each.start and each.stop <= stop)[0]
        at = start
        for name in names:
            if name.start != at:
                break
            at = name.stop
        if names and at == stop:
            return [SegmentName(each.start, each.stop, each.generation + 1) for each in names]
        return [SegmentName(start, stop, self.sources.recorded(start, stop) + 1)]

    def write(self, name: SegmentName, points: Sequence[Point] | None, repaired: str) -> None:
        """Write a segment of these points, or (None) one that says that they are lost; one that is there stays."""
        path = self.sources.path(name.filename)
        known, before = self._known(name)
        if points is None:
            batch = Batch({}, pa.RecordBatch.from_arrays([pa.array([], pa.float64())], schema=pa.schema([TS_FIELD])))
            info = SegmentInfo(self.name, *name, *LOST_BOUNDS, True, {}, known, before, repaired=repaired)
        else:
            batch = schema.batch_from_points(points)
            info = roll.draft(self.name, name, batch, known, before, repaired=repaired).info
        if os.path.exists(path):
            if self.sources.open_info(name) is not None:
                return  # a repair was here before, and did not come to its end
            set_aside(path)
        local.write_new(path, segment.encode(batch, info))

    def _known(self, name: SegmentName) -> tuple[dict[str, Any], tuple[SegmentBounds, ...]]:
        """The fields of the whole track as far as its segments say, and the bounds of those before this one."""
        here = live.parse_listing(os.listdir(self.sources.path("")))
        counting = live.survey({*here, *self.look.away})[0]
        known: dict[str, Any] = {}
        before = []
        for each in counting:
            record = self.look.away.get(each)
            info = self.sources.open_info(each) if each in here else None
            if info is not None:
                known = logical.unify_schemas(known, info.track_schema)
            elif record is not None and record.schema is not None:
                known = logical.unify_schemas(known, record.schema)
            bounds = info.bounds if info is not None else record.bounds if record is not None else None
            if bounds is not None and each.stop <= name.start:
                before.append(bounds)
        return known, tuple(before)

    def _overlap_step(self, name: SegmentName) -> Step:
        """What is beyond the live segments in one that overlaps with them was gathered; now it goes out of the way."""
        path = self.sources.path(name.filename)
        loses = ""
        if not self.look.segments[name].damage:
            for each in live.covering(self.look.live, name.start, name.stop):
                seen = self.look.segments.get(each)
                span = max(name.start, each.start), min(name.stop, each.stop)
                if seen is not None and not seen.damage and seen.info is not None and not seen.info.lost:
                    one, other = self.sources.points_of(each, *span), self.sources.points_of(name, *span)
                    same = encode_lines(enumerate(one)) == encode_lines(enumerate(other))
                    loses = loses or ("" if same else f"its own form of {in_points(*span)}, which is another")
        step = Step(path, "it is taken out of the way of those that count", partial(set_aside, path), loses)
        step.gives_up = bool(loses)
        return step

    def _superseded_steps(self) -> list[Step]:
        steps = []
        for name, seen in self.look.segments.items():
            if seen.damage and name not in self.look.live and name not in overlapping(self.look):
                path = self.sources.path(name.filename)
                steps.append(Step(path, "it does not count any more, and goes away", partial(set_aside, path)))
        return steps

    # -- the hot file ----------------------------------------------------------------------------------------------

    def _hot_steps(self) -> list[Step]:
        look = self.look
        path = self.sources.path(layout.HOT_FILE)
        if look.lines is None:
            return [Step(path, "it cannot be read, which no repair can change")]
        gaps = hot_gaps(look)
        damaged = len(look.lines.damaged)
        if not gaps and not damaged:
            said = f"{len(look.torn)} torn bytes behind its last line are cut off"
            end = look.lines.end
            return [Step(path, said, partial(local.truncate, path, end, fsync=True))] if look.torn else []
        filled = [self.sources.gather(*gap) for gap in gaps]
        loses = [each.loses for each in filled if each.loses]
        losses = [*loses, *([lines_lost(damaged)] if damaged else [])]
        does = "its good lines are kept"
        if any(each.lost for each in filled):
            does += "; points before a gap become segments, and segments without points stand for the gaps"
        elif filled:
            does += ", and the points that were missing are put between them"
        step = Step(path, does, partial(self._rewrite_hot, filled), "; ".join(losses))
        step.gives_up = bool(loses)
        return [step]

    def _rewrite_hot(self, filled: Sequence[Gathered]) -> None:
        """Segments for what is before the last lost point, lowest first; then the hot file with the rest."""
        path = self.sources.path(layout.HOT_FILE)
        if os.path.exists(path):
            keep(path)
        there: dict[int, Point] = {}
        lost: list[tuple[int, int]] = []
        for gathered in filled:
            lost += gathered.lost
            there |= {at: each for at, each in enumerate(gathered.points, gathered.start) if each is not None}
        for start, points in self.look.runs:
            there |= dict(enumerate(points, start))
        at = live.end_of(self.look.live)
        for start, stop in lost:
            for name in self._pieces(at, start, None) if start > at else []:
                self.write(name, [there[index] for index in range(name.start, name.stop)], "")
            day = time.strftime("%Y-%m-%d", time.gmtime())
            for name in self._lost_names(start, stop, None):
                self.write(name, None, f"{in_points(start, stop)}, lost and given up on {day}")
            at = stop
        data = encode_lines((index, there[index]) for index in sorted(there) if index >= at)
        local.atomic_write(path, data, fsync=True)

    # -- beside the points -----------------------------------------------------------------------------------------

    def _findings_of(self, filename: str) -> list[Finding]:
        path = self.sources.path(filename)
        return [each for each in self.look.findings if each.path == path and not each.note]

    def _metadata(self) -> list[Step]:
        if not self._findings_of(layout.METADATA_FILE):
            return []
        path = self.sources.path(layout.METADATA_FILE)
        about = read_or_refuse(path)
        if isinstance(about, Step):
            return [about]
        known = self.replica.object(f"{self.below}/{layout.METADATA_FILE}") if self.replica is not None else None
        return [track_file(self.name, about, self.look.live, known).step(path, "what described the track")]

    def _away(self) -> list[Step]:
        if not self._findings_of(layout.AWAY_FILE):
            return []
        path = self.sources.path(layout.AWAY_FILE)
        data = read_or_refuse(path)
        if isinstance(data, Step):
            return [data]
        records = away_records(data)
        lost = ""
        if self.replica is not None:
            records = self._away_anew(records)
        else:
            lost = f"where points are that only the replica has ({lines_lost(data.count(bytes([10])) - len(records))})"

        def rewrite() -> None:
            keep(path)
            away.write(os.path.dirname(path), list(records.values()), fsync=True)

        step = Step(path, "it is written anew with what can be read", rewrite, lost)
        step.gives_up = bool(lost)
        return [step]

    def _away_anew(self, records: dict[SegmentName, away.Away]) -> dict[SegmentName, away.Away]:
        """The records of away segments, with those that the replica has and this side does not."""
        assert self.replica is not None
        snapshot = self.replica.snapshot(self.below, self.name)
        for name in snapshot.live if snapshot is not None else ():
            if name in self.look.segments or name in records:
                continue
            data = self.replica.segment(self.below, self.name, name)
            if data is not None:
                info = segment.open_segment(data).info
                records[name] = away.Away(name, len(data), info.bounds, info.schema)
        return records

    def _late(self) -> list[Step]:
        if not self._findings_of(layout.LATE_FILE):
            return []
        path = self.sources.path(layout.LATE_FILE)
        data = read_or_refuse(path)
        if isinstance(data, Step):
            return [data]
        damaged = {number for number, _, _ in late.damaged(data)}
        good = [line for number, line in enumerate(data.split(b"\n")[:-1], 1) if number not in damaged]
        kept = b"".join(line + b"\n" for line in good)
        return [Step(path, "its good lines are kept", partial(put_in_place, path, kept), lines_lost(len(damaged)))]

    def _stamps(self) -> list[Step]:
        paths = sorted({each.path for each in self.look.findings if not each.note})
        return [
            Step(path, "it goes away: the replica is asked instead", partial(local.remove_quietly, path))
            for path in paths
            if os.path.basename(path).startswith(layout.STAMPS_PREFIX)
        ]


def read_or_refuse(path: str) -> bytes | Step:
    """The bytes of a small damaged file, or why nothing can be done for it."""
    try:
        return local.read_if_there(path)
    except (OSError, CorruptTrackError) as error:
        said = error.detail if isinstance(error, CorruptTrackError) else str(error)
        return Step(path, f"it cannot be read ({said}): move it away")
