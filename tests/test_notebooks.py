"""The notebooks: each runs from top to bottom in a kernel of its own, and is kept with what its cells gave."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from support import ROOT, run_python

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

RUN = """
    import sys
    import nbformat
    from nbclient import NotebookClient
    notebook = nbformat.read(sys.argv[1], 4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": sys.argv[2]}}).execute()
    nbformat.write(notebook, sys.argv[3])
"""


def outputs(path: Path) -> list[list[str]]:
    """The kinds of output of each cell of code; what it prints counts once, in however many pieces that came."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = []
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        kinds: list[str] = []
        for output in cell["outputs"]:
            if output["output_type"] != "stream":
                kinds += output.get("data", ["error"])
            elif kinds[-1:] != [output["name"]]:
                kinds.append(output["name"])
        found.append(kinds)
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_gives_what_it_shows(path: Path, tmp_path: Path) -> None:
    # Warnings of Jupyter itself are not ours; an error in a cell raises.
    code = "import warnings\nwarnings.simplefilter('ignore')\n" + "\n".join(line[4:] for line in RUN.splitlines())
    done = tmp_path / "done.ipynb"
    search = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    run_python(code, path, ROOT / "notebooks", done, timeout=300, PATH=search, TMPDIR=str(tmp_path))
    assert outputs(done) == outputs(path)
    assert sum(map(len, outputs(path))) >= 8


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["quickstart", "robot", "sweep"]
