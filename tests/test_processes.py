"""Several processes on one track: no point lost, doubled or halved, and a reader never sees anything else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import crashlib
import pytest
from crashlib import TRACK, session, track_folder
from support import ROOT, run_python, start_python

from dreamlake import Lake, Session
from dreamlake.errors import LockTimeoutError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks and signals")

#: Appends numbers of its own, at least so many, and until the reader has seen enough; says how many it were.
APPENDING = """
import crashlib, os, sys
root, me, count, enough = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
i = 0
with crashlib.session(root, segment_points=50, flush_interval=0.01) as s:
    track = s.track(crashlib.TRACK)
    track.flush()
    print("ready", flush=True)
    sys.stdin.readline()
    while i < count or not os.path.exists(enough):
        assert i < 100_000, "the reader sees nothing"
        track.append(who=me, number=i, text=f"{me}-{i}")
        if i % 17 == me:
            track.flush()
            print("at", i, flush=True)
        if i % 150 == 149:
            given = track.append_batch([{"who": me, "number": -1 - i, "text": "batch"}] * 3)
            assert given["endIndex"] - given["startIndex"] == 3, given
            rows = track.read(given["startIndex"], 3)["data"]
            assert [row["data"]["number"] for row in rows] == [-1 - i] * 3, rows
            assert {row["data"]["who"] for row in rows} == {me}, rows
        i += 1
print("end", i, flush=True)
"""

#: Adds a field of its own to the same points as the others; the first to come makes a point.
MERGING = """
import crashlib, os, random, sys
root, me, count, enough = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
draw = random.Random(me)
with crashlib.session(root, segment_points=50, flush_interval=0.01) as s:
    track = s.track(crashlib.TRACK)
    track.flush()
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    while done < count or not os.path.exists(enough):
        assert done < 20_000, "the reader sees nothing"
        places = list(range(done, done + 130))
        if me == 3:
            draw.shuffle(places)
        for i in places:
            track.append(**{f"f{me}": i, "_ts": 1000.0 + i})
            if i % 29 == me:
                track.flush()
        done += len(places)
print("end", done, flush=True)
"""

#: Reads until its input ends; what it has read once must stay.
READING = """
import crashlib, json, sys, threading
from dreamlake import Lake
kind, enough = sys.argv[2], sys.argv[3]
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
with crashlib.session(sys.argv[1]) as s:
    s.track("warm").append(i=1)
assert Lake(sys.argv[1]).session(crashlib.NAME, crashlib.WORKSPACE).track("warm").to_arrow().num_rows == 1
print("ready", flush=True)
seen, reads, grown = [], 0, 0
def identity(point):
    return point["_ts"] if kind == "merging" else (point["who"], point["number"], point["_ts"])
def check(last=False):
    global seen, reads, grown
    try:
        track = Lake(sys.argv[1]).session(crashlib.NAME, crashlib.WORKSPACE).track(crashlib.TRACK)
        answer = track.read(limit=None)
    except KeyError:
        assert not seen
        return
    rows = answer["data"]
    assert [row["index"] for row in rows] == list(range(answer["total"])), "a gap"
    now = [identity(row["data"]) for row in rows]
    assert now[:len(seen)] == seen, (len(now), len(seen), "what was read has changed")
    assert kind != "merging" or len(set(now)) == len(now), "doubled"
    for row in rows:
        fields = row["data"]
        if kind == "merging":
            wanted = fields["_ts"] - 1000
            assert len(fields) > 1 and all(v == wanted for k, v in fields.items() if k != "_ts"), row
        else:
            assert set(fields) == {"who", "number", "text", "_ts"}, row
    frame = track.to_arrow()
    assert frame.num_rows >= len(now)
    assert frame.column("_index").to_pylist() == list(range(frame.num_rows))
    assert frame.column("_ts").to_pylist()[:len(now)] == [row["data"]["_ts"] for row in rows]
    grown += len(now) > len(seen)
    seen, reads = now, reads + 1
    if grown == 8:
        open(enough, "w").close()
while not ended.is_set():
    check()
check()
print(json.dumps([reads, grown, len(seen)]))
"""


class Crowd:
    """Processes that begin when told to; all are gone when the block is left."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, code: str, *args: object) -> subprocess.Popen[str]:
        """Start one and wait until it is ready."""
        process = self.stack.enter_context(start_python(code, *args, PYTHONPATH=crashlib.PATH))
        self.stack.callback(process.kill)
        self.processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", line + crashlib.rest_of(process)[1]
        return process

    @staticmethod
    def go(process: subprocess.Popen[str]) -> None:
        """Let it begin."""
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    @staticmethod
    def end(process: subprocess.Popen[str]) -> str:
        """Wait for its end, and give what it said."""
        out, err = crashlib.rest_of(process)
        assert process.returncode == 0, err
        assert not err
        return out


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    with ExitStack() as stack:
        yield Crowd(stack)


