"""However a run ends, its points are written, and session.json says how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import crashlib
import pytest
from support import run_python, start_python

from dreamlake import Lake, Session

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

BEGIN = """
import os, signal, sys, threading, time
import dreamlake
from dreamlake import Session
root = sys.argv[1]
def opened(**options):
    return Session("s", "w", root, flush_interval=3600.0, **options)
def append(session, count=3):
    for i in range(count):
        session.track("t").append(i=i)
def ready():
    print("ready", flush=True)
"""


def outcome(root: Path) -> tuple[str, int]:
    """The status in session.json and the number of points."""
    status = json.loads((root / "w" / "s" / "session.json").read_text())["status"]
    try:
        return status, len(Lake(root).session("s", "w").track("t"))
    except KeyError:
        return status, 0


def run(root: Path, code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, however it ends."""
    return run_python(BEGIN + code, root, check=False, **options)


ENDINGS = {
    # A script, its exit status (None: Python itself gives one or another), the status of the run.
    "with": ("with opened() as s: append(s)", 0, "finished"),
    "with, exception": ("with opened() as s: append(s); 1 / 0", 1, "failed"),
    "with, sys.exit()": ("with opened() as s: append(s); sys.exit()", 0, "finished"),
    "with, sys.exit(0)": ("with opened() as s: append(s); sys.exit(0)", 0, "finished"),
    "with, sys.exit(3)": ("with opened() as s: append(s); sys.exit(3)", 3, "failed"),
    "with, sys.exit(text)": ("with opened() as s: append(s); sys.exit('no')", 1, "failed"),
    "with, raise SystemExit": ("with opened() as s: append(s); raise SystemExit", 0, "finished"),
    "with, raise SystemExit(3)": ("with opened() as s: append(s); raise SystemExit(3)", 3, "failed"),
    "with, KeyboardInterrupt": ("with opened() as s: append(s); raise KeyboardInterrupt", -2, "interrupted"),
    "with, SIGINT": ("with opened() as s: append(s); os.kill(os.getpid(), 2); time.sleep(60)", -2, "interrupted"),
    "with, SIGTERM": ("with opened() as s: append(s); os.kill(os.getpid(), 15); time.sleep(60)", 143, "interrupted"),
    "with, handled": ("try:\n with opened() as s: append(s); 1 / 0\nexcept ZeroDivisionError: pass", 0, "failed"),
    "no close": ("s = opened().open(); append(s)", 0, "finished"),
    "no close, never opened": ("s = opened(); append(s)", 0, "finished"),
    "no close, sys.exit(0)": ("s = opened(); append(s); sys.exit(0)", 0, "finished"),
    "no close, sys.exit(3)": ("s = opened(); append(s); sys.exit(3)", 3, "failed"),
    "no close, raise SystemExit(0)": ("s = opened(); append(s); raise SystemExit(0)", 0, "finished"),
    "no close, raise SystemExit(3)": ("s = opened(); append(s); raise SystemExit(3)", 3, "failed"),
    "no close, exit(3)": ("s = opened(); append(s); exit(3)", 3, "failed"),
    "no close, exception": ("s = opened(); append(s); 1 / 0", 1, "failed"),
    "no close, hooked": ("sys.excepthook = lambda *a: None\ns = opened(); append(s); 1 / 0", 1, "failed"),
    "no close, KeyboardInterrupt": ("s = opened(); append(s); raise KeyboardInterrupt", None, "interrupted"),
    "no close, SIGTERM": ("s = opened(); append(s); os.kill(os.getpid(), 15); time.sleep(60)", 143, "interrupted"),
    "no close, no reference": ("append(opened())", 0, "finished"),
    "in a function": ("def f(): s = opened(); append(s)\nf()", 0, "finished"),
    "exit caught": ("s = opened(); append(s)\ntry: sys.exit(3)\nexcept SystemExit: append(s, 0)", 0, "finished"),
    "exit of a thread": (
        "s = opened(); append(s)\nt = threading.Thread(target=sys.exit, args=(3,)); t.start(); t.join()",
        0,
        "finished",
    ),
    "error of a thread": (
        "threading.excepthook = lambda a: None\ns = opened(); append(s)\n"
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
        0,
        "finished",
    ),
    "in a thread": ("t = threading.Thread(target=lambda: append(opened())); t.start(); t.join()", 0, "finished"),
    "with in a thread": (
        "def f():\n with opened() as s: append(s)\nt = threading.Thread(target=f); t.start(); t.join()",
        0,
        "finished",
    ),
    "in a thread that goes on": (
        "s = opened()\ndef f():\n threading.main_thread().join(); append(s)\nthreading.Thread(target=f).start()\n"
        "s.open()",
        0,
        "finished",
    ),
    "in a daemon thread": (
        "e = threading.Event()\ndef f(): append(opened()); e.set(); time.sleep(600)\n"
        "threading.Thread(target=f, daemon=True).start(); e.wait()",
        0,
        "finished",
    ),
    "at exit": ("import atexit\ns = opened().open()\natexit.register(append, s)", 0, "finished"),
    "two sessions": ("a = opened(); b = opened(); append(a, 2); append(b, 1); a.close()", 0, "finished"),
    "decorator": (
        "@dreamlake.dreamlake_session('s', 'w', local_path=root)\ndef f(session): append(session); 1 / 0\nf()",
        1,
        "failed",
    ),
}


