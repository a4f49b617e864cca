"""Bringing a replica up to date: only what changed, in the order that readers need, whatever is lost or cut off."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import crashlib
import pytest
from build import TrackOnDisk
from machines import SESSION, Machine, below, points
from s3.proxy import Fault, Proxy, Request
from s3.server import S3Server
from support import python_environment

from dreamlake import Lake
from dreamlake.engine import away, sweep
from dreamlake.engine.replica import ownfiles, sending, stand, state, tracks
from dreamlake.engine.replica import push as push_module
from dreamlake.engine.replica.ledger import Ledger
from dreamlake.engine.replica.looking import TrackHere
from dreamlake.engine.replica.push import Outcome, Progress, push
from dreamlake.errors import CorruptTrackError
from dreamlake.format import filerecord, layout, live
from dreamlake.format.layout import SegmentName
from dreamlake.storage import s3
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.lock import FileLock
from dreamlake.storage.remote import RemoteStore

LOSS = f"{SESSION}/{below('loss')}"


class Killed(BaseException):
    """The process dies here."""


class Watched(RemoteStore):
    """A store that tells of each call: ``before(method, path)`` may raise, as may ``after``, when it was done."""

    def __init__(self, url: str, options: Any = None) -> None:
        super().__init__(url, options)
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.after: Callable[[str, str], None] = lambda method, path: None

    def _told(self, method: str, path: str, call: Callable[[], Any]) -> Any:
        self.calls.append((method, path))
        self.before(method, path)
        made = call()
        self.after(method, path)
        return made

    def replace_if(self, path: str, data: bytes, version: str | None) -> str:
        return self._told("put", path, lambda: super(Watched, self).replace_if(path, data, version))  # type: ignore[no-any-return]

    def put_file(self, path: str, local_path: str | os.PathLike[str], *rest: Any) -> str:
        return self._told("put", path, lambda: super(Watched, self).put_file(path, local_path, *rest))  # type: ignore[no-any-return]

    def read(self, path: str) -> tuple[bytes, str]:
        return self._told("read", path, lambda: super(Watched, self).read(path))  # type: ignore[no-any-return]

    def stat(self, path: str) -> Any:
        return self._told("stat", path, lambda: super(Watched, self).stat(path))

    def list(self, path: str = "") -> Any:
        return self._told("list", path, lambda: super(Watched, self).list(path))

    def delete(self, path: str) -> None:
        self._told("delete", path, lambda: super(Watched, self).delete(path))

    def puts(self) -> list[str]:
        """The paths below the session that were written, in order; forgotten by this call."""
        found = [path.removeprefix(f"{SESSION}/") for method, path in self.calls if method == "put"]
        self.calls.clear()
        return found


@pytest.fixture
def memory() -> Watched:
    return Watched(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def store(elsewhere: tuple[str, dict[str, Any] | None]) -> Iterator[Watched]:
    """A replica's root on several filesystems."""
    made = Watched(*elsewhere)
    yield made
    made.close()


