"""The contract is read off the order of the stages, and says what it must."""

from __future__ import annotations

import ast
import itertools
import json
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import soundcert as sc
from soundcert.contract import Contract, read_contract
from soundcert.errors import ConfigError
from soundcert.pipeline import Pipeline
from soundcert.stages import (
    Clip,
    FeatureStandardize,
    Fit,
    FixedGain,
    GaussianNoise,
    LatticeNoise,
    LogMel,
    Mfcc,
    Model,
    Mono,
    PeakNormalize,
    Quantize,
    RemoveOffset,
    Resample,
    RmsNormalize,
    Spectrogram,
    Stage,
    Standardize,
    stage_class,
)

FIXED = "fixed-gain waveform smoothing"
POST = "post-processed waveform smoothing"
FEATURE = "feature-space smoothing"
LATENT = "latent smoothing"


class Two(nn.Module):
    """Two logits of whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2]


NOISE = GaussianNoise(0.25)
MODEL = Two().eval()
MEL = LogMel(n_fft=64, hop=32, n_mels=4, floor=1e-2, rate=8000)
FILE = sc.Space("file", "waveform", (400,), 8000)
SPLIT = nn.Sequential(nn.Linear(400, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
NO_GAIN = "none: the samples keep the file's own scale"


def contract_of(*stages, file: sc.Space = FILE) -> Contract:
    return read_contract(Pipeline(stages).route(file))


def clip(seed: int = 0, scale: float = 0.1) -> sc.Clip:
    values = np.random.default_rng(seed).standard_normal(400) * scale
    return sc.Clip.from_array((values * 2**15).astype(np.int16), 8000, "clip")


# --- orders ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    stages: tuple
    kind: str
    location: str
    certified: str
    gain: str = NO_GAIN
    post: tuple[str, ...] = ()
    unit: str = "full scale"


ORDERS = {
    "noise on the file": Order((NOISE, MODEL), FIXED, "input", "file's samples"),
    "noise on the file, then features": Order((NOISE, MEL, MODEL), FIXED, "input", "file's samples"),
    "resampled": Order((Resample(4000), NOISE, MODEL), FIXED, "waveform", "waveform"),
    "fitted, features below": Order((Fit(samples=300), NOISE, MEL, MODEL), FIXED, "waveform", "waveform"),
    "limited above": Order((Clip(-0.5, 0.5), NOISE, MODEL), FIXED, "waveform", "waveform"),
    "rms above": Order(
        (RmsNormalize(), NOISE, MEL, MODEL),
        FIXED,
        "waveform after gain",
        "gain-normalised waveform (RMS 1 per clip)",
        "per clip, before the noise: rms_normalize(target=1)",
        unit="RMS 1 per clip",
    ),
    "fixed gain above": Order(
        (FixedGain(2.0), NOISE, MODEL),
        FIXED,
        "waveform after gain",
        "gain-normalised waveform (full scale × fixed gain)",
        "fixed, before the noise: fixed_gain(factor=2)",
        unit="full scale × fixed gain",
    ),
    "clip below": Order(
        (NOISE, Clip(), MEL, MODEL), POST, "input", "file's samples", post=("clip(low=-1, high=1)",)
    ),
    "peak below": Order(
        (NOISE, PeakNormalize(), MODEL),
        POST,
        "input",
        "file's samples",
        "per clip, after the noise: peak_normalize(target=1)",
        ("peak_normalize(target=1)",),
    ),
    "rms above and peak below": Order(
        (RmsNormalize(), NOISE, PeakNormalize(), Quantize(bits=8), MEL, MODEL),
        POST,
        "waveform after gain",
        "gain-normalised waveform (RMS 1 per clip)",
        "per clip, before the noise: rms_normalize(target=1); "
        "per clip, after the noise: peak_normalize(target=1)",
        ("peak_normalize(target=1)", "quantize(bits=8)"),
        "RMS 1 per clip",
    ),
    "rms below": Order(
        (NOISE, RmsNormalize(), MEL, MODEL),
        POST,
        "input",
        "file's samples",
        "per clip, after the noise: rms_normalize(target=1)",
        ("rms_normalize(target=1)",),
    ),
    "log-mel above": Order((MEL, NOISE, MODEL), FEATURE, "feature", "log-mel features", unit="nats"),
    "gain and log-mel above": Order(
        (Standardize(), MEL, NOISE, MODEL),
        FEATURE,
        "feature",
        "log-mel features",
        "per clip, before the noise: standardize(ddof=0)",
        unit="nats",
    ),
    "standardised features": Order(
        (MEL, FeatureStandardize(mean=1.0, std=2.0), NOISE, MODEL),
        FEATURE,
        "feature",
        "standardised log-mel features",
        unit="standard deviations",
    ),
    "features standardised below": Order(
        (MEL, NOISE, FeatureStandardize(mean=1.0, std=2.0), MODEL),
        FEATURE,
        "feature",
        "log-mel features",
        post=("feature_standardize(mean=1, std=2)",),
        unit="nats",
    ),
    "mfcc above": Order(
        (Mfcc(n_fft=64, hop=32, n_mels=8, n_mfcc=4, rate=8000), NOISE, MODEL),
        FEATURE,
        "feature",
        "mfcc features",
        unit="cepstral dB",
    ),
    "spectrogram above": Order(
        (Spectrogram(n_fft=64, hop=32), NOISE, MODEL),
        FEATURE,
        "feature",
        "power spectrogram features",
        unit="|X|^2",
    ),
    "between two parts of the model": Order(
        (Model(module=SPLIT, stop=2), NOISE, Model(module=SPLIT, start=2)),
        LATENT,
        "latent",
        "activations between two parts of the model",
        unit="activation",
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_contract_of_an_order(name):
    order = ORDERS[name]
    contract = contract_of(*order.stages)
    route = Pipeline(order.stages).route(FILE)
    assert contract.kind == order.kind
    assert contract.perturbation_location == order.location
    assert contract.certified_object == order.certified
    assert contract.gain_policy == order.gain
    assert contract.post_noise == order.post
    assert contract.unit == order.unit
    assert (contract.norm, contract.noise, contract.sigma) == ("l2", "gaussian_noise", 0.25)
    assert contract.dimension == route.object.size
    assert contract.about_waveform == (order.kind in (FIXED, POST))
    assert len(contract.pre_noise) + len(contract.post_noise_stages) + 2 == len(order.stages)
    assert contract.pre_noise == tuple(s.describe() for s in route.front)


def test_no_two_of_these_orders_have_one_contract():
    contracts = [contract_of(*order.stages) for order in ORDERS.values()]
    for one, other in itertools.combinations(contracts, 2):
        assert one != other


@pytest.mark.parametrize(
    ("stages", "i", "j"),
    [
        ((NOISE, MEL, MODEL), 0, 1),
        ((RmsNormalize(), NOISE, MODEL), 0, 1),
        ((Clip(), NOISE, MODEL), 0, 1),
        ((Clip(-0.1, 0.1), RmsNormalize(), NOISE, MODEL), 0, 1),
        ((NOISE, Clip(-0.1, 0.1), RmsNormalize(), MODEL), 1, 2),
        ((RemoveOffset(), NOISE, MEL, MODEL), 0, 1),
        ((Fit(samples=300), NOISE, MODEL), 0, 1),
        ((MEL, NOISE, FeatureStandardize(mean=2.0), MODEL), 1, 2),
        ((FixedGain(2.0), Quantize(bits=8), NOISE, MODEL), 0, 1),
    ],
)
def test_two_pipelines_that_differ_in_order_alone_have_two_contracts(stages, i, j):
    swapped = list(stages)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    one, other = contract_of(*stages), contract_of(*swapped)
    assert one != other
    assert one.statement() != other.statement()
    assert one.to_dict() != other.to_dict()
    assert one == contract_of(*stages)


def test_the_three_kinds_of_the_paper_differ_by_one_line():
    kinds = [
        contract_of(RmsNormalize(), NOISE, MEL, MODEL).kind,
        contract_of(RmsNormalize(), MEL, NOISE, MODEL).kind,
        contract_of(RmsNormalize(), NOISE, Clip(), MEL, MODEL).kind,
    ]
    assert kinds == [FIXED, FEATURE, POST]


def test_every_clip_of_a_run_has_one_contract_whatever_its_shape():
    # Nothing to mix, resample or cut in one clip, all three in the other.
    stages = (Mono(), Resample(8000), Fit(samples=400), NOISE, MODEL)
    ready = contract_of(*stages)
    other = contract_of(*stages, file=sc.Space("file", "waveform", (2, 1000), 16_000))
    assert replace(ready, dimension=0) == replace(other, dimension=0)
    assert ready.perturbation_location == "waveform"


def test_a_stage_of_the_users_stands_between_the_file_and_the_object():
    @dataclass(frozen=True)
    class Doubled(Stage):
        def __call__(self, x: Tensor) -> Tensor:
            return 2 * x

    contract = contract_of(Doubled(), NOISE, MODEL)
    assert contract.perturbation_location == "waveform"
    assert "Not directly about the file's samples" in contract.statement()
    below = contract_of(NOISE, Doubled(), MODEL)
    assert below.kind == POST


# --- permutations ----------------------------------------------------------------------------------

WAVE = (RmsNormalize(), Clip(-0.5, 0.5), RemoveOffset(), FixedGain(2.0), Fit(samples=300), Quantize(bits=10))
AFTER_FEATURES = (FeatureStandardize(mean=1.0, std=2.0),)
WAVE_ONLY = (RmsNormalize, RemoveOffset, FixedGain, Fit)


def constructs(stages: list) -> bool:
    """Whether the order can work, by the words of the stages alone."""
    mel = stages.index(MEL) if MEL in stages else len(stages)
    waves = all(i < mel for i, s in enumerate(stages) if isinstance(s, WAVE_ONLY))
    return waves and all(i > mel for i, s in enumerate(stages) if isinstance(s, FeatureStandardize))


def assert_consistent(stages: list) -> None:
    """The contract agrees with where the noise stands, by another reading than the code's."""
    contract = contract_of(*stages, MODEL)
    at = stages.index(NOISE)
    above, below = stages[:at], stages[at + 1 :]
    on_features = MEL in above
    until_features = below[: below.index(MEL)] if MEL in below else below
    assert contract.pre_noise == tuple(s.describe() for s in above)
    assert contract.post_noise_stages == tuple(s.describe() for s in below)
    assert contract.post_noise == tuple(s.describe() for s in until_features)
    if on_features:
        assert contract.kind == FEATURE
        assert contract.perturbation_location == "feature"
    else:
        assert contract.kind == (POST if until_features else FIXED)
        gained = any(isinstance(s, RmsNormalize | FixedGain) for s in above)
        expected = "input" if not above else ("waveform after gain" if gained else "waveform")
        assert contract.perturbation_location == expected
    for stage in stages:
        if isinstance(stage, RmsNormalize | FixedGain):
            place = "before" if stage in above else "after"
            how = "per clip" if isinstance(stage, RmsNormalize) else "fixed"
            assert f"{how}, {place} the noise: {stage.describe()}" in contract.gain_policy
    assert contract.gain_policy.count(" the noise: ") == sum(
        isinstance(s, RmsNormalize | FixedGain) for s in stages
    )
    text = contract.statement()
    assert text.startswith(f"Contract: {contract.kind}.")
    assert ("After the noise the object is changed" in text) == bool(contract.post_noise)
    assert ("Nothing about an attacker who changes the waveform" in text) == on_features


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from((*WAVE, MEL, *AFTER_FEATURES)), unique=True, max_size=6), st.data())
def test_any_permutation_has_a_contract_that_agrees_with_the_place_of_the_noise(chosen, data):
    stages = data.draw(st.permutations([*chosen, NOISE]))
    if constructs(stages):
        assert_consistent(stages)
    else:
        with pytest.raises(ConfigError, match=r"stage \d"):
            contract_of(*stages, MODEL)


