"""A virtual environment a library, made once below a cache folder, so that no library's needs get in another's way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.peers.catalogue import Peer

ROOT = Path(__file__).resolve().parents[2]
READY = "ready.json"
"""In a finished environment: what the table must say of it."""


class NotInstalledError(Exception):
    """pip refused; the message is the last line that it said."""


def default_folder() -> Path:
    """The user's cache folder for this command."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dreamlake-peers"


def interpreter(environment: Path) -> Path:
    """The Python of an environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def prepare(peer: Peer, folder: Path) -> tuple[Path, str]:
    """The environment of a peer, made unless it is there, and the version that is installed in it.

    The tree itself is installed anew each time, as a copy: nothing that is edited meanwhile gets into a run.
    """
    key = hashlib.sha256(json.dumps([sys.version, *peer.requirements]).encode()).hexdigest()[:8]
    environment = folder / f"{peer.name}-{key}"
    ready = environment / READY
    if ready.exists() and peer.requirements:
        return environment, json.loads(ready.read_text())["version"]
    if not ready.exists():
        shutil.rmtree(environment, ignore_errors=True)
        venv.create(environment, with_pip=True)
    if peer.requirements:
        _pip(environment, *peer.requirements)
    else:
        _pip(environment, *(["--force-reinstall", "--no-deps"] if ready.exists() else []), str(ROOT))
    code = f"from importlib.metadata import version; print(version({peer.distribution!r}))"
    found = subprocess.run([interpreter(environment), "-c", code], capture_output=True, text=True, check=True)
    ready.write_text(json.dumps({"version": found.stdout.strip(), "requirements": peer.requirements}))
    return environment, found.stdout.strip()


def _pip(environment: Path, *arguments: str) -> None:
    command = [interpreter(environment), "-m", "pip", "install", "--quiet", *arguments]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=environment)
    if run.returncode:
        said = [line for line in run.stderr.splitlines() if line.strip()]
        raise NotInstalledError(said[-1] if said else f"pip ended with {run.returncode}")
