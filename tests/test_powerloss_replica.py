"""Power cuts and replicas: what is not as it should be yet. Who mends it takes the mark away, and `KNOWN` with it."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import crashlib
import fsspec
import pytest
from crashlib import NAME, TRACK, WORKSPACE
from powerloss import POLICIES, Cut, Recorder, samples, write_down
from powerscenes import judge, record

from dreamlake import Lake, Session
from dreamlake.errors import CorruptTrackError, RemoteConflictError


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


@pytest.mark.xfail(strict=True, reason="an empty parameters.json replaces the replica's", raises=AssertionError)
@pytest.mark.parametrize("cut", [lambda path: path.write_bytes(b""), os.unlink], ids=["empty", "missing"])
def test_parameters_that_a_cut_took_come_back_from_the_replica(
    lake_dir: Path, url: str, cut: Callable[[Path], Any]
) -> None:
    cut(begun(lake_dir, url))
    with session(lake_dir, url) as opened:
        opened.parameters().set(model="m")
    assert there(url) == {"lr": 0.1, "model": "m"}


@pytest.mark.xfail(strict=True, reason="parameters.json is sent without a look at it", raises=CorruptTrackError)
def test_damaged_parameters_are_not_sent(lake_dir: Path, url: str) -> None:
    path = begun(lake_dir, url)
    path.write_bytes(bytes(path.stat().st_size))
    try:
        with session(lake_dir, url) as opened:
            opened.track(TRACK).append(v=2)
    except CorruptTrackError as error:
        assert error.path == str(path)  # noqa: PT017 - it may be told, and need not
    assert there(url) == {"lr": 0.1}


@pytest.mark.xfail(strict=True, reason="readers and a repair take an empty file for missing, `sync` does not")
def test_an_empty_parameters_file_does_not_stop_an_upload(lake_dir: Path, tmp_path: Path, url: str) -> None:
    begun(tmp_path / "other machine", url)
    with session(lake_dir, url) as opened:
        opened.track(TRACK).append(v=2)
    (lake_dir / WORKSPACE / NAME / "parameters.json").write_bytes(b"")
    with session(lake_dir, url) as opened:
        opened.track(TRACK).append(v=3)
        opened.sync()


@pytest.mark.xfail(strict=True, reason=".replica.json does not last: a value that was replaced looks foreign")
def test_a_value_that_was_replaced_is_no_other_machines(lake_dir: Path, tmp_path: Path, url: str) -> None:
    """The smallest of the states that the scene "late and drop" leaves with ``fsync=True``."""
    after = tmp_path / "after"
    after.mkdir()
    with Recorder(lake_dir) as recorder:
        opened = session(lake_dir, url, fsync=True).open()
        opened.writer.replica.trims = True  # type: ignore[union-attr]
        opened.track(TRACK).append_batch([{"v": number, "_ts": 1000.0 + number} for number in range(20)])
        opened.sync()
        opened.track(TRACK).append(newest=1, _ts=1003.0)
        opened.sync()
        opened.track(TRACK).append(newest=2, _ts=1003.0)
        opened.track(TRACK).read(3, 1)  # merges it into what is fetched, and sends nothing
        write_down(Cut(recorder, len(recorder.ops), POLICIES["dropped"], random.Random(1)).state(), after)
    try:
        with session(after, url) as resumed:
            assert resumed.track(TRACK).read(3, 1)["data"][0]["data"]["newest"] == 2
    finally:
        with suppress(RemoteConflictError):
            opened.close()


@pytest.mark.xfail(strict=True, reason="lines are sent that a cut may take from this disk")
def test_lines_that_a_cut_took_are_no_other_machines(tmp_path: Path) -> None:
    recorder = record(tmp_path, "late for away", False)
    for sample in samples(recorder, 1, 1, ("dropped",)):
        seen = judge(tmp_path, recorder, sample)
        assert seen.how != "known", seen.detail
