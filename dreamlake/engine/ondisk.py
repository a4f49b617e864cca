"""Every change that a writer makes to one track on the local disk.

All methods run on the writer's thread and under the session's lock. What is known of the track is kept in step with the
disk after each single commit, so that an error half-way leaves a state from which the next flush can go on.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import dreamlake.storage.local as local
from dreamlake.engine import away, late, roll
from dreamlake.engine.knowntrack import KnownTrack
from dreamlake.engine.sorting import Changes, FieldsDoNotFit, RowQueue, Sorted, with_changes, without_ts
from dreamlake.errors import CorruptTrackError
from dreamlake.format import logical, point, schema, segment
from dreamlake.format.layout import SegmentName
from dreamlake.format.schema import Batch

if TYPE_CHECKING:
    from dreamlake.engine.compaction import Merged
    from dreamlake.engine.rows import Rows

#: A hot file of this many bytes is rolled before it has `segment_points` points.
ROLL_BYTES = 32 << 20


class TrackOnDisk(KnownTrack):
    """One track on disk: lines, rolls, merged segments and later generations are written to it here."""

    def __init__(
        self,
        folder: str,
        name: str,
        segment_points: int,
        fsync: bool,
        announce_rewrite: Callable[[], None],
        freed: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(folder, name, late.LateFile(folder, fsync), announce_rewrite)
        self.segment_points = segment_points
        self.fsync = fsync
        #: Called in a roll before each long stretch that needs no lock of Python's.
        self._freed = freed
        #: Whether the hot file has to be written anew, whatever is learnt of it meanwhile.
        self.must_rewrite = False
        #: Whether the last roll failed: then one usual segment at a time, since a full disk may have room for that.
        self._cautious = False
        #: What segments take that were read for a merge which was too large, see `segment.decoded_size`.
        self.decoded_sizes: dict[SegmentName, int] = {}

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, rows: Sorted, whole_segments_only: bool, last: bool = False) -> None:
        """Write what a flush has sorted, and take out of `rows` what is on disk; the rest is left there.

        Parameters
        ----------
        last
            Whether nothing is likely to be rolled by this process later: then few rows become lines only, and not Arrow
            batches too, which are kept for a roll; a write that follows all the same reads the lines again.

        Raises OSError when the disk fails. What was committed before stays, and stays out of `rows`. Raises
        CorruptTrackError after all else was written, when late fields belong to a damaged segment, and OSError (EFBIG)
        when they do not fit into theirs.
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
            except (CorruptTrackError, FieldsDoNotFit) as error:
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
        """Whether these rows are far from a roll, and nothing else in this write needs to know of them."""
        if rows.hot or rows.waiting or self.late.stamps or not rows.new.count:
            return False
        if self.hot_count + rows.new.count >= self.segment_points:
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
        usual = widths
        while cuts := roll.cut(self.hot_count, rows.new.count, widths, everything):
            drafts = self._drafts(rows.new, cuts[:1] if self._cautious or widths != usual else cuts)
            fitting = list(takewhile(lambda draft: not roll.is_too_large(draft.batch), drafts))
            if not fitting and widths.usual > 1:
                widths = widths.halved()
                continue
            drafts = fitting or drafts
            try:
                roll.write_all(self.folder, drafts, lambda draft, tmp: self._commit(draft, tmp, rows), self._freed)
            except OSError:
                self._cautious = True
                raise
            widths = usual  # what was large may be behind us
        self._cautious = False
        if self.lines:
            self._rewrite_hot()
            rows.hot.clear()

    def _drafts(self, new: RowQueue, cuts: list[roll.Cut]) -> list[roll.Draft]:
        """Return the segments of these cuts: first hot points, then new rows."""
        drafts: list[roll.Draft] = []
        hot_total = sum(cut.hot for cut in cuts)
        # Joined with the new rows in one go where all go into one segment: so each point is copied once.
        in_one = cuts[0].hot == self.hot_count and not self.changes
        hot = self._checked_pieces() if in_one else [self._hot_batch(hot_total)] if hot_total else []
        hot_place = new_place = 0
        start, known, bounds = self.start, self.schema, self.bounds
        for cut in cuts:
            batches = [piece.batch() for piece in new.part(new_place, new_place + cut.new)]
            if cut.hot:
                batches[:0] = hot if in_one else [hot[0].slice(hot_place, hot_place + cut.hot)]
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
        self.pieces = [schema.combine(self._checked_pieces())]
        batch = self.pieces[0].slice(0, count)
        if not self.changes:
            return batch
        points = schema.to_points(batch.data, batch.schema)
        return schema.batch_from_points(with_changes(points, self.start, self.changes))

    def _checked_pieces(self) -> list[Batch]:
        """Return the hot points as kept; the hot file is replaced by these, or emptied when they are rolled."""
        known = sum(map(len, self.pieces))
        if known != self.hot_count:
            raise AssertionError(f"{known} hot points are known of {self.hot_count}")
        return self.pieces

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

    # -- segments that are only on the replica ---------------------------------------------------------------------

    def drop(self, names: Collection[SegmentName], bare: bool = False) -> None:
        """Delete segments that are on the replica; see `away.drop`. When this raises, some may be deleted."""
        self.announce_rewrite()
        self.away.update(away.drop(self.folder, self.name, names, self.fsync, bare))

    def wanted(self, but: Collection[SegmentName] = ()) -> list[SegmentName]:
        """Return the away segments that waiting rows need next; see `late.wanted`."""
        return late.wanted(self.folder, but)

    def settle(self, fetched: Mapping[SegmentName, bytes]) -> None:
        """Merge the rows that waited for these segments; see `late.settle`."""
        late.settle(self, fetched)

    # -- late fields -----------------------------------------------------------------------------------------------

    def _write_next_generation(self, name: SegmentName, changes: Changes) -> None:
        """Write the segment's next generation, with fields that arrived after its points were rolled."""
        self.announce_rewrite()
        batch = self._changed(name, changes)
        if batch is None:
            return
        place = self.live.index(name)
        following = SegmentName(name.start, name.stop, name.generation + 1)
        # The footer says which generations it knows of, so its schema must hold what late fields made of these too.
        known = logical.unify_schemas(self.schema, batch.schema)
        # What a repair lost of these points stays told.
        said = self.fetched.get(name, self.files).info(name, None).repaired
        draft = roll.draft(self.name, following, batch, known, self.bounds[:place], repaired=said)
        path = os.path.join(self.folder, following.filename)
        try:
            data = segment.encode(batch, draft.info)
        except segment.SegmentTooLarge as error:
            raise FieldsDoNotFit(f"its late fields stay pending: with them {error}", path) from error
        try:
            local.write_new(path, data)
        except OSError:
            self.forget()  # it may be there all the same
            raise
        self.live = (*self.live[:place], following, *self.live[place + 1 :])
        self.bounds = (*self.bounds[:place], draft.info.bounds, *self.bounds[place + 1 :])
        self.away.pop(name, None)
        self.schema = logical.unify_schemas(self.schema, batch.schema)
        self.sweep()

    def _changed(self, name: SegmentName, changes: Changes) -> Batch | None:
        """The points of a segment with the changed fields; None where the changes change nothing.

        Of a long segment only the row groups that hold a change are taken apart: a million points as dicts would take
        seconds, and a kilobyte each.
        """
        rows = segment.WIDE_ROW_GROUP
        changed_in: defaultdict[int, Changes] = defaultdict(dict)
        for index, fields in changes.items():
            changed_in[(index - name.start) // rows][index] = fields
        table, own_schema = self.read_segment(name, None)
        parts: list[Batch] = []
        taken_apart: dict[int, list[dict[str, Any]]] = {}
        for number, at in enumerate(range(0, table.num_rows, rows)):
            part = table.slice(at, rows)
            parts.append(Batch(own_schema, part.combine_chunks().to_batches()[0]))
            if number in changed_in:
                points = self.files.points(name, part, own_schema)
                changed = with_changes(points, name.start + at, changed_in[number])
                if point.encode_lines(enumerate(changed)) != point.encode_lines(enumerate(points)):
                    taken_apart[number] = changed
                    parts[number] = schema.batch_from_points(changed)
        if not taken_apart:
            return None
        # What is JSON somewhere has to be made from the values everywhere: 4 beside 0.5 would be 4.0 by now.
        kinds = logical.unify_schemas(*(part.schema for part in parts))
        texts = {field for field, kind in kinds.items() if kind == "json"}
        for number, changed in taken_apart.items():
            if any(parts[number].schema.get(field, "json") != "json" for field in texts):
                parts[number] = schema.batch_from_points(changed, texts & parts[number].schema.keys())
        return schema.combine(parts)
