"""What the tests of away segments share: a session whose uploaded segments are dropped, and the replica's side."""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import crashlib
from support import one_in

from dreamlake import Session
from dreamlake.engine.overlay import OverlayStore
from dreamlake.engine.reader import TrackReader
from dreamlake.format import layout
from dreamlake.format.layout import SegmentName
from dreamlake.format.live import parse_listing
from dreamlake.storage.localstore import LocalStore

HOUR = 3600.0
TRACK = "a/t"
BELOW = f"w/s/{layout.track_dir(TRACK)}"


class Unreachable:
    """A replica that nobody may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the replica was asked for its {name}")


def no_replica() -> Any:
    """Stands for a replica that may not even be opened."""
    raise AssertionError("the replica was asked for")


class Trimmed:
    """A session in `root` with one track that rolls every seven points, and its replica in `there`."""

    def __init__(self, root: Path, there: Any, **options: Any) -> None:
        self.root = root
        self.there = there
        self.folder = root / BELOW
        self.options = {"flush_interval": HOUR, "segment_points": 7, **options}
        self.session = self.made()

    def made(self) -> Session:
        """Another session on the same folder."""
        return Session("s", "w", self.root, **self.options)

    @property
    def track(self) -> Any:
        """The track."""
        return self.session.track(TRACK)

    @property
    def writer(self) -> Any:
        """The writer of the track."""
        self.session.open_if_needed()
        return self.session.writer.track(TRACK)

    def reopen(self) -> None:
        """Close the session, and begin another that knows nothing."""
        self.session.close()
        self.session = self.made()

    def append(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Append points one by one, and flush."""
        for point in points:
            self.track.append(**point)
        self.track.flush()

    def here(self) -> tuple[SegmentName, ...]:
        """The segments on the local disk."""
        return parse_listing(os.listdir(self.folder))

    def upload(self) -> tuple[SegmentName, ...]:
        """Bring all segments to the replica, and return which these are."""
        have = {entry.name for entry in self.there.list(BELOW)}
        here = self.here()
        for name in here:
            if name.filename not in have:
                self.there.create(f"{BELOW}/{name.filename}", (self.folder / name.filename).read_bytes())
        return here

    def drop(self, names: Sequence[SegmentName] | None = None) -> None:
        """Upload and drop segments: all that can go, if not told."""
        there = self.upload()
        chosen = there if names is None else names
        self.under_lock(lambda: self.writer.drop(chosen))

    def under_lock(self, work: Callable[[], Any]) -> None:
        """Do something as the replicator has it done."""
        _ = self.writer
        self.session.writer.under_lock(work)

    def forget_stamps(self) -> None:
        """Lose the timestamps of all away segments, as those of segments that were never here."""
        self.upload()
        for path in self.folder.glob(f"{layout.STAMPS_PREFIX}*"):
            path.unlink()
        self.session.close()
        self.session = self.made()

    def settle(self) -> int:
        """Fetch and merge until nothing waits; return how many segments were fetched."""
        fetched = 0
        while names := self.writer.wanted():
            assert fetched < 1000, "it never ends"
            data = {name: self.there.get(f"{BELOW}/{name.filename}") for name in names}
            fetched += len(names)
            self.under_lock(partial(self.writer.settle, data))
        return fetched

    def overlay(self) -> OverlayStore:
        """The store that the session reads through."""
        return OverlayStore(LocalStore(self.root), lambda: self.there)

    def reader(self) -> TrackReader:
        """A reader of the track that knows nothing."""
        return TrackReader(self.overlay(), BELOW, TRACK)

    def read(self) -> dict[str, Any]:
        """All points as `Track.read` gives them."""
        snapshot = self.reader().snapshot()
        rows = snapshot.points(0, snapshot.total)
        return {"total": snapshot.total, "data": [{"index": index, "data": data} for index, data in rows]}

    def points(self) -> list[dict[str, Any]]:
        """The fields of all points."""
        return [row["data"] for row in self.read()["data"]]


