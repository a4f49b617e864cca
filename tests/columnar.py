"""Points whose fields mostly have one kind each, a comparison that sees types and bits, and small segments of them."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st
from values import floats, integers, texts, values

from dreamlake.format.schema import batch_from_points, ts_bounds
from dreamlake.format.segment import SegmentBounds, SegmentInfo, encode

HOSTILE_TEXT = "\x18\x16dreamlake.footer_crc32\x18\x0800000000"  # what the footer's checksum is found by

keys = st.one_of(st.sampled_from(["", "a", "b", "a.b", "list", "$x", "_y", "é", HOSTILE_TEXT]), texts)
field_names = keys.filter(lambda name: name[:1] != "_")
ends_of_time = st.builds(
    lambda at, offset: at.replace(tzinfo=timezone(offset)),
    st.sampled_from([datetime.min, datetime.max]),
    st.sampled_from([timedelta(hours=14), timedelta(hours=-12), timedelta(hours=5, minutes=30)]),
)
one_kind: list[st.SearchStrategy[Any]] = [
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.integers(-(2**63), 2**63 - 1),
    integers,
    floats,
    texts,
    st.just(HOSTILE_TEXT),
    st.binary(max_size=8),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=5, minutes=30)))),
    ends_of_time,
]
or_none = [st.one_of(st.none(), kind) for kind in one_kind]
nested: list[st.SearchStrategy[Any]] = [
    *[st.lists(kind, max_size=4) for kind in or_none],
    *[st.fixed_dictionaries({"a": kind, "": kind, "n": st.none()}) for kind in or_none],
    st.lists(st.lists(floats, max_size=3), max_size=3),
    st.lists(st.one_of(st.none(), st.lists(st.integers(-5, 5), max_size=3)), max_size=3),
    st.lists(st.one_of(st.none(), st.fixed_dictionaries({"k": integers, "t": st.datetimes()})), max_size=3),
    st.fixed_dictionaries({"x": st.fixed_dictionaries({"y": st.lists(st.none(), max_size=2)})}),
    st.one_of(st.integers(-5, 5), floats),
    st.lists(st.one_of(st.integers(-5, 5), floats), max_size=3),
]
column_kinds = st.sampled_from([*one_kind, *or_none, *nested, values, st.none()])
timestamps = st.floats(-1e11, 1e11)


@st.composite
def point_lists(draw: st.DrawFn, min_size: int = 1, max_size: int = 8) -> list[dict[str, Any]]:
    """Points with some of a few fields each, and ``_ts``."""
    kinds = {name: draw(column_kinds) for name in draw(st.lists(field_names, max_size=4, unique=True))}
    points: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(min_size, max_size))):
        some = {name: draw(kind) for name, kind in kinds.items() if draw(st.integers(0, 4))}
        points.append({**some, "_ts": draw(timestamps)})
    return points


def same(a: Any, b: Any, *, widened: bool = False) -> bool:
    """Whether two values are equal to the bit: types, the sign of zero, NaN, UTC offsets; the order of dict keys apart.

    With ``widened``, an int may have become the equal float.
    """
    if widened and type(a) is int and type(b) is float:
        return math.isfinite(b) and int(b) == a
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, datetime):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.utcoffset() == b.utcoffset()
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y, widened=widened) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], widened=widened) for key in a)
    return bool(a == b)


def holds_float(value: Any) -> bool:
    """Whether a float is anywhere in a value."""
    if isinstance(value, (list, dict)):
        return any(map(holds_float, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float)


def assert_same_points(expected: Sequence[Mapping[str, Any]], got: Sequence[Mapping[str, Any]]) -> None:
    """``got`` is what ``expected`` stored: an int may be a float only in a field that holds floats somewhere."""
    assert len(got) == len(expected)
    wide = {name for point in expected for name, value in point.items() if holds_float(value)}
    for before, after in zip(expected, got, strict=True):
        assert before.keys() == after.keys(), (before, after)
        assert list(after)[-1] == "_ts"
        for name, value in before.items():
            assert same(value, after[name], widened=name in wide), (name, value, after[name])


def segment_of(
    points: Sequence[Mapping[str, Any]], start: int = 0, before: Sequence[SegmentBounds] = (), track: str = "loss"
) -> bytes:
    """The segment of these points from index ``start`` on."""
    batch = batch_from_points(points)
    bounds = ts_bounds(batch)
    info = SegmentInfo(track, start, start + len(batch), 0, *bounds, batch.schema, batch.schema, tuple(before))
    return bytes(encode(batch, info))
