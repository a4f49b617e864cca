"""Disks that are full, dead, read-only or damaged: the loop goes on, flush says so, and nothing is lost or doubled."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import crashlib
import polars as pl
import pyarrow.parquet as pq
import pytest
from crashlib import session, track_folder
from support import Faulty, python_environment, run_python

import dreamlake.storage.local as local
import dreamlake.storage.lock as lock
from dreamlake import Lake, Session
from dreamlake.errors import CorruptTrackError, PointsDroppedError

EIO = OSError(errno.EIO, "Input/output error")
ENOSPC = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """The disk, with calls that can be made to fail."""
    disk = Faulty(os)
    monkeypatch.setattr(local, "os_", disk)
    monkeypatch.setattr(lock, "os_", disk)
    return disk


@pytest.fixture
def opened(lake_dir: Path) -> Iterator[Session]:
    """An open session that flushes when told to."""
    with session(lake_dir) as it:
        yield it


def dead(
    disk: Faulty, name: str = "pwrite", ending: str = ".jsonl", error: OSError = ENOSPC, always: bool = True
) -> None:
    """Let a call fail on the files of this ending: a full disk takes what replaces the content of a file in place."""
    real = getattr(os, name)
    failed = []

    def call(fd: int, *args: Any) -> Any:
        path = fd if isinstance(fd, str) else os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith(ending) and (always or not failed):
            failed.append(True)
            raise error
        return real(fd, *args)

    disk.fail(name, call, always=True)


def heal(disk: Faulty) -> None:
    """Let everything work again."""
    disk._plans.clear()


def stored(root: Path, track: str = crashlib.TRACK) -> list[dict[str, Any]]:
    """The points of a track as a reader finds them, without their automatic timestamps."""
    data = Lake(root).session(crashlib.NAME, crashlib.WORKSPACE).track(track).read(limit=None)["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    return [{k: v for k, v in row["data"].items() if k != "_ts"} for row in data]


def numbers(root: Path, field: str = "i", track: str = crashlib.TRACK) -> list[Any]:
    """One field of all points."""
    return [point.get(field) for point in stored(root, track)]


# -- every disk call fails once, or is the last that works ---------------------------------------------------------


@pytest.mark.parametrize("scene", list(crashlib.SCENES))
def test_a_failing_call_costs_nothing(memory_path: Path, scene: str) -> None:
    crashlib.run_sweeps("crashlib", memory_path, scene, ["fail", "fail half", "dead"])


NAMES = ("a/b", "c", "d e")
CALLS = ("open", "pwrite", "fsync", "ftruncate", "link", "replace", "rename", "unlink", "mkdir", "close")


@pytest.mark.parametrize(
    ("code", "fsync"),
    [("ENOSPC", False), ("ENOSPC", True), ("EIO", True), ("EROFS", False), ("EMFILE", True), ("EDQUOT", False)],
)
def test_no_call_that_goes_on_failing_stops_the_loop_or_costs_anything(
    memory_path: Path, faulty: Faulty, monkeypatch: pytest.MonkeyPatch, fsync: bool, code: str
) -> None:
    """Several tracks, rolls, late fields, the log, parameters and descriptions; each call fails for a while."""
    monkeypatch.setattr("dreamlake.engine.logfile.FILE_LINES", 5)
    error = OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
    count, failures = 0, 0
    parameters: dict[str, int] = {}
    with session(memory_path, fsync=fsync, flush_interval=0.005) as opened:
        for turn, call in enumerate([*CALLS, None, *reversed(CALLS)]):
            if call is not None:
                faulty.fail(call, _closing(error) if call == "close" else error, always=True)
            name = f"new {turn}"
            for _ in range(13):  # never raises, though the background flushes meanwhile
                for track in (*NAMES, name):
                    opened.track(track, metadata={f"turn{turn}": turn}).append(i=count, _ts=float(count))
                    opened.track(track).append(late=count - 20, _ts=float(count - 20)) if count > 20 else None
                count += 1
            opened.log(f"message {turn}")
            try:
                opened.parameters().set(**{f"p{turn}": turn})
            except OSError:
                failures += 1
                heal(faulty)
                opened.parameters().set(**{f"p{turn}": turn})
                faulty.fail(call, error, always=True) if call not in (None, "close") else None
            parameters[f"p{turn}"] = turn
            try:
                opened.flush()
            except OSError:
                failures += 1
            heal(faulty)
            opened.flush()
            for track in NAMES:
                assert numbers(memory_path, track=track) == list(range(count)), (call, track)
    assert failures > 4
    run = Lake(memory_path).session(crashlib.NAME, crashlib.WORKSPACE)
    for track in NAMES:
        assert numbers(memory_path, "late", track)[1 : count - 20] == list(range(1, count - 20))
        assert run.track(track).stats()["metadata"] == {f"turn{turn}": turn for turn in range(2 * len(CALLS) + 1)}
    assert run.parameters().get() == parameters
    assert run.logs()["message"].to_list() == [f"message {turn}" for turn in range(2 * len(CALLS) + 1)]


def _closing(error: OSError) -> Callable[[int], None]:
    def close(fd: int) -> None:
        os.close(fd)
        raise error

    return close


# -- bytes that were written, and the ones that were not -----------------------------------------------------------


def short(keep: Callable[[bytes], int], error: OSError) -> Callable[..., Any]:
    """A pwrite that takes some bytes; the next call for the rest fails."""
    failing = []

    def pwrite(fd: int, data: Any, offset: int) -> int:
        part = bytes(data)[: keep(bytes(data))]
        if failing or not part:
            raise error
        failing.append(True)
        return os.pwrite(fd, part, offset)

    return pwrite


@pytest.mark.parametrize("lines", [0, 1, 2, 3])
@pytest.mark.parametrize("extra", [0, 9])
def test_whole_lines_of_a_short_write_stay(
    lake_dir: Path, opened: Session, faulty: Faulty, lines: int, extra: int
) -> None:
    track = opened.track(crashlib.TRACK)
    track.append(i=0)
    track.flush()
    before = (track_folder(lake_dir) / "data.jsonl").stat().st_size

    def keep(data: bytes) -> int:
        return sum(len(line) for line in data.splitlines(keepends=True)[:lines]) + extra

    for i in range(1, 5):
        track.append(i=i)
    partial = short(keep, ENOSPC)
    calls = faulty.calls.count("pwrite")
    faulty.fail("pwrite", partial, when=2, always=True)  # the first is that of the lock
    with pytest.raises(OSError, match="No space"):
        track.flush()
    assert faulty.calls.count("pwrite") > calls + 1
    assert numbers(lake_dir) == list(range(1 + lines))
    left = (track_folder(lake_dir) / "data.jsonl").read_bytes()
    assert left.endswith(b"\n")
    assert len(left) >= before
    heal(faulty)
    track.append(i=5)
    track.flush()
    assert numbers(lake_dir) == list(range(6))


def test_after_a_failed_fsync_the_rows_are_written_to_a_new_file(lake_dir: Path, faulty: Faulty) -> None:
    with session(lake_dir, fsync=True) as opened:
        track = opened.track(crashlib.TRACK)
        track.append(i=0)
        track.flush()
        path = track_folder(lake_dir) / "data.jsonl"
        with path.open("rb") as old:
            track.append(i=1)
            faulty.fail("fsync", EIO)
            with pytest.raises(OSError, match="Input/output"):
                track.flush()
            track.flush()  # has nothing pending, and yet something to do
            assert not os.path.samestat(os.fstat(old.fileno()), path.stat())
        assert numbers(lake_dir) == [0, 1]
        track.append(i=2)
    assert numbers(lake_dir) == [0, 1, 2]


def test_a_failed_fsync_is_not_forgotten_when_another_process_rolls(lake_dir: Path, faulty: Faulty) -> None:
    with session(lake_dir, fsync=True) as opened:
        track = opened.track(crashlib.TRACK)
        track.append(i=0)
        dead(faulty, "fsync", "data.jsonl", EIO)
        with pytest.raises(OSError, match="Input/output"):
            track.flush()
        heal(faulty)
        path = track_folder(lake_dir) / "data.jsonl"
        with path.open("rb") as old:
            # Another process rolls another track of the session: everything is read again.
            run_python(
                "import crashlib, sys\nwith crashlib.session(sys.argv[1]) as s:\n"
                "    s.track('other').append_batch([{'i': i} for i in range(25)])",
                lake_dir,
                PYTHONPATH=crashlib.PATH,
            )
            track.append(i=1)
            track.flush()
            assert not os.path.samestat(os.fstat(old.fileno()), path.stat()), "the rows are in the file that failed"
    assert numbers(lake_dir) == [0, 1]


def test_log_records_of_a_short_write_are_not_doubled(lake_dir: Path, opened: Session, faulty: Faulty) -> None:
    for i in range(4):
        opened.log(f"m{i}")
    partial = short(lambda data: data.index(b"\n", data.index(b"\n") + 1) + 5, ENOSPC)
    faulty.fail("pwrite", partial, when=2, always=True)
    with pytest.raises(OSError, match="No space"):
        opened.flush()
    heal(faulty)
    opened.flush()
    lines = (Path(opened.path) / "logs" / "logs.jsonl").read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["m0", "m1", "m2", "m3"]
    assert [json.loads(line)["sequenceNumber"] for line in lines] == [0, 1, 2, 3]


def test_log_records_whose_fsync_failed_are_not_doubled(lake_dir: Path, faulty: Faulty) -> None:
    with session(lake_dir, fsync=True) as opened:
        opened.flush()
        opened.log("m0")
        opened.flush()
        opened.log("m1")
        faulty.fail("fsync", EIO)
        with pytest.raises(OSError, match="Input/output"):
            opened.flush()
        opened.log("m2")
        opened.flush()
        lines = (Path(opened.path) / "logs" / "logs.jsonl").read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["m0", "m1", "m2"]


# -- a disk that stays dead ----------------------------------------------------------------------------------------


def test_dropped_points_are_told_once_with_their_number(
    lake_dir: Path, faulty: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 1 << 20
    with session(lake_dir, max_pending_bytes=limit, segment_points=1_000_000) as opened:
        track = opened.track(crashlib.TRACK)
        track.append(i=-1)
        track.flush()
        dead(faulty)
        count = 60_000
        for i in range(count):
            track.append(i=i, value=i * 0.5)  # never raises
        with pytest.raises(OSError, match="No space"):
            track.flush()
        pending = track_pending(opened)
        assert pending.waiting_bytes() <= limit
        heal(faulty)
        track.append(i=count, value=0.0)
        with pytest.raises(PointsDroppedError) as caught:
            track.flush()
        track.flush()
        kept = numbers(lake_dir)
        assert caught.value.dropped == count + 2 - len(kept)
        assert str(caught.value.dropped) in str(caught.value)
        assert kept[0] == -1
        assert kept[-1] == count
        # The oldest are kept, in order, and at least what fits by the estimate of 32 bytes a value.
        assert kept[1:-1] == sorted(set(kept[1:-1]))
        assert kept[1:1000] == list(range(999))
        assert len(kept) > limit // (3 * 32) // 2
    assert caplog.records  # said while it happened, too
    (record,) = Lake(lake_dir).session(crashlib.NAME, crashlib.WORKSPACE).logs("error").rows(named=True)
    assert record["message"] == f"{caught.value.dropped} points were dropped, since disk and memory were full"
    assert json.loads(record["metadata"]) == {"points": caught.value.dropped}


def test_a_run_that_ends_with_the_news_of_dropped_points_has_failed(lake_dir: Path, faulty: Faulty) -> None:
    opened = session(lake_dir, max_pending_bytes=1 << 18, segment_points=1_000_000).open()
    track = opened.track(crashlib.TRACK)
    dead(faulty)
    for i in range(20_000):
        track.append(i=i)
    with pytest.raises(OSError, match="No space"):
        track.flush()
    heal(faulty)
    with pytest.raises(PointsDroppedError):
        opened.close()
    assert Lake(lake_dir).session(crashlib.NAME, crashlib.WORKSPACE).info["status"] == "failed"


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_what_the_loop_raised_is_told_beside_what_the_disk_said(lake_dir: Path, faulty: Faulty, call: str) -> None:
    opened = session(lake_dir)
    own = RuntimeError("the loop's own")

    def loop() -> None:
        with opened:
            opened.track(crashlib.TRACK).append(i=0)
            dead(faulty, call)
            raise own

    with pytest.raises(OSError, match="No space left") as caught:
        loop()
    assert caught.value.__context__ is own
    assert not caught.value.__suppress_context__
    heal(faulty)
    opened.close()
    assert numbers(lake_dir) == [0]


def track_pending(opened: Session) -> Any:
    """What is pending of the scenario's track."""
    return opened.writer.track(crashlib.TRACK).pending


