"""The writers' lock of a session, and the change counter in it that tells a writer whether it has anything to learn."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, NamedTuple

from dreamlake.format.about import is_last_ts
from dreamlake.storage.lock import FileLock

#: Length of the lock file.
COUNTER_BYTES = 128
_WRITTEN = re.compile(rb'\{"changes": (\d{1,20}), "rewrites": (\d{1,20}), "lastTs": (-?\d[\d.e+-]{0,30})\} *\n')


class Counter(NamedTuple):
    """What the lock file says: raised before the first write under the lock, so a crash never hides a change."""

    #: Flushes so far that wrote anything.
    changes: int
    #: Those among them that did anything but append to hot files: a roll, a rewritten hot file, a next generation.
    rewrites: int
    #: The highest automatic timestamp drawn so far, float seconds since the epoch.
    last_ts: float

    def encode(self) -> bytes:
        last = "null" if self.last_ts == -inf else repr(self.last_ts)
        content = f'{{"changes": {self.changes}, "rewrites": {self.rewrites}, "lastTs": {last}}}'  # JSON, at each flush
        # Of one length, since it is replaced in place: a kill must not leave the end of a longer one behind it.
        return content.ljust(COUNTER_BYTES - 1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> "Counter | None":
        """Return what the bytes say; None for a new or damaged file, after which everything has to be read again."""
        written = _WRITTEN.fullmatch(data)  # as `encode` writes it: a fifth of what it takes otherwise, at each flush
        try:
            fields: dict[str, Any]
            if written is not None:
                fields = {"changes": written[1], "rewrites": written[2], "lastTs": float(written[3])}
            else:
                fields = json.loads(data)
            last = fields["lastTs"]
            if last is not None and not is_last_ts(last):
                return None
            return cls(int(fields["changes"]), int(fields["rewrites"]), -inf if last is None else float(last))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None


class SessionLock:
    """The lock of one session folder as one writer sees it. Not thread-safe: only the writer's thread uses it.

    With `single_writer` nothing is locked, for filesystems without locks; the counter is kept all the same.
    """

    def __init__(self, path: str, single_writer: bool) -> None:
        self.path = path
        self.single_writer = single_writer
        self._seen: Counter | None = None
        self._now: Counter | None = None
        self._file: FileLock | None = None
        #: Raised when another writer has changed anything: what was known of hot files may lack their newest lines.
        self.tail_epoch = 0
        #: Raised when another writer did more than append: nothing that was known of a track can be trusted.
        self.full_epoch = 0

    @contextmanager
    def hold(self, timeout: float, last_ts: float = -inf) -> Iterator[Counter]:
        """Hold the lock; raise the counter first. Yields the counter as it was found.

        After an error in the block, what this process has changed counts as another's at the next hold: a track of
        which a rewrite was announced is learnt anew, since it may be half-way.

        Raises
        ------
        LockTimeoutError
            Another process held the lock for `timeout` seconds.
        LocksUnsupportedError
            The filesystem has no locks; ``single_writer=True`` is the remedy.
        """
        with FileLock.acquire(self.path, timeout, locked=not self.single_writer) as lock:
            self._file = lock
            try:
                found = self._notice(lock.read())
                self._raise(found, last_ts)
                yield found
                self._seen = self._now  # not after an error
            finally:
                self._file = None

    @property
    def has_announced(self) -> bool:
        """Whether a rewrite was announced since the lock was taken."""
        now, seen = self._now, self._seen
        return now is not None and seen is not None and now.rewrites != seen.rewrites

    def announce_rewrite(self) -> None:
        """Say in the lock file that more than appending follows; called before it is done."""
        now = self._now
        if now is not None and not self.has_announced:
            self._store(now._replace(rewrites=now.rewrites + 1))

    def cover(self, last_ts: float) -> None:
        """Say in the lock file that automatic timestamps up to this one are drawn; called before they are written."""
        now = self._now
        if now is not None and last_ts > now.last_ts:
            self._store(now._replace(last_ts=last_ts))

    def _notice(self, data: bytes) -> Counter:
        found = Counter.decode(data)
        seen = self._seen
        if found is None or seen is None or found.rewrites != seen.rewrites:
            self.tail_epoch += 1
            self.full_epoch += 1
        elif found.changes != seen.changes:
            self.tail_epoch += 1
        # After damage the counter starts where no earlier one can have been.
        return found or Counter(time.time_ns() if data else 0, 0, -inf)

    def _raise(self, found: Counter, last_ts: float) -> None:
        self._seen = found
        self._store(Counter(found.changes + 1, found.rewrites, max(found.last_ts, last_ts)))

    def _store(self, counter: Counter) -> None:
        assert self._file is not None
        self._file.write(counter.encode())
        self._now = counter
