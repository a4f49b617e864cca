"""Lance: a row is a commit and a fragment, so what keeps many points at once is one write of Arrow record batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import driving
import lance
import pyarrow as pa
from driving import BATCH, LIMIT

POINT = pa.schema([("value", pa.float64()), ("step", pa.int64())])
STATE = pa.schema([("ts", pa.timestamp("us")), ("q", pa.list_(pa.float64(), 7)), ("v", pa.list_(pa.float64(), 7))])


def place(folder: str) -> str:
    return f"{folder}/points.lance"


@contextmanager
def appender(folder: str) -> Iterator[Callable[[int, float], Any]]:
    data = lance.write_dataset(POINT.empty_table(), place(folder))

    def call(step: int, value: float) -> None:
        data.insert(pa.table({"value": [value], "step": [step]}, schema=POINT))

    yield call


def append(folder: str, values: list[float]) -> Iterator[None]:
    with appender(folder) as call:
        yield
        for step, value in enumerate(values):
            call(step, value)


def blocks_of_states(states: list[tuple[list[float], list[float]]]) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(states), BATCH):
        positions, velocities = zip(*states[start : start + BATCH], strict=True)
        yield pa.record_batch({"ts": stamps(len(positions)), "q": positions, "v": velocities}, schema=STATE)


def states(folder: str, states: list[tuple[list[float], list[float]]]) -> Iterator[None]:
    data = lance.write_dataset(STATE.empty_table(), place(folder))
    yield
    for block in blocks_of_states(states):
        data.insert(block)


def states_once(folder: str, states: list[tuple[list[float], list[float]]]) -> Iterator[None]:
    yield
    lance.write_dataset(pa.RecordBatchReader.from_batches(STATE, blocks_of_states(states)), place(folder))


def batches(folder: str, batches: list[list[dict[str, Any]]]) -> Iterator[None]:
    data = lance.write_dataset(POINT.empty_table(), place(folder))
    yield
    for batch in batches:
        data.insert(pa.RecordBatch.from_pylist(batch, schema=POINT))


def batches_once(folder: str, batches: list[list[dict[str, Any]]]) -> Iterator[None]:
    yield
    blocks = (pa.RecordBatch.from_pylist(batch, schema=POINT) for batch in batches)
    lance.write_dataset(pa.RecordBatchReader.from_batches(POINT, blocks), place(folder))


def to_frame(values: list[float]) -> pa.Table:
    return pa.table({"value": values, "step": range(len(values))}, schema=POINT)


def stamps(count: int) -> pa.Array:
    return pa.array([int(ts * 1e6) for ts in driving.times(count)], pa.timestamp("us"))


def stamped(values: list[float]) -> pa.Table:
    return to_frame(values).append_column("ts", stamps(len(values)))


def frame(folder: str, frame: pa.Table) -> Iterator[None]:
    yield
    lance.write_dataset(frame, place(folder))


def store(folder: str, values: list[float]) -> Iterator[None]:
    return frame(folder, stamped(values))


def fill(folder: str, values: list[float]) -> None:
    lance.write_dataset(stamped(values), place(folder))


def reader(folder: str) -> Any:
    return lance.dataset(place(folder))


def read_frame(data: Any, start: int) -> Any:
    return data.to_table(offset=start, limit=LIMIT)


def read_dicts(data: Any, start: int) -> Any:
    return read_frame(data, start).to_pylist()


def read_all(data: Any) -> Any:
    return data.to_table()


def count(folder: str) -> int:
    return reader(folder).count_rows()


if __name__ == "__main__":
    driving.main()
