"""A session's own view of a folder whose segments are partly only on the replica gives every point, in few requests."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from awaylib import BELOW, TRACK, Trimmed, Unreachable, points_of

from dreamlake import Lake
from dreamlake.engine import away
from dreamlake.engine.overlay import OverlayStore
from dreamlake.engine.reader import TrackReader
from dreamlake.errors import CorruptTrackError, PointsNotHereError
from dreamlake.format import layout
from dreamlake.format.layout import SegmentName
from dreamlake.format.segmentinfo import SegmentBounds
from dreamlake.lake import SessionView
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore
from dreamlake.view import TrackView

A, B, C = SegmentName(0, 7), SegmentName(7, 14), SegmentName(14, 21)


class Counted:
    """A replica that notes what is read of it."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.store, name)

        def call(path: str = "", *args: Any) -> Any:
            if name != "describe":
                self.asked.append(f"{name} {path.rpartition('/')[2]}")
            return real(path, *args)

        return call if callable(real) else real


@pytest.fixture
def trimmed(lake_dir: Path) -> Iterator[Trimmed]:
    made = Trimmed(lake_dir, Counted(RemoteStore(f"memory://{uuid.uuid4().hex}")))
    yield made
    made.session.close()


def view(trimmed: Trimmed, store: Any = None) -> TrackView:
    """The track, read through the overlay."""
    return SessionView(trimmed.overlay() if store is None else store, "w", "s").track(TRACK)


def whole(trimmed: Trimmed, tmp_path: Path) -> TrackView:
    """The same track with every segment on the local disk."""
    for name in away.read(str(trimmed.folder)):
        data = trimmed.there.store.get(f"{BELOW}/{name.filename}")
        LocalStore(tmp_path / "whole").create(f"{BELOW}/{name.filename}", data)
    for path in trimmed.folder.iterdir():
        if not path.name.startswith("."):
            LocalStore(tmp_path / "whole").put(f"{BELOW}/{path.name}", path.read_bytes())
    LocalStore(tmp_path / "whole").put("w/s/session.json", (trimmed.root / "w/s/session.json").read_bytes())
    return Lake(tmp_path / "whole").session("s", "w").track(TRACK)


