"""Values of other libraries (NumPy, torch, pandas) and of subclasses, turned into plain Python values.

Imported at the first such value only. It never imports a library: whoever brings a NumPy array has imported NumPy.
"""

from __future__ import annotations

import datetime as dt
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_ITEMS = 1 << 19
"""An array of more items takes over 1 MB of JSON whatever they are: a digit and a comma each."""

_EXACT = frozenset("bBhHiIlLqQpPefd")  # NumPy's letters for the numbers that item() turns into an int or a float

_REMEDIES = {
    "set": "store sorted(value) or list(value)",
    "frozenset": "store sorted(value) or list(value)",
    "date": "store datetime.combine(value, time()) or value.isoformat()",
    "time": "store value.isoformat()",
    "timedelta": "store value.total_seconds()",
    "timedelta64": "store the number of seconds: value / np.timedelta64(1, 's')",
    "Decimal": "store float(value), or str(value) to keep every digit",
    "Fraction": "store float(value)",
    "complex": "store [value.real, value.imag]",
    "complex64": "store [value.real, value.imag]",
    "complex128": "store [value.real, value.imag]",
    "Series": "store value.to_list()",
    "DataFrame": "give a frame to append_batch()",
    "Table": "give a table to append_batch()",
    "Image": "store the picture with session.files()",
    "mappingproxy": "store dict(value)",
    "range": "store list(value)",
    "generator": "store list(value)",
}


def plain(field: str, value: Any) -> Any:
    """Return ``value`` as an exact bool, int, float, str, bytes, datetime, list or dict, or None.

    What a list or dict holds is not looked at, and a list may be that of the caller.

    Raises
    ------
    TypeError, ValueError
        There is no such form; the message names ``field`` and the type, and says what to do.
    """
    if isinstance(value, float):
        return float.__float__(value)
    # Another thread may be in the midst of importing NumPy.
    numpy = sys.modules.get("numpy")
    numbers: Any = getattr(numpy, "number", ())
    if isinstance(value, numbers) and value.dtype.char in _EXACT:
        return value.item()
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(memoryview(value))
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, dt.datetime):
        return _plain_datetime(field, value)
    arrays: Any = (getattr(numpy, "generic", ()), getattr(numpy, "ndarray", ()))
    if isinstance(value, arrays):
        return _from_numpy(field, value, numpy)
    return _from_array_like(field, value)


def too_large(field: str) -> ValueError:
    """The error for a point of over 1 MB, of which ``field`` is one too large by itself."""
    return ValueError(
        f"field {field!r}: the point would take more than 1 MB as JSON; store large values with session.files(), "
        "and the path or id of the file here"
    )


def refusal(field: str, value: Any) -> TypeError:
    """The error for a value that has no plain form."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    remedy = _REMEDIES.get(kind.__name__) or "store numbers, strings, lists or dicts made from it"
    if "enum" in sys.modules and isinstance(value, sys.modules["enum"].Enum):
        remedy = "store value.value or value.name"
    elif hasattr(kind, "__fspath__"):
        remedy = "store str(value)"
    return TypeError(f"field {field!r}: a value of type {name} cannot be stored; {remedy}")


# ------------------------------------------------------------------------------------------------ datetimes


def _plain_datetime(field: str, value: dt.datetime) -> dt.datetime:
    if value != value:  # pandas.NaT is a datetime, and like NaN equals nothing
        raise ValueError(f"field {field!r}: NaT is not a point in time; store None")
    if getattr(value, "nanosecond", 0):
        raise ValueError(f"field {field!r}: {value} has nanoseconds, which would be lost; round it to microseconds")
    try:
        day = (value.year, value.month, value.day)
        naive = dt.datetime(*day, value.hour, value.minute, value.second, value.microsecond)
    except ValueError as error:
        raise ValueError(f"field {field!r}: {value} is outside of the years 1 to 9999") from error
    # The UTC offset is what is stored; the rules of a time zone, its name and the fold that chose between two offsets
    # are not.
    offset = value.utcoffset()
    return naive if offset is None else naive.replace(tzinfo=dt.timezone(offset))


# ------------------------------------------------------------------------------------------------ arrays


def _from_numpy(field: str, value: Any, numpy: Any) -> Any:
    kind = value.dtype.kind
    if value.size > MAX_ITEMS:
        raise too_large(field)
    if kind in "biufUSTO":
        if kind == "f" and value.dtype.itemsize > 8:  # tolist() leaves a longdouble as it is
            value = _doubles(field, value, numpy)
        return value.tolist()
    if kind == "M":
        return _from_datetime64(field, numpy.asarray(value), numpy)
    if isinstance(value, numpy.generic) or kind not in "mc":
        raise refusal(field, value)
    what = "times" if kind == "m" else "complex numbers"
    raise TypeError(f"field {field!r}: an array of {value.dtype} cannot be stored; turn its {what} into floats first")


def _doubles(field: str, value: Any, numpy: Any) -> Any:
    """The numbers of a longdouble, or of an array of them, as doubles."""
    with numpy.errstate(over="ignore"):
        doubles = value.astype(numpy.float64)
    if ((doubles.astype(value.dtype) != value) & (value == value)).any():  # NaN, which is unequal to itself, is exact
        raise ValueError(
            f"field {field!r}: {value.dtype} loses digits as a double; store np.float64(value) to round it, or its text"
        )
    return doubles


def _from_datetime64(field: str, array: Any, numpy: Any) -> Any:
    if numpy.isnat(array).any():
        raise ValueError(f"field {field!r}: NaT is not a point in time; store None")
    exact = array.astype("M8[us]")
    # The way back also finds a date so far away that its microseconds have wrapped round.
    if (exact.astype(array.dtype) != array).any():
        raise ValueError(f"field {field!r}: {array.dtype} loses digits as microseconds; round it to datetime64[us]")
    first, last = numpy.datetime64(dt.datetime.min), numpy.datetime64(dt.datetime.max)
    if (exact < first).any() or (exact > last).any():
        raise ValueError(f"field {field!r}: a datetime64 is outside of the years 1 to 9999")
    return exact.tolist()


def _from_array_like(field: str, value: Any) -> Any:
    """Take torch tensors, array.array, and the arrays of other libraries that follow the array API standard (JAX …)."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    if tensor is not None and isinstance(value, tensor):
        if value.numel() > MAX_ITEMS:
            raise too_large(field)
        return (value.to_dense() if value.is_sparse else value).detach().cpu().tolist()
    kind = type(value)
    is_array = hasattr(kind, "__array_namespace__") or (kind.__module__, kind.__name__) == ("array", "array")
    if is_array and hasattr(kind, "tolist"):
        return value.tolist()
    raise refusal(field, value)
