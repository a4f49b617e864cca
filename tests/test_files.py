"""Files of a session: what was uploaded comes back byte for byte, or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from filelib import Dying, Folder, Killed, held, sha
from hypothesis import given
from hypothesis import strategies as st
from powerloss import Op, Recorder, samples, write_down
from support import Faulty, run_python, start_python

import dreamlake.engine.fileread as fileread
import dreamlake.engine.filestore as filestore
import dreamlake.storage.local as local
from dreamlake import Lake, Session
from dreamlake.cli import main
from dreamlake.errors import CorruptFileError, CorruptTrackError, SessionClosedError, StoredFileNotFoundError
from dreamlake.format import filerecord, layout
from dreamlake.types import FileRecord


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "lake")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session("s", "w", tmp_path / "lake", flush_interval=3600.0) as opened:
        yield opened


def files_of(tmp_path: Path) -> Any:
    return Lake(tmp_path / "lake").session("s", "w").files()


# ------------------------------------------------------------------------------------------------ up and down


def test_a_file_comes_back_with_all_that_was_said_of_it(session: Session, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "model.bin").write_bytes(data)
    record = session.files().upload(
        tmp_path / "model.bin",
        path="/models",
        description="after epoch 5",
        tags=["best", "v1"],
        metadata={"loss": math.inf, "$set": [1, b"x"], "nested": {"a": None}},
    )
    assert list(record) == list(FileRecord.__annotations__)
    assert record | {"id": "", "uploadedAt": "", "updatedAt": ""} == {
        "id": "",
        "path": "/models",
        "filename": "model.bin",
        "description": "after epoch 5",
        "tags": ["best", "v1"],
        "contentType": "application/octet-stream",
        "sizeBytes": len(data),
        "checksum": sha(data),
        "metadata": {"loss": math.inf, "$set": [1, b"x"], "nested": {"a": None}},
        "uploadedAt": "",
        "updatedAt": "",
        "deletedAt": None,
    }
    assert record["uploadedAt"] == record["updatedAt"]
    stored = Path(session.path) / "files" / "models" / record["id"] / "model.bin"
    assert stored.read_bytes() == data
    for files in (session.files(), files_of(tmp_path)):
        assert files.list() == [record]
        assert files.get("/models/model.bin") == files.get(record["id"]) == files.get(record) == record
        assert files.open("models/model.bin").read() == data
        copy = files.download(record, to=tmp_path / "copies" / "x")
        assert Path(copy).read_bytes() == data
    written = json.loads((Path(session.path) / "files" / ".files_metadata.json").read_text())
    assert [each["id"] for each in written["files"]] == [record["id"]]
    assert written["files"][0]["metadata"]["loss"] == {"$numberDouble": "Infinity"}


def test_the_same_place_again_is_another_file(session: Session) -> None:
    files = session.files()
    first = files.upload(b"one", path="m", filename="x", tags=["a"], description="d", metadata={"k": 1})
    second = files.upload(b"two", path="/m/", filename="x")
    other = files.upload(b"other", path="/", filename="x")
    assert held(files) == {"/m/x": b"two", "/x": b"other"}
    assert first["id"] != second["id"]
    assert (second["tags"], second["description"], second["metadata"]) == ([], None, {})
    assert second["updatedAt"] > first["updatedAt"]
    below = {path.name for path in (Path(session.path) / "files" / "m").iterdir()}
    assert below == {second["id"]}  # the older bytes have gone
    with pytest.raises(StoredFileNotFoundError, match="no file 'f-"):
        files.open(first["id"])
    assert files.get(other["id"]) == other


def test_a_file_is_deleted_and_its_record_stays(session: Session, tmp_path: Path) -> None:
    files = session.files()
    record = files.upload(b"one", path="/a/b", filename="x")
    kept = files.upload(b"two", path="/a", filename="x")
    gone = files.delete("/a/b/x")
    assert gone == record | {"updatedAt": gone["updatedAt"], "deletedAt": gone["updatedAt"]}
    assert gone["updatedAt"] > record["updatedAt"]
    assert files.list() == [kept]
    assert files.list(deleted=True) == [kept, gone]
    assert not (Path(session.path) / "files" / "a" / "b").exists()
    for name in (record["id"], "/a/b/x", record):
        with pytest.raises(StoredFileNotFoundError, match="no file"):
            files.get(name)
        with pytest.raises(StoredFileNotFoundError, match="no file"):
            files.delete(name)
    again = files.upload(b"three", path="/a/b", filename="x")
    assert files.list(deleted=True) == [kept, again]


def test_lists_are_narrowed_by_folder_and_tags(session: Session) -> None:
    files = session.files()
    for path, tags in (("/models", ["a", "b"]), ("/models/old", ["a"]), ("/models2", []), ("/", ["b"])):
        files.upload(b"", path=path, filename="x", tags=tags)

    def paths(*args: Any, **kwargs: Any) -> list[str]:
        return [record["path"] for record in files.list(*args, **kwargs)]

    assert paths() == paths("/") == ["/", "/models", "/models/old", "/models2"]
    assert paths("/models") == paths("models/") == ["/models", "/models/old"]
    assert paths("/models/old") == ["/models/old"]
    assert paths("/mod") == []
    assert paths(tags=["a"]) == paths(tags="a") == ["/models", "/models/old"]
    assert paths(tags=["a", "b"]) == ["/models"]
    assert paths("/", tags=["b"]) == ["/", "/models"]
    for wrong in ("", "../x", "/a//b"):
        with pytest.raises(ValueError, match=r"path|component"):
            files.list(wrong)


def test_a_file_is_named_by_id_before_it_is_by_name(session: Session) -> None:
    files = session.files()
    one = files.upload(b"one", filename="one")
    two = files.upload(b"two", filename=one["id"])
    assert files.get(one["id"]) == one
    assert files.get(f"/{one['id']}") == two
    for wrong in (None, 7, {}, ""):
        with pytest.raises(TypeError, match="named by its id"):
            files.get(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("a.pt", "application/octet-stream"),
        ("a.tar.gz", "application/gzip"),
        ("data:,x", "application/octet-stream"),
        ("noext", "application/octet-stream"),
    ],
)
def test_types_are_told_by_names(folder: Folder, name: str, kind: str) -> None:
    assert folder.files.upload(b"", filename=name)["contentType"] == kind
    assert folder.files.upload(b"", filename=name, content_type="x/y")["contentType"] == "x/y"


def test_downloads_go_where_they_are_wanted(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = folder.files
    files.upload(b"data", path="/m", filename="x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "link").symlink_to("old")
    assert files.download("/m/x") == str(tmp_path / "x")
    assert files.download("/m/x", to="there") == str(tmp_path / "there" / "x")
    assert files.download("/m/x", to="new/er/") == str(tmp_path / "new" / "er" / "x")
    assert files.download("/m/x", to=tmp_path / "deep" / "y") == str(tmp_path / "deep" / "y")
    assert files.download("/m/x", to="link") == str(tmp_path / "link")
    assert (tmp_path / "old").read_bytes() == b"old"  # a link is replaced, not followed
    copies = ("x", "there/x", "new/er/x", "deep/y", "link")
    assert {(tmp_path / copy).read_bytes() for copy in copies} == {b"data"}
    with pytest.raises(TypeError, match="path"):
        files.download("/m/x", to=b"y")  # type: ignore[arg-type]
    with pytest.raises(OSError, match=r"directory|exists"):
        files.download("/m/x", to="old/y")


def test_an_open_file_seeks_and_is_verified_at_its_end(folder: Folder) -> None:
    data = os.urandom(2_500_000)
    folder.files.upload(data, filename="x")
    with folder.files.open("x") as file:
        file.seek(-10, io.SEEK_END)
        assert file.read() == data[-10:]
        file.seek(1_000_000)
        assert (file.read(5), file.tell()) == (data[1_000_000:1_000_005], 1_000_005)
        file.seek(0)
        assert file.read() == data
    damage(folder, "x", 2_400_000)
    with folder.files.open("x") as file:
        assert file.read(1000) == data[:1000]
        file.seek(500)  # what was read before is not taken twice
        with pytest.raises(CorruptFileError, match="its SHA-256 is"):
            file.read()
    with folder.files.open("x") as file:
        file.seek(10)
        assert len(file.read()) == len(data) - 10  # not from the first byte: nothing to compare


def test_an_empty_file(folder: Folder, tmp_path: Path) -> None:
    record = folder.files.upload(b"", filename="x")
    assert (record["sizeBytes"], record["checksum"]) == (0, sha(b""))
    assert folder.files.open("x").read() == b""
    assert Path(folder.files.download("x", to=tmp_path / "y")).read_bytes() == b""


# ------------------------------------------------------------------------------------------------ sources


def test_file_objects_are_read_from_where_they_stand(folder: Folder, tmp_path: Path) -> None:
    class Slow:
        """Has nothing but `read`, and gives less than is asked for."""

        def __init__(self) -> None:
            self.left = [b"abc", b"de"]

        def read(self, size: int) -> bytes:
            return self.left.pop(0) if self.left else b""

    with (tmp_path / "source").open("w+b") as file:
        file.write(b"0123456789")
        file.seek(4)
        record = folder.files.upload(file)
        assert not file.closed
    assert record["filename"] == "source"
    folder.files.upload(Slow(), filename="slow")  # type: ignore[arg-type]
    folder.files.upload(io.BytesIO(b"bytes"), filename="io")
    folder.files.upload(bytearray(b"array"), filename="array")  # type: ignore[arg-type]
    folder.files.upload(memoryview(b"view"), filename="view")  # type: ignore[arg-type]
    folder.files.upload(memoryview(b"abcde")[::2], filename="gaps")  # type: ignore[arg-type]
    with tempfile.TemporaryFile() as nameless:
        with pytest.raises(ValueError, match="give filename="):
            folder.files.upload(nameless)  # type: ignore[arg-type]
    read, write = os.pipe()
    with os.fdopen(write, "wb") as end:
        end.write(b"piped")
    with os.fdopen(read, "rb") as pipe:
        folder.files.upload(pipe, filename="pipe")
    assert folder.held() == {
        "/source": b"456789",
        "/slow": b"abcde",
        "/io": b"bytes",
        "/array": b"array",
        "/view": b"view",
        "/gaps": b"ace",
        "/pipe": b"piped",
    }


@pytest.mark.parametrize("kind", ["raw", "buffered", "read"])
def test_a_source_that_has_no_data_yet_has_not_ended(folder: Folder, kind: str) -> None:
    class OnlyRead:
        def __init__(self, raw: io.FileIO) -> None:
            self.read = raw.read

    folder.files.upload(b"before", filename="x")
    there = folder.on_disk()
    read, write = os.pipe()
    os.set_blocking(read, False)
    with open(write, "wb", buffering=0) as end, open(read, "rb", buffering=-1 if kind == "buffered" else 0) as source:
        end.write(b"half of it")
        given: Any = OnlyRead(source) if kind == "read" else source  # type: ignore[arg-type]
        with pytest.raises(BlockingIOError, match="no data now"):
            folder.files.upload(given, filename="x")
        assert folder.held() == {"/x": b"before"}
        assert folder.on_disk() == there
        end.write(b"the rest")
        end.close()
        folder.files.upload(given, filename="x")
    assert folder.held() == {"/x": b"the rest"}


def test_sources_that_are_none(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "target").write_bytes(b"linked")
    (tmp_path / "link").symlink_to("target")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "socket"))
    refused: list[tuple[Any, type[Exception], str]] = [
        (tmp_path / "none", FileNotFoundError, "none"),
        (tmp_path / "nowhere", FileNotFoundError, "nowhere"),
        (tmp_path / "folder", IsADirectoryError, "make_archive"),
        (tmp_path / "pipe", ValueError, "not a plain file"),
        (tmp_path / "socket", OSError, "socket"),
        ("/dev/null", ValueError, "not a plain file"),
        (io.StringIO("text"), TypeError, "binary"),
        (7, TypeError, "binary"),
        (None, TypeError, "binary"),
        (os.fsencode(tmp_path / "target"), ValueError, "give filename="),
    ]
    for source, kind, said in refused:
        with pytest.raises(kind, match=said):
            folder.files.upload(source)
    with (tmp_path / "target").open() as text, pytest.raises(TypeError, match="binary"):
        folder.files.upload(text)  # type: ignore[arg-type]
    with tempfile.SpooledTemporaryFile(mode="w+") as spooled, pytest.raises(TypeError, match="binary"):
        folder.files.upload(spooled, filename="x")  # type: ignore[arg-type]

    class Texts:
        def read(self, size: int) -> str:
            return "text"

    with pytest.raises(TypeError, match="gives bytes, not str"):
        folder.files.upload(Texts(), filename="x")  # type: ignore[arg-type]
    assert folder.files.list(deleted=True) == []
    assert not (folder.path / "files").exists() or folder.on_disk() == set()
    assert folder.files.upload(tmp_path / "link")["filename"] == "link"
    assert folder.held() == {"/link": b"linked"}


def test_arguments_that_cannot_be_kept(folder: Folder) -> None:
    for wrong in (
        {"description": 1},
        {"tags": "a"},
        {"tags": [1]},
        {"metadata": []},
        {"metadata": {"k": object()}},
        {"content_type": 5},
        {"filename": 5},
        {"path": 5},
    ):
        with pytest.raises(TypeError):
            folder.files.upload(b"", **{"filename": "x", **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogate"):
        folder.files.upload(b"", filename="x", description="\ud800")
    assert not (folder.path / "files").exists()


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_file_that_changes_while_it_is_copied_is_refused(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder.files.upload(b"before", filename="x")
    source = tmp_path / "x"
    source.write_bytes(bytes(3000))
    os.utime(source, (1000, 1000))
    monkeypatch.setattr(filestore, "CHUNK", 1000)
    real, pieces = filestore.Intake._pieces, []

    def interrupted(self: filestore.Intake) -> Iterator[memoryview]:
        for piece in real(self):
            if not pieces:
                with source.open("r+b") as file:
                    if change == "shorter":
                        file.truncate(1500)
                    else:
                        file.seek(0 if change == "other" else 3000)
                        file.write(b"1")
            pieces.append(len(piece))
            yield piece

    monkeypatch.setattr(filestore.Intake, "_pieces", interrupted)
    with pytest.raises(OSError, match="changed while it was copied") as caught:
        folder.files.upload(source)
    assert caught.value.errno == errno.EBUSY
    assert str(source) in str(caught.value)
    assert folder.held() == {"/x": b"before"}
    assert folder.on_disk() == folder.named()


def test_a_closed_session_takes_and_deletes_nothing(tmp_path: Path) -> None:
    session = Session("s", "w", tmp_path / "lake")
    session.files().upload(b"1", filename="x")  # opens it, as a first append does
    assert session.is_open
    session.close()
    with pytest.raises(SessionClosedError):
        session.files().upload(b"2", filename="x")
    with pytest.raises(SessionClosedError):
        session.files().delete("x")
    assert session.files().open("x").read() == b"1"
    assert not hasattr(files_of(tmp_path), "upload")
    assert not hasattr(files_of(tmp_path), "delete")


# ------------------------------------------------------------------------------------------------ names

CHARACTERS = st.one_of(
    st.sampled_from('aA.é /\\%:*?"<>|[]{}#=\0\n\x7f\x85\u202e\ud800~-_ '), st.characters(), st.sampled_from(["é", "ﬁ"])
)
PARTS = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                ".",
                "..",
                "...",
                "~",
                "con",
                "NUL.txt",
                "aux ",
                ".files_metadata.json",
                ".tmp-1-1",
                "%2E",
                "é" * 120,
            ),
            *("%2E", "a" * 255, "a" * 256, ".replica.json", "f-0123456789abcdef", "\u00e9", "e\u0301", "C:", "-rf"),
        ]
    ),
    st.text(CHARACTERS, max_size=12),
)
PATHS = st.one_of(st.just("/"), st.lists(PARTS, max_size=5).map("/".join), st.lists(PARTS, max_size=4).map("/x/".join))


@given(path=PATHS, filename=PARTS)
def test_any_name_that_is_accepted_comes_back_and_stays_inside(path: str, filename: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root) / "lake")
        before = {each for each in Path(root).rglob("*") if "files" not in each.parts}
        try:
            record = folder.files.upload(b"x", path=path, filename=filename)
        except ValueError:
            assert not (folder.path / "files").exists()
            return
        assert record["filename"] == filename
        assert record["path"].strip("/") == path.strip("/") if path != "/" else record["path"] == "/"
        assert not {"", ".", ".."} & set(filerecord.place(record)[1:].split("/"))
        assert folder.files.list() == folder.files.list(path) == [record]
        assert folder.files.get(filerecord.place(record)) == record
        assert folder.held() == {filerecord.place(record): b"x"}
        assert folder.on_disk() == {filerecord.stored_path(record), layout.FILES_METADATA_FILE}
        assert {each for each in Path(root).rglob("*") if "files" not in each.parts} == before
        copied = Path(folder.files.download(record, to=Path(root) / "out"))
        assert copied.read_bytes() == b"x"
        copied.unlink()
        (Path(root) / "out").mkdir()
        assert folder.files.download(record, to=Path(root) / "out") == os.path.join(root, "out", filename)


@given(path=PATHS, filename=PARTS)
def test_a_record_is_read_back_as_it_was_written(path: str, filename: str) -> None:
    try:
        place, name = layout.check_file(path, filename)
    except ValueError:
        return
    assert layout.check_file(place, name) == (place, filename)
    record = a_record(path=place, filename=filename)
    assert filerecord.decode(filerecord.encode([record])) == [record]
    stored = filerecord.stored_path(record)
    assert layout.is_made_file(stored)
    assert "//" not in stored
    assert stored.split("/")[0] == "files"


@pytest.mark.parametrize(
    ("path", "filename", "said"),
    [
        ("/..", "x", "component '..'"),
        ("/a/./b", "x", "component '.'"),
        ("/a//b", "x", "empty component"),
        ("//", "x", "absolute|empty"),
        ("/a", "..", "component '..'"),
        ("/a", "b/c", "give the folder as path="),
        ("/a", "", "empty"),
        ("", "x", "empty"),
        ("/a\0", "x", "NUL"),
        ("/a", "x\n", "control"),
        ("/a", "\udcff", "surrogate"),
        ("/a", "é" * 128, "256 bytes"),
        ("/" + "/".join(["a" * 250] * 9), "x", "2048"),
    ],
)
def test_names_that_are_refused(folder: Folder, path: str, filename: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        folder.files.upload(b"", path=path, filename=filename)


def test_a_path_through_a_file_is_refused(folder: Folder) -> None:
    record = folder.files.upload(b"1", path="/a", filename="x")
    with pytest.raises(ValueError, match="is a file itself"):
        folder.files.upload(b"2", path=f"/a/{record['id']}/x", filename="y")
    assert folder.held() == {"/a/x": b"1"}
    assert folder.on_disk() == folder.named()


# ------------------------------------------------------------------------------------------------ several writers


def test_threads_upload_side_by_side(session: Session) -> None:
    def work(number: int) -> None:
        for turn in range(8):
            session.files().upload(f"{number} {turn}".encode(), path=f"/{number}", filename=f"{turn % 4}")
        session.files().delete(f"/{number}/0")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"/{number}/{name}": f"{number} {name + 4}".encode() for number in range(6) for name in (1, 2, 3)}
    assert held(session.files()) == expected


UPLOADING = """
    import sys
    from dreamlake import Session
    root, number = sys.argv[1:]
    with Session("s", "w", root) as session:
        print("ready", flush=True)
        sys.stdin.readline()
        for turn in range(20):
            session.files().upload(f"{number} {turn}".encode(), path=f"/{number}", filename=str(turn % 5))
            session.files().upload(f"{number} {turn}".encode(), path="/shared", filename="x")
            if turn % 3 == 0:
                session.files().delete(f"/{number}/{turn % 5}")
