"""dreamlake 0.32.0 of PyPI, local mode: `append` keeps points in memory until a flush, batches are fsynced msgpack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import driving
from driving import LIMIT, TRACK

from dreamlake import Episode


def open_episode(folder: str) -> Episode:
    return Episode(prefix="bench/run", root=folder)


def append(folder: str, values: list[float]) -> Iterator[None]:
    with open_episode(folder) as episode:
        track = episode.track(TRACK)
        yield
        for step, value in enumerate(values):
            track.append(value=value, step=step)


@contextmanager
def appender(folder: str) -> Iterator[Callable[[int, float], Any]]:
    with open_episode(folder) as episode:
        track = episode.track(TRACK)
        yield lambda step, value: track.append(value=value, step=step)


def metrics(folder: str, names: list[str], values: list[float]) -> Iterator[None]:
    with open_episode(folder) as episode:
        tracks = [episode.track(name) for name in names]
        yield
        for step, value in enumerate(values):
            for track in tracks:
                track.append(value=value, step=step)


def states(folder: str, states: list[tuple[list[float], list[float]]]) -> Iterator[None]:
    with open_episode(folder) as episode:
        track = episode.track(TRACK)
        yield
        for position, velocity in states:
            track.append(q=position, v=velocity)


def batches(folder: str, batches: list[list[dict[str, Any]]]) -> Iterator[None]:
    with open_episode(folder) as episode:
        track = episode.track(TRACK)
        yield
        for batch in batches:
            track.append_batch(batch)


def fill(folder: str, values: list[float]) -> None:
    for _ in batches(folder, driving.make_batches(len(values))):
        pass


def reader(folder: str) -> Any:
    return open_episode(folder).open().track(TRACK)


def read_dicts(track: Any, start: int) -> Any:
    return track.read(start, LIMIT)["data"]


def read_frame(track: Any, start: int) -> Any:
    import polars as pl

    return pl.DataFrame([point["data"] for point in read_dicts(track, start)])


def read_all(track: Any) -> Any:
    import polars as pl

    return pl.DataFrame([point["data"] for point in track.read(0, 1 << 40)["data"]])


def count(folder: str) -> int:
    try:
        return int(reader(folder).stats()["totalDataPoints"])
    except FileNotFoundError:  # killed before the first flush
        return 0


if __name__ == "__main__":
    driving.main()