def test_every_order_of_five_stages():
    valid = 0
    for order in itertools.permutations((RmsNormalize(), Clip(), MEL, NOISE)):
        if constructs(list(order)):
            assert_consistent(list(order))
            valid += 1
    assert valid == 12  # half of them: rms_normalize has to stand above log_mel


def test_the_consistency_check_would_see_a_contract_of_another_order(monkeypatch):
    real = contract_of

    def backwards(*stages) -> Contract:
        return real(*reversed(stages[:-1]), stages[-1])

    monkeypatch.setitem(assert_consistent.__globals__, "contract_of", backwards)
    with pytest.raises(AssertionError):
        assert_consistent([Clip(), NOISE, RmsNormalize()])


# --- what is true of one clip ----------------------------------------------------------------------


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize(
    ("front", "factor"),
    [
        ((), None),
        ((RemoveOffset(),), None),
        ((FixedGain(2.0),), 2.0),
        ((FixedGain(db=-6.0),), 10 ** (-0.3)),
        ((RmsNormalize(target=0.5),), lambda x: 0.5 / rms(x)),
        ((FixedGain(3.0), RmsNormalize()), lambda x: 1.0 / rms(x)),
        ((RmsNormalize(), FixedGain(3.0)), lambda x: 3.0 / rms(x)),
        ((Fit(samples=800), RmsNormalize()), lambda x: np.sqrt(2.0) / rms(x)),
        ((PeakNormalize(target=0.9),), lambda x: 0.9 / float(x.abs().max())),
        ((Standardize(),), lambda x: 1.0 / float(x.std(correction=0))),
        ((Standardize(ddof=1),), lambda x: 1.0 / float(x.std(correction=1))),
        ((RmsNormalize(floor=0.5),), 2.0),
    ],
)
def test_the_gain_of_a_clip_is_the_product_of_the_fronts_gains(front, factor):
    pipe = Pipeline([*front, NOISE, MODEL])
    contract = sc.certify(pipe, clip(), n=50).contract
    expected = factor(clip().tensor()) if callable(factor) else factor
    if expected is None:
        assert contract.gain is None
        assert "this clip: ×" not in contract.statement()
    else:
        assert contract.gain == pytest.approx(expected, rel=1e-9)
        assert f"(this clip: ×{expected:.5g})" in contract.statement()


