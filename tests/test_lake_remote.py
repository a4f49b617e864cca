"""A lake over URLs: everything a local one reads, from S3 in counted requests, while runs are being uploaded."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest
from build import TrackOnDisk, points_of
from polars.testing import assert_frame_equal
from s3.proxy import Fault, Proxy
from s3.server import BUCKET, KEY, SECRET, S3Server
from support import run_python

from dreamlake import Lake, Session
from dreamlake.engine import catalog, segments
from dreamlake.engine.catalog import session_info
from dreamlake.engine.process import side_by_side
from dreamlake.errors import CorruptTrackError, SessionNotFoundError, TrackNotFoundError
from dreamlake.storage import open_store
from dreamlake.storage.remote import RemoteStore

SEGMENTS, POINTS, TAIL = 100, 1000, 50
RUNS = 200
ODD = "run 1 #é%"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that real sessions wrote: a long track, many tracks, a name that paths need to encode."""
    root = tmp_path_factory.mktemp("written")
    count = SEGMENTS * POINTS + TAIL
    columns = {"value": [i * 0.25 for i in range(count)], "step": list(range(count))}
    with Session("long", "w", local_path=root, segment_points=POINTS) as session:
        session.track("loss", tags=["a"]).append_batch(columns)
        session.parameters().set(lr=0.1)
        session.log("hello")
    with Session("full", "w", local_path=root, segment_points=POINTS) as session:
        session.track("loss").append(value=-0.25)
        session.track("loss").flush()
        session.track("loss").append_batch({"value": [i * 0.25 for i in range(SEGMENTS * POINTS - 1)]})
        assert (root / "w/full/tracks/loss/data.jsonl").stat().st_size == 0
    with Session("wide", "w", local_path=root) as session:
        for number in range(200):
            session.track(f"group{number % 3}/track {number:03}").append(value=number)
    with Session(ODD, "other", local_path=root) as session:
        session.track("loss").append(value="text", _ts=5.0)
    return root


def upload(folder: Path, url: str, options: dict[str, Any]) -> None:
    """Copy a lake with fsspec alone, as any other tool would."""
    fs, root = fsspec.core.url_to_fs(url, **options, skip_instance_cache=True)
    fs.put(f"{folder}/", f"{root}/", recursive=True)
    if "s3" in fs.protocol:
        fs.close_session(fs.loop, fs._s3)


@pytest.fixture(scope="module")
def uploaded(local: Path, s3_server: S3Server) -> str:
    """The URL of that lake on S3."""
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}/deep er"
    upload(local, url, s3_server.options())
    return url


@pytest.fixture(scope="module")
def in_memory(local: Path) -> str:
    url = f"memory://{uuid.uuid4().hex}"
    upload(local, url, {})
    return url


@pytest.fixture
def open_lake(s3_server: S3Server, s3_proxy: Proxy) -> Iterator[Callable[[str], Lake]]:
    """Opens lakes, those on S3 through the proxy, and closes their connections at the end."""
    opened: list[Any] = []

    def make(url: str) -> Lake:
        lake = Lake(url, s3_server.options(s3_proxy.endpoint) if url.startswith("s3") else None)
        opened.append(lake._store)
        return lake

    yield make
    for store in opened:
        if isinstance(store, RemoteStore):
            store.close()


OpenLake = Callable[[str], Lake]


@pytest.fixture(params=["s3", "memory", "file"])
def lake(request: pytest.FixtureRequest, open_lake: OpenLake, local: Path) -> Lake:
    if request.param == "file":
        return open_lake(local.as_uri())
    return open_lake(request.getfixturevalue("uploaded" if request.param == "s3" else "in_memory"))


@pytest.fixture
def on_s3(open_lake: OpenLake, uploaded: str) -> Lake:
    return open_lake(uploaded)


@pytest.fixture
def place(s3_server: S3Server, s3_url: str) -> Iterator[RemoteStore]:
    """An empty prefix, written to past the proxy."""
    store = RemoteStore(s3_url, s3_server.options())
    yield store
    store.close()


