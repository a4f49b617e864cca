"""Sessions with a replica as their users see them: the same run elsewhere, restarts, conflicts, networks that fail."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from crashlib import in_thread, run_group, wait_for
from s3.proxy import Fault, Proxy
from s3.server import BUCKET, KEY, SECRET, S3Server
from support import python_environment, run_python, start_python
from world import disk_trouble

from dreamlake import Lake, Session, errors
from dreamlake.engine.ending import Ending
from dreamlake.format import layout
from dreamlake.storage.remote import RemoteStore

DEAD = {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}


@dataclass
class Place:
    """Where replicas are kept in a test."""

    url: str
    options: dict[str, Any] | None
    lakes: list[Lake] = field(default_factory=list)

    def lake(self) -> Lake:
        """A reader that has seen nothing yet."""
        self.lakes.append(Lake(self.url, self.options))
        return self.lakes[-1]

    def close(self) -> None:
        """Close the connections of all readers."""
        for lake in self.lakes:
            if isinstance(lake._store, RemoteStore):
                lake._store.close()

    def values(self, session: str = "s", track: str = "loss") -> list[Any]:
        """The field ``i`` of every point there, in order."""
        found = self.lake().session(session, "w").track(track).read(limit=None)["data"]
        assert [point["index"] for point in found] == list(range(len(found)))
        return [point["data"].get("i") for point in found]


@pytest.fixture
def place(elsewhere: tuple[str, dict[str, Any] | None]) -> Iterator[Place]:
    """A replica's root on several filesystems."""
    made = Place(*elsewhere)
    yield made
    made.close()


@pytest.fixture
def s3(s3_server: S3Server, s3_url: str) -> Iterator[Place]:
    """A replica's root on S3."""
    made = Place(s3_url, s3_server.options())
    yield made
    made.close()


@pytest.fixture
def proxied(s3_proxy: Proxy, s3_server: S3Server, s3_url: str) -> Iterator[Place]:
    """A replica's root on S3, behind a proxy that makes trouble."""
    made = Place(s3_url, s3_server.options(s3_proxy.endpoint))
    yield made
    s3_proxy.plan = lambda request: None
    made.close()


Open = Callable[..., Session]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[str], Open]]:
    """Sessions as another machine would open them: each on a disk of its own."""
    opened: list[Session] = []

    def on(name: str) -> Open:
        def make(place: Place, session: str = "s", **options: Any) -> Session:
            given = {"local_path": tmp_path / name, "sync_interval": 1000.0, **options}
            made = Session(session, "w", remote=place.url, storage_options=place.options, **given)
            opened.append(made)
            return made

        return make

    yield on
    for session in opened:
        if session.is_open:  # as a machine that was switched off
            session._close(Ending("finished"), timeout=20.0, quiet=True)
        assert session._remote is not None
        session._remote.store().close()


def stop_without_sync(session: Session) -> None:
    """End a session as if its machine had died after its last sync: flushed, and nothing more uploaded."""
    writer = session.writer
    assert writer.replica is not None
    writer.replica.finish = lambda timeout, last: writer.replica.thread.stop(5.0)  # type: ignore[method-assign, union-attr]
    session.close()


# ------------------------------------------------------------------------------------------------ the same run there


def test_a_closed_session_is_wholly_there(place: Place, machine: Callable[[str], Open]) -> None:
    with machine("a")(place, segment_points=1000) as session:
        loss = session.track("loss", description="of training", tags=["x"])
        for i in range(2500):
            loss.append(i=i)
        session.track("deep/name é").append(text="ü", nan=float("nan"))
        session.parameters().set(optimizer={"lr": 0.1})
        session.log("hello", metadata={"a": 1})
    lake = place.lake()
    assert place.values() == list(range(2500))
    view = lake.session("s", "w")
    assert view.info["status"] == "finished"
    assert view.tracks.list() == ["deep/name é", "loss"]
    assert view.track("loss").stats()["totalChunks"] == 2
    assert view.track("loss").stats()["description"] == "of training"
    assert view.parameters().get() == {"optimizer.lr": 0.1}
    assert view.logs()["message"].to_list() == ["hello"]
    assert lake.scan("loss").collect().height == 2500


def test_sync_returns_when_all_is_there(place: Place, machine: Callable[[str], Open]) -> None:
    with machine("a")(place, segment_points=10) as session:
        for i in range(47):
            session.track("loss").append(i=i)
            if i % 9 == 8:
                session.sync()
                assert place.values() == list(range(i + 1))
        assert place.lake().session("s", "w").info["status"] == "running"


def test_it_goes_there_by_itself(s3: Place, machine: Callable[[str], Open]) -> None:
    with machine("a")(s3, sync_interval=0.05, flush_interval=0.02) as session:
        session.track("loss").append(i=0)
        wait_for(lambda: s3.lake().sessions() and "loss" in s3.lake().session("s", "w").tracks)
        wait_for(lambda: s3.values() == [0])
        session.track("loss").append(i=1)
        wait_for(lambda: s3.values() == [0, 1])


