"""Files that cannot be read to their end, since their writer was killed, is not done yet, or they are damaged."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dreamlake.integrations.intake import Intake


class Torn(Exception):
    """A file cannot be read from this place on.

    Parameters
    ----------
    place
        Where, in bytes.
    damaged
        Whether what is there is wrong. Otherwise the last record is not all there, as while it is being written.
    """

    def __init__(self, place: int, damaged: bool) -> None:
        self.place = place
        self.damaged = damaged
        super().__init__(place, damaged)


def tell_torn(intake: Intake, file: str, torn: Torn, what: str = "the last record is not all there (yet)") -> None:
    """Say how much of a file is left out, and `what` it ends in where it is not damaged."""
    left = f"{max(os.path.getsize(file) - torn.place, 0):,} bytes from byte {torn.place:,} on are left out"
    if torn.damaged:
        intake.damaged(f"{file} is damaged: {left}")
    else:
        intake.note(f"{file}: {what}; {left}")
