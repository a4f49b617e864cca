"""Distributed training: the guide's script in several processes, on one host, and on two that share an S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from s3.server import S3Server
from s3.team import BUCKET, make_team_bucket
from support import ROOT, python_environment

from dreamlake import Lake
from dreamlake.lake import SessionView

SCRIPT = ROOT / "docs" / "examples" / "ranks.py"
GUIDE = ROOT / "docs" / "guide" / "distributed.md"


def start(rank: int, world: int, lake: Path, **env: str) -> subprocess.Popen[str]:
    given = {"RANK": str(rank), "WORLD_SIZE": str(world), "LAKE": str(lake), **env}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(SCRIPT)],
        env=python_environment(**given),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        with process:
            out, err = process.communicate(timeout=120)
            assert (process.returncode, out, err) == (0, "", "")


def as_one(run: SessionView) -> pl.DataFrame:
    """As the guide reads it."""
    ranks = {name: int(name[4:].partition("/")[0]) for name in run.tracks if name.startswith("rank")}
    frames = [run.track(name).scan().with_columns(rank=pl.lit(rank)) for name, rank in ranks.items()]
    return pl.concat(frames, how="diagonal_relaxed").collect()


def check(run: SessionView, world: int, steps: int = 200) -> None:
    assert run.tracks.list() == [*sorted(f"rank{rank}/train" for rank in range(world)), "val"]
    frame = as_one(run)
    assert frame.sort("rank", "step").select("rank", "step").rows() == [
        (rank, step) for rank in range(world) for step in range(steps)
    ]
    assert run.track("val").to_polars()["step"].to_list() == list(range(49, steps, 50))
    assert run.parameters().get() == {"lr": 0.1, "world_size": world}
    assert run.info["status"] == "finished"


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_on_one_host(tmp_path: Path, world: int) -> None:
    end([start(rank, world, tmp_path) for rank in range(world)])
    run = Lake(tmp_path).session("ddp", "cluster")
    check(run, world)
    said = run.logs()["message"].to_list()
    assert sorted(said) == sorted(f"rank {rank} {what}" for rank in range(world) for what in ("begins", "ends"))


def test_a_rank_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    others = [start(rank, 3, tmp_path) for rank in (0, 2)]
    killed = start(1, 3, tmp_path, STEPS="100000000")
    run = Lake(tmp_path)
    deadline = time.monotonic() + 60
    while True:
        try:
            reached = len(run.session("ddp", "cluster").track("rank1/train"))
        except Exception:
            reached = 0
        if reached > 100:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with killed:
        killed.kill()
        killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    end(others)
    kept = len(run.session("ddp", "cluster").track("rank1/train"))
    end([start(1, 3, tmp_path, STEPS=str(kept + 50))])
    frame = as_one(run.session("ddp", "cluster"))
    assert frame.filter(rank=1)["step"].to_list() == list(range(kept + 50))
    assert frame.filter(rank=2)["step"].to_list() == list(range(200))


def test_two_hosts_with_two_ranks_each(tmp_path: Path, s3_server: S3Server) -> None:
    """Each host has a folder of its own, and what it wrote is there; the replica has all, and reads as one run."""
    environment = make_team_bucket(s3_server) | {"REMOTE": f"s3://{BUCKET}/lake"}
    hosts = [tmp_path / "host0", tmp_path / "host1"]
    end([start(rank, 4, hosts[rank // 2], **environment) for rank in range(4)])
    lake = Lake(f"s3://{BUCKET}/lake", s3_server.options())
    run = lake.session("ddp", "cluster")
    check(run, 4)
    said = run.logs()["message"].to_list()
    assert sorted(said) == sorted(f"rank {rank} {what}" for rank in range(4) for what in ("begins", "ends"))
    lake._store.close()  # type: ignore[attr-defined]
    for host, ranks in zip(hosts, ((0, 1), (2, 3)), strict=True):
        local = Lake(host).session("ddp", "cluster")
        assert [len(local.track(f"rank{rank}/train")) for rank in ranks] == [200, 200]


def test_a_host_that_is_replaced_goes_on(tmp_path: Path, s3_server: S3Server) -> None:
    environment = make_team_bucket(s3_server) | {"REMOTE": f"s3://{BUCKET}/lake"}
    hosts = [tmp_path / "host0", tmp_path / "host1"]
    end([start(rank, 2, hosts[rank], STEPS="100", **environment) for rank in range(2)])
    fresh = [hosts[0], tmp_path / "another"]
    end([start(rank, 2, fresh[rank], **environment) for rank in range(2)])
    lake = Lake(f"s3://{BUCKET}/lake", s3_server.options())
    check(lake.session("ddp", "cluster"), 2)
    lake._store.close()  # type: ignore[attr-defined]


def test_the_guide_shows_this_script() -> None:
    shown: Any = GUIDE.read_text(encoding="utf-8")
    source = SCRIPT.read_text(encoding="utf-8").partition("\n\n")[2]
    assert source.strip() in shown, "docs/guide/distributed.md shows another script"
    assert os.path.basename(SCRIPT) in shown