def test_a_roll_does_not_wait_for_the_interval(s3: Place, machine: Callable[[str], Open]) -> None:
    with machine("a")(s3, segment_points=100) as session:
        replica = session.writer.replica
        assert replica is not None
        wait_for(lambda: replica._pace.wait() > 500)  # the pass after the opening is over, the next is far away
        session.track("loss").append_batch([{"i": i} for i in range(250)])
        wait_for(lambda: "loss" in s3.lake().session("s", "w").tracks and len(s3.values()) >= 200)


def test_only_what_changed_is_sent(proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy) -> None:
    with machine("a")(proxied, segment_points=100) as session:
        for number in range(20):
            session.track(f"t{number}").append_batch([{"i": i} for i in range(150)])
        session.sync()
        with s3_proxy.counting() as idle:
            session.sync()
        assert idle == []
        session.track("t7").append(i=150)
        with s3_proxy.counting() as one:
            session.sync()
        assert sorted(request.key.rpartition("/")[2] for request in one) == ["data.jsonl", "session.json"]


def test_readers_see_a_clean_prefix_throughout(s3: Place, machine: Callable[[str], Open]) -> None:
    wrong: list[Any] = []
    ended = False

    def read() -> None:
        seen = 0
        while not ended:
            try:
                values = s3.values()
            except (errors.SessionNotFoundError, errors.TrackNotFoundError):
                continue
            if values != list(range(len(values))) or len(values) < seen:
                wrong.append(values)
            seen = len(values)

    with machine("a")(s3, segment_points=50, sync_interval=0.01, flush_interval=0.01) as session:
        reader = in_thread(read)
        for i in range(1200):
            session.track("loss").append(i=i)
            if i % 60 == 0:
                session.sync()
    ended = True
    reader.join(30)
    assert not reader.is_alive()
    assert wrong == []
    assert s3.values() == list(range(1200))


# ------------------------------------------------------------------------------------------------ restarts


def test_an_empty_disk_goes_on_where_the_replica_ends(place: Place, machine: Callable[[str], Open]) -> None:
    first = machine("a")(place, segment_points=10)
    for i in range(35):
        first.track("loss").append(i=i)
    first.parameters().set(lr=1.0)
    first.sync()
    last = first.track("loss").read(34)["data"][0]["data"]["_ts"]
    stop_without_sync(first)
    with machine("b")(place, segment_points=10, resume="must") as session:
        assert session.parameters().get() == {"lr": 1.0}
        assert session.writer.clock.last >= last  # also where the clock of this machine is behind
        for i in range(35, 48):
            session.track("loss").append(i=i)
        own = session.track("loss").read(limit=None)["data"]
        assert [point["data"]["i"] for point in own] == list(range(48))
        assert own[35]["data"]["_ts"] > last
        assert len(session.track("loss")) == 48
        assert session.track("loss").to_polars()["i"].to_list() == list(range(48))
    assert place.values() == list(range(48))
    assert place.lake().session("s", "w").info["status"] == "finished"


def test_automatic_timestamps_go_on_above_points_that_were_sent_last(s3: Place, machine: Callable[[str], Open]) -> None:
    first = machine("a")(s3)
    first.track("loss").append(i=0).append(i=1)
    first.sync()
    last = first.track("loss").read(1)["data"][0]["data"]["_ts"]
    stop_without_sync(first)
    store = RemoteStore(s3.url, s3.options)
    about = json.loads(store.get("w/s/session.json"))
    assert about.pop("lastTs") == last
    store.put("w/s/session.json", json.dumps(about).encode())  # as if the machine had died just before it was sent
    store.close()
    with machine("b")(s3) as session:
        assert session.writer.clock.last >= last  # also where the clock of this machine is behind


def test_resume_looks_at_the_replica_too(s3: Place, machine: Callable[[str], Open]) -> None:
    with machine("a")(s3) as session:
        session.track("loss").append(i=0)
    with pytest.raises(errors.SessionExistsError, match="resume='never'"):
        machine("b")(s3, resume="never").open()
    with pytest.raises(errors.SessionNotFoundError):
        machine("b")(s3, session="other", resume="must").open()


def test_an_older_local_state_takes_over_the_newer_replica(s3: Place, machine: Callable[[str], Open]) -> None:
    for name, values in (("a", range(5)), ("b", range(5, 12)), ("a", range(12, 30)), ("b", range(30, 33))):
        with machine(name)(s3, segment_points=10) as session:
            for i in values:
                session.track("loss").append(i=i)
            session.parameters().set(**{f"from{values[0]}": name})
    assert s3.values() == list(range(33))
    assert s3.lake().session("s", "w").parameters().get() == {"from0": "a", "from5": "b", "from12": "a", "from30": "b"}


