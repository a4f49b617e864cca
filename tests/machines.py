"""What the tests of comparing and taking over share: machines, each with a lake of its own, and one replica."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dreamlake import Session
from dreamlake.engine.overlay import OverlayStore
from dreamlake.engine.reader import TrackReader
from dreamlake.engine.replica import check, pull, state
from dreamlake.engine.replica.check import Findings
from dreamlake.engine.replica.push import push
from dreamlake.engine.sessionlock import SessionLock
from dreamlake.format import layout
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore

SESSION = "w/s"
Points = Sequence[Mapping[str, Any]]


def below(track: str) -> str:
    """The folder of a track below the session."""
    return layout.track_dir(track)


def points(start: int, stop: int, **more: Any) -> list[dict[str, Any]]:
    """Points with explicit timestamps, so that every machine makes the same ones."""
    return [{"i": i, "v": i / 7, **more, "_ts": 1000.0 + i} for i in range(start, stop)]


class Machine:
    """A machine that writes the session ``w/s`` into `root`, with its replica in `store`; segments hold ten points."""

    def __init__(self, root: Path, store: RemoteStore) -> None:
        self.root = root
        self.store = store
        self.folder = root / SESSION

    def copy(self, root: Path) -> Machine:
        """Another machine with a copy of all that this one has."""
        shutil.copytree(self.root, root)
        return Machine(root, self.store)

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, given: Points, track: str = "loss", **options: Any) -> Machine:
        """Append points, and close the session."""
        with self.session(**options) as session:
            for fields in given:
                session.track(track).append(**fields)
        return self

    def session(self, **options: Any) -> Session:
        """The session, which is not replicated by itself."""
        return Session("s", "w", self.root, **{"segment_points": 10, "flush_interval": 3600.0, **options})

    # -- the replica -----------------------------------------------------------------------------------------------

    @property
    def known(self) -> state.RemoteState:
        """What is known of the replica."""
        return state.load(str(self.folder)).remote(self.store.describe())

    def of(self, track: str = "loss") -> state.TrackState:
        """What is known of a track there."""
        return self.known.tracks[below(track)]

    def push(self) -> Machine:
        """Upload all there is."""
        outcome = push(str(self.folder), SESSION, self.store, state.load(str(self.folder)))
        assert outcome.complete, outcome
        return self

    def check(self) -> Findings:
        """Compare, and keep what was found out."""
        known = state.load(str(self.folder))
        tree = check.look(self.store, SESSION)
        found = check.compare(str(self.folder), SESSION, self.store, known.remote(self.store.describe()), tree)
        state.save(str(self.folder), known)
        return found

    def pull(self, *tracks: str) -> float:
        """Take these tracks over."""
        return self._take(partial(pull.pull, tracks=[below(track) for track in tracks]))

    def adopt(self) -> float:
        """Take over the session."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self._take(pull.adopt)

    def _take(self, take: Any) -> float:
        known = state.load(str(self.folder))
        tree = check.look(self.store, SESSION)
        lock = SessionLock(str(self.folder / layout.LOCK_FILE), False)
        with lock.hold(5.0):
            lock.announce_rewrite()
            found: float = take(str(self.folder), SESSION, self.store, known.remote(self.store.describe()), tree)
        state.save(str(self.folder), known)
        return found

    def forget(self) -> Machine:
        """Lose what is known of the replica."""
        (self.folder / layout.REPLICA_FILE).unlink()
        return self

    # -- reading ---------------------------------------------------------------------------------------------------

    def rows(self, track: str = "loss") -> list[dict[str, Any]]:
        """The points of a track as this machine sees them, those that are away read from the replica."""
        return _rows(OverlayStore(LocalStore(self.root), lambda: self.store), track)

    def remote_rows(self, track: str = "loss") -> list[dict[str, Any]]:
        """The points of a track on the replica."""
        return _rows(self.store, track)

    def files(self, track: str = "loss") -> set[str]:
        """The names in a track's folder here."""
        return {path.name for path in (self.folder / below(track)).iterdir()}

    def away(self, track: str = "loss") -> list[str]:
        """The segments of a track that are away, in order."""
        from dreamlake.engine import away

        here = self.files(track)
        return sorted(n.filename for n in away.read(str(self.folder / below(track))) if n.filename not in here)


def _rows(store: Any, track: str) -> list[dict[str, Any]]:
    snapshot = TrackReader(store, f"{SESSION}/{below(track)}", track).snapshot()
    found = snapshot.points(0, snapshot.total)
    assert [index for index, _ in found] == list(range(snapshot.total))
    return [fields for _, fields in found]
