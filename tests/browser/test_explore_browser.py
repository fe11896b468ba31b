"""The explorer in headless Chromium, served and exported: every control is used, nothing leaves the machine.

Screenshots for people: SOUNDCERT_SCREENSHOTS=folder pytest tests/browser
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from watching import CHROMIUM, SIZES, Page, axe_faults

from helpers import IN_FEATURES, WAVEFORM, folder_of_tones, write_tone_model, yaml_of
from soundcert.cli import run as cli
from soundcert.explorer.site import write_site
from soundcert.report.words import visible
from synthetic import HOSTILE, many, record, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the dev extra)")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")
from serving import Served, serving  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
expect = playwright.expect
NAMES = ("<img src=x onerror=alert(7)>", '"q" \' & line\nbreak \u202egnp', "👩🏽‍🚀 שלום")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real runs of tiny models, a study of cells, hostile names, a torn run and one that goes on."""
    made = tmp_path_factory.mktemp("made")
    write_tone_model(made / "tones.safetensors")
    folder_of_tones(made / "clips", each=3)
    runs = tmp_path_factory.mktemp("runs")
    for name, stages in (("waveform", WAVEFORM), ("features", IN_FEATURES)):
        (made / f"{name}.yaml").write_text(yaml_of(stages))
        assert cli(["certify", str(made / f"{name}.yaml"), "--out", str(runs / name), "--json"]) == 0
    for seed in (1, 2, 10):
        write_run(runs / "study" / f"seed={seed}", many(30))
    rows = [record(n, 1000 if i % 2 else 700, label=n, truth=n) for i, n in enumerate(HOSTILE)]
    for name in NAMES:
        write_run(runs / "hostile" / name, rows, tail=b"{")
    (runs / "torn").mkdir()
    (runs / "torn" / "run.json").write_text("{")
    return runs


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    write_site(folder, out, sigmas=(0.25, 0.5))
    return out


def opened(browser: Any, served: Served, path: str, size: str = "desktop", scheme: str = "light") -> Page:
    return Page(browser, served.url + path, size, served.url, scheme)


def names(page: Page) -> list[str]:
    return page.texts(".run h3")


# --- the list --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_runs_are_listed_searched_sorted_folded_and_opened(browser: Any, served: Served, size: str) -> None:
    watched = opened(browser, served, "/", size)
    page = watched.page
    assert names(watched)[:3] == ["features", "torn", "waveform"]
    assert watched.texts(".group h2") == ["In the folder itself", "hostile", "study"]
    assert names(watched)[-3:] == ["seed=1", "seed=2", "seed=10"]
    page.fill("#search", "study 10")
    assert names(watched) == ["seed=10"]
    page.fill("#search", "feature-space")
    assert names(watched) == ["features"]
    page.fill("#search", "")
    page.select_option("#sort", "accuracy")
    assert names(watched)[:2] != ["features", "torn"]
    page.select_option("#sort", "changed")
    page.select_option("#sort", "name")
    group = page.locator(".group").nth(2)
    group.locator("> summary").click()
    expect(group.locator(".run").first).to_be_hidden()
    group.locator("> summary").click()
    page.click("#theme")
    expect(page.locator(".run.bad .warned li")).to_contain_text("not JSON")
    page.click(".run h3 a:has-text('waveform')")
    page.wait_for_selector("#table tbody tr", state="attached")
    assert "gain-normalised waveform" in watched.text("#contract")
    assert page.locator("audio").count() > 0, "clips can be heard"
    page.click("a.home")
    page.wait_for_selector(".run")
    watched.check()


def test_choosing_leads_to_a_comparison(browser: Any, served: Served) -> None:
    watched = opened(browser, served, "/", "phone")
    page = watched.page
    page.check("[aria-label='Choose waveform for a comparison']")
    assert page.is_disabled("#go")
    page.check("[aria-label='Choose features for a comparison']")
    page.click("#clear")
    expect(page.locator("#tray")).to_be_hidden()
    page.check("[aria-label='Choose waveform for a comparison']")
    page.check("[aria-label='Choose features for a comparison']")
    page.click("#go")
    page.wait_for_selector(".verdict")
    assert watched.texts("#sides b") == ["A", "B"]
    watched.check()


