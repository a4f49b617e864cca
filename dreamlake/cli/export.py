"""``dreamlake export``: tracks as CSV, Parquet or JSON lines, in bounded memory, to files that appear when complete."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import click

from dreamlake.cli.completion import complete_files, complete_tracks
from dreamlake.cli.options import WholeNumber, lake_options, run_argument
from dreamlake.cli.places import Mistake, find_run, find_track
from dreamlake.cli.progress import Bar, bar
from dreamlake.cli.text import clean, complain, say, size_text, words_of
from dreamlake.errors import DreamlakeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pyarrow as pa

    from dreamlake.engine.snapshot import Snapshot
    from dreamlake.format.logical import TrackSchema
    from dreamlake.lake import SessionView

    #: Writes the points [start, stop) of a snapshot.
    Write = Callable[[int, int], None]

FORMATS = ("csv", "parquet", "jsonl")
#: One file for all tracks: an event file of TensorBoard.
EVENTS = "tensorboard"
#: Points that are held at a time, and the bytes that they may take in about the form in which they are stored.
MOST_POINTS, MOST_BYTES = 100_000, 8 << 20
STDOUT = "-"
#: The bytes that a name may have in a folder, and those of the digest that a longer one ends in.
MAX_NAME_BYTES, DIGEST_BYTES = 255, 9


@click.command("export", short_help="write tracks as CSV, Parquet or JSON lines")
@run_argument
@click.argument("tracks", nargs=-1, metavar="[TRACK]...", shell_complete=complete_tracks)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="PLACE",
    shell_complete=complete_files,
    help="A file for one track, a folder (one that is there, or with a / at its end) for several, or - for "
    "standard output.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice((*FORMATS, EVENTS)),
    help="What to write; by default what the name of the file ends in.",
)
@click.option(
    "--start", type=WholeNumber(), default=0, metavar="INDEX", help="The first index; from the end if negative."
)
@click.option("--limit", type=WholeNumber(0), metavar="N", help="The most points of each track; all by default.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@lake_options
def command(
    run: str,
    tracks: tuple[str, ...],
    output: str,
    kind: str | None,
    start: int,
    limit: int | None,
    force: bool,
    path: str,
    storage_options: dict[str, Any] | None,
) -> int:
    """Write tracks of a run (all of them by default) to files of this machine, or to standard output.

    Columns are _index, _ts (seconds since the epoch) and the fields. A file appears when it is complete; one that is
    there is replaced only with --force. A track of any length takes little memory. Where one of several tracks cannot
    be written, it is named, the others are, and the exit status is 1.

    jsonl keeps every value: a field that a point lacks is left out, None is null, and what JSON has no form for is
    written as in data.jsonl: {"$numberDouble": "NaN"}, {"$binary": …}, {"$date": …}. parquet has the columns of
    track.to_arrow(): a field that is absent and one that is None are both null, and fields of several types are JSON
    text, which dreamlake import takes for what it says. In csv lists, dicts, bytes and fields of several types are JSON
    text, datetimes are ISO 8601 with the offset that they were given with, numbers have all their digits, and what is
    absent or None is empty. What csv cannot tell: a None from an absent field, for most readers an empty text from
    both, and a number from a text of digits.

    tensorboard (its extra) writes one event file for all tracks into the folder PLACE: each field of numbers is a tag,
    track/field, or the track alone for a field named value. The step is the field step, or the index.

    \b
    dreamlake export hello/first train -o train.csv
    dreamlake export hello/first -o exported/ --format parquet
    dreamlake export s3://my-team/lake/hello/first train --start -100 -o - --format jsonl
    """
    view = find_run(run, path, storage_options)
    names = list(dict.fromkeys(tracks)) or view.tracks.list()
    for name in names:
        find_track(view, name)
    if not names:
        raise Mistake(f"{view.workspace}/{view.name} has no track yet")
    if kind == EVENTS:
        return _export_events(view, names, output, start, limit, force)
    places = _places(names, bool(tracks), output, kind)
    for place, _ in places:
        if place != STDOUT and os.path.lexists(place):
            if not os.path.isfile(place):
                raise Mistake(f"{place} is there, and no plain file; name another")
            if not force:
                raise Mistake(f"{place} is there already; --force replaces it")
    with bar("exporting", "points") as shown:
        failed = 0
        for name, (place, form) in zip(names, places, strict=True):
            try:
                _export(view, name, place, form, start, limit, force, shown)
            except BrokenPipeError:
                raise
            except (Mistake, DreamlakeError, OSError, ValueError) as error:
                if len(names) == 1:
                    raise
                failed += 1
                shown.hide()
                complain(f"{name}: {words_of(error)}")
    return 1 if failed else 0


def _places(names: list[str], named: bool, output: str, kind: str | None) -> list[tuple[str, str]]:
    """Where each track goes, and in which form."""
    if "://" in output:
        raise Mistake("-o is a file or folder of this machine, not a URL; export to a file, and copy that")
    ending = os.path.splitext(output)[1].lower().removeprefix(".")
    if output == STDOUT:
        if len(names) > 1:
            raise Mistake(f"standard output takes one track; name one of {', '.join(names[:5])}, or a folder with -o")
        if kind is None:
            raise Mistake(f"standard output has no ending that tells the format; give --format {'|'.join(FORMATS)}")
        if kind == "parquet" and sys.stdout.isatty():
            raise Mistake("parquet is no text for a terminal; give a file with -o, or send it to a program with |")
        return [(STDOUT, kind)]
    output = os.path.expanduser(output)
    is_folder = output.endswith(("/", os.sep)) or os.path.isdir(output)
    if not is_folder and ending in FORMATS and len(names) > 1:
        asked = "are asked for" if named else "are there"
        raise Mistake(
            f"{output} is a file, and {len(names)} tracks {asked}; name one track, or a folder (with a / at its end)"
        )
    if is_folder or len(names) > 1:
        if kind is None:
            raise Mistake(f"a folder has no ending that tells the format; give --format {'|'.join(FORMATS)}")
        return [(os.path.join(output, *file), kind) for file in _files(names, kind)]
    if kind is None and ending not in FORMATS:
        raise Mistake(f"{output} does not end in .csv, .parquet or .jsonl; give --format {'|'.join(FORMATS)}")
    return [(output, kind or ending)]


def _files(names: list[str], kind: str) -> list[list[str]]:
    """The files of tracks, by their folders and names below one folder: no two of them are in each other's way."""
    from dreamlake.format.layout import encode_component

    files = []
    for name in names:
        *above, base = map(encode_component, name.split("/"))
        files.append((*above, _fitting(name, base, f".{kind}")))
    # A folder train.csv, of the track train.csv/b, cannot be where the file of the track train is.
    taken = set(files)
    folders = {file[:depth] for file in files for depth in range(1, len(file))}
    others = {}
    for folder in sorted(folders & taken):
        other = folder
        while other in taken or other in folders:
            other = (*other[:-1], f"{other[-1]}~")
        folders.add(other)
        others[folder] = other[-1]
    return [
        [others.get(file[: at + 1], part) if at + 1 < len(file) else part for at, part in enumerate(file)]
        for file in files
    ]