# ------------------------------------------------------------------------------------------------ what is there


def test_runs_are_found(lake: Lake) -> None:
    assert lake.workspaces() == ["other", "w"]
    assert [(info["workspace"], info["name"]) for info in lake.sessions()] == [
        ("other", ODD),
        ("w", "full"),
        ("w", "long"),
        ("w", "wide"),
    ]
    assert [info["status"] for info in lake.sessions("w")] == ["finished"] * 3
    assert lake.sessions("nothing") == []
    with pytest.raises(SessionNotFoundError, match="'none' in workspace 'w'"):
        lake.session("none", "w")


def test_a_session_reads_as_a_local_one(lake: Lake, local: Path) -> None:
    here = Lake(local)
    for info in lake.sessions():
        ours, theirs = (each.session(info["name"], info["workspace"]) for each in (lake, here))
        assert ours.info == theirs.info
        assert ours.tracks.list() == theirs.tracks.list()
        assert ours.parameters().get() == theirs.parameters().get()
        assert_frame_equal(ours.logs(), theirs.logs())
        name = ours.tracks.list()[-1]
        assert ours.track(name).stats() == theirs.track(name).stats()
        assert ours.track(name).read() == theirs.track(name).read()
        assert_frame_equal(ours.track(name).scan().collect(), theirs.track(name).scan().collect())


def test_ranges_times_and_queries(lake: Lake, local: Path) -> None:
    ours, theirs = (each.session("long", "w").track("loss") for each in (lake, Lake(local)))
    total = SEGMENTS * POINTS + TAIL
    assert len(ours) == total
    for start, limit in [(0, 3), (990, 20), (-TAIL - 5, 10), (-1, 1), (total - 3, None), (5000, 1000)]:
        assert ours.read(start, limit) == theirs.read(start, limit)
    middle = theirs.read(5000, 1)["data"][0]["data"]["_ts"]
    assert ours.read_by_time(middle, None, 5) == theirs.read_by_time(middle, None, 5)
    query = pl.col("_index").is_between(POINTS - 2, POINTS + 2)
    assert_frame_equal(ours.scan().filter(query).collect(), theirs.scan().filter(query).collect())
    assert ours.scan().select("value").sum().collect().item() == sum(i * 0.25 for i in range(total))
    assert ours.to_arrow(10, 5).equals(theirs.to_arrow(10, 5))
    assert_frame_equal(lake.scan("loss").collect(), Lake(local).scan("loss").collect())
    with pytest.raises(TrackNotFoundError):
        lake.session("long", "w").track("none").read()
    with pytest.raises(TrackNotFoundError):
        lake.scan("none")
    with pytest.raises(SessionNotFoundError):
        lake.scan("loss", sessions=["long", "nowhere"])


def test_a_lake_that_is_not_there_is_empty(open_lake: OpenLake, s3_url: str) -> None:
    for url in (s3_url, "memory://nothing-here"):
        lake = open_lake(url)
        assert (lake.workspaces(), lake.sessions()) == ([], [])
        assert repr(lake) == f"Lake({url!r})"


def test_urls_choose_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store("memory://x"), RemoteStore)
    assert not isinstance(open_store(tmp_path.as_uri()), RemoteStore), "a local folder has no need of fsspec"
    with pytest.raises(ValueError, match="chained"):
        open_store("simplecache::s3://bucket/x")


# ------------------------------------------------------------------------------------------------ requests


def kinds(requests: list[Any]) -> Counter[str]:
    return Counter(request.kind for request in requests)


def test_a_range_costs_hot_file_list_and_segment(on_s3: Lake, s3_proxy: Proxy) -> None:
    track = on_s3.session("long", "w").track("loss")
    with s3_proxy.counting() as seen:
        assert len(track.read(50 * POINTS, POINTS)["data"]) == POINTS
    assert kinds(seen) == {"GET": 2, "LIST": 1}
    assert seen[0].kind == "LIST"
    with s3_proxy.counting() as seen:
        track.read(-10, 10)
    assert kinds(seen) == {"GET": 1, "LIST": 1}, "these points lie in the hot file"


