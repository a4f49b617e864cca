"""What runs are compared by: columns of parameters and of fields of tracks, looked up, filtered and sorted."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from dreamlake.cli.places import Mistake
from dreamlake.errors import CorruptTrackError, PointsNotHereError, SessionNotFoundError, TrackNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import polars as pl

    from dreamlake.engine.snapshot import Snapshot
    from dreamlake.format.logical import Logical
    from dreamlake.lake import SessionView

#: What a column may say of a field of a track.
REDUCERS = ("last", "first", "min", "max", "mean", "count")
#: Those of them that are numbers worked out of numbers.
NUMBERS = ("min", "max", "mean")
#: What a run says of itself, and where session.json has it.
OWN = {
    "run": "run",
    "workspace": "workspace",
    "name": "name",
    "status": "status",
    "created": "createdAt",
    "updated": "updatedAt",
    "description": "description",
    "tags": "tags",
    "tracks": "tracks",
}
#: The status of a run whose session.json cannot be read.
DAMAGED = "damaged"


class Column(NamedTuple):
    """A column as it was asked for: a field of a track (`track` is not None), what a run says, or a parameter.

    Where a run has no such track it may be a parameter, whose name may have a colon too: to look at these first would
    cost all others a request or two.
    """

    text: str
    track: str | None = None
    field: str = ""
    reducer: str = ""


class Row(NamedTuple):
    """A run: what it says of itself, the value of each column, and what of it is damaged."""

    about: dict[str, Any]
    values: dict[str, Any]
    parameters: dict[str, Any]
    tracks: dict[str, list[str]]
    damage: list[str]


def parse_columns(given: Sequence[str]) -> list[Column]:
    """The columns in texts such as ``lr,eval:loss.min``."""
    names = dict.fromkeys(name.strip() for text in given for name in text.split(","))
    return [parse_column(name) for name in names if name]


def parse_column(text: str) -> Column:
    """The column that a person calls `text`."""
    track, _, field = text.partition(":")
    name, dot, reducer = field.rpartition(".")
    if not dot or reducer not in REDUCERS:
        name, reducer = field, "last"
    return Column(text, track, name, reducer) if name and _can_be_track(track) else Column(text)


def _can_be_track(name: str) -> bool:
    from dreamlake.format.layout import check_name

    try:
        check_name("track", name)
    except ValueError:  # each run would say so
        return False
    return True


def columns_in(condition: str) -> list[Column]:
    """The columns of tracks that a condition names."""
    outside = re.sub(r"""'(?:[^']|'')*'""", "''", condition)
    quoted = [name for name in re.findall(r'"([^"]+)"', outside) if ":" in name]
    found = re.findall(r"[^\s\"'()<>=!,*+]+:[^\s\"'()<>=!,*+]+", re.sub(r'"[^"]*"', '""', outside))
    return [parse_column(name) for name in dict.fromkeys((*found, *quoted))]


# ------------------------------------------------------------------------------------------------ looking up


def look(view: SessionView, columns: Sequence[Column], with_parameters: bool) -> Row | None:
    """What the columns say of a run; None where it was removed since it was listed."""
    about: dict[str, Any] = {"workspace": view.workspace, "name": view.name}
    damage: list[str] = []
    try:
        about = dict(view.info)
    except CorruptTrackError as error:
        about |= {"status": DAMAGED, "detail": str(error)}
        damage.append(str(error))
    except SessionNotFoundError:
        return None
    about["run"] = f"{view.workspace}/{view.name}"
    if any(column.text == "tracks" for column in columns):
        about["tracks"] = len(view.tracks)
    fields = [column for column in columns if column.track is not None]
    of_tracks, there = _of_tracks(view, fields, damage)
    parameters: dict[str, Any] = {}
    if with_parameters or any(column.track not in there for column in fields):
        try:
            parameters = view.parameters().get()
        except CorruptTrackError as error:
            damage.append(str(error))
    values = {}
    for column in columns:
        if column.text in parameters and column.track not in there:
            values[column.text] = parameters[column.text]
        elif column.track is not None:
            values[column.text] = of_tracks.get(column)
        else:
            values[column.text] = about.get(OWN.get(column.text, ""))
    return Row(about, values, parameters, there, damage)


