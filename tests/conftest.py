"""What every test gets: a folder for a lake, a check for leaks, and the settings of the property tests."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec.asyn
import pytest
import support
from hypothesis import HealthCheck, Phase, settings
from s3.proxy import Proxy
from s3.server import BUCKET, S3Server

from dreamlake.cli import main
from dreamlake.engine import process

# A shared machine makes times meaningless, so no deadline. CI draws the same examples every time.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("thorough", settings.get_profile("dev"), max_examples=2000)
# Whether a mutant is found is all that matters, not the least example that finds it.
settings.register_profile("mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture
def lake_dir(tmp_path: Path) -> Path:
    """An empty folder to hold a lake."""
    folder = tmp_path / "lake"
    folder.mkdir()
    return folder


@pytest.fixture
def memory_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder in memory, where there is one, for a test that changes files thousands of times: see `MEMORY`."""
    folder = Path(tempfile.mkdtemp(prefix="dreamlake-test-", dir=support.MEMORY))
    failed = request.session.testsfailed
    yield folder
    if request.session.testsfailed > failed:  # to be looked at, though not in memory
        shutil.move(folder, tmp_path_factory.mktemp(folder.name))
    else:
        shutil.rmtree(folder)


@pytest.fixture
def temporary_in_memory(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that keep nothing have their temporary folders there too."""
    monkeypatch.setattr(tempfile, "tempdir", str(memory_path))


@pytest.fixture(scope="session", autouse=True)
def event_loop_of_fsspec() -> None:
    """It lives for good, so it begins before any test is looked at for leaks, also where one asks for a server late."""
    fsspec.asyn.get_loop()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; one that does not start fails the tests that need it."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def s3_proxy(s3_server: S3Server) -> Iterator[Proxy]:
    """A proxy before the server, for this test alone."""
    proxy = Proxy(s3_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def s3_url() -> str:
    """The URL of a prefix that nobody has used."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "file", "s3"])
def elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server, s3_url: str
) -> tuple[str, dict[str, Any] | None]:
    """URL and storage options of a place for a replica that nobody has used, on several filesystems."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}", None
    if request.param == "file":
        return f"file://{tmp_path}/elsewhere", None
    return s3_url, s3_server.options()


@pytest.fixture
def run_python() -> Callable[..., Any]:
    """``support.run_python``: a snippet in a fresh interpreter, warnings as errors."""
    return support.run_python


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a test did to the library's logger: the next one may look at its records."""
    log = logging.getLogger("dreamlake")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture
def quiet() -> None:
    """Let the library log nothing in this test."""
    logging.getLogger("dreamlake").setLevel(logging.CRITICAL)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line and gives its status, what it printed, and what it complained of."""

    def run(*argv: object) -> tuple[int, str, str]:
        try:
            status = main([str(word) for word in argv])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread running or a file, pipe or socket open."""
    threads = set(threading.enumerate())
    files = _open_files()
    yield
    deadline = time.monotonic() + 30  # the loop that closes connections may have to wait for its turn
    while leaked := _leaks(threads, files):
        gc.collect()  # what only a reference cycle holds is no leak
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + ", ".join(leaked))
        time.sleep(0.02)


def _leaks(threads: set[threading.Thread], files: dict[str, str]) -> list[str]:
    # "asyncio_n": the name resolvers of fsspec's event loop, which it keeps for good, as it does the loop.
    # _DummyThread: what Python calls a thread of a native runtime that once ran Python, and keeps for good.
    # The helpers that readers share end a second after they had something to do last.
    new = [thread for thread in threading.enumerate() if thread not in threads | process._helpers.idle()]
    new = [thread for thread in new if not isinstance(thread, threading._DummyThread)]
    alive = [f"thread {thread.name}" for thread in new if not thread.name.startswith("asyncio_")]
    opened = [f"descriptor {fd} of {path}" for fd, path in _open_files().items() if files.get(fd) != path]
    return alive + opened


def _open_files() -> dict[str, str]:
    """The open descriptors and what they are; event queues of native runtimes (Polars, Arrow) live as long as these."""
    found = {}
    for fd in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the descriptor of the listing itself
        if not path.startswith(("anon_inode:", "/dev/", "/proc/", "/sys/")):
            found[fd] = path
    return found
