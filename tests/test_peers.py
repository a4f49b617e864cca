"""The benchmark beside the peers, as far as it goes without a network: its arithmetic, and this library's driver."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
from support import ROOT

sys.path.insert(0, str(ROOT))  # the benchmarks are run from the root of the repository, and never installed
from benchmarks.peers import running, table
from benchmarks.peers.catalogue import OURS, PEERS, SIZES
from benchmarks.peers.running import Results, Runner


def results(**figures: dict[str, dict[int, float]]) -> Results:
    """Results of dreamlake and some peers, by figure."""
    made = Results()
    for figure, peers in figures.items():
        for peer, rounds in peers.items():
            made.figures[peer, figure].update(rounds)
            made.points[peer, figure] = 10
    return made


def run(**missing: str) -> table.Run:
    versions = {"dreamlake": "1.0", "mcap": "2.0"}
    return table.Run({"cores": "2"}, rounds=2, scale=1, versions=versions, missing=missing)


@pytest.mark.parametrize(
    ("ours", "theirs", "more_is_better", "expected"),
    [
        ({0: 4.0, 1: 6.0, 2: 9.0}, {0: 2.0, 1: 2.0, 2: 2.0}, True, 3.0),
        ({0: 4.0}, {0: 2.0}, False, 0.5),
        ({0: 4.0, 1: 1.0}, {1: 2.0, 2: 9.0}, False, 2.0),
        ({0: 0.0}, {0: 0.0}, False, 1.0),
        ({0: 0.0}, {0: 5.0}, False, float("inf")),
        ({0: 1.0}, {0: 0.0}, True, float("inf")),
        ({0: 1.0}, {1: 1.0}, True, None),
        ({}, {}, True, None),
    ],
)
def test_a_ratio_is_the_median_of_the_rounds_that_both_have(
    ours: dict[int, float], theirs: dict[int, float], more_is_better: bool, expected: float | None
) -> None:
    assert table.ratio(ours, theirs, more_is_better) == expected


def test_a_target_is_judged_by_the_peer_that_comes_nearest() -> None:
    found = results(append={"dreamlake": {0: 10.0}, "wandb": {0: 2.0}, "aim": {0: 4.0}})
    assert table.judge(table.Target("", "append", 12, ("wandb", "aim", "mlflow")), run(), found) == ("aim", 2.5)


def test_a_peer_that_is_not_there_is_not_beaten() -> None:
    found = results(append={"dreamlake": {0: 10.0}, "wandb": {0: 2.0}})
    target = table.Target("", "append", 12, ("wandb", "aim"))
    assert table.judge(target, run(aim="no wheel"), found) == ("aim", 0.0)
    found.errors["wandb", "append"] = "broken"
    found.figures.pop(("wandb", "append"))
    assert table.judge(target, run(), found) == ("wandb", 0.0)


def test_a_target_may_compare_two_figures() -> None:
    found = results(frame={"dreamlake": {0: 9.0}}, batches={"dreamlake": {0: 6.0}})
    found.figures["lance", "batches once"] = {0: 3.0}
    assert table.judge(table.Target("", "batches once", 3, ("lance",)), run(), found) == ("lance", 2.0)
    assert table.judge(table.Target("", "batches once", 3, ("lance",), "frame"), run(), found) == ("lance", 3.0)


def test_the_table_shows_ratios_versions_rounds_and_what_is_missing() -> None:
    found = results(append={"dreamlake": {0: 4e6, 1: 6e6}, "mcap": {0: 2e6, 1: 2e6}})
    found.errors["mcap", "full"] = "no such thing"
    shown = table.text(run(aim="no wheel"), found)
    assert "dreamlake 1.0, mcap 2.0" in shown
    assert "aim not installed: no wheel; counts as not beaten" in shown
    assert "mcap failed at full: no such thing" in shown
    medians, ratios, *_ = (line.split() for line in shown.splitlines() if line.startswith("one metric a step, points "))
    assert medians == ["one", "metric", "a", "step,", "points", "5.00", "M/s", "2.00", "M/s"]
    assert ratios == ["one", "metric", "a", "step,", "points", "5.00", "M/s", "2.50"]
    assert "4.00M/s 6.00M/s" in shown
    (target,) = (line for line in shown.splitlines() if "1.7 x MCAP" in line)
    assert target.split()[-4:] == ["mcap", "2.50", "1.70", "yes"]
    data = table.as_json(run(), found)
    assert data["figures"][1] == {
        "figure": "append",
        "peer": "mcap",
        "points": 10,
        "rounds": [2e6, 2e6],
        "median": 2e6,
        "times_better": 2.5,
    }


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1.5e6, "/s", "1.50 M/s"),
        (2_500, "/s", "2.5 k/s"),
        (3.2e-5, "s", "32 us"),
        (0.25, "s", "250 ms"),
        (7.61, "B", "7.6 B"),
        (0.995, "%", "99.5%"),
    ],
)
def test_figures_have_their_units(value: float, unit: str, expected: str) -> None:
    assert table.shown(value, unit) == expected


def test_what_is_named_is_there() -> None:
    names = {peer.name for peer in PEERS}
    assert all((running.DRIVERS / f"{peer.driver}.py").is_file() for peer in (OURS, *PEERS))
    assert {peer for target in table.TARGETS for peer in target.peers} <= names
    assert {target.figure for target in table.TARGETS} <= table.BY_NAME.keys()
    assert {figure.workload for figure in table.FIGURES} == running.WORKLOADS.keys()
    assert all(peer.sizes.keys() <= SIZES.keys() for peer in PEERS)


def test_the_driver_of_this_library_runs_every_workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "interpreter", Path)
    monkeypatch.setattr(running, "IMPORTS", 1)
    monkeypatch.setattr(running, "SETTLE", 0.0)
    runner = Runner({OURS: Path(sys.executable)}, 0.0001, tmp_path, say=lambda line: None)
    for workload in running.WORKLOADS:
        runner.run(workload, rounds=1)
    assert runner.results.errors == {}
    expected = {figure.name for figure in table.FIGURES if not figure.ours}
    assert {figure for _, figure in runner.results.figures} == expected
    values = [value for rounds in runner.results.figures.values() for value in rounds.values()]
    assert all(map(math.isfinite, values)), "a time less another may come out below zero"


def test_a_driver_that_fails_is_named_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "interpreter", Path)
    broken = PEERS[0]  # another driver, whose library is not what this interpreter has
    runner = Runner({broken: Path(sys.executable), OURS: Path(sys.executable)}, 0.0001, tmp_path, lambda line: None)
    runner.run("append", rounds=2)
    assert list(runner.results.errors) == [(broken.name, "append")]
    assert "Error" in runner.results.errors[broken.name, "append"]
    assert list(runner.results.figures) == [(OURS.name, "append")]
    assert len(runner.results.figures[OURS.name, "append"]) == 2


@pytest.mark.parametrize("target", [each for each in table.TARGETS if " x " in each.text], ids=lambda each: each.text)
def test_a_target_needs_what_its_words_say(target: table.Target) -> None:
    """At least so many times as good, or at most so many times the cost."""
    sign, times = re.search(r"([<>]=) ([\d.]+) x ", target.text).groups()  # type: ignore[union-attr]
    assert target.factor == pytest.approx(float(times) if sign == ">=" else 1 / float(times))
