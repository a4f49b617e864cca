"""The run that a snapshot was taken of, told from another one of its name: it may be removed and made anew meanwhile.

A point keeps its index and its time for good, and segments are merged whole and never divided. So a later form of a
segment has the times of all that it replaces. A repair alone divides one, where some of its points are lost.
"""

from __future__ import annotations

from time import monotonic, time

from dreamlake.errors import CorruptTrackError, DreamlakeError
from dreamlake.format.live import covering, parse_listing, survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

    from dreamlake.engine.segments import SegmentFiles
    from dreamlake.format.layout import SegmentName

    #: The lowest and the highest ``_ts`` of some points, in seconds; None where they are not known.
    Times = tuple[float, float] | None

#: Seconds for which a snapshot is too young for its run to have been removed and made anew.
YOUNG = 0.05


class SameRun:
    """See the module; made when the snapshot is taken. What belongs to another run is refused by a DreamlakeError.

    Parameters
    ----------
    files
        The segments of the track.
    """

    def __init__(self, files: SegmentFiles) -> None:
        self._files = files
        self._oldest = files.oldest
        self._taken = monotonic()
        self._taken_at = time()

    def check_there(self) -> None:
        """Refuse to read of another run, as far as a local disk tells: it may have the same times.

        While the oldest segment is there it tells. Where it was merged since, or got a late field, the run must have
        been there when the snapshot was taken.
        """
        if self._oldest is None or monotonic() - self._taken <= YOUNG:
            return
        name, which = self._oldest
        now = self._files.which(name)
        if now != which and (now is not None or self.is_younger()):
            raise self.made_anew(name)

    def is_younger(self) -> bool:
        """Whether the run that is there now was made after the snapshot was taken."""
        return self._files.run_began() > self._taken_at

    def check_bounds(self, name: SegmentName, said: Times) -> None:
        """Refuse a segment that has the name of one of the snapshot's, and other times than it `said`."""
        if said is not None:
            info = self._files.info(name, None)
            if (info.ts_min, info.ts_max) != said:
                raise self.made_anew(name)

    def check_form(
        self, name: SegmentName, before: Mapping[SegmentName, Times], hot: Iterable[float], is_all: bool
    ) -> None:
        """Refuse a segment that is no later form of what the snapshot had in its range.

        Parameters
        ----------
        name
            A segment that has just been read.
        before
            The segments of the snapshot that have an index of its range, and their times.
        hot
            The times of the hot points in its range.
        is_all
            Whether these are all of its points; else it has others too, that were appended later.
        """
        info = self._files.info(name, None)
        if info.repaired:
            return
        for each, said in before.items():
            if name.start > each.start or name.stop < each.stop:
                if self._was_divided(each):
                    return
                raise self.made_anew(name)
            if name[:2] == each[:2] and name.generation < each.generation:
                raise self.made_anew(name)
            if said is None:
                return
        lows, highs = zip(*before.values(), *((ts, ts) for ts in hot), strict=True)
        low, high = min(lows), max(highs)
        if (info.ts_min, info.ts_max) != (low, high) and (is_all or low < info.ts_min or info.ts_max < high):
            raise self.made_anew(name)

    def _was_divided(self, name: SegmentName) -> bool:
        """Whether a repair has divided this segment: some of its points are lost."""
        parts = covering(survey(parse_listing(self._files.listing()))[0], name.start, name.stop)
        try:
            return any(self._files.info(part, None).lost for part in parts)
        except (FileNotFoundError, CorruptTrackError):
            return False

    def check_rows(self, name: SegmentName, table: pa.Table, said: Times, is_all: bool) -> None:
        """Refuse rows of a later form that have not the times which the segment of the snapshot `said` they have.

        Parameters
        ----------
        is_all
            Whether these are all rows of that segment.
        """
        import pyarrow.compute as pc

        if said is None or not table.num_rows:
            return
        found = pc.min_max(table.column("_ts")).as_py()
        low, high = found["min"], found["max"]
        if (low, high) != said and (is_all or low < said[0] or said[1] < high):
            raise self.made_anew(name)

    def made_anew(self, name: SegmentName) -> DreamlakeError:
        """The error for a segment of another run, or one that another run has not."""
        return DreamlakeError(
            f"{self._files.place(name)} holds other points than when this snapshot was taken: the run was made anew "
            "since; scan it anew"
        )
