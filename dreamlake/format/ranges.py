"""Random access to a file's bytes, whatever form they were given in: a buffer, an open file, a function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

_GAP = 1 << 16  # ranges this close are read as one
_WASTE = 2 << 20  # where each is a request, so much more may be read to make them fewer, or twice what is wanted

Many = Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]
"""Reads several ranges [start, stop) of a file at once."""


class Source:
    """The bytes of one file.

    Parameters
    ----------
    source
        Any buffer, a file opened for reading in binary mode, or a function ``(start, stop) -> bytes``.
    size
        Bytes of the file; None for a buffer, and for a file that can tell by seeking to its end.
    many
        How several ranges are asked for at once, where each is a request; None where it is not.
    """

    def __init__(self, source: Any, size: int | None, many: Many | None = None) -> None:
        self._many = many
        self._buffer: pa.Buffer | None = None
        self._read: Callable[[int, int], bytes]
        if callable(source):
            if size is None:
                raise TypeError("a function as source needs the file's size")
            self._read = source
        elif hasattr(source, "read"):
            self._read = _reader(source)
            size = source.seek(0, 2) if size is None else size
        else:
            self._buffer = source if isinstance(source, pa.Buffer) else pa.py_buffer(source)
            size = self._buffer.size
        self.size = int(size or 0)

    @property
    def is_memory(self) -> bool:
        """Whether all bytes are in memory."""
        return self._buffer is not None

    def get(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop); fewer where the file is shorter than its size."""
        if self._buffer is not None:
            return memoryview(self._buffer)[start:stop].tobytes()
        return self._read(start, stop)

    def load(self, spans: Sequence[tuple[int, int]]) -> Ranges | None:
        """These ranges [start, stop) in memory; None when the file is shorter than its size."""
        if self._buffer is not None:
            return Ranges([(0, self._buffer)], self.size)
        pieces = _joined(spans, _GAP)
        if self._many is not None:
            pieces = _joined(pieces, _far_gap(pieces))
        if self._many is None or len(pieces) == 1:
            found: Sequence[bytes] = [self._read(start, stop) for start, stop in pieces]
        else:
            found = self._many(pieces)
        loaded = [(start, pa.py_buffer(data)) for (start, _), data in zip(pieces, found, strict=True)]
        if any(data.size != stop - start for (start, stop), (_, data) in zip(pieces, loaded, strict=True)):
            return None
        return Ranges(loaded, self.size)


def _joined(spans: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """The ranges in order, those no more than `gap` bytes apart as one."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if joined and start - joined[-1][1] <= gap:
            joined[-1] = joined[-1][0], max(joined[-1][1], stop)
        else:
            joined.append((start, stop))
    return joined


def _far_gap(spans: Sequence[tuple[int, int]]) -> int:
    """The widest gap such that all gaps up to it are worth the requests that they save."""
    left = max(_WASTE, 2 * sum(stop - start for start, stop in spans))
    widest = 0
    for gap, count in sorted(Counter(behind[0] - before[1] for before, behind in pairwise(spans)).items()):
        left -= gap * count
        if left < 0:
            break
        widest = gap
    return widest


def _reader(file: Any) -> Callable[[int, int], bytes]:
    def read(start: int, stop: int) -> bytes:
        file.seek(start)
        return bytes(file.read(stop - start))

    return read


class Ranges:
    """Parts of a file in memory, each as (its place in the file, its bytes), in order.

    Parameters
    ----------
    parts
        The parts.
    size
        Bytes of the whole file.
    """

    def __init__(self, parts: list[tuple[int, pa.Buffer]], size: int) -> None:
        self._parts = parts
        self.size = size

    def view(self, start: int, stop: int) -> memoryview:
        """The bytes [start, stop), which lie within one part, without a copy."""
        for place, data in self._parts:
            if place <= start and stop <= place + data.size:
                return memoryview(data).cast("B")[start - place : stop - place]  # Arrow's bytes are signed
        raise ValueError(f"the bytes {start} to {stop} were not read")

    def stream(self) -> Any:
        """The file as something that Arrow reads from; what was not loaded cannot be read."""
        if len(self._parts) == 1 and self._parts[0][1].size == self.size:
            return pa.BufferReader(self._parts[0][1])
        return pa.PythonFile(_Sparse(self), mode="r")


class _Sparse:
    """A file object over ranges."""

    closed = False

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._at = 0

    def read(self, size: int = -1) -> memoryview:
        stop = self._ranges.size if size < 0 else min(self._ranges.size, self._at + size)
        data = self._ranges.view(self._at, stop)
        self._at = stop
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._ranges.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def flush(self) -> None:
        """Nothing is written."""
