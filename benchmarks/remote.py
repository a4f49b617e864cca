"""Reading from S3 and uploading to it, beside plain s3fs on the same objects: directly, and 30 ms away."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.harness import Row, Settings, interleave, scratch, timed
from benchmarks.lakes import SESSION, TRACK, WORKSPACE, append_as_segments, new_session
from benchmarks.places import Places, places
from dreamlake import Lake, Session
from dreamlake.engine.replica import state
from dreamlake.engine.replica.push import push
from dreamlake.format import layout
from dreamlake.storage.remote import RemoteStore

COUNT = 1_000_000
SEGMENT = 10_000
MIDDLE = 504_500
LIMIT = 1_000
LATENCY = 0.03
FEW_TRACKS = 10
RUNS = 200
RUN_POINTS = 10_000

Side = Callable[[Path], float]


# -- the lakes that are read -------------------------------------------------------------------------------------------


def _write_run(folder: Path, count: int = COUNT) -> None:
    with new_session(folder) as session:
        append_as_segments(session, data.frame(count, with_ts=True))


def _write_runs(folder: Path, runs: int) -> None:
    rows = data.frame(RUN_POINTS, with_ts=True)
    for number in range(runs):
        with Session(f"run {number:03}", WORKSPACE, local_path=str(folder)) as session:
            session.track(TRACK).append_batch(rows)


def _copy(folder: Path, place: Places, url: str) -> None:
    """Copy a lake with fsspec alone."""
    place.filesystem().put(f"{folder}/", f"{url}/", recursive=True)


def _segments(place: Places, url: str, count: int = COUNT // SEGMENT) -> tuple[list[str], list[int]]:
    """The segments' objects below a URL and the bytes of each."""
    found = place.filesystem().find(url, detail=True)
    paths = sorted(path for path in found if path.endswith(".parquet"))
    if len(paths) != count:
        raise RuntimeError(f"expected {count} segments below {url}, found {len(paths)}")
    return paths, [found[path]["size"] for path in paths]


def _whole(fs: Any, paths: list[str], sizes: list[int]) -> None:
    if list(map(len, fs.cat_ranges(paths, [0] * len(paths), sizes))) != sizes:
        raise RuntimeError("s3fs did not read the objects whole")


def _fresh(url: str, options: dict[str, Any], work: Callable[[Lake], object]) -> Side:
    """`work` with a lake of its own, whose client and connections are made in the measured time."""

    def side(folder: Path) -> float:
        start = time.perf_counter()
        lake = Lake(url, options)
        work(lake)
        seconds = time.perf_counter() - start
        lake._store.close()  # type: ignore[attr-defined]
        return seconds

    return side


def _expected(found: int, wanted: int) -> None:
    if found != wanted:
        raise RuntimeError(f"{found} points were read, {wanted} are there")


# -- reading -----------------------------------------------------------------------------------------------------------


