"""dreamlake 0.2.1 of PyPI, local mode: this library keeps its API; each append opens, locks and writes its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import driving
from driving import LIMIT, TRACK

from dreamlake import Session


def open_session(folder: str) -> Session:
    return Session("run", "bench", local_path=folder)


def append(folder: str, values: list[float]) -> Iterator[None]:
    with open_session(folder) as session:
        track = session.track(TRACK)
        yield
        for step, value in enumerate(values):
            track.append(value=value, step=step)


@contextmanager
def appender(folder: str) -> Iterator[Callable[[int, float], Any]]:
    with open_session(folder) as session:
        track = session.track(TRACK)
        yield lambda step, value: track.append(value=value, step=step)


def metrics(folder: str, names: list[str], values: list[float]) -> Iterator[None]:
    with open_session(folder) as session:
        tracks = [session.track(name) for name in names]
        yield
        for step, value in enumerate(values):
            for track in tracks:
                track.append(value=value, step=step)


def states(folder: str, states: list[tuple[list[float], list[float]]]) -> Iterator[None]:
    with open_session(folder) as session:
        track = session.track(TRACK)
        yield
        for position, velocity in states:
            track.append(q=position, v=velocity)


def batches(folder: str, batches: list[list[dict[str, Any]]]) -> Iterator[None]:
    with open_session(folder) as session:
        track = session.track(TRACK)
        yield
        for batch in batches:
            track.append_batch(batch)


def fill(folder: str, values: list[float]) -> None:
    for _ in batches(folder, driving.make_batches(len(values))):
        pass


def reader(folder: str) -> Any:
    return open_session(folder).open().track(TRACK)


def read_dicts(track: Any, start: int) -> Any:
    return track.read(start, LIMIT)["data"]


def read_frame(track: Any, start: int) -> Any:
    import polars as pl

    return pl.DataFrame([point["data"] for point in read_dicts(track, start)])


def read_all(track: Any) -> Any:
    import polars as pl

    return pl.DataFrame([point["data"] for point in track.read(0, 1 << 40)["data"]])


def count(folder: str) -> int:
    (path,) = Path(folder).rglob("data.jsonl")  # a kill may leave metadata.json empty, and then `read` and `stats` fail
    return sum(line.endswith("\n") for line in path.open())


if __name__ == "__main__":
    driving.main()
