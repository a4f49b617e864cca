"""Scenes for the power cuts of `powerloss`, and the look at what a cut has left."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import crashlib
from crashlib import NAME, TRACK, WORKSPACE, Plan
from powerloss import THERE, Mark, Recorder, Sample, State, put_replica, write_down

import dreamlake.engine.repair as repairing
import dreamlake.engine.replica.pace as pace
from dreamlake import Lake, Session
from dreamlake.engine.overlay import OverlayStore
from dreamlake.engine.repair import Report, repair_session
from dreamlake.errors import CorruptTrackError, RemoteConflictError, SessionNotFoundError, TrackNotFoundError
from dreamlake.lake import SessionView
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore

OTHER = "c"
#: Records of a log file before it is put aside.
LOG_LINES = 2
WITH_REPLICA: dict[str, Any] = {"remote": THERE, "sync_interval": 3600.0}


class Scene(crashlib.Scene):
    """A scene of `crashlib` whose acknowledgements note what they have read."""

    def __init__(self, root: str, plan: Plan, fsync: bool, replica: bool = False) -> None:
        super().__init__(root, plan, lambda count: self.acknowledge(), retry=True)
        self.fsync = fsync
        self.has_replica = replica
        self.recorder: Recorder | None = None
        #: The points that the replica holds, by track, and its parameters.
        self.synced: dict[str, list[dict[str, Any]]] = {}
        self.parameters: dict[str, Any] = {}
        #: Whether nothing of the session was on this disk at first: what came here is safe elsewhere.
        self.is_adopted = False

    def open(self, trims: bool = False, **options: Any) -> Session:
        """Open the session as the scene wants it; `trims`: segments that are on the replica are dropped."""
        options = {**options, "fsync": self.fsync or options.get("fsync", False)}
        opened = crashlib.session(self.root, **options, **(WITH_REPLICA if self.has_replica else {}))
        _until_it_works(opened.open)
        if trims:
            opened.writer.replica.trims = True  # type: ignore[union-attr]
        return opened

    def flush(self, session: Session) -> None:
        """Flush, again and again where the disk fails, as a training script does."""
        _until_it_works(session.flush)
        self.acknowledge()

    def sync(self, session: Session) -> None:
        """Bring the replica up to date: what it holds then is safe, whatever becomes of this disk."""
        _until_it_works(session.sync)
        self.acknowledge(synced=True)

    def acknowledge(self, synced: bool = False, damaged: bool = False) -> None:
        """Note what is there now: with ``fsync=True`` all of it must last, else what is in segments, or synced.

        Where a file is `damaged` nothing was written yet, so that all that can be read round the damage must last.
        """
        if self.recorder is None:
            return
        points = {}
        run = view(self.root, self.has_replica)
        for name in run.tracks.list() if Path(self.root, WORKSPACE, NAME, "session.json").exists() else ():
            track = run.track(name)
            found = [row["data"] for row in track.read(limit=None, errors="skip" if damaged else "raise")["data"]]
            points[name] = (found, len(found) if self.fsync or damaged else track.stats()["chunkedDataPoints"])
        told = others(self.root, self.has_replica) if self.fsync and points and not damaged else {}
        if not self.has_replica:
            self.recorder.mark(points, told)
            return
        flushed = {name: self._with_waiting(name, found) for name, (found, _) in points.items()}
        if synced:
            self.learn_replica()
            self.synced = flushed
        settled = {name: (found, len(found)) for name, found in self.synced.items()}
        for name, (found, required) in points.items():
            settled[name] = (flushed[name], len(flushed[name])) if self.fsync else self._surely(name, found, required)
            if self.is_adopted and not self.fsync and required <= len(self.synced.get(name, [])):
                points[name] = (found, 0)
        flushed = {**self.synced, **flushed}
        self.recorder.mark(points, told, settled=settled, flushed=flushed, parameters=self.parameters)

    def learn_replica(self) -> None:
        """Look at what the replica holds."""
        try:
            there = Lake(THERE).session(NAME, WORKSPACE)
        except SessionNotFoundError:
            return
        self.parameters = there.parameters().get()
        for name in there.tracks.list():
            self.synced[name] = [row["data"] for row in there.track(name).read(limit=None)["data"]]

    def _with_waiting(self, name: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The points with the fields that wait for segments which are away."""
        if name != TRACK:
            return found
        points = {point["_ts"]: dict(point) for point in found}
        for fields in self.plan.ops:
            if "id" not in fields:
                points[fields["_ts"]].update(fields)
        return list(points.values())

    def _surely(self, name: str, found: list[dict[str, Any]], required: int) -> tuple[list[dict[str, Any]], int]:
        """The points as the replica, or a segment here, holds them; and how many either does."""
        base = self.synced.get(name, [])
        segments = [{**one, **other} for one, other in zip(base, found[:required], strict=False)]
        points = [*segments, *found[len(segments) : required], *base[required:], *found[max(required, len(base)) :]]
        return points, max(required, len(base))

    def close(self, session: Session) -> None:
        """Close the session, which says how it ended."""
        _until_it_works(session.close)
        self.acknowledge()


