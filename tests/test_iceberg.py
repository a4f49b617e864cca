"""A track as an Iceberg table, read by PyIceberg: the segments themselves, each once, and what left the lake gone."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table
from pyiceberg.utils.concurrent import ExecutorFactory
from s3.server import S3Server
from support import run_python, start_python

from dreamlake import Lake, Session
from dreamlake.errors import CorruptTrackError, SessionNotFoundError, TrackNotFoundError
from dreamlake.integrations import iceberg
from dreamlake.integrations.iceberg import Registered, register, sqlite_catalog

UTC = dt.UTC


@pytest.fixture(autouse=True)
def no_workers() -> Iterator[None]:
    """Ends the threads that PyIceberg keeps for the whole process."""
    yield
    ExecutorFactory.get_or_create().shutdown()
    ExecutorFactory._instance = None


@pytest.fixture
def run(lake_dir: Path) -> Callable[..., Any]:
    """Writes a run, or goes on with it: 100 points a segment."""

    def write(
        name: str, count: int = 250, point: Callable[[int], dict[str, Any]] | None = None, start: int = 0
    ) -> None:
        with Session(name, "w", lake_dir, segment_points=100) as session:
            for i in range(start, start + count):
                session.track("train").append(**(point(i) if point else {"loss": i * 0.5, "step": i}))

    return write


@pytest.fixture
def registered(lake_dir: Path, tmp_path: Path) -> Callable[..., Registered]:
    def call(**options: Any) -> Registered:
        return register(lake_dir, "train", **{"catalog": tmp_path / "iceberg", **options})

    return call


def rows(table: Table, *columns: str, where: str = "") -> list[tuple[Any, ...]]:
    """What PyIceberg reads, sorted by run and index."""
    chosen = ("_session", "_index", *columns)
    scan = table.scan(selected_fields=chosen, **({"row_filter": where} if where else {}))
    return sorted((tuple(row[name] for name in chosen) for row in scan.to_arrow().to_pylist()), key=lambda row: row[:2])


def data_files(table: Table) -> list[str]:
    files: list[str] = table.inspect.data_files()["file_path"].to_pylist() if table.current_snapshot() else []
    return sorted(files)


def expected(names: list[str], count: int = 200) -> list[tuple[Any, ...]]:
    return [(name, i, i * 0.5, i) for name in names for i in range(count)]


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------------ what is new


def test_segments_are_registered_where_they_lie_and_later_runs_added(
    run: Any, registered: Any, lake_dir: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        run(name)
    before = tree(lake_dir)
    first = registered()
    assert (first.added, first.removed, first.copied, first.files, first.points, first.left_out) == (
        4,
        0,
        0,
        4,
        400,
        100,
    )
    assert rows(first.table, "loss", "step") == expected(["a", "b"])
    again = registered()
    assert (again.added, again.removed, again.files) == (0, 0, 4)
    assert len(again.table.snapshots()) == 1, "nothing is new, so there is no new snapshot"
    for name in ("c", "d"):
        run(name)
    more = registered()
    assert (more.added, more.removed, more.files, more.points) == (4, 0, 8, 800)
    assert rows(more.table, "loss", "step") == expected(["a", "b", "c", "d"])
    assert len(more.table.snapshots()) == 2
    files = [f"file://{file}" for name in "abcd" for file in Lake(lake_dir).session(name, "w").track("train").files()]
    assert data_files(more.table) == sorted(files)
    assert list(tmp_path.glob("iceberg/**/*.parquet")) == [], "nothing was copied"
    after = tree(lake_dir)
    assert {path: after[path] for path in before} == before, "the lake is never written to"
    assert all(path.startswith(("w/c/", "w/d/")) for path in after.keys() - before.keys())


def test_a_filter_on_run_and_index_opens_only_the_files_it_needs(run: Any, registered: Any) -> None:
    for name in ("a", "b", "c"):
        run(name)
    table = registered().table
    where = "_session = 'b' and _index >= 150"
    assert len(list(table.scan(row_filter=where).plan_files())) == 1
    assert rows(table, "loss", where=where) == [("b", i, i * 0.5) for i in range(150, 200)]
    assert len(list(table.scan(row_filter="_workspace = 'other'").plan_files())) == 0


def test_what_a_late_field_replaced_is_replaced(run: Any, registered: Any, lake_dir: Path) -> None:
    run("a", 200, lambda i: {"loss": i * 0.5, "_ts": 1000.0 + i})
    registered()
    with Session("a", "w", lake_dir, segment_points=100) as session:
        session.track("train").append(note="late", _ts=1005.0)
    done = registered()
    assert (done.added, done.removed) == (1, 1)
    assert [path.rpartition("/")[2] for path in data_files(done.table)] == [
        "000000000000-000000000100.1.parquet",
        "000000000100-000000000200.parquet",
    ]
    assert rows(done.table, "note")[5] == ("a", 5, "late")
    assert rows(done.table, "loss") == [("a", i, i * 0.5) for i in range(200)]


def test_what_a_compaction_merged_is_merged(run: Any, registered: Any, lake_dir: Path) -> None:
    run("a", 2_050)
    assert registered().files == 20
    with Session("a", "w", lake_dir, segment_points=100) as session:
        session.track("train").compact()
    done = registered()
    assert (done.added, done.removed, done.files) == (2, 20, 2)
    assert rows(done.table, "loss", "step") == expected(["a"], 2_000)


def test_a_run_that_was_deleted_leaves_the_table(run: Any, registered: Any, lake_dir: Path) -> None:
    for name in ("a", "b"):
        run(name)
    registered()
    for path in sorted((lake_dir / "w" / "a").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    done = registered()
    assert (done.added, done.removed) == (0, 2)
    assert rows(done.table, "loss", "step") == expected(["b"])


def test_only_the_runs_that_are_asked_for_are_touched(run: Any, registered: Any, lake_dir: Path) -> None:
    for name in ("a", "b"):
        run(name)
    assert registered(sessions="a").files == 2
    assert registered(sessions=["b"], workspace="w").added == 2
    assert rows(registered().table, "loss", "step") == expected(["a", "b"])
    with pytest.raises(SessionNotFoundError, match="'c'"):
        registered(sessions=["c"])
    with pytest.raises(TrackNotFoundError, match="'val'"):
        register(lake_dir, "val", catalog=lake_dir.parent / "iceberg")


def test_a_run_in_progress_counts_once_its_segments_stay(
    lake_dir: Path, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session("live", "w", lake_dir, segment_points=100) as session:
        session.track("train").append_batch([{"loss": 0.5} for _ in range(250)])
        done = registered()
        assert (done.files, done.points, done.left_out) == (0, 0, 250)
        monkeypatch.setattr(iceberg, "USUAL_POINTS", 1)  # so that 100 points are as wide as it gets
        assert registered().points == 200
        monkeypatch.undo()
        assert (registered().removed, registered().points) == (0, 200)
    assert registered().points == 200


def test_a_run_that_goes_on_keeps_what_the_table_has_of_it(lake_dir: Path, run: Any, registered: Any) -> None:
    run("a")
    assert registered(copy=True).points == 250
    with Session("a", "w", lake_dir, segment_points=100) as session:
        for i in range(250, 400):
            session.track("train").append(loss=i * 0.5, step=i)
        session.flush()
        done = registered(copy=True)  # without the copied points, which are in a segment now
        assert (done.points, done.left_out) == (200, 200)
        assert rows(done.table, "loss", "step") == expected(["a"], 200)
    assert rows(registered(copy=True).table, "loss", "step") == expected(["a"], 400)


def test_a_track_without_points_makes_an_empty_table(lake_dir: Path, registered: Any) -> None:
    with Session("a", "w", lake_dir) as session:
        session.track("train", description="nothing yet")
    done = registered()
    assert (done.files, done.points, done.left_out) == (0, 0, 0)
    assert done.table.current_snapshot() is None


# ------------------------------------------------------------------------------------------------ columns


def test_fields_that_come_later_are_columns_that_come_later(run: Any, registered: Any) -> None:
    run("a", 100)
    registered()
    run("b", 100, lambda i: {"loss": 1.0, "accuracy": 0.5, "pose": [1.0, 2.0]})
    table = registered().table
    assert [field.name for field in table.schema().fields] == [
        *("_workspace", "_session", "_index", "_ts", "loss", "step", "accuracy", "pose")
    ]
    assert rows(table, "step", "accuracy", "pose")[99:101] == [
        ("a", 99, 99, None, None),
        ("b", 0, None, 0.5, [1.0, 2.0]),
    ]


def test_values_of_all_types(run: Any, registered: Any) -> None:
    zone = dt.timezone(dt.timedelta(hours=2))
    point = {
        "flag": True,
        "count": 2**60,
        "nan": float("nan"),
        "text": "ä\0b",
        "raw": b"\x00\xff",
        "naive": dt.datetime(2026, 5, 1, 12),
        "zoned": dt.datetime(2026, 5, 1, 12, tzinfo=zone),
        "nested": {"a": [1, 2], "b": {"c": "x"}},
        "val.loss": 0.5,
        "train/ü loss": 0.25,
    }
    run("run: 50% [a=1]/ü", 100, lambda i: point)
    table = registered().table
    (session, _, *values) = rows(table, *point)[7]
    assert session == "run: 50% [a=1]/ü"
    found = dict(zip(point, values, strict=True))
    assert str(found.pop("nan")) == "nan"
    assert found.pop("zoned") == point["zoned"]
    assert found == {name: value for name, value in point.items() if name not in ("nan", "zoned")}
    assert table.scan(row_filter="count > 5").count() == 100


def test_none_is_told_apart_from_absent(run: Any, registered: Any) -> None:
    run("a", 100, lambda i: {"loss": None if i == 3 else 1.0})
    assert rows(registered().table, "loss", "_none")[2:5] == [
        ("a", 2, 1.0, None),
        ("a", 3, None, ["loss"]),
        ("a", 4, 1.0, None),
    ]


MISFITS = [
    pytest.param(lambda i: {"loss": i}, "'loss' is long there, and double in the table", id="integers"),
    pytest.param(lambda i: {"loss": 0.5, "extra": {} if i % 2 else {"a": i}}, "'extra' is JSON", id="json"),
    pytest.param(lambda i: {"loss": 0.5, "extra": None}, "'extra' has no value", id="nulls"),
    pytest.param(lambda i: {"loss": 0.5, "extra": []}, "'extra' has no value", id="empty lists"),
]


@pytest.mark.parametrize(("point", "said"), MISFITS)
def test_what_does_not_fit_is_told_and_copied_when_asked(
    run: Any, registered: Any, tmp_path: Path, point: Any, said: str
) -> None:
    run("a", 100)
    registered()
    run("b", 200, point)
    with pytest.raises(ValueError, match=f"2 segments do not fit .*{said}.*copy=True"):
        registered()
    table = registered(sessions="a").table
    assert len(table.snapshots()) == 1
    done = registered(copy=True)
    assert (done.added, done.removed, done.copied) == (2, 0, 2)
    assert len(list(tmp_path.glob("iceberg/**/copies/**/*.parquet"))) == 2
    assert [row[2] for row in rows(done.table, "loss")[100:]] == [point(i)["loss"] for i in range(200)]
    again = registered(copy=True)
    assert (again.added, again.removed, again.copied) == (0, 0, 0)


def test_json_is_text_that_says_so(run: Any, registered: Any) -> None:
    values = [{}, {"a": 1}, "text", 2**70, [1, "b"]]
    run("a", 100, lambda i: {"mixed": values[i % 5]})
    table = registered(copy=True).table
    assert table.schema().find_field("mixed").doc == "JSON text"
    assert [json.loads(row[2]) for row in rows(table, "mixed")[:5]] == values
    run("b", 100, lambda i: {"mixed": i})
    assert rows(registered(copy=True).table, "mixed")[107] == ("b", 7, "7")


def test_what_cannot_be_converted_is_refused(run: Any, registered: Any) -> None:
    run("a", 100, lambda i: {"loss": i})
    registered(copy=True)
    run("b", 100)
    with pytest.raises(ValueError, match=r"'loss' holds what does not fit into the long column.*new table"):
        registered(copy=True)
    done = registered(copy=True, table="other.train")
    assert (done.copied, done.points) == (1, 200)
    assert rows(done.table, "loss") == [("a", i, float(i)) for i in range(100)] + [
        ("b", i, i * 0.5) for i in range(100)
    ]


def test_big_integers_never_become_doubles(run: Any, registered: Any) -> None:
    run("a", 100)
    registered(copy=True)
    run("b", 100, lambda i: {"loss": 2**53 + 1})
    with pytest.raises(ValueError, match="'loss' holds what does not fit into the double column"):
        registered(copy=True)


# ------------------------------------------------------------------------------------------------ the newest points


def test_the_newest_points_are_copied_when_asked(run: Any, registered: Any, tmp_path: Path) -> None:
    run("a")
    run("short", 30)
    assert (registered().points, registered().left_out) == (200, 80)
    done = registered(copy=True)
    assert (done.added, done.copied, done.points, done.left_out) == (2, 2, 280, 0)
    assert rows(done.table, "loss", "step") == expected(["a"], 250) + expected(["short"], 30)
    assert registered(copy=True).added == 0
    run("a", 100, start=250)  # the run goes on: 50 of its points are in a segment now, and 50 others are the newest
    done = registered(copy=True)
    assert (done.added, done.removed, done.copied) == (2, 1, 1)
    assert rows(done.table, "loss", "step") == expected(["a"], 350) + expected(["short"], 30)
    done = registered()
    assert (done.added, done.removed, done.left_out) == (0, 2, 80)
    assert rows(done.table, "loss", "step") == expected(["a"], 300)


def test_a_field_of_a_copied_point_that_comes_late(run: Any, registered: Any, lake_dir: Path) -> None:
    run("a", 30, lambda i: {"loss": i * 0.5, "_ts": 1000.0 + i})
    registered(copy=True)
    with Session("a", "w", lake_dir, segment_points=100) as session:
        session.track("train").append(loss=7.0, _ts=1003.0)
    done = registered(copy=True)
    assert (done.added, done.removed) == (1, 1)
    assert [row[2] for row in rows(done.table, "loss")] == [7.0 if i == 3 else i * 0.5 for i in range(30)]


# ------------------------------------------------------------------------------------------------ at once, and crashes

AT_ONCE = """
import sys
from dreamlake.integrations.iceberg import register
sys.stdin.readline()
print(register(sys.argv[1], "train", catalog=sys.argv[2]).files)
"""


def test_several_at_once_register_each_file_once(run: Any, registered: Any, lake_dir: Path, tmp_path: Path) -> None:
    for name in "abcd":
        run(name)
    with ExitStack() as stack:
        several = [stack.enter_context(start_python(AT_ONCE, lake_dir, tmp_path / "iceberg")) for _ in range(4)]
        for process in several:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in several:
            out, err = process.communicate(timeout=120)
            assert (process.returncode, out) == (0, "8\n"), err
    done = registered()
    assert (done.added, done.removed) == (0, 0)
    assert len(data_files(done.table)) == len(set(data_files(done.table))) == 8
    assert rows(done.table, "loss", "step") == expected(list("abcd"))


def test_a_change_that_comes_first_makes_it_begin_anew(
    run: Any, registered: Any, lake_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("a")
    registered()
    run("b")
    real, calls = iceberg._Registration._commit, []

    def late(self: Any, table: Table, new: Any, gone: Any) -> int:
        if not calls:
            calls.append(table)
            run_python(AT_ONCE.replace("sys.stdin.readline()", ""), lake_dir, tmp_path / "iceberg")
        return real(self, table, new, gone)

    monkeypatch.setattr(iceberg._Registration, "_commit", late)
    done = registered()
    assert calls
    assert done.files == 4
    assert rows(done.table, "loss", "step") == expected(["a", "b"])


def test_another_makes_the_namespace_between_the_look_and_the_insert(
    run: Any, registered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("a")
    real = SqlCatalog.namespace_exists
    looks = []

    def late(self: SqlCatalog, identifier: Any) -> bool:
        found = real(self, identifier)
        if not looks:
            with closing(sqlite3.connect(tmp_path / "iceberg" / "catalog.db")) as database, database:
                database.execute(
                    "INSERT INTO iceberg_namespace_properties VALUES ('dreamlake', 'dreamlake', 'exists', 'true')"
                )
        looks.append(found)
        return found

    monkeypatch.setattr(SqlCatalog, "namespace_exists", late)
    assert registered().files == 2
    assert looks[:2] == [False, True]


def test_a_namespace_that_cannot_be_made_is_said(run: Any, registered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run("a")

    def refused(*args: Any) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(SqlCatalog, "create_namespace", refused)
    with pytest.raises(PermissionError, match="not yours"):
        registered()


KILLED = """
import os, sys
from pyiceberg.catalog.sql import SqlCatalog
from dreamlake.integrations.iceberg import register
real = SqlCatalog.commit_table
def commit(*args, **kwargs):
    if sys.argv[3] == "after":
        real(*args, **kwargs)
    os.kill(os.getpid(), 9)
