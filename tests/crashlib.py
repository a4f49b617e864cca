"""What the crash and disk tests share: writes whose every outcome is known, stopped or failed at the n-th disk call.

A *history* is a list of operations on one track, numbered by their place. An even simpler database would do the same:
what was acknowledged must be there once, what was not may be there once, and nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from support import ROOT, one_in, python_environment, run_python

import dreamlake.storage.local as local
import dreamlake.storage.lock as lock
from dreamlake import Lake, Session

NAME, WORKSPACE, TRACK = "s", "w", "a/b"
STOPPED = 77
#: PYTHONPATH of a snippet that imports this module.
PATH = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"


def wait_for(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Wait until something holds; that it ever does is what is tested, not how soon."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.002)


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    """Run something in a thread of its own that does not outlive the tests."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def run_group(code: str, *args: object, timeout: float = 60) -> str:
    """Run a snippet that forks: it must end well and complain of nothing. When it hangs, its children end with it."""
    # From 3.12 on a fork warns where threads are running: that is what these snippets are about.
    warnings = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
    with subprocess.Popen(
        [sys.executable, *warnings, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=python_environment(PYTHONPATH=PATH),
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"the snippet still ran after {timeout} s\n{out}\n{err}") from None
    assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    assert not err, err
    return out


def rest_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process that is ending has still said, and its errors; ``communicate`` would lose what was read ahead."""
    assert process.stdout is not None
    assert process.stderr is not None
    said = process.stdout.read(), process.stderr.read()
    process.wait(60)
    return said


def blocks(pending: Any) -> list[Any]:
    """The blocks of a track that wait for a flush, with the open one."""
    found = []
    block = pending.open
    while block is not None:
        found.append(block)
        block = block.before
    return found


class Plan:
    """A history to be: operations with what each must leave in the track."""

    def __init__(self) -> None:
        #: The fields given to `append`, in order; a point's own number is its ``id``, late fields have none.
        self.ops: list[dict[str, Any]] = []

    def new(self, ts: float | None = None) -> dict[str, Any]:
        """A point of its own; with an explicit timestamp it can be added to later."""
        number = len(self.ops)
        fields: dict[str, Any] = {"id": number, "v": number / 7}
        if number % 3 == 1:
            fields["text"] = f"é{number}\n"
        if ts is not None:
            fields["_ts"] = ts
        self.ops.append(fields)
        return fields

    def late(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """One more field for an earlier point."""
        number = len(self.ops)
        fields = {f"late{number % 5}": number, "_ts": target["_ts"]}
        self.ops.append(fields)
        return fields


def check(
    root: str | Path, ops: Sequence[Mapping[str, Any] | None], acknowledged: int, track: str = TRACK
) -> list[int]:
    """Hold the stored track against the operations, of which the first `acknowledged` ones were flushed.

    An operation that is None must have left nothing. Returns the ids found, in the order of their indices.
    """
    data = Lake(root).session(NAME, WORKSPACE).track(track).read(limit=None)["data"] if _exists(root, track) else []
    assert [row["index"] for row in data] == list(range(len(data))), [row["index"] for row in data]
    found = [row["data"] for row in data]
    ids = [point.get("id") for point in found]
    assert None not in ids, [point for point in found if "id" not in point]
    doubled = sorted({i for i in ids if ids.count(i) > 1})
    assert not doubled, f"doubled: {doubled}"
    missing = {op["id"] for op in ops[:acknowledged] if op is not None and "id" in op} - set(ids)
    assert not missing, f"lost: {sorted(missing)} of {acknowledged}"
    by_ts = {op["_ts"]: op["id"] for op in ops if op is not None and "id" in op and "_ts" in op}
    late: dict[int, list[tuple[bool, Mapping[str, Any]]]] = {}
    for place, op in enumerate(ops):
        if op is not None and "id" not in op:
            late.setdefault(by_ts[op["_ts"]], []).append((place < acknowledged, op))
    for point in found:
        own = ops[point["id"]]
        assert own is not None, f"the point {point['id']} came back"
        _check_point(point, own, late.get(point["id"], []))
    return ids


def _exists(root: str | Path, track: str) -> bool:
    try:
        return track in Lake(root).session(NAME, WORKSPACE).tracks.list()
    except FileNotFoundError:
        return False


def _check_point(
    point: Mapping[str, Any], own: Mapping[str, Any], late: Sequence[tuple[bool, Mapping[str, Any]]]
) -> None:
    surely = {"_ts": point["_ts"], **own}
    perhaps: dict[str, list[Any]] = {}
    for acknowledged, op in late:
        name, value = next((k, v) for k, v in op.items() if k != "_ts")
        if acknowledged:
            surely[name] = value
        else:
            perhaps.setdefault(name, []).append(value)
    for name, value in point.items():
        allowed = ([surely[name]] if name in surely else []) + perhaps.get(name, [])
        assert any(type(value) is type(a) and value == a for a in allowed), (point["id"], name, value, allowed)
    lacking = set(surely) - set(point)
    assert not lacking, f"the point {point['id']} lacks {lacking}"


# -- scenarios -----------------------------------------------------------------------------------------------------


def session(root: str | Path, **options: Any) -> Session:
    """The session of the scenarios, which flushes when it is told to and rolls early."""
    return Session(NAME, WORKSPACE, root, **{"segment_points": 10, "flush_interval": 3600.0, **options})


class Scene:
    """Operations done by one process of a scenario; what was acknowledged goes through a pipe at once."""

    def __init__(self, root: str, plan: Plan, tell: Callable[[int], None], retry: bool) -> None:
        self.root = root
        self.plan = plan
        self.tell = tell
        #: Whether errors of the disk are waited out, as a training script does, or end the scene.
        self.retry = retry
        self.heal: Callable[[], None] = lambda: None

    def flush(self, session: Session) -> None:
        """Flush; the disk may fail once, and then works again."""
        try:
            session.flush()
        except OSError:
            if not self.retry:
                raise
            self.heal()
            session.flush()
        self.tell(len(self.plan.ops))

    def append(self, session: Session, count: int, explicit: bool = False) -> None:
        """Append points to the track of the scenario."""
        track = session.track(TRACK)
        for _ in range(count):
            ts = 1000.0 + len(self.plan.ops) if explicit else None
            track.append(**self.plan.new(ts))

    def late(self, session: Session, number: int) -> None:
        """Add a field to the point of this number."""
        session.track(TRACK).append(**self.plan.late(self.plan.ops[number]))

    def open(self, **options: Any) -> Session:
        """Open the session; where the disk fails at that, once more."""
        opened = session(self.root, **options)
        try:
            return opened.open()
        except OSError:
            if not self.retry:
                raise
            self.heal()
            return opened.open()

    def close(self, session: Session) -> None:
        """Close the session; an error is seen to by the flush before."""
        try:
            session.close()
        except OSError:
            if not self.retry:
                raise


def _nothing(scene: Scene) -> None:
    pass


def _hot(scene: Scene) -> None:
    opened = scene.open()
    scene.append(opened, 7, explicit=True)
    scene.flush(opened)
    scene.close(opened)


def _rolled(scene: Scene) -> None:
    opened = scene.open()
    for _ in range(5):
        scene.append(opened, 7, explicit=True)
        scene.flush(opened)
    scene.close(opened)


def _begin(scene: Scene) -> None:
    opened = scene.open(description="d", tags=["x"])
    opened.track(TRACK, metadata={"unit": "m"})
    scene.append(opened, 4)
    scene.flush(opened)
    scene.append(opened, 2, explicit=True)
    scene.flush(opened)
    scene.close(opened)


def _flushes(scene: Scene) -> None:
    opened = scene.open()
    for count in (1, 0, 1):
        scene.append(opened, count + 1, explicit=bool(count))
        scene.flush(opened)
    scene.close(opened)


def _roll(scene: Scene) -> None:
    opened = scene.open()
    scene.append(opened, 4, explicit=True)
    scene.late(opened, 5)
    scene.flush(opened)
    scene.append(opened, 1)
    scene.late(opened, 2)
    scene.flush(opened)
    scene.close(opened)


def _roll_many(scene: Scene) -> None:
    opened = scene.open()
    scene.append(opened, 37, explicit=True)
    scene.flush(opened)
    scene.append(opened, 1)
    scene.flush(opened)
    scene.close(opened)


def _late(scene: Scene) -> None:
    opened = scene.open()
    scene.late(opened, 3)
    scene.late(opened, 13)
    scene.late(opened, 33)
    scene.append(opened, 1)
    scene.flush(opened)
    scene.late(opened, 3)
    scene.flush(opened)
    scene.close(opened)


def _rewrite(scene: Scene) -> None:
    opened = scene.open()
    for number in (1, 2, 3, 4, 5):
        scene.late(opened, number)
        scene.late(opened, number - 1)
    scene.flush(opened)
    for number in (4, 5):
        scene.late(opened, number)
        scene.flush(opened)
    scene.close(opened)


def _torn(scene: Scene) -> None:
    path = track_folder(scene.root) / "data.jsonl"
    with path.open("ab") as file:
        file.write(b'{"index":7,"data":{"id":7,"v"')
    opened = scene.open()
    scene.late(opened, 6)
    scene.append(opened, 2)
    scene.flush(opened)
    scene.close(opened)


def _batches(scene: Scene) -> None:
    opened = scene.open()
    track = opened.track(TRACK)
    scene.append(opened, 2)
    track.append_batch([scene.plan.new() for _ in range(33)])
    scene.flush(opened)
    track.append_batch([scene.plan.new(1000.0 + len(scene.plan.ops)) for _ in range(4)])
    scene.flush(opened)
    scene.close(opened)


def _fsync(scene: Scene) -> None:
    opened = scene.open(fsync=True)
    scene.append(opened, 1)
    scene.flush(opened)
    scene.append(opened, 6, explicit=True)
    scene.flush(opened)
    scene.late(opened, len(scene.plan.ops) - 1)
    opened.log("once")
    scene.append(opened, 4)
    scene.flush(opened)
    scene.close(opened)


#: What stands there before, and what is done then.
SCENES: dict[str, tuple[Callable[[Scene], None], Callable[[Scene], None]]] = {
    "begin": (_nothing, _begin),
    "flush": (_hot, _flushes),
    "roll": (_hot, _roll),
    "roll many": (_hot, _roll_many),
    "late": (_rolled, _late),
    "rewrite": (_hot, _rewrite),
    "torn": (_hot, _torn),
    "batches": (_hot, _batches),
    "fsync": (_nothing, _fsync),
}


def track_folder(root: str | Path, track: str = TRACK) -> Path:
    """The folder of a track."""
    return Path(root, WORKSPACE, NAME, "tracks", *track.split("/"))


# -- faults --------------------------------------------------------------------------------------------------------


class Seam:
    """Stands in for ``os`` where the library changes the disk: counts the calls, and lets the n-th one go wrong."""

    def __init__(self, when: int, wrong: Callable[[str, Callable[[], Any], tuple[Any, ...]], Any]) -> None:
        self.when = when
        #: The calls so far.
        self.names: list[str] = []
        self._wrong = wrong

    def install(self) -> None:
        """Put it in the place of the modules that the library calls."""
        local.os_ = lock.os_ = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if not callable(real) or isinstance(real, type):
            return real

        def call(*args: Any) -> Any:
            self.names.append(name)
            return self._wrong(name, lambda: real(*args), args) if self.is_due() else real(*args)

        return call

    def is_due(self) -> bool:
        """Whether this call is to go wrong."""
        return len(self.names) == self.when


class Lasting(Seam):
    """Every call from the n-th on goes wrong, until `when` is 0."""

    def is_due(self) -> bool:
        return len(self.names) >= self.when > 0


class Short(Seam):
    """At the n-th call a write does a part, and says so, and its continuation fails; any other call goes wrong.

    The part is a half to eight ninths, by the number of the call, so that few lines are cut behind the first, too.
    """

    def __init__(self, when: int, wrong: Callable[[str, Callable[[], Any], tuple[Any, ...]], Any]) -> None:
        super().__init__(when, self._in_part)
        self._otherwise = wrong
        self._continues = False

    def is_due(self) -> bool:
        """Whether this call is to go wrong, or follows a short write."""
        return self._continues or super().is_due()

    def _in_part(self, name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        continues, self._continues = self._continues, False
        if name not in ("pwrite", "write"):
            return real() if continues else self._otherwise(name, real, args)
        if continues:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fd, data, *offset = args
        part = bytes(data)[: max(1, len(data) - len(data) // (2 + self.when % 8))]
        self._continues = len(part) < len(data)
        return getattr(os, name)(fd, part, *offset)


def stop(name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """The process ends before the call."""
    os._exit(STOPPED)


def stop_half(name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """The process ends in the middle of a write; before any other call."""
    if name in ("pwrite", "write"):
        fd, data, *offset = args
        getattr(os, name)(fd, bytes(data)[: len(data) // 2], *offset)
    os._exit(STOPPED)


def fail(name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """The call fails and does nothing; a file that fails to close is closed all the same, as Linux has it."""
    if name == "close":
        real()
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def fail_done(name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """The call is done, but reported as failed, where that can be."""
    if name in ("fsync", "close", "ftruncate"):
        real()
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


#: The calls at which a fault differs from a simpler one; all where nothing is said.
FAULTS: dict[str, tuple[type[Seam], Callable[..., Any], set[str] | None]] = {
    "stop": (
        Seam,
        stop,
        {"open", "pwrite", "write", "fsync", "ftruncate", "link", "rename", "replace", "unlink", "mkdir"},
    ),
    "stop half": (Seam, stop_half, {"pwrite", "write"}),
    "fail": (Seam, fail, None),
    "fail half": (Short, fail_done, {"pwrite", "write", "fsync", "ftruncate"}),
    "dead": (Lasting, fail, None),
}
#: Of some faults only every so manieth call is tried in an ordinary run: calls side by side differ little.
STRIDES = {"dead": one_in(13), "fail": one_in(6), "stop": one_in(3)}


# -- the sweep -----------------------------------------------------------------------------------------------------


def sweep(folder: str, scene: str, fault: str) -> tuple[int, list[str]]:
    """Let the scene go wrong at its first disk call, its second, and so on, each time in a forked process.

    Returns how many calls there were, and what was found wrong.
    """
    import pyarrow  # noqa: F401

    import dreamlake.engine.ondisk  # noqa: F401

    prepare, act = SCENES[scene]
    template = os.path.join(folder, "template")
    plan = Plan()
    prepare(Scene(template, plan, lambda count: None, False))
    wrong: list[str] = []

    def attempt(when: int) -> list[str]:
        root = os.path.join(folder, str(when))
        if os.path.isdir(template):
            shutil.copytree(template, root)
        status, ops, acknowledged, calls = _try(root, plan.ops, act, fault, when)
        problem = judge(root, ops, acknowledged)
        if problem or status not in ((STOPPED, 1) if when else (0,)):
            wrong.append(f"{scene}, {fault} at call {when} (status {status}): {problem}")
        shutil.rmtree(root, ignore_errors=True)
        return calls

    calls = attempt(0)
    fitting = FAULTS[fault][2]
    places = [place for place, name in enumerate(calls, 1) if fitting is None or name in fitting]
    for place in places[:: STRIDES.get(fault, 1)]:
        attempt(place)
    return len(calls), wrong


def _try(
    root: str, before: list[dict[str, Any]], act: Callable[[Scene], None], fault: str, when: int
) -> tuple[int, list[dict[str, Any]], int, list[str]]:
    """Run the scene in a child that goes wrong at one call, or at none.

    Returns its exit status, the operations it tried, how many were acknowledged, and its disk calls if none failed.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_child(root, before, act, fault, when, writing)
    os.close(writing)
    lines = b"".join(iter(lambda: os.read(reading, 1 << 16), b"")).splitlines()
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    acknowledged, ops, calls = len(before), list(before), []
    for told in map(json.loads, lines):
        if isinstance(told, int):
            acknowledged = told
        elif isinstance(told, list):
            calls = told
        else:
            ops.append(told)
    return status, ops, acknowledged, calls


class TellingPlan(Plan):
    """A plan that writes each operation to a pipe before it is done."""

    def __init__(self, ops: list[dict[str, Any]], fd: int) -> None:
        self.fd = fd
        self.ops = _TellingList(ops, fd)


class _TellingList(list[dict[str, Any]]):
    def __init__(self, items: list[dict[str, Any]], fd: int) -> None:
        super().__init__(items)
        self.fd = fd

    def append(self, item: dict[str, Any]) -> None:
        os.write(self.fd, json.dumps(item).encode() + b"\n")
        super().append(item)


def _run_child(
    root: str, before: list[dict[str, Any]], act: Callable[[Scene], None], fault: str, when: int, pipe: int
) -> None:
    """Act with the fault installed. Exit status 0: it was not asked for; 1: it came up and was dealt with."""
    import logging

    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    try:
        kind, wrong, _ = FAULTS[fault]
        seam = kind(when, wrong)

        def heal() -> None:
            if isinstance(seam, Lasting):
                seam.when = 0

        def tell(count: int) -> None:
            os.write(pipe, b"%d\n" % count)

        scene = Scene(root, TellingPlan(list(before), pipe), tell, retry=not fault.startswith("stop"))
        scene.heal = heal
        seam.install()
        act(scene)
        if not when:
            os.write(pipe, json.dumps(seam.names).encode() + b"\n")
            os._exit(0)
        os._exit(1)
    except BaseException:
        traceback.print_exc()
        os._exit(2)


def judge(root: str, ops: list[dict[str, Any]], acknowledged: int) -> str:
    """Look at what is left as a reader, then as the next writer; return what is wrong, or nothing."""
    try:
        _look(root, ops, acknowledged)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} [{frame.name}:{frame.lineno}]"
    return ""


