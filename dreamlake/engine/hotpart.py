"""The part of a snapshot that lies in the hot file: its points, and the same points as columns."""

from __future__ import annotations

import logging
from functools import cached_property

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dreamlake.format.schema import Batch

log = logging.getLogger("dreamlake")


class HotPart:
    """Points that no segment holds yet.

    Parameters
    ----------
    indices
        The index of each point, rising; a range unless damage was skipped.
    points
        Fields and ``_ts``, one dict a point.
    """

    def __init__(self, indices: Sequence[int] = range(0), points: list[dict[str, Any]] | None = None) -> None:
        self.indices = indices
        self.points = points or []

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def stop(self) -> int:
        """One above the highest index; 0 when there is no point."""
        return self.indices[-1] + 1 if self.indices else 0

    @cached_property
    def batch(self) -> Batch:
        """The points as columns, in their order."""
        from dreamlake.format.schema import batch_from_points

        return batch_from_points(self.points)

    @cached_property
    def ts_bounds(self) -> tuple[float, float]:
        """The lowest and the highest ``_ts``, in seconds; (inf, -inf) when there is no point."""
        stamps = [point["_ts"] for point in self.points]
        return min(stamps, default=float("inf")), max(stamps, default=float("-inf"))


def parse_hot(data: bytes, below: int, path: str, strict: bool) -> HotPart:
    """The points of the hot file `data` from index `below` on, where the segments end.

    Parameters
    ----------
    path
        The file, fit for messages.
    strict
        Whether damage is raised; else damaged lines are logged and read round, and indices may be missing.

    Raises
    ------
    CorruptTrackError
        A whole line cannot be read, or points are missing between the segments and the first line.
    """
    from dreamlake.errors import CorruptTrackError
    from dreamlake.format import hot

    lines = hot.parse(data, path=path, errors="raise" if strict else "skip")
    for number, place, reason in lines.damaged:
        log.warning("skipped: %s is damaged at byte %d, line %d: %s", path, place, number, reason)
    runs = hot.merge_runs(lines, below)
    if not strict:
        indices = [index for start, points in runs for index in range(start, start + len(points))]
        return HotPart(indices, [point for _, points in runs for point in points])
    at = below
    for start, points in runs:
        if start != at:
            raise CorruptTrackError(path, "its lines", at, start, "there is no line with these indices")
        at += len(points)
    return HotPart(range(below, at), runs[0][1] if runs else [])
