"""Power cuts: every disk operation of a scene is recorded, and what any cut may leave of it is built and looked at.

The model knows two kinds of nodes. A file has bytes, which last from an fsync of the file on; a folder has names, which
last from an fsync of the folder on. Of what was done since, a cut may keep anything: see `POLICIES`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self
from unittest import mock

import dreamlake.engine.replica.pace as pace
import dreamlake.engine.replica.pull as pull
import dreamlake.engine.replica.push as push
import dreamlake.storage.local as local
import dreamlake.storage.lock as lock
from dreamlake.storage.plain import PlainFiles

SECTOR = 512
#: Where the replicas of scenes are: on another machine, whose power stays.
THERE = "memory://powerloss"
#: What a replica holds: by path, the bytes and the time that tells one version from another.
Replica = dict[str, tuple[bytes, datetime]]


class Op(NamedTuple):
    """One operation on one node.

    ``write`` (offset, bytes), ``size`` (length), ``fsync``, ``failed`` (an fsync that did), ``name`` (name, and node or
    None) and ``rename`` ((old, new), node).
    """

    kind: str
    node: int
    what: Any = None
    value: Any = None


class Mark(NamedTuple):
    """What a flush that returned had on disk, and how many of the operations had been done by then."""

    place: int
    #: By track: the points, and how many of these must last.
    points: dict[str, tuple[list[dict[str, Any]], int]]
    #: Everything else that must last: messages of the log, parameters, what session.json says.
    others: dict[str, Any]
    #: As `points`, of what must be there once the session was opened and synced; None where that is the same.
    settled: dict[str, tuple[list[dict[str, Any]], int]] | None = None
    #: By track: the points with all that was flushed, whether it has to last or not.
    flushed: dict[str, list[dict[str, Any]]] | None = None
    #: The parameters that the replica must have.
    parameters: Mapping[str, Any] = MappingProxyType({})

    def forms(self, track: str, index: int) -> list[dict[str, Any]]:
        """The forms in which a point may be met."""
        lists = [self.points.get(track, ([], 0))[0], (self.settled or {}).get(track, ([], 0))[0]]
        lists.append((self.flushed or {}).get(track, []))
        return [points[index] for points in lists if index < len(points)]

    def count(self, track: str) -> int:
        """How many points there were."""
        return max(len(self.points.get(track, ([], 0))[0]), len((self.flushed or {}).get(track, [])))


class Recorder:
    """Stands in for ``os`` where the library changes the disk, and writes down what is done below one folder."""

    def __init__(self, root: str | Path, failing: tuple[int, ...] = (), scene: str = "") -> None:
        self.root = os.path.realpath(root)
        self.scene = scene
        self.ops: list[Op] = []
        #: What the replica held, from so many operations on.
        self.replica: list[tuple[int, Replica]] = [(0, replica_now())]
        self.marks: list[Mark] = []
        #: Which fsyncs fail, counted from 1.
        self.failing = failing
        self.fsyncs = 0
        #: The nodes by folder and name; the root is 0.
        self.names: dict[tuple[int, str], int] = {}
        self.folders = {0}
        self._fds: dict[int, int] = {}
        self._count = 1
        self._lock = threading.RLock()
        self._take_in(self.root, 0)
        #: Operations that stand for what was there before.
        self.begin = len(self.ops)

    def _take_in(self, path: str, node: int) -> None:
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            child = self._made(node, entry.name, entry.is_dir())
            if entry.is_dir():
                self._take_in(entry.path, child)
            else:
                self.ops += [Op("write", child, 0, Path(entry.path).read_bytes()), Op("fsync", child)]
        self.ops.append(Op("fsync", node))

    def __enter__(self) -> Self:
        self._patched = ExitStack()
        put = self._patched.enter_context
        for module in (local, lock):
            put(mock.patch.object(module, "os_", self))
        assert pull.side_by_side is push.side_by_side  # both are imported, and what they need
        for name, module in list(sys.modules.items()):
            if name.startswith("dreamlake.") and hasattr(module, "side_by_side"):  # the same order every time
                put(mock.patch.object(module, "side_by_side", lambda work, items, width: [work(i) for i in items]))
        put(mock.patch.object(pace, "BREATH", 3600.0))  # the replica is brought up to date when a scene says so
        for name in ("put", "put_if", "put_if_unchanged", "put_file", "delete"):
            put(mock.patch.object(PlainFiles, name, self._noting(getattr(PlainFiles, name))))
        return self

    def __exit__(self, *error: object) -> None:
        self._patched.close()

    def _noting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """A request that changes the replica, of which is noted what it has done."""

        def request(*args: Any, **kwargs: Any) -> Any:
            made = real(*args, **kwargs)
            with self._lock:
                self.replica.append((len(self.ops), replica_now()))
            return made

        return request

    def replica_at(self, place: int, draw: random.Random) -> Replica:
        """What the replica may have held before an operation: requests between two of them are done or not."""
        before = [held for number, held in self.replica if number < place][-1:]
        return draw.choice([*before, *(held for number, held in self.replica if number == place)])

    # -- the calls -------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        with self._lock:
            fd = os.open(path, flags, mode)
            where = self._where(path)
            if where is not None:
                node = self.names.get(where) if where[1] else 0
                self._fds[fd] = self._made(*where, False) if node is None else node
            return fd

    def close(self, fd: int) -> None:
        with self._lock:
            self._fds.pop(fd, None)
            os.close(fd)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        with self._lock:
            count = os.pwrite(fd, data, offset)
            self._note(fd, "write", offset, bytes(data)[:count])
            return count

    def ftruncate(self, fd: int, size: int) -> None:
        with self._lock:
            os.ftruncate(fd, size)
            self._note(fd, "size", size)

    def fsync(self, fd: int) -> None:
        """The bytes are not really forced to the disk, which would only take time."""
        with self._lock:
            self.fsyncs += 1
            fails = self.fsyncs in self.failing
            self._note(fd, "failed" if fails else "fsync")
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def mkdir(self, path: str) -> None:
        with self._lock:
            os.mkdir(path)
            where = self._where(path)
            if where is not None:
                self._made(*where, True)

    def link(self, old: str, new: str) -> None:
        with self._lock:
            os.link(old, new)
            self._name(new, self.names[self._known(old)])

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            os.rename(old, new)
            source, target = self._known(old), self._known(new)
            assert source[0] == target[0], "a rename from one folder to another"
            self.names[target] = self.names.pop(source)
            self.ops.append(Op("rename", source[0], (source[1], target[1]), self.names[target]))

    replace = rename

    def unlink(self, path: str) -> None:
        with self._lock:
            os.unlink(path)
            self._name(path, None)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    # -- what they did ---------------------------------------------------------------------------------------------

    def mark(self, points: dict[str, tuple[list[dict[str, Any]], int]], others: dict[str, Any], **more: Any) -> None:
        """Note what a flush that returned has acknowledged."""
        with self._lock:
            self.marks.append(Mark(len(self.ops), points, others, **more))

    def _where(self, path: str) -> tuple[int, str] | None:
        """The folder's node and the name of a path; None outside of the root, and no name for the root itself."""
        full = os.path.abspath(path)
        if full == self.root:
            return 0, ""
        if not full.startswith(self.root + os.sep):
            return None
        node = 0
        *above, name = full[len(self.root) + 1 :].split(os.sep)
        for each in above:
            node = self.names[node, each]
        return node, name

    def _known(self, path: str) -> tuple[int, str]:
        where = self._where(path)
        assert where is not None
        return where

    def _made(self, folder: int, name: str, is_folder: bool) -> int:
        node = self._count
        self._count += 1
        if is_folder:
            self.folders.add(node)
        self.names[folder, name] = node
        self.ops.append(Op("name", folder, name, node))
        return node

    def _name(self, path: str, node: int | None) -> None:
        where = self._where(path)
        if where is None:
            return
        if node is None:
            self.names.pop(where)
        else:
            self.names[where] = node
        self.ops.append(Op("name", *where, node))

    def _note(self, fd: int, kind: str, what: Any = None, value: Any = None) -> None:
        if fd in self._fds:
            self.ops.append(Op(kind, self._fds[fd], what, value))


