"""The parameters of a session: flat dotted keys in parameters.json."""

from __future__ import annotations

import json
from collections.abc import Mapping

from dreamlake.engine.forkgate import forks_wait
from dreamlake.format.layout import PARAMETERS_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    import polars as pl

    from dreamlake.engine.writer import Writer
    from dreamlake.storage.store import Store


class ParametersView:
    """The parameters of a stored session, read-only."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder

    @forks_wait
    def get(self) -> dict[str, Any]:
        """Return all parameters: flat, dotted keys; empty when none were set.

        Where several machines write the session, key by key the value of the one that set parameters last.

        Raises
        ------
        CorruptTrackError
            A parameters.json is damaged.
        SessionNotFoundError
            The folder of the open session was removed, or is not mounted any more.
        """
        from dreamlake.engine.hosts import all_parameters

        found = all_parameters(self._store, self._folder)
        if not found:
            self._check_there()
        return found

    def _check_there(self) -> None:
        """Called where no parameter is found: in an open session its folder may be gone."""

    @forks_wait
    def to_polars(self) -> pl.DataFrame:
        """Return one row with a column for each parameter; lists of mixed types and the like as JSON text."""
        from dreamlake.engine.valuecolumn import frame_of, value_column

        return frame_of([value_column(key, [value]) for key, value in self.get().items()])


class Parameters(ParametersView):
    """The parameters of an open session."""

    def __init__(
        self, store: Store, folder: str, open_writer: Callable[[], Writer], check_there: Callable[[], None]
    ) -> None:
        super().__init__(store, folder)
        self._open_writer = open_writer
        self._check = check_there

    def _check_there(self) -> None:
        self._check()

    @forks_wait
    def set(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Parameters:
        """Set parameters; nested dicts become dotted keys (``optimizer.lr``), later values win, others stay.

        They are on disk when this returns, also after a power loss, and safe under several processes.

        Parameters
        ----------
        values, more
            A dict of them, or keywords, or both, of which the keywords come later: they are merged with the dict as
            with what was set before.

        Raises
        ------
        TypeError, ValueError
            A value that cannot be stored (see `Track.append`), or a key that is both a value and a prefix of others;
            or all parameters would take more than 64 MiB. Nothing is set then.
        OSError
            The disk failed.
        """
        if values is not None and not isinstance(values, Mapping):
            raise TypeError(
                f"parameters are a dict or keywords, not {type(values).__name__}: set(lr=0.1), set({{...}})"
            )
        from dreamlake.engine.hosts import with_parameters

        flat = with_parameters(_flat(values or {}), _flat(more))
        writer = self._open_writer()
        writer.under_lock(lambda: _merge(writer, flat))
        return self


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is given at once, flat, and of which no key is both a value and a prefix of others."""
    from dreamlake.engine.hosts import wholes_of

    flat = flatten(values)
    for above in sorted(wholes_of(flat, flat)):
        key = next(key for key in flat if key.startswith(above + "."))
        raise ValueError(f"the parameter {above!r} is both a value and a part of {key!r}; give one of them")
    return flat


def _merge(writer: Writer, flat: dict[str, Any]) -> None:
    """Put parameters into the parameters.json of a session's folder on this machine; few and dear, they always last."""
    from dreamlake.engine.hosts import read_parameters, with_parameters
    from dreamlake.engine.runfile import iso_now
    from dreamlake.format.about import check_size
    from dreamlake.format.point import to_json
    from dreamlake.storage.local import atomic_write
    from dreamlake.storage.localstore import LocalStore

    local = LocalStore(writer.folder)
    stored = read_parameters(local, PARAMETERS_FILE)
    now = iso_now()
    content = {
        "version": stored["version"] + 1,
        "data": to_json(with_parameters(stored["data"], flat)),
        "createdAt": stored["createdAt"] or now,
        "updatedAt": now,
    }
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"
    check_size(text, "all parameters of the session together")
    writer.footing.secure(writer.folder)
    atomic_write(local.describe(PARAMETERS_FILE), text, fsync=True)


def flatten(values: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Return nested dicts as one dict with dotted keys; an empty dict stays a value."""
    from dreamlake.format.point import MAX_DEPTH, take_value

    if depth > MAX_DEPTH:
        raise ValueError(f"parameters are nested more than {MAX_DEPTH} deep, or hold themselves")
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise TypeError(f"a parameter's key is a string, not {type(key).__name__}: {key!r}")
        name = prefix + take_value(ascii(key), key)[0]
        if isinstance(value, dict) and value:
            flat.update(flatten(value, name + ".", depth + 1))
        else:
            flat[name] = take_value(name, value)[0]
    return flat
