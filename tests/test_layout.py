"""Names and paths: every accepted name comes back and stays inside, and no two of them share a folder."""

from __future__ import annotations

import copy
import os
import pickle
import posixpath
import random
import tempfile
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dreamlake import Lake, Session
from dreamlake.format import layout
from dreamlake.format.layout import SegmentName

# Any character at all, with those that matter to a filesystem drawn often.
CHARS = st.one_of(st.sampled_from(list("./\\%: ~_=[]*?#-aA0é漢\u0301\x00\ud800")), st.characters())
TEXTS = st.text(CHARS, max_size=40)
# Pieces that path code trips over, joined by slashes.
PIECES = st.sampled_from(
    [
        "a",
        "B",
        ".",
        "..",
        "...",
        "",
        " ",
        "a ",
        "a.",
        ".a",
        "%2F",
        "%",
        "con",
        "NUL.txt",
        "com1",
        "data.jsonl",
        "Data.JSONL",
        "metadata.json",
        "x.parquet",
        ".tmp-1",
        "é",
        "é",
        "漢字",
        "a=b",
        "a:b",
        "tracks",
        "C:",
        "~",
        "[x]",
        "*",
    ]
)
NAMES = st.one_of(TEXTS, st.lists(PIECES, min_size=1, max_size=5).map("/".join))
KINDS = ["track", "session", "workspace"]


def accepted(kind: str, name: str) -> bool:
    try:
        layout.check_name(kind, name)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------------ names


@given(NAMES)
@example("robot/position/left-camera")
@example("漢字/é")
@example("100%/a:b/[x] y")
def test_accepted_track_names_come_back_and_stay_inside(name: str) -> None:
    if not accepted("track", name):
        with pytest.raises(ValueError, match="track name"):
            layout.track_dir(name)
        return
    path = layout.track_dir(name)
    assert layout.track_name(path) == name
    assert posixpath.normpath(path) == path
    assert path.startswith("tracks/")
    assert len(path.split("/")) == 1 + len(name.split("/"))
    assert all(0 < len(part.encode()) <= 255 for part in path.split("/"))


@given(NAMES, NAMES)
@example("a/b", "a%2Fb")
@example("con", "%63on")
@example(".a", "%2Ea")
def test_no_two_accepted_names_share_a_folder(one: str, other: str) -> None:
    if one == other or not (accepted("track", one) and accepted("track", other)):
        return
    assert layout.track_dir(one) != layout.track_dir(other)


@given(NAMES, NAMES)
@example("a/b", "lr=0.1")
def test_accepted_session_names_come_back_and_stay_inside(workspace: str, session: str) -> None:
    if not (accepted("workspace", workspace) and accepted("session", session)):
        with pytest.raises(ValueError, match="name"):
            layout.session_dir(workspace, session)
        return
    path = layout.session_dir(workspace, session)
    assert layout.session_names(path) == (workspace, session)
    assert posixpath.normpath(path) == path
    assert path.count("/") == 1


@given(NAMES)
def test_stored_names_hold_nothing_that_a_filesystem_or_a_glob_takes_for_more(name: str) -> None:
    if not accepted("session", name):
        return
    stored = layout.encode_component(name)
    assert not set(stored) & set('/\\:*?"<>|[]{}#=')
    assert stored[0] != "."
    assert stored[-1] not in ". "
    assert stored.partition(".")[0].rstrip().lower() not in {"con", "nul", "aux", "prn", "com1", "lpt9"}


@given(st.text(CHARS, max_size=30))
@example("a%2fb")
@example("%")
@example("%4")
@example("%4 1")
@example("%ED%A0%80")
@example("%41")
def test_only_canonical_folders_have_a_name(component: str) -> None:
    try:
        decoded = layout.decode_component(component)
    except ValueError:
        return
    assert layout.encode_component(decoded) == component


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("loss", "loss"),
        ("left camera", "left camera"),
        ("漢字", "漢字"),
        ("100%", "100%25"),
        ("a:b", "a%3Ab"),
        ("lr=0.1", "lr%3D0.1"),
        ("[x]", "%5Bx%5D"),
        ("a\\b", "a%5Cb"),
        (".hidden", "%2Ehidden"),
        ("...", "%2E.%2E"),
        ("end.", "end%2E"),
        ("end ", "end%20"),
        ("CON", "%43ON"),
        ("com¹.txt", "%63om¹.txt"),
        ("aux .x", "%61ux .x"),
        ("console", "console"),
    ],
)
def test_stored_form_is_fixed(name: str, stored: str) -> None:
    """Folders written by one version must be found by the next: this table may grow, never change."""
    assert layout.track_dir(name) == f"tracks/{stored}"
    assert layout.track_name(f"tracks/{stored}") == name