def _fitting(name: str, base: str, ending: str) -> str:
    """The name of a track's file; where it is too long for a folder, its beginning and a digest of the track's name."""
    if len((base + ending).encode()) <= MAX_NAME_BYTES:
        return base + ending
    import hashlib

    room = MAX_NAME_BYTES - DIGEST_BYTES - len(ending)
    digest = hashlib.sha256(name.encode()).hexdigest()[: DIGEST_BYTES - 1]
    return f"{base.encode()[:room].decode(errors='ignore')}~{digest}{ending}"


def _export(
    view: SessionView, name: str, place: str, form: str, start: int, limit: int | None, force: bool, shown: Bar
) -> None:
    from dreamlake.view import _range

    snapshot = view.track(name)._snapshot(described=True, wanted=(start, limit))
    first, stop = _range(start, limit, snapshot.total)
    with _file(place, force) as file, _writer(snapshot, form, file) as write:
        shown.more(stop - first)
        for begin, end in _windows(snapshot, first, stop):
            write(begin, end)
            shown.advance(end - begin)
    if place != STDOUT:
        shown.hide()
        points = "1 point" if stop - first == 1 else f"{stop - first:,} points"
        say(clean(f"{name}: {points}, {size_text(os.path.getsize(place))}, in {place}"))


def _export_events(view: SessionView, names: list[str], folder: str, start: int, limit: int | None, force: bool) -> int:
    """Write the numbers of tracks as one event file of TensorBoard."""
    from datetime import datetime

    from dreamlake.integrations.events import EventFile, SameTag
    from dreamlake.view import _range

    if folder == STDOUT or "://" in folder or os.path.isfile(os.path.expanduser(folder)):
        raise Mistake("an event file goes into a folder of this machine; name one with -o")
    started = datetime.fromisoformat(view.info["createdAt"]).timestamp()
    place = os.path.join(os.path.expanduser(folder), f"events.out.tfevents.{int(started):010}.dreamlake")
    if os.path.lexists(place) and not force:
        raise Mistake(f"{place} is there already; --force replaces it")
    left: set[str] = set()
    try:
        with bar("exporting", "points") as shown, _file(place, force) as file:
            events = EventFile(file, started)
            for name in names:
                snapshot = view.track(name)._snapshot(described=True, wanted=(start, limit))
                first, stop = _range(start, limit, snapshot.total)
                shown.more(stop - first)
                for begin, end in _windows(snapshot, first, stop):
                    left |= {f"{name}/{field}" for field in events.add(name, snapshot.table(begin, end), begin)}
                    shown.advance(end - begin)
    except ImportError as error:
        raise OSError(str(error)) from None
    except SameTag as error:
        raise Mistake(str(error)) from None
    tracks = "1 track" if len(names) == 1 else f"{len(names):,} tracks"
    say(clean(f"{tracks}, {size_text(os.path.getsize(place))}, in {place}"))
    if left:
        say(clean(f"  left out, since they are no numbers: {', '.join(sorted(left))}"))
    return 0