def _of_tracks(
    view: SessionView, columns: Sequence[Column], damage: list[str]
) -> tuple[dict[Column, Any], dict[str, list[str]]]:
    """The values of columns of tracks, and the fields of each track that is there."""
    found: dict[Column, Any] = {}
    there: dict[str, list[str]] = {}
    for name in dict.fromkeys(column.track for column in columns if column.track is not None):
        asked = [column for column in columns if column.track == name]
        try:
            values, there[name] = _reduced(view, name, asked, damage)
            found |= values
        except TrackNotFoundError:
            continue
        except PointsNotHereError as error:
            damage.append(str(error))
            with suppress(PointsNotHereError, ValueError, TrackNotFoundError):  # the newest points are here
                newest = [column for column in asked if column.reducer == "last"]
                found |= _reduced(view, name, newest, damage)[0] if newest else {}
        except ValueError as error:  # damage, or no name of a track
            damage.append(str(error))
    return found, there


def _reduced(
    view: SessionView, name: str, columns: Sequence[Column], trouble: list[str]
) -> tuple[dict[Column, Any], list[str]]:
    """The values of columns of one track, and its fields."""
    track = view.track(name)
    only_last = all(column.reducer == "last" for column in columns)
    snapshot = track._snapshot(wanted=(-1, 1)) if only_last else track._snapshot(described=True)
    found, fields = _newest(snapshot, columns)
    if len(found) < len(columns):
        snapshot = track._snapshot(described=True) if only_last else snapshot
        left = [column for column in columns if column not in found]
        more, fields = _worked_out(view, name, snapshot, left, trouble)
        found |= more
    return found, fields


def _newest(snapshot: Snapshot, columns: Sequence[Column]) -> tuple[dict[Column, Any], list[str]]:
    """The last values that the newest point has: as they were appended, whatever else is asked for beside them."""
    lasts = [column for column in columns if column.reducer == "last"]
    newest = snapshot.points(max(0, snapshot.total - 1), snapshot.total) if lasts else []
    point = newest[0][1] if newest else {}
    return {column: point[column.field] for column in lasts if point.get(column.field) is not None}, list(point)


def _worked_out(
    view: SessionView, name: str, snapshot: Snapshot, columns: Sequence[Column], trouble: list[str]
) -> tuple[dict[Column, Any], list[str]]:
    """The values of columns that take more than the newest point."""
    import polars as pl

    from dreamlake.analysis.columns import named
    from dreamlake.engine.process import check_polars
    from dreamlake.engine.scan import Part, lazy_frame

    check_polars()
    kinds = snapshot.schema
    frame = lazy_frame([Part(snapshot, 0, snapshot.total)], kinds, name=name)
    schema = frame.collect_schema()
    empty = pl.DataFrame(schema=schema)
    wanted = {}
    for column in columns:
        if column.field in schema:
            reduced = _reducer(named(column.field), column.reducer, kinds.get(column.field))
            try:
                empty.select(reduced)
            except pl.exceptions.PolarsError:
                trouble.append(_refusal(view, column, f"values of {schema[column.field]}"))
            else:
                wanted[column] = reduced
    found: dict[Column, Any] = {}
    if wanted:
        row = frame.select(reduced.alias(str(at)) for at, reduced in enumerate(wanted.values())).collect()
        for column, values in zip(wanted, row, strict=True):
            try:
                found[column] = _value_in(values, column.reducer, kinds.get(column.field))
            except _NoNumbers as error:
                trouble.append(_refusal(view, column, str(error)))
    return found, schema.names()


def _refusal(view: SessionView, column: Column, values: str) -> str:
    return f"{view.workspace}/{view.name}: {column.text}: no {column.reducer} of {values}"


class _NoNumbers(Exception):
    """Values of several types that have no such number; the message says what they are."""


def _reducer(values: pl.Expr, reducer: str, kind: Logical | None) -> pl.Expr:
    if kind == "json" and reducer in NUMBERS:
        return values.drop_nulls().implode()  # texts to Polars, which has no order of what is in them
    if reducer in ("last", "first"):
        return getattr(values.drop_nulls(), reducer)()  # type: ignore[no-any-return]
    return getattr(values, reducer)()  # type: ignore[no-any-return]


