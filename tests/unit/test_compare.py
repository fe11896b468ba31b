"""Comparisons: the statistics against their references, every reason not to rank, and what is said."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

import soundcert as sc
from helpers import (
    FEATURES,
    FRONT,
    IN_FEATURES,
    MODEL,
    NOISE,
    WAVEFORM,
    folder_of_tones,
    write_tone_model,
    yaml_of,
)
from soundcert.bounds import certified_radius, monte_carlo_ceiling
from soundcert.certify import level_of
from soundcert.compare import Comparison, statistics
from soundcert.compare.levels import at_alpha
from soundcert.compare.result import p_words
from soundcert.compare.terminal import as_text
from soundcert.config import load_config
from soundcert.data import load_items
from soundcert.errors import ConfigError, RunError
from soundcert.runs import certify_run, open_run
from soundcert.runs.groups import grouping

# --- statistics ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (3, 5), (18, 0), (10, 4), (200, 150), (7, 7)])
def test_mcnemar_is_the_exact_test_of_statsmodels(b, c):
    expected = 1.0 if b == c == 0 else reference_mcnemar([[50, b], [c, 9]], exact=True).pvalue
    assert statistics.mcnemar(b, c) == pytest.approx(min(1.0, expected), rel=1e-6)
    assert statistics.mcnemar(b, c) >= min(1.0, expected) * (1 - 1e-12)


def test_holm_is_that_of_statsmodels():
    for p in ([0.01, 0.04, 0.03, 0.005], [1.0, 0.2, 0.2], [0.5], [0.0, 1.0, 0.049]):
        assert statistics.holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert statistics.holm([]) == []


def score(b: int, c: int, m: int, delta: float) -> float:
    """Tango's statistic, its nuisance share maximised numerically: the reference for the closed form."""

    def minus_log_likelihood(q: float) -> float:
        terms = ((b, q + delta), (c, q), (m - b - c, 1 - 2 * q - delta))
        return -sum(k * math.log(max(p, 1e-300)) for k, p in terms if k)

    low, high = max(0.0, -delta), (1 - delta) / 2
    q = minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    ).x
    return (b - c - m * delta) / math.sqrt(m * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize(("b", "c", "m"), [(3, 5, 100), (18, 0, 100), (7, 2, 40), (1, 0, 30), (40, 60, 400)])
def test_tango_ends_where_the_likelihoods_score_is_critical(b, c, m):
    low, high = statistics.tango(np.array([b]), np.array([c]), np.array([m]), 1.96)
    assert low[0] < (b - c) / m < high[0]
    assert score(b, c, m, float(low[0])) == pytest.approx(1.96, abs=1e-3)
    assert score(b, c, m, float(high[0])) == pytest.approx(-1.96, abs=1e-3)


def test_tango_has_a_width_where_no_clip_differs():
    low, high = statistics.tango(np.array([0, 30]), np.array([0, 0]), np.array([30, 30]), 1.96)
    assert high[0] == pytest.approx(1.96**2 / (30 + 1.96**2), abs=1e-6)
    assert low[0] == pytest.approx(-high[0], abs=1e-6)
    assert (low[1], high[1]) == (
        pytest.approx(1 - 2 * 1.96**2 / (30 + 1.96**2), abs=0.12),
        pytest.approx(1, abs=1e-6),
    )


def test_resamples_are_those_of_a_loop_over_groups():
    rng = np.random.default_rng(1)
    differences = rng.integers(-1, 2, (12, 3))
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 6])
    found = statistics.resampled(differences, groups, 50, seed=9)
    drawn = np.random.Generator(np.random.PCG64(9)).multinomial(7, [1 / 7] * 7, size=50)
    for mean, counts in zip(found, drawn, strict=True):
        rows = [
            row for g, count in enumerate(counts) for _ in range(count) for row in differences[groups == g]
        ]
        assert mean == pytest.approx(np.mean(rows, axis=0))


def test_the_bootstrap_agrees_with_all_resamples_of_few_clips():
    differences = np.array([[1], [1], [0], [-1], [0]])
    every = [np.mean([differences[i, 0] for i in chosen]) for chosen in itertools.product(range(5), repeat=5)]
    found = statistics.resampled(differences, np.arange(5), 40_000, seed=0)[:, 0]
    for value in sorted(set(every)):
        assert (found <= value + 1e-12).mean() == pytest.approx(
            np.mean(np.array(every) <= value + 1e-12), abs=0.01
        )