def test_gains_below_the_noise_are_no_part_of_the_clips_gain():
    contract = sc.certify(Pipeline([FixedGain(2.0), NOISE, FixedGain(7.0), MODEL]), clip(), n=50).contract
    assert contract.gain == 2.0
    assert "after the noise: fixed_gain(factor=7)" in contract.gain_policy
    # T(v + η) − v = 6v + 7η, and T(v + η) − T(v) = 7η.
    v = 2 * rms(clip().tensor())
    assert contract.displacement == pytest.approx(np.hypot(6 * v, 7 * 0.25) / 0.25, rel=0.03)
    assert contract.sensitivity == pytest.approx(7.0, rel=1e-9)


def test_the_object_norm_is_that_of_the_certified_object():
    for stages in ((NOISE, MODEL), (RmsNormalize(), NOISE, MODEL), (MEL, NOISE, MODEL)):
        pipe = Pipeline(stages)
        contract = sc.certify(pipe, clip(), n=50).contract
        assert contract.object_norm == pytest.approx(float(pipe.object_of(clip()).norm()))


# --- words -----------------------------------------------------------------------------------------


def test_a_waveform_contract_says_where_it_holds():
    text = contract_of(RmsNormalize(), NOISE, MEL, MODEL).statement()
    assert "gain-normalised waveform (RMS 1 per clip)" in text
    assert "each clip scaled to RMS 1" in text
    assert "400 values" in text
    assert "ℓ2 norm strictly below the radius" in text
    assert "σ = 0.25 in the object's own unit (RMS 1 per clip)" in text
    assert "Not directly about the file's samples" in text
    assert "in_space('file')" in text
    assert "The gain is computed from each clip" in text
    assert "or whether the label is correct" in text
    assert "attacker" not in text


