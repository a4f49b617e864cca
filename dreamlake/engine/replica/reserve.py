"""Room kept back on the disk of a session without a local side, by which it gives room back once the disk is full.

To drop an uploaded segment, what stays known of it is written first; and before anything is uploaded, what is going to
be sent. On a full disk neither can be, and every byte that comes free goes to points that wait.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

import dreamlake.storage.local as local

#: Bytes kept back: records of some hundred segments, or the state of some thousand tracks. Less where less is free.
RESERVE_BYTES = 256 << 10
_LEAST = 16 << 10
_FILENAME = ".reserve"


def _at_once(work: Callable[[], None]) -> None:
    work()


class Reserve:
    """The file that keeps room back, beside the session in `folder`, below the temporary root that nobody else uses.

    Parameters
    ----------
    alone
        Does something while no flush of this process can take the room.
    """

    def __init__(self, folder: str, alone: Callable[[Callable[[], None]], None] = _at_once) -> None:
        self._path = os.path.join(os.path.dirname(os.path.dirname(folder)), _FILENAME)
        self._alone = alone
        self._is_kept = False

    def keep(self) -> None:
        """Keep room back from now on, as far as there is any."""
        self._is_kept = True
        size = RESERVE_BYTES
        while size >= _LEAST and not os.path.exists(self._path):
            # Random, since some filesystems store blanks in no room.
            with suppress(OSError):
                local.atomic_write(self._path, os.urandom(size), fsync=False)
            size //= 2

    @property
    def is_kept(self) -> bool:
        """Whether room is to be kept back."""
        return self._is_kept

    def helps(self, error: OSError) -> bool:
        """Whether what failed so is worth another try `in_room`."""
        return self._is_kept and is_full(error)

    def in_room(self, work: Callable[[], None]) -> None:
        """Do `work` in the room that was kept back, of which whoever calls sees that nobody else takes it."""
        local.remove_quietly(self._path)
        try:
            work()
        finally:
            self.keep()

    def with_room(self, work: Callable[[], None]) -> None:
        """Do `work`, and again in that room where the disk is full. Raises what it raises."""
        try:
            work()
        except OSError as error:
            if not self.helps(error):
                raise
            self._alone(lambda: self.in_room(work))


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room on the disk."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
