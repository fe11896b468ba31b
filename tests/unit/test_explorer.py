"""The explorer's parts without a server: the shelf, progress, the contract builder, the static site."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

import soundcert as sc
from soundcert.bounds import monte_carlo_ceiling
from soundcert.contract import read_contract
from soundcert.errors import ConfigError, RunError
from soundcert.explorer import builder
from soundcert.explorer import shelf as module
from soundcert.explorer.progress import State, locked, state_of
from soundcert.explorer.server import Explorer
from soundcert.explorer.shelf import Shelf, natural
from soundcert.explorer.site import MARK, write_site
from soundcert.runs import Run, open_run
from soundcert.runs.directory import take_lock
from soundcert.runs.recordings import recordings_of
from soundcert.transport import carry
from synthetic import HOSTILE, many, record, write_run

# --- the shelf -------------------------------------------------------------------------------------


def test_many_runs_are_listed_in_the_order_a_person_expects(tmp_path: Path) -> None:
    for sigma, seed in itertools.product(("0.5", "0.25", "1"), (10, 2, 1)):
        write_run(tmp_path / "study" / f"sigma={sigma}" / f"seed={seed}", many(3))
    write_run(tmp_path / "alone", many(3))
    cards = Shelf(tmp_path).cards()
    assert [c["name"] for c in cards] == ["alone"] + [
        f"study/sigma={s}/seed={n}" for s in ("0.25", "0.5", "1") for n in (1, 2, 10)
    ]
    assert {c["group"] for c in cards} == {"", "study/sigma=0.25", "study/sigma=0.5", "study/sigma=1"}
    assert len({c["id"] for c in cards}) == 10


def test_runs_of_cells_are_listed_under_the_names_of_their_cells(tmp_path: Path) -> None:
    for cell in ("study/cells/a/run", "study/cells/b/fold-1/run", "other", "run"):
        write_run(tmp_path / cell, many(3))
    told = {(c["group"], c["short"]) for c in Shelf(tmp_path).cards()}
    above = tmp_path.name
    assert told == {
        ("study/cells", "a/run"),
        ("study/cells", "b/fold-1/run"),
        ("", "other"),
        ("", f"{above}/run"),
    }
    (card,) = Shelf(tmp_path / "study" / "cells" / "a").cards()
    assert (card["name"], card["group"], card["short"]) == ("run", "", "a/run")


def test_natural_order() -> None:
    names = ["run-10", "run-2", "Run-1", "a", "0.5", "0.25", "٣"]
    assert sorted(names, key=natural) == ["0.25", "0.5", "a", "Run-1", "run-2", "run-10", "٣"]


def test_an_id_is_found_and_a_path_is_not(tmp_path: Path) -> None:
    shelf = Shelf(Path(write_run(tmp_path / "runs" / "a", many(3))).parent)
    (place,) = shelf.places()
    assert shelf.find(place.id).path == tmp_path / "runs" / "a"
    for key in ("a", "../runs/a", str(place.path), "", place.id[:-1]):
        with pytest.raises(RunError, match="no such run"):
            shelf.find(key)


def test_the_folder_itself_may_be_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "one", many(3))
    (card,) = Shelf(tmp_path / "one").cards()
    assert card["name"] == "one" and card["readable"]


def test_figures_of_a_card_are_those_of_the_summary(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [record("x", 1000), record("y", 900), record("z", 400), record("w", 990, "no")])
    (card,) = Shelf(tmp_path).cards()
    assert card["accuracy"] == "50.0\u00a0%"
    assert card["counts"] == [3, 1, 0]
    assert card["spark"][0] == 0.5 and card["spark"][-1] == 0.0
    shares = card["spark"]
    assert shares == sorted(shares, reverse=True)
    ceiling = monte_carlo_ceiling(1.0, 1000, 0.001)
    top = [share for k, share in enumerate(shares) if 4 * k / 32 <= ceiling]
    assert top[-1] == 0.25, "one clip reaches the ceiling"


def test_a_changed_run_is_read_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", many(4))
    shelf = Shelf(tmp_path)
    (place,) = shelf.places()
    first = shelf.open(place)
    assert shelf.open(place) is first
    with (path / "certificates.jsonl").open("a") as file:
        file.write(json.dumps(record("more", 990)) + "\n")
    assert len(shelf.open(place).records) == 5


def test_one_strange_run_does_not_take_the_others_from_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "a", many(4))
    write_run(tmp_path / "b", many(4), clips=10**400)
    assert [c["readable"] for c in Shelf(tmp_path).cards()] == [True, True]

    real_card, real_state = module._card, module.state_of

    def broken_card(run: Run) -> dict[str, Any]:
        return real_card(run) if run.name == "a" else 1 / 0

    def broken_state(path: Path, told: dict[str, Any]) -> State:
        return real_state(path, told) if path.name == "a" or not told["readable"] else 1 / 0

    for name, broken in (("_card", broken_card), ("state_of", broken_state)):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, broken)
            good, bad = Shelf(tmp_path).cards()
        assert good["readable"] and good["state"] == State.FINISHED
        assert not bad["readable"] and bad["state"] == State.UNREADABLE
        assert "cannot be read by this version (ZeroDivisionError" in bad["warnings"][0]


# --- progress --------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system has no list of locks")
def test_a_run_whose_lock_is_held_goes_on_and_is_not_disturbed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", many(4), clips=10)
    old = time.time() - 3600
    os.utime(path / "certificates.jsonl", (old, old))
    shelf = Shelf(tmp_path)
    (card,) = shelf.cards()
    assert (card["state"], card["state_words"]) == (
        State.STOPPED,
        "stopped at 4 of 10 clips, last written 60 min ago",
    )
    lock = take_lock(path)
    assert locked(path)
    (card,) = shelf.cards()
    assert card["state"] == State.RUNNING
    assert card["state_words"].startswith("4 of 10 clips, about ")
    lock.close()
    assert not locked(path)
    # Looking takes no lock: a writer that starts at any moment is let in.
    with (path / ".lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_finished_run_is_finished_and_a_fresh_one_runs(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", many(4))
    (card,) = Shelf(tmp_path).cards()
    assert card["state"] == State.FINISHED
    unfinished = {**card, "total": 9}
    now = (path / "certificates.jsonl").stat().st_mtime
    assert state_of(path, unfinished, now + 1).state == State.RUNNING
    assert state_of(path, unfinished, now + 1000).state == State.STOPPED


# --- the contract builder --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip() -> sc.Clip:
    return sc.load_clip(builder.demo_clips()[0])


@pytest.mark.parametrize("extra", builder.EXTRAS)
@pytest.mark.parametrize("recipe", builder.STANDARD, ids=lambda r: r.key)
def test_every_place_says_what_the_library_says(recipe: builder.Recipe, extra: str, clip: sc.Clip) -> None:
    chosen = recipe.with_extra(extra)
    found = builder.slots(chosen, clip, sigma=0.5)
    assert len(found["places"]) == len(chosen.stages) + 1 == len(found["stages"]) + 1
    for at, place in enumerate(found["places"]):
        specs = [*chosen.stages[:at], {"gaussian_noise": {"sigma": 0.5}}, *chosen.stages[at:]]
        pipe = sc.Pipeline.from_specs(specs)
        route = pipe.route(clip.space)
        contract = read_contract(route)
        assert place["kind"] == contract.kind
        assert place["covers"] == contract.covers()
        assert tuple(place["not_claimed"]) == contract.not_claimed()
        ceiling = monte_carlo_ceiling(0.5, 10_000, 1e-3)
        assert float(place["radius"]) <= ceiling < float(place["radius"]) * 1.001
        there = carry(route, pipe.front_trace(clip), ceiling, "file", exact=clip.exact)
        assert float(place["file"]["radius"]) <= there.radius
        keys = {v["key"] for v in place["views"]}
        assert ("snr_db" in keys) == contract.about_waveform
        assert ("norm_ratio_db" in keys) != contract.about_waveform
        if place["file"]["snr_db"] is not None:
            assert float(place["file"]["snr_db"]) >= there.snr_db


def test_moving_the_noise_changes_the_contract(clip: sc.Clip) -> None:
    start = builder.STANDARD[0]
    kinds = [p["kind"].removesuffix(" smoothing") for p in builder.slots(start, clip, sigma=0.5)["places"]]
    assert kinds == ["post-processed waveform"] * 4 + ["fixed-gain waveform", "feature-space"]
    clipped = builder.slots(start.with_extra("clip"), clip, sigma=0.5)
    at = clipped["home"]
    place = clipped["places"][at]
    assert place["kind"] == "post-processed waveform smoothing"
    assert [f["title"] for f in place["flags"] if f["level"] == "warning"]
    displacement, sensitivity = map(float, place["geometry"])
    assert displacement > sensitivity


def test_a_place_says_which_stages_change_the_noisy_object(clip: sc.Clip) -> None:
    stages = [
        "mono",
        {"clip": {}},
        {"windows": {"seconds": 0.5, "hop": 0.5}},
        {"rms_normalize": {}},
        "spectrogram",
        {"fit_frames": {"frames": 10}},
    ]
    recipe = builder.Recipe.of("k", "a", [{"gaussian_noise": {"sigma": 0.1}}, *stages], None)
    places = builder.slots(recipe, clip, sigma=0.1)["places"]
    assert [p.get("changes") for p in places[:3]] == [[0, 1, 3], [1, 3], [3]]
    for at, place in enumerate(places[:3]):
        route = sc.Pipeline.from_specs(recipe.with_noise(at, 0.1)).route(clip.space)
        assert len(place["changes"]) == len(route.post_processing)


def test_the_home_of_the_noise_stays_where_it_was() -> None:
    for recipe in builder.STANDARD:
        above = [builder._name(s) for s in recipe.stages[: recipe.home]]
        for extra in builder.EXTRAS:
            more = recipe.with_extra(extra)
            names = [builder._name(s) for s in more.stages[: more.home]]
            assert names == above


def test_a_runs_pipeline_can_be_taken_and_one_inside_a_model_cannot(tmp_path: Path) -> None:
    stages = [
        "mono",
        {"rms_normalize": {}},
        {"gaussian_noise": {"sigma": 0.1}},
        {"log_mel": {}},
        {"model": {"weights": "x"}},
    ]
    run = open_run(write_run(tmp_path / "a", many(2), config={"pipeline": stages}))
    recipe = builder.recipe_of_run("k", "a", run)
    assert (recipe.home, recipe.sigma, len(recipe.stages)) == (2, 0.1, 3)
    inside = ["mono", {"model": {"stop": 1}}, {"gaussian_noise": {"sigma": 0.1}}, {"model": {"start": 1}}]
    run = open_run(write_run(tmp_path / "b", many(2), config={"pipeline": inside}))
    with pytest.raises(ConfigError, match="two parts of the model"):
        builder.recipe_of_run("k", "b", run)


LATTICE = [
    "mono",
    {"rms_normalize": {}},
    {"quantize": {"log2_step": -20}},
    {"lattice_noise": {"sigma": 0.1}},
    {"log_mel": {}},
]


def test_lattice_noise_is_shown_where_it_stands_and_elsewhere_the_noise_is_said_to_be_another(
    tmp_path: Path, clip: sc.Clip
) -> None:
    run = open_run(write_run(tmp_path / "a", many(2), config={"pipeline": LATTICE}))
    recipe = builder.recipe_of_run("k", "a", run)
    assert (recipe.home, recipe.sigma) == (3, 0.1)
    contract = read_contract(sc.Pipeline.from_specs(LATTICE).route(clip.space))
    found = builder.slots(recipe, clip, sigma=0.1)
    own = found["places"][3]
    assert own["covers"] == contract.covers() and tuple(own["not_claimed"]) == contract.not_claimed()
    assert own["instead"] is None
    others = [p for at, p in enumerate(found["places"]) if at != 3]
    assert all(
        p["ok"] and "adds lattice_noise" in p["instead"] and "of gaussian_noise" in p["instead"]
        for p in others
    )
    # A change put in above the quantizer leaves the noise on its lattice.
    more = recipe.with_extra("clip")
    assert builder.slots(more, clip, sigma=0.2)["places"][more.home]["instead"] is None
    assert all(p["instead"] is None for p in builder.slots(builder.STANDARD[0], clip, sigma=0.5)["places"])


def test_a_clip_is_audited_under_the_runs_own_noise(tmp_path: Path) -> None:
    write_run(
        tmp_path / "a", many(2), config={"pipeline": LATTICE, "data": {"source": "folder", "root": "."}}
    )
    explorer = Explorer(tmp_path)
    (place,) = explorer.shelf.places()
    found = explorer.audit(place.id, explorer.clips.names[0])
    assert found["stages"][found["noise"]].startswith("lattice_noise(")
    assert not any("does to Gaussian noise" in line for line in found["not_claimed"])


def test_both_figures_of_the_file_on_a_page_are_one(clip: sc.Clip) -> None:
    """A quantizer that comes first and keeps every file of the clip's format costs nothing: the chain has to know it."""
    specs = [{"quantize": {"log2_step": -15}}, {"gaussian_noise": {"sigma": 0.0025}}]
    recipe = builder.Recipe.of("k", "a", specs, None)
    place = builder.slots(recipe, clip, sigma=0.0025)["places"][recipe.home]
    (view,) = [v["value"] for v in place["views"] if v["key"] == "file_radius"]
    assert place["file"]["radius"] == view
    assert "every file of this format lies" in str(place["file"]["chain"])


