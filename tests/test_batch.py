"""Batches of every form give the points of single appends: whole or not at all, in order, with their indices."""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model import Time, points_of, spy_on, without_ts
from support import shown
from values import same

import dreamlake.engine.roll as roll
from dreamlake import Session
from dreamlake.clock import SessionClock
from dreamlake.engine.batch import _stamps as stamps_of
from dreamlake.errors import PointsDroppedError
from dreamlake.track import Track

HOUR = 3600.0
MAKE: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "dicts": lambda columns: [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    "tuple of dicts": lambda columns: tuple(MAKE["dicts"](columns)),
    "generator of dicts": lambda columns: (row for row in MAKE["dicts"](columns)),
    "columns": lambda columns: columns,
    "arrays": lambda columns: {name: np.array(column) for name, column in columns.items()},
    "series": lambda columns: {name: pl.Series(column) for name, column in columns.items()},
    "polars": pl.DataFrame,
    "pandas": pd.DataFrame,
    "arrow table": pa.table,
    "arrow batch": pa.RecordBatch.from_pydict,
    "arrow chunks": lambda columns: pa.concat_tables([pa.table(columns).slice(0, 1), pa.table(columns).slice(1)]),
}
FRAMES = ["polars", "pandas", "arrow table", "arrow batch", "arrow chunks"]


@pytest.fixture
def session(lake_dir: Path) -> Iterator[Session]:
    with Session("s", "w", lake_dir, flush_interval=HOUR, segment_points=7) as session:
        yield session


def numbers(count: int) -> dict[str, list[Any]]:
    return {
        "value": [n / 2 for n in range(count)],
        "step": list(range(count)),
        "ok": [n % 2 == 0 for n in range(count)],
    }


# ------------------------------------------------------------------------------------------------ every form


@pytest.mark.parametrize("count", [1, 3, 7, 30])
@pytest.mark.parametrize("form", MAKE)
def test_every_form_gives_the_same_points(session: Session, form: str, count: int) -> None:
    columns = numbers(count)
    track = session.track("t").append(before=1)
    assert track.append_batch(MAKE[form](columns)) == {"count": count, "startIndex": 1, "endIndex": count + 1}
    points = points_of(track)
    assert without_ts(points) == [{"before": 1}, *MAKE["dicts"](columns)]
    assert all(same(got, given) for got, given in zip(without_ts(points)[1:], MAKE["dicts"](columns), strict=True))
    assert all(a["_ts"] < b["_ts"] for a, b in pairwise(points))
    track.append(after=1)
    assert points_of(track)[-1]["_ts"] > points[-1]["_ts"]


@pytest.mark.parametrize("stamps", [[5.0, 6.0, 7.0], [5.0, 5.0, 7.0], [7.0, 6.0, 5.0], [1.0, 9.0, 1.0], [3, 4, 5]])
@pytest.mark.parametrize("form", MAKE)
def test_explicit_timestamps_merge_as_single_appends_do(session: Session, form: str, stamps: list[Any]) -> None:
    batched, single = session.track("batched"), session.track("single")
    for track in (batched, single):
        track.append(old=1, _ts=1.0).append(old=7, _ts=7.0).flush()
        track.append(old=9, _ts=9.0)
    columns = {**numbers(3), "_ts": stamps}
    result = batched.append_batch(MAKE[form](columns))
    for row in MAKE["dicts"](columns):
        single.append(**row)
    assert points_of(batched) == points_of(single)
    touched = [n for n, point in enumerate(points_of(single)) if "value" in point]
    assert result == {"count": 3, "startIndex": min(touched), "endIndex": max(touched) + 1}


