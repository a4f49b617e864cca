"""Other tools on a replica: they read its Parquet files and lines without dreamlake, and copy it up and down."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from s3.server import BUCKET, KEY, SECRET, S3Server
from support import in_child, run_python

from dreamlake import Lake, Session
from dreamlake.storage.remote import RemoteStore

POINTS, TAIL = 300, 50
HEAD = """
import json, os, sys
url, options = sys.argv[1], json.loads(sys.argv[2])
"""
# PyArrow's threads sometimes abort an interpreter that ends while a Python filesystem is in use.
END = """
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def replica(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a run as its own session keeps it on S3; segments hold 100 points."""
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    with Session(
        "run",
        "w",
        tmp_path_factory.mktemp("written"),
        remote=url,
        storage_options=s3_server.options(),
        segment_points=100,
    ) as session:
        session.parameters().set(lr=0.1)
        for i in range(POINTS + TAIL):
            session.track("loss").append(value=i * 0.5, step=i, _ts=1000.0 + i)
        for i in range(POINTS):
            late = {"note": "late"} if i >= 200 else {}
            session.track("drift").append(value=i if i < 100 else i + 0.5, **late)
        for i in range(POINTS + TAIL):
            session.track("merged").append(value=i, _ts=1000.0 + i)
        session.sync()
        session.track("merged").append(value=-1, _ts=1005.0)
        session.sync()
    return f"{url}/w/run"


@pytest.fixture
def lake(replica: str, s3_server: S3Server) -> Iterator[Lake]:
    lake = Lake(replica.removesuffix("/w/run"), s3_server.options())
    yield lake
    lake._store.close()  # type: ignore[attr-defined]


def environment(server: S3Server) -> dict[str, str]:
    """What people have set where their tools find S3."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
    }


def tool(server: S3Server, code: str, *args: object) -> Any:
    """What a script that knows nothing of dreamlake prints as JSON."""
    said = run_python(HEAD + code + END, args[0], json.dumps(server.options()), *args[1:], **environment(server))
    return json.loads(said.stdout)


# ------------------------------------------------------------------------------------------------ Parquet, by a glob


STEPS = list(range(POINTS))

GLOB = {
    "polars reads": """
import polars as pl
frame = pl.read_parquet(url + "/tracks/loss/*.parquet")
print(json.dumps([frame["_index"].to_list(), frame["value"].sum(), frame.columns]))
""",
    "polars scans": """
import polars as pl
frame = pl.scan_parquet(url + "/tracks/loss/*.parquet").filter(pl.col("step") >= 0).sort("_index").collect()
print(json.dumps([frame["_index"].to_list(), frame["value"].sum(), frame.columns]))
""",
    "duckdb": """
import duckdb, fsspec
duckdb.register_filesystem(fsspec.filesystem("s3", **options))
found = duckdb.sql(f"select * from read_parquet('{url}/tracks/loss/*.parquet') order by _index").to_arrow_table()
print(json.dumps([found["_index"].to_pylist(), sum(found["value"].to_pylist()), found.column_names]))
""",
    "pandas": """
import fsspec, pandas as pd
fs = fsspec.filesystem("s3", **options)
names = sorted(fs.glob(url + "/tracks/loss/*.parquet"))
frame = pd.concat([pd.read_parquet(f"s3://{name}", storage_options=options) for name in names])
print(json.dumps([frame["_index"].to_list(), frame["value"].sum(), list(frame.columns)]))
""",
    "pyarrow": """
import fsspec, pyarrow.parquet as pq
fs = fsspec.filesystem("s3", **options)
table = pq.ParquetDataset(sorted(fs.glob(url + "/tracks/loss/*.parquet")), filesystem=fs).read()
print(json.dumps([table["_index"].to_pylist(), sum(table["value"].to_pylist()), table.column_names]))
""",
}


@pytest.mark.parametrize("name", GLOB)
def test_a_glob_gives_all_segments_while_nothing_drifts(s3_server: S3Server, replica: str, name: str) -> None:
    found = tool(s3_server, GLOB[name], replica)
    assert found == [STEPS, sum(i * 0.5 for i in STEPS), ["_index", "_ts", "value", "step"]]


def test_the_newest_points_are_lines(s3_server: S3Server, replica: str) -> None:
    code = """
import polars as pl
frame = pl.read_ndjson(url + "/tracks/loss/data.jsonl").unnest("data")
print(json.dumps([frame["index"].to_list(), frame["step"].to_list()]))
"""
    newest = list(range(POINTS, POINTS + TAIL))
    assert tool(s3_server, code, replica) == [newest, newest]


