"""Uploaded files on their way into a session's folder, and out of it again.

1. The bytes are written to ``files/.tmp-…``, their SHA-256 is taken on the way, and they are fsynced: on the caller's
   thread and under no lock, since that may take minutes.
2. Under the session's lock, a note ``files/.tmp-of-…`` says which bytes a crash may leave: these, and those of the file
   that is replaced or deleted.
3. The bytes get their name, in a folder of their own (the id), and the folders are fsynced.
4. ``.files_metadata.json`` is replaced by one with the record. **This is the commit.**
5. The bytes of the record that was replaced, or of the one that was deleted, are removed, and then the note. Who has
   them open reads on.

A crash leaves a copy without a name, or a note and bytes that no record names. The first upload or deletion of a later
process removes them, an hour later: what is noted, and nothing else. Bytes that the replica has need not be here.
"""

from __future__ import annotations

import errno
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import dreamlake.storage.local as local
from dreamlake.engine.fileread import CHUNK, all_records, find, read_records
from dreamlake.engine.runfile import iso_now
from dreamlake.format import filerecord, layout
from dreamlake.notices import log
from dreamlake.storage.localstore import LocalStore

if TYPE_CHECKING:
    from dreamlake.engine.writer import Writer
    from dreamlake.types import FileRecord

Got = TypeVar("Got")

#: Seconds that leftovers stay: another process may be writing them.
GRACE = 3600.0
#: Names of notes; they begin as those of all files that do not count.
NOTE_PREFIX = f"{layout.TMP_PREFIX}of-"