def _value_in(column: pl.Series, reducer: str, kind: Logical | None) -> Any:
    """The only value of a column, as it was appended: Polars has JSON as text, and not all datetimes."""
    if kind == "json":
        from dreamlake.format.point import decode_text

        if reducer in NUMBERS:
            return _of_numbers(list(map(decode_text, column[0])), reducer)
        return decode_text(column[0]) if isinstance(column[0], str) else column[0]
    if kind is None or not (column.dtype.is_temporal() or column.dtype.is_nested()):
        return column[0]
    from dreamlake.format.columns import column_values

    return column_values(column.to_arrow(), kind)[0]


def _of_numbers(values: list[Any], reducer: str) -> Any:
    """The lowest, the highest or the mean of numbers that no column of numbers holds, such as 0.5 and 2**60."""
    import statistics

    types = {type(value) for value in values}
    if not types <= {int, float}:
        raise _NoNumbers(f"values of {' and '.join(sorted(each.__name__ for each in types))}")
    if reducer == "mean":
        try:
            return float(statistics.mean(values)) if values else None
        except OverflowError:
            raise _NoNumbers("numbers beyond those of a double") from None
    ordered = [value for value in values if _is_value(value)] or values  # NaN only where there is nothing else
    return {"min": min, "max": max}[reducer](ordered, default=None)


def check_columns(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Refuse a column that no run has, since it is misspelt; the message names what is like it."""
    if not rows:
        return
    known = {name for row in rows for name in row.parameters}
    for column in columns:
        if column.text in known or column.text in OWN:
            continue
        if column.track is None:
            raise Mistake(_unknown(column.text, known))
        fields = {field for row in rows for field in row.tracks.get(column.track, ())}
        if not any(column.track in row.tracks for row in rows):
            if any(row.damage for row in rows):
                continue
            raise Mistake(f"no run has a track {column.track!r}; dreamlake show RUN shows the tracks of one")
        if column.field not in fields:
            close = difflib.get_close_matches(column.field, fields, n=1)
            has = f"is it {close[0]!r}?" if close else f"it has {', '.join(sorted(fields)[:9])}"
            raise Mistake(f"the track {column.track!r} has no field {column.field!r} in any run; {has}")


def _unknown(name: str, known: Collection[str]) -> str:
    if ":" in name:
        return f"{name!r} is no column; a field of a track is TRACK:FIELD, or TRACK:FIELD.min, .max, .mean …"
    close = difflib.get_close_matches(name, [*known, *OWN], n=1)
    has = f"is it {close[0]!r}?" if close else f"there are {', '.join(sorted(known)[:9]) or 'none'}"
    return f"no run has a parameter {name!r}; {has} (a field of a track is TRACK:FIELD, or TRACK:FIELD.min)"


# ------------------------------------------------------------------------------------------------ choosing


def chosen(rows: Sequence[Row], condition: str) -> list[Row]:
    """The rows for which a condition holds, as SQL has it: ``lr > 0.01 AND status = 'finished'``."""
    import polars as pl

    from dreamlake.engine.valuecolumn import frame_of

    if not rows:
        return []
    names = dict.fromkeys([*OWN, *(name for row in rows for name in (*row.parameters, *row.values))])
    of_names = {name: [_value(row, name) for row in rows] for name in names}
    columns = [_comparable(name, values) for name, values in of_names.items()]
    named: set[str] = set()
    example = "an example: \"lr > 0.01 AND status = 'finished'\""
    try:
        text, plain = _without_patterns(_quoted(condition, names), names)
        holds = pl.sql_expr(text)
        roots = [plain.get(name, name) for name in holds.meta.root_names()]
        named |= set(roots)
        missing = [name for name in roots if name not in names]
        if missing:
            raise Mistake(f"in --where: {_unknown(missing[0], [name for name in names if name not in OWN])}")
        again = [of_name.alias(alias) for alias, name in plain.items() for of_name in columns if of_name.name == name]
        mask = frame_of([*columns, *again]).select(holds.alias("")).to_series()
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0]
        texts = [c.name for c in columns if c.name in named and c.dtype == pl.String and _is_mixed(of_names[c.name])]
        hint = _how_to_compare(texts[0]) if texts else example
        raise Mistake(f"--where {condition!r} cannot be understood ({said}); {hint}") from None
    if mask.dtype != pl.Boolean or len(mask) not in (1, len(rows)):
        raise Mistake(f"--where {condition!r} is no condition; {example}")
    held = mask.to_list() if len(mask) == len(rows) else mask.to_list() * len(rows)
    return [row for row, is_so in zip(rows, held, strict=True) if is_so]


def _comparable(name: str, values: list[Any]) -> pl.Series:
    """The values of runs as a column for SQL; as texts where they are of several types.

    Not as JSON text, where a text has quotes: ``batch = 'auto'`` would find nothing, and not say why.
    """
    import polars as pl

    from dreamlake.engine.valuecolumn import value_column

    column = value_column(name, values)
    if column.dtype != pl.String or not _is_mixed(values):
        return column
    return pl.Series(name, [None if value is None else _plain_text(value) for value in values], pl.String)


def _is_mixed(values: list[Any]) -> bool:
    """Whether a column of text holds these as JSON."""
    return any(value is not None and type(value) is not str for value in values)


def _plain_text(value: Any) -> str:
    """A text as it is, a number as SQL casts it back, anything else as JSON."""
    from dreamlake.format.point import encode_text

    return str(value) if type(value) in (str, int, float) else encode_text(value)


def _how_to_compare(name: str) -> str:
    shown = name if re.fullmatch(r"[A-Za-z_]\w*", name) else f'"{name}"'
    return (
        f"the values of {name!r} are of several types, or beyond those of a column; compare them as texts, "
        f"{shown} = '32', or those that are numbers by TRY_CAST({shown} AS DOUBLE) = 32"
    )


def _value(row: Row, name: str) -> Any:
    if name in row.values:
        return row.values[name]
    return row.parameters[name] if name in row.parameters else row.about.get(OWN.get(name, ""))


def _quoted(condition: str, names: Collection[str]) -> str:
    """A condition with the names of columns, which may have dots, colons and slashes, in the quotes that SQL wants."""
    special = sorted((name for name in names if not re.fullmatch(r"[A-Za-z_]\w*", name)), key=len, reverse=True)
    pattern = "|".join(map(re.escape, special))
    parts = re.split(r"""('(?:[^']|'')*'|"[^"]*")""", condition)
    if not pattern:
        return condition
    bounded = re.compile(rf"(?<![\w.:/])(?:{pattern})(?![\w:/]|\.\w)")
    parts[::2] = [bounded.sub(lambda match: '"' + match[0].replace('"', '""') + '"', part) for part in parts[::2]]
    return "".join(parts)


