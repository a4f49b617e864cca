"""The segments of one track as verified tables: footers kept, damage told with its file, place and range."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.errors import CorruptTrackError, PointsNotHereError
from dreamlake.format.layout import AWAY_FILE, REPLICA_FILE, SESSION_FILE, track_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import Any

    import pyarrow as pa

    from dreamlake.engine.away import Away
    from dreamlake.format.layout import SegmentName
    from dreamlake.format.logical import TrackSchema
    from dreamlake.format.ranges import Many
    from dreamlake.format.segment import Footer, Segment, SegmentDamage, SegmentInfo
    from dreamlake.storage.store import Store

    Bounds = dict[SegmentName, tuple[float, float]]

#: Files up to this many bytes are read whole: one request, where footer and columns would take two.
WHOLE_BYTES = 1 << 20
#: The same where all columns of all rows are wanted, of a segment that is not on this machine.
ALL_BYTES = 32 << 20
#: A hot file rolls at 32 MB; one far beyond that is no hot file, and is not taken into memory.
MAX_HOT_BYTES = 1 << 30
#: Footers kept of one track. A footer takes some 5 KB of memory, so a track takes 10 MB at most.
MAX_FOOTERS = 2_000


class SegmentFiles:
    """Reads the segments in one folder; used by several threads at once.

    Parameters
    ----------
    store
        Where they are.
    folder
        Their folder below the root of `store`.
    track
        The name of the track.
    """

    def __init__(self, store: Store, folder: str, track: str) -> None:
        self.store = store
        self.folder = folder
        self.track = track
        # Without what they say of the segments before, which would make the memory grow with the square of these.
        self._footers: OrderedDict[SegmentName, Footer] = OrderedDict()
        self._newest: tuple[SegmentName, SegmentInfo] | None = None
        # The bytes of segments for the one read that mostly follows, where reading again costs a request.
        self._held: dict[SegmentName, bytes] = {}
        self._holds = not getattr(store, "is_local", True)
        #: What a snapshot found out of a set of live segments: these, the schema of their fields, their ``_ts`` bounds.
        self.described: tuple[tuple[SegmentName, ...], TrackSchema, dict[SegmentName, tuple[float, float]]] | None = (
            None
        )
        #: The oldest live segment at the last look, and which file it was.
        self._oldest: tuple[SegmentName, object] | None = None
        #: By name which file each was in the last listing, where that tells.
        self._versions: dict[str, str] = {}
        self._told: set[str] = set()
        self._lock = Lock()

    def describes(self, live: tuple[SegmentName, ...]) -> bool:
        """Whether it is known what these live segments hold."""
        return self.described is not None and self.described[0] is live

    @property
    def is_local(self) -> bool:
        """Whether the store reads this machine only, and no replica."""
        return getattr(self.store, "is_local", True) and not getattr(self.store, "reads_away", False)

    @property
    def lists_sizes(self) -> bool:
        """Whether a listing tells sizes; where the store lists names sooner than these, it does not."""
        return getattr(self.store, "names", None) is None

    def listing(self, again: bool = True) -> dict[str, int | None]:
        """The files in the folder now, and the bytes of each where these are listed.

        The first look at a track need not list its folder `again` where that says that it stands unchanged.
        """
        if not self.lists_sizes:
            ask = self.store.names  # type: ignore[attr-defined]
            return dict.fromkeys((ask if again else getattr(self.store, "remembered_names", ask))(self.folder))
        files = [entry for entry in self.store.list(self.folder) if not entry.is_dir]
        self._versions = {entry.name: entry.version for entry in files if entry.version}
        return {entry.name: entry.size for entry in files}

    def listing_there(self) -> Sequence[str] | None:
        """The segments that the replica has now; None where the store does not read those from there that are away."""
        ask = getattr(self.store, "names_there", None)
        return None if ask is None else ask(self.folder)

    def notice(self, live: Sequence[SegmentName]) -> None:
        """Forget what is known of the segments where a run that was made anew has others of the same names.

        Segments do not change, and stay until they are merged; so the oldest is another file only where all are.
        """
        oldest = None
        if live:
            which = self.which(live[0]) if self._tells_which else self._versions.get(live[0].filename)
            oldest = None if which is None else (live[0], which)
        if self._oldest is not None and oldest is not None and self._oldest != oldest:
            with self._lock:
                self._footers.clear()
                self._held = {}
                self._newest = self.described = None
        self._oldest = oldest or self._oldest

    @property
    def oldest(self) -> tuple[SegmentName, object] | None:
        """The oldest live segment at the last look, and which file it was, for `which`; None where that cannot tell."""
        return self._oldest if self._tells_which else None

    def which(self, name: SegmentName) -> object | None:
        """Which file has the name of this segment, None where none has; asked without a request, so of a local disk."""
        ask = getattr(self.store, "identity", None)
        return None if ask is None else ask(self._path(name))

    def run_began(self) -> float:
        """When the run of the track was made, in seconds since the epoch; -inf where its session.json does not say."""
        from dreamlake.engine.catalog import read_object
        from dreamlake.engine.hosts import moment

        try:
            about = read_object(self.store, f"{self._session}{SESSION_FILE}", may_be_empty=True)
        except (OSError, CorruptTrackError):
            about = None
        return moment((about or {}).get("createdAt"))

    @property
    def _tells_which(self) -> bool:
        return hasattr(self.store, "identity")

    @property
    def _session(self) -> str:
        """The folder of the session, with the slash behind it."""
        return self.folder.removesuffix(track_dir(self.track))

    def away(self, listing: Collection[str]) -> Mapping[SegmentName, Away]:
        """What is said to be only on the replica, in the folder with this listing; some of it may be here all the same.

        Empty where the store reads such segments from the replica, as a session's own does: it lists them.

        Raises
        ------
        CorruptTrackError
            What says so is damaged.
        """
        if AWAY_FILE not in listing or getattr(self.store, "reads_away", False):
            return {}
        from dreamlake.engine.away import parse_kept

        path = f"{self.folder}/{AWAY_FILE}"
        try:
            return parse_kept(self.store.get(path), self.store.describe(path))
        except FileNotFoundError:
            return {}

    def not_here(
        self, names: Iterable[SegmentName], live: Sequence[SegmentName], at: SegmentName, missing: str | None = None
    ) -> PointsNotHereError:
        """The error for points of a segment that is only on the replica.

        Parameters
        ----------
        names
            The live segments that are only there.
        live
            All live segments, in order.
        at
            The one of `names` that was asked for; its neighbours that are not here either are told with it.
        missing
            Where it should be on the replica, if that has not got it.
        """
        from dreamlake.engine.away import replicas

        gone = set(names)
        first = last = live.index(at)
        while first and live[first - 1] in gone:
            first -= 1
        while last + 1 < len(live) and live[last + 1] in gone:
            last += 1
        try:
            data = self.store.get(f"{self._session}{REPLICA_FILE}")
        except OSError:
            data = b""
        span = live[first].start, live[last].stop
        return PointsNotHereError(self.store.describe(self.folder), *span, replicas(data), missing)

    def size(self, name: SegmentName) -> int:
        """The bytes of segment `name`; raises FileNotFoundError when it is gone."""
        return self.store.size(self._path(name))

    def sizes(self, names: Sequence[SegmentName]) -> list[int]:
        """The bytes of each of these segments; 0 where it is gone."""
        ask = getattr(self.store, "sizes", None)
        if ask is not None:
            return ask(self.folder, [name.filename for name in names])  # type: ignore[no-any-return]

        def size(name: SegmentName) -> int:
            try:
                return self.size(name)
            except FileNotFoundError:
                return 0

        return side_by_side(size, names, reading_width(self.store, 1))

    def place(self, name: SegmentName) -> str:
        """The file of segment `name`, fit for messages and other tools."""
        return self.store.describe(self._path(name))

    def newest(self, name: SegmentName, size: int | None) -> SegmentInfo:
        """As `info`, also with what the footer says of the segments before; kept of one segment at a time."""
        kept = self._newest
        if kept is None or kept[0] != name:
            self._newest = kept = name, self._open_info(name, size, hold=self._holds)
        return kept[1]

    def fetch(self, names: Sequence[SegmentName], more: str = "") -> bytes | Exception:
        """Ask for whole segments at once, and hold them for the reads that follow; and for one file more.

        Parameters
        ----------
        names
            The segments. What fails of these is left to the reads.
        more
            The name of a file in the folder, or empty for none.

        Returns
        -------
        bytes | Exception
            The bytes of that file, `MAX_HOT_BYTES` and one more at most, or what went wrong; none without a file.
        """
        wanted = list(map(self.whole, names))
        if more:
            wanted.append((f"{self.folder}/{more}", 0, MAX_HOT_BYTES + 1))
        found = self.store.get_many(wanted)  # type: ignore[attr-defined]
        with self._lock:
            self._held = {}
        for name, data in zip(names, found, strict=False):
            if isinstance(data, bytes):
                self.hold(name, data)
        return found[-1] if more else b""

    def whole(self, name: SegmentName) -> tuple[str, int, int]:
        """What to ask the store for, to have all of a small segment: path, start and stop."""
        return self._path(name), 0, WHOLE_BYTES + 1

    def hold(self, name: SegmentName, data: bytes) -> None:
        """Keep what came of `whole` for the next read of this segment, if it is all of it."""
        if len(data) <= WHOLE_BYTES:
            with self._lock:
                self._held[name] = data

    def holds(self, name: SegmentName) -> bool:
        """Whether the bytes of this segment are kept for its next read."""
        return name in self._held

    def held(self, room: int) -> int:
        """How many bytes are kept for the next read; they are let go where they are more than `room`."""
        with self._lock:
            if sum(map(len, self._held.values())) > room:
                self._held = {}
            return sum(map(len, self._held.values()))

    def tell(self, skipped: CorruptTrackError | PointsNotHereError) -> None:
        """Log what is read round, damage or points that are not here; once, however often it is met."""
        if skipped.path in self._told:
            return
        self._told.add(skipped.path)
        import logging  # not at the top: this module is loaded before a first append, and logging takes 5 ms

        logging.getLogger("dreamlake").warning("skipped: %s", skipped)

    def info(self, name: SegmentName, size: int | None) -> SegmentInfo:
        """What the footer of segment `name` says of it; verified once, and then kept.

        Parameters
        ----------
        size
            Bytes of the file; None when not known.

        Raises
        ------
        FileNotFoundError
            The segment is gone.
        CorruptTrackError
            It is damaged, or is not the segment that its name says.
        """
        kept = self._kept(name)
        return kept.info if kept is not None else self._open_info(name, size)

    def footer(self, name: SegmentName) -> Footer:
        """The footer of segment `name`; as `info`."""
        self.info(name, None)
        return self._kept(name) or self._open(name, None, None).footer

    def group_bounds(self, name: SegmentName) -> list[tuple[int, float, float]]:
        """For each row group of segment `name` its rows, and the lowest and highest ``_ts``; as `info`."""
        from dreamlake.format.segment import SegmentDamage

        footer = self.footer(name)
        try:
            return footer.group_bounds()
        except SegmentDamage as damage:
            raise self._corrupt(name, damage) from damage

    def decoded_size(self, name: SegmentName) -> int:
        """About how many bytes the points of segment `name` take in memory; as `info`."""
        from dreamlake.format.segment import SegmentDamage

        footer = self.footer(name)
        try:
            return footer.decoded_size()
        except SegmentDamage as damage:
            raise self._corrupt(name, damage) from damage

    def columns(self, name: SegmentName) -> Collection[str]:
        """The names of all columns of segment `name`; as `info`."""
        self.info(name, None)
        kept = self._kept(name)
        return self._open(name, None, None).footer.columns if kept is None else kept.columns

    def _open_info(self, name: SegmentName, size: int | None, hold: bool = False) -> SegmentInfo:
        from dreamlake.format.segment import SegmentDamage

        try:
            return self._open(name, size, None, hold).info
        except SegmentDamage as damage:
            raise self._corrupt(name, damage) from damage

    def read(
        self,
        name: SegmentName,
        size: int | None = None,
        columns: Sequence[str] | None = None,
        start: int | None = None,
        stop: int | None = None,
    ) -> tuple[pa.Table, TrackSchema]:
        """The rows [start, stop) of segment `name`, every page verified, and the types of its fields.

        Parameters
        ----------
        size
            Bytes of the file; None when not known.
        columns
            The columns to read, of those that it has; None for ``_ts``, the fields, and ``_none`` where there is one.
        start, stop
            Half-open range of indices, within the segment's; None for all.

        Raises
        ------
        FileNotFoundError, CorruptTrackError
            As for `info`.
        """
        from dreamlake.format.segment import SegmentDamage

        try:
            most = ALL_BYTES if self._wants_all(name, columns, start, stop) else WHOLE_BYTES
            segment = self._open(name, size, self._kept(name), most=most)
            schema = segment.info.schema
            return segment.read(["_ts", *schema, "_none"] if columns is None else columns, start, stop), schema
        except SegmentDamage as damage:
            raise self._corrupt(name, damage) from damage

    def _wants_all(self, name: SegmentName, columns: Sequence[str] | None, start: int | None, stop: int | None) -> bool:
        """Whether these are all rows of segment `name`, in all columns that the track is known to have."""
        if (start is not None and start > name.start) or (stop is not None and stop < name.stop) or self.is_local:
            return False
        return columns is None or (self.described is not None and {"_ts", *self.described[1]} <= set(columns))

    def _open(
        self, name: SegmentName, size: int | None, kept: Footer | None, hold: bool = False, most: int = WHOLE_BYTES
    ) -> Segment:
        """Open a segment, whose bytes come all at once where there are `most` or fewer."""
        from dreamlake.format.segment import open_segment

        path = self._path(name)
        data = self._taken(name)
        likely = size if size is not None or kept is None else kept.file_size
        most = WHOLE_BYTES if likely is None else most
        if data is None and (likely is None or likely <= most):
            data = self.store.get(path, 0, most + 1)
        if hold and data is not None:
            self.hold(name, data)
        if data is not None and len(data) <= most:
            segment = open_segment(data, footer=kept)
        else:
            size = self.store.size(path) if size is None or data is not None else size
            many = self._many(path) if hasattr(self.store, "get_many") else None
            segment = open_segment(lambda start, stop: self.store.get(path, start, stop), size, kept, many)
        if segment.footer is not kept:
            self._check(name, segment)
            self._keep(name, segment.footer)
            if segment.info.lost:
                self._tell_lost(name, segment.info)
        return segment

    def _many(self, path: str) -> Many:
        def read(spans: Sequence[tuple[int, int]]) -> list[bytes]:
            found: list[bytes | Exception] = self.store.get_many([(path, *span) for span in spans])  # type: ignore[attr-defined]
            for each in found:
                if isinstance(each, Exception):
                    raise each
            return found  # type: ignore[return-value]

        return read

    def _tell_lost(self, name: SegmentName, info: SegmentInfo) -> None:
        from dreamlake.notices import log

        log().warning("%s: no points %d to %d (exclusive): %s", self.place(name), *name[:2], info.repaired)

    def _check(self, name: SegmentName, segment: Segment) -> None:
        from dreamlake.format.segment import SegmentDamage

        info = segment.info
        if (info.start, info.stop, info.generation) != tuple(name):
            said = f"it says indices {info.start} to {info.stop}, generation {info.generation}: renamed or swapped"
            raise SegmentDamage("footer", said)
        if info.track != self.track:
            raise SegmentDamage("footer", f"it belongs to the track {info.track!r}, not {self.track!r}")

    def points(self, name: SegmentName, table: pa.Table, schema: TrackSchema) -> list[dict[str, Any]]:
        """Rows that `read` gave of segment `name` as points.

        Raises
        ------
        CorruptTrackError
            A column holds what is no value, though its checksums are right: dreamlake did not write it.
        """
        from dreamlake.format.schema import to_points

        try:
            return to_points(table, schema)
        except ValueError as error:
            raise self.no_value(name, error) from error

    def no_value(self, name: SegmentName, error: Exception) -> CorruptTrackError:
        """What is said of a segment whose columns are whole, and hold what is no value."""
        return CorruptTrackError(self.place(name), "its values", name.start, name.stop, str(error))

    def _corrupt(self, name: SegmentName, damage: SegmentDamage) -> CorruptTrackError:
        return CorruptTrackError(self.place(name), damage.place, name.start, name.stop, damage.detail)

    def _path(self, name: SegmentName) -> str:
        return f"{self.folder}/{name.filename}"

    def _taken(self, name: SegmentName) -> bytes | None:
        """The bytes held of segment `name`, which are let go thereby."""
        with self._lock:
            return self._held.pop(name, None)

    def _kept(self, name: SegmentName) -> Footer | None:
        # No look at the file's size here: `open_segment` compares size and checksum before it believes a kept footer.
        with self._lock:
            kept = self._footers.get(name)
            if kept is not None:
                self._footers.move_to_end(name)
            return kept

    def _keep(self, name: SegmentName, footer: Footer) -> None:
        from dataclasses import replace

        footer = replace(footer, info=replace(footer.info, before=()))
        with self._lock:
            self._footers[name] = footer
            if len(self._footers) > MAX_FOOTERS:
                self._footers.popitem(last=False)
