"""A replica that is another store for a while: an empty one, where a disk was not mounted, or an older copy of it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dreamlake import Lake, Session
from dreamlake.cli import main
from dreamlake.errors import RemoteConflictError
from dreamlake.storage.remote import RemoteStore


class Store:
    """A folder that holds replicas, and may be taken away and brought back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = folder.as_uri()
        self._kept = folder.with_name("kept")
        folder.mkdir()

    def take_away(self) -> None:
        """Let an empty folder be in its place."""
        os.rename(self.folder, self._kept)
        self.folder.mkdir()

    def bring_back(self) -> None:
        """Let it be as it was when it was taken away; what came meanwhile is elsewhere."""
        shutil.rmtree(self.folder)
        os.rename(self._kept, self.folder)

    def copy(self) -> None:
        """Keep a copy of it."""
        shutil.copytree(self.folder, self._kept)

    def values(self) -> list[Any]:
        """The field ``i`` of every point that is there, in order."""
        found = Lake(self.url).session("s", "w").track("t").read(limit=None)["data"]
        return [point["data"]["i"] for point in found]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "there")


def opened(store: Store, local: Path | None) -> Session:
    return Session("s", "w", local, remote=store.url, segment_points=10, sync_interval=1000, flush_interval=1000).open()


def append(session: Session, start: int, stop: int, what: str = "all") -> None:
    if what != "what is no track":
        for number in range(start, stop):
            session.track("t").append(i=number, _ts=float(number))
    if what != "tracks":
        session.parameters().set(at=stop)
        session.log(f"at {stop}")


def assert_all_there(store: Store, count: int, what: str = "all") -> None:
    if what != "what is no track":
        assert store.values() == list(range(count))
    if what != "tracks":
        session = Lake(store.url).session("s", "w")
        assert session.parameters().get()["at"] == count
        assert session.logs()["message"][-1] == f"at {count}"


@pytest.mark.parametrize("what", ["all", "tracks", "what is no track"])
def test_what_was_sent_to_an_empty_store_is_sent_again_to_the_one_that_comes_back(
    store: Store, tmp_path: Path, what: str
) -> None:
    session = opened(store, tmp_path / "here")
    append(session, 0, 35)
    session.sync()
    store.take_away()
    append(session, 35, 65, what)
    session.sync()
    assert_all_there(store, 65, what)
    store.bring_back()
    session.sync()
    assert_all_there(store, 65, what)
    append(session, 65, 70, what)
    session.close()
    assert_all_there(store, 70, what)
    shutil.rmtree(tmp_path / "here")
    with opened(store, tmp_path / "here") as again:
        assert len(again.track("t")) == (35 if what == "what is no track" else 70)


