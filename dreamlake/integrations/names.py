"""Names of other tools as names that a lake can store: most as they are, the rest changed so that none meet."""

from __future__ import annotations

import hashlib
from typing import Any

from dreamlake.format.layout import check_name

#: Characters of a component, and of a whole name, that a changed one keeps at most.
MOST_OF_PART, MOST_OF_NAME = 60, 400


def track_name(tag: str) -> str:
    """The track of this tag: the tag itself where it is a track's name, else one like it with a digest of it."""
    try:
        check_name("track", tag)
    except ValueError:
        parts = [_fit(part) for part in tag[:MOST_OF_NAME].split("/")]
        return f"{'/'.join(parts)}~{_digest(tag)}"
    return tag


def run_name(name: str) -> str:
    """The session or workspace of this name, changed in the same way where it must be."""
    try:
        check_name("session", name)
    except ValueError:
        return f"{_fit(name.replace('/', '_'))}~{_digest(name)}"
    return name


def field_name(key: str, taken: frozenset[str] = frozenset()) -> str:
    """The field of this key: ``_x``, which is reserved, becomes ``x_``, and so does a name that is `taken`."""
    name = key.encode("utf-8", "replace").decode()
    if name[:1] == "_":
        name = name.lstrip("_") + "_"
    return name + "_" if name in taken else name


def apart(flat: dict[str, Any]) -> dict[str, Any]:
    """Flat parameters of which none is both a value and a part of others: ``a`` beside ``a.b`` becomes ``a_``."""
    parts = {key[:at] for key in flat for at, char in enumerate(key) if char == "."}
    done: dict[str, Any] = {}
    for key, value in flat.items():
        name = key
        while name in parts or (name != key and name in flat):
            name += "_"
        done[name] = value
    return done


def _fit(part: str) -> str:
    kept = "".join(char if char.isprintable() else "_" for char in part[:MOST_OF_PART]).strip(". ")
    return kept or "_"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
