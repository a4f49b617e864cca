"""Tables: JSON lines, CSV and Parquet files; a file is a track, a row is a point."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any, BinaryIO

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
#: Bytes of a CSV file, and rows of a Parquet file, that are looked at at a time.
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
    read = {"csv": _csv_rows, "jsonl": _json_rows, "parquet": _parquet_rows}[kind]
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


# ------------------------------------------------------------------------------------------------ CSV

SEPARATORS = ",;\t"
#: Digits of a whole number that every process can read, however few its limit for that may be.
MOST_DIGITS = 640
WHOLE = r"^-?(0|[1-9][0-9]*)$"
NUMBER = r"^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|NaN|NAN|inf|Inf|INF|Infinity|infinity))$"
LEADING_ZERO = r"^[+-]?0[0-9]"
TRUTH = r"^(true|false|True|False|TRUE|FALSE)$"


def _csv_rows(file: str, intake: Intake) -> Iterator[tuple[dict[str, Any], int]]:
    """The rows, each column of the narrowest type that all of its values have; an empty cell is an absent field.

    The file is read three times: to see where its last whole row ends, to see the types, which a guess from its
    beginning would get wrong, and for the values. What is appended meanwhile is left for the next import.
    """
    separator, names = _header(file)
    stop, rest = _end_of_rows(file, separator)
    makers = _types(file, separator, names, stop)
    wrong: list[Any] = []
    taken = 0
    for batch in _batches(file, separator, names, stop, wrong):
        names = batch.schema.names
        size = batch.nbytes // max(1, batch.num_rows)
        taken += batch.num_rows
        try:
            columns = [
                [makers[name](text) for text in column.to_pylist()]
                for name, column in zip(names, batch.columns, strict=True)
            ]
        except ValueError as error:
            raise ImportRefused(f"{file} was changed while it was read ({error}); import again") from error
        for values in zip(*columns, strict=True):
            yield {name: value for name, value in zip(names, values, strict=True) if value is not None}, size
    if wrong:
        intake.leave_out("rows with too many or too few cells", len(wrong))
        example = f"{wrong[0].actual_columns} cells in place of {wrong[0].expected_columns}: {wrong[0].text:.80}"
        if taken:
            intake.note(f"{file}: {example}")
        else:
            intake.damaged(f"{file}: none of its {len(wrong):,} rows could be imported: {example}")
    if rest is not None:
        what, damaged = rest
        tell_torn(intake, file, Torn(stop, damaged), what)


def _end_of_rows(file: str, separator: str) -> tuple[int, tuple[str, bool] | None]:
    """Where the last row ends that has its line end, in bytes; and what is behind it, if anything, and if it is damage.

    A row without one may be cut anywhere, and look whole: ``2,0.1`` may become ``2,0.1234``.
    """
    opens = frozenset(b"\r\n" + separator.encode())
    stop = start = 0
    quoted = False
    before, closed = ord("\n"), -1  # the byte before a block, and the place of the quote that closed the last text
    with open(file, "rb") as stream:
        if stream.read(3) != b"\xef\xbb\xbf":
            stream.seek(0)
        start = stream.tell()
        while block := stream.read(BLOCK):
            at = 0
            while True:
                quote = block.find(b'"', at)
                if not quoted:
                    until = len(block) if quote < 0 else quote
                    last = max(block.rfind(b"\n", at, until), block.rfind(b"\r", at, until))
                    stop = stop if last < 0 else start + last + 1
                if quote < 0:
                    break
                # Of two quotes, which stand for one, the second opens again what the first has closed.
                if quoted:
                    quoted, closed = False, start + quote
                elif closed == start + quote - 1 or (block[quote - 1] if quote else before) in opens:
                    quoted = True
                at = quote + 1
            start, before = start + len(block), block[-1]
    if stop == start:
        return stop, None
    if quoted:
        return stop, ("the last row has a quote that is not closed (yet)", before in b"\r\n")
    return stop, ("the last row has no line end (yet): add one if it is whole", False)


def _types(file: str, separator: str, columns: list[str], stop: int) -> dict[str, Callable[[str | None], Any]]:
    import pyarrow.compute as pc

    tests: dict[Callable[[str | None], Any], Callable[[Any], Any]] = {
        _whole: lambda texts: pc.and_(
            pc.all(pc.match_substring_regex(texts, WHOLE)), pc.less_equal(pc.max(pc.binary_length(texts)), MOST_DIGITS)
        ),
        _number: lambda texts: pc.and_(
            pc.all(pc.match_substring_regex(texts, NUMBER)),
            pc.invert(pc.any(pc.match_substring_regex(texts, LEADING_ZERO))),
        ),
        _truth: lambda texts: pc.all(pc.match_substring_regex(texts, TRUTH)),
    }
    left: dict[str, list[Any]] = {}
    for batch in _batches(file, separator, columns, stop, []):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            texts = column.drop_null()
            maybe = left.setdefault(name, list(tests))
            if len(texts):
                left[name] = [kind for kind in maybe if tests[kind](texts).as_py()]
    return {name: kinds[0] if kinds else _text for name, kinds in left.items()}


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text)


def _number(text: str | None) -> float | int | str | None:
    """A double; a whole number that is none stays whole, and a number beyond all doubles stays text."""
    if text is None:
        return None
    value = float(text)
    if abs(value) < 2**53:
        return value
    if text[-1] in "nNfFyY":  # nan, inf, infinity
        return value
    if text.lstrip("+-").isdigit() and len(text) <= MOST_DIGITS:
        return value if value == int(text) else int(text)
    return text if math.isinf(value) else value


def _truth(text: str | None) -> bool | None:
    return None if text is None else text.lower() == "true"


def _text(text: str | None) -> str | None:
    return text


class _Beginning:
    """The first `left` bytes of a file, as a file."""

    closed = False

    def __init__(self, stream: BinaryIO, left: int) -> None:
        self._stream = stream
        self._left = left

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        self.closed = True


def _batches(file: str, separator: str, names: list[str], stop: int, wrong: list[Any]) -> Iterator[Any]:
    """The first `stop` bytes of a CSV file in batches of columns of text; none where there are no bytes."""
    import pyarrow as pa
    from pyarrow import csv

    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ImportRefused(f"{file} has several columns {double[0]!r}; rename all but one")
    if not stop:  # the row of names is not whole
        return

    def skip(row: Any) -> str:
        wrong.append(row)
        return "skip"

    try:
        with open(file, "rb") as stream:
            reader = csv.open_csv(
                _Beginning(stream, stop),
                read_options=csv.ReadOptions(block_size=BLOCK, use_threads=False),
                parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=skip),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            if reader.schema.names != names:  # they would get types by a guess
                raise ImportRefused(f"{file} has names of columns that cannot be read as CSV; rename {names[:9]}")
            yield from reader
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ImportRefused(f"{file} cannot be read as CSV: {error}") from error


def _header(file: str) -> tuple[str, list[str]]:
    """What separates the columns of a CSV file, and their names, which may have separators and lines in quotes."""
    import csv
    import io

    with open(file, encoding="utf-8-sig", errors="replace", newline="") as stream:
        rows = _first_rows(stream.read(BLOCK))
    head, counts = next(rows, ("", {}))
    if not head.strip():
        raise ImportRefused(f"{file} is empty; the first line of a CSV file names its columns")
    if not counts:
        raise ImportRefused(f"{file} has a row of names that does not end; is a quote not closed?")
    _, below = next(rows, ("", {}))
    # Not by the names alone: in ``step;loss, mean`` another one is no rarer.
    separator = max(SEPARATORS, key=lambda each: (0 < counts[each] == below.get(each), counts[each]))
    try:
        return separator, next(csv.reader(io.StringIO(head, newline=""), delimiter=separator))
    except csv.Error as error:
        raise ImportRefused(f"{file} has a row of names that cannot be read as CSV: {error}") from error


def _first_rows(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    """The rows that a CSV file begins with, each with how often a separator is in it outside of quotes.

    There are no counts of one that does not end in `text`, the beginning of the file.
    """
    start, counts = 0, dict.fromkeys(SEPARATORS, 0)
    quoted, begins = False, True
    for place, char in enumerate(text):
        if quoted:  # of two quotes, which stand for one, the second opens again what the first has closed
            quoted = char != '"'
            begins = not quoted
        elif char in "\r\n":
            if start < place:
                yield text[start:place], counts
            start, counts, begins = place + 1, dict.fromkeys(SEPARATORS, 0), True
        elif char == '"' and begins:
            quoted = True
        else:
            begins = char in counts
            if begins:
                counts[char] += 1
    if start < len(text):
        yield text[start:], {} if quoted or len(text) == BLOCK else counts
