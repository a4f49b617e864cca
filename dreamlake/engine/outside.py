"""A track as a process changes it that writes no points to it: ``dreamlake sync`` and ``dreamlake compact``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from dreamlake.engine.catalog import read_object
from dreamlake.engine.ondisk import TrackOnDisk
from dreamlake.engine.sessionlock import SessionLock
from dreamlake.format import layout
from dreamlake.storage.localstore import LocalStore

T = TypeVar("T")

#: Seconds that a process which writes to the session just then is waited for.
WRITERS_PATIENCE = 10.0


class TrackFromOutside:
    """The track in one folder below that of its session; `disk` is what is known of it.

    Parameters
    ----------
    session
        The session's folder.
    below
        The track's, as `layout.track_dir` makes it.
    lock
        The lock of the session, which is not held.
    """

    def __init__(self, session: str, below: str, lock: SessionLock) -> None:
        folder = os.path.join(session, *below.split("/"))
        about = read_object(LocalStore(folder), layout.METADATA_FILE) or {}
        points = about.get("segment_points") or 10_000
        self._lock = lock
        self.disk = TrackOnDisk(folder, layout.track_name(below), points, False, lock.announce_rewrite)

    def change(self, work: Callable[[TrackOnDisk], T]) -> T:
        """Run `work` under the lock, with all learnt that others did.

        Raises `LockTimeoutError`, `LocksUnsupportedError`, and what `work` raises.
        """
        with self._lock.hold(WRITERS_PATIENCE):
            self.disk.learn(self._lock.tail_epoch, self._lock.full_epoch)
            return work(self.disk)