def test_a_run_that_goes_on_is_followed(browser: Any, tmp_path: Path) -> None:
    rows = many(10)
    path = write_run(tmp_path / "live", rows[:3], clips=10)
    with serving(tmp_path) as served:
        watched = opened(browser, served, "/")
        page = watched.page
        expect(page.locator("progress")).to_have_attribute("value", "3")
        page.check("[aria-label='Choose live for a comparison']")
        with (path / "certificates.jsonl").open("a") as file:
            for row in rows[3:8]:
                file.write(json.dumps(row) + "\n")
        expect(page.locator("progress")).to_have_attribute("value", "8", timeout=20_000)
        assert "8 of 10 clips" in watched.text(".going")
        assert page.is_checked("[aria-label='Choose live for a comparison']"), "what was chosen stays so"
        with (path / "certificates.jsonl").open("a") as file:
            for row in rows[8:]:
                file.write(json.dumps(row) + "\n")
        expect(page.locator("progress")).to_have_count(0, timeout=20_000)
        write_run(tmp_path / "second", rows)
        expect(page.locator(".run")).to_have_count(2, timeout=20_000)
        watched.check()


def test_a_study_of_many_cells_is_shown_by_its_folders(browser: Any, tmp_path: Path) -> None:
    rows = many(12)
    for sigma, seed in itertools.product(("0.25", "0.5", "1", "2"), range(20)):
        write_run(tmp_path / "study" / f"sigma={sigma}" / f"seed={seed}", rows)
    with serving(tmp_path) as served:
        watched = opened(browser, served, "/")
        page = watched.page
        assert watched.texts(".group h2") == [f"study/sigma={s}" for s in ("0.25", "0.5", "1", "2")]
        assert page.locator(".run:visible").count() == 0
        assert "20 runs, smoothed accuracy" in watched.text(".group >> nth=0")
        page.locator(".group > summary").nth(1).click()
        assert page.locator(".run:visible").count() == 20
        page.fill("#search", "sigma=1 seed=7")
        assert page.locator(".run:visible").count() == 1
        page.fill("#search", "")
        assert page.locator(".run:visible").count() == 20, "what was open stays so"
        watched.check()


# --- comparing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_waveform_and_features_are_refused_then_ranked_in_the_file(
    browser: Any, served: Served, size: str
) -> None:
    watched = opened(browser, served, "/compare", size)
    page = watched.page
    assert "Choose two runs" in watched.text("#result")
    page.select_option("[aria-label='Run A']", label="waveform")
    page.select_option("[aria-label='Run B']", label="features")
    page.wait_for_selector(".verdict.refused")
    assert "A ranking would mislead" in watched.text(".verdict h2")
    assert "norm ratio of features is not an SNR" in watched.text(".verdict")
    assert page.locator("#plots figure").count() == 2, "each on its own scale"
    assert page.locator(".pairs").count() == 0, "no table that would rank them"
    assert page.locator("tr.decides").count() >= 2
    page.click("#to-file")
    page.wait_for_selector(".verdict.ranked")
    assert page.is_checked("#spaces input[value=file]")
    assert "on the file’s samples" in watched.text(".verdict h2")
    assert page.locator("#plots figure").count() == 1
    assert page.locator(".pairs tbody tr").count() > 3
    # The address holds the question.
    again = page.url
    page.reload()
    page.goto(again)
    page.wait_for_selector(".verdict.ranked")
    page.locator("#spaces input[value=object]").check(force=True)
    page.wait_for_selector(".verdict.refused")
    page.click("#more")
    page.select_option("[aria-label='Run C']", label="study/seed=1")
    expect(page.locator("#sides .side")).to_have_count(3)
    page.wait_for_selector(".verdict.refused")
    page.click("[aria-label='Leave out run C']")
    expect(page.locator("#sides .side")).to_have_count(2)
    for summary in page.locator("#result summary").all():
        summary.click()
    watched.check()


