"""Segments that are only on the replica: dropping them, and late fields for their points, without a request."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import awaylib
import crashlib
import polars as pl
import pytest
from awaylib import Trimmed, points_of
from hypothesis import given, settings
from hypothesis import strategies as st
from model import ModelTrack
from support import run_python, start_python

import dreamlake.storage.local as local
from dreamlake import Lake, Session
from dreamlake.engine import away, late
from dreamlake.engine.away import Away
from dreamlake.engine.reader import TrackReader
from dreamlake.errors import CorruptTrackError, PointsNotHereError
from dreamlake.format import layout
from dreamlake.format.layout import SegmentName
from dreamlake.format.segment import SegmentDamage, open_segment
from dreamlake.format.segmentinfo import SegmentBounds
from dreamlake.storage.localstore import LocalStore
from dreamlake.view import TrackView

A, B, C = SegmentName(0, 7), SegmentName(7, 14), SegmentName(14, 21)


def record(name: SegmentName, schema: Any = None) -> Away:
    return Away(name, 100, SegmentBounds(*name, 0.1 + 0.2, 1e300, False), schema)


@pytest.fixture
def trimmed(lake_dir: Path, tmp_path: Path) -> Iterator[Trimmed]:
    made = Trimmed(lake_dir, LocalStore(tmp_path / "there"))
    yield made
    made.session.close()


def hidden(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


# ------------------------------------------------------------------------------------------------ the records


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert away.read(folder) == {}
    later = record(SegmentName(0, 10, 2), {"a": "int", "b": {"list": "double"}})
    away.add(folder, [record(A), record(B)], fsync=True)
    away.add(folder, [later], fsync=False)
    assert away.read(folder) == {A: record(A), B: record(B), later.name: later}
    away.write(folder, [later])
    assert away.read(folder) == {later.name: later}
    away.write(folder, [], fsync=True)
    assert away.read(folder) == {}


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_last_line_does_not_count_and_is_cut(tmp_path: Path, cut: int) -> None:
    path = tmp_path / layout.AWAY_FILE
    away.add(str(tmp_path), [record(A), record(B)], fsync=False)
    path.write_bytes(path.read_bytes()[:-cut])
    assert away.read(str(tmp_path)) == {A: record(A)}
    away.add(str(tmp_path), [record(C)], fsync=False)
    assert away.read(str(tmp_path)) == {A: record(A), C: record(C)}


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b'{"segment":"../x.parquet","bytes":1,"tsMin":0.0,"tsMax":1.0,"tsRising":true}\n',
        b'{"segment":"000000000000-000000000007.parquet","bytes":-1,"tsMin":0.0,"tsMax":1.0,"tsRising":true}\n',
        b'{"segment":"000000000000-000000000007.parquet","bytes":1,"tsMin":0,"tsMax":1,"tsRising":true,"schema":{"a":"?"}}\n',
    ],
)
def test_a_damaged_record_is_told(tmp_path: Path, line: bytes) -> None:
    away.add(str(tmp_path), [record(A)], fsync=False)
    with (tmp_path / layout.AWAY_FILE).open("ab") as file:
        file.write(line)
    with pytest.raises(CorruptTrackError, match=r"\.away\.jsonl.*line 2"):
        away.read(str(tmp_path))


@pytest.mark.parametrize("when", range(1, 8))
def test_records_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int) -> None:
    away.add(str(tmp_path), [record(A)], fsync=True)
    seam = crashlib.Seam(0, crashlib.fail)
    with monkeypatch.context() as patch:
        patch.setattr(local, "os_", seam)
        seam.when = when  # open, write, fsync, close, rename; then the folder, which is synced
        with suppress(OSError):
            away.add(str(tmp_path), [record(B)], fsync=True)
    assert when < 3 or seam.names[2] == "fsync"
    assert set(away.read(str(tmp_path))) == ({A} if when < 6 else {A, B})
    assert [path.name for path in tmp_path.iterdir()] == [layout.AWAY_FILE]
    away.add(str(tmp_path), [record(B)], fsync=True)
    assert away.read(str(tmp_path)) == {A: record(A), B: record(B)}


# ------------------------------------------------------------------------------------------------ dropping


def test_a_drop_leaves_bounds_and_timestamps(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    stale = trimmed.folder / ".ts-000000000000-000000000007.5"  # of a crash, and superseded since
    stale.write_bytes(b"x")
    sizes = {name: (trimmed.folder / name.filename).stat().st_size for name in (A, B)}
    trimmed.drop([A, C])
    assert trimmed.here() == (B, C), "the last one stays"
    trimmed.drop()
    assert trimmed.here() == (C,)
    records = away.read(str(trimmed.folder))
    assert {name: found.nbytes for name, found in records.items()} == sizes
    assert records[B].bounds == SegmentBounds(7, 14, 0, 14.0, 26.0, True)
    assert records[A].schema is None, "the last footer tells it"
    assert away.stamps(str(trimmed.folder), A) == [2.0 * n for n in range(7)]
    assert away.stamps(str(trimmed.folder), C) is None
    assert hidden(trimmed.folder) == [
        ".away.jsonl",
        ".ts-000000000000-000000000007",
        ".ts-000000000007-000000000014",
    ]
    assert trimmed.points() == points_of(23)


def test_a_drop_passes_over_what_is_damaged_or_not_there(trimmed: Trimmed, caplog: pytest.LogCaptureFixture) -> None:
    trimmed.append(points_of(28))
    path = trimmed.folder / B.filename
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    trimmed.drop([A, B, SegmentName(0, 3), SegmentName(7, 14, 1)])
    assert trimmed.here() == (B, C, SegmentName(21, 28))
    assert "not dropped" in caplog.text
    assert list(away.read(str(trimmed.folder))) == [A]
    path.write_bytes(whole)
    trimmed.drop([A])
    assert trimmed.here() == (B, C, SegmentName(21, 28))


def test_a_drop_takes_superseded_forms_along(trimmed: Trimmed) -> None:
    trimmed.append(points_of(21))
    trimmed.append([{"late": 1, "_ts": 4.0}])
    later = SegmentName(0, 7, 1)
    assert trimmed.here() == (A, later, B, C)
    trimmed.drop()
    assert trimmed.here() == (C,)
    found = away.read(str(trimmed.folder))
    assert list(found) == [later, B]
    assert found[later].schema == {"n": "int", "late": "int"}, "the last footer is older than this form"
    assert hidden(trimmed.folder)[1:] == [".ts-000000000000-000000000007.1", ".ts-000000000007-000000000014"]
    trimmed.reopen()
    trimmed.append(points_of(10, 21))
    assert trimmed.reader().snapshot().schema == {"n": "int", "late": "int"}
    assert [point.get("late") for point in trimmed.points()[:3]] == [None, None, 1]


def test_writing_goes_on_after_a_drop_without_reading_anew(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    disk = trimmed.writer._disk
    trimmed.drop()
    trimmed.append(points_of(20, 23))
    assert trimmed.writer._disk is disk
    assert disk.away.keys() == {A, B}
    trimmed.drop()
    trimmed.append(points_of(20, 43))
    assert trimmed.points() == points_of(63)
    trimmed.reopen()
    trimmed.append(points_of(9, 63))
    assert trimmed.points() == points_of(72)


def test_a_last_segment_that_is_missing_is_told(trimmed: Trimmed) -> None:
    trimmed.append(points_of(15))
    trimmed.drop()
    trimmed.reopen()
    (trimmed.folder / B.filename).rename(trimmed.folder / "x")
    away.add(str(trimmed.folder), [record(B)], fsync=False)
    trimmed.track.append(n=99)
    with pytest.raises(CorruptTrackError, match="the last segment is missing"):
        trimmed.track.flush()
    (trimmed.folder / "x").rename(trimmed.folder / B.filename)
    trimmed.track.flush()
    assert trimmed.points()[-1]["n"] == 99


def test_an_unknown_later_form_is_told(trimmed: Trimmed) -> None:
    trimmed.append(points_of(15))
    trimmed.drop()
    trimmed.reopen()
    form = SegmentName(0, 7, 3)
    away.add(str(trimmed.folder), [record(form)], fsync=False)
    trimmed.track.append(n=99)
    with pytest.raises(CorruptTrackError, match=r"which fields 0+-0+7\.3\.parquet has"):
        trimmed.track.flush()
    bounds = SegmentBounds(*form, 0.0, 12.0, True)
    away.write(str(trimmed.folder), [Away(form, 100, bounds, {"n": "int", "x": "string"})])
    trimmed.track.flush()
    assert trimmed.writer._disk.schema == {"n": "int", "x": "string"}


def plain(trimmed: Trimmed) -> TrackView:
    """The track as a reader has it that knows no replica."""
    return Lake(trimmed.root).session("s", "w").track(awaylib.TRACK)


def test_a_plain_reader_is_told_where_the_points_are(trimmed: Trimmed, caplog: pytest.LogCaptureFixture) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([B])
    track = plain(trimmed)
    with pytest.raises(PointsNotHereError, match=r"the replica alone holds them.*Lake\(<its remote>\)") as caught:
        track.read(limit=None)
    assert (caught.value.start, caught.value.stop, caught.value.replicas) == (7, 14, ())
    assert "damaged" not in str(caught.value)
    skipped = track.read(limit=None, errors="skip")
    assert [row["index"] for row in skipped["data"]] == [*range(7), *range(14, 23)]
    assert skipped["total"] == 23
    assert "the replica alone holds them" in caplog.text
    (trimmed.folder / A.filename).rename(trimmed.folder / "x")
    with pytest.raises(CorruptTrackError, match="none holds the indices 0 to 7"):
        track.read(limit=None)
    (trimmed.folder / "x").rename(trimmed.folder / A.filename)
    assert Lake(trimmed.root).session("s", "w").tracks.list() == [awaylib.TRACK]


def test_segments_that_are_dropped_behind_a_plain_reader_s_look_are_told_as_not_here(
    trimmed: Trimmed, caplog: pytest.LogCaptureFixture
) -> None:
    trimmed.append(points_of(23))
    reader = TrackReader(LocalStore(trimmed.root), awaylib.BELOW, awaylib.TRACK)
    strict, skipping = reader.snapshot(), reader.snapshot(errors="skip")
    trimmed.drop([A, B])
    with pytest.raises(PointsNotHereError) as caught:
        strict.points(0, 23)
    assert (caught.value.start, caught.value.stop) == (0, 14)
    assert [index for index, _ in skipping.points(0, 23)] == list(range(14, 23))
    assert "the replica alone holds them" in caplog.text
    assert "missing" not in caplog.text


def test_a_last_segment_that_is_away_too_is_not_here(trimmed: Trimmed) -> None:
    """No writer leaves that; somebody who tidies a folder by hand may."""
    trimmed.append(points_of(21))
    trimmed.drop([A, B])
    last = trimmed.here()[-1]
    records = away.parse((trimmed.folder / ".away.jsonl").read_bytes(), "x")
    bounds = [*(record.bounds for record in records.values()), SegmentBounds(*last, 34.0, 40.0, True)]
    told = [Away(SegmentName(*each[:3]), 100, each, {"n": "int"}) for each in bounds]  # as where no footer tells it
    away.write(str(trimmed.folder), told)
    (trimmed.folder / last.filename).unlink()
    track = plain(trimmed)
    assert len(track) == 21
    assert track.stats()["totalDataPoints"] == 21
    with pytest.raises(PointsNotHereError) as caught:
        track.read(20)
    assert (caught.value.start, caught.value.stop) == (0, 21)


def test_a_check_notes_what_is_only_on_the_replica(trimmed: Trimmed, cli: Any) -> None:
    trimmed.append(points_of(23))
    assert cli("check", "--path", trimmed.root)[:2] == (0, "w/s: no damage\n")
    trimmed.drop([A, B])
    status, out, _ = cli("check", "--path", trimmed.root)
    assert status == 0
    assert out.startswith("w/s: no damage\n")
    assert "14 points up to 14 (exclusive) are only on the replica" in out


def test_a_plain_reader_reads_what_is_here_and_nothing_that_needs_more(trimmed: Trimmed) -> None:
    points = [{**point, "x": float(number) if number != 9 else None} for number, point in enumerate(points_of(23))]
    trimmed.append(points)
    trimmed.drop([A, B])
    track = plain(trimmed)
    assert len(track) == 23
    assert track.stats() == TrackView(trimmed.reader()).stats()
    assert track.read(-1)["data"] == [{"index": 22, "data": points[22]}]
    for start in range(24):
        for limit in (0, 1, 3, None):
            wanted = points[start : None if limit is None else start + limit]
            if wanted and start < 14:
                with pytest.raises(PointsNotHereError) as caught:
                    track.read(start, limit)
                assert (caught.value.start, caught.value.stop) == (0, 14)
                with pytest.raises(PointsNotHereError):
                    track.to_arrow(start, limit)
                with pytest.raises(PointsNotHereError):
                    track.scan(start, limit).collect()
            else:
                assert [row["data"] for row in track.read(start, limit)["data"]] == wanted
                assert track.to_arrow(start, limit)["n"].to_pylist() == [point["n"] for point in wanted]
                assert track.scan(start, limit).collect()["n"].to_list() == [point["n"] for point in wanted]
    for whole in (track.scan().select(pl.col("n").sum()), track.latest(by="n"), track.scan().filter(pl.col("n") > 20)):
        with pytest.raises(PointsNotHereError):
            whole.collect()
    assert track.scan().select(pl.len()).collect().item() == 23
    assert track.scan().filter(pl.col("_index") >= 14).collect().height == 9
    assert track.scan().filter(pl.col("_ts") >= 28.0).collect()["n"].to_list() == list(range(14, 23))
    with pytest.raises(PointsNotHereError):
        track.scan().filter(pl.col("_ts") >= 26.0).collect()
    assert [row["index"] for row in track.read_by_time(28.0, None)["data"]] == list(range(14, 23))
    assert track.read_by_time(None, None, 2, reverse=True)["endIndex"] == 23
    with pytest.raises(PointsNotHereError):
        track.read_by_time(None, 28.0)
    assert track.downsample(4, "n", start_index=14)["n"].to_list() == [14, 22]
    with pytest.raises(PointsNotHereError):
        track.downsample(4, "n")
    with pytest.raises(PointsNotHereError):
        track.files()
    assert Lake(trimmed.root).scan(awaylib.TRACK).filter(pl.col("_index") > 20).collect()["n"].to_list() == [21, 22]


def test_a_plain_reader_does_not_take_an_older_form_for_one_that_is_away(trimmed: Trimmed) -> None:
    """As after a crash in the middle of a drop: what is left here lacks the late field."""
    trimmed.append(points_of(23))
    older = (trimmed.folder / A.filename).read_bytes()
    trimmed.append([{"late": 1, "_ts": 4.0}])
    trimmed.drop()
    trimmed.session.close()
    (trimmed.folder / A.filename).write_bytes(older)
    assert trimmed.points()[2] == {"n": 2, "_ts": 4.0, "late": 1}
    with pytest.raises(PointsNotHereError):
        plain(trimmed).read(0, 7)
    assert plain(trimmed).read(-1)["data"][0]["data"]["n"] == 22


def test_a_segment_that_goes_away_under_a_plain_reader_is_told(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    track = plain(trimmed)
    everything, some = track.scan(), track.scan(14)
    skipping = track.scan(errors="skip")
    trimmed.drop([A])
    with pytest.raises(PointsNotHereError) as caught:
        everything.collect()
    assert (caught.value.start, caught.value.stop) == (0, 7)
    assert some.collect()["n"].to_list() == list(range(14, 23))
    assert skipping.collect()["n"].to_list() == list(range(7, 23))
    data = trimmed.there.get(f"{awaylib.BELOW}/{A.filename}")
    behind = track.scan()
    (trimmed.folder / A.filename).write_bytes(data)
    assert behind.collect()["n"].to_list() == list(range(23))


def test_a_plain_reader_needs_to_know_the_fields_of_what_is_away(trimmed: Trimmed) -> None:
    trimmed.append(points_of(15))
    trimmed.drop()
    trimmed.session.close()
    form = SegmentName(0, 7, 3)
    away.add(str(trimmed.folder), [record(form)], fsync=False)
    track = plain(trimmed)
    assert track.read(-1)["data"][0]["data"]["n"] == 14
    for read in (track.scan, track.stats):
        with pytest.raises(PointsNotHereError) as caught:
            read()
        assert (caught.value.start, caught.value.stop) == (0, 7)
    bounds = SegmentBounds(*form, 0.0, 12.0, True)
    away.write(str(trimmed.folder), [Away(form, 100, bounds, {"n": "int", "x": "string"})])
    assert track.stats()["fields"] == {"n": "int64", "x": "string"}
    assert track.scan(7).collect().columns == ["_index", "_ts", "n", "x"]


def test_a_plain_reader_tells_damaged_records(trimmed: Trimmed, caplog: pytest.LogCaptureFixture) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([A])
    path = trimmed.folder / layout.AWAY_FILE
    path.write_bytes(b"{" + path.read_bytes())
    with pytest.raises(CorruptTrackError, match=r"\.away\.jsonl.*line 1"):
        plain(trimmed).read(-1)
    assert len(plain(trimmed).read(0, None, errors="skip")["data"]) == 16
    assert ".away.jsonl" in caplog.text


def test_the_error_names_the_replicas_that_are_known(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([A])
    path = trimmed.root / "w" / "s" / layout.REPLICA_FILE
    for text, replicas in {
        '{"machine": "m1", "remotes": {"s3://b/lake": {}, "s3://a": {"origin": true}}}': ("s3://a", "s3://b/lake"),
        "rubbish": (),
        '{"machine": "m1", "remotes": 3}': (),
    }.items():
        path.write_text(text)
        with pytest.raises(PointsNotHereError) as caught:
            plain(trimmed).read(0)
        assert caught.value.replicas == replicas
        assert (" or ".join(f"Lake({url!r})" for url in replicas) or "Lake(<its remote>)") in str(caught.value)
    path.unlink()


def test_commands_say_that_older_points_are_on_the_replica(trimmed: Trimmed, cli: Any) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([A, B])
    trimmed.session.close()
    (trimmed.root / "w" / "s" / layout.REPLICA_FILE).write_text('{"machine": "m", "remotes": {"s3://b/lake": {}}}')
    name, place = awaylib.TRACK, ["--path", trimmed.root]
    status, out, err = cli("show", "w/s", *place)
    assert (status, err) == (0, "")
    assert f"{name}: 14 older points only on the replica: s3://b/lake" in out
    assert "damage" not in out
    assert next(line.split()[1] for line in out.splitlines() if line.startswith(f"{name} ")) == "23"
    status, out, _ = cli("show", "w/s", *place, "--json")
    assert status == 0
    assert json.loads(out)["tracks"][0]["awayDataPoints"] == 14
    status, out, err = cli("ls", trimmed.root, "-c", f"{name}:n")
    assert (status, err, out.split()[-1]) == (0, "", "22")
    status, out, err = cli("ls", trimmed.root, "-c", f"{name}:n.min,{name}:n")
    assert status == 1
    assert out.splitlines()[1].split() == ["w/s", "finished", "22"]
    assert "the replica alone holds them" in err
    status, out, err = cli("tail", "w/s", "-n", "2", *place)
    assert (status, err) == (0, "")
    assert [line.split()[-1] for line in out.splitlines()] == ["n=21", "n=22"]
    status, out, err = cli("export", "w/s", name, "-o", "-", "--format", "csv", "--start", "-2", *place)
    assert status == 0
    assert [line.split(",")[-1] for line in out.splitlines()] == ["n", "21", "22"]
    status, out, err = cli("export", "w/s", name, "-o", "-", "--format", "csv", *place)
    assert status == 1
    assert "the replica alone holds them" in err
    status, out, err = cli("files", "w/s", name, *place)
    assert (status, out) == (1, "")


def test_notebooks_show_what_is_here(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([A, B])
    for shown in (plain(trimmed)._repr_html_(), Lake(trimmed.root).session("s", "w")._repr_html_()):
        assert ">23 points" in shown or ">23<" in shown
        assert "22" in shown
        assert "the replica alone holds them" in shown


@pytest.mark.parametrize("damage", ["cut", "empty", "swapped"])
def test_damaged_timestamps_are_not_believed(trimmed: Trimmed, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    trimmed.append(points_of(21))
    trimmed.drop()
    path = Path(away.stamps_path(str(trimmed.folder), A))
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-9])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(Path(away.stamps_path(str(trimmed.folder), B)).read_bytes())
    assert away.stamps(str(trimmed.folder), A) is None
    assert "the segment is asked instead" in caplog.text
    trimmed.reopen()
    trimmed.append([{"late": 1, "_ts": 5.0}, {"late": 2, "_ts": 4.0}])
    assert trimmed.settle() == 1
    assert [point for point in trimmed.points() if "late" in point] == [
        {"n": 2, "late": 2, "_ts": 4.0},
        {"late": 1, "_ts": 5.0},
    ]


@pytest.mark.filterwarnings("ignore")
def test_no_flipped_bit_changes_a_timestamp(trimmed: Trimmed) -> None:
    trimmed.append(points_of(14))
    trimmed.drop()
    path = Path(away.stamps_path(str(trimmed.folder), A))
    whole = path.read_bytes()
    found = []
    for at in range(0, len(whole), 3):
        path.write_bytes(bytes([*whole[:at], whole[at] ^ (1 << at % 8), *whole[at + 1 :]]))
        found.append(away.stamps(str(trimmed.folder), A))
    assert found.count(None) > len(whole) / 6
    assert all(stamps in (None, [2.0 * n for n in range(7)]) for stamps in found)


# ------------------------------------------------------------------------------------------------ late fields


def test_a_late_field_waits_and_is_merged(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop()
    result = trimmed.track.append_batch([{"late": 1, "_ts": 4.0}, {"late": 2, "_ts": 18.0}, {"x": 1, "_ts": 9.0}])
    assert result == {"count": 3, "startIndex": 2, "endIndex": 24}, "the timestamps are known, so the indices are"
    trimmed.append([{"late": 3, "_ts": 4.0}, {"more": [1.5], "_ts": 4.0}])
    assert trimmed.writer.pending.is_empty(), "what waits counts as flushed"
    assert len(trimmed.points()) == 24
    assert trimmed.writer.wanted() == [A, B]
    waiting = (trimmed.folder / layout.LATE_FILE).read_text().splitlines()
    assert [json.loads(line)["data"] for line in waiting] == [
        {"late": 1, "_ts": 4.0},
        {"late": 2, "_ts": 18.0},
        {"late": 3, "_ts": 4.0},
        {"more": [1.5], "_ts": 4.0},
    ]
    assert trimmed.settle() == 2
    assert hidden(trimmed.folder) == [".away.jsonl"]
    assert trimmed.here() == (SegmentName(0, 7, 1), SegmentName(7, 14, 1), C)
    expected = points_of(23)
    expected[2] = {"n": 2, "late": 3, "more": [1.5], "_ts": 4.0}
    expected[9] = {"n": 9, "late": 2, "_ts": 18.0}
    assert trimmed.points() == [*expected, {"x": 1, "_ts": 9.0}]
    trimmed.reopen()
    trimmed.append([{"again": 1, "_ts": 4.0}])
    assert trimmed.points()[2] == {**expected[2], "again": 1}
    trimmed.drop()
    trimmed.append([{"again": 2, "_ts": 4.0}])
    trimmed.settle()
    assert trimmed.points()[2] == {**expected[2], "again": 2}


def test_rows_that_may_belong_to_an_unknown_segment_wait(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop()
    trimmed.forget_stamps()
    result = trimmed.track.append_batch([{"late": 1, "_ts": 5.0}, {"x": 2, "_ts": 5.0}])
    assert result == {"count": 2, "startIndex": None, "endIndex": None}
    result = trimmed.track.append_batch([{"late": 1, "_ts": 5.0}, {"x": 2, "_ts": 13.0}, {"late": 2, "_ts": 40.0}])
    assert result == {"count": 3, "startIndex": 20, "endIndex": 24}, "13.0 lies between the bounds of two"
    trimmed.append([{"late": 3, "_ts": 4.0}, {"new": 1}])
    assert trimmed.writer.wanted() == [A]
    assert trimmed.settle() == 1
    points = trimmed.points()
    assert points[2] == {"n": 2, "late": 3, "_ts": 4.0}
    assert points[20] == {"n": 20, "late": 2, "_ts": 40.0}
    assert points[23] == {"x": 2, "_ts": 13.0}
    assert points[25] == {"late": 1, "x": 2, "_ts": 5.0}
    assert len(points) == 26
    trimmed.append([{"late": 4, "_ts": 5.0}])
    assert trimmed.points()[25]["late"] == 4
    assert not trimmed.writer.wanted(), "asked once, it is known"


def test_values_of_all_kinds_wait(trimmed: Trimmed) -> None:
    from datetime import UTC, datetime

    values: dict[str, Any] = {
        "nan": float("nan"),
        "inf": float("-inf"),
        "zero": -0.0,
        "none": None,
        "big": 1 << 90,
        "bytes": b"\0\xff",
        "when": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        "$x": {"$date": ["é\n", True, {}]},
    }
    trimmed.append(points_of(14))
    trimmed.drop()
    trimmed.append([{**values, "_ts": 4.0}])
    trimmed.reopen()
    trimmed.settle()
    point = trimmed.points()[2]
    assert repr({**values, "n": 2, "_ts": 4.0}) == repr({**{name: point[name] for name in values}, "n": 2, "_ts": 4.0})


def test_a_flush_never_asks_the_replica(lake_dir: Path, tmp_path: Path) -> None:
    trimmed = Trimmed(lake_dir, LocalStore(tmp_path / "there"))
    trimmed.append(points_of(30))
    trimmed.drop()
    trimmed.forget_stamps()
    trimmed.there = awaylib.Unreachable()
    trimmed.append([{"late": n, "_ts": n / 2} for n in range(120)])
    trimmed.append([{"n": n, "_ts": 1000.0 + n} for n in range(20)])
    trimmed.reopen()
    trimmed.append([{"later": 1, "_ts": 2.0}])
    trimmed.session.close()


def test_a_row_whose_segment_is_here_again_is_merged_by_the_next_flush(trimmed: Trimmed) -> None:
    """As after a crash between the two steps of a merge, or when somebody copies the segment back."""
    trimmed.append(points_of(23))
    trimmed.drop()
    trimmed.append([{"late": 1, "_ts": 4.0}])
    trimmed.session.close()
    (trimmed.folder / A.filename).write_bytes(trimmed.there.get(f"{awaylib.BELOW}/{A.filename}"))
    trimmed.session = trimmed.made()
    assert trimmed.writer.wanted() == []
    trimmed.append([{"late": 2, "_ts": 4.0}, {"x": 1}])
    assert not (trimmed.folder / layout.LATE_FILE).exists()
    assert trimmed.points()[2] == {"n": 2, "late": 2, "_ts": 4.0}
    assert trimmed.here() == (A, SegmentName(0, 7, 1), C)


@pytest.mark.parametrize("hot_lines", [1, 2])
def test_rows_that_a_close_may_merge_do_not_cost_what_it_has_just_written(trimmed: Trimmed, hot_lines: int) -> None:
    """What a close writes it does not remember; a merge behind it, which may write the hot file anew, has to."""
    trimmed.append(points_of(21))
    trimmed.append([{"h": 0, "_ts": 5.0}, {"h": 1, "_ts": 7.0}])
    if hot_lines == 2:
        trimmed.append([{"x": 0, "_ts": 5.0}, {"x": 1, "_ts": 7.0}])
    trimmed.drop()
    trimmed.forget_stamps()
    trimmed.append([{"late": 1, "_ts": 5.0}, {"late": 2, "_ts": 7.0}])
    trimmed.session.close()
    for entry in trimmed.there.list(awaylib.BELOW):
        path = trimmed.folder / entry.name
        if not path.exists():
            path.write_bytes(trimmed.there.get(f"{awaylib.BELOW}/{entry.name}"))
    trimmed.session = trimmed.made()
    trimmed.track.append(n=100, _ts=200.0)
    trimmed.session.close()
    found = trimmed.points()
    assert len(found) == 24
    assert found[-1] == {"n": 100, "_ts": 200.0}
    assert [point.get("late") for point in found[21:]] == [1, 2, None]
    assert not (trimmed.folder / layout.LATE_FILE).exists()


@pytest.mark.parametrize("step", ["the later form", "the end of the waiting file"])
def test_a_merge_within_a_flush_that_fails_is_made_by_the_next(
    trimmed: Trimmed, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    trimmed.append(points_of(23))
    trimmed.drop()
    trimmed.append([{"late": 1, "_ts": 4.0}])
    trimmed.session.close()
    (trimmed.folder / A.filename).write_bytes(trimmed.there.get(f"{awaylib.BELOW}/{A.filename}"))
    trimmed.session = trimmed.made()
    trimmed.track.append(x=1)
    place, name = (local, "write_new") if step == "the later form" else (late.LateFile, "replace")
    monkeypatch.setattr(place, name, lambda *given: crashlib.fail("", lambda: None, ()))
    with pytest.raises(OSError, match="error"):
        trimmed.track.flush()
    monkeypatch.undo()
    assert (trimmed.folder / layout.LATE_FILE).exists()
    trimmed.append([{"x": 2}])
    assert not (trimmed.folder / layout.LATE_FILE).exists()
    assert trimmed.points()[2] == {"n": 2, "late": 1, "_ts": 4.0}
    assert [point.get("x") for point in trimmed.points()[23:]] == [1, 2]


def test_segments_are_wanted_some_at_a_time(trimmed: Trimmed, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"n": n, "_ts": float(n * 37 % 101)} for n in range(100)]  # each segment's bounds hold nearly all
    trimmed.append(rows)
    trimmed.drop()
    trimmed.forget_stamps()
    monkeypatch.setattr(late, "MOST_WANTED", 3)
    trimmed.append([{"late": 1, "_ts": rows[50]["_ts"]}, {"late": 2, "_ts": 50.5}])
    assert len(trimmed.writer.wanted()) == 3
    assert 8 < trimmed.settle() <= 14, "each is fetched once"
    points = trimmed.points()
    assert points[50]["late"] == 1
    assert points[100] == {"late": 2, "_ts": 50.5}
    monkeypatch.setattr(late, "MOST_WANTED_BYTES", 1)
    trimmed.drop()
    trimmed.forget_stamps()
    trimmed.append([{"late": 3, "_ts": 50.25}])
    assert len(trimmed.writer.wanted()) == 1, "one at least, however large"


def test_a_segment_is_fetched_again_for_a_row_that_first_waited_for_others(
    trimmed: Trimmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row wants it at once, and is not in it; the other first has to know that no earlier one has its timestamp."""
    rows = [{"n": n, "_ts": float(n * 11 % 35)} for n in range(35)]  # five segments, the bounds of which hold 10.5
    last = (200.0, 10.5, 201.0, 202.0, 203.0, 204.0, 205.0)
    trimmed.append([*rows, *({"n": n, "_ts": ts} for n, ts in enumerate(last, 35)), *points_of(7, start=300)])
    trimmed.drop()
    trimmed.forget_stamps()
    monkeypatch.setattr(late, "MOST_WANTED", 3)
    trimmed.append([{"new": 1, "_ts": 200.5}, {"late": 2, "_ts": 10.5}])

    def merge(names: list[SegmentName]) -> None:
        data = {name: trimmed.there.get(f"{awaylib.BELOW}/{name.filename}") for name in names}
        trimmed.under_lock(partial(trimmed.writer.settle, data))

    late.settle_all(trimmed.writer.wanted, merge)
    assert not (trimmed.folder / layout.LATE_FILE).exists()
    assert trimmed.points()[36]["late"] == 2
    assert trimmed.points()[49:] == [{"new": 1, "_ts": 200.5}]


