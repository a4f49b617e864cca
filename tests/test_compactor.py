"""Merging that happens by itself: when, that nobody waits for it, and what it does with damage and at the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from crashlib import run_group, wait_for
from test_compaction import ranges, segments

import dreamlake.engine.compaction as compaction
import dreamlake.engine.compactor as compactor
import dreamlake.engine.replica.tracks as replica
import dreamlake.engine.replica.trim as trim
import dreamlake.engine.sweep as sweeping
from dreamlake import Lake, Session

HOUR = 3600.0
SIZE = 5


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges come at once, and 50 points are a usual long track."""
    monkeypatch.setattr(compactor, "DELAY", 0.0)
    monkeypatch.setattr(compaction, "USUAL_POINTS", SIZE)
    monkeypatch.setattr(trim, "USUAL_POINTS", SIZE)


@pytest.fixture
def session(lake_dir: Path) -> Iterator[Session]:
    with Session("s", "w", lake_dir, segment_points=SIZE, flush_interval=HOUR) as session:
        yield session


def write(session: Session, start: int, stop: int, track: str = "a") -> None:
    for i in range(start, stop, SIZE):
        session.track(track).append_batch([{"i": j} for j in range(i, min(i + SIZE, stop))])


def numbers(lake_dir: Path, track: str = "a") -> list[int]:
    return Lake(lake_dir).session("s", "w").track(track).to_polars()["i"].to_list()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_track_that_grows_long_is_merged(lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "AFTER", 0.0)
    monkeypatch.setattr(sweeping, "GRACE", -1.0)
    write(session, 0, 49)
    assert len(segments(lake_dir)) == 9
    assert "dreamlake-compactor" not in threads()
    write(session, 49, 52)
    wait_for(lambda: segments(lake_dir) == ranges(0, 50))
    folder = lake_dir / "w" / "s" / "tracks" / "a"
    wait_for(lambda: len(list(folder.glob("*.parquet"))) == 1)
    assert numbers(lake_dir) == list(range(52))
    wait_for(lambda: "dreamlake-compactor" not in threads())
    write(session, 52, 500)
    wait_for(lambda: segments(lake_dir) == ranges(0, 500))
    assert numbers(lake_dir) == list(range(500))


def test_short_segments_are_merged_into_ones_as_wide_as_usual(
    lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "USUAL_POINTS", 4 * SIZE)
    write(session, 0, 195)
    assert len(segments(lake_dir)) == 39
    write(session, 195, 200)
    wait_for(lambda: segments(lake_dir) == ranges(0, 200))


