"""The callback with Keras itself, on the backend that is installed: trained, killed half-way, resumed and failed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support import run_python

from dreamlake import Lake

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("keras")

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Keras and its backend keep threads and files for the whole process."""


SCRIPT = """
import os, sys, warnings
warnings.simplefilter("default")
import numpy as np, keras
from dreamlake import Session
from dreamlake.integrations.keras import DreamlakeCallback

folder, what = sys.argv[1:3]
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
y = x.sum(1, keepdims=True)
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.05), "mse", metrics=["mae"])

class At(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        model.save_weights(f"{folder}/ckpt.weights.h5")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 3 and batch == 4:
            if what == "kill":
                ours._recorder.session.flush()
                os.kill(os.getpid(), 9)
            if what == "fail":
                raise RuntimeError("diverged")

every = None if what == "epochs only" else 2
ours = DreamlakeCallback("run", "w", local_path=f"{folder}/lake", every=every)
begin = 0
if what == "resume":
    model.load_weights(f"{folder}/ckpt.weights.h5")
    begin = 3
callbacks = [ours] if what == "epochs only" else [ours, At()]
if what == "given":
    with Session("run", "w", f"{folder}/lake") as session:
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[DreamlakeCallback(session=session, track="e")])
        assert session.is_open
else:
    model.fit(
        x, y, batch_size=8, epochs=6, initial_epoch=begin, validation_split=0.25, verbose=0, callbacks=callbacks
    )
    assert not ours._recorder._session.is_open
if what == "epochs only":
    lists = keras.callbacks.CallbackList([ours], model=model)
    assert lists._async_train is keras.callbacks.CallbackList([], model=model)._async_train
"""


def train(folder: Path, what: str, check: bool = True) -> Any:
    return run_python(SCRIPT, folder, what, check=check, timeout=300, KERAS_BACKEND=os.environ["KERAS_BACKEND"])


def run_in(folder: Path) -> Any:
    return Lake(folder / "lake").session("run", "w")


def test_a_training_that_ends(tmp_path: Path) -> None:
    train(tmp_path, "whole")
    run = run_in(tmp_path)
    assert run.info["status"] == "finished"
    frame = run.track("epochs").to_polars()
    assert frame["epoch"].to_list() == list(range(6))
    assert {"loss", "mae", "val_loss", "val_mae"} <= set(frame.columns)
    assert frame["loss"][5] < frame["loss"][0]
    batches = run.track("batches").to_polars()
    assert batches["step"].to_list() == list(range(2, 37, 2)), "six batches an epoch, every second one"
    assert batches["epoch"].to_list() == [epoch for epoch in range(6) for _ in range(3)]
    parameters = run.parameters().get()
    assert parameters["epochs"] == 6
    assert parameters["optimizer.learning_rate"] == pytest.approx(0.05)


def test_killed_half_way_and_resumed(tmp_path: Path) -> None:
    assert train(tmp_path, "kill", check=False).returncode == -signal.SIGKILL
    run = run_in(tmp_path)
    assert run.track("epochs").to_polars()["epoch"].to_list() == [0, 1, 2]
    before = run.track("batches").to_polars()["step"].to_list()
    assert before == list(range(2, 23, 2))
    train(tmp_path, "resume")
    assert run.info["status"] == "finished"
    assert run.track("epochs").to_polars()["epoch"].to_list() == [0, 1, 2, 3, 4, 5]
    assert run.track("batches").to_polars()["step"].to_list() == [*before, *range(20, 37, 2)]
    counted = run.track("batches").latest(by="step").collect()
    assert counted["step"].to_list() == list(range(2, 37, 2))


def test_a_training_that_fails(tmp_path: Path) -> None:
    assert train(tmp_path, "fail", check=False).returncode != 0
    assert run_in(tmp_path).info["status"] == "failed"
    assert run_in(tmp_path).track("epochs").to_polars()["epoch"].to_list() == [0, 1, 2]


def test_a_session_of_the_callers(tmp_path: Path) -> None:
    train(tmp_path, "given")
    assert run_in(tmp_path).track("e").to_polars()["epoch"].to_list() == [0, 1]


def test_epochs_only_do_not_make_keras_wait_for_batches(tmp_path: Path) -> None:
    train(tmp_path, "epochs only")
    assert run_in(tmp_path).tracks.list() == ["epochs"]


def test_every_is_a_number_of_batches() -> None:
    from dreamlake.integrations.keras import DreamlakeCallback

    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="number of batches"):
            DreamlakeCallback("run", "w", every=wrong)
