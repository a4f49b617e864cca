"""Uploaded files as readers find them: the records of all machines, and the bytes of one, verified while they stream.

Bytes are read from the session's folder where they are there, else from its replica. The bytes at one path never
change, since each upload has an id of its own; they may go, once a later record says so.
"""

from __future__ import annotations

import io
import os
from hashlib import sha256

from dreamlake.engine.hosts import host_paths
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.errors import CorruptFileError, StoredFileNotFoundError
from dreamlake.format import filerecord, layout
from dreamlake.storage import get_whole
from dreamlake.storage.localstore import LocalStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from typing_extensions import Buffer

    from dreamlake.storage.store import Store
    from dreamlake.types import FileRecord

#: Bytes that one request to a replica asks for, and requests made side by side while a file is read in order.
PIECE, AHEAD = 4 << 20, 4
#: Bytes that are read from a disk at once.
CHUNK = 1 << 20


# ------------------------------------------------------------------------------------------------ records


def read_records(store: Store, path: str) -> list[FileRecord]:
    """The records in one ``.files_metadata.json``; none where there is no file, or an empty one.

    Raises
    ------
    CorruptFileError
        The file is damaged.
    """
    try:
        data = get_whole(store, path, filerecord.MAX_BYTES)
    except FileNotFoundError:
        return []
    try:
        return filerecord.decode(data) if data else []
    except ValueError as error:
        raise CorruptFileError(store.describe(path), "the whole file", detail=str(error)) from error


def record_paths(store: Store, session: str) -> list[str]:
    """Where the machines that write the session in folder `session` may say what they uploaded."""
    plain = f"{session}/{layout.FILES_METADATA_FILE}" if session else layout.FILES_METADATA_FILE
    return [plain, *host_paths(store, session, layout.FILES_METADATA_FILE)]


def all_records(store: Store, session: str) -> list[FileRecord]:
    """What all machines say of the files of a session, deleted ones included, by path and name.

    Raises
    ------
    CorruptFileError
        A ``.files_metadata.json`` is damaged.
    """
    paths = record_paths(store, session)
    found = side_by_side(lambda path: read_records(store, path), paths, reading_width(store, 0))
    return filerecord.merged(record for records in found for record in records)


def find(records: list[FileRecord], wanted: str) -> FileRecord:
    """The record of a file that is not deleted, by its id, or by its path and name.

    Raises
    ------
    StoredFileNotFoundError
        There is none.
    """
    live = [record for record in records if filerecord.is_live(record)]
    by_id = [record for record in live if record["id"] == wanted]
    at = [record for record in live if filerecord.place(record) == f"/{wanted.removeprefix('/')}"]
    found = at or by_id if wanted.startswith("/") else by_id or at
    if found:
        return found[0]
    gone = any(wanted == record["id"] or filerecord.place(record) == wanted for record in records)
    said = "it was deleted" if gone else "files are named by their ids, or by path and name, as '/models/weights.pt'"
    raise StoredFileNotFoundError(f"no file {wanted!r} in this session: {said}")


# ------------------------------------------------------------------------------------------------ bytes


def open_stored(store: Store, session: str, record: FileRecord) -> StoredFile:
    """The bytes of a file, to be read.

    Raises
    ------
    FileNotFoundError
        They are not there: perhaps a later record says so.
    CorruptFileError
        They are too few or too many.
    """
    below = filerecord.stored_path(record)
    path = f"{session}/{below}" if session else below
    size = record["sizeBytes"]
    local: Any = getattr(store, "local", store)  # of an overlay, what is on this machine
    if isinstance(local, LocalStore):
        try:
            file: io.RawIOBase = local.open(path)
        except FileNotFoundError:
            if local is store:
                raise
            store = store.remote()  # type: ignore[attr-defined]
        else:
            found = file.seek(0, io.SEEK_END)
            file.seek(0)
            if found != size:
                file.close()
                raise _other_size(store.describe(path), size, found)
            return StoredFile(file, store.describe(path), record)
    found = store.size(path)
    if found != size:
        raise _other_size(store.describe(path), size, found)
    return StoredFile(_Far(store, path, size), store.describe(path), record)


def _other_size(place: str, size: int, found: int) -> CorruptFileError:
    return CorruptFileError(place, "its end", detail=f"it is {found} bytes long, and {size} were uploaded")


