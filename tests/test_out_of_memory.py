"""Memory that runs out at any step of a flush, a merge, a drop: it raises, and the next attempt loses nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from awaylib import Trimmed
from model import ModelTrack

import dreamlake.engine.away as away
import dreamlake.format.footer as footer
import dreamlake.format.hot as hot
import dreamlake.format.point as point
import dreamlake.format.schema as schema
import dreamlake.format.segment as segment
import dreamlake.storage.local as local
from dreamlake.engine.ondisk import TrackOnDisk
from dreamlake.engine.rows import BatchRows, ColumnRows, PointRows
from dreamlake.engine.sorting import RowQueue
from dreamlake.format import layout
from dreamlake.storage.localstore import LocalStore

#: What allocates as much as a track has points: the calls that fail first where memory is short.
SEAMS: list[tuple[Any, str]] = [
    *((schema, name) for name in ("combine", "to_points", "batch_from_points", "batch_from_columns", "conform")),
    (schema.Batch, "slice"),
    (RowQueue, "drop"),
    *((point, name) for name in ("encode_line", "encode_lines")),
    *((segment, name) for name in ("encode", "encode_parts")),
    (footer, "_read_tail"),
    *((segment.Segment, name) for name in ("read", "_load")),
    *((away, name) for name in ("add", "write", "read", "write_stamps", "stamps")),
    *((local, name) for name in ("read_if_there", "write_beside", "commit_new")),
    (hot, "parse"),
    (TrackOnDisk, "_keep"),
    *((rows, name) for rows in (BatchRows, ColumnRows, PointRows) for name in ("slice", "batch", "lines", "points")),
]
#: What fails when it has done its work: the next step, of whatever kind, is not reached.
AFTER = ["RowQueue.drop", "dreamlake.engine.away.add", "dreamlake.engine.away.write", "TrackOnDisk._keep"]


class Memory:
    """Counts the calls that allocate, and lets the n-th one fail."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._when: int | None = None
        for owner, name in SEAMS:
            patch.setattr(owner, name, self._counted(f"{owner.__name__}.{name}", getattr(owner, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._when is not None:
                self.calls.append(name)
                if len(self.calls) == self._when:
                    if name in AFTER:
                        real(*args, **kwargs)
                    raise MemoryError(name)
            return real(*args, **kwargs)

        return call

    def fail_at(self, when: int) -> None:
        """Count from now on, and fail at this call; 0 for none."""
        self.calls.clear()
        self._when = when

    def suffice(self) -> None:
        """No call fails any more."""
        self._when = None


def hot_lines(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    append(made, model, range(3))
    made.track.flush()
    append(made, model, range(3, 5))
    late(made, model, 1)
    return made.track.flush


def a_roll(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    """Three hot points, one of them with a late field, and new rows of three shapes for two segments and a rest."""
    append(made, model, range(3))
    made.track.flush()
    late(made, model, 1)
    append(made, model, range(3, 9))
    for i in range(9, 14):
        both(made, model, i, s="x" * i)
    append(made, model, range(14, 17))
    return made.track.flush


def automatic(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    """A roll of rows with automatic timestamps, in the flat blocks of the fast path."""
    return drawn(made, model, 17, 3)


def automatic_lines(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    """Lines of rows with automatic timestamps, which nothing would take for the same ones."""
    return drawn(made, model, 4, 1)


def drawn(made: Trimmed, model: ModelTrack, count: int, flushed: int) -> Callable[[], None]:
    for i in range(count):
        model.add({"i": i}, 0.0, automatic=True)
        made.track.append(i=i)
        if i + 1 == flushed:
            made.track.flush()
    return made.track.flush


def late_fields(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    append(made, model, range(16))
    made.track.flush()
    for i in (2, 9, 15):
        late(made, model, i)
    append(made, model, range(16, 19))
    return made.track.flush


def waiting(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    """Late fields for points that are only on the replica, beside new points."""
    late_fields(made, model)()
    made.upload()
    made.drop()
    for i in (3, 10, 15):
        late(made, model, i, "waits")
    append(made, model, range(19, 23))
    return made.track.flush


def settling(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    waiting(made, model)()
    return made.settle


def dropping(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    late_fields(made, model)()
    made.upload()
    return made.drop


def merging(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    append(made, model, range(72))
    made.track.flush()
    append(made, model, range(72, 75))
    made.track.flush()
    return made.track.compact


def behind_another(made: Trimmed, model: ModelTrack) -> Callable[[], None]:
    """Another process has appended two points, and a field for one of this process's."""
    append(made, model, range(3))
    made.track.flush()
    for i, fields in ((3, {"i": 3}), (1, {"late": 1}), (4, {"i": 4})):
        model.add(fields, float(i), automatic=False)
        with open(made.folder / layout.HOT_FILE, "ab") as file:
            file.write(point.encode_line(i, fields, float(i)))
    made.session.writer.session_lock.tail_epoch += 1
    append(made, model, range(5, 6))
    return made.track.flush


SCENES = [
    hot_lines,
    automatic_lines,
    behind_another,
    a_roll,
    automatic,
    late_fields,
    waiting,
    settling,
    dropping,
    merging,
]
AUTOMATIC = [automatic_lines, automatic]


def both(made: Trimmed, model: ModelTrack, ts: float, **fields: Any) -> None:
    """Append to the track and to its model."""
    model.add(fields, ts, automatic=False)
    made.track.append(**fields, _ts=ts)


def append(made: Trimmed, model: ModelTrack, which: range) -> None:
    for i in which:
        both(made, model, float(i), i=i, x=[i / 3, None])


def late(made: Trimmed, model: ModelTrack, i: int, name: str = "late") -> None:
    both(made, model, float(i), **{name: i * 10})


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_memory_that_runs_out_at_any_step_costs_nothing(
    memory_path: Path, scene: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(monkeypatch)
    wrong: list[str] = []
    when, raised, steps = 0, 0, 0
    while when <= steps:
        calls = f"call {when} of {steps}"
        made = Trimmed(memory_path / str(when), LocalStore(memory_path / f"there {when}"))
        model = ModelTrack()
        step = scene(made, model)
        memory.fail_at(when)
        try:
            step()
        except MemoryError as error:
            calls += f" ({error})"
            raised += 1
        finally:
            memory.suffice()
        steps = steps or len(memory.calls)
        for turn in range(2):
            append(made, model, range(100 + turn, 101 + turn))
            if scene not in AUTOMATIC:
                late(made, model, 2 + turn, "again")  # in a segment, in most scenes
            made.track.flush()
            made.settle()
            found = made.points()
            if without(found, scene) != without(model.points, scene):
                wrong.append(f"{calls}, turn {turn}: {len(found)} points for {len(model.points)}")
            made.reopen()
        made.session.close()
        when += 1
    assert raised > 2
    assert not wrong, "\n".join(wrong)


def test_memory_that_runs_out_while_lines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of `part`, which the seams above leave out, since it allocates little where nothing is cut."""
    calls: list[int] = []
    real = RowQueue.part
    for when in range(1, 4):
        made = Trimmed(tmp_path / str(when), LocalStore(tmp_path / f"there {when}"))
        model = ModelTrack()
        step = automatic_lines(made, model)
        calls.clear()

        def part(queue: RowQueue, start: int, stop: int, when: int = when) -> Any:
            calls.append(stop)
            if len(calls) == when:
                raise MemoryError
            return real(queue, start, stop)

        with monkeypatch.context() as patch, suppress(MemoryError):
            patch.setattr(RowQueue, "part", part)
            step()
        made.track.flush()
        assert [row["i"] for row in made.points()] == [0, 1, 2, 3], when
        made.session.close()


@pytest.mark.parametrize("refusal", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError()], ids=type)
@pytest.mark.parametrize("anothers", [False, True], ids=["alone", "another writes behind it"])
def test_lines_that_can_be_neither_counted_nor_cut_off(
    tmp_path: Path, refusal: BaseException, anothers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are cut off by the next flush; where somebody has gone on from them meanwhile they stay, and are points."""
    made = Trimmed(tmp_path / "here", LocalStore(tmp_path / "there"))
    made.track.append(i=0).flush()
    made.track.append(i=1).append(i=2)
    real = local._write_all

    def write_all(*args: Any) -> int:
        real(*args)
        raise MemoryError

    def refuse(*args: Any) -> None:
        raise refusal

    with monkeypatch.context() as patch:
        patch.setattr(local, "_write_all", write_all)
        patch.setattr(local, "truncate", refuse)
        with pytest.raises(MemoryError):
            made.track.flush()
    if anothers:
        with open(made.folder / layout.HOT_FILE, "ab") as file:
            file.write(point.encode_line(3, {"i": 3}, 4e9))
        made.session.writer.session_lock.tail_epoch += 1
    else:
        with monkeypatch.context() as patch:
            patch.setattr(local, "truncate", refuse)
            with pytest.raises(type(refusal)):
                made.track.flush()
    made.track.append(i=4).flush()
    found = [row["i"] for row in made.points()]
    if anothers:  # what is pending comes once more, since nobody knows any more that it is there
        assert found[:4] == [0, 1, 2, 3]
        assert found[-1] == 4
    else:
        assert found == [0, 1, 2, 4]
    made.session.close()


def test_memory_that_runs_out_behind_a_failed_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second fsync that succeeds proves nothing, so the lines are written to a new file all the same."""
    made = Trimmed(tmp_path / "here", LocalStore(tmp_path / "there"), fsync=True)
    made.track.append(i=0).flush()
    made.track.append(i=1)

    def fail(fd: int, path: str) -> None:
        raise local.FsyncFailed(OSError(errno.EIO, os.strerror(errno.EIO)), path)

    def short(*args: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(local, "_fsync", fail)
        patch.setattr(TrackOnDisk, "_keep", short)
        with pytest.raises(MemoryError):
            made.track.flush()
    rewritten: list[int] = []
    real = TrackOnDisk._rewrite_hot
    monkeypatch.setattr(TrackOnDisk, "_rewrite_hot", lambda disk: (rewritten.append(1), real(disk))[1])
    made.track.append(i=2).flush()
    assert rewritten
    assert [row["i"] for row in made.points()] == [0, 1, 2]
    made.session.close()


@pytest.mark.parametrize("scene", [hot_lines, automatic_lines, behind_another], ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_memory_that_runs_out_behind_a_write_that_ended_early(
    tmp_path: Path, scene: Callable[..., Any], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that are in the file and were not counted would be there twice after the next flush."""
    memory = Memory(monkeypatch)
    real = local._pwrite
    wrong: list[str] = []
    when, raised, steps = 1, 0, 1
    while when <= steps:
        made = Trimmed(tmp_path / str(when), LocalStore(tmp_path / f"there {when}"))
        model = ModelTrack()
        step = scene(made, model)
        cuts: list[int] = []

        def cut(
            fd: int, data: memoryview, offset: int, cuts: list[int] = cuts, when: int = when
        ) -> int:  # some of it, and then the disk is full
            if cuts:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            cuts.append(int(len(data) * share))
            memory.fail_at(when)
            return real(fd, data[: cuts[0]], offset) if cuts[0] else real(fd, data[:1], offset)

        with monkeypatch.context() as patch:
            patch.setattr(local, "_pwrite", cut)
            try:
                step()
            except (MemoryError, OSError) as error:
                raised += isinstance(error, MemoryError)
        steps = max(steps, len(memory.calls))
        memory.suffice()
        assert cuts
        append(made, model, range(100, 101))
        made.track.flush()
        found = made.points()
        if without(found, scene) != without(model.points, scene):
            wrong.append(f"call {when} of {steps}: {len(found)} points for {len(model.points)}")
        made.session.close()
        when += 1
    assert raised or share == 0.0 or scene is behind_another, "it has one line only"
    assert not wrong, "\n".join(wrong)


def without(points: list[dict[str, Any]], scene: Callable[..., Any]) -> list[dict[str, Any]]:
    """The points; without their timestamps where these are automatic."""
    return [{k: v for k, v in p.items() if scene not in AUTOMATIC or k != "_ts"} for p in points]