def view(root: str | Path, replica: bool) -> SessionView:
    """The session as a reader of this disk sees it, who asks the replica for what is only there."""
    if not replica:
        return Lake(root).session(NAME, WORKSPACE)
    return SessionView(OverlayStore(LocalStore(root), partial(RemoteStore, THERE)), WORKSPACE, NAME)  # type: ignore[arg-type]


def _until_it_works(work: Callable[[], Any]) -> None:
    for _ in range(8):
        try:
            work()
            return
        except OSError as error:
            last = error
    raise last


def others(root: str | Path, replica: bool = False) -> dict[str, Any]:
    """The log, the parameters and what session.json says; each as it is stored."""
    folder = Path(root, WORKSPACE, NAME)
    run = Lake(root).session(NAME, WORKSPACE)
    messages = []
    files = sorted((path for path in (folder / "logs").glob("[0-9]*.jsonl")), key=lambda path: int(path.stem))
    for path in [*files, folder / "logs" / "logs.jsonl"]:
        data = path.read_bytes() if path.exists() else b""
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
            if not _is_json(line):
                raise CorruptTrackError(str(path), f"line {number}")
            messages.append(json.loads(line))
    assert [each["sequenceNumber"] for each in messages] == list(range(len(messages))), "numbers of the log"
    said = {name: run.info.get(name) for name in ("description", "tags", "metadata", "createdAt", "status")}
    about = view(root, replica)
    tracks = {name: about.track(name).stats()["metadata"] for name in about.tracks.list()}
    return {"log": messages, "parameters": run.parameters().get(), "said": said, "tracks": tracks}


# -- scenes ------------------------------------------------------------------------------------------------------------


def _everything(scene: Scene) -> None:
    import dreamlake.engine.logfile as logfile

    lines, logfile.FILE_LINES = logfile.FILE_LINES, LOG_LINES
    try:
        opened = scene.open(description="d", tags=["x"], metadata={"a": 1})
        _until_it_works(lambda: opened.parameters().set(lr=0.1, model={"depth": 3}))
        scene.acknowledge()
        for number in range(4):
            opened.log(f"message {number}", metadata={"number": number})
            opened.track(OTHER, metadata={f"key{number}": number}).append(id=number, text="x" * 300 * number)
            scene.append(opened, 4, explicit=True)
            opened.log("more")
            scene.flush(opened)
            if number == 2:
                _until_it_works(lambda: opened.parameters().set(lr=0.2))
                scene.acknowledge()
        scene.late(opened, 3)
        scene.flush(opened)
        scene.close(opened)
    finally:
        logfile.FILE_LINES = lines


def _resume(scene: Scene) -> None:
    for count in (3, 9, 2):
        opened = scene.open(metadata={"count": count})
        scene.append(opened, count, explicit=True)
        scene.flush(opened)
        scene.close(opened)


def _rewrite(scene: Scene) -> None:
    opened = scene.open()
    for number in (1, 2, 3, 4, 5, 6, 1, 2, 3):
        scene.late(opened, number)
        scene.flush(opened)
    scene.append(opened, 1)
    scene.flush(opened)
    scene.close(opened)


