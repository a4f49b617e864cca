"""``dreamlake import wandb`` of files that wandb wrote, with wandb's own reader (`wandb leet inspect`) as the judge."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support import python_environment, run_python, start_python

from dreamlake import Lake, Session

pytestmark = pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb: tests/ecosystem/run importers")

WRITE = """
import os, sys, warnings
warnings.simplefilter("default")
os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": sys.argv[1]}
os.environ["WANDB__STATS_SAMPLING_INTERVAL"] = "0.1"
os.chdir(sys.argv[1])
import math
import numpy as np
import wandb
"""

EVERYTHING = (
    WRITE
    + """
run = wandb.init(
    project="vision", name="first try", notes="some notes", tags=["a", "b"], group="g", job_type="train",
    config={"lr": 0.1, "model": {"layers": 4, "act": "relu"}, "seeds": [1, 2], "none": None},
)
for i in range(300):
    run.log({"loss": 1 / (i + 1), "train/acc": i / 300, "nested": {"x": i, "y": {"z": "t"}}, "step": i * 10})
run.log({"loss": math.nan, "up": math.inf, "down": -math.inf, "big": 2**60, "whole": 3.0, "t": "text", "b": True})
run.log({"h": wandb.Histogram(np.arange(10.0)), "none": None, "list": [1, 2.5, "x"], "empty": {}})
run.log({"picture": wandb.Image(np.zeros((4, 4, 3), dtype=np.uint8)), "table": wandb.Table(["c"], [[1], [2]])})
run.log({"loss": 5.0}, step=1000)
run.config.update({"late": 1, "lr": 0.2}, allow_val_change=True)
run.summary["best"] = 0.5
run.summary["deep"] = {"a": {"b": 1}}
import time
time.sleep(1.0)
run.finish()
"""
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one offline run of everything."""
    folder = tmp_path_factory.mktemp("wandb")
    run_python(EVERYTHING, folder)
    return folder


def log_of(folder: Path) -> Path:
    (file,) = folder.rglob("*.wandb")
    return file


def said_by_wandb(file: Path) -> list[dict[str, Any]]:
    """The records of a file as wandb reads them."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)], capture_output=True, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows_by_wandb(file: Path) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in said_by_wandb(file) if record["type"] == "history"]


def take(source: Path, lake: Path, *options: str, status: int = 0) -> list[dict[str, Any]]:
    """Import in a process of its own, as a person does."""
    command = [sys.executable, "-m", "dreamlake.cli", "import", "wandb", str(source), "--path", str(lake), "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=python_environment())
    assert done.returncode == status, done
    told: list[dict[str, Any]] = json.loads(done.stdout) if done.stdout else [{"error": done.stderr}]
    return told


def points(lake: Path, session: str, track: str = "history", workspace: str = "vision") -> list[dict[str, Any]]:
    found = Lake(lake).session(session, workspace).track(track).read(limit=None)["data"]
    assert [point["index"] for point in found] == list(range(len(found)))
    return [point["data"] for point in found]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as `leet` shows them, and what JSON has no numbers for as its texts."""
    if isinstance(value, dict) and (value or not prefix):
        return {key: inner for name in value for key, inner in flat(value[name], f"{prefix}.{name}").items()}
    if isinstance(value, float) and not math.isfinite(value):
        value = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return {prefix[1:]: value}


def as_wandb_says(point: dict[str, Any]) -> dict[str, Any]:
    renamed = {"_ts": "_timestamp", "step": "_step", "runtime": "_runtime", "step_": "step"}
    return flat({renamed.get(name, name): value for name, value in point.items()})


