"""The runner: every driver in its own process, workload by workload, the peers in turn, round by round."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Settings, scratch
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.environments import interpreter

DRIVERS = Path(__file__).parent / "drivers"
WORKLOADS = {
    "import": None,
    "append": "append",
    "tail": "tail",
    "metrics": "metrics",
    "states": "states",
    "batches": "batches",
    "once": "once",
    "frame": "frame",
    "bytes": "bytes",
    "range": "read",
    "fresh": "read",
    "full": "read",
    "kill": None,
}
"""Every workload, and which size of the catalogue it takes."""
MOST = {"bytes": 1}
"""Rounds that are enough where nothing varies."""
READING = ("range", "fresh", "full")
IMPORTS = 3
"""Interpreters that are started for one import time, of which the median counts."""
TIMEOUT = 300.0
LIFE = 2.5
"""Seconds in the loop before it is killed."""
SETTLE = 1.0
"""Seconds after that in which a process that the killed one has left behind may still write."""
READY = "import os; os.write(1, b'.'); os._exit(0)"


class DriverError(Exception):
    """A driver failed; the message is the last line that it said."""


@dataclass
class Results:
    """What came out: figures by round, the points they are for, and what went wrong."""

    figures: dict[tuple[str, str], dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    points: dict[tuple[str, str], int] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)
    kills: list[dict[str, Any]] = field(default_factory=list)


def environment(home: Path) -> dict[str, str]:
    """What a peer may see of this environment: nothing that changes where it imports from or keeps its own files."""
    hidden = ("PYTHON", "WANDB_", "MLFLOW_", "TRACKIO_", "AIM_", "RERUN_", "DREAMLAKE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {**kept, "HOME": str(home)}


def drive(python: Path, driver: str, workload: str, folder: Path, count: int, home: Path) -> Mapping[str, float] | None:
    """Run one workload of a driver in a process of its own; its figures, or None where the peer has no such thing."""
    with started(python, driver, workload, folder, count, home) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DriverError(f"still running after {TIMEOUT:.0f} s") from None
    if process.returncode:
        said = [line for line in err.splitlines() if line.strip()]
        raise DriverError(said[-1].strip() if said else f"ended with {process.returncode}")
    figures: Mapping[str, float] | None = json.loads(out.rstrip().rpartition("\n")[2])
    return figures


@contextmanager
def started(
    python: Path, driver: str, workload: str, folder: Path, count: int, home: Path
) -> Iterator[subprocess.Popen[str]]:
    """A driver's process, which is gone afterwards with all that it started in its process group."""
    process = subprocess.Popen(
        [python, DRIVERS / f"{driver}.py", workload, folder, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        env=environment(home),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def to_ready(python: Path, statement: str, home: Path) -> float:
    """Seconds from the start of an interpreter to the line after `statement`; the median of some."""

    def once() -> float:
        start = time.perf_counter()
        with subprocess.Popen(
            [python, "-c", f"{statement}; {READY}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=home,
            env=environment(home),
        ) as process:
            assert process.stdout is not None
            out = process.stdout.read(1)
            seconds = time.perf_counter() - start
        if out != b".":
            raise DriverError(f"`{statement}` failed")
        return seconds

    return median(once() for _ in range(IMPORTS))


class Runner:
    """Runs workloads of peers whose environments are ready, and collects what they give.

    Parameters
    ----------
    pythons
        The environment of each peer.
    scale
        How much of the full sizes is run.
    scratch
        A folder that is there as long as the runner is.
    say
        Where progress goes.
    """

    def __init__(
        self, pythons: Mapping[Peer, Path], scale: float, scratch: Path, say: Callable[[str], object] = print
    ) -> None:
        self.peers = list(pythons)
        self.results = Results()
        self._pythons = {peer: interpreter(path) for peer, path in pythons.items()}
        self._scale = scale
        self._scratch = scratch
        self._say = say
        self._filled: set[Peer] = set()

    def run(self, workload: str, rounds: int) -> None:
        """One workload: each round runs every peer once, the order turning round each time."""
        for number in range(min(rounds, MOST.get(workload, rounds))):
            for peer in self.peers if number % 2 == 0 else reversed(self.peers):
                if (peer.name, workload) in self.results.errors:
                    continue
                began = time.perf_counter()
                try:
                    self._take(peer, workload, number)
                except Exception as error:
                    self.results.errors[peer.name, workload] = f"{error}"[:200]
                self._say(f"{workload} {number + 1} {peer.name}: {time.perf_counter() - began:.1f} s")

    def _take(self, peer: Peer, workload: str, number: int) -> None:
        size = WORKLOADS[workload]
        points = peer.points(size, self._scale) if size else 0
        for figure, value in (self._measure(peer, workload, points) or {}).items():
            self.results.figures[peer.name, figure][number] = value
            self.results.points[peer.name, figure] = points

    def _measure(self, peer: Peer, workload: str, points: int) -> Mapping[str, float] | None:
        python, home = self._pythons[peer], self._home(peer)
        if workload == "import":
            return {"import": to_ready(python, peer.statement, home) - to_ready(python, "pass", home)}
        if workload in READING:
            folder = self._scratch / "filled" / peer.name
            if peer not in self._filled:
                folder.mkdir(parents=True, exist_ok=True)
                drive(python, peer.driver, "fill", folder, points, home)
                self._filled.add(peer)
            if workload != "fresh":
                return drive(python, peer.driver, workload, folder, points, home)
            bare = to_ready(python, "pass", home)
            start = time.time()
            figures = drive(python, peer.driver, "fresh", folder, points, home)
            return figures and {"fresh": figures["done"] - start - bare}
        with scratch(Settings(scratch=self._scratch)) as folder:
            if workload == "kill":
                return self._kill(peer, python, folder, home)
            return drive(python, peer.driver, workload, folder, points, home)

    def _home(self, peer: Peer) -> Path:
        home = self._scratch / "home" / peer.name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _kill(self, peer: Peer, python: Path, folder: Path, home: Path) -> Mapping[str, float] | None:
        """Kill a loop after a while, its own process only, and count what is there."""
        counter = folder / "appended.bin"
        with started(python, peer.driver, "kill", folder, 1 << 40, home) as process:
            deadline = time.monotonic() + TIMEOUT
            while not _appended(counter):
                if process.poll() == 0:
                    return None
                if process.returncode is not None or time.monotonic() > deadline:
                    raise DriverError((process.communicate()[1].strip().splitlines() or ["nothing appended"])[-1])
                time.sleep(0.05)
            time.sleep(min(1.0, self._scale) * LIFE)
            process.kill()
            process.wait()
            appended = _appended(counter)
            time.sleep(SETTLE)
        kept = (drive(python, peer.driver, "kept", folder, 0, home) or {"kept": 0})["kept"]
        self.results.kills.append({"peer": peer.name, "appended": appended, "kept": kept})
        return {"kept": min(1.0, kept / appended)}


def _appended(counter: Path) -> int:
    try:
        return struct.unpack("q", counter.read_bytes())[0]  # type: ignore[no-any-return]
    except (OSError, struct.error):
        return 0
