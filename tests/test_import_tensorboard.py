"""``dreamlake import tensorboard``: every point once, with TensorBoard's own reader as the judge."""

from __future__ import annotations

import math
import os
import shutil
import signal
import struct
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import in_child, run_python, start_python

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
pytest.importorskip("tensorboardX", reason="needs tensorboardX, which writes the event files")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboardX import SummaryWriter

import dreamlake.storage.local as local
from dreamlake import Lake, Session
from dreamlake.integrations import intake
from dreamlake.integrations import tensorboard as reader
from dreamlake.integrations.intake import take_in
from dreamlake.integrations.names import track_name
from dreamlake.integrations.run import ImportRefused


def write(folder: Path, tags: dict[str, list[tuple[float, int, float]]], suffix: str = "") -> Path:
    """An event file with these points, the tags in turn, as a training loop writes them."""
    before = set(folder.glob("*")) if folder.exists() else set()
    writer = EventFileWriter(str(folder), filename_suffix=suffix)
    longest = max((len(points) for points in tags.values()), default=0)
    for at in range(longest):
        for tag, points in tags.items():
            if at < len(points):
                ts, step, value = points[at]
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                writer.add_event(Event(wall_time=ts, step=step, summary=summary))
    writer.close()
    (file,) = {*folder.glob("*tfevents*")} - before
    return file


def take(folder: Path, lake: Path, **options: Any) -> list[Any]:
    return [take_in(run, str(lake), **options) for run in reader.runs(str(folder))]


def stored(lake: Path, session: str, track: str, workspace: str = "logs") -> list[tuple[float, int, float]]:
    points = Lake(lake).session(session, workspace).track(track).read(limit=None)["data"]
    assert [point["index"] for point in points] == list(range(len(points)))
    return [(point["data"]["_ts"], point["data"]["step"], point["data"]["value"]) for point in points]


def scalars(folder: Path, tag: str) -> list[tuple[float, int, float]]:
    """What TensorBoard says of a tag of the run in a folder."""
    judge = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    judge.Reload()
    return [(event.wall_time, event.step, event.value) for event in judge.Scalars(tag)]


def equal(one: list[Any], other: list[Any]) -> bool:
    return repr(one) == repr(other)  # NaN is NaN, -0.0 is not 0.0


def float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


# ------------------------------------------------------------------------------------------------ values


def test_scalars_are_what_tensorboard_says_they_are(tmp_path: Path, lake_dir: Path) -> None:
    logs = tmp_path / "logs"
    special = [math.nan, math.inf, -math.inf, -0.0, 1e-45, 3.4e38, 0.1]
    write(logs, {"a/loss": [(100.5 + i, i, value) for i, value in enumerate(special)], "acc": [(1.25, -3, 0.5)]})
    (told,) = take(logs, lake_dir)
    assert (told.run, told.points, told.total, told.tracks) == ("logs/logs", 8, 8, 2)
    assert (told.left_out, told.notes, told.damage) == ({}, [], [])
    for tag in ("a/loss", "acc"):
        assert equal(stored(lake_dir, "logs", tag), scalars(logs, tag))
    assert equal([value for _, _, value in stored(lake_dir, "logs", "a/loss")], [float32(v) for v in special])
    info = Lake(lake_dir).session("logs", "logs").info
    assert (info["status"], info["createdAt"]) != ("running", None)


def test_points_of_one_time_stay_several(tmp_path: Path, lake_dir: Path) -> None:
    """Where `append` would merge them: equal times, times that go back, equal steps, and all of that the same."""
    logs = tmp_path / "logs"
    points = [(7.0, 0, 1.0), (7.0, 1, 2.0), (7.0, 1, 2.0), (3.0, 1, 4.0), (7.0, 2, 5.0), (3.0, 0, 6.0), (-1.0, 9, 7.0)]
    write(logs, {"t": points * 3000})
    assert take(logs, lake_dir)[0].points == 21_000
    expected = [(-math.nextafter(1.0, 0.0) if ts == -1.0 else ts, step, v) for ts, step, v in scalars(logs, "t")]
    assert equal(stored(lake_dir, "logs", "t"), expected)
    assert take(logs, lake_dir)[0].points == 0
    write(logs, {"t": points})
    assert take(logs, lake_dir)[0].points == 7
    assert len(stored(lake_dir, "logs", "t")) == 21_007


