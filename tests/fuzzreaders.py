"""The readers of stored files as a fuzzer sees them: what each may be given, and what may come of it.

Allowed are the right values, and a `CorruptTrackError` (or another error that the library documents). "Right" is what
`docs/examples/reader.py`, which shares no code with the library, makes of the same bytes.
"""

from __future__ import annotations

import importlib.util
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from columnar import same as same_column
from strangers import make_run, read_all, run_command, sync
from values import same

from dreamlake import Lake, Session
from dreamlake.engine import late, logread
from dreamlake.engine.hotpart import HotPart, parse_hot
from dreamlake.engine.replica import state
from dreamlake.errors import CorruptTrackError, DreamlakeError
from dreamlake.format import footer, hot, pages, segment
from dreamlake.format.hot import HotLines
from dreamlake.format.point import encode_line, encode_lines
from dreamlake.format.schema import batch_from_points, to_points, ts_bounds
from dreamlake.format.segment import SegmentDamage, SegmentInfo, encode, open_segment
from dreamlake.format.segmentinfo import SegmentBounds
from dreamlake.lake import SessionView

Flip = Callable[[bytes, random.Random], bytes]

_spec = importlib.util.spec_from_file_location(
    "plain_reader", Path(__file__).resolve().parent.parent / "docs" / "examples" / "reader.py"
)
assert _spec is not None
assert _spec.loader is not None
plain_reader: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain_reader)


class Wrong(Exception):
    """A reader gave something else than what stands in the file."""


def limit_memory() -> None:
    """Let less memory count as too much, so that the limit is met often and costs little time."""
    pages.MAX_DECODED = 128 << 20


# ------------------------------------------------------------------------------------------------ JSON, mutated

#: Values that code which expects another trips over.
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    -0.0,
    1e308,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**40,
    10**400,
    "",
    "..",
    "../../x",
    "/etc",
    "\x1b[31m",
    "\x00",
    "é",
    "\ud800",
    "2026-11-24T13:20:00.000000+01:00",
    "9999-12-31T23:59:59.999999-23:59",
    "running",
    [],
    {},
    [[]],
    [None],
    {"": 1},
    {"$date": "2026-11-24T13:20:00.000000"},
    {"$numberDouble": "NaN"},
    {"$numberInt": "0x10"},
    {"$binary": {"base64": "AAE=", "subType": "00"}},
    {"$x": 1},
    {"list": "int"},
    {"struct": {"a": "double"}},
]
#: The same, for what Python's encoder does not write.
TEXTS = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"1E400",
    b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
]
TEXTS += [b'"\\ud800"', b'"\\u0000"', b"9" * 5000, b"0.1e-400", b"[1,2", b"tru", b'"\xff"', b"1 2", b"\xef\xbb\xbf{}"]
MARK = "@@the odd text@@"


