"""One track of a writer: its pending points, and the flush that brings them to what stands on disk."""

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dreamlake.engine.pending import Block, Owner, Pending, chain_of
from dreamlake.format import layout
from dreamlake.notices import log

if TYPE_CHECKING:
    from dreamlake.engine.footing import Footing
    from dreamlake.engine.options import Options
    from dreamlake.engine.sessionlock import SessionLock
    from dreamlake.engine.trackfile import TrackFile
    from dreamlake.format.layout import SegmentName
    from dreamlake.types import CompactResult

T = TypeVar("T")

#: Bytes of an indented JSON text for one of the same without spaces, at most: an item of two bytes, 64 lists deep.
MOST_INDENTED = 24
#: Bytes of a metadata.json that says nothing but the name, at most.
LEAST_SAID = 8192


class WriterOfSession(Owner, Protocol):
    """What a track needs of the writer of its session."""

    folder: str
    options: "Options"
    session_lock: "SessionLock"
    footing: "Footing"

    def free(self) -> None:
        """Let a loop go on that waits for a roll, which needs no lock of Python's for a while."""


class TrackWriter:
    """One track of a writer: its pending points and, from the first flush on, what is known of it on disk."""

    def __init__(self, writer: "WriterOfSession", name: str) -> None:
        self.writer = writer
        self.name = name
        self.folder = os.path.join(writer.folder, *layout.track_dir(name).split("/"))
        self.pending = Pending(writer)
        #: A description, tags and metadata that no flush has written yet.
        self.described: dict[str, Any] = {}
        #: So many bytes metadata.json will have with that, at most; None before it was looked at.
        self._most_said: int | None = None
        self._has_folder = False
        self._disk: Any = None
        #: Live segments when it was last asked whether there is much to merge.
        self._live_before = 0

    @property
    def has_written(self) -> bool:
        """Whether a flush of this process has found or left points of it on the disk."""
        return self._disk is not None and self._disk.next_index > 0

    def describe(self, nbytes: int, **given: Any) -> None:
        """Take a description, tags or metadata; merged into metadata.json by the next flush, later values win.

        Parameters
        ----------
        nbytes
            An upper bound of what is given as JSON without spaces.

        Raises
        ------
        ValueError
            metadata.json would be too large for its readers. Nothing is taken then.
        """
        described = self.described
        for key, value in given.items():
            if value is not None:
                merged = {**described.get(key, {}), **value} if key == "metadata" else value
                described = {**described, key: merged}
        # The disk is asked at first, and then when what was given since might be too much: no loop waits for it.
        most = self._stored_bytes() if self._most_said is None else self._most_said
        most += MOST_INDENTED * nbytes
        if most > layout.MAX_SMALL_BYTES:
            with suppress(OSError):  # a disk that does not answer now; the flush looks again
                most = self._file().size_with(described)
        self._most_said = most
        self.described = described

    def _stored_bytes(self) -> int:
        try:
            return LEAST_SAID + os.stat(os.path.join(self.folder, layout.METADATA_FILE)).st_size
        except OSError:
            return LEAST_SAID

    def _file(self) -> "TrackFile":
        from dreamlake.engine.trackfile import TrackFile

        return TrackFile(self.folder, self.name, self.writer.options.segment_points, self.writer.options.fsync)

    def needs_flush(self) -> bool:
        """Whether a flush has anything to write."""
        return (
            bool(self.described) or not self.pending.is_empty() or (self._disk is not None and self._disk.must_rewrite)
        )

    def flush(self, whole_segments_only: bool, last: bool = False) -> None:
        """Write what is pending; the session's lock is held. What an error leaves unwritten stays pending.

        `last` says that no flush of this process is likely to follow; see `TrackOnDisk.write`.

        Raises ValueError, behind the points, when the description is given up: another process has said so much of the
        track meanwhile that both do not fit.
        """
        from dreamlake.engine.trackfile import TooMuchSaidError

        too_much: TooMuchSaidError | None = None
        options, lock = self.writer.options, self.writer.session_lock
        chain = self.pending.take()
        if any(block.awaited for block in chain):
            whole_segments_only = False  # a batch's caller waits for all of it, and wants to know its indices
        lock.cover(self.writer.clock.last)  # points that were appended since the lock was taken are among these
        self._disk = self._disk or self._on_disk()
        if not self._has_folder or self.described:
            described = self.described
            try:
                is_new = self._file().update(described)
            except TooMuchSaidError as error:
                too_much = error
                is_new = self._file().update({})
            if is_new:
                self._disk.begin(lock.tail_epoch, lock.full_epoch)
            self._has_folder = True
            if self.described is described:
                self.described = {}
        if options.fsync:
            self.writer.footing.secure(self.folder)
        if chain or self._disk.must_rewrite:
            self._write(chain, whole_segments_only, last)
        if too_much is not None:
            raise too_much

    def _on_disk(self) -> Any:
        from dreamlake.engine.ondisk import TrackOnDisk
        from dreamlake.storage.local import check_inside

        check_inside(self.writer.folder, self.folder)
        options = self.writer.options
        return TrackOnDisk(
            self.folder, self.name, options.segment_points, options.fsync, self._announce, self.writer.free
        )

    def _announce(self) -> None:
        """Say that more than appending follows; segments last, and so must what they stand on."""
        self.writer.session_lock.announce_rewrite()
        self.writer.footing.secure(self.folder)

    def _write(self, chain: list[Block], whole_segments_only: bool, last: bool) -> None:
        from dreamlake.engine.sorting import Sorter
        from dreamlake.storage.local import SizeChanged

        lock = self.writer.session_lock
        for attempt in (1, 2):
            self._disk.learn(lock.tail_epoch, lock.full_epoch)
            rows = Sorter(self._disk).sort(chain)
            try:
                self._disk.write(rows, whole_segments_only, last)
                return
            except SizeChanged as error:
                # Somebody who does not keep to the lock wrote to the hot file: look again, once.
                log().warning("%s; reading it again", error)
                if attempt == 2:
                    raise OSError(f"{error}: another program keeps writing to the file") from error
            except OSError:
                raise
            except BaseException:
                self._disk.forget()
                raise
            finally:
                if chain:
                    if not rows.is_done:
                        for block in chain:
                            block.result = None
                    rest = rows.rest()
                    self.pending.replace(chain[-1], rest)
                    chain = chain_of(rest)
                self.pending.hot_points = self._disk.hot_count

    # -- segments that are only on the replica ---------------------------------------------------------------------

    def wanted(self, but: "Collection[SegmentName]" = ()) -> "list[SegmentName]":
        """Return the away segments that rows of this track wait for; on any thread, see `late.wanted`."""
        from dreamlake.engine.late import wanted

        return wanted(self.folder, but)

    def waits(self) -> bool:
        """Whether any row waits; on any thread, see `late.waits`."""
        from dreamlake.engine.late import waits

        return waits(self.folder)

    def settle(self, fetched: "Mapping[SegmentName, bytes]") -> None:
        """Merge the rows that waited for these segments; the session's lock is held, see `late.settle`."""
        self._change(lambda disk: disk.settle(fetched))

    def drop(self, names: "Collection[SegmentName]", bare: bool = False) -> None:
        """Delete segments that are on the replica; the session's lock is held, see `away.drop`."""
        self._change(lambda disk: disk.drop(names, bare))

    def compact(
        self, under_lock: Callable[[Callable[[], Any]], Any], check: Callable[[], None] | None = None
    ) -> "CompactResult":
        """Merge neighbouring segments, see `compaction.compact`; `under_lock` is the writer's."""
        from dreamlake.engine.compaction import compact

        return compact(lambda work: under_lock(lambda: self._change(work)), check)

    def is_to_be_merged(self) -> bool:
        """Whether the track has grown by enough segments for a merge, see `compaction.is_due`; after a flush."""
        if self._disk is None or len(self._disk.live) == self._live_before:
            return False
        from dreamlake.engine.compaction import is_due

        self._live_before = len(self._disk.live)
        return is_due(self._disk)

    def _change(self, work: Callable[[Any], T]) -> T:
        lock = self.writer.session_lock
        self._disk = self._disk or self._on_disk()
        try:
            self._disk.learn(lock.tail_epoch, lock.full_epoch)
            return work(self._disk)  # what it raises leaves the lock, too: then all is learnt anew
        finally:
            self.pending.hot_points = self._disk.hot_count

    def learn_anew(self) -> None:
        """Read the disk again before the next write: it was changed otherwise."""
        if self._disk is not None:
            self._disk.forget()

    def forget(self) -> None:
        """Drop what is pending, and read the disk again before the next write: in a forked child."""
        self.pending.clear()
        self.described = {}
        self._most_said = None
        self._disk = None
        self._has_folder = False
