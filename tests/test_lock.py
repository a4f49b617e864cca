"""Locks between processes, threads and forked children: who waits, who gets them, and what ends them."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from math import inf, isfinite
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Faulty, run_python, start_python

import dreamlake.storage.lock as module
from dreamlake.engine.sessionlock import COUNTER_BYTES, Counter
from dreamlake.errors import LocksUnsupportedError, LockTimeoutError
from dreamlake.storage.lock import FileLock

HOLDER = """
    import sys, time
    from dreamlake.storage.lock import FileLock
    lock = FileLock.acquire(sys.argv[1], 10)
    print("held", flush=True)
    sys.stdin.readline()
    lock.release()
    print("released", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def lock_path(tmp_path: Path) -> str:
    return str(tmp_path / ".lock")


@contextlib.contextmanager
def holder(path: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock; a line to its input makes it let go."""
    with start_python(HOLDER, path) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_free_lock_is_taken_and_given_back(lock_path: str) -> None:
    for _ in range(3):
        with FileLock.acquire(lock_path, 0):
            assert os.path.exists(lock_path)
    lock = FileLock.acquire(lock_path, 0)
    lock.release()
    lock.release()


def test_another_process_waits_in_vain(lock_path: str) -> None:
    with holder(lock_path) as process:
        with pytest.raises(LockTimeoutError, match=r"\.lock"):
            FileLock.acquire(lock_path, 0.1)
        tell(process)
        with FileLock.acquire(lock_path, 10):
            pass


def test_kill_9_ends_a_lock(lock_path: str) -> None:
    with holder(lock_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with FileLock.acquire(lock_path, 5):
            pass


def test_a_lock_survives_its_waiters(lock_path: str) -> None:
    """A waiter opens and closes the file: in its own process, so the holder keeps the lock."""
    with FileLock.acquire(lock_path, 0):
        code = """
            import sys
            from dreamlake.errors import LockTimeoutError
            from dreamlake.storage.lock import FileLock
            try:
                FileLock.acquire(sys.argv[1], 0.05)
            except LockTimeoutError:
                print("busy")
        """
        for _ in range(2):
            assert run_python(code, lock_path).stdout == "busy\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_inherit_a_lock(lock_path: str) -> None:
    """A child's close does not free its parent's lock, and kill -9 of the parent frees it though a child lives on."""
    code = """
        import os, sys, time
        from dreamlake.errors import LockTimeoutError
        from dreamlake.storage.lock import FileLock
        lock = FileLock.acquire(sys.argv[1], 5)
        child = os.fork()
        if child == 0:
            try:
                FileLock.acquire(sys.argv[1], 0.05)
                print("inherited", flush=True)
            except LockTimeoutError:
                print("busy", flush=True)
            lock.release()
            os._exit(0)
        os.waitpid(child, 0)
        child = os.fork()
        if child:
            print(child, flush=True)
        time.sleep(60)
    """
    with start_python(code, lock_path) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "busy\n"
            child = int(process.stdout.readline())
            try:
                with pytest.raises(LockTimeoutError):
                    FileLock.acquire(lock_path, 0.05)
                process.kill()
                process.wait()
                with FileLock.acquire(lock_path, 5):
                    os.kill(child, 0)  # it still lives, with the descriptor that it inherited
            finally:
                os.kill(child, signal.SIGKILL)
        finally:
            process.kill()


def test_many_processes_take_turns(lock_path: str) -> None:
    """A counter in the lock file, read and raised under the lock, misses no step."""
    code = """
        import sys
        from dreamlake.storage.lock import FileLock
        for _ in range(100):
            with FileLock.acquire(sys.argv[1], 60) as lock:
                lock.write(str(int(lock.read() or b"0") + 1).encode())
    """
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(start_python(code, lock_path)) for _ in range(4)]
        results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], results
    assert Path(lock_path).read_bytes() == b"400"


def test_threads_of_one_process_take_turns(lock_path: str) -> None:
    """The system would give a process its own lock twice."""
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with FileLock.acquire(lock_path, 60):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1


def test_a_second_taker_in_the_process_does_not_break_the_first(lock_path: str) -> None:
    with FileLock.acquire(lock_path, 0):
        with pytest.raises(LockTimeoutError):
            FileLock.acquire(lock_path, 0.01)
        with pytest.raises(LockTimeoutError):
            FileLock.acquire(os.path.join(os.path.dirname(lock_path), ".", ".lock"), 0.01)
        code = "import sys; from dreamlake.storage.lock import FileLock; FileLock.acquire(sys.argv[1], 0.01)"
        assert "LockTimeoutError" in run_python(code, lock_path, check=False).stderr


def test_locks_on_two_files_are_two_locks(tmp_path: Path) -> None:
    with FileLock.acquire(str(tmp_path / "a"), 0), FileLock.acquire(str(tmp_path / "b"), 0):
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_content_is_replaced_in_place(lock_path: str) -> None:
    with FileLock.acquire(lock_path, 0) as lock:
        assert lock.read() == b""
        for content in (b"12345", b"1", b"", b"123"):
            lock.write(content)
            assert lock.read() == content
    assert Path(lock_path).read_bytes() == b"123"


def test_a_lock_on_a_file_that_was_replaced_is_not_taken(lock_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.fcntl.lockf
    replaced: list[str] = []

    def lockf(fd: int, operation: int) -> None:
        real(fd, operation)
        if not replaced:
            replaced.append(lock_path)
            os.unlink(lock_path)
            Path(lock_path).write_bytes(b"new")

    monkeypatch.setattr(module.fcntl, "lockf", lockf)
    with FileLock.acquire(lock_path, 5) as lock:
        assert lock.read() == b"new"
    assert replaced


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_filesystem_without_locks_says_what_to_do(lock_path: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.fcntl, "lockf", lockf)
    with pytest.raises(LocksUnsupportedError, match="single_writer=True"):
        FileLock.acquire(lock_path, 5)
    with FileLock.acquire(lock_path, 0, locked=False) as lock:
        lock.write(b"7")
        assert lock.read() == b"7"


def test_a_system_without_locks_writes_as_a_single_writer(lock_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fcntl", None)
    with pytest.raises(LocksUnsupportedError, match="single_writer=True"):
        FileLock.acquire(lock_path, 5)
    with FileLock.acquire(lock_path, 0, locked=False) as lock:
        lock.write(b"7")
    assert Path(lock_path).read_bytes() == b"7"


def test_other_errors_come_through_and_leave_no_claim(lock_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "os_", Faulty(os).fail("open", PermissionError(errno.EACCES, "no")))
        with pytest.raises(PermissionError):
            FileLock.acquire(lock_path, 5)
    with FileLock.acquire(lock_path, 0):
        pass
    with pytest.raises(FileNotFoundError):
        FileLock.acquire(lock_path + "-no/such", 5)


def test_a_full_disk_is_told(lock_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileLock.acquire(lock_path, 0) as lock:
        monkeypatch.setattr(module, "os_", Faulty(os).fail("pwrite", lambda fd, data, offset: 2))
        with pytest.raises(OSError, match="No space left"):
            lock.write(b"12345")


def test_a_signal_handler_that_raises_leaves_no_claim(lock_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(fd: int, operation: int) -> None:
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(module.fcntl, "lockf", interrupted)
        with pytest.raises(SystemExit):
            FileLock.acquire(lock_path, 5)
    with FileLock.acquire(lock_path, 0):
        pass


def test_a_dropped_lock_is_free(lock_path: str) -> None:
    lock = FileLock.acquire(lock_path, 0)
    del lock
    gc.collect()
    with FileLock.acquire(lock_path, 0):
        pass


def test_import_without_fcntl() -> None:
    code = """
        import sys
        sys.modules["fcntl"] = None
        from dreamlake.storage import local, lock
        assert lock.fcntl is None
        assert local.fcntl is None
    """
    run_python(code)


# ------------------------------------------------------------------------------------------------ the counter in it


@given(
    st.builds(
        Counter,
        st.integers(0, 2**64),
        st.integers(0, 2**64),
        st.floats(-1e300, 1e300) | st.just(-inf) | st.floats(1.7e9, 1.8e9),
    )
)
def test_the_counter_is_json_of_one_length_and_comes_back(counter: Counter) -> None:
    data = counter.encode()
    assert len(data) == COUNTER_BYTES
    said = json.loads(data)
    assert said == {
        "changes": counter.changes,
        "rewrites": counter.rewrites,
        "lastTs": counter.last_ts if isfinite(counter.last_ts) else None,
    }
    found = Counter.decode(data)
    assert found == Counter.decode(json.dumps(said, indent=1).encode()), "however it is written"
    assert found == counter or abs(counter.last_ts) > 1e15


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 128,
        b'{"changes": 1, "rewrites": 0, "lastTs": 5.0}   x\n',
        b'{"changes": 1, "rewrites": 0, "lastTs": 5.0e}   \n',
        b'{"changes": 1, "rewrites": 0, "lastTs": 5..0}   \n',
        b'{"changes": 1, "rewrites": 0, "lastTs": 1e999}   \n',
        b'{"changes": 1, "rewrites": 0, "lastTs": 5.0   \n',
        b'{"changes": 1, "rewrites": 0}   \n',
        b'{"changes": -1-, "rewrites": 0, "lastTs": 5.0}\n',
        b"[1, 0, 5.0]\n",
    ],
)
def test_a_counter_that_is_not_whole_is_none(data: bytes) -> None:
    assert Counter.decode(data) is None
