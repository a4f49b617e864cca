"""Runs with a replica that die at any moment, on machines that keep their disks or lose them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deaths
import pytest
from crashlib import in_thread
from deathscenes import SCENES
from machines import SESSION, Machine, below, points
from s3.proxy import Fault, Proxy
from s3.server import S3Server
from support import one_in, python_environment

from dreamlake import Lake, errors
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.storage.remote import RemoteStore

#: Kills in one history.
CYCLES = 4
#: Of the calls and requests of a scene only every so manieth goes wrong; the campaign ``strace`` tries all of them.
STRIDE = one_in(25)

RUN = textwrap.dedent("""
    import json, random, sys
    from dreamlake import Session

    url, options, root, first, seed = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
    chance = random.Random(seed)
    number = first
    local = None if root == "-" else root
    with Session("s", "w", local, remote=url, storage_options=options, segment_points=10, sync_interval=0.02,
                 flush_interval=0.01) as session:
        while True:
            for _ in range(chance.randrange(1, 15)):
                session.track(f"t{number % 3}").append(n=number, _ts=float(number))
                if number % 7 == 0 and number - 30 >= first:  # a late field, for a point that may be anywhere by now
                    session.track(f"t{(number - 30) % 3}").append(late=number, _ts=float(number - 30))
                number += 1
            if chance.random() < 0.5:
                session.flush()
                print("flushed", number, flush=True)
            else:
                session.sync()
                print("synced", number, flush=True)
