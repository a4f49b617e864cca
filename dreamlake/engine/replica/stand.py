"""Whether a local file is the one that was seen before, told by its size, its times and its inode."""

from __future__ import annotations

import os
import time

#: Seconds for which a file must have stood still: within one tick of the disk's clock two versions have equal times.
SETTLED = 1.0

Stand = tuple[int, ...]


def stand(path: str) -> Stand | None:
    """What would be another if the file was another; empty where there is none, None while that cannot be told."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return ()
    if max(status.st_mtime, status.st_ctime) > time.time() - SETTLED:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