@pytest.fixture
def proxied(s3_proxy: Proxy, s3_server: S3Server, s3_url: str) -> Iterator[RemoteStore]:
    """A replica's root on S3, through the proxy; conditions were probed for."""
    made = RemoteStore(s3_url, s3_server.options(s3_proxy.endpoint))
    assert made.conditional
    yield made
    made.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without the waits in between."""
    monkeypatch.setattr(s3.random, "uniform", lambda low, high: 0.0)


def send(machine: Machine, store: RemoteStore | None = None, **options: Any) -> Outcome:
    """One pass, as a new process makes it."""
    return push(str(machine.folder), SESSION, store or machine.store, state.load(str(machine.folder)), **options)


def complete(outcome: Outcome) -> Outcome:
    assert outcome.complete, outcome
    return outcome


def assert_same(machine: Machine, *names: str) -> None:
    """Every point is on the replica."""
    for name in names or ("loss",):
        assert machine.remote_rows(name) == machine.rows(name)


# ------------------------------------------------------------------------------------------------ what is sent


def test_only_what_changed_is_sent(tmp_path: Path, store: Watched) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 25)).write(points(0, 3), "a/b")
    first = complete(send(one))
    assert sorted(store.puts()) == [
        "session.json",
        "tracks/a/b/data.jsonl",
        "tracks/a/b/metadata.json",
        "tracks/loss/000000000000-000000000010.parquet",
        "tracks/loss/000000000010-000000000020.parquet",
        "tracks/loss/data.jsonl",
        "tracks/loss/metadata.json",
    ]
    local = [path for path in one.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert (first.objects, first.left) == (len(local), 0)
    assert first.bytes >= sum(path.stat().st_size for path in local)
    assert_same(one, "loss", "a/b")

    store.calls.clear()
    assert complete(send(one)).objects == 0
    assert store.calls == []

    with one.session() as session:
        session.track("loss").append(v=1.0, _ts=5000.0)
        session.parameters().set(lr=0.1)
        session.log("hello")
        session.flush()
        assert complete(send(one)).objects == 4
        assert sorted(store.puts()) == ["logs/logs.jsonl", "parameters.json", "session.json", "tracks/loss/data.jsonl"]
        assert complete(send(one)).objects == 0
    assert complete(send(one)).objects == 1
    assert store.puts() == ["session.json"]  # it says finished now
    assert_same(one, "loss", "a/b")


def test_requests_on_s3(tmp_path: Path, proxied: RemoteStore, s3_proxy: Proxy) -> None:
    """One for each object, and one look at the track before a new segment."""
    one = Machine(tmp_path / "one", proxied).write(points(0, 25))
    with s3_proxy.counting() as seen:
        complete(send(one))
    assert [request.kind for request in seen] == ["PUT"] * 5
    assert [request.condition for request in seen] == ["*"] * 5
    with s3_proxy.counting() as seen:
        complete(send(one))
    assert seen == []
    one.write(points(25, 33))
    with s3_proxy.counting() as seen:
        complete(send(one))
    assert [(request.kind, request.key.rpartition("/")[2]) for request in seen] == [
        ("LIST", ""),
        ("PUT", "000000000020-000000000030.parquet"),
        ("PUT", "data.jsonl"),
        ("PUT", "session.json"),
    ]
    assert_same(one)


def test_a_track_goes_in_the_order_that_readers_need(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 1), "first").push()
    memory.puts()
    one.write(points(0, 85))
    complete(send(one))
    segments = [SegmentName(start, start + 10).filename for start in range(0, 80, 10)]
    wanted = ["metadata.json", *segments, "data.jsonl"]
    assert memory.puts() == [*(f"{below('loss')}/{name}" for name in wanted), "session.json"]


def test_a_session_that_nobody_can_find_yet_goes_side_by_side(tmp_path: Path, memory: Watched) -> None:
    """Its segments before its session.json, all but the first in any order: each waits here until the last is asked."""
    one = Machine(tmp_path / "one", memory).write(points(0, 10 * memory.width + 15)).write(points(0, 3), "small")
    segments = sorted(name for name in one.files() if name.endswith(".parquet"))
    gate = threading.Barrier(memory.width)

    def wait(method: str, path: str) -> None:
        if path.rpartition("/")[2] in segments[1:]:
            gate.wait(60)
        if method == "put" and path.endswith("session.json"):
            assert {entry.name for entry in memory.list(LOSS)} == {"metadata.json", *segments}

    memory.before = wait
    complete(send(one))
    loss = [path.rpartition("/")[2] for path in memory.puts() if path.startswith(below("loss"))]
    assert loss[:2] == ["metadata.json", segments[0]]
    assert sorted(loss[2:-1]) == segments[1:]
    assert loss[-1] == "data.jsonl"
    assert_same(one, "loss", "small")


@pytest.mark.parametrize("path", ["session.json", "hosts/ab/session.json"])
def test_a_session_that_somebody_can_find_goes_in_order(tmp_path: Path, memory: Watched, path: str) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 85))
    memory.put(f"{SESSION}/{path}", (one.folder / "session.json").read_bytes())
    complete(send(one))
    segments = [name for name in memory.puts() if name.endswith(".parquet")]
    assert segments == [f"{below('loss')}/{SegmentName(start, start + 10).filename}" for start in range(0, 80, 10)]


def holes(store: Watched) -> list[str]:
    """The tracks in which a reader of the replica meets a hole; none while it cannot find the session."""
    if "session.json" not in {entry.name for entry in RemoteStore.list(store, SESSION)}:
        return []
    listings = {name: RemoteStore.list(store, f"{SESSION}/{below(name)}") for name in ("loss", "other")}
    return [
        name
        for name, entries in listings.items()
        if live.survey(live.parse_listing(entry.name for entry in entries))[1]
    ]


@pytest.mark.parametrize("failing", range(8))
def test_where_an_upload_of_the_first_pass_fails_readers_find_no_hole(
    tmp_path: Path, memory: Watched, failing: int
) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 85)).write(points(0, 15), "other")
    name = SegmentName(10 * failing, 10 * failing + 10).filename

    def fail(method: str, path: str) -> None:
        if method == "put" and path == f"{LOSS}/{name}":
            raise OSError(5, "the server is not well", path)

    memory.before = fail
    memory.after = lambda method, path: None if not holes(memory) else pytest.fail(f"a hole after {method} {path}")
    for _ in range(2):  # the second begins with few objects left
        outcome = send(one)
        assert below("loss") in [place for place, _ in outcome.failures]
        assert holes(memory) == []
    memory.before = nothing
    complete(send(one))
    assert_same(one, "loss", "other")


@pytest.mark.parametrize("moment", ["before", "after", "save"])
def test_a_first_pass_that_is_killed_leaves_no_hole_to_find(tmp_path: Path, moment: str) -> None:
    """Nor does the second one make it one, whatever is left for it, and whichever call of its own fails."""
    number = 0
    process = Process(0)
    while not number or process.dead:
        store = Watched(f"memory://{uuid.uuid4().hex}")
        one = Machine(tmp_path / str(number), store).write(points(0, 85)).write(points(0, 15), "other")
        process = killed_pass(one, store, moment, number)
        assert holes(store) == []
        puts = iter(range(100))

        def fail(method: str, path: str, puts: Iterator[int] = puts, store: Watched = store) -> None:
            assert holes(store) == []
            if method == "put" and next(puts) == 1:
                raise OSError(5, "the server is not well", path)

        store.before = fail
        send(one)
        store.before = lambda method, path, store=store: None if not holes(store) else pytest.fail(path)  # type: ignore[misc]
        complete(send(one))
        assert holes(store) == []
        assert_same(one, "loss", "other")
        number += 1
    assert number > (4 if moment == "save" else 10)


def test_an_object_that_is_refused_for_good_does_not_keep_the_rest_back_for_ever(
    tmp_path: Path, memory: Watched
) -> None:
    """Whoever runs it, each time anew: what else there is would be lost with this machine."""
    one = Machine(tmp_path / "one", memory).write(points(0, 85)).write(points(0, 15), "other")

    def refuse(method: str, path: str) -> None:
        if method == "put" and path.endswith(SegmentName(20, 30).filename):
            raise PermissionError(13, "not this one", path)

    memory.before = refuse
    for number in range(push_module.HELD):
        assert one.known.held == number
        assert holes(memory) == []
        send(one)
    assert holes(memory) == ["loss"]
    assert one.remote_rows("other") == one.rows("other")
    memory.before = nothing
    complete(send(one))
    assert_same(one, "loss", "other")


def test_a_hole_is_filled_where_the_hot_file_cannot_be_sent(tmp_path: Path, memory: Watched) -> None:
    """And a segment that cannot be read here, behind the hole, is no reason to show it."""
    one = Machine(tmp_path / "one", memory).write(points(0, 85)).write(points(0, 15), "other")

    def refuse(method: str, path: str) -> None:
        if method == "put" and path.endswith(SegmentName(20, 30).filename):
            raise OSError(5, "the server is not well", path)

    memory.before = refuse
    last = one.folder / below("loss") / SegmentName(70, 80).filename
    whole = last.read_bytes()
    last.write_bytes(whole[:-1])
    send(one)
    assert holes(memory) == []
    (one.folder / below("loss") / "data.jsonl").write_bytes(b"{no point}\n")
    send(one)
    assert holes(memory) == []
    memory.before = nothing
    send(one)
    assert holes(memory) == []
    assert len(one.remote_rows("loss")) == 70
    assert one.remote_rows("other") == one.rows("other")


def test_a_listing_that_fails_is_told_and_shows_nothing(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 85))

    def refuse(method: str, path: str) -> None:
        if method == "list" or (method == "put" and path.endswith(SegmentName(20, 30).filename)):
            raise OSError(5, "the server is not well", path)

    memory.before = refuse
    assert [place for place, _ in send(one).failures] == ["session.json"]
    assert memory.puts() == []


@pytest.mark.parametrize("reads", [0, 1], ids=["at once", "when it is sent"])
def test_a_segment_that_cannot_be_read_here_keeps_nobody_from_the_run(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch, reads: int
) -> None:
    """What comes behind it waits, where that is known in time; then readers find what comes before it, and no hole."""
    one = Machine(tmp_path / "one", memory).write(points(0, 85)).write(points(0, 15), "other")
    real, left = TrackHere.segment, iter(range(reads))

    def segment(here: TrackHere, name: SegmentName) -> bytes:
        if here.below == below("loss") and name.start == 30 and next(left, None) is None:
            raise OSError(5, "Input/output error", name.filename)
        return real(here, name)

    with monkeypatch.context() as patch:
        patch.setattr(TrackHere, "segment", segment)
        outcome = send(one)
    assert {place for place, _ in outcome.failures} == {below("loss")}
    assert one.remote_rows("other") == one.rows("other")
    assert holes(memory) == (["loss"] if reads else [])
    complete(send(one))
    assert_same(one, "loss", "other")


def test_of_two_that_send_a_new_session_at_once_one_has_the_track(tmp_path: Path, store: Watched) -> None:
    machines = [
        Machine(tmp_path / f"{number}", store).write(points(0, 125, by=number)).write(points(0, 9), f"own{number}")
        for number in range(3)
    ]
    gate = threading.Barrier(3)
    outcomes: dict[int, Outcome] = {}

    def run(number: int) -> None:
        gate.wait()
        outcomes[number] = send(machines[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.failures for outcome in outcomes.values()] == [[]] * 3
    (winner,) = [number for number, outcome in outcomes.items() if outcome.complete]
    assert_same(machines[winner], "loss")
    for number, machine in enumerate(machines):
        assert_same(machine, f"own{number}")
        assert len(outcomes[number].conflicts) == (number != winner)


def test_hot_bytes_are_those_from_before_the_listing(tmp_path: Path, memory: Watched) -> None:
    """A roll between the two looks: its segment goes up, and the lines that were read, which it hides."""
    one = Machine(tmp_path / "one", memory).write(points(0, 15))
    real = TrackHere._read

    def read(self: TrackHere, filename: str) -> bytes | None:
        data = real(self, filename)
        if filename == layout.HOT_FILE and not one.files() & {SegmentName(10, 20).filename}:
            one.write(points(15, 24))
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrackHere, "_read", read)
        complete(send(one))
    assert memory.get(f"{LOSS}/data.jsonl").count(b"\n") == 5
    assert memory.get(f"{LOSS}/data.jsonl").startswith(b'{"index":10')
    assert [row["i"] for row in one.remote_rows()] == list(range(20))
    complete(send(one))
    assert_same(one)


def test_a_torn_tail_is_not_sent(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 3))
    hot = one.folder / below("loss") / "data.jsonl"
    whole = hot.read_bytes()
    hot.write_bytes(whole + b'{"index":3,"data":{"i":3')
    complete(send(one))
    assert memory.get(f"{LOSS}/data.jsonl") == whole
    memory.puts()
    complete(send(one))
    assert memory.puts() == []


def test_an_empty_hot_file_after_a_roll(tmp_path: Path, store: Watched) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 7))
    complete(send(one))
    one.write(points(7, 20))
    assert (one.folder / below("loss") / "data.jsonl").read_bytes() == b""
    complete(send(one))
    assert store.get(f"{LOSS}/data.jsonl") == b""
    one.write(points(20, 24))
    complete(send(one))
    assert_same(one)


def test_a_track_without_a_hot_file(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 10))
    (one.folder / below("loss") / "data.jsonl").unlink(missing_ok=True)
    complete(send(one))
    assert_same(one)
    assert complete(send(one)).objects == 0


def test_a_hot_file_that_is_gone_is_an_empty_one(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 7)).push().write(points(7, 10))
    (one.folder / below("loss") / "data.jsonl").unlink()
    complete(send(one))
    assert memory.get(f"{LOSS}/data.jsonl") == b""
    assert_same(one)


def test_files_that_were_not_touched_are_not_read_again(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand, "SETTLED", -3600.0)
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        for name in ("loss", "acc"):
            session.track(name).append(v=1.0)
        session.log("hello")
        session.flush()
        always = {"session.json", "parameters.json"}
        read: list[str] = []
        real = tracks.LocalStore.get
        monkeypatch.setattr(
            tracks.LocalStore, "get", lambda self, path, *rest: read.append(path) or real(self, path, *rest)
        )
        seen: dict[str, Any] = {}
        complete(send(one, seen=seen))
        assert {"tracks/loss/data.jsonl", "tracks/acc/data.jsonl", "logs/logs.jsonl"} <= set(read)
        read.clear()
        complete(send(one, seen=seen))
        assert set(read) == always
        session.track("loss").append(v=2.0)
        session.flush()
        read.clear()
        complete(send(one, seen=seen))
        assert set(read) == always | {"tracks/loss/data.jsonl", "tracks/loss/metadata.json"}
    complete(send(one, seen=seen))
    # What was forgotten, since it is not there any more, is sent in spite of what was seen.
    known = state.load(str(one.folder))
    known.remote(memory.describe()).track(below("acc")).hot = state.Sent()
    memory.delete(f"{SESSION}/{below('acc')}/data.jsonl")
    complete(push(str(one.folder), SESSION, memory, known, seen=seen))
    assert_same(one, "loss", "acc")


def test_a_file_that_was_just_written_may_be_another_with_the_same_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"1")
    assert stand.stand(str(tmp_path / "x")) is None
    assert stand.stand(str(tmp_path / "none")) == ()
    monkeypatch.setattr(stand, "SETTLED", -3600.0)
    before = stand.stand(str(tmp_path / "x"))
    assert before
    (tmp_path / "y").write_bytes(b"1")
    (tmp_path / "y").replace(tmp_path / "x")
    assert stand.stand(str(tmp_path / "x")) not in (before, None, ())


def test_progress_adds_up(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 95)).write(points(0, 5), "a").write(points(0, 5), "b")
    progress = Progress()
    totals: list[int] = []
    memory.after = lambda method, path: totals.append(progress.bytes_total)
    outcome = complete(send(one, progress=progress))
    assert (progress.objects_done, progress.bytes_done) == (outcome.objects, outcome.bytes)
    assert (progress.objects_total, progress.bytes_total) == (outcome.objects, outcome.bytes)
    assert totals[1] >= 0.9 * outcome.bytes  # nearly all is known before the first track is sent


# ------------------------------------------------------------------------------------------------ readers meanwhile


def read_all_the_time(lake: Lake, stop: threading.Event, found: list[Any]) -> None:
    seen = 0
    try:
        while not stop.is_set():
            rows = [point["data"]["i"] for point in lake.session("s", "w").track("loss").read(limit=None)["data"]]
            assert rows == list(range(len(rows)))
            assert len(rows) >= seen
            seen = len(rows)
            found.append(seen)
    except BaseException as error:
        found.append(error)


def test_a_reader_finds_a_beginning_of_the_track_at_any_moment(tmp_path: Path, store: Watched) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 1))
    seen: dict[str, Any] = {}
    complete(send(one, seen=seen))
    stop, found = threading.Event(), list[Any]()
    options = store._options
    reader = threading.Thread(target=read_all_the_time, args=(Lake(store._url, options), stop, found))
    reader.start()
    known = state.load(str(one.folder))
    try:
        with one.session() as session:
            for start in range(1, 400, 7):
                for fields in points(start, start + 7):
                    session.track("loss").append(**fields)
                session.flush()
                complete(push(str(one.folder), SESSION, store, known, seen=seen))
            crashlib.wait_for(lambda: found and (found[-1] == 400 or isinstance(found[-1], BaseException)))
    finally:
        stop.set()
        reader.join()
    assert found[-1] == 400, found[-1]
    assert len(set(found)) > 3


def test_segments_of_a_backlog_come_in_order(tmp_path: Path, store: Watched) -> None:
    """Between any two requests the replica can be read; the hot object first, as readers do."""
    one = Machine(tmp_path / "one", store).write(points(0, 5))
    complete(send(one))
    one.write(points(5, 78))
    lengths: list[int] = []

    def look(method: str, path: str) -> None:
        if method == "put":
            rows = one.remote_rows()
            assert [row["i"] for row in rows] == list(range(len(rows)))
            lengths.append(len(rows))

    store.after = look
    complete(send(one))
    assert lengths == [10, 20, 30, 40, 50, 60, 70, 78, 78]


# ------------------------------------------------------------------------------------------------ lost and cut off


def test_lost_replies(tmp_path: Path, proxied: RemoteStore, s3_proxy: Proxy, quick: None) -> None:
    """Every fourth PUT acts, and its reply never comes."""
    one = Machine(tmp_path / "one", proxied)
    puts = [0]

    def plan(request: Request) -> Fault | None:
        puts[0] += request.method == "PUT"
        return Fault.LOST_REPLY if request.method == "PUT" and puts[0] % 4 == 0 else None

    s3_proxy.plan = plan
    with one.session() as session:
        for start in range(0, 90, 9):
            for fields in points(start, start + 9):
                session.track("loss").append(**fields)
                session.track("other").append(**fields)
            session.log(f"{start}")
            session.flush()
            complete(send(one))
    complete(send(one))
    assert puts[0] > 40
    s3_proxy.plan = lambda request: None
    assert_same(one, "loss", "other")


class Process:
    """A process that dies at its `number`-th step; nothing that its threads do afterwards takes effect."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.dead = False

    def ask(self, *_: object) -> None:
        if self.dead:
            raise Killed

    def step(self, *_: object) -> None:
        self.ask()
        self.left -= 1
        if self.left < 0:
            self.dead = True
        self.ask()

    def save(self, folder: str, known: state.ReplicaState) -> None:
        self.ask()
        state.save(folder, known)

    def save_or_die(self, folder: str, known: state.ReplicaState) -> None:
        self.step()
        state.save(folder, known)


