"""Many runs in a lake, and many tracks in a run: what ten times as many cost, a run and a track."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import polars as pl

from benchmarks.harness import Row, Settings, interleave, scratch, timed_calls
from benchmarks.lakes import SESSION, TRACK, WORKSPACE, new_session
from dreamlake import Lake

POINTS = 100
#: A run or a track out of ten times as many may cost this much of what it does out of the few.
LINEAR = 1.1
STEPS = 20


def many_runs(settings: Settings) -> list[Row]:
    """All runs of a lake as a frame, and one track of all as another, a run; to the same of a tenth of them."""
    many = settings.size(5_000, 500)
    few = many // 10
    with scratch(settings) as folder:
        lakes = [_runs(folder / str(count), count) for count in (many, few)]
        rows = []
        for name, work in (("lake.sessions().to_polars()", _sessions), ("lake.scan(track), collected", _scan)):
            sides = [timed_calls(partial(work, lake, count), 1) for lake, count in zip(lakes, (many, few), strict=True)]
            ours, floor = interleave(sides, settings)
            ours, floor = tuple(each / many for each in ours), tuple(each / few for each in floor)
            note = f"{median(ours) * many:.2f} s in all; what is shown is a run"
            rows.append(Row(f"{name}, {many:,} runs, to {few:,}", ours, floor, target=LINEAR, note=note))
    return rows


def _runs(folder: Path, count: int) -> Path:
    """A lake of so many copies of one short run, each with parameters of its own."""
    folder.mkdir()
    with new_session(folder) as session:
        session.parameters().set(lr=0.0, seed=0)
        session.track(TRACK).append_batch([{"value": 1.0 / (1 + step), "step": step} for step in range(POINTS)])
    first = folder / WORKSPACE / SESSION
    parameters = json.loads((first / "parameters.json").read_text())
    for number in range(1, count):
        run = first.with_name(f"{SESSION}-{number:05}")
        shutil.copytree(first, run)
        parameters["data"].update(lr=number / count, seed=number)
        (run / "parameters.json").write_text(json.dumps(parameters))
    return folder


def _sessions(folder: Path, count: int) -> None:
    if Lake(folder).sessions().to_polars().filter(pl.col("lr") >= 0).height != count:
        raise RuntimeError("runs are missing")


def _scan(folder: Path, count: int) -> None:
    if Lake(folder).scan(TRACK).select(pl.len()).collect().item() != count * POINTS:
        raise RuntimeError("points are missing")


def tracks_in_one(settings: Settings) -> list[Row]:
    """A session with 2,000 tracks: a step of all, opening with a close, and listing, a track; to a tenth of them."""
    many = settings.size(2_000, 200)
    few = many // 10
    with scratch(settings) as folder:
        roots = [folder / str(count) for count in (many, few)]
        steps = []
        for root, count in zip(roots, (many, few), strict=True):
            root.mkdir()
            steps.append(_write(root, count))
        rows = [
            Row(
                f"one step of {many:,} tracks, appended and flushed in time, a track, to {few:,}",
                (steps[0] / many,),
                (steps[1] / few,),
                target=LINEAR,
                note=f"{STEPS} steps in one go, close included: {steps[0] * 1e3:.1f} ms a step",
            )
        ]
        for name, work in (("session.tracks.list()", _list), ("open, append to each, close", _reopen)):
            sides: list[Callable[[Path], float]] = [
                timed_calls(partial(work, root, count), 1) for root, count in zip(roots, (many, few), strict=True)
            ]
            ours, floor = interleave(sides, settings)
            ours, floor = tuple(each / many for each in ours), tuple(each / few for each in floor)
            rows.append(Row(f"{name}, {many:,} tracks, a track, to {few:,}", ours, floor, target=LINEAR))
    return rows


def _names(count: int) -> list[str]:
    return [f"layer/{number:04}/norm" for number in range(count)]


def _write(root: Path, count: int) -> float:
    """Seconds a step."""
    started = time.perf_counter()
    with new_session(root) as session:
        handles = [session.track(name) for name in _names(count)]
        for step in range(STEPS):
            for handle in handles:
                handle.append(value=0.5, step=step)
    return (time.perf_counter() - started) / STEPS


def _list(root: Path, count: int) -> None:
    if len(Lake(root).session(SESSION, WORKSPACE).tracks.list()) != count:
        raise RuntimeError("tracks are missing")


def _reopen(root: Path, count: int) -> None:
    with new_session(root) as session:
        for name in _names(count):
            session.track(name).append(value=0.5, step=STEPS)
