"""The segments of one track as its writer knows them: which count, what they hold, which are only on the replica."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Collection
from math import inf
from typing import TYPE_CHECKING, Any

from dreamlake.engine import away
from dreamlake.engine.segments import SegmentFiles
from dreamlake.engine.sorting import SegmentAway
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout, live, logical, schema
from dreamlake.format.layout import SegmentName
from dreamlake.format.segmentinfo import SegmentBounds
from dreamlake.storage.localstore import LocalStore

if TYPE_CHECKING:
    from dreamlake.engine.late import LateFile

#: Timestamps of segments that are kept for look-ups of late fields, 8 bytes each; those of one segment at least.
CACHED_STAMPS = 4_000_000


class KnownSegments:
    """The live segments of the track in `folder`; what they say is learnt without the network, see `away`."""

    def __init__(self, folder: str, name: str, late: LateFile) -> None:
        self.folder = folder
        self.name = name
        self.files = SegmentFiles(LocalStore(os.path.dirname(folder)), os.path.basename(folder), name)
        #: Rows that wait for segments which are only on the replica.
        self.late = late
        #: Away segments that were fetched, while the rows that wait for them are merged.
        self.fetched: dict[SegmentName, SegmentFiles] = {}
        self.reset_segments()

    def reset_segments(self) -> None:
        """Know of none."""
        self.live: tuple[SegmentName, ...] = ()
        self.bounds: tuple[SegmentBounds, ...] = ()
        #: Those of the live segments that are only on the replica.
        self.away: dict[SegmentName, away.Away] = {}
        #: The fields of all live segments.
        self.schema: dict[str, Any] = {}
        self.segments_max_ts = -inf
        self._columns: dict[SegmentName, tuple[array[float] | None, bool]] = {}
        self.late.reset()

    @property
    def start(self) -> int:
        """Where the segments end and the hot points begin."""
        return live.end_of(self.live)

    def learn_segments(self, filenames: Collection[str]) -> None:
        """Learn which segments count, of those in the folder and those that are away, and what waits for the latter.

        Raises CorruptTrackError when some are missing, or what tells of them is damaged.
        """
        self._take_listing(filenames)
        if self.live:
            self._learn_bounds()
            self.segments_max_ts = max(bounds.ts_max for bounds in self.bounds)

    def _take_listing(self, filenames: Collection[str]) -> None:
        here = set(live.parse_listing(filenames))
        known = away.read(self.folder) if layout.AWAY_FILE in filenames else {}
        try:
            self.live = live.live_segments(here | known.keys())
        except live.HoleError as error:
            raise CorruptTrackError(self.folder, "its segments", error.start, error.stop, str(error)) from error
        if known:
            self.away = {name: known[name] for name in self.live if name not in here}
            if self.live[-1] in self.away:
                name = self.live[-1]
                path = os.path.join(self.folder, name.filename)
                detail = "the last segment is missing; it always stays here, whatever else is only on the replica"
                raise CorruptTrackError(path, "its place", name.start, name.stop, detail)
        if layout.LATE_FILE in filenames:
            self.late.load()

    def _learn_bounds(self) -> None:
        """Learn the bounds of all live segments and the track's schema up to their end.

        The last footer tells both, except for segments that got a later generation after it was written: only these
        are opened beside it.
        """
        last = self.files.newest(self.live[-1], self._size_of(self.live[-1]))
        self.schema = last.track_schema
        recorded = {(b.start, b.stop, b.generation): b for b in last.before}
        bounds = []
        for name in self.live[:-1]:
            found = recorded.get((name.start, name.stop, name.generation))
            if found is None and name in self.away:
                found, fields = self._of_away(name)
                self.schema = logical.unify_schemas(self.schema, fields)
            elif found is None:
                info = self.files.info(name, self._size_of(name))
                self.schema = logical.unify_schemas(self.schema, info.track_schema)
                found = info.bounds
            bounds.append(found)
        self.bounds = (*bounds, last.bounds)

    def _of_away(self, name: SegmentName) -> tuple[SegmentBounds, dict[str, Any]]:
        record = self.away[name]
        if record.schema is None:
            path = os.path.join(self.folder, layout.AWAY_FILE)
            detail = f"neither it nor the last segment says which fields {name.filename} has"
            raise CorruptTrackError(path, "a line", name.start, name.stop, detail)
        return record.bounds, record.schema

    def _size_of(self, name: SegmentName) -> int:
        return os.stat(os.path.join(self.folder, name.filename)).st_size

    def find_in_segments(self, ts: float) -> tuple[SegmentName, int] | None:
        """Return the lowest place in the segments with this timestamp; only those whose bounds hold it are opened.

        Raises SegmentAway when a segment that is only on the replica holds it, or may.
        """
        found = self._search(ts) if ts <= self.segments_max_ts else None
        if ts in self.late.stamps or (found is not None and found[0] in self.away and found[0] not in self.fetched):
            raise SegmentAway(found[1] if found else None)
        return found

    def _search(self, ts: float) -> tuple[SegmentName, int] | None:
        for name, bounds in zip(self.live, self.bounds, strict=True):
            if bounds.ts_min <= ts <= bounds.ts_max:
                column, rising = self._column(name, bounds)
                if column is None:
                    raise SegmentAway(None)
                if rising:
                    place = bisect_left(column, ts)
                    found = place < len(column) and column[place] == ts
                else:
                    found = ts in column
                    place = column.index(ts) if found else 0
                if found:
                    return name, name.start + place
        return None

    def _column(self, name: SegmentName, bounds: SegmentBounds) -> tuple[array[float] | None, bool]:
        """Return the timestamps of a segment, None where it is away and they did not stay, and whether they rise."""
        if name not in self._columns:
            if name in self.away and name not in self.fetched:
                stayed = away.stamps(self.folder, name)
                column = None if stayed is None else array("d", stayed)
            else:
                column = schema.packed_timestamps(self.read_segment(name, ["_ts"])[0])
            kept = sum(len(other or ()) for other, _ in self._columns.values()) + len(column or ())
            while self._columns and kept > CACHED_STAMPS:
                other, _ = self._columns.pop(next(iter(self._columns)))
                kept -= len(other or ())
            self._columns[name] = (column, bounds.ts_rising)
        return self._columns[name]

    def read_segment(self, name: SegmentName, columns: list[str] | None) -> tuple[Any, dict[str, Any]]:
        """Return rows of a segment that is here, or was fetched, and the types of its fields."""
        return self.fetched.get(name, self.files).read(name, None, columns, name.start, name.stop)

    def take_in(self, name: SegmentName, files: SegmentFiles) -> None:
        """Read an away segment from what was fetched, until the rows that wait for it are merged."""
        self.fetched[name] = files
        self._columns.pop(name, None)
