"""The judge of what processes told: what it lets pass, and what it must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from promises import NAME, WORKSPACE, Promises

from dreamlake import Lake, Session

TRACK = "a"


def told(promises: Promises, *ops: tuple[str, dict[str, Any]], ack: str = "") -> None:
    lines = [{"op": kind, "w": "x", "track": TRACK, "fields": fields} for kind, fields in ops]
    lines += [{"ack": ack, "w": "x", "track": ""}] if ack else []
    promises.hear([json.dumps(line).encode() + b"\n" for line in lines])


def lake(folder: Path, *points: dict[str, Any]) -> Lake:
    with Session(NAME, WORKSPACE, folder) as session:
        for point in points:
            session.track(TRACK).append(**point)
    return Lake(folder)


POINT = ("point", {"id": 0, "_ts": 1.0})


def test_a_value_that_was_replaced_here_may_still_be_on_the_replica(tmp_path: Path) -> None:
    promises = Promises()
    told(promises, POINT, ack="sync")
    told(promises, *(("late", {"_ts": 1.0, "x": value}) for value in (1, 2, 3)))
    here = lake(tmp_path / "here", {"id": 0, "_ts": 1.0}, {"x": 2, "_ts": 1.0})
    promises.settle(here)
    promises.check(here, "here")
    for value in (1, 2):
        promises.check(lake(tmp_path / str(value), {"id": 0, "_ts": 1.0}, {"x": value, "_ts": 1.0}), "there")
    with pytest.raises(AssertionError, match="x is 3, not of"):
        promises.check(lake(tmp_path / "3", {"id": 0, "_ts": 1.0}, {"x": 3, "_ts": 1.0}), "there")
    with pytest.raises(AssertionError, match="x is 1, not of"):
        promises.check(lake(tmp_path / "1", {"id": 0, "_ts": 1.0}, {"x": 1, "_ts": 1.0}), "here")


def test_what_was_acknowledged_and_is_not_there_is_lost(tmp_path: Path) -> None:
    promises = Promises()
    told(promises, POINT, ("point", {"id": 1, "_ts": 2.0}), ack="flush")
    with pytest.raises(AssertionError, match="lost 1"):
        promises.check(lake(tmp_path, {"id": 0, "_ts": 1.0}), "here")


def test_what_was_looked_for_and_not_there_must_not_come(tmp_path: Path) -> None:
    promises = Promises()
    told(promises, POINT)
    promises.settle(lake(tmp_path / "empty", {"id": 9, "_ts": 9.0}))
    with pytest.raises(AssertionError, match="came back"):
        promises.check(lake(tmp_path / "later", {"id": 0, "_ts": 1.0}), "here")
