"""``dreamlake tail``: the newest points and log lines, and a live run followed, each point once and in order."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from s3.server import S3Server
from support import python_environment

from dreamlake import Session
from dreamlake.cli import tail
from dreamlake.engine import catalog


def lines(result: tuple[int, str, str]) -> list[dict[str, Any]]:
    status, out, err = result
    assert (status, err) == (0, ""), (status, out, err)
    return [json.loads(line) for line in out.splitlines()]


def test_the_newest_points_with_exact_values(cli: Any, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir, segment_points=10) as session:
        for step in range(35):
            session.track("a").append(step=step, x=0.1 + 0.2, _ts=float(step))
        session.track("b").append(x=float("nan"), none=None, _ts=33.5)
    rows = lines(cli("tail", "run", "a", "-n", "12", "--path", lake_dir, "--json"))
    assert [row["index"] for row in rows] == list(range(23, 35))
    assert rows[0] == {"track": "a", "index": 23, "data": {"step": 23, "x": 0.1 + 0.2, "_ts": 23.0}}
    # Without a name: all tracks, by their time.
    rows = lines(cli("tail", "run", "-n", "2", "--path", lake_dir, "--json"))
    assert [(row["track"], row["index"]) for row in rows] == [("a", 33), ("b", 0), ("a", 34)]
    assert rows[1]["data"] == {"x": {"$numberDouble": "NaN"}, "none": None, "_ts": 33.5}
    assert lines(cli("tail", "run", "-n", "0", "--path", lake_dir)) == []
    assert len(lines(cli("tail", "run", "a", "-n", "1000", "--path", lake_dir, "--json"))) == 35


def test_points_as_text(cli: Any, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        session.track("a").append(step=3, loss=0.12345678, _ts=7.0)
        session.track("b/c").append(text="x\x1b[2J", _ts=1_700_000_000.25)
    assert cli("tail", "run", "a", "--path", lake_dir)[1] == "0  7  step=3 loss=0.12346\n"
    first, second = cli("tail", "run", "--path", lake_dir)[1].splitlines()
    assert first == "a  0  7  step=3 loss=0.12346"
    assert second.startswith("b/c  0  2023-11-1")
    assert second.endswith(".250  text=x�[2J")


def test_the_log(cli: Any, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        for number in range(30):
            session.log(f"line {number}", "warn" if number == 29 else "info", metadata={"n": number})
    shown = cli("tail", "run", "--log", "-n", "3", "--path", lake_dir)[1].splitlines()
    assert [line.split()[2:5] for line in shown] == [
        ["info", "line", "27"],
        ["info", "line", "28"],
        ["warn", "line", "29"],
    ]
    rows = lines(cli("tail", "run", "--log", "--json", "--path", lake_dir))
    assert [row["sequenceNumber"] for row in rows] == list(range(20, 30))
    assert rows[-1]["metadata"] == {"n": 29}


def test_mistakes(cli: Any, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        session.track("loss").append(x=1)
    for argv, said in (
        (["rum"], "is it 'w/run'?"),
        (["run", "los"], "is it 'loss'?"),
        (["run", "loss", "--log"], "name no track"),
        (["run", "-n", "-1"], "'-1'"),
        (["run", "-f", "--interval", "0"], "above 0"),
        (["run", "-f", "--interval", "nan"], "above 0"),
    ):
        status, out, err = cli("tail", *argv, "--path", lake_dir)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert said in err


def test_a_run_that_has_ended_is_followed_to_its_end(cli: Any, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        session.track("loss").append(x=1)
        session.log("done")
    assert len(lines(cli("tail", "run", "-f", "--interval", "0.01", "--json", "--path", lake_dir))) == 1
    assert len(lines(cli("tail", "run", "-f", "--log", "--interval", "0.01", "--json", "--path", lake_dir))) == 1


def test_a_run_that_was_killed_is_waited_for_as_long_as_asked(
    cli: Any, lake_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "SILENCE", 0.0)
    with Session("run", "w", lake_dir) as session:
        session.track("loss").append(x=1).flush()
        time.sleep(0.02)
        status, out, err = cli("tail", "run", "-f", "--interval", "0.01", "--patience", "0.1", "--path", lake_dir)
    assert (status, out.count("\n")) == (1, 1)
    first, second = err.splitlines()
    assert "still waiting" in first
    assert "gave up" in second


def test_a_run_that_is_removed_meanwhile(cli: Any, lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session("run", "w", lake_dir) as session:
        session.track("loss").append(x=1).flush()

        def remove(seconds: float) -> None:
            (lake_dir / "w" / "run" / "session.json").unlink()

        monkeypatch.setattr(tail.time, "sleep", remove)
        status, _, err = cli("tail", "run", "-f", "--path", lake_dir)
        assert (status, err) == (1, "dreamlake: w/run was removed while it was followed\n")


def test_what_the_network_kept_back_comes_later(cli: Any, lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that fails in the middle gives out neither too little nor anything twice."""
    from dreamlake.engine.snapshot import Snapshot

    with Session("run", "w", lake_dir) as session:
        session.track("a").append_batch([{"i": i} for i in range(5)])
    (lake_dir / "w/run/session.json").write_text(
        (lake_dir / "w/run/session.json").read_text().replace("finished", "running")
    )
    real, calls = Snapshot.points, []

    def append(seconds: float) -> None:
        if len(calls) == 1:
            with Session("run", "w", lake_dir) as session:
                session.track("a").append_batch([{"i": i} for i in range(5, 9)])

    def torn(self: Snapshot, start: int, stop: int) -> Any:
        calls.append(start)
        rows = real(self, start, stop)
        if len(calls) == 2:

            def half() -> Any:
                yield from rows[:2]
                raise TimeoutError("the network is away")

            return half()
        return rows

    monkeypatch.setattr(tail.time, "sleep", append)
    monkeypatch.setattr(Snapshot, "points", torn)
    status, out, err = cli("tail", "run", "-f", "--json", "--path", lake_dir)
    assert [json.loads(line)["data"]["i"] for line in out.splitlines()] == list(range(9))
    assert (status, err) == (0, "dreamlake: the network is away; still trying\n")


