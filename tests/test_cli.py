"""The command line: what each command shows, its exit status, and one line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import python_environment, run_python

from dreamlake import Lake, Session
from dreamlake.cli.text import clean, columns_of, cut, size_text, table, time_text, value_text


@pytest.fixture
def lake(lake_dir: Path) -> Path:
    """``w/one`` with a rolled track and a short one, ``w/two`` without tracks, ``漢字/é b`` with one."""
    with Session("one", "w", lake_dir, description="the first", tags=["a", "b"], segment_points=50) as session:
        session.parameters().set(lr=0.1, worst=float("nan"), model={"layers": 4})
        session.log("it starts")
        session.log("it ends", "warn")
        for step in range(120):
            session.track("train/loss").append(value=1 / (step + 1), step=step, _ts=float(step))
        session.track("eval").append(accuracy=0.5, recall=[0.25] * 20)
    with Session("two", "w", lake_dir) as session:
        session.log("nothing else")
    with Session("é b", "漢字", lake_dir) as session:
        session.track("x").append(y=1)
    return lake_dir


def fails(result: tuple[int, str, str], status: int, *words: str) -> None:
    """Whether a command ended with this status and nothing but one line on standard error, which has these words."""
    code, out, err = result
    assert (code, out) == (status, ""), (code, out, err)
    assert err.count("\n") == 1
    assert err.startswith("dreamlake")
    for word in words:
        assert word in err


# ------------------------------------------------------------------------------------------------ the line itself


def test_no_command_shows_the_help_and_is_a_mistake(cli: Any) -> None:
    status, out, err = cli()
    assert (status, out) == (2, "")
    assert "ls" in err
    assert "demo" in err


def test_help_and_version_are_no_mistakes(cli: Any) -> None:
    from dreamlake import __version__

    assert cli("--version") == (0, f"dreamlake {__version__}\n", "")
    for argv in (["--help"], ["ls", "--help"], ["show", "--help"], ["files", "--help"], ["demo", "--help"]):
        status, out, err = cli(*argv)
        assert (status, err) == (0, "")
        assert out.startswith("Usage: dreamlake")


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["sho"], "sho"),
        (["ls", "--jsno"], "--jsno"),
        (["ls", "--js"], "--js"),  # a short form would break when a later option begins in the same way
        (["show"], "RUN"),
        (["files", "run"], "TRACK"),
        (["demo", "--steps", "0"], "'0'"),
        (["demo", "--steps", "many"], "'many'"),
    ],
)
def test_a_wrong_command_line_is_one_line(cli: Any, argv: list[str], word: str) -> None:
    fails(cli(*argv), 2, word, "--help")


def test_a_misspelt_command_or_option_is_told_what_is_like_it(cli: Any) -> None:
    fails(cli("shwo", "x"), 2, "'show'?")
    fails(cli("zzz"), 2, "'zzz'", "ls, show")
    fails(cli("ls", "--jsn"), 2, "--json")
    fails(cli("ls", "--columns"), 2, "--columns", "dreamlake ls --help")


def test_where_there_is_no_lake_it_says_how_to_name_one(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fails(cli("ls"), 2, ".dreamlake does not exist", "ls LAKE")
    fails(cli("show", "x"), 2, ".dreamlake does not exist", "--path LAKE")


def test_a_terminal_gets_colours_unless_it_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = [("x", "failed")]

    def style(column: str, cell: str) -> str:
        return "red" if cell == "failed" else ""

    assert "\x1b[31mfailed" in table(("A", "B"), rows, style=style)
    monkeypatch.setenv("NO_COLOR", "1")
    assert table(("A", "B"), rows, style=style) == "A  B\nx  failed"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert table(("A", "B"), rows, style=style) == "A  B\nx  failed"


def test_the_help_needs_no_heavy_library() -> None:
    code = """
    import sys
    from dreamlake.cli import main
    try:
        main(["ls", "--help"])
    except SystemExit:
        pass
    print([name for name in ("numpy", "polars", "pyarrow", "msgspec", "fsspec", "rich") if name in sys.modules])
    """
    assert run_python(code).stdout.splitlines()[-1] == "[]"


def start(*argv: object, **env: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-m", "dreamlake.cli", *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=python_environment(**env))


def test_a_reader_that_goes_away_is_no_error_to_complain_of(lake: Path) -> None:
    with start("ls", lake) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (141, b"")


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        ("ls", 0),
        ("ls --json", 0),
        ("show w/good", 0),
        ("tail w/good train", 0),
        ("files w/good train", 0),
        ("check", 0),
        ("plot w/good train", 0),
        ("export w/good train -o - --format csv", 0),
        ("export w/good train -o - --format parquet", 0),
        ("completion bash", 0),
        ("--help", 0),
        ("", 2),
        ("show nothing", 2),
        ("ls --nonsense", 2),
    ],
)
@pytest.mark.parametrize("closed", [">&-", "2>&- <&-"])
def test_a_closed_stream_takes_nothing_and_ends_nothing(tmp_path: Path, argv: str, status: int, closed: str) -> None:
    with Session("good", "w", tmp_path / ".dreamlake") as session:
        session.track("train").append(loss=0.5)
    words = [sys.executable, "-W", "error", "-m", "dreamlake.cli", *argv.split()]
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
    done = subprocess.run(command, capture_output=True, env=python_environment(), cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    assert (done.stdout if closed == ">&-" else done.stderr) == b""
    assert status == 0 or closed != ">&-" or done.stderr.startswith((b"dreamlake", b"Usage"))


def test_a_terminal_without_unicode_shows_what_it_can(lake: Path) -> None:
    with start("ls", lake, PYTHONIOENCODING="ascii") as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"??/? b" in out
    with start("ls", lake, "--json", PYTHONIOENCODING="ascii") as process:
        out, err = process.communicate()
    assert {row["workspace"] for row in json.loads(out)} == {"w", "漢字"}


def test_ctrl_c_is_one_line(cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dreamlake.cli.ls.open_lake", interrupt)
    fails(cli("ls", lake), 130, "interrupted")


# ------------------------------------------------------------------------------------------------ ls


def test_ls_lists_the_runs(cli: Any, lake: Path) -> None:
    status, out, err = cli("ls", lake)
    assert (status, err) == (0, "")
    header, *rows = [line.split() for line in out.splitlines()]
    assert header == ["RUN", "STATUS", "TRACKS", "CREATED", "DESCRIPTION"]
    assert [row[:3] for row in rows[:2]] == [["w/one", "finished", "2"], ["w/two", "finished", "0"]]
    assert rows[0][-2:] == ["the", "first"]
    assert out.splitlines()[3].startswith("漢字/é b  finished       1  ")


def test_ls_takes_the_folder_where_sessions_write_by_default(
    cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.rename(lake.with_name(".dreamlake"))
    monkeypatch.chdir(lake.parent)
    assert "w/one" in cli("ls")[1]
    assert "w/one" in cli("show", "one")[1]


def test_ls_as_json(cli: Any, lake: Path) -> None:
    status, out, err = cli("ls", lake, "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert [(row["workspace"], row["name"], row["tracks"]) for row in rows] == [
        ("w", "one", 2),
        ("w", "two", 0),
        ("漢字", "é b", 1),
    ]
    assert rows[0]["description"] == "the first"
    assert rows[0]["tags"] == ["a", "b"]


def test_ls_of_a_live_run(cli: Any, lake_dir: Path) -> None:
    with Session("live", "w", lake_dir) as session:
        session.track("x").append(y=1).flush()
        (row,) = json.loads(cli("ls", lake_dir, "--json")[1])
    assert (row["status"], row["tracks"]) == ("running", 1)


def test_ls_of_a_workspace_lists_its_runs_only(cli: Any, lake: Path) -> None:
    status, out, _ = cli("ls", lake / "w")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["RUN", "w/one", "w/two"]


def test_ls_of_nothing(cli: Any, lake_dir: Path) -> None:
    assert cli("ls", lake_dir) == (0, f"no runs in {lake_dir}\n", "")
    assert cli("ls", lake_dir, "--json") == (0, "[]\n", "")


def test_ls_of_what_is_no_lake(cli: Any, lake: Path) -> None:
    fails(cli("ls", lake / "nowhere"), 2, "nowhere does not exist")
    fails(cli("ls", lake / "w" / "one" / "session.json"), 2, "is no folder")
    fails(cli("ls", lake / "w" / "one"), 2, "single run", "dreamlake show")


def test_ls_of_a_url_says_that_it_cannot_and_gives_no_secret_away(cli: Any) -> None:
    result = cli("ls", "s3://key:secret@bucket/prefix")
    fails(result, 2, "s3://")
    assert "secret" not in result[2]


def test_a_damaged_run_does_not_hide_the_others(cli: Any, lake: Path) -> None:
    (lake / "w" / "one" / "session.json").write_text("{")
    status, out, err = cli("ls", lake)
    assert status == 1
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["w/one", "damaged"], ["w/two", "finished"]]
    assert "session.json is damaged" in err
    status, out, _ = cli("ls", lake, "--json")
    assert status == 1
    assert [row["status"] for row in json.loads(out)] == ["damaged", "finished", "finished"]


def test_escape_sequences_out_of_files_do_not_reach_the_terminal(cli: Any, lake_dir: Path) -> None:
    evil = "\x1b]0;pwned\x07\x1b[2J\n\r\u202e"
    with Session("run", "w", lake_dir, description=evil, tags=[evil]) as session:
        session.parameters().set(**{f"p{evil}": evil})
        session.track("x", description=evil).append(text=evil, **{f"f{evil}": {evil: 1}})
        session.log(evil, metadata={"a": evil})
    for argv in (["ls", lake_dir], ["show", "run", "--path", lake_dir], ["files", "run", "x", "--path", lake_dir]):
        status, out, err = cli(*argv)
        assert status == 0
        assert all(line.isprintable() for line in (out + err).split("\n"))
    assert "pwned" in cli("show", "run", "--path", lake_dir)[1]


# ------------------------------------------------------------------------------------------------ show


@pytest.mark.parametrize("name", ["w/one", "one", "w/one/"])
def test_show_names_a_run_in_several_ways(cli: Any, lake: Path, name: str) -> None:
    status, out, err = cli("show", name, "--path", lake)
    assert (status, err) == (0, "")
    assert out.splitlines()[:2] == ["w/one  finished", "the first"]


def test_show_takes_a_folder_as_the_shell_completes_it(cli: Any, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("show", lake / "w" / "one")[1].startswith("w/one  finished\n")
    monkeypatch.chdir(lake / "漢字")
    assert cli("show", "é b/")[1].startswith("漢字/é b  finished\n")
    monkeypatch.chdir(lake / "w" / "one")
    assert cli("show", ".")[1].startswith("w/one  finished\n")


def test_show_shows_parameters_tracks_and_log(cli: Any, lake: Path) -> None:
    out = cli("show", "one", "--path", lake)[1]
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["tags"] == ["a,", "b"]
    assert rows["lr"] == ["0.1"]
    assert rows["worst"] == ["nan"]
    assert rows["model.layers"] == ["4"]
    assert rows["train/loss"][:2] == ["120", "2"]
    assert rows["train/loss"][-2:] == ["value=0.0083333", "step=119"]
    assert "recall=list of 20" in out
    assert [line.split()[2:] for line in out.splitlines()[-2:]] == [["info", "it", "starts"], ["warn", "it", "ends"]]


def test_show_as_strict_json(cli: Any, lake: Path) -> None:
    status, out, err = cli("show", "one", "--path", lake, "--json")
    assert (status, err) == (0, "")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    shown = json.loads(out, parse_constant=refuse)
    assert shown["session"]["name"] == "one"
    assert shown["parameters"] == {"lr": 0.1, "worst": {"$numberDouble": "NaN"}, "model.layers": 4}
    assert [track["name"] for track in shown["tracks"]] == ["eval", "train/loss"]
    assert shown["tracks"][1]["latest"] == {"value": 1 / 120, "step": 119, "_ts": 119.0}
    assert shown["tracks"][1]["totalDataPoints"] == 120
    assert [record["message"] for record in shown["logs"]] == ["it starts", "it ends"]
    assert shown["damage"] == []


def test_show_of_a_run_without_anything(cli: Any, lake: Path) -> None:
    with Session("bare", "w", lake) as session:
        session.track("described", tags=["x"])
    status, out, err = cli("show", "w/bare", "--path", lake)
    assert (status, err) == (0, "")
    assert "described" in out


def test_show_of_a_run_that_is_not_there(cli: Any, lake: Path) -> None:
    fails(cli("show", "w/ona", "--path", lake), 2, "no run 'w/ona'", "'w/one'?")
    fails(cli("show", "zzzzz", "--path", lake), 2, "no run 'zzzzz'", "dreamlake ls")
    fails(cli("show", "one", "--path", lake / "no"), 2, "does not exist")
    fails(cli("show", "w\n\x1b[2J", "--path", lake), 2, "no run")


def test_show_of_a_name_that_several_runs_have(cli: Any, lake: Path) -> None:
    with Session("one", "v", lake) as session:
        session.log("here too")
    fails(cli("show", "one", "--path", lake), 2, "v/one, w/one")
    assert cli("show", "v/one", "--path", lake)[1].startswith("v/one")


def test_show_of_a_folder_with_a_foreign_name(cli: Any, lake: Path) -> None:
    (lake / "w" / "one").rename(lake / "w" / "on:e")
    fails(cli("show", lake / "w" / "on:e"), 2, "on:e")


def test_show_reads_round_damage_and_says_so(cli: Any, lake: Path) -> None:
    run = lake / "w" / "one"
    (run / "parameters.json").write_text("{")
    (run / "tracks" / "train" / "loss" / "data.jsonl").write_text("rubbish\n")
    (run / "logs" / "logs.jsonl").write_text("rubbish\n")
    status, out, err = cli("show", "one", "--path", lake)
    assert status == 1
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("eval", "train/loss"))] == [
        "eval",
        "train/loss",
    ]
    assert [line.split()[1].rpartition(os.sep)[2] for line in err.splitlines()] == [
        "parameters.json",
        "data.jsonl",
        "logs.jsonl",
    ]
    status, out, _ = cli("show", "one", "--path", lake, "--json")
    assert status == 1
    assert len(json.loads(out)["damage"]) == 3


# ------------------------------------------------------------------------------------------------ files


def test_files_lists_what_counts_and_mentions_the_rest(cli: Any, lake: Path) -> None:
    status, out, err = cli("files", "one", "train/loss", "--path", lake)
    assert status == 0
    folder = lake / "w" / "one" / "tracks" / "train" / "loss"
    names = ["000000000000-000000000050.parquet", "000000000050-000000000100.parquet"]
    assert out.splitlines() == [str(folder / name) for name in names]
    assert err == f"dreamlake: 20 newer points are in {folder / 'data.jsonl'}\n"


def test_files_lists_a_later_form_alone(cli: Any, lake: Path) -> None:
    with Session("one", "w", lake, segment_points=50) as session:
        session.track("train/loss").append(late=1, _ts=3.0)
    listed = cli("files", "one", "train/loss", "--path", lake)[1].splitlines()
    assert [os.path.basename(path) for path in listed] == [
        "000000000000-000000000050.1.parquet",
        "000000000050-000000000100.parquet",
    ]
    assert listed == Lake(lake).session("one", "w").track("train/loss").files()


def test_files_as_json_and_in_long(cli: Any, lake: Path) -> None:
    status, out, err = cli("files", "one", "train/loss", "--path", lake, "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert [(row["kind"], row["start"], row["stop"]) for row in rows] == [
        ("segment", 0, 50),
        ("segment", 50, 100),
        ("hot", 100, 120),
    ]
    assert [row["bytes"] for row in rows] == [os.path.getsize(row["path"]) for row in rows]
    status, out, err = cli("files", "one", "train/loss", "--path", lake, "--long")
    assert (status, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["START", "STOP"],
        ["0", "50"],
        ["50", "100"],
        ["100", "120"],
    ]


def test_files_of_a_track_that_never_rolled(cli: Any, lake: Path) -> None:
    status, out, err = cli("files", "one", "eval", "--path", lake)
    assert (status, out) == (0, "")
    assert "1 newer point is in" in err


def test_files_of_what_is_not_there(cli: Any, lake: Path) -> None:
    fails(cli("files", "one", "train/los", "--path", lake), 2, "no track 'train/los' in w/one", "'train/loss'?")
    fails(cli("files", "one", "zzz", "--path", lake), 2, "no track 'zzz'", "eval, train/loss")
    fails(cli("files", "two", "zzz", "--path", lake), 2, "no track 'zzz'", "none yet")
    fails(cli("files", "one", "../../two", "--path", lake), 2, "no track")


def test_files_of_a_damaged_track(cli: Any, lake: Path) -> None:
    (lake / "w" / "one" / "tracks" / "train" / "loss" / "000000000000-000000000050.parquet").unlink()
    fails(cli("files", "one", "train/loss", "--path", lake), 1, "damaged")


# ------------------------------------------------------------------------------------------------ text


def test_a_table_is_aligned_also_with_wide_characters() -> None:
    text = table(("A", "N", "B"), [("漢字", "1", "x"), ("é", "1,000", "y")], right=("N",))
    assert text.splitlines() == ["A         N  B", "漢字      1  x", "é     1,000  y"]


def test_on_a_terminal_a_table_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    rows = [("name", "漢" * 30), ("other", "x")]
    assert columns_of(table(("A", "B"), rows).splitlines()[1]) == 67
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert table(("A", "B"), rows).splitlines() == ["A      B", "name   漢漢漢漢漢漢…", "other  x"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (34_400_000, "34 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


def test_text_is_cut_by_the_columns_it_takes() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 5) == "abcd…"
    assert cut("漢字漢字", 6) == "漢字…"
    assert columns_of("e\u0301漢") == 3
    assert clean("a\x1b[1m\nb") == "a�[1m�b"


def test_values_and_times_of_any_kind_become_text() -> None:
    assert value_text(0.1 + 0.2) == "0.3"
    assert value_text(float("nan")) == "nan"
    assert value_text([1, 2]) == "[1, 2]"
    assert value_text({"k": "x" * 100}) == "dict of 1"
    assert value_text("x" * 100) == "x" * 59 + "…"
    assert time_text(None) == ""
    assert time_text("yesterday") == "yesterday"
    assert len(time_text("2026-01-02T03:04:05.678901+00:00")) == 19
