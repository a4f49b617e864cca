"""The `append` of a track: a function generated for the fields that its points have, since nothing else is as fast.

A call like ``append(loss=0.5, step=1)`` lands in a function with just these parameters, so no dict of keywords is made
and no name is compared; each value's type is looked at once. That takes 0.35 µs where a general ``**fields`` takes 0.7.
Where all fields are floats and integers, each of the type that it had in the first point, and the timestamp is drawn,
the whole row is *packed* into bytes: a flush cuts columns out of these, and looks at no value again.
A list of so many floats as the first point had, as a robot's joints are, is packed too: looked at item by item and
stored as the bytes of its doubles, which the garbage collector does not visit and a flush need not look at again.
Another short list of scalars is copied into a tuple first and looked at then, so that nobody can change it between.
Whatever else comes (other fields, text, long lists, an inherited timestamp) goes the general way, `Pending.append`.

The generated source holds nothing but field names that are plain identifiers. Its own names begin with an underscore,
as no field's can.
"""

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from keyword import iskeyword
from math import inf, nextafter
from typing import TYPE_CHECKING, Any, TypeVar

from dreamlake.format.point import SCALARS

if TYPE_CHECKING:
    from dreamlake.engine.pending import Pending

Track = TypeVar("Track")

#: A point with more fields than this goes the general way: the gain is in the call, not in the fields.
MOST_FIELDS = 64
#: A longer list goes the general way. With so many of them, a point stays far below its largest size.
MOST_ITEMS = 1024
MOST_LISTS = 16
#: Shapes for which a function is kept; a program that makes up ever new ones goes the general way.
MOST_SHAPES = 1024
#: With so many shapes no new ones are told apart by how many floats their lists have.
MOST_EXACT_SHAPES = 128
#: A list of more floats than this is not packed: it is looked at by one call for all its items.
MOST_FLOATS = 16

_AUTOMATIC = """
def make(_pending, _track, _general):
    _owner, _lock, _clock = _pending.owner, _pending.owner.lock, _pending.owner.clock
    _now = _clock.now
    def append({parameters}, **_rest):
        if {plain} and not _rest:
{pack}            with _lock:
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
        return {general}
    append.__qualname__ = "Track.append"  # as errors of the call show it
    return append
"""

# An integer that is too large to be packed raises before anything is changed.
_PACKED = """
def make(_pending, _track, _general):
    _owner, _lock, _clock = _pending.owner, _pending.owner.lock, _pending.owner.clock
    _now = _clock.now
    def append({parameters}, **_rest):
        if {plain} and not _rest:
            try:
                with _lock:
                    _block = _pending.open
                    if _block.key is _key:
                        _t = _now()
                        if _t <= _clock.last:
                            _t = _nextafter(_clock.last, _inf)
                        _row = _pack_row({values}, _t)
                        _clock.last = _t
                        _flat = _block.flat
                        _flat.append(_row)
                        if _len(_flat) < _block.limit:
                            return _track
                        _sealed = _pending.seal(_block)
                    else:
                        _sealed = _missing
            except _too_large:
                return {general}
            if _sealed is not _missing:
                if _sealed is not None:
                    _owner.on_sealed(_pending, _sealed)
                return _track
        return {general}
    append.__qualname__ = "Track.append"  # as errors of the call show it
    return append
"""

_EXPLICIT = """
def make(_pending, _track, _general):
    _owner, _lock, _clock = _pending.owner, _pending.owner.lock, _pending.owner.clock
    def append({parameters}, _ts=_missing, **_rest):
        if _ts.__class__ is float and {plain} and not _rest:
{pack}            with _lock:
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
        return {general}
    append.__qualname__ = "Track.append"  # as errors of the call show it
    return append
"""

# Whatever is not a list of so many floats raises here, or leaves False.
_PACK = """\
            try:
{packed}
            except _refused:
                return {general}
            if not ({whole}):
                return {general}
"""
_PACK_ONE = """\
                {items} = {name}
                {place} = {floats} and _pack_{length}({items})"""