def range_read(settings: Settings) -> list[Row]:
    """1,000 points out of 100 segments, 30 ms away, to one GET of the segment that holds them."""
    with places(settings) as place, scratch(settings) as folder:
        _write_run(folder)
        url = place.prefix()
        _copy(folder, place, url)
        paths, sizes = _segments(place, url)
        right = MIDDLE // SEGMENT
        endpoint = place.proxy(LATENCY)
        options, fs = place.options(endpoint), place.filesystem(endpoint)
        lake = Lake(url, options)
        session = lake.session(SESSION, WORKSPACE)

        def counted(work: Callable[[], int]) -> int:
            before = place.requests(endpoint)
            _expected(work(), LIMIT)
            return place.requests(endpoint) - before

        def read(lake: Lake) -> int:
            return len(lake.session(SESSION, WORKSPACE).track(TRACK).read(MIDDLE, LIMIT)["data"])

        ways: dict[str, Callable[[], int]] = {
            "read(), track handle new": lambda: len(session.track(TRACK).read(MIDDLE, LIMIT)["data"]),
            "scan(), track handle new": lambda: session.track(TRACK).scan(MIDDLE, LIMIT).collect().height,
            "  read(), session and track handles new": lambda: read(lake),
        }
        requests = {title: counted(work) for title, work in ways.items()}
        kept = session.track(TRACK)
        kept.scan(MIDDLE + 2 * SEGMENT, LIMIT).collect()
        ways["  scan(), track handle kept"] = lambda: kept.scan(MIDDLE, LIMIT).collect().height
        requests["  scan(), track handle kept"] = counted(ways["  scan(), track handle kept"])
        *runs, everything, floor, new_floor = interleave(
            [
                *(timed(lambda folder, work=work: work()) for work in ways.values()),
                _fresh(url, options, read),
                timed(lambda folder: fs.cat_file(paths[right], start=0, end=sizes[right])),
                timed(lambda folder: place.filesystem(endpoint).cat_file(paths[right], start=0, end=sizes[right])),
            ],
            settings,
        )
        lake._store.close()  # type: ignore[attr-defined]
    note = "floor is a round trip: one GET of the right segment by s3fs through the same proxy, connection kept"
    rows = [
        Row(
            f"{'' if title.startswith(' ') else 'S3, 30 ms, 1,000 of 1,000,000: '}{title}",
            run,
            floor,
            target=3.0,
            counts=not title.startswith(" "),
            note=f"{requests[title]} requests" + (f"; {note}" if not number else ""),
        )
        for number, (title, run) in enumerate(zip(ways, runs, strict=True))
    ]
    both = "both sides make their client and open their connections; s3fs asks for one small object first"
    return [*rows, Row("  read(), lake and client new as well", everything, new_floor, counts=False, note=both)]


def full_read(settings: Settings) -> list[Row]:
    """The whole track as a Polars frame to `cat_ranges` of the same 100 objects, which decodes nothing."""
    rows: list[Row] = []
    with places(settings) as place, scratch(settings) as folder:
        _write_run(folder)
        url = place.prefix()
        _copy(folder, place, url)
        paths, sizes = _segments(place, url)
        for title, endpoint in (("no latency", None), ("30 ms", place.proxy(LATENCY))):
            fs = place.filesystem(endpoint)
            lake = Lake(url, place.options(endpoint))
            session = lake.session(SESSION, WORKSPACE)
            kept = session.track(TRACK)
            _expected(kept.to_polars().height, COUNT)
            new, warm, floor = interleave(
                [
                    timed(lambda folder, session=session: session.track(TRACK).to_polars()),
                    timed(lambda folder, kept=kept: kept.to_polars()),
                    timed(lambda folder, fs=fs: _whole(fs, paths, sizes)),
                ],
                settings,
            )
            lake._store.close()  # type: ignore[attr-defined]
            rows += [
                Row(f"S3, {title}, full read of 100 segments, track handle new", new, floor, target=1.2),
                Row("  the same, track handle kept", warm, floor, target=1.2, counts=False),
            ]
    return rows


def many_runs(settings: Settings) -> list[Row]:
    """One track of 200 runs of a segment each in one frame, 30 ms away, to `cat_ranges` of the 200 segments."""
    runs = settings.size(RUNS, 40)
    with places(settings) as place, scratch(settings) as folder:
        _write_runs(folder, runs)
        url = place.prefix()
        _copy(folder, place, url)
        paths, sizes = _segments(place, url, runs)
        endpoint = place.proxy(LATENCY)
        options, fs = place.options(endpoint), place.filesystem(endpoint)
        lake = Lake(url, options)

        def scan(lake: Lake) -> None:
            _expected(lake.scan(TRACK).collect().height, runs * RUN_POINTS)

        before = place.requests(endpoint)
        scan(lake)
        requests = place.requests(endpoint) - before
        new, kept, floor = interleave(
            [
                _fresh(url, options, scan),
                timed(lambda folder: scan(lake)),
                timed(lambda folder: _whole(fs, paths, sizes)),
            ],
            settings,
        )
        lake._store.close()  # type: ignore[attr-defined]
    title = f"S3, 30 ms, scan of one track over {runs} runs of {RUN_POINTS:,} points, lake and client new"
    return [
        Row(title, new, floor, target=3.0, judged="ours", note=f"{requests} requests"),
        Row("  the same, lake kept", kept, floor, target=3.0, judged="ours", counts=False),
    ]