def points(root: Path) -> list[dict[str, Any]]:
    """The points of the track, indices checked."""
    data = Lake(root).session(crashlib.NAME, crashlib.WORKSPACE).track(TRACK).read(limit=None)["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    return [row["data"] for row in data]


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "one stopped"])
def test_four_processes_append(lake_dir: Path, tmp_path: Path, crowd: Crowd, stopped: bool) -> None:
    enough = tmp_path / "enough"
    reader = crowd.start(READING, lake_dir, "appending", enough)
    writers = [crowd.start(APPENDING, lake_dir, me, 400, enough) for me in range(4)]
    for writer in writers:
        crowd.go(writer)
    if stopped:
        _stop_a_while(writers[0], writers[1])
    counts = [int(crowd.end(writer).split()[-1]) for writer in writers]
    assert reader.stdin is not None
    reader.stdin.close()
    reads, grown, total = json.loads(crowd.end(reader))
    assert reads >= grown >= 8
    found = points(lake_dir)
    assert total == len(found) == sum(count + count // 150 * 3 for count in counts)
    for me, count in enumerate(counts):
        own = [point["number"] for point in found if point["who"] == me]
        assert [number for number in own if number >= 0] == list(range(count)), f"order of process {me}"
        stamps = [point["_ts"] for point in found if point["who"] == me]
        assert stamps == sorted(set(stamps))
    assert len(list(track_folder(lake_dir).glob("*.parquet"))) >= len(found) // 50


def _stop_a_while(process: subprocess.Popen[str], other: subprocess.Popen[str]) -> None:
    """Stop a process wherever it is, with the lock or without, and let another one go on or wait for it."""
    assert process.stdout is not None
    assert other.stdout is not None
    for _ in range(3):
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        _has_said_more(other, 0.3)
        os.kill(process.pid, signal.SIGCONT)


def _has_said_more(process: subprocess.Popen[str], seconds: float) -> bool:
    import select

    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], seconds)[0]) and bool(process.stdout.readline())


def test_four_processes_add_fields_to_the_same_points(lake_dir: Path, tmp_path: Path, crowd: Crowd) -> None:
    enough = tmp_path / "enough"
    reader = crowd.start(READING, lake_dir, "merging", enough)
    writers = [crowd.start(MERGING, lake_dir, me, 260, enough) for me in range(4)]
    for writer in writers:
        crowd.go(writer)
    counts = [int(crowd.end(writer).split()[-1]) for writer in writers]
    assert reader.stdin is not None
    reader.stdin.close()
    _, grown, total = json.loads(crowd.end(reader))
    assert grown >= 8
    found = points(lake_dir)
    assert total == len(found) == max(counts)
    by_ts = {point.pop("_ts"): point for point in found}
    wanted = {1000.0 + i: {f"f{me}": i for me in range(4) if i < counts[me]} for i in range(max(counts))}
    assert by_ts == wanted


