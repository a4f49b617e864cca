"""The history of a track that many write and read at once: what was done, told and seen when, and whether it fits.

Every point has an owner: the operation of a writer that made it, or, where several add fields to one explicit
timestamp, that timestamp. A reader tells a stretch of owners by a digest, so that every read of every reader is
compared with the one order that is there at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

#: An operation that makes a point of its own; every other one is the timestamp of the point that gets a field.
NEW = 0


def fields_of(writer: str, number: int) -> dict[str, Any]:
    """The fields of the point that is the `number`-th operation of a writer."""
    return {"w": writer, "k": number, "x": number / 7, "s": f"{writer}-{number}\n", "l": [number / 3] * (number % 4)}


def owner_of(point: Mapping[str, Any]) -> str:
    """Whose point it is, and its timestamp. Raises AssertionError where its fields are not what anybody wrote."""
    own = {name: value for name, value in point.items() if name != "_ts" and name[0] != "m"}
    if own:
        wanted = fields_of(own["w"], own["k"])
        assert own == wanted, f"altered: {own}, written was {wanted}"
        return f"{own['w']} {own['k']} {point['_ts']!r}"
    assert len(point) > 1, f"a point without fields: {point}"
    return f"@ {point['_ts']!r}"


def added_to(point: Mapping[str, Any]) -> dict[str, int]:
    """The fields that writers added to a point: writer and operation."""
    return {name[1:]: value for name, value in point.items() if name[0] == "m"}


def digest(owners: Iterable[str]) -> str:
    """What tells one stretch of owners from every other."""
    return blake2b("\0".join(owners).encode(), digest_size=12).hexdigest()


class Read(NamedTuple):
    """One look at a track: owners of the indices from `start` to `stop`, by their digest, and what is new of fields."""

    reader: str
    begun: int
    ended: int
    start: int
    stop: int
    digest: str
    #: The points that the track had; -1 where that was not asked.
    total: int
    #: ``[index, writer, operation]`` of fields that this reader had not seen, or of which it sees a later value.
    news: Sequence[tuple[int, str, int]]


class Eyes:
    """A reader: turns what it reads into `Read`s, and sees itself that nothing it has read changes."""

    def __init__(self, reader: str) -> None:
        self.reader = reader
        self.owners: dict[int, str] = {}
        self.fields: dict[tuple[int, str], int] = {}

    def see(self, begun: int, ended: int, rows: Sequence[tuple[int, Mapping[str, Any]]], total: int) -> Read:
        """Take note of rows, neighbours in the order of their indices, and say what they are."""
        start = rows[0][0] if rows else 0
        assert [index for index, _ in rows] == list(range(start, start + len(rows))), "a gap within a read"
        owners, news = [], []
        for index, point in rows:
            owner = owner_of(point)
            before = self.owners.setdefault(index, owner)
            assert before == owner, f"index {index} was {before!r}, and is {owner!r} now"
            owners.append(owner)
            seen = added_to(point)
            for writer, number in seen.items():
                key = (index, writer)
                assert number >= self.fields.get(key, -1), f"{writer}'s field of index {index} went back to {number}"
                if self.fields.get(key) != number:
                    self.fields[key] = number
                    news.append((index, writer, number))
            # A writer that this reader has once seen at a point must be there at each later look at it.
            assert len(seen) == self._count(index, len(seen)), f"fields of index {index} are gone: {point}"
        return Read(self.reader, begun, ended, start, start + len(rows), digest(owners), total, news)

    def _count(self, index: int, count: int) -> int:
        self._counts: dict[int, int] = getattr(self, "_counts", {})
        self._counts[index] = max(count, self._counts.get(index, 0))
        return self._counts[index]


class History:
    """What happened to one track at one place, as it was told. `check` holds it against the track's end."""

    def __init__(self) -> None:
        #: By writer its operations in order: `NEW`, or the timestamp of a point that gets a field.
        self.ops: dict[str, list[float]] = defaultdict(list)
        #: When the first so many operations of a writer were acknowledged: ``(time, writer, count)``.
        self.acknowledged: list[tuple[int, str, int]] = []
        #: ``(writer, first operation, count, first index, behind the last index)`` of batches of new points.
        self.batches: list[tuple[str, int, int, int, int]] = []
        self.reads: list[Read] = []

    def check(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Raise AssertionError where something was lost, doubled, altered, made up, or went back, however briefly."""
        end = _End(self, points)
        end.check_points()
        end.check_batches()
        end.check_reads()


class _End:
    """The points of a track at the end, indexed for the checks."""

    def __init__(self, history: History, points: Sequence[Mapping[str, Any]]) -> None:
        self.history = history
        self.points = points
        self.owners = [owner_of(point) for point in points]
        self.fields = {(i, w): k for i, point in enumerate(points) for w, k in added_to(point).items()}
        #: Where the point of an operation is.
        self.place = {(p["w"], p["k"]): i for i, p in enumerate(points) if "w" in p}
        self.by_ts: dict[float, int] = {}
        for index, point in enumerate(points):
            self.by_ts.setdefault(point["_ts"], index)

    def check_points(self) -> None:
        """Each index has one owner, who asked for it; a thread's points are in order; acknowledged ones are there."""
        ops = self.history.ops
        assert len(self.place) == sum("w" in point for point in self.points), "a point is there twice"
        shared = [point["_ts"] for point in self.points if "w" not in point]
        assert len(shared) == len(set(shared)), "two points for one explicit timestamp"
        for writer, number in self.place:
            assert number < len(ops[writer]), f"{writer} never asked for its operation {number}"
            assert ops[writer][number] == NEW, f"{writer}'s operation {number} made no point of its own"
        self._check_order()
        for (index, writer), number in self.fields.items():
            assert number < len(ops[writer]), f"{writer} never asked for its operation {number}"
            assert ops[writer][number] == self.points[index]["_ts"], f"{writer}'s operation {number} is at {index}"
        done = self._acknowledged()
        for writer, count in done.items():
            for number, op in enumerate(ops[writer][:count]):
                if op == NEW:
                    assert (writer, number) in self.place, f"lost: {writer}'s point {number}, {count} were acknowledged"
        self._check_fields(done, self.fields)

    def _check_order(self) -> None:
        last: dict[str, tuple[int, float]] = {}
        count: dict[str, int] = defaultdict(int)
        for writer, number in self.place:  # in the order of the indices
            ts = self.points[self.place[writer, number]]["_ts"]
            before = last.get(writer, (-1, 0.0))
            assert before < (number, ts), f"{writer}'s point {number} is behind its {before[0]}"
            assert ts > before[1], f"timestamps of {writer} fall at {number}"
            last[writer] = (number, ts)
            count[writer] += 1
        for writer, (number, _) in last.items():
            wanted = sum(op == NEW for op in self.history.ops[writer][: number + 1])
            assert count[writer] == wanted, f"lost: {wanted - count[writer]} points of {writer} before its {number}"

    def _acknowledged(self) -> dict[str, int]:
        done: dict[str, int] = {}
        for _, writer, count in self.history.acknowledged:
            done[writer] = max(done.get(writer, 0), count)
        return done

    def _check_fields(self, done: Mapping[str, int], fields: Mapping[tuple[int, str], int]) -> None:
        """Every acknowledged field is there, in the last value that was acknowledged or a later one."""
        for writer, count in done.items():
            for ts, number in self._latest(writer, count).items():
                index = self.by_ts.get(ts)
                assert index is not None, f"lost: the point at {ts!r}, to which {writer} added {number}"
                found = fields.get((index, writer), -1)
                assert found >= number, f"lost: {writer}'s field {number} at index {index}, {found} is there"

    def _latest(self, writer: str, count: int) -> dict[float, int]:
        return {op: number for number, op in enumerate(self.history.ops[writer][:count]) if op != NEW}

    def check_batches(self) -> None:
        """The indices that a batch was told are its own."""
        for writer, first, count, start, stop in self.history.batches:
            assert None not in (start, stop), f"a batch of {count} of {writer} was not written"
            assert stop - start == count, f"a batch of {count} of {writer} has the indices {start} to {stop}"
            numbers = [self.points[index].get("k") for index in range(start, stop)]
            own = {self.points[index].get("w") for index in range(start, stop)}
            assert (own, numbers) == ({writer}, list(range(first, first + count))), f"{writer}'s batch at {start}"

    def check_reads(self) -> None:
        """Reads show a stretch of what is there at the end, all that was acknowledged or read before they began."""
        reads = sorted(self.history.reads, key=lambda read: read.begun)
        ended = sorted(self.history.reads, key=lambda read: read.ended, reverse=True)
        told = sorted(self.history.acknowledged, reverse=True)
        states: dict[str, dict[tuple[int, str], int]] = defaultdict(dict)
        sure = _Sure(self)
        for read in reads:
            state = states[read.reader]
            while ended and ended[-1].ended < read.begun:
                sure.add_read(ended.pop())
            while told and told[-1][0] < read.begun:
                sure.add_acknowledged(*told.pop()[1:])
            state.update({(index, writer): number for index, writer, number in read.news})
            assert digest(self.owners[read.start : read.stop]) == read.digest, (
                f"{read.reader} read other points at {read.start} to {read.stop} than there are"
            )
            if read.total >= 0:
                assert read.total <= len(self.owners), f"{read.reader} saw {read.total} points of {len(self.owners)}"
                assert read.total >= sure.total, f"{read.reader} saw {read.total} points, {sure.total} before"
            sure.check(read, state)


class _Sure:
    """What every read that begins now must show."""

    def __init__(self, end: _End) -> None:
        self.end = end
        self.total = 0
        self.fields: dict[tuple[int, str], int] = {}
        self._counts: dict[str, int] = defaultdict(int)

    def add_read(self, read: Read) -> None:
        self.total = max(self.total, read.total, read.stop)
        for index, writer, number in read.news:
            self._raise(index, writer, number)

    def add_acknowledged(self, writer: str, count: int) -> None:
        ops = self.end.history.ops[writer]
        for number in range(self._counts[writer], count):
            if ops[number] == NEW:
                self.total = max(self.total, self.end.place[writer, number] + 1)
            else:
                index = self.end.by_ts[ops[number]]
                self.total = max(self.total, index + 1)
                self._raise(index, writer, number)
        self._counts[writer] = max(self._counts[writer], count)

    def _raise(self, index: int, writer: str, number: int) -> None:
        key = (index, writer)
        self.fields[key] = max(number, self.fields.get(key, -1))

    def check(self, read: Read, state: Mapping[tuple[int, str], int]) -> None:
        for key, number in self.fields.items():
            if read.start <= key[0] < read.stop:
                found = state.get(key, -1)
                assert found >= number, f"{read.reader} missed {key[1]}'s field {number} at {key[0]} ({found})"
