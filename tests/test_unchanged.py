"""What is remembered of a folder: as long as it stands unchanged, and only where its times can be relied on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from build import TrackOnDisk, points_of

from dreamlake.storage import localstore, unchanged
from dreamlake.storage.localstore import LocalStore

SECOND = 1_000_000_000
#: Longer than a tick of any clock that folders get their times from.
TICK = 0.02


class Counting:
    """A listing that counts how often it was asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: str | int) -> list[str]:
        self.calls += 1
        return sorted(os.listdir(folder))


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder counts as one on a disk of this machine that has not changed lately; nothing is remembered yet."""
    monkeypatch.setattr(unchanged, "_found", {})
    monkeypatch.setattr(unchanged, "_names", 0)
    monkeypatch.setattr(unchanged, "_known", {})
    monkeypatch.setattr(unchanged, "_is_known", lambda device: True)
    monkeypatch.setattr(unchanged, "_clock", lambda: time.time_ns() + 10 * SECOND)


def test_a_folder_that_stands_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    ask = Counting()
    for _ in range(3):
        found = unchanged.names_in(str(tmp_path), ask)
        assert found == ["one"]
        found.append("what a caller does with it is his own")
    assert ask.calls == 1


@pytest.mark.parametrize("change", ["new", "removed", "renamed", "folder", "linked", "replaced"])
def test_every_change_of_names_is_seen(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "track"
    folder.mkdir()
    (folder / "one").write_text("1")
    (tmp_path / "other").write_text("2")
    ask = Counting()
    time.sleep(TICK)
    unchanged.names_in(str(folder), ask)
    status = folder.stat()
    match change:
        case "new":
            (folder / "two").touch()
        case "removed":
            (folder / "one").unlink()
        case "renamed":
            (folder / "one").rename(folder / "two")
        case "folder":
            (folder / "two").mkdir()
        case "linked":
            os.link(tmp_path / "other", folder / "two")
        case "replaced":
            (tmp_path / "other").replace(folder / "one")
    os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))  # as those do that copy folders with their times
    assert unchanged.names_in(str(folder), ask) == sorted(os.listdir(folder))
    assert ask.calls == 2


def test_a_change_behind_the_listing_is_seen_next_time(tmp_path: Path) -> None:
    ask = Counting()

    def ask_too_early(folder: str | int) -> list[str]:
        found = ask(folder)
        (tmp_path / "new").touch()
        return found

    (tmp_path / "one").touch()
    time.sleep(TICK)
    assert unchanged.names_in(str(tmp_path), ask_too_early) == ["one"]
    assert unchanged.names_in(str(tmp_path), ask) == ["new", "one"]


def test_another_folder_of_the_same_name_is_another(tmp_path: Path) -> None:
    folder, ask = tmp_path / "track", Counting()
    folder.mkdir()
    (folder / "one").touch()
    assert unchanged.names_in(str(folder), ask) == ["one"]
    folder.rename(tmp_path / "old")
    folder.mkdir()
    assert unchanged.names_in(str(folder), ask) == []
    folder.rmdir()
    assert unchanged.names_in(str(folder), lambda _: []) == []
    (tmp_path / "old").rename(folder)
    assert unchanged.names_in(str(folder), ask) == ["one"], "that nothing was there is not remembered of what is"


@pytest.mark.parametrize("how", ["moved", "linked"])
def test_names_are_remembered_of_the_folder_that_was_listed(tmp_path: Path, how: str) -> None:
    """Whatever is put in the place of its path, or of one above, between status and listing."""
    for name in ("v1", "v2"):
        (tmp_path / name / "track").mkdir(parents=True)
        (tmp_path / name / "track" / f"of-{name}").touch()
    current = tmp_path / "current"
    ask = Counting()

    def put(name: str) -> None:
        if how == "linked":
            (tmp_path / "new").symlink_to(tmp_path / name)
            (tmp_path / "new").replace(current)
            return
        if current.exists():
            current.rename(tmp_path / ("v1" if name == "v2" else "v2"))
        (tmp_path / name).rename(current)

    def swapped(folder: str | int) -> list[str]:
        put("v2")
        found = ask(folder)
        put("v1")
        return found

    put("v1")
    time.sleep(TICK)
    for _ in range(3):
        assert unchanged.names_in(str(current / "track"), swapped) == ["of-v1"]
    assert ask.calls == 1
    put("v2")
    assert unchanged.names_in(str(current / "track"), ask) == ["of-v2"]
    put("v1")
    assert unchanged.names_in(str(current / "track"), ask) == ["of-v1"]


def test_a_folder_that_has_just_changed_is_listed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "_clock", time.time_ns)
    ask = Counting()
    for _ in range(3):
        unchanged.names_in(str(tmp_path), ask)
    assert ask.calls == 3
    assert not unchanged._found


def test_only_times_that_cannot_come_again_are_believed() -> None:
    def is_settled(changed: int, now: int) -> bool:
        return unchanged._is_settled((1, 2, changed, changed, 2, 4096), now)

    changed = 1_000 * SECOND + 123_456_789
    assert is_settled(changed, changed + 3 * SECOND)
    assert not is_settled(changed, changed + SECOND)
    assert not is_settled(changed, changed - 3 * SECOND), "the clock was set back"
    assert not is_settled(1_000 * SECOND, 2_000 * SECOND), "times of whole seconds"


@pytest.mark.parametrize(
    ("kind", "device", "known"),
    [
        ("ext4", (259, 1), True),
        ("xfs", (259, 1), True),
        ("nfs4", (0, 61), False),
        ("gfs2", (253, 7), False),
        ("btrfs", (0, 40), False),
        ("ext4", (259, 2), False),  # not in the table
    ],
)
def test_which_filesystems_are_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, device: tuple[int, int], known: bool
) -> None:
    monkeypatch.undo()
    mounts = tmp_path / "mountinfo"
    rows = {(259, 1): kind, (253, 7): kind, (0, 61): kind, (0, 40): kind, (8, 1): "vfat"}
    mounts.write_text(
        "".join(
            f"{21 + at} 1 {major}:{minor} / /mnt/with\\040blank/{at} rw,relatime shared:7 - {type_} /dev/x rw\n"
            for at, ((major, minor), type_) in enumerate(rows.items())
        )
        + "garbage\n"
    )
    monkeypatch.setattr(unchanged, "_known", {})
    monkeypatch.setattr(unchanged, "_MOUNTS", str(mounts))
    assert unchanged._is_known(os.makedev(*device)) is known
    mounts.unlink()
    assert unchanged._is_known(os.makedev(*device)) is known, "it is asked once"
    assert unchanged._is_known(os.makedev(259, 9)) is False


def test_what_is_not_relied_on_is_listed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Counting()
    monkeypatch.setattr(unchanged, "_is_known", lambda device: False)
    for _ in range(3):
        unchanged.names_in(str(tmp_path), ask)
    monkeypatch.setattr(unchanged, "_is_known", lambda device: True)
    monkeypatch.setattr(unchanged, "_clock", None)  # no such clock on this system
    for _ in range(3):
        unchanged.names_in(str(tmp_path), ask)
    assert ask.calls == 6


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "MOST_NAMES", 10)
    for name in "abcdefg":
        folder = tmp_path / name
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}").touch()
        assert unchanged.names_in(str(folder), Counting()) == ["0", "1", "2"]
        assert sum(1 + len(found.names) for found in unchanged._found.values()) <= 10
    assert unchanged._found
    large = tmp_path / "large"
    large.mkdir()
    for number in range(12):
        (large / f"{number}").touch()
    assert len(unchanged.names_in(str(large), Counting())) == 12
    assert str(large) not in unchanged._found


def test_sizes_are_remembered_with_the_names(tmp_path: Path) -> None:
    folder = tmp_path / "track"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}").write_bytes(b"x" * number)
    asked: list[str] = []

    def ask(names: Sequence[str]) -> tuple[list[int], tuple[int, ...] | None, list[int]]:
        asked.extend(names)
        statuses = [(folder / name).stat() for name in names]
        stamp = unchanged.stamp_of(folder.stat())
        return [each.st_size for each in statuses], stamp, [each.st_ctime_ns for each in statuses]

    assert unchanged.sizes_in(str(folder), ["1", "2"], ask) == [1, 2]
    assert unchanged.sizes_in(str(folder), ["1"], ask) == [1]
    assert asked == ["1", "2", "1"], "nothing is known of the folder"
    asked.clear()
    time.sleep(TICK)
    unchanged.names_in(str(folder), Counting())
    assert unchanged.sizes_in(str(folder), ["1", "2"], ask) == [1, 2]
    assert unchanged.sizes_in(str(folder), ["2", "0", "1"], ask) == [2, 0, 1]
    assert asked == ["1", "2", "0"]
    (folder / "new").write_bytes(b"longer")
    (folder / "new").replace(folder / "1")
    assert unchanged.sizes_in(str(folder), ["1"], ask) == [6]


def test_the_size_of_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is copied into its place it grows there, which its folder does not show."""
    store = LocalStore(tmp_path)
    path = tmp_path / "a" / "one"
    store.put("a/one", b"1")
    time.sleep(TICK)
    store.remembered_names("a")
    monkeypatch.setattr(unchanged, "_clock", time.time_ns)
    for length in (1, 3, 5):
        path.write_bytes(b"x" * length)
        assert store.sizes("a", ["one"]) == [length]
    monkeypatch.setattr(unchanged, "_clock", lambda: time.time_ns() + 10 * SECOND)
    assert store.sizes("a", ["one"]) == [5]
    monkeypatch.setattr(os, "lstat", None)
    assert store.sizes("a", ["one"]) == [5]


