"""Points many at a time: lists of dicts, each flushed before the call returns, and one large frame."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.harness import Row, Settings, interleave, per_point, timed
from benchmarks.lakes import TRACK, expect_points, new_session

SEGMENT = 10_000
BATCH = 1_000

# The encodings of dreamlake's own segments. They are also the fastest way to write these columns compressed:
# for 10,000 rows 0.46 ms, zstd with dictionaries off 0.89, zstd by default 1.9, PyArrow's defaults 1.5.
DOUBLES, INTEGERS = ("_ts", "value"), ("_index", "step", "epoch")
ENCODING = {**dict.fromkeys(DOUBLES, "BYTE_STREAM_SPLIT"), **dict.fromkeys(INTEGERS, "DELTA_BINARY_PACKED")}
FASTEST = {"compression": "zstd", "use_dictionary": False, "column_encoding": ENCODING}
DEFAULT_ZSTD = {"compression": "zstd"}


def dict_batches(settings: Settings) -> list[Row]:
    """1,000,000 points as lists of 1,000 dicts; dreamlake has each list on disk before it takes the next."""
    count = settings.size(1_000_000, 100_000)
    batches = data.batches(count, BATCH)

    def ours(folder: Path) -> None:
        with new_session(folder) as session:
            track = session.track(TRACK)
            for batch in batches:
                track.append_batch(batch)

    def checked(folder: Path) -> float:
        seconds = timed(ours)(folder)
        expect_points(folder, count)
        return seconds

    def floor(folder: Path) -> None:
        _write_segments(batches, folder, FASTEST)

    def default_zstd(folder: Path) -> None:
        _write_segments(batches, folder, DEFAULT_ZSTD)

    sides = interleave([checked, timed(floor), timed(default_zstd)], settings)
    runs, fastest, default = (per_point(side, count) for side in sides)
    note = "the floor keeps up to 10,000 points in memory; dreamlake has every list in a file when its call returns"
    return [
        Row(f"{count:,} points, append_batch of {BATCH:,} dicts, a point", runs, fastest, target=2.0, note=note),
        Row("  the same, floor with default zstd pq.write_table", runs, default, target=2.0, counts=False),
    ]


def _write_segments(batches: list[list[dict[str, Any]]], folder: Path, options: dict[str, Any]) -> None:
    """Collect 10,000 dicts, turn them into columns, write one file: all that a Parquet writer must do."""
    waiting: list[dict[str, Any]] = []
    start = 0
    for batch in batches:
        waiting += batch
        if len(waiting) >= SEGMENT:
            table = _columns(waiting, start)
            pq.write_table(table, folder / f"{start:012d}-{start + len(waiting):012d}.parquet", **options)
            start += len(waiting)
            waiting = []


_VALUE, _STEP, _EPOCH = itemgetter("value"), itemgetter("step"), itemgetter("epoch")


def _columns(points: list[dict[str, Any]], start: int) -> pa.Table:
    """Dicts of known fields and types to columns, `_index` and `_ts` added as dreamlake's segments have them.

    `np.fromiter` was the fastest of ten ways tried: 0.072 us a point; list comprehensions into polars 0.082,
    into array.array 0.090, pa.array 0.099, pl.from_dicts 0.102, a struct array 0.127.
    """
    size = len(points)
    return pa.table(
        {
            "_index": np.arange(start, start + size),
            "_ts": np.arange(start, start + size) * 1e-6 + 1.767e9,
            "value": np.fromiter(map(_VALUE, points), np.float64, size),
            "step": np.fromiter(map(_STEP, points), np.int64, size),
            "epoch": np.fromiter(map(_EPOCH, points), np.int64, size),
        }
    )


def one_frame(settings: Settings) -> list[Row]:
    """One Polars frame of 1,000,000 rows handed over whole, to `pq.write_table(zstd)` of the same frame."""
    count = settings.size(1_000_000, 200_000)
    frame = data.frame(count)

    def ours(folder: Path) -> None:
        with new_session(folder) as session:
            session.track(TRACK).append_batch(frame)

    def checked(folder: Path) -> float:
        seconds = timed(ours)(folder)
        expect_points(folder, count)
        return seconds

    def floor(folder: Path) -> None:
        pq.write_table(frame.to_arrow(), folder / "frame.parquet", compression="zstd")

    runs, floors = interleave([checked, timed(floor)], settings)
    note = "the floor neither adds _index and _ts nor fsyncs; dreamlake fsyncs each of its segments"
    return [Row(f"one frame of {count:,} rows, close included", runs, floors, target=1.0, note=note)]
