"""The log of a session on disk: lines appended to logs.jsonl, and full files put aside."""

import os
import re
from threading import Lock
from typing import Any

import dreamlake.storage.local as local
from dreamlake.engine.footing import Footing
from dreamlake.format import layout, point

#: Lines of a log file before it is put aside and a new one begins.
FILE_LINES = 10_000
#: Bytes at which it is put aside too: readers take a log file whole, and none beyond a bound.
FILE_BYTES = 64 << 20
#: Bytes that are encoded and written at once, and a last record.
PART_BYTES = 4 << 20


class LogFile:
    """Log records of one session that wait to be written, and the file they go to.

    `add` may be called from any thread; everything else happens on the writer's thread, under the session's lock.

    Parameters
    ----------
    lock
        Guards what waits; held for microseconds.
    """

    def __init__(self, folder: str, fsync: bool, footing: Footing, lock: Lock) -> None:
        self.folder = os.path.join(folder, layout.LOGS_DIR)
        self.path = os.path.join(self.folder, "logs.jsonl")
        self.fsync = fsync
        self.footing = footing
        self._lock = lock
        self.pending: list[dict[str, Any]] = []
        #: What each of these takes, about; 0 for the writer's own.
        self._sizes: list[int] = []
        #: And all of them.
        self.nbytes = 0
        self._epoch: int | None = None
        #: Whether an fsync of the file failed: what is in it may not be on disk, whatever a second one says.
        self._doubtful = False
        self._size = 0
        self._lines = 0
        self._next = 0

    def add(self, record: dict[str, Any], nbytes: int = 0) -> None:
        """Take a record, without its sequence number, which takes about so many bytes. The lock is held."""
        self.pending.append(record)
        self._sizes.append(nbytes)
        self.nbytes += nbytes

    def clear(self) -> None:
        """Drop what waits: in a forked child it is the parent's."""
        self.pending, self._sizes, self.nbytes = [], [], 0

    @property
    def waiting(self) -> int:
        """How many records of the user's wait, those left out that say how the run ends. The lock is held."""
        return len(self._sizes) - self._sizes.count(0)

    def flush(self, epoch: int) -> None:
        """Write what waits; `epoch` is the lock's `tail_epoch`: it stands still while no other process writes."""
        records = self.pending[:]
        if not records:
            return
        if self._epoch != epoch:
            self._learn()
            self._epoch = epoch
        if self.fsync:
            self.footing.secure(self.folder)
        if self._doubtful:
            local.atomic_write(self.path, local.read_if_there(self.path), fsync=True)
            self._doubtful = False
        while records:
            if self._lines >= FILE_LINES or self._size >= FILE_BYTES:
                self._put_aside()
            if not self._size:
                self._let_last_what_was_put_aside()
            data = self._encoded(records[: FILE_LINES - self._lines])
            written = 0
            try:
                local.append_at(self.path, self._size, data, self.fsync)
                written = len(data)
            except local.PartialWriteError as error:
                written = error.written
                raise
            except local.FsyncFailed:
                # The records go, and are written again, to a new file.
                self._doubtful = True
                written = 0 if local.cut_off(self.path, self._size) else len(data)
                raise
            except local.SizeChanged as error:
                raise OSError(f"{error}: another program writes to the file") from error
            finally:  # lines that are in the file are not written again, whatever came after them
                if written < len(data):
                    self.forget()
                count = data.count(b"\n", 0, written)
                with self._lock:
                    self.nbytes -= sum(self._sizes[:count])
                    del self.pending[:count], self._sizes[:count]
                self._size += written
                self._lines += count
                self._next += count
            del records[:count]

    def _encoded(self, records: list[dict[str, Any]]) -> bytes:
        """The lines of the first of these records, as many as are written at once."""
        lines: list[bytes] = []
        size = 0
        for number, record in enumerate(records, self._next):
            if size >= min(PART_BYTES, FILE_BYTES - self._size):
                break
            lines.append(_line(number, record))
            size += len(lines[-1])
        return b"".join(lines)

    def forget(self) -> None:
        """Read the file again before the next write."""
        self._epoch = None

    def _learn(self) -> None:
        local.check_inside(os.path.dirname(self.folder), self.folder)
        local.make_dirs(self.folder, self.fsync)
        data = local.read_if_there(self.path)
        self._size = data.rfind(b"\n") + 1
        self._lines = data.count(b"\n")
        if len(data) > self._size:
            local.truncate(self.path, self._size)
        last = _last_number(data[: self._size])
        self._next = (self._last_number_put_aside() if last is None else last) + 1

    def _archives(self) -> list[int]:
        numbers = (layout.parse_log_archive(name) for name in os.listdir(self.folder))
        return sorted(number for number in numbers if number is not None)

    def _last_number_put_aside(self) -> int:
        for number in reversed(self._archives()):
            path = os.path.join(os.path.dirname(self.folder), layout.log_archive(number))
            last = _last_number(local.read_if_there(path))
            if last is not None:
                return last
        return -1

    def _put_aside(self) -> None:
        archives = self._archives()
        target = layout.log_archive(archives[-1] + 1 if archives else 0)
        local.os_.rename(self.path, os.path.join(os.path.dirname(self.folder), target))
        self._size = self._lines = 0

    def _let_last_what_was_put_aside(self) -> None:
        """See that the file before has its other name for good: a new one is about to take the one that it had.

        Not in `_put_aside`: where this fails it is tried again, by the next flush or the next process.
        """
        if self._archives():
            local.fsync_dir(self.folder)


def _line(number: int, record: dict[str, Any]) -> bytes:
    import msgspec

    try:
        return msgspec.json.encode({"sequenceNumber": number, **point.to_json(record)}) + b"\n"
    except MemoryError:
        raise
    except Exception as error:  # it would fail each time, and hold up for good all that came after it
        from dreamlake.engine.runfile import iso_now

        said = f"a record cannot be written, and is missing here: {type(error).__name__}: {error}"
        message = said.encode(errors="backslashreplace").decode()
        return _line(number, {"timestamp": iso_now(), "level": "error", "message": message})


def _last_number(data: bytes) -> int | None:
    """Return the highest sequence number in these lines: the last one's, unless that line is damaged."""
    return max(map(int, re.findall(rb'^\{"sequenceNumber": ?(\d{1,18})\b', data, re.MULTILINE)), default=None)
