"""The contract of a store: bytes under relative POSIX paths below one root, on any filesystem."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a folder.

    Parameters
    ----------
    name
        The last component of its path.
    size
        Bytes; 0 for a folder.
    modified
        Seconds since the epoch; 0.0 where the filesystem does not say.
    is_dir
        Whether it is a folder (a link to one is not).
    version
        The version of a file, as `Stat` has it, where the listing tells it; else empty.
    """

    name: str
    size: int
    modified: float
    is_dir: bool
    version: str = ""


@dataclass(frozen=True, slots=True)
class Stat:
    """What a filesystem tells of one file.

    Parameters
    ----------
    size
        Bytes.
    modified
        Seconds since the epoch; 0.0 where the filesystem does not say.
    version
        A text that is another one when the file is: an ETag, or sizes and times.
    """

    size: int
    modified: float
    version: str


class Store(Protocol):
    """Files below a root. Every ``path`` is relative to the root, with ``/`` between components; ``""`` is the root.

    A path that is absolute, or leads out of the root by ``..`` or a link, is a ``ValueError`` everywhere. No method,
    message or repr gives away credentials. Methods may be called from any thread.
    """

    def describe(self, path: str = "") -> str:
        """The path or URL of ``path`` for people, without user-info and query."""
        ...

    def list(self, path: str = "") -> builtins.list[Entry]:
        """The entries of one folder, sorted by name, links followed; none if there is no such folder."""
        ...

    def walk(self, path: str = "") -> builtins.list[str]:
        """The paths, from the root on, of all files in ``path`` and the folders below, sorted.

        Links to folders are not followed. A folder that cannot be listed is left out and logged.
        """
        ...

    def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``[start, stop)`` of a file: fewer, or none, when it ends before; to its end by default.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """
        ...

    def size(self, path: str) -> int:
        """The length of a file in bytes. Raises ``FileNotFoundError`` when there is none."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write a file, in the place of an older one: readers see all of the old or all of the new."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Write a file that must be new: all of it appears, or nothing.

        Raises
        ------
        FileExistsError
            There is one; it is untouched. Of several that create one path at a time exactly one succeeds.
        """
        ...

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...