def _torn_before(scene: Scene) -> None:
    crashlib.SCENES["flush"][0](scene)
    with (crashlib.track_folder(scene.root) / "data.jsonl").open("ab") as file:
        file.write(b'{"index":7,"data":{"id":7,"v"')


def _torn(scene: Scene) -> None:
    opened = scene.open()
    scene.append(opened, 1)
    scene.flush(opened)
    scene.close(opened)


def _large(scene: Scene) -> None:
    """Lines that reach over many sectors."""
    opened = scene.open(segment_points=40)
    for count in (5, 30, 12):
        for _ in range(count):
            fields = scene.plan.new(1000.0 + len(scene.plan.ops))
            opened.track(TRACK).append(**fields, long=f"{fields['id']:<150}")
        scene.flush(opened)
    scene.late(opened, 43)
    scene.flush(opened)
    scene.close(opened)


def _synced_later(scene: Scene) -> None:
    """A session that was not to be synced is resumed by one that is."""
    wanted, scene.fsync = scene.fsync, False
    opened = scene.open()
    opened.log("first")
    scene.append(opened, 3, explicit=True)
    scene.flush(opened)
    scene.close(opened)
    scene.fsync = wanted
    opened = scene.open()
    opened.log("second")
    scene.append(opened, 2, explicit=True)
    scene.flush(opened)
    scene.append(opened, 9, explicit=True)
    scene.flush(opened)
    scene.close(opened)


def _beside(scene: Scene) -> None:
    """What another process wrote unsynced is under the lines of one that syncs."""
    import dreamlake.engine.lifecycle as lifecycle

    opened = scene.open()
    opened.track(TRACK, metadata={"unit": "m"})
    scene.flush(opened)
    mine, lifecycle._process = lifecycle._process, lifecycle._Process()
    other = crashlib.session(scene.root)
    _until_it_works(other.open)
    other.track(TRACK).append(**scene.plan.new()).append(**scene.plan.new())
    _until_it_works(other.close)
    lifecycle._process = mine
    scene.append(opened, 2)
    scene.flush(opened)
    scene.close(opened)


def _segments_before(scene: Scene) -> None:
    opened = scene.open()
    opened.track(TRACK).append_batch([scene.plan.new(1000.0 + number) for number in range(104)])
    scene.close(opened)


def _compact(scene: Scene) -> None:
    """Segments become one, which gets a field; their parts are swept, as they are a minute later."""
    opened = scene.open()
    scene.append(opened, 2)
    scene.late(opened, 3)
    scene.flush(opened)
    _until_it_works(opened.track(TRACK).compact)
    scene.acknowledge()
    scene.late(opened, 55)
    scene.flush(opened)
    _age(scene)
    _until_it_works(opened.track(TRACK).compact)
    scene.acknowledge()
    scene.append(opened, 8)
    scene.flush(opened)
    scene.close(opened)


def _compact_and_sweep(scene: Scene) -> None:
    """The parts are swept by a session that comes later."""
    opened = scene.open()
    _until_it_works(opened.track(TRACK).compact)
    scene.acknowledge()
    scene.close(opened)
    _age(scene)
    opened = scene.open()
    scene.late(opened, 55)
    scene.late(opened, 103)
    scene.flush(opened)
    scene.close(opened)


def _age(scene: Scene) -> None:
    for path in crashlib.track_folder(scene.root).iterdir():
        os.utime(path, (1000.0, 1000.0))


def _synced_before(scene: Scene, count: int = 34) -> None:
    opened = scene.open(description="d")
    scene.append(opened, count, explicit=True)
    opened.track(OTHER, metadata={"unit": "m"}).append(id=-2, text="x")
    opened.parameters().set(lr=0.1)
    opened.close()


def _elsewhere(scene: Scene) -> None:
    """Another machine made the session; nothing is here."""
    _synced_before(scene, 43)
    shutil.rmtree(Path(scene.root, WORKSPACE))


