"""Every path and name rule of a lake, made and parsed.

Paths are relative POSIX strings, the same on every filesystem:

    <workspace>/<session>/session.json  parameters.json  .lock  logs/…  files/…
    <workspace>/<session>/files/.files_metadata.json            what is said of uploaded files
                          files/<path>/<id>/<filename>           one of them
    <workspace>/<session>/tracks/<track name>/metadata.json
                                              data.jsonl                              hot file
                                              000000000000-000000010000.parquet       segment [0, 10000)
                                              000000000000-000000010000.1.parquet     the same range, generation 1

A name is stored as itself but for the characters that some filesystem, URL or glob takes for more than a character;
these are percent-encoded (UTF-8, upper-case hex), and ``%`` with them, so that every name has exactly one path.
"""

# This module is imported by ``import dreamlake``, so it takes nothing from dataclasses, typing or re: 4 to 10 ms each.
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, Self

    Kind = Literal["track", "session", "workspace", "file"]

FORMAT_VERSION = 1

SESSION_FILE = "session.json"
PARAMETERS_FILE = "parameters.json"
LOCK_FILE = ".lock"
REPLICA_FILE = ".replica.json"
REPLICA_LOCK_FILE = ".replica.lock"
IMPORT_LOCK_FILE = ".import.lock"
HOSTS_DIR = "hosts"
TRACKS_DIR = "tracks"
LOGS_DIR = "logs"
LOGS_FILE = "logs/logs.jsonl"
FILES_DIR = "files"
FILES_METADATA_FILE = "files/.files_metadata.json"
METADATA_FILE = "metadata.json"
HOT_FILE = "data.jsonl"
TMP_PREFIX = ".tmp-"
SEGMENT_SUFFIX = ".parquet"
AWAY_FILE = ".away.jsonl"
LATE_FILE = ".late.jsonl"
STAMPS_PREFIX = ".ts-"

MAX_COMPONENT_BYTES = 255
MAX_NAME_BYTES = 2048
"""Longest stored track name: root, session and file name still fit beside it into the 4,096 bytes of a Linux path."""

MAX_SMALL_BYTES = 64 << 20
"""Longest session.json, metadata.json and parameters.json: read whole, and as values many times as large."""

# The folders of sessions and tracks by their names: to check and encode these takes 20 us each, a lake of many runs a
# third of the time that it takes to list their session.json files.
_dirs: dict[tuple[str, ...], str] = {}
_MAX_DIRS = 10_000

_LIMIT = 1 << 63  # indices are int64 in every segment

# "/" parts components. "=" makes DuckDB take a folder for a Hive partition: "lr=0.1" then replaces the column "lr".
_SPECIAL = frozenset('%/\\:*?"<>|[]{}#=')
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    + [port + digit for port in ("com", "lpt") for digit in "0123456789¹²³"]
)


# ------------------------------------------------------------------------------------------------ components of a path


def encode_component(text: str) -> str:
    """The folder name that stands for ``text``; ``decode_component`` gives it back.

    ``text`` is not judged here (``check_name`` does that), but must have a UTF-8 form.
    """
    last = len(text) - 1
    first_too = text[:1] == "." or _is_device(text)
    return "".join(
        _percent(char) if char in _SPECIAL or (at == 0 and first_too) or (at == last and char in ". ") else char
        for at, char in enumerate(text)
    )


def decode_component(component: str) -> str:
    """The text that ``encode_component`` made ``component`` from.

    Raises
    ------
    ValueError
        ``encode_component`` makes no such component.
    """
    head, *rest = component.split("%")
    text = bytearray(head.encode("utf-8", "surrogatepass"))
    try:
        for part in rest:
            text += bytes.fromhex(part[:2]) if len(part[:2].strip()) == 2 else b"\xff"
            text += part[2:].encode("utf-8", "surrogatepass")
        decoded = text.decode("utf-8")
    except ValueError:
        decoded = ""
    if not decoded or encode_component(decoded) != component:
        raise ValueError(f"{component!r} is not the folder of any name")
    return decoded


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8"))


