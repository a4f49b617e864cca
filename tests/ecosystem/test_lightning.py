"""The logger with PyTorch Lightning itself: tiny models are trained, killed half-way, resumed, interrupted, failed."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
from support import run_python

from dreamlake import Lake, Session

pytest.importorskip("lightning")

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Lightning and torch keep threads and files for the whole process."""


SCRIPT = """
import os, sys, warnings
warnings.simplefilter("default")
import torch, lightning as L
from torch.utils.data import DataLoader, TensorDataset
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from dreamlake import Session
from dreamlake.integrations.lightning import DreamlakeLogger

folder, what = sys.argv[1:3]
torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(64, 4)
data = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8, num_workers=0)

class Model(L.LightningModule):
    def __init__(self, lr=0.05, layers=(4, 1), activation=torch.nn.ReLU):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch, number):
        loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, number):
        self.log("val_loss", torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def test_step(self, batch, number):
        self.log("test_loss", torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

class At(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        if trainer.global_step == 21:
            if what == "kill":
                trainer.logger.experiment.flush()
                os.kill(os.getpid(), 9)
            if what == "fail":
                raise RuntimeError("diverged")
            if what == "interrupt":
                raise KeyboardInterrupt

logger = DreamlakeLogger("run", "w", local_path=f"{folder}/lake", tags=["tiny"])
trainer = L.Trainer(
    max_epochs=5, logger=logger, log_every_n_steps=1, default_root_dir=folder, accelerator="cpu", devices=1,
    callbacks=[At(), ModelCheckpoint(dirpath=f"{folder}/ckpt", save_last=True)],
    enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
)
last = f"{folder}/ckpt/last.ckpt"
model = Model()
trainer.fit(model, data, data, ckpt_path=last if what == "resume" else None, weights_only=False)
if what == "test":
    trainer.test(model, data)
"""


def train(folder: Path, what: str, check: bool = True) -> Any:
    return run_python(SCRIPT, folder, what, check=check, timeout=300)


def run_in(folder: Path) -> Any:
    return Lake(folder / "lake").session("run", "w")


def test_a_training_that_ends(tmp_path: Path) -> None:
    train(tmp_path, "test")
    run = run_in(tmp_path)
    assert run.info["status"] == "finished"
    frame = run.track("metrics").to_polars()
    assert frame["step"].to_list() == list(range(41)), "one point a step, and what test told is of the last"
    assert frame["train_loss"].null_count() == 1
    assert frame["train_loss"][39] < frame["train_loss"][0]
    validated = frame.filter(frame["val_loss"].is_not_null())
    assert validated["step"].to_list() == [7, 15, 23, 31, 39]
    assert validated["train_loss"].null_count() == 0, "training and validation of a step are one point"
    assert frame["test_loss"].drop_nulls().len() == 1
    parameters = run.parameters().get()
    assert (parameters["lr"], parameters["layers"]) == (0.05, [4, 1])
    assert "ReLU" in parameters["activation"]
    logs = run.logs()
    assert "checkpoint" in logs["message"].to_list()


def test_killed_half_way_and_resumed(tmp_path: Path) -> None:
    """It dies in step 20; the last checkpoint is of step 16, so 16 to 20 are trained twice."""
    assert train(tmp_path, "kill", check=False).returncode == -signal.SIGKILL
    run = run_in(tmp_path)
    before = run.track("metrics").to_polars()
    assert before["step"].to_list() == list(range(len(before)))
    assert 20 <= len(before) <= 21
    train(tmp_path, "resume")
    assert run.info["status"] == "finished"
    frame = run.track("metrics").to_polars()
    assert frame["step"].to_list() == [*range(len(before)), *range(16, 40)]
    counted = run.track("metrics").latest(by="step").collect()
    assert counted["step"].to_list() == list(range(40))
    assert counted["_index"].to_list() == [*range(16), *range(len(before), len(before) + 24)]


@pytest.mark.parametrize(("what", "status"), [("fail", "failed"), ("interrupt", "interrupted")])
def test_how_it_ended(tmp_path: Path, what: str, status: str) -> None:
    assert train(tmp_path, what, check=False).returncode != 0
    assert run_in(tmp_path).info["status"] == status