def test_slash_makes_folders_in_track_names_only() -> None:
    assert layout.track_dir("robot/position") == "tracks/robot/position"
    assert layout.session_dir("team/a", "run/1") == "team%2Fa/run%2F1"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "empty"),
        ("/", "absolute"),
        ("/etc", "absolute"),
        ("a/", "empty component"),
        ("a//b", "empty component"),
        (".", r"component '\.'"),
        ("..", r"component '\.\.'"),
        ("../x", r"component '\.\.'"),
        ("a/../b", r"component '\.\.'"),
        ("a/./b", r"component '\.'"),
        ("a\x00b", "control character"),
        ("a\nb", "control character"),
        ("a\x7f", "control character"),
        ("a\x85", "control character"),
        ("a\ud800", "lone surrogate"),
        ("a" * 256, "256 bytes"),
        ("漢" * 86, "258 bytes"),
        ("%" * 86, "258 bytes"),
    ],
)
def test_refused_names_are_told_the_rule(kind: str, name: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        layout.check_name(kind, name)
    assert str(caught.value).startswith(f"{kind} name ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "part", ["data.jsonl", "DATA.jsonl", "metadata.json", "metadata.jſon", "x.parquet", "X.Parquet", ".tmp-1"]
)
def test_track_names_cannot_take_the_place_of_a_tracks_files(part: str) -> None:
    for name in (part, f"a/{part}", f"{part}/b"):
        with pytest.raises(ValueError, match="collides"):
            layout.track_dir(name)
    assert layout.session_dir("w", part)


def test_longest_names_fit() -> None:
    assert layout.track_name(layout.track_dir("a" * 255)) == "a" * 255
    assert accepted("track", "/".join(["a" * 127] * 16))
    with pytest.raises(ValueError, match="more than 2048"):
        layout.track_dir("/".join(["a" * 127] * 17))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [None, 1, b"loss", ["loss"]])
def test_names_are_strings(kind: str, name: object) -> None:
    with pytest.raises(TypeError, match=f"a {kind} name is a string"):
        layout.check_name(kind, name)


