"""Damages one file of a run bit by bit and byte by byte, and holds every way to read it against what was written.

Allowed is what was written; a `CorruptTrackError` that names the damaged file and the place; of a hot file that was
cut, a prefix; and with ``errors="skip"`` some of what was written. In files of plain JSON a changed digit cannot be
seen: there, what is read must be what another reader makes of the same bytes, and it is counted as *unseen*.
"""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import damagelib as lib
from damagelib import NAME, TRACK, WORKSPACE
from support import ROOT

from dreamlake import Lake, Session
from dreamlake.engine.findings import is_damaged
from dreamlake.engine.inspect import look_at_session
from dreamlake.engine.repair import repair_session
from dreamlake.errors import CorruptTrackError, RemoteConflictError
from dreamlake.format.point import from_json
from dreamlake.storage.localstore import LocalStore

SESSION = f"{WORKSPACE}/{NAME}"
#: Seconds that one read may take before it counts as a hang.
HANG = 30
Rows = dict[int, dict[str, str]]

_spec = importlib.util.spec_from_file_location("example_reader", ROOT / "docs" / "examples" / "reader.py")
assert _spec is not None
assert _spec.loader is not None
plain_reader = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain_reader)


# ------------------------------------------------------------------------------------------------ ways to read


def _points(result: Any) -> Rows:
    return {row["index"]: {name: repr(value) for name, value in row["data"].items()} for row in result["data"]}


def _frame(frame: Any) -> Rows:
    columns = frame.columns
    return {row[0]: dict(zip(columns, map(repr, row), strict=True)) for row in frame.rows()}


def _table(table: Any) -> Rows:
    return {row["_index"]: {name: repr(value) for name, value in row.items()} for row in table.to_pylist()}


def _about(value: Any) -> Rows:
    return {-1: {"it": repr(value)}}


def _stats(track: Any) -> Rows:
    return {-1: {name: repr(value) for name, value in track.stats().items() if name != "bytes"}}


def _range_of(path: Path) -> Callable[..., Rows]:
    """A read of exactly the points of a segment."""
    start, stop = int(path.name[:12]), int(path.name[13:25])
    return lambda track: _points(track.read(start, stop - start))


#: Every way to read a track, by name; those that take ``errors`` are given it.
WAYS: dict[str, Callable[..., Rows]] = {
    "read": lambda track, **how: _points(track.read(limit=None, **how)),
    "read a range": lambda track, **how: _points(track.read(6, 11, **how)),
    "read by time": lambda track, **how: _points(track.read_by_time(1003.0, 1025.5, limit=None, **how)),
    "the latest": lambda track, **how: _points(track.read_by_time(limit=7, reverse=True, **how)),
    "to_polars": lambda track, **how: _frame(track.to_polars(**how)),
    "to_arrow": lambda track, **how: _table(track.to_arrow(2, 21, **how)),
    "scan": lambda track, **how: _frame(track.scan(**how).collect()),
    "scan some": lambda track, **how: _frame(track.scan(5, **how).select("_index", "text").head(14).collect()),
    "len": lambda track, **how: _about(len(track)),
    "stats": lambda track, **how: _stats(track),
    "files": lambda track, **how: _about([Path(path).name for path in track.files()]),
}
POINTS = ("read", "its range", "read a range", "read by time", "the latest")
WITHOUT_ERRORS = ("len", "stats", "files")
#: With damage left out, these give other points than before, since they count points.
COUNTING = ("the latest", "scan some")


class Hung(BaseException):
    """A read did not come back."""


