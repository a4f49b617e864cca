"""Crowds of processes on one session: their history fits, and one that does not is found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import crowds
import pytest
from campaigns.concurrency import BUSY, PLANTED, try_planted
from crowdwork import Spec
from histories import NEW, Eyes, History, fields_of

# ------------------------------------------------------------------------------------------------ the checker

TS = 1000.0


def point(writer: str, number: int, ts: float, **added: int) -> dict[str, Any]:
    """The point of a writer's operation."""
    return {**fields_of(writer, number), **{f"m{name}": value for name, value in added.items()}, "_ts": ts}


class Told:
    """A history of two writers and two readers that fits; tests change one thing in it."""

    def __init__(self) -> None:
        self.history = History()
        self.history.ops["a"] = [NEW, NEW, TS, NEW]
        self.history.ops["b"] = [NEW, TS]
        self.points = [point("a", 0, 5.0), point("b", 0, 6.0), point("a", 1, 7.0), {"ma": 2, "mb": 1, "_ts": TS}]
        self.points.append(point("a", 3, 8.0))
        self.history.acknowledged = [(10, "a", 1), (30, "a", 4), (30, "b", 2)]
        self.history.batches = [("a", 1, 1, 2, 3)]
        self.eyes = {name: Eyes(name) for name in ("one", "two")}

    def read(self, reader: str, begun: int, ended: int, stop: int, start: int = 0, **fields: Any) -> None:
        """Let a reader see some of the points; `fields` are those of the point at 3."""
        rows = [(index, dict(self.points[index])) for index in range(start, stop)]
        for _, row in rows[3 - start : 4 - start]:
            row.update(fields)
        rows = [(index, {k: v for k, v in row.items() if v is not None}) for index, row in rows]
        self.history.reads.append(self.eyes[reader].see(begun, ended, rows, stop))

    def see(self) -> None:
        """What the readers see when all is well."""
        self.read("one", 11, 12, 1)
        self.read("two", 13, 22, 4, mb=None)
        self.read("one", 31, 32, 5)
        self.read("two", 33, 34, 5, start=2)


def _lose(told: Told) -> None:
    told.see()
    del told.points[4]


def _double(told: Told) -> None:
    told.see()
    told.points.append(told.points[0])


def _alter(told: Told) -> None:
    told.see()
    told.points[0]["x"] += 1


def _make_up(told: Told) -> None:
    told.see()
    told.points.append(point("b", 2, 9.0))


def _lose_field(told: Told) -> None:
    told.see()
    del told.points[3]["mb"]


def _old_field(told: Told) -> None:
    told.history.ops["b"].append(TS)
    told.history.acknowledged.append((35, "b", 3))


def _swap(told: Told) -> None:
    told.points[2], told.points[4] = told.points[4], told.points[2]


def _leave_out(told: Told) -> None:
    told.history.acknowledged = []
    told.history.batches = []
    del told.points[2]


def _miss_acknowledged(told: Told) -> None:
    told.read("one", 31, 32, 4)


def _miss_acknowledged_field(told: Told) -> None:
    told.read("one", 31, 32, 5, mb=None)


def _shrink(told: Told) -> None:
    told.read("one", 5, 6, 2)
    told.read("two", 7, 8, 1)


def _forget_field(told: Told) -> None:
    told.read("one", 5, 6, 4)
    told.read("two", 7, 8, 4, ma=None)


def _read_others(told: Told) -> None:
    told.read("one", 11, 12, 2)
    told.points[1]["_ts"] = 6.5


def _split(told: Told) -> None:
    told.points.append({"mb": 1, "_ts": TS})


def _wrong_batch(told: Told) -> None:
    told.history.batches = [("a", 1, 1, 1, 2)]


def _fall(told: Told) -> None:
    told.points[2]["_ts"] = 4.0


