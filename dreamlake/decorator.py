"""`dreamlake_session`: a function that runs inside a session of its own."""

from __future__ import annotations

from dreamlake.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])

#: Flags of the code of generators, coroutines and asynchronous generators.
RUNS_LATER = 0x20 | 0x80 | 0x200


def dreamlake_session(name: str, workspace: str, **options: Any) -> Callable[[Function], Function]:
    """Wrap a function so that it runs inside a session, which it gets as its keyword argument ``session``.

    Parameters are those of `Session`. Each call opens the session and closes it, also when the function raises.

    Raises
    ------
    TypeError
        A generator or an ``async`` function: the session would be closed before its body runs.
    """

    def wrap(function: Function) -> Function:
        import functools

        if getattr(getattr(function, "__code__", None), "co_flags", 0) & RUNS_LATER:
            raise TypeError(
                f"{function.__name__}() runs after the call returned; open a session inside: with Session(…)"
            )

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with Session(name, workspace, **options) as session:
                return function(*args, session=session, **kwargs)

        return inside  # type: ignore[return-value]

    return wrap