def test_a_comparison_that_needs_lost_recordings_says_so(browser: Any, served: Served) -> None:
    watched = opened(browser, served, "/compare")
    page = watched.page
    page.select_option("[aria-label='Run A']", label="study/seed=1")
    page.select_option("[aria-label='Run B']", label="features")
    page.wait_for_selector(".verdict")
    page.locator("#spaces input[value=file]").check(force=True)
    page.wait_for_selector("#result .verdict, #result .notice")
    watched.check("422")


# --- the contract builder --------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_noise_is_moved_by_keys_by_arrows_and_by_dragging(
    browser: Any, served: Served, size: str
) -> None:
    watched = opened(browser, served, "/build", size)
    page = watched.page
    noise = page.locator("#noise")
    assert watched.text("#kind") == "fixed-gain waveform smoothing"
    noise.focus()
    page.keyboard.press("ArrowDown")
    assert watched.text("#kind") == "feature-space smoothing"
    assert "Norm ratio, not an SNR" in watched.text("#what")
    assert "SNR-equivalent" not in watched.text("#what .tiles")
    assert noise.get_attribute("aria-valuenow") == "5"
    assert "feature-space" in str(noise.get_attribute("aria-valuetext"))
    page.keyboard.press("Home")
    assert watched.text("#kind") == "post-processed waveform smoothing"
    assert noise.evaluate("e => e === document.activeElement"), "the focus stays on the noise"
    assert page.is_disabled("#up")
    page.keyboard.press("End")
    assert page.is_disabled("#down")
    page.click("#up")
    assert watched.text("#kind") == "fixed-gain waveform smoothing"
    order = watched.texts("#line li b")
    assert order[order.index("noise") - 1] == "rms_normalize"

    def drag(to: str) -> None:
        start, end = noise.bounding_box(), page.locator(f"#line .stage:has-text('{to}')").bounding_box()
        page.mouse.move(start["x"] + 40, start["y"] + start["height"] / 2)
        page.mouse.down()
        page.mouse.move(start["x"] + 40, (start["y"] + end["y"]) / 2, steps=4)
        page.mouse.move(start["x"] + 40, end["y"] + end["height"] * 0.8, steps=4)
        page.mouse.up()

    noise.scroll_into_view_if_needed()
    drag("log_mel")
    assert watched.text("#kind") == "feature-space smoothing"
    drag("mono")
    assert watched.text("#kind") == "post-processed waveform smoothing"
    assert watched.texts("#line li b")[:2] == ["mono", "noise"]
    page.locator("#strip g[data-at='4'] text.name").first.click()
    assert watched.text("#kind") == "fixed-gain waveform smoothing"
    watched.check()


def test_every_knob_of_the_builder_is_answered_by_the_server(
    browser: Any, served: Served, tmp_path: Path
) -> None:
    watched = opened(browser, served, "/build")
    page = watched.page

    def radius() -> str:
        return watched.text("#what .tile:first-child .t-value")

    assert radius() == "1.599"
    # What stands between backticks is code, and no backtick is left.
    assert "lattice_noise" in watched.texts(".unclaimed li code")
    assert "`" not in watched.text("#what")
    page.locator("#sigma").fill("20")
    expect(page.locator("#what .tile").first).not_to_contain_text("1.599")
    page.select_option("#extra", label="clip to [−1, 1]")
    expect(page.locator("#line")).to_contain_text("clip")
    expect(page.locator("#kind")).to_have_text("post-processed waveform smoothing")
    page.locator("#sigma").fill("45")
    expect(page.locator("#what .flag.warning").first).to_contain_text("cuts the clean signal")
    assert page.locator("#line .after").count() == 1
    page.select_option("#clip", index=3)
    page.select_option("#recipe", label="MFCC, no gain")
    expect(page.locator("#line")).to_contain_text("mfcc")
    assert page.input_value("#extra") == "none"
    page.select_option("#recipe", label="features")
    expect(page.locator("#kind")).to_have_text("feature-space smoothing")
    folder_of_tones(tmp_path / "own")
    page.set_input_files("#own", tmp_path / "own" / "low" / "0.wav")
    expect(page.locator("#clip option:checked")).to_have_text("0.wav")
    (tmp_path / "bad.wav").write_bytes(b"RIFF no")
    page.set_input_files("#own", tmp_path / "bad.wav")
    expect(page.locator("#trouble")).to_contain_text("audio")
    page.wait_for_load_state("networkidle")
    for summary in page.locator("#what summary").all():
        summary.click()
    watched.check("422")