def test_both_sides_are_compared_after_a_pass_that_failed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sent before may have gone elsewhere, and what would have told of that came behind the failure."""
    session = opened(store, tmp_path / "here")
    append(session, 0, 35)
    session.sync()
    store.take_away()
    for number in range(20):
        session.track("new").append(i=number)
    session.track("t").flush()

    real = RemoteStore.replace_if

    def replace_if(remote: RemoteStore, path: str, data: bytes, version: str | None) -> str:
        if "/tracks/" not in path:
            raise OSError(errno.EIO, "no more today")
        return real(remote, path, data, version)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "replace_if", replace_if)
        with pytest.raises(OSError, match="no more today"):
            session.sync()
    store.bring_back()
    session.sync()
    session.close()
    assert len(Lake(store.url).session("s", "w").track("new")) == 20


def test_a_session_without_a_local_side_goes_on_when_its_replica_is_back(store: Store) -> None:
    session = opened(store, None)
    append(session, 0, 35)
    session.sync()
    session.sync()  # what it has uploaded is only there now
    store.take_away()
    append(session, 35, 65)
    with pytest.raises(OSError, match="are only on a replica, and not on this one"):
        session.sync()
    store.bring_back()
    session.sync()
    append(session, 65, 70)
    session.close()
    assert_all_there(store, 70)


def test_nothing_is_dropped_in_the_pass_that_meets_an_empty_store(store: Store) -> None:
    session = opened(store, None)
    append(session, 0, 5)
    session.sync()
    append(session, 5, 35)
    store.take_away()
    session.sync()  # all of it is sent anew, to a store that goes away
    store.bring_back()
    append(session, 35, 40)
    session.close()
    assert_all_there(store, 40)


@pytest.mark.parametrize("how", ["the next sync", "another open", "the command"])
def test_what_an_older_copy_of_the_replica_lacks_is_sent_again(store: Store, tmp_path: Path, how: str) -> None:
    """A bucket that was brought back from a copy: by its versions alone nobody would notice before the next change."""
    session = opened(store, tmp_path / "here")
    append(session, 0, 35)
    session.sync()
    store.copy()
    append(session, 35, 65)
    session.sync()
    store.bring_back()
    assert store.values() == list(range(35))
    count = 65
    if how == "the next sync":
        count = 67
        append(session, 65, 67)
        session.sync()
    session.close()
    if how == "another open":
        opened(store, tmp_path / "here").close()
    if how == "the command":
        assert main(["sync", str(tmp_path / "here"), store.url]) == 0
    assert_all_there(store, count)


@pytest.mark.parametrize("fails_first", [False, True])
def test_nothing_is_dropped_where_a_comparison_meets_an_empty_store(
    store: Store, monkeypatch: pytest.MonkeyPatch, fails_first: bool
) -> None:
    """A comparison forgets what is not there, so that nothing misses it in the upload that follows."""
    session = opened(store, None)
    append(session, 0, 5)
    session.sync()
    append(session, 5, 35)
    if fails_first:
        with monkeypatch.context() as patch:
            patch.setattr("dreamlake.storage.plain.PlainFiles.put_if", _unmounted)
            patch.setattr("dreamlake.storage.plain.PlainFiles.put_if_unchanged", _unmounted)
            with pytest.raises(OSError, match="it goes away"):
                session.sync()
    store.take_away()
    session.sync()
    session.sync()
    store.bring_back()
    session.sync()
    append(session, 35, 40)
    session.close()
    assert_all_there(store, 40)


def _unmounted(*args: Any) -> str:
    raise OSError(errno.EIO, "it goes away")


def test_a_session_that_is_opened_while_its_replica_is_empty(store: Store, tmp_path: Path) -> None:
    with opened(store, tmp_path / "here") as session:
        append(session, 0, 15)
    store.take_away()
    session = opened(store, tmp_path / "here")
    append(session, 15, 22)
    session.sync()
    store.bring_back()
    session.sync()
    assert_all_there(store, 22)
    session.close()


def test_two_machines_that_begin_one_track_do_not_hide_each_other(store: Store, tmp_path: Path) -> None:
    """The lines of the one are below the first segment of the other."""
    one = opened(store, tmp_path / "one")
    one.sync()
    two = opened(store, tmp_path / "two")
    for number in range(3):
        two.track("t").append(i=f"two {number}", _ts=float(number))
    two.sync()
    for number in range(12):
        one.track("t").append(i=f"one {number}", _ts=float(number))
    with pytest.raises(RemoteConflictError, match="another machine wrote the track"):
        one.sync()
    assert store.values() == ["two 0", "two 1", "two 2"]
    two.close()
    with pytest.raises(RemoteConflictError):
        one.close()


def test_a_copy_from_before_there_were_parameters_is_opened(store: Store, tmp_path: Path) -> None:
    with Session("s", "w", tmp_path / "one", segment_points=10) as session:
        session.track("t").append_batch([{"i": number, "_ts": float(number)} for number in range(5)])
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    with opened(store, tmp_path / "one") as session:
        session.parameters().set(at=5)
    with opened(store, tmp_path / "copy") as session:
        session.sync()
        assert session.parameters().get() == {"at": 5}
    assert store.values() == list(range(5))
