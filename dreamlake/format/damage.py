"""What is said of a segment whose bytes are not what dreamlake wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa


class SegmentDamage(ValueError):
    """The bytes of a segment are not what dreamlake wrote.

    Parameters
    ----------
    place
        Where: ``"footer"``, ``"column 'loss'"`` …
    detail
        What is wrong there.
    """

    def __init__(self, place: str, detail: str) -> None:
        self.place = place
        self.detail = detail
        super().__init__(f"{place}: {detail}")

    def __reduce__(self) -> tuple[type[SegmentDamage], tuple[str, str]]:
        return type(self), (self.place, self.detail)


@contextmanager
def damage_at(place: str) -> Iterator[None]:
    """Turn what Arrow raises on bytes that somebody made up, errors of many kinds, into damage at ``place``."""
    try:
        yield
    except (SegmentDamage, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        known = isinstance(error, ValueError) and not isinstance(error, pa.ArrowException)
        raise SegmentDamage(place, said if known else f"{type(error).__name__}: {said}") from error
