"""Late fields that wait, in ``.late.jsonl``, for segments which are away; and how they are merged once these are here.

A row waits when its timestamp belongs to a point of an away segment, or may do so, or waits already: rows of one
timestamp keep their order. The file has a line a row, as the hot file has, with 0 for the index. Merging the same rows
twice gives the same, so a crash anywhere between the first merge and the end of the file is harmless.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import dreamlake.storage.local as local
from dreamlake.engine import away
from dreamlake.engine.pending import Block
from dreamlake.engine.segments import SegmentFiles
from dreamlake.engine.sorting import FieldsDoNotFit, Sorter, without_ts
from dreamlake.errors import CorruptTrackError, PointsNotHereError
from dreamlake.format import hot, layout, live, point
from dreamlake.format.layout import SegmentName
from dreamlake.notices import log
from dreamlake.storage.localstore import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from dreamlake.engine.ondisk import TrackOnDisk
    from dreamlake.engine.rows import MixedRow
    from dreamlake.storage.store import Store

#: Segments, and bytes of them, that are wanted at once; at least one.
MOST_WANTED = 16
MOST_WANTED_BYTES = 64 << 20


def parse(data: bytes, path: str) -> hot.HotLines:
    """The rows that wait, out of the bytes of the file at `path`. Raises CorruptTrackError for a damaged line."""
    lines = hot.parse(data, path=path)
    for number, fields in enumerate(lines.points, 1):
        if "_ts" not in fields:  # in a hot file the earlier line of the same point may have it
            raise CorruptTrackError(path, f"line {number}", detail="a row that waits has no _ts")
    return lines


def damaged(data: bytes) -> list[tuple[int, int, str]]:
    """The whole lines that hold no row: the number of each from 1, its place in bytes, and what is wrong."""
    found, place = [], 0
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        found += [(number, place, reason) for _, _, reason in hot.parse(line + b"\n", errors="skip").damaged]
        place += len(line) + 1
    return found


class LateFile:
    """The rows of one track that wait; all methods but `rows` run under the session's lock."""

    def __init__(self, folder: str, fsync: bool) -> None:
        self.path = os.path.join(folder, layout.LATE_FILE)
        self.fsync = fsync
        #: Whether an fsync of the file failed: what is in it may not be on disk, whatever a second one says.
        self._doubtful = False
        self.reset()

    def reset(self) -> None:
        """Know of no row."""
        #: The timestamps that wait.
        self.stamps: set[float] = set()
        self._size = 0

    def load(self) -> None:
        """Learn what waits, and cut off a torn line. Raises CorruptTrackError when a whole line is damaged."""
        data = local.read_if_there(self.path)
        lines = parse(data, self.path)
        if len(data) > lines.end:
            local.truncate(self.path, lines.end)
            log().warning("cut a torn line of %d bytes off %s", len(data) - lines.end, self.path)
        self.stamps = {fields["_ts"] for fields in lines.points}
        self._size = lines.end

    def append(self, rows: Sequence[MixedRow]) -> None:
        """Let rows wait. Raises OSError, SizeChanged; some may wait all the same, then `load` is needed."""
        data = _encode(rows)
        if self._doubtful:
            local.atomic_write(self.path, local.read_if_there(self.path), fsync=True)
            self._doubtful = False
        try:
            local.append_at(self.path, self._size, data, self.fsync)
        except local.FsyncFailed:
            # The rows go, and are written again, to a new file.
            self._doubtful = True
            local.cut_off(self.path, self._size)
            raise
        self.stamps.update(row[0] for row in rows)
        self._size += len(data)

    def replace(self, rows: Sequence[MixedRow]) -> None:
        """Let these rows wait and no others. On disk for good when it returns: no merged row must come back later."""
        data = _encode(rows)
        if rows:
            local.atomic_write(self.path, data, fsync=True)
        else:
            local.os_.unlink(self.path)
            local.fsync_dir(os.path.dirname(self.path))
        self.stamps = {row[0] for row in rows}
        self._size = len(data)

    def rows(self) -> list[MixedRow]:
        """The rows that wait, in the order of their arrival."""
        points = parse(local.read_if_there(self.path), self.path).points
        return [(fields["_ts"], True, without_ts(fields)) for fields in points]


def tracks_that_wait(session: str) -> list[str]:
    """The tracks, as folders below the folder of their session, in which rows wait. Raises CorruptTrackError."""
    found = []
    for path in LocalStore(session).walk(layout.TRACKS_DIR):
        below, _, filename = path.rpartition("/")
        if filename == layout.LATE_FILE and _has_rows(os.path.join(session, *path.split("/"))):
            try:
                layout.track_name(below)
            except ValueError:
                continue  # a folder that dreamlake never makes
            found.append(below)
    return found


def _has_rows(path: str) -> bool:
    """Whether there is a whole line: of the first one a crash may have left a part, or the empty file."""
    try:
        return b"\n" in local.read_if_there(path)
    except CorruptTrackError:
        return True  # whoever merges them tells


def waits(folder: str) -> bool:
    """Whether any row of the track in `folder` waits, though it may be for nothing more; on any thread."""
    return _has_rows(os.path.join(folder, layout.LATE_FILE))


