"""Sudden death in the scenes of ``deathscenes``: at the n-th disk call or request, then a look at what is left.

``crashlib`` does the same for points of one track only. Here whoever is left looks at both sides, the local one and the
replica, by what was promised; then it goes on, and looks again.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crashlib
from actors import SECOND, TRACK, Actor, Direct, finish
from crashlib import STOPPED
from deathscenes import SCENES, Scene, ahead, elsewhere
from promises import SESSION, Promises, Teller
from support import run_python

from dreamlake import Lake, Session
from dreamlake.storage import plain

# -- faults -----------------------------------------------------------------------------------------------------------

REQUESTS = ("list", "walk", "get", "get_many", "read", "stat", "put", "put_file", "put_if", "delete", "probe")
#: The requests that change something.
WRITES = ("put", "put_file", "put_if", "delete")


class Requests:
    """Counts the requests to the replica, and lets something happen before or after the n-th one.

    Parameters
    ----------
    when
        Which one; 0 for none.
    fault
        ``stop``: the process ends before it; ``done``: after it; ``lost``: its reply is lost; ``dead``: from there on
        the network is.
    """

    def __init__(self, when: int, fault: str) -> None:
        self.when = when
        self.fault = fault
        self.names: list[str] = []
        #: How the process ends.
        self.end: Callable[[], Any] = lambda: os._exit(STOPPED)
        self._lock = threading.Lock()
        self._inside = threading.local()

    def install(self) -> None:
        """Put it before every store of this process; for good."""
        for name in REQUESTS:
            setattr(plain.PlainFiles, name, self._counting(name, getattr(plain.PlainFiles, name)))
        plain.PlainFiles.put_if_unchanged = plain.PlainFiles.put_if  # type: ignore[method-assign]

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(files: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "one", False):  # a part of another request
                return real(files, *args, **kwargs)
            with self._lock:
                self.names.append(name)
                number = len(self.names)
            self._inside.one = True
            try:
                return self._do(number, lambda: real(files, *args, **kwargs))
            finally:
                self._inside.one = False

        return call

    def _do(self, number: int, work: Callable[[], Any]) -> Any:
        due = number == self.when or (self.fault == "dead" and number >= self.when > 0)
        if due and self.fault == "stop":
            self.end()
        if due and self.fault == "dead":
            raise ConnectionError("the network is dead")
        done = work()
        if due and self.fault == "done":
            self.end()
        if due and self.fault == "lost":
            raise ConnectionResetError("the reply is lost")
        return done


#: Disk calls that are cut off, see `crashlib.FAULTS`, and requests.
DISK_FAULTS = ("stop", "stop half")
REQUEST_FAULTS = ("stop", "done", "lost", "dead")
CUT = {"open", "pwrite", "write", "fsync", "ftruncate", "link", "rename", "replace", "unlink", "mkdir"}
FITTING = {"stop": CUT, "stop half": {"pwrite", "write"}}


def faults_of(scene: str) -> list[tuple[str, str]]:
    """The kinds of calls of a scene, with the faults that they can meet."""
    found = [("disk", fault) for fault in DISK_FAULTS]
    if SCENES[scene].replica:
        # Without a network "take over" opens all the same, and then both sides are ahead: the conflict is right.
        found += [("request", fault) for fault in REQUEST_FAULTS if (scene, fault) != ("take over", "dead")]
    return found


# -- one attempt ------------------------------------------------------------------------------------------------------


def calm() -> None:
    """Make a process of the scenes: log files that are soon full, and versions that a copied replica keeps."""
    import logging
    import warnings

    import pyarrow  # noqa: F401

    import dreamlake.engine.logfile as logfile
    import dreamlake.engine.ondisk  # noqa: F401

    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)  # Arrow's own threads are no concern of a child
    logfile.FILE_LINES = 4
    plain._VERSION = ("size", "mtime")


class Stage:
    """A scene with what stands there before, in a folder that each attempt begins from anew."""

    def __init__(self, folder: str | Path, scene: str) -> None:
        self.name = scene
        self.scene = SCENES[scene]
        self.folder = f"{folder}/now"
        self._template = f"{folder}/template"
        self._promises = Promises()
        self._promises.may_wait = self.scene.trims or self.scene.prepare in (elsewhere, ahead)
        self._promises.one_machine = not self.scene.trims and self.scene.prepare is not elsewhere
        self._actor = Actor(self.folder, Direct(self._promises))
        os.makedirs(self.folder)
        self.scene.prepare(self._actor)
        if self.scene.prepare is elsewhere:
            self._promises.check(Lake(self._actor.url), "there")
            self._promises.settle(Lake(self._actor.url), moved=True)
        os.rename(self.folder, self._template)

    def begin(self) -> tuple[Promises, Actor]:
        """Put everything in its place; returns what was promised so far, and who goes on, without a teller."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self._template, self.folder, symlinks=True)
        tempfile.tempdir = self.folder
        promises = copy.deepcopy(self._promises)
        return promises, Actor(self.folder, Direct(promises), "b", self._actor.next, self._actor.known)

    def judge(self, promises: Promises) -> str:
        """Look at what is left as a reader, then as the next process; return what is wrong, or nothing."""
        try:
            look(self.folder, promises, self.scene)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__}: {error} [{frame.name}:{frame.lineno}]"
        return ""


