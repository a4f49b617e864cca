"""Every command and option of the shell is documented: in its own help, and in docs/guide/cli.md."""

from __future__ import annotations

import re

import click
import pytest
from support import ROOT

from dreamlake.cli import COMMANDS, program

PAGE = (ROOT / "docs" / "guide" / "cli.md").read_text(encoding="utf-8")
#: What the page says once, of all commands.
EVERYWHERE = {"--path", "--storage-options", "--json"}


def command_of(name: str) -> click.Command:
    found = program.get_command(click.Context(program), name)
    assert found is not None
    return found


def section(name: str) -> str:
    """What the page says of a command."""
    _, _, below = PAGE.partition(f"\n### `dreamlake {name}`\n")
    return re.split(r"(?m)^##", below)[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_has_the_command_with_an_example(name: str) -> None:
    assert f"dreamlake {name}" in "".join(re.findall(r"(?ms)^```bash\n(.*?)^```$", section(name)))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_has_every_option(name: str) -> None:
    said = section(name)
    beginning = PAGE.partition("\n## ")[0]
    for option in command_of(name).params:
        for word in (*option.opts, *option.secondary_opts):
            if isinstance(option, click.Option) and word in EVERYWHERE:
                assert f"`{word}`" in beginning
            elif isinstance(option, click.Option):
                assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", said), f"dreamlake {name} {word}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_says_what_each_command_and_option_does(name: str) -> None:
    command = command_of(name)
    assert command.help
    assert command.get_short_help_str(100) == COMMANDS[name]
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"dreamlake {name} {option.opts}"
            assert option.help.rstrip("]").endswith((".", "URL", "default")), option.help


def test_a_command_or_option_that_is_missing_is_noticed() -> None:
    assert section("nothing") == ""
    assert "--yes" in section("rm")
    assert "--yes" not in section("ls")
