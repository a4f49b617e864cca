"""Pictures: charts whose curves keep what matters, and tables for notebooks that strangers' names cannot break."""

from __future__ import annotations

import json
import math
import re
import sys
import xml.etree.ElementTree
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support import in_child, run_python

from dreamlake import Lake, Session
from dreamlake.errors import TrackNotFoundError
from dreamlake.pictures.curves import curves
from dreamlake.pictures.html import HEIGHT, ROWS, WIDTH, sparkline

START = 1_767_225_600.0  # 2026-01-01


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Three runs with a loss that falls and jumps once, and a validation every hundred steps."""
    for run in range(3):
        with Session(f"run{run}", "sweep", tmp_path) as session:
            session.parameters().set(lr=10.0**-run)
            steps = range(3000)
            loss = [math.exp(-step / 500) + run + (50.0 if step == 1234 else 0.0) for step in steps]
            times = [START + 3600 * run + step / 10 for step in steps]
            session.track("train").append_batch({"loss": loss, "step": list(steps), "_ts": times})
            for step in range(0, 3000, 100):
                session.track("val").append(
                    loss=math.nan if step == 500 else loss[step] * 1.1, acc=0.5, step=step, pose=[float(step), 2.0]
                )
    return Lake(tmp_path)


def panels(chart: Any) -> dict[str, list[dict[str, Any]]]:
    """The title of each panel's vertical axis and the rows that are drawn in it, after a round through JSON."""
    spec = json.loads(chart.to_json())
    shown = {}
    for panel in spec["vconcat"]:
        # What all parts of a chart share, Altair moves up to the chart itself.
        data = panel["layer"][0].get("data") or panel.get("data") or spec["data"]
        shown[panel["layer"][0]["encoding"]["y"]["title"]] = spec["datasets"][data["name"]]
    return shown


# ------------------------------------------------------------------------------------------------ charts


def test_a_track_is_drawn_a_panel_a_field(lake: Lake) -> None:
    drawn = panels(lake.session("run0", "sweep").track("val").plot())
    assert list(drawn) == ["loss", "acc"]  # over step, which both tracks of numbers have; the list is no number
    assert [row["x"] for row in drawn["acc"]] == list(range(0, 3000, 100))
    assert [row["value"] for row in drawn["loss"]][5] is None  # a NaN is a gap, not a zero
    assert {row["label"] for row in drawn["loss"]} == {"val"}


@pytest.mark.parametrize("name", ["^x$", "*"])
def test_names_that_polars_takes_for_patterns(tmp_path: Path, name: str) -> None:
    with Session("s", "w", tmp_path) as session:
        track = session.track("t")
        for i in range(9):
            track.append(**{name: float(i), "x": 100.0, "loss": 1.0})
        rows = panels(track.plot(name))[name]
        assert [row["value"] for row in rows] == [float(i) for i in range(9)]
        across = panels(track.plot("loss", x=name, smooth=0.5))["loss"]
        assert [row["x"] for row in across] == [float(i) for i in range(9)]
        smooth = panels(track.plot(name, smooth=0.5))[name]
        assert 6 < max(row["smoothed"] for row in smooth) < 8
        assert track._repr_html_().count("<svg") == 3


def test_a_jump_of_one_point_is_seen(lake: Lake) -> None:
    rows = panels(lake.session("run0", "sweep").track("train").plot("loss", points=100))["loss"]
    assert len(rows) <= 100
    assert max(row["value"] for row in rows) > 50
    everything = panels(lake.session("run0", "sweep").track("train").plot("loss", points=None))["loss"]
    assert len(everything) == 3000


def test_many_runs_in_one_picture(lake: Lake) -> None:
    chart = lake.plot("train", "loss", x="_elapsed", points=50)
    rows = panels(chart)["loss"]
    assert {row["label"] for row in rows} == {"run0", "run1", "run2"}
    assert min(row["x"] for row in rows) == 0
    assert max(row["x"] for row in rows) == pytest.approx(299.9)  # though they began at other times
    assert {row["label"] for row in panels(lake.plot("train", sessions="run1"))["loss"]} == {"run1"}
    spec = json.loads(chart.to_json())
    assert {param["name"] for param in spec["params"]} == {"zoom", "picked"}


