"""Appending to a track: fields of any name, timestamps of every kind, snapshots, refusals, and what the track says."""

from __future__ import annotations

import builtins
import errno
import json
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import inf, nextafter
from pathlib import Path
from threading import Barrier, Thread, current_thread
from typing import Any

import numpy as np
import pytest
from model import Time, points_of, spy_on, without_ts

import dreamlake.storage.local as local
from dreamlake import Session
from dreamlake.errors import SessionNotFoundError, TrackNotFoundError

HOUR = 3600.0


@pytest.fixture
def session(lake_dir: Path) -> Iterator[Session]:
    """An open session that flushes only when asked to and rolls at seven points."""
    with Session("s", "w", lake_dir, flush_interval=HOUR, segment_points=7) as session:
        yield session


# ------------------------------------------------------------------------------------------------ fields

NAMES = [
    *["self", "track", "lock", "fields", "session", "cls", "args", "kwargs", "append", "make", "index", "data", "name"],
    *["", " ", "x y", "a.b", "a/b", "é", "漢字", "1st", "lambda", "None", "$date", "\x00", '"', "\n", "A", "ﬁ", "ª"],
    *(name for name in dir(builtins) if name[0] != "_"),
]


@pytest.mark.parametrize("explicit", [False, True])
def test_a_field_may_have_any_name(session: Session, explicit: bool) -> None:
    """Five times each: the first by the general way, later ones by the function generated for their shape."""
    for number, name in enumerate(NAMES):
        track = session.track(f"t{number}")
        for step in range(5):
            extra = {"_ts": float(step)} if explicit else {}
            assert track.append(**{name: step}, **extra) is track
            track.append(**{name: step, "other": 1}, **({"_ts": step + 0.5} if explicit else {}))
        points = without_ts(points_of(track))
        assert points == [fields for step in range(5) for fields in ({name: step}, {name: step, "other": 1})], name


@pytest.mark.parametrize("name", ["_index", "_x", "_", "__class__", "_pending", "_rest", "_missing", "_none"])
def test_a_reserved_name_is_refused(session: Session, name: str) -> None:
    track = session.track("t").append(a=1).append(a=2)
    for fields in ({name: 1}, {"a": 1, name: 1}, {"a": 1, name: 1, "_ts": 5.0}):
        with pytest.raises(ValueError, match=f"{name}.*reserved"):
            track.append(**fields)
    for batch in ([{name: 1}], {name: [1]}, [{"a": 1}, {name: 1}]):
        with pytest.raises(ValueError, match=f"{name}.*reserved"):
            track.append_batch(batch)
    assert len(track) == 2


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: 0, 1j, range(3), [object()], {"k": {1}}, {1: 2}])
def test_a_value_that_cannot_be_stored_is_a_type_error(session: Session, value: Any) -> None:
    track = session.track("t").append(a=1).append(a=2)
    for fields in ({"a": value}, {"b": value}, {"a": value, "_ts": 3.0}):
        with pytest.raises(TypeError, match=r"field '[ab]'"):
            track.append(**fields)
    assert [point["a"] for point in points_of(track)] == [1, 2], "nothing of a refused point stays"


def test_a_large_point_is_refused_and_pointed_to_files(session: Session) -> None:
    track = session.track("t")
    for call in (
        lambda: track.append(image=b"x" * 1_000_000),
        lambda: track.append(**{f"f{i}": "x" * 16_000 for i in range(100)}),
        lambda: track.append_batch([{f"f{i}": "x" * 16_000 for i in range(100)}]),
        lambda: track.append_batch([{"a": 1}, {"a": "x" * 1_100_000}]),
        lambda: track.append_batch({f"f{i}": ["x" * 16_000] for i in range(100)}),
    ):
        with pytest.raises(ValueError, match=r"1 MB.*files\(\)"):
            call()
    assert len(track) == 0
    track.append(image=b"x" * 700_000)
    assert len(points_of(track)[0]["image"]) == 700_000