"""


def test_processes_upload_to_one_session(tmp_path: Path) -> None:
    with start_python(UPLOADING, tmp_path / "lake", 0) as one, start_python(UPLOADING, tmp_path / "lake", 1) as two:
        for process in (one, two):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in (one, two):
            _, said = process.communicate(timeout=120)
            assert (process.returncode, said) == (0, "")
    found = held(files_of(tmp_path))
    assert found.pop("/shared/x") in (b"0 19", b"1 19")
    expected = {}
    for turn in range(20):
        expected[str(turn % 5)] = turn
        if turn % 3 == 0:
            del expected[str(turn % 5)]
    assert found == {f"/{n}/{name}": f"{n} {turn}".encode() for n in range(2) for name, turn in expected.items()}
    on_disk = {path.name for path in (tmp_path / "lake/w/s/files").rglob("f-*")}
    assert on_disk == {record["id"] for record in files_of(tmp_path).list()}


def test_a_reader_meets_replaced_files_whole(session: Session, tmp_path: Path) -> None:
    """A writer replaces one file again and again; each read gives one of its forms, and never an error."""
    files, ended, seen = session.files(), threading.Event(), []
    files.upload(b"0" * 5000, filename="x")

    def read() -> None:
        while not ended.is_set():
            data = Lake(tmp_path / "lake").session("s", "w").files().open("x").read()
            seen.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        files.upload(str(turn % 10).encode() * 5000, filename="x")
    ended.set()
    reader.join()
    assert len(seen) > 3
    assert all(len(set(data)) == 1 and len(data) == 5000 for data in seen)


def test_a_reader_that_has_it_open_reads_on(folder: Folder) -> None:
    folder.files.upload(b"one" * 1_000_000, filename="x")
    with folder.files.open("x") as file:
        assert file.read(3) == b"one"
        folder.files.upload(b"two", filename="x")
        folder.files.delete("x")
        assert len(file.read()) == 2_999_997


def test_the_later_upload_counts_also_when_the_clock_steps_back(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = ["2026-01-01T00:00:00.000000+00:00", "2025-01-01T00:00:00.000000+00:00", "2024-01-01T00:00:00.000000+00:00"]
    monkeypatch.setattr(filestore, "iso_now", lambda: times[0])
    one = folder.files.upload(b"1", filename="x")
    del times[0]
    two = folder.files.upload(b"2", filename="x")
    del times[0]
    three = folder.files.delete("x")
    assert one["updatedAt"] < two["updatedAt"] < three["updatedAt"] == "2026-01-01T00:00:00.000002+00:00"
    assert filerecord.merged([three, one, two]) == [three] == filerecord.merged([two, three, one])


# ------------------------------------------------------------------------------------------------ a disk that fails


@pytest.mark.parametrize("name", ["open", "pwrite", "fsync", "replace", "mkdir"])
def test_a_disk_that_is_full_or_fails_stores_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder.files.upload(b"before" * 1000, path="/m", filename="x")
    count = 1
    while True:
        faulty = Faulty(os).fail(name, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), when=count)
        monkeypatch.setattr(local, "os_", faulty)
        stored, said = False, errno.ENOSPC
        try:
            folder.files.upload(b"after" * 1000, path="/m", filename="x")
            stored = True
        except OSError as error:
            said = error.errno or 0 if type(error) is OSError else 0
        monkeypatch.setattr(local, "os_", os)
        assert said == errno.ENOSPC
        if faulty.calls.count(name) < count:
            assert stored
            break
        found = folder.held()
        # Only where the folder could not be synced behind the rename of the records the record may be there.
        assert found == {"/m/x": b"before" * 1000} or (name in ("fsync", "open") and found == {"/m/x": b"after" * 1000})
        assert not any(layout.TMP_PREFIX in path for path in folder.on_disk())
        if found == {"/m/x": b"before" * 1000}:
            assert folder.on_disk() == folder.named()
        folder.files.upload(b"before" * 1000, path="/m", filename="x")
        count += 1
    assert count > 1


def scene(folder: Folder, acknowledge: Any = lambda expected: None) -> Iterator[dict[str, bytes]]:
    """Uploads, replaces, deletes; what is there after each step."""
    files = folder.files
    expected: dict[str, bytes] = {}
    steps = [
        ("/m", "x", b"one" * 900),
        ("/m", "x", b"two" * 900),
        ("/", "y", b"y"),
        ("/m", "x", None),
        ("/m", "x", b"3"),
    ]
    for path, name, data in steps:
        place = f"{path.rstrip('/')}/{name}"
        if data is None:
            files.delete(place)
            del expected[place]
        else:
            files.upload(data, path=path, filename=name)
            expected[place] = data
        acknowledge(dict(expected))
        yield dict(expected)


def test_a_kill_at_any_step_leaves_files_before_or_after(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filestore, "CHUNK", 1000)
    monkeypatch.setattr(filestore, "GRACE", -10.0)  # no leftover is too young to go
    with mock.patch.object(local, "os_", Dying(1 << 30)):
        plan = [{}, *scene(Folder(memory_path / "plan"))]
    for last in range(1, 1000):
        folder = Folder(memory_path / str(last))
        states: list[dict[str, bytes]] = [{}]
        dying = Dying(last)
        monkeypatch.setattr(local, "os_", dying)
        try:
            for _ in scene(folder, states.append):
                pass
        except Killed:
            pass
        finally:
            monkeypatch.setattr(local, "os_", Dying(1 << 30))
        alive = dying.left > 0
        done = len(states) - 1
        found = folder.held()  # verifies each by its SHA-256
        assert found in plan[done : done + 2], last
        folder.files.upload(b"later", path="/m", filename="later")
        assert folder.held() == {**found, "/m/later": b"later"}, last
        assert folder.on_disk() == folder.named(), last
        if alive:
            assert last > 60
            return
    raise AssertionError("it never came to its end")


class FilesRecorder(Recorder):
    """Knows renames from one folder to another, of which a cut may keep either half, and folders that are removed."""

    def rename(self, old: str, new: str) -> None:
        if os.path.dirname(old) == os.path.dirname(new):
            super().rename(old, new)
            return
        with self._lock:
            os.rename(old, new)
            source, target = self._known(old), self._known(new)
            self.names[target] = node = self.names.pop(source)
            self.ops += [Op("name", *target, node), Op("name", *source, None)]

    replace = rename

    def rmdir(self, path: str) -> None:
        with self._lock:
            os.rmdir(path)
            self._name(path, None)


def test_whatever_a_power_cut_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filestore, "CHUNK", 1000)
    folder = Folder(tmp_path / "lake")
    acknowledged: list[tuple[int, dict[str, bytes]]] = [(0, {})]
    with FilesRecorder(tmp_path / "lake") as recorder:

        def acknowledge(expected: dict[str, bytes]) -> None:
            acknowledged.append((len(recorder.ops), expected))
            recorder.mark({}, {})

        for _ in scene(folder, acknowledge):
            pass
    these = list(samples(recorder, 1, 2))
    plan = [expected for _, expected in acknowledged]
    for number, sample in enumerate(these):
        root = tmp_path / f"cut-{number}"
        root.mkdir()
        write_down(sample.state, root)
        done = sum(place <= sample.place for place, _ in acknowledged) - 1
        found = held(Folder(root).files)
        assert found in plan[done : done + 2], sample[:3]
    assert len(these) > 100


# ------------------------------------------------------------------------------------------------ what crashes leave


def age(path: Path) -> None:
    """Let leftovers be old, whatever the disk says."""
    os.utime(path, (1000, 1000))


def test_leftovers_go_after_a_grace_and_nothing_else_does(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    record = folder.files.upload(b"1", path="/m", filename="x")
    files = folder.path / "files"
    orphan = files / "m" / "f-00000000000000aa"
    orphan.mkdir()
    (orphan / "x").write_bytes(b"orphan")
    stored = filerecord.stored_path(record)
    (files / ".tmp-of-1").write_text(json.dumps(["files/m/f-00000000000000aa/x", stored, "../../../x", 7]))
    (files / ".tmp-of-2").write_text(json.dumps(["files/m/f-00000000000000aa/x", stored, "files/../session.json"]))
    (files / ".tmp-of-3").write_bytes(b"[" * 100_000)
    (files / ".tmp-1-1").write_bytes(b"beside")
    unnamed = files / "m" / "f-00000000000000bb" / "x"
    unnamed.parent.mkdir()
    unnamed.write_bytes(b"its record was lost")
    (files / "notes.txt").write_bytes(b"by hand")
    (files / "m" / "by-hand").mkdir()
    (files / "m" / "by-hand" / "y").write_bytes(b"by hand")
    every = folder.on_disk()
    folder.files.upload(b"2", filename="y")
    assert every <= folder.on_disk()  # all of it is young
    monkeypatch.setattr(filestore, "GRACE", -10.0)
    folder.files.delete("y")
    assert folder.on_disk() == {
        filerecord.stored_path(record),
        layout.FILES_METADATA_FILE,
        "files/notes.txt",
        "files/m/by-hand/y",
        "files/m/f-00000000000000bb/x",
    }
    assert not orphan.exists()


def test_a_copy_that_was_swept_says_so(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = local.stream_beside

    def swept(*args: Any) -> str:
        path = real(*args)
        os.unlink(path)
        return path

    monkeypatch.setattr(local, "stream_beside", swept)
    with pytest.raises(OSError, match="upload it again"):
        folder.files.upload(b"1", filename="x")
    assert folder.files.list() == []
    assert folder.on_disk() == set()


# ------------------------------------------------------------------------------------------------ damage


def damage(folder: Folder, name: str, at: int = 0) -> Path:
    """Change one byte of a file, in its place."""
    stored = folder.path / filerecord.stored_path(folder.files.get(name))
    with stored.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    return stored


def test_damage_is_told_and_never_handed_out(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = os.urandom(3_000_000)
    folder.files.upload(data, path="/m", filename="x")
    folder.files.upload(b"fine", filename="y")
    target = tmp_path / "copy"
    target.write_bytes(b"older")
    assert main(["check", str(folder.root)]) == 0
    stored = damage(folder, "/m/x", 2_999_999)
    capsys.readouterr()

    def refused(said: str) -> None:
        with pytest.raises(CorruptFileError, match=said) as caught:
            folder.files.download("/m/x", to=target)
        assert isinstance(caught.value, CorruptTrackError)
        assert caught.value.path == str(stored)
        with pytest.raises(CorruptFileError, match=said):
            folder.files.open("/m/x").read()
        assert target.read_bytes() == b"older"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "lake"]
        assert main(["check", str(folder.root)]) == 1
        out = capsys.readouterr().out
        assert str(stored) in out
        assert "the file '/m/x'" in out

    refused("its SHA-256 is")
    os.truncate(stored, 2_000_000)
    refused("it is 2000000 bytes long, and 3000000 were uploaded")
    with stored.open("ab") as file:
        file.write(bytes(2_000_000))
    refused("it is 4000000 bytes long")
    stored.unlink()
    refused("the file is gone")
    assert folder.files.open("y").read() == b"fine"
    folder.files.upload(data, path="/m", filename="x")  # the remedy
    assert folder.files.open("/m/x").read() == data
    assert main(["check", str(folder.root)]) == 0


def a_record(**changes: Any) -> Any:
    """A sound record with other fields."""
    return {
        "id": "f-0123456789abcdef",
        "path": "/m",
        "filename": "x",
        "description": None,
        "tags": [],
        "contentType": "text/plain",
        "sizeBytes": 1,
        "checksum": sha(b"1"),
        "metadata": {},
        "uploadedAt": "2026-01-01T00:00:00+00:00",
        "updatedAt": "2026-01-01T00:00:00+00:00",
        "deletedAt": None,
    } | changes


WRONG = [
    {"id": ".."},
    {"id": "a/b"},
    {"id": ""},
    {"id": "x\0"},
    {"id": "%2E"},
    {"id": 7},
    {"path": "/../../x"},
    {"path": "m"},
    {"path": "/m/"},
    {"path": "//etc"},
    {"path": None},
    {"filename": "../x"},
    {"filename": ".."},
    {"filename": "a\0b"},
    {"filename": "\ud800"},
    {"tags": "a"},
    {"tags": [1]},
    {"sizeBytes": -1},
    {"sizeBytes": 1.5},
    {"sizeBytes": True},
    {"checksum": "0" * 63},
    {"checksum": "G" * 64},
    {"metadata": []},
    {"metadata": {"$date": "never"}},
    {"updatedAt": "yesterday"},
    {"updatedAt": "2026-01-01T00:00:00"},
    {"updatedAt": "9999-12-31T23:59:59.999999+00:00"},
    {"deletedAt": 0},
    {"description": 5},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_strangers_record_is_refused(
    folder: Folder, wrong: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder.files.upload(b"1", filename="y")
    path = folder.path / layout.FILES_METADATA_FILE
    path.write_text(json.dumps({"files": [a_record(), a_record(**wrong)]}))
    refuse_all(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{}",
        b'{"files": {}}',
        b'{"files": [7]}',
        b'{"files": [{}]}',
        b'{"files": ["x"]}',
        b"\xff",
        b'{"files": [NaN]}',
        b'{"files": ' + b"[" * 100_000,
        b'{"files": [{"metadata": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}]}",
        b'{"files": [',
    ],
    ids=lambda data: ascii(data[:24]),
)
def test_records_that_are_none_are_refused(folder: Folder, data: bytes) -> None:
    folder.files.upload(b"1", filename="y")
    (folder.path / layout.FILES_METADATA_FILE).write_bytes(data)
    refuse_all(folder)


def refuse_all(folder: Folder) -> None:
    """Everything that reads or writes files refuses damaged records, and changes nothing."""
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    for work in (
        folder.files.list,
        lambda: folder.files.get("y"),
        lambda: folder.files.open("y"),
        lambda: folder.files.delete("y"),
        lambda: folder.files.upload(b"2", filename="z"),
    ):
        with pytest.raises(CorruptFileError, match=r"\.files_metadata\.json is damaged"):
            work()
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    assert main(["check", str(folder.root)]) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | PARTS | st.sampled_from(["f-0123456789abcdef", "0" * 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARTS, inner, max_size=3),
    max_leaves=8,
)


@given(changes=st.dictionaries(st.sampled_from(sorted(FileRecord.__annotations__)), JSON | PATHS, max_size=3))
def test_whatever_a_record_says_it_is_refused_or_stays_inside(changes: dict[str, Any]) -> None:
    data = json.dumps({"files": [a_record(**changes)]}).encode()
    try:
        (record,) = filerecord.decode(data)
    except ValueError:
        return
    stored = filerecord.stored_path(record)
    assert stored.startswith("files/")
    assert not {"", ".", ".."} & set(stored.split("/"))
    assert filerecord.decode(filerecord.encode([record])) == [record] or "NaN" in repr(record).replace("nan", "NaN")
    assert filerecord.merged([record, record]) == [record] or "nan" in repr(record)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_bytes_are_they_are_refused_or_read(data: bytes) -> None:
    try:
        filerecord.decode(data)
    except ValueError:
        return


def test_a_record_that_is_given_out_is_a_copy(session: Session) -> None:
    record = session.files().upload(b"1", filename="x", metadata={"k": [1]}, tags=["a"])
    record["metadata"]["k"].append(2)
    record["tags"].append("b")
    record["sizeBytes"] = 7
    session.files().upload(b"2", filename="y")
    found = session.files().get("x")
    assert (found["metadata"], found["tags"], found["sizeBytes"]) == ({"k": [1]}, ["a"], 1)


def test_an_upload_that_outlasts_its_session_is_refused(tmp_path: Path) -> None:
    session = Session("s", "w", tmp_path / "lake").open()

    class Closing:
        """A source that ends after its session was closed."""

        def __init__(self) -> None:
            self.left = [b"1", b"2"]

        def read(self, size: int) -> bytes:
            if not self.left:
                session.close()
                return b""
            return self.left.pop()

    with pytest.raises(SessionClosedError):
        session.files().upload(Closing(), filename="x")  # type: ignore[arg-type]
    assert files_of(tmp_path).list() == []
    assert [path.name for path in (tmp_path / "lake/w/s/files").rglob("*")] == []


def test_records_of_others_with_more_and_with_less_are_read(folder: Folder) -> None:
    least = {key: value for key, value in a_record().items() if key not in ("description", "tags", "metadata")}
    stored = folder.path / filerecord.stored_path(a_record())
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"1")
    path = folder.path / layout.FILES_METADATA_FILE
    path.write_text(json.dumps({"files": [{**least, "more": [1], "tags": None}], "version": 2}))
    assert folder.held() == {"/m/x": b"1"}
    assert folder.files.list() == [{**a_record(), "more": [1]}]
    path.write_bytes(b"")  # as a power cut may leave it
    assert folder.files.list() == []


def test_the_latest_of_two_records_of_one_place_counts(folder: Folder) -> None:
    times = [f"2026-01-0{day}T00:00:00+00:00" for day in (1, 2, 3)]
    records = [a_record(id=f"f-{n:016d}", updatedAt=at, deletedAt=at if n == 2 else None) for n, at in enumerate(times)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]):
        assert filerecord.merged(records[n] for n in order) == [records[2]]
    assert filerecord.merged(records[:2]) == [records[1]]


@pytest.mark.parametrize("what", ["files", "files/m", "bytes"])
def test_links_that_lead_out_are_not_followed(folder: Folder, tmp_path: Path, what: str) -> None:
    record = folder.files.upload(b"1", path="/m", filename="x")
    stored = folder.path / filerecord.stored_path(record)
    place = {"files": folder.path / "files", "files/m": folder.path / "files/m", "bytes": stored}[what]
    outside = tmp_path / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    secret = outside if what == "bytes" else outside / "secret"
    secret.write_bytes(b"2")
    before = {path: path.read_bytes() for path in [outside, *outside.rglob("*")] if path.is_file()}
    with pytest.raises(CorruptTrackError, match="link"):
        folder.files.open("/m/x")
    if what != "bytes":
        with pytest.raises(CorruptTrackError, match="link"):
            folder.files.upload(b"3", path="/m", filename="y")
    folder.files.delete("/m/x") if what != "files" else None
    assert {path: path.read_bytes() for path in [outside, *outside.rglob("*")] if path.is_file()} == before


# ------------------------------------------------------------------------------------------------ memory, imports

MEMORY = """
    import resource, sys
    from dreamlake import Session
    size, root = int(sys.argv[1]), sys.argv[2]

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    with open(f"{root}/big", "wb") as file:
        file.truncate(size)
    with Session("s", "w", root) as session:
        files = session.files()
        files.upload(b"1", filename="small")
        files.download("small", to=f"{root}/copy")
        before = peak()
        files.upload(f"{root}/big", path="/models")
        files.download("/models/big", to=f"{root}/copy")
        with files.open("/models/big") as file:
            while file.read(1 << 20):
                pass
        print(peak() - before)