_missing = object()
_TS = struct.Struct("d")
_LISTS = frozenset({list, tuple})
_CODES = {int: "q", float: "d"}
#: The fields of points, whether their timestamp is explicit, for each field how long its lists may be (0 for a scalar),
#: and how many floats they are (0 for anything else), which are packed; and for each field the code by which `struct`
#: packs its values, where whole rows are packed, else nothing.
Shape = tuple[tuple[str, ...], bool, tuple[int, ...], tuple[int, ...], str]
#: For each shape its one key, which blocks are compared by, and what makes its function.
_shapes: dict[Shape, tuple[tuple[str, ...], Any]] = {}


def shape_of(values: Mapping[str, Any], explicit: bool, uneven: Collection[str] = ()) -> Shape | None:
    """Return the shape of points like this one, as `take` gives it; None when each of them needs a look.

    The fields `uneven` are not taken for lists of a fixed number of floats, or for values of one type.
    """
    room = tuple(map(_room, values.values()))
    if None in room or sum(map(bool, room)) > MOST_LISTS:
        return None
    floats = tuple(0 if name in uneven else _floats(value) for name, value in values.items())
    codes = "" if explicit or any(name in uneven for name in values) else _codes(values)
    shape: Shape = tuple(values), explicit, room, floats, codes  # type: ignore[assignment]
    return shape if len(_shapes) < MOST_EXACT_SHAPES or shape in _shapes else (*shape[:3], (0,) * len(room), "")


def _codes(values: Mapping[str, Any]) -> str:
    """The code of each value, where all are integers and floats that can be packed; else nothing."""
    codes = "".join([_CODES.get(value.__class__, "x") for value in values.values()])
    return "" if "x" in codes or pack_row(values, codes, 0.0) is None else codes


def pack_row(values: Mapping[str, Any], codes: str, ts: float) -> bytes | None:
    """Return the row of a point, as `take` gives it, as a block of such rows holds it; None for another point."""
    if any(_CODES.get(value.__class__) != code for value, code in zip(values.values(), codes, strict=True)):
        return None
    try:
        return row_packer(codes).pack(*values.values(), ts)
    except struct.error:
        return None


def ts_of_row(row: bytes) -> float:
    """Return the timestamp of a packed row."""
    return _TS.unpack_from(row, len(row) - _TS.size)[0]  # type: ignore[no-any-return]


@lru_cache(maxsize=MOST_SHAPES)
def row_packer(codes: str) -> struct.Struct:
    """Return what packs a row: its values, and its timestamp behind them, eight bytes each."""
    return struct.Struct(f"{codes}d")


def pack(values: Mapping[str, Any], floats: Sequence[int]) -> list[Any] | None:
    """Return the values of a point, as `take` gives it, as a block of such floats holds them; None for another point.

    Parameters
    ----------
    floats
        For each field the number of floats that its lists must have, and nothing else in them; 0 where any value may
        come, which is stored as it is, or as a tuple.
    """
    row: list[Any] = []
    for value, length in zip(values.values(), floats, strict=True):
        if length:
            if _floats(value) != length:
                return None
            row.append(_packer(length)(*value))
        else:
            row.append(tuple(value) if value.__class__ is list else value)
    return row


def uneven_fields(values: Mapping[str, Any], floats: Sequence[int], codes: str = "") -> Iterator[str]:
    """Return the fields for which `pack`, or with `codes` `pack_row`, refuses this point."""
    if codes:
        pairs = zip(values.items(), codes, strict=True)
        return (name for (name, value), code in pairs if pack_row({name: value}, code, 0.0) is None)
    fields = zip(values.items(), floats, strict=True)
    return (name for (name, value), length in fields if length and _floats(value) != length)


def _room(value: Any) -> int | None:
    """Items that there is room for where this value was: a power of two, so that few shapes come of lists that vary."""
    kind = value.__class__
    if kind in SCALARS:
        return 0
    if kind not in _LISTS or len(value) > MOST_ITEMS or not SCALARS.issuperset(map(type, value)):
        return None
    return max(8, 1 << (len(value) - 1).bit_length())


def _floats(value: Any) -> int:
    if value.__class__ not in _LISTS or len(value) > MOST_FLOATS or set(map(type, value)) != {float}:
        return 0
    return len(value)


