"""The runs of a lake as a frame with their parameters: types, names that meet, damage, and one expression over runs."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from s3.proxy import Proxy
from s3.server import S3Server

from dreamlake import Lake, Session
from dreamlake.errors import CorruptTrackError


def write(root: Path, name: str, parameters: dict[str, Any], **options: Any) -> None:
    with Session(name, "w", root, **options) as session:
        session.parameters().set(**parameters)


def test_a_row_a_run_and_a_column_a_parameter(lake_dir: Path) -> None:
    before = datetime.now(UTC)
    write(lake_dir, "a", {"lr": 0.1, "opt": {"name": "adam"}}, tags=["x", "y"], description="first", folder="sweep")
    write(lake_dir, "b", {"lr": 1, "layers": 3})
    sessions = Lake(lake_dir).sessions()
    assert [info["name"] for info in sessions] == ["a", "b"]
    frame = sessions.to_polars()
    assert frame.columns[:8] == [
        "_workspace", "_session", "_status", "_createdAt", "_updatedAt", "_tags", "_description", "_folder",
    ]  # fmt: skip
    assert frame.select("_session", "_status", "_tags", "_description", "_folder").rows() == [
        ("a", "finished", ["x", "y"], "first", "sweep"),
        ("b", "finished", [], None, None),
    ]
    assert before <= frame["_createdAt"].min() <= frame["_updatedAt"].max() <= datetime.now(UTC)
    assert frame.select("lr", "opt.name", "layers").rows() == [(0.1, "adam", None), (1.0, None, 3)]
    assert frame.schema["lr"] == pl.Float64
    assert frame.schema["layers"] == pl.Int64


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2, None], pl.Int64, [1, 2, None]),
        ([[1, 0], [0.5, 0.25]], pl.List(pl.Float64), [[1.0, 0.0], [0.5, 0.25]]),
        ([[True, False], [2, 0]], pl.String, ["[true,false]", "[2,0]"]),
        ([[{"conv": 3}], [{"lstm": 64}]], pl.String, ['[{"conv":3}]', '[{"lstm":64}]']),
        ([[[1]], [["x"]]], pl.String, ["[[1]]", '[["x"]]']),
        ([10**400, 0.5], pl.String, [str(10**400), "0.5"]),
        (
            [datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 12, tzinfo=UTC)],
            pl.String,
            ['{"$date":"2026-01-01T12:00:00.000000"}', '{"$date":"2026-01-01T12:00:00.000000+00:00"}'],
        ),
        ([1, 0.5], pl.Float64, [1.0, 0.5]),
        ([math.inf, 1], pl.Float64, [math.inf, 1.0]),
        ([2**53 + 1, 0.5], pl.String, ["9007199254740993", "0.5"]),
        ([True, 1], pl.String, ["true", "1"]),
        (["a", 1], pl.String, ['"a"', "1"]),
        (["a", "1"], pl.String, ["a", "1"]),
        ([[1, 2], [3]], pl.List(pl.Int64), [[1, 2], [3]]),
        ([[1, "a"], [3]], pl.String, ['[1,"a"]', "[3]"]),
        ([2**100, 1], pl.String, [str(2**100), "1"]),
        ([None, None], pl.Null, [None, None]),
    ],
)
def test_types(lake_dir: Path, values: list[Any], kind: Any, expected: list[Any]) -> None:
    for number, value in enumerate(values):
        write(lake_dir, f"run {number}", {"p": value})
    column = Lake(lake_dir).sessions().to_polars()["p"]
    assert column.dtype == kind
    assert column.to_list() == expected


def test_a_parameter_named_as_a_column_of_its_own(lake_dir: Path) -> None:
    write(lake_dir, "a", {"_session": 1, "status": "x"})
    frame = Lake(lake_dir).sessions().to_polars()
    assert frame.select("_session", "parameters._session", "status").rows() == [("a", 1, "x")]


def test_names_that_are_taken_twice(lake_dir: Path) -> None:
    write(lake_dir, "a", {"x": 1, "parameters": {"x": 2, "y": 3}, "y": 4})
    with Session("a", "w", lake_dir) as session:
        session.track("t").append(x=5, **{"parameters.y": 6}, y=7)
        session.parameters().set(_status=8, **{"parameters._status": 9})
    frame = Lake(lake_dir).scan("t", parameters=["x", "parameters.x", "parameters.y", "y"]).collect()
    own = {"_workspace": "w", "_session": "a", "_index": 0, "_ts": frame["_ts"][0]}
    assert frame.row(0, named=True) == {
        **own,
        "x": 5,
        "parameters.y": 6,
        "y": 7,
        "parameters.parameters.x": 1,
        "parameters.x": 2,
        "parameters.parameters.y": 3,
        "parameters.parameters.parameters.y": 4,
    }
    listed = Lake(lake_dir).sessions().to_polars().row(0, named=True)
    assert listed["_status"] == "finished"
    assert listed["parameters.parameters._status"] == 8
    assert listed["parameters._status"] == 9


def test_a_parameter_without_a_name_keeps_that(lake_dir: Path) -> None:
    """Polars would call it by its place, column_8, as another one may be called."""
    write(lake_dir, "a", {"": 1, "column_8": 2, "column_0": 3})
    frame = Lake(lake_dir).sessions().to_polars()
    assert frame.select("", "column_8", "column_0").row(0, named=True) == {"": 1, "column_8": 2, "column_0": 3}
    own = Lake(lake_dir).session("a", "w").parameters().to_polars()
    assert own.row(0, named=True) == {"": 1, "column_8": 2, "column_0": 3}
    with Session("b", "w", lake_dir) as session:
        assert session.parameters().to_polars().shape == (0, 0)


def test_no_run_and_none_with_parameters(lake_dir: Path) -> None:
    assert Lake(lake_dir).sessions().to_polars().shape == (0, 8)
    with Session("a", "w", lake_dir) as session:
        session.track("t").append(x=1)
    assert Lake(lake_dir).sessions().to_polars().shape == (1, 8)


def test_damaged_parameters_are_raised_or_left_out(lake_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(lake_dir, "a", {"lr": 1})
    write(lake_dir, "b", {"lr": 2})
    (lake_dir / "w" / "a" / "parameters.json").write_text("{")
    with pytest.raises(CorruptTrackError, match=r"parameters\.json"):
        Lake(lake_dir).sessions().to_polars()
    assert Lake(lake_dir).sessions().to_polars(errors="skip")["lr"].to_list() == [None, 2]
    assert "skipped" in caplog.text
    with pytest.raises(ValueError, match='"raise" or "skip"'):
        Lake(lake_dir).sessions().to_polars(errors="no")  # type: ignore[arg-type]


def test_the_best_of_some_runs_in_one_expression(lake_dir: Path) -> None:
    for number in range(6):
        with Session(f"run {number}", "w", lake_dir) as session:
            session.parameters().set(lr=number / 100)
            session.track("val_loss").append_batch([{"value": abs(number - 4) + 1 / (1 + step)} for step in range(5)])
    lake = Lake(lake_dir)
    chosen = lake.sessions().to_polars().lazy().filter(pl.col("lr") > 0.02)
    best = (
        lake.scan("val_loss")
        .join(chosen, on=["_workspace", "_session"])
        .group_by("_session", "lr")
        .agg(pl.col("value").min())
        .sort("value")
        .collect()
    )
    assert best.rows()[0] == ("run 4", 0.04, 0.2)
    assert {row[0] for row in best.rows()} == {"run 3", "run 4", "run 5"}


def test_from_s3_in_few_requests(lake_dir: Path, s3_server: S3Server, s3_proxy: Proxy, s3_url: str) -> None:
    for number in range(10):
        options = s3_server.options()
        with Session(f"run {number}", "w", lake_dir, remote=s3_url, storage_options=options) as session:
            session.parameters().set(lr=number)
    with s3_proxy.counting() as requests:
        frame = Lake(s3_url, s3_server.options(s3_proxy.endpoint)).sessions().to_polars()
    assert frame["lr"].to_list() == list(range(10))
    assert len(requests) <= 10 * 5 + 5, json.dumps([str(request) for request in requests])