def test_late_fields_of_adopted_segments_wait_and_are_merged(s3: Place, machine: Callable[[str], Open]) -> None:
    with machine("a")(s3, segment_points=10) as session:
        for i in range(35):
            session.track("loss").append(i=i, _ts=float(i))
    with machine("b")(s3, segment_points=10) as session:
        session.track("loss").append(late=1, _ts=3.0).append(late=2, _ts=33.0).append(i=35, _ts=35.0)
        session.flush()
        found = session.track("loss").read(limit=None)["data"]
        assert found[3]["data"] == {"i": 3, "late": 1, "_ts": 3.0}
        assert len(found) == 36
    found = s3.lake().session("s", "w").track("loss").read(limit=None)["data"]
    assert [point["data"].get("late") for point in found] == [{3: 1, 33: 2}.get(i) for i in range(36)]


@pytest.mark.parametrize("fault", ["fail", "fail half", "dead"])
@pytest.mark.usefixtures("temporary_in_memory")
def test_a_field_that_waits_does_not_overtake_its_point(fault: str) -> None:
    """The disk fails at each call of the flush of both, and the replicator merges what waits before the next flush."""
    for calls in range(1, 14):
        options: dict[str, Any] = {"segment_points": 3, "flush_interval": 3600.0, "sync_interval": 3600.0}
        with Session("s", "w", None, remote=f"memory://{uuid.uuid4().hex}", **options) as session:
            track = session.track("loss")
            track.append_batch([{"b": 0, "_ts": 0.0}, {"b": 1, "_ts": 1.0}, {"b": 2, "_ts": 4e9}])
            track.append_batch([{"b": 3 + i, "_ts": 4e9 + 1 + i} for i in range(3)])
            session.sync()
            folder = Path(session.writer.folder, "tracks", "loss")
            assert (folder / ".away.jsonl").exists()
            for stamps in folder.glob(".ts-*"):
                stamps.unlink()  # so that any timestamp below 4e9 may be one of the segment that is away
            track.append(loss=0.5)
            with disk_trouble(fault, calls):
                track.append_batch([{"loss": 0.0, "_ts": -1}])
            session.writer.replica.settle()
            session.flush()
            assert [row["data"].get("loss") for row in track.read(6)["data"]] == [0.0], f"{fault} at call {calls}"


@pytest.mark.usefixtures("temporary_in_memory")
def test_what_waits_is_merged_after_a_settling_that_the_disk_ended() -> None:
    """Also where that had fetched all it needs: nothing is wanted then, and yet the rows are not in the track."""
    for calls in range(1, 20):
        options: dict[str, Any] = {"segment_points": 3, "flush_interval": 3600.0, "sync_interval": 3600.0}
        with Session("s", "w", None, remote=f"memory://{uuid.uuid4().hex}", **options) as session:
            track = session.track("loss")
            track.append_batch([{"b": i, "_ts": float(i)} for i in range(6)])
            session.sync()
            late = Path(session.writer.folder, "tracks", "loss", ".late.jsonl")
            for stamps in late.parent.glob(".ts-*"):
                stamps.unlink()  # so that any timestamp below 2.0 may be one of the segment that is away
            track.append_batch([{"b": 6 + i, "_ts": 0.5 + i} for i in range(2)])
            assert late.exists()
            with disk_trouble("dead", calls), contextlib.suppress(OSError):
                session.writer.replica.settle()
            assert [row["data"]["b"] for row in track.read()["data"]] == list(range(8)), f"call {calls}"
            session.sync()
            assert not late.exists(), f"call {calls}"


