"""Merged segments and the replica: the whole goes there before its parts go, and readers are right throughout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import dreamlake.engine.compaction as compaction
import dreamlake.engine.compactor as compactor
import dreamlake.engine.replica.tracks as sending
import dreamlake.engine.sweep as sweeping
from dreamlake import Lake, Session
from dreamlake.cli import main
from dreamlake.storage.remote import RemoteStore

SIZE = 5
Elsewhere = tuple[str, dict[str, Any] | None]


def opened(root: Path | None, elsewhere: Elsewhere, **options: Any) -> Session:
    url, storage_options = elsewhere
    return Session(
        "s",
        "w",
        root,
        remote=url,
        storage_options=storage_options,
        **{"segment_points": SIZE, "flush_interval": 3600.0, "sync_interval": 3600.0, **options},
    )


def write(session: Session, start: int, stop: int) -> None:
    for i in range(start, stop, SIZE):
        session.track("a").append_batch([{"i": j} for j in range(i, min(i + SIZE, stop))])


def there(elsewhere: Elsewhere) -> tuple[list[str], list[int]]:
    """The Parquet files of the track on the replica, and what a new reader finds there."""
    store = RemoteStore(*elsewhere)
    try:
        names = sorted(entry.name for entry in store.list("w/s/tracks/a") if entry.name.endswith(".parquet"))
    finally:
        store.close()
    lake = Lake(*elsewhere)
    try:
        data = lake.session("s", "w").track("a").read(limit=None)["data"]
    finally:
        if isinstance(lake._store, RemoteStore):
            lake._store.close()
    assert [point["index"] for point in data] == list(range(len(data)))
    return names, [point["data"]["i"] for point in data]


def parts(stop: int, start: int = 0, width: int = SIZE) -> list[str]:
    return [f"{i:012}-{i + width:012}.parquet" for i in range(start, stop, width)]


@pytest.fixture(autouse=True)
def no_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is merged by itself."""
    monkeypatch.setattr(compactor, "DELAY", 1e6)


def test_the_whole_goes_there_first_and_the_parts_go_after_their_grace(
    lake_dir: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(lake_dir, elsewhere) as session:
        write(session, 0, 52)
        session.sync()
        assert there(elsewhere) == (parts(50), list(range(52)))
        kept = Lake(*elsewhere).session("s", "w").track("a")
        lazy = kept.scan()
        session.track("a").compact()
        session.sync()
        whole = parts(50, width=50)
        assert there(elsewhere) == (sorted(parts(50) + whole), list(range(52)))
        monkeypatch.setattr(sending, "GRACE", -1.0)
        write(session, 52, 54)
        session.sync()
        assert there(elsewhere) == (whole, list(range(54)))
        assert lazy.collect()["i"].to_list() == list(range(52)), "a frame over parts that went"
        assert [point["data"]["i"] for point in kept.read(limit=None)["data"]] == list(range(54))


def test_parts_that_are_gone_here_before_they_were_sent(
    lake_dir: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "GRACE", -1.0)
    monkeypatch.setattr(sending, "GRACE", -1.0)
    with opened(lake_dir, elsewhere) as session:
        write(session, 0, 20)
        session.sync()
        write(session, 20, 50)
        session.track("a").compact()
        assert len(list((lake_dir / "w/s/tracks/a").glob("*.parquet"))) == 1
        session.sync()
        assert there(elsewhere) == (parts(50, width=50), list(range(50)))


def test_a_new_machine_goes_on_from_wholes_and_parts(lake_dir: Path, elsewhere: Elsewhere) -> None:
    with opened(lake_dir, elsewhere) as session:
        write(session, 0, 50)
        session.sync()
        session.track("a").compact()
        write(session, 50, 67)
        session.sync()
    shutil.rmtree(lake_dir)
    with opened(lake_dir, elsewhere) as session:
        assert len(session.track("a")) == 67
        write(session, 67, 80)
    assert there(elsewhere)[1] == list(range(80))


def test_a_late_field_for_a_point_of_a_merged_segment(
    lake_dir: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "GRACE", -1.0)
    with opened(lake_dir, elsewhere) as session:
        track = session.track("a")
        track.append_batch([{"i": i, "_ts": float(i)} for i in range(50)])
        session.sync()
        track.compact()
        track.append(i=-7, _ts=7.0)
        session.sync()
        expected = [-7 if i == 7 else i for i in range(50)]
        assert there(elsewhere) == (["000000000000-000000000050.1.parquet"], expected)


def test_of_a_session_without_a_local_side_what_went_away_stays_as_it_is(elsewhere: Elsewhere) -> None:
    with opened(None, elsewhere) as session:
        write(session, 0, 50)
        session.sync()
        assert session.track("a").compact()["merged"] == 0
        write(session, 50, 62)
        session.sync()
        assert there(elsewhere)[1] == list(range(62))


def test_the_command_and_then_sync(lake_dir: Path, elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(lake_dir, elsewhere) as session:
        write(session, 0, 50)
    assert main(["compact", "--path", str(lake_dir)]) == 0
    assert capsys.readouterr().out == "w/s: a: 10 segments became 1 segment\n"
    with opened(lake_dir, elsewhere) as session:
        session.sync()
        assert parts(50, width=50)[0] in there(elsewhere)[0]
        assert there(elsewhere)[1] == list(range(50))


def test_by_itself_while_it_is_uploaded(lake_dir: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "DELAY", 0.0)
    monkeypatch.setattr(compactor, "AFTER", 0.01)
    monkeypatch.setattr(compaction, "USUAL_POINTS", SIZE)
    monkeypatch.setattr(sweeping, "GRACE", 0.0)
    monkeypatch.setattr(sending, "GRACE", 0.0)
    with opened(lake_dir, elsewhere, sync_interval=0.01) as session:
        for start in range(0, 1000, 20):
            write(session, start, start + 20)
            if start % 100 == 0:
                session.sync()
                assert there(elsewhere)[1][:start] == list(range(start))
    assert there(elsewhere)[1] == list(range(1000))
    assert Lake(lake_dir).session("s", "w").track("a").to_polars()["i"].to_list() == list(range(1000))