# -- what a cut leaves -------------------------------------------------------------------------------------------------

#: Folders and files with what is in them, by their paths; None for a folder.
State = dict[str, bytes | None]


class Policy(NamedTuple):
    """What a cut does to the names and the bytes that no fsync has made last.

    Names: ``none``, ``all``, ``journal`` (in the order in which they were made, over all folders, and at least those
    before the last fsync of anything: ext4 and its like), ``any`` (each for itself; a rename is one step, as it is
    on every journaling filesystem, but the name beside may stay).
    Bytes: ``none``, ``all``, ``blank`` (the length without the bytes), ``torn`` (cut off at any byte), ``sectors``
    (each for itself, blank where it was never written), ``any`` (one of these for each file).
    """

    names: str
    bytes: str
    #: What stands where nothing was written: zeros, or what the disk held before.
    garbage: bool = False

    @property
    def is_drawn(self) -> bool:
        """Whether it leaves something else each time."""
        return self.names in ("journal", "any") or self.bytes in ("torn", "sectors", "any")


POLICIES = {
    "dropped": Policy("none", "none"),
    "kept": Policy("all", "all"),
    "names only": Policy("all", "none"),
    "bytes only": Policy("none", "all"),
    "lengths": Policy("all", "blank"),
    "torn": Policy("journal", "torn"),
    "sectors": Policy("journal", "sectors"),
    "garbage": Policy("journal", "sectors", True),
    "anything": Policy("any", "any"),
}


