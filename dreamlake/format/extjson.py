"""Values as JSON and back: MongoDB Extended JSON v2 for what JSON lacks.

JSON has no NaN, no bytes and no datetimes. Each is an object with one key
(https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/):

    {"$numberDouble": "NaN"}                                 also "Infinity" and "-Infinity"
    {"$binary": {"base64": "AAE=", "subType": "00"}}
    {"$date": "2026-11-24T13:20:00.000000+01:00"}            with the UTC offset, or without if the datetime is naive
    {"$numberInt": "0x1f…"}                                  an integer of more digits than every Python may read

A user's key that begins with ``$`` gets a second ``$``, so that no such object is taken for one of these.
"""

# This module is on the way of a first append: msgspec (18 ms) is imported when the first line is made or read.
from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from math import inf, isfinite, nan

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

    import msgspec

SCALARS: frozenset[type] = frozenset({float, int, bool, type(None)})
"""The types whose values are stored as they are, without a look at the value."""

MAX_DEPTH = 64
"""Deepest nesting of lists and dicts in one field; a list of numbers has depth 1."""

TEXT_OR_LESS = frozenset({str, bool, type(None)})
_PLAIN_ITEMS = SCALARS | {str}
_MAX_DIGITS = 640  # what the lowest setting of sys.set_int_max_str_digits leaves readable
_MAX_BITS = 2120  # an integer of so many bits has at most that many digits


def types_of(values: Collection[Any]) -> set[type]:
    """Return the exact types of the values: in half the time of ``set(map(type, …))`` where there is one, as mostly."""
    types = list(map(type, values))
    return {types[0]} if types and types.count(types[0]) == len(types) else set(types)


def to_json(value: Any) -> Any:
    """Return ``value`` with everything that JSON lacks in its Extended JSON form; itself where there is nothing such.

    ``value`` is one that ``take_value`` returned, or such a list as a tuple; ``from_json`` is the inverse.
    """
    kind = type(value)
    if kind is float:
        return value if isfinite(value) else {"$numberDouble": _nonfinite(value)}
    if kind in TEXT_OR_LESS:
        return value
    if kind is int:
        return value if value.bit_length() <= _MAX_BITS else {"$numberInt": hex(value)}
    if kind is list or kind is tuple:
        return _list_to_json(value)
    if kind is dict:
        return dict_to_json(value)
    if kind is bytes:
        return {"$binary": {"base64": b2a_base64(value, newline=False).decode(), "subType": "00"}}
    if kind.__name__ == "datetime":
        return {"$date": value.isoformat(timespec="microseconds")}
    raise TypeError(f"no stored value has the type {kind.__qualname__}")


def from_json(value: Any, depth: int = 0) -> Any:
    """Return the value whose JSON form was decoded to ``value``.

    Parameters
    ----------
    value
        Decoded JSON.
    depth
        How many lists and dicts of the same field are around it.

    Raises
    ------
    ValueError
        An Extended JSON form is damaged or unknown, or the nesting is deeper than any stored value's.
    """
    kind = type(value)
    if kind is list:
        _check_depth(depth)
        if _PLAIN_ITEMS.issuperset(map(type, value)):
            return value
        return [from_json(item, depth + 1) for item in value]
    if kind is dict:
        if len(value) == 1:
            ((key, inner),) = value.items()
            if key[:1] == "$" and key[1:2] != "$":
                return _from_special(key, inner)
        _check_depth(depth)
        return {decode_key(key): from_json(item, depth + 1) for key, item in value.items()}
    return value


def encode_key(key: str) -> str:
    """The form of a field's name or a dict's key in JSON."""
    return "$" + key if key[:1] == "$" else key


def decode_key(key: str) -> str:
    """The inverse of ``encode_key``; ValueError for what it never makes."""
    if key[:1] != "$":
        return key
    if key[1:2] != "$":
        raise ValueError(f"unknown Extended JSON form {key!r:.80}")
    return key[1:]


