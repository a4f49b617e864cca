"""The log of a session: records in order, levels, metadata, full files put aside, several processes, a failing disk."""

from __future__ import annotations

import enum
import errno
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from support import run_python, start_python

import dreamlake.engine.logfile as logfile
import dreamlake.engine.logpressure as logpressure
import dreamlake.storage.local as local
from dreamlake import Lake, Session
from dreamlake.errors import CorruptTrackError, PointsDroppedError

LEVELS = ["debug", "info", "warn", "error", "fatal"]


@pytest.fixture
def session(lake_dir: Path) -> Iterator[Session]:
    with Session("s", "w", lake_dir, flush_interval=3600.0) as session:
        yield session


def lines(session: Session, name: str = "logs.jsonl") -> list[Any]:
    return [json.loads(line) for line in (Path(session.path) / "logs" / name).read_bytes().splitlines()]


def test_records_are_lines_in_their_order(session: Session) -> None:
    before = datetime.now(UTC)
    session.log("Starting")
    session.log("bad", "error", {"loss": float("nan"), "at": [1, {"k": None}]})
    session.log("line\nbreak \u2028 漢字 \x00", level="debug", metadata={})
    session.flush()
    records = lines(session)
    for record in records:
        stamp = datetime.fromisoformat(record.pop("timestamp"))
        assert before <= stamp <= datetime.now(UTC)
        assert stamp.utcoffset() == timedelta(0)
    assert records == [
        {"sequenceNumber": 0, "level": "info", "message": "Starting"},
        {
            "sequenceNumber": 1,
            "level": "error",
            "message": "bad",
            "metadata": {"loss": {"$numberDouble": "NaN"}, "at": [1, {"k": None}]},
        },
        {"sequenceNumber": 2, "level": "debug", "message": "line\nbreak \u2028 漢字 \x00", "metadata": {}},
    ]


def test_the_frame_shows_the_log_and_reading_flushes(session: Session, lake_dir: Path) -> None:
    assert session.logs().columns == ["sequenceNumber", "timestamp", "level", "message", "metadata"]
    assert len(session.logs()) == 0
    for level in LEVELS:
        session.log(f"a {level}", level, {"n": 1})  # type: ignore[arg-type]
    frame = session.logs()
    assert frame["level"].to_list() == LEVELS
    assert frame["message"].to_list() == [f"a {level}" for level in LEVELS]
    assert frame["metadata"].to_list() == ['{"n":1}'] * 5
    for number, level in enumerate(LEVELS):
        assert session.logs(level)["level"].to_list() == LEVELS[number:]  # type: ignore[arg-type]
    assert Lake(lake_dir).session("s", "w").logs("error")["level"].to_list() == ["error", "fatal"]
    with pytest.raises(ValueError, match=r"debug, info, warn, error, fatal, not 'loud'"):
        session.logs("loud")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((5,), TypeError, r"a string, not int; use str\(\)"),
        (("\ud800",), ValueError, "lone surrogate"),
        (("a", "INFO"), ValueError, "debug, info, warn, error, fatal, not 'INFO'"),
        (("a", 20), ValueError, "not 20"),
        (("a", "info", 5), TypeError, "metadata is a dict, not int"),
        (("a", "info", {"x": object()}), TypeError, "object"),
        (("a", "info", {1: 1}), TypeError, "keys are strings"),
        (("x" * 2_000_000,), ValueError, "1 MB"),
    ],
)
def test_a_record_that_cannot_be_stored_is_refused(
    session: Session, args: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        session.log(*args)
    assert len(session.logs()) == 0


class Grade(enum.StrEnum):
    WARN = "warn"
    CRITICAL = "critical"


@pytest.mark.parametrize("kind", [Grade, np.str_])
def test_levels_and_messages_of_other_classes_are_plain_ones(session: Session, kind: Any) -> None:
    session.log("before")
    session.log(kind("warn"), kind("warn"), {kind("warn"): kind("warn")})
    session.log("m", kind("critical"))
    session.track("loss").append(value=1)
    assert session.logs(kind("warn"))["level"].to_list() == ["warn", "fatal"]
    assert session.logs()["message"].to_list() == ["before", "warn", "m"]
    session.close()
    assert len(Lake(session.root).session("s", "w").track("loss")) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [["info"], None, 5, b"info"])
def test_a_level_that_is_no_string_is_refused(session: Session, level: Any) -> None:
    with pytest.raises(ValueError, match="the level is one of debug, info"):
        session.log("m", level)


