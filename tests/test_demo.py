"""The demo: what its training records, what it shows of it, and what it says when something is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support import python_environment, run_python

from dreamlake import Lake
from dreamlake.cli import main

STEPS = 10_050  # a segment rolls at 10,000


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The lake that one demo of `STEPS` steps wrote, and what it printed."""
    pytest.importorskip("sklearn")
    lake = tmp_path_factory.mktemp("demo") / "my [lake]*"
    return lake, demo("--path", str(lake), "--steps", str(STEPS))


def demo(*argv: str) -> str:
    """What the demo prints in a fresh interpreter, where a warning is an error."""
    command = [sys.executable, "-W", "error", "-m", "dreamlake.cli", "demo", *argv]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=python_environment(PYTHONUTF8="1"))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def section(text: str, title: str) -> list[str]:
    """The lines below a title, to the next empty one."""
    lines = text.splitlines()
    (start,) = [at for at, line in enumerate(lines) if line.startswith(title)]
    below = lines[start + 2 :]
    return below[: below.index("")] if "" in below else below


def test_the_run_is_what_a_person_expects_of_it(ran: tuple[Path, str]) -> None:
    run = Lake(ran[0]).session("digits", "demo")
    assert run.info["status"] == "finished"
    assert run.tracks.list() == ["epoch", "train/gradient", "train/step"]
    assert run.parameters().get()["optimizer.batch_size"] == 32
    assert run.logs()["message"].to_list() == ["training starts", "training ends"]
    steps = run.track("train/step").to_polars()
    assert steps["step"].to_list() == list(range(STEPS))
    assert run.track("train/step").stats()["totalChunks"] == 1
    epochs = run.track("epoch").to_polars()
    assert epochs["epoch"].to_list() == list(range(1, steps["epoch"].max() + 1))
    assert epochs["recall"].list.len().unique().to_list() == [10]


def test_the_model_learns(ran: tuple[Path, str]) -> None:
    run = Lake(ran[0]).session("digits", "demo")
    loss = run.track("train/step").to_polars()["loss"]
    assert loss[0] == pytest.approx(2.302585, abs=1e-6), "ten classes, nothing learned"
    assert loss.tail(500).mean() < 0.2
    last = run.track("epoch").to_polars().row(-1, named=True)
    assert last["val_accuracy"] > 0.93
    assert last["train_loss"] < last["val_loss"] < 0.3


def test_the_pair_of_tracks_has_common_timestamps(ran: tuple[Path, str]) -> None:
    run = Lake(ran[0]).session("digits", "demo")
    steps, gradients = run.track("train/step").to_polars(), run.track("train/gradient").to_polars()
    assert steps["_ts"].to_list() == gradients["_ts"].to_list()
    assert steps["_ts"].n_unique() == STEPS


def test_the_gradients_are_those_of_the_loss() -> None:
    np = pytest.importorskip("numpy")
    from dreamlake.demo import SoftmaxRegression

    rng = np.random.default_rng(3)
    images, labels = rng.random((20, 5)), rng.integers(0, 3, 20)
    start = rng.normal(size=(5, 3))

    def loss(weights: Any, bias: Any) -> float:
        model = SoftmaxRegression(5, 3)
        model.weights, model.bias = weights.copy(), bias.copy()
        return model.step(images, labels, 0.0)[0]

    model = SoftmaxRegression(5, 3)
    model.weights = start.copy()
    value, by_weights, by_bias = model.step(images, labels, 0.5)
    assert value == loss(start, np.zeros(3))
    assert np.allclose(model.weights, start - 0.5 * by_weights)
    assert np.allclose(model.bias, -0.5 * by_bias)
    nudge = np.zeros((5, 3))
    nudge[2, 1] = 1e-6
    assert by_weights[2, 1] == pytest.approx((loss(start + nudge, np.zeros(3)) - value) / 1e-6, rel=1e-3)
    assert by_bias[0] == pytest.approx((loss(start, np.array([1e-6, 0, 0])) - value) / 1e-6, rel=1e-3)