@pytest.mark.parametrize("way", ["read", "scan"])
@pytest.mark.parametrize("run", ["long", "full"])
def test_a_range_costs_two_round_trips(on_s3: Lake, s3_proxy: Proxy, run: str, way: str) -> None:
    """What comes after the list is held back until all of it is asked for: one after the other it never would be."""
    track = on_s3.session(run, "w").track("loss")
    asked: list[str] = []
    s3_proxy.plan = lambda request: asked.append(request.key)
    # After the list: the hot file (where it is empty, a second list), the segment, and for a scan the newest one.
    expected = 3 if way == "read" else 4

    async def hold(_: float) -> None:
        while 1 < len(asked) < expected:
            await asyncio.sleep(0.005)

    s3_proxy.hold = hold
    if way == "read":
        assert len(track.read(50 * POINTS, POINTS)["data"]) == POINTS
    else:
        assert track.scan(50 * POINTS, POINTS).collect().height == POINTS
    assert len(asked) == expected


@pytest.mark.parametrize(
    "read",
    [
        lambda track: track.read(limit=None)["data"],
        lambda track: track.to_arrow(),
        lambda track: track.to_polars(),
        lambda track: track.scan().collect(),
    ],
)
def test_all_of_a_track_costs_a_request_a_segment(on_s3: Lake, s3_proxy: Proxy, read: Callable[[Any], Any]) -> None:
    track = on_s3.session("long", "w").track("loss")
    with s3_proxy.counting() as seen:
        assert len(read(track)) == SEGMENTS * POINTS + TAIL
    assert len(seen) <= SEGMENTS + 3


def test_segments_are_read_side_by_side(on_s3: Lake, s3_proxy: Proxy) -> None:
    """The first segments are held back until eight are asked for: one after the other they never would be."""
    track = on_s3.session("long", "w").track("loss")
    asked: list[str] = []
    s3_proxy.plan = lambda request: asked.append(request.key) if request.key.endswith(".parquet") else None

    async def hold(_: float) -> None:
        while 0 < len(asked) < 8:
            await asyncio.sleep(0.005)

    s3_proxy.hold = hold
    assert len(track.read(limit=None)["data"]) == SEGMENTS * POINTS + TAIL


def test_a_filter_reaches_the_segments_that_it_needs(on_s3: Lake, s3_proxy: Proxy) -> None:
    frame = on_s3.session("long", "w").track("loss").scan()
    with s3_proxy.counting() as seen:
        assert frame.filter(pl.col("_index") == 5 * POINTS + 1).collect()["step"].to_list() == [5 * POINTS + 1]
    assert kinds(seen) == {"GET": 1}


def test_names_of_many_tracks_cost_one_list(on_s3: Lake, s3_proxy: Proxy) -> None:
    tracks = on_s3.session("wide", "w").tracks
    with s3_proxy.counting() as seen:
        assert len(tracks.list()) == 200
    assert len(seen) <= 2


