"""Which local segments and files may be dropped, since the replica has them: for sessions without a local side."""

from __future__ import annotations

import os
from collections.abc import Iterator

from dreamlake.engine import away
from dreamlake.engine.replica.state import RemoteState
from dreamlake.format import layout, live
from dreamlake.format.layout import SegmentName


def droppable(folder: str, known: RemoteState) -> Iterator[tuple[str, list[SegmentName]]]:
    """The tracks of the session in `folder`, as folders below it, with their live segments that can go, oldest first.

    The last segment of a track stays: its footer tells the bounds and the fields of all before it.
    """
    for below, track in sorted(known.tracks.items()):
        path = os.path.join(folder, *below.split("/"))
        here = live.parse_listing(_listdir(path))
        counting = live.survey({*here, *away.read(path)})[0]
        confirmed = track.segments
        names = [name for name in counting[:-1] if name in confirmed and name in set(here)]
        if names and track.conflict is None:
            yield below, names


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
