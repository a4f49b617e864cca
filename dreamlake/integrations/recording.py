"""What the callbacks of training frameworks share: a session that is given or their own, and one point a step."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dreamlake.engine.ending import Ending
from dreamlake.engine.hosts import wholes_of
from dreamlake.engine.lifecycle import ending_of
from dreamlake.format.layout import check_field
from dreamlake.format.point import MAX_DEPTH, MAX_POINT_BYTES, encode_text, take_value
from dreamlake.notices import log
from dreamlake.parameters import flatten
from dreamlake.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Parameters that a warning names, of those that are left out.
NAMED = 9


class Recorder:
    """Where a callback writes to.

    Parameters
    ----------
    name, workspace
        Name a session of the callback's own, which it opens when there is something to write, and closes.
    session
        Or a session of the caller's, who opens and closes it.
    options
        What else `Session` takes, for one of its own.

    Raises
    ------
    ValueError, TypeError
        Neither names nor a session, or both; and as from `Session`.
    """

    def __init__(
        self, name: str | None, workspace: str | None, session: Session | None, options: Mapping[str, Any]
    ) -> None:
        if session is not None and (name is not None or workspace is not None or options):
            raise ValueError("give either session=, which is open, or the name and workspace of one, not both")
        if session is None and (name is None or workspace is None):
            raise ValueError("give the name and the workspace of the session, or session=")
        self._is_own = session is None
        self._options = {"name": name, "workspace": workspace, **options}
        self._session = session or Session(**self._options)
        #: For each track the step of its latest point, and that point's timestamp.
        self._latest: dict[str, tuple[int, float]] = {}
        self._left_out: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """What a process that is spawned needs to write to the session: its own only, since one is open here only."""
        if not self._is_own:
            raise TypeError(
                "a session of the caller's cannot be sent to another process; give the callback name and workspace"
            )
        return {"_options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = dict(state["_options"])
        self.__init__(options.pop("name"), options.pop("workspace"), None, options)  # type: ignore[misc]

    @property
    def name(self) -> str:
        """The name of the session."""
        return self._session.name

    @property
    def workspace(self) -> str:
        """The workspace of the session."""
        return self._session.workspace

    @property
    def session(self) -> Session:
        """The session, open."""
        if self._is_own:
            self._session.open()
        return self._session

    def step(self, track: str, key: str, step: int, values: Mapping[str, Any]) -> None:
        """Append the point of a step; values that come for the step of the latest point are put into that one.

        So that what a framework tells of a step in several calls, of training and of validation, is one row.

        Parameters
        ----------
        track
            The name of the track.
        key
            The field that tells the step: ``"step"`` or ``"epoch"``.
        step
            Which it is.
        values
            The fields. One that cannot be stored is left out, and told once to the library's log: a name that begins
            with an underscore is no reason to end a training. So are the longest, where all are over 1 MB together.
        """
        session = self.session
        into = session.track(track)
        at, ts = self._latest.get(track, (None, 0.0))
        if at != step:
            writer = session.writer
            with writer.lock:
                ts = writer.clock.draw()
            self._latest[track] = step, ts
        fields = {key: step} | {name: value for name, value in values.items() if name != key}
        try:
            into.append(**fields, _ts=ts)
        except Exception:  # a tensor without data raises what it likes; what is not of the fields is raised again
            into.append(**self._storable(fields), _ts=ts)

    def _storable(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the fields that can be stored, and together: where they are too long, the shortest of them."""
        taken: dict[str, Any] = {}
        for name, value in fields.items():
            try:
                check_field(name)
                if name == "_ts":
                    raise ValueError("_ts is the timestamp of a point")
                taken[name] = take_value(name, value)[0]
            except Exception as error:
                self._leave_out(name, error)
        sizes = {name: len(encode_text({name: value}).encode()) for name, value in taken.items()}
        size = 0
        for name in sorted(sizes, key=sizes.__getitem__):
            size += sizes[name]
            if size > MAX_POINT_BYTES:
                self._leave_out(name, ValueError("the point would take more than 1 MB as JSON"))
                del taken[name]
        return taken

    def _leave_out(self, name: str, error: Exception) -> None:
        if name not in self._left_out:
            self._left_out.add(name)
            log().warning("%s is left out of the points of %s: %s", name, self.name, error)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Set parameters of the session; what cannot be stored becomes its text, or is left out, which the log tells.

        Of a key that is both a value and a prefix of others the value is left out.
        """
        flat: dict[str, Any] = {}
        left: dict[str, str] = {}
        _flatten(values, "", (), flat, left)
        clashing = sorted(wholes_of(flat, flat))
        left = dict.fromkeys(clashing, "it is both a value and a prefix of others") | left
        for name in clashing:
            del flat[name]
        if left:
            told = "; ".join(f"{name!r}: {why}" for name, why in list(left.items())[:NAMED])
            more = f"; and {len(left) - NAMED:,} more" if len(left) > NAMED else ""
            log().warning("parameters are left out of those of %s: %s%s", self.name, told, more)
        session = self.session
        try:
            session.parameters().set(flat)
        except (TypeError, ValueError, OSError) as error:
            log().warning("parameters of %s are not set: %s", self.name, error)

    def finish(self, status: str | None = None) -> None:
        """Close a session of the callback's own: with this status, or what the exception tells that is being handled.

        What a replica lacks is told to the log, and what is wrong with the disk is raised.
        """
        if self._is_own and self._session.is_open:
            error = sys.exc_info()[1]
            self._session._close(ending_of(error) if status is None else Ending(status), quiet=True)


def _flatten(
    values: Mapping[Any, Any], prefix: str, above: tuple[int, ...], flat: dict[str, Any], left: dict[str, str]
) -> None:
    """Put what can be stored into `flat` under dotted keys, and why the others cannot into `left`.

    `above` are the dicts and lists that this one is in.
    """
    for key, value in values.items():
        name = prefix + _text(key)
        try:
            if isinstance(value, dict) and value:
                _flatten(value, f"{name}.", _below(value, above), flat, left)
            else:
                flat |= flatten({name: _storable(value, above)})
        except (TypeError, ValueError) as error:
            left[name] = str(error)


def _storable(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, dict):
        below = _below(value, above)
        return {_text(name): _storable(inner, below) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        below = _below(value, above)
        return [_storable(inner, below) for inner in value]
    try:
        return take_value("a parameter", value)[0]
    except Exception:  # a tensor without data raises what it likes
        return _text(value)


def _below(value: Any, above: tuple[int, ...]) -> tuple[int, ...]:
    """What is above the items of a dict or list. Raises ValueError where that would have no end."""
    if id(value) in above:
        raise ValueError("it holds itself")
    if len(above) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return *above, id(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # of a stranger's class, and no reason to end a training
        return object.__repr__(value)
