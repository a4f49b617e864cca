"""What the replica is ahead in comes here exactly, on an empty disk or over older points, however interrupted."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crashlib
import pytest
from build import TrackOnDisk
from machines import SESSION, Machine, below, points
from powerloss import POLICIES, Cut, Recorder
from s3.proxy import Fault, Proxy
from s3.server import S3Server
from support import one_in, run_python

from dreamlake.engine import away
from dreamlake.engine.ondisk import TrackOnDisk as Disk
from dreamlake.engine.replica import check
from dreamlake.engine.replica.state import load, save
from dreamlake.errors import CorruptTrackError, RemoteConflictError
from dreamlake.format.layout import REPLICA_FILE
from dreamlake.storage.remote import RemoteStore

LOSS = below("loss")
#: Of the calls of a scene only every so manieth is interrupted in an ordinary run.
STRIDE = one_in(3)


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest, s3_server: S3Server, s3_url: str) -> Iterator[RemoteStore]:
    """A replica's root on several filesystems."""
    if request.param == "memory":
        made = RemoteStore(f"memory://{uuid.uuid4().hex}")
    else:
        made = RemoteStore(s3_url, s3_server.options())
    yield made
    made.close()


@pytest.fixture
def memory() -> Iterator[RemoteStore]:
    """A replica's root in memory."""
    made = RemoteStore(f"memory://{uuid.uuid4().hex}")
    yield made
    made.close()


@pytest.fixture
def one(tmp_path: Path, store: RemoteStore) -> Machine:
    """A machine with 45 points, four segments of which are rolled, and all of them uploaded."""
    return Machine(tmp_path / "one", store).write(points(0, 45)).push()


def stop(number: int) -> str:
    """The name of the segment of ten points that ends with this index."""
    return f"{number - 10:012}-{number:012}.parquet"


# -- an empty disk -------------------------------------------------------------------------------------------------


def test_a_session_goes_on_on_an_empty_disk(one: Machine, tmp_path: Path) -> None:
    one.write(points(0, 3), "a/b").push()
    two = Machine(tmp_path / "two", one.store)
    two.adopt()
    assert two.rows() == points(0, 45)
    assert two.rows("a/b") == points(0, 3)
    assert two.files() == {"data.jsonl", "metadata.json", ".away.jsonl", stop(40)}
    assert two.away() == [stop(10), stop(20), stop(30)]
    assert two.known.origin is False
    two.write(points(45, 71)).write(points(3, 14), "a/b").push()
    assert two.remote_rows() == points(0, 71)
    assert two.remote_rows("a/b") == points(0, 14)
    assert check.look(one.store, SESSION).keys() >= {"session.json"}
    assert one.check().pull == (below("a/b"), LOSS)


def test_segments_are_swept_of_which_a_later_form_is_only_on_the_replica(
    one: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = one.copy(tmp_path / "two").write([{"late": 1, "_ts": 1003.0}]).push()
    one.check()
    one.pull("loss")
    one.write(points(45, 46))
    assert stop(10) in one.files()  # a reader may have listed it
    assert one.away() == ["000000000000-000000000010.1.parquet"]
    monkeypatch.setattr("dreamlake.engine.sweep.GRACE", -60.0)
    one.write(points(46, 47))
    assert stop(10) not in one.files()
    assert one.rows() == [*two.rows(), *points(45, 47)]


def test_an_adopted_session_costs_the_listing_only_at_its_next_start(
    tmp_path: Path, s3_proxy: Proxy, s3_server: S3Server, s3_url: str
) -> None:
    store = RemoteStore(s3_url, s3_server.options(s3_proxy.endpoint))
    one = Machine(tmp_path / "one", store).write(points(0, 45))
    with one.session() as session:
        session.parameters().set(lr=0.1)
    one.push()
    two = Machine(tmp_path / "two", store)
    with s3_proxy.counting() as requests:
        two.adopt()
    kinds = Counter(request.kind for request in requests)
    assert kinds == {"LIST": 1, "GET": 5}, "hot file, metadata, last segment, session.json, parameters.json"
    with s3_proxy.counting() as requests:
        assert two.check() == check.Findings(True, (), {})
    assert [request.kind for request in requests] == ["LIST"]
    store.close()


def test_a_large_hot_file(tmp_path: Path, store: RemoteStore) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 2000), segment_points=10_000)
    one.write([{"late": 1, "_ts": 1500.0}], segment_points=10_000).push()
    two = Machine(tmp_path / "two", store)
    two.adopt()
    assert two.rows() == one.rows()
    assert two.rows()[500]["late"] == 1
    two.write([{"late": 2, "_ts": 1501.0}, *points(2000, 2003)], segment_points=10_000).push()
    assert [row.get("late") for row in two.remote_rows()[499:503]] == [None, 1, 2, None]
    assert len(two.remote_rows()) == 2003


