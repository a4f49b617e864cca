"""Segments: right values or damage, whatever happens to the bytes; and any Parquet reader can read them."""

from __future__ import annotations

import gc
import io
import pickle
import random
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import accumulate
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from columnar import HOSTILE_TEXT, assert_same_points, point_lists, same, segment_of
from hypothesis import given, settings
from hypothesis import strategies as st
from support import run_python

from dreamlake.format import footer, pages, segment
from dreamlake.format.columns import counting
from dreamlake.format.schema import Batch, batch_from_columns, batch_from_points, to_points
from dreamlake.format.segment import SegmentBounds, SegmentDamage, SegmentInfo, encode, open_segment

TESTS = Path(__file__).parent


def points_of(data: Any, **options: Any) -> list[dict[str, Any]]:
    opened = open_segment(data, **options)
    return to_points(opened.read(), opened.info.schema)


def sample(count: int = 12) -> list[dict[str, Any]]:
    """Points with a column of each kind."""
    at = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    return [
        {
            "loss": 0.5 + i,
            "step": i,
            "ok": i % 3 == 0,
            "name": f"run-{i % 3}",
            "q": [1.0 * i, 2.0],
            "j": [1, "a"],
            "t": at,
            "s": {"k": i},
            "b": b"ab",
            "n": None,
            "_ts": 1.0 + i,
        }
        for i in range(count)
    ]


def signed(data: bytes | bytearray) -> bytes:
    """The file with the right checksum for its footer, as a stranger would put it there."""
    return bytes(footer.signed(pa.py_buffer(blank(data))))


def blank(data: bytes | bytearray) -> bytes:
    at = bytes(data).rindex(footer.CRC_MARK) + len(footer.CRC_MARK)
    return bytes(data[:at]) + b"00000000" + bytes(data[at + 8 :])


def footer_start(data: bytes) -> int:
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


# ------------------------------------------------------------------------------------------------- round trips


@given(point_lists(), st.integers(0, 10**12))
def test_points_come_back_from_the_bytes(points: list[dict[str, Any]], start: int) -> None:
    data = segment_of(points, start)
    opened = open_segment(data)
    table = opened.read()
    table.validate(full=True)
    assert table.column("_index").to_pylist() == list(range(start, start + len(points)))
    assert_same_points(points, to_points(table, opened.info.schema))


@given(point_lists(), st.data())
def test_any_choice_of_columns_reads_as_the_whole_does(points: list[dict[str, Any]], data: st.DataObject) -> None:
    opened = open_segment(segment_of(points))
    whole = opened.read()
    names = data.draw(st.lists(st.sampled_from([*whole.column_names, "missing"]), unique=True))
    part = opened.read(names)
    assert part.column_names == [name for name in names if name != "missing"]
    assert part.num_rows == len(points)
    for name in part.column_names:
        assert part.column(name).equals(whole.column(name)) or same(
            part.column(name).to_pylist(), whole.column(name).to_pylist()
        )


def test_a_field_whose_name_is_the_path_of_another() -> None:
    points = [{"a": {"b": 1, "list": "x"}, "a.b": 1.5, "a.list": 3, "q": [True], "q.list.element": 2, "_ts": 0.0}]
    opened = open_segment(segment_of(points))
    assert to_points(opened.read(), opened.info.schema) == points
    for name in points[0]:
        assert opened.read([name]).column(name).to_pylist() == [points[0][name]]


@pytest.mark.parametrize("form", ["bytes", "bytearray", "memoryview", "buffer", "file", "function", "cached"])
def test_every_form_of_source_reads_the_same(form: str) -> None:
    points = sample()
    data = segment_of(points, 40)
    footer = open_segment(data).footer
    sources: dict[str, Callable[[], Any]] = {
        "bytes": lambda: open_segment(data),
        "bytearray": lambda: open_segment(bytearray(data)),
        "memoryview": lambda: open_segment(memoryview(data)),
        "buffer": lambda: open_segment(pa.py_buffer(data), len(data)),
        "file": lambda: open_segment(io.BytesIO(data)),
        "function": lambda: open_segment(lambda start, stop: data[start:stop], len(data)),
        "cached": lambda: open_segment(io.BytesIO(data), len(data), footer),
    }
    opened = sources[form]()
    assert opened.info == footer.info
    assert to_points(opened.read(), opened.info.schema) == points
    assert opened.read(["step", "j"]).column("step").to_pylist() == list(range(12))


