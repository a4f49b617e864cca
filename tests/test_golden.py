"""Runs that earlier versions wrote are read to the bit, in every way of reading, and go on: see golden/README.md."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from golden.exact import pack, unpack
from golden.make import HERE, URL, WIDE, WIDE_BEHIND, WIDE_LATE, wide_points
from model import ModelTrack
from polars.testing import assert_frame_equal
from s3.server import S3Server
from test_format_doc import reader
from values import same

from dreamlake import Lake, Session
from dreamlake.engine.replica import state
from dreamlake.format import layout
from dreamlake.storage.remote import RemoteStore

ALL = sorted(path.parent for path in HERE.glob("*/expected.json"))
LONG = [path for path in ALL if path.name.endswith("-long")]
SETS = [path for path in ALL if path not in LONG]


class Golden:
    """A copy of one set, and what it holds."""

    def __init__(self, source: Path, root: Path) -> None:
        self.root = root
        shutil.copytree(source, root)
        for path in root.rglob("*"):
            os.utime(path, (1.79e9, 1.79e9))  # a checkout of just now looks like a run of just now
        self.expected = json.loads((root / "expected.json").read_text(encoding="utf-8"))

    def tracks(self, lake: Lake, part: str = "lake") -> Iterator[tuple[Any, list[dict[str, Any]], dict[str, Any]]]:
        """Each track of the set in a lake, its points, and all that is expected of it."""
        for key, session in self.expected[part].items():
            workspace, name = key.split("\n")
            view = lake.session(name, workspace)
            for track, about in session["tracks"].items():
                yield view.track(track), [unpack(point) for point in about["points"]], about

    def files(self) -> dict[str, tuple[bytes, int]]:
        """Every file with its content and its time of change."""
        found = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.fixture(params=SETS, ids=lambda path: path.name)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    return Golden(request.param, tmp_path / "golden")


def test_there_is_a_set_and_it_is_small() -> None:
    assert SETS
    assert LONG
    for folder in ALL:
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 350_000


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_every_value_is_as_it_was_written(golden: Golden, scheme: str) -> None:
    before = golden.files()
    lake = Lake(f"{scheme}{golden.root}/lake")
    expected = golden.expected["lake"]
    assert [f"{info['workspace']}\n{info['name']}" for info in lake.sessions()] == sorted(expected)
    for key, session in expected.items():
        workspace, name = key.split("\n")
        view = lake.session(name, workspace)
        info = unpack(session["info"])
        assert pack(dict(view.info)) == pack(info | {"status": info["status"].replace("running", "lost")})
        assert pack(view.parameters().get()) == session["parameters"]
        assert [pack(row) for row in view.logs().to_dicts()] == session["logs"]
        assert view.tracks.list() == list(session["tracks"])
    count = 0
    for track, points, about in golden.tracks(lake):
        assert pack(dict(track.stats())) == about["stats"]
        assert len(track) == len(points)
        whole = track.read(limit=None)
        assert [pack(point["data"]) for point in whole["data"]] == about["points"]
        assert [point["index"] for point in whole["data"]] == list(range(len(points)))
        for start in range(0, len(points), 7):
            part = track.read(start, 7)
            assert [pack(point["data"]) for point in part["data"]] == about["points"][start : start + 7]
        assert [pack(point["data"]) for point in track.read(-5)["data"]] == about["points"][-5:]
        count += len(points)
    assert count > 200
    assert golden.files() == before, "reading has written"


def test_by_time(golden: Golden) -> None:
    for track, points, _ in golden.tracks(Lake(golden.root / "lake")):
        ordered = sorted(enumerate(points), key=lambda pair: (pair[1]["_ts"], pair[0]))
        stamps = [point["_ts"] for point in points] or [0.0]
        low, high = min(stamps) + 1.0, max(stamps)
        for reverse in (False, True):
            found = track.read_by_time(low, high, limit=None, reverse=reverse)["data"]
            wanted = [pair for pair in ordered if low <= pair[1]["_ts"] < high]
            wanted = wanted[::-1] if reverse else wanted
            assert [(p["index"], pack(p["data"])) for p in found] == [(index, pack(point)) for index, point in wanted]


def test_frames(golden: Golden) -> None:
    for track, points, about in golden.tracks(Lake(golden.root / "lake")):
        table, frame = track.to_arrow(), track.to_polars()
        kinds = dict(unpack(about["stats"])["fields"])
        assert table.column_names == ["_index", "_ts", *kinds]
        assert table["_index"].to_pylist() == list(range(len(points)))
        for name in ("_ts", *kinds):
            column = table[name]
            cells = column.cast(reader.plain(column.type)).to_pylist()
            if kinds.get(name) == "json":
                cells = [None if cell is None else reader.from_json(json.loads(cell)) for cell in cells]
            for cell, point in zip(cells, points, strict=True):
                assert same(cell, _in_column(point.get(name), column.type, kinds.get(name))), (track.name, name)
            series = frame[name] if frame[name].dtype == pl.Boolean else frame[name].to_physical()
            assert same(series.to_list(), column.cast(reader.plain(column.type)).to_pylist()), (track.name, name)
        assert_frame_equal(frame, track.scan().collect())
        assert_frame_equal(frame.slice(3, 9), track.scan(3, 9).collect())
        pandas = track.to_pandas()
        assert pandas["_ts"].tolist() == [point["_ts"] for point in points]
        assert (list(pandas.columns), len(pandas)) == (table.column_names, len(points))


def _in_column(value: Any, kind: pa.DataType, logical: str | None) -> Any:
    """A value as its column holds it: numbers widened, times as microseconds since the epoch."""
    if value is None or logical == "json":
        return value
    if isinstance(value, list):
        return [_in_column(item, kind.value_type, logical) for item in value]
    if isinstance(value, dict):
        return {field.name: _in_column(value[field.name], field.type, logical) for field in kind}
    if isinstance(value, dt.datetime):
        return (value - dt.datetime(1970, 1, 1, tzinfo=value.tzinfo and dt.UTC)) // dt.timedelta(microseconds=1)
    return float(value) if pa.types.is_float64(kind) else value


def test_many_runs_in_one_frame(golden: Golden) -> None:
    frame = Lake(golden.root / "lake").scan("t", workspace="golden").collect()
    assert frame.select("_session", "_index", "i").rows() == [("failed", 0, 1), ("interrupted", 0, 1)]


def test_the_reader_of_the_docs_agrees(golden: Golden) -> None:
    for key, session in golden.expected["lake"].items():
        folder = golden.root / "lake" / layout.session_dir(*key.split("\n"))
        for track, about in session["tracks"].items():
            found = reader.read_track(folder / layout.track_dir(track))
            assert [pack(point["data"]) for point in found] == about["points"]


def test_runs_go_on(golden: Golden) -> None:
    for key, expected in golden.expected["lake"].items():
        workspace, name = key.split("\n")
        models = {}
        for again in (0, 1):
            with Session(name, workspace, golden.root / "lake", segment_points=10, resume="must") as session:
                for track, about in expected["tracks"].items():
                    model = models.setdefault(track, _model(about["points"]))
                    _go_on(session, track, model, again)
                session.parameters().set(again=again)
                session.log("goes on")
        lake = Lake(golden.root / "lake")
        view = lake.session(name, workspace)
        for track, model in models.items():
            model.assert_read(view.track(track).read(limit=None))
            assert view.track(track).to_arrow().num_rows == len(model.points)
        assert view.info["status"] == "finished"
        assert view.info["createdAt"] == dict(expected["info"]["dict"])["createdAt"]
        assert pack(view.parameters().get() | {"again": 0}) == pack(unpack(expected["parameters"]) | {"again": 0})
        messages = [dict(record["dict"])["message"] for record in expected["logs"]]
        logs = view.logs()
        assert logs["message"].to_list() == [*messages, "goes on", "goes on"]
        assert logs["sequenceNumber"].to_list() == list(range(len(messages) + 2))


def _model(points: list[Any]) -> ModelTrack:
    model = ModelTrack()
    for packed in points:
        fields = unpack(packed)
        model.add({k: v for k, v in fields.items() if k != "_ts"}, fields["_ts"], automatic=True)
    return model


def _go_on(session: Session, name: str, model: ModelTrack, again: int) -> None:
    """Append until a segment is full, and a late field to the first point that was there, and to the last."""
    track = session.track(name)
    old = [point["_ts"] for point in model.points]
    count = len(model.points)
    for i in range(12):
        track.append(new=count + i, again=again)
    for point in track.read(-12)["data"]:
        model.add({"new": len(model.points), "again": again}, point["data"]["_ts"], automatic=True)
    for number, ts in enumerate({*old[:1], *old[-1:]}):
        track.append(_ts=ts, **{f"late{again}": number})
        model.add({f"late{again}": number}, ts, automatic=False)
    found = track.read(limit=None)
    stamps = [point["_ts"] for point in model.points[-12:]]
    assert stamps == sorted(set(stamps))
    assert stamps[0] > max([ts for ts in old if ts > 1.7e9], default=0.0)
    model.assert_read(found)


@pytest.fixture
def replica(golden: Golden, s3_server: S3Server, s3_url: str) -> tuple[str, dict[str, Any]]:
    """The golden replica on a server, its URL put into the state of the machine."""
    store = RemoteStore(s3_url, s3_server.options())
    for path in sorted((golden.root / "replica").rglob("*")):
        if path.is_file():
            store.create(path.relative_to(golden.root / "replica").as_posix(), path.read_bytes())
    store.close()
    for file in (golden.root / "machine").rglob(layout.REPLICA_FILE):
        file.write_text(file.read_text().replace(URL, s3_url))
    return s3_url, s3_server.options()


def _check_replica(golden: Golden, lake: Lake) -> None:
    for key, session in golden.expected["replica"].items():
        workspace, name = key.split("\n")
        view = lake.session(name, workspace)
        assert pack(view.parameters().get()) == session["parameters"]
        assert [pack(row) for row in view.logs().to_dicts()] == session["logs"]
    for track, points, about in golden.tracks(lake, "replica"):
        assert [pack(point["data"]) for point in track.read(limit=None)["data"]] == about["points"]
        assert track.scan().collect().height == len(points)
        assert pack(dict(track.stats())) == about["stats"]


def test_a_replica_of_two_machines(golden: Golden, replica: tuple[str, dict[str, Any]]) -> None:
    _check_replica(golden, Lake(golden.root / "replica"))
    lake = Lake(*replica)
    _check_replica(golden, lake)
    lake._store.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("known", [True, False], ids=["state", "no state"])
def test_a_machine_goes_on_with_its_replica(golden: Golden, replica: tuple[str, dict[str, Any]], known: bool) -> None:
    """Its segments are only on the replica, and late fields wait for them."""
    url, storage_options = replica
    machine = golden.root / "machine"
    file = next(machine.rglob(layout.REPLICA_FILE))
    before = state.load(str(file.parent))
    assert before.remotes[url].tracks["tracks/one/loss"].segments
    if not known:
        file.unlink()
    model = _model(golden.expected["machine"])
    options = {"remote": url, "storage_options": storage_options, "segment_points": 10, "sync_interval": 3600.0}
    session = Session("shared", "golden", machine, resume="must", **options)
    with session:
        track = session.track("one/loss")
        model.assert_read(track.read(limit=None))
        _go_on(session, "one/loss", model, 0)
        session.sync(60.0)
        lake = Lake(url, storage_options)
        model.assert_read(lake.session("shared", "golden").track("one/loss").read(limit=None))
        others = golden.expected["replica"]["golden\nshared"]["tracks"]["two/loss"]["points"]
        there = lake.session("shared", "golden").track("two/loss").read(limit=None)["data"]
        assert [pack(point["data"]) for point in there] == others
        lake._store.close()  # type: ignore[attr-defined]
    assert (state.load(str(file.parent)).machine == before.machine) == known
    assert session._remote is not None
    session._remote.store().close()


# -- what is long, or no series ----------------------------------------------------------------------------------------


@pytest.fixture(params=LONG, ids=lambda path: path.name)
def long(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    return Golden(request.param, tmp_path / "golden")


def _whole() -> pl.DataFrame:
    """The long track, computed anew."""
    count = WIDE + WIDE_BEHIND
    index = pl.DataFrame({"_index": range(count)}, schema={"_index": pl.Int64})
    late = pl.DataFrame({"_index": WIDE_LATE, "late": ["before", "after"]}, schema_overrides={"_index": pl.Int64})
    return index.hstack(pl.DataFrame(wide_points(0, count))).join(late, on="_index", how="left", maintain_order="left")


def test_a_merged_track_is_as_it_was_written(long: Golden) -> None:
    before = long.files()
    whole = _whole()
    track = Lake(long.root / "lake").session("wide", "golden").track("merged/steps")
    live = [Path(path).name for path in track.files()]
    assert live == ["000000000000-000000100000.1.parquet", "000000100000-000000110000.parquet"]
    assert len(track) == track.stats()["totalDataPoints"] == WIDE + WIDE_BEHIND
    assert_frame_equal(track.to_polars(), whole)
    assert_frame_equal(track.scan(9_990, 20).collect(), whole[9_990:10_010])
    assert_frame_equal(track.to_polars(99_995, 10), whole[99_995:100_005])
    for at in (*WIDE_LATE, 0, WIDE - 1, WIDE, WIDE + WIDE_BEHIND - 1):
        (point,) = track.read(at, 1)["data"]
        wanted = {name: value for name, value in whole.row(at, named=True).items() if name != "_index"}
        assert {"late": None, **point["data"]} == wanted
    found = track.read_by_time(99_998.5, 100_002.0, limit=None)["data"]
    assert [point["index"] for point in found] == [99_999, 100_000, 100_001]
    assert long.files() == before, "reading has written"


def test_the_reader_of_the_docs_agrees_about_a_merged_track(long: Golden) -> None:
    found = reader.read_track(long.root / "lake" / "golden" / "wide" / "tracks" / "merged" / "steps")
    assert [point["index"] for point in found] == list(range(WIDE + WIDE_BEHIND))
    whole = _whole()
    for name in ("_ts", "step", "loss", "phase", "q", "late"):
        assert [point["data"].get(name) for point in found] == whole[name].to_list()


def test_a_merged_track_goes_on(long: Golden) -> None:
    with Session("wide", "golden", long.root / "lake", resume="must") as session:
        track = session.track("merged/steps")
        track.append(_ts=float(WIDE_LATE[0] + 1), late="much later")
        track.append_batch(pl.DataFrame(wide_points(WIDE + WIDE_BEHIND, WIDE + WIDE_BEHIND + 10_000)))
        session.flush()
        track.compact()
    track = Lake(long.root / "lake").session("wide", "golden").track("merged/steps")
    assert len(track) == WIDE + WIDE_BEHIND + 10_000
    found = track.to_polars()
    assert found["step"].to_list() == list(range(len(track)))
    late = found.filter(pl.col("late").is_not_null()).select("_index", "late").rows()
    assert late == [(WIDE_LATE[0], "before"), (WIDE_LATE[0] + 1, "much later"), (WIDE_LATE[1], "after")]


def test_uploaded_files_are_as_they_were(long: Golden) -> None:
    expected = long.expected["files"]
    files = Lake(long.root / "lake").session("uploads", "golden").files()
    assert [pack(dict(record)) for record in files.list()] == expected["records"]
    assert [files.open(record).read().hex() for record in files.list()] == expected["contents"]
    assert files.open("/models/same.json").read() == b"new"
    with Session("uploads", "golden", long.root / "lake", resume="must") as session:
        session.files().upload(b"newer", path="/models", filename="same.json")
        assert session.files().open("/models/same.json").read() == b"newer"
        assert len(session.files().list()) == len(expected["records"])