@pytest.mark.parametrize("fault", ["fail", "fail half", "dead"])
@pytest.mark.usefixtures("temporary_in_memory")
def test_a_sync_comes_to_its_end_after_one_that_the_disk_ended(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is dropped here of which it is not noted here, too, that the replica has it."""
    monkeypatch.setattr(RemoteStore, "width", 1)  # what is sent is noted once, at the end
    for calls in range(1, 32):
        url = f"memory://{uuid.uuid4().hex}"
        options: dict[str, Any] = {"segment_points": 3, "flush_interval": 3600.0, "sync_interval": 3600.0}
        with Session("s", "w", None, remote=url, **options) as session:
            session.track("other").append(i=0)
            session.sync()  # the timestamps below change nothing more in its own objects
            for place in (0, 3):
                session.track("loss").append_batch([{"i": place + i, "_ts": float(place + i)} for i in range(3)])
            with disk_trouble(fault, calls), contextlib.suppress(OSError):
                session.sync()
            session.sync()
            assert Place(url, None).values() == list(range(6)), f"{fault} at call {calls}"


def cut_off(place: Place, root: Path, *starts: int) -> None:
    """Begin the first upload of a track of 95 points: these segments are there, and no session.json."""
    with Session("s", "w", root, segment_points=10) as session:
        session.track("loss").append_batch([{"i": i} for i in range(95)])
    store = RemoteStore(place.url, place.options)
    for name in ("metadata.json", *(f"{start:012}-{start + 10:012}.parquet" for start in starts)):
        path = f"w/s/tracks/loss/{name}"
        store.put(path, (root / path).read_bytes())
    store.close()


def test_the_rest_of_a_first_upload_that_was_cut_off(s3: Place, machine: Callable[[str], Open], tmp_path: Path) -> None:
    cut_off(s3, tmp_path / "a", 0, 30)
    with pytest.raises(errors.RemoteConflictError, match="first upload that was cut off"):
        machine("b")(s3).open()
    with machine("a")(s3, segment_points=10) as session:
        session.track("loss").append(i=95)
    assert s3.values() == list(range(96))


def test_the_beginning_of_a_first_upload_belongs_to_the_run_and_to_no_new_one(
    s3: Place, machine: Callable[[str], Open], tmp_path: Path
) -> None:
    cut_off(s3, tmp_path / "lost", 0, 10)
    with pytest.raises(errors.SessionExistsError, match="resume='never'"):
        machine("b")(s3, resume="never").open()
    with machine("c")(s3, segment_points=10) as session:
        session.track("loss").append(i=20)
    assert s3.values() == list(range(21))


# ------------------------------------------------------------------------------------------------ two machines


def test_two_machines_on_one_track(s3: Place, machine: Callable[[str], Open]) -> None:
    first = machine("a")(s3)
    first.track("loss").append(i="a0")
    first.sync()
    second = machine("b")(s3)
    second.track("loss").append(i="b1")
    second.track("own").append(i=1)
    first.track("loss").append(i="a1")
    first.sync()
    with pytest.raises(errors.RemoteConflictError, match="loss"):
        second.sync()
    second.track("loss").append(i="b2")  # goes on all the same
    assert [point["data"]["i"] for point in second.track("loss").read()["data"]] == ["a0", "b1", "b2"]
    assert s3.values() == ["a0", "a1"]
    assert s3.values(track="own") == [1]
    with pytest.raises(errors.RemoteConflictError):
        second.close()
    assert second.is_closed
    first.close()
    assert s3.values() == ["a0", "a1"]
    with pytest.raises(errors.RemoteConflictError, match="loss"):
        machine("b")(s3).open()


def test_a_second_machine_on_other_tracks(s3: Place, machine: Callable[[str], Open]) -> None:
    first, second = machine("a")(s3), machine("b")(s3)
    for number in range(3):
        first.track("train").append(i=number)
        first.parameters().set(a=number)
        first.log(f"a{number}")
        first.sync()
        second.track("eval").append(i=number)
        second.parameters().set(b=number)
        second.log(f"b{number}")
        second.sync()
    second.close()
    first.close()
    view = s3.lake().session("s", "w")
    assert (s3.values(track="train"), s3.values(track="eval")) == ([0, 1, 2], [0, 1, 2])
    assert view.parameters().get() == {"a": 2, "b": 2}
    assert view.logs()["message"].to_list() == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert view.info["status"] == "finished"


def test_two_processes_of_one_host(s3: Place, tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import json, sys
        from dreamlake import Session
        url, options, root, who = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
        with Session("s", "w", root, remote=url, storage_options=options, segment_points=20, sync_interval=0.05,
                     flush_interval=0.02) as session:
            for i in range(300):
                session.track("loss").append(i=f"{who}{i}")
                if i % 50 == 0:
                    session.sync()
    """)
    args = [s3.url, json.dumps(s3.options), str(tmp_path / "lake")]
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code, *args, who], env=python_environment(), text=True)
        for who in "xy"
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    values = s3.values()
    assert sorted(values) == sorted(f"{who}{i}" for who in "xy" for i in range(300))
    for who in "xy":
        assert [value for value in values if value[0] == who] == [f"{who}{i}" for i in range(300)]


# ------------------------------------------------------------------------------------------------ trouble