def _ahead(scene: Scene) -> None:
    """Another machine has gone on; what is here is older."""
    _synced_before(scene, 25)
    here, kept = Path(scene.root, WORKSPACE), Path(scene.root, "kept")
    shutil.copytree(here, kept)
    opened = scene.open()
    scene.append(opened, 21, explicit=True)
    scene.late(opened, 3)
    opened.close()
    shutil.rmtree(here)
    kept.rename(here)


def _first_sync(scene: Scene) -> None:
    """A session and its replica begin; a roll comes late."""
    opened = scene.open(description="d")
    _until_it_works(lambda: opened.parameters().set(lr=0.1))
    scene.append(opened, 4, explicit=True)
    opened.track(OTHER, metadata={"unit": "m"}).append(id=-2)
    scene.flush(opened)
    scene.sync(opened)
    scene.append(opened, 3)
    _until_it_works(lambda: opened.parameters().set(model="m"))
    scene.flush(opened)
    scene.sync(opened)
    scene.append(opened, 7)
    scene.flush(opened)
    scene.close(opened)


def _newest(scene: Scene, session: Session, number: int) -> None:
    """Set a field of the point of this number that was set before, perhaps."""
    fields = {"newest": len(scene.plan.ops), "_ts": scene.plan.ops[number]["_ts"]}
    scene.plan.ops.append(fields)
    session.track(TRACK).append(**fields)


def _drop(scene: Scene) -> None:
    """Segments go away as soon as they are on the replica, new generations of them too."""
    opened = scene.open(trims=True)
    scene.append(opened, 3, explicit=True)
    scene.flush(opened)
    scene.sync(opened)
    scene.append(opened, 16, explicit=True)
    scene.flush(opened)
    scene.late(opened, 45)  # of a segment that is here
    scene.flush(opened)
    scene.sync(opened)
    scene.append(opened, 1)
    scene.flush(opened)
    scene.close(opened)


def _dropped_before(scene: Scene) -> None:
    _synced_before(scene)
    opened = scene.open(trims=True)
    opened.sync()
    opened.close()


def _late_for_away(scene: Scene) -> None:
    """Fields for points that are only on the replica wait, are merged into what is fetched, and that is sent."""
    opened = scene.open()
    for number in (2, 12, 33):
        _newest(scene, opened, number)
    scene.flush(opened)
    _newest(scene, opened, 2)
    scene.late(opened, 13)
    scene.append(opened, 2, explicit=True)
    scene.flush(opened)
    scene.sync(opened)
    _newest(scene, opened, 2)
    scene.flush(opened)
    scene.close(opened)


def _late_and_drop(scene: Scene) -> None:
    """What waited is merged, sent, and goes away again."""
    opened = scene.open(trims=True)
    for number in (2, 12):
        _newest(scene, opened, number)
    scene.append(opened, 9, explicit=True)
    scene.flush(opened)
    scene.sync(opened)
    _newest(scene, opened, 2)
    scene.flush(opened)
    scene.sync(opened)
    scene.close(opened)


def _come_here(scene: Scene) -> None:
    """What the replica is ahead in comes here, its fields are added to, and it goes on."""
    opened = scene.open()
    scene.acknowledge()
    scene.append(opened, 8, explicit=True)
    _newest(scene, opened, 3)
    scene.late(opened, 13)
    scene.flush(opened)
    scene.sync(opened)
    _newest(scene, opened, 3)
    scene.append(opened, 1)
    scene.flush(opened)
    scene.close(opened)


def _long_lines(scene: Scene) -> None:
    """Segments, and behind them lines over many sectors, of points and of fields."""
    opened = scene.open()
    for count in (4, 6, 7):
        for _ in range(count):
            fields = scene.plan.new(1000.0 + len(scene.plan.ops))
            opened.track(TRACK).append(**fields, long=f"{fields['id']:<290}")
        scene.flush(opened)
        scene.late(opened, 33)
        scene.late(opened, len(scene.plan.ops) - 2)
        scene.flush(opened)
    scene.close(opened)


def _damaged_before(scene: Scene) -> None:
    """A line that is none is between those of points, and a torn one behind them."""
    crashlib.SCENES["late"][0](scene)
    path = crashlib.track_folder(scene.root) / "data.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"no line\n", *lines[2:], b'{"index":']))


