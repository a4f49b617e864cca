"""One track of the replica on its way here: its hot file and its last segment come, its other segments are *away*.

At every step the folder holds all that it held before, or a beginning of what the replica holds that is longer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from math import inf
from typing import Any

import dreamlake.storage.local as local
from dreamlake.engine import away
from dreamlake.engine.away import Away
from dreamlake.engine.replica.check import Pair, Verdict
from dreamlake.engine.replica.sides import Side, There, here, there
from dreamlake.engine.replica.state import TrackState, digest
from dreamlake.engine.trackfile import merge_description
from dreamlake.errors import CorruptTrackError
from dreamlake.format import about, layout, live, point
from dreamlake.format.layout import SegmentName
from dreamlake.format.schema import timestamps
from dreamlake.format.segment import SegmentDamage, SegmentInfo, open_segment
from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Entry


class Taking:
    """One track on its way here.

    Parameters
    ----------
    known
        What is known of its replica; is put right.
    below
        The track's folder below the session.
    entries
        The files in its folder on the replica, by name.
    newest
        The timestamps above this, in seconds, cannot be automatic ones.
    fsync
        Whether metadata.json survives power loss; points do always.
    """

    def __init__(
        self,
        folder: str,
        session: str,
        remote: RemoteStore,
        known: TrackState,
        below: str,
        entries: Mapping[str, Entry],
        newest: float,
        fsync: bool,
    ) -> None:
        self.folder = folder
        self.below = below
        self.remote = remote
        self.above = f"{session}/{below}"
        self.name = layout.track_name(below)
        self.path = os.path.join(folder, *below.split("/"))
        self.known = known
        self.entries = entries
        self.newest = newest
        self.fsync = fsync

    @property
    def nbytes(self) -> int:
        """About how much of it is held at once."""
        segments = live.survey(live.parse_listing(self.entries))[0]
        files = [layout.HOT_FILE, *(name.filename for name in segments[-1:])]
        return sum(self.entries[each].size for each in files if each in self.entries)

    def run(self) -> float:
        """Take it over, if the replica is ahead; return the highest timestamp that can be an automatic one."""
        mine = here(self.folder, self.below)  # first: it refuses a folder that is a link out of the session
        self._check_name()
        theirs = there(self.remote, self.above, self.name, self.entries, mine.hot)
        pair = Pair(mine, theirs, self.known)
        verdict = pair.verdict()
        if verdict is Verdict.CLASH:
            self.known.conflict = pair.sentence()
            return -inf
        self.known.conflict = None
        self._take_about()
        last = -inf
        if verdict in (Verdict.THEIRS, Verdict.SEGMENTS):
            last = self._take_points(pair, hot=verdict is Verdict.THEIRS)
        elif verdict is Verdict.LINES:
            last = self._take_lines(pair.theirs)
        if os.path.isdir(self.path):
            # Also what is as it should be: an attempt that ended at such a sync may have left it.
            local.fsync_dir(self.path)
        pair.note()
        return last

    # -- metadata.json ---------------------------------------------------------------------------------------------

    def _check_name(self) -> None:
        stored = _object(local.read_if_there(os.path.join(self.path, layout.METADATA_FILE)))
        if stored is not None and stored.get("name", self.name) != self.name:
            raise ValueError(
                f"the track {self.name!r} would share the folder {self.path} with the track {stored['name']!r}: "
                "this disk does not tell the two names apart; rename one of them"
            )

    def _take_about(self) -> None:
        """Take over metadata.json; what this side was told, and has not sent, stays."""
        entry = self.entries.get(layout.METADATA_FILE)
        if entry is None:
            return
        path = os.path.join(self.path, layout.METADATA_FILE)
        mine = local.read_if_there(path)
        sent = self.known.about
        if mine and entry.version == sent.version:
            return
        try:
            data, version = self.remote.read(f"{self.above}/{layout.METADATA_FILE}")
        except FileNotFoundError:
            return
        theirs, own = _object(data), _object(mine)
        if theirs is None or theirs.get("name", self.name) != self.name:
            place = self.remote.describe(f"{self.above}/{layout.METADATA_FILE}")
            raise CorruptTrackError(place, "the whole file", detail=f"it does not describe the track {self.name!r}")
        if own is not None and digest(mine) not in (sent.sha, digest(data)):
            merged = merge_description(theirs, {key: value for key, value in own.items() if value not in (None, [])})
            if merged != theirs:
                data = json.dumps(point.to_json(merged), ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"
                sent.version, sent.sha = version, None
                self._write(path, data, fsync=self.fsync or bool(mine))
                return
        sent.version, sent.sha = version, digest(data)
        self._write(path, data, fsync=self.fsync or bool(mine))

    def _write(self, path: str, data: bytes, fsync: bool) -> None:
        """Write a small file, if it is not the same already."""
        if data != local.read_if_there(path):
            local.make_dirs(self.path, self.fsync)
            local.atomic_write(path, data, fsync)

    # -- points ----------------------------------------------------------------------------------------------------

    def _take_points(self, pair: Pair, hot: bool) -> float:
        """Take over last segment and `hot` file, and note which segments stay away.

        1. The last segment is written beside.
        2. What is going to be away is noted. Segments that are here, or were away, count as well for now.
        3. The last segment gets its name, in the next moment: a writer would not go on without it.
        4. The hot file is replaced, whose lines are below the segments' end, or the same on the replica.
        5. Segments that still count in the place of the replica's, which holds all that they do, are removed.
        """
        mine, theirs = pair.mine, pair.theirs
        if not theirs.is_whole:
            raise CorruptTrackError(theirs.place, "its files", detail="points are missing on the replica")
        local.make_dirs(self.path, self.fsync)
        kept = {name for name in theirs.live if name in mine.sizes and name not in mine.gone and pair.alike(name)}
        noted = away.read(self.path)
        final: dict[SegmentName, Away] = {}
        stamps = [fields["_ts"] for fields in theirs.snapshot.hot.points]
        if theirs.live:
            last = theirs.live[-1]
            data = mine.store.get(mine.segment_path(last)) if last in kept else self._fetch(theirs, last)
            info, column = self._verified(last, data)
            final = self._away(mine, theirs, kept, info)
            stamps += [info.ts_max] if info.ts_max <= self.newest else column
            stamps += [record.bounds.ts_max for record in final.values()]
            noted = self._place(last, None if last in kept else data, {**noted, **final}, noted)
            kept.add(last)
        if hot:
            self._write(os.path.join(self.path, layout.HOT_FILE), theirs.hot, fsync=True)
        else:  # what follows the replica's segments is only here
            kept.update(name for name in mine.sizes if name.start >= live.end_of(theirs.live))
        self._remove(mine, theirs, kept)
        self._note_away(final, noted)
        away.sweep_stamps(self.path, os.listdir(self.path), final)
        return max((ts for ts in stamps if ts <= self.newest), default=-inf)

    def _take_lines(self, theirs: There) -> float:
        """Take over the hot file alone."""
        self._write(os.path.join(self.path, layout.HOT_FILE), theirs.hot, fsync=True)
        stamps = (fields["_ts"] for fields in theirs.snapshot.hot.points)
        return max((ts for ts in stamps if ts <= self.newest), default=-inf)

    def _place(
        self, last: SegmentName, data: bytes | None, records: dict[SegmentName, Away], noted: dict[SegmentName, Away]
    ) -> dict[SegmentName, Away]:
        """Note what is away, and write the last segment, if it is not here."""
        if data is None:
            return self._note_away(records, noted)
        path = os.path.join(self.path, last.filename)
        beside = local.write_beside(path, data)
        try:
            # Anew, also where it is noted already: an attempt that failed may have left a name that does not last, and
            # the segment's would last without it.
            if records or noted:
                away.write(self.path, list(records.values()), fsync=True)
            local.os_.replace(beside, path)
        except BaseException:
            local.remove_quietly(beside)
            with suppress(OSError):
                self._note_away(noted, records)
            raise
        local.fsync_dir(self.path)
        return records

    def _fetch(self, theirs: There, name: SegmentName) -> bytes:
        return self.remote.get(theirs.segment_path(name))

    def _verified(self, name: SegmentName, data: bytes) -> tuple[SegmentInfo, list[float]]:
        """What a segment's footer says, and its timestamps; every page of it is read once."""
        try:
            segment = open_segment(data)
            info = segment.info
            if (info.start, info.stop, info.generation) != tuple(name) or info.track != self.name:
                raise SegmentDamage(
                    "footer", f"it says {info.track!r}, {info.start} to {info.stop}: renamed or swapped"
                )
            return info, timestamps(segment.read())
        except SegmentDamage as damage:
            place = self.remote.describe(f"{self.above}/{name.filename}")
            raise CorruptTrackError(place, damage.place, name.start, name.stop, damage.detail) from damage

    def _away(self, mine: Side, theirs: There, kept: set[SegmentName], last: SegmentInfo) -> dict[SegmentName, Away]:
        """What must be known of the segments that stay on the replica."""
        told = {SegmentName(*bounds[:3]): bounds for bounds in last.before}
        records = {}
        for name in theirs.live[:-1]:
            if name in kept:
                continue
            known = mine.gone.get(name)
            if name in told:
                records[name] = Away(name, theirs.sizes[name], told[name])
            elif known is not None and known.schema is not None:
                records[name] = known
            else:
                info = theirs.files.info(name, theirs.sizes[name])
                records[name] = Away(name, theirs.sizes[name], info.bounds, info.schema)
        return records

    def _note_away(self, records: dict[SegmentName, Away], noted: dict[SegmentName, Away]) -> dict[SegmentName, Away]:
        # On disk for good: a track whose segments nobody knows of is a damaged one.
        if records != noted:
            away.write(self.path, list(records.values()), fsync=True)
        return records

    def _remove(self, mine: Side, theirs: There, kept: set[SegmentName]) -> None:
        """Remove segments that would count here in the place of the replica's."""
        superseded = set(live.superseded(mine.sizes, theirs.live))
        for name in mine.sizes:
            if name not in mine.gone and name not in kept and name not in superseded:
                local.os_.unlink(os.path.join(self.path, name.filename))


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        return about.check(about.decode(data))
    except ValueError:
        return None
