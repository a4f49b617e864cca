"""`python -m benchmarks.peers`: install the peers, run them beside this library, and print the table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.harness import Settings
from benchmarks.peers import table
from benchmarks.peers.catalogue import OURS, PEERS, Peer
from benchmarks.peers.environments import NotInstalledError, default_folder, prepare
from benchmarks.peers.running import WORKLOADS, Runner

FACTS = ("cores", "processor", "system", "python", "filesystem of the scratch folder", "load at the start")


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 0 when every peer was installed and no workload failed, else 1."""
    options = _parser().parse_args(arguments)
    peers = [OURS, *(peer for peer in PEERS if not options.only or peer.name in options.only)]
    facts = report.machine(Settings(scratch=options.scratch))
    run = table.Run({name: facts[name] for name in FACTS}, options.rounds, options.scale)
    environments: dict[Peer, Path] = {}
    for peer in peers:
        _say(f"environment of {peer.name} …")
        try:
            environments[peer], run.versions[peer.name] = prepare(peer, options.environments)
        except (NotInstalledError, OSError, subprocess.CalledProcessError) as error:
            run.missing[peer.name] = str(error)
    with tempfile.TemporaryDirectory(prefix="dreamlake-peers-", dir=options.scratch) as scratch:
        runner = Runner(environments, options.scale, Path(scratch), _say)
        for workload in options.workload or WORKLOADS:
            runner.run(workload, options.rounds)
    print(table.text(run, runner.results))
    if options.json:
        options.json.write_text(json.dumps(table.as_json(run, runner.results), indent=1) + "\n")
    return 1 if run.missing or runner.results.errors else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="dreamlake beside its peers")
    parser.add_argument(
        "--only",
        action="append",
        choices=[peer.name for peer in PEERS],
        metavar="PEER",
        help=f"only this peer; again for more: {', '.join(peer.name for peer in PEERS)}",
    )
    parser.add_argument(
        "--workload",
        action="append",
        choices=WORKLOADS,
        metavar="NAME",
        help=f"only this workload; again for more: {', '.join(WORKLOADS)}",
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds a workload (3)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="0.01 for a smoke test of a few minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there too")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="make the temporary folders here")
    parser.add_argument(
        "--environments",
        type=Path,
        default=default_folder(),
        metavar="FOLDER",
        help="keep the virtual environments here (below the user's cache folder)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
