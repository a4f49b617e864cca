"""The command line: finds the command, and turns errors into one line and an exit status.

Each command is a module of this package of its name (with a "_" behind a keyword), imported when it is asked for; its
``command`` is a click command that returns the exit status.

Exit status: 0 when all went well, 1 when what was asked could not be done (damage, a disk that fails, an extra
that is not installed), 2 for a mistake in what was asked (an unknown option, no such run), 130 after Ctrl-C, 141 when
the reader of a pipe went away.
"""

from __future__ import annotations

import difflib
import importlib
import keyword
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from dreamlake import __version__
from dreamlake.cli.places import Mistake, close_opened
from dreamlake.cli.text import complain, words_of
from dreamlake.errors import DreamlakeError, SessionNotFoundError, TrackNotFoundError

__all__ = ["main"]

#: The variable by which the script of a shell asks for completions; see completion.py.
VARIABLE = "_DREAMLAKE_COMPLETE"

#: The commands, in the order in which the help lists them, and what each is for.
COMMANDS = {
    "demo": "train a small model, and look at what the run left",
    "ls": "list runs, and compare them",
    "show": "show one run",
    "tail": "show the newest points or log lines, and follow a live run",
    "files": "list the Parquet files of a track",
    "plot": "draw tracks on the terminal",
    "export": "write tracks as CSV, Parquet or JSON lines",
    "import": "bring in runs of other tools, and tables",
    "report": "write runs compared as a page",
    "sync": "upload what the replica of a run lacks",
    "check": "verify every file of runs",
    "repair": "repair damaged runs",
    "compact": "merge small segments",
    "rm": "remove runs",
    "completion": "print the completion script of a shell",
}


class Commands(click.Group):
    """The commands by name; the module of one is imported when it is asked for, so that the help starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = cmd_name + "_" * keyword.iskeyword(cmd_name)
        found: click.Command = importlib.import_module(f"dreamlake.cli.{module}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of the help, without importing what it lists."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"is it {close[0]!r}?" if close else f"there are {', '.join(COMMANDS)}"
            ctx.fail(f"no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)


@click.group(
    "dreamlake",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="A command's own help has examples: dreamlake show --help.",
)
@click.version_option(__version__, prog_name="dreamlake", message="%(prog)s %(version)s")
def program() -> None:
    """Look at the time series of ML runs, work with them, and try dreamlake out.

    Where a command asks for a lake, it is the folder or URL of the workspaces, .dreamlake by default. Exit status: 0
    when all went well, 1 when something could not be done, 2 for a mistake in what was asked, 130 after Ctrl-C.
    """


def parse(argv: Sequence[str]) -> click.Context:
    """Take a command line apart, and run nothing. Raises click.UsageError where it makes no sense."""
    context = program.make_context("dreamlake", list(argv[:1]))
    name, command, _ = program.resolve_command(context, list(argv[:1]))
    assert command is not None
    return command.make_context(name, list(argv[1:]), parent=context)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv
        The arguments; those of the process by default.
    """
    _open_closed()
    _print_anything()
    argv = list(sys.argv[1:] if argv is None else argv)
    if VARIABLE in os.environ:
        return _complete(os.environ[VARIABLE])
    try:
        status = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (KeyboardInterrupt, click.Abort):
        return _fail(130, "interrupted")
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        return _misused(error, argv)
    except (Mistake, SessionNotFoundError, TrackNotFoundError) as error:
        return _fail(2, str(error))
    except (DreamlakeError, OSError, ValueError) as error:
        return _fail(1, words_of(error))
    finally:
        close_opened()
    return status


def _complete(instruction: str) -> int:
    """Answer the shell, which asks for completions; nothing of this may end in a traceback on somebody's prompt."""
    from click.shell_completion import shell_complete

    try:
        return shell_complete(program, {}, "dreamlake", VARIABLE, instruction)
    except Exception:
        return 1
    finally:
        close_opened()


def _run(argv: list[str]) -> int:
    if not argv:
        with program.make_context("dreamlake", [], resilient_parsing=True) as context:
            sys.stderr.write(context.get_help() + "\n")
        return 2
    with program.make_context("dreamlake", argv) as context:
        status: Any = program.invoke(context)
        return int(status)


def _misused(error: click.UsageError, argv: Sequence[str]) -> int:
    program = "dreamlake" if error.ctx is None else error.ctx.command_path
    if error.ctx is None and argv and argv[0] in COMMANDS:  # older parsers do not tell
        program = f"dreamlake {argv[0]}"
    said = " ".join(error.format_message().rstrip(".").split())  # a list of choices has lines of its own
    return _fail(2, f"{said[:1].lower()}{said[1:]} (see {program} --help)", program)


def _fail(status: int, message: str, program: str = "dreamlake") -> int:
    sys.stdout.flush()
    complain(message, program)
    return status


def _open_closed() -> None:
    """Let what is written to a closed stream (``dreamlake ls >&-``) go nowhere; Python has None in its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Nobody closes it, as nobody closes those that it stands for.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8", closefd=False))


def _print_anything() -> None:
    """Let a terminal that lacks a character show ``?`` in its place, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
