"""Files on a local disk: what each function leaves behind when it fails, and the store over a folder."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_tests import StoreMachine, StoreTests
from support import Faulty, run_python

from dreamlake import errors
from dreamlake.format import layout
from dreamlake.storage import local
from dreamlake.storage.local import FsyncFailed, PartialWriteError, SizeChanged
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.store import Store

ENOSPC = OSError(errno.ENOSPC, "No space left on device")
EIO = OSError(errno.EIO, "Input/output error")


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """The seam of ``storage.local``: calls that change the disk can be made to fail."""
    fault = Faulty(os)
    monkeypatch.setattr(local, "os_", fault)
    return fault


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_leftovers_are_named_as_the_layout_says() -> None:
    assert local.TMP_PREFIX == layout.TMP_PREFIX


# ------------------------------------------------------------------------------------------------ writing


def replace(path: str, data: bytes) -> None:
    local.atomic_write(path, data, fsync=True)


WRITERS = pytest.mark.parametrize("write", [replace, local.write_new])


@WRITERS
@pytest.mark.parametrize("data", [b"", b"one", bytearray(b"two"), memoryview(b"xyz")[1:], bytes(3_000_000)])
def test_whole_files_are_written(tmp_path: Path, write: Callable[[str, Any], None], data: Any) -> None:
    write(str(tmp_path / "x"), data)
    assert (tmp_path / "x").read_bytes() == bytes(data)
    assert names(tmp_path) == ["x"]


def test_atomic_write_replaces(tmp_path: Path) -> None:
    for data in (b"first", b"the second", b"3"):
        local.atomic_write(str(tmp_path / "x"), data, fsync=False)
        assert (tmp_path / "x").read_bytes() == data
    assert names(tmp_path) == ["x"]


def test_write_new_never_overwrites(tmp_path: Path) -> None:
    local.write_new(str(tmp_path / "x"), b"first")
    with pytest.raises(FileExistsError):
        local.write_new(str(tmp_path / "x"), b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert names(tmp_path) == ["x"]


def test_write_new_does_not_write_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        local.write_new(str(tmp_path / "x"), b"data")
    assert names(tmp_path) == ["x"]


@WRITERS
def test_order_is_write_fsync_name_fsync(tmp_path: Path, write: Callable[[str, bytes], None], faulty: Faulty) -> None:
    """The order is the guarantee: a name that lasts must not stand for bytes that may not."""
    write(str(tmp_path / "x"), b"data")
    steps = [call for call in faulty.calls if call in ("pwrite", "fsync", "replace", "link")]
    assert steps == ["pwrite", "fsync", "replace" if write is replace else "link", "fsync"]


def test_atomic_write_without_fsync_syncs_nothing(tmp_path: Path, faulty: Faulty) -> None:
    local.atomic_write(str(tmp_path / "x"), b"data", fsync=False)
    assert "fsync" not in faulty.calls


@WRITERS
@pytest.mark.parametrize(
    ("call", "error"),
    [
        *[("open", ENOSPC), ("pwrite", ENOSPC), ("fsync", EIO), ("close", EIO), ("replace", EIO), ("link", EIO)],
        *[("pwrite", KeyboardInterrupt()), ("fsync", SystemExit(143))],
    ],
)
def test_failure_leaves_the_old_and_nothing_beside(
    tmp_path: Path, write: Callable[[str, bytes], None], call: str, error: BaseException, faulty: Faulty
) -> None:
    if call in ("replace", "link") and (call == "replace") != (write is replace):
        return
    if write is replace:
        (tmp_path / "x").write_bytes(b"old")
    before = names(tmp_path)
    fds = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    if call == "close":  # as close does: it fails, and the descriptor is gone all the same
        faulty.fail(call, lambda fd: [os.close(fd), (_ for _ in ()).throw(error)], when=1)
    else:
        faulty.fail(call, error)
    with pytest.raises(type(error)) as caught:
        write(str(tmp_path / "x"), b"new")
    if isinstance(error, OSError):
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == error.errno
    assert call in faulty.calls
    assert names(tmp_path) == before
    assert write is not replace or (tmp_path / "x").read_bytes() == b"old"
    assert not fds or len(os.listdir("/proc/self/fd")) == fds


def test_write_new_takes_its_name_back_when_the_folder_cannot_be_synced(tmp_path: Path, faulty: Faulty) -> None:
    faulty.fail("fsync", EIO, when=2)
    with pytest.raises(FsyncFailed):
        local.write_new(str(tmp_path / "x"), b"data")
    assert names(tmp_path) == []
    local.write_new(str(tmp_path / "x"), b"again")
    assert (tmp_path / "x").read_bytes() == b"again"


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV])
def test_write_new_where_there_are_no_hard_links(tmp_path: Path, code: int, faulty: Faulty) -> None:
    faulty.fail("link", OSError(code, "no links"), always=True)
    local.write_new(str(tmp_path / "x"), b"first")
    with pytest.raises(FileExistsError):
        local.write_new(str(tmp_path / "x"), b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert names(tmp_path) == ["x"]


def test_write_new_believes_a_link_whose_reply_was_lost(tmp_path: Path, faulty: Faulty) -> None:
    def link(source: str, target: str) -> None:
        os.link(source, target)
        raise FileExistsError(errno.EEXIST, "exists", source, target)

    faulty.fail("link", link)
    local.write_new(str(tmp_path / "x"), b"data")
    assert (tmp_path / "x").read_bytes() == b"data"
    assert names(tmp_path) == ["x"]


def test_folders_that_cannot_be_synced_are_let_be(tmp_path: Path, faulty: Faulty) -> None:
    faulty.fail("fsync", OSError(errno.EINVAL, "not for folders"), when=2)
    local.write_new(str(tmp_path / "x"), b"data")
    assert (tmp_path / "x").read_bytes() == b"data"


def test_a_taken_temporary_name_is_stepped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_tmp_numbers", iter(range(10)))
    taken = tmp_path / f"{local.TMP_PREFIX}{os.getpid()}-0"
    taken.write_bytes(b"of another container's process of this number")
    local.write_new(str(tmp_path / "x"), b"data")
    assert names(tmp_path) == [taken.name, "x"]


def test_short_writes_are_continued(tmp_path: Path, faulty: Faulty) -> None:
    for _ in range(3):
        faulty.fail("pwrite", lambda fd, data, offset: os.pwrite(fd, data[:7], offset))
        local.atomic_write(str(tmp_path / "x"), b"0123456789", fsync=False)
        assert (tmp_path / "x").read_bytes() == b"0123456789"


# ------------------------------------------------------------------------------------------------ appending


def test_append_at_creates_and_goes_on(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    assert local.append_at(path, 0, b"one\n", fsync=False) == 4
    assert local.append_at(path, 4, bytearray(b"two\n"), fsync=True) == 4
    assert local.append_at(path, 8, b"", fsync=True) == 0
    assert (tmp_path / "x").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("offset", [0, 3, 5, 100])
def test_append_at_refuses_another_length(tmp_path: Path, offset: int) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    with pytest.raises(SizeChanged) as caught:
        local.append_at(str(tmp_path / "x"), offset, b"data", fsync=False)
    assert caught.value.size == 4
    assert (tmp_path / "x").read_bytes() == b"1234"


def test_append_at_wants_its_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        local.append_at(str(tmp_path / "no" / "x"), 0, b"data", fsync=False)


def test_append_at_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"")
    (tmp_path / "x").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="x"):
        local.append_at(str(tmp_path / "x"), 0, b"data", fsync=False)
    assert (tmp_path / "victim").read_bytes() == b""


def test_append_at_says_how_much_was_written(tmp_path: Path, faulty: Faulty) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"head")

    def half(fd: int, data: bytes, offset: int) -> int:
        faulty.fail("pwrite", ENOSPC)
        return os.pwrite(fd, data[:3], offset)

    faulty.fail("pwrite", half)
    with pytest.raises(PartialWriteError) as caught:
        local.append_at(str(path), 4, b"0123456789", fsync=False)
    assert caught.value.written == 3
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__ is ENOSPC
    assert path.read_bytes() == b"head012"


def test_append_at_gives_up_on_a_file_that_takes_nothing(tmp_path: Path, faulty: Faulty) -> None:
    faulty.fail("pwrite", lambda fd, data, offset: 0, always=True)
    with pytest.raises(PartialWriteError) as caught:
        local.append_at(str(tmp_path / "x"), 0, b"data", fsync=False)
    assert caught.value.written == 0


def test_append_at_tells_a_failed_fsync_from_a_failed_write(tmp_path: Path, faulty: Faulty) -> None:
    faulty.fail("fsync", EIO)
    with pytest.raises(FsyncFailed) as caught:
        local.append_at(str(tmp_path / "x"), 0, b"data", fsync=True)
    assert not isinstance(caught.value, PartialWriteError)
    assert caught.value.errno == errno.EIO
    assert (tmp_path / "x").read_bytes() == b"data"


def test_append_at_makes_the_name_of_a_new_file_last(tmp_path: Path, faulty: Faulty) -> None:
    local.append_at(str(tmp_path / "x"), 0, b"a", fsync=True)
    assert faulty.calls.count("fsync") == 2
    local.append_at(str(tmp_path / "x"), 1, b"b", fsync=True)
    assert faulty.calls.count("fsync") == 3


def test_a_real_short_write(tmp_path: Path) -> None:
    """RLIMIT_FSIZE cuts a write in the middle, as a disk that fills up does."""
    pytest.importorskip("resource", reason="the limit is POSIX")
    said = run_python(
        """
        import resource, signal, sys
        from dreamlake.storage import local
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        path = sys.argv[1] + "/hot"
        print(local.append_at(path, 0, b"a" * 600, fsync=False))
        try:
            local.append_at(path, 600, b"b" * 600, fsync=False)
        except local.PartialWriteError as error:
            print(error.written, error.errno)
        for write in (lambda p, d: local.atomic_write(p, d, True), local.write_new):
            try:
                write(sys.argv[1] + "/whole", b"c" * 1001)
            except OSError as error:
                print(error.errno)
        local.truncate(path, 600)
        """,
        tmp_path,
    )
    assert said.stdout.split() == ["600", "400", str(errno.EFBIG), str(errno.EFBIG), str(errno.EFBIG)]
    assert names(tmp_path) == ["hot"]
    assert (tmp_path / "hot").read_bytes() == b"a" * 600


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's")
def test_a_really_full_disk() -> None:
    with pytest.raises(PartialWriteError) as caught:
        local.append_at("/dev/full", 0, b"data", fsync=False)
    assert caught.value.errno == errno.ENOSPC


def test_truncate(tmp_path: Path, faulty: Faulty) -> None:
    (tmp_path / "x").write_bytes(b"whole\ntor")
    local.truncate(str(tmp_path / "x"), 6)
    assert (tmp_path / "x").read_bytes() == b"whole\n"
    assert "fsync" not in faulty.calls
    local.truncate(str(tmp_path / "x"), 5, fsync=True)
    assert [call for call in faulty.calls if call in ("ftruncate", "fsync")] == ["ftruncate", "ftruncate", "fsync"]
    with pytest.raises(FileNotFoundError):
        local.truncate(str(tmp_path / "y"), 0)


# ------------------------------------------------------------------------------------------------ folders


def test_make_dirs(tmp_path: Path, faulty: Faulty) -> None:
    path = tmp_path / "a" / "b" / "c"
    assert local.make_dirs(str(path), fsync=True) is True
    assert path.is_dir()
    assert faulty.calls.count("fsync") == 3
    assert local.make_dirs(str(path), fsync=True) is False
    assert faulty.calls.count("fsync") == 3


def test_make_dirs_when_another_process_is_faster(tmp_path: Path, faulty: Faulty) -> None:
    def mkdir(path: str) -> None:
        os.mkdir(path)
        raise FileExistsError(errno.EEXIST, "exists", path)

    faulty.fail("mkdir", mkdir)
    assert local.make_dirs(str(tmp_path / "a"), fsync=False) is False
    assert (tmp_path / "a").is_dir()


def test_make_dirs_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OSError, match="a"):
        local.make_dirs(str(tmp_path / "a"), fsync=False)
    with pytest.raises(OSError, match="a"):
        local.make_dirs(str(tmp_path / "a" / "b"), fsync=False)


def test_sweep_takes_old_leftovers_only(tmp_path: Path) -> None:
    old = time.time() - 100
    for name in (".tmp-1-1", ".tmp-2-1", "data.jsonl", "0.tmp-1"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (old, old))
    os.utime(tmp_path / ".tmp-2-1")
    (tmp_path / ".tmp-folder").mkdir()
    os.utime(tmp_path / ".tmp-folder", (old, old))
    assert local.sweep_tmp(str(tmp_path), older_than=50) == 1
    assert names(tmp_path) == [".tmp-2-1", ".tmp-folder", "0.tmp-1", "data.jsonl"]
    assert local.sweep_tmp(str(tmp_path), older_than=50) == 0
    assert local.sweep_tmp(str(tmp_path / "nowhere"), older_than=50) == 0


def test_sweep_does_not_fail_over_what_it_cannot_remove(tmp_path: Path, faulty: Faulty) -> None:
    for number in range(2):
        (tmp_path / f".tmp-1-{number}").write_bytes(b"x")
    faulty.fail("unlink", PermissionError(errno.EPERM, "no"))
    assert local.sweep_tmp(str(tmp_path), older_than=-1) == 1


# ------------------------------------------------------------------------------------------------ the store


class TestLocalStore(StoreTests):
    @pytest.fixture
    def store(self, lake_dir: Path) -> Store:
        return LocalStore(lake_dir)

    def raw_put(self, store: Store, path: str, data: bytes) -> None:
        full = Path(store.describe(path))
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)

    def raw_get(self, store: Store, path: str) -> bytes:
        return Path(store.describe(path)).read_bytes()


class LocalMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.store = LocalStore(self.folder, fsync=False)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


TestLocalMachine = LocalMachine.TestCase


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder beside the lake that no path of the lake may reach."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "key").write_bytes(b"secret")
    return folder


def test_links_out_of_the_root_are_refused(lake_dir: Path, secret: Path) -> None:
    store = LocalStore(lake_dir)
    (lake_dir / "file").symlink_to(secret / "key")
    (lake_dir / "folder").symlink_to(secret)
    (lake_dir / "up").symlink_to("..")
    (lake_dir / "beside").symlink_to(str(lake_dir) + "-2")
    os.mkdir(str(lake_dir) + "-2")
    Path(str(lake_dir) + "-2", "x").write_bytes(b"1")
    for path in ("file", "folder/key", "up/secret/key", "beside/x"):
        for use in (store.get, store.size):
            with pytest.raises(ValueError, match="leads out of"):
                use(path)
    for folder in ("folder", "up", "up/secret"):
        for use in (store.list, store.walk):
            with pytest.raises(ValueError, match="leads out of"):
                use(folder)
        for path in (f"{folder}/key", f"{folder}/deeper/key"):
            with pytest.raises(ValueError, match="leads out of"):
                store.put(path, b"overwritten")
            with pytest.raises(ValueError, match="leads out of"):
                store.create(path + "2", b"new")
            with pytest.raises(ValueError, match="leads out of"):
                store.delete(path)
    assert names(secret) == ["key"]
    assert (secret / "key").read_bytes() == b"secret"


def test_a_link_is_replaced_or_removed_itself(lake_dir: Path, secret: Path) -> None:
    store = LocalStore(lake_dir)
    (lake_dir / "a").symlink_to(secret / "key")
    (lake_dir / "b").symlink_to(secret / "key")
    store.put("a", b"mine")
    store.delete("b")
    assert store.get("a") == b"mine"
    assert (secret / "key").read_bytes() == b"secret"


def test_links_inside_are_read(lake_dir: Path) -> None:
    store = LocalStore(lake_dir)
    store.put("real/x", b"12345")
    (lake_dir / "alias").symlink_to("real/x")
    (lake_dir / "folder").symlink_to("real")
    assert store.get("alias") == b"12345"
    assert store.get("folder/x") == b"12345"
    assert [(entry.name, entry.size, entry.is_dir) for entry in store.list() if entry.name == "alias"] == [
        ("alias", 5, False)
    ]


def test_a_root_that_is_a_link_is_the_root(lake_dir: Path) -> None:
    LocalStore(lake_dir).put("a/x", b"1")
    link = lake_dir.parent / "link"
    link.symlink_to(lake_dir)
    store = LocalStore(link)
    assert store.get("a/x") == b"1"
    assert store.walk() == ["a/x"]
    store.put("b/y", b"2")
    assert (lake_dir / "b" / "y").read_bytes() == b"2"


def test_walk_does_not_follow_links_to_folders(lake_dir: Path, secret: Path) -> None:
    store = LocalStore(lake_dir)
    store.put("a/x", b"1")
    (lake_dir / "a" / "loop").symlink_to("..")
    (lake_dir / "a" / "out").symlink_to(secret)
    (lake_dir / "a" / "nowhere").symlink_to("nothing")
    assert store.walk() == ["a/x"]
    assert [(entry.name, entry.is_dir) for entry in store.list("a")] == [("loop", False), ("out", False), ("x", False)]


def test_walk_goes_deeper_than_a_recursion_would(lake_dir: Path) -> None:
    deep = "/".join(["d"] * 1200)
    store = LocalStore(lake_dir, fsync=False)
    for path in ("x", f"{deep}/x"):
        store.put(path, b"1")
    assert store.walk() == [f"{deep}/x", "x"]
    store.delete(f"{deep}/x")
    os.removedirs(lake_dir / deep)  # pytest's own clean-up recurses; this goes up to the first folder with a file


def test_one_bad_folder_does_not_end_a_walk(
    lake_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = LocalStore(lake_dir)
    for path in ("a/x", "b/x", "c/x"):
        store.put(path, b"1")
    real = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with caplog.at_level(logging.WARNING, logger="dreamlake"):
        assert store.walk() == ["a/x", "c/x"]
    assert [record.getMessage() for record in caplog.records] == [f"{lake_dir}/b cannot be listed: Permission denied"]
    with pytest.raises(PermissionError):
        store.list("b")


def test_a_named_pipe_does_not_hold_the_reader(lake_dir: Path) -> None:
    os.mkfifo(lake_dir / "data.jsonl")
    store = LocalStore(lake_dir)
    for use in (store.get, store.size):
        with pytest.raises(ValueError, match="not a plain file"):
            use("data.jsonl")
    assert store.walk() == []


def test_a_folder_is_no_file(lake_dir: Path) -> None:
    (lake_dir / "a").mkdir()
    with pytest.raises(ValueError, match="not a plain file"):
        LocalStore(lake_dir).get("a")


def test_a_file_that_shrinks_while_it_is_read(lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(lake_dir)
    store.put("x", b"0123456789")
    real = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        os.truncate(lake_dir / "x", 4)
        return real(fd, min(count, 3), offset)

    monkeypatch.setattr(os, "pread", pread)
    assert store.get("x") == b"0123"


def test_create_is_fsynced_and_put_as_asked(lake_dir: Path, faulty: Faulty) -> None:
    LocalStore(lake_dir, fsync=False).put("x", b"1")
    assert faulty.calls.count("fsync") == 0
    LocalStore(lake_dir, fsync=True).put("x", b"1")
    assert faulty.calls.count("fsync") == 2
    LocalStore(lake_dir, fsync=False).create("y", b"1")
    assert faulty.calls.count("fsync") == 4


def test_repr_and_describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore("lake")
    assert repr(store) == f"LocalStore({str(tmp_path / 'lake')!r})"
    assert store.describe("a/b") == str(tmp_path / "lake" / "a" / "b")
    assert store.list() == []
    monkeypatch.chdir("/")
    store.put("x", b"1")
    assert (tmp_path / "lake" / "x").read_bytes() == b"1"


def test_names_are_those_of_the_files_in_the_listing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert store.names("missing") == []
    store.put("a/one", b"1")
    store.put("a/two", b"22")
    assert store.names("a") == ["one", "two"]
    store.put("a/below/three", b"333")
    assert store.names("a") == ["one", "two"] == [entry.name for entry in store.list("a") if not entry.is_dir]


@pytest.mark.parametrize("relative", [True, False], ids=["by the folder", "by paths, as on Windows"])
def test_sizes_are_those_of_the_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    monkeypatch.setattr("dreamlake.storage.localstore._RELATIVE", relative)
    store = LocalStore(tmp_path / "lake")
    store.put("a/one", b"1")
    store.put("a/two", b"22")
    (tmp_path / "lake" / "a" / "linked").symlink_to(tmp_path / "lake" / "a" / "two")
    assert store.sizes("a", ["two", "gone", "one", "linked"]) == [2, 0, 1, 2]
    assert store.sizes("missing", ["one"]) == [0]
    (tmp_path / "secret").write_bytes(b"4444")
    (tmp_path / "lake" / "a" / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(errors.CorruptTrackError, match="leads out of"):
        store.sizes("a", ["out"])


def test_a_path_that_climbs_out_of_its_root_is_not_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    local.check_inside(str(root), str(root / "a" / "not yet there"))
    local.check_inside(str(root), str(root) + "/a/../a")
    for path in ("/a/../..", "/a/../../elsewhere", "/.."):
        with pytest.raises(errors.CorruptTrackError, match="leads out of"):
            local.check_inside(str(root), str(root) + path)