def test_a_function_needs_the_size() -> None:
    with pytest.raises(TypeError, match="size"):
        open_segment(lambda start, stop: b"")


def test_errors_of_the_source_pass_as_they_are() -> None:
    data = segment_of(sample())

    def read(start: int, stop: int) -> bytes:
        if start < footer_start(data):
            raise ConnectionResetError("the network went away")
        return data[start:stop]

    opened = open_segment(read, len(data), open_segment(data).footer)
    with pytest.raises(ConnectionResetError, match="went away"):
        opened.read()


def test_only_the_ranges_of_the_wanted_columns_are_asked_for() -> None:
    count = 50_000
    batch = wide_batch(count)
    data = bytes(encode(batch, info_of(batch)))
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return data[start:stop]

    opened = open_segment(read, len(data))
    assert len(asked) == 1
    asked.clear()
    assert opened.read(["b"]).column("b").to_pylist() == [1.0 * i for i in range(count)]
    assert len(asked) == 1
    assert asked[0][1] - asked[0][0] < len(data) // 3


# ------------------------------------------------------------------------------------------- ranges of indices


def wide_batch(count: int) -> Batch:
    numbers = [1.0 * i for i in range(count)]
    rnd = random.Random(1)
    noise = [[rnd.random() for _ in range(count)] for _ in range(3)]
    return batch_from_columns(
        ["a", "b", "c", "d", "i"], [noise[0], numbers, noise[1], noise[2], list(range(count))], [None] * 5, numbers
    )


def info_of(batch: Batch, start: int = 0) -> SegmentInfo:
    stop = start + len(batch)
    return SegmentInfo("t", start, stop, 0, 0.0, float(len(batch)), True, batch.schema, batch.schema)


def test_a_range_of_indices_reads_only_its_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "ROW_GROUP", 1000)
    batch = wide_batch(4500)
    data = bytes(encode(batch, info_of(batch, 100)))
    opened = open_segment(data)
    assert [group.rows for group in opened.footer.groups] == [1000, 1000, 1000, 1000, 500]
    whole = opened.read()
    for start, stop in [(100, 4600), (100, 101), (1099, 1101), (2100, 3100), (4599, 4600), (3000, 3000), (600, 4200)]:
        part = opened.read(["i", "_index"], start, stop)
        assert part.equals(whole.select(["i", "_index"]).slice(start - 100, stop - start))
    assert opened.read(["i"], stop=1600).num_rows == 1500
    assert opened.read(["i"], start=4000).column("i").to_pylist() == list(range(3900, 4500))
    # The other row groups may be damaged: they are not looked at.
    chunk = opened.footer.metadata.row_group(3).column(2)
    broken = bytearray(data)
    broken[chunk.data_page_offset + 500] ^= 1
    assert open_segment(broken).read(["a"], 1000, 2000).num_rows == 1000
    with pytest.raises(SegmentDamage):
        open_segment(broken).read(["a"], 3100, 3101)


# -------------------------------------------------------------------------------------------------- the footer


def test_the_footer_says_what_the_segment_is() -> None:
    batch = batch_from_points([{"a": 1, "_ts": 5.0}, {"a": 2, "_ts": 4.0}])
    before = (SegmentBounds(0, 10, 0, 1.5, 2.5, True), SegmentBounds(10, 20, 3, -1.0, 1e300, False))
    info = SegmentInfo(
        "robot/左 \x18",
        20,
        22,
        7,
        4.0,
        5.0,
        False,
        batch.schema,
        {"z": {"list": "json" and "double"}, "a": "int"},
        before,
    )
    opened = open_segment(encode(batch, info))
    assert opened.info == info
    assert list(opened.info.track_schema) == ["z", "a"]
    assert opened.info.bounds == SegmentBounds(20, 22, 7, 4.0, 5.0, False)
    assert isinstance(opened.info.before[1], SegmentBounds)
    assert opened.footer.file_size == len(encode(batch, info))


