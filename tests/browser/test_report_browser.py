"""The report in headless Chromium: every control is used, nothing is logged, nothing is fetched, axe finds nothing.

Screenshots for people: SOUNDCERT_SCREENSHOTS=folder pytest tests/browser
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import IN_FEATURES, WAVEFORM, folder_of_tones, write_tone_model, yaml_of
from soundcert.cli import run as cli
from soundcert.report.html import write_report
from soundcert.report.words import visible
from soundcert.runs import open_run
from synthetic import HOSTILE, many, record, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the dev extra)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Watched:
    """A page, and what it logged or asked the network for."""

    def __init__(self, browser: Any, file: Path, size: tuple[int, int], scheme: str = "light") -> None:
        self.page = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        self.page.on("dialog", lambda d: (self.said.append(f"dialog: {d.message}"), d.dismiss()))
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.goto(file.resolve().as_uri())
        self.page.wait_for_selector("#table tbody tr", state="attached")
        self.file = file.resolve().as_uri()

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def clips(self) -> list[str]:
        return [
            str(t)
            for t in self.page.eval_on_selector_all("#table tbody th", "es => es.map(e => e.textContent)")
        ]

    def check(self) -> None:
        assert self.said == []
        away = [u for u in self.asked if u != self.file and not u.startswith("data:")]
        assert away == []
        width, inner = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner, "the page does not scroll sideways"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of a run with audio, of one about features that was attacked, of 2 000 clips, and of hostile names."""
    folder = tmp_path_factory.mktemp("pages")
    write_tone_model(folder / "tones.safetensors")
    folder_of_tones(folder / "clips", each=3)
    for name, stages in (("waveform", WAVEFORM), ("features", IN_FEATURES)):
        (folder / f"{name}.yaml").write_text(yaml_of(stages))
        arguments = [
            "certify",
            str(folder / f"{name}.yaml"),
            "--out",
            str(folder / name),
            "--report-in",
            "file",
        ]
        assert cli([*arguments, "--json"]) == 0
    attack = [
        "--goal",
        "leave",
        "--goal",
        "bypass",
        "--wav",
        "--limit",
        "1",
        "--steps",
        "2",
        "--restarts",
        "1",
    ]
    cli(["attack", str(folder / "features"), *attack, "--json"])
    write_run(folder / "big", many(2000))
    rows = [record(name, 1000 if i % 2 else 700, label=name, truth=name) for i, name in enumerate(HOSTILE)]
    rows += [{"clip": "long" * 80, "status": "failed", "reason": HOSTILE[0], "truth": HOSTILE[1]}]
    write_run(folder / "hostile", rows, tail=b"{")
    for name in ("waveform", "features", "big", "hostile"):
        write_report(open_run(folder / name), folder / f"{name}.html")
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_the_curve_is_read_by_key_and_by_pointer(browser, made, size):
    watched = Watched(browser, made / "big.html", SIZES[size])
    page = watched.page
    titles = page.eval_on_selector_all("#axes span", "es => es.map(e => e.textContent)")
    assert titles == [
        "Raw radius", "R/σ", "SNR-equivalent", "20 ms level", "File: radius", "File: SNR", "File: LSBs"
    ]  # fmt: skip
    seen = set()
    page.focus("#axes input:checked")
    for i in range(len(titles)):
        assert page.eval_on_selector("#axes input:checked", "e => e.value") == str(i)
        before = watched.text("#reading")
        page.focus("#cursor")
        for _ in range(9):
            page.keyboard.press("ArrowRight")
        after = watched.text("#reading")
        assert after != before
        assert "of 19" in after
        assert "95\u00a0% interval" in after
        # To the right attackers are stronger, whatever the axis.
        assert float(after.split("\u00a0")[0]) <= float(before.split("\u00a0")[0])
        seen.add(page.get_attribute("#plot svg", "aria-label"))
        assert page.eval_on_selector_all("#plot path.band", "es => es.length") == 1
        assert page.eval_on_selector_all("#plot line.ceil", "es => es.length") == (0 if i > 3 else 1)
        page.focus("#axes input:checked")
        page.keyboard.press("ArrowRight")
    assert len(seen) == len(titles)
    box = page.locator("#plot svg").bounding_box()
    page.locator("#plot svg").scroll_into_view_if_needed()
    page.locator("#plot svg").hover(position={"x": box["width"] * 0.3, "y": box["height"] / 2})
    left = watched.text("#reading")
    page.locator("#plot svg").hover(position={"x": box["width"] * 0.9, "y": box["height"] / 2})
    assert watched.text("#reading") != left
    page.click("#curve details summary")
    assert page.locator("#curve-table tbody tr").count() > 20
    watched.check()


