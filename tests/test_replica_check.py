"""Which side is ahead: unchanged replicas cost a LIST, lost replies are noticed, and different ways are never mixed."""

from __future__ import annotations

import math
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from build import TrackOnDisk
from hypothesis import given
from machines import SESSION, Machine, below, points
from s3.proxy import Fault, Proxy, Request
from s3.server import S3Server
from values import same, values

from dreamlake.engine.replica import check, state
from dreamlake.engine.replica.push import push
from dreamlake.engine.replica.sides import equal
from dreamlake.engine.replica.sync import sync_folder
from dreamlake.format import layout
from dreamlake.storage.remote import RemoteStore

LOSS = below("loss")


@pytest.fixture
def store(elsewhere: tuple[str, dict[str, Any] | None]) -> Iterator[RemoteStore]:
    """A replica's root on several filesystems."""
    made = RemoteStore(*elsewhere)
    yield made
    made.close()


@pytest.fixture
def s3(s3_proxy: Proxy, s3_server: S3Server, s3_url: str) -> Iterator[RemoteStore]:
    """A replica's root on S3, through the proxy."""
    made = RemoteStore(s3_url, s3_server.options(s3_proxy.endpoint))
    yield made
    made.close()


@pytest.fixture
def one(tmp_path: Path, store: RemoteStore) -> Machine:
    """A machine with 25 points, two segments of which are rolled, and all of them uploaded."""
    made = Machine(tmp_path / "one", store).write(points(0, 25)).push()
    assert [name.stop for name in sorted(made.of().segments)] == [10, 20]
    return made


def kinds(requests: list[Request]) -> dict[str, int]:
    """How many requests there were of each kind."""
    return dict(Counter(request.kind for request in requests))


def nothing(found: check.Findings) -> bool:
    """Whether a comparison found nothing to do."""
    return found.session_there and not found.pull and not found.conflicts


# -- what costs what -----------------------------------------------------------------------------------------------


def test_an_unchanged_session_costs_the_listing_only(tmp_path: Path, s3: RemoteStore, s3_proxy: Proxy) -> None:
    one = Machine(tmp_path, s3).write(points(0, 25)).write(points(0, 3), "b/c").push()
    before = one.known
    with s3_proxy.counting() as requests:
        assert nothing(one.check())
    assert kinds(requests) == {"LIST": 1}
    assert one.known == before


@pytest.mark.parametrize(("stop", "gets"), [(28, 0), (48, 1)])
def test_points_that_are_not_uploaded_yet_cost_nothing_more_but_for_what_was_rolled(
    tmp_path: Path, s3: RemoteStore, s3_proxy: Proxy, stop: int, gets: int
) -> None:
    one = Machine(tmp_path, s3).write(points(0, 25)).push().write([*points(25, stop), {"v": 5.0, "_ts": 1022.0}])
    with s3_proxy.counting() as requests:
        assert nothing(one.check())
    assert kinds(requests) == {"LIST": 1, **({"GET": gets} if gets else {})}
    one.push()
    assert one.remote_rows() == one.rows()
    assert len(one.rows()) == stop


def test_a_lost_state_costs_one_object_more_where_the_versions_tell_the_content(
    tmp_path: Path, s3: RemoteStore, s3_proxy: Proxy
) -> None:
    one = Machine(tmp_path, s3).write(points(0, 25)).push().forget()
    with s3_proxy.counting() as requests:
        assert nothing(one.check())
    assert kinds(requests) == {"LIST": 1, "GET": 1}, "session.json, for whose the replica is"
    with s3_proxy.counting() as requests:
        one.push()
    assert "PUT" not in kinds(requests) or kinds(requests)["PUT"] == 1, "session.json, at most"


def test_a_replica_that_is_not_there(tmp_path: Path, store: RemoteStore) -> None:
    one = Machine(tmp_path / "one", store).write(points(0, 25))
    assert one.check() == check.Findings(False, (), {})
    one.push()
    assert nothing(one.check())


