"""What an importer says of a run that it has found, and what is told of its import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dreamlake.integrations.intake import Intake

#: The key of a session's and a track's metadata under which stands where they came from.
MARK = "imported"


class ImportRefused(ValueError):
    """The source cannot be imported as it was asked for; the message says why, and what can be done."""


@dataclass(frozen=True)
class Run:
    """A run as its source names it.

    Parameters
    ----------
    kind
        The tool that it is of, as the command line calls it.
    ids
        What tells it from all other runs of that tool. A session is of the same run when they share one.
    name, other_name
        What its session is called, and what instead where another imported run has that name.
    workspace
        Where it goes, unless told otherwise.
    source
        Where it was found, for people.
    pour
        Gives all of it to an intake.
    refusal
        Why it cannot be imported, if so.
    started
        When it began, in seconds since the epoch, where that is known.
    gone_from
        Says of a place in which a run of these ids was found before whether it is there no more. For one that is named
        after its place, and has another name once it moved; None for others.
    """

    kind: str
    ids: tuple[str, ...]
    name: str
    workspace: str
    source: str
    pour: Callable[[Intake], None]
    refusal: str | None = None
    other_name: str | None = None
    started: float | None = None
    gone_from: Callable[[str], bool] | None = None


@dataclass
class Told:
    """What came of one import, for people and for scripts."""

    run: str
    source: str
    #: Points that were added, those that the tracks of the source have now, and how many tracks.
    points: int = 0
    total: int = 0
    tracks: int = 0
    #: What a lake has no place for, and how often it came.
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
