"""metadata.json of a track: its name and what it was described with, made with the track's folder."""

import os
from typing import Any

import msgspec

import dreamlake.storage.local as local
from dreamlake.errors import CorruptTrackError
from dreamlake.format import about, extjson, layout


class TooMuchSaidError(ValueError):
    """metadata.json would be too large for its readers; nothing of it was written."""


class TrackFile:
    """The metadata.json of one track folder. Every change happens under the session's lock."""

    def __init__(self, folder: str, name: str, segment_points: int, fsync: bool) -> None:
        self.folder = folder
        self.name = name
        self.segment_points = segment_points
        self.fsync = fsync
        self.path = os.path.join(folder, layout.METADATA_FILE)

    def update(self, described: dict[str, Any]) -> bool:
        """Make the track's folder with its metadata.json, or merge `described` into the one that is there.

        Returns whether the folder was made: then there is nothing else in it.

        Raises ValueError when the folder belongs to a track of another name, as it can where the disk folds case or
        normalises unicode; and TooMuchSaidError.
        """
        is_new = local.make_dirs(self.folder, self.fsync)
        stored = None if is_new else self._read()
        merged = self._merged(stored, described)
        if merged != stored:
            local.atomic_write(self.path, self._encoded(merged), self.fsync)
        elif described and self.fsync:
            local.fsync_dir(self.folder)  # as it may have failed when this was written
        return is_new

    def size_with(self, described: dict[str, Any]) -> int:
        """The length of the file with `described` merged into what is there now; nothing is written.

        Raises ValueError as `update`, and OSError.
        """
        return len(self._encoded(self._merged(self._read(), described)))

    def _merged(self, stored: dict[str, Any] | None, described: dict[str, Any]) -> dict[str, Any]:
        if stored is None:
            empty: dict[str, Any] = {"name": self.name, "description": None, "tags": [], "metadata": {}}
            # The id: two machines that begin one track at one moment would else make the same file, and each take the
            # other's upload of it for its own.
            extra = {
                "segment_points": self.segment_points,
                "format_version": layout.FORMAT_VERSION,
                "id": make_id(),
            }
            stored = {**empty, **extra}
        return merge_description(stored, described)

    def _encoded(self, fields: dict[str, Any]) -> bytes:
        text = msgspec.json.format(extjson.encoder().encode(extjson.to_json(fields)), indent=1) + b"\n"
        try:
            return about.check_size(text, f"what the track {self.name!r} is described with")
        except ValueError as error:
            raise TooMuchSaidError(str(error)) from None

    def _read(self) -> dict[str, Any] | None:
        """Return what the file says; None where there is none, or an empty one after a power loss."""
        data = local.read_if_there(self.path, most=layout.MAX_SMALL_BYTES)
        if not data:
            return None
        stored = _decode(self.path, data)
        if stored.get("name", self.name) != self.name:
            raise ValueError(
                f"the track {self.name!r} would share the folder {self.folder} with the track {stored['name']!r}: "
                "this disk does not tell the two names apart; rename one of them"
            )
        return stored


def make_id() -> str:
    """Return an id that no other track has."""
    return os.urandom(8).hex()


def is_described_alike(one: bytes, other: bytes) -> bool:
    """Whether two machines say the same of a track, in the bytes of their metadata.json; each has an id of its own."""
    try:
        first, second = (about.decode(data) for data in (one, other))
    except ValueError:
        return False
    return {**first, "id": None} == {**second, "id": None}


def merge_description(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Merge a description, tags and metadata that were given later into the stored ones; later values win."""
    merged = dict(stored)
    for key, value in given.items():
        if value is not None:
            merged[key] = {**(stored.get(key) or {}), **value} if key == "metadata" else value
    return merged


def _decode(path: str, data: bytes) -> dict[str, Any]:
    try:
        return about.check(about.decode(data))
    except ValueError as error:
        raise CorruptTrackError(path, "the whole file", None, None, str(error)) from error