@pytest.fixture(scope="module")
def many_runs(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two hundred runs with a segment of one track each."""
    root = tmp_path_factory.mktemp("many")
    with Session("run", "w", local_path=root, segment_points=100) as session:
        session.track("loss").append_batch({"value": [i * 0.5 for i in range(100)]})
    files = {path.relative_to(root / "w" / "run").as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert [name for name in files if name.endswith(".parquet")]
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    store = RemoteStore(url, s3_server.options())
    copies = [(f"w/run{number:03}/{name}", path) for number in range(RUNS) for name, path in files.items()]
    side_by_side(lambda copy: store.put(copy[0], copy[1].read_bytes()), copies, 16)
    store.close()
    return url


def test_a_long_track_that_was_merged_costs_few_requests(
    open_lake: OpenLake, tmp_path: Path, s3_server: S3Server, s3_url: str, s3_proxy: Proxy
) -> None:
    """Ten wide segments: their row groups are small, so that a range of points is a few small ranges of bytes."""
    wide, count = 100_000, 1_000_000
    with Session("long", "w", local_path=tmp_path, segment_points=wide // 100) as session:
        session.track("loss").append_batch(pl.DataFrame({"step": pl.int_range(count, eager=True)}))
        assert session.track("loss").compact()["segments"] == 10
    for path in (tmp_path / "w/long/tracks/loss").glob("*.parquet"):
        start, _, stop = path.stem.partition("-")
        if int(stop) - int(start) < wide:
            path.unlink()  # the parts, which stay for readers of before
    upload(tmp_path, s3_url, s3_server.options())

    def costs(work: Callable[[Any], Any]) -> tuple[Any, int]:
        track = open_lake(s3_url).session("long", "w").track("loss")
        with s3_proxy.counting() as requests:
            return work(track), len(requests)

    frame, requests = costs(lambda track: track.to_polars())
    assert frame["step"].equals(pl.Series("step", range(count)))
    assert requests <= 40
    start = count // 2 + 500
    found, requests = costs(lambda track: track.read(start, 1000)["data"])
    assert [point["data"]["step"] for point in found] == list(range(start, start + 1000))
    assert requests <= 5
    length, requests = costs(len)
    assert length == count
    assert requests <= 2


def test_all_of_a_wide_segment_comes_by_one_request(
    open_lake: OpenLake,
    tmp_path: Path,
    s3_server: S3Server,
    s3_url: str,
    s3_proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some columns or rows come by the footer and ranges, as does a segment too long to be asked for in one piece."""
    noise = random.Random(5)
    count = 200_000
    frame = pl.DataFrame({name: [noise.random() for _ in range(count)] for name in "ac"}).with_row_index("b")
    with Session("long", "w", local_path=tmp_path) as session:
        session.track("loss").append_batch(frame)
    paths = sorted((tmp_path / "w/long/tracks/loss").glob("*.parquet"))
    assert min(path.stat().st_size for path in paths) > segments.WHOLE_BYTES
    assert len(paths) == 2
    upload(tmp_path, s3_url, s3_server.options())

    def gets(work: Callable[[Any], pl.DataFrame]) -> int:
        track = open_lake(s3_url).session("long", "w").track("loss")
        with s3_proxy.counting() as requests:
            found = work(track)
        assert found["b"].to_list() == found["_index"].to_list()
        return kinds(requests)["GET"]

    assert gets(lambda track: track.to_polars()) == 3, "the newest footer, and each segment"
    assert gets(lambda track: track.scan().collect()) == 3
    assert gets(lambda track: track.scan().select("_index", "b").collect()) == 5, (
        "and whether a footer is still the same"
    )
    assert gets(lambda track: track.to_polars(50_000, 1_000)) > 2
    monkeypatch.setattr(segments, "ALL_BYTES", 1 << 20)
    assert gets(lambda track: track.to_polars()) == 5


def test_many_runs_cost_a_request_each(open_lake: OpenLake, many_runs: str, s3_proxy: Proxy) -> None:
    lake = open_lake(many_runs)
    s3_proxy.latency = 0.005
    with s3_proxy.counting() as seen:
        frame = lake.scan("loss", workspace="w").collect()
    assert frame.height == RUNS * 100
    assert frame["_session"].n_unique() == RUNS
    # A segment each; one list of the workspace, and one a thousand of all that is in it.
    assert kinds(seen)["GET"] == RUNS
    assert kinds(seen)["LIST"] <= 4
    with s3_proxy.counting() as seen:
        assert len(lake.sessions("w")) == RUNS
    # The same lists tell whether other machines write a run too.
    assert kinds(seen)["GET"] == RUNS
    assert kinds(seen)["LIST"] <= 4
    with s3_proxy.counting() as seen:
        assert lake.session("run000", "w").name == "run000"
    assert kinds(seen) == {"GET": 1}
    with s3_proxy.counting() as seen:
        assert lake.workspaces() == ["w"]
    assert len(seen) == 3


def test_a_scan_of_many_runs_keeps_bounded_memory(
    open_lake: OpenLake, many_runs: str, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamlake.lake.MAX_HELD_BYTES", 0)
    lazy = open_lake(many_runs).scan("loss")
    with s3_proxy.counting() as seen:
        assert lazy.collect().height == RUNS * 100
    assert kinds(seen) == {"GET": RUNS}, "nothing was kept, so each segment is read again"


# ------------------------------------------------------------------------------------------------ live runs


def sync(root: Path, place: RemoteStore, *paths: str) -> None:
    for path in paths or [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]:
        place.put(path, (root / path).read_bytes())


def test_a_live_run_grows_under_the_reader(open_lake: OpenLake, place: RemoteStore, tmp_path: Path) -> None:
    with Session("run", "w", local_path=tmp_path, segment_points=10, flush_interval=3600) as session:
        track = session.track("loss")
        track.append(value=1)
        session.flush()
        sync(tmp_path, place)
        lake = open_lake(place.describe())
        view = lake.session("run", "w")
        assert view.info["status"] == "running"
        assert len(view.track("loss")) == 1
        lazy = view.track("loss").scan()
        for step in range(25):
            track.append(value=step)
        session.flush()
        sync(tmp_path, place)
        assert len(view.track("loss")) == 26
        assert lazy.collect().height == 1, "a snapshot stays what it was"
        late = session_info(lake._store, "w", "run", now=time.time() + catalog.SILENCE + 60)
        assert late is not None
        assert late["status"] == "lost"


@pytest.mark.parametrize("what", ["loss/", "data.jsonl", "000000000010.parquet"])
def test_a_roll_between_two_looks_loses_nothing(
    open_lake: OpenLake, place: RemoteStore, s3_proxy: Proxy, tmp_path: Path, what: str
) -> None:
    before, after = TrackOnDisk(tmp_path / "before"), TrackOnDisk(tmp_path / "after")
    points = points_of(25)
    before.segments(points[:10], 10)
    before.hot(points[10:20], 10)
    after.segments(points[:20], 10)
    after.hot(points[20:], 20)
    sync(tmp_path / "before", place)
    track = open_lake(place.describe()).session("s", "w").track("loss")

    def roll(request: Any) -> None:
        if request.key.endswith(what):
            s3_proxy.plan = lambda request: None
            sync(tmp_path / "after", place)  # past the proxy, which waits meanwhile

    s3_proxy.plan = roll
    read = [row["data"] for row in track.read()["data"]]
    assert len(read) >= 20
    assert read == points[: len(read)]
    assert track.read()["total"] == 25


def test_a_segment_that_was_merged_away_is_read_from_its_heir(
    open_lake: OpenLake, place: RemoteStore, tmp_path: Path
) -> None:
    track = TrackOnDisk(tmp_path)
    points = points_of(40)
    parts = track.segments(points, 10)
    sync(tmp_path, place)
    lazy = open_lake(place.describe()).session("s", "w").track("loss").scan()
    track.segment(points, 0)
    sync(tmp_path, place)
    for part in parts:
        place.delete(part.relative_to(tmp_path).as_posix())
    assert lazy.collect()["step"].to_list() == list(range(40))


def test_damage_is_told_with_the_url(open_lake: OpenLake, place: RemoteStore, tmp_path: Path) -> None:
    track = TrackOnDisk(tmp_path)
    first, second = track.segments(points_of(20), 10)
    second.write_bytes(b"")
    sync(tmp_path, place)
    view = open_lake(place.describe()).session("s", "w").track("loss")
    with pytest.raises(CorruptTrackError, match=r"s3://.*000010-000000000020\.parquet.*10 to 20"):
        view.read()
    assert len(view.read(errors="skip")["data"]) == 10
    place.delete(first.relative_to(tmp_path).as_posix())
    with pytest.raises(CorruptTrackError, match="0 to 10"):
        view.read()


# ------------------------------------------------------------------------------------------------ trouble


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.UNAVAILABLE, Fault.SLOW_DOWN, Fault.TRUNCATED])
def test_every_fourth_request_in_trouble(on_s3: Lake, s3_proxy: Proxy, fault: Fault) -> None:
    track = on_s3.session("long", "w").track("loss")
    s3_proxy.plan = lambda request: fault if request.number % 4 == 3 else None
    assert len(track.read(limit=5 * POINTS)["data"]) == 5 * POINTS


