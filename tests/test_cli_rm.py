"""``dreamlake rm``: exactly the runs that were named go, after a question, and what a crash leaves is no run."""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3.server import S3Server

from dreamlake import Lake, Session
from dreamlake.cli import rm
from dreamlake.engine import removal
from dreamlake.engine.catalog import SILENCE
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.lock import FileLock
from dreamlake.storage.remote import RemoteStore


def make(root: Path, name: str, **options: Any) -> None:
    with Session(name, "w", root, segment_points=10, **options) as session:
        session.parameters().set(lr=0.1)
        session.log("hello")
        for track in ("a", "deep/b"):
            session.track(track).append_batch([{"x": x} for x in range(25)])


@pytest.fixture
def lake(lake_dir: Path) -> Path:
    """``w/run1``, ``w/run10`` and ``v/run1``."""
    for name in ("run1", "run10"):
        make(lake_dir, name)
    shutil.copytree(lake_dir / "w" / "run1", lake_dir / "v" / "run1")
    return lake_dir


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def names(lake: object) -> list[str]:
    return [f"{info['workspace']}/{info['name']}" for info in Lake(str(lake)).sessions()]


def refused(result: tuple[int, str, str], status: int, *words: str) -> None:
    code, _, err = result
    assert (code, err.count("\n")) == (status, 1), result
    for word in words:
        assert word in err


# ------------------------------------------------------------------------------------------------ asking


def test_without_a_terminal_it_does_not_guess_the_answer(cli: Any, lake: Path) -> None:
    before = files(lake)
    refused(cli("rm", "w/run1", "--path", lake), 2, "--yes")
    assert files(lake) == before


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 130)])
def test_it_shows_what_goes_and_asks(
    cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    import io

    typed = io.StringIO(answer)
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)
    code, out, err = cli("rm", "w/run1", "--path", lake)
    assert code == status
    assert "Remove w/run1 for good? [y/N]" in err
    row = out.splitlines()[1].split()
    assert row[:4] == ["w/run1", "finished", "2", "50"]
    assert names(lake) == (["v/run1", "w/run10"] if status == 0 else ["v/run1", "w/run1", "w/run10"])


def test_a_dry_run_only_shows(cli: Any, lake: Path) -> None:
    before = files(lake)
    status, out, _ = cli("rm", "w/run1", "w/run10", "--dry-run", "--path", lake)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["RUN", "w/run1", "w/run10"]
    assert files(lake) == before


# ------------------------------------------------------------------------------------------------ removing


def test_exactly_the_named_runs_go(cli: Any, lake: Path) -> None:
    others = {name: body for name, body in files(lake).items() if not name.startswith("w/run1/")}
    status, out, err = cli("rm", "w/run1", "--yes", "--path", lake)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "removed w/run1"
    assert files(lake) == others
    assert not (lake / "w/run1").exists()
    (row,) = json.loads(cli("rm", lake / "v/run1", "--yes", "--json")[1])
    assert (row["run"], row["points"], row["tracks"], row["removed"]) == ("v/run1", 50, 2, True)
    assert row["bytes"] == sum(map(len, (body for name, body in others.items() if name.startswith("v/run1/"))))
    assert names(lake) == ["w/run10"]


def test_where_one_name_is_wrong_nothing_goes(cli: Any, lake: Path) -> None:
    before = files(lake)
    refused(cli("rm", "w/run10", "w/rum1", "--yes", "--path", lake), 2, "is it 'w/run1'?")
    refused(cli("rm", "run1", "--yes", "--path", lake), 2, "v/run1, w/run1")
    refused(cli("rm", lake, "--yes"), 2)
    refused(cli("rm", lake / "w", "--yes"), 2)
    refused(cli("rm", "--yes"), 2, "RUN")
    refused(cli("rm", "../w", "--yes", "--path", lake), 2)
    assert files(lake) == before


def test_a_live_run_is_refused(cli: Any, lake: Path) -> None:
    with Session("live", "w", lake) as session:
        session.track("a").append(x=1).flush()
        refused(cli("rm", "w/live", "--yes", "--path", lake), 2, "running", "--force")
        assert "w/live" in names(lake)
    assert cli("rm", "w/live", "--yes", "--path", lake)[0] == 0  # just ended


def test_a_run_that_another_process_goes_on_to_write_is_refused(cli: Any, lake: Path) -> None:
    run = lake / "w/run1"
    now = os.stat(run / "session.json").st_mtime
    os.utime(run / "tracks/a/data.jsonl", (now + 30, now + 30))
    assert removal.why_live(LocalStore(lake), "w", "run1", now + 40)
    assert removal.why_live(LocalStore(lake), "w", "run1", now + 30 + SILENCE + 1) is None
    os.utime(run / "tracks/a/data.jsonl", (now + 1, now + 1))
    os.utime(run / ".lock", (now + 30, now + 30))  # a compaction, or an upload
    assert removal.why_live(LocalStore(lake), "w", "run1", now + 40) is None


