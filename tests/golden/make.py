"""Makes sets of golden runs with the library of this tree: ``cd tests && python -m golden.make``; see README.md."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import polars as pl  # noqa: E402
import pyarrow as pa  # noqa: E402
from model import ModelTrack  # noqa: E402
from s3.server import BUCKET, S3Server  # noqa: E402

import dreamlake.engine.logfile  # noqa: E402
from dreamlake import Lake, Session, __version__  # noqa: E402
from golden.exact import pack  # noqa: E402

#: The replica's URL as it stands in the set; whoever uses the set puts its own there.
URL = f"s3://{BUCKET}/golden"
ABSENT = object()
NAN, INF = math.nan, math.inf
UTC = dt.UTC


def _hours(hours: float) -> dt.timezone:
    return dt.timezone(dt.timedelta(hours=hours))


#: Columns of one kind each; row i has the value i of each, and they begin anew where they end.
KINDS: dict[str, list[Any]] = {
    "double": [0.5, NAN, INF, -INF, -0.0, 5e-324, 1.7976931348623157e308, 0.1],
    "int": [0, -1, 2**53, -(2**53), 7],
    "int64": [2**63 - 1, -(2**63), 2**53 + 1, 0],
    "numbers": [1, 2.5, 3, -0.0, 2**53],
    "big": [2**64, 10**700, -(2**63) - 1, 1],
    "bool": [True, False, None],
    "text": ["", "é\u2028\x00", "$date", "\U0001f600", '{"', "\\u005f"],
    "bytes": [b"", b"\x00\xff", b"x", None],
    "naive": [dt.datetime(2026, 11, 24, 13, 20, 1, 5), dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 1)],
    "utc": [dt.datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC), dt.datetime(1969, 12, 31, tzinfo=UTC)],
    "offset": [dt.datetime(2026, 5, 1, 12, tzinfo=_hours(-5.5)), dt.datetime(1900, 1, 1, tzinfo=_hours(-5.5))],
    "offsets": [dt.datetime(2026, 5, 1, tzinfo=_hours(hours)) for hours in (-12, 0, 5.75, 14)],
    "odd_offset": [dt.datetime(2026, 5, 1, tzinfo=dt.timezone(-dt.timedelta(seconds=61, microseconds=7)))],
    "floats": [[], [0.5, NAN, -0.0], [1.0, None], [INF]],
    "matrix": [[[1.0, 2.0], [3.0, 4.0]], [[0.0, -0.0], []]],
    "ints": [[1, 2], [], [2**60]],
    "struct": [{"a": [1], "b": {"c": None, "d": "x"}}, {"a": [], "b": {"c": None, "d": ""}}],
    "dates": [[dt.datetime(2026, 1, 1, tzinfo=_hours(2)), None], []],
    "null": [None],
    "empty": [[]],
    "mixed": [1, "1", 1.0, True, None, [1], {"k": b"v"}, ABSENT, dt.datetime(2026, 1, 1)],
    "mixed_list": [[1, "a"], [None], [[]], [b"x"], [{"k": 1}], [2**70], [True, 1, 1.0]],
    "keys_vary": [{}, {"a": 1}, {"b": 1}, {"$a": 1}, {"$numberDouble": "NaN"}, {"$$x": {"$date": "no"}}, {"\x00": 0}],
    "sometimes": [1.5, ABSENT, None, ABSENT],
    "rarely": [ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, "now"],
    "": ["the name is empty"],
    "a.b": [0.25],
    "$date": ["a name like a form"],
    "self": [1],
    "index": [10, 20],
    "data": ["data"],
    "é 漢": [1],
}
NAMES = ["robot/position/left-camera", "robot/position", "lr=0.1", "漢字/é", "CON", "a b: 100%", "...x", "[1]/*?"]


#: Points of the track that is merged: one wide segment of ten row groups; behind it points in a segment, and hot ones.
WIDE, WIDE_BEHIND = 100_000, 10_003
#: Points of the wide segment that got a field, before it was merged and after.
WIDE_LATE = (12_345, 87_654)


def wide_points(start: int, stop: int) -> dict[str, list[Any]]:
    """The points of the long track as columns, to be computed where their list would be too long."""
    rows = range(start, stop)
    return {
        "_ts": [float(i) for i in rows],
        "step": list(rows),
        "loss": [1 / (1 + i % 1000) for i in rows],
        "phase": [("warm up", "train")[i // 50_000 % 2] for i in rows],
        "q": [[float(i % 7), -float(i % 5)] for i in rows],
    }


class Book:
    """A session that is written to, and what each of its tracks must hold then."""

    def __init__(self, session: Session, models: dict[str, ModelTrack]) -> None:
        self.session = session
        self.models = models

    def put(self, track: str, /, **fields: Any) -> None:
        """Append one point."""
        self.session.track(track).append(**fields)
        latest = self.session.writer.clock.latest
        assert latest is not None
        self._note(track, fields, latest, "_ts" not in fields)

    def batch(self, track: str, given: Any, rows: list[dict[str, Any]]) -> None:
        """Append a batch in any form; `rows` are its points, with `_ts` each."""
        self.session.track(track).append_batch(given)
        for row in rows:
            self._note(track, row, row["_ts"], False)

    def _note(self, track: str, fields: Mapping[str, Any], ts: float, automatic: bool) -> None:
        named = {name: value for name, value in fields.items() if name != "_ts"}
        self.models.setdefault(track, ModelTrack()).add(named, ts, automatic)


class Maker:
    """Writes the runs of a set below `root`, and remembers what they must hold."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lake = root / "lake"
        #: By workspace and session, what each track must hold.
        self.models: dict[tuple[str, str], dict[str, ModelTrack]] = {}
        self._now = 1_790_000_000.0

    @contextmanager
    def run(self, name: str, workspace: str = "golden", root: Path | None = None, **options: Any) -> Iterator[Book]:
        """A run whose clock moves by an eighth of a second with each look at it."""
        given = {"segment_points": 10, "flush_interval": 3600.0, **options}
        with Session(name, workspace, root or self.lake, **given) as session:
            session.writer.clock.now = self._tick
            yield Book(session, self.models.setdefault((workspace, name), {}))

    def _tick(self) -> float:
        self._now += 0.125
        return self._now

    # -- the runs --------------------------------------------------------------------------------------------------

    def values(self) -> None:
        """Every kind of value, in segments and hot; types that change between segments; None and absent."""
        about = {"description": "every kind of value", "tags": ["golden", "é"], "folder": "of/the user"}
        with self.run("values", metadata={"nested": {"a": [1, NAN]}, "when": KINDS["offset"][0]}, **about) as book:
            for i in range(24):
                row = {name: kind[i % len(kind)] for name, kind in KINDS.items()}
                book.put("kinds", **{name: value for name, value in row.items() if value is not ABSENT})
                between, within = [i, i / 4, str(i)][i // 10], [i, i / 4, str(i), [i]][i // 7]
                book.put("widening", between=between, within=within, **{f"only{i // 10}": i})
                if i % 8 == 7:
                    book.session.flush()
            book.session.track("kinds", "a column a kind", ["t1", "t2"], {"unit": {"x": "m"}, "inf": INF})
            book.session.track("described only", description="no points")

    def merging(self) -> None:
        """Points that were added to: pending, hot, in segments (later generations); inherited and equal timestamps."""
        with self.run("merging") as book:
            for i in range(27):
                book.put("late", _ts=100.0 + i, value=i)
                book.put("beside", twice=2 * i, _ts=-1)
                book.put("late", _ts=100.0 + i, pending=True)
            book.session.flush()
            for number, at in enumerate((3, 3, 4, 15)):
                book.put("late", _ts=100.0 + at, **{f"late{number}": number, "value": "another type"})
                book.session.flush()
            book.put("late", _ts=125.0, hot=1)
            book.session.flush()
            book.put("late", _ts=-1, again=[None])
            book.put("late", _ts=50.5, value=-1)  # an index at the end, a time at the beginning

    def batches(self) -> None:
        """Batches in every form."""
        with self.run("batches") as book:
            rows = [{"n": i, "x": i / 3, "name": f"r{i}", "_ts": 1000.0 + i} for i in range(65)]
            book.batch("all", rows[:7], rows[:7])
            book.batch("all", _columns(rows[7:20]), rows[7:20])
            book.batch("all", pl.DataFrame(rows[20:43]), rows[20:43])
            book.batch("all", pa.Table.from_pylist(rows[43:48]), rows[43:48])
            book.batch("all", pl.DataFrame(rows[48:65]).to_pandas(), rows[48:65])
            book.put("all", after="the batches")

    def names(self) -> None:
        """Names that are hard on disks, of workspaces, sessions and tracks, with tracks inside of tracks."""
        with self.run("a/b = ü", "wörk space: 90%", description="odd names") as book:
            for number, name in enumerate(NAMES):
                for i in range(3):
                    book.put(name, track=number, i=i)
        with self.run(".hidden", "wörk space: 90%") as book:
            book.put("deep/" * 9 + "down", i=1)

    def endings(self) -> None:
        """Runs that ended otherwise, the traces of a kill, and logs in several files."""
        for name, error in (("failed", RuntimeError), ("interrupted", KeyboardInterrupt)):
            try:
                with self.run(name) as book:
                    book.put("t", i=1)
                    raise error("as meant")
            except (RuntimeError, KeyboardInterrupt):
                pass
        with self.run("killed", segment_points=5) as book:
            for i in range(9):
                book.put("torn", i=i)
                if i < 4:
                    book.put("rolled", i=i)
            book.session.flush()
            folder = Path(book.session.path) / "tracks"
            hot = (folder / "rolled" / "data.jsonl").read_bytes()
            book.put("rolled", i=4)
            book.session.flush()
            # As a kill between the two steps of a roll leaves it: the points in the segment and in the hot file.
            (folder / "rolled" / "data.jsonl").write_bytes(hot)
            with (folder / "torn" / "data.jsonl").open("ab") as file:
                file.write(b'{"index":9,"data":{"i":9,"_t')
            (folder / "torn" / ".tmp-1-0").write_bytes(b"PAR1")
            shutil.copytree(book.session.path, self.root / "kept")
        shutil.rmtree(self.lake / "golden" / "killed")
        (self.root / "kept").rename(self.lake / "golden" / "killed")

    def logs(self) -> None:
        """Parameters that were set again, and a log of several files, shorter than they are by default."""
        dreamlake.engine.logfile.FILE_LINES = 4
        with self.run("logs") as book:
            session = book.session
            session.parameters().set(lr=0.1, model={"layers": 3, "act": "relu", "deep": {"x": None}}, seed=2**70)
            for number, level in enumerate(("debug", "info", "warn", "error", "fatal") * 2):
                session.log(f"record {number} é\n\x1b", level, {"n": number, "nan": NAN} if number % 2 else None)
                session.flush()
            session.parameters().set(lr=0.01, model={"act": "gelu"}, at=KINDS["utc"][0])
        dreamlake.engine.logfile.FILE_LINES = 10_000

    def replica(self, server: S3Server) -> None:
        """Two machines that share a session on S3; one has dropped segments, and late fields wait for some of them."""
        options = {"remote": URL, "storage_options": server.options(), "sync_interval": 3600.0}
        one, two = self.root / "one", self.root / "two"
        with self.run("shared", root=one, **options, tags=["one"]) as book:
            for i in range(35):
                book.put("one/loss", _ts=2000.0 + i, value=i / 8)
            book.session.parameters().set(lr=0.1, one=1)
            book.session.log("from one")
        with self.run("shared", root=two, **options, metadata={"machine": "two"}) as book:
            for i in range(12):
                book.put("two/loss", value=-i)
            book.session.parameters().set(lr=0.2, two=2)
            book.session.log("from two", "warn")
        with self.run("shared", root=one, **options) as book:
            replica = book.session.writer.replica
            assert replica is not None
            replica.trims = True
            for i in range(35, 47):
                book.put("one/loss", _ts=2000.0 + i, value=i / 8)
            book.session.sync()
            _fetch(server, self.root / "replica")
            for at in (3, 13, 3):
                book.put("one/loss", _ts=2000.0 + at, **{f"late{at}": "x"})
            book.session.flush()
            shutil.copytree(one, self.root / "machine")
        shutil.rmtree(one)
        shutil.rmtree(two)

    # -- the runs of the second set --------------------------------------------------------------------------------

    def wide(self) -> None:
        """A track whose segments were merged, fields that came before and after, points behind it, and hot ones."""
        with Session("wide", "golden", self.lake, flush_interval=3600.0) as session:
            track = session.track("merged/steps")
            for start in range(0, WIDE, 10_000):
                track.append_batch(pl.DataFrame(wide_points(start, start + 10_000)))
            track.append(_ts=float(WIDE_LATE[0]), late="before")
            session.flush()
            track.compact()
            track.append(_ts=float(WIDE_LATE[1]), late="after")
            session.flush()
            track.append_batch(pl.DataFrame(wide_points(WIDE, WIDE + WIDE_BEHIND)))

    def files(self) -> dict[str, Any]:
        """Uploaded files, one of them twice and one deleted; returns their records, and the bytes in hex."""
        with self.run("uploads") as book:
            files = book.session.files()
            files.upload(b"", filename="empty.txt")
            about = {"description": "é", "tags": ["best"], "metadata": {"epoch": 5, "nan": NAN, "at": KINDS["utc"][0]}}
            files.upload(bytes(range(256)) * 3, path="/models/a: b", filename="weights 100%.bin", **about)
            files.upload(b"old", path="/models", filename="same.json")
            files.upload(b"new", path="/models", filename="same.json")
            files.delete(files.upload(b"gone", filename="deleted.txt"))
        view = Lake(self.lake).session("uploads", "golden").files()
        return {
            "records": [pack(dict(record)) for record in view.list()],
            "contents": [view.open(record).read().hex() for record in view.list()],
        }

    # -- what they hold --------------------------------------------------------------------------------------------

    def expected(self, lake: Lake, check: bool = True) -> dict[str, Any]:
        """What the runs of a lake hold, value by value, each read held against what was appended."""
        found = {}
        for info in lake.sessions():
            view = lake.session(info["name"], info["workspace"])
            tracks = {}
            for name in view.tracks:
                read = view.track(name).read(limit=None)
                model = self.models[info["workspace"], info["name"]].get(name, ModelTrack())
                if check:
                    model.assert_read(read)
                points = [pack(point["data"]) for point in read["data"]]
                tracks[name] = {"stats": pack(dict(view.track(name).stats())), "points": points}
            found[f"{info['workspace']}\n{info['name']}"] = {
                "info": pack(dict(info)),
                "parameters": pack(view.parameters().get()),
                "logs": [pack(row) for row in view.logs().to_dicts()],
                "tracks": tracks,
            }
        return found


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _fetch(server: S3Server, into: Path) -> None:
    """Copy the objects of the replica to a folder."""
    import s3fs

    fs = s3fs.S3FileSystem(**server.options(), skip_instance_cache=True, use_listings_cache=False)
    prefix = URL.removeprefix("s3://")
    for path in fs.find(prefix):
        target = into / path.removeprefix(prefix + "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fs.cat_file(path))


def _lines(value: Any, depth: int = 6) -> str:
    """JSON with a line a point, so that a difference between two sets can be read."""
    packed = isinstance(value, dict) and len(value) == 1 and "dict" in value
    if not depth or not value or packed or not isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[\n" + ",\n".join(_lines(item, depth - 1) for item in value) + "\n]"
    pairs = (f"{json.dumps(key, ensure_ascii=False)}: {_lines(item, depth - 1)}" for key, item in value.items())
    return "{\n" + ",\n".join(pairs) + "\n}"


def make(root: Path) -> None:
    """Make the first set in a folder that is not there yet."""
    root.mkdir()
    maker = Maker(root)
    for part in (maker.values, maker.merging, maker.batches, maker.names, maker.endings, maker.logs):
        part()
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder, "server"))
        try:
            maker.replica(server)
        finally:
            server.stop()
    expected = {
        "version": __version__,
        "lake": maker.expected(Lake(maker.lake)),
        "replica": maker.expected(Lake(root / "replica"), check=False),
        "machine": [pack(point) for point in maker.models["golden", "shared"]["one/loss"].points],
    }
    _write(root, expected)


def make_second(root: Path) -> None:
    """Make the second set, of what is long or no series: a merged track, and files."""
    root.mkdir()
    maker = Maker(root)
    maker.wide()
    _write(root, {"version": __version__, "files": maker.files()})


def _write(root: Path, expected: dict[str, Any]) -> None:
    for lock in root.rglob(".lock"):
        lock.unlink()  # it means something to the machine that made it only
    (root / "expected.json").write_text(_lines(expected) + "\n", encoding="utf-8")
    print(sum(path.stat().st_size for path in root.rglob("*") if path.is_file()), "bytes in", root)


if __name__ == "__main__":
    logging.getLogger("dreamlake").setLevel(logging.ERROR)
    for making, name in ((make, __version__), (make_second, f"{__version__}-long")):
        if not (HERE / name).exists():
            making(HERE / name)
