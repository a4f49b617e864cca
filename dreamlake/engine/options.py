"""How a session is written, and where its replica is: the options that sessions on one folder share."""

from typing import Any, NamedTuple


class Remote:
    """Where the replica of a session is kept, and how often it is brought up to date.

    Parameters
    ----------
    url
        The lake's root there.
    storage_options
        Options of its filesystem. They may hold secrets: nothing shows them.
    interval
        Seconds between looks for what is new.
    """

    __slots__ = ("_store", "interval", "storage_options", "url")

    def __init__(self, url: str, storage_options: dict[str, Any] | None, interval: float) -> None:
        self.url = url
        self.storage_options = dict(storage_options or {})
        self.interval = interval
        self._store: Any = None

    def __repr__(self) -> str:
        from dreamlake.storage.remote import shown

        return repr(shown(self.url))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._what == other._what

    __hash__ = None  # type: ignore[assignment]

    @property
    def _what(self) -> tuple[object, ...]:
        return self.url.rstrip("/"), self.storage_options, self.interval

    def store(self) -> Any:
        """The replica's root as a store (a `storage.remote.RemoteStore`), the same one each time.

        Raises ValueError, ImportError as that does.
        """
        if self._store is None:
            from dreamlake.storage.remote import RemoteStore

            self._store = RemoteStore(self.url, self.storage_options)
        return self._store


class Options(NamedTuple):
    """How a session is written; sessions on one folder in one process share a writer, so these must agree."""

    flush_interval: float = 1.0
    segment_points: int = 10_000
    max_pending_bytes: int = 256 << 20
    fsync: bool = False
    single_writer: bool = False
    remote: Remote | None = None
