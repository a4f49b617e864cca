"""The mutants of the library can be made: each is another program, and none of the rules finds nothing."""

from __future__ import annotations

import ast
from collections import Counter

import mutations
from support import ROOT


def test_every_rule_and_every_swap_makes_mutants() -> None:
    made = [*mutations.by_rule(ROOT), *mutations.by_hand(ROOT)]
    count = Counter(mutant.kind for mutant in made)
    assert set(count) == {"fsync", "rename", "lock", "checksum", "counter", "copy", "swap"}
    assert count["swap"] == len(mutations.SWAPS)
    assert len({mutant.source for mutant in made}) == len(made) > 100
    for mutant in made:
        ast.parse(mutant.source)
        assert mutant.source != (ROOT / mutant.file).read_text(encoding="utf-8")


def test_no_rule_is_dead() -> None:
    for kind, files, find in mutations.RULES:
        found = [
            change
            for file in files
            for node in ast.walk(ast.parse((ROOT / mutations.LIBRARY / file).read_text(encoding="utf-8")))
            for change in find(node)
        ]
        assert found, (kind, files)


def test_the_mutants_that_are_the_same_program_are_still_made() -> None:
    made = {(mutant.file, mutant.said) for mutant in mutations.by_rule(ROOT)}
    assert made >= mutations.EQUIVALENT.keys()
    assert all(mutations.EQUIVALENT.values())
