"""The report: the curve against counting by hand, hostile names, torn and newer runs, size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers import WAVEFORM as STAGES
from helpers import folder_of_tones, write_tone_model, yaml_of
from soundcert.bounds import accuracy_interval
from soundcert.cli import run as cli
from soundcert.report.curve import Intervals, curves, intervals_of, nice_grid
from soundcert.report.facts import (
    contract_facts,
    label_bars,
    outcome,
    pipeline_of,
    probability_bars,
    readable,
)
from soundcert.report.findings import run_flags
from soundcert.report.html import embed, render, write_report
from soundcert.report.markdown import escaped, markdown
from soundcert.report.shares import percent, percents
from soundcert.report.sounds import choose, listen
from soundcert.report.stated import stated
from soundcert.report.words import plain_words, view_text, visible
from soundcert.runs import Run, open_run
from synthetic import CONTRACT, HOSTILE, STATEMENT, many, record, write_run


class Page(HTMLParser):
    """Elements with their attributes, the text that is shown, and the data blocks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.shown: list[str] = []
        self.data: dict[str, str] = {}
        self._open = ("", "")
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        if tag in ("script", "style"):
            self._open = (tag, values.get("id", "script"))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._open[0]:
            self._open = ("", "")

    def handle_data(self, data: str) -> None:
        if self._open[0] == "script":
            self.data[self._open[1]] = self.data.get(self._open[1], "") + data
        elif not self._open[0]:
            self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.shown).split())


def opened(path: Path) -> Run:
    return open_run(path)


# --- the curve -------------------------------------------------------------------------------------


def by_hand(run: Run, name: str, falling: bool, x: float) -> int:
    """Count certified clips with their own label whose value reaches x; no value, no certificate."""
    hits = 0
    for r in run.records:
        if r["status"] != "certified" or r["truth"] != r["label"]:
            continue
        value = r["radius"] if name == "radius" else r["views"].get(name, "absent")
        if value is None or (value != "absent" and (value <= x if falling else value >= x)):
            hits += 1
    return hits


def test_the_curve_counts_as_by_hand_on_every_axis(tmp_path):
    records = many(150)
    certified = [r for r in records if r["status"] == "certified"]
    for r in certified[:5]:
        r["views"] = {k: v for k, v in r["views"].items() if not k.startswith("file")}
    certified[5]["views"]["file_snr_db"] = None
    run = opened(write_run(tmp_path / "r", records))
    found = curves(run)
    assert [c.axis.name for c in found] == [
        "radius", "r_over_sigma", "snr_db", "burst_20ms_db", "file_radius", "file_snr_db", "file_lsb"
    ]  # fmt: skip
    usable = sum(r["status"] != "failed" for r in records)
    for curve in found:
        name, falling = curve.axis.name, curve.axis.falling
        assert curve.total == usable == run.summary["smoothed_accuracy_over"]
        sign = -1 if falling else 1
        assert sign * curve.domain[0] < sign * curve.domain[1], "from weak to strong"
        for point in curve.grid:
            assert point.count == by_hand(run, name, falling, point.x)
            assert point.interval == accuracy_interval(point.count, usable, 0.05, 0.001)
        for x, count in curve.steps:
            assert count == curve.count_at(x) == by_hand(run, name, falling, x)
            beyond = x - 1e-9 * sign if falling else x + 1e-9
            assert curve.count_at(beyond) <= count
        assert [c for _, c in curve.steps] == sorted((c for _, c in curve.steps), reverse=True)
    assert found[5].unlimited == 1
    assert found[0].count_at(0.0) == round(run.summary["smoothed_accuracy"] * usable)


def test_the_ceiling_stands_on_every_axis_of_the_object(tmp_path):
    run = opened(write_run(tmp_path / "r", [record("a", 1000), record("b", 900)]))
    by_name = {c.axis.name: c for c in curves(run)}
    top = run.records[0]
    assert by_name["radius"].ceiling == (top["ceiling"], top["ceiling"])
    for name in ("r_over_sigma", "snr_db", "burst_20ms_db"):
        for end in by_name[name].ceiling or pytest.fail(name):
            assert end == pytest.approx(top["views"][name])
    assert by_name["file_radius"].ceiling is None, "no fixed function of the radius"


