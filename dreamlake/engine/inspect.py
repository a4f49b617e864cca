"""What is damaged of a session: every file read in full, each damage with its file, place and range of indices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import msgspec

from dreamlake.engine import away
from dreamlake.engine.catalog import track_names
from dreamlake.engine.hosts import host_files, host_paths, read_parameters
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.engine.replica.state import decode_state
from dreamlake.engine.salvage import Seen, look_into
from dreamlake.engine.segments import MAX_HOT_BYTES
from dreamlake.engine.sessionlock import Counter
from dreamlake.errors import CorruptTrackError
from dreamlake.format import hot, layout, live, logical
from dreamlake.format.about import check, decode
from dreamlake.format.hot import HotLines
from dreamlake.format.layout import SegmentName
from dreamlake.format.live import HoleError
from dreamlake.format.point import from_json
from dreamlake.format.segment import SegmentDamage, SegmentInfo, open_segment
from dreamlake.storage.store import Store

#: Findings told of one file; of more there is only the number.
MOST_FINDINGS = 50
#: What a repair renames damaged files to: their names with this, and the time.
KEPT = ".damaged-"
STATUSES = ("running", "finished", "failed", "interrupted")


@dataclass(frozen=True)
class Finding:
    """One damage, or (`note`) something that is none and yet worth knowing.

    Parameters
    ----------
    path
        The file, fit for messages.
    place
        Where in it.
    detail
        What is wrong there.
    start, stop
        The half-open range of indices that is affected; None where it is none, or not known.
    lost
        What cannot be read because of it.
    track
        The track that it is of, if any.
    note
        Whether it is no damage.
    remedy
        What a repair would do.
    """

    path: str
    place: str
    detail: str
    start: int | None = None
    stop: int | None = None
    lost: str = ""
    track: str | None = None
    note: bool = False
    remedy: str = ""

    @classmethod
    def of(cls, error: CorruptTrackError, **more: Any) -> Finding:
        """What a reader would raise."""
        return cls(error.path, error.place, error.detail, error.start, error.stop, **more)

    def __str__(self) -> str:
        return str(CorruptTrackError(self.path, self.place, self.start, self.stop, self.detail))


def is_damaged(findings: Iterable[Finding]) -> bool:
    """Whether any of them is damage."""
    return any(not finding.note for finding in findings)


# ------------------------------------------------------------------------------------------------ a track


@dataclass
class TrackLook:
    """All that the files of a track say, and what is wrong with them.

    Parameters
    ----------
    name, folder
        The track, and its folder below the root of the store.
    lines
        The whole lines of its hot file; None where that cannot be read at all.
    torn
        The bytes behind them.
    runs
        The points of the hot file that no segment holds, in runs without gaps: the first index, and the points.
    segments
        What was seen in each segment that is here, superseded ones among them.
    away
        What is known of those that are only on the replica.
    live, holes
        Which count, and where they do not tile.
    """

    name: str
    folder: str
    lines: HotLines | None = None
    torn: bytes = b""
    runs: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    segments: dict[SegmentName, Seen] = field(default_factory=dict)
    away: dict[SegmentName, away.Away] = field(default_factory=dict)
    live: tuple[SegmentName, ...] = ()
    holes: tuple[HoleError, ...] = ()
    findings: list[Finding] = field(default_factory=list)

    @property
    def total(self) -> int:
        """One above the highest index."""
        return max([live.end_of(self.live), *(start + len(points) for start, points in self.runs)])

    @property
    def infos(self) -> dict[SegmentName, SegmentInfo]:
        """What the footers of the live segments say that can be read."""
        seen = {name: self.segments[name].info for name in self.live if name in self.segments}
        return {name: info for name, info in seen.items() if info is not None}

    def tell(
        self,
        path: str,
        place: str,
        detail: str,
        start: int | None = None,
        stop: int | None = None,
        *,
        lost: str = "",
        note: bool = False,
    ) -> None:
        """Note a finding."""
        self.findings.append(Finding(path, place, detail, start, stop, lost, self.name, note))


def look_at_track(store: Store, folder: str, name: str) -> TrackLook:
    """Read all files of a track in the folder `folder` of the store; twice, should the first look find damage.

    Nothing is locked, so a writer may be met in the middle of its work: only what is found again is damage. Raises
    OSError where a remote store does not answer.
    """
    look = _look(store, folder, name)
    return _look(store, folder, name) if is_damaged(look.findings) else look


def _look(store: Store, folder: str, name: str) -> TrackLook:
    look = TrackLook(name, folder)
    data = _hot_bytes(store, look)
    listing = {entry.name: entry.size for entry in store.list(folder) if not entry.is_dir}
    _look_at_metadata(store, look, listing)
    here = live.parse_listing(listing)
    if getattr(store, "is_local", True):
        _look_at_state(store, look, listing, here)
    look.live, look.holes = live.survey({*here, *look.away})
    seen = side_by_side(
        lambda each: _seen(store, look, each, listing[each.filename]), here, reading_width(store, 10**6)
    )
    look.segments = dict(zip(here, seen, strict=True))
    _tell_segments(store, look)
    _look_at_lines(store, look, data)
    kept = [filename for filename in listing if KEPT in filename]
    for filename in sorted(kept):
        look.tell(store.describe(f"{folder}/{filename}"), "the whole file", "what a repair kept", note=True)
    return look


def _seen(store: Store, look: TrackLook, name: SegmentName, size: int) -> Seen:
    path = f"{look.folder}/{name.filename}"
    try:
        return look_into(store, path, size, look.name, name)
    except FileNotFoundError:
        return Seen(damage=[SegmentDamage("its place", "the file is missing")])
    except (CorruptTrackError, OSError) as error:
        return Seen(damage=[SegmentDamage("the whole file", _said(store, error))])


def _said(store: Store, error: Exception) -> str:
    """Why a file on this machine cannot be read; trouble with the network is raised as it is."""
    if isinstance(error, CorruptTrackError):
        return error.detail
    if not getattr(store, "is_local", True):
        raise error
    return f"it cannot be read: {getattr(error, 'strerror', None) or error}"


def _tell_segments(store: Store, look: TrackLook) -> None:
    for name in look.live:
        if name in look.segments:
            _tell_segment(store, look, name, look.segments[name])
    if look.live and look.live[-1] in look.away:
        name = look.live[-1]
        path = store.describe(f"{look.folder}/{name.filename}")
        said = "the last segment is missing; it always stays here, whatever else is only on the replica"
        look.tell(path, "its place", said, name.start, name.stop, lost=_points(name.start, name.stop))
    for hole in look.holes:
        place = store.describe(look.folder)
        look.tell(place, "its segments", str(hole), hole.start, hole.stop, lost=_points(hole.start, hole.stop))
    counting = set(look.live)
    for name, seen in look.segments.items():
        if name not in counting and seen.damage and name.filename not in _overlapping(look):
            path = store.describe(f"{look.folder}/{name.filename}")
            said = f"it is damaged ({seen.damage[0]}), and does not count any more"
            look.tell(path, seen.damage[0].place, said, name.start, name.stop, note=True)
    _tell_claims(store, look)


def _overlapping(look: TrackLook) -> set[str]:
    """The files that overlap with a live segment and reach beyond it."""
    return {name.filename for name in overlapping(look)}


def overlapping(look: TrackLook) -> list[SegmentName]:
    """The segments that overlap with a live one and do not lie within it."""
    dead = set(live.superseded(look.segments, look.live))
    return [name for name in look.segments if name not in dead and name not in look.live]


def _tell_segment(store: Store, look: TrackLook, name: SegmentName, seen: Seen) -> None:
    path = store.describe(f"{look.folder}/{name.filename}")
    span = (name.start, name.stop)
    for damage in seen.damage[:MOST_FINDINGS]:
        look.tell(path, damage.place, damage.detail, *span, lost=seen.loses(damage, *span))
    info = seen.info
    if info is None:
        return
    if info.lost:
        look.tell(path, "the whole file", f"its points are lost: {info.repaired}", *span, note=True)
    elif info.repaired:
        look.tell(path, "the whole file", f"it was repaired: {info.repaired}", *span, note=True)


def _tell_claims(store: Store, look: TrackLook) -> None:
    """Hold what footers say of other segments against these."""
    infos = look.infos
    for name in vanished(look):
        path = store.describe(f"{look.folder}/{name.filename}")
        said = "this generation is missing, which a later segment tells of: an older one counts in its place"
        look.tell(path, "its place", said, name.start, name.stop, lost="fields that it had")
    for name, info in infos.items():
        path = store.describe(f"{look.folder}/{name.filename}")
        for told in info.before:
            other = infos.get(SegmentName(*told[:3])) if told.start < told.stop else None
            if other is not None and other.bounds != told:
                said = f"it tells other times of the points {told.start} to {told.stop} (exclusive) than these have"
                look.tell(path, "footer", said, told.start, told.stop, lost="ranges of time may miss points")
        if logical.unify_schemas(info.track_schema, info.schema) != info.track_schema:
            said = "what it tells of the track lacks fields of its own"
            look.tell(path, "footer", said, name.start, name.stop, lost="columns of frames")


def vanished(look: TrackLook) -> list[SegmentName]:
    """Later generations of live segments that footers tell of and that are not there: older values count instead."""
    live_ones = {name[:2]: name.generation for name in look.live}
    told = {SegmentName(*bounds[:3]) for info in look.infos.values() for bounds in info.before if bounds[0] < bounds[1]}
    return sorted(name for name in told if live_ones.get(name[:2], name.generation) < name.generation)


def _points(start: int, stop: int) -> str:
    return f"the points {start} to {stop} (exclusive)" if stop > start + 1 else f"the point {start}"


# ------------------------------------------------------------------------------------------------ the hot file


def _hot_bytes(store: Store, look: TrackLook) -> bytes | None:
    path = f"{look.folder}/{layout.HOT_FILE}"
    try:
        data = store.get(path, 0, MAX_HOT_BYTES + 1)
        if len(data) <= MAX_HOT_BYTES:
            return data
        said = f"over {MAX_HOT_BYTES} bytes long"
    except FileNotFoundError:
        return b""
    except (CorruptTrackError, OSError) as error:
        said = _said(store, error)
    look.tell(store.describe(path), "the whole file", said, lost="the newest points")
    return None


def _look_at_lines(store: Store, look: TrackLook, data: bytes | None) -> None:
    if data is None:
        return
    path = store.describe(f"{look.folder}/{layout.HOT_FILE}")
    look.lines = lines = hot.parse(data, path=path, errors="skip")
    look.torn = data[lines.end :]
    end = live.end_of(look.live)
    look.runs = hot.merge_runs(lines, end)
    for number, place, reason in lines.damaged[:MOST_FINDINGS]:
        look.tell(path, f"byte {place}, line {number}", reason, lost="what this line said")
    if len(lines.damaged) > MOST_FINDINGS:
        said = f"{len(lines.damaged) - MOST_FINDINGS} more lines cannot be read"
        look.tell(path, "its lines", said, lost="what these lines said")
    for start, stop in hot_gaps(look):
        look.tell(path, "its lines", "there is no line with these indices", start, stop, lost=_points(start, stop))
    if look.torn:
        zeros = ", all zeros" if not look.torn.strip(b"\0") else ""
        said = f"{len(look.torn)} bytes behind the last line{zeros}: torn, they do not count and the next writer cuts"
        look.tell(path, f"byte {lines.end}", f"{said} them off", note=True)


def hot_gaps(look: TrackLook) -> list[tuple[int, int]]:
    """The ranges of indices that are missing between the segments and the hot points, and between these."""
    gaps, at = [], live.end_of(look.live)
    for start, points in look.runs:
        if start > at:
            gaps.append((at, start))
        at = start + len(points)
    return gaps


# ------------------------------------------------------------------------------------------------ beside the points


def _look_at_metadata(store: Store, look: TrackLook, listing: Mapping[str, int]) -> None:
    if layout.METADATA_FILE not in listing:
        return
    path = f"{look.folder}/{layout.METADATA_FILE}"
    about = _object(store, path, look.findings, "what the track was described with", look.name)
    if about is None:
        return
    if about.get("name", look.name) != look.name:
        said = f"it is that of the track {about['name']!r}"
        look.tell(store.describe(path), "its name", said, lost="all of the track, which refuses to be opened")
    points = about.get("segment_points", 1)
    if not isinstance(points, int) or isinstance(points, bool) or points < 1:
        look.tell(store.describe(path), "segment_points", f"{points!r} is no number of points", lost="new points")


def _look_at_state(store: Store, look: TrackLook, listing: Mapping[str, int], here: Sequence[SegmentName]) -> None:
    """What only the machine that writes keeps."""
    path = f"{look.folder}/{layout.AWAY_FILE}"
    if layout.AWAY_FILE in listing:
        try:
            records = away.parse(store.get(path), store.describe(path))
            look.away = {name: record for name, record in records.items() if name not in set(here)}
        except CorruptTrackError as error:
            records = away_records(store.get(path))
            look.away = {name: record for name, record in records.items() if name not in set(here)}
            look.findings.append(Finding.of(error, lost="where points are that only the replica has", track=look.name))
    path = f"{look.folder}/{layout.LATE_FILE}"
    if layout.LATE_FILE in listing:
        for number, place, reason in hot.parse(store.get(path), errors="skip").damaged[:MOST_FINDINGS]:
            lost = "late fields of a point that only the replica has"
            look.tell(store.describe(path), f"byte {place}, line {number}", reason, lost=lost)
    for filename in listing:
        if filename.startswith(layout.STAMPS_PREFIX) and KEPT not in filename:
            path = f"{look.folder}/{filename}"
            try:
                open_segment(store.get(path)).read()
            except SegmentDamage as damage:
                lost = "nothing: the replica is asked instead"
                look.tell(store.describe(path), damage.place, damage.detail, lost=lost)


def away_records(data: bytes) -> dict[SegmentName, away.Away]:
    """What the lines of a damaged record of away segments say that can be read."""
    found: dict[SegmentName, away.Away] = {}
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        try:
            found |= away.parse(line, "")
        except CorruptTrackError:
            continue
    return found


# ------------------------------------------------------------------------------------------------ a session


def look_at_session(
    store: Store, session: str, tracks: Iterable[str] | None = None, *, lock: bool = False
) -> tuple[list[Finding], list[TrackLook]]:
    """Read all files of the session in the folder `session` of the store.

    Parameters
    ----------
    tracks
        The tracks to look at; None for all, and the session's own files.
    lock
        Whether ``.lock`` is read too: only where no writer of this process can have it locked, whose lock would end.

    Returns
    -------
    What is wrong with the session's own files; and the tracks, with what is wrong with each.
    """
    findings: list[Finding] = []
    if tracks is None:
        findings = _look_at_own_files(store, session, lock)
        findings = _look_at_own_files(store, session, lock) if is_damaged(findings) else findings
        tracks = track_names(store, session)
    return findings, [look_at_track(store, f"{session}/{layout.track_dir(name)}", name) for name in tracks]


def _look_at_own_files(store: Store, session: str, lock: bool) -> list[Finding]:
    found: list[Finding] = []
    _look_at_session_file(store, session, found)
    for path in host_paths(store, session, layout.SESSION_FILE):
        _object(store, path, found, "what another machine says of the run")
    for path in [f"{session}/{layout.PARAMETERS_FILE}", *host_paths(store, session, layout.PARAMETERS_FILE)]:
        try:
            read_parameters(store, path)
        except CorruptTrackError as error:
            found.append(Finding.of(error, lost="the parameters"))
    for folder in [session, *host_files(store, session)]:
        for entry in store.list(f"{folder}/{layout.LOGS_DIR}"):
            path = f"{folder}/{layout.LOGS_DIR}/{entry.name}"
            if path == f"{folder}/{layout.LOGS_FILE}" or layout.parse_log_archive(entry.name) is not None:
                _look_at_log(store, path, found)
    if getattr(store, "is_local", True):
        _look_at_session_state(store, session, found, lock)
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
    about = _object(store, path, found, "what the run says of itself")
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


def _object(
    store: Store, path: str, found: list[Finding], lost: str, track: str | None = None
) -> dict[str, Any] | None:
    """The JSON object in a small file; None where it is damaged, which is noted, or empty."""
    try:
        data = store.get(path)
    except FileNotFoundError:
        return None
    except (CorruptTrackError, OSError) as error:
        found.append(Finding(store.describe(path), "the whole file", _said(store, error), lost=lost, track=track))
        return None
    if not data and track is not None:
        said = "it is empty, as a power cut may leave it, and taken for missing"
        found.append(Finding(store.describe(path), "the whole file", said, track=track, note=True))
        return None
    value, said = read_json(data)
    if value is None:
        found.append(Finding(store.describe(path), "the whole file", said, lost=lost, track=track))
    return value


def read_json(data: bytes) -> tuple[dict[str, Any] | None, str]:
    """The JSON object in these bytes; or None, and what is wrong with them."""
    try:
        return check(decode(data)), ""
    except ValueError as error:
        return None, str(error)


def _look_at_log(store: Store, path: str, found: list[Finding]) -> None:
    try:
        data = store.get(path)
    except FileNotFoundError:
        return
    except (CorruptTrackError, OSError) as error:
        found.append(Finding(store.describe(path), "the whole file", _said(store, error), lost="log records"))
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


def _look_at_session_state(store: Store, session: str, found: list[Finding], lock: bool) -> None:
    path = f"{session}/{layout.REPLICA_FILE}"
    try:
        decode_state(store.get(path))
    except FileNotFoundError:
        pass
    except (CorruptTrackError, OSError) as error:
        found.append(Finding(store.describe(path), "the whole file", _said(store, error), lost="what was sent"))
    except ValueError as error:
        lost = "nothing: what was sent is found out by comparing"
        found.append(Finding(store.describe(path), "the whole file", f"it is unreadable: {error}", lost=lost))
    if lock and os.path.isfile(store.describe(f"{session}/{layout.LOCK_FILE}")):
        counter = Counter.decode(store.get(f"{session}/{layout.LOCK_FILE}"))
        if counter is None or not (counter.last_ts == float("-inf") or isfinite(counter.last_ts)):
            said = "it is unreadable: writers read everything anew"
            found.append(Finding(store.describe(f"{session}/{layout.LOCK_FILE}"), "the whole file", said, note=True))


def with_remedies(findings: Iterable[Finding], remedy: Callable[[Finding], str]) -> list[Finding]:
    """The findings, each damage with what a repair would do."""
    return [finding if finding.note else replace(finding, remedy=remedy(finding)) for finding in findings]
