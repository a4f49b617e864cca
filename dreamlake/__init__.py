"""dreamlake stores the time series of ML experiments and robots as Arrow and Parquet, without a server."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dreamlake import errors
    from dreamlake.decorator import dreamlake_session
    from dreamlake.lake import Lake
    from dreamlake.session import Session

__version__ = "0.1.0"
__all__ = ["Lake", "Session", "__version__", "dreamlake_session", "errors"]

# Each name and the module that defines it: imported at its first use, so that `import dreamlake` costs next to nothing.
_HOMES = {"Session": "session", "dreamlake_session": "decorator", "Lake": "lake", "errors": "errors"}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'dreamlake' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f"dreamlake.{home}")
    value = module if name == home else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
