"""Processes that do what is drawn to a session until they are killed, in the ways that are drawn."""

from __future__ import annotations

import os
import random
import selectors
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import crashlib
import deaths
from actors import SECOND, TRACK, Actor
from promises import Teller

from dreamlake import Session
from dreamlake.engine import sweep
from dreamlake.engine.replica import tracks

TRACKS = (TRACK, SECOND, "robot/höhe [m]")


class Plan(NamedTuple):
    """How one process lives and dies; all of it is drawn.

    Parameters
    ----------
    options
        Of its session.
    threads
        How many write.
    death
        ``time``: after so many seconds; ``stop``, ``stop half``, ``request`` or ``done``: at its so manieth disk call,
        or request; ``none``: it ends by itself.
    when
        See `death`.
    grace
        Seconds that superseded segments stay.
    seed
        Of what it does.
    """

    options: dict[str, Any]
    threads: int
    death: str
    when: float
    grace: float
    seed: int


def draw_plan(draw: random.Random, kind: str, death: str = "") -> Plan:
    """Draw how a process lives and dies, the latter if it is not told."""
    remote = kind in ("replica", "keeps nothing")
    options: dict[str, Any] = {
        "segment_points": draw.choice([5, 10, 50, 200]),
        "flush_interval": draw.choice([0.003, 0.02, 0.2, 5.0]),
        "fsync": draw.random() < 0.2,
    }
    if remote:
        options |= {"replica": True, "trims": kind == "keeps nothing", "sync_interval": draw.choice([0.02, 0.3, 10.0])}
    ways = ["time", "stop", "stop half"] + ["request", "done"] * remote
    death = death or (draw.choice(ways) if draw.random() < 0.96 else "none")
    most = {"time": 0.25, "stop": 400, "stop half": 120, "request": 40, "done": 40, "none": 1}[death]
    when = most ** draw.random() if death != "time" else draw.uniform(0.0, most)
    return Plan(options, draw.choice([1, 1, 1, 2, 3]), death, when, draw.choice([2.0, 60.0]), draw.randrange(1 << 30))


