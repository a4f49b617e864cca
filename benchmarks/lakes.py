"""How the workloads open, find and check what dreamlake wrote, through its public API and its documented layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl

import dreamlake
from dreamlake import Lake, Session

SESSION = "run"
WORKSPACE = "bench"
TRACK = "train/loss"
#: Rows that are appended at once where segments are to have their usual width: 100,000 become a wide one.
AT_ONCE = 50_000


def new_session(folder: Path) -> Session:
    """A session with default options in `folder`."""
    return Session(SESSION, WORKSPACE, local_path=str(folder))


def append_as_segments(session: Session, frame: pl.DataFrame, track: str = TRACK) -> None:
    """Append the frame such that it lies in segments of 10,000 points, as those of a loop do."""
    for rows in frame.iter_slices(AT_ONCE):
        session.track(track).append_batch(rows)


def view(folder: Path, track: str = TRACK) -> Any:
    """A fresh reading handle (read, scan, to_polars, len) that knows nothing of the track yet."""
    return Lake(str(folder)).session(SESSION, WORKSPACE).track(track)


def track_folder(folder: Path, track: str = TRACK) -> Path:
    """Where the files of a track are."""
    return folder / WORKSPACE / SESSION / "tracks" / track


def bytes_below(folder: Path) -> int:
    """The sizes of all files in and below `folder`, summed."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def expect_points(folder: Path, count: int, track: str = TRACK) -> None:
    """Raise unless the track holds `count` points: a workload that lost some must not report a speed."""
    found = len(view(folder, track))
    if found != count:
        raise RuntimeError(f"{track} holds {found} points, expected {count}")


def child_environment() -> dict[str, str]:
    """This environment, with this dreamlake and these benchmarks importable and bytecode written as usual."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    roots = [Path(dreamlake.__file__).resolve().parent.parent, Path(__file__).resolve().parent.parent]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(map(str, roots)))
    return environment
