"""What a replica says of uploaded files comes here: records of other machines, and those that this disk has lost.

Bytes stay there until somebody reads them. Records merge in any order, see `format.filerecord`.
"""

from __future__ import annotations

from collections.abc import Mapping

import dreamlake.storage.local as local
from dreamlake.engine.fileread import read_records
from dreamlake.engine.filestore import note_leftovers, settle_leftovers
from dreamlake.engine.process import side_by_side
from dreamlake.engine.replica import check
from dreamlake.engine.replica.state import RemoteState, digest
from dreamlake.errors import CorruptFileError
from dreamlake.format import filerecord, layout
from dreamlake.notices import log
from dreamlake.storage import get_whole
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Entry
from dreamlake.types import FileRecord


def take_files(
    folder: str,
    session: str,
    remote: RemoteStore,
    state: RemoteState,
    machine: str,
    tree: Mapping[str, Entry],
    *,
    write: bool,
) -> bool:
    """Find out whether the replica says of files what this disk does not know, and take that over.

    What the state says of whose records and bytes are there is put right. Where all is as it was left, nothing is asked
    of the replica.

    Parameters
    ----------
    folder, session, remote, state, tree
        As in `pull.pull`.
    machine
        This machine's id.
    write
        Whether to take it over, the session's lock being held. Otherwise only what is not news is noted.

    Returns
    -------
    bool
        Whether there was anything to take over.

    Raises
    ------
    OSError
        The replica does not answer, or the disk fails.
    """
    here = LocalStore(folder)
    try:
        mine = read_records(here, layout.FILES_METADATA_FILE)
    except (CorruptFileError, OSError) as error:  # told again when it should be sent
        log().warning("files are not compared with those of the replica: %s", error)
        return False
    _note_bytes(state, mine, tree)
    plain = layout.FILES_METADATA_FILE
    own = plain if state.origin is not False else f"{layout.HOSTS_DIR}/{machine}/{plain}"
    paths = [path for path in (plain, *check.hosts_with(tree, plain)) if path in tree]
    others = {path: tree[path].version for path in paths if path != own}
    if others == state.heard and _is_as_left(state, mine, tree.get(own)):
        return False
    found = side_by_side(lambda path: _read(remote, f"{session}/{path}"), paths, remote.width)
    read = dict(zip(paths, found, strict=True))
    theirs = filerecord.merged(record for records, _ in found for record in records)
    merged = filerecord.merged([*mine, *theirs])
    behind = merged != filerecord.merged(mine)
    if behind and not write:
        return True
    if behind:
        _write(here, mine, merged)
    told = filerecord.merged(record for path in others for record in read[path][0])
    state.told = {filerecord.stored_path(record): record["updatedAt"] for record in told}
    state.heard = others
    if own in read:
        sent = state.file(plain)
        sent.version, sent.sha = tree[own].version, read[own][1]
    _note_bytes(state, merged, tree)
    return behind


def _is_as_left(state: RemoteState, mine: list[FileRecord], entry: Entry | None) -> bool:
    """Whether this machine's own records are on the replica as they are here."""
    sent = state.files.get(layout.FILES_METADATA_FILE)
    if entry is None:
        return True
    return sent is not None and entry.version == sent.version and digest(own_records(state, mine)) == sent.sha


def own_records(state: RemoteState, mine: list[FileRecord]) -> bytes:
    """The bytes that say what this machine says of files, but for what other machines said first."""
    return filerecord.encode(
        record
        for record in filerecord.merged(mine)
        if state.told.get(filerecord.stored_path(record)) != record["updatedAt"]
    )


def _note_bytes(state: RemoteState, records: list[FileRecord], tree: Mapping[str, Entry]) -> None:
    """Note which bytes are there: the reply to their upload may have been lost, or the state was.

    The path of an upload is its own, so nothing else of that length is there.
    """
    for record in records:
        path = filerecord.stored_path(record)
        entry = tree.get(path)
        if filerecord.is_live(record) and entry is not None and entry.size == record["sizeBytes"]:
            sent = state.file(path)
            if sent.version is None:
                sent.is_sent(entry.version, record["checksum"])


def _read(remote: RemoteStore, path: str) -> tuple[list[FileRecord], str]:
    """The records in one file of the replica, and the SHA-256 of its bytes; a damaged one says nothing."""
    try:
        data = get_whole(remote, path, filerecord.MAX_BYTES)
        return (filerecord.decode(data) if data else []), digest(data)
    except FileNotFoundError:
        return [], ""
    except ValueError as error:
        log().warning("%s is damaged, and what it says of files is not known here: %s", remote.describe(path), error)
        return [], ""


def _write(here: LocalStore, mine: list[FileRecord], merged: list[FileRecord]) -> None:
    local.check_inside(here.root, here.describe(layout.FILES_DIR))
    local.make_dirs(here.describe(layout.FILES_DIR), fsync=True)
    named = {filerecord.stored_path(record) for record in merged if filerecord.is_live(record)}
    note = note_leftovers(here, [path for path in map(filerecord.stored_path, mine) if path not in named])
    data = filerecord.encode(merged)
    local.atomic_write(here.describe(layout.FILES_METADATA_FILE), data, fsync=True)
    settle_leftovers(here, note)