SqlCatalog.commit_table = commit
register(sys.argv[1], "train", catalog=sys.argv[2], copy=True)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_half_way_it_is_done_by_the_next_one(
    run: Any, registered: Any, lake_dir: Path, tmp_path: Path, when: str
) -> None:
    run("a")
    died = run_python(KILLED, lake_dir, tmp_path / "iceberg", when, check=False)
    assert died.returncode == -signal.SIGKILL
    done = registered(copy=True)
    assert done.added == (3 if when == "before" else 0)
    assert rows(done.table, "loss", "step") == expected(["a"], 250)
    assert len(data_files(done.table)) == 3


# ------------------------------------------------------------------------------------------------ places and refusals


@pytest.fixture
def on_s3(s3_server: S3Server, s3_url: str, tmp_path: Path) -> Iterator[Lake]:
    with Session(
        "a", "w", tmp_path / "here", remote=s3_url, storage_options=s3_server.options(), segment_points=100
    ) as session:
        for i in range(250):
            session.track("train").append(loss=i * 0.5, step=i)
    lake = Lake(s3_url, s3_server.options())
    yield lake
    lake._store.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("warehouse", ["here", "there"])
def test_a_lake_on_s3(on_s3: Lake, s3_server: S3Server, s3_url: str, tmp_path: Path, warehouse: str) -> None:
    """Its files by their URLs; the table's own on the local disk, or on S3 too."""
    options = s3_server.options()
    place = f"{s3_url}-iceberg" if warehouse == "there" else None
    catalog = sqlite_catalog(tmp_path / "iceberg", warehouse=place, storage_options=options)
    done = register(on_s3, "train", catalog=catalog, copy=True)
    assert (done.added, done.copied, done.left_out) == (3, 1, 0)
    assert done.table.metadata_location.startswith(place or "file://")
    assert rows(done.table, "loss", "step") == expected(["a"], 250)
    assert data_files(done.table)[-1] == f"{s3_url}/w/a/tracks/train/000000000100-000000000200.parquet"
    assert register(on_s3, "train", catalog=catalog, copy=True).added == 0
    catalog.engine.dispose()
    secrets = [path for path in (tmp_path / "iceberg").rglob("*") if path.is_file()]
    assert not [path for path in secrets if s3_server.options()["secret"].encode() in path.read_bytes()]  # type: ignore[attr-defined]


