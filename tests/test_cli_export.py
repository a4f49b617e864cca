"""``dreamlake export``: every value comes back from each format, files are complete or absent, memory stays small."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from s3.server import S3Server
from support import python_environment, run_python
from values import fields, same

from dreamlake import Lake, Session
from dreamlake.cli import export, main
from dreamlake.format.point import decode_text, encode_text, from_json
from dreamlake.view import TrackView

T = "2026-01-02T03:04:05.678901+05:30"
POINTS: list[dict[str, Any]] = [
    {"x": 0.1 + 0.2, "n": 1, "text": 'a,"b"\nc', "list": [1.0, math.nan], "mixed": 1},
    {"x": math.nan, "n": -(2**62), "text": "", "list": [], "mixed": "one", "flag": True},
    {"x": math.inf, "n": None, "text": None, "bytes": b"\x00\xff", "mixed": {"a": [1]}},
    {"x": -0.0, "n": 2**53 + 1, "when": datetime.fromisoformat(T), "nested": {"a": 1, "b": {"c": "d"}}},
    {"x": 5e-324, "text": "é漢\u2028", "big": 2**70, "$odd": 1, "": 2},
    {"x": -1.7976931348623157e308, "naive": datetime(1, 2, 3)},
]


@pytest.fixture
def lake(lake_dir: Path) -> Path:
    """``w/run`` with a track of every kind of value in segments and hot, a long one, and one without points."""
    with Session("run", "w", lake_dir, segment_points=4) as session:
        for number, point in enumerate(POINTS):
            session.track("all/kinds").append(**{"_ts": float(number)} | point)
        session.track("steps").append_batch([{"step": step} for step in range(11)])
        session.track("empty", description="nothing")
    return lake_dir


def ok(result: tuple[int, str, str]) -> str:
    status, out, err = result
    assert (status, err) == (0, ""), (status, out, err)
    return out


def read_points(path: Path, track: str) -> list[dict[str, Any]]:
    return Lake(path).session("run", "w").track(track).read(limit=None)["data"]


def from_lines(text: str) -> list[dict[str, Any]]:
    rows = [from_json(msgspec.json.decode(line)) for line in text.split("\n")[:-1]]
    return [{"index": row.pop("_index"), "data": row} for row in rows]


def test_json_lines_have_every_value(cli: Any, lake: Path) -> None:
    rows = from_lines(ok(cli("export", "run", "all/kinds", "--path", lake, "-o", "-", "--format", "jsonl")))
    expected = read_points(lake, "all/kinds")
    assert [row["index"] for row in rows] == list(range(len(POINTS)))
    for row, point, given_ in zip(rows, expected, POINTS, strict=True):
        for key, value in point["data"].items():
            assert same(row["data"].pop(key), value)
        assert not row["data"]
        assert set(point["data"]) == {*given_, "_ts"}  # None is there, what is absent is not


@settings(max_examples=60)
@example([{}, {"": False}, {"": [[0, 0.0]]}], 2)
@given(st.lists(fields, min_size=1, max_size=5), st.sampled_from([1, 2, 1000]))
def test_any_values_come_back_from_json_lines_and_parquet(points: list[dict[str, Any]], segment_points: int) -> None:
    with tempfile.TemporaryDirectory(prefix="dreamlake-test-") as folder:
        with Session("run", "w", folder, segment_points=segment_points) as session:
            session.track("t").append_batch([{**point, "_ts": float(at)} for at, point in enumerate(points)])
        out = os.path.join(folder, "out")
        assert main(["export", "run", "t", "--path", folder, "-o", f"{out}.jsonl"]) == 0
        assert main(["export", "run", "t", "--path", folder, "-o", f"{out}.parquet"]) == 0
        assert main(["export", "run", "t", "--path", folder, "-o", f"{out}.csv"]) == 0
        track = Lake(folder).session("run", "w").track("t")
        rows = from_lines(Path(f"{out}.jsonl").read_bytes().decode())
        for row, point in zip(rows, track.read(limit=None)["data"], strict=True):
            data = row["data"]
            assert row["index"] == point["index"]
            assert same(dict(sorted(data.items())), dict(sorted(point["data"].items())))
        assert same_table(pq.read_table(f"{out}.parquet"), track.to_arrow())
        check_csv(Path(f"{out}.csv").read_bytes().decode(), track)


def same_table(left: pa.Table, right: pa.Table) -> bool:
    assert left.schema.equals(right.schema), (left.schema, right.schema)
    return all(same(one.to_pylist(), other.to_pylist()) for one, other in zip(left.columns, right.columns, strict=True))


def check_csv(text: str, track: TrackView) -> None:
    """Whether each cell of CSV says the value of the track, as far as CSV can."""
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    stored = track.read(limit=None)["data"]
    table = track.to_arrow()
    assert header == table.column_names
    assert len(rows) == len(stored)
    fields = track.stats()["fields"]
    for place, name in enumerate(header):
        for row, point in zip(rows, stored, strict=True):
            cell, value = row[place], point["index"] if name == "_index" else point["data"].get(name)
            kind = fields.get(name, "")
            if kind == "json" and value is not None:
                # A list of ints and floats is one of floats in a column: 0 beside 0.5 is 0.0 there, and 0 in a line.
                value = cell if json.loads(cell) == json.loads(encode_text(value)) else encode_text(value)
            elif kind == "double" and value is not None:
                value = float(value)
            if value is None:
                assert cell == ""
            elif isinstance(value, bool):
                assert cell == str(value).lower()
            elif isinstance(value, str):
                assert cell == value
            elif isinstance(value, int | float):
                assert same(type(value)(cell), value), (name, cell, value)
            elif isinstance(value, datetime):
                assert cell == value.isoformat(timespec="microseconds")
            elif kind.startswith(("list", "struct")):
                assert same_numbers(decode_text(cell), value), (name, cell, value)
            else:
                assert same(decode_text(cell), value), (name, cell, value)


def same_numbers(left: Any, right: Any) -> bool:
    """As `same`, where an integer may have become a double, since others of its field are."""
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same_numbers, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same_numbers(value, right[key]) for key, value in left.items())
    return same(left, float(right) if type(left) is float and type(right) is int else right)


def test_parquet_has_the_columns_of_to_arrow(cli: Any, lake: Path, tmp_path: Path) -> None:
    said = ok(cli("export", "run", "all/kinds", "--path", lake, "-o", tmp_path / "a.parquet"))
    assert said.startswith("all/kinds: 6 points, ")
    track = Lake(lake).session("run", "w").track("all/kinds")
    assert same_table(pq.read_table(tmp_path / "a.parquet"), track.to_arrow())
    assert pl.read_parquet(tmp_path / "a.parquet").height == 6


def test_csv_says_all_that_it_can(cli: Any, lake: Path) -> None:
    text = ok(cli("export", "run", "all/kinds", "--path", lake, "-o", "-", "--format", "csv"))
    check_csv(text, Lake(lake).session("run", "w").track("all/kinds"))
    header, *rows = csv.DictReader(io.StringIO(text, newline="")), *()
    first, second, third, fourth, *_ = header
    assert rows == []
    assert (first["list"], second["list"], third["list"]) == ('[1.0,{"$numberDouble":"NaN"}]', "[]", "")
    assert (first["mixed"], second["mixed"], third["mixed"]) == ("1", '"one"', '{"a":[1]}')
    assert (second["x"], third["x"], second["text"], third["text"]) == ("NaN", "inf", "", "")
    assert json.loads(fourth["nested"]) == {"a": 1, "b": {"c": "d"}}
    assert fourth["when"] == T


LAST = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))
FIRST = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))


def test_datetimes_beyond_what_python_has_in_utc_are_exported(cli: Any, tmp_path: Path) -> None:
    with Session("run", "w", tmp_path / "lake", segment_points=2) as session:
        for name, at in {"first": FIRST, "last": LAST}.items():
            for number in range(3):
                session.track(name).append(at=at, list=[at, at], dict={"a": {"b": at}}, number=number)
        session.track("plain").append(at=datetime.min, number=1).append(at=datetime.max, number=2)
        session.track("several").append(at=FIRST, number=1).append(at=LAST, number=2)
    ok(cli("export", "run", "--path", tmp_path / "lake", "-o", f"{tmp_path}/out/", "--format", "csv"))
    for name in ("first", "last", "plain", "several"):
        check_csv(
            (tmp_path / "out" / f"{name}.csv").read_text(), Lake(tmp_path / "lake").session("run", "w").track(name)
        )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "last.csv").read_text())))
    assert len(rows) == 3
    for row in rows:
        assert row["at"] == LAST.isoformat(timespec="microseconds") == "9999-12-31T23:00:00.000000-12:00"
        assert json.loads(row["list"]) == [{"$date": row["at"]}] * 2
        assert json.loads(row["dict"]) == {"a": {"b": {"$date": row["at"]}}}
    for kind in ("jsonl", "parquet"):
        ok(cli("export", "run", "--path", tmp_path / "lake", "-o", f"{tmp_path}/{kind}/", "--format", kind))


@pytest.mark.parametrize(
    ("argv", "steps"),
    [
        ([], range(11)),
        (["--start", "3"], range(3, 11)),
        (["--start", "3", "--limit", "5"], range(3, 8)),
        (["--start", "-2"], range(9, 11)),
        (["--start", "-5", "--limit", "2"], range(6, 8)),
        (["--limit", "0"], range(0)),
        (["--start", "99"], range(0)),
        (["--start", "-99"], range(11)),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_range(cli: Any, lake: Path, tmp_path: Path, argv: list[str], steps: range, kind: str) -> None:
    place = tmp_path / f"out.{kind}"
    ok(cli("export", "run", "steps", "--path", lake, "-o", place, *argv))
    read = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "parquet": pl.read_parquet}[kind]
    if not steps and kind == "jsonl":
        assert place.read_bytes() == b""
    else:
        assert read(place)["step"].to_list() == list(steps)


def test_several_tracks_go_to_a_folder(cli: Any, lake: Path, tmp_path: Path) -> None:
    ok(cli("export", "run", "--path", lake, "-o", f"{tmp_path}/new/", "--format", "csv"))
    there = {path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert there == {"all/kinds.csv", "steps.csv", "empty.csv"}
    assert (tmp_path / "new/empty.csv").read_text() == "_index,_ts\n"
    ok(cli("export", "run", "steps", "empty", "--path", lake, "-o", tmp_path, "--format", "jsonl"))
    assert (tmp_path / "steps.jsonl").read_text().count("\n") == 11
    assert (tmp_path / "empty.jsonl").read_bytes() == b""


def test_names_that_are_in_each_others_way_get_files(cli: Any, lake_dir: Path, tmp_path: Path) -> None:
    long = "m" * 252
    names = ["train", "train.csv/b", "train.csv~/c", "train.csv/b.csv/d", "z", long, "m" * 251 + "n"]
    with Session("run", "w", lake_dir) as session:
        for number, name in enumerate(names):
            session.track(name).append(x=number)
    out = ok(cli("export", "run", "--path", lake_dir, "-o", f"{tmp_path}/out/", "--format", "csv"))
    files = [line.partition(", in ")[2] for line in out.splitlines()]
    by_name = {line.partition(": ")[0]: place for line, place in zip(out.splitlines(), files, strict=True)}
    assert sorted(by_name) == sorted(names)
    assert len(set(files)) == len(names)
    for number, name in enumerate(names):
        assert Path(by_name[name]).read_text().endswith(f",{number}\n")
    assert by_name["train"] == f"{tmp_path}/out/train.csv"
    assert by_name["train.csv~/c"] == f"{tmp_path}/out/train.csv~/c.csv"
    assert by_name["train.csv/b"] == f"{tmp_path}/out/train.csv~~/b.csv"
    assert by_name["train.csv/b.csv/d"] == f"{tmp_path}/out/train.csv~~/b.csv~/d.csv"
    assert len(os.path.basename(by_name[long])) == 255
    assert os.path.basename(by_name[long]).startswith("m" * 242 + "~")


def test_a_track_that_cannot_be_written_keeps_no_other_back(cli: Any, lake: Path, tmp_path: Path) -> None:
    with Session("run", "w", lake) as session:
        session.track("all/of/them").append(x=1)
    (lake / "w/run/tracks/steps/000000000004-000000000008.parquet").write_bytes(b"rubbish")
    out_dir = tmp_path / "out"
    (out_dir / "all").mkdir(parents=True)
    (out_dir / "all" / "of").write_text("a file where the export needs a folder")
    status, out, err = cli("export", "run", "--path", lake, "-o", out_dir, "--format", "csv")
    assert status == 1
    assert [line.partition(": ")[0] for line in out.splitlines()] == ["all/kinds", "empty"]
    blocked, damaged = err.splitlines()
    assert blocked.startswith("dreamlake: all/of/them: ")
    assert damaged.startswith("dreamlake: steps: ")
    assert "damaged" in damaged
    assert ".tmp" not in err


def test_an_error_names_no_temporary_file(cli: Any, lake: Path, tmp_path: Path) -> None:
    place = tmp_path / f"{'x' * 300}.csv"
    status, out, err = cli("export", "run", "steps", "--path", lake, "-o", place)
    assert (status, out) == (1, "")
    assert str(place) in err
    assert ".tmp" not in err


def test_nothing_is_overwritten_unasked(cli: Any, lake: Path, tmp_path: Path) -> None:
    place = tmp_path / "out.csv"
    place.write_text("mine")
    status, out, err = cli("export", "run", "steps", "--path", lake, "-o", place)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--force" in err
    assert place.read_text() == "mine"
    ok(cli("export", "run", "steps", "--path", lake, "-o", place, "--force"))
    assert place.read_text().startswith("_index,_ts,step\n0,")
    # Of a folder none is written where one is in the way.
    (tmp_path / "f" / "steps.csv").parent.mkdir()
    (tmp_path / "f" / "steps.csv").write_text("mine")
    status, _, err = cli("export", "run", "--path", lake, "-o", tmp_path / "f", "--format", "csv")
    assert (status, err.count("\n")) == (2, 1)
    assert os.listdir(tmp_path / "f") == ["steps.csv"]


def test_a_file_that_appears_meanwhile_is_kept(cli: Any, lake: Path, tmp_path: Path, monkeypatch: Any) -> None:
    place = tmp_path / "out.csv"
    real = export._csv

    def slow(table: pa.Table, fields: Any, *, header: bool) -> bytes:
        place.write_text("theirs")
        return real(table, fields, header=header)

    monkeypatch.setattr(export, "_csv", slow)
    status, _, err = cli("export", "run", "steps", "--path", lake, "-o", place)
    assert (status, err.count("\n")) == (2, 1)
    assert place.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["lake", "out.csv"] or sorted(os.listdir(tmp_path)) == ["lake", "out.csv"]


def test_what_fails_leaves_nothing(cli: Any, lake: Path, tmp_path: Path) -> None:
    (lake / "w/run/tracks/steps/000000000004-000000000008.parquet").write_bytes(b"rubbish")
    for kind in ("csv", "parquet", "jsonl"):
        (tmp_path / f"out.{kind}").write_text("older")
        status, out, err = cli("export", "run", "steps", "--path", lake, "-o", tmp_path / f"out.{kind}", "--force")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "damaged" in err
        assert (tmp_path / f"out.{kind}").read_text() == "older"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_mistakes(cli: Any, lake: Path, tmp_path: Path) -> None:
    for argv, said in (
        (["run", "step", "-o", "x.csv"], "is it 'steps'?"),
        (["run", "steps"], "'-o'"),
        (["run", "steps", "-o", "x.txt"], "--format csv|parquet|jsonl"),
        (["run", "steps", "-o", "-"], "--format"),
        (["run", "steps", "empty", "-o", "-", "--format", "csv"], "takes one track"),
        (["run", "-o", "x.csv"], "3 tracks are there"),
        (["run", "-o", f"{tmp_path}/x/"], "--format"),
        (["run", "steps", "-o", "s3://b/x.csv"], "not a URL"),
        (["run", "steps", "-o", "/dev/null", "--format", "csv", "--force"], "no plain file"),
        (["run", "steps", "-o", "x.csv", "--limit", "-1"], "'-1'"),
        (["run", "steps", "-o", "x", "--format", "xml"], "'parquet'"),
    ):
        status, out, err = cli("export", *argv, "--path", lake)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert said in err
    status, _, err = cli("export", "run", "steps", "--path", lake, "-o", lake / "w/run/session.json/x.csv")
    assert (status, err.count("\n")) == (1, 1)


def test_a_run_on_s3(cli: Any, lake: Path, s3_url: str, s3_server: S3Server, tmp_path: Path) -> None:
    options = json.dumps(s3_server.options())
    ok_sync = cli("sync", lake, s3_url, "--storage-options", options)
    assert ok_sync[0] == 0
    argv = ["export", f"{s3_url}/w/run", "all/kinds", "--storage-options", options, "-o", "-", "--format", "jsonl"]
    assert ok(cli(*argv)) == ok(cli("export", "run", "all/kinds", "--path", lake, "-o", "-", "--format", "jsonl"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_pipe(lake: Path, kind: str, tmp_path: Path) -> None:
    words = ["export", "run", "steps", "--path", str(lake), "-o", "-", "--format", kind]
    command = [sys.executable, "-W", "error", "-m", "dreamlake.cli", *words]
    done = subprocess.run(command, capture_output=True, env=python_environment())
    assert (done.returncode, done.stderr) == (0, b"")
    place = tmp_path / f"out.{kind}"
    assert main([*words[:5], "-o", str(place)]) == 0
    assert done.stdout == place.read_bytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_reader_that_goes_away(lake_dir: Path, kind: str) -> None:
    with Session("run", "w", lake_dir) as session:
        session.track("a").append_batch({"x": [i * 0.1 for i in range(200_000)]})
    words = ["export", "run", "a", "--path", str(lake_dir), "-o", "-", "--format", kind]
    command = [sys.executable, "-W", "error", "-m", "dreamlake.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=python_environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (141, b"")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_long_track_is_never_held_whole(lake_dir: Path, tmp_path: Path, kind: str) -> None:
    """Points enter windows, and only one window is held: the most memory of 1,000,000 points is that of 200,000."""
    with Session("run", "w", lake_dir) as session:
        for name, count in (("short", 200_000), ("long", 1_000_000)):
            session.track(name).append_batch({f: [i * 0.37 for i in range(count)] for f in "abcd"})
    code = """
    import resource, sys
    from dreamlake.cli import main
    assert main(sys.argv[1:]) == 0
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """
    most = {}
    for name in ("short", "long"):
        argv = ["export", "run", name, "--path", str(lake_dir), "-o", str(tmp_path / f"{name}.{kind}")]
        most[name] = int(run_python(code, *argv).stdout.splitlines()[-1])
    assert most["long"] < most["short"] + 60, most