class Cut:
    """The power goes before one operation of those that were recorded, or after the last."""

    def __init__(self, recorder: Recorder, place: int, policy: Policy, draw: random.Random) -> None:
        self.policy = policy
        self.draw = draw
        self.folders = recorder.folders
        self.by_node: dict[int, list[tuple[int, Op]]] = {}
        last = 0
        for number, op in enumerate(recorder.ops[:place]):
            self.by_node.setdefault(op.node, []).append((number, op))
            if op.kind == "fsync":
                last = number
        #: The operations before this one are in the journal.
        self.journal = draw.randint(last, place) if policy.names == "journal" else 0

    def state(self) -> State:
        """What is there when the machine starts again."""
        found: State = {}
        self._look(0, "", found)
        return found

    def _look(self, folder: int, path: str, found: State) -> None:
        for name, node in sorted(self._entries(folder).items()):
            below = f"{path}/{name}" if path else name
            if node in self.folders:
                found[below] = None
                self._look(node, below, found)
            else:
                found[below] = self._content(node)

    def _entries(self, folder: int) -> dict[str, int]:
        ops = self.by_node.get(folder, [])
        end = max((number for number, op in ops if op.kind == "fsync"), default=-1)
        keep = {"none": lambda: False, "all": lambda: True, "any": lambda: self.draw.random() < 0.5}
        entries: dict[str, int] = {}
        for number, op in ops:
            if op.kind not in ("name", "rename"):
                continue
            lasts = number < end
            if not lasts:
                lasts = number < self.journal if self.policy.names == "journal" else keep[self.policy.names]()
            if not lasts:
                continue
            if op.kind == "rename":
                old, new = op.what
                entries[new] = op.value
                beside = old.startswith(local.TMP_PREFIX) and number >= end and self.policy.names == "any"
                if not beside or self.draw.random() < 0.8:
                    entries.pop(old, None)
            elif op.value is None:
                entries.pop(op.what, None)
            else:
                entries[op.what] = op.value
        return entries

    def _content(self, node: int) -> bytes:
        ops = self.by_node.get(node, [])
        lasting = _lasting(ops)
        done = [(number, op) for number, op in ops if op.kind in ("write", "size")]
        floating = [number for number, _ in done if number not in lasting]
        old = _replay(op for number, op in done if number in lasting)
        how = self.policy.bytes
        if how == "any":
            how = self.draw.choice(["none", "all", "torn", "sectors"])
        if how == "none" or not floating:
            return old
        if how == "all":
            return _replay(op for _, op in done)
        if how == "blank":
            return self._mixed(old, _replay(op for _, op in done), lambda: False)
        upto = self.draw.choice(floating)
        if how == "torn":
            before = [op for number, op in done if number in lasting or number < upto]
            torn = next(op for number, op in done if number == upto)
            if torn.kind == "write":
                before.append(torn._replace(value=torn.value[: self.draw.randint(0, len(torn.value))]))
            return _replay(before)
        new = _replay(op for number, op in done if number in lasting or number <= upto)
        return self._mixed(old, new, lambda: self.draw.random() < 0.5)

    def _mixed(self, old: bytes, new: bytes, is_new: Callable[[], bool]) -> bytes:
        """A file as long as `new`, with each sector of `old` or `new`, and blank where only `new` reaches."""
        blank = self.draw.randbytes(len(new)) if self.policy.garbage else bytes(len(new))
        under = old[: len(new)] + blank[len(old) :]
        return b"".join(
            (new if is_new() else under)[start : start + SECTOR] for start in range(0, max(len(new), 1), SECTOR)
        )


