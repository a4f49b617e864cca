"""``dreamlake report``: which runs go into the page, what is said of it, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dreamlake import Session


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for workspace, name in (("sweep", "a"), ("sweep", "b"), ("other", "c")):
        with Session(name, workspace) as session:
            session.track("train/loss").append(value=1.0).append(value=2.0)
            session.track("val").append(value=1.0)
    return tmp_path


def reported(cli: Any, *argv: str) -> dict[str, Any]:
    status, out, err = cli("report", *argv, "--json", "--force")
    assert (status, err) == (0, "")
    return dict(json.loads(out))


def test_runs_are_named_in_many_ways(cli: Any, lake: Path) -> None:
    assert reported(cli, "sweep/a", "c")["runs"] == ["sweep/a", "other/c"]
    assert reported(cli, "sweep/*")["runs"] == ["sweep/a", "sweep/b"]
    assert reported(cli, "*", "sweep/a")["runs"] == ["other/c", "sweep/a", "sweep/b"]  # each once
    assert reported(cli, ".dreamlake/sweep")["runs"] == ["sweep/a", "sweep/b"]
    assert reported(cli, ".dreamlake/other/c", "--track", "train/*")["tracks"] == 1
    assert reported(cli, "a", "--track", "v*", "--track", "train/loss")["curves"] == 2
    assert (lake / "report.html").stat().st_size > 1_000_000


def test_what_is_said(cli: Any, lake: Path) -> None:
    status, out, _ = cli("report", "sweep/a", "sweep/b", "-o", "two.html", "--title", "both")
    assert status == 0
    assert out.startswith("two.html: 2 runs, 4 curves, ")
    assert "<title>both</title>" in (lake / "two.html").read_text(encoding="utf-8")
    with Session("words", "other") as session:
        session.track("t").append(text="a")
    status, out, _ = cli("report", "other/words", "-o", "none.html")
    assert (status, out.splitlines()[1]) == (0, "no track has a field of numbers")
    with Session("arm", "other") as session:
        session.track("arm").append(q=[1.0])
    status, out, _ = cli("report", "other/words", "other/arm", "-o", "none.html", "--force")
    assert status == 0
    assert out.splitlines()[1].startswith("no track has a field of numbers, which is all that a page draws")
    assert out.splitlines()[1].endswith("of 'arm' q[0] names an element of the lists in 'q'")


def test_over_a_url(cli: Any, lake: Path) -> None:
    url = f"file://{lake / '.dreamlake'}"
    assert reported(cli, "sweep/*", "--path", url)["runs"] == ["sweep/a", "sweep/b"]
    assert reported(cli, f"{url}/other/c")["runs"] == ["other/c"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["sweep/x"], "no run 'sweep/x' in .dreamlake"),
        (["swep/*"], "no run is named like 'swep/*' in .dreamlake; dreamlake ls shows what is there"),
        (["sweep/a", "-o", "there.html"], "there.html is there already; --force replaces it"),
        (["sweep/a", "-o", "-"], "the page is a file"),
        (["sweep/a", "--track", "vall"], "no track is named like 'vall'; there are train/loss, val"),
        (["sweep/a", "-o", "."], ". is a folder; name a file"),
        (["sweep/a", "--points", "2"], "a whole number, 4 or more, not '2'"),
        ([], "missing argument"),
    ],
)
def test_mistakes(cli: Any, lake: Path, argv: list[str], said: str) -> None:
    (lake / "there.html").write_text("kept")
    status, out, err = cli("report", *argv)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert (lake / "there.html").read_text() == "kept"


def test_damage_is_told_and_the_page_is_written(cli: Any, lake: Path) -> None:
    (lake / ".dreamlake/sweep/a/tracks/val/data.jsonl").write_bytes(b"nonsense\n")
    status, out, err = cli("report", "sweep/*")
    assert status == 1
    assert "2 runs, 3 curves" in out
    assert "data.jsonl" in err
    assert (lake / "report.html").exists()


def test_without_plotly_it_says_what_to_install(cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    status, _, err = cli("report", "sweep/a")
    assert status == 1
    assert 'pip install "dreamlake[report]"' in err