def test_a_row_that_may_be_in_a_damaged_segment_is_not_waited_for_without_end(
    trimmed: Trimmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in another one, which is wanted as long as it waits."""
    trimmed.append([{"n": n, "_ts": ts} for n, ts in enumerate((0.0, *range(2, 7), 50.0, 10.5, *range(60, 66)))])
    trimmed.append(points_of(7, start=300))
    trimmed.drop()
    trimmed.forget_stamps()
    monkeypatch.setattr(late, "MOST_WANTED", 1)
    trimmed.append([{"late": 1, "_ts": 10.5}])
    asked: list[list[SegmentName]] = []

    def merge(names: list[SegmentName]) -> None:
        asked.append(names)
        assert len(asked) < 20, "it never ends"
        data = {name: trimmed.there.get(f"{awaylib.BELOW}/{name.filename}") for name in names}
        fetched = {name: whole[:-10] if name == A else whole for name, whole in data.items()}
        trimmed.under_lock(partial(trimmed.writer.settle, fetched))

    with pytest.raises(CorruptTrackError, match="as the replica has it"):
        late.settle_all(trimmed.writer.wanted, merge)
    assert asked == [[A], [B], [B]]
    assert (trimmed.folder / layout.LATE_FILE).exists()


def test_fetched_bytes_that_are_damaged_are_told_and_the_rest_is_merged(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop()
    trimmed.append([{"late": 1, "_ts": 4.0}, {"late": 2, "_ts": 16.0}, {"late": 3, "_ts": 4.0}])
    data = {name: trimmed.there.get(f"{awaylib.BELOW}/{name.filename}") for name in (A, B)}
    whole = data[A]
    for bad in (whole[:-10], data[B], b"", _flipped_in(whole, "_ts"), _flipped_in(whole, "n")):
        fetched = {**data, A: bad}
        with pytest.raises(CorruptTrackError, match=r"0+-0+7\.parquet, as the replica has it"):
            trimmed.under_lock(partial(trimmed.writer.settle, fetched))
        assert trimmed.writer.wanted() == [A]
        assert trimmed.points()[8].get("late") == 2
    trimmed.append([{"late": 4, "_ts": 4.0}])
    trimmed.under_lock(lambda: trimmed.writer.settle(data))
    assert trimmed.points()[2] == {"n": 2, "late": 4, "_ts": 4.0}
    assert not trimmed.writer.wanted()
    assert not trimmed.writer._disk.fetched, "they are let go"


def _flipped_in(whole: bytes, column: str) -> bytes:
    """The segment with a bit flipped in this column, which no other column notices."""
    for at in range(len(whole)):
        flipped = bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]])
        if [name for name in ("_ts", "n") if _is_damaged(flipped, name)] == [column]:
            return flipped
    raise AssertionError(column)


def _is_damaged(data: bytes, column: str) -> bool:
    try:
        open_segment(data).read([column])
    except SegmentDamage:
        return True
    return False


def test_a_bare_drop_keeps_no_timestamps_and_points_are_found_by_bounds(trimmed: Trimmed) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([A])
    assert list(trimmed.folder.glob(".ts-*"))
    trimmed.under_lock(lambda: trimmed.writer.drop([B], bare=True))
    assert not list(trimmed.folder.glob(".ts-*"))
    trimmed.append([{"late": 1, "_ts": 4.0}, {"late": 2, "_ts": 16.0}])
    assert trimmed.writer.wanted() == [A, B]
    trimmed.settle()
    assert [point["late"] for point in trimmed.points() if "late" in point] == [1, 2]


def test_a_torn_waiting_row_is_cut_and_a_damaged_one_told(trimmed: Trimmed, caplog: pytest.LogCaptureFixture) -> None:
    trimmed.append(points_of(14))
    trimmed.drop()
    trimmed.append([{"late": 1, "_ts": 4.0}])
    trimmed.session.close()
    path = trimmed.folder / layout.LATE_FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"index":1,"data":{"late":2')
    trimmed.session = trimmed.made()
    trimmed.append([{"x": 5, "_ts": 4.0}])
    assert "torn" in caplog.text
    assert late.wanted(str(trimmed.folder)) == [A]
    trimmed.session.close()
    good = path.read_bytes()
    path.write_bytes(b"{\n" + good)
    trimmed.session = trimmed.made()
    trimmed.track.append(x=6, _ts=4.0)
    with pytest.raises(CorruptTrackError, match=r"\.late\.jsonl"):
        trimmed.track.flush()
    path.write_bytes(good)
    trimmed.track.flush()
    trimmed.settle()
    assert trimmed.points()[2] == {"n": 2, "late": 1, "x": 6, "_ts": 4.0}


def test_an_inherited_timestamp_reaches_an_away_point(trimmed: Trimmed) -> None:
    trimmed.append(points_of(14))
    trimmed.drop()
    other = trimmed.session.track("other")
    other.append(o=1, _ts=6.0)
    trimmed.append([{"inherited": 1, "_ts": -1}])
    trimmed.track.append_batch([{"b": 1, "_ts": 8.0}, {"c": 1, "_ts": -1}])
    trimmed.settle()
    points = trimmed.points()
    assert points[3] == {"n": 3, "inherited": 1, "_ts": 6.0}
    assert points[4] == {"n": 4, "b": 1, "c": 1, "_ts": 8.0}


@pytest.mark.parametrize("fault", ["fail", "fail half"])
@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_a_disk_that_fails_keeps_late_rows_pending(
    trimmed: Trimmed, monkeypatch: pytest.MonkeyPatch, fault: str, place: int
) -> None:
    """Whatever of them got into the file: doing it again changes nothing."""
    trimmed.session.close()
    trimmed.options["fsync"] = True
    trimmed.session = trimmed.made()
    trimmed.append(points_of(14))
    trimmed.drop()
    trimmed.track.append(late=1, _ts=4.0).append(late=2, _ts=4.0).append(more=3, _ts=6.0)
    seam = _OnLateFile(place, crashlib.FAULTS[fault][1])
    monkeypatch.setattr(local, "os_", seam)
    with pytest.raises(OSError, match=r"error|space"):
        trimmed.track.flush()
    assert seam.names[-1] != "" or place == 4
    monkeypatch.setattr(local, "os_", os)
    assert not trimmed.writer.pending.is_empty()
    trimmed.track.flush()
    trimmed.settle()
    assert trimmed.points()[2:4] == [{"n": 2, "late": 2, "_ts": 4.0}, {"n": 3, "more": 3, "_ts": 6.0}]


class _OnLateFile(crashlib.Seam):
    """Lets the n-th call go wrong from the opening of the waiting file on: open, fstat, pwrite, fsync, close."""

    def __getattr__(self, name: str) -> Any:
        call = super().__getattr__(name)

        def counted(*args: Any) -> Any:
            if name == "open" and str(args[0]).endswith(layout.LATE_FILE):
                self.names = []
                self.when = abs(self.when) + 1
            return call(*args)

        return counted if callable(call) else call

    def is_due(self) -> bool:
        return len(self.names) == self.when


# ------------------------------------------------------------------------------------------------ any order of things

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("row"), st.integers(0, 16), st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=2)
        ),
        st.tuples(
            st.sampled_from(["flush", "drop", "settle", "reopen", "inherit", "batch", "drop one"]), st.integers(0, 5)
        ),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(steps)
def test_merging_does_not_depend_on_where_segments_are(tmp_path_factory: pytest.TempPathFactory, steps: Any) -> None:
    folder = tmp_path_factory.mktemp("lake")
    trimmed = Trimmed(folder / "here", LocalStore(folder / "there", fsync=False), segment_points=3)
    model = ModelTrack()
    latest = 0.0
    for step in steps:
        if step[0] == "row":
            latest = float(step[1])
            trimmed.track.append(**step[2], _ts=latest)
            model.add(step[2], latest, automatic=False)
        elif step[0] == "batch":
            rows = [{"d": n, "_ts": float(step[1] + n)} for n in range(4)]
            trimmed.track.append_batch(rows)
            for row in rows:
                model.add({"d": row["d"]}, row["_ts"], automatic=False)
                latest = row["_ts"]
        elif step[0] == "inherit" and model.points:
            trimmed.track.append(e=step[1], _ts=latest)
            model.add({"e": step[1]}, latest, automatic=False)
        elif model.points:
            _do(trimmed, *step)
    if model.points:
        trimmed.track.flush()
        trimmed.settle()
        model.assert_read(trimmed.read())
        frame = trimmed.reader().snapshot().table(0, len(model.points))
        assert frame.column("_ts").to_pylist() == [point["_ts"] for point in model.points]
    trimmed.session.close()


def _do(trimmed: Trimmed, what: str, number: int) -> None:
    trimmed.track.flush()
    if what == "drop":
        trimmed.drop()
    elif what == "drop one":
        here = trimmed.here()
        trimmed.drop(here[number : number + 1])
    elif what == "settle":
        trimmed.settle()
    elif what == "reopen":
        trimmed.reopen()


@settings(max_examples=40)
@given(steps)
def test_nothing_is_lost_or_doubled_where_timestamps_are_not_known(
    tmp_path_factory: pytest.TempPathFactory, steps: Any
) -> None:
    """The order of points that are new is that of their merges then, so they are compared by their timestamps."""
    folder = tmp_path_factory.mktemp("lake")
    trimmed = Trimmed(folder / "here", LocalStore(folder / "there", fsync=False), segment_points=3)
    expected: dict[float, dict[str, Any]] = {}
    for step in steps:
        if step[0] == "row":
            ts = float(step[1])
            trimmed.track.append(**step[2], _ts=ts)
            expected.setdefault(ts, {"_ts": ts}).update(step[2])
        elif expected:
            _do(trimmed, *step)
            if step[0] == "drop" and step[1] % 2:
                trimmed.forget_stamps()
    if expected:
        trimmed.track.flush()
        trimmed.settle()
        points = trimmed.points()
        assert len(points) == len(expected)
        assert {point["_ts"]: point for point in points} == expected
    trimmed.session.close()


# ------------------------------------------------------------------------------------------------ several processes


def test_rows_of_another_process_that_wait_are_noticed(
    trimmed: Trimmed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trimmed.append(points_of(23))
    trimmed.drop([A])
    trimmed.append([{"late": 0, "_ts": 4.0}])
    code = """
        import sys
        from pathlib import Path
        from awaylib import Trimmed
        from dreamlake.storage.localstore import LocalStore
        other = Trimmed(Path(sys.argv[1]), LocalStore(sys.argv[2]))
        other.append([{"late": 1, "_ts": 4.0}, {"other": 1, "_ts": 6.0}])
        if sys.argv[3] == "drop":
            other.drop()
        if sys.argv[3] == "settle":
            other.settle()
        other.session.close()
    """
    for what in ("append", "drop", "settle"):
        run_python(code, trimmed.root, tmp_path / "there", what, PYTHONPATH=crashlib.PATH)
        trimmed.append([{"mine": what, "_ts": 4.0}, {"b": what, "_ts": 16.0}])
        away_now = [name.start for name in trimmed.writer._disk.away]
        assert away_now == {"append": [0], "drop": [0, 7], "settle": []}[what]
    assert not caplog.text, "found out by the counter, not by a size that does not fit"
    assert not trimmed.writer.wanted(), "what another process has merged is here"
    points = trimmed.points()
    assert points[2] == {"n": 2, "late": 1, "mine": "settle", "_ts": 4.0}
    assert points[3] == {"n": 3, "other": 1, "_ts": 6.0}
    assert points[8] == {"n": 8, "b": "settle", "_ts": 16.0}
    assert len(points) == 23


def test_timestamps_that_another_process_has_fetched_are_noticed(trimmed: Trimmed, tmp_path: Path) -> None:
    trimmed.append(points_of(23))
    trimmed.drop()
    trimmed.forget_stamps()
    trimmed.append([{"x": 1, "_ts": 5.0}])
    code = """
        import sys
        from pathlib import Path
        from awaylib import Trimmed
        from dreamlake.storage.localstore import LocalStore
        other = Trimmed(Path(sys.argv[1]), LocalStore(sys.argv[2]))
        print(other.settle())
        other.session.close()
    """
    assert run_python(code, trimmed.root, tmp_path / "there", PYTHONPATH=crashlib.PATH).stdout == "1\n"
    trimmed.append([{"x": 2, "_ts": 5.0}])
    assert hidden(trimmed.folder) == [".away.jsonl", ".ts-000000000000-000000000007"]
    assert trimmed.points()[23:] == [{"x": 2, "_ts": 5.0}]


def test_two_processes_drop_and_add_late_fields(lake_dir: Path, tmp_path: Path) -> None:
    code = """
        import sys, random
        from pathlib import Path
        from awaylib import Trimmed
        from dreamlake.storage.localstore import LocalStore
        root, there, number = Path(sys.argv[1]), LocalStore(sys.argv[2], fsync=False), int(sys.argv[3])
        draw = random.Random(number)
        mine = Trimmed(root, there)
        for n in range(150):
            ts = float(number * 1000 + n)
            mine.track.append(n=n, who=number, _ts=ts)
            if n > 10:
                mine.track.append(**{f"late{number}": n}, _ts=float(draw.randrange(2) * 1000 + draw.randrange(n - 10)))
            if n % 5 == 0:
                mine.track.flush()
            if number == 0 and n % 20 == 0:
                mine.track.flush()
                mine.drop()
            if number == 1 and n % 30 == 0:
                mine.track.flush()
                mine.settle()
        mine.session.close()
    """
    with (
        start_python(code, lake_dir, tmp_path / "there", 0, PYTHONPATH=crashlib.PATH) as one,
        start_python(code, lake_dir, tmp_path / "there", 1, PYTHONPATH=crashlib.PATH) as two,
    ):
        for process in (one, two):
            _, err = crashlib.rest_of(process)
            assert process.returncode == 0, err
            assert not err, err
    trimmed = Trimmed(lake_dir, LocalStore(tmp_path / "there"))
    trimmed.append([{"end": 1, "_ts": 5000.0}])
    trimmed.settle()
    points = trimmed.points()
    by_ts = {point["_ts"]: point for point in points}
    assert len(by_ts) == len(points)
    for number in range(2):
        for n in range(150):
            point = by_ts[float(number * 1000 + n)]
            assert (point["n"], point["who"]) == (n, number)
    import random

    for number in range(2):
        draw = random.Random(number)
        expected: dict[float, int] = {}
        for n in range(11, 150):
            expected[float(draw.randrange(2) * 1000 + draw.randrange(n - 10))] = n
        assert {ts: by_ts[ts].get(f"late{number}") for ts in expected} == expected
    trimmed.session.close()


# ------------------------------------------------------------------------------------------------ crashes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
@pytest.mark.parametrize("scene", list(awaylib.SCENES))
def test_a_fault_at_any_call(memory_path: Path, scene: str) -> None:
    crashlib.run_sweeps("awaylib", memory_path, scene, ["stop", "stop half", "fail", "fail half", "dead"])


# ------------------------------------------------------------------------------------------------ a side that went


def test_a_frame_from_within_a_session_without_a_local_side_is_read_behind_it(
    elsewhere: tuple[str, dict[str, Any] | None],
) -> None:
    url, options = elsewhere
    with Session("s", "w", None, remote=url, storage_options=options, segment_points=10) as session:
        track = session.track("t")
        track.append_batch([{"i": i} for i in range(35)])
        frames = [track.scan()]
        session.sync()
        frames += [track.scan(), track.scan(12, 5)]
    found = [frame.collect()["i"].to_list() for frame in frames]
    assert found == [list(range(35)), list(range(35)), list(range(12, 17))]
