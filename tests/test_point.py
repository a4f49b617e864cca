"""Values taken in, and points as lines of JSON."""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import sys
import types
import zoneinfo
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import run_python, shown
from values import datetimes, fields, floats, integers, leaves, same, texts, timestamps, values

from dreamlake.format import point as point_module
from dreamlake.format.hot import merge, parse
from dreamlake.format.point import (
    MAX_DEPTH,
    MAX_POINT_BYTES,
    LineEncoder,
    check_ts,
    decode_text,
    encode_line,
    encode_lines,
    encode_text,
    from_json,
    line_encoder,
    take,
    take_value,
    to_json,
    within_doubles,
)


def strict_json(text: bytes | str) -> Any:
    """Parse JSON as a reader does that knows nothing of Python's NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def nested(depth: int, leaf: Any = 1) -> Any:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


# ------------------------------------------------------------------------------------------------ taking values in


@given(values)
def test_a_plain_value_is_taken_as_it_is(value: Any) -> None:
    taken, _ = take_value("x", value)
    assert same(taken, value)


@given(values)
def test_the_size_bounds_the_json(value: Any) -> None:
    taken, size = take_value("x", value)
    assert len(encode_text(taken).encode()) <= size


@given(fields)
def test_the_size_of_a_point_bounds_its_json(point: dict[str, Any]) -> None:
    taken, size = take(point)
    assert same(taken, point)
    assert taken is not point
    assert len(encode_line(0, taken)) - len(b'{"index":0,"data":}\n') <= size


def test_a_dict_may_change_while_it_is_taken() -> None:
    """As another thread may change it; here it is one of its own values that does."""

    class Vector:
        def __array_namespace__(self) -> None: ...

        def tolist(self) -> list[float]:
            shared[f"new{len(shared)}"] = 1.0
            return [0.5]

    shared: dict[str, Any] = {"a": Vector(), "b": Vector()}
    assert take_value("f", shared)[0] == {"a": [0.5], "b": [0.5]}


def test_a_line_leaves_the_fields_as_they_were() -> None:
    fields = {"_ts": 1.5, "a": 2.0}
    assert json.loads(encode_line(3, fields)) == {"index": 3, "data": {"a": 2.0, "_ts": 1.5}}
    assert list(fields) == ["_ts", "a"]


def test_what_is_taken_is_a_snapshot() -> None:
    inner = {"deep": [1, [2.0]]}
    given_list = [0.5, inner]
    taken, _ = take({"list": given_list, "dict": inner, "bytes": (raw := bytearray(b"ab"))})
    before = encode_text(taken)
    given_list.append(3)
    inner["deep"].append(4)
    inner["new"] = 5  # type: ignore[assignment]
    inner["deep"][1].append(6)  # type: ignore[attr-defined]
    raw[0] = 0
    assert encode_text(taken) == before


class Colour(enum.IntEnum):
    RED = 3


class Mode(str, enum.Enum):  # noqa: UP042
    FAST = "fast"


class LyingFloat(float):
    def __float__(self) -> float:
        return 9.0


class LyingText(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Pose(NamedTuple):
    x: int
    y: float


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ((1, (2.0, [None])), [1, [2.0, [None]]]),
        (Pose(1, 2.5), [1, 2.5]),
        (collections.OrderedDict(b=1, a=(2,)), {"b": 1, "a": [2]}),
        (collections.defaultdict(list, {"a": []}), {"a": []}),
        ({LyingText("key"): LyingText("text")}, {"key": "text"}),
        (Colour.RED, 3),
        (Mode.FAST, "fast"),
        (LyingFloat(2), 2.0),
        (bytearray(b"\x00\xff"), b"\x00\xff"),
        (memoryview(b"abcd")[1:3], b"bc"),
        (array.array("d", [1.0, 2.0]), [1.0, 2.0]),
        (np.float32(0.1), 0.10000000149011612),
        (np.float16(0.5), 0.5),
        (np.float64(-0.0), -0.0),
        (np.longdouble(1.5), 1.5),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.bytes_(b"raw"), b"raw"),
        (np.array(3), 3),
        (np.array([[1, 2], [3, 4]], dtype=np.int16), [[1, 2], [3, 4]]),
        (np.array([0.5, np.nan], dtype=np.float32), [0.5, math.nan]),
        (np.array([1.5], dtype=np.longdouble), [1.5]),
        (np.array([[5e-324, np.nan], [-np.inf, -0.0]], dtype=np.longdouble), [[5e-324, math.nan], [-math.inf, -0.0]]),
        (np.ma.array([1.5, np.longdouble("0.1")], mask=[False, True], dtype=np.longdouble), [1.5, None]),
        (np.array([1.0, 2.0], dtype=">f8"), [1.0, 2.0]),
        (np.array([True, False]), [True, False]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([]), []),
        (np.zeros((2, 0)), [[], []]),
        (np.array([{"a": np.float32(1)}, None, "x"], dtype=object), [{"a": 1.0}, None, "x"]),
        (np.ma.array([1, 2], mask=[False, True]), [1, None]),
        ([np.float32(1), {"a": np.arange(2)}], [1.0, {"a": [0, 1]}]),
        (np.datetime64("2026-11-24"), dt.datetime(2026, 11, 24)),
        (np.datetime64("2026-11-24T01:02:03.000004000", "ns"), dt.datetime(2026, 11, 24, 1, 2, 3, 4)),
        (np.array(["2026-11-24"], dtype="M8[ns]"), [dt.datetime(2026, 11, 24)]),
        (pd.Timestamp("2026-11-24 01:02:03.000004"), dt.datetime(2026, 11, 24, 1, 2, 3, 4)),
        (
            pd.Timestamp("2026-07-24", tz="Europe/Berlin"),
            dt.datetime(2026, 7, 24, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        ),
        (
            dt.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("America/New_York")),
            dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-5))),
        ),
        (
            dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(0), "mine")),
            dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        ),
    ],
    ids=shown,
)
def test_values_of_other_kinds_become_plain(given_value: Any, expected: Any) -> None:
    taken, size = take_value("x", given_value)
    assert same(taken, expected)
    assert len(encode_text(taken)) <= size


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="a longdouble is a double here")
@pytest.mark.parametrize("text", ["0.1", "1e400", "-1e-400", "9007199254740993"])
def test_a_longdouble_that_is_no_double_is_refused(text: str) -> None:
    value = np.longdouble(text)
    for given_value in (value, np.array(value), np.array([1.5, np.nan, value]), [value]):
        with pytest.raises(
            ValueError, match=r"field 'x': float\d+ loses digits as a double; store np.float64\(value\)"
        ):
            take_value("x", given_value)


def test_the_fold_and_the_name_of_a_zone_are_not_kept() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    taken, _ = take_value("x", dt.datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=1))
    assert taken.fold == 0
    assert taken.utcoffset() == dt.timedelta(hours=1)
    assert type(taken.tzinfo) is dt.timezone
    assert take_value("x", pd.Timestamp(0, tz="Europe/London"))[0].tzinfo == dt.timezone(dt.timedelta(hours=1))
    assert take_value("x", pd.Timestamp("2026-01-01", tz="Europe/London"))[0].tzinfo is dt.UTC
    assert taken.tzname() == "UTC+01:00"


class Tensor:
    """Has the parts of a torch tensor that are used, and refuses what torch refuses."""

    is_sparse = False

    def __init__(self, items: Any, where: str = "cuda", needs_grad: bool = True) -> None:
        self.items, self.where, self.needs_grad = items, where, needs_grad

    def numel(self) -> int:
        return 1 if isinstance(self.items, float) else len(self.items)

    def detach(self) -> Tensor:
        return Tensor(self.items, self.where, False)

    def cpu(self) -> Tensor:
        return Tensor(self.items, "cpu", self.needs_grad)

    def tolist(self) -> Any:
        assert self.where == "cpu"
        assert not self.needs_grad
        return self.items


def test_a_tensor_becomes_a_number_or_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(Tensor=Tensor))
    taken, _ = take({"loss": Tensor(0.5), "grads": Tensor([1.0, 2.0])})
    assert same(taken, {"loss": 0.5, "grads": [1.0, 2.0]})
    assert check_ts(Tensor(3.0)) == 3.0
    with pytest.raises(ValueError, match="files"):
        take({"weights": Tensor(range(1_000_000))})


def test_arrays_of_the_array_api_standard_become_lists() -> None:
    class Foreign:
        def __array_namespace__(self) -> None: ...

        def tolist(self) -> list[int]:
            return [1, 2]

    assert take_value("x", Foreign())[0] == [1, 2]


@pytest.mark.parametrize("half_imported", [None, types.ModuleType("numpy")])
def test_numpy_may_be_absent_or_half_imported(monkeypatch: pytest.MonkeyPatch, half_imported: Any) -> None:
    monkeypatch.setitem(sys.modules, "numpy", half_imported)
    assert take_value("x", dt.datetime(2026, 1, 1))[0] == dt.datetime(2026, 1, 1)
    with pytest.raises(TypeError, match="set"):
        take_value("x", set())


@pytest.mark.parametrize(
    ("refused", "kind", "remedy"),
    [
        ({1, 2}, "set", "list"),
        (frozenset(), "frozenset", "list"),
        (dt.date(2026, 1, 1), "datetime.date", "isoformat"),
        (dt.time(1), "datetime.time", "isoformat"),
        (dt.timedelta(1), "datetime.timedelta", "total_seconds"),
        (decimal.Decimal(1), "decimal.Decimal", "float"),
        (1j, "complex", "real"),
        (object(), "object", "store"),
        (range(3), "range", "list"),
        ((i for i in ()), "generator", "list"),
        (pathlib.PurePath("a"), "PurePosixPath", r"str\(value\)"),
        (enum.Enum("E", "A").A, "E", "value.value"),  # type: ignore[attr-defined]
        (types.MappingProxyType({}), "mappingproxy", "dict"),
        (np.timedelta64(1, "s"), "timedelta64", "seconds"),
        (np.complex64(1), "complex64", "real"),
        (np.array([1j]), "complex128", "float"),
        (np.array([1], dtype="m8[s]"), "timedelta64", "float"),
        (np.array([(1, 2.0)], dtype="i4,f4"), "ndarray", "store"),
        (pl.Series([1]), "Series", "to_list"),
        (pd.Series([1]), "Series", "to_list"),
        (pl.DataFrame({"a": [1]}), "DataFrame", "append_batch"),
        (pd.NA, "NA", "store"),
    ],
    ids=shown,
)
def test_anything_else_is_refused_by_name_with_a_remedy(refused: Any, kind: str, remedy: str) -> None:
    for value in (refused, [1, {"inner": refused}]):
        with pytest.raises(TypeError, match=kind) as caught:
            take({"fine": 1, "my field": value})
        assert caught.match("'my field'")
        assert caught.match(remedy)


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ("\ud800", "surrogate"),
        ("text \udfff", "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        (pd.NaT, "NaT is not"),
        (np.datetime64("NaT"), "NaT"),
        (np.array(["2026", "NaT"], dtype="M8[s]"), "NaT"),
        (pd.Timestamp("2026-01-01 00:00:00.000000001"), "nanoseconds"),
        (np.datetime64("2026-01-01T00:00:00.000000001", "ns"), "microseconds"),
        (np.datetime64(1, "as"), "microseconds"),
        (np.datetime64(20_000, "Y"), "9999"),
        (np.datetime64(10**9, "Y"), "microseconds"),
        (pd.Timestamp(np.datetime64("20000-01-01", "s")), "9999"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_values_of_the_right_type_that_cannot_be_stored(refused: Any, reason: str) -> None:
    for value in (refused, [refused]):
        with pytest.raises(ValueError, match=reason) as caught:
            take({"my field": value})
        assert caught.match("'my field'")


def test_a_dict_has_strings_as_keys() -> None:
    for key in (1, None, ("a",), b"a"):
        with pytest.raises(TypeError, match=r"'x'.*keys are strings"):
            take({"x": [{key: 1}]})


@pytest.mark.parametrize(
    ("name", "error"),
    [("_hidden", ValueError), ("_index", ValueError), ("_ts", ValueError), ("\ud800", ValueError), (1, TypeError)],
)
def test_names_that_no_field_may_have(name: Any, error: type[Exception]) -> None:
    for _ in range(2):  # the second time round the names that are known to be good have been asked
        with pytest.raises(error):
            take({"good": 1, name: 1})


def test_every_other_name_is_the_users() -> None:
    point = dict.fromkeys(["", "index", "data", "self", "a b", "$ref", "ü", '"', "\\", "\x00", "class"], 1)
    for _ in range(2):
        assert same(take(point)[0], point)


def test_a_name_of_a_subclass_of_str_becomes_a_plain_one() -> None:
    take({"loss": 1})
    (name,) = take({np.str_("loss"): 1})[0]
    assert type(name) is str


def test_the_memory_for_known_names_is_bounded() -> None:
    for at in range(3 * point_module._MAX_NAMES):
        take({f"name {at}": 1})
    assert len(point_module._names) <= point_module._MAX_NAMES


# ------------------------------------------------------------------------------------------------ bounds


def test_the_nesting_is_bounded() -> None:
    for wrap in (lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: (inner,)):
        deepest: Any = 0.5
        for _ in range(MAX_DEPTH):
            deepest = wrap(deepest)
        assert json.dumps(take_value("x", deepest)[0]) == json.dumps(deepest)
        with pytest.raises(ValueError, match=r"'x'.*64 deep"):
            take({"x": wrap(deepest)})


def test_arrays_count_as_nesting() -> None:
    take({"x": nested(MAX_DEPTH - 2, np.zeros((1, 1)))})
    with pytest.raises(ValueError, match="64 deep"):
        take({"x": nested(MAX_DEPTH - 1, np.zeros((1, 1)))})


def test_the_deepest_value_comes_back() -> None:
    for leaf in (1, math.nan, b"x", dt.datetime(2026, 1, 1), {}, "[{" * 100):
        depth = MAX_DEPTH - (leaf == {})
        value, _ = take_value("x", nested(depth, leaf))
        assert same(decode_text(encode_text(value)), value)
        line = encode_line(0, {"x": value}, 1.0)
        assert same(parse(line).points, [{"x": value, "_ts": 1.0}])


def test_a_value_that_holds_itself_is_refused() -> None:
    loop_list: list[Any] = []
    loop_list.append(loop_list)
    loop_dict: dict[str, Any] = {}
    loop_dict["again"] = (loop_dict,)
    loop_array = np.array([None], dtype=object)
    loop_array[0] = loop_array
    for loop in (loop_list, loop_dict, loop_array):
        with pytest.raises(ValueError, match="hold themselves"):
            take({"x": loop})
    loop_scalar = np.array(None, dtype=object)
    loop_scalar[()] = loop_scalar
    with pytest.raises(TypeError, match="ndarray"):
        take({"x": loop_scalar})


def test_a_small_value_that_stands_for_a_vast_one_is_refused() -> None:
    vast: Any = [1] * 10
    for _ in range(60):
        vast = [vast, vast]
    with pytest.raises(ValueError, match=r"1 MB.*files\(\)"):
        take({"x": vast})
    with pytest.raises(ValueError, match=r"1 MB.*files\(\)"):
        take(dict.fromkeys(map(str, range(1000)), [0.5] * 1000))


@pytest.mark.parametrize("unit", ["a", "\n", '"', "\\", "é", "\x01", "\U0001f600", "\x7f"])
def test_a_point_may_take_a_megabyte_and_no_byte_more(unit: str) -> None:
    each = len(json.dumps(unit, ensure_ascii=False).encode()) - 2
    room = MAX_POINT_BYTES - len(b'{"text":"","n":1}')
    largest = {"text": unit * (room // each) + "a" * (room % each), "n": 1}
    assert same(take(largest)[0], largest)
    with pytest.raises(ValueError, match=r"field 'text'.*1 MB"):
        take({**largest, "n": 12})
    with pytest.raises(ValueError, match="1 MB"):
        take({**largest, "text": largest["text"] + "a"})  # type: ignore[operator]


@pytest.mark.parametrize(
    "large",
    [b"\x00" * MAX_POINT_BYTES, np.zeros(1_000_000), [0.5] * 400_000, 1 << (8 * MAX_POINT_BYTES), ["text"] * 200_000],
    ids=lambda value: type(value).__name__,
)
def test_large_values_of_all_kinds_are_refused(large: Any) -> None:
    with pytest.raises(ValueError, match=r"field 'x'.*1 MB.*files\(\)"):
        take({"x": large})
    with pytest.raises(ValueError, match="1 MB"):
        take_value("x", large)


# ------------------------------------------------------------------------------------------------ timestamps


@pytest.mark.parametrize("ts", [1.5, 1, -1, 0, np.float32(0.5), np.float64(2), np.int64(7), np.array(3.0), 2**60])
def test_a_timestamp_is_a_number(ts: Any) -> None:
    assert type(check_ts(ts)) is float
    assert check_ts(ts) == float(ts)


@pytest.mark.parametrize("ts", [math.nan, math.inf, -math.inf, 10**400, np.float32("inf")])
def test_a_timestamp_is_finite(ts: Any) -> None:
    with pytest.raises(ValueError, match="_ts is not a finite number"):
        check_ts(ts)


@pytest.mark.parametrize(
    "ts", [True, "1", b"1", None, [1], dt.datetime(2026, 1, 1), np.bool_(True), np.array([1.0]), {1}]
)
def test_a_timestamp_is_nothing_else(ts: Any) -> None:
    with pytest.raises(TypeError, match=r"number of seconds.*timestamp\(\)"):
        check_ts(ts)


# ------------------------------------------------------------------------------------------------ values as JSON


@given(values)
@example({"$date": {"$$": [{"$numberDouble": "NaN"}]}})
@example([[], {}, "", b"", [[]], [{}]])
@example([1, True, 1.0, 0, False, 0.0, -0.0, None])
def test_every_value_comes_back_from_its_text(value: Any) -> None:
    text = encode_text(value)
    strict_json(text)
    assert same(decode_text(text), value)


@given(values)
def test_what_needs_no_escape_is_not_copied(value: Any) -> None:
    form = to_json(value)
    if same(form, value):
        assert form is value
    assert same(from_json(form), value)


@given(datetimes)
def test_every_datetime_comes_back(moment: dt.datetime) -> None:
    taken, _ = take_value("x", moment)
    assert same(decode_text(encode_text(taken)), taken)
    assert same(taken, moment)


def test_the_forms_are_those_of_extended_json() -> None:
    moment = dt.datetime(2026, 11, 24, 13, 20, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    value = [math.nan, -math.inf, b"\x00\x01", moment, moment.replace(tzinfo=None), {"$date": 1, "a$": 2}]
    assert strict_json(encode_text(value)) == [
        {"$numberDouble": "NaN"},
        {"$numberDouble": "-Infinity"},
        {"$binary": {"base64": "AAE=", "subType": "00"}},
        {"$date": "2026-11-24T13:20:00.000000+01:00"},
        {"$date": "2026-11-24T13:20:00.000000"},
        {"$$date": 1, "a$": 2},
    ]


def test_datetimes_of_other_writers_are_read() -> None:
    noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    for text in ("2026-01-01T12:00:00Z", "2026-01-01T12:00:00.000000Z", "2026-01-01T12:00:00+00:00"):
        assert same(decode_text(f'{{"$date":"{text}"}}'), noon)
    assert same(decode_text('{"$date":"2026-01-01T12:00:00"}'), noon.replace(tzinfo=None))


@pytest.mark.parametrize(
    "damaged",
    [
        '{"$numberDouble":"nan"}',
        '{"$numberDouble":1}',
        '{"$numberDouble":["NaN"]}',
        '{"$numberDouble":"NaN","a":1}',
        '{"$numberInt":"12"}',
        '{"$numberInt":"0x1F"}',
        '{"$numberInt":"0x1_f"}',
        '{"$numberInt":12}',
        '{"$numberInt":null}',
        '{"$binary":"AAE="}',
        '{"$binary":{"base64":"AAE","subType":"00"}}',
        '{"$binary":{"base64":"AAF=","subType":"00"}}',
        '{"$binary":{"base64":"A AE=","subType":"00"}}',
        '{"$binary":{"base64":"é","subType":"00"}}',
        '{"$binary":{"base64":"AAE=","subType":"05"}}',
        '{"$binary":{"base64":"AAE="}}',
        '{"$binary":{"base64":"AAE=","subType":"00","x":1}}',
        '{"$date":1}',
        '{"$date":null}',
        '{"$date":""}',
        '{"$date":"2026-01-01"}',
        '{"$date":"2026-13-01T00:00:00.000000"}',
        '{"$date":"2026-01-01T00:00:00.000"}',
        '{"$date":"2026-01-01T00:00:00.000000+1:00"}',
        '{"$date":"2026-01-01T00:00:00.000000+25:00"}',
        '{"$date":"2026-01-01T00:00:00.000000+01:00x"}',
        '{"$date":"2026-01-01T00:00:00.000000x"}',
        '{"$date":"2026-01-01 00:00:00.000000"}',
        '{"$date":"20260101T000000.000000"}',
        '{"$date":"2026-W01-1T00:00:00.000000"}',
        '{"$dat":"2026-01-01T00:00:00.000000"}',
        '{"$":1}',
        '{"a":1,"$b":2}',
        '{"\\u0024date":1}',
        '[[{"x":{"$oid":"1"}}]]',
        "",
        "nul",
        "NaN",
        "[1,]",
        '"\\ud800"',
        "1 2",
        "1e999",
        "[" * 65 + "]" * 65,
        '{"a":' * 65 + "1" + "}" * 65,
        "[" * 900 + "]" * 900,
        "[" * 100_000,
    ],
    ids=lambda text: text[:40] or "empty",
)
def test_a_damaged_text_is_an_error_and_not_a_guess(damaged: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_text(damaged)


@given(st.text(max_size=30) | st.lists(st.sampled_from('{}[]":,$0 1a'), max_size=30).map("".join))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        value = decode_text(text)
    except ValueError:
        return
    assert same(decode_text(encode_text(value)), value)


@pytest.fixture(params=[4300, 640, 0, 100_000])
def digits(request: pytest.FixtureRequest) -> Any:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(request.param)
    yield request.param
    sys.set_int_max_str_digits(before)


def test_integers_of_any_size_are_read_whatever_the_process_allows(digits: int) -> None:
    for bits in (62, 63, 64, 65, 200, 2119, 2120, 2121, 2130, 14_280, 14_300, 40_000):
        for value in (1 << bits, (1 << bits) - 1, -(1 << bits)):
            taken, size = take_value("x", value)
            text = encode_text(taken)
            assert len(text) <= size
            lines = [
                encode_line(0, {"x": taken}, 1.0),
                LineEncoder(("x",)).encode(0, [[taken]], [int], [1.0]),
                LineEncoder(("x",)).encode(0, [[[0.5, taken]]], [list], [1.0])[:-1].replace(b"[0.5,", b"", 1) + b"\n",
            ]
            before = sys.get_int_max_str_digits()
            sys.set_int_max_str_digits(4300)
            try:
                assert same(decode_text(text), value)
                assert same(parse(lines[0]).points[0]["x"], value)
                assert same(parse(lines[1]).points[0]["x"], value)
            finally:
                sys.set_int_max_str_digits(before)
            assert same(decode_text(text), value)


def test_lists_of_long_integers_have_them_in_their_own_form() -> None:
    # Also where they add up to nothing.
    for column in ([[2**3000, 0.5]], [[1, 2**3000, -(2**3000), 0.5]], [(2**3000,), (-(2**3000),)]):
        lines = LineEncoder(("x",)).encode(0, [column], [type(column[0])], [1.0] * len(column))
        assert b"000000" not in lines.replace(hex(2**3000).encode(), b"")
        assert lines.count(b'"$numberInt"') == sum(abs(item) > 1 for value in column for item in value)


def test_integers_within_doubles() -> None:
    assert within_doubles([]) is within_doubles([2**1023, -1, 2**63]) is within_doubles([2**1023, -(2**1023)]) is True
    assert within_doubles([2**1024]) is within_doubles([-(2**3000), 2**3000]) is within_doubles([2**1023] * 2) is False


def test_msgspec_writes_integers_as_digits() -> None:
    # What LineEncoder relies on: no silent strings, and an error where str() would refuse.
    for value in (2**63, 2**64, 2**70, -(2**63) - 1, 10**639):
        assert msgspec.json.encode(value) == str(value).encode()
        assert same(msgspec.json.decode(str(value)), value)
    with pytest.raises(ValueError, match="4300"):
        msgspec.json.encode(10**4300)


# ------------------------------------------------------------------------------------------------ points as lines


def test_a_line_is_the_documented_one() -> None:
    expected = b'{"index":0,"data":{"value":0.5,"epoch":1,"_ts":1767.25}}\n'
    assert encode_line(0, {"value": 0.5, "epoch": 1}, 1767.25) == expected
    assert encode_lines([(0, {"_ts": 1767.25, "value": 0.5, "epoch": 1})]) == expected
    assert line_encoder(("value", "epoch")).encode(0, [[0.5], [1]], [float, int], [1767.25]) == expected


def test_a_line_that_adds_fields_needs_no_timestamp() -> None:
    assert encode_line(7, {"late": None}) == b'{"index":7,"data":{"late":null}}\n'


@given(st.lists(st.tuples(fields, timestamps), max_size=5), st.integers(0, 2**63 - 1))
def test_lines_of_any_shapes_come_back(rows: list[tuple[dict[str, Any], float]], start: int) -> None:
    points = [{**point, "_ts": ts} for point, ts in rows]
    text = encode_lines(enumerate(points, start))
    for line, index in zip(text.split(b"\n"), range(start, start + len(points)), strict=False):
        assert strict_json(line)["index"] == index
    assert text.count(b"\n") == len(points)
    assert same(merge(parse(text), start), (start, points))


columns_of_one_kind = st.sampled_from(
    [
        floats,
        integers,
        st.booleans(),
        st.none(),
        texts,
        st.binary(max_size=5),
        datetimes,
        st.lists(floats, max_size=4),
        st.lists(integers, max_size=4),
        st.lists(leaves, max_size=4),
        st.lists(st.lists(floats, max_size=3), max_size=3),
        st.dictionaries(texts, leaves, max_size=3),
        values,
    ]
)


@given(st.data(), st.integers(0, 70), st.lists(st.sampled_from(["a", "b", "$c", "ü", '"', "", "\x00"]), unique=True))
def test_an_encoder_of_columns_writes_what_single_lines_say(data: st.DataObject, rows: int, names: list[str]) -> None:
    # Few different values, many rows: hypothesis has not the room for 70 rows of their own.
    columns = []
    for _ in names:
        some = data.draw(st.lists(data.draw(columns_of_one_kind), min_size=1, max_size=4))
        columns.append([some[at % len(some)] for at in range(rows)])
    kinds = [set(map(type, column)) for column in columns]
    one_type = [kind.pop() if len(kind) == 1 else None for kind in kinds]
    ts = [float(at) for at in range(rows)]
    points = [
        {**dict(zip(names, row, strict=True)), "_ts": moment}
        for row, moment in zip(zip(*columns, strict=True) if names else [()] * rows, ts, strict=True)
    ]
    text = LineEncoder(tuple(names)).encode(5, columns, one_type, ts)
    assert same(parse(text).points, points)
    if all(abs(value) < 10**600 for column in columns for value in column if type(value) is int):
        assert text == encode_lines(enumerate(points, 5))


@pytest.mark.parametrize("rows", [3, 100])
def test_special_values_anywhere_in_a_column_are_found(rows: int) -> None:
    specials = [math.nan, math.inf, b"x", dt.datetime(2026, 1, 1), 10**5000, {"$date": 1}, [[math.nan]]]
    for special in specials:
        for at in (0, rows - 1):
            scalars: list[Any] = [0.5] * rows
            lists = [[0.5, 1.0] for _ in range(rows)]
            scalars[at] = special
            lists[at] = [0.5, special]
            kind = float if type(special) is float else None
            text = LineEncoder(("s", "l")).encode(0, [scalars, lists], [kind, list], [1.0] * rows)
            points = parse(text).points
            assert same([point["s"] for point in points], scalars)
            assert same([point["l"] for point in points], lists)


def test_finite_floats_whose_sum_is_not_are_no_trouble() -> None:
    column = [1.7e308, 1.7e308]
    text = LineEncoder(("x", "y")).encode(0, [column, [column, column]], [float, list], [1.0, 2.0])
    assert [point["x"] for point in parse(text).points] == column
    assert [point["y"] for point in parse(text).points] == [column, column]


def test_an_encoder_takes_any_number_of_fields() -> None:
    names = tuple(f"field {at}" for at in range(3000))
    text = line_encoder(names).encode(0, [[at] * 80 for at in range(3000)], [int] * 3000, [0.5] * 80)
    assert same(parse(text).points[79], {**{name: at for at, name in enumerate(names)}, "_ts": 0.5})


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        line_encoder(("a", "b")).encode(0, [[1.0], [1.0, 2.0]], [float, float], [1.0, 2.0])


def test_the_memory_for_encoders_is_bounded() -> None:
    kept = line_encoder(("kept",))
    assert line_encoder(("kept",)) is kept
    for at in range(3 * point_module._CACHED_ENCODERS):
        line_encoder((f"name {at}",))
    assert len(point_module._encoders) <= point_module._CACHED_ENCODERS


def test_taking_a_point_imports_nothing_heavy() -> None:
    run_python("""
        import sys
        before = set(sys.modules)
        from dreamlake.format.point import check_ts, take
        take({"loss": 0.5, "step": 1, "name": "x", "state": [0.5, 1.0], "more": {"a": None}})
        check_ts(1)
        late = set(sys.modules) - before
        heavy = {"msgspec", "pyarrow", "polars", "numpy", "pandas", "typing", "re", "dataclasses", "asyncio", "logging"}
        assert not late & heavy, late & heavy
    """)


def test_encoding_lines_keeps_nothing_alive() -> None:
    # encode_lines of msgspec 0.22 leaks an iterator that it is given, and with it every column of a flush.
    column = [0.5] * 2000
    ts = [float(i) for i in range(2000)]
    before = sys.getrefcount(column), sys.getrefcount(ts)
    line_encoder(("value",)).encode(0, [column], [float], ts)
    line_encoder(("other",)).encode(0, [column[:3]], [float], ts[:3])
    encode_lines((i, {"v": column, "_ts": 1.0}) for i in range(3))
    assert (sys.getrefcount(column), sys.getrefcount(ts)) == before