def test_generations_that_the_last_segment_does_not_know_of(one: Machine, tmp_path: Path) -> None:
    one.write([{"late": "x", "_ts": 1003.0}, {"later": 1.5, "_ts": 1013.0}, {"later": 2.5, "_ts": 1023.0}])
    one.write([{"later": 3.5, "_ts": 1013.0}]).push()
    two = Machine(tmp_path / "two", one.store)
    two.adopt()
    assert two.away() == [
        f"{name[:25]}.{number}.parquet" for name, number in zip(map(stop, (10, 20, 30)), "121", strict=True)
    ]
    records = away.read(str(two.folder / LOSS))
    assert [record.schema for record in records.values()].count(None) == 0
    disk = Disk(str(two.folder / LOSS), "loss", 10, False, lambda: None)
    disk.learn(1, 1)
    assert {"late", "later"} < disk.schema.keys()
    assert two.rows() == one.rows()


def test_late_fields_for_what_stayed_away_wait(one: Machine, tmp_path: Path) -> None:
    two = Machine(tmp_path / "two", one.store)
    two.adopt()
    two.write([{"late": 1, "_ts": 1003.0}, {"late": 2, "_ts": 1033.0}, {"late": 3, "_ts": 1043.0}])
    assert ".late.jsonl" in two.files()
    rows = two.rows()
    assert [row.get("late") for row in (rows[3], rows[33], rows[43])] == [None, 2, 3]
    assert len(rows) == 45


def test_a_track_of_one_segment_and_one_of_hot_points_only(tmp_path: Path, store: RemoteStore) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 10), "a").write(points(0, 3), "b").push()
    two = Machine(tmp_path / "two", store)
    two.adopt()
    assert ".away.jsonl" not in two.files("a") | two.files("b")
    assert two.rows("a") == one.rows("a")
    assert two.rows("b") == one.rows("b")


def test_metadata_of_a_session_and_of_tracks(one: Machine, tmp_path: Path) -> None:
    with one.session(description="d", tags=["x"], metadata={"a": 1}) as session:
        session.track("loss", description="of loss", metadata={"unit": "m"})
        session.track("empty", description="no point")
    one.push()
    two = Machine(tmp_path / "two", one.store)
    two.adopt()
    mine = json.loads((one.folder / "session.json").read_bytes())
    found = json.loads((two.folder / "session.json").read_bytes())
    for key in ("name", "workspace", "description", "tags", "metadata", "createdAt", "status"):
        assert found[key] == mine[key], key
    for track in ("loss", "empty"):
        path = Path(below(track)) / "metadata.json"
        assert (two.folder / path).read_bytes() == (one.folder / path).read_bytes()


