"""Values as plain JSON that says their types to the bit, without the library's own encoder, and back."""

from __future__ import annotations

import datetime as dt
from typing import Any


def pack(value: Any) -> Any:
    """A value as JSON: None, bool and str as they are, every other as an object with one key that says its type."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return {"int": str(value) if abs(value) < 10**600 else hex(value)}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dt.datetime):
        return {"datetime": value.isoformat(timespec="microseconds")}
    if isinstance(value, list):
        return {"list": [pack(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[key, pack(item)] for key, item in value.items()]}
    raise TypeError(f"no value of a point: {type(value).__name__}")


def unpack(packed: Any) -> Any:
    """The value that was packed."""
    if not isinstance(packed, dict):
        return packed
    ((kind, inner),) = packed.items()
    if kind == "int":
        return int(inner, 16 if "x" in inner else 10)
    if kind == "float":
        return float.fromhex(inner)
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "datetime":
        return dt.datetime.fromisoformat(inner)
    if kind == "list":
        return [unpack(item) for item in inner]
    assert kind == "dict", kind
    return {key: unpack(item) for key, item in inner}