def killed_pass(one: Machine, store: Watched, moment: str, number: int) -> Process:
    """A pass that is killed before or after its `number`-th call, or at that save of the state; it lives if fewer."""
    process = Process(number)
    setattr(store, moment if moment != "save" else "before", process.step if moment != "save" else process.ask)
    if moment == "after":
        store.before = process.ask
    with pytest.MonkeyPatch.context() as patch:
        keep = process.save if moment != "save" else process.save_or_die
        patch.setattr("dreamlake.engine.replica.ledger.save", keep)
        with contextlib.suppress(Killed):
            send(one)
    store.before = store.after = nothing
    return process


def deaths(folder: Path, moment: str, prepare: Callable[[Machine], None], changed: Callable[[Machine], None]) -> int:
    """Kill a pass before or after each of its calls, or saves of the state, in turn; the next one finishes it."""
    number = 0
    while True:
        store = Watched(f"memory://{uuid.uuid4().hex}")
        one = Machine(folder / str(number), store)
        prepare(one)
        process = killed_pass(one, store, moment, number)
        changed(one)
        complete(send(one))
        assert_same(one, "loss", "other")
        complete(send(one))
        shutil.rmtree(one.root)
        if not process.dead:
            return number
        number += 1


@pytest.mark.parametrize("moment", ["before", "after", "save"])
@pytest.mark.parametrize("meanwhile", [0, 3, 14])
def test_a_kill_at_any_moment(memory_path: Path, moment: str, meanwhile: int) -> None:
    """Of a pass that replaces hot objects and sends segments; points are added before the next one, or not."""

    def prepare(one: Machine) -> None:
        one.write(points(0, 6)).write(points(0, 6), "other").push()
        one.write(points(6, 27)).write(points(6, 8), "other")

    def changed(one: Machine) -> None:
        if meanwhile:
            one.write(points(27, 27 + meanwhile)).write(points(8, 8 + meanwhile), "other")

    assert deaths(memory_path, moment, prepare, changed) >= (3 if moment == "save" else 5)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_moment_of_the_first_pass(memory_path: Path, moment: str) -> None:
    def prepare(one: Machine) -> None:
        one.write(points(0, 26)).write(points(0, 6), "other")

    assert deaths(memory_path, moment, prepare, lambda one: None) == 7


@pytest.mark.parametrize("moment", ["before", "after", "save"])
@pytest.mark.parametrize("first", [False, True], ids=["a later pass", "the first pass"])
def test_a_kill_at_any_moment_before_values_are_replaced_and_older_forms_swept(
    memory_path: Path, moment: str, first: bool
) -> None:
    """What may have been sent is known when the two sides are compared, though nothing here has its bytes any more."""

    def prepare(one: Machine) -> None:
        one.write(points(0, 27)).write(points(0, 6), "other")
        if not first:
            one.push()
        one.write([{"late": 1.0, "_ts": 1003.0}, {"late": 1.0, "_ts": 1013.0}, *points(27, 57)])

    def changed(one: Machine) -> None:
        one.write([{"late": 2.0, "v": 9.0, "_ts": at} for at in (1003.0, 1013.0, 1023.0, 1043.0)])
        folder = one.folder / below("loss")
        names = live.parse_listing(os.listdir(folder))
        older = live.superseded(names, live.live_segments(names))
        assert len(older) >= 4
        for name in older:
            (folder / name.filename).unlink()
        assert one.check().conflicts == {}

    assert deaths(memory_path, moment, prepare, changed) >= (3 if moment == "save" else 4)


