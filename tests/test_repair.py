"""Repair: what can be saved is, what is lost stays told, indices stay, originals are kept, and the run goes on."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import damagelib as lib
import polars as pl
import pyarrow as pa
import pytest
from crashlib import in_thread
from damagelib import NAME, POINTS, TRACK, WORKSPACE
from damagesweep import plain_reader
from support import one_in, run_python

from dreamlake import Lake, Session
from dreamlake.engine import inspecttrack
from dreamlake.engine.findings import is_damaged
from dreamlake.engine.repair import Report, repair_session, told
from dreamlake.errors import CorruptTrackError, LockTimeoutError
from dreamlake.format import segment as segments
from dreamlake.format.layout import SegmentName
from dreamlake.format.schema import TS_FIELD, Batch, batch_from_points
from dreamlake.format.segment import encode, open_segment
from dreamlake.format.segmentinfo import LOST_BOUNDS, SegmentInfo
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.lock import FileLock
from dreamlake.storage.remote import RemoteStore

SESSION = f"{WORKSPACE}/{NAME}"
Points = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Points]:
    """A run, which no test may change, and its points."""
    root = tmp_path_factory.mktemp("written") / "lake"
    return root, dict(enumerate(lib.make_run(root)))


@pytest.fixture
def root(written: tuple[Path, Points], tmp_path: Path) -> Path:
    """A copy of the run."""
    return lib.copy_run(written[0], tmp_path / "lake")


@pytest.fixture
def points(written: tuple[Path, Points]) -> Points:
    """The points of the run."""
    return dict(written[1])


pytestmark = pytest.mark.usefixtures("quiet")  # damage is logged, thousands of times


def repair(root: Path, **how: Any) -> Report:
    return repair_session(str(root), SESSION, **how)


def is_whole(root: Path) -> bool:
    return not is_damaged(told(LocalStore(root), SESSION))


def without(points: Points, *indices: int) -> Points:
    return {index: point for index, point in points.items() if index not in indices}


def lacking(points: Points, field: str, indices: range) -> Points:
    """The points as they are where a field of some was lost."""
    return {
        index: {name: value for name, value in point.items() if name != field or index not in indices}
        for index, point in points.items()
    }


def goes_on(root: Path, expected: Points) -> None:
    """The run can be read in every way, resumed, appended to, rolled, and read again; indices stay."""
    lib.assert_points(lib.points_in(lib.view(root)), expected)
    reads_agree(root, expected)
    total = max(expected, default=-1) + 1
    total = max(total, len(lib.view(root)))
    new = {total + number: {"real": float(number), "_ts": 2000.0 + number} for number in range(11)}
    with Session(NAME, WORKSPACE, root, segment_points=8) as session:
        track = session.track(TRACK)
        for point in new.values():
            track.append(**point)
        track.flush()
        for index in (min(expected), total + 1):  # in a segment, and in a new one
            ts = {**expected, **new}[index]["_ts"]
            track.append(after=1, _ts=ts)
            target = expected if index in expected else new
            target[index] = lib._with(target[index], after=1)
    lib.assert_points(lib.points_in(lib.view(root)), expected | new)
    reads_agree(root, expected | new)
    assert is_whole(root)


def reads_agree(root: Path, expected: Points) -> None:
    track = lib.view(root)
    indices = sorted(expected)
    total = len(track)
    stats = track.stats()
    assert stats["totalDataPoints"] == total
    assert stats["lostDataPoints"] == total - len(expected)
    assert stats["bufferedDataPoints"] + stats["chunkedDataPoints"] == len(expected)
    assert track.to_polars()["_index"].to_list() == indices
    assert track.to_arrow()["_ts"].to_pylist() == [expected[index]["_ts"] for index in indices]
    assert track.scan().select("_index").collect()["_index"].to_list() == indices
    assert track.scan().select(pl.len()).collect().item() == len(indices)
    assert track.scan().head(15).collect()["_index"].to_list() == indices[:15]
    assert track.scan(3, 20).collect()["_index"].to_list() == [index for index in indices if 3 <= index < 23]
    by_time = track.read_by_time(1004.0, 1020.0, limit=None)["data"]
    assert [row["index"] for row in by_time] == [i for i in indices if 1004.0 <= expected[i]["_ts"] < 1020.0]
    late = track.scan().filter(pl.col("_ts") >= 1012.0).collect()["_index"].to_list()
    assert late == [index for index in indices if expected[index]["_ts"] >= 1012.0]
    for start in range(0, total, 5):
        some = {row["index"] for row in track.read(start, 5)["data"]}
        assert some == {index for index in indices if start <= index < start + 5}
    plain = {row["index"]: row["data"] for row in plain_reader.read_track(lib.folder_of(root))}
    lib.assert_points(plain, expected)
    names = pl.concat([pl.read_parquet(path, columns=["_index"]) for path in track.files()])
    assert names["_index"].to_list() == indices[: len(names)]


# ------------------------------------------------------------------------------------------------ lost points


def test_a_segment_of_lost_points_has_a_range_and_no_rows(root: Path, points: Points) -> None:
    batch = Batch({}, pa.RecordBatch.from_arrays([pa.array([], pa.float64())], schema=pa.schema([TS_FIELD])))
    info = SegmentInfo(TRACK, 8, 16, 2, *LOST_BOUNDS, True, {}, {}, repaired="given up")
    (lib.folder_of(root) / SegmentName(8, 16, 2).filename).write_bytes(encode(batch, info))
    found = open_segment((lib.folder_of(root) / SegmentName(8, 16, 2).filename).read_bytes())
    assert (found.info.rows, found.info.lost, found.info.repaired) == (0, True, "given up")
    assert found.read().num_rows == 0
    assert found.read(["_ts"], 9, 12).column_names == ["_ts"]
    goes_on(root, without(points, *range(8, 16)))


def test_only_a_segment_of_lost_points_may_be_empty_and_it_must_be() -> None:
    empty = Batch({}, pa.RecordBatch.from_arrays([pa.array([], pa.float64())], schema=pa.schema([TS_FIELD])))
    with pytest.raises(ValueError, match="0 points"):
        encode(empty, SegmentInfo("t", 0, 1, 0, 1.0, 1.0, True, {}, {}))
    one = batch_from_points([{"_ts": 1.0}])
    with pytest.raises(ValueError, match="1 points"):
        encode(one, SegmentInfo("t", 0, 1, 0, *LOST_BOUNDS, True, {}, {}))


def test_what_is_lost_is_logged_when_it_is_read(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    lib.damage_footer(lib.segment_path(root, 16))
    repair(root, give_up_lost=True)
    logging.getLogger("dreamlake").setLevel(logging.NOTSET)
    lib.points_in(lib.view(root))
    assert "points 16 to 24" in caplog.text
    assert "given up on 20" in caplog.text


def test_what_is_lost_is_said_where_points_are_counted(root: Path, cli: Any) -> None:
    count = len(lib.view(root))
    assert "lost" not in cli("show", "--path", root, "w/s")[1]
    assert "lost" not in lib.view(root)._repr_html_()
    lib.damage_footer(lib.segment_path(root, 0))
    lib.damage_footer(lib.segment_path(root, 16))
    repair(root, give_up_lost=True)
    status, out, err = cli("show", "--path", root, "w/s")
    assert (status, err) == (0, "")
    assert f"{lib.TRACK}: 16 of these points are lost, a repair gave them up" in out.splitlines()
    assert f"{count} points (16 lost)" in lib.view(root)._repr_html_()
    assert f">{count} (16 lost)<" in Lake(root).session("s", "w")._repr_html_()


# ------------------------------------------------------------------------------------------------ segments


def test_a_whole_run_is_left_alone(root: Path) -> None:
    before = lib.digest(root)
    report = repair(root)
    assert (report.steps, report.is_clean) == ([], True)
    assert lib.digest(root) == before


@pytest.mark.parametrize("start", [0, 8, 16])
def test_a_damaged_footer_costs_the_points_if_it_is_said_so(root: Path, points: Points, start: int) -> None:
    path = lib.segment_path(root, start)
    lib.damage_footer(path)
    damaged = path.read_bytes()
    before = lib.digest(root)
    refused = repair(root)
    assert not refused.is_clean
    assert [step.done for step in refused.steps] == [False]
    assert "--give-up-lost" in refused.steps[0].refused
    assert {name: told for name, told in lib.digest(root).items() if ".lock" not in name} == {
        name: told for name, told in before.items() if ".lock" not in name
    }
    assert repair(root, give_up_lost=True).is_clean
    (kept,) = lib.folder_of(root).glob("*.damaged-*")
    assert kept.read_bytes() == damaged
    assert not path.exists()
    assert not list(lib.folder_of(root).glob("*.damaged-*.parquet"))
    goes_on(root, without(points, *range(start, start + 8)))


@pytest.mark.parametrize("column", ["real", "text", "mixed", "pose", "some"])
def test_a_damaged_column_costs_its_fields_only(root: Path, points: Points, column: str) -> None:
    lib.damage_column(lib.segment_path(root, 16), column)
    with pytest.raises(CorruptTrackError, match="16 to 24"):
        lib.points_in(lib.view(root))
    report = repair(root, give_up_lost=True)
    assert report.is_clean
    assert f"'{column}' of the points 16 to 24" in report.steps[0].loses
    info = open_segment(lib.segment_path(root, 16).read_bytes()).info
    assert (info.generation, column in info.repaired, "lost on 20" in info.repaired) == (1, True, True)
    expected = lacking(points, column, range(16, 24))
    goes_on(root, expected)
    assert any(column in finding.detail for finding in told(LocalStore(root), SESSION) if finding.note)


def test_a_damaged_column_of_indices_costs_nothing(root: Path, points: Points) -> None:
    lib.damage_column(lib.segment_path(root, 8), "_index")
    report = repair(root)
    assert report.is_clean
    assert report.steps[0].loses == ""
    goes_on(root, points)


def test_a_damaged_column_of_nones_costs_which_were_none(root: Path, points: Points) -> None:
    lib.damage_column(lib.segment_path(root, 16), "_none")
    assert not repair(root).is_clean
    assert repair(root, give_up_lost=True).is_clean
    assert [index for index in range(16, 24) if "gone" in points[index]] == [16, 21]
    goes_on(root, lacking(points, "gone", range(16, 24)))


def test_what_was_lost_stays_told_in_later_generations(root: Path, points: Points) -> None:
    lib.damage_column(lib.segment_path(root, 0), "text")
    repair(root, give_up_lost=True)
    with Session(NAME, WORKSPACE, root) as session:
        session.track(TRACK).append(more=1, _ts=1001.0)
    info = open_segment((lib.folder_of(root) / SegmentName(0, 8, 2).filename).read_bytes()).info
    assert "'text'" in info.repaired


@pytest.fixture
def older(tmp_path: Path) -> tuple[Path, Points]:
    """A run in which the generation before that of [8, 16) was not swept yet."""
    return tmp_path / "older", dict(enumerate(lib.make_run(tmp_path / "older", old_form=True)))


def test_timestamps_come_from_an_older_form_without_loss(older: tuple[Path, Points]) -> None:
    root, points = older
    lib.damage_column(lib.folder_of(root) / SegmentName(8, 16, 1).filename, "_ts")
    report = repair(root)
    assert report.is_clean
    assert not any(step.loses for step in report.steps)
    goes_on(root, points)


def test_an_older_form_lacks_what_was_merged_later(older: tuple[Path, Points]) -> None:
    root, points = older
    lib.damage_footer(lib.folder_of(root) / SegmentName(8, 16, 1).filename)
    refused = repair(root)
    assert not refused.is_clean
    assert "merged after generation 0" in refused.steps[0].loses
    assert repair(root, give_up_lost=True).is_clean
    info = open_segment((lib.folder_of(root) / SegmentName(8, 16, 2).filename).read_bytes()).info
    assert "merged after generation 0" in info.repaired
    goes_on(root, lacking(points, "late", range(8, 16)))


def test_a_field_comes_from_an_older_form_and_that_is_told(older: tuple[Path, Points]) -> None:
    root, points = older
    lib.damage_column(lib.folder_of(root) / SegmentName(8, 16, 1).filename, "text")
    report = repair(root, give_up_lost=True)
    assert report.is_clean
    assert "merged after generation 0 into the field 'text'" in report.steps[0].loses
    goes_on(root, points)


def test_an_older_form_in_the_place_of_one_that_vanished_is_found_out(older: tuple[Path, Points]) -> None:
    root, points = older
    with Session(NAME, WORKSPACE, root, segment_points=8) as session:
        session.track(TRACK).append_batch([{"real": 1.5, "_ts": 1500.0 + number} for number in range(8)])
    (lib.folder_of(root) / SegmentName(8, 16, 1).filename).unlink()
    assert not is_whole(root)
    report = repair(root, give_up_lost=True)
    assert report.is_clean
    assert "merged after generation 0" in report.steps[0].loses
    points |= {POINTS + number: {"real": 1.5, "_ts": 1500.0 + number} for number in range(8)}
    goes_on(root, lacking(points, "late", range(8, 16)))


def test_parts_of_a_damaged_wide_segment_hold_all_of_it(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    points = dict(enumerate(lib.make_run(root)))
    with Session(NAME, WORKSPACE, root, segment_points=8) as session:
        track = session.track(TRACK)
        new = {POINTS + number: {"real": number / 7, "_ts": 2000.0 + number} for number in range(70)}
        track.append_batch(list(new.values()))
        assert track.compact()["into"] == 1
    points |= new
    wide = lib.segment_path(root, 0)
    assert wide.name.startswith("000000000000-0000000000")
    lib.damage_footer(wide)
    report = repair(root)
    assert report.is_clean
    assert not any(step.loses for step in report.steps)
    lib.assert_points(lib.points_in(lib.view(root)), points)


def test_a_superseded_form_that_is_damaged_is_put_aside(older: tuple[Path, Points]) -> None:
    root, points = older
    path = lib.folder_of(root) / SegmentName(8, 16).filename
    lib.damage_footer(path)
    assert is_whole(root)
    assert repair(root).is_clean
    assert not path.exists()
    goes_on(root, points)


def test_a_superseded_form_that_is_swept_meanwhile_is_not_told(
    older: tuple[Path, Points], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = older
    swept = lib.folder_of(root) / SegmentName(8, 16).filename
    real = inspecttrack.look_into

    def look_into(store: Any, path: str, *rest: Any) -> Any:
        if path.endswith(swept.name):
            swept.unlink()
        return real(store, path, *rest)

    monkeypatch.setattr(inspecttrack, "look_into", look_into)
    found = told(LocalStore(root), SESSION)
    assert not swept.exists()
    assert not [finding for finding in found if swept.name in str(finding)]


@pytest.mark.parametrize("damage", [lib.damage_footer, lambda path: lib.damage_column(path, "text"), os.unlink])
def test_hot_lines_hold_what_a_roll_had_just_moved(root: Path, points: Points, damage: Callable[[Path], None]) -> None:
    """As a crash between the two steps of a roll leaves it."""
    from dreamlake.format.point import encode_lines

    hot = lib.folder_of(root) / "data.jsonl"
    hot.write_bytes(encode_lines((index, points[index]) for index in range(16, POINTS)))
    damage(lib.segment_path(root, 16))
    report = repair(root)
    assert report.is_clean
    assert not any(step.loses for step in report.steps)
    goes_on(root, points)


def test_row_groups_that_are_whole_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROW_GROUP", 6)
    root = tmp_path / "lake"
    points = dict(enumerate(lib.make_run(root, segment_points=20)[:POINTS]))
    path = lib.segment_path(root, 0)
    lib.damage_column(path, "_ts", group=1)
    lib.damage_column(path, "text", group=2)
    report = repair(root, give_up_lost=True)
    assert report.is_clean
    assert [p.name.partition(".parquet")[0] for p in sorted(lib.folder_of(root).glob("*.parquet"))] == [
        "000000000000-000000000006",
        "000000000006-000000000012",
        "000000000012-000000000020",
    ]
    goes_on(root, lacking(without(points, *range(6, 12)), "text", range(12, 18)))


@pytest.mark.parametrize("gone", [[0], [8], [16], [0, 8], [8, 16], [0, 8, 16]])
def test_missing_segments_leave_a_hole_that_is_closed_honestly(root: Path, points: Points, gone: list[int]) -> None:
    for start in gone:
        lib.segment_path(root, start).unlink()
    assert not repair(root).is_clean
    report = repair(root, give_up_lost=True)
    assert report.is_clean
    lost = [index for start in gone for index in range(start, start + 8)]
    assert lib.view(root).stats()["lostDataPoints"] == len(lost)
    goes_on(root, without(points, *lost))


def test_all_that_was_in_the_hot_file_goes_on_behind_lost_segments(root: Path, points: Points) -> None:
    """The newest segments are gone: only the hot lines tell how far they reached."""
    lib.segment_path(root, 16).unlink()
    lib.segment_path(root, 8).unlink()
    assert repair(root, give_up_lost=True).is_clean
    names = sorted(path.name for path in lib.folder_of(root).glob("*.parquet"))
    assert names == ["000000000000-000000000008.parquet", "000000000008-000000000024.parquet"]
    goes_on(root, without(points, *range(8, 24)))


def test_a_segment_that_overlaps_is_put_aside_when_what_it_holds_beyond_was_saved(root: Path, points: Points) -> None:
    folder = lib.folder_of(root)
    batch = batch_from_points([points[index] for index in range(12, 24)])
    stamps = [points[index]["_ts"] for index in range(12, 24)]
    info = SegmentInfo(TRACK, 12, 24, 0, stamps[0], stamps[-1], True, batch.schema, batch.schema)
    (folder / SegmentName(12, 24).filename).write_bytes(encode(batch, info))
    lib.segment_path(root, 16).unlink()
    with pytest.raises(CorruptTrackError):
        lib.points_in(lib.view(root))
    report = repair(root)
    assert report.is_clean
    assert not any(step.loses for step in report.steps)
    goes_on(root, points)


def test_a_repaired_segment_tells_of_the_whole_track(root: Path) -> None:
    """Or columns would be missing in frames, and ranges of time ask more than they need."""
    hot_of(root).write_bytes(b"")
    lib.damage_footer(lib.segment_path(root, 16))
    assert repair(root, give_up_lost=True).is_clean
    info = open_segment(lib.segment_path(root, 16).read_bytes()).info
    assert [bounds[:3] for bounds in info.before] == [(0, 8, 0), (8, 16, 1)]
    assert {"late", "real"} <= set(info.track_schema)
    assert "late" in lib.view(root).to_polars().columns


def test_claims_that_are_not_true_are_told(root: Path) -> None:
    """Their checksums are right: a defect, or a stranger, wrote them."""
    path = lib.segment_path(root, 16)
    segment = open_segment(path.read_bytes())
    table = segment.read(["_ts", *segment.info.schema, "_none"])
    batch = Batch(segment.info.schema, table.combine_chunks().to_batches()[0])
    first, *others = segment.info.before
    for forged, said in (
        (replace(segment.info, ts_max=1030.0), "the times that it tells are not those of its points"),
        (replace(segment.info, before=(first._replace(ts_min=999.0), *others)), "it tells other times of the points 0"),
    ):
        path.write_bytes(encode(batch, forged))
        findings = told(LocalStore(root), SESSION)
        assert [said in finding.detail for finding in findings if not finding.note] == [True]


def test_who_lies_is_blamed_whoever_is_heard_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lib.segment_path(root, 16)
    segment = open_segment(path.read_bytes())
    table = segment.read(["_ts", *segment.info.schema, "_none"])
    batch = Batch(segment.info.schema, table.combine_chunks().to_batches()[0])
    first, *others = segment.info.before
    path.write_bytes(encode(batch, replace(segment.info, before=(first._replace(ts_min=999.0), *others))))
    for turn in (1, -1):

        def one_by_one(work: Any, items: Any, width: int, turn: int = turn) -> list[Any]:
            return [work(item) for item in items[::turn]][::turn]

        monkeypatch.setattr(inspecttrack, "side_by_side", one_by_one)
        findings = [finding for finding in told(LocalStore(root), SESSION) if not finding.note]
        assert [Path(finding.path).name for finding in findings] == [path.name]


def test_what_is_damaged_at_one_look_only_is_no_damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look(store: Any, folder: str, name: str) -> Any:
        found = real(store, folder, name)
        looks.append(found)
        if len(looks) == 1:
            found.tell(folder, "its segments", "a writer was met in the middle")
        return found

    real = inspecttrack._look
    monkeypatch.setattr(inspecttrack, "_look", look)
    assert is_whole(root)
    assert len(looks) == 2


# ------------------------------------------------------------------------------------------------ the hot file


def hot_of(root: Path) -> Path:
    return lib.folder_of(root) / "data.jsonl"


@pytest.mark.parametrize(
    "tail", [b'{"index":26,"data":{"re', b"\0" * 700, b"\0\0\n"[:2] + b"\xff\xfe", b'{"index":26,"data":{}}']
)
def test_a_torn_tail_is_cut(root: Path, points: Points, tail: bytes) -> None:
    whole = hot_of(root).read_bytes()
    hot_of(root).write_bytes(whole + tail)
    assert is_whole(root)  # it is no damage
    report = repair(root)
    assert report.is_clean
    assert hot_of(root).read_bytes() == whole
    goes_on(root, points)


@pytest.mark.parametrize("change", [lib.zeros, lambda line: line[:-9], lambda line: b"\xff" + line, lambda line: b""])
def test_a_damaged_line_at_the_end_leaves_a_clean_prefix(
    root: Path, points: Points, change: Callable[[bytes], bytes]
) -> None:
    from dreamlake.format.point import encode_lines

    hot_of(root).write_bytes(encode_lines((index, points[index]) for index in range(24, 26)))
    lib.change_line(hot_of(root), -1, change)
    damaged = hot_of(root).read_bytes()
    assert not is_whole(root)
    report = repair(root)
    assert report.is_clean
    assert "1 line that cannot be read" in report.steps[0].loses
    (kept,) = lib.folder_of(root).glob("data.jsonl.damaged-*")
    assert kept.read_bytes() == damaged
    goes_on(root, without(points, 25))


def test_a_damaged_line_of_late_fields_costs_these(root: Path, points: Points) -> None:
    lib.change_line(hot_of(root), -1, lib.zeros)
    assert repair(root).is_clean
    goes_on(root, lacking(points, "late", range(24, 26)))


def test_points_behind_a_gap_keep_their_indices(root: Path, points: Points) -> None:
    lib.change_line(hot_of(root), 0, lib.zeros)
    refused = repair(root)
    assert not refused.is_clean
    assert not refused.steps[0].done
    assert repair(root, give_up_lost=True).is_clean
    goes_on(root, without(points, 24))


def test_several_gaps_between_hot_points(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    points = dict(enumerate(lib.make_run(root, segment_points=20)))
    lines = hot_of(root).read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["index"] for line in lines] == [20, 21, 22, 23, 24, 25, 25]
    hot_of(root).write_bytes(b"".join([lines[1], b"\0\n", lines[4], lines[5], lines[6]]))
    assert repair(root, give_up_lost=True).is_clean
    goes_on(root, without(points, 20, 22, 23))


def test_a_hot_file_that_is_no_file_is_told_and_left(root: Path) -> None:
    hot_of(root).unlink()
    hot_of(root).symlink_to("/etc/hostname")
    before = os.readlink(hot_of(root))
    report = repair(root, give_up_lost=True)
    assert not report.is_clean
    assert os.readlink(hot_of(root)) == before


def test_what_lies_outside_is_neither_read_nor_changed_nor_linked(root: Path, points: Points, tmp_path: Path) -> None:
    """A stranger's run: its files are links that lead out of it."""
    outside = tmp_path / "outside"
    outside.write_bytes(lib.segment_path(root, 8).read_bytes())
    for path in (lib.segment_path(root, 8), lib.folder_of(root) / "metadata.json"):
        path.unlink()
        path.symlink_to(outside)
    (lib.session_of(root) / "tracks" / "out").symlink_to(tmp_path)
    before = outside.read_bytes(), outside.stat().st_nlink, sorted(os.listdir(tmp_path))
    assert not is_whole(root)
    report = repair(root, give_up_lost=True)
    assert not report.is_clean
    assert (outside.read_bytes(), outside.stat().st_nlink, sorted(os.listdir(tmp_path))) == before
    (lib.folder_of(root) / "metadata.json").unlink()
    assert repair(root, give_up_lost=True).is_clean
    goes_on(root, without(points, *range(8, 16)))


