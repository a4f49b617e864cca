"""Tracks written as an event file of TensorBoard: each field of numbers is a tag."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pyarrow as pa

#: The field that gives a track's tag its bare name, as TensorBoard's own scalars have when they are imported.
VALUE, STEP = "value", "step"


class SameTag(ValueError):
    """Two fields would be one tag, and TensorBoard would draw both as one curve."""


class EventFile:
    """An event file that is being written.

    Parameters
    ----------
    file
        Where to; from its beginning.
    started
        The time of the event that names the file's version, in seconds since the epoch.

    Raises
    ------
    ImportError
        TensorBoard's package is not installed.
    """

    def __init__(self, file: BinaryIO, started: float) -> None:
        from dreamlake.integrations.tensorboard import proto

        self._event = proto()[0]
        from google_crc32c import value
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_DOUBLE

        self._crc = value
        self._file = file
        self._summary, self._metadata = Summary, SummaryMetadata
        self._tensor, self._double = TensorProto, DT_DOUBLE
        #: What each tag is of: track and field.
        self._known: dict[str, tuple[str, str]] = {}
        self._write(self._event(wall_time=started, file_version="brain.Event:2"))

    def add(self, track: str, table: pa.Table, first: int) -> list[str]:
        """Write the fields of numbers of some points, the first of which has this index; return the other fields.

        The step is the field ``step``, where that is a whole number, else the point's index.

        Raises
        ------
        SameTag
            A field has the tag of a field of another track, as ``value`` of ``a/b`` that of ``b`` of ``a``. The file is
            not to be used then.
        """
        numbers, others = _columns(table)
        times = table.column("_ts").to_pylist()
        steps = numbers.pop(STEP, None) if _is_whole(table, STEP) else None
        for at, ts in enumerate(times):
            step = steps[at] if steps is not None else None
            values = [
                self._value(track, name, column[at]) for name, column in numbers.items() if column[at] is not None
            ]
            if values:
                step = first + at if step is None else step
                self._write(self._event(wall_time=ts, step=step, summary=self._summary(value=values)))
        return others

    def _value(self, track: str, field: str, number: Any) -> Any:
        tag = track if field == VALUE else f"{track}/{field}"
        tensor = self._tensor(dtype=self._double, double_val=[float(number)], tensor_shape={})
        value = self._summary.Value(tag=tag, tensor=tensor)
        known = self._known.get(tag)
        if known is None:  # as TensorFlow writes it: the first of a tag says what it is
            self._known[tag] = track, field
            plugin = self._metadata.PluginData(plugin_name="scalars")
            value.metadata.CopyFrom(self._metadata(plugin_data=plugin, data_class="DATA_CLASS_SCALAR"))
        elif known != (track, field):
            raise SameTag(
                f"the field {field!r} of the track {track!r} and {known[1]!r} of {known[0]!r} would both be the tag "
                f"{tag!r}; export one of the tracks into a folder of its own"
            )
        return value

    def _write(self, event: Any) -> None:
        from dreamlake.integrations.tensorboard import masked

        data = event.SerializeToString()
        head = struct.pack("<Q", len(data))
        self._file.write(head + struct.pack("<I", masked(self._crc(head))) + data)
        self._file.write(struct.pack("<I", masked(self._crc(data))))


def _columns(table: pa.Table) -> tuple[dict[str, list[Any]], list[str]]:
    """The columns of numbers, and the names of the others."""
    import pyarrow as pa

    numbers, others = {}, []
    for name in table.column_names:
        kind = table.schema.field(name).type
        if name[:1] == "_" or pa.types.is_null(kind):
            continue
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            numbers[name] = table.column(name).to_pylist()
        else:
            others.append(name)
    return numbers, others


def _is_whole(table: pa.Table, name: str) -> bool:
    import pyarrow as pa

    return name in table.column_names and bool(pa.types.is_integer(table.schema.field(name).type))