def _is_device(text: str) -> bool:
    # Windows opens the device for "con", "CON.txt" and "con .txt" alike.
    return text.partition(".")[0].rstrip(" ").lower() in _DEVICES


# ------------------------------------------------------------------------------------------------ names that users give


def check_name(kind: Kind, name: str) -> str:
    """Refuse a track, session or workspace name that cannot be stored so that listing gives it back.

    Returns
    -------
    str
        The name as a plain string: files are written of those only, and ``np.str_`` and ``StrEnum`` are strings, too.

    Raises
    ------
    TypeError
        ``name`` is not a string.
    ValueError
        The message says which rule ``name`` breaks.
    """
    if not isinstance(name, str):
        raise TypeError(f"a {kind} name is a string, not {type(name).__name__}")
    name = str.__str__(name)
    broken = _broken_rule(kind, name)
    if broken:
        raise ValueError(f"{kind} name {_shown(name)} cannot be stored: {broken}")
    return name


def _broken_rule(kind: Kind, name: str) -> str:
    if not name:
        return "it is empty"
    if not name.isascii() and any("\ud800" <= char <= "\udfff" for char in name):
        return "it holds a lone surrogate, which has no UTF-8 form"
    if any(char < " " or "\x7f" <= char <= "\x9f" for char in name):
        return "it holds NUL or another control character"
    if name[0] == "/":
        return "it begins with '/', as an absolute path does"
    parts = name.split("/")
    for part in parts:
        broken = _broken_component(kind, part)
        if broken:
            return broken
    # Only names of tracks and files make folders; in others "/" is a character like any other, stored as %2F.
    makes_folders = kind in ("track", "file")
    stored = [encode_component(part) for part in parts] if makes_folders else [encode_component(name)]
    longest = max(len(component.encode()) for component in stored)
    if longest > MAX_COMPONENT_BYTES:
        return f"a component takes {longest} bytes when encoded, more than the {MAX_COMPONENT_BYTES} of a file name"
    whole = sum(len(component.encode()) + 1 for component in stored)
    return f"it takes {whole} bytes when encoded, more than {MAX_NAME_BYTES}" if whole > MAX_NAME_BYTES else ""


def _broken_component(kind: Kind, part: str) -> str:
    if not part:
        return "it has an empty component (two '/' in a row, or one at the end)"
    if part in (".", ".."):
        return f"it has the component {part!r}"
    if kind == "track":
        folded = part.casefold()
        if folded in (METADATA_FILE, HOT_FILE) or folded.endswith(SEGMENT_SUFFIX) or folded.startswith(TMP_PREFIX):
            return f"the component {part!r} collides with a file that dreamlake keeps in a track's folder"
    return ""


def _shown(name: str) -> str:
    shown = ascii(name) if not name.isascii() and not name.isprintable() else repr(name)
    return shown if len(shown) <= 200 else f"{shown[:160]}… ({len(name)} characters)"


def check_field(name: str) -> None:
    """Refuse a field name that cannot be stored; ``_ts`` is not refused, since a point may bring its own.

    Raises
    ------
    TypeError
        ``name`` is not a string.
    ValueError
        It begins with an underscore, which is reserved, or has no UTF-8 form.
    """
    if not isinstance(name, str):
        raise TypeError(f"a field name is a string, not {type(name).__name__} ({name!r})")
    if name[:1] == "_" and name != "_ts":
        raise ValueError(f"field name {_shown(name)} is reserved: names that begin with '_' are dreamlake's own")
    if not name.isascii() and any("\ud800" <= char <= "\udfff" for char in name):
        raise ValueError(f"field name {name!a} holds a lone surrogate, which has no UTF-8 form")


# ------------------------------------------------------------------------------------------------ folders


