"""What every workload shares: settings, scratch folders, interleaved rounds and the row a workload reports."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar

T = TypeVar("T")

Unit = Literal["s", "points/s", "bytes"]
"""How a figure is shown; `points/s` rows hold seconds a point, so that a larger ratio always means slower."""


@dataclass(frozen=True)
class Settings:
    """How much to run.

    Parameters
    ----------
    rounds
        Rounds a workload, each running every side once; one more round before them warms up and is not counted.
    quick
        Smaller inputs, for a smoke run. The targets are meant for the full sizes.
    scratch
        The folder that temporary folders are made in, and left in; None is the system's.
    """

    rounds: int = 7
    quick: bool = False
    scratch: Path | None = None

    def size(self, full: int, quick: int) -> int:
        """`quick` in a quick run, else `full`."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure a round for dreamlake and, where there is one, for the floor.

    Parameters
    ----------
    workload
        What was measured, in words.
    ours, floor
        One figure a round, in rounds' order; an empty `floor` means that there is none.
    unit
        How the figures are shown.
    target
        The largest allowed value of what is judged; None when nothing is promised.
    judged
        Whether `target` is for the ratio to the floor or for dreamlake's own median.
    counts
        False for a second look at a workload (a cold handle, a stricter floor): its verdict is shown in brackets.
    note
        What a reader must know to judge the row fairly; printed below the table.
    """

    workload: str
    ours: tuple[float, ...]
    floor: tuple[float, ...] = ()
    unit: Unit = "s"
    target: float | None = None
    judged: Literal["ratio", "ours"] = "ratio"
    counts: bool = True
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Dreamlake's figure over the floor's, round by round."""
        return tuple(ours / floor for ours, floor in zip(self.ours, self.floor, strict=bool(self.floor)))

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios, or None without a floor."""
        return median(self.ratios) if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None when there is no target."""
        judged = self.ratio if self.judged == "ratio" else median(self.ours)
        return None if self.target is None or judged is None else judged <= self.target


@contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A fresh folder, emptied afterwards, see `empty`; whoever made `settings.scratch` removes it."""
    folder = Path(tempfile.mkdtemp(prefix="dreamlake-bench-", dir=settings.scratch))
    try:
        yield folder
    finally:
        empty(folder)


def empty(folder: Path) -> None:
    """Cut off all files below a folder at 0 bytes, so that nobody pays for writing back another's pages.

    They are not removed: ext4 without a journal passes over each inode that was deleted in the last minute (five, where
    it is not written back) whenever it looks for a new one (``recently_deleted`` in Linux' fs/ext4/ialloc.c), so that a
    new file costs several times as much for whoever comes next.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)


def interleave(
    sides: Sequence[Callable[[Path], T]], settings: Settings, *, rounds: int | None = None
) -> list[tuple[T, ...]]:
    """Run the sides in turn, round by round, each in a fresh folder, and return each side's results.

    Sides that run next to each other meet the same machine, so a ratio taken within a round is worth more than one
    of two medians. The order turns round every time, because the second to run may find warmer caches or a busier disk.
    The first round is thrown away: it pays for imports and cold caches. A side's folder is emptied before the
    next side begins. What exists before the rounds (the input) is hidden
    from the garbage collector, which itself stays on, as it is in a user's program.
    """
    count = settings.rounds if rounds is None else rounds
    results: list[list[T]] = [[] for _ in sides]
    gc.collect()
    gc.freeze()
    try:
        for number in range(count + 1):
            order = range(len(sides)) if number % 2 else reversed(range(len(sides)))
            for side in order:
                with scratch(settings) as folder:
                    gc.collect()
                    result = sides[side](folder)
                if number > 0:
                    results[side].append(result)
    finally:
        gc.unfreeze()
    return [tuple(side) for side in results]


def timed(work: Callable[[Path], object]) -> Callable[[Path], float]:
    """`work` as a side of `interleave` that returns the seconds it took."""

    def side(folder: Path) -> float:
        start = time.perf_counter()
        work(folder)
        return time.perf_counter() - start

    return side


def timed_calls(work: Callable[[], object], calls: int) -> Callable[[Path], float]:
    """`work`, called `calls` times a round, as a side of `interleave` that returns the median seconds of a call."""

    def side(folder: Path) -> float:
        return median([_seconds(work) for _ in range(calls)])

    return side


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def per_point(seconds: Sequence[float], points: int) -> tuple[float, ...]:
    """Seconds a run as seconds a point."""
    return tuple(figure / points for figure in seconds)
