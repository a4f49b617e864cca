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

#: Bytes kept back: records of some hundred segments, or the state of some thousand tracks.
RESERVE_BYTES = 256 << 10
_FILENAME = ".reserve"


class Reserve:
    """The file that keeps room back, beside the session in `folder`, below the temporary root that nobody else uses."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(os.path.dirname(os.path.dirname(folder)), _FILENAME)
        self._is_kept = False

    def keep(self) -> None:
        """Keep room back from now on, if there is any."""
        self._is_kept = True
        if not os.path.exists(self._path):
            # Random, since some filesystems store blanks in no room.
            with suppress(OSError):
                local.atomic_write(self._path, os.urandom(RESERVE_BYTES), fsync=False)

    def with_room(self, work: Callable[[], None], again: Callable[[], None] | None = None) -> None:
        """Do `work`; where the disk is full, do it `again` in the room that was kept back. Raises what it raises."""
        try:
            work()
        except OSError as error:
            if not self._is_kept or not is_full(error):
                raise
            local.remove_quietly(self._path)
            (again or work)()
        finally:
            if self._is_kept:
                self.keep()


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room on the disk."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