def test_a_record_that_cannot_be_encoded_holds_up_no_other(session: Session) -> None:
    """None can get there; should one ever do, the log says so in its place, and goes on."""
    session.log("before")
    session.writer.logs.add({"timestamp": "", "level": "info", "message": object()})
    session.writer.logs.add({"timestamp": "", "level": "info", "message": "\ud800"})
    session.log("after")
    frame = session.logs()
    assert frame["sequenceNumber"].to_list() == [0, 1, 2, 3]
    first, odd, surrogate, last = frame["message"].to_list()
    assert (first, last) == ("before", "after")
    assert odd == "a record cannot be written, and is missing here: TypeError: no stored value has the type object"
    assert surrogate.startswith("a record cannot be written, and is missing here: Unicode")
    session.close()


def test_metadata_is_a_snapshot(session: Session) -> None:
    metadata = {"list": [1]}
    session.log("a", metadata=metadata)
    metadata["list"].append(2)
    assert session.logs()["metadata"].to_list() == ['{"list":[1]}']


def test_numbers_go_on_after_a_reopen(lake_dir: Path) -> None:
    for run in range(3):
        with Session("s", "w", lake_dir, flush_interval=3600.0) as session:
            session.log(f"run {run}")
    assert session.logs()["sequenceNumber"].to_list() == [0, 1, 2]
    assert session.logs()["message"].to_list() == ["run 0", "run 1", "run 2"]


def test_a_full_file_is_put_aside(session: Session, lake_dir: Path) -> None:
    for number in range(9_999):
        session.log(str(number))
    session.flush()
    folder = Path(session.path) / "logs"
    assert [path.name for path in folder.iterdir()] == ["logs.jsonl"]
    for number in range(9_999, 20_005):
        session.log(str(number))
    session.flush()
    assert sorted(path.name for path in folder.iterdir()) == ["0.jsonl", "1.jsonl", "logs.jsonl"]
    assert [record["sequenceNumber"] for record in lines(session, "0.jsonl")] == list(range(10_000))
    assert [record["sequenceNumber"] for record in lines(session, "1.jsonl")] == list(range(10_000, 20_000))
    session.close()
    with Session("s", "w", lake_dir, flush_interval=3600.0) as again:
        again.log("20005")
        frame = again.logs()
    assert frame["sequenceNumber"].to_list() == list(range(20_006))
    assert frame["message"].to_list() == [str(number) for number in range(20_006)]


def test_numbers_go_on_behind_a_file_that_was_just_put_aside(lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "FILE_LINES", 5)
    for number in range(23):
        with Session("s", "w", lake_dir, flush_interval=3600.0) as session:
            session.log(str(number))
    folder = Path(session.path) / "logs"
    assert sorted(path.name for path in folder.iterdir()) == ["0.jsonl", "1.jsonl", "2.jsonl", "3.jsonl", "logs.jsonl"]
    (folder / "logs.jsonl").unlink()
    with Session("s", "w", lake_dir, flush_interval=3600.0) as session:
        session.log("after")
        assert session.logs()["sequenceNumber"].to_list() == list(range(21))