def test_segments_are_sent_where_the_disk_is_full(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the replica may be dropped here, which makes room."""
    one = Machine(tmp_path / "one", memory).write(points(0, 5)).push().write(points(5, 35))
    memory.calls.clear()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", ".replica.json")

    with monkeypatch.context() as patch:
        patch.setattr("dreamlake.engine.replica.ledger.save", full)
        assert not send(one).complete
    assert memory.puts() == [f"tracks/loss/{SegmentName(at, at + 10).filename}" for at in (0, 10, 20)]
    complete(send(one))
    assert_same(one)


def test_segments_that_vanish_on_the_replica_during_a_pass_are_noted_anew(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 5)).push().write(points(5, 25))
    last = SegmentName(10, 20).filename
    sent: list[str] = []

    def look(method: str, path: str) -> None:
        if method == "put" and path.endswith(".parquet"):
            sent.append(path.rpartition("/")[2])
            assert sent[-1] in one.of().going

    def delete(method: str, path: str) -> None:
        if method == "put" and path.endswith(last):
            memory.after = nothing
            for entry in memory.list(LOSS):
                memory.delete(f"{LOSS}/{entry.name}")

    memory.before, memory.after = look, delete
    monkeypatch.setattr(tracks, "BREATH", -1.0)
    monkeypatch.setattr("dreamlake.engine.replica.ledger.BREATH", -1.0)
    complete(send(one))
    assert sent == [SegmentName(0, 10).filename, last] * 2
    assert_same(one)


def test_large_segments_are_read_one_after_the_other_to_be_noted(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there is room for among those that are on their way."""
    one = Machine(tmp_path / "one", memory)
    names = [f"t{number}" for number in range(12)]
    for name in names:
        one.write(points(0, 65), name)
    reading: list[int] = []
    most: list[int] = []
    real = TrackHere.segment

    def segment(here: TrackHere, name: SegmentName) -> bytes:
        reading.append(1)
        most.append(len(reading))
        time.sleep(0.002)  # room for the others to come in
        data = real(here, name)
        reading.pop()
        return data

    monkeypatch.setattr(TrackHere, "size", lambda here, filename: sending.SEGMENT_BYTES - 1)
    monkeypatch.setattr(TrackHere, "segment", segment)
    complete(send(one))
    assert max(most) == 1
    assert_same(one, *names)


def test_an_older_set_of_segments_is_never_noted_last(tmp_path: Path, memory: Watched) -> None:
    """One thread waits for the state, which is being saved, while another has sent one more."""
    one = Machine(tmp_path / "one", memory).write(points(0, 25))
    known = state.TrackState()
    second = threading.Event()

    class Slow(Ledger):
        def __enter__(self) -> state.ReplicaState:
            if threading.current_thread() is first:
                second.wait(0.5)  # in vain, where the other cannot overtake
            return super().__enter__()

        def __exit__(self, *error: object) -> None:
            super().__exit__(*error)
            if threading.current_thread() is not first:
                second.set()

    ledger = Slow(str(one.folder), state.load(str(one.folder)))
    sender = sending.Sender(memory, ledger, Progress(), lambda: False)
    local = LocalStore(str(one.folder))
    track = tracks.TrackSender(below("loss"), local, SESSION, known, sender, {}, time.time)
    taken = threading.Event()
    track._segments.add(SegmentName(0, 10))
    track._changed = True
    first = threading.Thread(target=lambda: (taken.set(), track.note()))
    first.start()
    taken.wait()
    time.sleep(0.05)  # it waits for the state by now
    track._segments.add(SegmentName(10, 20))
    track._changed = True
    track.note()
    first.join()
    assert known.segments == {SegmentName(0, 10), SegmentName(10, 20)}


def test_a_segment_that_cannot_be_looked_at_keeps_no_other_track_back(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 5)).write(points(0, 5), "other").push()
    one.write(points(5, 25)).write(points(5, 25), "other")
    size, prepare = TrackHere.size, tracks.TrackSender.prepare
    begun: list[str] = []

    def failing(here: TrackHere, filename: str) -> int:
        if here.below in begun and here.below == below("loss"):
            raise OSError(5, "Input/output error", filename)
        return size(here, filename)

    def prepare_and_fail(track: tracks.TrackSender) -> int:
        begun.append(track.below)
        return prepare(track)

    with monkeypatch.context() as patch:
        patch.setattr(TrackHere, "size", failing)
        patch.setattr(tracks.TrackSender, "prepare", prepare_and_fail)
        outcome = send(one)
    assert [place for place, _ in outcome.failures] == [below("loss")]
    assert_same(one, "other")
    complete(send(one))
    assert_same(one)


def test_a_folder_that_was_brought_back_is_not_what_was_sent(tmp_path: Path, memory: Watched) -> None:
    """Its state is newer than a segment: the same name was sent with other bytes."""
    one = Machine(tmp_path / "one", memory).write(points(0, 12)).push()
    older = one.copy(tmp_path / "older").write([{"v": 222.0, "_ts": 1003.0}])
    one.write([{"v": 111.0, "_ts": 1003.0}])
    name = SegmentName(0, 10, 1)
    sha = state.digest((one.folder / below("loss") / name.filename).read_bytes())
    one.push()
    known = state.load(str(older.folder))
    known.remote(memory.describe()).track(below("loss")).about_to_send({name.filename: sha})
    state.save(str(older.folder), known)
    assert list(older.check().conflicts) == [below("loss")]


def test_a_late_field_after_a_kill_that_lost_a_segment(tmp_path: Path, memory: Watched) -> None:
    """The replica has a form of the segment that nobody knows of any more; the later one goes beside it."""
    one = Machine(tmp_path / "one", memory).write(points(0, 5)).push().write(points(5, 15))
    before = (one.folder / layout.REPLICA_FILE).read_bytes()
    complete(send(one))
    (one.folder / layout.REPLICA_FILE).write_bytes(before)  # the hot object's new SHA-256 among what was not saved
    known = state.load(str(one.folder))
    known.remote(memory.describe()).track(below("loss")).hot.about_to_send(
        state.digest(memory.get(f"{LOSS}/data.jsonl"))
    )
    state.save(str(one.folder), known)
    one.write([{"late": 1, "_ts": 1003.0}])
    (one.folder / below("loss") / SegmentName(0, 10).filename).unlink()
    complete(send(one))
    assert_same(one)


def test_an_upload_that_was_cut_off_where_files_are_seen_half_written(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 12))
    segment = SegmentName(0, 10).filename
    data = (one.folder / below("loss") / segment).read_bytes()
    memory.put(f"{LOSS}/{segment}", data[:100])
    complete(send(one))
    assert memory.get(f"{LOSS}/{segment}") == data


def test_a_lost_reply_before_a_long_outage(tmp_path: Path, memory: Watched) -> None:
    """More passes fail than SHA-256s are kept: then the content says that nobody else was there."""
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        for number in range(2 * state.SHAS_KEPT):
            session.track("loss").append(i=number, _ts=float(number))
            session.track("calm").append(i=number, _ts=float(number))
            session.flush()
            if number == 0:
                complete(send(one))
            elif number == 1:
                memory.after = lose
            outcome = send(one)
            if number == 1:
                memory.after, memory.before = nothing, lose
            assert outcome.ended == (number > 0)
        memory.before = nothing
        complete(send(one))
    complete(send(one))
    assert_same(one, "loss", "calm")


def nothing(method: str, path: str) -> None:
    return


def lose(method: str, path: str) -> None:
    raise ConnectionError(104, "reset", path)


def test_nothing_is_noted_while_the_network_is_known_to_be_down(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 5)).write(points(0, 5), "b").push()
    one.write(points(5, 6)).write(points(5, 6), "b")
    memory.before = lose
    seen: dict[str, Any] = {}
    assert send(one, seen=seen).ended
    known = one.known
    for number in range(6, 9):
        one.write(points(number, number + 1)).write(points(number, number + 1), "b")
        memory.calls.clear()
        outcome = send(one, seen=seen)
        assert outcome.ended
        assert [place for place, _ in outcome.failures] == ["session.json"]
        assert memory.calls == [("stat", f"{SESSION}/session.json")]
    assert one.known == known
    memory.before = nothing
    for path in memory.walk(SESSION):
        memory.delete(path)
    complete(send(one, seen=seen))
    memory.calls.clear()
    complete(send(one, seen=seen))
    assert memory.calls == []


# ------------------------------------------------------------------------------------------------ other machines


def test_two_machines_on_one_track(tmp_path: Path, store: Watched) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 5))
    complete(send(one))
    two = Machine(tmp_path / "two", store).write(points(100, 107), "loss").write(points(0, 3), "mine")
    outcome = send(two)
    assert not outcome.complete
    assert outcome.failures == []
    (sentence,) = outcome.conflicts
    assert "'loss'" in sentence
    assert str(two.folder / "tracks" / "loss") in sentence
    assert store.describe(LOSS) in sentence
    assert len(one.remote_rows()) == 5
    assert_same(two, "mine")
    # It stays so, without a request, and costs the others nothing.
    store.puts()
    two.write(points(107, 109)).write(points(3, 4), "mine")
    assert send(two).conflicts == [sentence]
    assert sorted(store.puts()) == [
        f"hosts/{state.load(str(two.folder)).machine}/session.json",
        "tracks/mine/data.jsonl",
    ]
    assert len(two.rows()) == 9
    one.write(points(5, 8))
    complete(send(one))
    assert_same(one)


def test_a_machine_that_went_on_from_a_copy_loses_to_the_other(tmp_path: Path, store: Watched) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 5)).write(points(0, 5), "calm")
    complete(send(one))
    two = one.copy(tmp_path / "two")
    two.write(points(5, 8, by="two"))
    complete(send(two))
    one.write(points(5, 9, by="one")).write(points(5, 6), "calm")
    outcome = send(one)
    assert len(outcome.conflicts) == 1
    assert [row.get("by") for row in one.remote_rows()] == [None] * 5 + ["two"] * 3
    assert [row.get("by") for row in one.rows()] == [None] * 5 + ["one"] * 4
    assert_same(one, "calm")
    two.write(points(8, 12, by="two"))
    complete(send(two))
    assert_same(two)


def test_a_roll_does_not_hide_the_lines_of_another(tmp_path: Path, store: Watched) -> None:
    """A new segment would cover what the other has in its hot object: the hot object is looked at first."""
    one = Machine(tmp_path / "one", store).write(points(0, 5))
    complete(send(one))
    two = one.copy(tmp_path / "two").write(points(5, 8, by="two"))
    complete(send(two))
    one.write(points(5, 14, by="one"))
    assert len(send(one).conflicts) == 1
    assert_same(two)


def test_a_segment_of_another_is_not_overwritten(tmp_path: Path, store: Watched) -> None:
    """Both rolled in full, so that their hot objects are equal: empty."""
    one = Machine(tmp_path / "one", store).write(points(0, 10))
    complete(send(one))
    two = one.copy(tmp_path / "two").write(points(10, 20, by="two"))
    complete(send(two))
    one.write(points(10, 20, by="one"))
    assert len(send(one).conflicts) == 1
    assert_same(two)


