"""Death at every system call: each one that changes the disk in turn is the last that a process makes, or never made.

First in process, at the calls that go through the library's own names and at the requests to the replica, as it works
without strace; then at the system calls themselves, which strace lists and kills at: before the call (SIGKILL), and
when it is done (SIGUSR1, which ends a process as well, once the call has returned).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import deaths
import planted
from actors import Actor
from deaths import Stage
from deathscenes import SCENES
from promises import Teller

from campaigns.kills import silence
from campaigns.log import Log
from dreamlake.storage.remote import RemoteStore

#: All that changes a disk.
CALLS = (
    "openat,write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,"
    "ftruncate,mkdir,mkdirat,rmdir"
)
#: Signals that end the process before the call, and after it.
SIGNALS = {"before": "KILL", "after": "USR1"}
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")


class Call(NamedTuple):
    """A system call that a scene made.

    Parameters
    ----------
    thread
        The name of the thread that made it.
    name
        Of the call.
    number
        The so manieth of this name in this thread, from 1 on.
    """

    thread: str
    name: str
    number: int


# -- a process under strace -------------------------------------------------------------------------------------------


def trace(stage: Stage, thread: str, options: list[str], plant: Callable[[], None]) -> tuple[int | None, str]:
    """Run a scene with one of its threads under strace.

    Returns its exit status (None: there is no such thread) and what is wrong with what it left.
    """
    promises, actor = stage.begin()
    reading, writing = os.pipe()
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in (reading, ready[0], go[1]):
            os.close(fd)
        actor.teller = Teller(writing)
        _run_child(stage, actor, ready[1], go[0], plant)
    for fd in (writing, ready[1], go[0]):
        os.close(fd)
    with open(ready[0], "rb") as told:
        threads: dict[str, int] = json.loads(told.readline() or b"{}")
    tid = threads.get(thread)
    lines: list[bytes] = []
    if tid is not None:
        command = ["strace", *options, "-p", str(tid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            attached = tracer.stderr.readline()
            assert "attached" in attached, attached
            os.write(go[1], b"g")
            with open(reading, "rb") as pipe:
                lines = pipe.readlines()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            tracer.communicate(timeout=60)
        os.close(go[1])
    else:
        os.close(go[1])
        os.close(reading)
        os.waitpid(pid, 0)
        return None, ""
    promises.hear(lines)
    return status, stage.judge(promises)


def _run_child(stage: Stage, actor: Actor, ready: int, go: int, plant: Callable[[], None]) -> NoReturn:
    try:
        plant()
        RemoteStore.width = property(lambda store: 1)  # type: ignore[assignment, method-assign]  # no helpers: one thread
        opened = stage.scene.setup(actor)
        if opened is not None:
            opened.writer.wake()
        threads = {thread.name: thread.native_id for thread in threading.enumerate()}
        threads["MainThread"] = os.getpid()  # not the parent's, which Python keeps
        os.write(ready, json.dumps(threads).encode() + b"\n")
        if os.read(go, 1) == b"g":
            stage.scene.act(actor, opened)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(3)


def calls_of(stage: Stage, plant: Callable[[], None] = lambda: None) -> tuple[list[Call], list[str]]:
    """The system calls of a scene that change the disk, thread by thread, and what is wrong when none is the last."""
    found: list[Call] = []
    wrong: list[str] = []
    path = f"{stage.folder}.strace"
    for thread in ("MainThread", "dreamlake-writer", "dreamlake-replica"):
        status, problem = trace(stage, thread, ["-y", "-s", "0", "-o", path, "-e", f"trace={CALLS}"], plant)
        if status is None:
            continue
        if status or problem:
            wrong.append(f"{stage.name}, not killed (status {status}): {problem}")
        with open(path) as file:
            found += list(_parse(thread, file))
    return found, wrong


def _parse(thread: str, lines: Iterator[str]) -> Iterator[Call]:
    numbers: Counter[str] = Counter()
    for line in lines:
        match = _LINE.match(line)
        if match:
            name, rest = match.groups()
            numbers[name] += 1
            told = name == "write" and re.match(r"\d+<pipe:", rest)
            if not told and (name != "openat" or "O_CREAT" in rest):
                yield Call(thread, name, numbers[name])


def kill_at(stage: Stage, call: Call, when: str, plant: Callable[[], None] = lambda: None) -> tuple[bool, str]:
    """Let a process die before a call, or after it; whether it came to it, and what is wrong with what it left."""
    inject = f"inject={call.name}:signal={SIGNALS[when]}:when={call.number}"
    options = ["-o", os.devnull, "-e", f"trace={call.name}", "-e", inject]
    status, problem = trace(stage, call.thread, options, plant)
    if status is not None and status > 0:
        problem = problem or f"it ended with the status {status}"
    return status is not None and status < 0, problem


def is_possible() -> str:
    """Why nothing can be traced here, or nothing."""
    path = shutil.which("strace")
    if path is None:
        return "strace is not here"
    done = subprocess.run([path, "-o", os.devnull, "true"], capture_output=True, timeout=60)
    return "" if done.returncode == 0 else "strace is not allowed to trace"


def sweep(folder: str | Path, scene: str, stride: int = 1) -> tuple[Counter[str], list[str]]:
    """Kill a scene before and after every system call, or every `stride`-th; the counts, and what was found wrong."""
    stage = Stage(folder, scene)
    counts: Counter[str] = Counter()
    calls, wrong = calls_of(stage)
    places = [(call, when) for call in calls for when in SIGNALS][::stride]
    for call, when in places:
        reached, problem = kill_at(stage, call, when)
        counts[call.name] += reached
        counts["missed"] += not reached
        if problem:
            wrong.append(f"{scene}: {when} {call.name} {call.number} of {call.thread}: {problem}")
    shutil.rmtree(stage.folder, ignore_errors=True)
    return counts, wrong


# -- planted bugs -----------------------------------------------------------------------------------------------------

#: The scenes that meet planted bugs.
PLANTED: dict[Callable[[], None], str] = {
    planted.acknowledged_too_early: "first flush after a crash",
    planted.emptied_before_the_commit: "first flush after a crash",
    planted.old_form_removed_first: "first flush after a crash",
    planted.parts_removed_first: "compact",
    planted.in_place: "describe",
    planted.hot_object_first: "sync",
    planted.synced_too_early: "sync",
    planted.dropped_before_it_is_noted: "keep nothing",
}


def find_planted(folder: Path, plant: Callable[[], None]) -> str:
    """Kill the scene of a planted bug until that shows; returns what shows it, or nothing."""
    stage = Stage(folder, PLANTED[plant])
    calls, wrong = calls_of(stage, plant)
    if wrong:
        return wrong[0]
    for call in calls:
        for when in SIGNALS:
            _, problem = kill_at(stage, call, when, plant)
            if problem:
                return f"{when} {call.name} {call.number} of {call.thread}: {problem}".replace(f"{folder}/", "")
    return ""


# -- the campaign -----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this campaign."""
    parser.add_argument("--scene", choices=list(SCENES), action="append", help="only this one (default: all)")
    parser.add_argument("--no-sweep", action="store_true", help="leave out what is done in process")
    parser.add_argument("--folder", type=Path, help="where it happens (default: a new one)")


