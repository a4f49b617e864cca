"""The format page is complete: a reader written from it, without dreamlake, reads what dreamlake wrote."""

from __future__ import annotations

import ast
import datetime as dt
import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from columnar import HOSTILE_TEXT
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT
from values import fields as any_fields
from values import same

from dreamlake import Session
from dreamlake.format import layout
from dreamlake.format.hot import merge, parse

READER = ROOT / "docs" / "examples" / "reader.py"


def load_reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reader_of_the_docs", READER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reader = load_reader()


def track_folder(root: Path, name: str = "t") -> Path:
    return root / "w" / "s" / "tracks" / name


def open_session(root: Path, segment_points: int = 5) -> Session:
    return Session("s", "w", local_path=root, segment_points=segment_points)


def assert_read_alike(session: Session, root: Path, name: str = "t") -> list[dict[str, Any]]:
    """Both readers give the same points, to the types and the order of fields; the points."""
    expected = session.track(name).read(limit=None)["data"]
    found = reader.read_track(track_folder(root, name))
    assert same(found, [dict(point) for point in expected])
    return found


# ------------------------------------------------------------------------------------------------ the example itself


def test_the_reader_is_short_and_needs_only_pyarrow() -> None:
    source = READER.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 100
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == {"pyarrow"}


# ------------------------------------------------------------------------------------------------ values

KINDS: dict[str, list[Any]] = {
    "float": [0.5, float("nan"), float("inf"), -float("inf"), -0.0, 5e-324],
    "int": [0, -1, 2**53, 7, 8, 9],
    "int64": [2**63 - 1, -(2**63), 2**53 + 1, 0, 1, 2],
    "numbers": [1, 2.5, 3, -0.0, 4, 5.5],
    "big": [2**64, 10**700, -(10**5000), 1, 2, 3],
    "int_and_text": [1, "1", 1.0, True, None, [1]],
    "bool": [True, False, None, True, False, True],
    "text": ["", "é\u2028\x00", "$date", "\U0001f600", "{", '"'],
    "bytes": [b"", b"\x00\xff", b"x", None, b"y", b"z"],
    "naive": [dt.datetime(2026, 11, 24, 13, 20, 1, 5), dt.datetime.min, dt.datetime.max, None, None, None],
    "utc": [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)] * 6,
    "offset": [dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=5, minutes=30)))] * 6,
    "odd_offset": [dt.datetime(2026, 1, 1, tzinfo=dt.timezone(-dt.timedelta(microseconds=1)))] * 6,
    "offsets": [dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=h))) for h in range(6)],
    "floats": [[], [0.5], [float("nan"), -0.0], [1.0, None], [1, 2.5], [3]],
    "dates": [[dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2)))]] * 6,
    "nested": [{"a": [1], "b": {"c": None}}] * 6,
    "deep_dates": [{"at": dt.datetime(2026, 1, 1), "also": [dt.datetime(2026, 1, 2)]}] * 6,
    "keys_vary": [{}, {"a": 1}, {"b": 1}, {"$a": 1}, {"$numberDouble": "NaN"}, {"$$x": {"$date": "no"}}],
    "mixed_list": [[1, "a"], [None], [[]], [b"x"], [{"k": 1}], [2**70]],
    "empty": [[], [], [], [], [], []],
    "array": [np.arange(3.0).reshape(1, 3)] * 6,
    "none": [None] * 6,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [4, 5, 6], ids=["hot", "segment", "both"])
def test_every_kind_of_value(kind: str, count: int, lake_dir: Path) -> None:
    with open_session(lake_dir) as session:
        for number, value in enumerate(KINDS[kind][:count]):
            session.track("t").append(**{kind: value}, step=number)
        session.flush()
        assert len(list(track_folder(lake_dir).glob("*.parquet"))) == count // 5
        assert len(assert_read_alike(session, lake_dir)) == count


_numbers = itertools.count()