def _without_patterns(condition: str, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """A condition in which no name in quotes is one that Polars takes for a pattern, ``*`` or ``^…$``.

    Beside it the names that stand in their place, and what each stands for.
    """
    plain: dict[str, str] = {}
    parts = re.split(r"""('(?:[^']|'')*'|"(?:[^"]|"")*")""", condition)
    for place, part in enumerate(parts):
        name = part[1:-1].replace('""', '"')
        if part[:1] == '"' and (name == "*" or (name[:1] == "^" and name[-1:] == "$")):
            alias = f"column {place}"
            while alias in names:
                alias += "_"
            plain[alias] = name
            parts[place] = f'"{alias}"'
    return "".join(parts), plain


def ordered(rows: Sequence[Row], column: Column, *, reverse: bool) -> list[Row]:
    """The rows by a column, lowest first (highest, with `reverse`); those without a value, or with NaN, last."""
    with_value = [row for row in rows if _is_value(row.values[column.text])]
    key: Callable[[Row], Any] = _key(with_value, column)
    return sorted(with_value, key=key, reverse=reverse) + [
        row for row in rows if not _is_value(row.values[column.text])
    ]


def _is_value(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _key(rows: Sequence[Row], column: Column) -> Callable[[Row], Any]:
    values = [row.values[column.text] for row in rows]
    if all(isinstance(value, int | float) for value in values) or all(isinstance(value, str) for value in values):
        return lambda row: row.values[column.text]
    # Of several types: numbers first, by what they are, then the rest by its text.
    return lambda row: (
        (0, row.values[column.text], "")
        if isinstance(row.values[column.text], int | float)
        else (1, 0, str(row.values[column.text]))
    )
