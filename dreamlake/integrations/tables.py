"""Tables: JSON lines, CSV and Parquet files; a file is a track, a row is a point."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

from dreamlake.integrations.csvfile import csv_rows
from dreamlake.integrations.intake import Intake
from dreamlake.integrations.names import field_name, track_name
from dreamlake.integrations.run import ImportRefused, Run
from dreamlake.integrations.torn import Torn, tell_torn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pyarrow as pa

#: What the command line calls them, and how their files end.
KINDS = {"csv": (".csv", ".tsv"), "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",)}
WORKSPACE = "imported"
#: Bytes and rows of a Parquet file that are looked at at a time.
BLOCK, ROWS = 4 << 20, 10_000
EPOCH, HOUR = datetime(1970, 1, 1), timedelta(hours=1)


def runs(kind: str, source: str, *, track: str | None = None, time: str | None = None) -> Iterator[Run]:
    """The run of a file, or of all files of this kind below a folder.

    Parameters
    ----------
    track
        The name of the track of a file; by default that of the file.
    time
        The column that holds the points' times; by default ``_ts``, where there is one.

    Raises
    ------
    ImportRefused
        There is no such file.
    """
    source = os.path.abspath(os.path.expanduser(source))
    files = dict(_files(kind, source))
    if not files:
        endings = " or ".join(KINDS[kind])
        raise ImportRefused(
            f"{source} has no file in it or below whose name ends in {endings}"
            if os.path.isdir(source)
            else f"{source} does not exist"
        )
    if track is not None:
        if len(files) > 1:
            raise ImportRefused(f"--track names the track of one file, and {source} has {len(files)} of them")
        files = {track: next(iter(files.values()))}
    name = os.path.basename(source)
    yield Run(
        kind=kind,
        ids=tuple(os.path.realpath(file) for file in files.values()),
        name=(name if os.path.isdir(source) else os.path.splitext(name)[0]) or kind,
        workspace=WORKSPACE,
        source=source,
        pour=partial(_pour, kind=kind, files=files, time=time),
    )


def _files(kind: str, source: str) -> Iterator[tuple[str, str]]:
    if os.path.isfile(source):
        yield _track_of(os.path.basename(source)), source
        return
    for folder, below, names in os.walk(source):
        below.sort()
        for name in sorted(names):
            if name.lower().endswith(KINDS[kind]) and name[:1] != ".":
                file = os.path.join(folder, name)
                yield _track_of(os.path.relpath(file, source)), file


def _track_of(path: str) -> str:
    """The track of a file, by its place: the inverse of what `dreamlake export` does with a folder."""
    from dreamlake.format.layout import decode_component

    parts = os.path.splitext(path)[0].split(os.sep)
    try:
        return "/".join(map(decode_component, parts))
    except ValueError:
        return "/".join(parts)


def _pour(intake: Intake, kind: str, files: dict[str, str], time: str | None) -> None:
    for track, file in files.items():
        intake.part(os.path.realpath(file))
        name = track_name(track)
        fields = _Fields(file, intake)
        for row, size in rows(file, intake, kind):
            row.pop("_index", None)
            ts = _time_of(row, time, file)
            intake.add(name, ts, fields.of(row), tag=track, weight=1 + size // 64)


class _Fields:
    """The fields of a file's columns: the same one for a column in all rows, and no two columns in one."""

    def __init__(self, file: str, intake: Intake) -> None:
        self._file = file
        self._intake = intake
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def of(self, row: dict[str, Any]) -> dict[str, Any]:
        new = [key for key in row if key not in self._names]
        for key in sorted(new, key=lambda key: field_name(key) != key):  # first those that keep their name
            self._learn(key)
        return {self._names[key]: value for key, value in row.items()}

    def _learn(self, key: str) -> None:
        name = wanted = field_name(key)
        while name in self._taken:
            name += "_"
        if name != wanted:
            self._intake.note(f"{self._file}: the column {key!r} is the field {name!r}; {wanted!r} is another column")
        self._names[key] = name
        self._taken.add(name)


def _time_of(row: dict[str, Any], time: str | None, file: str) -> float | None:
    """The time of a row in seconds since the epoch, one without a zone taken as UTC; None where it has none."""
    if time is None:
        value = row.pop("_ts", None)
    elif time in row:
        value = row[time]
    else:
        raise ImportRefused(f"{file} has a row without {time!r}, which --time names; it has {', '.join(row)}")
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ImportRefused(f"{file}: {value!r} is no time: seconds since the epoch, or ISO 8601") from None
    if isinstance(value, datetime):
        # Not the zone of this machine: on another one, the file would be called replaced.
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ImportRefused(f"{file}: {value!r} is no time: seconds since the epoch, or ISO 8601")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def rows(file: str, intake: Intake, kind: str | None = None) -> Iterator[tuple[dict[str, Any], int]]:
    """The rows of a file one by one, each with its bytes, about; what cannot be read is told to the intake."""
    kind = kind or next(kind for kind, endings in KINDS.items() if file.lower().endswith(endings))
    read = {"csv": csv_rows, "jsonl": _json_rows, "parquet": _parquet_rows}[kind]
    yield from read(file, intake)


