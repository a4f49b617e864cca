"""Ranges of a file: those near to each other become one, and what is read beside what is wanted stays bounded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dreamlake.format import ranges
from dreamlake.format.ranges import Source

DATA = random.Random(1).randbytes(20 << 20)

spans_of = st.lists(
    st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 200_000)).map(lambda at: (at[0], min(sum(at), len(DATA)))),
    min_size=1,
    max_size=30,
)


def load(spans: Sequence[tuple[int, int]], far: bool) -> list[tuple[int, int]]:
    """Load ranges, look at each, and return what was read: by one call for many, or one by one."""
    read: list[tuple[int, int]] = []
    calls: list[int] = []

    def one(start: int, stop: int) -> bytes:
        read.append((start, stop))
        return DATA[start:stop]

    def many(wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        calls.append(len(wanted))
        return [one(*span) for span in wanted]

    loaded = Source(one, len(DATA), many if far else None).load(spans)
    assert loaded is not None
    for start, stop in spans:
        assert loaded.view(start, stop) == DATA[start:stop]
    assert calls == ([len(read)] if far and len(read) > 1 else [])
    return read


@given(spans_of)
def test_what_is_read_beside_is_bounded(spans: list[tuple[int, int]]) -> None:
    near, far = load(spans, False), load(spans, True)
    assert len(far) <= len(near)
    amount, most = (sum(stop - start for start, stop in read) for read in (far, near))
    assert amount <= most + max(ranges._WASTE, 2 * most)
    for read in (near, far):
        assert all(before[1] + ranges._GAP < behind[0] for before, behind in pairwise(read))


def test_requests_are_saved_where_that_is_cheap() -> None:
    """The pages of a small column lie between those of large ones; of many large columns one is not read with all."""
    step = 150_000
    small = [(at, at + 4_000) for at in range(0, 10 * step, step)]
    assert len(load(small, False)) == 10
    assert load(small, True) == [(0, 9 * step + 4_000)]
    step = 900_000
    large = [(at, at + 75_000) for at in range(0, 20 * step, step)]
    assert len(load(large, True)) == 20


def test_a_file_that_is_shorter_than_it_says_is_told() -> None:
    source = Source(lambda start, stop: DATA[start:stop][:5], len(DATA), lambda spans: [b"x" for _ in spans])
    assert source.load([(0, 10)]) is None
    assert source.load([(0, 10), (10_000_000, 10_000_010)]) is None