def test_tracks_that_share_a_field_share_its_panel(lake: Lake) -> None:
    view = lake.session("run1", "sweep")
    drawn = panels(view.plot(["train", "val"]))
    assert list(drawn) == ["loss", "acc"]
    assert {row["label"] for row in drawn["loss"]} == {"train", "val"}
    assert {row["label"] for row in drawn["acc"]} == {"val"}


@pytest.mark.parametrize("other", ["text", [1.0], {"a": 1}])
def test_a_field_that_is_a_number_in_some_tracks_is_drawn_of_these(tmp_path: Path, other: Any) -> None:
    with Session("s", "w", tmp_path) as session:
        session.track("one").append(v=1.0)
        session.track("other").append(v=other)
        session.track("flag").append(v=True)
        session.track("none").append(w=2)
        for y in (None, "v"):
            for names in (["one", "other", "flag", "none"], ["other", "flag", "one"]):
                drawn = panels(session.plot(names, y))["v"]
                assert {row["label"] for row in drawn} == {"one", "flag"}
        with pytest.raises(TypeError, match="'v' of the track 'other' holds"):
            session.plot(["none", "other"], "v")


def test_a_session_draws_what_it_has_just_appended(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        session.track("a").append(v=1.0)
        assert panels(session.plot("a"))["v"] == [{"x": 0, "value": 1.0, "label": "a"}]
        assert panels(session.track("a").plot())["v"] == [{"x": 0, "value": 1.0, "label": "a"}]


def test_smoothing_is_of_all_points_and_starts_at_the_first(lake: Lake) -> None:
    track = lake.session("run0", "sweep").track("train")
    rows = panels(track.plot("loss", smooth=0.9, points=60))["loss"]
    loss = track.to_polars()["loss"]
    average, weight = [], 0.0
    total = 0.0
    for value in loss:
        total, weight = total * 0.9 + value * 0.1, weight * 0.9 + 0.1
        average.append(total / weight)
    for row in rows:
        assert row["smoothed"] == pytest.approx(average[row["x"]])
        assert row["value"] == loss[row["x"]]


@pytest.mark.parametrize("name", ["loss", "position[0]", "_index", "_ts"])
def test_a_field_over_itself_can_be_smoothed(tmp_path: Path, name: str) -> None:
    with Session("s", "w", tmp_path) as session:
        for i in range(4):
            session.track("t").append(loss=float(i), position=[float(i)], _ts=float(i))
        chart = session.track("t").plot(name, x=name, smooth=0.5)
        alone = session.track("t").plot("loss", x="_index", smooth=0.5)
    assert [row["value"] for row in panels(chart)[name]] == [0, 1, 2, 3]
    smoothed = [row["smoothed"] for row in panels(alone)["loss"]]
    assert [row["smoothed"] for row in panels(chart)[name]] == smoothed


def test_over_time_and_over_elements_of_lists(lake: Lake) -> None:
    chart = lake.session("run0", "sweep").track("train").plot("loss", x="_ts", points=40)
    rows = panels(chart)["loss"]
    assert rows[0]["x"] == START * 1000
    assert json.loads(chart.to_json())["vconcat"][0]["layer"][0]["encoding"]["x"]["type"] == "temporal"
    rows = panels(lake.session("run0", "sweep").track("val").plot("pose[0]"))["pose[0]"]
    assert [row["value"] for row in rows] == [float(step) for step in range(0, 3000, 100)]


def test_over_a_field_of_datetimes(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        for day in range(1, 5):
            session.track("t").append(v=day, when=datetime(2026, 1, day, tzinfo=UTC))
        rows = panels(session.track("t").plot("v", x="when"))["v"]
    assert [row["x"] for row in rows] == [(START + day * 86400) * 1000 for day in range(4)]


def test_a_log_scale_leaves_out_what_it_cannot_show(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        for value in (1.0, 0.0, -1.0, math.inf, 10.0):
            session.track("t").append(v=value)
        chart = session.track("t").plot(log=True)
    assert [row["value"] for row in panels(chart)["v"]] == [1.0, None, None, None, 10.0]
    assert json.loads(chart.to_json())["vconcat"][0]["layer"][0]["encoding"]["y"]["scale"]["type"] == "log"


def test_charts_can_really_be_drawn(lake: Lake, tmp_path: Path) -> None:
    # In a process of its own, since the engine that draws keeps sockets open.
    code = """
        import sys
        from dreamlake import Lake
        lake = Lake(sys.argv[1])
        view = lake.session("run0", "sweep")
        lake.plot("val", smooth=0.5).save("0.svg")
        view.track("train").plot(log=True).save("1.svg")
        view.plot(["train", "val"], "loss", x="_ts").save("2.svg")
    """
    run_python(code, lake._store.describe(), cwd=tmp_path)
    for number in range(3):
        text = (tmp_path / f"{number}.svg").read_text(encoding="utf-8")
        lines = [path for path in re.findall(r'<path[^>]* d="([^"]*)"', text) if path.count("L") >= 20]
        assert lines, "no line with points in it"


def test_what_plot_refuses(lake: Lake) -> None:
    track = lake.session("run0", "sweep").track("val")
    with pytest.raises(ValueError, match=r"no field 'los' in the track 'val': did you mean 'loss'\?"):
        track.plot("los")
    with pytest.raises(ValueError, match="smooth is a number above 0 and below 1"):
        track.plot(smooth=1.0)
    with pytest.raises(ValueError, match="points is a whole number from 6 on"):
        track.plot(points=2)
    with pytest.raises(TypeError, match="holds List"):
        track.plot("pose")
    with pytest.raises(TrackNotFoundError, match="has a track 'vall'"):
        lake.plot("vall")
    with pytest.raises(TrackNotFoundError):
        lake.session("run0", "sweep").plot(["val", "no"])


def test_a_track_without_numbers_says_so(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        session.track("t").append(text="a")
        with pytest.raises(ValueError, match=r"nothing to draw.*names the fields$"):
            session.track("t").plot()
        with pytest.raises(ValueError, match="nothing to draw"):
            session.track("t").plot([])
        session.track("arm").append(q=[1.0, 2.0])
        session.track("leg").append(pose={"x": 1.0})
        session.flush()
        for plot in (
            session.track("arm").plot,
            lambda: session.plot(["t", "arm"], x="_ts"),
            lambda: Lake(tmp_path).plot("arm"),
        ):
            with pytest.raises(ValueError, match=r"nothing to draw.*q\[0\] names an element of the lists in 'q'$"):
                plot()
        with pytest.raises(ValueError, match=r"no field of the 2 tracks.*q\[0\] names.*struct\.field\('x'\)"):
            session.plot(["arm", "leg"])
        assert session.plot(["arm"], "q[0]").to_dict()


@pytest.mark.parametrize("ts", [1e300, -1e15])
def test_times_beyond_all_dates_are_told(tmp_path: Path, ts: float) -> None:
    with Session("s", "w", tmp_path) as session:
        track = session.track("t").append(v=1, _ts=ts).append(v=2, _ts=8e12)
        with pytest.raises(ValueError, match="the _ts of the track 't' reach beyond the dates"):
            track.plot(x="_ts")
        assert track.plot(x="_index").to_dict()
        assert session.track("u").append(v=1, _ts=8e12).plot(x="_ts").to_dict()


def test_without_altair_the_error_says_what_to_install(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ImportError, match=r'pip install "dreamlake\[plot\]"'):
        lake.plot("val")


def test_reading_does_not_import_altair(lake: Lake) -> None:
    place = lake._store.describe()
    code = """
        import sys
        from dreamlake import Lake
        view = Lake(sys.argv[1]).session("run0", "sweep")
        view.track("val").to_polars(), view.track("val").downsample(10), view._repr_html_()
        assert not {"altair", "plotly"} & set(sys.modules)
    """
    run_python(code, place)


def test_curves_over_an_index_when_one_track_has_no_step(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        session.track("a").append(step=5, v=1.0)
        session.track("b").append(v=1.0)
        found, x, kind = curves([("a", session.track("a")), ("b", session.track("b"))])
    assert (x, kind) == ("_index", "number")
    assert [(curve.label, curve.field) for curve in found] == [("a", "step"), ("a", "v"), ("b", "v")]


# ------------------------------------------------------------------------------------------------ notebooks


def parsed(html: str) -> xml.etree.ElementTree.Element:
    """The page as a tree: it is well-formed, also as XML."""
    return xml.etree.ElementTree.fromstring(html)


def cells(html: str) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row.iter("td")] for row in parsed(html).iter("tr")][1:]


def test_a_session_shows_its_tracks(lake: Lake) -> None:
    view = lake.session("run1", "sweep")
    html = view._repr_html_()
    assert "sweep/run1" in html
    assert "lr=0.1" in html
    rows = cells(html)
    assert [row[:2] for row in rows] == [["train", "3,000"], ["val", "30"]]
    assert "step=2999" in rows[0][2]
    assert len(list(parsed(html).iter("svg"))) == 2 + 3


def test_a_track_shows_its_fields(lake: Lake) -> None:
    rows = cells(lake.session("run0", "sweep").track("val")._repr_html_())
    assert [row[:2] for row in rows] == [
        ["loss", "double"], ["acc", "double"], ["step", "int64"], ["pose", "list<element: double>"],
    ]  # fmt: skip
    assert rows[3][2] == "[2900.0,2.0]"


def test_a_lake_shows_its_runs(lake: Lake) -> None:
    assert lake._repr_html_() == lake.sessions()._repr_html_()
    rows = cells(lake._repr_html_())
    assert [row[:2] for row in rows] == [[f"sweep/run{run}", "finished"] for run in range(3)]


def test_an_open_session_shows_itself(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        for i in range(3):
            session.track("t").append(v=i)
        assert cells(session._repr_html_())[0][:2] == ["t", "3"]
        assert "open" in session._repr_html_()
        assert cells(session.track("t")._repr_html_())[0][:3] == ["v", "int64", "2"]


def test_what_strangers_wrote_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&'\""
    with Session("<b>s</b>", "<i>w", tmp_path, description=evil, tags=[evil]) as session:
        session.parameters().set(**{"<img src=x>": evil})
        session.track(evil).append(**{evil: evil, "<v>": 1.5})
        shown = [session._repr_html_(), session.track(evil)._repr_html_()]
    shown.append(Lake(tmp_path)._repr_html_())
    for html in shown:
        parsed(html)
        assert not re.search(r"<(script|img|b>s|i>w|v>)", html)
    assert evil in cells(shown[2])[0][4]


def test_many_tracks_are_cut_short(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        for number in range(ROWS + 5):
            session.track(f"t{number:03}").append(v=1.0)
        html = session._repr_html_()
    assert len(cells(html)) == ROWS
    assert "and 5 more" in html


def test_a_damaged_track_shows_the_damage(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        session.track("good").append(v=1)
        session.track("bad").append(v=1)
    (tmp_path / "w/s/tracks/bad/data.jsonl").write_bytes(b"nonsense\n")
    html = Lake(tmp_path).session("s", "w")._repr_html_()
    assert [row[:2] for row in cells(html)] == [["bad", ""], ["good", "1"]]
    assert "data.jsonl" in html
    assert "data.jsonl" in Lake(tmp_path).session("s", "w").track("bad")._repr_html_()


@pytest.mark.parametrize("name", ["session.json", "parameters.json"])
def test_a_damaged_session_shows_the_damage(tmp_path: Path, name: str) -> None:
    with Session("s", "w", tmp_path) as session:
        session.parameters().set(lr=1)
        session.track("t").append(v=1)
    view = Lake(tmp_path).session("s", "w")
    (tmp_path / "w/s" / name).write_text("{nonsense")
    html = view._repr_html_()
    assert name in html
    assert [row[:2] for row in cells(html)] == [["t", "1"]]
    assert (name in Lake(tmp_path)._repr_html_()) is (name == "session.json")


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork")
def test_in_a_forked_child_pictures_say_so_instead_of_hanging(lake: Lake) -> None:
    view = lake.session("run0", "sweep")
    assert len(pl.DataFrame({"a": [1]}).lazy().collect()) == 1  # Polars has threads now

    def child() -> None:
        for show in (view._repr_html_, view.track("val").plot, lambda: lake.plot("val")):
            with pytest.raises(RuntimeError, match="fork"):
                show()

    assert in_child(child) == 0


def test_a_line_stays_in_its_box() -> None:
    path = sparkline([(0, 1.0), (1, None), (2, 5.0), (3, -4.0), (4, None), (5, 0.0)])
    numbers = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+),([\d.-]+)", path)]
    assert len(numbers) == 4
    assert all(0 <= across <= WIDTH and 0 <= down <= HEIGHT for across, down in numbers)
    assert path.count("M") == 3  # the gaps are gaps
    assert sparkline([]) == sparkline([(0, None)]) == ""
    assert "nan" not in sparkline([(0, 2.0)])
