"""Bytes in and out: one contract, one filesystem a module, and the choice of one by its URL."""

from __future__ import annotations

import os
import re

from dreamlake.errors import CorruptTrackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dreamlake.storage.store import Store

#: Bytes up to which a file is read without a look at its length.
LARGE = 64 << 20

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(url: str | os.PathLike[str]) -> str | None:
    """The scheme of a URL in lower case; None for a path on this machine."""
    found = _SCHEME.match(os.fspath(url))
    return found[1].lower() if found else None


def get_whole(store: Store, path: str, most: int) -> bytes:
    """All bytes of a file, which must not be more than `most`. Raises FileNotFoundError, CorruptTrackError."""
    first = min(most, LARGE)
    data = store.get(path, 0, first + 1)
    if len(data) > first:
        fits = store.size(path) <= most
        data = store.get(path, 0, most + 1) if fits else b""
        if not fits or len(data) > most:
            raise CorruptTrackError(store.describe(path), "its end", detail=f"it is over {most} bytes long")
    return data


def open_store(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store over the files at `url`.

    Parameters
    ----------
    url
        A folder on this machine, as a path or a ``file://`` URL; or any other URL that fsspec knows.
    storage_options
        Options for the filesystem of a URL; a local folder takes none.

    Raises
    ------
    TypeError
        `url` is neither text nor a path.
    ValueError
        `url` is of a kind that cannot be read, or its filesystem does not take these options.
    ImportError
        The package that reads such URLs is not installed.
    """
    from dreamlake.storage.localstore import LocalStore

    scheme = scheme_of(url)
    if scheme is None:
        if "::" in os.fspath(url) and "://" in os.fspath(url):
            raise ValueError("chained URLs (with ::) cannot be read: what they cache goes stale")
        return LocalStore(url)
    if scheme == "file":
        from urllib.parse import urlsplit
        from urllib.request import url2pathname

        parts = urlsplit(os.fspath(url))
        if parts.netloc not in ("", "localhost"):
            raise ValueError("a file:// URL names a folder of this machine, as in file:///home/me/lake")
        return LocalStore(url2pathname(parts.path))
    from dreamlake.storage.remote import RemoteStore

    return RemoteStore(os.fspath(url), storage_options)
