"""One track of an import: which of its points came from which part of the source, and what waits to be appended."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

from dreamlake.engine.batch import append_batch
from dreamlake.errors import TrackNotFoundError
from dreamlake.integrations.run import MARK, ImportRefused, Told
from dreamlake.lake import SessionView
from dreamlake.session import Session

#: What `add_missing` compares of a point: time, step and value, with a text for NaN, which is unequal to itself.
Key = tuple[float, int, float | str]

#: Fields of which it is said why their values are left out; a file may have any number of keys.
MOST_REASONS = 20


class Series:
    """See the module.

    Parameters
    ----------
    tag
        What the source calls it, where that is no track's name.
    force
        Whether the track may have points that no import has noted.
    """

    def __init__(self, session: Session, view: SessionView, told: Told, name: str, tag: str, force: bool) -> None:
        self.name = name
        self.part: str | None = None
        #: Points of the part that are stored, and those that its reading has met so far.
        self.have = self.seen = 0
        #: What waits, and what it takes in memory, in plain points.
        self.waiting: list[dict[str, Any]] = []
        self.weight = 0
        self._session = session
        self._told = told
        self._tag = tag
        self._view = view.track(name)
        try:
            self.total = len(self._view)
            mark = (self._view._reader.metadata().get("metadata") or {}).get(MARK) or {}
        except TrackNotFoundError:
            self.total, mark = 0, {}
        #: From this index on, points are of this part, from this place in it on.
        self._origins = [(int(start), str(part), int(place)) for start, part, place in mark.get("parts", [])]
        self._newest = -1
        self._reasons: dict[str, str] = {}
        if self.total and not self._origins and not force:
            raise ImportRefused(
                f"the track {name!r} of {told.run} has {self.total:,} points that no import has brought; "
                "--force adds to them, and --name makes another session"
            )
        told.tracks += 1
        told.total += self.total

    def enter(self, part: str) -> None:
        """Begin to read a part from its beginning."""
        self.part, self.seen, self.have = part, 0, 0
        stops = [start for start, _, _ in self._origins[1:]] + [self.total]
        for (start, of, place), stop in zip(self._origins, stops, strict=False):  # no origin, one stop
            if of == part and stop > start:
                self.have, self._newest = place + stop - start, stop - 1

    def check_same(self, ts: float | None, fields: dict[str, Any]) -> None:
        """Refuse a source whose point at the place of the newest one that is stored is another; tell of new fields."""
        stored = self._view.read(self._newest, 1)["data"][0]["data"]
        stored_ts = stored.pop("_ts")
        same = all(alike(fields.get(name), stored[name]) or _says(fields.get(name), stored[name]) for name in stored)
        if (ts is not None and ts != stored_ts) or not same:
            raise ImportRefused(
                f"point {self.have - 1:,} of {self.name!r} in {self.part or self._told.source} is not the one that was "
                f"imported into {self._told.run}: the source was replaced, or something else wrote to the session; "
                "import it under another --name"
            )
        more = [name for name, value in fields.items() if name not in stored and value is not None]
        added = self._fitting({name: fields[name] for name in more}, Counter())
        if added:
            self._told.notes.append(
                f"{self.name}: point {self.have - 1:,} in {self.part or self._told.source} has fields now that it had "
                f"not when it was imported: {', '.join(map(repr, added))}; points that are here stay as they are, so "
                "import it under another --name to have them"
            )

    def stored_keys(self) -> list[Key]:
        """Time, step and value of each stored point, as `key_of` gives them."""
        if not self.total:
            return []
        points = self._view.to_arrow()
        columns = [points[name].to_pylist() for name in ("_ts", "step", "value")]
        return [key_of(*row) for row in zip(*columns, strict=True)]

    def put(self, fields: dict[str, Any], weight: int) -> None:
        """Let a point wait, which is the one just seen."""
        self.waiting.append(fields)
        self.weight += weight

    def flush(self) -> int:
        """Append what waits; return how many points that were."""
        rows, self.waiting, self.weight = self.waiting, [], 0
        if rows:
            self._note_origin(self.seen - len(rows))
            self._append(rows)
            self.total += len(rows)
            self._told.points += len(rows)
            self._told.total += len(rows)
        return len(rows)

    def _note_origin(self, place: int) -> None:
        """Have the metadata say, before the points are there, of which part and place those from here on are."""
        assert self.part is not None
        while self._origins and self._origins[-1][0] >= self.total:  # its points were never written
            self._origins.pop()
        if self._origins:
            start, part, first = self._origins[-1]
            if part == self.part and first + self.total - start == place:
                return
        self._origins.append((self.total, self.part, place))
        mark: dict[str, Any] = {"parts": [list(origin) for origin in self._origins]}
        if self._tag != self.name:
            mark["tag"] = self._tag
        self._session.track(self.name, metadata={MARK: mark}).flush()

    def _append(self, rows: list[dict[str, Any]]) -> None:
        writer = self._session.writer
        track = writer.track(self.name)
        try:
            result = append_batch(writer, track, rows, merge=False)
        except (TypeError, ValueError):
            result = append_batch(writer, track, [self._fitting(row, self._told.left_out) for row in rows], merge=False)
        if result["startIndex"] is None:
            self._session.flush()
            raise OSError(f"the points of {self.name!r} could not be written; import again")
        if (result["startIndex"], result["endIndex"]) != (self.total, self.total + len(rows)):
            raise ImportRefused(f"something else writes to {self.name!r} of {self._told.run} meanwhile; import again")

    def _fitting(self, row: dict[str, Any], left_out: Counter[str]) -> dict[str, Any]:
        """The point without the fields that no point may hold, which are counted; the point itself keeps its place."""
        from dreamlake.format.foreign import too_large
        from dreamlake.format.point import take, take_name, take_value

        kept: dict[str, Any] = {}
        sizes: dict[str, int] = {}
        for name, value in row.items():
            try:
                if name != "_ts":
                    take_name(name)
                sizes[name] = take_value(name, value)[1]
                kept[name] = value
            except (TypeError, ValueError) as error:
                left_out[self._reason(name, error)] += 1
        while True:
            try:
                take({name: value for name, value in kept.items() if name != "_ts"})
                return kept
            except ValueError:  # only their sum is too much
                largest = max((name for name in kept if name != "_ts"), key=lambda name: sizes[name])
                del kept[largest]
                left_out[self._reason(largest, too_large(largest))] += 1

    def _reason(self, name: str, error: Exception) -> str:
        """What is said of the values of a field that cannot be stored: why the first of them cannot."""
        from dreamlake.format.foreign import too_large

        if str(error) == str(too_large(name)):
            why = "would make a point larger than 1 MB"
        else:
            why = str(error).removeprefix(f"field {name!r}: ")
        if name not in self._reasons and len(self._reasons) >= MOST_REASONS:
            return f"values of other fields of {self.name!r} that cannot be stored"
        return f"values of {name!r} ({self._reasons.setdefault(name, why)})"


def key_of(ts: float, step: int, value: float) -> Key:
    """What `add_missing` compares of a point."""
    return ts, step, "nan" if value != value else value


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same, whatever became of their types on the way: 1 is 1.0, and NaN is NaN."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return bool(one == other) or str(one) == str(other)


def _says(text: Any, value: Any) -> bool:
    """Whether a text is another form of this value, as 0.250 is of 0.25: a column of CSV may become one of texts."""
    if not isinstance(text, str):
        return False
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    if isinstance(value, (int, float)):
        with suppress(ValueError):
            return alike(type(value)(text), value)
    return False
