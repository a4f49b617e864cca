"""What is said of uploaded files: ``.files_metadata.json`` into checked records and back, and records of many merged.

Of one place (path and name) the record whose ``updatedAt`` is latest counts. A deleted file keeps its record, with
``deletedAt`` set, or what another machine says of it would bring it back. So records can be merged in any order, any
number of times, and come to the same.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from dreamlake.format import layout
from dreamlake.format.extjson import from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

    from dreamlake.types import FileRecord

#: Longest ``.files_metadata.json``: some hundred thousand files.
MAX_BYTES = 64 << 20

_KINDS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "path": str,
    "filename": str,
    "description": (str, type(None)),
    "tags": list,
    "contentType": str,
    "sizeBytes": int,
    "checksum": str,
    "metadata": dict,
    "uploadedAt": str,
    "updatedAt": str,
    "deletedAt": (str, type(None)),
}
#: Places and ids that keep all rules, as most do: what is slow to look at, need not be.
_PLAIN_PATH = re.compile(r"/(?:\w[\w-]{0,30}(?:/\w[\w-]{0,30}){0,8})?", re.ASCII)
_PLAIN_NAME = re.compile(r"\w[\w.-]{0,80}", re.ASCII)
_PLAIN_ID = re.compile(r"f-[0-9a-f]{16}")
_DEFAULTS: dict[str, Any] = {"description": None, "contentType": "application/octet-stream", "deletedAt": None}


def encode(records: Iterable[FileRecord]) -> bytes:
    """The bytes of the file that says this; a line a record."""
    lines = [json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) for record in records]
    return ('{"files": [' + ",".join(f"\n{line}" for line in lines) + "\n]}\n").encode()


def decode(data: bytes) -> list[FileRecord]:
    """The records in the bytes of such a file, each checked as what a stranger wrote.

    Raises
    ------
    ValueError
        It is no such file; or one of the records is none, or names a place outside of the session's files.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_refuse)
        # The file's object, its list, a record, and the object in it that holds the user's are no nesting of a value.
        fields = from_json(value, -4)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate could never be written again
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from error
    files = fields.get("files") if isinstance(fields, dict) else None
    if not isinstance(files, list):
        raise ValueError("it is no JSON object with a list 'files'")
    return [_checked(record, number) for number, record in enumerate(files)]


def _checked(record: Any, number: int) -> FileRecord:
    if not isinstance(record, dict):
        raise ValueError(f"files[{number}] is not an object")
    record = {**_DEFAULTS, "tags": [], "metadata": {}, **record}
    record |= {key: empty for key, empty in (("tags", []), ("metadata", {})) if record[key] is None}
    for key, kinds in _KINDS.items():
        value = record.get(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"the {key!r} of files[{number}] is {value!a:.80}")
    try:
        if not _PLAIN_ID.fullmatch(record["id"]):
            layout.check_file_id(record["id"])
        plain = _PLAIN_PATH.fullmatch(record["path"]) and _PLAIN_NAME.fullmatch(record["filename"])
        if not plain and layout.check_file(record["path"], record["filename"])[0] != record["path"]:
            raise ValueError(f"its path is {record['path']!a:.80}, which begins or ends otherwise than a path does")
        if not all(isinstance(tag, str) for tag in record["tags"]):
            raise ValueError("its tags are not all texts")
        if record["sizeBytes"] < 0:
            raise ValueError(f"its size is {record['sizeBytes']}")
        if len(record["checksum"]) != 64 or record["checksum"].strip("0123456789abcdef"):
            raise ValueError(f"its checksum is no SHA-256 in hex: {record['checksum']!a:.80}")
        for key in ("uploadedAt", "updatedAt", "deletedAt"):
            if record[key] is not None:
                _moment(record[key])
    except ValueError as error:
        raise ValueError(f"files[{number}]: {error}") from error
    return in_order(record)


def in_order(fields: dict[str, Any]) -> FileRecord:
    """The fields of a record, in the order in which records have them."""
    found: Any = {key: fields[key] for key in _KINDS} | fields
    record: FileRecord = found
    return record


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not strict JSON")


def _moment(iso: str) -> datetime:
    at = datetime.fromisoformat(iso)
    if at.tzinfo is None or not 1900 < at.year < 9000:
        raise ValueError(f"{iso!a:.80} is no time with an offset from UTC")
    return at.astimezone(UTC)


# ------------------------------------------------------------------------------------------------ what records say


def key(record: FileRecord) -> tuple[str, str]:
    """The place that a record is about."""
    return record["path"], record["filename"]


def place(record: FileRecord) -> str:
    """The place of a file as people write it: ``"/models/weights.pt"``."""
    return f"{record['path'].removesuffix('/')}/{record['filename']}"


def stored_path(record: FileRecord) -> str:
    """Where its bytes are, from the session's folder on."""
    return _file_path(record["path"], record["id"], record["filename"])


_file_path = lru_cache(maxsize=1 << 15)(layout.file_path)


def is_live(record: FileRecord) -> bool:
    """Whether it was not deleted."""
    return record["deletedAt"] is None


def version(record: FileRecord) -> tuple[datetime, str]:
    """What is greater of the later of two records about one place."""
    return _moment(record["updatedAt"]), record["id"]


def later_than(now: str, before: FileRecord | None) -> str:
    """The time `now`, or one just after a record that it replaces, should the clock be behind that."""
    if before is None or _moment(before["updatedAt"]) < _moment(now):
        return now
    return (_moment(before["updatedAt"]) + timedelta(microseconds=1)).isoformat(timespec="microseconds")


def merged(records: Iterable[FileRecord]) -> list[FileRecord]:
    """The records that count among these, sorted by path and name."""
    found: dict[tuple[str, str], FileRecord] = {}
    for record in records:
        there = found.get(key(record))
        if there is None or version(there) < version(record):
            found[key(record)] = record
    return [found[each] for each in sorted(found)]
