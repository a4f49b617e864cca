"""Several machines with one replica: some random lives of the campaign, and those that once found something."""

from __future__ import annotations

from typing import Any

import pytest
import rivals

Steps = list[tuple[str, dict[str, Any]]]
NOTHING = ("", 0)


def append(which: int, count: int, name: str = "a", *, again: bool = False, flush: bool = False) -> tuple[str, Any]:
    return "append", {"which": which, "name": name, "count": count, "again": again, "flush": flush}


def late(which: int, *places: int) -> tuple[str, Any]:
    return "append_late_fields", {"which": which, "name": "a", "places": places, "second": False, "flush": True}


def sync(which: int) -> tuple[str, Any]:
    return "sync", {"which": which, "trouble": NOTHING}


def meanwhile(which: int, other: int, when: int, act: str) -> tuple[str, Any]:
    return "sync_while_another_acts", {"which": which, "other": other, "when": when, "act": act, "name": "a"}


def begin(points: int, grace: float = 60.0) -> tuple[str, Any]:
    return "begin", {"points": points, "grace": grace}


def step(action: str, which: int, **given: Any) -> tuple[str, Any]:
    return action, {"which": which, **given}


FOUND: dict[str, Steps] = {
    "late fields wait for parts that another machine has merged": [
        begin(5, -1.0),
        append(0, 4),
        append(0, 1),
        append(0, 4, "a/b", again=True, flush=True),
        append(0, 3, flush=True),
        append(0, 6, again=True, flush=True),
        sync(0),
        step("compact", 0, name="a"),
        late(1, 0, 27),
        step("lose_the_disk", 0, killed=False),
        step("sync_from_outside", 1, killed=True),
    ],
    "the command that takes a merge over does not take its own lock for a live run": [
        begin(3),
        append(0, 3, flush=True),
        append(0, 3),
        step("lose_the_disk", 0, killed=False),
        step("kill", 0, again=True),
        late(1, -1),
        step("close_and_open", 1),
        late(0, 0),
        step("sync_from_outside", 0, killed=True),
    ],
    "two machines begin a track, one with segments": [begin(2, -1.0), append(0, 6), meanwhile(0, 1, 3, "append")],
    "two machines begin a track, both with segments": [
        begin(3),
        append(0, 6, flush=True),
        append(1, 4, flush=True),
        append(1, 9),
        meanwhile(1, 0, 5, "append"),
    ],
    "another machine goes on while segments are sent": [
        begin(3),
        append(0, 1),
        step("copy_the_folder", 0),
        append(0, 7),
        meanwhile(0, 2, 2, "append"),
    ],
    "another machine rolls while segments are sent": [
        begin(2),
        append(0, 1),
        step("copy_the_folder", 0),
        append(0, 7),
        meanwhile(0, 2, 2, "append"),
    ],
    "another machine merges while a late field is sent": [
        begin(5),
        append(0, 7),
        step("copy_the_folder", 0),
        append(0, 6, flush=True),
        sync(0),
        late(2, 0, -1),
        meanwhile(2, 0, 5, "compact"),
    ],
    "two machines give late fields to one segment": [
        begin(5),
        append(0, 7, flush=True),
        sync(0),
        late(0, 0),
        step("append_late_fields", 0, name="a", places=[1], second=True, flush=False),
        meanwhile(0, 1, 2, "late"),
    ],
    "both machines leave no line": [
        begin(2, -1.0),
        append(0, 3),
        sync(0),
        append(0, 5),
        meanwhile(0, 1, 6, "compact"),
        late(0, -1, 29),
        append(1, 5),
        meanwhile(1, 0, 5, "late"),
    ],
    "another machine takes over what is about to be taken back": [
        begin(3, -1.0),
        append(0, 7),
        step("sync_from_outside", 0, killed=True),
        append(1, 7, "a/b", again=True),
        step("sync", 1, trouble=("lost reply", 4)),
        append(1, 6, "a/b"),
        step("append_late_fields", 4, name="a/b", places=[31, 37], second=True, flush=True),
        append(4, 3, flush=True),
        meanwhile(2, 1, 7, "late"),
    ],
    "a merge with new points is taken back": [
        begin(5),
        append(0, 5, flush=True),
        append(0, 2, flush=True),
        append(0, 5),
        append(0, 1, flush=True),
        append(0, 3),
        sync(0),
        append(0, 4, flush=True),
        step("compact", 0, name="a"),
        meanwhile(0, 1, 2, "late"),
    ],
    "another machine has merged what a conflict is about": [
        begin(2, -1.0),
        append(0, 23),
        step("lose_the_disk", 0, killed=False),
        append(0, 1, again=True, flush=True),
        step("copy_the_folder", 0),
        append(0, 7, flush=True),
        append(1, 7, flush=True),
        late(1, 37),
        step("close_and_open", 1),
    ],
}


@pytest.mark.parametrize("found", FOUND)
def test_what_once_went_wrong(found: str) -> None:
    told = rivals.live(FOUND[found])
    assert not told, told


@pytest.mark.parametrize("number", range(20))
def test_what_a_machine_was_told_is_there(number: int) -> None:
    told = rivals.live(rivals.draw_life(number))
    assert not told, told
