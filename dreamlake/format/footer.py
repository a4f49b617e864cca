"""The footer of a segment: what it tells is believed once its checksum was verified, and kept for the next opening.

``dreamlake.footer_crc32`` in its key-value metadata is the CRC-32, 8 lower-case hex digits, of everything from the
first byte of the footer to the end of the file, computed with these digits as ``00000000``. Parquet itself leaves the
footer unprotected.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dreamlake.format import pages
from dreamlake.format.damage import SegmentDamage, damage_at
from dreamlake.format.logical import TrackSchema, leaf_count, to_arrow
from dreamlake.format.ranges import Source
from dreamlake.format.schema import NONE, NONE_FIELD, TS, TS_FIELD
from dreamlake.format.segmentinfo import SegmentInfo, from_key_values

INDEX = "_index"
INDEX_FIELD = pa.field(INDEX, pa.int64(), nullable=False)
MAX_ROWS = 1 << 24
"""Most points of one segment."""

MAX_FOOTER_BYTES = 128 << 20
"""Longest footer; what it tells of a million segments before it takes half of that."""

_MAGIC = b"PAR1"
CRC_KEY = b"dreamlake.footer_crc32"
CRC_BLANK = b"00000000"
#: The key and the head of its value as thrift's compact protocol writes them: two strings, of 22 and 8 bytes.
CRC_MARK = b"\x18" + bytes([len(CRC_KEY)]) + CRC_KEY + b"\x18\x08"
_TAIL = 1 << 16  # bytes read at once where a footer is expected
_FEW_GROUPS = 4  # row groups that are taken apart at once; those of the usual segment

_KNOWN_OPTIONS = inspect.signature(pq.ParquetFile.__init__).parameters
#: How Arrow reads a segment, whose bytes may be anybody's.
READ_OPTIONS: dict[str, Any] = {
    name: value
    for name, value in {
        "page_checksum_verification": True,
        "pre_buffer": False,  # the bytes are in memory already
        "thrift_string_size_limit": 1 << 26,
        "thrift_container_size_limit": 1 << 20,
        "schema_depth_limit": 64,  # newer versions of PyArrow only
    }.items()
    if name in _KNOWN_OPTIONS
}


# ------------------------------------------------------------------------------------------------------- write


def signed(data: pa.Buffer) -> memoryview:
    """The file with its footer's checksum in place."""
    file = memoryview(bytearray(data))
    start = len(file) - 8 - int.from_bytes(file[-8:-4], "little")
    tail = bytes(file[start:])
    at = tail.rindex(CRC_MARK) + len(CRC_MARK)  # the last one: user text (statistics, names) comes before it
    file[start + at : start + at + 8] = b"%08x" % zlib.crc32(tail)
    return file


# -------------------------------------------------------------------------------------------------------- read


@dataclass(frozen=True)
class Footer:
    """A footer that was verified; to be kept, and given to ``open_segment`` when the same file is read again.

    Parameters
    ----------
    info
        What it says.
    metadata
        Parquet's own form of it.
    schema
        The columns as Arrow has them.
    columns
        For each column its places among the Parquet columns: the first, and one past the last.
    row_groups
        What there is of its row groups; `groups` has them.
    file_size, length
        Bytes of the file, and of its end from the footer on.
    checksum
        CRC-32 of these.
    """

    info: SegmentInfo
    metadata: pq.FileMetaData
    schema: pa.Schema
    columns: dict[str, tuple[int, int]]
    row_groups: _RowGroups
    file_size: int
    length: int
    checksum: int

    @property
    def groups(self) -> tuple[pages.RowGroup, ...]:
        """The row groups. Raises SegmentDamage where they are not those of a segment of dreamlake's."""
        return self.row_groups.found()

    def group_bounds(self) -> list[tuple[int, float, float]]:
        """For each row group its rows, and the lowest and highest ``_ts``; infinite where its statistics lack them.

        Raises SegmentDamage as `groups`.
        """
        place = self.columns[TS][0]
        found = []
        for number, group in enumerate(self.groups):
            said = self.metadata.row_group(number).column(place).statistics
            low, high = (said.min, said.max) if said is not None and said.has_min_max else (-inf, inf)
            found.append((group.rows, low, high))
        return found

    def decoded_size(self) -> int:
        """About how many bytes its points take in memory: text that repeats takes more. Raises as `groups`."""
        total = 0
        for number, group in enumerate(self.groups):
            said = self.metadata.row_group(number)
            for column in range(len(group)):
                chunk = group.chunk(column)
                text = said.column(column).total_uncompressed_size if chunk.is_text else 0
                total += chunk.values * pages.VALUE_BYTES + text
        return total