def mutate_json(text: bytes, rnd: random.Random) -> bytes:
    """Put something odd in the place of a value, or of a key."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    odd_text = rnd.choice(TEXTS)
    value = _changed(value, rnd, MARK if rnd.random() < 0.3 else rnd.choice(ODD))
    made = json.dumps(value, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return made.replace(f'"{MARK}"'.encode(), odd_text)


def _changed(value: Any, rnd: random.Random, odd: Any, depth: int = 0) -> Any:
    if depth > 20 or not isinstance(value, dict | list) or not value or rnd.random() < 0.15:
        return odd
    if isinstance(value, list):
        at = rnd.randrange(len(value))
        return [*value[:at], _changed(value[at], rnd, odd, depth + 1), *value[at + 1 :]]
    key = rnd.choice(list(value))
    match rnd.randrange(12):
        case 0:
            return {k: v for k, v in value.items() if k != key}
        case 1:
            return {**value, rnd.choice(["", "_x", "_ts", "$date", "$$", "\ud800", "a.b", "x" * 300]): odd}
        case 2:
            return {(rnd.choice(["index", "data", "$k", "k"]) if k == key else k): v for k, v in value.items()}
        case _:
            return {**value, key: _changed(value[key], rnd, odd, depth + 1)}


def mutate_lines(data: bytes, rnd: random.Random, flip: Flip) -> bytes:
    """Mutate a line, or take lines out, double them, swap them."""
    if rnd.random() < 0.3:
        return flip(data, rnd)
    lines = data.split(b"\n")
    at, other = rnd.randrange(len(lines)), rnd.randrange(len(lines))
    match rnd.randrange(8):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[other])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at : at + 2] = [b"".join(lines[at : at + 2])]
        case _:
            lines[at] = mutate_json(lines[at], rnd)
    return b"\n".join(lines)


# ------------------------------------------------------------------------------------------------ the hot file

LINES = [
    b"".join(encode_line(i, {"value": i / 8, "epoch": i}, 1767.25 + i) for i in range(4)),
    encode_line(0, {"a": float("nan"), "b": b"\x00", "c": "}\n{", "$d": {"$x": [None, True, {}], "e": []}}, 1.5)
    + encode_line(1, {"q": [0.5, 2**70, [1, [2]]], "t": __import__("datetime").datetime(2026, 1, 1)}, 2.5)
    + encode_line(0, {"late": "ü"})
    + encode_line(2, {"none": None, "n": 10**700}, 3.5),
    encode_line(0, {"deep": json.loads("[" * 64 + "]" * 64)}, 1.0),
    b'{"data":{"_ts":1,"a":[1, 2]},"index":0}\r\n {"index" : 1,\t"data" : {"\\u0061" : 1 , "_t\\u0073" : 1E0 } } \n',
]


class Hot:
    """data.jsonl."""

    name = "hot"

    def __init__(self, folder: Path) -> None:
        """Nothing is kept on the disk."""

    def seeds(self) -> list[bytes]:
        return LINES

    def mutate(self, data: bytes, rnd: random.Random, flip: Flip) -> bytes:
        return mutate_lines(data, rnd, flip)

    def read(self, data: bytes) -> str:
        rest = parse_hot(data, 0, "data.jsonl", strict=False)
        each = hot._read_each(data[: data.rfind(b"\n") + 1], ())
        skipped = hot.parse(data, errors="skip")
        if not (each.indices == skipped.indices and same(*map(_ts_last, (each.points, skipped.points)))):
            raise Wrong("lines read in bulk are not those read one by one")
        try:
            part = parse_hot(data, 0, "data.jsonl", strict=True)
        except CorruptTrackError:
            self._use(rest)
            return "damage"
        self._use(part)
        expected = _as_others_read(data)
        if expected is not None and not same(_ts_last(part.points), expected):
            raise Wrong(f"{part.points!r:.300} for {expected!r:.300}")
        again = hot.parse(encode_lines(zip(part.indices, part.points, strict=True)))
        if not same(again.points, _ts_last(part.points)):
            raise Wrong("what was read is not read again when it is written")
        return "values"

    def _use(self, part: HotPart) -> None:
        if len(part) and all("_ts" in point for point in part.points):
            batch = part.batch
            if not all(map(_alike, to_points(batch.data, batch.schema), part.points)):
                raise Wrong("the columns hold other values than the points")


def _ts_last(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points with ``_ts`` at their end, where another program may not have written it."""
    return [dict(sorted(point.items(), key=lambda item: item[0] == "_ts")) for point in points]


def _as_others_read(data: bytes) -> list[dict[str, Any]] | None:
    """The points as docs/examples/reader.py reads them; None where it fails, as on forms that only others write."""
    try:
        points = [each["data"] for each in plain_reader.read_hot(data, 0)]
        return _ts_last([point | {"_ts": float(point["_ts"])} for point in points])
    except Exception:
        return None


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(same_column(other[key], one[key], widened=True) for key in one)


# ------------------------------------------------------------------------------------------------ segments


def _points(count: int) -> list[dict[str, Any]]:
    import datetime as dt

    at = dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    return [
        {
            "loss": i / 4,
            "step": i,
            "ok": i % 3 == 0,
            "name": f"run-{i % 3}",
            "q": [1.0 * i, 2.0],
            "j": [1, "a"],
            "t": at + dt.timedelta(seconds=i),
            "s": {"k": i, "l": [str(i)]},
            "b": b"ab",
            "n": None,
            "_ts": 1.0 + i,
        }
        for i in range(count)
    ]


def make_segment(points: list[dict[str, Any]], plain: bool = False) -> bytes:
    """The segment of these points; `plain`: its pages not compressed, as a stranger may write it."""
    batch = batch_from_points(points)
    before = (SegmentBounds(0, 10, 0, 0.5, 0.75, True), SegmentBounds(10, 20, 1, -1.0, 2.0, False))
    info = SegmentInfo("loss", 20, 20 + len(batch), 0, *ts_bounds(batch), batch.schema, batch.schema, before)
    if not plain:
        return bytes(encode(batch, info))
    real = segment._write_options
    segment._write_options = lambda *args: {**real(*args), "compression": "none", "compression_level": None}
    try:
        return bytes(encode(batch, info))
    finally:
        segment._write_options = real


