"""The house: imports run downward only, reading needs nothing of the writing side, and heavy libraries come late."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import ROOT, run_python

PACKAGE = ROOT / "dreamlake"

# The floors, lowest first. A module may import from its own floor and from those below.
FLOORS = [
    {"errors", "clock", "notices", "types"},
    {"storage"},
    {"format"},
    {"engine"},
    {"arguments", "parameters", "logs", "files", "analysis"},
    {"session", "decorator", "tracks", "track", "view", "lake", "runs", "pictures"},
    {"", "cli", "integrations", "demo"},  # "" is the package itself: what it gives out, it imports when asked for
]

# What appends, flushes and rolls, and nothing that only reads may need.
WRITING = {
    *(f"dreamlake.engine.{room}" for room in ("pending", "writer", "ondisk", "sorting", "sessionlock", "lifecycle")),
    "dreamlake.engine.compaction",
    "dreamlake.engine.compactor",
    "dreamlake.engine.outside",
    "dreamlake.engine.replica",
    "dreamlake.decorator",
    "dreamlake.session",
    "dreamlake.track",
}
READING = ["dreamlake.engine.reader", "dreamlake.engine.scan", "dreamlake.view", "dreamlake.lake"]

HEAVY = ["pyarrow", "polars", "msgspec", "fsspec", "s3fs", "numpy", "pandas"]
#: Modules of Python that take milliseconds.
SLOW = ["asyncio", "dataclasses", "inspect", "logging", "pathlib"]


@dataclass(frozen=True)
class Import:
    """One import statement of the package, of the package."""

    source: str
    target: str
    line: int
    at_import: bool  # not inside a function, and not for types only
    for_types_only: bool


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(name: str) -> Iterator[Import]:
    """The imports of one module from the package, wherever in it they stand."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    typing_only = {
        id(below)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for below in ast.walk(statement)
    }
    in_functions = {
        id(below)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for below in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: a relative import"
            base = node.module or ""
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]
        else:
            continue
        for target in sorted(set(targets)):
            if target.partition(".")[0] == "dreamlake":
                at_import = id(node) not in typing_only | in_functions
                yield Import(name, target, node.lineno, at_import, id(node) in typing_only)


def floor(module: str) -> int:
    room = module.split(".")[1] if "." in module else ""
    for level, rooms in enumerate(FLOORS):
        if room in rooms:
            return level
    raise AssertionError(f"{module} stands on no floor: name it in FLOORS")


def test_the_walk_over_imports_finds_some() -> None:
    """Should the walk break, the tests below would hold of nothing."""
    found = [edge for name in MODULES for edge in imports_of(name)]
    assert any(edge.target == "dreamlake.errors" for edge in found)
    assert any(edge.target == "dreamlake.storage.store" for edge in imports_of("dreamlake.storage.localstore"))
    assert any(edge.for_types_only for edge in found)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downward_only(name: str) -> None:
    upward = [edge for edge in imports_of(name) if floor(edge.target) > floor(name)]
    assert not upward, [f"{name}:{edge.line} imports {edge.target}, which stands above it" for edge in upward]


def test_no_two_modules_need_each_other_to_be_imported() -> None:
    needs = {name: {edge.target for edge in imports_of(name) if edge.at_import} - {name} for name in MODULES}
    while True:
        done = {name for name, targets in needs.items() if not targets & needs.keys()}
        if not done:
            break
        needs = {name: targets for name, targets in needs.items() if name not in done}
    assert not needs, f"in a circle, or above one: {sorted(needs)}"


@pytest.mark.parametrize("name", [name for name in READING if name in MODULES])
def test_reading_needs_nothing_of_the_writing_side(name: str) -> None:
    reached, left = set(), [name]
    while left:
        module = left.pop()
        if module not in reached:
            reached.add(module)
            left += [edge.target for edge in imports_of(module) if not edge.for_types_only]
    assert not reached & WRITING