class StoredFile(io.RawIOBase):
    """The bytes of an uploaded file; whoever reads them from the first to the last has them verified by SHA-256.

    Parameters
    ----------
    file
        Gives the bytes; closed with this.
    place
        The file for messages.
    record
        What is said of it.
    """

    def __init__(self, file: io.RawIOBase, place: str, record: FileRecord) -> None:
        self._file = file
        self._place = place
        self._record = record
        self._digest = sha256()
        #: Up to where the bytes were read in order.
        self._verified = 0
        self._at = 0

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether it can be read in any order: yes."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on at another place."""
        self._at = self._file.seek(offset, whence)
        return self._at

    def readinto(self, buffer: Buffer, /) -> int:
        """Read bytes; fewer than there is room for, and none at the end.

        Raises
        ------
        CorruptFileError
            All bytes were read in order, and are not those that were uploaded; or they end too early.
        """
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0
        size = self._record["sizeBytes"]
        if not count and len(view) and self._at < size:
            raise _other_size(self._place, size, self._at)
        if self._at <= self._verified < self._at + count:
            self._digest.update(view[self._verified - self._at : count])
            self._verified = self._at + count
        self._at += count
        if self._at >= size and self._verified >= size and self._digest.hexdigest() != self._record["checksum"]:
            detail = (
                f"its SHA-256 is {self._digest.hexdigest()}, and that of what was uploaded {self._record['checksum']}"
            )
            raise CorruptFileError(self._place, "its bytes", detail=detail)
        return count

    def close(self) -> None:
        """Close it."""
        if not self.closed:
            self._file.close()
        super().close()


class _Far(io.RawIOBase):
    """A file that is read by requests for pieces of it, some of them ahead while it is read in order."""

    def __init__(self, store: Store, path: str, size: int) -> None:
        self._store = store
        self._path = path
        self._size = size
        self._at = 0
        self._held: dict[int, bytes] = {}
        self._next = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"{base + offset} is before the beginning of the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if self._at >= self._size or not len(view):
            return 0
        number, offset = divmod(self._at, PIECE)
        if number not in self._held:
            self._fetch(number)
        data = self._held[number][offset : offset + len(view)]
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _fetch(self, number: int) -> None:
        count = AHEAD if number == self._next else 1
        starts = range(number * PIECE, min(self._size, (number + count) * PIECE), PIECE)
        self._held = {}  # before others come
        wanted = [(self._path, start, min(start + PIECE, self._size)) for start in starts]
        many = getattr(self._store, "get_many", None)
        for each, (_, start, _) in zip(many(wanted) if many else map(self._get, wanted), wanted, strict=True):
            if isinstance(each, Exception):
                raise each
            self._held[start // PIECE] = each
        self._next = number + len(wanted)

    def _get(self, wanted: tuple[str, int, int]) -> bytes:
        return self._store.get(*wanted)


def copy_stored(store: Store, session: str, record: FileRecord, target: str) -> None:
    """Copy the bytes of a file to a path on this machine's disk, where a file is replaced; nothing is left half-way.

    Raises
    ------
    OSError
        As `open_stored`; or the disk fails. IsADirectoryError where a folder has the name.
    CorruptFileError
        As `open_stored` and reading.
    """
    import dreamlake.storage.local as local

    target = os.path.abspath(target)
    with open_stored(store, session, record) as file:
        folder = os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        beside = local.stream_beside(folder, _pieces(file))
    try:
        local.os_.replace(beside, target)
    except BaseException:
        local.remove_quietly(beside)
        raise


def _pieces(file: StoredFile) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(CHUNK))
    while count := file.readinto(buffer):
        yield buffer[:count]


def hash_stored(store: Store, session: str, record: FileRecord) -> None:
    """Read the bytes of a file in full, and raise what `open_stored` and reading do."""
    with open_stored(store, session, record) as file:
        for _ in _pieces(file):
            pass


def missing(store: Store, session: str, record: FileRecord) -> Exception:
    """What to raise where the bytes of a file are not where its record says."""
    below = filerecord.stored_path(record)
    path = store.describe(f"{session}/{below}" if session else below)
    replica = f"{session}/{layout.REPLICA_FILE}" if session else layout.REPLICA_FILE
    local: Any = getattr(store, "local", store)
    if isinstance(local, LocalStore) and local is store and os.path.exists(local.describe(replica)):
        said = "are not on this machine: open the session with its remote=, or the lake of the replica"
        return StoredFileNotFoundError(f"the bytes of {filerecord.place(record)!r} {said} (they would be at {path})")
    return CorruptFileError(path, "its place", detail="there is a record of it, and the file is gone")
