"""The bytes of a hot file, turned into points.

A line is ``{"index": 0, "data": {"value": 0.5, "_ts": 1767.25}}`` in strict JSON, and counts once its newline is there.
A later line with the index of an earlier one updates the fields of that point, and may leave out ``_ts``.
`dreamlake.format.point` makes the lines.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

import msgspec

from dreamlake.errors import CorruptTrackError
from dreamlake.format.extjson import MAX_DEPTH, decode_key, from_json


class _Line(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    index: int
    data: dict[str, Any]


#: Bytes up to which a hot file is read without a thought of memory, and most bytes that the points of a larger one may
#: take there, each mark of JSON taken for as much as it can cost.
MUCH, MAX_MEMORY = 64 << 20, 4 << 30
_COSTS = ((b"{", 300), (b"[", 80), (b",", 40))

_decoder = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, slots=True)
class HotLines:
    """The whole lines of a hot file, in the order of the file.

    Parameters
    ----------
    indices
        For each line the index of its point.
    points
        For each line the fields it gives, decoded; always with ``_ts``, a float, where the index is a new one.
    end
        Where the last whole line ends in the file, in bytes; what follows is torn.
    damaged
        For each line that ``errors="skip"`` left out: its number from 1, its place in the file in bytes, the reason.
    """

    indices: list[int]
    points: list[dict[str, Any]]
    end: int
    damaged: list[tuple[int, int, str]] = field(default_factory=list)


class HotGapError(ValueError):
    """A point is missing between those of a hot file, or between the segments and the hot file.

    Parameters
    ----------
    index
        The first index that is missing.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__(f"the hot file has later points, but none with index {index}")

    def __reduce__(self) -> tuple[type[HotGapError], tuple[int]]:
        return type(self), (self.index,)


# ------------------------------------------------------------------------------------------------ bytes to lines


def parse(
    data: bytes,
    *,
    path: str = "",
    base_offset: int = 0,
    base_line: int = 0,
    known: Container[int] = (),
    errors: Literal["raise", "skip"] = "raise",
) -> HotLines:
    """Read the whole lines of a hot file, or of a part that begins with a line.

    Parameters
    ----------
    data
        The bytes. Those after the last newline are torn, and left out.
    path
        The file, for messages.
    base_offset, base_line
        How many bytes and lines of the file stand before ``data``.
    known
        The indices that the lines before ``data`` hold: lines with these may leave out ``_ts``.
    errors
        ``"raise"``, or ``"skip"`` to leave damaged lines out, and list them in ``HotLines.damaged``.

    Raises
    ------
    CorruptTrackError
        A whole line is damaged.
    """
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) > MUCH:
        _check_memory(whole, path)
    lines = _read_all(whole, known)
    if lines is None:
        lines = _read_each(whole, known)
    if lines.damaged and errors == "raise":
        line, place, reason = lines.damaged[0]
        start, stop = _missing_around(lines, line)
        where = f"byte {base_offset + place}, line {base_line + line}"
        raise CorruptTrackError(path, where, start, stop, reason)
    damaged = [(base_line + line, base_offset + place, reason) for line, place, reason in lines.damaged]
    return HotLines(lines.indices, lines.points, base_offset + len(whole), damaged)


def _check_memory(whole: bytes, path: str) -> None:
    """Refuse what a few bytes each blow up to more than any writer had in memory: empty lists, empty dicts."""
    size = sum(whole.count(mark) * cost for mark, cost in _COSTS)
    if size > MAX_MEMORY:
        raise CorruptTrackError(path, "the whole file", detail=f"its points would take {size} bytes of memory")


_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}\n")


def _read_all(whole: bytes, known: Container[int]) -> HotLines | None:
    """Read all lines in bulk, and the uncommon ones among them again; None if there may be any damage."""
    try:
        items = _decoder.decode_lines(whole)
    except (ValueError, RecursionError):
        return None
    brackets = whole.translate(None, _NO_BRACKETS)
    flat = brackets == b"{{}}\n" * len(items)
    if not flat and not _is_one_a_line(whole, brackets, len(items)):
        return None
    indices = [item.index for item in items]
    points = [item.data for item in items]
    deep = not flat and max(map(len, brackets.split(b"\n"))) > 2 * MAX_DEPTH
    plain_ts = _have_float_ts(points)
    if deep or not plain_ts or min(indices, default=0) < 0 or _has_marks(whole, len(items)):
        rows = whole.split(b"\n")[:-1]
        try:
            for at in _uncommon(whole, rows, points, deep, plain_ts):
                indices[at], points[at] = _read_line(rows[at])
        except ValueError:
            return None
        if min(indices) < 0 or (not plain_ts and _has_orphans(indices, points, known)):
            return None
    return HotLines(indices, points, len(whole))


def _is_one_a_line(whole: bytes, brackets: bytes, count: int) -> bool:
    """Whether the ``count`` values that were read stand on a line each.

    A reader of JSON takes a newline for any other space, and would not see one that was lost, or came. Within a value
    no brace is followed by another without a comma. So no value reaches from a line that ends with a brace into one
    that begins with a brace; and when there are as many such lines as values, each has one.

    When the brackets of each line are ``{{}}`` there is no need to ask: with one value fewer on some line, there would
    be too few brackets for the one more on another.
    """
    return brackets.count(b"\n") == count and whole.count(b'}\n{"index":') == count - 1


def _have_float_ts(points: list[dict[str, Any]]) -> bool:
    try:
        return {type(point["_ts"]) for point in points} <= {float}
    except KeyError:
        return False