class _RowGroups:
    """The row groups of a footer, taken apart when they are first asked for: a wide segment has a hundred.

    Parameters
    ----------
    tail
        The bytes from the footer to the end of the file, whose checksum was verified.
    number, rows
        How many there are, of how many rows together.
    """

    __slots__ = ("_found", "_number", "_rows", "_tail")

    def __init__(self, tail: bytes, number: int, rows: int) -> None:
        self._tail = tail
        self._number = number
        self._rows = rows
        self._found: tuple[pages.RowGroup, ...] | None = None

    def found(self) -> tuple[pages.RowGroup, ...]:
        # No lock: threads that come here at once find the same. The bytes first, which go once the groups are there.
        tail = self._tail
        if self._found is not None:
            return self._found
        with damage_at("footer"):
            groups = pages.row_groups(tail[:-8])  # each with the columns of the schema, or it raises
        if len(groups) != self._number or sum(group.rows for group in groups) != self._rows:
            raise SegmentDamage("footer", "its row groups do not add up")
        self._found = groups
        self._tail = b""
        return groups


def open_footer(source: Source, kept: Footer | None) -> Footer:
    """The footer of the segment with these bytes: the one that was `kept`, where it is still that of this file.

    Raises
    ------
    SegmentDamage
        The bytes are not what dreamlake wrote.
    """
    tail = _read_tail(source, kept)
    checksum = zlib.crc32(tail)
    if kept is not None and kept.file_size == source.size and kept.checksum == checksum:
        return kept
    _verify_checksum(tail)
    return _parse(tail, source.size, checksum)


def _read_tail(source: Source, footer: Footer | None) -> bytes:
    """The bytes from the footer to the end of the file."""
    size = source.size
    if size < 12:
        raise SegmentDamage("footer", f"{size} bytes are no Parquet file" if size else "the file is empty")
    guess = 8 if source.is_memory else _TAIL if footer is None else footer.length
    start = max(0, size - guess)
    tail = source.get(start, size)
    if tail[-4:] != _MAGIC:
        raise SegmentDamage("footer", "the file does not end as a Parquet file does: cut off, or not one")
    length = int.from_bytes(tail[-8:-4], "little")
    if length > min(size - 12, MAX_FOOTER_BYTES):
        raise SegmentDamage("footer", f"it claims {length} bytes in a file of {size}")
    begin = size - 8 - length
    tail = source.get(begin, size) if begin < start else tail[begin - start :]
    if len(tail) != length + 8:
        raise SegmentDamage("footer", "the file is shorter than its size says")
    return tail


def _verify_checksum(tail: bytes) -> None:
    at = tail.rfind(CRC_MARK)
    if at < 0:
        raise SegmentDamage("footer", "there is no checksum of dreamlake's in it: another program's file, or damaged")
    at += len(CRC_MARK)
    if b"%08x" % zlib.crc32(tail[:at] + CRC_BLANK + tail[at + 8 :]) != tail[at : at + 8]:
        raise SegmentDamage("footer", "its checksum does not match")


def _parse(tail: bytes, file_size: int, checksum: int) -> Footer:
    """Read a footer that is as it was written, which does not yet mean that dreamlake wrote it."""
    with damage_at("footer"):
        metadata = pq.ParquetFile(pa.BufferReader(tail), **READ_OPTIONS).metadata
        found = metadata.schema.to_arrow_schema()
        info = from_key_values(metadata.metadata or {})
    rows = info.rows
    if not 0 <= info.start < info.stop or not 0 <= rows <= MAX_ROWS or metadata.num_rows != rows:
        raise SegmentDamage("footer", f"{metadata.num_rows} rows in the range {info.start} to {info.stop} (exclusive)")
    has_none = found.names[-1:] == [NONE]
    if not found.equals(arrow_schema(info.schema, has_none)):
        raise SegmentDamage("footer", "the columns are not those of its schema")
    columns, place = {}, 0
    for name, width in _widths(info.schema, has_none):
        columns[name] = (place, place + width)
        place += width
    if metadata.num_columns != place:
        raise SegmentDamage("footer", "the columns are not those of its schema")
    groups = _RowGroups(tail, metadata.num_row_groups, rows)
    if metadata.num_row_groups <= _FEW_GROUPS:
        groups.found()
    return Footer(info, metadata, found, columns, groups, file_size, len(tail), checksum)


def arrow_schema(schema: TrackSchema, has_none: bool) -> pa.Schema:
    fields = [pa.field(name, to_arrow(logical)) for name, logical in schema.items()]
    return pa.schema([INDEX_FIELD, TS_FIELD, *fields, *([NONE_FIELD] if has_none else [])])


def _widths(schema: TrackSchema, has_none: bool) -> Iterator[tuple[str, int]]:
    yield INDEX, 1
    yield TS, 1
    for name, logical in schema.items():
        yield name, leaf_count(logical)
    if has_none:
        yield NONE, 1
