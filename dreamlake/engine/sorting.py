"""Sort the pending rows of a track into new points, fields for hot points, and late fields for points in segments."""

import errno
from typing import TYPE_CHECKING, Any

from dreamlake.engine.pending import Block
from dreamlake.engine.rows import MixedRow, PointRows, Rows, held_bytes
from dreamlake.errors import CorruptTrackError

if TYPE_CHECKING:
    from dreamlake.engine.knowntrack import KnownTrack
    from dreamlake.format.layout import SegmentName

#: Fields to set, by the index of their point; each dict holds the point's ``_ts`` too.
Changes = dict[int, dict[str, Any]]


class SegmentAway(Exception):
    """A timestamp belongs to a point of a segment that is only on the replica, or may do so, or waits for one already.

    Parameters
    ----------
    index
        The index of the point, where it is known.
    """

    def __init__(self, index: int | None) -> None:
        self.index = index
        super().__init__(index)


class FieldsDoNotFit(OSError):
    """Late fields would make their segment larger than one may be; an EFBIG of its own class, since disks give it too.

    Parameters
    ----------
    said
        What does not fit, for people.
    path
        The file that is not made.
    """

    def __init__(self, said: str, path: str) -> None:
        super().__init__(errno.EFBIG, said, path)

    def __reduce__(self) -> tuple[type["FieldsDoNotFit"], tuple[str, str]]:
        return type(self), (str(self.strerror), str(self.filename))


def is_of_some_points(error: BaseException) -> bool:
    """Whether an error is of points alone that stay pending, behind which all else was written: no trouble of the disk.

    Their segment is damaged, or they do not fit into it.
    """
    return isinstance(error, CorruptTrackError | FieldsDoNotFit)


class RowQueue:
    """New rows that wait to be written, in the order of their indices; what is written is dropped from the front.

    What was asked for as a part can be dropped without needing memory: a drop that fails would write rows twice.
    """

    def __init__(self) -> None:
        self.pieces: list[Rows] = []
        self.count = 0

    def add(self, rows: Rows) -> None:
        """Put rows at the end."""
        if rows.count:
            self.pieces.append(rows)
            self.count += rows.count

    def part(self, start: int, stop: int) -> list[Rows]:
        """Return the rows from `start` up to, not with, `stop`, counted from the front."""
        first = self._cut_at(start)
        return self.pieces[first : self._cut_at(stop)]

    def drop(self, count: int) -> None:
        """Take the first `count` rows away, since they are on disk."""
        del self.pieces[: self._cut_at(count)]
        self.count -= count

    def _cut_at(self, place: int) -> int:
        """See that a piece begins at this row, and return how many pieces are before it."""
        for number, rows in enumerate(self.pieces):
            if place <= 0:
                return number
            if place < rows.count:
                self.pieces[number : number + 1] = [rows.slice(0, place), rows.slice(place, rows.count)]
                return number + 1
            place -= rows.count
        return len(self.pieces)


class Sorted:
    """What a flush has to write of one track; what it has written is taken out, what is left goes back to pending."""

    def __init__(self) -> None:
        self.new = RowQueue()
        #: Fields for points in the hot file.
        self.hot: Changes = {}
        #: Fields for points in segments.
        self.late: dict[SegmentName, Changes] = {}
        #: Rows for segments that are only on the replica: they are stored to wait for these.
        self.waiting: list[MixedRow] = []
        #: Rows that may belong to a point of a damaged segment; they wait until it is repaired. And the error of these,
        #: or of late fields that do not fit into their segment, see `is_of_some_points`.
        self.stuck: list[MixedRow] = []
        self.damage: CorruptTrackError | FieldsDoNotFit | None = None

    @property
    def is_done(self) -> bool:
        """Whether all is written."""
        return not (self.new.count or self.hot or self.late or self.waiting or self.stuck)

    def rest(self) -> Block | None:
        """Return what is left as a chain of blocks, or None when all is written."""
        last: Block | None = None
        for rows in self.new.pieces:
            last = Block(last)
            last.ready = rows
            last.size = rows.nbytes
        if self.stuck or self.waiting:
            last = Block(last)
            last.rows = self.stuck + self.waiting
            last.size = held_bytes(last.rows)
        changes = [fields for late in self.late.values() for fields in late.values()] + list(self.hot.values())
        if changes:
            last = Block(last)
            last.rows = [(fields["_ts"], True, without_ts(fields)) for fields in changes]
            last.size = held_bytes(last.rows)
        return last


