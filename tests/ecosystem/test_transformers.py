"""The callback with the Trainer of Transformers itself: a tiny BERT is trained, killed half-way, resumed and failed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from support import run_python

from dreamlake import Lake

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Transformers and torch keep threads and files for the whole process."""


SCRIPT = """
import os, sys, warnings
warnings.simplefilter("default")
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from dreamlake import Session
from dreamlake.integrations.transformers import DreamlakeCallback

folder, what = sys.argv[1:3]
torch.set_num_threads(1)
torch.manual_seed(0)
tokens = torch.randint(0, 20, (64, 6))
data = [{"input_ids": row, "labels": int(row[0] > 10)} for row in tokens]
model = BertForSequenceClassification(
    BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
)

class At(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 21:
            if what == "kill":
                ours._recorder.session.flush()
                os.kill(os.getpid(), 9)
            if what in ("fail", "fail inside"):
                raise RuntimeError("diverged")

arguments = TrainingArguments(
    output_dir=f"{folder}/ckpt", per_device_train_batch_size=8, num_train_epochs=5, logging_steps=1, save_steps=8,
    eval_strategy="steps", eval_steps=8, report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=0.01,
)

def train(ours):
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=[ours, At()])
    trainer.train(resume_from_checkpoint=what == "resume")
    return trainer

if what == "fail inside":
    with Session("run", "w", f"{folder}/lake") as session:
        train(DreamlakeCallback(session=session))
ours = DreamlakeCallback("run", "w", local_path=f"{folder}/lake", tags=["tiny"])
trainer = train(ours)
assert not ours._recorder._session.is_open
if what == "evaluate":
    trainer.evaluate(metric_key_prefix="final")
    assert not ours._recorder._session.is_open
"""


def train(folder: Path, what: str, check: bool = True) -> Any:
    return run_python(SCRIPT, folder, what, check=check, timeout=300)


def run_in(folder: Path) -> Any:
    return Lake(folder / "lake").session("run", "w")


def test_a_training_that_ends(tmp_path: Path) -> None:
    train(tmp_path, "evaluate")
    run = run_in(tmp_path)
    assert run.info["status"] == "finished"
    frame = run.track("metrics").to_polars()
    assert frame["step"].to_list() == list(range(1, 41)), "one point a step, and what came after is of the last"
    assert frame["loss"].null_count() == 0
    assert frame.filter(frame["eval_loss"].is_not_null())["step"].to_list() == [8, 16, 24, 32, 40]
    assert frame["final_loss"].drop_nulls().len() == frame["train_runtime"].drop_nulls().len() == 1
    parameters = run.parameters().get()
    assert parameters["learning_rate"] == 0.01
    assert parameters["model.hidden_size"] == 8
    told = run.logs()
    assert told["message"].to_list() == ["training starts", *["checkpoint"] * 5]


def test_killed_half_way_and_resumed(tmp_path: Path) -> None:
    """It dies in step 21; the last checkpoint is of step 16, so 17 and those after it are trained twice."""
    assert train(tmp_path, "kill", check=False).returncode == -signal.SIGKILL
    run = run_in(tmp_path)
    before = run.track("metrics").to_polars()
    assert before["step"].to_list() == list(range(1, len(before) + 1))
    assert 20 <= len(before) <= 21
    train(tmp_path, "resume")
    assert run.info["status"] == "finished"
    frame = run.track("metrics").to_polars()
    assert frame["step"].to_list() == [*before["step"], *range(17, 41)]
    counted = run.track("metrics").latest(by="step").collect()
    assert counted["step"].to_list() == list(range(1, 41))
    assert counted["_index"].to_list() == [*range(16), *range(len(before), len(before) + 24)]
    starts = [row["metadata"] for row in run.logs().iter_rows(named=True) if row["message"] == "training starts"]
    assert starts == ['{"step":0}', '{"step":16}']


@pytest.mark.parametrize("what", ["fail", "fail inside"])
def test_a_training_that_fails(tmp_path: Path, what: str) -> None:
    """With a session of its own at the end of the program, and with one of the caller's when its block is left."""
    assert train(tmp_path, what, check=False).returncode != 0
    assert run_in(tmp_path).info["status"] == "failed"
    assert len(run_in(tmp_path).track("metrics")) >= 20
