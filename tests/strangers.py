"""A run that a stranger has tampered with, and everything that a person may do with it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from dreamlake import Lake, Session
from dreamlake.cli import main
from dreamlake.cli.export import FORMATS
from dreamlake.engine import away
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.format.layout import SegmentName
from dreamlake.format.segmentinfo import SegmentBounds
from dreamlake.storage.remote import RemoteStore

SECRET = "the-secret-of-another-folder"
TRACK = "tracks/loss"
SEGMENTS = (SegmentName(0, 4), SegmentName(4, 8))
#: Every file of a run that is read or written by name, from the session's folder on.
FILES = [
    "session.json",
    "parameters.json",
    ".lock",
    ".replica.json",
    ".replica.lock",
    "logs/logs.jsonl",
    "logs/0.jsonl",
    "hosts/abc/session.json",
    "hosts/abc/parameters.json",
    "hosts/abc/logs/logs.jsonl",
    "hosts/abc/files/.files_metadata.json",
    "files/notes.txt",
    "files/a/f-00000000000000aa/plot.txt",
    "files/.files_metadata.json",
    f"{TRACK}/metadata.json",
    f"{TRACK}/data.jsonl",
    f"{TRACK}/.away.jsonl",
    f"{TRACK}/.late.jsonl",
    f"{TRACK}/{SEGMENTS[0].filename}",
    f"{TRACK}/{SEGMENTS[1].filename}",
]
FOLDERS = ["tracks", TRACK, "logs", "hosts", "hosts/abc", "files", "files/a", "files/a/f-00000000000000aa"]

#: What is said of the one file that was uploaded.
RECORD = {
    "id": "f-00000000000000aa",
    "path": "/a",
    "filename": "plot.txt",
    "description": None,
    "tags": [],
    "contentType": "text/plain",
    "sizeBytes": 4,
    "checksum": hashlib.sha256(b"plot").hexdigest(),
    "metadata": {},
    "uploadedAt": "2026-01-01T00:00:00+00:00",
    "updatedAt": "2026-01-01T00:00:00+00:00",
    "deletedAt": None,
}


class Hung(BaseException):
    """What was done did not come to an end."""


@contextlib.contextmanager
def deadline(seconds: float = 30.0) -> Iterator[None]:
    """Raise `Hung` when the block takes longer: on this thread, in whatever system call it waits."""

    def ring(signum: int, frame: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make_run(root: Path) -> Path:
    """A run with every kind of file; returns its folder."""
    with Session("s", "w", root, segment_points=4, flush_interval=60) as session:
        track = session.track("loss", description="falls", tags=["a"], metadata={"k": 1})
        track.append_batch([{"value": i / 2, "step": i, "_ts": 100.0 + i} for i in range(10)])
        session.parameters().set(lr=0.1, model={"depth": 3})
        session.log("hello", metadata={"a": 1})
    folder = Path(session.path)
    (folder / "logs" / "0.jsonl").write_bytes((folder / "logs" / "logs.jsonl").read_bytes())
    (folder / ".replica.json").write_bytes(b'{"machine":"0123456789abcdef","remotes":{}}')
    (folder / ".replica.lock").write_bytes(b"")
    host = folder / "hosts" / "abc"
    (host / "logs").mkdir(parents=True)
    for name in ("session.json", "parameters.json", "logs/logs.jsonl"):
        (host / name).write_bytes((folder / name).read_bytes())
    uploaded = folder / "files/a/f-00000000000000aa/plot.txt"
    uploaded.parent.mkdir(parents=True)
    uploaded.write_bytes(b"plot")
    (folder / "files" / "notes.txt").write_bytes(b"notes")
    (folder / "files" / ".files_metadata.json").write_text(json.dumps({"files": [RECORD]}))
    (host / "files").mkdir()
    (host / "files" / ".files_metadata.json").write_text(json.dumps({"files": [RECORD]}))
    # A segment that is here as well as away, as a crash may leave it, and a row that waits.
    away.write(str(folder / TRACK), [away.Away(SEGMENTS[0], 9, SegmentBounds(0, 4, 0, 100.0, 103.0, True))])
    (folder / TRACK / ".late.jsonl").write_bytes(b'{"index":0,"data":{"late":1,"_ts":101.0}}\n')
    return folder


# ------------------------------------------------------------------------------------------------ tampering


def link_out(path: Path, outside: Path) -> None:
    """A link to the same thing of another run, which holds a secret."""
    outside.parent.mkdir(parents=True, exist_ok=True)
    path.rename(outside)
    if outside.is_dir():
        (outside / "secret.txt").write_text(SECRET)
    elif outside.suffix == ".json":
        outside.write_text(f'{{"status": "{SECRET}", "tags": ["{SECRET}"], "version": 1, "data": {{"k": "{SECRET}"}}}}')
    elif outside.suffix == ".jsonl":
        outside.write_text(f'{{"index":8,"data":{{"k":"{SECRET}","_ts":200.0}}}}\n')
    elif outside.suffix == ".txt":
        outside.write_text(SECRET)
    path.symlink_to(outside)


def loop(path: Path, outside: Path) -> None:
    """A link to itself."""
    remove(path)
    path.symlink_to(path.name)


def pipe(path: Path, outside: Path) -> None:
    """A named pipe, on which a reader waits for ever."""
    remove(path)
    os.mkfifo(path)


def folder(path: Path, outside: Path) -> None:
    """A folder in the place of a file."""
    remove(path)
    path.mkdir()


def sparse(path: Path, outside: Path) -> None:
    """A file of a terabyte that takes no room on the disk."""
    remove(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)


def listening(path: Path, outside: Path) -> None:
    """A socket."""
    remove(path)
    with socket.socket(socket.AF_UNIX) as made:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        made.bind(path.name)
        os.chdir(before)


def remove(path: Path) -> None:
    """Remove a file or an empty folder."""
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


#: Each with the files in whose place it is put; a file that a person uploaded may be of any length.
IN_PLACE_OF: dict[Callable[[Path, Path], None], list[str]] = {
    link_out: FILES,
    pipe: FILES,
    folder: FILES,
    sparse: [file for file in FILES if file != "files/notes.txt"],
    loop: FILES[::4],
    listening: FILES[::4],
}
TAMPERED = [(kind, file) for kind, files in IN_PLACE_OF.items() for file in files]


# ------------------------------------------------------------------------------------------------ what is done


def read_all(root: Path, errors: Any = "raise") -> Iterator[Callable[[], Any]]:
    """Every way to read."""
    lake = Lake(root)
    yield lake.workspaces
    yield lake.sessions
    yield lambda: lake.session("s", "w")
    yield lambda: lake.scan("loss", errors=errors).collect().to_dicts()
    from dreamlake.lake import SessionView

    run = SessionView(lake._store, "w", "s")
    track = run.track("loss")
    yield lambda: run.info
    yield lambda: run.parameters().get()
    yield lambda: run.logs(errors=errors).to_dicts()
    yield run.tracks.list
    yield run.files().list
    yield lambda: run.files().open("/a/plot.txt").read()
    yield lambda: track.read(errors=errors)
    yield lambda: track.read_by_time(errors=errors)
    yield lambda: track.to_polars(errors=errors).to_dicts()
    yield lambda: track.scan(errors=errors).tail(2).collect().to_dicts()
    yield track.stats
    yield track.files
    yield lambda: len(track)


def write_all(root: Path) -> Iterator[Callable[[], Any]]:
    """Resume the run and write to it, in all ways; each of which may be refused."""
    session = Session("s", "w", root, segment_points=4, flush_interval=60)
    yield session.open
    track = session.track("loss")
    yield lambda: track.append(value=1.0, _ts=300.0).flush()
    yield lambda: track.append(late=2.0, _ts=102.0).flush()
    yield lambda: track.append_batch([{"value": 1.0 * i} for i in range(9)])
    yield lambda: session.track("loss", metadata={"m": 1})
    yield lambda: session.track("other").append(value=1.0).flush()
    yield lambda: session.parameters().set(lr=0.2)
    yield lambda: session.log("again")
    yield lambda: session.files().upload(b"another", path="/a", filename="another.txt")
    yield lambda: session.files().upload(b"a later one", path="/a", filename="plot.txt")
    yield lambda: session.files().open("/a/plot.txt").read()
    yield lambda: session.files().delete("/a/plot.txt")
    yield session.flush
    yield track.read
    yield lambda: session.logs().to_dicts()
    yield session.tracks.list
    yield session.close
    # What cannot be written must not be tried again at the end of the tests.
    if session.is_open:
        session.writer.logs.pending = []
        for each in session.writer.tracks.values():
            each.pending.clear()
            each.described = {}
        yield session.close
        if session.is_open:
            session.writer.wrote = False
            session.close()


def sync(root: Path) -> tuple[list[Callable[[], Any]], Callable[[], bytes]]:
    """Upload the run, and adopt it on another machine; and all that got there."""
    url = f"memory://{uuid.uuid4().hex}"
    session_folder = str(root / "w" / "s")
    store = RemoteStore(url)

    def uploaded() -> bytes:
        fs = fsspec.filesystem("memory")
        return b"".join(fs.cat_file(path) for path in fs.find(url.removeprefix("memory:/")))

    return [lambda: sync_folder(session_folder, "w/s", store, lock_timeout=1.0)], uploaded


def command_line(root: Path) -> list[list[str]]:
    """The commands that look at a run."""
    lake = str(root)
    return [
        ["ls", lake],
        ["ls", lake, "--json"],
        ["show", "w/s", "--path", lake],
        ["show", "w/s", "--path", lake, "--json"],
        ["show", f"{lake}/w/s"],
        ["files", "w/s", "loss", "--path", lake, "--long"],
        ["ls", lake, "-c", "tracks,loss:value.min", "--where", "name = 's'", "--json"],
        ["tail", "w/s", "--path", lake],
        ["tail", "w/s", "loss", "-n", "1000000", "--json", "--path", lake],
        ["tail", "w/s", "--log", "--path", lake],
        ["plot", "w/s", "loss", "--json", "--path", lake],
        ["plot", "w/s", "loss", "--x", "_ts", "--path", lake],
        *(["export", "w/s", "loss", "--path", lake, "-o", f"{lake}-loss.{form}", "--force"] for form in FORMATS),
        ["export", "w/s", "--path", lake, "-o", f"{lake}-all/", "--format", "jsonl", "--force"],
        ["rm", "w/s", "--dry-run", "--path", lake],
        ["check", lake],
        ["check", f"{lake}/w/s", "--json"],
        ["repair", f"{lake}/w/s", "--dry-run"],
        ["sync", lake, f"memory://{uuid.uuid4().hex}"],
    ]


def run_command(argv: list[str]) -> tuple[int, str]:
    """The exit status of a command, and all that it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main(argv)
    return status, out.getvalue()


def seen(folder: Path) -> dict[str, tuple[Any, ...]]:
    """What stands in a folder: names, kinds, times and bytes."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() and status.st_size < 1 << 20 else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, status.st_mtime_ns, data)
    return found
