"""What the tests of uploaded files share: a folder without a session, what is in it, and a disk that stops."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dreamlake.engine.footing import Footing
from dreamlake.files import Files
from dreamlake.format import filerecord, layout
from dreamlake.storage.localstore import LocalStore


class Folder:
    """The folder ``w/s`` of a lake and its files, changed on this thread and under no lock."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.path = self.root / "w" / "s"
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "session.json").write_bytes(b'{"name": "s", "workspace": "w"}')
        self.files = Files(lambda: LocalStore(self.root), "w/s", self._writer)  # type: ignore[arg-type]

    def _writer(self) -> Any:
        class Writer:
            folder = str(self.path)
            footing = Footing(str(self.path))
            swept_files = False
            known_files: Any = (None, {})
            session_lock = SimpleNamespace(tail_epoch=0)

            @staticmethod
            def admit() -> None:
                return

            @staticmethod
            def under_lock(work: Callable[[], Any]) -> Any:
                return work()

        return Writer

    def held(self) -> dict[str, bytes]:
        """The files by their places, each read as anybody would, and so verified."""
        return held(self.files)

    def on_disk(self) -> set[str]:
        """The paths of all that is below ``files/``, from the session's folder on."""
        return {path.relative_to(self.path).as_posix() for path in (self.path / "files").rglob("*") if path.is_file()}

    def named(self) -> set[str]:
        """The paths that should be there: the records, and the bytes of the files that they name."""
        stored = {filerecord.stored_path(record) for record in self.files.list()}
        return stored | {layout.FILES_METADATA_FILE}


def held(files: Any) -> dict[str, bytes]:
    """The files of a session by their places, each read in full."""
    return {filerecord.place(record): files.open(record).read() for record in files.list()}


def sha(data: bytes) -> str:
    """The SHA-256 in hex."""
    return sha256(data).hexdigest()


class Killed(BaseException):
    """The process is dead: it does nothing any more."""


class Dying:
    """Stands in for ``os`` where the library changes the disk, and dies before the n-th change, counted from 1."""

    CHANGES = frozenset(
        {"open", "pwrite", "fsync", "replace", "rename", "link", "mkdir", "unlink", "rmdir", "ftruncate"}
    )

    def __init__(self, last: int) -> None:
        self.left = last
        self.torn = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CHANGES:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left > 0:
                return None if name == "fsync" else real(*args, **kwargs)
            if self.left == 0 and name == "pwrite":  # half of it was written
                fd, data, offset = args
                real(fd, bytes(data)[: len(data) // 2], offset)
            raise Killed

        return call
