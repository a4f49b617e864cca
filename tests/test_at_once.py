"""Readers that ask for the listing first, and for the rest at once, while a writer changes everything meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlake import Session
from dreamlake.engine.reader import TrackReader
from dreamlake.format.layout import HOT_FILE
from dreamlake.storage.store import Entry

State = dict[str, bytes]
FOLDER = "w/s/tracks/a"


@functools.cache
def history(folder: Path) -> tuple[list[State], list[list[dict[str, Any]]]]:
    """Every state in which a replica stands while a track grows, rolls and gets late fields, object by object.

    Returns the states, and for each the points whose flush had ended by then and was sent.
    """
    states: list[State] = [{}]
    sure: list[list[dict[str, Any]]] = [[]]
    points: list[dict[str, Any]] = []
    with Session("s", "w", folder, segment_points=4, flush_interval=3600.0) as session:
        track = session.track("a")
        for count, late in [(2, None), (2, None), (1, 0), (4, None), (3, 6), (1, 4), (9, 12), (2, None), (1, 21)]:
            for _ in range(count):
                point = {"n": len(points), "_ts": float(len(points))}
                points.append(point)
                track.append(**point)
            if late is not None and late < len(points):
                points[late] = {"n": late, "late": len(points), "_ts": float(late)}
                track.append(late=len(points), _ts=float(late))
            track.flush()
            now = {path.name: path.read_bytes() for path in (folder / FOLDER).iterdir() if path.is_file()}
            for name in sorted(now, key=lambda name: (name == HOT_FILE, name)):  # segments first, then the hot file
                if states[-1].get(name) != now[name]:
                    states.append({**states[-1], name: now[name]})
                    sure.append(sure[-1])
            sure[-1] = [dict(point) for point in points]
    return states, sure


class Moving:
    """A store that moves on to a later state whenever it is asked for an object, or looks at one for a listing."""

    is_local = False
    at_once = True
    width = 4

    def __init__(self, states: list[State], now: int, steps: list[int], hot_first: bool) -> None:
        self.states = states
        self.now = now
        self.steps = list(steps)
        self.hot_first = hot_first
        self.asked: list[str] = []

    def look(self) -> State:
        self.now = min(self.now + (self.steps.pop() if self.steps else 0), len(self.states) - 1)
        return self.states[self.now]

    def list(self, path: str) -> list[Entry]:
        self.asked.append("LIST")
        before = self.look()
        after = self.look()
        hot, rest = (before, after) if self.hot_first else (after, before)
        found = {name: data for name, data in rest.items() if name != HOT_FILE}
        if HOT_FILE in hot:
            found[HOT_FILE] = hot[HOT_FILE]
        return [Entry(name, len(data), 0.0, False) for name, data in sorted(found.items())]

    def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        self.asked.append(path.rpartition("/")[2])
        try:
            return self.look()[path.rpartition("/")[2]][start:stop]
        except KeyError:
            raise FileNotFoundError(path) from None

    def get_many(self, wanted: list[tuple[str, int, int | None]]) -> list[bytes | Exception]:
        found: dict[int, bytes | Exception] = {}
        order = list(enumerate(wanted))
        for place, each in order[::-1] if self.hot_first else order:
            try:
                found[place] = self.get(*each)
            except FileNotFoundError as error:
                found[place] = error
        return [found[place] for place in range(len(wanted))]

    @contextmanager
    def arrivals(self, wanted: list[tuple[str, int, int | None]]) -> Iterator[Any]:
        left = list(enumerate(wanted))

        def take() -> tuple[int, bytes | Exception]:
            place, each = left.pop()
            return place, self.get_many([each])[0]

        yield take

    def describe(self, path: str = "") -> str:
        return f"moving://{path}"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


moves = st.lists(st.integers(0, 4), max_size=12)


@given(st.data())
def test_what_was_flushed_before_is_there_whatever_happens_meanwhile(written: Path, data: st.DataObject) -> None:
    states, sure = history(written)
    begin = data.draw(st.integers(0, len(states) - 1))
    store = Moving(states, begin, data.draw(moves), data.draw(st.booleans()))
    described = data.draw(st.booleans())
    wanted = data.draw(st.sampled_from([(0, None), (0, 3), (3, 8), (11, 4), (0, 100)]))
    reader = TrackReader(store, FOLDER, "a")  # type: ignore[arg-type]
    snapshot = reader.snapshot(described=described, wanted=wanted)
    check(snapshot, sure[begin], sure[-1])
    again = reader.snapshot(described=not described)
    assert again.total >= snapshot.total
    check(again, sure[begin], sure[-1])


@given(st.data())
def test_a_listing_from_the_beginning_of_a_call_is_as_good(written: Path, data: st.DataObject) -> None:
    """As a scan of many runs has it: one listing of all of them, and a while later the look at each."""
    states, sure = history(written)
    begin = data.draw(st.integers(0, len(states) - 1))
    now = data.draw(st.integers(begin, len(states) - 1))
    store = Moving(states, now, data.draw(moves), data.draw(st.booleans()))
    listing: dict[str, int | None] = {name: len(content) for name, content in states[begin].items()}
    reader = TrackReader(store, FOLDER, "a")  # type: ignore[arg-type]
    check(reader.snapshot(described=True, listing=listing), sure[begin], sure[-1])


def check(snapshot: Any, sure: list[dict[str, Any]], last: list[dict[str, Any]]) -> None:
    """The points are the beginning of the last state's, none that was sure is missing, nor a field of it."""
    rows = snapshot.points(0, snapshot.total)
    assert [index for index, _ in rows] == list(range(snapshot.total))
    assert snapshot.total >= len(sure)
    for index, point in rows:
        assert {"n": index, "_ts": float(index)}.items() <= point.items() <= last[index].items()
        if index < len(sure):
            assert sure[index].items() <= point.items(), "a field is missing"


def test_every_single_step_at_every_place(written: Path) -> None:
    states, sure = history(written)
    assert len(states) > 20
    assert any(name.endswith(".1.parquet") for name in states[-1])
    for begin in range(len(states)):
        for place in range(6):
            for step in range(1, 7):
                for hot_first in (False, True):
                    store = Moving(states, begin, [0] * (8 - place) + [step] + [0] * place, hot_first)
                    reader = TrackReader(store, FOLDER, "a")  # type: ignore[arg-type]
                    check(reader.snapshot(wanted=(0, 6), described=True), sure[begin], sure[-1])


def test_a_track_that_stands_still_is_asked_for_nothing_twice(written: Path) -> None:
    states, _ = history(written)
    for number, state in enumerate(states):
        store = Moving(states, number, [], False)
        reader = TrackReader(store, FOLDER, "a")  # type: ignore[arg-type]
        snapshot = reader.snapshot(wanted=(0, 4), described=True)
        snapshot.points(0, min(4, snapshot.total))
        # Where the hot file is empty it is listed again instead of read.
        lists = 2 if state.get(HOT_FILE) == b"" else 1
        files = [name for name in store.asked if name != "LIST"]
        assert len(store.asked) - len(files) == lists
        assert len(files) == len(set(files))
