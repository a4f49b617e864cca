"""What every driver shares: the input, the clock around the peer's own code, and the one line of JSON that it prints.

A driver is run by its peer's interpreter as `python DRIVER.py WORKLOAD FOLDER COUNT`. It holds the peer's code only, in
functions of fixed names; a workload whose functions are missing is one that the peer cannot do. Those that write are
generators: what stands before their only `yield` opens, and is not measured; the rest is, closing included.

- `append(folder, values)`, `metrics(folder, names, values)`, `states(folder, states)`, `batches(folder, batches)`,
  `frame(folder, frame)` of what `to_frame(values)` made;
- where a write a point is no sane way, `batches_once` and `states_once`, which keep everything in one write at the end,
  and `store(folder, values)`;
- `appender(folder)`, a context manager that gives a function of step and value;
- `fill(folder, values)`, and then `reader(folder)`, whose handle goes to `read_frame(handle, start)`,
  `read_dicts(handle, start)` and `read_all(handle)`;
- `count(folder)`: the points that are there after `append`, `appender` or a kill.

Only the standard library is needed, and little of it before the clock of a fresh process has stopped.
"""

from __future__ import annotations

import gc
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

TRACK = "loss"
BATCH = 1_000
METRICS = 200
LIMIT = 1_000
"""Points that are read out of many."""
WARM = 200
"""Points of a run before the measured one, in a folder of its own, which pays for imports at first use."""
CALLS, SECONDS = 20, 1.0
"""A read is repeated so often, unless that takes so long; the median counts."""
COUNTER = "appended.bin"
"""Where a loop that will be killed keeps how many appends have returned."""
PACE = 10
"""Appends between two naps of a millisecond in that loop, so at most some 10,000 a second."""

clock = time.perf_counter


def make_values(count: int) -> list[float]:
    """A falling loss with noise in every bit of the mantissa, the same in every run."""
    from random import Random

    noise = Random(20_260)
    return [1.0 - 0.6 * step / count + noise.gauss(0.0, 0.05) for step in range(count)]


def make_states(count: int) -> list[tuple[list[float], list[float]]]:
    """Seven joint positions and seven velocities a point, no number twice."""
    numbers = make_values(14 * count)
    return [(numbers[i : i + 7], numbers[i + 7 : i + 14]) for i in range(0, 14 * count, 14)]


def make_batches(count: int) -> list[list[dict[str, Any]]]:
    """Points as dicts, in lists of a thousand."""
    points = [{"value": value, "step": step} for step, value in enumerate(make_values(count))]
    return [points[start : start + BATCH] for start in range(0, count, BATCH)]


def times(count: int) -> list[float]:
    """What a tight loop that asks the clock for every point gets."""
    return [time.time() for _ in range(count)]


def bytes_below(folder: str) -> int:
    """The sizes of all files in and below a folder, summed."""
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(folder) for name in names)


def exhaust(writing: Iterator[None]) -> float:
    """Seconds of a writing function after its opening."""
    next(writing)
    gc.collect()
    gc.freeze()
    start = clock()
    next(writing, None)
    seconds = clock() - start
    gc.unfreeze()
    return seconds


def fresh_folder(folder: str, name: str) -> str:
    """A new folder inside `folder`."""
    path = os.path.join(folder, name)
    os.makedirs(path)
    return path


def twice(folder: str, write: Callable[[str, Any], Iterator[None]], make: Callable[[int], Any], count: int) -> float:
    """Seconds of `write` for `count` points, after a small run that warms up."""
    exhaust(write(fresh_folder(folder, "warm"), make(min(WARM, count))))
    return exhaust(write(fresh_folder(folder, "run"), make(count)))


def append(driver: Any, folder: str, count: int) -> dict[str, float]:
    """One metric and its step in a loop."""
    seconds = twice(folder, driver.append, make_values, count)
    if hasattr(driver, "count") and (found := driver.count(f"{folder}/run")) != count:
        raise RuntimeError(f"{found} points are there, not {count}")
    return {"append": count / seconds}


def tail(driver: Any, folder: str, count: int) -> dict[str, float]:
    """The same, a clock on either side of each call."""
    from array import array

    values = make_values(count)
    calls = array("q", bytes(8 * count))
    now = time.perf_counter_ns
    with driver.appender(folder) as call:
        for step in range(WARM):
            call(step, 0.0)
        gc.collect()
        gc.freeze()
        for step, value in enumerate(values):
            start = now()
            call(WARM + step, value)
            calls[step] = now() - start
    ranked = sorted(calls)
    return {
        name: ranked[int(count * part)] / 1e9 for name, part in (("p50", 0.5), ("p99.9", 0.999), ("p99.99", 0.9999))
    }


