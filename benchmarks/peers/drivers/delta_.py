"""delta-rs: a row is a commit and a file, so many points go in one write of Arrow record batches; a range by SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import driving
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, WriterProperties, write_deltalake
from driving import BATCH, LIMIT

POINT = pa.schema([("value", pa.float64()), ("step", pa.int64())])
STATE = pa.schema([("ts", pa.timestamp("us")), ("q", pa.list_(pa.float64())), ("v", pa.list_(pa.float64()))])
ZSTD = WriterProperties(compression="ZSTD")


def write(folder: str, rows: Any) -> None:
    write_deltalake(f"{folder}/points", rows, mode="append", writer_properties=ZSTD)


@contextmanager
def appender(folder: str) -> Iterator[Callable[[int, float], Any]]:
    table = DeltaTable.create(f"{folder}/points", POINT)

    def call(step: int, value: float) -> None:
        row = pa.table({"value": [value], "step": [step]}, schema=POINT)
        write_deltalake(table, row, mode="append", writer_properties=ZSTD)

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
    table = DeltaTable.create(f"{folder}/points", STATE)
    yield
    for block in blocks_of_states(states):
        write_deltalake(table, block, mode="append", writer_properties=ZSTD)


def states_once(folder: str, states: list[tuple[list[float], list[float]]]) -> Iterator[None]:
    yield
    write(folder, pa.RecordBatchReader.from_batches(STATE, blocks_of_states(states)))


def batches(folder: str, batches: list[list[dict[str, Any]]]) -> Iterator[None]:
    table = DeltaTable.create(f"{folder}/points", POINT)
    yield
    for batch in batches:
        write_deltalake(table, pa.RecordBatch.from_pylist(batch, schema=POINT), mode="append", writer_properties=ZSTD)


def batches_once(folder: str, batches: list[list[dict[str, Any]]]) -> Iterator[None]:
    yield
    blocks = (pa.RecordBatch.from_pylist(batch, schema=POINT) for batch in batches)
    write(folder, pa.RecordBatchReader.from_batches(POINT, blocks))


def to_frame(values: list[float]) -> pa.Table:
    return pa.table({"value": values, "step": range(len(values))}, schema=POINT)


def stamps(count: int) -> pa.Array:
    return pa.array([int(ts * 1e6) for ts in driving.times(count)], pa.timestamp("us"))


def stamped(values: list[float]) -> pa.Table:
    return to_frame(values).append_column("ts", stamps(len(values)))


def frame(folder: str, frame: pa.Table) -> Iterator[None]:
    yield
    write(folder, frame)


def store(folder: str, values: list[float]) -> Iterator[None]:
    return frame(folder, stamped(values))


def fill(folder: str, values: list[float]) -> None:
    write(folder, stamped(values))


def reader(folder: str) -> tuple[DeltaTable, QueryBuilder]:
    table = DeltaTable(f"{folder}/points")
    return table, QueryBuilder().register("points", table)


def read_frame(handle: tuple[DeltaTable, QueryBuilder], start: int) -> Any:
    query = f"SELECT * FROM points WHERE step >= {start} AND step < {start + LIMIT}"
    return pa.table(handle[1].execute(query).read_all())


def read_dicts(handle: tuple[DeltaTable, QueryBuilder], start: int) -> Any:
    return read_frame(handle, start).to_pylist()


def read_all(handle: tuple[DeltaTable, QueryBuilder]) -> Any:
    return handle[0].to_pyarrow_table()


def count(folder: str) -> int:
    return DeltaTable(f"{folder}/points").to_pyarrow_table().num_rows


if __name__ == "__main__":
    driving.main()