def bomb() -> bytes:
    """A megabyte of text, many times, by a dictionary of a JSON column."""
    from dreamlake.format.schema import TS_FIELD, Batch

    text = pa.array(['"' + "x" * (1 << 20) + '"']).take(pa.nulls(300, pa.int32()).fill_null(0))
    column = pa.ExtensionArray.from_storage(pa.json_(), text)
    ts = pa.array([1.0 * i for i in range(300)])
    data = pa.RecordBatch.from_arrays([ts, column], schema=pa.schema([TS_FIELD, ("x", pa.json_())]))
    real, size = segment._write_options, segment.decoded_size
    segment._write_options = lambda *args: {**real(*args), "use_dictionary": ["x"], "column_encoding": None}
    segment.decoded_size = lambda batch: 0  # it is refused otherwise
    try:
        return bytes(
            encode(
                Batch({"x": "json"}, data), SegmentInfo("t", 0, 300, 0, 0.0, 299.0, True, {"x": "json"}, {"x": "json"})
            )
        )
    finally:
        segment._write_options, segment.decoded_size = real, size


def footer_start(data: bytes) -> int:
    """Where the footer begins, by what the end of the file says; nonsense in a damaged file."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def signed(data: bytes) -> bytes:
    """The file with the right length and checksum of its footer; as it is where that has no place any more."""
    start = footer_start(data)
    mark = data.rfind(footer.CRC_MARK)
    if not 4 <= start < mark or len(data) < 20:
        return data
    at = mark + len(footer.CRC_MARK)
    blank = data[:at] + b"00000000" + data[at + 8 :]
    return data[:at] + b"%08x" % zlib.crc32(blank[start:]) + data[at + 8 :]


_KEYS = [b"dreamlake.segment", b"dreamlake.track"]


class Segment:
    """A Parquet segment: footer and pages, the checksums mostly put right again."""

    name = "segment"

    def __init__(self, folder: Path) -> None:
        """Nothing is kept on the disk."""
        self._plain: bytes = b""

    def seeds(self) -> list[bytes]:
        scalars = [{"a": i / 2, "i": i, "_ts": 1.0 * i} for i in range(50)]
        nested = [{"l": [[i], None, []], "s": {"x": {"y": [None]}}, "$d": None, "_ts": -1.0 * i} for i in range(5)]
        rows = [make_segment(points, plain) for points in (_points(5), scalars, nested) for plain in (False, True)]
        return [*rows, bomb()]

    def mutate(self, data: bytes, rnd: random.Random, flip: Flip) -> bytes:
        start = footer_start(data)
        if not 4 <= start < len(data) - 8:
            return flip(data, rnd)
        body, footer = data[:start], data[start:-8]
        match rnd.randrange(8):
            case 0:
                return flip(data, rnd)
            case 1 | 2:
                footer = flip(footer, rnd)
            case 3 | 4:
                footer = _change_claims(footer, rnd)
            case 5:
                footer = _change_numbers(footer, rnd)
            case _:
                body = _change_page(data, start, rnd, flip)
        return signed(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")

    def read(self, data: bytes) -> str:
        try:
            opened = open_segment(data)
            table = opened.read()
        except SegmentDamage:
            self._read_parts(data)
            return "damage"
        if table.nbytes > pages.MAX_DECODED:
            raise Wrong("it takes more memory than a segment may")
        table.validate(full=True)
        self._read_parts(data)
        first, last = opened.info.start, opened.info.start + table.num_rows
        middle = (first + last) // 2
        if not _equal(opened.read(None, middle, last), table.slice(middle - first)):
            raise Wrong("a part is not the part of the whole")
        expected = pa.parquet.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
        if not _equal(_storage(table), _storage(expected.select(table.column_names))):
            raise Wrong("other columns than Parquet's own reader gives")
        try:
            points = to_points(table, opened.info.schema)
        except ValueError:
            return "no values"
        for point in points[:100]:
            encode_line(0, {k: v for k, v in point.items() if k != "_ts"}, None)
        return "values"

    def _read_parts(self, data: bytes) -> None:
        try:
            opened = open_segment(lambda start, stop: data[start:stop], len(data))
            for name in opened.footer.columns:
                opened.read([name])
        except SegmentDamage:
            return


def _equal(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables show the same; Arrow's own comparison tells NaN from NaN."""
    if one.equals(other):
        return True
    texts = [[column.combine_chunks().to_string(window=1 << 30) for column in table.columns] for table in (one, other)]
    return bool(one.schema.equals(other.schema) and texts[0] == texts[1])