def test_under_decide_the_curve_is_asked_at_the_radii_and_under_a_budget_has_no_interval(tmp_path):
    radii = [0.0, 0.2, 0.4]
    rows = []
    for i, radius in enumerate((0.0, 0.2, 0.4, 0.4)):
        r = record(f"c{i}", 990)
        r |= {
            "policy": "decide",
            "radii": radii,
            "radius": radius,
            "ceiling": 0.4,
            "saturated": radius == 0.4,
        }
        r["views"] = {"r_over_sigma": radius / 0.5}
        rows.append(r)
    decide = opened(write_run(tmp_path / "decide", rows))
    curve = curves(decide)[0]
    assert [(p.x, p.count) for p in curve.grid] == [(0.0, 4), (0.2, 3), (0.4, 2)]
    assert "largest radius asked about" in render(decide)
    tied = opened(write_run(tmp_path / "budget", [{**record("a", 900), "policy": "budget"}]))
    assert all(p.interval is None for c in curves(tied) for p in c.grid)
    assert json.loads(Page(render(tied)).data["data"])["curves"][0]["band"] is None


def test_a_band_of_very_many_counts_holds_the_intervals_of_each():
    every = Intervals(3000, 0.001)
    counts = list(range(0, 3000, 3))
    for count, (low, high) in zip(counts[::97], (every.band(counts) or [])[::97], strict=True):
        exact = accuracy_interval(count, 3000, 0.05, 0.001)
        assert low <= exact[0] <= exact[1] <= high
        assert high - low < exact[1] - exact[0] + 0.01
    assert len(every._known) <= 402


