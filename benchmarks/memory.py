"""What the writer keeps in memory for 500 tracks that each hold 9,999 points in their hot files.

The measured process imports this module, so nothing heavy may be imported at the top.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Row, Settings, scratch
from benchmarks.lakes import child_environment, new_session, track_folder

POINTS = 9_999
STEPS_PER_EPOCH = 1_000
# A flush every 100 steps, as a loop of 10 ms a step has one: measured is what stays after flushing, not a backlog.
STEPS_PER_FLUSH = 100
MB = 1 << 20


def writer_memory(settings: Settings) -> list[Row]:
    """Resident bytes a point of a session after its flush, over a session that holds nothing."""
    tracks = settings.size(500, 50)
    with scratch(settings) as folder:
        code = f"from benchmarks.memory import child; child({str(folder)!r}, {tracks})"
        command = [sys.executable, "-c", code]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=child_environment(), cwd=folder).stdout
    resident: dict[str, int] = json.loads(output)
    shown = {state: f"{size / MB:.0f} MB" for state, size in resident.items()}
    note = (
        f"one run; resident after gc and malloc_trim {shown['full']} (before them {shown['untrimmed']}), "
        f"empty session {shown['empty']}, after one flushed point {shown['one']}"
    )
    count = tracks * POINTS
    over_empty, over_one = ((resident["full"] - resident[state]) / count for state in ("empty", "one"))
    title = f"writer's memory a point, {tracks} tracks x {POINTS:,} hot points"
    return [
        Row(f"{title}, over an empty session", (over_empty,), unit="bytes", target=60.0, judged="ours", note=note),
        Row(
            "  over one that has flushed a point (libraries loaded)",
            (over_one,),
            unit="bytes",
            target=60.0,
            judged="ours",
            counts=False,
        ),
    ]


def child(root: str, tracks: int) -> None:
    """In a process of its own: fill the tracks step by step, as a training loop does, and print what is resident."""
    folder = Path(root)
    names = [f"layer/{number:03d}/grad-norm" for number in range(tracks)]
    with new_session(folder) as session:
        empty = _resident()
        session.track("warm-up").append(value=0.5, step=0, epoch=0).flush()
        one = _trimmed()
        handles = [session.track(name) for name in names]
        for step in range(POINTS):
            value = 1.0 / (step + 3.0)
            for track in handles:
                track.append(value=value, step=step, epoch=step // STEPS_PER_EPOCH)
            if (step + 1) % STEPS_PER_FLUSH == 0:
                session.flush()
        session.flush()
        untrimmed = _resident()
        full = _trimmed()
        _expect_hot(folder, names)
    print(json.dumps({"empty": empty, "one": one, "untrimmed": untrimmed, "full": full}))


def _expect_hot(folder: Path, names: list[str]) -> None:
    """Raise unless every track's points are all in its hot file, which is what is being measured."""
    for name in (names[0], names[-1]):
        with (track_folder(folder, name) / "data.jsonl").open("rb") as file:
            lines = sum(1 for _ in file)
        if lines != POINTS:
            raise RuntimeError(f"{name} has {lines} hot lines, expected {POINTS}")


def _trimmed() -> int:
    """Resident bytes once Python and the C library have given back what nobody uses."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return _resident()


def _resident() -> int:
    """The resident bytes of this process."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    output = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], stdout=subprocess.PIPE, check=True).stdout
    return int(output) * 1024
