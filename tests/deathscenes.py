"""Scenes that are cut off: resumes, what is kept beside points, second processes, compactions, and replicas."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import crashlib
from actors import SECOND, TRACK, Actor, finish

from dreamlake import Session

OLD = 1000.0


class Scene(NamedTuple):
    """What stands there before, what is opened then, and what is done until it is cut off.

    Parameters
    ----------
    prepare
        Makes what stands there.
    setup
        Opens the session, if that is not what is cut off.
    act
        Does something with it, or (without `setup`) opens it.
    replica
        Whether the session has one.
    trims
        Whether the session keeps nothing here.
    """

    prepare: Callable[[Actor], None]
    setup: Callable[[Actor], Session | None]
    act: Callable[[Actor, Session | None], None]
    replica: bool = False
    trims: bool = False


# -- what stands there before -----------------------------------------------------------------------------------------


def _nothing(actor: Actor) -> None:
    pass


def _hot(actor: Actor) -> None:
    opened = actor.open()
    actor.points(opened, 4, explicit=True)
    actor.close(opened)


def _rolled(actor: Actor, count: int = 23, **options: Any) -> None:
    opened = actor.describe_session(**options)
    actor.points(opened, count, explicit=True)
    actor.points(opened, 3, track=SECOND)
    actor.describe(opened)
    actor.parameter(opened)
    for _ in range(3):
        actor.log(opened)
    actor.close(opened, bool(options))


def _synced(actor: Actor) -> None:
    _rolled(actor, replica=True)


def _behind(actor: Actor) -> None:
    _rolled(actor, replica=True)
    opened = actor.open()
    actor.points(opened, 32, explicit=True)
    actor.late(opened, 3)
    actor.log(opened)
    actor.close(opened)


def _long(actor: Actor) -> None:
    _rolled(actor, 83)


def _very_long(actor: Actor, **options: Any) -> None:
    _rolled(actor, 123, **options)


def elsewhere(actor: Actor) -> None:
    """Another machine made the session; nothing is here."""
    _rolled(actor, 43, replica=True)
    shutil.rmtree(actor.root)


def ahead(actor: Actor) -> None:
    """Another machine has gone on; what is here is older."""
    _rolled(actor, 25, replica=True)
    kept = f"{actor.folder}/kept"
    shutil.copytree(actor.root, kept)
    opened = actor.open(replica=True)
    actor.points(opened, 31, explicit=True)
    actor.late(opened, 3)
    actor.close(opened, True)
    shutil.rmtree(actor.root)
    os.rename(kept, actor.root)


def _left_over(actor: Actor) -> None:
    """What a crash leaves, and what is swept a minute later."""
    _rolled(actor)
    opened = actor.open()
    for place in (1, 2, 12, 13):
        actor.late(opened, place)
        actor.flush(opened)
    actor.close(opened)
    folder = Path(actor.session_folder)
    track = folder / "tracks" / "a" / "b"
    for path in (folder / ".tmp-1-2", track / ".tmp-3-4"):
        path.write_bytes(b"half")
    for path in [folder / ".tmp-1-2", *track.iterdir()]:
        os.utime(path, (OLD, OLD))
    for path, torn in ((track / "data.jsonl", b'{"index":23,"da'), (folder / "logs/logs.jsonl", b'{"sequenceNu')):
        with path.open("ab") as file:
            file.write(torn)


# -- what is done -----------------------------------------------------------------------------------------------------


def _go_on(actor: Actor, session: Session | None) -> None:
    opened = session or actor.open()
    actor.points(opened, 2)
    if actor.known.get(TRACK):
        actor.late(opened, 0)
        actor.late(opened, -1)
    actor.log(opened)
    actor.flush(opened)
    actor.points(opened, 9, explicit=True)
    actor.flush(opened, TRACK)
    actor.close(opened)


def _describe(actor: Actor, session: Session | None, fsync: bool = False) -> None:
    opened = session or actor.describe_session(fsync=fsync)
    actor.describe(opened)
    actor.points(opened, 1, track="new")
    actor.parameter(opened)
    actor.flush(opened)
    for _ in range(3):
        actor.describe(opened, "bare")
        actor.parameter(opened)
        actor.flush(opened)
    actor.close(opened)
    actor.close(actor.describe_session(fsync=fsync))


def _log(actor: Actor, session: Session | None, fsync: bool = False) -> None:
    opened = session or actor.open(fsync=fsync)
    for count in (1, 5, 2, 4):
        for _ in range(count):
            actor.log(opened)
        actor.flush(opened)
    actor.close(opened)


def _rewrite(actor: Actor, session: Session | None) -> None:
    """So many fields are added one by one that the hot file is written anew."""
    assert session is not None
    for place in (0, 1, 2, 3, 0, 1, 2, 3):
        actor.late(session, place)
    actor.flush(session)
    for place in (2, 3):
        actor.late(session, place)
        actor.flush(session)


def _batches(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.points(session, 2)
    assert actor.batch(session, [actor.fields(False, TRACK) for _ in range(33)])
    assert actor.batch(session, [actor.fields(True, TRACK) for _ in range(4)])
    actor.close(session)


def _compact(actor: Actor, session: Session | None) -> None:
    """Segments become a wide one, which gets a field; their parts are swept, as they are a minute later."""
    assert session is not None
    actor.points(session, 2)
    actor.compact(session)
    actor.late(session, 3)
    actor.flush(session)
    track = Path(actor.session_folder, "tracks", "a", "b")
    for path in track.iterdir():
        os.utime(path, (OLD, OLD))
    actor.compact(session)


def _compact_and_sync(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.compact(session)
    actor.sync(session)
    actor.late(session, 3)
    actor.sync(session)


def _second_process(actor: Actor, session: Session | None) -> None:
    """Another process writes between the flushes of this one: rolls, late fields, the log."""
    assert session is not None
    actor.points(session, 3, explicit=True)
    actor.flush(session)
    for turn in range(2):
        pid = os.fork()
        if pid == 0:
            _other(actor, session, turn)
        assert os.waitpid(pid, 0)[1] == 0
        actor.next += 100
        actor.points(session, 4, explicit=True)
        actor.late(session, 0)
        actor.log(session)
        actor.flush(session)
    actor.close(session)


def _other(actor: Actor, session: Session, turn: int) -> None:
    crashlib.local.os_ = crashlib.lock.os_ = os  # type: ignore[assignment]
    try:
        other = Actor(actor.folder, actor.teller, f"z{turn}", actor.next, actor.known)
        other.points(session, 9, explicit=True)
        other.late(session, 0)
        other.late(session, -1)
        other.log(session)
        other.flush(session)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _sync(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.points(session, 14, explicit=True)
    actor.late(session, 0)
    actor.parameter(session)
    actor.describe(session)
    actor.log(session)
    actor.flush(session)
    actor.sync(session)
    actor.points(session, 2)
    actor.points(session, 1, track=SECOND)
    actor.sync(session)


def _sync_and_close(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.points(session, 2)
    actor.close(session, True)


def _come_here(actor: Actor, session: Session | None) -> None:
    opened = session or actor.open(replica=True)
    actor.points(opened, 8, explicit=True)
    actor.flush(opened)
    actor.close(opened, True)


def _late_for_away(actor: Actor, session: Session | None) -> None:
    """Fields for segments that are on the replica only: they wait, are merged, and are sent."""
    assert session is not None
    actor.points(session, 3, explicit=True)
    for place in (2, 12, 2, -1):
        actor.late(session, place)
    actor.flush(session)
    actor.sync(session)


def _command(actor: Actor, session: Session | None) -> None:
    """`dreamlake sync`, for a run that was killed."""
    actor.again(partial(finish, actor))
    actor.teller.acknowledge("sync", actor.name)


def _trimmed(actor: Actor, session: Session | None) -> None:
    assert session is not None
    actor.points(session, 25, explicit=True)
    actor.points(session, 2, track=SECOND)
    actor.sync(session)
    actor.late(session, 2)
    actor.late(session, 13)
    actor.points(session, 6, explicit=True)
    actor.log(session)
    actor.flush(session)
    actor.sync(session)
    actor.points(session, 3)
    actor.close(session, True)


def _opened(actor: Actor, **options: Any) -> Session:
    return actor.open(**options)


def _none(actor: Actor) -> None:
    return None


_with_replica = partial(_opened, replica=True)

SCENES: dict[str, Scene] = {
    "create": Scene(_nothing, _none, _describe),
    "first flush": Scene(_nothing, _opened, _describe),
    "rewrite": Scene(_hot, _opened, _rewrite),
    "batches": Scene(_hot, _opened, _batches),
    "compact": Scene(_very_long, _opened, _compact),
    "resume": Scene(_left_over, _none, _go_on),
    "first flush after a crash": Scene(_left_over, _opened, _go_on),
    "describe": Scene(_rolled, _opened, _describe),
    "describe, fsync": Scene(_rolled, partial(_opened, fsync=True), partial(_describe, fsync=True)),
    "log": Scene(_rolled, _opened, _log),
    "log, fsync": Scene(_rolled, partial(_opened, fsync=True), partial(_log, fsync=True)),
    "second process": Scene(_rolled, _opened, _second_process),
    "sync": Scene(_synced, _with_replica, _sync, replica=True),
    "first sync": Scene(_long, _with_replica, _sync, replica=True),
    "sync at close": Scene(_synced, _with_replica, _sync_and_close, replica=True),
    "compact, sync": Scene(partial(_very_long, replica=True), _with_replica, _compact_and_sync, replica=True),
    "sync command": Scene(_behind, _none, _command, replica=True),
    "adopt": Scene(elsewhere, _none, _come_here, replica=True),
    "take over": Scene(ahead, _none, _come_here, replica=True),
    "late for away": Scene(elsewhere, _with_replica, _late_for_away, replica=True),
    "keep nothing": Scene(_nothing, partial(_opened, trims=True), _trimmed, replica=True, trims=True),
}
