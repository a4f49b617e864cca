"""Every way to read a track, held against the model of it."""

from __future__ import annotations

from typing import Any

import polars as pl
from columnar import same
from model import ModelTrack

WAYS = ["read", "by time", "scan", "slice", "frames", "stats"]


def check_reading(view: Any, model: ModelTrack, way: str, first: int, second: int, limit: int | None) -> None:
    """Read in one of `WAYS`; the numbers choose the range."""
    checks = {
        "read": lambda: _read(view, model, first, limit),
        "by time": lambda: _by_time(view, model, first, second, limit),
        "scan": lambda: _scan(view, model, first, second, limit),
        "slice": lambda: _slice(view, model, first, second, limit),
        "frames": lambda: _frames(view, model, first, limit),
        "stats": lambda: _stats(view, model),
    }
    checks[way]()


def _range(total: int, start: int, limit: int | None) -> tuple[int, int]:
    start = max(0, total + start) if start < 0 else min(start, total)
    return start, total if limit is None else min(total, start + limit)


def _read(view: Any, model: ModelTrack, first: int, limit: int | None) -> None:
    total = len(model.points)
    assert len(view) == total
    result = view.read(first, limit)
    start, stop = _range(total, first, limit)
    assert (result["startIndex"], result["endIndex"], result["total"]) == (start, stop, total)
    assert result["hasMore"] == (stop < total)
    assert [row["index"] for row in result["data"]] == list(range(start, stop))
    model.assert_points(model.points[start:stop], result["data"])


def _by_time(view: Any, model: ModelTrack, first: int, second: int, limit: int | None) -> None:
    low, high = (_ts(model, number) for number in (first, second))
    reverse = bool(first % 2)
    result = view.read_by_time(low, high, limit, reverse)
    wanted = sorted(
        (point["_ts"], index)
        for index, point in enumerate(model.points)
        if (low is None or point["_ts"] >= low) and (high is None or point["_ts"] < high)
    )
    chosen = (wanted[::-1] if reverse else wanted)[:limit]
    assert [(row["data"]["_ts"], row["index"]) for row in result["data"]] == chosen
    assert result["hasMore"] == (len(chosen) < len(wanted))
    model.assert_points([model.points[index] for _, index in chosen], result["data"])


def _ts(model: ModelTrack, number: int) -> float | None:
    return model.points[number % len(model.points)]["_ts"] if model.points and number > -5 else None


def _scan(view: Any, model: ModelTrack, first: int, second: int, limit: int | None) -> None:
    start, stop = _range(len(model.points), 0 if first % 3 else first, limit)
    frame = view.scan(0 if first % 3 else first, limit)
    low = _ts(model, second)
    condition = pl.col("_index") >= abs(first)
    if low is not None:
        condition &= pl.col("_ts") <= low
    found = frame.filter(condition).select("_ts", "_index").collect()
    wanted = [
        (model.points[index]["_ts"], index)
        for index in range(start, stop)
        if index >= abs(first) and (low is None or model.points[index]["_ts"] <= low)
    ]
    assert found.rows() == wanted


def _slice(view: Any, model: ModelTrack, first: int, second: int, limit: int | None) -> None:
    frame = view.scan()
    start, count = abs(first), abs(second)
    model_rows = [(index, point["_ts"]) for index, point in enumerate(model.points)]
    assert frame.slice(start, count).collect().select("_index", "_ts").rows() == model_rows[start : start + count]
    assert frame.tail(count).collect()["_index"].to_list() == [row[0] for row in model_rows[-count:] if count]
    assert frame.select(pl.len()).collect().item() == len(model.points)
    if limit is not None:
        assert frame.head(limit).collect().height == min(limit, len(model.points))


def _frames(view: Any, model: ModelTrack, first: int, limit: int | None) -> None:
    start, stop = _range(len(model.points), first, limit)
    points = model.points[start:stop]
    table = view.to_arrow(first, limit)
    assert table.column("_index").to_pylist() == list(range(start, stop))
    assert table.column("_ts").to_pylist() == [point["_ts"] for point in points]
    columns = {"_index", "_ts"}.union(*model.points)
    assert set(table.column_names) == columns
    frame = view.to_polars()
    assert len(frame) == len(model.points)
    assert set(frame.columns) == columns
    for name in ("loss", "step"):
        values = [point.get(name) for point in model.points]
        if name in frame.columns and frame[name].dtype.is_numeric():  # else some value was no number, once
            assert all(same(v, f, widened=True) for v, f in zip(values, frame[name].to_list(), strict=True)), name
    if first % 4 == 0:
        try:
            assert list(view.to_pandas(first, limit)["_index"]) == list(range(start, stop))
        except ValueError as error:  # inside of lists, pandas shows times in UTC, where some have no year
            if "is out of range" not in str(error):
                raise


def _stats(view: Any, model: ModelTrack) -> None:
    stats = view.stats()
    stamps = [point["_ts"] for point in model.points]
    assert stats["totalDataPoints"] == len(model.points)
    assert stats["bufferedDataPoints"] + stats["chunkedDataPoints"] == len(model.points)
    assert (stats["tsMin"], stats["tsMax"]) == (min(stamps, default=None), max(stamps, default=None))
    assert set(stats["fields"]) == set().union(*model.points) - {"_ts"}