def look(folder: str, promises: Promises, scene: Scene) -> None:
    """Hold what is left against what was promised; then go on, and hold it again."""
    actor = Actor(folder, Direct(promises), "n", promises.next_id + 1000)
    here, there = Lake(actor.root), Lake(actor.url)
    comes = scene.prepare in (elsewhere, ahead)  # what is here is known when it has come from the replica
    if scene.replica:
        promises.check(there, "there")
    if scene.trims:
        for kept in Path(folder).glob("dreamlake-*/"):
            finish(actor, str(kept / SESSION))
        promises.check(there, "there", whole=True)
        promises.settle(there)
    elif not comes:
        promises.check(here, "here")
        promises.settle(here)
        promises.compare()
    with actor.describe_session(replica=scene.replica, trims=scene.trims) as opened:
        opened.writer.clock.now = lambda: 5000.0  # a clock that was set back: stored counters have to hold
        if comes:
            opened.sync()
            here._store = opened.store()
            promises.check(here, "here")
            promises.settle(here)
        actor.known = {track: promises.targets(track) for track in (TRACK, SECOND)}
        _go_on(actor, opened)
        if not comes and not scene.trims:
            promises.check(here, "here")
        if scene.replica:
            actor.sync(opened)
            promises.check(there, "there", whole=True)
    _check_leftovers(actor)


def _go_on(actor: Actor, opened: Session) -> None:
    actor.points(opened, 1)
    for place in (0, -1) if actor.known[TRACK] else ():
        actor.late(opened, place)
    actor.points(opened, 1, explicit=True)
    actor.log(opened)
    actor.parameter(opened)
    actor.describe(opened)
    actor.flush(opened)


def _check_leftovers(actor: Actor) -> None:
    known = ("session.json", "parameters.json", "metadata.json", "data.jsonl", "logs.jsonl")
    for path in Path(actor.root).rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            assert path.name in known or path.suffix == ".parquet" or path.parent.name == "logs", path


# -- the sweep --------------------------------------------------------------------------------------------------------


def attempt(stage: Stage, kind: str, fault: str, when: int) -> tuple[int, list[str], str]:
    """Run a scene in a forked process that goes wrong at one call, or (0) at none.

    Returns its exit status, its calls if none went wrong, and what is wrong with what it left.
    """
    promises, actor = stage.begin()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_child(stage, actor, Teller(writing), kind, fault, when)
    os.close(writing)
    with open(reading, "rb") as pipe:
        lines = pipe.readlines()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls: list[str] = []
    if lines and lines[-1].startswith(b"["):
        calls = json.loads(lines.pop())
    promises.hear(lines)
    return status, calls, stage.judge(promises)


def _run_child(stage: Stage, actor: Actor, teller: Teller, kind: str, fault: str, when: int) -> None:
    """Act with the fault installed. Exit status 0: it was not asked for; 1: it came up and was dealt with."""
    try:
        actor.teller = teller
        counter: Any = Requests(when, fault)
        if kind == "disk":
            counter = crashlib.Seam(when, crashlib.FAULTS[fault][1])
        counter.install()

        def heal() -> None:
            counter.when = 0

        actor.heal = heal if fault in ("lost", "dead") else None
        stage.scene.act(actor, stage.scene.setup(actor))
        if not when:
            teller.say(counter.names)
            os._exit(0)
        os._exit(1)
    except BaseException:
        traceback.print_exc()
        os._exit(2)


def sweep(folder: str | Path, scene: str, stride: int = 1) -> tuple[dict[str, int], list[str]]:
    """Cut the scene off with every fault that it can meet, at every call that fits, or every `stride`-th of them.

    Returns how often it was cut off, by the kind of call and the fault, and what was found wrong.
    """
    calm()
    stage = Stage(folder, scene)
    wrong: list[str] = []
    cut_off: dict[str, int] = {}
    all_calls: dict[str, list[str]] = {}
    for kind, fault in faults_of(scene):
        if kind not in all_calls:
            status, all_calls[kind], problem = attempt(stage, kind, fault, 0)
            if status or problem:
                wrong.append(f"{scene}, not cut off at all (status {status}): {problem}")
        calls = all_calls[kind]
        fitting = FITTING[fault] if kind == "disk" else set(WRITES) if fault in ("done", "lost") else set(REQUESTS)
        places = [place for place, name in enumerate(calls, 1) if name in fitting][::stride]
        for when in places:
            status, _, problem = attempt(stage, kind, fault, when)
            # Threads of an upload take turns as they like: the last call need not come a second time.
            wanted = (STOPPED, 1) if stage.scene.replica or kind != "disk" else (STOPPED,)
            if problem or status not in wanted:
                wrong.append(f"{scene}: {fault} at {kind} call {when}, {calls[when - 1]} (status {status}): {problem}")
        cut_off[f"{kind} {fault}"] = len(places)
    shutil.rmtree(stage.folder, ignore_errors=True)
    return cut_off, wrong


def run_sweep(folder: Path, scene: str, stride: int) -> tuple[int, list[str]]:
    """`sweep` in a fresh interpreter, since it forks; returns how often the scene was cut off at all."""
    code = "import deaths, json, sys; print(json.dumps(deaths.sweep(sys.argv[1], sys.argv[2], int(sys.argv[3]))))"
    done = run_python(code, folder, scene, stride, timeout=300, PYTHONPATH=crashlib.PATH)
    cut_off, wrong = json.loads(done.stdout)
    return sum(cut_off.values()), wrong + [done.stderr] * bool(done.stderr.strip())
