"""What docs/guide/remote.md says of requests: how many an upload costs, and of which kinds, so which permissions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3.proxy import Proxy
from s3.server import S3Server
from support import ROOT

from dreamlake import Session

GUIDE = (ROOT / "docs" / "guide" / "remote.md").read_text(encoding="utf-8")


@pytest.fixture
def opened(
    s3_server: S3Server, s3_proxy: Proxy, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Session]]:
    """Opens the session behind a proxy that counts; nothing is uploaded until it is asked for."""
    # Else an upload a second after the open, or after a segment, may be seen in part.
    monkeypatch.setattr("dreamlake.engine.replica.pace.BREATH", 1000.0)
    sessions: list[Session] = []

    def make(folder: str = "lake", **options: Any) -> Session:
        options = {"segment_points": 10, "sync_interval": 1000.0, **options}
        remote = {"remote": s3_url, "storage_options": s3_server.options(s3_proxy.endpoint)}
        sessions.append(Session("s", "w", tmp_path / folder, **remote, **options).open())
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def kinds(requests: list[Any]) -> dict[str, int]:
    return dict(Counter(request.kind for request in requests))


def test_what_an_upload_costs(opened: Callable[..., Session], s3_proxy: Proxy) -> None:
    with s3_proxy.counting() as seen:
        session = opened()
        for number in range(5):
            session.track(f"t{number}").append(i=0)
        session.log("begin")
        session.sync()
    probe, descriptions, changed = 3, 5, 5 + 1 + 1
    assert kinds(seen) == {"LIST": 1, "PUT": probe + descriptions + changed, "DELETE": 1}
    with s3_proxy.counting() as seen:
        session.sync()
    assert kinds(seen) == {}
    for number in range(3):
        session.track(f"t{number}").append(i=1)
    with s3_proxy.counting() as seen:
        session.sync()
    assert kinds(seen) == {"PUT": 3 + 1}
    session.track("t0").append_batch([{"i": i} for i in range(10)])
    session.log("more")
    with s3_proxy.counting() as seen:
        session.sync()
    assert kinds(seen) == {"PUT": (1 + 1 + 1) + 1, "LIST": 1}


def test_the_examples_follow_the_formula() -> None:
    found = re.findall(r"\| (\d+) s \| (.+?) = ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|", GUIDE)
    assert len(found) == 5
    for _, formula, told, hour, month in found:
        puts = eval(formula.replace("x", "*"))  # a product of numbers on our own page
        said = int(told.replace(",", ""))
        assert abs(puts - said) <= 50, formula
        assert float(hour) == pytest.approx(puts / 1000 * 0.005, rel=0.2)
        assert float(month) == pytest.approx(puts / 1000 * 0.005 * 720, rel=0.1)


def test_no_other_permissions_are_needed(
    opened: Callable[..., Session], s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamlake.engine.replica.tracks.GRACE", 0.0)
    with s3_proxy.counting() as seen:
        session = opened()
        session.track("loss").append_batch([{"i": i, "_ts": float(i)} for i in range(25)])
        session.sync()
        session.track("loss").append(late=True, _ts=3.0)
        session.sync()
        session.sync()
        session.close()
        opened("another disk").track("loss").append(i=25)
    # s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject
    assert set(kinds(seen)) == {"LIST", "GET", "PUT", "DELETE"}
    assert all(request.key for request in seen if request.kind != "LIST"), "asked of the bucket itself"