def test_columns_are_compressed_as_hard_as_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timestamps of points that come slowly hardest, doubles harder than the rest; and it shows in their bytes."""
    draw = random.Random(1)
    times = [round(at, 3) for at in accumulate(draw.gauss(0.1, 0.01) for _ in range(10_000))]

    def sizes(spacing: float, **levels: int) -> dict[str, int]:
        if levels:
            monkeypatch.setattr(segment, "_ts_level", lambda info: levels["ts"])
        points = [{"_ts": 1.7e9 + spacing * ts, "loss": ts * 0.3, "q": [ts], "n": at} for at, ts in enumerate(times)]
        group = pq.ParquetFile(pa.BufferReader(segment_of(points))).metadata.row_group(0)
        monkeypatch.undo()
        columns = [group.column(place) for place in range(group.num_columns)]
        return {column.path_in_schema: column.total_compressed_size for column in columns}

    slow, fast = sizes(1.0), sizes(1e-4)
    assert slow["_ts"] < 0.95 * sizes(1.0, ts=4)["_ts"]
    assert slow == sizes(1.0, ts=12)
    assert fast == sizes(1e-4, ts=4)
    assert segment._write_options({"loss": "double", "q": {"list": "double"}, "n": "int"}, 4)["compression_level"] == {
        "_ts": 4,
        "loss": 4,
    }


def test_encode_refuses_an_info_that_does_not_fit() -> None:
    batch = batch_from_points([{"a": 1, "b": 1.5, "_ts": 5.0}])
    good = info_of(batch)
    assert open_segment(encode(batch, good)).info == good
    for wrong in (
        SegmentInfo("t", 0, 2, 0, 0.0, 1.0, True, batch.schema, batch.schema),
        SegmentInfo("t", -1, 0, 0, 0.0, 1.0, True, batch.schema, batch.schema),
        SegmentInfo("t", 0, 1, 0, 0.0, 1.0, True, {"a": "int"}, batch.schema),
        SegmentInfo("t", 0, 1, 0, 0.0, 1.0, True, {"b": "double", "a": "int"}, batch.schema),
    ):
        with pytest.raises(ValueError, match=r"points do not make|not the batch's"):
            encode(batch, wrong)
    with pytest.raises(ValueError, match="0 points"):
        encode(batch.slice(0, 0), SegmentInfo("t", 0, 0, 0, 0.0, 1.0, True, batch.schema, batch.schema))


def test_encode_refuses_what_could_not_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_from_points([{"a": "x" * 1000, "_ts": 5.0}])
    monkeypatch.setattr(segment, "MAX_BATCH_BYTES", 500)
    with pytest.raises(ValueError, match="a segment holds up to 500 bytes"):
        encode(batch, info_of(batch))


def test_text_that_looks_like_the_checksum_does_not_move_it() -> None:
    points = [{HOSTILE_TEXT: HOSTILE_TEXT, "s": {HOSTILE_TEXT: HOSTILE_TEXT}, "_ts": 1.0}]
    assert points_of(segment_of(points, track=HOSTILE_TEXT)) == points


def test_the_checksum_is_the_one_that_the_format_says() -> None:
    data = segment_of(sample())
    start = footer_start(data)
    value = pq.read_metadata(io.BytesIO(data)).metadata[b"dreamlake.footer_crc32"]
    footer = data[start:].replace(value, b"00000000")
    assert data[start:].count(value) == 1
    assert value == b"%08x" % zlib.crc32(footer)


def test_damage_can_be_pickled() -> None:
    damage = pickle.loads(pickle.dumps(SegmentDamage("footer", "its checksum does not match")))
    assert (damage.place, damage.detail) == ("footer", "its checksum does not match")
    assert str(damage) == "footer: its checksum does not match"


# ------------------------------------------------------------------------------------------------------ damage

EVERY_DAMAGE = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from test_segment import open_segment, sample, segment_of, points_of, SegmentDamage
    points = sample(5)
    data = segment_of(points)
    assert points_of(data) == points
    info = open_segment(data).info
    found = wrong = 0
    for place in range(len(data)):
        for bit in range(place % 2, 8, 2):  # the campaign `damage` flips them all
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                wrong += points_of(flipped) != points or open_segment(flipped).info != info
            except SegmentDamage:
                found += 1
    for length in range(len(data)):
        try:
            points_of(data[:length])
        except SegmentDamage:
            found += 1
    print(len(data), found, wrong)
"""


