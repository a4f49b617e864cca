"""What the processes of a crowd do: writers of all kinds, and readers, on one session; see `crowds`.

The director is a process that never opens a session. All others tell it what they do and see through a socket, at once,
so that it knows what was acknowledged to a process that was killed a moment later.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from histories import NEW, Eyes, Read, fields_of

from dreamlake import Lake, Session
from dreamlake.errors import SessionNotFoundError, TrackNotFoundError

NAME, WORKSPACE = "s", "w"
#: News of a read that one datagram to the director may hold.
MOST_NEWS = 2000


class Spec(NamedTuple):
    """What one episode is like; drawn from its seed, and made smaller for a test."""

    seed: int
    root: str
    #: The URL of the replica, and its storage options.
    remote: str | None
    options: dict[str, Any] | None
    tracks: int
    writers: tuple[str, ...]
    readers: int
    threads: int
    chunks: int
    kills: int
    stops: int
    segment_points: int
    flush_interval: float
    fsync: bool
    #: Which points get fields of other writers: "none", "hot" ones mostly, or "any", most of them in segments by then.
    shared: str
    #: Whether segments are merged meanwhile, and seconds for which superseded ones stay.
    compacts: bool
    grace: float
    #: The name of a defect that is planted in the library, see `campaigns.concurrency`.
    planted: str | None = None

    @classmethod
    def draw(cls, seed: int, root: str, s3: tuple[str, dict[str, Any]] | None = None, **fixed: Any) -> Spec:
        """An episode of this seed; `s3` is a URL below which replicas may be kept, and its storage options."""
        draw = Random(seed)
        kinds = ["plain", "sessions", "forks", "pool", "fresh"]
        writers = tuple(draw.choices(kinds, [6, 2, 3, 1, 1], k=draw.choice([2, 3, 4])))
        remotes: list[Any] = [(None, None), (f"file://{root}/there", None)]
        if s3 is not None:
            remotes.append((f"{s3[0]}/{seed}", s3[1]))
        remote, options = draw.choices(remotes, [6, 2, 2][: len(remotes)])[0]
        chosen = {
            "remote": remote,
            "options": options,
            "tracks": draw.choice([1, 1, 1, 2, 4]),
            "writers": writers,
            "readers": draw.choice([1, 2, 2]),
            "threads": draw.choice([1, 2, 3]),
            "chunks": draw.choice([10, 20, 40]),
            "kills": draw.choice([0, 0, 1, 2, 3]),
            "stops": draw.choice([0, 2, 5]),
            "segment_points": draw.choice([50, 50, 50, 20, 120, 400]),
            "flush_interval": draw.choice([0.002, 0.01, 0.1, 3600.0]),
            "fsync": draw.random() < 0.2,
            "shared": draw.choice(["none", "hot", "hot", "any", "any"]),
            "compacts": draw.random() < 0.5,
            "grace": draw.choice([60.0, 1.0]),
        }
        return cls(seed, root, **{**chosen, **fixed})

    def session(self) -> Session:
        """The session, as every writer opens it."""
        replica: dict[str, Any] = {}
        if self.remote is not None:
            replica = {"remote": self.remote, "storage_options": self.options, "sync_interval": 0.2}
        return Session(
            NAME,
            WORKSPACE,
            os.path.join(self.root, "here"),
            segment_points=self.segment_points,
            flush_interval=self.flush_interval,
            fsync=self.fsync,
            **replica,
        )

    def track_names(self) -> list[str]:
        """The tracks, some of them inside of others."""
        return ["a", "a/b", "c", "a/b/c"][: self.tracks]


class Teller:
    """The way to the director; any thread and any forked child may use it."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.connect(path)

    def __call__(self, *what: Any) -> None:
        """Tell the director something; returns when the kernel has it, whatever becomes of this process."""
        self.socket.send(json.dumps(what).encode())

    def read(self, place: str, track: str, read: Read) -> None:
        """Tell what was read."""
        for at in range(0, max(len(read.news), 1), MOST_NEWS):
            more = at + MOST_NEWS < len(read.news)
            self("read", place, track, [*read[:-1], read.news[at : at + MOST_NEWS]], more)


