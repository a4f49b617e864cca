"""Damage: a drawn part of all flips and truncations of every file, through every way to read; nothing wrong is read.

All of them: ``cd tests && python -m campaigns damage``.
"""

from __future__ import annotations

from pathlib import Path

import damagesweep
import pytest
from campaigns.damage import PLANTED, find
from damagesweep import ReplicaSweep, Sweep, some

#: Damages that are tried of each file.
COUNTS = {
    "a segment": 100,
    "the newest segment": 80,
    "data.jsonl": 60,
    "metadata.json": 40,
    "session.json": 40,
    "parameters.json": 40,
    "logs.jsonl": 40,
    ".lock": 20,
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A run to damage."""
    return Sweep(tmp_path_factory.mktemp("damage"))


pytestmark = pytest.mark.usefixtures("quiet")  # damage is logged, thousands of times


@pytest.mark.parametrize("target", COUNTS)
def test_damage_is_told_or_harmless(sweep: Sweep, target: str) -> None:
    before = dict(sweep.counts)
    sweep.run(target, some(len(sweep.whole[target]), COUNTS[target], 1), ways=2, deep=40)
    assert not sweep.wrong, "\n".join(sweep.wrong)
    found = {name: count - before.get(name, 0) for name, count in sweep.counts.items() if name.startswith(target)}
    assert sum(found.values()) == COUNTS[target] + COUNTS[target] // 4
    told = sum(count for name, count in found.items() if name.endswith(": told"))
    assert told > COUNTS[target] // 4 or target == ".lock"


def test_what_flips_cannot_be_seen_is_known(sweep: Sweep) -> None:
    """Digits and letters in plain JSON; nothing of a segment."""
    sweep.run("data.jsonl", some(len(sweep.whole["data.jsonl"]), 60, 2), ways=0)
    unseen = {name.partition(":")[0] for name in sweep.counts if name.endswith("unseen")}
    assert "data.jsonl" in unseen
    assert not any("segment" in name for name in unseen)


def test_whatever_the_state_of_the_replica_says_no_point_is_lost(memory_path: Path) -> None:
    sweep = ReplicaSweep(memory_path)
    sweep.run(".replica.json", some(len(sweep.whole[".replica.json"]), 16, 1))
    assert not sweep.wrong, "\n".join(sweep.wrong)


def test_a_hang_is_found(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(damagesweep, "HANG", 1)
    monkeypatch.setitem(sweep.ways, "read", lambda track, **how: time.sleep(5))
    sweep.run("a segment", [("flip", 0, 0)], ways=0)
    assert "Hung" in sweep.wrong.pop()


@pytest.mark.parametrize("bug", PLANTED)
def test_the_sweep_finds_planted_bugs(tmp_path: Path, bug: str) -> None:
    assert find(bug, Sweep(tmp_path), 1)
