"""Points that take much memory: no segment becomes one that readers refuse, by a roll, a merge or late fields."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamlake import Lake, Session
from dreamlake.engine import roll
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


def test_text_that_repeats_is_found_too_large_when_it_is_read_for_a_merge(tmp_path: Path) -> None:
    with open_session(tmp_path, 100) as session:
        track = session.track("t")
        for number in range(10):
            track.append_batch([{"v": "x" * 1_000 + str(number)}] * 100)
        reads = []
        real = segment.Segment.read
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segment.Segment, "read", lambda *args: reads.append(1) or real(*args))
            assert track.compact() == {"merged": 0, "into": 0, "segments": 10}
            assert reads
            reads.clear()
            assert track.compact()["merged"] == 0
            assert not reads  # what was found is remembered
    assert column(tmp_path, "v") == ["x" * 1_000 + str(number) for number in range(10) for _ in range(100)]


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


def test_what_a_segment_is_taken_for_is_never_less_than_what_a_reader_says() -> None:
    from dreamlake.format.schema import batch_from_points

    points: list[dict[str, Any]] = [
        {"_ts": float(n), "a": [n] * (n % 7), "b": {"c": [None, "é" * n], "d": b"x"}, "e": None, "f": [[True]]}
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
