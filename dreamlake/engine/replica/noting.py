"""What is going to be sent of a track is noted, with its SHA-256, and saved, before it is.

Else a kill between the two leaves an object there that no comparison could know, once a later form has taken its place
here. To note a segment is to read it once more, so many are noted at once, and saved together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress

from dreamlake.engine.replica.looking import Object, TrackHere
from dreamlake.engine.replica.sending import Sender
from dreamlake.engine.replica.state import Sent, digest
from dreamlake.errors import CorruptTrackError
from dreamlake.format.layout import SegmentName

#: Segments that are noted at once as going to be sent, and their bytes: each is read once more for that.
AHEAD, AHEAD_BYTES = 128, 8 << 20
#: Bytes of a track's segments up to which they are noted with the hot files of many tracks.
SMALL = 1 << 20


class Notes:
    """Notes, in the state of the replica, what one pass is going to send of one track. Thread-safe.

    Parameters
    ----------
    here
        The track on this machine.
    sender
        Has the state, and bounds what is held of segments in memory.
    """

    def __init__(self, here: TrackHere, sender: Sender) -> None:
        self._here = here
        self._sender = sender
        #: The change of the state that all notes of this pass are in, once there are any.
        self.number: int | None = None
        #: The first segment that could not be read here: nothing behind it goes ahead, which would leave a hole there.
        self.unreadable: SegmentName | None = None
        self._waiting: deque[SegmentName] = deque()  # to be sent, and not noted yet, in order
        self._noted: set[SegmentName] = set()
        self._noting = threading.Lock()

    def expect(self, names: Iterable[SegmentName]) -> None:
        """Take the segments that are going to be sent, in order."""
        self._waiting = deque(name for name in names if name not in self._noted)

    def forget(self) -> None:
        """Note all anew: what is there was deleted."""
        self._noted.clear()

    def objects(self, pairs: Iterable[tuple[Object | None, Sent]]) -> None:
        """Note the objects that are replaced, each with what is known of the one that is there."""
        self.number = self._sender.note((sent, each.sha) for each, sent in pairs if each is not None)

    def up_to(self, name: SegmentName) -> None:
        """Note the segments up to this one, and some after it, so that one save is enough for many."""
        with self._noting:
            while self._waiting and self._waiting[0] <= name:
                self.some()

    def some(self, most: int = AHEAD_BYTES, at_least: int = 1) -> int:
        """Note the next segments, of `most` bytes together, or more where `at_least` so many are wanted.

        Returns
        -------
        int
            The bytes of them.
        """
        going: dict[SegmentName, str] = {}
        nbytes = count = 0
        while self._waiting and count < AHEAD:
            name = self._waiting[0]
            size = self._here.size(name.filename)
            if nbytes + size > most and count >= at_least:
                break
            self._waiting.popleft()
            nbytes += size
            count += 1
            try:
                with self._sender.segments.of(size):
                    going[name] = digest(self._here.segment(name))
            except (OSError, CorruptTrackError):  # sending it tells
                self.unreadable = min(self.unreadable or name, name)
        if going:
            self._note(going)
        return nbytes

    def last(self, name: SegmentName, data: bytes) -> None:
        """See that the note of a segment which is sent next is on disk."""
        if name not in self._noted:
            self._note({name: digest(data)})
        with suppress(OSError):  # on a full disk it goes all the same: what is there may be dropped here
            self._sender.ledger.save(self.number)

    def _note(self, segments: Mapping[SegmentName, str]) -> None:
        with self._sender.ledger:
            self._here.known.about_to_send({name.filename: sha for name, sha in segments.items()})
            self._noted.update(segments)
            self.number = self._sender.ledger.number + 1