def run(args: argparse.Namespace, log: Log) -> int:
    """Find the planted bugs, then die at every call; 1 when a bug was not found, or something else was."""
    reason = is_possible()
    if reason:
        log.say(reason)
        return 1
    deaths.calm()
    above = args.folder or Path(tempfile.mkdtemp(prefix="strace-"))
    good = True
    for plant in () if args.no_planted else PLANTED:
        with silence(), _folder(above) as folder:
            found = find_planted(folder, plant)
        good &= log.planted(planted.said(plant), found)
    if args.only_planted:
        return 0 if good else 1
    total: Counter[str] = Counter()
    for scene in args.scene or SCENES:
        if not args.no_sweep:
            good &= _sweep_in_process(above, scene, log, total)
        good &= _sweep_traced(above, scene, log, total)
    shutil.rmtree(above, ignore_errors=True)
    log.say(f"deaths and faults: {total['in process']:,} in process, {total['traced']:,} at system calls")
    return 0 if good else 1


def _sweep_in_process(above: Path, scene: str, log: Log, total: Counter[str]) -> bool:
    with _folder(above) as folder:
        counts, bad = deaths.sweep(folder, scene)
    total["in process"] += sum(counts.values())
    log.say(f"{scene}: {', '.join(f'{fault} {count}' for fault, count in counts.items())}")
    for each in bad:
        log.say(f"  FAILED: {each}")
    return not bad


def _sweep_traced(above: Path, scene: str, log: Log, total: Counter[str]) -> bool:
    began = time.monotonic()
    with _folder(above) as folder:
        counts, wrong = sweep(folder, scene)
    missed = counts.pop("missed", 0)
    total["traced"] += counts.total()
    names = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    log.say(f"{scene}: strace: {counts.total()} deaths ({names}); {missed} calls did not come again")
    log.note(f"{scene} took {time.monotonic() - began:.0f} s")
    for each in wrong:
        log.say(f"  FAILED: {each}")
    return not wrong and counts.total() > missed


class _folder:
    """A new folder below another, that is removed in the end."""

    def __init__(self, above: Path) -> None:
        self.path = above / "scene"

    def __enter__(self) -> Path:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