def _look(root: str, ops: list[dict[str, Any]], acknowledged: int) -> None:
    import logging

    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    before = check(root, ops, acknowledged)
    stamps = [ts for ts in _stamps(root) if ts > 1e6]
    ops = list(ops)
    with session(root, resume="allow") as resumed:
        resumed.writer.clock.now = lambda: 5000.0  # a clock that was set back: the stored counter has to hold
        fresh = {"id": len(ops), "v": 0.5}
        ops.append(fresh)
        resumed.track(TRACK).append(**fresh)
        present = [op for op in ops if op.get("id") in before and "_ts" in op]
        for target in (present[:1] + present[-1:]) if present else []:
            ops.append({"mark": 1.5, "_ts": target["_ts"]})
            resumed.track(TRACK).append(mark=1.5, _ts=target["_ts"])
        resumed.flush()
    # What was not acknowledged may be missing: it is no part of what is expected now.
    kept = [op if op.get("id") in before or "id" not in op or op is fresh else None for op in ops]
    after = Lake(root).session(NAME, WORKSPACE).track(TRACK).read(limit=None)["data"]
    assert [row["index"] for row in after] == list(range(len(before) + 1)), "indices after the resume"
    assert [row["data"]["id"] for row in after] == [*before, fresh["id"]], "order after the resume"
    marked = {op["_ts"] for op in kept if op is not None and "mark" in op}
    assert {row["data"]["_ts"] for row in after if "mark" in row["data"]} == marked
    if stamps:
        assert after[-1]["data"]["_ts"] > max(stamps), "an automatic timestamp fell behind"
    left = [name for name in os.listdir(track_folder(root)) if not name.startswith(".tmp-")]
    assert all(name in ("data.jsonl", "metadata.json") or name.endswith(".parquet") for name in left), left


