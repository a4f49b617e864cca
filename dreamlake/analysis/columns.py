"""The columns that people name: looked up with a hint where one is missing, and elements of lists as columns."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

import polars as pl
import polars.selectors as cs

if TYPE_CHECKING:
    from collections.abc import Iterable

#: ``position[2]``: an element of a column of lists, from the end where it is negative.
ELEMENT = re.compile(r"(.+)\[(-?\d{1,9})\]", re.DOTALL)


def unknown(what: str, name: str, names: Iterable[str], of: str) -> ValueError:
    """The error for a name that is not there, with the names that are."""
    names = list(names)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, sorted(names))) or 'none'}"
    return ValueError(f"no {what} {name!r} in {of}: {hint}")


def named(name: str) -> pl.Expr:
    """The column of exactly this name: `pl.col` takes ``*`` and ``^…$`` for patterns, and ``^x$`` for ``x``."""
    return cs.by_name(name).as_expr()


def column(schema: pl.Schema, name: str, of: str) -> pl.Expr:
    """The column of this name, or the element of a column of lists.

    Raises
    ------
    TypeError
        Not a text.
    ValueError
        There is no such column.
    """
    if not isinstance(name, str):
        raise TypeError(f"a field is named by a text, not by {type(name).__name__}")
    if name in schema:
        return named(name)
    found = ELEMENT.fullmatch(name)
    if found and isinstance(schema.get(found[1]), pl.List):
        return named(found[1]).list.get(int(found[2]), null_on_oob=True).alias(name)
    raise unknown("field", name, schema, of)


def numbers_inside(*schemas: pl.Schema) -> str:
    """How to name the numbers in lists, dicts and bools, as the end of a sentence which says that there are no others.

    Empty where there are none either.
    """
    hints: dict[str, str] = {}
    for schema in schemas:
        for name, kind in schema.items():
            if isinstance(kind, pl.List) and (kind.inner.is_numeric() or kind.inner == pl.Boolean):
                hints.setdefault("list", f"{name}[0] names an element of the lists in {name!r}")
            elif isinstance(kind, pl.Struct):
                numeric = [field.name for field in kind.fields if field.dtype.is_numeric()]
                if numeric:
                    taken = f"pl.col({name!r}).struct.field({numeric[0]!r})"
                    hints.setdefault("dict", f"{taken} takes a number of the dicts in {name!r} out of scan()")
            elif kind == pl.Boolean:
                hints.setdefault("bool", f"{name!r} holds bools, which are taken where they are named")
    return "".join(f"; {hint}" for hint in hints.values())


def numeric_fields(schema: pl.Schema) -> list[str]:
    """The fields whose values are numbers, in the order of the frame."""
    return [name for name, kind in schema.items() if not name.startswith("_") and kind.is_numeric()]
