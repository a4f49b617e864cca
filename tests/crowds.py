"""Many processes on one session: started, listened to, stopped and killed by a director, and judged by their history.

The director never opens a session. All others tell it what they do and see through a socket, at once, so that it knows
what was acknowledged to a process that was killed a moment later.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any, Self

from crowdwork import NAME, WORKSPACE, Spec, guard, main
from histories import History, Read
from support import ROOT, python_environment, start_python

import dreamlake
from dreamlake import Lake

#: What an interpreter of its own runs.
FRESH = "import sys, json; from crowdwork import Spec, main; main('plain', Spec(*json.loads(sys.argv[1])), sys.argv[2])"


class Crowd:
    """One episode: starts the processes, listens to them, stops and kills some, and checks what is left."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.draw = Random(spec.seed)
        self.histories: dict[tuple[str, str], History] = defaultdict(History)
        self.running: dict[int, str] = {}
        #: Processes that were killed on purpose, and how many were begun.
        self.killed: set[int] = set()
        self.failed: list[str] = []
        self._begun = 0
        self._parts: dict[str, list[Any]] = defaultdict(list)
        self.counts: dict[str, int] = defaultdict(int)
        os.makedirs(spec.root, exist_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(os.path.join(spec.root, "socket"))

    def start(self, kind: str) -> None:
        """Start a process."""
        name = f"{self._begun}{kind[0]}"
        self._begun += 1
        self.counts[f"processes: {kind}"] += 1
        if kind == "fresh":
            environment = python_environment(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
            command = [sys.executable, "-W", "error", "-c", FRESH, json.dumps(self.spec), name]
            pid = subprocess.Popen(command, env=environment).pid
        else:
            pid = os.fork()
            if pid == 0:
                self.socket.close()
                guard(lambda: main(kind, self.spec, name))
        self.running[pid] = kind

    def run(self, patience: float = 120.0) -> None:
        """Run the episode until its end.

        Raises
        ------
        AssertionError
            A process failed or hung, or the history does not fit. The message says which and how.
        """
        try:
            for kind in ["reading"] * self.spec.readers + list(self.spec.writers):
                self.start(kind)
            self._direct(time.monotonic() + patience)
            if not self.failed:
                self.failed += self._verdicts()
        finally:
            self._end_all()
            self.socket.close()
        assert not self.failed, "\n".join(self.failed)

    def _direct(self, deadline: float) -> None:
        kills, stops = self.spec.kills, self.spec.stops
        while self._writers() and not self.failed:
            self._listen(self.draw.random() * 0.08)
            self._reap()
            victims = self._writers()
            if victims and stops and self.draw.random() < 0.4:
                stops -= 1
                self._stop(self.draw.choice(victims))
            if victims and kills and self.draw.random() < 0.1:
                kills -= 1
                self._kill(self.draw.choice(victims))
            if time.monotonic() > deadline:
                self._tell_hanging()
        Path(self.spec.root, "stop").touch()
        while self.running and not self.failed:
            self._listen(0.02)
            self._reap()
            if time.monotonic() > deadline + 30:
                self._tell_hanging()
        self._listen(0.0)

    def _writers(self) -> list[int]:
        return [pid for pid, kind in self.running.items() if kind != "reading"]

    def _stop(self, pid: int) -> None:
        """Stop a process wherever it is, with the lock or without, while the others go on."""
        self.counts["stops"] += 1
        os.kill(pid, signal.SIGSTOP)
        self._listen(self.draw.choice([0.02, 0.1, 0.4]))
        os.kill(pid, signal.SIGCONT)

    def _kill(self, pid: int) -> None:
        """Kill a process, not its children, and start another in its place."""
        self.counts["kills"] += 1
        self.killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        self.start("plain")

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                kind = self.running.pop(pid, "orphan")
                code = os.waitstatus_to_exitcode(status)
                if kind != "orphan" and code and not (code == -signal.SIGKILL and pid in self.killed):
                    self.failed.append(f"a process ({kind}) ended with {code}: {self._complaints()}")

    def _tell_hanging(self) -> None:
        for pid in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        time.sleep(1.0)
        self.failed.append(f"hanging: {self.running}: {self._complaints()}")

    def _complaints(self) -> str:
        said = [path.read_text().rstrip() for path in sorted(Path(self.spec.root).glob("*.err"))]
        return "\n".join(text[-3000:] for text in said if text)

    def _end_all(self) -> None:
        """Kill whoever is left, the orphans too, which this process has inherited."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            me = os.getpid()
            children = Path(f"/proc/{me}/task/{me}/children")
            left = map(int, children.read_text().split()) if children.exists() else list(self.running)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            self._listen(0.02)

    # -- what is told ------------------------------------------------------------------------------------------------

    def _listen(self, seconds: float) -> None:
        """Take in what is told, for so long at least."""
        deadline = time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.0001))
            try:
                self._take(json.loads(self.socket.recv(1 << 20)))
            except (TimeoutError, BlockingIOError):
                if time.monotonic() >= deadline:
                    return

    def _take(self, told: list[Any]) -> None:
        what, *rest = told
        self.counts[what] += 1
        if what == "do":
            track, writer, ops = rest
            for place in ("here", "there"):
                self.histories[place, track].ops[writer] += ops
            self.counts["operations"] += len(ops)
        elif what == "ack":
            place, track, writer, count, at = rest
            self.histories[place, track].acknowledged.append((at, writer, count))
        elif what == "batch":
            track, *batch = rest
            self.histories["here", track].batches.append(tuple(batch))  # type: ignore[arg-type]
        elif what == "compact":
            self.counts["segments merged"] += rest[0]
        else:
            place, track, read, more = rest
            news = self._parts[read[0]]
            news += read[-1]
            if not more:
                self.histories[place, track].reads.append(Read(*read[:-1], [tuple(n) for n in news]))  # type: ignore[misc]
                del self._parts[read[0]]

    # -- what is left ------------------------------------------------------------------------------------------------

    def _verdicts(self) -> list[str]:
        """Read everything in a process of its own, once as it is and once more after the next writer, and judge."""
        pid = os.fork()
        if pid == 0:
            self.socket.close()
            guard(lambda: _read_all(self.spec))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            return [f"at the end: {self._complaints()}"]
        found = json.loads(Path(self.spec.root, "found.json").read_text())
        wrong = []
        for (place, track), history in sorted(self.histories.items()):
            if place == "there" and self.spec.remote is None:
                continue
            points = found[place].get(track, [])
            self.counts[f"points {place}"] += len(points)
            try:
                history.check(points)
            except AssertionError as error:
                wrong.append(f"{place}, track {track}: {error}")
        return wrong


def _read_all(spec: Spec) -> None:
    """Write down all points, those on the replica after a last sync."""
    os.dup2(os.open(os.path.join(spec.root, "end.err"), os.O_WRONLY | os.O_CREAT), 2)
    here = os.path.join(spec.root, "here")
    found = {"here": _points(here, spec)}
    if spec.remote is not None:
        with spec.session() as session:  # has nothing to write, and uploads what those that were killed had not
            session.sync(60.0)
        found["there"] = _points(spec.remote, spec)
    with spec.session() as session:  # the next writer finds the same
        for track in spec.track_names():
            session.track(track).append(next=1)
    for name, points in _points(here, spec).items():
        assert points.pop().keys() == {"next", "_ts"}, name
        assert points == found["here"].get(name, []), f"the next writer has changed {name}"
    Path(spec.root, "found.json").write_text(json.dumps(found))


def _points(url: str, spec: Spec) -> dict[str, list[dict[str, Any]]]:
    view = Lake(url, spec.options if url == spec.remote else None).session(NAME, WORKSPACE)
    names = set(view.tracks.list()) & set(spec.track_names())
    found = {}
    for name in names:
        data = view.track(name).read(limit=None)["data"]
        assert [point["index"] for point in data] == list(range(len(data))), f"indices of {name}"
        found[name] = [point["data"] for point in data]
    return found


#: What imports Polars, or may, and no episode needs.
WITH_POLARS = (
    "dreamlake.analysis",
    "dreamlake.cli",
    "dreamlake.engine.logread",
    "dreamlake.engine.scan",
    "dreamlake.integrations",
    "dreamlake.pictures",
)


def get_ready() -> None:
    """Make this process one that can direct: everything imported that its forks need, and orphans adopted (Linux)."""
    for module in pkgutil.walk_packages(dreamlake.__path__, "dreamlake."):
        if not module.name.startswith(WITH_POLARS):
            importlib.import_module(module.name)
    # Polars works in a forked process only where that has imported it itself.
    assert "polars" not in sys.modules, "a process that has imported Polars cannot direct"
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def episode(spec: Spec) -> dict[str, int]:
    """Run one episode, and count what happened. Raises AssertionError as `Crowd.run` does."""
    crowd = Crowd(spec)
    crowd.run()
    return dict(crowd.counts)


def serve() -> None:
    """Direct the episodes that come as lines, and answer each with a line: what was counted, what is wrong."""
    get_ready()
    for line in sys.stdin:
        counts, wrong = {}, ""
        try:
            counts = episode(Spec(*json.loads(line)))
        except AssertionError as error:
            wrong = str(error).strip() or "an error"
        print(json.dumps([counts, wrong]), flush=True)


class Director:
    """A process of its own that directs episodes, since this one may have imported, opened and started anything."""

    def __init__(self) -> None:
        self.process = start_python("import crowds; crowds.serve()", PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}")

    def episode(self, spec: Spec) -> tuple[dict[str, int], str]:
        """Have one episode run: what was counted, and what was found wrong."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(spec) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            assert self.process.stderr is not None
            raise RuntimeError("the director is gone: " + self.process.stderr.read())
        counts, wrong = json.loads(answer)
        return counts, wrong

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.__exit__(None, None, None)
