"""When the replica is brought up to date next: regularly, later after slow uploads, with backoff after failures."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

#: Passes that take longer than this part of the interval make the interval longer: uploads must not eat the machine.
SHARE = 0.25
#: Seconds between tries while the network is down, at most (or the interval, where that is longer).
LONGEST_PAUSE = 60.0
#: Seconds from one pass to the next that something asked for: a roll, or the end of a fetch.
BREATH = 1.0


class Pace:
    """Says how long to wait; not locked, only the replica's thread asks.

    Parameters
    ----------
    interval
        Seconds between passes while all goes well.
    now
        Seconds of a clock that only runs forward.
    chance
        Draws a number of [0, 1): the jitter, so that a thousand runs do not come back to one server at once.
    """

    def __init__(
        self, interval: float, now: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._interval = interval
        self._now = now
        self._chance = chance
        self._due = now() + min(interval, BREATH)
        self._ended = now()
        #: Passes that failed in a row.
        self.failures = 0

    def wait(self) -> float:
        """Seconds until the next pass is due; 0 when it is."""
        return max(0.0, self._due - self._now())

    def hurry(self) -> None:
        """Have the next pass soon; while the network is down that changes nothing."""
        if not self.failures:
            self._due = min(self._due, self._ended + min(self._interval, BREATH))

    def ended(self, well: bool, lasted: float) -> None:
        """Note how a pass ended that took `lasted` seconds."""
        self._ended = self._now()
        if well:
            self.failures = 0
            pause = max(self._interval, lasted / SHARE)
        else:
            self.failures += 1
            pause = min(self._interval * 2.0 ** min(self.failures - 1, 30), max(LONGEST_PAUSE, self._interval))
            pause *= 0.5 + 0.5 * self._chance()
        self._due = self._ended + pause
