"""One track on the local disk as its writer knows it, and every change that is made to it there.

All methods run on the writer's thread and under the session's lock. What is known here is kept in step with the disk
after each single commit, so that an error half-way leaves a state from which the next flush can go on.
"""

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import dreamlake.storage.local as local
from dreamlake.engine import away, late, roll
from dreamlake.engine.known import KnownSegments
from dreamlake.engine.sorting import Changes, RowQueue, Sorted, without_ts
from dreamlake.engine.sweep import sweep
from dreamlake.errors import CorruptTrackError
from dreamlake.format import hot, layout, logical, point, schema, segment
from dreamlake.format.layout import SegmentName
from dreamlake.format.schema import Batch
from dreamlake.notices import log

if TYPE_CHECKING:
    from dreamlake.engine.compaction import Merged
    from dreamlake.engine.rows import Rows

#: A hot file of this many bytes is rolled before it has `segment_points` points.
ROLL_BYTES = 32 << 20
#: Batches of hot points that are kept apart: those of a batch loop come and go in a roll without being joined twice.
MOST_PIECES = 16


class TrackOnDisk(KnownSegments):
    """What stands on disk of one track: its live segments, and its hot points as Arrow batches, kept for the roll."""

    def __init__(
        self, folder: str, name: str, segment_points: int, fsync: bool, announce_rewrite: Callable[[], None]
    ) -> None:
        super().__init__(folder, name, late.LateFile(folder, fsync))
        self.segment_points = segment_points
        self.fsync = fsync
        self.announce_rewrite = announce_rewrite
        self.hot_path = os.path.join(folder, layout.HOT_FILE)
        self._epochs: tuple[int, int] | None = None
        #: Whether the hot file has to be written anew, whatever is learnt of it meanwhile.
        self.must_rewrite = False
        #: Whether the last roll failed: then one usual segment at a time, since a full disk may have room for that.
        self._cautious = False
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

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, rows: Sorted, whole_segments_only: bool, last: bool = False) -> None:
        """Write what a flush has sorted, and take out of `rows` what is on disk; the rest is left there.

        Parameters
        ----------
        last
            Whether nothing is likely to be rolled by this process later: then few rows become lines only, and not Arrow
            batches too, which are kept for a roll; a write that follows all the same reads the lines again.

        Raises OSError when the disk fails. What was committed before stays, and stays out of `rows`. Raises
        CorruptTrackError after all else was written, when late fields belong to a damaged segment.
        """
        self._write_late(rows)
        self._write_new(rows, whole_segments_only, last)
        # Behind all new points, since theirs may be among these: merged first, they would be points of their own.
        if rows.waiting and not rows.new.count:
            self._let_wait(rows)
        if rows.damage is not None:
            raise rows.damage
        if self.late.stamps and not late.wanted(self.folder):
            late.settle(self, {})  # what they waited for is here by now

    def _let_wait(self, rows: Sorted) -> None:
        try:
            self.late.append(rows.waiting)
        except BaseException:  # some of it may be in the file; then it is merged twice, which changes nothing
            self.forget()
            raise
        rows.waiting = []

    def _write_late(self, rows: Sorted) -> None:
        for name in list(rows.late):
            try:
                self._write_next_generation(name, rows.late[name])
                del rows.late[name]
            except CorruptTrackError as error:
                rows.damage = error

    def _write_new(self, rows: Sorted, whole_segments_only: bool, last: bool) -> None:
        if self.must_rewrite:
            self._rewrite_hot()
        if last and self._stays_hot(rows):
            self._append_lines(rows, keep=False)
            return
        # All rows become Arrow before anything is written: rows that cannot be kept for the roll must not be lines yet.
        large = self.size + sum(piece.batch().data.nbytes for piece in rows.new.pieces) >= ROLL_BYTES
        if large or self.hot_count + rows.new.count >= self.segment_points:
            self._roll(rows, everything=large)
            if whole_segments_only:
                return
        if rows.hot or rows.new.count:
            self._append_lines(rows)
        if self.lines > 2 * self.hot_count:
            self._rewrite_hot()

    def _stays_hot(self, rows: Sorted) -> bool:
        """Whether these rows are far from a roll, and their lines need no memory of them after a failed fsync."""
        if self.fsync or rows.hot or not rows.new.count or self.hot_count + rows.new.count >= self.segment_points:
            return False
        return self.size + sum(piece.nbytes for piece in rows.new.pieces) < ROLL_BYTES

    def _append_lines(self, rows: Sorted, keep: bool = True) -> None:
        """Append lines for new points and for fields of hot points to the hot file; `keep` them for a roll, too."""
        changed, pieces = list(rows.hot), rows.new.part(0, rows.new.count)
        data = [point.encode_line(i, without_ts(f), f["_ts"]) for i, f in rows.hot.items()]
        index = self.next_index
        for piece in pieces:
            data.append(piece.lines(index))
            index += piece.count
        payload = b"".join(data)
        try:
            written = local.append_at(self.hot_path, self.size, payload, self.fsync, self._name_lasts)
            self._name_lasts = self.fsync
        except local.FsyncFailed:
            # The lines are in the file, but the kernel may have marked them clean without writing them: a second
            # fsync that succeeds would prove nothing. So the next flush writes all rows to a new file.
            self.must_rewrite = True
            self._take_lines(rows, changed, pieces, len(payload))
            raise
        except local.PartialWriteError as error:
            try:
                self._take_over(rows, payload, error.written)
            finally:  # also what memory did not suffice to count: it stays pending, and is written again
                self._cut_torn_tail_quietly(self.size)
            raise
        except MemoryError:
            self._cut_torn_tail_quietly(self.size)
            raise
        except local.SizeChanged:
            self.forget()
            raise
        self._take_lines(rows, changed, pieces, written, keep)

    def _take_over(self, rows: Sorted, payload: bytes, written: int) -> None:
        """Count the whole lines among the first bytes, which reached the hot file, as written."""
        end = payload.rfind(b"\n", 0, written) + 1
        lines = payload.count(b"\n", 0, end)
        changed = list(rows.hot)[:lines]
        self._take_lines(rows, changed, rows.new.part(0, lines - len(changed)), end)

    def _take_lines(
        self, rows: Sorted, changed: list[int], pieces: "list[Rows]", nbytes: int, keep: bool = True
    ) -> None:
        """Count the first lines, which take so many bytes, as written: of these hot points, and of these new ones.

        Where they are not to `keep` the track is learnt anew before the next write.

        First what needs no memory, so that no line that is in the file stays pending. What fails then is no OSError,
        and the track is learnt anew, see `TrackWriter._write`.
        """
        count = sum([piece.count for piece in pieces])
        rows.new.drop(count)
        self.size += nbytes
        self.lines += len(changed) + count
        for index in changed:
            self.changes.setdefault(index, {}).update(rows.hot.pop(index))
        if not keep:
            self.hot_count += count
            self.forget()
            return
        for piece in pieces:
            self._keep(piece.batch())
            self.max_ts = max(self.max_ts, piece.max_ts)

    def _cut_torn_tail_quietly(self, size: int) -> None:
        try:
            done = local.cut_off(self.hot_path, size)
        except MemoryError:
            done = False
        if not done:  # the disk is failing: the next flush cuts it before anything else
            self.forget()
            with suppress(OSError):
                self._uncounted = size, os.stat(self.hot_path).st_size

    def _cut_uncounted(self) -> None:
        """Cut off what could not be cut off when it was written, unless somebody has written behind it since."""
        if self._uncounted is not None:
            size, length = self._uncounted
            with suppress(FileNotFoundError):
                if os.stat(self.hot_path).st_size == length:
                    self.announce_rewrite()
                    local.truncate(self.hot_path, size)
            self._uncounted = None

    # -- rolling ---------------------------------------------------------------------------------------------------

    def _roll(self, rows: Sorted, everything: bool) -> None:
        """Move hot points, and behind them new rows that were never hot, into segments; `everything`, or whole ones.

        1. Write a segment beside, fsync, rename it without overwriting, fsync the folder: this rename is the commit.
        2. Replace the hot file by one without its points. A crash in between leaves points in both, and the rule
           that an index below the end of the segments is the segment's makes that harmless.
        """
        self.announce_rewrite()
        for index, fields in rows.hot.items():
            self.changes.setdefault(index, {}).update(fields)
        batches = [*self.pieces, *(piece.batch() for piece in rows.new.pieces)]
        widths = roll.Widths.of(batches, self.segment_points)
        if self._cautious:
            widths = roll.Widths(widths.usual, widths.usual)
        while cuts := roll.cut(self.hot_count, rows.new.count, widths, everything):
            drafts = self._drafts(rows.new, cuts[:1] if self._cautious else cuts)
            try:
                roll.write_all(self.folder, drafts, lambda draft, tmp: self._commit(draft, tmp, rows))
            except OSError:
                self._cautious = True
                raise
        self._cautious = False
        if self.lines:
            self._rewrite_hot()
            rows.hot.clear()

    def _drafts(self, new: RowQueue, cuts: list[roll.Cut]) -> list[roll.Draft]:
        """Return the segments of these cuts: first hot points, then new rows."""
        drafts: list[roll.Draft] = []
        hot_total = sum(cut.hot for cut in cuts)
        hot_batch = self._hot_batch(hot_total) if hot_total else None
        hot_place = new_place = 0
        start, known, bounds = self.start, self.schema, self.bounds
        for cut in cuts:
            batches = [piece.batch() for piece in new.part(new_place, new_place + cut.new)]
            if hot_batch is not None and cut.hot:
                batches.insert(0, hot_batch.slice(hot_place, hot_place + cut.hot))
            name = SegmentName(start, start + cut.hot + cut.new)
            draft = roll.draft(self.name, name, schema.combine(batches), known, bounds, cut)
            drafts.append(draft)
            start, known, bounds = name.stop, draft.info.track_schema, (*bounds, draft.info.bounds)
            hot_place += cut.hot
            new_place += cut.new
        return drafts

    def _commit(self, draft: roll.Draft, tmp: str, rows: Sorted) -> None:
        """Give one segment its name, and count its points as written."""
        try:
            local.commit_new(tmp, os.path.join(self.folder, draft.name.filename))
        except local.CommittedUnsynced:
            self._count(draft, rows)
            raise
        except FileExistsError:
            self.forget()
            raise
        self._count(draft, rows)

    def _count(self, draft: roll.Draft, rows: Sorted) -> None:
        from_hot, from_new = draft.cut
        self.live = (*self.live, draft.name)
        self.bounds = (*self.bounds, draft.info.bounds)
        self.schema = draft.info.track_schema
        self.max_ts = max(self.max_ts, draft.info.ts_max)
        self.segments_max_ts = max(self.segments_max_ts, draft.info.ts_max)
        rows.new.drop(from_new)
        rows.hot = {index: fields for index, fields in rows.hot.items() if index >= self.start}
        self.hot_count -= from_hot
        self.pieces = [self.pieces[0].slice(from_hot, from_hot + self.hot_count)] if self.hot_count else []
        self.changes = {index: fields for index, fields in self.changes.items() if index >= self.start}
        self._hot_index = None

    def _hot_batch(self, count: int) -> Batch:
        """Return the first `count` hot points, with the fields that came later."""
        self.pieces = [schema.combine(self.pieces)]
        batch = self.pieces[0].slice(0, count)
        if not self.changes:
            return batch
        points = schema.to_points(batch.data, batch.schema)
        return schema.batch_from_points(with_changes(points, self.start, self.changes))

    def _rewrite_hot(self) -> None:
        """Replace the hot file by one with a line for each hot point, fsynced: it takes the place of a durable one.

        An empty one needs no fsync: if a power loss brings the old lines back, they are below the segments' end.
        """
        self.announce_rewrite()
        data = b""
        if self.hot_count:
            batch = self._hot_batch(self.hot_count)
            self.pieces, self.changes = [batch], {}
            data = point.encode_lines(enumerate(schema.to_points(batch.data, batch.schema), self.start))
        self._name_lasts = False
        local.atomic_write(self.hot_path, data, fsync=bool(data))
        self._name_lasts = bool(data)
        self.size, self.lines, self.must_rewrite = len(data), self.hot_count, False

    # -- merged segments ------------------------------------------------------------------------------------------

    def replace_parts(self, merged: "Merged") -> bool:
        """Give a merged segment its name, if its parts all count and are here; whether that was done.

        When this raises, the segment may be there all the same: whoever calls learns the track anew, as after `drop`.

        The name is the commit: the widest range counts. The parts stay for readers that have listed them, until a
        sweep finds that they were replaced long enough ago.
        """
        place = self.live.index(merged.parts[0]) if merged.parts[0] in self.live else 0
        behind = place + len(merged.parts)
        if self.live[place:behind] != merged.parts or not self.away.keys().isdisjoint(merged.parts):
            local.remove_quietly(merged.tmp)
            return False
        self.announce_rewrite()
        try:
            local.commit_new(merged.tmp, os.path.join(self.folder, merged.name.filename))
        except FileNotFoundError:  # this process stood still for so long that another took it for a crashed one's
            return False
        self.live = (*self.live[:place], merged.name, *self.live[behind:])
        self.bounds = (*self.bounds[:place], merged.info.bounds, *self.bounds[behind:])
        return True

    def sweep(self) -> None:
        """Remove what nothing needs any more from the folder."""
        sweep(self.folder, _listdir(self.folder), self.live)

    # -- segments that are only on the replica ---------------------------------------------------------------------

    def drop(self, names: Collection[SegmentName]) -> None:
        """Delete segments that are on the replica; see `away.drop`. When this raises, some may be deleted."""
        self.announce_rewrite()
        self.away.update(away.drop(self.folder, self.name, names, self.fsync))

    def wanted(self) -> list[SegmentName]:
        """Return the away segments that waiting rows need next; see `late.wanted`."""
        return late.wanted(self.folder)

    def settle(self, fetched: Mapping[SegmentName, bytes]) -> None:
        """Merge the rows that waited for these segments; see `late.settle`."""
        late.settle(self, fetched)

    # -- late fields -----------------------------------------------------------------------------------------------

    def _write_next_generation(self, name: SegmentName, changes: Changes) -> None:
        """Write the segment's next generation, with fields that arrived after its points were rolled."""
        self.announce_rewrite()
        table, own_schema = self.read_segment(name, None)
        points = self.files.points(name, table, own_schema)
        changed = with_changes(points, name.start, changes)
        place = self.live.index(name)
        if point.encode_lines(enumerate(changed)) != point.encode_lines(enumerate(points)):
            batch = schema.batch_from_points(changed)
            following = SegmentName(name.start, name.stop, name.generation + 1)
            # The footer says which generations it knows of, so its schema must hold what late fields made of these too.
            known = logical.unify_schemas(self.schema, batch.schema)
            # What a repair lost of these points stays told.
            said = self.fetched.get(name, self.files).info(name, None).repaired
            draft = roll.draft(self.name, following, batch, known, self.bounds[:place], repaired=said)
            path = os.path.join(self.folder, following.filename)
            try:
                local.write_new(path, segment.encode(batch, draft.info))
            except OSError:
                self.forget()  # it may be there all the same
                raise
            self.live = (*self.live[:place], following, *self.live[place + 1 :])
            self.bounds = (*self.bounds[:place], draft.info.bounds, *self.bounds[place + 1 :])
            self.away.pop(name, None)
            self.schema = logical.unify_schemas(self.schema, batch.schema)
            self.sweep()


def with_changes(points: list[dict[str, Any]], start: int, changes: Changes) -> list[dict[str, Any]]:
    """Return the points, the first of which has the index `start`, with the changed fields; ``_ts`` stays last."""
    changed = list(points)
    for index, fields in changes.items():
        if start <= index < start + len(points):
            merged = {**changed[index - start], **without_ts(fields)}
            merged["_ts"] = merged.pop("_ts")
            changed[index - start] = merged
    return changed


def _listdir(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
