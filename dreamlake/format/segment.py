"""A segment: the points of one index range as Parquet bytes with their metadata, and back. No I/O of its own.

Layout of the file: columns ``_index`` (int64), ``_ts`` (double), the fields, and ``_none`` where a field was set to
None; zstd, delta encoding for integers and timestamps, byte-stream-split for doubles, a dictionary for strings, a
checksum in every page. The key-value metadata of the footer holds

``dreamlake.segment``
    JSON: format version, track, index range, generation, bounds of ``_ts``, whether it rises, schema.
``dreamlake.track``
    JSON: the schema of the whole track up to and with this segment (null when equal to this segment's) and, for every
    live segment before it, ``[start, stop, generation, tsMin, tsMax, tsRises]``.
``dreamlake.footer_crc32``
    CRC-32, 8 lower-case hex digits, of everything from the first byte of the footer to the end of the file, computed
    with these digits as ``00000000``. Parquet itself leaves the footer unprotected.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dreamlake.format.logical import Logical, TrackSchema, check, leaf_count, leaves, to_arrow, unify_schemas
from dreamlake.format.schema import NONE, NONE_TYPE, TS, Batch

INDEX = "_index"
VERSION = 1

MAX_ROWS = 1 << 24  # points of one segment
ROW_GROUP = 100_000  # points of one row group, so that a short range of a wide segment needs a part of it only

_MAGIC = b"PAR1"
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

    ``start`` and ``stop`` are the half-open index range, ``ts_min`` and ``ts_max`` inclusive seconds; ``rises`` says
    whether ``_ts`` rises strictly within it.
    """

    start: int
    stop: int
    generation: int
    ts_min: float
    ts_max: float
    rises: bool


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
    ts_rises: bool
    schema: dict[str, Any]


class _TrackWire(msgspec.Struct):
    """``dreamlake.track`` as JSON."""

    schema: dict[str, Any] | None
    before: list[SegmentBounds]


_segment_decoder = msgspec.json.Decoder(_SegmentWire)
_track_decoder = msgspec.json.Decoder(_TrackWire)


# ------------------------------------------------------------------------------------------------------ encode


def describe(
    batch: Batch,
    *,
    track: str,
    start: int,
    generation: int = 0,
    schema_before: Mapping[str, Logical] | None = None,
    before: Sequence[SegmentBounds] = (),
) -> SegmentInfo:
    """The info of the segment that ``batch`` becomes at index ``start``; ``_ts`` bounds are taken from the batch.

    ``schema_before`` is the track's schema up to here, ``before`` the bounds of the live segments before it.
    """
    low, high, rises = ts_bounds(batch.data.column(0))
    schema = dict(batch.schema)
    track_schema = unify_schemas(schema_before, schema) if schema_before else schema
    stop = start + len(batch)
    return SegmentInfo(track, start, stop, generation, low, high, rises, schema, track_schema, tuple(before))


