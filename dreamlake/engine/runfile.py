"""session.json: what a run says of itself, read and replaced whole."""

import json
import os
from datetime import UTC, datetime
from typing import Any

import dreamlake.storage.local as local
from dreamlake.errors import CorruptTrackError
from dreamlake.format import about, layout, point

#: What a user says of a run.
DESCRIBING = ("description", "tags", "folder", "metadata")
#: Bytes that are kept free for how the run goes: the status, the times and the last timestamp.
SPARE = 4096


class RunFile:
    """The session.json of one session folder. Every change happens under the session's lock."""

    def __init__(self, folder: str, workspace: str, name: str, fsync: bool) -> None:
        self.folder = folder
        self.path = os.path.join(folder, layout.SESSION_FILE)
        self.workspace = workspace
        self.name = name
        self.fsync = fsync

    def read(self) -> dict[str, Any] | None:
        """Return what the file says, or None where there is none (or an empty one, after a power loss)."""
        data = local.read_if_there(self.path, most=layout.MAX_SMALL_BYTES)
        if not data:
            return None
        try:
            fields = about.check(about.decode(data))
        except ValueError as error:
            raise CorruptTrackError(self.path, "the whole file", None, None, str(error)) from error
        self._check_names(fields)
        return fields

    def _check_names(self, fields: dict[str, Any]) -> None:
        found = (fields.get("workspace", self.workspace), fields.get("name", self.name))
        if found != (self.workspace, self.name):
            raise ValueError(
                f"the session {self.workspace!r}/{self.name!r} would share the folder {self.folder} with the session "
                f"{found[0]!r}/{found[1]!r}: this disk does not tell the two names apart; rename one of them"
            )

    def update(self, **changes: Any) -> dict[str, Any]:
        """Merge `changes` into the file, made where it is missing; None changes nothing, metadata is merged by key.

        Raises ValueError when the file would be too large for its readers with what describes the run.
        """
        now = iso_now()
        stored = self.read() or {
            "name": self.name,
            "workspace": self.workspace,
            "description": None,
            "tags": [],
            "folder": None,
            "metadata": {},
            "createdAt": now,
            "updatedAt": now,
            "status": "running",
            "format_version": layout.FORMAT_VERSION,
        }
        for key, value in changes.items():
            if value is not None:
                stored[key] = {**(stored.get(key) or {}), **value} if key == "metadata" else value
        stored["updatedAt"] = now
        text = json.dumps(point.to_json(stored), ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"
        if any(changes.get(key) is not None for key in DESCRIBING):  # how the run goes must find room in any case
            about.check_size(text, f"session.json of {self.workspace}/{self.name}, metadata and all,", SPARE)
        local.atomic_write(self.path, text, self.fsync)
        return stored


def iso_now() -> str:
    """Return the time now as ISO 8601 text in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
