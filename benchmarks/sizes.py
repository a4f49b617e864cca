"""Bytes on disk of what dreamlake keeps, to the same rows as default zstd Parquet segments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.data import STEPS_PER_EPOCH
from benchmarks.harness import Row, Settings, scratch
from benchmarks.lakes import SESSION, TRACK, WORKSPACE, append_as_segments, bytes_below, new_session, view

SEGMENT = 10_000
NOISE = "every bit of these mantissas is random, so no codec gets far below 7 bytes a value; a real loss has more zeros"


def bytes_on_disk(settings: Settings) -> list[Row]:
    """Whole segments of three kinds of timestamps and losses; every file of the session counts, logs and all."""
    count = settings.size(100_000, 50_000)
    timed_frame = data.frame(count, with_ts=True)
    single_frame = data.frame(count, with_ts=True, single=True)
    return [
        _row("bytes a point, appended in a tight loop, automatic _ts", settings, None, count),
        _row("bytes a point, _ts 10 ms apart with jitter, float32 losses", settings, single_frame, count),
        replace(
            _row("bytes a point, _ts 10 ms apart with jitter, float64 noise", settings, timed_frame, count), note=NOISE
        ),
    ]


def _row(title: str, settings: Settings, frame: pl.DataFrame | None, count: int) -> Row:
    with scratch(settings) as folder:
        with new_session(folder) as session:
            track = session.track(TRACK)
            if frame is not None:
                append_as_segments(session, frame)
            else:
                for step, value in enumerate(data.values(count)):
                    track.append(value=value, step=step, epoch=step // STEPS_PER_EPOCH)
        ours = bytes_below(folder / WORKSPACE / SESSION)
        floor = _default_segments(view(folder).to_polars(), folder / "floor")
    return Row(title, (ours / count,), (floor / count,), unit="bytes", target=0.5)


def _default_segments(rows: pl.DataFrame, folder: Path) -> int:
    """The bytes of the same rows (_index, _ts, value, step, epoch), 10,000 a file, PyArrow's defaults with zstd."""
    folder.mkdir()
    table = rows.to_arrow()
    for start in range(0, table.num_rows, SEGMENT):
        pq.write_table(table.slice(start, SEGMENT), folder / f"{start}.parquet", compression="zstd")
    return bytes_below(folder)
