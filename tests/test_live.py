"""The reader's rule: whatever leftovers lie about, the live segments are the tiling that the writer last committed."""

from __future__ import annotations

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlake.format import live
from dreamlake.format.layout import SegmentName, parse_segment
from dreamlake.format.live import HoleError


@st.composite
def tilings(draw: st.DrawFn) -> list[SegmentName]:
    """Some segments that tile [0, end), each in some generation."""
    cuts = [0, *itertools.accumulate(draw(st.lists(st.integers(1, 20), max_size=8)))]
    return [SegmentName(*span, draw(st.integers(0, 3))) for span in itertools.pairwise(cuts)]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[SegmentName], list[SegmentName]]:
    """A tiling, and a shuffled listing of it with what compactions and late fields left over."""
    final = draw(tilings())
    listing = list(final)
    for name in final:
        listing += [
            SegmentName(name.start, name.stop, g) for g in draw(st.sets(st.integers(0, 5))) if g < name.generation
        ]
        for _ in range(draw(st.integers(0, 3)) if name.stop - name.start > 1 else 0):
            start = draw(st.integers(name.start, name.stop - 1))
            stop = draw(st.integers(start + 1, name.stop))
            if (start, stop) != name[:2]:
                listing.append(SegmentName(start, stop, draw(st.integers(0, 9))))
    return final, draw(st.permutations(listing))


@given(histories())
def test_leftovers_change_nothing(history: tuple[list[SegmentName], list[SegmentName]]) -> None:
    final, listing = history
    found = live.live_segments(listing)
    assert list(found) == final
    assert live.end_of(found) == (final[-1].stop if final else 0)
    assert set(live.superseded(listing, found)) == set(listing) - set(final)


@given(histories(), st.integers(0, 170), st.integers(0, 170))
def test_covering_is_what_a_search_of_all_finds(
    history: tuple[list[SegmentName], list[SegmentName]], start: int, stop: int
) -> None:
    final, _ = history
    held = [name for name in final if any(start <= index < stop for index in range(name.start, name.stop))]
    assert list(live.covering(final, start, stop)) == held


@given(tilings().filter(bool), st.data())
def test_a_missing_segment_is_a_hole_unless_it_was_the_last(final: list[SegmentName], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(final))
    rest = [name for name in final if name != lost]
    if lost == final[-1]:
        assert list(live.live_segments(rest)) == rest
        return
    with pytest.raises(HoleError) as caught:
        live.live_segments(rest)
    assert (caught.value.start, caught.value.stop, caught.value.overlap) == (lost.start, lost.stop, False)
    readable, damage = live.survey(rest)
    assert list(readable) == rest
    assert [(hole.start, hole.stop) for hole in damage] == [(lost.start, lost.stop)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.integers(0, 2)), max_size=12))
def test_any_listing_gives_disjoint_segments_and_names_what_is_wrong(numbers: list[tuple[int, int, int]]) -> None:
    names = [SegmentName(start, start + length, generation) for start, length, generation in numbers]
    readable, damage = live.survey(names)
    assert all(one.stop <= other.start for one, other in itertools.pairwise(readable))
    held = {index for name in readable for index in range(name.start, name.stop)}
    holes = {index for hole in damage if not hole.overlap for index in range(hole.start, hole.stop)}
    assert held | holes == set(range(live.end_of(readable)))
    assert not held & holes
    assert all(index in held for hole in damage if hole.overlap for index in range(hole.start, hole.stop))
    if not damage:
        assert live.live_segments(names) == readable


def test_widest_range_wins_over_a_later_generation_of_a_part() -> None:
    whole, part = SegmentName(0, 20), SegmentName(0, 10, 7)
    assert live.live_segments([part, SegmentName(10, 20), whole]) == (whole,)


@pytest.mark.parametrize(
    ("spans", "start", "stop", "overlap"),
    [
        ([(5, 10)], 0, 5, False),
        ([(0, 5), (7, 9)], 5, 7, False),
        ([(0, 10), (5, 15)], 5, 10, True),
        ([(0, 10), (5, 15), (15, 20)], 5, 10, True),
    ],
)
def test_what_does_not_tile_is_named(spans: list[tuple[int, int]], start: int, stop: int, overlap: bool) -> None:
    with pytest.raises(HoleError, match=f"{start} to {stop}") as caught:
        live.live_segments([SegmentName(*span) for span in spans])
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.start, again.stop, again.overlap) == (start, stop, overlap)
    assert isinstance(again, ValueError)


def test_a_sweep_spares_what_the_live_list_does_not_know() -> None:
    known = [SegmentName(0, 10, 1), SegmentName(10, 20)]
    newer = [SegmentName(0, 10, 2), SegmentName(0, 20), SegmentName(20, 30), SegmentName(15, 25)]
    assert live.superseded([*known, *newer], known) == ()
    assert live.superseded([SegmentName(0, 10), SegmentName(3, 4, 9)], known) == (
        SegmentName(0, 10),
        SegmentName(3, 4, 9),
    )


def test_listing_ignores_everything_else() -> None:
    names = [SegmentName(0, 10), SegmentName(10, 20, 1)]
    others = ["data.jsonl", "metadata.json", ".tmp-12-1", "child", "0-10.parquet", names[0].filename + ".bak", ""]
    assert live.parse_listing([names[1].filename, *others, names[0].filename]) == tuple(names)


def test_nothing_is_live_in_an_empty_track() -> None:
    assert live.live_segments([]) == ()
    assert live.end_of(()) == 0
    assert live.covering((), 0, 10) == ()


#: Names that are one of a segment, nearly one, one and more, or none; three of them are as long as the usual ones.
ODD = [
    *(SegmentName(start, start + 10).filename for start in (0, 10, 20)),
    *(SegmentName(5, 10, 1).filename, SegmentName(10**12, 10**12 + 1).filename),
    *("000000000010-000000000010.parquet", "x" * 33, "00000000001\u0661-000000000020.parquet"),
    *("data.jsonl\n000000000010-000000000020.parquet", "000000000010-000000000020.parquet\n", "\n", ""),
    *("0-10.parquet", "000000000010-000000000020.parquet.tmp", "metadata.json"),
]


@given(st.lists(st.sampled_from(ODD), max_size=9, unique=True))
def test_a_listing_gives_what_each_of_its_names_gives(names: list[str]) -> None:
    assert live.parse_listing(names) == tuple(sorted(filter(None, map(parse_segment, names))))
