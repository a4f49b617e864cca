"""A session's own view of its folder where some segments are only on the replica: these are read from there."""

from __future__ import annotations

import os

from dreamlake.format.layout import AWAY_FILE, parse_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from dreamlake.engine.away import Away
    from dreamlake.format.layout import SegmentName
    from dreamlake.storage.localstore import LocalStore
    from dreamlake.storage.store import Entry, Store

    Listing = TypeVar("Listing")

#: Segments that are read side by side, once some are away: each costs a request.
WIDTH = 32
#: Times that a folder is looked at while what is away of it changes.
LOOKS = 5


class OverlayStore:
    """A local store whose folders seem to hold their away segments too; see `storage.store.Store` for the methods.

    Whatever is on the local disk is read there. The replica is asked for the bytes of segments that are not, and for
    nothing else: what is listed, and how long it is, is known here.

    Parameters
    ----------
    local
        The lake's root on this machine.
    remote
        Gives the lake's root with the replica; called when it is needed.
    vanished
        Called when a segment that is away is not on the replica any more, where another machine has merged it, say.
    """

    is_local = True
    #: Whether segments that are only on the replica are listed, and read from there.
    reads_away = True

    def __init__(
        self, local: LocalStore, remote: Callable[[], Store], vanished: Callable[[], None] = lambda: None
    ) -> None:
        self.local = local
        self.root = local.root
        self._remote = remote
        self._vanished = vanished
        self._was_there = os.path.isdir(self.root)
        # By folder: the stat of the file that says what is away, and what it says.
        self._known: dict[str, tuple[tuple[int, ...], Mapping[SegmentName, Away]]] = {}
        # By path the bytes of segments which were found on the replica when one that is away was not there any more.
        self._found: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"OverlayStore({self.root!r})"

    def remote(self) -> Store:
        """The lake's root with the replica."""
        return self._remote()

    @property
    def width(self) -> int:
        """How many files are best read side by side; 0, which leaves it to the reader, while none is away."""
        return WIDTH if self._known else 0

    def describe(self, path: str = "") -> str:
        """The path of a file on this machine, or the URL of a segment that is away."""
        here = self.local.describe(path)
        if self._nbytes(path) is not None and not os.path.lexists(here):
            return self._remote().describe(path)
        return here

    def list(self, path: str = "") -> builtins.list[Entry]:
        """The entries of one folder, with its away segments, sorted by name; of these no time is known."""
        from dreamlake.storage.store import Entry

        entries, gone = self._at_once(path, self.local.list)
        found = {entry.name: entry for entry in entries}
        if not found and self._is_gone():
            return self._remote().list(path)
        for name, away in gone.items():
            found.setdefault(name.filename, Entry(name.filename, away.nbytes, 0.0, False))
        return sorted(found.values(), key=lambda entry: entry.name)

    def names(self, path: str = "") -> builtins.list[str]:
        """The names of the files in one folder, with its away segments, sorted."""
        here, away = self._at_once(path, self.local.names)
        if not here and not away and self._is_gone():
            return [entry.name for entry in self._remote().list(path) if not entry.is_dir]
        return sorted({*here, *(name.filename for name in away)}) if away else here

    def names_there(self, path: str) -> builtins.list[str]:
        """The names of the segments that the replica has in one folder now, which are read there from now on.

        For a reader that has not found a segment which is away: this says what the replica has in its place.
        """
        self._vanished()
        found = {entry.name: entry.size for entry in self._remote().list(path) if parse_segment(entry.name) is not None}
        self._found |= {f"{path}/{name}" if path else name: size for name, size in found.items()}
        return sorted(found)

    def walk(self, path: str = "") -> builtins.list[str]:
        """The paths of all files on this machine in ``path`` and the folders below, sorted."""
        return self.local.walk(path)

    def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``[start, stop)`` of a file; raises FileNotFoundError."""
        try:
            return self.local.get(path, start, stop)
        except FileNotFoundError:
            if self._nbytes(path) is None and not self._is_gone():
                raise
        return self._remote().get(path, start, stop)

    def size(self, path: str) -> int:
        """The length of a file in bytes; raises FileNotFoundError."""
        try:
            return self.local.size(path)
        except FileNotFoundError:
            nbytes = self._nbytes(path)
            if nbytes is not None:
                return nbytes
            if not self._is_gone():
                raise
        return self._remote().size(path)

    def put(self, path: str, data: bytes) -> None:
        """Write a file on this machine, in the place of an older one."""
        self.local.put(path, data)

    def create(self, path: str, data: bytes) -> None:
        """Write a file on this machine that must be new; raises FileExistsError."""
        self.local.create(path, data)

    def delete(self, path: str) -> None:
        """Remove a file from this machine."""
        self.local.delete(path)

    def _is_gone(self) -> bool:
        """Whether there is no local side any more: a temporary one goes once all is on the replica."""
        return self._was_there and not os.path.isdir(self.root)

    def _at_once(self, path: str, look: Callable[[str], Listing]) -> tuple[Listing, Mapping[SegmentName, Away]]:
        """What `look` finds in a folder, and what is away of it: a segment that goes, or comes, is in one of them."""
        before = self._away(path)
        for _ in range(LOOKS):
            found = look(path)
            away = self._away(path)
            if before.keys() <= away.keys():
                break
            before = away  # what is away no more came here, perhaps after the listing
        return found, away

    def _nbytes(self, path: str) -> int | None:
        """The bytes of a segment that is read from the replica where it is not here; None where it is none."""
        folder, _, filename = path.rpartition("/")
        name = parse_segment(filename)
        away = None if name is None else self._away(folder).get(name)
        return self._found.get(path) if away is None else away.nbytes

    def _away(self, folder: str) -> Mapping[SegmentName, Away]:
        """What is away of one folder: a look at one file, which is read again when it has changed."""
        path = f"{folder}/{AWAY_FILE}" if folder else AWAY_FILE
        try:
            stat = os.stat(self.local.describe(path))
            state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            known = self._known.get(folder)
            if known is None or known[0] != state:
                from dreamlake.engine.away import parse

                # The state is older than what is read: should they differ, the next look reads it again.
                known = self._known[folder] = state, parse(self.local.get(path), self.local.describe(path))
            return known[1]
        except (FileNotFoundError, NotADirectoryError):
            return {}
