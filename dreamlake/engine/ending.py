"""How a run ends, by what ended it: the status in session.json, and for a failure a record in its log that says why."""

from typing import Any, NamedTuple

from dreamlake.engine.runfile import iso_now

#: Characters that the log keeps of a traceback: its end, which says most.
MOST_TRACEBACK = 16_000
#: Characters of an exception's own text.
MOST_MESSAGE = 2_000


class Ending(NamedTuple):
    """How a run ends.

    Parameters
    ----------
    status
        finished, failed or interrupted.
    why
        The record for the log of a run that failed; None where there is nothing to say.
    """

    status: str
    why: dict[str, Any] | None = None

    @classmethod
    def by(cls, error: BaseException | None, terminated: bool) -> "Ending":
        """Return how a run ends that this exception leaves, or none; `terminated`: its SystemExit is a SIGTERM."""
        if error is None or isinstance(error, GeneratorExit):
            return cls("finished")
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and terminated):
            return cls("interrupted")
        if isinstance(error, SystemExit):
            return cls.by_exit(error.code) if error.code else cls("finished")
        import traceback

        name = type(error).__name__
        try:
            said = "".join(traceback.format_exception_only(error)).strip()
            trace = "".join(traceback.format_exception(error))
        except Exception:  # a strange exception, which must not be hidden by another
            said, trace = name, ""
        return cls("failed", _record(said, exception=_storable(name), traceback=_storable(trace)[-MOST_TRACEBACK:]))

    @classmethod
    def by_exit(cls, code: Any) -> "Ending":
        """Return how a run ends whose program exits with this, which is not 0: a status, or what it says."""
        try:
            said = f"the program exited with status {code}" if isinstance(code, int) else f"the program exited: {code}"
        except Exception:  # it has no text, and the points are still to be written
            said = f"the program exited with a {type(code).__name__}"
        return cls("failed", _record(said, exception="SystemExit"))


def _record(said: str, **metadata: str) -> dict[str, Any]:
    message = f"the run failed: {_storable(said)[:MOST_MESSAGE]}"
    return {"timestamp": iso_now(), "level": "error", "message": message, "metadata": metadata}


def _storable(text: str) -> str:
    """The text without lone surrogates, as file names that are no UTF-8 bring them."""
    return text.encode(errors="backslashreplace").decode()
