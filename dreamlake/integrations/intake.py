"""Takes a run of another tool into a session: finds the one of an earlier import, goes on behind its points.

An import may be killed at any moment and run again. What is there already is told by the points themselves: each track
says in its metadata which of its points came from which part of the source (a file, say), and that is written before
the points are. So where a part goes on is the number of its points that are stored, and nothing is kept in step.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from dreamlake.engine.catalog import session_folders, session_info
from dreamlake.engine.ending import Ending
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.errors import CorruptTrackError, LockTimeoutError, SessionNotFoundError
from dreamlake.format import layout
from dreamlake.integrations.names import apart, run_name
from dreamlake.integrations.run import MARK, ImportRefused, Run, Told
from dreamlake.integrations.series import Series, alike, key_of
from dreamlake.lake import Lake, SessionView
from dreamlake.session import Session
from dreamlake.storage.localstore import LocalStore

#: Points of one track that are appended at once, and the weight of all that wait; a plain point weighs 1.
BATCH, MOST_WAITING = 10_000, 100_000


class Intake:
    """Takes the points and the description of one run. Made by `take_in`; a `Run` pours itself into it."""

    def __init__(self, session: Session, told: Told, advance: Callable[[int], None], force: bool) -> None:
        self.told = told
        self.description: str | None = None
        self.tags: list[str] | None = None
        #: How the run ended, in the words of session.json.
        self.status = "finished"
        self._session = session
        self._view = SessionView(session.store(), session.workspace, session.name)
        self._advance = advance
        self._force = force
        self._tracks: dict[str, Series] = {}
        self._part = ""
        self._waiting = 0
        self._parameters: dict[str, Any] = {}
        self._about: dict[str, Any] = {}

    # -- what a source calls ---------------------------------------------------------------------------------------

    def part(self, name: str) -> None:
        """Say that what follows is of this part of the source, from its beginning.

        A part only ever grows at its end, and has the same name at each import.
        """
        self.flush()
        self._close_part()
        self._part = name

    def add(
        self, track: str, ts: float | None, fields: dict[str, Any], *, tag: str | None = None, weight: int = 1
    ) -> None:
        """Take the next point of a track of this part, or see that it is there already.

        Parameters
        ----------
        ts
            Its time in the source. It is kept as it is: several points of one time stay several. None where the source
            knows none: it is that of the import then, as where it is not finite, which is told.
        tag
            What the source calls the track, where that is no name of one.
        weight
            What it takes in memory, in plain points.
        """
        series = self._tracks.get(track) or self._series(track, tag)
        if series.part != self._part:
            series.enter(self._part)
        series.seen += 1
        if ts is not None and not math.isfinite(ts):
            self.leave_out("times that are not finite; these points have the time of the import")
            ts = None
        ts = None if ts is None else _own_time(ts)
        if series.seen > series.have:
            self._put(series, ts, fields, weight)
        elif series.seen == series.have:
            series.check_same(ts, fields)

    def add_missing(self, track: str, points: Sequence[tuple[float, int, float]], *, tag: str | None = None) -> None:
        """Take those points ``(time, step, value)`` that a track lacks, of a source that promises no order."""
        series = self._series(track, tag)
        series.enter(self._part)
        stored = series.stored_keys()
        keys = [key_of(_own_time(ts), step, value) for ts, step, value in points]
        missing: Iterable[int]
        if keys[: len(stored)] == stored:
            missing = range(len(stored), len(points))
        else:
            left = Counter(stored)
            left.subtract(keys)
            extra = Counter({key: -count for key, count in left.items() if count < 0})
            missing = [at for at in range(len(keys) - 1, -1, -1) if _take(extra, keys[at])][::-1]
            gone = sum(count for count in left.values() if count > 0)
            if gone:
                self.note(f"{track}: {gone:,} of the points stored here are not in the source any more; they stay")
        series.seen = series.have
        for at in missing:
            series.seen += 1
            ts, step, value = points[at]
            self._put(series, _own_time(ts), {"step": step, "value": value}, 1)

    def parameters(self, values: dict[str, Any]) -> None:
        """Take parameters; later ones win."""
        self._parameters.update(values)

    def about(self, **values: Any) -> None:
        """Take what else is known of the run, for the session's metadata."""
        self._about.update({key: value for key, value in values.items() if value not in (None, "", [], {})})

    def leave_out(self, what: str, count: int = 1) -> None:
        """Count something that is not carried over."""
        self.told.left_out[what] += count

    def note(self, text: str) -> None:
        """Tell something that whoever imports should know."""
        self.told.notes.append(text)

    def damaged(self, text: str) -> None:
        """Tell of a source that cannot be read to its end."""
        self.told.damage.append(text)

    # -- points ----------------------------------------------------------------------------------------------------

    def _put(self, series: Series, ts: float | None, fields: dict[str, Any], weight: int) -> None:
        if ts is not None:
            fields["_ts"] = ts
        series.put(fields, weight)
        self._waiting += weight
        if len(series.waiting) >= BATCH:
            self._waiting -= series.weight
            self._advance(series.flush())
        elif self._waiting >= MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Append what waits."""
        for series in self._tracks.values():
            if series.waiting:
                self._advance(series.flush())
        self._waiting = 0

    def _series(self, track: str, tag: str | None) -> Series:
        series = self._tracks.get(track)
        if series is None:
            series = Series(self._session, self._view, self.told, track, tag or track, self._force)
            self._tracks[track] = series
        return series

    def _close_part(self) -> None:
        for series in self._tracks.values():
            if series.part is not None and series.seen < series.have:
                self.note(
                    f"{series.name}: {series.part or 'the source'} has {series.seen:,} points, and {series.have:,} "
                    "were imported from it before; they stay"
                )
            series.part = None

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write what is left, and what the source says of the run."""
        self.flush()
        self._close_part()
        self._session.flush()
        self._set_parameters()
        info = self._view.info
        changes: dict[str, Any] = {}
        if self.description is not None and info.get("description") != self.description:
            changes["description"] = self.description
        if self.tags is not None and info.get("tags") != self.tags:
            changes["tags"] = self.tags
        mark = info["metadata"].get(MARK) or {}
        if not alike({**mark, **self._about}, mark):
            changes["metadata"] = {MARK: {**mark, **self._about}}
        # Also where a killed import had left it with "running".
        if changes or _said(self._view) != self.status:
            _update(self._session, status=self.status, **changes)

    def _set_parameters(self) -> None:
        from dreamlake.parameters import flatten

        flat: dict[str, Any] = {}
        for key, value in self._parameters.items():
            try:
                flat.update(flatten({key: value}))
            except (TypeError, ValueError):
                self.leave_out("parameters that cannot be stored")
        stored = self._view.parameters().get()
        changed = {k: v for k, v in apart(flat).items() if k not in stored or not alike(stored[k], v)}
        if changed:
            self._session.parameters().set(**changed)


