"""Sessions that several machines write: their session.json, parameters and logs, plain and below hosts/, as one."""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3.proxy import Proxy
from s3.server import S3Server

from dreamlake import Lake, Session
from dreamlake.engine.catalog import SILENCE, session_folders, session_info, workspaces
from dreamlake.engine.hosts import merged_info, merged_parameters, moment, with_parameters
from dreamlake.errors import CorruptTrackError, SessionNotFoundError
from dreamlake.storage import open_store
from dreamlake.storage.localstore import LocalStore
from dreamlake.storage.remote import RemoteStore
from dreamlake.storage.store import Entry

NOW = datetime(2026, 11, 5, 12, tzinfo=UTC)


def at(seconds: float) -> str:
    """A time as session.json holds it, `seconds` after noon."""
    return (NOW + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def info(updated: float, **fields: Any) -> dict[str, Any]:
    return {"createdAt": at(updated - 10), "updatedAt": at(updated), "status": "finished", **fields}


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "local":
        return LocalStore(tmp_path)
    return open_store(f"memory://{uuid.uuid4().hex}")


def put(store: Any, path: str, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    store.put(f"w/s/{path}", text.encode())


def parameters(updated: float, **data: Any) -> dict[str, Any]:
    return {"version": 3, "data": data, "createdAt": at(0), "updatedAt": at(updated)}


def lines(*records: tuple[float, int, str]) -> str:
    rows = [
        {"sequenceNumber": number, "timestamp": at(seconds), "level": "info", "message": message}
        for seconds, number, message in records
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def view(store: Any) -> Any:
    return Lake(store.describe()).session("s", "w")


# ------------------------------------------------------------------------------------------------ what the session says


def test_one_machine_says_what_its_file_says() -> None:
    said = info(0, description=None, tags=[], metadata={}, folder=None, lastTs=5.0, other={"a": [1]})
    assert merged_info([said]) == said
    assert merged_info([]) == {}


def test_later_wins_and_empty_changes_nothing() -> None:
    first = info(0, description="one", tags=["a"], metadata={"a": 1, "b": 1}, folder="f", lastTs=9.0)
    second = info(5, description="", tags=[], metadata={"b": 2}, folder=None, lastTs=7.0, status="failed")
    third = info(9, description="three", tags=["c"], metadata=None, createdAt=at(-99), status="running")
    merged = merged_info([third, first, second])
    assert merged == {
        "description": "three",
        "tags": ["c"],
        "metadata": {"a": 1, "b": 2},
        "folder": "f",
        "lastTs": 9.0,
        "status": "running",
        "createdAt": at(-99),
        "updatedAt": at(9),
    }
    assert merged_info([second, first])["description"] == "one"
    assert merged_info([second, first])["tags"] == ["a"]


@given(st.permutations([info(0, a=1, lastTs=1.0), info(1, a=2, lastTs=None), info(2, b=3), info(3, a=4, lastTs=3.0)]))
def test_the_order_of_the_files_does_not_matter(infos: list[dict[str, Any]]) -> None:
    assert merged_info(infos) == info(3, a=4, b=3, lastTs=3.0, createdAt=at(-10))


def test_files_of_strangers_do_not_break_the_merge() -> None:
    odd = {"metadata": "text", "updatedAt": 5, "createdAt": [], "lastTs": "x", "tags": {}}
    merged = merged_info([info(0, metadata={"a": 1}, lastTs=2.0), odd, {}])
    assert (merged["metadata"], merged["lastTs"], merged["createdAt"]) == ({"a": 1}, 2.0, at(-10))


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-01-01T00:00:00.000001+00:00", "2026-01-01T00:00:00.000002+00:00"),
        ("2026-01-01T03:00:00+03:00", "2026-01-01T00:00:01Z"),
        ("2026-01-01T00:00:00", "2026-01-01T00:00:01+00:00"),
        ("no time", "1999-01-01"),
        (None, "0001-01-01T00:00:00+00:00"),
    ],
)
def test_times_compare_as_instants(earlier: Any, later: Any) -> None:
    assert moment(earlier) < moment(later)


def test_a_session_is_read_with_its_hosts(store: Any) -> None:
    put(store, "session.json", info(0, description="made it", metadata={"gpu": "a", "k": 1}))
    put(store, "hosts/m1/session.json", info(5, metadata={"gpu": "b"}, status="failed"))
    put(store, "hosts/m2/session.json", info(2, tags=["t"], workspace="no", name="no"))
    lake = Lake(store.describe())
    expected = {
        "workspace": "w",
        "name": "s",
        "description": "made it",
        "metadata": {"gpu": "b", "k": 1},
        "tags": ["t"],
        "status": "failed",
        "createdAt": at(-10),
        "updatedAt": at(5),
    }
    assert lake.session("s", "w").info == expected
    assert lake.sessions() == [expected]
    put(store, "hosts/m2/session.json", "{")
    with pytest.raises(CorruptTrackError, match=r"hosts/m2/session\.json"):
        _ = lake.session("s", "w").info


def test_a_session_without_the_plain_file_is_there(store: Any) -> None:
    put(store, "tracks/x/data.jsonl", "")
    put(store, "hosts/m1/logs/logs.jsonl", "")
    lake = Lake(store.describe())
    assert (lake.sessions(), workspaces(store), session_folders(store)) == ([], [], [])
    with pytest.raises(SessionNotFoundError):
        lake.session("s", "w")
    put(store, "hosts/m1/session.json", info(0))
    assert lake.session("s", "w").info["status"] == "finished"
    assert (len(lake.sessions()), workspaces(store), session_folders(store)) == (1, ["w"], [("w", "s")])


# ------------------------------------------------------------------------------------------------ how it stands


class Dated(LocalStore):
    """A local store in which every file but session.json files was written at one time."""

    written: datetime
    newest = "tracks/x/data.jsonl"

    def tree(self, path: str) -> list[Entry]:
        """The one file that was written last."""
        return [Entry(self.newest, 1, self.written.timestamp(), False)]


@pytest.mark.parametrize(
    ("plain", "other", "written", "status"),
    [
        # The one updated last is running; what the first one says does not matter.
        ((0, "finished"), (50, "running"), 70, "running"),
        ((0, "finished"), (50, "running"), 20, "lost"),
        # The one updated last has ended, and the other one goes on (or fell silent at once, or later).
        ((0, "running"), (50, "finished"), 70, "running"),
        ((0, "running"), (50, "finished"), 54, "finished"),
        ((0, "running"), (50, "failed"), 40, "failed"),
        ((0, "running"), (-500, "failed"), 95, "running"),
        ((-900, "running"), (-500, "failed"), -100, "failed"),
        # Nobody says running.
        ((0, "failed"), (50, "finished"), 95, "finished"),
        ((60, "failed"), (50, "finished"), 95, "failed"),
    ],
)
def test_the_status_of_a_session_of_two_machines(
    tmp_path: Path, plain: tuple[float, str], other: tuple[float, str], written: float, status: str
) -> None:
    store = Dated(tmp_path)
    store.written = NOW + timedelta(seconds=written)
    for path, (updated, said) in (("session.json", plain), ("hosts/m1/session.json", other)):
        put(store, path, info(updated, status=said))
    found = session_info(store, "w", "s", now=NOW.timestamp() + 100)
    assert found is not None
    assert found["status"] == status


@pytest.mark.parametrize("newest", ["session.json", "hosts/m1/session.json"])
@pytest.mark.parametrize("kind", [Dated, LocalStore])
def test_what_a_dead_machine_says_of_itself_late_makes_no_run_go_on(tmp_path: Path, newest: str, kind: Any) -> None:
    """Its session.json says running, and is uploaded by `dreamlake sync` long after another machine has finished."""
    store = kind(tmp_path)
    for path in ("session.json", "hosts/m1/session.json"):
        put(store, path, info(0 if path == newest else 50, status="running" if path == newest else "finished"))
        written = NOW.timestamp() + (500 if path == newest else 50)
        os.utime(tmp_path / "w" / "s" / path, (written, written))
    if kind is Dated:
        store.newest, store.written = newest, NOW + timedelta(seconds=500)
    found = session_info(store, "w", "s", now=NOW.timestamp() + 510)
    assert found is not None
    assert found["status"] == "finished"


def test_a_plain_store_looks_below_hosts_too(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    put(store, "session.json", info(0, status="running"))
    written = (tmp_path / "w" / "s" / "session.json").stat().st_mtime
    put(store, "hosts/m1/logs/logs.jsonl", "")
    found = session_info(store, "w", "s", now=written + SILENCE - 1)
    assert found is not None
    assert found["status"] == "running"


# ------------------------------------------------------------------------------------------------ parameters


def test_parameters_of_the_one_that_set_them_last_win(store: Any) -> None:
    put(store, "session.json", info(0))
    put(store, "hosts/m1/parameters.json", parameters(5, lr=2, **{"model.layers": 4, "b": {}}))
    assert view(store).parameters().get() == {"lr": 2, "model.layers": 4, "b": {}}
    put(store, "parameters.json", parameters(0, lr=1, a=1, model="big", **{"b.c": 1}))
    assert view(store).parameters().get() == {"lr": 2, "a": 1, "model.layers": 4, "b": {}}
    put(store, "hosts/m2/parameters.json", parameters(7, lr={"$numberDouble": "-Infinity"}))
    assert view(store).parameters().get() == {"lr": float("-inf"), "a": 1, "model.layers": 4, "b": {}}
    put(store, "hosts/m2/parameters.json", "[]")
    with pytest.raises(CorruptTrackError, match=r"hosts/m2/parameters\.json"):
        view(store).parameters().get()


def test_parameters_of_nobody(store: Any) -> None:
    put(store, "session.json", info(0))
    assert view(store).parameters().get() == {}


@given(st.permutations([parameters(0, a=1, b=1), parameters(1, b=2, c=2), parameters(2, c=3)]))
def test_the_order_of_parameter_files_does_not_matter(contents: list[dict[str, Any]]) -> None:
    assert merged_parameters(contents) == {"a": 1, "b": 2, "c": 3}


def test_a_value_replaces_its_parts_and_a_part_the_whole() -> None:
    assert with_parameters({"a": 1, "ab": 2, "c.d": 3}, {"a.x": 4, "c": 5}) == {"ab": 2, "a.x": 4, "c": 5}


class Counted(str):
    """A key that counts how often it is compared with another."""

    __slots__ = ()
    compared = 0

    def startswith(self, *given: Any) -> bool:
        Counted.compared += 1
        return super().startswith(*given)

    def __lt__(self, other: str) -> bool:
        Counted.compared += 1
        return super().__lt__(other)


def test_thousands_of_parameters_are_not_compared_each_with_each() -> None:
    stored = {Counted(f"layer{at // 100}.unit{at % 100}"): at for at in range(8000)}
    later = {Counted(key): -at for key, at in stored.items()}
    Counted.compared = 0
    assert with_parameters(stored, later) == later
    assert Counted.compared < 100 * len(stored)


keys = st.lists(st.sampled_from(["", "a", "b", "a!", "a-", "a/", "é"]), min_size=1, max_size=4).map(".".join)


@given(st.dictionaries(keys, st.integers()), st.dictionaries(keys, st.integers()))
def test_parts_and_wholes_are_found_as_by_comparing_all(stored: dict[str, int], later: dict[str, int]) -> None:
    def hidden(key: str) -> bool:
        return any(key.startswith(new + ".") or new.startswith(key + ".") for new in later)

    assert with_parameters(stored, later) == {key: stored[key] for key in stored if not hidden(key)} | later


def test_setting_parameters_writes_the_plain_file_alone(lake_dir: Path) -> None:
    with Session("s", "w", lake_dir) as session:
        put(LocalStore(lake_dir), "hosts/m1/parameters.json", parameters(0, theirs=1, both=1))
        session.parameters().set(both=2)
        assert session.parameters().get() == {"theirs": 1, "both": 2}
        assert json.loads(Path(session.path, "parameters.json").read_text())["data"] == {"both": 2}


# ------------------------------------------------------------------------------------------------ logs


def messages(store: Any, **options: Any) -> list[str]:
    found: list[str] = view(store).logs(**options)["message"].to_list()
    return found


def test_the_logs_of_all_machines_in_the_order_of_their_times(store: Any) -> None:
    put(store, "session.json", info(0))
    put(store, "logs/0.jsonl", lines((0, 0, "a"), (4, 1, "d")))
    put(store, "logs/logs.jsonl", lines((5, 2, "e")))
    put(store, "hosts/m1/logs/logs.jsonl", lines((6, 2, "f"), (7, 3, "g")) + '{"sequenceNumber": 4, "torn')
    put(store, "hosts/m1/logs/0.jsonl", lines((1, 0, "b"), (3, 1, "c")))
    put(store, "hosts/m2/logs/logs.jsonl", lines((5, 3, "e too")))
    put(store, "hosts/m3/session.json", info(0))
    assert messages(store) == ["a", "b", "c", "d", "e", "e too", "f", "g"]
    assert view(store).logs()["sequenceNumber"].to_list() == [0, 0, 1, 1, 2, 3, 2, 3]
    put(store, "hosts/m1/logs/logs.jsonl", "rubbish\n")
    with pytest.raises(CorruptTrackError, match=r"hosts/m1/logs/logs\.jsonl.*line 1"):
        view(store).logs()
    assert messages(store, errors="skip") == ["a", "b", "c", "d", "e", "e too"]


def test_one_log_alone_stays_in_the_order_of_its_numbers(store: Any) -> None:
    """A clock that stepped back does not take records out of their order."""
    put(store, "session.json", info(0))
    put(store, "hosts/m1/logs/logs.jsonl", lines((9, 0, "a"), (5, 1, "b"), (7, 2, "c")))
    assert messages(store) == ["a", "b", "c"]


def test_a_record_that_two_logs_hold_appears_once(store: Any) -> None:
    put(store, "session.json", info(0))
    put(store, "hosts/m1/logs/logs.jsonl", lines((1, 0, "a"), (2, 1, "b")))
    put(store, "hosts/m2/logs/logs.jsonl", lines((1, 0, "a"), (2, 1, "b"), (3, 2, "c"), (2, 4, "b")))
    assert messages(store) == ["a", "b", "b", "c"]
    assert view(store).logs()["sequenceNumber"].to_list() == [0, 1, 4, 2]


def test_records_that_are_put_aside_meanwhile_are_neither_missed_nor_doubled(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    put(store, "session.json", info(0))
    put(store, "logs/logs.jsonl", lines((0, 0, "a")))
    put(store, "hosts/m1/logs/logs.jsonl", lines((1, 0, "b"), (2, 1, "c")))

    class Racing(LocalStore):
        """Puts the other machine's log aside between the two looks at it."""

        def get(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
            data = super().get(path, start, stop)
            if path == "w/s/hosts/m1/logs/logs.jsonl":
                put(self, "hosts/m1/logs/0.jsonl", data.decode())
                put(self, "hosts/m1/logs/logs.jsonl", lines((3, 2, "d")))
            return data

    from dreamlake.engine.logread import log_records

    assert [record["message"] for record in log_records(Racing(tmp_path), "w/s")] == ["a", "b", "c"]


# ------------------------------------------------------------------------------------------------ requests


def test_other_machines_cost_a_request_a_file(s3_server: S3Server, s3_proxy: Proxy, s3_url: str) -> None:
    direct = RemoteStore(s3_url, s3_server.options())
    put(direct, "session.json", info(0))
    put(direct, "parameters.json", parameters(0, a=1))
    put(direct, "logs/logs.jsonl", lines((0, 0, "a")))
    lake = Lake(s3_url, s3_server.options(s3_proxy.endpoint))

    def cost(look: Any) -> Counter[str]:
        with s3_proxy.counting() as seen:
            look()
        return Counter(request.kind for request in seen)

    session = lake.session("s", "w")
    assert cost(lambda: lake.session("s", "w")) == {"GET": 1}
    assert cost(lambda: session.info) == {"GET": 1, "LIST": 1}
    assert cost(lambda: session.parameters().get()) == {"GET": 1, "LIST": 1}
    assert cost(session.logs) == {"GET": 1, "LIST": 2}
    for machine in ("m1", "m2", "m3"):
        put(direct, f"hosts/{machine}/session.json", info(1))
    put(direct, "hosts/m1/parameters.json", parameters(1, a=2))
    put(direct, "hosts/m1/logs/logs.jsonl", lines((1, 0, "b")))
    assert cost(lambda: lake.session("s", "w")) == {"GET": 1}
    assert cost(lambda: session.info) == {"GET": 4, "LIST": 1}
    assert cost(lambda: session.parameters().get()) == {"GET": 2, "LIST": 1}
    assert cost(session.logs) == {"GET": 2, "LIST": 3}
    assert session.logs()["message"].to_list() == ["a", "b"]
    for each in (direct, lake._store):
        each.close()  # type: ignore[attr-defined]
