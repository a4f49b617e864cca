"""The life of a session against a plain Python list: what each step means for the model, and what must be there."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from model import ModelTrack, Row
from reading import check_reading
from world import DISK, SESSION, TRACKS, Killed, Process, World, disk_trouble

from dreamlake.engine.replica.check import holds_session, look
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.errors import PointsDroppedError, RemoteConflictError

#: The steps taken so far, by rule, and what came of them.
steps: Counter[str] = Counter()
counts: Counter[str] = Counter()


class Life:
    """Processes that share a session, its replica, and the model."""

    def start(self, kind: str, fsync: bool, points: int) -> None:
        """Begin with nothing."""
        counts[f"lives: {kind}"] += 1
        self.world = World(kind, fsync=fsync, segment_points=points)
        self.tracks = {name: ModelTrack() for name in TRACKS}
        #: Flushed rows that wait for segments which are only on the replica, by track.
        self.waiting: dict[str, list[Row]] = {name: [] for name in TRACKS}
        self.drawn: set[float] = set()
        self.given: set[float] = set()
        self.processes = [Process(self.world) for _ in range(1 if self.world.kind == "temporary" else 2)]
        for process in self.processes:
            self.open(process)

    def teardown(self) -> None:
        if not hasattr(self, "processes"):
            return
        try:
            if sys.exc_info()[0] is None:  # what a step found is not to be hidden by what follows from it
                self.heal()
                for process in self.processes:
                    self.flush_first(process)
                    self.flushes(process, TRACKS, process.session.sync)
                for process in self.processes[1:]:
                    self.close_all(process)
                self.check_everything(self.processes[0])
        finally:
            for process in self.processes:
                process.die()
            self.world.end()

    def process(self, which: int) -> Process:
        return self.processes[which % len(self.processes)]

    # -- the model keeps up ------------------------------------------------------------------------------------------

    def settle(
        self,
        name: str,
        rows: Sequence[Row] = (),
        held: Sequence[tuple[float, bool]] = (),
        may_wait: Callable[[float], bool] = lambda ts: False,
    ) -> list[Row]:
        """Compare a track with the disk; `rows` may be written or not. Returns those that are not.

        Parameters
        ----------
        held
            What their writer still holds, see `Process.held_rows`.
        may_wait
            Whether an explicit timestamp was one that an away segment may hold, when the rows were flushed: they come
            behind all the others.
        """
        model = self.tracks[name]
        before = len(model.points)
        late = [row for row in rows if not row.automatic and may_wait(row.ts)]
        direct = [row for row in rows if row.automatic or not may_wait(row.ts)]
        in_file = Counter(self.world.waiting_stamps(name))
        held_explicit = {ts for ts, automatic in held if not automatic}

        waiting, left_late = list(self.waiting[name]), []
        new_in_file = in_file - Counter(row.ts for row in waiting)
        for row in late:
            is_held = row.ts in held_explicit
            is_merged = row.ts not in in_file and not is_held  # by the flush itself
            if is_merged or new_in_file[row.ts] > 0:
                new_in_file[row.ts] -= 1
                waiting.append(row)
            elif not is_held:
                left_late.append(row)  # lost with its process
            if is_held:
                left_late.append(row)
        merged = [row for row in waiting if row.ts not in in_file]
        waiting = [row for row in waiting if row.ts in in_file]
        left = model.take_in([*direct, *merged], self.world.points(name), held_explicit, waiting)
        self.waiting[name] = waiting
        counts["points stored"] += len(model.points) - before
        return left + left_late

    def settle_others(self, names: Sequence[str]) -> None:
        """Compare the other tracks in which rows wait: what is done for one has those of all merged."""
        for name in TRACKS:
            if name not in names and self.waiting[name]:
                self.settle(name)

    def flushes(
        self, process: Process, names: Sequence[str], act: Callable[[], Any], trouble: tuple[str, int] = ("", 0)
    ) -> Any:
        """Do what flushes these tracks; with trouble some of it may not be written. Returns what `act` does."""
        kind, when = trouble
        result = None
        may_wait = {name: self.world.may_wait(name) for name in names}
        try:
            if kind in DISK:
                with disk_trouble(kind, when):
                    result = act()
            elif kind:
                with self.world.network.trouble(kind, when):
                    result = act()
            else:
                result = act()
        except Killed:
            counts["killed in the middle"] += 1
            self.dies(process, may_wait)
            return None
        except (RemoteConflictError, PointsDroppedError):
            raise
        except OSError:
            assert kind or self.is_cut_off, "nothing was wrong"
            counts["flushes and syncs that failed"] += 1
            self.settle_others(names)
        else:
            self.settle_others(names)
            if not (isinstance(result, dict) and result.get("startIndex", 0) is None):
                counts["flushes and syncs acknowledged"] += 1
                for name in names:
                    if not (process.pending[name] or self.waiting[name]):
                        continue  # nothing of it was to be written
                    left = self.settle(name, process.pending[name], (), may_wait[name])
                    assert not left, f"acknowledged, but not written: {left}"
                    process.pending[name] = []
                return result
        for name in names:
            held, rows = process.held_rows(name), process.pending[name]
            left = self.settle(name, rows, held, may_wait[name])
            if held == [(row.ts, row.automatic) for row in rows]:
                left = rows  # they were not even sorted: what merges with what may change until they are
            elif self.world.has_away():  # rows that may belong to an away point come behind the others by now
                left.sort(key=lambda row: held.index((row.ts, row.automatic)))
            process.pending[name] = left
        return result

    def flush_first(self, process: Process) -> None:
        """Flush before something that also merges rows which wait for an away segment: they come behind the others."""
        if self.world.has_away():
            self.flushes(process, TRACKS, process.session.flush)

    def dies(
        self, process: Process, flushing: Mapping[str, Callable[[float], bool]] | None = None, finish: bool = True
    ) -> None:
        """A process is dead; of these tracks it was writing what was pending, see `settle` for what may wait."""
        flushing = flushing or {}
        rows = {name: process.pending[name] for name in flushing}
        process.die()
        for name in TRACKS:
            if name in flushing:
                self.settle(name, rows[name], (), flushing[name])
            else:
                self.settle(name)
        if self.world.kind == "temporary":
            self.recover(finish)
        self.open(process)

    def open(self, process: Process) -> None:
        process.open()
        if len(process.sessions) > 1:
            return
        automatic = self.drawn - self.given
        stored = [p["_ts"] for model in self.tracks.values() for p in model.points if p["_ts"] in automatic]
        assert process.clock.last >= max(stored, default=-math.inf), "automatic timestamps would be used again"

    @property
    def is_cut_off(self) -> bool:
        return self.world.kind != "local" and self.world.network.is_dead

    def heal(self) -> None:
        if self.world.kind != "local":
            self.world.network.is_dead = False

    # -- appending ---------------------------------------------------------------------------------------------------

    def stamp(self, stamp: Any, process: Process, name: str) -> float | None:
        """The `_ts` to give for a kind of stamp; None for none."""
        if isinstance(stamp, str):
            ts = {"automatic": None, "inherited": -1, "ahead": self.world.time.now + 1}[stamp]
        else:
            kind, number = stamp
            known = [point["_ts"] for point in self.tracks[name].points] + [row.ts for row in process.pending[name]]
            ts = float(known[number % len(known)]) if kind == "known" and known else float(number % 10)
        if ts is not None and ts != -1:
            self.given.add(ts)
        return ts

    def row(self, process: Process, given: dict[str, Any], ts: float | None, drawn: list[float]) -> Row:
        """What an append must have made, which drew these timestamps."""
        automatic = ts is None or (ts == -1 and process.latest is None)
        if automatic:
            at = drawn.pop(0)
            self.drawn.add(at)
        else:
            at = process.latest if ts == -1 else ts  # type: ignore[assignment]
        process.latest = at
        counts["rows appended"] += 1
        return Row(given, at, automatic)

    def append(self, which: int, session: int, name: str, given: dict[str, Any], stamp: Any, count: int) -> None:
        process = self.process(which)
        track = process.sessions[session % len(process.sessions)].track(name)
        for _ in range(count):
            ts = self.stamp(stamp, process, name)
            last, now = process.clock.last, self.world.time.now
            assert track.append(**given, **({} if ts is None else {"_ts": ts})) is track
            row = self.row(process, given, ts, [process.clock.last])
            if row.automatic:
                assert row.ts == (now if now > last else math.nextafter(last, math.inf))
            process.pending[name].append(row)
        process.clock.take()

    def batch(
        self, process: Process, name: str, points: list[dict[str, Any]], made: Any, trouble: tuple[str, int]
    ) -> None:
        steps["batch"] += 1
        process.clock.take()
        last = process.clock.last
        indices: list[int] = []
        stamps = [row.ts for row in process.pending[name] if not row.automatic]

        def act() -> Any:
            try:
                return process.session.track(name).append_batch(made)
            finally:
                drawn = process.clock.take()
                assert [last, *drawn] == sorted({last, *drawn}), "automatic timestamps rise"
                model = self.tracks[name]._copy()
                for row in process.pending[name]:
                    model.add(*row)
                for point in points:
                    given = {field: value for field, value in point.items() if field != "_ts"}
                    row = self.row(process, given, point.get("_ts"), drawn)
                    process.pending[name].append(row)
                    stamps.append(row.ts)
                    indices.append(model.add(*row))

        may_wait = self.world.may_wait(name)
        result = self.flushes(process, [name], act, trouble)
        if result is None:
            return
        assert result["count"] == len(points)
        if result["startIndex"] is None:
            assert trouble[0] or self.waiting[name], "nothing was wrong"
        elif not (self.waiting[name] or any(map(may_wait, stamps))):
            assert (result["startIndex"], result["endIndex"]) == (min(indices), max(indices) + 1)

    # -- the replica -------------------------------------------------------------------------------------------------

    def close_all(self, process: Process) -> None:
        self.flush_first(process)
        if self.world.kind == "temporary":  # nothing is left here after it
            self.flushes(process, TRACKS, process.session.sync)
            for place in range(len(process.sessions)):
                with suppress(OSError):
                    process.close(place)
            process.die()
            return
        for place in range(len(process.sessions)):
            self.flushes(process, TRACKS, lambda place=place: process.close(place))  # type: ignore[misc]
            assert not process.sessions[place].is_open

    def check_replica(self, complete: bool) -> None:
        """What is on the replica is the beginning of what is here, as it is or was; with `complete`, all of it."""
        for name, model in self.tracks.items():
            assert not (complete and self.waiting[name]), "synced, but late fields wait"
            found = self.world.points_there(name)
            if complete:
                model.all_sent()
            model.assert_earlier(found)

    def go_on_from_replica(self) -> None:
        """Whatever was not there yet is lost."""
        self.heal()
        assert self.world.there is not None
        there = holds_session(look(self.world.there, SESSION))  # type: ignore[arg-type]
        for name, model in self.tracks.items():
            self.waiting[name] = []
            found = model.assert_earlier(self.world.points_there(name))
            model.go_back_to(found if there else [])
        if not there:
            self.world.begin_anew()

    def recover(self, finish: bool) -> None:
        """The process with the temporary folder is gone: upload what is in it, or lose it."""
        self.heal()
        if finish and os.path.isdir(f"{self.world.root}/{SESSION}"):
            os.utime(f"{self.world.root}/{SESSION}/.lock", (0, 0))  # as it is some time later
            outcome = sync_folder(f"{self.world.root}/{SESSION}", SESSION, self.world.network)
            assert outcome.complete, outcome
            for name in TRACKS:
                self.settle(name)
            self.check_replica(complete=True)
        shutil.rmtree(self.world.root, ignore_errors=True)
        self.go_on_from_replica()

    # -- everything --------------------------------------------------------------------------------------------------

    def check_everything(self, process: Process) -> None:
        session = process.session
        filled = sorted(name for name, model in self.tracks.items() if model.points)
        listed = session.tracks.list()  # a flush that failed or was cut short can leave a track without points, too
        assert [name for name in listed if name in filled] == filled
        for name, model in self.tracks.items():
            model.assert_read(session.track(name).read(limit=None))
        check_reading(session.track(TRACKS[0]), self.tracks[TRACKS[0]], "frames", 0, 0, None)
        if self.world.kind != "local":
            self.check_replica(complete=True)
