"""The demo: what it certifies, and a page that stands by itself."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers import mistakes
from soundcert.cli import run
from soundcert.demo import CONTRACTS, DemoResult, run_demo, write_page
from soundcert.errors import ConfigError, InputError
from soundcert.models import bundled
from soundcert.report.demo import columns, demo_page, sound_rows
from soundcert.runs.schema import record_schema

LINKING = (
    "src",
    "href",
    "srcset",
    "action",
    "data",
    "poster",
    "formaction",
    "background",
    "cite",
    "xlink:href",
)


@pytest.fixture(scope="module")
def result() -> DemoResult:
    try:
        for name in ("kws-waveform", "kws-features", "esc10-waveform"):
            bundled(name)
    except ConfigError as error:
        pytest.skip(f"the bundled models are not there: {error}")
    return run_demo(n=20, seed=3)


@pytest.fixture(scope="module")
def page(result: DemoResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(result, tmp_path_factory.mktemp("demo") / "new" / "folder")


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "br", "hr", "img", "input", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_demo_has_the_three_contracts_on_the_same_clips(result):
    assert [entry.key for entry in result.contracts] == [key for key, _, _ in CONTRACTS]
    assert {entry.contract.kind for entry in result.contracts} == {
        "fixed-gain waveform smoothing",
        "feature-space smoothing",
        "post-processed waveform smoothing",
    }
    assert len(result.clips) == len(result.truths) == 12
    for entry in result.contracts:
        assert [certificate.clip for certificate in entry.certificates] == [
            clip.name for clip in result.clips
        ]
        assert all((c.n, c.seed, c.alpha) == (20, 3, 0.001) for c in entry.certificates)
        assert entry.pipeline[entry.noise_index].startswith("gaussian_noise")
    geometry = {entry.key: entry.geometry() for entry in result.contracts}
    assert geometry["waveform"] is None
    assert geometry["features"] is None
    assert geometry["clipped"] is not None
    assert geometry["peak"] is not None


def test_the_bundled_models_know_the_bundled_clips(result):
    for entry in result.contracts:
        assert entry.certificates[0].contract.model.startswith("model(ds_cnn")
    by_key = {entry.key: entry for entry in result.contracts}
    for key in ("waveform", "features"):
        assert len(by_key[key].correct(result.truths)) >= 9


def test_the_sounds_are_known_and_certified_for_the_file(result, page):
    sounds = result.sounds
    assert len(sounds.clips) == 3
    assert [c.clip for c in sounds.certificates] == [clip.name for clip in sounds.clips]
    good = [
        c for c, truth in zip(sounds.certificates, sounds.truths, strict=True)
        if c.status == "certified" and c.candidate == truth
    ]  # fmt: skip
    assert len(good) == 3
    for certificate in good:
        assert certificate.contract.dimension == 80_000
        assert certificate.in_space("file").radius > 0
    text = Elements(page.read_text("utf-8")).text
    for row in sound_rows(result):
        assert all(" ".join(cell.split()) in text for cell in row)


def test_radii_of_the_waveform_hold_for_the_file(result):
    waveform = next(entry for entry in result.contracts if entry.key == "waveform")
    for certificate in waveform.correct(result.truths):
        there = certificate.in_space("file")
        assert there.radius > 0
        # No proof for the file can go beyond a noise that was found to leave the ball.
        left = waveform.left_at_db[waveform.certificates.index(certificate)]
        assert left is not None
        assert there.snr_db >= left


def test_the_page_fetches_nothing(page):
    text = page.read_text("utf-8")
    without_sound = re.sub(r"data:audio/flac;base64,[A-Za-z0-9+/=]+", "data:", text)
    assert "http://" not in without_sound
    assert "https://" not in without_sound
    assert not re.search(r"""["'(=]\s*//""", without_sound), "no address that takes the page's scheme"
    assert "@import" not in text
    assert not re.search(r"url\s*\(", without_sound)
    found = Elements(text)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"link", "iframe", "object", "embed", "base", "img", "script"}
    for tag, attributes in found.elements:
        for name in LINKING:
            if name in attributes:
                assert attributes[name].startswith(("data:audio/flac;base64,", "#")), (
                    tag,
                    attributes[name][:80],
                )
        assert not any(name.startswith("on") for name in attributes)


