"""The Parquet columns of a file as its footer describes them, and what their pages promise to become.

A page's header says how large the page gets, and nothing vouches for it: a few bytes can promise gigabytes. These
checks bound what reading a column can take, for a file that anybody may have written, before memory is given to it.
The structs are ``FileMetaData`` and ``PageHeader`` of
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from dreamlake.format import thrift
from dreamlake.format.thrift import BINARY, INT32, INT64, LIST, STRUCT, ThriftError

MAX_DECODED = 2 << 30
"""Bytes that the columns read at once may take in memory."""

VALUE_BYTES = 12
"""Bytes of a value of fixed size, with its place in lists and structs."""

_MAX_PAGES = 1 << 16
_BYTE_ARRAY = 6

# The two page headers that Arrow writes: kind, size, compressed size, checksum; then for a data page (0) the values,
# their encoding, encodings of the levels, statistics; for a dictionary (2) the values and their encoding.
_N = rb"([\x80-\xff]{0,4}[\x00-\x7f])"
_SIZES = rb"\x15" + _N + rb"\x15" + _N + rb"\x15" + _N
_DATA_PAGE = re.compile(rb"\x15\x00" + _SIZES + rb"\x1c\x15" + _N + rb"\x15(.)", re.DOTALL)
_DICTIONARY_PAGE = re.compile(rb"\x15\x04" + _SIZES + rb"\x3c\x15" + _N + rb"\x15[\x00\x04](?:\x11|\x12)?\x00\x00")
# Plain, (plain) dictionary, run lengths, delta, delta lengths, byte stream split. Not delta byte array, where a value
# may repeat all of the one before it.
_ENCODINGS = frozenset({0, 2, 3, 5, 6, 8, 9})
_DICTIONARY_ENCODINGS = frozenset({2, 8})


# A column in a row group as Arrow writes it, before its path and behind that: type, encodings; codec, values, sizes,
# where its data pages begin; least and greatest values of a fixed size; encodings once more; sizes. A column with a
# dictionary is one of text, and goes the long way, as most columns of text do.
_V = rb"[\x80-\xff]{0,8}[\x00-\x7f]"
_S = rb"[\x00-\x7f]"  # a number of one byte
_FIXED = rb"(?:\x08.{8}|\x04.{4}|\x01.|\x10.{16})"
_BOUNDS = rb"(?:\x18F\x18F\x16V\x28F\x18F(?:[\x11\x12]{2})?|\x36V)\x00".replace(b"F", _FIXED)
_PAGES = rb"(?:\x1cE|\x2cEE|\x3cEEE|\x4cEEEE)".replace(b"E", rb"\x15S\x15S\x15V\x00")
_SIZES_OF = rb"\x3c\x29\x06\x19\x26VV\x00"  # where there are no lists
_BEFORE_PATH = re.compile(
    rb"\x26V\x1c\x15([\x00\x02\x04\x06\x08\x0a\x0c\x0e])\x19(?:\x15S|\x25SS|\x35SSS|\x45SSSS)\x19".replace(
        b"S", _S
    ).replace(b"V", _V)
)
_BEHIND_PATH = re.compile(
    (
        rb"\x15S\x16(V)\x16V\x16(V)\x26(V)(?:\x3cB\x19|\x49)".replace(b"B", _BOUNDS)
        + (_PAGES + rb"(?:" + _SIZES_OF + rb")?(\x00\x00)?")
    )
    .replace(b"S", _S)
    .replace(b"V", _V),
    re.DOTALL,
)
# The end of a row group: bytes, rows, where it begins, bytes once more, its number.
_GROUP_END = re.compile(rb"\x16V\x16(V)(?:\x26V)?(?:\x16V)?(?:\x14V)?\x00".replace(b"V", _V))
_LIST_OF_COLUMNS, _ONE_TEXT = 0x19, 0x18  # the first field, a list; a list of one text
_SIZES_FOLLOW = 0x3C  # a struct three fields on

Data: TypeAlias = "bytes | memoryview"


class PageDamage(ValueError):
    """The pages of a column do not add up to what the footer says of it."""


class Chunk(NamedTuple):
    """One column in one row group.

    ``values`` counts its values, nulls included; ``start`` and ``stop`` are the half-open range of its bytes in the
    file; ``data`` is where its first data page begins.
    """

    path: str
    is_text: bool
    values: int
    start: int
    stop: int
    data: int


class RowGroup:
    """A row group: its number of rows, and its columns, each made of what was read when it is first asked for."""

    __slots__ = ("_columns", "rows")

    def __init__(self, rows: int, columns: list[Chunk | _Raw]) -> None:
        self.rows = rows
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns)

    def chunk(self, place: int) -> Chunk:
        """The column at this place. Raises ValueError when what is said of it makes no sense."""
        column = self._columns[place]
        if isinstance(column, _Raw):
            self._columns[place] = column = column.chunk()
        return column

    def texts(self) -> list[bool]:
        """Of each column whether its values are text."""
        return [column.is_text for column in self._columns]


class _Raw(NamedTuple):
    """Of a column the path, in its list, and its numbers as they stand there: values, size, where its pages begin.

    Not the matches, which would hold all of the footer as long as a footer is kept.
    """

    is_text: bool
    path: Data
    numbers: tuple[bytes, ...]

    def chunk(self) -> Chunk:
        values, size, start = [thrift.count(number, 0)[0] for number in self.numbers]
        path = b".".join(thrift.list_of(BINARY, thrift.text)(self.path, 0)[0]).decode()
        return Chunk(path, self.is_text, values, start, start + size, start)


# ------------------------------------------------------------------------------------------------------ footer


def row_groups(footer: bytes) -> tuple[RowGroup, ...]:
    """The row groups that a footer describes.

    Raises
    ------
    ValueError
        It is no footer.
    """
    try:
        found = thrift.fields(footer, 0, _FILE)[0]
    except IndexError:
        raise ThriftError from None
    groups = tuple(found.get(4, ()))
    # Arrow goes by the type in the schema, and does not always mind when a column's own says otherwise.
    texts = [kind == _BYTE_ARRAY for kind in found.get(2, ()) if kind is not None]
    if any(group.texts() != texts for group in groups):
        raise ThriftError
    return groups


def _element(data: Data, at: int) -> tuple[int | None, int]:
    """The type of an element of the schema; None where it has others below it."""
    found, at = thrift.fields(data, at, _ELEMENT)
    return None if found.get(5) else found.get(1), at


def _row_group(data: Data, at: int) -> tuple[RowGroup, int]:
    """A row group: by few looks where it is as Arrow writes it, since a segment has a hundred; else field by field."""
    kind, size = data[at : at + 2]
    if kind == _LIST_OF_COLUMNS and size & 15 == STRUCT:
        columns: list[Chunk | _Raw] = []
        count, place = (size >> 4, at + 2) if size < 0xF0 else thrift.varint(data, at + 2)
        for _ in range(count):
            column, place = _raw(data, place) or _column_chunk(data, place)
            columns.append(column)
        end = _GROUP_END.match(data, place)
        if end is not None:
            return RowGroup(thrift.count(end[1], 0)[0], columns), end.end()
    found, at = thrift.fields(data, at, _ROW_GROUP)
    if found.keys() != _ROW_GROUP.keys():
        raise ThriftError
    return RowGroup(found[3], found[1]), at


def _raw(data: Data, at: int) -> tuple[_Raw, int] | None:
    """A column in a row group; None where it is not as Arrow writes one with no values of several sizes."""
    begin = _BEFORE_PATH.match(data, at)
    if begin is None:
        return None
    path = begin.end()
    if data[path] == _ONE_TEXT and data[path + 1] < 0x80:
        behind = path + 2 + data[path + 1]
    else:
        behind = thrift.list_of(BINARY, thrift.text)(data, path)[1]
    end = _BEHIND_PATH.match(data, behind)
    if end is None:
        return None
    stop = end.end()
    if end[4] is None:  # the sizes of a column with lists
        stop = thrift.skip(data, stop + 1, STRUCT) + 2
        if data[end.end()] != _SIZES_FOLLOW or data[stop - 2 : stop] != b"\0\0":
            return None
    return _Raw(begin[1][0] == 2 * _BYTE_ARRAY, data[path:behind], end.group(1, 2, 3)), stop


def _column_chunk(data: Data, at: int) -> tuple[Chunk, int]:
    found, at = thrift.fields(data, at, _COLUMN_CHUNK)
    if found.keys() != {3}:
        raise ThriftError
    return found[3], at


def _column(data: Data, at: int) -> tuple[Chunk, int]:
    found, at = thrift.fields(data, at, _COLUMN)
    if not {1, 3, 5, 7, 9} <= found.keys():
        raise ThriftError
    pages, dictionary = found[9], found.get(11, 0)
    start = dictionary if 0 < dictionary < pages else pages
    path = b".".join(found[3]).decode()
    return Chunk(path, found[1] == _BYTE_ARRAY, found[5], start, start + found[7], pages), at


def _refuse(data: Data, at: int) -> tuple[None, int]:
    raise ThriftError


# The fields that matter, by their numbers. ColumnMetaData: type, path, number of values, compressed size, where the
# data pages and the dictionary begin.
_COLUMN: Mapping[int, tuple[int, thrift.Reader]] = {
    1: (INT32, thrift.count),
    3: (LIST, thrift.list_of(BINARY, thrift.text)),
    5: (INT64, thrift.count),
    7: (INT64, thrift.count),
    9: (INT64, thrift.count),
    11: (INT64, thrift.count),
}
# ColumnChunk: a file of its own, and encryption, are not dreamlake's.
_COLUMN_CHUNK = {1: (BINARY, _refuse), 3: (STRUCT, _column), 8: (STRUCT, _refuse), 9: (BINARY, _refuse)}
_ROW_GROUP = {1: (LIST, thrift.list_of(STRUCT, _column_chunk)), 3: (INT64, thrift.count)}
_ELEMENT = {1: (INT32, thrift.count), 5: (INT32, thrift.count)}
_FILE = {2: (LIST, thrift.list_of(STRUCT, _element)), 4: (LIST, thrift.list_of(STRUCT, _row_group))}


# ------------------------------------------------------------------------------------------------------- pages


def decoded_bound(data: memoryview, chunk: Chunk) -> tuple[int, int]:
    """At most how many bytes a column becomes: with its text still in a dictionary, and more by its repetition.

    Parameters
    ----------
    data
        The bytes [start, stop) of the column.
    chunk
        What the footer says of it.

    Raises
    ------
    PageDamage
        Its page headers cannot be read, or do not fit what the footer says.
    """
    dictionary = 0
    first = chunk.data - chunk.start
    if first:
        head = _DICTIONARY_PAGE.match(data)
        if head is None or head.end() + _number(head[2]) != first:
            raise PageDamage("the header of its dictionary is unreadable")
        dictionary = _number(head[1])
    total, by_dictionary = _data_pages(data, first, chunk.values)
    repeated = chunk.values * dictionary if by_dictionary and chunk.is_text else 0
    return max(total, chunk.values * VALUE_BYTES) + dictionary, repeated


def _data_pages(data: memoryview, at: int, count: int) -> tuple[int, bool]:
    """The size of the data pages from ``at`` on, and whether one of them uses the dictionary."""
    total, seen, by_dictionary = 0, 0, False
    for _ in range(_MAX_PAGES):
        if seen >= count:
            break
        head = _DATA_PAGE.match(data, at)
        if head is None:
            raise PageDamage("the header of a page is unreadable, or without a checksum")
        size, packed, values, encoding = _number(head[1]), _number(head[2]), _number(head[4]), head[5][0] >> 1
        if encoding not in _ENCODINGS or head[5][0] & 1:
            raise PageDamage(f"a page has the encoding {encoding}, which dreamlake does not use")
        if packed > len(data) - head.end():
            raise PageDamage("a page is longer than its column")
        total += size
        seen += values
        by_dictionary = by_dictionary or encoding in _DICTIONARY_ENCODINGS
        if seen < count:
            at = _after_header(data, at) + packed
    if seen != count:
        raise PageDamage(f"its pages hold {seen} values, not {count}")
    return total, by_dictionary


def _number(zigzag: bytes) -> int:
    try:
        return thrift.count(zigzag, 0)[0]
    except ThriftError:
        raise PageDamage("a page header holds a negative number") from None


def _after_header(data: memoryview, at: int) -> int:
    try:
        return thrift.skip(data, at, STRUCT)
    except (IndexError, ThriftError):
        raise PageDamage("the header of a page is unreadable") from None
