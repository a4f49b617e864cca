"""wandb offline, without console capture and system metrics: `log` hands each step to a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import driving
import wandb
from driving import TRACK

BLOCK, HEADER = 32_768, 7
"""Of LevelDB's log, the format of a .wandb file."""


@contextmanager
def open_run(folder: str) -> Iterator[Any]:
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    run = wandb.init(project="bench", mode="offline", dir=folder, settings=settings)
    yield run
    run.finish()


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
        for position, velocity in states:
            run.log({"q": position, "v": velocity})


def count(folder: str) -> int:
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = Path(folder).rglob("*.wandb")
    found = 0
    for raw in records(path.read_bytes()):
        record = Record()
        try:
            record.ParseFromString(raw)
        except Exception:
            break
        found += record.WhichOneof("record_type") == "history"
    return found


def records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file, until its end or a cut: parts of checksum, length, kind (2 to 4 go on), bytes."""
    at, parts = HEADER, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""


if __name__ == "__main__":
    driving.main()