def test_it_shows_the_tracks_and_the_loss(ran: tuple[Path, str]) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in section(ran[1], "The run demo/digits")}
    assert rows["train/step"][:2] == [f"{STEPS:,}", "1"]
    plot = section(ran[1], "Loss over 10,050 steps")
    assert len(plot) == 15
    assert plot[-1].strip() == "_index"
    # It starts at the top left and goes down.
    inside = [row.partition("┤")[2] or row.partition("│")[2] for row in plot[1:-3]]
    assert inside[0].rstrip("│ ")
    assert not inside[-1][: len(inside[-1]) // 10].strip()


def test_it_reads_across_the_end_of_the_segment(ran: tuple[Path, str]) -> None:
    rows = [line.split() for line in section(ran[1], "One read across the end of a segment")]
    parquet = "000000000000-000000010000.parquet"
    assert [(row[0], row[-1]) for row in rows[1:]] == [
        ("9997", parquet),
        ("9998", parquet),
        ("9999", parquet),
        ("10000", "data.jsonl"),
        ("10001", "data.jsonl"),
        ("10002", "data.jsonl"),
    ]
    points = Lake(ran[0]).session("digits", "demo").track("train/step").read(9997, 6)["data"]
    assert [row[1] for row in rows[1:]] == [f"{point['data']['loss']:.5f}" for point in points]


def test_it_scans_with_a_filter(ran: tuple[Path, str]) -> None:
    rows = [line.split() for line in section(ran[1], "The five largest gradients")]
    run = Lake(ran[0]).session("digits", "demo")
    norms = run.track("train/gradient").to_polars().slice(STEPS // 2)["weights_norm"]
    best = norms.sort(descending=True).head(5).to_list()
    assert [row[2] for row in rows[1:]] == [f"{norm:.4f}" for norm in best]
    losses = run.track("train/step").to_polars()["loss"]
    assert [row[3] for row in rows[1:]] == [f"{losses[int(row[0])]:.4f}" for row in rows[1:]]


def test_it_shows_every_file(ran: tuple[Path, str]) -> None:
    lines = section(ran[1], "The files")
    folder = ran[0] / "demo" / "digits"
    assert lines[0] == f"{folder}/"
    shown = sorted(line.split("── ")[1].split("  ")[0] for line in lines[1:] if not line.endswith("/"))
    assert shown == sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")


def test_the_code_it_shows_works_when_pasted_elsewhere(ran: tuple[Path, str], tmp_path: Path) -> None:
    code = "\n".join(section(ran[1], "The same points with Polars alone"))
    assert "dreamlake" not in code
    check = """
    assert len(points) == 10_050 and points["_index"].to_list() == list(range(10_050))
    print(points.select("loss").sum().item())
    """
    import textwrap

    printed = run_python(code + "\n" + textwrap.dedent(check), cwd=tmp_path).stdout
    total = Lake(ran[0]).session("digits", "demo").track("train/step").to_polars()["loss"].sum()
    assert float(printed.splitlines()[-1]) == pytest.approx(total, rel=1e-12)
    assert "epoch" in printed


def test_the_commands_it_ends_with_work(ran: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    commands = section(ran[1], "More")
    assert len(commands) == 2
    for command in commands:
        program, *argv = shlex.split(command)
        assert program == "dreamlake"
        assert main(argv) == 0
        assert "demo/digits" in capsys.readouterr().out


def test_a_second_demo_is_a_second_run_and_both_scan_together(lake_dir: Path) -> None:
    pytest.importorskip("sklearn")
    first = demo("--path", str(lake_dir), "--steps", "60")
    again = demo("--path", str(lake_dir), "--steps", "10", "--no-plot")
    assert "read back" in first
    assert "The run demo/digits-2, read back" in again
    assert "The last points" in first
    assert "Loss over" in first
    assert "Loss over" not in again
    assert "parquet" not in "\n".join(section(first, "The same points"))
    counts = Lake(lake_dir).scan("train/step").group_by("_session").agg(pl.len()).sort("_session").collect()
    assert counts.rows() == [("digits", 60), ("digits-2", 10)]


def test_in_a_folder_of_its_own_the_commands_need_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    assert section(demo("--steps", "5"), "More") == ["dreamlake show demo/digits", "dreamlake ls"]
    assert (tmp_path / ".dreamlake" / "demo" / "digits" / "session.json").is_file()


@pytest.mark.parametrize("missing", ["numpy", "sklearn"])
def test_without_its_extra_it_says_how_to_get_it(
    missing: str, lake_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "dreamlake.demo", raising=False)
    assert main(["demo", "--path", str(lake_dir)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == 'dreamlake: the demo needs NumPy and scikit-learn: pip install "dreamlake[demo]"\n'
    assert os.listdir(lake_dir) == []


def test_without_plotext_only_the_plot_is_missing(
    lake_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setitem(sys.modules, "plotext", None)
    assert main(["demo", "--path", str(lake_dir), "--steps", "5"]) == 0
    out = capsys.readouterr().out
    assert section(out, "Loss over 5 steps") == ['plots need plotext: pip install "dreamlake[plot]"']
    assert section(out, "The files")


def test_a_place_that_cannot_be_written_is_one_line(lake_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    (lake_dir / "file").write_text("")
    assert main(["demo", "--path", str(lake_dir / "file"), "--steps", "5"]) == 1
    assert main(["demo", "--path", "s3://bucket/x", "--steps", "5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["dreamlake", "dreamlake"]
