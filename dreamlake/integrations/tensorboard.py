"""TensorBoard event files: a folder that holds some is a run, a tag is a track."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any

from dreamlake.integrations.intake import Intake
from dreamlake.integrations.names import track_name
from dreamlake.integrations.run import ImportRefused, Run
from dreamlake.integrations.torn import Torn, tell_torn

#: A record is its length, the checksum of that, the data, and the checksum of these.
HEAD, TAIL = struct.Struct("<QI"), struct.Struct("<I")
#: No event is longer; a length above it is damage.
MOST_BYTES = 2 << 30
#: Plugins whose tensors are carried over, and what of the rest is called what. "" is a tensor that no plugin claims.
KEPT = frozenset({"", "scalars", "text", "histograms", "pr_curves"})
LEFT_OUT = {"images": "images", "audio": "audio clips"}
#: Items of a tensor that is stored as a list.
MOST_ITEMS = 50_000

KIND = "tensorboard"


def runs(source: str) -> Iterator[Run]:
    """The runs below a folder, by their paths, or the one of an event file.

    Raises
    ------
    ImportRefused
        There is no event file, or no such folder.
    ImportError
        What reads event files is not installed.
    """
    proto()
    source = os.path.abspath(os.path.expanduser(source))
    top = os.path.dirname(source) if os.path.isfile(source) else source
    whole = os.path.basename(top) or "tensorboard"
    found = False
    for folder, files in _folders(source):
        found = True
        below = os.path.relpath(folder, top).replace(os.sep, "/")
        ids = tuple(os.path.basename(file) for file in files)
        yield Run(
            kind=KIND,
            ids=ids,
            name=whole if below == "." else below,
            workspace=whole,
            source=folder,
            pour=partial(_pour, files=files),
            started=_first_time(files),
            gone_from=partial(_is_gone, ids),
        )
    if not found:
        what = "no event file of TensorBoard (its name has 'tfevents' in it) in it or below"
        raise ImportRefused(f"{source} has {what}" if os.path.exists(source) else f"{source} does not exist")


def _folders(source: str) -> Iterator[tuple[str, list[str]]]:
    if os.path.isfile(source):
        if "tfevents" in os.path.basename(source):
            yield os.path.dirname(source), [source]
        return
    for folder, below, names in os.walk(source):
        below.sort()
        # In the order of their names, as TensorBoard reads them; these begin with the time at which they were made.
        files = [os.path.join(folder, name) for name in sorted(names) if "tfevents" in name]
        if files:
            yield folder, files


def _is_gone(ids: tuple[str, ...], place: str) -> bool:
    return not any(os.path.lexists(os.path.join(place, file)) for file in ids)


def _first_time(files: list[str]) -> float | None:
    Event = proto()[0]
    from google.protobuf.message import DecodeError

    for file in files:
        for _, data in records(file):
            try:
                return float(Event.FromString(data).wall_time)
            except DecodeError:
                break
    return None


# ------------------------------------------------------------------------------------------------ files into events


def records(file: str) -> Iterator[tuple[int, bytes]]:
    """The records of an event file one by one, each with the place behind it; those before the first damage.

    The same as TensorBoard's own reader gives, in a tenth of its time: that computes the checksums in Python.
    """
    try:
        yield from checked_records(file)
    except Torn:
        return


def checked_records(file: str) -> Iterator[tuple[int, bytes]]:
    """As `records`; raises `Torn` where the file cannot be read to its end."""
    from google_crc32c import value as crc

    place = 0
    with open(file, "rb") as stream:
        while head := stream.read(HEAD.size):
            if len(head) < HEAD.size:
                raise Torn(place, damaged=False)
            length, checksum = HEAD.unpack(head)
            if checksum != masked(crc(head[:8])) or length > MOST_BYTES:
                raise Torn(place, damaged=True)
            data = stream.read(length)
            tail = stream.read(TAIL.size)
            if len(tail) < TAIL.size:
                raise Torn(place, damaged=False)
            if TAIL.unpack(tail)[0] != masked(crc(data)):
                raise Torn(place, damaged=True)
            place += HEAD.size + length + TAIL.size
            yield place, data


def masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def proto() -> tuple[Any, Any]:
    """The messages of event files, and what makes arrays of tensors."""
    try:
        import google_crc32c  # noqa: F401
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ImportError(
            f"event files need TensorBoard's package: pip install 'dreamlake[tensorboard]' ({error})"
        ) from error
    return Event, make_ndarray


# ------------------------------------------------------------------------------------------------ events into points


def _pour(intake: Intake, files: list[str]) -> None:
    from google.protobuf.message import DecodeError

    reader = _Reader(intake)
    for file in files:
        intake.part(os.path.basename(file))
        begin = 0
        try:
            for end, data in checked_records(file):
                try:
                    reader.take(data)
                except DecodeError:  # a right checksum over what is no event
                    raise Torn(begin, damaged=True) from None
                begin = end
        except Torn as torn:
            tell_torn(intake, file, torn)


class _Reader:
    """Events of one run into points."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._event, self._array = proto()
        #: What the event in hand takes in memory, in plain points.
        self._weight = 1
        #: The plugin of each tag, which only its first summary names, and its track.
        self._plugins: dict[str, str] = {}
        self._tracks: dict[str, str] = {}

    def take(self, data: bytes) -> None:
        self._weight = 1 + len(data) // 64
        event = self._event.FromString(data)
        what = event.WhichOneof("what")
        if what == "summary":
            for value in event.summary.value:
                self._value(event.wall_time, event.step, value)
        elif what in ("graph_def", "meta_graph_def", "tagged_run_metadata"):
            self._intake.leave_out("graphs")
        elif what == "log_message":
            self._intake.leave_out("log messages")

    def _value(self, ts: float, step: int, value: Any) -> None:
        tag = value.tag
        kind = value.WhichOneof("value")
        if kind == "simple_value":  # nearly all there is
            self._add(ts, tag, {"step": step, "value": value.simple_value})
            return
        if value.HasField("metadata"):
            self._plugins.setdefault(tag, value.metadata.plugin_data.plugin_name)
        plugin = self._plugins.get(tag, "")
        if plugin == "hparams":
            self._hparams(value.metadata.plugin_data.content)
        elif kind == "histo":
            histo = value.histo
            fields = {name: getattr(histo, name) for name in ("min", "max", "num", "sum", "sum_squares")}
            buckets = {"bucket_limit": list(histo.bucket_limit), "bucket": list(histo.bucket)}
            self._add(ts, tag, {"step": step, **fields, **buckets})
        elif kind == "tensor" and plugin in KEPT:
            self._tensor(ts, step, tag, plugin, value.tensor)
        elif kind in ("image", "audio"):
            self._intake.leave_out("images" if kind == "image" else "audio clips")
        elif kind is not None:
            self._intake.leave_out(LEFT_OUT.get(plugin, f"summaries of the plugin {plugin!r}" if plugin else "others"))

    def _tensor(self, ts: float, step: int, tag: str, plugin: str, tensor: Any) -> None:
        try:
            array = self._array(tensor)
        except (TypeError, ValueError):
            self._intake.leave_out("tensors of unknown types")
            return
        if array.size > MOST_ITEMS:
            self._intake.leave_out("large tensors")
            return
        plain = _plain(array.tolist())
        if plugin == "scalars" and array.size == 1:
            plain = array.reshape(-1)[0].item()
        name = {"histograms": "buckets", "pr_curves": "curve"}.get(plugin, "value")
        self._add(ts, tag, {"step": step, name: plain})

    def _add(self, ts: float, tag: str, fields: dict[str, Any]) -> None:
        track = self._tracks.get(tag)
        if track is None:
            track = self._tracks[tag] = track_name(tag)
        self._intake.add(track, ts, fields, tag=tag, weight=self._weight)

    def _hparams(self, content: bytes) -> None:
        """Parameters, and how the run ended, as the plugin for hyperparameters keeps them."""
        try:
            from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        except ImportError:
            self._intake.leave_out("hyperparameters")
            return
        said = HParamsPluginData.FromString(content)
        kind = said.WhichOneof("data")
        if kind == "session_start_info":
            self._intake.parameters({key: _parameter(value) for key, value in said.session_start_info.hparams.items()})
        elif kind == "session_end_info":
            self._intake.status = {2: "failed", 3: "running"}.get(said.session_end_info.status, "finished")


def _parameter(value: Any) -> Any:
    """What a google.protobuf.Value holds."""
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        return [_parameter(each) for each in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def _plain(value: Any) -> Any:
    """Text in the place of bytes that are one; TensorBoard keeps text as bytes."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value
