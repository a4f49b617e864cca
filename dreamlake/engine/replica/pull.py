"""What the replica is ahead in comes here: tracks, and the parameters that were set elsewhere; or a whole session."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import dreamlake.storage.local as local
from dreamlake.engine import hosts
from dreamlake.engine.catalog import read_object
from dreamlake.engine.footing import secure_above
from dreamlake.engine.process import side_by_side
from dreamlake.engine.replica import check
from dreamlake.engine.replica import state as states
from dreamlake.engine.replica.check import WIDTH
from dreamlake.engine.replica.filetaking import take_files
from dreamlake.engine.replica.ownfiles import parameters_to_send
from dreamlake.engine.replica.sending import Room
from dreamlake.engine.replica.state import RemoteState, digest
from dreamlake.engine.replica.taking import Taking
from dreamlake.errors import CorruptTrackError, RemoteConflictError
from dreamlake.format import layout, point
from dreamlake.notices import log
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Entry

#: Bytes of hot files and last segments that are held at once; one alone may be larger.
HELD_BYTES = 64 << 20
#: Seconds by which the clock of the replica's server may be behind.
SKEW = 1.0


def pull(
    folder: str,
    session: str,
    remote: RemoteStore,
    state: RemoteState,
    tree: Mapping[str, Entry],
    tracks: Sequence[str],
    *,
    fsync: bool = False,
) -> float:
    """Take over tracks in which the replica is ahead, and parameters and records of files of a session that is here.

    The lock of the replica and that of the session are held, and a rewrite is announced. What this side holds is
    compared anew, since it may have been written since: a track with points of its own by now stays as it is.

    Parameters
    ----------
    folder
        The session's folder on this machine.
    session
        The session's folder below the root of `remote`.
    state
        What is known of this replica; is put right.
    tree
        What `check.look` found.
    tracks
        The folders of the tracks, as in `check.Findings.pull`.
    fsync
        Whether metadata survives power loss; parameters and points do always.

    Returns
    -------
    float
        The timestamp above which automatic ones go on, as far as the replica tells; -inf where it does not.

    Raises
    ------
    OSError
        The replica does not answer, or the disk fails. The tracks that were not taken over are as they were.
    CorruptTrackError
        The replica of a track is damaged.
    """
    last = _last_ts(_infos(session, remote, tree))
    # Before the tracks: once these are here, nothing calls for another pull.
    machine = states.load(folder).machine
    _merge_parameters(folder, session, remote, state, machine, tree)
    take_files(folder, session, remote, state, machine, tree, write=True)
    last = max(last, _take_tracks(folder, session, remote, state, tree, tracks, fsync))
    for below in tracks:
        if state.track(below).conflict is not None:
            log().error("%s", state.track(below).conflict)
    return last


def adopt(
    folder: str,
    session: str,
    remote: RemoteStore,
    state: RemoteState,
    tree: Mapping[str, Entry],
    *,
    fsync: bool = False,
) -> float:
    """Take over a whole session of which nothing is here, or what an adoption left that ended half-way.

    Its session.json comes last: without one the session is adopted anew. Parameters are as in `pull`.

    Returns
    -------
    float
        The timestamp above which automatic ones go on; -inf where there is none.

    Raises
    ------
    OSError, CorruptTrackError
        As `pull`.
    RemoteConflictError
        A track is here already, and holds what the replica does not.
    """
    tracks = check.tracks_in(tree)
    state.origin = False
    last = _take_tracks(folder, session, remote, state, tree, sorted(tracks), fsync)
    conflicts = [known.conflict for below in tracks if (known := state.track(below)).conflict is not None]
    if conflicts:
        raise RemoteConflictError("; ".join(conflicts))
    infos = _infos(session, remote, tree)
    last = max(last, _last_ts(infos))
    local.make_dirs(folder, fsync)
    known_here = states.load(folder)
    _merge_parameters(folder, session, remote, state, known_here.machine, tree)
    take_files(folder, session, remote, state, known_here.machine, tree, write=True)
    # Before session.json: a session that is here, of which nothing is known, would be taken for the replica's origin.
    known_here.remotes[remote.describe()] = state
    states.save(folder, known_here)
    _write_json(os.path.join(folder, layout.SESSION_FILE), hosts.merged_info(infos), fsync)
    return last


# ------------------------------------------------------------------------------------------------ tracks


def _take_tracks(
    folder: str,
    session: str,
    remote: RemoteStore,
    state: RemoteState,
    tree: Mapping[str, Entry],
    tracks: Sequence[str],
    fsync: bool,
) -> float:
    """Take tracks over; return the highest timestamp met that can be an automatic one, -inf if there is none."""
    entries = check.tracks_in(tree)
    newest = max((entry.modified for entry in tree.values()), default=0.0) or time.time()
    room = Room(HELD_BYTES)
    jobs = [
        Taking(folder, session, remote, state.track(below), below, entries[below], newest + SKEW, fsync)
        for below in tracks
        if below in entries
    ]
    width = min(remote.width, WIDTH)
    last = max(side_by_side(lambda job: _with_room(job, room), jobs, width), default=-inf)
    if fsync:
        secure_above(job.path for job in jobs)  # also what an attempt made that ended at such a sync
    return last


def _with_room(job: Taking, room: Room) -> float:
    with room.of(job.nbytes):
        return job.run()


# -------------------------------------------------------------------------------- the session's own files


def _infos(session: str, remote: RemoteStore, tree: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """What the session.json files on the replica say."""
    paths = [path for path in (layout.SESSION_FILE, *check.hosts_with(tree, layout.SESSION_FILE)) if path in tree]
    found = side_by_side(lambda path: read_object(remote, f"{session}/{path}"), paths, min(remote.width, WIDTH))
    return [info for info in found if info is not None]


def _last_ts(infos: Sequence[Mapping[str, Any]]) -> float:
    known = [info.get("lastTs") for info in infos]
    return max((float(ts) for ts in known if isinstance(ts, int | float)), default=-inf)


def _parameters(session: str, remote: RemoteStore, tree: Mapping[str, Entry]) -> dict[str, dict[str, Any]]:
    """What the parameters.json files on the replica say, by their paths below the session."""
    plain = layout.PARAMETERS_FILE
    paths = [path for path in (plain, *check.hosts_with(tree, plain)) if path in tree]
    width = min(remote.width, WIDTH)
    found = side_by_side(lambda path: hosts.read_parameters(remote, f"{session}/{path}"), paths, width)
    return dict(zip(paths, found, strict=True))


def is_behind(
    folder: str, session: str, remote: RemoteStore, state: RemoteState, machine: str, tree: Mapping[str, Entry]
) -> bool:
    """Whether this disk lacks parameters that it had, or what the replica says of files; then `pull` brings it here."""
    return lost_parameters(folder, session, remote, state, machine, tree) or take_files(
        folder, session, remote, state, machine, tree, write=False
    )


def lost_parameters(
    folder: str, session: str, remote: RemoteStore, state: RemoteState, machine: str, tree: Mapping[str, Entry]
) -> bool:
    """Whether this disk has lost parameters that the replica has of this machine; then `pull` brings them back.

    So it is where parameters.json is missing or empty, as a power cut may leave one that was not synced; and where it
    was begun anew, or is older than what was sent.
    """
    here = LocalStore(folder)
    own = layout.PARAMETERS_FILE if state.origin is not False else _path_of(machine)
    try:
        mine = hosts.read_parameters(here, layout.PARAMETERS_FILE)
        if mine["version"]:
            data = parameters_to_send(here, state)
            if own not in tree or data is None or digest(data) == state.file(layout.PARAMETERS_FILE).sha:
                return False
        elif own not in tree and not state.base:
            return False
        theirs = _parameters(session, remote, tree)
    except CorruptTrackError as error:  # one here is told when it should be sent; one there gives nothing back
        log().warning("parameters are not compared with those of the replica: %s", error)
        return False
    if not mine["version"]:
        return bool(hosts.merged_parameters(theirs.values()))
    return bool(theirs[own]["createdAt"] != mine["createdAt"] or theirs[own]["version"] > mine["version"])


def _merge_parameters(
    folder: str, session: str, remote: RemoteStore, state: RemoteState, machine: str, tree: Mapping[str, Entry]
) -> None:
    """Take over parameters that were set elsewhere; of one key the value that was set later stays."""
    theirs = _parameters(session, remote, tree)
    own = hosts.read_parameters(LocalStore(folder), layout.PARAMETERS_FILE)
    merged = hosts.merged_parameters([own, *theirs.values()])
    if not theirs or not merged:
        return
    after: dict[str, object] = point.to_json(merged)
    if state.origin:
        sent = state.file(layout.PARAMETERS_FILE)
        if layout.PARAMETERS_FILE in tree:  # all that it says is here now, and goes back with this machine's own
            sent.version, sent.sha = tree[layout.PARAMETERS_FILE].version, None
    else:
        # What this machine said stays its own, or it would be taken from the file that says it.
        others = [content for path, content in theirs.items() if path != _path_of(machine)]
        told: dict[str, object] = point.to_json(hosts.merged_parameters(others))
        state.base = {key: value for key, value in told.items() if key in after and after[key] == value}
    if after != point.to_json(own["data"]):
        _write_parameters(folder, merged, [own, *theirs.values()])


def _path_of(machine: str) -> str:
    return f"{layout.HOSTS_DIR}/{machine}/{layout.PARAMETERS_FILE}"


def _write_parameters(folder: str, merged: dict[str, Any], contents: Sequence[dict[str, Any]]) -> None:
    created = [content["createdAt"] for content in contents if content["createdAt"] is not None]
    updated = [content["updatedAt"] for content in contents if content["updatedAt"] is not None]
    content = {
        "version": max(content["version"] for content in contents),
        "data": merged,
        "createdAt": min(created, key=hosts.moment, default=None),
        "updatedAt": max(updated, key=hosts.moment, default=None),
    }
    _write_json(os.path.join(folder, layout.PARAMETERS_FILE), content, fsync=True)


def _write_json(path: str, content: dict[str, Any], fsync: bool) -> None:
    text = json.dumps(point.to_json(content), ensure_ascii=False, indent=1, allow_nan=False)
    local.atomic_write(path, text.encode() + b"\n", fsync)