# ------------------------------------------------------------------------------------------------ small files


def test_session_json_is_rebuilt_as_far_as_it_tells(root: Path, points: Points) -> None:
    path = lib.session_of(root) / "session.json"
    before = json.loads(path.read_text())
    path.write_bytes(path.read_bytes().replace(b'"metadata": {', b'"metadata": \0{').replace(b'"x"', b'"\xff"'))
    report = repair(root)
    assert report.is_clean
    assert "tags" in report.steps[0].loses
    after = json.loads(path.read_text())
    for key in ("name", "workspace", "description", "createdAt", "status", "format_version", "folder"):
        assert after[key] == before[key], key
    assert (after["tags"], after["metadata"]) == ([], {})
    (kept,) = path.parent.glob("session.json.damaged-*")
    assert b"\xff" in kept.read_bytes()
    goes_on(root, points)


@pytest.mark.parametrize("content", [b"\0" * 400, b"[]", b"{", b"\xff" * 10])
def test_session_json_of_which_nothing_is_left(root: Path, points: Points, content: bytes) -> None:
    path = lib.session_of(root) / "session.json"
    path.write_bytes(content)
    assert repair(root).is_clean
    after = json.loads(path.read_text())
    assert (after["name"], after["workspace"], after["lastTs"]) == (NAME, WORKSPACE, 1025.0)
    assert Lake(root).session(NAME, WORKSPACE).info["status"] in ("running", "lost")
    assert (lib.session_of(root) / "tracks").is_dir()
    goes_on(root, points)


