"""Whose the plain session.json, parameters.json and logs of a replica are, where nothing is known of it any more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dreamlake.engine.replica.sides import is_md5_of
from dreamlake.engine.replica.state import RemoteState, Sent, digest
from dreamlake.format import layout
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Entry


def meet(folder: str, session: str, remote: RemoteStore, state: RemoteState, tree: Mapping[str, Entry]) -> None:
    """Find out whose the plain files are, where the state does not say: then it knows of none of them."""
    if state.origin is not None or layout.SESSION_FILE not in tree:
        return
    local = LocalStore(folder)
    mine = _get(local, layout.SESSION_FILE)
    theirs = _get(remote, f"{session}/{layout.SESSION_FILE}")
    if mine is None or theirs is None:
        return
    state.origin = created(mine) is not None and created(mine) == created(theirs)
    if not state.origin:
        return
    _note(state.file(layout.SESSION_FILE), tree[layout.SESSION_FILE], theirs)
    logs = [name for name in local.names(layout.LOGS_DIR) if name.endswith(".jsonl")]
    for path in (layout.PARAMETERS_FILE, *(f"{layout.LOGS_DIR}/{name}" for name in logs)):
        if path in tree:
            _note_if_held(local, session, remote, state, path, tree[path])


def _note_if_held(
    local: LocalStore, session: str, remote: RemoteStore, state: RemoteState, path: str, entry: Entry
) -> None:
    """Note an object as this machine's where the file here holds all that it does; else it is left to others."""
    mine = _get(local, path)
    if mine is None:  # a copy of the folder from before there was one
        return
    if is_md5_of(entry, mine):
        _note(state.file(path), entry, mine)
        return
    theirs = _get(remote, f"{session}/{path}")
    if theirs is None:
        return
    if path == layout.PARAMETERS_FILE:
        held = _holds_parameters(mine, theirs)
    else:
        archives = local.names(layout.LOGS_DIR) if path == layout.LOGS_FILE else []
        held = mine.startswith(theirs) or any(
            local.get(f"{layout.LOGS_DIR}/{name}").startswith(theirs) for name in archives
        )
    if held:
        _note(state.file(path), entry, theirs)


def _holds_parameters(mine: bytes, theirs: bytes) -> bool:
    own, other = _parameters(mine), _parameters(theirs)
    return None not in (own, other) and all(own.get(key) == value for key, value in other.items())


def _parameters(data: bytes) -> Any:
    """The parameters in a file, each as JSON text, in which true is not 1; None where it cannot be read."""
    found = _object(data)
    stored = found.get("data") if isinstance(found, dict) else None
    return {key: json.dumps(value) for key, value in stored.items()} if isinstance(stored, dict) else None


def _note(sent: Sent, entry: Entry, data: bytes) -> None:
    sent.version, sent.sha = entry.version, digest(data)


def _get(store: LocalStore | RemoteStore, path: str) -> bytes | None:
    try:
        return store.get(path)
    except FileNotFoundError:
        return None


def created(data: bytes) -> object:
    """When the session was made, as a session.json says it; None where it does not."""
    found = _object(data)
    return found.get("createdAt") if isinstance(found, dict) else None


def _object(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
