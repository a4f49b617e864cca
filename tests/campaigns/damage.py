"""Every bit flipped and every length cut of each file of a run, through every way to read, check, repair and resume.

At each flip and cut the points of the file are read; at each eighth flip and fourth cut all points, in one or two more
ways too, drawn, and all with damage left out; at each 500th the run is also checked, resumed as it is, repaired, and
resumed then.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from damagesweep import ReplicaSweep, Sweep, cuts, flips, some

from campaigns.log import Log

TARGETS = (
    "a segment",
    "the newest segment",
    "data.jsonl",
    "metadata.json",
    "session.json",
    "parameters.json",
    "logs.jsonl",
    ".lock",
    ".replica.json",
)
#: Of the state of the replica each n-th bit: at each of these a session is opened and synced.
STATE_STRIDE = 7


# ------------------------------------------------------------------------------------------------ planted bugs


def _no_page_checksums(patch: Callable[..., None]) -> None:
    from dreamlake.format import segment

    patch(segment, "READ_OPTIONS", {**segment.READ_OPTIONS, "page_checksum_verification": False})


def _no_footer_checksum(patch: Callable[..., None]) -> None:
    from dreamlake.format import footer

    patch(footer, "_verify_checksum", lambda tail: None)


def _damaged_lines_are_left_out(patch: Callable[..., None]) -> None:
    from dreamlake.engine import hotpart

    real = hotpart.parse_hot
    patch(hotpart, "parse_hot", lambda data, below, path, strict: real(data, below, path, False))


def _damaged_segments_are_left_out(patch: Callable[..., None]) -> None:
    from dreamlake.engine.snapshot import Snapshot

    patch(Snapshot, "_skip_or_raise", lambda self, error: None)


def _a_torn_line_counts(patch: Callable[..., None]) -> None:
    from dreamlake.format import hot

    real = hot.parse

    def parse(data: bytes, **how: Any) -> Any:
        try:
            return real(data if data.endswith(b"\n") else data + b"\n", **how)
        except ValueError:
            return real(data, **how)

    patch(hot, "parse", parse)


def _check_trusts_pages(patch: Callable[..., None]) -> None:
    from dreamlake.engine import inspecttrack
    from dreamlake.engine.salvage import Seen

    real = inspecttrack.look_into

    def look_into(*args: Any) -> Seen:
        seen = real(*args)
        return seen if seen.info is None else Seen(seen.info)

    patch(inspecttrack, "look_into", look_into)


def _a_repair_closes_gaps(patch: Callable[..., None]) -> None:
    from dreamlake.engine import repairtrack

    real = repairtrack.encode_lines
    patch(repairtrack, "encode_lines", lambda lines: real(enumerate((point for _, point in lines), 24)))
    patch(repairtrack.TrackRepair, "write", lambda self, name, points, repaired: None)


def _a_repair_keeps_no_original(patch: Callable[..., None]) -> None:
    from dreamlake.engine import mending, repairtrack

    patch(mending, "keep", lambda path: "")
    patch(repairtrack, "keep", lambda path: "")


Damages = Iterable[tuple[str, int, int]]


def _anywhere(data: bytes, seed: int) -> Damages:
    return some(len(data), 300, seed)


def _in_times(data: bytes, seed: int) -> Damages:
    """The digits of the first time that a footer tells of another segment."""
    mark = b'"before":[[0,8,0,'
    at = data.index(mark) + len(mark)
    return [("flip", at + place, bit) for place in range(4) for bit in range(4)]


def _before_newlines(data: bytes, seed: int) -> Damages:
    return [("cut", place, 0) for place, byte in enumerate(data) if byte == ord("\n")]


#: The bugs, by what they are; the file in which they show, and the damages; how often the run is repaired and resumed.
PLANTED: dict[str, tuple[Callable[[Callable[..., None]], None], str, Callable[[bytes, int], Damages], int]] = {
    "pages are read without their checksums": (_no_page_checksums, "a segment", _anywhere, 0),
    "the footer is read without its checksum": (_no_footer_checksum, "the newest segment", _in_times, 0),
    "damaged lines are left out without a word": (_damaged_lines_are_left_out, "data.jsonl", _anywhere, 0),
    "damaged segments are left out without a word": (_damaged_segments_are_left_out, "a segment", _anywhere, 0),
    "a torn line counts": (_a_torn_line_counts, "data.jsonl", _before_newlines, 0),
    "check trusts pages": (_check_trusts_pages, "a segment", _anywhere, 1),
    "a repair closes gaps by moving indices": (_a_repair_closes_gaps, "data.jsonl", _anywhere, 1),
    "a repair keeps no original": (_a_repair_keeps_no_original, "a segment", _anywhere, 1),
}


def find(bug: str, sweep: Sweep, seed: int) -> list[str]:
    """What a sweep finds first with a bug in the library, in this process."""
    undo: list[tuple[Any, str, Any]] = []

    def patch(where: Any, name: str, value: Any) -> None:
        undo.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    plant, target, damages, deep = PLANTED[bug]
    sweep.most_wrong = 1
    try:
        plant(patch)
        sweep.run(target, damages(sweep.whole[target], seed), ways=None, deep=deep)
    finally:
        for where, name, value in reversed(undo):
            setattr(where, name, value)
    return sweep.wrong


# ------------------------------------------------------------------------------------------------ the campaign


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", action="append", metavar="FILE", choices=TARGETS, help="only this file")
    parser.add_argument("--stride", type=int, default=1, help="each n-th bit and length (default: 1, all)")
    parser.add_argument("--deep", type=int, default=500, help="check, repair and resume at each n-th (default: 500)")


def run(args: argparse.Namespace, log: Log) -> int:
    """Damage one file after the other, each in a process of its own, since a reader might crash it."""
    failed = 0
    if not args.no_planted:
        for bug in PLANTED:
            result = _in_child(["planted", bug, args.seed], log)
            failed += not log.planted(bug, result["wrong"][0] if result["wrong"] else "")
    if args.only_planted:
        return 1 if failed else 0
    total = 0
    for target in args.only or TARGETS:
        result = _in_child(["sweep", target, args.seed, args.stride, args.deep], log)
        deep = result["counts"].pop("deep looks", 0)
        count = sum(result["counts"].values())
        total += count
        log.say(f"{target}, {result['size']} bytes: {count} damages, {deep} times checked, repaired and resumed")
        for name, times in sorted(result["counts"].items()):
            log.say(f"    {name.partition(': ')[2]}: {times}")
        for line in result["wrong"]:
            log.say(f"    WRONG: {line}")
        failed += len(result["wrong"])
    log.say(f"{total} damages, {failed} wrong")
    return 1 if failed else 0


def _in_child(job: Sequence[object], log: Log) -> dict[str, Any]:
    """Run one job in a process of its own; one that dies is told with the damage at which it did."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder, "at")
        command = [sys.executable, "-c", _CHILD, json.dumps(job), folder]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        log.note(f"{job[1]} done")
        if done.returncode == 0:
            result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return result
        where = at.read_text() if at.exists() else "its start"
        return {"size": 0, "counts": {}, "wrong": [f"the process died with status {done.returncode} at {where}"]}


