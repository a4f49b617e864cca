"""``dreamlake import mlflow`` of stores that MLflow wrote, with its own client as the judge."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support import python_environment, run_python

from dreamlake import Lake, Session

pytestmark = pytest.mark.skipif(
    find_spec("mlflow") is None or find_spec("sqlalchemy") is None, reason="needs MLflow: tests/ecosystem/run importers"
)

BEGIN = """
import math, os, sys, warnings
warnings.simplefilter("ignore")
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
mlflow.set_tracking_uri(sys.argv[1])
client = MlflowClient()
"""

EVERYTHING = (
    BEGIN
    + """
mlflow.set_experiment("vision / first")
with mlflow.start_run(run_name="baseline", description="a note\\nof two lines") as run:
    mlflow.log_params({"lr": 0.1, "n": 3, "name": "x", "v": "1.10", "zip": "007"})
    mlflow.log_params({"a": 1, "a.b": 2, "on": True, "no": None})
    mlflow.set_tags({"team": "blue", "größe": "é漢"})
    for i in range(50):
        mlflow.log_metric("train/loss", 1 / (i + 1), step=i)
    for value in (math.nan, math.inf, -math.inf, -0.0, 1e-300):
        mlflow.log_metric("odd", value, step=7)
    # As `log_batch` is used: many points of one time, and of one step.
    client.log_batch(run.info.run_id, metrics=[Metric("batch", i / 3, 1700000000123, i // 2) for i in range(900)])
    client.log_metric(run.info.run_id, "zero", 2.5, timestamp=0, step=0)
    client.log_metric(run.info.run_id, "zero", 3.5, timestamp=0, step=-4)
    client.log_metric(run.info.run_id, "sp ace/é.-_", 1.0, timestamp=1700000000999, step=1)
    child = client.create_run(run.info.experiment_id, run_name="child")
    client.log_metric(child.info.run_id, "x", 1.0)
    client.set_terminated(child.info.run_id, "KILLED")
    other = client.create_run(run.info.experiment_id, run_name="baseline")
    client.log_metric(other.info.run_id, "x", 2.0)
    client.set_terminated(other.info.run_id, "FAILED")
    client.create_run(run.info.experiment_id, run_name="live")
"""
)

JUDGE = (
    BEGIN
    + """
import json
said = []
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        metrics = {
            key: [[m.timestamp, m.step, repr(m.value)] for m in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        info = {k: getattr(run.info, k) for k in ("run_id", "run_name", "status", "start_time", "end_time")}
        said.append({**info, "metrics": metrics, "params": run.data.params, "tags": run.data.tags})
print("\\n" + json.dumps(said))
"""
)


@pytest.fixture(scope="module", params=["sqlite", "files"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with four runs: its folder or file, and its URI."""
    folder = tmp_path_factory.mktemp("mlflow")
    place = folder / ("mlflow.db" if request.param == "sqlite" else "mlruns")
    uri = f"sqlite:///{place}" if request.param == "sqlite" else place.as_uri()
    run_python(EVERYTHING, uri, cwd=folder)
    return place, uri


@pytest.fixture
def store(written: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """A copy of it that a test may change."""
    place, uri = written
    copy = tmp_path / place.name
    if place.is_dir():
        shutil.copytree(place, copy)
    else:
        shutil.copy(place, copy)
    return copy, uri.replace(str(place), str(copy))


def said_by_mlflow(uri: str, cwd: Path) -> dict[str, dict[str, Any]]:
    """The runs by their ids, as MLflow's client reads them."""
    out = run_python(JUDGE, uri, cwd=cwd).stdout
    return {run["run_id"]: run for run in json.loads(out.splitlines()[-1])}


def take(source: object, lake: Path, *options: str, status: int = 0) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "dreamlake.cli", "import", "mlflow", str(source), "--path", str(lake), "--json"]
    environment = python_environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")  # five take a minute
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=lake, env=environment)
    assert done.returncode == status, done
    told: list[dict[str, Any]] = json.loads(done.stdout) if done.stdout else [{"error": done.stderr}]
    return told


def points(lake: Path, run: str, track: str) -> list[list[Any]]:
    """What MLflow would say of a metric: its milliseconds, steps and values, in the order in which they are stored."""
    workspace, _, session = run.rpartition("/")
    found = Lake(lake).session(session, workspace).track(track).read(limit=None)["data"]
    assert [point["index"] for point in found] == list(range(len(found)))
    rows = [point["data"] for point in found]
    assert {tuple(row) for row in rows} == {("step", "value", "_ts")}
    assert all(row["_ts"] == round(row["_ts"] * 1000) / 1000 for row in rows)
    return [[round(row["_ts"] * 1000), row["step"], repr(row["value"])] for row in rows]


def check(lake: Path, uri: str, cwd: Path) -> None:
    """Hold every run of a lake against what MLflow says of it, value by value."""
    said = said_by_mlflow(uri, cwd)
    infos = Lake(lake).sessions()
    assert {info["metadata"]["imported"]["runId"] for info in infos} == set(said)
    for info in infos:
        run = said[info["metadata"]["imported"]["runId"]]
        view = Lake(lake).session(info["name"], info["workspace"])
        assert sorted(view.tracks.list()) == sorted(run["metrics"])
        for key, history in run["metrics"].items():
            assert points(lake, f"{info['workspace']}/{info['name']}", key) == history, key
        parameters = {{"a_": "a"}.get(key, key): str(value) for key, value in view.parameters().get().items()}
        assert parameters == run["params"]
        assert info["metadata"]["imported"]["tags"] == run["tags"]
        assert info["tags"] == sorted(f"{k}={v}" for k, v in run["tags"].items() if not k.startswith("mlflow."))
        assert info["description"] == run["tags"].get("mlflow.note.content")


def test_a_store_is_what_mlflow_says_it_is(written: tuple[Path, str], lake_dir: Path, tmp_path: Path) -> None:
    place, uri = written
    before = contents(place)
    first = take(place, lake_dir)
    check(lake_dir, uri, tmp_path)
    again = take(uri, lake_dir)
    assert [told["run"] for told in again] == [told["run"] for told in first]
    assert sum(told["new"] for told in first) == 960
    assert [told["new"] for told in again] == [0] * 4
    check(lake_dir, uri, tmp_path)
    assert contents(place) == before, "the store was changed"
    assert [entry for entry in os.listdir(lake_dir) if entry.startswith("ml")] == []
    names = {told["run"].removeprefix("vision / first/") for told in first}
    assert {"child", "live", "baseline"} < names
    assert any(name.startswith("baseline-") for name in names)
    status = {info["name"]: info["status"] for info in Lake(lake_dir).sessions()}
    assert (status["child"], status["live"]) == ("interrupted", "running")
    assert sorted(value for name, value in status.items() if name.startswith("baseline")) == ["failed", "finished"]


def contents(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def test_numbers_among_parameters(written: tuple[Path, str], lake_dir: Path) -> None:
    """What is text in MLflow becomes a number where its text is exactly that number's."""
    take(written[0], lake_dir)
    (run,) = [info for info in Lake(lake_dir).sessions() if info["description"]]
    parameters = Lake(lake_dir).session(run["name"], run["workspace"]).parameters().get()
    assert parameters == {
        "lr": 0.1, "n": 3, "name": "x", "v": "1.10", "zip": "007", "a_": 1, "a.b": 2, "on": True, "no": "None"
    }  # fmt: skip


def test_values_without_a_number(written: tuple[Path, str], lake_dir: Path, tmp_path: Path) -> None:
    """Whatever a store makes of infinity (SQLite: the largest double), NaN is NaN."""
    take(written[0], lake_dir)
    (run,) = [info for info in Lake(lake_dir).sessions() if info["description"]]
    values = [float(value) for _, _, value in points(lake_dir, f"{run['workspace']}/{run['name']}", "odd")]
    assert sum(map(math.isnan, values)) == 1
    assert max(v for v in values if v == v) >= 1.7e308


def test_a_store_that_grows_adds_only_what_is_new(store: tuple[Path, str], lake_dir: Path, tmp_path: Path) -> None:
    """Also points older than those which are there, doubles of them, parameters, tags, and the end of a run."""
    place, uri = store
    take(place, lake_dir)
    run_python(
        BEGIN
        + """
experiment = client.get_experiment_by_name("vision / first").experiment_id
(run,) = client.search_runs([experiment], "attributes.run_name = 'live'")
(base,) = client.search_runs([run.info.experiment_id], "tags.team = 'blue'")
client.log_metric(run.info.run_id, "new", 1.0)
then = 1700000000123
for timestamp, step, value in ((5, 0, 1.0), (then, 0, 0.0), (then, 0, 9.0), (1800000000000, 999, 1.5)):
    client.log_metric(base.info.run_id, "batch", value, timestamp=timestamp, step=step)
client.log_param(run.info.run_id, "late", 5)
client.set_tag(run.info.run_id, "k", "v")
client.set_terminated(run.info.run_id)
""",
        uri,
        cwd=tmp_path,
    )
    told = take(place, lake_dir)
    # A store of files keeps a point that is logged twice, SQLite does not.
    assert sum(each["new"] for each in told) == (5 if place.is_dir() else 4)
    said = said_by_mlflow(uri, tmp_path)
    for info in Lake(lake_dir).sessions():
        run = said[info["metadata"]["imported"]["runId"]]
        for key, history in run["metrics"].items():
            got = points(lake_dir, f"{info['workspace']}/{info['name']}", key)
            assert Counter(map(tuple, got)) == Counter(map(tuple, history))
    live = Lake(lake_dir).session("live", "vision / first")
    assert (live.info["status"], live.info["tags"], live.parameters().get()) == ("finished", ["k=v"], {"late": 5})
    assert [each["new"] for each in take(place, lake_dir)] == [0] * 4


def test_an_import_that_is_killed_ends_right_the_next_time(
    written: tuple[Path, str], lake_dir: Path, tmp_path: Path
) -> None:
    place, uri = written
    code = "from dreamlake.integrations import intake; intake.BATCH = 20; "
    code += "import sys; from dreamlake.cli import main; main(sys.argv[1:])"
    for wanted in (1, 100, 400, 900):
        command = [sys.executable, "-c", code, "import", "mlflow", str(place), "--path", str(lake_dir)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                if sum(file.read_bytes().count(b"\n") for file in lake_dir.rglob("data.jsonl")) >= wanted:
                    process.kill()
                time.sleep(0.002)
    take(place, lake_dir)
    check(lake_dir, uri, tmp_path)


def test_many_points(tmp_path: Path, lake_dir: Path) -> None:
    """More than a page of any client: a metric of 60,000."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = """
run = client.create_run("0", run_name="long")
for begin in range(0, 60000, 1000):
    points = [Metric("m", i / 7, 1700000000000 + i // 3, i) for i in range(begin, begin + 1000)]
    client.log_batch(run.info.run_id, metrics=points)
client.set_terminated(run.info.run_id)
"""
    run_python(BEGIN + code, uri, cwd=tmp_path, timeout=300)
    assert take(tmp_path, lake_dir)[0]["new"] == 60_000
    assert take(tmp_path, lake_dir)[0]["new"] == 0
    check(lake_dir, uri, tmp_path)


def test_wrong_sources_are_told_and_made_by_nobody(tmp_path: Path, lake_dir: Path) -> None:
    for source, said in (
        (tmp_path / "nothing", "does not exist"),
        (tmp_path, "no store of MLflow"),
        (f"sqlite:///{tmp_path}/none.db", "there is no file"),
    ):
        assert said in take(source, lake_dir, status=2)[0]["error"]
    (tmp_path / "text.db").write_text("not a database")
    assert "no SQLite file" in take(tmp_path / "text.db", lake_dir, status=2)[0]["error"]
    run_python(BEGIN + "client.search_experiments()", f"sqlite:///{tmp_path}/empty.db", cwd=tmp_path)
    assert "no run" in take(tmp_path / "empty.db", lake_dir, status=2)[0]["error"]
    assert "MLflow" in take("http://127.0.0.1:9", lake_dir, status=1)[0]["error"]
    assert not list(lake_dir.iterdir())
    assert not (tmp_path / "none.db").exists()


def test_only_some_runs(written: tuple[Path, str], lake_dir: Path) -> None:
    assert [told["run"] for told in take(written[0], lake_dir, "--only", "chi*")] == ["vision / first/child"]
    told = take(written[0], lake_dir, "--only", "vision*/live", "--name", "mine", "-w", "w")
    assert [each["run"] for each in told] == ["w/mine"]
    with Session("live", "vision / first", lake_dir) as session:
        session.track("x").append(x=1)
    assert "was not imported" in take(written[0], lake_dir, "--only", "live", status=2)[0]["error"]
