"""The store over URLs: its contract on three filesystems, conditional writes, errors, secrets, and a bad network."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from s3.proxy import Fault, Proxy
from s3.server import BUCKET, KEY, SECRET, S3Server
from store_tests import ServerStoreTests, StoreMachine, StoreTests
from support import run_python

from dreamlake.engine.process import side_by_side
from dreamlake.storage import plain, remote, s3
from dreamlake.storage.faults import Secrets, translated
from dreamlake.storage.remote import ObjectChanged, RemoteStore

FAST = {"connect_timeout": 10, "read_timeout": 0.5}


@pytest.fixture
def opened() -> Iterator[Callable[..., RemoteStore]]:
    """Makes stores that are closed at the end of the test."""
    stores: list[RemoteStore] = []

    def make(url: str, options: Any = None) -> RemoteStore:
        stores.append(RemoteStore(url, options))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


Opened = Callable[..., RemoteStore]


@pytest.fixture
def store(opened: Opened, s3_server: S3Server, s3_url: str) -> RemoteStore:
    """An empty prefix on the server."""
    return opened(s3_url, s3_server.options())


@pytest.fixture
def proxied(opened: Opened, s3_server: S3Server, s3_proxy: Proxy, s3_url: str) -> RemoteStore:
    """The same prefix through the proxy."""
    return opened(s3_url, s3_server.options(s3_proxy.endpoint))


@pytest.fixture
def impatient(opened: Opened, s3_server: S3Server, s3_proxy: Proxy, s3_url: str) -> RemoteStore:
    """The same, with timeouts of half a second."""
    return opened(s3_url, {**s3_server.options(s3_proxy.endpoint), "config_kwargs": FAST})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without the waits in between."""
    monkeypatch.setattr(s3.random, "uniform", lambda low, high: 0.0)


class TestMemory(StoreTests):
    @pytest.fixture
    def store(self) -> RemoteStore:
        return RemoteStore(f"memory://{uuid.uuid4().hex}/deep")

    def raw_put(self, store: Any, path: str, data: bytes) -> None:
        fsspec.filesystem("memory").pipe_file(f"{store.describe()}/{path}", data)

    def raw_get(self, store: Any, path: str) -> bytes:
        return fsspec.filesystem("memory").cat_file(f"{store.describe()}/{path}")  # type: ignore[no-any-return]


class TestFile(StoreTests):
    @pytest.fixture
    def store(self, lake_dir: Path) -> RemoteStore:
        return RemoteStore(f"file://{lake_dir}/below")

    def raw_put(self, store: Any, path: str, data: bytes) -> None:
        full = Path(store.describe(path).removeprefix("file://"))
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)

    def raw_get(self, store: Any, path: str) -> bytes:
        return Path(store.describe(path).removeprefix("file://")).read_bytes()

    def test_nothing_is_left_beside(self, store: RemoteStore, lake_dir: Path) -> None:
        store.put("a/x", b"1")
        store.create("a/y", b"1")
        with pytest.raises(FileExistsError):
            store.create("a/y", b"2")
        assert sorted(path.name for path in lake_dir.rglob("*")) == ["a", "below", "x", "y"]

    def test_links_to_folders_are_not_followed(self, store: RemoteStore, lake_dir: Path) -> None:
        store.put("a/x", b"1")
        (lake_dir / "below" / "a" / "loop").symlink_to(lake_dir / "below")
        assert store.walk() == ["a/x"]
        assert [(entry.name, entry.is_dir) for entry in store.list("a")] == [("loop", False), ("x", False)]


class TestS3(StoreTests):
    @pytest.fixture
    def store(self, opened: Opened, s3_server: S3Server, s3_url: str) -> RemoteStore:
        return opened(s3_url, s3_server.options())

    @pytest.fixture(autouse=True)
    def _raw(self, s3_server: S3Server) -> Iterator[None]:
        """Plain s3fs."""
        options = s3_server.options() | {"use_listings_cache": False, "skip_instance_cache": True}
        self.fs = fsspec.filesystem("s3", **options)
        yield
        self.fs.close_session(self.fs.loop, self.fs._s3) if self.fs._s3 else None

    def raw_put(self, store: Any, path: str, data: bytes) -> None:
        self.fs.pipe_file(store.describe(path), data)

    def raw_get(self, store: Any, path: str) -> bytes:
        return self.fs.cat_file(store.describe(path))  # type: ignore[no-any-return]


