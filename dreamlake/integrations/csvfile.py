"""CSV files: what separates their columns, of which type these are, and which rows are whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from dreamlake.integrations.intake import Intake
from dreamlake.integrations.run import ImportRefused
from dreamlake.integrations.torn import Torn, tell_torn

#: Bytes that are looked at at a time.
BLOCK = 4 << 20
SEPARATORS = ",;\t"
#: Digits of a whole number that every process can read, however few its limit for that may be.
MOST_DIGITS = 640
WHOLE = r"^-?(0|[1-9][0-9]*)$"
NUMBER = r"^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|NaN|NAN|inf|Inf|INF|Infinity|infinity))$"
LEADING_ZERO = r"^[+-]?0[0-9]"
TRUTH = r"^(true|false|True|False|TRUE|FALSE)$"


def csv_rows(file: str, intake: Intake) -> Iterator[tuple[dict[str, Any], int]]:
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
