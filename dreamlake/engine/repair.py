"""Repair of a session on this machine: what can be saved is saved, what is damaged is kept beside, all of it is told.

Under the session's lock, and so beside writers of other processes, which learn everything anew afterwards. No step
gives up a point, or a field of a point, whose place is known, unless that was asked for. A repair that is cut off
leaves the session as good as it was, and done again comes to the same end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from dreamlake.engine.findings import Finding, is_damaged, with_remedies
from dreamlake.engine.gather import ReplicaSource, session_object
from dreamlake.engine.hosts import read_parameters
from dreamlake.engine.inspect import look_at_session
from dreamlake.engine.inspecttrack import TrackLook
from dreamlake.engine.mending import Step, log_file, parameters_file, session_file, set_aside
from dreamlake.engine.repairtrack import TrackRepair, read_or_refuse
from dreamlake.engine.replica import state as states
from dreamlake.engine.sessionlock import SessionLock
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.store import Store

#: Seconds that another process which writes, or sends, is waited for.
PATIENCE = 30.0
_CONSENT = "this is lost for good only if you say so (--give-up-lost)"


@dataclass
class Report:
    """What a repair did and did not.

    Parameters
    ----------
    steps
        All that it did, or (a dry run, or refused) would do.
    failures
        The places that could not be repaired, and why.
    findings
        What is still wrong afterwards.
    """

    steps: list[Step] = field(default_factory=list)
    failures: list[tuple[str, Exception]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is damaged any more."""
        return not self.failures and not is_damaged(self.findings)


def repair_session(
    root: str,
    session: str,
    tracks: Iterable[str] | None = None,
    *,
    remote: Store | None = None,
    give_up_lost: bool = False,
    dry_run: bool = False,
    timeout: float = PATIENCE,
) -> Report:
    """Repair a session.

    Parameters
    ----------
    root, session
        The lake's folder on this machine, and the session's folder below it.
    tracks
        Only these tracks; None for all, and the session's own files.
    remote
        The root of the lake with the replica, where what is damaged here may be whole.
    give_up_lost
        Whether points and fields that nothing holds any more are given up: a statement takes their place, their indices
        stay theirs.
    dry_run
        Whether nothing is changed, and it is only told what would be done.
    timeout
        Seconds to wait for other processes that write to the session.

    Raises
    ------
    LockTimeoutError, LocksUnsupportedError
        The lock cannot be had.
    OSError
        The disk fails, or the replica does not answer.
    """
    repair = _Repair(os.path.abspath(root), session, remote, give_up_lost, dry_run)
    store = repair.store
    found = look_at_session(store, session, tracks)
    if not _needs(*found):
        return Report(findings=_all(*found))
    with ExitStack() as stack:
        if not dry_run:
            if os.path.exists(os.path.join(repair.folder, layout.REPLICA_FILE)):
                stack.enter_context(states.hold(repair.folder, timeout))
            lock = SessionLock(os.path.join(repair.folder, layout.LOCK_FILE), single_writer=False)
            counter = stack.enter_context(lock.hold(timeout))
            lock.announce_rewrite()
        own, looks = look_at_session(store, session, tracks) if not dry_run else found
        repair.guard = repair.unasked_replicas()
        repair.own_files(own, looks)
        for look in looks:
            if _needs([], [look]):
                repair.attempt(look.folder, partial(repair.track, look.name))
        if not dry_run and counter.last_ts == float("-inf"):  # a damaged lock file, or a lost one
            lock.cover(repair.last_ts(looks) or counter.last_ts)
    report = repair.report
    report.findings = _all(*look_at_session(store, session, tracks))
    return report


def _needs(own: list[Finding], looks: list[TrackLook]) -> bool:
    return is_damaged(own) or any(is_damaged(look.findings) or look.torn for look in looks) or _stale(looks)


def _stale(looks: list[TrackLook]) -> bool:
    """Whether there are damaged files that do not count: they are put out of the way."""
    return any(seen.damage for look in looks for seen in look.segments.values())


def _all(own: list[Finding], looks: list[TrackLook]) -> list[Finding]:
    return [*own, *(finding for look in looks for finding in look.findings)]


