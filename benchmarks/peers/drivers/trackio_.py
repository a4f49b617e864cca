"""Trackio: `log` queues in memory, a thread writes the queue into SQLite; read as dicts only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import driving
import trackio
import trackio.utils
from driving import LIMIT, TRACK
from trackio import sqlite_storage

PROJECT = "bench"
os.environ["HF_HUB_OFFLINE"] = "1"


def use(folder: str) -> None:
    """Keep the project in this folder: what the variable TRACKIO_DIR says before the import."""
    trackio.utils.TRACKIO_DIR = sqlite_storage.TRACKIO_DIR = Path(folder)


@contextmanager
def open_run(folder: str) -> Iterator[Any]:
    use(folder)
    yield trackio.init(project=PROJECT, name="run", auto_log_gpu=False, auto_log_cpu=False)
    trackio.finish()


def append(folder: str, values: list[float]) -> Iterator[None]:
    with open_run(folder) as run:
        yield
        for step, value in enumerate(values):
            run.log({TRACK: value}, step=step)


@contextmanager
def appender(folder: str) -> Iterator[Callable[[int, float], Any]]:
    with open_run(folder) as run:
        yield lambda step, value: run.log({TRACK: value}, step=step)


def metrics(folder: str, names: list[str], values: list[float]) -> Iterator[None]:
    with open_run(folder) as run:
        yield
        for step, value in enumerate(values):
            run.log(dict.fromkeys(names, value), step=step)


def states(folder: str, states: list[tuple[list[float], list[float]]]) -> Iterator[None]:
    with open_run(folder) as run:
        yield
        for step, (position, velocity) in enumerate(states):
            run.log({"q": position, "v": velocity}, step=step)


def batches(folder: str, batches: list[list[dict[str, Any]]]) -> Iterator[None]:
    with open_run(folder):
        yield
        for batch in batches:
            sqlite_storage.SQLiteStorage.bulk_log(
                PROJECT, "batches", [{TRACK: point["value"]} for point in batch], [point["step"] for point in batch]
            )


def fill(folder: str, values: list[float]) -> None:
    for _ in batches(folder, driving.make_batches(len(values))):
        pass


def reader(folder: str) -> str:
    use(folder)
    return "batches"


def read_dicts(run: str, start: int) -> Any:
    half = LIMIT // 2
    return sqlite_storage.SQLiteStorage.get_metric_values(PROJECT, run, TRACK, around_step=start + half, window=half)[
        :LIMIT
    ]


def read_all(run: str) -> Any:
    return sqlite_storage.SQLiteStorage.get_metric_values(PROJECT, run, TRACK)


def count(folder: str) -> int:
    use(folder)
    return len(read_all("run"))


if __name__ == "__main__":
    driving.main()