@pytest.mark.parametrize("ending", [".jsonl", ""], ids=["data", "all"])
@pytest.mark.parametrize("shape", ["flat", "mixed", "batch"])
def test_large_values_count_in_what_is_pending(lake_dir: Path, faulty: Faulty, shape: str, ending: str) -> None:
    limit = 4 << 20
    with session(lake_dir, max_pending_bytes=limit, segment_points=1_000_000) as opened:
        track = opened.track(crashlib.TRACK)
        track.append(i=-1, text="")
        track.flush()
        dead(faulty, ending=ending)
        for i in range(2000):  # 20 MB
            extra = {"odd": 1} if shape == "mixed" and i % 2 else {}
            row = {"i": i, "text": f"{i:<10000}", **extra}
            if shape != "batch":
                track.append(**row)
            elif i % 50 == 49:
                track.append_batch([{"i": j, "text": f"{j:<10000}"} for j in range(i - 49, i + 1)])
            if i % 50 == 49:
                with pytest.raises(OSError, match="No space"):
                    track.flush()
        held = sum(_text_bytes(block) for block in crashlib.blocks(track_pending(opened)))
        assert held < 2 * limit
        assert held > limit // 4
        heal(faulty)
        with pytest.raises(PointsDroppedError) as caught:
            opened.flush()
        kept = numbers(lake_dir)
        assert len(kept) + caught.value.dropped == 2001
        assert kept[1:100] == list(range(99))


