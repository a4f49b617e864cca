"""Power cuts after any disk operation of a dozen scenes, and fsyncs that fail in them: every state is opened and read.

What was acknowledged with ``fsync=True`` must be there, and without it what is in segments. Said of each scene: its
operations, the states that differ, how many were whole as they were, how many held no acknowledged point yet and were
right once opened, and how many needed a repair of what was never acknowledged.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from powerloss import Recorder, Sample, samples
from powerscenes import SCENES, judge, record

import dreamlake.engine.logfile as logfile
import dreamlake.engine.ondisk as ondisk
import dreamlake.storage.local as local
from campaigns.log import Log
from dreamlake.engine.footing import Footing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the run may be told."""
    parser.add_argument("--each", type=int, default=8, help="drawn states of each kind after each operation")
    parser.add_argument("--failed", type=int, default=12, help="states looked at for each fsync that fails")
    parser.add_argument("--scene", choices=sorted(SCENES), action="append", help="only this one; may be repeated")


def run(args: argparse.Namespace, log: Log) -> int:
    """Look for the planted bugs, then at all scenes."""
    folder = Path(tempfile.mkdtemp(prefix="powerloss-", dir=_memory()))
    missed = [bug.what for bug in PLANTED if not args.no_planted and not log.planted(bug.what, find(bug, folder))]
    total: Counter[str] = Counter()
    for scene in args.scene or SCENES if not args.only_planted else ():
        for fsync in (True, False):
            total += _whole_scene(scene, fsync, args, folder, log)
    if not args.only_planted:
        log.say(f"all: {_told(total)}")
    if not total["wrong"]:
        shutil.rmtree(folder)
    return 1 if missed or total["wrong"] else 0


