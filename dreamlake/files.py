"""The files of a session, models, plots and the like: uploaded, listed, read back verified, deleted."""

from __future__ import annotations

import io
import os
import stat

from dreamlake.engine.forkgate import forks_wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO, TypeVar

    from dreamlake.engine.writer import Writer
    from dreamlake.storage.store import Store
    from dreamlake.types import FileRecord

    #: What names a file of a session: its id, its path and name (``"/models/weights.pt"``), or its record.
    Wanted = str | FileRecord
    Made = TypeVar("Made")

_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}

#: Looks at the records, while what they name is replaced just then.
LOOKS = 5


class FilesView:
    """The files of a stored session, read-only.

    Parameters
    ----------
    store
        Gives the store of the lake.
    folder
        The session's folder in it.
    """

    def __init__(self, store: Callable[[], Store], folder: str) -> None:
        self._store = store
        self._folder = folder

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._folder}>"

    @forks_wait
    def list(
        self, path: str | None = None, tags: Iterable[str] | str | None = None, *, deleted: bool = False
    ) -> list[FileRecord]:
        """Return the records of files, sorted by path and name.

        Parameters
        ----------
        path
            Only those in this folder and the folders below it; None for all.
        tags
            Only those that have all of these tags.
        deleted
            Whether files that were deleted are listed, too; their ``deletedAt`` says when.

        Raises
        ------
        ValueError
            No such path can be.
        CorruptFileError
            What is said of the files cannot be read.
        """
        from dreamlake.format import filerecord, layout

        below = None if path is None else layout.check_file(path, "x")[0].rstrip("/")
        wanted = {tags} if isinstance(tags, str) else set(tags or ())
        return [
            record
            for record in self._records()
            if (deleted or filerecord.is_live(record))
            and (below is None or f"{record['path']}/".startswith(f"{below}/"))
            and wanted.issubset(record["tags"])
        ]

    @forks_wait
    def get(self, file: Wanted, /) -> FileRecord:
        """Return the record of one file, by its id or by its path and name, as ``"/models/weights.pt"``.

        Raises
        ------
        StoredFileNotFoundError
            There is none, or it was deleted.
        CorruptFileError
            What is said of the files cannot be read.
        """
        from dreamlake.engine.fileread import find

        return find(self._records(), _wanted(file))

    @forks_wait
    def open(self, file: Wanted, /) -> BinaryIO:
        """Open a file for reading in binary, and return the file object, which can seek.

        From a replica the parts that are read are fetched, and no others. Read from the first byte to the last, it is
        verified at the end.

        Raises
        ------
        StoredFileNotFoundError
            There is none, it was deleted, or its bytes are only on a replica that is not asked here.
        CorruptFileError
            It is damaged. The last read of the file raises it, too.
        OSError
            The disk or the network failed.
        """
        from dreamlake.engine.fileread import CHUNK, open_stored

        return io.BufferedReader(self._found(_wanted(file), open_stored), CHUNK)

    def download(self, file: Wanted, /, to: str | os.PathLike[str] | None = None) -> str:
        """Copy a file to this machine's disk, and return the path of the copy.

        Its SHA-256 is verified on the way, in bounded memory. It has another name until it is whole, then it replaces
        what was there under its own.

        Parameters
        ----------
        file
            Its id, or its path and name as ``"/models/weights.pt"``, or its record.
        to
            The path of the copy, or a folder, in which it gets its own name; folders that are missing are made, and a
            path that ends with ``/`` is a folder. None for the working directory.

        Raises
        ------
        StoredFileNotFoundError, CorruptFileError, OSError
            As `open`. What was there before is untouched then.
        """
        from dreamlake.engine.fileread import copy_stored

        place = os.curdir if to is None else os.fspath(to)
        if not isinstance(place, str):
            raise TypeError(f"to is a path, not {type(place).__name__}")
        separators = tuple(each for each in (os.sep, os.altsep) if each)
        into = place if place.endswith(separators) or os.path.isdir(place) else None

        def copy(store: Store, folder: str, record: FileRecord) -> str:
            target = place if into is None else os.path.join(into, name_here(record["filename"]))
            copy_stored(store, folder, record, target)
            return os.path.abspath(target)

        return self._found(_wanted(file), copy)

    def _records(self) -> builtins.list[FileRecord]:
        from dreamlake.engine.fileread import all_records

        return all_records(self._store(), self._folder)

    def _found(self, wanted: str, work: Callable[[Store, str, FileRecord], Made]) -> Made:
        """What `work` makes of the bytes of a file; of a later one, where it is replaced just then."""
        from dreamlake.engine.fileread import find, missing

        store = self._store()
        seen: FileRecord | None = None
        for _ in range(LOOKS):
            record = find(self._records(), wanted)
            if seen is not None and seen["id"] == record["id"]:
                break
            seen = record
            try:
                return work(store, self._folder, record)
            except FileNotFoundError:
                continue  # perhaps a later record says so
        raise missing(store, self._folder, record)


