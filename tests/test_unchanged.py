"""What is remembered of a folder: as long as it stands unchanged, and only where its times can be relied on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from build import TrackOnDisk, points_of

from dreamlake.storage import unchanged
from dreamlake.storage.localstore import LocalStore

SECOND = 1_000_000_000
#: Longer than a tick of any clock that folders get their times from.
TICK = 0.02


class Counting:
    """A listing that counts how often it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = 0

    def __call__(self) -> list[str]:
        self.calls += 1
        return sorted(os.listdir(self.folder))


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
    ask = Counting(tmp_path)
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
    ask = Counting(folder)
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
    ask = Counting(tmp_path)

    def ask_too_early() -> list[str]:
        found = ask()
        (tmp_path / "new").touch()
        return found

    (tmp_path / "one").touch()
    time.sleep(TICK)
    assert unchanged.names_in(str(tmp_path), ask_too_early) == ["one"]
    assert unchanged.names_in(str(tmp_path), ask) == ["new", "one"]


def test_another_folder_of_the_same_name_is_another(tmp_path: Path) -> None:
    folder, ask = tmp_path / "track", Counting(tmp_path / "track")
    folder.mkdir()
    (folder / "one").touch()
    assert unchanged.names_in(str(folder), ask) == ["one"]
    folder.rename(tmp_path / "old")
    folder.mkdir()
    assert unchanged.names_in(str(folder), ask) == []
    folder.rmdir()
    assert unchanged.names_in(str(folder), list) == []


def test_a_folder_that_has_just_changed_is_listed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "_clock", time.time_ns)
    ask = Counting(tmp_path)
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
    ask = Counting(tmp_path)
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
        assert unchanged.names_in(str(folder), Counting(folder)) == ["0", "1", "2"]
        assert sum(1 + len(found.names) for found in unchanged._found.values()) <= 10
    assert unchanged._found


def test_sizes_are_remembered_with_the_names(tmp_path: Path) -> None:
    folder = tmp_path / "track"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}").write_bytes(b"x" * number)
    asked: list[str] = []

    def ask(names: object) -> list[int]:
        asked.extend(names)  # type: ignore[call-overload]
        return [(folder / name).stat().st_size for name in names]  # type: ignore[attr-defined]

    assert unchanged.sizes_in(str(folder), ["1", "2"], ask) == [1, 2]
    assert unchanged.sizes_in(str(folder), ["1"], ask) == [1]
    assert asked == ["1", "2", "1"], "nothing is known of the folder"
    asked.clear()
    time.sleep(TICK)
    unchanged.names_in(str(folder), Counting(folder))
    assert unchanged.sizes_in(str(folder), ["1", "2"], ask) == [1, 2]
    assert unchanged.sizes_in(str(folder), ["2", "0", "1"], ask) == [2, 0, 1]
    assert asked == ["1", "2", "0"]
    (folder / "new").write_bytes(b"longer")
    (folder / "new").replace(folder / "1")
    assert unchanged.sizes_in(str(folder), ["1"], ask) == [6]


def test_a_reader_lists_once_while_nothing_changes_and_sees_the_next_segment(
    lake_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track, points = TrackOnDisk(lake_dir), points_of(30)
    track.segments(points[:20], 10)
    store = LocalStore(lake_dir)
    listed: list[str] = []
    monkeypatch.setattr(store, "names", lambda path: (listed.append(path), LocalStore.names(store, path))[1])
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
