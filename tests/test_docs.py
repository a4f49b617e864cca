"""The pages of docs/: their Python blocks run and print what stands below them, and their links lead somewhere.

The blocks of a page run in order, in one fresh interpreter, in an empty folder, with warnings as errors, and share
their names. A block of ``text`` right after one is what it prints, ``...`` standing for anything; times and sizes of
files may differ. A block that cannot run has ``<!-- not run: why -->`` above it; one that needs a library which the
tests do without has ``<!-- run where ray is installed -->``, and docs/contributing.md says where that is. A block of
``bash`` with dreamlake's commands is run where a block of ``text`` follows. ``s3://my-team`` is a bucket of the tests'
own S3 server, empty at first, which the environment of the page names.
"""

from __future__ import annotations

import doctest
import re
import shlex
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from s3.server import S3Server
from s3.team import BUCKET, make_team_bucket
from support import ROOT, run_python

from dreamlake.cli import parse

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MARK = "\x1e"  # parts what the blocks print


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its first line's number in the page (from 1), its text, and the line above."""

    language: str
    line: int
    text: str
    above: str

    @property
    def end(self) -> int:
        """The number of the line of its closing fence."""
        return self.line + self.text.count("\n")


@cache
def blocks(page: Path) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"(?ms)^```(\w*)\n(.*?)^```$", source):
        above = source[: match.start()].rstrip().rpartition("\n")[2]
        found.append(Block(match[1], source.count("\n", 0, match.start(2)) + 1, match[2], above))
    return found


def reason(block: Block) -> str | None:
    """Why the block is not run; None when it is."""
    library = needs(block)
    if library is not None:
        return None if find_spec(library) is not None else f"{library} is not installed"
    comment = re.fullmatch(r"<!-- not run:(.*)-->", block.above)
    return None if comment is None else comment[1].strip()


def needs(block: Block) -> str | None:
    """The library that is needed to run the block, which tests do without otherwise."""
    comment = re.fullmatch(r"<!-- run where (\w+) is installed -->", block.above)
    return None if comment is None else comment[1]


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python" and reason(block) is None]


def shown_after(page: Path) -> dict[Block, Block]:
    """The blocks of a page that have a block of ``text`` right below, and that one."""
    pairs = zip(blocks(page), blocks(page)[1:], strict=False)
    return {one: other for one, other in pairs if other.language == "text" and other.line == one.end + 3}


def run_blocks(page: Path) -> list[Block]:
    """The blocks of a page that are run, in order."""
    run, shown = python_blocks(page), shown_after(page)
    return [block for block in blocks(page) if block in run or (block.language == "bash" and block in shown)]


def script(page: Path) -> str:
    """The blocks of a page as one program, each on the lines that it has in the page; a mark at each closing fence."""
    lines = [""] * page.read_text(encoding="utf-8").count("\n")
    for block in run_blocks(page):
        source = block.text.splitlines()
        if block.language == "bash":
            source = [f"__import__('dreamlake.cli').cli.main({shlex.split(line)[1:]!r})" for line in source]
        lines[block.line - 1 : block.end - 1] = source
        lines[block.end - 1] = f"print({MARK!r})"
    return "\n".join(lines)


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def pages_to_run(remote: bool) -> list[Path]:
    """The pages with blocks that run: those that need S3, or the others."""
    return [page for page in PAGES if python_blocks(page) and (f"s3://{BUCKET}/" in script(page)) is remote]


@pytest.mark.parametrize("page", pages_to_run(remote=False), ids=name_of)
def test_the_blocks_run_and_print_what_they_say(page: Path, tmp_path: Path) -> None:
    check_blocks(page, tmp_path)


@pytest.mark.parametrize("page", pages_to_run(remote=True), ids=name_of)
def test_the_blocks_with_s3_run_and_print_what_they_say(page: Path, tmp_path: Path, s3_server: S3Server) -> None:
    check_blocks(page, tmp_path, **make_team_bucket(s3_server))