# -- writers ---------------------------------------------------------------------------------------------------------


class Writer:
    """One thread that writes: chunks of operations, each told before, and acknowledged when a flush has returned."""

    def __init__(self, spec: Spec, tell: Teller, name: str, session: Session) -> None:
        self.spec = spec
        self.tell = tell
        self.name = name
        self.session = session
        self.draw = Random(f"{spec.seed} {name}")
        self.done: dict[str, int] = defaultdict(int)
        self.eyes = {track: Eyes(f"{name} {track}") for track in spec.track_names()}
        #: Timestamps of points that were read, to which fields may be added.
        self.known: dict[str, list[float]] = defaultdict(list)

    def run(self, chunks: int) -> None:
        """Write so many chunks."""
        for chunk in range(chunks):
            track = self.draw.choice(self.spec.track_names())
            if self.draw.random() < 0.25:
                self._batch(track)
            else:
                self._append(track, chunk)
            end = self.draw.random()
            if end < 0.4:
                self.flush(track)
            elif end < 0.5:
                self._flush_all()
            elif end < 0.7:
                self._read(track)
            elif end < 0.75 and self.spec.remote is not None:
                self._flush_all(sync=True)
            elif end > 0.95 and self.spec.compacts:
                self._compact(track)

    def _plan(self, track: str, ops: list[float]) -> tuple[str, int]:
        """Tell of operations that are about to begin; their writer's name, and the number of the first."""
        writer, first = f"{self.name}.{track}", self.done[track]
        self.tell("do", track, writer, ops)
        self.done[track] += len(ops)
        return writer, first

    def _append(self, track: str, chunk: int) -> None:
        ops = [self._op(track, chunk) for _ in range(self.draw.choice([1, 5, 20, 60]))]
        writer, first = self._plan(track, ops)
        append = self.session.track(track).append
        for number, op in enumerate(ops, first):
            if op == NEW:
                append(**fields_of(writer, number))
            else:
                append(**{f"m{writer}": number}, _ts=op)

    def _op(self, track: str, chunk: int) -> float:
        """`NEW`, or the timestamp of a point that gets a field."""
        kind, shared = self.draw.random(), self.spec.shared
        if kind < 0.65 or shared == "none":
            return NEW
        if kind > 0.9 and self.known[track]:
            return self.draw.choice(self.known[track][-3:] if shared == "hot" else self.known[track])
        if shared == "hot":  # one that all writers come to at about the same time
            return 1000.0 + time.time() * 50 // 1 % 1e6 - self.draw.randrange(2)
        return 1000.0 + chunk * 3 + self.draw.randrange(15)

    def _batch(self, track: str) -> None:
        count = self.draw.choice([1, 3, 40, 130])
        writer, first = self._plan(track, [NEW] * count)
        rows = [fields_of(writer, number) for number in range(first, first + count)]
        given = {name: [row[name] for row in rows] for name in rows[0]} if self.draw.random() < 0.5 else rows
        result = self.session.track(track).append_batch(given)
        self.tell("ack", "here", track, writer, first + count, time.monotonic_ns())
        self.tell("batch", track, writer, first, count, result["startIndex"], result["endIndex"])

    def flush(self, track: str) -> None:
        """Flush a track, and acknowledge what this thread appended to it."""
        count = self.done[track]
        self.session.track(track).flush()
        self.tell("ack", "here", track, f"{self.name}.{track}", count, time.monotonic_ns())

    def _flush_all(self, sync: bool = False) -> None:
        counts = dict(self.done)
        if sync:
            self.session.sync(60.0)
        else:
            self.session.flush()
        self.acknowledge(counts, ["here", "there"] if sync else ["here"])

    def acknowledge(self, counts: dict[str, int], places: list[str]) -> None:
        """Tell what is safe now."""
        now = time.monotonic_ns()
        for track, count in counts.items():
            for place in places:
                self.tell("ack", place, track, f"{self.name}.{track}", count, now)

    def _compact(self, track: str) -> None:
        count = self.done[track]
        done = self.session.track(track).compact()
        self.tell("ack", "here", track, f"{self.name}.{track}", count, time.monotonic_ns())
        self.tell("compact", done["merged"], done["into"])

    def _read(self, track: str) -> None:
        """Read the end of a track as its writer, which flushes first."""
        count, begun = self.done[track], time.monotonic_ns()
        result = self.session.track(track).read(-self.draw.choice([1, 30, 200]), limit=None)
        ended = time.monotonic_ns()
        rows = [(point["index"], point["data"]) for point in result["data"]]
        self.tell("ack", "here", track, f"{self.name}.{track}", count, ended)
        self.tell.read("here", track, self.eyes[track].see(begun, ended, rows, result["total"]))
        self.known[track] = [point["_ts"] for _, point in rows if "w" in point]