def _text_bytes(block: Any) -> int:
    rows = block.encode()
    points = [fields for _, _, fields in block.rows or []] if rows is None else rows.points()
    return sum(len(point.get("text", "")) for point in points)


def test_merging_on_a_dead_disk_drops_only_what_is_too_much(lake_dir: Path, faulty: Faulty) -> None:
    limit = 1 << 20
    with session(lake_dir, max_pending_bytes=limit, segment_points=1_000_000) as opened:
        track = opened.track(crashlib.TRACK)
        track.append(i=-1, _ts=1.0)
        track.flush()
        dead(faulty)
        for i in range(12_000):
            track.append(i=i, _ts=10.0 + i)
            track.append(more=i, _ts=10.0 + i)
            if i % 500 == 499:
                with pytest.raises(OSError, match="No space"):
                    track.flush()
        heal(faulty)
        with pytest.raises(PointsDroppedError):
            track.flush()
        kept = numbers(lake_dir)
        assert len(kept) > 1000, "nearly everything was dropped, where a little was too much"


def test_batches_stay_bounded_where_not_even_the_lock_can_be_had(lake_dir: Path, faulty: Faulty) -> None:
    limit = 1 << 20
    with session(lake_dir, max_pending_bytes=limit, segment_points=1_000_000) as opened:
        track = opened.track(crashlib.TRACK)
        track.append(i=-1)
        track.flush()
        faulty.fail("open", OSError(errno.EROFS, "Read-only file system"), always=True)
        for start in range(0, 100_000, 2000):
            result = track.append_batch([{"i": i} for i in range(start, start + 2000)])
            assert result == {"count": 2000, "startIndex": None, "endIndex": None}
        assert track_pending(opened).waiting_bytes() <= limit
        heal(faulty)
        with pytest.raises(PointsDroppedError) as caught:
            track.flush()
        assert len(numbers(lake_dir)) + caught.value.dropped == 100_001


def test_a_batch_does_not_swallow_the_news_of_dropped_points(lake_dir: Path, faulty: Faulty) -> None:
    with session(lake_dir, max_pending_bytes=1 << 18, segment_points=1_000_000) as opened:
        track = opened.track(crashlib.TRACK)
        dead(faulty)
        for i in range(20_000):
            track.append(i=i)
        with pytest.raises(OSError, match="No space"):
            track.flush()
        heal(faulty)
        told = 0
        try:
            result = track.append_batch([{"i": -2}])
            assert result["startIndex"] is not None, "the batch was written, and says that it was not"
        except PointsDroppedError as error:
            told = error.dropped
        if not told:
            with pytest.raises(PointsDroppedError) as caught:
                track.flush()
            told = caught.value.dropped
        assert told + len(numbers(lake_dir)) == 20_001


