"""`python -m benchmarks`: run the workloads and print their table."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import appending, batching, long, many, memory, outage, reading, remote, report, sizes, starting
from benchmarks.harness import Row, Settings

WORKLOADS: dict[str, Callable[[Settings], list[Row]]] = {
    "append": appending.append_loop,
    "longest": appending.longest_append,
    "tracks": appending.many_tracks,
    "batches": batching.dict_batches,
    "frame": batching.one_frame,
    "full": reading.full_read,
    "middle": reading.middle,
    "column": reading.one_column,
    "bytes": sizes.bytes_on_disk,
    "import": starting.import_time,
    "memory": memory.writer_memory,
    "robot": appending.robot_states,
    "long": long.long_track,
    "runs": many.many_runs,
    "many-tracks": many.tracks_in_one,
    "s3-range": remote.range_read,
    "s3-full": remote.full_read,
    "s3-runs": remote.many_runs,
    "s3-upload": remote.upload,
    "s3-outage": outage.outage,
}


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 0 when every workload ran (whether or not it met its target), else 1."""
    options = _parser().parse_args(arguments)
    rounds = options.rounds or (3 if options.quick else 7)
    rows: list[Row] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="dreamlake-benchmarks-", dir=options.scratch) as folder:
        settings = Settings(rounds=rounds, quick=options.quick, scratch=Path(folder))
        facts = report.machine(settings)
        print(report.heading(facts, settings, report.busy()), end="\n\n", flush=True)
        for name in options.only or WORKLOADS:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                rows += WORKLOADS[name](settings)
            except Exception:
                traceback.print_exc()
                failed.append(name)
    print(report.table(rows))
    if failed:
        print(f"\nFAILED, so not in the table: {', '.join(failed)}")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(facts, settings, rows), indent=2) + "\n")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="dreamlake beside its floors, in one run")
    parser.add_argument("--quick", action="store_true", help="smaller inputs and 3 rounds: a smoke run of some minutes")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds a workload (7, quick 3)")
    parser.add_argument(
        "--only",
        action="append",
        choices=WORKLOADS,
        metavar="NAME",
        help=f"only this one; again for more: {', '.join(WORKLOADS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there too")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="make the temporary folders here")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