def test_an_empty_hot_object_is_no_proof_that_it_is_ours(tmp_path: Path, memory: Watched) -> None:
    """The other rolled, which left a hot object like the one that was here after an earlier roll."""
    one = Machine(tmp_path / "one", memory)
    for start, stop in ((0, 7), (7, 10), (10, 12)):
        one.write(points(start, stop)).push()
    two = one.copy(tmp_path / "two").write(points(12, 20, by="two"))
    complete(send(two))
    assert memory.get(f"{LOSS}/data.jsonl") == b""
    one.write(points(12, 13, by="one"))
    assert len(send(one).conflicts) == 1
    assert_same(two)


def test_machines_on_other_tracks_do_not_meet(tmp_path: Path, store: Watched) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 5), "a")
    two = Machine(tmp_path / "two", store).write(points(0, 5), "b")
    for machine, own in ((one, "a"), (two, "b"), (one, "a"), (two, "b")):
        with machine.session() as session:
            session.parameters().set(**{own: 1})
            session.log(f"by {own}")
        complete(send(machine))
        machine.write(points(5, 9), own)
        complete(send(machine))
    assert_same(one, "a")
    assert_same(two, "b")
    hosts = f"hosts/{state.load(str(two.folder)).machine}"
    assert one.known.origin is True
    assert two.known.origin is False
    for path in ("session.json", "parameters.json", "logs/logs.jsonl"):
        mine, theirs = (machine.folder.joinpath(path).read_bytes() for machine in (one, two))
        if path == "session.json":
            mine, theirs = (stripped(store.get(f"{SESSION}/{each}")) for each in (path, f"{hosts}/{path}"))
            assert mine == stripped((one.folder / path).read_bytes())
            assert theirs == stripped((two.folder / path).read_bytes())
        else:
            assert store.get(f"{SESSION}/{path}") == mine
            assert store.get(f"{SESSION}/{hosts}/{path}") == theirs
    assert not list(two.folder.glob("hosts*"))


def stripped(data: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(data)
    fields.pop("lastTs", None)
    return fields


def test_the_first_of_two_has_the_plain_names(tmp_path: Path, store: Watched) -> None:
    machines = [Machine(tmp_path / str(number), store).write(points(0, 2), f"t{number}") for number in range(4)]
    outcomes: list[Outcome] = []
    gate = threading.Barrier(4)

    def run(machine: Machine) -> None:
        gate.wait()
        outcomes.append(send(machine))

    threads = [threading.Thread(target=run, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.complete for outcome in outcomes] == [True] * 4, outcomes
    assert sorted(str(machine.known.origin) for machine in machines) == ["False"] * 3 + ["True"]
    assert len([path for path in store.walk(SESSION) if path.endswith("session.json")]) == 4


def test_the_machine_that_made_the_session_knows_it_again(tmp_path: Path, store: Watched) -> None:
    """Also when what was sent is forgotten: by when the session was made."""
    one = Machine(tmp_path / "one", store).write(points(0, 5))
    complete(send(one))
    one.forget().write(points(5, 6), "other")
    outcome = send(one)
    assert one.known.origin is True
    assert outcome.failures == []
    assert not [path for path in store.walk(SESSION) if "hosts" in path]
    assert stripped(store.get(f"{SESSION}/session.json")) == stripped((one.folder / "session.json").read_bytes())


@pytest.mark.parametrize("path", ["session.json", "parameters.json", "logs/logs.jsonl"])
def test_a_plain_name_that_another_took_since(tmp_path: Path, store: Watched, path: str) -> None:
    one = Machine(tmp_path / "one", store)
    with one.session() as session:
        session.track("loss").append(v=1)
        session.parameters().set(lr=0.1)
        session.log("hello")
    complete(send(one))
    store.put(f"{SESSION}/{path}", b"{}")
    with one.session() as session:
        session.parameters().set(lr=0.2)
        session.log("again")
    complete(send(one))
    assert one.known.origin is False
    assert store.get(f"{SESSION}/{path}") == b"{}"
    hosts = f"{SESSION}/hosts/{state.load(str(one.folder)).machine}"
    assert len(store.walk(hosts)) == 3
    assert store.get(f"{hosts}/logs/logs.jsonl").count(b"\n") == 2
    assert json.loads(store.get(f"{hosts}/parameters.json"))["data"] == {"lr": 0.2}
    assert complete(send(one)).objects == 0


def test_a_copied_folder_gets_an_id_of_its_own(tmp_path: Path, store: Watched) -> None:
    Machine(tmp_path / "one", store).write(points(0, 5)).push()
    two = Machine(tmp_path / "two", store).write(points(0, 2), "b").push()
    three = two.copy(tmp_path / "three").write(points(0, 2), "c")
    two.write(points(0, 2), "d")
    for machine in (two, three):
        complete(send(machine))
    assert state.load(str(two.folder)).machine != state.load(str(three.folder)).machine
    assert len([path for path in store.walk(SESSION) if path.endswith("session.json")]) == 3
    assert [complete(send(machine)).objects for machine in (two, three)] == [0, 0]


def test_parameters_that_were_taken_over_are_not_sent_as_ones_own(tmp_path: Path, memory: Watched) -> None:
    Machine(tmp_path / "one", memory).write(points(0, 1)).push()
    two = Machine(tmp_path / "two", memory)
    with two.session() as session:
        session.parameters().set(lr=0.1, seed=1, one=1.0, deep={"a": [1, 2]})
    known = state.load(str(two.folder))
    mine = known.remote(memory.describe())
    mine.origin, mine.base = False, {"lr": 0.1, "one": 1, "deep.a": [1, 2]}
    state.save(str(two.folder), known)
    complete(send(two))
    path = f"{SESSION}/hosts/{known.machine}/parameters.json"
    assert json.loads(memory.get(path))["data"] == {"seed": 1, "one": 1.0}
    with two.session() as session:
        session.parameters().set(lr=0.2)
    complete(send(two))
    assert json.loads(memory.get(path))["data"] == {"lr": 0.2, "seed": 1, "one": 1.0}
    with two.session() as session:
        session.parameters().set(lr=0.1, seed=1, one=1)
    complete(send(two))
    assert json.loads(memory.get(path))["data"] == {"seed": 1}


def test_nothing_is_sent_of_parameters_that_are_all_taken_over(tmp_path: Path, memory: Watched) -> None:
    two = Machine(tmp_path / "two", memory)
    with two.session() as session:
        session.parameters().set(lr=0.1)
    known = state.load(str(two.folder))
    mine = known.remote(memory.describe())
    mine.origin, mine.base = False, {"lr": 0.1}
    state.save(str(two.folder), known)
    complete(send(two))
    assert not [path for path in memory.walk() if path.endswith("parameters.json")]


def test_a_segment_that_was_there_already_is_not_taken_for_a_new_one(memory: Watched) -> None:
    """It may be another machine's, and is not to be taken back. (S3's answer tells the two apart no more.)"""
    sender = sending.Sender(memory, Ledger("", state.ReplicaState("m")), Progress(), lambda: False)
    assert sender.create("w/s/tracks/a/x.parquet", b"x" * 9)
    assert not sender.create("w/s/tracks/a/x.parquet", b"x" * 9)


def test_another_with_the_same_points_and_fewer_is_no_other(tmp_path: Path, store: Watched) -> None:
    """As after a copy of the folder by hand, or a state that was lost: this machine has all that is there."""
    Machine(tmp_path / "one", store).write(points(0, 25)).push()
    two = Machine(tmp_path / "two", store).write(points(0, 38))
    complete(send(two))
    assert_same(two)
    assert two.known.origin is False


def test_what_other_machines_wrote_goes_along_with_a_copy(tmp_path: Path, memory: Watched, store: Watched) -> None:
    for name in ("one", "two"):
        machine = Machine(tmp_path / name, memory)
        with machine.session() as session:
            session.track(name).append(v=1)
            session.parameters().set(**{name: 1})
        machine.push()
    copy = Machine(tmp_path / "copy", store)
    for path in memory.walk():
        (copy.root / path).parent.mkdir(parents=True, exist_ok=True)
        (copy.root / path).write_bytes(memory.get(path))
    complete(send(copy))
    assert sorted(store.walk()) == sorted(memory.walk())
    assert all(store.get(path) == memory.get(path) for path in store.walk())
    # What these machines write there themselves is not replaced by what was copied.
    (guest,) = [path for path in store.walk() if "hosts" in path and path.endswith("parameters.json")]
    store.put(guest, b"{}")
    (copy.root / guest).write_bytes(b"[]")
    complete(send(copy))
    assert store.get(guest) == b"{}"


# ------------------------------------------------------------------------------------------------ session.json


def last_ts_of(store: RemoteStore) -> Any:
    return json.loads(store.get(f"{SESSION}/session.json")).get("lastTs")


def test_the_highest_automatic_timestamp_goes_along(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        session.track("loss").append(v=1)
        session.flush()
        complete(send(one))
        drawn = session.track("loss").read()["data"][0]["data"]["_ts"]
        assert last_ts_of(memory) == drawn
        complete(send(one, last_ts=drawn + 5.0))
        assert last_ts_of(memory) == drawn + 5.0


@pytest.mark.parametrize("own", [float("-inf"), 5.0])
def test_the_highest_timestamp_of_another_process_goes_along(tmp_path: Path, memory: Watched, own: float) -> None:
    """This one only uploads. An explicit time far ahead hides others of its segment from whoever adopts it."""
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        session.track("loss").append(v=1)
        session.flush()
        drawn = session.track("loss").read()["data"][0]["data"]["_ts"]
    complete(send(one, last_ts=own))
    assert last_ts_of(memory) == drawn
    path = one.folder / "session.json"  # as while it runs: only the end of a session writes it there
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lastTs": None}))
    complete(send(one, last_ts=own))
    assert last_ts_of(memory) == drawn


def test_a_higher_timestamp_in_the_file_stays(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 1))
    path = one.folder / "session.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lastTs": 9e9}))
    complete(send(one, last_ts=1.0))
    assert last_ts_of(memory) == 9e9
    (one.folder / ".lock").unlink()
    complete(send(one))
    assert last_ts_of(memory) == 9e9


