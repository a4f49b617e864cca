"""Weights & Biases: the `.wandb` file that each run leaves, offline ones too, and a history that was exported."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from dreamlake.integrations import tables
from dreamlake.integrations.intake import Intake
from dreamlake.integrations.names import field_name
from dreamlake.integrations.run import ImportRefused, Run
from dreamlake.integrations.torn import Torn, tell_torn

#: The file begins with ":W&B", a magic number and a version; it goes on as a log of LevelDB does, in blocks.
FILE_HEAD, MAGIC, CHUNK = struct.Struct("<4sHB"), 0xBEE1, struct.Struct("<IHB")
BLOCK = 32_768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
#: The CRC of each of these kinds of chunk, which that of its data goes on from.
KINDS = {kind: zlib.crc32(bytes([kind])) for kind in (FULL, FIRST, MIDDLE, LAST)}

KIND = "wandb"
#: What dreamlake names fields of its own of the history; a user's key of such a name gets "_" behind it.
OURS = frozenset({"step", "runtime"})
#: Records before the one that describes the run, at most.
PREAMBLE = 100
EXPORTED = (".csv", ".jsonl", ".parquet")


def runs(source: str) -> Iterator[Run]:
    """The runs of a `.wandb` file, of a run's folder, or of all folders below; or the one of an exported history.

    Raises
    ------
    ImportRefused
        There is none, or no such folder.
    ImportError
        wandb, which knows what the records mean, is not installed.
    """
    source = os.path.abspath(os.path.expanduser(source))
    if os.path.isfile(source) and source.lower().endswith(EXPORTED):
        yield _exported(source)
        return
    files = _files(source)
    if not files:
        what = "no .wandb file in it or below, and is no exported history (.csv, .jsonl, .parquet)"
        raise ImportRefused(f"{source} has {what}" if os.path.exists(source) else f"{source} does not exist")
    Record = _record_type()
    # A run that was resumed has several files, each in a folder named by its time.
    of_run: dict[tuple[str, str], list[tuple[str, str, Any]]] = {}
    for file in files:
        said = _said_first(file, Record)
        if said is None:
            yield _unknown(file)
        else:
            of_run.setdefault((said[1].project, said[1].run_id), []).append((file, *said))
    for (project, id), parts in of_run.items():
        name = next((said.display_name for _, _, said in reversed(parts) if said.display_name), "")
        yield Run(
            kind=KIND,
            ids=(f"{project}/{id}",),
            name=name or id,
            other_name=f"{name}-{id}" if name else None,
            workspace=project or "uncategorized",
            source=os.path.dirname(parts[0][0]),
            pour=partial(_pour, files=[(file, part) for file, part, _ in parts]),
            started=_moment(parts[0][2].start_time),
        )


def _unknown(file: str) -> Run:
    """A file that says of no run, so that not even its project is known."""
    return Run(
        kind=KIND,
        ids=(file,),
        name=os.path.basename(file),
        workspace="uncategorized",
        source=file,
        pour=lambda intake: None,
        refusal=f"{file} ends, or is damaged, before the record that says which run it is of; nothing in it can be had",
    )


def _files(source: str) -> list[str]:
    if os.path.isfile(source):
        return [source] if source.endswith(".wandb") else []
    found = []
    for folder, below, names in os.walk(source):
        below.sort()
        found += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".wandb")]
    return sorted(found, key=lambda file: (_time_in_name(file), file))


def _time_in_name(file: str) -> str:
    folder = os.path.basename(os.path.dirname(file))
    found = re.search(r"\d{8}_\d{6}", folder)
    return found.group() if found else ""


def _record_type() -> Any:
    try:
        from wandb.proto.wandb_internal_pb2 import Record
    except ImportError as error:
        raise ImportError(f".wandb files need the wandb package: pip install 'dreamlake[wandb]' ({error})") from error
    return Record


def _said_first(file: str, Record: Any) -> tuple[str, Any] | None:
    """What names the file wherever it is copied to, and its record that describes the run; None before that is there.

    Those of a resumed run have one name and lie in different folders, but each describes the run anew.
    """
    from google.protobuf.message import DecodeError

    try:
        for number, (_, data) in enumerate(records(file)):
            record = Record.FromString(data)
            if record.HasField("run"):
                return f"{os.path.basename(file)}#{hashlib.sha256(data).hexdigest()[:12]}", record.run
            if number > PREAMBLE:
                break
    except (Torn, DecodeError):
        pass
    return None


# ------------------------------------------------------------------------------------------------ files into records


def records(file: str) -> Iterator[tuple[int, bytes]]:
    """The records of a `.wandb` file one by one, each with the place behind it.

    Raises `Torn` where the file cannot be read to its end.
    """
    with open(file, "rb") as stream:
        block, place = stream.read(BLOCK), 0
        if len(block) < FILE_HEAD.size:
            raise Torn(0, damaged=False)
        if FILE_HEAD.unpack_from(block)[:2] != (b":W&B", MAGIC):
            raise ImportRefused(f"{file} does not begin as a .wandb file does")
        at = FILE_HEAD.size
        parts: list[bytes] = []
        begun = 0  # where the record begins that the chunk belongs to
        while block:
            while at + CHUNK.size <= BLOCK:
                head = block[at : at + CHUNK.size]
                if not head and not parts:
                    return
                begun = begun if parts else place + at
                if len(head) < CHUNK.size:
                    raise Torn(begun, damaged=False)
                checksum, length, kind = CHUNK.unpack(head)
                data = block[at + CHUNK.size : at + CHUNK.size + length]
                if kind not in KINDS or at + CHUNK.size + length > BLOCK:
                    raise Torn(begun, damaged=any(block[at:]))  # zeros: room that was made and not written yet
                if len(data) < length:
                    raise Torn(begun, damaged=False)
                if zlib.crc32(data, KINDS[kind]) != checksum or (kind in (FULL, FIRST)) == bool(parts):
                    raise Torn(begun, damaged=True)
                parts.append(data)
                at += CHUNK.size + length
                if kind in (FULL, LAST):
                    yield place + at, b"".join(parts)
                    parts = []
            if any(block[at:]):
                raise Torn(begun, damaged=True)
            place += len(block)
            block, at = stream.read(BLOCK), 0
        if parts:
            raise Torn(begun, damaged=False)


# ------------------------------------------------------------------------------------------------ records into points


def _pour(intake: Intake, files: list[tuple[str, str]]) -> None:
    from google.protobuf.message import DecodeError

    Record = _record_type()
    reader = _Reader(intake)
    for file, part in files:
        intake.part(part)
        reader.begin()
        begin = 0
        try:
            for end, data in records(file):
                try:
                    record = Record.FromString(data)
                except DecodeError:  # a right checksum over what is no record
                    raise Torn(begin, damaged=True) from None
                reader.take(record)
                begin = end
        except Torn as torn:
            tell_torn(intake, file, torn)
    reader.finish()


class _Reader:
    """Records of one run into points, parameters and what the session says of it."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._config: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._run: dict[str, Any] = {}
        self._started = 0.0

    def begin(self) -> None:
        """A file begins; until it says otherwise, its run has not ended."""
        self._intake.status = "running"

    def take(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "history":
            self._history(record.history)
        elif kind == "stats":
            values = {field_name(item.key): _value(item.value_json) for item in record.stats.item}
            ts = _moment(record.stats.timestamp) or self._started
            self._intake.add("system", ts, values, weight=1 + len(values) // 4)
        elif kind in ("output", "output_raw"):
            self._output(getattr(record, kind))
        elif kind == "run":
            self._describe(record.run)
        elif kind == "config":
            _change(self._config, record.config)
        elif kind == "summary":
            _change(self._summary, record.summary)
        elif kind == "exit":
            self._intake.status = "failed" if record.exit.exit_code else "finished"
        elif kind == "artifact":
            self._intake.leave_out("artifacts")
        elif kind == "alert":
            self._intake.leave_out("alerts")

    def _history(self, history: Any) -> None:
        row: dict[str, Any] = {}
        for item in sorted(history.item, key=_path):  # wandb writes them in any order
            _put(row, _path(item), _value(item.value_json))
        if "_step" not in row and history.HasField("step"):
            row["_step"] = history.step.num
        add_row(self._intake, row, self._started, weight=1 + sum(len(i.value_json) for i in history.item) // 64)

    def _output(self, output: Any) -> None:
        stream = "stderr" if output.output_type == 0 else "stdout"
        fields = {"stream": stream, "text": output.line}
        ts = _moment(output.timestamp) or self._started
        self._intake.add("output", ts, fields, weight=1 + len(output.line) // 64)

    def _describe(self, run: Any) -> None:
        self._started = self._started or _moment(run.start_time) or 0.0
        _change(self._config, run.config)
        _change(self._summary, run.summary)
        if run.notes:
            self._intake.description = run.notes
        if run.tags:
            self._intake.tags = list(run.tags)
        said = {
            "entity": run.entity,
            "project": run.project,
            "runId": run.run_id,
            "displayName": run.display_name,
            "group": run.run_group,
            "jobType": run.job_type,
            "sweepId": run.sweep_id,
            "host": run.host,
        }
        self._run.update({key: value for key, value in said.items() if value})

    def finish(self) -> None:
        """Hand over what only the whole file says."""
        self._intake.parameters({key: value for key, value in self._config.items() if key != "_wandb"})
        summary = {key: value for key, value in self._summary.items() if key[:1] != "_"}
        self._intake.about(**self._run, summary=summary)


def add_row(intake: Intake, row: dict[str, Any], otherwise: float, weight: int = 1) -> None:
    """Add a row of the history to its track: `_step` as `step`, `_runtime` as `runtime`, at its `_timestamp`."""
    ts = row.pop("_timestamp", None)
    if not isinstance(ts, (int, float)) or isinstance(ts, bool):
        runtime = row.get("_runtime")
        ts = otherwise + runtime if isinstance(runtime, (int, float)) else otherwise
    fields = {name[1:]: row.pop(name) for name in ("_step", "_runtime") if name in row}
    for key in row:
        fields[field_name(key, OURS)] = row[key]
    intake.add("history", float(ts), fields, weight=weight)


def _change(values: dict[str, Any], record: Any) -> None:
    """Bring the updates and removals of a record of config or summary into what it is about."""
    for item in record.update:
        _put(values, _path(item), _value(item.value_json))
    for item in record.remove:
        path = _path(item)
        inner: Any = values
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(path[-1], None)


def _value(text: str) -> Any:
    """A value as wandb keeps it; text that is no JSON as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _path(item: Any) -> list[str]:
    return list(item.nested_key) or [item.key]


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    values[path[-1]] = value


def _moment(timestamp: Any) -> float | None:
    """Seconds since the epoch of a google.protobuf.Timestamp; None where it is not set."""
    seconds = timestamp.seconds + timestamp.nanos / 1e9
    return float(seconds) or None


# ------------------------------------------------------------------------------------------------ exported histories


def _exported(file: str) -> Run:
    name = os.path.splitext(os.path.basename(file))[0]
    return Run(
        kind=KIND,
        ids=(os.path.realpath(file),),
        name=name,
        workspace="uncategorized",
        source=file,
        pour=partial(_pour_exported, file=file),
    )


def _pour_exported(intake: Intake, file: str) -> None:
    """The rows of `run.history()` or `run.scan_history()`, which a script wrote to a file."""
    intake.part(os.path.basename(file))
    for row, size in tables.rows(file, intake):
        if "_step" not in row and "_timestamp" not in row:
            raise ImportRefused(
                f"{file} has neither _step nor _timestamp, as a history of wandb has; import it as "
                f"{os.path.splitext(file)[1][1:]}"
            )
        add_row(intake, {key: value for key, value in row.items() if key}, 0.0, weight=1 + size // 64)