@contextmanager
def in_time() -> Iterator[None]:
    """Raise `Hung` where what is done takes too long; in the main thread."""

    def ring(signum: int, frame: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------ damages


def flips(size: int, stride: int = 1) -> Iterator[tuple[str, int, int]]:
    """Every bit of a file, or each n-th."""
    for place in range(0, 8 * size, stride):
        yield "flip", place // 8, place % 8


def cuts(size: int, stride: int = 1) -> Iterator[tuple[str, int, int]]:
    """Every length that the file may be cut off at, or each n-th."""
    for place in range(0, size, stride):
        yield "cut", place, 0


def some(size: int, count: int, seed: int) -> list[tuple[str, int, int]]:
    """So many flips, drawn, and a fourth as many cuts."""
    drawn = random.Random(seed)
    bits = drawn.sample(range(8 * size), min(count, 8 * size))
    places = drawn.sample(range(size), min(count // 4, size))
    return [("flip", bit // 8, bit % 8) for bit in bits] + [("cut", place, 0) for place in places]


def damaged(data: bytes, damage: tuple[str, int, int]) -> bytes:
    """The bytes with one damage."""
    how, place, bit = damage
    if how == "cut":
        return data[:place]
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


# ------------------------------------------------------------------------------------------------ the sweep


class Sweep:
    """One run of which one file is damaged again and again.

    Parameters
    ----------
    folder
        Where the run is made.
    seed
        Of what is drawn: which ways are tried at which damage.
    """

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.root = folder / "lake"
        self.points = dict(enumerate(lib.make_run(self.root)))
        self.scratch = folder / "scratch"
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        #: What is damaged just now.
        self.label = ""
        # Whether only a plain read is tried just now.
        self._plainly = False
        #: A sweep ends when it has found so much.
        self.most_wrong = 20
        self.wrong: list[str] = []
        self.expected = {name: way(lib.view(self.root)) for name, way in WAYS.items()}
        folder = lib.folder_of(self.root)
        session = lib.session_of(self.root)
        self.files = {
            "a segment": sorted(folder.glob("*.parquet"))[1],
            "the newest segment": sorted(folder.glob("*.parquet"))[2],
            "data.jsonl": folder / "data.jsonl",
            "metadata.json": folder / "metadata.json",
            "session.json": session / "session.json",
            "parameters.json": session / "parameters.json",
            "logs.jsonl": session / "logs" / "logs.jsonl",
            ".lock": session / ".lock",
        }
        #: As `WAYS`, with that of the target just now.
        self.ways = dict(WAYS)
        self.whole = {target: path.read_bytes() for target, path in self.files.items()}

    def run(
        self,
        target: str,
        damages: Iterable[tuple[str, int, int]],
        *,
        ways: int | None = None,
        thin: int = 1,
        deep: int = 0,
    ) -> None:
        """Damage one file in all of these ways, one after the other.

        Parameters
        ----------
        ways
            So many ways to read are tried at each damage, drawn, beside a plain read, and each of these with damage
            left out too; None: all.
        thin
            Only at each n-th damage; at the others there is one plain read alone, of the segment's own range.
        deep
            At each n-th damage the run is also checked, repaired, resumed and appended to; 0: never.
        """
        path, whole = self.files[target], self.whole[target]
        judge = self._judge(target)
        self.ways["its range"] = _range_of(path) if "segment" in target else WAYS["read"]
        self.expected["its range"] = self.ways["its range"](lib.view(self.root))
        try:
            for number, damage in enumerate(damages):
                data = damaged(whole, damage)
                path.write_bytes(data)
                self.label = f"{target}, {damage[0]} at {damage[1]}" + f".{damage[2]}" * (damage[0] == "flip")
                self.tell(self.label)
                self._plainly = number % thin > 0
                with self._telling(self.label):
                    outcome = judge(path, data, damage, ways)
                    self.counts[f"{target}: {damage[0]}: {outcome}"] += 1
                    if deep and number % deep == 0:
                        self._deep(target, path, data, outcome)
                        self.counts["deep looks"] += 1
                if len(self.wrong) >= self.most_wrong:
                    return
        finally:
            path.write_bytes(whole)

    def tell(self, label: str) -> None:
        """Called before each damage."""

    @contextmanager
    def _telling(self, label: str) -> Iterator[None]:
        try:
            with in_time():
                yield
        except BaseException as error:  # a panic of Polars is none of Exception's
            if isinstance(error, KeyboardInterrupt):
                raise
            self.wrong.append(f"{label}: {type(error).__name__}: {str(error)[:500]}")

    def _judge(self, target: str) -> Callable[..., str]:
        if "segment" in target:
            return self._judge_segment
        judges: dict[str, Callable[..., str]] = {
            "data.jsonl": self._judge_hot,
            "metadata.json": self._judge_metadata,
            "session.json": self._judge_session,
            "parameters.json": self._judge_parameters,
            "logs.jsonl": self._judge_logs,
        }
        return judges.get(target, self._judge_harmless)

    def _chosen(self, ways: int | None) -> list[str]:
        if self._plainly:
            return ["its range"]
        if ways is None:
            return list(WAYS)
        others = [name for name in WAYS if name != "read"]
        return ["read", *self.random.sample(others, ways)]

    # -- segments --------------------------------------------------------------------------------------------------

    def _judge_segment(self, path: Path, data: bytes, damage: tuple[str, int, int], ways: int | None) -> str:
        told = False
        for name in self._chosen(ways):
            try:
                found = self.ways[name](lib.view(self.root))
            except CorruptTrackError as error:
                self._named(error, path)
                told = True
            else:
                assert found == self.expected[name], (name, "other values")
            if name not in WITHOUT_ERRORS and not self._plainly:
                self._skips(name, path)
        return "told" if told else "right"

    def _named(self, error: CorruptTrackError, path: Path) -> None:
        start, stop = int(path.name[:12]), int(path.name[13:25])
        _names(error, path)
        assert (error.start, error.stop) == (start, stop), error

    def _skips(self, name: str, path: Path) -> None:
        found = WAYS[name](lib.view(self.root), errors="skip")
        expected = self.expected[name] if name not in COUNTING else self.expected["to_polars"]
        if name == "the latest":
            expected = self.expected["read"]
        for index, row in found.items():
            for column, value in row.items():
                assert expected[index].get(column, "None") == value, (name, "skip", index, column, value)
        missing = expected.keys() - found.keys()
        span = range(int(path.name[:12]), int(path.name[13:25]))
        assert name in COUNTING or missing <= set(span), (name, "skip", sorted(missing))

    # -- the hot file ----------------------------------------------------------------------------------------------

    def _judge_hot(self, path: Path, data: bytes, damage: tuple[str, int, int], ways: int | None) -> str:
        try:
            says = {row["index"]: row["data"] for row in plain_reader.read_hot(data, below=24)}
        except Exception:  # whatever json makes of it
            says = None
        outcomes = {self._judge_hot_way(name, path, says) for name in self._chosen(ways)}
        if outcomes == {"told"}:
            return "told"
        assert says is not None
        written = {index: point for index, point in self.points.items() if index >= 24}
        if says.keys() == written.keys() and all(lib.agree(says[index], written[index]) for index in written):
            return "right"
        if damage[0] == "cut":
            assert all(
                says[index].items() <= written[index].items() or _agrees(says[index], written[index]) for index in says
            )
            return "a prefix"
        return "unseen"

    def _judge_hot_way(self, name: str, path: Path, says: dict[int, dict[str, Any]] | None) -> str:
        try:
            found = self.ways[name](lib.view(self.root))
        except CorruptTrackError as error:
            _names(error, path)
            outcome = "told"
        else:
            assert says is not None, (name, "read what no reader of JSON can")
            outcome = "read"
            if name in ("read", "its range"):
                hot = {index: point for index, point in lib.points_in(lib.view(self.root)).items() if index >= 24}
                assert hot.keys() == says.keys()
                assert all(lib.agree(hot[index], says[index]) for index in hot), (hot, says)
            # In frames all of a column may have another type, if a digit of the hot file made it so.
            for index, row in found.items() if name in POINTS else ():
                assert index >= 24 or row == self.expected["read"][index], (name, index)
        if name not in WITHOUT_ERRORS and not self._plainly:
            found = WAYS[name](lib.view(self.root), errors="skip")
            for index, row in found.items() if name in POINTS else ():
                assert index >= 24 or row == self.expected["read"][index], (name, "skip", index)
        return outcome

    # -- small files -----------------------------------------------------------------------------------------------

    def _object(self, data: bytes) -> Any:
        try:
            value = from_json(json.loads(data))
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def _small(self, path: Path, read: Callable[[], Any], says: Any, written: Any, refused: str = "") -> str:
        """One read of a small file: told, or what the JSON says."""
        try:
            found = read()
        except CorruptTrackError as error:
            _names(error, path)
            return "told"
        except ValueError as error:
            _refuses(error, refused)
            return "told"
        assert says is not None, "read what is no JSON"
        assert repr(found) == repr(says), (found, says)
        return "right" if repr(says) == repr(written) else "unseen"

    def _judge_metadata(self, path: Path, data: bytes, damage: tuple[str, int, int], ways: int | None) -> str:
        about = self._object(data) if data else {}
        keys = ("description", "tags", "metadata", "segment_points")
        says = None if about is None else [about.get(key) or None for key in keys]
        written = ["td", ["t"], {"unit": "m"}, 8]

        def stats() -> Any:
            found = lib.view(self.root).stats()
            return [found[key] or None for key in ("description", "tags", "metadata", "chunkSize")]  # type: ignore[literal-required]

        if says is not None:
            says[3] = says[3] or 10_000
        outcome = self._small(path, stats, says, written, "belongs to the track")
        outcome = outcome if data else "taken for missing"
        for name in self._chosen(ways):
            if name not in WITHOUT_ERRORS:
                try:
                    found = self.ways[name](lib.view(self.root), errors="skip")
                except ValueError as error:
                    _refuses(error, "belongs to the track")
                else:
                    assert found == self.expected[name], name
        return outcome

    def _judge_session(self, path: Path, data: bytes, damage: tuple[str, int, int], ways: int | None) -> str:
        keys = ("description", "tags", "metadata", "folder", "createdAt", "updatedAt")
        about = self._object(data)
        says = None if about is None else [about.get(key) for key in keys]

        def info() -> Any:
            found = Lake(self.root).session(NAME, WORKSPACE).info
            return [found.get(key) for key in keys]

        whole = self._object(self.whole["session.json"])
        written = [whole.get(key) for key in keys]
        outcome = self._small(path, info, says, written)
        assert WAYS["read"](lib.view(self.root)) == self.expected["read"]
        return outcome

    def _judge_parameters(self, path: Path, data: bytes, damage: tuple[str, int, int], ways: int | None) -> str:
        written = {"lr": 0.1, "model.layers": 4, "model.sizes": [1, 2], "name": "é"}
        about = self._object(data) if data else {"data": {}}
        says = None if about is None or not isinstance(about.get("data"), dict) else about["data"]
        outcome = self._small(path, lambda: Lake(self.root).session(NAME, WORKSPACE).parameters().get(), says, written)
        return outcome if data else "taken for missing"

    def _judge_logs(self, path: Path, data: bytes, damage: tuple[str, int, int], ways: int | None) -> str:
        written = [f"message {number}" for number in range(5)]
        records: dict[int, Any] | None = {}
        for line in data.split(b"\n")[:-1]:
            about = self._object(line)
            if records is not None and about is not None and isinstance(about.get("sequenceNumber"), int):
                records[about["sequenceNumber"]] = about.get("message")
            else:
                records = None
        says = None if records is None else [records[number] for number in sorted(records)]
        run = Lake(self.root).session(NAME, WORKSPACE)

        def messages() -> Any:
            return run.logs()["message"].to_list()

        outcome = self._small(path, messages, says, written)
        left = run.logs(errors="skip")["message"].to_list()
        assert len(left) <= len(written)
        return "a prefix" if outcome == "unseen" and says == written[: len(says or [])] else outcome

    def _judge_harmless(self, path: Path, data: bytes, damage: tuple[str, int, int], ways: int | None) -> str:
        """What readers do not need: all is right."""
        for name in self._chosen(ways):
            assert self.ways[name](lib.view(self.root)) == self.expected[name], name
        return "right"

    # -- check, repair, resume -------------------------------------------------------------------------------------

    def _deep(self, target: str, path: Path, data: bytes, outcome: str) -> None:
        own, looks = look_at_session(LocalStore(self.root), SESSION)
        found = is_damaged(own) or any(is_damaged(look.findings) for look in looks)
        assert found or outcome != "told", "check finds nothing, and a read does"
        copy = self.scratch
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.root, copy)
        here = copy / path.relative_to(self.root)
        self._resume(target, copy, here, data, outcome)
        shutil.rmtree(copy)
        shutil.copytree(self.root, copy)
        report = repair_session(str(copy), SESSION, give_up_lost=True)
        assert report.is_clean, [str(finding) for finding in report.findings]
        after = lib.points_in(lib.view(copy))
        if outcome not in ("unseen", "taken for missing"):
            for index, point in after.items():
                clean = self.points[index]
                assert all(name in clean and repr(clean[name]) == repr(value) for name, value in point.items()), index
        if found:
            assert any(each.read_bytes() == data for each in here.parent.glob(f"{here.name}.damaged-*"))
        with Session(NAME, WORKSPACE, copy, segment_points=8) as session:
            session.track(TRACK).append(real=0.5, _ts=9000.0)
        total = max(after, default=-1) + 1
        assert lib.points_in(lib.view(copy))[max(total, len(lib.view(copy)) - 1)]["_ts"] == 9000.0
        shutil.rmtree(copy)

    def _resume(self, target: str, copy: Path, here: Path, data: bytes, outcome: str) -> None:
        """A writer goes on, or says why not; it touches nothing that is damaged, and hides nothing."""
        before = self._read_or_none(copy)
        try:
            with Session(NAME, WORKSPACE, copy, segment_points=1000, flush_interval=3600.0) as session:
                track = session.track(TRACK)
                track.append(real=0.5, _ts=9000.0)
                track.append(after=1, _ts=1010.0)
                try:
                    track.flush()
                except ValueError:
                    session.writer.tracks.clear()  # the points stay pending, and the session open, for good
                    raise
        except ValueError:  # CorruptTrackError among them, and names that are another's
            assert outcome in ("told", "unseen"), outcome
            if here.suffix != ".lock":
                assert here.read_bytes()[: len(data)] == data, "a damaged file was changed"
        else:
            after = self._read_or_none(copy)
            if before is not None:
                assert after is not None, "what could be read cannot be any more"
                for index, point in before.items():
                    extra = {"after"} if index == 10 else set()
                    assert after[index].items() >= point.items(), index
                    assert set(after[index]) - set(point) <= extra, index
                assert len(after) == len(before) + 1

    def _read_or_none(self, root: Path) -> Rows | None:
        try:
            return WAYS["read"](lib.view(root))
        except ValueError:
            return None


def _agrees(some: dict[str, Any], written: dict[str, Any]) -> bool:
    return all(name in written and repr(written[name]) == repr(value) for name, value in some.items())


def _is_conflict(error: OSError) -> None:
    assert isinstance(error, RemoteConflictError), error


def _names(error: CorruptTrackError, path: Path) -> None:
    """It names the damaged file, and where in it."""
    assert error.path == str(path), error
    assert error.place, error


def _refuses(error: ValueError, said: str) -> None:
    """It is the error for a name that is another's."""
    assert said, error
    assert said in str(error), error


# ------------------------------------------------------------------------------------------------ the replica's state


class ReplicaSweep(Sweep):
    """The same for ``.replica.json``: whatever it says, both sides end up with all points, and nothing else."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        super().__init__(folder, seed)
        self.there = folder / "there"
        shutil.rmtree(self.root)
        self.points = dict(enumerate(lib.make_run(self.root, remote=f"file://{self.there}", sync_interval=3600.0)))
        path = lib.session_of(self.root) / ".replica.json"
        self.files = {".replica.json": path}
        self.whole = {".replica.json": path.read_bytes()}

    def _judge(self, target: str) -> Callable[..., str]:
        return self._judge_state

    def _judge_state(self, path: Path, data: bytes, damage: tuple[str, int, int], ways: int | None) -> str:
        assert WAYS["read"](lib.view(self.root)) == self.expected["read"]
        here, there = self.scratch / "here", self.scratch / "there"
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.root, here)
        shutil.copytree(self.there, there)
        try:
            # The state is by the URL of the replica, which the copy has not: so it is written back under the old one.
            there.rename(self.there.with_name("copy"))
            self.there.rename(self.there.with_name("original"))
            self.there.with_name("copy").rename(self.there)
            with Session(NAME, WORKSPACE, here, remote=f"file://{self.there}", sync_interval=3600.0) as session:
                session.track(TRACK).append(real=0.5, _ts=9000.0)
                session.sync()
            for root in (here, self.there):
                found = lib.points_in(lib.view(root))
                assert found.pop(26) == {"real": 0.5, "_ts": 9000.0}
                lib.assert_points(found, self.points)
        except OSError as error:
            # A conflict, where it says that others wrote: nothing is lost, and nothing is overwritten.
            _is_conflict(error)
            lib.assert_points(
                {index: point for index, point in lib.points_in(lib.view(here)).items() if index < 26}, self.points
            )
            lib.assert_points(lib.points_in(lib.view(self.there)), self.points)
            return "told"
        finally:
            shutil.rmtree(self.there)
            self.there.with_name("original").rename(self.there)
        return "right"