def test_what_several_machines_said(one: Machine, tmp_path: Path) -> None:
    with one.session(metadata={"a": 1, "b": 1}) as session:
        session.parameters().set(lr=0.1, seed=1, nan=float("nan"))
    one.push()
    two = Machine(tmp_path / "two", one.store)
    two.adopt()
    assert two.known.base == {"lr": 0.1, "seed": 1, "nan": {"$numberDouble": "NaN"}}
    with two.session(metadata={"b": 2}, tags=["t"]) as session:
        session.parameters().set(lr=0.2, more="x")
    two.push()
    (path,) = [path for path in one.store.walk(SESSION) if path.endswith("parameters.json") and "/hosts/" in path]
    assert json.loads(one.store.get(path))["data"] == {"lr": 0.2, "more": "x"}
    three = Machine(tmp_path / "three", one.store)
    three.adopt()
    with three.session() as session:
        found = session.parameters().get()
    assert found.pop("nan") != 0
    assert found == {"lr": 0.2, "seed": 1, "more": "x"}
    info = json.loads((three.folder / "session.json").read_bytes())
    assert info["metadata"] == {"a": 1, "b": 2}
    assert info["tags"] == ["t"]
    assert info["createdAt"] == json.loads((one.folder / "session.json").read_bytes())["createdAt"]
    three.push()
    assert len([path for path in one.store.walk(SESSION) if path.endswith("parameters.json")]) == 2, "nothing new"


def test_timestamps_go_on_above_the_replica_s(memory: RemoteStore, tmp_path: Path) -> None:
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        for i in range(25):
            session.track("loss").append(i=i)
    one.push()
    two = Machine(tmp_path / "two", memory)
    last = two.adopt()
    assert last >= one.rows()[-1]["_ts"]
    assert last < time.time()


def test_timestamps_of_a_run_that_was_killed(memory: RemoteStore, tmp_path: Path) -> None:
    """No session.json says how far it was; the points do, but for those with a timestamp of the future."""
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        for i in range(25):
            session.track("loss").append(i=i, **({"_ts": 4e9 + i} if i in (7, 17, 22) else {}))
            session.track("short").append(i=i, **({"_ts": 4e9 + i} if i > 10 else {}))
    info = json.loads((one.folder / "session.json").read_bytes())
    del info["lastTs"]
    (one.folder / "session.json").write_text(json.dumps(info))
    (one.folder / ".lock").unlink()
    one.push()
    two = Machine(tmp_path / "two", memory)
    assert two.adopt() == one.rows()[-1]["_ts"]
    three = Machine(tmp_path / "three", memory)
    for path in memory.walk(f"{SESSION}/{LOSS}"):
        if path.endswith("data.jsonl"):
            memory.put(path, b"")
    assert three.adopt() == one.rows()[19]["_ts"], "from the column of the last segment"


def test_an_adoption_that_ended_half_way_is_taken_up(one: Machine, tmp_path: Path) -> None:
    two = Machine(tmp_path / "two", one.store)
    two.adopt()
    (two.folder / "session.json").unlink()
    one.write(points(45, 68)).push()
    two.adopt()
    assert two.rows() == points(0, 68)


def test_points_that_are_only_here_stop_an_adoption(one: Machine, tmp_path: Path) -> None:
    two = Machine(tmp_path / "two", one.store).write([{"other": 1, "_ts": 5.0}])
    (two.folder / "session.json").unlink()
    with pytest.raises(RemoteConflictError, match="'loss'"):
        two.adopt()
    assert two.rows() == [{"other": 1, "_ts": 5.0}]
    assert not (two.folder / "session.json").exists()


# -- an older disk -------------------------------------------------------------------------------------------------


def ahead(machine: Machine, tmp_path: Path, given: Any, **options: Any) -> Machine:
    """A copy of the machine that goes on and uploads; the machine finds itself behind."""
    other = machine.copy(tmp_path / uuid.uuid4().hex).write(given, **options).push()
    assert machine.check().pull == (LOSS,)
    return other


@pytest.mark.parametrize("count", [46, 50, 51, 78])
@pytest.mark.parametrize("forgets", [False, True])
def test_the_replica_went_on(one: Machine, tmp_path: Path, count: int, forgets: bool) -> None:
    two = ahead(one, tmp_path, [{"late": 1, "_ts": 1013.0}, {"late": 2, "_ts": 1043.0}, *points(45, count)])
    if forgets:
        one.forget()
        assert one.check().pull == (LOSS,)
    one.pull("loss")
    assert one.rows() == two.rows()
    assert one.check() == check.Findings(True, (), {})
    one.write(points(count, count + 17)).push()
    assert one.remote_rows() == one.rows()
    assert len(one.rows()) == count + 17
    assert two.check().pull == (LOSS,)


