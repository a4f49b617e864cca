"""The site of the documentation: it builds without a warning, has every page, and shows the whole public surface."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, python_environment

from dreamlake import Lake, Session
from dreamlake.lake import SessionView
from dreamlake.track import Track

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", out / "cache", DOCS, out / "html"],
        capture_output=True,
        text=True,
        env=python_environment(),
    )
    assert (built.returncode, built.stderr) == (0, "")
    return out / "html"


def test_every_page_is_on_the_site(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")} - {Path("README.html")}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert pages <= built
    index = (site / "index.html").read_text(encoding="utf-8")
    assert [page for page in pages if f'href="{page.as_posix()}"' not in index] == []


def test_every_method_is_in_the_reference(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'id="dreamlake\.\w+\.([\w.]+)"', page))
    inside = {"Session.store", "Session.writer", "Session.folder", "Session.root"}  # for the library's own use
    for kind in (Session, Track, Lake, SessionView):
        names = {f"{kind.__name__}.{name}" for name in vars(kind) if name[0] != "_"}
        assert names - inside <= shown


def test_parameters_of_the_reference_have_their_texts(site: Path) -> None:
    page = html.unescape((site / "api.html").read_text(encoding="utf-8"))
    assert "Points of a track before they are rolled into a Parquet segment" in page


def test_nothing_is_asked_of_other_sites(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img)[^>]*\ssrc=\"(https?:[^\"]+)\"", path.read_text(encoding="utf-8"))
        loaded += re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="(https?:[^"]+)"', path.read_text(encoding="utf-8"))
        assert loaded == [], path
