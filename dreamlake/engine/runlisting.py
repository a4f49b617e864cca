"""The files of many small runs, by a few listings of all of them, where one a run would cost more."""

from __future__ import annotations

from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dreamlake.storage.store import Entry, Store

    #: The files of one run, by their paths below its folder.
    Files = Mapping[str, Entry]

#: So few runs are listed one by one, which is one round trip as well.
FEW = 32
#: A page that shows fewer runs than this cost more than a listing of each of them.
DENSE = 24


def files_of_runs(store: Store, folders: Sequence[str]) -> dict[str, Files]:
    """What runs hold, as far as that is cheaper to ask of all than of each; what is not in it is to be asked of each.

    A run is in it only if one page showed all of it: what is said of a run is of one moment.

    Parameters
    ----------
    folders
        The folders of the runs below the root of `store`: workspace and session.

    Raises
    ------
    OSError
        The store does not answer.
    """
    found: dict[str, Files] = {}
    if len(folders) <= FEW or not getattr(store, "at_once", False):
        return found
    tops = {folder.partition("/")[0] for folder in folders}
    top = tops.pop() if len(tops) == 1 else ""
    above = f"{top}/" if top else ""
    wanted = {folder.removeprefix(above) for folder in folders}
    after, more = "", True
    while more:
        entries, more = store.page(top, after)  # type: ignore[attr-defined]
        if any(one.name > other.name for one, other in pairwise(entries)):
            return found  # a server with an order of its own: the rest of a run may be on any page
        runs = _by_run(entries, 1 if top else 2)
        last = next(reversed(runs), "")
        if more:
            runs.pop(last, None)  # the rest of it is on the next page, which begins with it anew
        shown = wanted & runs.keys()
        found |= {above + run: runs[run] for run in shown}
        if more and (len(shown) < DENSE or f"{last}/" <= after):
            return found
        after = f"{last}/"
    return found


def _by_run(entries: Iterable[Entry], depth: int) -> dict[str, dict[str, Entry]]:
    """Entries in their order, by run, which is named by so many components of their paths."""
    runs: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        *run, below = entry.name.split("/", depth)
        if len(run) == depth:  # else a file beside the runs
            runs.setdefault("/".join(run), {})[below] = entry
    return runs


def in_folder(files: Files, folder: str) -> dict[str, int | None]:
    """Of the files of a run those in one folder, by name, with their bytes: its listing."""
    start = len(folder) + 1
    below = {path[start:]: entry for path, entry in files.items() if path.startswith(f"{folder}/")}
    return {name: entry.size for name, entry in below.items() if "/" not in name}
