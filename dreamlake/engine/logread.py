"""The log of a session as a frame: the current file first, the full ones after it, each record once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dreamlake.storage.store import Store

SCHEMA = {
    "sequenceNumber": pl.Int64(),
    "timestamp": pl.String(),
    "level": pl.String(),
    "message": pl.String(),
    "metadata": pl.String(),
}


def log_records(store: Store, session: str) -> list[dict[str, Any]]:
    """The log records of the session in folder `session`, in the order of their sequence numbers.

    Raises
    ------
    CorruptTrackError
        A whole line is not a log record.
    """
    current = f"{session}/{layout.LOGS_FILE}"
    # The current file before the listing: what is put aside in between is found twice, and never missed.
    records = _records(store, current)
    for entry in store.list(f"{session}/{layout.LOGS_DIR}"):
        if layout.parse_log_archive(entry.name) is not None:
            records |= _records(store, f"{session}/{layout.LOGS_DIR}/{entry.name}")
    return [records[number] for number in sorted(records)]


def log_frame(store: Store, session: str) -> pl.DataFrame:
    """`log_records` as a frame; metadata, which may be of any shape, as JSON text."""
    from dreamlake.format.point import encode_text

    return frame_of(
        record | {"metadata": encode_text(record["metadata"])} if record.get("metadata") is not None else record
        for record in log_records(store, session)
    )


def frame_of(records: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Records whose values fit `SCHEMA` as a frame, null where one lacks a key."""
    rows = list(records)
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in SCHEMA}, schema=SCHEMA, strict=False)


def _records(store: Store, path: str) -> dict[int, dict[str, Any]]:
    import msgspec

    from dreamlake.format.point import from_json

    try:
        data = store.get(path)
    except FileNotFoundError:
        return {}
    whole = data[: data.rfind(b"\n") + 1]  # what follows is torn, or being written
    found: dict[int, dict[str, Any]] = {}
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = from_json(decoder.decode(line))
            found[int(record["sequenceNumber"])] = record
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptTrackError(store.describe(path), f"line {number}", detail=str(error)) from error
    return found