def test_a_missing_session_json_is_made_anew(root: Path, points: Points) -> None:
    (lib.session_of(root) / "session.json").unlink()
    assert not is_whole(root)
    assert repair(root).is_clean
    goes_on(root, points)


def test_names_that_are_anothers_are_put_right(root: Path, points: Points, tmp_path: Path) -> None:
    """As in a folder that was copied or renamed."""
    other = tmp_path / "other"
    shutil.copytree(lib.session_of(root), other / "w2" / "s2")
    with pytest.raises(ValueError, match="share the folder"):
        Session("s2", "w2", other).open()
    assert repair_session(str(other), "w2/s2").is_clean
    with Session("s2", "w2", other) as session:
        lib.assert_points(lib.points_in(session.track(TRACK)), points)
        assert session.parameters().get()["lr"] == 0.1


def test_metadata_is_rebuilt_as_far_as_it_tells(root: Path, points: Points) -> None:
    path = lib.folder_of(root) / "metadata.json"
    path.write_bytes(path.read_bytes().replace(b'"description": "td"', b'"description": td'))
    report = repair(root)
    assert report.is_clean
    assert report.steps[0].loses.startswith("description of")
    stats = lib.view(root).stats()
    assert (stats["description"], stats["tags"], stats["metadata"]) == (None, ["t"], {"unit": "m"})
    assert stats["chunkSize"] == 8
    path.write_bytes(b"\0" * 50)
    assert repair(root).is_clean
    assert lib.view(root).stats()["chunkSize"] == 8  # as the segments tell
    goes_on(root, points)


