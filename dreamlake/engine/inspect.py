"""What is damaged of a session: every file read in full, each damage with its file, place and range of indices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from dreamlake.engine.catalog import track_names
from dreamlake.engine.findings import MOST_FINDINGS, Finding, is_damaged, look_at_object, why
from dreamlake.engine.hosts import host_files, host_paths, read_parameters
from dreamlake.engine.inspectfiles import look_at_files
from dreamlake.engine.inspecttrack import TrackLook, look_at_track
from dreamlake.engine.replica.state import decode_state
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout
from dreamlake.format.point import from_json
from dreamlake.storage.store import Store

STATUSES = ("running", "finished", "failed", "interrupted")


def look_at_session(
    store: Store, session: str, tracks: Iterable[str] | None = None
) -> tuple[list[Finding], list[TrackLook]]:
    """Read all files of the session in the folder `session` of the store.

    Parameters
    ----------
    tracks
        The tracks to look at; None for all, and the session's own files.

    Returns
    -------
    What is wrong with the session's own files; and the tracks, with what is wrong with each.
    """
    findings: list[Finding] = []
    if tracks is None:
        findings = _look_at_own_files(store, session)
        findings = _look_at_own_files(store, session) if is_damaged(findings) else findings
        tracks = track_names(store, session)
    return findings, [_track(store, f"{session}/{layout.track_dir(name)}", name) for name in tracks]


def _track(store: Store, folder: str, name: str) -> TrackLook:
    try:
        return look_at_track(store, folder, name)
    except CorruptTrackError as error:  # its folder is a link that leads out of the lake
        return TrackLook(name, folder, findings=[Finding.of(error, lost="all of the track", track=name)])


def _look_at_own_files(store: Store, session: str) -> list[Finding]:
    found: list[Finding] = []
    _look_at_session_file(store, session, found)
    for path in host_paths(store, session, layout.SESSION_FILE):
        look_at_object(store, path, found, "what another machine says of the run")
    for path in [f"{session}/{layout.PARAMETERS_FILE}", *host_paths(store, session, layout.PARAMETERS_FILE)]:
        try:
            read_parameters(store, path)
        except CorruptTrackError as error:
            found.append(Finding.of(error, lost="the parameters"))
    found += look_at_files(store, session)
    for folder in [session, *host_files(store, session)]:
        for entry in store.list(f"{folder}/{layout.LOGS_DIR}"):
            path = f"{folder}/{layout.LOGS_DIR}/{entry.name}"
            if path == f"{folder}/{layout.LOGS_FILE}" or layout.parse_log_archive(entry.name) is not None:
                _look_at_log(store, path, found)
    if getattr(store, "is_local", True):
        _look_at_replica_state(store, session, found)
    return found


def _look_at_session_file(store: Store, session: str, found: list[Finding]) -> None:
    path = f"{session}/{layout.SESSION_FILE}"
    workspace, name = layout.session_names(session)
    names = {entry.name for entry in store.list(session)}
    if layout.SESSION_FILE not in names:
        if not host_paths(store, session, layout.SESSION_FILE):
            said = "the file is missing: no reader finds the run (so an upload leaves it that has not ended)"
            found.append(Finding(store.describe(path), "its place", said, lost="what the run says of itself"))
        return
    about = look_at_object(store, path, found, "what the run says of itself")
    if about is None:
        return
    told = about.get("workspace", workspace), about.get("name", name)
    if told != (workspace, name):
        said = f"it is that of the session {told[0]!r}/{told[1]!r}"
        found.append(Finding(store.describe(path), "its names", said, lost="the run refuses to be opened"))
    if about.get("status", "running") not in STATUSES:
        said = f"{about['status']!r} is no status"
        found.append(Finding(store.describe(path), "status", said, lost="how the run ended"))
    if about.get("format_version", 1) != layout.FORMAT_VERSION:
        said = f"format version {about['format_version']!r}; this dreamlake knows {layout.FORMAT_VERSION}"
        found.append(Finding(store.describe(path), "format_version", said, note=True))


def _look_at_log(store: Store, path: str, found: list[Finding]) -> None:
    try:
        data = store.get(path)
    except FileNotFoundError:
        return
    except (CorruptTrackError, OSError) as error:
        found.append(Finding(store.describe(path), "the whole file", why(store, error), lost="log records"))
        return
    bad = [(number, said) for number, line in enumerate(data.split(b"\n")[:-1], 1) if (said := not_a_record(line))]
    for number, said in bad[:MOST_FINDINGS]:
        detail = f"no log record ({said})"
        found.append(Finding(store.describe(path), f"line {number}", detail, lost="what this line said"))
    if len(bad) > MOST_FINDINGS:
        said = f"{len(bad) - MOST_FINDINGS} more lines are no log records"
        found.append(Finding(store.describe(path), "its lines", said, lost="what these lines said"))


_record = msgspec.json.Decoder(dict[str, Any])


def not_a_record(line: bytes) -> str:
    """What keeps a line of a log from being a record; empty where nothing does."""
    try:
        int(from_json(_record.decode(line), -1)["sequenceNumber"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return str(error) or type(error).__name__
    return ""


def _look_at_replica_state(store: Store, session: str, found: list[Finding]) -> None:
    # Nothing looks into .lock: a writer of this process would lose its lock to that, and what it says is no one's loss.
    path = f"{session}/{layout.REPLICA_FILE}"
    try:
        decode_state(store.get(path))
    except FileNotFoundError:
        pass
    except (CorruptTrackError, OSError) as error:
        found.append(Finding(store.describe(path), "the whole file", why(store, error), lost="what was sent"))
    except ValueError as error:
        lost = "nothing: what was sent is found out by comparing"
        found.append(Finding(store.describe(path), "the whole file", f"it is unreadable: {error}", lost=lost))