def moment(text: str) -> float:
    """Seconds since the epoch, to the microsecond, of a time with nanoseconds."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(rest + '000000')[:6]}+00:00").timestamp()


# ------------------------------------------------------------------------------------------------ values


def test_an_offline_run_is_what_wandb_says_it_is(written: Path, lake_dir: Path) -> None:
    first = take(written, lake_dir)[0]
    again = take(written / "wandb", lake_dir)[0]
    assert (first["run"], again["run"]) == ("vision/first try", "vision/first try")
    assert (first["new"], again["new"], again["points"]) == (first["points"], 0, first["points"])
    file = log_of(written)
    rows = rows_by_wandb(file)
    got = points(lake_dir, "first try")
    assert len(rows) == len(got) == 304
    for row, point in zip(rows, got, strict=True):
        assert as_wandb_says(point) == row
    assert [type(point["loss"]) for point in got[1:4]] == [float] * 3
    assert got[300]["big"] == 2**60
    assert math.isnan(got[300]["loss"])


def test_system_metrics_are_what_wandb_says_they_are(written: Path, lake_dir: Path) -> None:
    take(written, lake_dir)
    stats = [record["stats"] for record in said_by_wandb(log_of(written)) if record["type"] == "stats"]
    got = points(lake_dir, "first try", "system")
    assert len(stats) == len(got) > 2
    for each, point in zip(stats, got, strict=True):
        assert point.pop("_ts") == pytest.approx(moment(each["timestamp"]), abs=2e-6)
        assert point == each["item"]


def test_config_summary_and_the_rest_are_what_wandb_says(written: Path, lake_dir: Path) -> None:
    take(written, lake_dir)
    run = Lake(lake_dir).session("first try", "vision")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(log_of(written))]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert run.parameters().get() == flat({k: v for k, v in said["config"].items() if k != "_wandb"})
    assert run.parameters().get()["lr"] == 0.2
    info = run.info
    mark = info["metadata"]["imported"]
    summary = {key: value for key, value in said["summary"].items() if key[:1] != "_"}
    assert flat(mark["summary"]) == flat(summary)
    assert (info["description"], info["tags"], info["status"]) == (said["notes"], ["a", "b"], said["state"])
    assert (mark["runId"], mark["displayName"], mark["group"], mark["jobType"]) == (
        said["run_id"],
        "first try",
        "g",
        "train",
    )
    assert moment(said["start_time"]) == pytest.approx(datetime.fromisoformat(info["createdAt"]).timestamp(), abs=2e-6)


@pytest.mark.parametrize(("code", "status"), [("run.finish(exit_code=3)", "failed"), ("1 / 0", "failed")])
def test_how_a_run_ended(code: str, status: str, tmp_path: Path, lake_dir: Path) -> None:
    run_python(
        WRITE + "run = wandb.init(project='vision', name='end')\nrun.log({'x': 1})\n" + code, tmp_path, check=False
    )
    take(tmp_path, lake_dir)
    assert Lake(lake_dir).session("end", "vision").info["status"] == status


# ------------------------------------------------------------------------------------------------ twice, and later


def test_a_file_that_ends_anywhere_and_then_goes_on(written: Path, tmp_path: Path, lake_dir: Path) -> None:
    """As while it is written, or after a kill: what wandb reads of it is there, and the rest comes later, once."""
    folder = tmp_path / "wandb" / log_of(written).parent.name
    folder.mkdir(parents=True)
    file = folder / log_of(written).name
    whole = log_of(written).read_bytes()
    seen = 0
    for cut in [7, 100]:  # before it says which run it is
        file.write_bytes(whole[:cut])
        assert "which run" in take(folder, lake_dir, status=2)[0]["error"]
    assert not list(lake_dir.iterdir())
    for cut in [*range(len(whole) // 9, len(whole), len(whole) // 9), len(whole) - 1, len(whole)]:
        file.write_bytes(whole[:cut])
        told = take(folder, lake_dir, "--name", "cut", "-w", "vision")[0]
        assert told["damage"] == []
        rows = rows_by_wandb(file)
        got = points(lake_dir, "cut") if rows else []
        assert list(map(as_wandb_says, got)) == rows
        assert len(got) >= seen
        seen = len(got)
    assert seen == 304
    assert Lake(lake_dir).session("cut", "vision").info["status"] == "finished"


def test_a_killed_run_is_imported_as_far_as_it_came(tmp_path: Path, lake_dir: Path) -> None:
    code = (
        WRITE
        + """
