"""This library: handles kept, default options; what is read was compacted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import driving
from driving import LIMIT, TRACK

from dreamlake import Lake, Session
from dreamlake.errors import TrackNotFoundError


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


def to_frame(values: list[float]) -> Any:
    import polars as pl

    return pl.DataFrame({"value": values, "step": range(len(values))})


def frame(folder: str, frame: Any) -> Iterator[None]:
    with open_session(folder) as session:
        track = session.track(TRACK)
        yield
        track.append_batch(frame)


def fill(folder: str, values: list[float]) -> None:
    with open_session(folder) as session:
        track = session.track(TRACK)
        track.append_batch(to_frame(values))
        track.compact()


def reader(folder: str) -> Any:
    return Lake(folder).session("run", "bench").track(TRACK)


def read_frame(track: Any, start: int) -> Any:
    return track.to_polars(start, LIMIT)


def read_dicts(track: Any, start: int) -> Any:
    return track.read(start, LIMIT)["data"]


def read_all(track: Any) -> Any:
    return track.to_polars()


def count(folder: str) -> int:
    try:
        return len(reader(folder))
    except TrackNotFoundError:  # killed before the first flush
        return 0


if __name__ == "__main__":
    driving.main()
