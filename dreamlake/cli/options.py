"""The arguments and options that several commands share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dreamlake.arguments import LONGEST_WAIT
from dreamlake.cli.completion import complete_folders, complete_runs, complete_tracks
from dreamlake.cli.places import DEFAULT_LAKE

Function = TypeVar("Function", bound=Callable[..., Any])

TYPE_CHECKING = False
if TYPE_CHECKING:
    Type = click.ParamType[Any]
else:
    Type = click.ParamType  # which takes no arguments in older versions


class WholeNumber(Type):
    """A whole number, `least` or more (None: any)."""

    name = "number"

    def __init__(self, least: int | None = None) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number that was typed."""
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or (self.least is not None and number < self.least):
            bound = {None: "", 1: " above 0"}.get(self.least, f", {self.least} or more")
            self.fail(f"a whole number{bound}, not {value!r}", param, ctx)
        return number


class Seconds(Type):
    """A number of seconds above 0."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that was typed."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= LONGEST_WAIT:
            self.fail(f"a number of seconds above 0, not {value!r}", param, ctx)
        return seconds


class StorageOptions(Type):
    """Options of a filesystem as JSON; no message shows them, since they may hold secrets."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The object that was typed, or that the file holds."""
        options: Any = value
        if isinstance(value, str):
            try:
                if value.startswith("@"):
                    with open(os.path.expanduser(value[1:]), encoding="utf-8") as file:
                        value = file.read()
                options = json.loads(value)
            except OSError as error:
                self.fail(str(error), param, ctx)
            except (ValueError, RecursionError):
                options = None
        if not isinstance(options, dict):
            self.fail('it is a JSON object, such as {"profile": "team"}, or @FILE that holds one', param, ctx)
        return options


def storage_options(function: Function) -> Function:
    """Add the option for the filesystem of a URL."""
    return click.option(
        "--storage-options",
        metavar="JSON",
        type=StorageOptions(),
        help="Options of the filesystem of a URL as JSON, or @FILE that holds it; by default S3 finds endpoint and "
        "credentials in the environment and in profiles.",
    )(function)


def lake_options(function: Function) -> Function:
    """Add the options that name the lake."""
    path = click.option(
        "--path",
        default=DEFAULT_LAKE,
        metavar="LAKE",
        show_default=True,
        is_eager=True,  # known when the names of its runs are completed
        shell_complete=complete_folders,
        help="The folder or URL of the workspaces.",
    )
    return path(storage_options(function))


def run_argument(function: Function) -> Function:
    """Add the argument that names a run: workspace/session, a session's name, or a session's folder or URL."""
    return click.argument("run", metavar="RUN", shell_complete=complete_runs)(function)


def target(function: Function) -> Function:
    """Add the arguments that name what is to be looked at, and the options that name its lake."""
    what = click.argument("what", required=False, metavar="[WHAT]", shell_complete=complete_runs)
    track = click.argument("track", required=False, metavar="[TRACK]", shell_complete=complete_tracks)
    return what(track(lake_options(function)))


def json_option(function: Function) -> Function:
    """Add the option for scripts."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