def trials(m: int, size: int, alike: float, repeats: int, seed: int) -> tuple[float, float]:
    """Return how often intervals (the column that does worst) and bands cover the true differences.

    Four nested columns, as the points of a curve. size: clips of a speaker. alike: the share of clips that fare as
    their speaker does, and not for themselves.
    """
    shares = [(0.02, 0.0), (0.05, 0.02), (0.12, 0.04), (0.3, 0.1)]
    truth = np.array([b - c for b, c in shares])
    groups = np.repeat(np.arange(m // size), size)
    rng = np.random.default_rng(seed)
    one, all_at_once = [], []
    for _ in range(repeats):
        u = np.where(rng.uniform(size=m) < alike, rng.uniform(size=m // size)[groups], rng.uniform(size=m))
        differences = np.stack([(u < b).astype(int) - (u > 1 - c).astype(int) for b, c in shares], axis=1)
        ends = statistics.intervals(differences, groups, resamples=2000, seed=int(rng.integers(1 << 30)))
        one.append((ends.lower <= truth) & (truth <= ends.upper))
        all_at_once.append(((ends.band_lower <= truth) & (truth <= ends.band_upper)).all())
    return float(np.mean(one, axis=0).min()), float(np.mean(all_at_once))


@pytest.mark.parametrize(("m", "size", "alike"), [(80, 1, 1.0), (240, 3, 1.0), (120, 3, 0.5)])
def test_intervals_and_band_cover_as_often_as_they_say(m, size, alike):
    # Of 150 repeats, a coverage of 95 % comes out below 90.5 % once in a hundred times.
    one, all_at_once = trials(m, size, alike, repeats=150, seed=3)
    assert one >= 0.905
    assert all_at_once >= 0.905


def test_clips_of_one_speaker_widen_the_interval_and_pretending_otherwise_misses_the_level():
    rng = np.random.default_rng(0)
    outcome = rng.choice([1, 0, -1], p=[0.3, 0.5, 0.2], size=40)
    differences = np.repeat(outcome, 5)[:, None]
    tied = statistics.intervals(differences, np.repeat(np.arange(40), 5), resamples=2000)
    free = statistics.intervals(differences, np.arange(200), resamples=2000)
    assert tied.upper[0] - tied.lower[0] > 1.8 * (free.upper[0] - free.lower[0])


def test_intervals_nest_and_repeat():
    rng = np.random.default_rng(5)
    differences = rng.integers(-1, 2, (80, 6))
    a = statistics.intervals(differences, np.arange(80), seed=4)
    b = statistics.intervals(differences, np.arange(80), seed=4)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert a.critical >= 1.95
    assert (a.band_lower <= a.lower).all()
    assert (a.upper <= a.band_upper).all()
    same = statistics.intervals(np.zeros((20, 2), dtype=int), np.arange(20))
    assert (same.lower < 0).all()
    assert (same.upper > 0).all()
    with pytest.raises(ConfigError, match="at least 2000"):
        statistics.intervals(differences, np.arange(80), resamples=100)


# --- runs that are written, not run ------------------------------------------------------------------

CONTRACT = {
    "kind": "fixed-gain waveform smoothing",
    "certified_object": "gain-normalised waveform (RMS 1 per clip)",
    "perturbation_location": "waveform after gain",
    "gain_policy": "per clip, before the noise: rms_normalize(target=1)",
    "norm": "l2", "unit": "RMS 1 per clip", "noise": "gaussian_noise", "sigma": 0.5, "dimension": 16000,
    "pre_noise": ["mono()", "fit(seconds=1)", "rms_normalize(target=1)"], "post_noise": [],
    "post_noise_stages": ["log_mel(n_mels=40)"], "model": "model(ds_cnn)", "engine": "torch fp32",
}  # fmt: skip
STAGES = ["mono", {"fit": {"seconds": 1.0}}, {"rms_normalize": {"target": 1.0}}, {"gaussian_noise": {"sigma": 0.5}},
          {"log_mel": {"n_mels": 40}}, {"model": {"weights": "m.safetensors"}}]  # fmt: skip


def record(clip: str, count: int, *, n: int = 1000, sigma: float = 0.5, alpha: float = 0.001, truth: str | None = "yes",
           label: str = "yes", **more: Any) -> dict[str, Any]:  # fmt: skip
    radius = certified_radius(count, n, alpha, sigma)
    ceiling = monte_carlo_ceiling(sigma, n, alpha)
    digest = blake2b(clip.encode("utf-8", "replace"), digest_size=16).hexdigest()
    out = {
        "clip": clip, "digest": digest, "candidate": label, "count": count, "n": n,
        "n0": 100, "alpha": alpha, "seed": 0, "bound": "one-sided", "sigma": sigma, "p_lower": 0.9, "ceiling": ceiling,
        "object_norm": 126.49, "saturated": radius == ceiling, "policy": "fixed", "status": "abstained",
    }  # fmt: skip
    if radius is not None:
        snr = sc.diagnostics.snr_db(126.49, radius)
        out |= {"status": "certified", "label": label, "radius": radius, "views": {"snr_db": snr}}
    if truth is not None:
        out["truth"] = truth
    return {**out, **more}


def write_run(
    path: Path, records: Sequence[Mapping[str, Any]], *, contract: Mapping[str, Any] | None = None,
    pipeline: list[Any] | None = None, tail: bytes = b"", **info: Any,
) -> Path:  # fmt: skip
    path.mkdir(parents=True)
    config = {"pipeline": STAGES if pipeline is None else pipeline, "certify": {"alpha": 0.001, "seed": 0}}
    facts = {
        "format": 1, "clips": len(records), "contract": {**CONTRACT, **(contract or {})}, "config": config,
        "identity": {"model": path.name, "config": "", "data": ""}, "labels": ["no", "yes"], "soundcert": "0.1.0", **info,
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(facts))
    lines = "".join(json.dumps(r) + "\n" for r in records).encode()
    (path / "certificates.jsonl").write_bytes(lines + tail)
    return path


def names(count: int) -> list[str]:
    return [f"clip-{i:03d}.wav" for i in range(count)]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """On 60 clips, the first run certifies 20 that the second abstains on, and more on the rest."""
    first = write_run(
        tmp_path / "first", [record(n, 1000 if i < 40 else 900) for i, n in enumerate(names(60))]
    )
    second = write_run(
        tmp_path / "second", [record(n, 950 if i < 40 else 520) for i, n in enumerate(names(60))]
    )
    return first, second


def reasons(c: Comparison) -> set[str]:
    return {reason.id for reason in c.reasons}


def caveats(c: Comparison) -> set[str]:
    return {caveat.id for caveat in c.caveats}


def test_counts_shares_and_words_of_a_fair_pair(pair):
    c = sc.compare(pair, at=[44, 60, 40])
    assert c.comparable
    assert c.reasons == ()
    assert (c.axis, c.unit, c.grid, c.common) == ("snr_db", "dB", (60.0, 44.0, 40.0), 60)
    (only,) = c.pairs
    label = only.accuracy
    assert label is not None
    assert (label.both, label.first_only, label.second_only, label.neither) == (40, 20, 0, 0)
    at60, at44, at40 = only.points
    assert (at60.both, at60.first_only) == (40, 20)
    # 950 of 1000 reach 0.69 (45.3 dB), 900 0.59 (46.6 dB), the ceiling 1.23 (40.2 dB).
    assert (at44.both, at44.first_only, at44.neither) == (0, 40, 20)
    assert at40.neither == 60
    assert at60.difference == pytest.approx(1 / 3)
    assert at60.shown
    assert not at40.shown
    assert c.tests == 4
    assert at44.p_holm is not None
    assert at44.p_holm >= at44.p_value
    said = c.to_dict()["pairs"][0]
    assert said["points"][0]["sentence"].startswith(
        "A certifies 33.3 points more clips than B at 60 dB (95 % interval "
    )
    assert said["points"][2]["sentence"].startswith("no difference shown at 40 dB: A − B = +0.0 points")
    assert only.first_more[0].second is None
    assert only.second_more == ()
    assert only.first_more[0].gap is None
    assert "independence" in caveats(c)
    assert "choice" in caveats(c)  # the models differ
    text = str(c)
    assert "better" not in text
    assert json.loads(json.dumps(c.to_dict(), allow_nan=False))["comparable"] is True


def test_the_first_is_compared_with_each_other_and_tests_are_corrected_for_all(pair, tmp_path):
    third = write_run(tmp_path / "third", [record(n, 1000) for n in names(60)])
    c = sc.compare([*pair, third], at=[60, 45])
    assert [(p.first, p.second) for p in c.pairs] == [("A", "B"), ("A", "C")]
    assert c.tests == 6
    alone = sc.compare(pair, at=[60, 45])
    assert c.pairs[0].points[0].p_holm > alone.pairs[0].points[0].p_holm
    assert len(c.sides) == 3


def test_a_certificate_for_a_wrong_label_is_no_success(pair, tmp_path):
    c = against(pair, tmp_path, records=[record(n, 1000, label="no") for n in names(60)])
    assert c.comparable
    assert c.pairs[0].accuracy is not None
    assert c.pairs[0].accuracy.second_share == 0
    assert (c.sides[1].certified, c.sides[1].correct) == (60, 0)
    assert all(d.second_share == 0 for d in c.pairs[0].points)


def test_one_speaker_alone_shows_no_difference_whatever_mcnemar_says(tmp_path):
    clips = [f"yes/aa_nohash_{i}.flac" for i in range(10)] + [
        f"yes/{i:02x}0_nohash_0.flac" for i in range(50)
    ]
    first = write_run(tmp_path / "first", [record(n, 1000) for n in clips])
    second = write_run(tmp_path / "second", [record(n, 520 if i < 10 else 1000) for i, n in enumerate(clips)])
    c = sc.compare([first, second], at=[60])
    (point,) = c.pairs[0].points
    assert (c.groups, c.grouped_by, point.first_only) == (51, "speaker", 10)
    assert point.p_holm is not None
    assert point.p_holm < 0.01
    assert not point.shown
    assert "no difference shown at 60 dB" in c.to_dict()["pairs"][0]["points"][0]["sentence"]


def test_a_pair_is_antisymmetric(pair):
    there, back = (
        sc.compare(pair, at=[60]).pairs[0].points[0],
        sc.compare(pair[::-1], at=[60]).pairs[0].points[0],
    )
    assert there.difference == -back.difference
    assert there.p_value == back.p_value
    assert there.first_only == back.second_only
    assert "B certifies 33.3 points more clips than A" in str(sc.compare(pair[::-1], at=[60]))


def against(pair: tuple[Path, Path], tmp_path: Path, **changes: Any) -> Comparison:
    """Compare the first run with one like it but for `changes`."""
    records = changes.pop("records", None) or [record(n, 950) for n in names(60)]
    return sc.compare([pair[0], write_run(tmp_path / "other", records, **changes)])


FRONT_FLOOR = [*STAGES[:3], {"log_mel": {"n_mels": 40, "floor": 10.0}}, STAGES[3], STAGES[5]]
FEATURE = {"kind": "feature-space smoothing", "certified_object": "log-mel features", "perturbation_location": "feature",
           "unit": "nats", "pre_noise": [*CONTRACT["pre_noise"], "log_mel(n_mels=40, floor=10)"]}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({"contract": FEATURE, "pipeline": FRONT_FLOOR}, {"object", "unit"}, "a norm ratio of features is not an SNR"),
        ({"contract": {"norm": "l1"}}, {"norm"}, "different norms"),
        ({"contract": {"noise": "uniform_noise"}}, {"noise"}, "different families"),
        ({"contract": {"unit": "full scale"}}, {"unit"}, "different units"),
        (
            {
                "contract": {"pre_noise": CONTRACT["pre_noise"][:2], "certified_object": "waveform",
                             "gain_policy": "none: the samples keep the file's own scale", "unit": "full scale"},
                "pipeline": [*STAGES[:2], *STAGES[3:]],
            },
            {"object", "gain", "unit"},
            "gain policies above the noise differ",
        ),
        ({"pipeline": [STAGES[0], {"fit": {"seconds": 2.0}}, *STAGES[2:]]}, {"object"}, "two different signals"),
        ({"records": [record(n, 950, alpha=0.01) for n in names(60)]}, {"alpha"}, "α differs (A 0.001, B 0.01)"),
        ({"records": [record(n, 950, truth="no") for n in names(60)]}, {"labels"}, "label 60 of the 60 common clips"),
        ({"records": [record(n, 950, truth=None) for n in names(60)]}, {"labels"}, "Clips have no label"),
        ({"records": [record("else-" + n, 950) for n in names(60)]}, {"clips"}, "No recording was certified by all"),
        ({"records": [record("e" + n, 950) for n in names(9)], "contract": {"dimension": 80000}}, {"clips"}, "6.99 dB"),
    ],
)  # fmt: skip
def test_every_reason_not_to_rank(pair, tmp_path, changes, expected, words):
    c = against(pair, tmp_path, **changes)
    assert not c.comparable
    assert reasons(c) == expected
    assert any(words in reason.text for reason in c.reasons)
    assert all(p.points == () for p in c.pairs)
    text = as_text(c, 80)
    assert "A ranking would mislead" in text
    assert "not to be ranked" in text


def test_what_can_be_shown_is_shown_where_a_ranking_misleads(pair, tmp_path):
    c = against(pair, tmp_path, contract=FEATURE, pipeline=FRONT_FLOOR)
    assert c.pairs[0].accuracy is not None
    assert [s.axis for s in c.sides] == ["snr_db", "radius"]
    assert c.sides[1].unit == "nats"
    assert [(r.stage, r.present) for r in c.stages if not r.same and r.place == "above"] == [
        ("log_mel(n_mels=40, floor=10)", (False, True))
    ]
    assert "≠       ·B log_mel(n_mels=40, floor=10)" in as_text(c, 80)
    assert any("--in file" in r.remedy for r in c.reasons)


def test_two_feature_objects_with_different_floors_are_two_spaces(tmp_path):
    runs = []
    for floor in (1.0, 10.0):
        stages = [*STAGES[:3], {"log_mel": {"n_mels": 40, "floor": floor}}, *STAGES[3:4], STAGES[5]]
        contract = {**FEATURE, "pre_noise": [*CONTRACT["pre_noise"], f"log_mel(floor={floor:g})"]}
        rows = [record(n, 950, views={"norm_ratio_db": 50.0}) for n in names(40)]
        runs.append(write_run(tmp_path / f"{floor:g}", rows, contract=contract, pipeline=stages))
    c = sc.compare(runs)
    assert reasons(c) == {"object"}
    assert "one radius is two lengths in two spaces" in c.reasons[0].text
    with pytest.raises(ConfigError, match="not an SNR"):
        sc.compare(runs, axis="snr_db")
    same = sc.compare([runs[0], write_run(tmp_path / "again", rows, contract={**FEATURE, "pre_noise": [
        *CONTRACT["pre_noise"], "log_mel(floor=1)"]}, pipeline=[*STAGES[:3], {"log_mel": {"n_mels": 40, "floor": 1.0}},
                                                                *STAGES[3:4], STAGES[5]])])  # fmt: skip
    assert same.comparable
    assert (same.axis, same.unit) == ("radius", "nats")


def test_stages_below_the_noise_belong_to_the_base_classifier(pair, tmp_path):
    c = against(
        pair, tmp_path, pipeline=[*STAGES[:4], {"clip": {}}, *STAGES[4:]],
        contract={"kind": "post-processed waveform smoothing", "post_noise": ["clip()"],
                  "post_noise_stages": ["clip()", "log_mel(n_mels=40)"],
                  "gain_policy": CONTRACT["gain_policy"] + "; per clip, after the noise: peak_normalize(peak=1)"},
    )  # fmt: skip
    assert c.comparable
    assert "post-noise" in caveats(c)


def test_values_that_a_description_leaves_out_tell_fronts_apart(tmp_path):
    runs = []
    for number, mean in enumerate((0.0, 1.0)):
        standard = {"feature_standardize": {"mean": [mean] * 8, "std": [1.0] * 8}}
        stages = [*STAGES[:3], {"log_mel": {"n_mels": 8}}, standard, STAGES[3], STAGES[5]]
        contract = {**FEATURE, "pre_noise": ["feature_standardize(mean=<8 values>, std=<8 values>)"]}
        runs.append(
            write_run(
                tmp_path / str(number),
                [record(n, 950) for n in names(40)],
                contract=contract,
                pipeline=stages,
            )
        )
    assert reasons(sc.compare(runs)) == {"object"}


def test_a_length_is_one_length_in_seconds_or_samples(tmp_path):
    rows = [record(n, 950) for n in names(60)]

    def run(name: str, fit: dict[str, Any]) -> Path:
        front = ["mono", {"resample": {"rate": 16_000}}, {"fit": fit}]
        return write_run(tmp_path / "runs" / name, rows, pipeline=[*front, *STAGES[2:]])

    first = run("first", {"seconds": 1.0})
    for number, (fit, apart) in enumerate(
        [
            ({"samples": 16_000}, set()),
            ({"samples": 8000}, {"object"}),
            ({"seconds": 1.0, "place": "start"}, {"object"}),
        ]
    ):
        assert reasons(sc.compare([first, run(str(number), fit)])) == apart, fit


def test_half_is_printed_as_half():
    """A sum of binomial terms ends above ½ in its last digit; rounded up to two digits that would read 0.51."""
    assert [p_words(statistics.mcnemar(*pair)) for pair in ((2, 0), (3, 0), (1, 0), (9, 0))] == [
        "0.50", "0.25", "1.0", "0.0040"]  # fmt: skip


def test_settings_that_differ_are_said_aloud(pair, tmp_path):
    more = {"policy": "decide", "radii": [0.25, 0.5], "bound": "two-class"}
    c = against(
        pair, tmp_path, records=[record(n, 9900, n=10000, sigma=2.0, **more) for n in names(60)],
        contract={"sigma": 2.0}, labels=["no", "yes", "zero"],
    )  # fmt: skip
    assert c.comparable
    assert {"draws", "bound", "policy", "decide", "classes", "choice"} <= caveats(c)
    text = as_text(c, 80)
    assert "n differs (A 1000, B 10000)" in " ".join(text.split())
    assert any("σ (A 0.5, B 2)" in caveat.text for caveat in c.caveats)


def test_a_run_at_its_ceiling_is_limited_by_n_and_that_is_said(tmp_path):
    few = write_run(tmp_path / "few", [record(n, 100, n=100) for n in names(40)])
    many = write_run(tmp_path / "many", [record(n, 10_000, n=10_000) for n in names(40)])
    c = sc.compare([few, many], at=[40])
    (point,) = c.pairs[0].points
    assert (point.second_only, point.first_limited, point.second_limited) == (40, 40, 0)
    assert {"ceiling", "draws"} <= caveats(c)
    assert any(
        "40 of the 40 clips that B alone certifies stand at A's Monte-Carlo ceiling" in x.text
        for x in c.caveats
    )


def test_a_budget_ties_clips_together_and_gets_no_statistics(pair, tmp_path):
    c = against(pair, tmp_path, records=[record(n, 950, policy="budget") for n in names(60)])
    assert c.comparable
    assert "budget" in caveats(c)
    assert all(d.interval is None and d.p_value is None and not d.shown for d in c.pairs[0].points)
    for width in (60, 80, 120):
        assert "nothing is said beyond them" in " ".join(as_text(c, width).split())
    assert "on these 60 clips" in c.to_dict()["pairs"][0]["points"][0]["sentence"]


def test_clips_that_only_some_have_are_left_out_loudly(pair, tmp_path):
    rows = [record(n, 950) for n in names(30)]
    rows += [
        {**record(names(60)[0], 950), "clip": "copy.wav"},
        {"clip": "clip-055.wav", "status": "failed", "reason": "x"},
    ]
    rows.append({k: v for k, v in record("no-digest.wav", 950).items() if k != "digest"})
    c = against(pair, tmp_path, records=rows)
    assert c.comparable
    assert c.common == 30
    (subset,) = [caveat for caveat in c.caveats if caveat.id == "subset"]
    assert subset.loud
    assert "only the 30 recordings" in subset.text
    assert {(d.why, d.count) for d in c.sides[0].left_out} == {
        ("not in B", 29),
        ("could not be used by B", 1),
    }
    assert {d.why for d in c.sides[1].left_out} == {
        "could not be used by the run", "the same recording under another name", "has no digest of its recording",
    }  # fmt: skip


def test_torn_and_unfinished_runs_carry_their_warnings(pair, tmp_path):
    c = against(pair, tmp_path, records=[record(n, 950) for n in names(40)], tail=b'{"clip": "x', clips=60)
    assert any("torn" in w for w in c.sides[1].warnings)
    assert "unfinished" in caveats(c)
    assert "is torn and left out" in as_text(c, 80)


def test_hostile_names_reach_neither_the_terminal_nor_json(tmp_path):
    hostile = [
        "[red]x[/red].wav",
        "a\x1b[2J.wav",
        "b\u202e.wav",
        "c\n.wav",
        "\udcff.wav",
        "d" * 3000 + ".wav",
        "é/ü.wav",
    ]
    clips = [*hostile, *names(30)]
    a = write_run(tmp_path / "a", [record(n, 1000, digest=str(i)) for i, n in enumerate(clips)])
    b = write_run(
        tmp_path / "b", [record(n, 520 if i < 3 else 900, digest=str(i)) for i, n in enumerate(clips)]
    )
    c = sc.compare([a, b])
    for width in (30, 80):
        text = as_text(c, width)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[red]x[/red]" in text
    json.dumps(c.to_dict(), ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    "odd",
    [
        {"radius": "1"},
        {"radius": math.nan},
        {"sigma": 0},
        {"views": []},
        {"n": None},
        {"ceiling": -1},
        {"set_aside": "1"},
    ],
)
def test_records_with_impossible_values_are_left_out(pair, tmp_path, odd):
    rows = [record(n, 950) for n in names(60)]
    rows[5].update(odd)
    c = against(pair, tmp_path, records=rows)
    assert c.common == 59
    assert [(d.why, d.clips) for d in c.sides[1].left_out] == [
        ("has values that no certificate has", ("clip-005.wav",))
    ]


def test_alpha_can_be_made_equal_from_the_counts(pair, tmp_path):
    other = write_run(tmp_path / "other", [record(n, 950, alpha=0.01) for n in names(60)])
    c = sc.compare([pair[0], other], alpha=0.001, at=[0.5, 0.6], axis="radius")
    assert c.comparable
    expected = certified_radius(950, 1000, 0.001, 0.5)
    assert c.pairs[0].first_more[0].second == expected
    looked = write_run(
        tmp_path / "looked", [record(n, 950, alpha=0.01, policy="estimate") for n in names(60)]
    )
    c = sc.compare([pair[0], looked], alpha=0.001)
    assert "alpha" in reasons(c)
    assert any("chosen while sampling" in r.text for r in c.reasons)


def test_what_lattice_noise_sets_aside_is_no_part_of_another_alpha(pair, tmp_path):
    aside = 2e-4
    held = write_run(tmp_path / "held", [record(n, 990, alpha=0.01, set_aside=aside) for n in names(60)])
    c = sc.compare([pair[0], held], alpha=3e-4, at=[0.5, 0.6], axis="radius")
    assert c.comparable
    expected = certified_radius(990, 1000, level_of(3e-4, aside), 0.5)
    assert c.pairs[0].first_more[0].second == expected < certified_radius(990, 1000, 3e-4, 0.5)
    row = at_alpha({**record("a", 1000, alpha=0.01, set_aside=aside)}, 3e-4)
    assert row["radius"] == row["ceiling"] == monte_carlo_ceiling(0.5, 1000, level_of(3e-4, aside))
    assert row["saturated"]
    for alpha in (aside, 1e-4):
        c = sc.compare([pair[0], held], alpha=alpha)
        assert "alpha" in reasons(c)
        assert any("leaves nothing" in r.text for r in c.reasons)


def test_groups_are_read_off_the_names():
    def groups(*names: str) -> tuple[int, str, int, int]:
        found = grouping(names)
        return found.groups, found.what, found.told, found.told_groups

    speech = ("yes/0ea0_nohash_0.flac", "no/0ea0_nohash_3.flac", "no/1cb7_nohash_0.flac")
    assert groups(*speech) == (2, "speaker", 3, 2)
    assert groups("dog/1-47250-A-41.flac", "1-47250-B-41.wav") == (1, "source recording", 2, 1)
    # Names that do not tell take nothing from the others, and parts of one recording belong together.
    assert groups("a/1.wav", "?b.wav", *speech) == (4, "speaker", 3, 2)
    assert groups("long.wav#t=0,1", "long.wav#t=1,2", *speech) == (3, "speaker", 3, 2)
    assert groups("a/1.wav", "b/2.wav") == (2, "clip", 2, 2)
    assert groups("a.wav#t=0,1", "a.wav#t=1,2", "b.wav#t=0,1") == (2, "recording", 3, 2)
    # A speaker and a recording of one name are two.
    assert grouping(["0ea0", "yes/0ea0_nohash_0.flac"]).groups == 2


def test_weights_of_one_name_are_told_apart_by_their_digest(tmp_path):
    """Found by a first-time user: of "factory:a3b9…" the first eight characters are "factory:"."""
    rows = [record(n, 950) for n in names(60)]
    identities = ({"model": f"factory:{d * 8}", "config": "", "data": ""} for d in ("a3b9", "3f1e"))
    runs = [write_run(tmp_path / f"{i}", rows, identity=identity) for i, identity in enumerate(identities)]
    c = sc.compare(runs)
    (fact,) = [f for f in c.facts if f.name == "model"]
    assert fact.values == ("model(ds_cnn) factory:a3b9a3b9", "model(ds_cnn) factory:3f1e3f1e")
    assert any("The runs differ in the model" in caveat.text for caveat in c.caveats)


def test_clips_whose_names_do_not_tell_take_no_speaker_from_the_others(tmp_path):
    """Found by a first-time user: one more file made a difference out of none."""
    clips = [f"yes/{who}_nohash_{k}.flac" for who in ("0ea0", "1cb7") for k in range(5)]
    runs = [write_run(tmp_path / d, [record(n, 950) for n in (*clips, "mine.flac")]) for d in "ab"]
    c = sc.compare(runs)
    assert (c.groups, c.grouped_by) == (3, "speaker")
    said = " ".join(caveat.text for caveat in c.caveats)
    assert "By their names 10 of the 11 clips are of 2 speakers; the names of the others do not tell" in said
    assert "taken as 1 more" in said


def test_under_decide_the_largest_radius_was_asked_about(tmp_path):
    rows = [record(n, 1000, policy="decide", saturated=True) for n in names(40)]
    rows[0]["n"] = 421
    c = sc.compare([write_run(tmp_path / d, rows) for d in "ab"])
    assert c.sides[0].at_most == "; 40 of these at the largest radius asked about"
    (fact,) = [f for f in c.facts if f.name == "n"]
    assert fact.values == ("421 to 1000",) * 2


def test_calls_that_cannot_be(pair, tmp_path):
    with pytest.raises(ConfigError, match="2 to 12 runs, got 1"):
        sc.compare(pair[:1])
    with pytest.raises(ConfigError, match="given twice"):
        sc.compare([pair[0], pair[0]])
    with pytest.raises(RunError, match="not a run directory"):
        sc.compare([pair[0], tmp_path])
    with pytest.raises(ConfigError, match="finite"):
        sc.compare(pair, at=[math.nan])
    with pytest.raises(ConfigError, match="positive"):
        sc.compare(pair, at=[0.0], axis="radius")
    with pytest.raises(ConfigError, match="1 to 60 points"):
        sc.compare(pair, at=[])
    with pytest.raises(ConfigError, match="at least 2000"):
        sc.compare(pair, resamples=10)
    with pytest.raises(ConfigError, match="alpha"):
        sc.compare(pair, alpha=2.0)
    empty = write_run(tmp_path / "empty", [], contract={})
    assert reasons(sc.compare([pair[0], empty])) == {"clips"}
    bare = write_run(tmp_path / "bare", [])
    facts = json.loads((bare / "run.json").read_text())
    (bare / "run.json").write_text(json.dumps({**facts, "contract": None, "config": None}))
    c = sc.compare([pair[0], bare])
    assert "contract" in reasons(c)
    assert "B has no contract" in str(c)


# --- runs that are run: radii carried to the file ----------------------------------------------------


def forget(run: Path) -> None:
    """Take the radii in the file out of a run's records, as an older version left them."""
    rows = [json.loads(line) for line in (run / "certificates.jsonl").read_text().splitlines()]
    for row in rows:
        row["views"] = {k: v for k, v in row.get("views", {}).items() if not k.startswith("file")}
    (run / "certificates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the same clips under several contracts; `stored` also has its radii in the file."""
    root = tmp_path_factory.mktemp("made")
    write_tone_model(root / "tones.safetensors")
    folder_of_tones(root / "clips", each=4)
    out = {"root": root}
    soxr = [
        *FRONT[:1],
        "resample: {rate: 8000, method: soxr}",
        "resample: {rate: 16000}",
        *FRONT[2:],
        NOISE,
        FEATURES,
        MODEL,
    ]
    cases = {
        "waveform": (WAVEFORM, ()), "stored": (WAVEFORM, ("file",)), "features": (IN_FEATURES, ()), "soxr": (soxr, ()),
        "coarse": ([*FRONT, FEATURES.replace("floor: 1.0", "floor: 9.0"), "gaussian_noise: {sigma: 0.2}", MODEL], ()),
    }  # fmt: skip
    for name, (stages, report_in) in cases.items():
        file = root / f"{name}.yaml"
        file.write_text(yaml_of(stages, n=60), encoding="utf-8")
        config = load_config(file)
        assert config.data is not None
        certify_run(config, load_items(config.data, root), root / name, base=root, report_in=report_in)
        out[name] = root / name
    forget(out["features"])
    return out


def test_contracts_that_differ_rank_on_the_files_samples(made):
    runs = [made["waveform"], made["features"]]
    assert reasons(sc.compare(runs)) >= {"object", "unit"}
    ticks: list[tuple[int, int]] = []
    c = sc.compare(runs, "file", progress=lambda done, total, _: ticks.append((done, total)))
    assert c.comparable
    assert (c.space, c.axis) == ("file", "snr_db")
    assert {s.radii_from for s in c.sides} == {"carried now, by this version"}
    assert {"one-attacker", "few"} <= caveats(c)
    assert ticks[-1][0] == ticks[-1][1]
    stored = {r["clip"]: r["views"]["file_snr_db"] for r in open_run(made["waveform"]).good}
    shown = {
        x.clip: x.first for x in (*c.pairs[0].first_more, *c.pairs[0].second_more) if x.first is not None
    }
    assert shown
    assert all(shown[name] == pytest.approx(stored[name], abs=1e-9) for name in shown)


def test_radii_in_the_records_are_used_where_all_have_them(made):
    c = sc.compare([made["waveform"], made["stored"]], "file")
    assert {s.radii_from for s in c.sides} == {"as recorded by soundcert 0.1.0"}
    d = c.pairs[0].points[0]
    assert (d.first_only, d.second_only, d.p_value) == (0, 0, 1.0)


def test_a_space_above_the_noise_is_one_space_only_if_the_same_stages_make_it(made):
    c = sc.compare([made["features"], made["coarse"]], "log-mel")
    assert reasons(c) == {"space"}
    both = sc.compare([made["waveform"], made["features"]], "waveform")
    assert both.comparable
    with pytest.raises(ConfigError, match="there is no space 'nowhere'"):
        sc.compare([made["features"], made["coarse"]], "nowhere")


def test_what_does_not_transport_is_a_reason_and_not_a_zero(made):
    c = sc.compare([made["waveform"], made["soxr"]], "file")
    assert reasons(c) == {"space"}
    assert "No radius of B can be carried to 'file'" in c.reasons[0].text


def test_recordings_that_are_gone_or_changed_are_said(made, tmp_path):
    import shutil

    root = tmp_path / "moved"
    shutil.copytree(made["root"], root)
    facts = json.loads((root / "features" / "run.json").read_text())
    (root / "features" / "run.json").write_text(json.dumps({**facts, "folder": str(tmp_path / "gone")}))
    runs = [root / "waveform", root / "features"]
    with pytest.raises(RunError, match="give --base"):
        sc.compare(runs, "file")
    assert sc.compare(runs, "file", base=root).comparable
    clip = next((root / "clips" / "low").iterdir())
    shutil.copy(next((root / "clips" / "high").iterdir()), clip)
    with pytest.raises(RunError, match="another recording"):
        sc.compare(runs, "file", base=root)