# ------------------------------------------------------------------------------------------------ JSON lines


def _json_rows(file: str, intake: Intake) -> Iterator[tuple[dict[str, Any], int]]:
    import json

    place = 0
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    tell_torn(intake, file, Torn(place, damaged=line.endswith(b"\n")))
                    return
                if not isinstance(row, dict):
                    raise ImportRefused(f"{file}: line {number:,} is no JSON object: {line[:60]!r}")
                if b'"$' in line:
                    row = _from_json(row)
                yield row, len(line)
            place += len(line)


def _from_json(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row, whose values may have the forms of `data.jsonl`; what is none of these is as it is."""
    from dreamlake.format.extjson import decode_key, from_json

    with suppress(ValueError):  # keys of somebody else that begin with $
        row = {decode_key(name): value for name, value in row.items()}
    for name, value in row.items():
        with suppress(ValueError):  # the same, or nested too deep for any point
            row[name] = from_json(value)
    return row


# ------------------------------------------------------------------------------------------------ Parquet


def _parquet_rows(file: str, intake: Intake) -> Iterator[tuple[dict[str, Any], int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ImportRefused(f"{file} is no whole Parquet file: {error}") from error
    with source:
        as_json = [each.name for each in source.schema_arrow if _is_json(each)]
        count = source.metadata.num_rows
        size = sum(source.metadata.row_group(n).total_byte_size for n in range(source.num_row_groups)) // max(1, count)
        for batch in source.iter_batches(max(1, min(ROWS, BLOCK // max(1, size)))):
            for row in _python_rows(batch, intake):
                for name in as_json:
                    row[name] = _decoded(row[name])
                yield {name: value for name, value in row.items() if value is not None}, size


def _python_rows(batch: pa.RecordBatch, intake: Intake) -> list[dict[str, Any]]:
    """The rows as dicts; a value that Python has no form for is None, and told."""
    with suppress(ValueError, OverflowError):
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    columns = [_python_values(name, batch.column(at), intake) for at, name in enumerate(batch.schema.names)]
    return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _python_values(name: str, column: pa.Array, intake: Intake) -> list[Any]:
    with suppress(ValueError, OverflowError):
        values: list[Any] = column.to_pylist()
        return values
    values = []
    for scalar in column:
        try:
            values.append(_python_value(scalar))
        except (ValueError, OverflowError):
            values.append(None)
            why = "have nanoseconds, which would be lost: round them to microseconds"
            if not _has_nanoseconds(scalar):
                why = "Python has no form for: cast them, to text for instance"
            intake.leave_out(f"values of the column {name!r}, of type {column.type}, that {why}")
    return values


def _has_nanoseconds(scalar: pa.Scalar[Any]) -> bool:
    return getattr(scalar.type, "unit", "") == "ns" and scalar.value % 1000 != 0


def _python_value(scalar: pa.Scalar[Any]) -> Any:
    """The value; where its zone is none of Python's, or leads out of the years 1 to 9999, the same moment in another.

    A moment in UTC may be beyond these years, and be in them where it was appended.
    """
    import pyarrow as pa

    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        if not pa.types.is_timestamp(scalar.type) or scalar.type.tz is None:
            raise
    moment = timedelta(microseconds=scalar.cast(pa.timestamp("us", "UTC")).value)
    first, last = datetime.min - EPOCH, datetime.max - EPOCH
    over = moment - min(max(moment, first), last)
    hours = -(over // HOUR) if over < timedelta(0) else -over // HOUR
    zone = timezone(hours * HOUR)
    return (EPOCH + (moment + hours * HOUR)).replace(tzinfo=zone)


def _is_json(field: pa.Field) -> bool:
    """Whether texts of a column are JSON, by its type or by the mark of `dreamlake export`."""
    from dreamlake.format.logical import JSON_MARK

    return (
        getattr(field.type, "extension_name", "") == "arrow.json" or JSON_MARK.items() <= (field.metadata or {}).items()
    )


def _decoded(value: Any) -> Any:
    """What a text of JSON says; anything else, as another tool may have put there, as it is."""
    from dreamlake.format.extjson import decode_text

    if isinstance(value, str):
        with suppress(ValueError):
            return decode_text(value)
    return value
