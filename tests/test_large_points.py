"""Points that take much memory: no segment becomes one that readers refuse, by a roll, a merge or late fields."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamlake import Lake, Session
from dreamlake.engine import late, pressure, roll
from dreamlake.format import pages, segment

#: Bytes that a reader takes, and those that a segment gets, a thousandth of what they are otherwise.
READ, WRITTEN = 2_000_000, 500_000


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_DECODED", READ)
    monkeypatch.setattr(roll, "DECODED_BYTES", WRITTEN)


def open_session(folder: Path, segment_points: int) -> Session:
    return Session("s", "w", folder, segment_points=segment_points, flush_interval=60).open()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "w/s/tracks/t").glob("*.parquet"))


def column(folder: Path, name: str) -> list[Any]:
    track = Lake(folder).session("s", "w").track("t")
    found: list[Any] = track.to_polars()[name].to_list()
    assert [point["data"].get(name) for point in track.read(limit=None)["data"]] == found
    return found


def test_bits_are_counted_as_what_a_reader_takes_them_for(tmp_path: Path) -> None:
    """A mask is a bit a pixel here, and twelve bytes for whoever has to believe the file."""
    masks = np.zeros((1_000, 300), dtype=bool)
    with open_session(tmp_path, 1_000) as session:
        session.track("t").append_batch({"mask": masks})
    assert 7 <= len(names(tmp_path)) <= 20
    assert column(tmp_path, "mask") == masks.tolist()


@pytest.mark.parametrize(
    "make", [lambda n: [False] * n, lambda n: [None] * n, lambda n: "x" * 9 * n], ids=["bits", "nulls", "text"]
)
def test_large_points_that_follow_many_small_ones(tmp_path: Path, make: Any) -> None:
    """In the mean they are small, and yet no segment may hold all of the large ones."""
    rows = [{"v": make(1)}] * 900 + [{"v": make(3_000)}] * 100
    with open_session(tmp_path, 1_000) as session:
        session.track("t").append_batch(rows)
    assert column(tmp_path, "v") == [row["v"] for row in rows]


def test_a_merge_ends_before_its_segment_is_too_large(tmp_path: Path) -> None:
    lists = [[float(number)] * 100 for number in range(2_000)]
    with open_session(tmp_path, 100) as session:
        track = session.track("t")
        for start in range(0, 2_000, 100):
            track.append_batch([{"v": each} for each in lists[start : start + 100]])
        assert len(names(tmp_path)) == 20
        done = track.compact()
        assert done["merged"] == 20
        assert done["segments"] == 6  # of ten that would become one, four of 122,400 bytes each fit
        assert track.compact()["merged"] == 0
        track.append(late=1.0, _ts=track.read(150, 1)["data"][0]["data"]["_ts"])
        track.flush()
        assert track.read(150, 1)["data"][0]["data"]["late"] == 1.0
        track.append_batch([{"v": each} for each in lists])  # a merge, too, goes on
        track.compact()
    assert column(tmp_path, "v") == lists + lists


def test_text_that_repeats_is_merged_as_far_as_it_goes_once_it_was_read(tmp_path: Path) -> None:
    """Footers do not tell how often a text of the dictionary is repeated: a merge finds out, and is tried with less."""
    with open_session(tmp_path, 100) as session:
        track = session.track("t")
        for number in range(10):
            track.append_batch([{"v": "x" * 1_200 + str(number)}] * 100)
        assert track.compact() == {"merged": 10, "into": 3, "segments": 3}  # four of 123,000 bytes each fit
        reads = []
        real = segment.Segment.read
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segment.Segment, "read", lambda *args: reads.append(1) or real(*args))
            assert track.compact()["merged"] == 0
            assert not reads  # what was found is remembered
    assert column(tmp_path, "v") == ["x" * 1_200 + str(number) for number in range(10) for _ in range(100)]


def test_columns_that_most_parts_of_a_merge_lack_are_counted(tmp_path: Path) -> None:
    with open_session(tmp_path, 100) as session:
        track = session.track("t")
        for number in range(10):
            track.append_batch({f"f{number}.{each}": [1.0] * 100 for each in range(30)})
        assert len(names(tmp_path)) == 10
        done = track.compact()
        assert 2 <= done["segments"] < 10
        track.append(late=1.0, _ts=track.read(150, 1)["data"][0]["data"]["_ts"])
        track.flush()
        assert len(track.read(limit=None)["data"]) == 1_000
    assert column(tmp_path, "late").count(1.0) == 1


def test_small_points_behind_large_ones_get_segments_as_usual(tmp_path: Path) -> None:
    rows = [{"v": [False] * 3_000}] * 100 + [{"v": [False]}] * 3_000
    with open_session(tmp_path, 1_000) as session:
        session.track("t").append_batch(rows)
    assert len(names(tmp_path)) < 30
    assert column(tmp_path, "v") == [row["v"] for row in rows]


def test_late_fields_that_do_not_fit_keep_no_memory_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush with such an error has written all else: appends wait for room, and no point is dropped."""
    monkeypatch.setattr(pressure, "LAST_PATIENCE", 60.0)  # for a machine on which much else runs
    session = Session("s", "w", tmp_path, flush_interval=0.05, max_pending_bytes=16 << 20).open()
    stuck, other = session.track("stuck"), session.track("t")
    stuck.append_batch({"i": range(10_000), "_ts": [float(number) for number in range(10_000)]})
    for number in range(250):
        stuck.append(late=[0.0] * 600, _ts=float(number))
    with pytest.raises(OSError, match="stay pending"):
        stuck.flush()
    for number in range(60_000):
        other.append(i=number, text="y" * 400)
    with pytest.raises(OSError, match="stay pending"):
        session.flush()
    assert len(other) == 60_000
    monkeypatch.setattr(pages, "MAX_DECODED", 100 * READ)
    session.close()