""")


class History:
    """What a run that is killed again and again has acknowledged.

    Parameters
    ----------
    url, options
        Its replica.
    seed
        Of all that is drawn.
    """

    def __init__(self, url: str, options: dict[str, Any], seed: int) -> None:
        self.url = url
        self.options = options
        self.chance = random.Random(seed)
        #: Points that were flushed, and those that were synced: all below these numbers.
        self.flushed = self.synced = 0
        self.next = 0
        #: The numbers of acknowledged points.
        self.numbers: set[int] = set()
        self.lakes: list[Lake] = []

    def lake(self) -> Lake:
        """A reader of the replica."""
        self.lakes.append(Lake(self.url, self.options))
        return self.lakes[-1]

    def run_and_kill(self, root: str) -> None:
        """Let it run on for a moment, and kill it."""
        args = [self.url, json.dumps(self.options), root, str(self.next), str(self.chance.random())]
        with subprocess.Popen(
            [sys.executable, "-c", RUN, *args], stdout=subprocess.PIPE, env=python_environment(), text=True
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first, "it ended by itself"
            timer = threading.Timer(self.chance.uniform(0.0, 0.4), process.kill)
            timer.start()
            for line in (first, *process.stdout):
                if line.endswith("\n"):
                    what, number = line.split()
                    self.flushed = max(self.flushed, int(number))
                    if what == "synced":
                        self.synced = max(self.synced, int(number))
            timer.join()
        # Numbers that may have been used already are not used again, so that every point is told from every other.
        self.next = self.flushed + 1000

    def check(self, lake: Lake, acknowledged: int) -> None:
        """Every acknowledged point is there once, with its late field; the others once at most; indices have no gap."""
        view = lake.session("s", "w")
        seen: set[int] = set()
        for name in view.tracks.list():
            points = view.track(name).read(limit=None)["data"]
            assert [point["index"] for point in points] == list(range(len(points)))
            numbers = [point["data"]["n"] for point in points if "n" in point["data"]]
            assert len(numbers) == len(set(numbers)), f"{name} holds a point twice"
            assert all(point["data"]["n"] == point["data"]["_ts"] for point in points if "n" in point["data"])
            seen |= set(numbers)
            late = [point["data"] for point in points if "late" in point["data"]]
            assert all(data["late"] == data["_ts"] + 30 for data in late)
            assert len(points) == len(numbers), f"{name} holds a late field without its point"
        missing = {number for number in self.numbers if number < acknowledged} - seen
        assert not missing, f"{len(missing)} acknowledged points are missing, the first is {min(missing)}"


@pytest.mark.parametrize("scene", [name for name, scene in SCENES.items() if scene.replica])
def test_a_death_or_a_fault_at_any_call_and_request(memory_path: Path, scene: str) -> None:
    cut_off, wrong = deaths.run_sweep(memory_path, scene, STRIDE)
    assert cut_off > 5
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("left", [b"", b'{"index":0,"data":{"n'], ids=["created", "torn"])
def test_a_death_at_the_first_late_field_that_waits(tmp_path: Path, left: bytes) -> None:
    store = RemoteStore(f"file://{tmp_path}/there")
    machine = Machine(tmp_path / "lake", store).write(points(0, 25)).push()
    (machine.folder / below("loss") / ".late.jsonl").write_bytes(left)
    assert sync_folder(str(machine.folder), SESSION, store).complete
    store.close()


@pytest.fixture
def history(s3_url: str, s3_server: S3Server) -> Iterator[History]:
    made = History(s3_url, s3_server.options(), 7)
    yield made
    for lake in made.lakes:
        lake._store.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_on_a_machine_that_keeps_its_disk(history: History, memory_path: Path, seed: int) -> None:
    history.chance.seed(seed)
    root = memory_path / "lake"
    store = RemoteStore(history.url, history.options)
    lake = history.lake()
    for _ in range(CYCLES):
        first = history.next
        history.run_and_kill(str(root))
        history.numbers |= set(range(first, history.flushed))
        history.check(Lake(root), history.flushed)
        history.check(lake, history.synced)
        if history.chance.random() < 0.5:
            outcome = sync_folder(str(root / "w/s"), "w/s", store)
            assert not outcome.failures
            assert outcome.complete
            history.check(lake, history.flushed)
    assert sync_folder(str(root / "w/s"), "w/s", store).complete
    history.check(lake, history.flushed)
    assert len(history.numbers) > 50
    store.close()


@pytest.mark.parametrize("seed", [3, 4])
def test_kills_on_machines_that_lose_their_disks(history: History, memory_path: Path, seed: int) -> None:
    history.chance.seed(seed)
    lake = history.lake()
    for number in range(CYCLES):
        first = history.next
        root = memory_path / f"disk{number}"
        history.run_and_kill(str(root))
        history.numbers |= set(range(first, history.synced))
        shutil.rmtree(root)
        history.check(lake, history.synced)
    assert len(history.numbers) > 20


def test_kills_with_lost_replies_and_readers(
    history: History, s3_proxy: Proxy, s3_server: S3Server, tmp_path: Path
) -> None:
    chance = random.Random(5)
    faults = (Fault.LOST_REPLY, Fault.RESET, Fault.SLOW_DOWN)
    s3_proxy.plan = lambda request: chance.choice(faults) if chance.random() < 0.1 else None
    direct = history.lake()
    history.options = s3_server.options(s3_proxy.endpoint)
    ended = False
    wrong: list[BaseException] = []

    def watch() -> None:
        longest = 0
        while not ended:
            try:
                found = direct.session("s", "w").track("t0").read(limit=None)["data"]
                assert [point["index"] for point in found] == list(range(len(found)))
                assert len(found) >= longest
                longest = len(found)
            except (errors.SessionNotFoundError, errors.TrackNotFoundError):
                time.sleep(0.01)
            except BaseException as error:
                wrong.append(error)
                return

    reader = in_thread(watch)
    root = tmp_path / "lake"
    for _ in range(CYCLES):
        first = history.next
        history.run_and_kill(str(root))
        history.numbers |= set(range(first, history.flushed))
    s3_proxy.plan = lambda request: None
    store = RemoteStore(history.url, history.options)
    assert sync_folder(str(root / "w/s"), "w/s", store).complete
    ended = True
    reader.join(30)
    assert wrong == []
    history.check(direct, history.flushed)
    store.close()
