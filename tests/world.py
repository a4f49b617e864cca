"""What the model test acts on: processes that die, a disk that fails, a replica behind a network that fails too."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import crashlib
from fsspec.implementations.memory import MemoryFileSystem
from model import Row, Spy, Time, spy_on
from support import MEMORY

import dreamlake.engine.compaction as compaction
import dreamlake.engine.lifecycle as lifecycle
import dreamlake.engine.roll as roll
import dreamlake.storage.local as local
import dreamlake.storage.lock as lock
from dreamlake import Session
from dreamlake.engine import away
from dreamlake.engine.overlay import OverlayStore
from dreamlake.engine.reader import TrackReader
from dreamlake.engine.replica.pace import Pace
from dreamlake.format import hot, layout, live
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Store

TRACKS = ["a", "a/b", "漢字"]
SESSION = layout.session_dir("w", "s")
FOREVER = 1e6

_numbers = itertools.count()


class Killed(BaseException):
    """The process is dead from here on."""


# -- disks ---------------------------------------------------------------------------------------------------------


def _die(name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    if name == "close":  # as the system does for a process that is gone
        return real()
    raise Killed


class HalfWritten(crashlib.Lasting):
    """The process dies in the middle of a write; before any other call."""

    def __init__(self, when: int) -> None:
        super().__init__(when, self._half)

    def _half(self, name: str, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if name in ("pwrite", "write") and len(self.names) == self.when:
            fd, data, *offset = args
            getattr(os, name)(fd, bytes(data)[: len(data) // 2], *offset)
        return _die(name, real, args)


class ShortWrite(crashlib.Short):
    """As `Short`, at the n-th write, whatever else is called: of a flush these are the lock's counter and the lines."""

    def is_due(self) -> bool:
        """Whether this call is to go wrong, or follows a short write."""
        writes = sum(name in ("pwrite", "write") for name in self.names)
        return self._continues or (writes == self.when and self.names[-1] in ("pwrite", "write"))


#: What can happen to the disk, or the process, at the n-th call that changes the disk.
DISK: dict[str, Callable[[int], crashlib.Seam]] = {
    "fail": lambda when: crashlib.Seam(when, crashlib.fail),
    "fail half": lambda when: crashlib.Short(when, crashlib.fail_done),
    "short write": lambda when: ShortWrite(1 + when % 4, crashlib.fail_done),
    "dead": lambda when: crashlib.Lasting(when, crashlib.fail),
    "kill": lambda when: crashlib.Lasting(when, _die),
    "kill half": HalfWritten,
}


@contextmanager
def disk_trouble(kind: str, when: int) -> Iterator[None]:
    """Let a call go wrong in the block; every call works again after it."""
    try:
        DISK[kind](when).install()
        yield
    finally:
        local.os_ = lock.os_ = os


# -- the network ---------------------------------------------------------------------------------------------------

#: What can happen at the n-th request to the replica, and at those after it.
NETWORK = ["error", "lost reply", "dead", "dead after it", "kill", "kill after it"]