# --- the audit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_clip_is_dropped_chosen_and_audited(
    browser: Any, served: Served, tmp_path: Path, size: str
) -> None:
    watched = opened(browser, served, "/audit", size)
    page = watched.page
    page.click("#sample")
    expect(page.locator("#result .kind")).to_have_text("fixed-gain waveform smoothing")
    folder_of_tones(tmp_path)
    name = "<b>bold<br> שלום.wav"
    (tmp_path / name).write_bytes((tmp_path / "low" / "0.wav").read_bytes())
    page.set_input_files("#own", tmp_path / name)
    expect(page.locator("#result h2")).to_have_text(name)
    assert page.locator("#result b").count() == page.locator("#result .flag b").count(), "no markup of a name"
    expect(page.locator("#result audio")).to_have_count(1)
    page.select_option("#recipe", label="features")
    expect(page.locator("#result .kind")).to_have_text("feature-space smoothing")
    transfer = page.evaluate_handle(
        """async (bytes) => { const t = new DataTransfer();
        t.items.add(new File([new Uint8Array(bytes)], 'dropped.wav')); return t; }""",
        list((tmp_path / "high" / "0.wav").read_bytes()),
    )
    page.dispatch_event("#zone", "dragover", {"dataTransfer": transfer})
    page.dispatch_event("#zone", "drop", {"dataTransfer": transfer})
    expect(page.locator("#result h2")).to_have_text("dropped.wav")
    (tmp_path / "bad.wav").write_bytes(b"not audio at all" * 99)
    page.set_input_files("#own", tmp_path / "bad.wav")
    expect(page.locator("#trouble")).to_contain_text("not audio")
    for summary in page.locator("#result summary").all():
        summary.click()
    watched.check("422")


# --- hostile names, the static site, everybody's access --------------------------------------------


def test_hostile_names_are_text_in_every_place(browser: Any, served: Served, site: Path) -> None:
    for base, own in ((served.url + "/", served.url), (f"{site.as_uri()}/index.html", site.as_uri())):
        live = base.startswith("http")
        watched = Page(browser, base, "phone", own)
        page = watched.page
        assert set(map(visible, NAMES)) <= set(names(watched))
        assert page.locator("img, iframe, object").count() == 0
        for box in page.locator(".group", has_text="hostile").locator("input[type=checkbox]").all()[:2]:
            box.check()
        assert "U+202E" in watched.text("#chosen") or "onerror" in watched.text("#chosen")
        page.click("#go")
        page.wait_for_selector(".verdict")
        assert page.locator("img, iframe, object").count() == 0
        if live:
            page.goto(served.url + "/build")
            options = watched.texts("#recipe option")
            assert {f"hostile/{visible(n)}" for n in NAMES} <= set(options)
            page.goto(served.url + "/")
        else:
            page.goto(base)
        page.locator(".group", has_text="hostile").locator("h3 a").first.click()
        page.wait_for_selector("#table tbody tr", state="attached")
        assert visible(HOSTILE[0]) in watched.texts("#table tbody th")
        watched.check()


