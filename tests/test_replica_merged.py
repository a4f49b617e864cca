"""Another machine has merged segments that are away here: the merged form is read in their place, and taken over."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import dreamlake.engine.compactor as compactor
import dreamlake.engine.replica.tracks as sending
from dreamlake import Lake, Session
from dreamlake.engine.replica.comparing import Comparing
from dreamlake.errors import CorruptTrackError, PointsNotHereError, RemoteConflictError
from dreamlake.storage.remote import RemoteStore

SIZE = 5
Elsewhere = tuple[str, dict[str, Any] | None]
Points = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is merged by itself, and parts go from the replica at once."""
    monkeypatch.setattr(compactor, "DELAY", 1e6)
    monkeypatch.setattr(sending, "GRACE", -1.0)


def opened(root: Path, elsewhere: Elsewhere, **options: Any) -> Session:
    url, storage = elsewhere
    options = {"segment_points": SIZE, "flush_interval": 3600.0, "sync_interval": 3600.0, **options}
    return Session("s", "w", root, remote=url, storage_options=storage, **options)


def points(start: int, stop: int) -> Points:
    return [{"i": i, "_ts": float(i)} for i in range(start, stop)]


class Machines:
    """One that wrote the points, and another that goes on with them; both are in session."""

    def __init__(self, root: Path, elsewhere: Elsewhere, count: int) -> None:
        self.root = root
        self.elsewhere = elsewhere
        self.first = opened(root / "first", elsewhere).open()
        self.expected = points(0, count)
        self.first.track("a").append_batch(self.expected)
        self.first.sync()
        self.session = opened(root / "second", elsewhere).open()
        self.track = self.session.track("a")

    def merge(self) -> None:
        """The first one merges, and the parts go from the replica."""
        self.first.track("a").compact()
        self.first.sync()
        self.first.sync()
        self.first.close()

    def append(self, count: int) -> None:
        more = points(len(self.expected), len(self.expected) + count)
        self.expected = self.expected + more
        self.track.append_batch(more)
        self.track.flush()

    def late(self, at: int, note: int) -> None:
        self.expected = [*self.expected]
        self.expected[at] = {"i": at, "note": note, "_ts": float(at)}
        self.track.append(note=note, _ts=float(at))

    def has_whole(self) -> bool:
        """Whether the merged segment is on the second machine."""
        return "000000000000-000000000050.parquet" in os.listdir(self.root / "second/w/s/tracks/a")

    def assert_read(self) -> None:
        """Every way to read on the second machine gives what is expected."""
        rows = self.expected
        assert [row["data"] for row in self.track.read(limit=None)["data"]] == rows
        for at in (0, 7, SIZE - 1, len(rows) - 1):
            assert self.track.read(at, 2)["data"] == [
                {"index": i, "data": row} for i, row in enumerate(rows[at : at + 2], at)
            ]
        assert [row["data"] for row in self.track.read_by_time(3.0, 8.0)["data"]] == rows[3:8]
        assert self.track.to_polars()["i"].to_list() == [row["i"] for row in rows]
        assert self.track.scan().filter(pl.col("_ts") < 4).collect()["i"].to_list() == [0, 1, 2, 3]

    def assert_there(self) -> None:
        """The replica says the same."""
        lake = Lake(*self.elsewhere)
        try:
            data = lake.session("s", "w").track("a").read(limit=None)["data"]
        finally:
            if isinstance(lake._store, RemoteStore):
                lake._store.close()
        assert [row["data"] for row in data] == self.expected

    def close(self) -> None:
        self.session.close()
        self.assert_there()
        with opened(self.root / "second", self.elsewhere) as session:
            assert [row["data"] for row in session.track("a").read(limit=None)["data"]] == self.expected


@pytest.mark.parametrize("more", [0, 3, 2 * SIZE + 3])
def test_what_another_machine_has_merged_is_read(lake_dir: Path, elsewhere: Elsewhere, more: int) -> None:
    machines = Machines(lake_dir, elsewhere, 50)
    frame, expected = machines.track.scan(), machines.expected
    machines.merge()
    if more:
        machines.append(more)
    machines.assert_read()
    assert frame.collect()["i"].to_list() == [row["i"] for row in expected]
    machines.session.sync()
    machines.assert_read()
    machines.close()


