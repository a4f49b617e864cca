"""Many runs listed together: what is said of a run is all of it, in few requests, and else it is listed for itself."""

from __future__ import annotations

import json
import random
import time
import uuid
from bisect import bisect_right
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from s3.proxy import Proxy
from s3.server import BUCKET, S3Server

from dreamlake import Lake, Session
from dreamlake.cli.places import runs_of
from dreamlake.engine import runlisting
from dreamlake.engine.catalog import session_info
from dreamlake.engine.process import side_by_side
from dreamlake.engine.runlisting import files_of_runs, in_folder
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Entry

COUNT = 40


class Pages:
    """A store that gives out its files in pages, as S3 does."""

    at_once = True

    def __init__(self, paths: list[str], length: int) -> None:
        self.paths = sorted(paths)
        self.length = length
        self.asked = 0

    def page(self, path: str, after: str) -> tuple[list[Entry], bool]:
        self.asked += 1
        assert self.asked < 200, "it goes on for ever"
        above = f"{path}/" if path else ""
        below = [each.removeprefix(above) for each in self.paths if each.startswith(above)]
        rest = below[bisect_right(below, after) :]
        return [Entry(each, 1, 0.0, False) for each in rest[: self.length]], len(rest) > self.length


class Forgetful(Pages):
    """A server that does not know where a page is to begin."""

    def page(self, path: str, after: str) -> tuple[list[Entry], bool]:
        return super().page(path, "")


class Folders(Pages):
    """A server that goes folder by folder, "a" before "a-", where the bytes of the keys are the other way round."""

    def page(self, path: str, after: str) -> tuple[list[Entry], bool]:
        above = f"{path}/" if path else ""
        below = sorted((each.removeprefix(above) for each in self.paths), key=lambda each: each.split("/"))
        rest = [each for each in below if each > after]
        return [Entry(each, 1, 0.0, False) for each in rest[: self.length]], len(rest) > self.length


def said(store: Any, folders: list[str]) -> dict[str, set[str]]:
    return {run: set(files) for run, files in files_of_runs(store, folders).items()}


def held(paths: list[str], folders: list[str]) -> dict[str, set[str]]:
    return {run: {path[len(run) + 1 :] for path in paths if path.startswith(f"{run}/")} for run in folders}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlisting, "FEW", 0)
    monkeypatch.setattr(runlisting, "DENSE", 1)


#: Names of which one is the beginning of another, with what sorts before and behind "/".
runs = st.lists(st.sampled_from(["a", "a-", "a-b", "a.b", "ab", "a0", "b", "b!", "é", "z"]), unique=True, max_size=10)
files = st.lists(
    st.sampled_from(["session.json", "tracks/x/data.jsonl", "tracks/x/y/data.jsonl", "z", "hosts/m/session.json"]),
    unique=True,
)


beside = st.sampled_from(["readme.md", "w/notes.txt", "w/a", "a", "w/other/x", "v/zz/a"])


@given(st.data())
def test_what_is_said_of_a_run_is_all_of_it(data: st.DataObject) -> None:
    names = data.draw(runs)
    tops = ["w"] if data.draw(st.booleans()) else ["v", "w", "w-"]
    folders = [f"{data.draw(st.sampled_from(tops))}/{name}" for name in names]
    paths = [f"{run}/{path}" for run in folders for path in data.draw(files)]
    paths += data.draw(st.lists(beside, unique=True))
    store = Pages(paths, data.draw(st.integers(1, 12)))
    wanted = [run for run in folders if data.draw(st.booleans())]
    found = said(store, wanted)
    everything = held(paths, wanted)
    assert found.items() <= everything.items()
    if store.length > len(paths):
        assert found == {run: files for run, files in everything.items() if files}
    for server in (Forgetful, Folders):
        assert said(server(paths, store.length), wanted).items() <= everything.items()