WRONG: dict[str, tuple[Callable[[Told], None], str]] = {
    "lost": (_lose, "lost: a's point 3"),
    "doubled": (_double, "there twice"),
    "altered": (_alter, "altered"),
    "made up": (_make_up, "never asked"),
    "a field is lost": (_lose_field, "lost: b's field 1"),
    "an older field": (_old_field, "lost: b's field 2"),
    "out of order": (_swap, "a's point 1 is behind its 3"),
    "left out": (_leave_out, "lost: 1 points of a before its 3"),
    "acknowledged, not read": (_miss_acknowledged, "one saw 4 points, 5 before"),
    "acknowledged field, not read": (_miss_acknowledged_field, "one missed b's field 1"),
    "shrunk": (_shrink, "two saw 1 points, 2 before"),
    "a field is gone": (_forget_field, "two missed a's field 2"),
    "other points": (_read_others, "one read other points"),
    "two for one timestamp": (_split, "two points for one explicit"),
    "a batch elsewhere": (_wrong_batch, "a's batch at 1"),
    "falling timestamps": (_fall, "timestamps of a fall"),
}


def test_a_history_that_fits() -> None:
    told = Told()
    told.see()
    told.history.check(told.points)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_history_that_does_not_fit(wrong: str) -> None:
    told = Told()
    change, said = WRONG[wrong]
    change(told)
    with pytest.raises(AssertionError, match=said):
        told.history.check(told.points)


def test_a_reader_sees_changes_itself() -> None:
    eyes = Eyes("r")
    first = [(0, point("a", 0, 5.0, b=3)), (1, point("a", 1, 6.0))]
    assert eyes.see(0, 1, first, 2).news == [(0, "b", 3)]
    assert eyes.see(0, 1, first, 2).news == []
    for rows, said in (
        ([(1, point("a", 2, 6.0))], "was 'a 1 6.0'"),
        ([(0, point("a", 0, 5.0, b=2))], "went back to 2"),
        ([(0, point("a", 0, 5.0))], "are gone"),
        ([first[0], (2, point("a", 2, 7.0))], "a gap"),
        ([(0, {"_ts": 5.0})], "without fields"),
    ):
        with pytest.raises(AssertionError, match=said):
            eyes.see(2, 3, rows, 2)


# ------------------------------------------------------------------------------------------------ real ones

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl, so that orphans can be waited for")

SMALL: dict[str, Any] = {**BUSY, "readers": 1, "chunks": 8, "kills": 1, "stops": 2, "compacts": True, "grace": 1.0}
EPISODES: dict[str, dict[str, Any]] = {
    "threads": {**SMALL, "writers": ("plain", "plain", "fresh"), "shared": "hot", "tracks": 2},
    "forks": {**SMALL, "writers": ("forks", "plain"), "kills": 2},
    "pools": {**SMALL, "writers": ("pool", "sessions"), "threads": 3, "fsync": True, "kills": 0},
    "a replica": {**SMALL, "writers": ("plain", "sessions"), "remote": "there", "shared": "hot"},
}


@pytest.fixture(scope="module")
def director() -> Iterator[crowds.Director]:
    with crowds.Director() as started:
        yield started


@pytest.mark.parametrize("name", EPISODES)
def test_a_crowd(director: crowds.Director, tmp_path: Path, name: str) -> None:
    like = EPISODES[name]
    remote = like["remote"] and f"file://{tmp_path}/there"
    counts, wrong = director.episode(Spec.draw(1, str(tmp_path), **{**like, "remote": remote}))
    assert not wrong, wrong
    assert counts["operations"] > 100
    assert counts["read"] > 5
    assert counts["points here"] > 50
    assert counts.get("points there", 0) == (counts["points here"] if remote else 0)


@pytest.mark.parametrize("bug", ["early flush", "old generation"])
def test_a_planted_bug_is_found(director: crowds.Director, bug: str) -> None:
    assert any(try_planted(director, bug, seed) for seed in range(5)), PLANTED[bug].plant.__doc__
