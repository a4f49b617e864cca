"""What processes told that they tried and what was acknowledged to them, held against what is stored.

A process tells each operation before it does it, and what came of it when the call returned, as one JSON line a time
through a pipe; so whoever reads the pipe knows what was promised, however the process ends. An operation that was
acknowledged must be there, once; one that was not may be there, once; one that was looked for and not found must never
come; and nothing else may be there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

from dreamlake import Lake, errors
from dreamlake.lake import SessionView

NAME, WORKSPACE = "s", "w"
SESSION = f"{WORKSPACE}/{NAME}"
Rows = list[dict[str, Any]]


@dataclass
class Op:
    """One operation.

    Parameters
    ----------
    kind
        ``point``: a new point, with the field ``id``; ``late``: one more field for the point of an explicit ``_ts``;
        ``log``: a record with this message; ``param``, ``about``: a parameter, and a key of the metadata of the session
        (or of a track).
    writer
        The thread that did it: its operations keep their order.
    track
        The track, or none.
    fields
        What was given.
    here, there
        Whether it was acknowledged by a flush, and by a sync.
    gone
        Whether it was looked for, and was not there.
    """

    kind: str
    writer: str
    track: str
    fields: dict[str, Any]
    here: bool = False
    there: bool = False
    gone: bool = False


class Teller:
    """What a process under test tells: to a pipe, from all of its threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = Lock()

    def say(self, what: Mapping[str, Any]) -> None:
        """Tell something, before anything else happens."""
        line = json.dumps(what).encode() + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._fd, line) :]

    def tries(self, kind: str, writer: str, fields: Mapping[str, Any] | list[Any], track: str = "") -> None:
        """Tell what is going to be done: one operation, or the points of a batch."""
        self.say({"op": kind, "w": writer, "track": track, "fields": fields})

    def acknowledge(self, how: str, writer: str, track: str = "") -> None:
        """Tell what has returned: ``flush`` (of one track, or of all), ``sync``, or ``last`` for the latest call."""
        self.say({"ack": how, "w": writer, "track": track})