class FileStore:
    """The uploaded files in the folder of a session that is open for writing.

    Parameters
    ----------
    writer
        The session's writer.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.local = LocalStore(writer.folder)
        self.folder = os.path.join(writer.folder, layout.FILES_DIR)

    # -- in --------------------------------------------------------------------------------------------------------

    def add(self, source: BinaryIO, about: dict[str, Any], *, stands_still: bool) -> FileRecord:
        """Store what a file object gives, and return its record.

        Parameters
        ----------
        source
            Is read from where it stands to its end.
        about
            The fields of the record that the caller knows: path, filename, description, tags, contentType, metadata.
        stands_still
            As of `Intake`.

        Raises
        ------
        OSError
            The source or the disk failed, or the source changed while it was read. Nothing is stored then.
        """
        local.check_inside(self.writer.folder, self.folder)
        local.make_dirs(self.folder, fsync=True)
        intake = Intake(source, stands_still)
        beside = local.stream_beside(self.folder, intake)
        try:
            now = iso_now()
            told = {
                "id": layout.new_file_id(uuid.uuid4().hex),
                **about,
                "sizeBytes": intake.size,
                "checksum": intake.digest.hexdigest(),
                "uploadedAt": now,
                "updatedAt": now,
                "deletedAt": None,
            }
            record = filerecord.in_order(told)
            return deepcopy(self.writer.under_lock(lambda: self._commit(record, beside)))
        finally:
            local.remove_quietly(beside)

    def _commit(self, record: FileRecord, beside: str) -> FileRecord:
        self.writer.admit()
        records = self._records()
        before = records.get(filerecord.key(record))
        at = filerecord.later_than(record["updatedAt"], before)
        record["uploadedAt"] = record["updatedAt"] = at
        below = filerecord.stored_path(record)
        self._refuse_path(below, records)
        note = note_leftovers(self.local, [below, *_stored(before)])
        try:
            self._place(below, beside)
            self._say({**records, filerecord.key(record): record})
        except BaseException:
            settle_leftovers(self.local, note)
            raise
        self._settle(note, before)
        return record

    def _refuse_path(self, below: str, records: dict[tuple[str, str], FileRecord]) -> None:
        stored = {filerecord.stored_path(each) for each in records.values() if filerecord.is_live(each)}
        above = below
        while above := above.rpartition("/")[0]:
            if above in stored:
                raise ValueError(f"the path of the file leads through {above}, which is a file itself")

    def _place(self, below: str, beside: str) -> None:
        """Give the bytes their name."""
        full = self.local.describe(below)
        folder = os.path.dirname(full)
        local.check_inside(self.writer.folder, folder)
        local.make_dirs(folder, fsync=True)
        try:
            local.os_.replace(beside, full)
        except FileNotFoundError as error:
            said = f"what was copied has gone from {self.folder} before it got its name; upload it again"
            raise OSError(errno.ENOENT, said, full) from error
        local.fsync_dir(folder)

    # -- out -------------------------------------------------------------------------------------------------------

    def delete(self, wanted: str) -> FileRecord:
        """Delete a file, by its id or its path and name, and return its record.

        Raises
        ------
        StoredFileNotFoundError
            There is no such file.
        OSError
            The disk failed.
        """

        def work() -> FileRecord:
            self.writer.admit()
            records = self._records()
            before = find(list(records.values()), wanted)
            at = filerecord.later_than(iso_now(), before)
            record: FileRecord = {**before, "updatedAt": at, "deletedAt": at}
            note = note_leftovers(self.local, _stored(before))
            try:
                self._say({**records, filerecord.key(record): record})
            except BaseException:
                settle_leftovers(self.local, note)
                raise
            self._settle(note, before)
            return record

        return deepcopy(self.writer.under_lock(work))

    # -- records ---------------------------------------------------------------------------------------------------

    def _settle(self, note: str, before: FileRecord | None) -> None:
        """Remove the bytes of a record that was replaced, and the note that says so."""
        for path in _stored(before):
            remove_bytes(self.local, path)
        if not any(os.path.lexists(self.local.describe(path)) for path in _stored(before)):
            local.remove_quietly(note)
        self._sweep_once()

    def _records(self) -> dict[tuple[str, str], FileRecord]:
        known, records = self.writer.known_files
        if known is not None and known == self._stand():
            return records
        found = filerecord.merged(read_records(self.local, layout.FILES_METADATA_FILE))
        return {filerecord.key(record): record for record in found}

    def _stand(self) -> tuple[int, ...] | None:
        """What is another once somebody else has replaced the records."""
        try:
            status = os.lstat(self.local.describe(layout.FILES_METADATA_FILE))
        except OSError:
            return None
        # The epoch tells of other processes for sure, the rest of what this one took over from a replica.
        epoch = self.writer.session_lock.tail_epoch
        return epoch, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _say(self, records: dict[tuple[str, str], FileRecord]) -> None:
        data = filerecord.encode(filerecord.merged(records.values()))
        if len(data) > filerecord.MAX_BYTES:
            said = f"the records of all files would be over {filerecord.MAX_BYTES} bytes long; pack files together"
            raise OSError(errno.EFBIG, said, self.local.describe(layout.FILES_METADATA_FILE))
        self.writer.footing.secure(self.writer.folder)
        self.writer.known_files = None, {}
        local.atomic_write(self.local.describe(layout.FILES_METADATA_FILE), data, fsync=True)
        self.writer.known_files = self._stand(), records

    def _sweep_once(self) -> None:
        if self.writer.swept_files:
            return
        self.writer.swept_files = True
        try:
            sweep(self.local)
        except (OSError, ValueError) as error:  # of other machines' records, perhaps: what was asked for is done
            log().warning("%s is not swept of what crashes left: %s", self.folder, error)


def remove_bytes(here: LocalStore, below: str) -> None:
    """Remove the bytes of a file from the session's folder `here`, and folders that are empty then; quietly."""
    try:
        here.delete(below)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # open in another program, on some systems: the sweep takes care of it
        log().warning("%s is not needed any more, and cannot be removed: %s", here.describe(below), error)
        return
    folder = below.rpartition("/")[0]
    while folder != layout.FILES_DIR:
        try:
            local.os_.rmdir(here.describe(folder))
        except OSError:
            return  # something else is in it
        folder = folder.rpartition("/")[0]


