"""Ray Data over the segments of a lake on S3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest
from s3.server import KEY, SECRET, S3Server

from ecosystem import thousand

ray = pytest.importorskip("ray")
col = pytest.importorskip("ray.data.expressions").col

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Ray keeps threads and files for the whole process."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    yield
    ray.shutdown()


def test_a_thousand_segments_on_s3(
    cluster: None, s3_server: S3Server, s3_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = thousand.make(tmp_path, s3_url, s3_server)
    s3 = pyarrow.fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, endpoint_override=s3_server.endpoint, region="us-east-1"
    )
    begun = time.monotonic()
    data = ray.data.read_parquet(files, filesystem=s3, include_paths=True).select_columns(["loss", "step", "path"])
    assert data.count() == thousand.TOTAL
    assert data.sum("loss") == thousand.loss_of_all()
    with capsys.disabled():
        print("", f"ray: count and sum of {len(files)} segments in {time.monotonic() - begun:.1f} s", sep="\n")
    last = data.filter(expr=col("step") == 79_999).take_all()
    assert sorted(row["path"].split("/")[-4] for row in last) == [f"run-{run}" for run in range(thousand.RUNS)]