class Promises:
    """All that was told of one session, from its first process to its last."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._begun = 0
        #: Calls that returned, by their kind.
        self.returned: dict[str, int] = {}
        #: The ids that were found in each track, in their order: on the local side, and on the replica.
        self.found: dict[str, dict[str, list[int]]] = {"here": {}, "there": {}}
        #: Whether one machine, and one process at a time, wrote all of it.
        self.one_machine = self.one_process = True
        #: Whether segments may be on the replica only: points with an explicit timestamp may wait for them, and then
        #: come later than those that were appended after them.
        self.may_wait = False

    def hear(self, lines: Iterable[bytes]) -> None:
        """Take in all that a process told; a line that was not finished does not count."""
        self._begun = len(self.ops)  # what returned to it, it had begun itself
        for line in lines:
            if line.endswith(b"\n"):
                self._take(json.loads(line))

    def _take(self, told: dict[str, Any]) -> None:
        if "op" in told:
            fields = told["fields"]
            for each in fields if isinstance(fields, list) else [fields]:
                self.ops.append(Op(told["op"], told["w"], told["track"], each))
        elif "ack" in told:
            how, track = told["ack"], told["track"]
            self.returned[how] = self.returned.get(how, 0) + 1
            mine = [op for op in self.ops[self._begun :] if op.writer == told["w"]]
            if how == "last":
                mine[-1].here = True
            for op in mine if how != "last" else ():
                if not track or op.track == track:
                    op.here = op.here or not op.gone
                    op.there = op.there or (how == "sync" and not op.gone)

    # -- what must be there --------------------------------------------------------------------------------------------

    def points(self, track: str) -> dict[int, Op]:
        """The points of a track that were tried, by id."""
        return {op.fields["id"]: op for op in self.ops if op.kind == "point" and op.track == track}

    def targets(self, track: str) -> list[float]:
        """The timestamps of acknowledged points to which fields can be added."""
        return [op.fields["_ts"] for op in self.points(track).values() if op.here and "_ts" in op.fields]

    @property
    def next_id(self) -> int:
        """An id that was never used."""
        return max((op.fields["id"] for op in self.ops if op.kind == "point"), default=-1) + 1

    def check(self, lake: Lake, where: str, whole: bool = False) -> None:
        """Hold what a reader finds against what was told.

        Parameters
        ----------
        where
            ``here``: the local side, that must hold what a flush acknowledged. ``there``: the replica, that must hold
            what a sync did.
        whole
            The replica is complete: it must also hold all that the local side does.
        """
        tracks = sorted({op.track for op in self.ops if op.kind in ("point", "late")})
        try:
            view = lake.session(NAME, WORKSPACE)
            listed = view.tracks.list()
        except errors.SessionNotFoundError:
            assert not any(self._must(op, where, whole) for op in self.ops), f"{where}: the session is lost"
            return
        strange = set(listed) - set(tracks) - {op.track for op in self.ops}
        assert not strange, f"{where}: nobody made {strange}"
        for track in tracks:
            rows = view.track(track).read(limit=None)["data"] if track in listed else []
            self._check_track(track, rows, where, whole)
        self._check_small(lake, view, where, whole)

    def compare(self) -> None:
        """See that the replica was a beginning of the local side, when both were last looked at."""
        for track, theirs in self.found["there"].items():
            mine = self.found["here"].get(track, [])
            assert theirs == mine[: len(theirs)], f"{track}: on the replica {theirs}, no beginning of {mine}"

    def _must(self, op: Op, where: str, whole: bool) -> bool:
        return op.here if where == "here" else op.there or (whole and op.here)

    def _check_track(self, track: str, rows: Rows, where: str, whole: bool) -> None:
        said = f"{where}, {track}"
        points = self.points(track)
        assert [row["index"] for row in rows] == list(range(len(rows))), f"{said}: {[row['index'] for row in rows]}"
        ids = [row["data"].get("id") for row in rows]
        odd = [row["data"] for row in rows if row["data"].get("id") not in points]
        assert not odd, f"{said}: nobody wrote {odd[:3]}"
        assert len(set(ids)) == len(ids), f"{said}: doubled: {sorted({i for i in ids if ids.count(i) > 1})}"
        lost = {key for key, op in points.items() if self._must(op, where, whole)} - set(ids)
        assert not lost, f"{said}: lost {len(lost)}, among them {sorted(lost)[:5]}"
        back = [key for key in ids if points[key].gone]
        assert not back, f"{said}: came back: {back[:5]}"
        before = self.found[where].get(track, [])
        assert ids[: len(before)] == before, f"{said}: points moved or went: {before} are now {ids}"
        self.found[where][track] = ids
        for writer in {op.writer for op in points.values()}:
            own = [key for key in ids if points[key].writer == writer and not self._may_wait(points[key])]
            assert own == sorted(own), f"{said}: the points of {writer} are out of order: {own}"
        self._check_stamps(said, rows, points)
        late: dict[float, list[Op]] = {}
        for op in self.ops:
            if op.kind == "late" and op.track == track:
                late.setdefault(op.fields["_ts"], []).append(op)
        for row in rows:
            own_fields = points[row["data"]["id"]].fields
            added = late.get(row["data"]["_ts"], []) if "_ts" in own_fields else []
            must = {"_ts": row["data"]["_ts"], **own_fields}
            self._check_fields(f"{said}, id {own_fields['id']}", row["data"], must, added, where, whole)

    def _may_wait(self, op: Op) -> bool:
        return self.may_wait and "_ts" in op.fields

    def _check_stamps(self, said: str, rows: Rows, points: dict[int, Op]) -> None:
        drawn = [row["data"]["_ts"] for row in rows if "_ts" not in points[row["data"]["id"]].fields]
        assert len(set(drawn)) == len(drawn) or not self.one_process, f"{said}: two points have one automatic timestamp"
        if self.one_process:
            assert drawn == sorted(drawn), f"{said}: automatic timestamps fall"

    def _check_fields(
        self, said: str, data: Mapping[str, Any], own: dict[str, Any], ops: Iterable[Op], where: str, whole: bool
    ) -> None:
        """Hold a dict against the one that was given and what was added: later values win, unsure ones may be there."""
        surely = dict(own)
        perhaps: dict[str, list[Any]] = {}
        for op in ops:
            for name, value in op.fields.items():
                if name in own:
                    continue
                if self._must(op, where, whole):
                    surely[name] = value
                    perhaps.pop(name, None)
                elif not op.gone:
                    perhaps.setdefault(name, []).append(value)
        for name, value in data.items():
            allowed = ([surely[name]] if name in surely else []) + perhaps.get(name, [])
            assert any(_same(value, each) for each in allowed), f"{said}: {name} is {value!r}, not of {allowed}"
        lacking = set(surely) - set(data)
        assert not lacking, f"{said}: lacks {sorted(lacking)}"

    # -- parameters, descriptions, the log -----------------------------------------------------------------------------

    def _check_small(self, lake: Lake, view: Any, where: str, whole: bool) -> None:
        of = partial(self._check_fields, where=where, whole=whole)
        of(f"{where}, parameters", view.parameters().get(), {}, [op for op in self.ops if op.kind == "param"])
        info = view.info
        assert info["status"] in ("running", "finished", "lost"), info
        about = [op for op in self.ops if op.kind == "about"]
        of(f"{where}, session.json", info["metadata"], {}, [op for op in about if not op.track])
        for track in {op.track for op in about if op.track}:
            given = [op for op in about if op.track == track]
            if any(self._must(op, where, whole) for op in given):
                of(f"{where}, {track}", view.track(track).stats()["metadata"], {}, given)
        self._check_log(log_of(lake), where, whole)

    def _check_log(self, records: Rows, where: str, whole: bool) -> None:
        numbers = [record["sequenceNumber"] for record in records]
        if self.one_machine:
            assert numbers == list(range(len(numbers))), f"{where}: the log is numbered {numbers}"
        messages = [record["message"] for record in records]
        assert len(set(messages)) == len(messages), f"{where}: log records are doubled: {messages}"
        tried = {op.fields["message"]: op for op in self.ops if op.kind == "log"}
        assert set(messages) <= set(tried), f"{where}: nobody logged {set(messages) - set(tried)}"
        lost = {text for text, op in tried.items() if self._must(op, where, whole)} - set(messages)
        assert not lost, f"{where}: log records are lost: {sorted(lost)}"
        back = [text for text in messages if tried[text].gone]
        assert not back, f"{where}: log records came back: {back}"

    # -- what became of it ---------------------------------------------------------------------------------------------

    def settle(self, lake: Lake, moved: bool = False) -> None:
        """Find out what became of all that was not acknowledged, when no process runs: it is there for good, or gone.

        Parameters
        ----------
        moved
            The local side is lost, and `lake` the replica that is gone on from: what is not there is promised no more.
        """
        metadata: dict[str, Any] = {}
        view: SessionView | None = SessionView(lake._store, WORKSPACE, NAME)
        try:
            metadata = view.info["metadata"]
        except errors.SessionNotFoundError:
            if not moved:  # of a first upload that was cut off the next machine goes on from what there is
                view = None
        listed = view.tracks.list() if view is not None else []
        for track in sorted({op.track for op in self.ops if op.track}):
            rows = view.track(track).read(limit=None)["data"] if view is not None and track in listed else []
            self._settle_track(track, [row["data"] for row in rows], moved)
        parameters = view.parameters().get() if view is not None else {}
        messages = {record["message"] for record in log_of(lake)} if view is not None else set()
        for op in self.ops:
            if op.here and not moved:
                continue
            if op.kind == "log" and (moved or not op.there):  # each machine has a log of its own
                self._mark(op, op.fields["message"] in messages)
                op.here, op.there = op.here and not moved, op.there or (op.here and moved)
            elif op.kind == "param":
                self._mark(op, op.fields.items() <= parameters.items())
            elif op.kind == "about":
                of_track = view.track(op.track).stats()["metadata"] if op.track in listed else {}
                self._mark(op, op.fields.items() <= (of_track if op.track else metadata).items())
        if moved:
            self.found["here"] = {track: list(ids) for track, ids in self.found["there"].items()}
            self.one_machine, self.may_wait = False, True

    def _mark(self, op: Op, is_there: bool) -> None:
        op.here, op.gone = is_there, not is_there

    def _settle_track(self, track: str, data: Rows, moved: bool) -> None:
        by_id = {point["id"]: point for point in data}
        by_ts = {point["_ts"]: point for point in data}
        replaced: set[tuple[float, str]] = set()
        for op in reversed(self.ops):
            if op.track != track:
                continue
            if op.kind == "point" and (moved or not op.here):
                self._mark(op, op.fields["id"] in by_id)
            elif op.kind == "late":
                ts = op.fields["_ts"]
                names = {(ts, name) for name in op.fields if name != "_ts"}
                if op.fields.items() <= by_ts.get(ts, {}).items():
                    replaced |= names
                    op.here, op.gone = True, False
                elif (moved or not op.here) and not names <= replaced:
                    self._mark(op, False)
                # Else a later value has taken its place here, and an earlier state, on the replica, may have it still.


def _same(value: Any, other: Any) -> bool:
    """Equal, and of the same types."""
    return type(value) is type(other) and json.dumps(value) == json.dumps(other)


def log_of(lake: Lake) -> Rows:
    """The log records of the session, in their order."""
    from dreamlake.engine.logread import log_records

    return log_records(lake._store, SESSION)