def test_a_contract_about_the_files_samples_does_not_deny_it():
    contract = contract_of(NOISE, MEL, MODEL)
    assert "file's samples" in contract.covers()
    assert not any("Not directly" in line for line in contract.not_claimed())
    assert not any("gain" in line for line in contract.not_claimed())


def test_a_feature_contract_says_that_it_does_not_bound_a_waveform_attacker():
    for stages in ((MEL, NOISE, MODEL), (RmsNormalize(), MEL, NOISE, MODEL)):
        contract = contract_of(*stages)
        first = contract.not_claimed()[0]
        assert "Nothing about an attacker who changes the waveform" in first
        assert "not a signal-to-noise ratio" in first
        assert first in contract.statement()
        assert "log-mel features" in contract.covers()


def test_a_latent_contract_denies_waveform_and_features():
    contract = contract_of(*ORDERS["between two parts of the model"].stages)
    assert "Nothing about an attacker who changes the waveform or the features" in contract.statement()


def test_a_post_processed_contract_tells_the_changes():
    contract = contract_of(NOISE, PeakNormalize(target=0.5), Clip(-0.3, 0.3), MEL, MODEL)
    covers = contract.covers()
    assert "After the noise the object is changed" in covers
    assert "each clip scaled to peak 0.5" in covers
    assert "values limited to [-0.3, 0.3]" in covers
    assert "the certificate stays about the object before it" in covers
    assert any("not a distance between the signals that the model hears" in s for s in contract.not_claimed())
    untouched = contract_of(NOISE, MEL, MODEL).statement()
    assert "After the noise" not in untouched
    assert "that the model hears" not in untouched