def follow(*argv: object) -> subprocess.Popen[bytes]:
    """Start to follow a run; returns once a first line has come, which is left out of what `ended` gives."""
    words = ["dreamlake.cli", "tail", *map(str, argv), "-f", "--interval", "0.05"]
    # Without a buffer: what readline had taken beyond the line, communicate would not see.
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", *words],
        bufsize=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=python_environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # a pipe gets what there is at once
    return process


def ended(process: subprocess.Popen[bytes], status: int = 0) -> list[dict[str, Any]]:
    with process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == status, err.decode()
    return [json.loads(line) for line in out.splitlines()]


def test_a_live_run_that_rolls_and_compacts(lake_dir: Path) -> None:
    """Every point once, in order, also of a track that begins later; it ends by itself."""
    with Session("run", "w", lake_dir, segment_points=20, flush_interval=0.02) as session:
        a = session.track("a")
        for step in range(50):
            a.append(step=step)
        session.flush()
        process = follow("run", "--path", lake_dir, "-n", "5", "--json")
        for step in range(50, 2000):
            a.append(step=step)
            if step == 1000:
                session.track("later").append(x=0)
            if step % 100 == 0:
                session.track("later").append(x=step)
                a.append(late=step, _ts=a.read(step - 90, 1)["data"][0]["data"]["_ts"])  # a later form of a segment
                time.sleep(0.02)
            if step % 400 == 0:
                a.compact()
    rows = ended(process)
    steps = [row["data"]["step"] for row in rows if row["track"] == "a"]
    assert steps == list(range(46, 2000))
    assert [row["index"] for row in rows if row["track"] == "later"] == list(range(20))


def test_the_traceback_of_a_run_that_failed(cli: Any, lake_dir: Path) -> None:
    with suppress(ValueError), Session("run", "w", lake_dir) as session:
        session.track("a").append(i=1)
        raise ValueError("bad \x1b[2J step")
    status, out, err = cli("tail", "run", "--log", "--path", lake_dir)
    first, *trace = out.splitlines()
    assert (status, err) == (0, "")
    assert first.endswith("error  the run failed: ValueError: bad \ufffd[2J step")
    assert trace[0] == "    Traceback (most recent call last):"
    assert trace[-1] == "    ValueError: bad \ufffd[2J step"
    shown = cli("show", "run", "--path", lake_dir)[1]
    assert "the run failed: ValueError" in shown
    assert "Traceback" not in shown


def test_a_log_that_is_followed(lake_dir: Path) -> None:
    with Session("run", "w", lake_dir, flush_interval=0.02) as session:
        session.log("line 0")
        session.flush()
        process = follow("run", "--log", "--path", lake_dir, "--json")
        for number in range(1, 200):
            session.log(f"line {number}")
            time.sleep(0.002)
    rows = ended(process)
    assert [row["message"] for row in rows] == [f"line {number}" for number in range(1, 200)]


def test_a_run_on_s3(lake_dir: Path, s3_url: str, s3_server: S3Server, tmp_path: Path) -> None:
    options = tmp_path / "options.json"
    options.write_text(json.dumps(s3_server.options()))
    with Session(
        "run", "w", lake_dir, segment_points=20, remote=s3_url, storage_options=s3_server.options(), sync_interval=0.1
    ) as session:
        track = session.track("a")
        track.append(step=0)
        session.sync()
        process = follow(f"{s3_url}/w/run", "--storage-options", f"@{options}", "--json")
        for step in range(1, 300):
            track.append(step=step)
            time.sleep(0.01)
    assert [row["data"]["step"] for row in ended(process)] == list(range(1, 300))


def test_ctrl_c_ends_it_with_130(lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        session.track("a").append(step=0).flush()
        process = follow("run", "--path", lake_dir, "--json")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"dreamlake: interrupted\n")


def test_who_reads_the_output_goes_away(lake_dir: Path) -> None:
    """It is no trouble with the network, and ends the command with the status of a broken pipe."""
    with Session("run", "w", lake_dir, flush_interval=0.05) as session:
        session.track("a").append(x=0).flush()
        with follow("run", "a", "--path", lake_dir, "--json") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            for x in range(1, 200):
                session.track("a").append(x=x)
                if process.poll() is not None:
                    break
                time.sleep(0.1)
            process.kill()  # changes nothing of one that has ended
            assert process.wait(60) == 141
            assert process.stderr.read() == b""


def test_a_track_that_is_not_there_yet_is_waited_for(cli: Any, lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session("run", "w", lake_dir).open()
    session.log("begins")
    session.flush()

    def append(seconds: float) -> None:
        if session.is_open:
            session.track("late").append(x=1)
            session.close()

    monkeypatch.setattr(tail.time, "sleep", append)
    status, out, err = cli("tail", "run", "late", "-f", "--json", "--path", lake_dir)
    assert [json.loads(line)["index"] for line in out.splitlines()] == [0]
    assert (status, err) == (0, "dreamlake: w/run has no track 'late' yet; waiting for it\n")