def test_the_table_sorts_filters_searches_and_pages(browser, made):
    watched = Watched(browser, made / "big.html", SIZES["desktop"])
    page = watched.page
    assert watched.text("#shown") == "1 to 25 of 2000"
    assert page.is_disabled("#prev")
    first = watched.clips()
    page.click("#next")
    assert watched.text("#shown") == "26 to 50 of 2000"
    assert not set(first) & set(watched.clips())
    page.click("#prev")
    assert watched.clips() == first
    values = "es => es.map(e => e.children[4].textContent)"
    page.click("#table thead th:nth-child(5) button")
    up = [float(v) for v in page.eval_on_selector_all("#table tbody tr", values)]
    assert up == sorted(up)
    assert page.get_attribute("#table thead th:nth-child(5)", "aria-sort") == "ascending"
    page.keyboard.press("Enter")
    down = [float(v) for v in page.eval_on_selector_all("#table tbody tr", values)]
    assert down == sorted(down, reverse=True)
    assert down[0] > up[-1]
    for i in range(1, page.locator("#table thead th").count() + 1):
        page.click(f"#table thead th:nth-child({i}) button")
        assert page.get_attribute(f"#table thead th:nth-child({i})", "aria-sort") == "ascending"
    page.select_option("#f-outcome", "2")
    assert set(
        page.eval_on_selector_all("#table tbody td:nth-child(2)", "es => es.map(e => e.textContent)")
    ) == {"abstained"}
    page.select_option("#f-truth", "class-3")
    page.fill("#search", "CLASS-3/")
    assert all(name.startswith("class-3/") for name in watched.clips())
    assert "(2000 in all)" in watched.text("#shown")
    page.fill("#search", "there is no such clip")
    assert watched.text("#shown") == "no clip matches"
    page.keyboard.press("Enter")
    watched.check()


@pytest.mark.parametrize("size", SIZES)
def test_a_clip_is_shown_and_heard(browser, made, size):
    watched = Watched(browser, made / "waveform.html", SIZES[size])
    page = watched.page
    page.check("#f-heard")
    rows = watched.clips()
    assert len(rows) == 6
    page.click("#table tbody tr:nth-child(2) button")
    assert page.evaluate("document.activeElement.id") == "panel"
    assert watched.text("#panel h3") == rows[1]
    assert "Carried to" in watched.text("#panel")
    assert page.locator("#panel .chain li").count() >= 3
    assert page.locator("#panel audio").count() == 3
    pictures = []
    for k in range(3):
        page.locator("#panel .version button").nth(k).click()
        assert page.get_attribute(f"#panel .version:nth-child({k + 1}) button", "aria-pressed") == "true"
        pictures.append(page.eval_on_selector("#panel canvas", "e => e.toDataURL()"))
    assert len(set(pictures)) == 3
    long = page.evaluate(
        """async () => { const out = []; for (const a of document.querySelectorAll('#panel audio')) {
        a.muted = true; await a.play(); out.push([a.duration, a.error]); } return out; }"""
    )
    assert all(error is None and abs(seconds - 0.1) < 0.02 for seconds, error in long)
    watched.check()


