"""Timestamps of a session: automatic ones that strictly rise, and the latest one, which ``_ts=-1`` inherits."""

from collections.abc import Callable
from math import inf, nextafter, ulp
from time import time
from typing import Any

#: Spacing of the timestamps of one batch, in seconds: the resolution of a float64 at today's epoch.
TICK = 2.0**-22
#: Timestamps from here on (1973) are taken to be seconds since the epoch, which -1 is far from. A clock that counts
#: from the start of something, or to a trigger, stays below.
EPOCH_TIMES = 1e8


class SessionClock:
    """Draws the automatic timestamps of one session, in float seconds since the epoch.

    Not locked itself: its caller holds the lock under which the point is stored, so that the order of the timestamps
    is the order of the points. ``engine.hotpath`` inlines `draw`, since a call would cost a tenth of an append.
    """

    __slots__ = ("_explicit", "_start", "last", "now")

    def __init__(self, now: Callable[[], float] = time) -> None:
        self.now = now
        #: The highest automatic timestamp drawn so far. An explicit one never moves it.
        self.last = -inf
        # What `last` was before this process drew one: nothing was appended by it yet.
        self._start = -inf
        # The latest explicit timestamp, and `last` at that moment: an automatic one drawn since is later.
        self._explicit: tuple[float, float] | None = None

    @property
    def latest(self) -> float | None:
        """The timestamp of the latest append to the session, automatic or not; None before the first."""
        if self._explicit is not None and self._explicit[1] == self.last:
            return self._explicit[0]
        return None if self.last <= self._start else self.last

    def note(self, ts: float) -> None:
        """Take note of an explicit timestamp: it is the latest now."""
        self._explicit = (ts, self.last)

    def draw(self) -> float:
        """Return a timestamp above every automatic one before it, also when the clock stands still or steps back."""
        ts = self.now()
        if ts <= self.last:
            ts = nextafter(self.last, inf)
        self.last = ts
        return ts

    def reserve(self, count: int) -> tuple[float, float]:
        """Reserve the timestamps of a batch of `count` >= 1 rows: row i has ``start + i * tick``, all of them rising.

        They lie in the past where there is room since the last one: a large batch does not run ahead of the clock.
        """
        now = self.now()
        tick = max(TICK, 2 * ulp(max(abs(now), abs(self.last) if self.last > -inf else 0.0)))
        start = max(now - (count - 1) * tick, self.last + tick)
        self.last = start + (count - 1) * tick
        return start, tick

    def inherit(self) -> float:
        """Return the timestamp of the latest append to the session, or an automatic one before the first."""
        latest = self.latest
        return self.draw() if latest is None else latest

    def resume(self, last: float) -> None:
        """Start above `last`, the highest automatic timestamp that an earlier run of the session has used.

        Nothing was appended by this process yet, so there is no timestamp to inherit.
        """
        self.last = self._start = max(self.last, last)
        self._explicit = None


def is_inherited(ts: Any) -> bool:
    """Whether this is the ``_ts=-1`` that takes the timestamp of the latest append."""
    if type(ts) is float or type(ts) is int:
        return ts == -1
    try:
        return not isinstance(ts, (bool, str, bytes)) and bool(ts == -1)
    except Exception:  # an array, say: `check_ts` refuses it with a better message
        return False


def check_doubtful(ts: Any, before: float | None) -> None:
    """Refuse a ``_ts`` of -1.0 where it may well be a time; the integer -1 never is one.

    Parameters
    ----------
    ts
        What was given, -1 of any type.
    before
        The timestamp that it would inherit, or another one beside it; None where there is none.

    Raises
    ------
    ValueError
        It may be meant either way: to take it for the one would merge points that have nothing to do with each other.
    """
    if hasattr(ts, "__index__") or (before is not None and before >= EPOCH_TIMES):
        return
    beside = "with no append before it" if before is None else f"beside a point at {before}"
    raise ValueError(
        f"_ts={ts} {beside} may be a time, or mean that of the latest append: for the latter give the integer -1; "
        "a point at the time -1.0 itself cannot be stored, so shift the times"
    )