class Sorter:
    """Gives each pending row its place. Holds what is needed to find the point that an explicit timestamp means.

    The common cases need no look-up: a row with an automatic timestamp is a new point, and so is an explicit one above
    every timestamp of the track. Otherwise the lowest index with that timestamp is meant, so segments are asked first
    (by their bounds before they are opened), then the hot file, then the rows sorted before.
    """

    def __init__(self, disk: "KnownTrack") -> None:
        self.disk = disk
        self.out = Sorted()
        self.next_index = disk.next_index
        self.max_ts = disk.max_ts
        # The rows sorted so far as single points, and where each timestamp is among them; built at the first look-up.
        self._points: list[dict[str, Any]] = []
        self._flags: list[bool] = []
        self._pieces: list[Rows] = []
        self._found: dict[float, int] | None = None

    def sort(self, chain: list[Block]) -> Sorted:
        """Sort the blocks of a track, oldest first, and note in each block the range of indices that its rows get."""
        for block in chain:
            rows = block.encode()
            if rows is not None and self._all_new(rows):
                block.result = (self.next_index, self.next_index + rows.count)
                self._add(rows)
            else:
                block.result = self._sort_rows(rows.mixed() if rows is not None else block.rows or [])
        self._close_points()
        for rows in self._pieces:
            self.out.new.add(rows)
        return self.out

    def _all_new(self, rows: Rows) -> bool:
        return not isinstance(rows, PointRows) and (not rows.explicit or rows.first_ts > self.max_ts)

    def _add(self, rows: Rows) -> None:
        if self._found is None:
            self._close_points()
            self._pieces.append(rows)
            self.next_index += rows.count
            self.max_ts = max(self.max_ts, rows.max_ts)
        else:  # a look-up has needed single points: the rest of this flush stays in that form
            for ts, explicit, fields in rows.mixed():
                self._add_point(ts, explicit, fields)

    def _sort_rows(self, rows: list[MixedRow]) -> tuple[int, int] | None:
        """Sort rows one by one, and return their range of indices, None when none is known."""
        low, high = self.next_index, -1
        for ts, explicit, fields in rows:
            may_merge = explicit and ts <= self.max_ts
            index = self._merge(ts, fields) if may_merge else self._add_point(ts, explicit, fields)
            if index is not None:
                low, high = min(low, index), max(high, index)
        return None if high < 0 else (low, high + 1)

    def _add_point(self, ts: float, explicit: bool, fields: dict[str, Any]) -> int:
        if self._found is not None:
            self._found.setdefault(ts, len(self._points))
        self._points.append({**fields, "_ts": ts})
        self._flags.append(explicit)
        self.max_ts = max(self.max_ts, ts)
        index = self.next_index
        self.next_index += 1
        return index

    def _merge(self, ts: float, fields: dict[str, Any]) -> int | None:
        """Add the fields to the point with this timestamp, wherever it is; make one when there is none.

        Returns its index; None where that is not known yet.
        """
        try:
            place = self.disk.find_in_segments(ts)
        except CorruptTrackError as error:
            self.out.stuck.append((ts, True, fields))
            self.out.damage = error
            return None
        except SegmentAway as away:
            self.out.waiting.append((ts, True, fields))
            return away.index
        if place is not None:
            name, index = place
            self._change(self.out.late.setdefault(name, {}), index, ts, fields)
            return index
        found = self.disk.find_in_hot(ts)
        if found is not None:
            self._change(self.out.hot, found, ts, fields)
            return found
        position = self._lookup().get(ts)
        if position is None:
            return self._add_point(ts, True, fields)
        point = self._points[position]
        point.update(fields)
        point["_ts"] = point.pop("_ts")
        return self.next_index - len(self._points) + position

    @staticmethod
    def _change(changes: Changes, index: int, ts: float, fields: dict[str, Any]) -> None:
        changes[index] = {**without_ts(changes.get(index, {})), **fields, "_ts": ts}

    def _lookup(self) -> dict[float, int]:
        if self._found is None:
            points: list[dict[str, Any]] = []
            flags: list[bool] = []
            for rows in self._pieces:
                points += rows.points()
                flags += rows.flags if isinstance(rows, PointRows) else [rows.explicit] * rows.count
            self._pieces = []
            self._points = points + self._points
            self._flags = flags + self._flags
            self._found = {}
            for position, point in enumerate(self._points):
                self._found.setdefault(point["_ts"], position)
        return self._found

    def _close_points(self) -> None:
        if self._points:
            self._pieces.append(PointRows(self._points, self._flags))
            self._points, self._flags = [], []


def with_changes(points: list[dict[str, Any]], start: int, changes: Changes) -> list[dict[str, Any]]:
    """Return the points, the first of which has the index `start`, with the changed fields; ``_ts`` stays last."""
    changed = list(points)
    for index, fields in changes.items():
        if start <= index < start + len(points):
            merged = {**changed[index - start], **without_ts(fields)}
            merged["_ts"] = merged.pop("_ts")
            changed[index - start] = merged
    return changed


def without_ts(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a point without its timestamp."""
    return {name: value for name, value in fields.items() if name != "_ts"}
