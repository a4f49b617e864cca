"""A segment: the points of one index range as Parquet bytes with their metadata, and back. No I/O of its own.

Layout of the file: columns ``_index`` (int64), ``_ts`` (double), the fields, and ``_none`` where a field was set to
None; zstd, delta encoding for integers and timestamps, byte-stream-split for doubles, a dictionary for strings, a
checksum in every page. The key-value metadata of the footer holds

``dreamlake.segment``
    JSON: format version, track, index range, generation, bounds of ``_ts``, whether it rises, schema.
``dreamlake.track``
    JSON: the schema of the whole track up to and with this segment (null when equal to this segment's) and, for every
    live segment before it, ``[start, stop, generation, tsMin, tsMax, tsRising]``.
``dreamlake.footer_crc32``
    CRC-32, 8 lower-case hex digits, of everything from the first byte of the footer to the end of the file, computed
    with these digits as ``00000000``. Parquet itself leaves the footer unprotected.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dreamlake.format.logical import TrackSchema, check, identical, leaf_count, leaves, to_arrow
from dreamlake.format.schema import NONE, NONE_FIELD, TS, TS_FIELD, Batch

INDEX = "_index"
VERSION = 1

MAX_ROWS = 1 << 24  # points of one segment
ROW_GROUP = 100_000  # points of one row group, so that a short range of a wide segment needs a part of it only

_MAGIC = b"PAR1"
_INDEX_FIELD = pa.field(INDEX, pa.int64(), nullable=False)
_SEGMENT_KEY = b"dreamlake.segment"
_TRACK_KEY = b"dreamlake.track"
_CRC_KEY = b"dreamlake.footer_crc32"
_CRC_BLANK = b"00000000"
# The key and the head of its value as thrift's compact protocol writes them: two strings, of 22 and 8 bytes.
_CRC_MARK = b"\x18" + bytes([len(_CRC_KEY)]) + _CRC_KEY + b"\x18\x08"


class SegmentDamage(ValueError):
    """The bytes of a segment are not what dreamlake wrote.

    Parameters
    ----------
    place
        Where: ``"footer"``, ``"column 'loss'"`` …
    detail
        What is wrong there.
    """

    def __init__(self, place: str, detail: str) -> None:
        self.place = place
        self.detail = detail
        super().__init__(f"{place}: {detail}")

    def __reduce__(self) -> tuple[type[SegmentDamage], tuple[str, str]]:
        return type(self), (self.place, self.detail)


class SegmentBounds(NamedTuple):
    """What a later segment's footer remembers of an earlier one.

    ``start`` and ``stop`` are the half-open index range, ``ts_min`` and ``ts_max`` inclusive seconds; ``ts_rising``
    says whether ``_ts`` rises strictly within it.
    """

    start: int
    stop: int
    generation: int
    ts_min: float
    ts_max: float
    ts_rising: bool


@dataclass(frozen=True)
class SegmentInfo:
    """What a segment's footer says.

    Parameters
    ----------
    track
        The track's name.
    start, stop, generation
        The half-open index range and its generation, as in the file's name.
    ts_min, ts_max
        The least and the greatest ``_ts``, both inclusive, in seconds since the epoch.
    ts_rising
        Whether ``_ts`` rises strictly from row to row.
    schema
        The fields of this segment in its column order.
    track_schema
        The fields of all live segments up to and with this one.
    before
        The bounds of the live segments before it, in order.
    version
        The format version.
    """

    track: str
    start: int
    stop: int
    generation: int
    ts_min: float
    ts_max: float
    ts_rising: bool
    schema: TrackSchema
    track_schema: TrackSchema
    before: tuple[SegmentBounds, ...] = ()
    version: int = VERSION

    @property
    def bounds(self) -> SegmentBounds:
        """What the footers of later segments remember of this one."""
        return SegmentBounds(self.start, self.stop, self.generation, self.ts_min, self.ts_max, self.ts_rising)


class _SegmentWire(msgspec.Struct, rename="camel"):
    """``dreamlake.segment`` as JSON."""

    version: int
    track: str
    start: int
    stop: int
    generation: int
    ts_min: float
    ts_max: float
    ts_rising: bool
    schema: dict[str, Any]


class _TrackWire(msgspec.Struct):
    """``dreamlake.track`` as JSON."""

    schema: dict[str, Any] | None
    before: list[SegmentBounds]


_segment_decoder = msgspec.json.Decoder(_SegmentWire)
_track_decoder = msgspec.json.Decoder(_TrackWire)


# ------------------------------------------------------------------------------------------------------ encode


def encode(batch: Batch, info: SegmentInfo) -> memoryview:
    """The bytes of the segment file.

    Raises
    ------
    ValueError
        ``info`` does not fit the batch (its length, its schema), or the batch is empty.
    """
    data = batch.data
    if not 0 < data.num_rows <= MAX_ROWS or info.stop - info.start != data.num_rows or info.start < 0:
        raise ValueError(f"{data.num_rows} points do not make the segment [{info.start}, {info.stop})")
    if not identical(info.schema, batch.schema):
        raise ValueError("the info's schema is not the batch's")
    index = pa.arange(info.start, info.stop)
    table = pa.Table.from_arrays([index, *data.columns], schema=pa.schema([_INDEX_FIELD, *data.schema]))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **_options(info.schema)) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata(_key_values(info))
    return _sign(sink.getvalue())


def _options(schema: TrackSchema) -> dict[str, Any]:
    """How each Parquet column is written."""
    encodings = {INDEX: "DELTA_BINARY_PACKED", TS: "BYTE_STREAM_SPLIT"}
    dictionaries = [f"{NONE}.list.element"]
    described = False
    for name, logical in schema.items():
        for path, leaf in leaves(name, logical):
            if leaf == "double":
                encodings[path] = "BYTE_STREAM_SPLIT"
            elif leaf in ("int", "int64") or leaf.startswith("timestamp"):
                encodings[path] = "DELTA_BINARY_PACKED"
            elif leaf in ("string", "json"):
                dictionaries.append(path)
            described = described or leaf in ("json", "null")
    return {
        "compression": "zstd",
        "use_dictionary": dictionaries,
        "column_encoding": encodings,
        "write_page_checksum": True,
        "store_schema": described,  # Polars knows JSON text and a column without a type only from Arrow's own schema
    }


def _key_values(info: SegmentInfo) -> dict[str, str]:
    segment = _SegmentWire(
        info.version,
        info.track,
        info.start,
        info.stop,
        info.generation,
        info.ts_min,
        info.ts_max,
        info.ts_rising,
        info.schema,
    )
    same = identical(info.track_schema, info.schema)
    track = _TrackWire(None if same else info.track_schema, list(info.before))
    return {
        _SEGMENT_KEY.decode(): msgspec.json.encode(segment).decode(),
        _TRACK_KEY.decode(): msgspec.json.encode(track).decode(),
        _CRC_KEY.decode(): _CRC_BLANK.decode(),
    }


def _sign(data: pa.Buffer) -> memoryview:
    """Put the footer's checksum in place."""
    signed = memoryview(bytearray(data))
    start = len(signed) - 8 - int.from_bytes(signed[-8:-4], "little")
    tail = bytes(signed[start:])
    at = tail.rindex(_CRC_MARK) + len(_CRC_MARK)  # the last one: user text (statistics, names) comes before it
    signed[start + at : start + at + 8] = b"%08x" % zlib.crc32(tail)
    return signed


