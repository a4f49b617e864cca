"""Dask over the segments of a lake on S3."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from s3.server import S3Server

from ecosystem import thousand

pytest.importorskip("dask")
dd = pytest.importorskip("dask.dataframe")

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Dask keeps threads and files for the whole process."""


def test_a_thousand_segments_on_s3(
    s3_server: S3Server, s3_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = thousand.make(tmp_path, s3_url, s3_server)
    begun = time.monotonic()
    data = dd.read_parquet(files, columns=["loss", "step"], storage_options=s3_server.options())
    assert len(data) == thousand.TOTAL
    assert data["loss"].sum().compute() == thousand.loss_of_all()
    with capsys.disabled():
        print("", f"dask: count and sum of {len(files)} segments in {time.monotonic() - begun:.1f} s", sep="\n")
    assert len(data[data["step"] == 79_999].compute()) == thousand.RUNS
