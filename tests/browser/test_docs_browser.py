"""The documentation as a site, opened from the disk: nothing is fetched, the search finds, colours and phones work."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from watching import CHROMIUM, SIZES, Page

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the dev extra)")
pytest.importorskip("material", reason="needs the extra `docs`")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build_docs.py"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    assert builder.build(out) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("size", SIZES)
def test_the_site_reads_from_the_disk(browser: Any, site: Path, size: str) -> None:
    for name in ("index", "theory", "gallery", "api/bounds", "flags/index", "reporting-checklist"):
        watched = Page(browser, f"{site.as_uri()}/{name}.html", size, site.as_uri())
        watched.page.wait_for_load_state("networkidle")
        assert watched.page.locator("h1").count() >= 1
        assert watched.page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        watched.check()


def test_the_search_finds_without_a_server(browser: Any, site: Path) -> None:
    watched = Page(browser, f"{site.as_uri()}/index.html", "desktop", site.as_uri())
    page = watched.page
    page.fill(".md-search__input", "polyphase")
    playwright.expect(page.locator(".md-search-result__item").first).to_contain_text(
        "olyphase", timeout=15_000
    )
    watched.check()


def test_the_api_is_there(site: Path) -> None:
    text = (site / "api" / "bounds.html").read_text("utf-8")
    for name in ("clopper_pearson_lower", "monte_carlo_ceiling", "certified_radius"):
        assert f'id="soundcert.bounds.{name}"' in text


def test_broken_links_and_things_from_elsewhere_are_noticed(builder: ModuleType, tmp_path: Path) -> None:
    """Negative control of the checker."""
    (tmp_path / "a.html").write_text(
        '<h1 id="x">a</h1><a href="b.html#y"></a><a href="#x"></a><a href="https://e.org"></a>'
    )
    (tmp_path / "b.html").write_text('<h1 id="y">b</h1>')
    assert builder.check(tmp_path) == []
    (tmp_path / "b.html").write_text(
        '<script src="https://cdn.example/x.js"></script><a href="gone.html"></a>'
    )
    (tmp_path / "s.css").write_text('@import url("https://fonts.example/f.css");')
    found = "\n".join(builder.check(tmp_path))
    for said in (
        "a.html: there is no b.html#y",
        "would fetch https://cdn",
        "gone.html leads nowhere",
        "fonts.example",
    ):
        assert said in found
