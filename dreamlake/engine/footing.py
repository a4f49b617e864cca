"""What stored points stand on, made to last with them: the folders above, and the files that describe them.

A folder's name lasts once the folder above was synced, so a segment in a folder that nobody has synced the name of may
be gone after a power cut, however well it was written.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

import dreamlake.storage.local as local
from dreamlake.format import layout


class Footing:
    """What was made to last of one session folder by this process, so that it is done once for each folder in it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._done: set[str] = set()
        #: Files of which an fsync failed.
        self._doubtful: set[str] = set()

    def secure(self, folder: str) -> None:
        """Make last what the lines or segments in a folder stand on, unless that was done. Raises OSError."""
        if folder in self._done:
            return
        self._secure_file(os.path.join(folder, layout.METADATA_FILE))
        path = folder
        while len(path) >= len(self.folder):
            local.fsync_dir(path)
            path = os.path.dirname(path)
        if not self._done:
            self._secure_session()
        self._done.add(folder)

    def _secure_session(self) -> None:
        self._secure_file(os.path.join(self.folder, layout.SESSION_FILE))
        secure_above([self.folder])

    def _secure_file(self, path: str) -> None:
        if path not in self._doubtful:
            try:
                local.fsync_file(path)
                return
            except local.FsyncFailed:
                self._doubtful.add(path)  # a second fsync of the same pages would prove nothing
        local.atomic_write(path, local.read_if_there(path), fsync=True)
        self._doubtful.remove(path)


def secure_above(folders: Iterable[str]) -> None:
    """Make the names of these folders last, and those of all folders above, nearest first. Raises OSError."""
    above = set()
    for path in folders:
        while (path := os.path.dirname(path)) not in above:
            above.add(path)
    for path in sorted(above, key=len, reverse=True):
        with suppress(PermissionError):  # somebody else's, who made it before
            local.fsync_dir(path)
