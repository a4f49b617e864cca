"""Power cuts after any disk operation of many scenes, fsyncs that fail in them, and second cuts: all states are read.

What was acknowledged with ``fsync=True`` must be there, and without it what is in segments; with a replica all that was
synced too, once the session is open. Said of each scene: its operations, the states that differ, how many were whole as
they were, how many held no acknowledged point yet and were right once opened, how many needed a repair of what was
never acknowledged, and in how many that repair had to be allowed to give points up, between which others were.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec
from powerloss import Recorder, Sample, samples
from powerscenes import REPLICAS, SCENES, judge, record, record_again

import dreamlake.engine.away as away
import dreamlake.engine.compaction as compaction
import dreamlake.engine.logfile as logfile
import dreamlake.engine.ondisk as ondisk
import dreamlake.storage.local as local
from campaigns.log import Log
from dreamlake.engine.footing import Footing
from dreamlake.engine.late import LateFile
from dreamlake.engine.repair import _Repair as Repair
from dreamlake.engine.repairtrack import TrackRepair
from dreamlake.engine.replica import ledger, ownfiles, state, tracks
from dreamlake.engine.replica.taking import Taking
from dreamlake.format import layout

#: States looked at that a second cut leaves, of each first one.
SECONDS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the run may be told."""
    parser.add_argument("--each", type=int, default=8, help="drawn states of each kind after each operation")
    parser.add_argument("--failed", type=int, default=12, help="states looked at for each fsync that fails")
    parser.add_argument("--most", type=int, help="states looked at of each scene, drawn from all; all by default")
    parser.add_argument("--again", type=int, default=20, help="states of a scene after which the power goes once more")
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
    these: Iterable[Sample] = samples(recorder, args.seed, args.each)
    if args.most is not None:
        these = list(these)
        random.Random(args.seed).shuffle(these)
        these = these[: args.most]
    counts = look(recorder, these, folder, lambda seen: log.say(f"{what}: {seen}"))
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
    return counts + failed + _cut_again(scene, fsync, recorder, args, folder, log)


def _cut_again(
    scene: str, fsync: bool, recorder: Recorder, args: argparse.Namespace, folder: Path, log: Log
) -> Counter[str]:
    """Look at what a second cut leaves of a script that was started again after the first."""
    if scene in REPLICAS:
        return Counter()
    what = f"{scene}, fsync={fsync}, cut again"
    firsts = list(samples(recorder, args.seed, 1))
    random.Random(f"{args.seed}/again").shuffle(firsts)
    twice = look_again(
        recorder, firsts[: args.again], fsync, folder, lambda seen: log.say(f"{what}: {seen}"), SECONDS, args.seed
    )
    log.say(f"{what}: {_told(twice)}")
    return twice


def look_again(
    recorder: Recorder,
    firsts: Iterable[Sample],
    fsync: bool,
    folder: Path,
    tell: Callable[[str], None],
    count: int,
    seed: int,
) -> Counter[str]:
    """Look at `count` states that a second cut leaves after each of these first ones; as `look`."""
    counts: Counter[str] = Counter()
    for first in firsts:
        again = record_again(folder, recorder.scene, first.state, fsync)
        if again is not None:
            seconds = list(samples(again, seed, 1))
            random.Random(f"{seed}/{first.seed}").shuffle(seconds)
            counts += look(again, seconds[:count], folder, lambda seen, at=first.seed: tell(f"after {at}: {seen}"))
    return counts


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
    parts = [f"{counts[how]} {how}" for how in HOWS if counts[how] or how == "wrong"]
    return f"{counts.total()} states: {', '.join(parts)}"


HOWS = ("whole", "opened", "repaired", "given up", "wrong")


# -- planted bugs ------------------------------------------------------------------------------------------------------


class Planted(NamedTuple):
    """A bug, and where it shows."""

    what: str
    patch: Callable[[], Any]
    scene: str
    fsync: bool = True
    #: Whether it takes an fsync that fails.
    failing: bool = False
    #: Whether it is in what comes after the cut.
    after: bool = False
    #: Whether it takes so long to find that only the campaign looks for it.
    rare: bool = False


def find(bug: Planted, folder: Path, each: int = 2) -> str:
    """Play the scene of a bug until it is found; return what was, or nothing."""
    sane = record(folder, bug.scene, bug.fsync)
    fails = [(number,) for number in range(1, sane.fsyncs + 1)] if bug.failing else [()]
    draw = random.Random(1)
    draw.shuffle(fails)
    for recorder, sample in _taking_turns([partial(_shuffled, bug, folder, failing, each, draw) for failing in fails]):
        with bug.patch() if bug.after else nullcontext():
            seen = judge(folder, recorder, sample)
        if seen.how == "wrong":
            what, _, root = seen.detail.rpartition(" in ")
            shutil.rmtree(root)
            return f"{sample.policy}: {what.replace(root, '…')}"
    return ""


def _shuffled(
    bug: Planted, folder: Path, failing: tuple[int, ...], each: int, draw: random.Random
) -> Iterator[tuple[Recorder, Sample]]:
    with bug.patch() if not bug.after else nullcontext():
        recorder = record(folder, bug.scene, bug.fsync, failing)
    these = list(samples(recorder, 1, each))
    draw.shuffle(these)
    return ((recorder, sample) for sample in these)