def check_blocks(page: Path, tmp_path: Path, **env: Any) -> None:
    program = tmp_path / f"{page.stem}.py"
    program.write_text(script(page), encoding="utf-8")
    folder = tmp_path / "newcomer"
    folder.mkdir()
    run = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
    if any(map(needs, run_blocks(page))):  # frameworks warn of each other
        run = f"import warnings; warnings.simplefilter('default'); {run}"
    printed = run_python(run, cwd=folder, timeout=300, **env).stdout.split(f"{MARK}\n")
    assert len(printed) == len(run_blocks(page)) + 1
    shown = shown_after(page)
    for block, got in zip(run_blocks(page), printed, strict=False):
        if block in shown:
            assert same_text(shown[block].text, got), f"{name_of(page)}, line {shown[block].line}: it prints\n{got}"
        else:
            assert got == "", f"{name_of(page)}, line {block.line}: what it prints is not shown:\n{got}"


def same_text(shown: str, got: str) -> bool:
    return doctest.OutputChecker().check_output(_timeless(shown), _timeless(got), doctest.ELLIPSIS)


def _timeless(text: str) -> str:
    """The text without times and sizes of files, which differ from run to run."""
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?", "TIME", text)
    text = re.sub(r"\b1[5-9]\d{8}\.\d+", "SECONDS", text)
    return re.sub(r" *\b\d+(\.\d)? (B|kB|MB)\b", " SIZE", text)


def test_the_pages_have_blocks_that_run() -> None:
    with_blocks = {name_of(page): len(python_blocks(page)) for page in PAGES}
    assert with_blocks["quickstart.md"] >= 4
    assert with_blocks["guide/tracks.md"] >= 20
    assert with_blocks["guide/remote.md"] >= 8


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    assert [block.line for block in blocks(page) if reason(block) == ""] == []
    comments = page.read_text(encoding="utf-8").count("<!--")
    assert comments == sum(needs(block) is not None or reason(block) is not None for block in blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_fence_is_part_of_a_block(page: Path) -> None:
    fences = re.findall(r"(?m)^\s*```", page.read_text(encoding="utf-8"))
    assert len(fences) == 2 * len(blocks(page))
    assert {block.language for block in blocks(page)} <= {"python", "text", "json", "bash"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    for block in blocks(page):
        for line in block.text.splitlines() if block.language == "bash" else ():
            if line.startswith("dreamlake "):
                words = shlex.split(line, comments=True)[1:]
                parse(words[: next((at for at, word in enumerate(words) if word in ("|", ">")), None)])


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_listed() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [name_of(page) for page in PAGES if page.name != "README.md" and f"({name_of(page)})" not in index] == []


def test_the_map_of_the_house_names_every_module() -> None:
    found = re.findall(r"(?m)^\| `([\w/]+\.py)` \| \S", (DOCS / "contributing.md").read_text(encoding="utf-8"))
    modules = {path.relative_to(ROOT / "dreamlake").as_posix() for path in (ROOT / "dreamlake").rglob("*.py")}
    assert sorted(found) == sorted(set(found)), "named twice"
    assert modules - set(found) == set(), "not on the map of docs/contributing.md"
    assert set(found) - modules == set(), "on the map of docs/contributing.md, and no longer there"


# ------------------------------------------------------------------------------------------------ the checks themselves


def test_a_wrong_output_a_failing_block_and_a_warning_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\nraise OSError\n```\n", encoding="utf-8")
    assert [block.language for block in blocks(page)] == ["python", "text", "python"]
    assert not same_text("1\n", "2\n")
    assert same_text("[1, ...]\n", "[1, 2.5]\n")
    with pytest.raises(AssertionError, match=r"line 10"):
        run_python(script(page))
    with pytest.raises(AssertionError, match="UserWarning"):
        run_python("import warnings; warnings.warn('x')")
