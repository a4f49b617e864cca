"""A bar on standard error for work that lasts: none where that is no terminal, and none for the first two seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dreamlake.cli.text import say

#: Seconds that a person waits before a bar appears, and least between two changes of it.
UNSHOWN, STEP = 2.0, 0.1


class Bar:
    """How far some work is; made by `bar`, and told from any thread."""

    def __init__(self, label: str, unit: str, total: int) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._done = 0
        self._shown: Any = None
        self._lock = threading.Lock()
        self._due = time.monotonic() + UNSHOWN if sys.stderr is not None and sys.stderr.isatty() else None

    def more(self, total: int) -> None:
        """Note that there is so much more to do."""
        self._total += total

    def advance(self, count: int = 1) -> None:
        """Note that so much more is done."""
        with self._lock:
            self._done += count
            if self._due is not None and time.monotonic() >= self._due:
                self._due = time.monotonic() + STEP
                self._show()

    def say(self, text: str) -> None:
        """Write a line to standard output, which the bar is not left in the middle of."""
        self.hide()
        say(text)

    def hide(self) -> None:
        """Take the bar away; it comes back with the next advance."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    def _show(self) -> None:
        if self._shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn(self._label), BarColumn(), MofNCompleteColumn(), TextColumn(self._unit))
            # Without a thread of its own: it is drawn when there is something new.
            self._shown = Progress(
                *columns, TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True, auto_refresh=False
            )
            self._shown.add_task("", total=self._total)
            self._shown.start()
        (task,) = self._shown.task_ids
        self._shown.update(task, completed=self._done, total=self._total)
        self._shown.refresh()


@contextmanager
def bar(label: str, unit: str, total: int = 0) -> Iterator[Bar]:
    """A bar for work on `total` of `unit`; gone at the end, whatever ends it."""
    made = Bar(label, unit, total)
    try:
        yield made
    finally:
        made.hide()