def _storage(table: pa.Table) -> pa.Table:
    columns = [
        pa.chunked_array([getattr(chunk, "storage", chunk) for chunk in column.chunks] or [pa.nulls(0)])
        for column in table.columns
    ]
    return pa.table(columns, names=[str(at) for at in range(len(columns))])


def _change_claims(footer: bytes, rnd: random.Random) -> bytes:
    """Mutate the JSON of one of dreamlake's keys, its length put right."""
    key = rnd.choice(_KEYS)
    at = footer.rfind(b"\x18" + bytes([len(key)]) + key + b"\x18") + len(key) + 3
    if at < len(key) + 3:
        return footer
    length = shift = 0
    end = at
    while end < len(footer):
        length |= (footer[end] & 0x7F) << shift
        shift += 7
        end += 1
        if footer[end - 1] < 0x80:
            break
    text = mutate_json(footer[end : end + length], rnd)
    return footer[:at] + _varint(len(text)) + text + footer[end + length :]


def _varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def _change_numbers(footer: bytes, rnd: random.Random) -> bytes:
    """Put another number, of any length, in the place of one of Thrift's."""
    places = [at for at in range(len(footer) - 1) if footer[at] in (0x15, 0x16, 0x25, 0x26)]
    if not places:
        return footer
    at = end = rnd.choice(places) + 1
    while end < len(footer) - 1 and footer[end] >= 0x80:
        end += 1
    value = rnd.choice([0, 1, 2, 3, 5, 8, 100, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]) * rnd.choice([1, 2])
    return footer[:at] + _varint(value) + footer[end + 1 :]


def _change_page(data: bytes, start: int, rnd: random.Random, flip: Flip) -> bytes:
    """Mutate the bytes or the header of one page, and mostly put its checksum right."""
    heads = [*pages._DATA_PAGE.finditer(data, 0, start), *pages._DICTIONARY_PAGE.finditer(data, 0, start)]
    if not heads:
        return flip(data[:start], rnd)
    head = rnd.choice(heads)
    body = bytearray(data[:start])
    if rnd.random() < 0.3:
        at = rnd.choice([head.start(group) for group in range(1, len(head.groups()) + 1)])
        body[at] = rnd.choice([0, 2, 4, 6, 8, 10, 16, 18, 126, body[at] ^ 2])
        return bytes(body)
    try:
        begin = pages._after_header(memoryview(data), head.start())
        size = pages._number(head[2])
    except ValueError:
        return bytes(body)
    page = bytearray(body[begin : begin + size])
    for _ in range(rnd.choice([1, 1, 3])):
        if page:
            at = rnd.randrange(min(len(page), rnd.choice([4, 16, 1 << 16])))
            page[at] = rnd.choice([0, 1, 2, 0x7F, 0x80, 0xFF, page[at] ^ (1 << rnd.randrange(8)), rnd.randrange(256)])
    body[begin : begin + size] = page
    (checksum,) = struct.unpack("<i", struct.pack("<I", zlib.crc32(page)))
    new = _varint((checksum << 1) ^ (checksum >> 31))
    if len(new) == head.end(3) - head.start(3):
        body[head.start(3) : head.end(3)] = new
    return bytes(body)


# ------------------------------------------------------------------------------------------------ small files


