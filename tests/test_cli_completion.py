"""Completion as shells ask for it: by click's protocol in a process of its own, and by a real bash."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import python_environment, run_python

from dreamlake import Session
from dreamlake.cli import COMMANDS


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with two runs in .dreamlake, and one in another lake."""
    for root, workspace, name in ((".dreamlake", "w", "one"), (".dreamlake", "w", "two x"), ("other", "v", "three")):
        with Session(name, workspace, tmp_path / root) as session:
            session.track("train/loss").append(x=1)
            session.track("eval").append(x=1)
    return tmp_path


def complete(home: Path, *words: str, shell: str = "bash") -> list[str]:
    """What the words of a line, the last one incomplete, are completed to."""
    env = {"_DREAMLAKE_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        env |= {"COMP_WORDS": shlex.join(["dreamlake", *words[:-1]]), "COMP_CWORD": words[-1]}
    else:
        env |= {"COMP_WORDS": shlex.join(["dreamlake", *words]), "COMP_CWORD": str(len(words))}
    command = [sys.executable, "-W", "error", "-m", "dreamlake.cli"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, env=python_environment(**env))
    assert (done.returncode, done.stderr) == (0, "")
    return [line for line in done.stdout.splitlines() if line]


def test_commands_and_options(home: Path) -> None:
    assert complete(home, "") == [f"plain,{name}" for name in COMMANDS]
    assert complete(home, "co") == ["plain,compact", "plain,completion"]
    assert "plain,--where" in complete(home, "ls", "--wh")
    assert complete(home, "completion", "") == ["plain,bash", "plain,zsh", "plain,fish"]
    assert complete(home, "export", "w/one", "--format", "p") == ["plain,parquet"]
    assert complete(home, "ls", "") == ["dir,"]


def test_runs_and_tracks(home: Path) -> None:
    assert complete(home, "show", "") == ["plain,w/one", "plain,w/two x"]
    assert complete(home, "show", "w/o") == ["plain,w/one"]
    assert complete(home, "show", "--path", "other", "") == ["plain,v/three"]
    assert complete(home, "rm", "w/one", "w/t") == ["plain,w/two x"]
    assert complete(home, "check", "w/one", "tr") == ["plain,train/loss"]
    for command in ("tail", "export", "files", "plot"):
        assert complete(home, command, "w/one", "") == ["plain,eval", "plain,train/loss"]
    assert complete(home, "plot", "--track", "eval", "w/one", "w/t") == ["plain,w/two x"]


def test_what_is_not_there_completes_to_folders_or_nothing(home: Path) -> None:
    assert complete(home, "show", "oth") == ["dir,oth"]
    assert complete(home, "show", "--path", "nowhere", "x") == ["dir,x"]
    assert complete(home, "tail", "w/nothing", "") == []
    assert complete(home, "tail", "s3://bucket/w/one", "") == []
    (home / ".dreamlake/w/one/session.json").write_text("{")
    assert complete(home, "show", "w/o") == ["plain,w/one"]


def test_other_shells(home: Path) -> None:
    assert complete(home, "show", "w/o", shell="fish")[0].startswith("plain")
    assert "w/one" in complete(home, "show", "w/o", shell="zsh")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts(cli: Any, shell: str) -> None:
    status, out, err = cli("completion", shell)
    assert (status, err) == (0, "")
    assert f"_DREAMLAKE_COMPLETE={shell}_complete" in out


def test_an_unknown_shell(cli: Any) -> None:
    status, out, err = cli("completion", "tcsh")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "'fish'" in err


def test_completion_needs_no_heavy_library(home: Path) -> None:
    code = """
    import os, sys
    os.environ |= {"_DREAMLAKE_COMPLETE": "bash_complete", "COMP_WORDS": "dreamlake show w/", "COMP_CWORD": "2"}
    from dreamlake.cli import main
    main([])
    print([name for name in ("numpy", "polars", "pyarrow", "rich") if name in sys.modules])
    """
    assert run_python(code, cwd=home).stdout.splitlines() == ["plain,w/one", "plain,w/two x", "[]"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_real_bash(home: Path) -> None:
    program = home / "bin" / "dreamlake"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dreamlake.cli "$@"\n')
    program.chmod(0o755)
    script = """
    eval "$(dreamlake completion bash)"
    complete -p dreamlake
    answer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _dreamlake_completion dreamlake; }
    answer dreamlake show w/o; printf '%s\\n' "${COMPREPLY[@]}"
    answer dreamlake export w/one tr; printf '%s\\n' "${COMPREPLY[@]}"
    """
    env = python_environment(PATH=f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", script], cwd=home, capture_output=True, text=True, env=env)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == ["w/one", "train/loss"]
    assert "_dreamlake_completion" in done.stdout.splitlines()[0]
