"""Segments on their way to disk: how rows are cut into them, what their footers say, and the steps of writing them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dreamlake.storage.local as local
from dreamlake.engine.process import local_width, side_by_side
from dreamlake.format import logical, pages, schema, segment
from dreamlake.format.layout import SegmentName
from dreamlake.format.schema import Batch
from dreamlake.format.segment import SegmentBounds, SegmentInfo

#: A segment whose rows would take more than this in memory gets fewer of them.
SEGMENT_BYTES = 64 << 20
#: So does one whose rows a reader would take for more than this: a quarter of what it reads, see
#: `segment.decoded_size`. A merged one, too, stays below it, so that late fields have room.
DECODED_BYTES = pages.MAX_DECODED // 4
#: A wide segment has so many times the points of a usual one.
FACTOR = 10
#: A usual segment has at least so many points where wide ones are made unasked: short ones are somebody's wish.
USUAL_POINTS = 10_000
#: Segments that a roll writes beside before it commits them: their fsyncs overlap, and memory stays bounded.
SIDE_BY_SIDE = 32


class Cut(NamedTuple):
    """How many of a segment's points come from the hot file, and how many behind them are new rows."""

    hot: int
    new: int


@dataclass(frozen=True)
class Draft:
    """A segment that is about to be written.

    Parameters
    ----------
    name
        Its range and generation.
    batch
        Its points.
    info
        What its footer will say.
    cut
        Where its points come from.
    """

    name: SegmentName
    batch: Batch
    info: SegmentInfo
    cut: Cut


@dataclass(frozen=True)
class Widths:
    """How many points the segments of one roll have."""

    usual: int
    wide: int

    def halved(self) -> "Widths":
        """Narrower ones, for points that differ much in size."""
        half = max(1, self.usual // 2)
        return Widths(half, half)

    @classmethod
    def of(cls, batches: Sequence[Batch], wanted: int) -> "Widths":
        """As many as wanted, fewer where points are so large that a segment of them would outgrow memory.

        A wide one is what merging would make of usual ones later; many points at once are written so from the start.
        """
        count = sum(len(batch) for batch in batches)
        nbytes: int = sum(batch.data.nbytes for batch in batches)
        decoded = sum(map(segment.decoded_size, batches))
        fitting = max(1, min(SEGMENT_BYTES * count // max(nbytes, 1), DECODED_BYTES * count // max(decoded, 1)))
        if wanted < USUAL_POINTS or fitting < 2 * wanted:
            return cls(min(wanted, fitting), min(wanted, fitting))
        return cls(wanted, wanted * min(FACTOR, fitting // wanted))


def is_too_large(batch: Batch) -> bool:
    """Whether these points together are more than a segment should be, since some are far larger than most."""
    return segment.decoded_size(batch) > 2 * DECODED_BYTES or batch.data.nbytes > segment.MAX_BATCH_BYTES // 2


def cut(hot: int, new: int, widths: Widths, everything: bool) -> list[Cut]:
    """Return the next segments out of `hot` hot points and `new` rows behind them, `SIDE_BY_SIDE` at most.

    Wide ones while there are points for them, then usual ones; with `everything` a smaller one of the rest too.
    """
    cuts: list[Cut] = []
    while len(cuts) < SIDE_BY_SIDE and (hot + new >= widths.usual or (everything and hot + new)):
        size = widths.wide if hot + new >= widths.wide else widths.usual
        from_hot = min(hot, size)
        from_new = min(new, size - from_hot)
        cuts.append(Cut(from_hot, from_new))
        hot -= from_hot
        new -= from_new
    return cuts


def draft(
    track: str,
    name: SegmentName,
    batch: Batch,
    known: dict[str, Any],
    before: tuple[SegmentBounds, ...],
    cut: Cut = Cut(0, 0),  # noqa: B008 - it cannot change
    repaired: str = "",
) -> Draft:
    """Return a segment with its footer.

    Parameters
    ----------
    known
        The schema of the track up to here.
    before
        The bounds of the live segments before it.
    repaired
        What a repair lost of these points, in words.
    """
    low, high, rising = schema.ts_bounds(batch)
    info = SegmentInfo(
        track=track,
        start=name.start,
        stop=name.stop,
        generation=name.generation,
        ts_min=low,
        ts_max=high,
        ts_rising=rising,
        schema=batch.schema,
        track_schema=logical.unify_schemas(known, batch.schema),
        before=before,
        repaired=repaired,
    )
    return Draft(name, batch, info, cut)


def write_all(
    folder: str, drafts: Sequence[Draft], commit: Callable[[Draft, str], None], freed: Callable[[], None] | None = None
) -> None:
    """Write segments beside, side by side, then commit them one after the other, so that no crash leaves a hole.

    Twice as many threads as cores, since half of them wait for an fsync. The commits follow when all are written: on a
    journaling filesystem each fsync of the folder would wait for the files that are being written meanwhile.

    Parameters
    ----------
    commit
        Called with each segment and the file beside that holds it, in order; what it raises ends this, and the
        segments behind are not committed.
    freed
        Called before each long stretch that needs no lock of Python's.
    """
    written: list[str] = []

    def write_beside(draft: Draft) -> str:
        data = segment.encode(draft.batch, draft.info, freed)
        tmp = local.write_beside(os.path.join(folder, draft.name.filename), data, freed)
        written.append(tmp)  # not the last of `written` any more, as soon as another thread has appended its own
        return tmp

    try:
        beside = side_by_side(write_beside, drafts, 2 * local_width())
        for draft, tmp in zip(drafts, beside, strict=True):
            written.remove(tmp)
            commit(draft, tmp)
    finally:
        for tmp in written:
            local.remove_quietly(tmp)