def test_sizes_of_another_folder_are_not_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "track"
    folder.mkdir()
    (folder / "one").write_bytes(b"1")
    time.sleep(TICK)
    unchanged.names_in(str(folder), Counting())
    assert unchanged.sizes_in(str(folder), ["one"], lambda names: ([7], (1, 2, 3, 4, 5, 6), [1])) == [7]
    assert unchanged.sizes_in(str(folder), ["one"], lambda names: ([1], None, [1])) == [1]
    assert not unchanged._found[str(folder)].sizes


def test_a_reader_lists_once_while_nothing_changes_and_sees_the_next_segment(
    lake_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(30)
    track.segments(points[:20], 10)
    store = LocalStore(lake_dir)
    listed: list[str | int] = []
    names = localstore._names
    monkeypatch.setattr(localstore, "_names", lambda folder: (listed.append(folder), names(folder))[1])
    time.sleep(TICK)
    for _ in range(3):
        snapshot = track.reader(store).snapshot(described=True)
        assert snapshot.total == 20
        assert snapshot.bytes == sum(path.stat().st_size for path in track.folder.glob("*.parquet"))
    assert len(listed) == 1
    track.segment(points[20:], 20)
    assert track.reader(store).snapshot().total == 30
    assert len(listed) == 2


def test_what_is_remembered_is_not_called_damage(lake_dir: Path) -> None:
    """However a memory may come to be wrong: the folder itself is asked before points are said to be missing."""
    track, points = TrackOnDisk(lake_dir), points_of(30)
    track.segments(points[:20], 10)
    track.hot(points[20:], 20)
    track.reader().snapshot()
    kept = next(iter(unchanged._found.values()))
    kept.names = [name for name in kept.names if not name.startswith("000000000010")]
    assert track.reader().snapshot().total == 30
    assert not unchanged._found, "and what was remembered is not believed again"
