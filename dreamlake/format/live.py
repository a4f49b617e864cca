"""A listing -> the live segments: the reader's rule, in one place.

The live segments of a track are the widest ranges in their highest generations. They tile [0, end) with no hole and no
overlap. A segment that lies within a wider one, or has a later generation, is superseded: a leftover of a compaction or
of a late field, ignored by readers and swept by the next writer. Writer, reader, replica, compaction and repair all ask
here which segments count.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import pairwise

from dreamlake.format.layout import SegmentName, parse_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


#: The names that `parse_segment` knows of segments of generation 0, one a line: a long track has many of these.
_USUAL = re.compile(r"^([0-9]{12})-([0-9]{12})\.parquet$", re.MULTILINE)
_USUAL_LENGTH = 33


class HoleError(ValueError):
    """The segments of a track do not tile [0, end): a range is missing, or two overlap without nesting.

    Parameters
    ----------
    start, stop
        The half-open range of indices that no segment holds, or that two hold.
    overlap
        Whether two hold it.
    """

    def __init__(self, start: int, stop: int, overlap: bool = False) -> None:
        self.start = start
        self.stop = stop
        self.overlap = overlap
        said = "two segments overlap, without nesting, in" if overlap else "a later segment is there, but none holds"
        super().__init__(f"{said} the indices {start} to {stop} (exclusive)")

    def __reduce__(self) -> tuple[type[HoleError], tuple[int, int, bool]]:
        return type(self), (self.start, self.stop, self.overlap)


def parse_listing(filenames: Iterable[str]) -> tuple[SegmentName, ...]:
    """The segments among the entries of a track's folder, sorted; all else (hot file, leftovers) is ignored."""
    names = list(filenames)
    lines = "\n".join(names)
    if lines.count("\n") >= max(1, len(names)):  # one of them is two lines
        return tuple(sorted(name for name in map(parse_segment, names) if name is not None))
    made = [
        tuple.__new__(SegmentName, (start, stop, 0))
        for first, last in _USUAL.findall(lines)
        if (start := int(first)) < (stop := int(last))
    ]
    others = [name for name in names if len(name) != _USUAL_LENGTH]
    made += [name for name in map(parse_segment, others) if name is not None]
    return tuple(sorted(made))


def live_segments(names: Iterable[SegmentName]) -> tuple[SegmentName, ...]:
    """The live ones of ``names``, sorted, tiling [0, end).

    Raises
    ------
    HoleError
        They do not tile. A reader looks once more before it calls that damage: a listing may be older than the sweep.
    """
    live, damage = survey(names)
    if damage:
        raise damage[0]
    return live


def survey(names: Iterable[SegmentName]) -> tuple[tuple[SegmentName, ...], tuple[HoleError, ...]]:
    """As ``live_segments``, but gives the damage beside the segments that can be read in spite of it.

    Of two that overlap without nesting the one that begins earlier counts; the other is left out as a whole.
    """
    live: list[SegmentName] = []
    damage: list[HoleError] = []
    end = 0
    ordered = sorted(names)
    if ordered and not ordered[0].start and all(one[1] == other[0] for one, other in pairwise(ordered)):
        return tuple(ordered), ()  # as nearly always: nothing superseded, nothing missing
    # Of those that begin at one index the widest comes first, and of one range the highest generation.
    for name in sorted(ordered, key=lambda name: (name.start, -name.stop, -name.generation)):
        if name.start >= end:
            if name.start > end:
                damage.append(HoleError(end, name.start))
            live.append(name)
            end = name.stop
        elif name.stop > end:
            damage.append(HoleError(name.start, end, overlap=True))
    return tuple(live), tuple(damage)


def covering(live: Sequence[SegmentName], start: int, stop: int) -> tuple[SegmentName, ...]:
    """Those of the sorted ``live`` that hold an index of the half-open range [start, stop)."""
    if start >= stop:
        return ()
    first = bisect_right(live, start, key=lambda name: name.stop)
    last = bisect_left(live, stop, key=lambda name: name.start)
    return tuple(live[first:last])


def overlap(one: SegmentName, other: SegmentName) -> bool:
    """Whether two segments hold an index both."""
    return one.start < other.stop and other.start < one.stop


def superseded(names: Iterable[SegmentName], live: Sequence[SegmentName]) -> tuple[SegmentName, ...]:
    """Those of ``names`` that a live segment replaces: what a sweep may delete, once a grace time has passed.

    A name that ``live`` knows nothing of (written since, wider or of a later generation) is not among them.
    """
    return tuple(sorted(name for name in names if any(_replaces(over, name) for over in covering(live, *name[:2]))))


def end_of(live: Sequence[SegmentName]) -> int:
    """One above the highest index that the sorted ``live`` hold; 0 when there are none."""
    return live[-1].stop if live else 0


def _replaces(over: SegmentName, name: SegmentName) -> bool:
    if over[:2] == name[:2]:
        return over.generation > name.generation
    return over.start <= name.start and name.stop <= over.stop
