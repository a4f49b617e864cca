"""Objects on their way to a replica: counted, bounded in memory, stopped when the network is down, lost replies told
from other writers."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import dreamlake.storage.local as local
from dreamlake.engine.replica.ledger import Ledger
from dreamlake.engine.replica.progress import Progress
from dreamlake.engine.replica.state import Sent, digest
from dreamlake.notices import log
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import Cancelled, ObjectChanged, RemoteStore

Made = TypeVar("Made")

#: Requests that fail one after the other, none succeeding in between, before the pass ends: each took seconds already.
IN_A_ROW = 2
#: Bytes of segments that are on their way at once; one alone may be larger.
SEGMENT_BYTES = 32 << 20
#: Attempts at an object whose earlier writes turn out to have succeeded.
TRIES = 4

_TOLD = "fsync"  # the key in `seen`, beside paths, of whether it was told that the disk does not sync


class Stopped(Exception):
    """The pass ends early: somebody asked for it, or the network is down."""


class Foreign(Exception):
    """Another machine wrote the object: ``data``, which is ``version``."""

    def __init__(self, data: bytes, version: str) -> None:
        self.data = data
        self.version = version
        super().__init__(version)


class Gone(Exception):
    """An object that was on the replica is not there any more, as after somebody deleted the session there."""


@dataclass
class Outcome:
    """What one pass did.

    Parameters
    ----------
    objects, bytes
        What was sent.
    left
        Objects that are known to be unsent.
    ended
        Whether the pass ended early, so that there may be more of them.
    failures
        What could not be sent: the place, fit for messages, and why.
    conflicts
        A sentence for each track that another machine wrote.
    lost
        Whether an object that was sent before was not there any more.
    """

    objects: int = 0
    bytes: int = 0
    left: int = 0
    ended: bool = False
    failures: list[tuple[str, Exception]] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    lost: bool = False

    @property
    def complete(self) -> bool:
        """Whether the replica has all that the folder held when the pass began."""
        return not (self.left or self.ended or self.failures or self.conflicts)


class Room:
    """Bounds the bytes that several threads hold at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._freed = threading.Condition()

    @contextmanager
    def of(self, nbytes: int) -> Iterator[None]:
        """Wait for room for so many bytes, and hold it for the block; more than the limit has room alone."""
        with self._freed:
            while self._held and self._held + nbytes > self._limit:
                self._freed.wait()
            self._held += nbytes
        try:
            yield
        finally:
            with self._freed:
                self._held -= nbytes
                self._freed.notify_all()