def ts_bounds(ts: pa.Array) -> tuple[float, float, bool]:
    """Least, greatest, and whether it rises strictly; of at least one value."""
    bounds = pc.min_max(ts)
    rises = pc.all(pc.less(ts.slice(0, len(ts) - 1), ts.slice(1))).as_py()
    return bounds["min"].as_py(), bounds["max"].as_py(), rises is not False  # None: no pair to compare


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
    if info.schema != batch.schema:
        raise ValueError("the info's schema is not the batch's")
    index = pa.arange(info.start, info.stop)
    table = pa.Table.from_arrays(
        [index, *data.columns], schema=pa.schema([pa.field(INDEX, pa.int64(), nullable=False), *data.schema])
    )
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
    same = list(info.track_schema.items()) == list(info.schema.items())
    track = _TrackWire(None if same else info.track_schema, list(info.before))
    return {
        "dreamlake.segment": msgspec.json.encode(segment).decode(),
        "dreamlake.track": msgspec.json.encode(track).decode(),
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

    metadata: pq.FileMetaData
    checksum: int
    length: int
    size: int
    wire: _SegmentWire

    @cached_property
    def info(self) -> SegmentInfo:
        """What it says."""
        wire = self.wire
        track = _decoded(_track_decoder, self.metadata.metadata, b"dreamlake.track")
        try:
            track_schema = wire.schema if track.schema is None else check(track.schema)
        except (ValueError, RecursionError) as error:
            raise SegmentDamage("footer", f"the track's schema is unreadable: {error}") from error
        return SegmentInfo(
            wire.track,
            wire.start,
            wire.stop,
            wire.generation,
            wire.ts_min,
            wire.ts_max,
            wire.ts_rises,
            wire.schema,
            track_schema,
            tuple(track.before),
            wire.version,
        )


class Segment:
    """An opened segment; made by ``open_segment``."""

    def __init__(self, source: _Source, footer: Footer) -> None:
        self._source = source
        self.footer = footer

    @property
    def info(self) -> SegmentInfo:
        """What the footer says."""
        return self.footer.info

    @property
    def metadata(self) -> pq.FileMetaData:
        """Parquet's own metadata."""
        return self.footer.metadata

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
        names = self.metadata_names if columns is None else [name for name in columns if name in self._expected]
        wire = self.footer.wire
        try:
            file = _parquet_file(self._source.stream(), self.footer.metadata)
            table = file.read(columns=None if columns is None else names, use_threads=False)
        except MemoryError:
            raise
        except Exception as error:
            raise SegmentDamage(_which(names), _said(error)) from error
        if table.num_rows != wire.stop - wire.start:
            raise SegmentDamage(_which(names), f"it holds {table.num_rows} rows, not {wire.stop - wire.start}")
        if columns is not None:
            table = table.select(names)
        if INDEX in names and not table.column(INDEX).combine_chunks().equals(pa.arange(wire.start, wire.stop)):
            raise SegmentDamage(f"column {INDEX!r}", f"it does not count from {wire.start} to {wire.stop} (exclusive)")
        return table

    @cached_property
    def _expected(self) -> frozenset[str]:
        return frozenset(self.metadata_names)

    @cached_property
    def metadata_names(self) -> list[str]:
        """The columns in their order."""
        return list(self.footer.metadata.schema.to_arrow_schema().names)


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
    if footer is not None and footer.size == opened.size and footer.checksum == zlib.crc32(tail):
        return Segment(opened, footer)
    _verify(tail)
    try:
        metadata = pq.ParquetFile(pa.BufferReader(_MAGIC + tail), **_LIMITS).metadata
    except MemoryError:
        raise
    except Exception as error:
        raise SegmentDamage("footer", _said(error)) from error
    wire = _decoded(_segment_decoder, metadata.metadata, b"dreamlake.segment")
    _check_shape(wire, metadata)
    return Segment(opened, Footer(metadata, zlib.crc32(tail), len(tail), opened.size, wire))


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


def _decoded(decoder: msgspec.json.Decoder[Any], values: Mapping[bytes, bytes] | None, key: bytes) -> Any:
    try:
        return decoder.decode((values or {})[key])
    except KeyError:
        raise SegmentDamage("footer", f"there is no {key.decode()!r} in it") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SegmentDamage("footer", f"{key.decode()!r} is unreadable: {error}") from error


def _check_shape(wire: _SegmentWire, metadata: pq.FileMetaData) -> None:
    """Whether range, rows and columns agree, before memory is given to any of it."""
    if wire.version != VERSION:
        raise SegmentDamage("footer", f"format version {wire.version}; this dreamlake reads version {VERSION}")
    rows = wire.stop - wire.start
    if wire.start < 0 or not 0 < rows <= MAX_ROWS or metadata.num_rows != rows:
        raise SegmentDamage("footer", f"{metadata.num_rows} rows in the range {wire.start} to {wire.stop} (exclusive)")
    try:
        schema = check(wire.schema)
    except (ValueError, RecursionError) as error:
        raise SegmentDamage("footer", f"the schema is unreadable: {error}") from error
    try:
        found = metadata.schema.to_arrow_schema()
    except Exception as error:
        raise SegmentDamage("footer", _said(error)) from error
    expected = [pa.field(INDEX, pa.int64(), nullable=False), pa.field(TS, pa.float64(), nullable=False)]
    expected += [pa.field(name, to_arrow(logical)) for name, logical in schema.items()]
    if found.names[-1:] == [NONE]:
        expected.append(pa.field(NONE, NONE_TYPE))
    leaf_total = sum(map(leaf_count, schema.values())) + 2 + (found.names[-1:] == [NONE])
    if metadata.num_columns != leaf_total or not found.equals(pa.schema(expected)):
        raise SegmentDamage("footer", "the columns are not those of its schema")


def _which(names: Sequence[str]) -> str:
    return f"column {names[0]!r}" if len(names) == 1 else "pages"


def _said(error: BaseException) -> str:
    """One line of a message of Arrow's, which may be long and hold anything."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
