"""Files on their way to a replica and back: no record there names bytes that are not there, and nothing is lost."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from filelib import Killed, held, sha
from machines import SESSION, Machine, points
from s3.proxy import Fault, Proxy, Request
from s3.server import S3Server
from support import run_python, start_python

import dreamlake.engine.replica.filesending as filesending
import dreamlake.engine.replica.replicator as replicator
import dreamlake.storage.plain as plain
import dreamlake.storage.s3 as s3
from dreamlake import Lake, Session
from dreamlake.cli import main
from dreamlake.engine.fileread import all_records
from dreamlake.engine.replica import state
from dreamlake.engine.replica.progress import Progress
from dreamlake.engine.replica.push import push
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.errors import CorruptFileError, StoredFileNotFoundError
from dreamlake.format import filerecord, layout
from dreamlake.storage.remote import RemoteStore


class Watched(RemoteStore):
    """A replica's root that tells of every change; `before` may refuse it, or kill the one who asks."""

    before: Callable[[str, str], None] = staticmethod(lambda method, path: None)  # type: ignore[assignment]
    after: Callable[[], None] = staticmethod(lambda: None)  # type: ignore[assignment]

    def _told(self, method: str, path: str, work: Callable[[], Any]) -> Any:
        self.before(method, path.removeprefix(f"{SESSION}/"))
        made = work()
        self.after()
        return made

    def create(self, path: str, data: bytes) -> None:
        self._told("create", path, lambda: super(Watched, self).create(path, data))

    def replace_if(self, path: str, data: bytes, version: str | None) -> str:
        made: str = self._told("put", path, lambda: super(Watched, self).replace_if(path, data, version))
        return made

    def put_file(self, path: str, local_path: Any, *rest: Any) -> str:
        made: str = self._told("put_file", path, lambda: super(Watched, self).put_file(path, local_path, *rest))
        return made

    def delete(self, path: str) -> None:
        self._told("delete", path, lambda: super(Watched, self).delete(path))


@pytest.fixture
def memory() -> Watched:
    return Watched(f"memory://{uuid.uuid4().hex}")


def send(machine: Machine, **options: Any) -> Any:
    """One pass of the machine."""
    known = state.load(str(machine.folder))
    return push(str(machine.folder), SESSION, machine.store, known, **options)


def sync(machine: Machine) -> Any:
    """As ``dreamlake sync``: both sides are compared first."""
    return sync_folder(str(machine.folder), SESSION, machine.store)


def upload(machine: Machine, **files: bytes | None) -> None:
    """Upload files by their names, or (None) delete them."""
    with machine.session() as session:
        for name, data in files.items():
            session.files().delete(name) if data is None else session.files().upload(data, filename=name)


def there(store: RemoteStore) -> dict[str, bytes]:
    """The files that a reader of the replica finds, each read in full and verified."""
    return held(Lake(store._url, store._options).session("s", "w").files())


def objects(store: RemoteStore) -> set[str]:
    """The paths of all bytes on the replica that somebody uploaded."""
    paths = {path.removeprefix(f"{SESSION}/") for path in store.walk(SESSION)}
    return {path for path in paths if layout.is_made_file(path)}


def named(store: RemoteStore) -> set[str]:
    """Where the records on the replica say that bytes are, each machine's by itself where it counts."""
    return {filerecord.stored_path(each) for each in all_records(store, SESSION) if filerecord.is_live(each)}


# ------------------------------------------------------------------------------------------------ there and back