def test_what_an_attack_found_can_be_heard_and_features_have_no_noise_to_hear(browser, made):
    watched = Watched(browser, made / "features.html", SIZES["desktop"])
    page = watched.page
    titles = set()
    for name in range(1, len(watched.clips()) + 1):
        page.click(f"#table tbody tr:nth-child({name}) button")
        titles |= set(page.eval_on_selector_all("#panel .version b", "es => es.map(e => e.textContent)"))
        assert "cannot be heard" in watched.text("#panel")
    assert titles == {"Original", "With a random perturbation", "With the attack’s best"}
    assert "Norm ratio" in watched.text("#axes")
    assert "SNR-equivalent" not in watched.text("#axes")
    assert "not a signal-to-noise ratio" in watched.text("#contract")
    watched.check()


def test_hostile_names_are_text_in_every_place(browser, made):
    watched = Watched(browser, made / "hostile.html", SIZES["phone"])
    page = watched.page
    assert watched.clips()[: len(HOSTILE)] == [visible(name) for name in HOSTILE]
    for i in range(1, len(HOSTILE) + 2):
        page.click(f"#table tbody tr:nth-child({i}) button")
        assert page.eval_on_selector("#panel h3", "e => e.children.length") == 1
    assert visible(HOSTILE[0]) in watched.text("#panel"), "the reason of the failed clip"
    options = page.eval_on_selector_all("#f-truth option", "es => es.map(e => e.textContent)")
    assert set(map(visible, HOSTILE)) <= set(options)
    assert "torn" in watched.text("#warnings")
    assert page.locator("img, iframe").count() == 0
    watched.check()


def test_colours_copying_and_printing(browser, made):
    watched = Watched(browser, made / "waveform.html", SIZES["desktop"], "dark")
    page = watched.page
    shade = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(shade)
    page.click("#theme")
    assert page.evaluate(shade) != dark
    page.click("#theme")
    assert page.evaluate(shade) == dark
    page.click("#theme")
    for summary in page.locator("details > summary").all():
        summary.click()
    for button in page.locator(".copy").all():
        button.click()
        playwright.expect(button).to_have_text(re.compile("Copied|Selected"))
    page.keyboard.press("Tab")
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = false")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert len(page.pdf(format="A4")) > 10_000
    watched.check()


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [("waveform", "desktop", "light"), ("waveform", "phone", "dark"), ("hostile", "phone", "light")],
)
def test_axe_finds_no_serious_fault(browser, made, name, size, scheme):
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("needs axe-playwright-python (the dev extra)")
    axe = (Path(found.origin).parent / "axe.min.js").read_text("utf-8")
    watched = Watched(browser, made / f"{name}.html", SIZES[size], scheme)
    page = watched.page
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    page.evaluate(axe)
    faults = page.evaluate("axe.run().then(r => r.violations)")
    bad = [
        f"{f['id']}: {f['nodes'][0]['html'][:120]}" for f in faults if f["impact"] in ("serious", "critical")
    ]
    assert bad == []
    watched.check()
    # Axe does look: it finds the fault of a page that has one.
    page.evaluate("document.documentElement.removeAttribute('lang')")
    again = page.evaluate("axe.run(document, {runOnly: ['html-has-lang']}).then(r => r.violations.length)")
    assert again == 1


def test_of_two_thousand_clips_the_page_builds_those_that_are_seen(browser, made):
    """Which is what opens it in a fraction of a second, whatever the machine."""
    assert (made / "big.html").stat().st_size < 15_000_000
    watched = Watched(browser, made / "big.html", SIZES["desktop"])
    assert watched.page.evaluate("document.querySelectorAll('#table tbody tr').length") <= 200
    assert watched.page.evaluate("document.querySelectorAll('*').length") < 6000


@pytest.mark.skipif("SOUNDCERT_SCREENSHOTS" not in os.environ, reason="for people: set SOUNDCERT_SCREENSHOTS")
def test_screenshots(browser, made):
    folder = Path(os.environ["SOUNDCERT_SCREENSHOTS"])
    for name in ("waveform", "features", "big", "hostile"):
        for size, shape in SIZES.items():
            for scheme in ("light", "dark"):
                watched = Watched(browser, made / f"{name}.html", shape, scheme)
                watched.page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=True)
