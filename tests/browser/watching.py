"""A page in headless Chromium, and everything it says or asks for."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


class Page:
    """A page at an address. It may ask only what starts with `own` (and data), and log nothing."""

    def __init__(self, browser: Any, url: str, size: str, own: str, scheme: str = "light") -> None:
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page = self.context.new_page()
        self.own = own
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        self.page.on("dialog", lambda d: (self.said.append(f"dialog: {d.message}"), d.dismiss()))
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.goto(url)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def texts(self, selector: str) -> list[str]:
        return [str(t) for t in self.page.eval_on_selector_all(selector, "es => es.map(e => e.textContent)")]

    def check(self, *expected: str) -> None:
        """Nothing was said but the expected, nothing asked of others, nothing wider than the window."""
        assert [s for s in self.said if not any(e in s for e in expected)] == []
        assert [u for u in self.asked if not u.startswith((self.own, "data:", "blob:"))] == []
        width, inner = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner, "the page does not scroll sideways"
        self.context.close()


def axe_faults(page: Any) -> list[str]:
    """Return what axe-core finds that is serious or critical."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("needs axe-playwright-python (the dev extra)")
    # Not as a script element: the page's own policy forbids those, as it should.
    page.evaluate((Path(found.origin).parent / "axe.min.js").read_text("utf-8"))
    faults = page.evaluate("axe.run().then(r => r.violations)")
    return [
        f"{f['id']}: {f['nodes'][0]['html'][:160]}" for f in faults if f["impact"] in ("serious", "critical")
    ]