def test_nothing_local_and_no_network(machine: Callable[[str], Open], s3_url: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing of this session is here") as raised:
        machine("a")(Place(s3_url, DEAD)).open()
    assert s3_url in str(raised.value)
    assert SECRET not in str(raised.value)
    assert not list(tmp_path.rglob("session.json"))


def test_a_wrong_secret(s3: Place, machine: Callable[[str], Open], caplog: pytest.LogCaptureFixture) -> None:
    assert s3.options is not None
    wrong = Place(s3.url, {**s3.options, "secret": "not-the-right-one"})
    with pytest.raises(PermissionError) as raised:
        machine("a")(wrong).open()
    assert "not-the-right-one" not in str(raised.value)
    with machine("a")(s3) as session:
        session.track("loss").append(i=0)
    with caplog.at_level(logging.WARNING, "dreamlake"):
        session = machine("a")(wrong).open()
    session.track("loss").append(i=1)
    with pytest.raises(PermissionError, match="dreamlake sync"):
        session.close()
    assert session.is_closed
    assert "not-the-right-one" not in caplog.text + repr(session)
    with machine("a")(s3):
        pass
    assert s3.values() == [0, 1]


def test_a_hang_is_an_error_within_the_timeout(
    proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamlake.engine.replica.comparing.CONTACT_TIMEOUT", 0.5)
    s3_proxy.fail(Fault.HANG)
    with pytest.raises(TimeoutError, match="has not answered"):
        machine("a")(proxied).open()
    s3_proxy.plan = lambda request: None


def test_a_dead_network_costs_one_warning_and_no_point(
    proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    with machine("a")(proxied, sync_interval=0.02, flush_interval=0.01, segment_points=100) as session:
        session.track("loss").append(i=0)
        session.sync()
        s3_proxy.fail(Fault.RESET)
        with caplog.at_level(logging.WARNING, "dreamlake"):
            for i in range(1, 450):
                session.track("loss").append(i=i)
            session.flush()
            replica = session.writer.replica
            assert replica is not None
            wait_for(lambda: replica._pace.failures >= 2)
        assert len([record for record in caplog.records if "cannot be brought up to date" in record.message]) == 1
        with pytest.raises(OSError, match="dreamlake sync"):
            session.sync()
        s3_proxy.plan = lambda request: None
        session.sync()
        assert proxied.values() == list(range(450))


def test_a_sync_that_was_given_up_goes_on_in_the_background(
    proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy
) -> None:
    with machine("a")(proxied, sync_interval=0.05) as session:
        session.track("loss").append(i=0)
        session.sync()
        s3_proxy.latency = 0.3
        session.track("loss").append(i=1)
        with pytest.raises(TimeoutError, match="dreamlake sync"):
            session.sync(timeout=0.05)
        s3_proxy.latency = 0.0
        wait_for(lambda: proxied.values() == [0, 1])
        session.track("loss").append(i=2)
        session.flush()
        wait_for(lambda: proxied.values() == [0, 1, 2])


def test_close_has_a_deadline_and_names_the_command(
    proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy, tmp_path: Path
) -> None:
    session = machine("a")(proxied, segment_points=10).open()
    session.track("loss").append_batch([{"i": i} for i in range(25)])
    s3_proxy.fail(Fault.HANG, method="PUT")
    with pytest.raises(TimeoutError, match=f"not ended after 0.3 s.*dreamlake sync {tmp_path}/a/w/s {proxied.url}"):
        session.close(timeout=0.3)
    assert session.is_closed


def test_an_exception_is_not_hidden_by_a_failed_upload(
    proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    def train() -> None:
        with machine("a")(proxied) as session:
            session.track("loss").append(i=0)
            s3_proxy.fail(Fault.UNAVAILABLE)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert "dreamlake sync" in caplog.text


def test_every_fourth_reply_is_lost(proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy) -> None:
    puts = 0

    def plan(request: Any) -> Fault | None:
        nonlocal puts
        puts += request.kind == "PUT"
        return Fault.LOST_REPLY if request.kind == "PUT" and puts % 4 == 0 else None

    s3_proxy.plan = plan
    with machine("a")(proxied, segment_points=10) as session:
        for i in range(400):
            session.track(f"t{i % 3}").append(i=i)
            if i % 20 == 0:
                session.sync()
    assert puts > 40
    for number in range(3):
        assert proxied.values(track=f"t{number}") == list(range(number, 400, 3))


def test_unreachable_at_open_is_checked_later(
    proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    with machine("a")(proxied) as session:
        session.track("loss").append(i=0)
    with machine("b")(proxied) as session:
        session.track("loss").append(i=1)
        session.track("other").append(i=5)
    s3_proxy.fail(Fault.RESET)
    session = machine("a")(proxied).open()
    session.track("loss").append(i="mine")
    session.track("third").append(i=7)
    session.flush()
    s3_proxy.plan = lambda request: None
    with pytest.raises(errors.RemoteConflictError, match="loss"):
        session.sync()
    assert proxied.values() == [0, 1]
    assert proxied.values(track="third") == [7]
    assert [point["data"]["i"] for point in session.track("other").read()["data"]] == [5]
    assert [point["data"]["i"] for point in session.track("loss").read()["data"]] == [0, "mine"]


BESIDE = """
import sys
from dreamlake import Session
with Session("s", "w", sys.argv[1], segment_points=10, flush_interval=3600) as session:
    session.track("loss").compact()
    print("ready", flush=True)
    assert sys.stdin.readline() == "go on\\n"
    session.track("loss").append(i=20).flush()
"""


@pytest.mark.parametrize("who", ["the same process", "another process"])
def test_a_track_that_was_taken_over_late_goes_on_behind_that(
    proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy, tmp_path: Path, who: str
) -> None:
    """It had been looked at before, when it was empty and had no hot file; it has none now."""
    with machine("a")(proxied, segment_points=10) as session:
        session.track("loss").append_batch([{"i": i} for i in range(20)])
    with Session("s", "w", tmp_path / "b", segment_points=10) as session:
        session.track("loss", description="elsewhere")
    s3_proxy.fail(Fault.RESET)
    beside = start_python(BESIDE, tmp_path / "b")
    with beside, machine("b")(proxied, segment_points=10) as session:
        session.track("loss").compact()
        assert beside.stdout is not None
        assert beside.stdout.readline() == "ready\n"
        s3_proxy.plan = lambda request: None
        session.sync()
        if who == "the same process":
            session.track("loss").append(i=20).flush()
            beside.kill()
        else:
            _, errors_of_it = beside.communicate("go on\n", timeout=60)
            assert beside.returncode == 0, errors_of_it
        session.sync()
    assert proxied.values() == list(range(21))


# ------------------------------------------------------------------------------------------------ nothing kept here


def test_a_temporary_local_side_is_trimmed_and_removed(place: Place, machine: Callable[[str], Open]) -> None:
    with machine("-")(place, local_path=None, segment_points=10) as session:
        folder = Path(session.path)
        for i in range(95):
            session.track("loss").append(i=i, _ts=float(i))
        session.sync()
        left = sorted(path.name for path in folder.glob("tracks/loss/*.parquet"))
        assert left == ["000000000080-000000000090.parquet"]
        session.track("loss").append(late=True, _ts=15.0).append(i=95)
        session.flush()
        found = session.track("loss").read(limit=None)["data"]
        assert [point["data"]["i"] for point in found] == list(range(96))
        assert found[15]["data"]["late"] is True
    assert not folder.exists()
    assert place.values() == list(range(96))
    assert place.lake().session("s", "w").track("loss").read(15, 1)["data"][0]["data"]["late"] is True
    assert len(session.track("loss").read(limit=None)["data"]) == 96  # from the replica


def test_a_temporary_local_side_is_kept_when_not_all_is_there(
    proxied: Place, machine: Callable[[str], Open], s3_proxy: Proxy
) -> None:
    from shutil import rmtree

    session = machine("-")(proxied, local_path=None, segment_points=10).open()
    session.track("loss").append_batch([{"i": i} for i in range(25)])
    folder = session.path
    s3_proxy.fail(Fault.UNAVAILABLE)
    with pytest.raises(OSError, match=folder):
        session.close(timeout=30)
    s3_proxy.plan = lambda request: None
    assert Path(folder, "tracks/loss/data.jsonl").exists()
    rmtree(Path(folder).parents[1])


def test_parameters_open_a_session_without_a_local_side(
    s3: Place, machine: Callable[[str], Open], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session = machine("-")(s3, local_path=None)
    parameters = session.parameters()
    parameters.set(lr=0.1)
    assert session.parameters().get() == {"lr": 0.1}
    session.close()
    assert s3.lake().session("s", "w").parameters().get() == {"lr": 0.1}
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_local_side_needs_a_remote() -> None:
    with pytest.raises(ValueError, match="remote="):
        Session("s", "w", local_path=None)


# ------------------------------------------------------------------------------------------------ processes and exits

RUN = textwrap.dedent("""
    import json, os, signal, sys
    from dreamlake import Session
    url, options, root = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    session = Session("s", "w", root, remote=url, storage_options=options, segment_points=10, sync_interval=1000.0)
""")


def test_a_killed_run_is_finished_by_sync(proxied: Place, tmp_path: Path, s3_proxy: Proxy) -> None:
    from dreamlake.engine.replica.sync import sync_folder

    sent = 0

    def plan(request: Any) -> Fault | None:
        nonlocal sent
        sent += request.kind == "PUT"
        return Fault.HANG if sent > 4 else None

    s3_proxy.plan = plan
    code = RUN + textwrap.dedent("""
        for i in range(95):
            session.track("loss").append(i=i)
        session.flush()
        print("flushed", flush=True)
        session.sync()
    """)
    args = [proxied.url, json.dumps(proxied.options), str(tmp_path / "lake")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, env=python_environment(), text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "flushed\n"
        wait_for(lambda: sent > 4)
        process.kill()
    s3_proxy.plan = lambda request: None
    store = RemoteStore(proxied.url, proxied.options)
    assert sync_folder(str(tmp_path / "lake/w/s"), "w/s", store).complete
    assert proxied.values() == list(range(95))
    with s3_proxy.counting() as again:
        assert sync_folder(str(tmp_path / "lake/w/s"), "w/s", store).complete
    assert {request.kind for request in again} == {"LIST"}
    store.close()


def test_no_network_at_exit_and_the_command_is_named(
    s3_proxy: Proxy, s3_server: S3Server, proxied: Place, tmp_path: Path
) -> None:
    # A host's name, and connections that are not open yet: looking a name up fails at exit where an address works.
    options = s3_server.options(s3_proxy.endpoint.replace("127.0.0.1", "localhost"))
    code = RUN + textwrap.dedent("""
        session.open()
        session.writer.replica.remote.store().close()
        session.track("loss").append(i=1)
        print("exiting", flush=True)
    """)
    process = subprocess.run(
        [sys.executable, "-c", code, proxied.url, json.dumps(options), str(tmp_path / "lake")],
        env=python_environment(), text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert f"dreamlake sync {tmp_path}/lake/w/s {proxied.url}" in process.stderr
    assert "Traceback" not in process.stderr
    assert Lake(tmp_path / "lake").session("s", "w").track("loss").read()["total"] == 1
    assert Lake(tmp_path / "lake").session("s", "w").info["status"] == "finished"


@pytest.mark.skipif(not hasattr(os, "fork") or sys.version_info >= (3, 12), reason="forks a process with threads")
def test_forked_children_write_and_the_parent_replicates(s3: Place, tmp_path: Path) -> None:
    code = RUN + textwrap.dedent("""
        session.open()
        session.track("loss").append(i=-1)
        session.sync()
        children = []
        for child in range(3):
            pid = os.fork()
            if not pid:
                for i in range(25):
                    session.track(f"child{child}").append(i=i)
                session.flush()
                os._exit(0)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        session.close()
    """)
    run_group(code, s3.url, json.dumps(s3.options), tmp_path / "lake")
    for child in range(3):
        assert s3.values(track=f"child{child}") == list(range(25))
    assert s3.values() == [-1]


@pytest.mark.skipif(not hasattr(os, "fork") or sys.version_info >= (3, 12), reason="forks a process with threads")
def test_a_forked_child_can_sync_itself(s3: Place, tmp_path: Path) -> None:
    code = RUN + textwrap.dedent("""
        from dreamlake import Lake
        session.open()
        session.track("loss").append(i=0)
        session.sync()
        pid = os.fork()
        if not pid:
            session.track("loss").append(i=1)
            session.sync()
            assert len(Lake(url, options).session("s", "w").track("loss")) == 2
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        session.track("loss").append(i=2)
        session.close()
    """)
    run_group(code, s3.url, json.dumps(s3.options), tmp_path / "lake")
    assert s3.values() == [0, 1, 2]


def test_import_of_what_a_replica_needs_is_left_to_sessions_with_one(tmp_path: Path) -> None:
    out = run_python(
        """
        import sys
        from dreamlake import Session
        with Session("s", "w", sys.argv[1]) as session:
            session.track("loss").append(i=1)
        print(sorted(m for m in sys.modules if "replica" in m or m in ("fsspec", "s3fs")))
        """,
        tmp_path,
    )
    assert "[]" in str(out)


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"remote": "plain/folder"}, "URL"),
        ({"remote": "simplecache::s3://b/p"}, "chain"),
        ({"storage_options": {}}, "remote="),
        ({"remote": "memory://x", "sync_interval": 0}, "sync_interval"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Session("s", "w", tmp_path, **options)


def test_sessions_on_one_folder_agree_on_their_replica(s3: Place, machine: Callable[[str], Open]) -> None:
    on = machine("a")
    with on(s3):
        assert s3.options is not None
        with pytest.raises(ValueError, match="other storage_options") as raised:
            on(Place(s3.url, {**s3.options, "secret": "another-secret"})).open()
        assert "secret" not in str(raised.value).replace("storage_options", "")
        with on(s3) as other:
            other.track("loss").append(i=1)
        assert s3.values() == [1]


def test_sync_without_a_replica_flushes(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path, flush_interval=1000) as session:
        session.track("loss").append(i=1)
        session.sync()
        assert Lake(tmp_path).session("s", "w").track("loss").read()["total"] == 1
    with pytest.raises(errors.SessionClosedError):
        session.sync()


def test_nothing_shows_storage_options(s3: Place, machine: Callable[[str], Open]) -> None:
    session = machine("a")(s3)
    with session:
        shown = f"{session!r} {session.writer.options!r} {session._remote!r} {session.writer.replica!r}"
    assert SECRET not in shown
    assert BUCKET in shown


def test_what_a_filesystem_cannot_promise_is_said_at_open(
    place: Place, machine: Callable[[str], Open], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dreamlake"), machine("a")(place):
        pass
    assert ("no conditional writes" in caplog.text) == (not place.url.startswith("s3:"))


OTHER_PROCESS = """
import os, sys
from dreamlake import Session

session = Session("s", "w", sys.argv[1], remote=sys.argv[2], segment_points=3, flush_interval=3600, sync_interval=3600)
session.track("loss").append_batch([{"late": 1, "_ts": float(sys.argv[3])}])
session.flush()
os._exit(0)
"""


def test_a_sync_merges_what_another_process_let_wait(tmp_path: Path) -> None:
    """On a track that this process has never written to, and that it looked at in vain before."""
    here, there = tmp_path / "here", f"file://{tmp_path}/there"
    options: dict[str, Any] = {"segment_points": 3, "flush_interval": 3600, "sync_interval": 3600}
    with Session("s", "w", here, remote=there, **options) as session:
        session.track("loss").append_batch([{"i": i} for i in range(9)])
        stamps = [point["data"]["_ts"] for point in session.track("loss").read()["data"]]
    shutil.rmtree(here)  # another machine goes on: the segments are only there
    with Session("s", "w", here, remote=there, **options) as session:
        for index in (0, 4):
            session.track("other").append(i=index)
            session.sync()
            run_python(OTHER_PROCESS, here, there, stamps[index])
            assert list(here.rglob(".late.jsonl"))
            session.sync()
            assert not list(here.rglob(".late.jsonl"))
            found = Lake(there).session("s", "w").track("loss").read(limit=None)["data"]
            assert found[index]["data"] == {"i": index, "late": 1, "_ts": stamps[index]}


@pytest.mark.parametrize("first", [10, 1000], ids=["a later form", "the first form"])
def test_a_form_that_was_sent_and_not_noted_is_known_when_it_is_swept_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """A process is killed between upload and note; late fields and the sweep follow before the sides are compared."""
    here, there = tmp_path / "here", f"file://{tmp_path / 'there'}"
    with Session("s", "w", local_path=here, remote=there, segment_points=first) as session:
        session.track("a").append_batch([{"x": float(i), "_ts": 1000.0 + i} for i in range(25)])
    state = here / "w" / "s" / ".replica.json"
    left: list[bytes] = []  # what a kill just behind an upload leaves
    create = RemoteStore.create

    def created(store: RemoteStore, path: str, data: bytes) -> None:
        create(store, path, data)
        left.append(state.read_bytes())

    monkeypatch.setattr(RemoteStore, "create", created)
    with Session("s", "w", local_path=here, remote=there, segment_points=10) as session:
        session.track("a").append(late=1.0, _ts=1003.0)
    assert left
    state.write_bytes(left[0])
    with Session("s", "w", local_path=here, segment_points=10) as session:
        session.track("a").append(late=2.0, late2=3.0, _ts=1003.0)
    folder = here / "w" / "s" / "tracks" / "a"
    *older, _ = sorted(folder.glob("000000000000-*.parquet"), key=lambda path: layout.parse_segment(path.name))
    assert older
    for each in older:  # as the sweep does, a minute after
        each.unlink()
    with Session("s", "w", local_path=here, remote=there, segment_points=10) as session:
        assert session.track("a").read(3, 1)["data"][0]["data"]["late2"] == 3.0
    found = Lake(there).session("s", "w").track("a").read(limit=None)["data"]
    assert [point["data"]["x"] for point in found] == [float(i) for i in range(25)]
    assert found[3]["data"] == {"x": 3.0, "late": 2.0, "late2": 3.0, "_ts": 1003.0}


def test_another_machines_form_of_the_name_that_was_going_to_be_sent_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other, there = tmp_path / "here", tmp_path / "other", f"file://{tmp_path / 'there'}"
    for each in (here, other):
        with Session("s", "w", local_path=each, remote=there, segment_points=10) as session:
            if each is here:
                session.track("a").append_batch([{"x": float(i), "_ts": 1000.0 + i} for i in range(25)])

    def refused(store: RemoteStore, path: str, data: bytes) -> None:
        raise OSError("the network is down")

    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "create", refused)
        with (
            pytest.raises(OSError, match="network is down"),
            Session("s", "w", local_path=here, remote=there, segment_points=10) as mine,
        ):
            mine.track("a").append(late=1.0, _ts=1003.0)
    (name,) = (here / "w" / "s" / "tracks" / "a").glob("*010.1.parquet")
    assert name.name in (here / "w" / "s" / ".replica.json").read_text()
    with Session("s", "w", local_path=other, remote=there, segment_points=10) as session:
        session.track("a").append(late=7.0, _ts=1003.0)
    assert (other / "w" / "s" / "tracks" / "a" / name.name).exists()
    with Session("s", "w", local_path=here, segment_points=10) as session:
        session.track("a").append(late=2.0, _ts=1003.0)
    name.unlink()
    with pytest.raises(errors.RemoteConflictError, match="two machines"):
        Session("s", "w", local_path=here, remote=there, segment_points=10).open()
    assert Lake(there).session("s", "w").track("a").read(3, 1)["data"][0]["data"]["late"] == 7.0
