"""The training loop while the network of its replica is dead, to the same loop with a local session only.

The measured process imports this module, so nothing heavy may be imported at the top.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.harness import Row, Settings, interleave
from benchmarks.lakes import SESSION, WORKSPACE, child_environment, expect_points
from benchmarks.places import Places, places

COUNT = 100_000
#: Loops of a process whose mean is its figure, and the appends between two short sleeps of the slow loop.
LOOPS, BURST, PAUSE = 20, 20, 0.0005
#: Seconds between uploads: much shorter than by default, so that the replica's thread is trying, or backing off from a
#: try, during all loops.
INTERVAL = 0.05
#: Seconds from the outage to the first loop.
LEAD = 0.5
#: Rounds at most: each starts three processes.
MOST_ROUNDS = 7

Figures = dict[str, float]


def outage(settings: Settings) -> list[Row]:
    """100,000 appends with the replica's port closed, and with one that takes requests and never answers."""
    count = settings.size(COUNT, 20_000)
    rounds = min(settings.rounds, MOST_ROUNDS)
    with places(settings) as place:
        sides = [_side(place, count, None), _side(place, count, place.close), _side(place, count, place.hang)]
        local, closed, hangs = interleave(sides, settings, rounds=rounds)
    note = (
        f"{LOOPS} loops a process, one process a round; sync_interval {INTERVAL} s, timeouts of 1 s; "
        f"p99.9 of the slow loop {_p999(local)} local, {_p999(closed)} closed, {_p999(hangs)} hanging"
    )
    rows: list[Row] = []
    for title, found in (("port closed", closed), ("server hangs", hangs)):
        rows += [
            Row(f"{count:,} appends, replica's {title}, mean", *_both("mean", found, local), target=1.1, note=note),
            Row("  the fastest loop of each process", *_both("best", found, local), target=1.1, counts=False),
            Row(
                "  in a loop that sleeps 0.5 ms every 20 appends, mean of the calls",
                *_both("slow mean", found, local),
                target=1.1,
                counts=False,
            ),
            Row("  longest", *_both("longest", found, local), target=50e-3, judged="ours", note=_worst(found, local)),
            Row("  longest in the loop that sleeps", *_both("slow longest", found, local), target=50e-3, judged="ours"),
        ]
        note = ""
    return rows


def _both(name: str, found: tuple[Figures, ...], local: tuple[Figures, ...]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(each[name] for each in side) for side in (found, local))


def _p999(found: tuple[Figures, ...]) -> str:
    return f"{median(each['slow p999'] for each in found) * 1e6:.0f} us"


def _worst(found: tuple[Figures, ...], local: tuple[Figures, ...]) -> str:
    worst, floor = (max(max(each["longest"], each["slow longest"]) for each in side) for side in (found, local))
    return f"worst of all rounds and both loops {worst * 1e3:.1f} ms (local only {floor * 1e3:.1f} ms)"


def _side(place: Places, count: int, kill: Callable[[str], None] | None) -> Callable[[Path], Figures]:
    """A round of one side: a process opens its session while the network is well, then it is killed by `kill`."""

    def side(folder: Path) -> Figures:
        endpoint = place.proxy(0.0)
        remote = {} if kill is None else {"remote": place.prefix(), "storage_options": place.options(endpoint)}
        code = f"from benchmarks.outage import child; child({str(folder)!r}, {count}, {json.dumps(remote)!r})"
        command = [sys.executable, "-c", code]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(), cwd=folder, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != "open\n":
                raise RuntimeError("the session was not opened")
            before = place.requests(endpoint)
            if kill is not None:
                kill(endpoint)
            process.stdin.write("go\n")
            process.stdin.flush()
            found: Figures = json.loads(process.stdout.readline())
        if kill == place.hang and place.requests(endpoint) == before:
            raise RuntimeError("nothing was asked of the replica: the loops were timed without an outage")
        if kill != place.close:
            place.close(endpoint)
        for name in _tracks():
            expect_points(folder, count, name)
        return found

    return side


def _tracks() -> list[str]:
    return [*(f"loop {number}" for number in range(LOOPS)), "each", "slow"]


def child(root: str, count: int, given: str) -> None:
    """In a process of its own: open, say so, wait for the outage, and print the seconds of appends."""
    import logging

    from benchmarks import data
    from dreamlake import Session

    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)  # the warning of the outage, which is meant

    remote: dict[str, Any] = json.loads(given)
    if remote:
        remote["storage_options"]["config_kwargs"] = {"connect_timeout": 1, "read_timeout": 1}
        remote["sync_interval"] = INTERVAL
    values = data.values(count)
    *loops, each, slow = _tracks()
    session = Session(SESSION, WORKSPACE, local_path=root, **remote).open()
    session.track("warm up").append_batch([{"value": 0.5, "step": 0, "epoch": 0}] * 1000)
    if remote:
        session.sync(timeout=30)
    print("open", flush=True)
    sys.stdin.readline()
    session.track("warm up").append(value=0.5, step=1, epoch=0).flush()
    time.sleep(LEAD)
    means = [_loop(session.track(name), values) for name in loops]
    _, longest, _ = _each(session.track(each), values, sleeps=False)
    slow_mean, slow_longest, slow_p999 = _each(session.track(slow), values, sleeps=True)
    session.flush()
    if remote:
        _expect_dead(session)
    found = {"mean": fmean(means), "best": min(means), "longest": longest, "slow mean": slow_mean}
    print(json.dumps({**found, "slow longest": slow_longest, "slow p999": slow_p999}), flush=True)
    os._exit(0)  # nobody waits for the network


def _loop(track: Any, values: list[float]) -> float:
    """Seconds an append, without a clock between them."""
    start = time.perf_counter()
    for step, value in enumerate(values):
        track.append(value=value, step=step, epoch=step // 1000)
    return (time.perf_counter() - start) / len(values)


def _each(track: Any, values: list[float], sleeps: bool) -> tuple[float, float, float]:
    """Mean, longest and 99.9th percentile of the calls, each with a clock on either side."""
    calls = array("q", bytes(8 * len(values)))
    clock = time.perf_counter_ns
    for step, value in enumerate(values):
        if sleeps and step % BURST == 0:
            time.sleep(PAUSE)
        start = clock()
        track.append(value=value, step=step, epoch=step // 1000)
        calls[step] = clock() - start
    ordered = sorted(calls)
    return sum(ordered) / len(ordered) / 1e9, ordered[-1] / 1e9, ordered[len(ordered) * 999 // 1000] / 1e9


def _expect_dead(session: Any) -> None:
    """Raise if the replica can be reached."""
    try:
        session.sync(timeout=3)
    except OSError:
        return
    raise RuntimeError("the replica was brought up to date: there was no outage")
