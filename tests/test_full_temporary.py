"""A session without a local side whose temporary disk is full while its replica is away, and what it does then."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashlib import wait_for

import dreamlake.storage.local as local
import dreamlake.storage.lock as lock
from dreamlake import Lake, Session
from dreamlake.engine.replica import state
from dreamlake.engine.replica.ledger import Ledger
from dreamlake.engine.replica.reserve import RESERVE_BYTES, Reserve

PAGE = 4096


class SmallDisk:
    """The functions of `os` on a disk of so many bytes below `root`, in pages, which takes what fits of a write."""

    def __init__(self, root: Path, size: int) -> None:
        self._root = root
        self._size = size

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def used(self) -> int:
        """Bytes in use."""
        found = 0
        for folder, _, names in os.walk(self._root):
            for name in names:
                try:
                    found += -(-os.lstat(os.path.join(folder, name)).st_size // PAGE) * PAGE
                except FileNotFoundError:
                    continue
        return found

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        """As `os.pwrite`."""
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(str(self._root)):
            return os.pwrite(fd, data, offset)
        mine = -(-os.fstat(fd).st_size // PAGE) * PAGE
        room = mine + max(0, self._size - self.used()) - offset
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(fd, memoryview(data)[:room], offset)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    """The disk of temporary folders: 1.5 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    disk = SmallDisk(folder, 3 << 19)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("dreamlake.engine.replica.comparing.DISTRUST", 0.2)
    monkeypatch.setattr(local, "os_", disk)
    monkeypatch.setattr(lock, "os_", disk)
    return disk


def full(
    tmp_path: Path, small: SmallDisk, uploaded: int, sync_interval: float, fails_first: bool = False
) -> tuple[Session, int]:
    """A session that has uploaded so many points, and then filled its disk while its replica took nothing."""
    there = tmp_path / "there"
    session = Session(
        *("s", "w", None), remote=there.as_uri(), segment_points=200, flush_interval=0.05, sync_interval=sync_interval
    ).open()
    track = session.track("t")
    count = 0

    def append(points: int) -> None:
        nonlocal count
        for _ in range(points):
            track.append(i=count, raw=os.urandom(100))
            count += 1

    if uploaded:
        append(uploaded)
        session.sync()
        os.rename(there, tmp_path / "away")
    there.write_text("in the place of the folder")
    if fails_first:  # what was sent is compared in the next pass, then
        append(20)
        with pytest.raises(OSError, match="there"):
            session.sync()
    for _ in range(400):
        append(200)
        try:
            track.flush()
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
            break
    else:
        raise AssertionError("the disk is not full")
    append(300)
    os.remove(there)
    if uploaded:
        os.rename(tmp_path / "away", there)
    return session, count


def values(tmp_path: Path) -> list[Any]:
    found = Lake((tmp_path / "there").as_uri()).session("s", "w").track("t").read(limit=None)["data"]
    return [point["data"]["i"] for point in found]


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("uploaded", [0, 900])
def test_it_recovers_once_the_replica_is_back(
    tmp_path: Path, small: SmallDisk, uploaded: int, merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if merged:  # what is to be merged stays here otherwise
        monkeypatch.setattr("dreamlake.engine.replica.trim.USUAL_POINTS", 200)
    session, count = full(tmp_path, small, uploaded, sync_interval=0.05)
    pressure = session.writer.pressure
    wait_for(lambda: not pressure.is_failing and not pressure.nbytes)
    session.close()
    assert values(tmp_path) == list(range(count))
    assert not os.listdir(tmp_path / "small")


@pytest.mark.parametrize("how", ["sync", "close"])
@pytest.mark.parametrize(("uploaded", "fails_first"), [(0, False), (900, False), (900, True)])
def test_a_sync_and_a_close_make_room_first(
    tmp_path: Path, small: SmallDisk, how: str, uploaded: int, fails_first: bool
) -> None:
    session, count = full(tmp_path, small, uploaded, 1000.0, fails_first)
    getattr(session, how)()
    assert values(tmp_path) == list(range(count))
    session.close()


def test_a_close_waits_for_room_no_longer_than_it_was_told_to(
    tmp_path: Path, small: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, count = full(tmp_path, small, 900, sync_interval=1000.0)
    replica = session.writer.replica
    assert replica is not None
    waits: list[float | None] = []
    answers = threading.Event()
    call, make_pass = replica.thread.call, replica._pass

    def note(work: Any, timeout: float | None, *rest: Any) -> Any:
        waits.append(timeout)
        return call(work, timeout, *rest)

    def hang(*args: Any, **kwargs: Any) -> Any:
        answers.wait()
        return make_pass(*args, **kwargs)

    monkeypatch.setattr(replica.thread, "call", note)
    monkeypatch.setattr(replica, "_pass", hang)
    with pytest.raises(OSError, match="still pending") as raised:
        session.close(timeout=0.3)
    assert raised.value.errno == errno.ENOSPC
    assert waits == [0.3]
    answers.set()
    session.close()
    assert values(tmp_path) == list(range(count))


def test_late_fields_find_their_points_where_no_timestamps_were_kept(tmp_path: Path, small: SmallDisk) -> None:
    session, count = full(tmp_path, small, 900, sync_interval=1000.0)
    track = session.track("t")
    session.sync()
    assert not list((tmp_path / "small").rglob(".ts-*0000200")), "the first one is known by its bounds"
    ts = track.read(10, 1)["data"][0]["data"]["_ts"]
    track.append(late=1, _ts=ts)
    session.close()
    found = Lake((tmp_path / "there").as_uri()).session("s", "w").track("t").read(10, 1)["data"][0]["data"]
    assert (found["i"], found["late"]) == (10, 1)
    assert len(values(tmp_path)) == count


def test_room_is_kept_back_and_given_up_for_a_full_disk_only(tmp_path: Path) -> None:
    alone: list[bool] = []
    calls: list[bool] = []

    def run(work: Callable[[], None]) -> None:
        alone.append(True)
        work()

    def fail(code: int) -> None:
        calls.append((tmp_path / ".reserve").exists())
        raise OSError(code, "no")

    reserve = Reserve(str(tmp_path / "w" / "s"), run)
    with pytest.raises(OSError, match="no"):
        reserve.with_room(lambda: fail(errno.ENOSPC))  # nothing is kept: once
    reserve.keep()
    assert (tmp_path / ".reserve").stat().st_size == RESERVE_BYTES
    for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(OSError, match="no"):
            reserve.with_room(lambda code=code: fail(code))  # type: ignore[misc]
        assert (tmp_path / ".reserve").exists()
    assert calls == [False, True, True, False, True, False]
    assert len(alone) == 2


def test_less_room_is_kept_where_less_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "os_", SmallDisk(tmp_path, 100_000))
    Reserve(str(tmp_path / "w" / "s")).keep()
    assert (tmp_path / ".reserve").stat().st_size == RESERVE_BYTES // 4


def test_what_was_sent_is_noted_in_the_room_that_was_kept_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "w" / "s"
    folder.mkdir(parents=True)
    reserve = Reserve(str(folder))
    reserve.keep()

    class Full(SmallDisk):
        def pwrite(self, fd: int, data: Any, offset: int) -> int:
            if (tmp_path / ".reserve").exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return os.pwrite(fd, data, offset)

    monkeypatch.setattr(local, "os_", Full(tmp_path, 0))
    ledger = Ledger(str(folder), state.load(str(folder)), reserve)
    with ledger:
        pass
    ledger.save()
    assert (folder / ".replica.json").exists()
