"""A lake: runs found, looked into, and scanned together."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from build import RacingStore, TrackOnDisk, points_of
from polars.testing import assert_frame_equal

from dreamlake.engine.catalog import session_info
from dreamlake.errors import CorruptTrackError, SessionNotFoundError, TrackNotFoundError
from dreamlake.lake import Lake
from dreamlake.storage import open_store, scheme_of
from dreamlake.storage.localstore import LocalStore


@pytest.fixture
def lake(lake_dir: Path) -> Lake:
    """Three runs in two workspaces; run "b" has only ints, run "c" a text where the others have a number."""
    a = TrackOnDisk(lake_dir, "loss", "w", "a")
    a.segments(points_of(20), 10)
    a.hot(points_of(3, 20), 20)
    b = TrackOnDisk(lake_dir, "loss", "w", "b/ü %")
    b.hot([{"value": 1, "extra": [1], "_ts": 5.0}])
    c = TrackOnDisk(lake_dir, "loss", "x", "c")
    c.hot([{"value": "high", "_ts": 6.0}])
    TrackOnDisk(lake_dir, "robot/position/left", "w", "a").hot(points_of(1))
    TrackOnDisk(lake_dir, "robot", "w", "a").write_metadata()
    TrackOnDisk(lake_dir, "never written", "w", "a")
    return Lake(lake_dir)


# ------------------------------------------------------------------------------------------------ what is there


def test_workspaces_and_sessions(lake: Lake, lake_dir: Path) -> None:
    (lake_dir / "no workspace" / "no session").mkdir(parents=True)
    (lake_dir / "w" / "no%session").mkdir()
    (lake_dir / "file").write_bytes(b"")
    assert lake.workspaces() == ["w", "x"]
    assert [(info["workspace"], info["name"], info["status"]) for info in lake.sessions()] == [
        ("w", "a", "finished"),
        ("w", "b/ü %", "finished"),
        ("x", "c", "finished"),
    ]
    assert [info["name"] for info in lake.sessions("x")] == ["c"]
    assert lake.sessions("none") == []
    with pytest.raises(ValueError, match="workspace"):
        lake.sessions("../x")


def test_a_lake_that_is_not_there_is_empty(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "nothing"))
    assert (lake.workspaces(), lake.sessions()) == ([], [])
    with pytest.raises(TrackNotFoundError, match="none of the 0 sessions"):
        lake.scan("loss")
    assert not (tmp_path / "nothing").exists()


def test_a_session_gives_its_tracks(lake: Lake) -> None:
    session = lake.session("a", "w")
    assert session.tracks.list() == ["loss", "robot", "robot/position/left"]
    assert (list(session.tracks), len(session.tracks)) == (session.tracks.list(), 3)
    assert "robot/position/left" in session.tracks
    assert "robot/position" not in session.tracks
    assert session.track("robot/position/left").read()["total"] == 1
    assert session.info["name"] == "a"
    assert repr(session) == "<SessionView 'w'/'a'>"
    with pytest.raises(TrackNotFoundError):
        session.track("robot/position").read()
    with pytest.raises(ValueError, match="track name"):
        session.track("../up")
    with pytest.raises(SessionNotFoundError, match="'d' in workspace 'w'"):
        lake.session("d", "w")
    with pytest.raises(FileNotFoundError):
        lake.session("a", "x")
    with pytest.raises(ValueError, match="session name"):
        lake.session("", "w")


def test_session_json_that_cannot_be_read(lake: Lake, lake_dir: Path) -> None:
    (lake_dir / "w" / "a" / "session.json").write_bytes(b"{")
    with pytest.raises(CorruptTrackError, match=r"session\.json"):
        lake.session("a", "w")


@pytest.mark.parametrize("fresh", [None, ".lock", "session.json", "tracks/loss/data.jsonl", "tracks/up/er/data.jsonl"])
def test_a_running_session_that_fell_silent_is_lost(lake: Lake, lake_dir: Path, fresh: str | None) -> None:
    TrackOnDisk(lake_dir, "up/er", "w", "a").hot(points_of(1))
    folder = lake_dir / "w" / "a"
    (folder / ".lock").write_bytes(b"1")
    TrackOnDisk(lake_dir, "loss", "w", "a").write_session(status="running")
    assert lake.session("a", "w").info["status"] == "running"
    then = time.time() - 3600
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path != folder / (fresh or ""):
            os.utime(path, (then, then))
    assert lake.session("a", "w").info["status"] == ("lost" if fresh is None else "running")
    assert lake.sessions("w")[0]["status"] == ("lost" if fresh is None else "running")
    store = LocalStore(lake_dir)
    late = session_info(store, "w", "a", now=time.time() + 61)
    assert late is not None
    assert late["status"] == "lost"
    assert json.loads((folder / "session.json").read_text())["status"] == "running"


def test_parameters_and_logs(lake: Lake, lake_dir: Path) -> None:
    folder = lake_dir / "w" / "a"
    session = lake.session("a", "w")
    assert session.parameters().get() == {}
    assert session.logs().shape == (0, 5)
    stored = {"version": 1, "data": {"lr": 0.1, "bad": {"$numberDouble": "NaN"}}, "createdAt": "", "updatedAt": ""}
    (folder / "parameters.json").write_text(json.dumps(stored))
    parameters = session.parameters().get()
    assert parameters.pop("bad") != 0
    assert parameters == {"lr": 0.1}
    (folder / "logs").mkdir()
    lines = [
        {"sequenceNumber": i, "timestamp": "2026-01-01T00:00:00Z", "level": "info", "message": f"m{i}"}
        for i in range(7)
    ]
    lines[3] |= {"metadata": {"k": [1, None]}, "level": "error"}
    text = [json.dumps(line) + "\n" for line in lines]
    (folder / "logs" / "0.jsonl").write_text("".join(text[:2]))
    (folder / "logs" / "1.jsonl").write_text("".join(text[2:4]))
    (folder / "logs" / "logs.jsonl").write_text("".join(text[4:]) + '{"sequenceNumber": 7, "mess')
    frame = session.logs()
    assert frame["sequenceNumber"].to_list() == list(range(7))
    assert frame["message"][6] == "m6"
    assert frame["metadata"].to_list() == [None] * 3 + ['{"k":[1,null]}'] + [None] * 3
    assert session.logs("warn")["sequenceNumber"].to_list() == [3]
    with pytest.raises(ValueError, match="level"):
        session.logs("loud")  # type: ignore[arg-type]
    (folder / "logs" / "0.jsonl").write_text("nonsense\n" + text[1])
    with pytest.raises(CorruptTrackError, match=r"0\.jsonl.*line 1"):
        session.logs()
    assert session.logs(errors="skip")["sequenceNumber"].to_list() == list(range(1, 7))


def test_logs_put_aside_between_two_looks_are_neither_missed_nor_doubled(lake_dir: Path) -> None:
    from dreamlake.engine.logread import log_records

    TrackOnDisk(lake_dir)
    logs = lake_dir / "w" / "s" / "logs"
    logs.mkdir()
    (logs / "logs.jsonl").write_text('{"sequenceNumber": 0}\n{"sequenceNumber": 1}\n')
    store = RacingStore(lake_dir)
    store.then["get"] = [lambda _: (logs / "logs.jsonl").rename(logs / "0.jsonl")]
    assert [record["sequenceNumber"] for record in log_records(store, "w/s")] == [0, 1]


# ------------------------------------------------------------------------------------------------ many runs


def test_scan_takes_many_runs_as_one_frame(lake: Lake) -> None:
    frame = lake.scan("loss").collect()
    assert dict(frame.schema) == {
        "_workspace": pl.String,
        "_session": pl.String,
        "_index": pl.Int64,
        "_ts": pl.Float64,
        "value": pl.String,
        "step": pl.Int64,
        "epoch": pl.Int64,
        "extra": pl.List(pl.Int64),
    }
    assert frame["_session"].to_list() == ["a"] * 23 + ["b/ü %", "c"]
    assert frame["_workspace"].to_list() == ["w"] * 24 + ["x"]
    assert frame["_index"].to_list() == [*range(23), 0, 0]
    assert frame["value"].to_list()[21:] == ["10.5", "11.0", "1", '"high"']
    assert frame["extra"].to_list()[22:] == [None, [1], None]


def test_scan_of_some_runs(lake: Lake) -> None:
    widened = lake.scan("loss", workspace="w").collect()
    assert widened.schema["value"] == pl.Float64
    assert widened["value"].to_list()[22:] == [11.0, 1.0]
    assert lake.scan("loss", sessions="c").collect()["_session"].to_list() == ["c"]
    assert lake.scan("loss", sessions=["c", "b/ü %"]).collect()["_session"].to_list() == ["b/ü %", "c"]
    assert lake.scan("robot/position/left").collect().height == 1
    with pytest.raises(SessionNotFoundError, match="'z'"):
        lake.scan("loss", sessions=["a", "z"])
    with pytest.raises(SessionNotFoundError, match="'c' in workspace 'w'"):
        lake.scan("loss", workspace="w", sessions=["c"])
    with pytest.raises(TrackNotFoundError, match="'nothing'"):
        lake.scan("nothing")
    with pytest.raises(ValueError, match="track name"):
        lake.scan("a//b")
    with pytest.raises(ValueError, match="errors"):
        lake.scan("loss", errors="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "query",
    [
        lambda frame: frame.filter(pl.col("_session") == "a"),
        lambda frame: frame.filter(pl.col("_session") != "a"),
        lambda frame: frame.filter(pl.col("_index") == 0),
        lambda frame: frame.filter(pl.col("_ts") > 1005).select("value"),
        lambda frame: frame.filter(pl.col("_workspace").is_in(["x"])),
        lambda frame: frame.group_by("_session", maintain_order=True).agg(pl.len(), pl.col("_ts").max()),
        lambda frame: frame.select("_workspace"),
        lambda frame: frame.select(pl.len()),
        lambda frame: frame.head(21).tail(3),
        lambda frame: frame.slice(22, 3).select("extra", "_session"),
        lambda frame: frame.with_row_index("row").select("row"),
    ],
)
def test_queries_over_many_runs(lake: Lake, query: Any) -> None:
    assert_frame_equal(query(lake.scan("loss")).collect(), query(lake.scan("loss").collect().lazy()).collect())


def test_scan_is_a_snapshot_of_live_runs(lake: Lake, lake_dir: Path) -> None:
    lazy = lake.scan("loss", sessions="a")
    TrackOnDisk(lake_dir, "loss", "w", "a").hot(points_of(9, 20), 20)
    assert lazy.collect().height == 23
    assert lake.scan("loss", sessions="a").collect().height == 29


def test_a_damaged_run_is_raised_or_left_out(lake: Lake, lake_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (lake_dir / "w" / "a" / "tracks" / "loss").glob("*.parquet"):
        path.write_bytes(b"")
    with pytest.raises(CorruptTrackError):
        lake.scan("loss")
    frame = lake.scan("loss", errors="skip").collect()
    assert frame["_session"].to_list() == ["a", "a", "a", "b/ü %", "c"]
    assert "is empty" in caplog.text


# ------------------------------------------------------------------------------------------------ where it is


def test_urls(lake_dir: Path) -> None:
    assert open_store(lake_dir).describe() == str(lake_dir)
    assert open_store(str(lake_dir)).describe() == str(lake_dir)
    spaced = lake_dir / "a b#ü"
    assert open_store(spaced.as_uri()).describe() == str(spaced)
    assert [scheme_of(url) for url in ("S3://b", "file:///x", "/x", "C:\\x", "a:b")] == ["s3", "file", None, None, None]
    with pytest.raises(ValueError, match="file://"):
        open_store("file://other/host")
    with pytest.raises(TypeError):
        open_store(5)  # type: ignore[arg-type]


def test_no_secret_of_a_url_is_told() -> None:
    with pytest.raises(ValueError, match="s3://") as caught:
        Lake("s3://key:secret@bucket/lake?token=secret")
    assert "secret" not in str(caught.value)
    assert "bucket" not in str(caught.value)