def test_a_run_of_many_files_stops_it_and_those_before_are_told() -> None:
    paths = [f"w/{run:02}/{number}" for run in range(20) for number in range(30 if run == 9 else 3)]
    store = Pages(paths, 12)
    folders = [f"w/{run:02}" for run in range(20)]
    assert said(store, folders) == held(paths, folders[:9])
    assert store.asked == 4, "three pages of three runs each, and one that holds not even one"


def test_pages_that_show_few_runs_are_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlisting, "DENSE", 4)
    paths = [f"w/{run:02}/{number}" for run in range(20) for number in range(3)]
    folders = [f"w/{run:02}" for run in range(20)]
    store = Pages(paths, 12)
    assert said(store, folders) == held(paths, folders[:3])
    assert store.asked == 1
    store = Pages(paths, 16)
    assert said(store, folders) == held(paths, folders)
    assert store.asked == 4


def test_a_server_with_another_order_is_asked_of_each_run() -> None:
    paths = [f"w/{run}/{number}" for run in ("0", "a", "a-", "b") for number in range(3)]
    folders = ["w/0", "w/a", "w/a-", "w/b"]
    for length in range(1, 13):
        found = said(Folders(paths, length), folders)
        assert all(found.values())
        assert found.items() <= held(paths, folders).items()


def test_pages_without_an_order_are_not_believed() -> None:
    """The rest of a run may be on any of them."""

    class Shuffled(Pages):
        def page(self, path: str, after: str) -> tuple[list[Entry], bool]:
            below = [each.removeprefix("w/") for each in self.paths]
            random.Random(1).shuffle(below)
            return [Entry(each, 1, 0.0, False) for each in below[: self.length]], True

    paths = [f"w/{run}/{number}" for run in range(5) for number in range(4)]
    assert said(Shuffled(paths, 15), [f"w/{run}" for run in range(5)]) == {}


def test_few_runs_and_other_filesystems_are_listed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Pages(["w/a/x", "w/b/x"], 10)
    monkeypatch.setattr(runlisting, "FEW", 2)
    assert said(store, ["w/a", "w/b"]) == {}
    assert store.asked == 0
    assert files_of_runs(RemoteStore("memory://nowhere"), [f"w/{number}" for number in range(99)]) == {}


def test_a_folder_of_a_run_holds_no_deeper_files() -> None:
    files = {path: Entry(path, len(path), 0.0, False) for path in ["tracks/a/x", "tracks/a/b/x", "tracks/ab/x", "x"]}
    assert in_folder(files, "tracks/a") == {"x": len("tracks/a/x")}
    assert in_folder(files, "tracks") == {}


def test_a_listing_that_missed_a_write_does_not_make_a_run_lost(tmp_path: Path) -> None:
    """session.json is read after the listing was made: it may say that the run was resumed since."""
    store = LocalStore(tmp_path)
    with Session("s", "w", tmp_path) as session:
        session.track("a").append(v=1).flush()
        paths = [path.removeprefix("w/s/") for path in store.walk("w/s")]
        before = {path: Entry(path, 1, 0.0, False) for path in paths}
        assert session_info(store, "w", "s", files=before)["status"] == "running"  # type: ignore[index]
        later = time.time() + 3600
        assert session_info(store, "w", "s", now=later, files=before)["status"] == "lost"  # type: ignore[index]
        now = {path: Entry(path, 1, later, False) for path in paths}
        assert session_info(store, "w", "s", now=later, files=now)["status"] == "running"  # type: ignore[index]


# ------------------------------------------------------------------------------------------------ on S3


