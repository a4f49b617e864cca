"""Forks at random moments of the calls of another thread: the child has to make the same call, and end.

``python forkwork.py ROOT SECONDS SEED MODE [PLANTED]`` prints a JSON object: trials, and what hung or failed, by call.
Each trial is a process of its own, forked from this one, which has used nothing of Arrow; with ``MODE`` "bare" it has
not imported Arrow either, nor most of dreamlake, so that calls begin with their imports.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import random
import shutil
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable

import dreamlake
from dreamlake import Lake, Session

#: Seconds within which a fork comes, of the beginning of the other thread's call.
SPAN = {"imported": 0.012, "bare": 0.25}
#: Seconds after which a child hangs; alone it takes a tenth of one.
HANGS = 20.0
#: Of these a child needs what they had no part in.
_LEFT_OUT = ("integrations", "cli", "demo", "sftp", "pictures")


def _append(root: str, session: Session) -> None:
    for number in range(50):
        session.track(f"{os.getpid()}/{number}").append(v=number, x=[1, 2], q=b"1")
    session.flush()


def _flush(root: str, session: Session) -> None:
    track = session.track("t")
    for number in range(300):
        track.append(v=float(number), n=number)
    track.flush()


def _open(root: str, session: Session) -> None:
    with Session("other", "w", root, segment_points=100) as other:
        other.track("t").append(v=1)


def _set(root: str, session: Session) -> None:
    session.parameters().set(lr=1)
    session.parameters().get()


#: Calls that a child may make after the fork, each by both threads.
CALLS: dict[str, Callable[[str, Session], object]] = {
    "append": _append,
    "flush": _flush,
    "open": _open,
    "parameters": _set,
    "append_batch": lambda root, session: session.track("t").append_batch([{"v": 1.0, "n": 2, "name": "x"}] * 300),
    "read": lambda root, session: session.track("t").read(50, 200),
    "read_by_time": lambda root, session: session.track("t").read_by_time(0, None, 200),
    "to_arrow": lambda root, session: session.track("t").to_arrow(),
    "to_pandas": lambda root, session: session.track("t").to_pandas(),
    "stats": lambda root, session: session.track("t").stats(),
    "log": lambda root, session: session.log("hello", metadata={"a": 1}),
    "lake": lambda root, session: Lake(root).session("s", "w").track("t").read(),
}


def _wait_for_nothing() -> None:
    """A fork waits for no calls of other threads."""
    from dreamlake.engine import forkgate

    forkgate._is_waited_for = lambda me, waited: False  # type: ignore[assignment]


def _inherit_what_closes() -> None:
    """A child waits for the parent's thread that is closing a session to be done with it."""
    import dreamlake.engine.lifecycle as lifecycle

    real = lifecycle._in_child

    def in_child() -> None:
        writers = dict(lifecycle._process.writers)
        real()
        lifecycle._process.writers.update(writers)

    lifecycle._in_child = in_child  # registered with the first session


PLANTED: dict[str, Callable[[], None]] = {
    "a fork waits for no calls": _wait_for_nothing,
    "a child waits for the parent to close": _inherit_what_closes,
}


def trial(root: str, call: str, delay: float, used: bool) -> str:
    """One fork, in a process of its own; "" when all went well, else what did not."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(_forks(root, call, delay, used))
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return ("", "the child hung", "the child or the other thread failed")[status] if status in range(3) else "failed"


def _forks(root: str, call: str, delay: float, used: bool) -> int:
    session = Session("s", "w", root, segment_points=100, flush_interval=0.05).open()
    if used:
        session.track("t").append(v=1.0, n=1, name="x")
    work, ended = CALLS[call], []
    other = threading.Thread(target=lambda: ended.append(work(root, session)), daemon=True)
    other.start()
    time.sleep(delay)
    child = os.fork()
    if child == 0:
        work(root, session)
        os._exit(0)
    deadline = time.monotonic() + HANGS
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            other.join(HANGS)
            return 0 if status == 0 and ended else 2
        time.sleep(0.002)
    os.kill(child, 9)
    return 1


def main(root: str, seconds: float, seed: int, mode: str, planted: str = "") -> None:
    """Make trials for so many seconds, and print what became of them."""
    drawn = random.Random(seed)
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    # By another process: nothing of Arrow is to be used in this one.
    pid = os.fork()
    if pid == 0:
        with Session("s", "w", f"{root}/base", segment_points=100) as session:
            for number in range(350):
                session.track("t").append(v=float(number), n=number, name=str(number % 7))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    if mode == "imported":
        for name in ("pyarrow.parquet", "pyarrow.compute", "pandas"):
            importlib.import_module(name)
        for module in pkgutil.walk_packages(dreamlake.__path__, "dreamlake."):
            if not any(part in module.name for part in _LEFT_OUT):
                importlib.import_module(module.name)
    if planted:
        PLANTED[planted]()
    wrong: Counter[str] = Counter()
    end, trials = time.monotonic() + seconds, 0
    while time.monotonic() < end and not (planted and wrong):
        trials += 1
        call, delay, used = drawn.choice(sorted(CALLS)), drawn.random() ** 2 * SPAN[mode], drawn.random() < 0.7
        here = f"{root}/{trials}"
        shutil.copytree(f"{root}/base", here)
        if said := trial(here, call, delay, used):
            wrong[f"{call}: {said}"] += 1
        shutil.rmtree(here, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    print(json.dumps({"trials": trials, "wrong": wrong}))


if __name__ == "__main__":
    place, lasts, drawn_from, how, *rest = sys.argv[1:]
    main(place, float(lasts), int(drawn_from), how, *rest)