_CHILD = "import json, sys; from campaigns.damage import child; child(json.loads(sys.argv[1]), sys.argv[2])"


def child(job: list[Any], folder: str) -> None:
    """Do one job and print what came of it as JSON."""
    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)
    result = _plant(job[1], job[2], folder) if job[0] == "planted" else _sweep(*job[1:], folder)
    print(json.dumps(result))


def _plant(bug: str, seed: int, folder: str) -> dict[str, Any]:
    return {"size": 0, "counts": {}, "wrong": find(bug, _make(Sweep, folder, seed), seed)}


def _sweep(target: str, seed: int, stride: int, deep: int, folder: str) -> dict[str, Any]:
    of_state = target == ".replica.json"
    sweep = _make(ReplicaSweep if of_state else Sweep, folder, seed)
    size = len(sweep.whole[target])
    each = stride * (STATE_STRIDE if of_state else 1)
    sweep.run(target, flips(size, each), ways=1, thin=8, deep=0 if of_state else deep)
    sweep.run(target, cuts(size, each), ways=2, thin=4, deep=0 if of_state else deep)
    return {"size": size, "counts": dict(sweep.counts), "wrong": sweep.wrong}


def _make(kind: type[Sweep], folder: str, seed: int) -> Sweep:
    sweep = kind(Path(folder, "run"), seed)
    at = Path(folder, "at")
    sweep.tell = lambda label: at.write_text(label) and None  # type: ignore[method-assign]
    return sweep