def _memory() -> str | None:
    """Where the states are put: nothing of them has to last."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _whole_scene(scene: str, fsync: bool, args: argparse.Namespace, folder: Path, log: Log) -> Counter[str]:
    """Look at one scene: as it is, and with each of its fsyncs failing, once and twice in a row."""
    recorder = record(folder, scene, fsync)
    what = f"{scene}, fsync={fsync}"
    counts = look(recorder, samples(recorder, args.seed, args.each), folder, lambda seen: log.say(f"{what}: {seen}"))
    log.say(f"{what}: {len(recorder.ops) - recorder.begin} operations, {_told(counts)}")
    failed: Counter[str] = Counter()
    for first in range(1, recorder.fsyncs + 1):
        for failing in ((first,), (first, first + 1)):
            log.note(f"{what}: failing {failing} of {recorder.fsyncs}")
            again = record(folder, scene, fsync, failing)
            some = list(samples(again, args.seed, 1))
            random.Random(f"{args.seed}/{failing}").shuffle(some)
            told = f"{what}, failing {failing}"
            failed += look(again, some[: args.failed], folder, lambda seen, told=told: log.say(f"{told}: {seen}"))
    log.say(f"{what}, {recorder.fsyncs} fsyncs fail in turn: {_told(failed)}")
    return counts + failed


def look(
    recorder: Recorder, these: Iterable[Sample], folder: Path, tell: Callable[[str], None] = lambda wrong: None
) -> Counter[str]:
    """Look at states; what is wrong is told with its seed, and stays in `folder`. Returns how many were how."""
    counts: Counter[str] = Counter()
    for sample in these:
        seen = judge(folder, recorder, sample)
        counts[seen.how] += 1
        if seen.how == "wrong" and counts["wrong"] <= 5:
            tell(f"WRONG at operation {sample.place} ({sample.seed}): {seen.detail}")
    return counts


def _told(counts: Counter[str]) -> str:
    parts = [f"{counts[how]} {how}" for how in ("whole", "opened", "repaired", "wrong")]
    return f"{counts.total()} states: {', '.join(parts)}"


# -- planted bugs ------------------------------------------------------------------------------------------------------


class Planted(NamedTuple):
    """A bug, and where it shows."""

    what: str
    patch: Callable[[], Any]
    scene: str
    fsync: bool = True
    #: Whether it takes an fsync that fails.
    failing: bool = False


def find(bug: Planted, folder: Path, each: int = 2) -> str:
    """Play the scene of a bug until it is found; return what was, or nothing."""
    sane = record(folder, bug.scene, bug.fsync)
    with bug.patch():
        fails = [(number,) for number in range(1, sane.fsyncs + 1)] if bug.failing else [()]
        recorders = [record(folder, bug.scene, bug.fsync, failing) for failing in fails]
    these = [(recorder, sample) for recorder in recorders for sample in samples(recorder, 1, each)]
    random.Random(1).shuffle(these)
    for recorder, sample in these:
        seen = judge(folder, recorder, sample)
        if seen.how == "wrong":
            what, _, root = seen.detail.rpartition(" in ")
            shutil.rmtree(root)
            return f"{sample.policy}: {what.replace(root, '…')}"
    return ""


def _without(module: Any, name: str, instead: Any = lambda *args, **kwargs: None) -> Callable[[], Any]:
    return lambda: mock.patch.object(module, name, instead)


def _no_folder_sync_in(module: Any, name: str) -> Callable[[], Any]:
    """Let a function sync no folder."""
    real = getattr(module, name)

    def instead(*args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(local, "fsync_dir", return_value=None):
            return real(*args, **kwargs)

    return _without(module, name, instead)


def _sync_after_rename(path: str, data: Any, fsync: bool) -> None:
    tmp = local._write_tmp(path, data, False)
    local.os_.replace(tmp, path)
    if fsync:
        local.fsync_file(path)
        local.fsync_dir(local._parent(path))


def _replace_unsynced(path: str, data: Any, fsync: bool) -> None:
    local.os_.replace(local._write_tmp(path, data, fsync), path)
    if fsync:
        local.fsync_dir(local._parent(path))


def _append_as_if_it_lasted(path: str, offset: int, data: Any, fsync: bool, name_lasts: bool = True) -> int:
    return _append_at(path, offset, data, fsync)


_append_at = local.append_at


def _never(of: type, name: str) -> Callable[[], Any]:
    """Let what an object notes of itself always be False: a file is not written anew, a second fsync has to do."""
    ignoring = property(lambda self: False, lambda self, value: None)
    return lambda: mock.patch.object(of, name, ignoring, create=True)


PLANTED = [
    Planted("no fsync of lines", _without(local, "_fsync"), "flush"),
    Planted("no fsync of segments", _without(local, "_fsync"), "roll many", fsync=False),
    Planted("no fsync of folders", _without(local, "fsync_dir"), "everything"),
    Planted("no fsync of the folder of a new hot file", _no_folder_sync_in(local, "append_at"), "resume"),
    Planted("no fsync of the folder of a new segment", _no_folder_sync_in(local, "commit_new"), "roll", fsync=False),
    Planted("no fsync of the folder after a rewrite", _no_folder_sync_in(local, "atomic_write"), "rewrite"),
    Planted("fsync after the rename instead of before", _without(local, "atomic_write", _sync_after_rename), "rewrite"),
    Planted("no fsync of what replaces a file", _without(local, "atomic_write", _replace_unsynced), "resume", False),
    Planted("no fsync of the folders above a segment", _without(Footing, "secure"), "large", fsync=False),
    Planted("no fsync of what an unsynced session made", _without(Footing, "secure"), "synced later"),
    Planted("another writer's new file is trusted", _without(local, "append_at", _append_as_if_it_lasted), "beside"),
    Planted("no fsync when a log is put aside", _no_folder_sync_in(logfile.LogFile, "_put_aside"), "everything"),
    Planted("a failed fsync of lines is retried", _never(ondisk.TrackOnDisk, "must_rewrite"), "flush", failing=True),
    Planted("a failed fsync of a log is retried", _without(local, "cut_off"), "everything", failing=True),
    Planted("a log whose fsync failed is kept", _never(logfile.LogFile, "_doubtful"), "synced later", failing=True),
    Planted("folders whose fsync failed are trusted", _without(Footing, "secure"), "begin", failing=True),
]
