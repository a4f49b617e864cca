"""Memory for pending points: a disk that works costs no point however fast they come, one that hangs costs no hang."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from crashlib import in_thread

import dreamlake.storage.local as local
from dreamlake import Session, errors
from dreamlake.engine import pressure, writer
from dreamlake.engine.thread import Request, Worker


def test_a_working_disk_drops_nothing_however_many_tracks_are_fed(tmp_path: Path) -> None:
    # Far more than max_pending_bytes, spread so that no track ever has a whole segment.
    with Session("run", "lab", tmp_path, max_pending_bytes=1 << 20, flush_interval=60) as session:
        for number in range(60):
            track = session.track(f"metric-{number}")
            for step in range(4000):
                track.append(value=step * 0.5, step=step)
        session.flush()
        for number in range(0, 60, 7):
            track = session.track(f"metric-{number}")
            assert len(track) == 4000
            assert [point["data"]["step"] for point in track.read(limit=None)["data"]] == list(range(4000))


class HangingOs:
    """The os module with a pwrite that waits until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.hanging = threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self.hanging.set()
        self.let_go.wait()
        return os.pwrite(fd, data, offset)


def test_a_hanging_disk_neither_stops_the_loop_nor_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session("run", "lab", tmp_path, max_pending_bytes=1 << 20, flush_interval=0.05).open()
    track = session.track("loss")
    track.append(value=0.0)
    track.flush()
    disk = HangingOs()
    monkeypatch.setattr(local, "os_", disk)
    try:
        track.append(value=1.0)
        assert disk.hanging.wait(30)
        for step in range(400_000):
            track.append(value=step * 0.5)
        writer = session.writer
        assert track_bytes(session) < 4 << 20
        with pytest.raises(TimeoutError, match="has not ended"):
            writer.flush(timeout=0.05)
    finally:
        disk.let_go.set()
    with pytest.raises(errors.PointsDroppedError) as told:
        session.flush()
    kept = len(track)
    assert kept + told.value.dropped == 400_002
    session.close()


def track_bytes(session: Session) -> int:
    """Memory that the pending points of the session's tracks take, estimated."""
    return sum(track.pending.waiting_bytes() for track in session.writer.tracks.values())


FEW_DESCRIPTORS = """
import resource, sys
from dreamlake import Lake, Session

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
root, count = sys.argv[1], 400
with Session("run", "lab", root + "/here", remote="file://" + root + "/there", flush_interval=0.05) as session:
    for step in range(30):
        for number in range(count):
            session.track(f"metric/{number}").append(value=step / 2, step=step)
    session.flush()
    session.sync()
for place in (root + "/here", "file://" + root + "/there"):
    session = Lake(place).session("run", "lab")
    assert len(session.tracks.list()) == count
    for number in range(count):
        assert session.track(f"metric/{number}").to_polars()["step"].to_list() == list(range(30))
    frame = Lake(place).scan("metric/7").collect()
    assert len(frame) == 30
with Session("run", "lab", root + "/here") as session:
    for number in range(count):
        session.track(f"metric/{number}").append(value=0.0, step=30)
print("all there")
"""


def test_a_hanging_disk_does_not_stop_a_loop_that_has_all_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block of points waits for the roll, for a moment, and none for its end."""
    session = Session("run", "lab", tmp_path, flush_interval=60).open()
    track = session.track("loss")
    track.append(value=0.0)
    track.flush()
    disk = HangingOs()
    monkeypatch.setattr(local, "os_", disk)

    def loop() -> None:
        for step in range(60_000):
            track.append(value=step * 0.5)

    thread = in_thread(loop)
    try:
        assert disk.hanging.wait(30)
        thread.join(60)
        assert not thread.is_alive(), "the loop waits for the disk"
    finally:
        disk.let_go.set()
        thread.join(60)
    session.close()
    assert len(track) == 60_001


@pytest.mark.parametrize(("stretch", "until"), [("encode", 11_000), ("fsync", 13_000)])
def test_a_loop_of_large_points_goes_on_while_its_segment_is_encoded_and_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: str, until: int
) -> None:
    """Here each stretch lasts until the loop has gone on, which without patience it does in any case."""
    monkeypatch.setattr(pressure, "PATIENCE", 60.0)
    went_on, waited = threading.Event(), []

    def free(of: writer.Writer) -> None:  # a loop that comes too late waits for the next stretch
        while not (of.thread._waiting or went_on.wait(0.001)):
            continue
        of.thread.free()

    monkeypatch.setattr(writer.Writer, "free", free)

    def last(*_: object) -> None:
        if not waited and threading.current_thread().name == "dreamlake-writer":
            waited.append(went_on.wait(30))

    if stretch == "encode":
        write_table = pq.ParquetWriter.write_table
        monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda *a, **b: (last(), write_table(*a, **b)))
    else:
        fsync = local._fsync
        monkeypatch.setattr(local, "_fsync", lambda *a: (last() if is_beside(a[1]) else None, fsync(*a)))
    with Session("run", "lab", tmp_path, flush_interval=60) as session:
        track = session.track("arm")
        state = [0.5] * 7
        track.append(q=state, dq=state)
        track.flush()
        for step in range(14_000):
            track.append(q=state, dq=state)
            if step == until:
                went_on.set()
        assert len(track) == 14_001
    assert waited == [True]


def is_beside(path: str) -> bool:
    """Whether this is a file of a roll that has no name yet."""
    return os.path.basename(path).startswith(local.TMP_PREFIX)


def test_a_loop_of_small_points_waits_once_for_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three waits in 10,000 appends would be among the slowest 0.01 % of them."""
    monkeypatch.setattr(pressure, "PATIENCE", 60.0)  # or one wait may be two
    waits = []
    wait = Request.wait
    monkeypatch.setattr(Request, "wait", lambda *a: (waits.append(a), wait(*a))[1])
    monkeypatch.setattr(Worker, "wait_until_free", lambda *_: waits.append("free"))
    with Session("run", "lab", tmp_path, flush_interval=60) as session:
        track = session.track("loss")
        track.append(value=0.0, step=0)
        track.flush()
        waits.clear()
        for step in range(100_000):
            track.append(value=step * 0.5, step=step)
        assert len(waits) <= 10
        assert "free" not in waits