def test_it_comes_first_and_last(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 1))

    def change(method: str, path: str) -> None:
        if path.endswith("data.jsonl"):
            one.write([], "loss")
            session = one.folder / "session.json"
            session.write_text(session.read_text().replace('"finished"', '"failed"'))

    memory.after = change
    complete(send(one))
    puts = memory.puts()
    assert (puts[0], puts[-1]) == ("session.json", "session.json")
    assert json.loads(memory.get(f"{SESSION}/session.json"))["status"] == "failed"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_without_a_session_file_nothing_is_sent(tmp_path: Path, memory: Watched, content: bytes | None) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 1))
    path = one.folder / "session.json"
    path.unlink() if content is None else path.write_bytes(content)
    outcome = send(one)
    assert not outcome.complete
    ((place, error),) = outcome.failures
    assert place == "session.json"
    assert isinstance(error, FileNotFoundError if content is None else CorruptTrackError)
    assert memory.calls == []


# ------------------------------------------------------------------------------------------------ logs and files


def test_log_archives_are_sent_once(tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamlake.engine.logfile.FILE_LINES", 3)
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        session.track("loss").append(v=1)
        for number in range(5):
            session.log(f"{number}")
            session.flush()
            complete(send(one))
        for number in range(5, 8):
            session.log(f"{number}")
        session.flush()
        complete(send(one))
        assert sorted(memory.walk(f"{SESSION}/logs")) == [
            f"{SESSION}/logs/{name}" for name in ("0.jsonl", "1.jsonl", "logs.jsonl")
        ]
        paths = memory.puts()
        assert [paths.count(f"logs/{name}.jsonl") for name in (0, 1)] == [1, 1]
        records = Lake(memory._url).session("s", "w").logs()
        assert records["message"].to_list() == [f"{number}" for number in range(8)]


def test_an_archive_is_there_before_the_current_file_loses_its_lines(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamlake.engine.logfile.FILE_LINES", 3)
    one = Machine(tmp_path / "one", memory)
    seen: list[int] = []
    memory.after = lambda method, path: seen.append(
        len(Lake(memory._url).session("s", "w").logs()) if "/logs/" in path else 0
    )
    with one.session() as session:
        for number in range(20):
            session.log(f"{number}")
            session.flush()
            complete(send(one))
    found = [count for count in seen if count]
    assert found == sorted(found)
    assert found[-1] == 20


def test_files_go_before_what_is_said_of_them(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 1))
    files = one.folder / "files"
    for number in range(3):
        (files / f"model/{number}").mkdir(parents=True)
        (files / f"model/{number}/weights.bin").write_bytes(bytes([number]) * 1000)
    (files / ".tmp-1-1").write_bytes(b"beside")
    with one.session() as session:
        uploaded = filerecord.stored_path(session.files().upload(b"x", filename="x"))
    complete(send(one))
    puts = [path for path in memory.puts() if path.startswith("files/")]
    assert sorted(puts[:-1]) == sorted([uploaded, *(f"files/model/{number}/weights.bin" for number in range(3))])
    assert puts[-1] == "files/.files_metadata.json"
    assert memory.get(f"{SESSION}/files/model/2/weights.bin") == b"\2" * 1000
    assert complete(send(one)).objects == 0
    (files / "model/1/weights.bin").write_bytes(b"other")
    assert complete(send(one)).objects == 1
    assert memory.get(f"{SESSION}/files/model/1/weights.bin") == b"other"


def test_what_is_said_of_files_waits_for_them(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 1))
    with one.session() as session:
        path = filerecord.stored_path(session.files().upload(b"1", path="/a", filename="x"))

    def refuse(method: str, path: str) -> None:
        if path.endswith("/x"):
            raise PermissionError(13, "no", path)

    memory.before = refuse
    outcome = send(one)
    assert [place for place, _ in outcome.failures] == [path]
    assert not [path for path in memory.walk() if path.endswith(".files_metadata.json")]
    memory.before = nothing
    complete(send(one))


# ------------------------------------------------------------------------------------------------ late fields


def test_a_sweep_that_may_not_delete_is_no_failure(
    tmp_path: Path, memory: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 25))
    complete(send(one))
    one.write([{"late": 1, "_ts": 1003.0}])
    complete(send(one))

    def deny(method: str, path: str) -> None:
        if method == "delete":
            raise PermissionError(13, "denied", path)

    memory.before = deny
    later = time.time() + sweep.GRACE + 1
    complete(send(one, now=lambda: later))
    assert "stays, since it may not be deleted" in caplog.text
    memory.calls.clear()
    complete(send(one, now=lambda: later))
    assert "delete" not in {method for method, _ in memory.calls}
    assert_same(one)


def test_the_lock_of_a_writer_in_this_process_outlives_a_push(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownfiles, "LOCK_PATIENCE", 0.05)
    one = Machine(tmp_path / "one", memory).write(points(0, 5))
    path = os.path.join(one.folder, ".lock")

    def is_free() -> bool:
        code = f"from dreamlake.storage.lock import FileLock; FileLock.acquire({path!r}, 0.1)"
        done = subprocess.run([sys.executable, "-c", code], env=python_environment(), capture_output=True, text=True)
        assert done.returncode == 0 or "LockTimeoutError" in done.stderr
        return done.returncode == 0

    with FileLock.acquire(path, 1.0):
        complete(send(one))
        assert not is_free()  # closing any other descriptor of the file in this process would have ended the lock
    assert is_free()
    assert_same(one)


def test_a_later_generation_and_the_sweep_of_the_earlier(
    tmp_path: Path, store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand, "SETTLED", -3600.0)  # what was seen does not keep the sweep from being done
    seen: dict[str, Any] = {}
    one = Machine(tmp_path / "one", store).write(points(0, 25))
    clock = [1000.0]
    complete(send(one, now=lambda: clock[0], seen=seen))
    one.write([{"late": 1, "_ts": 1003.0}])
    store.puts()
    complete(send(one, now=lambda: clock[0], seen=seen))
    later = SegmentName(0, 10, 1).filename
    assert store.puts() == [f"{below('loss')}/{later}", "session.json"]
    assert_same(one)
    both = {SegmentName(0, 10).filename, later}
    for moment, there in ((1000.0 + sweep.GRACE - 1, both), (1000.0 + sweep.GRACE, {later})):
        clock[0] = moment
        assert complete(send(one, now=lambda: clock[0], seen=seen)).objects == 0
        names = {entry.name for entry in store.list(LOSS)}
        assert names & both == there
    assert SegmentName(0, 10) not in one.of().segments
    assert_same(one)
    store.calls.clear()
    complete(send(one, now=lambda: clock[0], seen=seen))
    assert store.calls == []


def test_a_clock_that_was_put_back_does_not_keep_leftovers_for_ever(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 25))
    complete(send(one))
    one.write([{"late": 1, "_ts": 1003.0}])
    for moment in (1e9, 1000.0, 1000.0 + sweep.GRACE):
        complete(send(one, now=lambda moment=moment: moment))
    assert SegmentName(0, 10).filename not in {entry.name for entry in memory.list(LOSS)}


def test_a_leftover_here_is_not_sent(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 12)).write([{"late": 1, "_ts": 1003.0}])
    assert SegmentName(0, 10).filename in one.files()
    complete(send(one))
    assert SegmentName(0, 10).filename not in {entry.name for entry in memory.list(LOSS)}
    assert complete(send(one)).objects == 0


def test_a_wider_segment_in_the_place_of_others(tmp_path: Path, store: Watched) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 35))
    complete(send(one, now=lambda: 1000.0))
    track = TrackOnDisk(one.root)
    parts = [one.folder / below("loss") / SegmentName(start, start + 10).filename for start in (0, 10)]
    track.segment(points(0, 20), 0)  # the parts stay for a while
    store.puts()
    complete(send(one, now=lambda: 1001.0))
    wide = SegmentName(0, 20).filename
    assert store.puts()[0] == f"{below('loss')}/{wide}"
    assert_same(one)
    for part in parts:
        part.unlink()
    complete(send(one, now=lambda: 1001.0 + sweep.GRACE))
    names = {entry.name for entry in store.list(LOSS)}
    assert names == {wide, SegmentName(20, 30).filename, "data.jsonl", "metadata.json"}
    assert_same(one)


# ------------------------------------------------------------------------------------------------ damage here


def damage(machine: Machine, how: str) -> None:
    folder = machine.folder / below("loss")
    first, second = (folder / SegmentName(start, start + 10).filename for start in (0, 10))
    hot = folder / "data.jsonl"
    if how == "hole":
        first.unlink()
    elif how == "end gone":
        second.unlink()
    elif how == "empty segment":
        second.write_bytes(b"")
    elif how == "short segment":
        second.write_bytes(second.read_bytes()[:-100])
    elif how == "zeros":
        data = hot.read_bytes()
        hot.write_bytes(data[:100] + bytes(50) + data[150:])
    elif how == "first line":
        hot.write_bytes(b"x" + hot.read_bytes())
    else:
        hot.write_bytes(hot.read_bytes()[:-2] + b"\n")


