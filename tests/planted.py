"""Defects that campaigns plant in the library of a process under test, to show that they would find them.

Each function spoils the library of the process that calls it, for good; its docstring says what is wrong then.
"""

from __future__ import annotations

import os
from typing import Any

from dreamlake import Session


def acknowledged_too_early() -> None:
    """A flush returns before it has written."""
    from dreamlake.engine.writer import CALLER_LOCK
    from dreamlake.track import Track

    def begin(session: Session) -> None:
        writer = session.writer
        writer.wake()
        writer.thread.post(lambda: writer._flush(list(writer.tracks.values()), CALLER_LOCK, logs=True))

    Session.flush = begin  # type: ignore[method-assign]
    Track.flush = lambda track: begin(track._session) or track  # type: ignore[func-returns-value, method-assign]


def emptied_before_the_commit() -> None:
    """The hot file is emptied before its segment is committed."""
    from dreamlake.engine import roll
    from dreamlake.storage import local

    real = roll.write_all

    def write_all(folder: str, *args: Any) -> None:
        local.atomic_write(os.path.join(folder, "data.jsonl"), b"", fsync=False)
        real(folder, *args)

    roll.write_all = write_all


def torn_line_kept() -> None:
    """A torn line is written on, not cut off."""
    from dreamlake.engine.ondisk import TrackOnDisk

    def cut_torn_tail(disk: TrackOnDisk, size: int) -> None:
        disk.size = size

    TrackOnDisk._cut_torn_tail = cut_torn_tail  # type: ignore[method-assign]


def no_lock() -> None:
    """No lock is taken."""
    from dreamlake.storage.lock import FileLock

    FileLock._lock = lambda lock: True  # type: ignore[method-assign]


def in_place() -> None:
    """Small files and the hot file are replaced in place."""
    from dreamlake.storage import local

    def atomic_write(path: str, data: bytes, fsync: bool) -> None:
        fd = local.os_.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
        for place in range(0, len(data), 60):
            local.os_.pwrite(fd, bytes(data[place : place + 60]), place)
        local.os_.close(fd)

    local.atomic_write = atomic_write  # type: ignore[assignment]


def old_form_removed_first() -> None:
    """A segment's old form is removed before the new one is there."""
    from dreamlake.storage import local

    real = local.write_new

    def write_new(path: str, data: bytes) -> None:
        start_stop, _, rest = os.path.basename(path).partition(".")
        if rest != "parquet":
            before = int(rest.partition(".")[0]) - 1
            local.remove_quietly(f"{os.path.dirname(path)}/{start_stop}{f'.{before}' if before else ''}.parquet")
        real(path, data)

    local.write_new = write_new  # type: ignore[assignment]


def parts_removed_first() -> None:
    """The parts of a merged segment are removed before it has its name."""
    from dreamlake.engine.compaction import Merged
    from dreamlake.engine.ondisk import TrackOnDisk
    from dreamlake.storage import local

    real = TrackOnDisk.replace_parts

    def replace_parts(disk: TrackOnDisk, merged: Merged) -> bool:
        for part in merged.parts:
            local.remove_quietly(os.path.join(disk.folder, part.filename))
        return real(disk, merged)

    TrackOnDisk.replace_parts = replace_parts  # type: ignore[method-assign]


def synced_too_early() -> None:
    """A sync returns before it has sent."""
    from dreamlake.engine.replica.replicator import Replicator

    def sync(replicator: Replicator, timeout: float | None) -> None:
        replicator.start()
        replicator.thread.post(replicator._sync)

    Replicator.sync = sync  # type: ignore[method-assign]


def hot_object_first() -> None:
    """The hot object is replaced before its segments are sent."""
    from dreamlake.engine.replica.tracks import TrackSender
    from dreamlake.format import layout, live

    def send(sender: TrackSender) -> None:
        look, sender._ahead = sender._ahead or sender._here.look(), None
        sender._end = live.end_of(look.counting)
        sender._expect_all(look)
        for filename, each, sent in (
            (layout.METADATA_FILE, look.about, sender.known.about),
            (layout.HOT_FILE, look.hot, sender.known.hot),
        ):
            if each is not None:
                sender._replace(filename, each, sent)
        sender._send_segments(look.unsent)
        sender.note()

    TrackSender._send = send  # type: ignore[method-assign]


def dropped_before_it_is_noted() -> None:
    """A segment is removed before it is noted as away."""
    from dreamlake.engine import away
    from dreamlake.storage import local

    real = away.add

    def add(folder: str, records: Any, fsync: bool) -> None:
        for record in records:
            local.remove_quietly(os.path.join(folder, record.name.filename))
        real(folder, records, fsync)
        for record in records:  # for what follows, which removes them
            open(os.path.join(folder, record.name.filename), "w").close()

    away.add = add


def said(plant: Any) -> str:
    """What a planted bug is, for a log."""
    return str(plant.__doc__).rstrip(".")