def test_the_options_of_the_lake_are_those_of_its_own_catalogue(on_s3: Lake, tmp_path: Path) -> None:
    assert register(on_s3, "train", catalog=tmp_path / "iceberg").points == 200


def test_a_table_belongs_to_one_track_of_one_lake(run: Any, registered: Any, lake_dir: Path, tmp_path: Path) -> None:
    run("a")
    with Session("a", "w", lake_dir) as session:
        session.track("Train!").append(loss=1.0)
        session.track("train!").append(loss=1.0)
    registered()
    with pytest.raises(ValueError, match=r"other one \(table=\)"):
        register(lake_dir, "train!", catalog=tmp_path / "iceberg", table="dreamlake.train")
    register(lake_dir, "Train!", catalog=tmp_path / "iceberg")
    with pytest.raises(ValueError, match=r"that of 'Train!', and not of 'train!'"):
        register(lake_dir, "train!", catalog=tmp_path / "iceberg")
    with pytest.raises(ValueError, match="namespace"):
        registered(table="train")
    catalog = sqlite_catalog(tmp_path / "iceberg")
    catalog.create_table("dreamlake.mine", schema=iceberg.BASE)
    with pytest.raises(ValueError, match="none that register made"):
        registered(catalog=catalog, table="dreamlake.mine")
    catalog.engine.dispose()


def test_places_that_no_engine_finds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no engine finds files by 'memory://"):
        register("memory://lake", "train", catalog=tmp_path / "iceberg")
    with pytest.raises(ValueError, match="'#'"):
        register(tmp_path / "run#1", "train", catalog=tmp_path / "iceberg")


def test_engines_are_told_to_delete_no_file(run: Any, registered: Any) -> None:
    run("a")
    assert registered().table.properties["gc.enabled"] == "false"


def test_a_damaged_footer_is_told(run: Any, registered: Any, lake_dir: Path) -> None:
    run("a")
    file = Path(Lake(lake_dir).session("a", "w").track("train").files()[1])
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptTrackError, match=r"000000000100-000000000200\.parquet"):
        registered()


def test_polars_reads_the_table(run: Any, registered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl

    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")
    run("a")
    run("b", 100, lambda i: {"loss": 1.0, "more": "x"})
    frame = pl.scan_iceberg(registered().table).group_by("_session").agg(pl.len(), pl.col("loss").max(), "more")
    found = {name: (count, most, set(more)) for name, count, most, more in frame.collect().iter_rows()}
    assert found == {"a": (200, 99.5, {None}), "b": (100, 1.0, {"x"})}