@pytest.mark.parametrize(
    "how", ["hole", "end gone", "empty segment", "short segment", "zeros", "first line", "last line"]
)
def test_a_damaged_track_is_told_and_the_others_are_sent(tmp_path: Path, memory: Watched, how: str) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 25)).write(points(0, 3), "other")
    damage(one, how)
    outcome = send(one)
    assert not outcome.complete
    ((place, error),) = outcome.failures
    assert place == "tracks/loss"
    assert isinstance(error, CorruptTrackError)
    assert not outcome.ended
    assert f"{LOSS}/data.jsonl" not in memory.walk()
    assert_same(one, "other")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links")
def test_links_that_lead_out_are_not_followed(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 3)).write(points(0, 3), "other")
    secret = tmp_path / "secret"
    secret.write_text('{"index":0,"data":{"secret":1,"_ts":1}}\n')
    hot = one.folder / below("loss") / "data.jsonl"
    hot.unlink()
    hot.symlink_to(secret)
    (one.folder / "files").mkdir()
    (one.folder / "files" / "x").symlink_to(secret)
    (one.folder / "parameters.json").symlink_to(secret)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data.jsonl").write_bytes(secret.read_bytes())
    (one.folder / "tracks" / "linked").symlink_to(tmp_path / "elsewhere")
    outcome = send(one)
    assert sorted(place for place, _ in outcome.failures) == ["files/x", "parameters.json", "tracks/loss"]
    assert not [path for path in memory.walk() if b"secret" in memory.get(path)]
    assert_same(one, "other")


def test_a_segment_that_is_swept_meanwhile(tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 25))
    real = tracks.LocalStore.get
    done: list[str] = []

    def get(self: tracks.LocalStore, path: str, *rest: Any) -> bytes:
        if path.endswith(SegmentName(0, 10).filename) and not done:
            done.append(path)
            one.write([{"late": 1, "_ts": 1003.0}])
            (one.folder / path).unlink()
        return real(self, path, *rest)

    monkeypatch.setattr(tracks.LocalStore, "get", get)
    outcome = complete(send(one))
    assert_same(one)
    assert outcome.objects == len(memory.walk()) + 1  # session.json twice


def test_segments_that_vanish_for_ever(tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 25))
    real = tracks.LocalStore.get

    def get(self: tracks.LocalStore, path: str, *rest: Any) -> bytes:
        if path.endswith(".parquet"):
            raise FileNotFoundError(2, "gone", path)
        return real(self, path, *rest)

    monkeypatch.setattr(tracks.LocalStore, "get", get)
    outcome = send(one)
    assert [place for place, _ in outcome.failures] == ["tracks/loss"]
    assert outcome.left == 3


# ------------------------------------------------------------------------------------------------ the network


def test_a_dead_network_ends_the_pass(tmp_path: Path, proxied: RemoteStore, s3_proxy: Proxy, quick: None) -> None:
    one = Machine(tmp_path / "one", proxied)
    with one.session() as session:
        for number in range(60):
            session.track(f"t{number}").append(v=number)
    s3_proxy.fail(Fault.RESET)
    with s3_proxy.counting() as seen:
        outcome = send(one)
    assert outcome.ended
    assert not outcome.complete
    assert [place for place, _ in outcome.failures] == ["session.json"]
    assert len(seen) <= 3 * s3.ATTEMPTS
    s3_proxy.plan = lambda request: None
    complete(send(one))


def test_a_network_that_dies_half_way_and_comes_back(
    tmp_path: Path, proxied: RemoteStore, s3_proxy: Proxy, quick: None
) -> None:
    one = Machine(tmp_path / "one", proxied)
    with one.session() as session:
        for number in range(80):
            session.track(f"t{number}").append(v=number)
    sent: list[str] = []

    def plan(request: Request) -> Fault | None:
        if len(sent) > 60:
            return Fault.UNAVAILABLE
        sent.append(request.key)
        return None

    s3_proxy.plan = plan
    outcome = send(one)
    assert outcome.ended
    assert 0 < len(outcome.failures) <= proxied.width + sending.IN_A_ROW
    assert outcome.left >= 80
    s3_proxy.plan = lambda request: None
    with s3_proxy.counting() as seen:
        complete(send(one))
    written = {request.key for request in seen if request.kind == "PUT" and request.status == 200}
    assert len(written & set(sent[:30])) <= 1  # session.json
    assert_same(one, "t0", "t79")


def test_objects_that_cannot_be_written_do_not_keep_the_others(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watched, "width", 1)  # so that others succeed in between
    one = Machine(tmp_path / "one", memory)
    names = [f"t{number:02}" for number in range(40)]
    with one.session() as session:
        for name in names:
            session.track(name).append(v=1)

    def refuse(method: str, path: str) -> None:
        if path.endswith(("t07/data.jsonl", "t11/data.jsonl", "t31/data.jsonl")) and method == "put":
            raise OSError(5, "no", path)

    memory.before = refuse
    outcome = send(one)
    assert sorted(place for place, _ in outcome.failures) == ["tracks/t07", "tracks/t11", "tracks/t31"]
    assert (outcome.left, outcome.ended, outcome.complete) == (3, False, False)
    assert_same(one, *(name for name in names if name not in ("t07", "t11", "t31")))
    memory.before = nothing
    assert complete(send(one)).objects == 3


def test_every_failure_of_a_dead_network_is_an_early_one(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        for number in range(50):
            session.track(f"t{number}").append(v=number)
    complete(send(one))
    with one.session() as session:
        for number in range(50):
            session.track(f"t{number}").append(v=number)
    memory.calls.clear()

    def die(method: str, path: str) -> None:
        raise ConnectionError(104, "reset", path)

    memory.before = die
    outcome = send(one)
    assert outcome.ended
    assert 1 <= len(memory.calls) <= memory.width + sending.IN_A_ROW
    assert outcome.left == 50


def test_stop_is_asked_before_each_object(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 45)).write(points(0, 3), "other")
    stopped: list[Outcome] = []
    while not stopped or not stopped[-1].complete:
        sent = [0]
        memory.after = lambda method, path, sent=sent: sent.__setitem__(0, sent[0] + (method == "put"))
        stopped.append(send(one, stop=lambda sent=sent: sent[0] >= 1))
        assert sent[0] <= memory.width
        assert stopped[-1].ended or stopped[-1].complete
        rows = one.remote_rows() if f"{SESSION}/session.json" in memory.walk() else []  # else nobody finds them
        assert [row["i"] for row in rows] == list(range(len(rows)))
    assert len(stopped) > 3
    assert sum(outcome.objects for outcome in stopped) == len(memory.walk())
    assert_same(one, "loss", "other")


def test_an_interrupt_ends_the_helping_threads(tmp_path: Path, memory: Watched) -> None:
    """Before their next request, not at the end of the track that each has begun."""
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        for number in range(50):
            session.track(f"t{number}").append(v=number)
    gate = threading.Barrier(memory.width)
    interrupted = threading.Event()

    def interrupt(method: str, path: str) -> None:
        if "/tracks/" in path:
            if gate.wait(60) == 0:
                interrupted.set()
                raise KeyboardInterrupt
            interrupted.wait(60)
            time.sleep(0.2)  # by then the interrupt was noticed

    memory.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        send(one)
    assert len(memory.calls) == 1 + memory.width
    memory.before = nothing
    complete(send(one))


def test_a_state_that_cannot_be_saved_is_told(tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 5))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", ".replica.json")

    with monkeypatch.context() as patch:
        patch.setattr("dreamlake.engine.replica.ledger.save", full)
        outcome = send(one)
    assert not outcome.complete
    assert memory.calls == []  # what is about to be sent is noted first
    complete(send(one))


def test_a_session_that_was_deleted_on_the_replica_is_sent_again(tmp_path: Path, store: Watched) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 25))
    with one.session() as session:
        session.parameters().set(a=1)
        session.log("hello")
    complete(send(one))
    for path in store.walk(SESSION):
        store.delete(path)
    with one.session() as session:
        for fields in points(25, 36):
            session.track("loss").append(**fields)
        session.parameters().set(a=2)
        session.log("again")
    complete(send(one))
    assert_same(one)
    assert {path.removeprefix(f"{SESSION}/") for path in store.walk(SESSION) if "tracks" not in path} == {
        "session.json",
        "parameters.json",
        "logs/logs.jsonl",
    }
    assert one.known.origin is True


# ------------------------------------------------------------------------------------------------ away


def drop(machine: Machine, *starts: int) -> None:
    names = [SegmentName(start, start + 10) for start in starts]
    away.drop(str(machine.folder / below("loss")), "loss", names, False)


def test_segments_that_are_only_there_are_not_sent(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 35))
    complete(send(one))
    drop(one, 0, 10)
    memory.puts()
    complete(send(one))
    assert memory.puts() == []
    one.write(points(35, 44))
    complete(send(one))
    assert_same(one)


def test_points_that_are_only_in_another_replica_are_told(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory).write(points(0, 35)).write(points(0, 3), "other")
    complete(send(one))
    drop(one, 0, 10)
    second = Watched(f"memory://{uuid.uuid4().hex}")
    outcome = send(one, second)
    ((place, error),) = outcome.failures
    assert place == "tracks/loss"
    assert "not on this one" in str(error)
    assert not [path for path in second.walk() if path.endswith(".parquet")]
    assert Machine(one.root, second).remote_rows("other") == one.rows("other")
    complete(send(one))


