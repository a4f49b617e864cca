"""What a process does to a session in the tests of sudden deaths, and how it tells so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from promises import NAME, SESSION, WORKSPACE, Promises, Teller

from dreamlake import Session
from dreamlake.storage.remote import RemoteStore

TRACK, SECOND = "a/b", "c"
HOUR = 3600.0


class Direct(Teller):
    """Tells whoever keeps the promises, without a pipe: for what is done in the same process."""

    def __init__(self, promises: Promises) -> None:
        self._promises = promises

    def say(self, what: Mapping[str, Any]) -> None:
        self._promises._take(dict(what))


class Actor:
    """One thread that writes; everything is told before it is done, and when it is acknowledged.

    Parameters
    ----------
    folder
        Holds the lake, in ``lake``, and its replica, in ``there``.
    teller
        To whom it is told.
    name
        Whose operations they are; in the names of fields too, so that two writers never set the same one.
    first
        The first id to use; further ids are `step` apart.
    known
        Timestamps of points that fields can be added to, by track.
    """

    def __init__(
        self,
        folder: str | Path,
        teller: Teller,
        name: str = "a",
        first: int = 0,
        known: Mapping[str, list[float]] | None = None,
        step: int = 1,
    ) -> None:
        self.folder = str(folder)
        self.teller = teller
        self.name = name
        self.next = first
        self.step = step
        self.known = {track: list(stamps) for track, stamps in (known or {}).items()}
        #: Called when the disk or the network failed, before the one repetition; None: an error ends it.
        self.heal: Callable[[], None] | None = None

    @property
    def root(self) -> str:
        """The folder of the lake."""
        return os.path.join(self.folder, "lake")

    @property
    def url(self) -> str:
        """Where its replica is."""
        return f"file://{self.folder}/there"

    def session(self, replica: bool = False, trims: bool = False, **options: Any) -> Session:
        """A session that flushes, uploads and rolls when it is told to, and rolls early."""
        remote = {"remote": self.url, "sync_interval": HOUR} if replica or trims else {}
        own = {"segment_points": 10, "flush_interval": HOUR, **remote, **options}
        return Session(NAME, WORKSPACE, None if trims else self.root, **own)

    def open(self, **options: Any) -> Session:
        """Open such a session."""
        made = self.session(**options)
        self.again(made.open)
        return made

    def number(self) -> int:
        """A number that nobody has used."""
        number, self.next = self.next, self.next + self.step
        return number

    def fields(self, explicit: bool, track: str) -> dict[str, Any]:
        """The fields of a point of its own; with an explicit timestamp it can be added to later."""
        number = self.number()
        fields: dict[str, Any] = {"id": number, "v": number / 7}
        if number % 3 == 1:
            fields["text"] = f"é{number}\n" * (number % 5)
        if number % 11 == 5:
            fields["list"] = [number, None, {"a": str(number)}]
        if explicit:
            fields["_ts"] = 1000.0 + number
            self.known.setdefault(track, []).append(fields["_ts"])
        return fields

    def points(self, session: Session, count: int = 1, explicit: bool = False, track: str = TRACK) -> None:
        """Append points, one after the other."""
        for _ in range(count):
            fields = self.fields(explicit, track)
            self.teller.tries("point", self.name, fields, track)
            session.track(track).append(**fields)

    def late(self, session: Session, place: int, track: str = TRACK) -> None:
        """Add a field to one of the points that can be added to."""
        number = self.number()
        fields = {f"{self.name}{number % 4}": number, "_ts": self.known[track][place]}
        self.teller.tries("late", self.name, fields, track)
        session.track(track).append(**fields)

    def batch(self, session: Session, rows: list[dict[str, Any]], points: Any = None, track: str = TRACK) -> bool:
        """Append these rows, in another form if one is given, as a batch; whether it has an answer."""
        self.teller.tries("point", self.name, rows, track)
        if session.track(track).append_batch(rows if points is None else points)["startIndex"] is None:
            return False
        self.teller.acknowledge("flush", self.name, track)
        return True

    def compact(self, session: Session, track: str = TRACK) -> None:
        """Merge neighbouring segments, which flushes first."""
        self.again(session.track(track).compact)
        self.teller.acknowledge("flush", self.name, track)

    def log(self, session: Session) -> None:
        """Log a message."""
        message = f"{self.name} {self.number()}"
        self.teller.tries("log", self.name, {"message": message})
        session.log(message)

    def parameter(self, session: Session) -> None:
        """Set a parameter, which is kept when this returns."""
        number = self.number()
        self.teller.tries("param", self.name, {f"{self.name}.{number % 3}": number})
        self.again(lambda: session.parameters().set(**{self.name: {str(number % 3): number}}))
        self.teller.acknowledge("last", self.name)

    def describe(self, session: Session, track: str = TRACK) -> None:
        """Describe a track, with the next flush."""
        number = self.number()
        fields = {f"{self.name}{number % 3}": number}
        self.teller.tries("about", self.name, fields, track)
        session.track(track, metadata=fields)

    def describe_session(self, **options: Any) -> Session:
        """Open the session with metadata, which is kept when it is open."""
        number = self.number()
        fields = {f"{self.name}{number % 3}": number}
        self.teller.tries("about", self.name, fields)
        opened = self.open(metadata=fields, **options)
        self.teller.acknowledge("last", self.name)
        return opened

    def flush(self, session: Session, track: str = "") -> None:
        """Flush all, or one track."""
        self.again(session.track(track).flush if track else session.flush)
        self.teller.acknowledge("flush", self.name, track)

    def sync(self, session: Session) -> None:
        """Bring the replica up to date."""
        self.again(session.sync)
        self.teller.acknowledge("sync", self.name)

    def close(self, session: Session, uploads: bool = False) -> None:
        """Close the session, which flushes; and uploads, where there is a replica."""
        how = "sync" if uploads else "flush"
        try:
            session.close()
        except OSError:
            if self.heal is None:
                raise
            self.heal()
            if not uploads:
                session.close()
            how = "flush"  # a session whose upload failed is closed all the same
        self.teller.acknowledge(how, self.name)

    def again(self, work: Callable[[], Any]) -> None:
        """Do something; where it fails and that can be healed, heal it and do it once more."""
        try:
            work()
        except OSError:
            if self.heal is None:
                raise
            self.heal()
            work()

    @property
    def session_folder(self) -> str:
        """The folder of the session."""
        return os.path.join(self.root, SESSION)


def finish(actor: Actor, folder: str | None = None) -> None:
    """Do what `dreamlake sync` does, a minute after the run was killed."""
    from dreamlake.engine.replica.sync import sync_folder

    folder = folder or actor.session_folder
    if not os.path.exists(f"{folder}/session.json"):
        return
    old = time.time() - 200
    if os.path.exists(f"{folder}/.lock"):
        os.utime(f"{folder}/.lock", (old, old))
    store = RemoteStore(actor.url)
    outcome = sync_folder(folder, SESSION, store)
    store.close()
    for _, error in outcome.failures:
        raise error
    assert not outcome.conflicts, outcome.conflicts
    assert outcome.complete, outcome