def test_files_go_there_and_come_back(tmp_path: Path, elsewhere: Any) -> None:
    url, options = elsewhere
    big, small = os.urandom((17 << 20) + 5), b"small"
    with Session("s", "w", tmp_path / "one", remote=url, storage_options=options) as session:
        session.track("loss").append(x=1)
        session.files().upload(big, path="/models", filename="big", tags=["a"])
        session.files().upload(small, path="/plots/wörk 1", filename="s%mall #1")
        session.files().upload(b"older", filename="replaced")
        session.sync()
        session.files().upload(b"newer", filename="replaced")
        session.files().upload(b"gone", filename="gone")
        session.sync()
        session.files().delete("gone")
    expected = {"/models/big": big, "/plots/wörk 1/s%mall #1": small, "/replaced": b"newer"}
    run = Lake(url, options).session("s", "w")
    assert held(run.files()) == expected
    assert Path(run.files().download("/models/big", to=tmp_path / "copy")).read_bytes() == big
    with run.files().open("/models/big") as file:
        file.seek(16 << 20)
        assert file.read(10) == big[16 << 20 :][:10]
    store = RemoteStore(url, options)
    assert objects(store) == named(store)
    assert [record["filename"] for record in run.files().list(deleted=True)] == ["gone", "replaced", "big", "s%mall #1"]
    with Session("s", "w", tmp_path / "two", remote=url, storage_options=options) as session:
        assert session.files().list() == run.files().list()
        assert not list((tmp_path / "two").rglob("f-*"))  # bytes stay there until somebody reads them
        assert held(session.files()) == expected
        session.files().upload(b"two", filename="two")
        session.files().delete("/models/big")
        session.sync()
        assert session.files().open("replaced").read() == b"newer"
    del expected["/models/big"]
    assert there(store) == expected | {"/two": b"two"}
    assert objects(store) == named(store)
    assert main(["check", str(tmp_path / "two" / "w" / "s")]) == 0
    with pytest.raises(StoredFileNotFoundError, match="not on this machine: open the session with its remote="):
        Lake(tmp_path / "two").session("s", "w").files().open("replaced")


def test_a_session_without_a_local_side_drops_bytes_that_are_there(memory: Watched) -> None:
    with Session("s", "w", None, remote=memory._url) as session:
        files = session.files()
        files.upload(b"1" * 1000, path="/m", filename="x")
        here = Path(session.path) / "files"
        assert len(list(here.rglob("x"))) == 1
        session.sync()
        assert [path.name for path in here.rglob("*")] == [".files_metadata.json"]
        assert held(files) == {"/m/x": b"1" * 1000}
        files.upload(b"2", path="/m", filename="x")
        files.upload(b"3", path="/m", filename="y")
        files.delete("/m/y")
        session.sync()
        assert held(files) == {"/m/x": b"2"}
    assert held(session.files()) == {"/m/x": b"2"} == there(memory)
    assert objects(memory) == named(memory)


def test_what_is_there_is_not_sent_again(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory)
    upload(one, a=b"a", b=b"b")
    assert send(one).complete
    assert send(one).objects == 0
    seen: dict[str, Any] = {}
    assert send(one, seen=seen).objects == 0
    upload(one, c=b"c")
    asked: list[tuple[str, str]] = []
    memory.before = lambda method, path: asked.append((method, path.rpartition("/")[2]))  # type: ignore[method-assign]
    assert send(one, seen=seen).objects == 3  # the file, its record, and session.json
    assert asked == [("put_file", "c"), ("put", ".files_metadata.json"), ("put", "session.json")]
    del asked[:]
    (one.folder / ".replica.json").unlink()  # nothing is known of the replica any more
    outcome = sync(one)
    assert outcome.complete
    assert ("put_file", "c") not in asked
    assert there(memory) == {"/a": b"a", "/b": b"b", "/c": b"c"}
    assert not [path for path in memory.walk(SESSION) if "/hosts/" in path]


# ------------------------------------------------------------------------------------------------ trouble at any step


def changes(machine: Machine) -> Iterator[dict[str, bytes]]:
    """Changes of the files of a machine, one after the other, and what is there after each."""
    for files, expected in (
        ({"x": b"one", "y": b"y"}, {"/x": b"one", "/y": b"y"}),
        ({"x": b"two", "z": b"z"}, {"/x": b"two", "/y": b"y", "/z": b"z"}),
        ({"y": None, "z": b"zz"}, {"/x": b"two", "/z": b"zz"}),
    ):
        upload(machine, **files)  # type: ignore[arg-type]
        yield expected


