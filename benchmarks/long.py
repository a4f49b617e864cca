"""A track that is a hundred times longer than another, both compacted: what grows with it, and what must not.

The tracks are written, and streamed, by processes of their own, whose memory is measured; nothing heavy may be imported
at the top, since they import this module.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Row, Settings, interleave, scratch, timed_calls
from benchmarks.lakes import TRACK, child_environment, new_session, track_folder, view

SHORT = 1_000_000
FRAME = 1_000_000
LIMIT = 1_000
MB = 1 << 20
#: What must not grow with the length may cost this much of what it does at 1,000,000 points.
FLAT = 1.5


def long_track(settings: Settings) -> list[Row]:
    """Range, time range, length, statistics and reopening, to the same of 1,000,000 points; and a streamed sum."""
    count = settings.size(100_000_000, 3_000_000)
    with scratch(settings) as folder:
        short, long = folder / "short", folder / "long"
        _child("write", short, SHORT)
        written = _child("write", long, count)
        rows = [_flat(name, make(long, count), make(short, SHORT), settings) for name, make in CASES.items()]
        rows.append(_streamed(folder, long, count, settings))
        segments = len(list(track_folder(long).glob("*.parquet")))
        streamed = _child("stream", long, count)
    note = (
        f"written in {written['seconds']:.0f} s as frames of {FRAME:,} points, "
        f"compacted in {written['compacting']:.0f} s into {segments} segments; "
        f"memory of the writer at most {written['peak'] / MB:.0f} MB, "
        f"of it {written['empty'] / MB:.0f} MB with nothing written; "
        f"while it compacts {written['merging'] / MB:.0f} MB; "
        f"of a streamed sum {streamed['peak'] / MB:.0f} MB, of it {streamed['empty'] / MB:.0f} MB for what is imported"
    )
    speed = Row(f"{count:,} points as frames, compaction not counted", (written["seconds"] / count,), unit="points/s")
    return [Row(**{**speed.__dict__, "note": note}), *rows]


def _flat(name: str, ours: Callable[[], object], floor: Callable[[], object], settings: Settings) -> Row:
    calls = settings.size(30, 5)
    mine, other = interleave([timed_calls(ours, calls), timed_calls(floor, calls)], settings)
    return Row(f"{name}, to the same of {SHORT:,} points", mine, other, target=FLAT)


def _range(folder: Path, count: int) -> Callable[[], object]:
    start = count // 2 + 500
    return lambda: _checked(view(folder).scan(start, LIMIT).collect())


def _time_range(folder: Path, count: int) -> Callable[[], object]:
    first = 1e9 + count // 2
    return lambda: _checked(view(folder).read_by_time(first, first + LIMIT, limit=None)["data"])


def _length(folder: Path, count: int) -> Callable[[], object]:
    def length() -> None:
        if len(view(folder)) < count:
            raise RuntimeError("points are missing")

    return length


def _stats(folder: Path, count: int) -> Callable[[], object]:
    return lambda: view(folder).stats()


def _reopen(folder: Path, count: int) -> Callable[[], object]:
    def reopen() -> None:
        with new_session(folder) as session:
            session.track(TRACK).append(value=0.5, step=0)

    return reopen


#: What must not grow: each makes, for a folder and the points in it, what is timed. Each has a handle of its own.
CASES: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    "1,000 points from the middle, scan(), new handle": _range,
    "1,000 points by time, read_by_time(), new handle": _time_range,
    "len(), new handle": _length,
    "stats(), new handle": _stats,
    "open, one append, close": _reopen,
}


def _checked(rows: object) -> None:
    found = len(rows)  # type: ignore[arg-type]
    if found != LIMIT:
        raise RuntimeError(f"{found} rows, not {LIMIT}")


def _streamed(folder: Path, long: Path, count: int, settings: Settings) -> Row:
    """A sum over a column, streamed, to the same of one file that Polars wrote."""
    import polars as pl

    single = folder / "one.parquet"
    pl.scan_parquet(str(track_folder(long) / "*.parquet")).sink_parquet(single)
    ours, floor = interleave(
        [
            timed_calls(lambda: _sum(view(long).scan()), 1),
            timed_calls(lambda: _sum(pl.scan_parquet(single)), 1),
        ],
        settings,
        rounds=min(settings.rounds, 5),
    )
    return Row(f"sum of a column of {count:,} points, streamed, to one file", ours, floor)


def _sum(frame: object) -> float:
    import polars as pl

    return float(frame.select(pl.col("value").sum()).collect(engine="streaming").item())  # type: ignore[attr-defined]


# -- in processes of their own -------------------------------------------------------------------------------------


def _child(work: str, folder: Path, count: int) -> dict[str, float]:
    folder.mkdir(exist_ok=True)
    code = f"from benchmarks.long import {work}; {work}({str(folder)!r}, {count})"
    run = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, env=child_environment(), cwd=folder
    )
    said: dict[str, float] = json.loads(run.stdout)
    return said


def write(root: str, count: int) -> None:
    """Write the track as frames, compact it, and print how long that took and the memory it needed."""
    import numpy as np
    import polars as pl

    random = np.random.default_rng(1)
    with new_session(Path(root)) as session:
        track = session.track(TRACK)
        empty = _peak()
        started = time.perf_counter()
        for start in range(0, count, FRAME):
            step = np.arange(start, min(count, start + FRAME))
            value = random.normal(size=len(step)).astype(np.float32).astype(np.float64)
            track.append_batch(pl.DataFrame({"_ts": 1e9 + step, "value": value, "step": step}))
        session.flush()
        seconds, peak = time.perf_counter() - started, _peak()
        started = time.perf_counter()
        track.compact()
        compacting, merging = time.perf_counter() - started, _peak()
    import dreamlake.engine.sweep as sweep

    sweep.GRACE = -1.0  # nobody reads the parts
    with new_session(Path(root)) as session:
        session.track(TRACK).compact()
    said = {"seconds": seconds, "compacting": compacting, "empty": empty, "peak": peak, "merging": merging}
    print(json.dumps(said))


def stream(root: str, count: int) -> None:
    """Sum a column in a stream, and print the memory it needed."""
    import polars as pl  # noqa: F401 - what is imported is not what the stream needs

    frame = view(Path(root)).scan()
    empty = _peak()
    _sum(frame)
    print(json.dumps({"empty": empty, "peak": _peak()}))


def _peak() -> int:
    """The most memory this program had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux counts the process that started this one, too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