def _mend(scene: Scene) -> None:
    """A repair, after which the session goes on."""
    scene.acknowledge(damaged=True)

    def mend() -> None:
        report = repair_session(scene.root, f"{WORKSPACE}/{NAME}")
        for _, error in report.failures:
            raise error
        assert report.is_clean

    _until_it_works(mend)
    scene.acknowledge()
    opened = scene.open()
    scene.append(opened, 2)
    scene.late(opened, 32)
    scene.flush(opened)
    scene.close(opened)


#: What stands there before, and lasts, and what is done then.
SCENES: dict[str, tuple[Callable[[Any], None], Callable[[Any], None]]] = {
    **{name: crashlib.SCENES[name] for name in ("begin", "flush", "roll", "roll many", "late", "batches")},
    "rewrite": (crashlib.SCENES["rewrite"][0], _rewrite),
    "everything": (lambda scene: None, _everything),
    "resume": (lambda scene: None, _resume),
    "torn": (_torn_before, _torn),
    "large": (lambda scene: None, _large),
    "synced later": (lambda scene: None, _synced_later),
    "beside": (lambda scene: None, _beside),
    "compact": (_segments_before, _compact),
    "compact and sweep": (_segments_before, _compact_and_sweep),
    "first sync": (lambda scene: None, _first_sync),
    "drop": (_synced_before, _drop),
    "late for away": (_dropped_before, _late_for_away),
    "late and drop": (_dropped_before, _late_and_drop),
    "adopt": (_elsewhere, _come_here),
    "take over": (_ahead, _come_here),
    "repair": (crashlib.SCENES["late"][0], _long_lines),
    "mend": (_damaged_before, _mend),
}
#: Those with a replica; of these, those whose segments go away once they are there.
REPLICAS = {"first sync", "drop", "late for away", "late and drop", "adopt", "take over"}
TRIMS = {"drop", "late and drop"}
#: Whatever is left of these is repaired first, damaged or not.
REPAIRS = {"repair"}


def record(folder: Path, scene: str, fsync: bool, failing: tuple[int, ...] = ()) -> Recorder:
    """Play a scene in `folder`, and write down what it does to the disk."""
    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    root = Path(tempfile.mkdtemp(prefix="recorded-", dir=folder))
    prepare, act = SCENES[scene]
    put_replica({})
    playing = Scene(str(root), Plan(), fsync, scene in REPLICAS)
    with mock.patch.object(pace, "BREATH", 3600.0):
        prepare(playing)
        playing.learn_replica()
        playing.is_adopted = not (root / WORKSPACE / NAME).exists()
        with Recorder(root, failing, scene) as recorder:
            playing.recorder = recorder
            if playing.has_replica:
                playing.acknowledge()
            act(playing)
    shutil.rmtree(root)
    return recorder


def _again(scene: Scene) -> None:
    """What a script does that is started again: it goes on, rolls, and adds to a point from before."""
    opened = scene.open()
    track = opened.track(TRACK)
    for number, count in enumerate((2, 9, 3)):
        for each in range(count):
            track.append(id=AGAIN + 10 * number + each, v=each / 7)
        scene.flush(opened)
    track.append(late=1, _ts=track.read(limit=1)["data"][0]["data"]["_ts"])
    opened.log("again")
    scene.flush(opened)
    scene.close(opened)


#: Where the numbers of points begin that were appended after a cut.
AGAIN = 10_000


def record_again(folder: Path, scene: str, state: State, fsync: bool) -> Recorder | None:
    """Start again on what a cut left, and write down what that does; None where it takes a repair first.

    All that can be read at first counts as acknowledged: it has come through a cut, so it was on the disk.
    """
    root = Path(tempfile.mkdtemp(prefix="again-", dir=folder))
    write_down(state, root)
    put_replica({})
    playing = Scene(str(root), Plan(), fsync)
    try:
        with Recorder(root, scene=f"{scene}, again") as recorder:
            playing.recorder = recorder
            playing.acknowledge()
            _again(playing)
    except (CorruptTrackError, SessionNotFoundError):
        return None
    finally:
        shutil.rmtree(root)
    return recorder