def test_a_run_that_is_lost_may_go(cli: Any, lake: Path) -> None:
    run = lake / "w/run1"
    about = (run / "session.json").read_text().replace("finished", "running")
    (run / "session.json").write_text(about)
    for path in (run / "session.json", run / ".lock", *run.rglob("*")):
        os.utime(path, (1e9, 1e9))
    assert cli("rm", "w/run1", "--yes", "--path", lake)[0] == 0
    assert names(lake) == ["v/run1", "w/run10"]


def test_a_writer_in_the_middle_of_its_work_keeps_its_run(
    cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "PATIENCE", 0.05)
    before = files(lake)
    with FileLock.acquire(str(lake / "w/run1/.lock"), 1.0):  # as a thread of this process, it is refused as another's
        refused(cli("rm", "w/run1", "--yes", "--path", lake), 1, "locked by another process")
        assert files(lake) == before
        assert cli("rm", "w/run1", "--yes", "--force", "--path", lake)[0] == 0
    assert names(lake) == ["v/run1", "w/run10"]


def test_links_are_removed_and_not_followed(cli: Any, lake: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "session.json").write_text("{}")
    (outside / "below" / "data").write_text("dear")
    run = lake / "w/run1"
    (run / "tracks" / "link").symlink_to(outside)
    (run / "files").symlink_to(outside)
    (run / "hosts").symlink_to(outside)
    shutil.rmtree(run / "logs")
    (run / "logs").symlink_to(outside / "below")
    assert cli("rm", "w/run1", "--yes", "--path", lake)[0] == 0
    assert not run.exists()
    assert sorted(files(outside)) == ["below/data", "session.json"]


def test_a_link_to_a_run_is_no_run(cli: Any, lake: Path) -> None:
    before = files(lake)
    (lake / "w/alias").symlink_to(lake / "w/run1")
    refused(cli("rm", "w/alias", "--yes", "--path", lake), 2)
    status, _, err = cli("rm", lake / "w/alias", "--yes")
    assert status in (1, 2), err
    assert files(lake / "w") == {name[2:]: body for name, body in before.items() if name.startswith("w/")}


# ------------------------------------------------------------------------------------------------ crashes


class Crash(BaseException):
    """What ends a removal at some step."""


def steps(monkeypatch: pytest.MonkeyPatch, stop: int) -> list[str]:
    """Let the `stop`-th removal of a removal's steps crash; gives the names of the steps."""
    done: list[str] = []
    real = removal._remove

    def remove(path: str) -> None:
        done.append(os.path.basename(path))
        if len(done) == stop:
            raise Crash
        real(path)

    monkeypatch.setattr(removal, "_remove", remove)
    return done