def wanted(folder: str, but: Collection[SegmentName] = ()) -> list[SegmentName]:
    """The away segments that the waiting rows of the track in `folder` need next, some at a time; on any thread.

    Those of `but` are left out: they were tried in vain. Raises CorruptTrackError when what waits, or what is away,
    cannot be read.
    """
    path = os.path.join(folder, layout.LATE_FILE)
    rows = parse(local.read_if_there(path), path).points
    if not rows:
        return []
    records = away.read(folder)
    here = set(live.parse_listing(os.listdir(folder)))
    candidates = [records[name] for name in live.survey(here | records.keys())[0] if name not in here]
    columns: dict[SegmentName, frozenset[float] | None] = {}
    found: dict[SegmentName, int] = {}
    for ts in dict.fromkeys(fields["_ts"] for fields in rows):
        for record in candidates:
            if record.bounds.ts_min <= ts <= record.bounds.ts_max:
                name = record.name
                if name not in columns:
                    column = away.stamps(folder, name)
                    columns[name] = None if column is None else frozenset(column)
                known = columns[name]
                if known is None or ts in known:
                    found[name] = record.nbytes
                    if known is not None:
                        break
    return _some({name: nbytes for name, nbytes in found.items() if name not in but})


def _some(found: Mapping[SegmentName, int]) -> list[SegmentName]:
    chosen: list[SegmentName] = []
    total = 0
    for name, nbytes in found.items():
        total += nbytes
        if chosen and (total > MOST_WANTED_BYTES or len(chosen) == MOST_WANTED):
            break
        chosen.append(name)
    return chosen


# ------------------------------------------------------------------------------------------------ merging


def settle_all(
    wanted: Callable[[Collection[SegmentName]], list[SegmentName]], merge: Callable[[list[SegmentName]], None]
) -> None:
    """Have all waiting rows of a track merged: a few segments at a time, those that cannot be merged once.

    Parameters
    ----------
    wanted
        As the function of that name, for this track.
    merge
        Fetches these segments, and has `settle` called with them. It may get none: rows may wait for nothing more.

    Raises
    ------
    CorruptTrackError, FieldsDoNotFit
        What it raised first. Rows for such segments wait on, those for all others are merged.
    """
    error: CorruptTrackError | FieldsDoNotFit | None = None
    stuck: list[SegmentName] = []
    before: list[SegmentName] = []
    names = wanted(stuck)
    while True:
        try:
            merge(names)
        except (CorruptTrackError, FieldsDoNotFit) as failed:
            error = error or failed
            stuck += names
        else:
            if names == before:  # a row goes on waiting for one of those that are left out
                stuck += names
        # One that was merged may be wanted once more: by a row that first waited for the timestamps of others.
        before, names = names, wanted(stuck)
        if not names:
            break
    if error is not None:
        raise error


def fetch(remote: Store, there: str, name: SegmentName, here: str) -> bytes:
    """The bytes of a segment that rows wait for.

    Parameters
    ----------
    there, here
        The track's folder, below the root of `remote` and on this machine.

    Raises
    ------
    PointsNotHereError
        It is not there any more, since another machine has merged it, say.
    """
    path = f"{there}/{name.filename}"
    try:
        return remote.get(path)
    except FileNotFoundError as error:
        raise PointsNotHereError(here, name.start, name.stop, (remote.describe(),), remote.describe(path)) from error


def settle(disk: TrackOnDisk, fetched: Mapping[SegmentName, bytes]) -> None:
    """Sort the waiting rows anew, with these away segments at hand; what still misses one goes on waiting.

    Runs on the writer's thread, under the session's lock, for a track that is known as it is on disk.

    Raises
    ------
    OSError
        The disk failed: all rows wait that waited before, and merging them again is harmless. Or (EFBIG) rows do not
        fit into their segment: these wait, all else is merged.
    CorruptTrackError
        Bytes that were fetched are damaged, or a local segment is: the rows for these wait, all else is merged.
    """
    waiting = disk.late.rows()
    if not waiting:
        return
    disk.announce_rewrite()
    try:
        damage: CorruptTrackError | FieldsDoNotFit | None = _take_in(disk, fetched)
        disk.late.reset()  # or all of these rows would wait again
        block = Block()
        block.rows = waiting
        rows = Sorter(disk).sort([block])
        left = {row[0] for row in rows.waiting}
        rows.waiting = []
        try:
            disk.write(rows, whole_segments_only=False)
        except (CorruptTrackError, FieldsDoNotFit) as error:
            damage = error
            left |= {row[0] for row in rows.stuck}
            left |= {fields["_ts"] for changes in rows.late.values() for fields in changes.values()}
        disk.late.replace([row for row in waiting if row[0] in left])
        away.sweep_stamps(disk.folder, os.listdir(disk.folder), disk.away.keys())
    except BaseException:
        disk.forget()
        raise
    finally:
        disk.fetched = {}
    if damage is not None:
        raise damage


def _take_in(disk: TrackOnDisk, fetched: Mapping[SegmentName, bytes]) -> CorruptTrackError | None:
    """Give the track the fetched segments, and keep their timestamps; return the damage of one that is left out."""
    damage = None
    for name, data in fetched.items():
        if name in disk.away:
            store: Any = _Fetched(data, os.path.join(disk.folder, name.filename))
            files = SegmentFiles(store, "", disk.name)
            try:
                column = files.read(name, len(data), ["_ts"])[0].column("_ts").combine_chunks()
                bounds = files.info(name, len(data)).bounds
            except CorruptTrackError as error:
                damage = error
                continue
            # Before anything is merged: rows that turn out to be new points must find these, not wait, if done again.
            away.write_stamps(disk.folder, disk.name, bounds, column, disk.fsync)
            disk.take_in(name, files)
    return damage


class _Fetched:
    """What is read of a store, for one file that was fetched from the replica."""

    is_local = True

    def __init__(self, data: bytes, place: str) -> None:
        self.data = data
        self.place = place

    def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        return self.data[start:stop]

    def size(self, path: str) -> int:
        return len(self.data)

    def describe(self, path: str = "") -> str:
        return f"{self.place}, as the replica has it"


def _encode(rows: Iterable[MixedRow]) -> bytes:
    return point.encode_lines((0, {**fields, "_ts": ts}) for ts, _, fields in rows)