def _taking_turns(makers: list[Callable[[], Iterator[Any]]], count: int = 8) -> Iterator[Any]:
    """Some of each, again and again, until there are no more."""
    left: list[Iterator[Any]] = []
    for make in makers:
        left.append(make())
        yield from islice(left[-1], count)
    while left:
        some = [list(islice(each, count)) for each in left]
        left = [each for each, got in zip(left, some, strict=True) if got]
        for got in some:
            yield from got


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


def _replace_without_any_sync(path: str, data: Any, fsync: bool) -> None:
    local.os_.replace(local._write_tmp(path, data, False), path)


def _append_as_if_it_lasted(path: str, offset: int, data: Any, fsync: bool, name_lasts: bool = True) -> int:
    return _append_at(path, offset, data, fsync)


_append_at = local.append_at


def _never(of: type, name: str) -> Callable[[], Any]:
    """Let what an object notes of itself always be False: a file is not written anew, a second fsync has to do."""
    ignoring = property(lambda self: False, lambda self, value: None)
    return lambda: mock.patch.object(of, name, ignoring, create=True)


def _with_argument(module: Any, name: str, place: int, value: Any) -> Callable[[], Any]:
    """Let a function be called with another argument."""
    real = getattr(module, name)

    def instead(*args: Any, fsync: Any = None) -> Any:
        return real(*args[:place], value, *args[place + 1 :])

    return _without(module, name, instead)


def _beside_unsynced_in(module: Any, name: str) -> Callable[[], Any]:
    """Let a function write new files without an fsync of their bytes."""
    real = getattr(module, name)

    def instead(*args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(local, "write_beside", lambda path, data: local._write_tmp(path, data, False)):
            return real(*args, **kwargs)

    return _without(module, name, instead)


def _parts_go_at_once(self: Any, merged: Any) -> bool:
    with mock.patch.object(local, "fsync_dir", return_value=None):
        done = _replace_parts(self, merged)
    for name in merged.parts if done else ():
        local.os_.unlink(os.path.join(self.folder, name.filename))
    return done


_replace_parts = ondisk.TrackOnDisk.replace_parts


def _cut_at_damage(self: Any, filled: Any) -> None:
    path = self.sources.path("data.jsonl")
    end = 0
    for line in local.read_if_there(path).splitlines(keepends=True):
        if not line.startswith(b'{"index":') or not line.endswith(b"}\n"):
            break
        end += len(line)
    local.truncate(path, end)
    local.fsync_file(path)


@contextmanager
def _sent_unsynced() -> Iterator[None]:
    with mock.patch.object(tracks, "make_last"), mock.patch.object(ownfiles, "make_last"):
        yield


@contextmanager
def _state_unsynced() -> Iterator[None]:
    def save(folder: str, known: state.ReplicaState) -> None:
        local.atomic_write(os.path.join(folder, layout.REPLICA_FILE), msgspec.json.encode(known), False)

    with mock.patch.object(state, "save", save), mock.patch.object(ledger, "save", save):
        yield


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
    Planted(
        "no fsync when a log is put aside",
        _without(logfile.LogFile, "_let_last_what_was_put_aside"),
        "everything",
        rare=True,
    ),
    Planted("a failed fsync of lines is retried", _never(ondisk.TrackOnDisk, "must_rewrite"), "flush", failing=True),
    Planted("a failed fsync of a log is retried", _without(local, "cut_off"), "everything", failing=True, rare=True),
    Planted(
        "a log whose fsync failed is kept",
        _never(logfile.LogFile, "_doubtful"),
        "synced later",
        failing=True,
        rare=True,
    ),
    Planted("folders whose fsync failed are trusted", _without(Footing, "secure"), "begin", failing=True),
    Planted("no fsync of a merged segment", _beside_unsynced_in(compaction, "merge"), "compact", fsync=False),
    Planted(
        "parts go before the merged one lasts",
        _without(ondisk.TrackOnDisk, "replace_parts", _parts_go_at_once),
        "compact",
        fsync=False,
    ),
    Planted("a merged name does not last", _no_folder_sync_in(local, "commit_new"), "compact and sweep", fsync=False),
    Planted("no fsync of what is noted of dropped segments", _with_argument(away, "add", 2, False), "drop"),
    Planted("no fsync of rows that wait", _with_argument(LateFile, "__init__", 2, False), "late for away"),
    Planted("rows that wait go before they are merged", _no_folder_sync_in(local, "commit_new"), "late for away"),
    Planted("no fsync of what is noted of segments elsewhere", _with_argument(away, "write", 2, False), "adopt"),
    Planted("no fsync of a segment that came here", _beside_unsynced_in(Taking, "_place"), "adopt"),
    Planted("no fsync of lines that came here", _with_argument(Taking, "_write", 3, False), "adopt"),
    Planted("what is sent does not last here", _sent_unsynced, "adopt", fsync=False, rare=True),
    Planted("what is noted of the replica does not last", _state_unsynced, "late and drop", rare=True),
    Planted("points are given up unasked", _without(Repair, "_refusal", lambda *args: ""), "repair", False, after=True),
    Planted(
        "a repair cuts at the damage",
        _without(TrackRepair, "_rewrite_hot", _cut_at_damage),
        "repair",
        False,
        after=True,
    ),
    Planted("no fsync of what a repair writes", _without(local, "atomic_write", _replace_without_any_sync), "mend"),
]