# ------------------------------------------------------------------------------------------------ limits of a glob


def test_a_glob_meets_a_drift_of_the_schema(s3_server: S3Server, replica: str, lake: Lake) -> None:
    """Polars refuses it and DuckDB needs to be told; what dreamlake scans has all columns as wide as they need be."""
    code = """
import polars as pl
try:
    pl.scan_parquet(url + "/tracks/drift/*.parquet").collect()
    refused = False
except pl.exceptions.PolarsError:
    refused = True
import duckdb, fsspec
duckdb.register_filesystem(fsspec.filesystem("s3", **options))
parts = f"read_parquet('{url}/tracks/drift/*.parquet', union_by_name=true)"
by_name = duckdb.sql(f"select count(*), count(note), sum(value) from {parts}").fetchall()[0]
frames = [pl.read_parquet(file, glob=False) for file in sys.argv[3:]]
joined = pl.concat(frames, how="diagonal_relaxed")
print(json.dumps([refused, by_name, [joined.height, joined["note"].count(), joined["value"].sum()]]))
"""
    track = lake.session("run", "w").track("drift")
    total = sum(i if i < 100 else i + 0.5 for i in range(POINTS))
    wanted = [POINTS, 100, total]
    assert tool(s3_server, code, replica, *track.files()) == [True, wanted, wanted]
    frame = track.scan().collect()
    assert [frame.height, frame["note"].count(), frame["value"].sum()] == wanted


def test_a_glob_catches_what_awaits_its_sweep_and_files_does_not(s3_server: S3Server, replica: str, lake: Lake) -> None:
    """A field that came late made a second generation of the first segment; the first one stays for a minute."""
    code = """
import polars as pl
caught = pl.read_parquet(url + "/tracks/merged/*.parquet")
exact = pl.read_parquet(sys.argv[3:], glob=False)
print(json.dumps([caught.height, exact["_index"].to_list(), exact["value"].to_list()]))
"""
    files = lake.session("run", "w").track("merged").files()
    assert [file.rpartition("/")[2] for file in files] == [
        "000000000000-000000000100.1.parquet",
        "000000000100-000000000200.parquet",
        "000000000200-000000000300.parquet",
    ]
    values = [-1 if step == 5 else step for step in STEPS]
    assert tool(s3_server, code, replica, *files) == [POINTS + 100, STEPS, values]


# ------------------------------------------------------------------------------------------------ copies


def filesystem(server: S3Server) -> Any:
    """A plain s3fs, for copies as ``aws s3 sync`` makes them."""
    return fsspec.filesystem("s3", **server.options(), skip_instance_cache=True, use_listings_cache=False)


@pytest.fixture
def fs(s3_server: S3Server) -> Iterator[Any]:
    fs = filesystem(s3_server)
    yield fs
    fs.close_session(fs.loop, fs._s3)


def steps(session: Any, track: str = "loss", field: str = "step") -> list[Any]:
    found = session.track(track).read(limit=None)["data"]
    assert [point["index"] for point in found] == list(range(len(found)))
    return [point["data"][field] for point in found]


ALL = list(range(POINTS + TAIL))


def test_a_copy_from_the_replica_opens_and_resumes(replica: str, fs: Any, tmp_path: Path) -> None:
    fs.get(f"{replica}/", f"{tmp_path}/w/run/", recursive=True)
    assert steps(Lake(tmp_path).session("run", "w")) == ALL
    with Session("run", "w", tmp_path, segment_points=100, resume="must") as session:
        assert session.parameters().get() == {"lr": 0.1}
        for step in range(POINTS + TAIL, POINTS + TAIL + 100):
            session.track("loss").append(value=step * 0.5, step=step)
        session.track("loss").append(note="late", _ts=1003.0)
        assert steps(session) == list(range(POINTS + TAIL + 100))
    points = Lake(tmp_path).session("run", "w").track("loss").read(0, 5)["data"]
    assert points[3]["data"]["note"] == "late"
    assert Lake(tmp_path).session("run", "w").track("merged").read(5, 1)["data"][0]["data"]["value"] == -1


