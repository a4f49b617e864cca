"""The log of a session as a frame: of each machine the current file first, the full ones after it, each record once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from dreamlake.engine.hosts import host_files, moment
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout
from dreamlake.format.point import encode_text, from_json
from dreamlake.storage import get_whole

if TYPE_CHECKING:
    from collections.abc import Collection

    from dreamlake.storage.store import Store

#: Longest log file; one is put aside at 10,000 lines or 64 MiB.
MAX_LOG_BYTES = 1 << 30

_decoder = msgspec.json.Decoder(dict[str, Any])
_IDENTITY = ("sequenceNumber", "timestamp", "level", "message")

SCHEMA = {
    "sequenceNumber": pl.Int64(),
    "timestamp": pl.String(),
    "level": pl.String(),
    "message": pl.String(),
    "metadata": pl.String(),
}


def log_records(store: Store, session: str, *, errors: str = "raise") -> list[dict[str, Any]]:
    """The log records of the session in folder `session`.

    They are in the order of their sequence numbers; those of several machines, whose numbers each begin at 0, in the
    order of their times.

    Parameters
    ----------
    errors
        ``"raise"``, or ``"skip"`` to log damaged lines and leave them out.

    Raises
    ------
    CorruptTrackError
        A whole line is not a log record.
    """
    hosts = host_files(store, session).items()
    keeping = [folder for folder, files in hosts if any(file.startswith(f"{layout.LOGS_DIR}/") for file in files)]
    logs = side_by_side(lambda folder: _log_of(store, folder, errors), [session, *keeping], reading_width(store, 0))
    logs = [log for log in logs if log]
    if len(logs) < 2:
        return logs[0] if logs else []
    # A machine that lost its id sends its log under a new one again.
    once = {repr([record.get(key) for key in _IDENTITY]): record for log in logs for record in log}
    return sorted(once.values(), key=lambda record: (moment(record.get("timestamp")), int(record["sequenceNumber"])))


def _log_of(store: Store, folder: str, errors: str) -> list[dict[str, Any]]:
    """The records of one machine, in the order of their sequence numbers."""
    # The current file before the listing: what is put aside in between is found twice, and never missed.
    records = _records(store, f"{folder}/{layout.LOGS_FILE}", errors)
    for entry in store.list(f"{folder}/{layout.LOGS_DIR}"):
        if layout.parse_log_archive(entry.name) is not None:
            records |= _records(store, f"{folder}/{layout.LOGS_DIR}/{entry.name}", errors)
    return [records[number] for number in sorted(records)]


def log_frame(
    store: Store, session: str, levels: Collection[str] | None = None, *, errors: str = "raise"
) -> pl.DataFrame:
    """`log_records` of these levels (None: of all) as a frame; metadata, which may be of any shape, as JSON text."""
    if errors not in ("raise", "skip"):
        raise ValueError(f'errors is "raise" or "skip", not {errors!r}')
    rows = [
        record | {"metadata": None if record.get("metadata") is None else encode_text(record["metadata"])}
        for record in log_records(store, session, errors=errors)
        if levels is None or record.get("level") in levels
    ]
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in SCHEMA}, schema=SCHEMA, strict=False)


def _records(store: Store, path: str, errors: str) -> dict[int, dict[str, Any]]:
    try:
        data = get_whole(store, path, MAX_LOG_BYTES)
    except FileNotFoundError:
        return {}
    found: dict[int, dict[str, Any]] = {}
    # What follows the last newline is torn, or being written.
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = from_json(_decoder.decode(line), -1)
            found[int(record["sequenceNumber"])] = record
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            damage = CorruptTrackError(store.describe(path), f"line {number}", detail=f"no log record ({error})")
            if errors == "raise":
                raise damage from error
            logging.getLogger("dreamlake").warning("skipped: %s", damage)
    return found