# ------------------------------------------------------------------------------------------------ memory and threads


def test_room_bounds_what_is_held() -> None:
    room = sending.Room(100)
    entered = {nbytes: threading.Event() for nbytes in (30, 50, 1000)}

    def work(nbytes: int) -> None:
        with room.of(nbytes):
            entered[nbytes].set()

    with room.of(60):
        threads = [threading.Thread(target=work, args=(nbytes,)) for nbytes in entered]
        for thread in threads:
            thread.start()
        assert entered[30].wait(60)
        assert not entered[50].wait(0.2)
        assert not entered[1000].is_set()
    for thread in threads:
        thread.join()
    assert all(event.is_set() for event in entered.values())  # the largest alone, though it is above the limit


def test_many_tracks_are_under_way_together(tmp_path: Path, memory: Watched) -> None:
    """Each request waits until as many are there as there is width: one after the other they would never come."""
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        for number in range(memory.width):
            session.track(f"t{number}").append(v=number)
    gate = threading.Barrier(memory.width)

    def wait(method: str, path: str) -> None:
        if path.endswith("metadata.json"):
            gate.wait(60)

    memory.before = wait
    complete(send(one))


def test_a_large_hot_file_does_not_keep_segments_from_being_sent(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamlake.engine.replica.push.WAVE_BYTES", 1)
    monkeypatch.setattr(sending, "SEGMENT_BYTES", 1)
    one = Machine(tmp_path / "one", memory)
    names = [f"t{number}" for number in range(20)]
    for name in names:
        one.write(points(0, 25), name)
    complete(send(one))
    assert_same(one, *names)


@pytest.mark.parametrize("count", [0, 3])
def test_the_state_is_saved_once_for_many_tracks(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Also where many have segments that are sent ahead."""
    one = Machine(tmp_path / "one", memory)
    with one.session() as session:
        for number in range(60):
            session.track(f"t{number}").append_batch(points(0, 10 * count + 5))
    saves: list[str] = []
    monkeypatch.setattr("dreamlake.engine.replica.ledger.BREATH", 3600.0)
    monkeypatch.setattr("dreamlake.engine.replica.ledger.save", lambda *given: saves.append("") or state.save(*given))
    assert complete(send(one)).objects == 121 + 60 * count
    assert len(saves) <= 5  # what is ahead, session.json, all tracks, the end
    with one.session() as session:
        for number in range(60):
            session.track(f"t{number}").append_batch(points(10 * count + 5, 10 * count + 25))
    saves.clear()
    assert complete(send(one)).objects == 60 * 3 + 1
    assert len(saves) <= 3


# -- merges of another machine -------------------------------------------------------------------------------------


def compacted(machine: Machine) -> Machine:
    """Merge what can be, as `dreamlake compact` does with a folder that nobody writes to any more."""
    with machine.session() as session:
        session.track("loss").compact()
    return machine


def outcome_of(machine: Machine) -> Outcome:
    return push(str(machine.folder), SESSION, machine.store, state.load(str(machine.folder)))


@pytest.fixture
def hundred(tmp_path: Path, store: Watched) -> tuple[Machine, Machine]:
    """A machine whose ten segments are on the replica, and one that goes on from there."""
    one, two = Machine(tmp_path / "one", store), Machine(tmp_path / "two", store)
    one.write(points(0, 100)).push()
    two.adopt()
    return one, two


def test_a_late_field_is_not_hidden_by_a_merge_of_another_machine(hundred: tuple[Machine, Machine]) -> None:
    one, two = hundred
    compacted(one).push()
    before = two.remote_rows()
    two.write([{"late": 1, "_ts": 1095.0}, *points(100, 115)])
    assert "another machine wrote" in outcome_of(two).conflicts[0]
    assert two.remote_rows() == before
    assert two.rows()[95]["late"] == 1


def test_a_merge_does_not_hide_a_late_field_of_another_machine(hundred: tuple[Machine, Machine]) -> None:
    one, two = hundred
    two.write([{"late": 1, "_ts": 1095.0}]).push()
    assert "another machine wrote" in outcome_of(compacted(one)).conflicts[0]
    assert one.remote_rows()[95]["late"] == 1


@pytest.mark.parametrize("sent", [False, True], ids=["with new points", "whose parts are there"])
def test_a_merge_that_overlaps_another_machine_s_is_not_sent(hundred: tuple[Machine, Machine], sent: bool) -> None:
    one, two = hundred
    compacted(one).push()
    two.write(points(100, 190))
    if sent:
        two.push()
    compacted(two)
    assert "000000000090-000000000190.parquet" in two.files()
    assert outcome_of(two).conflicts
    assert two.remote_rows() == points(0, 190 if sent else 100)  # and is no damaged track


def test_a_machine_goes_on_beside_a_merge_of_another(hundred: tuple[Machine, Machine]) -> None:
    one, two = hundred
    compacted(one).push()
    two.write(points(100, 125)).push()
    two.write([{"late": 1, "_ts": 1105.0}, *points(125, 141)]).push()
    assert two.remote_rows() == two.rows()
    assert len(two.rows()) == 141


def test_a_merge_is_sent_where_another_machine_s_segments_are_in_it(hundred: tuple[Machine, Machine]) -> None:
    one, _ = hundred
    three = one.copy(one.root.parent / "three")
    compacted(one).push()
    compacted(three).write([{"late": 1, "_ts": 1095.0}]).push()
    assert three.remote_rows()[95]["late"] == 1
    assert three.remote_rows() == three.rows()
    assert "000000000000-000000000100.1.parquet" in three.files()


def test_lines_of_another_machine_are_not_hidden_where_there_was_no_hot_object(tmp_path: Path, store: Watched) -> None:
    one, two = Machine(tmp_path / "one", store), Machine(tmp_path / "two", store)
    one.write(points(0, 20)).push()
    store.delete(f"{LOSS}/{layout.HOT_FILE}")  # as where it is empty, and was never written
    known = state.load(str(one.folder))
    known.remote(store.describe()).tracks[below("loss")].hot.version = None
    state.save(str(one.folder), known)
    two.adopt()
    two.write([{"i": -1, "_ts": 2000.0}]).push()
    one.write(points(20, 40))
    assert outcome_of(one).conflicts
    assert one.remote_rows()[-1]["i"] == -1


@pytest.mark.parametrize("count", [5, 25, 100], ids=["lines", "segments and lines", "segments"])
@pytest.mark.parametrize("swept", [False, True])
def test_a_machine_with_unsent_points_takes_a_merge_of_another_over(
    hundred: tuple[Machine, Machine], count: int, swept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = hundred
    two.write(points(100, 112)).push()
    two.write(points(112, 112 + count))
    compacted(one)
    if swept:
        monkeypatch.setattr(tracks, "GRACE", -1.0)
    outcome_of(one)  # the hot object is the other's, so it is compared
    merged = "000000000000-000000000100.parquet"
    two.store.create(f"{LOSS}/{merged}", (one.folder / below("loss") / merged).read_bytes())
    if swept:
        for start in range(0, 100, 10):
            two.store.delete(f"{LOSS}/{start:012}-{start + 10:012}.parquet")
    found = two.check()
    assert (found.pull, found.described, found.conflicts) == ((below("loss"),), (below("loss"),), {})
    two.pull("loss")
    assert two.rows() == points(0, 112 + count)
    assert merged in {*two.files(), *two.away()}
    two.push()
    assert two.remote_rows() == points(0, 112 + count)
    assert not two.check().pull


def test_a_merge_of_another_machine_without_a_field_of_here_is_not_taken_over(hundred: tuple[Machine, Machine]) -> None:
    one, two = hundred
    compacted(one).push()
    two.write([{"late": 1, "_ts": 1095.0}, *points(100, 105)])
    assert two.check().conflicts
    assert two.rows()[95]["late"] == 1


@pytest.mark.parametrize(("before_that", "common"), [(0, 0), (0, 10), (0, 17), (17, 20)])
def test_lines_are_not_hidden_by_segments_of_another_machine(
    tmp_path: Path, store: Watched, before_that: int, common: int
) -> None:
    """Also where no line was left there, never or since they were rolled: the hot object does not tell of them then."""
    one, two = Machine(tmp_path / "one", store), Machine(tmp_path / "two", store)
    one.write(points(0, 3), "other").write(points(0, before_that)).push()
    one.write(points(before_that, common)).push()
    assert (layout.HOT_FILE in {entry.name for entry in store.list(LOSS)}) == (common > 10)
    two.adopt()
    one.write([{"i": -1, "_ts": 5000.0 + i} for i in range(20 - common % 10)]).push()
    before = one.remote_rows()
    two.write(points(common, common + 3))
    assert "another machine wrote" in outcome_of(two).conflicts[0]
    assert two.rows() == points(0, common + 3)
    assert one.remote_rows() == before


def test_lines_in_the_place_of_another_machine_s_segments_are_a_conflict(hundred: tuple[Machine, Machine]) -> None:
    one, two = hundred
    one.write([{"i": -1, "_ts": 5000.0 + i} for i in range(10)])
    compacted(one).push()
    two.write(points(100, 103))
    assert two.check().conflicts
    assert two.rows() == points(0, 103)
