"""DuckDB's own reader of Iceberg, over a table that two more runs were added to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dreamlake import Session

duckdb = pytest.importorskip("duckdb")
extensions = pytest.importorskip("duckdb_extensions")
pytest.importorskip("pyiceberg")

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """PyIceberg keeps threads for the whole process."""


def write(lake: Path, name: str, count: int = 250, **more: Any) -> None:
    with Session(name, "w", lake, segment_points=100) as session:
        for i in range(count):
            session.track("train").append(loss=i * 0.5, step=i, _ts=1000.0 + i, **more)


def test_duckdb_reads_the_table_as_runs_are_added(lake_dir: Path, tmp_path: Path) -> None:
    from dreamlake.integrations.iceberg import register

    connection = duckdb.connect()
    for name in ("avro", "iceberg"):
        extensions.import_extension(name, con=connection)
        connection.execute(f"load {name}")

    def read(columns: str, where: str = "true") -> Any:
        table = register(lake_dir, "train", catalog=tmp_path / "iceberg", copy=True).table
        query = (
            f"select {columns} from iceberg_scan('{table.metadata_location}') where {where} group by all order by all"
        )
        return connection.sql(query).fetchall()

    write(lake_dir, "run: 50%")
    assert read("_workspace, _session, count(*), sum(loss)") == [("w", "run: 50%", 250, sum(range(250)) / 2)]
    write(lake_dir, "b", note="ü")
    write(lake_dir, "c", 100)
    counts = [("b", 250, 250), ("c", 100, 0), ("run: 50%", 250, 0)]
    assert read("_session, count(*), count(note)") == counts
    with Session("c", "w", lake_dir, segment_points=100) as session:
        session.track("train").append(note="late", _ts=1005.0)
    assert read("_session, _index, loss, note", "_session = 'c' and _index in (4, 5)") == [
        ("c", 4, 2.0, None),
        ("c", 5, 2.5, "late"),
    ]
    connection.close()