"""


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    """400 MB; for 5 GB see docs/guide/files.md."""
    grown = int(run_python(MEMORY, 400 << 20, tmp_path).stdout)
    assert grown < 50 << 20
    assert (tmp_path / "copy").stat().st_size == 400 << 20


def test_uploading_imports_nothing_heavy(tmp_path: Path) -> None:
    code = """
    import sys
    from dreamlake import Session
    with Session("s", "w", sys.argv[1]) as session:
        session.files().upload(b"1", filename="x", metadata={"a": 1})
        session.files().list()
        session.files().open("x").read()
        session.files().delete("x")
        heavy = ("polars", "pandas", "fsspec", "s3fs")
        print([name for name in heavy if name in sys.modules])
    """
    assert run_python(code, tmp_path).stdout == "[]\n"


def test_a_forked_child_uploads_too(tmp_path: Path) -> None:
    code = """
    import os, sys
    from dreamlake import Session
    with Session("s", "w", sys.argv[1]) as session:
        session.files().upload(b"parent", filename="one")
        pid = os.fork()
        if not pid:
            session.files().upload(b"child", filename="two")
            os._exit(0)
        print(os.waitpid(pid, 0)[1])
        session.files().upload(b"parent", filename="three")
    """
    assert run_python(code, tmp_path / "lake").stdout == "0\n"
    assert held(files_of(tmp_path)) == {"/one": b"parent", "/two": b"child", "/three": b"parent"}


def test_reading_ahead_and_in_any_order_from_afar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of a replica gives every byte once, and asks ahead only while it is read in order."""
    monkeypatch.setattr(fileread, "PIECE", 10)
    data = os.urandom(95)
    asked: list[list[tuple[str, int, int]]] = []

    class Store:
        def get_many(self, wanted: list[tuple[str, int, int]]) -> list[bytes]:
            asked.append(wanted)
            return [data[start:stop] for _, start, stop in wanted]

        def size(self, path: str) -> int:
            return len(data)

        def describe(self, path: str) -> str:
            return path

    record = a_record(sizeBytes=len(data), checksum=sha(data))
    with io.BufferedReader(fileread.open_stored(Store(), "w/s", record), 7) as file:  # type: ignore[arg-type]
        assert file.read() == data
        assert [len(each) for each in asked] == [4, 4, 2]
        for place in (90, 3, 55, 0):
            file.seek(place)
            assert file.read(9) == data[place : place + 9]
    with mock.patch.object(Store, "get_many", lambda self, wanted: [OSError(5, "no") for _ in wanted]):
        with fileread.open_stored(Store(), "w/s", record) as raw, pytest.raises(OSError, match="no"):  # type: ignore[arg-type]
            raw.readinto(bytearray(4))
