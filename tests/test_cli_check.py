"""``dreamlake check`` and ``dreamlake repair``: what they say of which place, exit status, JSON, URLs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import damagelib as lib
import pytest
from s3.server import S3Server

from dreamlake import Session
from dreamlake.storage.remote import RemoteStore


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with ``w/s``, which has a track ``a/b``, and ``w/other``."""
    root = tmp_path_factory.mktemp("written") / "lake"
    lib.make_run(root)
    with Session("other", "w", root) as session:
        session.track("x").append(y=1)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return lib.copy_run(written, tmp_path / "lake")


def test_a_whole_lake_says_so_of_each_run(cli: Any, root: Path) -> None:
    status, out, err = cli("check", root)
    assert (status, err) == (0, "")
    assert out.splitlines() == ["w/other: no damage", "w/s: no damage", "0 of 2 runs are damaged"]
    assert cli("repair", root)[:2] == (0, "w/other: nothing to repair\nw/s: nothing to repair\n")


def test_every_way_to_name_what_is_meant(cli: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib.damage_footer(lib.segment_path(root, 8))
    session, track = lib.session_of(root), lib.folder_of(root)
    for argv in (
        [session],
        [session, "a/b"],
        [track],
        ["w/s", "--path", root],
        ["s", "--path", root],
        ["w/s", "a/b", "--path", root],
        [root / "w"],
        ["--path", root],
        [f"file://{session}"],
    ):
        status, out, _ = cli("check", *argv)
        assert status == 1, argv
        assert "w/s: damaged" in out, argv
        assert ("w/other" in out) is (argv in ([root / "w"], ["--path", root])), argv
    monkeypatch.chdir(root.parent)
    root.rename(root.parent / ".dreamlake")
    assert cli("check")[0] == 1


def test_damage_is_told_with_file_place_range_loss_and_remedy(cli: Any, root: Path) -> None:
    path = lib.segment_path(root, 16)
    lib.damage_column(path, "text")
    status, out, _ = cli("check", lib.session_of(root))
    assert status == 1
    lines = out.splitlines()
    assert lines[0] == "w/s: damaged"
    assert lines[1].startswith(f"  {path} is damaged (column 'text'; indices 16 to 24, exclusive): ")
    assert lines[2] == "    cannot be read: the field 'text' of the points 16 to 24 (exclusive)"
    assert lines[3].startswith("    repair: the points 16 to 24 (exclusive) are written anew")
    assert lines[3].endswith("(with --give-up-lost)")


def test_json(cli: Any, root: Path) -> None:
    path = lib.segment_path(root, 16)
    lib.damage_footer(path)
    status, out, _ = cli("check", root, "--json")
    assert status == 1
    other, run = json.loads(out)
    assert other == {"run": "w/other", "damage": [], "notes": []}
    (damage,) = run["damage"]
    assert {key: damage[key] for key in ("path", "place", "start", "stop", "track", "lost")} == {
        "path": str(path),
        "place": "footer",
        "start": 16,
        "stop": 24,
        "track": "a/b",
        "lost": "the points 16 to 24 (exclusive)",
    }
    status, out, _ = cli("repair", root, "--json")
    assert status == 1
    report = json.loads(out)[1]
    (step,) = report["steps"]
    assert (report["isClean"], step["done"], step["givesUp"], step["path"]) == (False, False, True, str(path))
    status, out, _ = cli("repair", root, "--give-up-lost", "--json")
    assert status == 0
    assert json.loads(out)[1]["steps"][0]["done"]
    run = json.loads(cli("check", root, "--json")[1])[1]
    assert run["damage"] == []
    assert ["given up on" in note["detail"] for note in run["notes"]] == [True, False]


def test_repair_says_all_it_did_and_did_not(cli: Any, root: Path) -> None:
    lib.damage_footer(lib.segment_path(root, 0))
    (lib.folder_of(root) / "metadata.json").write_bytes(b"\0")
    before = lib.digest(root)
    status, out, _ = cli("repair", lib.session_of(root), "--dry-run", "--give-up-lost")
    assert status == 1
    assert out.count("would be done: ") == 2
    assert lib.digest(root) == before
    status, out, _ = cli("repair", lib.session_of(root))
    assert status == 1
    assert "w/s: still damaged" in out
    assert f"  done: {lib.folder_of(root)}/metadata.json: " in out
    assert "lost for good: description, tags, metadata of what described the track" in out
    assert "  not done: " in out
    assert "only if you say so (--give-up-lost)" in out
    status, out, _ = cli("repair", lib.session_of(root), "--give-up-lost")
    assert (status, "w/s: no damage is left" in out) == (0, True)


def test_one_track_of_a_run(cli: Any, root: Path) -> None:
    (lib.session_of(root) / "parameters.json").write_bytes(b"\0")
    assert cli("check", lib.session_of(root))[0] == 1
    assert cli("check", lib.session_of(root), "a/b")[0] == 0
    assert cli("check", lib.folder_of(root))[0] == 0


def test_a_run_without_its_session_json_is_found(cli: Any, root: Path) -> None:
    (lib.session_of(root) / "session.json").unlink()
    for what in (root, lib.session_of(root)):
        status, out, _ = cli("check", what)
        assert (status, "session.json is damaged (its place): the file is missing" in out) == (1, True)
    assert cli("repair", lib.session_of(root))[0] == 0
    assert cli("show", lib.session_of(root))[0] == 0


@pytest.mark.parametrize("command", ["check", "repair"])
def test_mistakes(cli: Any, root: Path, command: str) -> None:
    for argv, word in (
        (["nothing", "--path", root], "nothing"),
        ([root / "nowhere"], "does not exist"),
        ([lib.session_of(root), "nope"], "nope"),
        ([root, "a/b"], "2 runs"),
        ([lib.folder_of(root), "a/b"], "track already"),
    ):
        status, out, err = cli(command, *argv)
        assert (status, out) == (2, ""), (argv, out, err)
        assert word in err or "no run" in err


def test_names_out_of_files_are_not_printed_raw(cli: Any, root: Path) -> None:
    path = lib.session_of(root) / "session.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "\x1b[2J"}))
    status, out, err = cli("check", lib.session_of(root))
    assert status == 1
    assert "\x1b" not in out + err


def test_a_replica_is_checked_and_heals_the_run(cli: Any, tmp_path: Path) -> None:
    root, there = tmp_path / "lake", tmp_path / "there"
    lib.make_run(root, remote=f"file://{there}", sync_interval=3600.0)
    assert cli("check", f"file://{there}")[:2] == (0, "w/s: no damage\n")
    lib.damage_footer(lib.segment_path(root, 8))
    status, out, _ = cli("repair", lib.session_of(root), "--give-up-lost")
    assert (status, f"file://{there}" in out) == (1, True)
    status, out, _ = cli("repair", lib.session_of(root), "--remote", f"file://{there}")
    assert (status, "the replica's copy is put in its place" in out) == (0, True)
    assert lib.segment_path(root, 8).read_bytes() == lib.segment_path(there, 8).read_bytes()
    assert cli("sync", lib.session_of(root), f"file://{there}")[0] == 0


def test_on_s3(cli: Any, root: Path, s3_server: S3Server, s3_url: str) -> None:
    remote = RemoteStore(s3_url, s3_server.options())
    lib.damage_column(lib.segment_path(root, 16), "real")
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            remote.put(path.relative_to(root).as_posix(), path.read_bytes())
    remote.close()
    options = ["--storage-options", json.dumps(s3_server.options())]
    for what in (s3_url, f"{s3_url}/w", f"{s3_url}/w/s"):
        status, out, err = cli("check", what, *options)
        assert (status, err) == (1, "")
        assert f"{s3_url}/w/s/tracks/a/b/000000000016-000000000024.parquet is damaged (column 'real'; " in out
    status, out, err = cli("repair", f"{s3_url}/w/s", *options)
    assert (status, out) == (2, "")
    assert "folders of this machine" in err
    local = root.parent / "again"
    shutil.copytree(root, local)
    lib.damage_footer(lib.segment_path(local, 0))
    status, out, err = cli("repair", lib.session_of(local), "--remote", s3_url, *options, "--give-up-lost")
    assert (status, err) == (0, "")
    assert "the replica's copy is put in its place" in out
    assert "lost for good: the field 'real'" in out
