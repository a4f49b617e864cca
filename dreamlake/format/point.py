"""Values as a point takes them in, as a snapshot; and points as lines of JSON.

`dreamlake.format.extjson` says how one value looks in JSON, `dreamlake.format.hot` reads the lines.
"""

# This module is on the way of a first append, which must not wait for an import.
from __future__ import annotations

import sys
from itertools import chain
from math import inf, isfinite

from dreamlake.format.extjson import (
    MAX_DEPTH,
    SCALARS,
    TEXT_OR_LESS,
    decode_text,
    dict_to_json,
    encode_key,
    encode_text,
    encoder,
    from_json,
    to_json,
    types_of,
)
from dreamlake.format.layout import check_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

__all__ = [
    "INT_BYTES",
    "MAX_DEPTH",
    "MAX_POINT_BYTES",
    "SCALARS",
    "SCALAR_BYTES",
    "LineEncoder",
    "check_ts",
    "decode_text",
    "encode_line",
    "encode_lines",
    "encode_text",
    "from_json",
    "line_encoder",
    "take",
    "take_name",
    "take_value",
    "to_json",
    "types_of",
    "within_doubles",
]

MAX_POINT_BYTES = 1 << 20
"""Longest JSON form of a point."""

# Bounds the JSON of a float, a bool, None and an integer of 90 bits, with a comma; in memory they take about as much.
SCALAR_BYTES = 32
_SMALL_BITS = 90
# Bounds the JSON of an integer within doubles.
INT_BYTES = 352
_MAX_ITEMS = MAX_POINT_BYTES // 2  # each item of a list takes two bytes or more
_MAX_NAMES = 4096

# ------------------------------------------------------------------------------------------------ taking values in

# Field names that passed the check, each with its plain form and the bytes of its key.
_names: dict[str, tuple[str, int]] = {}

# foreign.plain, once a value needed it: an import statement costs as much as a scalar.
_plain: Callable[[str, Any], Any] | None = None