def test_a_segment_that_another_process_wrote_past_an_empty_hot_file_is_learnt(lake_dir: Path) -> None:
    """The hot file is empty before and after, so that only the counter of rewrites can tell that there is more."""
    with session(lake_dir, segment_points=10) as mine:
        track = mine.track(TRACK)
        track.append_batch([{"i": i} for i in range(10)])
        code = """
            import sys
            import crashlib
            with crashlib.session(sys.argv[1], segment_points=10) as theirs:
                theirs.track(crashlib.TRACK).append_batch([{"i": i} for i in range(10, 20)])
        """
        run_python(code, lake_dir, PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        hot = track_folder(lake_dir) / "data.jsonl"
        assert not hot.exists() or hot.stat().st_size == 0
        track.append(i=20).flush()
    assert [point["i"] for point in points(lake_dir)] == list(range(21))


def test_kills_among_writers(lake_dir: Path, crowd: Crowd) -> None:
    """Three of four processes are killed in the middle; the last goes on, and nothing acknowledged is lost."""
    writers = [crowd.start(APPENDING, lake_dir, me, 300, lake_dir) for me in range(4)]
    for writer in writers:
        crowd.go(writer)
    acknowledged = {}
    for me, writer in enumerate(writers[:3]):
        assert writer.stdout is not None
        for _ in range(3 + me):
            said = writer.stdout.readline()
        writer.kill()
        rest = crashlib.rest_of(writer)[0]
        lines = [said, *rest.splitlines()]
        acknowledged[me] = max(int(line.split()[1]) for line in lines if line.startswith("at ") and line[3:].strip())
    crowd.end(writers[3])
    found = points(lake_dir)
    for me, last in {**acknowledged, 3: 299}.items():
        own = [point["number"] for point in found if point["who"] == me and point["number"] >= 0]
        assert own == list(range(len(own))), f"process {me}"
        assert len(own) > last


def test_a_stopped_process_with_the_lock_costs_patience_and_nothing_else(
    lake_dir: Path, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = """
import crashlib, sys
s = crashlib.session(sys.argv[1]).open()
def hold():
    with s.writer.session_lock.hold(30.0):
        print("ready", flush=True)
        sys.stdin.readline()
s.writer.call(hold)
s.track(crashlib.TRACK).append(i=1)
s.close()
"""
    monkeypatch.setattr("dreamlake.engine.writer.CALLER_LOCK", 0.2)
    with session(lake_dir) as opened:
        track = opened.track(TRACK)
        process = crowd.start(holder, lake_dir)
        os.kill(process.pid, signal.SIGSTOP)
        track.append(i=0)
        with pytest.raises(LockTimeoutError):
            track.flush()
        assert track.append_batch([{"i": 2}, {"i": 3}]) == {"count": 2, "startIndex": None, "endIndex": None}
        os.kill(process.pid, signal.SIGCONT)
        crowd.go(process)
        crowd.end(process)
        track.flush()
        assert [point["i"] for point in points(lake_dir)] == [1, 0, 2, 3]


def test_equal_automatic_timestamps_of_two_processes_stay_two_points(lake_dir: Path, crowd: Crowd) -> None:
    code = """
import crashlib, sys
s = crashlib.session(sys.argv[1]).open()
s.writer.clock.now = lambda: 5000.0
print("ready", flush=True)
sys.stdin.readline()
s.track(crashlib.TRACK).append(who="other")
s.close()
"""
    other = crowd.start(code, lake_dir)
    with session(lake_dir) as opened:
        opened.writer.clock.now = lambda: 5000.0
        track = opened.track(TRACK)
        track.append(who="me")
        track.flush()
        crowd.go(other)
        crowd.end(other)
        assert [(point["who"], point["_ts"]) for point in points(lake_dir)] == [("me", 5000.0), ("other", 5000.0)]
        track.append(_ts=5000.0, late=1)  # goes to the lower index
        track.flush()
        assert [point.get("late") for point in points(lake_dir)] == [1, None]


def test_logs_and_parameters_of_four_processes(lake_dir: Path, crowd: Crowd) -> None:
    code = """
import crashlib, sys
me = int(sys.argv[2])
with crashlib.session(sys.argv[1], flush_interval=0.01) as s:
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(30):
        s.log(f"{me}-{i}")
        s.parameters().set(**{f"p{me}": {f"k{i}": i}})
        s.track("t", metadata={f"m{me}": i})
        s.flush()
"""
    writers = [crowd.start(code, lake_dir, me) for me in range(4)]
    for writer in writers:
        crowd.go(writer)
    for writer in writers:
        crowd.end(writer)
    folder = Path(Session(crashlib.NAME, crashlib.WORKSPACE, lake_dir).path)
    lines = [json.loads(line) for line in (folder / "logs" / "logs.jsonl").read_text().splitlines()]
    assert [line["sequenceNumber"] for line in lines] == list(range(120))
    for me in range(4):
        own = [line["message"] for line in lines if line["message"].startswith(f"{me}-")]
        assert own == [f"{me}-{i}" for i in range(30)]
    parameters = json.loads((folder / "parameters.json").read_text())
    assert parameters["data"] == {f"p{me}.k{i}": i for me in range(4) for i in range(30)}
    assert parameters["version"] == 120
    metadata = json.loads((folder / "tracks" / "t" / "metadata.json").read_text())
    assert metadata["metadata"] == {f"m{me}": 29 for me in range(4)}
    assert json.loads((folder / "session.json").read_text())["status"] == "finished"


def test_sessions_of_one_process_and_of_others_share_a_track(lake_dir: Path, crowd: Crowd) -> None:
    """Threads with sessions of their own, opened and closed all the time, beside another process."""
    import threading

    other = crowd.start(APPENDING, lake_dir, 9, 200, lake_dir)
    crowd.go(other)
    errors: list[BaseException] = []

    def work(me: int) -> None:
        try:
            for turn in range(6):
                with session(lake_dir, segment_points=50, flush_interval=0.01) as opened:
                    for i in range(20):
                        opened.track(TRACK).append(who=me, number=turn * 20 + i, text="")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    crowd.end(other)
    assert not errors
    found = points(lake_dir)
    for me, count in ((0, 120), (1, 120), (2, 120), (9, 200)):
        assert [p["number"] for p in found if p["who"] == me and p["number"] >= 0] == list(range(count))
