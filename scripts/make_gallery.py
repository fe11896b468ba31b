"""Pictures of docs/gallery.md: the bundled models on the bundled clips, in reports and in the explorer.

python scripts/make_gallery.py [--runs FOLDER]     needs playwright and chromium (the dev extra)

Everything in the pictures is computed here, on synthetic speech. --runs keeps the runs, and takes them up again.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
IMAGES = ROOT / "docs" / "images"
WIDE, PHONE = (1280, 860), (390, 844)
COLOURS = 128


def certify(folder: Path) -> None:
    """Certify the bundled clips under the four contracts of the demo."""
    from soundcert.cli import run as cli
    from soundcert.demo import CONTRACTS, demo_folder

    for key, *_ in CONTRACTS:
        config, out = demo_folder() / f"{key}.yaml", folder / key
        call = ["certify", str(config), "--out", str(out), "--report-in", "file", "--json"]
        if cli([*call, *(["--resume"] if out.exists() else [])]):
            sys.exit(f"{key} could not be certified")


def pictures(browser: Any, url: str, folder: Path) -> None:
    def shot(
        name: str, path: str, act: Callable[[Any], None], size: tuple[int, int] = WIDE, scheme: str = "light"
    ) -> None:
        page = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
        )
        page.goto(url + path)
        act(page)
        page.wait_for_load_state("networkidle")
        page.screenshot(path=folder / f"{name}.png")
        page.close()

    def compare(page: Any) -> None:
        page.select_option("[aria-label='Run A']", label="waveform")
        page.select_option("[aria-label='Run B']", label="features")
        page.wait_for_selector(".verdict")

    def in_file(page: Any) -> None:
        compare(page)
        page.click("#to-file")
        page.wait_for_selector(".verdict.ranked")

    def in_features(page: Any) -> None:
        page.focus("#noise")
        page.keyboard.press("End")
        page.mouse.click(5, 5)
        page.evaluate("scrollTo(0, 0)")

    def clipped(page: Any) -> None:
        page.select_option("#extra", "clip")
        page.wait_for_selector("#line .after")
        page.evaluate("scrollTo(0, document.querySelector('.bench').offsetTop - 20)")

    def report(page: Any) -> None:
        page.click(".run h3 a:has-text('waveform')")
        page.wait_for_selector("#table tbody tr", state="attached")

    def curve(page: Any) -> None:
        report(page)
        page.evaluate("document.querySelector('#curve').scrollIntoView()")

    shot("explore-runs", "/", lambda _page: None)
    shot("explore-refused", "/compare", compare)
    shot("explore-ranked", "/compare", in_file)
    shot("explore-builder", "/build", lambda _page: None)
    shot("explore-builder-features", "/build", in_features, scheme="dark")
    shot("explore-builder-clipped", "/build", clipped)
    shot(
        "explore-audit", "/audit", lambda page: (page.click("#sample"), page.wait_for_selector("#result h2"))
    )
    shot("report", "/", report)
    shot("report-curve", "/", curve)
    for name, path in (("phone-runs", "/"), ("phone-builder", "/build")):
        shot(name, path, lambda _page: None, PHONE, "dark")


def main() -> None:
    from playwright.sync_api import sync_playwright

    from serving import serving

    keep = sys.argv[sys.argv.index("--runs") + 1] if "--runs" in sys.argv else None
    with tempfile.TemporaryDirectory() as held:
        runs, shots = Path(keep or f"{held}/runs"), Path(held) / "shots"
        shots.mkdir()
        runs.mkdir(parents=True, exist_ok=True)
        certify(runs)
        chromium = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        with serving(runs) as served, sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            pictures(browser, served.url, shots)
            browser.close()
        for png in sorted(shots.glob("*.png")):
            small = Image.open(png).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            small.save(IMAGES / png.name, optimize=True)
            print(f"{png.name}: {(IMAGES / png.name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
