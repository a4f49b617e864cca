"""The bytes of a hot file, turned into points: sound, torn, damaged and hostile ones."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from values import fields, same, timestamps

from dreamlake.errors import CorruptTrackError
from dreamlake.format import hot
from dreamlake.format.hot import HotGapError, HotLines, merge, merge_runs, parse
from dreamlake.format.point import encode_line, encode_lines

points_of_any_shape = st.lists(st.builds(lambda point, ts: {**point, "_ts": ts}, fields, timestamps), max_size=5)

SCALARS = b"".join(encode_line(at, {"value": at / 8, "epoch": at // 2}, 1767.25 + at) for at in range(4))
MIXED = b"".join(
    [
        encode_line(0, {"value": math.nan, "text": 'a "quoted" \n \\ $ _x }\n{', "raw": b"\x00\xff"}, 1.5),
        encode_line(1, {"q": [0.5, -1.0], "d": {"$k": [None, True, {}], "é\U0001f600": []}}, 2.5),
        encode_line(0, {"late": "ü"}, 1.5),
        encode_line(2, {"value": 1e300, "none": None}, 3.5),
    ]
)


def line(data: str, index: str = "0") -> bytes:
    return b'{"index":%s,"data":%s}\n' % (index.encode(), data.encode())


def nested(left: str, right: str, times: int) -> bytes:
    return line('{"a":' + left * times + "1" + right * times + ',"_ts":1.0}')


def reference(data: bytes) -> HotLines:
    """What reading each line by itself gives."""
    return hot._read_each(data[: data.rfind(b"\n") + 1], ())


def check_like_reference(data: bytes) -> HotLines:
    """Parse with and without damage left out, compare with the reference, and return what is left."""
    left = parse(data, errors="skip")
    expected = reference(data)
    assert left.indices == expected.indices
    assert same(left.points, expected.points)
    assert left.damaged == expected.damaged
    assert left.end == data.rfind(b"\n") + 1
    if left.damaged:
        with pytest.raises(CorruptTrackError) as caught:
            parse(data, path="data.jsonl")
        number, place, reason = left.damaged[0]
        assert caught.value.place == f"byte {place}, line {number}"
        assert caught.value.detail == reason
        assert caught.value.path == "data.jsonl"
    else:
        assert same(parse(data).points, left.points)
    return left


# ------------------------------------------------------------------------------------------------ sound files


@given(points_of_any_shape, st.integers(0, 2**63 - 1))
def test_points_come_back(points: list[dict[str, Any]], start: int) -> None:
    lines = parse(encode_lines(enumerate(points, start)))
    assert lines.indices == list(range(start, start + len(points)))
    assert same(lines.points, points)
    assert lines.damaged == []
    assert same(merge(lines, start), (start, points))


@given(points_of_any_shape, points_of_any_shape)
def test_reading_in_bulk_is_reading_line_by_line(points: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    text = encode_lines(enumerate(points)) + encode_lines(enumerate(more))
    whole = hot._read_all(text, ())
    assert whole is not None
    assert whole.indices == reference(text).indices
    assert same(whole.points, reference(text).points)


def test_the_documented_line_is_read() -> None:
    text = b'{"index": 0, "data": {"value": 0.5, "epoch": 1, "_ts": 1767.25}}\n'
    assert parse(text) == HotLines([0], [{"value": 0.5, "epoch": 1, "_ts": 1767.25}], len(text))
    assert parse(b"") == HotLines([], [], 0)


def test_what_other_writers_of_json_vary_is_read() -> None:
    for text in (
        b'{"data":{"_ts":1,"a":[1, 2]},"index":0}\r\n',
        b' {"index" : 0,\t"data" : {"\\u0061" : [1,2], "_t\\u0073" : 1.0 } } \n',
        b'{"index":0,"data":{"a":[1,2],"_ts":1E0}}\n',
    ):
        for data in (text, text + SCALARS[SCALARS.index(b"\n") + 1 :]):
            assert same(check_like_reference(data).points[0], {"a": [1, 2], "_ts": 1.0})


def test_a_timestamp_is_a_float_and_the_last_field() -> None:
    (point,) = parse(line('{"_ts":3,"a":1,"b":"\\u0000"}')).points
    assert list(point) == ["a", "b", "_ts"]
    assert same(point["_ts"], 3.0)


def test_lines_need_not_be_in_the_order_of_indices() -> None:
    text = line('{"a":1,"_ts":1.0}', "1") + line('{"a":0,"_ts":0.5}', "0")
    assert parse(text).indices == [1, 0]
    assert merge(parse(text), 0) == (0, [{"a": 0, "_ts": 0.5}, {"a": 1, "_ts": 1.0}])


def test_a_later_line_may_leave_out_the_timestamp() -> None:
    first, later = line('{"a":1,"_ts":1.0}', "5"), line('{"b":2}', "5")
    assert check_like_reference(first + later).points == [{"a": 1, "_ts": 1.0}, {"b": 2}]
    assert check_like_reference(later + first).damaged == [(1, 0, "the first line of a point has no _ts")]
    with pytest.raises(CorruptTrackError, match="no _ts"):
        parse(later)
    assert parse(later, known=range(5, 6)).points == [{"b": 2}]
    with pytest.raises(CorruptTrackError, match="no _ts"):
        parse(later, known=range(5))


# ------------------------------------------------------------------------------------------------ torn and damaged


@pytest.mark.parametrize("text", [SCALARS, MIXED], ids=["scalars", "mixed"])
def test_a_file_cut_anywhere_gives_a_prefix(text: bytes) -> None:
    whole = parse(text)
    for cut in range(len(text) + 1):
        lines = parse(text[:cut])
        count = text[:cut].count(b"\n")
        assert same(lines.points, whole.points[:count])
        assert lines.indices == whole.indices[:count]
        assert lines.end == text[:cut].rfind(b"\n") + 1


@pytest.mark.parametrize("text", [SCALARS, MIXED], ids=["scalars", "mixed"])
def test_a_flipped_bit_changes_only_its_own_line(text: bytes) -> None:
    whole = parse(text)
    for bit in range(8 * len(text)):
        damaged = bytearray(text)
        damaged[bit // 8] ^= 1 << bit % 8
        left = check_like_reference(bytes(damaged))
        row = text[: bit // 8].count(b"\n")
        assert same(left.points[:row], whole.points[:row])
        # A newline that is lost joins the next line to this one.
        after = whole.points[row + 1 + (text[bit // 8] == ord("\n")) :]
        assert same(left.points[len(left.points) - len(after) :], after)
        assert len(left.points) <= row + 1 + len(after)


@pytest.mark.parametrize("text", [SCALARS, MIXED], ids=["scalars", "mixed"])
def test_a_flipped_bit_outside_of_texts_and_numbers_shows(text: bytes) -> None:
    inside = False
    for at, byte in enumerate(text):
        if byte == ord('"') and text[at - 1] != ord("\\"):
            inside = not inside
        if inside or byte not in b'{}[]:,"\n':
            continue
        for bit in range(8):
            damaged = bytearray(text)
            damaged[at] ^= 1 << bit
            if at == len(text) - 1:
                assert len(parse(bytes(damaged)).points) < len(parse(text).points)
                continue
            with pytest.raises((CorruptTrackError, HotGapError)):
                merge(parse(bytes(damaged)), 0)


fragments = st.sampled_from(
    [
        b'{"index":0,"data":{"_ts":1.0}}',
        b'{"index":1,"data":{"a":[{"b":1}],"_ts":2.0}}',
        b'{"index":1,"data":{"a":"}}","_ts":2.0}}',
        b'{"index":1,"data":{"a":"{{","_ts":2.0',
        b'{"index":2,"data":{"a":[',
        b'{"index":2,"data":{"_ts":3.0,',
        b'"a":"{{"}}',
        b"\n",
        b"\n",
        b" ",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b'"',
        b"\\",
        b"$",
        b"_",
        b"}}",
        b'{"index":',
        b'"_ts":1.0',
        b'"\\u005fx":1,',
        b'{"$numberDouble":"NaN"}',
        b"\x00",
        b"\xff",
        b"\r",
    ]
)


@given(st.lists(fragments, max_size=12).map(b"".join))
@example(b'{"index":2,"data":{"a":[\n{"index":1}],"_ts":1.0}}\n' + b'{"index":0,"data":{"_ts":1.0}}' * 2 + b"\n")
@example(b'{"index":0,"data":{"a":"}}","_ts":1.0\n,"b":"{{"}}\n' + b'{"index":0,"data":{"_ts":1.0}}' * 2 + b"\n")
@example(b'{"index":0,"data":{"_ts":1.0}}{"index":0,"data":{"_ts":1.0}}\n\n')
@example(b'{"index":0,"data":{"_ts":1.0,\n"a":1}}{"index":0,"data":{"_ts":1.0}}\n')
@example(b'{"index":0,"data":{"_ts":1.0,"_x":1}}\n{"index":0,"data":{"a":1}}\n')
@example(b'\n{"index":0,"data":{"_ts":1.0}}')
@example(b'{"index":0,\n"data":{"a":[1],"_ts":1.0}}\n')
def test_hostile_bytes_are_read_line_by_line_or_refused(data: bytes) -> None:
    left = check_like_reference(data)
    rows = data.split(b"\n")[:-1]
    bad = {number for number, _, _ in left.damaged}
    sound = [row for number, row in enumerate(rows, 1) if number not in bad]
    for row, index in zip(sound, left.indices, strict=True):
        assert json.loads(row)["index"] == index


@given(st.binary(max_size=50))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    check_like_reference(data)
    check_like_reference(SCALARS + data + b"\n" + SCALARS)


@pytest.mark.parametrize(
    "damaged",
    [
        b"\n",
        b"\x00" * 20 + b"\n",
        b"\xef\xbb\xbf" + line('{"_ts":1.0}'),
        b"[]\n",
        b"{}\n",
        b'{"index":0}\n',
        b'{"data":{"_ts":1.0}}\n',
        b'{"index":0,"data":{"_ts":1.0},"more":1}\n',
        b'{"index":0,"data":{"_ts":1.0}} {}\n',
        line("[]"),
        line("null"),
        line('{"_ts":1.0}', "-1"),
        line('{"_ts":1.0}', "0.0"),
        line('{"_ts":1.0}', "true"),
        line('{"_ts":1.0}', '"0"'),
        line('{"_ts":1.0}', "null"),
        line('{"_ts":1.0}', "00"),
        line("{}", "4"),
        line('{"_ts":null}'),
        line('{"_ts":true}'),
        line('{"_ts":"1"}'),
        line('{"_ts":NaN}'),
        line('{"_ts":1e999}'),
        line(f'{{"_ts":{10**400}}}'),
        line('{"_ts":{"$numberDouble":"NaN"}}'),
        line('{"_ts":[1.0]}'),
        line('{"a":NaN,"_ts":1.0}'),
        line('{"a":Infinity,"_ts":1.0}'),
        line('{"a":1,"_index":1,"_ts":1.0}'),
        line('{"\\u005findex":1,"_ts":1.0}'),
        line('{"\\u005Findex":1,"_ts":1.0}'),
        line('{"_none":["a"],"_ts":1.0}'),
        line('{"$a":1,"_ts":1.0}'),
        line('{"\\u0024a":1,"_ts":1.0}'),
        line('{"a":{"$date":"yesterday"},"_ts":1.0}'),
        line('{"a":[{"\\u0024date":"yesterday"}],"_ts":1.0}'),
        line('{"a":"\\ud800","_ts":1.0}'),
        line('{"a":"').rstrip(b"}\n") + b'\xff","_ts":1.0}}\n',
        line('{"a":"\t","_ts":1.0}'),
        line("{'a':1,\"_ts\":1.0}"),
        line('{"a":1,"_ts":1.0,}'),
        nested("[", "]", 65),
        nested('{"a":', "}", 65),
        nested("[", "]", 900),
        nested("[", "", 100_000),
        nested("1", "", 5000),
    ],
    ids=lambda text: ascii(text)[2:60],
)
def test_a_damaged_line_is_named_and_can_be_left_out(damaged: bytes) -> None:
    check_like_reference(damaged)
    text = SCALARS + damaged + line('{"a":1,"_ts":9.0}', "5")
    left = check_like_reference(text)
    assert same(left.points, [*parse(SCALARS).points, {"a": 1, "_ts": 9.0}])
    assert [where[:2] for where in left.damaged] == [(5, len(SCALARS))]
    with pytest.raises(CorruptTrackError) as caught:
        parse(text, path="somewhere/data.jsonl", base_offset=100, base_line=10)
    assert caught.value.path == "somewhere/data.jsonl"
    assert caught.value.place == f"byte {100 + len(SCALARS)}, line 15"
    assert (caught.value.start, caught.value.stop) == (4, 5)


def test_the_deepest_nesting_is_no_damage() -> None:
    deep = nested("[", "]", 64).replace(b'"_ts"', b'"b":[[[]]],"c":"]]]]{{","_ts"')
    assert check_like_reference(deep + SCALARS).damaged == []


def test_the_range_of_a_damaged_line_is_what_the_others_leave() -> None:
    rows = SCALARS.splitlines(keepends=True)
    ranges = {
        b"x\n" + rows[1] + rows[2]: (None, None),
        rows[0] + b"x\n" + rows[2]: (1, 2),
        rows[0] + b"x\ny\n" + rows[3]: (1, 3),
        rows[0] + rows[1] + b"x\n": (2, None),
        rows[0] + b"x\n" + rows[1] + rows[2]: (None, None),
    }
    for text, expected in ranges.items():
        with pytest.raises(CorruptTrackError) as caught:
            parse(text)
        assert (caught.value.start, caught.value.stop) == expected


def test_places_are_those_in_the_file() -> None:
    text = b"x\n" + SCALARS + b"yy\ntorn"
    lines = parse(text, errors="skip", base_offset=1000, base_line=7)
    assert [where[:2] for where in lines.damaged] == [(8, 1000), (13, 1000 + 2 + len(SCALARS))]
    assert lines.end == 1000 + len(text) - 4


# ------------------------------------------------------------------------------------------------ lines to points


def lines_of(*rows: tuple[int, dict[str, Any]]) -> HotLines:
    return HotLines([index for index, _ in rows], [point for _, point in rows], 0)


def test_later_lines_win_and_fields_stand_in_the_order_of_arrival() -> None:
    rows = [(0, {"b": 1, "_ts": 1.0}), (1, {"b": 2, "_ts": 2.0}), (0, {"a": 3, "b": 4}), (0, {"c": None, "_ts": 1.0})]
    lines = lines_of(*rows)
    start, points = merge(lines, 0)
    assert start == 0
    assert same(points, [{"b": 4, "a": 3, "c": None, "_ts": 1.0}, {"b": 2, "_ts": 2.0}])
    assert lines.points[0] == {"b": 1, "_ts": 1.0}


def test_indices_of_the_segments_are_left_out() -> None:
    lines = lines_of(*((at, {"a": at, "_ts": 0.0}) for at in range(5)))
    assert merge(lines, 0)[0] == 0
    assert merge(lines, 3) == (3, [{"a": 3, "_ts": 0.0}, {"a": 4, "_ts": 0.0}])
    assert merge(lines, 5) == (5, [])
    assert merge(lines, 7) == (7, [])
    assert merge(lines_of(), 7) == (7, [])


@pytest.mark.parametrize(
    ("indices", "below", "missing"), [([1], 0, 0), ([0, 2], 0, 1), ([5, 6, 8, 9], 5, 7), ([0, 1, 5], 3, 3)]
)
def test_a_missing_index_is_a_gap(indices: list[int], below: int, missing: int) -> None:
    lines = lines_of(*((at, {"a": at, "_ts": 0.0}) for at in indices))
    with pytest.raises(HotGapError, match=str(missing)) as caught:
        merge(lines, below)
    assert caught.value.index == missing
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.index, str(again)) == (missing, str(caught.value))


def test_runs_go_round_the_gaps() -> None:
    lines = lines_of(*((at, {"a": at, "_ts": 0.0}) for at in (5, 6, 8, 6, 11)))
    runs = [(start, [point["a"] for point in points]) for start, points in merge_runs(lines, 0)]
    assert runs == [(5, [5, 6]), (8, [8]), (11, [11])]
    assert [start for start, _ in merge_runs(lines, 9)] == [11]
    assert merge_runs(lines, 12) == []


@given(st.lists(st.tuples(st.integers(0, 6), fields), max_size=20), st.integers(0, 6))
def test_merging_is_what_a_dict_would_do(updates: list[tuple[int, dict[str, Any]]], below: int) -> None:
    rows = [(at, {"_ts": float(at)}) for at in range(7)] + updates
    model: dict[int, dict[str, Any]] = {}
    for index, point in rows:
        model.setdefault(index, {}).update(point)
    expected = [{**{k: v for k, v in model[at].items() if k != "_ts"}, "_ts": float(at)} for at in range(below, 7)]
    lines = parse(encode_lines(rows))
    assert same(merge(lines, below), (below, expected))
