"""The tracks of an open session, as `Session.tracks` gives them."""

from __future__ import annotations

from dreamlake.engine.forkgate import forks_wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dreamlake.session import Session


class Tracks:
    """The tracks of a session: iterated by name, sorted; ``in``, ``len``, ``list`` and ``flush``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @forks_wait
    def list(self) -> list[str]:
        """Return the names of all tracks that have a flushed point or metadata, sorted; flushes first."""
        from dreamlake.engine.catalog import track_names

        self._session.flush()
        names = track_names(self._session.store(), self._session.folder)
        if not names:
            self._session.check_there()
        return names

    def flush(self) -> None:
        """Write what is pending of all tracks; see `Session.flush`."""
        self._session.flush()

    def __iter__(self) -> Iterator[str]:
        return iter(self.list())

    def __contains__(self, name: object) -> bool:
        return name in self.list()

    def __len__(self) -> int:
        return len(self.list())

    def __repr__(self) -> str:
        return f"<Tracks of {self._session.workspace}/{self._session.name}>"