def test_values_are_keywords_only(session: Session) -> None:
    track = session.track("t")
    for _ in range(3):
        with pytest.raises(TypeError, match=r"append\(\) takes .* positional argument"):
            track.append(5)
        track.append(a=1)


def test_a_point_may_have_no_field(session: Session) -> None:
    track = session.track("t")
    for _ in range(10):
        track.append()
    track.append(_ts=5.0)
    assert without_ts(points_of(track)) == [{}] * 11
    assert track.to_polars().columns == ["_index", "_ts"]


def test_shapes_may_change_at_every_point(session: Session) -> None:
    track = session.track("t")
    shapes = [{f"f{i % 3}": i, "x": 1.0} for i in range(50)]
    for fields in shapes:
        track.append(**fields)
    assert without_ts(points_of(track)) == shapes


# ------------------------------------------------------------------------------------------------ snapshots


def test_what_is_changed_after_an_append_changes_nothing_stored(session: Session) -> None:
    track = session.track("t")
    values: dict[str, Any] = {
        "list": [1, [2]],
        "dict": {"a": {"b": [1]}},
        "array": np.array([1.0, 2.0]),
        "bytes": bytearray(b"ab"),
    }
    expected = {"list": [1, [2]], "dict": {"a": {"b": [1]}}, "array": [1.0, 2.0], "bytes": b"ab"}

    def change() -> None:
        values["list"][1].append(3)
        values["list"].append(4)
        values["dict"]["a"]["b"].append(2)
        values["dict"]["new"] = 1
        values["array"][:] = 0
        values["bytes"][:] = b"zz"

    def restore() -> None:
        values.update(
            {"list": [1, [2]], "dict": {"a": {"b": [1]}}, "array": np.array([1.0, 2.0]), "bytes": bytearray(b"ab")}
        )

    for _ in range(3):
        track.append(**values)
        change()
        restore()
    assert without_ts(points_of(track)) == [expected] * 3


