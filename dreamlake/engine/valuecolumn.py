"""Values of any types as one Polars column: what several runs say of one thing."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import polars as pl


def value_column(name: str, values: list[Any]) -> pl.Series:
    """A column of values of any type: of that where they have one, of floats where all are numbers, or JSON text.

    As fields of points become columns, so that no value is altered to fit those of other rows, however deep in it.
    """
    import polars as pl

    from dreamlake.format.columns import build_column

    if all(value is None for value in values):
        return pl.Series(name, values)
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float} and all(_is_exact(value) for value in values if type(value) is int):
        return pl.Series(name, values, pl.Float64, strict=False)
    _, column = build_column(values)
    return pl.Series(name, getattr(column, "storage", column))  # of JSON its text


def frame_of(columns: Sequence[pl.Series]) -> pl.DataFrame:
    """The columns side by side, by their names, of which one may be empty."""
    import polars as pl

    # By place first: Polars renames a column without a name, and refuses another of the name which it gives.
    frame = pl.DataFrame([column.alias(str(place)) for place, column in enumerate(columns)])
    frame.columns = [column.name for column in columns]
    return frame


def _is_exact(value: int) -> bool:
    """Whether it is the same as a float."""
    try:
        return float(value) == value
    except OverflowError:
        return False