# -- one machine ---------------------------------------------------------------------------------------------------


def test_a_lost_state_is_found_out_by_content(one: Machine) -> None:
    before = one.known
    one.forget()
    assert nothing(one.check())
    assert one.of().segments == before.tracks[LOSS].segments
    assert one.of().hot.version == before.tracks[LOSS].hot.version
    assert one.of().hot.sha == before.tracks[LOSS].hot.sha
    assert one.known.origin is True
    one.write(points(25, 48)).push()
    assert one.remote_rows() == points(0, 48)


def test_a_lost_state_while_this_side_went_on(one: Machine) -> None:
    one.forget().write([{"late": 1, "_ts": 1003.0}, *points(25, 48)])
    assert nothing(one.check())
    one.push()
    assert one.remote_rows() == one.rows()
    assert one.remote_rows()[3]["late"] == 1
    assert len(one.remote_rows()) == 48


def test_a_lost_state_with_a_field_that_was_set_anew(one: Machine) -> None:
    """Its replica holds the older value, in a form from which the one here was made."""
    one.forget().write([{"v": 5.0, "_ts": 1003.0}, {"v": 6.0, "_ts": 1022.0}])
    assert nothing(one.check())
    one.push()
    assert one.remote_rows()[3]["v"] == 5.0
    assert one.remote_rows()[22]["v"] == 6.0


def test_what_was_deleted_on_the_replica_is_sent_again(one: Machine) -> None:
    one.store.delete(f"{SESSION}/{LOSS}/000000000000-000000000010.parquet")
    one.store.delete(f"{SESSION}/{LOSS}/metadata.json")
    one.store.delete(f"{SESSION}/session.json")
    one.check()
    assert {name.start for name in one.of().segments} == {10}
    assert one.of().about.version is None
    assert one.known.file("session.json").version is None
    one.push()
    assert one.remote_rows() == points(0, 25)
    assert one.store.get(f"{SESSION}/session.json")


def test_a_replica_that_was_deleted_is_made_anew(one: Machine) -> None:
    for path in one.store.walk(SESSION):
        one.store.delete(path)
    assert one.check() == check.Findings(False, (), {}, lost=True)
    one.push()
    assert one.remote_rows() == points(0, 25)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_replies_that_were_lost(tmp_path: Path, s3: RemoteStore, s3_proxy: Proxy, every: int) -> None:
    """The machine is killed with the network: what its last pass wrote, it does not know of."""
    one = Machine(tmp_path, s3).write(points(0, 15)).push().write(points(15, 48))
    saved = (one.folder / ".replica.json").read_bytes()
    before = state.load(str(one.folder)).remote(s3.describe()).tracks[LOSS]
    one.push()
    # As it was saved before the last object was sent, the hot file: its SHA stands there.
    known = state.load(str(one.folder))
    track = known.remote(s3.describe()).tracks[LOSS]
    track.hot.version, track.hot.sha = before.hot.version, before.hot.sha
    if every > 1:
        track.segments = before.segments
    state.save(str(one.folder), known)
    if every > 2:
        (one.folder / ".replica.json").write_bytes(saved)
    one.write(points(48, 50))
    assert nothing(one.check())
    one.push()
    assert one.remote_rows() == points(0, 50)


def test_an_upload_that_ended_half_way_after_the_state_was_lost(
    tmp_path: Path, s3: RemoteStore, s3_proxy: Proxy
) -> None:
    one = Machine(tmp_path, s3).write(points(0, 15)).push().write(points(15, 58))
    s3_proxy.fail(Fault.UNAVAILABLE, "PUT", "000000000030")
    assert not push(str(one.folder), SESSION, s3, state.load(str(one.folder))).complete
    s3_proxy.plan = lambda request: None
    one.forget()
    assert nothing(one.check())
    one.push()
    assert one.remote_rows() == points(0, 58)