# -- uploading ---------------------------------------------------------------------------------------------------------


def upload(settings: Settings) -> list[Row]:
    """A local run of 1,000,000 points to S3 by one push, to `pipe` (concurrent `pipe_file`) of the same bytes."""
    rows: list[Row] = []
    with places(settings) as place, scratch(settings) as folder:
        one, ten = folder / "one", folder / "ten"
        _write_run(one)
        with new_session(ten) as session:
            for number in range(FEW_TRACKS):
                append_as_segments(session, data.frame(COUNT // FEW_TRACKS, with_ts=True), f"{TRACK}/{number}")
        for title, endpoint in (("no latency", None), ("30 ms", place.proxy(LATENCY))):
            for tracks, source in ((1, one), (FEW_TRACKS, ten)):
                ours, floor = interleave([_pushed(place, endpoint, source), _piped(place, endpoint, source)], settings)
                shown = "1 track" if tracks == 1 else f"{tracks} tracks"
                rows.append(
                    Row(
                        f"S3, {title}, upload of 100 segments of {shown}, 1,000,000 points"
                        if tracks == 1
                        else f"  the same, the 100 segments being those of {shown}",
                        ours,
                        floor,
                        target=1.25,
                        counts=tracks == 1,
                    )
                )
    return rows


def _run_folder(root: Path) -> Path:
    return root / WORKSPACE / SESSION


def _sent_files(root: Path) -> dict[str, bytes]:
    """What a replica gets of the run below `root`, by its path there."""
    paths = [path for path in _run_folder(root).rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _pushed(place: Places, endpoint: str | None, source: Path) -> Side:
    def side(folder: Path) -> float:
        shutil.copytree(source, folder / "lake")
        url = place.prefix()
        store = RemoteStore(url, place.options(endpoint))
        if not store.conditional:  # found out when a session is opened; opens the connection too
            raise RuntimeError("the server honours no conditions")
        run = os.fspath(_run_folder(folder / "lake"))
        start = time.perf_counter()
        with state.hold(run, 5.0):
            known = state.load(run)
            outcome = push(run, layout.session_dir(WORKSPACE, SESSION), store, known)
        seconds = time.perf_counter() - start
        store.close()
        if not outcome.complete:
            raise RuntimeError(f"the upload is not complete: {outcome}")
        _check_objects(place, url, _sent_files(source))
        return seconds

    return side


def _piped(place: Places, endpoint: str | None, source: Path) -> Side:
    fs = place.filesystem(endpoint)
    files = _sent_files(source)

    def side(folder: Path) -> float:
        url = place.prefix()
        start = time.perf_counter()
        fs.pipe({f"{url}/{path}": content for path, content in files.items()})
        seconds = time.perf_counter() - start
        _check_objects(place, url, files)
        return seconds

    return side


def _check_objects(place: Places, url: str, files: dict[str, bytes]) -> None:
    """Raise unless every segment is there, whole."""
    there = {path.partition(url.rpartition("/")[2] + "/")[2]: size for path, size in _sizes(place, url).items()}
    for path, content in files.items():
        if path.endswith(".parquet") and there.get(path) != len(content):
            raise RuntimeError(f"{path} did not arrive")


def _sizes(place: Places, url: str) -> dict[str, int]:
    return {path: about["size"] for path, about in place.filesystem().find(url, detail=True).items()}
