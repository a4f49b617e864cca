"""When the replica is brought up to date, and what is said of trouble: with a clock that the tests turn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from dreamlake.engine.options import Remote
from dreamlake.engine.replica import pace, push, state
from dreamlake.engine.replica.pace import Pace
from dreamlake.engine.replica.push import Outcome
from dreamlake.engine.replica.replicator import Replicator
from dreamlake.storage.remote import ObjectChanged


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def passed(made: Pace, clock: Clock, well: bool, lasted: float = 0.0) -> float:
    """Wait until a pass is due, let it end, and return how long the wait was."""
    waited = made.wait()
    clock.now += waited + lasted
    made.ended(well, lasted)
    return waited


def test_the_first_pass_comes_soon_and_the_others_regularly(clock: Clock) -> None:
    made = Pace(10.0, clock)
    assert [passed(made, clock, True) for _ in range(3)] == [1.0, 10.0, 10.0]


def test_a_roll_is_sent_soon_and_not_at_once_again(clock: Clock) -> None:
    made = Pace(10.0, clock)
    passed(made, clock, True)
    made.hurry()
    assert made.wait() == 1.0
    clock.now += 5
    made.hurry()
    assert made.wait() == 0.0


def test_slow_uploads_make_room(clock: Clock) -> None:
    made = Pace(10.0, clock)
    passed(made, clock, True, lasted=20.0)
    assert made.wait() == 20.0 / pace.SHARE


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_an_hour_without_network(clock: Clock, chance: float) -> None:
    made = Pace(10.0, clock, lambda: chance)
    started = clock.now
    waits = []
    while clock.now < started + 3600:
        waits.append(passed(made, clock, False, lasted=8.0))
        made.hurry()  # rolls go on, and change nothing
        assert made.wait() > 2.0
    assert 50 <= len(waits) <= 130
    assert max(waits) <= pace.LONGEST_PAUSE
    assert waits[1] < waits[2] < waits[3]
    passed(made, clock, True)
    assert made.failures == 0
    assert made.wait() == 10.0


def test_jitter_spreads_many_runs() -> None:
    waits = set()
    for _ in range(50):
        clock = Clock()
        made = Pace(10.0, clock)
        made.ended(False, 0.0)
        waits.add(made.wait())
    assert len(waits) == 50
    assert all(5.0 <= wait <= 10.0 for wait in waits)


class Local:
    """A writer with nothing to change."""

    last_ts = float("-inf")

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.late: list[Any] = []

    def waiting(self) -> list[Any]:
        return self.late

    def alone(self, work: Callable[[], None]) -> None:
        raise AssertionError("no disk is full")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not expected")


@pytest.fixture
def replicator(tmp_path: Path) -> Replicator:
    made = Replicator(Local(tmp_path), "w/s", Remote("memory://nowhere", None, 10.0), lambda: None)  # type: ignore[arg-type]
    made.comparing.is_done = True
    return made


Push = Callable[[list[Any]], list[dict[str, Any]]]


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> Push:
    """Replace `push` by a list of what its calls return or raise."""

    def replace(results: list[Any]) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def stand_in(*args: Any, **kwargs: Any) -> Outcome:
            calls.append(kwargs)
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result  # type: ignore[no-any-return]

        monkeypatch.setattr(push, "push", stand_in)
        return calls

    return replace


def failed() -> Outcome:
    return Outcome(left=3, failures=[("memory://nowhere/w/s", ConnectionError(111, "refused"))])


def test_one_warning_an_outage_and_one_word_when_it_is_over(
    replicator: Replicator, pushes: Push, caplog: pytest.LogCaptureFixture
) -> None:
    pushes([failed(), failed(), OSError(5, "odd"), Outcome(), Outcome(), failed(), Outcome()])
    with caplog.at_level(logging.WARNING, "dreamlake"):
        for _ in range(7):
            replicator._tick()
    said = ["cannot" if "cannot be brought" in record.message else "again" for record in caplog.records]
    assert said == ["cannot", "again", "cannot", "again"]


def test_what_failed_is_still_behind(replicator: Replicator, pushes: Push) -> None:
    pushes([failed(), Outcome(left=2), Outcome()])
    behind = []
    for _ in range(3):
        replicator._tick()
        behind.append(replicator.behind)
    assert behind == [True, True, False]


def test_a_conflict_is_told_once_and_is_no_outage(
    replicator: Replicator, pushes: Push, caplog: pytest.LogCaptureFixture
) -> None:
    conflict = Outcome(conflicts=["the track 'loss' was written by another machine"])
    pushes([conflict, conflict])
    for _ in range(2):
        replicator._tick()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert replicator._pace.failures == 0


def test_another_process_that_replicates_is_no_trouble(
    replicator: Replicator, pushes: Push, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    calls = pushes([])
    with state.hold(str(tmp_path), 0.0):
        replicator._tick()
    assert calls == []
    assert caplog.records == []
    assert replicator.behind


def test_what_is_written_during_a_pass_is_behind(replicator: Replicator, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any, **kwargs: Any) -> Outcome:
        replicator.changed(rolled=False)
        return Outcome()

    monkeypatch.setattr(push, "push", slow)
    replicator._tick()
    assert replicator.behind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ObjectChanged("memory://nowhere/w/s", None), OSError),  # which takes other arguments than an OSError
        (PermissionError(13, "denied", "there"), PermissionError),
        (TimeoutError("no answer"), TimeoutError),
        (ConnectionResetError(104, "reset", "there"), ConnectionError),
    ],
)
def test_a_failed_sync_names_the_command(
    replicator: Replicator, pushes: Push, error: OSError, kind: type[OSError]
) -> None:
    pushes([Outcome(failures=[("there", error)])])
    with pytest.raises(kind, match=f"all is safe in {replicator.folder}.*`dreamlake sync ") as raised:
        replicator.sync(10.0)
    assert raised.value.errno is not None
    replicator.thread.stop(10.0)


def test_a_sync_that_was_ended_early_says_so(replicator: Replicator, pushes: Push) -> None:
    pushes([Outcome(left=3, ended=True)])
    with pytest.raises(OSError, match="before all was sent"):
        replicator.sync(10.0)
    replicator.thread.stop(10.0)


@pytest.mark.parametrize(
    ("error", "waits"),
    [(None, 30.0), (TimeoutError(110, "x"), 0.0), (KeyboardInterrupt(), 0.0), (OSError(5, "x"), 30.0)],
)
def test_the_end_of_a_session_waits_for_no_thread_that_may_hang(
    replicator: Replicator, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, waits: float
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(replicator.thread, "stop", waited.append)

    def sync(timeout: float | None) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(replicator, "sync", sync)
    with nullcontext() if error is None else pytest.raises(type(error)):
        replicator.finish(None, last=True)
    assert waited == [waits]
    assert replicator._stop
