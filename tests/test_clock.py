"""The clock of a session: automatic timestamps rise whatever the time does, explicit ones are passed on by -1."""

from __future__ import annotations

from itertools import pairwise
from math import inf, nextafter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import Time

from dreamlake import Session
from dreamlake.clock import SessionClock, is_inherited


def clock_at(now: float) -> tuple[SessionClock, Time]:
    time = Time(now)
    return SessionClock(time), time


def test_an_automatic_timestamp_is_the_time_now() -> None:
    clock, time = clock_at(1000.0)
    assert clock.draw() == 1000.0
    time.now = 1000.5
    assert clock.draw() == 1000.5


def test_while_the_clock_stands_still_each_is_the_next_number() -> None:
    clock, _ = clock_at(1000.0)
    assert [clock.draw() for _ in range(3)] == [1000.0, nextafter(1000.0, inf), nextafter(nextafter(1000.0, inf), inf)]


def test_a_clock_that_steps_back_does_not_take_timestamps_back() -> None:
    clock, time = clock_at(1000.0)
    clock.draw()
    time.now = 10.0
    assert clock.draw() == nextafter(1000.0, inf)
    time.now = 1001.0
    assert clock.draw() == 1001.0


def test_a_resumed_session_goes_on_above_its_last_timestamp() -> None:
    clock, _ = clock_at(1000.0)
    clock.resume(2000.0)
    assert clock.draw() == nextafter(2000.0, inf)
    clock.resume(1500.0)
    assert clock.draw() > nextafter(2000.0, inf), "a lower one does not set it back"


@pytest.mark.parametrize("ts", [1e300, -1e300, 5000.0])
def test_an_explicit_timestamp_does_not_drag_automatic_ones_along(ts: float) -> None:
    clock, time = clock_at(1000.0)
    clock.note(ts)
    assert clock.draw() == 1000.0
    time.now += 1
    assert clock.reserve(2)[0] < 1001.0


def test_nothing_to_inherit_before_the_first_append_of_this_process() -> None:
    clock, _ = clock_at(1000.0)
    assert clock.latest is None
    clock.resume(2000.0)
    assert clock.latest is None, "what an earlier run drew is not this process's"
    assert clock.inherit() == nextafter(2000.0, inf)
    assert clock.latest == nextafter(2000.0, inf)


def test_the_latest_append_is_inherited_whichever_kind_it_was() -> None:
    clock, _ = clock_at(1000.0)
    clock.note(5.0)
    assert clock.inherit() == clock.inherit() == 5.0
    drawn = clock.draw()
    assert clock.inherit() == drawn == 1000.0
    clock.note(7.0)
    clock.note(6.0)
    assert clock.inherit() == 6.0
    start, tick = clock.reserve(3)
    assert clock.inherit() == start + 2 * tick


def test_a_batch_lies_in_the_past_where_there_is_room() -> None:
    clock, time = clock_at(1000.0)
    clock.draw()
    time.now = 2000.0
    start, tick = clock.reserve(1000)
    assert 1000.0 < start < 2000.0
    assert start + 999 * tick == 2000.0 == clock.last


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("move"), st.one_of(st.floats(-1e9, 1e9), st.just(0.0))),
            st.tuples(st.just("draw"), st.just(0.0)),
            st.tuples(st.just("inherit"), st.just(0.0)),
            st.tuples(st.just("reserve"), st.integers(1, 5000).map(float)),
            st.tuples(st.just("note"), st.floats(allow_nan=False, allow_infinity=False)),
        ),
        max_size=40,
    )
)
def test_automatic_timestamps_rise_strictly(steps: list[tuple[str, float]]) -> None:
    clock, time = clock_at(1.7e9)
    drawn: list[float] = []
    latest: float | None = None
    for step, value in steps:
        if step == "move":
            time.now += value
        elif step == "draw":
            drawn.append(clock.draw())
            latest = drawn[-1]
        elif step == "note":
            clock.note(value)
            latest = value
        elif step == "reserve":
            start, tick = clock.reserve(int(value))
            drawn += [start + i * tick for i in range(int(value))]
            latest = drawn[-1]
        else:
            ts = clock.inherit()
            if latest is None:
                drawn.append(ts)
                latest = ts
            assert ts == latest
    assert all(a < b for a, b in pairwise(drawn))


def test_an_inherited_timestamp_goes_on_over_a_close_in_one_process(lake_dir: Path) -> None:
    with Session("run", "lab", lake_dir) as session:
        session.track("pose").append(x=1.0, _ts=1234.5)
    with Session("run", "lab", lake_dir) as session:
        session.track("image").append(frame=1, _ts=-1)
        assert session.track("image").read()["data"][0]["data"]["_ts"] == 1234.5


def test_only_the_number_minus_one_is_inherited() -> None:
    import numpy as np

    assert all(map(is_inherited, (-1, -1.0, np.float64(-1), np.int64(-1))))
    assert not any(map(is_inherited, (True, "-1", b"-1", None, 1, -1.5, float("nan"), [-1], np.array([1, 2]))))
