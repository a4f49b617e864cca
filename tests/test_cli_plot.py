"""``dreamlake plot``: what is drawn is what the track says, and every mistake tells what could be drawn."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from dreamlake import Session
from dreamlake.cli.plot import Line, picture


@pytest.fixture
def lake(lake_dir: Path) -> Path:
    """``w/up`` with a rising line and ``w/down`` with a falling one, over 3,000 points."""
    for name, sign in (("up", 1), ("down", -1)):
        with Session(name, "w", lake_dir) as session:
            session.track("line").append_batch(
                [{"y": 1500.0 + sign * (i - 1500), "step": 2 * i, "note": "n", "flag": i > 9} for i in range(3000)]
            )
            session.track("text").append(note="x")
    return lake_dir


def inside(text: str) -> list[str]:
    """The rows within the frame of a picture."""
    rows = [row for row in text.splitlines() if row.rstrip().endswith(("│", "|"))]
    return [row.translate(str.maketrans("┤|", "││")).partition("│")[2].rstrip("│") for row in rows]


def test_a_rising_line_rises(cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    status, out, err = cli("plot", "w/up", "line", "--path", lake)
    assert (status, err) == (0, "")
    title, *drawn, others = out.splitlines()
    assert title == "line of w/up: y"
    assert others == "--field draws others: flag, step"
    assert len(drawn) == 17
    assert max(map(len, drawn)) == 60
    rows = inside("\n".join(drawn))
    first = [len(row) - len(row.lstrip()) for row in rows if row.strip()]
    assert first == sorted(first, reverse=True)
    assert len(first) == len(rows)
    assert (drawn[1].split("┤")[0].strip(), drawn[len(rows)].split("┤")[0].strip()) == ("2999", "0")


def test_several_runs_in_one_picture(cli: Any, lake: Path) -> None:
    status, out, err = cli("plot", "up", "down", "--track", "line", "--x", "step", "--path", lake)
    assert (status, err) == (0, "")
    assert "w/up y" in out
    assert "w/down y" in out
    rows = inside(out)
    assert "*" in rows[-1]
    assert rows[-1].rstrip().endswith("o")  # the marks tell them apart where there are no colours
    assert "6e+03" not in out
    assert "5998" in out


def test_the_points_as_json(cli: Any, lake: Path) -> None:
    argv = ["plot", "up", "line", "--field", "y", "--field", "flag", "--path", lake, "--json"]
    status, out, _ = cli(*argv, "--points", "100")
    lines = json.loads(out)
    assert status == 0
    assert [line["name"] for line in lines] == ["y", "flag"]
    assert len(lines[0]["x"]) <= 100
    assert (lines[0]["x"][0], lines[0]["x"][-1]) == (0, 2999)
    assert all(y == x for x, y in zip(lines[0]["x"], lines[0]["y"], strict=True))
    assert {0.0, 1.0} == set(lines[1]["y"])


@pytest.mark.parametrize("points", ["10", "1000"])
def test_json_has_every_digit(cli: Any, lake_dir: Path, points: str) -> None:
    """Also of integers that no float has, where points are left out and where none are."""
    with Session("run", "w", lake_dir) as session:
        session.track("t").append_batch([{"n": 2**53 + 1 + 2 * at, "x": 2**60 + at, "b": at > 9} for at in range(100)])
    argv = ["plot", "run", "t", "--field", "n", "--field", "b", "--x", "x", "--points", points, "--path", lake_dir]
    status, out, err = cli(*argv, "--json")
    assert (status, err) == (0, "")
    numbers, bools = json.loads(out)
    assert (numbers["x"][0], numbers["x"][-1]) == (2**60, 2**60 + 99)
    assert numbers["y"] == [2**53 + 1 + 2 * (x - 2**60) for x in numbers["x"]]
    assert (bools["y"][0], bools["y"][-1]) == (0, 1)
    assert {type(value) for line in (numbers, bools) for value in (*line["x"], *line["y"])} == {int}
    assert cli(*argv)[0] == 0


def test_a_jump_is_drawn(cli: Any, lake_dir: Path) -> None:
    values = [math.sin(i / 500) for i in range(20_000)]
    values[7_777], values[11_111] = 50.0, -50.0
    with Session("run", "w", lake_dir) as session:
        session.track("t").append_batch({"v": values})
    (line,) = json.loads(cli("plot", "run", "t", "--path", lake_dir, "--points", 300, "--json")[1])
    assert len(line["x"]) <= 300
    assert {0, 7_777, 11_111, 19_999} <= set(line["x"])


def test_elements_of_lists_are_drawn(cli: Any, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        for i in range(5):
            session.track("pose").append(q=[i, 10 + i])
    argv = ["plot", "run", "pose", "--path", lake_dir]
    (line,) = json.loads(cli(*argv, "-F", "q[1]", "--json")[1])
    assert (line["name"], line["y"]) == ("q[1]", [10, 11, 12, 13, 14])
    assert "q[0] is its first element" in cli(*argv, "-F", "q")[2]


def test_what_cannot_be_drawn_is_left_out(cli: Any, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        for value in (1.0, math.nan, None, math.inf, -1.0, 0.0, 100.0):
            session.track("t").append(v=value)
        session.track("none").append(v=math.nan)
    argv = ["plot", "run", "t", "--path", lake_dir, "--json"]
    assert json.loads(cli(*argv)[1]) == [{"name": "v", "x": [0, 4, 5, 6], "y": [1.0, -1.0, 0.0, 100.0]}]
    assert json.loads(cli(*argv, "--log")[1]) == [{"name": "v", "x": [0, 6], "y": [1.0, 100.0]}]
    assert cli("plot", "run", "none", "--path", lake_dir)[1].splitlines()[-1] == "(nothing to plot)"
    assert cli("plot", "run", "t", "--log", "--path", lake_dir)[0] == 0


LARGEST = sys.float_info.max


@pytest.mark.parametrize(
    "ys",
    [
        [1.0],
        [2.0, 2.0],
        [-1e300, 1e300],
        [5e-324, 1e-300],
        [1e308, -1e308],
        [LARGEST],
        [LARGEST, -LARGEST, 1.0],
        [LARGEST, 5e-324],
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_any_numbers_can_be_drawn(ys: list[float], log: bool) -> None:
    ys = [abs(y) for y in ys] if log else ys
    text = picture([Line("a", list(map(float, range(len(ys)))), ys)], 40, 10, log=log)
    assert "nan" not in text
    assert len(text.splitlines()) == 10


def test_the_largest_numbers_are_drawn_with_their_labels(cli: Any, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        for value in (1e308, -1e308, 0.0):
            session.track("t").append(v=value, x=value)
    status, out, err = cli("plot", "run", "t", "-F", "v", "--x", "x", "--path", lake_dir)
    assert (status, err) == (0, "")
    rows = out.splitlines()
    assert " 1e+308┤" in rows[2]
    assert sum("-1e+308┤" in row for row in rows) == 1
    assert rows[-2].split() == ["-1e+308", "-5e+307", "0", "5e+307", "1e+308"]


def test_times_are_times(lake_dir: Path, cli: Any) -> None:
    with Session("run", "w", lake_dir) as session:
        for i in range(5):
            session.track("t").append(v=i, _ts=1.7e9 + 60 * i)
    out = cli("plot", "run", "t", "--x", "_ts", "--path", lake_dir)[1]
    assert out.splitlines()[-2].count(":") == 10


def test_a_terminal_with_colours_gets_them_and_one_without_unicode_gets_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [Line("a", [0.0, 1.0], [0.0, 1.0]), Line("b", [0.0, 1.0], [1.0, 0.0])]
    plain = picture(lines, 40, 10)
    assert "\x1b" not in plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in picture(lines, 40, 10)
    monkeypatch.setenv("NO_COLOR", "1")
    assert picture(lines, 40, 10) == plain
    monkeypatch.setattr("dreamlake.cli.plot.unicode_fits", lambda: False)
    assert picture(lines, 40, 10).isascii()
    assert picture(lines[:1], 40, 10).isascii()


def test_mistakes(cli: Any, lake: Path) -> None:
    with Session("arms", "w", lake) as session:
        session.track("arm").append(q=[1.0, 2.0])
    for argv, said in (
        (["up"], "name one of its tracks: line, text"),
        (["up", "lin"], "is it 'line'?"),
        (["up", "down", "line"], "--track"),
        (["up", "line", "--field", "z"], "fields of numbers: y, step, flag"),
        (["up", "line", "--field", "_ts"], "no field '_ts'"),
        (["up", "line", "--field", "note"], "no number"),
        (["up", "line", "--x", "z"], "no field 'z'"),
        (["up", "text"], "no field of numbers"),
        (["arms", "arm"], "no field of numbers to draw; q[0] names an element of the lists in 'q'"),
        (["up", "line", "--points", "9"], "10 or more"),
    ):
        status, out, err = cli("plot", *argv, "--path", lake)
        assert (status, out, err.count("\n")) == (2, "", 1), (argv, err)
        assert said in err


def test_without_plotext_it_says_how_to_get_it(cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotext", None)
    status, out, err = cli("plot", "up", "line", "--path", lake)
    assert (status, out) == (1, "")
    assert err == 'dreamlake: plots need plotext: pip install "dreamlake[plot]"\n'
