"""``dreamlake sync`` as it is typed: killed runs, whole lakes, doing it again, and mistakes."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest
from s3.proxy import Fault, Proxy
from s3.server import SECRET, S3Server

from dreamlake import Lake, Session
from dreamlake.cli import main
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


def total(url: str, name: str) -> int:
    return Lake(url).session(name, "w").track("loss").read(limit=1)["total"]


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
    assert "is not up to date" in out.out
    lake = Lake(there).session("two", "w")
    assert [point["data"]["i"] for point in lake.track("loss").read()["data"]] == [0, 1, 2, "a"]
    assert lake.tracks.list() == ["from copy", "from lake", "loss"]


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
