"""How far an upload is, and the bar that shows it to a person who waits for long."""

from __future__ import annotations

import sys
import time
from typing import Protocol

#: Seconds that somebody waits before a bar appears, and between looks at how far it is.
UNSHOWN, STEP = 2.0, 0.1


class Waited(Protocol):
    """What is waited for."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for at most `timeout` seconds; return whether it ended."""


class Progress:
    """Counts objects and bytes of an upload; written by those who send, read by the one who waits."""

    def __init__(self) -> None:
        self.objects_done = self.objects_total = self.bytes_done = self.bytes_total = 0


def watch(request: Waited, timeout: float | None, progress: Progress) -> bool:
    """Wait for a request, with a bar on the terminal when it lasts; return whether it ended in time."""
    deadline = None if timeout is None else time.monotonic() + timeout
    shown = sys.stderr is not None and sys.stderr.isatty()
    if not shown:
        return request.wait(timeout)
    if request.wait(UNSHOWN if timeout is None else min(UNSHOWN, timeout)):
        return True
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    sent = TextColumn("{task.fields[objects]}")
    columns = (TextColumn("uploading"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), sent)
    # Without a thread of its own, since none may stay behind: this one looks often enough.
    bar = Bar(*columns, console=Console(file=sys.stderr), transient=True, auto_refresh=False)
    with bar:
        task = bar.add_task("", total=None, objects="")
        while deadline is None or time.monotonic() < deadline:
            total = max(progress.bytes_total, progress.bytes_done) or None
            objects = f"{progress.objects_done} of {progress.objects_total} objects"
            bar.update(task, completed=progress.bytes_done, total=total, objects=objects)
            bar.refresh()
            if request.wait(STEP if deadline is None else min(STEP, max(0.0, deadline - time.monotonic()))):
                return True
    return request.wait(0.0)
