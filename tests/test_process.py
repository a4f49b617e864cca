"""Work side by side, in forked children, and at the interpreter's exit."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from build import TrackOnDisk, points_of
from crashlib import in_thread, wait_for

from dreamlake.engine import process

needs_fork = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")


@pytest.mark.parametrize("width", [1, 2, 5, 100])
def test_results_are_in_order_and_all_threads_end(width: int) -> None:
    assert process.side_by_side(lambda item: item * 2, list(range(50)), width) == list(range(0, 100, 2))
    assert process.side_by_side(lambda item: item, [], width) == []


def test_several_threads_work() -> None:
    met = threading.Barrier(3, timeout=30)
    threads = process.side_by_side(lambda _: (met.wait(), threading.get_ident())[1], [0, 1, 2], 3)
    assert len(set(threads)) == 3
    assert threading.get_ident() in threads


def test_threads_are_kept_for_the_next_call_and_end_when_none_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE", 0.2)
    monkeypatch.setattr(process, "_helpers", process.Helpers())
    seen = []
    for _ in range(20):
        met = threading.Barrier(3, timeout=30)
        seen.append(process.side_by_side(lambda _, met=met: (met.wait(), threading.current_thread())[1], [0, 1, 2], 3))
        wait_for(lambda: len(process._helpers.idle()) == 2)
    helpers = {thread for each in seen for thread in each} - {threading.current_thread()}
    if len(helpers) > 2:  # a machine so busy that a call came too late for the first ones
        assert len(helpers) < 40
    for thread in helpers:
        thread.join(30)
        assert not thread.is_alive()
    assert not process._helpers.idle()


def test_a_helper_keeps_nothing_of_what_it_did() -> None:
    class Made:
        pass

    met = threading.Barrier(2, timeout=30)
    made = process.side_by_side(lambda _: (met.wait(), Made())[1], [0, 1], 2)
    left = [weakref.ref(each) for each in made]
    wait_for(lambda: bool(process._helpers.idle()))
    del made
    gc.collect()
    assert [each() for each in left] == [None, None]


def test_a_helper_that_has_not_begun_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Callable[[], None]] = []
    monkeypatch.setattr(process._helpers, "ask", lambda job, count: asked.extend([job] * count))
    assert process.side_by_side(str, [1, 2, 3], 3) == ["1", "2", "3"]
    for job in asked:  # nor does it do anything when it comes at last
        job()
    assert len(asked) == 2


def test_a_helper_that_was_taken_and_not_asked_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took it was interrupted just then; and a thread that ends meanwhile costs the next call nothing."""
    monkeypatch.setattr(process, "PATIENCE", 0.05)
    monkeypatch.setattr(process, "_helpers", process.Helpers())
    met = threading.Barrier(2, timeout=30)
    process.side_by_side(lambda _: met.wait(), [0, 1], 2)
    wait_for(lambda: bool(process._helpers.idle()) or not _readers())
    if process._helpers._idle:
        _, thread = process._helpers._idle.pop()
        thread.join(30)
        assert not thread.is_alive()
    assert process.side_by_side(str, [1, 2, 3], 3) == ["1", "2", "3"]
    wait_for(lambda: not _readers())


def _readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dreamlake-read"]