@pytest.mark.parametrize("first", [None, 1.5e9])
@pytest.mark.parametrize("minus_one", [-1, -1.0])
@pytest.mark.parametrize("form", [form for form in MAKE if form != "generator of dicts"])
def test_minus_one_takes_the_previous_row_s(session: Session, form: str, minus_one: float, first: float | None) -> None:
    spy_on(session, Time(1.75e9))
    if first is not None:
        session.track("other").append(x=1, _ts=first)
    elif minus_one == -1.0:
        session.track("other").append(x=1)
        first = points_of(session.track("other"))[0]["_ts"]
    stamps = [minus_one, minus_one, 1_000_000_005, minus_one, 1_000_000_003, minus_one]
    session.track("t").append_batch(MAKE[form]({"n": list(range(6)), "_ts": list(map(type(minus_one), stamps))}))
    points = points_of(session.track("t"))
    assert [(point["n"], point["_ts"]) for point in points] == [(1, first), (3, 1e9 + 5), (5, 1e9 + 3)]


@pytest.mark.parametrize("form", ["dicts", "columns", "polars", "arrow table"])
@pytest.mark.parametrize("stamps", [[-1.0], [-1.0, 1.6e9, 1.7e9], [-1, -1], [-1, 5, 6]])
def test_minus_one_is_never_a_time(session: Session, form: str, stamps: list[Any]) -> None:
    """Rising floats look like timestamps that need no look."""
    session.track("other").append(x=1, _ts=1.5e9)
    session.track("t").append_batch(MAKE[form]({"n": list(range(len(stamps))), "_ts": stamps}))
    assert -1.0 not in [point["_ts"] for point in points_of(session.track("t"))]
    assert points_of(session.track("t"))[0]["_ts"] == 1.5e9


@pytest.mark.parametrize("form", [form for form in MAKE if form != "generator of dicts"])
@pytest.mark.parametrize(
    "stamps", [[-5.0, -1.0, 3.0], [-2.0, -1.5, -1.0, -0.5, 0.0], [3.0, -1.0, -0.5], [-1.0, 0.0, 1.0], [0.0, -1.0]]
)
def test_minus_one_among_times_that_are_not_since_the_epoch_is_refused(
    session: Session, form: str, stamps: list[float]
) -> None:
    track = session.track("t").append(n=-1, _ts=1.5e9)
    with pytest.raises(ValueError, match=r"_ts=-1\.0 beside a point at -?[0-9.]+ may be a time"):
        track.append_batch(MAKE[form]({"n": list(range(len(stamps))), "_ts": stamps}))
    assert points_of(track) == [{"n": -1, "_ts": 1.5e9}]


@pytest.mark.parametrize("form", ["dicts", "columns", "polars", "arrow table"])
@pytest.mark.parametrize("before", [None, -2.0, 5.0])
def test_a_batch_that_begins_with_minus_one_asks_the_append_before(
    session: Session, form: str, before: float | None
) -> None:
    track = session.track("t")
    if before is not None:
        track.append(n=-1, _ts=before)
    with pytest.raises(ValueError, match=r"_ts=-1\.0 (with no append before it|beside a point at \S+) may be a time"):
        track.append_batch(MAKE[form]({"n": [0, 1], "_ts": [-1.0, 1.5e9]}))
    assert len(track) == (before is not None)


@pytest.mark.parametrize("form", ["dicts", "columns", "polars", "arrow table"])
def test_the_integer_minus_one_inherits_in_a_batch_of_small_times(session: Session, form: str) -> None:
    session.track("t").append_batch(MAKE[form]({"n": [0, 1, 2], "_ts": [-5, -1, 7]}))
    assert points_of(session.track("t")) == [{"n": 1, "_ts": -5.0}, {"n": 2, "_ts": 7.0}]


@pytest.mark.parametrize("form", ["dicts", "columns", "polars", "arrow table"])
def test_a_row_without_a_timestamp_gets_one_of_its_own(session: Session, form: str) -> None:
    spy_on(session, Time(1.75e9))
    session.track("t").append_batch(MAKE[form]({"n": [0, 1, 2, 3], "_ts": [1.5e9, None, -1.0, None]}))
    points = points_of(session.track("t"))
    assert [point["n"] for point in points] == [0, 2, 3]
    assert points[0]["_ts"] == 1.5e9
    assert points[1]["_ts"] == 1.75e9
    assert points[2]["_ts"] > 1.75e9