def test_parameters_are_rebuilt_as_far_as_they_tell(root: Path, points: Points) -> None:
    path = lib.session_of(root) / "parameters.json"
    path.write_bytes(path.read_bytes().replace(b'"model.layers": 4', b'"model.layers": \xff4'))
    report = repair(root)
    assert report.is_clean
    assert "data.model.layers" in report.steps[0].loses
    run = Lake(root).session(NAME, WORKSPACE)
    assert run.parameters().get() == {"lr": 0.1, "model.sizes": [1, 2], "name": "é"}
    with Session(NAME, WORKSPACE, root) as session:
        session.parameters().set(lr=0.2)
    assert run.parameters().get()["lr"] == 0.2
    goes_on(root, points)


def test_log_records_that_can_be_read_stay(root: Path, points: Points) -> None:
    path = lib.session_of(root) / "logs" / "logs.jsonl"
    lib.change_line(path, 2, lib.zeros)
    assert repair(root).is_clean
    run = Lake(root).session(NAME, WORKSPACE)
    assert run.logs()["message"].to_list() == [f"message {number}" for number in (0, 1, 3, 4)]
    with Session(NAME, WORKSPACE, root) as session:
        session.log("on")
    assert run.logs()["sequenceNumber"].to_list() == [0, 1, 3, 4, 5]


