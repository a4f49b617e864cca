"""Scenes for the power cuts of `powerloss`, and the look at what a cut has left."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import crashlib
from crashlib import NAME, TRACK, WORKSPACE, Plan
from powerloss import Mark, Recorder, Sample, write_down

from dreamlake import Lake, Session
from dreamlake.engine.repair import repair_session
from dreamlake.errors import CorruptTrackError, SessionNotFoundError, TrackNotFoundError

OTHER = "c"
#: Records of a log file before it is put aside.
LOG_LINES = 2


class Scene(crashlib.Scene):
    """A scene of `crashlib` whose acknowledgements note what they have read."""

    def __init__(self, root: str, plan: Plan, fsync: bool) -> None:
        super().__init__(root, plan, lambda count: self.acknowledge(), retry=True)
        self.fsync = fsync
        self.recorder: Recorder | None = None

    def open(self, **options: Any) -> Session:
        """Open the session as the scene wants it, or with ``fsync=True`` in any case."""
        opened = crashlib.session(self.root, **{**options, "fsync": self.fsync or options.get("fsync", False)})
        _until_it_works(opened.open)
        return opened

    def flush(self, session: Session) -> None:
        """Flush, again and again where the disk fails, as a training script does."""
        _until_it_works(session.flush)
        self.acknowledge()

    def acknowledge(self) -> None:
        """Note what is there now: with ``fsync=True`` all of it must last, else what is in segments."""
        if self.recorder is None:
            return
        run = Lake(self.root).session(NAME, WORKSPACE)
        points = {}
        for name in run.tracks.list():
            track = run.track(name)
            found = [row["data"] for row in track.read(limit=None)["data"]]
            points[name] = (found, len(found) if self.fsync else track.stats()["chunkedDataPoints"])
        self.recorder.mark(points, others(self.root) if self.fsync else {})

    def close(self, session: Session) -> None:
        """Close the session, which says how it ended."""
        _until_it_works(session.close)
        self.acknowledge()


def _until_it_works(work: Callable[[], Any]) -> None:
    for _ in range(8):
        try:
            work()
            return
        except OSError as error:
            last = error
    raise last


def others(root: str | Path) -> dict[str, Any]:
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
    tracks = {name: run.track(name).stats()["metadata"] for name in run.tracks.list()}
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
}


def record(folder: Path, scene: str, fsync: bool, failing: tuple[int, ...] = ()) -> Recorder:
    """Play a scene in `folder`, and write down what it does to the disk."""
    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    root = Path(tempfile.mkdtemp(prefix="recorded-", dir=folder))
    prepare, act = SCENES[scene]
    playing = Scene(str(root), Plan(), fsync)
    prepare(playing)
    with Recorder(root, failing) as recorder:
        playing.recorder = recorder
        act(playing)
    shutil.rmtree(root)
    return recorder


# -- what is left ------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What was found: ``whole``; ``opened`` or ``repaired``, which it took; ``wrong``, and what is."""

    how: str
    detail: str = ""