# What only these modules need, each from an extra that the tests do without: see docs/contributing.md.
FRAMEWORKS = {f"dreamlake.integrations.{name}": name for name in ("keras", "lightning", "transformers")}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_module_can_be_imported_first() -> None:
    """None depends on what another module of ours has imported before, so none is in a circle.

    Each in a fork of its own, since what they import of others takes long, and is imported before.
    """
    code = """
        import importlib, os, sys, traceback, warnings

        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)  # threads of others are no concern of an import
        for name in ("fsspec", "msgspec", "polars", "pyarrow.parquet", "s3fs"):
            importlib.import_module(name)
        for name in sys.argv[1:]:
            if os.fork() == 0:
                try:
                    assert not [each for each in sys.modules if each.startswith("dreamlake")]
                    importlib.import_module(name)
                except BaseException:
                    print(name, traceback.format_exc().splitlines()[-1], flush=True)
                os._exit(0)
            assert os.wait()[1] == 0, name
    """
    missing = {name: extra for name, extra in FRAMEWORKS.items() if find_spec(extra) is None}
    said = run_python(code, *MODULES).stdout.splitlines()
    assert [line.partition(" ")[0] for line in said] == [name for name in MODULES if name in missing]
    assert all(f'pip install "dreamlake[{missing[line.partition(" ")[0]]}]"' in line for line in said), said


def test_import_is_light() -> None:
    code = f"""
        import sys
        import dreamlake
        from dreamlake import errors
        print([name for name in {[*HEAVY, *SLOW]} if name in sys.modules])
    """
    assert run_python(code).stdout == "[]\n"


needs_sessions = pytest.mark.skipif("dreamlake.session" not in MODULES, reason="no sessions yet")

WRITE = """
    import sys
    from dreamlake import Session
    session = Session(name="run", workspace="w", local_path=sys.argv[1], segment_points=50, flush_interval=3600)
    track = session.track("loss")
"""


@needs_sessions
def test_a_first_append_imports_nothing_heavy_on_its_own_thread(lake_dir: Path) -> None:
    """What the writer's thread imports meanwhile does not make the training loop wait for it."""
    code = f"""
    import sys, threading

    class Recorder:
        asked = set()

        def find_spec(self, name, path=None, target=None):
            if threading.current_thread() is threading.main_thread():
                self.asked.add(name.partition(".")[0])

    sys.meta_path.insert(0, Recorder())
    {WRITE}
    track.append(value=0.5, epoch=1)
    assert "dreamlake" in Recorder.asked
    print(sorted(Recorder.asked & {{*{[*HEAVY, *SLOW]}}}))
    session.close()
    """
    assert run_python(code, lake_dir).stdout == "[]\n"


@needs_sessions
def test_writing_never_imports_polars_or_pandas(lake_dir: Path) -> None:
    """Append, flush, roll, late fields, a batch of dicts, log, parameters and close."""
    code = f"""{WRITE}
    for step in range(120):
        track.append(value=0.5, step=step, tag="a", ok=True, q=[1.0, 2.0], d={{"a": 1}}, _ts=float(step))
    track.flush()
    track.append(late=1, _ts=3.0)
    track.append_batch([{{"value": 0.5}}] * 60)
    session.parameters().set(lr=0.1)
    session.log("hello")
    session.close()
    print([name for name in ("polars", "pandas", "s3fs") if name in sys.modules])
    """
    assert run_python(code, lake_dir).stdout == "[]\n"
    assert list(lake_dir.rglob("*.parquet")), "nothing rolled, so the roll was not tried"


@needs_sessions
def test_reading_imports_nothing_of_the_writing_side(lake_dir: Path) -> None:
    run_python(f"{WRITE}\n    for step in range(120): track.append(step=step)\n    session.close()", lake_dir)
    code = f"""
        import sys
        from dreamlake import Lake
        track = Lake(sys.argv[1]).session("run", "w").track("loss")
        assert len(track.to_polars()) == len(track.read(limit=None)["data"]) == 120
        print([name for name in {sorted(WRITING)} if name in sys.modules])
    """
    assert run_python(code, lake_dir).stdout == "[]\n"
