"""Rerun: `log` into an .rrd file, columns for batches; read through DataFusion from a lazily opened file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import driving
import rerun as rr
from driving import LIMIT, TRACK

TIMELINE = "step"


def place(folder: str) -> str:
    return f"{folder}/run.rrd"


@contextmanager
def recording(folder: str) -> Iterator[rr.RecordingStream]:
    stream = rr.RecordingStream("bench")
    stream.save(place(folder))
    yield stream
    stream.flush()
    stream.disconnect()


def append(folder: str, values: list[float]) -> Iterator[None]:
    with recording(folder) as stream:
        yield
        for step, value in enumerate(values):
            stream.set_time(TIMELINE, sequence=step)
            stream.log(TRACK, rr.Scalars(value))


@contextmanager
def appender(folder: str) -> Iterator[Callable[[int, float], Any]]:
    with recording(folder) as stream:

        def call(step: int, value: float) -> None:
            stream.set_time(TIMELINE, sequence=step)
            stream.log(TRACK, rr.Scalars(value))

        yield call


def metrics(folder: str, names: list[str], values: list[float]) -> Iterator[None]:
    with recording(folder) as stream:
        yield
        for step, value in enumerate(values):
            stream.set_time(TIMELINE, sequence=step)
            for name in names:
                stream.log(name, rr.Scalars(value))


def states(folder: str, states: list[tuple[list[float], list[float]]]) -> Iterator[None]:
    with recording(folder) as stream:
        yield
        for step, (position, velocity) in enumerate(states):
            stream.set_time(TIMELINE, sequence=step)
            stream.log("q", rr.Scalars(position))
            stream.log("v", rr.Scalars(velocity))


def batches(folder: str, batches: list[list[dict[str, Any]]]) -> Iterator[None]:
    with recording(folder) as stream:
        yield
        for batch in batches:
            send(stream, [point["step"] for point in batch], [point["value"] for point in batch])
            stream.flush()


def to_frame(values: list[float]) -> Any:
    import numpy as np

    return np.array(values)


def frame(folder: str, frame: Any) -> Iterator[None]:
    with recording(folder) as stream:
        yield
        send(stream, range(len(frame)), frame)


def send(stream: rr.RecordingStream, steps: Any, values: Any) -> None:
    import numpy as np

    columns = rr.Scalars.columns(scalars=values)
    stream.send_columns(TRACK, indexes=[rr.TimeColumn(TIMELINE, sequence=np.asarray(steps))], columns=columns)


def fill(folder: str, values: list[float]) -> None:
    for _ in batches(folder, driving.make_batches(len(values))):
        pass


def reader(folder: str) -> Any:
    return rr.chunk.RrdReader(place(folder)).stream().collect().reader(index=TIMELINE)


def read_frame(rows: Any, start: int) -> Any:
    from datafusion import col, lit

    return rows.filter((col(TIMELINE) >= lit(start)) & (col(TIMELINE) < lit(start + LIMIT))).to_arrow_table()


def read_dicts(rows: Any, start: int) -> Any:
    return read_frame(rows, start).to_pylist()


def read_all(rows: Any) -> Any:
    return rows.to_arrow_table()


def count(folder: str) -> int:
    chunks = rr.chunk.RrdReader(place(folder)).stream()
    return sum(chunk.num_rows for chunk in chunks if chunk.entity_path.strip("/") == TRACK)


if __name__ == "__main__":
    driving.main()