@pytest.mark.parametrize("at_once", [1, 50])
def test_a_file_of_many_bytes_is_put_aside(session: Session, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Else large records would make a file that no reader takes long before it has its lines."""
    monkeypatch.setattr(logfile, "FILE_BYTES", 10_000)
    monkeypatch.setattr(logfile, "PART_BYTES", 3_000)
    for number in range(50):
        session.log(f"{number} " + "x" * 1000)
        if number % at_once == 0:
            session.flush()
    session.flush()
    sizes = {path.name: path.stat().st_size for path in (Path(session.path) / "logs").iterdir()}
    assert sorted(sizes) == ["0.jsonl", "1.jsonl", "2.jsonl", "3.jsonl", "logs.jsonl"]
    assert all(10_000 <= size < 11_200 for name, size in sizes.items() if name != "logs.jsonl"), sizes
    assert [int(text.split()[0]) for text in session.logs()["message"]] == list(range(50))
    session.close()
    with session.open():
        session.log("50 ")
        assert session.logs()["sequenceNumber"].to_list() == list(range(51))


def test_a_torn_line_is_cut_and_a_damaged_one_is_told(lake_dir: Path) -> None:
    with Session("s", "w", lake_dir, flush_interval=3600.0) as session:
        session.log("one")
    path = Path(session.path) / "logs" / "logs.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"sequenceNumber": 1, "mess')
    assert session.logs()["message"].to_list() == ["one"]
    with session.open():
        session.log("two")
    assert session.logs()["message"].to_list() == ["one", "two"]
    assert session.logs()["sequenceNumber"].to_list() == [0, 1]
    path.write_bytes(path.read_bytes() + b"damaged\n")
    with pytest.raises(CorruptTrackError, match="line 3"):
        session.logs()
    assert session.logs(errors="skip")["message"].to_list() == ["one", "two"]


def test_numbers_go_on_behind_a_damaged_line(lake_dir: Path) -> None:
    for text in ("one", "two", "three"):
        with Session("s", "w", lake_dir, flush_interval=3600.0) as session:
            session.log(text)
            session.flush()
            path = Path(session.path) / "logs" / "logs.jsonl"
            path.write_bytes(path.read_bytes() + b"damaged\n")
    frame = session.logs(errors="skip")
    assert frame["message"].to_list() == ["one", "two", "three"]
    assert frame["sequenceNumber"].to_list() == [0, 1, 2]


def test_records_stay_while_the_disk_fails_and_come_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write leaves whole lines in the file: these are not written again."""
    for number in range(5):
        session.log(str(number))
    real = local.append_at

    def short(path: str, offset: int, data: bytes, fsync: bool) -> int:
        cut = data.index(b"\n", data.index(b"\n") + 1) + 10
        real(path, offset, data[:cut], fsync)
        raise local.PartialWriteError(OSError(errno.ENOSPC, "no space left on device"), path, cut)

    with monkeypatch.context() as patch:
        patch.setattr(local, "append_at", short)
        with pytest.raises(OSError, match="no space"):
            session.flush()
    session.log("5")
    frame = session.logs()
    assert frame["message"].to_list() == [str(number) for number in range(6)]
    assert frame["sequenceNumber"].to_list() == list(range(6))
    assert len(lines(session)) == 6


# -- records that come faster than they are written ----------------------------------------------------------------


def full_disk(path: str, offset: int, data: bytes, fsync: bool) -> int:
    raise OSError(errno.ENOSPC, "no space left on device", path)


def test_a_burst_on_a_disk_that_works_costs_nothing(session: Session) -> None:
    """Though no flush is due: enough records wake one, and the loop waits for it a moment."""
    count = 110_000
    most = 0
    for number in range(count):
        session.log(str(number))
        most = max(most, len(session.writer.logs.pending))
    session.close()
    assert most < 50_000
    folder = Path(session.path) / "logs"
    stored = [json.loads(line) for path in folder.iterdir() for line in path.read_bytes().splitlines()]
    stored.sort(key=lambda record: record["sequenceNumber"])
    assert [record["message"] for record in stored] == [str(number) for number in range(count)]


def test_large_records_are_flushed_by_their_bytes(session: Session) -> None:
    logs = session.writer.logs
    for number in range(100):
        session.log("x" * 1_000_000, metadata={"number": number})
        assert logs.nbytes < 60 << 20
    session.flush()
    assert logs.nbytes == 0
    assert [json.loads(text)["number"] for text in session.logs()["metadata"]] == list(range(100))


@pytest.mark.parametrize(("most", "most_bytes"), [(1000, 1 << 40), (1 << 40, 300_000)])
def test_a_disk_that_takes_nothing_costs_what_is_beyond_the_bound_and_close_says_how_much(
    lake_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, most: int, most_bytes: int
) -> None:
    monkeypatch.setattr(logpressure, "MANY", 100)
    monkeypatch.setattr(logpressure, "MOST", most)
    monkeypatch.setattr(logpressure, "MOST_BYTES", most_bytes)
    session = Session("s", "w", lake_dir, flush_interval=3600.0).open()
    with monkeypatch.context() as patch:
        patch.setattr(local, "append_at", full_disk)
        for number in range(3000):
            session.log(str(number))
        kept = len(session.writer.logs.pending)
        assert 900 < kept <= 1500
        with pytest.raises(OSError, match=rf"no space.*; {kept} log records are still pending, and {3000 - kept} log"):
            session.close()
    message = rf"^{3000 - kept} log records were dropped: the disk took none and {most}, or {most_bytes} bytes, were"
    with pytest.raises(PointsDroppedError, match=message) as caught:
        session.close()
    assert (caught.value.dropped, caught.value.log_records) == (0, 3000 - kept)
    assert "cannot write to" in caplog.text
    view = Lake(lake_dir).session("s", "w")
    *records, last = view.logs().rows(named=True)
    assert [record["message"] for record in records] == [str(number) for number in range(kept)]
    assert last["message"] == f"{3000 - kept} log records were dropped, since disk and memory were full"
    assert json.loads(last["metadata"]) == {"records": 3000 - kept}
    assert view.info["status"] == "failed"
    assert session.is_closed


def test_a_disk_that_works_again_takes_new_records_by_itself(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logpressure, "MANY", 100)
    monkeypatch.setattr(logpressure, "MOST", 1000)
    with monkeypatch.context() as patch:
        patch.setattr(local, "append_at", full_disk)
        for number in range(1500):
            session.log(str(number))
        dropped = session.writer.log_pressure.dropped
        assert dropped > 200
    for number in range(1500, 3000):
        session.log(str(number))
        time.sleep(0.001)
    with pytest.raises(PointsDroppedError) as caught:
        session.flush()
    assert caught.value.log_records < dropped + 1000
    messages = session.logs()["message"].to_list()
    assert len(messages) + caught.value.log_records == 3000
    assert messages[-1] == "2999"


def test_a_disk_that_hangs_holds_the_loop_up_for_a_moment_only(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logpressure, "MANY", 100)
    monkeypatch.setattr(logpressure, "CROWDED", 200)
    monkeypatch.setattr(logpressure, "MOST", 1000)
    monkeypatch.setattr(logpressure, "LAST_PATIENCE", 0.2)
    answers = Event()
    real = local.append_at

    def hang(*args: Any) -> int:
        answers.wait()
        return real(*args)

    monkeypatch.setattr(local, "append_at", hang)
    try:
        for number in range(2000):  # which would never end if each waited for the disk
            session.log(str(number))
    finally:
        answers.set()
    with pytest.raises(PointsDroppedError) as caught:
        session.flush()
    assert caught.value.log_records == 2000 - len(session.logs())
    session.log("on")
    assert session.logs()["message"][-1] == "on"


def test_a_record_beside_one_that_waits_for_room_is_taken(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk works, and takes its time."""
    for name, bound in (("MANY", 10), ("MOST", 20), ("LAST_PATIENCE", 60.0)):
        monkeypatch.setattr(logpressure, name, bound)
    answers = Event()
    real = local.append_at

    def slow(*args: Any) -> int:
        answers.wait()
        return real(*args)

    monkeypatch.setattr(local, "append_at", slow)
    threads = [Thread(target=session.log, args=(str(number),)) for number in range(40)]
    for thread in threads:
        thread.start()
    pending = session.writer.logs.pending
    while len(pending) + session.writer.log_pressure.dropped < 40:
        time.sleep(0.001)
    answers.set()
    for thread in threads:
        thread.join()
    session.flush()
    assert sorted(session.logs()["message"].cast(int)) == list(range(40))


def test_threads_lose_nothing(session: Session) -> None:
    def work(number: int) -> None:
        for step in range(200):
            session.log(f"{number} {step}")
            if step % 50 == 0:
                session.flush()

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frame = session.logs()
    assert frame["sequenceNumber"].to_list() == list(range(800))
    for number in range(4):
        mine = [message for message in frame["message"].to_list() if message.startswith(f"{number} ")]
        assert mine == [f"{number} {step}" for step in range(200)]


def test_two_processes_share_one_log(lake_dir: Path) -> None:
    code = """
    import sys
    import dreamlake.engine.logfile as logfile
    logfile.FILE_LINES = 30
    from dreamlake import Session
    with Session("s", "w", sys.argv[2], flush_interval=3600.0) as session:
        print("ready", flush=True)
        sys.stdin.readline()
        for step in range(100):
            session.log(f"{sys.argv[1]} {step}")
            if step % 7 == 0:
                session.flush()
    """
    with start_python(code, "one", lake_dir) as one, start_python(code, "two", lake_dir) as two:
        for process in (one, two):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in (one, two):
            out = process.communicate(timeout=60)
            assert process.returncode == 0, out
    frame = Lake(lake_dir).session("s", "w").logs()
    assert frame["sequenceNumber"].to_list() == list(range(200))
    for me in ("one", "two"):
        mine = [message for message in frame["message"].to_list() if message.startswith(me)]
        assert mine == [f"{me} {step}" for step in range(100)]


def test_logging_alone_survives_an_exit_without_close(lake_dir: Path) -> None:
    code = """
    import sys
    from dreamlake import Session
    Session("s", "w", sys.argv[1], flush_interval=3600.0).log("hello")
    """
    run_python(code, lake_dir)
    assert Lake(lake_dir).session("s", "w").logs()["message"].to_list() == ["hello"]


def test_levels_by_the_names_of_pythons_logging(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        session.log("a", "warning")
        session.log("b", "critical")
        assert session.logs()["level"].to_list() == ["warn", "fatal"]
        assert session.logs("warning").height == 2
