"""Every kind of value that a point may hold, as hypothesis strategies, and equality that sees their types."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from hypothesis import strategies as st

zones = st.one_of(
    st.none(),
    st.just(dt.UTC),
    st.integers(-24 * 60 + 1, 24 * 60 - 1).filter(bool).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))),
    st.integers(-86_399_999_999, 86_399_999_999)
    .filter(bool)
    .map(lambda us: dt.timezone(dt.timedelta(microseconds=us))),
    st.sampled_from([1, -1, 999_999, -1_000_001]).map(lambda us: dt.timezone(dt.timedelta(microseconds=us))),
)
datetimes = st.builds(lambda naive, zone: naive.replace(tzinfo=zone), st.datetimes(), zones)
integers = st.one_of(
    st.integers(-5, 5),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**700, -(10**4200)]),
)
floats = st.one_of(
    st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e16, 1.7976931348623157e308])
)
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        ["", "null", '"', "\\", "$", "$date", "_ts", "}\n{", "\x00", "[[{{", "\u2028", "\U0001f600", "\\u005f"]
    ),
)
leaves = st.one_of(st.none(), st.booleans(), integers, floats, texts, st.binary(max_size=20), datetimes)
keys = st.one_of(texts, st.sampled_from(["$date", "$$x", "$numberDouble", "$", "_index", "a", "b"]))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(floats, max_size=8),
        st.dictionaries(keys, inner, max_size=4),
        st.fixed_dictionaries({"$numberDouble": st.just("NaN")}),
    ),
    max_leaves=12,
)
names = keys.filter(lambda name: name[:1] != "_")
fields = st.dictionaries(names, values, max_size=5)
timestamps = st.floats(allow_nan=False, allow_infinity=False)


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same in every type, in the sign of zero, in UTC offsets, and in the order of keys."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (left != left and right != right) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(map(same, left.values(), right.values()))
    if isinstance(left, dt.datetime):
        return left.replace(tzinfo=None) == right.replace(tzinfo=None) and left.utcoffset() == right.utcoffset()
    return bool(left == right)