def test_helpers_that_come_too_late_are_not_taken_for_those_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """One works on while others come and find nothing to do."""
    both, waiting, over = threading.Barrier(2, timeout=30), threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    class Watched(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            waiting.set()
            return super().get(block, timeout)

    def ask(job: Callable[[], None], count: int) -> None:
        def come_late() -> None:
            waiting.wait(30)
            for _ in range(10):
                job()
            over.set()

        threads.extend(map(in_thread, (job, come_late)))

    def work(item: int) -> int:
        both.wait()
        if threading.current_thread() is threads[0]:
            over.wait(30)
            time.sleep(0.2)  # for who does not wait to be seen
        return item

    monkeypatch.setattr(process, "SimpleQueue", Watched)
    monkeypatch.setattr(process._helpers, "ask", ask)
    made = process.side_by_side(work, [1, 2], 3).copy()
    for thread in threads:
        thread.join(30)
    assert made == [1, 2]


def test_many_calls_at_once_have_threads_of_their_own() -> None:
    met = threading.Barrier(12, timeout=30)

    def call(_: int) -> list[int]:
        return process.side_by_side(lambda item: (met.wait(), item)[1], [0, 1, 2], 3)

    assert process.side_by_side(call, [0, 1, 2, 3], 4) == [[0, 1, 2]] * 4


def test_an_error_stops_the_others_and_is_raised() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise KeyError(item)

    with pytest.raises(KeyError):
        process.side_by_side(work, list(range(100)), 2)
    assert len(begun) <= 2


def test_without_threads_this_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert process.side_by_side(str, [1, 2, 3], 3) == ["1", "2", "3"]


def test_how_many_threads_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote:
        width = 32

    monkeypatch.setattr(process, "MAX_WIDTH", 1)
    assert process.reading_width(object()) == 1
    assert process.reading_width(Remote(), values=1) == 32
    monkeypatch.undo()
    assert 1 <= process.reading_width(object(), values=process.FEW_VALUES) <= process.MAX_WIDTH
    assert process.reading_width(object(), values=process.FEW_VALUES - 1) == 1
    monkeypatch.setattr(process, "_forked", True)
    assert process.reading_width(Remote()) == 1


SETUP = """
import os, sys, threading

def view():
    from dreamlake.lake import Lake
    return Lake(sys.argv[1]).session("s", "w").track("loss")
"""

FORKED = """
from dreamlake.lake import Lake
track = view()
assert track.to_polars().height == 45
pid = os.fork()
if pid == 0:
    try:
        assert len(track.read(limit=None)["data"]) == 45
        assert track.to_arrow().num_rows == 45
        assert list(track.to_pandas()["step"]) == list(range(45))
        assert view().read_by_time(None, None, 3, True)["data"][0]["index"] == 44
        lake = Lake(sys.argv[1])
        for refused in (track.scan, track.to_polars, lambda: lake.scan("loss"), lake.session("s", "w").logs):
            try:
                refused()
            except RuntimeError as error:
                assert "spawn" in str(error)
            else:
                raise AssertionError(f"{refused} did not refuse")
        pid = os.fork()
        if pid == 0:
            try:
                track.scan()
            except RuntimeError:
                os._exit(0)
            os._exit(1)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

FORKED_WITHOUT_POLARS = """
assert view().read(limit=None)["total"] == 45
assert "polars" not in sys.modules
pid = os.fork()
if pid == 0:
    os._exit(0 if view().scan().collect().height == 45 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

FORKED_BEFORE_ANY_READ = """
import polars
from dreamlake.view import TrackView
assert polars.DataFrame({"a": [1, 2]}).lazy().select(polars.col("a").sum()).collect().item() == 3
pid = os.fork()
if pid == 0:
    try:
        view().scan()
    except RuntimeError:
        os._exit(0)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

AT_EXIT = """
import atexit
import polars  # which cannot be imported at exit for the first time
track = view()

@atexit.register
def last():
    print(track.to_polars().height, track.read()["total"], track.to_arrow().num_rows)

def late():
    threading.main_thread().join()
    print(len(track.read(limit=None)["data"]))

threading.Thread(target=late).start()
"""


@pytest.fixture
def small_lake(lake_dir: Path) -> Path:
    track = TrackOnDisk(lake_dir)
    points = points_of(45)
    track.segments(points[:40], 10)
    track.hot(points[40:], 40)
    return lake_dir


@needs_fork
@pytest.mark.parametrize(
    "code", [FORKED, FORKED_BEFORE_ANY_READ, FORKED_WITHOUT_POLARS], ids=["read", "only polars", "nothing"]
)
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a fork warns there when threads are running")
def test_a_forked_child_reads_and_refuses_to_hang(small_lake: Path, run_python: Any, code: str) -> None:
    run_python(SETUP + code, small_lake, timeout=60)


def test_reads_at_the_interpreters_exit(small_lake: Path, run_python: Any) -> None:
    out = run_python(SETUP + AT_EXIT, small_lake, timeout=60).stdout
    assert sorted(out.split("\n")) == ["", "45", "45 45 45"]