def test_a_footer_that_was_damaged_since_it_was_kept_is_found() -> None:
    """As long as before, so that only its bytes tell."""
    good = segment_of(sample(3))
    kept = open_segment(good).footer
    assert open_segment(good, footer=kept).footer is kept
    for at in range(footer_start(good), len(good) - 8):
        bad = bytearray(good)
        bad[at] ^= 1
        with pytest.raises(SegmentDamage):
            open_segment(bytes(bad), footer=kept)


def test_bit_flips_and_every_truncation_are_found_or_harmless() -> None:
    # In its own process, since what is to be shown is also that the interpreter lives.
    length, found, wrong = map(int, run_python(EVERY_DAMAGE, TESTS, timeout=600).stdout.split())
    assert wrong == 0
    assert found > length + 4 * length * 0.8  # every truncation, and most bits


@settings(max_examples=300)
@given(st.data())
def test_random_damage_of_many_bytes_is_found_or_harmless(data: st.DataObject) -> None:
    points = sample(5)
    good = segment_of(points)
    start = data.draw(st.integers(0, len(good) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=64))
    stop = data.draw(st.sampled_from([start, start + len(junk), min(len(good), start + 500)]))
    with suppress(SegmentDamage):
        assert points_of(good[:start] + junk + good[stop:]) == points


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"PAR1", "no Parquet file"),
        (b"PAR1" + b"\0" * 100, "does not end as a Parquet file"),
        (b"PAR1" + b"\xff\xff\xff\x7fPAR1", "claims 2147483647 bytes in a file of 12"),
        (b"PAR1" + b"\0\0\0\0PAR1", "no checksum of dreamlake's"),
    ],
)
def test_what_is_no_segment_is_damage(data: bytes, said: str) -> None:
    with pytest.raises(SegmentDamage, match=said) as caught:
        open_segment(data)
    assert caught.value.place == "footer"


def test_a_file_of_another_program_is_damage_that_says_so() -> None:
    foreign = io.BytesIO()
    pl.DataFrame({"_index": [0], "_ts": [1.0]}).write_parquet(foreign)
    with pytest.raises(SegmentDamage, match="another program's file"):
        open_segment(foreign.getvalue())
    copied = io.BytesIO()  # with our checksum, but without what a segment says of itself
    with pq.ParquetWriter(copied, pa.schema([("a", pa.int64())])) as writer:
        writer.add_key_value_metadata({"dreamlake.footer_crc32": "00000000"})
    with pytest.raises(SegmentDamage, match=r"no 'dreamlake\.segment' in it"):
        open_segment(signed(copied.getvalue()))


def test_a_file_that_is_shorter_than_its_size_is_damage() -> None:
    data = segment_of(sample())
    with pytest.raises(SegmentDamage, match=r"does not end|shorter"):
        open_segment(io.BytesIO(data), len(data) + 10)
    footer = open_segment(data).footer
    half = data[: footer_start(data) // 2]

    def read(start: int, stop: int) -> bytes:
        return data[start:stop] if start >= footer_start(data) else half[start:stop]

    with pytest.raises(SegmentDamage, match="shorter than its size"):
        open_segment(read, len(data), footer).read()


def test_a_kept_footer_of_another_file_is_not_believed() -> None:
    first, second = segment_of([{"a": 1, "_ts": 1.0}]), segment_of([{"a": 2, "_ts": 1.0}])
    assert len(first) == len(second)
    assert points_of(second, footer=open_segment(first).footer) == [{"a": 2, "_ts": 1.0}]
    assert points_of(io.BytesIO(second), footer=open_segment(first).footer) == [{"a": 2, "_ts": 1.0}]


# --------------------------------------------------------------------------------------------------- strangers


def forged(
    table: pa.Table,
    *,
    rows: int | None = None,
    schema: dict[str, Any] | None = None,
    start: int = 0,
    a_group: int | None = None,
    **options: Any,
) -> bytes:
    """A segment as a stranger would write it: any table, any claims, the checksum right."""
    from dreamlake.format.segmentinfo import to_key_values

    stop = start + (table.num_rows if rows is None else rows)
    fields = {"x": "double"} if schema is None else schema
    info = SegmentInfo("t", start, stop, 0, 0.0, 1.0, True, fields, fields)
    options = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True, **options}
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.write_table(table, row_group_size=a_group)
        writer.add_key_value_metadata({**to_key_values(info), "dreamlake.footer_crc32": "00000000"})
    return signed(sink.getvalue())


