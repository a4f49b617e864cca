"""A snapshot of one track, as points and tables: the hot file first, the listing second, no locks, no writes.

Whatever a writer does between the two looks, the segments listed then reach at least to where the hot lines begin. A
hole, a damaged hot line or a segment that vanished between listing and opening may be the trace of a writer at work, so
the reader looks once more before it calls that damage.
"""

from __future__ import annotations

from functools import lru_cache

from dreamlake.engine.process import side_by_side
from dreamlake.engine.segments import MAX_HOT_BYTES, WHOLE_BYTES, SegmentFiles
from dreamlake.engine.snapshot import Snapshot
from dreamlake.errors import CorruptTrackError
from dreamlake.format.layout import HOT_FILE, METADATA_FILE
from dreamlake.format.live import covering, end_of, parse_listing, survey
from dreamlake.storage import get_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

    from dreamlake.engine.away import Away
    from dreamlake.engine.hotpart import HotPart
    from dreamlake.format.layout import SegmentName
    from dreamlake.format.live import HoleError
    from dreamlake.storage.store import Store

#: Segments that are fetched beside the hot file, at most: those of a short range.
MAX_FETCHED = 4
#: Looks taken at a track that changes under the reader. Twice in a row is already next to impossible.
MAX_LOOKS = 5


@lru_cache(maxsize=64)
def _surveyed(
    listing: tuple[str, ...], away: tuple[SegmentName, ...] = ()
) -> tuple[tuple[SegmentName, ...], list[str], tuple[HoleError, ...]]:
    """The live segments of a listing and of what is away, their file names, and the holes.

    Kept, since most looks find the same.
    """
    live, holes = survey({*parse_listing(listing), *away} if away else parse_listing(listing))
    return live, [name.filename for name in live], holes


