"""Aim, without system metrics and console capture: `track` writes into RocksDB through a queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import driving
import pandas as pd
from aim import Repo, Run
from aim.storage.context import Context
from driving import LIMIT, TRACK

QUIET: Any = {"system_tracking_interval": None, "capture_terminal_logs": False, "log_system_params": False}


@contextmanager
def open_run(folder: str) -> Iterator[Run]:
    run = Run(repo=folder, **QUIET)
    yield run
    run.close()


def append(folder: str, values: list[float]) -> Iterator[None]:
    with open_run(folder) as run:
        yield
        for step, value in enumerate(values):
            run.track(value, name=TRACK, step=step)


@contextmanager
def appender(folder: str) -> Iterator[Callable[[int, float], Any]]:
    with open_run(folder) as run:
        yield lambda step, value: run.track(value, name=TRACK, step=step)


def metrics(folder: str, names: list[str], values: list[float]) -> Iterator[None]:
    with open_run(folder) as run:
        yield
        for step, value in enumerate(values):
            run.track(dict.fromkeys(names, value), step=step)


def fill(folder: str, values: list[float]) -> None:
    for _ in append(folder, values):
        pass


def reader(folder: str) -> Any:
    (name,) = Repo.from_path(folder).list_all_runs()
    run = Run(
        name, repo=folder, force_resume=True, **QUIET
    )  # opened to read only, it finds what was indexed, so nothing
    return run.get_metric(TRACK, Context({}))


def read_frame(metric: Any, start: int) -> Any:
    steps, (values, _, stamps) = metric.data.numpy()
    found = slice(start, start + LIMIT)
    return pd.DataFrame({"step": steps[found], "value": values[found], "time": stamps[found]})


def read_dicts(metric: Any, start: int) -> Any:
    return read_frame(metric, start).to_dict("records")


def read_all(metric: Any) -> Any:
    return metric.dataframe()


def count(folder: str) -> int:
    return len(read_all(reader(folder)))


if __name__ == "__main__":
    driving.main()