def test_wall_times_that_are_not_finite_are_told(tmp_path: Path, lake_dir: Path) -> None:
    write(tmp_path / "logs", {"t": [(7.0, 0, 1.0), (math.inf, 1, 2.0), (math.nan, 2, 3.0)]})
    before = time.time()
    told = take(tmp_path / "logs", lake_dir)[0]
    assert told.left_out == {"times that are not finite; these points have the time of the import": 2}
    first, *others = stored(lake_dir, "logs", "t")
    assert (first, [other[1:] for other in others]) == ((7.0, 0, 1.0), [(1, 2.0), (2, 3.0)])
    assert all(other[0] >= before for other in others)
    assert take(tmp_path / "logs", lake_dir)[0].points == 0


def test_what_pytorch_and_keras_write(tmp_path: Path, lake_dir: Path) -> None:
    """Histograms, text, hyperparameters, tensors; images, sounds and graphs are counted."""
    import numpy as np

    logs = tmp_path / "logs"
    with SummaryWriter(str(logs)) as writer:
        writer.add_histogram("weights", np.arange(100.0), 3, walltime=50.0)
        writer.add_text("note", "grüße\n| a | b |", 1, walltime=51.0)
        writer.add_image("picture", np.zeros((3, 4, 4), dtype=np.uint8), 1)
        writer.add_scalar("x", 1.5, 0, walltime=52.0)
        writer.add_pr_curve("curve", np.array([0, 1, 1]), np.array([0.1, 0.9, 0.6]), 1, walltime=53.0)
    (told,) = take(logs, lake_dir)
    run = Lake(lake_dir).session("logs", "logs")
    judge = EventAccumulator(str(logs), size_guidance={"histograms": 0, "tensors": 0})
    judge.Reload()
    (histogram,) = judge.Histograms("weights")
    (point,) = run.track("weights").read()["data"]
    expected = {"step": histogram.step, **asdict(histogram.histogram_value), "_ts": histogram.wall_time}
    assert point["data"] == expected
    (text,) = run.track("note/text_summary").read()["data"]
    assert text["data"] == {"step": 1, "value": ["grüße\n| a | b |"], "_ts": 51.0}
    (curve,) = run.track("curve").read()["data"]
    assert np.array(curve["data"]["curve"]).shape == (6, 127)
    assert told.left_out == {"images": 1}
    assert run.tracks.list() == ["curve", "note/text_summary", "weights", "x"]


def test_tensors_of_tensorflow_two(tmp_path: Path, lake_dir: Path) -> None:
    """Scalars and histograms as Keras writes them: tensors, whose plugin only the first names."""
    import numpy as np
    from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
    from tensorboard.util.tensor_util import make_tensor_proto

    logs = tmp_path / "logs"
    writer = EventFileWriter(str(logs))

    def add(tag: str, plugin: str, array: Any, step: int) -> None:
        value = Summary.Value(tag=tag, tensor=make_tensor_proto(array))
        if step == 0:
            value.metadata.CopyFrom(SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin)))
        writer.add_event(Event(wall_time=9.0 + step, step=step, summary=Summary(value=[value])))

    for step in range(2):
        add("loss", "scalars", np.float64(0.1 + step), step)
        add("h", "histograms", np.array([[0.0, 1.0, 5.0], [1.0, 2.0, step]]), step)
        add("pictures", "images", np.array([b"4", b"4", b"\x89PNG"], dtype=object), step)
        add("big", "", np.zeros(60_000), step)
        add("mesh", "mesh", np.zeros(3), step)
    writer.close()
    (told,) = take(logs, lake_dir)
    assert stored(lake_dir, "logs", "loss") == [(9.0, 0, 0.1), (10.0, 1, 1.1)]
    (first, second) = Lake(lake_dir).session("logs", "logs").track("h").read()["data"]
    assert first["data"]["buckets"] == [[0.0, 1.0, 5.0], [1.0, 2.0, 0.0]]
    assert second["data"]["buckets"][1][2] == 1.0
    assert told.left_out == {"images": 2, "large tensors": 2, "summaries of the plugin 'mesh'": 2}


