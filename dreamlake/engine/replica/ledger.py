"""The state of a replica while several threads send to it: changed under a lock, and saved once for all who wait."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from dreamlake.engine.replica.reserve import Reserve
from dreamlake.engine.replica.state import ReplicaState, save

#: Seconds for which what was sent may be known in memory only; after a crash it is found out by comparing.
BREATH = 1.0


class Ledger:
    """The state of the session in `folder`. A context manager: the state is changed in its ``with`` block."""

    def __init__(self, folder: str, state: ReplicaState, reserve: Reserve | None = None) -> None:
        self.folder = folder
        self.state = state
        self._reserve = reserve or Reserve(folder)
        self._changing = threading.Lock()
        self._saving = threading.Lock()
        self._changes = 0
        self._saved = 0
        self._saved_at = time.monotonic()

    def __enter__(self) -> ReplicaState:
        self._changing.acquire()
        return self.state

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._changes += 1
        self._changing.release()

    @property
    def number(self) -> int:
        """Counts the changes; one that is being made is the next."""
        return self._changes

    def save(self, number: int | None = None) -> None:
        """See that all changes up to this one, by default the newest, are on disk, with whatever else changed.

        Raises
        ------
        OSError
            The disk failed.
        """
        wanted = self._changes if number is None else number
        with self._saving:
            if self._saved >= wanted:
                return
            with self._changing:
                number = self._changes
                self._reserve.with_room(lambda: save(self.folder, self.state))
            self._saved = number
            self._saved_at = time.monotonic()

    def breathe(self) -> None:
        """Save now and then, so that a crash in the middle of a long upload costs little."""
        if time.monotonic() - self._saved_at > BREATH:
            self.save()
