"""Processes and threads on one session, readers throughout, some stopped, forked or killed; a checker of their history.

``python -m campaigns concurrency --minutes 20``; one episode again: ``--seed N --episodes 1 --no-planted``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import crowds
from crowdwork import Spec
from s3.server import BUCKET, S3Server

from campaigns.log import Log


class Bug(NamedTuple):
    """A defect that is planted in the processes of an episode, and what such an episode is like."""

    plant: Callable[[], None]
    like: dict[str, Any]


#: What most planted bugs need to show: several plain writers, many flushes, no trouble from outside.
BUSY: dict[str, Any] = {
    "remote": None,
    "options": None,
    "tracks": 1,
    "writers": ("plain", "plain", "plain"),
    "readers": 2,
    "threads": 2,
    "chunks": 20,
    "kills": 0,
    "stops": 0,
    "segment_points": 50,
    "flush_interval": 0.01,
    "fsync": False,
    "shared": "any",
    "compacts": False,
    "grace": 60.0,
}


def _no_lock() -> None:
    """Every process takes the session's lock as if it were free."""
    from dreamlake.storage.lock import FileLock

    FileLock._lock = lambda self: True  # type: ignore[method-assign]


def _lost_lock() -> None:
    """A read opens the lock file and closes it, which ends the POSIX lock that its process holds."""
    import os

    from dreamlake.track import Track

    real = Track._before_read

    def before_read(self: Track) -> None:
        real(self)
        for _ in range(20):
            with open(os.path.join(self._session.path, ".lock"), "rb"):
                time.sleep(0.001)

    Track._before_read = before_read  # type: ignore[method-assign]


def _silent_roll() -> None:
    """A roll is not announced to the other writers."""
    from dreamlake.engine.sessionlock import SessionLock

    SessionLock.announce_rewrite = lambda self: None  # type: ignore[method-assign]


def _early_flush() -> None:
    """A flush returns before the writer's thread has written."""
    from dreamlake.engine.writer import Writer

    def flush(self: Writer, track: Any = None, timeout: Any = None, tell: bool = True) -> None:
        self.thread.post(self._tick)

    Writer.flush = flush  # type: ignore[method-assign]


def _listing_first() -> None:
    """Readers list the segments first, and read the hot file second."""
    from dreamlake.engine.reader import TrackReader
    from dreamlake.engine.segments import SegmentFiles

    look, listing = TrackReader._look, SegmentFiles.listing
    listed: dict[int, Any] = {}

    def looking(self: TrackReader, *args: Any, **more: Any) -> Any:
        listed[id(self.files)] = listing(self.files)
        time.sleep(0.02)  # as a slow disk does
        return look(self, *args, **more)

    def listing_before(self: SegmentFiles, again: bool = True) -> Any:
        return listed.pop(id(self), None) or listing(self, again)

    TrackReader._look = looking  # type: ignore[method-assign]
    SegmentFiles.listing = listing_before  # type: ignore[method-assign]


def _hot_file_first() -> None:
    """A roll takes the points out of the hot file before their segment has its name."""
    import dreamlake.storage.local as local
    from dreamlake.engine.ondisk import TrackOnDisk

    real = TrackOnDisk._roll

    def roll(self: TrackOnDisk, rows: Any, everything: bool) -> None:
        if self.hot_count:
            local.atomic_write(self.hot_path, b"", fsync=False)
        real(self, rows, everything)

    TrackOnDisk._roll = roll  # type: ignore[method-assign]


def _inherited_points() -> None:
    """A forked child keeps what was pending in its parent."""
    from dreamlake.engine.pending import Pending

    Pending.clear = lambda self: None  # type: ignore[method-assign]


def _old_generation() -> None:
    """A segment's next generation is made from the first one."""
    import os

    from dreamlake.engine.known import KnownSegments
    from dreamlake.format.layout import SegmentName

    real = KnownSegments.read_segment

    def read_segment(self: KnownSegments, name: Any, columns: Any) -> Any:
        first = SegmentName(name.start, name.stop)
        there = columns is None and os.path.exists(os.path.join(self.folder, first.filename))
        return real(self, first if there else name, columns)

    KnownSegments.read_segment = read_segment  # type: ignore[method-assign]


def _unheard_fields() -> None:
    """Fields that another process added to hot points are not learnt, and missing from the segment of a roll."""
    from dreamlake.engine.ondisk import TrackOnDisk

    real = TrackOnDisk._read_tail

    def read_tail(self: TrackOnDisk) -> None:
        before = dict(self.changes)
        real(self)
        self.changes = before

    TrackOnDisk._read_tail = read_tail  # type: ignore[method-assign]


def _early_sync() -> None:
    """A sync returns when it has asked for the upload."""
    from dreamlake.engine.replica.replicator import Replicator

    Replicator.sync = lambda self, timeout=None: self.thread.post(self._tick) and None  # type: ignore[method-assign]