@pytest.mark.parametrize("stop", range(2, 7))
def test_a_crash_anywhere_leaves_no_run_and_a_second_rm_finishes(
    cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    run = lake / "w/run1"
    (run / "tracks/a/data.jsonl.damaged-2026").write_text("x")
    for path in run.rglob("*"):
        os.utime(path, (1e9, 1e9))
    with monkeypatch.context() as patch:
        done = steps(patch, stop)
        try:
            removal.remove_local(str(run), force=False, progress=lambda count: None)
        except Crash:
            pass
        else:
            assert stop > 5, done
    assert names(lake) == ["v/run1", "w/run10"]
    assert [line.split()[0] for line in cli("ls", lake)[1].splitlines()[1:]] == ["v/run1", "w/run10"]
    assert Lake(lake).scan("a").collect().height == 50
    if run.exists():
        status, out, err = cli("rm", "w/run1", "--yes", "--path", lake)
        assert (status, err) == (0, "")
        assert "half-removed" in out
    assert not run.exists()


def test_the_first_step_is_session_json(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = steps(monkeypatch, -1)
    (lake / "w/run1/hosts/m").mkdir(parents=True)
    (lake / "w/run1/hosts/m/session.json").write_text("{}")
    synced: list[tuple[str, int]] = []
    monkeypatch.setattr(removal.local, "fsync_dir", lambda folder: synced.append((folder, len(done))))
    removal.remove_local(str(lake / "w/run1"), force=False, progress=lambda count: None)
    assert done[:2] == ["session.json", "session.json"]
    # For good, before anything else goes: a power cut must not bring a run back of which half is gone.
    assert synced == [(str(lake / "w/run1"), 2)]
    assert done[-3:] == ["hosts", "parameters.json", ".lock"]


def test_a_folder_that_is_no_rest_of_a_run_is_left_alone(cli: Any, lake: Path) -> None:
    for name, inside in (("logs", "mine.txt"), ("tracks", "a.txt"), ("src", "x.py")):
        (lake / "p" / name / "tracks").mkdir(parents=True)
        (lake / "p" / name / "notes.txt").write_text(inside)
        (lake / "q" / name / "logs").mkdir(parents=True)
        (lake / "q" / name / "logs" / inside).write_text(inside)
    before = files(lake)
    for name in ("p/logs", "p/tracks", "p/src", "q/logs", "q/tracks", "q/src"):
        refused(cli("rm", name, "--yes", "--path", lake), 2, "no run")
        refused(cli("rm", lake / name, "--yes"), 2)
    assert files(lake) == before


def test_a_disk_that_refuses(cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        if path.endswith("tracks"):
            raise PermissionError(13, "Permission denied", path)
        real(path)

    real = removal._remove
    with monkeypatch.context() as patch:
        patch.setattr(removal, "_remove", refuse)
        status, out, err = cli("rm", "w/run1", "v/run1", "--yes", "--path", lake)
    assert (status, err.count("not removed in full")) == (1, 2)
    assert "removed" not in out
    assert names(lake) == ["w/run10"]


# ------------------------------------------------------------------------------------------------ elsewhere


@pytest.fixture(params=["memory", "s3"])
def there(
    request: pytest.FixtureRequest, lake: Path, s3_url: str, s3_server: S3Server
) -> Iterator[tuple[str, list[str], RemoteStore]]:
    """The lake at a URL, the options for it, and its store."""
    options = s3_server.options() if request.param == "s3" else {}
    url = s3_url if request.param == "s3" else f"memory://{uuid.uuid4().hex}"
    store = RemoteStore(url, options)
    for path in lake.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            store.put(path.relative_to(lake).as_posix(), path.read_bytes())
    store.put("w/run1/hosts/m/session.json", store.get("w/run1/session.json"))
    yield url, ["--storage-options", json.dumps(options)] if options else [], store
    store.close()


def test_a_run_at_a_url(cli: Any, there: tuple[str, list[str], RemoteStore]) -> None:
    url, options, store = there
    others = [path for path in store.walk() if not path.startswith("w/run1/")]
    assert len(others) < len(store.walk())
    status, out, err = cli("rm", "w/run1", "--yes", "--path", url, *options)
    assert (status, err) == (0, "")
    assert "untouched" in out
    assert store.walk() == others
    refused(cli("rm", "w/run1", "--yes", "--path", url, *options), 2, "no run 'w/run1'")
    assert cli("rm", f"{url}/w/run10", "--yes", *options)[0] == 0
    assert [path for path in store.walk() if not path.startswith("v/run1/")] == []


def test_a_crash_at_a_url(cli: Any, there: tuple[str, list[str], RemoteStore], monkeypatch: pytest.MonkeyPatch) -> None:
    url, options, store = there
    real = RemoteStore.delete
    monkeypatch.setattr(removal, "reading_width", lambda *of: 1)
    while (count := len(store.walk("w/run1"))) > 1:
        left = [2 if count > 4 else 1]  # the first two are session.json and the one below hosts/

        def delete(self: RemoteStore, path: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise ConnectionError("the network is gone")
            real(self, path)

        monkeypatch.setattr(RemoteStore, "delete", delete)
        status, _, err = cli("rm", f"{url}/w/run1", "--yes", "--force", *options)
        assert (status, err.count("the network is gone")) == (1, 1)
        monkeypatch.setattr(RemoteStore, "delete", real)
        listed = json.loads(cli("ls", url, "--json", *options)[1])
        assert [f"{row['workspace']}/{row['name']}" for row in listed] == ["v/run1", "w/run10"]
    assert store.walk("w/run1") == ["w/run1/parameters.json"]
    assert cli("rm", f"{url}/w/run1", "--yes", "--force", *options)[0] == 0
    assert store.walk("w/run1") == []


def test_a_folder_at_a_url_is_a_folder(cli: Any, lake: Path) -> None:
    assert cli("rm", f"{lake.as_uri()}/w/run1", "--yes")[0] == 0
    assert not (lake / "w/run1").exists()
    assert names(lake) == ["v/run1", "w/run10"]


def test_a_replica_is_untouched_and_named(cli: Any, lake_dir: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    make(lake_dir, "copied", remote=url)
    before = RemoteStore(url).walk()
    status, out, _ = cli("rm", "w/copied", "--yes", "--path", lake_dir)
    assert status == 0
    assert f"its replica is untouched: {url}/w/copied" in out
    assert RemoteStore(url).walk() == before
    assert rm._replicas(Lake(url).session("copied", "w")) == []


def test_a_live_run_at_a_url(cli: Any, lake_dir: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    with Session("run", "w", lake_dir, remote=url) as session:
        session.track("a").append(x=1)
        session.sync()
        refused(cli("rm", f"{url}/w/run", "--yes"), 2, "running")
    assert cli("rm", f"{url}/w/run", "--yes")[0] == 0
    assert RemoteStore(url).walk() == []