def test_a_copy_from_the_replica_goes_on_with_a_replica(
    replica: str, s3_server: S3Server, fs: Any, tmp_path: Path, s3_url: str
) -> None:
    """The same or another one; what is there already is found out by a comparison."""
    fs.get(f"{replica}/", f"{tmp_path}/w/run/", recursive=True)
    fs.put(f"{tmp_path}/", f"{s3_url}/", recursive=True)
    with Session(
        "run", "w", tmp_path, remote=s3_url, storage_options=s3_server.options(), segment_points=100
    ) as session:
        session.track("loss").append(value=0.0, step=POINTS + TAIL)
        session.sync()
    lake = Lake(s3_url, s3_server.options())
    assert steps(lake.session("run", "w")) == [*ALL, POINTS + TAIL]
    lake._store.close()  # type: ignore[attr-defined]


def test_a_run_that_was_copied_up_is_read_and_taken_over(
    s3_server: S3Server, fs: Any, tmp_path: Path, s3_url: str
) -> None:
    """With all that lies in its folder, the lock and the notes of another replica included."""
    here = tmp_path / "here"
    with Session("run", "w", here, remote="memory://elsewhere", segment_points=10) as session:
        for step in range(25):
            session.track("loss").append(step=step)
    assert {".lock", ".replica.json"} <= {path.name for path in (here / "w" / "run").iterdir()}
    fs.put(f"{here}/", f"{s3_url}/", recursive=True)
    lake = Lake(s3_url, s3_server.options())
    view = lake.session("run", "w")
    assert view.tracks.list() == ["loss"]
    assert steps(view) == list(range(25))
    with Session(
        "run", "w", tmp_path / "other", remote=s3_url, storage_options=s3_server.options(), segment_points=10
    ) as session:
        session.track("loss").append(step=25)
    assert steps(view) == list(range(26))
    down = tmp_path / "down"
    fs.get(f"{s3_url}/", f"{down}/", recursive=True)
    with Session("run", "w", down, segment_points=10) as session:
        session.track("loss").append(step=26)
        assert steps(session) == list(range(27))
    lake._store.close()  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------ notebooks, children


def test_a_session_with_a_replica_in_a_running_event_loop(s3_server: S3Server, s3_url: str, tmp_path: Path) -> None:
    async def cell() -> list[Any]:
        session = Session("run", "w", tmp_path, remote=s3_url, storage_options=s3_server.options())
        with session:
            for step in range(10):
                session.track("loss").append(step=step)
                await asyncio.sleep(0)
            session.sync()
        lake = Lake(s3_url, s3_server.options())
        try:
            assert lake.scan("loss").collect().height == 10
            return steps(lake.session("run", "w"))
        finally:
            lake._store.close()  # type: ignore[attr-defined]

    assert asyncio.run(cell()) == list(range(10))


def test_spawned_children_read(s3_server: S3Server, replica: str, tmp_path: Path) -> None:
    """Given a lake of the parent's, and with Polars."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import json, multiprocessing, sys
from dreamlake import Lake

def look(lake):
    track = lake.session("run", "w").track("loss")
    return len(track), track.scan().select("step").max().collect().item()

if __name__ == "__main__":
    lake = Lake(sys.argv[1], json.loads(sys.argv[2]))
    mine = look(lake)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(mine, *pool.map(look, [lake] * 3))
        pool.close()
        pool.join()
"""
    )
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    root = replica.removesuffix("/w/run")
    said = run_python(code, script, root, json.dumps(s3_server.options()))
    assert said.stdout == " ".join([f"({POINTS + TAIL}, {POINTS + TAIL - 1})"] * 4) + "\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_read_while_the_parent_replicates(s3_server: S3Server, s3_url: str, tmp_path: Path) -> None:
    with Session(
        "run", "w", tmp_path, remote=s3_url, storage_options=s3_server.options(), segment_points=10
    ) as session:
        for step in range(25):
            session.track("loss").append(step=step)
        session.sync()
        lake = Lake(s3_url, s3_server.options())
        view = lake.session("run", "w")
        assert steps(view) == list(range(25))

        def work() -> None:
            assert steps(view) == list(range(25))
            assert view.track("loss").to_arrow().num_rows == 25
            assert len(Lake(s3_url, s3_server.options()).session("run", "w").track("loss")) == 25

        for _ in range(3):
            assert in_child(work) == 0
        session.track("loss").append(step=25)
        session.sync()
        assert steps(view) == list(range(26))
    lake._store.close()  # type: ignore[attr-defined]


def test_the_replica_is_what_the_folder_is(replica: str, s3_server: S3Server) -> None:
    """Nothing there that a plain tool would stumble over."""
    store = RemoteStore(replica, s3_server.options())
    names = store.walk()
    store.close()
    assert "session.json" in names
    assert not [name for name in names if name.rpartition("/")[2].startswith((".lock", ".replica", ".tmp-", ".ts-"))]