def table_of(count: int, x: pa.Array | pa.ChunkedArray, index: pa.Array | None = None) -> pa.Table:
    fields = [
        pa.field("_index", pa.int64(), nullable=False),
        pa.field("_ts", pa.float64(), nullable=False),
        pa.field("x", x.type),
    ]
    ts = counting(0, count).cast(pa.float64())
    return pa.table([counting(0, count) if index is None else index, ts, x], schema=pa.schema(fields))


def test_the_forger_of_these_tests_can_write_a_good_segment() -> None:
    assert points_of(forged(table_of(2, pa.array([1.0, 2.0])))) == [{"x": 1.0, "_ts": 0.0}, {"x": 2.0, "_ts": 1.0}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": 3}, "2 rows in the range 0 to 3"),
        ({"rows": 1 << 40}, "2 rows in the range"),
        ({"start": -1}, "2 rows in the range -1 to 1"),
        ({"schema": {"x": "int"}}, "the columns are not those of its schema"),
        ({"schema": {"y": "double"}}, "the columns are not those of its schema"),
        ({"schema": {"x": "double", "y": "double"}}, "the columns are not those of its schema"),
        ({"schema": {"x": "decimal"}}, "is no type of a value"),
        ({"schema": {"x": {"list": "json"}}}, "is no type of a value"),
    ],
)
def test_claims_that_do_not_fit_the_columns_are_damage(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SegmentDamage, match=said):
        open_segment(forged(table_of(2, pa.array([1.0, 2.0])), **change))


@pytest.mark.parametrize("groups", [2, 8])
def test_row_groups_that_do_not_add_up_are_damage_before_they_are_read(groups: int) -> None:
    whole = forged(table_of(groups, pa.array([1.0] * groups)), a_group=1)
    begin = footer_start(whole)
    end = pages._GROUP_END.search(whole, begin)
    assert end is not None
    assert end[1] == b"\x02"  # one row, as Thrift writes it
    two = whole[: end.start(1)] + b"\x04" + whole[end.end(1) :]
    two = two.replace(open_segment(whole).footer.metadata.metadata[b"dreamlake.footer_crc32"], b"00000000")
    with pytest.raises(SegmentDamage, match="its row groups do not add up") as caught:
        open_segment(signed(two)).read()
    assert caught.value.place == "footer"
    assert points_of(whole) == [{"x": 1.0, "_ts": float(at)} for at in range(groups)]


def test_the_row_groups_of_a_wide_segment_are_taken_apart_when_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []
    row_groups = pages.row_groups
    monkeypatch.setattr(pages, "row_groups", lambda footer: taken.append(len(footer)) or row_groups(footer))
    segment = open_segment(forged(table_of(8, pa.array([1.0] * 8)), a_group=1))
    assert segment.info.rows == 8
    assert taken == []
    assert segment.read(["x"], 2, 4).num_rows == segment.read(["x"], 4, 6).num_rows == 2
    assert len(taken) == 1
    assert open_segment(forged(table_of(2, pa.array([1.0] * 2)), a_group=1)).info.rows == 2
    assert len(taken) == 2, "few are taken apart at once, so that what is wrong is told at once"


