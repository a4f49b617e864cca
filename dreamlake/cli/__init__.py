"""The command line: finds the command, and turns errors into one line and an exit status.

Each command is a module of this package with an ``add_parser`` that names its options and the function to run.

Exit status: 0 when all went well, 1 when what was asked could not be done (damage, a disk that fails, an extra
that is not installed), 2 for a mistake in what was asked (an unknown option, no such run), 130 after Ctrl-C, 141 when
the reader of a pipe went away.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from dreamlake import __version__
from dreamlake.cli import check, compact, demo, files, ls, repair, show, sync
from dreamlake.cli.places import Mistake, close_opened
from dreamlake.cli.text import complain
from dreamlake.errors import DreamlakeError, SessionNotFoundError, TrackNotFoundError

__all__ = ["main"]

#: The commands, in the order in which the help lists them.
COMMANDS = (demo, ls, show, files, sync, check, repair, compact)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage above, and that takes whole option names only."""

    def __init__(self, **options: Any) -> None:
        # A shortened name that scripts rely on would break when a later option begins in the same way.
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """End the program with status 2 and say what was wrong."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(prog="dreamlake", description="Look at the time series of ML runs, and try dreamlake out.")
    parser.add_argument("--version", action="version", version=f"dreamlake {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv
        The arguments; those of the process by default.
    """
    _print_anything()
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help(sys.stderr)
            return 2
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    except (Mistake, SessionNotFoundError, TrackNotFoundError) as error:
        return _fail(2, str(error))
    except (DreamlakeError, OSError, ValueError) as error:
        return _fail(1, str(error))
    finally:
        close_opened()
    return status


def _fail(status: int, message: str) -> int:
    sys.stdout.flush()
    complain(message)
    return status


def _print_anything() -> None:
    """Let a terminal that lacks a character show ``?`` in its place, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