def _windows(snapshot: Snapshot, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The range in stretches that fit into memory, cut where segments are likely to begin."""
    points = MOST_POINTS
    if snapshot.total:
        fitting = MOST_BYTES * snapshot.total // max(1, snapshot.bytes)
        while points > 1000 and points > fitting:
            points //= 10
    while start < stop:
        end = min(stop, (start // points + 1) * points)
        yield start, end
        start = end


@contextmanager
def _file(place: str, force: bool) -> Iterator[BinaryIO]:
    """A file to write, which has its name when the block ends, and is gone when it fails."""
    if place == STDOUT:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    from dreamlake.storage.local import commit_new, remove_quietly

    folder, base = os.path.split(os.path.abspath(place))
    os.makedirs(folder, exist_ok=True)
    unfinished = os.path.join(folder, f".{base[:60]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(unfinished, "xb") as file:
            yield file
        if force:
            os.replace(unfinished, place)
        else:
            commit_new(unfinished, place)
    except FileExistsError:
        raise Mistake(f"{place} is there already; --force replaces it") from None
    except OSError as error:
        if error.filename != unfinished:
            raise
        raise OSError(error.errno, error.strerror, place) from None  # not the name that nobody gave
    finally:
        remove_quietly(unfinished)


# ------------------------------------------------------------------------------------------------ the formats


@contextmanager
def _writer(snapshot: Snapshot, form: str, file: BinaryIO) -> Iterator[Write]:
    """What writes stretches of a snapshot to a file, one after the other."""
    if form == "jsonl":
        yield lambda start, stop: _write_lines(snapshot, file, start, stop)
    elif form == "csv":
        file.write(_csv(snapshot.table(0, 0), snapshot.schema, header=True))
        yield lambda start, stop: _write_all(file, _csv(snapshot.table(start, stop), snapshot.schema, header=False))
    else:
        import pyarrow.parquet as pq

        schema = _marked(snapshot.table(0, 0).schema, snapshot.schema)
        with pq.ParquetWriter(_Sink(file), schema, compression="zstd") as writer:
            yield lambda start, stop: writer.write_table(snapshot.table(start, stop))


def _marked(schema: pa.Schema, fields: TrackSchema) -> pa.Schema:
    """`schema` with a mark at the strings that are JSON text, so that an import gives the values back."""
    import pyarrow as pa

    from dreamlake.format.logical import JSON_MARK

    return pa.schema([each.with_metadata(JSON_MARK) if fields.get(each.name) == "json" else each for each in schema])


def _write_all(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _write_lines(snapshot: Snapshot, file: BinaryIO, start: int, stop: int) -> None:
    from dreamlake.format.extjson import dict_to_json, encoder

    rows = []
    for index, point in snapshot.points(start, stop):
        forms = dict_to_json(point)
        rows.append({"_index": index, "_ts": forms["_ts"], **{k: v for k, v in forms.items() if k != "_ts"}})
    file.write(encoder().encode_lines(rows))


def _csv(table: pa.Table, fields: TrackSchema, *, header: bool) -> bytes:
    """The rows of a table as CSV; `fields` tells what its columns hold."""
    import io

    import pyarrow as pa

    from dreamlake.engine.scan import polars_frame
    from dreamlake.format.columns import column_values

    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string, pa.types.is_null)
    for place, field in enumerate(table.schema):
        if not any(test(field.type) for test in plain):
            # Not Arrow's own values: these have no offset, and none at all near the years 1 and 9999.
            values = column_values(table.column(place), fields[field.name])
            texts = pa.array(map(_cell, values), pa.string())
            table = table.set_column(place, field.name, texts)
    out = io.BytesIO()
    polars_frame(table).write_csv(out, include_header=header)
    return out.getvalue()


def _cell(value: Any) -> str | None:
    """A value that is no number and no text, as the text of a cell."""
    from datetime import datetime

    from dreamlake.format.point import encode_text

    if value is None:
        return None
    return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else encode_text(value)


class _Sink:
    """A file for PyArrow, which asks where it is, as a pipe does not know."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._place = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._place += len(data)
        return len(data)

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Leave the file open: who opened it closes it."""
