"""The commands that look, over URLs: lakes, workspaces and runs elsewhere, in few requests, without a secret shown."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from s3.proxy import Proxy
from s3.server import SECRET, S3Server

from dreamlake import Session
from dreamlake.cli import main
from dreamlake.cli.places import Mistake, split_url
from dreamlake.storage.remote import RemoteStore


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """``w/one`` with a rolled track and a short one, ``w/two``, and ``漢 字/a%2Fb`` with a slash in its name."""
    root = tmp_path / "written"
    with Session("one", "w", root, description="the first", segment_points=50) as session:
        session.parameters().set(lr=0.1)
        session.log("it starts")
        session.track("train/loss").append_batch([{"step": step} for step in range(120)])
        session.track("eval").append(accuracy=0.5)
    with Session("two", "w", root) as session:
        session.log("nothing else")
    with Session("a/b", "漢 字", root) as session:
        session.track("x").append(y=1)
    return root


def copy(root: Path, store: RemoteStore) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(root).as_posix(), path.read_bytes())


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, written: Path, s3_url: str, s3_server: S3Server) -> str:
    if request.param == "file":
        return written.as_uri()
    store = RemoteStore(s3_url, s3_server.options()) if request.param == "s3" else None
    store = store or RemoteStore(f"memory://{uuid.uuid4().hex}")
    copy(written, store)
    store.close()
    return store.describe()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], s3_server: S3Server, s3_proxy: Proxy, tmp_path: Path) -> Any:
    """Runs a command line, with the storage options where a URL of S3 is in it."""
    options = tmp_path / "options.json"
    options.write_text(json.dumps(s3_server.options(s3_proxy.endpoint)))

    def run(*argv: object) -> tuple[int, str, str]:
        words = [str(word) for word in argv]
        if any(word.startswith("s3://") for word in words) and "--storage-options" not in words:
            words += ["--storage-options", f"@{options}"]
        try:
            status = main(words)
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def names(shown: tuple[int, str, str]) -> list[str]:
    status, out, err = shown
    assert (status, err) == (0, "")
    return [f"{row['workspace']}/{row['name']}" for row in json.loads(out)]


def test_ls_of_a_lake_and_of_a_workspace(cli: Any, url: str) -> None:
    assert names(cli("ls", url, "--json")) == ["w/one", "w/two", "漢 字/a/b"]
    assert names(cli("ls", f"{url}/w", "--json")) == ["w/one", "w/two"]
    assert names(cli("ls", f"{url}/w/", "--json")) == ["w/one", "w/two"]
    assert names(cli("ls", f"{url}/漢 字", "--json")) == ["漢 字/a/b"]
    header, first, *_ = cli("ls", url)[1].splitlines()
    assert first.split()[:3] == ["w/one", "finished", "2"]
    assert header.split()[0] == "RUN"


def test_ls_of_a_run_and_of_nothing(cli: Any, url: str) -> None:
    status, out, err = cli("ls", f"{url}/w/one")
    assert (status, out) == (2, "")
    assert f"single run: dreamlake show {url}/w/one" in err
    assert cli("ls", f"{url}/nothing/there/at all") == (0, f"no runs in {url}/nothing/there/at all\n", "")


@pytest.mark.parametrize("name", ["w/one", "one", "URL/w/one", "URL/w/one/"])
def test_show_names_a_run_in_several_ways(cli: Any, url: str, name: str) -> None:
    at = [] if name.startswith("URL") else ["--path", url]
    status, out, err = cli("show", name.replace("URL", url), *at)
    assert (status, err) == (0, "")
    assert out.splitlines()[:2] == ["w/one  finished", "the first"]
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("eval", "train/"))] == [
        "eval",
        "train/loss",
    ]
    assert "it starts" in out


def test_a_name_with_a_slash(cli: Any, url: str) -> None:
    assert cli("show", "漢 字/a/b", "--path", url)[1].startswith("漢 字/a/b  finished\n")
    assert cli("show", "a/b", "--path", url)[1].startswith("漢 字/a/b  finished\n")
    assert cli("show", f"{url}/漢 字/a%2Fb")[1].startswith("漢 字/a/b  finished\n")


def test_what_is_not_there(cli: Any, url: str) -> None:
    for argv, said in (
        (["show", "w/ona", "--path", url], "is it 'w/one'?"),
        (["show", f"{url}/w/ona"], "no session 'ona' in workspace 'w'"),
        (["show", f"{url}/w/o|ne"], "is not the URL of a session's folder"),
        (["files", "one", "train/los", "--path", url], "is it 'train/loss'?"),
    ):
        status, out, err = cli(*argv)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert said in err


def test_files(cli: Any, url: str, written: Path) -> None:
    status, out, err = cli("files", f"{url}/w/one", "train/loss")
    at = str(written) if url.startswith("file") else url
    folder = f"{at}/w/one/tracks/train/loss"
    assert status == 0
    assert out.splitlines() == [
        f"{folder}/000000000000-000000000050.parquet",
        f"{folder}/000000000050-000000000100.parquet",
    ]
    assert err == f"dreamlake: 20 newer points are in {folder}/data.jsonl\n"
    rows = json.loads(cli("files", "one", "train/loss", "--json", "--path", url)[1])
    assert [(row["start"], row["stop"]) for row in rows] == [(0, 50), (50, 100), (100, 120)]
    assert all(row["bytes"] for row in rows)


# ------------------------------------------------------------------------------------------------ requests


def test_few_requests(cli: Any, s3_url: str, s3_server: S3Server, s3_proxy: Proxy, written: Path) -> None:
    store = RemoteStore(s3_url, s3_server.options())
    copy(written, store)
    store.close()

    def cost(*argv: object) -> Counter[str]:
        with s3_proxy.counting() as seen:
            assert cli(*argv)[0] == 0
        return Counter(request.kind for request in seen)

    # The lake, its 2 workspaces, its 3 runs; then of each run session.json, hosts/ and the tracks.
    assert cost("ls", s3_url) == {"LIST": 6 + 3 + 3, "GET": 3}
    named = cost("show", "w/one", "--path", s3_url)
    assert named == cost("show", f"{s3_url}/w/one")
    # Whether it is there, its info, parameters and log; of each of 2 tracks the hot file and the list twice, ...
    assert named.total() <= 1 + 2 + 2 + 3 + 1 + 2 * 7
    assert cost("files", f"{s3_url}/w/one", "train/loss").total() <= 1 + 1 + 2 + 1


# ------------------------------------------------------------------------------------------------ secrets, mistakes


@pytest.mark.parametrize(
    "argv",
    [
        ["ls", "s3://key:sesame@bucket/prefix"],
        ["show", "s3://key:sesame@bucket/prefix/w/one"],
        ["show", "s3://key:sesame@w/one"],
        ["show", "one", "--path", "s3://key:sesame@bucket"],
        ["show", "http://127.0.0.1:9/lake/w/one?token=sesame"],
        ["files", "s3://bucket/w/one?sesame", "x"],
        ["sync", ".", "s3://key:sesame@bucket/prefix"],
        ["ls", "memory://x", "--storage-options", '{"secret": sesame}'],
        ["ls", "memory://x", "--storage-options", '["sesame"]'],
        ["ls", "memory://x", "--storage-options", "@nowhere"],
        ["ls", ".", "--storage-options", '{"secret": "sesame"}'],
    ],
)
def test_mistakes_show_no_secret(cli: Any, argv: list[str], written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    status, out, err = cli(*argv, *([] if "--storage-options" in argv else ["--storage-options", "{}"]))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "sesame" not in err


def test_user_info_is_not_shown_where_nothing_is_found(cli: Any) -> None:
    assert cli("ls", "memory://user:sesame@nothing") == (0, "no runs in memory://nothing\n", "")
    status, _, err = cli("show", "run", "--path", "memory://user:sesame@nothing")
    assert (status, "sesame" in err) == (2, False)


def test_wrong_credentials_are_one_line(cli: Any, s3_url: str, s3_server: S3Server) -> None:
    options = json.dumps({**s3_server.options(), "secret": "sesame"})
    for argv in (["ls", s3_url], ["show", f"{s3_url}/w/one"], ["show", "one", "--path", s3_url]):
        status, out, err = cli(*argv, "--storage-options", options)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "sesame" not in err
        assert SECRET not in err


def test_a_package_that_is_not_installed_is_no_mistake(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise ImportError("gs:// URLs need another package: gcsfs")

    monkeypatch.setattr(RemoteStore, "_connect", refuse)
    for argv in (["ls", "gs://bucket"], ["show", "gs://bucket/w/one"]):
        status, _, err = cli(*argv)
        assert (status, err) == (1, "dreamlake: gs:// URLs need another package: gcsfs\n")


@pytest.mark.parametrize(
    ("url", "count", "root", "folders"),
    [
        ("s3://bucket/deep/er/w/s", 2, "s3://bucket/deep/er", ["w", "s"]),
        ("s3://bucket/w/s/", 2, "s3://bucket", ["w", "s"]),
        ("memory://w/s", 2, "memory://", ["w", "s"]),
        ("memory://w", 1, "memory://", ["w"]),
        ("file:///w/s", 2, "file:///", ["w", "s"]),
        ("file:///a/w/s", 2, "file:///a", ["w", "s"]),
        ("sftp://me:pw@host/w/s", 2, "sftp://me:pw@host", ["w", "s"]),
    ],
)
def test_split_url(url: str, count: int, root: str, folders: list[str]) -> None:
    assert split_url(url, count) == (root, folders)


@pytest.mark.parametrize("url", ["s3://bucket/w", "s3://w", "s3://", "memory://w", "s3://bucket//s", "s3://b/w/s?a=1"])
def test_split_url_refuses(url: str) -> None:
    with pytest.raises(Mistake):
        split_url(url, 2)