class Files:
    """One of several small files of a run, which the first byte chooses: everything that reads or resumes the run."""

    name = ""
    files: tuple[str, ...] = ()
    #: One in so many inputs is also resumed and written to, and shown on the command line.
    rarely = 8

    def __init__(self, folder: Path) -> None:
        self.root = folder / "lake"
        if not self.root.exists():
            make_run(self.root)
        self.run = self.root / "w" / "s"
        self.before = {path: path.read_bytes() for path in self.run.rglob("*") if path.is_file()}

    def seeds(self) -> list[bytes]:
        return [bytes([at]) + self.before[self.run / name] for at, name in enumerate(self.files)] + [
            bytes([at]) + data for at, name in enumerate(self.files) for data in MORE.get(name, ())
        ]

    def mutate(self, data: bytes, rnd: random.Random, flip: Flip) -> bytes:
        which, text = data[:1], data[1:]
        if rnd.random() < 0.05:
            which = bytes([rnd.randrange(len(self.files))])
        if self.files[(which or b"\0")[0] % len(self.files)].endswith(".jsonl"):
            return which + mutate_lines(text, rnd, flip)
        return which + (flip(text, rnd) if rnd.random() < 0.3 else mutate_json(text, rnd))

    def read(self, data: bytes) -> str:
        which = data[0] % len(self.files) if data else 0
        path = self.run / self.files[which]
        path.write_bytes(data[1:])
        draw = zlib.crc32(data)
        try:
            damaged = sum(map(self._allowed, self._look()))
            if draw % self.rarely == 0:
                damaged += sum(map(self._allowed, self._write()))
            if draw % 16 == 1:
                damaged += self._show()
                damaged += sum(map(self._allowed, sync(self.root)[0]))
            if draw % 64 == 2:
                damaged += sum(map(self._allowed, [*read_all(self.root, "raise"), *read_all(self.root, "skip")]))
            return "damage" if damaged else "values"
        finally:
            if draw % self.rarely == 0 or draw % 16 == 1:
                self._restore()  # something was written
            else:
                path.write_bytes(self.before[path])

    def _look(self) -> Iterator[Callable[[], Any]]:
        """What reads these files, and is done with each input."""
        lake = Lake(self.root)
        view = SessionView(lake._store, "w", "s")
        yield lake.sessions
        yield lambda: lake.session("s", "w")
        yield lambda: view.info
        yield view.parameters().get
        yield lambda: view.parameters().to_polars()
        yield view.tracks.list
        yield view.track("loss").stats

    def _allowed(self, work: Callable[[], Any]) -> bool:
        """Do it; whether it failed in a way that is documented."""
        try:
            work()
        except (DreamlakeError, OSError):
            return True
        except ValueError as error:
            # Names that the disk does not tell apart.
            if "belongs to the track" in str(error) or "would share the folder" in str(error):
                return True
            raise
        return False

    def _show(self) -> bool:
        lake = str(self.root)
        failed = False
        for argv in (["ls", lake], ["show", "w/s", "--path", lake], ["show", "w/s", "--path", lake, "--json"]):
            status, printed = run_command(argv)
            failed = failed or status != 0
            if status not in (0, 1, 2):
                raise Wrong(f"{argv[0]} ended with {status}")
            if not printed.replace("\n", "").isprintable():
                raise Wrong(f"{argv[0]} prints control characters: {printed!r:.500}")
        return failed

    def _write(self) -> Iterator[Callable[[], Any]]:
        session = Session("s", "w", self.root, segment_points=4, flush_interval=60)
        yield session.open
        if not session.is_open:
            return
        track = session.track("loss")
        yield lambda: track.append(value=1.0, late=1, _ts=101.0).append(value=2.0).flush()
        yield lambda: session.track("loss", metadata={"m": 1}, tags=["x"]).flush()
        yield lambda: session.parameters().set(lr=0.2)
        yield lambda: session.log("again")
        yield session.flush
        yield session.close
        if session.is_open:
            session.writer.logs.clear()
            for each in session.writer.tracks.values():
                each.pending.clear()
                each.described = {}
            session.writer.wrote = False
            session.close()

    def _restore(self) -> None:
        for path in [path for path in self.run.rglob("*") if path.is_file()]:
            if path not in self.before:
                path.unlink()
        for path, data in self.before.items():
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)


class About(Files):
    """session.json, parameters.json, metadata.json."""

    name = "about"
    files = (
        "session.json",
        "parameters.json",
        "tracks/loss/metadata.json",
        "hosts/abc/session.json",
        "hosts/abc/parameters.json",
    )


class Logs(Files):
    """Files of the log."""

    name = "logs"
    rarely = 32
    files = ("logs/logs.jsonl", "logs/0.jsonl", "hosts/abc/logs/logs.jsonl")

    def _look(self) -> Iterator[Callable[[], Any]]:
        view = SessionView(Lake(self.root)._store, "w", "s")
        for errors in ("raise", "skip"):
            yield lambda errors=errors: view.logs(errors=errors)


