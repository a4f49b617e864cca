"""kill -9 at random moments and at every disk call: what a flush acknowledged is there, once, and nothing is halved."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import crashlib
import deaths
import pytest
from campaigns import strace as tracing
from deathscenes import SCENES
from support import one_in, run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")

#: Of the calls of longer scenes only every so manieth is the last; the campaign ``strace`` tries all of them.
STRIDE = one_in(11)


@pytest.mark.parametrize("scene", list(crashlib.SCENES))
def test_a_stop_at_any_call(memory_path: Path, scene: str) -> None:
    crashlib.run_sweeps("crashlib", memory_path, scene, ["stop", "stop half"])


@pytest.mark.parametrize("scene", [name for name, scene in SCENES.items() if not scene.replica])
def test_a_death_at_any_call_of_a_longer_scene(memory_path: Path, scene: str) -> None:
    cut_off, wrong = deaths.run_sweep(memory_path, scene, STRIDE)
    assert cut_off > 3
    assert not wrong, "\n".join(wrong)


# -- kill -9 ----------------------------------------------------------------------------------------------------------

CAMPAIGN = """
import runpy, sys
sys.argv[0] = "campaigns"
runpy.run_module("campaigns", run_name="__main__")
"""

PLANTED = """
import deaths, pathlib, planted, sys
deaths.calm()
from campaigns import kills
with kills.silence():
    found = kills.find_planted(pathlib.Path(sys.argv[1]), getattr(planted, sys.argv[2]), 1, 150)
print(found)
"""


def test_killed_again_and_again(memory_path: Path) -> None:
    args = ["kills", "--no-planted", "--kills", 24, "--seed", 20, "--folder", memory_path / "kills"]
    done = run_python(CAMPAIGN, *args, timeout=300, check=False, PYTHONPATH=crashlib.PATH)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: int(number) for name, number in re.findall(r"(?m)^([a-z ]+): (\d+)$", done.stdout)}
    assert counts["killed"] >= 24
    # How many, is a matter of when the clock strikes.
    assert counts["lates acknowledged"] > 0
    assert counts["flush returned"] > 0


@pytest.mark.parametrize("bug", ["acknowledged_too_early", "emptied_before_the_commit"])
def test_the_kills_find_a_planted_bug(memory_path: Path, bug: str) -> None:
    done = run_python(PLANTED, memory_path, bug, timeout=300, PYTHONPATH=crashlib.PATH)
    assert re.search(r"\blost\b|: lacks ", done.stdout), done.stdout  # points, or late fields of them


# -- the system calls themselves --------------------------------------------------------------------------------------

TRACED = """
import deaths, json, sys
deaths.calm()
from campaigns import strace
folder, scene, stride = sys.argv[1:]
print(json.dumps(strace.sweep(folder, scene, int(stride))))
"""


@pytest.mark.parametrize(
    ("scene", "stride"), [("first flush after a crash", 5), ("compact", 9), ("second process", 9), ("sync", 15)]
)
def test_killed_before_and_after_system_calls(memory_path: Path, scene: str, stride: int) -> None:
    reason = tracing.is_possible()
    if reason:
        pytest.skip(reason)
    done = run_python(TRACED, memory_path, scene, stride, timeout=300, PYTHONPATH=crashlib.PATH)
    counts, wrong = json.loads(done.stdout)
    assert not wrong, "\n".join(wrong)
    missed = counts.pop("missed")
    assert sum(counts.values()) > 5
    assert missed <= 1
