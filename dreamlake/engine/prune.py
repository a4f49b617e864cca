"""What a Polars predicate says about a stretch of points of which only the bounds of some columns are known.

Polars hands a source its predicate as an expression. Its JSON form is read here, as far as it is understood:
comparisons of a bounded column with a number or a text, ``is_between``, ``and`` and ``or`` of these. Whatever is not
understood says "there may be points", so that a stretch is left out only where no point of it can pass. The predicate
itself is always applied to what is left, by the caller.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    #: Lowest and highest value of columns in a stretch of points, both inclusive.
    Bounds = Mapping[str, tuple[Any, Any]]
    Test = Callable[[Bounds], bool]

_AND = ("And", "LogicalAnd")
_FLIPPED = {"Eq": "Eq", "Lt": "Gt", "LtEq": "GtEq", "Gt": "Lt", "GtEq": "LtEq"}
_NUMBERS = frozenset(
    f"{kind}{bits}" for kind, sizes in {"Int": (8, 16, 32, 64, 128), "UInt": (8, 16, 32, 64)}.items() for bits in sizes
) | {"Float32", "Float64", "Int", "Float"}


def may_match(predicate: pl.Expr) -> Test:
    """A test of bounds: False only where no point within them can pass `predicate`."""
    try:
        return _test(json.loads(predicate.meta.serialize(format="json")))
    except Exception:  # not serialisable, or in a form of another Polars version: no pruning, never a failed query
        return _always


def conditions(predicate: pl.Expr) -> list[pl.Expr]:
    """What must all be true where `predicate` is; nothing where its form is not understood."""
    try:
        node = json.loads(predicate.meta.serialize(format="json"))
        if node.get("BinaryExpr", {}).get("op") in _AND:
            return [each for side in predicate.meta.pop() for each in conditions(side)]
    except Exception:  # as above; nor is a Python function called more often than it would be
        return []
    return [predicate]


def _always(bounds: Bounds) -> bool:
    return True


def _test(node: Any) -> Test:
    if not isinstance(node, dict) or len(node) != 1:
        return _always
    ((kind, body),) = node.items()
    if kind == "BinaryExpr":
        return _binary(body)
    if kind == "Function":
        return _between(body)
    return _always


def _binary(body: dict[str, Any]) -> Test:
    op = body["op"]
    if op in _AND:
        left, right = _test(body["left"]), _test(body["right"])
        return lambda bounds: left(bounds) and right(bounds)
    if op in ("Or", "LogicalOr"):
        left, right = _test(body["left"]), _test(body["right"])
        return lambda bounds: left(bounds) or right(bounds)
    if op not in _FLIPPED:
        return _always
    if _column(body["left"]) is None:
        return _comparison(_column(body["right"]), _FLIPPED[op], _literal(body["left"]))
    return _comparison(_column(body["left"]), op, _literal(body["right"]))


def _between(body: dict[str, Any]) -> Test:
    function = body["function"]
    closed = function["Boolean"]["IsBetween"]["closed"]
    tested, low, high = body["input"]
    column = _column(tested)
    above = _comparison(column, "GtEq" if closed in ("Both", "Left") else "Gt", _literal(low))
    below = _comparison(column, "LtEq" if closed in ("Both", "Right") else "Lt", _literal(high))
    return lambda bounds: above(bounds) and below(bounds)


def _comparison(column: str | None, op: str, value: Any) -> Test:
    if column is None or value is None:
        return _always

    def test(bounds: Bounds) -> bool:
        known = bounds.get(column)
        if known is None or isinstance(known[0], str) is not isinstance(value, str):
            return True
        low, high = known
        if op == "Eq":
            return bool(low <= value <= high)
        if op == "Lt":
            return bool(low < value)
        if op == "LtEq":
            return bool(low <= value)
        return bool(high > value if op == "Gt" else high >= value)

    return test


def _column(node: Any) -> str | None:
    """The column that `node` is, or whose values it compares as floats: an index is exact as one below 2^53."""
    if not isinstance(node, dict):
        return None
    cast = node.get("Cast")
    if isinstance(cast, dict) and cast.get("dtype") == {"Literal": "Float64"}:
        node = cast.get("expr")
    name = node.get("Column") if isinstance(node, dict) else None
    return name if isinstance(name, str) else None


def _literal(node: Any) -> Any:
    """The number or text that `node` is; None for all else (NaN and infinities come as null)."""
    literal = node.get("Literal") if isinstance(node, dict) else None
    if not isinstance(literal, dict) or len(literal) != 1:
        return None
    ((kind, value),) = literal.items()
    if kind in ("Scalar", "Dyn") and isinstance(value, dict) and len(value) == 1:
        ((kind, value),) = value.items()
    if kind in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return value if kind == "String" and isinstance(value, str) else None
