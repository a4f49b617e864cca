"""Text for a terminal: tables, sizes, times, JSON. Nothing out of a file reaches the terminal unescaped."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

import click


def say(text: str = "") -> None:
    """Write a line, or several, to standard output."""
    sys.stdout.write(text + "\n")


def complain(message: str, program: str = "dreamlake") -> None:
    """Write what is wrong to standard error, on one line."""
    said = clean(" ".join(message.splitlines()))
    sys.stderr.write(f"{painted(f'{program}:', 'bold red', sys.stderr)} {said}\n")


def words_of(error: Exception) -> str:
    """What an error says, without the number that Python puts before the words of the system."""
    if isinstance(error, OSError) and error.strerror and str(error).startswith("[Errno "):
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return str(error)


def painted(text: str, style: str, stream: Any = None) -> str:
    """`text` in a style such as ``"bold red"``, where `stream` (standard output by default) shows colours."""
    if not style or not shows_colours(stream or sys.stdout):
        return text
    words = style.split()
    colour = next((word for word in words if word not in ("bold", "dim")), None)
    return click.style(text, fg=colour, bold="bold" in words or None, dim="dim" in words or None)


def shows_colours(stream: Any) -> bool:
    """Whether `stream` is a terminal on which colours are wanted: NO_COLOR and TERM=dumb say that they are not."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(text: str) -> str:
    """`text` on one line, with control characters (a file may hold escape sequences) replaced."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)


def columns_of(text: str) -> int:
    """The columns that `text` takes on a terminal: two for each wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, columns: int) -> str:
    """`text` with what does not fit into `columns` cut off behind an ellipsis."""
    if columns_of(text) <= columns:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, columns - 1).rstrip() + "…"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[str] = (),
    style: Callable[[str, str], str] | None = None,
) -> str:
    """Rows under a header, in aligned columns; those named in `right` are flush right.

    On a terminal the last column is cut where a line would wrap, and `style` gives the style of a cell by column and
    text. Elsewhere it is plain text, and whole.
    """
    lines = [[clean(cell) for cell in line] for line in (header, *rows)]
    widths = [max(columns_of(line[at]) for line in lines) for at in range(len(header))]
    room = terminal_columns() - sum(widths[:-1]) - 2 * (len(widths) - 1)
    if sys.stdout.isatty() and room > 4:
        widths[-1] = min(widths[-1], room)
    coloured = shows_colours(sys.stdout)
    shown = []
    for line in lines:
        cells = []
        for name, cell, width in zip(header, line, widths, strict=True):
            fitting = cut(cell, width)
            space = " " * (width - columns_of(fitting))
            if coloured:
                fitting = painted(fitting, "bold" if line is lines[0] else style(name, cell) if style else "")
            cells.append(space + fitting if name in right else fitting + space)
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def terminal_columns() -> int:
    """The width of the terminal, 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def terminal_lines() -> int:
    """The height of the terminal, 24 where there is none."""
    return shutil.get_terminal_size((80, 24)).lines


def unicode_fits() -> bool:
    """Whether standard output can show more than ASCII and Latin letters."""
    try:
        "⣿─└✓".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def size_text(count: int) -> str:
    """A number of bytes for people: ``999 B``, ``1.2 kB``, ``34 MB``."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    units = ["kB", "MB", "GB", "TB"]
    size /= 1000
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.1f} {units[0]}" if size < 9.95 else f"{size:.0f} {units[0]}"


def time_text(iso: object) -> str:
    """A stored ISO time on the clock of this machine; as it is where it is no time."""
    try:
        return datetime.fromisoformat(str(iso)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "" if iso is None else str(iso)


def value_text(value: Any) -> str:
    """A value of a point on a few characters."""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | dict) and len(str(value)) > 40:
        return f"{'list' if isinstance(value, list) else 'dict'} of {len(value)}"
    return cut(clean(str(value)), 60)


def say_json(value: Any) -> None:
    """Write strict JSON; what JSON lacks (NaN, bytes, datetimes) is in the form that the stored files use."""
    from dreamlake.format.point import to_json

    say(json.dumps(to_json(value), ensure_ascii=not unicode_fits(), indent=2, allow_nan=False))