def encode_text(value: Any) -> str:
    """Return the JSON text of one value, as a JSON column has it; ``value`` is one that ``take_value`` returned."""
    return encoder().encode(to_json(value)).decode()


def decode_text(text: str) -> Any:
    """Return the value that ``encode_text`` made ``text`` from.

    Raises
    ------
    ValueError
        ``text`` is not such a text.
    """
    try:
        value = decoder().decode(text)
        if "$" not in text and "\\" not in text and text.count("[") + text.count("{") <= MAX_DEPTH:
            return value
        return from_json(value)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None


def _list_to_json(items: Sequence[Any]) -> Sequence[Any]:
    kinds = set(map(type, items))
    if (kinds == {float} and isfinite(sum(items))) or TEXT_OR_LESS.issuperset(kinds):
        return items
    forms = list(map(to_json, items))
    return forms if any(form is not item for form, item in zip(forms, items, strict=True)) else items


def dict_to_json(fields: dict[str, Any]) -> dict[str, Any]:
    """As ``to_json``, for a dict, whose keys are escaped too."""
    for key, value in fields.items():
        kind = type(value)
        if key[:1] == "$":
            break
        if kind is float:
            if not isfinite(value):
                break
        elif kind not in TEXT_OR_LESS and to_json(value) is not value:
            break
    else:
        return fields
    return {encode_key(key): to_json(value) for key, value in fields.items()}


def _nonfinite(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _from_special(key: str, inner: Any) -> Any:
    """Read one Extended JSON form. Only the exact text that ``to_json`` writes is taken: the rest is damage."""
    read = _SPECIALS.get(key)
    try:
        if read is not None:
            return read(inner)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ValueError(f"{'damaged' if read else 'unknown'} Extended JSON form {key!r:.80}")


def _read_double(inner: Any) -> float:
    return {"NaN": nan, "Infinity": inf, "-Infinity": -inf}[inner]


def _read_int(inner: Any) -> int:
    value = int(inner, 16)
    if hex(value) != inner:
        raise ValueError(inner)
    return value


def _read_binary(inner: Any) -> bytes:
    value = a2b_base64(inner["base64"])
    if inner != {"base64": b2a_base64(value, newline=False).decode(), "subType": "00"}:
        raise ValueError(inner)
    return value


def _read_date(inner: Any) -> dt.datetime:
    """Read what ``isoformat`` wrote, or the same with ``Z`` or with whole seconds, as other programs write it."""
    import datetime as dt

    text = inner.removesuffix("Z") + "+00:00" if inner[-1:] == "Z" else inner
    # The offset is read apart: fromisoformat takes one of less than a second for UTC.
    at = 19 if text[19:20] != "." else 26
    value = dt.datetime.fromisoformat(text[:at])
    if text[at:]:
        sign = -1 if text[at] == "-" else 1
        parts = dt.datetime.fromisoformat(f"0001-01-01T{text[at + 1 :]}")
        offset = sign * (parts - dt.datetime.min)
        value = value.replace(tzinfo=dt.timezone(offset))
    if text not in (value.isoformat(timespec="microseconds"), value.isoformat(timespec="seconds")):
        raise ValueError(inner)
    return value


_SPECIALS: dict[str, Callable[[Any], Any]] = {
    "$numberDouble": _read_double,
    "$numberInt": _read_int,
    "$binary": _read_binary,
    "$date": _read_date,
}

# ------------------------------------------------------------------------------------------------ msgspec, when needed

_json_encoder: msgspec.json.Encoder | None = None
_json_decoder: msgspec.json.Decoder[Any] | None = None


def encoder() -> msgspec.json.Encoder:
    """The encoder of all JSON here, made at the first call."""
    global _json_encoder
    if _json_encoder is None:
        import msgspec

        _json_encoder = msgspec.json.Encoder()
    return _json_encoder


def decoder() -> msgspec.json.Decoder[Any]:
    """The decoder of any JSON, made at the first call."""
    global _json_decoder
    if _json_decoder is None:
        import msgspec

        _json_decoder = msgspec.json.Decoder()
    return _json_decoder
