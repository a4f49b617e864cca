"""What stands on disk of one track as its writer knows it: live segments and hot points, and how they are learnt.

Nothing is changed here but what nobody had counted on: torn ends are cut off, and what a crash left beside is swept.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import dreamlake.storage.local as local
from dreamlake.engine.known import KnownSegments
from dreamlake.engine.sorting import Changes, with_changes
from dreamlake.engine.sweep import sweep
from dreamlake.errors import CorruptTrackError
from dreamlake.format import hot, layout, schema
from dreamlake.format.schema import Batch
from dreamlake.notices import log

if TYPE_CHECKING:
    from dreamlake.engine.late import LateFile

#: Batches of hot points that are kept apart: those of a batch loop come and go in a roll without being joined twice.
MOST_PIECES = 16


class KnownTrack(KnownSegments):
    """The live segments of a track, and its hot points as Arrow batches, kept for the roll.

    All methods run on the writer's thread and under the session's lock.
    """

    def __init__(self, folder: str, name: str, late: "LateFile", announce_rewrite: Callable[[], None]) -> None:
        super().__init__(folder, name, late)
        self.announce_rewrite = announce_rewrite
        self.hot_path = os.path.join(folder, layout.HOT_FILE)
        self._epochs: tuple[int, int] | None = None
        #: Whether the name of the hot file lasts; with `fsync` it has to, whoever made the file.
        self._name_lasts = False
        #: What of the hot file counts and how long it was, where the disk refused to cut off the rest.
        self._uncounted: tuple[int, int] | None = None
        self._reset()

    def _reset(self) -> None:
        self.reset_segments()
        #: Hot points in the order of their indices, the first of which is `start`.
        self.pieces: list[Batch] = []
        self.hot_count = 0
        #: Fields that later lines of the hot file set, by index; not yet in `pieces`.
        self.changes: Changes = {}
        #: Bytes and lines of the hot file that count.
        self.size = 0
        self.lines = 0
        self.max_ts = -inf
        self._hot_index: dict[float, int] | None = None

    @property
    def next_index(self) -> int:
        """The index of the next new point: one above the highest."""
        return self.start + self.hot_count

    # -- learning what is there ------------------------------------------------------------------------------------

    def learn(self, tail_epoch: int, full_epoch: int) -> None:
        """Bring what is known up to date with what other writers did; nothing to do while the epochs stand still."""
        if self._epochs is None or self._epochs[1] != full_epoch:
            self._load()
        elif self._epochs[0] != tail_epoch:
            self._read_tail()
        self._epochs = (tail_epoch, full_epoch)

    def begin(self, tail_epoch: int, full_epoch: int) -> None:
        """Know that nothing is there: the folder was made under this hold of the session's lock."""
        self._reset()
        self._name_lasts = False
        self._uncounted = None
        self._epochs = (tail_epoch, full_epoch)

    def forget(self) -> None:
        """Read everything again before the next write."""
        self._epochs = None

    def _load(self) -> None:
        self._reset()
        self._name_lasts = False
        filenames = _listdir(self.folder)
        self.learn_segments(filenames)
        self.max_ts = self.segments_max_ts
        self._read_hot()
        sweep(self.folder, filenames, self.live)

    def _read_hot(self) -> None:
        self._cut_uncounted()
        data = local.read_if_there(self.hot_path)
        lines = hot.parse(data, path=self.hot_path)
        try:
            start, points = hot.merge(lines, self.start)
        except hot.HotGapError as error:
            raise CorruptTrackError(self.hot_path, "its indices", self.start, None, str(error)) from error
        self.size, self.lines = lines.end, len(lines.indices)
        self._cut_torn_tail(len(data))
        if points:
            assert start == self.start
            self._take_points(points)

    def _read_tail(self) -> None:
        """Read what other writers have appended to the hot file, and to the rows that wait where some may."""
        if self.away or self.late.stamps:
            self.late.load()
        self._name_lasts = self._name_lasts and self.size > 0
        data = local.read_if_there(self.hot_path, self.size)
        known = range(self.start, self.next_index)
        lines = hot.parse(data, path=self.hot_path, base_offset=self.size, base_line=self.lines, known=known)
        new: dict[int, dict[str, Any]] = {}
        for index, fields in zip(lines.indices, lines.points, strict=True):
            following = self.next_index + len(new)
            if index > following:
                raise CorruptTrackError(self.hot_path, "its indices", following, index, "points are missing")
            if index == following:
                new[index] = fields
            elif index in new:
                new[index] = with_changes([new[index]], index, {index: fields})[0]
            elif index >= self.start:
                self.changes.setdefault(index, {}).update(fields)
        size = self.size + len(data)
        if new:
            self._take_points(list(new.values()))
        self.size = lines.end
        self.lines += len(lines.indices)
        self._cut_torn_tail(size)

    def _take_points(self, points: list[dict[str, Any]]) -> None:
        """Keep hot points that were read from the file."""
        self._keep(schema.batch_from_points(points))
        self.max_ts = max(self.max_ts, *(p["_ts"] for p in points))

    def _cut_torn_tail(self, size: int) -> None:
        if size > self.size:
            local.truncate(self.hot_path, self.size)
            log().warning("cut a torn line of %d bytes off %s", size - self.size, self.hot_path)

    def _keep(self, batch: Batch) -> None:
        """Keep hot points as Arrow. Small batches are joined so that each point is copied a few times at most."""
        pieces = self.pieces
        pieces.append(batch)
        self.hot_count += batch.data.num_rows
        if len(pieces) > MOST_PIECES:
            self._join_small()
        self._hot_index = None

    def _join_small(self) -> None:
        pieces = self.pieces
        place = len(pieces) - 1
        while place and pieces[place - 1].data.num_rows < 2 * sum(p.data.num_rows for p in pieces[place:]):
            place -= 1
        self.pieces = [*pieces[:place], schema.combine(pieces[place:])]

    def _cut_uncounted(self) -> None:
        """Cut off what could not be cut off when it was written, unless somebody has written behind it since."""
        if self._uncounted is not None:
            size, length = self._uncounted
            with suppress(FileNotFoundError):
                if os.stat(self.hot_path).st_size == length:
                    self.announce_rewrite()
                    local.truncate(self.hot_path, size)
            self._uncounted = None

    # -- looking for the point that an explicit timestamp means ----------------------------------------------------

    def find_in_hot(self, ts: float) -> int | None:
        """Return the lowest index of a hot point with this timestamp."""
        if self._hot_index is None:
            self._hot_index = {}
            index = self.start
            for batch in self.pieces:
                for value in schema.timestamps(batch.data):
                    self._hot_index.setdefault(value, index)
                    index += 1
        return self._hot_index.get(ts)

    def sweep(self) -> None:
        """Remove what nothing needs any more from the folder."""
        sweep(self.folder, _listdir(self.folder), self.live)


def _listdir(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
