"""Sorting pending rows into new points, fields for hot ones and late fields; the queue of what is still to write."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlake.engine.pending import Block, chain_of
from dreamlake.engine.rows import ColumnRows, MixedRow, PointRows, Rows
from dreamlake.engine.sorting import RowQueue, Sorter
from dreamlake.format.layout import SegmentName

SEGMENT = SegmentName(0, 10)


class Disk:
    """A track on disk: ten points with the timestamps 0 to 9 in a segment, five hot ones with 20 to 24."""

    next_index = 15
    max_ts = 24.0

    def __init__(self, empty: bool = False) -> None:
        self.asked = 0
        if empty:
            self.next_index, self.max_ts = 0, -inf
        self.empty = empty

    def find_in_segments(self, ts: float) -> tuple[SegmentName, int] | None:
        self.asked += 1
        return (SEGMENT, int(ts)) if not self.empty and ts in range(10) else None

    def find_in_hot(self, ts: float) -> int | None:
        return int(ts) - 10 if not self.empty and ts in range(20, 25) else None


def flat(ts: list[float], explicit: bool) -> Block:
    block = Block()
    block.ready = ColumnRows(("a",), [list(range(len(ts)))], ts, explicit)
    return block


def mixed(rows: list[MixedRow]) -> Block:
    block = Block()
    block.rows = rows
    return block


def sort(disk: Disk, *blocks: Block) -> Any:
    return Sorter(disk).sort(list(blocks))  # type: ignore[arg-type]


def new_points(out: Any) -> list[dict[str, Any]]:
    return [point for rows in out.new.pieces for point in rows.points()]


def test_automatic_rows_and_explicit_ones_above_all_need_no_look_up() -> None:
    disk = Disk()
    blocks = [flat([1.0, 2.0], False), flat([25.0, 26.0], True), mixed([(27.0, True, {"b": 1}), (0.5, False, {})])]
    out = sort(disk, *blocks)
    assert disk.asked == 0
    assert [block.result for block in blocks] == [(15, 17), (17, 19), (19, 21)]
    assert [point["_ts"] for point in new_points(out)] == [1.0, 2.0, 25.0, 26.0, 27.0, 0.5]
    assert not out.hot
    assert not out.late


def test_explicit_rows_find_their_points_wherever_they_lie() -> None:
    block = mixed(
        [
            (3.0, True, {"x": 1}),
            (22.0, True, {"x": 2}),
            (3.0, True, {"y": 3, "x": 4}),
            (15.0, True, {"x": 5}),
            (15.0, True, {"z": 6}),
            (15.0, False, {"w": 7}),
            (15.0, True, {"x": 8}),
        ]
    )
    out = sort(Disk(), block)
    assert out.late == {SEGMENT: {3: {"x": 4, "y": 3, "_ts": 3.0}}}
    assert out.hot == {12: {"x": 2, "_ts": 22.0}}
    assert new_points(out) == [{"x": 8, "z": 6, "_ts": 15.0}, {"w": 7, "_ts": 15.0}]
    assert [list(point)[-1] for point in new_points(out)] == ["_ts", "_ts"]
    assert block.result == (3, 17)


def test_a_merge_reaches_back_into_a_flat_block_of_the_same_flush() -> None:
    blocks = [flat([30.0, 31.0], True), mixed([(31.0, True, {"late": 1})]), flat([32.0], True)]
    out = sort(Disk(), *blocks)
    assert new_points(out) == [
        {"a": 0, "_ts": 30.0},
        {"a": 1, "late": 1, "_ts": 31.0},
        {"a": 0, "_ts": 32.0},
    ]
    assert [block.result for block in blocks] == [(15, 17), (16, 17), (17, 18)]


def test_explicit_columns_that_reach_below_the_highest_are_looked_at_one_by_one() -> None:
    block = flat([24.0, 25.0], True)
    out = sort(Disk(), block)
    assert out.hot == {14: {"a": 0, "_ts": 24.0}}
    assert new_points(out) == [{"a": 1, "_ts": 25.0}]
    assert block.result == (14, 16)


def test_of_two_automatic_points_with_one_timestamp_the_lower_is_meant() -> None:
    out = sort(Disk(empty=True), flat([5.0], False), mixed([(5.0, False, {"b": 1}), (5.0, True, {"c": 2})]))
    assert new_points(out) == [{"a": 0, "c": 2, "_ts": 5.0}, {"b": 1, "_ts": 5.0}]


rows = st.lists(
    st.tuples(
        st.sampled_from([0.0, 3.0, 9.0, 20.0, 24.0, 25.0, 26.0, 12.0]),
        st.booleans(),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(), max_size=2),
    ),
    max_size=12,
)


@given(rows, st.lists(st.integers(0, 12), max_size=3), st.booleans())
def test_what_is_left_sorts_again_to_the_same(given_rows: list[MixedRow], cuts: list[int], empty: bool) -> None:
    """A flush that failed before it wrote anything leaves the same work, however the rows lie in blocks."""
    edges = sorted({0, len(given_rows), *(cut for cut in cuts if cut <= len(given_rows))})
    blocks = [mixed(given_rows[a:b]) for a, b in pairwise(edges)]
    first = sort(Disk(empty), *blocks)
    whole = sort(Disk(empty), mixed(given_rows))
    again = sort(Disk(empty), *chain_of(first.rest()))
    for other in (whole, again):
        assert new_points(other) == new_points(first)
        assert other.hot == first.hot
        assert other.late == first.late


def queue_of(kind: str) -> RowQueue:
    """Nine rows in three pieces."""
    queue = RowQueue()
    for start, stop in ((0, 3), (3, 4), (4, 9)):
        values = list(range(start, stop))
        ts = [float(value) for value in values]
        queue.add(
            ColumnRows(("a",), [values], ts, False)
            if kind == "columns"
            else PointRows([{"a": v, "_ts": float(v)} for v in values], [False] * len(values))
        )
    queue.add(PointRows([], []))
    assert len(queue.pieces) == 3
    return queue


def numbers(pieces: Sequence[Rows]) -> list[int]:
    return [p["a"] for rows in pieces for p in rows.points()]


@pytest.mark.parametrize("kind", ["columns", "points"])
def test_a_queue_gives_and_drops_any_range(kind: str) -> None:
    used = queue_of(kind)
    for start in range(10):
        for stop in range(start, 10):
            for queue in (queue_of(kind), used):
                assert numbers(queue.part(start, stop)) == list(range(start, stop))
    for queue in (queue_of(kind), used):
        left = list(range(9))
        for count in (0, 2, 3, 4):
            queue.drop(count)
            left = left[count:]
            assert queue.count == len(left)
            assert numbers(queue.part(0, queue.count)) == left
        assert not queue.pieces


def test_what_is_left_stays_encoded() -> None:
    out = sort(Disk(empty=True), flat([1.0, 2.0], True), mixed([(3.0, True, {"b": 1})]))
    out.new.drop(1)
    first, second = chain_of(out.rest())
    assert first.ready is not None
    assert first.ready.count == 1
    assert second.ready is not None
    assert second.ready.mixed() == [(3.0, True, {"b": 1})]
    out.new.drop(2)
    assert out.rest() is None


def test_what_was_a_part_is_dropped_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = RowQueue()
    queue.add(ColumnRows(("a",), [list(range(9))], [float(i) for i in range(9)], False))
    assert [rows.count for rows in queue.part(2, 5)] == [3]

    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ColumnRows, "slice", fail)
    queue.drop(2)
    queue.drop(3)
    assert numbers(queue.pieces) == [5, 6, 7, 8]
    with pytest.raises(MemoryError):
        queue.drop(1)
    assert queue.count == 4