# ------------------------------------------------------------------------------------------------ the session


def take_in(
    run: Run,
    lake: str,
    *,
    workspace: str | None = None,
    name: str | None = None,
    force: bool = False,
    advance: Callable[[int], None] = lambda count: None,
    earlier: Earlier | None = None,
) -> Told:
    """Import a run into a lake on this machine: all of it, or what came since the last time.

    Parameters
    ----------
    lake
        The folder of the workspaces; made where it is missing.
    workspace, name
        Other ones than the source's.
    force
        Add to a session that is not of this run, too.
    advance
        Called with the number of points that were appended.
    earlier
        What is known of the lake, shared by imports of many runs.

    Raises
    ------
    ImportRefused
        There is nothing to import, or a session of that name that is not of this run, or the source is not the one that
        it was.
    OSError
        The source cannot be read, or the lake not written. What was imported by then stays, and counts the next time.
    """
    if run.refusal is not None:
        raise ImportRefused(run.refusal)
    workspace, name = _session_of(run, lake, workspace, name, force, earlier or Earlier(lake))
    folder = os.path.join(lake, *layout.session_dir(workspace, name).split("/"))
    told = Told(run=f"{workspace}/{name}", source=run.source)
    with _alone(folder, told.run):
        there = _view(lake, workspace, name)
        mark = {} if there is None else _check_mark(run, there, force)
        said = None if there is None else _said(there)
        ids = sorted({*mark.get("ids", ()), *run.ids})
        wanted = {**mark, "from": mark.get("from", run.kind), "source": run.source, "ids": ids}
        metadata = None if wanted == mark else {MARK: wanted}
        # fsync: where points came from must not be lost before they are, in a power cut either.
        session = Session(name, workspace, lake, metadata=metadata, fsync=True)
        intake = Intake(session.open(), told, advance, force)
        try:
            _date(session, run.started, intake._view.info)
            run.pour(intake)
            intake.finish()
        except BaseException:
            session._close(Ending(said or "running"))  # how the run ended is not known yet
            raise
        session._close(Ending(intake.status))
    return told


