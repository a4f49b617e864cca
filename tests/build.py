"""Tracks written to disk straight through ``format/``, so that tests of readers need no writer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamlake.engine.reader import TrackReader
from dreamlake.format import layout
from dreamlake.format.layout import SegmentName
from dreamlake.format.live import live_segments, parse_listing
from dreamlake.format.logical import unify_schemas
from dreamlake.format.point import encode_lines
from dreamlake.format.schema import batch_from_points, ts_bounds
from dreamlake.format.segment import SegmentInfo, encode, open_segment
from dreamlake.storage.localstore import LocalStore

Points = Sequence[Mapping[str, Any]]


def points_of(count: int, start: int = 0, t0: float = 1000.0) -> list[dict[str, Any]]:
    """Points with a rising ``_ts``, half a second apart: a float, two ints."""
    return [{"value": i * 0.5, "step": i, "epoch": i // 10, "_ts": t0 + i / 2} for i in range(start, start + count)]


class TrackOnDisk:
    """One track of one session below a lake's root; writes what a writer would leave, in the same order of footers."""

    def __init__(self, root: Path, name: str = "loss", workspace: str = "w", session: str = "s") -> None:
        self.root = root
        self.name = name
        self.session = root / layout.session_dir(workspace, session)
        self.folder = self.session / layout.track_dir(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_session(workspace=workspace, name=session)

    def reader(self, store: Any = None) -> TrackReader:
        """A fresh reader of the track."""
        store = LocalStore(self.root) if store is None else store
        return TrackReader(store, self.folder.relative_to(self.root).as_posix(), self.name)

    def write_session(self, **fields: Any) -> None:
        """Merge `fields` into session.json, made as that of a finished run."""
        path = self.session / layout.SESSION_FILE
        stored = json.loads(path.read_text()) if path.exists() else {"status": "finished"}
        path.write_text(json.dumps(stored | fields))

    def write_metadata(self, **fields: Any) -> None:
        """Write metadata.json."""
        (self.folder / layout.METADATA_FILE).write_text(json.dumps({"name": self.name, **fields}))

    def hot(self, points: Points, start: int = 0) -> None:
        """Replace the hot file by one line a point, indices from `start`."""
        self.hot_lines(enumerate(points, start))

    def hot_lines(self, lines: Iterable[tuple[int, Mapping[str, Any]]], tail: bytes = b"") -> None:
        """Replace the hot file by these lines, and bytes after the last one."""
        (self.folder / layout.HOT_FILE).write_bytes(encode_lines(lines) + tail)

    def segment(self, points: Points, start: int, generation: int = 0) -> Path:
        """Write the segment of `points` from index `start` on, its footer telling of the live segments before it."""
        batch = batch_from_points(points)
        stop = start + len(points)
        before = [info for info in self.infos() if info.stop <= start]
        schema = unify_schemas(*(info.track_schema for info in before), batch.schema)
        bounds = tuple(info.bounds for info in before)
        info = SegmentInfo(self.name, start, stop, generation, *ts_bounds(batch), batch.schema, schema, bounds)
        path = self.folder / SegmentName(start, stop, generation).filename
        path.write_bytes(encode(batch, info))
        return path

    def segments(self, points: Points, size: int, start: int = 0) -> list[Path]:
        """Write `points` as segments of `size` points each."""
        return [self.segment(points[at : at + size], start + at) for at in range(0, len(points), size)]

    def infos(self) -> list[SegmentInfo]:
        """What the footers of the live segments say."""
        live = live_segments(parse_listing(path.name for path in self.folder.iterdir()))
        return [open_segment((self.folder / name.filename).read_bytes()).info for name in live]


class RacingStore(LocalStore):
    """A store that runs something between the calls of a reader: ``then[method]`` is called after each such call.

    A step is called with the path; what it does to the files, the next call of the reader sees.
    """

    names = None  # so that the reader lists

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.then: dict[str, list[Any]] = {}
        self.first: dict[str, list[Any]] = {}
        self.calls: list[tuple[str, str]] = []

    def list(self, path: str = "") -> Any:
        return self._around("list", path, lambda: super(RacingStore, self).list(path))

    def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        found: bytes = self._around("get", path, lambda: super(RacingStore, self).get(path, start, stop))
        return found

    def got(self) -> list[str]:
        """The names of the files that were read, in order."""
        return [path.rpartition("/")[2] for method, path in self.calls if method == "get"]

    def _around(self, method: str, path: str, call: Any) -> Any:
        self.calls.append((method, path))
        _step(self.first.get(method), path)
        try:
            return call()
        finally:
            _step(self.then.get(method), path)


def _step(steps: list[Any] | None, path: str) -> None:
    if steps:
        step = steps.pop(0)
        if step is not None:
            step(path)


class CountingStore(RacingStore):
    """A store that notes which bytes of files are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        #: Start and end of each read.
        self.spans: list[tuple[int, int]] = []

    def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        data = super().get(path, start, stop)
        self.spans.append((start, start + len(data)))
        return data

    @property
    def amount(self) -> int:
        """How many bytes were read."""
        return sum(stop - start for start, stop in self.spans)
