"""The input of the workloads: noisy losses with their step and epoch, the same in every run."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl

SEED = 20_260
STEPS_PER_EPOCH = 1_000


def losses(count: int) -> Any:
    """A falling loss with noise in every bit of the mantissa, as float64: the hardest case for a codec."""
    noise = np.random.default_rng(SEED).normal(0.0, 0.05, count)
    return np.exp(-np.arange(count) / count) + noise


def timestamps(count: int) -> Any:
    """Strictly rising seconds since the epoch, about 10 ms apart with jitter: a training loop's clock."""
    return 1.767e9 + np.cumsum(0.005 + np.random.default_rng(SEED + 1).exponential(0.005, count))


@cache
def values(count: int) -> list[float]:
    """`losses` as Python floats, for the loops that build their points one by one."""
    floats: list[float] = losses(count).tolist()
    return floats


def batches(count: int, size: int) -> list[list[dict[str, Any]]]:
    """`count` points as dicts of three scalars, in lists of `size`."""
    points = [{"value": v, "step": i, "epoch": i // STEPS_PER_EPOCH} for i, v in enumerate(values(count))]
    return [points[start : start + size] for start in range(0, count, size)]


def frame(count: int, *, with_ts: bool = False, single: bool = False) -> pl.DataFrame:
    """`count` points as a frame of value, step, epoch.

    Parameters
    ----------
    with_ts
        Whether there is an explicit `_ts` column; without one dreamlake draws the timestamps.
    single
        Whether the losses were computed in float32, as most training code does, and then stored as doubles.
    """
    steps = np.arange(count)
    value = losses(count)
    columns = {
        "value": value.astype(np.float32).astype(np.float64) if single else value,
        "step": steps,
        "epoch": steps // STEPS_PER_EPOCH,
    }
    return pl.DataFrame({"_ts": timestamps(count), **columns} if with_ts else columns)
