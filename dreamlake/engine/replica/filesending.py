"""Uploaded files on their way to a replica: their bytes, then what is said of them, then what that names no more goes.

So no record on the replica ever names bytes that are not there.

The bytes at one path never change, so what was sent once is not looked at again. While much is on its way, tracks, logs
and parameters are brought up to date beside it.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dreamlake.engine.fileread import hash_stored, read_records, record_paths
from dreamlake.engine.filestore import named_paths
from dreamlake.engine.process import side_by_side
from dreamlake.engine.replica.sending import make_last
from dreamlake.engine.replica.stand import stand
from dreamlake.errors import CorruptFileError
from dreamlake.format import filerecord, layout
from dreamlake.notices import log

if TYPE_CHECKING:
    from dreamlake.engine.replica.ownfiles import OwnFiles
    from dreamlake.engine.replica.state import RemoteState
    from dreamlake.types import FileRecord

#: Looks at the records in one pass, while what they name is replaced before it is sent.
LOOKS = 5
#: Bytes that one file holds while it is sent, at most: two parts of it, and each once more on its connection.
IN_FLIGHT = 32 << 20
#: Bytes to send from which on the tracks are not kept waiting for them.
MUCH = 64 << 20

Attempt = Callable[[str, Callable[[], None]], None]


class FileSender:
    """Brings them up to date, once.

    Parameters
    ----------
    own
        The session's own files, of which they are a part.
    attempt
        Does one thing and notes what fails.
    meanwhile
        Brings all else up to date, while much is on its way.
    interval
        Seconds from one such time to the next.
    """

    def __init__(self, own: OwnFiles, attempt: Attempt, meanwhile: Callable[[], None], interval: float) -> None:
        self.own = own
        self.local = own.local
        self.known = own.known
        self.sender = own.sender
        self._attempt = attempt
        self._meanwhile = meanwhile
        self._interval = interval
        #: Of those that were to be sent: what is not here, what is damaged, and what failed otherwise.
        self._absent: list[str] = []
        self._damaged: list[str] = []
        self._failed: list[str] = []

    def run(self) -> bool:
        """Send what is new; return whether all records that other machines made may be sent, too.

        Raises
        ------
        CorruptFileError
            What is said of the files is damaged; nothing was sent.
        """
        if self.own.saw_already(layout.FILES_METADATA_FILE):
            return True
        if not os.path.lexists(self.local.describe(layout.FILES_DIR)):
            return True
        stands = stand(self.local.describe(layout.FILES_METADATA_FILE))
        for look in range(LOOKS):
            mine = read_records(self.local, layout.FILES_METADATA_FILE)  # before the bytes that they name
            others = [read_records(self.local, path) for path in record_paths(self.local, "")[1:]]
            records = filerecord.merged([*mine, *(record for each in others for record in each)])
            self._absent, self._damaged, self._failed = [], [], []
            self._send_all(records)
            if not self._absent or look == LOOKS - 1 or self._are_lost():
                break
        for path in self._absent:
            said = "its bytes are neither here nor on this replica: upload it again, or delete it"
            self.sender.failed(path, OSError(errno.ENODATA, said, self.local.describe(path)))
        if self._failed:
            return False
        lost = {*self._absent, *self._damaged}
        self._say(mine, lost)
        if not lost and self._remove_superseded(records):
            self.own.saw(layout.FILES_METADATA_FILE, stands)
        return not lost

    def _are_lost(self) -> bool:
        """Whether all that is absent is named as before, so that it is lost, and was not replaced meanwhile."""
        return named_paths(self.local).issuperset(self._absent)

    # -- bytes -----------------------------------------------------------------------------------------------------

    def _send_all(self, records: Iterable[FileRecord]) -> None:
        found = [(filerecord.stored_path(record), record) for record in records if filerecord.is_live(record)]
        unsent = [(path, record) for path, record in found if not is_there(self.known, path)]
        size = sum(record["sizeBytes"] for _, record in unsent)
        self.sender.expect(len(unsent), size)

        def work() -> None:
            side_by_side(lambda each: self._send_one(*each), unsent, self.sender.remote.width)

        if size < MUCH:
            work()
        else:
            self._beside(work)

    def _beside(self, work: Callable[[], None]) -> None:
        """Do `work` on another thread, and everything else meanwhile on this one."""
        raised: list[BaseException] = []
        ended = threading.Event()

        def run() -> None:
            try:
                work()
            except BaseException as error:
                raised.append(error)
            finally:
                ended.set()

        thread = threading.Thread(target=run, name="dreamlake-files", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is exiting
            work()
            return
        try:
            while not ended.wait(self._interval):
                self._meanwhile()
        except BaseException:
            self.sender.end()  # what is on its way stops at its next part
            raise
        finally:
            thread.join()
        if raised:
            raise raised[0]

    def _send_one(self, path: str, record: FileRecord) -> None:
        done = False

        def work() -> None:
            nonlocal done
            self._send(path, record)
            done = True

        self._attempt(path, work)
        if not done and path not in (*self._absent, *self._damaged):
            self._failed.append(path)

    def _send(self, path: str, record: FileRecord) -> None:
        full = self.local.describe(path)
        try:
            self._check(path, record)
            make_last(self.local, path, self.own.seen)
            with self.sender.segments.of(min(2 * record["sizeBytes"], IN_FLIGHT)):
                version = self.sender.send_file(f"{self.own.there}/{path}", full, record["sizeBytes"])
        except FileNotFoundError as error:
            if error.filename != full:
                raise
            self._absent.append(path)  # replaced meanwhile, perhaps
            self.sender.expect(-1, -record["sizeBytes"])
            return
        with self.sender.ledger:
            self.known.file(path).is_sent(version, record["checksum"])
        self.sender.ledger.breathe()

    def _check(self, path: str, record: FileRecord) -> None:
        """Read the bytes, and raise CorruptFileError where they are not those that were uploaded."""
        try:
            hash_stored(self.local, "", record)
        except CorruptFileError:
            self._damaged.append(path)
            raise

    # -- records ---------------------------------------------------------------------------------------------------

    def _say(self, mine: list[FileRecord], lost: set[str]) -> None:
        """Send what this machine says of files, but for what is lost, and what other machines said first."""
        sent = self.known.file(layout.FILES_METADATA_FILE)
        told = self.known.told
        own = [(filerecord.stored_path(record), record) for record in filerecord.merged(mine)]
        own = [(path, record) for path, record in own if path not in lost and told.get(path) != record["updatedAt"]]
        # None at all, where there were some, is a disk that lost them: the next comparison brings them back.
        if own or (mine and sent.version is not None):
            self.own.send(layout.FILES_METADATA_FILE, filerecord.encode(record for _, record in own))

    def _remove_superseded(self, records: list[FileRecord]) -> bool:
        """Delete bytes that were there, in the place of which this side has others, or none; returns whether it did."""
        by_place = {place_of(filerecord.stored_path(record)): record for record in records}
        for path in {*self.known.files, *self.known.told}:
            record = by_place.get(place_of(path)) if layout.is_made_file(path) else None
            if record is None or self.known.told.get(path) == record["updatedAt"]:
                continue  # what nothing is known of stays, and what another machine deleted is for that one
            if filerecord.is_live(record) and filerecord.stored_path(record) == path:
                continue
            if path in self.known.told or self.known.file(path).version is not None:
                self._delete(path)
            with self.sender.ledger:
                self.known.files.pop(path, None)
                self.known.told.pop(path, None)
        return True

    def _delete(self, path: str) -> None:
        there = f"{self.own.there}/{path}"
        try:
            self.sender.ask(lambda: self.sender.remote.delete(there))
        except PermissionError as error:  # no record names it any more: what stays is only room
            log().warning("%s is not needed any more and stays, since it may not be deleted: %s", there, error)


def is_there(known: RemoteState, path: str) -> bool:
    """Whether the bytes at this path below the session are on the replica, as far as is known."""
    sent = known.files.get(path)
    return path in known.told or (sent is not None and sent.version is not None)


def place_of(path: str) -> str:
    """The path without its id: two files of one place have it in common."""
    folder, _, filename = path.rpartition("/")
    return f"{folder.rpartition('/')[0]}/{filename}"
