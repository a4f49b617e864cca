"""Which local segments and files may be dropped, since the replica has them: for sessions without a local side."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

from dreamlake.engine import away
from dreamlake.engine.replica.state import RemoteState
from dreamlake.engine.roll import FACTOR, USUAL_POINTS
from dreamlake.format import layout, live
from dreamlake.format.layout import SegmentName

#: Bytes that a session keeps for merging at most, all of its tracks together.
HELD_BACK = 128 << 20


def droppable(folder: str, known: RemoteState, held_back: int = HELD_BACK) -> Iterator[tuple[str, list[SegmentName]]]:
    """The tracks of the session in `folder`, as folders below it, with their live segments that can go, oldest first.

    The last segment of a track stays: its footer tells the bounds and the fields of all before it. So do the newest
    usual ones, and wide ones, which are to be merged: once they are only on the replica, they stay as they are. No more
    than `held_back` bytes of these stay.
    """
    share = held_back // max(1, len(known.tracks))
    for below, track in sorted(known.tracks.items()):
        path = os.path.join(folder, *below.split("/"))
        here = set(live.parse_listing(_listdir(path)))
        counting = live.survey({*here, *away.read(path)})[0]
        candidates = [name for name in counting[:-1] if name in here]
        held = _held_back(path, counting, here, share) if candidates else set()
        names = [name for name in candidates if name in track.segments and name not in held]
        if names and track.conflict is None:
            yield below, names


def _held_back(
    path: str, counting: Sequence[SegmentName], here: Collection[SegmentName], share: int
) -> set[SegmentName]:
    """The newest segments that may still be merged by themselves (`compaction.is_due`), in so many bytes at most."""
    held: set[SegmentName] = set()
    for name in reversed(counting):
        points = name.stop - name.start
        if name not in here or not USUAL_POINTS <= points < USUAL_POINTS * FACTOR**2:
            break
        try:
            share -= os.path.getsize(os.path.join(path, name.filename))
        except FileNotFoundError:  # merged just now: the next pass sees what it became
            break
        if share < 0:
            break
        held.add(name)
    return held


def droppable_files(folder: str, known: RemoteState) -> list[str]:
    """The paths, below the session in `folder`, of uploaded files whose bytes are here and on the replica."""
    return [
        path
        for path, sent in known.files.items()
        if sent.version is not None
        and layout.is_made_file(path)
        and os.path.isfile(os.path.join(folder, *path.split("/")))
    ]


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