def _hot_object_first() -> None:
    """An upload replaces the hot object before it sends the segments that its points went to."""
    from dreamlake.engine.replica.tracks import TrackSender
    from dreamlake.format.layout import HOT_FILE

    real = TrackSender._send

    def send(self: Any) -> None:
        self._ahead = look = self._ahead or self._here.look()
        if look.hot is not None and look.unsent:
            self._replace(HOT_FILE, look.hot, self.known.hot)
        real(self)

    TrackSender._send = send  # type: ignore[method-assign]


REPLICA = {**BUSY, "remote": "file", "writers": ("plain", "plain")}
PLANTED: dict[str, Bug] = {
    "no lock": Bug(_no_lock, BUSY),
    "lost lock": Bug(_lost_lock, BUSY),
    "silent roll": Bug(_silent_roll, BUSY),
    "early flush": Bug(_early_flush, BUSY),
    "listing first": Bug(_listing_first, {**BUSY, "segment_points": 20, "shared": "none"}),
    "hot file first": Bug(_hot_file_first, BUSY),
    "inherited points": Bug(_inherited_points, {**BUSY, "writers": ("forks", "forks"), "flush_interval": 0.1}),
    "old generation": Bug(_old_generation, BUSY),
    "unheard fields": Bug(_unheard_fields, {**BUSY, "shared": "hot", "segment_points": 400}),
    "early sync": Bug(_early_sync, REPLICA),
    "hot object first": Bug(_hot_object_first, REPLICA),
}
#: Episodes in which a planted bug must be found.
TRIES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this campaign."""
    parser.add_argument("--minutes", type=float, default=20.0, help="how long new episodes are begun (default: 20)")
    parser.add_argument("--episodes", type=int, default=10**9, help="how many at most")
    parser.add_argument("--bug", choices=list(PLANTED), help="look for this planted bug only")


def run(args: argparse.Namespace, log: Log) -> int:
    """Find the planted bugs, then look for real ones."""
    with crowds.Director() as director:
        names = [args.bug] if args.bug else list(PLANTED)
        if not args.no_planted and not find_planted(director, names, args.seed, log):
            return 1
        if args.only_planted:
            return 0
        folder = Path(tempfile.mkdtemp(prefix="crowd-"))
        server = S3Server(folder / "s3")
        try:
            return _look(director, args, log, folder, server)
        finally:
            server.stop()
            shutil.rmtree(folder / "s3", ignore_errors=True)


def find_planted(director: crowds.Director, names: list[str], seed: int, log: Log) -> bool:
    """Whether all of these planted bugs are found, each within `TRIES` episodes."""
    found = True
    for name in names:
        said = ""
        for number in range(TRIES):
            said = try_planted(director, name, seed + number)
            if said:
                told = [line for line in said.splitlines() if re.match(r"\w+(\.\w+)*Error\b|here,|there,", line)]
                said = f"{(told or said.splitlines())[-1]} (episode {number + 1})"
                break
        bug = (PLANTED[name].plant.__doc__ or "").strip().rstrip(".")
        found = log.planted(f"{name}: {bug}", said.replace(tempfile.gettempdir(), "…")) and found
    return found


def try_planted(director: crowds.Director, name: str, seed: int) -> str:
    """What an episode with a planted bug finds; empty: nothing."""
    with tempfile.TemporaryDirectory(prefix="crowd-") as root:
        like = dict(PLANTED[name].like)
        if like["remote"] is not None:
            like["remote"] = f"file://{root}/there"
        return director.episode(Spec.draw(seed, root, planted=name, **like))[1]


def _look(director: crowds.Director, args: argparse.Namespace, log: Log, folder: Path, server: S3Server) -> int:
    total: Counter[str] = Counter()
    seed, deadline = args.seed, time.monotonic() + 60 * args.minutes
    failures = 0
    while seed < args.seed + args.episodes and time.monotonic() < deadline and failures < 5:
        root = folder / str(seed)
        spec = Spec.draw(seed, str(root), (f"s3://{BUCKET}/crowds", server.options()))
        counts, wrong = director.episode(spec)
        total.update(counts)
        total["episodes"] += 1
        total[f"replica: {(spec.remote or 'none').partition(':')[0]}"] += 1
        if wrong:
            failures += 1
            log.say(f"seed {seed}: {wrong[:1500]}")
            log.say(f"  {spec._replace(options=None)}; again: --seed {seed} --episodes 1 --no-planted; kept: {root}")
        else:
            shutil.rmtree(root)
        if seed % 10 == 0:
            log.note(f"seed {seed}: {total['operations']} operations, {total['kills']} kills, {failures} failures")
        seed += 1
    log.say(f"seeds {args.seed} to {seed - 1}, {failures} with failures")
    for name, count in sorted(total.items()):
        log.say(f"  {name}: {count}")
    return 1 if failures else 0