def die(name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Be killed before a disk call."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def die_half(name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Be killed in the middle of a write; before any other call."""
    if name in ("pwrite", "write"):
        fd, data, *offset = args
        getattr(os, name)(fd, bytes(data)[: len(data) // 2], *offset)
    die(name, real, args)


def arm(plan: Plan) -> None:
    """See that this process is killed when its time has come, if that is a call."""
    sweep.GRACE = tracks.GRACE = plan.grace
    if plan.death in ("stop", "stop half"):
        crashlib.Seam(int(plan.when), die if plan.death == "stop" else die_half).install()
    elif plan.death in ("request", "done"):
        requests = deaths.Requests(int(plan.when), "stop" if plan.death == "request" else "done")
        requests.end = lambda: die("", lambda: None, ())
        requests.install()


class Life:
    """What one process does until it is killed.

    Parameters
    ----------
    folder
        Of the history.
    name
        Of the process.
    teller
        To whom it is told.
    first, step
        The ids that it may use.
    known
        Timestamps that fields can be added to.
    """

    def __init__(
        self, folder: str, name: str, plan: Plan, teller: Teller, first: int, step: int, known: dict[str, list[float]]
    ) -> None:
        self.plan = plan
        self.step = step * plan.threads
        self.actors = [
            Actor(folder, teller, f"{name}{place}", first + place * step, known, self.step)
            for place in range(plan.threads)
        ]

    def run(self) -> None:
        """Open the session, write to it from all threads, and close it."""
        draw = random.Random(self.plan.seed)
        first = self.actors[0]
        opened = (first.describe_session if draw.random() < 0.3 else first.open)(**self.plan.options)
        failed: list[BaseException] = []

        def write(actor: Actor, draw: random.Random) -> None:
            try:
                for _ in range(150):
                    self.act(actor, opened, draw)
            except BaseException as error:
                traceback.print_exc()
                failed.append(error)

        rest = [
            threading.Thread(target=write, args=(actor, random.Random(draw.random())), daemon=True)
            for actor in self.actors[1:]
        ]
        for thread in rest:
            thread.start()
        write(first, draw)
        for thread in rest:
            thread.join()
        if failed:
            raise failed[0]
        for actor in self.actors[1:]:
            actor.flush(opened)
        first.close(opened, bool(self.plan.options.get("replica")))

    def act(self, actor: Actor, opened: Session, draw: random.Random) -> None:
        """Do one thing."""
        track = draw.choice(TRACKS) if draw.random() < 0.4 else TRACK
        kind = draw.random()
        known = actor.known.get(track)
        if kind < 0.5:
            actor.points(opened, draw.randrange(1, 12), draw.random() < 0.5, track)
        elif kind < 0.66 and known:
            actor.late(opened, draw.choice([-1, 0, draw.randrange(-len(known), 0)]), track)
        elif kind < 0.76:
            self.batch(actor, opened, draw, track)
        elif kind < 0.8:
            actor.log(opened)
        elif kind < 0.82:
            actor.parameter(opened)
        elif kind < 0.84:
            actor.describe(opened, track)
        elif kind < 0.87:
            actor.compact(opened, track)
        elif kind < 0.94:
            actor.flush(opened, draw.choice(["", track]))
        elif kind < 0.96:
            opened.track(track).read(limit=5)
            actor.teller.acknowledge("flush", actor.name, track)
        elif self.plan.options.get("replica"):
            actor.sync(opened)

    def batch(self, actor: Actor, opened: Session, draw: random.Random, track: str) -> None:
        """Append a batch, in one of its forms; it is flushed when this returns."""
        form = draw.choice(["dicts", "columns", "table", "batch"])
        rows = [actor.fields(draw.random() < 0.5, track) for _ in range(draw.choice([1, 3, 20, 70]))]
        points: Any = rows
        if form != "dicts":
            explicit = draw.random() < 0.5
            rows = [
                {"id": row["id"], "v": row["v"]} | ({"_ts": 1000.0 + row["id"]} if explicit else {}) for row in rows
            ]
            points = {name: [row[name] for row in rows] for name in rows[0]}
        if form in ("table", "batch"):
            import pyarrow

            points = (pyarrow.table if form == "table" else pyarrow.RecordBatch.from_pydict)(points)
        actor.known[track] = [ts for ts in actor.known.get(track, []) if ts < 1000.0 + rows[0]["id"]]
        actor.known[track] += [row["_ts"] for row in rows if "_ts" in row]
        if not actor.batch(opened, rows, points, track):  # some rows wait for a segment that is away
            assert self.plan.options.get("replica"), "a batch was not written"
            actor.flush(opened, track)


def start(life: Life, plant: Callable[[], None]) -> tuple[int, int]:
    """Fork a process that lives; its id, and what it tells."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        for actor in life.actors:
            actor.teller = Teller(writing)
        shared = life.actors[0].teller
        for actor in life.actors:
            actor.teller = shared
        plant()
        arm(life.plan)
        life.run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def watch(started: list[tuple[int, int, Plan]]) -> list[tuple[int, list[bytes]]]:
    """Listen to processes, and kill those whose time has come; their exit statuses, and what they told."""
    told: dict[int, bytearray] = {reading: bytearray() for _, reading, _ in started}
    due: dict[int, float] = {}
    left = {reading: (pid, plan) for pid, reading, plan in started}
    latest = time.monotonic() + 120
    with selectors.DefaultSelector() as ready:
        for reading in left:
            ready.register(reading, selectors.EVENT_READ)
        while left:
            wait = min(due.values(), default=latest) - time.monotonic()
            for key, _ in ready.select(max(0.0, wait)):
                reading = key.fd
                data = os.read(reading, 1 << 16)
                told[reading] += data
                if not data:
                    ready.unregister(reading)
                    del left[reading]
                    due.pop(reading, None)
                elif reading in left and reading not in due and left[reading][1].death == "time":
                    due[reading] = time.monotonic() + left[reading][1].when
            now = time.monotonic()
            for reading in [reading for reading in left if due.get(reading, latest) <= now]:
                os.kill(left[reading][0], signal.SIGKILL)
                due[reading] = now + 120
    ended = []
    for pid, reading, _ in started:
        os.close(reading)
        ended.append((os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), bytes(told[reading]).splitlines(keepends=True)))
    return ended
