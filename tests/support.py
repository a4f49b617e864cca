"""What several test modules need: snippets in fresh interpreters, and calls that fail on demand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: A folder in memory, where there is one with room: thousands of fsyncs of a disk take ever so long, and prove nothing
#: where the death, the fault or the cut is staged.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 1 << 30 else None


def one_in(count: int) -> int:
    """The stride of a sweep of which an ordinary run tries one step in `count`; the profile `thorough` tries all."""
    return 1 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else count


def shown(value: object) -> str:
    """The id of a test for a value: the same in every process, so without addresses."""
    return re.sub(r" (object )?at 0x[0-9a-fA-F]+", "", repr(value))[:40]


def python_environment(**extra: str) -> dict[str, str]:
    """The environment of a fresh interpreter that imports this tree, and nothing of the test run's own settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "HYPOTHESIS_", "AWS_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", **extra}


def start_python(code: str, *args: object, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
    """Start a snippet in a fresh interpreter with warnings as errors; ``args`` are its ``sys.argv[1:]``.

    Use it as a context manager, so that its pipes are closed.
    """
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=python_environment(**env),
    )


def run_python(
    code: str, *args: object, cwd: Path | None = None, timeout: float = 120, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a snippet in a fresh interpreter with warnings as errors, and give what it printed.

    With ``check`` an exit status other than 0 fails the test and shows what the snippet said.
    """
    with start_python(code, *args, cwd=cwd, **env) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"the snippet still ran after {timeout} s\n{out}\n{err}") from None
    if check:
        assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def in_child(work: Callable[[], None]) -> int:
    """The exit status of a forked child that does `work`; killed after a minute."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, 9)
        time.sleep(0.02)


class Faulty:
    """A module whose named functions can be made to fail: put it in the place of ``storage.local.os_``.

    ``Faulty(os).fail("fsync", OSError(errno.EIO, "…"), when=2)`` fails the second fsync from then on, and ``calls``
    names every call that went through, failed ones included.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._plans: dict[str, tuple[int, BaseException | Callable[..., Any], bool]] = {}
        self.calls: list[str] = []

    def fail(
        self, name: str, instead: BaseException | Callable[..., Any], when: int = 1, always: bool = False
    ) -> Faulty:
        """Let the ``when``-th call of ``name`` (with ``always``, the later ones too) raise or call ``instead``."""
        self._plans[name] = (self.calls.count(name) + when, instead, always)
        return self

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._module, name)
        if not callable(real) or isinstance(real, type):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            when, instead, always = self._plans.get(name, (-1, real, False))
            count = self.calls.count(name)
            if count == when or (always and count > when > 0):
                if isinstance(instead, BaseException):
                    raise instead
                return instead(*args, **kwargs)
            return real(*args, **kwargs)

        return call
