"""Reading a track of 1,000,000 points in 100 segments: all of it, 1,000 points from the middle, one column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.harness import Row, Settings, interleave, scratch, timed_calls
from benchmarks.lakes import append_as_segments, new_session, track_folder, view

COUNT = 1_000_000
SEGMENT = 10_000
MIDDLE = 504_500
LIMIT = 1_000
COLUMN = "value"

COLD = "the handle is made anew for every call (footers and schema are read again)"
WARM = "the handle is kept and its first call is in the warm-up round; that is what counts"


@dataclass(frozen=True)
class Fixture:
    """A track of 100 segments, and the same rows as single files for the floors, all in the page cache."""

    folder: Path
    arrow_file: Path
    polars_file: Path
    segment: Path
    warm: Any


def _fixture(folder: Path) -> Fixture:
    """Write the track as frames with explicit timestamps, then its rows once more as one file each way."""
    with new_session(folder) as session:
        append_as_segments(session, data.frame(COUNT, with_ts=True))
    warm = view(folder)
    rows = warm.to_polars()
    segments = list(track_folder(folder).glob("*.parquet"))
    if rows.height != COUNT or len(segments) != COUNT // SEGMENT:
        raise RuntimeError(
            f"expected {COUNT:,} rows in {COUNT // SEGMENT} segments, got {rows.height:,} in {len(segments)}"
        )
    arrow_file, polars_file = folder / "arrow.parquet", folder / "polars.parquet"
    pq.write_table(rows.to_arrow(), arrow_file, compression="zstd")
    rows.write_parquet(polars_file)
    start = MIDDLE - MIDDLE % SEGMENT
    segment = track_folder(folder) / f"{start:012d}-{start + SEGMENT:012d}.parquet"
    expected = pl.read_parquet(segment).slice(MIDDLE - start, LIMIT)
    if not warm.scan(MIDDLE, LIMIT).collect().equals(expected) or not rows.slice(MIDDLE, LIMIT).equals(expected):
        raise RuntimeError("dreamlake and Polars disagree about the rows in the middle")
    return Fixture(folder, arrow_file, polars_file, segment, warm)


def _compare(settings: Settings, calls: int, *works: Callable[[], object]) -> list[tuple[float, ...]]:
    return interleave([timed_calls(work, calls) for work in works], settings)


def full_read(settings: Settings) -> list[Row]:
    """The whole track as a Polars frame, every page's checksum verified, to `pl.read_parquet` of one file."""
    with scratch(settings) as folder:
        track = _fixture(folder)
        kept, new, floor, polars_floor = _compare(
            settings,
            settings.size(5, 2),
            track.warm.to_polars,
            lambda: view(folder).to_polars(),
            lambda: pl.read_parquet(track.arrow_file),
            lambda: pl.read_parquet(track.polars_file),
        )
    return [
        Row("full read, 1,000,000 points in 100 segments, kept handle", kept, floor, target=1.0),
        Row("  the same, new handle", new, floor, target=1.0, counts=False, note=COLD),
        Row("  kept handle, to a file that Polars wrote itself", kept, polars_floor, target=1.0, counts=False),
    ]


def middle(settings: Settings) -> list[Row]:
    """1,000 points from the middle of one segment, to `pl.read_parquet` of exactly that segment."""
    offset = MIDDLE % SEGMENT
    with scratch(settings) as folder:
        track = _fixture(folder)
        scan, read, new_scan, new_read, floor, dict_floor = _compare(
            settings,
            settings.size(40, 10),
            lambda: track.warm.scan(MIDDLE, LIMIT).collect(),
            lambda: track.warm.read(MIDDLE, LIMIT),
            lambda: view(folder).scan(MIDDLE, LIMIT).collect(),
            lambda: view(folder).read(MIDDLE, LIMIT),
            lambda: pl.read_parquet(track.segment).slice(offset, LIMIT),
            lambda: pl.read_parquet(track.segment).slice(offset, LIMIT).to_dicts(),
        )
    return [
        Row("1,000 points from the middle, scan(), kept handle", scan, floor, target=2.0, note=WARM),
        Row("1,000 points from the middle, read(), kept handle", read, floor, target=2.0),
        Row("  scan(), new handle", new_scan, floor, target=2.0, counts=False),
        Row("  read(), new handle", new_read, floor, target=2.0, counts=False),
        Row("  read(), kept handle, floor makes dicts too", read, dict_floor, target=2.0, counts=False),
    ]


def one_column(settings: Settings) -> list[Row]:
    """One column of the whole track, to `pl.read_parquet(columns=…)` of one file."""
    with scratch(settings) as folder:
        track = _fixture(folder)
        kept, new, floor, polars_floor = _compare(
            settings,
            settings.size(10, 3),
            lambda: track.warm.scan().select(COLUMN).collect(),
            lambda: view(folder).scan().select(COLUMN).collect(),
            lambda: pl.read_parquet(track.arrow_file, columns=[COLUMN]),
            lambda: pl.read_parquet(track.polars_file, columns=[COLUMN]),
        )
    return [
        Row("one column of 1,000,000 points in 100 segments, kept handle", kept, floor, target=3.0),
        Row("  the same, new handle", new, floor, target=3.0, counts=False),
        Row("  kept handle, to a file that Polars wrote itself", kept, polars_floor, target=3.0, counts=False),
    ]