def test_the_page_has_every_contract_with_its_statement(page, result):
    text = Elements(page.read_text("utf-8")).text
    for entry, column in zip(result.contracts, columns(result), strict=True):
        assert entry.title in text
        assert entry.contract.kind in text
        for sentence in (entry.contract.covers(), *entry.contract.not_claimed()):
            # What stands in backticks is an element of its own.
            assert "".join(sentence.replace("`", "").split()) in "".join(text.split())
        for stage in entry.pipeline:
            assert stage in text
        for name, value in column.facts.items():
            assert name in text
            assert " ".join(value.split()) in text


def test_the_page_plays_every_clip_twice(page, result):
    found = Elements(page.read_text("utf-8"))
    players = [attributes for tag, attributes in found.elements if tag == "audio"]
    assert len(players) == 2 * (len(result.clips) + len(result.sounds.clips))
    assert len({player["src"] for player in players}) == len(players)
    assert all(player["aria-label"] for player in players)


def test_the_page_escapes_what_it_shows(result):
    evil = "<script>alert('x')</script>&\".wav"
    clips = (dataclasses.replace(result.clips[0], name=evil), *result.clips[1:])
    truths = ("<b>up</b>", *result.truths[1:])
    contracts = tuple(dataclasses.replace(entry, title=f"<i>{entry.key}</i>") for entry in result.contracts)
    changed = dataclasses.replace(result, clips=clips, truths=truths, contracts=contracts)
    sound = ("data:audio/flac;base64,AA==", "data:audio/flac;base64,AA==")
    text = demo_page(changed, [sound] * (len(clips) + len(result.sounds.clips)))
    found = Elements(text)
    assert not {"script", "i", "b"} & {tag for tag, _ in found.elements}
    assert html.escape("<script>", quote=False) in text
    assert evil in found.text
    assert "lattice_noise closes that gap" in found.text and "`" not in found.text
    assert any(evil in attributes.get("aria-label", "") for _, attributes in found.elements)


def test_the_results_stand_beside_the_page(page, result):
    kept = json.loads((page.parent / "demo.json").read_text("utf-8"))
    assert kept == json.loads(json.dumps(result.to_dict()))
    schema = record_schema()
    for entry in kept["contracts"]:
        assert len(entry["certificates"]) == entry["of"] == 12
        correct = [
            c for c in entry["certificates"] if c["status"] == "certified" and c["label"] == c["truth"]
        ]
        assert entry["certified_and_correct"] == len(correct)
        for record in (*entry["certificates"], *kept["sounds"]["certificates"]):
            assert not mistakes(record, schema)


def test_the_demo_by_the_command_line(result, tmp_path, capsys, monkeypatch):
    asked = []

    def known(**options):
        asked.append({key: value for key, value in options.items() if key != "progress"})
        return result

    monkeypatch.setattr("soundcert.demo.run_demo", known)
    assert run(["demo", "--out", str(tmp_path / "out"), "--n", "20", "--seed", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(json.dumps(result.to_dict()))
    assert err == ""
    assert (tmp_path / "out" / "index.html").is_file()
    assert run(["demo", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "What each certificate covers" in text
    assert str(tmp_path / "out" / "index.html") in text.replace("\n", "")
    assert asked == [{"n": 20, "seed": 3}, {"n": 1000, "seed": 0}]


def test_a_demo_that_certifies_nothing_or_has_nowhere_to_write_is_refused(result, tmp_path, capsys):
    assert run(["demo", "--n", "5", "--out", str(tmp_path / "out")]) == 2
    assert "n = 5 is too small" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="choose another --out"):
        write_page(result, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