# -------------------------------------------------------------------------------------------------------- open


@dataclass(frozen=True)
class Footer:
    """A footer that was verified; to be kept, and given to ``open_segment`` when the same file is read again."""

    info: SegmentInfo
    metadata: pq.FileMetaData
    columns: tuple[str, ...]
    file_size: int
    checksum: int


class Segment:
    """An opened segment; made by ``open_segment``."""

    def __init__(self, source: _Source, footer: Footer) -> None:
        self._source = source
        self.footer = footer

    @property
    def info(self) -> SegmentInfo:
        """What the footer says."""
        return self.footer.info

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows, every page's checksum verified.

        Parameters
        ----------
        columns
            Names out of ``_index``, ``_ts``, the fields and ``_none``, in the order wanted; None: all there are.
            A name that the segment does not have is left out.

        Raises
        ------
        SegmentDamage
            The bytes are not what was written.
        """
        stored = self.footer.columns
        names = stored if columns is None else [name for name in columns if name in stored]
        start, stop = self.info.start, self.info.stop
        try:
            file = _parquet_file(self._source.stream(), self.footer.metadata)
            table = file.read(columns=None if columns is None else names, use_threads=False)
        except MemoryError:
            raise
        except Exception as error:
            raise SegmentDamage(_which(names), _said(error)) from error
        if table.num_rows != stop - start:
            raise SegmentDamage(_which(names), f"it holds {table.num_rows} rows, not {stop - start}")
        if columns is not None:
            table = table.select(names)
        if INDEX in names and not table.column(INDEX).combine_chunks().equals(pa.arange(start, stop)):
            raise SegmentDamage(f"column {INDEX!r}", f"it does not count from {start} to {stop} (exclusive)")
        return table


def open_segment(source: Any, size: int | None = None, footer: Footer | None = None) -> Segment:
    """Open a segment, its footer's checksum verified before anything in it is believed.

    Parameters
    ----------
    source
        The whole file's bytes (any buffer), or a file opened for reading in binary mode, or a function
        ``(start, stop) -> bytes``.
    size
        The file's size in bytes; needed for a function.
    footer
        The footer of an earlier opening of the same file: it need not be parsed again.

    Raises
    ------
    SegmentDamage
        The bytes are not what dreamlake wrote.
    """
    opened = _Source(source, size)
    tail = _tail(opened)
    checksum = zlib.crc32(tail)
    if footer is None or footer.file_size != opened.size or footer.checksum != checksum:
        _verify(tail)
        footer = _parse(tail, opened.size, checksum)
    return Segment(opened, footer)


def _parse(tail: bytes, file_size: int, checksum: int) -> Footer:
    """Read a footer that is as it was written, which does not yet mean that dreamlake wrote it."""
    try:
        metadata = pq.ParquetFile(pa.BufferReader(tail), **_LIMITS).metadata
        found = metadata.schema.to_arrow_schema()
        values = metadata.metadata or {}
        info = _info(_segment_decoder.decode(values[_SEGMENT_KEY]), _track_decoder.decode(values[_TRACK_KEY]))
    except MemoryError:
        raise
    except KeyError as error:
        raise SegmentDamage("footer", f"there is no {error} in it") from None
    except Exception as error:  # Arrow and msgspec raise errors of many kinds on bytes that somebody made up
        raise SegmentDamage("footer", _said(error)) from error
    _check_shape(info, metadata, found)
    return Footer(info, metadata, tuple(found.names), file_size, checksum)


def _info(segment: _SegmentWire, track: _TrackWire) -> SegmentInfo:
    if segment.version != VERSION:
        raise ValueError(f"format version {segment.version}; this dreamlake reads version {VERSION}")
    schema = check(segment.schema)
    return SegmentInfo(
        segment.track,
        segment.start,
        segment.stop,
        segment.generation,
        segment.ts_min,
        segment.ts_max,
        segment.ts_rising,
        schema,
        schema if track.schema is None else check(track.schema),
        tuple(track.before),
        segment.version,
    )


_LIMITS: dict[str, Any] = {
    "thrift_string_size_limit": 1 << 26,
    "thrift_container_size_limit": 1 << 20,
    "schema_depth_limit": 64,
    "page_checksum_verification": True,
    "pre_buffer": False,
}


def _parquet_file(stream: Any, metadata: pq.FileMetaData) -> pq.ParquetFile:
    return pq.ParquetFile(stream, metadata=metadata, **_LIMITS)


class _Source:
    """Random access to a file's bytes, whatever form they were given in."""

    def __init__(self, source: Any, size: int | None) -> None:
        self._file = None
        self._read: Callable[[int, int], bytes] | None = None
        if callable(source):
            if size is None:
                raise TypeError("a function as source needs the file's size")
            self._read = source
        elif hasattr(source, "read"):
            self._file = source
            size = source.seek(0, 2) if size is None else size
        else:
            self._buffer = source if isinstance(source, pa.Buffer) else pa.py_buffer(source)
            size = self._buffer.size
        self.size: int = int(size or 0)

    def get(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop)."""
        if self._read is not None:
            return self._read(start, stop)
        if self._file is not None:
            self._file.seek(start)
            return bytes(self._file.read(stop - start))
        return bytes(self._buffer.slice(start, stop - start))

    def stream(self) -> Any:
        """Something that Parquet reads from."""
        if self._file is not None:
            return self._file
        if self._read is not None:
            return pa.BufferReader(self._read(0, self.size))
        return pa.BufferReader(self._buffer)


def _tail(source: _Source) -> bytes:
    """The bytes from the footer to the end of the file."""
    size = source.size
    if size == 0:
        raise SegmentDamage("footer", "the file is empty")
    if size < 12:
        raise SegmentDamage("footer", f"{size} bytes are no Parquet file")
    start = max(0, size - (1 << 16))
    tail = source.get(start, size)
    if len(tail) != size - start:
        raise SegmentDamage("footer", "the file is shorter than its size says")
    if tail[-4:] != _MAGIC:
        raise SegmentDamage("footer", "it does not end as a Parquet file does: cut off, or not one")
    length = int.from_bytes(tail[-8:-4], "little")
    if length > size - 12:
        raise SegmentDamage("footer", f"it claims {length} bytes in a file of {size}")
    begin = size - 8 - length
    tail = source.get(begin, size) if begin < start else tail[begin - start :]
    if len(tail) != length + 8:
        raise SegmentDamage("footer", "the file is shorter than its size says")
    return tail


def _verify(tail: bytes) -> None:
    """Compare the footer's checksum."""
    at = tail.rfind(_CRC_MARK)
    if at < 0:
        raise SegmentDamage("footer", "there is no checksum of dreamlake's in it: another program's file, or damaged")
    at += len(_CRC_MARK)
    found = tail[at : at + 8]
    if b"%08x" % zlib.crc32(tail[:at] + _CRC_BLANK + tail[at + 8 :]) != found:
        raise SegmentDamage("footer", "its checksum does not match")


def _check_shape(info: SegmentInfo, metadata: pq.FileMetaData, found: pa.Schema) -> None:
    """Whether range, rows and columns agree, before memory is given to any of it."""
    rows = info.stop - info.start
    if info.start < 0 or not 0 < rows <= MAX_ROWS or metadata.num_rows != rows:
        raise SegmentDamage("footer", f"{metadata.num_rows} rows in the range {info.start} to {info.stop} (exclusive)")
    has_none = found.names[-1:] == [NONE]
    expected = pa.schema(
        [_INDEX_FIELD, TS_FIELD]
        + [pa.field(name, to_arrow(logical)) for name, logical in info.schema.items()]
        + [NONE_FIELD] * has_none
    )
    if metadata.num_columns != 2 + sum(map(leaf_count, info.schema.values())) + has_none or found != expected:
        raise SegmentDamage("footer", "the columns are not those of its schema")


def _which(names: Sequence[str]) -> str:
    return f"column {names[0]!r}" if len(names) == 1 else "pages"


def _said(error: BaseException) -> str:
    """One line of a message of Arrow's, which may be long and hold anything."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
