"""``dreamlake compact``: what it merges, says and leaves alone, and that it goes on beside a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3.server import S3Server

from dreamlake import Lake, Session


@pytest.fixture
def root(lake_dir: Path) -> Iterator[Path]:
    """A lake with ``w/s``, whose track ``loss`` has 25 segments of 4 points and ``short`` one, and ``w/other``."""
    with Session("s", "w", lake_dir, segment_points=4) as session:
        session.track("loss").append_batch([{"i": i} for i in range(101)])
        session.track("short").append_batch([{"i": i} for i in range(5)])
    with Session("other", "w", lake_dir) as session:
        session.track("x").append(y=1)
    return lake_dir


def points(root: Path) -> tuple[int, list[int]]:
    track = Lake(root).session("s", "w").track("loss")
    return track.stats()["totalChunks"], track.to_polars()["i"].to_list()


def test_a_lake(cli: Any, root: Path) -> None:
    status, out, err = cli("compact", "--path", root)
    assert (status, out, err) == (0, "w/s: loss: 20 segments became 2 segments\n", "")
    assert points(root) == (7, list(range(101)))
    assert cli("compact", "--path", root)[:2] == (0, "nothing to merge\n")


def test_a_track(cli: Any, root: Path) -> None:
    assert cli("compact", "w/s", "short", "--path", root)[:2] == (0, "nothing to merge\n")
    assert points(root)[0] == 25
    status, out, _ = cli("compact", "w/s", "loss", "--path", root, "--json")
    assert status == 0
    assert json.loads(out) == [{"run": "w/s", "track": "loss", "merged": 20, "into": 2, "segments": 7}]
    assert points(root) == (7, list(range(101)))


def test_damage_is_told_and_the_other_tracks_are_merged(cli: Any, root: Path) -> None:
    with Session("s", "w", root, segment_points=4) as session:
        session.track("zebra").append_batch([{"i": i} for i in range(40)])
    path = root / "w" / "s" / "tracks" / "loss" / "000000000008-000000000012.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    status, out, err = cli("compact", root)
    assert status == 1
    assert "w/s: zebra: 10 segments became 1 segment\n" in out
    assert err.startswith("dreamlake: w/s: loss: ")
    assert path.name in err
    status, out, _ = cli("compact", root, "--json")
    assert status == 1
    assert [row["track"] for row in json.loads(out) if "error" in row] == ["loss"]


def test_beside_a_run_that_goes_on(cli: Any, root: Path) -> None:
    with Session("s", "w", root, segment_points=4) as session:
        track = session.track("loss")
        track.append(i=101)
        assert cli("compact", root / "w" / "s")[0] == 0
        track.append_batch([{"i": i} for i in range(102, 120)])
        assert len(track) == 120
    assert points(root)[1] == list(range(120))


def test_mistakes(cli: Any, root: Path, s3_server: S3Server, s3_url: str) -> None:
    status, out, err = cli("compact", "w/s", "los", "--path", root)
    assert (status, out) == (2, "")
    assert "is it 'loss'?" in err
    options = s3_server.options()
    with Session("s", "w", root, remote=s3_url, storage_options=options) as session:
        session.sync()
    status, _, err = cli("compact", s3_url, "--storage-options", json.dumps(options))
    assert status == 2
    assert "compact the run and sync it" in err