# --- recordings ------------------------------------------------------------------------------------


def test_recordings_are_found_by_name_and_checked_by_digest(tmp_path: Path) -> None:
    from helpers import folder_of_tones

    folder_of_tones(tmp_path / "clips")
    clip = sc.load_clip(tmp_path / "clips" / "low" / "0.wav")
    info = {
        "config": {"data": {"source": "folder", "root": "clips"}, "pipeline": ["mono"]},
        "folder": str(tmp_path),
    }
    held = recordings_of(tmp_path, info)
    good = {"clip": "low/0.wav", "digest": clip.digest}
    assert held.clip(good).digest == clip.digest
    with pytest.raises(RunError, match="another recording"):
        held.clip({**good, "digest": "0" * 32})
    with pytest.raises(RunError, match="another recording"):
        held.clip({"clip": "low/0.wav"})
    with pytest.raises(RunError, match="no longer holds"):
        held.clip({**good, "clip": "elsewhere/0.wav"})
    assert held.clip({**good, "clip": "elsewhere/0.wav"}, moved=True).digest == clip.digest
    with pytest.raises(RunError, match="did not record where"):
        recordings_of(tmp_path, {"config": info["config"]})
    assert recordings_of(tmp_path, {"config": info["config"]}, otherwise=tmp_path).folder == tmp_path
    with pytest.raises(RunError, match="names no data"):
        recordings_of(tmp_path, {"config": {"pipeline": ["mono"]}, "folder": str(tmp_path)})