class State(Files):
    """What only this machine's writers and uploads read: .lock, .replica.json, .away.jsonl, .late.jsonl."""

    name = "state"
    files = (".lock", ".replica.json", "tracks/loss/.away.jsonl", "tracks/loss/.late.jsonl")
    rarely = 1

    def mutate(self, data: bytes, rnd: random.Random, flip: Flip) -> bytes:
        if rnd.random() < 0.6:  # reading it takes a hundredth of what a run takes that is resumed
            which = self.files.index(".replica.json")
            data = bytes([which]) + rnd.choice([*MORE[".replica.json"], data[1:]])
        return super().mutate(data, rnd, flip)

    def _look(self) -> Iterator[Callable[[], Any]]:
        return iter(())

    def read(self, data: bytes) -> str:
        which = self.files[data[0] % len(self.files) if data else 0]
        if which == ".replica.json":
            path = self.run / which
            path.write_bytes(data[1:])
            try:
                found = state.load(str(self.run))
                state.save(str(self.run), found)
                _ = [track.segments for remote in found.remotes.values() for track in remote.tracks.values()]
                if state.load(str(self.run)) != found:
                    raise Wrong("another state when it is read again")
                return "values"
            finally:
                self._restore()
        if which.endswith(".late.jsonl"):
            (self.run / which).write_bytes(data[1:])
            self._allowed(lambda: late.wanted(str(self.run / "tracks" / "loss")))
        return super().read(data)


_SENT = '{"version":"v","sha":"00","lately":["00"]}'
#: More to begin with.
MORE = {
    ".replica.json": [
        b'{"machine":"a1","remotes":{"u":{"tracks":{"tracks/loss":{"runs":[[0,4,2,0]]}}}}}',
        (
            '{"machine":"0123456789abcdef","remotes":{"s3://b/p":{"origin":true,"files":{"session.json":' + _SENT + "},"
            '"base":{"lr":1},"tracks":{"tracks/loss":{"hot":' + _SENT + ',"about":' + _SENT + ',"runs":[[0,4,2,0]],'
            '"superseded":{"000000000000-000000000004.parquet":1.5}}}}}}'
        ).encode(),
    ],
    "tracks/loss/.away.jsonl": [
        b'{"segment":"000000000000-000000000004.parquet","bytes":9,"tsMin":100.0,"tsMax":103.0,"tsRising":true,'
        b'"schema":{"value":"double","q":{"list":"int"},"t":"timestamp:+02:00"}}\n'
    ],
}

READERS: dict[str, Any] = {each.name: each for each in (Hot, Segment, About, Logs, State)}


# ------------------------------------------------------------------------------------------------ planted bugs


class Bug(NamedTuple):
    """A defect to patch into the library: the reader that shows it, and how it is planted."""

    reader: str
    plant: Callable[[], None]


def _patch(owner: Any, name: str, new: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, new)


def _read_line_without_names(line: bytes) -> tuple[int, dict[str, Any]]:
    item = hot._decoder.decode(line)
    return item.index, item.data


def _lose_a_line() -> None:
    real = hot._read_each

    def read_each(whole: bytes, known: Any) -> HotLines:
        lines = real(whole, known)
        lines.damaged.clear()
        return lines

    hot._read_each = read_each


def _believe_pages() -> None:
    pages.decoded_bound = lambda data, chunk: (0, 0)


def _let_errors_pass() -> None:
    import contextlib

    segment.damage_at = footer.damage_at = lambda place: contextlib.nullcontext()


def _any_object() -> None:
    from dreamlake.format import about

    about.decode = json.loads
    about.check = lambda fields: fields


def _any_number() -> None:
    class Decoder:
        decode = staticmethod(json.loads)

    logread._decoder = Decoder()


PLANTED = {
    "a damaged line is left out without a word": Bug("hot", _lose_a_line),
    "special values and reserved names of a line are not looked at": Bug(
        "hot", _patch(hot, "_read_line", _read_line_without_names)
    ),
    "lines are counted, and a newline within a value is not seen": Bug(
        "hot", _patch(hot, "_is_one_a_line", lambda whole, brackets, count: True)
    ),
    "what pages promise is believed": Bug("segment", _believe_pages),
    "what Arrow raises on forged bytes is passed on": Bug("segment", _let_errors_pass),
    "session.json may be any JSON": Bug("about", _any_object),
    "a log record may hold numbers without end": Bug("logs", _any_number),
    "the state of a replica is not checked": Bug("state", _patch(state, "_check", lambda found: None)),
}