def test_wrong_credentials_do_not_look_like_an_empty_lake(s3_server: S3Server, uploaded: str) -> None:
    lake = Lake(uploaded, s3_server.options() | {"secret": "not-the-secret"})
    for look in (lake.sessions, lake.workspaces, lambda: lake.scan("loss"), lambda: lake.session("long", "w")):
        with pytest.raises(PermissionError) as caught:
            look()
        assert "not-the-secret" not in str(caught.value)
        assert caught.value.__context__ is None
    lake._store.close()  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------ where it is used


def test_it_works_in_a_running_event_loop(on_s3: Lake) -> None:
    async def cell() -> tuple[int, int]:
        return len(on_s3.sessions()), on_s3.scan("loss", workspace="w").collect().height

    assert asyncio.run(cell()) == (4, 2 * SEGMENTS * POINTS + TAIL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads(on_s3: Lake) -> None:
    track = on_s3.session("long", "w").track("loss")
    assert len(track) == SEGMENTS * POINTS + TAIL
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if track.read(5 * POINTS, 10)["data"][0]["index"] == 5 * POINTS else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, 9)
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert len(track) == SEGMENTS * POINTS + TAIL, "the parent's connections still work"


def environment(server: S3Server) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_REGION": "us-east-1",
    }


def test_a_fresh_process_needs_nothing_but_the_environment(s3_server: S3Server, uploaded: str) -> None:
    """Nothing hangs or complains at its end either."""
    code = """
        import sys
        from dreamlake import Lake
        track = Lake(sys.argv[1]).session("long", "w").track("loss")
        print(len(track), track.scan().select("step").max().collect().item())
    """
    said = run_python(code, uploaded, **environment(s3_server))
    assert said.stdout == f"{SEGMENTS * POINTS + TAIL} {SEGMENTS * POINTS + TAIL - 1}\n"
    assert said.stderr == ""