def test_segments_of_the_same_name_with_other_bytes(one: Machine) -> None:
    """Another version of the library would write other bytes of the same points."""
    path = f"{SESSION}/{LOSS}/000000000000-000000000010.parquet"
    twin = TrackOnDisk(one.root / "twin", workspace="w", session="s")
    made = twin.segment([{"v": p["v"], "i": p["i"], "_ts": p["_ts"]} for p in points(0, 10)], 0)
    assert made.read_bytes() != one.store.get(path)
    one.store.put(path, made.read_bytes())
    one.forget()
    assert nothing(one.check())
    twin.segment([{**p, "v": 1.0} for p in points(0, 10)], 0)
    one.store.put(path, made.read_bytes())
    one.forget()
    assert LOSS in one.check().conflicts


def test_a_power_loss_took_lines_that_were_uploaded(one: Machine) -> None:
    hot = one.folder / LOSS / "data.jsonl"
    whole = hot.read_bytes()
    for kept in (0, 1, 4):
        hot.write_bytes(b"".join(whole.splitlines(keepends=True)[:kept]) + b'{"index"')
        assert one.check().pull == (LOSS,), kept
    hot.unlink()
    assert one.check().pull == (LOSS,)
    hot.write_bytes(whole)
    assert nothing(one.check())


def test_a_power_loss_while_the_last_reply_was_lost(one: Machine) -> None:
    before = (one.folder / ".replica.json").read_bytes()
    one.write(points(25, 29)).push()
    known = state.load(str(one.folder))
    sent = known.remote(one.store.describe()).track(LOSS).hot
    (one.folder / ".replica.json").write_bytes(before)
    known = state.load(str(one.folder))
    known.remote(one.store.describe()).track(LOSS).hot.about_to_send(str(sent.sha))
    state.save(str(one.folder), known)
    hot = one.folder / LOSS / "data.jsonl"
    hot.write_bytes(b"".join(hot.read_bytes().splitlines(keepends=True)[:7]))
    assert one.check().pull == (LOSS,)


def test_points_that_were_written_after_a_power_loss_are_not_mixed_with_those_before(one: Machine) -> None:
    hot = one.folder / LOSS / "data.jsonl"
    hot.write_bytes(b"".join(hot.read_bytes().splitlines(keepends=True)[:2]))
    one.write(points(60, 65))
    assert one.check().conflicts.keys() == {LOSS}
    assert len(one.rows()) == 27


def test_a_track_that_was_deleted_here(one: Machine) -> None:
    shutil.rmtree(one.folder / LOSS)
    assert one.check().pull == (LOSS,)


def test_fields_that_were_set_anew_and_rolled_since_the_last_upload(one: Machine) -> None:
    one.write([{"v": number, "_ts": 1022.0} for number in range(40)])
    assert nothing(one.check())
    one.write([{"v": 7.5, "_ts": 1023.0}, *points(25, 38)])
    assert nothing(one.check())
    one.push()
    assert [row["v"] for row in one.remote_rows()[22:24]] == [39, 7.5]


