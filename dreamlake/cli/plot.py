"""A line drawn on a terminal: in braille dots, two by four a character, or in plain ASCII."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: The bit of a dot in a braille character, by row and column within it.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def line_plot(values: Sequence[float], width: int, height: int, *, log: bool = False, dots: bool = True) -> list[str]:
    """The lines of a plot of `values` over their positions.

    Each column shows the mean of the values that fall into it; values that are not finite (or, with `log`, not above
    0) are left out.

    Parameters
    ----------
    values
        At any number.
    width, height
        Of the plot in characters, the labels to its left not counted.
    log
        Whether the vertical axis is logarithmic.
    dots
        Whether the terminal can show braille; asterisks otherwise.
    """
    across, down = (2, 4) if dots else (1, 1)
    means = [_scaled(mean, log) for mean in bucket_means(values, width * across, log)]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ["(nothing to plot)"]
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    rows = [None if mean is None else round((high - mean) / span * (height * down - 1)) for mean in means]
    cells = [[0] * width for _ in range(height)]
    for x, above, below in _strokes(rows):
        for y in range(above, below + 1):
            cells[y // down][x // across] |= _DOTS[y % down][x % across] if dots else 1
    return _labelled(cells, low, high, log, dots)


def bucket_means(values: Sequence[float], buckets: int, positive: bool = False) -> list[float | None]:
    """The mean of each of so many stretches of `values`; None for a stretch without a finite (`positive`) one."""
    count = len(values)
    buckets = min(buckets, count)
    means: list[float | None] = []
    for number in range(buckets):
        part = values[number * count // buckets : (number + 1) * count // buckets]
        kept = [value for value in part if math.isfinite(value) and (value > 0 or not positive)]
        means.append(math.fsum(kept) / len(kept) if kept else None)
    return means


def _scaled(value: float | None, log: bool) -> float | None:
    return math.log10(value) if log and value is not None else value


def _strokes(rows: Sequence[int | None]) -> list[tuple[int, int, int]]:
    """For each column with a value the rows to fill, so that the line has no gaps where it is steep."""
    strokes = []
    before: int | None = None
    for x, y in enumerate(rows):
        if y is None:
            before = None
            continue
        if before is None or before == y:
            strokes.append((x, y, y))
        else:
            strokes.append((x, before + 1, y) if before < y else (x, y, before - 1))
        before = y
    return strokes


def _labelled(cells: list[list[int]], low: float, high: float, log: bool, dots: bool) -> list[str]:
    at = {
        0: high,
        len(cells) // 2: high + (low - high) * (len(cells) // 2) / max(1, len(cells) - 1),
        len(cells) - 1: low,
    }
    labels = [f"{10 ** at[row] if log else at[row]:.3g}" if row in at else "" for row in range(len(cells))]
    margin = max(map(len, labels))
    edge, corner, floor = ("┤", "└", "─") if dots else ("|", "+", "-")
    lines = []
    for label, row in zip(labels, cells, strict=True):
        drawn = "".join(_cell(bits, dots) for bits in row).rstrip()
        lines.append(f"{label:>{margin}} {edge}{drawn}")
    lines.append(" " * (margin + 1) + corner + floor * len(cells[0]))
    return lines


def _cell(bits: int, dots: bool) -> str:
    if not bits:
        return " "
    return chr(0x2800 + bits) if dots else "*"