def test_a_session_of_the_callers_stays_open(tmp_path: Path) -> None:
    from dreamlake.integrations.lightning import DreamlakeLogger

    with Session("mine", "w", tmp_path) as session:
        logger = DreamlakeLogger(session=session, track="train")
        logger.log_metrics({"loss": 0.5}, step=3)
        logger.log_metrics({"val": 0.25, "step": 7}, step=3)
        logger.log_metrics({"loss": 0.25}, step=4)
        logger.finalize("success")
        assert session.is_open
        assert logger.experiment is session
        assert (logger.name, logger.version) == ("w", "mine")
        found = [point["data"] for point in session.track("train").read()["data"]]
    assert [{key: value for key, value in point.items() if key != "_ts"} for point in found] == [
        {"step": 3, "loss": 0.5, "val": 0.25},
        {"step": 4, "loss": 0.25},
    ]


def test_what_cannot_be_stored_is_left_out_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from dreamlake.integrations.lightning import DreamlakeLogger

    logger = DreamlakeLogger("run", "w", local_path=tmp_path)
    for step in range(3):
        logger.log_metrics({"loss": 0.5, "_hidden": 1.0, "odd": object()}, step=step)
    logger.log_hyperparams({"a": {"b": object}, "path": Path("x"), "a.c": 1, "n": None})
    logger.finalize("success")
    assert len([record for record in caplog.records if "left out" in record.message]) == 2
    run = Lake(tmp_path).session("run", "w")
    assert run.track("metrics").to_polars().select("step", "loss").rows() == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert run.parameters().get() == {"a.b": "<class 'object'>", "path": "x", "a.c": 1, "n": None}


def test_a_logger_is_sent_to_other_processes(tmp_path: Path) -> None:
    from dreamlake.integrations.lightning import DreamlakeLogger

    logger = DreamlakeLogger("run", "w", local_path=tmp_path)
    logger.log_metrics({"loss": 0.5}, step=0)
    other = pickle.loads(pickle.dumps(logger))
    other.log_metrics({"loss": 0.25}, step=1)
    other.finalize("success")
    logger.finalize("success")
    assert len(Lake(tmp_path).session("run", "w").track("metrics")) == 2
    with Session("mine", "w", tmp_path) as session, pytest.raises(TypeError, match="name and workspace"):
        pickle.dumps(DreamlakeLogger(session=session))
    with pytest.raises(ValueError, match="not both"):
        DreamlakeLogger("run", session=session)
    with pytest.raises(ValueError, match="workspace"):
        DreamlakeLogger("run")


RANKS = """
import sys, warnings
warnings.simplefilter("default")
import torch, lightning as L
from torch.utils.data import DataLoader, TensorDataset
from dreamlake import Session
from dreamlake.integrations.lightning import DreamlakeLogger

folder = sys.argv[1]
torch.set_num_threads(1)

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)

    def on_fit_start(self):
        self.own = Session("run", "w", f"{folder}/lake").track(f"rank{self.global_rank}/batches")

    def training_step(self, batch, number):
        loss = self.net(batch[0]).pow(2).mean()
        self.log("loss", loss, sync_dist=False)
        self.logger.experiment.track("mine").append(number=number)  # does nothing on rank 1
        self.own.append(step=self.global_step, first=int(batch[0][0, 0]))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

if __name__ == "__main__":
    x = torch.arange(32.0).repeat(4, 1).T
    trainer = L.Trainer(
        max_epochs=1, logger=DreamlakeLogger("run", "w", local_path=f"{folder}/lake"), log_every_n_steps=1,
        default_root_dir=folder, accelerator="cpu", devices=2, strategy=sys.argv[2], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(Model(), DataLoader(TensorDataset(x), batch_size=4))
"""


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_ranks(tmp_path: Path, strategy: str) -> None:
    """Rank 0 writes what is logged; each has a track of its own in the same session."""
    script = tmp_path / "script.py"
    script.write_text(RANKS)
    run = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    if strategy == "ddp":
        run = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True)"
    run_python(run, script, tmp_path, strategy, timeout=300)
    view = run_in(tmp_path)
    assert view.tracks.list() == ["metrics", "mine", "rank0/batches", "rank1/batches"]
    assert view.track("metrics").to_polars()["step"].to_list() == [0, 1, 2, 3]
    assert len(view.track("mine")) == 4
    firsts = [set(view.track(f"rank{rank}/batches").to_polars()["first"]) for rank in (0, 1)]
    assert [len(first) for first in firsts] == [4, 4]
    assert not firsts[0] & firsts[1]