@pytest.mark.parametrize("form", FRAMES)
def test_in_a_frame_null_is_absent_and_nan_stays(session: Session, form: str) -> None:
    columns = {"a": [float("nan"), 1.0, 2.0], "b": [None, "x", None]}
    session.track("t").append_batch(MAKE[form](columns))
    points = without_ts(points_of(session.track("t")))
    assert same(points, [{"a": float("nan")}, {"a": 1.0, "b": "x"}, {"a": 2.0}])


@pytest.mark.parametrize("form", ["dicts", "columns"])
def test_in_python_values_none_is_explicit(session: Session, form: str) -> None:
    session.track("t").append_batch(MAKE[form]({"a": [None, 1], "b": [None, None]}))
    assert without_ts(points_of(session.track("t"))) == [{"a": None, "b": None}, {"a": 1, "b": None}]


@pytest.mark.parametrize(
    "values",
    [
        ["a", "", "漢字", "\x00"],
        [[1.0], [], [2.0, float("nan")], [3.0]],
        [{"k": 1}, {"k": 2}, {"k": 3}, {"k": 4}],
        [{"k": 1}, {}, {"other": [1]}, {"k": "x"}],
        [1, "a", None, 2.5],
        [2**70, -1, 0, 2**53 + 1],
        [b"", b"\x00\xff", b"a", b"b"],
        [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 5, 6, UTC)] * 2,
        [np.float32(0.5), np.int8(3), np.bool_(True), np.str_("s")],
        [True, 1, 1.5, False],
    ],
    ids=shown,
)
def test_values_of_any_kind_come_as_from_single_appends(session: Session, values: list[Any]) -> None:
    single, dicts, columns = (session.track(name) for name in ("single", "dicts", "columns"))
    for value in values:
        single.append(x=value)
    dicts.append_batch([{"x": value} for value in values])
    columns.append_batch({"x": values})
    expected = without_ts(points_of(single))
    assert same(without_ts(points_of(dicts)), expected)
    assert same(without_ts(points_of(columns)), expected)


def test_rows_of_many_shapes(session: Session) -> None:
    rows = [{"a": 1}, {}, {"b": [1], "a": None}, {"c": {"d": 1}, "_ts": 5.0}, {"_ts": 6.0}, {"b": [1], "a": 2}] * 4
    assert session.track("t").append_batch(rows) == {"count": 24, "startIndex": 0, "endIndex": 18}
    assert len(points_of(session.track("t"))) == 18


@pytest.mark.parametrize("empty", [[], (), {}, {"a": []}, pl.DataFrame(), pl.DataFrame({"a": []}), pa.table({})])
def test_an_empty_batch_appends_nothing(session: Session, empty: Any) -> None:
    assert session.track("t").append_batch(empty) == {"count": 0, "startIndex": None, "endIndex": None}
    assert session.tracks.list() == []


def test_rows_without_fields(session: Session) -> None:
    track = session.track("t")
    assert track.append_batch([{}] * 9)["endIndex"] == 9
    assert track.append_batch([{"_ts": float(n)} for n in range(9)])["endIndex"] == 18
    assert track.append_batch({"_ts": [20.0, 21.0]})["endIndex"] == 20
    assert track.append_batch(pl.DataFrame({"_ts": [30.0]}))["endIndex"] == 21
    assert without_ts(points_of(track)) == [{}] * 21


