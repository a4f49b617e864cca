"""What was found in a local folder, remembered for as long as the folder's own status says that nothing changed there.

To list a folder of a hundred files takes the kernel 40 us, to tell a folder's status 2. Every name that comes or goes
sets the folder's times, so while these stand the names do. That holds where it can be relied on only: on filesystems of
this machine's own disks, whose times are this machine's clock, and for folders that have not just been changed, since
two changes within one tick of that clock leave the same times. Everywhere else each look lists.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import compress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Nanoseconds that a folder must have stood unchanged: more than the coarsest clock of a filesystem, which is a second.
SETTLED = 2_000_000_000
#: Names of folders and files that are remembered; with more of them all are forgotten. A hundred bytes each.
MOST_NAMES = 100_000
#: Filesystems on a disk of this machine alone that set a folder's times at each change of its names.
_KNOWN_TYPES = frozenset({"ext2", "ext3", "ext4", "f2fs", "xfs"})
_MOUNTS = "/proc/self/mountinfo"

_clock: Callable[[], int] | None = None
if sys.platform == "linux":

    def _clock() -> int:
        # The clock that the kernel takes the times of files from, CLOCK_REALTIME_COARSE, which Python has no name for;
        # and not time.time_ns(), which tests of other programs set to whatever they like.
        return time.clock_gettime_ns(5)


#: The status of a folder, as far as it changes with the names in it.
Stamp = tuple[int, ...]
#: The sizes of files, the status behind the descriptor of their folder, and when each changed last, in nanoseconds
#: since the epoch; 0 for a size that is not to be remembered.
Sizes = tuple[list[int], "Stamp | None", list[int]]


class _Found:
    """The names in a folder, and the sizes of those files that were asked for, at a status of it."""

    __slots__ = ("names", "sizes", "stamp")

    def __init__(self, stamp: Stamp, names: list[str]) -> None:
        self.stamp = stamp
        self.names = names
        self.sizes: dict[str, int] = {}


_found: dict[str, _Found] = {}
_names = 0
_known: dict[int, bool] = {}


def names_in(folder: str, ask: Callable[[str | int], list[str]]) -> list[str]:
    """What `ask` tells of the names in a folder, or what it told when the folder stood as it does now.

    It is asked with the folder's descriptor, so that names and status are those of one folder, whatever is put in the
    place of its path, or of one above, meanwhile.
    """
    kept = _found.get(folder)
    if kept is not None and kept.stamp == _stamp(folder):
        return kept.names.copy()
    if _clock is None:
        return ask(folder)
    now = _clock()
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ask(folder)  # which raises, or tells that nothing is there
    try:
        stamp = _stamp(fd)
        names = ask(fd)
    finally:
        os.close(fd)
    if stamp is not None and len(names) < MOST_NAMES and _is_settled(stamp, now):
        _keep(folder, _Found(stamp, names.copy()))
    return names


def forget(folder: str) -> None:
    """Look anew at a folder the next time."""
    _found.pop(folder, None)


def _keep(folder: str, found: _Found) -> None:
    global _names
    # Counted without a lock: threads that meet here may count one folder wrongly, which moves the bound by so little.
    _names += 1 + len(found.names)
    if _names > MOST_NAMES:
        _found.clear()
        _names = 1 + len(found.names)
    _found[folder] = found


def sizes_in(folder: str, names: Sequence[str], ask: Callable[[Sequence[str]], Sizes]) -> list[int]:
    """The sizes of files in a folder that are written once, from `ask` where they are not remembered as the names are.

    A file that is written to in its place leaves its folder as it is, so its size must not be asked for here; while one
    is copied to its place, it has changed lately, and is not remembered.
    """
    kept = _found.get(folder)
    if kept is None or _clock is None or kept.stamp != _stamp(folder):
        return ask(names)[0]
    sizes = kept.sizes
    lacking = [name for name in names if name not in sizes]
    if not lacking:
        return [sizes[name] for name in names]
    now = _clock()
    found, stamp, changes = ask(lacking)
    new = dict(zip(lacking, found, strict=True))
    if stamp == kept.stamp:
        sizes.update(compress(new.items(), (changed and now - changed > SETTLED for changed in changes)))
    return [new[name] if name in new else sizes[name] for name in names]


def _stamp(folder: str | int) -> Stamp | None:
    """All of a folder's status that changes with the names in it; None where there is none."""
    try:
        return stamp_of(os.stat(folder))
    except OSError:
        return None


def stamp_of(status: os.stat_result) -> Stamp:
    """The same out of what the system tells."""
    # The second of the times cannot be set by programs, as those do that copy folders with their times.
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink, status.st_size


def _is_settled(stamp: Stamp, now: int) -> bool:
    """Whether whatever changes the folder from `now` on gives it another stamp."""
    device, changed = stamp[0], stamp[3]
    # Times of whole seconds are those of a filesystem that knows no others: a clock set back could meet one again.
    return now - changed > SETTLED and changed % 1_000_000_000 != 0 and _is_known(device)


def _is_known(device: int) -> bool:
    """Whether the filesystem of this device number is one of those whose folders can be relied on."""
    known = _known.get(device)
    if known is None:
        known = _known[device] = os.major(device) != 0 and _type_of(device) in _KNOWN_TYPES
    return known


def _type_of(device: int) -> str | None:
    """The type of the filesystem on a device, as the system's table of mounts has it."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _, behind = line.partition(" - ")
                if before.split()[2] == wanted:
                    return behind.split()[0]
    except (OSError, IndexError):
        return None
    return None
