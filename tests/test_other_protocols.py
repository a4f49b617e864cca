"""SFTP: the contract of a store over it, a lake read over it, and a server that goes away, falls silent or lies."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from sftp.server import USER, SftpServer
from store_tests import ServerStoreTests, StoreMachine, StoreTests
from support import run_python

from dreamlake import Lake, Session
from dreamlake.storage.remote import ObjectChanged, RemoteStore


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    server = SftpServer(tmp_path_factory.mktemp("sftp") / "root")
    yield server
    server.stop()


@pytest.fixture
def opened(server: SftpServer) -> Iterator[Callable[..., RemoteStore]]:
    """Makes stores over folders of the server that are closed at the end of the test."""
    stores: list[RemoteStore] = []

    def make(folder: str, **options: Any) -> RemoteStore:
        stores.append(RemoteStore(f"{server.url}/{folder}", {**server.options(), **options}))
        return stores[-1]

    yield make
    server.silent = False
    server.lose.clear()
    server.before.clear()
    for store in stores:
        store.close()


Opened = Callable[..., RemoteStore]


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """A folder that nobody has used."""
    return f"{abs(hash(request.node.nodeid))}/deep er"


@pytest.fixture
def store(opened: Opened, folder: str) -> RemoteStore:
    return opened(folder)


@pytest.fixture
def below(server: SftpServer, folder: str) -> Path:
    """The store's root on the server's disk."""
    return server.folder / folder


class TestSftp(StoreTests):
    @pytest.fixture(autouse=True)
    def _below(self, below: Path) -> None:
        self.below = below

    @pytest.fixture
    def store(self, opened: Opened, folder: str) -> RemoteStore:
        return opened(folder)

    def raw_put(self, store: Any, path: str, data: bytes) -> None:
        full = self.below / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)

    def raw_get(self, store: Any, path: str) -> bytes:
        return (self.below / path).read_bytes()

    def test_nothing_is_left_beside(self, store: RemoteStore) -> None:
        store.put("a/x", b"1")
        store.create("a/y", b"1")
        with pytest.raises(FileExistsError):
            store.create("a/y", b"2")
        assert sorted(path.name for path in self.below.rglob("*")) == ["a", "x", "y"]

    def test_links_to_folders_are_not_followed(self, store: RemoteStore) -> None:
        store.put("a/x", b"123")
        (self.below / "a" / "loop").symlink_to("../a")
        (self.below / "a" / "to x").symlink_to("x")
        assert store.walk() == ["a/to x", "a/x"]
        assert [(entry.name, entry.size, entry.is_dir) for entry in store.list("a")] == [
            ("loop", 0, False),
            ("to x", 3, False),
            ("x", 3, False),
        ]


class SftpMachine(StoreMachine):
    """Any sequence of calls, on one folder a run."""

    server: SftpServer
    count = 0

    def __init__(self) -> None:
        super().__init__()
        SftpMachine.count += 1
        self.store = RemoteStore(f"{self.server.url}/machine/{self.count}", self.server.options())

    def teardown(self) -> None:
        self.store.close()  # type: ignore[attr-defined]


def test_any_sequence_of_calls(server: SftpServer) -> None:
    SftpMachine.server = server
    run_state_machine_as_test(SftpMachine, settings=settings(max_examples=15, stateful_step_count=25))


# ------------------------------------------------------------------------------------------------ versions


def test_a_version_is_replaced_once(store: RemoteStore) -> None:
    """Times are whole seconds over SFTP, so the lengths differ, as those of a hot file do."""
    assert not store.conditional
    first = store.replace_if("hot", b"one", None)
    assert store.read("hot") == (b"one", first)
    second = store.replace_if("hot", b"three", first)
    with pytest.raises(ObjectChanged, match="another writer") as caught:
        store.replace_if("hot", b"by another", first)
    assert caught.value.version == second
    assert [entry.version for entry in store.list()] == [second]
    assert [entry.version for entry in store.tree()] == [second]
    store.delete("hot")
    with pytest.raises(ObjectChanged, match="gone"):
        store.replace_if("hot", b"four", second)


def test_a_creator_that_slips_in_after_the_look_is_not_overwritten(
    store: RemoteStore, server: SftpServer, below: Path
) -> None:
    store.put("other", b"1")

    def slip() -> None:
        (below / "new").write_bytes(b"theirs")

    server.before["rename"] = slip
    with pytest.raises(FileExistsError):
        store.create("new", b"ours")
    assert (below / "new").read_bytes() == b"theirs"
    assert sorted(path.name for path in below.iterdir()) == ["new", "other"]


def test_a_file_is_seen_whole_or_not_at_all(store: RemoteStore, server: SftpServer, below: Path) -> None:
    """It is written under another name, brought to the disk, and renamed."""
    seen: list[bytes] = []
    store.put("x", b"old")
    server.before["posix_rename"] = lambda: seen.append((below / "x").read_bytes())
    server.asked.clear()
    store.put("x", b"new" * 100_000)
    assert seen == [b"old"]
    order = [each for each in server.asked if each in ("write", "fsync", "posix_rename")]
    assert order[-2:] == ["fsync", "posix_rename"]
    assert store.get("x") == b"new" * 100_000


def test_large_local_files_are_sent_in_pieces(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: Path
) -> None:
    monkeypatch.setattr("dreamlake.storage.plain.PIECE", 1000)
    monkeypatch.setattr("dreamlake.storage.sftp.PIECE", 1000)
    data = os.urandom(10_500)
    (tmp_path / "video").write_bytes(data)
    store.put_file("files/video", tmp_path / "video")
    assert (below / "files/video").read_bytes() == data


# ------------------------------------------------------------------------------------------------ trouble


def test_a_lost_connection_is_made_again(store: RemoteStore, server: SftpServer) -> None:
    store.put("x", b"1")
    assert server.cut() == 1
    assert store.get("x") == b"1"
    server.cut()
    assert store.get_many([("x", 0, 1), ("x", 0, 9)]) == [b"1", b"1"]
    for use in (store.list, store.walk, lambda: store.size("x"), lambda: store.put("x", b"2")):
        assert server.cut() == 1
        use()


@pytest.mark.parametrize("request_name", ["open", "write", "fsync", "posix_rename", "stat"])
def test_a_lost_reply_to_a_put_is_not_noticed(store: RemoteStore, server: SftpServer, request_name: str) -> None:
    store.put("x", b"before")
    server.lose.append(request_name)
    store.put("x", b"after")
    assert server.lose == []
    assert store.get("x") == b"after"


@pytest.mark.parametrize("request_name", ["open", "write", "fsync", "rename", "mkdir"])
def test_a_lost_reply_to_a_create_is_not_taken_for_another_writer(
    store: RemoteStore, server: SftpServer, below: Path, request_name: str
) -> None:
    server.lose.append(request_name)
    store.create("a/x", b"ours")
    assert server.lose == []
    assert [path.name for path in (below / "a").iterdir()] == ["x"]
    with pytest.raises(FileExistsError):
        store.create("a/x", b"again")


def test_a_server_that_is_away_and_comes_back(tmp_path: Path) -> None:
    server = SftpServer(tmp_path)
    store = RemoteStore(f"{server.url}/x", server.options())
    try:
        store.put("x", b"1")
        server.pause()
        for use in (lambda: store.get("x"), lambda: store.put("x", b"2"), store.walk):
            with pytest.raises(ConnectionError) as caught:
                use()
            assert caught.value.filename.startswith(store.describe())
        server.start()
        assert store.get("x") == b"1"
    finally:
        store.close()
        server.stop()


def test_a_server_that_falls_silent(store: RemoteStore, server: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("x", b"1")
    monkeypatch.setattr("dreamlake.storage.sftp.TIMEOUT", 0.2)
    server.silent = True
    for use in (lambda: store.get("x", 0, 5), lambda: store.put("x", b"2"), lambda: store.size("x")):
        with pytest.raises(ConnectionError):
            use()
    server.silent = False
    monkeypatch.undo()
    assert store.get("x") == b"1"


def test_a_host_that_takes_connections_and_says_nothing(opened: Opened) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        store = RemoteStore(f"sftp://127.0.0.1:{mute.getsockname()[1]}/x", {"connect_timeout": 0.3, "config": None})
        with pytest.raises(TimeoutError):
            store.list()
        store.close()


def test_a_full_disk_and_a_folder_that_may_not_be_read(store: RemoteStore, server: SftpServer) -> None:
    store.put("x", b"1")
    for number, kind in ((errno.ENOSPC, OSError), (errno.EACCES, PermissionError)):

        def fail(number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        server.before["write"] = fail
        with pytest.raises(kind) as caught:
            store.put("x", b"2")
        assert caught.value.filename == store.describe("x")
        assert store.walk() == ["x"]
    assert store.get("x") == b"1"


# ------------------------------------------------------------------------------------------------ who is there


def assert_clean(error: BaseException, *secrets: str) -> None:
    assert error.__cause__ is None
    assert error.__context__ is None
    assert not [secret for secret in secrets if secret in f"{error!r} {error} {vars(error)}"]


def test_wrong_passwords(opened: Opened, server: SftpServer, folder: str) -> None:
    store = opened(folder, password="wrong-password-1")
    for use in (lambda: store.get("x"), store.list, store.walk, lambda: store.put("x", b"1")):
        with pytest.raises(PermissionError) as caught:
            use()
        assert_clean(caught.value, "wrong-password-1")
    assert "wrong-password-1" not in repr(store)


def test_a_host_that_nobody_vouches_for_is_refused(opened: Opened, server: SftpServer, folder: str) -> None:
    """sshfs alone would give it the password."""
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    store = opened(folder, known_hosts=f"[127.0.0.1]:{server.port} {other}".encode())
    with pytest.raises(PermissionError, match=r"(?i)host key"):
        store.put("x", b"1")
    trusting = opened(folder, known_hosts=None)
    trusting.put("x", b"1")


def test_a_user_and_password_in_the_url(server: SftpServer, folder: str) -> None:
    options = server.options()
    del options["username"]
    store = RemoteStore(f"sftp://{USER}@127.0.0.1:{server.port}/{folder}", options)
    store.put("x", b"1")
    assert store.get("x") == b"1"
    assert USER not in store.describe("x")
    store.close()


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dreamlake.storage.sftp", None)
    with pytest.raises(ImportError, match=r"dreamlake\[sftp\]"):
        RemoteStore("sftp://host/x")


def test_nothing_is_asked_before_it_is_needed(server: SftpServer) -> None:
    """So that a run starts while its server is away."""
    RemoteStore("sftp://nobody:no@127.0.0.1:1/x", {"config": None}).close()
    assert "asyncssh" not in run_python("import sys, dreamlake.storage.remote; print(*sys.modules)").stdout.split()


# ------------------------------------------------------------------------------------------------ where it is used


class TestWhereItIsUsed(ServerStoreTests):
    """In a notebook, and in forked children."""


def test_a_lake_is_read(server: SftpServer, folder: str, below: Path) -> None:
    with Session("run", "w", local_path=below, segment_points=100) as session:
        session.track("arm/joint: 1").append_batch({"value": [i * 0.5 for i in range(1050)]})
        session.parameters().set(lr=0.1)
        session.log("hello")
    lake = Lake(f"{server.url}/{folder}", server.options())
    assert [(info["name"], info["status"]) for info in lake.sessions()] == [("run", "finished")]
    view = lake.session("run", "w")
    assert view.tracks.list() == ["arm/joint: 1"]
    track = view.track("arm/joint: 1")
    assert len(track) == 1050
    assert [row["data"]["value"] for row in track.read(95, 10)["data"]] == [i * 0.5 for i in range(95, 105)]
    assert track.scan().select("value").sum().collect().item() == sum(i * 0.5 for i in range(1050))
    assert track.to_arrow().num_rows == 1050
    assert view.parameters().get() == {"lr": 0.1}
    assert view.logs()["message"].to_list() == ["hello"]
    assert lake.scan("arm/joint: 1").collect().height == 1050
    lake._store.close()  # type: ignore[attr-defined]


def test_a_run_is_kept_there_and_goes_on_from_there(server: SftpServer, folder: str, tmp_path: Path) -> None:
    """With the server away for a while, and on an empty disk the second time."""
    url, options = f"{server.url}/{folder}", server.options()
    for machine in range(2):
        with Session(
            "run", "w", local_path=tmp_path / str(machine), remote=url, storage_options=options, segment_points=100
        ) as session:
            for step in range(250):
                session.track("loss").append(step=machine * 250 + step)
            session.sync()
            server.cut()
    lake = Lake(url, options)
    track = lake.session("run", "w").track("loss")
    assert track.to_polars()["step"].to_list() == list(range(500))
    lake._store.close()  # type: ignore[attr-defined]