@pytest.mark.parametrize("gain", [PeakNormalize(), RmsNormalize(), Standardize()], ids=lambda s: s.name)
def test_a_gain_below_the_noise_does_not_put_the_radius_in_scaled_units(gain):
    # The radius is in the file's own unit: nothing is scaled before the noise.
    contract = contract_of(NOISE, gain, MEL, MODEL)
    assert contract.unit == "full scale"
    assert "in units of the scaled clip" not in contract.statement()


def test_the_statement_tells_geometry_and_ratio_where_they_are_known():
    waveform = contract_of(NOISE, Clip(), MODEL)
    told = waveform.for_clip(raw_radius=0.5, snr_db=12.345, displacement=230.44, sensitivity=0.5).statement()
    assert "SNR-equivalent 12.35 dB" in told
    assert "displacement 230.4 times the noise, sensitivity 0.5" in told
    assert "Raw radius" not in waveform.statement()
    assert "Geometry" not in waveform.statement()
    feature = contract_of(MEL, NOISE, MODEL).for_clip(raw_radius=0.5, norm_ratio_db=12.345).statement()
    assert "norm ratio 12.35 dB (not an SNR)" in feature
    assert "SNR-equivalent" not in feature


KINDS = {"waveform": contract_of(NOISE, MODEL), "feature": contract_of(MEL, NOISE, MODEL)}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.floats(1e-9, 1e6),
    st.floats(-80.0, 200.0),
    st.sampled_from(["waveform", "feature"]),
)
def test_the_statement_rounds_radii_down_and_decibels_up(radius, decibels, kind):
    name = "snr_db" if kind == "waveform" else "norm_ratio_db"
    text = KINDS[kind].for_clip(raw_radius=radius, **{name: decibels}).statement()
    (shown,) = re.findall(r"Raw radius: ([\d.e+-]+) ", text)
    assert Fraction(radius) * Fraction(998, 1000) < Fraction(shown) <= Fraction(radius)
    (ratio,) = re.findall(r"(?:SNR-equivalent|norm ratio) ([\d.-]+) dB", text)
    assert Fraction(decibels) <= Fraction(ratio) < Fraction(decibels) + Fraction(1, 100)


# --- the record ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORDERS)
def test_the_record_is_json_and_leaves_out_what_is_not_known(name):
    record = contract_of(*ORDERS[name].stages).to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert not {"gain", "raw_radius", "snr_db", "displacement"} & set(record)
    assert not any(key.endswith("_words") for key in record)
    asked = {"certified_object", "perturbation_location", "gain_policy", "post_noise", "norm", "sigma"}
    assert asked <= set(record)
    full = sc.certify(Pipeline(ORDERS["peak below"].stages), clip(), n=50).contract.to_dict()
    assert {"displacement", "sensitivity", "object_norm"} <= set(full)


def test_a_contract_is_a_value():
    one = contract_of(NOISE, MODEL)
    assert one == contract_of(GaussianNoise(0.25), MODEL)
    assert one != contract_of(GaussianNoise(0.5), MODEL)
    assert hash(one) == hash(contract_of(NOISE, MODEL))
    with pytest.raises(AttributeError):
        one.sigma = 0.1
    assert str(one) == one.statement()


