"""The tree as a reader finds it: each file says what it is for, and none knows whose machine it was written on."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from support import ROOT

CODE = sorted(path for folder in ("dreamlake", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

# Folders of one person or one machine; "me" and "you" stand for anybody. Written so as not to match itself.
MACHINE = re.compile(
    r"(?<![\w.~])(?:/wo[r]k/\w|/ro[o]t/[\w.]|/(?:ho[m]e|Us[e]rs)/(?!me\b|you\b)\w)|[A-Z]:\\Us[e]rs\\(?!me\b|you\b)"
)


def tracked() -> list[Path]:
    """The text files under version control; all files of the tree where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not {".git", "__pycache__", ".hypothesis"} & set(path.parts)]
    return [path for path in paths if path.is_file() and path.suffix not in {".parquet", ".png", ".gif"}]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert doc, "no docstring"
    first = doc.partition("\n\n")[0]
    assert first.endswith((".", ":")), f"its first paragraph is no sentence: {first!r}"


def test_nothing_knows_the_machine_it_was_written_on() -> None:
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in tracked()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line", ["see /wo" + "rk/x", "(/ho" + "me/mel/x)", "C:\\Us" + "ers\\ann", '"/Us' + 'ers/ann"', "/ro" + "ot/.cache"]
)
def test_the_search_for_machines_finds_them(line: str) -> None:
    assert MACHINE.search(line)


@pytest.mark.parametrize("line", ["a/work/b", "https://x.org/home/x", "/tmp/lake", "/home/me/lake", "/etc/passwd"])
def test_the_search_for_machines_lets_the_rest_be(line: str) -> None:
    assert not MACHINE.search(line)


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    source = (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert len(re.findall(r'(?m)^__version__ = "\d+\.\d+\.\d+"$', source)) == 1


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"(?m)^.*python -m pytest -n auto$", readme)
    assert re.search(r"(?m)^python -m pytest -n auto$", script)
    install = 'pip install -e ".[dev,demo]"'
    assert install in readme
    assert f"python -m {install.replace('install', 'install -q')}" in script


def test_the_package_carries_its_types() -> None:
    assert (ROOT / "dreamlake" / "py.typed").read_text(encoding="utf-8") == ""
