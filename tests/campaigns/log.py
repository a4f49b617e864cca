"""What a campaign prints, and keeps as the log of its run."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOGS = Path(__file__).resolve().parent / "logs"


class Log:
    """Lines that are printed at once, and stay.

    Parameters
    ----------
    name
        The campaign.
    command
        What was typed after ``python -m campaigns``.
    """

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.lines: list[str] = []
        self._begun = time.monotonic()
        self.say(f"$ python -m campaigns {' '.join(command)}")
        self.say(time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()) + f", commit {_commit()}")
        of = ", ".join(f"{package} {version(package)}" for package in ("pyarrow", "polars", "fsspec", "s3fs"))
        self.say(f"Python {platform.python_version()}, {of}, {platform.system()}")

    def say(self, line: str) -> None:
        """Print a line and keep it."""
        print(line, flush=True)
        self.lines.append(line)

    def note(self, line: str) -> None:
        """Print a line of progress, which is not kept."""
        print(f"  {self.elapsed():6.0f} s  {line}", file=sys.stderr, flush=True)

    def planted(self, bug: str, found: str) -> bool:
        """Tell whether a planted bug was found, and by what (one line; empty: it was not)."""
        self.say(f"planted: {bug}: {'found: ' + found.splitlines()[0][:160] if found else 'NOT FOUND'}")
        return bool(found)

    def elapsed(self) -> float:
        """Seconds since the campaign began."""
        return time.monotonic() - self._begun

    def save(self) -> Path:
        """Write what was said to the log of this campaign, in the place of the run before."""
        LOGS.mkdir(exist_ok=True)
        path = LOGS / f"{self.name}.txt"
        path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        return path


def _commit() -> str:
    """The commit of the tree, with a + where the library differs from it."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + "+" * bool(_git("status", "--porcelain", "--", "dreamlake"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