# --- the static site -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a", many(12))
    write_run(folder / "<b>" / "x", [record(n, 900, label=n, truth=n) for n in HOSTILE])
    (folder / "torn").mkdir()
    (folder / "torn" / "run.json").write_text("{")
    out = tmp_path_factory.mktemp("out") / "site"
    written = write_site(folder, out, sigmas=(0.5,))
    assert written.reports == 2 and written.comparisons == 2
    assert len(written.left_out) == 1 and "torn" in written.left_out[0]
    return out


def test_the_site_fetches_nothing_and_its_links_lead_somewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert [p.name for p in pages if p.parent == site] == ["build.html", "compare.html", "index.html"]
    assert len(pages) == 5
    for page in pages:
        text = page.read_text("utf-8")
        assert "connect-src" not in text, "a policy that lets it ask nobody"
        assert not re.findall(r'(?:src|href)="(?:https?:|//)', text)
        for link in re.findall(r'<a [^>]*href="([^"#]+)"', text):
            assert (page.parent / link).is_file(), link
        assert str(site.parent) not in text and "onerror=alert(2)>" not in text
    index = json.loads(
        re.search(r'id="data">(.*?)</script>', (site / "index.html").read_text("utf-8"), re.S)[1]
    )
    reports = [run["report"] for run in index["runs"] if run["report"]]
    assert len(reports) == 2 and all((site / r).is_file() for r in reports)


def test_the_site_is_written_again_but_never_over_something_else(site: Path, tmp_path: Path) -> None:
    (site / "reports" / "old.html").write_text("of a run that is gone")
    write_run(tmp_path / "runs" / "a", many(4))
    write_site(tmp_path / "runs", site, sigmas=(0.25,))
    assert not (site / "reports" / "old.html").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other files"):
        write_site(tmp_path / "runs", other)
    assert [p.name for p in other.iterdir()] == ["chapter.tex"]
    with pytest.raises(ConfigError, match="is a file"):
        write_site(tmp_path / "runs", other / "chapter.tex")
    assert (site / MARK).is_file()
