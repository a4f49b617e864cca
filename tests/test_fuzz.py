"""Files that fuzzing found worth keeping, read again; and a little fuzzing, the same each time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import fuzzing
import fuzzreaders
import pytest
from fuzzreaders import READERS

from dreamlake.format import hot, pages
from dreamlake.format.about import decode

#: Inputs of each reader: some two seconds' worth. ``python -m campaigns fuzz`` goes on where this ends.
INPUTS = {"hot": 4000, "segment": 500, "about": 100, "logs": 100, "state": 100}


@pytest.fixture(autouse=True)
def less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_DECODED", pages.MAX_DECODED)  # put back afterwards
    fuzzreaders.limit_memory()


@pytest.mark.parametrize("name", READERS)
def test_what_was_kept_is_read_right_or_refused(name: str, tmp_path: Path) -> None:
    reader = READERS[name](tmp_path)
    run = fuzzing.Run(reader)
    for data in fuzzing.seeds(reader):
        run.one(data)
    assert run.findings == {}
    assert run.counts["values"] >= 2  # sound files are among them


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_right_or_refused(name: str, tmp_path: Path) -> None:
    run = fuzzing.Run(READERS[name](tmp_path))
    assert fuzzing.mutate_blindly(run.reader, 1, math.inf, run, INPUTS[name]) == INPUTS[name]
    assert run.findings == {}
    assert min(run.counts["values"], run.counts["damage"]) >= INPUTS[name] // 50


@pytest.mark.parametrize("bug", ["a newline within a value is not seen", "what is damaged is left out"])
def test_a_planted_bug_is_found(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if bug == "a newline within a value is not seen":
        monkeypatch.setattr(hot, "_is_one_a_line", lambda whole, brackets, count: True)
    else:
        real = hot._read_each

        def read_each(whole: bytes, known: Any) -> hot.HotLines:
            lines = real(whole, known)
            lines.damaged.clear()
            return lines

        monkeypatch.setattr(hot, "_read_each", read_each)
    run = fuzzing.Run(READERS["hot"](tmp_path))
    fuzzing.mutate_blindly(run.reader, 1, math.inf, run, INPUTS["hot"])
    assert run.findings


def test_a_mutator_of_json_makes_what_no_writer_writes() -> None:
    """Or the readers of small files would be fuzzed with sound ones."""
    import random

    rnd = random.Random(1)
    refused = 0
    for _ in range(200):
        made = fuzzreaders.mutate_json(b'{"a": {"b": [1, "x"]}, "c": null}', rnd)
        try:
            decode(made)
        except ValueError:
            refused += 1
    assert 10 < refused < 190