def test_a_damaged_lock_file_takes_the_clock_from_the_points(root: Path) -> None:
    path = lib.session_of(root) / ".lock"
    path.write_bytes(b"\xff" * 128)
    (lib.session_of(root) / "session.json").write_bytes(b"\0")
    with Session(NAME, WORKSPACE, root / "never"):
        pass
    assert repair(root).is_clean
    assert json.loads(path.read_bytes())["lastTs"] == 1025.0


# ------------------------------------------------------------------------------------------------ with a replica


@pytest.fixture
def replicated(tmp_path: Path) -> tuple[Path, Points, RemoteStore]:
    """A run with a replica that holds all of it."""
    root = tmp_path / "lake"
    url = f"file://{tmp_path}/elsewhere"
    points = dict(enumerate(lib.make_run(root, remote=url, sync_interval=3600.0)))
    return root, points, RemoteStore(url)


def damage_all(root: Path) -> None:
    """Damage nearly everything."""
    lib.damage_footer(lib.segment_path(root, 0))
    lib.segment_path(root, 8).unlink()
    lib.damage_column(lib.segment_path(root, 16), "text")
    lib.change_line(hot_of(root), 0, lib.zeros)
    (lib.folder_of(root) / "metadata.json").write_bytes(b"\0")
    (lib.session_of(root) / "parameters.json").write_bytes(b"\0")
    (lib.session_of(root) / "session.json").write_bytes(b"\0")


