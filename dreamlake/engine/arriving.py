"""Pieces of segments that are far away: all asked for at once, and each worked on as it arrives."""

from __future__ import annotations

from dreamlake.engine.process import local_width, side_by_side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from dreamlake.engine.piece import Piece

    Made = TypeVar("Made")

#: With fewer pieces to wait for, a thread for each is as good.
FEW = 4


def of_each(work: Callable[[Piece], Made], pieces: Sequence[Piece], width: int) -> list[Made]:
    """``[work(piece) for piece in pieces]``, side by side.

    Where a store has `at_once`, the small segments among them come whole by one thread, which is quicker than a thread
    for each that waits for its own: these would spend more on handing over than on decoding.

    Parameters
    ----------
    pieces
        Of one store.
    width
        How many threads work on pieces that are not asked for so.
    """
    far = [place for place, piece in enumerate(pieces) if piece.is_far]
    if len(far) < FEW:
        return side_by_side(work, pieces, width)
    made: dict[int, Made] = {}
    store = pieces[far[0]].snapshot.files.store
    with store.arrivals([pieces[place].whole() for place in far]) as take:  # type: ignore[attr-defined]

        def next_one(_: int) -> None:
            number, data = take()
            piece = pieces[far[number]]
            if isinstance(data, bytes):  # what failed is asked for again, and then told
                piece.hold(data)
            made[far[number]] = work(piece)

        side_by_side(next_one, far, local_width())
    rest = [place for place in range(len(pieces)) if place not in made]
    made.update(zip(rest, side_by_side(lambda place: work(pieces[place]), rest, width), strict=True))
    return [made[place] for place in range(len(pieces))]