@given(points=st.lists(any_fields, min_size=1, max_size=12))
def test_any_points(points: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / f"any-{next(_numbers)}"
    with open_session(root) as session:
        for point in points:
            session.track("t").append(**point)
        assert_read_alike(session, root)


def test_absent_is_not_none(lake_dir: Path) -> None:
    with open_session(lake_dir) as session:
        for number in range(12):
            session.track("t").append(**[{}, {"a": None}, {"a": 1}, {"b": None, "a": None}][number % 4])
        points = [point["data"] for point in assert_read_alike(session, lake_dir)]
    assert [sorted(point) for point in points[:4]] == [["_ts"], ["_ts", "a"], ["_ts", "a"], ["_ts", "a", "b"]]
    assert [sorted(point) for point in points[8:]] == [["_ts"], ["_ts", "a"], ["_ts", "a"], ["_ts", "a", "b"]]


def test_a_field_whose_type_changes_between_segments(lake_dir: Path) -> None:
    with open_session(lake_dir) as session:
        for value in [*range(5), *"abcde", *[0.5] * 5, {"a": 1}]:
            session.track("t").append(value=value)
        assert_read_alike(session, lake_dir)


# ------------------------------------------------------------------------------------------------ files


def test_a_hot_file_with_merged_lines_and_a_torn_tail(lake_dir: Path) -> None:
    with open_session(lake_dir, segment_points=100) as session:
        track = session.track("t")
        for ts in (1.0, 2.0, 3.0):
            track.append(a=ts, _ts=ts)
        track.flush()
        track.append(b=[1], _ts=2.0).append(a=9.0, _ts=1.0).append(a=4.0, _ts=4.0)
        points = assert_read_alike(session, lake_dir)
        hot = track_folder(lake_dir) / "data.jsonl"
        lines = hot.read_bytes()
        assert lines.count(b"\n") == 6
        hot.write_bytes(lines + b'{"index":4,"data":{"a":')
        assert reader.read_track(track_folder(lake_dir)) == points
        assert points[1] == {"index": 1, "data": {"a": 2.0, "b": [1], "_ts": 2.0}}


def test_late_fields_make_generations(lake_dir: Path) -> None:
    with open_session(lake_dir) as session:
        track = session.track("t")
        for ts in range(12):
            track.append(a=ts, _ts=float(ts))
        track.flush()
        for late in ("x", "y"):
            track.append(**{late: late}, _ts=7.0).flush()
        assert (track_folder(lake_dir) / "000000000005-000000000010.2.parquet").exists()
        points = assert_read_alike(session, lake_dir)
    assert points[7]["data"] == {"a": 7, "x": "x", "y": "y", "_ts": 7.0}


def test_a_crash_between_roll_and_rewrite_leaves_lines_that_do_not_count(lake_dir: Path) -> None:
    with open_session(lake_dir) as session:
        track = session.track("t")
        for number in range(4):
            track.append(a=number)
        track.flush()
        hot = track_folder(lake_dir) / "data.jsonl"
        before = hot.read_bytes()
        track.append(a=4).flush()
        hot.write_bytes(before)
        (track_folder(lake_dir) / ".tmp-1-0").write_bytes(b"half a segm")
        assert [point["index"] for point in reader.read_track(track_folder(lake_dir))] == [0, 1, 2, 3, 4]


def test_a_roll_between_the_two_looks_hides_nothing(lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_session(lake_dir) as session:
        track = session.track("t")
        for number in range(3):
            track.append(a=number)
        track.flush()
        listing = reader.live_segments

        def roll_and_list(folder: Path) -> list[Any]:
            for number in range(3, 9):
                track.append(a=number)
            track.flush()
            return listing(folder)

        monkeypatch.setattr(reader, "live_segments", roll_and_list)
        assert [point["index"] for point in reader.read_track(track_folder(lake_dir))] == [0, 1, 2, 3, 4]


def test_a_wide_segment_hides_its_parts(lake_dir: Path) -> None:
    with open_session(lake_dir, segment_points=10) as session:
        for number in range(10):
            session.track("t").append(a=number)
        session.flush()
        # As after a compaction whose parts await their sweep; what they hold does not matter.
        for part in ("000000000000-000000000005.parquet", "000000000005-000000000010.7.parquet"):
            (track_folder(lake_dir) / part).write_bytes(b"")
        assert len(assert_read_alike(session, lake_dir)) == 10


def test_names_as_folders(lake_dir: Path) -> None:
    names = ["robot/漢字/é", "a:b%c[1]", ".hidden", "con", "ends with.", "lr=0.1"]
    with open_session(lake_dir) as session:
        for name in names:
            session.track(name).append(a=1)
        session.flush()
        folders = ["robot/漢字/é", "a%3Ab%25c%5B1%5D", "%2Ehidden", "%63on", "ends with%2E", "lr%3D0.1"]
        for name, folder in zip(names, folders, strict=True):
            assert same(reader.read_track(track_folder(lake_dir, folder)), session.track(name).read()["data"])


def test_text_that_looks_like_the_checksum_is_not_taken_for_it(lake_dir: Path) -> None:
    with open_session(lake_dir) as session:
        for number in range(5):
            session.track("t").append(**{HOSTILE_TEXT: number, "text": HOSTILE_TEXT})
        assert len(assert_read_alike(session, lake_dir)) == 5
        assert session.track("t").stats()["totalChunks"] == 1


# ------------------------------------------------------------------------------------------------ damage


@pytest.fixture
def segment(lake_dir: Path) -> Path:
    with open_session(lake_dir) as session:
        for number in range(5):
            session.track("t").append(a=number / 3, text=f"text {number}")
    (path,) = track_folder(lake_dir).glob("*.parquet")
    return path


def test_every_flipped_bit_of_a_footer_shows(segment: Path) -> None:
    data = bytearray(segment.read_bytes())
    length = int.from_bytes(data[-8:-4], "little")
    for place in range(len(data) - 8 - length, len(data)):
        data[place] ^= 0x10
        segment.write_bytes(data)
        with pytest.raises(ValueError, match="footer is damaged"):
            reader.read_track(segment.parent)
        data[place] ^= 0x10


def test_no_flipped_byte_of_a_page_gives_wrong_values(segment: Path) -> None:
    right = reader.read_track(segment.parent)
    data = bytearray(segment.read_bytes())
    raised = 0
    for place in range(4, len(data) - 8 - int.from_bytes(data[-8:-4], "little"), 3):
        data[place] ^= 0x04
        segment.write_bytes(data)
        try:
            assert reader.read_track(segment.parent) == right
        except (ValueError, OSError):
            raised += 1
        data[place] ^= 0x04
    assert raised > 20


def test_overlaps_show(segment: Path) -> None:
    (segment.parent / "000000000003-000000000007.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="do not tile at index 3"):
        reader.read_track(segment.parent)


def test_holes_show(lake_dir: Path) -> None:
    with open_session(lake_dir) as session:
        for number in range(12):
            session.track("t").append(a=number).flush()
    folder = track_folder(lake_dir)
    (folder / "000000000000-000000000005.parquet").rename(lake_dir / "kept")
    with pytest.raises(ValueError, match="do not tile at index 0"):
        reader.read_track(folder)
    (folder / "000000000005-000000000010.parquet").unlink()
    with pytest.raises(ValueError, match="points are missing"):
        reader.read_track(folder)


# ------------------------------------------------------------------------------------------------ the page

PAGE = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")


def test_the_examples_of_json_are_json() -> None:
    examples = re.findall(r"(?ms)^```json\n(.*?)^```$", PAGE)
    assert len(examples) >= 8
    for example in examples:
        try:
            json.loads(example)
        except ValueError:
            assert len([json.loads(line) for line in example.splitlines()]) > 1


def test_the_hot_lines_shown_are_read_as_it_says() -> None:
    lines = re.findall(r'(?m)^\{"index": .*$', PAGE)
    points = reader.read_hot("".join(f"{line}\n" for line in lines).encode(), below=0)
    assert points[0] == {"index": 0, "data": {"value": 0.5, "epoch": 1, "note": "late", "_ts": 1767.25}}
    assert merge(parse("".join(f"{line}\n" for line in lines).encode()), 0)[1][0] == points[0]["data"]


def test_the_names_shown_have_the_folders_shown() -> None:
    rows = re.findall(r"(?m)^\| (track|session) `(.+)` \| `(.+)` \|$", PAGE)
    assert len(rows) >= 7
    for kind, name, folder in rows:
        path = layout.track_dir(name) if kind == "track" else layout.session_dir("w", name)
        assert path.partition("/")[2] == folder


def test_every_character_that_is_encoded_is_shown() -> None:
    (line,) = re.findall(r"(?m)^- anywhere: (.*)$", PAGE)
    shown = set(re.findall(r"`(.)`", line))
    printable = {chr(code) for code in range(32, 127)}
    assert shown == {char for char in printable if layout.encode_component(f"a{char}a") != f"a{char}a"}


def test_every_key_of_the_files_is_on_the_page(lake_dir: Path) -> None:
    with open_session(lake_dir) as session:
        session.parameters().set(lr=0.1)
        session.log("hello", metadata={"a": 1})
        for number in range(11):
            session.track("t").append(a=number)
        session.track("t").append(a=None, late=1, _ts=session.track("t").read()["data"][0]["data"]["_ts"])
    folder = lake_dir / "w" / "s"
    keys: set[str] = set()
    for name in ("session.json", "parameters.json", ".lock", "tracks/t/metadata.json", "logs/logs.jsonl"):
        keys |= json.loads((folder / name).read_text()).keys()
    for path in (folder / "tracks" / "t").glob("*.parquet"):
        metadata = pq.read_metadata(path).metadata
        keys |= {key.decode() for key in metadata if key != b"ARROW:schema"}
        keys |= json.loads(metadata[b"dreamlake.segment"]).keys() | json.loads(metadata[b"dreamlake.track"]).keys()
    assert {"lastTs", "rewrites", "tsRising", "before", "dreamlake.footer_crc32", "sequenceNumber"} <= keys
    assert [key for key in sorted(keys) if f"`{key}`" not in PAGE and f'"{key}"' not in PAGE] == []


def test_every_file_of_a_session_is_on_the_page(lake_dir: Path) -> None:
    with open_session(lake_dir) as session:
        session.parameters().set(lr=0.1)
        session.log("hello")
        for number in range(6):
            session.track("t").append(a=number)
    names = {path.name for path in (lake_dir / "w" / "s").rglob("*") if path.is_file() and path.suffix != ".parquet"}
    assert names == {".lock", "session.json", "parameters.json", "logs.jsonl", "metadata.json", "data.jsonl"}
    assert [name for name in sorted(names) if name not in PAGE] == []