@pytest.fixture
def many(opened: Opened, s3_server: S3Server, s3_proxy: Proxy, s3_url: str) -> RemoteStore:
    """A store through the proxy with a hundred files, ``0`` to ``99``, that hold their names."""
    direct = opened(s3_url, s3_server.options())
    side_by_side(lambda number: direct.put(str(number), b"%d" % number), range(100), 16)
    return opened(s3_url, s3_server.options(s3_proxy.endpoint))


def test_arrivals_are_all_that_was_asked_for_each_once(many: RemoteStore) -> None:
    names = ["5", "none", *map(str, range(100))]
    with many.arrivals([(name, 0, None) for name in names]) as take:
        found = dict(side_by_side(lambda _: take(), names, 3))
    assert sorted(found) == list(range(len(names)))
    missing = found.pop(1)
    assert isinstance(missing, FileNotFoundError)
    assert str(missing.filename).endswith("/none")
    assert found == {place: name.encode() for place, name in enumerate(names) if name != "none"}


def test_arrivals_that_nobody_takes_are_not_asked_for(many: RemoteStore, s3_proxy: Proxy) -> None:
    asked: list[str] = []
    s3_proxy.plan = lambda request: asked.append(request.key)
    with many.arrivals([(str(number), 0, None) for number in range(100)]) as take:
        while len(asked) < many.width:
            time.sleep(0.002)
        time.sleep(0.1)  # for one too many to show
        assert len(asked) == many.width
        place, data = take()
        assert data == b"%d" % place
    assert many.get("7") == b"7", "the connections still work"
    assert len(asked) <= many.width + 2, "what was given up is asked for no more"


def test_arrivals_end_with_an_error_of_the_block(many: RemoteStore) -> None:
    with pytest.raises(KeyError), many.arrivals([(str(number), 0, None) for number in range(100)]):
        raise KeyError
    assert many.get("7") == b"7"


class RemoteMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = RemoteStore(f"memory://{uuid.uuid4().hex}")


TestRemoteMachine = RemoteMachine.TestCase


@pytest.fixture(params=["memory", "file", "s3"])
def any_store(request: pytest.FixtureRequest, lake_dir: Path) -> RemoteStore:
    if request.param == "s3":
        return request.getfixturevalue("store")  # type: ignore[no-any-return]
    return RemoteStore(f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"file://{lake_dir}")


# ------------------------------------------------------------------------------------------------ conditional writes


def test_a_version_is_replaced_once(any_store: RemoteStore) -> None:
    first = any_store.replace_if("a/hot", b"one", None)
    assert any_store.read("a/hot") == (b"one", first)
    second = any_store.replace_if("a/hot", b"three", first)
    assert any_store.stat("a/hot").version == second != first
    with pytest.raises(ObjectChanged, match="another writer") as caught:
        any_store.replace_if("a/hot", b"by another", first)
    assert caught.value.version == second
    assert caught.value.filename == any_store.describe("a/hot")
    assert pickle.loads(pickle.dumps(caught.value)).version == second
    with pytest.raises(FileExistsError):
        any_store.replace_if("a/hot", b"anew", None)
    assert any_store.get("a/hot") == b"three"
    any_store.delete("a/hot")
    with pytest.raises(ObjectChanged, match="gone") as caught:
        any_store.replace_if("a/hot", b"four", second)
    assert caught.value.version is None
    with pytest.raises(FileNotFoundError):
        any_store.read("a/hot")
    with pytest.raises(FileNotFoundError):
        any_store.stat("a/hot")


def test_of_several_that_replace_a_version_one_wins(any_store: RemoteStore) -> None:
    version = any_store.replace_if("hot", b"-", None)
    gate = threading.Barrier(6)
    ended: list[object] = []

    def race(number: int) -> None:
        gate.wait()
        try:
            ended.append(any_store.replace_if("hot", b"%d" % number, version))
        except ObjectChanged as error:
            ended.append(type(error))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 6
    assert ended.count(ObjectChanged) == 5
    assert any_store.stat("hot").version in ended


