"""Sudden death in scenes with more than points on one track: at the n-th disk call or request, then a look at the rest.

``crashlib`` does this for flush, roll and late fields. Here it is done for resumes, what is kept beside points, second
processes, and replicas; a death is told by what whoever is left finds, on both sides.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import crashlib
from actors import SECOND, TRACK, Actor, Direct
from crashlib import STOPPED
from promises import SESSION, Promises, Teller
from support import run_python

from dreamlake import Lake, Session
from dreamlake.storage import plain
from dreamlake.storage.remote import RemoteStore

OLD = 1000.0


class Scene(NamedTuple):
    """What stands there before, what is opened then, and what is done until it is cut off.

    Parameters
    ----------
    prepare
        Makes what stands there.
    setup
        Opens the session, if that is not what is cut off.
    act
        Does something with it, or (without `setup`) opens it.
    replica
        Whether the session has one.
    trims
        Whether the session keeps nothing here.
    """

    prepare: Callable[[Actor], None]
    setup: Callable[[Actor], Session | None]
    act: Callable[[Actor, Session | None], None]
    replica: bool = False
    trims: bool = False


# -- what stands there before -----------------------------------------------------------------------------------------


def _nothing(actor: Actor) -> None:
    pass


def _hot(actor: Actor) -> None:
    opened = actor.open()
    actor.points(opened, 4, explicit=True)
    actor.close(opened)


def _rolled(actor: Actor, count: int = 23, **options: Any) -> None:
    opened = actor.describe_session(**options)
    actor.points(opened, count, explicit=True)
    actor.points(opened, 3, track=SECOND)
    actor.describe(opened)
    actor.parameter(opened)
    for _ in range(3):
        actor.log(opened)
    actor.close(opened, bool(options))


def _synced(actor: Actor) -> None:
    _rolled(actor, replica=True)


def _behind(actor: Actor) -> None:
    _rolled(actor, replica=True)
    opened = actor.open()
    actor.points(opened, 32, explicit=True)
    actor.late(opened, 3)
    actor.log(opened)
    actor.close(opened)


def _long(actor: Actor) -> None:
    _rolled(actor, 83)


def _very_long(actor: Actor, **options: Any) -> None:
    _rolled(actor, 123, **options)


def _elsewhere(actor: Actor) -> None:
    """Another machine made the session; nothing is here."""
    _rolled(actor, 43, replica=True)
    shutil.rmtree(actor.root)


def _ahead(actor: Actor) -> None:
    """Another machine has gone on; what is here is older."""
    _rolled(actor, 25, replica=True)
    kept = f"{actor.folder}/kept"
    shutil.copytree(actor.root, kept)
    opened = actor.open(replica=True)
    actor.points(opened, 31, explicit=True)
    actor.late(opened, 3)
    actor.close(opened, True)
    shutil.rmtree(actor.root)
    os.rename(kept, actor.root)


def _left_over(actor: Actor) -> None:
    """What a crash leaves, and what is swept a minute later."""
    _rolled(actor)
    opened = actor.open()
    for place in (1, 2, 12, 13):
        actor.late(opened, place)
        actor.flush(opened)
    actor.close(opened)
    folder = Path(actor.session_folder)
    track = folder / "tracks" / "a" / "b"
    for path in (folder / ".tmp-1-2", track / ".tmp-3-4"):
        path.write_bytes(b"half")
    for path in [folder / ".tmp-1-2", *track.iterdir()]:
        os.utime(path, (OLD, OLD))
    for path, torn in ((track / "data.jsonl", b'{"index":23,"da'), (folder / "logs/logs.jsonl", b'{"sequenceNu')):
        with path.open("ab") as file:
            file.write(torn)


# -- what is done -----------------------------------------------------------------------------------------------------


def _go_on(actor: Actor, session: Session | None) -> None:
    opened = session or actor.open()
    actor.points(opened, 2)
    if actor.known.get(TRACK):
        actor.late(opened, 0)
        actor.late(opened, -1)
    actor.log(opened)
    actor.flush(opened)
    actor.points(opened, 9, explicit=True)
    actor.flush(opened, TRACK)
    actor.close(opened)


def _describe(actor: Actor, session: Session | None, fsync: bool = False) -> None:
    opened = session or actor.describe_session(fsync=fsync)
    actor.describe(opened)
    actor.points(opened, 1, track="new")
    actor.parameter(opened)
    actor.flush(opened)
    for _ in range(3):
        actor.describe(opened, "bare")
        actor.parameter(opened)
        actor.flush(opened)
    actor.close(opened)
    actor.close(actor.describe_session(fsync=fsync))


def _log(actor: Actor, session: Session | None, fsync: bool = False) -> None:
    opened = session or actor.open(fsync=fsync)
    for count in (1, 5, 2, 4):
        for _ in range(count):
            actor.log(opened)
        actor.flush(opened)
    actor.close(opened)


def _rewrite(actor: Actor, session: Session | None) -> None:
    """So many fields are added one by one that the hot file is written anew."""
    assert session is not None
    for place in (0, 1, 2, 3, 0, 1, 2, 3):
        actor.late(session, place)
    actor.flush(session)
    for place in (2, 3):
        actor.late(session, place)
        actor.flush(session)


def _batches(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.points(session, 2)
    assert actor.batch(session, [actor.fields(False, TRACK) for _ in range(33)])
    assert actor.batch(session, [actor.fields(True, TRACK) for _ in range(4)])
    actor.close(session)


def _compact(actor: Actor, session: Session | None) -> None:
    """Segments become a wide one, which gets a field; their parts are swept, as they are a minute later."""
    assert session is not None
    actor.points(session, 2)
    actor.compact(session)
    actor.late(session, 3)
    actor.flush(session)
    track = Path(actor.session_folder, "tracks", "a", "b")
    for path in track.iterdir():
        os.utime(path, (OLD, OLD))
    actor.compact(session)


def _compact_and_sync(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.compact(session)
    actor.sync(session)
    actor.late(session, 3)
    actor.sync(session)


def _second_process(actor: Actor, session: Session | None) -> None:
    """Another process writes between the flushes of this one: rolls, late fields, the log."""
    assert session is not None
    actor.points(session, 3, explicit=True)
    actor.flush(session)
    for turn in range(2):
        pid = os.fork()
        if pid == 0:
            _other(actor, session, turn)
        assert os.waitpid(pid, 0)[1] == 0
        actor.next += 100
        actor.points(session, 4, explicit=True)
        actor.late(session, 0)
        actor.log(session)
        actor.flush(session)
    actor.close(session)


def _other(actor: Actor, session: Session, turn: int) -> None:
    crashlib.local.os_ = crashlib.lock.os_ = os  # type: ignore[assignment]
    try:
        other = Actor(actor.folder, actor.teller, f"z{turn}", actor.next, actor.known)
        other.points(session, 9, explicit=True)
        other.late(session, 0)
        other.late(session, -1)
        other.log(session)
        other.flush(session)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _sync(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.points(session, 14, explicit=True)
    actor.late(session, 0)
    actor.parameter(session)
    actor.describe(session)
    actor.log(session)
    actor.flush(session)
    actor.sync(session)
    actor.points(session, 2)
    actor.points(session, 1, track=SECOND)
    actor.sync(session)


def _sync_and_close(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.points(session, 2)
    actor.close(session, True)


def _come_here(actor: Actor, session: Session | None) -> None:
    opened = session or actor.open(replica=True)
    actor.points(opened, 8, explicit=True)
    actor.flush(opened)
    actor.close(opened, True)


def _late_for_away(actor: Actor, session: Session | None) -> None:
    """Fields for segments that are on the replica only: they wait, are merged, and are sent."""
    assert session is not None
    actor.points(session, 3, explicit=True)
    for place in (2, 12, 2, -1):
        actor.late(session, place)
    actor.flush(session)
    actor.sync(session)


def _command(actor: Actor, session: Session | None) -> None:
    """`dreamlake sync`, for a run that was killed."""
    actor.again(partial(finish, actor))
    actor.teller.acknowledge("sync", actor.name)


def _trimmed(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.points(session, 25, explicit=True)
    actor.points(session, 2, track=SECOND)
    actor.sync(session)
    actor.late(session, 2)
    actor.late(session, 13)
    actor.points(session, 6, explicit=True)
    actor.log(session)
    actor.flush(session)
    actor.sync(session)
    actor.points(session, 3)
    actor.close(session, True)


def _opened(actor: Actor, **options: Any) -> Session:
    return actor.open(**options)


def _none(actor: Actor) -> None:
    return None


_with_replica = partial(_opened, replica=True)

SCENES: dict[str, Scene] = {
    "create": Scene(_nothing, _none, _describe),
    "first flush": Scene(_nothing, _opened, _describe),
    "rewrite": Scene(_hot, _opened, _rewrite),
    "batches": Scene(_hot, _opened, _batches),
    "compact": Scene(_very_long, _opened, _compact),
    "resume": Scene(_left_over, _none, _go_on),
    "first flush after a crash": Scene(_left_over, _opened, _go_on),
    "describe": Scene(_rolled, _opened, _describe),
    "describe, fsync": Scene(_rolled, partial(_opened, fsync=True), partial(_describe, fsync=True)),
    "log": Scene(_rolled, _opened, _log),
    "log, fsync": Scene(_rolled, partial(_opened, fsync=True), partial(_log, fsync=True)),
    "second process": Scene(_rolled, _opened, _second_process),
    "sync": Scene(_synced, _with_replica, _sync, replica=True),
    "first sync": Scene(_long, _with_replica, _sync, replica=True),
    "sync at close": Scene(_synced, _with_replica, _sync_and_close, replica=True),
    "compact, sync": Scene(partial(_very_long, replica=True), _with_replica, _compact_and_sync, replica=True),
    "sync command": Scene(_behind, _none, _command, replica=True),
    "adopt": Scene(_elsewhere, _none, _come_here, replica=True),
    "take over": Scene(_ahead, _none, _come_here, replica=True),
    "late for away": Scene(_elsewhere, _with_replica, _late_for_away, replica=True),
    "keep nothing": Scene(_nothing, partial(_opened, trims=True), _trimmed, replica=True, trims=True),
}


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

    import pyarrow  # noqa: F401

    import dreamlake.engine.logfile as logfile
    import dreamlake.engine.ondisk  # noqa: F401

    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
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
        self._promises.may_wait = self.scene.trims or self.scene.prepare in (_elsewhere, _ahead)
        self._promises.one_machine = not self.scene.trims and self.scene.prepare is not _elsewhere
        self._actor = Actor(self.folder, Direct(self._promises))
        os.makedirs(self.folder)
        self.scene.prepare(self._actor)
        if self.scene.prepare is _elsewhere:
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
    comes = scene.prepare in (_elsewhere, _ahead)  # what is here is known when it has come from the replica
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
        _go_on_after(actor, opened)
        if not comes and not scene.trims:
            promises.check(here, "here")
        if scene.replica:
            actor.sync(opened)
            promises.check(there, "there", whole=True)
    _check_leftovers(actor)


def _go_on_after(actor: Actor, opened: Session) -> None:
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


def finish(actor: Actor, folder: str | None = None) -> None:
    """Do what `dreamlake sync` does, a minute after the run was killed."""
    from dreamlake.engine.replica.sync import sync_folder

    folder = folder or actor.session_folder
    if not os.path.exists(f"{folder}/session.json"):
        return
    old = time.time() - 200
    if os.path.exists(f"{folder}/.lock"):
        os.utime(f"{folder}/.lock", (old, old))
    store = RemoteStore(actor.url)
    outcome = sync_folder(folder, SESSION, store)
    store.close()
    for _, error in outcome.failures:
        raise error
    assert not outcome.conflicts, outcome.conflicts
    assert outcome.complete, outcome


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


def sweep(folder: str | Path, scene: str, kind: str, fault: str, stride: int = 1) -> tuple[int, list[str]]:
    """Cut the scene off at every call that the fault fits, or every `stride`-th of them.

    Returns how often it was cut off, and what was found wrong.
    """
    calm()
    stage = Stage(folder, scene)
    wrong: list[str] = []
    status, calls, problem = attempt(stage, kind, fault, 0)
    if status or problem:
        wrong.append(f"{scene}, not cut off at all (status {status}): {problem}")
    fitting = FITTING[fault] if kind == "disk" else set(WRITES) if fault in ("done", "lost") else set(REQUESTS)
    places = [place for place, name in enumerate(calls, 1) if name in fitting][::stride]
    for when in places:
        status, _, problem = attempt(stage, kind, fault, when)
        # Threads of an upload take turns as they like: the last call need not come a second time.
        wanted = (STOPPED, 1) if stage.scene.replica or kind != "disk" else (STOPPED,)
        if problem or status not in wanted:
            wrong.append(f"{scene}: {fault} at {kind} call {when}, {calls[when - 1]} (status {status}): {problem}")
    shutil.rmtree(stage.folder, ignore_errors=True)
    return len(places), wrong


def run_sweeps(folder: Path, scene: str, stride: int) -> tuple[int, list[str]]:
    """`sweep` with every fault that the scene can meet, in a fresh interpreter, since it forks."""
    code = "import deaths, json, sys; print(json.dumps(deaths.sweep_all(*sys.argv[1:])))"
    done = run_python(code, folder, scene, stride, timeout=300, PYTHONPATH=crashlib.PATH)
    cut_off, wrong = json.loads(done.stdout)
    return cut_off, wrong + [done.stderr] * bool(done.stderr.strip())


def sweep_all(folder: str, scene: str, stride: str) -> tuple[int, list[str]]:
    """See `run_sweeps`."""
    total, bad = 0, []
    for number, (kind, fault) in enumerate(faults_of(scene)):
        cut_off, wrong = sweep(f"{folder}/{number}", scene, kind, fault, int(stride))
        total += cut_off
        bad += wrong
    return total, bad
