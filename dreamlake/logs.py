"""The log of a session: records as they are made, and read back as a frame by their level."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    import polars as pl

    from dreamlake.storage.store import Store

    Level = Literal["debug", "info", "warn", "warning", "error", "fatal", "critical"]

#: Levels from the least to the most serious.
LEVELS = ("debug", "info", "warn", "error", "fatal")
#: What Python's logging calls them.
ALIASES = {"warning": "warn", "critical": "fatal"}


#: What a record takes in memory beside its message and metadata, about.
RECORD_BYTES = 256


def make_record(message: str, level: str, metadata: dict[str, Any] | None) -> tuple[dict[str, Any], int]:
    """Return a checked log record of now, without its sequence number, and about how many bytes it takes.

    Raises TypeError or ValueError for a message that is no string, an unknown level, metadata that cannot be stored.
    """
    from dreamlake.engine.runfile import iso_now
    from dreamlake.format.point import take_value

    if not isinstance(message, str):
        raise TypeError(f"a log message is a string, not {type(message).__name__}; use str() or an f-string")
    level = plain_level(level)
    if metadata is not None and not isinstance(metadata, dict):
        raise TypeError(f"metadata is a dict, not {type(metadata).__name__}")
    message, nbytes = take_value("message", message)
    record = {"timestamp": iso_now(), "level": level, "message": message}
    if metadata is not None:
        record["metadata"], more = take_value("metadata", metadata)
        nbytes += more
    return record, nbytes + RECORD_BYTES


def plain_level(level: str) -> str:
    """Return the level as it is stored: a plain string, also of what an enum or NumPy has. Raises ValueError."""
    name = str.__str__(level) if isinstance(level, str) else ""
    name = ALIASES.get(name, name)
    if name not in LEVELS:
        raise ValueError(f"the level is one of {', '.join(LEVELS)}, not {level!r}")
    return name


def read_logs(store: Store, session: str, level: str | None, errors: str) -> pl.DataFrame:
    """Return the log of the session in folder `session`, oldest first, as a frame; see `Session.logs`."""
    from dreamlake.engine.process import check_polars

    check_polars()
    from dreamlake.engine.logread import log_frame

    levels = None if level is None else LEVELS[LEVELS.index(plain_level(level)) :]
    return log_frame(store, session, levels, errors=errors)