# -- what is left ------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What was found: ``whole``; ``opened``, ``repaired`` or ``given up``, which it took; ``wrong``, and what is."""

    how: str
    detail: str = ""


def judge(folder: Path, recorder: Recorder, sample: Sample) -> Seen:
    """Look at one state as a reader, as the next writer, and as a reader again. What is wrong stays in `folder`."""
    root = Path(tempfile.mkdtemp(prefix=sample.seed.replace("/", "-").replace(" ", "_") + "-", dir=folder))
    write_down(sample.state, root)
    put_replica(sample.replica)
    try:
        with mock.patch.object(pace, "BREATH", 3600.0):
            seen = _Look(root, recorder, sample.place).run()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Seen("wrong", f"{type(error).__name__}: {error} [{frame.name}:{frame.lineno}] in {root}")
    shutil.rmtree(root)
    return seen


class _Look:
    """One look at one state."""

    def __init__(self, root: Path, recorder: Recorder, place: int) -> None:
        self.root = root
        self.has_replica = recorder.scene in REPLICAS
        self.trims = recorder.scene in TRIMS
        self.repairs_all = recorder.scene in REPAIRS
        told = [mark for mark in recorder.marks if mark.place <= place]
        #: What must be there, and what may be.
        self.mark = told[-1] if told else Mark(0, {}, {})
        later = [mark for mark in recorder.marks if mark.place > place]
        self.may = [self.mark, *later]
        #: Forms of points that must not be there any more, and may.
        self.before = told[:-1]
        #: Whether it was repaired, so that points that were not acknowledged may lack fields.
        self.repaired = False
        #: Whether points that were not acknowledged were given up between others.
        self.gave_up = False
        #: The session that was last resumed.
        self.resumed: Session | None = None

    def run(self) -> Seen:
        how = "whole"
        before = None
        try:
            before = self.read()
            self.hold_others()
        except (CorruptTrackError, SessionNotFoundError) as error:
            self.excuse(error)
            how = "opened"
        if self.repairs_all:
            self.mend(is_whole=how == "whole")
            how = "given up" if self.gave_up else "repaired" if self.repaired else how
        try:
            self.go_on(before)
        except (CorruptTrackError, RemoteConflictError) as error:
            if isinstance(error, RemoteConflictError) and "cannot be compared" not in str(error):
                raise  # of damage here it says that; else there is one machine only
            self.may_be_mended(how, error)
            self.mend()
            how = "given up" if self.gave_up else "repaired"
            if self.resumed is not None:  # it stays open where it could not write all at its end
                self.resumed.close()
            self.go_on(before)
        return Seen(how)

    def may_be_mended(self, how: str, error: Exception) -> None:
        """Whatever keeps a session from being opened was told to a reader, or is what no reader of points looks at."""
        path = str(error).split(" is damaged")[0]
        unread = path.endswith(".late.jsonl") or (path.endswith("parameters.json") and not self.mark.others)
        if how != "opened" and not unread:
            raise AssertionError(f"it could be read, and not be written to: {error}") from error

    def mend(self, is_whole: bool = False) -> None:
        """Repair it without giving anything up; only where that is refused, and says so, give up what is lost.

        Whatever could be read round the damage before can be read after either. After a repair that gives nothing up
        the indices are those of a beginning of the track.
        """
        held = self.readable()
        report = self.repair(give_up=False)
        self.keeps(held)
        for _, error in report.failures:
            raise error
        refused = [step for step in report.steps if step.refused]
        assert not (is_whole and refused), refused
        assert all(step.gives_up and not step.done for step in refused), refused
        assert not any(step.gives_up and step.done for step in report.steps), report.steps
        assert report.is_clean == (not refused), (report.findings, refused)
        self.repaired = bool(report.steps)
        if refused:
            self.gave_up = True
            report = self.repair(give_up=True)
            assert report.is_clean, (report.failures, report.findings)
            self.keeps(held)

    def repair(self, give_up: bool) -> Report:
        """What `dreamlake repair` does, with `--remote` where there is a replica."""
        remote = RemoteStore(THERE) if self.has_replica else None
        return repairing.repair_session(str(self.root), f"{WORKSPACE}/{NAME}", remote=remote, give_up_lost=give_up)

    def readable(self) -> dict[str, dict[int, dict[str, Any]]]:
        """The points that can be read round damage, by track."""
        run = SessionView(self.view_store(), WORKSPACE, NAME)
        found = {}
        for name in sorted({*self.mark.points, TRACK}):
            found[name] = _points(run.track(name), errors="skip")
        return found

    def view_store(self) -> Any:
        """This disk as its own readers see it."""
        store = LocalStore(self.root)
        return OverlayStore(store, partial(RemoteStore, THERE)) if self.has_replica else store

    def keeps(self, held: dict[str, dict[int, dict[str, Any]]]) -> None:
        """Hold what can be read now against what could be before."""
        for name, found in self.readable().items():
            for index, point in held[name].items():
                assert index in found, f"the repair lost the point {index} of {name}"
                assert point.items() <= found[index].items(), f"the repair changed {point} to {found[index]}"

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, before: dict[str, int] | None = None, again: bool = False) -> dict[str, int]:
        """Hold the points of all tracks against what must and may be there; return how many there are of each.

        Parameters
        ----------
        before
            How many there have been, if that is known.
        again
            Whether points were appended since.
        """
        Lake(self.root).session(NAME, WORKSPACE)
        run = view(self.root, self.has_replica)
        counts = self.hold_all(run, run.tracks.list(), again)
        for name, count in counts.items() if before is not None else ():
            was = before.get(name, 0) if before is not None else 0
            # The replica may have had more than this disk.
            assert was == count or (self.has_replica and was < count), f"{name} had {was} points, now {count}"
        return counts

    def hold_all(self, run: SessionView, names: Collection[str], again: bool) -> dict[str, int]:
        """Hold all tracks of a view; see `read`."""
        counts = {}
        is_settled = again and self.mark.settled is not None
        must = (self.mark.settled if is_settled else None) or self.mark.points
        for name in sorted({*must, TRACK, *names}):
            found = _points(run.track(name)) if name in names else {}
            fresh = [index for index, point in found.items() if point.get("id") == -1 and again and name == TRACK]
            if again and name == TRACK:
                assert fresh, "the new point"
                assert list(found)[-len(fresh) :] == fresh, "the new point is not the last"
            found = {index: point for index, point in found.items() if index not in fresh}
            if again and name == TRACK and found:
                ends = [found[index] for index in (min(found), max(found))]
                assert all(point.get("mark") == 1.5 for point in ends), "the fields that were added to both ends"
            self.hold(name, found, {"mark"} if fresh else set(), must.get(name, ([], 0)), is_settled)
            counts[name] = len(found)
        return counts

    def hold(
        self,
        name: str,
        found: dict[int, dict[str, Any]],
        more: Collection[str],
        must: tuple[list[dict[str, Any]], int],
        is_settled: bool = False,
    ) -> None:
        """Hold the points of one track, by their indices, against what must and may be there."""
        points, required = must
        lost = set(range(required)) - set(found)
        assert not lost, f"lost: {sorted(lost)} of {name}, of which {required} must be there"
        assert self.gave_up or list(found) == list(range(len(found))), f"the indices of {name}: {list(found)}"
        count = max((mark.count(name) for mark in self.may), default=0)
        assert max(found, default=-1) < count, f"{name} has points that nobody appended"
        for index, point in found.items():
            surely = points[index] if index < required else {}
            needed: Collection[str] = surely or (() if self.repaired else ("id", "_ts"))
            lacking = set(needed) - set(point)
            assert not lacking, f"the point {index} of {name} lacks {lacking}"
            forms = [points[index]] if index < len(points) else []
            forms += [form for mark in self.may[is_settled:] for form in mark.forms(name, index)]
            forms += (self.mark.flushed or {}).get(name, [])[index : index + 1]
            older = [form for mark in [*self.before, self.mark] for form in mark.forms(name, index)]
            for field, value in point.items():
                allowed = [form[field] for form in forms if field in form]
                allowed += [form[field] for form in older if field in form and field not in surely]
                right = any(type(value) is type(a) and value == a for a in allowed)
                assert right or field in more, (name, index, field, value, allowed)

    def hold_others(self) -> None:
        """Hold the log, the parameters and what is said of session and tracks against what must be there."""
        must = self.mark.others
        if not must:
            return
        found = others(self.root, self.has_replica)
        assert found["log"][: len(must["log"])] == must["log"], "the log lost records"
        for what, value in must["parameters"].items():
            later = [mark.others["parameters"][what] for mark in self.may if mark.others]
            assert found["parameters"].get(what) in later, f"the parameter {what}: {value!r}"
        for what in ("description", "tags", "createdAt"):
            assert found["said"][what] == must["said"][what], f"session.json: {what}"
        for name, about in must["tracks"].items():
            assert set(about or {}) <= set(found["tracks"][name] or {}), f"metadata of {name}"

    def excuse(self, error: Exception) -> None:
        """What was told is no damage of anything that must be there, and all of that can be read."""
        needed = {name: required for name, (_, required) in self.mark.points.items() if required}
        if not needed and not self.mark.others:
            return
        assert isinstance(error, CorruptTrackError), error
        assert error.path.endswith(("data.jsonl", "logs.jsonl")) or not self.mark.others, error
        if error.path.endswith("logs.jsonl"):
            good = Path(error.path).read_bytes().splitlines(keepends=True)[: int(error.place.split()[-1]) - 1]
            assert len(good) >= len(self.mark.others["log"]) % LOG_LINES, error
        run = view(self.root, self.has_replica)
        for name, required in needed.items():
            rows = run.track(name).read(limit=None, errors="skip")["data"]
            assert [row["index"] for row in rows[:required]] == list(range(required)), f"errors='skip': {error}"
            found = {row["index"]: row["data"] for row in rows[:required]}
            self.hold(name, found, set(), self.mark.points.get(name, ([], 0)))

    # -- writing ---------------------------------------------------------------------------------------------------

    def go_on(self, before: dict[str, int] | None) -> None:
        """Resume the session, append, add to the first and the last point; then read all again."""
        if self.has_replica:
            self.go_on_with_replica()
        else:
            self.resumed = crashlib.session(self.root, resume="allow")
            with self.resumed as resumed:
                track = resumed.track(TRACK)
                found = track.read(limit=None)["data"] if TRACK in resumed.tracks else []
                _append_and_set(track, [row["data"] for row in found])
                resumed.flush()
        self.read(before, again=True)
        self.hold_others()
        if self.has_replica:
            there = Lake(THERE).session(NAME, WORKSPACE)
            self.hold_all(there, there.tracks.list(), again=True)
            found = there.parameters().get()
            for what, value in self.mark.parameters.items():
                later = [mark.parameters.get(what) for mark in self.may]
                assert found.get(what) in later, f"parameters of the replica: {what} is no longer {value!r}: {found}"

    def go_on_with_replica(self) -> None:
        """As without, and have all of it on the replica; nothing is read before, which would merge what waits."""
        self.resumed = crashlib.session(self.root, resume="allow", **WITH_REPLICA)
        with self.resumed as resumed:
            resumed.writer.replica.trims = self.trims  # type: ignore[union-attr]
            run = view(self.root, True)
            _append_and_set(resumed.track(TRACK), list(_points(run.track(TRACK)).values()))
            resumed.flush()
            resumed.sync()


def _append_and_set(track: Any, points: list[dict[str, Any]]) -> None:
    track.append(id=-1)
    for ts in {point["_ts"] for point in [*points[:1], *points[-1:]]}:
        track.append(mark=1.5, _ts=ts)


def _points(track: Any, errors: str = "raise") -> dict[int, dict[str, Any]]:
    try:
        return {row["index"]: row["data"] for row in track.read(limit=None, errors=errors)["data"]}
    except TrackNotFoundError:
        return {}  # its metadata.json has its name, and nothing in it yet


def _is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False
