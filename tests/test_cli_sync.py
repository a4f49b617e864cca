"""``dreamlake sync`` as it is typed: killed runs, whole lakes, doing it again, and mistakes."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from s3.proxy import Fault, Proxy
from s3.server import SECRET, S3Server
from support import python_environment, start_python

from dreamlake import Lake, Session
from dreamlake.cli import main
from dreamlake.engine.catalog import SILENCE
from dreamlake.engine.replica import state
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.format import hot
from dreamlake.format.layout import LATE_FILE
from dreamlake.storage.remote import RemoteStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A lake of two runs, one of them with segments and a torn line."""
    for name, count in (("one", 25), ("two", 3)):
        with Session(name, "w", tmp_path / "lake", segment_points=10) as session:
            session.track("loss").append_batch([{"i": i} for i in range(count)])
    with open(tmp_path / "lake/w/one/tracks/loss/data.jsonl", "ab") as file:
        file.write(b'{"index": 25, "data": {"i')
    return tmp_path / "lake"


@pytest.fixture
def there() -> str:
    return f"memory://{uuid.uuid4().hex}"


def total(url: str, name: str, track: str = "loss") -> int:
    return Lake(url).session(name, "w").track(track).read(limit=1)["total"]


@pytest.mark.parametrize("which", ["", "w", "w/one"])
def test_a_lake_a_workspace_or_a_run(root: Path, there: str, which: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(root / which), there]) == 0
    assert total(there, "one") == 25
    runs = ["one"] if which == "w/one" else ["one", "two"]
    assert [info["name"] for info in Lake(there).sessions()] == runs
    out = capsys.readouterr()
    assert out.out.count("is up to date") == len(runs)
    assert out.err == ""


def test_again_sends_nothing_and_mends_what_was_deleted(
    root: Path, there: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", str(root), there]) == 0
    capsys.readouterr()
    assert main(["sync", str(root), there]) == 0
    assert capsys.readouterr().out.count("0 objects") == 2
    RemoteStore(there).delete("w/one/tracks/loss/000000000010-000000000020.parquet")
    assert main(["sync", str(root / "w/one"), there]) == 0
    assert "1 object," in capsys.readouterr().out
    assert total(there, "one") == 25


def test_without_its_notes_it_sends_nothing_twice(root: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(root), there]) == 0
    for path in root.rglob(".replica.json"):
        path.unlink()
    capsys.readouterr()
    assert main(["sync", str(root), there]) == 0
    assert total(there, "one") == 25


def test_while_the_run_is_written(root: Path, there: str) -> None:
    with Session("one", "w", root, segment_points=10) as session:
        session.track("loss").append(i=25)
        session.flush()
        assert main(["sync", str(root / "w/one"), there]) == 0
        assert total(there, "one") == 26
        session.track("loss").append(i=26)
    assert main(["sync", str(root / "w/one"), there]) == 0
    assert total(there, "one") == 27


def test_a_conflict_is_told_and_the_other_tracks_go(
    root: Path, there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", str(root / "w/two"), there]) == 0
    shutil.copytree(root, tmp_path / "copy")
    for place, value in (("lake", "a"), ("copy", "b")):
        with Session("two", "w", tmp_path / place) as session:
            session.track("loss").append(i=value)
            session.track(f"from {place}").append(i=value)
    assert main(["sync", str(tmp_path / "lake/w/two"), there]) == 0
    capsys.readouterr()
    assert main(["sync", str(tmp_path / "copy/w/two"), there]) == 1
    out = capsys.readouterr()
    assert "'loss'" in out.err
    assert out.out.endswith(" sent, 1 track that another machine wrote is kept here only\n")
    assert "is not up to date: " in out.out
    lake = Lake(there).session("two", "w")
    assert [point["data"]["i"] for point in lake.track("loss").read()["data"]] == [0, 1, 2, "a"]
    assert lake.tracks.list() == ["from copy", "from lake", "loss"]


def test_a_track_that_was_described_elsewhere(root: Path, there: str, tmp_path: Path) -> None:
    assert main(["sync", str(root / "w/two"), there]) == 0
    shutil.copytree(root, tmp_path / "copy")
    with Session("two", "w", tmp_path / "copy") as session:
        session.track("loss", description="of validation", tags=["x"])
    with Session("two", "w", root) as session:
        session.track("loss").append(i=3)
    assert main(["sync", str(tmp_path / "copy/w/two"), there]) == 0
    assert main(["sync", str(root / "w/two"), there]) == 0
    stats = Lake(there).session("two", "w").track("loss").stats()
    assert (stats["totalDataPoints"], stats["description"], stats["tags"]) == (4, "of validation", ["x"])


def test_what_is_taken_from_the_replica_raises_the_clock(root: Path, there: str, tmp_path: Path) -> None:
    """What another machine drew is not drawn here again, though the clock here is behind."""
    assert main(["sync", str(root / "w/two"), there]) == 0
    shutil.copytree(root, tmp_path / "copy")
    with Session("two", "w", tmp_path / "copy") as session:
        session.track("loss", description="of validation")
        session.track("more").append(i=3).flush()
        drawn = session.track("more").read()["data"][0]["data"]["_ts"]
    assert main(["sync", str(tmp_path / "copy/w/two"), there]) == 0
    with Session("two", "w", root) as session:
        session.track("loss").append(i=3)
    lock = root / "w/two/.lock"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"lastTs": 5.0}))
    assert main(["sync", str(root / "w/two"), there]) == 0
    assert json.loads(lock.read_text())["lastTs"] >= drawn


