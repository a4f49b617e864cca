"""Power cuts: what fsync=True acknowledged, and what is in segments, is there in every state that a cut may leave."""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from campaigns.powerloss import PLANTED, Planted, find, look, look_again
from powerloss import POLICIES, Cut, Recorder, samples
from powerscenes import REPLICAS, SCENES, record

import dreamlake.engine.away as away
import dreamlake.engine.logfile as logfile
import dreamlake.storage.local as local
from dreamlake.engine.footing import Footing
from dreamlake.engine.late import LateFile
from dreamlake.engine.trackfile import TrackFile
from dreamlake.format import hot
from dreamlake.format.layout import SegmentName
from dreamlake.format.segmentinfo import SegmentBounds

#: States looked at of each scene, fewer where each takes long; the campaign `powerloss` looks at all.
SAMPLE, FEW = 15, 6


@pytest.mark.parametrize("fsync", [True, False], ids=["fsync", "plain"])
@pytest.mark.parametrize("scene", list(SCENES))
def test_whatever_a_cut_leaves(memory_path: Path, scene: str, fsync: bool) -> None:
    recorder = record(memory_path, scene, fsync)
    assert recorder.marks
    these = list(samples(recorder, 1, 1))
    random.Random(1).shuffle(these)
    wrong: list[str] = []
    some = these[: FEW if scene in REPLICAS else SAMPLE]
    counts = look(recorder, some, memory_path, wrong.append)
    assert not wrong, "\n".join(wrong)
    assert counts["whole"] > len(some) // 8


@pytest.mark.parametrize("fsync", [True, False], ids=["fsync", "plain"])
@pytest.mark.parametrize("scene", ["roll", "late", "everything", "synced later"])
def test_whatever_a_second_cut_leaves(memory_path: Path, scene: str, fsync: bool) -> None:
    recorder = record(memory_path, scene, fsync)
    these = list(samples(recorder, 2, 1))
    wrong: list[str] = []
    counts = look_again(recorder, random.Random(2).sample(these, 6), fsync, memory_path, wrong.append, 6, 2)
    assert not wrong, "\n".join(wrong)
    assert counts["whole"] > counts.total() // 8


