"""What the callbacks of training frameworks share: one point a step, sessions of their own and of the caller's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from dreamlake import Lake, Session
from dreamlake.engine.replica.replicator import Replicator
from dreamlake.integrations.recording import Recorder


def own(folder: Path, **options: Any) -> Recorder:
    return Recorder("run", "w", None, {"local_path": folder, **options})


def points(folder: Path, track: str = "t") -> list[dict[str, Any]]:
    found = Lake(folder).session("run", "w").track(track).read(limit=None)["data"]
    return [{name: value for name, value in point["data"].items() if name != "_ts"} for point in found]


def test_what_comes_of_one_step_is_one_point(tmp_path: Path) -> None:
    recorder = own(tmp_path)
    recorder.step("t", "step", 0, {"loss": 1.0})
    recorder.session.track("t").append(other=True)
    recorder.step("u", "step", 0, {"loss": 2.0})
    recorder.step("t", "step", 0, {"val": 0.5, "step": 99})
    recorder.step("t", "step", 1, {"loss": 0.5})
    recorder.finish("finished")
    recorder.step("t", "step", 1, {"test": 0.25})  # after the end, which opens the session again
    recorder.finish("finished")
    assert points(tmp_path) == [
        {"step": 0, "loss": 1.0, "val": 0.5},
        {"other": True},
        {"step": 1, "loss": 0.5, "test": 0.25},
    ]
    assert points(tmp_path, "u") == [{"step": 0, "loss": 2.0}]
    assert Lake(tmp_path).session("run", "w").info["status"] == "finished"


def test_timestamps_are_of_their_own_and_rise(tmp_path: Path) -> None:
    recorder = own(tmp_path)
    for step in range(30_000):
        recorder.step("t", "step", step, {"loss": step * 0.5})
    recorder.finish()
    frame = Lake(tmp_path).session("run", "w").track("t").to_polars()
    assert frame["step"].to_list() == list(range(30_000))
    assert frame["_ts"].is_sorted()
    assert frame["_ts"].n_unique() == 30_000


def test_a_step_that_is_done_again_is_appended_again(tmp_path: Path) -> None:
    for begin, loss in ((0, 1.0), (3, 0.5)):
        recorder = own(tmp_path)
        for step in range(begin, 5):
            recorder.step("t", "step", step, {"loss": loss})
        recorder.finish()
    assert [point["step"] for point in points(tmp_path)] == [0, 1, 2, 3, 4, 3, 4]
    counted = Lake(tmp_path).session("run", "w").track("t").latest(by="step").collect()
    assert counted["loss"].to_list() == [1.0, 1.0, 1.0, 0.5, 0.5]


def test_what_cannot_be_stored_is_left_out_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = own(tmp_path)
    for step in range(3):
        recorder.step("t", "step", step, {"loss": 0.5, "_hidden": 1.0, "odd": object(), "_ts": 5.0, 7: 1})  # type: ignore[dict-item]
    recorder.parameters({"a": {"b": object, 7: (1, Path("x"))}, "a.c": 1})
    recorder.finish()
    told = [record.getMessage() for record in caplog.records]
    assert len([said for said in told if "left out" in said]) == 4
    assert points(tmp_path) == [{"step": step, "loss": 0.5} for step in range(3)]
    parameters = Lake(tmp_path).session("run", "w").parameters().get()
    assert parameters == {"a.b": "<class 'object'>", "a.7": [1, "x"], "a.c": 1}


def test_fields_that_are_too_long_together_are_left_out_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = own(tmp_path)
    for step in range(2):
        recorder.step("t", "step", step, {"long": "x" * 700_000, "loss": 0.5, "short": "y" * 600_000})
    recorder.step("u", "step", 0, dict.fromkeys((f"metric/{number:06}" for number in range(60_000)), 1.0))
    recorder.finish()
    assert points(tmp_path) == [{"step": step, "loss": 0.5, "short": "y" * 600_000} for step in range(2)]
    (metrics,) = points(tmp_path, "u")
    assert metrics["step"] == 0
    assert 40_000 < len(metrics) < 60_000
    (told,) = (record.getMessage() for record in caplog.records if record.getMessage().startswith("long"))
    assert "left out" in told
    assert "1 MB" in told


class Strange:
    """A value that raises whatever is asked of it, as a tensor without data does."""

    def __str__(self) -> str:
        raise RuntimeError("no data")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("no data")


def test_a_value_that_raises_ends_no_training(tmp_path: Path) -> None:
    recorder = own(tmp_path)
    recorder.step("t", "step", 0, {"loss": 0.5, "strange": Strange()})
    recorder.parameters({"lr": 0.1, "strange": Strange(), "list": [Strange()]})
    recorder.finish()
    assert points(tmp_path) == [{"step": 0, "loss": 0.5}]
    parameters = Lake(tmp_path).session("run", "w").parameters().get()
    assert parameters["lr"] == 0.1
    assert "Strange object" in parameters["strange"]
    assert "Strange object" in parameters["list"][0]


def test_parameters_that_cannot_be_stored_leave_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    itself: dict[str, Any] = {"kept": 1}
    itself["itself"] = itself
    itself["list"] = [1, itself]
    deep: Any = 1
    for _ in range(100):
        deep = {"d": deep}
    looped: list[Any] = []
    looped.append(looped)
    recorder = own(tmp_path)
    recorder.parameters(
        {
            "lr": 0.1,
            "x": 1,
            "x.y": 2,
            "labels": {"a": 1, "a.b": 2, "c": 3},
            "conf": itself,
            "looped": looped,
            "deep": deep,
            "twice": [itself["kept"], [], []],
            "\ud800": 1,
            "text": "\ud800",
            "empty": {},
            "large": "x" * 2_000_000,
            "many": {str(number): "\ud800" for number in range(1, 21)},
        }
    )
    recorder.finish()
    assert Lake(tmp_path).session("run", "w").parameters().get() == {
        "lr": 0.1,
        "x.y": 2,
        "labels.a.b": 2,
        "labels.c": 3,
        "conf.kept": 1,
        "twice": [1, [], []],
        "empty": {},
    }
    (told,) = (record.getMessage() for record in caplog.records)
    for name in ("'x'", "'labels.a'", "'conf.itself'", "'conf.list'", "'looped'", r"'\ud800'", "'text'", "'large'"):
        assert name in told
    assert told.endswith("and 20 more")


def test_a_disk_that_takes_no_parameters_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    recorder = own(tmp_path)
    recorder.step("t", "step", 0, {"loss": 1.0})
    with monkeypatch.context() as patched:
        patched.setattr("dreamlake.storage.local.atomic_write", refuse)
        recorder.parameters({"lr": 0.1})
    recorder.finish()
    assert "parameters of run are not set: [Errno 28]" in caplog.text


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError(), "failed"), (KeyboardInterrupt(), "interrupted"), (None, "finished")]
)
def test_the_status_is_that_of_the_exception_at_hand(tmp_path: Path, error: BaseException | None, status: str) -> None:
    recorder = own(tmp_path)
    recorder.step("t", "step", 0, {"loss": 1.0})
    try:
        if error is not None:
            raise error
        recorder.finish()
    except BaseException:
        recorder.finish()
    assert Lake(tmp_path).session("run", "w").info["status"] == status


def test_a_session_of_the_callers_is_neither_opened_nor_closed(tmp_path: Path) -> None:
    with Session("run", "w", tmp_path) as session:
        recorder = Recorder(None, None, session, {})
        recorder.step("t", "step", 0, {"loss": 1.0})
        recorder.finish()
        assert session.is_open
        with pytest.raises(TypeError, match="name and workspace"):
            pickle.dumps(recorder)
    for given in (("run", None, session, {}), (None, None, session, {"tags": []}), ("run", None, None, {})):
        with pytest.raises(ValueError, match="give"):
            Recorder(*given)  # type: ignore[arg-type]


def test_a_recorder_is_sent_to_another_process(tmp_path: Path) -> None:
    recorder = own(tmp_path)
    recorder.step("t", "step", 0, {"loss": 1.0})
    other = pickle.loads(pickle.dumps(recorder))
    other.step("t", "step", 1, {"loss": 0.5})
    other.finish()
    recorder.finish()
    assert [point["step"] for point in points(tmp_path)] == [0, 1]


def test_a_replica_that_does_not_answer_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = own(tmp_path / "here", remote=f"file://{tmp_path}/there")
    recorder.step("t", "step", 0, {"loss": 1.0})

    real = Replicator.finish

    def fail(self: Replicator, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        raise TimeoutError("the replica took too long")

    monkeypatch.setattr(Replicator, "finish", fail)
    recorder.finish()
    assert "took too long" in caplog.text