def test_the_replica_has_all_that_is_damaged_here(replicated: tuple[Path, Points, RemoteStore]) -> None:
    root, points, remote = replicated
    whole = {path.name: path.read_bytes() for path in lib.folder_of(root).glob("*.parquet")}
    damage_all(root)
    report = repair(root, remote=remote)
    assert report.is_clean
    assert [step.loses for step in report.steps if step.gives_up] == []
    assert {path.name: path.read_bytes() for path in lib.folder_of(root).glob("*.parquet")} == whole
    run = Lake(root).session(NAME, WORKSPACE)
    assert run.parameters().get()["model.layers"] == 4
    assert run.info["description"] == "d"
    assert run.track(TRACK).stats()["metadata"] == {"unit": "m"}
    goes_on(root, points)


def test_what_a_replica_may_have_is_not_given_up_unasked(replicated: tuple[Path, Points, RemoteStore]) -> None:
    root, points, remote = replicated
    lib.damage_footer(lib.segment_path(root, 0))
    report = repair(root, give_up_lost=True)
    assert not report.is_clean
    assert remote.describe() in report.steps[0].refused
    assert "--remote" in report.steps[0].refused
    (lib.session_of(root) / ".replica.json").write_bytes(b"\0")
    report = repair(root, give_up_lost=True)
    assert "a replica" in report.steps[-1].refused
    assert repair(root, give_up_lost=True, remote=remote).is_clean
    goes_on(root, points)