# What a look at a line by itself is for: escaped keys and values, reserved names (also if written with escapes),
# deep nesting, and timestamps that are not there or not floats.


def _has_marks(whole: bytes, count: int) -> bool:
    # The search for single bytes is many times as fast as that for pairs.
    if b"$" in whole or b"\\" in whole:
        return True
    return whole.count(b"_") != count and whole.count(b'"_') != count


def _uncommon(whole: bytes, rows: list[bytes], points: list[dict[str, Any]], deep: bool, plain_ts: bool) -> set[int]:
    found: set[int] = set()
    if b"$" in whole:
        found.update(at for at, row in enumerate(rows) if b'"$' in row)
    if b"\\" in whole:
        found.update(at for at, row in enumerate(rows) if b"\\u00" in row)
    if not plain_ts:
        found.update(at for at, point in enumerate(points) if type(point.get("_ts")) is not float)
    if not plain_ts or whole.count(b'"_') != len(rows):
        found.update(at for at, row in enumerate(rows) if row.count(b'"_') != 1)
    if deep:
        found.update(at for at, row in enumerate(rows) if len(row.translate(None, _NO_BRACKETS)) > 2 * MAX_DEPTH)
    return found


def _has_orphans(indices: list[int], points: list[dict[str, Any]], known: Container[int]) -> bool:
    """Whether a line without ``_ts`` has an index that no line before it has."""
    seen: set[int] = set()
    for index, point in zip(indices, points, strict=True):
        if "_ts" not in point and index not in seen and index not in known:
            return True
        seen.add(index)
    return False


def _read_each(whole: bytes, known: Container[int]) -> HotLines:
    """Read line by line, and list the damaged ones; numbers and places are those in ``whole``."""
    lines = HotLines([], [], len(whole))
    seen: set[int] = set()
    place = 0
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            index, point = _read_line(line)
            if "_ts" not in point and index not in seen and index not in known:
                raise ValueError("the first line of a point has no _ts")
        except ValueError as error:
            lines.damaged.append((number, place, str(error)))
        else:
            seen.add(index)
            lines.indices.append(index)
            lines.points.append(point)
        place += len(line) + 1
    return lines


def _read_line(line: bytes) -> tuple[int, dict[str, Any]]:
    """Read one line with all that it may hold; ValueError if it is damaged."""
    try:
        item = _decoder.decode(line)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    if item.index < 0:
        raise ValueError(f"the index is {item.index}")
    point = {}
    for key, value in item.data.items():
        if key[:1] == "_" and key != "_ts":
            raise ValueError(f"the field name {key!a:.80} is reserved")
        point[decode_key(key)] = from_json(value)
    if "_ts" in point:
        point["_ts"] = _read_ts(point.pop("_ts"))
    return item.index, point


def _read_ts(ts: Any) -> float:
    kind = type(ts)
    try:
        if (kind is float or kind is int) and isfinite(ts):
            return float(ts)
    except OverflowError:
        pass
    raise ValueError(f"_ts is not a finite number: {ts!a:.80}")


def _missing_around(lines: HotLines, line: int) -> tuple[int | None, int | None]:
    """Return the range of indices that the first damaged line, number ``line``, may have held, as far as it shows."""
    before = lines.indices[: line - 1]
    start = max(before) + 1 if before else None
    stop = min((index for index in lines.indices[line - 1 :] if start is None or index >= start), default=None)
    # A line that had an index of its own leaves a gap; without one it was an update, of any point.
    return (None, None) if start is None or start == stop else (start, stop)


# ------------------------------------------------------------------------------------------------ lines to points


def merge(lines: HotLines, below: int) -> tuple[int, list[dict[str, Any]]]:
    """Return the points of a hot file, later lines merged into the earlier ones of the same index.

    Parameters
    ----------
    lines
        What ``parse`` returned; it is not changed, but may share its points with the result.
    below
        The end of the live segments: the points of lower indices are the segments', and left out.

    Returns
    -------
    The index of the first point, which is ``below``, and the points. The fields of a point are in the order of their
    arrival, ``_ts`` last.

    Raises
    ------
    HotGapError
        An index between ``below`` and the last one is missing.
    """
    runs = merge_runs(lines, below)
    if not runs:
        return below, []
    start, points = runs[0]
    if start != below:
        raise HotGapError(below)
    if len(runs) > 1:
        raise HotGapError(start + len(points))
    return start, points


def merge_runs(lines: HotLines, below: int) -> list[tuple[int, list[dict[str, Any]]]]:
    """Return the points as ``merge`` does, in runs without gaps: for each run its first index, and its points."""
    indices = lines.indices
    if not indices:
        return []
    if indices[0] >= below and indices == list(range(indices[0], indices[0] + len(indices))):
        return [(indices[0], lines.points)]
    merged: dict[int, dict[str, Any]] = {}
    for index, point in zip(indices, lines.points, strict=True):
        if index >= below:
            earlier = merged.get(index)
            merged[index] = point if earlier is None else _update(earlier, point)
    runs: list[tuple[int, list[dict[str, Any]]]] = []
    for index in sorted(merged):
        if not runs or index != runs[-1][0] + len(runs[-1][1]):
            runs.append((index, []))
        runs[-1][1].append(merged[index])
    return runs


def _update(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    point = {**earlier, **later}
    if "_ts" in point:
        point["_ts"] = point.pop("_ts")
    return point