def _threads(spec: Spec, tell: Teller, name: str, sessions: list[Session], chunks: int) -> list[Writer]:
    """Let a writer run in a thread of its own on each session; give them when they are done."""
    writers = [Writer(spec, tell, f"{name}{chr(97 + i)}", session) for i, session in enumerate(sessions)]
    failed: list[BaseException] = []

    def run(writer: Writer) -> None:
        try:
            writer.run(chunks)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return writers


def _close(spec: Spec, session: Session, writers: list[Writer]) -> None:
    session.close(60.0)
    for writer in writers:
        writer.acknowledge(dict(writer.done), ["here"] + ["there"] * (spec.remote is not None))


def plain(spec: Spec, tell: Teller, name: str) -> None:
    """Threads that share a session."""
    session = spec.session().open()
    _close(spec, session, _threads(spec, tell, name, [session] * spec.threads, spec.chunks))


def sessions(spec: Spec, tell: Teller, name: str) -> None:
    """Threads with a session of their own each, opened and closed again and again."""
    turns = 3
    for turn in range(turns):
        opened = [spec.session() for _ in range(spec.threads)]
        writers = _threads(spec, tell, f"{name}{turn}", opened, spec.chunks // turns)
        for session, writer in zip(opened, writers, strict=True):
            _close(spec, session, [writer])


def forks(spec: Spec, tell: Teller, name: str) -> None:
    """A process that forks while its threads append and flush; the children go on with the inherited session."""
    session = spec.session().open()
    draw = Random(f"{spec.seed} {name}")
    ended = threading.Event()
    writers: list[Writer] = []

    def run() -> None:
        try:
            writers.extend(_threads(spec, tell, name, [session] * spec.threads, spec.chunks))
        finally:
            ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    children = []
    for number in range(4):
        ended.wait(draw.random() * 0.1)
        pid = os.fork()
        if pid == 0:
            guard(lambda child=f"{name}f{number}": _child(spec, tell, child, session))
        children.append(pid)
    thread.join()
    for pid in children:
        assert os.waitpid(pid, 0)[1] in (0, signal.SIGKILL), f"the child {pid} failed"
    assert writers, "a thread failed"
    _close(spec, session, writers)


def _child(spec: Spec, tell: Teller, name: str, session: Session) -> None:
    writer = Writer(spec, tell, name, session)
    writer.run(4)
    leaves = writer.draw.choice(["exit", "exit", "flush", "close", "vanish"])
    if leaves == "flush":
        session.flush()
    elif leaves == "close":
        session.close(60.0)
    elif leaves == "exit":
        import atexit

        atexit._run_exitfuncs()
    if leaves != "vanish":
        writer.acknowledge(dict(writer.done), ["here"])


def pool(spec: Spec, tell: Teller, name: str) -> None:
    """Workers of a pool, as data loaders have them, beside a parent that appends; forked, with the session open."""
    import multiprocessing

    global _pooled
    session = spec.session().open()
    _pooled = (spec, tell, session)
    own = Writer(spec, tell, name, session)
    own.run(2)
    with multiprocessing.get_context("fork").Pool(3) as workers:
        results = [workers.apply_async(_pool_task, (f"{name}p{number}",)) for number in range(8)]
        own.run(spec.chunks)
        for result in results:
            result.get(60)
    _close(spec, session, [own])


_pooled: Any = None


def _pool_task(name: str) -> None:
    spec, tell, session = _pooled
    writer = Writer(spec, tell, name, session)
    writer.run(2)
    for track in list(writer.done):
        writer.flush(track)


# -- readers ---------------------------------------------------------------------------------------------------------


def reading(spec: Spec, tell: Teller, name: str) -> None:
    """Read in all ways until the writers are done."""
    draw = Random(f"{spec.seed} {name}")
    places: dict[str, Any] = {"here": Lake(os.path.join(spec.root, "here"))}
    if spec.remote is not None:
        places["there"] = Lake(spec.remote, spec.options)
    eyes = {(place, track): Eyes(f"{name} {place} {track}") for place in places for track in spec.track_names()}
    while not os.path.exists(os.path.join(spec.root, "stop")):
        place, track = draw.choice(list(eyes))
        begun = time.monotonic_ns()
        try:
            view = places[place].session(NAME, WORKSPACE).track(track)
            rows, total = _look(view, draw)
        except (SessionNotFoundError, TrackNotFoundError):  # not yet
            rows, total = [], 0
        ended = time.monotonic_ns()
        tell.read(place, track, eyes[place, track].see(begun, ended, rows, total))
        time.sleep(draw.choice([0.0, 0.0, 0.005, 0.03]))  # the writers need the processor too


def _look(view: Any, draw: Random) -> tuple[list[tuple[int, dict[str, Any]]], int]:
    way = draw.randrange(8)
    if way == 0:
        return [], len(view)
    if way == 1:
        return [], view.stats()["totalDataPoints"]
    if way <= 4:
        start = [0, -draw.choice([1, 60]), draw.randrange(2000)][way - 2]
        result = view.read(start, None if way < 4 else draw.choice([1, 70]))
        return [(point["index"], point["data"]) for point in result["data"]], result["total"]
    if way == 5:
        return _rows(view.to_arrow().to_pylist()), -1
    if way == 6:
        return _rows(view.scan().collect().to_dicts()), -1
    import polars as pl

    return _rows(view.scan().filter(pl.col("_index") >= draw.randrange(2000)).collect().to_dicts()), -1


def _rows(dicts: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for row in dicts:
        index = row.pop("_index")
        found.append((index, {name: value for name, value in row.items() if value is not None}))
    return found


KINDS: dict[str, Callable[[Spec, Teller, str], None]] = {
    "plain": plain,
    "sessions": sessions,
    "forks": forks,
    "pool": pool,
    "reading": reading,
}


def guard(work: Callable[[], None]) -> None:
    """Do the work of a forked process, and end it."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        sys.stderr.write(traceback.format_exc())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _shorten_grace(seconds: float) -> None:
    """Let superseded segments go so much earlier, for readers to meet that."""
    from dreamlake.engine import sweep

    real = sweep._replaced_before
    sweep._replaced_before = lambda folder, live, name, when: real(folder, live, name, when + seconds)


def main(kind: str, spec: Spec, name: str) -> None:
    """What a process of the crowd does; its complaints go to a file of its own."""
    errors = os.open(os.path.join(spec.root, f"{name}.err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 1)  # what the director was given is its own
    os.dup2(errors, 2)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    _shorten_grace(60.0 - spec.grace)
    if spec.planted is not None:
        from campaigns.concurrency import PLANTED

        PLANTED[spec.planted].plant()
    tell = Teller(os.path.join(spec.root, "socket"))
    KINDS[kind](spec, tell, name)
    tell.socket.close()