def test_a_batch_on_a_dead_disk_stays_pending_without_indices(lake_dir: Path, opened: Session, faulty: Faulty) -> None:
    track = opened.track(crashlib.TRACK)
    track.append(i=0)
    track.flush()
    dead(faulty, ending="")
    rows = [{"i": i} for i in range(1, 35)]
    assert track.append_batch(rows) == {"count": 34, "startIndex": None, "endIndex": None}
    assert numbers(lake_dir) == [0]
    with pytest.raises(OSError, match="No space"):
        track.read()
    heal(faulty)
    assert track.append_batch([{"i": 35}]) == {"count": 1, "startIndex": 35, "endIndex": 36}
    assert numbers(lake_dir) == list(range(36))


def test_a_batch_that_the_background_wrote_half_of_knows_its_indices(lake_dir: Path) -> None:
    with session(lake_dir, segment_points=3000) as opened:
        track = opened.track(crashlib.TRACK)
        track.append(i=0)
        track.flush()
        gate = threading.Event()
        held = threading.Thread(target=opened.writer.call, args=(gate.wait,))
        held.start()
        results: list[Any] = []
        try:
            for i in range(1, 4097):  # two blocks, enough for a segment: the thread is asked to roll
                track.append(i=i)
            rows = [{"i": i} for i in range(4097, 6200)]
            batch = threading.Thread(target=lambda: results.append(track.append_batch(rows)))
            batch.start()
            crashlib.wait_for(lambda: track_pending(opened).open.before.count == len(rows))
        finally:
            gate.set()
            held.join()
        batch.join()
        assert numbers(lake_dir) == list(range(6200))
        assert results == [{"count": len(rows), "startIndex": 4097, "endIndex": 6200}]


# -- damage --------------------------------------------------------------------------------------------------------


