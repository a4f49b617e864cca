"""``python -m campaigns NAME``: runs one campaign, planted bugs first. See README.md beside this file."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]  # the tree's own library, and what the tests share

import campaigns  # noqa: E402
from campaigns.log import Log  # noqa: E402

NAMES = sorted(m.name for m in pkgutil.iter_modules(campaigns.__path__) if m.name not in ("__main__", "log"))


def main() -> int:
    """Run the campaign that was named; the exit status is 0 when it found nothing but what was planted."""
    parser = argparse.ArgumentParser(prog="python -m campaigns", description=campaigns.__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name in NAMES:
        module = importlib.import_module(f"campaigns.{name}")
        said = (module.__doc__ or "").strip().partition("\n")[0]
        command = commands.add_parser(name, help=said, description=said)
        command.add_argument("--seed", type=int, default=1, help="of all that is drawn (default: 1)")
        command.add_argument("--save", action="store_true", help=f"keep the log as logs/{name}.txt")
        command.add_argument("--no-planted", action="store_true", help="do not look for the planted bugs first")
        command.add_argument("--only-planted", action="store_true", help="look for the planted bugs only")
        module.add_arguments(command)
    args = parser.parse_args()
    log = Log(args.name, sys.argv[1:])
    status: int = importlib.import_module(f"campaigns.{args.name}").run(args, log)
    log.say(f"{'nothing found' if status == 0 else 'FAILED'}, {log.elapsed():.0f} s")
    if args.save:
        log.note(f"kept in {log.save()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