class TrackReader:
    """Takes snapshots of one track; may be used by several threads.

    Parameters
    ----------
    store
        Where the track is kept.
    folder
        The folder of the track below the root of `store`.
    name
        The name of the track.
    """

    def __init__(self, store: Store, folder: str, name: str) -> None:
        self.store = store
        self.folder = folder
        self.name = name
        #: The segments in the folder.
        self.files = SegmentFiles(store, folder, name)
        self._named = False

    @property
    def place(self) -> str:
        """The folder of the track, fit for messages."""
        return self.store.describe(self.folder)

    def metadata(self) -> dict[str, Any]:
        """What metadata.json says; empty where there is none.

        Raises
        ------
        ValueError
            The folder belongs to a track of another name: the disk folds names (case, unicode forms) that differ.
        CorruptTrackError
            It is no JSON object.
        """
        from dreamlake.engine.catalog import read_object

        about = read_object(self.store, f"{self.folder}/{METADATA_FILE}", may_be_empty=True)
        if about is None:
            return {}
        if about.get("name", self.name) != self.name:
            raise ValueError(
                f"{self.place} belongs to the track {about['name']!r}, not {self.name!r}: "
                "this filesystem takes the two names for one; choose another name"
            )
        return about

    def snapshot(
        self,
        *,
        errors: str = "raise",
        described: bool = False,
        wanted: tuple[int, int | None] = (0, None),
        listing: dict[str, int | None] | None = None,
    ) -> Snapshot:
        """The track as it is stored now.

        Parameters
        ----------
        errors
            ``"raise"``, or ``"skip"`` to log damage and read round it, now and in all reads of the snapshot.
        described
            Whether its schema and time bounds are taken now too, at the price of the newest segment's footer.
        wanted
            The first index that will be read of it and how many points (None: all), as far as that is known: where
            requests are slow, the segments of a short range are asked for along with the hot file.
        listing
            A listing of the folder, where there is one that is no older than the moment that is asked about.

        Raises
        ------
        CorruptTrackError
            The hot file is damaged, segments are missing between others, or (described) a footer is damaged.
        ValueError
            Another word for `errors`; and as from `metadata`.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors is "raise" or "skip", not {errors!r}')
        vanished = FileNotFoundError()
        for look in range(MAX_LOOKS):
            try:
                hasty = (described, *wanted) if look == 0 and getattr(self.store, "at_once", False) else None
                snapshot = self._look(errors == "raise" or look == 0, hasty, listing, again=look > 0)
                snapshot.skip = errors == "skip"
                if described:
                    snapshot.describe()
                return snapshot
            except CorruptTrackError:
                if look:
                    raise
            except FileNotFoundError as error:  # a segment vanished between listing and opening: list again
                vanished = error
        lost = f"segments vanish as fast as they are listed ({vanished})"
        raise CorruptTrackError(self.place, "its segments", detail=lost) from vanished

    def _look(
        self,
        strict: bool,
        hasty: tuple[bool, int, int | None] | None,
        listing: dict[str, int | None] | None,
        again: bool,
    ) -> Snapshot:
        if hasty is not None:
            data, listing = self._look_at_once(*hasty, listing)
        else:
            data = self._hot_bytes()
            listing = self.files.listing(again)
        away = self._away(listing, strict)
        live, filenames, holes = _surveyed(tuple(listing), tuple(away))
        self.files.notice(live)
        described = METADATA_FILE in listing
        if described:
            self._check_name(strict)
        if holes and strict:
            hole = holes[0]
            raise CorruptTrackError(self.place, "its segments", hole.start, hole.stop, str(hole))
        if holes:
            import logging  # not at the top: this module is loaded before a first append, and logging takes 5 ms

            for hole in holes:
                logging.getLogger("dreamlake").warning("skipped: %s: %s", self.place, hole)
        hot = self._hot_part(data, end_of(live), strict)
        exists = bool(live or data or described)
        gone = {name: away[name] for name in live if name.filename not in listing} if away else {}
        sizes = {name: record.nbytes for name, record in gone.items()}
        if self.files.lists_sizes:
            found = zip(live, map(listing.get, filenames), strict=True)
            sizes |= {name: size for name, size in found if size is not None}
        return Snapshot(self.files, live, sizes, hot, hot_bytes=len(data), exists=exists, away=gone)

    def _away(self, listing: Collection[str], strict: bool) -> Mapping[SegmentName, Away]:
        try:
            return self.files.away(listing)
        except CorruptTrackError as error:
            if strict:
                raise
            self.files.tell(error)
            return {}

    def _look_at_once(
        self, described: bool, start: int, limit: int | None, listing: dict[str, int | None] | None
    ) -> tuple[bytes, dict[str, int | None]]:
        """The bytes of the hot file and a listing that belongs to them, in two round trips, segments included.

        The listing comes first here. It also tells how long the hot file is:

        - There is none: there has never been one, since it is replaced and not removed. All that was flushed before
          this call is in segments that were listed.
        - It is empty: what was in it is in segments by now, so a second listing shows all of these.
        - Else its bytes are read next. Points that a roll has taken out of it meanwhile are missing before its first
          line, which is told as damage, and then looked at in the plain order; or it is empty, and we list again.
        """
        listing = self.files.listing() if listing is None else listing
        segments = self._likely(listing, described, start, limit)
        size = listing.get(HOT_FILE)
        if size is None:
            self.files.fetch(segments)
            return b"", listing
        if size == 0:
            both: list[Callable[[], Any]] = [lambda: self.files.fetch(segments), self.files.listing]
            return b"", side_by_side(lambda ask: ask(), both, 2)[1]
        data = self.files.fetch(segments, HOT_FILE)
        if isinstance(data, FileNotFoundError) or data == b"":
            return b"", self.files.listing()
        if isinstance(data, Exception):
            raise data
        return self._checked(data), listing

    def _likely(
        self, listing: dict[str, int | None], described: bool, start: int, limit: int | None
    ) -> list[SegmentName]:
        """The segments that will be read whole next, as far as that can be told: the newest, and those of a range."""
        live, filenames, _ = _surveyed(tuple(listing))
        sizes = dict(zip(live, (listing[filename] or 0 for filename in filenames), strict=True))
        found = []
        if limit is not None and start >= 0:
            found = list(covering(live, start, start + limit))
        if len(found) > MAX_FETCHED:
            found = []
        if described and live and not self.files.describes(live) and live[-1] not in found:
            found.append(live[-1])
        return [name for name in found if sizes[name] <= WHOLE_BYTES]

    def _hot_bytes(self) -> bytes:
        try:
            return get_whole(self.store, f"{self.folder}/{HOT_FILE}", MAX_HOT_BYTES)
        except FileNotFoundError:
            return b""

    def _checked(self, data: bytes) -> bytes:
        path = f"{self.folder}/{HOT_FILE}"
        if len(data) > MAX_HOT_BYTES:
            raise CorruptTrackError(self.store.describe(path), "its end", detail=f"over {MAX_HOT_BYTES} bytes long")
        return data

    def _hot_part(self, data: bytes, below: int, strict: bool) -> HotPart:
        from dreamlake.engine.hotpart import HotPart, parse_hot

        if not data:
            return HotPart()  # without a look at the parser, whose import costs more than most reads
        return parse_hot(data, below, self.store.describe(f"{self.folder}/{HOT_FILE}"), strict)

    def _check_name(self, strict: bool) -> None:
        # Only a local disk folds names, and asking costs a request elsewhere. One look is enough: names do not change.
        if not self._named and getattr(self.store, "is_local", True):
            try:
                self.metadata()
            except CorruptTrackError as error:  # points can be read without it
                if strict:
                    raise
                self.files.tell(error)
                return
        self._named = True
