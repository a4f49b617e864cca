"""Thrift's compact protocol, as much as is needed to look into Parquet's footers and page headers.

Arrow reads these too, and reads them faster; but it is not safe to ask it about a column that a stranger has described
(PyArrow 26 ends the process on a footer whose statistics are malformed), nor does it tell what a page promises. See
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

INT32, INT64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
_TRUE, _FALSE, _BYTE, _INT16, _DOUBLE, _SET = 1, 2, 3, 4, 7, 10
_MAX_DEPTH = 8


class ThriftError(ValueError):
    """The bytes are not of the compact protocol, or hold what no footer of Parquet's does."""

    def __init__(self) -> None:
        super().__init__("it is no Parquet metadata")


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The unsigned number at ``at``, and where it ends."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
    raise ThriftError


def count(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The zigzag number at ``at``, which must not be negative, and where it ends."""
    value = data[at]
    at += 1
    if value >= 0x80:
        value, at = varint(data, at - 1)
    if value & 1:
        raise ThriftError
    return value >> 1, at


def text(data: bytes | memoryview, at: int) -> tuple[bytes, int]:
    """The string at ``at``, and where it ends."""
    length, at = varint(data, at)
    if length > len(data) - at:
        raise ThriftError
    return bytes(data[at : at + length]), at + length


Reader: TypeAlias = "Callable[[bytes | memoryview, int], tuple[Any, int]]"


def fields(data: bytes | memoryview, at: int, readers: Mapping[int, tuple[int, Reader]]) -> tuple[dict[int, Any], int]:
    """Some fields of the struct at ``at``, and where it ends.

    Parameters
    ----------
    readers
        For each field wanted its kind, and the function that reads it and tells where it ends. All others are skipped.
    """
    found: dict[int, Any] = {}
    field = 0
    while head := data[at]:
        at += 1
        kind = head & 0x0F
        if head >= 0x10:
            field += head >> 4
        else:
            field, at = count(data, at)
        reader = readers.get(field)
        if reader is not None:
            if reader[0] != kind or field in found:
                raise ThriftError
            found[field], at = reader[1](data, at)
        else:
            at = skip(data, at, kind)
    return found, at + 1


def list_of(kind: int, reader: Reader) -> Reader:
    """A reader of lists whose items are of one kind."""

    def read(data: bytes | memoryview, at: int) -> tuple[list[Any], int]:
        found_kind, length, at = _list_head(data, at)
        if found_kind != kind:
            raise ThriftError
        found = []
        for _ in range(length):
            item, at = reader(data, at)
            found.append(item)
        return found, at

    return read


def skip(data: bytes | memoryview, at: int, kind: int, depth: int = 0) -> int:
    """Where the value at ``at`` ends."""
    if kind in (INT32, INT64, _INT16):
        while data[at] >= 0x80:
            at += 1
        return at + 1
    if kind == BINARY:
        length, at = varint(data, at)
        return at + length
    if kind == STRUCT:
        return _skip_struct(data, at, depth + 1)
    if kind in (LIST, _SET):
        return _skip_list(data, at, depth + 1)
    if kind in (_TRUE, _FALSE):
        return at
    if kind in (_BYTE, _DOUBLE):
        return at + (1 if kind == _BYTE else 8)
    raise ThriftError


def _skip_struct(data: bytes | memoryview, at: int, depth: int) -> int:
    if depth > _MAX_DEPTH:
        raise ThriftError
    while head := data[at]:
        at += 1
        kind = head & 0x0F
        if head < 0x10:
            at = varint(data, at)[1]
        if kind in (INT32, INT64):  # the most of all fields: without a call
            while data[at] >= 0x80:
                at += 1
            at += 1
        elif kind == BINARY and data[at] < 0x80:
            at += 1 + data[at]
        elif kind not in (_TRUE, _FALSE):
            at = skip(data, at, kind, depth)
    return at + 1


def _skip_list(data: bytes | memoryview, at: int, depth: int) -> int:
    kind, length, at = _list_head(data, at)
    if kind == STRUCT:
        for _ in range(length):
            at = _skip_struct(data, at, depth + 1)
        return at
    if kind in (INT32, INT64):
        for _ in range(length):
            while data[at] >= 0x80:
                at += 1
            at += 1
        return at
    if kind in (_TRUE, _FALSE, _BYTE):
        return at + length
    for _ in range(length):
        at = skip(data, at, kind, depth)
    return at


def _list_head(data: bytes | memoryview, at: int) -> tuple[int, int, int]:
    """The kind of a list's items, their number, and where they begin."""
    head = data[at]
    length, at = (head >> 4, at + 1) if head < 0xF0 else varint(data, at + 1)
    if length > len(data) - at:  # an item takes a byte or more
        raise ThriftError
    return head & 0x0F, length, at