def test_points_that_come_meanwhile_do_not_wait(
    lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = compaction.merge

    def slow(*args: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return real(*args)

    monkeypatch.setattr(compaction, "merge", slow)
    write(session, 0, 50)
    assert begun.wait(60)
    write(session, 50, 70)
    assert numbers(lake_dir) == list(range(70))
    go_on.set()
    wait_for(lambda: segments(lake_dir)[0] == ranges(0, 50)[0])
    assert numbers(lake_dir) == list(range(70))


def test_a_close_gives_a_merge_up_and_leaves_nothing_of_it(
    lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, mine = threading.Event(), session.writer.compactor
    real = compaction._batches

    def slow(*args: Any) -> Any:
        for batch in real(*args):
            begun.set()
            wait_for(lambda: mine._stopped)
            yield batch

    monkeypatch.setattr(compaction, "_batches", slow)
    write(session, 0, 50)
    assert begun.wait(60)
    session.close()
    assert "dreamlake-compactor" not in threads()
    assert len(segments(lake_dir)) == 10
    assert not [name for name in os.listdir(lake_dir / "w" / "s" / "tracks" / "a") if name.startswith(".tmp")]
    assert numbers(lake_dir) == list(range(50))


def test_a_close_between_a_merge_and_its_commit_leaves_nothing_of_it(
    lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, mine = threading.Event(), session.writer.compactor
    real = compaction.merge

    def merge(*args: Any) -> Any:
        done = real(*args)
        written.set()
        wait_for(lambda: mine._stopped)
        return done

    monkeypatch.setattr(compaction, "merge", merge)
    write(session, 0, 50)
    assert written.wait(60)
    session.close()
    assert len(segments(lake_dir)) == 10
    assert not [name for name in os.listdir(lake_dir / "w" / "s" / "tracks" / "a") if name.startswith(".tmp")]


def test_damage_is_told_once_and_the_run_goes_on(
    lake_dir: Path, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    write(session, 0, 45)
    path = lake_dir / "w" / "s" / "tracks" / "a" / f"{ranges(15, 20)[0]}.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    session.writer.call(session.writer.track("a").learn_anew)
    with caplog.at_level("WARNING", logger="dreamlake"):
        write(session, 45, 50)
        wait_for(lambda: "not merged any more" in caplog.text)
        write(session, 50, 200)
        session.flush()
    assert caplog.text.count("merged any more") == 1
    assert path.name in caplog.text
    assert len(session.track("a")) == 200


def test_a_disk_that_fails_is_told_once_and_tried_again(
    lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compactor, "AFTER", 0.0)
    real, tries = compaction.merge, []

    def fail(*args: Any) -> Any:
        tries.append(1)
        if len(tries) < 4:
            raise OSError("no space")
        return real(*args)

    monkeypatch.setattr(compaction, "merge", fail)
    with caplog.at_level("WARNING", logger="dreamlake"):
        write(session, 0, 50)
        wait_for(lambda: segments(lake_dir) == ranges(0, 50))
    assert caplog.text.count("cannot be merged now") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_the_middle_of_a_merge(lake_dir: Path) -> None:
    run_group(
        """
import os, sys, threading
import dreamlake.engine.compaction as compaction
import dreamlake.engine.compactor as compactor
import dreamlake.engine.forkgate as forkgate
from dreamlake import Session
compactor.DELAY, compaction.USUAL_POINTS = 0.0, 5
forkgate.FIRST_PATIENCE = 0.05
begun, go_on = threading.Event(), threading.Event()
real = compaction.merge
def slow(*args):
    begun.set()
    go_on.wait()
    return real(*args)
compaction.merge = slow
with Session("s", "w", sys.argv[1], segment_points=5, flush_interval=3600.0) as s:
    t = s.track("a")
    t.append_batch([{"i": i} for i in range(50)])
    begun.wait()
    pid = os.fork()
    if pid == 0:
        compaction.merge = real
        t.append_batch([{"i": i} for i in range(50, 100)])
        s.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    go_on.set()
    t.append_batch([{"i": i} for i in range(100, 120)])
""",
        lake_dir,
    )
    assert numbers(lake_dir) == list(range(120))


def test_a_pending_frame_over_parts_that_went_is_answered(
    lake_dir: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compactor, "AFTER", 0.0)
    write(session, 0, 45)
    frame = Lake(lake_dir).session("s", "w").track("a").scan()
    monkeypatch.setattr(sweeping, "GRACE", -1.0)
    write(session, 45, 50)
    folder = lake_dir / "w" / "s" / "tracks" / "a"
    wait_for(lambda: len(list(folder.glob("*.parquet"))) == 1)
    assert frame.select(pl.col("i").sum()).collect().item() == sum(range(45))


# -- where nothing is kept here ------------------------------------------------------------------------------------


def parquet(folder: Path) -> list[str]:
    """The segments in a folder, by their ranges."""
    return sorted(path.stem for path in folder.glob("*.parquet"))


def test_segments_wait_for_their_merge_before_they_go_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "DELAY", HOUR)
    monkeypatch.setattr(replica, "GRACE", -1.0)
    monkeypatch.setattr(sweeping, "GRACE", -1.0)
    there = tmp_path / "there/w/s/tracks/a"
    options: dict[str, Any] = {"remote": f"file://{tmp_path}/there", "sync_interval": HOUR}
    with Session("s", "w", None, segment_points=SIZE, flush_interval=HOUR, **options) as session:
        here = Path(session.path, "tracks/a")
        for turn in range(12):
            write(session, 50 * turn, 50 * turn + 48)
            session.sync()
            assert parquet(here)[-9:] == ranges(*range(50 * turn, 50 * turn + 46, SIZE))
            write(session, 50 * turn + 48, 50 * turn + 50)
            session.track("a").compact()
            session.sync()
            assert parquet(there) == (
                ranges(*range(0, 50 * turn + 51, 50)) if turn < 9 else ranges(0, *range(500, 50 * turn + 51, 50))
            ), turn
        session.track("a").append(late=1, i=-1)
        assert parquet(here) == ranges(500, 550, 600)
        assert session.track("a").to_polars()["i"].to_list() == [*range(600), -1]
    assert not here.exists()
    assert numbers(tmp_path / "there") == [*range(600), -1]


def test_a_close_that_leaves_nothing_here_leaves_no_parts_there(tmp_path: Path) -> None:
    """Nobody would come back and remove them once their time was over, and a glob would count their points twice."""
    there = tmp_path / "there/w/s/tracks/a"
    options: dict[str, Any] = {"remote": f"file://{tmp_path}/there", "sync_interval": HOUR}
    with Session("s", "w", None, segment_points=SIZE, flush_interval=HOUR, **options) as session:
        write(session, 0, 47)
        session.sync()
        write(session, 47, 53)
        wait_for(lambda: ranges(0, 50)[0] in parquet(Path(session.path, "tracks/a")))
        session.sync()
        assert len(parquet(there)) == 10  # nine parts, and what they became
    assert parquet(there) == ranges(0, 50)
    assert numbers(tmp_path / "there") == list(range(53))


def test_a_close_that_leaves_all_here_lets_the_parts_there_have_their_grace(tmp_path: Path) -> None:
    there = tmp_path / "there/w/s/tracks/a"
    options: dict[str, Any] = {"remote": f"file://{tmp_path}/there", "sync_interval": HOUR}
    with Session("s", "w", tmp_path / "here", segment_points=SIZE, flush_interval=HOUR, **options) as session:
        write(session, 0, 47)
        session.sync()
        write(session, 47, 53)
        wait_for(lambda: ranges(0, 50)[0] in parquet(Path(session.path, "tracks/a")))
    assert parquet(there) == sorted([*ranges(*range(0, 46, SIZE)), *ranges(0, 50)])


def test_no_more_than_a_share_waits_for_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "DELAY", HOUR)
    options: dict[str, Any] = {"remote": f"file://{tmp_path}/there", "sync_interval": HOUR}
    with Session("s", "w", None, segment_points=SIZE, flush_interval=HOUR, **options) as session:
        here = Path(session.path, "tracks")
        write(session, 0, 22)
        write(session, 0, 22, "b")
        session.sync()
        assert parquet(here / "a") == parquet(here / "b") == ranges(0, 5, 10, 15, 20)
        size = max(path.stat().st_size for path in here.rglob("*.parquet"))
        monkeypatch.setattr(trim, "HELD_BACK", 2 * (2 * size + size // 2))
        session.sync()
        assert parquet(here / "a") == parquet(here / "b") == ranges(10, 15, 20)
        assert session.track("b").to_polars()["i"].to_list() == [*range(22)]
