"""What the tests of damage share: a run with something of everything, its points, and ways to damage its files."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from columnar import same

from dreamlake import Session
from dreamlake.format.segment import open_segment
from dreamlake.lake import SessionView
from dreamlake.storage.localstore import LocalStore

NAME, WORKSPACE, TRACK = "s", "w", "a/b"
POINTS = 26
IST = dt.timezone(dt.timedelta(hours=5, minutes=30))


def fields_of(number: int) -> dict[str, Any]:
    """The fields of a point: every kind of column a segment can have."""
    point: dict[str, Any] = {
        "real": [0.5 * number, float("nan"), -0.0, float("inf")][number % 4],
        "count": number - 3,
        "large": 2**60 + number,
        "flag": number % 3 == 0,
        "text": f"é{number}\n",
        "raw": bytes([number, 0, 255]),
        "when": dt.datetime(2026, 11, 24, 12, 0, number, number),
        "zoned": dt.datetime(2026, 11, 24, 12, 0, number, tzinfo=IST),
        "list": [float(number), -1.5],
        "pose": {"x": number, "y": [number, None]},
        "mixed": [number, "a", {"$k": None}] if number % 2 else 10**30,
    }
    if number % 5 == 1:
        point["gone"] = None
    if number % 5 == 2:
        point["some"] = number
    return point


def make_run(root: Path, *, old_form: bool = False, **options: Any) -> list[dict[str, Any]]:
    """Write a closed run: three segments, one of them in its next generation, hot lines, parameters, a log.

    With `old_form` the generation before that awaits its sweep. Returns its points.
    """
    points = [{**fields_of(number), "_ts": 1000.0 + number} for number in range(POINTS)]
    options = {"segment_points": 8, "flush_interval": 3600.0, **options}
    described: dict[str, Any] = {"description": "d", "tags": ["x", "y"], "metadata": {"k": [1, 2], "deep": {"a": 1}}}
    with Session(NAME, WORKSPACE, root, **described, **options) as session:
        session.parameters().set(lr=0.1, model={"layers": 4, "sizes": [1, 2]}, name="é")
        for number in range(5):
            session.log(f"message {number}", "warn", {"n": number})
        track = session.track(TRACK, description="td", tags=["t"], metadata={"unit": "m"})
        for point in points:
            track.append(**point)
        track.flush()
        track.append(late="l", _ts=1009.0)
        track.append(late="hot", _ts=1025.0)
        track.flush()
    if not old_form:
        for path in folder_of(root).glob("*.1.parquet"):
            (path.parent / path.name.replace(".1.parquet", ".parquet")).unlink()
    points[9] = _with(points[9], late="l")
    points[25] = _with(points[25], late="hot")
    return points


def _with(point: dict[str, Any], **fields: Any) -> dict[str, Any]:
    ts = point["_ts"]
    return {**{name: value for name, value in point.items() if name != "_ts"}, **fields, "_ts": ts}


def folder_of(root: Path) -> Path:
    """The folder of the track."""
    return session_of(root) / "tracks" / "a" / "b"


def session_of(root: Path) -> Path:
    """The folder of the session."""
    return root / WORKSPACE / NAME


def copy_run(template: Path, root: Path) -> Path:
    """A copy of a run that may be damaged."""
    shutil.copytree(template, root)
    return root


def view(root: Path) -> Any:
    """The track as a lake shows it, whatever its session.json says."""
    return SessionView(LocalStore(root), WORKSPACE, NAME).track(TRACK)


def points_in(track: Any, **how: Any) -> dict[int, dict[str, Any]]:
    """All points of a track by their indices."""
    return {row["index"]: row["data"] for row in track.read(limit=None, **how)["data"]}


def agree(found: dict[str, Any], written: dict[str, Any]) -> bool:
    """Whether a point that was read is the one that was written, to the bit; the order of its fields apart."""
    return found.keys() == written.keys() and all(same(written[name], found[name]) for name in written)


def assert_points(found: dict[int, dict[str, Any]], written: dict[int, dict[str, Any]]) -> None:
    """Exactly these points were read."""
    assert sorted(found) == sorted(written)
    for index, point in written.items():
        assert agree(found[index], point), (index, point, found[index])


def digest(root: Path) -> dict[str, str]:
    """What every file below a folder holds, and that nothing was touched."""
    return {
        str(path.relative_to(root)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------------ damage


def segment_path(root: Path, start: int) -> Path:
    """The live segment that begins at an index."""
    paths = sorted(folder_of(root).glob(f"{start:012d}-*.parquet"))
    return paths[0]


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    """Cut a file off."""
    path.write_bytes(path.read_bytes()[:size])


def damage_column(path: Path, column: str, group: int = 0) -> None:
    """Damage the pages of one column in one row group."""
    segment = open_segment(path.read_bytes())
    first, last = segment.footer.columns[column]
    chunk = segment.footer.groups[group].chunk(last - 1)
    assert first < last
    flip(path, chunk.stop - 2)


def damage_footer(path: Path) -> None:
    """Damage the footer."""
    flip(path, path.stat().st_size - 40)


def change_line(path: Path, number: int, change: Callable[[bytes], bytes]) -> None:
    """Change one line of a file, counted from 0; from the end where negative."""
    lines = path.read_bytes().split(b"\n")
    lines[number if number >= 0 else number - 1] = change(lines[number if number >= 0 else number - 1])
    path.write_bytes(b"\n".join(lines))


def zeros(line: bytes) -> bytes:
    """What a power cut may leave of a line."""
    return b"\0" * len(line)
