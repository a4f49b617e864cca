"""What is wrong with a file: damage with its place, range and cost, and what is worth knowing beside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from dreamlake.errors import CorruptTrackError
from dreamlake.format.about import check, decode
from dreamlake.storage.store import Store

#: Findings told of one file; of more there is only the number.
MOST_FINDINGS = 50
#: What a repair renames damaged files to: their names with this, and the time.
KEPT = ".damaged-"


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


def with_remedies(findings: Iterable[Finding], remedy: Callable[[Finding], str]) -> list[Finding]:
    """The findings, each damage with what a repair would do."""
    return [finding if finding.note else replace(finding, remedy=remedy(finding)) for finding in findings]


def why(store: Store, error: Exception) -> str:
    """Why a file on this machine cannot be read; trouble with the network is raised as it is."""
    if isinstance(error, CorruptTrackError):
        return error.detail
    if not getattr(store, "is_local", True):
        raise error
    return f"it cannot be read: {getattr(error, 'strerror', None) or error}"


def look_at_object(
    store: Store, path: str, found: list[Finding], lost: str, track: str | None = None
) -> dict[str, Any] | None:
    """The JSON object in a small file; None where it is damaged, which is noted, or empty."""
    try:
        data = store.get(path)
    except FileNotFoundError:
        return None
    except (CorruptTrackError, OSError) as error:
        found.append(Finding(store.describe(path), "the whole file", why(store, error), lost=lost, track=track))
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
