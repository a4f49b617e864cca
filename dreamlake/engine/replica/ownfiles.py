"""What a machine says of a session as a whole, on its way to a replica: session.json, parameters, logs and files.

The machine that made the session on the replica has the plain names there. Every other writes its own below
``hosts/<machine>/``, and readers merge them.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import file_digest
from math import inf, isfinite
from typing import Any

from dreamlake.engine import hosts
from dreamlake.engine.process import side_by_side
from dreamlake.engine.replica.filesending import IN_FLIGHT, Attempt, FileSender
from dreamlake.engine.replica.meeting import created
from dreamlake.engine.replica.sending import Foreign, Gone, Sender, make_last
from dreamlake.engine.replica.stand import Stand, stand
from dreamlake.engine.replica.state import RemoteState, ReplicaState, Sent, digest
from dreamlake.engine.sessionlock import Counter
from dreamlake.errors import CorruptTrackError, LockTimeoutError
from dreamlake.format import layout
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.lock import FileLock

#: Seconds to wait for a writer of this process to let go of the session's lock.
LOCK_PATIENCE = 5.0
#: The same where this process knows its own highest timestamp, and may be the one that holds the lock.
BRIEFLY = 0.2
#: Times that the names may change in one pass.
MOVES = 3


class Moved(Exception):
    """The plain names turned out to be another machine's: all goes to this one's own, from the beginning."""


class OwnFiles:
    """Brings them up to date, once.

    Parameters
    ----------
    local
        The session's folder here.
    there
        The session's folder below the root of the replica's lake.
    state, known
        The state, and what it says of this replica; kept in step.
    seen
        What earlier passes saw of files, or an empty dict.
    last_ts
        The highest automatic timestamp; None: as the lock file says.
    """

    def __init__(
        self,
        local: LocalStore,
        there: str,
        state: ReplicaState,
        known: RemoteState,
        sender: Sender,
        seen: dict[str, Any],
        last_ts: float | None,
    ) -> None:
        self.local = local
        self.there = there
        self.state = state
        self.known = known
        self.sender = sender
        self.seen = seen
        self._last_ts = last_ts
        #: Whether what other machines say of files may be sent from here, too.
        self._guests_too = False

    # -- session.json ----------------------------------------------------------------------------------------------

    @property
    def is_unknown(self) -> bool:
        """Whether no session.json of this machine is known to be on the replica."""
        return self.known.origin is None or self.known.file(layout.SESSION_FILE).version is None

    def check(self) -> None:
        """See that there is a session.json here.

        Raises
        ------
        FileNotFoundError, CorruptTrackError
            There is none, or a damaged one.
        """
        self._session()

    def is_unheard_of(self) -> bool:
        """Whether readers of the replica cannot find the session; one LIST on S3 where it is not known."""
        if self.known.origin is not None:
            return False
        there = self.sender.ask(lambda: self.sender.remote.list(self.there))
        return not any(entry.name in (layout.SESSION_FILE, layout.HOSTS_DIR) for entry in there)

    def introduce(self) -> None:
        """Send session.json where none of this machine's is known to be there; find out whose the plain names are."""
        if self.known.origin is None:
            self._meet()
        elif self.known.file(layout.SESSION_FILE).version is None:
            self._again(self._conclude)

    def _conclude(self) -> None:
        self.send(layout.SESSION_FILE, self._session())

    def _meet(self) -> None:
        data = self._session()
        sent = self.known.file(layout.SESSION_FILE)
        path = f"{self.there}/{layout.SESSION_FILE}"
        make_last(self.local, layout.SESSION_FILE, self.seen)
        try:
            self._replace(path, data, sent)
        except Foreign as foreign:
            with self.sender.ledger:
                if created(data) is None or created(foreign.data) != created(data):
                    self._go_elsewhere()
                else:
                    self.known.origin = True
                    sent.is_sent(foreign.version, digest(foreign.data))
            self.introduce()
            return
        self.sender.is_first = True
        with self.sender.ledger:
            self.known.origin = True

    def _session(self) -> bytes:
        """The bytes of session.json, with the highest automatic timestamp, above which another machine goes on.

        That of all processes here: the lock file has what others than this one have drawn.
        """
        data = self.local.get(layout.SESSION_FILE)
        fields = self._object(layout.SESSION_FILE, data)
        last = max((ts for ts in (self._counter(), self._last_ts) if ts is not None), default=-inf)
        own = fields.get("lastTs")
        if not isfinite(last) or (isinstance(own, int | float) and own >= last):
            return data
        return _encode({**fields, "lastTs": last})

    def _counter(self) -> float | None:
        """The highest automatic timestamp by the lock file; None where nobody says, or this process holds the lock.

        Opened as a lock only: closing any other descriptor of the file would end a lock that this process holds.
        """
        path = self.local.describe(layout.LOCK_FILE)
        if not os.path.exists(path):
            return None
        patience = LOCK_PATIENCE if self._last_ts is None else BRIEFLY
        try:
            with FileLock.acquire(path, patience, locked=False) as lock:
                found = Counter.decode(lock.read())
        except LockTimeoutError:
            return None
        return None if found is None else found.last_ts

    # -- everything else -------------------------------------------------------------------------------------------

    def run(self, attempt: Attempt, meanwhile: Callable[[], None], interval: float) -> None:
        """Send logs, parameters, files and, last, session.json; `attempt` does one of them and notes what fails.

        Parameters
        ----------
        meanwhile
            Brings the tracks up to date, every `interval` seconds while large files are on their way.
        """

        def beside() -> None:
            meanwhile()
            attempt(layout.LOGS_DIR, self._send_logs)
            attempt(layout.PARAMETERS_FILE, self._send_parameters)

        self._again(lambda: self._run(attempt, beside, interval))

    def _run(self, attempt: Attempt, beside: Callable[[], None], interval: float) -> None:
        if self.known.file(layout.SESSION_FILE).version is None:
            self._conclude()
        attempt(layout.LOGS_DIR, self._send_logs)
        attempt(layout.PARAMETERS_FILE, self._send_parameters)
        self._guests_too = False
        attempt(layout.FILES_DIR, lambda: self._send_files(attempt, beside, interval))
        attempt(layout.HOSTS_DIR, self._send_guests)
        attempt(layout.SESSION_FILE, self._conclude)

    def _send_logs(self) -> None:
        current = self._changed(layout.LOGS_FILE)  # before the listing: what is put aside in between is sent twice
        for filename in self.local.names(layout.LOGS_DIR):
            path = f"{layout.LOGS_DIR}/{filename}"
            if layout.parse_log_archive(filename) is not None and self.known.file(path).version is None:
                self.send(path, self.local.get(path))
        if current is not None:
            data, stands = current
            self.send(layout.LOGS_FILE, data[: data.rfind(b"\n") + 1])
            self.saw(layout.LOGS_FILE, stands)

    def _send_parameters(self) -> None:
        data = parameters_to_send(self.local, self.known)
        if data is not None:
            self.send(layout.PARAMETERS_FILE, data)

    def _send_files(self, attempt: Attempt, beside: Callable[[], None], interval: float) -> None:
        """Send uploaded files, and what people put beside them."""
        if os.path.lexists(self.local.describe(layout.FILES_DIR)):
            strays = [path for path in self.local.walk(layout.FILES_DIR) if is_stray(path) and self._is_file(path)]
            side_by_side(lambda path: attempt(path, lambda: self._send_file(path)), strays, self.sender.remote.width)
        self._guests_too = FileSender(self, attempt, beside, interval).run()

    def _is_file(self, path: str) -> bool:
        return not path.rpartition("/")[2].startswith(layout.TMP_PREFIX) and not self.saw_already(path)

    def _send_file(self, path: str) -> None:
        full = self.local.describe(path)
        if not is_text(path):
            raise OSError(errno.EILSEQ, "its name is not UTF-8, so it has none on the replica: rename it", full)
        stands = stand(full)
        self.local.size(path)  # refuses a link that leads out of the session
        with open(full, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            sha = file_digest(file, "sha256").hexdigest()
        sent = self.known.file(path)
        if sent.version is None or sent.sha != sha:
            make_last(self.local, path, self.seen)
            self.sender.expect(1, size)
            with self.sender.segments.of(min(2 * size, IN_FLIGHT)):
                version = self.sender.send_file(f"{self.there}/{path}", full, size)
            with self.sender.ledger:
                sent.is_sent(version, sha)
        self.saw(path, stands)

    def _send_guests(self) -> None:
        """Send what other machines wrote, if this folder is a copy of a whole replica; what they sent stays."""
        own = f"{layout.HOSTS_DIR}/{self.state.machine}/"
        for path in self.local.walk(layout.HOSTS_DIR):
            says_of_files = path.endswith(f"/{layout.FILES_METADATA_FILE}")
            if says_of_files and not self._guests_too:
                continue  # some of the bytes that it may name are not there
            if not path.startswith(own) and is_text(path) and self._is_file(path):
                stands = stand(self.local.describe(path))
                data, sent = self.local.get(path), self.known.file(path)
                with suppress(Foreign):
                    if _is_news(data, sent):
                        self._replace(f"{self.there}/{path}", data, sent)
                self.saw(path, stands)

    # -- names there -----------------------------------------------------------------------------------------------

    def send(self, path: str, data: bytes) -> None:
        """Send one of the files whose names are this machine's own. Raises `Moved` when they turn out not to be."""
        sent = self.known.file(path)
        own = "" if self.known.origin else f"{layout.HOSTS_DIR}/{self.state.machine}/"
        try:
            if _is_news(data, sent):
                make_last(self.local, path, self.seen)
                self._replace(f"{self.there}/{own}{path}", data, sent)
        except Foreign:
            with self.sender.ledger:
                self._go_elsewhere()
            raise Moved from None

    def _replace(self, path: str, data: bytes, sent: Sent) -> None:
        self.sender.expect(1, len(data))
        for _ in range(MOVES):
            try:
                return self.sender.replace(path, data, sent)
            except Gone:  # it is written anew
                continue
            except Foreign:
                self.sender.expect(-1, -len(data))
                raise
        raise OSError(errno.EBUSY, "it is deleted as fast as it is written", self.sender.remote.describe(path))

    def _again(self, work: Callable[[], None]) -> None:
        for _ in range(MOVES):
            try:
                return work()
            except Moved:
                continue
        said = "other machines write to every name that is tried"
        raise OSError(errno.EBUSY, said, self.sender.remote.describe(self.there))

    def _go_elsewhere(self) -> None:
        """Write below ``hosts/`` from now on; if we do already, this folder is a copy of another, and needs an id."""
        if self.known.origin is False:
            self.state.machine = uuid.uuid4().hex[:16]
        self.known.origin = False
        for path in list(self.known.files):
            elsewhere = path.startswith((f"{layout.FILES_DIR}/", f"{layout.HOSTS_DIR}/"))
            if path == layout.FILES_METADATA_FILE or not elsewhere:
                self.known.files[path] = Sent()
                self.seen.pop(path, None)

    # -- what was seen ---------------------------------------------------------------------------------------------

    def _changed(self, path: str) -> tuple[bytes, Stand | None] | None:
        """The bytes of a file, and how it stood; None where there is none, or the one that was sent already."""
        stands = stand(self.local.describe(path))
        if self.saw_already(path):
            return None
        try:
            return self.local.get(path), stands
        except FileNotFoundError:
            return None

    def saw_already(self, path: str) -> bool:
        """Whether a file is the one that an earlier pass saw, when all there was to do with it was done."""
        found = self.seen.get(path)
        sent = self.known.files.get(path)
        return found is not None and sent is not None and found == (stand(self.local.describe(path)), sent.version)

    def saw(self, path: str, stands: Stand | None) -> None:
        """Note that all is done with a file that stands so."""
        if stands is not None:
            self.seen[path] = stands, self.known.file(path).version

    def _object(self, path: str, data: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise CorruptTrackError(self.local.describe(path), "the whole file", detail="it is not a JSON object")
        return fields


def _is_news(data: bytes, sent: Sent) -> bool:
    return bool(data) if sent.version is None else sent.sha != digest(data)


def is_stray(path: str) -> bool:
    """Whether a file below ``files/`` is none that dreamlake puts there."""
    return path != layout.FILES_METADATA_FILE and not layout.is_made_file(path)


def is_text(path: str) -> bool:
    """Whether a path has a UTF-8 form, as objects' names and the state need."""
    return path.isascii() or not any("\ud800" <= char <= "\udfff" for char in path)


def parameters_to_send(here: LocalStore, state: RemoteState) -> bytes | None:
    """The bytes that this machine's parameters.json should have on the replica; None where there is nothing to say.

    Raises
    ------
    CorruptTrackError
        The file here is damaged, and must not take the place of a good one. An empty one is taken for missing.
    """
    content = hosts.read_parameters(here, layout.PARAMETERS_FILE)
    if not content["version"]:
        return None
    data = here.get(layout.PARAMETERS_FILE)
    if state.origin or not state.base:
        return data
    fields = json.loads(data)
    fields["data"] = own = _differing(fields["data"], state.base)
    if not own and state.file(layout.PARAMETERS_FILE).version is None:
        return None
    return _encode(fields)


def _differing(own: Mapping[str, object], base: Mapping[str, object]) -> dict[str, object]:
    """The parameters that are not those of other machines."""
    return {key: value for key, value in own.items() if key not in base or _text(value) != _text(base[key])}


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)  # 1, 1.0 and true are three


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"
