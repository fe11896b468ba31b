"""soundcert lint: what it reads, what each rule finds and does not find, and that honest figures are no error.

python tests/unit/test_lint.py --write     writes the tables of docs/lint.md
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import median

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soundcert.bounds import certified_radius, format_down, format_up, monte_carlo_ceiling
from soundcert.cli import run
from soundcert.demo import demo_folder
from soundcert.errors import InputError, RunError, SoundcertError
from soundcert.lint import LEVELS, RULES, lint_report, read_report, run_rules
from soundcert.lint import tables as reading_tables
from soundcert.lint.fields import FIELDS, point_of, resolve
from soundcert.lint.forms import as_dict, as_github, as_junit
from soundcert.lint.numbers import clean, parse, parse_interval
from soundcert.lint.prose import mentions, parts_of
from soundcert.lint.word_rules import asked

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "examples" / "lint" / "paper-2606.04210.md"
TABLE = ROOT / "examples" / "lint" / "synthetic-rs.tsv"
PAGE = ROOT / "docs" / "lint.md"

GOOD = """
certified object: gain-normalised waveform
perturbation location: waveform after gain
gain policy: each clip scaled to RMS 1, before the noise
changes after the noise: none
median raw radius: 0.00612 (RMS 1 per clip)
median SNR-equivalent: 86.31 dB
σ: 0.0025 (RMS 1 per clip)
n0: 100
n: 10 000
α: 0.001
bound: one-sided Clopper-Pearson
norm: ℓ2
noise: Gaussian
abstention rate: 2.0 %
smoothed accuracy: 91.0 %
data set: Speech Commands v2
split: testing
number of clips: 300
sampling rate: 16 kHz
clip length: 1 s
seed: 0
interval: [87.0 %, 94.2 %]
certified accuracy at 0.0025: 80.0 %
certified accuracy at 0.005: 61.0 %
"""


def card(tmp_path: Path, changes: dict[str, str | None] | None = None, extra: str = "") -> Path:
    """A card that nothing is found in, with some lines changed (None: left out) and some added."""
    lines = []
    for line in GOOD.strip().splitlines():
        label = line.partition(":")[0]
        value = (changes or {}).get(label, line.partition(":")[2].strip())
        if value is not None:
            lines.append(f"{label}: {value}")
    path = tmp_path / "card.md"
    path.write_text("\n\n".join(lines) + "\n\n" + extra, encoding="utf-8")
    return path


def levels(path: Path, rule: str, **given: str) -> list[str]:
    return [f.level for f in lint_report(path, given=given)[1] if f.rule == rule]


def table(
    tmp_path: Path, rows: list[tuple], header: str = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
) -> Path:
    path = tmp_path / "sigma_0.25"
    lines = ["\t".join(map(str, (*r, "0:00:01.0")[: header.count("\t") + 1])) for r in rows]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


# --- the three things that must be shown -----------------------------------------------------------


def test_the_papers_radius_is_found_to_be_the_ceiling_and_the_rest_is_asked_for():
    _, found = lint_report(PAPER)
    by_rule = {f.rule: f for f in found}
    ceiling = by_rule["radius-is-ceiling"]
    assert "0.00799644" in ceiling.message
    assert "n = 10 000, α = 0.001" in ceiling.message
    assert "ESC-50" in ceiling.result and "Speech Commands" in ceiling.result
    assert "10·log10(80 000/16 000)" in by_rule["snr-is-length"].message
    assert "√16 000: 1 s at 16 000 Hz" in " ".join(f.message for f in found if f.rule == "snr-is-unit-rms")
    missing = " ".join(f.message for f in found if f.rule == "missing")
    for title in ("perturbation location", "gain policy", "changes after the noise", "n0", "α", "seed"):
        assert title in missing
    assert "380" in by_rule["clips-implied"].message
    assert not [f for f in found if f.level == "error"]


@pytest.mark.parametrize("name", ["waveform", "features"])
def test_nothing_is_found_in_a_run_of_ours(name, tmp_path):
    """Notes alone: that all certificates of so few draws are at the ceiling, which the summary states."""
    config = demo_folder() / f"{name}.yaml"
    assert run(["certify", str(config), "--out", str(tmp_path / "run"), "--limit", "3", "--n", "100"]) == 0
    assert [f for f in lint_report(tmp_path / "run")[1] if f.level != "note"] == []


def test_a_synthetic_table_of_the_published_form_is_read():
    report, found = lint_report(TABLE, given={"n": "10000", "alpha": "0.001", "sigma": "0.25", "n0": "100"})
    rows = report.results[0].rows
    assert rows is not None and len(rows) == 200
    assert rows.abstained.sum() == sum(
        line.split("\t")[2] == "-1" for line in TABLE.read_text().splitlines()[1:]
    )
    assert not [f for f in found if f.level in ("error", "warning")]
    notes = {f.rule for f in found if f.level == "note"}
    assert {"radius-above-ceiling", "every-kth-clip"} <= notes  # 0.799644 is printed as 0.8
    assert levels(TABLE, "radius-above-ceiling", n="1000", alpha="0.001", sigma="0.25") == ["error"]


# --- each rule, found and not found ----------------------------------------------------------------


def test_nothing_is_found_in_the_good_card(tmp_path):
    assert lint_report(card(tmp_path))[1] == []


@pytest.mark.parametrize("label", [line.partition(":")[0] for line in GOOD.strip().splitlines()])
def test_what_is_left_out_is_asked_for(tmp_path, label):
    name = resolve(label)
    wanted = name[0] if name else ""
    wanted = {"median_radius": "", "median_snr": "signal_scale"}.get(
        wanted, wanted
    )  # the curve has radii too
    title = asked().get(wanted, ("",))[0]
    messages = [f.message for f in lint_report(card(tmp_path, {label: None}))[1] if f.rule == "missing"]
    assert messages == ([f"not stated: {title}"] if title else [])


def test_a_value_that_says_nothing_is_not_stated(tmp_path):
    for nothing in ("-", "n/a", "not reported", "?", "TBD"):
        assert "not stated: seed" in [f.message for f in lint_report(card(tmp_path, {"seed": nothing}))[1]]


CARDS: list[tuple[str, str, dict[str, str | None], str]] = [
    ("radius-above-ceiling", "error", {"median raw radius": "0.0081"}, ""),
    ("radius-above-ceiling", "error", {}, "certified accuracy at 0.01: 3.0 %"),
    (
        "radius-is-ceiling",
        "warning",
        {"median raw radius": "0.007996", "median SNR-equivalent": "83.98 dB"},
        "",
    ),
    (
        "radius-is-ceiling",
        "note",
        {"median raw radius": "0.007996", "median SNR-equivalent": "83.98 dB"},
        "saturated share: 60 %",
    ),
    (
        "radius-is-ceiling",
        "warning",
        {"median raw radius": "0.007996", "n": None, "α": None, "median SNR-equivalent": None},
        "",
    ),
    (
        "radius-is-ceiling",
        "warning",
        {
            "median raw radius": "0.007927",
            "bound": "two-class, largest of all other classes, fresh",
            "median SNR-equivalent": None,
        },
        "",
    ),
    ("n-too-small", "error", {"n": "9", "median raw radius": None, "median SNR-equivalent": None}, ""),
    ("ceiling-wrong", "error", {}, "Monte-Carlo ceiling: 0.0095"),
    ("r-over-sigma-wrong", "error", {}, "R/σ: 3.1"),
    ("radius-not-a-radius", "error", {"median raw radius": "NaN"}, ""),
    ("radius-not-a-radius", "error", {"median raw radius": "-0.002"}, ""),
    ("abstention-as-class", "warning", {}, "max radius: 0"),
    ("several-values", "warning", {"σ": "0.0025, 0.005, 0.01"}, ""),
    ("other-norm", "warning", {}, "ε: 0.001 (linf)"),
    ("other-norm", "error", {}, "ε: 0.00100 (linf)\n\ndimension: 16000"),
    ("other-norm", "warning", {"norm": "linf"}, ""),
    ("accuracy-out-of-range", "error", {"smoothed accuracy": "104.2 %"}, ""),
    ("certified-above-smoothed", "error", {}, "certified accuracy at 0.001: 93.0 %"),
    ("certified-above-smoothed", "error", {}, "positive-radius certified accuracy: 93.0 %"),
    ("curve-grows", "error", {}, "certified accuracy at 0.007: 70.0 %"),
    ("accuracy-not-of-clips", "warning", {"smoothed accuracy": "91.15 %"}, ""),
    (
        "accuracy-not-of-clips",
        "warning",
        {"number of clips": None, "data set": "ESC-50", "smoothed accuracy": "91.13 %"},
        "",
    ),
    (
        "clips-implied",
        "note",
        {"number of clips": None, "smoothed accuracy": "91.13 %"},
        "clean accuracy: 93.55 %",
    ),
    ("certified-at-which-radius", "warning", {}, "certified accuracy: 80.0 %"),
    (
        "mean-without-curve",
        "warning",
        {"certified accuracy at 0.0025": None, "certified accuracy at 0.005": None},
        "ACR: 0.0041",
    ),
    ("best-of-sigma", "warning", {}, "σ selection: best σ per radius on the test set"),
    ("interval-without-accuracy", "error", {"interval": "[70.0 %, 80.0 %]"}, ""),
    ("interval-too-narrow", "warning", {"interval": "[90.9 %, 91.1 %]"}, ""),
    ("abstentions-and-accuracy", "error", {"abstention rate": "20.0 %"}, ""),
    ("abstentions-and-accuracy", "error", {"abstention rate": None}, "abstained: 60"),
    ("false-certificates", "note", {"interval": None, "number of clips": "3000"}, ""),
    (
        "snr-of-features",
        "error",
        {"certified object": "log-mel features", "perturbation location": "feature"},
        "",
    ),
    ("snr-not-from-radius", "warning", {"median SNR-equivalent": "43.15 dB"}, "RMS: 1"),
    (
        "snr-not-from-radius",
        "error",
        {"median raw radius": None, "median SNR-equivalent": None},
        "radius: 0.00612\n\nSNR: 84.0 dB\n\nsignal norm: 126.49",
    ),
    (
        "snr-is-unit-rms",
        "warning",
        {
            "gain policy": "per clip",
            "certified object": "waveform",
            "σ": "0.0025 (own unit)",
            "median raw radius": "0.00612",
        },
        "",
    ),
    ("snr-without-length", "warning", {"clip length": None}, ""),
    ("stated-twice", "warning", {}, "noise level: 0.01"),
    ("confidence-or-alpha", "warning", {"α": None}, "confidence: 99.9 %"),
    ("confidence-or-alpha", "warning", {"α": "0.999"}, ""),
    ("samples-of-what", "warning", {"n": None}, "samples: 16000"),
    (
        "contract-contradicts",
        "error",
        {"perturbation location": "log-mel features", "median SNR-equivalent": None},
        "norm ratio: 40 dB",
    ),
    (
        "contract-contradicts",
        "error",
        {"changes after the noise": "peak normalisation"},
        "contract: fixed-gain waveform smoothing",
    ),
    ("runner-up-from-n0", "warning", {"bound": "p_A and p_B, the runner-up of the n0 draws"}, ""),
    ("runner-up-from-n0", "warning", {"bound": "two-class"}, ""),
    ("sigma-unstated-noise", "note", {"noise": "Laplace", "norm": "l1"}, ""),
    (
        "interval-for-how-many",
        "note",
        {"number of clips": "3000", "interval": "[87.0 %, 94.2 %], all certificates jointly"},
        "",
    ),
]


@pytest.mark.parametrize(("rule", "level", "changes", "extra"), CARDS)
def test_a_rule_finds_what_it_is_for(tmp_path, rule, level, changes, extra):
    assert level in levels(card(tmp_path, changes, extra), rule)


# Nearly the same, and right: what each rule must leave alone. (The good card is a case of every rule.)
FINE: list[tuple[str, dict[str, str | None], str]] = [
    ("radius-above-ceiling", {"median raw radius": "0.0080"}, ""),  # 0.007996 in two digits
    ("radius-above-ceiling", {}, "certified accuracy at 0.01: 0.0 %"),
    ("radius-above-ceiling", {"median raw radius": "2.4 (LSB)"}, ""),
    ("radius-above-ceiling", {"median raw radius": "0.02", "noise": "Laplace"}, ""),
    ("radius-is-ceiling", {"median raw radius": "0.007996", "n": "100 000"}, ""),
    (
        "radius-is-ceiling",
        {"median raw radius": "0.0080", "n": None, "α": None},
        "",
    ),  # two digits fit anything
    ("n-too-small", {"n": "10", "median raw radius": "0.00005"}, ""),
    ("ceiling-wrong", {}, "Monte-Carlo ceiling: 0.00800"),
    ("ceiling-wrong", {"bound": None}, "Monte-Carlo ceiling: 0.00792"),  # of the two-class bound
    ("r-over-sigma-wrong", {}, "R/σ: 2.448"),
    ("several-values", {"α": "0.001, one-sided"}, ""),
    ("other-norm", {}, "ε: 0.001"),
    ("certified-above-smoothed", {}, "clean accuracy: 60 %"),  # smoothing may help
    ("curve-grows", {}, "certified accuracy at 0.006: 61.0 %"),
    ("accuracy-not-of-clips", {"smoothed accuracy": "91.3 %"}, ""),
    ("accuracy-not-of-clips", {"smoothed accuracy": "0.91"}, ""),
    (
        "accuracy-not-of-clips",
        {"number of clips": None, "data set": "ESC-50", "smoothed accuracy": "91.15 %"},
        "",
    ),
    ("certified-at-which-radius", {}, "certified accuracy (r > 0): 80.0 %"),
    ("mean-without-curve", {}, "ACR: 0.0041"),
    ("best-of-sigma", {}, "σ selection: chosen on validation clips"),
    ("interval-without-accuracy", {"interval": "0.870 to 0.942"}, ""),
    ("abstentions-and-accuracy", {"abstention rate": "9.0 %"}, ""),
    ("abstentions-and-accuracy", {"abstention rate": None}, "abstained: 6"),
    (
        "snr-of-features",
        {
            "certified object": "waveform, classified by its log-mel spectrogram",
            "perturbation location": "waveform",
        },
        "",
    ),
    ("snr-not-from-radius", {}, "RMS: 1"),
    ("snr-is-unit-rms", {"median SNR-equivalent": "80.00 dB", "gain policy": "none"}, ""),
    ("stated-twice", {}, "noise level σ: 0.0025"),
    ("confidence-or-alpha", {}, "confidence: 99.9 %"),
    ("samples-of-what", {"n": None}, "Monte-Carlo samples: 16000"),
    (
        "contract-contradicts",
        {
            "certified object": "log-mel features",
            "perturbation location": "feature",
            "median SNR-equivalent": None,
        },
        "norm ratio: 40 dB",
    ),
    (
        "runner-up-from-n0",
        {"bound": "two-class, with the largest count of all other classes in the fresh draws"},
        "",
    ),
    ("runner-up-from-n0", {"bound": "one-sided Clopper-Pearson with p_B = 1 − p_A"}, ""),
    ("false-certificates", {"interval": None}, ""),
]


@pytest.mark.parametrize(("rule", "changes", "extra"), FINE)
def test_a_rule_leaves_alone_what_is_right(tmp_path, rule, changes, extra):
    assert levels(card(tmp_path, changes, extra), rule) == []


ROWS: list[tuple[str, str, list[tuple]]] = [
    ("many-saturated", "warning", [(i, 1, 1, 0.8, 1) for i in range(12)]),
    ("radius-not-a-radius", "error", [(0, 1, 1, "nan", 1)]),
    ("radius-not-a-radius", "error", [(0, 1, 1, "inf", 1)]),
    ("radius-not-a-radius", "error", [(0, 1, 1, -0.1, 1)]),
    ("abstention-as-class", "warning", [(0, 0, 0, 0.0, 1), (1, 3, 0, 0.0, 0)]),
    ("abstention-correct", "error", [(0, 1, -1, 0.0, 1)]),
    ("abstention-correct", "error", [(0, 1, -1, 0.2, 0)]),
    ("abstention-correct", "error", [(0, 1, 2, 0.2, 1)]),
    ("rows-repeat", "error", [(0, 1, 1, 0.3, 1), (0, 1, 1, 0.3, 1)]),
    ("every-kth-clip", "note", [(i, 1, 1, 0.3 + i / 1000, 1) for i in range(0, 100, 20)]),
    ("radius-above-ceiling", "error", [(0, 1, 1, 0.978, 1)]),
    ("radius-above-ceiling", "note", [(0, 1, 1, 0.953, 1)]),
]


@pytest.mark.parametrize(("rule", "level", "rows"), ROWS)
def test_a_rule_about_rows_finds_what_it_is_for(tmp_path, rule, level, rows):
    path = table(tmp_path, rows)
    assert level in levels(path, rule, n="100000", alpha="0.001", sigma="0.25")
    fine = table(
        tmp_path, [(i, 1, 1, 0.1 + i / 100, 1) for i in range(9)] + [(9, 1, -1, 0.0, 0), (10, 2, 1, 0.5, 0)]
    )
    assert levels(fine, rule, n="100000", alpha="0.001", sigma="0.25") == []


@pytest.mark.parametrize(("outcome", "found"), [("certified", []), ("wrong label", []), ("ok", ["warning"])])
@pytest.mark.parametrize("column", ["status", "outcome"])
def test_an_outcome_says_whether_radius_0_is_an_abstention(tmp_path, outcome, found, column):
    rows = [("a", outcome, "yes", "0.0"), ("b", outcome, "no", "0.3"), ("c", "abstained", "", "")]
    csv = tmp_path / "r.csv"
    csv.write_text("\n".join(",".join(r) for r in [("clip", column, "predict", "radius"), *rows]))
    md = tmp_path / "r.md"
    md.write_text(
        "\n".join(f"| {' | '.join(r)} |" for r in [("clip", column, "answer", "radius"), ("---",) * 4, *rows])
    )
    assert levels(csv, "abstention-as-class") == found
    assert levels(md, "abstention-as-class") == found
    assert "abstention" not in " ".join(f.message for f in lint_report(csv)[1] if f.rule == "missing")


def test_a_radius_above_the_ceiling_says_which_budget_it_would_fit(tmp_path):
    path = table(tmp_path, [(i, 1, 1, 0.978, 1) for i in range(3)])
    found = lint_report(path, given={"n": "100000", "alpha": "0.001", "sigma": "0.25"})[1]
    assert "n = 100 000, α = 0.01" in next(f.message for f in found if f.rule == "radius-above-ceiling")


RESULTS = """
| | words | sounds | features |
|---|---|---|---|
| certified object | waveform | waveform | log-mel |
| σ | 0.0025 | 0.0025 | 0.5 |
| median raw radius | 0.007 | 0.007 | 1.2 |
| SNR | 85.14 dB | 92.13 dB | |
| clip length | 1 s | 5 s | 1 s |
| sampling rate | 16 kHz | 16 kHz | 16 kHz |
"""


def test_rules_over_several_results(tmp_path):
    path = tmp_path / "r.md"
    path.write_text(RESULTS)
    assert levels(path, "snr-is-length") == ["warning"]
    assert levels(path, "objects-compared") == ["note"]
    assert "not stated: signal-relative scale for features" in [f.message for f in lint_report(path)[1]]
    path.write_text(RESULTS.replace("92.13", "88.20").replace("log-mel", "waveform"))
    assert levels(path, "snr-is-length") == []
    assert levels(path, "objects-compared") == []


def test_every_rule_has_a_case_here():
    tried = {c[0] for c in CARDS} | {c[0] for c in ROWS} | {"missing", "snr-is-length", "objects-compared"}
    assert set(RULES) - tried == {"radius-not-from-counts"}  # see the next test


# --- our own forms ---------------------------------------------------------------------------------


def own_run(
    path: Path, *, sigma=0.5, n=1000, alpha=0.001, counts=(1000, 900, 700, 400), bound="one-sided", **extra
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    norm = 40.0
    ceiling = monte_carlo_ceiling(sigma, n, alpha, bound)
    records = []
    for i, count in enumerate(counts):
        record = {
            "clip": f"{i}.wav",
            "candidate": "yes",
            "truth": "yes",
            "count": count,
            "n": n,
            "n0": 100,
            "alpha": alpha,
            "seed": 0,
            "bound": bound,
            "sigma": sigma,
            "p_lower": 0.5,
            "ceiling": ceiling,
            "object_norm": norm,
            "saturated": count == n,
            "digest": "00",
            "policy": "fixed",
            "max_other": n - count,
        }
        radius = certified_radius(count, n, alpha, sigma, bound=bound, max_other=n - count)
        if radius is None:
            record["status"] = "abstained"
        else:
            snr = 20 * math.log10(norm / radius)
            record |= {
                "status": "certified",
                "label": "yes",
                "radius": radius,
                "views": {"snr_db": snr, "r_over_sigma": radius / sigma},
            }
        records.append(record | extra)
    contract = {
        "kind": "fixed-gain waveform smoothing",
        "certified_object": "gain-normalised waveform (RMS 1 per clip)",
        "perturbation_location": "waveform after gain",
        "gain_policy": "per clip, before the noise: rms_normalize(target=1)",
        "norm": "l2",
        "noise": "gaussian_noise",
        "sigma": sigma,
        "unit": "RMS 1 per clip",
        "dimension": 1600,
        "post_noise": [],
        "pre_noise": ["mono()", "resample(rate=16000)", "fit(seconds=0.1)", "rms_normalize(target=1)"],
    }
    config = {
        "certify": {"n0": 100, "n": n, "alpha": alpha, "seed": 0, "bound": bound},
        "data": {"source": "speech_commands", "split": "testing"},
    }
    info = {"format": 1, "clips": len(records), "contract": contract, "config": config}
    (path / "run.json").write_text(json.dumps(info))
    (path / "certificates.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_an_honest_run_of_ours_has_nothing_but_notes(tmp_path):
    for bound in ("one-sided", "two-class"):
        path = own_run(tmp_path / bound, bound=bound)
        assert [f for f in lint_report(path)[1] if f.level != "note"] == []


def test_an_edited_record_is_found(tmp_path):
    path = own_run(tmp_path / "r", counts=(1000, 900, 800))
    file = path / "certificates.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["radius"] *= 1.01
    file.write_text("".join(json.dumps(r) + "\n" for r in lines))
    found = {f.rule: f for f in lint_report(path)[1]}
    assert found["radius-not-from-counts"].level == "error"
    assert found["radius-not-from-counts"].place.line == 2
    assert found["snr-not-from-radius"].level == "error"
    lines[0]["radius"] = 1.5
    file.write_text("".join(json.dumps(r) + "\n" for r in lines))
    assert set(levels(path, "radius-above-ceiling")) == {"error"}


def test_a_run_that_lacks_a_field_is_asked_for_it(tmp_path):
    path = own_run(tmp_path / "r")
    info = json.loads((path / "run.json").read_text())
    del info["contract"]["gain_policy"]
    (path / "run.json").write_text(json.dumps(info))
    assert "not stated: gain policy" in [f.message for f in lint_report(path)[1]]


counts_of = st.lists(st.integers(0, 400), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=counts_of,
    sigma=st.sampled_from([0.0025, 0.1, 0.25, 1.0, 12.0]),
    alpha=st.sampled_from([0.05, 0.001, 1e-4]),
    bound=st.sampled_from(["one-sided", "two-class"]),
    digits=st.integers(1, 6),
    down=st.booleans(),
    percent=st.booleans(),
    wrong=st.integers(0, 3),
)
def test_an_honest_card_is_never_an_error(
    tmp_path, counts, sigma, alpha, bound, digits, down, percent, wrong
):
    """Whatever the counts, and whichever way figures are rounded: what our own bounds give cannot be impossible."""
    n, d = 400, 1600
    radii = [certified_radius(k, n, alpha, sigma, bound=bound, max_other=n - k) for k in counts]
    good = [r for r in radii[wrong:] if r is not None]
    m = len(counts)

    def figure(x: float) -> str:
        return format_down(x, significant=digits) if down else f"{x:.{digits}g}"

    def share(k: int) -> str:
        return f"{100 * k / m:.{digits - 1}f} %" if percent else f"{k / m:.{digits}f}"

    lines = [
        "certified object: waveform",
        "perturbation location: waveform after gain",
        "gain policy: RMS 1 per clip",
        f"sigma: {sigma!r}",
        f"n: {n}",
        "n0: 100",
        f"alpha: {alpha!r}",
        "noise: Gaussian",
        "norm: l2",
        f"bound: {bound}, largest of all other classes in the fresh draws",
        f"clips: {m}",
        f"dimension: {d}",
        "rms: 1",
        f"smoothed accuracy: {share(len(good))}",
        f"abstained: {sum(r is None for r in radii)}",
        f"ceiling: {figure(monte_carlo_ceiling(sigma, n, alpha, bound))}",
    ]
    for r in (0.25 * sigma, 0.5 * sigma, sigma, 2 * sigma):
        lines.append(f"certified accuracy at {r!r}: {share(sum(g >= r for g in good))}")
    if good:
        middle = median(good)
        lines += [
            f"median radius: {figure(middle)}",
            f"max radius: {figure(max(good))}",
            f"ACR: {figure(sum(good) / m)}",
            f"r over sigma: {figure(middle / sigma)}",
            f"median snr: {format_up(median(20 * math.log10(math.sqrt(d) / g) for g in good), decimals=2)} dB",
        ]
    path = tmp_path / "card.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [f for f in lint_report(path)[1] if f.level == "error"] == []


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("10 000", "count", 10_000),
        ("10,000", "count", 10_000),
        ("10_000 draws", "count", 10_000),
        ("100k", "count", 1e5),
        ("1e5", "count", 1e5),
        ("10^5", "count", 1e5),
        ("1.5×10^-3", "number", 1.5e-3),
        ("10⁻³", "probability", 1e-3),
        (".007996", "number", 0.007996),
        ("0,001", "probability", 0.001),
        ("1/1000", "probability", 0.001),
        ("65.53 %", "share", 0.6553),
        ("65.53", "share", 0.6553),
        ("0.6553", "share", 0.6553),
        ("$65.53\\%$", "share", 0.6553),
        ("0.1 %", "probability", 0.001),
        ("16 kHz", "hertz", 16_000),
        ("16000", "hertz", 16_000),
        ("1,024.5", "number", 1024.5),
        ("500 ms", "seconds", 0.5),
        ("5 s", "seconds", 5),
        ("**83.98** dB", "db", 83.98),
        ("σ = 0.25", "number", 0.25),
        ("≈ 0.5", "number", 0.5),
        ("−3.2 dB", "db", -3.2),
        ("83.98 ± 0.02 dB", "db", 83.98),
        ("351×", "number", 351),
    ],
)
def test_numbers(text, kind, value):
    number = parse(text, kind)
    assert number is not None
    assert number.value == pytest.approx(value, rel=1e-12)


def test_a_printed_number_stands_for_an_interval():
    assert parse("0.007996").may_be(0.00799644)
    assert not parse("0.007996").may_be(0.0080)
    assert parse("65.53 %", "share").step == pytest.approx(1e-4)
    assert parse("83.98 ± 0.05").step == 0.05
    assert parse("0.95(2)").step == pytest.approx(0.02)
    assert parse("none") is None
    assert parse("") is None
    assert math.isnan(parse("NaN").value)
    ends = parse_interval("[91.4 %, 97.0 %]")
    assert ends and (ends[0].value, ends[1].value) == pytest.approx((0.914, 0.97))
    assert parse_interval("0.914–0.970") and parse_interval("(0.914; 0.97)") and not parse_interval("0.9")


@pytest.mark.parametrize(
    ("label", "field"),
    [
        ("σ", "sigma"),
        ("Noise level σ", "sigma"),
        ("**sigma**", "sigma"),
        ("N", "n"),
        ("num_samples", "n"),
        ("n₀", "n0"),
        ("failure probability α", "alpha"),
        ("Confidence level", "confidence"),
        ("SNR-equivalent (dB)", "snr"),
        ("median raw radius", "median_radius"),
        ("Data set", "dataset"),
        ("clip length (s)", "seconds"),
        ("fs", "rate"),
        ("contract.certified_object", "certified_object"),
        ("smoothed_accuracy_interval_95", "interval"),
        ("colour", None),
    ],
)
def test_labels(label, field):
    found = resolve(label)
    assert (found[0] if found else None) == field


def test_labels_of_points():
    assert point_of("r = 0.25").value == 0.25
    assert point_of("certified accuracy at 0.5").value == 0.5
    assert point_of("Certified Acc. @ 1.0") is None or point_of("Certified Acc @ 1.0").value == 1.0
    assert point_of("accuracy") is None
    names = [name for f in FIELDS.values() for name in f.names.split("|")]
    assert len(names) == len(set(names))


def test_the_published_table_of_curves_is_read(tmp_path):
    path = tmp_path / "t.md"
    path.write_text(
        "|  | r = 0.25 |r = 0.5 |r = 0.75 |\n| --- |  --- | --- | --- |\n"
        "<b> &sigma; = 0.12 </b>| 0.59 |0.00 |0.00 |\n<b> &sigma; = 0.25 </b>| 0.60<b>*</b> |0.43<b>*</b> |0.27 |\n"
    )
    report = read_report(path, {"n": "100000", "alpha": "0.001"})
    assert [(r.number("sigma").value, [p.accuracy.value for p in r.curve]) for r in report.results] == [
        (0.12, [0.59, 0.0, 0.0]),
        (0.25, [0.6, 0.43, 0.27]),
    ]
    assert levels(path, "radius-above-ceiling", n="100000", alpha="0.001") == []
    assert levels(path, "radius-above-ceiling", n="100", alpha="0.001") == ["error", "error"]
    assert levels(path, "best-of-sigma") == []  # σ = 0.12 is best nowhere
    path.write_text(path.read_text().replace("0.59 ", "**0.61** "))
    assert levels(path, "best-of-sigma") == ["warning"]


def test_the_same_report_in_each_form(tmp_path):
    pairs = [line.split(":", 1) for line in GOOD.strip().splitlines()]
    forms = {
        "a.yaml": "\n".join(f"{k}: {json.dumps(v.strip())}" for k, v in pairs),
        "b.json": json.dumps({k: v.strip() for k, v in pairs}),
        "c.md": "---\n" + "\n".join(f"{k}: {json.dumps(v.strip())}" for k, v in pairs) + "\n---\n# A model\n",
        "d.md": "| field | value |\n|---|---|\n" + "\n".join(f"| {k} | {v.strip()} |" for k, v in pairs),
        "e.md": "\n".join(f"- **{k}**: {v.strip()}" for k, v in pairs),
        "f.md": "| "
        + " | ".join(k for k, _ in pairs)
        + " |\n|"
        + "---|" * len(pairs)
        + "\n| "
        + " | ".join(v.strip() for _, v in pairs)
        + " |",
    }
    for name, text in forms.items():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        report, found = lint_report(path)
        assert found == [], name
        assert report.results[0].number("n").value == 10_000, name
        assert len(report.results[0].curve) == 2, name


def test_sections_that_differ_are_results(tmp_path):
    path = tmp_path / "s.md"
    path.write_text("α: 0.001\n\n## Words\n\nσ: 0.25\nradius: 0.5\n\n## Sounds\n\nσ: 0.5\nradius: 0.7\n")
    report = read_report(path)
    assert [(r.name, r.number("sigma").value, r.number("alpha").value) for r in report.results] == [
        ("Words", 0.25, 0.001),
        ("Sounds", 0.5, 0.001),
    ]


def test_lines_and_code(tmp_path):
    path = tmp_path / "s.md"
    path.write_text("# Card\n\nσ: 0.25\n\n```\nn: 7\n```\n\n    alpha: 0.3\n\nn: 1000\n")
    fields = read_report(path).results[0].fields
    assert (fields["sigma"].place.line, fields["n"].place.line) == (3, 11)
    assert "alpha" not in fields


# --- prose -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Noise: Gaussian, sigma = 0.25, n0 = 100, N = 1,000, alpha = 0.001.",
        "sigma = 0.25, n0 = 100, n = 1000, alpha = 0.001",
        "- sigma: 0.25; n0: 100; n: 1 000 and alpha: 1e-3",
        r"$\sigma = 0.25$, $n_0 = 100$, $n = 10^3$, $\alpha = 10^{-3}$",
        "Noise: Gaussian (sigma = 0.25, n0 = 100, n = 1000 draws, alpha = 1/1000).",
        "Noise: i.i.d. Gaussian with sigma=0.25,n0=100,n=1k,alpha=0.1 %. The rest is said below.",
        "| noise | Gaussian, sigma = 0.25, n0 = 100, n = 1000, alpha = 0.001 |\n|---|---|",
    ],
)
def test_fields_that_stand_on_one_line_are_read(tmp_path, line):
    """Found by a reviewer: the first alone was read, or all of it as σ, and an impossible radius was not found."""
    path = tmp_path / "paper.md"
    if line.startswith("|"):
        line = "| field | value |\n|---|---|\n" + line.partition("\n")[0]
    path.write_text(f"# Method\n\n{line}\n\nCertified radius: 0.95\n", encoding="utf-8")
    result = read_report(path).results[0]
    for name, value in (("sigma", 0.25), ("n0", 100), ("n", 1000), ("alpha", 0.001)):
        assert result.number(name).value == pytest.approx(value), name
    assert levels(path, "radius-above-ceiling") == ["error"]  # 0.25 Φ⁻¹(0.001^(1/1000)) = 0.616
    assert levels(path, "several-values") == []
    path.write_text(
        path.read_text(encoding="utf-8").replace("radius: 0.95", "radius: 0.61"), encoding="utf-8"
    )
    assert levels(path, "radius-above-ceiling") == []


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("sigma", "0.25, 0.5, 1.0"),
        ("sigma", "0.25, sigma = 0.5"),
        ("sigma", "0.25, n0 = 100, lr = 0.01, n = 1000"),  # what lr is, is not known
        ("noise", "Gaussian, trained with lr = 0.01, sigma = 0.25"),
        ("sigma", "0.25, n = 1000, 2000"),
        ("alpha", "0.001, one-sided"),
        ("clean accuracy", "91 %, n = 300"),  # clips, more likely than draws
        ("radius", "0.5 (sigma = 0.25, n = 300 clips)"),
        ("preprocessing", "log-mel, window = 25 ms"),
        ("gain policy", "per clip, before the noise: rms_normalize(target=1)"),
        ("median radius", "r = 0.5, sigma = 0.25"),
        ("r", "0.25: 60 %, r = 0.5: 43 %"),
        ("certified accuracy at 0.5", "60 %, sigma = 0.25"),
        ("epochs", "30, sigma = 0.25"),
        # Found by a reviewer: said of another work, and read as this one's.
        ("Noise", "Gaussian, while our earlier paper trained with sigma = 0.5"),
        ("Bound", "Clopper-Pearson, instead of Hoeffding with alpha = 0.01"),
        ("Dataset", "ESC-50, networks trained with sigma = 0.12, seed = 3"),
        ("Noise", "Gaussian, except where sigma = 0.5"),
    ],
)
def test_other_lines_are_left_whole(label, text):
    assert parts_of(label, text) == [(label, text)]


def test_a_line_with_other_names_is_no_list_of_values(tmp_path):
    path = card(tmp_path, {"σ": "0.0025 (RMS 1 per clip), batch = 64, lr = 0.01"})
    assert read_report(path).results[0].number("sigma").value == 0.0025
    assert levels(path, "several-values") == []


def test_text_that_was_not_read_is_said_to_be(tmp_path, capsys):
    path = tmp_path / "paper.md"
    path.write_text(
        "norm: l2\n\nWe certify at alpha 0.001, with n = 1000 draws.\n\nNoise: Gaussian of sigma 0.25.\n"
        "\n```\nseed: 3\n```\n"
    )
    report, found = lint_report(path)
    said = {f.message: f.place.line for f in found if f.rule == "missing"}
    assert said["not found: α; line 3 that was not read may state it"] == 3
    assert said["not found: n, draws that bound the probability; line 3 that was not read may state it"] == 3
    assert said["not found: σ; line 5 that was not read may state it"] == 5
    assert said["not found: seed; line 8 that was not read may state it"] == 8
    assert said["not found: bound"] is None
    assert not any("not stated" in message for message in said)
    assert [u.partition(":")[0] for u in report.unread] == ["line 3", "line 5", "line 8"]
    assert run(["lint", str(path)]) == 1
    out = capsys.readouterr().out
    assert "not read or not understood, so not checked: line 3: We certify at alpha 0.001" in out
    assert "fields not found" in out


def test_what_stands_elsewhere_is_not_looked_for_in_prose(tmp_path):
    """Fields that were read are no lines to look at, and a card of fields alone is said to not state the others."""
    prose = "The larger σ is, the larger α = 0.001 makes the radius of 3 clips.\n"
    report, found = lint_report(card(tmp_path, {"seed": None}, prose))
    assert [f.message for f in found] == ["not found: seed"]
    assert report.unread == ()
    assert [f.message for f in lint_report(card(tmp_path, {"seed": None}))[1]] == ["not stated: seed"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("with $N=10{,}000$ noisy draws", {"n"}),
        ("where N_0 = 100, and $\\alpha$ is small", {"n0", "alpha"}),
        ("a radius of 0.95 in l2, drawn with seed 3", {"raw_radius", "norm", "seed"}),
        (
            "peak normalization; 16 kHz, 5 s clips of ESC-50",
            {"gain_policy", "rate", "seconds", "clips", "dataset"},
        ),
        ("a sentence on the nature of things, again and again = 3", set()),
    ],
)
def test_words_of_fields_in_prose(text, names):
    assert mentions(text) == names


def test_a_program_is_no_card(tmp_path, capsys):
    """Found by a reviewer: 21 fields were missing in `train.py`."""
    code = "import torch\n\nrate = 16000\nsigma = 0.25\nradius: float = 9.0\n"
    for name in ("train.py", "train.cpp", "train"):
        path = tmp_path / name
        path.write_text(("#!/usr/bin/env python\n" if name == "train" else "") + code)
        assert run(["lint", str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "is a program, in which no field of a report is looked for" in err and err.count("\n") == 1


def test_prose_alone_states_nothing_even_with_a_field_given(tmp_path, capsys):
    path = tmp_path / "paper.txt"
    path.write_text("Once upon a time,\nthere was a sigma of 0.25.\n")
    assert run(["lint", str(path), "--given", "n=1000"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "states nothing that is known as a field" in err and "line 2: there was a sigma of 0.25." in err
    assert err.count("\n") == 1


# --- hostile input ---------------------------------------------------------------------------------


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{c}: &{c} [{','.join(['*' + p] * 10)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.md", b"\x00\x01\x02sigma: 1"),
        ("a.yaml", b"sigma: \xff\xfe1"),
        ("bomb.yaml", BOMB.encode()),
        ("deep.yaml", b"a: " + b"[" * 5000),
        ("deep.json", b'{"a":' + b"[" * 100_000),
        ("big.md", b"x" * (2**20 + 1)),
        ("empty.md", b""),
        ("empty.csv", b""),
        ("prose.md", b"Once upon a time.\n"),
        ("list.yaml", b"- 1\n- 2\n"),
        ("tab.csv", b"a,b\n1,2\n"),
        ("head.csv", b"idx,radius\n"),
        ("tags.yaml", b"sigma: !!python/object/apply:os.system ['true']\n  x: ["),
        ("bad.json", b'{"sigma": '),
        ("x.jsonl", b'{"clip": 3}\n'),
        ("field.csv", b"idx,radius\n1," + b"9" * 200_000 + b"\n"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, capsys, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert run(["lint", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("soundcert: ") and err.count("\n") == 1


def test_a_folder_that_is_no_run_and_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RunError):
        lint_report(tmp_path)
    with pytest.raises(InputError, match="no report"):
        lint_report(tmp_path / "gone.md")


def test_a_run_with_broken_records_is_one_error(tmp_path):
    path = own_run(tmp_path / "r")
    with (path / "certificates.jsonl").open("a") as file:
        record = json.loads((path / "certificates.jsonl").read_text().splitlines()[0])
        file.write(json.dumps(record | {"clip": "x", "sigma": "large", "views": 3, "radius": "far"}) + "\n")
    with pytest.raises(SoundcertError):
        lint_report(path)


def test_nothing_that_a_terminal_or_a_workflow_would_obey_is_printed(tmp_path, capsys):
    path = tmp_path / "x.md"
    path.write_text(
        "σ: 0.25\n\nradius: 9.0 \x1b[31mred\x1b[0m [bold]x[/bold] <script>alert(1)</script>\n\nn: 100\n\nα: 0.001\n\n"
        "noise level: 0.5 ::error::x%0A\x07\u202e\n",
        encoding="utf-8",
    )
    for form in ("text", "json", "junit", "github"):
        assert run(["lint", str(path), "--format", form]) == 1
        out = capsys.readouterr().out
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", out)
        if form == "github":
            assert all(
                line.startswith(("::warning file=", "::error file=", "::notice file="))
                for line in out.splitlines()
            )
            assert "%250A" in out
        elif form == "junit":
            assert ET.fromstring(out).tag == "testsuites"
        elif form == "json":
            assert json.loads(out)["reports"][0]["findings"]
        else:
            assert "[bold]x[/bold]" in out


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.text(max_size=300),
        st.lists(
            st.tuples(
                st.sampled_from(
                    [*FIELDS, "σ", "N", "r = 0.5", "results", "radii", "curve", "data", "interval", "metrics"]
                ),
                st.one_of(
                    st.text(max_size=20),
                    st.floats().map(repr),
                    st.integers().map(str),
                    st.sampled_from(
                        [
                            "1e999",
                            "NaN",
                            "-1",
                            "0",
                            "10^9999",
                            "[1, 2]",
                            "{a: 1}",
                            "1/0",
                            "99 %",
                            "5 ± 9",
                            "1e-320",
                        ]
                    ),
                ),
            ),
            max_size=12,
        ).map(lambda pairs: "\n".join(f"{k}: {v}" for k, v in pairs)),
    ),
    name=st.sampled_from(["x.md", "x.yaml", "x.json", "x.csv", "x.jsonl", "x"]),
)
def test_anything_is_read_or_refused(tmp_path, text, name):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        linted = [lint_report(path)]
    except SoundcertError:
        return
    json.dumps(as_dict(linted), allow_nan=False)
    ET.fromstring(as_junit(linted))
    as_github(linted)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.lists(st.one_of(st.text(max_size=8), st.floats().map(repr), st.just("-1")), max_size=7),
        max_size=15,
    ),
    sign=st.sampled_from(",\t;|"),
    given_sigma=st.sampled_from(["0.25", "nan", "0", "-1", "1e300", "x"]),
)
def test_any_table_is_read_or_refused(tmp_path, rows, sign, given_sigma):
    path = tmp_path / "x.csv"
    lines = [sign.join(["idx", "label", "predict", "radius", "correct"]), *(sign.join(r) for r in rows)]
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    try:
        lint_report(path, given={"sigma": given_sigma, "n": "100", "alpha": "0.01"})
    except SoundcertError:
        return


def test_of_hundred_thousand_rows_equal_texts_are_read_once(tmp_path, monkeypatch):
    generator = random.Random(0)
    rows = [(i, i % 10, i % 10, f"{generator.random():.3}", 1) for i in range(100_000)]
    path = table(tmp_path, rows)
    printed, read = reading_tables._printed, 0

    def counted(text: str) -> tuple[float, float]:
        nonlocal read
        read += 1
        return printed(text)

    monkeypatch.setattr(reading_tables, "_printed", counted)
    lint_report(path, given={"n": "100000", "alpha": "0.001", "sigma": "0.25"})
    assert read == len({text for *_, text, _ in rows})


def test_clean():
    assert clean("a\x1b]0;title\x07b\x1b[2Jc\u200b\n d") == "abc d"
    assert len(clean("x" * 10_000)) == 300


# --- the command -----------------------------------------------------------------------------------


def test_exit_codes_and_forms(tmp_path, capsys):
    good = card(tmp_path)
    assert run(["lint", str(good)]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert run(["lint", str(PAPER), "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert values["reports"][0]["counts"]["error"] == 0
    assert {f["rule"] for f in values["reports"][0]["findings"]} <= set(RULES)
    assert run(["lint", str(good), str(PAPER), "--format", "junit"]) == 1
    suites = ET.fromstring(capsys.readouterr().out)
    assert [int(s.get("failures")) for s in suites] == [0, 6]
    assert run(["lint", str(good), "--given", "nothing"]) == 2
    assert run(["lint", str(good), "--given", "colour=red"]) == 2
    assert run(["lint", str(good), "--ignore", "radius-above"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_rule_can_be_left_out_and_a_field_given(tmp_path):
    path = card(tmp_path, {"seed": None, "median raw radius": "0.0090", "median SNR-equivalent": "82.9 dB"})
    assert {f.rule for f in lint_report(path)[1]} >= {"missing", "radius-above-ceiling"}
    found = lint_report(path, given={"seed": "3"}, ignore=["radius-above-ceiling"])[1]
    assert {f.rule for f in found} & {"missing", "radius-above-ceiling"} == set()


# --- the page --------------------------------------------------------------------------------------


def tables() -> dict[str, str]:
    """Return the parts of docs/lint.md that are written from the code."""
    fields = ["| field | question |", "|---|---|"]
    fields += [f"| {title} | {question} |" for title, question in asked().values()]
    rules = []
    for level in LEVELS:
        for rule in (r for r in RULES.values() if r.level == level):
            first = rule.raised_if[0]
            raised = (first.upper() if first.isascii() else first) + rule.raised_if[1:]  # α is no A
            rules += [f"### {rule.id}", "", f"{level}. **Raised if.** {raised}", ""]
            rules += [f"**What it means.** {rule.meaning}", "", f"**Ask.** {rule.question}", ""]
    return {"fields": "\n".join(fields) + "\n", "rules": "\n".join(rules)}


def written(page: str) -> str:
    for name, text in tables().items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        head, _, rest = page.partition(begin)
        page = head + begin + text + end + rest.partition(end)[2]
    return page


def test_the_page_is_that_of_the_rules():
    text = PAGE.read_text(encoding="utf-8")
    assert written(text) == text, "run python tests/unit/test_lint.py --write"


def test_findings_are_ordered_and_one_each():
    report = read_report(PAPER)
    found = run_rules(report)
    order = [LEVELS.index(f.level) for f in found]
    assert order == sorted(order)
    assert len({(f.rule, f.message, f.place) for f in found}) == len(found)


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