def test_a_dead_network(
    root: Path, s3_url: str, s3_server: S3Server, s3_proxy: Proxy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = tmp_path / "options.json"
    options.write_text(json.dumps(s3_server.options(s3_proxy.endpoint)))
    arguments = ["sync", str(root), s3_url, "--storage-options", f"@{options}"]
    s3_proxy.fail(Fault.RESET)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.endswith("2 of 2 runs are not up to date: w/one, w/two\n")
    assert said.startswith("dreamlake: ")
    assert "Traceback" not in said
    s3_proxy.plan = lambda request: None
    assert main(arguments) == 0
    assert SECRET not in said


def test_a_damaged_run_does_not_keep_the_others(root: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "w/one/tracks/loss/000000000000-000000000010.parquet").unlink()
    with Session("one", "w", root) as session:
        session.track("sound").append(i=0)
    assert main(["sync", str(root), there]) == 1
    said = capsys.readouterr()
    assert "w/one: tracks/loss: " in said.err
    assert said.err.endswith("1 of 2 runs are not up to date: w/one\n")
    assert [line.split(" is ")[1].split(":")[0] for line in said.out.splitlines()] == ["not up to date", "up to date"]
    assert Lake(there).session("one", "w").tracks.list() == ["sound"]
    assert total(there, "two") == 3


# ------------------------------------------------------------------------------------------------ with others


def test_another_process_that_replicates_is_waited_for_and_told(
    root: Path, there: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sync_folder.__kwdefaults__, "lock_timeout", 0.05)
    with state.hold(str(root / "w/one"), 1.0):
        assert main(["sync", str(root), there]) == 1
    said = capsys.readouterr()
    assert "w/one is not up to date" in said.err
    assert ".replica.lock" in said.err
    assert total(there, "two") == 3, "the network is not down, so the others go on"


def test_while_the_run_replicates_itself(s3_url: str, s3_server: S3Server, tmp_path: Path) -> None:
    """Two that upload the same run take turns, and neither takes the other for a foreign machine."""
    options = tmp_path / "options.json"
    options.write_text(json.dumps(s3_server.options()))
    command = ["sync", str(tmp_path / "lake"), s3_url, "--storage-options", f"@{options}"]
    with Session(
        "s", "w", tmp_path / "lake", remote=s3_url, storage_options=s3_server.options(), segment_points=10,
        sync_interval=0.01, flush_interval=0.01,
    ) as session:  # fmt: skip
        for number in range(60):
            session.track("loss").append(i=number)
            if number % 10 == 9:
                session.flush()
                assert main(command) == 0
    assert main(command) == 0
    lake = Lake(s3_url, s3_server.options())
    found = lake.session("s", "w")
    assert [point["data"]["i"] for point in found.track("loss").read()["data"]] == list(range(60))
    assert found.info["status"] == "finished"
    lake._store.close()  # type: ignore[attr-defined]


def test_a_run_that_was_killed(there: str, tmp_path: Path) -> None:
    code = """
    import os, sys
    from dreamlake import Session
    session = Session("s", "w", sys.argv[1], segment_points=10)
    for number in range(35):
        session.track("loss").append(i=number)
    session.flush()
    os.kill(os.getpid(), 9)
    """
    with start_python(code, tmp_path / "lake") as process:
        process.communicate()
    assert process.returncode == -9
    assert main(["sync", str(tmp_path / "lake" / "w" / "s"), there]) == 0
    assert total(there, "s") == 35


def test_it_may_be_killed_itself_at_any_moment(
    s3_url: str, s3_server: S3Server, s3_proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(3)
    with Session("s", "w", tmp_path / "lake", segment_points=10) as session:
        for number in range(4):
            session.track(f"t{number}").append_batch([{"i": i} for i in range(200)])
    options = tmp_path / "options.json"
    options.write_text(json.dumps(s3_server.options(s3_proxy.endpoint)))
    arguments = ["sync", str(tmp_path / "lake"), s3_url, "--storage-options", f"@{options}"]
    counts = []
    for _ in range(6):
        with Session("s", "w", tmp_path / "lake", segment_points=10) as session:  # hot objects are replaced too
            for number in range(4):
                session.track(f"t{number}").append(i=-1)
        with s3_proxy.counting() as seen:
            enough = chance.randrange(1, 40)
            command = [sys.executable, "-m", "dreamlake.cli", *arguments]
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=python_environment()) as process:
                while process.poll() is None and sum(request.kind == "PUT" for request in seen) < enough:
                    time.sleep(0.002)
                process.kill()
        counts.append(len(seen))
    assert all(counts)
    assert main(arguments) == 0, capsys.readouterr().err
    assert "not up to date" not in capsys.readouterr().out
    lake = Lake(s3_url, s3_server.options())
    for number in range(4):
        found = lake.session("s", "w").track(f"t{number}").read(limit=None)["data"]
        assert [point["data"]["i"] for point in found] == [*range(200), *[-1] * 6]
    lake._store.close()  # type: ignore[attr-defined]


def test_a_replica_that_is_ahead_is_left_alone_and_told(
    there: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with Session("s", "w", tmp_path / "a") as session:
        session.track("loss").append_batch([{"i": i} for i in range(5)])
    assert main(["sync", str(tmp_path / "a"), there]) == 0
    with Session("s", "w", tmp_path / "b", remote=there) as session:
        session.track("loss").append(i=5)
    (tmp_path / "a/w/s/.replica.json").unlink()
    with Session("s", "w", tmp_path / "a") as session:
        session.track("new").append(i=0)
    with caplog.at_level(logging.WARNING, "dreamlake"):
        assert main(["sync", str(tmp_path / "a"), there]) == 0, capsys.readouterr().err
    assert "is ahead in loss" in caplog.text
    assert total(there, "s") == 6
    assert Lake(there).session("s", "w").tracks.list() == ["loss", "new"]
    known = state.load(str(tmp_path / "a/w/s")).remote(there)
    assert [track.conflict for track in known.tracks.values()] == [None, None]


# ------------------------------------------------------------------------------------------------ late fields


def waiting(there: str, tmp_path: Path) -> Path:
    """A session whose late fields wait for two segments that only the replica has."""
    with Session("s", "w", tmp_path / "a", segment_points=10) as session:
        session.track("a/loss").append_batch([{"i": i, "_ts": float(i)} for i in range(45)])
    assert main(["sync", str(tmp_path / "a"), there]) == 0
    with Session("s", "w", tmp_path / "b", remote=there, segment_points=10) as session:
        session.track("a/loss").append(i=45, _ts=45.0)
    with Session("s", "w", tmp_path / "b", segment_points=10) as session:
        session.track("a/loss").append(late=1, _ts=3.0).append(late=2, _ts=13.0).append(new=3, _ts=13.5)
    late = tmp_path / "b/w/s/tracks/a/loss" / LATE_FILE
    assert late.exists()
    return late


def test_late_fields_that_wait_are_merged(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = waiting(there, tmp_path)
    assert main(["sync", str(tmp_path / "b"), there]) == 0
    assert not late.exists()
    found = Lake(there).session("s", "w").track("a/loss").read(limit=None)["data"]
    assert [point["data"].get("late") for point in found] == [{3: 1, 13: 2}.get(i) for i in range(47)]
    assert found[46]["data"] == {"new": 3, "_ts": 13.5}
    capsys.readouterr()
    assert main(["sync", str(tmp_path / "b"), there]) == 0
    assert "0 objects" in capsys.readouterr().out


def test_late_fields_of_a_live_run_are_left_to_it(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = waiting(there, tmp_path)
    with Session("s", "w", tmp_path / "b", segment_points=10) as session:
        session.track("a/loss").append(i=47).flush()
        assert main(["sync", str(tmp_path / "b"), there]) == 1
        assert "w/s: tracks/a/loss: " in capsys.readouterr().err
        assert late.exists()
        assert total(there, "s", "a/loss") == 47, "all else is there"
        lock = tmp_path / "b/w/s/.lock"  # and as it is found later, when the run was killed
        os.utime(lock, (time.time() - SILENCE - 1,) * 2)
        assert main(["sync", str(tmp_path / "b"), there]) == 0
        session.track("a/loss").append(i=48)
    assert main(["sync", str(tmp_path / "b"), there]) == 0
    found = Lake(there).session("s", "w").track("a/loss").read(limit=None)["data"]
    assert [found[i]["data"] for i in (3, 13)] == [
        {"i": 3, "late": 1, "_ts": 3.0},
        {"i": 13, "late": 2, "_ts": 13.0},
    ]
    assert len(found) == 49


def test_late_fields_whose_segment_is_gone_or_damaged_wait_and_are_told(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = waiting(there, tmp_path)
    store = RemoteStore(there)
    first, second = (f"w/s/tracks/a/loss/{i * 10:012}-{i * 10 + 10:012}.parquet" for i in range(2))
    wholes = store.get(first), store.get(second)
    store.put(first, wholes[0][:100] + b"?" + wholes[0][101:])
    assert main(["sync", str(tmp_path / "b"), there]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert late.exists()
    store.delete(second)
    assert main(["sync", str(tmp_path / "b"), there]) == 1
    assert "tracks/a/loss" in capsys.readouterr().err
    assert late.exists()
    for path, whole in zip((first, second), wholes, strict=True):
        store.put(path, whole)
    assert main(["sync", str(tmp_path / "b"), there]) == 0
    assert not late.exists()
    found = Lake(there).session("s", "w").track("a/loss").read(limit=None)["data"]
    assert [point["data"].get("late") for point in found] == [{3: 1, 13: 2}.get(i) for i in range(47)]


def test_a_damaged_segment_keeps_none_behind_it_from_being_fetched(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = waiting(there, tmp_path)
    store = RemoteStore(there)
    first = f"w/s/tracks/a/loss/{0:012}-{10:012}.parquet"
    whole = store.get(first)
    store.put(first, whole[:100] + b"?" + whole[101:])
    monkeypatch.setattr("dreamlake.engine.late.MOST_WANTED", 1)
    assert main(["sync", str(tmp_path / "b"), there]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert hot.parse(late.read_bytes()).points == [{"late": 1, "_ts": 3.0}], "the other one is merged"


# ------------------------------------------------------------------------------------------------ what is shown


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_a_bar_on_a_terminal_when_it_lasts(
    root: Path, s3_url: str, s3_server: S3Server, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamlake.engine.replica.progress.UNSHOWN", 0.0)
    monkeypatch.setattr("dreamlake.engine.replica.progress.STEP", 0.01)
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    s3_proxy.latency = 0.05
    options = json.dumps(s3_server.options(s3_proxy.endpoint))
    assert main(["sync", str(root / "w/one"), s3_url, "--storage-options", options]) == 0
    assert "uploading" in shown.getvalue()
    assert "objects" in shown.getvalue()
    assert SECRET not in shown.getvalue()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "memory://x"], "holds no run"),
        (["LAKE", "folder"], "is no URL"),
        (["s3://key:{secret@bucket", "memory://x"], "is a URL"),
        (["LAKE", "nosuch://x"], "cannot be opened"),
        (["LAKE", "memory://x", "--storage-options", "{secret"], "is a JSON object"),
        (["LAKE", "memory://x", "--storage-options", "[1]"], "is a JSON object"),
        (["LAKE", "memory://x", "--storage-options", "@nowhere"], "No such file"),
    ],
)
def test_mistakes(root: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = main(["sync", *(str(root) if each == "LAKE" else each for each in arguments)])
    except SystemExit as end:
        status = end.code
    assert status == 2
    err = capsys.readouterr().err
    assert said in err
    assert "{secret" not in err
