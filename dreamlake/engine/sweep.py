"""Remove what nothing needs any more from a track's folder: superseded segments, leftovers of a crash."""

import os
import time
from collections.abc import Sequence

import dreamlake.storage.local as local
from dreamlake.format import layout
from dreamlake.format import live as rule
from dreamlake.format.layout import SegmentName
from dreamlake.notices import log

#: Superseded files stay this long, in seconds, for readers that have listed them.
GRACE = 60.0
#: More superseded files than this are not kept, grace or not: a reader that misses one lists again.
MOST_SUPERSEDED = 1000


def sweep(folder: str, filenames: Sequence[str], live: Sequence[SegmentName], now: float | None = None) -> None:
    """Remove superseded segments after their grace, and what crashed writers left beside.

    Parameters
    ----------
    folder
        The track's folder.
    filenames
        What is in it.
    live
        The segments that count.
    now
        Seconds since the epoch.
    """
    now = time.time() if now is None else now
    if any(filename.startswith(layout.TMP_PREFIX) for filename in filenames):
        local.sweep_tmp(folder, GRACE)
    dead = rule.superseded(rule.parse_listing(filenames), live)
    for place, name in enumerate(dead):
        path = os.path.join(folder, name.filename)
        if place < len(dead) - MOST_SUPERSEDED or _replaced_before(folder, live, name, now - GRACE):
            try:
                local.os_.unlink(path)
            except OSError as error:
                log().warning("cannot remove the superseded %s: %s", path, error)


def _replaced_before(folder: str, live: Sequence[SegmentName], name: SegmentName, when: float) -> bool:
    over = rule.covering(live, name.start, name.stop)[0].filename
    here = os.path.join(folder, over)
    try:
        # One that is only on the replica is noted in that file, which was written no earlier than that.
        return os.stat(here if os.path.lexists(here) else os.path.join(folder, layout.AWAY_FILE)).st_mtime < when
    except OSError:
        return False