def test_what_nobody_has_is_given_up_and_the_run_syncs(
    replicated: tuple[Path, Points, RemoteStore], tmp_path: Path
) -> None:
    root, points, remote = replicated
    there = tmp_path / "elsewhere"
    for place in (root, there):
        lib.damage_footer(lib.segment_path(place, 0))
        lib.damage_column(lib.segment_path(place, 16), "_ts")
    assert repair(root, give_up_lost=True, remote=remote).is_clean
    expected = without(points, *range(8), *range(16, 24))
    with Session(NAME, WORKSPACE, root, remote=remote._url, segment_points=8) as session:
        session.track(TRACK).append(real=1.5, _ts=3000.0)
        session.sync()
    expected[26] = {"real": 1.5, "_ts": 3000.0}
    for place in (root, there):
        lib.assert_points(lib.points_in(lib.view(place)), expected)
        reads_agree(place, expected)


def test_a_machine_that_adopts_the_replica_knows_what_is_lost(
    replicated: tuple[Path, Points, RemoteStore], tmp_path: Path
) -> None:
    root, points, remote = replicated
    for place in (root, tmp_path / "elsewhere"):
        lib.damage_footer(lib.segment_path(place, 0))
    repair(root, give_up_lost=True, remote=remote)
    with Session(NAME, WORKSPACE, root, remote=remote._url) as session:
        session.sync()
    expected = without(points, *range(8))
    with Session(NAME, WORKSPACE, tmp_path / "second", remote=remote._url, segment_points=8) as session:
        track = session.track(TRACK)
        lib.assert_points(lib.points_in(track), expected)
        track.append(real=2.5, _ts=3000.0)
        track.append(after=1, _ts=1001.0)  # its point is lost: a new one
        track.flush()
        expected |= {26: {"real": 2.5, "_ts": 3000.0}, 27: {"after": 1, "_ts": 1001.0}}
        lib.assert_points(lib.points_in(track), expected)


def test_a_damaged_state_of_the_replica_goes_away(replicated: tuple[Path, Points, RemoteStore]) -> None:
    root, points, remote = replicated
    path = lib.session_of(root) / ".replica.json"
    path.write_bytes(path.read_bytes()[:-3])
    assert not is_whole(root)
    assert repair(root).is_clean
    assert not path.exists()
    with Session(NAME, WORKSPACE, root, remote=remote._url) as session:
        session.sync()
        lib.assert_points(lib.points_in(session.track(TRACK)), points)


# ------------------------------------------------------------------------------------------------ beside others


def test_a_writer_goes_on_after_a_repair_beside_it(root: Path, points: Points) -> None:
    with Session(NAME, WORKSPACE, root, segment_points=8) as session:
        track = session.track(TRACK)
        track.append(real=0.25, _ts=1500.0)
        track.flush()
        points[26] = {"real": 0.25, "_ts": 1500.0}
        lib.damage_footer(lib.segment_path(root, 8))
        lib.change_line(hot_of(root), -1, lib.zeros)
        before = json.loads((lib.session_of(root) / ".lock").read_bytes())["rewrites"]
        assert repair(root, give_up_lost=True).is_clean
        assert json.loads((lib.session_of(root) / ".lock").read_bytes())["rewrites"] == before + 1
        del points[26]
        for number in range(3):
            track.append(real=0.5, _ts=1600.0 + number)
            points[26 + number] = {"real": 0.5, "_ts": 1600.0 + number}
        track.append(after=2, _ts=1003.0)
        points[3] = lib._with(points[3], after=2)
    lib.assert_points(lib.points_in(lib.view(root)), without(points, *range(8, 16)))


