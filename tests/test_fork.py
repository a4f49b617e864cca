"""Forks and pools in the middle of a run: nothing is written twice, nothing hangs, what the children append arrives."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import crashlib
import pytest
from support import start_python

from dreamlake import Lake

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

BEGIN = """
import faulthandler, os, signal, sys, threading, time
from dreamlake import Lake, Session
root = sys.argv[1]
def opened(**options):
    return Session("s", "w", root, **{"segment_points": 50, "flush_interval": 3600.0, **options})
def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(root: Path, code: str, *args: object) -> str:
    """Run a script that ends well and complains of nothing, and give what it printed."""
    return crashlib.run_group(BEGIN + code, root, *args)


def found(root: Path, track: str = "t") -> list[dict[str, Any]]:
    """The points of a track, indices checked."""
    data = Lake(root).session("s", "w").track(track).read(limit=None)["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    return [row["data"] for row in data]


def tally(points: list[dict[str, Any]]) -> dict[Any, list[Any]]:
    """The numbers of each writer, in the order of the track."""
    by_writer: dict[Any, list[Any]] = {}
    for point in points:
        by_writer.setdefault(point["who"], []).append(point["i"])
    return by_writer


def test_what_is_pending_at_a_fork_is_written_by_the_parent_only(lake_dir: Path) -> None:
    run(
        lake_dir,
        """
s = opened().open()
t = s.track("t")
for i in range(30): t.append(who="parent", i=i)
s.log("from the parent")
s.track("described", metadata={"a": 1})
pid = os.fork()
if pid == 0:
    s.flush()
    assert t.read()["data"] == [], "the child has written what is the parent's"
    sys.exit(0)
assert wait(pid) == 0
s.flush()
""",
    )
    assert tally(found(lake_dir)) == {"parent": list(range(30))}
    assert len((lake_dir / "w" / "s" / "logs" / "logs.jsonl").read_text().splitlines()) == 1


SLOW_IMPORT = """
importing = threading.Event()
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2] and threading.current_thread() is not threading.main_thread():
            importing.set()
            time.sleep(2.5)  # a cold disk, a home over the network
sys.meta_path.insert(0, Slow())
s = opened().open()
t = s.track("t")
t.append(who="parent", i=0)
assert importing.wait(30)
pid = os.fork()
if pid == 0:
    faulthandler.dump_traceback_later(15, exit=True)
    t.append(who="child", i=0)
    t.flush()
    os._exit(0)
assert wait(pid) == 0, "the child waits for an import of a thread that it does not have"
s.close()
"""


@pytest.mark.parametrize("module", ["pyarrow", "dreamlake.engine.ondisk"])
def test_a_fork_waits_for_a_slow_import_of_the_thread(lake_dir: Path, module: str) -> None:
    run(lake_dir, SLOW_IMPORT, module)
    assert tally(found(lake_dir)) == {"parent": [0], "child": [0]}


@pytest.mark.parametrize("leaves", ["sys.exit()", "pass", "s.flush(); os._exit(0)", "s.close(); os._exit(0)"])
def test_a_child_appends_to_the_inherited_session(lake_dir: Path, leaves: str) -> None:
    run(
        lake_dir,
        f"""
s = opened().open()
t = s.track("t")
for i in range(30): t.append(who="parent", i=i)
pid = os.fork()
if pid == 0:
    for i in range(70): t.append(who="child", i=i)
    s.track("new").append(who="child", i=0)
    {leaves}
else:
    for i in range(30, 130): t.append(who="parent", i=i)
    assert wait(pid) == 0
    s.close()
""",
    )
    assert tally(found(lake_dir)) == {"parent": list(range(130)), "child": list(range(70))}
    assert tally(found(lake_dir, "new")) == {"child": [0]}
    assert json.loads((lake_dir / "w" / "s" / "session.json").read_text())["status"] == "finished"


def test_forks_while_the_thread_writes(lake_dir: Path) -> None:
    """Many forks at any moment of flushes and rolls; each child appends, reads and leaves."""
    run(
        lake_dir,
        """
s = opened(flush_interval=0.002).open()
t = s.track("t")
number, children = 0, []
for fork in range(25):
    for _ in range(40):
        t.append(who="parent", i=number)
        number += 1
        if number % 7 == 0: t.append(who="parent", i=number, odd=[fork]); number += 1
    pid = os.fork()
    if pid == 0:
        for i in range(60): t.append(who=fork, i=i)
        if fork % 3 == 0: t.flush(); assert t.read(limit=1)["total"] >= 60
        if fork % 3 == 1: s.close()
        sys.exit(0)
    children.append(pid)
    if len(children) == 3:
        while children: assert wait(children.pop()) == 0
while children: assert wait(children.pop()) == 0
print(number)
s.close()
""",
    )
    by_writer = tally(found(lake_dir))
    assert by_writer.pop("parent") == list(range(25 * 40 + _odd(25 * 40)))
    assert by_writer == {fork: list(range(60)) for fork in range(25)}


def _odd(count: int) -> int:
    number = extra = 0
    for _ in range(count):
        number += 1
        if number % 7 == 0:
            number += 1
            extra += 1
    return extra


def test_a_fork_while_another_thread_appends_and_flushes(lake_dir: Path) -> None:
    run(
        lake_dir,
        """
s = opened(flush_interval=0.002).open()
t = s.track("t")
ended = threading.Event()
def work(me):
    i = 0
    while not ended.is_set() or i < 50:
        t.append(who=me, i=i)
        i += 1
        if i % 20 == 0: t.flush()
        if i % 35 == 0: t.append_batch([{"who": me, "i": i}]); i += 1
threads = [threading.Thread(target=work, args=(f"thread {n}",)) for n in range(2)]
for thread in threads: thread.start()
for fork in range(15):
    time.sleep(0.003)
    pid = os.fork()
    if pid == 0:
        for i in range(5): t.append(who=fork, i=i)
        t.flush()
        os._exit(0)
    assert wait(pid) == 0
ended.set()
for thread in threads: thread.join()
s.close()
""",
    )
    by_writer = tally(found(lake_dir))
    for who, numbers in by_writer.items():
        assert numbers == list(range(len(numbers))), who
    assert {who: len(n) for who, n in by_writer.items() if isinstance(who, int)} == dict.fromkeys(range(15), 5)
    assert len(by_writer) == 17


def test_a_child_inherits_no_timestamp(lake_dir: Path) -> None:
    """``_ts=-1`` takes that of the latest append of its own process."""
    run(
        lake_dir,
        """
s = opened().open()
t = s.track("t")
t.append(who="parent", i=0, _ts=1234.5)
pid = os.fork()
if pid == 0:
    t.append(who="child", i=0, _ts=-1)
    t.append(more=1, _ts=-1)
    s.flush()
    os._exit(0)
assert wait(pid) == 0
t.append(mine=1, _ts=-1)
s.close()
""",
    )
    points = {point["who"]: point for point in found(lake_dir)}
    assert points["parent"]["mine"] == 1
    assert points["parent"]["_ts"] == 1234.5
    assert points["child"]["more"] == 1
    assert points["child"]["_ts"] > 1e9


POOL = """
import multiprocessing
def inherit(n):
    for i in range(20): track.append(who=n, i=i)
    return os.getpid()
def open_it(n):
    with opened() as mine:
        for i in range(20): mine.track("t").append(who=n, i=i)
    return os.getpid()
def never_close(n):
    mine = opened().open()
    for i in range(20): mine.track("t").append(who=n, i=i)
    return os.getpid()
def flush(n):
    for i in range(20): track.append(who=n, i=i)
    track.flush()
    return os.getpid()
if __name__ == "__main__":
    session = opened(flush_interval=0.01) if sys.argv[3] == "busy" else opened()
    track = session.open().track("t")
    for i in range(100): track.append(who="parent", i=i)
    context = multiprocessing.get_context("fork")
    work = globals()[sys.argv[2]]
    if sys.argv[4] == "join":
        pool = context.Pool(3)
        pids = pool.map(work, range(9), chunksize=1)
        pool.close()
        pool.join()
    elif sys.argv[4] == "executor":
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(3, mp_context=context) as pool:
            pids = list(pool.map(work, range(9)))
    else:
        with context.Pool(3) as pool:
            pids = pool.map(work, range(9), chunksize=1)
    for i in range(100, 200): track.append(who="parent", i=i)
    assert os.getpid() not in pids
    session.close()
"""


@pytest.mark.parametrize("how", ["join", "terminate", "executor"])
@pytest.mark.parametrize(
    ("work", "state"),
    [("inherit", "quiet"), ("inherit", "busy"), ("open_it", "busy"), ("never_close", "quiet"), ("flush", "busy")],
)
def test_a_pool_in_the_middle_of_a_run(lake_dir: Path, work: str, state: str, how: str) -> None:
    options = BEGIN.replace('"flush_interval": 3600.0', '"flush_interval": 0.01') if state == "busy" else BEGIN
    crashlib.run_group(options + POOL, lake_dir, work, state, how)
    by_writer = tally(found(lake_dir))
    assert by_writer.pop("parent") == list(range(200))
    assert by_writer == {n: list(range(20)) for n in range(9)}
    assert json.loads((lake_dir / "w" / "s" / "session.json").read_text())["status"] == "finished"


SPAWN = """
import multiprocessing, os, sys
from dreamlake import Session
def work(args):
    root, n = args
    session = Session("s", "w", root, segment_points=50, flush_interval=3600.0)
    for i in range(20): session.track("t").append(who=n, i=i)
if __name__ == "__main__":
    root = sys.argv[1]
    with Session("s", "w", root, segment_points=50, flush_interval=3600.0) as session:
        session.track("t").append(who="parent", i=0)
        pool = multiprocessing.get_context(sys.argv[2]).Pool(2)
        pool.map(work, [(root, n) for n in range(4)], chunksize=1)
        pool.close()
        pool.join()
        session.track("t").append(who="parent", i=1)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_of_fresh_processes(lake_dir: Path, tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SPAWN)
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    import subprocess

    from support import python_environment

    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(lake_dir), method],
        capture_output=True,
        text=True,
        timeout=120,
        env=python_environment(),
    )
    assert done.returncode == 0, done.stderr + code[:0]
    assert not done.stderr
    assert tally(found(lake_dir)) == {"parent": [0, 1], **{n: list(range(20)) for n in range(4)}}


def test_children_of_a_killed_parent_hold_no_lock(lake_dir: Path) -> None:
    code = (
        BEGIN
        + """
s = opened().open()
t = s.track("t")
for i in range(10): t.append(who="parent", i=i)
t.flush()
def fork_under_the_lock():
    with s.writer.session_lock.hold(10):
        pid = os.fork()
        if pid == 0:
            print("child", os.getpid(), flush=True)
            sys.stdin.readline()
            os._exit(0)
        time.sleep(60)
fork_under_the_lock()
"""
    )
    with start_python(code, lake_dir) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline().split()[1])
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        os.kill(child, 0)  # it lives
        with crashlib.Session("s", "w", lake_dir, segment_points=50) as mine:
            mine.track("t").append(who="me", i=0)
            mine.flush()
        os.kill(child, 0)
        assert process.stdin is not None
        process.stdin.close()
    assert tally(found(lake_dir)) == {"parent": list(range(10)), "me": [0]}


def test_a_fork_while_the_disk_hangs_does_not_wait_for_ever(lake_dir: Path) -> None:
    out = run(
        lake_dir,
        """
import dreamlake.storage.local as local
s = opened().open()
t = s.track("t")
t.append(who="parent", i=0)
t.flush()
gate, held = threading.Event(), threading.Event()
class Slow:
    def __getattr__(self, name):
        real = getattr(os, name)
        if name != "pwrite": return real
        def pwrite(*args):
            held.set()
            gate.wait()
            return real(*args)
        return pwrite
local.os_ = Slow()
t.append(who="parent", i=1)
flushing = threading.Thread(target=t.flush)
flushing.start()
held.wait()
pid = os.fork()
if pid == 0:
    local.os_ = os
    t.append(who="child", i=0)
    try:
        t.append_batch([{"who": "child", "i": 1}])
    finally:
        os._exit(0)
gate.set()
flushing.join()
assert wait(pid) == 0
s.close()
print("whole")
""",
    )
    assert out == "whole\n"
    assert tally(found(lake_dir)) == {"parent": [0, 1], "child": [0, 1]}


def test_grandchildren(lake_dir: Path) -> None:
    run(
        lake_dir,
        """
s = opened().open()
t = s.track("t")
t.append(who=0, i=0)
first = os.getpid()
for depth in (1, 2, 3):
    pid = os.fork()
    if pid:
        assert wait(pid) == 0
        break
    t.append(who=depth, i=0)
else:
    depth += 1
t.append(who=depth - 1, i=1)
if os.getpid() == first: s.close()
""",
    )
    assert tally(found(lake_dir)) == {who: [0, 1] for who in (0, 3, 2, 1)}


def test_a_sigterm_that_the_main_thread_cannot_notice_ends_a_worker_all_the_same(lake_dir: Path) -> None:
    """It reaches another thread here, as it may reach the main one between its last look and a wait."""
    run(
        lake_dir,
        """
import multiprocessing
context = multiprocessing.get_context("fork")
def work():
    t.append(who="child", i=0)
    def strike():
        time.sleep(0.5)  # the main thread waits by now
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    threading.Thread(target=strike, daemon=True).start()
    lock.acquire()
with opened() as s:
    t = s.track("t")
    t.append(who="parent", i=0)
    lock = context.Lock()
    lock.acquire()
    child = context.Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode == 143, child.exitcode
""",
    )
    assert tally(found(lake_dir)) == {"parent": [0], "child": [0]}


def test_a_sigterm_before_the_hooks_of_a_child_of_multiprocessing_loses_nothing(lake_dir: Path) -> None:
    """A pool may end while a worker is leaving by itself: SIGTERM then ends the finalizers of which one flushes."""
    run(
        lake_dir,
        """
import multiprocessing
from multiprocessing.util import Finalize
def work():
    t.append(who="child", i=0)
    Finalize(None, lambda: os.kill(os.getpid(), signal.SIGTERM), exitpriority=100)
with opened() as s:
    t = s.track("t")
    t.append(who="parent", i=0)
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode in (143, -15), child.exitcode  # from 3.12 on we have flushed, and let go, by then
""",
    )
    assert tally(found(lake_dir)) == {"parent": [0], "child": [0]}


def test_a_sigterm_to_a_child_that_is_just_made_is_not_swallowed(lake_dir: Path) -> None:
    """It comes before the child took the parent's handler away: Python would forget it, so the kernel keeps it."""
    run(
        lake_dir,
        """
blocked = []
def first_hook():
    blocked.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    if len(blocked) == 2: os.kill(os.getpid(), signal.SIGTERM)
os.register_at_fork(before=lambda: blocked.append(None), after_in_child=first_hook)
with opened() as s:
    t = s.track("t")
    t.append(who="parent", i=0)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    assert wait(pid) == -signal.SIGTERM
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    blocked.append(None)
    pid = os.fork()
    if pid == 0:
        assert blocked[-1] is True
        os._exit(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    assert wait(pid) == 0
""",
    )
    assert tally(found(lake_dir)) == {"parent": [0]}


def test_a_sigterm_in_the_hooks_of_a_fork_ends_the_parent_after_it(lake_dir: Path) -> None:
    code = (
        BEGIN
        + """
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGTERM))
with opened() as s:
    s.track("t").append(who="parent", i=0)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    wait(pid)
    time.sleep(60)
"""
    )
    with start_python(code, lake_dir) as process:
        assert process.wait(30) == 143
        assert process.stderr is not None
        assert not process.stderr.read()
    assert tally(found(lake_dir)) == {"parent": [0]}


def test_sigterm_to_a_child_leaves_the_parent_alone(lake_dir: Path) -> None:
    run(
        lake_dir,
        """
import multiprocessing
def work():
    t.append(who="child", i=0)
    ready.set()
    time.sleep(600)
with opened() as s:
    t = s.track("t")
    t.append(who="parent", i=0)
    ready = multiprocessing.get_context("fork").Event()
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    ready.wait()
    child.terminate()
    child.join()
    assert child.exitcode in (143, -15), child.exitcode
    t.append(who="parent", i=1)
""",
    )
    assert tally(found(lake_dir)) == {"parent": [0, 1], "child": [0]}
    assert json.loads((lake_dir / "w" / "s" / "session.json").read_text())["status"] == "finished"


def test_arrow_does_before_a_fork_what_it_does_once(lake_dir: Path) -> None:
    """Where another thread is at it, and holds a lock, at the fork, the child hangs at its first use."""
    code = """
        import pyarrow
        asked = []
        def told(name, real):
            setattr(pyarrow, name, lambda *args: asked.append((name, threading.current_thread())) or real(*args))
        with opened() as session:
            session.track("t").append(v=1)
            names = ["allocate_buffer", "io_thread_count", "cpu_count"]
            for name in names:
                told(name, getattr(pyarrow, name))
            pid = os.fork()
            if not pid:
                os._exit(len(asked))
            assert wait(pid) == len(names)
            assert asked == [(name, threading.main_thread()) for name in names]
    """
    run(lake_dir, textwrap.dedent(code))
