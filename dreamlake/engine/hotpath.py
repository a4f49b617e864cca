"""The `append` of a track: a function generated for the fields that its points have, since nothing else is as fast.

A call like ``append(loss=0.5, step=1)`` lands in a function with just these parameters, so no dict of keywords is made
and no name is compared; each value's type is looked at once. That takes 0.35 µs where a general ``**fields`` takes 0.7.
Whatever else comes (other fields, lists, an inherited timestamp) goes the general way, `Pending.append`.

The generated source holds nothing but field names that are plain identifiers. Its own names begin with an underscore,
as no field's can.
"""

from collections.abc import Callable
from keyword import iskeyword
from math import inf, nextafter
from typing import TYPE_CHECKING, Any, TypeVar

from dreamlake.format.point import SCALARS

if TYPE_CHECKING:
    from dreamlake.engine.pending import Pending

Track = TypeVar("Track")

#: A point with more fields than this goes the general way: the gain is in the call, not in the fields.
MOST_FIELDS = 64
#: Shapes for which a function is kept; a program that makes up ever new ones goes the general way.
MOST_SHAPES = 1024

_AUTOMATIC = """
def make(_pending, _track, _general):
    _owner, _lock, _clock = _pending.owner, _pending.owner.lock, _pending.owner.clock
    _now = _clock.now
    def append({parameters}, **_rest):
        if {scalars} and not _rest:
            with _lock:
                _block = _pending.open
                if _block.key is _key:
                    _t = _now()
                    if _t <= _clock.last:
                        _t = _nextafter(_clock.last, _inf)
                    _clock.last = _t
                    _flat = _block.flat
                    _flat.extend(({values}, _t))
                    if _len(_flat) < _block.limit:
                        return _track
                    _sealed = _pending.seal(_block)
                else:
                    _sealed = _missing
            if _sealed is not _missing:
                if _sealed is not None:
                    _owner.on_sealed(_pending, _sealed)
                return _track
        return _general(_given({pairs}, _rest))
    append.__qualname__ = "Track.append"  # as errors of the call show it
    return append
"""

_EXPLICIT = """
def make(_pending, _track, _general):
    _owner, _lock, _clock = _pending.owner, _pending.owner.lock, _pending.owner.clock
    def append({parameters}, _ts=_missing, **_rest):
        if _ts.__class__ is float and {scalars} and not _rest:
            with _lock:
                _block = _pending.open
                _flat = _block.flat
                if _block.key is _key and _flat[-1] < _ts < _inf:
                    _clock.note(_ts)
                    _flat.extend(({values}, _ts))
                    if _len(_flat) < _block.limit:
                        return _track
                    _sealed = _pending.seal(_block)
                else:
                    _sealed = _missing
            if _sealed is not _missing:
                if _sealed is not None:
                    _owner.on_sealed(_pending, _sealed)
                return _track
        return _general(_given({pairs}, ("_ts", _ts), _rest))
    append.__qualname__ = "Track.append"  # as errors of the call show it
    return append
"""

_missing = object()
#: For each shape its one key, which blocks are compared by, and what makes its function.
_shapes: dict[tuple[tuple[str, ...], bool], tuple[tuple[str, ...], Any]] = {}


def shape_key(names: tuple[str, ...], explicit: bool) -> tuple[str, ...] | None:
    """Return the one object that stands for points of these fields, with an automatic or an explicit timestamp.

    None for shapes that get no function of their own.
    """
    shape = _shapes.get((names, explicit)) or _new_shape(names, explicit)
    return None if shape is None else shape[0]


def _new_shape(names: tuple[str, ...], explicit: bool) -> tuple[tuple[str, ...], Any] | None:
    if len(_shapes) >= MOST_SHAPES or not 0 < len(names) <= MOST_FIELDS or not all(map(_is_plain, names)):
        return None
    source = (_EXPLICIT if explicit else _AUTOMATIC).format(
        parameters="*, " + ", ".join(f"{name}=_missing" for name in names),
        scalars=" and ".join(f"{name}.__class__ in _scalars" for name in names),
        values=", ".join(names),
        pairs=", ".join(f"({name!r}, {name})" for name in names),
    )
    key = (*names, "_ts") if explicit else names  # an object of its own for each of the two
    scope: dict[str, Any] = {
        "_key": key,
        "_missing": _missing,
        "_scalars": SCALARS,
        "_given": _given,
        "_len": len,  # a field may be called len
        "_nextafter": nextafter,
        "_inf": inf,
    }
    exec(compile(source, f"<append({', '.join(names)})>", "exec"), scope)  # noqa: S102 - see the module: only identifiers
    return _shapes.setdefault((names, explicit), (key, scope["make"]))


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isidentifier() and not name.startswith("_") and not iskeyword(name)


def _given(*parts: Any) -> dict[str, Any]:
    """Return the fields of a call that a generated function does not take, as the dict of its keywords."""
    *pairs, rest = parts
    return {**{name: value for name, value in pairs if value is not _missing}, **rest}


def bind(track: Track, pending: "Pending", install: Callable[[Callable[..., Track]], None]) -> Callable[..., Track]:
    """Return the general `append` of a track, which takes points as keywords and returns the track.

    Parameters
    ----------
    install
        Called with a function to be used from now on, whenever points of another shape have come.
    """
    current: tuple[str, ...] | None = None
    fast: Callable[..., Track] | None = None

    def general(fields: dict[str, Any]) -> Track:
        nonlocal current, fast
        pending.append(fields)
        block = pending.open
        key, names = block.key, block.names
        if key is not None and key is not current and names is not None:
            current = key
            fast = made = _shapes[names, block.explicit][1](pending, track, general)
            made.__doc__ = append.__doc__
            install(made)
        return track

    def append(**fields: Any) -> Track:
        # Also for those who keep this function, ``append = track.append``: the detour costs them one call.
        return general(fields) if fast is None else fast(**fields)

    append.__qualname__ = "Track.append"
    append.__doc__ = getattr(type(track), "append", append).__doc__
    return append