@pytest.mark.parametrize("by", ["sync", "close", "read"])
@pytest.mark.parametrize(("before", "more"), [(0, 0), (0, 3), (0, 2 * SIZE + 3), (SIZE, 1)])
def test_a_late_field_for_it_is_merged(lake_dir: Path, elsewhere: Elsewhere, before: int, more: int, by: str) -> None:
    """It waits for a segment that is not on the replica any more."""
    machines = Machines(lake_dir, elsewhere, 50)
    if before:
        machines.append(before)
        machines.session.sync()
    machines.merge()
    if more:
        machines.append(more)
    machines.late(7, 1)
    machines.late(23, 2)
    if by == "sync":
        machines.session.sync()
        machines.assert_there()
    if by == "read":
        machines.assert_read()
        machines.session.sync()
    machines.close()


def test_it_is_taken_over_after_a_read_though_nothing_is_written(lake_dir: Path, elsewhere: Elsewhere) -> None:
    machines = Machines(lake_dir, elsewhere, 50)
    machines.merge()
    machines.session.track("b").append(x=1)
    machines.session.sync()
    machines.assert_read()
    machines.session.sync()
    assert machines.has_whole()
    machines.assert_read()
    machines.close()


def test_it_is_taken_over_in_the_background(lake_dir: Path, elsewhere: Elsewhere) -> None:
    """Soon after a read, though the interval is an hour."""
    machines = Machines(lake_dir, elsewhere, 50)
    machines.merge()
    machines.assert_read()
    deadline = time.monotonic() + 30.0
    while not machines.has_whole() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert machines.has_whole()
    machines.assert_read()
    machines.close()


def test_a_late_field_for_a_segment_that_is_here_is_a_conflict(lake_dir: Path, elsewhere: Elsewhere) -> None:
    """It was merged there without it: neither side holds all that the other does."""
    machines = Machines(lake_dir, elsewhere, 50)
    machines.merge()
    machines.late(48, 1)
    machines.late(7, 2)
    with pytest.raises(RemoteConflictError):
        machines.session.sync()
    with pytest.raises(PointsNotHereError):
        machines.track.read(7, 1)
    with pytest.raises(RemoteConflictError):
        machines.session.close()


def test_what_is_written_meanwhile_is_no_conflict(
    lake_dir: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop goes on while both sides are compared."""
    machines = Machines(lake_dir, elsewhere, 50)
    machines.merge()
    machines.late(7, 1)
    left = [3]
    compare_if_due = Comparing.compare_if_due

    def meanwhile(comparing: Comparing) -> None:
        if not comparing.is_done and left:
            machines.append(left.pop())
        compare_if_due(comparing)

    monkeypatch.setattr(Comparing, "compare_if_due", meanwhile)
    machines.session.sync()
    assert not left
    machines.assert_read()
    machines.close()


def test_points_that_nobody_has_are_no_damage(
    lake_dir: Path, elsewhere: Elsewhere, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody must begin to repair what may be on a replica that is not mounted."""
    machines = Machines(lake_dir, elsewhere, 50)
    machines.append(3)
    machines.session.sync()
    store = RemoteStore(*elsewhere)
    kept = {name: store.get(name) for name in (f"w/s/tracks/a/{i:012}-{i + 5:012}.parquet" for i in (5, 10))}
    for name in kept:
        store.delete(name)
    for read in (lambda: machines.track.read(7, 1), machines.track.to_polars, machines.track.scan().collect):
        with pytest.raises(PointsNotHereError) as caught:
            read()
        assert not isinstance(caught.value, CorruptTrackError)
        assert (caught.value.start, caught.value.stop) == (5, 10)
        assert caught.value.missing == store.describe("w/s/tracks/a/000000000005-000000000010.parquet")
        assert caught.value.missing in str(caught.value)
    rows = machines.track.read(limit=None, errors="skip")["data"]
    assert [row["index"] for row in rows] == [*range(5), *range(15, 53)]
    assert len(machines.track.read(-1)["data"]) == 1
    machines.track.append(note=1, _ts=7.0)
    with pytest.raises(OSError, match="the points 5 to 10") as told:
        machines.session.sync()
    assert not isinstance(told.value, CorruptTrackError)
    for name, data in kept.items():
        store.create(name, data)
    store.close()
    machines.expected[7] = {"i": 7, "note": 1, "_ts": 7.0}
    machines.session.sync()
    machines.first.close()
    machines.close()