class Files(FilesView):
    """The files of an open session."""

    def __init__(self, store: Callable[[], Store], folder: str, open_writer: Callable[[], Writer]) -> None:
        super().__init__(store, folder)
        self._open_writer = open_writer

    def upload(
        self,
        file: str | os.PathLike[str] | BinaryIO | bytes,
        /,
        path: str = "/",
        *,
        description: str | None = None,
        tags: builtins.list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        filename: str | None = None,
        content_type: str | None = None,
    ) -> FileRecord:
        """Copy a file into the session, and return its record.

        A file of the same path and name is replaced, with all that was said of it. When this returns, the file is on
        the local disk for good, also after a power loss; a replica gets it in the background, as it does points. It is
        read once, a piece at a time, so its size does not matter.

        Parameters
        ----------
        file
            The path of a plain file (a link is followed); or a file object that is open in binary, which is read from
            where it stands to its end; or the bytes themselves.
        path
            The folder in the session that it gets, as ``"/models"``.
        description, tags, metadata
            Kept in the record. Metadata may be anything that a point may hold.
        filename
            Its name in that folder; by default that of the file.
        content_type
            Its media type; by default what the name tells, or ``application/octet-stream``.

        Raises
        ------
        ValueError, TypeError
            A name that cannot be stored, metadata that cannot, a source without a name; a pipe or a device.
        OSError
            There is no such file (FileNotFoundError), or it is a folder (IsADirectoryError); it cannot be read, or was
            changed meanwhile; a source that does not block has no data now (BlockingIOError); the disk is full or
            fails. Nothing is stored then, and a file that was to be replaced is there as before.
        SessionClosedError
            The session is closed.
        """
        from dreamlake.engine.filestore import FileStore
        from dreamlake.format.layout import check_file
        from dreamlake.storage import local

        about = _described(description, tags, metadata)
        with _opened(file) as (source, own_name):
            name = own_name if filename is None else filename
            if name is None:
                raise ValueError("this source has no name of its own: give filename=")
            path, name = check_file(path, name)
            about |= {"path": path, "filename": name, "contentType": _type_of(name, content_type)}
            still = isinstance(file, str | os.PathLike)
            try:
                return FileStore(self._open_writer()).add(source, about, stands_still=still)
            except (local.FsyncFailed, local.PartialWriteError) as error:
                said = local.plain(error)
        raise said  # out here: what the caller's own code raised before stays its context

    @forks_wait
    def delete(self, file: Wanted, /) -> FileRecord:
        """Delete a file, by its id or its path and name, and return its record, in which ``deletedAt`` is set.

        Its bytes go from this disk at once and from the replica with the next upload; whoever has it open here reads
        on. The record stays, see `list`.

        Raises
        ------
        StoredFileNotFoundError
            There is none, or it was deleted before.
        OSError
            The disk failed.
        SessionClosedError
            The session is closed.
        """
        from dreamlake.engine.filestore import FileStore

        wanted = _wanted(file)
        return FileStore(self._open_writer()).delete(wanted)


def name_here(filename: str) -> str:
    """The name of a copy on this machine: its own, with what Windows does not take escaped there."""
    if os.name != "nt":
        return filename
    from dreamlake.format.layout import encode_component

    return encode_component(filename)


# ------------------------------------------------------------------------------------------------ what people give


def _wanted(file: str | Mapping[str, Any]) -> str:
    """The id, or the path and name, by which a file is meant."""
    found = file if isinstance(file, str) else file.get("id") if hasattr(file, "get") else None
    if not isinstance(found, str) or not found:
        raise TypeError(f"a file is named by its id, or by path and name as '/models/weights.pt', not by {file!r:.80}")
    return found


def _described(
    description: str | None, tags: builtins.list[str] | None, metadata: dict[str, Any] | None
) -> dict[str, Any]:
    from dreamlake.arguments import description_of

    described, _ = description_of(description, tags, None, metadata)
    return {
        "description": described["description"],
        "tags": described["tags"] or [],
        "metadata": described["metadata"] or {},
    }


def _type_of(name: str, content_type: str | None) -> str:
    if content_type is None:
        from mimetypes import MimeTypes

        # Not by what this machine's own files say of types: the record is read on others.
        kind, packed = MimeTypes().guess_type(f"file:///{name}")
        return (_PACKED.get(packed) if packed else kind) or "application/octet-stream"
    if not isinstance(content_type, str):
        raise TypeError(f"content_type is a string such as 'image/png', not {type(content_type).__name__}")
    from dreamlake.format.point import take_value

    return str(take_value("content_type", content_type)[0])


def _opened(file: Any) -> AbstractContextManager[tuple[BinaryIO, str | None]]:
    """A source, opened, and its name; closed at the end of the block if it was opened here."""
    from contextlib import nullcontext

    if isinstance(file, bytes | bytearray | memoryview):
        if isinstance(file, memoryview) and not file.c_contiguous:
            file = file.tobytes()  # one with gaps, as of every second byte, cannot be read from where it lies
        return nullcontext((io.BytesIO(file), None))
    if isinstance(file, str | os.PathLike):
        return _open_path(file)
    # By its encoding, too: a wrapper of a text file (SpooledTemporaryFile) is none of these classes.
    is_text = isinstance(file, io.TextIOBase) or isinstance(getattr(file, "encoding", None), str)
    if is_text or not hasattr(file, "read"):
        raise TypeError(
            "a file is given as a path, as bytes, or as a file object that is open in binary (mode 'rb'), "
            f"not as {type(file).__name__}"
        )
    name = getattr(file, "name", None)
    return nullcontext((file, os.path.basename(name) if isinstance(name, str) else None))


class _open_path:
    """A plain file of this machine, open for reading; a context manager."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = os.fspath(path)
        if not isinstance(given, str):
            raise TypeError(f"the path of a file is a string or a Path, not {type(given).__name__}")
        self._path = os.path.expanduser(given)

    def __enter__(self) -> tuple[BinaryIO, str | None]:
        # Not blocking: a named pipe would hold the caller until somebody writes to it.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        if os.path.isdir(self._path):
            raise IsADirectoryError(
                21, "it is a folder: pack it first (shutil.make_archive), or upload its files one by one", self._path
            )
        self._file = io.FileIO(self._path, opener=lambda path, _: os.open(path, flags))
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file.close()
            raise ValueError(f"{self._path} is not a plain file; what a pipe gives is uploaded as a file object")
        return self._file, os.path.basename(self._path)

    def __exit__(self, *_: object) -> None:
        self._file.close()