@pytest.mark.parametrize("at_once", [16, 1])
def test_late_fields_of_an_away_segment_that_do_not_fit_hold_up_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(late, "MOST_WANTED", at_once)
    url = (tmp_path / "there").as_uri()
    session = Session("s", "w", None, remote=url, segment_points=100, flush_interval=60, sync_interval=3600).open()
    one, two = session.track("a"), session.track("b")
    for track in (one, two):
        track.append_batch({"n": range(300), "_ts": [float(number) for number in range(300)]})
    session.sync()
    session.sync()
    one.append(late=[0] * 200_000, _ts=5.0)
    one.append(other=1, _ts=105.0)
    two.append(late=1, _ts=5.0)
    session.flush()
    with pytest.raises(OSError, match="stay pending"):
        session.sync()
    assert two.read(5, 1)["data"][0]["data"]["late"] == 1
    waiting = Path(session.writer.folder, "tracks", "a", ".late.jsonl").read_text()
    assert "late" in waiting
    assert "other" not in waiting  # it was merged
    two.append(late=2, _ts=106.0)
    assert two.read(106, 1)["data"][0]["data"]["late"] == 2  # which settles, too, and meets the other track's error
    with pytest.raises(OSError, match="stay pending"):
        one.read(105, 1)
    monkeypatch.setattr(pages, "MAX_DECODED", 10 * READ)
    assert one.read(105, 1)["data"][0]["data"]["other"] == 1
    session.close()
    there = Lake(url).session("s", "w")
    assert there.track("b").read(5, 1)["data"][0]["data"]["late"] == 1
    assert there.track("a").read(5, 1)["data"][0]["data"]["late"] == [0] * 200_000


def test_late_fields_that_do_not_fit_hold_up_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(tmp_path, 1_000)
    track = session.track("t")
    track.append_batch({"i": range(1_000), "_ts": [float(number) for number in range(1_000)]})
    for number in range(1_000):
        track.append(late=[0.0] * 200, _ts=float(number))
    track.append(i=1_000)
    with pytest.raises(OSError, match="stay pending: with them 1000 points would take more memory") as caught:
        track.flush()
    assert caught.value.errno == errno.EFBIG
    assert column(tmp_path, "i") == list(range(1_001))
    monkeypatch.setattr(pages, "MAX_DECODED", 10 * READ)
    session.close()
    assert column(tmp_path, "late") == [[0.0] * 200] * 1_000 + [None]


@pytest.mark.parametrize(
    "text",
    [lambda n: "x" * 500, lambda n: "x" * n * 30, lambda n: f"{n}" * 20, lambda n: "é"],
    ids=["equal", "long", "short", "least"],
)
def test_what_a_segment_is_taken_for_is_never_less_than_what_a_reader_says(text: Any) -> None:
    from dreamlake.format.schema import batch_from_points

    points: list[dict[str, Any]] = [
        {
            "_ts": float(n),
            "a": [n] * (n % 7),
            "b": {"c": [None, "é" * n], "d": b"x"},
            "e": None,
            "f": text(n),
            "g": [[n]],
        }
        for n in range(50)
    ]
    batch = batch_from_points(points)
    size = segment.decoded_size(batch)
    info = segment.SegmentInfo("t", 0, 50, 0, 0.0, 49.0, True, batch.schema, batch.schema)
    with pytest.MonkeyPatch.context() as patch:
        written = bytes(segment.encode(batch, info))
        patch.setattr(pages, "MAX_DECODED", size)
        assert segment.open_segment(written).read().num_rows == 50
        patch.setattr(pages, "MAX_DECODED", size - 1)
        with pytest.raises(segment.SegmentTooLarge, match="more memory than a segment may"):
            segment.encode(batch, info)


def test_a_disk_that_takes_no_larger_file_is_trouble_of_the_disk(tmp_path: Path) -> None:
    """Its errno is that of fields that do not fit; appends must not wait for it as for a disk that works."""
    with Session("s", "w", tmp_path, flush_interval=60) as session:
        session.track("t").append(i=1)
        session.flush()

        def refuse(*args: Any, **kwargs: Any) -> int:
            raise OSError(errno.EFBIG, "File too large")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dreamlake.storage.local.append_at", refuse)
            session.track("t").append(i=2)
            session.writer.thread.call(session.writer._tick, 60, "the flush")
            assert session.writer.pressure._failing
        session.flush()
        assert not session.writer.pressure._failing