def _lasting(ops: list[tuple[int, Op]]) -> set[int]:
    """The operations on a file that an fsync has made last: not those that were dirty when one failed.

    The kernel may have marked their pages clean without writing them, so that the next fsync says nothing of them.
    """
    lasting: set[int] = set()
    dirty: list[int] = []
    for number, op in ops:
        if op.kind == "fsync":
            lasting.update(dirty)
            dirty = []
        elif op.kind == "failed":
            dirty = []
        else:
            dirty.append(number)
    return lasting


def _replay(ops: Iterator[Op] | list[Op]) -> bytes:
    content = bytearray()
    for op in ops:
        if op.kind == "size":
            content = content[: op.what].ljust(op.what, b"\0")
        else:
            end = op.what + len(op.value)
            content = content.ljust(end, b"\0")
            content[op.what : end] = op.value
    return bytes(content)


def write_down(state: State, root: Path) -> None:
    """Make the empty folder `root` hold a state."""
    for path, content in state.items():
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def replica_now() -> Replica:
    """What the replica of a scene holds."""
    from fsspec.implementations.memory import MemoryFileSystem

    above = THERE.removeprefix("memory:/") + "/"
    files = list(MemoryFileSystem.store.items())
    return {path: (file.getvalue(), file.created) for path, file in files if path.startswith(above)}


def put_replica(held: Replica) -> None:
    """Let the replica hold this, and nothing else."""
    from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

    for path in replica_now():
        del MemoryFileSystem.store[path]
    for path, (data, created) in held.items():
        MemoryFileSystem.store[path] = file = MemoryFile(None, path, data)
        file.created = created


class Sample(NamedTuple):
    """One state that a cut may leave, and what the replica held then."""

    place: int
    policy: str
    seed: str
    state: State
    replica: Replica


def samples(recorder: Recorder, seed: int, each: int, policies: tuple[str, ...] = tuple(POLICIES)) -> Iterator[Sample]:
    """States after a cut before each operation, and after the last: the sure ones, and `each` of the drawn ones.

    A state that was there before, with the same acknowledged, does not come again.
    """
    seen: set[bytes] = set()
    for place in range(recorder.begin, len(recorder.ops) + 1):
        acknowledged = sum(mark.place <= place for mark in recorder.marks)
        for name in policies:
            for turn in range(each if POLICIES[name].is_drawn else 1):
                key = f"{seed}/{place}/{name}/{turn}"
                state = Cut(recorder, place, POLICIES[name], random.Random(key)).state()
                held = recorder.replica_at(place, random.Random(key))
                digest = hashlib.sha256(
                    repr((acknowledged, sorted(state.items()), sorted(held.items()))).encode()
                ).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield Sample(place, name, key, state, held)
