"""The tests that every store must pass; a backend's test module subclasses ``StoreTests`` and fills in its hooks."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support import in_child

from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Store


class StoreTests:
    """The contract of ``storage.store.Store``.

    A subclass defines the fixture ``store`` (empty) and the hooks ``raw_put`` and ``raw_get``, which go round it.
    """

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    def raw_put(self, store: Store, path: str, data: bytes) -> None:
        raise NotImplementedError

    def raw_get(self, store: Store, path: str) -> bytes:
        raise NotImplementedError

    def test_put_is_there_under_its_path(self, store: Store) -> None:
        store.put("a/b/c.bin", b"one")
        assert self.raw_get(store, "a/b/c.bin") == b"one"
        store.put("a/b/c.bin", b"longer than before")
        assert self.raw_get(store, "a/b/c.bin") == b"longer than before"

    def test_get_gives_ranges(self, store: Store) -> None:
        self.raw_put(store, "a/x", b"0123456789")
        assert store.get("a/x") == b"0123456789"
        assert store.get("a/x", 3) == b"3456789"
        assert store.get("a/x", 3, 5) == b"34"
        assert store.get("a/x", 3, 3) == b""
        assert store.get("a/x", 5, 3) == b""
        assert store.get("a/x", 8, 99) == b"89"
        assert store.get("a/x", 10) == b""
        assert store.get("a/x", 50, 60) == b""
        assert store.size("a/x") == 10

    def test_empty_file_is_a_file(self, store: Store) -> None:
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert store.get("empty", 0, 10) == b""
        assert store.size("empty") == 0
        assert [(entry.name, entry.size) for entry in store.list()] == [("empty", 0)]

    def test_ranges_below_zero_are_refused(self, store: Store) -> None:
        self.raw_put(store, "x", b"0123")
        with pytest.raises(ValueError, match="0 or above"):
            store.get("x", -1)
        with pytest.raises(ValueError, match="0 or above"):
            store.get("x", 0, -1)

    def test_large_files_come_back(self, store: Store) -> None:
        data = bytes(range(256)) * 20_000
        store.put("large", data)
        assert store.get("large") == data
        assert store.get("large", 1_000_000, 1_000_003) == data[1_000_000:1_000_003]

    @pytest.mark.parametrize("path", ["nothing", "no/folder/x", "file/below"])
    def test_missing_files_are_file_not_found(self, store: Store, path: str) -> None:
        self.raw_put(store, "file", b"1")
        with pytest.raises(FileNotFoundError):
            store.get(path)
        with pytest.raises(FileNotFoundError):
            store.size(path)
        store.delete(path)
        assert self.raw_get(store, "file") == b"1"

    def test_create_never_replaces(self, store: Store) -> None:
        store.create("a/new", b"first")
        with pytest.raises(FileExistsError):
            store.create("a/new", b"second")
        assert self.raw_get(store, "a/new") == b"first"

    def test_of_several_creators_one_wins(self, store: Store) -> None:
        gate = threading.Barrier(6)
        won: list[int] = []
        lost: list[int] = []

        def race(number: int) -> None:
            gate.wait()
            try:
                store.create("a/prize", b"%d" % number)
                won.append(number)
            except FileExistsError:
                lost.append(number)

        threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert len(lost) == 5
        assert self.raw_get(store, "a/prize") == b"%d" % won[0]

    def test_delete(self, store: Store) -> None:
        self.raw_put(store, "a/x", b"1")
        self.raw_put(store, "a/y", b"2")
        store.delete("a/x")
        store.delete("a/x")
        assert [entry.name for entry in store.list("a")] == ["y"]

    def test_list_is_one_folder(self, store: Store) -> None:
        before = time.time()
        for path in ("a/x", "a/deeper/y", "b", "a/w"):
            self.raw_put(store, path, b"123")
        entries = store.list("a")
        assert [(entry.name, entry.size, entry.is_dir) for entry in entries] == [
            ("deeper", 0, True),
            ("w", 3, False),
            ("x", 3, False),
        ]
        assert all(entry.is_dir or abs(entry.modified - before) < 3600 for entry in entries)
        assert [entry.name for entry in store.list()] == ["a", "b"]
        assert store.list("nowhere") == []
        assert store.list("nowhere/at/all") == []

    def test_walk_goes_all_the_way_down(self, store: Store) -> None:
        paths = ["a/x", "a/deeper/still/y", "b", "a/w", "a.b/z"]
        for path in paths:
            self.raw_put(store, path, b"1")
        assert store.walk() == sorted(paths)
        assert store.walk("a") == ["a/deeper/still/y", "a/w", "a/x"]
        assert store.walk("nowhere") == []

    @pytest.mark.parametrize("name", ["a b", "漢字", "100%25", "é", "a+b&c", "x.tar.gz", "'", ";", "~", "$HOME", "!"])
    def test_names_are_taken_as_they_are(self, store: Store, name: str) -> None:
        store.put(f"{name}/{name}", b"1")
        assert store.get(f"{name}/{name}") == b"1"
        assert [entry.name for entry in store.list(name)] == [name]
        assert store.walk() == [f"{name}/{name}"]
        store.delete(f"{name}/{name}")
        assert store.walk() == []

    @pytest.mark.parametrize(
        "path", ["../x", "a/../../x", "/etc/passwd", "a//x", "./x", "a/..", "a/.", "", "a/", "x\0/y"]
    )
    def test_paths_out_of_the_root_are_refused(self, store: Store, path: str) -> None:
        for use in (store.get, store.size, store.delete):
            with pytest.raises(ValueError, match="path"):
                use(path)
        for write in (store.put, store.create):
            with pytest.raises(ValueError, match="path"):
                write(path, b"1")
        assert store.walk() == []

    @pytest.mark.parametrize("path", ["..", "a/..", "/etc", "/", ".", "a/", "a//b"])
    def test_folders_out_of_the_root_are_refused(self, store: Store, path: str) -> None:
        for use in (store.list, store.walk):
            with pytest.raises(ValueError, match="path"):
                use(path)

    def test_describe_is_for_people(self, store: Store) -> None:
        assert store.describe("a/b").endswith("a/b")
        assert store.describe("a/b").startswith(store.describe())

    def test_threads_share_a_store(self, store: Store) -> None:
        failures: list[Exception] = []

        def work(number: int) -> None:
            try:
                for at in range(10):
                    store.put(f"{number}/{at}", b"%d" % at)
                    assert store.get(f"{number}/{at}") == b"%d" % at
                assert len(store.list(str(number))) == 10
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


PATHS = st.lists(st.sampled_from(["a", "b", "c.x"]), min_size=1, max_size=3).map("/".join)


class ServerStoreTests:
    """Where a store over a server is used; a subclass stands in a module with the fixture ``store`` (empty)."""

    def test_it_works_in_a_running_event_loop(self, store: Store) -> None:
        async def cell() -> bytes:
            store.put("x", b"in a notebook")
            return store.get("x")

        assert asyncio.run(cell()) == b"in a notebook"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_it_works_in_a_forked_child_and_on_in_the_parent(self, store: RemoteStore) -> None:
        store.put("x", b"before")

        def work() -> None:
            assert store.get("x") == b"before"
            store.put("y", b"by the child")
            assert store.get_many([("x", 0, 2), ("y", 0, 2)]) == [b"be", b"by"]

        assert in_child(work) == 0
        assert store.get("y") == b"by the child"
        assert [entry.name for entry in store.list()] == ["x", "y"]


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls on a store does what the same calls do on a dict. A subclass sets ``self.store``."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, bytes] = {}
        self.folders: set[str] = set()  # those that a write has made: on a disk they outlive their files

    def blocked(self, path: str) -> bool:
        """Whether the path is a folder, or runs through a file: impossible on a disk, so left out."""
        return path in self.folders or any(path.startswith(file + "/") for file in self.model)

    def wrote(self, path: str, data: bytes) -> None:
        self.model[path] = data
        parts = path.split("/")
        self.folders.update("/".join(parts[:count]) for count in range(1, len(parts)))

    @rule(path=PATHS, data=st.binary(max_size=20))
    def put(self, path: str, data: bytes) -> None:
        if not self.blocked(path):
            self.store.put(path, data)
            self.wrote(path, data)

    @rule(path=PATHS, data=st.binary(max_size=20))
    def create(self, path: str, data: bytes) -> None:
        if path in self.model:
            with pytest.raises(FileExistsError):
                self.store.create(path, data)
        elif not self.blocked(path):
            self.store.create(path, data)
            self.wrote(path, data)

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        if path in self.model or not self.blocked(path):
            self.store.delete(path)
            self.model.pop(path, None)

    @rule(path=PATHS, start=st.integers(0, 25), stop=st.none() | st.integers(0, 25))
    def get(self, path: str, start: int, stop: int | None) -> None:
        if path in self.model:
            assert self.store.get(path, start, stop) == self.model[path][start:stop]
            assert self.store.size(path) == len(self.model[path])
        elif not self.blocked(path):
            with pytest.raises(FileNotFoundError):
                self.store.get(path, start, stop)

    @invariant()
    def lists_what_is_there(self) -> None:
        assert self.store.walk() == sorted(self.model)
        for folder in ("a", "a/b"):
            below = [path.removeprefix(folder + "/") for path in self.model if path.startswith(folder + "/")]
            files = sorted((path, len(self.model[f"{folder}/{path}"])) for path in below if "/" not in path)
            assert [(entry.name, entry.size) for entry in self.store.list(folder) if not entry.is_dir] == files