def test_the_probe_finds_conditions_and_leaves_nothing(proxied: RemoteStore, s3_proxy: Proxy) -> None:
    with s3_proxy.counting() as seen:
        assert proxied.conditional
        assert proxied.conditional
    assert [request.kind for request in seen] == ["PUT", "PUT", "PUT", "DELETE"]
    assert proxied.walk() == []


def test_a_server_without_conditions_is_found_out(proxied: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_condition", lambda version: {})  # as if it took no notice of them
    assert not proxied.conditional
    version = proxied.replace_if("x", b"1", None)
    with pytest.raises(FileExistsError):
        proxied.create("x", b"2")
    with pytest.raises(ObjectChanged):
        proxied.replace_if("x", b"2", '"other"')
    assert proxied.replace_if("x", b"2", version) == proxied.stat("x").version
    assert proxied.get("x") == b"2"


@pytest.mark.parametrize("url", ["memory://x", "file:///tmp"])
def test_elsewhere_conditions_are_best_effort(url: str) -> None:
    assert not RemoteStore(url).conditional


def test_a_probe_that_cannot_write_says_so(proxied: RemoteStore, s3_proxy: Proxy, quick: None) -> None:
    s3_proxy.fail(Fault.UNAVAILABLE)
    with pytest.raises(OSError, match=r"s3://.*") as caught:
        _ = proxied.conditional
    assert not isinstance(caught.value, FileNotFoundError)
    s3_proxy.fail(Fault.UNAVAILABLE, times=0)
    assert proxied.conditional


@pytest.mark.parametrize("condition", ["create", "replace"])
def test_a_lost_reply_is_adopted_when_the_bytes_are_ours(
    proxied: RemoteStore, s3_proxy: Proxy, quick: None, condition: str
) -> None:
    assert proxied.conditional
    version = proxied.replace_if("hot", b"old", None) if condition == "replace" else None
    s3_proxy.fail(Fault.LOST_REPLY, "PUT", "hot", times=1)
    with s3_proxy.counting() as seen:
        adopted = proxied.replace_if("hot", b"ours", version)
    assert [request.status for request in seen if request.kind == "PUT"] == [200, 412]
    assert proxied.read("hot") == (b"ours", adopted)


@pytest.mark.parametrize("theirs", [b"them", b"longer than ours"])
@pytest.mark.parametrize("condition", ["create", "replace"])
def test_a_refusal_is_not_adopted_when_the_bytes_are_theirs(
    proxied: RemoteStore, store: RemoteStore, s3_proxy: Proxy, quick: None, condition: str, theirs: bytes
) -> None:
    assert proxied.conditional
    version = proxied.replace_if("hot", b"old", None) if condition == "replace" else None
    store.put("hot", theirs)
    s3_proxy.fail(Fault.RESET, "PUT", "hot", times=1)
    with pytest.raises(ObjectChanged if version else FileExistsError):
        proxied.replace_if("hot", b"ours", version)
    assert store.get("hot") == theirs


# ------------------------------------------------------------------------------------------------ versions and files


def test_listings_tell_the_versions(any_store: RemoteStore) -> None:
    written = {path: any_store.replace_if(path, path.encode(), None) for path in ("a/x", "a/y", "a/b/z")}
    assert {entry.name: entry.version for entry in any_store.tree()} == written
    assert {entry.name: entry.version for entry in any_store.list("a") if not entry.is_dir} == {
        "x": written["a/x"],
        "y": written["a/y"],
    }
    assert any_store.stat("a/b/z").version == written["a/b/z"]
    later = any_store.replace_if("a/x", b"another", written["a/x"])
    assert {entry.version for entry in any_store.list("a") if entry.name == "x"} == {later} != {written["a/x"]}


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Files in pieces of 5 MB, the least that S3 takes."""
    for module in (s3, plain):
        monkeypatch.setattr(module, "PIECE", 5 << 20)
    return 5 << 20


@pytest.mark.parametrize("extra", [-1, 0, 1, (8 << 20) + 5])
def test_a_file_of_any_size_is_sent(any_store: RemoteStore, tmp_path: Path, small_pieces: int, extra: int) -> None:
    data = os.urandom(1000) * ((small_pieces + extra) // 1000 + 1)
    data = data[: small_pieces + extra]
    (tmp_path / "big").write_bytes(data)
    any_store.put("a/x", b"an older one")
    version = any_store.put_file("a/x", tmp_path / "big")
    assert any_store.read("a/x") == (data, version)
    assert [entry.version for entry in any_store.tree()] == [version]
    (tmp_path / "big").write_bytes(b"")
    any_store.put_file("a/empty", str(tmp_path / "big"))
    assert any_store.get("a/empty") == b""


def test_a_file_that_is_not_there_is_named_as_it_is(any_store: RemoteStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        any_store.put_file("a/x", tmp_path / "none")
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(ValueError, match="path"):
        any_store.put_file("../x", tmp_path / "none")


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.LOST_REPLY, Fault.SLOW_DOWN])
def test_parts_bear_a_bad_network(
    proxied: RemoteStore, s3_proxy: Proxy, quick: None, tmp_path: Path, small_pieces: int, fault: Fault
) -> None:
    """Each request fails at its first attempt, the one that makes a whole of the parts among them."""
    data = os.urandom(4096) * (3 * small_pieces // 4096)
    (tmp_path / "big").write_bytes(data)
    seen: set[str] = set()

    def plan(request: Any) -> Fault | None:
        known = request.target in seen
        seen.add(request.target)
        return None if known else fault

    s3_proxy.plan = plan
    version = proxied.put_file("x", tmp_path / "big")
    assert len(seen) == 5
    s3_proxy.plan = lambda request: None
    assert proxied.read("x") == (data, version)


def test_a_file_that_fails_half_way_leaves_the_older_one(
    proxied: RemoteStore, s3_proxy: Proxy, quick: None, tmp_path: Path, small_pieces: int
) -> None:
    (tmp_path / "big").write_bytes(bytes(3 * small_pieces))
    proxied.put("x", b"older")

    def plan(request: Any) -> Fault | None:
        return Fault.UNAVAILABLE if "partNumber=2" in request.target else None

    s3_proxy.plan = plan
    with s3_proxy.counting() as seen, pytest.raises(OSError, match="x") as caught:
        proxied.put_file("x", tmp_path / "big")
    assert caught.value.filename == proxied.describe("x")
    assert seen[-1].kind == "DELETE"
    assert "uploadId" in seen[-1].target
    assert proxied.get("x") == b"older"


def test_a_plain_file_that_fails_half_way_leaves_the_older_one(
    lake_dir: Path, tmp_path: Path, small_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RemoteStore(f"file://{lake_dir}")
    store.put("a/x", b"older")
    (tmp_path / "big").write_bytes(bytes(2 * small_pieces))

    def fail(source: str, target: str, **_: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._files._fs, "put_file", fail)
    with pytest.raises(OSError, match="No space"):
        store.put_file("a/x", tmp_path / "big")
    assert store.get("a/x") == b"older"
    assert sorted(path.name for path in lake_dir.rglob("*")) == ["a", "x"]


# ------------------------------------------------------------------------------------------------ requests


def test_each_thing_costs_one_request(proxied: RemoteStore, store: RemoteStore, s3_proxy: Proxy) -> None:
    for number in range(3):
        store.put(f"a/{number}", b"0123")
    asks: list[tuple[Callable[[], object], list[str]]] = [
        (lambda: proxied.get("a/0"), ["GET"]),
        (lambda: proxied.get("a/0", 1), ["GET"]),
        (lambda: proxied.get("a/0", 0, 99), ["GET"]),
        (lambda: proxied.read("a/0"), ["GET"]),
        (lambda: proxied.list("a"), ["LIST"]),
        (lambda: proxied.list("nothing"), ["LIST"]),
        (proxied.walk, ["LIST"]),
        (lambda: proxied.size("a/0"), ["HEAD"]),
        (lambda: proxied.get_many([(f"a/{number}", 0, None) for number in range(3)]), ["GET"] * 3),
        (lambda: proxied.put("a/0", b"1"), ["PUT"]),
        (lambda: proxied.delete("a/0"), ["DELETE"]),
    ]
    for ask, kinds in asks:
        with s3_proxy.counting() as seen:
            ask()
        assert [request.kind for request in seen] == kinds
    with s3_proxy.counting() as seen:
        with pytest.raises(FileNotFoundError):
            proxied.get("a/0")
        with pytest.raises(FileNotFoundError):
            proxied.get("a/0", 0, 5)
    assert [request.kind for request in seen] == ["GET", "GET"]


def test_long_listings_come_whole(store: RemoteStore) -> None:
    names = sorted(f"{number:04}" for number in range(1100))
    threads = [
        threading.Thread(target=lambda part: [store.put(f"many/{name}", b"") for name in part], args=(names[at::8],))
        for at in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.name for entry in store.list("many")] == names
    assert store.walk() == [f"many/{name}" for name in names]


def test_listings_are_never_stale(any_store: RemoteStore) -> None:
    assert any_store.list("a") == []
    any_store.put("a/x", b"1")
    assert [entry.name for entry in any_store.list("a")] == ["x"]
    any_store.put("a/x", b"12")
    assert [entry.size for entry in any_store.list("a")] == [2]


def test_many_ranges_at_once(any_store: RemoteStore) -> None:
    for number in range(40):
        any_store.put(f"a/{number}", b"%03d-" % number)
    wanted = [*((f"a/{number}", 1, 3) for number in range(40)), ("none", 0, None), ("a/1", 0, None)]
    *found, missing, last = any_store.get_many(wanted)
    assert found == [(b"%03d" % number)[1:] for number in range(40)]
    assert last == b"001-"
    assert isinstance(missing, FileNotFoundError)
    assert missing.filename == any_store.describe("none")
    assert any_store.get_many([]) == []
    with pytest.raises(ValueError, match="path"):
        any_store.get_many([("../x", 0, None)])


def test_many_reads_are_under_way_together(proxied: RemoteStore, store: RemoteStore, s3_proxy: Proxy) -> None:
    """Each request is held back until eight are there: one after the other they would never come."""
    for number in range(8):
        store.put(str(number), b"1")
    proxied.get("0")
    together = threading.Event()
    seen: list[int] = []

    def plan(request: Any) -> None:
        seen.append(request.number)
        if len(seen) == 8:
            together.set()

    async def wait(_: float) -> None:
        while not together.is_set():
            await real_sleep(0.01)

    real_sleep = asyncio.sleep
    s3_proxy.plan = plan
    s3_proxy.hold = wait
    assert proxied.get_many([(str(number), 0, None) for number in range(8)]) == [b"1"] * 8


# ------------------------------------------------------------------------------------------------ a bad network


@pytest.mark.parametrize(
    "fault", [Fault.RESET, Fault.LOST_REPLY, Fault.UNAVAILABLE, Fault.SLOW_DOWN, Fault.TRUNCATED, Fault.HANG]
)
def test_trouble_that_passes_is_not_noticed(impatient: RemoteStore, s3_proxy: Proxy, quick: None, fault: Fault) -> None:
    steps: list[tuple[Callable[[], object], object]] = [
        (lambda: impatient.put("a/x", b"0123" * 1000), None),
        (lambda: impatient.get("a/x"), b"0123" * 1000),
        (lambda: impatient.get_many([("a/x", 0, 4)]), [b"0123"]),
        (lambda: [entry.name for entry in impatient.list("a")], ["x"]),
        (impatient.walk, ["a/x"]),
        (lambda: impatient.size("a/x"), 4000),
        (lambda: impatient.delete("a/x"), None),
    ]
    for step, wanted in steps:
        s3_proxy.fail(fault, times=1)
        assert step() == wanted


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.RESET, ConnectionError),
        (Fault.TRUNCATED, ConnectionError),
        (Fault.UNAVAILABLE, OSError),
        (Fault.SLOW_DOWN, OSError),
        (Fault.HANG, TimeoutError),
    ],
)
def test_trouble_that_stays_is_an_oserror_with_the_url(
    impatient: RemoteStore, s3_proxy: Proxy, s3_url: str, quick: None, fault: Fault, kind: type[OSError]
) -> None:
    impatient.put("a/x", b"0123" * 1000)
    s3_proxy.fail(fault)
    with s3_proxy.counting() as seen, pytest.raises(kind) as caught:
        impatient.get("a/x")
    assert caught.value.filename == f"{s3_url}/a/x"
    assert 2 <= len(seen) <= s3.ATTEMPTS * 2  # aiohttp repeats some on its own
    assert_clean(caught.value)
    if fault in (Fault.RESET, Fault.UNAVAILABLE):
        for use in (impatient.list, impatient.walk):
            with pytest.raises(kind):
                use("a")


def test_a_server_that_is_not_there(s3_url: str, unused_port: int, quick: None) -> None:
    options = {"endpoint_url": f"http://127.0.0.1:{unused_port}", "key": KEY, "secret": SECRET}
    with pytest.raises(ConnectionError) as caught:
        RemoteStore(s3_url, options).get("x")
    assert_clean(caught.value)
    with pytest.raises(ConnectionError):
        RemoteStore(s3_url, options).list()


def test_timeouts_are_set_unless_the_user_sets_them() -> None:
    config = s3.options_for({"config_kwargs": {"read_timeout": 3}, "key": "k"})["config_kwargs"]
    assert (config["connect_timeout"], config["read_timeout"]) == (s3.CONNECT_TIMEOUT, 3)
    assert s3.options_for({})["config_kwargs"]["read_timeout"] == s3.READ_TIMEOUT


# ------------------------------------------------------------------------------------------------ errors and secrets


def assert_clean(error: BaseException, *secrets: str) -> None:
    """Neither the error nor what stands behind it tells a secret."""
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is None:
            continue
        said = f"{each!r} {each} {each.args} {vars(each)}"
        assert not [secret for secret in (SECRET, KEY, *secrets) if secret in said]
        left += [each.__cause__, each.__context__]


@pytest.mark.parametrize("options", [{"secret": "wrong-secret-1234"}, {"key": "wrong-key-1234"}])
def test_wrong_credentials(
    opened: Opened, s3_server: S3Server, s3_url: str, options: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = opened(s3_url, s3_server.options() | options)
    for use in (lambda: store.get("x"), store.list, lambda: store.put("x", b"1"), lambda: store.conditional):
        with pytest.raises(PermissionError) as caught:
            use()
        assert caught.value.filename.startswith(s3_url)
        assert_clean(caught.value, *options.values())
    assert not [secret for secret in (SECRET, *options.values()) if secret in caplog.text]


def test_no_credentials(s3_server: S3Server, s3_url: str, lake_dir: Path) -> None:
    code = """
        import sys
        from dreamlake.storage.remote import RemoteStore
        try:
            RemoteStore(sys.argv[1], {"endpoint_url": sys.argv[2]}).get("x")
        except PermissionError as error:
            print(error)
    """
    none = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}
    said = run_python(code, s3_url, s3_server.endpoint, HOME=str(lake_dir), **none).stdout
    assert "credentials" in said
    assert s3_url in said


def test_credentials_of_the_environment(s3_server: S3Server, store: RemoteStore, s3_url: str) -> None:
    store.put("x", b"found")
    code = """
        import sys
        from dreamlake.storage.remote import RemoteStore
        print(RemoteStore(sys.argv[1]).get("x"))
    """
    env = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": s3_server.endpoint}
    assert run_python(code, s3_url, **env).stdout == "b'found'\n"


def test_credentials_of_a_profile(s3_server: S3Server, store: RemoteStore, s3_url: str, tmp_path: Path) -> None:
    store.put("x", b"found")
    profile = f"[team]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "credentials").write_text(profile)
    code = """
        import sys
        from dreamlake.storage.remote import RemoteStore
        print(RemoteStore(sys.argv[1], {"profile": "team", "endpoint_url": sys.argv[2]}).get("x"))
    """
    env = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    assert run_python(code, s3_url, s3_server.endpoint, **env).stdout == "b'found'\n"


def test_a_bucket_that_is_not_there(opened: Opened, s3_server: S3Server) -> None:
    """No FileNotFoundError: a missing file is an answer, and a missing bucket none."""
    store = opened("s3://no-such-bucket-here/x", s3_server.options())
    for use in (lambda: store.get("x"), store.list, store.walk):
        with pytest.raises(OSError, match="no such bucket") as caught:
            use()
        assert not isinstance(caught.value, FileNotFoundError)


def test_a_web_server_does_not_look_like_an_empty_lake(proxied: RemoteStore, s3_proxy: Proxy) -> None:
    s3_proxy.fail(Fault.WEB_PAGE)
    for use in (lambda: proxied.get("x"), proxied.list, proxied.walk):
        with pytest.raises(OSError, match="no S3 server") as caught:
            use()
        assert not isinstance(caught.value, FileNotFoundError)


def test_nothing_shows_options_or_user_info() -> None:
    shown = RemoteStore("memory://user:password@host/lake?token=secret#x")
    assert repr(shown) == "RemoteStore('memory://host/lake')"
    assert shown.describe("a/b") == "memory://host/lake/a/b"
    assert RemoteStore("memory://").describe("a") == "memory://a"
    for url in ("s3://key1:secret1@bucket/lake", "s3://bucket/lake?token=secret1", "S3://key1:secret1@bucket"):
        with pytest.raises(ValueError, match="storage_options") as caught:
            RemoteStore(url)
        assert_clean(caught.value, "secret1", "key1")


@pytest.mark.parametrize(
    ("url", "options", "kind", "says"),
    [
        ("nosuch://x", {}, ValueError, "nosuch://x"),
        ("s3://b/x", {"config_kwargs": {"no_such": "secret-value"}}, ValueError, "no_such"),
        ("s3://b/x", {"no_such": "secret-value"}, TypeError, "no_such"),
        ("gs://b/x", {"token": "secret-value"}, ImportError, "gs:// URLs need another package"),
    ],
)
def test_what_cannot_be_opened(url: str, options: dict[str, Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        RemoteStore(url, options).get("x")
    assert_clean(caught.value, "secret-value")


def test_messages_are_cleaned() -> None:
    secrets = Secrets("sftp://me:pass%40word@host/x", {"a": {"b": ["deep-secret", b"bytes-secret"]}, "c": "me"})
    dirty = "deep-secret bytes-secret pass%40word pass@word at sftp://x:y@h/p?sig=1 and 'https://q.org/?a=b' me"
    assert secrets.clean(dirty) == "… … … … at sftp://h/p and 'https://q.org/' me"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (FileNotFoundError("k"), FileNotFoundError),
        (NotADirectoryError(20, "k"), FileNotFoundError),
        (FileExistsError("k"), FileExistsError),
        (PermissionError("k"), PermissionError),
        (TimeoutError(), TimeoutError),
        (ConnectionResetError(104, "reset"), ConnectionError),
        (OSError(28, "No space left on device"), OSError),
        (RuntimeError("sftp failed"), OSError),
        (ValueError("k"), ValueError),
        (TypeError("a bug"), TypeError),
    ],
)
def test_errors_are_the_built_in_ones(raised: Exception, kind: type[Exception]) -> None:
    made = translated(raised, "s3://b/x", Secrets("", {}))
    assert isinstance(made, kind)
    if isinstance(made, OSError):
        assert made.filename == "s3://b/x"
        assert made.errno
        assert type(pickle.loads(pickle.dumps(made))) is type(made)


# ------------------------------------------------------------------------------------------------ where it is used


class TestWhereItIsUsed(ServerStoreTests):
    """In a notebook, and in forked children."""


def test_it_can_be_handed_to_another_process(store: RemoteStore) -> None:
    store.put("x", b"before")
    code = """
        import pickle, sys
        store = pickle.loads(bytes.fromhex(sys.argv[1]))
        store.put("y", store.get("x") + b" and after")
    """
    run_python(code, pickle.dumps(store).hex())
    assert store.get("y") == b"before and after"


def test_stores_share_nothing_and_go_on_after_a_close(opened: Opened, s3_server: S3Server, s3_url: str) -> None:
    one, other = (opened(s3_url, s3_server.options()) for _ in range(2))
    one.put("x", b"1")
    assert other.get("x") == b"1"
    one.close()
    one.close()
    assert other.get("x") == b"1"
    assert one.get("x") == b"1"


def test_a_store_that_is_dropped_closes_its_connections(s3_server: S3Server, s3_url: str) -> None:
    RemoteStore(s3_url, s3_server.options()).put("x", b"1")  # the check for leaks sees whether it did


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port on which nobody listens."""
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_the_bucket_of_the_tests_is_one() -> None:
    assert remote.shown(f"s3://{BUCKET}/") == f"s3://{BUCKET}"
