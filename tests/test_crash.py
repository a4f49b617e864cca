"""kill -9 at random moments and at every disk call: what a flush acknowledged is there, once, and nothing is halved."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import crashlib
import pytest
from crashlib import check, track_folder
from support import run_python, start_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


@pytest.mark.parametrize("scene", list(crashlib.SCENES))
@pytest.mark.parametrize("fault", ["stop", "stop half"])
def test_a_stop_at_any_call(tmp_path: Path, scene: str, fault: str) -> None:
    calls, wrong = crashlib.run_sweep(tmp_path, scene, fault)
    assert calls > 4
    assert not wrong, "\n".join(wrong)


#: Does one operation after the other, told by the line before it, until it is killed. ``sys.argv``: root, seed, and the
#: timestamps of points that can be added to.
WRITER = """
import crashlib, json, random, sys
root, seed, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
known = json.loads(sys.argv[4])
draw = random.Random(seed)
s = crashlib.Session(crashlib.NAME, crashlib.WORKSPACE, root, segment_points=50,
                     flush_interval=draw.choice([0.003, 0.02, 5.0]), fsync=draw.random() < 0.2)
t = s.track(crashlib.TRACK)
number = first
def tell(what):
    sys.stdout.write(json.dumps(what) + "\\n")
    sys.stdout.flush()
def point():
    global number
    fields = {"id": number, "v": number / 7}
    if draw.random() < 0.3:
        fields["text"] = "é" * draw.randrange(40) + "\\n"
    if draw.random() < 0.1:
        fields["list"] = [number, None, {"a": number}]
    if draw.random() < 0.4:
        fields["_ts"] = 1000.0 + number
        known.append(fields["_ts"])
    number += 1
    return fields
while number < first + 3000:
    kind = draw.random()
    if kind < 0.85 or not known:
        fields = point()
        tell([fields])
        t.append(**fields)
    elif kind < 0.93:
        fields = {f"late{number % 5}": number, "_ts": draw.choice(known[-60:])}
        number += 1
        tell([fields])
        t.append(**fields)
    else:
        rows = [point() for _ in range(draw.choice([1, 3, 30, 130]))]
        tell(rows)
        if t.append_batch(rows)["startIndex"] is None:
            raise AssertionError("the batch was not written")
        tell("flushed")
        continue
    if draw.random() < 0.08:
        t.flush()
        tell("flushed")
t.flush()
tell("flushed")
tell("end")
"""


def test_killed_at_random_moments_of_one_session(tmp_path: Path) -> None:
    draw = random.Random(20)
    ops: list[dict[str, Any] | None] = []  # by their number; what was lost without an acknowledgement is struck out
    known: list[float] = []
    found: list[int] = []
    killed = 0
    turns = 24
    for turn in range(turns):
        with start_python(
            WRITER, tmp_path, turn, len(ops), json.dumps(known[-60:]), PYTHONPATH=crashlib.PATH
        ) as process:
            assert process.stdout is not None
            lines = []
            for _ in range(draw.choice([5, 20, 50, 100])):
                lines.append(process.stdout.readline())
            process.kill()
            rest, err = crashlib.rest_of(process)
        assert not err, err
        killed += process.returncode == -9
        lines += rest.splitlines()
        told = [json.loads(line) for line in lines if _is_whole(line)]
        acknowledged = len(ops)
        for what in told:
            if what == "flushed":
                acknowledged = len(ops)
            elif what != "end":
                ops += what
        ids = check(tmp_path, ops, acknowledged)
        assert ids[: len(found)] == found, "earlier points moved"
        assert ids == sorted(ids), "points are not in the order of their appends"
        found = ids
        # What is not there now must never come: its number is not used again.
        kept = set(ids)
        ops = [None if op is not None and "id" in op and op["id"] not in kept else op for op in ops]
        ops = _without_uncertain_late_fields(tmp_path, ops, acknowledged)
        known = [op["_ts"] for op in ops if op is not None and "_ts" in op and "id" in op]
    assert killed == turns
    assert len(found) > 200
    assert list(track_folder(tmp_path).glob("*.1.parquet")), "no late field met a segment"


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _without_uncertain_late_fields(
    root: Path, ops: list[dict[str, Any] | None], acknowledged: int
) -> list[dict[str, Any] | None]:
    """Strike out the late fields that were not acknowledged and are not there: from now on they must stay away."""
    data = crashlib.Lake(root).session(crashlib.NAME, crashlib.WORKSPACE).track(crashlib.TRACK).read(limit=None)["data"]
    points = {row["data"]["_ts"]: row["data"] for row in data}
    left: list[dict[str, Any] | None] = []
    for place, op in enumerate(ops):
        gone = False
        if op is not None and place >= acknowledged and "id" not in op:
            name = next(name for name in op if name != "_ts")
            gone = points.get(op["_ts"], {}).get(name) != op[name]
        left.append(None if gone else op)
    return left


# -- the system calls themselves -----------------------------------------------------------------------------------

#: Forks a child for each system call of a roll with late fields, in which strace kills it at just this call.
TRACED = """
import crashlib, json, os, shutil, subprocess, sys
import pyarrow, dreamlake.engine.ondisk
folder = sys.argv[1]
plan = crashlib.Plan()
template = os.path.join(folder, "template")
crashlib.SCENES["late"][0](crashlib.Scene(template, plan, lambda count: None, False))
before = list(plan.ops)

