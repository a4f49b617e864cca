"""Log records about runtime conditions, on ``logging.getLogger("dreamlake")``, each kind at most once a minute."""

import time
from collections.abc import Callable
from typing import Any

#: Seconds between two records of one kind.
INTERVAL = 60.0


class Notices:
    """Writes log records, and keeps back those of a kind that was written less than `INTERVAL` seconds ago.

    logging is imported at the first record: a training script that meets no trouble does not pay for it.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def warn(self, kind: str, message: str, *args: Any) -> None:
        """Log a warning of this kind, unless there was one lately; says how many were kept back in between."""
        now = self._now()
        if now - self._last.get(kind, -INTERVAL) < INTERVAL:
            self._held_back[kind] = self._held_back.get(kind, 0) + 1
            return
        self._last[kind] = now
        held_back = self._held_back.pop(kind, 0)
        if held_back:
            message += " (and %d more like this since the last such record)"
            args = (*args, held_back)
        log().warning(message, *args)

    def recovered(self, kind: str, message: str, *args: Any) -> None:
        """Log once that a condition warned of before is over."""
        if self._last.pop(kind, None) is not None:
            self._held_back.pop(kind, None)
            log().warning(message, *args)


def log() -> Any:
    """Return the logger of the library."""
    import logging

    return logging.getLogger("dreamlake")
