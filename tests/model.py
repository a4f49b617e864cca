"""What a track is, in plain Python: a list of points and the rules by which appends merge. Tests compare against it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from columnar import holds_float, same

from dreamlake.clock import SessionClock


class Row(NamedTuple):
    """What one append gives a track: fields, timestamp, and whether that is an automatic one."""

    fields: Mapping[str, Any]
    ts: float
    automatic: bool


class ModelTrack:
    """Points in the order of first arrival; an explicit timestamp merges into the lowest index that has it."""

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []
        #: Fields that ever held a float: an int beside it may be read as the equal float.
        self.wide: set[str] = set()
        #: What each point was before, since `all_sent`, and how many points there were then.
        self.past: list[list[dict[str, Any]]] = []
        self.sent = 0
        # The lowest index of each timestamp.
        self._first: dict[float, int] = {}

    def add(self, fields: Mapping[str, Any], ts: float, automatic: bool) -> int:
        """Take one point, and return the index that it has or merged into."""
        self.wide |= {name for name, value in fields.items() if holds_float(value)}
        index = None if automatic else self._first.get(ts)
        if index is None:
            self._append({**fields, "_ts": ts})
            return len(self.points) - 1
        merged = {**self.points[index], **fields}
        merged["_ts"] = merged.pop("_ts")
        self._replace(index, merged)
        return index

    def _append(self, point: dict[str, Any]) -> None:
        self._first.setdefault(point["_ts"], len(self.points))
        self.points.append(point)
        self.past.append([])

    def _replace(self, index: int, point: dict[str, Any]) -> None:
        self.past[index].append(self.points[index])
        self.points[index] = point

    # -- flushes that end half-way -----------------------------------------------------------------------------------

    def take_in(
        self,
        rows: Sequence[Row],
        found: Sequence[Mapping[str, Any]],
        pending: Collection[float] = (),
        unsure: Sequence[Row] = (),
    ) -> list[Row]:
        """Take in what is found of these rows, which a flush has written in part or in full.

        Of points that were there each has all of its new fields or none; of new ones the first so many are there.

        Parameters
        ----------
        found
            The points that the track holds now.
        pending
            Explicit timestamps of which the writer still has rows to write.
        unsure
            Rows behind these that are stored elsewhere, whether they are in the track by now or not.

        Returns
        -------
        list[Row]
            What is not written of `rows`, as the writer will try it again.
        """
        before, whole, only_unsure = len(self.points), self._copy(), self._copy()
        set_by: dict[int, dict[str, Any]] = {}
        automatic: dict[int, bool] = {}
        for row in rows:
            index = whole.add(*row)
            set_by.setdefault(index, {}).update(row.fields)
            automatic.setdefault(index, row.automatic)
        full = whole._copy()
        for row in unsure:
            full.add(*row)
            only_unsure.add(*row)
        count = len(found)
        assert before <= count <= len(full.points), f"{count} points, not {before} to {len(full.points)}"
        self.wide = full.wide
        rest = []
        for index in range(before, max(count, len(whole.points))):
            if index < count:
                forms = [*whole.points[index : index + 1], full.points[index]]
                form = self._find(forms, found[index])
                assert form is not None, (index, forms, found[index])
                self._append(form)
            else:
                point = whole.points[index]
                rest.append(Row(_without(point), point["_ts"], automatic[index]))
        for index in range(before):
            old, point = self.points[index], found[index]
            form = self._find([full.points[index], whole.points[index]], point)
            is_written = form is not None
            form = form or self._find([only_unsure.points[index], old], point)
            assert form is not None, (index, _differences(old, full.points[index], point))
            if form is not old:  # 1 and True are equal
                self._replace(index, form)
            if index in set_by and (not is_written or old["_ts"] in pending):
                rest.append(Row(set_by[index], old["_ts"], False))
        return rest

    def _find(self, forms: Sequence[dict[str, Any]], found: Mapping[str, Any]) -> dict[str, Any] | None:
        return next((form for form in forms if self.is_same(form, found)), None)

    def _copy(self) -> ModelTrack:
        copy = ModelTrack()
        copy.points, copy.wide, copy._first = list(self.points), set(self.wide), dict(self._first)
        copy.past = [[] for _ in self.points]
        return copy

    # -- copies elsewhere --------------------------------------------------------------------------------------------

    def all_sent(self) -> None:
        """Everything is in a copy elsewhere, too."""
        self.past = [[] for _ in self.points]
        self.sent = len(self.points)

    def assert_earlier(self, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A copy elsewhere holds all that was there at `all_sent`, and each point as it is or was since.

        Returns the points as they are there.
        """
        assert self.sent <= len(found) <= len(self.points), (self.sent, len(found), len(self.points))
        points = []
        for index, point in enumerate(found):
            forms = [self.points[index], *self.past[index]]
            form = self._find(forms, point)
            assert form is not None, (index, forms, point)
            points.append(form)
        return points

    def go_back_to(self, points: Sequence[dict[str, Any]]) -> None:
        """Hold these points and no others: they are all that is left."""
        self.points, self.past, self._first = [], [], {}
        for point in points:
            self._append(point)
        self.all_sent()

    # -- comparing ---------------------------------------------------------------------------------------------------

    def is_same(self, expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        """Whether a point is the expected one, value by value and type by type."""
        return (
            found.keys() == expected.keys()
            and list(found)[-1] == "_ts"
            and all(self._equal(name, value, found[name]) for name, value in expected.items())
        )

    def assert_read(self, result: Mapping[str, Any]) -> None:
        """``read(limit=None)`` gave exactly these points, value by value and type by type."""
        got = result["data"]
        assert result["total"] == len(self.points), (result["total"], self.points)
        assert [point["index"] for point in got] == list(range(len(self.points)))
        self.assert_points(self.points, got)

    def assert_points(self, expected: Sequence[Mapping[str, Any]], got: Sequence[Mapping[str, Any]]) -> None:
        """These points were read, whatever their indices."""
        for wanted, point in zip(expected, got, strict=True):
            found = point["data"]
            assert found.keys() == wanted.keys(), (wanted, found)
            assert list(found)[-1] == "_ts"
            for name, value in wanted.items():
                assert self._equal(name, value, found[name]), (name, value, found[name], point["index"])

    def _equal(self, name: str, value: Any, found: Any) -> bool:
        if name == "_ts":  # 0.0 and -0.0 are one timestamp, and either may stay when they have met
            return type(found) is float and bool(value == found)
        return same(value, found, widened=name in self.wide)


def _differences(*points: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The fields in which points differ, and what each has there."""
    names = dict.fromkeys(name for point in points for name in point)
    values = {name: [point.get(name, "nothing") for point in points] for name in names}
    return {name: each for name, each in values.items() if len({repr(value) for value in each}) > 1}


def _without(point: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name != "_ts"}


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


def spy_on(session: Any, time: Time, inherits: bool = False) -> Spy:
    """Give an open session that nothing was appended to yet a clock that shows what it draws.

    With `inherits`, ``_ts=-1`` takes what this process appended before the session was opened again.
    """
    clock = session.writer.clock
    if isinstance(clock, Spy):
        return clock
    session.writer.clock = spy = Spy(time)
    spy.resume(clock.last)
    if inherits:
        spy._start, spy._explicit = clock._start, clock._explicit
    return spy


def points_of(track: Any) -> list[dict[str, Any]]:
    """All points of a track as `read` gives them."""
    return [point["data"] for point in track.read(limit=None)["data"]]


def without_ts(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The fields of points."""
    return [_without(point) for point in points]