class Earlier:
    """The sessions of a lake by the runs that they were imported from, read when they are first asked for.

    Parameters
    ----------
    lake
        The folder of the workspaces.
    """

    def __init__(self, lake: str) -> None:
        self._lake = lake
        #: For each tool and id the sessions, as workspace and name.
        self._found: dict[tuple[str, str], list[tuple[str, str]]] | None = None

    def session_of_moved(self, run: Run, workspace: str | None) -> tuple[str, str] | None:
        """The workspace and name of the session of a run that was imported from another place, and is there no more.

        A copy of a run beside the run itself is another one. Where `workspace` is given only its sessions count.
        """
        if run.gone_from is None:
            return None
        found = self._sessions()
        for pair in dict.fromkeys(pair for each in run.ids for pair in found.get((run.kind, each), ())):
            view = _view(self._lake, *pair) if workspace in (None, pair[0]) else None
            # Read again: it may have been found in its new place since.
            mark = {} if view is None else view.info["metadata"].get(MARK) or {}
            if _is_of(run, mark) and run.gone_from(str(mark.get("source"))):
                return pair
        return None

    def _sessions(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        if self._found is not None:
            return self._found
        store = LocalStore(self._lake)

        def mark_of(pair: tuple[str, str]) -> Any:
            try:
                info = session_info(store, *pair)
            except (CorruptTrackError, PermissionError):
                return None  # nothing that this import has to do with
            return None if info is None else info["metadata"].get(MARK)

        pairs = session_folders(store, sure=False)
        self._found = {}
        for pair, mark in zip(pairs, side_by_side(mark_of, pairs, reading_width(store)), strict=True):
            if isinstance(mark, dict) and isinstance(mark.get("ids"), list):  # not another's use of the key
                for each in mark["ids"]:
                    self._found.setdefault((str(mark.get("from")), str(each)), []).append(pair)
        return self._found


def _session_of(
    run: Run, lake: str, workspace: str | None, name: str | None, force: bool, earlier: Earlier
) -> tuple[str, str]:
    """The workspace and name of the session of this run: the one that it has, or a free one."""
    only_in = run_name(workspace) if workspace else None
    workspace = only_in or run_name(run.workspace)
    candidates = dict.fromkeys(run_name(each) for each in ([name] if name else [run.name, run.other_name]) if each)
    there = {each: _view(lake, workspace, each) for each in candidates}
    for each, view in there.items():
        if view is not None and _is_of(run, view.info["metadata"].get(MARK) or {}):
            return workspace, each
    if not name and (found := earlier.session_of_moved(run, only_in)) is not None:
        return found
    for each, view in there.items():
        if view is None or force:
            return workspace, each
        if (view.info["metadata"].get(MARK) or {}).get("from") != run.kind:
            break  # it is nothing of that tool, and nobody would look for the run under another name
    view = there[each]
    assert view is not None
    _check_mark(run, view, force)
    return workspace, each


def _check_mark(run: Run, view: SessionView, force: bool) -> dict[str, Any]:
    mark: dict[str, Any] = view.info["metadata"].get(MARK) or {}
    if not force and not _is_of(run, mark):
        whose = f"was imported from {mark.get('source')} ({mark['from']})" if "from" in mark else "was not imported"
        raise ImportRefused(
            f"there is a session {view.workspace}/{view.name} that {whose}, not from {run.source}; give the imported "
            "one another --name or --workspace, or --force to add to it"
        )
    return mark


def _is_of(run: Run, mark: dict[str, Any]) -> bool:
    return mark.get("from") == run.kind and not {*mark.get("ids", ())}.isdisjoint(run.ids)


def _view(lake: str, workspace: str, name: str) -> SessionView | None:
    try:
        return Lake(lake).session(name, workspace)
    except SessionNotFoundError:
        return None


@contextmanager
def _alone(folder: str, run: str) -> Iterator[None]:
    """Keep other imports into the session away."""
    from dreamlake.storage.local import make_dirs
    from dreamlake.storage.lock import FileLock

    make_dirs(folder, False)
    try:
        lock = FileLock.acquire(os.path.join(folder, layout.IMPORT_LOCK_FILE), 0.0)
    except LockTimeoutError:
        raise ImportRefused(f"another import into {run} is running; wait for its end") from None
    with lock:
        yield


def _said(view: SessionView) -> str | None:
    """The status that session.json has, not what its silence makes of it."""
    status = view.info.get("status")
    return "running" if status == "lost" else status


def _date(session: Session, started: float | None, info: Any) -> None:
    """Let the session have begun when the run did."""
    if started is None or not math.isfinite(started):
        return
    try:
        at = datetime.fromtimestamp(started, UTC)
        if at < datetime.fromisoformat(info["createdAt"]):
            _update(session, createdAt=at.isoformat(timespec="microseconds"))
    except (ValueError, OverflowError, OSError):
        return


def _update(session: Session, **changes: Any) -> None:
    from dreamlake.format.point import take_value

    writer = session.writer
    taken: dict[str, Any] = take_value("metadata", changes)[0]
    writer.under_lock(lambda: writer.run_file.update(**taken))


def _own_time(ts: float) -> float:
    return ts if ts != -1.0 else math.nextafter(ts, 0.0)  # -1 asks for the time of another point


def _take(counts: Counter[Any], key: Any) -> bool:
    if counts[key] <= 0:
        return False
    counts[key] -= 1
    return True