#: An exit hook has no way to see a SystemExit, and `sys.exit` none to see that it was caught.
UNSEEN = {"no close, raise SystemExit(3)", "no close, exit(3)", "exit caught"}


@needs_signals
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.xfail(strict=True)) if name in UNSEEN else name for name in ENDINGS],
)
def test_an_ending(lake_dir: Path, name: str) -> None:
    code, status, said = ENDINGS[name]
    done = run(lake_dir, code)
    assert done.returncode == status or status is None, done.stderr
    assert outcome(lake_dir) == (said, 3)
    assert "Exception ignored" not in done.stderr
    assert "at exit" not in done.stderr


#: What has no text.
ODD = "class Odd(Exception):\n __str__ = None"


def failures(root: Path) -> list[tuple[str, Any]]:
    """The records in the run's log of errors: the message, and what is told of it."""
    errors = Lake(root).session("s", "w").logs("error")
    return list(zip(errors["message"], map(json.loads, errors["metadata"]), strict=True))


@pytest.mark.parametrize("how", ["with opened() as s: append(s); f()", "s = opened(); append(s); f()"])
def test_the_log_says_why_a_run_failed(lake_dir: Path, how: str) -> None:
    done = run(lake_dir, f"def f(): raise ValueError('a b\\udcff')\n{how}")
    assert done.returncode == 1
    ((message, told),) = failures(lake_dir)
    assert message == "the run failed: ValueError: a b\\udcff"
    assert told["exception"] == "ValueError"
    assert "in f" in told["traceback"]
    assert told["traceback"].rstrip().endswith("ValueError: a b\\udcff")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("with opened() as s: append(s); sys.exit(3)", "the program exited with status 3"),
        ("s = opened(); append(s); sys.exit('no data')", "the program exited: no data"),
        (f"{ODD}\nwith opened() as s: append(s); sys.exit(Odd())", "the program exited with a Odd"),
        (f"{ODD}\ns = opened(); append(s); sys.exit(Odd())", "the program exited with a Odd"),
        ("with opened() as s: append(s); raise RuntimeError('x' * 5_000_000)", f"RuntimeError: {'x' * 1986}"),
        (
            f"{ODD}\nwith opened() as s: append(s); raise Odd",
            "Odd: <exception str() failed>",
        ),
    ],
)
def test_the_log_says_how_a_program_ended(lake_dir: Path, how: str, said: str) -> None:
    run(lake_dir, how)
    ((message, told),) = failures(lake_dir)
    assert message.removeprefix("the run failed: ").removeprefix("__main__.") == said
    assert len(told.get("traceback", "")) <= 16_000