def test_hyperparameters_become_parameters(tmp_path: Path, lake_dir: Path) -> None:
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        writer.add_hparams({"lr": 0.1, "name": "adam", "flag": True}, {"acc": 0.5}, name="one")
    told = take(tmp_path / "logs", lake_dir)
    assert [each.run for each in told] == ["logs/logs", "logs/one"]
    run = Lake(lake_dir).session("one", "logs")
    assert run.parameters().get() == {"lr": 0.1, "name": "adam", "flag": True}
    assert [point["data"]["value"] for point in run.track("acc").read()["data"]] == [0.5]


# ------------------------------------------------------------------------------------------------ runs and names


def test_each_folder_with_event_files_is_a_run(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    logs = tmp_path / "logs"
    for name in ("", "a", "b/train"):
        write(logs / name, {"x": [(1.0, 0, len(name))]})
    (logs / "empty").mkdir()
    status, out, err = cli("import", "tensorboard", logs, "--path", lake_dir)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "logs/logs: 1 point in 1 track, all new",
        "logs/a: 1 point in 1 track, all new",
        "logs/b/train: 1 point in 1 track, all new",
    ]
    assert [info["name"] for info in Lake(lake_dir).sessions("logs")] == ["a", "b/train", "logs"]
    status, out, _ = cli("import", "tensorboard", logs, "--path", lake_dir, "--only", "b/*", "-w", "else", "--json")
    assert (status, '"run": "else/b/train"' in out) == (0, True)
    assert cli("import", "tensorboard", logs, "--path", lake_dir, "--name", "one")[0] == 2


@pytest.mark.parametrize(
    "tag", ["/abs", "a//b", "../up", "x" * 5000, "tab\there", "data.jsonl", "a/", "é/漢 [1]=%", "..."]
)
def test_any_tag_becomes_a_track(tag: str, tmp_path: Path, lake_dir: Path) -> None:
    write(tmp_path / "logs", {tag: [(1.0, 0, 2.0)], "a/b": [(1.0, 0, 3.0)]})
    take(tmp_path / "logs", lake_dir)
    assert take(tmp_path / "logs", lake_dir)[0].points == 0
    run = Lake(lake_dir).session("logs", "logs")
    track = run.track(track_name(tag))
    assert stored(lake_dir, "logs", track.name) == [(1.0, 0, 2.0)]
    if track.name != tag:
        assert track.stats()["metadata"]["imported"]["tag"] == tag


