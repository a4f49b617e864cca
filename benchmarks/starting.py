"""What a script pays before its first point: `import dreamlake`, and the way to the first append."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.harness import Row, Settings, interleave
from benchmarks.lakes import child_environment

# Each script says when it is there and ends at once, so that nobody's exit (the floor's is the cheapest) is measured.
READY = "import os; os.write(1, b'.'); os._exit(0)"
BARE = f"pass; {READY}"
IMPORT = f"import dreamlake; {READY}"
FROM_IMPORT = f"from dreamlake import Session; {READY}"
APPEND = (
    "import sys; from dreamlake import Session; "
    "Session('run', 'bench', local_path=sys.argv[1]).track('train/loss').append(value=0.5, step=1, epoch=0); "
    f"{READY}"
)
MINIMUM_ROUNDS = 15


def import_time(settings: Settings) -> list[Row]:
    """From the start of the process to the line after, less the same of an interpreter that does nothing."""
    rounds = max(MINIMUM_ROUNDS, settings.rounds)
    sides = [_script(BARE), _script(IMPORT), _script(FROM_IMPORT), _script(APPEND)]
    bare, imported, named, appended = interleave(sides, settings, rounds=rounds)
    note = f"over {median(bare) * 1e3:.1f} ms of bare `python -c pass`; {rounds} fresh interpreters each, warm bytecode"
    return [
        Row("import dreamlake, over bare Python", _over(imported, bare), target=20e-3, judged="ours", note=note),
        Row("  from dreamlake import Session", _over(named, bare), target=20e-3, judged="ours", counts=False),
        Row("first append returned, over bare Python", _over(appended, bare), target=40e-3, judged="ours"),
    ]


def _over(figures: tuple[float, ...], bare: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(figure - base for figure, base in zip(figures, bare, strict=True))


def _script(code: str) -> Callable[[Path], float]:
    """A side that returns the seconds from starting an interpreter to its first byte of output."""
    environment = child_environment()

    def side(folder: Path) -> float:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, env=environment, cwd=folder
        ) as process:
            assert process.stdout is not None
            ready = process.stdout.read(1)
            seconds = time.perf_counter() - start
        if ready != b".":
            raise RuntimeError(f"`python -c {code!r}` failed")
        return seconds

    return side
