"""A lake on S3 with a thousand segments, for engines that read many files side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from s3.server import S3Server

from dreamlake import Lake, Session

RUNS, SEGMENTS, POINTS = 5, 200, 400
TOTAL = RUNS * SEGMENTS * POINTS


def make(folder: Path, url: str, server: S3Server) -> list[str]:
    """Write it, and return its segments' URLs, as the guide finds them."""
    for run in range(RUNS):
        with Session(
            f"run-{run}", "w", folder, remote=url, storage_options=server.options(), segment_points=POINTS
        ) as session:
            count = SEGMENTS * POINTS
            columns = {"loss": [run + i * 0.5 for i in range(count)], "step": list(range(count))}
            session.track("train").append_batch(columns)
            session.close(timeout=300)
    lake = Lake(url, server.options())
    runs = lake.sessions("w")
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda run: lake.session(run["name"], run["workspace"]).track("train").files(), runs)
        files = [file for each in found for file in each]
    lake._store.close()  # type: ignore[attr-defined]
    assert len(files) == RUNS * SEGMENTS
    return files


def loss_of_all() -> float:
    """The sum of all values of ``loss``."""
    return sum(run + i * 0.5 for run in range(RUNS) for i in range(SEGMENTS * POINTS))