def key_of(shape: Shape) -> tuple[str, ...] | None:
    """Return the one object that stands for points of this shape; None where they get no function of their own."""
    found = _shapes.get(shape) or _new_shape(shape)
    return None if found is None else found[0]


def _new_shape(shape: Shape) -> tuple[tuple[str, ...], Any] | None:
    names, explicit, room, floats, codes = shape
    if len(_shapes) >= MOST_SHAPES or not 0 < len(names) <= MOST_FIELDS or not all(map(_is_plain, names)):
        return None
    given = ", ".join([f"({name!r}, {name})" for name in names] + ['("_ts", _ts)'] * explicit)
    general = f"_general(_given({given}, _rest))"
    template = _EXPLICIT if explicit else _PACKED if codes else _AUTOMATIC
    source = template.format(
        parameters="*, " + ", ".join(f"{name}=_missing" for name in names),
        plain=" and ".join(map(_look_at_type, names, codes) if codes else map(_look, names, room, floats)),
        pack=_packing(names, floats, general) if any(floats) else "",
        values=", ".join(_place(at) if floats[at] else name for at, name in enumerate(names)),
        general=general,
    )
    key = (*names, "_ts")  # an object of its own for each shape
    scope: dict[str, Any] = {
        "_key": key,
        "_missing": _missing,
        "_scalars": SCALARS,
        "_all_scalars": SCALARS.issuperset,
        "_lists": _LISTS,
        "_given": _given,
        "_float": float,
        "_int": int,
        "_refused": (ValueError, TypeError, struct.error),
        "_len": len,  # a field may be called len
        "_map": map,
        "_type": type,
        "_tuple": tuple,
        "_nextafter": nextafter,
        "_inf": inf,
        "_pack_row": row_packer(codes).pack,
        "_too_large": struct.error,
        **{f"_pack_{length}": _packer(length) for length in floats if length},
    }
    exec(compile(source, f"<append({', '.join(names)})>", "exec"), scope)  # noqa: S102 - see the module: only identifiers
    return _shapes.setdefault(shape, (key, scope["make"]))


def _look_at_type(name: str, code: str) -> str:
    """Return the condition under which a value may be packed by this code."""
    return f"{name}.__class__ is {'_float' if code == 'd' else '_int'}"


def _look(name: str, room: int, floats: int) -> str:
    """Return the condition under which a value may go in as it is, or be packed."""
    if not room:
        return f"{name}.__class__ in _scalars"
    if floats:
        return f"{name}.__class__ in _lists"
    taken = f"_len({name} := _tuple({name}))"
    return f"{name}.__class__ in _lists and {taken} <= {room} and _all_scalars(_map(_type, {name}))"


def _packing(names: Sequence[str], floats: Sequence[int], general: str) -> str:
    """Return the lines that pack each list of floats, or go the general way where one is not what it should be."""
    lines = []
    for at, (name, length) in enumerate(zip(names, floats, strict=True)):
        if length:
            items = [f"{_place(at)}_{item}" for item in range(length)]
            are_floats = " and ".join(f"{item}.__class__ is _float" for item in items)
            lines.append(
                _PACK_ONE.format(
                    items=", ".join(items) + "," * (length == 1),
                    name=name,
                    place=_place(at),
                    floats=are_floats,
                    length=length,
                )
            )
    whole = " and ".join(_place(at) for at, length in enumerate(floats) if length)
    return _PACK.format(packed="\n".join(lines), whole=whole, general=general)


def _place(field: int) -> str:
    """Return the name for what is packed of a field; no field's own begins with an underscore."""
    return f"_{field}"


@cache
def _packer(length: int) -> Callable[..., bytes]:
    return struct.Struct(f"{length}d").pack


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
        key, shape = block.key, block.shape
        if key is not None and key is not current and shape is not None:
            current = key
            fast = made = _shapes[shape][1](pending, track, general)
            made.__doc__ = append.__doc__
            install(made)
        return track

    def append(**fields: Any) -> Track:
        # Also for those who keep this function, ``append = track.append``: the detour costs them one call.
        return general(fields) if fast is None else fast(**fields)

    append.__qualname__ = "Track.append"
    append.__doc__ = getattr(type(track), "append", append).__doc__
    return append