def session_dir(workspace: str, session: str) -> str:
    """The folder of a session below the lake's root: ``"workspace/session"``, both checked and encoded."""
    names = workspace, session
    return _kept(names) or _keep(names, _checked_session_dir(workspace, session))


def _checked_session_dir(workspace: str, session: str) -> str:
    check_name("workspace", workspace)
    check_name("session", session)
    return f"{encode_component(workspace)}/{encode_component(session)}"


def _kept(names: tuple[str, ...]) -> str | None:
    # Only strings can be asked for: what else is given need not have a hash, and is refused by the check.
    return _dirs.get(names) if all(name.__class__ is str for name in names) else None


def _keep(names: tuple[str, ...], folder: str) -> str:
    if len(_dirs) >= _MAX_DIRS:
        _dirs.clear()
    _dirs[names] = folder
    return folder


def session_names(path: str) -> tuple[str, str]:
    """The workspace and the session whose folder ``path`` is: the inverse of ``session_dir``.

    Raises
    ------
    ValueError
        ``session_dir`` makes no such path.
    """
    workspace, _, session = path.partition("/")
    names = decode_component(workspace), decode_component(session)
    check_name("workspace", names[0])
    check_name("session", names[1])
    return names


def track_dir(name: str) -> str:
    """The folder of a track below its session: ``"tracks/robot/position"``, checked and encoded."""
    return _kept((name,)) or _keep((name,), _checked_track_dir(name))


def _checked_track_dir(name: str) -> str:
    check_name("track", name)
    return "/".join([TRACKS_DIR, *map(encode_component, name.split("/"))])


def track_name(path: str) -> str:
    """The name of the track whose folder ``path`` is: the inverse of ``track_dir``.

    Raises
    ------
    ValueError
        ``track_dir`` makes no such path.
    """
    top, *components = path.split("/")
    if top != TRACKS_DIR or not components:
        raise ValueError(f"{path!r} is not the folder of a track")
    parts = [decode_component(component) for component in components]
    if any("/" in part for part in parts):
        raise ValueError(f"{path!r} is not the folder of a track: a component holds an encoded '/'")
    name = "/".join(parts)
    check_name("track", name)
    return name


# ------------------------------------------------------------------------------------------------ uploaded files

_ID_PREFIX, _ID_DIGITS = "f-", 16


def check_file(path: str, filename: str) -> tuple[str, str]:
    """Refuse a place for an uploaded file that cannot be stored, and return path and name as records have them.

    Parameters
    ----------
    path
        The folder in the session's files: ``"/"``, ``"/models"``; the ``/`` at the front and one at the end may be
        left out.
    filename
        The name in it.

    Raises
    ------
    TypeError
        One of them is not a string.
    ValueError
        The message says which rule is broken.
    """
    if not isinstance(path, str):
        raise TypeError(f"the path of a file is a string such as '/models', not {type(path).__name__}")
    if not isinstance(filename, str):
        raise TypeError(f"a file's name is a string, not {type(filename).__name__}")
    path, filename = str.__str__(path), str.__str__(filename)
    if not path:
        raise ValueError("the path of a file cannot be empty: '/' is the top")
    if not filename or "/" in filename:
        why = "it holds '/'; give the folder as path=" if filename else "it is empty"
        raise ValueError(f"file name {_shown(filename)} cannot be stored: {why}")
    below = path.removeprefix("/").removesuffix("/") if path != "/" else ""
    check_name("file", f"{below}/{filename}" if below or len(path) > 1 else filename)
    return f"/{below}", filename


def file_path(path: str, file_id: str, filename: str) -> str:
    """Where the bytes of an uploaded file are, from the session's folder on: ``"files/models/f-…/weights.pt"``."""
    folders = check_file(path, filename)[0].split("/")[1:]
    check_file_id(file_id)
    return "/".join(
        [FILES_DIR, *(encode_component(part) for part in folders if part), file_id, encode_component(filename)]
    )


