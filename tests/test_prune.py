"""What a predicate says of a stretch of points: never that there is none where there is one."""

from __future__ import annotations

import json
import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlake.engine.prune import may_match

numbers = st.one_of(st.integers(-4, 4), st.sampled_from([-2.5, 0.5, 3.0, float("inf"), float("-inf"), float("nan")]))
columns = st.sampled_from(["_index", "_ts"])


@st.composite
def comparisons(draw: st.DrawFn) -> pl.Expr:
    column, low, high = pl.col(draw(columns)), pl.lit(draw(numbers)), pl.lit(draw(numbers))
    name = draw(st.sampled_from(["__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"]))
    closed: Any = draw(st.sampled_from(["both", "left", "right", "none"]))
    compared: pl.Expr = getattr(*draw(st.sampled_from([(column, name), (low, name)])))(
        low if draw(st.booleans()) else high
    )
    return draw(st.sampled_from([compared, column.is_between(low, high, closed=closed), column + 1 > low]))


predicates = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=4,
)


@given(predicates, st.lists(st.tuples(st.integers(-5, 5), st.sampled_from([-3.0, -0.5, 0.0, 2.0, 3.5])), min_size=1))
def test_no_stretch_with_a_match_is_left_out(predicate: pl.Expr, rows: list[tuple[int, float]]) -> None:
    frame = pl.DataFrame(rows, schema={"_index": pl.Int64, "_ts": pl.Float64}, orient="row")
    bounds = {name: (frame[name].min(), frame[name].max()) for name in frame.columns}
    if frame.filter(predicate).height:
        assert may_match(predicate)(bounds)


@pytest.mark.parametrize(
    ("predicate", "inside", "outside"),
    [
        (pl.col("_index") == 5, (5, 9), (6, 9)),
        (pl.col("_index") < 5, (4, 9), (5, 9)),
        (pl.col("_index") <= 5, (5, 9), (6, 9)),
        (pl.col("_index") > 5, (0, 6), (0, 5)),
        (pl.col("_index") >= 5, (0, 5), (0, 4)),
        (pl.lit(5) >= pl.col("_index"), (5, 9), (6, 9)),
        (pl.col("_index").is_between(3, 4), (4, 9), (5, 9)),
        (pl.col("_index").is_between(3, 4, closed="left"), (3, 9), (4, 9)),
        (pl.col("_index").is_between(3, 4, closed="right"), (0, 4), (0, 3)),
        ((pl.col("_index") > 2) & (pl.col("value") > 1), (0, 3), (0, 2)),
        ((pl.col("_index") > 7) | (pl.col("_index") < 2), (1, 6), (2, 7)),
    ],
)
def test_what_is_understood_leaves_out(predicate: pl.Expr, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    test = may_match(predicate)
    assert test({"_index": inside})
    assert not test({"_index": outside})


@pytest.mark.parametrize(
    "predicate",
    [
        pl.col("value") > 5,
        pl.col("_index") + 1 > 5,
        pl.col("_index").is_in([7]),
        pl.col("_ts") > pl.lit(math.nan),
        pl.col("_ts").cast(pl.Int8) > 5,
        pl.col("_index") > pl.col("value"),
        pl.col("_session") > "b",
        pl.lit(False),
    ],
)
def test_what_is_not_understood_leaves_nothing_out(predicate: pl.Expr) -> None:
    assert may_match(predicate)({"_index": (0, 3), "_ts": (0.0, 3.0), "_session": (1, 1)})


def test_texts_are_compared_with_texts() -> None:
    test = may_match(pl.col("_session") == "b")
    assert test({"_session": ("b", "b")})
    assert not test({"_session": ("a", "a")})


@pytest.mark.parametrize(
    "form",
    [
        [],
        {"New": {}},
        {"BinaryExpr": {}},
        {"BinaryExpr": {"op": "Gt", "left": {"Column": {"new": 1}}, "right": {"Literal": 5}}},
        {"Function": {"function": "New", "input": []}},
    ],
)
def test_forms_of_other_versions_leave_nothing_out(form: Any) -> None:
    class Foreign:
        class meta:
            @staticmethod
            def serialize(format: str) -> str:
                return json.dumps(form)

    assert may_match(Foreign())({"_index": (0, 0)})  # type: ignore[arg-type]