@pytest.mark.parametrize("death", [Killed, ConnectionError])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_trouble_at_any_request_leaves_a_sound_replica(
    tmp_path: Path, memory: Watched, death: type[BaseException], done: bool
) -> None:
    """Each change on the replica fails once: before it was made, or after it, when its reply is lost."""
    for last in range(100):
        store = Watched(f"memory://{uuid.uuid4().hex}")
        machine = Machine(tmp_path / str(last), store).write(points(0, 3))
        left = [last]

        def count(last: bool, left: list[int] = left) -> None:
            left[0] -= last
            if left[0] < 0:
                left[0] = 1 << 30
                raise death("the network is gone")

        store.before = lambda method, path: None if done else count(True)  # type: ignore[method-assign]
        store.after = lambda: count(True) if done else None  # type: ignore[method-assign]
        met = False
        for expected in changes(machine):
            while True:
                try:
                    outcome = send(machine)
                except Killed:
                    met = True
                    check_sound(store)
                    continue
                check_sound(store)
                if outcome.complete:
                    break
                met = True
            assert there(store) == expected
        if not met:
            assert last > 12
            return
        assert objects(store) == named(store), last
        assert sync(machine).complete
        assert there(store) == expected
    raise AssertionError("it never came to its end")


def check_sound(store: RemoteStore) -> None:
    """Every record on the replica names bytes that are there, and are what it says."""
    for record in all_records(store, SESSION):
        if filerecord.is_live(record):
            assert sha(store.get(f"{SESSION}/{filerecord.stored_path(record)}")) == record["checksum"]


def test_a_replica_is_sound_after_every_request(tmp_path: Path, memory: Watched) -> None:
    machine = Machine(tmp_path / "one", memory)
    looks: list[int] = []
    memory.after = lambda: looks.append(check_sound(memory) or 1)  # type: ignore[method-assign, func-returns-value]
    for expected in changes(machine):
        assert send(machine).complete
        assert there(memory) == expected
    assert len(looks) > 12


def test_a_file_that_fails_holds_its_record_back_and_nothing_else(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory)
    upload(one, x=b"1", y=b"y")
    assert send(one).complete
    upload(one, x=b"2")
    one.write(points(0, 5))

    def refuse(method: str, path: str) -> None:
        if method == "put_file":
            raise PermissionError(13, "no", path)

    memory.before = refuse  # type: ignore[method-assign]
    outcome = send(one)
    assert [path.rpartition("/")[2] for path, _ in outcome.failures] == ["x"]
    assert there(memory) == {"/x": b"1", "/y": b"y"}  # the older one is there until the newer one is
    assert len(Lake(memory._url).session("s", "w").track("loss")) == 5
    memory.before = lambda method, path: None  # type: ignore[method-assign]
    assert send(one).complete
    assert there(memory) == {"/x": b"2", "/y": b"y"}


@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_what_is_lost_here_is_told_and_not_sent(tmp_path: Path, memory: Watched, what: str) -> None:
    one = Machine(tmp_path / "one", memory)
    upload(one, x=b"12345", y=b"y")
    with one.session() as session:
        stored = one.folder / filerecord.stored_path(session.files().get("x"))
    stored.write_bytes(b"12245") if what == "damaged" else stored.unlink()
    outcome = send(one)
    ((path, error),) = outcome.failures
    assert path == filerecord.stored_path(one.session().files().get("x"))
    assert isinstance(error, CorruptFileError if what == "damaged" else OSError)
    assert there(memory) == {"/y": b"y"}
    upload(one, x=b"again")
    assert send(one).complete
    assert there(memory) == {"/x": b"again", "/y": b"y"}


