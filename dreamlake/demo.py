"""The demo's training script: softmax regression on handwritten digits, recorded as any training script would do it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from dreamlake.errors import SessionExistsError
from dreamlake.session import Session

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

WORKSPACE = "demo"
SESSION = "digits"
BATCH_SIZE = 32
LEARNING_RATE = 0.1
SEED = 7
#: One image of so many goes to validation.
HELD_OUT = 5

STEPS_TRACK = "train/step"
GRADIENT_TRACK = "train/gradient"
EPOCHS_TRACK = "epoch"


@dataclass(frozen=True)
class Digits:
    """1,797 scanned digits of 8 by 8 pixels, in two parts; images are rows of 64 values between 0 and 1."""

    train_images: Floats
    train_labels: Labels
    val_images: Floats
    val_labels: Labels


@dataclass(frozen=True)
class Epoch:
    """How the model stands at the end of an epoch; accuracies are fractions."""

    number: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    #: Of each digit, the fraction that was recognised.
    recall: Floats


def load_digits() -> Digits:
    """Load the digits that scikit-learn carries, shuffled with a fixed seed.

    Raises
    ------
    ImportError
        scikit-learn is not installed.
    """
    # By name, so that type checkers do not need scikit-learn.
    images, labels = importlib.import_module("sklearn.datasets").load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(images))
    images, labels = images[order] / 16.0, labels[order].astype(np.int64)
    held_out = len(images) // HELD_OUT
    return Digits(images[held_out:], labels[held_out:], images[:held_out], labels[:held_out])


class SoftmaxRegression:
    """A linear classifier of ten classes, trained by gradient descent on the cross entropy."""

    def __init__(self, inputs: int, classes: int = 10) -> None:
        self.weights = np.zeros((inputs, classes))
        self.bias = np.zeros(classes)

    def step(self, images: Floats, labels: Labels, learning_rate: float) -> tuple[float, Floats, Floats]:
        """Learn from one batch; returns its loss before that, and the gradients of weights and bias."""
        probabilities = self._probabilities(images)
        rows = np.arange(len(labels))
        loss = -np.log(probabilities[rows, labels] + 1e-12).mean()
        probabilities[rows, labels] -= 1.0
        probabilities /= len(labels)
        weights_gradient = images.T @ probabilities
        bias_gradient = probabilities.sum(axis=0)
        self.weights -= learning_rate * weights_gradient
        self.bias -= learning_rate * bias_gradient
        return float(loss), weights_gradient, bias_gradient

    def evaluate(self, images: Floats, labels: Labels) -> tuple[float, Floats]:
        """The loss, and for each class the fraction of its images that are recognised."""
        probabilities = self._probabilities(images)
        loss = -np.log(probabilities[np.arange(len(labels)), labels] + 1e-12).mean()
        right = probabilities.argmax(axis=1) == labels
        totals = np.bincount(labels, minlength=probabilities.shape[1])
        recall = np.bincount(labels, weights=right, minlength=probabilities.shape[1]) / np.maximum(totals, 1)
        return float(loss), recall

    def _probabilities(self, images: Floats) -> Floats:
        logits = images @ self.weights + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        exponents: Floats = np.exp(logits)
        exponents /= exponents.sum(axis=1, keepdims=True)
        return exponents


def new_session(path: str) -> Session:
    """Open the first of digits, digits-2, digits-3 … that is not there yet, in the lake at `path`.

    Raises
    ------
    ValueError, OSError
        `path` is no folder that can be written.
    """
    for number in count(1):
        name = SESSION if number == 1 else f"{SESSION}-{number}"
        session = Session(
            name,
            WORKSPACE,
            path,
            description="softmax regression on scikit-learn's digits",
            tags=["demo", "numpy"],
            resume="never",
        )
        try:
            return session.open()
        except SessionExistsError:
            continue
    raise AssertionError("there are more numbers than sessions")


def train(session: Session, digits: Digits, steps: int, progress: Callable[[Epoch], None]) -> None:
    """Train for so many steps, and record every one.

    ``train/step`` and ``train/gradient`` get a point a step with one timestamp for both, ``epoch`` one an epoch (and
    one for what is left at the end).
    """
    session.parameters().set(
        model={"name": "softmax regression", "inputs": digits.train_images.shape[1], "classes": 10},
        optimizer={"name": "sgd", "learning_rate": LEARNING_RATE, "batch_size": BATCH_SIZE},
        steps=steps,
        seed=SEED,
    )
    session.track(STEPS_TRACK, description="loss of each batch", metadata={"unit": "nats"})
    session.log("training starts", metadata={"images": len(digits.train_images)})
    rng = np.random.default_rng(SEED)
    model = SoftmaxRegression(digits.train_images.shape[1])
    step = 0
    for epoch in count(1):
        order = rng.permutation(len(digits.train_images))
        losses = []
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            losses.append(_step(session, model, digits, order[start : start + BATCH_SIZE], step, epoch))
            step += 1
            if step == steps:
                break
        progress(_end_of_epoch(session, model, digits, epoch, losses))
        if step == steps:
            break
    session.log("training ends", metadata={"steps": step, "epochs": epoch})


def _step(session: Session, model: SoftmaxRegression, digits: Digits, rows: Labels, step: int, epoch: int) -> float:
    images, labels = digits.train_images[rows], digits.train_labels[rows]
    loss, weights_gradient, bias_gradient = model.step(images, labels, LEARNING_RATE)
    session.track(STEPS_TRACK).append(loss=loss, step=step, epoch=epoch)
    # -1 takes the timestamp of the latest append, so that the two tracks can be joined on _ts.
    session.track(GRADIENT_TRACK).append(
        weights_norm=np.linalg.norm(weights_gradient), bias_norm=np.linalg.norm(bias_gradient), _ts=-1
    )
    return loss


def _end_of_epoch(
    session: Session, model: SoftmaxRegression, digits: Digits, number: int, losses: list[float]
) -> Epoch:
    val_loss, recall = model.evaluate(digits.val_images, digits.val_labels)
    counts = np.bincount(digits.val_labels, minlength=len(recall))
    epoch = Epoch(number, float(np.mean(losses)), val_loss, float(recall @ counts / counts.sum()), recall)
    session.track(EPOCHS_TRACK).append(
        epoch=number,
        train_loss=epoch.train_loss,
        val_loss=epoch.val_loss,
        val_accuracy=epoch.val_accuracy,
        recall=epoch.recall,  # a NumPy array: stored as a list
    )
    return epoch
