"""Row groups out of a footer: the short way, for what Arrow writes, says what the long one does."""

from __future__ import annotations

from typing import Any

import pytest
from columnar import segment_of
from fuzzreaders import footer_start
from hypothesis import given
from hypothesis import strategies as st
from values import fields

from dreamlake.format import pages


def footer_of(data: bytes) -> bytes:
    return data[footer_start(data) : -8]


def found(groups: tuple[pages.RowGroup, ...]) -> list[Any]:
    return [(group.rows, group.texts(), [group.chunk(place) for place in range(len(group))]) for group in groups]


def the_long_way(footer: bytes) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_LIST_OF_COLUMNS", -1)
        return found(pages.row_groups(footer))


@given(st.lists(fields, min_size=1, max_size=30))
def test_any_points(points: list[dict[str, Any]]) -> None:
    footer = footer_of(segment_of([{**point, "_ts": float(place)} for place, point in enumerate(points)]))
    assert found(pages.row_groups(footer)) == the_long_way(footer)


@pytest.mark.parametrize(
    ("value", "columns"),
    [(0.5, 3), (7, 3), (True, 3), (None, 4), ([1.5, 2.5], 3), ([[1, 2]], 3), ({"a": 1, "b": [0.5]}, 4), (b"raw", 3)],
)
def test_numbers_go_the_short_way(value: Any, columns: int) -> None:
    footer = footer_of(segment_of([{"x": value, "_ts": float(place)} for place in range(300)]))
    (group,) = pages.row_groups(footer)
    assert len(group) == columns
    long = [place for place in range(len(group)) if isinstance(group._columns[place], pages.Chunk)]
    texts = [place for place, is_text in enumerate(group.texts()) if is_text]
    assert set(long) <= set(texts), "a column without text goes the long way"
    assert found((group,)) == the_long_way(footer)


@pytest.mark.parametrize("groups", [1, 14, 15, 40])
def test_many_groups_and_columns(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamlake.format.segment.ROW_GROUP", 10)
    points = [{f"field {n}": 1.0 * n for n in range(20)} | {"_ts": float(place)} for place in range(10 * groups)]
    footer = footer_of(segment_of(points))
    assert len(pages.row_groups(footer)) in (1, groups)
    assert found(pages.row_groups(footer)) == the_long_way(footer)


@given(st.data())
def test_what_is_changed_is_read_alike_or_refused(data: st.DataObject) -> None:
    footer = bytearray(footer_of(segment_of([{"x": 0.5, "y": place, "_ts": float(place)} for place in range(50)])))
    for _ in range(data.draw(st.integers(1, 3))):
        footer[data.draw(st.integers(0, len(footer) - 1))] = data.draw(st.integers(0, 255))

    def told(work: Any) -> Any:
        try:
            return work()
        except ValueError:
            return "refused"

    short = told(lambda: found(pages.row_groups(bytes(footer))))
    long = told(lambda: the_long_way(bytes(footer)))
    assert short == long or short == "refused" or long == "refused"
    if short != long:  # only what the short way does not look at may be refused by the long one
        assert long == "refused"
