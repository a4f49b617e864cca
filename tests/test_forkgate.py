"""A fork waits for the calls of other threads whose locks its child would inherit, and they for it; a moment each."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import crashlib
import forkwork
import pytest
from support import ROOT, python_environment

from dreamlake import Lake, Session
from dreamlake.files import Files, FilesView
from dreamlake.lake import SessionView, TracksView
from dreamlake.parameters import Parameters, ParametersView
from dreamlake.runs import Sessions
from dreamlake.track import Track
from dreamlake.tracks import Tracks
from dreamlake.view import TrackView

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

BEGIN = """
import os, sys, threading, time
import dreamlake.engine.forkgate as forkgate
from dreamlake import Lake, Session
root = sys.argv[1]
def opened(name="s"):
    return Session(name, "w", root, segment_points=50, flush_interval=3600.0)
def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def begun(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
"""

STORED = """
with opened() as s:
    for i in range(120): s.track("t").append(i=i)
"""

#: A read of another thread that is in the middle of a segment, until it is let go on.
IN_THE_MIDDLE = """
from dreamlake.engine.segments import SegmentFiles
there, go_on = threading.Event(), threading.Event()
real = SegmentFiles.read
def read(*args, **kwargs):
    there.set()
    go_on.wait(60)
    ended.append(forkgate.time.monotonic())
    return real(*args, **kwargs)
ended = []
track = Lake(root).session("s", "w").track("t")
"""


def run(root: Path, code: str) -> str:
    """Run a script that ends well and complains of nothing, and give what it printed."""
    return crashlib.run_group(BEGIN + STORED + code, root)


@forks
def test_a_fork_waits_for_a_read_of_another_thread(lake_dir: Path) -> None:
    code = """
SegmentFiles.read = read
thread = begun(lambda: track.read())
there.wait(60)
threading.Timer(0.3, go_on.set).start()
pid = os.fork()
if pid == 0:
    os._exit(len(ended))
assert wait(pid) == 2, "the fork did not wait for the read of both segments"
thread.join()
"""
    run(lake_dir, IN_THE_MIDDLE + code)


@forks
@pytest.mark.parametrize("patiences", ["(0.1, 3600.0), False", "(3600.0, 0.1), True"])
def test_a_fork_does_not_wait_for_ever_for_a_call(lake_dir: Path, patiences: str) -> None:
    """Only the first calls of a kind are waited for long: they import, and have Arrow make what it makes once."""
    code = """
forkgate.FIRST_PATIENCE, forkgate.PATIENCE = patiences
if ended_before: track.read()
SegmentFiles.read = read
thread = begun(lambda: track.read())
there.wait(60)
before = time.monotonic()
pid = os.fork()
if pid == 0:
    SegmentFiles.read = real
    assert track.read()["total"] == 120  # its own calls do not wait for that of a thread that is not here
    forkgate.FIRST_PATIENCE = forkgate.PATIENCE = 3600.0
    grandchild = os.fork()
    if grandchild == 0: os._exit(0)
    os._exit(wait(grandchild) if time.monotonic() - before < 50 else 1)
assert wait(pid) == 0
forkgate.FIRST_PATIENCE = forkgate.PATIENCE = 3600.0
pid = os.fork()  # the next one does not wait for it once more
if pid == 0: os._exit(0)
assert wait(pid) == 0
assert not ended
go_on.set()
thread.join()
pid = os.fork()
if pid == 0: os._exit(0)
assert wait(pid) == 0
assert not forkgate._given_up
"""
    run(lake_dir, f"patiences, ended_before = {patiences}\n" + IN_THE_MIDDLE + code)


@forks
def test_a_call_that_comes_while_a_fork_waits_begins_behind_it(lake_dir: Path) -> None:
    code = """
SegmentFiles.read = read
late = []
def look():
    while not forkgate._forking: time.sleep(0.0001)
    def stats(self):
        late.append(1)
    type(track).stats = forkgate.forks_wait(stats)
    threading.Timer(0.3, go_on.set).start()
    track.stats()
first, second = begun(lambda: track.read()), begun(look)
there.wait(60)
pid = os.fork()
if pid == 0:
    os._exit(10 * len(ended) + len(late))
assert wait(pid) == 20, "the second call did not wait for the fork"
second.join()
assert late
first.join()
"""
    run(lake_dir, IN_THE_MIDDLE + code)


@forks
def test_a_call_inside_a_call_goes_on_while_a_fork_waits_for_it(lake_dir: Path) -> None:
    """Else each would wait for the other until the patience is over."""
    code = """
forkgate.FIRST_PATIENCE = 3600.0
@forkgate.forks_wait
def outer():
    there.set()
    while not forkgate._forking: time.sleep(0.0001)
    return len(track)
done = []
begun(lambda: done.append(outer()))
there.wait(60)
pid = os.fork()
if pid == 0:
    os._exit(done != [120])
assert wait(pid) == 0
"""
    run(lake_dir, IN_THE_MIDDLE + code)


@forks
@pytest.mark.parametrize("call", ["Lake(root).scan('t')", "track.downsample(10)", "Lake(root).scan('t').collect()"])
def test_the_threads_that_help_a_call_go_on_while_a_fork_waits_for_it(lake_dir: Path, call: str) -> None:
    """Those of dreamlake, and Polars' own."""
    code = (
        f"call = lambda: {call}\n"
        + """
for name in "abcdefg":
    with opened(name) as other: other.track("t").append_batch([{"i": i} for i in range(120)])
import polars
forkgate.FIRST_PATIENCE = forkgate.PATIENCE = 3600.0
inner = SegmentFiles._open
def slow(*args, **kwargs):
    there.set()
    while not forkgate._forking: time.sleep(0.0001)
    return inner(*args, **kwargs)
SegmentFiles._open = slow
done = []
thread = begun(lambda: done.append(call()))
there.wait(60)
pid = os.fork()
if pid == 0: os._exit(0)
SegmentFiles._open = inner
assert wait(pid) == 0
thread.join(60)
assert done
"""
    )
    run(lake_dir, IN_THE_MIDDLE + code)


@forks
def test_a_fork_inside_a_call_and_two_at_once_wait_for_nobody(lake_dir: Path) -> None:
    code = """
forkgate.FIRST_PATIENCE = 3600.0
both = threading.Barrier(2)
@forkgate.forks_wait
def forking(many):
    if many: both.wait(60)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if len(track) == 120 else 1)
    return wait(pid)
assert forking(False) == 0
results = []
threads = [begun(lambda: results.append(forking(True))) for _ in range(2)]
for thread in threads: thread.join()
assert results == [0, 0]
assert not forkgate._forking and not forkgate._running
"""
    run(lake_dir, IN_THE_MIDDLE + code)


@forks
def test_a_call_that_raises_is_waited_for_no_more(lake_dir: Path) -> None:
    code = """
forkgate.FIRST_PATIENCE = 3600.0
def fail():
    try: track.read(limit=-1)
    except ValueError: pass
begun(fail).join()
pid = os.fork()
if pid == 0: os._exit(0)
assert wait(pid) == 0
"""
    run(lake_dir, IN_THE_MIDDLE + code)


@forks
def test_what_gives_the_points_of_a_batch_may_wait_for_a_fork(lake_dir: Path) -> None:
    """As a pool of forked processes does."""
    code = """
forkgate.FIRST_PATIENCE = 3600.0
forked = threading.Event()
def points():
    there.set()
    forked.wait(60)
    yield {"i": 120}
mine = opened().open()
thread = begun(lambda: mine.track("t").append_batch(points()))
there.wait(60)
pid = os.fork()
if pid == 0: os._exit(0)
forked.set()
assert wait(pid) == 0
thread.join()
mine.close()
"""
    run(lake_dir, IN_THE_MIDDLE + code)
    assert len(Lake(lake_dir).session("s", "w").track("t")) == 121


@forks
def test_a_fork_of_which_nobody_told_the_end_holds_no_call_up(lake_dir: Path) -> None:
    """The handler of a signal may raise in the hook that tells it, and Python swallows that."""
    code = """
forkgate._forking[-1] = time.monotonic() - 1.0
assert len(track) == 120
assert not forkgate._forking
class Interrupted(Exception): pass
real, calls = forkgate._interrupted, []
class Once(dict):
    def __contains__(self, key):
        calls.append(key)
        if len(calls) == 1: raise Interrupted
        return False
forkgate._interrupted = Once()
sys.unraisablehook = lambda raised: None
pid = os.fork()
if pid == 0: os._exit(0)
assert wait(pid) == 0
assert len(calls) == 2 and not forkgate._forking
"""
    run(lake_dir, IN_THE_MIDDLE + code)


@forks
def test_ctrl_c_while_a_fork_waits_ends_the_wait_and_then_the_program(lake_dir: Path) -> None:
    code = """
import signal
forkgate.FIRST_PATIENCE = 3600.0
SegmentFiles.read = read
begun(lambda: track.read())
there.wait(60)
threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGINT)).start()
try:
    pid = os.fork()
    if pid == 0: os._exit(0)
    assert wait(pid) == 0
    time.sleep(60)
except KeyboardInterrupt:
    go_on.set()
    sys.exit(0)
sys.exit("it was swallowed")
"""
    run(lake_dir, IN_THE_MIDDLE + code)


@forks
@pytest.mark.parametrize("opens", [True, False])
def test_a_child_does_not_inherit_an_import_that_nobody_ends(lake_dir: Path, opens: bool) -> None:
    """With a session of this process open or not: the second set of hooks comes with the first session."""
    code = (
        f"opens = {opens}\n"
        + """
if opens: mine = opened("other").open()
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "dreamlake.engine.bytime" and threading.current_thread() is not threading.main_thread():
            there.set()
            time.sleep(0.3)
there = threading.Event()
sys.meta_path.insert(0, Slow())
track = Lake(root).session("s", "w").track("t")
thread = begun(lambda: track.read_by_time())
there.wait(60)
pid = os.fork()
if pid == 0:
    os._exit(track.read_by_time()["total"] != 120)
assert wait(pid) == 0
thread.join()
"""
    )
    run(lake_dir, code)


@forks
@pytest.mark.parametrize("name", ["logging", "concurrent.futures.thread"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_hooks_of_python_that_come_with_a_module_are_no_trouble(lake_dir: Path, name: str, when: str) -> None:
    """Imported behind ours, its hook has taken a lock that the call needs; in the wait, one is let go never taken."""
    code = (
        f"name, when = {name!r}, {when!r}\n"
        + """
import importlib, os
assert name not in sys.modules
taken = {"logging": "_lock", "concurrent.futures.thread": "_global_shutdown_lock"}[name]
if when == "before": importlib.import_module(name)
there = threading.Event()
@forkgate.forks_wait
def work():
    there.set()
    while not forkgate._forking: time.sleep(0.0001)
    module = importlib.import_module(name)
    if name == "logging":
        module.getLogger("new").warning
        with module._lock: pass
    else:
        with module.ThreadPoolExecutor(1) as executor: executor.submit(int, "5").result()
    done.append(1)
done = []
thread = begun(work)
there.wait(60)
pid = os.fork()
if pid == 0:
    with getattr(sys.modules[name], taken): os._exit(not done)
assert wait(pid) == 0
with getattr(sys.modules[name], taken): pass
thread.join()
"""
    )
    crashlib.run_group(BEGIN + code, lake_dir)


@forks
def test_a_child_may_open_what_another_thread_of_the_parent_is_closing(lake_dir: Path) -> None:
    code = """
import dreamlake.engine.writer as writer
closing, go_on = threading.Event(), threading.Event()
real = writer.Writer.close
def close(self, *args, **kwargs):
    closing.set()
    go_on.wait(60)
    return real(self, *args, **kwargs)
writer.Writer.close = close
mine = opened().open()
mine.track("t").append(i=120)
thread = begun(mine.close)
closing.wait(60)
pid = os.fork()
if pid == 0:
    writer.Writer.close = real
    with opened() as other:
        other.track("t").append(i=-1)
    os._exit(0)
assert wait(pid) == 0
go_on.set()
thread.join()
"""
    run(lake_dir, code)
    points = [row["data"]["i"] for row in Lake(lake_dir).session("s", "w").track("t").read()["data"]]
    assert points == [*range(120), -1, 120]


@forks
@pytest.mark.parametrize("mode", forkwork.SPAN)
def test_forks_at_random_moments_of_first_calls(lake_dir: Path, mode: str) -> None:
    """A few of them; many: ``python -m campaigns forks``."""
    command = [sys.executable, forkwork.__file__, str(lake_dir), "3", "1", mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=python_environment(PYTHONPATH=ROOT))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["trials"] > 0
    assert said["wrong"] == {}


#: What is public, imports or uses Arrow, and is not waited for, and why.
NOT_WAITED_FOR = {
    # wait for the writer's thread, for which a fork waits anyway, or for the disk or the network
    *("Session.flush", "Session.close", "Session.sync", "Tracks.flush", "Track.flush"),
    *("Files.upload", "FilesView.download"),
    "Session.check_there",  # asks the disk
    "Track.append",  # never in Arrow, and imports only what opening has imported
    "Track.append_batch",  # as these, behind a part that is
    *("Session.track", "Session.open_if_needed"),  # a new track is, and what opens
}


def test_calls_that_import_or_use_arrow_are_waited_for() -> None:
    gated, bare = set(), set()
    for kind in (
        *(Session, Tracks, Track, TrackView, Lake, SessionView, TracksView),
        *(Files, FilesView, Parameters, ParametersView, Sessions),
    ):
        for name, member in vars(kind).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                (gated if hasattr(member, "__wrapped__") else bare).add(f"{kind.__name__}.{name}")
    assert bare == NOT_WAITED_FOR
    assert {"Track.compact", "TrackView.read", "TrackView.to_arrow", "Lake.scan", "Sessions.to_polars"} <= gated
