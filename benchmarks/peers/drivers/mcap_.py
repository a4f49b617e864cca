"""MCAP: JSON messages, encoded by msgspec (the fastest), in its default chunks with zstd; it takes no frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import driving
import msgspec
from driving import LIMIT, TRACK
from mcap.reader import make_reader
from mcap.writer import Writer

ENCODE = msgspec.json.Encoder().encode
DECODE = msgspec.json.Decoder().decode


@contextmanager
def recording(folder: str) -> Iterator[Writer]:
    with open(f"{folder}/run.mcap", "wb") as file:
        writer = Writer(file)
        writer.start()
        yield writer
        writer.finish()


def channel(writer: Writer, topic: str = TRACK) -> int:
    schema = writer.register_schema(name="point", encoding="jsonschema", data=b'{"type":"object"}')
    return writer.register_channel(topic=topic, message_encoding="json", schema_id=schema)


def append(folder: str, values: list[float]) -> Iterator[None]:
    with recording(folder) as writer:
        number, add, now = channel(writer), writer.add_message, time.time_ns
        yield
        for step, value in enumerate(values):
            ts = now()
            add(channel_id=number, log_time=ts, data=ENCODE({"value": value, "step": step}), publish_time=ts)


@contextmanager
def appender(folder: str) -> Iterator[Callable[[int, float], Any]]:
    with recording(folder) as writer:
        number, add, now = channel(writer), writer.add_message, time.time_ns

        def call(step: int, value: float) -> None:
            ts = now()
            add(channel_id=number, log_time=ts, data=ENCODE({"value": value, "step": step}), publish_time=ts)

        yield call


def metrics(folder: str, names: list[str], values: list[float]) -> Iterator[None]:
    with recording(folder) as writer:
        numbers, add, now = [channel(writer, name) for name in names], writer.add_message, time.time_ns
        yield
        for step, value in enumerate(values):
            for number in numbers:
                ts = now()
                add(channel_id=number, log_time=ts, data=ENCODE({"value": value, "step": step}), publish_time=ts)


def states(folder: str, states: list[tuple[list[float], list[float]]]) -> Iterator[None]:
    with recording(folder) as writer:
        number, add, now = channel(writer), writer.add_message, time.time_ns
        yield
        for position, velocity in states:
            ts = now()
            add(channel_id=number, log_time=ts, data=ENCODE({"q": position, "v": velocity}), publish_time=ts)


def batches(folder: str, batches: list[list[dict[str, Any]]]) -> Iterator[None]:
    with recording(folder) as writer:
        number, add = channel(writer), writer.add_message
        yield
        for batch in batches:
            for point in batch:
                ts = 1_000_000 * point["step"]
                add(channel_id=number, log_time=ts, data=ENCODE(point), publish_time=ts)


def fill(folder: str, values: list[float]) -> None:
    for _ in batches(folder, driving.make_batches(len(values))):
        pass


def reader(folder: str) -> Any:
    return make_reader(open(f"{folder}/run.mcap", "rb"))


def read_dicts(handle: Any, start: int) -> Any:
    window = handle.iter_messages(start_time=1_000_000 * start, end_time=1_000_000 * (start + LIMIT))
    return [DECODE(message.data) for _, _, message in window]


def read_frame(handle: Any, start: int) -> Any:
    import polars as pl

    return pl.DataFrame(read_dicts(handle, start))


def read_all(handle: Any) -> Any:
    import polars as pl

    return pl.DataFrame([DECODE(message.data) for _, _, message in handle.iter_messages(log_time_order=False)])


def count(folder: str) -> int:
    from mcap.stream_reader import StreamReader

    found = 0
    with open(f"{folder}/run.mcap", "rb") as file:
        try:  # a killed writer's file has no index, and its last chunk may be cut
            for record in StreamReader(file).records:
                found += type(record).__name__ == "Message"
        except Exception:
            return found
    return found


if __name__ == "__main__":
    driving.main()
