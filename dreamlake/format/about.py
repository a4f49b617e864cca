"""The small JSON files that say what a run or a track is: bytes to fields, checked as what a stranger wrote."""

# The first append comes after a look at session.json, so this takes nothing from typing, and no msgspec (18 ms).
from __future__ import annotations

import json
from math import isfinite

from dreamlake.format import layout
from dreamlake.format.extjson import from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

#: The fields of session.json and metadata.json that code relies on, and what they are where they are not null.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(["name", "workspace", "description", "folder", "createdAt", "updatedAt", "status"], (str,)),
    "tags": (list,),
    "metadata": (dict,),
    "segment_points": (int,),
    "lastTs": (int, float),
}
#: No clock shows more seconds, and above it a float has no room for the next timestamp.
MAX_LAST_TS = 1e18


def decode(data: bytes) -> dict[str, Any]:
    """The fields of session.json, metadata.json or parameters.json, special values decoded.

    Raises
    ------
    ValueError
        It is not strict JSON in UTF-8, or no object.
    """
    try:
        text = data.decode()
        value = json.loads(text, parse_float=_finite, parse_constant=_refuse)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate could never be written again
        # The file's own object and the one in it that holds the user's are not counted as nesting of a value.
        fields = from_json(value, -2)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    return fields


def check(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of session.json or metadata.json, once those are known to be what code takes them for.

    Raises
    ------
    ValueError
        One of them is not.
    """
    for key, kinds in _KINDS.items():
        value = fields.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ValueError(f"its {key!r} is no {kinds[-1].__name__}")
    if not all(isinstance(tag, str) for tag in fields.get("tags") or ()):
        raise ValueError("its 'tags' are not all texts")
    if fields.get("segment_points") is not None and not 0 < fields["segment_points"] < 1 << 63:
        raise ValueError("its 'segment_points' is no number of points")
    if fields.get("lastTs") is not None and not is_last_ts(fields["lastTs"]):
        raise ValueError("its 'lastTs' is no timestamp")
    return fields


def check_size(text: bytes, what: str, spare: int = 0) -> bytes:
    """Return the bytes of such a file that is about to be written, where a reader will take them.

    Parameters
    ----------
    what
        What they say, for the message.
    spare
        Bytes that are left free for what is said later.

    Raises
    ------
    ValueError
        They are too many.
    """
    if len(text) + spare > layout.MAX_SMALL_BYTES:
        raise ValueError(
            f"{what} would take {len(text)} bytes, and readers take {layout.MAX_SMALL_BYTES - spare}; nothing was "
            "stored: store large values with session.files(), and the path or id of the file here"
        )
    return text


def is_last_ts(ts: float) -> bool:
    """Whether automatic timestamps can go on above this one."""
    return isfinite(ts) and abs(ts) <= MAX_LAST_TS if isinstance(ts, float) else abs(ts) <= MAX_LAST_TS


def _finite(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not strict JSON")