def test_a_stage_that_does_not_fit_is_named_by_its_number():
    with pytest.raises(
        ConfigError, match=r"stage 2: rms_normalize works on a waveform but stands on log-mel"
    ):
        contract_of(MEL, RmsNormalize(), NOISE, MODEL)
    with pytest.raises(ConfigError, match=r"stage 1: feature_standardize needs features"):
        contract_of(FeatureStandardize(), NOISE, MODEL)
    with pytest.raises(ConfigError, match=r"stage 1: log_mel is set for 16000 Hz but receives 8000 Hz"):
        contract_of(LogMel(), NOISE, MODEL)


# --- what the model was trained with ---------------------------------------------------------------


def trained(*said: str) -> Model:
    return Model(module=MODEL, meta={"pipeline": [*said, "model(linear)"]})


GAIN = "rms_normalize(target=1)"


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([RmsNormalize(), NOISE, trained("mono()", "resample(rate=16000)", GAIN, NOISE.describe())], None),
        (
            [RmsNormalize(), Quantize(log2_step=-20), LatticeNoise(0.25), trained(GAIN, NOISE.describe())],
            None,
        ),
        ([RmsNormalize(), NOISE, Model(module=MODEL)], None),
        ([RmsNormalize(), NOISE, Model(module=MODEL, meta={"pipeline": "a text"})], None),
        ([RmsNormalize(), NOISE, Model(module=MODEL, meta={"pipeline": [7, "clip()"]})], None),
        ([RmsNormalize(), NOISE, trained("clip(\x1b[31m)")], None),
        (
            [RmsNormalize(), NOISE, trained(GAIN, "gaussian_noise(sigma=0.5)")],
            "trained with gaussian_noise(sigma=0.5) where gaussian_noise(sigma=0.25) stands here",
        ),
        ([NOISE, trained(GAIN, NOISE.describe())], f"trained with {GAIN} where nothing stands here"),
        (
            [RmsNormalize(), NOISE, Clip(), trained(GAIN, NOISE.describe())],
            f"trained with nothing where {Clip().describe()} stands here",
        ),
        (
            [RmsNormalize(), NOISE, trained(NOISE.describe(), GAIN)],
            f"trained in another order: {NOISE.describe()}, {GAIN}",
        ),
        (
            [NOISE, MEL, trained(NOISE.describe(), replace(MEL, hop=16).describe())],
            f"trained with {replace(MEL, hop=16).describe()} where {MEL.describe()} stands here",
        ),
    ],
)  # fmt: skip
def test_a_model_that_was_trained_with_other_stages_is_named(stages, expected):
    contract = read_contract(Pipeline(stages).route(FILE))
    assert contract.trained_otherwise == expected
    assert contract.to_dict().get("trained_otherwise") == expected


def test_members_of_an_ensemble_are_compared_with_their_own_features():
    same, other = (trained(NOISE.describe(), mel.describe()) for mel in (MEL, replace(MEL, hop=16)))
    pairs = ((MEL, same), (MEL, other))
    for (first, second), expected in (
        ((0, 0), None),
        ((0, 1), f"trained with {replace(MEL, hop=16).describe()} where {MEL.describe()} stands here"),
        ((1, 1), f"trained with {replace(MEL, hop=16).describe()} where {MEL.describe()} stands here"),
    ):
        both = Model(members=(pairs[first], pairs[second]))
        assert read_contract(Pipeline([NOISE, both]).route(FILE)).trained_otherwise == expected


def test_every_bundled_model_says_that_it_was_trained_with_the_pipeline_of_its_card():
    """Guards the comparison of descriptions against a change of what a stage prints of itself."""
    for path in sorted((resources.files("soundcert") / "models" / "zoo").iterdir(), key=str):
        if not path.name.endswith(".safetensors"):
            continue
        model = Model(weights=f"bundled:{path.name.removesuffix('.safetensors')}")
        stages = [parsed(text) for text in model.meta["pipeline"][:-1]]
        pipe = Pipeline([*stages, model])
        assert (
            read_contract(pipe.route(sc.Space("file", "waveform", (16_000,), 16_000))).trained_otherwise
            is None
        )


def parsed(text: str) -> Stage:
    """Read a description, the call that rebuilds a stage."""
    call = ast.parse(text, mode="eval").body
    return stage_class(call.func.id)(**{k.arg: ast.literal_eval(k.value) for k in call.keywords})
