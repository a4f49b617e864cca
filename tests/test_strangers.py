"""A run from a stranger: nothing outside of its folder is read or changed, nothing hangs, memory stays bounded."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from columnar import segment_of
from fsspec.implementations.memory import MemoryFileSystem
from fuzzreaders import footer_start, make_segment, signed
from strangers import (
    FOLDERS,
    SECRET,
    SEGMENTS,
    TAMPERED,
    TRACK,
    command_line,
    deadline,
    link_out,
    loop,
    make_run,
    pipe,
    read_all,
    run_command,
    seen,
    sparse,
    sync,
    write_all,
)

import dreamlake.storage as storage
import dreamlake.storage.local as local
from dreamlake import Lake, Session
from dreamlake.engine import hosts
from dreamlake.engine.replica import state
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.engine.sessionlock import Counter
from dreamlake.errors import CorruptTrackError, DreamlakeError
from dreamlake.format import hot, layout, pages
from dreamlake.format.layout import SegmentName
from dreamlake.format.schema import TS_FIELD, Batch
from dreamlake.format.segment import SegmentDamage, SegmentInfo, encode, open_segment
from dreamlake.storage.remote import RemoteStore

ALLOWED = (DreamlakeError, OSError)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    make_run(root)
    return root


@pytest.fixture
def lake(pristine: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(pristine, tmp_path / "lake", symlinks=True))
    MemoryFileSystem.store.clear()  # each listing there looks at all that the process ever put there


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    with deadline(60.0):
        yield


def attempt(work: Callable[[], Any]) -> str:
    """Do it; what it gives or how it fails, as text."""
    try:
        return repr(work())
    except ALLOWED as error:
        return f"{type(error).__name__}: {error}"


def do_everything(root: Path, outside: Path) -> None:
    """Read, write, upload and look at a run: what is outside of the lake stays as it is, and unknown."""
    before = seen(outside)
    said = [attempt(work) for errors in ("raise", "skip") for work in read_all(root, errors)]
    works, uploaded = sync(root)
    said += map(attempt, works)
    for argv in command_line(root):
        status, printed = run_command(argv)
        assert status in (0, 1, 2), argv
        assert "Traceback" not in printed
        assert printed.replace("\n", "").isprintable(), argv
        said.append(printed)
    said += map(attempt, write_all(root))
    said += map(attempt, sync(root)[0])
    assert not any(SECRET in each for each in said), [each for each in said if SECRET in each]
    assert SECRET.encode() not in uploaded()
    assert seen(outside) == before


def test_a_sound_run_is_read_written_and_uploaded(lake: Path, tmp_path: Path) -> None:
    """The tests here would see it if nothing was done at all."""
    (tmp_path / "outside").mkdir()
    said = [attempt(work) for work in [*read_all(lake), *sync(lake)[0], *write_all(lake)]]
    assert not any("Error" in each for each in said), said
    assert all(run_command(argv)[0] == 0 for argv in command_line(lake))


@pytest.mark.parametrize(("kind", "file"), TAMPERED, ids=lambda each: getattr(each, "__name__", each))
def test_something_else_in_the_place_of_a_file(lake: Path, tmp_path: Path, file: str, kind: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    kind(lake / "w" / "s" / file, outside / Path(file).name)
    do_everything(lake, outside)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("kind", [link_out, loop, pipe], ids=lambda kind: kind.__name__)
def test_something_else_in_the_place_of_a_folder(lake: Path, tmp_path: Path, folder: str, kind: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = lake / "w" / "s" / folder
    if kind is not link_out:
        shutil.rmtree(place)
        place.touch()
    kind(place, outside / "moved")
    do_everything(lake, outside)


# ------------------------------------------------------------------------------------------------ forged segments


def forge(lake: Path, kind: str, column: pa.Array) -> None:
    """Put a segment with a column that dreamlake would not write in the place of the first one, its checksums right."""
    (lake / "w/s/tracks/loss/.late.jsonl").unlink()
    values = pa.array([1.0, 2.0, 3.0, 4.0])
    schema = pa.schema([TS_FIELD, ("value", pa.float64()), ("odd", column.type)])
    data = pa.RecordBatch.from_arrays([pa.array([100.0, 101.0, 102.0, 103.0]), values, column], schema=schema)
    fields = {"value": "double", "odd": kind}
    info = SegmentInfo("loss", 0, 4, 0, 100.0, 103.0, True, fields, fields)
    (lake / "w/s/tracks/loss" / SegmentName(0, 4).filename).write_bytes(encode(Batch(fields, data), info))


NO_JSON = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1", '{"$date":"never"}', "[", None]))
NO_DATE = pa.array([0, 1, 2**62, None]).cast(pa.timestamp("us"))


@pytest.mark.parametrize(("kind", "column"), [("json", NO_JSON), ("timestamp", NO_DATE)], ids=["json", "timestamp"])
def test_values_that_are_none_are_damage_with_their_place(lake: Path, kind: str, column: pa.Array) -> None:
    forge(lake, kind, column)
    track = Lake(lake).session("s", "w").track("loss")
    for read in (track.read, track.read_by_time):
        with pytest.raises(CorruptTrackError, match=r"its values; indices 0 to 4, exclusive\): column 'odd'") as caught:
            read()
        assert caught.value.path.endswith("000000000000-000000000004.parquet")
        assert [each["index"] for each in read(errors="skip")["data"]] == [4, 5, 6, 7, 8, 9]
    assert [each["index"] for each in track.read(start_index=4)["data"]] == [4, 5, 6, 7, 8, 9]
    assert track.read_by_time(104.0)["data"][0]["index"] == 4
    assert track.to_polars()["value"].to_list()[:5] == [1.0, 2.0, 3.0, 4.0, 2.0]


def test_a_late_field_for_values_that_are_none_waits_and_all_else_is_written(lake: Path) -> None:
    forge(lake, "json", NO_JSON)
    with Session("s", "w", lake, flush_interval=60) as session:
        track = session.track("loss")
        track.append(value=9.0, _ts=200.0)
        track.append(late=1.0, _ts=101.0)
        with pytest.raises(CorruptTrackError, match="its values"):
            track.flush()
        assert Lake(lake).session("s", "w").track("loss").read(-1)["data"][0]["data"] == {"value": 9.0, "_ts": 200.0}
        session.writer.tracks["loss"].pending.clear()


def test_a_column_that_must_become_text_and_cannot_is_damage(lake: Path) -> None:
    forge(lake, "timestamp", NO_DATE)
    for name in (SegmentName(4, 8).filename, "data.jsonl", ".away.jsonl"):
        (lake / "w/s/tracks/loss" / name).unlink()
    with Session("s", "w", lake, flush_interval=60) as session:
        session.track("loss").append(odd="text", _ts=201.0)
    track = Lake(lake).session("s", "w").track("loss")
    with pytest.raises(CorruptTrackError, match="its values"):
        track.to_polars()
    assert track.to_polars(errors="skip")["_index"].to_list() == [4]


# ------------------------------------------------------------------------------------------------ memory


def test_a_hot_file_whose_points_would_fill_the_memory_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'{"index":0,"data":{"a":[' + b"[]," * 1000 + b'1],"_ts":1.0}}\n'
    monkeypatch.setattr(hot, "MUCH", 1000)
    assert len(hot.parse(text).points) == 1
    monkeypatch.setattr(hot, "MAX_MEMORY", 100_000)
    with pytest.raises(CorruptTrackError, match="its points would take 120760 bytes of memory"):
        hot.parse(text, path="data.jsonl")


def test_a_footer_and_columns_longer_than_any_are_damage_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return b"\0" * (stop - start - 8) + (1 << 31).to_bytes(4, "little") + b"PAR1"

    with pytest.raises(SegmentDamage, match="claims 2147483648 bytes"):
        open_segment(read, 1 << 40)
    assert max(asked) <= 1 << 16
    opened = open_segment(segment_of([{"a": 1.0 * i, "_ts": 1.0 * i} for i in range(100)]))
    monkeypatch.setattr(pages, "MAX_DECODED", 100)
    with pytest.raises(SegmentDamage, match="longer than those of any segment"):
        opened.read()


@pytest.mark.parametrize("claimed", [1, 39, 41])
def test_a_footer_that_claims_other_numbers_of_rows_is_damage(claimed: int) -> None:
    """Each place in which it says how many, one at a time, the checksum right."""
    data = make_segment([{"a": 1.0 * i, "_ts": 1.0 * i} for i in range(40)])
    start = footer_start(data)
    said = []
    place = data.find(b"\x16\x50", start)  # a number of 64 bits, 40
    while place >= 0:
        forged = signed(data[: place + 1] + bytes([2 * claimed]) + data[place + 2 :])
        with pytest.raises(SegmentDamage) as damage:
            open_segment(forged).read()
        said.append(str(damage.value))
        place = data.find(b"\x16\x50", place + 1)
    assert [text for text in said if text.startswith("footer")] == [
        f"footer: {claimed} rows in the range 20 to 60 (exclusive)",
        "footer: its row groups do not add up",
    ]


@pytest.mark.parametrize("name", ["session.json", "parameters.json", "tracks/loss/metadata.json"])
def test_a_small_file_is_read_up_to_its_bound(lake: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lake / "w/s" / name
    monkeypatch.setattr(storage, "LARGE", 10)  # it is read in two steps
    said = [attempt(work) for work in read_all(lake)]
    assert not any("Error" in each for each in said)
    monkeypatch.setattr(layout, "MAX_SMALL_BYTES", path.stat().st_size - 1)
    monkeypatch.setattr(hosts, "MAX_SMALL_BYTES", path.stat().st_size - 1)
    said = [attempt(work) for work in [*read_all(lake), *write_all(lake)]]
    assert any(f"{path} is damaged (its end): it is over" in each for each in said)


# ------------------------------------------------------------------------------------------------ small files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"tags": 5}', "its 'tags' is no list"),
        (b'{"tags": [1]}', "its 'tags' are not all texts"),
        (b'{"metadata": "k"}', "its 'metadata' is no dict"),
        (b'{"description": ["a"]}', "its 'description' is no str"),
        (b'{"createdAt": 5}', "its 'createdAt' is no str"),
        (b'{"status": []}', "its 'status' is no str"),
        (b'{"lastTs": "now"}', "its 'lastTs' is no float"),
        (b'{"lastTs": 1e999}', "it is not JSON: 1e999 is not strict JSON"),
        (b'{"lastTs": 1e300}', "its 'lastTs' is no timestamp"),
        (b'{"lastTs": 1' + b"0" * 400 + b"}", "its 'lastTs' is no timestamp"),
        (b'{"segment_points": 0}', "its 'segment_points' is no number of points"),
        (b'{"segment_points": true}', "its 'segment_points' is no int"),
        (b'{"description": "\\uD800"}', "it is not JSON"),
        (b'{"description": "\xed\xa0\x80"}', "it is not JSON"),
        (b'{"metadata": {"k": NaN}}', "it is not JSON: NaN is not strict JSON"),
        ('{"description": "a"}'.encode("utf-16"), "it is not JSON"),
        (b'{"k":' + b"[" * 70 + b"]" * 70 + b"}", "it is not JSON: nested"),
        (b'{"k":' + b"[" * 7000 + b"]" * 7000 + b"}", "it is not JSON"),
        (b"[]", "it is not a JSON object"),
    ],
)
def test_what_no_writer_writes_of_a_run_or_a_track_is_damage(lake: Path, text: bytes, said: str) -> None:
    session, track = lake / "w/s/session.json", lake / "w/s/tracks/loss/metadata.json"
    whole = session.read_bytes()
    session.write_bytes(text)
    for read in (Lake(lake).sessions, Session("s", "w", lake).open):
        with pytest.raises(CorruptTrackError, match=re.escape(said)) as caught:
            read()
        assert caught.value.path == str(session)
    session.write_bytes(whole)
    track.write_bytes(text)
    with Session("s", "w", lake, flush_interval=60) as run:
        for use in (Lake(lake).session("s", "w").track("loss").stats, run.track("loss").append(value=1.0).flush):
            with pytest.raises(CorruptTrackError, match=re.escape(said)) as caught:
                use()
            assert caught.value.path == str(track)
        run.writer.tracks["loss"].pending.clear()


def test_the_deepest_values_that_are_taken_come_back_everywhere(lake_dir: Path) -> None:
    deepest: Any = 1
    for _ in range(63):
        deepest = [deepest]
    about = {"k": deepest}
    with Session("s", "w", lake_dir, metadata=about) as session:
        session.track("loss", metadata=about).append(deep=[deepest])
        session.parameters().set(deep=[deepest], flat={"deep": [deepest]})
        session.log("deep", metadata=about)
        assert session.parameters().get() == {"deep": [deepest], "flat.deep": [deepest]}
    run = Lake(lake_dir).session("s", "w")
    assert run.info["metadata"] == about
    assert run.track("loss").stats()["metadata"] == about
    assert run.track("loss").read()["data"][0]["data"]["deep"] == [deepest]
    assert run.logs()["metadata"].to_list() == ['{"k":' + "[" * 63 + "1" + "]" * 63 + "}"]
    Session("s", "w", lake_dir).open().close()


@pytest.mark.parametrize(
    "last", [b"1e999", b"Infinity", b"NaN", b"-Infinity", b"1" + b"0" * 400, b"[" * 1500, b'"1"', b"1e300"]
)
def test_a_lock_file_that_no_writer_wrote_is_read_as_a_damaged_one(lake: Path, last: bytes) -> None:
    (lake / "w/s/.lock").write_bytes(b'{"changes": 1, "rewrites": 1, "lastTs": ' + last + b"}")
    with Session("s", "w", lake, flush_interval=60) as session:
        point = session.track("loss").append(value=1.0).read(-1)["data"][0]["data"]
    assert point["_ts"] < 1e11
    for counter in (b"1e999", b"NaN", b"null", b'"x"'):
        assert Counter.decode(b'{"changes": ' + counter + b', "rewrites": 0, "lastTs": null}') is None


@pytest.mark.parametrize(
    "said",
    [
        b'"machine":"../../x"',
        b'"machine":""',
        b'"machine":"a","remotes":{"u":{"tracks":{"../x":{}}}}',
        b'"machine":"a","remotes":{"u":{"tracks":{"tracks/a":{"runs":[[0,1,9000000000000000000,0]]}}}}',
        b'"machine":"a","remotes":{"u":{"tracks":{"tracks/a":{"runs":[[0,-1,1,0]]}}}}',
        b'"machine":"a","remotes":{"u":{"tracks":{"tracks/a":{"runs":[[-4,4,1,0]]}}}}',
        b'"machine":"a","x":' + b"[" * 5000 + b"]" * 5000,
    ],
)
def test_a_state_of_a_replica_that_no_writer_wrote_is_none(lake: Path, said: bytes) -> None:
    path = lake / "w/s/.replica.json"
    path.write_bytes(b"{" + said + (b"" if b"remotes" in said else b',"remotes":{}') + b"}")
    found = state.load(str(lake / "w/s"))
    assert found.remotes == {}
    assert re.fullmatch("[0-9a-f]{16}", found.machine)
    works, uploaded = sync(lake)
    assert "Error" not in attempt(works[0])
    assert b'"loss"' in uploaded()


def test_a_row_that_waits_without_its_timestamp_is_damage(lake: Path) -> None:
    """In a hot file a later line of a point may leave it out."""
    path = lake / "w/s/tracks/loss/.late.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"index":0,"data":{"late":2}}\n')
    with Session("s", "w", lake, flush_interval=60) as session:
        with pytest.raises(CorruptTrackError, match=r"line 2.*has no _ts"):
            session.track("loss").append(value=1.0).flush()
        session.writer.tracks["loss"].pending.clear()
    status, printed = run_command(["check", f"{lake}/w/s"])
    assert (status, f"byte {len(whole)}, line 2" in printed) == (1, True)
    assert run_command(["repair", f"{lake}/w/s"])[0] == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"version": 1e999, "data": {}}', "1e999 is not strict JSON"),
        (b'{"version": {"$numberDouble": "Infinity"}, "data": {}}', "infinity"),
        (b'{"version": 1, "data": {}, "createdAt": 5}', "its 'createdAt' is no str"),
        (b'{"version": 1, "data": []}', "its data is not an object"),
        (b'{"version": 1}', "data"),
    ],
)
def test_parameters_that_no_writer_writes_are_damage(lake: Path, text: bytes, said: str) -> None:
    (lake / "w/s/parameters.json").write_bytes(text)
    with Session("s", "w", lake, flush_interval=60) as session:
        for use in (Lake(lake).session("s", "w").parameters().get, lambda: session.parameters().set(a=1)):
            with pytest.raises(CorruptTrackError, match=said):
                use()


@pytest.mark.parametrize("name", [".away.jsonl", "data.jsonl", ".late.jsonl"])
def test_lines_nested_too_deep_are_damage(lake: Path, name: str) -> None:
    path = lake / "w/s/tracks/loss" / name
    path.write_bytes(b'{"index":8,"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}\n" + path.read_bytes())
    with Session("s", "w", lake, flush_interval=60) as session:
        with pytest.raises(CorruptTrackError, match=r"deep|depth"):
            session.track("loss").append(value=1.0).flush()
        session.writer.tracks["loss"].pending.clear()
    outcome = sync(lake)[0][0]()
    assert all(isinstance(error, CorruptTrackError) for _, error in outcome.failures)
    assert outcome.failures


def test_the_command_line_tells_of_a_track_of_another_name_and_shows_the_rest(lake: Path) -> None:
    (lake / "w/s/tracks/loss/metadata.json").write_bytes(b'{"name": "\\u001b[31mother"}')
    for argv in (["show", "w/s", "--path", str(lake)], ["files", "w/s", "loss", "--path", str(lake)]):
        status, printed = run_command(argv)
        assert status == 1
        assert r"belongs to the track '\x1b[31mother', not 'loss'" in printed
    assert "lr" in run_command(["show", "w/s", "--path", str(lake)])[1]


def test_repair_takes_no_link_or_pipe_for_the_copy_that_it_keeps(lake: Path) -> None:
    path = lake / "w/s/tracks/loss/data.jsonl"
    damaged = b"damaged\n" + path.read_bytes()
    path.write_bytes(damaged)
    path.with_name("data.jsonl.damaged-0").symlink_to("data.jsonl")
    os.mkfifo(path.with_name("data.jsonl.damaged-1"))
    assert run_command(["repair", f"{lake}/w/s"])[0] == 0
    assert path.read_bytes() != damaged
    (kept,) = [each for each in path.parent.glob("data.jsonl.damaged-2*") if each.is_file()]
    assert kept.read_bytes() == damaged


# ------------------------------------------------------------------------------------------------ names and folders


def test_names_that_are_no_unicode_are_passed_over(lake: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9\x1b[31m")
    outside = tmp_path / "outside"
    outside.mkdir()
    for folder in (lake / odd / "s", lake / "w" / odd, lake / "w/s/tracks" / odd, lake / "w/s/hosts" / odd):
        folder.mkdir(parents=True)
        for name in ("session.json", "metadata.json", "data.jsonl", ".late.jsonl", odd):
            (folder / name).write_bytes(b'{"index":0,"data":{"_ts":1.0}}\n' if name.endswith("l") else b"{}")
    (lake / "w/s/files" / odd).write_bytes(b"uploaded")
    outcome = sync(lake)[0][0]()
    assert [(where, "not UTF-8" in str(error)) for where, error in outcome.failures] == [(f"files/{odd}", True)]
    assert Lake(lake).workspaces() == ["w"]
    assert [info["name"] for info in Lake(lake).sessions()] == ["s"]
    assert Lake(lake).session("s", "w").tracks.list() == ["loss"]
    do_everything(lake, outside)


@pytest.mark.parametrize("name", [".x", "..x", "%2e%2e", "con", "x.", "%41"])
def test_folders_of_no_track_and_no_session_are_passed_over(lake: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for folder in (lake / name / "s", lake / "w" / name, lake / "w/s/tracks/a" / name):
        folder.mkdir(parents=True)
        for file in ("session.json", "metadata.json", "data.jsonl", ".late.jsonl"):
            (folder / file).write_bytes(b"{}\n")
    assert [(info["workspace"], info["name"]) for info in Lake(lake).sessions()] == [("w", "s")]
    assert Lake(lake).session("s", "w").tracks.list() == ["loss"]
    do_everything(lake, outside)


def test_folders_deeper_than_a_recursion_goes_are_walked(lake: Path, tmp_path: Path) -> None:
    deep = lake / "w/s/tracks" / "/".join(["d"] * 1200)
    local.make_dirs(str(deep), fsync=False)
    outside = tmp_path / "outside"
    outside.mkdir()
    (deep / ".late.jsonl").write_bytes(b'{"index":0,"data":{"_ts":1.0}}\n')
    try:
        do_everything(lake, outside)
    finally:
        os.unlink(deep / ".late.jsonl")
        os.removedirs(deep)  # pytest's own clean-up recurses


# ------------------------------------------------------------------------------------------------ a replica


REPLICA_FILES = ["session.json", "parameters.json", f"{TRACK}/metadata.json", f"{TRACK}/data.jsonl"]
REPLICA_FILES += [f"{TRACK}/{name.filename}" for name in SEGMENTS]


@pytest.mark.parametrize("kind", [pipe, link_out, loop, sparse], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("file", REPLICA_FILES)
def test_a_replica_in_a_folder_that_a_stranger_has_tampered_with(
    lake: Path, tmp_path: Path, kind: Any, file: str
) -> None:
    """A machine with an empty disk goes on from it, or says why not."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in (".away.jsonl", ".late.jsonl"):
        (lake / "w/s" / TRACK / name).unlink()
    kind(lake / "w/s" / file, outside / Path(file).name)
    before = seen(outside)
    session = Session("s", "w", tmp_path / "here", remote=f"file://{lake}", flush_interval=60)
    said = [attempt(work) for work in (session.open, session.sync)]
    if session.is_open:
        said += [attempt(session.track("loss").read), attempt(session.parameters().get)]
        said += [attempt(session.track("loss").append(value=1.0).flush), attempt(session.close)]
    if session.is_open:
        session.writer.tracks["loss"].pending.clear()
        session.close(timeout=1)
    assert seen(outside) == before
    assert not any(SECRET in each for each in said), said
    assert SECRET.encode() not in b"".join(
        each.read_bytes() for each in (tmp_path / "here").rglob("*") if each.is_file()
    )


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("folder", ["tracks", "tracks/loss"])
def test_nothing_is_written_through_a_link_in_a_replica(lake: Path, tmp_path: Path, folder: str, empty: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link_out(lake / "w/s" / folder, outside / "moved")
    if empty:
        shutil.rmtree(outside / "moved")
        (outside / "moved").mkdir()
    before = seen(outside)
    make_run(tmp_path / "here")
    store = RemoteStore(f"file://{lake}")
    outcome = sync_folder(str(tmp_path / "here/w/s"), "w/s", store)
    assert any("leads out of" in str(error) for _, error in outcome.failures)
    assert seen(outside) == before


@pytest.mark.parametrize("kind", [link_out, pipe], ids=lambda kind: kind.__name__)
def test_a_lock_that_is_no_plain_file_is_told(lake: Path, tmp_path: Path, kind: Any) -> None:
    kind(lake / "w/s/.lock", tmp_path / "lock")
    with pytest.raises(CorruptTrackError, match=r"\.lock is damaged \(its place\): it is (a link|not a plain file)"):
        Session("s", "w", lake).open()


@pytest.mark.parametrize("ahead", [True, False])
def test_a_track_that_is_a_link_is_neither_compared_nor_taken_over(lake: Path, tmp_path: Path, ahead: bool) -> None:
    """The replica has more, or the same points under the same names with other bytes."""
    here, outside = tmp_path / "here", tmp_path / "outside"
    outside.mkdir()
    shutil.copytree(lake, here, symlinks=True)
    link_out(here / "w/s/tracks/loss", outside / "loss")
    if ahead:
        Session("s", "w", lake).open().track("loss").append(value=3.0)._session.close()
    before = seen(outside)
    session = Session("s", "w", here, remote=f"file://{lake}", flush_interval=60)
    said = [attempt(work) for work in (session.open, session.close)]
    assert any("leads out of" in each for each in said)
    assert seen(outside) == before
