"""The page of `dreamlake report`: what is in it, that no name breaks out of it, and that a browser really draws it."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dreamlake import Lake, Session
from dreamlake.lake import SessionView
from dreamlake.pictures import report
from dreamlake.pictures.report import write_report

EVIL = "</script><script>alert(1)</script><!--"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    for run in range(3):
        with Session(f"run{run}", "sweep", tmp_path / "lake", tags=["a"]) as session:
            session.parameters().set(lr=10.0**-run, same="in all", odd=math.inf if run else None)
            steps = list(range(9000))
            session.track("train").append_batch(
                {
                    "loss": [math.exp(-step / 2000) + run + (9.0 if step == 4321 else 0.0) for step in steps],
                    "step": steps,
                    "_ts": [1000.0 * run + step / 10 for step in steps],
                }
            )
            session.track("val").append(loss=math.nan, step=0).append(loss=1.0 + run, step=100).append(
                loss=math.inf, step=200
            )
            if run == 1:
                session.track(EVIL).append(**{EVIL: 1.0, "text": "no curve"})
    return Lake(tmp_path / "lake")


def runs_of(lake: Lake) -> list[SessionView]:
    return [lake.session(info["name"], info["workspace"]) for info in lake.sessions()]


def parts(page: Path) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """What the page says of itself, and the curves of each panel."""
    text = page.read_text(encoding="utf-8")
    about = re.search(r'<script type="application/json" id="about">(.*?)</script>', text, re.DOTALL)
    assert about
    blobs = re.findall(r'<script type="text/plain" id="panel-(\d+)">(.*?)</script>', text)
    assert [int(number) for number, _ in blobs] == list(range(len(blobs)))
    return json.loads(about[1]), [json.loads(gzip.decompress(base64.b64decode(blob))) for _, blob in blobs]


def test_what_is_in_the_page(lake: Lake, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    told = write_report(
        runs_of(lake), tmp_path / "r.html", title="my <sweep>", points=400, progress=lambda *state: done.append(state)
    )
    about, panels = parts(tmp_path / "r.html")
    assert (told.runs, told.tracks, told.curves, told.damage) == (3, 3, 7, ())
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert about["title"] == "my <sweep>"
    assert [run["name"] for run in about["runs"]] == ["sweep/run0", "sweep/run1", "sweep/run2"]
    assert [run["parameters"]["lr"] for run in about["runs"]] == [1.0, 0.1, 0.01]
    assert [run["parameters"]["odd"] for run in about["runs"]] == [None, "inf", "inf"]
    assert [(panel["track"], panel["field"], panel["runs"]) for panel in about["panels"]] == [
        (EVIL, EVIL, [1]),
        ("train", "loss", [0, 1, 2]),
        ("val", "loss", [0, 1, 2]),
    ]
    for run, curve in enumerate(panels[1]):
        frame = lake.session(f"run{run}", "sweep").track("train").to_polars()
        assert curve["run"] == run
        assert curve["count"] == 9000
        assert curve["start"] == 1000.0 * run
        assert len(curve["index"]) <= 400
        assert 4321 in curve["index"]
        assert curve["value"] == frame["loss"].gather(curve["index"]).to_list()
        assert curve["step"] == frame["step"].gather(curve["index"]).to_list()
        assert curve["elapsed"] == pytest.approx([index / 10 for index in curve["index"]])
        means = curve["means"]
        assert len(means["value"]) == report.MEANS
        assert sum(means["value"]) / report.MEANS == pytest.approx(frame["loss"].mean())
        assert means["index"] == sorted(means["index"])
    assert panels[2][0]["value"] == [None, 1.0, None]  # what cannot be drawn is a gap
    assert panels[2][0]["nan"] == 1
    assert "means" not in panels[2][0]


@pytest.mark.parametrize("name", ["^x$", "*"])
def test_names_that_polars_takes_for_patterns(tmp_path: Path, name: str) -> None:
    with Session("s", "w", tmp_path / "lake") as session:
        for i in range(500):
            session.track("t").append(**{name: i / 2, "x": -1.0})
    write_report(runs_of(Lake(tmp_path / "lake")), tmp_path / "r.html", points=60)
    about, panels = parts(tmp_path / "r.html")
    assert [panel["field"] for panel in about["panels"]] == sorted([name, "x"])
    (curve,) = panels[sorted([name, "x"]).index(name)]
    assert curve["nan"] == 0
    assert curve["value"] == [index / 2 for index in curve["index"]]
    assert sum(curve["means"]["value"]) / len(curve["means"]["value"]) == pytest.approx(499 / 4)


def test_nothing_breaks_out_of_the_page(lake: Lake, tmp_path: Path) -> None:
    write_report(runs_of(lake), tmp_path / "r.html", title=EVIL)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text
    assert html.escape(EVIL) in text
    about, _ = parts(tmp_path / "r.html")
    assert about["title"] == EVIL


def test_the_page_asks_nobody(lake: Lake, tmp_path: Path) -> None:
    write_report(runs_of(lake), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]* (src|href)=", text.partition('id="about"')[0])


def test_chosen_tracks_only(lake: Lake, tmp_path: Path) -> None:
    told = write_report(runs_of(lake), tmp_path / "r.html", wanted=lambda name: name == "val")
    assert told.tracks == 1
    assert {panel["track"] for panel in parts(tmp_path / "r.html")[0]["panels"]} == {"val"}


def test_long_tracks_go_through_in_windows(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(runs_of(lake), tmp_path / "whole.html", points=100)
    monkeypatch.setattr(report, "WINDOW", 1000)
    monkeypatch.setattr("dreamlake.analysis.thin.WINDOW", 1000)
    write_report(runs_of(lake), tmp_path / "windows.html", points=100)
    whole, windows = parts(tmp_path / "whole.html")[1], parts(tmp_path / "windows.html")[1]
    for panel, other in zip(whole, windows, strict=True):
        for curve, same in zip(panel, other, strict=True):
            means, others = curve.pop("means", {}), same.pop("means", {})
            assert curve == same
            for name, values in means.items():
                assert others[name] == pytest.approx(values)


def test_damage_is_told_and_the_rest_is_there(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "lake/sweep/run1/tracks/val/data.jsonl").write_bytes(b"nonsense\n")
    told = write_report(runs_of(lake), tmp_path / "r.html")
    assert len(told.damage) == 1
    assert "run1" in told.damage[0]
    about, panels = parts(tmp_path / "r.html")
    assert about["damage"] == list(told.damage)
    assert [curve["run"] for curve in panels[2]] == [0, 2]


@pytest.mark.parametrize("name", ["session.json", "parameters.json"])
def test_a_damaged_run_is_told_and_its_curves_are_there(lake: Lake, tmp_path: Path, name: str) -> None:
    runs = runs_of(lake)
    (tmp_path / "lake/sweep/run1" / name).write_text("{nonsense")
    told = write_report(runs, tmp_path / "r.html")
    assert len(told.damage) == 1
    assert name in told.damage[0]
    about, panels = parts(tmp_path / "r.html")
    assert about["damage"] == list(told.damage)
    assert about["runs"][1]["status"] == ("damaged" if name == "session.json" else "finished")
    assert [curve["run"] for curve in panels[1]] == [0, 1, 2]


def test_steps_that_are_no_numbers_are_gaps(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path / "lake") as session:
        for step in (0.5, math.nan, math.inf, None, 2.5):
            session.track("t").append(step=step, v=1.0)
        session.track("long").append_batch({"step": [math.nan, 1.0] * 50, "v": [1.0] * 100})
    write_report(runs_of(Lake(tmp_path / "lake")), tmp_path / "r.html", points=10)
    _, (long, short) = parts(tmp_path / "r.html")
    assert short[0]["step"] == [0.5, None, None, None, 2.5]
    assert set(long[0]["means"]["step"]) <= {1.0, None}


def test_a_report_that_fails_leaves_the_old_one(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.html").write_text("old")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        write_report(runs_of(lake), tmp_path / "r.html")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["lake", "r.html"]
    assert (tmp_path / "r.html").read_text() == "old"


def test_runs_without_numbers_make_a_page(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path / "lake") as session:
        session.track("t").append(text="x")
    told = write_report(runs_of(Lake(tmp_path / "lake")), tmp_path / "r.html")
    assert (told.tracks, told.curves) == (1, 0)
    assert write_report([], tmp_path / "r.html").runs == 0


def test_what_it_needs_and_what_it_refuses(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="points is 4 or more"):
        write_report(runs_of(lake), tmp_path / "r.html", points=3)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r'pip install "dreamlake\[report\]"'):
        write_report(runs_of(lake), tmp_path / "r.html")


# ------------------------------------------------------------------------------------------------ in a browser


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,900",
    "--virtual-time-budget=20000",
]
#: What a person does, one thing after the other, and what the page then shows.
ACTIONS = f"<script>{Path(__file__).with_name('report_page.js').read_text(encoding='utf-8')}</script>"


def in_chromium(page: Path, home: Path) -> dict[str, Any]:
    """Open the page without a network, do what is in report_page.js, and give what was seen."""
    assert CHROMIUM
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", ACTIONS + "</body>"), encoding="utf-8")
    run = subprocess.run(
        [CHROMIUM, *QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else []), f"--user-data-dir={home}/profile",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    seen = re.search(r'data-seen="([^"]*)"', run.stdout)
    assert seen, run.stderr[-2000:]
    return dict(json.loads(html.unescape(seen[1])))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
def test_a_browser_draws_zooms_smooths_and_finds(lake: Lake, tmp_path: Path) -> None:
    write_report(runs_of(lake), tmp_path / "r.html", points=4000)
    seen = in_chromium(tmp_path / "r.html", tmp_path)
    assert seen.get("done"), seen
    assert "error" not in seen
    assert seen["titles"] == [f"{EVIL} / {EVIL}", "train / loss", "val / loss"]
    assert seen["drawn"] >= 3
    assert seen["paths"] == 3
    assert all(count <= 1600 for count in seen["before"])
    # In the view all points that the page has: a hundred steps, of which it holds those of some 11 stretches.
    assert all(20 <= count <= 60 for count in seen["zoomed"])
    assert seen["jump"] > 9
    assert seen["together"] == [4300, 4400]
    assert seen["back"] == seen["before"]
    assert seen["smoothed"] == 6
    assert seen["without one run"] == ["sweep/run1", "sweep/run2"]
    assert seen["axes"] == ["date", "log"]
    assert seen["found"] == ["val loss"]
    assert seen["heads"] == ["all", "run", "status", "lr", "odd"]  # and not what is the same in all