@pytest.mark.parametrize("size", SIZES)
def test_the_static_site_works_from_the_disk(browser: Any, site: Path, size: str) -> None:
    watched = Page(browser, f"{site.as_uri()}/index.html", size, site.as_uri())
    page = watched.page
    assert watched.texts("nav a") == ["Runs", "Compare", "Contract builder"]
    assert "needs a server is left out" in watched.text("footer")
    page.fill("#search", "waveform")
    page.check("[aria-label='Choose waveform for a comparison']")
    page.fill("#search", "")
    page.check("[aria-label='Choose features for a comparison']")
    page.click("#go")
    page.wait_for_selector(".verdict.refused")
    page.click("#to-file")
    page.wait_for_selector(".verdict.ranked")
    page.select_option("[aria-label='Run B']", label="study/seed=10")
    page.wait_for_selector("#result > *")
    # The same two in the other order are the same comparison.
    page.select_option("[aria-label='Run B']", label="waveform")
    page.wait_for_selector(".verdict.ranked")
    a, b = (page.input_value(f"[aria-label='Run {x}']") for x in "AB")
    page.goto(f"{site.as_uri()}/index.html")
    page.goto(f"{site.as_uri()}/compare.html#run={b}&run={a}&in=file")
    page.wait_for_selector(".verdict.ranked")
    assert page.input_value("[aria-label='Run A']") == a
    page.click("nav a:has-text('Contract builder')")
    kinds = set()
    page.locator("#noise").focus()
    page.keyboard.press("Home")
    for _ in range(6):
        kinds.add(watched.text("#kind"))
        page.keyboard.press("ArrowDown")
    assert len(kinds) == 3
    page.select_option("#extra", label="normalise the peak")
    page.select_option("#recipe", label="Raw waveform, peak gain")
    before = watched.text("#sigma-says")
    page.locator("#sigma").fill("0")
    assert watched.text("#sigma-says") != before
    expect(page.locator("#trouble")).to_be_hidden()
    page.click("nav a:has-text('Runs')")
    page.click(".run h3 a:has-text('features')")
    page.wait_for_selector("#table tbody tr", state="attached")
    page.click("a.home")
    page.wait_for_selector(".run")
    watched.check()


def states(browser: Any, served: Served, size: str, scheme: str) -> Iterator[tuple[str, Page]]:
    """Each page with something on it."""
    for name, path in (
        ("index", "/"),
        ("build", "/build"),
        ("audit", "/audit"),
        ("refused", "/compare"),
        ("ranked", "/compare"),
    ):
        watched = opened(browser, served, path, size, scheme)
        page = watched.page
        if name == "audit":
            page.click("#sample")
            page.wait_for_selector("#result h2")
        elif name in ("refused", "ranked"):
            page.select_option("[aria-label='Run A']", label="waveform")
            page.select_option("[aria-label='Run B']", label="features")
            page.wait_for_selector(".verdict")
            if name == "ranked":
                page.click("#to-file")
                page.wait_for_selector(".verdict.ranked")
        elif name == "index":
            page.locator("input[type=checkbox]").first.check()
        yield name, watched


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_axe_finds_no_serious_fault(browser: Any, served: Served, size: str, scheme: str) -> None:
    for name, watched in states(browser, served, size, scheme):
        watched.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        assert axe_faults(watched.page) == [], name
        watched.check()


def test_a_server_that_is_gone_is_said(browser: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "a", many(4))
    with serving(tmp_path) as served:
        watched = opened(browser, served, "/")
        build = opened(browser, served, "/build")
    watched.page.wait_for_selector("body.lost", timeout=20_000)
    build.page.locator("#sigma").fill("10")
    expect(build.page.locator("#trouble")).to_contain_text("does not answer")
    watched.check("ERR_")
    build.check("ERR_")


@pytest.mark.skipif("SOUNDCERT_SCREENSHOTS" not in os.environ, reason="for people: set SOUNDCERT_SCREENSHOTS")
def test_screenshots(browser: Any, served: Served) -> None:
    folder = Path(os.environ["SOUNDCERT_SCREENSHOTS"])
    for size in SIZES:
        for scheme in ("light", "dark"):
            for name, watched in states(browser, served, size, scheme):
                time.sleep(0.2)
                watched.page.screenshot(path=folder / f"explore-{name}-{size}-{scheme}.png", full_page=True)
                watched.check()