@pytest.mark.parametrize("groups", [1, 8])
def test_a_kept_footer_tells_the_place_of_each_column_again(groups: int) -> None:
    """What is read are the bytes of the columns that are asked for, at the second time too."""
    whole = forged(table_of(groups, pa.array([float(at) + 0.5 for at in range(groups)])), a_group=1)
    asked = []

    def source(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return whole[start:stop]

    footer = open_segment(whole).footer
    seen = []
    for _ in range(2):
        asked.clear()
        for names in (["x"], ["_index"], ["_ts", "x"], ["_index", "_ts", "x"]):
            table = open_segment(source, len(whole), footer).read(names)
            assert table.equals(open_segment(whole).read(names))
        seen.append(list(asked))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("groups", [1, 8])
def test_a_kept_footer_does_not_hold_the_bytes_of_the_footer(groups: int) -> None:
    """These tell of all segments before it, so that what is kept of many would grow with the square of their number."""
    footer = open_segment(forged(table_of(groups, pa.array([1.0] * groups)), a_group=1)).footer
    assert len(footer.groups) == groups
    reached, left = set(), [footer.groups, footer.row_groups]
    while left:
        held = left.pop()
        if id(held) not in reached and not isinstance(held, (type, ModuleType, FunctionType)):
            reached.add(id(held))
            assert not isinstance(held, bytes) or len(held) < 100
            left += gc.get_referents(held)
    assert len(reached) > 5 * groups, "the columns were looked into"


def test_another_version_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_from_points([{"a": 1, "_ts": 1.0}])
    info = SegmentInfo("t", 0, 1, 0, 1.0, 1.0, True, batch.schema, batch.schema, version=2)
    with pytest.raises(SegmentDamage, match="format version 2; this dreamlake reads version 1"):
        open_segment(encode(batch, info))


def test_an_index_that_does_not_count_is_damage() -> None:
    opened = open_segment(forged(table_of(2, pa.array([1.0, 2.0]), pa.array([0, 2]))))
    with pytest.raises(SegmentDamage, match="does not count from 0 to 2"):
        opened.read()
    assert opened.read(["x"]).column("x").to_pylist() == [1.0, 2.0]


def test_text_that_is_not_unicode_is_damage() -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    with pytest.raises(SegmentDamage, match="column 'x'"):
        open_segment(forged(table_of(1, bad), schema={"x": "string"})).read(["x"])


def test_deeply_nested_claims_are_damage() -> None:
    from dreamlake.format.segmentinfo import from_key_values

    deep = '{"list":' * 5000 + '"int"' + "}" * 5000
    claims = (
        '{"version":1,"track":"t","start":0,"stop":1,"generation":0,"tsMin":0,"tsMax":1,"tsRising":true,'
        f'"schema":{{"x":{deep}}}}}'
    )
    values = {b"dreamlake.segment": claims.encode(), b"dreamlake.track": b'{"schema":null,"before":[]}'}
    with pytest.raises((ValueError, RecursionError)):
        from_key_values(values)


BOMB = """
    import resource, sys
    sys.path.insert(0, sys.argv[1])
    import test_segment
    data = getattr(test_segment, sys.argv[2])()
    print(len(data))
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    for attempt in (data, lambda start, stop: data[start:stop]):
        try:
            test_segment.open_segment(attempt, len(data)).read()
        except test_segment.SegmentDamage as damage:
            print(damage)
"""


def many_rows() -> bytes:
    """A footer that promises a trillion rows of a tiny file."""
    data = forged(table_of(2, pa.array([1.0, 2.0])))
    start = footer_start(data)
    # The number of rows of the file, of the row group, and in each column's values: 2 is 04 in zigzag form.
    footer = data[start:-8].replace(b"\x16\x04", b"\x16\x80\x80\x80\x80\x80\x40")
    return signed(data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def large_pages() -> bytes:
    """A megabyte of zeros, many times, in a file of a few kilobytes."""
    zeros = pa.chunked_array([pa.array([b"\0" * (1 << 20)])] * 2100)  # of one buffer, here too
    return forged(table_of(2100, zeros), schema={"x": "binary"})


def large_json_dictionary() -> bytes:
    """A megabyte of text in a dictionary, many times, in a JSON column, which Arrow cannot read as a dictionary."""
    text = pa.array(['"' + "x" * (1 << 20) + '"'])
    column = pa.chunked_array([pa.ExtensionArray.from_storage(pa.json_(), text)] * 2000)
    return forged(table_of(2000, column), schema={"x": "json"}, use_dictionary=["x"])


def many_values() -> bytes:
    """Lists with more values than memory holds, all of them null, from run lengths of a few bytes."""
    lists = pa.ListArray.from_arrays(pa.array([0, 200_000_000], pa.int32()), pa.nulls(200_000_000, pa.bool_()))
    return forged(table_of(1, lists), schema={"x": {"list": "bool"}}, data_page_size=1 << 30)


def shared_prefixes() -> bytes:
    """Values that each repeat all of the one before."""
    text = pa.array(["x" * (1 << 16)] * 1000)
    return forged(table_of(1000, text), schema={"x": "string"}, column_encoding={"x": "DELTA_BYTE_ARRAY"})


@pytest.mark.parametrize(
    ("bomb", "said"),
    [
        ("many_rows", "rows in the range"),
        ("large_pages", "bytes of memory, more than a segment may"),
        ("large_json_dictionary", "of memory, more than a segment may"),
        ("many_values", "bytes of memory, more than a segment may"),
        ("shared_prefixes", "which dreamlake does not use"),
    ],
)
def test_a_bomb_is_damage_before_it_takes_memory(bomb: str, said: str) -> None:
    size, *told = run_python(BOMB, TESTS, bomb).stdout.splitlines()
    assert len(told) == 2
    assert all(said in line for line in told), told
    assert int(size) < 4 << 20


def test_a_dictionary_is_only_unfolded_when_its_text_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{'x' * 1000}{i % 50}" for i in range(2000)]
    points = [{"n": name, "l": [name], "s": {"k": name}, "_ts": 1.0 * at} for at, name in enumerate(names)]
    data = segment_of(points)
    monkeypatch.setattr(pages, "MAX_DECODED", 8_000_000)  # their bound is more, the text itself is less
    assert points_of(data) == points
    monkeypatch.setattr(pages, "MAX_DECODED", 4_000_000)
    with pytest.raises(SegmentDamage, match="its text would take"):
        points_of(data)
    assert open_segment(data).read(["_ts"]).num_rows == 2000


def test_forged_page_headers_are_damage() -> None:
    data = segment_of([{"x": 1.0 * i, "_ts": 1.0 * i} for i in range(100)])
    chunk = open_segment(data).footer.metadata.row_group(0).column(2)
    at = chunk.data_page_offset
    head = pages._DATA_PAGE.match(data, at)
    assert head is not None
    assert [head[1], head[2], head[4]] == [b"\xce\x0c", head[2], b"\xc8\x01"]  # 807 bytes, 100 values
    for place, forged_bytes, said in [
        (head.start(1), b"\xc9\x0c", "negative"),
        (head.start(2), b"\xfe\x7f", "longer than its column"),
        (head.start(4), b"\xca\x01", "hold 101 values, not 100"),
        (head.start(4), b"\xc6\x01", "header of a page is unreadable"),
        (head.start(5), b"\x0e", "encoding 7"),
        (at, b"\x15\x06", "header of a page is unreadable"),
    ]:
        forgery = data[:place] + forged_bytes + data[place + len(forged_bytes) :]
        with pytest.raises(SegmentDamage, match=said):
            open_segment(forgery).read(["x"])


HOSTILE_FOOTERS = """
    import random, resource, sys
    sys.path.insert(0, sys.argv[1])
    from test_segment import SegmentDamage, footer_start, open_segment, sample, segment_of, signed
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    rnd = random.Random(int(sys.argv[2]))
    data = segment_of(sample(5))
    start, damaged = footer_start(data), 0
    for _ in range(1500):
        forged = bytearray(data)
        for _ in range(rnd.choice([1, 1, 2, 4])):
            at = rnd.randrange(start, len(data) - 8)
            flipped = bytes([forged[at] ^ 1 << rnd.randrange(8)])
            forged[at:at + 1] = rnd.choice([flipped, rnd.randbytes(1), b"\\xff" * 5])
        forged[-8:-4] = (len(forged) - 8 - start).to_bytes(4, "little")
        try:
            forged = signed(forged)
        except ValueError:
            continue  # the checksum's own key was hit
        try:
            open_segment(forged).read()
        except SegmentDamage:
            damaged += 1
    print(damaged)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_forged_footers_are_damage_or_read_and_nothing_else(seed: int) -> None:
    assert int(run_python(HOSTILE_FOOTERS, TESTS, seed, timeout=300).stdout) > 500


# ---------------------------------------------------------------------------------------------- other readers


def test_polars_pyarrow_and_pandas_read_a_segment(tmp_path: Path) -> None:
    points = [{**point, "n": {str(at): at}} for at, point in enumerate(sample(3))]
    path = tmp_path / "000000000005-000000000008.parquet"
    path.write_bytes(segment_of(points, 5))
    plain = pq.read_table(path)
    assert plain.equals(open_segment(path.read_bytes()).read())
    frame = pl.read_parquet(path)
    assert frame.columns == plain.column_names
    assert frame["_index"].to_list() == [5, 6, 7]
    assert frame["loss"].to_list() == [0.5, 1.5, 2.5]
    assert frame["q"].to_list() == [[0.0, 2.0], [1.0, 2.0], [2.0, 2.0]]
    assert frame["j"].to_list() == ['[1,"a"]'] * 3
    assert frame["name"].to_list() == ["run-0", "run-1", "run-2"]
    assert frame["t"].to_list() == [datetime(2025, 12, 31, 22, tzinfo=timezone.utc)] * 3  # noqa: UP017
    assert frame["s"].to_list() == [{"k": 0}, {"k": 1}, {"k": 2}]
    assert frame["b"].to_list() == [b"ab"] * 3
    assert pl.scan_parquet(path).filter(pl.col("step") > 1).select("loss").collect()["loss"].to_list() == [2.5]
    assert plain.to_pandas()["loss"].tolist() == [0.5, 1.5, 2.5]


def test_duckdb_reads_a_segment(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "s.parquet"
    path.write_bytes(segment_of(sample(3)))
    rows = duckdb.sql(f"select _index, loss, name, q, j->>1, s.k, b from '{path}' order by _index").fetchall()
    assert rows[1] == (1, 1.5, "run-1", [1.0, 2.0], "a", 1, b"ab")


def test_statistics_and_encodings_are_as_the_format_says() -> None:
    metadata = open_segment(segment_of(sample())).footer.metadata
    columns = {metadata.row_group(0).column(at).path_in_schema: metadata.row_group(0).column(at) for at in range(12)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert "DELTA_BINARY_PACKED" in columns["_index"].encodings
    assert "DELTA_BINARY_PACKED" in columns["t"].encodings
    assert "DELTA_BINARY_PACKED" in columns["s.k"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["_ts"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["q.list.element"].encodings
    assert columns["name"].has_dictionary_page
    assert not columns["j"].has_dictionary_page
    assert (columns["_ts"].statistics.min, columns["_ts"].statistics.max) == (1.0, 12.0)


def test_a_column_whose_type_is_not_the_schemas_is_damage() -> None:
    """The bound of memory rests on it: text in a dictionary counts for each row that repeats it."""
    data = large_json_dictionary()
    # The last column's own metadata: type BYTE_ARRAY (6), then its encodings.
    at = data.rindex(b"\x15\x0c\x19", 0, -8)
    with pytest.raises(SegmentDamage, match="no Parquet metadata"):
        open_segment(signed(data[: at + 1] + b"\x08" + data[at + 2 :]))


def test_a_part_of_a_batch_counts_for_what_it_holds() -> None:
    """As a reader counts it: whatever lies before it in the same memory."""
    points = [{"x": [0.5] * 7, "y": [["a"], []], "n": i, "_ts": float(i)} for i in range(100)]
    whole = batch_from_points(points)
    for start, stop in ((0, 100), (40, 90), (99, 100), (50, 50)):
        expected = segment.decoded_size(batch_from_points(points[start:stop])) if stop > start else 0
        assert segment.decoded_size(whole.slice(start, stop)) == expected
