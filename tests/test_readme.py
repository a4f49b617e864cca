"""The README: its blocks run as printed, its commands exist, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from s3.server import S3Server
from s3.team import make_team_bucket
from support import ROOT, run_python

from dreamlake import Lake
from dreamlake.cli import COMMANDS, main, parse

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", README)


@pytest.fixture(scope="module")
def team(s3_server: S3Server) -> dict[str, Any]:
    """The environment in which S3 clients find the bucket that the README names."""
    return dict(make_team_bucket(s3_server))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, team: dict[str, Any]) -> tuple[Path, list[str]]:
    """The folder in which all Python blocks ran, in order and each in a fresh interpreter, and what each printed."""
    folder = tmp_path_factory.mktemp("newcomer")
    return folder, [run_python(block, cwd=folder, **team).stdout for block in blocks("python")]


def test_each_python_block_runs_as_printed(ran: tuple[Path, list[str]]) -> None:
    _, printed = ran
    assert len(printed) >= 5
    assert all(text.strip() for text in printed), "a block shows nothing"


def test_the_first_block_gives_a_frame_within_ten_lines(ran: tuple[Path, list[str]]) -> None:
    assert sum(1 for line in blocks("python")[0].splitlines() if line.strip()) <= 10
    assert "shape: (12_000, 4)" in ran[1][0]


def test_a_run_is_on_s3_within_ten_lines(ran: tuple[Path, list[str]]) -> None:
    (number,) = [number for number, block in enumerate(blocks("python")) if "remote=" in block]
    assert sum(1 for line in blocks("python")[number].splitlines() if line.strip()) <= 10
    assert "shape: (12_000, 4)" in ran[1][number]


def test_polars_alone_reads_what_dreamlake_reads(ran: tuple[Path, list[str]]) -> None:
    assert ran[1][0] == ran[1][-1]


def test_a_comment_on_what_is_printed_is_right(ran: tuple[Path, list[str]]) -> None:
    promised = [line.rpartition("# ")[2] for block in blocks("python") for line in block.splitlines() if "# [{" in line]
    assert len(promised) == 1
    start, _, end = promised[0].partition("...")
    assert any(line.startswith(start) and line.endswith(end) for text in ran[1] for line in text.splitlines())


def test_the_tree_shows_every_file_of_the_run(ran: tuple[Path, list[str]]) -> None:
    (tree,) = re.findall(r"(?ms)^    (\.dreamlake/hello/first/\n.*?)\n\n", README)
    shown = {line.split()[0].rpartition("/")[2] for line in tree.splitlines()} - {""}
    run = ran[0] / ".dreamlake" / "hello" / "first"
    there = {path.name for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert shown == there


def dreamlake_commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("dreamlake ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_command_shown_is_one_and_every_command_is_shown() -> None:
    for command in dreamlake_commands():
        parse(command)
    assert set(COMMANDS) == {command[0] for command in dreamlake_commands()}


def test_the_commands_find_what_the_blocks_wrote(
    ran: tuple[Path, list[str]],
    team: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ran[0])
    for name, value in team.items():
        monkeypatch.setenv(name, value)
    looked = [command for command in dreamlake_commands() if command[0] != "demo"]
    assert len(looked) >= 3
    for command in looked:
        assert main(command) == 0, command
        assert capsys.readouterr().out.strip()


def test_links_lead_to_files() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_the_runs_of_the_picture_are_made_by_the_script_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the sweep trains on scikit-learn's digits")
    assert "](docs/pictures/report.png)" in README
    assert "](docs/examples/sweep.py)" in README
    run_python((ROOT / "docs" / "examples" / "sweep.py").read_text(encoding="utf-8"), cwd=tmp_path)
    found = Lake(tmp_path / ".dreamlake").scan("val", workspace="sweep", parameters=["lr"]).collect()
    best = found.group_by("lr").agg(pl.col("accuracy").max()).sort("lr")
    assert best["lr"].to_list() == [0.01, 0.019, 0.037, 0.072, 0.139, 0.268, 0.518, 1.0]
    assert best["accuracy"].to_list() == sorted(best["accuracy"].to_list())