def judge(folder: Path, recorder: Recorder, sample: Sample) -> Seen:
    """Look at one state as a reader, as the next writer, and as a reader again. What is wrong stays in `folder`."""
    root = Path(tempfile.mkdtemp(prefix=sample.seed.replace("/", "-").replace(" ", "_") + "-", dir=folder))
    write_down(sample.state, root)
    try:
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
        told = [mark for mark in recorder.marks if mark.place <= place]
        #: What must be there, and what may be.
        self.mark = told[-1] if told else Mark(0, {}, {})
        later = [mark for mark in recorder.marks if mark.place > place]
        self.may = [self.mark, *later]
        #: Whether it was repaired, so that points which were not acknowledged may be given up between others.
        self.repaired = False

    def run(self) -> Seen:
        how = "whole"
        before = None
        try:
            before = self.read()
            self.hold_others()
        except (CorruptTrackError, SessionNotFoundError) as error:
            self.excuse(error)
            how = "opened"
        try:
            self.go_on(before)
        except CorruptTrackError as error:
            if how != "opened":
                raise AssertionError(f"it could be read, and not be written to: {error}") from error
            repair(self.root)
            how, self.repaired = "repaired", True
            self.go_on(before)
        return Seen(how)

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
        run = Lake(self.root).session(NAME, WORKSPACE)
        names = run.tracks.list()
        counts = {}
        for name in sorted({*self.mark.points, TRACK, *names}):
            found = _points(run.track(name)) if name in names else {}
            fresh = [index for index, point in found.items() if point.get("id") == -1 and again and name == TRACK]
            if again and name == TRACK:
                assert fresh, "the new point"
                assert list(found)[-len(fresh) :] == fresh, "the new point is not the last"
            found = {index: point for index, point in found.items() if index not in fresh}
            self.hold(name, found, {"mark"} if fresh else set())
            counts[name] = len(found)
            if before is not None:
                assert before.get(name, 0) == len(found), f"{name} had {before.get(name, 0)} points, now {len(found)}"
        return counts

    def hold(self, name: str, found: dict[int, dict[str, Any]], more: Collection[str] = ()) -> None:
        """Hold the points of one track, by their indices, against what must and may be there."""
        points, required = self.mark.points.get(name, ([], 0))
        lost = set(range(required)) - set(found)
        assert not lost, f"lost: {sorted(lost)} of {name}, of which {required} must be there"
        assert self.repaired or list(found) == list(range(len(found))), f"the indices of {name}: {list(found)}"
        known = [mark.points[name][0] for mark in self.may if name in mark.points]
        count = len(known[-1]) if known else 0
        assert max(found, default=-1) < count, f"{name} has points that nobody appended"
        for index, point in found.items():
            forms = [each[index] for each in known if index < len(each)]
            for field, value in point.items():
                allowed = [form[field] for form in forms if field in form]
                right = any(type(value) is type(a) and value == a for a in allowed)
                assert right or field in more, (name, index, field, value, allowed)
            needed = points[index] if index < required else () if self.repaired else ("id", "_ts")
            lacking = set(needed) - set(point)
            assert not lacking, f"the point {index} of {name} lacks {lacking}"

    def hold_others(self) -> None:
        """Hold the log, the parameters and what is said of session and tracks against what must be there."""
        must = self.mark.others
        if not must:
            return
        found = others(self.root)
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
        run = Lake(self.root).session(NAME, WORKSPACE)
        for name, required in needed.items():
            rows = run.track(name).read(limit=None, errors="skip")["data"]
            assert [row["index"] for row in rows[:required]] == list(range(required)), f"errors='skip': {error}"
            self.hold(name, {row["index"]: row["data"] for row in rows[:required]})

    # -- writing ---------------------------------------------------------------------------------------------------

    def go_on(self, before: dict[str, int] | None) -> None:
        """Resume the session, append, add to the first and the last point; then read all again."""
        with crashlib.session(self.root, segment_points=10, resume="allow") as resumed:
            track = resumed.track(TRACK)
            found = [row["data"]["_ts"] for row in track.read(limit=None)["data"]] if TRACK in resumed.tracks else []
            track.append(id=-1)
            for ts in {*found[:1], *found[-1:]}:
                track.append(mark=1.5, _ts=ts)
            resumed.flush()
        self.read(before, again=True)
        self.hold_others()


def _points(track: Any) -> dict[int, dict[str, Any]]:
    try:
        return {row["index"]: row["data"] for row in track.read(limit=None)["data"]}
    except TrackNotFoundError:
        return {}  # its metadata.json has its name, and nothing in it yet


def repair(root: Path) -> None:
    """Bring what a power cut has left into a form that can be written to."""
    report = repair_session(str(root), f"{WORKSPACE}/{NAME}", give_up_lost=True)
    assert report.is_clean, (report.failures, report.findings)


def _is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False