# ------------------------------------------------------------------------------------------------ what a crash leaves


def _stored(record: FileRecord | None) -> list[str]:
    return [] if record is None else [filerecord.stored_path(record)]


def note_leftovers(here: LocalStore, paths: list[str]) -> str:
    """Note on the disk which bytes may soon be named by no record; for `settle_leftovers`."""
    note = here.describe(f"{layout.FILES_DIR}/{NOTE_PREFIX}{uuid.uuid4().hex[:16]}")
    local.atomic_write(note, json.dumps(paths).encode(), fsync=False)
    return note


def settle_leftovers(here: LocalStore, note: str) -> None:
    """Remove the bytes of a note that no record names, and then the note; what fails is left to the sweep."""
    try:
        paths = json.loads(local.read_if_there(note, most=layout.MAX_SMALL_BYTES) or b"[]")
        named = named_paths(here)
        unnamed = [path for path in paths if layout.is_made_file(path) and path not in named]
        for path in unnamed:
            remove_bytes(here, path)
        if not any(os.path.lexists(here.describe(path)) for path in unnamed):
            local.remove_quietly(note)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        log().warning("%s is not settled: %s", note, error)


def sweep(here: LocalStore, now: float | None = None) -> None:
    """Remove what crashes left, once it is older than the grace: what notes name, and copies without a name.

    The lock is held. Bytes that no note names stay, also if no record names them: somebody may have lost the records.
    """
    when = (time.time() if now is None else now) - GRACE
    folder = here.describe(layout.FILES_DIR)
    local.check_inside(here.root, folder)
    for name in here.names(layout.FILES_DIR):
        note = os.path.join(folder, name)
        if name.startswith(NOTE_PREFIX) and os.lstat(note).st_mtime < when:
            settle_leftovers(here, note)
    local.sweep_tmp(folder, GRACE)


def named_paths(here: LocalStore) -> set[str]:
    """Where the bytes are, or would be, of the files that records in the session's folder `here` name."""
    return {filerecord.stored_path(record) for record in all_records(here, "") if filerecord.is_live(record)}


# ------------------------------------------------------------------------------------------------ what is taken in


class Intake:
    """The bytes of a source in pieces, with their number and SHA-256; iterated once.

    Parameters
    ----------
    source
        A file object, opened in binary.
    stands_still
        Whether it is a plain file, read from its beginning, that must not change meanwhile.
    """

    def __init__(self, source: BinaryIO, stands_still: bool) -> None:
        self.source = source
        self.stands_still = stands_still
        self.size = 0
        self.digest = sha256()

    def __iter__(self) -> Iterator[memoryview]:
        before = self._stand()
        for piece in self._pieces():
            self.digest.update(piece)
            self.size += len(piece)
            yield piece
        if before is not None and (before != self._stand() or before[0] != self.size):
            said = "it changed while it was copied, so nothing was stored; write it to the end, then upload it"
            raise OSError(errno.EBUSY, said, self.source.name)

    def _stand(self) -> tuple[int, ...] | None:
        if not self.stands_still:
            return None
        status = os.fstat(self.source.fileno())
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _pieces(self) -> Iterator[memoryview]:
        readinto: Callable[[Any], int | None] | None = getattr(self.source, "readinto", None)
        if readinto is not None:
            buffer = memoryview(bytearray(CHUNK))
            while count := self._there(readinto(buffer)):
                yield buffer[:count]
            return
        while data := self._there(self.source.read(CHUNK)):
            if not isinstance(data, bytes | bytearray | memoryview):
                raise TypeError(f"a file object gives bytes, not {type(data).__name__}: open it in binary, mode 'rb'")
            yield memoryview(data).cast("B")

    @staticmethod
    def _there(got: Got | None) -> Got:
        """What a read gave; with None a source that does not block says that more may come, which is not its end."""
        if got is None:
            said = "the source has no data now, and its end is not reached, so nothing was stored; open it blocking"
            raise BlockingIOError(errno.EAGAIN, said)
        return got
