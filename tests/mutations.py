"""Mutants of the library: each takes away, or swaps, one thing that a promise rests on."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "dreamlake"


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Parameters
    ----------
    kind
        What is taken away: ``fsync``, ``rename``, ``lock``, ``checksum``, ``counter``, ``copy``, ``swap``.
    file
        The file below the root of the tree.
    line
        Where, counted from 1.
    said
        What it does, for a table.
    source
        The whole file as the mutant has it.
    """

    kind: str
    file: str
    line: int
    said: str
    source: str


# -- by rule -------------------------------------------------------------------------------------------------------


def _called(node: ast.AST) -> str:
    """The dotted name of what a call calls; empty for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
        return ast.unparse(node.func)
    return ""


def _last(name: str) -> str:
    return name.rpartition(".")[2]


Change = tuple[ast.expr | ast.stmt, str, str]  # the node, what stands there instead, what that means


def _statements(names: set[str]) -> Callable[[ast.AST], Iterator[Change]]:
    """Statements that only call one of these."""

    def find(node: ast.AST) -> Iterator[Change]:
        if isinstance(node, ast.Expr) and _last(_called(node.value)) in names:
            yield node, "pass", f"no `{ast.unparse(node.value)}`"

    return find


def _fsync_argument(node: ast.AST) -> Iterator[Change]:
    """Calls that are told to sync."""
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "fsync" and ast.unparse(keyword.value) not in ("False", "fsync", "self._fsync"):
                yield keyword.value, "False", f"`{_last(_called(node))}(…, fsync=False)`"


def _lock(node: ast.AST) -> Iterator[Change]:
    """Locks between processes, and the claims on them between threads."""
    called = _called(node)
    if called == "FileLock.acquire" and isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "locked" and ast.unparse(keyword.value) != "False":
                yield keyword.value, "False", "the lock file is opened and not locked"
    if called == "fcntl.lockf" and isinstance(node, ast.Call):
        yield node, "None", f"no `{ast.unparse(node)}`"
    if isinstance(node, ast.If) and "_claims.setdefault" in ast.unparse(node.test):
        yield node.test, f"{ast.unparse(node.test)} or True", "a path that is claimed is opened again"
    if called == "self._still_there" and isinstance(node, ast.Call):
        yield node, "True", "a lock on a file that was replaced counts"


def _checks(raised: set[str]) -> Callable[[ast.AST], Iterator[Change]]:
    """Conditions under which one of these is raised, at once."""

    def find(node: ast.AST) -> Iterator[Change]:
        if not isinstance(node, ast.If) or len(node.body) != 1 or not isinstance(node.body[0], ast.Raise):
            return
        made = node.body[0].exc
        if made is not None and (_last(_called(made)) in raised or ast.unparse(made) in raised):
            yield node.test, f"False and ({ast.unparse(node.test)})", f"no check of `{ast.unparse(node.test)}`"

    return find


def _page_checksums(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None and ast.unparse(key) in ("'page_checksum_verification'", "'write_page_checksum'"):
                yield value, "False", f"`{ast.unparse(key)}: False`"


def _epochs(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.AugAssign) and "epoch" in ast.unparse(node.target):
        yield node, "pass", f"no `{ast.unparse(node)}`"


def _increments(node: ast.AST) -> Iterator[Change]:
    """`found.changes + 1` and `now.rewrites + 1`."""
    if isinstance(node, ast.BinOp) and ast.unparse(node) in ("found.changes + 1", "now.rewrites + 1"):
        yield node, ast.unparse(node.left), f"`{ast.unparse(node)}` without the 1"


def _copies(node: ast.AST) -> Iterator[Change]:
    """`list(x)`, `dict(x)`, `x.copy()`, `x.tolist()` where a value is taken in."""
    if not isinstance(node, ast.Call) or node.keywords:
        return
    called = _called(node)
    if called in ("list", "dict", "bytes", "bytearray") and len(node.args) == 1 and isinstance(node.args[0], ast.Name):
        yield node, ast.unparse(node.args[0]), f"`{ast.unparse(node)}` without the copy"
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("copy", "deepcopy") and not node.args:
        yield node, ast.unparse(node.func.value), f"`{ast.unparse(node)}` without the copy"


STORAGE = ["storage/local.py", "storage/localstore.py", "storage/lock.py"]
ENGINE = [
    "engine/ondisk.py", "engine/knowntrack.py", "engine/away.py", "engine/late.py", "engine/trackfile.py",
    "engine/runfile.py", "engine/logfile.py", "engine/trackwriter.py", "engine/writer.py", "engine/pressure.py",
    "engine/logpressure.py",
    "engine/sessionlock.py",
    "engine/roll.py", "engine/replica/taking.py", "engine/replica/localside.py", "engine/replica/state.py",
    "engine/replica/sync.py", "parameters.py",
]  # fmt: skip
FORMAT = [
    "format/segment.py", "format/footer.py", "format/segmentinfo.py", "format/pages.py", "format/hot.py",
    "format/live.py",
]  # fmt: skip

#: What is looked for where.
RULES: list[tuple[str, list[str], Callable[[ast.AST], Iterator[Change]]]] = [
    ("fsync", STORAGE + ENGINE, _statements({"fsync", "_fsync", "fsync_dir"})),
    ("fsync", STORAGE + ENGINE, _fsync_argument),
    ("rename", STORAGE, _statements({"replace", "rename", "link", "unlink", "ftruncate", "_link_new"})),
    ("rename", ENGINE, _statements({"commit_new", "truncate", "atomic_write"})),
    ("lock", [*STORAGE, "engine/sessionlock.py", "engine/replica/state.py"], _lock),
    ("checksum", FORMAT, _checks({"SegmentDamage", "HotGapError", "CorruptTrackError", "HoleError", "damage"})),
    ("checksum", FORMAT, _page_checksums),
    ("checksum", ["engine/segments.py"], _statements({"_check"})),
    ("counter", ["engine/sessionlock.py"], _epochs),
    ("counter", ["engine/sessionlock.py"], _increments),
    ("counter", ENGINE, _statements({"announce_rewrite", "cover", "_raise", "learn", "forget"})),
    ("copy", ["format/point.py", "format/foreign.py", "engine/hotpath.py", "engine/batch.py", "format/frames.py"],
     _copies),
]  # fmt: skip


def _replaced(source: str, node: ast.expr | ast.stmt, instead: str) -> str:
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    data = source.encode()
    begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
    return (data[:begin] + instead.encode() + data[end:]).decode()


#: Mutants that are the same program to every user, and why: file, what they do, the reason.
EQUIVALENT: dict[tuple[str, str], str] = {
    (
        "dreamlake/format/frames.py",
        "`list(column)` without the copy",
    ): "the values become Arrow before the call returns, and are not kept",
    (
        "dreamlake/format/footer.py",
        "no check of `metadata.num_columns != place`",
    ): "the Arrow schema was compared before, and makes as many columns",
    (
        "dreamlake/format/segment.py",
        "no check of `any((chunk.start < 4 or chunk.stop > end for chunk in chunks))`",
    ): "what lies there is no page with its checksum: the same damage in other words, after the bytes were read",
    (
        "dreamlake/engine/replica/taking.py",
        "no `local.fsync_dir(self.path)`",
    ): "the hot file that is written next syncs the folder too; and what a cut takes is taken from the replica again",
    (
        "dreamlake/engine/replica/sync.py",
        "no `lock.announce_rewrite()`",
    ): "such a pull takes over descriptions, parameters and records of files, none of which a writer keeps in memory",
}


def by_rule(root: Path) -> Iterator[Mutant]:
    """What the rules make of the library under this root."""
    seen = set()
    for kind, files, find in RULES:
        for file in files:
            path = f"{LIBRARY}/{file}"
            source = (root / path).read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(source)):
                for changed, instead, said in find(node):
                    made = _replaced(source, changed, instead)
                    if made not in seen:
                        seen.add(made)
                        yield Mutant(kind, path, changed.lineno, said, made)


# -- by hand -------------------------------------------------------------------------------------------------------


def by_hand(root: Path) -> Iterator[Mutant]:
    """Steps in another order, and what no rule finds. Text that is not there once is an error: mend the list."""
    for kind, file, said, old, new in SWAPS:
        path = f"{LIBRARY}/{file}"
        source = (root / path).read_text(encoding="utf-8")
        if source.count(old) != 1:
            raise ValueError(f"{path} holds the text of the mutant {said!r} {source.count(old)} times, not once")
        yield Mutant(kind, path, source[: source.index(old)].count("\n") + 1, said, source.replace(old, new))


#: Kind, file, what is wrong, the text, what stands there instead.
SWAPS: list[tuple[str, str, str, str, str]] = [
    (
        "swap",
        "engine/ondisk.py",
        "a roll replaces the hot file before it commits the segments",
        "        while cuts := roll.cut(self.hot_count, rows.new.count, widths, everything):\n",
        "        if self.lines:\n"
        "            local.atomic_write(self.hot_path, b'', fsync=False)\n"
        "        while cuts := roll.cut(self.hot_count, rows.new.count, widths, everything):\n",
    ),
    (
        "swap",
        "engine/reader.py",
        "a reader lists the segments before it reads the hot file",
        "            data = self._hot_bytes()\n            listing = self.files.listing(again)\n",
        "            listing = self.files.listing(again)\n            data = self._hot_bytes()\n",
    ),
    (
        "swap",
        "engine/reader.py",
        "a reader that misses points believes what is remembered of a folder",
        "listing, again=look > 0)",
        "listing, again=False)",
    ),
    (
        "swap",
        "storage/unchanged.py",
        "a folder's status is taken behind its listing",
        "        stamp = _stamp(fd)\n        names = ask(fd)\n",
        "        names = ask(fd)\n        stamp = _stamp(fd)\n",
    ),
    (
        "swap",
        "storage/unchanged.py",
        "a folder is listed by its path, and may be another one than that of the status",
        "        names = ask(fd)\n",
        "        names = ask(folder)\n",
    ),
    (
        "swap",
        "storage/unchanged.py",
        "a folder that has just changed is believed to show each further change",
        "now - changed > SETTLED and ",
        "",
    ),
    (
        "swap",
        "engine/reader.py",
        "on S3 an empty hot file is believed with the listing from before",
        '            return b"", side_by_side(lambda ask: ask(), both, 2)[1]\n',
        '            side_by_side(lambda ask: ask(), both, 2)\n            return b"", listing\n',
    ),
    (
        "swap",
        "engine/reader.py",
        "on S3 a hot file that was emptied meanwhile is believed with the listing from before",
        '            return b"", self.files.listing()\n',
        '            return b"", listing\n',
    ),
    (
        "swap",
        "engine/replica/looking.py",
        "a replica is sent the segments listed before the hot file was read",
        "        hot = self._read(layout.HOT_FILE)\n        listing = self.local.names(self.below)\n",
        "        listing = self.local.names(self.below)\n        hot = self._read(layout.HOT_FILE)\n",
    ),
    (
        "swap",
        "storage/local.py",
        "a write that the disk cut short counts as whole",
        "    while written < len(view):\n",
        "    while not written and len(view):\n",
    ),
    (
        "swap",
        "engine/ondisk.py",
        "after a failed fsync the next flush only appends",
        "            self.must_rewrite = True\n            self._take_lines",
        "            self._take_lines",
    ),
    (
        "swap",
        "engine/sessionlock.py",
        "the counter is raised after the writes",
        "                self._raise(found, last_ts)\n                yield found\n",
        "                self._seen = self._now = found\n                yield found\n"
        "                self._raise(found, last_ts)\n",
    ),
]
