"""The machine, the table and the JSON that a run prints."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import dreamlake
from benchmarks.harness import Row, Settings, Unit

PACKAGES = ("polars", "pyarrow", "msgspec", "numpy", "pandas")
HEADINGS = ("workload", "dreamlake", "floor", "ratio", "(range)", "target", "met")


def machine(settings: Settings) -> dict[str, str]:
    """What a reader must know of the machine to compare figures; nothing that names it."""
    folder = settings.scratch or Path(tempfile.gettempdir())
    facts = {
        "cores": str(_cores()),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "dreamlake": dreamlake.__version__,
        **{package: _version(package) for package in PACKAGES},
        "filesystem of the scratch folder": _filesystem(folder),
    }
    facts["load at the start"] = f"{load():.2f}"
    return facts


def load() -> float:
    """The average number of processes that wanted a core during the last minute; 0 where nobody counts them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def busy() -> str:
    """A warning for a machine that is doing something else, or an empty string; asked before anything was run."""
    cores = _cores()
    if load() <= cores / 4:
        return ""
    return (
        f"WARNING: other work is running (load {load():.2f} on {cores} cores). dreamlake uses a second thread where "
        "its floors mostly use one, so the ratios suffer most; run again on an idle machine."
    )


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _filesystem(folder: Path) -> str:
    """The type of the filesystem below `folder`: an fsync on tmpfs costs nothing, and that shows in the figures."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return kind
    path = str(folder.resolve())
    for line in mounts:
        _, point, this, *_ = line.split()
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, this
    return kind


def heading(facts: Mapping[str, str], settings: Settings, warning: str) -> str:
    """The lines above the table."""
    lines = [", ".join(f"{name} {value}" for name, value in facts.items())]
    lines.append(
        f"medians of {settings.rounds} rounds, sides interleaved; ratio = median of the rounds' ratios to the floor, "
        "smaller is better"
    )
    if warning:
        lines.append(warning)
    if settings.quick:
        lines.append("quick run on smaller inputs: a smoke test, the targets are meant for a full run")
    return "\n".join(lines)


def table(rows: Iterable[Row]) -> str:
    """The rows as text in columns, and their notes below."""
    rows = list(rows)
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"- {row.workload.strip()}: {row.note}" for row in rows if row.note]
    if any(not row.counts for row in rows):
        notes.append("- a verdict in brackets is a second look at the workload above it and does not count")
    return "\n".join([*lines, "", *notes])


def _aligned(line: tuple[str, ...], widths: list[int]) -> list[str]:
    first, *rest = zip(line, widths, strict=True)
    return [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]


def _cells(row: Row) -> tuple[str, ...]:
    ratio = row.ratio
    spread = f"{min(row.ratios):.2f}-{max(row.ratios):.2f}" if len(row.ratios) > 1 else ""
    verdict = {None: "", True: "yes", False: "NO"}[row.met]
    return (
        row.workload,
        figure(median(row.ours), row.unit),
        figure(median(row.floor), row.unit) if row.floor else "-",
        "-" if ratio is None else f"{ratio:.2f}",
        spread,
        _target(row),
        verdict if row.counts or not verdict else f"({verdict})",
    )


def _target(row: Row) -> str:
    if row.target is None:
        return "-"
    return f"{row.target:.3g} x" if row.judged == "ratio" else figure(row.target, row.unit)


def figure(value: float, unit: Unit) -> str:
    """A figure for people: three significant digits and its unit."""
    if unit == "bytes":
        return f"{value:.1f} B"
    if unit == "points/s":
        return f"{1 / value:,.0f}/s"
    for scale, name in ((1.0, "s"), (1e-3, "ms")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value / 1e-6:.3g} us"


def as_json(facts: Mapping[str, str], settings: Settings, rows: Iterable[Row]) -> dict[str, object]:
    """Everything of a run, every round's figures included. Times are seconds (of points/s rows: seconds a point)."""
    measured = [
        {
            **asdict(row),
            "workload": row.workload.strip(),
            "ours_median": median(row.ours),
            "floor_median": median(row.floor) if row.floor else None,
            "ratio": row.ratio,
            "met": row.met,
        }
        for row in rows
    ]
    return {"machine": dict(facts), "rounds": settings.rounds, "quick": settings.quick, "rows": measured}