def child(root, ready, go, acknowledge):
    plan.ops = list(before)
    scene = crashlib.Scene(root, plan, lambda count: None, False)
    s = scene.open()
    scene.late(s, 33)
    s.flush()
    scene.append(s, 15, explicit=True)
    scene.late(s, 2)
    scene.late(s, 34)
    os.write(acknowledge, json.dumps(plan.ops).encode() + b"\\n")
    os.write(ready, b"r")
    os.read(go, 1)
    s.flush()
    os.write(acknowledge, b"flushed\\n")
    os._exit(0)

def attempt(root, call, when):
    shutil.copytree(template, root)
    ready, go, acknowledge = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(root, ready[1], go[0], acknowledge[1])
        finally:
            os._exit(3)
    for fd in (ready[1], go[0], acknowledge[1]):
        os.close(fd)
    assert os.read(ready[0], 1) == b"r"
    command = ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
    with subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as tracer:
        line = tracer.stderr.readline()
        assert "attached" in line, line
        os.write(go[1], b"g")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        tracer.communicate(timeout=60)
    said = b"".join(iter(lambda: os.read(acknowledge[0], 1 << 16), b"")).decode().splitlines()
    for fd in (ready[0], go[1], acknowledge[0]):
        os.close(fd)
    ops = json.loads(said[0])
    problem = crashlib.judge(root, ops, len(ops) if "flushed" in said else len(before) + 1)
    shutil.rmtree(root)
    assert status in (0, -9), status
    return status, problem

kills, wrong = {}, []
for call in sys.argv[2].split(","):
    kills[call] = 0
    while True:
        status, problem = attempt(os.path.join(folder, f"{call}{kills[call]}"), call, kills[call] + 1)
        if problem:
            wrong.append(f"{call} {kills[call] + 1}: {problem}")
        if status == 0:
            break
        kills[call] += 1
print(json.dumps([kills, wrong]))
"""

CALLS = "openat,pwrite64,fsync,rename,link,unlink,close"


@pytest.fixture(scope="module")
def strace() -> str:
    path = shutil.which("strace")
    if path is None or subprocess.run([path, "-o", os.devnull, "true"], capture_output=True, timeout=60).returncode:
        pytest.skip("strace is not here, or not allowed to trace")
    return path


def test_killed_at_every_system_call_of_a_roll(tmp_path: Path, strace: str) -> None:
    done = run_python(TRACED, tmp_path, CALLS, timeout=300, PYTHONPATH=crashlib.PATH)
    kills, wrong = json.loads(done.stdout)
    assert not wrong, "\n".join(wrong)
    assert all(kills[call] for call in ("openat", "pwrite64", "fsync", "rename", "link", "unlink"))
    assert sum(kills.values()) > 25
