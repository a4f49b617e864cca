"""A frame that is held while its run changes: later forms of its segments are read, another run's are refused."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pytest

from dreamlake import Lake, Session
from dreamlake.engine.repair import repair_session
from dreamlake.errors import DreamlakeError
from dreamlake.format import live
from dreamlake.format.layout import parse_segment

REFUSED = "holds other points than when this snapshot was taken"
FORMS = ["parts", "merged", "late"]


@pytest.fixture(autouse=True)
def not_too_young(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamlake.engine.samerun.YOUNG", 0.0)


@pytest.fixture(params=["here", "replica"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path / "lake", f"memory://{uuid.uuid4().hex}" if request.param == "replica" else None)


class Place:
    """A lake in a folder, and perhaps a copy of it that is not local, which is read then."""

    def __init__(self, root: Path, url: str | None) -> None:
        self.root = root
        self.url = url
        self.folder = root / "w/s/tracks/t"

    @property
    def lake(self) -> Lake:
        return Lake(self.root if self.url is None else self.url)

    def scans(self, **how: Any) -> list[pl.LazyFrame]:
        return [self.lake.scan("t", **how), self.lake.session("s", "w").track("t").scan(**how)]

    def make(self, form: str, first: float, *, count: int = 105, step: float = 1.0) -> None:
        """Make the run anew, with `first` and so many points behind."""
        self.remove()
        self.append([{"life": first, "i": i, "_ts": first + step * i} for i in range(count)])
        if form == "merged":
            self.compact()
        if form == "late":
            self.append([{"note": 1, "_ts": first}])

    def append(self, points: list[dict[str, Any]]) -> None:
        with Session("s", "w", self.root, segment_points=10) as session:
            session.track("t").append_batch(points)
        self.swept()

    def compact(self) -> None:
        """What another process does; and a minute passes."""
        with Session("s", "w", self.root, segment_points=10) as session:
            session.track("t").compact()
        self.swept()

    def swept(self) -> None:
        names = live.parse_listing(os.listdir(self.folder))
        for name in live.superseded(names, live.live_segments(names)):
            (self.folder / name.filename).unlink()
        self.copy()

    def copy(self) -> None:
        if self.url is not None:
            files = fsspec.filesystem("memory")
            if files.exists(self.url):
                files.rm(self.url, recursive=True)
            files.put(f"{self.root}/", f"{self.url}/", recursive=True)

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def segments(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if parse_segment(name))


QUERIES: list[Callable[[pl.LazyFrame], pl.LazyFrame]] = [
    lambda frame: frame,
    lambda frame: frame.head(3),
    lambda frame: frame.tail(60).head(3),
    lambda frame: frame.select("i"),
    lambda frame: frame.filter(pl.col("_ts").is_between(1_020.0, 1_033.0)),
    lambda frame: frame.filter(pl.col("_index").is_between(20, 33)),
    lambda frame: frame.group_by("life").len(),
]


@pytest.mark.parametrize("new", FORMS)
@pytest.mark.parametrize("old", FORMS)
def test_a_run_made_anew_in_another_form_is_refused(place: Place, old: str, new: str) -> None:
    place.make(old, 1_000.0)
    frames = place.scans()
    expected = [[query(frame).collect() for query in QUERIES] for frame in place.scans()]
    place.make(new, 2_000.0)
    for frame, rows in zip(frames, expected, strict=True):
        for query, found in zip(QUERIES, rows, strict=True):
            refused(query(frame), found)
    for frame in frames:
        with pytest.raises(DreamlakeError, match=REFUSED):
            frame.collect()
    assert place.scans()[0].collect()["life"].to_list() == [2_000.0] * 105


def refused(frame: pl.LazyFrame, expected: pl.DataFrame) -> None:
    """The frame tells of another run, or gives what it held of its own, as it may hold the newest segment."""
    try:
        found = frame.collect()
    except DreamlakeError as error:
        told = str(error)
    else:
        assert found.equals(expected)
        return
    assert REFUSED in told


@pytest.mark.parametrize("new", FORMS)
@pytest.mark.parametrize("old", FORMS)
def test_on_this_machine_the_same_times_are_refused_too(tmp_path: Path, old: str, new: str) -> None:
    place = Place(tmp_path / "lake", None)
    place.make(old, 1_000.0)
    frames = place.scans()
    place.make(new, 1_000.0)
    for query in QUERIES:
        for frame in frames:
            with pytest.raises(DreamlakeError, match=REFUSED):
                query(frame).collect()


@pytest.mark.parametrize(("count", "step"), [(105, 0.5), (45, 1.0), (205, 1.0), (5, 1.0)])
@pytest.mark.parametrize("new", ["parts", "merged"])
@pytest.mark.parametrize("old", ["parts", "merged"])
def test_times_that_overlap_are_no_proof(place: Place, old: str, new: str, count: int, step: float) -> None:
    """Runs whose `_ts` are their steps, of another length or with other steps."""
    place.make(old, 0.0)
    frames = [frame.drop("_workspace", "_session", strict=False) for frame in place.scans()]
    expected = place.scans()[1].collect()
    place.make(new, 0.0, count=count, step=step)
    if step == 1.0 and place.url is not None and count > 105:
        return  # the same times: those cannot be told from one another on a replica
    for frame in frames:
        refused(frame, expected)
        with pytest.raises(DreamlakeError, match=REFUSED):
            frame.collect()


def test_times_within_a_merged_segment_are_compared_too(place: Place) -> None:
    place.make("parts", 0.0, count=100)
    frames = place.scans()
    place.remove()
    place.append([{"_ts": ts} for ts in (0.0, *(90.5 + i / 20 for i in range(98)), 99.0)])
    place.compact()
    for frame in frames:
        for query in (frame, frame.tail(3), frame.filter(pl.col("_index") == 50)):
            with pytest.raises(DreamlakeError, match=REFUSED):
                query.collect()


@pytest.mark.parametrize("filtered", ["_ts", "_index"])
def test_row_groups_of_another_run_leave_nothing_out(tmp_path: Path, filtered: str) -> None:
    """What they say may be that nothing is there of what is sought."""
    for start in (1e6, 2e6):
        shutil.rmtree(tmp_path, ignore_errors=True)
        with Session("s", "w", tmp_path) as session:
            session.track("t").append_batch({"_ts": start + np.arange(300_000), "i": np.arange(300_000)})
        if start == 1e6:
            frames = [Lake(tmp_path).scan("t"), Lake(tmp_path).session("s", "w").track("t").scan()]
    first = 1e6 if filtered == "_ts" else 0
    for frame in frames:
        for at in (first + 50, first + 150_050):
            with pytest.raises(DreamlakeError, match=REFUSED):
                frame.filter(pl.col(filtered).is_between(at, at + 9)).collect()


@pytest.mark.parametrize("errors", ["raise", "skip"])
@pytest.mark.parametrize("count", [100, 105, 405])
def test_later_forms_are_read(place: Place, errors: str, count: int) -> None:
    """Late fields, merges of just what the frame has, and merges of what was appended behind it."""
    place.make("parts", 0.0, count=count)
    frames = place.scans(errors=errors)
    expected = [frame.collect() for frame in frames]

    def compare() -> None:
        for frame, rows in zip(frames, expected, strict=True):
            assert frame.collect().equals(rows)
            assert frame.select("i").tail(7).collect().equals(rows.select("i").tail(7))
            assert frame.filter(pl.col("_ts").is_between(41, 44)).collect().equals(rows[41:45])

    place.append([{"note": i, "_ts": float(i)} for i in range(0, count, 7)])
    compare()
    frames += place.scans(errors=errors)
    expected += [frame.collect() for frame in frames[2:]]
    place.compact()
    compare()
    place.append([{"life": 0.0, "i": i, "_ts": float(i)} for i in range(count, 1_500)])
    place.compact()
    place.append([{"later": i, "_ts": float(i)} for i in range(0, count, 5)])
    assert len(place.segments()) == 6
    compare()


def test_points_appended_with_earlier_times_and_merged_are_no_other_run(place: Place) -> None:
    place.make("parts", 1_000.0, count=45)
    frames = place.scans()
    place.append([{"life": 0.0, "i": i, "_ts": float(i)} for i in range(45, 100)])
    place.compact()
    assert len(place.segments()) == 1
    for frame in frames:
        assert frame.collect()["i"].to_list() == list(range(45))


def test_a_merge_that_has_not_the_times_of_hot_points_is_another_run_s(place: Place) -> None:
    place.make("parts", 1_000.0, count=45)
    frames = place.scans()
    place.remove()
    place.append(
        [{"life": 0.0, "i": i, "_ts": 1_000.0 + i} for i in range(40)] + [{"_ts": 999.0 + i / 100} for i in range(60)]
    )
    place.compact()
    for frame in frames:
        with pytest.raises(DreamlakeError, match=REFUSED):
            frame.collect()


def test_what_a_repair_gave_up_is_no_other_run(tmp_path: Path) -> None:
    """It may divide a segment; what is left of the points of the frame is read."""
    with Session("s", "w", tmp_path, segment_points=100_000) as session:
        session.track("t").append_batch({"i": np.arange(200_000), "_ts": np.arange(200_000) * 1.0})
    frame = Lake(tmp_path).session("s", "w").track("t").scan(errors="skip")
    folder = tmp_path / "w/s/tracks/t"
    segment = folder / "000000000000-000000100000.parquet"
    data = bytearray(segment.read_bytes())
    data[len(data) // 10 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 10)
    segment.write_bytes(data)
    repair_session(str(tmp_path), "w/s", give_up_lost=True)
    assert len([name for name in os.listdir(folder) if parse_segment(name)]) > 2
    found = frame.collect()["i"].to_list()
    assert 100_000 < len(found) < 200_000
    assert found == sorted(found)


def test_a_shorter_run_is_told_from_damage(place: Place) -> None:
    """Nobody must begin to repair it."""
    place.make("parts", 1_000.0)
    frames = place.scans()
    place.make("parts", 1_000.0, count=5)
    for frame in frames:
        with pytest.raises(DreamlakeError, match=REFUSED):
            frame.filter(pl.col("_index") == 55).collect()


def test_a_segment_that_is_missing_is_damage_all_the_same(place: Place) -> None:
    place.make("parts", 1_000.0)
    frames = place.scans()
    (place.folder / place.segments()[0]).unlink()
    place.copy()
    for frame in frames:
        with pytest.raises(DreamlakeError, match="the file is missing"):
            frame.collect()


def test_where_session_json_does_not_say_when_it_began_nothing_is_refused(place: Place) -> None:
    place.make("parts", 0.0)
    frames = place.scans()
    for content in (b"", b"{}", b'{"createdAt": 5}', b"torn"):
        (place.root / "w/s/session.json").write_bytes(content)
        names = live.parse_listing(os.listdir(place.folder))
        (place.folder / names[0].filename).rename(place.folder / "aside")
        place.copy()
        for frame in frames:
            with pytest.raises(DreamlakeError, match="the file is missing"):
                frame.collect()
        (place.folder / "aside").rename(place.folder / names[0].filename)