def test_segments_that_are_here_stay_here(one: Machine, tmp_path: Path) -> None:
    ahead(one, tmp_path, points(45, 78))
    one.pull("loss")
    assert {stop(10), stop(20), stop(30), stop(40), stop(70)} < one.files()
    assert one.away() == [stop(50), stop(60)]


def test_a_field_that_was_set_anew_elsewhere(one: Machine, tmp_path: Path) -> None:
    two = ahead(one, tmp_path, [{"v": 5.0, "_ts": 1003.0}, {"v": 6.0, "_ts": 1043.0}])
    one.pull("loss")
    assert one.rows() == two.rows()
    assert one.rows()[3]["v"] == 5.0


def test_again_and_again(one: Machine, tmp_path: Path) -> None:
    """Away segments get later forms, and stay away or come as the last one."""
    two = Machine(tmp_path / "two", one.store)
    two.adopt()
    last = one
    for turn in range(4):
        start = 45 + 13 * turn
        last.write([{f"late{turn}": turn, "_ts": 1000.0 + 9 * turn}, *points(start, start + 13)]).push()
        assert two.check().pull == (LOSS,)
        two.pull("loss")
        assert two.rows() == last.rows()
        assert two.check() == check.Findings(True, (), {})


def test_points_that_were_written_since_the_comparison_stay(
    one: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ahead(one, tmp_path, points(50, 78))
    one.write(points(45, 48))
    one.pull("loss")
    assert one.rows() == points(0, 48)
    assert "'loss'" in (one.of().conflict or "")
    assert "'loss'" in caplog.text


def test_what_was_uploaded_since_the_comparison_comes_too(one: Machine, tmp_path: Path) -> None:
    two = ahead(one, tmp_path, points(45, 48))
    known = load(str(one.folder))
    tree = check.look(one.store, SESSION)
    two.write(points(48, 83)).push()
    from dreamlake.engine.replica import pull

    pull.pull(str(one.folder), SESSION, one.store, known.remote(one.store.describe()), tree, [LOSS])
    save(str(one.folder), known)
    assert one.rows() == points(0, 83)
    assert one.check() == check.Findings(True, (), {})


def test_wider_segments_there(one: Machine, tmp_path: Path) -> None:
    """As after a compaction."""
    wide = TrackOnDisk(tmp_path / "wide", workspace="w", session="s")
    made = wide.segment(points(0, 40), 0)
    one.store.put(f"{SESSION}/{LOSS}/{made.name}", made.read_bytes())
    assert one.check().pull == (LOSS,)
    one.pull("loss")
    assert made.name in one.files()
    assert one.rows() == points(0, 45)
    one.write(points(45, 61)).push()
    assert one.remote_rows() == points(0, 61)


def test_narrower_segments_there_with_more_in_them(one: Machine, tmp_path: Path) -> None:
    two = ahead(one, tmp_path, [{"late": 1, "_ts": 1013.0}, *points(45, 48)])
    wide = TrackOnDisk(one.root, workspace="w", session="s")
    made = wide.segment(points(10, 40), 10)
    one.pull("loss")
    assert made.name not in one.files()
    assert one.rows() == two.rows()
    Disk(str(one.folder / LOSS), "loss", 10, False, lambda: None).learn(1, 1)


def test_other_bytes_of_the_same_segments_here(one: Machine, tmp_path: Path) -> None:
    """Another version of the library would write other bytes of the same points."""
    two = ahead(one, tmp_path, points(45, 48))
    twin = TrackOnDisk(one.root, workspace="w", session="s")
    for start in (0, 30):
        twin.segment([{"v": p["v"], "i": p["i"], "_ts": p["_ts"]} for p in points(start, start + 10)], start)
    one.forget()
    assert one.check().pull == (LOSS,)
    one.pull("loss")
    assert one.rows() == two.rows()
    assert one.away() == [stop(10)]
    assert (one.folder / LOSS / stop(40)).read_bytes() == (two.folder / LOSS / stop(40)).read_bytes()


def test_descriptions_are_merged(one: Machine, tmp_path: Path) -> None:
    two = one.copy(tmp_path / "two")
    with two.session() as session:
        session.track("loss", description="two", metadata={"a": 2, "b": 2})
    two.push()
    assert one.check().pull == (LOSS,)
    with one.session() as session:
        session.track("loss", metadata={"a": 1})
    one.pull("loss")
    found = json.loads((one.folder / LOSS / "metadata.json").read_bytes())
    assert (found["description"], found["metadata"]) == ("two", {"a": 1, "b": 2})
    one.push()
    assert json.loads(one.store.get(f"{SESSION}/{LOSS}/metadata.json")) == found
    assert two.check().pull == (LOSS,)
    two.pull("loss")
    assert json.loads((two.folder / LOSS / "metadata.json").read_bytes()) == found


def test_a_power_cut_takes_no_description_while_they_are_merged(memory: RemoteStore, tmp_path: Path) -> None:
    """Once it is noted as known it is not asked for again: an older one here would be sent in its place."""
    one = Machine(tmp_path / "one", memory).write(points(0, 5))
    with one.session() as session:
        session.track("loss", metadata={"b": 2})
    one.push()
    two = one.copy(tmp_path / "two")
    with two.session() as session:
        session.track("loss", description="two")
    two.push()
    with one.session() as session:
        session.track("loss", metadata={"a": 1})
    with Recorder(one.folder) as recorder:  # what is there already lasts
        before = len(recorder.ops)
        one.pull("loss")
    found = set()
    for place, turn in itertools.product(range(before, len(recorder.ops) + 1), range(10)):
        for policy in POLICIES.values():
            state = Cut(recorder, place, policy, random.Random(turn)).state()
            about = json.loads(state[f"{LOSS}/metadata.json"] or b"")
            assert about["metadata"] == {"a": 1, "b": 2}
            found.add((about["description"], state[REPLICA_FILE]))
    noted = (one.folder / REPLICA_FILE).read_bytes()
    assert {description for description, known in found if known == noted} == {"two"}
    assert len(found) == 3, "neither is written, or the description, or both"


def test_a_description_from_elsewhere_and_points_from_here(one: Machine, tmp_path: Path) -> None:
    two = one.copy(tmp_path / "two")
    with two.session() as session:
        session.track("loss", description="two")
    two.push()
    one.write(points(45, 58))
    assert one.check().described == (LOSS,)
    one.pull("loss")
    assert one.rows() == points(0, 58)
    assert json.loads((one.folder / LOSS / "metadata.json").read_bytes())["description"] == "two"
    one.push()
    assert one.remote_rows() == points(0, 58)
    assert json.loads(one.store.get(f"{SESSION}/{LOSS}/metadata.json"))["description"] == "two"


def test_parameters_that_were_set_elsewhere(one: Machine, tmp_path: Path) -> None:
    with one.session() as session:
        session.parameters().set(lr=0.1, seed=1)
    one.push()
    two = one.copy(tmp_path / "two")
    with two.session() as session:
        session.parameters().set(lr=0.2, more=2)
        session.track("loss").append(**points(45, 46)[0])
    two.push()
    one.check()
    one.pull("loss")
    with one.session() as session:
        assert session.parameters().get() == {"lr": 0.2, "seed": 1, "more": 2}
    one.push()
    assert json.loads(one.store.get(f"{SESSION}/parameters.json"))["data"] == {"lr": 0.2, "seed": 1, "more": 2}


def test_late_fields_that_wait_are_merged_into_what_came(one: Machine, tmp_path: Path) -> None:
    two = Machine(tmp_path / "two", one.store)
    two.adopt()
    one.write(points(45, 68)).push()
    two.write([{"late": 1, "_ts": 1003.0}])
    assert two.check().pull == (LOSS,)
    two.pull("loss")
    with two.session() as session:
        track = session.writer.track("loss")
        names = track.wanted()
        assert [name.filename for name in names] == [stop(10)]
        fetched = {name: one.store.get(f"{SESSION}/{LOSS}/{name.filename}") for name in names}
        session.writer.under_lock(lambda: track.settle(fetched))
    assert two.rows()[3]["late"] == 1
    assert len(two.rows()) == 68


# -- damage and trouble --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [100, -300])
def test_a_damaged_last_segment_is_not_taken_over(one: Machine, tmp_path: Path, where: int) -> None:
    ahead(one, tmp_path, points(45, 63))
    data = bytearray(one.store.get(f"{SESSION}/{LOSS}/{stop(60)}"))
    data[where] ^= 1
    one.store.put(f"{SESSION}/{LOSS}/{stop(60)}", bytes(data))
    before = {name: (one.folder / LOSS / name).read_bytes() for name in one.files()}
    with pytest.raises(CorruptTrackError) as raised:
        one.pull("loss")
    assert raised.value.path == one.store.describe(f"{SESSION}/{LOSS}/{stop(60)}")
    assert {name: (one.folder / LOSS / name).read_bytes() for name in one.files()} == before


@pytest.mark.parametrize("lacks", [stop(20), stop(50), stop(60)])
def test_a_replica_with_a_hole_is_not_taken_over(one: Machine, tmp_path: Path, lacks: str) -> None:
    ahead(one, tmp_path, points(45, 63))
    one.store.delete(f"{SESSION}/{LOSS}/{lacks}")
    with pytest.raises(CorruptTrackError):
        one.pull("loss")
    assert one.rows() == points(0, 45)
    with pytest.raises(CorruptTrackError):
        Machine(tmp_path / "three", one.store).adopt()


def test_a_segment_of_another_track_is_not_taken_over(one: Machine, tmp_path: Path) -> None:
    one.write(points(0, 10), "other").push()
    one.store.put(f"{SESSION}/{LOSS}/{stop(40)}", one.store.get(f"{SESSION}/{below('other')}/{stop(10)}"))
    with pytest.raises(CorruptTrackError, match="renamed or swapped"):
        Machine(tmp_path / "two", one.store).adopt()


def test_metadata_that_is_of_no_track(one: Machine, tmp_path: Path) -> None:
    one.store.put(f"{SESSION}/{LOSS}/metadata.json", b'{"name": "Loss"}')
    with pytest.raises(CorruptTrackError, match=r"metadata\.json"):
        Machine(tmp_path / "two", one.store).adopt()


def test_two_names_that_this_disk_takes_for_one(one: Machine, tmp_path: Path) -> None:
    two = Machine(tmp_path / "two", one.store)
    (two.folder / LOSS).mkdir(parents=True)
    (two.folder / LOSS / "metadata.json").write_text('{"name": "LOSS"}')
    with pytest.raises(ValueError, match="does not tell the two names apart"):
        two.adopt()


def test_an_outage_in_the_middle(tmp_path: Path, s3_proxy: Proxy, s3_server: S3Server, s3_url: str) -> None:
    store = RemoteStore(s3_url, s3_server.options(s3_proxy.endpoint))
    one = Machine(tmp_path / "one", store).write(points(0, 25)).write(points(0, 25), "other").push()
    two = Machine(tmp_path / "two", store)
    s3_proxy.fail(Fault.RESET, "GET", "000000000020.parquet")
    with pytest.raises(OSError, match="parquet"):
        two.adopt()
    assert not (two.folder / "session.json").exists()
    s3_proxy.plan = lambda request: None
    two.adopt()
    assert two.rows() == two.rows("other") == one.rows()
    store.close()


# -- a reader meanwhile --------------------------------------------------------------------------------------------


def test_readers_here_see_points_up_to_some_index(one: Machine, tmp_path: Path) -> None:
    """A reader that knows of the replica, while tracks are taken over under it."""
    expected = points(0, 400)
    ended = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        most = 45
        while not ended.is_set():
            try:
                rows = one.rows()
            except CorruptTrackError as error:
                wrong.append(str(error))
                continue
            if rows != expected[: len(rows)] or len(rows) < most:
                wrong.append(f"{len(rows)} points after {most}")
            most = len(rows)

    two = one.copy(tmp_path / "two")
    thread = threading.Thread(target=read)
    thread.start()
    try:
        for start in range(45, 400, 71):
            two.write(points(start, start + 71)).push()
            one.pull(*([] if one.check().pull != (LOSS,) else ["loss"]))
    finally:
        ended.set()
        thread.join()
    assert len(one.rows()) == 400
    assert not wrong, wrong[:3]


# -- a kill at every step ------------------------------------------------------------------------------------------


def scene_pull(machine: Machine) -> None:
    """What is interrupted."""
    machine.pull("loss")


def scene_adopt(machine: Machine) -> None:
    """What is interrupted."""
    machine.adopt()


def sweep(folder: str, scene: str, fault: str) -> None:
    """Interrupt a scene at its first disk call, at its second, and so on; what is left must do, or be taken up."""
    store = RemoteStore(f"file://{folder}/remote")
    one = Machine(Path(folder, "one"), store).write(points(0, 25)).push()
    two = one.copy(Path(folder, "two"))
    with two.session() as session:
        session.parameters().set(lr=0.1)
    two.write([{"late": 1, "_ts": 1003.0}, {"late": 2, "_ts": 1013.0}, *points(25, 63)]).push()
    expected = two.rows()
    number = bad = 0
    template = one if scene == "pull" else Machine(Path(folder, "none"), store)
    if scene == "pull":
        assert one.check().pull == (LOSS,)
        TrackOnDisk(one.root, workspace="w", session="s").segment(points(0, 20), 0)  # is to be removed
    while True:
        number += STRIDE
        machine = Machine(Path(folder, f"try{number}"), store)
        if template.root.exists():
            shutil.copytree(template.root, machine.root)
        if not interrupted(machine, scene, fault, number):
            break
        bad += not look_at(machine, scene, expected, f"{scene}, {fault} at call {number}")
    assert machine.rows() == expected
    assert bad <= (4 if "stop" in fault else 0), "from the rename of one file to that of the other"
    print(number)


def interrupted(machine: Machine, scene: str, fault: str, when: int) -> bool:
    """Whether the scene, in a child, came to its n-th call."""
    pid = os.fork()
    if pid == 0:
        kind, wrong, _ = crashlib.FAULTS[fault]
        seam = kind(when, wrong)
        seam.install()
        try:
            {"pull": scene_pull, "adopt": scene_adopt}[scene](machine)
        except OSError:
            os._exit(1)
        os._exit(0 if len(seam.names) < when else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1, crashlib.STOPPED), status
    return status != 0


def look_at(machine: Machine, scene: str, expected: list[dict[str, Any]], what: str) -> bool:
    """A folder after an interruption: good for a writer, and for another attempt; the first, if not, is told."""
    is_good = True
    if scene == "pull":
        end = end_of(machine)
        is_good = end is not None
        assert end in (None, 25, 60, 63), what
        found = machine.check()
        assert not found.conflicts, (what, found)
        if found.pull:
            machine.pull("loss")
    elif not (machine.folder / "session.json").exists():
        machine.adopt()
        assert machine.check() == check.Findings(True, (), {}), what
    else:
        assert machine.check() == check.Findings(True, (), {}), what
    assert machine.rows() == expected, what
    assert end_of(machine) == 63, what
    with machine.session() as session:
        assert session.parameters().get() == {"lr": 0.1}, what
    return is_good


def end_of(machine: Machine) -> int | None:
    """How many points a writer finds; None where the last segment is not here, in the moment between two renames."""
    disk = Disk(str(machine.folder / LOSS), "loss", 10, False, lambda: None)
    try:
        disk.learn(1, 1)
    except CorruptTrackError as error:
        if "the last segment is missing" not in str(error):
            raise
        return None
    return disk.next_index


@pytest.mark.parametrize("scene", ["pull", "adopt"])
@pytest.mark.parametrize("fault", ["stop", "stop half", "fail", "fail half"])
def test_a_kill_or_an_error_at_every_step(tmp_path: Path, scene: str, fault: str) -> None:
    code = "import sys, test_replica_pull; test_replica_pull.sweep(*sys.argv[1:])"
    done = run_python(code, tmp_path, scene, fault, timeout=300, PYTHONPATH=crashlib.PATH)
    assert int(done.stdout) > 15, "hardly anything was interrupted"