# ------------------------------------------------------------------------------------------------ whole or not at all


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (5, TypeError, "list of dicts, a dict of columns, or a Polars, pandas or Arrow frame, not int"),
        ("abc", TypeError, "not str"),
        (b"abc", TypeError, "not bytes"),
        (None, TypeError, "not NoneType"),
        ([1], TypeError, "row 0 of the batch is a int, not a dict"),
        ([{"a": 1}, None], TypeError, "row 1 of the batch is a NoneType"),
        ([{"a": 1}, {"a": object()}], TypeError, "row 1 of the batch: field 'a'"),
        ([{"a": 1}, {"b": "\ud800"}], ValueError, "row 1 of the batch: field 'b'.*surrogate"),
        ([{"a": 1}, {5: 1}], TypeError, "field name is a string, not int"),
        ([{5: 1}], TypeError, "field name is a string, not int"),
        ({"a": [1], "b": [1, 2]}, ValueError, "differ in length: 'a' has 1, 'b' has 2"),
        ({"a": 5}, TypeError, "column 'a' is a int"),
        ({"a": "abc"}, TypeError, "column 'a' is a str"),
        ({5: [1]}, TypeError, "field name is a string, not int"),
        ({"a": [1, object()]}, TypeError, "field 'a'"),
        (pl.DataFrame({"_x": [1]}), ValueError, "'_x' is reserved"),
        (pl.DataFrame({"a": [1]}).lazy(), TypeError, "LazyFrame"),
        (pl.DataFrame({"_ts": ["x"]}), TypeError, "_ts"),
        (pl.DataFrame({"_ts": [1.0, float("nan")]}), ValueError, "'_ts' holds NaN or an infinity"),
        (pl.DataFrame({"a": [datetime(2026, 1, 1).date()]}), TypeError, "'a'"),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), ValueError, "there twice: 'a'"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else shown(value),
)
def test_a_batch_that_cannot_be_stored_leaves_nothing(
    session: Session, batch: Any, error: type[Exception], message: str
) -> None:
    track = session.track("t").append(a=0)
    with pytest.raises(error, match=message):
        track.append_batch(batch)
    assert without_ts(points_of(track)) == [{"a": 0}]


# ------------------------------------------------------------------------------------------------ order and flushing


def test_a_batch_stands_behind_earlier_appends_and_is_flushed(session: Session, lake_dir: Path) -> None:
    track = session.track("t")
    for n in range(3):
        track.append(n=n)
    assert track.append_batch([{"n": 3}])["startIndex"] == 3
    assert (lake_dir / "w" / "s" / "tracks" / "t" / "data.jsonl").read_bytes().count(b"\n") == 4
    track.append_batch(pl.DataFrame({"n": range(4, 40)}))
    segments = sorted(path.name for path in (lake_dir / "w" / "s" / "tracks" / "t").glob("*.parquet"))
    assert len(segments) == 5
    assert [point["n"] for point in points_of(track)] == list(range(40))


def test_a_batch_on_a_dead_disk_stays_pending(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    track = session.track("t")

    def dead(*_: Any) -> int:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "dreamlake"):
        patch.setattr("dreamlake.storage.local.append_at", dead)
        assert track.append_batch([{"n": 0}, {"n": 1}]) == {"count": 2, "startIndex": None, "endIndex": None}
        assert track.append_batch(pl.DataFrame({"n": [2]})) == {"count": 1, "startIndex": None, "endIndex": None}
        with pytest.raises(OSError, match="input/output"):
            track.flush()
    assert "2 points for 't' stays pending" in caplog.text
    assert track.append_batch({"n": [3]}) == {"count": 1, "startIndex": 3, "endIndex": 4}
    assert [point["n"] for point in points_of(track)] == [0, 1, 2, 3]


@pytest.mark.parametrize("dead", [False, True], ids=["written", "on a dead disk at first"])
def test_a_frame_s_memory_may_be_filled_again(session: Session, monkeypatch: pytest.MonkeyPatch, dead: bool) -> None:
    """The next batch often comes in the same memory; a segment of hot points is made of what is kept of them."""
    track = session.track("t")
    data = np.zeros(3)

    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        if dead:
            patch.setattr("dreamlake.storage.local.append_at", fail)
        for number in range(2):
            data[:] = number
            track.append_batch(pl.DataFrame({"n": data}))
    data[:] = 2
    track.append_batch(pl.DataFrame({"n": data}))
    data[:] = 3
    track.append_batch(pl.DataFrame({"n": data}))
    assert [point["n"] for point in points_of(track)] == [n for n in range(4) for _ in range(3)]