def test_a_bug_that_only_a_second_cut_shows_is_found(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(memory_path, "flush", True)
    these = list(samples(recorder, 2, 1))
    real = local.append_at
    monkeypatch.setattr(
        local, "append_at", lambda path, offset, data, fsync, lasts=True: real(path, offset, data, False)
    )
    wrong: list[str] = []
    look_again(recorder, random.Random(2).sample(these, 6), True, memory_path, wrong.append, 6, 2)
    assert wrong


@pytest.mark.parametrize("scene", ["flush", "everything"])
@pytest.mark.parametrize("fsync", [True, False], ids=["fsync", "plain"])
def test_whatever_a_cut_leaves_after_a_failed_fsync(memory_path: Path, scene: str, fsync: bool) -> None:
    wrong: list[str] = []
    count = record(memory_path, scene, fsync).fsyncs
    for first in range(1, count + 1, 1 + count // 12):
        recorder = record(memory_path, scene, fsync, (first, first + 1) if first % 2 else (first,))
        these = list(samples(recorder, 1, 1))
        look(recorder, random.Random(first).sample(these, 2), memory_path, wrong.append)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("failing", [(3, 4), (6, 7)], ids=["the note", "the hot file"])
def test_what_is_noted_of_segments_elsewhere_lasts_before_the_segment_that_needs_it(
    memory_path: Path, failing: tuple[int, int]
) -> None:
    """Where the first fsyncs of a take-over fail, and the next attempt finds what the first has written."""
    recorder = record(memory_path, "take over", True, failing)
    places = range(recorder.begin, min(recorder.begin + 40, len(recorder.ops)))
    wrong: list[str] = []
    these = samples(recorder, 1, 4, ("anything",))
    look(recorder, [sample for sample in these if sample.place in places], memory_path, wrong.append)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("bug", [bug for bug in PLANTED if not bug.rare], ids=lambda bug: bug.what)
def test_a_planted_bug_is_found(memory_path: Path, bug: Planted) -> None:
    assert find(bug, memory_path)


def left(recorder: Recorder, path: str) -> list[bytes]:
    """What a cut at the end may leave of one file."""
    found = set()
    for turn, policy in itertools.product(range(10), POLICIES.values()):
        state = Cut(recorder, len(recorder.ops), policy, random.Random(turn)).state()
        found.add(state.get(path) or b"")
    return sorted(found)


def until_kept(*steps: Callable[[], Any]) -> None:
    """Do what raises where an fsync fails, all of it again, until nothing does."""
    while True:
        try:
            for step in steps:
                step()
            return
        except OSError:
            continue


#: The fsyncs that fail: each of the first, and two in a row.
FAILING = [(number,) for number in range(1, 11)] + [(number, number + 1) for number in range(1, 9)]


@pytest.mark.parametrize("failing", FAILING)
def test_waiting_rows_of_a_failed_fsync_are_not_doubled_over_a_hole(
    memory_path: Path, failing: tuple[int, ...]
) -> None:
    with Recorder(memory_path, failing) as recorder:
        file = LateFile(str(memory_path), fsync=True)
        for ts in (1.0, 2.0):
            until_kept(file.load, lambda ts=ts: file.append([(ts, True, {"late": ts})]))
    for data in left(recorder, ".late.jsonl"):
        assert [point["_ts"] for point in hot.parse(data, path="x").points] == [1.0, 2.0]


@pytest.mark.parametrize("failing", [(1,), (1, 2), (1, 2, 3)])
def test_waiting_rows_last_behind_those_of_a_session_without_fsync(memory_path: Path, failing: tuple[int, ...]) -> None:
    """What a failed fsync should have written of an earlier line is not written by the next one that succeeds."""
    with Recorder(memory_path) as recorder:
        LateFile(str(memory_path), fsync=False).append([(1.0, True, {"late": 1.0})])
        local.fsync_dir(str(memory_path))  # as each flush with fsync does first, see Footing
        recorder.fsyncs, recorder.failing = 0, failing
        file = LateFile(str(memory_path), fsync=True)
        until_kept(file.load, lambda: file.append([(2.0, True, {"late": 2.0})]))
    for data in left(recorder, ".late.jsonl"):
        assert [point["_ts"] for point in hot.parse(data, path="x").points] == [1.0, 2.0]


@pytest.mark.parametrize("failing", FAILING)
def test_log_records_outlast_failed_fsyncs(memory_path: Path, failing: tuple[int, ...]) -> None:
    """They go into a new file, and are told as written once it has its name for good."""
    with Recorder(memory_path, failing) as recorder:
        log = logfile.LogFile(str(memory_path), True, Footing(str(memory_path)), Lock())
        for number in range(3):
            log.add({"message": str(number)})
            until_kept(lambda: log.flush(1))
    assert recorder.fsyncs > 3
    for data in left(recorder, "logs/logs.jsonl"):
        assert re.findall(rb'"message":"(\d)"', data) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("failing", [(1,), (1, 2), (1, 2, 3)])
def test_log_records_last_behind_those_of_a_session_without_fsync(memory_path: Path, failing: tuple[int, ...]) -> None:
    """As for waiting rows: without a new file the earlier record would be a hole."""
    footing = Footing(str(memory_path))
    with Recorder(memory_path) as recorder:
        unsynced = logfile.LogFile(str(memory_path), False, footing, Lock())
        unsynced.add({"message": "0"})
        unsynced.flush(1)
        footing.secure(unsynced.folder)
        recorder.fsyncs, recorder.failing = 0, failing
        log = logfile.LogFile(str(memory_path), True, footing, Lock())
        log.add({"message": "1"})
        until_kept(lambda: log.flush(1))
    for data in left(recorder, "logs/logs.jsonl"):
        assert re.findall(rb'"message":"(\d)"', data) == [b"0", b"1"]


@pytest.mark.parametrize("rest", [[], [2.0]])
def test_rows_that_were_merged_do_not_come_back(memory_path: Path, rest: list[float]) -> None:
    """They would be merged once more, over what was written to their points since."""
    with Recorder(memory_path) as recorder:
        file = LateFile(str(memory_path), fsync=False)
        file.append([(ts, True, {"late": ts}) for ts in (1.0, 2.0)])
        file.replace([(ts, True, {"late": ts}) for ts in rest])
    for data in left(recorder, ".late.jsonl"):
        assert [point["_ts"] for point in hot.parse(data, path="x").points] == rest


@pytest.mark.parametrize("failing", [(1,), (1, 2), (1, 2, 3), (2, 3)])
def test_records_of_away_segments_outlast_failed_fsyncs(memory_path: Path, failing: tuple[int, ...]) -> None:
    records = []
    for start in (0, 10):
        name = SegmentName(start, start + 10, 0)
        records.append(away.Away(name, 100, SegmentBounds(*name, 1.0, 2.0, True)))
    with Recorder(memory_path, failing) as recorder:
        for each in records:
            for _ in range(4):
                try:
                    away.add(str(memory_path), [each], fsync=True)
                    break
                except local.FsyncFailed:
                    continue
    for data in left(recorder, ".away.jsonl"):
        assert list(away.parse(data, "x").values()) == records


@pytest.mark.parametrize("fsync", [True, False])
@pytest.mark.parametrize("then", ["all goes well", "an fsync fails", "the process ends after one that fails"])
def test_a_log_that_is_put_aside_keeps_its_records(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool, then: str
) -> None:
    """The new file must not take the name before the old one has its other name for good."""
    monkeypatch.setattr(logfile, "FILE_LINES", 3)
    with Recorder(memory_path) as recorder:
        log = logfile.LogFile(str(memory_path), fsync, Footing(str(memory_path)), Lock())
        for number in range(3):
            log.add({"message": str(number)})
        log.flush(1)
        local.fsync_file(log.path)
        for folder in (log.folder, str(memory_path)):
            local.fsync_dir(folder)
        lasting = len(recorder.ops)
        log.add({"message": "3"})
        if then != "all goes well":
            recorder.failing = (recorder.fsyncs + 1,)
            with pytest.raises(OSError, match="Input/output error"):
                log.flush(1)
            assert not os.path.exists(log.path)
        if then == "the process ends after one that fails":
            log = logfile.LogFile(str(memory_path), fsync, Footing(str(memory_path)), Lock())
            log.add({"message": "3"})
        log.flush(1)
    assert b'"3"' in Path(log.path).read_bytes()
    for place in range(lasting, len(recorder.ops) + 1):
        for turn, policy in itertools.product(range(200), POLICIES.values()):
            state = Cut(recorder, place, policy, random.Random(turn)).state()
            kept = b"".join(data or b"" for path, data in sorted(state.items()) if path.startswith("logs/"))
            assert set(re.findall(rb'"message":"(\d)"', kept)) >= {b"0", b"1", b"2"}


@pytest.mark.parametrize("failing", [(4,), (3, 5)])
def test_a_description_lasts_whose_name_could_not_be_synced(memory_path: Path, failing: tuple[int, ...]) -> None:
    """The fsync of the folder fails behind the rename: the file is there, and what it says need not be written anew."""
    with Recorder(memory_path, failing) as recorder:
        file = TrackFile(str(memory_path), "t", 10, fsync=True)
        file.update({})
        for _ in range(5):
            try:
                file.update({"description": "of the later"})
                break
            except OSError:
                continue
    assert recorder.fsyncs > failing[-1]
    for data in left(recorder, "metadata.json"):
        assert b"of the later" in data