def test_what_is_replaced_while_it_is_sent(tmp_path: Path, memory: Watched) -> None:
    """The bytes that a pass was about to send are gone by then: it looks at the records again."""
    one = Machine(tmp_path / "one", memory)
    upload(one, x=b"0")
    turns = [3]

    def replace(method: str, path: str) -> None:
        if method == "put_file" and turns[0]:
            turns[0] -= 1
            upload(one, x=str(turns[0]).encode())

    memory.before = replace  # type: ignore[method-assign]
    assert send(one).complete
    check_sound(memory)
    memory.before = lambda method, path: None  # type: ignore[method-assign]
    assert send(one).complete
    assert there(memory) == {"/x": b"0"}
    assert objects(memory) == named(memory)


def test_what_may_not_be_deleted_stays_and_is_no_failure(
    tmp_path: Path, memory: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    one = Machine(tmp_path / "one", memory)
    upload(one, x=b"1")
    assert send(one).complete
    upload(one, x=b"2")

    def refuse(method: str, path: str) -> None:
        if method == "delete":
            raise PermissionError(13, "no", path)

    memory.before = refuse  # type: ignore[method-assign]
    assert send(one).complete
    assert "may not be deleted" in caplog.text
    assert there(memory) == {"/x": b"2"}
    assert len(objects(memory)) == 2


def test_records_that_this_disk_lost_come_back_and_take_nothing_away(tmp_path: Path, memory: Watched) -> None:
    one = Machine(tmp_path / "one", memory)
    upload(one, x=b"1", y=b"2")
    assert send(one).complete
    (one.folder / layout.FILES_METADATA_FILE).unlink()
    assert send(one).objects == 0  # no records are not a wish to delete
    assert there(memory) == {"/x": b"1", "/y": b"2"}
    assert sync(one).complete
    assert held(Lake(one.root).session("s", "w").files()) == {"/x": b"1", "/y": b"2"}
    (one.folder / layout.FILES_METADATA_FILE).unlink()
    upload(one, z=b"3")  # begun anew: the comparison merges both
    assert sync(one).complete
    assert there(memory) == {"/x": b"1", "/y": b"2", "/z": b"3"}


# ------------------------------------------------------------------------------------------------ several machines


def opened(root: Path, store: RemoteStore) -> Session:
    return Session("s", "w", root, remote=store._url, sync_interval=3600.0)


def test_several_machines_upload_to_one_session(tmp_path: Path, memory: Watched) -> None:
    with opened(tmp_path / "one", memory) as one, opened(tmp_path / "two", memory) as two:
        one.files().upload(b"one", filename="x")
        one.files().upload(b"mine", path="/one", filename="y")
        one.sync()
        two.files().upload(b"two", filename="x")
        two.files().upload(b"mine", path="/two", filename="y")
        two.sync()
        assert there(memory) == {"/x": b"two", "/one/y": b"mine", "/two/y": b"mine"}
        one.files().upload(b"three", filename="x")
        one.sync()
        assert there(memory) == {"/x": b"three", "/one/y": b"mine", "/two/y": b"mine"}
    paths = [path for path in memory.walk(SESSION) if path.endswith(".files_metadata.json")]
    assert len(paths) == 2
    assert paths[1].startswith(f"{SESSION}/hosts/")
    with opened(tmp_path / "two", memory) as two:  # learns what the other said meanwhile
        assert held(two.files()) == {"/x": b"three", "/one/y": b"mine", "/two/y": b"mine"}
        two.files().delete("/one/y")
        two.sync()
        two.files().delete("x")
    assert there(memory) == {"/two/y": b"mine"}
    assert objects(memory) == named(memory)
    with opened(tmp_path / "one", memory) as one:
        assert held(one.files()) == {"/two/y": b"mine"}
        assert not list((tmp_path / "one" / SESSION / "files").rglob("f-*"))
        one.files().upload(b"back", filename="x")
    assert there(memory) == {"/two/y": b"mine", "/x": b"back"}
    for name in ("one", "two"):
        assert main(["sync", str(tmp_path / name / "w" / "s"), memory._url]) == 0
    assert there(memory) == {"/two/y": b"mine", "/x": b"back"}


def test_records_of_others_are_not_repeated(tmp_path: Path, memory: Watched) -> None:
    with opened(tmp_path / "one", memory) as session:
        session.files().upload(b"one", filename="x")
    with opened(tmp_path / "two", memory) as session:
        session.files().upload(b"two", filename="y")
    (path,) = [path for path in memory.walk(f"{SESSION}/hosts") if path.endswith(".files_metadata.json")]
    assert [record["filename"] for record in filerecord.decode(memory.get(path))] == ["y"]


def test_a_machine_that_lost_its_disk_goes_on(tmp_path: Path, memory: Watched) -> None:
    for number in range(3):
        with opened(tmp_path / str(number), memory) as session:
            expected = {f"/{n}": b"%d" % n for n in range(number)} | ({"/x": b"x%d" % (number - 1)} if number else {})
            assert held(session.files()) == expected
            session.files().upload(b"%d" % number, filename=f"{number}")
            session.files().upload(b"x%d" % number, filename="x")
    assert there(memory) == {"/0": b"0", "/1": b"1", "/2": b"2", "/x": b"x2"}
    assert objects(memory) == named(memory)


def test_a_copy_of_a_whole_replica_is_uploaded_elsewhere(tmp_path: Path, memory: Watched) -> None:
    for name in ("one", "two"):
        with opened(tmp_path / name, memory) as session:
            session.files().upload(name.encode(), filename=name)
    copy = tmp_path / "copy" / "w" / "s"
    for path in memory.walk(SESSION):
        target = copy / path.removeprefix(f"{SESSION}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(memory.get(path))
    assert held(Lake(tmp_path / "copy").session("s", "w").files()) == {"/one": b"one", "/two": b"two"}
    other = Watched(f"memory://{uuid.uuid4().hex}")
    looks: list[int] = []
    other.after = lambda: looks.append(check_sound(other) or 1)  # type: ignore[method-assign, func-returns-value]
    assert sync_folder(str(copy), SESSION, other).complete
    assert there(other) == {"/one": b"one", "/two": b"two"}
    assert looks


def test_a_damaged_list_of_files_there_does_not_keep_a_run_from_going_on(
    tmp_path: Path, memory: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path / "one", memory) as session:
        session.files().upload(b"1", filename="x")
        session.track("loss").append(x=1)
    memory.put(f"{SESSION}/{layout.FILES_METADATA_FILE}", b"{")
    with opened(tmp_path / "two", memory) as session:
        assert len(session.track("loss")) == 1
        session.files().upload(b"2", filename="y")
        assert held(session.files()) == {"/y": b"2"}
    assert "what it says of files is not known here" in caplog.text
    with pytest.raises(CorruptFileError, match="damaged"):
        there(memory)


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path, memory: Watched) -> None:
    with opened(tmp_path / "one", memory) as session:
        session.files().upload(b"1" * 100, filename="x")
        session.sync()
        files = Lake(memory._url).session("s", "w").files()
        real, turns = files._records, [2]

        def records() -> Any:
            found = real()
            if turns[0]:
                turns[0] -= 1
                session.files().upload(str(turns[0]).encode() * 100, filename="x")
                session.sync()
            return found

        files._records = records  # type: ignore[method-assign]
        assert files.open("x").read() == b"0" * 100
        memory.delete(f"{SESSION}/{filerecord.stored_path(session.files().get('x'))}")
        with pytest.raises(CorruptFileError, match="the file is gone"):
            files.open("x")


# ------------------------------------------------------------------------------------------------ S3, time, memory


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 5 MB, the least that S3 takes, and little patience."""
    for module in (s3, plain):
        monkeypatch.setattr(module, "PIECE", 5 << 20)
    monkeypatch.setattr(s3, "PATIENCE", 0.5)


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.RESET, Fault.SLOW_DOWN])
def test_every_request_meets_trouble_once(
    tmp_path: Path, s3_server: S3Server, s3_proxy: Proxy, s3_url: str, quick: None, fault: Fault
) -> None:
    seen: set[tuple[str, str]] = set()

    def plan(request: Request) -> Fault | None:
        known = (request.method, request.target) in seen
        seen.add((request.method, request.target))
        return None if known or "/files/" not in request.target else fault

    big = os.urandom(12 << 20)
    machine = Machine(tmp_path / "one", RemoteStore(s3_url, s3_server.options(s3_proxy.endpoint)))
    upload(machine, big=big, x=b"1")
    s3_proxy.plan = plan
    assert send(machine).complete
    upload(machine, x=b"2")
    assert send(machine).complete
    s3_proxy.plan = lambda request: None
    assert there(machine.store) == {"/big": big, "/x": b"2"}
    assert objects(machine.store) == named(machine.store)
    assert sum("partNumber" in target for _, target in seen) == 3


UPLOADING = """
    import sys
    import dreamlake.storage.s3 as s3
    from dreamlake import Session
    s3.PIECE, s3.PARTS_AT_ONCE = 5 << 20, 1
    root, url, endpoint, key, secret = sys.argv[1:]
    options = {"endpoint_url": endpoint, "key": key, "secret": secret}
    session = Session("s", "w", root, remote=url, storage_options=options).open()
    session.files().upload(b"x", filename="x")
    session.files().upload(bytes(30 << 20), path="/models", filename="big")
    print("ready", flush=True)
    session.sync()
    print("synced", flush=True)
"""


def test_a_kill_in_the_middle_of_a_file(tmp_path: Path, s3_server: S3Server, s3_proxy: Proxy, s3_url: str) -> None:
    options = s3_server.options(s3_proxy.endpoint)
    third = threading.Event()

    def plan(request: Request) -> Fault | None:
        if "partNumber=3" in request.target:
            third.set()
            return Fault.HANG
        return None

    s3_proxy.plan = plan
    arguments = (s3_url, options["endpoint_url"], options["key"], options["secret"])
    with start_python(UPLOADING, tmp_path / "one", *arguments) as process:
        assert third.wait(60)
        process.kill()
        assert process.wait() != 0
    s3_proxy.plan = lambda request: None
    store = RemoteStore(s3_url, options)
    machine = Machine(tmp_path / "one", store)
    check_sound(store)
    assert not any(path.endswith("/big") for path in objects(store))
    assert sync(machine).complete
    found = there(store)
    assert (found["/x"], found["/models/big"]) == (b"x", bytes(30 << 20))
    assert objects(store) == named(store)


def test_a_close_ends_in_time_and_sync_finishes(
    tmp_path: Path, s3_server: S3Server, s3_proxy: Proxy, s3_url: str, quick: None
) -> None:
    options = {**s3_server.options(s3_proxy.endpoint), "config_kwargs": {"read_timeout": 1}}
    session = Session("s", "w", tmp_path / "one", remote=s3_url, storage_options=options, sync_interval=3600.0).open()
    session.files().upload(bytes(20 << 20), filename="big")
    s3_proxy.plan = lambda request: Fault.HANG if "partNumber" in request.target else None
    with pytest.raises(TimeoutError, match="dreamlake sync"):
        session.close(timeout=1.0)
    assert session.is_closed
    s3_proxy.plan = lambda request: None
    machine = Machine(tmp_path / "one", RemoteStore(s3_url, options))
    check_sound(machine.store)
    assert sync(machine).complete
    assert there(machine.store) == {"/big": bytes(20 << 20)}


def test_a_pass_that_is_to_end_ends_between_two_parts(
    tmp_path: Path, s3_server: S3Server, s3_url: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PARTS_AT_ONCE", 1)
    machine = Machine(tmp_path / "one", RemoteStore(s3_url, s3_server.options()))
    upload(machine, big=bytes(30 << 20))
    progress = Progress()
    outcome = send(machine, progress=progress, stop=lambda: progress.bytes_done > 8 << 20)
    assert outcome.ended
    assert not outcome.complete
    assert not outcome.failures
    assert progress.bytes_done < 8 << 20  # what did not come to its end is not counted
    assert objects(machine.store) == set()
    done: list[int] = []
    again = Progress()
    outcome = send(machine, progress=again, stop=lambda: bool(done.append(again.bytes_done)))  # type: ignore[func-returns-value]
    assert outcome.complete
    steps = sorted({count for count in done if count >= 5 << 20})
    assert len(steps) > 4  # the bar moves while one file goes
    assert again.bytes_done == again.bytes_total


def test_tracks_do_not_wait_for_a_large_file(tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesending, "MUCH", 10)
    machine = Machine(tmp_path / "one", memory)
    upload(machine, big=b"x" * 1000)
    arrived = threading.Event()

    def wait(method: str, path: str) -> None:
        if method == "put_file":
            assert arrived.wait(60)
        if path == "tracks/loss/data.jsonl":
            arrived.set()

    memory.before = wait  # type: ignore[method-assign]
    first = threading.Timer(0.2, lambda: machine.write(points(0, 3)))
    first.start()
    assert send(machine, interval=0.05).complete
    first.join()
    assert arrived.is_set()
    assert there(memory) == {"/big": b"x" * 1000}
    assert len(Lake(memory._url).session("s", "w").track("loss")) == 3


def test_trouble_beside_a_large_file_ends_both(
    tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesending, "MUCH", 10)
    machine = Machine(tmp_path / "one", memory).write(points(0, 3))
    assert send(machine).complete
    upload(machine, big=b"x" * 1000)
    killed = threading.Event()

    def kill(method: str, path: str) -> None:
        if method == "put_file":
            machine.write(points(3, 6))
            assert killed.wait(60)
        if path == "tracks/loss/data.jsonl":
            killed.set()
            raise Killed

    memory.before = kill  # type: ignore[method-assign]
    with pytest.raises(Killed):
        send(machine, interval=0.05)
    memory.before = lambda method, path: None  # type: ignore[method-assign]
    check_sound(memory)
    assert send(machine).complete
    assert there(memory) == {"/big": b"x" * 1000}


MEMORY = """
    import resource, sys
    from dreamlake import Lake, Session
    size, root, url, endpoint, key, secret = int(sys.argv[1]), *sys.argv[2:]
    options = {"endpoint_url": endpoint, "key": key, "secret": secret}

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    with open(f"{root}/big", "wb") as file:
        file.truncate(size)
    with Session("s", "w", f"{root}/lake", remote=url, storage_options=options) as session:
        session.track("t").append(x=1)
        session.files().upload(b"1" * 100_000, filename="small")
        session.sync()
        files = Lake(url, options).session("s", "w").files()
        files.download("small", to=f"{root}/copy")
        before = peak()
        session.files().upload(f"{root}/big", filename="big")
        session.files().upload(f"{root}/big", filename="another")
        session.sync()
        sent = peak() - before
        files.download("big", to=f"{root}/copy")
        print(sent, peak() - before)
"""


def test_a_large_file_takes_little_memory_on_its_way(tmp_path: Path, s3_server: S3Server, s3_url: str) -> None:
    options = s3_server.options()
    arguments = (s3_url, options["endpoint_url"], options["key"], options["secret"])
    out = run_python(MEMORY, 150 << 20, tmp_path, *arguments, timeout=300).stdout
    sent, both = map(int, out.split())
    assert sent < 50 << 20, out
    assert both < 50 << 20, out
    assert (tmp_path / "copy").stat().st_size == 150 << 20


def test_uploads_go_there_by_themselves(tmp_path: Path, memory: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session("s", "w", tmp_path / "one", remote=memory._url, sync_interval=0.05) as session:
        session.files().upload(b"1", filename="x")
        deadline = time.monotonic() + 60
        while not objects(memory) or not memory.walk(f"{SESSION}/files"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert there(memory) == {"/x": b"1"}
    assert replicator.CLOSE_TIMEOUT == 30.0
    assert fsspec.filesystem("memory").exists(f"{memory._url.removeprefix('memory:/')}/{SESSION}/session.json")