def test_a_batch_does_not_swallow_that_points_were_dropped(session: Session) -> None:
    track = session.track("t")
    with session.writer.lock:
        session.writer.count_dropped(5)
    track.append_batch([{"n": 0}])
    with pytest.raises(PointsDroppedError, match="5 points") as caught:
        session.flush()
    assert caught.value.dropped == 5


def test_the_indices_are_told_though_another_thread_had_a_part_rolled(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole segments go to disk as soon as they are there; what is left is written a moment later."""
    writer = session.writer
    track = session.track("t").append(n=-1)
    session.flush()
    wake = writer.wake

    def wake_and_roll() -> None:
        wake()
        monkeypatch.setattr(writer, "wake", wake)
        writer.call(writer._roll_full_tracks)

    monkeypatch.setattr(writer, "wake", wake_and_roll)
    assert track.append_batch([{"n": n} for n in range(10)]) == {"count": 10, "startIndex": 1, "endIndex": 11}
    assert [point["n"] for point in points_of(track)] == list(range(-1, 10))


@pytest.mark.parametrize("now", [0.0, 1.5e9 + 1 / 3, 2.0**31 - 0.001, 1e12 + 0.25])
@pytest.mark.parametrize("count", [1, 2, 999])
def test_the_timestamps_of_a_batch_end_where_the_clock_stands(now: float, count: int) -> None:
    clock = SessionClock(lambda: now)
    start, tick = clock.reserve(count)
    for arrow in (False, True):
        stamps = list(stamps_of(start, tick, count, arrow))
        stamps = [value if isinstance(value, float) else value.as_py() for value in stamps]
        assert stamps == [start + i * tick for i in range(count)]
        assert stamps[-1] == clock.last
        assert all(a < b for a, b in pairwise(stamps))


# ------------------------------------------------------------------------------------------------ many points at once


def widths(track: Track) -> list[int]:
    """Points of each segment, then of the hot file."""
    ends = [int(Path(file).stem.partition("-")[2]) for file in track.files() if file.endswith(".parquet")]
    return [stop - start for start, stop in pairwise([0, *ends])] + [len(track) - max(ends, default=0)]


def test_many_points_at_once_become_wide_segments_as_a_merge_makes_them(lake_dir: Path) -> None:
    with Session("wide", "w", lake_dir, flush_interval=HOUR) as session:
        track = session.track("t").append(step=-1)
        track.flush()  # a hot point is among those of the first segment
        track.append(step=-1)
        track.append_batch({"step": range(230_003)})
        assert widths(track) == [100_000, 100_000, 10_000, 10_000, 10_000, 5]
        about = pq.read_metadata(track.files()[0])
        assert {about.row_group(group).num_rows for group in range(about.num_row_groups)} == {10_000}
        assert [p["data"]["step"] for p in track.read(99_990, 20)["data"]] == list(range(99_988, 100_008))
        assert track.to_polars()["step"].to_list() == [-1, -1, *range(230_003)]
        track.append_batch([{"step": 5, "_ts": track.read(7, 1)["data"][0]["data"]["_ts"], "late": 1}])
        assert track.read(7, 1)["data"][0]["data"]["late"] == 1


def test_points_that_are_large_become_segments_that_memory_holds(
    lake_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll, "SEGMENT_BYTES", 35_000 * 16)
    with Session("large", "w", lake_dir, flush_interval=HOUR) as session:
        assert session.track("t").append_batch({"step": range(100_000)})["count"] == 100_000
        assert widths(session.track("t")) == [30_000, 30_000, 30_000, 10_000, 0]
        monkeypatch.setattr(roll, "SEGMENT_BYTES", 4_000 * 16)
        session.track("t").append_batch({"step": range(10_000)})
        assert widths(session.track("t")) == [30_000, 30_000, 30_000, 10_000, 4_000, 4_000, 2_000]


@pytest.mark.parametrize("asked", [50, 9_999])
def test_whoever_asked_for_short_segments_gets_them(lake_dir: Path, asked: int) -> None:
    with Session("short", "w", lake_dir, flush_interval=HOUR, segment_points=asked) as session:
        session.track("t").append_batch({"step": range(12 * asked)})
        assert widths(session.track("t")) == [asked] * 12 + [0]


def test_threads_that_write_segments_side_by_side_do_not_mix_their_files(lake_dir: Path) -> None:
    """Two of them are held where each has written its file and is about to say which one it was."""
    both = threading.Barrier(2)
    code = next(
        const
        for const in roll.write_all.__code__.co_consts
        if isinstance(const, CodeType) and const.co_name == "write_beside"
    )
    last = max(line for _, _, line in code.co_lines() if line is not None)

    def hold(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code is not code:
            return None
        if event == "line" and frame.f_lineno == last:
            with suppress(threading.BrokenBarrierError):
                both.wait(timeout=5)
        return hold

    threading.settrace(hold)
    try:
        with Session("s", "w", lake_dir, flush_interval=HOUR, segment_points=10) as session:
            session.track("t").append_batch({"x": list(range(40))})
            assert session.track("t").to_polars()["x"].to_list() == list(range(40))
    finally:
        threading.settrace(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["append", "append beside a text", "dicts", "NumPy's too", "dicts of dicts"])
def test_long_integers_are_in_the_hot_file_as_every_reader_can_read_them(session: Session, form: str) -> None:
    values = [2**3000, -(2**3000), 2**2120, 7, 2**1024]
    track = session.track("t")
    if form.startswith("append"):
        for value in values:
            track.append(x=value, **({"text": "a", "list": [value, -value]} if "text" in form else {}))
    elif form == "dicts of dicts":
        track.append_batch([{"x": {"y": [value]}} for value in values])
    else:
        track.append_batch([{"x": np.int64(value) if value == 7 and "NumPy" in form else value} for value in values])
    session.flush()
    assert session.path is not None
    (hot,) = Path(session.path).rglob("data.jsonl")
    for line in hot.read_text().splitlines():
        assert not re.search(r"[0-9]{639}", re.sub(r'"-?0x[0-9a-f]+"', "", line))
    assert f'{{"$numberInt":"{hex(2**3000)}"}}' in hot.read_text()
    got = [point["x"] for point in points_of(track)]
    assert [x["y"][0] if isinstance(x, dict) else x for x in got] == values


@pytest.mark.parametrize(
    "row",
    [
        {"x": 1 << 9_000_000},
        {f"f{number}": 1.5 for number in range(100_000)},
        {"n" * 200 + str(number): None for number in range(6000)},
        {"text": "a" * 600_000, "more": "b" * 600_000},
        {"text": "a" * 1_000_000, "n" * 100_000: 1},
    ],
    ids=["an integer", "fields", "names", "texts", "a text and a name"],
)
def test_a_point_has_a_largest_size_in_a_batch_too(session: Session, row: dict[str, Any]) -> None:
    track = session.track("t")
    (name, value), *_ = row.items()
    for rows in ([row, row], [row, {**row, name: -value if type(value) is int else 7}], [{**row, name: None}, row]):
        with pytest.raises(ValueError, match=r"row [01] of the batch: .* more than 1 MB"):
            track.append_batch(rows)
    with pytest.raises(ValueError, match="more than 1 MB"):
        track.append(**row)
    assert not session.tracks.list()


def test_large_points_below_the_largest_size_are_taken(session: Session) -> None:
    track = session.track("t")
    rows = [
        {"x": [1 << 1_500_000, -(1 << 1_500_000)], "y": None},
        {"x": "a" * 1_000_000, "y": 1 << 1000},
        {"x": 1 << 3_300_000, "y": 3},
    ]
    track.append_batch(rows)
    for row in rows:
        track.append_batch([row, row])
    assert without_ts(points_of(track)) == [*rows, *(row for row in rows for _ in range(2))]