def points_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Points with rising explicit timestamps, two seconds apart."""
    return [{"n": n, "_ts": 2.0 * n} for n in range(start, start + count)]


# -- stopped or failed at every disk call ------------------------------------------------------------------------------


def _drop(trimmed: Trimmed, tell: Callable[[dict[str, Any]], None], again: Callable[[Callable[[], Any]], None]) -> None:
    again(trimmed.drop)
    tell({})


def _late(trimmed: Trimmed, tell: Callable[[dict[str, Any]], None], again: Callable[[Callable[[], Any]], None]) -> None:
    for number, ts in enumerate((4.0, 16.0, 5.0, 4.0)):
        trimmed.track.append(**{f"late{number % 3}": number}, _ts=ts)
    again(trimmed.track.flush)
    tell({"4.0": {"late0": 3}, "16.0": {"late1": 1}, "5.0": {"late2": 2}})


def _settle(
    trimmed: Trimmed, tell: Callable[[dict[str, Any]], None], again: Callable[[Callable[[], Any]], None]
) -> None:
    again(trimmed.settle)
    tell({})


#: What is done before, and what is done when it goes wrong.
SCENES: dict[str, tuple[list[str], Any]] = {
    "drop": ([], _drop),
    "drop a later form": (["drop", "late", "settle"], _drop),
    "late": (["drop"], _late),
    "late, unknown": (["drop", "forget"], _late),
    "settle": (["drop", "late"], _settle),
    "settle, unknown": (["drop", "forget", "late"], _settle),
}
_STEPS: dict[str, Any] = {"drop": _drop, "late": _late, "settle": _settle}
BASE = 7 * 3 + 2


#: Only every so manieth call is tried in an ordinary run: `deathscenes` dies at every one of much the same calls.
STRIDE = one_in(6)


def sweep(folder: str, scene: str, fault: str) -> tuple[int, list[str]]:
    """Let the scene go wrong at its first disk call, its second, and so on, each time in a forked process.

    Returns how many calls there were, and what was found wrong.
    """
    import logging

    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    before, act = SCENES[scene]
    there = LocalStore(os.path.join(folder, "there"), fsync=False)
    template = Path(folder, "template")
    trimmed = Trimmed(template, there)
    trimmed.append(points_of(BASE))
    expected: dict[str, dict[str, Any]] = {}
    for step in before:
        if step == "forget":
            trimmed.forget_stamps()
        else:
            _STEPS[step](trimmed, expected.update, lambda work: work())
    trimmed.upload()
    trimmed.session.close()
    wrong: list[str] = []

    def attempt(when: int) -> list[str]:
        root = Path(folder, str(when))
        shutil.copytree(template, root)
        status, told, calls = _try(root, there, act, fault, when)
        problem = _judge(root, there, {**expected, **told}, may_be=scene.startswith("late"))
        if problem or status not in ((crashlib.STOPPED, 1) if when else (0,)):
            wrong.append(f"{scene}, {fault} at call {when} (status {status}): {problem}")
        shutil.rmtree(root, ignore_errors=True)
        return calls

    calls = attempt(0)
    fitting = crashlib.FAULTS[fault][2]
    places = [place for place, name in enumerate(calls, 1) if fitting is None or name in fitting]
    for place in places[::STRIDE]:
        attempt(place)
    return len(calls), wrong


def _try(root: Path, there: LocalStore, act: Any, fault: str, when: int) -> tuple[int, dict[str, Any], list[str]]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_child(root, there, act, fault, when, writing)
    os.close(writing)
    lines = b"".join(iter(lambda: os.read(reading, 1 << 16), b"")).splitlines()
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    told: dict[str, Any] = {}
    calls: list[str] = []
    for said in map(json.loads, lines):
        if isinstance(said, list):
            calls = said
        else:
            told.update(said)
    return status, told, calls


def _run_child(root: Path, there: LocalStore, act: Any, fault: str, when: int, pipe: int) -> None:
    try:
        kind, wrong, _ = crashlib.FAULTS[fault]
        seam = kind(when, wrong)

        def again(work: Callable[[], Any]) -> None:
            try:
                work()
            except OSError:
                seam.when = 0
                work()

        trimmed = Trimmed(root, there)
        trimmed.session.open()
        seam.install()
        act(trimmed, lambda told: os.write(pipe, json.dumps(told).encode() + b"\n"), again)
        if not when:
            os.write(pipe, json.dumps(seam.names).encode() + b"\n")
        os._exit(1 if when else 0)
    except BaseException:
        traceback.print_exc()
        os._exit(2)


def _judge(root: Path, there: LocalStore, expected: Mapping[str, Mapping[str, Any]], may_be: bool) -> str:
    try:
        trimmed = Trimmed(root, there)
        _check(trimmed, {}, may_be=True)
        trimmed.append([{"after": 1, "_ts": 1000.0}])
        trimmed.settle()
        assert not any(path.stat().st_size for path in trimmed.folder.glob(".late*")), "rows still wait"
        _check(trimmed, expected, may_be)
        trimmed.drop()
        trimmed.append([{"after": 2, "_ts": 6.0}])
        trimmed.settle()
        after = trimmed.points()
        assert [point["n"] for point in after if "after" in point and "n" in point] == [3]
        trimmed.session.close()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} [{frame.name}:{frame.lineno}]"
    return ""


def _check(trimmed: Trimmed, expected: Mapping[str, Mapping[str, Any]], may_be: bool) -> None:
    read = trimmed.read()
    assert [row["index"] for row in read["data"]] == list(range(read["total"]))
    points = [row["data"] for row in read["data"]]
    assert [point["n"] for point in points[:BASE]] == list(range(BASE))
    by_ts = {point["_ts"]: point for point in points}
    assert len(by_ts) == len(points), "doubled"
    assert set(by_ts) <= {*(2.0 * n for n in range(BASE)), 5.0, 1000.0}
    for ts, fields in expected.items():
        assert fields.items() <= by_ts[float(ts)].items(), (ts, fields, by_ts[float(ts)])
    for ts, point in by_ts.items():
        late = {name: value for name, value in point.items() if name.startswith("late")}
        assert may_be or late == dict(expected.get(str(ts), {})), point
