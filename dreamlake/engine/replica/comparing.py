"""Whether a session and its replica are two copies of one: both are compared at open, after trouble, and after a loss.

What the replica is ahead in is taken over. One that has lost what it had is not trusted for a minute.
"""

from __future__ import annotations

import errno
import threading
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from dreamlake.errors import CorruptTrackError, RemoteConflictError
from dreamlake.notices import log

if TYPE_CHECKING:
    from dreamlake.engine.options import Remote
    from dreamlake.engine.replica.localside import LocalSide
    from dreamlake.engine.replica.reserve import Reserve
    from dreamlake.storage.remote import RemoteStore
    from dreamlake.storage.store import Entry

#: Seconds until the replica must have answered when a session is opened.
CONTACT_TIMEOUT = 10.0
#: Seconds that an open waits for another process that replicates the session just then.
OPEN_LOCK = 30.0
#: Seconds for which each pass compares both sides, and drops nothing here, after a replica has lost what it had: a disk
#: was not mounted, a bucket was empty for a moment. It may be the other one again at any time.
DISTRUST = 60.0


class Comparing:
    """See the module. Where a method says so, the replica's lock is held (`state.hold`).

    Parameters
    ----------
    local
        The session's folder, and what is changed in it.
    session
        The session's folder below the lake's root, the same here and there.
    remote
        Where the replica is.
    reserve
        What makes room for the state on a full disk.
    single_writer, fsync
        As the session's.
    """

    def __init__(
        self,
        local: LocalSide,
        session: str,
        remote: Remote,
        reserve: Reserve,
        *,
        single_writer: bool = False,
        fsync: bool = False,
    ) -> None:
        self.local = local
        self.session = session
        self.remote = remote
        self.reserve = reserve
        self._single_writer = single_writer
        self._fsync = fsync
        #: Whether both sides were compared since the session was opened, and since there was trouble.
        self.is_done = False
        self._distrusted_until = -inf

    @property
    def place(self) -> str:
        """The replica of the session, fit for messages."""
        store: RemoteStore = self.remote.store()
        return store.describe(self.session)

    def distrust(self) -> None:
        """Compare in each pass for a while: the replica has lost what it had."""
        self._distrusted_until = time.monotonic() + DISTRUST

    @property
    def is_distrusted(self) -> bool:
        """Whether what is on the replica now may be gone in a moment, so that nothing is dropped here."""
        return time.monotonic() < self._distrusted_until

    def look(self) -> dict[str, Entry]:
        """Look at the replica; in a thread of its own, since a network can hang for longer than anybody waits.

        Raises
        ------
        OSError
            It fails, or does not answer within 10 seconds.
        """
        from dreamlake.engine.replica import check

        found: list[Any] = []

        def look() -> None:
            try:
                tree = check.look(self.remote.store(), self.session)
                self._tell_of_conditions()
                found.append(tree)
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=look, name="dreamlake-contact", daemon=True)
        thread.start()
        thread.join(CONTACT_TIMEOUT)
        if not found:
            said = f"the replica has not answered within {CONTACT_TIMEOUT:g} s"
            raise TimeoutError(errno.ETIMEDOUT, said, self.place)
        if isinstance(found[0], Exception):
            raise found[0]
        tree: dict[str, Entry] = found[0]
        return tree

    def _tell_of_conditions(self) -> None:
        """Find out whether the filesystem notices other writers for sure; one that takes no files shows now too."""
        if not self.remote.store().conditional:
            log().info(
                "%s has no conditional writes: of two machines that write one track at one moment, one may overwrite "
                "the other",
                self.place,
            )

    def take_over(self, tree: dict[str, Entry], local_there: bool) -> float | None:
        """Compare both sides when a session is opened, and take over what the replica is ahead in.

        Parameters
        ----------
        tree
            What `look` found.
        local_there
            Whether there is a local session already.

        Returns
        -------
        float | None
            The timestamp above which automatic ones go on, where something was taken over.

        Raises
        ------
        RemoteConflictError
            Both sides are ahead of one another.
        """
        from dreamlake.engine.replica import state

        with state.hold(self.local.folder, OPEN_LOCK, self._single_writer):
            return self._compare(tree, local_there, late=False)

    def compare_if_due(self) -> None:
        """Compare where there was no time yet, or reason to do it again; the lock is held, the session open.

        A conflict stops the upload of its track and raises nothing here.
        """
        if not self.is_done or self.is_distrusted:
            from dreamlake.engine.replica import check

            tree = check.look(self.remote.store(), self.session)
            last = self._compare(tree, True, late=True)
            if last is not None:
                self.local.go_on_above(last)

    def _compare(self, tree: dict[str, Entry], local_there: bool, late: bool) -> float | None:
        """Find out which side is ahead in what, and take over what the replica is ahead in. The lock is held.

        `late`: the session is open already, so that a conflict raises nothing, and changes are made on its thread.
        """
        from dreamlake.engine.replica import check, pull, state

        store, folder = self.remote.store(), self.local.folder
        known = state.load(folder)
        mine = known.remote(store.describe())
        last: list[float] = []
        adopts = not local_there and check.holds_session(tree)
        tracks: tuple[str, ...] = ()
        lost = False
        if not adopts:
            found = check.compare(folder, self.session, store, mine, tree)
            if found.conflicts and not late:
                raise RemoteConflictError("; ".join(found.conflicts.values()))
            tracks = found.pull
            if found.lost:
                self.distrust()
            lost = pull.is_behind(folder, self.session, store, mine, known.machine, tree)

        def take() -> None:
            take_some = pull.adopt if adopts else partial(pull.pull, tracks=tracks)
            last.append(take_some(folder, self.session, store, mine, tree, fsync=self._fsync))

        if adopts or tracks or lost:
            try:
                (self.local.change if late else self.local.change_now)(take)
            except CorruptTrackError as error:
                if check.holds_session(tree):
                    raise
                raise RemoteConflictError(
                    f"{self.place} holds the rest of a first upload that was cut off: finish it where the run is, by "
                    f"`dreamlake sync`, or delete it, and open this session again ({error})"
                ) from error
        self.reserve.with_room(lambda: state.save(folder, known))
        check.sweep_beside(store, self.session, tree, time.time())
        self.is_done = True
        return last[0] if last else None