@pytest.fixture(scope="module")
def place(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty runs: some without the track, with points that are in no segment, that another machine wrote as well."""
    folder = tmp_path_factory.mktemp("runs")
    for number in range(COUNT):
        with Session(f"run {number:02}", "w", folder, segment_points=5) as session:
            session.parameters().set(lr=number / 10)
            if number % 7 != 3:
                session.track("a/b").append_batch([{"v": number + i, "_ts": float(i)} for i in range(2 + number % 9)])
            session.track("a").append(other=1)
    for number in (5, 6):
        run = folder / "w" / f"run {number:02}"
        info = json.loads((run / "session.json").read_text()) | {
            "description": "of the other",
            "updatedAt": "2100-01-01",
        }
        (run / "hosts" / "m").mkdir(parents=True)
        (run / "hosts" / "m" / "session.json").write_text(json.dumps(info))
        (run / "hosts" / "m" / "parameters.json").write_text(
            json.dumps({"version": 1, "data": {"seed": number}, "createdAt": None, "updatedAt": None})
        )
    (folder / "w" / "run 05" / "session.json").unlink()
    (folder / "w" / "run 08" / "session.json").unlink()
    store = RemoteStore(f"s3://{BUCKET}/{uuid.uuid4().hex}", s3_server.options())
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(folder).as_posix(), path.read_bytes())
    store.close()
    return store.describe()


def answers(lake: Lake) -> dict[str, Any]:
    return {
        "scan": lake.scan("a/b").collect(),
        "with parameters": lake.scan("a/b", "w", parameters=True).collect(),
        "sessions": pl.DataFrame([{"name": run["name"], "said": repr(run)} for run in lake.sessions()]),
        "runs": lake.sessions("w").to_polars(),
        "named": pl.DataFrame({"run": [f"{view.workspace}/{view.name}" for view in runs_of(lake)]}),
    }


def test_answers_are_those_of_runs_listed_one_by_one(
    place: str, s3_server: S3Server, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, alone = (Lake(place, s3_server.options(s3_proxy.endpoint)) for _ in range(2))
    with s3_proxy.counting() as few:
        found = answers(together)
    monkeypatch.setattr(runlisting, "FEW", 1000)
    with s3_proxy.counting() as many:
        expected = answers(alone)
    for what, frame in expected.items():
        assert_frame_equal(found[what], frame)
    assert found["scan"]["_session"].n_unique() == COUNT - 6
    assert found["runs"].filter(pl.col("lr") > 3.75)["_session"].to_list() == ["run 38", "run 39"]
    assert found["runs"].filter(pl.col("seed") == 5)["_session"].to_list() == ["run 05"]
    assert found["sessions"].filter(pl.col("said").str.contains("of the other"))["name"].to_list() == [
        "run 05",
        "run 06",
    ]
    assert "run 08" not in found["sessions"]["name"]
    assert found["named"].height == COUNT - 1
    lists = [sum("list-type" in request.target for request in seen) for seen in (few, many)]
    assert lists[0] * 8 < lists[1]
    together._store.close()  # type: ignore[attr-defined]
    alone._store.close()  # type: ignore[attr-defined]


def test_pages_of_s3_begin_where_they_are_to_begin(place: str, s3_server: S3Server) -> None:
    store = RemoteStore(place, s3_server.options())
    paths = sorted(entry.name for entry in store.tree("w"))
    entries, more = store.page("w")
    assert ([entry.name for entry in entries], more) == (paths, False)
    after = paths[len(paths) // 2]
    assert [entry.name for entry in store.page("w", after)[0]] == paths[len(paths) // 2 + 1 :]
    assert store.page("w", after)[0][0].size
    assert store.page("w", "zz") == ([], False)
    assert store.page("nothing") == ([], False)
    store.close()


def test_a_listing_of_more_than_a_page(s3_server: S3Server, s3_url: str) -> None:
    store = RemoteStore(s3_url, s3_server.options())
    paths = [f"w/run {run:03}/{name}" for run in range(350) for name in ("a", "b", "tracks/x/data.jsonl")]
    side_by_side(lambda path: store.put(path, b""), paths, 16)
    assert store.page("w")[1]
    folders = [f"w/run {run:03}" for run in range(350)]
    assert said(store, folders) == held(paths, folders)
    store.close()
