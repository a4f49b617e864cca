"""A segment: the points of one index range as Parquet bytes, and back, verified. No I/O of its own.

The columns are ``_index`` (int64), ``_ts`` (double), the fields, and ``_none`` where a field was set to None; zstd,
delta encoding for integers and timestamps, byte-stream-split for doubles, a dictionary for strings, page checksums.
The key-value metadata of the footer says what the segment is (``format/segmentinfo.py``), and holds the footer's own
checksum (``format/footer.py``).

Nothing that the bytes say is believed before it was checked: they may be damaged, and a stranger may have written them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dreamlake.format import pages
from dreamlake.format.columns import counting
from dreamlake.format.damage import SegmentDamage, damage_at
from dreamlake.format.footer import (
    CRC_BLANK,
    CRC_KEY,
    INDEX,
    INDEX_FIELD,
    MAX_ROWS,
    READ_OPTIONS,
    Footer,
    arrow_schema,
    open_footer,
    signed,
)
from dreamlake.format.logical import TrackSchema, identical, leaves
from dreamlake.format.pages import Chunk
from dreamlake.format.ranges import Many, Ranges, Source
from dreamlake.format.schema import NONE, TS, Batch, conform
from dreamlake.format.segmentinfo import SegmentBounds, SegmentInfo, to_key_values

__all__ = [
    "INDEX",
    "MAX_BATCH_BYTES",
    "MAX_ROWS",
    "Footer",
    "Segment",
    "SegmentBounds",
    "SegmentDamage",
    "SegmentInfo",
    "encode",
    "open_segment",
]

MAX_BATCH_BYTES = 1 << 30
"""Most bytes of a batch in memory (``batch.data.nbytes``) that one segment may hold."""

WIDE = 100_000  # points from which on a segment is called wide
ROW_GROUP = 100_000  # points of one row group
WIDE_ROW_GROUP = 10_000  # points of one in a wide segment, so that a short range needs a tenth of it or less
SLOW = 1e-4  # seconds from point to point, in the mean, from which on the timestamps are compressed harder


class SegmentTooLarge(ValueError):
    """These points do not fit into one segment."""


# ------------------------------------------------------------------------------------------------------ encode


def encode(batch: Batch, info: SegmentInfo, freed: Callable[[], None] | None = None) -> memoryview:
    """The bytes of the segment file.

    Parameters
    ----------
    freed
        Called just before most of the work, which needs no lock of Python's.

    Raises
    ------
    ValueError
        ``info`` does not fit the batch (its length, its schema; only one of lost points is empty).
    SegmentTooLarge
        The batch is.
    """
    data = batch.data
    if not 0 <= data.num_rows <= MAX_ROWS or info.rows != data.num_rows or not 0 <= info.start < info.stop:
        raise ValueError(f"{data.num_rows} points do not make the segment [{info.start}, {info.stop})")
    if data.nbytes > MAX_BATCH_BYTES:
        raise SegmentTooLarge(
            f"a segment holds up to {MAX_BATCH_BYTES} bytes of points; these {data.num_rows} are more"
        )
    if decoded_size(batch) > pages.MAX_DECODED:
        raise SegmentTooLarge(f"{data.num_rows} points would take more memory than a segment may, once they are read")
    if not identical(info.schema, batch.schema):
        raise ValueError("the info's schema is not the batch's")
    return _written([data], data.schema, info, ROW_GROUP if info.rows < WIDE else WIDE_ROW_GROUP, freed)


def decoded_size(batch: Batch) -> int:
    """What a reader takes these points for in memory, at most: it refuses a segment beyond `pages.MAX_DECODED`.

    Far more than they take here where they are bits, or null.
    """
    data = batch.data
    fixed = all(type(kind) is str and kind in _FIXED for kind in batch.schema.values())
    if fixed and data.num_columns == 1 + len(batch.schema):  # a look at each takes 1 us
        return len(batch) * pages.VALUE_BYTES * (2 + len(batch.schema))
    return len(batch) * pages.VALUE_BYTES + sum(map(_decoded_size, data.columns))


#: Types of which each value is of one size.
_FIXED = frozenset({"double", "int", "int64", "bool"})


def _decoded_size(array: pa.Array) -> int:
    kind = array.type
    if pa.types.is_list(kind):
        offsets = array.offsets  # `flatten` takes twice as long
        first, stop = offsets[0].as_py(), offsets[len(array)].as_py()
        return _decoded_size(array.values.slice(first, stop - first)) + len(array) * pages.VALUE_BYTES
    if pa.types.is_struct(kind):
        return sum(map(_decoded_size, array.flatten()))
    if isinstance(kind, pa.BaseExtensionType):
        return _decoded_size(array.storage)
    text = pa.types.is_string(kind) or pa.types.is_binary(kind)
    return len(array) * pages.VALUE_BYTES + (int(array.nbytes) if text else 0)


def encode_parts(parts: Iterable[Batch], info: SegmentInfo, has_none: bool) -> memoryview:
    """The bytes of one segment of parts that follow one another, of which it holds one at a time.

    Parameters
    ----------
    parts
        With types no wider than those of `info`.
    has_none
        Whether any of them has a ``_none`` column.

    Raises
    ------
    ValueError
        The parts do not have the rows that `info` says.
    SegmentTooLarge
        They come to more than half of what a reader takes.
    """
    schema = pa.schema([field for field in arrow_schema(info.schema, has_none) if field.name != INDEX])

    def conformed() -> Iterator[pa.RecordBatch]:
        total = 0
        for part in parts:
            data = conform(part, info.schema, has_none)
            total += decoded_size(Batch(info.schema, data))
            if total > pages.MAX_DECODED // 2:
                raise SegmentTooLarge(f"{total} bytes of points and more, as a reader takes them")
            yield data

    return _written(conformed(), schema, info, WIDE_ROW_GROUP)


def _written(
    parts: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    info: SegmentInfo,
    row_group: int,
    freed: Callable[[], None] | None = None,
) -> memoryview:
    sink = pa.BufferOutputStream()
    schema = pa.schema([INDEX_FIELD, *schema])
    at = info.start
    with pq.ParquetWriter(sink, schema, **_write_options(info.schema, _ts_level(info))) as writer:
        for part in parts:
            index = counting(at, at + part.num_rows)
            table = pa.Table.from_arrays([index, *part.columns], schema=pa.schema([INDEX_FIELD, *part.schema]))
            if freed is not None:
                freed()
            writer.write_table(table, row_group_size=row_group)
            at += part.num_rows
        writer.add_key_value_metadata({**to_key_values(info), CRC_KEY.decode(): CRC_BLANK.decode()})
    if at - info.start != info.rows:
        raise ValueError(f"{at - info.start} points do not make the segment [{info.start}, {info.stop})")
    return signed(sink.getvalue())


def _ts_level(info: SegmentInfo) -> int:
    """The zstd level of ``_ts``, by how far the points are apart.

    Of timestamps with jitter Arrow's usual level 1 leaves 2.9 bytes, 4 leaves 2.75 for 3 ns a point, 12 leaves 2.4 for
    35 ns, which no program notices that takes so long from point to point. In a tight loop 12 leaves as much as 4.
    """
    return 12 if info.rows and info.ts_max - info.ts_min >= SLOW * info.rows else 4


def _write_options(schema: TrackSchema, ts_level: int) -> dict[str, Any]:
    """How each Parquet column is written."""
    encodings = {INDEX: "DELTA_BINARY_PACKED", TS: "BYTE_STREAM_SPLIT"}
    dictionaries = {f"{NONE}.list.element"}
    described = False
    for name, logical in schema.items():
        for path, leaf in leaves(name, logical):
            encoding = _encoding(leaf)
            if leaf == "string":
                dictionaries.add(path)
            elif path in encodings and encodings[path] != encoding:
                encodings[path] = "PLAIN"  # two columns of one dotted path: a field "a.b", and a key "b" in a field "a"
            else:
                encodings[path] = encoding
            described = described or leaf in ("json", "null")
    for path in dictionaries & encodings.keys():
        encodings[path] = "PLAIN"
    return {
        "compression": "zstd",
        # Of doubles of float32 precision level 1 leaves 3.7 bytes, 4 leaves 3.5 for a few ns a value. Integers gain
        # nothing, and lists, of which a point has many values, 1 % for 10 ns a value.
        "compression_level": {TS: ts_level, **{name: 4 for name, logical in schema.items() if logical == "double"}},
        "use_dictionary": sorted(dictionaries - encodings.keys()),
        "column_encoding": encodings,
        "write_page_checksum": True,
        "store_schema": described,  # Polars knows JSON text and a column without a type only from Arrow's own schema
    }


def _encoding(leaf: str) -> str:
    if leaf == "double":
        return "BYTE_STREAM_SPLIT"
    return "DELTA_BINARY_PACKED" if leaf in ("int", "int64") or leaf.startswith("timestamp") else "PLAIN"


# -------------------------------------------------------------------------------------------------------- open


def open_segment(
    source: Any, size: int | None = None, footer: Footer | None = None, many: Many | None = None
) -> Segment:
    """Open a segment, its footer's checksum verified before anything in it is believed.

    Parameters
    ----------
    source
        The whole file's bytes (any buffer), or a file opened for reading in binary mode, or a function
        ``(start, stop) -> bytes``. What it raises is passed on as it is.
    size
        The file's size in bytes; needed for a function.
    footer
        The footer of an earlier opening of the same file: it need not be parsed again.
    many
        For a function as source: reads several ranges at once, where each is a request. Ranges that are near to each
        other become one then.

    Raises
    ------
    SegmentDamage
        The bytes are not what dreamlake wrote.
    """
    opened = Source(source, size, many)
    return Segment(opened, open_footer(opened, footer))


# -------------------------------------------------------------------------------------------------------- read


class Segment:
    """An opened segment; made by ``open_segment``.

    Parameters
    ----------
    source
        Its bytes.
    footer
        Its verified footer.
    """

    def __init__(self, source: Source, footer: Footer) -> None:
        self._source = source
        self.footer = footer

    @property
    def info(self) -> SegmentInfo:
        """What the footer says."""
        return self.footer.info

    def read(self, columns: Sequence[str] | None = None, start: int | None = None, stop: int | None = None) -> pa.Table:
        """The rows, every page's checksum verified.

        Parameters
        ----------
        columns
            Names out of ``_index``, ``_ts``, the fields and ``_none``, in the order wanted; None: all there are.
            A name that the segment does not have is left out.
        start, stop
            The half-open range of indices wanted, within the segment's; None: from its start, to its end. Only the row
            groups that hold it are read.

        Raises
        ------
        SegmentDamage
            The bytes are not what dreamlake wrote, or would take more memory than any segment of dreamlake's does.
        """
        own = self.footer.columns
        names = list(own) if columns is None else [name for name in columns if name in own]
        if self.info.lost:
            return self.footer.schema.empty_table().select(names)
        groups, before, count = self._groups(start, stop)
        table = self._read_groups(names or [INDEX], groups, count)
        if INDEX in names:
            first = self.info.start + before
            if not table.column(INDEX).combine_chunks().equals(counting(first, first + count)):
                raise SegmentDamage(
                    f"column {INDEX!r}", f"it does not count from {first} to {first + count} (exclusive)"
                )
        if columns is not None:
            table = table.select(names)
        skipped = 0 if start is None else max(0, start - self.info.start - before)
        wanted = count if stop is None else max(0, stop - self.info.start - before - skipped)
        return table if not skipped and wanted >= count else table.slice(skipped, wanted)

    def _groups(self, start: int | None, stop: int | None) -> tuple[list[int], int, int]:
        """The row groups that hold a range of indices, the number of rows before them, and in them."""
        groups = self.footer.groups
        if start is None and stop is None:
            return list(range(len(groups))), 0, self.info.rows
        first = max(0, (self.info.start if start is None else start) - self.info.start)
        last = (self.info.stop if stop is None else stop) - self.info.start
        chosen: list[int] = []
        before = place = 0
        for number, group in enumerate(groups):
            if place < last and place + group.rows > first:
                before = place if not chosen else before
                chosen.append(number)
            place += group.rows
        return chosen, before, sum(groups[number].rows for number in chosen)

    def _read_groups(self, names: Sequence[str], groups: list[int], count: int) -> pa.Table:
        """The named columns of row groups, in the order of the file."""
        footer = self.footer
        wanted = sorted(place for name in names for place in range(*footer.columns[name]))
        place = f"column {names[0]!r}" if len(names) == 1 else "pages"
        with damage_at(place):
            chunks = [footer.groups[group].chunk(column) for group in groups for column in wanted]
        data = self._load(chunks, place)
        with damage_at(place):
            json = {name for name, logical in self.info.schema.items() if logical == "json"}
            repeated = _bounded(data, chunks, json)
            file = pq.ParquetFile(
                data.stream(), metadata=footer.metadata, read_dictionary=repeated or None, **READ_OPTIONS
            )
            table = file.reader.read_row_groups(groups, column_indices=wanted, use_threads=False)
            if table.num_rows != count:
                raise ValueError(f"{table.num_rows} rows instead of {count}")
            return _checked(table, [field for field in footer.schema if field.name in names])

    def _load(self, chunks: Sequence[Chunk], place: str) -> Ranges:
        end = self.footer.file_size - self.footer.length
        if any(chunk.start < 4 or chunk.stop > end for chunk in chunks):
            raise SegmentDamage(place, "a column lies outside of the file")
        if sum(chunk.stop - chunk.start for chunk in chunks) > pages.MAX_DECODED:
            raise SegmentDamage(place, "its columns are longer than those of any segment")
        data = self._source.load([(chunk.start, chunk.stop) for chunk in chunks])
        if data is None:
            raise SegmentDamage(place, "the file is shorter than its size says")
        return data


def _bounded(data: Ranges, chunks: Sequence[Chunk], json: set[str]) -> list[str]:
    """Refuse what would take too much memory. The paths of the columns whose text must stay in its dictionary first.

    The columns in ``json`` cannot: Arrow always unfolds these.
    """
    total = repeated = 0
    paths = set()
    for chunk in chunks:
        size, more = pages.decoded_bound(data.view(chunk.start, chunk.stop), chunk)
        total += size
        if more and chunk.path in json:
            total += more
        elif more:
            repeated += more
            paths.add(chunk.path)
    if total > pages.MAX_DECODED:
        raise ValueError(f"it would take {total} bytes of memory, more than a segment may")
    return sorted(paths) if total + repeated > pages.MAX_DECODED else []


def _checked(table: pa.Table, fields: list[pa.Field]) -> pa.Table:
    """The table with exactly these types, its text known to be UTF-8: other libraries rely on it without a look."""
    if list(table.schema) != fields:
        size = sum(_expanded(chunk) for column in table.columns for chunk in column.chunks)
        if size > pages.MAX_DECODED:
            raise ValueError(f"its text would take {size} bytes of memory, more than a segment may")
        table = table.cast(pa.schema(fields))
    for column in table.columns:
        if _has_text(column.type):
            column.validate(full=True)
    return table


def _expanded(array: pa.Array) -> int:
    """The bytes of the text of an array once it has left its dictionaries."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)
    if pa.types.is_list(kind) or pa.types.is_struct(kind):
        return sum(map(_expanded, [array.flatten()] if pa.types.is_list(kind) else array.flatten()))
    return 0


def _has_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _has_text(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_has_text(field.type) for field in kind)
    return bool(pa.types.is_string(kind) or isinstance(kind, pa.JsonType))
