"""The files of one track read in full: what they say, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from dreamlake.engine import away, late
from dreamlake.engine.findings import KEPT, MOST_FINDINGS, Finding, is_damaged, look_at_object, why
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.engine.salvage import Seen, look_into
from dreamlake.engine.segments import MAX_HOT_BYTES
from dreamlake.errors import CorruptTrackError
from dreamlake.format import hot, layout, live, logical
from dreamlake.format.hot import HotLines
from dreamlake.format.layout import SegmentName
from dreamlake.format.live import HoleError
from dreamlake.format.segment import SegmentBounds, SegmentDamage, SegmentInfo, open_segment
from dreamlake.storage import get_whole
from dreamlake.storage.store import Store

#: So often a track is looked at before what is found again each time is called damage.
LOOKS = 3
#: The place in a segment's file that is damaged where there is no file.
_MISSING = "its place"


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
    told
        What the footers of those that count tell of others: for each the bounds that are told, and the lowest segment
        that tells them.
    impossible
        Who tells bounds of what can be no segment, and these.
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
    told: dict[SegmentName, dict[SegmentBounds, SegmentName]] = field(default_factory=dict)
    impossible: list[tuple[SegmentName, SegmentBounds]] = field(default_factory=list)
    live: tuple[SegmentName, ...] = ()
    holes: tuple[HoleError, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    hearing: Any = field(default_factory=Lock, repr=False, compare=False)

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
    """Read all files of a track in the folder `folder` of the store; again, should the first look find damage.

    Nothing is locked, so a writer may be met in the middle of its work: only what is found again is damage. Raises
    OSError where a remote store does not answer.
    """
    look = _look(store, folder, name)
    for _ in range(LOOKS - 1):
        look = _look(store, folder, name) if is_damaged(look.findings) else look
    return look


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
        seen = look_into(store, path, size, look.name, name)
        if seen.info is not None and name in look.live:
            _hear(look, name, seen.info)
        # Not kept with each: the memory would grow with the square of the segments.
        seen.info = None if seen.info is None else replace(seen.info, before=())
        return seen
    except FileNotFoundError:
        return Seen(damage=[SegmentDamage(_MISSING, "the file is missing")])
    except (CorruptTrackError, OSError) as error:
        return Seen(damage=[SegmentDamage("the whole file", why(store, error))])


def _hear(look: TrackLook, name: SegmentName, info: SegmentInfo) -> None:
    """Note what a footer tells of other segments."""
    for bounds in info.before:
        try:
            of = SegmentName(*bounds[:3])
        except ValueError:
            look.impossible.append((name, bounds))
            continue
        with look.hearing:  # segments are read side by side, and who is heard first must not count as right
            tellers = look.told.setdefault(of, {})
            tellers[bounds] = min(tellers.get(bounds, name), name)


def _tell_segments(store: Store, look: TrackLook) -> None:
    for name in look.live:
        if name in look.segments:
            _tell_segment(store, look, name, look.segments[name])
    if look.live and look.live[-1] in look.away:
        name = look.live[-1]
        path = store.describe(f"{look.folder}/{name.filename}")
        said = "the last segment is missing; it always stays here, whatever else is only on the replica"
        look.tell(path, "its place", said, name.start, name.stop, lost=_points(name.start, name.stop))
    gone = [name for name in look.live if name in look.away]
    if gone:
        count = sum(name.stop - name.start for name in gone)
        said = f"{count} points up to {gone[-1].stop} (exclusive) are only on the replica, which must be asked for them"
        look.tell(store.describe(look.folder), "its segments", said, note=True)
    for hole in look.holes:
        place = store.describe(look.folder)
        look.tell(place, "its segments", str(hole), hole.start, hole.stop, lost=_points(hole.start, hole.stop))
    counting = set(look.live)
    for name, seen in look.segments.items():
        if name not in counting and seen.damage and name.filename not in _overlapping(look):
            if seen.damage[0].place == _MISSING:
                continue  # of a run that is written: what had been replaced was swept since the listing
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
    wrong = list(look.impossible)
    for of, tellers in look.told.items():
        known = infos[of].bounds if of in infos else look.away[of].bounds if of in look.away else min(tellers)
        wrong += [(teller, told) for told, teller in tellers.items() if told != known]
    for teller, told in sorted(wrong):
        path = store.describe(f"{look.folder}/{teller.filename}")
        said = f"it tells other times of the points {told.start} to {told.stop} (exclusive) than these have"
        look.tell(path, "footer", said, told.start, told.stop, lost="ranges of time may miss points")
    for name, info in infos.items():
        if logical.unify_schemas(info.track_schema, info.schema) != info.track_schema:
            path = store.describe(f"{look.folder}/{name.filename}")
            said = "what it tells of the track lacks fields of its own"
            look.tell(path, "footer", said, name.start, name.stop, lost="columns of frames")


def vanished(look: TrackLook) -> list[SegmentName]:
    """Later generations of live segments that footers tell of and that are not there: older values count instead."""
    live_ones = {name[:2]: name.generation for name in look.live}
    return sorted(name for name in look.told if live_ones.get(name[:2], name.generation) < name.generation)


def _points(start: int, stop: int) -> str:
    return f"the points {start} to {stop} (exclusive)" if stop > start + 1 else f"the point {start}"


# ------------------------------------------------------------------------------------------------ the hot file


def _hot_bytes(store: Store, look: TrackLook) -> bytes | None:
    path = f"{look.folder}/{layout.HOT_FILE}"
    try:
        return get_whole(store, path, MAX_HOT_BYTES)
    except FileNotFoundError:
        return b""
    except (CorruptTrackError, OSError) as error:
        said = why(store, error)
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
    about = look_at_object(store, path, look.findings, "what the track was described with", look.name)
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
    for filename in listing:
        path = store.describe(f"{look.folder}/{filename}")
        is_stamps = filename.startswith(layout.STAMPS_PREFIX)
        if KEPT in filename or not (is_stamps or filename in (layout.AWAY_FILE, layout.LATE_FILE)):
            continue
        try:
            data = store.get(f"{look.folder}/{filename}")
            if filename == layout.AWAY_FILE:
                _look_at_away(look, data, path, set(here))
            elif is_stamps:
                open_segment(data).read()
            else:
                _look_at_late(look, data, path)
        except SegmentDamage as damage:
            look.tell(path, damage.place, damage.detail, lost="nothing: the replica is asked instead")
        except FileNotFoundError:
            continue  # it had done its work
        except (CorruptTrackError, OSError) as error:
            look.tell(path, "the whole file", why(store, error), lost="what only the replica has")


def _look_at_away(look: TrackLook, data: bytes, path: str, here: Collection[SegmentName]) -> None:
    try:
        records = away.parse(data, path)
    except CorruptTrackError as error:
        records = away_records(data)
        look.findings.append(Finding.of(error, lost="where points are that only the replica has", track=look.name))
    look.away = {name: record for name, record in records.items() if name not in here}


def _look_at_late(look: TrackLook, data: bytes, path: str) -> None:
    for number, place, reason in late.damaged(data)[:MOST_FINDINGS]:
        lost = "late fields of a point that only the replica has"
        look.tell(path, f"byte {place}, line {number}", reason, lost=lost)


def away_records(data: bytes) -> dict[SegmentName, away.Away]:
    """What the lines of a damaged record of away segments say that can be read."""
    found: dict[SegmentName, away.Away] = {}
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        try:
            found |= away.parse(line, "")
        except CorruptTrackError:
            continue
    return found
