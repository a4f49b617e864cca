"""The runs of a lake as one frame: what each says of itself, and its parameters, a column each."""

from __future__ import annotations

from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from dreamlake.engine.forkgate import forks_wait
from dreamlake.engine.process import check_polars, reading_width, side_by_side
from dreamlake.engine.valuecolumn import frame_of, value_column
from dreamlake.errors import CorruptTrackError
from dreamlake.format import layout
from dreamlake.notices import log
from dreamlake.types import SessionInfo

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import polars as pl

    from dreamlake.storage.store import Store
    from dreamlake.view import Errors


class Sessions(list[SessionInfo]):
    """What session.json says of each session: a list, and with the parameters a frame."""

    def __init__(self, infos: Sequence[SessionInfo], store: Store) -> None:
        super().__init__(infos)
        self._store = store

    def _repr_html_(self) -> str:
        """The runs, as a notebook shows them."""
        check_polars()
        from dreamlake.pictures.html import sessions_html

        return sessions_html(self._store.describe(), self)

    @forks_wait
    def to_polars(self, *, errors: Errors = "raise") -> pl.DataFrame:
        """Return a row a session: what it says of itself, then its parameters.

        The first columns are ``_workspace`` and ``_session``, as in `Lake.scan`, ``_status``, ``_createdAt`` and
        ``_updatedAt`` (in UTC, to the microsecond), ``_tags``, ``_description`` and ``_folder``. Each parameter that
        any session has is a column under its dotted name, null where a session has none; one whose name is that of a
        column before it, under ``parameters.<name>``. A parameter that is a number in every session is one in the
        frame; one that is of several types is JSON text.

        Parameters
        ----------
        errors
            ``"raise"``, or ``"skip"`` to log that parameters are damaged and leave these out.

        Raises
        ------
        CorruptTrackError
            The parameters of a session are damaged.
        RuntimeError
            In a forked child process, where Polars would hang.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors is "raise" or "skip", not {errors!r}')
        check_polars()
        import polars as pl

        time = pl.Datetime("us", "UTC")
        own = [
            pl.Series("_workspace", [info["workspace"] for info in self], pl.String),
            pl.Series("_session", [info["name"] for info in self], pl.String),
            pl.Series("_status", [info.get("status") for info in self], pl.String),
            pl.Series("_createdAt", [_time(info.get("createdAt")) for info in self], time),
            pl.Series("_updatedAt", [_time(info.get("updatedAt")) for info in self], time),
            pl.Series("_tags", [info.get("tags") or [] for info in self], pl.List(pl.String)),
            pl.Series("_description", [info.get("description") for info in self], pl.String),
            pl.Series("_folder", [info.get("folder") for info in self], pl.String),
        ]
        runs = [(info["workspace"], info["name"]) for info in self]
        taken = {column.name for column in own}
        return frame_of([*own, *parameter_columns(self._store, runs, taken, None, errors)])


def parameter_columns(
    store: Store, runs: Sequence[tuple[str, str]], taken: Collection[str], wanted: Sequence[str] | None, errors: Errors
) -> list[pl.Series]:
    """The parameters of runs, a column each with a value or null a run.

    Parameters
    ----------
    runs
        Workspace and name of each.
    taken
        Names of other columns; a parameter of such a name is called ``parameters.<name>``, with ``parameters.`` once
        more where that is taken, too.
    wanted
        The parameters; None for all that any run has.
    errors
        ``"raise"``, or ``"skip"`` to log that parameters are damaged and leave these out.

    Raises
    ------
    ValueError
        None of the runs has a parameter that is wanted.
    CorruptTrackError
        The parameters of a run are damaged.
    """
    from dreamlake.engine.hosts import all_parameters
    from dreamlake.engine.runlisting import files_of_runs

    listed = files_of_runs(store, [layout.session_dir(*run) for run in runs])

    def read(run: tuple[str, str]) -> dict[str, Any]:
        folder = layout.session_dir(*run)
        try:
            return all_parameters(store, folder, listed.get(folder))
        except CorruptTrackError as damage:
            if errors == "raise":
                raise
            log().warning("skipped: %s", damage)
            return {}

    parameters = side_by_side(read, runs, reading_width(store))
    names = list(dict.fromkeys(name for each in parameters for name in each))
    if wanted is not None:
        absent = [name for name in wanted if name not in names]
        if absent:
            near = get_close_matches(str(absent[0]), names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(names)) or 'none'}"
            raise ValueError(f"none of the {len(runs)} runs has a parameter {absent[0]!r}: {hint}")
        names = list(dict.fromkeys(wanted))
    used = {*taken, *names}
    columns = []
    for name in names:
        called = name
        while called in taken or (called != name and called in used):
            called = f"parameters.{called}"
        used.add(called)
        columns.append(value_column(called, [each.get(name) for each in parameters]))
    return columns


def _time(iso: object) -> datetime | None:
    try:
        return datetime.fromisoformat(iso) if isinstance(iso, str) else None
    except ValueError:
        return None