@pytest.mark.parametrize(
    "path", ["tracks", "tracks/", "tracks/a%2Fb", "tracks/..", "loss", "tracks/.a", "tracks/%61", "tracks/x.parquet"]
)
def test_foreign_folders_are_no_tracks(path: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        layout.track_name(path)


@pytest.mark.parametrize("path", ["a", "a/", "/a", "a/b/c", "a/..", "a/.b", "a/%62"])
def test_foreign_folders_are_no_sessions(path: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        layout.session_names(path)


# ------------------------------------------------------------------------------------------------ names on filesystems

ODD_NAMES = [
    "loss",
    "Loss",
    "LOSS",
    "é",
    unicodedata.normalize("NFD", "é"),
    "ﬁ",
    "fi",
    "a" * 255,
    "漢" * 85,
    "/".join(["b" * 120] * 8),
    "con",
    "CON.txt",
    "com1",
    ".hidden",
    "...",
    "end.",
    "end ",
    " begin",
    "100%",
    "%2F",
    "a%2Fb",
    "a:b",
    "a\\b",
    "lr=0.1",
    "[x]*?",
    "{a}|<b>",
    '"quoted"',
    "#1",
    "~",
    "~root",
    "$HOME",
    "-rf",
    "tracks",
    "logs",
    "session.json",
    "hosts",
    "\u202eright-to-left",
    "\u200b",
    "\U0001f600",
]


def names_of(kind: str, count: int, seed: int) -> list[str]:
    """The odd names and random ones, all of them accepted."""
    rnd = random.Random(seed)
    chars = list("./%: ~_=[]*?#-aA0é漢\u0301\U0001f600ſ")
    made = ["".join(rnd.choices(chars, k=rnd.randrange(1, 12))) for _ in range(4 * count)]
    pieces = ["a", "A", "a ", ".a", "%2F", "con", "é", "é", "a=b", "tracks", "logs", "[x]"]
    made += ["/".join(rnd.choices(pieces, k=rnd.randrange(1, 5))) for _ in range(count)]
    return list(dict.fromkeys([name for name in [*ODD_NAMES, *made] if accepted(kind, name)]))[:count]


def test_every_accepted_name_comes_back_from_listings_everywhere(elsewhere: tuple[str, dict[str, Any] | None]) -> None:
    """On each filesystem under the same names, and nothing is beside them."""
    url, options = elsewhere
    lake = Lake(url, options)
    tracks = names_of("track", 100, 1)
    runs = list(zip(names_of("workspace", 40, 2), names_of("session", 40, 3), strict=True))
    paths = [f"{layout.session_dir('w', 's')}/{layout.track_dir(name)}/data.jsonl" for name in tracks]
    paths += [f"{layout.session_dir(*pair)}/session.json" for pair in [("w", "s"), *runs]]
    for path in paths:
        lake._store.put(path, b"{}")
    assert lake._store.walk() == sorted(paths)
    run = lake.session("s", "w")
    assert run.tracks.list() == sorted(tracks)
    assert lake.workspaces() == sorted({"w", *(workspace for workspace, _ in runs)})
    assert [(info["workspace"], info["name"]) for info in lake.sessions()] == sorted([("w", "s"), *runs])
    for name in tracks:
        assert run.track(name)._reader._hot_bytes() == b"{}"


@settings(max_examples=20)
@given(NAMES, NAMES, st.lists(NAMES, max_size=5))
@example("a" * 255, "漢" * 85, ["x", "X", "é", "é", "con", "a" * 255, "b/" * 100 + "b"])
@example(".", "..", ["../x", "/etc/x", "a/../../b"])
@example("~", "$HOME", [" ", "-rf", "*"])
def test_whatever_a_session_is_called_it_stays_inside(workspace: str, name: str, tracks: list[str]) -> None:
    with tempfile.TemporaryDirectory() as top:
        root = Path(top, "lake")
        root.mkdir()
        try:
            session = Session(name, workspace, root, flush_interval=60)
        except ValueError:
            assert not (accepted("session", name) and accepted("workspace", workspace))
            session = Session("s", "w", root, flush_interval=60)
        kept = [track for track in dict.fromkeys(tracks) if accepted("track", track)]
        with session:
            for track in tracks:
                if track in kept:
                    session.track(track).append(name=track)
                else:
                    with pytest.raises(ValueError, match="track name"):
                        session.track(track)
        assert os.listdir(top) == ["lake"]
        (info,) = Lake(root).sessions()
        assert (info["name"], info["workspace"]) == (session.name, session.workspace)
        run = Lake(root).session(session.name, session.workspace)
        assert run.tracks.list() == sorted(kept)
        for track in kept:
            assert run.track(track).read()["data"][0]["data"]["name"] == track


# ------------------------------------------------------------------------------------------------ fields


@pytest.mark.parametrize("name", ["value", "_ts", "", "index", "data", "self", "$date", "a.b", "漢", "x_", "a\x00b"])
def test_field_names_of_users_are_taken(name: str) -> None:
    layout.check_field(name)


@pytest.mark.parametrize(
    ("name", "error", "rule"),
    [
        ("_", ValueError, "reserved"),
        ("_index", ValueError, "reserved"),
        ("_none", ValueError, "reserved"),
        ("_tsx", ValueError, "reserved"),
        ("a\udfff", ValueError, "lone surrogate"),
        (1, TypeError, "string, not int"),
        (None, TypeError, "string, not NoneType"),
    ],
)
def test_other_field_names_are_refused(name: object, error: type[Exception], rule: str) -> None:
    with pytest.raises(error, match=rule):
        layout.check_field(name)


# ------------------------------------------------------------------------------------------------ segments

INDICES = st.integers(0, 2**63 - 1)
SEGMENTS = st.builds(
    lambda one, other, generation: SegmentName(min(one, other), max(one, other), generation),
    INDICES.filter(lambda n: n % 2 == 0),
    INDICES.filter(lambda n: n % 2 == 1),
    st.one_of(st.integers(0, 3), INDICES),
)


@given(SEGMENTS)
@example(SegmentName(0, 10_000))
@example(SegmentName(999_999_999_999, 1_000_000_000_000, 12))
def test_segment_names_round_trip(name: SegmentName) -> None:
    assert layout.parse_segment(name.filename) == name
    assert copy.deepcopy(name) == name
    again = pickle.loads(pickle.dumps(name))
    assert (type(again), again) == (SegmentName, name)


def test_segment_names_are_written_as_documented() -> None:
    assert SegmentName(0, 10_000).filename == "000000000000-000000010000.parquet"
    assert SegmentName(0, 10_000, 1).filename == "000000000000-000000010000.1.parquet"


@given(st.from_regex(r"[0-9٣]{1,14}[-.]{1,2}[0-9]{1,14}(\.[0-9]{0,3})?(\.parquet|\.PARQUET|)", fullmatch=True))
def test_what_parses_is_what_is_written(filename: str) -> None:
    name = layout.parse_segment(filename)
    assert name is None or name.filename == filename


@pytest.mark.parametrize(
    "filename",
    [
        "0-10.parquet",
        "000000000000-000000000000.parquet",
        "000000000010-000000000005.parquet",
        "000000000000-000000010000.0.parquet",
        "000000000000-000000010000.01.parquet",
        "000000000000-000000010000..parquet",
        "0000000000000-000000010000.parquet",
        "000000000000-000000010000.parquet.tmp",
        ".tmp-000000000000-000000010000.parquet",
        "000000000000-000000010000.1.1.parquet",
        "00000000000٠-000000010000.parquet",
        "000000000000-+00000010000.parquet",
        "000000000000-99999999999999999999.parquet",
        "x" * 5000 + ".parquet",
        ".parquet",
        "data.jsonl",
    ],
)
def test_other_files_are_no_segments(filename: str) -> None:
    assert layout.parse_segment(filename) is None


@pytest.mark.parametrize("numbers", [(0, 0), (-1, 5), (5, 4), (0, 1, -1), (0, 2**63)])
def test_impossible_segments_are_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no segment holds"):
        SegmentName(*numbers)


def test_segment_names_are_frozen_and_ordered() -> None:
    name = SegmentName(0, 10, 2)
    assert (name.start, name.stop, name.generation) == (0, 10, 2)
    with pytest.raises(AttributeError):
        name.start = 3  # type: ignore[misc]
    names = [SegmentName(10, 20), SegmentName(0, 20), SegmentName(0, 10, 1), SegmentName(0, 10)]
    assert sorted(names) == [SegmentName(0, 10), SegmentName(0, 10, 1), SegmentName(0, 20), SegmentName(10, 20)]


# ------------------------------------------------------------------------------------------------ logs


@given(st.integers(0, 10**15))
def test_log_archives_round_trip(number: int) -> None:
    folder, filename = layout.log_archive(number).split("/")
    assert folder == layout.LOGS_DIR
    assert layout.parse_log_archive(filename) == number


@pytest.mark.parametrize("filename", ["logs.jsonl", "01.jsonl", ".jsonl", "1.json", "1", "-1.jsonl", "٣.jsonl"])
def test_other_files_are_no_log_archives(filename: str) -> None:
    assert layout.parse_log_archive(filename) is None


@pytest.mark.parametrize("wrong", [["a"], {"a": 1}, 1, None, b"a"])
def test_what_is_no_name_is_refused_before_it_is_looked_up(wrong: Any) -> None:
    layout.session_dir("a", "a")
    for ask in (layout.track_dir, partial(layout.session_dir, "a"), lambda name: layout.session_dir(name, "a")):
        with pytest.raises(TypeError, match="name is a string, not") as caught:
            ask(wrong)
        assert caught.value.__context__ is None


def test_folders_are_remembered_of_so_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_MAX_DIRS", 5)
    monkeypatch.setattr(layout, "_dirs", {})
    for _ in range(2):
        for number in range(12):
            assert layout.session_dir("w", f"{number}:") == f"w/{number}%3A"
            assert layout.track_dir(f"{number}/w") == f"tracks/{number}/w"
            assert len(layout._dirs) <= 5
    with pytest.raises(ValueError, match="cannot be stored"):
        layout.track_dir("a//b")
    assert ("a//b",) not in layout._dirs