def test_grids_are_round_numbers():
    assert nice_grid(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_grid(-3.1, -0.9, 2) == [-3.0, -2.0, -1.0]
    assert nice_grid(1.0, 1.0) == [1.0]


def test_runs_without_labels_or_certificates_have_curves(tmp_path):
    plain = opened(
        write_run(tmp_path / "plain", [record("a", 1000, truth=None), record("b", 400, truth=None)])
    )
    assert (curves(plain)[0].total, curves(plain)[0].count_at(0.1)) == (2, 1)
    none = opened(write_run(tmp_path / "none", [record("b", 400)]))
    assert [c.axis.name for c in curves(none)] == ["radius"]
    empty = opened(write_run(tmp_path / "empty", []))
    assert curves(empty)[0].total == 0
    for run in (plain, none, empty):
        assert "The contract" in Page(render(run)).text
        assert "# " in markdown(run)


# --- the page --------------------------------------------------------------------------------------


def hostile(path: Path) -> Run:
    rows = []
    for i, name in enumerate(HOSTILE):
        if i % 4 == 3:
            rows.append({"clip": name, "status": "failed", "reason": f"cannot read {name}", "truth": name})
        else:
            rows.append(record(name, 1000 if i % 2 else 700, label=name, truth=name))
    contract = {**CONTRACT, "model": HOSTILE[0], "gain_policy": HOSTILE[1], "post_noise": [HOSTILE[2]]}
    info = {
        "contract": contract,
        "statement": f"Contract: x.\n{HOSTILE[0]}{HOSTILE[2]}",
        "soundcert": HOSTILE[0],
    }
    config = {"data": {"root": HOSTILE[2]}, "pipeline": [HOSTILE[0]], "certify": {"seed": HOSTILE[1]}}
    return opened(write_run(path / HOSTILE[5].replace("/", ""), rows, config=config, **info))


def test_hostile_names_and_labels_stand_as_text(tmp_path):
    run = hostile(tmp_path)
    text = render(run)
    page = Page(text)
    data = json.loads(page.data["data"])
    assert data["clips"]["clip"] == [visible(name) for name in HOSTILE]
    assert set(page.data) == {"data", "audio", "script"}, "no name opened or closed a script"
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3
    assert not {"img", "iframe", "object", "embed", "link", "base", "form-action"} & set(tags)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert not attributes.get("href", "#").startswith(("javascript", "http", "//"))
    for name in HOSTILE:
        assert " ".join(visible(name).split()) in page.text, "as a label, in the table of labels"
    raw = text.encode("utf-8")
    assert b"\xe2\x80\xa8" not in raw, "no line separator"
    assert b"\xe2\x80\xae" not in raw, "nothing turns the direction of writing"
    assert b"\x00" not in raw
    written = tmp_path / "page.html"
    write_report(run, written, audio=3)
    assert written.read_text("utf-8").startswith("<!doctype html>")


def test_hostile_names_stand_as_text_in_markdown(tmp_path):
    text = markdown(hostile(tmp_path))
    rows = [line for line in text.split("## Clips")[1].splitlines() if line.startswith("| ")]
    assert rows
    assert not re.search(r"(?<!\\)<", text.split("## Again")[0])
    assert escaped("| a *b* <i>") == r"\| a \*b\* \<i\>"
    assert "\n" not in escaped("a\nb")
    assert escaped("see https://a.b www.c.d x@y.z") == r"see https:\//a.b www\.c.d x\@y.z"
    assert escaped("- 1. log-mel (40 bands): 0.5 %") == r"\- 1\. log-mel (40 bands): 0.5 %"
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1, "no name adds a cell"


def test_text_hides_nothing():
    assert visible("a\nb\x00\x7f") == "a⟨U+000A⟩b⟨U+0000⟩⟨U+007F⟩"
    assert visible("x\u202ey\u2028") == "x⟨U+202E⟩y⟨U+2028⟩"
    assert visible("\udcff") == "�"
    assert visible("שלום 👩🏽‍🚀 é") == "שלום 👩🏽‍🚀 é"
    assert "</" not in embed({"a": "</script>\u2028&"})


def test_numbers_are_rounded_inward():
    assert percent(3, 1000) == "0.3\u00a0%"
    assert percent(999, 1000) == "99.9\u00a0%"
    assert percent(2999, 3000) == "99.9\u00a0%"
    assert percents((0.91479, 0.96921)) == ("91.4\u00a0%", "97.0\u00a0%")
    assert view_text("snr_db", 37.961) == "37.97"
    assert view_text("file_radius", 0.123456) == "0.1234"
    assert view_text("snr_db", None) == "no limit"


def test_nothing_is_fetched_and_the_policy_names_what_runs(tmp_path):
    text = render(opened(write_run(tmp_path / "r", many(30))))
    page = Page(text)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    script = re.search(r"<script>(.*?)</script>", text, re.S)
    assert style is not None
    assert script is not None
    for kind, found in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(found.group(1).encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    rest = re.sub(r"http://www\.w3\.org/2000/svg", "", text)
    assert not re.search(r"https?:|@import|url\(|=\s*[\"']//", rest)
    for _, attributes in page.elements:
        assert not {"src", "srcset", "style", "action", "data"} & set(attributes)


def test_torn_missing_and_newer_runs_open_with_a_warning(tmp_path):
    torn = opened(write_run(tmp_path / "torn", many(5), tail=b'{"clip": "b", "sta', clips=9))
    text = Page(render(torn)).text
    assert "Read this first" in text
    assert "torn" in text
    assert "5 of 9 clips" in text

    (tmp_path / "torn" / "certificates.jsonl").unlink()
    assert "certificates.jsonl is missing" in Page(render(opened(tmp_path / "torn"))).text

    odd = [{**record("a", 900), "loudness": 3}, {**record("b", 900), "radius": "wide"}]
    odd += [{**record("c", 900), "views": [1]}, {**record("d", 900), "radii": 5}, record("e", 900)]
    newer = readable(
        opened(
            write_run(tmp_path / "new", odd, format=7, contract="words", statement="", config={"certify": 3})
        )
    )
    assert [r["clip"] for r in newer.records] == ["a", "e"]
    text = Page(render(newer)).text
    for words in ("format 7", "loudness", "3 records have values", "a contract and a config.certify"):
        assert words in text
    assert "recorded no contract" in text
    assert markdown(newer)


def test_two_thousand_clips_are_small(tmp_path):
    run = opened(write_run(tmp_path / "big", many(2000, labels=60)))
    text = render(run)
    assert len(text.encode()) < 3_000_000
    assert "20 more labels" in Page(text).text


def test_the_contract_and_its_flags_are_read_off_the_run(tmp_path):
    contract = {
        **CONTRACT, "perturbation_location": "feature", "kind": "feature-space smoothing", "post_noise": [],
    }  # fmt: skip
    run = opened(write_run(tmp_path / "f", [record("a", 900)], contract=contract))
    assert [f.id for f in run_flags(run)] == ["feature-not-waveform", "per-clip-gain-before-noise"]
    assert any("not a signal-to-noise ratio" in line for line in plain_words(run).not_claimed)
    rows = [{**record("a", 900), "displacement": 5.0, "sensitivity": 0.4}, {**record("b", 16, n=16)}]
    contract = {**CONTRACT, "post_noise": ["clip(low=-1, high=1)"]}
    flags = {f.id: f.detail for f in run_flags(opened(write_run(tmp_path / "c", rows, contract=contract)))}
    assert "1 of 2 clips" in flags["clip-after-unit-gain"]
    contract = {**CONTRACT, "post_noise": ["limiter(threshold=0.8, ceiling=1)", "clip(low=-1, high=1)"]}
    flags = {f.id: f.detail for f in run_flags(opened(write_run(tmp_path / "l", rows, contract=contract)))}
    assert flags["clip-after-unit-gain"].startswith(
        "limiter(threshold=0.8, ceiling=1) moves the clean object"
    )
    assert "1 of 2 clips" in flags["small-ceiling"]
    contract = {
        **CONTRACT, "gain_policy": "per clip, after the noise: peak_normalize(target=6)",
        "post_noise": ["peak_normalize(target=6)", "quantize(bits=16)"],
    }  # fmt: skip
    found = [f.id for f in run_flags(opened(write_run(tmp_path / "p", rows, contract=contract)))]
    assert found[0] == "gain-after-noise"
    assert "quantise-after-noise" in found
    old = opened(write_run(tmp_path / "old", rows, contract={"kind": "x"}))
    assert plain_words(old).not_claimed == ("Nothing about lossy codecs.",)


def test_the_title_names_the_cell_of_a_study(tmp_path):
    text = render(opened(write_run(tmp_path / "cells" / "sigma-0.5" / "run", many(5))))
    assert "<h1><bdi>sigma-0.5/run</bdi></h1>" in text and "<title>sigma-0.5/run: " in text


def test_what_stands_between_backticks_in_the_contract_is_code(tmp_path):
    statement = f"{STATEMENT}\nAny change of it is covered by `quantize` and <b>`a`</b>."
    text = render(opened(write_run(tmp_path / "r", many(5), statement=statement)))
    section = re.search(r'<section aria-labelledby="h-contract".*?</section>', text, re.S)[0]
    assert "(<code>lattice_noise</code> closes that gap)" in section
    assert "covered by <code>quantize</code> and &lt;b&gt;<code>a</code>&lt;/b&gt;." in section
    assert "`" not in section


def test_bars_count_every_usable_clip_once(tmp_path):
    run = opened(write_run(tmp_path / "r", many(200)))
    bars = probability_bars(run)
    assert sum(b.total for b in bars) == len(run.usable)
    assert bars[-1].total == sum(bool(r["saturated"]) for r in run.usable)
    assert bars[0].counts[2] == sum(r["status"] == "abstained" for r in run.usable)
    assert {outcome(r) for r in run.records} == {0, 1, 2, 3}


# --- sounds and the command line -------------------------------------------------------------------


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_tone_model(folder / "tones.safetensors")
    folder_of_tones(folder / "clips")
    (folder / "c.yaml").write_text(yaml_of(STAGES))
    assert cli(["certify", str(folder / "c.yaml"), "--out", str(folder / "run"), "--json"]) == 0
    return folder / "run"


def test_chosen_clips_are_extremes_mistakes_and_abstentions(tmp_path):
    rows = [
        record("top", 1000),
        record("mid", 900),
        record("low", 600),
        record("no", 500),
        record("bad", 990, "no"),
    ]
    chosen = choose(opened(write_run(tmp_path / "r", rows)), 4)
    assert dict(chosen) == {
        "top": "largest radius", "low": "smallest radius", "bad": "certified with a wrong label", "no": "abstained"
    }  # fmt: skip
    assert [c for c, _ in chosen] == ["top", "low", "no", "bad"], "in the run's order"
    assert choose(opened(tmp_path / "r"), 0) == []
    assert len(choose(opened(tmp_path / "r"), 99)) == 5


def test_players_are_at_one_loudness_and_about_the_recording(certified, tmp_path):
    run = opened(certified)
    sounds = listen(run, [r["clip"] for r in run.records])
    assert sounds.missing == ()
    assert len(sounds.clips) == 4
    for heard in sounds.clips:
        assert [v.key for v in heard.versions] == ["original", "noisy", "random"]
        levels = [level_of(v.audio) for v in heard.versions]
        assert max(levels) / min(levels) < 1.01
        assert all(0 < len(base64.b64decode(v.spectrogram)) == 160 * 64 for v in heard.versions)
    # Another recording under the same name, and none at all, are said and not played.
    other = tmp_path / "other"
    folder_of_tones(other)
    swapped = (other / "low" / "0.wav").read_bytes()
    (other / "low" / "1.wav").write_bytes(swapped)
    (other / "high" / "0.wav").unlink()
    less = listen(run, [r["clip"] for r in run.records], data=other)
    assert len(less.clips) == 2
    assert any("another recording" in m for m in less.missing)
    assert any("no longer holds" in m for m in less.missing)
    gone = listen(run, ["low/0.wav"], base=tmp_path / "nowhere")
    assert "no clip can be heard" in gone.missing[0]


def level_of(uri: str) -> float:
    import io

    import soundfile

    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    return float((samples**2).mean() ** 0.5)


def test_an_attacked_file_outside_the_run_is_never_read(certified):
    run = opened(certified)
    outside = certified.parent / "clips" / "low" / "0.wav"
    line = {
        "clip": "low/0.wav", "status": "attacked", "settings": {},
        "bypass": {"files": [{"path": f"../clips/low/{outside.name}", "snr_db": 60.0, "outside": True}]},
    }  # fmt: skip
    (certified / "attacks.jsonl").write_text(json.dumps(line) + "\n")
    try:
        (heard,) = listen(opened(certified), ["low/0.wav"]).clips
        assert [v.key for v in heard.versions] == ["original", "noisy", "random"]
        inside = certified / "attacks" / "a.wav"
        inside.parent.mkdir(exist_ok=True)
        inside.write_bytes(outside.read_bytes())
        line["bypass"]["files"][0]["path"] = "attacks/a.wav"
        (certified / "attacks.jsonl").write_text(json.dumps(line) + "\n")
        (heard,) = listen(opened(certified), ["low/0.wav"]).clips
        assert heard.versions[-1].key == "attack"
        assert "Found by attack" in Page(render(opened(certified))).text
    finally:
        (certified / "attacks.jsonl").unlink()
    assert run.attacks == ()


def test_the_verb(certified, tmp_path, capsys):
    assert cli(["report", str(certified)]) == 0
    assert capsys.readouterr().out.strip() == str(certified / "report.html")
    assert len(json.loads(Page((certified / "report.html").read_text("utf-8")).data["audio"])) == 4
    assert (
        cli(["report", str(certified), "--audio", "0", "--out", str(tmp_path / "new" / "p.html"), "--json"])
        == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["format"] == "html"
    assert said["bytes"] == (tmp_path / "new" / "p.html").stat().st_size
    assert said["summary"]["clips"] == 4
    assert said["contract"]["kind"] == "fixed-gain waveform smoothing"
    assert cli(["report", str(certified), "--format", "md", "--out", str(tmp_path / "p.md")]) == 0
    assert "**Not claimed**" in (tmp_path / "p.md").read_text("utf-8")
    capsys.readouterr()
    for arguments, words in (
        ([str(tmp_path)], "not a run directory"),
        ([str(certified), "--format", "htm"], "did you mean 'html'"),
        ([str(certified), "--audio", "-1"], "--audio must be from 0"),
        ([str(certified), "--out", str(certified / "run.json" / "x")], "choose another --out"),
    ):
        assert cli(["report", *arguments]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_intervals_follow_the_largest_alpha(tmp_path):
    rows = [record("a", 900), {**record("b", 900), "alpha": 0.01}]
    assert intervals_of(opened(write_run(tmp_path / "r", rows))).at(1) == accuracy_interval(1, 2, 0.05, 0.01)


def test_the_changes_after_the_noise_are_marked_also_around_windows(tmp_path):
    contract = {
        **CONTRACT,
        "post_noise": ["clip(low=-1)", "peak_normalize(target=1)"],
        "post_noise_stages": [
            "clip(low=-1)",
            "windows(seconds=1)",
            "peak_normalize(target=1)",
            "log_mel(n_mels=40)",
        ],
    }
    run = opened(write_run(tmp_path / "run", many(2), contract=contract))
    places = [place for _, place in pipeline_of(run)]
    assert places[places.index("noise") + 1 :] == ["after", "base", "after", "base", "base"]


def test_a_run_that_is_one_of_several_says_at_which_level_the_best_holds(tmp_path):
    """Choosing the best of m certificates is choosing the noise: each at α, the best at m·α."""
    rows = [record(f"{i}.wav", 990, truth="yes") for i in range(5)]
    said = "the best of 3 certificates of each clip holds at α = 0.003 (Bonferroni)"
    alone = open_run(write_run(tmp_path / "alone", rows))
    assert "Kept of several" not in dict(stated(alone))
    config = json.loads((alone.path / "run.json").read_text())["config"]
    config["certify"] = {**config.get("certify", {}), "n0": 100, "n": 1000, "alpha": 0.001, "tries": 3}
    run = open_run(write_run(tmp_path / "best", rows, config=config))
    assert dict(stated(run))["Kept of several"] == said
    assert said in dict(contract_facts(run))["Sampling"]
    assert said in markdown(run)


def test_a_label_counts_the_clips_that_could_be_used(tmp_path):
    """Found by a first-time user: a failed clip was among those that a share was of."""
    failed = {"clip": "torn", "status": "failed", "reason": "cut off", "truth": "yes"}
    run = opened(write_run(tmp_path / "r", [record("a", 900), record("b", 900), failed]))
    (bar,) = [b for b in label_bars(run) if b.name == "yes"]
    assert (bar.counts[0], bar.heard, bar.total) == (2, 2, 3)
    assert "2/2 (1 failed)" in " ".join(Page(render(run)).text.split())


def test_a_silent_clip_is_flagged_from_its_record(tmp_path):
    silent = {**record("quiet", 900), "object_norm": 0.0, "views": {"r_over_sigma": 1.0}}
    flags = {f.id: f.detail for f in run_flags(opened(write_run(tmp_path / "r", [record("a", 900), silent])))}
    assert flags["silent-clip"] == "1 of 2 clips, such as 'quiet'"
    assert "silent-clip" not in {
        f.id for f in run_flags(opened(write_run(tmp_path / "s", [record("a", 900)])))
    }


def test_an_interval_says_how_many_speakers_the_clips_are_of(tmp_path):
    rows = [record(f"yes/{who}_nohash_{k}.flac", 900) for who in ("0ea0", "1cb7") for k in range(3)]
    text = Page(render(opened(write_run(tmp_path / "r", rows)))).text
    assert "by their names the clips are of 2 speakers, and for new speakers it is too narrow" in text
    some = [*rows, record("mine.flac", 900)]
    text = Page(render(opened(write_run(tmp_path / "m", some)))).text
    assert "by their names 6 of the clips are of 2 speakers" in text
    text = Page(render(opened(write_run(tmp_path / "s", many(6))))).text
    assert "by their names" not in text


def test_a_radius_above_what_the_draws_allow_is_warned_of(tmp_path):
    rows = [record(f"{i}.wav", 990) for i in range(5)]
    assert open_run(write_run(tmp_path / "honest", rows)).warnings == ()
    rows[3]["radius"] = 5.0
    (said,) = open_run(write_run(tmp_path / "forged", rows)).warnings
    assert said.startswith("1 records claim a radius above what their draws allow, such as that of '3.wav'")
