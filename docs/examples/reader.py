"""Reads a track from its folder as docs/format.md describes it, without dreamlake: read_track(Path("…/tracks/a"))."""

import base64
import datetime as dt
import json
import re
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SEGMENT = re.compile(r"(\d{12,})-(\d{12,})(?:\.([1-9]\d*))?\.parquet")
CRC_MARK = b"\x18\x16dreamlake.footer_crc32\x18\x08"


def read_track(folder: Path) -> list[dict]:
    """All points as {"index": …, "data": {fields …, "_ts": …}}. What fails on a live track is worth a second call."""
    hot, live = (folder / "data.jsonl").read_bytes() if (folder / "data.jsonl").exists() else b"", live_segments(folder)
    points = [point for name in live for point in read_segment(folder / name[3], *name[:3])]
    return points + read_hot(hot, below=live[-1][1] if live else 0)


def live_segments(folder: Path) -> list[tuple]:
    names = [(int(m[1]), int(m[2]), int(m[3] or 0), m[0]) for p in folder.iterdir() if (m := SEGMENT.fullmatch(p.name))]
    live, end = [], 0
    for name in sorted(names, key=lambda name: (name[0], -name[1], -name[2])):
        if name[0] > end or name[0] < end < name[1]:
            raise ValueError(f"{folder}: the segments do not tile at index {min(name[0], end)}")
        if name[0] == end:
            live, end = [*live, name], name[1]
    return live


def read_segment(path: Path, start: int, stop: int, generation: int) -> list[dict]:
    data = path.read_bytes()
    tail = data[-8 - int.from_bytes(data[-8:-4], "little") :]
    at = tail.rfind(CRC_MARK) + len(CRC_MARK)
    if b"%08x" % zlib.crc32(tail[:at] + b"00000000" + tail[at + 8 :]) != tail[at : at + 8] or data[-4:] != b"PAR1":
        raise ValueError(f"{path}: the footer is damaged")
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    about, table = json.loads(file.metadata.metadata[b"dreamlake.segment"]), file.read()
    lists = {name: table[name].cast(plain(table[name].type)).to_pylist() for name in table.column_names}
    index, nones = lists["_index"], lists.get("_none") or [None] * len(table)
    there = range(start, stop) if about["tsMin"] <= about["tsMax"] else []  # where its points are lost
    if [about["version"], about["generation"], index] != [1, generation, list(there)]:
        raise ValueError(f"{path}: it is not what its name says")
    kinds = {**about["schema"], "_ts": "double"}
    rows = ([k for k in kinds if lists[k][at] is not None or k in (nones[at] or ())] for at in range(len(index)))
    points = ({k: restored(lists[k][at], kinds[k]) for k in row} for at, row in enumerate(rows))
    return [{"index": index, "data": point} for index, point in enumerate(points, start)]


def plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(pa.field("element", plain(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain(field.type)) for field in kind])
    return pa.int64() if pa.types.is_timestamp(kind) else getattr(kind, "storage_type", kind)


def restored(value: object, kind: object) -> object:
    if value is None or kind == "json":
        return value and from_json(json.loads(value))
    if isinstance(kind, dict):
        struct = {k: restored(value[k], inner) for k, inner in kind.get("struct", {}).items()}
        return struct or [restored(item, kind["list"]) for item in value]
    if not kind.startswith("timestamp"):
        return value
    epoch = date("1970-01-01T00:00:00.000000" + kind[10:].replace("UTC", "+00:00"))
    return epoch + (dt.timedelta(microseconds=value) + (epoch.utcoffset() or dt.timedelta(0)))


def read_hot(data: bytes, below: int) -> list[dict]:
    points = {}
    for item in map(json.loads, data.split(b"\n")[:-1]):  # what follows the last newline is torn
        if item["index"] >= below:
            fields = {k.removeprefix("$"): from_json(value) for k, value in item["data"].items()}
            point = points[item["index"]] = {**points.get(item["index"], {}), **fields}
            point["_ts"] = point.pop("_ts")
    if sorted(points) != list(range(below, below + len(points))):
        raise ValueError("points are missing in the hot file")
    return [{"index": index, "data": points[index]} for index in sorted(points)]


def from_json(value: object) -> object:
    if isinstance(value, dict):
        special = SPECIALS.get(next(iter(value), "")) if len(value) == 1 else None
        return special(*value.values()) if special else {k.removeprefix("$"): from_json(v) for k, v in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def date(text: str) -> dt.datetime:
    offset = dt.datetime.fromisoformat(f"0001-01-01T{text[27:] or '00:00'}") - dt.datetime.min
    moment = dt.datetime.fromisoformat(text[:26])
    return moment.replace(tzinfo=dt.timezone(-offset if text[26] == "-" else offset)) if text[26:] else moment


INT, BYTES = (lambda text: int(text, 16)), (lambda form: base64.b64decode(form["base64"]))
SPECIALS = {"$numberDouble": float, "$numberInt": INT, "$binary": BYTES, "$date": date}
