"""``dreamlake import`` of CSV, JSON lines and Parquet: each value as it stands in the file, each row once."""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import run_python
from values import fields, same

from dreamlake import Lake, Session
from dreamlake.cli import main
from dreamlake.integrations.names import apart, field_name, run_name, track_name


def points(lake: Path, session: str, track: str, workspace: str = "imported") -> list[dict[str, Any]]:
    found = Lake(lake).session(session, workspace).track(track).read(limit=None)["data"]
    assert [point["index"] for point in found] == list(range(len(found)))
    return [point["data"] for point in found]


def without_ts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "_ts"} for row in rows]


def ok(result: tuple[int, str, str]) -> str:
    status, out, err = result
    assert (status, err) == (0, ""), (status, out, err)
    return out


# ------------------------------------------------------------------------------------------------ there and back


ODD = [
    {"_ts": 1.0, "x": 0.1 + 0.2, "n": 1, "text": 'a,"b"\nc', "list": [1.0, math.nan], "mixed": 1},
    {"_ts": 2.5, "x": math.nan, "n": -(2**62), "text": "", "list": [], "mixed": "one", "flag": True},
    {"_ts": 2.75, "x": math.inf, "n": None, "text": None, "bytes": b"\x00\xff", "mixed": {"a": [1]}},
    {"_ts": 3.0, "x": -0.0, "when": datetime(2026, 1, 2, tzinfo=UTC), "nested": {"a": 1, "b": {"c": "d"}}},
    {"_ts": 4.0, "x": 5e-324, "text": "é漢\u2028", "big": 2**70, "$odd": 1},
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_what_was_exported_comes_back(kind: str, cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    """A folder of an export is one run, with the tracks that it was made of."""
    with Session("run", "w", lake_dir) as session:
        session.track("all/kinds").append_batch(ODD)
        session.track("a=b/%").append_batch([{"_ts": 5.0, "step": 1}, {"_ts": 6.0, "step": 2}])
    out = tmp_path / "copy"
    ok(cli("export", "w/run", "-o", f"{out}/", "--format", kind, "--path", lake_dir))
    assert ok(cli("import", kind, out, "--path", lake_dir)) == "imported/copy: 7 points in 2 tracks, all new\n"
    assert ok(cli("import", kind, out, "--path", lake_dir)) == "imported/copy: 7 points in 2 tracks, nothing new\n"
    original, copy = (points(lake_dir, *place) for place in (("run", "all/kinds", "w"), ("copy", "all/kinds")))
    assert [row["_ts"] for row in copy] == [row["_ts"] for row in original]
    if kind == "jsonl":
        assert all(map(same, map(sorted_keys, original), map(sorted_keys, copy)))
    else:  # None is absent there, and in CSV what is no number or text is JSON text
        for row, other in zip(original, copy, strict=True):
            for name, value in row.items():
                if isinstance(value, (float, int)) and name != "mixed":
                    assert same(other[name], value) or name in ("flag", "big")
    assert without_ts(points(lake_dir, "copy", "a=b/%")) == [{"step": 1}, {"step": 2}]


def sorted_keys(row: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(row.items()))


@settings(max_examples=25)
@given(rows=st.lists(fields, min_size=1, max_size=8))
def test_json_lines_have_every_value(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rows")
    with Session("run", "w", folder / "lake") as session:
        session.track("t").append_batch([{**row, "_ts": float(at)} for at, row in enumerate(rows)])
    file = folder / "rows.jsonl"
    assert main(["export", "w/run", "t", "-o", str(file), "--path", str(folder / "lake")]) == 0
    assert main(["import", "jsonl", str(file), "--path", str(folder / "lake")]) == 0
    original, copy = (points(folder / "lake", *place) for place in (("run", "t", "w"), ("rows", "rows")))
    assert all(map(same, map(sorted_keys, original), map(sorted_keys, copy)))


@settings(max_examples=25)
@given(rows=st.lists(fields, min_size=1, max_size=8))
def test_fields_of_several_types_come_back_from_parquet(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Other fields of text stay text, whatever it says; and for other readers the file is what it was."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [
        {**row, "_ts": float(at), "mixed": [at, "[1]", 2**70, {str(at): b"x"}][at % 4], "plain": "[1]"}
        for at, row in enumerate(rows)
    ]
    with Session("run", "w", folder / "lake", segment_points=3) as session:
        session.track("t").append_batch(rows)
    file = folder / "rows.parquet"
    assert main(["export", "w/run", "t", "-o", str(file), "--path", str(folder / "lake")]) == 0
    assert main(["import", "parquet", str(file), "--path", str(folder / "lake")]) == 0
    kinds = Lake(folder / "lake").session("run", "w").track("t").stats()["fields"]
    original, copy = (points(folder / "lake", *place) for place in (("run", "t", "w"), ("rows", "rows")))
    for row, other in zip(original, copy, strict=True):
        assert other["plain"] == "[1]"
        for name, kind in kinds.items():
            if kind == "json" and name in row:
                assert same(widened(other.get(name)), widened(row[name])), name
    assert pl.read_parquet(file)["plain"].dtype == pl.String
    assert pl.read_parquet_schema(file)["mixed"] in (pl.String, pl.Int64)
    assert pq.read_table(file).schema.equals(Lake(folder / "lake").session("run", "w").track("t").to_arrow().schema)


def widened(value: Any) -> Any:
    """The value with each integer that a double holds as that: so it may come back where its field holds a float."""
    if isinstance(value, dict):
        return {key: widened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [widened(item) for item in value]
    return float(value) if type(value) is int and abs(value) <= 2**53 else value


def deep(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def test_the_deepest_field_leaves_the_others_as_they_are(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    rows = [{"deep": deep(64, math.nan), "x": math.inf, "$odd": b"a", "when": datetime(2026, 1, 2, tzinfo=UTC)}]
    with Session("run", "w", lake_dir) as session:
        session.track("t").append_batch(rows)
    ok(cli("export", lake_dir / "w/run", "t", "-o", tmp_path / "t.jsonl"))
    ok(cli("import", "jsonl", tmp_path / "t.jsonl", "--path", lake_dir))
    assert same(without_ts(points(lake_dir, "t", "t")), rows)


def test_keys_of_others_that_begin_with_a_dollar_leave_the_rest_as_it_is(
    cli: Any, tmp_path: Path, lake_dir: Path
) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        '{"$id": 1, "$$id": 2, "x": {"$numberDouble": "NaN"}, "y": {"$ref": "a", "z": 1}}\n{"$date": "2026-01-02"}\n'
    )
    ok(cli("import", "jsonl", file, "--path", lake_dir))
    expected = [{"$id": 1, "$$id": 2, "x": math.nan, "y": {"$ref": "a", "z": 1}}, {"$date": "2026-01-02"}]
    assert same(without_ts(points(lake_dir, "t", "t")), expected)


def test_moments_at_both_ends_of_the_calendar_come_back_from_parquet(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    west, east = timezone(timedelta(hours=-5, minutes=-30)), timezone(timedelta(hours=14))
    rows = [
        {"west": datetime.max.replace(tzinfo=west), "east": datetime.min.replace(tzinfo=east), "x": 1},
        {"west": datetime(2026, 1, 2, 3, tzinfo=west), "east": datetime(2026, 1, 2, 3, tzinfo=east), "x": 2},
    ]
    with Session("run", "w", lake_dir) as session:
        session.track("t").append_batch(rows)
    ok(cli("export", lake_dir / "w/run", "t", "-o", tmp_path / "t.parquet"))
    assert {pq.read_schema(tmp_path / "t.parquet").field(name).type.tz for name in ("west", "east")} == {"UTC"}
    ok(cli("import", "parquet", tmp_path / "t.parquet", "--path", lake_dir))
    back = points(lake_dir, "t", "t")
    assert [point["x"] for point in back] == [1, 2]
    for name in ("west", "east"):
        assert [point[name] - row[name] for point, row in zip(back, rows, strict=True)] == [timedelta(0)] * 2


def test_values_of_parquet_that_python_has_no_form_for_are_left_out_and_told(
    cli: Any, tmp_path: Path, lake_dir: Path
) -> None:
    micros = pa.array([253402300800 * 10**6, 10**15, None], pa.int64())
    table = {
        "naive": micros.cast(pa.timestamp("us")),
        "far": pa.array([2**61, 10**15, None], pa.int64()).cast(pa.timestamp("us", "UTC")),
        "strange": micros.cast(pa.timestamp("us", "+5:30")),
        "list": pa.array([[micros[0].as_py()], [1], None], pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("us"))),
        "x": pa.array([1, 2, 3]),
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    out = ok(cli("import", "parquet", tmp_path / "t.parquet", "--path", lake_dir))
    assert out.count("that Python has no form for") == 3
    for name in ("naive", "far", "list"):
        assert f"values of the column '{name}', of type" in out
    back = without_ts(points(lake_dir, "t", "t"))
    moment = datetime(2001, 9, 9, 1, 46, 40)
    assert [point["x"] for point in back] == [1, 2, 3]
    assert list(back[0]) == ["strange", "x"]
    assert back[0]["strange"] - datetime.max.replace(tzinfo=UTC) == timedelta(microseconds=1)
    assert back[1]["naive"] == moment
    assert back[1]["far"] == back[1]["strange"] == moment.replace(tzinfo=UTC)


def test_text_that_is_no_json_stays_text(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    """Other tools that edit an exported file may leave its mark where other text is now, or none."""
    with Session("run", "w", lake_dir) as session:
        session.track("t").append_batch([{"x": 1, "y": "a"}, {"x": "one", "y": 2}])
    ok(cli("export", "w/run", "t", "-o", tmp_path / "a.parquet", "--path", lake_dir))
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["x"].to_pylist() == ["1", '"one"']
    edited = pa.array(["{", '"two"'])
    pq.write_table(table.set_column(2, table.schema.field("x"), edited), tmp_path / "a.parquet")
    ok(cli("import", "parquet", tmp_path / "a.parquet", "--path", lake_dir))
    assert without_ts(points(lake_dir, "a", "a")) == [{"x": "{", "y": "a"}, {"x": "two", "y": 2}]


# ------------------------------------------------------------------------------------------------ CSV


def test_columns_of_a_csv_file_have_the_type_of_all_their_values(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    """Not of the first ones: a float after a million integers, a text at the end."""
    file = tmp_path / "a.csv"
    rows = [[n, n, n, "", f"00{n}", "true" if n % 2 else "False", 2**70 + n] for n in range(100_000)]
    rows[-1][1] = "0.5"
    rows[-2][2] = "n/a"
    rows[-3][3] = "nan"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["int", "float", "text", "sparse", "code", "flag", "big"], *rows])
    assert "100,000 points in 1 track, all new" in ok(cli("import", "csv", file, "--path", lake_dir))
    got = points(lake_dir, "a", "a")
    assert len(got) == 100_000
    assert [row["int"] for row in got] == list(range(100_000))
    assert {type(row["float"]) for row in got} == {float}
    assert got[-1]["float"] == 0.5
    assert [row["text"] for row in got[:2]] == ["0", "1"]
    assert ["sparse" in row for row in got].count(True) == 1
    assert math.isnan(got[-3]["sparse"])
    assert got[7]["code"] == "007"
    assert [row["flag"] for row in got[:2]] == [False, True]
    assert [row["big"] for row in got[:2]] == [2**70, 2**70 + 1]
    assert "nothing new" in ok(cli("import", "csv", file, "--path", lake_dir))


def test_numbers_of_a_csv_file_that_no_double_holds(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    """Whole ones stay whole beside others, as an exported track had them; what is beyond doubles stays text."""
    rows = [{"n": 2**53 + 1, "_ts": 1.0}, {"n": 0.5, "_ts": 2.0}, {"n": 1 - 2**63, "_ts": 3.0}]
    with Session("run", "w", lake_dir) as session:
        session.track("t").append_batch(rows)
    ok(cli("export", "w/run", "t", "-o", tmp_path / "t.csv", "--path", lake_dir))
    ok(cli("import", "csv", tmp_path / "t.csv", "--path", lake_dir))
    assert all(map(same, points(lake_dir, "t", "t"), rows))
    cells = ["0.5", "1e400", "-1e400", "inf", "-Infinity", "1e-400", "9" * 400, "9" * 700, "+9007199254740993", "1e22"]
    cells += ["9" * 700 + ".5", "9007199254740992", "9007199254740993.", "NaN"]
    (tmp_path / "a.csv").write_text("".join(f"{cell}\n" for cell in ["x", *cells]))
    (tmp_path / "b.csv").write_text("".join(f"{cell}\n" for cell in ["x", "9" * 400, "9" * 5000]))
    ok(cli("import", "csv", tmp_path, "--path", lake_dir, "--name", "odd"))
    expected: list[Any] = [0.5, "1e400", "-1e400", math.inf, -math.inf, 0.0, 10**400 - 1, "9" * 700, 2**53 + 1, 1e22]
    expected += ["9" * 700 + ".5", 2.0**53, 2.0**53, math.nan]
    assert same([point["x"] for point in points(lake_dir, "odd", "a")], expected)
    assert [point["x"] for point in points(lake_dir, "odd", "b")] == [10**400 - 1, "9" * 5000]
    assert "nothing new" in ok(cli("import", "csv", tmp_path, "--path", lake_dir, "--name", "odd"))


def test_csv_files_of_several_kinds(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    """A mark of its encoding, semicolons, tabs, quotes with lines in them, an empty text beside an absent one."""
    (tmp_path / "bom.csv").write_text('\ufeffstep,"a b"\r\n1,"x\ny"\r\n2,""\r\n3,\r\n', encoding="utf-8", newline="")
    (tmp_path / "semi.csv").write_text("a;b\n1;2,5\n")
    (tmp_path / "tabs.tsv").write_text("a\tb\n1\t2\n")
    ok(cli("import", "csv", tmp_path, "--path", lake_dir, "--name", "all"))
    rows = [{"step": 1, "a b": "x\ny"}, {"step": 2, "a b": ""}, {"step": 3}]
    assert without_ts(points(lake_dir, "all", "bom")) == rows
    assert without_ts(points(lake_dir, "all", "semi")) == [{"a": 1, "b": "2,5"}]
    assert without_ts(points(lake_dir, "all", "tabs")) == [{"a": 1, "b": 2}]


def test_rows_of_the_wrong_length_are_counted(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n4,5,6\n7,8\n9\n")
    out = ok(cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir))
    assert "3 rows with too many or too few cells" in out
    assert "1 cells in place of 2: 3" in out
    assert without_ts(points(lake_dir, "a", "a")) == [{"a": 1, "b": 2}, {"a": 7, "b": 8}]
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n4,5,6\n7,8\n9,10\n")
    ok(cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir))
    assert without_ts(points(lake_dir, "a", "a"))[2:] == [{"a": 9, "b": 10}]


@pytest.mark.parametrize(
    ("names", "separator"),
    [
        (["mean;std;max;min", "n"], ","),
        (["mean,std,max,min", "n"], ";"),
        (["a\tb\tc", 'say "so", or;not', ","], "\t"),
        (["two\nlines", "n"], ","),
        (["two\r\nlines;", ";;"], ","),
        ([";;;;"], ","),
        (["loss, mean"], ";"),
        (['"', '""', '";"'], ","),
    ],
)
def test_names_of_columns_are_read_as_csv(
    names: list[str], separator: str, cli: Any, tmp_path: Path, lake_dir: Path
) -> None:
    """What is in quotes separates nothing, and ends no row."""
    for mark, quoting in (("", csv.QUOTE_MINIMAL), ("\ufeff", csv.QUOTE_ALL)):
        with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as stream:
            stream.write(mark)
            writer = csv.writer(stream, delimiter=separator, quoting=quoting)
            writer.writerows([["_index", "_ts", *names], *([at, at + 0.5, *[at] * len(names)] for at in range(3))])
        ok(cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir))
        assert points(lake_dir, "a", "a") == [dict.fromkeys(names, at) | {"_ts": at + 0.5} for at in range(3)]


def test_a_quote_within_a_name_is_a_part_of_it(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.csv").write_text('5" disk;6" disk;a, b\r1;2;3\r')
    ok(cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir))
    assert without_ts(points(lake_dir, "a", "a")) == [{'5" disk': 1, '6" disk': 2, "a, b": 3}]


def test_empty_lines_come_before_the_names(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.csv").write_text("\r\n\na;b\n\n1;2\n")
    ok(cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir))
    assert without_ts(points(lake_dir, "a", "a")) == [{"a": 1, "b": 2}]


def test_a_file_of_which_no_row_can_be_imported_is_told(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1;2\n3;4\n")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    status, out, err = cli("import", "csv", tmp_path / "a.csv", tmp_path / "b.csv", "--path", lake_dir)
    assert status == 1
    assert err.count("\n") == 1
    assert "a.csv: none of its 2 rows could be imported: 1 cells in place of 2: 1;2" in err
    assert "imported/b: 1 point in 1 track, all new" in out
    (tmp_path / "a.csv").write_text("a,b\n")
    assert cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir)[0] == 0


@pytest.mark.parametrize("text", ["", "a,a\n1,2\n"])
def test_csv_files_without_a_right_first_line_are_refused(text: str, cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    status, _, err = cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir)
    assert (status, "column" in err) == (2, True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'a,"b\n1,2\n', "is a quote not closed?"),
        (b'a,"' + b"x" * 200_000 + b'"\n1,2\n', "cannot be read as CSV"),
        (b"a,\xff\n1,2\n", "can't decode"),
    ],
)
def test_names_that_cannot_be_read_are_one_line(
    data: bytes, said: str, cli: Any, tmp_path: Path, lake_dir: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    status, _, err = cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir)
    assert (status, err.count("\n"), said in err) == (2, 1, True), err


# ------------------------------------------------------------------------------------------------ times and names


def test_times_come_from_a_column(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.csv").write_text("when,x\n2026-01-02T03:04:05Z,1\n2026-01-02T03:04:05Z,2\n")
    (tmp_path / "b.jsonl").write_text('{"at": 7, "x": 1}\n{"at": 7, "x": 2}\n{"at": -1, "x": 3}\n')
    (tmp_path / "c.csv").write_text("x\n1\n2\n")
    ok(cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir, "--time", "when"))
    ok(cli("import", "jsonl", tmp_path / "b.jsonl", "--path", lake_dir, "--time", "at"))
    ok(cli("import", "csv", tmp_path / "c.csv", "--path", lake_dir))
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert [(row["_ts"], row["x"]) for row in points(lake_dir, "a", "a")] == [(at, 1), (at, 2)]
    assert [(row["_ts"], row["x"]) for row in points(lake_dir, "b", "b")] == [
        (7.0, 1),
        (7.0, 2),
        (pytest.approx(-1), 3),
    ]
    first, second = points(lake_dir, "c", "c")
    assert first["_ts"] < second["_ts"]
    for wrong in ("nothing", "x"):
        (tmp_path / "d.csv").write_text("when,x\nyesterday,soon\n")
        status, _, err = cli("import", "csv", tmp_path / "d.csv", "--path", lake_dir, "--time", wrong)
        assert (status, "time" in err) == (2, True)


def test_times_that_are_not_finite_are_told(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    """The points are kept, at the time of the import; and they are found again."""
    file = tmp_path / "a.jsonl"
    times = ("5", "NaN", "-Infinity", "1" + "0" * 400)
    file.write_text("".join(f'{{"_ts": {ts}, "x": {x}}}\n' for x, ts in enumerate(times, 1)))
    before = datetime.now(UTC).timestamp()
    out = ok(cli("import", "jsonl", file, "--path", lake_dir))
    assert "left out: 3 times that are not finite; these points have the time of the import\n" in out
    first, *others = points(lake_dir, "a", "a")
    assert (first["_ts"], [row["x"] for row in others]) == (5.0, [2, 3, 4])
    assert all(row["_ts"] >= before for row in others)
    assert "nothing new" in ok(cli("import", "jsonl", file, "--path", lake_dir))


def test_times_without_a_zone_are_utc_on_every_machine(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    moment = datetime(2026, 7, 2, 3, 4, 5)
    (tmp_path / "a.csv").write_text(f"at,x\n{moment},1\n{moment}+02:00,2\n")
    for unit in ("ms", "us", "ns"):
        pq.write_table(pa.table({"at": pa.array([moment], pa.timestamp(unit))}), tmp_path / f"{unit}.parquet")
    code = """
    import sys
    from dreamlake.cli import main
    for kind in ("csv", "parquet"):
        assert main(["import", kind, sys.argv[1], "--path", sys.argv[2], "--name", kind, "--time", "at"]) == 0
    """
    for zone in ("America/New_York", "Asia/Tokyo"):
        run_python(code, tmp_path, lake_dir, TZ=zone)
    seconds = moment.replace(tzinfo=UTC).timestamp()
    assert [row["_ts"] for row in points(lake_dir, "csv", "a")] == [seconds, seconds - 7200]
    assert [points(lake_dir, "parquet", unit)[0]["_ts"] for unit in ("ms", "us", "ns")] == [seconds] * 3


def test_reserved_names_get_another(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"_step": 1, "_index": 5, "": 2, "__x": 3, "_ts": 4}\n')
    ok(cli("import", "jsonl", tmp_path / "a.jsonl", "--path", lake_dir))
    assert points(lake_dir, "a", "a") == [{"step_": 1, "": 2, "x_": 3, "_ts": 4.0}]


def test_columns_that_would_be_one_field_stay_two(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    """A column has one field in all rows, also in those that lack the other column."""
    (tmp_path / "a.csv").write_text("_x,x_,__x,loss\n1,2,3,0.5\n4,,5,0.25\n,6,,\n")
    lines = ['{"_x": 1}', '{"x_": 2, "_x": 3}', '{"x_": 4}', '{"\\ud800": 5, "?": 6}']
    (tmp_path / "b.jsonl").write_text("".join(line + "\n" for line in lines))
    out = ok(cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir))
    assert "the column '_x' is the field 'x__'; 'x_' is another column" in out
    assert "the column '__x' is the field 'x___'; 'x_' is another column" in out
    rows = [{"x__": 1, "x_": 2, "x___": 3, "loss": 0.5}, {"x__": 4, "x___": 5, "loss": 0.25}, {"x_": 6}]
    assert without_ts(points(lake_dir, "a", "a")) == rows
    assert "the column 'x_' is the field 'x__'" in ok(cli("import", "jsonl", tmp_path / "b.jsonl", "--path", lake_dir))
    rows = [{"x_": 1}, {"x__": 2, "x_": 3}, {"x__": 4}, {"?_": 5, "?": 6}]
    assert without_ts(points(lake_dir, "b", "b")) == rows
    for kind, name in (("csv", "a.csv"), ("jsonl", "b.jsonl")):
        assert "nothing new" in ok(cli("import", kind, tmp_path / name, "--path", lake_dir))


@given(st.text(max_size=300), st.text(max_size=300))
def test_names_stay_apart(one: str, other: str) -> None:
    from dreamlake.format.layout import check_field, check_name

    for make, kind in ((track_name, "track"), (run_name, "session")):
        check_name(kind, make(one))  # type: ignore[arg-type]
        assert (make(one) == make(other)) == (one == other)
        assert make(make(one)) == make(one)
    check_field(field_name(one))


def test_parameters_are_not_both_a_value_and_a_part() -> None:
    assert apart({"a": 1, "a.b": 2, "a_": 3, "c.d.e": 4, "c.d": 5, "f": 6}) == {
        "a__": 1,
        "a.b": 2,
        "a_": 3,
        "c.d.e": 4,
        "c.d_": 5,
        "f": 6,
    }


# ------------------------------------------------------------------------------------------------ twice, and damage


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_that_grows_adds_only_what_is_new(kind: str, cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    file = tmp_path / f"a.{kind}"
    lines = ["x"] * (kind == "csv") + [str(n) if kind == "csv" else json.dumps({"x": n}) for n in range(50)]
    file.write_text("\n".join(lines[:20]) + "\n")
    ok(cli("import", kind, file, "--path", lake_dir))
    file.write_text("\n".join(lines) + "\n")
    told = json.loads(ok(cli("import", kind, file, "--path", lake_dir, "--json")))
    assert (told[0]["points"], told[0]["new"]) == (50, 50 - (19 if kind == "csv" else 20))
    assert [row["x"] for row in points(lake_dir, "a", "a")] == list(range(50))
    assert "nothing new" in ok(cli("import", kind, file, "--path", lake_dir))
    file.write_text("\n".join(lines).replace("18", "99").replace("49", "77") + "\n")
    status, _, err = cli("import", kind, file, "--path", lake_dir)
    assert (status, "was replaced" in err) == (2, True)


def test_a_column_that_becomes_text_later_does_not_matter(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    ok(cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir))
    (tmp_path / "a.csv").write_text("x\n1\n2\nthree\n")
    ok(cli("import", "csv", tmp_path / "a.csv", "--path", lake_dir))
    assert [row["x"] for row in points(lake_dir, "a", "a")] == [1, 2, "three"]


def test_other_forms_of_a_value_are_the_same_where_its_column_becomes_text(
    cli: Any, tmp_path: Path, lake_dir: Path
) -> None:
    """A text is compared by what it says, since the newest point was stored as a number or a truth value."""
    file = tmp_path / "a.csv"
    head, row = "whole,number,nothing,flag,large,code\n", "-0,0.250,NAN,TRUE,9007199254740993,7\n"
    file.write_text(head + row)
    ok(cli("import", "csv", file, "--path", lake_dir))
    file.write_text(head + row + ",".join(["text"] * 6) + "\n")
    assert "1 new" in ok(cli("import", "csv", file, "--path", lake_dir))
    first = without_ts(points(lake_dir, "a", "a"))[0]
    expected = {"whole": 0, "number": 0.25, "nothing": math.nan, "flag": True, "large": 2**53 + 1, "code": 7}
    assert same(first, expected)
    for other in ("1,0.250,NAN,TRUE", "0,0.251,NAN,TRUE", "0,0.250,0,TRUE", "0,0.250,NAN,False", "0,text,NAN,TRUE"):
        file.write_text(head + row)
        ok(cli("import", "csv", file, "--path", lake_dir / other))
        file.write_text(head + f"{other},9007199254740993,7\n" + ",".join(["text"] * 6) + "\n")
        status, _, err = cli("import", "csv", file, "--path", lake_dir / other)
        assert (status, "was replaced" in err) == (2, True), other


@pytest.mark.parametrize(("more", "refused"), [("2,0.5,x\n", False), ("", True)])
def test_a_csv_file_that_changes_while_it_is_read(
    more: str, refused: bool, cli: Any, tmp_path: Path, lake_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that come meanwhile, of other types even, are for the next import; a file that is another one is refused."""
    from dreamlake.integrations import csvfile

    file = tmp_path / "a.csv"
    file.write_text("step,loss,n\n1,2,3\n")
    types = csvfile._types

    def change(*args: Any) -> Any:
        found = types(*args)
        file.write_text(file.read_text() + more if more else "step,loss,n\n1,x,3\n")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(csvfile, "_types", change)
        status, out, err = cli("import", "csv", file, "--path", lake_dir)
    if refused:
        assert (status, "was changed while it was read" in err) == (2, True)
    else:
        assert (status, out) == (0, "imported/a: 1 point in 1 track, all new\n")
        assert "1 new" in ok(cli("import", "csv", file, "--path", lake_dir))
        assert [row["n"] for row in points(lake_dir, "a", "a")] == [3, "x"]


def test_a_torn_last_line_is_left_until_it_is_whole(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"x": 1}\n{"x": NaN, "y": [1, 2')
    out = ok(cli("import", "jsonl", file, "--path", lake_dir))
    assert "21 bytes from byte 9 on are left out" in out
    file.write_text('{"x": 1}\n{"x": NaN, "y": [1, 2]}')
    ok(cli("import", "jsonl", file, "--path", lake_dir))
    first, second = points(lake_dir, "a", "a")
    assert (first["x"], math.isnan(second["x"]), second["y"]) == (1, True, [1, 2])


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_csv_row_without_its_line_end_is_left_until_it_has_one(
    mark: str, cli: Any, tmp_path: Path, lake_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at each byte, as a killed writer leaves it; and then it goes on. Also where blocks end in any place."""
    from dreamlake.integrations import csvfile

    whole = f'{mark}step,text\n10,"a ""b""\r\nc,"\r\n20,é5" d\n30,"\n"\n40,\n'.encode()
    rows = [{"step": 10, "text": 'a "b"\r\nc,'}, {"step": 20, "text": 'é5" d'}, {"step": 30, "text": "\n"}]
    rows += [{"step": 40}]
    file = tmp_path / "a.csv"
    ends = [whole.index(end) + len(end) for end in (b'c,"\r', b"d\n", b'"\n"\n', b"40,\n")]
    for stop in range(len(mark.encode()) + len("step,text"), len(whole) + 1):
        for block in (1, 2, 5):
            with monkeypatch.context() as patch:
                file.write_bytes(whole[:stop])
                patch.setattr(csvfile, "BLOCK", block)
                end, _ = csvfile._end_of_rows(str(file), ",")
            assert end == max([0, *(at for at in (whole.index(b"\n") + 1, *ends, ends[0] + 1) if at <= stop)]), stop
        status, out, _ = cli("import", "csv", file, "--path", lake_dir, "--name", f"{stop}")
        there = sum(end <= stop for end in ends)
        if there:
            assert without_ts(points(lake_dir, f"{stop}", "a")) == rows[:there]
        left = f"{stop - end:,} bytes from byte {end:,} on are left out"
        assert status == 0 or whole[:stop].endswith((b"\r", b"\n"))
        assert (left in out or status == 1) == (stop > end)
        file.write_bytes(whole)
        ok(cli("import", "csv", file, "--path", lake_dir, "--name", f"{stop}"))
        assert without_ts(points(lake_dir, f"{stop}", "a")) == rows


def test_a_csv_row_without_its_line_end_is_told(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("step,loss\n0,0.5\n1,0.2")
    out = ok(cli("import", "csv", file, "--path", lake_dir))
    assert "the last row has no line end (yet): add one if it is whole; 5 bytes from byte 16 on are left out" in out
    file.write_text("step,loss\n0,0.5\n1,0.25\n2,0.125\n")
    assert "2 new" in ok(cli("import", "csv", file, "--path", lake_dir))
    assert [row["loss"] for row in points(lake_dir, "a", "a")] == [0.5, 0.25, 0.125]
    file.write_text('step,loss\n0,0.5\n1,0.25\n2,0.125\n3,"0\n4,0\n')
    status, _, err = cli("import", "csv", file, "--path", lake_dir)
    assert (status, "a.csv is damaged: 9 bytes from byte 31 on are left out" in err) == (1, True)


def test_fields_that_came_to_a_point_since_are_told(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"x": 1}\n{"x": 2}\n')
    ok(cli("import", "jsonl", file, "--path", lake_dir))
    file.write_text(json.dumps({"x": 1}) + "\n" + json.dumps({"x": 2, "y": 3, "z": None, "long": "a" * 2**21}) + "\n")
    out = ok(cli("import", "jsonl", file, "--path", lake_dir))
    assert "point 1 in" in out
    assert "has fields now that it had not when it was imported: 'y'; points that are here stay as they are" in out
    assert without_ts(points(lake_dir, "a", "a")) == [{"x": 1}, {"x": 2}]


def test_a_damaged_line_ends_the_file(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"x": 2,}\n{"x": 3}\n')
    status, _, err = cli("import", "jsonl", tmp_path / "a.jsonl", "--path", lake_dir)
    assert (status, "is damaged: 19 bytes from byte 9 on are left out" in err) == (1, True)
    assert without_ts(points(lake_dir, "a", "a")) == [{"x": 1}]
    (tmp_path / "b.jsonl").write_text("[1, 2]\n")
    status, _, err = cli("import", "jsonl", tmp_path / "b.jsonl", "--path", lake_dir)
    assert (status, "line 1 is no JSON object" in err) == (2, True)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and no more")
    status, _, err = cli("import", "parquet", tmp_path / "c.parquet", "--path", lake_dir)
    assert (status, "no whole Parquet file" in err) == (2, True)


def test_a_value_too_large_for_a_point_leaves_the_point(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    rows = [
        {"x": n, "text": "a" * (2 << 20 if n == 1 else 5), "list": [0.123456789012345] * (40_000 if n == 2 else 1)}
        for n in range(4)
    ]
    rows[2]["more"] = [1.23456789012345] * 40_000
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = ok(cli("import", "jsonl", tmp_path / "a.jsonl", "--path", lake_dir))
    assert out.count("(would make a point larger than 1 MB)") == 2
    assert "1 values of 'text' (would" in out
    got = points(lake_dir, "a", "a")
    assert [row["x"] for row in got] == [0, 1, 2, 3]
    assert "text" not in got[1]
    assert ("list" in got[2]) != ("more" in got[2])
    assert "nothing new" in ok(cli("import", "jsonl", tmp_path / "a.jsonl", "--path", lake_dir))


def test_columns_that_cannot_be_stored_are_told_by_name_and_type(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    nanos = pa.array([1_700_000_000_123_456_789, 1_700_000_000_123_456_000, None], pa.timestamp("ns"))
    table = {
        "step": [0, 1, 2],
        "day": [date(2026, 1, 2)] * 3,
        "price": [Decimal("1.25"), None, Decimal("2.5")],
        "took": [timedelta(seconds=3)] * 3,
        "clock": [time(1, 2, 3)] * 3,
        "at": nanos,
        "note": ["a longer text that matters"] * 3,
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    out = ok(cli("import", "parquet", tmp_path / "t.parquet", "--path", lake_dir))
    assert "3 values of 'day' (a value of type datetime.date cannot be stored; store " in out
    assert "2 values of 'price' (a value of type decimal.Decimal cannot be stored; store float(value), or" in out
    assert "3 values of 'took' (a value of type datetime.timedelta cannot be stored; store " in out
    assert "3 values of 'clock' (a value of type datetime.time cannot be stored; store " in out
    assert out.count("nanoseconds, which would be lost") == 1
    assert "larger than" not in out
    rows = without_ts(points(lake_dir, "t", "t"))
    assert [row.pop("at", None) for row in rows] == [None, datetime(2023, 11, 14, 22, 13, 20, 123456), None]
    assert rows == [{"step": step, "note": "a longer text that matters"} for step in range(3)]


def test_only_the_value_that_cannot_be_stored_is_left_out(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    lines = ['{"\\ud800": "x", "loss": 1, "notes": "a longer text"}', '{"loss": 2, "notes": "\\ud800", "deep": %s}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines) % ("[" * 70 + "]" * 70) + "\n")
    out = ok(cli("import", "jsonl", tmp_path / "a.jsonl", "--path", lake_dir))
    assert "1 values of 'notes' (a string holds a lone surrogate, which has no UTF-8 form)" in out
    assert "1 values of 'deep' (lists and dicts are nested more than 64 deep" in out
    assert without_ts(points(lake_dir, "a", "a")) == [{"?": "x", "loss": 1, "notes": "a longer text"}, {"loss": 2}]
    (tmp_path / "b.jsonl").write_text("".join(f'{{"x": {n}, "f{n}": "\\ud800"}}\n' for n in range(100)))
    out = ok(cli("import", "jsonl", tmp_path / "b.jsonl", "--path", lake_dir))
    assert (out.count("lone surrogate"), "80 values of other fields of 'b' that cannot be stored" in out) == (20, True)
    assert len(points(lake_dir, "b", "b")) == 100


def test_files_of_one_name_are_not_mixed(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.csv").write_text(f"x\n{name}\n")
    ok(cli("import", "csv", tmp_path / "one/m.csv", "--path", lake_dir))
    status, _, err = cli("import", "csv", tmp_path / "two/m.csv", "--path", lake_dir)
    assert (status, str(tmp_path / "one/m.csv") in err) == (2, True)
    ok(cli("import", "csv", tmp_path / "two/m.csv", "--path", lake_dir, "--force", "--track", "n"))
    assert Lake(lake_dir).session("m", "imported").tracks.list() == ["m", "n"]


def test_wrong_sources_are_told(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    for source, said in ((tmp_path / "no.csv", "does not exist"), (lake_dir, ".csv or .tsv")):
        status, _, err = cli("import", "csv", source, "--path", lake_dir)
        assert (status, said in err) == (2, True)
    assert cli("import", "csv")[0] == 2
    status, _, err = cli("import", "excel", "a.xls")
    assert (status, "tensorboard" in err) == (2, True)
    status, _, err = cli("import", "tensorboard", tmp_path, "--time", "x")
    assert (status, "--time are for tables" in err) == (2, True)
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.csv").write_text("x\n1\n")
    assert cli("import", "csv", tmp_path, "--track", "x", "--path", lake_dir)[0] == 2
    status, _, err = cli("import", "csv", tmp_path / "a.csv", "--only", "z*", "--path", lake_dir)
    assert (status, "z*" in err) == (2, True)


def test_one_source_that_fails_does_not_stop_the_others(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[]\n")
    (tmp_path / "b.jsonl").write_text('{"x": 1}\n')
    status, out, err = cli("import", "jsonl", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--path", lake_dir)
    assert (status, out) == (1, "imported/b: 1 point in 1 track, all new\n")
    assert "no JSON object" in err


def test_parquet_of_other_tools(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    frame = pl.DataFrame(
        {"step": [1, 2, None], "at": [datetime(2026, 1, 1, hour) for hour in range(3)], "l": [[1.5], [], None]}
    ).with_columns(pl.col("at").dt.replace_time_zone("UTC"))
    pq.write_table(frame.to_arrow(), tmp_path / "a.parquet")
    ok(cli("import", "parquet", tmp_path / "a.parquet", "--path", lake_dir, "--time", "at"))
    got = points(lake_dir, "a", "a")
    assert [row["_ts"] for row in got] == [at.timestamp() for at in frame["at"]]
    assert [(row.get("step"), row.get("l")) for row in got] == [(1, [1.5]), (2, []), (None, None)]


def test_a_large_csv_file_takes_little_memory(tmp_path: Path, lake_dir: Path) -> None:
    with (tmp_path / "a.csv").open("w") as file:
        file.write("step,x,y\n")
        for n in range(400_000):
            file.write(f"{n},{n / 7},{n * 0.1}\n")
    code = """
    import resource, sys
    from dreamlake.cli import main
    import dreamlake.engine.ondisk, dreamlake.engine.sorting, dreamlake.format.schema, pyarrow.parquet, pyarrow.csv
    import dreamlake.integrations.intake, pyarrow.compute
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    main(["import", "csv", sys.argv[1], "--path", sys.argv[2]])
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
    """
    out, grown = run_python(code, tmp_path / "a.csv", lake_dir).stdout.splitlines()
    assert "400,000 points in 1 track, all new" in out
    assert int(grown) < 250, f"{grown} MiB"