def take(fields: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return a snapshot of a point's fields, and how much it takes.

    Parameters
    ----------
    fields
        The fields by name, without ``_ts``.

    Returns
    -------
    The fields as a new dict of plain values (see ``take_value``), and an upper bound of their JSON form in bytes.

    Raises
    ------
    TypeError
        A value has a type that cannot be stored, or a name is not a string.
    ValueError
        A name is reserved, a string has no UTF-8 form, the nesting is too deep, or the point takes over 1 MB.
    """
    point = {}
    size = 2
    room = [_MAX_ITEMS]
    for given, value in fields.items():
        name, key_size = _names.get(given) or _learn_name(given)
        kind = type(value)
        if kind is float or kind is bool or value is None:
            point[name] = value
            size += key_size + SCALAR_BYTES
        else:
            point[name], more = _take(name, value, 0, room)
            size += key_size + more
    if size > MAX_POINT_BYTES:
        _refuse_large(point)
    return point, size


def take_value(name: str, value: Any) -> tuple[Any, int]:
    """Return a snapshot of one field's value, and how much it takes.

    Parameters
    ----------
    name
        The field, for messages.
    value
        What the user gave.

    Returns
    -------
    A plain value that shares nothing changeable with ``value`` (None, or an exact bool, int, float, str, bytes,
    datetime, list or dict), and an upper bound of its JSON form in bytes.

    Raises
    ------
    TypeError, ValueError
        As ``take``.
    """
    taken, size = _take(name, value, 0, [_MAX_ITEMS])
    if size > MAX_POINT_BYTES:
        _refuse_large({name: taken})
    return taken, size


def check_ts(ts: Any) -> float:
    """Return a timestamp that a user gave as a float of seconds since the epoch.

    Raises
    ------
    TypeError
        It is not a number.
    ValueError
        It is not finite.
    """
    if type(ts) is not float:
        try:
            number, _ = take_value("_ts", ts)
        except TypeError:
            number = None
        if type(number) is not float and type(number) is not int:
            raise TypeError(
                f"_ts is a number of seconds since the epoch, not {type(ts).__name__}; a datetime has .timestamp()"
            )
        try:
            ts = float(number)
        except OverflowError:
            ts = inf
    if not isfinite(ts):
        raise ValueError(f"_ts is not a finite number of seconds since the epoch: {ts}")
    return float(ts)


def take_name(given: str) -> tuple[str, int]:
    """Return the plain form of a field's name, and the bytes that it takes in JSON at most, its colon and comma too.

    Raises
    ------
    TypeError, ValueError
        As ``take``.
    """
    return _names.get(given) or _learn_name(given)


def _learn_name(given: str) -> tuple[str, int]:
    check_field(given)
    name = str.__str__(given)
    if name == "_ts":
        raise ValueError("_ts is the timestamp of a point, not a field")
    if len(_names) >= _MAX_NAMES:
        _names.clear()
    known = _names[name] = (name, _text_size(name, name) + 2)
    return known


def _take(field: str, value: Any, depth: int, room: list[int]) -> tuple[Any, int]:
    """Take a value inside ``depth`` lists and dicts; ``room`` holds how many more items the point may have."""
    kind = type(value)
    if kind is float or kind is bool or value is None:
        return value, SCALAR_BYTES
    if kind is int:
        return value, _int_size(value)
    if kind is str:
        return value, _text_size(field, value)
    if kind is list or kind is tuple:
        return _take_list(field, list(value), depth + 1, room)
    if kind is dict:
        return _take_dict(field, value.copy(), depth + 1, room)
    if kind is bytes:
        return value, len(value) * 4 // 3 + 48
    return _take_foreign(field, value, depth, room)


def _take_list(field: str, items: list[Any], depth: int, room: list[int]) -> tuple[list[Any], int]:
    """Take the items of a list that nobody else can change."""
    _check_room(field, len(items), depth, room)
    kinds = set(map(type, items))
    size = 2
    if SCALARS.issuperset(kinds):
        size += SCALAR_BYTES * len(items)
        if int in kinds:
            size += _large_ints(items, kinds)
        return items, size
    for at, item in enumerate(items):
        items[at], more = _take(field, item, depth, room)
        size += more + 1
    return items, size


def _take_dict(field: str, given: dict[Any, Any], depth: int, room: list[int]) -> tuple[dict[str, Any], int]:
    _check_room(field, len(given), depth, room)
    taken = {}
    size = 2
    for key, value in given.items():
        if not isinstance(key, str):
            raise TypeError(f"field {field!r}: a dict's keys are strings, not {type(key).__name__}")
        plain_key = str.__str__(key)
        taken[plain_key], more = _take(field, value, depth, room)
        size += _text_size(field, plain_key) + more + 2
    return taken, size


def _take_foreign(field: str, value: Any, depth: int, room: list[int]) -> tuple[Any, int]:
    global _plain
    if _plain is None:
        from dreamlake.format.foreign import plain

        _plain = plain
    # An array of no dimensions can hold any object, itself included: hence the bound.
    for _ in range(4):
        value = _plain(field, value)
        kind = type(value)
        if kind.__name__ == "datetime":
            return value, 64
        if kind in SCALARS or kind in (str, bytes, list, dict):
            return _take(field, value, depth, room)
    from dreamlake.format.foreign import refusal

    raise refusal(field, value)


def _check_room(field: str, items: int, depth: int, room: list[int]) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"field {field!r}: lists and dicts are nested more than {MAX_DEPTH} deep, or hold themselves")
    # Counted here, since a few lists that share their items can stand for a structure that no memory holds.
    room[0] -= items
    if room[0] < 0:
        from dreamlake.format.foreign import too_large

        raise too_large(field)


def _refuse_large(point: dict[str, Any]) -> None:
    """Raise ValueError if the JSON form of ``point``, which may be long, is too long."""
    sizes = {name: len(encoder().encode(dict_to_json({name: value}))) for name, value in point.items()}
    # Each was measured with two braces; together they have one pair, and commas.
    if sum(sizes.values()) - len(sizes) + 1 > MAX_POINT_BYTES:
        from dreamlake.format.foreign import too_large

        raise too_large(max(sizes, key=sizes.__getitem__))


# Upper bounds of JSON forms, in bytes.


def _int_size(value: int) -> int:
    bits = value.bit_length()
    return SCALAR_BYTES if bits <= _SMALL_BITS else SCALAR_BYTES + bits // 3


def _large_ints(items: list[Any], kinds: set[type]) -> int:
    """What the integers among the scalars ``items`` take beyond ``SCALAR_BYTES`` each."""
    if kinds <= {int, bool} and max(map(int.bit_length, items)) <= _SMALL_BITS:
        return 0
    return sum(_int_size(item) - SCALAR_BYTES for item in items if type(item) is int)


_NO_CONTROLS = dict.fromkeys(range(32))


def _text_size(field: str, text: str) -> int:
    """Bound the JSON of a string, its quotes and a leading ``$`` more; 4 bytes too many for each end of a line."""
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"field {field!r}: a string holds a lone surrogate, which has no UTF-8 form") from None
    if not text.isprintable():
        size += 5 * (len(text) - len(text.translate(_NO_CONTROLS)))
    return size + 3 + text.count('"') + text.count("\\")


# ------------------------------------------------------------------------------------------------ points as lines

_STRUCT_ROWS = 64  # making a struct takes as long as encoding so many rows without one
_CACHED_ENCODERS = 128

_encoders: dict[tuple[str, ...], LineEncoder] = {}
_line: Callable[[int, Any], Any] | None = None


class LineEncoder:
    """Makes lines of points that all have the same fields; one encoder may serve many threads.

    Parameters
    ----------
    names
        The fields in the order in which a line shows them, without ``_ts``, which always comes last.
    """

    __slots__ = ("_keys", "_row")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._keys = (*map(encode_key, names), "_ts")
        self._row: Callable[..., Any] | None = None

    def encode(
        self, start: int, columns: Sequence[Sequence[Any]], types: Sequence[type | None], ts: Sequence[float]
    ) -> bytes:
        """Return one line for each row.

        Parameters
        ----------
        start
            The index of the first row.
        columns
            For each name the values of all rows, as ``take_value`` returns them.
        types
            For each column the one exact type of all its values, or None where there are several, and for integers
            that are not `within_doubles`.
        ts
            The timestamps of all rows, finite.
        """
        if any(len(column) != len(ts) for column in columns):
            raise ValueError(f"columns of {sorted({*map(len, columns)})} rows, and {len(ts)} timestamps")
        # How many digits str() may give is a setting of the process. With the usual one msgspec refuses an integer
        # whose text would take for ever, and there is no need to look at each of those within doubles.
        look = not 0 < sys.get_int_max_str_digits() <= 4300
        try:
            return self._encode(start, _json_columns(columns, types, look), ts)
        except ValueError:
            if look:
                raise
            return self._encode(start, _json_columns(columns, types, True), ts)

    def _encode(self, start: int, columns: list[Sequence[Any]], ts: Sequence[float]) -> bytes:
        indices = range(start, start + len(ts))
        if self._row is None and len(ts) >= _STRUCT_ROWS:
            self._row = _struct_for(self._keys)
        if self._row is not None:
            # A list and no iterator: encode_lines of msgspec 0.22 never lets go of an iterator and all that it holds.
            return encoder().encode_lines(list(map(_line_struct(), indices, map(self._row, *columns, ts))))
        keys = self._keys
        rows = zip(indices, *columns, ts, strict=True)
        lines = [{"index": row[0], "data": dict(zip(keys, row[1:], strict=True))} for row in rows]
        return encoder().encode_lines(lines)


def line_encoder(names: tuple[str, ...]) -> LineEncoder:
    """Return the encoder for these field names, the same one to all callers while it is in use."""
    found = _encoders.get(names)
    if found is None:
        if len(_encoders) >= _CACHED_ENCODERS:
            _encoders.clear()
        found = _encoders[names] = LineEncoder(names)
    return found


def encode_line(index: int, fields: dict[str, Any], ts: float | None = None) -> bytes:
    """Return the line of one point, its newline included.

    Parameters
    ----------
    index
        The index of the point.
    fields
        Its fields, or those of them that a line adds to an earlier one.
    ts
        Its timestamp; None leaves what ``fields`` has, or has not.
    """
    return encode_lines([(index, fields if ts is None else {**fields, "_ts": ts})])


def encode_lines(points: Iterable[tuple[int, dict[str, Any]]]) -> bytes:
    """Return the lines of points of any shapes, each given as its index and its fields with ``_ts``."""
    return encoder().encode_lines([{"index": index, "data": _data_to_json(fields)} for index, fields in points])


def _data_to_json(fields: dict[str, Any]) -> dict[str, Any]:
    forms = dict_to_json(fields)
    if "_ts" in forms and next(reversed(forms)) != "_ts":
        forms = dict(forms)
        forms["_ts"] = forms.pop("_ts")
    return forms


def _json_columns(columns: Sequence[Sequence[Any]], types: Sequence[type | None], look: bool) -> list[Sequence[Any]]:
    """Bring the columns that need it into Extended JSON; ``look`` says to look for integers of many digits."""
    return [
        column if _is_plain(column, kind, look) else list(map(to_json, column))
        for column, kind in zip(columns, types, strict=True)
    ]


def _is_plain(column: Sequence[Any], kind: type | None, look: bool) -> bool:
    """Whether msgspec writes the column right as it is, found out in bulk where that is possible."""
    if kind is float:
        return isfinite(sum(column))
    if kind is int:
        return not look
    if (kind is list or kind is tuple) and not look:
        try:
            # A sum of doubles is finite only of finite numbers, and integers within them; all else has none.
            return isfinite(sum(chain.from_iterable(column), 0.0))
        except (TypeError, OverflowError):
            return False
    return kind in TEXT_OR_LESS


def within_doubles(integers: Iterable[int]) -> bool:
    """Whether all integers, and their sum, lie between the least and the greatest double: found out in bulk.

    Such an integer has 309 digits at most, which every process can read.
    """
    try:
        return isfinite(sum(integers, 0.0))
    except OverflowError:
        return False


# msgspec encodes structs three times as fast as dicts.


def _struct_for(keys: tuple[str, ...]) -> Callable[..., Any] | None:
    """Return a struct type with these keys in JSON; None for keys that need escapes there, which msgspec refuses."""
    import msgspec

    fields = [f"f{at}" for at in range(len(keys))]
    try:
        return msgspec.defstruct(
            "Data", [(field, object) for field in fields], rename=dict(zip(fields, keys, strict=True)), gc=False
        )
    except ValueError:
        return None


def _line_struct() -> Callable[[int, Any], Any]:
    global _line
    if _line is None:
        import msgspec

        _line = msgspec.defstruct("Line", [("index", int), ("data", object)], gc=False)
    return _line