class Sender:
    """Sends objects of one pass; used by several threads.

    Parameters
    ----------
    remote
        The replica's store.
    ledger
        The state, which is kept in step with what is sent.
    progress
        Is told how far the pass is.
    stop
        Is asked before each request whether the pass is to end.
    """

    def __init__(self, remote: RemoteStore, ledger: Ledger, progress: Progress, stop: Callable[[], bool]) -> None:
        self.remote = remote
        self.ledger = ledger
        self.outcome = Outcome()
        self.segments = Room(SEGMENT_BYTES)
        #: Whether this pass has made the session there, so that nobody else has begun a track of it.
        self.is_first = False
        self._progress = progress
        self._stop = stop
        self._lock = threading.Lock()
        self._in_a_row = 0

    # -- counting --------------------------------------------------------------------------------------------------

    def expect(self, objects: int, nbytes: int) -> None:
        """Count objects and bytes that are to be sent; less than 0 when there are fewer than was thought."""
        with self._lock:
            self.outcome.left += objects
            self._progress.objects_total += objects
            self._progress.bytes_total += nbytes

    def count(self, nbytes: int, told: int = 0) -> None:
        """Count one object of those expected as sent; `told` of its bytes were shown as progress before."""
        with self._lock:
            self.outcome.left -= 1
            self.outcome.objects += 1
            self.outcome.bytes += nbytes
            self._progress.objects_done += 1
            self._progress.bytes_done += nbytes - told

    def failed(self, place: str, error: Exception) -> None:
        """Note that something could not be sent."""
        with self._lock:
            if not any(where == place and str(known) == str(error) for where, known in self.outcome.failures):
                self.outcome.failures.append((place, error))

    def gone(self) -> Gone:
        """Note that something is not there any more, and return what is raised then."""
        self.outcome.lost = True
        return Gone()

    def conflict(self, sentence: str) -> None:
        """Note that a track was written by another machine."""
        with self._lock:
            if sentence not in self.outcome.conflicts:
                self.outcome.conflicts.append(sentence)

    # -- asking ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Let every thread stop before its next request."""
        self.outcome.ended = True

    def check(self) -> None:
        """Raise `Stopped` when the pass is to end."""
        if self.outcome.ended or self._stop():
            self.end()
            raise Stopped

    def ask(self, request: Callable[[], Made]) -> Made:
        """Make a request, unless the pass is to end. Failures in a row end it for all."""
        self.check()
        try:
            made = request()
        except (FileNotFoundError, FileExistsError, ObjectChanged):
            self._in_a_row = 0
            raise
        except OSError:
            self._in_a_row += 1
            if self._in_a_row >= IN_A_ROW:
                self.end()
            raise
        self._in_a_row = 0
        return made

    # -- sending ---------------------------------------------------------------------------------------------------

    def create(self, path: str, data: bytes) -> bool:
        """Send a segment, which must be new there, or the same. Raises `Foreign` when it is another.

        Where a filesystem shows files half written, the first bytes of it count as an upload that was cut off.

        Returns
        -------
        bool
            Whether it is new there; on S3 also where the same bytes were there, as after a lost reply.
        """
        is_new = True
        try:
            self.ask(lambda: self.remote.create(path, data))
        except FileExistsError:
            is_new = False
            there, version = self.ask(lambda: self.remote.read(path))
            if there != data:
                if not data.startswith(there):
                    raise Foreign(there, version) from None
                self.ask(lambda: self.remote.replace_if(path, data, version))
        self.count(len(data))
        return is_new

    def send_file(self, path: str, full: str, size: int) -> str:
        """Send a file of this machine, whatever is there, in bounded memory; return the version that is there now.

        The pass can end in the middle of it.
        """
        gone = 0

        def watch(nbytes: int) -> bool:
            nonlocal gone
            with self._lock:
                gone += nbytes
                self._progress.bytes_done += nbytes
            return not (self.outcome.ended or self._stop())

        try:
            version = self.ask(lambda: self.remote.put_file(path, full, watch))
        except BaseException as error:
            with self._lock:
                self._progress.bytes_done -= gone
            if isinstance(error, Cancelled):
                self.end()
                raise Stopped from None
            raise
        self.count(size, gone)
        return version

    def note(self, objects: Iterable[tuple[Sent, str]]) -> int:
        """Note what is going to be sent, each with its SHA-256; the number is for `replace`, of any of these."""
        with self.ledger:
            for sent, sha in objects:
                sent.about_to_send(sha)
            return self.ledger.number + 1

    def replace(
        self,
        path: str,
        data: bytes,
        sent: Sent,
        check: Callable[[bytes, str], None] = lambda data, version: None,
        noted: int | None = None,
    ) -> None:
        """Send an object in the place of the version that was written or read here last.

        A refusal by bytes that were sent lately is the lost reply to that, and its version is replaced instead.

        Parameters
        ----------
        sent
            What is known of the object; is kept in step.
        check
            Is called with the bytes and the version of such a lost reply before it is believed; may raise `Foreign`.
        noted
            What `note` returned, where what is sent was noted with other objects.

        Raises
        ------
        Foreign
            Another machine wrote what is there.
        Gone
            Nothing is there any more; `sent` says so now.
        """
        sha = digest(data)
        for _ in range(TRIES):
            if sent.version is not None and sent.sha == sha:
                break
            if noted is None or sent.lately[-1:] != [sha]:
                noted = self.note([(sent, sha)])
            self.ledger.save(noted)
            try:
                version = self.ask(lambda: self.remote.replace_if(path, data, sent.version))
            except (FileExistsError, ObjectChanged):
                self.understand(path, sent, check)
                continue
            with self.ledger:
                sent.is_sent(version, sha)
            break
        else:
            raise OSError(errno.EBUSY, "it changes as fast as it is written", self.remote.describe(path))
        self.count(len(data))

    def understand(self, path: str, sent: Sent, check: Callable[[bytes, str], None]) -> None:
        """Find out what is in the place of the known version: what was sent lately becomes it; raises as `replace`."""
        try:
            there, version = self.ask(lambda: self.remote.read(path))
        except FileNotFoundError:
            with self.ledger:
                sent.version = sent.sha = None
            raise self.gone() from None
        sha = digest(there)
        if sha not in sent.lately:
            raise Foreign(there, version)
        check(there, version)
        with self.ledger:
            sent.is_sent(version, sha)


# ------------------------------------------------------------------------------------------------ the disk, before


def make_last(here: LocalStore, path: str, seen: dict[str, Any]) -> None:
    """Make a file of the session `here` last, with its name, before bytes that were read from it are sent.

    Else a power cut could take from this disk what the replica has by then. This side would go on from the older form,
    and send that in the place of the newer one, or meet points of its own as another machine's.

    Where the disk refuses, that is told once, and they are sent all the same: what it may lose is best kept elsewhere.

    Parameters
    ----------
    seen
        What passes keep from one to the next.
    """
    full = here.describe(path)
    if os.path.islink(full):
        return  # to another file of the session
    folder = os.path.dirname(full)
    try:
        local.fsync_file(full)
        local.fsync_dir(folder)
        while folder not in seen and len(folder) > len(here.root):
            local.fsync_dir(os.path.dirname(folder))
            seen[folder] = True
            folder = os.path.dirname(folder)
    except FileNotFoundError:
        return  # it has become another since
    except OSError as error:
        if _TOLD not in seen:
            seen[_TOLD] = True
            log().warning("%s is uploaded, and may not outlast a power loss here: %s", full, error)
