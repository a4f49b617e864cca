"""Raw Polars on one Parquet file that PyArrow wrote with zstd: what reading costs where nobody keeps a series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import driving
import polars as pl
import pyarrow.parquet as pq
from driving import LIMIT


def place(folder: str) -> str:
    return f"{folder}/points.parquet"


def to_frame(values: list[float]) -> pl.DataFrame:
    return pl.DataFrame({"value": values, "step": range(len(values))})


def frame(folder: str, frame: pl.DataFrame) -> Iterator[None]:
    yield
    pq.write_table(frame.to_arrow(), place(folder), compression="zstd")


def fill(folder: str, values: list[float]) -> None:
    rows = to_frame(values).with_columns(ts=pl.Series(driving.times(len(values))))
    pq.write_table(rows.to_arrow(), place(folder), compression="zstd")


def reader(folder: str) -> str:
    return place(folder)


def read_frame(path: str, start: int) -> pl.DataFrame:
    return pl.scan_parquet(path).slice(start, LIMIT).collect()


def read_dicts(path: str, start: int) -> list[dict[str, Any]]:
    return read_frame(path, start).to_dicts()


def read_all(path: str) -> pl.DataFrame:
    return pl.read_parquet(path)


if __name__ == "__main__":
    driving.main()
