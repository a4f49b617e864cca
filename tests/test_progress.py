"""The bar that shows how far an upload is: on a terminal, and only when it lasts."""

from __future__ import annotations

import io
import sys

import pytest

from dreamlake.engine.replica import progress
from dreamlake.engine.replica.progress import Progress, watch


class Terminal(io.StringIO):
    """A terminal, or (with `tty` False) a file."""

    def __init__(self, tty: bool) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


class Upload:
    """An upload that ends at the given look, and sends on before each."""

    def __init__(self, looks: int, told: Progress) -> None:
        self.left = looks
        self.told = told
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        self.left -= 1
        self.told.objects_done += 1
        self.told.bytes_done += 1_000_000
        return self.left <= 0


@pytest.fixture
def told() -> Progress:
    made = Progress()
    made.objects_total, made.bytes_total = 7, 7_000_000
    return made


def test_a_long_upload_shows_a_bar(told: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal(tty=True)
    monkeypatch.setattr(sys, "stderr", shown)
    assert watch(Upload(5, told), None, told)
    assert "uploading" in shown.getvalue()
    assert "of 7 objects" in shown.getvalue()
    assert "7.0 MB" in shown.getvalue()


@pytest.mark.parametrize(("tty", "looks"), [(False, 1), (True, 1)])
def test_a_short_one_or_a_log_file_shows_none(
    told: Progress, monkeypatch: pytest.MonkeyPatch, tty: bool, looks: int
) -> None:
    shown = Terminal(tty)
    monkeypatch.setattr(sys, "stderr", shown)
    upload = Upload(looks, told)
    assert watch(upload, 30.0, told)
    assert shown.getvalue() == ""
    assert upload.waits == [progress.UNSHOWN if tty else 30.0]


@pytest.mark.parametrize("tty", [True, False])
def test_the_time_is_up(told: Progress, monkeypatch: pytest.MonkeyPatch, tty: bool) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal(tty))
    monkeypatch.setattr(progress, "UNSHOWN", 0.0)
    assert not watch(Upload(1 << 60, told), 0.05, told)


def test_no_terminal_at_all(told: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert watch(Upload(1, told), None, told)
