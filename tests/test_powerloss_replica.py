"""Power cuts and replicas: what the scenes of `powerscenes` have shown, each alone."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import crashlib
import fsspec
import pytest
from crashlib import NAME, TRACK, WORKSPACE
from powerloss import POLICIES, Cut, Recorder, samples, write_down
from powerscenes import OTHER, judge, record

import dreamlake.storage.local as local
from dreamlake import Lake, Session
from dreamlake.engine.replica import check, ledger, pull, state
from dreamlake.engine.replica.push import Outcome
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.errors import CorruptTrackError, RemoteConflictError
from dreamlake.storage.remote import RemoteStore


@pytest.fixture
def url() -> Iterator[str]:
    place = f"memory://{uuid.uuid4().hex}"
    yield place
    fsspec.filesystem("memory").rm(place.removeprefix("memory:/"), recursive=True)


def session(root: Path, url: str, **options: Any) -> Session:
    return crashlib.session(root, remote=url, sync_interval=3600.0, **options)


def begun(root: Path, url: str) -> Path:
    """A session whose parameters are on the replica, without anything synced here; its parameters.json."""
    with session(root, url) as opened:
        opened.parameters().set(lr=0.1)
        opened.track(TRACK).append(v=1)
    assert there(url) == {"lr": 0.1}
    return root / WORKSPACE / NAME / "parameters.json"


def there(url: str) -> Any:
    return Lake(url).session(NAME, WORKSPACE).parameters().get()


def own_parameters(url: str) -> Any:
    """The parameters of the machine that did not begin the session."""
    (path,) = fsspec.filesystem("memory").glob(f"{url.removeprefix('memory:/')}/**/hosts/*/parameters.json")
    return json.loads(fsspec.filesystem("memory").cat(path))["data"]


def from_outside(folder: Path, url: str) -> Outcome:
    """What `dreamlake sync` does."""
    return sync_folder(str(folder), f"{WORKSPACE}/{NAME}", RemoteStore(url))


def dropped(recorder: Recorder, folder: Path) -> Path:
    """A lake with what is sure to be on the disk by now."""
    after = folder / "after"
    after.mkdir()
    write_down(Cut(recorder, len(recorder.ops), POLICIES["dropped"], random.Random(1)).state(), after)
    return after


def fail(*args: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("cut", [lambda path: path.write_bytes(b""), os.unlink], ids=["empty", "missing"])
def test_parameters_that_a_cut_took_come_back_from_the_replica(
    lake_dir: Path, url: str, cut: Callable[[Path], Any]
) -> None:
    cut(begun(lake_dir, url))
    with session(lake_dir, url) as opened:
        opened.parameters().set(model="m")
    assert there(url) == {"lr": 0.1, "model": "m"}


def test_damaged_parameters_are_not_sent(lake_dir: Path, url: str) -> None:
    path = begun(lake_dir, url)
    path.write_bytes(bytes(path.stat().st_size))
    try:
        with session(lake_dir, url) as opened:
            opened.track(TRACK).append(v=2)
    except CorruptTrackError as error:
        assert error.path == str(path)  # noqa: PT017 - it may be told, and need not
    assert there(url) == {"lr": 0.1}


def test_an_empty_parameters_file_does_not_stop_an_upload(lake_dir: Path, tmp_path: Path, url: str) -> None:
    begun(tmp_path / "other machine", url)
    with session(lake_dir, url) as opened:
        opened.track(TRACK).append(v=2)
    (lake_dir / WORKSPACE / NAME / "parameters.json").write_bytes(b"")
    with session(lake_dir, url) as opened:
        opened.track(TRACK).append(v=3)
        opened.sync()


def test_a_value_that_was_replaced_is_no_other_machines(lake_dir: Path, tmp_path: Path, url: str) -> None:
    """The smallest of the states that the scene "late and drop" leaves with ``fsync=True``."""
    with Recorder(lake_dir) as recorder:
        opened = session(lake_dir, url, fsync=True).open()
        opened.writer.replica.trims = True  # type: ignore[union-attr]
        opened.track(TRACK).append_batch([{"v": number, "_ts": 1000.0 + number} for number in range(20)])
        opened.sync()
        opened.track(TRACK).append(newest=1, _ts=1003.0)
        opened.sync()
        opened.track(TRACK).append(newest=2, _ts=1003.0)
        opened.track(TRACK).read(3, 1)  # merges it into what is fetched, and sends nothing
        after = dropped(recorder, tmp_path)
    try:
        with session(after, url) as resumed:
            assert resumed.track(TRACK).read(3, 1)["data"][0]["data"]["newest"] == 2
    finally:
        with suppress(RemoteConflictError):
            opened.close()


def test_lines_that_a_cut_took_are_no_other_machines(memory_path: Path) -> None:
    recorder = record(memory_path, "late for away", False)
    for sample in samples(recorder, 1, 1, ("dropped",)):
        seen = judge(memory_path, recorder, sample)
        assert seen.how != "wrong", seen.detail


@pytest.mark.parametrize(
    ("below", "which"),
    [("w/s/tracks/loss", which) for which in (1, 2, 3)] + [(below, 1) for below in ("w/s/tracks", "w/s", "w", "")],
)
def test_a_folder_whose_sync_failed_while_a_session_came_here_is_synced_by_the_next_attempt(
    lake_dir: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, below: str, which: int
) -> None:
    """The next attempt finds all as it should be, and says that it is here for good."""
    with crashlib.session(tmp_path / "other machine", remote=url) as opened:
        opened.track("loss").append(v=1)
    wanted = str(lake_dir / below).rstrip("/")
    real = local.fsync_dir
    synced: list[str] = []
    failed: list[str] = []

    def sync(path: str) -> None:
        synced.append(path)
        if path == wanted and synced.count(path) == which and not failed:
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        real(path)

    monkeypatch.setattr(local, "fsync_dir", sync)
    with pytest.raises(OSError, match="Input/output"):
        session(lake_dir, url, fsync=True).open()
    del synced[:]
    opened = session(lake_dir, url, fsync=True).open()
    try:
        assert failed
        assert wanted in synced
    finally:
        opened.close()


def merged_here_and_lines_there(root: Path, url: str, late: Sequence[int] = (3,)) -> Path:
    """A track whose newest lines are on the replica only, and whose late fields are here only; its hot file.

    So a power cut leaves it where the disk refused to sync the lines before they were sent.
    """
    with session(root, url, segment_points=10) as opened:
        track = opened.track(TRACK)
        track.append_batch([{"v": number, "_ts": 1000.0 + number} for number in range(12)])
        opened.sync()
        hot = root / opened.path / "tracks" / TRACK / "data.jsonl"
        before = hot.read_bytes()
        assert before.count(b"\n") == 2
        track.append_batch([{"v": number, "_ts": 1000.0 + number} for number in (12, 13)])
    with crashlib.session(root, segment_points=10) as opened:  # nothing of it is sent
        for number in late:
            opened.track(TRACK).append(late=1, _ts=1000.0 + number)
    hot.write_bytes(before)
    assert list(hot.parent.glob("*10.1.parquet"))
    return hot


def is_whole(*places: Any) -> None:
    for place in places:
        rows = [row["data"] for row in Lake(place).session(NAME, WORKSPACE).track(TRACK).read()["data"]]
        assert [row["v"] for row in rows] == list(range(14)), place
        assert [at for at, row in enumerate(rows) if "late" in row] == [3], place


@pytest.mark.parametrize("from_where", ["the session", "outside"])
def test_a_late_field_here_and_lines_that_a_cut_took_join(lake_dir: Path, url: str, from_where: str) -> None:
    hot = merged_here_and_lines_there(lake_dir, url)
    if from_where == "outside":
        assert from_outside(hot.parents[len(Path(TRACK).parts) + 1], url).complete
    else:
        with session(lake_dir, url, segment_points=10) as opened:
            assert len(opened.track(TRACK)) == 14
    is_whole(lake_dir, url)
    with session(lake_dir, url, segment_points=10) as opened:
        opened.track(TRACK).append(v=14).flush()
        assert len(opened.track(TRACK)) == 15


def test_lines_that_are_not_a_beginning_of_those_there_are_another_machines(lake_dir: Path, url: str) -> None:
    hot = merged_here_and_lines_there(lake_dir, url)
    with crashlib.session(lake_dir, segment_points=10) as opened:
        opened.track(TRACK).append(v=-1, _ts=1012.0)
    before = hot.read_bytes()
    with pytest.raises(RemoteConflictError, match="written by two machines"):
        session(lake_dir, url, segment_points=10).open()
    assert hot.read_bytes() == before


def test_a_segment_with_less_and_of_a_later_form_there_is_told(lake_dir: Path, tmp_path: Path, url: str) -> None:
    """What is here would not count beside it, though it holds all of it."""
    hot = merged_here_and_lines_there(lake_dir, url, late=(3, 5))
    with session(tmp_path / "other machine", url, segment_points=10) as opened:
        opened.track(TRACK).append(late=2, _ts=1003.0).flush()
        opened.track(TRACK).append(late=1, _ts=1003.0)
    assert list(hot.parent.glob("*10.1.parquet"))
    assert not list(hot.parent.glob("*10.2.parquet"))
    assert fsspec.filesystem("memory").glob(f"{url.removeprefix('memory:/')}/**/{TRACK}/*10.2.parquet")
    with pytest.raises(RemoteConflictError, match="written by two machines"):
        session(lake_dir, url, segment_points=10).open()


def test_lines_below_the_end_of_the_segments_here_are_another_machines(
    lake_dir: Path, tmp_path: Path, url: str
) -> None:
    """Two machines went on from ten points: here ten more, all in a segment, there twelve in lines."""
    with session(lake_dir, url, segment_points=10) as opened:
        opened.track(TRACK).append_batch([{"v": number, "_ts": 1000.0 + number} for number in range(10)])
    with session(tmp_path / "other machine", url, segment_points=30) as opened:
        opened.track(TRACK).append_batch([{"v": -number, "_ts": 1000.0 + number} for number in range(10, 22)])
    with crashlib.session(lake_dir, segment_points=10) as opened:
        opened.track(TRACK).append_batch([{"v": number, "_ts": 1000.0 + number} for number in range(10, 20)])
    hot = lake_dir / WORKSPACE / NAME / "tracks" / TRACK / "data.jsonl"
    assert not hot.exists() or not hot.read_bytes()
    with pytest.raises(RemoteConflictError, match="written by two machines"):
        session(lake_dir, url, segment_points=10).open()


def test_automatic_timestamps_go_on_above_lines_that_came_back(
    lake_dir: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = merged_here_and_lines_there(lake_dir, url)
    folder = str(hot.parents[len(Path(TRACK).parts) + 1])
    remote, at = RemoteStore(url), f"{WORKSPACE}/{NAME}"
    monkeypatch.setattr(pull, "_last_ts", lambda infos: -math.inf)  # what session.json says would say it too
    known, tree = state.load(folder), check.look(remote, at)
    found = check.compare(folder, at, remote, known.remote(remote.describe()), tree)
    assert found.described == found.pull
    assert pull.pull(folder, at, remote, known.remote(remote.describe()), tree, found.pull) == 1013.0


def test_a_late_field_that_both_sides_merged_differently_is_told(lake_dir: Path, tmp_path: Path, url: str) -> None:
    hot = merged_here_and_lines_there(lake_dir, url)
    with session(tmp_path / "other machine", url, segment_points=10) as opened:
        opened.track(TRACK).append(late=2, _ts=1003.0)
    before = hot.read_bytes()
    with pytest.raises(RemoteConflictError, match="written by two machines"):
        session(lake_dir, url, segment_points=10).open()
    assert hot.read_bytes() == before


@pytest.mark.parametrize("how", ["empty", "missing", "begun anew", "older"])
def test_lost_parameters_come_back_by_a_sync_from_outside(lake_dir: Path, url: str, how: str) -> None:
    path = begun(lake_dir, url)
    older = path.read_bytes()
    with session(lake_dir, url) as opened:
        opened.parameters().set(lr=0.2, deep={"er": 1})
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(older if how == "older" else b"")
    if how == "begun anew":
        with crashlib.session(lake_dir) as opened:  # the network is down
            opened.parameters().set(model="m", deep=2)
    assert from_outside(path.parent, url).complete
    expected = {"lr": 0.2, "deep": 2, "model": "m"} if how == "begun anew" else {"lr": 0.2, "deep.er": 1}
    assert there(url) == Lake(lake_dir).session(NAME, WORKSPACE).parameters().get() == expected


def test_parameters_that_were_set_before_the_network_came_back_join_the_lost_ones(
    lake_dir: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(lake_dir, url).write_bytes(b"")
    opened = session(lake_dir, url)
    with monkeypatch.context() as patch:
        patch.setattr(check, "look", fail)
        opened.open()
        opened.parameters().set(model="m")
    opened.close()
    assert there(url) == {"lr": 0.1, "model": "m"}


def test_the_lost_parameters_of_a_machine_that_did_not_begin_the_session(
    lake_dir: Path, tmp_path: Path, url: str
) -> None:
    begun(tmp_path / "other machine", url)
    with session(lake_dir, url) as opened:
        opened.parameters().set(seed=1)
    path = lake_dir / WORKSPACE / NAME / "parameters.json"
    path.write_bytes(b"")
    for number in range(2):
        with session(lake_dir, url) as opened:
            assert opened.parameters().get().items() >= {"lr": 0.1, "seed": 1}.items()
            opened.parameters().set(number=number)
        assert there(url) == {"lr": 0.1, "seed": 1, "number": number}
        assert own_parameters(url) == {"seed": 1, "number": number}, "the others are the other machine's"


def test_ones_own_parameters_stay_ones_own_when_a_track_is_taken_over(lake_dir: Path, tmp_path: Path, url: str) -> None:
    elsewhere = tmp_path / "other machine"
    with session(elsewhere, url) as first:
        first.track(TRACK).append(v=1)
        first.sync()
        with session(lake_dir, url) as second:
            second.parameters().set(seed=1)
        first.track(TRACK).append(v=2)
    with session(lake_dir, url) as second:
        assert len(second.track(TRACK)) == 2
    assert there(url) == own_parameters(url) == {"seed": 1}


def test_damaged_parameters_on_the_replica_keep_no_session_from_opening(lake_dir: Path, url: str) -> None:
    begun(lake_dir, url).write_bytes(b"")
    above = f"{url.removeprefix('memory:/')}/{WORKSPACE}/{NAME}"
    fsspec.filesystem("memory").pipe(f"{above}/parameters.json", bytes(90))
    with session(lake_dir, url) as opened:
        opened.parameters().set(model="m")
    assert own_parameters(url) == {"model": "m"}


def test_parameters_last_without_fsync(lake_dir: Path, tmp_path: Path) -> None:
    with Recorder(lake_dir) as recorder:
        opened = crashlib.session(lake_dir)
        opened.parameters().set(lr=0.1)
        after = dropped(recorder, tmp_path)
    opened.close()
    assert Lake(after).session(NAME, WORKSPACE).parameters().get() == {"lr": 0.1}


def test_what_was_sent_lasts_here_without_fsync(lake_dir: Path, tmp_path: Path, url: str) -> None:
    with Recorder(lake_dir) as recorder:
        opened = session(lake_dir, url).open()
        opened.parameters().set(lr=0.1)  # with these the session lasts
        for number in range(2):
            opened.track(TRACK).append(v=number)
            opened.log(f"record {number}")
            if not number:
                local.make_dirs(os.path.join(opened.path, "files"), False)
                local.atomic_write(os.path.join(opened.path, "files", "notes.txt"), b"kept", False)
            opened.sync()
        after = dropped(recorder, tmp_path)
    opened.close()
    kept = Lake(after).session(NAME, WORKSPACE)
    assert [row["data"]["v"] for row in kept.track(TRACK).read()["data"]] == [0, 1]
    assert (after / WORKSPACE / NAME / "logs" / "logs.jsonl").read_text().count("\n") == 2
    assert (after / WORKSPACE / NAME / "files" / "notes.txt").read_text() == "kept"


def test_what_the_disk_does_not_sync_is_sent_all_the_same(
    lake_dir: Path, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with session(lake_dir, url) as opened:
        opened.track(TRACK).append(v=0)
        opened.track(OTHER).append(v=0)
        opened.sync()
        monkeypatch.setattr(local, "fsync_file", fail)
        for number in (1, 2):
            opened.track(TRACK).append(v=number)
            opened.track(OTHER).append(v=number)
            opened.sync()
            view = Lake(url).session(NAME, WORKSPACE)
            assert [len(view.track(name)) for name in (TRACK, OTHER)] == [number + 1] * 2
    told = [record.getMessage() for record in caplog.records if "power loss" in record.getMessage()]
    assert len(told) == 1, told


def test_a_first_upload_does_not_save_its_state_for_each_object(
    lake_dir: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 300
    with crashlib.session(lake_dir, segment_points=1) as opened:
        opened.track(TRACK).append_batch([{"v": number} for number in range(count)])
        opened.track(OTHER).append_batch([{"v": number} for number in range(count)])
        folder = Path(opened.path)
    saved: list[int] = []
    real = ledger.save
    monkeypatch.setattr(ledger, "save", lambda *args: (saved.append(1), real(*args)))
    monkeypatch.setattr(ledger, "BREATH", 3600.0)
    assert from_outside(folder, url).objects > 2 * count
    assert len(saved) < 12


def test_a_file_that_may_not_be_written_is_synced(lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lake_dir / "notes.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")

    class ReadOnly(crashlib.Seam):
        def open(self, path: str, flags: int, *more: Any) -> int:
            if flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return os.open(path, flags, *more)

    seam = ReadOnly(0, crashlib.fail)
    monkeypatch.setattr(local, "os_", seam)
    local.fsync_file(str(path))
    assert seam.names == ["fsync", "close"]