def test_what_comes_here_during_a_look_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine takes over a merge of another: the whole comes here, and then its parts are away no more."""
    folder = tmp_path / "t"
    folder.mkdir()
    away.write(str(folder), [away.Away(name, 100, SegmentBounds(*name, 1.0, 2.0, True)) for name in (A, B)])
    merged = SegmentName(A.start, B.stop).filename
    for look in ("names", "list"):
        store = OverlayStore(LocalStore(tmp_path), lambda: LocalStore(tmp_path))
        real, left = getattr(store.local, look), [merged]

        def meanwhile(path: str, real: Any = real, left: list[str] = left) -> Any:
            found = real(path)
            if left:
                (folder / left.pop()).write_bytes(b"")
                away.write(str(folder), [])
            return found

        monkeypatch.setattr(store.local, look, meanwhile)
        found = [getattr(each, "name", each) for each in getattr(store, look)("t")]
        assert merged in found or {A.filename, B.filename}.issubset(found)
        (folder / merged).unlink()
        away.write(str(folder), [away.Away(name, 100, SegmentBounds(*name, 1.0, 2.0, True)) for name in (A, B)])


# ------------------------------------------------------------------------------------------------ every read


def test_every_read_gives_what_a_whole_folder_gives(trimmed: Trimmed, tmp_path: Path) -> None:
    trimmed.append([{**point, "x": [point["n"] / 3], "text": "é"} for point in points_of(30)])
    trimmed.append([{"late": "yes", "_ts": 4.0}, {"late": 1, "_ts": 30.0}])
    trimmed.drop()
    trimmed.append([{"n": 1.5, "other": None, "_ts": 100.0}])
    got, expected = view(trimmed), whole(trimmed, tmp_path)
    assert len(got) == len(expected) == 31
    for start, limit in ((0, None), (3, 2), (5, 10), (-4, 3), (28, None)):
        assert got.read(start, limit) == expected.read(start, limit)
    for low, high in ((None, None), (3.0, 31.0), (41.0, None), (100.0, 200.0)):
        for reverse in (False, True):
            assert got.read_by_time(low, high, reverse=reverse) == expected.read_by_time(low, high, reverse=reverse)
    assert got.to_polars().equals(expected.to_polars())
    assert got.to_arrow().equals(expected.to_arrow())
    assert got.stats() == expected.stats()
    import polars as pl

    queries: list[Callable[[TrackView], Any]] = [
        lambda track: track.scan(4, 20).select("n", "_ts"),
        lambda track: track.scan().filter(pl.col("_index").is_between(12, 15)),
        lambda track: track.scan().filter(pl.col("_ts") > 40.0).head(3),
        lambda track: track.scan().select(pl.len()),
    ]
    for lazy in queries:
        assert lazy(got).collect().equals(lazy(expected).collect())


def test_only_what_is_away_is_asked_for_and_only_where_it_is_needed(trimmed: Trimmed) -> None:
    trimmed.append(points_of(30))
    trimmed.drop([A, C])
    asked = trimmed.there.asked
    asked.clear()
    track = view(trimmed)
    assert len(track) == 30
    assert track.stats()["totalChunks"] == 4
    assert track.stats()["bytes"] > 0
    assert len(track.read(21, None)["data"]) == 9
    assert len(track.read(7, 7)["data"]) == 7
    assert len(track.read_by_time(14.0, 28.0)["data"]) == 7
    assert not [what for what in asked if B.filename in what], "it is here"
    asked.clear()
    assert len(view(trimmed).read(2, 3)["data"]) == 3
    assert asked == [f"get {A.filename}"], "one request, the rest is known here"
    asked.clear()
    assert len(view(trimmed).read(0, None)["data"]) == 30
    assert sorted(asked) == [f"get {A.filename}", f"get {C.filename}"]


def test_files_are_paths_here_and_urls_there(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([B])
    paths = trimmed.reader().snapshot().segment_paths()
    here = [str(trimmed.folder / name.filename) for name in (A, C)]
    assert paths == [here[0], trimmed.there.store.describe(f"{BELOW}/{B.filename}"), here[1]]
    assert paths[1].startswith("memory://")


def test_without_an_away_segment_it_is_the_local_store(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    store = OverlayStore(LocalStore(trimmed.root), Unreachable())  # type: ignore[arg-type]
    local = LocalStore(trimmed.root)
    assert store.list(BELOW) == local.list(BELOW)
    assert store.names(BELOW) == local.names(BELOW)
    assert store.list() == local.list()
    assert store.walk("w") == local.walk("w")
    assert store.describe(f"{BELOW}/{A.filename}") == str(trimmed.folder / A.filename)
    assert (store.width, store.is_local, store.root) == (0, True, str(trimmed.root))
    assert len(view(trimmed, store).read(limit=None)["data"]) == 23
    assert view(trimmed, store).stats() == view(trimmed, local).stats()


def test_the_contract_of_a_store(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([B])
    store = trimmed.overlay()
    assert store.width == 0, "nothing was seen to be away yet"
    data = trimmed.there.store.get(f"{BELOW}/{B.filename}")
    path = f"{BELOW}/{B.filename}"
    assert (store.get(path), store.get(path, 3, 9), store.size(path)) == (data, data[3:9], len(data))
    assert store.width > 2
    entries = {entry.name: entry for entry in store.list(BELOW)}
    assert list(entries) == sorted(entries)
    assert (entries[B.filename].size, entries[B.filename].is_dir) == (len(data), False)
    assert store.names(BELOW) == sorted(name for name, entry in entries.items() if not entry.is_dir)
    for missing in (f"{BELOW}/{SegmentName(7, 14, 1).filename}", f"{BELOW}/other.json", f"w/{B.filename}", B.filename):
        for call in (store.get, store.size):
            with pytest.raises(FileNotFoundError):
                call(missing)
    for outside in ("../x", "/etc/passwd", f"{BELOW}/../../{B.filename}", f"../{B.filename}"):
        for call in (store.get, store.size):
            with pytest.raises(ValueError, match=r"relative|path"):
                call(outside)
    store.put("w/new.json", b"1")
    with pytest.raises(FileExistsError):
        store.create("w/new.json", b"2")
    assert LocalStore(trimmed.root).get("w/new.json") == b"1"
    store.delete("w/new.json")
    assert not (trimmed.root / "w/new.json").exists()
    assert "memory" not in repr(store)


# ------------------------------------------------------------------------------------------------ while it goes on


def test_a_snapshot_outlives_drops_and_merges(trimmed: Trimmed) -> None:
    trimmed.append(points_of(30))
    snapshot = trimmed.reader().snapshot()
    lazy = view(trimmed).scan()
    frame = view(trimmed).to_polars()
    trimmed.drop()
    assert [point["n"] for _, point in snapshot.points(0, 30)] == list(range(30))
    assert lazy.collect().equals(frame)
    trimmed.append([{"n": -1, "_ts": 4.0}])
    trimmed.settle()
    trimmed.drop()
    assert len(snapshot.points(0, 30)) == 30
    assert view(trimmed).read(2, 1)["data"][0]["data"]["n"] == -1


class Racing(LocalStore):
    """Does something between the listing of a folder and the next call, or just before it is listed."""

    before: Callable[[], Any] = staticmethod(lambda: None)
    after: Callable[[], Any] = staticmethod(lambda: None)

    looks = 0

    def names(self, path: str = "") -> list[str]:
        self.looks += 1
        before, self.before = self.before, lambda: None
        before()
        found = super().names(path)
        after, self.after = self.after, lambda: None
        after()
        return found


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_drop_around_the_listing(trimmed: Trimmed, when: str) -> None:
    trimmed.append(points_of(30))
    local = Racing(trimmed.root)
    setattr(local, when, trimmed.drop)
    reader = TrackReader(OverlayStore(local, lambda: trimmed.there), BELOW, TRACK)
    snapshot = reader.snapshot(described=True)
    assert len(snapshot.points(0, 30)) == 30
    assert len(trimmed.here()) == 1, "the drop was not tried"
    assert local.looks == 1, "one look is enough: nothing seems to be missing"


def test_readers_see_every_point_while_segments_go_away(trimmed: Trimmed) -> None:
    trimmed.append(points_of(7))
    stop = threading.Event()
    seen: list[Any] = []

    def look() -> None:
        track = view(trimmed)
        last = 0
        try:
            while not stop.is_set():
                data = [row["data"]["n"] for row in track.read(0, None)["data"]]
                assert data == list(range(len(data)))
                assert len(data) >= last
                last = len(data)
                assert track.to_arrow().num_rows >= last
            seen.append(last)
        except BaseException as error:
            seen.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(1, 25):
        trimmed.append(points_of(9, len(trimmed.points())))
        if turn % 3 == 0:
            trimmed.append([{"late": turn, "_ts": 2.0 * turn}])
            trimmed.drop()
            trimmed.settle()
    stop.set()
    for thread in threads:
        thread.join()
    assert all(isinstance(last, int) and last > 7 for last in seen), seen
    assert len(seen) == 2


# ------------------------------------------------------------------------------------------------ trouble


def test_a_replica_that_cannot_be_reached_costs_only_what_is_there(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([A])

    def down() -> Any:
        raise ConnectionError("the network is down")

    track = view(trimmed, OverlayStore(LocalStore(trimmed.root), down))
    assert len(track) == 23
    assert track.stats()["chunkedDataPoints"] == 21
    assert len(track.read(7, None)["data"]) == 16
    with pytest.raises(ConnectionError, match="the network is down"):
        track.read(0, 3)


def test_a_segment_that_the_replica_lost_or_damaged_is_told_with_its_url(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([A])
    path = f"{BELOW}/{A.filename}"
    data = trimmed.there.store.get(path)
    trimmed.there.store.put(path, data[:-5])
    with pytest.raises(CorruptTrackError, match="memory://") as caught:
        view(trimmed).read(0, 3)
    assert (caught.value.start, caught.value.stop) == (0, 7)
    assert len(view(trimmed).read(0, None, errors="skip")["data"]) == 16
    trimmed.there.store.delete(path)
    with pytest.raises(PointsNotHereError, match=r"memory://.*000000000000-000000000007.parquet") as missing:
        view(trimmed).read(0, 3)
    assert (missing.value.start, missing.value.stop) == (0, 7)
    assert len(view(trimmed).read(0, None, errors="skip")["data"]) == 16
    trimmed.there.store.put(path, data)
    assert len(view(trimmed).read(0, 3)["data"]) == 3


def test_what_the_replica_has_in_the_place_of_a_segment_is_read(trimmed: Trimmed) -> None:
    """Another machine has given it a late field there."""
    trimmed.append(points_of(23))
    trimmed.drop([A, B])
    told: list[str] = []
    store = OverlayStore(LocalStore(trimmed.root), lambda: trimmed.there, lambda: told.append("vanished"))
    track = view(trimmed, store)
    held = track.scan()
    expected = track.to_polars()
    assert not told
    trimmed.session.track(TRACK).append(late=1, _ts=2.0)
    trimmed.session.track(TRACK).flush()
    trimmed.settle()
    later = SegmentName(0, 7, 1).filename
    trimmed.there.store.put(f"{BELOW}/{later}", (trimmed.folder / later).read_bytes())
    (trimmed.folder / later).unlink()
    trimmed.there.store.delete(f"{BELOW}/{A.filename}")
    assert track.read(0, 2)["data"][1]["data"] == {"n": 1, "late": 1, "_ts": 2.0}
    assert told
    assert held.collect().equals(expected)
    assert store.size(f"{BELOW}/{later}") == len(store.get(f"{BELOW}/{later}"))
    assert store.describe(f"{BELOW}/{later}").startswith("memory://")
    trimmed.there.asked.clear()
    told.clear()
    assert len(track.read(7, 9)["data"]) == 9
    assert not told
    assert trimmed.there.asked == [f"get {B.filename}"]


def test_a_record_that_is_damaged_is_told_and_a_new_one_is_noticed(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([A])
    track = view(trimmed)
    assert len(track.read(0, None)["data"]) == 23
    path = trimmed.folder / layout.AWAY_FILE
    good = path.read_bytes()
    path.write_bytes(b"{" + good)
    with pytest.raises(CorruptTrackError, match=r"\.away\.jsonl.*line 1"):
        track.read(0, None)
    path.write_bytes(good)
    assert len(track.read(0, None)["data"]) == 23
    trimmed.drop([B])
    assert len(track.read(0, None)["data"]) == 23
    os.unlink(path)
    with pytest.raises(CorruptTrackError, match="none holds the indices 0 to 14"):
        track.read(0, None)
    path.write_bytes(good)
