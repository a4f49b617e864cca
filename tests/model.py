"""What a track is, in plain Python: a list of points and the rules by which appends merge. Tests compare against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from columnar import holds_float, same

from dreamlake.clock import SessionClock


class ModelTrack:
    """Points in the order of first arrival; an explicit timestamp merges into the lowest index that has it."""

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []
        #: Fields that ever held a float: an int beside it may be read as the equal float.
        self.wide: set[str] = set()

    def add(self, fields: Mapping[str, Any], ts: float, automatic: bool) -> int:
        """Take one point, and return the index that it has or merged into."""
        self.wide |= {name for name, value in fields.items() if holds_float(value)}
        if not automatic:
            for index, point in enumerate(self.points):
                if point["_ts"] == ts:
                    point.update(fields)
                    return index
        self.points.append({**fields, "_ts": ts})
        return len(self.points) - 1

    def assert_read(self, result: Mapping[str, Any]) -> None:
        """``read(limit=None)`` gave exactly these points, value by value and type by type."""
        got = result["data"]
        assert result["total"] == len(self.points), (result["total"], self.points)
        assert [point["index"] for point in got] == list(range(len(self.points)))
        for expected, point in zip(self.points, got, strict=True):
            found = point["data"]
            assert found.keys() == expected.keys(), (expected, found)
            assert list(found)[-1] == "_ts"
            for name, value in expected.items():
                assert same(value, found[name], widened=name in self.wide), (name, value, found[name], point["index"])


class Spy(SessionClock):
    """A session's clock on a time that the test sets; it notes every automatic timestamp that batches draw."""

    __slots__ = ("drawn",)

    def __init__(self, now: Any) -> None:
        super().__init__(now)
        self.drawn: list[float] = []

    def draw(self) -> float:
        ts = super().draw()
        self.drawn.append(ts)
        return ts

    def reserve(self, count: int) -> tuple[float, float]:
        start, tick = super().reserve(count)
        self.drawn += [start + i * tick for i in range(count)]
        return start, tick

    def take(self) -> list[float]:
        """What was drawn since the last call."""
        drawn, self.drawn = self.drawn, []
        return drawn


class Time:
    """A clock that stands still until it is moved, backwards too."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def spy_on(session: Any, time: Time) -> Spy:
    """Give an open session that nothing was appended to yet a clock that shows what it draws."""
    spy = Spy(time)
    clock = session.writer.clock
    if isinstance(clock, Spy):
        return clock
    spy.resume(clock.last)
    session.writer.clock = spy
    return spy


def points_of(track: Any) -> list[dict[str, Any]]:
    """All points of a track as `read` gives them."""
    return [point["data"] for point in track.read(limit=None)["data"]]


def without_ts(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The fields of points."""
    return [{name: value for name, value in point.items() if name != "_ts"} for point in points]
