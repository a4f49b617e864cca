"""What is damaged of uploaded files: every record checked, the bytes of every file read in full."""

from __future__ import annotations

import os

from dreamlake.engine.fileread import all_records, hash_stored, read_records, record_paths
from dreamlake.engine.findings import Finding, why
from dreamlake.engine.replica.state import decode_state
from dreamlake.errors import CorruptTrackError
from dreamlake.format import filerecord, layout
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.store import Store
from dreamlake.types import FileRecord


def look_at_files(store: Store, session: str) -> list[Finding]:
    """What is wrong with the uploaded files of the session in the folder `session` of the store."""
    found: list[Finding] = []
    for path in record_paths(store, session):
        try:
            read_records(store, path)
        except (CorruptTrackError, OSError) as error:
            lost = "what was said of the uploaded files"
            found.append(Finding(store.describe(path), "the whole file", why(store, error), lost=lost))
    if found:
        return found
    live = [record for record in all_records(store, session) if filerecord.is_live(record)]
    away = _away(store, session) if live else set()
    for record in live:
        finding = _look_at_bytes(store, session, record, away)
        if finding is not None:
            found.append(finding)
    named = {filerecord.stored_path(record) for record in all_records(store, session) if filerecord.is_live(record)}
    for path in store.walk(f"{session}/{layout.FILES_DIR}"):
        below = path.removeprefix(f"{session}/")
        if layout.is_made_file(below) and below not in named:
            said = "no record names it: a crash has left it, or the record was lost"
            found.append(Finding(store.describe(path), "its place", said, note=True))
    return found


def _look_at_bytes(store: Store, session: str, record: FileRecord, away: set[str]) -> Finding | None:
    below = filerecord.stored_path(record)
    place = store.describe(f"{session}/{below}")
    lost = f"the file {filerecord.place(record)!r}"
    try:
        hash_stored(store, session, record)
    except FileNotFoundError:
        if below in away:
            return Finding(place, "its place", "it is kept on the replica only", note=True)
        again = {filerecord.stored_path(each) for each in all_records(store, session) if filerecord.is_live(each)}
        if below not in again:
            return None  # replaced or deleted meanwhile
        return Finding(place, "its place", "there is a record of it, and the file is gone", lost=lost)
    except CorruptTrackError as error:
        return Finding.of(error, lost=lost)
    except OSError as error:
        return Finding(place, "its bytes", why(store, error), lost=lost)
    return None


def _away(store: Store, session: str) -> set[str]:
    """Where the bytes would be that are only on a replica, as far as this machine knows."""
    path = f"{session}/{layout.REPLICA_FILE}"
    if not isinstance(store, LocalStore) or not os.path.exists(store.describe(path)):
        return set()
    try:
        state = decode_state(store.get(path))
    except (ValueError, OSError):
        return set()  # which is told of that file itself
    found: set[str] = set()
    for known in state.remotes.values():
        found.update(known.told, (below for below, sent in known.files.items() if sent.version is not None))
    return found