#: A loop waits at the end of a block, and a flush that begins just before it seals what there is of another.
MOST_ROWS = pressure.CROWDED + 2 * pressure.BLOCK_ROWS


@pytest.mark.parametrize(
    ("segment_points", "point", "crowd"),
    [
        (10_000, {"value": 0.5, "step": 1}, pressure.CROWDED),
        (10_000, {"q": [0.5] * 7, "dq": [0.5] * 7}, pressure.CROWDED + pressure.BLOCK_ROWS),
        (1_000_000, {"q": [0.5] * 7, "dq": [0.5] * 7}, pressure.CROWDED),
    ],
    ids=["small", "large", "large, and far from a roll"],
)
def test_a_loop_waits_where_points_crowd_and_later_only_for_the_roll_of_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment_points: int, point: dict[str, Any], crowd: int
) -> None:
    crowds = []
    go_on = threading.Event()
    wait = Request.wait

    def spy(request: Request, timeout: float | None = None) -> bool:
        if timeout == pressure.PATIENCE:
            crowds.append(track_rows(session))
            go_on.set()
        return wait(request, timeout)

    monkeypatch.setattr(Request, "wait", spy)
    with Session("run", "lab", tmp_path, flush_interval=60, segment_points=segment_points) as session:
        track = session.track("any")
        track.append(**point)
        track.flush()
        session.writer.thread.post(lambda: go_on.wait(60))  # nothing is flushed before the loop waits
        for _ in range(16_384):
            track.append(**point)
        go_on.set()
        assert crowds[:1] == [crowd]
        assert len(track) == 16_385


def track_rows(session: Session) -> int:
    """Sealed rows that wait in the session's tracks."""
    return sum(track.pending.waiting_rows() for track in session.writer.tracks.values())


def test_rolls_go_on_where_one_was_done_before_it_was_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the request and the note of it the thread may run: it must not be taken for one that is still to come."""
    monkeypatch.setattr(pressure, "PATIENCE", 60.0)
    posts = []
    post = Worker.post

    def post_and_lose_the_lock(worker: Worker, work: Any) -> Request:
        request = post(worker, work)
        posts.append(request)
        if len(posts) == 1:
            assert request.wait(60)
        return request

    monkeypatch.setattr(Worker, "post", post_and_lose_the_lock)
    with Session("run", "lab", tmp_path, flush_interval=60) as session:
        track = session.track("loss")
        track.append(value=0.0)
        track.flush()
        for step in range(50_000):
            track.append(value=step * 0.5)
            assert track_rows(session) < MOST_ROWS
        assert len(posts) > 2
        assert len(track) == 50_001


def test_room_is_made_again_where_that_was_done_before_it_was_noted(tmp_path: Path) -> None:
    with Session("run", "lab", tmp_path, flush_interval=60) as session:
        session.track("loss").append(value=0.0)
        session.flush()
        session.track("loss").append(value=1.0)
        done = session.writer.pressure._relief = Request(lambda: None)
        done.run()
        session.writer.pressure._make_room()
        made = session.writer.pressure._relief
        assert made is not done
        assert made is None or made.wait(60)
        assert not session.writer.tracks["loss"].needs_flush()


def test_what_is_given_up_is_pending_no_more() -> None:
    class Points:
        left = 150

        def waiting_bytes(self) -> int:
            return self.left

        def drop_newest(self, excess: int) -> int:
            assert excess == 50
            self.left -= 60
            return 60

    points: Any = Points()
    options = SimpleNamespace(max_pending_bytes=100)
    of: Any = SimpleNamespace(lock=threading.Lock(), options=options, tracks={"a": SimpleNamespace(pending=points)})
    made = pressure.Pressure(of, lambda: None, lambda: None)
    made.recount([])
    assert made.nbytes == 150
    made.recount([points, points])
    assert made.nbytes == points.left == 90


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors")
def test_many_tracks_need_few_descriptors(tmp_path: Path, run_python: Any) -> None:
    """No file stays open for a track, whether written, read, sent or resumed."""
    assert run_python(FEW_DESCRIPTORS, tmp_path).stdout.split() == ["all", "there"]