def _stamps(root: str) -> Iterator[float]:
    if _exists(root, TRACK):
        for row in Lake(root).session(NAME, WORKSPACE).track(TRACK).read(limit=None)["data"]:
            yield row["data"]["_ts"]


def run_sweeps(library: str, folder: Path, scene: str, faults: Sequence[str]) -> None:
    """The `sweep` of this module, or of another, with each of these faults; in a fresh interpreter, since it forks.

    Raises
    ------
    AssertionError
        Something was found wrong, or next to nothing was tried.
    """
    code = """
        import importlib, json, sys

        library, folder, scene, *faults = sys.argv[1:]
        sweep = importlib.import_module(library).sweep
        print(json.dumps([sweep(f"{folder}/{fault}", scene, fault) for fault in faults]))
    """
    done = run_python(code, library, folder, scene, *faults, timeout=300, PYTHONPATH=PATH)
    found = dict(zip(faults, json.loads(done.stdout), strict=True))
    assert not done.stderr.strip(), done.stderr
    assert not any(wrong for _, wrong in found.values()), "\n".join(
        each for _, wrong in found.values() for each in wrong
    )
    assert all(calls > 4 for calls, _ in found.values()), found


if __name__ == "__main__":
    print(*sweep(*sys.argv[1:])[1], sep="\n")