def metrics(driver: Any, folder: str, count: int) -> dict[str, float]:
    """200 metrics a step."""
    names = [f"grad-norm-{number:03d}" for number in range(METRICS)]

    def write(folder: str, values: list[float]) -> Iterator[None]:
        written: Iterator[None] = driver.metrics(folder, names, values)
        return written

    steps = max(1, count // METRICS)
    return {"metrics": steps * METRICS / twice(folder, write, make_values, steps)}


def states(driver: Any, folder: str, count: int) -> dict[str, float]:
    """Two lists of seven floats a point."""
    figures = {"states": count / twice(folder, driver.states, make_states, count)}
    if not hasattr(driver, "states_once"):
        figures["states bytes"] = bytes_below(f"{folder}/run") / count
    return figures


def batches(driver: Any, folder: str, count: int) -> dict[str, float]:
    """Lists of a thousand dicts, each kept when its call returns."""
    return {"batches": count / twice(folder, driver.batches, make_batches, count)}


def once(driver: Any, folder: str, count: int) -> dict[str, float]:
    """The same lists of dicts, and a twentieth as many states, in one write that keeps nothing before its end."""
    some = max(1, count // 20)
    lists, place = fresh_folder(folder, "lists"), fresh_folder(folder, "states")
    return {
        "batches once": count / twice(lists, driver.batches_once, make_batches, count),
        "states once": some / twice(place, driver.states_once, make_states, some),
        "states bytes": bytes_below(f"{place}/run") / some,
    }


def frame(driver: Any, folder: str, count: int) -> dict[str, float]:
    """All points as one frame of the kind that the peer takes."""
    seconds = twice(folder, driver.frame, lambda count: driver.to_frame(make_values(count)), count)
    return {"frame": count / seconds}


def size(driver: Any, folder: str, count: int) -> dict[str, float]:
    """All files that the points of `append` leave, timestamps included; once more with losses of float32 precision."""
    import struct

    store = getattr(driver, "store", driver.append)
    values = make_values(count)
    single = struct.unpack(f"{count}f", struct.pack(f"{count}f", *values))
    sizes = {}
    for figure, numbers in (("bytes", values), ("bytes, float32", list(single))):
        place = fresh_folder(folder, figure)
        exhaust(store(place, numbers))
        sizes[figure] = bytes_below(place) / count
    return sizes


def fill(driver: Any, folder: str, count: int) -> dict[str, float]:
    """Write what the reading workloads read."""
    driver.fill(folder, make_values(count))
    return {}


def some(driver: Any, folder: str, count: int) -> dict[str, float]:
    """A thousand points from the middle, the handle kept and warm."""
    from functools import partial

    handle, start = driver.reader(folder), middle(count)
    ways = {"1,000 frame": "read_frame", "1,000 dicts": "read_dicts"}
    reads = {figure: getattr(driver, way) for figure, way in ways.items() if hasattr(driver, way)}
    return {figure: repeated(partial(read, handle, start), LIMIT) for figure, read in reads.items()}


def fresh(driver: Any, folder: str, count: int) -> dict[str, float]:
    """As a frame, the first thing that a process does, imports included; the runner subtracts a bare interpreter."""
    read = getattr(driver, "read_frame", None) or driver.read_dicts
    found = read(driver.reader(folder), middle(count))
    done = time.time()
    expect(found, LIMIT)
    return {"done": done}


def full(driver: Any, folder: str, count: int) -> dict[str, float]:
    """Everything as a frame, the handle kept and warm; seconds for a million points."""
    handle = driver.reader(folder)
    return {"full": repeated(lambda: driver.read_all(handle), count) * 1e6 / count}


def kill(driver: Any, folder: str, count: int) -> dict[str, float]:
    """Append, ten points a millisecond at most, until the runner kills this process."""
    import mmap

    path = os.path.join(folder, COUNTER)
    with open(path, "wb") as file:
        file.write(bytes(8))
    with open(path, "r+b") as file:
        appended = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
    with driver.appender(fresh_folder(folder, "run")) as call:
        for step in range(count):
            call(step, 0.5)
            appended[0] = step + 1
            if step % PACE == 0:
                time.sleep(0.001)
    raise RuntimeError("nobody killed the loop")


def kept(driver: Any, folder: str, count: int) -> dict[str, float]:
    """The points that the killed loop left."""
    return {"kept": driver.count(f"{folder}/run")}


def middle(count: int) -> int:
    """Where the points that are read begin."""
    return max(0, count // 2 + 4_500 if count > 20_000 else (count - LIMIT) // 2)


def expect(found: Any, count: int) -> None:
    """Raise unless so many rows were read."""
    if len(found) != count:
        raise RuntimeError(f"read {len(found)} points, not {count}")


def repeated(read: Callable[[], Any], count: int) -> float:
    """The median seconds of a read, after one that warms up and whose rows are counted."""
    from statistics import median

    expect(read(), count)
    taken: list[float] = []
    while len(taken) < CALLS and (len(taken) < 1 or sum(taken) < SECONDS):
        start = clock()
        read()
        taken.append(clock() - start)
    return median(taken)


WORKLOADS = {
    "append": (append, "append"),
    "tail": (tail, "appender"),
    "metrics": (metrics, "metrics"),
    "states": (states, "states"),
    "batches": (batches, "batches"),
    "once": (once, "batches_once"),
    "frame": (frame, "frame"),
    "bytes": (size, "append"),
    "fill": (fill, "fill"),
    "range": (some, "fill"),
    "fresh": (fresh, "fill"),
    "full": (full, "read_all"),
    "kill": (kill, "appender"),
    "kept": (kept, "count"),
}
"""Each workload and the function that a driver must have for it."""


def main() -> None:
    """Run what the command line asks for, and print its figures as the last line."""
    driver = sys.modules["__main__"]
    name, folder, count = sys.argv[1:]
    work, needs = WORKLOADS[name]
    figures = work(driver, folder, int(count)) if hasattr(driver, needs) else None
    import json

    print(f"\n{json.dumps(figures)}", flush=True)
    os._exit(0)  # what was measured is closed, and some peers wait, or abort, when the interpreter shuts down