def test_segments_are_compared_piece_by_piece(one: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where versions do not tell the content."""
    monkeypatch.setattr(check, "CHUNK", 100)
    asked: list[int] = []
    get = RemoteStore.get

    def count(self: RemoteStore, path: str, start: int = 0, stop: int | None = None) -> bytes:
        asked.extend([start] if path.endswith(".parquet") else [])
        return get(self, path, start, stop)

    monkeypatch.setattr(RemoteStore, "get", count)
    path = f"{SESSION}/{LOSS}/000000000000-000000000010.parquet"
    one.forget()
    assert nothing(one.check())
    assert bool(asked) == ("s3" not in one.store.describe())
    assert not asked or len(asked) > 20
    data = get(one.store, path)
    one.store.put(path, data[:-300] + bytes([data[-300] ^ 1]) + data[-299:])
    one.forget()
    assert "parquet" in one.check().conflicts[LOSS]


# -- two machines --------------------------------------------------------------------------------------------------


def test_another_machine_went_on(one: Machine, tmp_path: Path) -> None:
    two = one.copy(tmp_path / "two").write([{"late": 1, "_ts": 1003.0}, *points(25, 48)]).push()
    assert one.check().pull == (LOSS,)
    assert nothing(two.check())


def test_another_machine_set_a_field_anew(one: Machine, tmp_path: Path) -> None:
    one.copy(tmp_path / "two").write([{"v": 5.0, "_ts": 1003.0}, {"v": 6.0, "_ts": 1022.0}]).push()
    assert one.check().pull == (LOSS,)


def test_another_machine_went_on_and_the_state_was_lost(one: Machine, tmp_path: Path) -> None:
    one.copy(tmp_path / "two").write([{"late": 1, "_ts": 1003.0}, *points(25, 48)]).push()
    assert one.forget().check().pull == (LOSS,)


def test_both_went_on(one: Machine, tmp_path: Path) -> None:
    two = one.copy(tmp_path / "two").write(points(30, 48)).push()
    two.write(points(0, 3), "other").push()
    one.write(points(25, 30))
    found = one.check()
    assert found.pull == (below("other"),)
    assert found.conflicts.keys() == {LOSS}
    said = found.conflicts[LOSS]
    assert "'loss'" in said
    assert str(one.folder) in said
    assert one.store.describe(SESSION) in said
    assert "30 points" in said
    assert "43 points" in said
    assert one.of().conflict == said
    one.forget()
    assert one.check().conflicts.keys() == {LOSS}


def test_both_set_one_field(one: Machine, tmp_path: Path) -> None:
    one.copy(tmp_path / "two").write([{"v": 5.0, "_ts": 1003.0}]).push()
    one.write([{"v": 6.0, "_ts": 1003.0}])
    assert one.check().conflicts.keys() == {LOSS}


def test_both_set_other_fields(one: Machine, tmp_path: Path) -> None:
    one.copy(tmp_path / "two").write([{"a": 5.0, "_ts": 1003.0}]).push()
    one.write([{"b": 6.0, "_ts": 1003.0}])
    assert one.check().conflicts.keys() == {LOSS}


def test_both_did_the_same(one: Machine, tmp_path: Path) -> None:
    one.copy(tmp_path / "two").write([{"late": 1, "_ts": 1003.0}, *points(25, 48)]).push()
    one.write([{"late": 1, "_ts": 1003.0}, *points(25, 48)])
    assert nothing(one.check())
    one.write(points(48, 61)).push()
    assert one.remote_rows() == one.rows()
    assert len(one.rows()) == 61


def test_both_did_the_same_and_cut_it_alike_but_for_the_end(one: Machine, tmp_path: Path) -> None:
    one.copy(tmp_path / "two").write(points(25, 48)).push()
    one.write(points(25, 48)[:-9])
    assert one.check().pull == (LOSS,)


def test_segments_that_were_cut_elsewhere_are_not_mixed(one: Machine, tmp_path: Path) -> None:
    """Both have the same points and more; in one folder their segments would overlap."""
    one.copy(tmp_path / "two").write(points(25, 41), segment_points=8).push()
    one.write(points(25, 60), segment_points=15)
    assert "000000000020-000000000035.parquet" in one.files()
    assert one.store.get(f"{SESSION}/{LOSS}/000000000020-000000000028.parquet")
    assert one.check().conflicts.keys() == {LOSS}


def test_an_older_replica_is_no_reason_to_throw_points_away(one: Machine) -> None:
    """Somebody put an older form of the replica back."""
    hot = one.store.get(f"{SESSION}/{LOSS}/data.jsonl")
    one.write(points(25, 29)).push()
    one.write(points(29, 38)).push()
    for path in one.store.walk(f"{SESSION}/{LOSS}"):
        if path.endswith("000000000030.parquet"):
            one.store.delete(path)
    one.store.put(f"{SESSION}/{LOSS}/data.jsonl", hot)
    assert nothing(one.check())
    one.push()
    assert one.remote_rows() == points(0, 38)


def test_another_run_of_the_same_name_is_a_conflict(one: Machine, tmp_path: Path) -> None:
    """What was on the replica was deleted, and another run uploaded: all that is here was on the replica once."""
    for path in one.store.walk(SESSION):
        one.store.delete(path)
    Machine(tmp_path / "two", one.store).write([{"x": i, "_ts": 5.0 + i} for i in range(40)]).push()
    assert one.check().conflicts.keys() == {LOSS}


def test_a_conflict_that_is_over(one: Machine, tmp_path: Path) -> None:
    one.copy(tmp_path / "two").write(points(30, 48)).push()
    one.write(points(25, 30))
    one.check()
    assert one.of().conflict
    for path in one.store.walk(f"{SESSION}/{LOSS}"):
        one.store.delete(path)
    assert nothing(one.check())
    assert one.of().conflict is None
    one.push()
    assert one.remote_rows() == points(0, 30)


def test_a_conflict_that_is_over_with_the_replica_unchanged(one: Machine) -> None:
    known = state.load(str(one.folder))
    known.remote(one.store.describe()).track(LOSS).conflict = "once"
    state.save(str(one.folder), known)
    assert nothing(one.check())
    assert one.of().conflict is None


def test_a_track_that_is_not_here(one: Machine) -> None:
    shutil.rmtree(one.folder / LOSS)
    assert one.forget().check().pull == (LOSS,)


def test_folders_that_are_no_tracks_are_passed_over(one: Machine) -> None:
    for path in ("tracks/data.jsonl", "tracks/a?b/data.jsonl", "other/data.jsonl", f"{LOSS}/deep.txt"):
        one.store.put(f"{SESSION}/{path}", b"x")
    assert nothing(one.check())


# -- damage --------------------------------------------------------------------------------------------------------


def test_a_damaged_replica_is_a_conflict_that_says_so(one: Machine) -> None:
    one.store.put(f"{SESSION}/{LOSS}/data.jsonl", b'{"index": 20, "data": 3}\n')
    found = one.check()
    assert "data.jsonl" in found.conflicts[LOSS]
    assert one.store.describe() in found.conflicts[LOSS]


def test_a_damaged_local_track_is_a_conflict_that_says_so(one: Machine, tmp_path: Path) -> None:
    one.copy(tmp_path / "two").write(points(25, 48)).push()
    (one.folder / LOSS / "000000000000-000000000010.parquet").unlink()
    assert str(one.folder) in one.check().conflicts[LOSS]


def test_a_hole_in_the_replica_is_filled_from_here(one: Machine) -> None:
    one.store.delete(f"{SESSION}/{LOSS}/000000000000-000000000010.parquet")
    one.store.delete(f"{SESSION}/{LOSS}/data.jsonl")
    one.forget()
    assert nothing(one.check())
    one.push()
    assert one.remote_rows() == points(0, 25)


def test_an_outage_is_raised(tmp_path: Path, s3: RemoteStore, s3_proxy: Proxy) -> None:
    one = Machine(tmp_path, s3).write(points(0, 25)).push()
    one.copy(tmp_path / "two").write(points(25, 48)).push()
    tree = check.look(s3, SESSION)
    s3_proxy.fail(Fault.RESET, "GET")
    with pytest.raises(OSError, match=r".") as raised:
        check.compare(str(one.folder), SESSION, s3, one.known, tree)
    assert raised.value.filename


# -- the session's own files ---------------------------------------------------------------------------------------


def test_a_session_of_another_machine(one: Machine, tmp_path: Path) -> None:
    """Two runs of one name that were begun apart: what the second says of itself goes below hosts/."""
    two = Machine(tmp_path / "two", one.store).write(points(0, 3), "other")
    assert two.check().pull == (LOSS,)
    assert two.known.origin is False


def test_a_lost_state_of_a_session_with_parameters_and_logs(tmp_path: Path, store: RemoteStore) -> None:
    one = Machine(tmp_path / "one", store)
    with one.session() as session:
        session.parameters().set(lr=0.1, flag=True)
        session.log("hello")
    one.push()
    known = one.known
    with one.session() as session:
        session.parameters().set(more=1)
        session.log("again")
    one.forget().check()
    for path in ("session.json", "parameters.json", layout.LOGS_FILE):
        assert one.known.files[path].version == known.files[path].version, path
    one.push()
    assert not [path for path in store.walk(SESSION) if "/hosts/" in path]
    assert b"again" in store.get(f"{SESSION}/{layout.LOGS_FILE}")


def test_a_lost_state_does_not_overwrite_what_another_copy_said(tmp_path: Path, store: RemoteStore) -> None:
    one = Machine(tmp_path / "one", store)
    with one.session() as session:
        session.parameters().set(lr=0.1)
        session.log("hello")
    one.push()
    two = one.copy(tmp_path / "two")
    with two.session() as session:
        session.parameters().set(lr=0.2)
        session.log("other")
    two.push()
    one.forget().check()
    assert one.known.file("parameters.json").version is None
    assert one.known.file(layout.LOGS_FILE).version is None
    one.push()
    assert b"other" in store.get(f"{SESSION}/{layout.LOGS_FILE}")


def test_a_description_that_another_machine_gave(one: Machine, tmp_path: Path) -> None:
    two = one.copy(tmp_path / "two")
    with two.session() as session:
        session.track("loss", description="d")
    two.push()
    found = one.write(points(25, 28)).check()
    assert found.pull == found.described == (LOSS,)
    two.write(points(25, 29)).push()
    assert one.check().described == ()


# -- values --------------------------------------------------------------------------------------------------------


@given(values)
def test_every_value_equals_itself(value: Any) -> None:
    assert equal(value, value)


@given(values, values)
def test_values_that_differ_are_not_equal(left: Any, right: Any) -> None:
    if equal(left, right) and not same(left, right):
        assert _widens(left, right), (left, right)


def _widens(left: Any, right: Any) -> bool:
    if isinstance(left, list):
        return all(map(equal, left, right))
    if isinstance(left, dict):
        return set(left) == set(right)
    return {type(left), type(right)} == {int, float}


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (True, 1.0, False),
        (math.nan, math.nan, True),
        (0.0, -0.0, False),
        (0, -0.0, False),
        (0, 0.0, True),
        (2**53 + 1, 2.0**53, False),
        (10**400, math.inf, False),
        ([1, {"a": 1}], [1.0, {"a": 1.0}], True),
        ([1], [1, 2], False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        (None, False, False),
        ("1", 1, False),
        (b"x", "x", False),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1), False),
        (datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2026, 1, 1, tzinfo=UTC), False),
    ],
)
def test_what_is_equal(left: Any, right: Any, expected: bool) -> None:
    assert equal(left, right) is expected
    assert equal(right, left) is expected


# -- what killed uploads leave -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["an open", "the command"])
def test_what_a_killed_upload_left_a_day_ago_is_removed(tmp_path: Path, by: str) -> None:
    one = Machine(tmp_path / "one", RemoteStore((tmp_path / "there").as_uri())).write(points(0, 25)).push()
    left = tmp_path / "there" / SESSION / LOSS / f".tmp-123-{uuid.uuid4().hex}"
    others = [left.with_name(f".tmp-123-{uuid.uuid4().hex}"), left.with_name(".tmp-notes")]
    for path in (left, *others):
        path.write_bytes(b"half a segm")
    for path in (left, others[1]):
        os.utime(path, (time.time() - 90_000.0,) * 2)
    if by == "an open":
        one.session(remote=(tmp_path / "there").as_uri()).open().close()
    else:
        assert sync_folder(str(one.folder), SESSION, one.store).complete
    assert not left.exists()
    assert all(path.exists() for path in others)
    assert one.remote_rows() == points(0, 25)