def test_a_disk_with_room_for_some_segments_gets_these(lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many points at once are tried as wide segments, several of them; where that fails, as usual ones, one by one."""
    count, tried = 250_000, []
    room = [0]
    write_beside = local.write_beside

    def limited(path: str, data: Any, freed: Any) -> str:
        tried.append((Path(path).name, len(data)))
        if room[0] < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        room[0] -= len(data)
        return write_beside(path, data, freed)

    monkeypatch.setattr(local, "write_beside", limited)
    with session(lake_dir, segment_points=10_000) as opened:
        track = opened.track(crashlib.TRACK)
        track.append_batch(pl.DataFrame({"i": range(count)}))
        assert "000000000000-000000100000.parquet" in dict(tried)
        tried.clear()
        with pytest.raises(OSError, match="No space left"):
            track.flush()
        ((name, size),) = tried
        assert name == "000000000000-000000010000.parquet"
        room[0] = 3 * size
        with pytest.raises(OSError, match="No space left"):
            track.flush()
        found = numbers(lake_dir)
        assert found == list(range(len(found)))
        assert 10_000 <= len(found) <= 50_000
        room[0] = 1 << 30
        track.flush()
        assert numbers(lake_dir) == list(range(count))
        track.append_batch(pl.DataFrame({"i": range(count, 2 * count)}))
    assert numbers(lake_dir) == list(range(2 * count))
    widths = [path.stat().st_size for path in track_folder(lake_dir).glob("*.parquet")]
    assert max(widths) > 5 * min(widths), "after a roll without trouble wide segments are written again"


def write_hot(root: Path, count: int) -> Path:
    """A finished session whose track has `count` hot points."""
    with session(root, segment_points=1000) as opened:
        for i in range(count):
            opened.track(crashlib.TRACK).append(i=i, text="é\n")
    return track_folder(root) / "data.jsonl"


def test_a_torn_tail_is_cut_at_any_byte(lake_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_hot(lake_dir, 3)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        caplog.clear()
        with session(lake_dir, segment_points=1000) as opened:
            track = opened.track(crashlib.TRACK)
            track.append(i=10)
            track.flush()
            assert path.read_bytes().startswith(whole[:last])
            assert numbers(lake_dir) == [0, 1, 10]
        assert [r for r in caplog.records if "torn" in r.message] or cut == last


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"x" + line[1:],
        lambda line: line.replace(b'"i"', b'"i'),
        lambda line: b"\0" * (len(line) - 1) + b"\n",
        lambda line: b"\n",
        lambda line: line.replace(b'"index":1', b'"index":7'),
        lambda line: line.replace(b'"index":1', b'"index":-1'),
    ],
    ids=["garbage", "quote", "zeros", "empty", "gap", "negative"],
)
def test_a_damaged_line_is_an_error_and_stays(lake_dir: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_hot(lake_dir, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    assert damage(lines[1]) != lines[1]
    path.write_bytes(lines[0] + damage(lines[1]) + lines[2])
    before = path.read_bytes()
    opened = session(lake_dir, segment_points=1000).open()
    opened.track(crashlib.TRACK).append(i=10)
    opened.track("other").append(i=1)
    with pytest.raises(CorruptTrackError, match=r"data\.jsonl"):
        opened.flush()
    assert path.read_bytes() == before
    assert numbers(lake_dir, track="other") == [1]  # one track's damage does not hold the others up
    path.write_bytes(b"".join(lines))  # repaired: the session goes on
    opened.close()
    assert numbers(lake_dir) == [0, 1, 2, 10]


@pytest.mark.parametrize("column", ["_ts", "i"])
def test_a_late_field_for_a_damaged_segment_does_not_hold_new_points_up(lake_dir: Path, column: str) -> None:
    with session(lake_dir) as opened:
        track = opened.track(crashlib.TRACK)
        for i in range(25):
            track.append(i=i, _ts=100.0 + i)
    path = next(iter(sorted(track_folder(lake_dir).glob("*.parquet"))))
    data = path.read_bytes()
    chunks = pq.ParquetFile(path).metadata.row_group(0)
    chunk = next(c for c in map(chunks.column, range(chunks.num_columns)) if c.path_in_schema == column)
    middle = chunk.data_page_offset + chunk.total_compressed_size - 3
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :])
    opened = session(lake_dir).open()
    try:
        track = opened.track(crashlib.TRACK)
        track.append(late=1, _ts=103.0)
        track.append(i=25)
        with pytest.raises(CorruptTrackError):
            track.flush()
        hot = (track_folder(lake_dir) / "data.jsonl").read_bytes()
        assert b'"i":25' in hot, "a new point waits for ever behind a late field for a damaged segment"
    finally:
        path.write_bytes(data)
        opened.close()
    assert numbers(lake_dir) == list(range(26))
    assert stored(lake_dir)[3]["late"] == 1


def test_a_torn_tail_that_cannot_be_cut_at_first(lake_dir: Path, faulty: Faulty) -> None:
    """Another process wrote and died in the middle of a line; cutting the torn bytes off fails once."""
    with session(lake_dir, segment_points=1000) as opened:
        track = opened.track(crashlib.TRACK)
        track.append(i=0)
        track.flush()
        run_python(
            "import crashlib, sys\nwith crashlib.session(sys.argv[1], segment_points=1000) as s:\n"
            "    s.track(crashlib.TRACK).append(i=1).append(i=2)",
            lake_dir,
            PYTHONPATH=crashlib.PATH,
        )
        with (track_folder(lake_dir) / "data.jsonl").open("ab") as file:
            file.write(b'{"index":3,"da')
        dead(faulty, "ftruncate", error=EIO, always=False)
        track.append(i=3)
        with pytest.raises(OSError, match="Input/output"):
            track.flush()
        track.flush()
        assert numbers(lake_dir) == [0, 1, 2, 3]


# -- the clock ----------------------------------------------------------------------------------------------------


def test_a_hot_file_that_somebody_else_added_to_without_a_lock_is_read_anew(lake_dir: Path) -> None:
    with session(lake_dir) as it:
        track = it.track(crashlib.TRACK).append(i=0)
        track.flush()
        with open(track_folder(lake_dir) / "data.jsonl", "ab") as file:
            file.write(b'{"index":1,"data":{"i":1,"_ts":1.0}}\n')
        track.append(i=2).flush()
        assert numbers(lake_dir) == [0, 1, 2]


def test_a_segment_that_somebody_put_there_is_learnt_of(lake_dir: Path, tmp_path: Path) -> None:
    """Somebody who keeps to no lock: the roll is refused, once, and the point goes behind what is there now."""
    with session(tmp_path / "other") as other:
        other.track(crashlib.TRACK).append_batch([{"i": i} for i in range(10)])
    with session(lake_dir) as it:
        track = it.track(crashlib.TRACK)
        track.append_batch([{"i": i} for i in range(9)])
        name = "000000000000-000000000010.parquet"
        shutil.copy(track_folder(tmp_path / "other") / name, track_folder(lake_dir) / name)
        track.append(i=10)
        with pytest.raises(FileExistsError):
            track.flush()
        track.flush()
    assert numbers(lake_dir) == list(range(11))


def test_a_torn_end_that_could_not_be_cut_off_is_nobody_elses_write(
    lake_dir: Path, faulty: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a flush reaches the file, and the file cannot be cut: the next flush does it, and blames nobody."""

    written: list[int] = []

    def half(fd: int, data: Any, offset: int) -> int:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith("data.jsonl"):
            return os.pwrite(fd, data, offset)
        if written:
            raise ENOSPC
        written.append(os.pwrite(fd, bytes(data)[:-7], offset))
        return written[0]

    with session(lake_dir) as it:
        track = it.track(crashlib.TRACK).append(i=0)
        track.flush()
        faulty.fail("pwrite", half, always=True)
        faulty.fail("ftruncate", EIO, always=True)
        track.append(i=1)
        with pytest.raises(OSError, match="No space left"):
            track.flush()
        heal(faulty)
        with caplog.at_level("WARNING", logger="dreamlake"):
            track.append(i=2).flush()
        assert "reading it again" not in caplog.text
        assert numbers(lake_dir) == [0, 1, 2]


def test_a_late_field_counts_after_a_merge_whose_name_may_not_last(lake_dir: Path, faulty: Faulty) -> None:
    """It is there, and can neither be synced nor deleted: it counts, and a new form of one of its parts would not."""
    with session(lake_dir, segment_points=10) as it:
        track = it.track(crashlib.TRACK)
        for turn in range(10):
            track.append_batch([{"i": 10 * turn + i, "_ts": float(10 * turn + i)} for i in range(10)])
        dead(faulty, "fsync", ending=str(track_folder(lake_dir)))
        faulty.fail("unlink", EIO, always=True)
        with pytest.raises(OSError, match="No space left"):
            track.compact()
        heal(faulty)
        assert list(track_folder(lake_dir).glob("000000000000-000000000100*"))
        track.append(late=1, _ts=15.0).flush()
        assert numbers(lake_dir, "late") == [None] * 15 + [1] + [None] * 84
        assert numbers(lake_dir) == list(range(100))


def test_rows_that_were_written_but_not_taken_in_are_not_written_again(
    lake_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory ran out between the two: what the file holds is learnt from the file."""
    from dreamlake.engine.ondisk import TrackOnDisk

    with session(lake_dir) as it:
        track = it.track(crashlib.TRACK).append(i=0)
        track.flush()
        real = TrackOnDisk._keep
        failures = iter([MemoryError("no memory")])

        def keep(self: TrackOnDisk, batch: Any) -> None:
            for failure in failures:
                raise failure
            real(self, batch)

        monkeypatch.setattr(TrackOnDisk, "_keep", keep)
        track.append(i=1).append(i=2)
        with pytest.raises((MemoryError, OSError)):
            track.flush()
        track.append(i=3).flush()
        assert numbers(lake_dir) == [0, 1, 2, 3]
        track.append_batch([{"i": i} for i in range(4, 25)])
    assert numbers(lake_dir) == list(range(25))


def test_the_stored_clock_covers_points_appended_while_the_lock_was_awaited(lake_dir: Path, faulty: Faulty) -> None:
    """The process dies after the flush; the next one starts with a clock that was set back."""
    opened = session(lake_dir).open()
    try:
        track = opened.track(crashlib.TRACK)
        track.append(i=0)
        lock_file = opened.writer.session_lock.path

        def open_slowly(path: str, *args: Any) -> int:
            assert path == lock_file
            track.append(i=1)  # as another thread may
            return os.open(path, *args)

        faulty.fail("open", open_slowly)
        track.flush()
        highest = track.read()["data"][-1]["data"]["_ts"]
        copy = lake_dir.parent / "copy"  # what a kill would leave now
        shutil.copytree(lake_dir, copy)
    finally:
        opened.close()
    with session(copy) as resumed:
        resumed.writer.clock.now = lambda: 1000.0
        resumed.track(crashlib.TRACK).append(i=2)
        assert resumed.track(crashlib.TRACK).read()["data"][-1]["data"]["_ts"] > highest


def test_the_lock_file_can_be_read_after_a_stop_between_its_calls(lake_dir: Path, faulty: Faulty) -> None:
    """Its content is replaced in place: a shorter one must not leave the end of a longer one behind."""
    with session(lake_dir) as opened:
        track = opened.track(crashlib.TRACK)
        path = Path(opened.writer.session_lock.path)
        opened.writer.clock.now = lambda: 1000.123456789012
        track.append(i=0)
        track.flush()
        opened.writer.clock.now = lambda: 2000.5
        track.append(i=1)
        seen: list[bytes] = []

        def stopped(*args: Any) -> None:
            seen.append(path.read_bytes())
            os.ftruncate(*args)

        faulty.fail("ftruncate", stopped, always=True)
        track.flush()
        for content in [*seen, path.read_bytes()]:
            assert json.loads(content)["lastTs"] == 2000.5


# -- real disks ----------------------------------------------------------------------------------------------------

FULL = """
import crashlib, errno, os, sys
from dreamlake.errors import PointsDroppedError
root = sys.argv[1]
filler = os.path.join(root, "filler")
with crashlib.session(root, segment_points=500, max_pending_bytes=8 << 20) as s:
    track = s.track(crashlib.TRACK)
    for i in range(700):
        track.append(i=i, value=i / 3)
    track.flush()
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
    failures = 0
    for i in range(700, 6000):
        track.append(i=i, value=i / 3)
        if i % 100 == 0:
            try:
                track.flush()
            except PointsDroppedError:
                raise
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                failures += 1
    assert failures > 20, failures
    assert track.append_batch([{"i": i} for i in range(6000, 6700)])["startIndex"] is None
    os.unlink(filler)
    track.flush()
    rows = track.read(limit=None)["data"]
    assert [row["data"]["i"] for row in rows] == list(range(6700)), len(rows)
    assert [row["index"] for row in rows] == list(range(6700))
rows = crashlib.Lake(root).session(crashlib.NAME, crashlib.WORKSPACE).track(crashlib.TRACK).read(limit=None)["data"]
assert [row["data"]["i"] for row in rows] == list(range(6700))
print("whole")
"""

FULL_WITH_ALL = """
import crashlib, errno, os, sys, time
root = sys.argv[1]
filler, replica = os.path.join(root, "filler"), "file://" + sys.argv[2]
tracks = ("a/b", "c", "d")
def full():
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
with crashlib.session(root, segment_points=50, fsync=True, flush_interval=0.02,
                      remote=replica, sync_interval=0.05) as s:
    for turn in range(3):
        failures = 0
        for i in range(turn * 1000, turn * 1000 + 1000):
            if i % 1000 == 400:
                full()
            for name in tracks:
                s.track(name).append(i=i, text="x" * 40, _ts=float(i))
            if i % 7 == 0 and i > 500:
                s.track("c").append(late=i, _ts=float(i - 500))
            if i % 100 == 99:
                s.log(f"message {i}")
                s.track("a/b", metadata={f"at{i}": i})
                for work in (s.flush, s.sync, lambda: s.parameters().set(**{f"p{i}": i})):
                    try:
                        work()
                    except OSError as error:
                        assert error.errno == errno.ENOSPC, error
                        failures += 1
        assert failures > 3, failures
        os.unlink(filler)
        s.sync()
        for place in (root, sys.argv[2]):
            run = crashlib.Lake(place).session(crashlib.NAME, crashlib.WORKSPACE)
            for name in tracks:
                rows = run.track(name).read(limit=None)["data"]
                assert [row["index"] for row in rows] == list(range(i + 1)), (place, name, len(rows))
                assert [row["data"]["i"] for row in rows] == list(range(i + 1)), (place, name)
            late = [row["data"]["late"] for row in run.track("c").read(limit=None)["data"] if "late" in row["data"]]
            assert late == [n for n in range(501, i + 1) if n % 7 == 0], place
            assert run.logs()["message"].to_list() == [f"message {n}" for n in range(99, i + 1, 100)], place
            assert len(run.track("a/b").stats()["metadata"]) == 10 * (turn + 1), place
print("whole")
"""

READ_ONLY = """
import crashlib, errno, subprocess, sys
root = sys.argv[1]
with crashlib.session(root) as s:
    track = s.track(crashlib.TRACK)
    for i in range(13):
        track.append(i=i)
    track.flush()
    subprocess.run(["mount", "-o", "remount,ro", root], check=True)
    for i in range(13, 40):
        track.append(i=i)
        try:
            track.flush()
        except OSError as error:
            assert error.errno == errno.EROFS, error
        else:
            raise AssertionError("a flush on a read-only disk returned")
    assert len(crashlib.Lake(root).session(crashlib.NAME, crashlib.WORKSPACE).track(crashlib.TRACK)) == 13
    try:
        crashlib.Session("other", "w", root).open()
    except OSError as error:
        assert error.errno == errno.EROFS, error
    else:
        raise AssertionError("a session opened on a read-only disk")
    subprocess.run(["mount", "-o", "remount,rw", root], check=True)
    track.flush()
    assert [row["data"]["i"] for row in track.read(limit=None)["data"]] == list(range(40))
print("whole")
"""


@pytest.fixture(scope="module")
def own_mounts() -> list[str]:
    """The command that runs another one with mounts of its own."""
    command = ["unshare", "-m"]
    probe = [*command, "sh", "-c", "mount -t tmpfs -o size=64k t /mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, timeout=60).returncode:
        pytest.skip("mounting a tmpfs takes unshare and the rights to it")
    return command


def run_on_a_disk_of_its_own(own_mounts: list[str], root: Path, shell: str, code: str, *args: object) -> Any:
    """Run a snippet by a line of shell that mounts a small disk at `root`, its "$0", and gets the snippet as "$@"."""
    root.mkdir()
    python = [sys.executable, "-W", "error", "-c", code, str(root), *map(str, args)]
    done = subprocess.run(
        [*own_mounts, "sh", "-c", shell, str(root), *python],
        capture_output=True,
        text=True,
        timeout=120,
        env=python_environment(PYTHONPATH=crashlib.PATH),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("code", "size"), [(FULL, "1m"), (FULL_WITH_ALL, "8m"), (READ_ONLY, "4m")], ids=["full", "full of all", "read-only"]
)
def test_a_disk_that_is_really(tmp_path: Path, own_mounts: list[str], code: str, size: str) -> None:
    mount = f'mount -t tmpfs -o size={size} t "$0" && exec "$@"'
    done = run_on_a_disk_of_its_own(own_mounts, tmp_path / "lake", mount, code, tmp_path / "replica")
    assert done.stdout == "whole\n"


STAYS_FULL = """
import crashlib, errno, logging, os, sys, time
logging.basicConfig()
root, how, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
session = crashlib.session(root, max_pending_bytes=300_000, flush_interval=0.05, segment_points=10_000).open()
track = session.track(crashlib.TRACK)
for i in range(1000):
    track.append(i=i, value=i / 3)
track.flush()
with open(os.path.join(root, "filler"), "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(512))
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
for i in range(1000, 31000):
    track.append(i=i, value=i / 3)
    if i % 1000 == 999:
        time.sleep(pause)
if how == "close":
    try:
        session.close()
    except OSError as error:
        assert type(error) is OSError and error.errno == errno.ENOSPC and error.filename, repr(error)
        assert "lost" not in str(error)
        print("close:", error)
"""


@pytest.mark.parametrize("pause", ["0", "0.05"])
@pytest.mark.parametrize("how", ["exit", "close"])
def test_a_disk_that_stays_full_costs_points_that_are_counted_to_the_last(
    tmp_path: Path, own_mounts: list[str], how: str, pause: str
) -> None:
    run = 'mount -t tmpfs -o size=1m t "$0" && "$@"; status=$?; rm "$0/filler"; cp -r "$0" "$0-kept"; exit $status'
    done = run_on_a_disk_of_its_own(own_mounts, tmp_path / "lake", run, STAYS_FULL, how, pause)
    assert "Traceback" not in done.stderr
    kept = numbers(tmp_path / "lake-kept")
    assert kept == list(range(len(kept)))
    assert len(kept) >= 1000
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ERROR:dreamlake:at exit: ")
    assert sum(map(int, re.findall(r"(\d+) points (?:are lost|were dropped)", last))) == 31000 - len(kept)
    if how == "close":
        told = re.findall(r"(\d+) points (?:are still pending|were dropped)", done.stdout)
        assert sum(map(int, told)) == 31000 - len(kept)


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_what_the_disk_says_is_a_plain_error_of_the_system(lake_dir: Path, faulty: Faulty, call: str) -> None:
    with session(lake_dir, fsync=True) as opened:
        track = opened.track(crashlib.TRACK).append(i=0)
        track.flush()
        track.append(i=1)
        dead(faulty, call, always=False)
        with pytest.raises(OSError, match="No space left") as caught:
            track.flush()
        assert type(caught.value) is OSError
        assert caught.value.filename.startswith(str(lake_dir))
        assert caught.value.errno == errno.ENOSPC
        heal(faulty)
    assert numbers(lake_dir) == [0, 1]


def test_a_close_that_fails_says_what_is_pending(lake_dir: Path, faulty: Faulty) -> None:
    opened = session(lake_dir, flush_interval=3600.0).open()
    track = opened.track(crashlib.TRACK).append(i=0)
    track.flush()
    faulty.fail("pwrite", ENOSPC, always=True)
    opened.track("other").append(i=0)
    track.append(i=1).append(i=2)
    with pytest.raises(OSError, match="3 points are still pending") as caught:
        opened.close()
    assert (type(caught.value), caught.value.errno) == (OSError, errno.ENOSPC)
    heal(faulty)
    with pytest.raises(TimeoutError) as waited, opened.writer.thread.busy:
        opened.close(timeout=0.05)
    assert waited.value.__notes__ == ["3 points may still be pending"]
    opened.close()
    assert numbers(lake_dir) == [0, 1, 2]


@pytest.mark.parametrize("hot", [0, 2])
def test_what_a_close_that_failed_wrote_is_known_to_the_writes_after_it(
    lake_dir: Path, faulty: Faulty, hot: int
) -> None:
    """A close keeps no points in memory for a roll; when it fails, more may come, merge into these, and be rolled."""
    opened = session(lake_dir, flush_interval=3600.0, segment_points=10).open()
    track = opened.track(crashlib.TRACK)
    for i in range(5):
        if i == hot:
            track.flush()
        track.append(i=i, _ts=1000.0 + i)
    opened.track("other").append(i=0)

    def call(fd: int, *args: Any) -> int:
        if "/other/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise ENOSPC
        return os.pwrite(fd, *args)

    faulty.fail("pwrite", call, always=True)
    with pytest.raises(OSError, match="1 points are still pending"):
        opened.close()
    heal(faulty)
    assert numbers(lake_dir) == list(range(5))
    track.append(late=True, _ts=1003.0)
    for i in range(5, 12):
        track.append(i=i, _ts=1000.0 + i)
    opened.close()
    assert stored(lake_dir) == [{"i": i, "late": True} if i == 3 else {"i": i} for i in range(12)]
    assert len(list(crashlib.track_folder(lake_dir).glob("*.parquet"))) == 1
    assert numbers(lake_dir, track="other") == [0]


LIMITED = """
import crashlib, errno, resource, sys
root = sys.argv[1]
with crashlib.session(root, segment_points=10_000) as s:
    track = s.track(crashlib.TRACK)
    track.append(i=0, text="x" * 50)
    track.flush()
    for limit in range(700, 1500, 100):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        for i in range(20):
            track.append(i=None, text="x" * 50)
        try:
            track.flush()
        except OSError as error:
            assert error.errno == errno.EFBIG, error
        else:
            raise AssertionError("the limit was not met")
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        size = (crashlib.track_folder(root) / "data.jsonl").stat().st_size
        assert limit - 150 < size <= limit, (limit, size)
    track.flush()
    rows = track.read(limit=None)["data"]
    assert len(rows) == 161, len(rows)
    assert [row["index"] for row in rows] == list(range(161))
    assert len({row["data"]["_ts"] for row in rows}) == 161
print("whole")
"""


def test_short_writes_at_the_limit_of_a_files_size(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    assert run_python(LIMITED, tmp_path, PYTHONPATH=crashlib.PATH).stdout == "whole\n"


NO_DESCRIPTORS = """
import crashlib, errno, os, resource, sys
root = sys.argv[1]
fsync = sys.argv[2] == "fsync"
with crashlib.session(root, fsync=fsync) as s:
    track = s.track(crashlib.TRACK)
    track.append(i=0)
    track.flush()
    number = 1
    for free in (0, 1, 2, 0, 1, 2):
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE, error
        for _ in range(free):
            os.close(held.pop())
        for _ in range(7):
            track.append(i=number)
            number += 1
        other = s.track(f"other{number}")
        other.append(i=number)
        try:
            s.flush()
        except OSError as error:
            assert error.errno == errno.EMFILE, error
        else:
            assert free
        for fd in held:
            os.close(fd)
        s.flush()
        rows = track.read(limit=None)["data"]
        assert [row["data"]["i"] for row in rows] == list(range(number)), (free, len(rows), number)
        assert len(other) == 1
print("whole")
"""


@pytest.mark.parametrize("fsync", ["plain", "fsync"])
def test_without_a_free_descriptor(tmp_path: Path, fsync: str) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n" + NO_DESCRIPTORS
    assert run_python(code, tmp_path, fsync, PYTHONPATH=crashlib.PATH).stdout == "whole\n"


def test_trouble_is_logged_but_never_raised_by_append(
    lake_dir: Path, faulty: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dreamlake")
    with session(lake_dir, flush_interval=0.01) as opened:
        track = opened.track(crashlib.TRACK)
        track.append(i=0)
        track.flush()
        faulty.fail("pwrite", ENOSPC, always=True)
        track.append(i=1)
        crashlib.wait_for(lambda: any("No space" in record.getMessage() for record in caplog.records))
        seen = faulty.calls.count("pwrite")
        track.append(i=2)
        crashlib.wait_for(lambda: faulty.calls.count("pwrite") > seen + 3)
        assert sum("No space" in record.getMessage() for record in caplog.records) == 1  # at most once a minute
        heal(faulty)
        crashlib.wait_for(lambda: any("works again" in record.getMessage() for record in caplog.records))
        assert numbers(lake_dir) == [0, 1, 2]


def test_an_open_on_a_full_disk_says_so_plainly(faulty: Faulty, lake_dir: Path) -> None:
    """What the writer's thread tells itself by its own classes of error is an OSError for whoever opens."""
    half = short(lambda data: len(data) // 2, ENOSPC)

    def pwrite(fd: int, data: Any, offset: int) -> int:
        return (half if ".tmp-" in os.readlink(f"/proc/self/fd/{fd}") else os.pwrite)(fd, data, offset)

    faulty.fail("pwrite", pwrite, always=True)
    with pytest.raises(OSError, match="No space left") as caught:
        Session("s", "w", lake_dir).open()
    assert (type(caught.value), caught.value.errno) == (OSError, errno.ENOSPC)