class Shaky(RemoteStore):
    """A replica's store behind a network that fails on demand; requests go one after the other, in a known order."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.is_dead = False
        self._kind, self._when, self._calls = "", 0, 0

    width = 1  # type: ignore[assignment]

    @contextmanager
    def trouble(self, kind: str, when: int) -> Iterator[None]:
        """Let a request go wrong in the block."""
        self._kind, self._when, self._calls = kind, when, 0
        try:
            yield
        finally:
            self._kind = ""
            local.os_ = lock.os_ = os

    def _do(self, path: str, work: Callable[[Any], Any]) -> Any:
        self._calls += 1
        past = self._calls - self._when
        lasting = self._kind.startswith(("dead", "kill"))
        if self.is_dead or (self._kind and (past == 0 or (past > 0 and lasting))):
            if past == 0 and not self.is_dead and self._kind.endswith(("reply", "after it")):
                super()._do(path, work)
            if self._kind.startswith("kill"):
                DISK["kill"](1).install()  # nothing more comes to the disk either
                raise Killed
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET), self.describe(path))
        return super()._do(path, work)


# -- processes -----------------------------------------------------------------------------------------------------


class Process:
    """A process that writes the session: it shares nothing with others in this interpreter but the disk."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sessions: list[Session] = []
        self._begin()

    def _begin(self) -> None:
        self.state = lifecycle._Process()
        #: What was appended and not flushed, by track.
        self.pending: dict[str, list[Row]] = {name: [] for name in TRACKS}
        #: The timestamp of the latest append.
        self.latest: float | None = None
        self.clock: Spy

    @contextmanager
    def running(self) -> Iterator[None]:
        """In the block this is the process that opens, closes and forks."""
        before, lifecycle._process = lifecycle._process, self.state
        try:
            yield
        finally:
            lifecycle._process = before

    @property
    def session(self) -> Session:
        """The session that was opened last."""
        return self.sessions[-1]

    @property
    def is_open(self) -> bool:
        """Whether it can append."""
        return bool(self.sessions) and self.session.is_open

    def open(self) -> None:
        """Open the session, also once more."""
        self.sessions.append(self.world.session())
        self.reopen()

    def reopen(self) -> None:
        """Open the session that was closed."""
        with self.running():
            self.session.open()
        assert self.session.root is not None
        self.world.root = self.session.root
        self.clock = spy_on(self.session, self.world.time, inherits=True)

    def close(self, which: int = -1) -> None:
        """Close a session."""
        with self.running():
            self.sessions[which].close()

    def die(self) -> None:
        """End as by kill -9: what is in memory is gone."""
        for writer, _ in list(self.state.writers.values()):
            if writer.replica is not None:
                writer.replica._stop = True
                writer.replica.thread.stop(60.0)
            writer.thread.stop(60.0)
        self.sessions.clear()
        self._begin()

    def held_rows(self, name: str) -> list[tuple[float, bool]]:
        """The rows that the writer of this process holds of a track: timestamps, and whether each is automatic."""
        found: list[tuple[float, bool]] = []
        for writer, _ in self.state.writers.values():
            pending = writer.track(name).pending
            for block in crashlib.blocks(pending)[::-1]:
                rows = block.encode()
                if block is pending.open:
                    block.ready = None  # what it was encoded to lacks the rows that are still to come
                found += [(ts, not explicit) for ts, explicit, _ in (rows.mixed() if rows else block.rows or [])]
        return found

    def fork(self, work: Callable[[Session], Any]) -> Any:
        """What `work` returns in a forked child, which ends without closing anything."""
        reading, writing = os.pipe()
        with self.running(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which is what is tested
            pid = os.fork()
        if pid == 0:
            try:
                told: Any = True, work(self.session)
            except BaseException:
                told = False, traceback.format_exc()
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(pickle.dumps(told))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answers:
            told = answers.read()
        os.waitpid(pid, 0)
        well, answer = pickle.loads(told)
        assert well, answer
        return answer


# -- the world -----------------------------------------------------------------------------------------------------


class World:
    """One session's disk, its replica, and the time.

    Parameters
    ----------
    kind
        ``"local"``, ``"replica"``, or ``"temporary"``: nothing is kept on the local disk but what is not yet there.
    options
        Of the session.
    """

    def __init__(self, kind: str, **options: Any) -> None:
        self.kind = kind
        self.options = options
        self.time = Time()
        self.folder = tempfile.mkdtemp(prefix="dreamlake-test-", dir=MEMORY)
        self._before = tempfile.tempdir, Pace.wait, compaction.FACTOR, roll.FACTOR, roll.USUAL_POINTS
        tempfile.tempdir = self.folder  # that of temporary sessions too
        compaction.FACTOR = roll.FACTOR = 2  # tracks are short here
        roll.USUAL_POINTS = 0
        Pace.wait = lambda self: FOREVER  # type: ignore[method-assign]  # no pass but those that are asked for
        self.begin_anew()

    def begin_anew(self) -> None:
        """Take an empty disk and an empty replica."""
        number = next(_numbers)
        self.root = os.path.join(self.folder, str(number))
        self.bucket = f"model-{os.getpid()}-{number}"
        self.there: Store | None = None
        if self.kind != "local":
            self.there = RemoteStore(self.url)
            self.network = Shaky(self.url)

    @property
    def url(self) -> str:
        """Of the replica."""
        return f"memory://{self.bucket}"

    def end(self) -> None:
        """Remove everything."""
        tempfile.tempdir, Pace.wait, compaction.FACTOR, roll.FACTOR, roll.USUAL_POINTS = self._before  # type: ignore[method-assign]
        shutil.rmtree(self.folder)
        for paths in (MemoryFileSystem.store, MemoryFileSystem.pseudo_dirs):
            for path in [path for path in paths if path.startswith("/model-")]:
                (paths.pop if isinstance(paths, dict) else paths.remove)(path)
        lifecycle._disarm()

    def session(self) -> Session:
        """The session, not opened yet."""
        kept = None if self.kind == "temporary" else self.root
        remote = {} if self.kind == "local" else {"remote": self.url, "sync_interval": FOREVER}
        session = Session("s", "w", kept, flush_interval=FOREVER, **remote, **self.options)  # type: ignore[arg-type]
        if session._remote is not None:
            session._remote._store = self.network
        return session

    def lose_disk(self) -> None:
        """Go on with an empty disk."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root = os.path.join(self.folder, str(next(_numbers)))

    # -- looking from outside --------------------------------------------------------------------------------------

    def store(self) -> Store:
        """The local side as its own readers see it, whatever is away."""
        here = LocalStore(self.root)
        there = self.there
        return here if there is None else OverlayStore(here, lambda: there)  # type: ignore[return-value]

    def points(self, name: str) -> list[dict[str, Any]]:
        """The points of a track that are stored here."""
        return points_in(self.store(), name)

    def points_there(self, name: str) -> list[dict[str, Any]]:
        """The points of a track on the replica."""
        assert self.there is not None
        return points_in(self.there, name)

    def waiting_stamps(self, name: str) -> list[float]:
        """The timestamps of the rows that wait for segments which are away, one a row."""
        if self.kind == "local":
            return []
        path = os.path.join(self.track_folder(name), layout.LATE_FILE)
        return [fields["_ts"] for fields in hot.parse(local.read_if_there(path), path=path).points]

    def may_wait(self, name: str) -> Callable[[float], bool]:
        """Whether a row of this explicit timestamp would wait if it were flushed now."""
        if self.kind == "local":
            return lambda ts: False
        folder = self.track_folder(name)
        here = set(live.parse_listing(os.listdir(folder) if os.path.isdir(folder) else []))
        waiting = set(self.waiting_stamps(name))
        records = away.read(folder)
        segments = []
        for segment in live.survey(here | records.keys())[0]:
            if segment not in here:
                column = away.stamps(folder, segment)
                segments.append((records[segment].bounds, None if column is None else set(column)))

        def may_wait(ts: float) -> bool:
            return ts in waiting or any(
                bounds.ts_min <= ts <= bounds.ts_max and (column is None or ts in column) for bounds, column in segments
            )

        return may_wait

    def has_away(self) -> bool:
        """Whether any segment of the session is only on the replica."""
        return any(os.path.exists(os.path.join(self.track_folder(name), layout.AWAY_FILE)) for name in TRACKS)

    def track_folder(self, name: str) -> str:
        """The folder of a track here."""
        return os.path.join(self.root, *SESSION.split("/"), *layout.track_dir(name).split("/"))


def points_in(store: Store, name: str) -> list[dict[str, Any]]:
    """The points of a track, as a reader finds them that knows nothing yet."""
    snapshot = TrackReader(store, f"{SESSION}/{layout.track_dir(name)}", name).snapshot()
    found = snapshot.points(0, snapshot.total)
    assert [index for index, _ in found] == list(range(snapshot.total))
    return [fields for _, fields in found]
