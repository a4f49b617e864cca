"""Parameters: flat dotted keys, later values win, one file, several threads and processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import start_python
from values import same, values

from dreamlake import Lake, Session
from dreamlake.errors import CorruptTrackError
from dreamlake.parameters import flatten


@pytest.fixture
def session(lake_dir: Path) -> Iterator[Session]:
    with Session("s", "w", lake_dir, flush_interval=3600.0) as session:
        yield session


def stored(session: Session) -> Any:
    return json.loads((Path(session.path) / "parameters.json").read_text())


def test_parameters_are_flat_and_on_disk_at_once(session: Session) -> None:
    parameters = session.parameters()
    assert parameters.get() == {}
    parameters.set(lr=0.1, optimizer={"name": "adam", "betas": [0.9, 0.99], "deep": {"er": True}})
    expected = {"lr": 0.1, "optimizer.name": "adam", "optimizer.betas": [0.9, 0.99], "optimizer.deep.er": True}
    assert parameters.get() == session.parameters().get() == expected
    content = stored(session)
    assert content["version"] == 1
    assert content["data"] == expected
    assert content["createdAt"] == content["updatedAt"]


def test_later_values_win_and_others_stay(session: Session) -> None:
    chained = session.parameters().set(a=1, b={"c": 1, "d": 1}).set(b={"c": 2}, **{"b.e": 3})
    assert chained.get() == {"a": 1, "b.c": 2, "b.d": 1, "b.e": 3}
    assert stored(session)["version"] == 2


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ({"a": 1}, {"a": {"b": 2}}, {"a.b": 2}),
        ({"a": {"b": {"c": 1}, "x": 2}}, {"a": {"b": 5}}, {"a.b": 5, "a.x": 2}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {}}),
        ({"a": {}}, {"a": {"b": 1}}, {"a.b": 1}),
        ({"ab": 1}, {"a": 2}, {"ab": 1, "a": 2}),
    ],
)
def test_a_value_and_its_parts_replace_one_another(session: Session, first: Any, second: Any, left: Any) -> None:
    assert session.parameters().set(**first).set(**second).get() == left


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"a": 1, "a.b": 2}, ValueError, "'a' is both a value and a part of 'a.b'"),
        ({"a.b": 1, "a": {}}, ValueError, "'a' is both a value and a part of 'a.b'"),
        ({"a": {1: 2}}, TypeError, "key is a string, not int: 1"),
        ({"a": {"b": object()}}, TypeError, r"'a\.b'.*object"),
        ({"a": {"\ud800": 1}}, ValueError, "lone surrogate"),
        ({"a": "\ud800"}, ValueError, "lone surrogate"),
        ({"a": {1, 2}}, TypeError, "set"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_changes_nothing(
    session: Session, given: Any, error: type[Exception], message: str
) -> None:
    session.parameters().set(kept=1)
    with pytest.raises(error, match=message):
        session.parameters().set(**given)
    assert session.parameters().get() == {"kept": 1}
    assert stored(session)["version"] == 1


def test_a_dict_that_holds_itself_is_refused(session: Session) -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(ValueError, match="hold themselves"):
        session.parameters().set(a=loop)


def test_any_name_and_numpy_values(session: Session) -> None:
    given = {"self": 1, "values": 2, "": 3, "_x": 4, "$d": 5, "é": np.float32(0.5), "n": np.arange(3), "t": (1, 2)}
    expected = {"self": 1, "values": 2, "": 3, "_x": 4, "$d": 5, "é": 0.5, "n": [0, 1, 2], "t": [1, 2]}
    assert same(session.parameters().set(**given).get(), expected)


@settings(max_examples=50)
@given(st.dictionaries(st.text("ab$_é", max_size=3), values, max_size=4))
def test_values_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any]) -> None:
    root = tmp_path_factory.mktemp("lake")
    flat = flatten(given)
    with Session("s", "w", root, flush_interval=3600.0) as session:
        assert same(session.parameters().set(**given).get(), flat)
    assert same(Lake(root).session("s", "w").parameters().get(), flat)
    json.loads((root / "w" / "s" / "parameters.json").read_text(), parse_constant=pytest.fail)


def test_they_can_be_read_as_a_frame_and_after_the_close(session: Session, lake_dir: Path) -> None:
    session.parameters().set(lr=0.1, name="x", mixed=[1, "a"], when=datetime(2026, 1, 1, tzinfo=UTC), none=None)
    session.close()
    frame = Lake(lake_dir).session("s", "w").parameters().to_polars()
    assert frame.columns == ["lr", "name", "mixed", "when", "none"]
    assert frame["lr"].to_list() == [0.1]
    assert frame["mixed"].to_list() == ['[1,"a"]']
    assert session.parameters().get()["lr"] == 0.1
    assert session.parameters().to_polars().equals(frame)


def test_a_damaged_file_is_told(session: Session) -> None:
    session.parameters().set(a=1)
    path = Path(session.path) / "parameters.json"
    for damage in (
        "{",
        "[]",
        '{"version": 1}',
        '{"version": 1, "data": []}',
        '{"version": 1, "data": {"a": {"$date": 5}}}',
    ):
        path.write_text(damage)
        with pytest.raises(CorruptTrackError, match=r"parameters\.json"):
            session.parameters().get()
        with pytest.raises(CorruptTrackError, match=r"parameters\.json"):
            session.parameters().set(b=1)
        assert path.read_text() == damage


def test_threads_lose_nothing(session: Session) -> None:
    def work(number: int) -> None:
        for step in range(10):
            session.parameters().set(**{f"t{number}.{step}": step, "shared": number})

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = session.parameters().get()
    assert data.pop("shared") in range(4)
    assert data == {f"t{number}.{step}": step for number in range(4) for step in range(10)}
    assert stored(session)["version"] == 40


def test_two_processes_lose_nothing(session: Session, lake_dir: Path) -> None:
    code = """
    import sys
    from dreamlake import Session
    with Session("s", "w", sys.argv[2], flush_interval=3600.0) as session:
        session.parameters()
        print("ready", flush=True)
        sys.stdin.readline()
        for step in range(20):
            session.parameters().set(**{f"{sys.argv[1]}.{step}": step})
    """
    with start_python(code, "one", lake_dir) as one, start_python(code, "two", lake_dir) as two:
        for process in (one, two):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in (one, two):
            out = process.communicate(timeout=60)
            assert process.returncode == 0, out
    assert session.parameters().get() == {f"{me}.{step}": step for me in ("one", "two") for step in range(20)}


def test_a_dict_is_taken_as_keywords_are(tmp_path: Path) -> None:
    with Session("s", "w", tmp_path) as session:
        session.parameters().set({"lr": 1, "model": {"layers": 2}}, lr=3, values=4)
        assert session.parameters().get() == {"lr": 3, "model.layers": 2, "values": 4}
        with pytest.raises(TypeError, match="a dict or keywords, not list"):
            session.parameters().set([("lr", 1)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "more", "left"),
    [
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a.b": 1, "a.c": 2}),
        ({"a": {"b": 1, "c": {"d": 3}}}, {"a": {"b": 2, "c": {"e": 4}}}, {"a.b": 2, "a.c.d": 3, "a.c.e": 4}),
        ({"a.b": 1}, {"a": {"c": 2}}, {"a.b": 1, "a.c": 2}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a.b": 1}, {"a": 2}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}, {"a.b": 1}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {}}),
    ],
)
def test_keywords_are_merged_with_the_dict_in_full(session: Session, values: Any, more: Any, left: Any) -> None:
    assert session.parameters().set(values, **more).get() == left
    assert session.parameters().set(values).set(**more).get() == left