def test_a_check_beside_a_writer_finds_nothing(root: Path) -> None:
    with Session(NAME, WORKSPACE, root, segment_points=5) as session:
        track = session.track(TRACK)
        for number in range(40):
            track.append_batch([{"real": 0.5, "_ts": 3000.0 + 4 * number + place} for place in range(3)])
            track.append(after=number, _ts=1000.0 + number % 26)
            if number % 4 == 0:
                thread = in_thread(session.flush)
                findings = told(LocalStore(root), SESSION)
                thread.join()
                assert not is_damaged(findings), [str(finding) for finding in findings]


def test_a_lock_that_another_holds_is_waited_for_and_then_told(root: Path) -> None:
    lib.damage_footer(lib.segment_path(root, 8))
    before = lib.digest(root)
    with FileLock.acquire(str(lib.session_of(root) / ".lock"), 1.0), pytest.raises(LockTimeoutError):
        repair(root, give_up_lost=True, timeout=0.05)
    assert lib.digest(root) == before


def test_a_dry_run_changes_nothing_and_says_all(root: Path) -> None:
    damage_all(root)
    before = lib.digest(root)
    dry = repair(root, give_up_lost=True, dry_run=True)
    assert lib.digest(root) == before
    assert not dry.is_clean
    real = repair(root, give_up_lost=True)
    assert real.is_clean
    assert [(step.path, step.does, step.loses) for step in dry.steps] == [
        (step.path, step.does, step.loses) for step in real.steps
    ]
    again = repair(root, give_up_lost=True)
    assert (again.steps, again.is_clean) == ([], True)


def test_one_track_alone(root: Path, points: Points) -> None:
    with Session(NAME, WORKSPACE, root) as session:
        session.track("c").append(x=1, _ts=1.0)
        session.track("c").flush()
    lib.damage_footer(lib.segment_path(root, 8))
    other = lib.session_of(root) / "tracks" / "c" / "data.jsonl"
    other.write_bytes(b"\0\n")
    assert repair(root, tracks=[TRACK], give_up_lost=True).is_clean
    assert other.read_bytes() == b"\0\n"
    lib.assert_points(lib.points_in(lib.view(root)), without(points, *range(8, 16)))


# ------------------------------------------------------------------------------------------------ crashes

CRASHES = """
import json, logging, os, shutil, sys
from pathlib import Path
import crashlib, damagelib as lib
from dreamlake.engine.repair import repair_session
import dreamlake.engine.ondisk, pyarrow, msgspec

logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
template, where, stride = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def repaired(root):
    assert repair_session(str(root), "w/s", give_up_lost=True).is_clean
    return {index: repr(point) for index, point in lib.points_in(lib.view(root)).items()}

def attempt(when):
    root = lib.copy_run(template, where / str(when))
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            seam = crashlib.Seam(when, crashlib.stop_half)
            seam.install()
            repair_session(str(root), "w/s", give_up_lost=True)
            os.write(writing, json.dumps(seam.names).encode())
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(2)
    os.close(writing)
    with open(reading, "rb") as pipe:
        names = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == (crashlib.STOPPED if when else 0), status
    return root, json.loads(names or "[]")

root, names = attempt(0)
expected = repaired(root)
damaged = {path.read_bytes() for path in root.rglob("*.damaged-*")}
readable = lib.points_in(lib.view(template), errors="skip")
places = [place for place, name in enumerate(names, 1) if name in crashlib.FAULTS["stop"][2]]
for when in places[::stride]:
    root, _ = attempt(when)
    lost = readable.keys() - lib.points_in(lib.view(root), errors="skip").keys()
    assert not lost, (when, names[when - 1], lost)
    assert repaired(root) == expected, (when, names[when - 1])
    assert damaged <= {path.read_bytes() for path in root.rglob("*") if path.is_file()}, when
    shutil.rmtree(root)
print(len(places))
"""


def test_a_repair_that_is_killed_anywhere_is_ended_by_the_next(root: Path, memory_path: Path) -> None:
    lib.damage_footer(lib.segment_path(root, 0))
    lib.segment_path(root, 8).unlink()
    lib.damage_column(lib.segment_path(root, 16), "text")
    lib.change_line(hot_of(root), 0, lib.zeros)
    (lib.folder_of(root) / "metadata.json").write_bytes(b"\0")
    (lib.session_of(root) / "session.json").write_bytes(b"\0")
    lib.change_line(lib.session_of(root) / "logs" / "logs.jsonl", 1, lib.zeros)
    where = memory_path / "crashes"
    where.mkdir()
    path = os.pathsep.join([str(Path(lib.__file__).parent), str(Path(lib.__file__).parents[1])])
    stride = one_in(3)
    done = run_python(CRASHES, root, where, stride, PYTHONPATH=path, timeout=300)
    assert int(done.stdout) > 40