@pytest.mark.parametrize(
    "how",
    [
        "with opened() as s: append(s)",
        "with opened() as s: append(s); raise KeyboardInterrupt",
        "with opened() as s: append(s); sys.exit(0)",
        "with opened() as s: append(s)\n1 / 0",
    ],
)
def test_the_log_says_nothing_of_a_run_that_did_not_fail(lake_dir: Path, how: str) -> None:
    run(lake_dir, how)
    assert Lake(lake_dir).session("s", "w").logs().height == 0


def test_a_session_that_wrote_nothing_logs_nothing(lake_dir: Path) -> None:
    run(lake_dir, "with opened() as s: append(s)")
    run(lake_dir, "with opened() as s: len(s.track('t')); 1 / 0")
    assert Lake(lake_dir).session("s", "w").logs().height == 0
    assert outcome(lake_dir) == ("finished", 3)


def test_a_close_that_is_tried_again_says_it_once(lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dreamlake.storage.local as local
    from dreamlake import Session

    session = Session("s", "w", lake_dir, flush_interval=3600.0)
    real = local.append_at
    with suppress(ValueError, OSError), session:
        session.track("t").append(i=1)
        monkeypatch.setattr(local, "append_at", lambda *args: (_ for _ in ()).throw(OSError(28, "no space")))
        raise ValueError("first")
    assert session.is_open
    monkeypatch.setattr(local, "append_at", real)
    with suppress(ValueError), session:
        raise ValueError("second")
    assert [message for message, _ in failures(lake_dir)] == ["the run failed: ValueError: first"]


@pytest.mark.parametrize(("ending", "said"), [("", "failed"), ("raise KeyboardInterrupt", "interrupted")])
def test_a_run_whose_last_points_could_not_be_written_has_not_finished(lake_dir: Path, ending: str, said: str) -> None:
    code = f"""
import errno
import dreamlake.storage.local as local
s = opened().open(); append(s); s.flush()
def full(*args, **kwargs): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), args[0])
local.append_at = full
append(s, 2)
{ending}
"""
    done = run(lake_dir, code)
    assert "2 points are lost with this process" in done.stderr
    assert outcome(lake_dir) == (said, 3)


@needs_signals
@pytest.mark.parametrize("first", ["handler first", "session first"])
@pytest.mark.parametrize("ends", [True, False], ids=["exits", "goes on"])
def test_the_users_handler_of_sigterm_runs_and_wins(lake_dir: Path, first: str, ends: bool) -> None:
    handler = f"""
def handler(signum, frame):
    print("mine", flush=True)
    if {ends}:
        sys.exit(7)
"""
    install = "signal.signal(signal.SIGTERM, handler)\n"
    open_it = "s = opened().open(); append(s, 2)\n"
    both = install + open_it if first == "handler first" else open_it + install
    done = run(
        lake_dir,
        handler + both + "os.kill(os.getpid(), signal.SIGTERM)\nappend(s, 1)\nprint('on', flush=True)\ns.close()\n"
        "assert signal.getsignal(signal.SIGTERM) is handler",
    )
    assert done.returncode == (7 if ends else 0), done.stderr
    assert done.stdout == ("mine\n" if ends else "mine\non\n")
    assert outcome(lake_dir) == (("failed", 2) if ends else ("finished", 3))


@needs_signals
def test_an_ignored_sigterm_stays_ignored(lake_dir: Path) -> None:
    done = run(
        lake_dir,
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwith opened() as s:\n append(s)\n"
        " os.kill(os.getpid(), signal.SIGTERM)\nassert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN",
    )
    assert done.returncode == 0, done.stderr
    assert outcome(lake_dir) == ("finished", 3)


@needs_signals
def test_nothing_is_left_behind_in_the_process(lake_dir: Path) -> None:
    done = run(
        lake_dir,
        "before = sys.exit, signal.getsignal(signal.SIGTERM), threading.active_count()\n"
        "with opened() as s: append(s)\n"
        "assert before == (sys.exit, signal.getsignal(signal.SIGTERM), threading.active_count())",
    )
    assert done.returncode == 0, done.stderr


@needs_signals
def test_sigterm_at_any_moment_of_a_loop(lake_dir: Path) -> None:
    """Twelve times over one session: each flushed point is there, each point once, each in order."""
    code = (
        BEGIN
        + """
start = int(sys.argv[2])
s = Session("s", "w", root, segment_points=50, flush_interval=0.01)
t = s.track("t")
for i in range(start, 1_000_000):
    t.append(i=i, odd=[i]) if i % 5 == 0 else t.append(i=i)
    if i % 37 == 0:
        t.flush()
        print(i, flush=True)
"""
    )
    number = 0
    for turn in range(8):
        with start_python(code, lake_dir, number) as process:
            assert process.stdout is not None
            last = -1
            for _ in range(3 + turn):
                last = int(process.stdout.readline())
            process.terminate()
            out, err = crashlib.rest_of(process)
        assert process.returncode == 143, err
        assert not err
        last = max([last, *map(int, out.split())])
        status, count = outcome(lake_dir)
        assert status == "interrupted"
        rows = Lake(lake_dir).session("s", "w").track("t").read(limit=None)["data"]
        found = [row["data"]["i"] for row in rows]
        assert found[number:] == list(range(found[number], found[number] + count - number))
        assert found[-1] >= last
        number = count


RESUMED = {
    "reads only": "with opened() as s: len(s.track('t')); s.tracks.list(); s.parameters().get()",
    "never closed": "s = opened().open()",
    "fails": "with opened() as s: 1 / 0",
    "must": "with opened(resume='must') as s: s.track('t').read()",
}


@pytest.mark.parametrize("name", list(RESUMED))
@pytest.mark.parametrize("status", ["failed", "finished", "running"])
def test_a_session_that_wrote_nothing_leaves_the_status(lake_dir: Path, name: str, status: str) -> None:
    with Session("s", "w", lake_dir) as session:
        session.track("t").append(i=0)
    path = lake_dir / "w" / "s" / "session.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
    run(lake_dir, RESUMED[name])
    assert outcome(lake_dir) == (status, 1)


def test_a_resumed_run_is_running_until_it_ends(lake_dir: Path) -> None:
    run(lake_dir, "with opened() as s: append(s); 1 / 0")
    assert outcome(lake_dir)[0] == "failed"
    done = run(
        lake_dir,
        "import json\nwith opened() as s:\n append(s, 1); s.flush()\n"
        " print(json.load(open(os.path.join(root, 'w', 's', 'session.json')))['status'])",
    )
    assert done.stdout == "running\n", done.stderr
    assert outcome(lake_dir) == ("finished", 4)


@needs_signals
def test_a_killed_run_says_running(lake_dir: Path) -> None:
    done = run(lake_dir, "s = opened(); append(s); s.flush(); append(s); os.kill(os.getpid(), 9)")
    assert done.returncode == -9
    assert outcome(lake_dir) == ("running", 3)


FORKS = {
    "os._exit": ("os._exit(0)", "finished", 3),
    "sys.exit": ("sys.exit(3)", "finished", 3),
    "exception": ("1 / 0", "finished", 3),
    "killed": ("os.kill(os.getpid(), 9)", "finished", 3),
    "SIGTERM": ("os.kill(os.getpid(), 15); time.sleep(60)", "finished", 3),
    "appends, os._exit": ("append(s, 2); s.flush(); os._exit(0)", "finished", 5),
    "appends, sys.exit": ("append(s, 2); sys.exit(3)", "finished", 5),
    "appends, SIGTERM": ("append(s, 2); os.kill(os.getpid(), 15); time.sleep(60)", "finished", 5),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a fork warns there when threads are running")
@pytest.mark.parametrize("block", ["with", "no close"])
@pytest.mark.parametrize("name", list(FORKS))
def test_a_forked_child_does_not_end_the_run(lake_dir: Path, name: str, block: str) -> None:
    code, status, count = FORKS[name]
    body = f"""
append(s, 2)
pid = os.fork()
if pid == 0:
    sys.stderr.close()
    {code}
os.waitpid(pid, 0)
import json
assert json.load(open(os.path.join(root, 'w', 's', 'session.json')))['status'] == "running"
append(s, 1)
"""
    if block == "with":
        body = "with opened() as s:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    else:
        body = "s = opened().open()\n" + body
    done = run(lake_dir, body)
    assert done.returncode == 0, done.stderr
    assert outcome(lake_dir) == (status, count)


HANGS = """
import dreamlake.storage.local as local
class Hanging:
    def __init__(self):
        self.armed = False
    def __getattr__(self, name):
        real = getattr(os, name)
        if not self.armed or not callable(real) or isinstance(real, type):
            return real
        def hang(*args):
            print("hangs", flush=True)
            threading.Event().wait()
        return hang
local.os_ = disk = Hanging()
s = opened(); append(s); s.flush(); append(s, 1)
disk.armed = True
started = time.monotonic()
import atexit
atexit.register(lambda: print("the hook has returned"))
atexit.unregister(dreamlake.engine.lifecycle._at_exit)
def timed():
    dreamlake.engine.lifecycle._at_exit()
    print("took", time.monotonic() - started, flush=True)
atexit.register(timed)
"""


def test_a_hanging_disk_does_not_hold_up_the_exit(lake_dir: Path) -> None:
    """The deadline is 5 s; a second wait of the same length would show."""
    done = run(lake_dir, HANGS + "os.kill(os.getpid(), 15); time.sleep(60)", timeout=60)
    lines = done.stdout.splitlines()
    assert lines[0] == "hangs", done.stdout + done.stderr
    seconds = next(float(line.split()[1]) for line in lines if line.startswith("took"))
    assert 4.5 < seconds < 9
    assert "TimeoutError" not in done.stderr
    assert outcome(lake_dir) == ("running", 3)


def test_a_hanging_disk_and_close_with_a_timeout(lake_dir: Path) -> None:
    done = run(
        lake_dir,
        HANGS
        + """
try:
    s.close(timeout=0.2)
except TimeoutError as error:
    print("said", flush=True)
print("closing took", time.monotonic() - started, flush=True)
os._exit(0)
""",
    )
    assert "said" in done.stdout, done.stdout + done.stderr
    seconds = next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("closing took"))
    assert seconds < 5


@needs_signals
def test_a_second_sigterm_does_not_cut_the_last_flush_short(lake_dir: Path) -> None:
    """As an impatient scheduler sends it, while the exit hooks are flushing."""
    done = run(
        lake_dir,
        """
import dreamlake.storage.local as local
class Slow:
    def __getattr__(self, name):
        if name == "pwrite":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        return getattr(os, name)
s = opened(); append(s, 1); s.flush(); append(s, 2)
local.os_ = Slow()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
""",
    )
    assert done.returncode == 143, done.stderr
    assert outcome(lake_dir) == ("interrupted", 3)


def test_a_track_that_cannot_be_written_does_not_hide_how_the_run_ended(lake_dir: Path) -> None:
    with Session("s", "w", lake_dir) as session:
        session.track("t").append(i=0)
        session.track("bad").append(i=0)
    hot = lake_dir / "w" / "s" / "tracks" / "bad" / "data.jsonl"
    hot.write_bytes(b"garbage\n")
    done = run(lake_dir, "s = opened(); append(s); s.track('bad').append(i=1); 1 / 0")
    assert done.returncode == 1
    assert outcome(lake_dir) == ("failed", 4)
    assert hot.read_bytes() == b"garbage\n"
    done = run(lake_dir, "with opened() as s: append(s, 1); s.track('bad').append(i=1)")
    assert done.returncode == 1
    assert "CorruptTrackError" in done.stderr
    assert outcome(lake_dir) == ("failed", 5)


def test_close_on_a_full_disk_says_so_and_can_be_repeated(lake_dir: Path) -> None:
    done = run(
        lake_dir,
        """
import errno
import dreamlake.storage.local as local
class Full:
    def __getattr__(self, name):
        if name == "pwrite":
            def full(*args):
                raise OSError(errno.ENOSPC, "No space left on device")
            return full
        return getattr(os, name)
s = opened(); append(s)
local.os_ = Full()
try:
    s.close()
except OSError as error:
    assert error.errno == errno.ENOSPC
else:
    raise AssertionError("close returned")
local.os_ = os
s.close()
""",
    )
    assert done.returncode == 0, done.stderr
    assert outcome(lake_dir) == ("finished", 3)


def test_another_thread_that_flushes_while_the_session_closes_does_not_hang(lake_dir: Path) -> None:
    session = crashlib.session(lake_dir).open()
    track = session.track("t")
    track.append(i=0)
    writer = session.writer
    real = writer.thread._inbox

    class Inbox:
        """Between the look at the thread and the request to it, the session is closed, if that is possible."""

        def put(self, request: Any) -> None:
            writer.thread._inbox = real
            crashlib.in_thread(session.close)
            crashlib.wait_for(lambda: not session.is_open)
            if writer.thread._starting.acquire(timeout=0.5):  # nothing keeps the close from ending the thread
                writer.thread._starting.release()
                crashlib.wait_for(lambda: writer.thread._thread is None)
            real.put(request)

    writer.thread._inbox = Inbox()
    done: list[Any] = []

    def flush() -> None:
        try:
            track_writer = writer.track("t")
            done.append(writer.call(track_writer.needs_flush, 20.0))
        except BaseException as error:
            done.append(error)

    flushing = crashlib.in_thread(flush)
    flushing.join(60)
    assert not flushing.is_alive()
    assert done
    assert not isinstance(done[0], TimeoutError), "the request was left in the inbox of a thread that has ended"
    crashlib.wait_for(lambda: session.is_closed and not writer.thread._thread)


@needs_signals
def test_sigterm_after_the_last_session_was_closed_by_a_thread(lake_dir: Path) -> None:
    done = run(
        lake_dir,
        "s = opened().open(); append(s)\nt = threading.Thread(target=s.close); t.start(); t.join()\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    )
    assert done.returncode == -signal.SIGTERM, done.stderr


def test_a_training_script_without_a_warning(lake_dir: Path) -> None:
    code = """
import math
from dreamlake import Lake, Session
with Session("run", "w", sys.argv[1], segment_points=200) as s:
    s.parameters().set(optimizer={"lr": 0.1, "name": "adam"}, epochs=3)
    s.log("begin", metadata={"seed": 1})
    loss, grad = s.track("loss"), s.track("grad/norm", metadata={"unit": "1"})
    for step in range(1000):
        loss.append(value=1 / (step + 1), step=step, epoch=step // 400)
        grad.append(norm=math.sin(step), layers=[step, step + 0.5], _ts=-1)
        if step == 700:
            loss.append(value=float("nan"), step=step, _ts=-1)
    batch = loss.append_batch([{"value": 0.0, "step": 1000 + i} for i in range(500)])
    assert batch["count"] == 500, batch
    assert len(loss) == 1500, len(loss)
    frame = loss.to_polars()
    assert frame.height == 1500
    assert grad.read(limit=1)["data"][0]["data"]["_ts"] == loss.read(limit=1)["data"][0]["data"]["_ts"]
    assert s.tracks.list() == ["grad/norm", "loss"]
assert Lake(sys.argv[1]).session("run", "w").track("loss").scan().collect().height == 1500
"""
    done = run_python("import sys\n" + code, lake_dir)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_warning_of_python_itself_is_not_provoked_in_dev_mode(lake_dir: Path) -> None:
    done = run(lake_dir, "s = opened(); append(s); s.flush(); append(s); s.track('t').read()", PYTHONDEVMODE="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert outcome(lake_dir) == ("finished", 6)
