"""What is remembered of a replica: round trips, runs of segments, what was sent lately, damage."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run_python

from dreamlake.engine.replica import state
from dreamlake.errors import LockTimeoutError
from dreamlake.format.layout import REPLICA_FILE, SegmentName

names = st.builds(
    lambda start, width, generation: SegmentName(start * 10, start * 10 + width, generation),
    st.integers(0, 50),
    st.integers(1, 30),
    st.integers(0, 3),
)


@given(st.frozensets(names))
def test_segments_come_back_from_their_runs(segments: frozenset[SegmentName]) -> None:
    track = state.TrackState()
    track.segments = segments
    assert track.segments == segments


def test_a_long_track_takes_one_run() -> None:
    track = state.TrackState()
    track.segments = frozenset(SegmentName(at * 10_000, (at + 1) * 10_000) for at in range(1_000))
    assert track.runs == [(0, 10_000, 1_000, 0)]


def test_a_state_comes_back(tmp_path: Path) -> None:
    made = state.load(str(tmp_path))
    remote = made.remote("s3://bucket/lake")
    remote.origin = False
    remote.track("tracks/loss").hot.is_sent('"etag"', "ab")
    remote.track("tracks/loss").segments = frozenset({SegmentName(0, 10), SegmentName(10, 20, 2)})
    remote.track("tracks/loss").about_to_send({SegmentName(20, 30).filename: "ef"})
    remote.file("session.json").about_to_send("cd")
    remote.base = {"lr": 0.1, "layers": [1, 2]}
    state.save(str(tmp_path), made)
    assert state.load(str(tmp_path)) == made


def test_every_folder_gets_an_id_of_its_own(tmp_path: Path) -> None:
    assert state.load(str(tmp_path)).machine != state.load(str(tmp_path)).machine


def test_what_was_sent_lately_is_bounded_and_keeps_the_newest() -> None:
    sent = state.Sent()
    for number in range(100):
        sent.about_to_send(f"{number}")
    sent.about_to_send("99")
    assert sent.lately == [f"{number}" for number in range(100 - state.SHAS_KEPT, 100)]
    sent.is_sent("v", "7")
    assert (sent.version, sent.sha, sent.lately[-1]) == ("v", "7", "7")


def test_segments_that_were_going_to_be_sent_are_noted_until_they_are_there() -> None:
    track = state.TrackState()
    names = [SegmentName(at * 10, at * 10 + 10) for at in range(2 * state.GOING_KEPT)]
    track.about_to_send({name.filename: "a" for name in names[:3]})
    track.about_to_send({names[0].filename: "b"})
    assert list(track.going.items()) == [(names[at].filename, sha) for at, sha in ((1, "a"), (2, "a"), (0, "b"))]
    track.segments = frozenset(names[1:2])
    assert track.going == {names[2].filename: "a", names[0].filename: "b"}
    track.about_to_send({name.filename: "a" for name in names})
    assert len(track.going) == len(names)  # none of those that are on their way is forgotten
    track.segments = frozenset(names[1:2])
    assert list(track.going) == [name.filename for name in names[-state.GOING_KEPT :]]


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"machine": 1}', b'{"machine": "a", "remotes": {"u": {"tracks": 3}}}']
)
def test_a_damaged_state_is_begun_anew(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / REPLICA_FILE).write_bytes(damage)
    with caplog.at_level(logging.WARNING, "dreamlake"):
        found = state.load(str(tmp_path))
    assert found.remotes == {}
    assert REPLICA_FILE in caplog.text


def test_one_at_a_time(tmp_path: Path) -> None:
    with state.hold(str(tmp_path), 0.0), pytest.raises(LockTimeoutError):
        state.hold(str(tmp_path), 0.01)
    state.hold(str(tmp_path), 0.0).release()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = """
import sys
from dreamlake.engine.replica import state
from dreamlake.errors import LockTimeoutError
try:
    state.hold(sys.argv[1], 0.05, single_writer=len(sys.argv) > 2).release()
    print("taken")
except LockTimeoutError:
    print("refused")
"""
    with state.hold(str(tmp_path), 0.0):
        assert run_python(code, tmp_path).stdout == "refused\n"
        assert run_python(code, tmp_path, "single").stdout == "taken\n", "a single writer asks for no lock"
    assert run_python(code, tmp_path).stdout == "taken\n"
