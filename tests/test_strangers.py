"""A run from a stranger: nothing outside of its folder is read or changed, nothing hangs, memory stays bounded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from strangers import (
    FOLDERS,
    SECRET,
    TAMPERED,
    command_line,
    deadline,
    link_out,
    loop,
    make_run,
    pipe,
    read_all,
    run_command,
    seen,
    sync,
    write_all,
)

from dreamlake.errors import DreamlakeError

ALLOWED = (DreamlakeError, OSError)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    make_run(root)
    return root


@pytest.fixture
def lake(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "lake", symlinks=True))


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    with deadline(60.0):
        yield


def attempt(work: Callable[[], Any]) -> str:
    """Do it; what it gives or how it fails, as text."""
    try:
        return repr(work())
    except ALLOWED as error:
        return f"{type(error).__name__}: {error}"


def do_everything(root: Path, outside: Path) -> None:
    """Read, write, upload and look at a run: what is outside of the lake stays as it is, and unknown."""
    before = seen(outside)
    said = [attempt(work) for errors in ("raise", "skip") for work in read_all(root, errors)]
    works, uploaded = sync(root)
    said += map(attempt, works)
    for argv in command_line(root):
        status, printed = run_command(argv)
        assert status in (0, 1, 2), argv
        assert "Traceback" not in printed
        assert printed.replace("\n", "").isprintable(), argv
        said.append(printed)
    said += map(attempt, write_all(root))
    said += map(attempt, sync(root)[0])
    assert not any(SECRET in each for each in said), [each for each in said if SECRET in each]
    assert SECRET.encode() not in uploaded()
    assert seen(outside) == before


def test_a_sound_run_is_read_written_and_uploaded(lake: Path, tmp_path: Path) -> None:
    """The tests here would see it if nothing was done at all."""
    (tmp_path / "outside").mkdir()
    said = [attempt(work) for work in [*read_all(lake), *sync(lake)[0], *write_all(lake)]]
    assert not any("Error" in each for each in said), said
    assert all(run_command(argv)[0] == 0 for argv in command_line(lake))


@pytest.mark.parametrize(("kind", "file"), TAMPERED, ids=lambda each: getattr(each, "__name__", each))
def test_something_else_in_the_place_of_a_file(lake: Path, tmp_path: Path, file: str, kind: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    kind(lake / "w" / "s" / file, outside / Path(file).name)
    do_everything(lake, outside)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("kind", [link_out, loop, pipe], ids=lambda kind: kind.__name__)
def test_something_else_in_the_place_of_a_folder(lake: Path, tmp_path: Path, folder: str, kind: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = lake / "w" / "s" / folder
    if kind is not link_out:
        shutil.rmtree(place)
        place.touch()
    kind(place, outside / "moved")
    do_everything(lake, outside)