def test_a_session_of_something_else_is_let_be(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    with Session("logs", "logs", lake_dir) as session:
        session.track("x").append(value=1.0)
    logs = tmp_path / "logs"
    write(logs, {"x": [(1.0, 0, 2.0)], "y": [(1.0, 0, 2.0)]})
    before = (lake_dir / "logs/logs/session.json").read_bytes()
    status, _, err = cli("import", "tensorboard", logs, "--path", lake_dir)
    assert status == 2
    assert "was not imported" in err
    assert "--name" in err
    assert (lake_dir / "logs/logs/session.json").read_bytes() == before
    assert cli("import", "tensorboard", logs, "--path", lake_dir, "--force")[0] == 0
    assert cli("import", "tensorboard", logs, "--path", lake_dir)[0] == 0
    values = [point["data"]["value"] for point in Lake(lake_dir).session("logs", "logs").track("x").read()["data"]]
    assert values == [1.0, 2.0]


def test_another_run_of_the_same_name_is_refused(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    for at, name in enumerate(("one", "two")):
        write(tmp_path / name / "logs", {"x": [(1.0 + at, 0, 2.0)]}, suffix=f".{name}")
    assert cli("import", "tensorboard", tmp_path / "one/logs", "--path", lake_dir)[0] == 0
    status, _, err = cli("import", "tensorboard", tmp_path / "two/logs", "--path", lake_dir)
    assert status == 2
    assert str(tmp_path / "one/logs") in err
    assert cli("import", "tensorboard", tmp_path / "two/logs", "--path", lake_dir, "--name", "other")[0] == 0


def test_a_folder_that_was_moved_is_the_same_run(tmp_path: Path, lake_dir: Path) -> None:
    write(tmp_path / "old/logs", {"x": [(1.0, 0, 2.0)]})
    take(tmp_path / "old/logs", lake_dir)
    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "old/logs", tmp_path / "new/logs")
    assert take(tmp_path / "new/logs", lake_dir)[0].points == 0
    assert stored(lake_dir, "logs", "x") == [(1.0, 0, 2.0)]


def runs_of(lake: Path) -> dict[str, int]:
    infos = Lake(lake).sessions()
    tracks = {f"{i['workspace']}/{i['name']}": Lake(lake).session(i["name"], i["workspace"]).track("x") for i in infos}
    return {name: len(track) for name, track in tracks.items()}


def test_a_run_whose_place_has_another_name_is_the_same(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    with Session("own", "w", lake_dir, metadata={"imported": "in another sense"}) as session:
        session.track("x").append(value=1)
    damaged = lake_dir / "w" / "damaged" / "session.json"
    damaged.parent.mkdir()
    damaged.write_bytes(b"{")
    logs, other = tmp_path / "logs", tmp_path / "other/runs"
    for at, name in enumerate(("r1", "r2")):
        write(logs / name, {"x": [(1.0, 0, float(at))]}, suffix=f".{name}")
    take(logs, lake_dir)
    other.parent.mkdir()
    shutil.move(logs, other)
    write(other / "r1", {"x": [(2.0, 1, 5.0)]}, suffix=".later")
    assert [(told.run, told.points) for told in take(other, lake_dir)] == [("logs/r1", 1), ("logs/r2", 0)]
    # Two that have changed places, by the command.
    for old, new in (("r1", "r0"), ("r2", "r1"), ("r0", "r2")):
        shutil.move(other / old, other / new)
    status, out, _ = cli("import", "tensorboard", other, "--path", lake_dir)
    assert (status, out.count("nothing new")) == (0, 2)
    damaged.unlink()
    assert runs_of(lake_dir) == {"logs/r1": 2, "logs/r2": 1, "w/own": 1}
    # What is asked for is made.
    shutil.move(other / "r1", other / "r3")
    assert take(other / "r3", lake_dir, name="named")[0].run == "r3/named"
    shutil.move(other / "r3", other / "r4")
    assert [told.run for told in take(other, lake_dir, workspace="asked")] == ["asked/r2", "asked/r4"]


def test_a_copy_beside_the_run_is_a_run_of_its_own(tmp_path: Path, lake_dir: Path) -> None:
    write(tmp_path / "logs/r1", {"x": [(1.0, 0, 2.0)]})
    take(tmp_path / "logs", lake_dir)
    shutil.copytree(tmp_path / "logs/r1", tmp_path / "logs/fork")
    write(tmp_path / "logs/fork", {"x": [(2.0, 1, 5.0)]}, suffix=".fork")
    take(tmp_path / "logs", lake_dir)
    assert runs_of(lake_dir) == {"logs/fork": 2, "logs/r1": 1}


def test_wrong_sources_are_told(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    status, _, err = cli("import", "tensorboard", tmp_path / "nowhere", "--path", lake_dir)
    assert (status, "does not exist" in err) == (2, True)
    (tmp_path / "empty").mkdir()
    status, _, err = cli("import", "tensorboard", tmp_path / "empty", "--path", lake_dir)
    assert (status, "tfevents" in err) == (2, True)
    status, _, err = cli("import", "tensorboard", tmp_path, "--path", "s3://bucket/lake")
    assert (status, "dreamlake sync" in err) == (2, True)
    assert not list(lake_dir.iterdir())


def test_without_tensorboard_the_extra_is_named(tmp_path: Path) -> None:
    code = """
    import sys
    sys.modules["google_crc32c"] = None
    from dreamlake.cli import main
    print(main(["import", "tensorboard", sys.argv[1]]))
    """
    done = run_python(code, tmp_path)
    assert (done.stdout, "dreamlake[tensorboard]" in done.stderr) == ("1\n", True)


# ------------------------------------------------------------------------------------------------ twice, and later


def test_a_source_that_grows_adds_only_what_is_new(tmp_path: Path, lake_dir: Path) -> None:
    """Its file grows, a second one comes, and then both grow, the older one too."""
    logs = tmp_path / "logs"
    first = EventFileWriter(str(logs), filename_suffix=".1")

    def add(writer: EventFileWriter, tag: str, value: float, step: int) -> None:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        writer.add_event(Event(wall_time=step / 3, step=step, summary=summary))
        writer.flush()

    for step in range(5):
        add(first, "x", step, step)
    assert take(logs, lake_dir)[0].points == 5
    assert take(logs, lake_dir)[0].points == 0
    second = EventFileWriter(str(logs), filename_suffix=".2")
    for step in range(5, 9):
        add(first, "x", step, step)
        add(second, "x", step * 10, step)
        add(second, "y", step, step)
    assert take(logs, lake_dir)[0].points == 12
    for step in range(9, 11):
        add(second, "x", step * 10, step)
        add(first, "x", step, step)
    assert take(logs, lake_dir)[0].points == 4
    first.close()
    second.close()
    assert take(logs, lake_dir)[0].points == 0
    assert sorted(stored(lake_dir, "logs", "x")) == sorted(scalars(logs, "x"))
    assert equal(stored(lake_dir, "logs", "y"), scalars(logs, "y"))
    # From the start, as TensorBoard orders it.
    take(logs, lake_dir, name="again")
    assert equal(stored(lake_dir, "again", "x"), scalars(logs, "x"))


def test_a_source_in_the_place_of_another_is_refused(tmp_path: Path, lake_dir: Path) -> None:
    logs = tmp_path / "logs"
    file = write(logs, {"x": [(1.0, step, 2.0) for step in range(10)]})
    take(logs, lake_dir)
    name = file.name
    file.unlink()
    write(logs, {"x": [(1.0, step, 3.0) for step in range(20)]}).rename(logs / name)
    with pytest.raises(ImportRefused, match=r"point 9 of 'x' .* was replaced"):
        take(logs, lake_dir)
    assert [value for _, _, value in stored(lake_dir, "logs", "x")] == [2.0] * 10


def test_points_of_somebody_else_in_an_imported_track_are_noticed(tmp_path: Path, lake_dir: Path) -> None:
    logs = tmp_path / "logs"
    write(logs, {"x": [(1.0, step, 2.0) for step in range(10)]})
    take(logs, lake_dir)
    with Session("logs", "logs", lake_dir) as session:
        session.track("x").append(value=-1.0)
    told = take(logs, lake_dir)[0]
    assert told.points == 0
    assert "has 10 points, and 11 were imported" in told.notes[0]


def test_a_file_that_was_cut_short_takes_nothing_away(tmp_path: Path, lake_dir: Path) -> None:
    logs = tmp_path / "logs"
    file = write(logs, {"x": [(1.0, step, 2.0) for step in range(10)]})
    take(logs, lake_dir)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (told,) = take(logs, lake_dir)
    assert (told.points, told.total) == (0, 10)
    assert "they stay" in " ".join(told.notes)


# ------------------------------------------------------------------------------------------------ damage


def test_a_file_that_ends_anywhere_gives_what_is_whole(tmp_path: Path, lake_dir: Path) -> None:
    """Cut at each byte of its last records, as a killed writer leaves it; and then it goes on."""
    logs = tmp_path / "logs"
    file = write(logs, {"x": [(1.0 + step, step, step) for step in range(4)]})
    whole = file.read_bytes()
    ends = [place for place, _ in reader.checked_records(str(file))]
    totals = set()
    for cut in range(ends[-3], len(whole), 7):
        file.write_bytes(whole[:cut])
        expected = [e for e in LegacyEventFileLoader(str(file)).Load() if e.WhichOneof("what") == "summary"]
        (told,) = take(logs, lake_dir, name=f"cut {cut}")
        assert told.total == len(expected)
        totals.add(told.total)
        assert bool(told.notes) == (cut not in ends)
        assert not told.damage
        file.write_bytes(whole)
        assert take(logs, lake_dir, name=f"cut {cut}")[0].points == 4 - len(expected)
        assert equal(stored(lake_dir, f"cut {cut}", "x"), scalars(logs, "x"))
    assert totals == {2, 3}


def test_a_damaged_record_ends_its_file_as_in_tensorboard(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    logs = tmp_path / "logs"
    file = write(logs, {"x": [(1.0 + step, step, step) for step in range(10)]})
    data = bytearray(file.read_bytes())
    data[len(data) * 2 // 3] ^= 4
    file.write_bytes(bytes(data))
    write(logs, {"x": [(99.0, 99, 99.0)]}, suffix=".later")
    status, _, err = cli("import", "tensorboard", logs, "--path", lake_dir)
    assert (status, f"{file} is damaged" in err) == (1, True)
    expected = [
        event.step for event in LegacyEventFileLoader(str(file)).Load() if event.WhichOneof("what") == "summary"
    ]
    assert [step for _, step, _ in stored(lake_dir, "logs", "x")] == [*expected, 99]
    assert 0 < len(expected) < 10


def test_a_right_checksum_over_something_else_is_damage(tmp_path: Path, lake_dir: Path) -> None:
    from google_crc32c import value as crc

    logs = tmp_path / "logs"
    file = write(logs, {"x": [(1.0, 0, 2.0)]})
    head, data = struct.pack("<Q", 5), b"\xff" * 5
    good = file.stat().st_size
    with file.open("ab") as stream:
        stream.write(head + struct.pack("<I", reader.masked(crc(head))) + data)
        stream.write(struct.pack("<I", reader.masked(crc(data))))
    (told,) = take(logs, lake_dir)
    assert told.total == 1
    assert f"21 bytes from byte {good} on" in told.damage[0]


def test_a_length_without_end_asks_for_no_memory(tmp_path: Path, lake_dir: Path) -> None:
    from google_crc32c import value as crc

    (tmp_path / "logs").mkdir()
    head = struct.pack("<Q", 1 << 60)
    (tmp_path / "logs/events.out.tfevents.1").write_bytes(head + struct.pack("<I", reader.masked(crc(head))) + b"x")
    (told,) = take(tmp_path / "logs", lake_dir)
    assert (told.total, len(told.damage)) == (0, 1)


# ------------------------------------------------------------------------------------------------ killed and raced

IMPORT = """
import sys
from dreamlake.integrations import tensorboard, intake
intake.BATCH = 50
for run in tensorboard.runs(sys.argv[1]):
    intake.take_in(run, sys.argv[2])
print("done")
"""


def test_an_import_that_is_killed_ends_right_the_next_time(tmp_path: Path, lake_dir: Path) -> None:
    """SIGKILL at many moments, then once to the end: exactly the points of the source, in its order."""

    def length() -> int:
        return sum(path.read_bytes().count(b"\n") for path in lake_dir.rglob("data.jsonl"))

    logs = tmp_path / "logs"
    tags = {f"t{n}": [(step / 7, step, step * n) for step in range(1500)] for n in range(4)}
    write(logs, tags)
    write(logs, tags, suffix=".second")
    lengths: list[int] = []
    for more in (1, 20, 300, 700, 1500, 3000):  # so many points more are there when it is killed
        with start_python(IMPORT, logs, lake_dir) as process:
            while process.poll() is None and length() < min((lengths or [0])[-1] + more, 11_000):
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        lengths.append(length())
    assert 0 < lengths[0] < lengths[-1]
    take(logs, lake_dir)
    for tag in tags:
        assert equal(stored(lake_dir, "logs", tag), scalars(logs, tag))
    assert take(logs, lake_dir)[0].points == 0
    assert Lake(lake_dir).session("logs", "logs").info["status"] == "finished"


class Dying:
    """Stands for ``os`` in ``storage.local``: the process ends without a word at the n-th change of the disk."""

    CHANGES = frozenset({"write", "pwrite", "replace", "rename", "link", "unlink", "fsync", "ftruncate", "mkdir"})

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __getattr__(self, name: str) -> Any:
        if name in self.CHANGES:
            self.left -= 1
            if self.left < 0:
                os._exit(9)
        return getattr(os, name)


def test_an_import_that_dies_at_any_write_ends_right_the_next_time(
    tmp_path: Path, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every second change of the disk, of a run of two files and two tags whose points go to segments, too."""
    monkeypatch.setattr(intake, "BATCH", 25)
    monkeypatch.setattr(intake, "Session", partial(Session, segment_points=40))
    logs = tmp_path / "logs"
    tags = {f"t{n}": [(step // 3 / 7, step, step * n) for step in range(60)] for n in range(2)}
    for suffix in (".one", ".two"):
        write(logs, tags, suffix)
    expected = {tag: scalars(logs, tag) for tag in tags}
    died = 0
    for calls in range(0, 1000, 2):
        lake = memory_path / str(calls)

        def work(lake: Path = lake, calls: int = calls) -> None:
            local.os_ = Dying(calls)  # type: ignore[assignment]
            take(logs, lake)

        lake.mkdir()
        status = in_child(work)
        assert status in (0, 9)
        died += status == 9
        take(logs, lake)
        for tag, points in expected.items():
            assert equal(stored(lake, "logs", tag), points), calls
        assert Lake(lake).session("logs", "logs").info["status"] == "finished"
        if status == 0:
            break
        assert any(lake.rglob("*.parquet"))
    assert died > 15


def test_two_imports_at_once_do_not_double(tmp_path: Path, lake_dir: Path) -> None:
    logs = tmp_path / "logs"
    write(logs, {"x": [(1.0 + step, step, step) for step in range(5000)]})
    with start_python(IMPORT, logs, lake_dir) as one, start_python(IMPORT, logs, lake_dir) as other:
        told = [one.communicate(), other.communicate()]
    assert any("done" in out for out, _ in told)
    assert all("done" in out or "is running" in err for out, err in told)
    assert equal(stored(lake_dir, "logs", "x"), scalars(logs, "x"))


def test_a_large_file_takes_little_memory(tmp_path: Path, lake_dir: Path) -> None:
    """A third of its points wait at most, as Python objects; and the reader holds one record."""
    logs = tmp_path / "logs"
    logs.mkdir()
    from google_crc32c import value as crc

    with (logs / "events.out.tfevents.1").open("wb") as file:
        for step in range(300_000):
            summary = Summary(value=[Summary.Value(tag=f"t{step % 3}", simple_value=step)])
            data = Event(wall_time=step / 8, step=step, summary=summary).SerializeToString()
            head = struct.pack("<Q", len(data))
            file.write(head + struct.pack("<I", reader.masked(crc(head))) + data)
            file.write(struct.pack("<I", reader.masked(crc(data))))
    code = """
    import resource, sys
    from dreamlake.integrations import tensorboard, intake
    import dreamlake.engine.ondisk, dreamlake.engine.sorting, dreamlake.format.schema, pyarrow.parquet
    tensorboard.proto()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for run in tensorboard.runs(sys.argv[1]):
        print(intake.take_in(run, sys.argv[2]).points)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
    """
    points, grown = run_python(code, logs, lake_dir).stdout.split()
    assert int(points) == 300_000
    assert int(grown) < 64, f"{grown} MiB"


# ------------------------------------------------------------------------------------------------ the other way


def test_tracks_become_an_event_file(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    """TensorBoard reads doubles, steps and times as they are; what it writes comes back by an import."""
    import numpy as np
    from tensorboard.util.tensor_util import make_ndarray

    points = [
        {"_ts": 5.0, "step": 3, "value": 0.1, "n": 2**53, "text": "x"},
        {"_ts": 5.5, "step": 4, "value": math.nan, "flag": True, "list": [1.0]},
        {"_ts": 7.25, "value": -math.inf, "none": None},
    ]
    with Session("run", "w", lake_dir) as session:
        session.track("a/b").append_batch(points)
        session.track("plain").append_batch([{"_ts": float(i), "x": i / 7} for i in range(25_000)])
    out = tmp_path / "events"
    status, said, err = cli("export", "w/run", "-o", out, "--format", "tensorboard", "--path", lake_dir)
    assert (status, err) == (0, "")
    assert "left out, since they are no numbers: a/b/list, a/b/text" in said
    judge = EventAccumulator(str(out), size_guidance={"tensors": 0})
    judge.Reload()

    def tensors(tag: str) -> list[tuple[float, int, float]]:
        return [(e.wall_time, e.step, make_ndarray(e.tensor_proto).item()) for e in judge.Tensors(tag)]

    assert sorted(judge.Tags()["tensors"]) == ["a/b", "a/b/flag", "a/b/n", "plain/x"]
    assert equal(tensors("a/b"), [(5.0, 3, 0.1), (5.5, 4, math.nan), (7.25, 2, -math.inf)])
    assert tensors("a/b/n") == [(5.0, 3, float(2**53))]
    assert np.allclose([value for _, _, value in tensors("plain/x")], np.arange(25_000) / 7, rtol=0, atol=0)
    assert judge.SummaryMetadata("a/b").plugin_data.plugin_name == "scalars"
    take(out, lake_dir)
    for tag in judge.Tags()["tensors"]:
        assert equal(stored(lake_dir, "events", tag, "events"), tensors(tag))
    assert cli("export", "w/run", "-o", out, "--format", "tensorboard", "--path", lake_dir)[0] == 2
    assert cli("export", "w/run", "-o", out, "--format", "tensorboard", "--path", lake_dir, "--force")[0] == 0
    assert cli("export", "w/run", "-o", "-", "--format", "tensorboard", "--path", lake_dir)[0] == 2


def test_fields_that_would_be_one_tag_are_refused(cli: Any, tmp_path: Path, lake_dir: Path) -> None:
    with Session("run", "w", lake_dir) as session:
        session.track("train").append(loss=1.0, value=7.0)
        session.track("train/loss").append(value=2.0)
        session.track("train/lr").append(value=3.0)
    out = tmp_path / "events"
    options = ("--format", "tensorboard", "--path", lake_dir)
    status, said, err = cli("export", "w/run", "-o", out, *options)
    assert (status, said) == (2, "")
    assert "the field 'value' of the track 'train/loss' and 'loss' of 'train' would both be the tag 'train/loss'" in err
    assert not list(out.iterdir())
    assert cli("export", "w/run", "train", "train/lr", "-o", out, *options)[0] == 0
    judge = EventAccumulator(str(out), size_guidance={"tensors": 0})
    judge.Reload()
    assert sorted(judge.Tags()["tensors"]) == ["train", "train/loss", "train/lr"]