def check_file_id(file_id: str) -> None:
    """Refuse what cannot be the id of an uploaded file, which is the name of its folder as it stands."""
    if not isinstance(file_id, str) or _broken_rule("session", file_id) or encode_component(file_id) != file_id:
        raise ValueError(f"{file_id!a:.80} is not the id of a file")


def new_file_id(random: str) -> str:
    """An id made from the hex digits of a random number."""
    return _ID_PREFIX + random[:_ID_DIGITS]


def is_made_file(path: str) -> bool:
    """Whether ``path``, from the session's folder on, is where dreamlake puts the bytes of an uploaded file."""
    folder = path.rpartition("/")[0].rpartition("/")[2]
    digits = folder.removeprefix(_ID_PREFIX)
    made = folder != digits and len(digits) == _ID_DIGITS and not digits.strip("0123456789abcdef")
    return made and path.startswith(f"{FILES_DIR}/")


# ------------------------------------------------------------------------------------------------ files of a track


# Half the time of an f-string, where a long track has many names.
_FIRST = f"%012d-%012d{SEGMENT_SUFFIX}"
_LATER = f"%012d-%012d.%d{SEGMENT_SUFFIX}"


class SegmentName(tuple[int, int, int]):
    """What the file name of a segment says; frozen, and ordered by start, stop, generation.

    Parameters
    ----------
    start, stop
        The half-open range of indices that the segment holds, ``0 <= start < stop < 2**63``.
    generation
        0 for the first form of this range, one more for each later one.
    """

    __slots__ = ()

    def __new__(cls, start: int, stop: int, generation: int = 0) -> Self:
        if not (0 <= start < stop < _LIMIT and 0 <= generation < _LIMIT):
            raise ValueError(f"no segment holds [{start}, {stop}) as generation {generation}")
        return tuple.__new__(cls, (start, stop, generation))

    def __getnewargs__(self) -> tuple[int, int, int]:
        return tuple(self)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"SegmentName({self[0]}, {self[1]}, {self[2]})"

    @property
    def start(self) -> int:
        return self[0]

    @property
    def stop(self) -> int:
        return self[1]

    @property
    def generation(self) -> int:
        return self[2]

    @property
    def filename(self) -> str:
        """``"000000000000-000000010000.parquet"``, or ``….1.parquet`` for generation 1."""
        return _LATER % self if self[2] else _FIRST % self[:2]


def parse_segment(filename: str) -> SegmentName | None:
    """What ``filename`` says of its segment; None unless it is exactly a name that ``SegmentName.filename`` makes."""
    if len(filename) == 33 and filename[12] == "-" and filename[25:] == SEGMENT_SUFFIX and filename.isascii():
        # Twelve digits and twelve are as they are made: no need to make them, where a long track has many of these.
        first, last = filename[:12], filename[13:25]
        if first.isdigit() and last.isdigit():
            begin, end = int(first), int(last)
            return SegmentName(begin, end) if begin < end else None
    if not (filename.isascii() and filename.endswith(SEGMENT_SUFFIX) and len(filename) <= 80):
        return None
    span, _, generation = filename.removesuffix(SEGMENT_SUFFIX).partition(".")
    start, _, stop = span.partition("-")
    numbers = (start, stop, generation or "0")
    if not all(map(str.isdigit, numbers)):
        return None
    try:
        name = SegmentName(*map(int, numbers))
    except ValueError:
        return None
    return name if name.filename == filename else None


def log_archive(number: int) -> str:
    """The file that holds the ``number``-th full block of a session's log lines: ``"logs/0.jsonl"``."""
    return f"{LOGS_DIR}/{number}.jsonl"


def parse_log_archive(filename: str) -> int | None:
    """The number in the name of a full log file (``"0.jsonl"``, without its folder), or None if it is not one."""
    digits = filename.removesuffix(".jsonl")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        return None
    return int(digits) if log_archive(int(digits)) == f"{LOGS_DIR}/{filename}" else None
