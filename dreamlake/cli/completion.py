"""``dreamlake completion``: the script for a shell, and the names of runs and tracks that it is told."""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from dreamlake.cli.text import say

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="print the completion script of a shell")
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
@click.pass_context
def command(ctx: click.Context, shell: str) -> int:
    """Print the script that completes commands, options, and the names of runs and tracks of a lake in a folder
    (.dreamlake, or the one of --path), for bash (4.4 or newer), zsh or fish.

    \b
    eval "$(dreamlake completion bash)"                                          # in ~/.bashrc
    eval "$(dreamlake completion zsh)"                                           # in ~/.zshrc
    dreamlake completion fish > ~/.config/fish/completions/dreamlake.fish
    """
    from dreamlake.cli import VARIABLE

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "dreamlake", VARIABLE)
    # Not source(), which for bash looks whether the bash of this machine is new enough: it may be for another one.
    say((script.source_template % script.source_vars()).strip())
    return 0


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The runs of the lake in a folder, or folders where none is called so."""
    try:
        runs = [f"{run.workspace}/{run.name}" for run in _runs(ctx)]
    except Exception:  # whatever is wrong there, a line that is being typed is no place to say it
        runs = []
    return _items(runs, incomplete) or [CompletionItem(incomplete, type="dir")]


def complete_tracks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The tracks of the run that was named before."""
    from dreamlake.cli.places import find_run

    given = ctx.params.get("run") or ctx.params.get("what")
    name = given[0] if isinstance(given, tuple) and given else given
    try:
        if not isinstance(name, str) or "://" in name:
            return []
        return _items(find_run(name, _path(ctx)).tracks.list(), incomplete)
    except Exception:
        return []


def complete_runs_and_tracks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The tracks of the run that was named before, and the runs."""
    named = bool(ctx.params.get("what"))
    tracks = complete_tracks(ctx, param, incomplete) if named and not ctx.params.get("track") else []
    return tracks or complete_runs(ctx, param, incomplete)


def complete_folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders."""
    return [CompletionItem(incomplete, type="dir")]


def complete_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files and folders."""
    return [CompletionItem(incomplete, type="file")]


def _items(names: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete) and name.isprintable()]


def _path(ctx: click.Context) -> str:
    from dreamlake.cli.places import DEFAULT_LAKE

    return str(ctx.params.get("path") or DEFAULT_LAKE)


def _runs(ctx: click.Context) -> list[Any]:
    from dreamlake.cli.places import open_lake, runs_of

    path = os.path.expanduser(_path(ctx))
    # Of a URL nothing is asked: a request on each press of the key would make the shell wait.
    return runs_of(open_lake(path)) if os.path.isdir(path) else []
