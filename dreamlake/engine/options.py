"""How a session is written: the options that sessions on one folder share."""

from typing import NamedTuple


class Options(NamedTuple):
    """How a session is written; sessions on one folder in one process share a writer, so these must agree."""

    flush_interval: float = 1.0
    segment_points: int = 10_000
    max_pending_bytes: int = 256 << 20
    fsync: bool = False
    single_writer: bool = False