run = wandb.init(project="vision", name="killed")
for i in range(10**9):
    run.log({"x": i})
    time.sleep(0.001) if (time := __import__("time")) else None
"""
    )
    with start_python(code, tmp_path) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not any(f.stat().st_size > 200_000 for f in tmp_path.rglob("*.wandb")):
            time.sleep(0.05)
        live = take(tmp_path, lake_dir)[0]
        process.send_signal(signal.SIGKILL)
    assert live["points"] > 0
    time.sleep(2)  # wandb's service notices, and ends the file
    take(tmp_path, lake_dir)
    rows = rows_by_wandb(log_of(tmp_path))
    got = points(lake_dir, "killed")
    assert [point["x"] for point in got] == list(range(len(rows)))
    assert list(map(as_wandb_says, got)) == rows
    assert Lake(lake_dir).session("killed", "vision").info["status"] != "finished"


def test_a_resumed_run_is_one_session(tmp_path: Path, lake_dir: Path) -> None:
    """Two folders of one id: both at once, or the second one later, and wherever they were moved."""
    for begin in (0, 5):
        code = f"""
run = wandb.init(project="vision", name="resumed", id="abcd1234", resume="allow")
for i in range({begin}, {begin + 5}):
    run.log({{"x": i}})
run.finish()
"""
        run_python(WRITE + code, tmp_path)
        take(tmp_path, lake_dir)
        time.sleep(1.1)  # the folders are named by the second
    files = sorted(tmp_path.rglob("*.wandb"))
    assert len(files) == 2
    assert [point["x"] for point in points(lake_dir, "resumed")] == list(range(10))
    rows = [row for file in files for row in rows_by_wandb(file)]
    assert list(map(as_wandb_says, points(lake_dir, "resumed"))) == rows
    shutil.move(tmp_path / "wandb", tmp_path / "elsewhere")
    assert [told["new"] for told in take(tmp_path / "elsewhere", lake_dir)] == [0]
    for file in sorted(tmp_path.rglob("*.wandb")):
        assert take(file, lake_dir)[0]["new"] == 0
    take(tmp_path / "elsewhere", lake_dir, "-w", "other")
    again = Lake(lake_dir).session("resumed", "other").track("history").read(limit=None)["data"]
    assert [point["data"] for point in again] == points(lake_dir, "resumed")


def test_runs_of_one_name_stay_apart(tmp_path: Path, lake_dir: Path) -> None:
    code = "for i in range(2):\n    with wandb.init(project='vision', name='same') as run:\n        run.log({'x': i})\n"
    run_python(WRITE + code, tmp_path)
    for _ in range(2):
        names = [told["run"] for told in take(tmp_path, lake_dir)]
        assert names[0] == "vision/same"
        assert names[1].startswith("vision/same-")
    assert [points(lake_dir, name.partition("/")[2])[0]["x"] for name in names] == [0, 1]
    with Session("taken", "vision", lake_dir) as session:
        session.track("history").append(x=1)
    run_python(WRITE + "with wandb.init(project='vision', name='taken') as run: run.log({'x': 1})", tmp_path / "wandb")
    told = take(tmp_path / "wandb" / "wandb", lake_dir, status=2)
    assert "was not imported" in told[0]["error"]


def test_an_import_that_is_killed_ends_right_the_next_time(written: Path, lake_dir: Path) -> None:
    command = [sys.executable, "-m", "dreamlake.cli", "import", "wandb", str(written), "--path", str(lake_dir)]
    small = "from dreamlake.integrations import intake; intake.BATCH = 7; "
    command[1:3] = ["-c", small + "import sys; from dreamlake.cli import main; main(sys.argv[1:])"]
    for wanted in (1, 30, 100, 200):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        file = lake_dir / "vision/first try/tracks/history/data.jsonl"
        while process.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") >= wanted):
            time.sleep(0.001)
        process.kill()
        process.wait()
    take(written, lake_dir)
    assert list(map(as_wandb_says, points(lake_dir, "first try"))) == rows_by_wandb(log_of(written))
    assert len(points(lake_dir, "first try", "system")) > 2


# ------------------------------------------------------------------------------------------------ damage, and exports


def test_a_flipped_bit_is_damage(written: Path, tmp_path: Path, lake_dir: Path) -> None:
    """What is before it is imported, and the same as wandb reads before it; what is behind it is counted."""
    whole = log_of(written).read_bytes()
    for at in range(len(whole) // 12, len(whole), len(whole) // 12):
        folder = tmp_path / f"at{at}"
        folder.mkdir()
        file = folder / "run-x.wandb"
        data = bytearray(whole)
        data[at] ^= 1
        file.write_bytes(bytes(data))
        told = take(file, lake_dir, "--name", f"at{at}", "-w", "vision", status=1)[0]
        assert "is damaged" in told["damage"][0]
        got = list(map(as_wandb_says, points(lake_dir, f"at{at}"))) if told["points"] else []
        assert got == rows_by_wandb(log_of(written))[: len(got)]


def test_files_that_are_none_are_refused(tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "run-x.wandb").write_bytes(b"something else entirely")
    assert "does not begin as" in take(tmp_path, lake_dir, status=2)[0]["error"]
    (tmp_path / "run-x.wandb").write_bytes(b"")
    assert "which run" in take(tmp_path, lake_dir, status=2)[0]["error"]
    (tmp_path / "run-x.wandb").unlink()
    assert "no .wandb file" in take(tmp_path, lake_dir, status=2)[0]["error"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_exported_history(kind: str, written: Path, tmp_path: Path, lake_dir: Path) -> None:
    """A frame as `run.history()` gives it, written with pandas."""
    pd = pytest.importorskip("pandas")
    rows = [
        {k: v for k, v in row.items() if not isinstance(v, (list, dict, str))} for row in rows_by_wandb(log_of(written))
    ]
    frame = pd.DataFrame(rows[:300])
    file = tmp_path / f"history.{kind}"
    if kind == "csv":
        frame.to_csv(file, index=False)
    elif kind == "jsonl":
        frame.to_json(file, orient="records", lines=True, double_precision=15)
    else:
        frame.to_parquet(file)
    assert take(file, lake_dir)[0]["new"] == 300
    assert take(file, lake_dir)[0]["new"] == 0
    got = points(lake_dir, "history", workspace="uncategorized")
    for point, row in zip(got, rows[:300], strict=True):
        assert {name: value for name, value in as_wandb_says(point).items() if value is not None} == pytest.approx(row)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert "import it as csv" in take(tmp_path / "other.csv", lake_dir, status=2)[0]["error"]


def test_console_output_is_a_track(tmp_path: Path, lake_dir: Path) -> None:
    code = """
run = wandb.init(project="vision", name="talks", settings=wandb.Settings(console="wrap"))
print("hello grüße")
print("oh", file=sys.stderr)
run.log({"x": 1})
run.finish()
"""
    run_python(WRITE + code, tmp_path)
    take(tmp_path, lake_dir)
    wanted = [r["output_raw"] for r in said_by_wandb(log_of(tmp_path)) if r["type"] == "output_raw"]
    got = points(lake_dir, "talks", "output")
    assert [point["text"] for point in got] == [each["line"] for each in wanted]
    assert any(point["text"].startswith("hello grüße") and point["stream"] == "stdout" for point in got)
    assert any(point["text"].startswith("oh") and point["stream"] == "stderr" for point in got)
    assert os.path.exists(lake_dir)
