"""``dreamlake ls`` as a way to compare runs: columns, conditions, order, here and on S3."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from s3.server import S3Server

from dreamlake import Session
from dreamlake.cli.compare import _quoted, columns_in, parse_columns

BEST = 13


@pytest.fixture
def lake(lake_dir: Path) -> Path:
    """Twenty runs of a sweep; ``sweep/13`` has the lowest validation loss, and one has none."""
    for number in range(20):
        with Session(str(number), "sweep", lake_dir, tags=["a", "b"]) as session:
            session.parameters().set(lr=10.0 ** -(number % 4), optimizer={"name": "sgd" if number % 2 else "adam"})
            for epoch in range(3):
                loss = 1.0 + abs(number - BEST) / 10 + (epoch - 1) ** 2
                if number == 5:
                    loss = math.nan
                if number != 7:
                    session.track("eval/val").append(epoch=epoch, val_loss=loss)
    return lake_dir


def ls(cli: Any, *argv: object) -> list[dict[str, Any]]:
    status, out, err = cli("ls", *argv, "--json")
    assert (status, err) == (0, ""), err
    rows: list[dict[str, Any]] = json.loads(out)
    return rows


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


def test_the_run_with_the_best_loss_is_one_command(cli: Any, lake: Path) -> None:
    argv = ("-c", "lr", "--sort", "eval/val:val_loss.min", "--limit", "1")
    (row,) = ls(cli, lake, *argv)
    assert (row["name"], row["columns"]) == ("13", {"lr": 0.1, "eval/val:val_loss.min": 1.0})
    status, out, _ = cli("ls", lake, *argv)
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["RUN", "STATUS", "lr", "eval/val:val_loss.min"],
        ["sweep/13", "finished", "0.1", "1"],
    ]


@pytest.mark.parametrize("name", ["^lr$", "*"])
def test_names_that_polars_takes_for_patterns(cli: Any, lake_dir: Path, name: str) -> None:
    for number in range(3):
        with Session(str(number), "sweep", lake_dir) as session:
            session.parameters().set({name: number, "lr": -number, "column 1": 9})
            session.track("t").append(**{name: number, "lr": -1}).append(**{name: number + 10, "lr": -1})
    rows = ls(cli, lake_dir, "-c", f"t:{name}.max,t:{name}.first,{name}", "-s", name)
    assert [list(row["columns"].values()) for row in rows] == [[10 + n, n, n] for n in range(3)]
    assert names(ls(cli, lake_dir, "-w", f'"{name}" > 1')) == ["2"]
    assert names(ls(cli, lake_dir, "-w", f'"{name}" + lr = 0 AND "{name}" < 1 AND "column 1" = 9')) == ["0"]
    assert names(ls(cli, lake_dir, "-w", f'"t:{name}.max" > 10', "-s", name)) == ["1", "2"]
    status, _, err = cli("ls", lake_dir, "-w", '"^l.*$" > 1')
    assert status == 2
    assert "no run has a parameter '^l.*$'" in err


def test_the_same_from_s3(cli: Any, lake: Path, s3_url: str, s3_server: S3Server) -> None:
    options = ["--storage-options", json.dumps(s3_server.options())]
    assert cli("sync", lake, s3_url, *options)[0] == 0
    argv = ("-c", "lr,eval/val:val_loss.min", "--sort", "eval/val:val_loss.min", "--where", "lr < 1")
    assert [row["columns"] for row in ls(cli, s3_url, *argv, *options)] == [
        row["columns"] for row in ls(cli, lake, *argv)
    ]
    (row,) = ls(cli, s3_url, *argv, "--limit", "1", *options)
    assert row["name"] == "13"


def test_what_a_column_may_say(cli: Any, lake: Path) -> None:
    asked = (
        "eval/val:val_loss,eval/val:val_loss.max,eval/val:val_loss.mean,eval/val:val_loss.first,eval/val:epoch.count"
    )
    rows = {row["name"]: row["columns"] for row in ls(cli, lake, "-c", asked, "-c", "tags,optimizer.name")}
    assert list(rows["13"].values()) == [2.0, 2.0, pytest.approx(5 / 3), 2.0, 3, ["a", "b"], "sgd"]
    assert set(list(rows["7"].values())[:5]) == {None}
    assert rows["5"]["eval/val:val_loss"] == {"$numberDouble": "NaN"}


def test_the_order(cli: Any, lake: Path) -> None:
    by_loss = names(ls(cli, lake, "--sort", "eval/val:val_loss.min"))
    assert by_loss[:3] in (["13", "12", "14"], ["13", "14", "12"])
    assert set(by_loss[-2:]) == {"5", "7"}  # NaN, and no value
    worst = names(ls(cli, lake, "--sort", "eval/val:val_loss.min", "--reverse"))
    assert worst[0] == "0"
    assert set(worst[-2:]) == {"5", "7"}
    assert names(ls(cli, lake, "--sort", "optimizer.name"))[0] == "0"
    assert names(ls(cli, lake, "--reverse"))[:2] == ["19", "18"]
    assert names(ls(cli, lake, "--sort", "created", "--limit", "2")) == ["0", "1"]
    assert ls(cli, lake, "--limit", "0") == []


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("lr = 1", {"0", "4", "8", "12", "16"}),
        ("lr < 0.5 AND optimizer.name = 'sgd' AND lr > 0.05", {"1", "5", "9", "13", "17"}),
        ("eval/val:val_loss.min <= 1.1", {"12", "13", "14"}),
        ('"eval/val:val_loss.min" <= 1.1 and "lr" = 1', {"12"}),
        ("eval/val:val_loss IS NULL", {"7"}),
        ("name IN ('3', 'lr')", {"3"}),
        ("run LIKE 'sweep/1_'", {str(n) for n in range(10, 20)}),
        ("status = 'failed'", set()),
        ("optimizer.name = 'optimizer.name'", set()),
    ],
)
def test_conditions(cli: Any, lake: Path, condition: str, found: set[str]) -> None:
    assert set(names(ls(cli, lake, "--where", condition))) == found


def test_no_run_is_so(cli: Any, lake: Path) -> None:
    assert cli("ls", lake, "--where", "lr > 5") == (0, "no run is so\n", "")
    assert ls(cli, lake.parent / "lake", "--where", "lr > 5") == []


def test_mistakes_say_what_there_is(cli: Any, lake: Path) -> None:
    for argv, said in (
        (["-c", "lrr"], "is it 'lr'?"),
        (["-c", "zzz"], "there are lr, optimizer.name"),
        (["-c", "val_loss.min"], "TRACK:FIELD"),
        (["-c", "eval:val_loss"], "no run has a track 'eval'"),
        (["-c", "eval/val:val_los.min"], "is it 'val_loss'?"),
        (["-c", "eval/val:"], "is no column"),
        (["-c", "a//b:x"], "'a//b:x' is no column"),
        (["--sort", "../a:x.min"], "'../a:x.min' is no column"),
        (["--where", "a//b:x > 1"], "'a//b:x' is no column"),
        (["--sort", "lrr"], "is it 'lr'?"),
        (["--where", "lrr > 1"], "is it 'lr'?"),
        (["--where", "lr >"], "an example"),
        (["--where", "lr"], "is no condition"),
        (["--where", "lr > 'a' AND"], "an example"),
        (["--where", "lr + 1"], "is no condition"),
        (["--where", "__import__('os')"], "an example"),
        (["--limit", "x"], "'x'"),
    ):
        status, out, err = cli("ls", lake, *argv)
        assert (status, out, err.count("\n")) == (2, "", 1), (argv, out, err)
        assert said in err, (argv, err)


def test_damage_is_told_and_hides_nothing(cli: Any, lake: Path) -> None:
    (lake / "sweep/3/parameters.json").write_text("{")
    (lake / "sweep/4/tracks/eval/val/data.jsonl").write_text("rubbish\n")
    (lake / "sweep/6/session.json").write_text("{")
    status, out, err = cli("ls", lake, "-c", "lr,eval/val:val_loss", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (status, len(rows), err.count("\n")) == (1, 20, 3)
    assert rows["3"]["columns"]["lr"] is None
    assert rows["4"]["columns"] == {"lr": 1.0, "eval/val:val_loss": None}
    assert rows["6"]["status"] == "damaged"


def test_parameters_of_several_types(cli: Any, lake_dir: Path) -> None:
    for name, value in (("a", 3), ("b", "x"), ("c", 1.5), ("d", [1]), ("e", None)):
        with Session(name, "w", lake_dir) as session:
            session.parameters().set(p=value)
    assert names(ls(cli, lake_dir, "--sort", "p")) == ["c", "a", "d", "b", "e"]
    assert cli("ls", lake_dir, "-c", "p")[0] == 0
    assert names(ls(cli, lake_dir, "--where", "p IS NULL")) == ["e"]


def test_a_parameter_without_a_name_keeps_no_other_from_being_compared(cli: Any, lake_dir: Path) -> None:
    with Session("a", "w", lake_dir) as session:
        session.parameters().set(**{"": 1, **{f"column_{place}": place for place in range(20)}})
    assert names(ls(cli, lake_dir, "--where", "column_9 = 9")) == ["a"]


@pytest.fixture
def mixed(lake_dir: Path) -> Path:
    """Runs whose ``batch`` is of several types, and ``n`` of numbers of which no column holds all."""
    batches = {"a": "auto", "b": 32, "c": 64.5, "d": "32", "e": [1], "f": True, "g": None, "h": math.inf}
    for number, (name, batch) in enumerate(batches.items()):
        with Session(name, "w", lake_dir) as session:
            session.parameters().set(n=2**60 + number if number else 0.5, **{"batch": batch, "a.batch": batch})
            session.track("t").append(x=batch)
    return lake_dir


@pytest.mark.parametrize("batch", ["batch", "a.batch", "t:x"])
@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("{} = 'auto'", "a"),
        ("{} IN ('auto', '64.5')", "ac"),
        ("{} LIKE 'a%'", "a"),
        ("{} = '32'", "bd"),
        ("{} = '[1]' OR {} = 'true'", "ef"),
        ("{} <> 'auto'", "bcdefh"),
        ("{} IS NULL", "g"),
        ("TRY_CAST({} AS DOUBLE) > 40", "ch"),
        ("TRY_CAST({} AS DOUBLE) = 32", "bd"),
    ],
)
def test_values_of_several_types_compare_as_texts(
    cli: Any, mixed: Path, batch: str, condition: str, found: str
) -> None:
    assert names(ls(cli, mixed, "--where", condition.replace("{}", batch))) == list(found)


def test_numbers_of_which_no_column_holds_all_compare_where_they_are_cast(cli: Any, mixed: Path) -> None:
    assert names(ls(cli, mixed, "--where", "CAST(n AS DOUBLE) < 1")) == ["a"]
    assert names(ls(cli, mixed, "--where", f"TRY_CAST(n AS BIGINT) = {2**60 + 1}")) == ["b"]
    assert names(ls(cli, mixed, "--where", f"n = '{2**60 + 1}'")) == ["b"]


@pytest.mark.parametrize("test", ["= 32", "> 1", "<> 32", "IN (32, 64)", "BETWEEN 1 AND 2", "+ 1 > 2"])
def test_values_of_several_types_are_no_numbers_by_themselves(cli: Any, mixed: Path, test: str) -> None:
    for batch, shown in (("batch", "batch"), ("a.batch", '"a.batch"'), ("t:x", '"t:x"')):
        status, out, err = cli("ls", mixed, "--where", f"{batch} {test}")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"'{batch}' are of several types" in err
        assert f"{shown} = '32', or those that are numbers by TRY_CAST({shown} AS DOUBLE) = 32" in err
    status, _, err = cli("ls", mixed, "--where", "CAST(batch AS DOUBLE) = 32")
    assert (status, "TRY_CAST(batch AS DOUBLE)" in err) == (2, True)


def test_a_parameter_may_have_a_name_with_a_colon(cli: Any, lake_dir: Path) -> None:
    """It is meant where no track is called so; of one that is, the field is."""
    names_ = ["x:y", "u:m.min", ":a", "b:", "a//b:c", "d.e/f:g"]
    for number in (3, 4):
        with Session(str(number), "w", lake_dir) as session:
            session.parameters().set(dict.fromkeys([*names_, "t:n"], number))
            session.track("t").append(n=9, m=9)
    for name in names_:
        found = ls(cli, lake_dir, "-c", name, "--sort", name, "--reverse")
        assert [row["columns"] for row in found] == [{name: 4}, {name: 3}]
        assert names(ls(cli, lake_dir, "-w", f"{name} = 3")) == ["3"]
    for name in ("t:n", "t:n.max"):
        assert [row["columns"] for row in ls(cli, lake_dir, "-c", name)] == [{name: 9}] * 2
    assert len(ls(cli, lake_dir, "-w", "t:n = 9")) == 2
    status, _, err = cli("ls", lake_dir, "-c", "x:z")
    assert (status, "no run has a track 'x'" in err) == (2, True)


def test_an_empty_lake(cli: Any, lake_dir: Path) -> None:
    assert cli("ls", lake_dir, "-c", "lr", "--where", "lr > 1") == (0, f"no runs in {lake_dir}\n", "")


def test_names_are_quoted_where_sql_wants_it() -> None:
    names = ["lr", "a.b", "a.b.c", "t:x.min"]
    assert _quoted("a.b > 1 AND a.b.c<2", names) == '"a.b" > 1 AND "a.b.c"<2'
    assert _quoted("lr = 'a.b' OR \"a.b\" = 1", names) == "lr = 'a.b' OR \"a.b\" = 1"
    assert _quoted("t:x.min>1", names) == '"t:x.min">1'
    assert _quoted("xa.b = 1", names) == "xa.b = 1"
    assert [column.text for column in columns_in("t:x.min>1 AND n = 'u:v' AND \"w x:y\" < 2")] == ["t:x.min", "w x:y"]
    assert [column.reducer for column in parse_columns(["t:x, t:x.y.max,lr"])] == ["last", "max", ""]


def test_the_lake_is_named_as_for_other_commands_too(cli: Any, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        session.log("x")
    assert cli("ls", "--path", lake_dir) == cli("ls", lake_dir)
    status, _, err = cli("ls", lake_dir, "--path", lake_dir)
    assert status == 2
    assert "two lakes are named" in err


def test_datetimes_are_compared_as_they_were_appended(cli: Any, tmp_path: Path) -> None:
    """Also those that Python cannot have in UTC."""
    zones = {"first": timezone(timedelta(hours=5)), "last": timezone(timedelta(hours=-12))}
    times = {"first": datetime(1, 1, 1), "last": datetime(9999, 12, 31, 23)}
    for name in ("first", "last"):
        with Session(name, "w", tmp_path) as session:
            at = times[name].replace(tzinfo=zones[name])
            session.track("t").append(at=at, list=[at], n=1).append(at=at, list=[], n=2).append(n=3)
    columns = [f"t:at.{reducer}" for reducer in ("last", "first", "min", "max", "mean")]
    rows = ls(cli, tmp_path, "-c", ",".join([*columns, "t:at.count", "t:at", "t:list.first"]))
    for row in rows:
        said = times[row["name"]].replace(tzinfo=zones[row["name"]]).isoformat(timespec="microseconds")
        assert [row["columns"][column] for column in [*columns, "t:at"]] == [{"$date": said}] * 6
        assert row["columns"]["t:at.count"] == 2
        assert row["columns"]["t:list.first"] == [{"$date": said}]
    for column in columns:
        status, out, err = cli("ls", tmp_path, "-c", column, "--sort", column)
        assert (status, err) == (0, "")
        assert "9999-12-31 23:00:00-12:00" in out
        assert names(ls(cli, tmp_path, "-c", column, "--sort", column)) == ["first", "last"]


def test_what_cannot_be_worked_out_names_the_run_and_the_column(cli: Any, tmp_path: Path) -> None:
    with Session("a", "w", tmp_path) as session:
        session.track("t").append(text="x", list=[1.0], n=1)
    with Session("b", "w", tmp_path) as session:
        session.track("t").append(text=2.0, list=3.0, n=2)
    status, out, err = cli("ls", tmp_path, "-c", "t:text.mean,t:list.max,t:n.max")
    assert status == 1
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["w/a", "finished", "1"], ["w/b", "finished", "2", "3", "2"],
    ]  # fmt: skip
    assert [line.split(": ", 1)[1] for line in err.splitlines()] == [
        "w/a: t:text.mean: no mean of values of String",
        "w/a: t:list.max: no max of values of List(Float64)",
    ]


def test_numbers_of_which_no_column_holds_all_are_worked_out_as_numbers(cli: Any, tmp_path: Path) -> None:
    """A double and an integer beyond it, integers beyond 64 bits: such fields are JSON text to Polars."""
    tracks: dict[str, list[Any]] = {
        "a": [9.5, 10.5, 2**60, None],
        "b": [2**70 + 1, 7, 2**70],
        "c": [math.nan, 2**60, 0.5],
    }
    for name, values in tracks.items():
        with Session(name, "w", tmp_path, segment_points=2) as session:
            session.track("t").append_batch([{"x": value, "n": at} for at, value in enumerate(values)])
    columns = [f"t:x.{reducer}" for reducer in ("first", "last", "min", "max", "count")]
    rows = {row["name"]: row["columns"] for row in ls(cli, tmp_path, "-c", ",".join([*columns, "t:x.mean"]))}
    assert [rows["a"][column] for column in columns] == [9.5, 2**60, 9.5, 2**60, 3]
    assert [rows["b"][column] for column in columns] == [2**70 + 1, 2**70, 7, 2**70 + 1, 3]
    assert [rows["c"][column] for column in columns[1:]] == [0.5, 0.5, 2**60, 3]
    assert rows["a"]["t:x.mean"] == (20 + 2**60) / 3
    assert rows["b"]["t:x.mean"] == (2**71 + 8) / 3
    assert rows["c"]["t:x.mean"] == {"$numberDouble": "NaN"}
    assert names(ls(cli, tmp_path, "--sort", "t:x.min")) == ["c", "b", "a"]
    assert names(ls(cli, tmp_path, "--sort", "t:x.max")) == ["a", "c", "b"]


def test_a_value_is_the_same_whatever_is_asked_for_beside_it(cli: Any, tmp_path: Path) -> None:
    """The newest point gives its values as they were appended; a column of doubles makes 32 a 32.0."""
    with Session("run", "w", tmp_path) as session:
        session.track("t").append(x=0.5, y=0.5, z={"a": 1}).append(x=2**60, y=32, z={"b": [1]}).append(y=64)
    for column, value in (("t:x", 2**60), ("t:y", 64), ("t:z", {"b": [1]})):
        for beside in ("", ",t:y.count", ",t:x.min", ",t:z.first"):
            (row,) = ls(cli, tmp_path, "-c", column + beside)
            assert repr(row["columns"][column]) == repr(value), (column, beside)


@pytest.mark.parametrize("reducer", ["min", "max", "mean"])
def test_values_of_several_types_have_no_extremes(cli: Any, tmp_path: Path, reducer: str) -> None:
    """Not by their texts, of which 10.5 is below 9.5; a bool is none of the numbers."""
    for name, values in {"a": [9.5, 10.5, "x"], "b": [1, True], "c": [{"a": 1}, {"b": 1}], "d": [2**70, 1]}.items():
        with Session(name, "w", tmp_path) as session:
            session.track("t").append_batch([{"x": value} for value in values])
    status, out, err = cli("ls", tmp_path, "-c", f"t:x.{reducer}", "--sort", f"t:x.{reducer}", "--json")
    assert status == 1
    assert [row["name"] for row in json.loads(out) if row["columns"][f"t:x.{reducer}"] is not None] == ["d"]
    assert [line.split(": ", 1)[1] for line in err.splitlines()] == [
        f"w/a: t:x.{reducer}: no {reducer} of values of float and str",
        f"w/b: t:x.{reducer}: no {reducer} of values of bool and int",
        f"w/c: t:x.{reducer}: no {reducer} of values of dict",
    ]


def test_numbers_come_before_texts(cli: Any, tmp_path: Path) -> None:
    for name, value in {"a": "x", "b": 10.5, "c": 2**70, "d": "10", "e": 9.5, "f": 2**60}.items():
        with Session(name, "w", tmp_path) as session:
            session.track("t").append(x="first").append(x=value).append(n=1)
    assert names(ls(cli, tmp_path, "--sort", "t:x")) == ["e", "b", "f", "c", "d", "a"]