def test_a_batch_is_a_snapshot_too(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by a disk that fails, so that the points are pending while their source changes."""
    track = session.track("t")
    row = {"list": [1], "x": 1}
    rows = [row, {"list": [2], "x": 2}]
    columns = {"list": [[3], [4]], "x": np.array([3, 4])}

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dreamlake.storage.local.append_at", full)
        for batch in (rows, columns, [{"list": [5], "x": 5}, {"y": 6, "list": [6], "x": 6}]):
            assert track.append_batch(batch) == {"count": 2, "startIndex": None, "endIndex": None}
    row["list"].append(9)  # type: ignore[attr-defined]
    row["x"] = 9
    rows.clear()
    columns["list"][0].append(9)  # type: ignore[union-attr]
    columns["x"][:] = 9  # type: ignore[index]
    assert [(point["list"], point["x"]) for point in points_of(track)] == [([i], i) for i in range(1, 7)]


# ------------------------------------------------------------------------------------------------ timestamps


def test_automatic_timestamps_rise_over_all_tracks_and_reopens(lake_dir: Path) -> None:
    time = Time()
    stamps = []
    for _ in range(3):
        with Session("s", "w", lake_dir, flush_interval=HOUR, segment_points=7) as session:
            clock = spy_on(session, time)
            for step in range(20):
                session.track("ab"[step % 2]).append(step=step)
                stamps.append(clock.last)
                if step % 5 == 0:
                    time.now -= 3
                if step % 9 == 0:
                    session.track("a").append_batch([{"step": step}] * 3)
                    stamps.append(clock.last)
        time.now -= 1000
    assert all(a < b for a, b in pairwise(stamps))


def test_a_clock_that_stands_still_gives_the_next_numbers(lake_dir: Path) -> None:
    with Session("s", "w", lake_dir, flush_interval=HOUR) as session:
        spy_on(session, Time(1000.0))
        track = session.track("t")
        for step in range(4):
            track.append(step=step)
        stamps = [point["_ts"] for point in points_of(track)]
    assert stamps[0] == 1000.0
    assert all(b == nextafter(a, inf) for a, b in pairwise(stamps))


def test_an_explicit_timestamp_in_the_future_drags_nothing_along(session: Session) -> None:
    spy_on(session, Time(1000.0))
    track = session.track("t")
    track.append(a=1, _ts=1e12).append(a=2).append(a=3, _ts=5e11)
    track.append_batch([{"a": 4, "_ts": 1e13}])
    track.append(a=5)
    stamps = [point["_ts"] for point in points_of(track)]
    assert stamps == [1e12, 1000.0, 5e11, 1e13, nextafter(1000.0, inf)]


def test_an_automatic_point_never_merges(session: Session) -> None:
    time = Time(1000.0)
    spy_on(session, time)
    track = session.track("t")
    track.append(a=1, _ts=2000.0)
    track.flush()
    time.now = 2000.0
    track.append(b=2)
    track.append(c=3, _ts=2000.0)
    assert points_of(track) == [{"a": 1, "c": 3, "_ts": 2000.0}, {"b": 2, "_ts": 2000.0}]


def test_nothing_to_inherit_gives_an_automatic_timestamp_which_never_merges(lake_dir: Path) -> None:
    for batch in (False, True):
        name = f"s{batch}"
        with Session(name, "w", lake_dir, flush_interval=HOUR) as session:
            session.track("t").append(a=1, _ts=2000.0)
        with Session(name, "w", lake_dir, flush_interval=HOUR) as session:
            spy_on(session, Time(2000.0))
            if batch:
                session.track("t").append_batch([{"b": 2, "_ts": -1}, {"c": 3}])
            else:
                session.track("t").append(b=2, _ts=-1)
            points = points_of(session.track("t"))
        assert points[:2] == [{"a": 1, "_ts": 2000.0}, {"b": 2, "_ts": 2000.0}]


@pytest.mark.parametrize("minus_one", [-1, -1.0, np.float64(-1), np.int64(-1)])
def test_minus_one_takes_the_latest_of_any_track_and_kind(session: Session, minus_one: Any) -> None:
    spy_on(session, Time(1.5e9))
    one, other = session.track("one"), session.track("other")
    one.append(a=1, _ts=1e9 + 7)
    other.append(a=1, _ts=minus_one)
    one.append(a=2)
    other.append(a=2, _ts=minus_one)
    other.append(b=2, _ts=minus_one)
    one.append_batch([{"a": 3, "_ts": 1e9 + 9}, {"a": 4, "_ts": 1e9 + 8}])
    other.append(a=3, _ts=minus_one)
    one.append_batch([{"a": 5}, {"a": 6}])
    other.append(a=4, _ts=minus_one)
    last = points_of(one)[-1]["_ts"]
    assert points_of(other) == [
        {"a": 1, "_ts": 1e9 + 7},
        {"a": 2, "b": 2, "_ts": 1.5e9},
        {"a": 3, "_ts": 1e9 + 8},
        {"a": 4, "_ts": last},
    ]


def test_minus_one_inherits_behind_times_below_it(session: Session) -> None:
    track = session.track("t")
    for value, ts in enumerate([-3.5, -1, -1.25, np.int64(-1), -0.5, -1, 7.0, -1]):
        track.append(a=value, _ts=ts)
    assert points_of(track) == [
        {"a": 1, "_ts": -3.5},
        {"a": 3, "_ts": -1.25},
        {"a": 5, "_ts": -0.5},
        {"a": 7, "_ts": 7.0},
    ]


@pytest.mark.parametrize("minus_one", [-1.0, np.float64(-1), np.float32(-1)])
def test_minus_one_that_may_well_be_a_time_is_refused(session: Session, minus_one: Any) -> None:
    """Times relative to a trigger: to take -1.0 for `_ts=-1` would merge the point with the one before, unseen."""
    track = session.track("t")
    said = "may be a time, or mean that of the latest append: for the latter give the integer -1"
    with pytest.raises(ValueError, match=rf"_ts=-1\.0 with no append before it {said}"):
        track.append(v=-1.0, _ts=minus_one)
    for ts in [-3.0, -2.0, 0.0, 5.0, 9e7]:
        track.append(v=ts, _ts=ts)
        with pytest.raises(ValueError, match=said):
            track.append(v=-1.0, _ts=minus_one)
        with pytest.raises(ValueError, match=said):
            track.append_batch([{"v": -1.0, "_ts": minus_one}, {"v": 1.0}])
    track.append(more=1, _ts=-1)
    track.append(v=1.0, _ts=1e9)
    track.append(more=2, _ts=minus_one)
    points = [(point["v"], point["_ts"], point.get("more")) for point in points_of(track)]
    assert points == [*((ts, ts, None) for ts in [-3.0, -2.0, 0.0, 5.0]), (9e7, 9e7, 1), (1.0, 1e9, 2)]


def test_a_refused_append_is_not_the_latest(session: Session) -> None:
    track = session.track("t").append(a=1, _ts=5.0)
    with pytest.raises(TypeError):
        track.append(a=object(), _ts=6.0)
    with pytest.raises(TypeError):
        track.append_batch([{"a": 1, "_ts": 7.0}, {"a": object(), "_ts": 8.0}])
    track.append(b=1, _ts=-1)
    assert points_of(track) == [{"a": 1, "b": 1, "_ts": 5.0}]


def test_minus_one_works_across_threads(session: Session) -> None:
    session.track("a").append(x=1)

    def other() -> None:
        session.track("b").append(x=1, _ts=-1)

    thread = Thread(target=other)
    thread.start()
    thread.join()
    assert points_of(session.track("a"))[0]["_ts"] == points_of(session.track("b"))[0]["_ts"]


@pytest.mark.parametrize("ts", [0, -0.0, -2, 1.5, 2**60, 1e308, -1e308, 5e-324, np.float32(2.5), np.int64(7), True * 3])
def test_any_finite_number_is_a_timestamp(session: Session, ts: Any) -> None:
    track = session.track("t").append(a=1, _ts=ts)
    track.append(b=2, _ts=float(ts))
    (point,) = points_of(track)
    assert type(point["_ts"]) is float
    assert point == {"a": 1, "b": 2, "_ts": float(ts)}


BAD_TS = [
    *[float("nan"), inf, -inf, np.float32("nan"), 10**400],
    *[True, np.bool_(True), "5", b"5", [5.0], {}, object(), 1j, np.array([1.0, 2.0])],
]


@pytest.mark.parametrize("ts", BAD_TS, ids=lambda ts: f"{type(ts).__name__}")
def test_anything_else_is_no_timestamp(session: Session, ts: Any) -> None:
    track = session.track("t").append(a=1, _ts=1.0).append(a=2, _ts=2.0)
    calls: list[Callable[[], Any]] = [
        lambda: track.append(a=1, _ts=ts),
        lambda: track.append(b=1, _ts=ts),
        lambda: track.append_batch([{"a": 1, "_ts": ts}]),
        lambda: track.append_batch([{"a": 1, "_ts": 3.0}, {"a": 1, "_ts": ts}]),
        lambda: track.append_batch({"a": [1, 2], "_ts": [3.0, ts]}),
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=r"_ts is (not a finite|a) number of seconds"):
            call()
    assert [point["_ts"] for point in points_of(track)] == [1.0, 2.0]


def test_none_is_no_timestamp_given(session: Session) -> None:
    spy_on(session, Time(1000.0))
    track = session.track("t").append(a=1, _ts=None)
    track.append_batch([{"a": 2, "_ts": None}])
    assert points_of(track)[0]["_ts"] == 1000.0
    assert points_of(track)[1]["_ts"] > 1000.0


# ------------------------------------------------------------------------------------------------ threads


def test_many_threads_on_one_and_many_tracks(session: Session) -> None:
    barrier = Barrier(4)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            barrier.wait()
            own, shared, merged = session.track(f"own{number}"), session.track("shared"), session.track("merged")
            for step in range(400):
                own.append(step=step)
                shared.append(thread=number, step=step)
                merged.append(**{f"f{number}": step}, _ts=float(step))
                if step % 100 == 50:
                    shared.flush()
                    shared.append_batch([{"thread": number + 10, "step": step + i} for i in range(3)])
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    shared = points_of(session.track("shared"))
    for number in range(4):
        assert [point["step"] for point in points_of(session.track(f"own{number}"))] == list(range(400))
        assert [p["step"] for p in shared if p["thread"] == number] == list(range(400))
        assert [p["step"] for p in shared if p["thread"] == number + 10] == [
            step + i for step in range(50, 400, 100) for i in range(3)
        ]
    assert len(shared) == 4 * (400 + 12)
    merged = points_of(session.track("merged"))
    assert sorted(point["_ts"] for point in merged) == [float(step) for step in range(400)]
    for point in merged:
        assert {point[f"f{number}"] for number in range(4)} == {int(point["_ts"])}


# ------------------------------------------------------------------------------------------------ what it says


def test_the_track_is_the_same_object_each_time(session: Session) -> None:
    assert session.track("a/b") is session.track("a/b")
    assert session.track("a/b").name == "a/b"
    assert session.track("a/b").flush() is session.track("a/b")
    assert bool(session.track("a/b"))
    assert repr(session.track("a/b")) == "<Track 'a/b'>"


def test_a_track_is_listed_once_it_has_a_flushed_point_or_metadata(session: Session, lake_dir: Path) -> None:
    session.track("silent")
    session.track("point").append(x=1)
    session.track("described", metadata={"unit": "m"})
    session.track("tagged", tags=["t"])
    session.track("told", description="d")
    names = ["described", "point", "tagged", "told"]
    tracks = session.tracks
    assert tracks.list() == list(tracks) == names
    assert len(tracks) == 4
    assert "point" in tracks
    assert "silent" not in tracks
    assert 5 not in tracks
    assert "Tracks" in repr(tracks)
    assert not (lake_dir / "w" / "s" / "tracks" / "silent").exists()


def test_a_parent_and_its_child_are_two_tracks(session: Session) -> None:
    for name in ("a", "a/b", "a/b/c"):
        for step in range(10):
            session.track(name).append(name=name, step=step)
    assert session.tracks.list() == ["a", "a/b", "a/b/c"]
    for name in ("a", "a/b", "a/b/c"):
        assert [point["name"] for point in points_of(session.track(name))] == [name] * 10
    session.track("x/y").append(z=1)
    assert session.tracks.list() == ["a", "a/b", "a/b/c", "x/y"], "x itself is no track"


def test_metadata_is_merged_and_later_ones_win(session: Session, lake_dir: Path) -> None:
    session.track("t", description="one", tags=["a"], metadata={"a": 1, "b": [1]})
    session.track("t").append(x=1).flush()
    metadata = {"b": 2, "c": {"d": float("inf")}}
    session.track("t", metadata=metadata)
    metadata["c"]["d"] = 5  # type: ignore[index]
    session.track("t", tags=["b"])
    stats = session.track("t").stats()
    assert stats["description"] == "one"
    assert stats["tags"] == ["b"]
    assert stats["metadata"] == {"a": 1, "b": 2, "c": {"d": inf}}
    stored = json.loads((lake_dir / "w" / "s" / "tracks" / "t" / "metadata.json").read_text())
    assert stored["name"] == "t"
    assert stored["segment_points"] == 7
    assert stored["format_version"] == 1


@pytest.mark.parametrize(
    "given", [{"description": 5}, {"tags": "t"}, {"tags": [1]}, {"metadata": 5}, {"metadata": {"a": object()}}]
)
def test_metadata_that_cannot_be_stored_is_refused(session: Session, given: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        session.track("t", **given)
    assert session.tracks.list() == []


def test_stats_say_what_is_stored(session: Session) -> None:
    track = session.track("t", description="d", tags=["x"], metadata={"unit": "m"})
    assert track.stats()["totalDataPoints"] == 0
    assert track.stats()["tsMin"] is None
    for step in range(17):
        track.append(step=step, loss=0.5, _ts=float(step))
    stats = track.stats()
    assert stats.pop("bytes") > 0  # type: ignore[misc]
    assert stats == {
        "name": "t",
        "totalDataPoints": 17,
        "bufferedDataPoints": 3,
        "chunkedDataPoints": 14,
        "lostDataPoints": 0,
        "totalChunks": 2,
        "chunkSize": 7,
        "tsMin": 0.0,
        "tsMax": 16.0,
        "fields": {"step": "int64", "loss": "double"},
        "description": "d",
        "tags": ["x"],
        "metadata": {"unit": "m"},
    }


@pytest.mark.parametrize("removed", ["the session", "the track"])
def test_what_was_flushed_and_removed_does_not_read_as_empty(session: Session, lake_dir: Path, removed: str) -> None:
    """A script that goes on from the last point must not begin at 0 since a disk is not mounted any more."""
    track = session.track("a/loss").append(i=1)
    session.parameters().set(lr=1)
    assert len(session.track("another")) == 0, "it may get a point yet"
    track.flush()
    os.rename(lake_dir / "w/s" / ("" if removed == "the session" else "tracks/a"), lake_dir / "away")
    reads: list[Callable[[], object]] = [lambda: len(track), lambda: track.read(-1), track.to_polars, track.stats]
    if removed == "the session":
        reads += [session.tracks.list, session.parameters().get, lambda: len(session.track("another"))]
    for read in reads:
        with pytest.raises((SessionNotFoundError, TrackNotFoundError), match="is not mounted"):
            read()
    os.rename(lake_dir / "away", lake_dir / "w/s" / ("" if removed == "the session" else "tracks/a"))
    assert len(track) == 1
    assert session.parameters().get() == {"lr": 1}


def test_the_hot_file_is_plain_lines(session: Session, lake_dir: Path) -> None:
    track = session.track("train_loss")
    track.append(value=0.5, epoch=1, _ts=1767.25).append(value=0.45, epoch=2, _ts=1768.0).flush()
    track.append(late=True, _ts=1767.25).flush()
    assert (lake_dir / "w" / "s" / "tracks" / "train_loss" / "data.jsonl").read_text() == (
        '{"index":0,"data":{"value":0.5,"epoch":1,"_ts":1767.25}}\n'
        '{"index":1,"data":{"value":0.45,"epoch":2,"_ts":1768.0}}\n'
        '{"index":0,"data":{"late":true,"_ts":1767.25}}\n'
    )


def test_reading_flushes_first(session: Session) -> None:
    track = session.track("t")
    reads: list[Callable[[], int]] = [
        lambda: track.read()["total"],
        lambda: len(track.read_by_time()["data"]),
        lambda: len(track.scan().collect()),
        lambda: len(track.to_polars()),
        lambda: track.to_arrow().num_rows,
        lambda: len(track.to_pandas()),
        lambda: len(track),
        lambda: track.stats()["totalDataPoints"],
    ]
    for number, read in enumerate(reads, 1):
        track.append(n=number)
        assert read() == number


def test_append_says_what_it_does_whatever_it_was_replaced_by(session: Session) -> None:
    track = session.track("t")
    for _ in range(3):
        assert track.append.__doc__ == type(track).append.__doc__
        assert track.append.__qualname__ == "Track.append"
        track.append(a=1)


def test_append_leaves_the_disk_to_another_thread(lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it seals a block, and where whole segments are due."""
    writing: set[Thread] = set()
    for name in ("append_at", "write_beside", "commit_new", "atomic_write"):
        real = getattr(local, name)

        def told(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            writing.add(current_thread())
            return real(*args, **kwargs)

        monkeypatch.setattr(local, name, told)
    with Session("s", "w", lake_dir, segment_points=1000, flush_interval=0.01) as session:
        session.track("first").append(i=0).flush()  # what encodes is imported
        writing.clear()  # to open a session is not to append
        for track in (session.track("plain"), session.track("lists")):
            for i in range(9000):
                track.append(i=i, **({"x": [i, i]} if track.name == "lists" else {}))
        session.flush()
        assert list(lake_dir.rglob("*.parquet"))
        assert writing
        assert current_thread() not in writing