def test_polars_reads_the_files_that_are_named(s3_server: S3Server, uploaded: str) -> None:
    code = """
        import sys
        import polars as pl
        from dreamlake import Lake
        files = Lake(sys.argv[1]).session("long", "w").track("loss").files()
        print(len(files), pl.scan_parquet(files, glob=False).select(pl.len()).collect().item())
    """
    said = run_python(code, uploaded, **environment(s3_server), AWS_ALLOW_HTTP="true").stdout
    assert said == f"{SEGMENTS} {SEGMENTS * POINTS}\n"


def test_a_first_upload_under_way_is_no_run_yet(memory_lake: tuple[str, RemoteStore]) -> None:
    url, store = memory_lake
    with pytest.raises(TrackNotFoundError):  # a hole, where segments come in any order, and no session.json
        Lake(url).scan("loss", sessions="half")
    assert Lake(url).scan("loss").collect().height == 20
    store.put("w/half/session.json", b"{}")
    with pytest.raises(CorruptTrackError, match="holds the indices"):
        Lake(url).scan("loss")


@pytest.fixture
def memory_lake(tmp_path: Path) -> tuple[str, RemoteStore]:
    """A whole run, and one without its first segment and its session.json."""
    url = f"memory://{uuid.uuid4().hex}"
    store = RemoteStore(url)
    for name in ("whole", "half"):
        with Session(name, "w", tmp_path, segment_points=10) as session:
            session.track("loss").append_batch([{"i": i} for i in range(20)])
        for path in (tmp_path / "w" / name).rglob("*"):
            left_out = path.name.startswith(".") or (
                name == "half" and path.name.endswith(("session.json", "10.parquet"))
            )
            if path.is_file() and not left_out:
                store.put(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    return url, store