class _Repair:
    """See `repair_session`."""

    def __init__(self, root: str, session: str, remote: Store | None, give_up: bool, dry_run: bool) -> None:
        self.store = LocalStore(root)
        self.session = session
        self.folder = self.store.describe(session)
        self.replica = ReplicaSource(remote, session) if remote is not None else None
        self.give_up = give_up
        self.dry_run = dry_run
        self.report = Report()
        #: By track folder: the replicas that may hold what is lost here, and were not asked.
        self.guard: dict[str, list[str]] = {}

    # -- steps -----------------------------------------------------------------------------------------------------

    def attempt(self, place: str, work: partial[None]) -> None:
        """Do one thing; what fails is noted, and does not keep the repair from the others."""
        try:
            work()
        except (OSError, ValueError) as error:
            self.report.failures.append((self.store.describe(place), error))

    def take(self, steps: Iterable[Step], below: str = "") -> bool:
        """Run steps, as far as they may be; returns whether any was."""
        ran = False
        for step in steps:
            self.report.steps.append(step)
            step.refused = self._refusal(step, below)
            if step.run is not None and not step.refused and not self.dry_run:
                step.run()
                step.done = ran = True
        return ran

    def _refusal(self, step: Step, below: str) -> str:
        if step.run is None:
            return "nothing can be done"
        if step.gives_up and (replicas := self.guard.get(below)):
            return f"{' and '.join(replicas)} may have it: give --remote"
        return _CONSENT if step.gives_up and not self.give_up else ""

    def track(self, name: str) -> None:
        """Repair one track."""
        below = layout.track_dir(name)
        repair = TrackRepair(self.store, self.session, name, self.replica)
        if self.take(repair.state_steps(), below):  # these say which segments there are
            repair = TrackRepair(self.store, self.session, name, self.replica)
        self.take(repair.steps(), below)

    # -- replicas --------------------------------------------------------------------------------------------------

    def unasked_replicas(self) -> dict[str, list[str]]:
        """For each track, the replicas that hold something of it and were not given."""
        path = os.path.join(self.folder, layout.REPLICA_FILE)
        try:
            state = states.decode_state(self.store.get(f"{self.session}/{layout.REPLICA_FILE}"))
        except FileNotFoundError:
            return {}
        except (ValueError, CorruptTrackError):
            if self.replica is not None:
                return {}
            names = look_at_session(self.store, self.session)[1]
            return {layout.track_dir(look.name): [f"a replica, which the damaged {path} named,"] for look in names}
        asked = self.replica.store.describe() if self.replica is not None else ""
        found: dict[str, list[str]] = {}
        for url, known in state.remotes.items():
            for below, track in known.tracks.items():
                if url != asked and (track.runs or track.hot.version is not None):
                    found.setdefault(below, []).append(url)
        return found

    def _machine(self) -> str | None:
        """The machine's id, where its own files are below ``hosts/`` on the replica."""
        if self.replica is None:
            return None
        state = states.load(self.folder)
        known = state.remotes.get(self.replica.store.describe())
        return state.machine if known is not None and known.origin is False else None

    # -- the session's own files -----------------------------------------------------------------------------------

    def own_files(self, own: list[Finding], looks: list[TrackLook]) -> None:
        """Repair session.json, parameters, logs and the state of the replica."""
        for path in dict.fromkeys(finding.path for finding in own if not finding.note):
            below = os.path.relpath(path, self.folder).replace(os.sep, "/")
            self.attempt(f"{self.session}/{below}", partial(self._own_file, path, below, looks))

    def _own_file(self, path: str, below: str, looks: list[TrackLook]) -> None:
        if below == layout.REPLICA_FILE:
            does = "it goes away: what was sent is found out by comparing"
            self.take([Step(path, does, partial(set_aside, path))])
            return
        data = read_or_refuse(path)
        if isinstance(data, Step):
            self.take([data])
        elif below == layout.SESSION_FILE:
            known = session_object(self.replica, below, self._machine())
            workspace, name = layout.session_names(self.session)
            rebuilt = session_file(self.folder, workspace, name, data, self.last_ts(looks), known)
            self.take([rebuilt.step(path, "what the run said of itself")])
        elif below == layout.PARAMETERS_FILE:
            known = None
            if self.replica is not None:
                machine = self._machine()
                there = below if machine is None else f"{layout.HOSTS_DIR}/{machine}/{below}"
                known = read_parameters(self.replica.store, f"{self.session}/{there}")
            self.take([parameters_file(data, known).step(path, "the parameters")])
        elif below.startswith(f"{layout.LOGS_DIR}/"):
            self.take([log_file(path, data)])

    def last_ts(self, looks: list[TrackLook]) -> float | None:
        """The highest timestamp of a point that is no later than now: automatic ones go on above it."""
        stamps = [point["_ts"] for look in looks for _, points in look.runs for point in points]
        stamps += [info.ts_max for look in looks for info in look.infos.values()]
        return max((ts for ts in stamps if ts <= time.time() + 1), default=None)


# ------------------------------------------------------------------------------------------------ for a check


def told(store: Store, session: str, tracks: Iterable[str] | None = None) -> list[Finding]:
    """All that is wrong with a session, and what a repair would do about it."""
    own, looks = look_at_session(store, session, tracks)
    findings = _all(own, looks)
    if not is_damaged(findings):
        return findings
    if not isinstance(store, LocalStore):
        return with_remedies(findings, lambda finding: "none here: repair works on the folder of the run")
    report = repair_session(store.root, session, tracks, dry_run=True)
    return with_remedies(findings, lambda finding: _remedy(finding, report.steps))


def _remedy(finding: Finding, steps: Iterable[Step]) -> str:
    steps = list(steps)
    fitting = [step for step in steps if step.path == finding.path]
    fitting = fitting or [step for step in steps if os.path.dirname(step.path) == finding.path]
    if not fitting:
        return "none"
    said = [step.does + (f"; lost for good: {step.loses}" if step.loses else "") for step in fitting]
    consent = " (with --give-up-lost)" if any(step.gives_up for step in fitting) else ""
    return "; ".join(dict.fromkeys(said)) + consent
