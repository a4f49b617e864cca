"""Points one at a time: the loop, its longest call, many tracks, and points that hold lists."""

from __future__ import annotations

import time
from array import array
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks import data
from benchmarks.data import STEPS_PER_EPOCH
from benchmarks.harness import Row, Settings, interleave, per_point, timed
from benchmarks.lakes import TRACK, bytes_below, expect_points, new_session, track_folder

# The floor of every workload here: build the dict, encode it with msgspec, write the line through a buffered file.
# `encode_into` one kept bytearray was the fastest of the ways tried (encode + newline, two writes, encode_lines).
BUFFER = 64 * 1024
ENCODE_INTO = msgspec.json.Encoder().encode_into


def append_loop(settings: Settings) -> list[Row]:
    """100,000 points of three scalars in a loop, from opening the session or file to the end of its close."""
    count = settings.size(100_000, 20_000)
    values = data.values(count)

    def ours(folder: Path) -> None:
        with new_session(folder) as session:
            track = session.track(TRACK)
            for step, value in enumerate(values):
                track.append(value=value, step=step, epoch=step // STEPS_PER_EPOCH)

    def method_kept(folder: Path) -> None:
        with new_session(folder) as session:
            append = session.track(TRACK).append
            for step, value in enumerate(values):
                append(value=value, step=step, epoch=step // STEPS_PER_EPOCH)

    def floor(folder: Path) -> None:
        line = bytearray()
        with (folder / "lines.jsonl").open("wb", buffering=BUFFER) as file:
            write = file.write
            for step, value in enumerate(values):
                ENCODE_INTO({"value": value, "step": step, "epoch": step // STEPS_PER_EPOCH}, line)
                line += b"\n"
                write(line)

    def same_line(folder: Path) -> None:
        line = bytearray()
        now = time.time
        with (folder / "lines.jsonl").open("wb", buffering=BUFFER) as file:
            write = file.write
            for step, value in enumerate(values):
                fields = {"value": value, "step": step, "epoch": step // STEPS_PER_EPOCH, "_ts": now()}
                ENCODE_INTO({"index": step, "data": fields}, line)
                line += b"\n"
                write(line)

    with_check = timed(ours)

    def checked(folder: Path) -> float:
        seconds = with_check(folder)
        expect_points(folder, count)
        return seconds

    runs, kept, bare, full = (
        per_point(side, count)
        for side in interleave([checked, timed(method_kept), timed(floor), timed(same_line)], settings)
    )
    return [
        Row(f"append, loop of {count:,} x 3 scalars, close included, a point", runs, bare, target=2.0),
        Row(
            "  the same, `append = track.append` kept from before the first point", kept, bare, target=2.0, counts=False
        ),
        Row("  the same, floor writes dreamlake's line (index, _ts)", runs, full, target=2.0, counts=False),
    ]


def longest_append(settings: Settings) -> list[Row]:
    """Each of 100,000 calls timed on its own, while the session flushes and rolls as it does by default."""
    count = settings.size(100_000, 20_000)
    values = data.values(count)

    def ours(folder: Path) -> tuple[float, float, float]:
        calls = array("q", bytes(8 * count))
        clock = time.perf_counter_ns
        with new_session(folder) as session:
            track = session.track(TRACK)
            for step, value in enumerate(values):
                start = clock()
                track.append(value=value, step=step, epoch=step // STEPS_PER_EPOCH)
                calls[step] = clock() - start
            flushed = bytes_below(track_folder(folder))
        expect_points(folder, count)
        if not flushed:
            raise RuntimeError("nothing had been flushed when the loop ended: the calls were timed without flushing")
        return _tail(calls)

    def floor(folder: Path) -> tuple[float, float, float]:
        calls = array("q", bytes(8 * count))
        clock = time.perf_counter_ns
        line = bytearray()
        with (folder / "lines.jsonl").open("wb", buffering=BUFFER) as file:
            write = file.write
            for step, value in enumerate(values):
                start = clock()
                ENCODE_INTO({"value": value, "step": step, "epoch": step // STEPS_PER_EPOCH}, line)
                line += b"\n"
                write(line)
                calls[step] = clock() - start
        return _tail(calls)

    runs, floors = interleave([ours, floor], settings)
    p50, p999, longest = zip(*runs, strict=True)
    _, floor_p999, floor_longest = zip(*floors, strict=True)
    note = (
        f"the clock's own cost is in every call; median call {median(p50) * 1e6:.2f} us; "
        f"worst of {len(runs)} rounds {max(longest) * 1e3:.1f} ms (floor {max(floor_longest) * 1e3:.1f} ms)"
    )
    return [
        Row(f"one append, p99.9 of {count:,}", p999, floor_p999, target=50e-6, judged="ours"),
        Row(f"one append, longest of {count:,}", longest, floor_longest, target=20e-3, judged="ours", note=note),
    ]


def _tail(calls: array[int]) -> tuple[float, float, float]:
    """Median, 99.9th percentile and maximum of nanoseconds, in seconds."""
    ranked = sorted(calls)
    return ranked[len(ranked) // 2] / 1e9, ranked[int(len(ranked) * 0.999)] / 1e9, ranked[-1] / 1e9


def many_tracks(settings: Settings) -> list[Row]:
    """200 tracks, one point of three scalars each a step, 500 steps, close included."""
    tracks, steps = 200, settings.size(500, 100)
    count = tracks * steps
    values = data.values(steps)
    names = [f"layer/{number:03d}/grad-norm" for number in range(tracks)]

    def looked_up(folder: Path) -> None:
        with new_session(folder) as session:
            for step, value in enumerate(values):
                for name in names:
                    session.track(name).append(value=value, step=step, epoch=step // STEPS_PER_EPOCH)

    def held(folder: Path) -> None:
        with new_session(folder) as session:
            handles = [session.track(name) for name in names]
            for step, value in enumerate(values):
                for track in handles:
                    track.append(value=value, step=step, epoch=step // STEPS_PER_EPOCH)

    def floor(folder: Path) -> None:
        line = bytearray()
        with ExitStack() as stack:
            paths = [folder / f"{number}.jsonl" for number in range(tracks)]
            writes = [stack.enter_context(path.open("wb", buffering=BUFFER)).write for path in paths]
            for step, value in enumerate(values):
                for write in writes:
                    ENCODE_INTO({"value": value, "step": step, "epoch": step // STEPS_PER_EPOCH}, line)
                    line += b"\n"
                    write(line)

    def checked(folder: Path) -> float:
        seconds = timed(looked_up)(folder)
        expect_points(folder, steps, names[0])
        expect_points(folder, steps, names[-1])
        return seconds

    sides = interleave([checked, timed(held), timed(floor)], settings)
    lookups, kept, floors = (per_point(side, count) for side in sides)
    title = f"{tracks} tracks x {steps} steps, a point, close included"
    return [
        Row(f"{title}, session.track(name) in the loop", lookups, floors, target=3e-6, judged="ours"),
        Row("  the same, track handles kept", kept, floors, target=3e-6, judged="ours", counts=False),
    ]


def robot_states(settings: Settings) -> list[Row]:
    """Points that hold two lists of seven floats, as a robot's joint positions and velocities."""
    count = settings.size(50_000, 10_000)
    numbers = data.values(count + 14)
    states: list[Any] = [(numbers[i : i + 7], numbers[i + 7 : i + 14]) for i in range(count)]

    def ours(folder: Path) -> None:
        with new_session(folder) as session:
            track = session.track(TRACK)
            for position, velocity in states:
                track.append(q=position, v=velocity)

    def floor(folder: Path) -> None:
        line = bytearray()
        with (folder / "lines.jsonl").open("wb", buffering=BUFFER) as file:
            write = file.write
            for position, velocity in states:
                ENCODE_INTO({"q": position, "v": velocity}, line)
                line += b"\n"
                write(line)

    def checked(folder: Path) -> float:
        seconds = timed(ours)(folder)
        expect_points(folder, count)
        return seconds

    runs, floors = (per_point(side, count) for side in interleave([checked, timed(floor)], settings))
    return [Row(f"robot states (2 x 7 floats), loop of {count:,}, close included", runs, floors, unit="points/s")]
