"""tensorboardX: events of float32 scalars, default queue; TensorBoard's accumulator reads them, always all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import driving
from driving import TRACK
from tensorboardX import SummaryWriter


def append(folder: str, values: list[float]) -> Iterator[None]:
    with SummaryWriter(folder) as writer:
        yield
        for step, value in enumerate(values):
            writer.add_scalar(TRACK, value, step)


@contextmanager
def appender(folder: str) -> Iterator[Callable[[int, float], Any]]:
    with SummaryWriter(folder) as writer:
        yield lambda step, value: writer.add_scalar(TRACK, value, step)


def metrics(folder: str, names: list[str], values: list[float]) -> Iterator[None]:
    with SummaryWriter(folder) as writer:
        yield
        for step, value in enumerate(values):
            for name in names:
                writer.add_scalar(name, value, step)


def fill(folder: str, values: list[float]) -> None:
    for _ in append(folder, values):
        pass


def reader(folder: str) -> str:
    return folder


def read_dicts(folder: str, start: int) -> Any:
    return [{"step": event.step, "value": event.value} for event in read_all(folder)[start : start + driving.LIMIT]]


def read_all(folder: str) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(folder, size_guidance={"scalars": 0}).Reload().Scalars(TRACK)


def count(folder: str) -> int:
    try:
        return len(read_all(folder))
    except KeyError:  # killed before anything was written
        return 0


if __name__ == "__main__":
    driving.main()
