"""The figures as people read them: how many times better this library is, whether targets are met, and every round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from benchmarks.peers.catalogue import OURS, PEERS
from benchmarks.peers.running import Results


@dataclass(frozen=True)
class Figure:
    """One thing that is measured: name in the results, workload, title, unit, and which way is better.

    `ours` is the figure of this library that it is compared with, where that is another one.
    """

    name: str
    workload: str
    title: str
    unit: Literal["/s", "s", "B", "%"]
    more_is_better: bool = False
    ours: str = ""


FIGURES = (
    Figure("append", "append", "one metric a step, points", "/s", True),
    Figure("p50", "tail", "  one append, median", "s"),
    Figure("p99.9", "tail", "  p99.9", "s"),
    Figure("p99.99", "tail", "  p99.99", "s"),
    Figure("metrics", "metrics", "200 metrics a step, values", "/s", True),
    Figure("states", "states", "robot states (2 x 7 floats), points", "/s", True),
    Figure("states once", "once", "  to one write of all", "/s", True, "states"),
    Figure("states bytes", "states", "  bytes a point", "B"),
    Figure("batches", "batches", "batches of 1,000 dicts, points", "/s", True),
    Figure("batches once", "once", "  to one write of all", "/s", True, "batches"),
    Figure("frame", "frame", "one frame, points", "/s", True),
    Figure("bytes", "bytes", "bytes a point, scalars", "B"),
    Figure("bytes, float32", "bytes", "  losses of float32 precision", "B"),
    Figure("1,000 frame", "range", "1,000 points of many, as a frame", "s"),
    Figure("1,000 dicts", "range", "  as dicts", "s"),
    Figure("fresh", "fresh", "  in a fresh process, over bare Python", "s"),
    Figure("full", "full", "everything as a frame, a million points", "s"),
    Figure("import", "import", "import, over bare Python", "s"),
    Figure("kept", "kill", "kept after SIGKILL", "%", True),
)
BY_NAME = {figure.name: figure for figure in FIGURES}


@dataclass(frozen=True)
class Target:
    """What this library promises itself: to be at least `factor` times as good as each of `peers`.

    `ours` is this library's figure where it is not the one that `figure` is compared with.
    """

    text: str
    figure: str
    factor: float
    peers: tuple[str, ...]
    ours: str = ""


TRACKERS = tuple(peer.name for peer in PEERS if peer.kind == "tracker")
ON_DISK = tuple(peer.name for peer in PEERS if peer.name not in ("dreamlake-0.32", "polars"))
"""dreamlake 0.32.0 keeps all appended points in memory until a flush is asked for."""

TARGETS = (
    Target("one metric a step >= 1.7 x MCAP", "append", 1.7, ("mcap",)),
    Target("one metric a step >= 3 x dreamlake 0.32.0", "append", 3, ("dreamlake-0.32",)),
    Target("one metric a step >= 12 x every tracker", "append", 12, TRACKERS),
    Target("p99.99 below that of all that keep appends on disk", "p99.99", 1, ON_DISK),
    Target("robot states >= 1.5 x MCAP and lance, blocks of 1,000", "states", 1.5, ("mcap", "lance")),
    Target("robot states >= 1.5 x lance, all in one write", "states once", 1.5, ("lance",)),
    Target("200 metrics >= 1.3 x trackio", "metrics", 1.3, ("trackio",)),
    Target("batches of dicts >= dreamlake 0.32.0", "batches", 1, ("dreamlake-0.32",)),
    Target("batches of dicts >= 0.45 x lance, all dicts in one write", "batches once", 0.45, ("lance",)),
    Target("one frame >= 3 x lance, all dicts in one write", "batches once", 3, ("lance",), "frame"),
    Target("one frame >= 3 x lance, a frame too", "frame", 3, ("lance",)),
    Target("1,000 points as a frame in <= 1.5 x lance", "1,000 frame", 1 / 1.5, ("lance",)),
    Target("1,000 points as dicts in <= 1.5 x lance", "1,000 dicts", 1 / 1.5, ("lance",)),
    Target("1,000 points in a fresh process in <= 1.5 x lance", "fresh", 1 / 1.5, ("lance",)),
    Target("full read <= delta-rs, lance and raw Polars", "full", 1, ("delta-rs", "lance", "polars")),
    Target("bytes a scalar point <= 0.7 x lance and delta-rs", "bytes", 1 / 0.7, ("lance", "delta-rs")),
    Target("  the same, losses of float32 precision", "bytes, float32", 1 / 0.7, ("lance", "delta-rs")),
    Target("bytes a robot state <= 0.95 x lance and delta-rs", "states bytes", 1 / 0.95, ("lance", "delta-rs")),
)


@dataclass
class Run:
    """What a reader must know to judge the figures."""

    machine: Mapping[str, str]
    rounds: int
    scale: float
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def ratio(ours: Mapping[int, float], theirs: Mapping[int, float], more_is_better: bool) -> float | None:
    """How many times better we are: the median of the ratios of rounds that both have; None without any.

    A peer that has none of what more is better of is beaten without limit, and so is one that loses where we do not.
    """
    pairs = [(ours[number], theirs[number]) for number in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return None
    both = [(mine, other) if more_is_better else (other, mine) for mine, other in pairs]
    return median(1.0 if good == bad else good / bad if bad else float("inf") for good, bad in both)


def judge(target: Target, run: Run, results: Results) -> tuple[str, float] | None:
    """The peer against which the target is nearest to being missed, and the ratio; None without a figure.

    A peer that could not be installed, or whose workload failed, is not beaten; one that has no such thing is left out.
    """
    figure = BY_NAME[target.figure]
    ours = results.figures.get((OURS.name, target.ours), {}) if target.ours else _ours(figure, results)
    failed = {peer for peer, workload in results.errors if workload == figure.workload}
    found = []
    for peer in target.peers:
        value = ratio(ours, results.figures.get((peer, figure.name), {}), figure.more_is_better)
        if value is None and (peer in run.missing or peer in failed):
            value = 0.0
        if value is not None:
            found.append((value, peer))
    return min(found)[::-1] if ours and found else None


def _ours(figure: Figure, results: Results) -> Mapping[int, float]:
    return results.figures.get((OURS.name, figure.ours or figure.name), {})


def text(run: Run, results: Results) -> str:
    """All of it: the machine, the versions, the ratios, the targets and the rounds."""
    parts = [
        ", ".join(f"{name} {value}" for name, value in run.machine.items())
        + f"; {run.rounds} rounds"
        + (f", scale {run.scale:g}: a smoke test" if run.scale != 1 else ""),
        ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        "\n".join(f"{name} not installed: {reason}; counts as not beaten" for name, reason in run.missing.items()),
        "Medians; - where the peer has no such thing\n\n" + grid(_medians(run, results)),
        "How many times better than each peer this library is (below 1: worse); - where the peer has no such thing\n\n"
        + grid(_ratios(run, results)),
        grid(_targets(run, results)),
        _kills(results),
        "\n".join(f"{peer} failed at {work}: {error}" for (peer, work), error in results.errors.items()),
        "Every round; where a peer was given fewer points because it is slow, rates can be compared, totals cannot\n\n"
        + grid(_details(run, results)),
    ]
    return "\n\n".join(part for part in parts if part)


def _medians(run: Run, results: Results) -> list[list[str]]:
    rows = [["", *run.versions]]
    for figure in FIGURES:
        rounds = [results.figures.get((name, figure.name)) for name in run.versions]
        if any(rounds):
            rows.append(
                [figure.title, *(shown(median(each.values()), figure.unit) if each else "-" for each in rounds)]
            )
    return rows


def _ratios(run: Run, results: Results) -> list[list[str]]:
    others = [name for name in run.versions if name != OURS.name]
    rows = [["", OURS.name, *others]]
    for figure in FIGURES:
        if ours := _ours(figure, results):
            theirs = (results.figures.get((name, figure.name), {}) for name in others)
            ratios = [short(ratio(ours, them, figure.more_is_better)) for them in theirs]
            rows.append([figure.title, shown(median(ours.values()), figure.unit), *ratios])
    return rows


def _targets(run: Run, results: Results) -> list[list[str]]:
    rows = [["target", "worst against", "times better", "needed", "met"]]
    for target in TARGETS:
        if (found := judge(target, run, results)) is not None:
            peer, value = found
            met = "yes" if value >= target.factor else "NO"
            rows.append([target.text, peer, short(value), short(target.factor), met])
    return rows


def _kills(results: Results) -> str:
    """How many points were there after each kill."""
    lines = [f"{kill['peer']} {kill['kept']:,} of {kill['appended']:,}" for kill in results.kills]
    return "Points kept of those whose append had returned before SIGKILL: " + ", ".join(sorted(lines)) if lines else ""


def _details(run: Run, results: Results) -> list[list[str]]:
    rows = [["figure", "peer", "points", "median", "least", "most", "times better", "rounds"]]
    for figure in FIGURES:
        for name in run.versions:
            rounds = results.figures.get((name, figure.name))
            if not rounds:
                continue
            values = [rounds[number] for number in sorted(rounds)]
            ours = _ours(figure, results)
            points = results.points[name, figure.name]
            rows.append(
                [
                    figure.title.strip(),
                    name,
                    f"{points:,}" if points else "",
                    *(shown(value, figure.unit) for value in (median(values), min(values), max(values))),
                    short(ratio(ours, rounds, figure.more_is_better)) if name != OURS.name else "",
                    " ".join(shown(value, figure.unit).replace(" ", "") for value in values),
                ]
            )
    return rows


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text in columns, the first one a heading; empty without another."""
    if len(rows) < 2:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def short(value: float | None) -> str:
    """A ratio in two or three digits."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def shown(value: float, unit: str) -> str:
    """A figure and its unit for people."""
    match unit:
        case "%":
            return f"{value:.1%}"
        case "B":
            return f"{value:,.1f} B" if value < 1_000 else f"{value:,.0f} B"
        case "/s":
            return (
                f"{value / 1e6:.2f} M/s"
                if value >= 1e6
                else f"{value / 1e3:.3g} k/s"
                if value >= 1e3
                else f"{value:.3g} /s"
            )
    scale, name = (1.0, "s") if value >= 1 else (1e-3, "ms") if value >= 1e-3 else (1e-6, "us")
    return f"{value / scale:.3g} {name}"


def as_json(run: Run, results: Results) -> dict[str, Any]:
    """Everything of a run: seconds, bytes, rates and shares as they were measured."""
    figures = [
        {
            "figure": name,
            "peer": peer,
            "points": results.points[peer, name],
            "rounds": [rounds[number] for number in sorted(rounds)],
            "median": median(rounds.values()),
            "times_better": ratio(_ours(BY_NAME[name], results), rounds, BY_NAME[name].more_is_better),
        }
        for (peer, name), rounds in results.figures.items()
    ]
    targets = [
        {"target": target.text.strip(), "needed": target.factor, "against": found[0], "times_better": found[1]}
        for target in TARGETS
        if (found := judge(target, run, results)) is not None
    ]
    errors = [{"peer": peer, "workload": work, "error": error} for (peer, work), error in results.errors.items()]
    about = {"machine": dict(run.machine), "rounds": run.rounds, "scale": run.scale}
    installed = {"versions": run.versions, "missing": run.missing}
    return {**about, **installed, "figures": figures, "targets": targets, "errors": errors, "kills": results.kills}
