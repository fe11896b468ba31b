"""Certify and predict on classifiers whose answers are known, and the certificate they return."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import re
import weakref
from decimal import Decimal

import numpy as np
import pytest
import soundfile
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

import soundcert as sc
from soundcert import bounds
from soundcert.certificate import Certificate, certified_accuracy
from soundcert.certify import SmoothedClassifier, check_prediction
from soundcert.errors import AbstainedError, ConfigError, InputError, ModelError, TransportError
from soundcert.pipeline import Pipeline
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.stages import (
    Fit,
    FixedGain,
    GaussianNoise,
    LogMel,
    Model,
    Mono,
    PeakNormalize,
    Quantize,
    Resample,
    RmsNormalize,
)

SIZE = 20
SIGMA = 0.25


class HalfSpaces(nn.Module):
    """Class 0 where w·x + b > 0, class 1 elsewhere; `calls` counts forward passes."""

    def __init__(self, size: int = SIZE, offset: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("w", torch.randn(size, generator=generator))
        self.offset = offset
        self.calls = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        score = x.flatten(1) @ self.w + self.offset
        return torch.stack((score, -score), dim=1)

    def distance(self, v: Tensor) -> float:
        """Signed distance of v from the boundary; σΦ⁻¹ of class 0's smoothed probability too."""
        return float((v.double() @ self.w.double() + self.offset) / self.w.double().norm())


class Constant(nn.Module):
    """Always class 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] * 0.0 + torch.tensor([1.0, 0.0, 0.5])


def constant() -> nn.Module:
    return Constant().eval()


class Stripes(nn.Module):
    """Four classes by where w·x falls: a likely one in the middle, and rivals that are close to each other."""

    def forward(self, x: Tensor) -> Tensor:
        t = x[:, 0]
        return torch.stack((0.35 - t.abs(), t - 0.35, torch.minimum(-t - 0.35, x[:, 1]), -t - 0.35), dim=1)


def clip(seed: int = 0, size: int = SIZE, rate: int = 16_000, scale: float = 0.2) -> sc.Clip:
    values = np.random.default_rng(seed).standard_normal(size) * scale
    return sc.Clip.from_array(values, rate, f"clip {seed}")


def pcm(seed: int = 0, size: int = SIZE, rate: int = 16_000) -> sc.Clip:
    values = (np.random.default_rng(seed).standard_normal(size) * 3000).astype(np.int16)
    return sc.Clip.from_array(values, rate, f"pcm {seed}")


def plain(model: nn.Module | None = None, sigma: float = SIGMA) -> Pipeline:
    return Pipeline([GaussianNoise(sigma), HalfSpaces() if model is None else model])


def abstained() -> Certificate:
    """A clip on the boundary."""
    model = HalfSpaces()
    v = clip().tensor() - model.distance(clip().tensor()) * (model.w / model.w.norm()).double()
    boundary = sc.Clip.from_array(v.numpy(), 16_000, "boundary")
    return sc.certify(plain(model), boundary, n=200, alpha=0.001)


def drawn(pipe: Pipeline, one: sc.Clip, purpose: str, n: int, seed: int) -> Tensor:
    """The noisy copies of a clip, drawn here."""
    v = pipe.object_of(one).float()
    stream = noise_stream(NoiseKey(seed, purpose, one.digest), pipe.noise)
    return stream.fill_(torch.empty(n, *v.shape)) + v


# --- the radius ------------------------------------------------------------------------------------


def test_radii_of_a_linear_classifier_stay_below_the_true_distance_and_come_near():
    model = HalfSpaces()
    pipe = plain(model)
    certificates = [sc.certify(pipe, clip(i), n=2000, seed=5) for i in range(25)]
    margins = [model.distance(clip(i).tensor()) for i in range(25)]
    for certificate, margin in zip(certificates, margins, strict=True):
        if certificate.status == "certified":
            assert certificate.label == ("0" if margin > 0 else "1")
            assert certificate.radius <= abs(margin)
            assert certificate.p_lower <= ndtr(abs(margin) / SIGMA)
        else:
            assert abs(margin) < 0.3 * SIGMA
    near = [c.radius / abs(m) for c, m in zip(certificates, margins, strict=True) if 0.15 < abs(m) < 0.5]
    assert len(near) > 5
    assert min(near) > 0.5
    assert {c.candidate for c in certificates} == {"0", "1"}


def test_the_counts_are_those_of_the_keyed_draws():
    pipe = plain()
    model = pipe.model.module
    for seed, n in ((0, 137), (9, 500)):
        certificate = sc.certify(pipe, clip(3), n0=64, n=n, seed=seed)
        selection = model(drawn(pipe, clip(3), "selection", 64, seed)).argmax(1)
        fresh = model(drawn(pipe, clip(3), "estimation", n, seed)).argmax(1)
        top = int(torch.bincount(selection, minlength=2).argmax())
        assert certificate.candidate == str(top)
        assert certificate.count == int((fresh == top).sum())
        assert (certificate.n0, certificate.n) == (64, n)
        assert certificate.p_lower == bounds.clopper_pearson_lower(certificate.count, n, 0.001)
        if certificate.status == "certified":
            assert certificate.radius == bounds.radius_one_sided(certificate.p_lower, SIGMA)


def test_selection_and_estimation_are_independent_streams(monkeypatch):
    keys = []
    real = NoiseKey.states

    def recording(key, first, count):
        keys.extend((key, row) for row in range(first, first + count))
        return real(key, first, count)

    monkeypatch.setattr(NoiseKey, "states", recording)
    sc.certify(plain(), clip(), n0=40, n=400, seed=11)
    rows_of = {
        purpose: [row for k, row in keys if k.purpose == purpose] for purpose in ("selection", "estimation")
    }
    assert {purpose: sorted(rows) for purpose, rows in rows_of.items()} == {
        "selection": list(range(40)),
        "estimation": list(range(400)),
    }, "each row is drawn once"
    assert {(k.digest, k.seed) for k, _ in keys if k.purpose in rows_of} == {(clip().digest, 11)}
    pipe = plain()
    first, second = (
        drawn(pipe, clip(), p, 400, 11) - pipe.object_of(clip()) for p in ("selection", "estimation")
    )
    assert len(torch.unique(torch.cat((first, second)), dim=0)) == 800
    correlation = np.corrcoef(first.flatten(), second.flatten())[0, 1]
    assert abs(correlation) < 4.5 / math.sqrt(first.numel())


def test_certifying_twice_gives_the_same_certificate():
    first = sc.certify(plain(), clip(), n=500, seed=3)
    again = sc.certify(plain(), clip(), n=500, seed=3)
    assert first == again
    assert first.to_dict() == again.to_dict()
    assert str(first) == str(again)
    for options in ({"micro_batch": 7}, {"micro_batch": 64, "workers": 1}, {"workers": 2}):
        assert SmoothedClassifier(plain(), **options).certify(clip(), n=500, seed=3) == first
    assert sc.certify(plain(), clip(), n=500, seed=4) != first
    others = [clip(i) for i in (4, 0, 2)]
    assert SmoothedClassifier(plain()).certify_many(others, n=500, seed=3)[1] == first


def test_clips_of_one_digest_have_one_certificate_whatever_their_names():
    renamed = dataclasses.replace(clip(), name="another name")
    first, second = (sc.certify(plain(), c, n=300) for c in (clip(), renamed))
    assert dataclasses.replace(second, clip=first.clip) == first


# --- abstentions -----------------------------------------------------------------------------------


def test_an_abstention_has_no_label_radius_or_decibels():
    certificate = abstained()
    assert certificate.status == "abstained"
    assert certificate.p_lower <= 0.5
    for name in ("radius", "label", "snr_db", "norm_ratio_db"):
        assert not hasattr(certificate, name)
        with pytest.raises(AbstainedError, match=r"abstained.*check `status` first"):
            getattr(certificate, name)
    assert getattr(certificate, "radius", None) is None
    assert not certificate.saturated
    with pytest.raises(AbstainedError):
        certificate.in_space("file")
    with pytest.raises(AbstainedError):
        certificate.views()


def test_the_record_of_an_abstention_has_no_radius():
    record = abstained().to_dict()
    assert record["status"] == "abstained"
    assert not {"radius", "label", "views", "snr_db"} & set(record)
    assert None not in record.values()
    text = str(abstained())
    assert "abstained" in text
    assert "Nothing is claimed" in text
    assert "radius" not in text
    certified = sc.certify(plain(constant()), clip(), n=100).to_dict()
    assert {"radius", "label", "views"} <= set(certified)
    assert json.loads(json.dumps(certified, allow_nan=False)) == certified


def test_beside_silence_a_certificate_names_no_level():
    """Found by a first-time user: "SNR -inf dB"."""
    silent = sc.Clip.from_array(np.zeros((1, 16), dtype=np.float32), 16_000, "silent")
    text = str(sc.certify(sc.Pipeline([FixedGain(2.0), GaussianNoise(0.5), constant()]), silent, n=100))
    assert "(full scale)." in text
    assert "dB" not in text.split("Proven for the file")[1].splitlines()[0]


def test_votes_of_nan_are_votes_for_nobody():
    class Seldom(nn.Module):
        """Class 0 where the first value is above its middle, and no class below."""

        def forward(self, x: Tensor) -> Tensor:
            scores = torch.tensor([1.0, 0.0]).expand(len(x), 2)
            return torch.where(x[:, :1] > float(clip().tensor()[0]), scores, float("nan"))

    certificate = sc.certify(plain(Seldom().eval()), clip(), n=400)
    assert certificate.status == "abstained"
    assert 150 < certificate.count < 250


def test_a_model_of_nan_alone_is_refused():
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2] * float("nan")

    for call in (sc.certify, sc.predict):
        with pytest.raises(ModelError, match="returns NaN for every one"):
            call(plain(Nothing().eval()), clip())


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.int64, "int64"), (torch.bool, "bool"), (torch.complex64, "complex64")]
)
def test_scores_that_are_no_real_numbers_are_refused(dtype, name):
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2].to(dtype)

    with pytest.raises(ModelError, match=rf"the model returns torch.{name}, not floating-point scores"):
        sc.certify(plain(Odd().eval()), clip())


def test_an_object_that_float32_cannot_hold_is_refused():
    """The model would hear infinity alone, and any answer to that would be certified."""
    for stages in (
        (FixedGain(1e39), GaussianNoise(1.0)),
        (FixedGain(1e30), FixedGain(1e-30), GaussianNoise(1.0)),
    ):
        with pytest.raises(InputError, match="after fixed_gain, more than 1e\\+12"):
            sc.certify(Pipeline([*stages, constant()]), clip())


def test_a_recording_beyond_all_measure_is_refused(tmp_path):
    """Its squares overflow, so that a gain to unit RMS would be 0 and the contract untrue."""
    file = tmp_path / "loud.wav"
    soundfile.write(file, 1e300 * clip().tensor().numpy(), 16_000, subtype="DOUBLE")
    pipe = Pipeline([RmsNormalize(), GaussianNoise(1.0), constant()])
    with pytest.raises(InputError, match="after the file, more than 1e\\+12"):
        sc.certify(pipe, sc.load_clip(file))


def test_fields_that_are_not_finite_are_refused():
    with pytest.raises(ConfigError, match="clip: high must be finite, got inf"):
        Pipeline([GaussianNoise(0.1), sc.stages.Clip(0.0, math.inf), constant()])
    member = (
        sc.stages.FeatureStandardize(mean=(0.0, math.nan)),
        Model(module=constant(), labels=("a", "b", "c", "d")),
    )
    with pytest.raises(ConfigError, match="feature_standardize: mean must be finite, got nan"):
        Pipeline([GaussianNoise(0.1), Model(members=(member, member))])


@pytest.mark.parametrize("policy", ["decide", {"radii": [1.0]}, 3])
def test_what_is_no_policy_or_pipeline_is_one_line(policy):
    with pytest.raises(ConfigError, match="policy must be a Decide, Estimate or Budget"):
        sc.certify(plain(), clip(), policy=policy)
    with pytest.raises(ConfigError, match=r"expected a Pipeline, got a (str|dict|int): Pipeline.from_yaml"):
        sc.certify(policy, clip())


# --- the ceiling, and the numbers of the paper -----------------------------------------------------

FRONT = (Mono(), Resample(16_000))


@pytest.mark.parametrize(
    ("data", "word", "seconds", "decibels", "printed"),
    [("speech_commands", "yes", 1.0, 83.983, "83.99"), ("esc10", "dog", 5.0, 90.973, "90.98")],
)
def test_the_papers_medians_are_the_ceiling(data, word, seconds, decibels, printed, shared_data):
    one = sc.load_clip(sorted((shared_data(data) / word).iterdir())[0])
    stages = [*FRONT, Fit(seconds=seconds), RmsNormalize(), GaussianNoise(0.0025), constant()]
    certificate = sc.certify(Pipeline(stages), one, n0=8, n=10_000, alpha=0.001)
    assert certificate.saturated
    assert certificate.radius == certificate.ceiling == bounds.monte_carlo_ceiling(0.0025, 10_000, 0.001)
    assert certificate.radius == pytest.approx(0.00799644, abs=5e-9)
    assert certificate.contract.dimension == 16_000 * seconds
    assert certificate.object_norm == pytest.approx(math.sqrt(16_000 * seconds), rel=1e-9)
    assert certificate.snr_db == pytest.approx(decibels, abs=5e-4)
    assert f"SNR-equivalent {printed} dB" in str(certificate)
    assert "radius 0.007996 " in str(certificate)
    assert "Monte-Carlo ceiling for n = 10000" in str(certificate)


def test_saturation_is_exact_at_both_bounds_and_one_vote_less_is_not():
    for bound in ("one-sided", "two-class"):
        certificate = sc.certify(plain(constant()), clip(), n=333, bound=bound)
        assert (
            certificate.radius == certificate.ceiling == bounds.monte_carlo_ceiling(SIGMA, 333, 0.001, bound)
        )
        assert certificate.saturated
    # The boundary between the two lowest scores of the draws: all votes but one.
    scores = (drawn(plain(), clip(), "estimation", 333, 0) @ HalfSpaces().w).sort().values
    model = HalfSpaces(offset=-float(scores[:2].mean()))
    below = sc.certify(plain(model), clip(), n=333)
    assert below.count == 332
    assert not below.saturated
    assert below.radius < below.ceiling
    assert "ceiling" not in str(below)


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 9}, "n = 9 is too small for alpha = 0.001.*use n ≥ 10"),
        ({"n": 10, "bound": "two-class"}, "use n ≥ 11"),
        ({"n": 0}, "n must be a whole number from 1, got 0"),
        ({"n": 10.0}, "n must be a whole number"),
        ({"n": True}, "n must be a whole number"),
        ({"n0": 0}, "n0 must be a whole number from 1"),
        ({"n0": -5}, "n0 must be a whole number from 1"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"bound": "one-sidd"}, "did you mean 'one-sided'"),
    ],
)
def test_numbers_that_can_certify_nothing_are_refused_before_any_pass(options, message):
    model = HalfSpaces()
    with pytest.raises(ConfigError, match=message):
        sc.certify(plain(model), clip(), **options)
    assert model.calls == 0


def test_the_smallest_n_that_is_named_does_certify():
    for alpha, bound in ((0.001, "one-sided"), (0.05, "one-sided"), (0.001, "two-class")):
        needed = bounds.minimum_samples(alpha, bound)
        certificate = sc.certify(plain(constant()), clip(), n=needed, alpha=alpha, bound=bound)
        assert certificate.status == "certified"
        with pytest.raises(ConfigError, match=f"use n ≥ {needed}"):
            sc.certify(plain(constant()), clip(), n=needed - 1, alpha=alpha, bound=bound)


@pytest.mark.parametrize("sigma", [0, -0.25, float("nan"), float("inf"), "0.25", None])
def test_a_sigma_that_is_not_positive_is_refused(sigma):
    with pytest.raises(ConfigError, match="sigma must be positive and finite"):
        GaussianNoise(sigma)


@pytest.mark.parametrize("sigma", [1e-46, 1e-38, 1e38, 1e300])
def test_a_sigma_that_float32_cannot_draw_is_refused(sigma):
    with pytest.raises(ConfigError, match=r"sigma must be from 1e-37 to 1e\+37"):
        GaussianNoise(sigma)


@pytest.mark.parametrize("sigma", [1e-37, 1e37])
def test_the_least_and_the_most_sigma_are_drawn(sigma):
    noise = GaussianNoise(sigma)
    row = noise_stream(NoiseKey(0, "estimation", "x"), noise).fill_(torch.empty(1, 4000)).double() / sigma
    unit = (
        noise_stream(NoiseKey(0, "estimation", "x"), GaussianNoise(1.0)).fill_(torch.empty(1, 4000)).double()
    )
    assert torch.allclose(row, unit, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(ConfigError, match="seed must be a whole number"):
        sc.certify(plain(), clip(), n=100, seed=seed)
    with pytest.raises(ConfigError, match="seed must be a whole number"):
        sc.predict(plain(), clip(), seed=seed)


def test_a_model_in_training_mode_is_refused():
    model = nn.Sequential(nn.Linear(SIZE, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    with pytest.raises(ModelError, match="training mode"):
        sc.certify(plain(model), clip(), n=100)
    assert sc.certify(plain(model.eval()), clip(), n=100).n == 100


def test_a_model_above_the_noise_in_training_mode_is_refused():
    above = nn.Sequential(nn.Linear(SIZE, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    below = HalfSpaces(8)
    with pytest.raises(ModelError, match="training mode"):
        sc.certify(Pipeline([Model(module=above, stop=2), GaussianNoise(SIGMA), below]), clip(), n=100)


def test_a_model_that_is_refused_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(SIZE, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = model[1].running_mean.clone()
    with pytest.raises(ModelError, match="training mode"):
        sc.certify(plain(model), clip(), n=100)
    assert torch.equal(model[1].running_mean, before)


def test_a_silent_clip_is_refused_where_its_gain_is_undefined():
    silent = sc.Clip.from_array(np.zeros(SIZE), 16_000, "silent")
    with pytest.raises(InputError, match="silent"):
        sc.certify(Pipeline([RmsNormalize(), GaussianNoise(SIGMA), constant()]), silent, n=100)
    floored = Pipeline([RmsNormalize(floor=1e-3), GaussianNoise(SIGMA), constant()])
    assert sc.certify(floored, silent, n=100).status == "certified"


def test_a_silent_clip_is_certified_where_only_the_noisy_copies_are_scaled():
    silent = sc.Clip.from_array(np.zeros(SIZE), 16_000, "silent")
    certificate = sc.certify(Pipeline([GaussianNoise(SIGMA), PeakNormalize(), constant()]), silent, n=100)
    assert certificate.contract.displacement is None


def test_a_peak_normalised_copy_is_certified_with_its_geometry():
    certificate = sc.certify(Pipeline([GaussianNoise(0.01), PeakNormalize(), constant()]), clip(), n=100)
    assert certificate.status == "certified"
    v = clip().tensor()
    expected = float((v / v.abs().max() - v).norm() / (0.01 * math.sqrt(SIZE)))
    assert certificate.contract.displacement == pytest.approx(expected, rel=0.3)
    assert certificate.contract.displacement > 5


# --- caches ----------------------------------------------------------------------------------------


def test_a_pipeline_that_nobody_holds_is_freed():
    pipe = plain()
    sc.certify(pipe, clip(), n=100)
    gone = weakref.ref(pipe)
    del pipe
    gc.collect()
    assert gone() is None


def test_weights_that_changed_are_certified_as_they_are_now():
    model = nn.Linear(SIZE, 2).eval()
    pipe = plain(model)
    first = sc.certify(pipe, clip(), n=100)
    with torch.no_grad():
        model.weight.neg_()
        model.bias.neg_()
    assert sc.certify(pipe, clip(), n=100).candidate == sc.certify(plain(model), clip(), n=100).candidate
    assert sc.certify(pipe, clip(), n=100).candidate != first.candidate


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sc.certify(plain(), clip(), n=100)
    assert torch.equal(torch.get_rng_state(), before)


# --- certify_many ----------------------------------------------------------------------------------


def test_clips_packed_together_have_the_certificates_they_have_alone():
    smoothed = SmoothedClassifier(plain(), micro_batch=16)
    clips = [clip(i) for i in range(5)]
    assert smoothed.certify_many(clips, n=150, seed=2) == [
        sc.certify(plain(), c, n=150, seed=2) for c in clips
    ]
    assert smoothed.certify_many([], n=150) == []


def test_clips_of_different_lengths_are_certified_together_as_they_are_alone():
    pipe = plain(constant())
    clips = [clip(0, 20), clip(1, 30), clip(2, 20)]
    together = SmoothedClassifier(pipe).certify_many(clips, n=100)
    assert together == [sc.certify(pipe, c, n=100) for c in clips]
    assert [c.contract.dimension for c in together] == [20, 30, 20]


def test_clips_of_different_rates_that_meet_in_one_shape_are_packed():
    pipe = Pipeline([Resample(16_000), GaussianNoise(SIGMA), constant()])
    clips = [clip(0, 40, 16_000), clip(1, 20, 8000)]
    assert [c.contract.dimension for c in SmoothedClassifier(pipe).certify_many(clips, n=100)] == [40, 40]


# --- the two-class bound ---------------------------------------------------------------------------


def test_the_two_class_bound_takes_the_largest_other_count_of_the_fresh_sample():
    pipe = plain(Stripes().eval())
    one = sc.Clip.from_array(np.zeros(SIZE), 16_000, "centre")
    changed = 0
    for seed in range(12):
        certificate = sc.certify(pipe, one, n0=20, n=400, seed=seed, bound="two-class")
        selection, fresh = (
            torch.bincount(pipe(drawn(pipe, one, purpose, n, seed)).argmax(1), minlength=4).numpy()
            for purpose, n in (("selection", 20), ("estimation", 400))
        )
        top = int(selection.argmax())
        others = np.delete(fresh, top)
        assert (certificate.candidate, certificate.count) == (str(top), fresh[top])
        assert certificate.max_other == others.max()
        assert (certificate.p_lower, certificate.p_upper) == bounds.two_class_bounds(
            int(fresh[top]), int(others.max()), 400, 0.001
        )
        assert certificate.p_upper == bounds.clopper_pearson_upper(int(others.max()), 400, 0.0005)
        expected = bounds.radius_two_class(certificate.p_lower, certificate.p_upper, SIGMA)
        assert certificate.status == ("abstained" if expected is None else "certified")
        if expected is not None:
            assert certificate.radius == expected
        runner_up = int(np.argsort(-selection, kind="stable")[1])
        changed += fresh[runner_up] < others.max()
    assert changed >= 3  # the runner-up of the selection would have been the wrong rival here


def test_the_two_class_bound_can_certify_where_the_one_sided_abstains():
    pipe = plain(Stripes().eval(), sigma=0.55)
    one = sc.Clip.from_array(np.zeros(SIZE), 16_000, "centre")
    assert sc.certify(pipe, one, n=4000).status == "abstained"
    certificate = sc.certify(pipe, one, n=4000, bound="two-class")
    assert certificate.status == "certified"
    assert certificate.p_upper < certificate.p_lower < 0.5
    assert {"max_other", "p_upper"} <= set(certificate.to_dict())
    assert not {"max_other", "p_upper"} & set(sc.certify(pipe, one, n=4000).to_dict())


# --- print -----------------------------------------------------------------------------------------


def test_print_rounds_inward():
    pipe = Pipeline([RmsNormalize(target=0.3), GaussianNoise(SIGMA), HalfSpaces()])
    checked = 0
    for i in range(30):
        certificate = sc.certify(pipe, clip(i), n=300, seed=i)
        text = str(certificate)
        if certificate.status == "abstained":
            (shown,) = re.findall(r"at least ([\d.e-]+): not", text)
            assert Decimal(shown) <= Decimal(certificate.p_lower)
            continue
        file = certificate.in_space("file")
        radii = [
            *re.findall(r"within radius ([\d.e-]+) ", text),
            *re.findall(r"Raw radius: ([\d.e-]+) ", text),
        ]
        assert len(radii) == 2
        for shown in radii:
            assert Decimal(shown) <= Decimal(certificate.radius)
            assert float(shown) > 0.999 * certificate.radius
        (shown,) = re.findall(r"SNR-equivalent ([\d.-]+) dB", text)
        assert Decimal(certificate.snr_db) <= Decimal(shown) < Decimal(certificate.snr_db) + Decimal("0.01")
        (radius, decibels), *_ = re.findall(r"file's samples: radius ([\d.e-]+) .*SNR ([\d.-]+) dB", text)
        assert Decimal(radius) <= Decimal(file.radius)
        assert Decimal(decibels) >= Decimal(file.snr_db)
        checked += 1
    assert checked >= 10


def test_decibels_are_never_below_the_exact_ratio():
    for i in range(10):
        certificate = sc.certify(plain(constant()), clip(i), n=50 + i)
        norm = np.linalg.norm(clip(i).tensor().numpy().astype(np.longdouble))
        exact = 20 * np.log10(norm / np.longdouble(certificate.radius))
        assert certificate.snr_db >= exact
        assert certificate.snr_db < exact + 1e-9


# --- features --------------------------------------------------------------------------------------

MEL = LogMel(n_fft=64, hop=32, n_mels=4, floor=1e-2)


def test_a_feature_object_has_a_norm_ratio_and_no_snr():
    pipe = Pipeline([MEL, GaussianNoise(SIGMA), constant()])
    one = clip(0, 400)
    certificate = sc.certify(pipe, one, n=200)
    assert certificate.status == "certified"
    assert not hasattr(certificate, "snr_db")
    with pytest.raises(AttributeError, match="not an SNR; see norm_ratio_db") as caught:
        _ = certificate.snr_db
    assert not isinstance(caught.value, AbstainedError)
    norm = float(pipe.object_of(one).norm())
    assert certificate.norm_ratio_db == pytest.approx(20 * math.log10(norm / certificate.radius), abs=1e-9)
    views = certificate.views()
    assert "norm_ratio_db" in views
    assert not {"snr_db", "burst_20ms_db"} & set(views)
    assert "not an SNR" in str(certificate)
    assert certificate.contract.norm_ratio_db == certificate.norm_ratio_db
    assert certificate.contract.snr_db is None


# --- transport -------------------------------------------------------------------------------------


def test_the_chain_to_the_file_names_every_stage_and_bounds_each():
    stages = [Resample(16_000), Fit(samples=50), FixedGain(2.0), RmsNormalize(target=0.1)]
    pipe = Pipeline([*stages, GaussianNoise(0.02), constant()])
    one = pcm(1, 80, 22_050)
    certificate = sc.certify(pipe, one, n=500)
    file = certificate.in_space("file")
    words = [step.stage.split("(")[0] for step in file.chain]
    assert words == [
        "certificate",
        "float32 rounding of the object",
        "rms_normalize",
        "fixed_gain",
        "fit",
        "resample",
    ]
    assert file.chain[0].radius == certificate.radius
    assert file.chain[-1].radius == file.radius
    assert file.norm == pytest.approx(float(one.tensor().norm()))
    radii = [step.radius for step in file.chain]
    assert radii[1] < radii[0]
    points = pipe.front_trace(one)
    c = 0.1 * math.sqrt(50)
    sphere = float(points[3].norm()) * math.sin(2 * math.asin(radii[1] / (2 * c)))
    assert radii[2] == pytest.approx(sphere, rel=1e-9)
    assert radii[2] <= sphere
    assert radii[3] == pytest.approx(radii[2] / 2)
    assert radii[4] == radii[3]
    assert 0.3 * radii[4] < radii[5] < 2 * radii[4]
    assert certificate.in_space("object").radius == certificate.radius
    assert certificate.views()["file_radius"] == file.radius
    assert certificate.views()["file_lsb"] == file.radius * 2**15


def test_perturbations_of_the_file_within_the_carried_radius_stay_within_the_raw_one():
    pipe = Pipeline([Resample(16_000), RmsNormalize(target=0.1), GaussianNoise(0.02), constant()])
    one = clip(1, 80, 22_050)
    certificate = sc.certify(pipe, one, n=500)
    carried = certificate.in_space("file").radius
    points = pipe.front_trace(one)
    route = pipe.route(one.space)
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(50):
        delta = torch.randn(80, dtype=torch.float64, generator=generator)
        moved = points[0] + delta * (carried / delta.norm())
        for stage in route.front:
            moved = stage(moved[None])[0]
        worst = max(worst, float((moved - points[-1]).norm()))
    assert 0.2 * certificate.radius < worst <= certificate.radius


def test_a_radius_in_the_files_own_space_needs_no_chain():
    certificate = sc.certify(plain(constant()), pcm(), n=100)
    assert certificate.contract.perturbation_location == "input"
    file = certificate.in_space("file")
    assert file.radius == certificate.radius
    assert file.snr_db == certificate.snr_db
    # Samples of a float file are rounded on their way to the model, which PCM of 16 bits is not.
    rounded = sc.certify(plain(constant()), clip(), n=100)
    assert 0.999 * rounded.radius < rounded.in_space("file").radius < rounded.radius
    with pytest.raises(TransportError, match="no space 'log-mel'"):
        certificate.in_space("log-mel")


def test_resampling_by_soxr_does_not_transport():
    pipe = Pipeline([Resample(16_000, method="soxr"), RmsNormalize(), GaussianNoise(SIGMA), constant()])
    certificate = sc.certify(pipe, clip(0, 80, 22_050), n=100)
    with pytest.raises(TransportError, match=r"does not transport past resample.*'waveform'"):
        certificate.in_space("file")
    assert "For the file's samples nothing is proven" in str(certificate)
    assert "file_radius" not in certificate.views()
    assert certificate.in_space("waveform").radius > 0
    assert sc.certify(pipe, clip(0, 80, 16_000), n=100).in_space("file").radius > 0  # nothing to resample


def test_a_radius_that_nothing_is_left_of_in_the_file_can_be_printed():
    # One sample stands on a decision edge of the quantiser, so no radius at all is proven there.
    samples = np.r_[2048, np.arange(SIZE - 1)].astype(np.int16)
    one = sc.Clip.from_array(samples, 16_000, "edge")
    certificate = sc.certify(Pipeline([Quantize(bits=4), GaussianNoise(0.001), constant()]), one, n=100)
    assert certificate.in_space("file").radius == 0.0
    assert certificate.to_dict()["radius"] == certificate.radius
    assert "file's samples" in str(certificate)


def test_a_certificate_read_back_cannot_be_carried():
    certificate = dataclasses.replace(sc.certify(plain(constant()), clip(), n=100), _origin=None)
    with pytest.raises(TransportError, match="read from a file"):
        certificate.in_space("file")
    assert certificate.radius > 0
    assert str(certificate)


# --- latent ----------------------------------------------------------------------------------------


def test_noise_between_two_parts_of_a_model_is_latent_smoothing():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    pipe = Pipeline([Model(module=network, stop=2), GaussianNoise(0.01), Model(module=network, start=2)])
    certificate = sc.certify(pipe, clip(), n=200)
    v = network[:2](clip().tensor(torch.float32)[None])[0].detach().double()
    assert certificate.status == "certified"
    assert certificate.label == str(int(network(clip().tensor(torch.float32)[None]).argmax()))
    assert certificate.contract.kind == "latent smoothing"
    assert certificate.contract.perturbation_location == "latent"
    assert certificate.object_norm == pytest.approx(float(v.norm()), rel=1e-6)
    assert not hasattr(certificate, "snr_db")
    with pytest.raises(TransportError, match="does not transport past model"):
        certificate.in_space("file")


# --- predict ---------------------------------------------------------------------------------------


def test_predictions_draw_fresh_entropy_and_replay_on_request():
    model = HalfSpaces()
    pipe = plain(model)
    first, second = sc.predict(pipe, clip()), sc.predict(pipe, clip())
    assert first.seed != second.seed
    assert not first.replay
    assert "fresh entropy" in str(first)
    assert "seed" not in first.to_dict()
    replay = sc.predict(pipe, clip(), seed=first.seed)
    assert (replay.count, replay.runner_up) == (first.count, first.runner_up)
    assert replay == sc.predict(pipe, clip(), seed=first.seed)
    assert replay.replay
    assert "replay" in str(replay)
    assert replay.to_dict()["seed"] == first.seed
    counts = {sc.predict(pipe, clip(), n=500).count for _ in range(12)}
    assert len(counts) > 1


def test_a_prediction_counts_its_own_draws_and_tests_the_two_most_frequent():
    pipe = plain(Stripes().eval())
    one = clip(2)
    prediction = sc.predict(pipe, one, n=300, seed=8)
    counts = torch.bincount(pipe(drawn(pipe, one, "prediction", 300, 8)).argmax(1), minlength=4)
    ordered = sorted(counts.tolist(), reverse=True)
    assert [prediction.count, prediction.runner_up] == ordered[:2]
    assert prediction.candidate == str(int(counts.argmax()))
    assert prediction.p_value == bounds.binomial_two_sided_p(ordered[0], sum(ordered[:2]))


def test_a_prediction_abstains_on_the_boundary_and_only_there():
    model = HalfSpaces()
    v = clip().tensor() - model.distance(clip().tensor()) * (model.w / model.w.norm()).double()
    boundary = sc.Clip.from_array(v.numpy(), 16_000, "boundary")
    tied = sc.predict(plain(model), boundary, seed=1)
    assert tied.status == "abstained"
    assert tied.p_value > 0.001
    assert not hasattr(tied, "label")
    with pytest.raises(AbstainedError, match="abstained"):
        _ = tied.label
    assert "label" not in tied.to_dict()
    assert "abstained" in str(tied)
    clear = sc.predict(plain(constant()), boundary, seed=1)
    assert (clear.status, clear.label) == ("predicted", "0")
    assert clear.to_dict()["label"] == "0"


def test_predictions_that_would_all_abstain_are_refused_before_any_pass():
    model = HalfSpaces()
    for n in (0, -1, 2.0, True):
        with pytest.raises(ConfigError, match="n must be a whole number"):
            sc.predict(plain(model), clip(), n=n)
    with pytest.raises(ConfigError, match=r"n = 10 is too small for alpha = 0\.001.*use n ≥ 11"):
        sc.predict(plain(model), clip(), n=10)
    assert model.calls == 0
    assert sc.predict(plain(constant()), clip(), n=11).status == "predicted"


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.0, 2.0, float("nan")])
def test_an_alpha_that_is_no_probability_of_error_is_refused_by_predict(alpha):
    with pytest.raises(ConfigError, match="alpha"):
        check_prediction(1000, alpha)


# --- accuracy --------------------------------------------------------------------------------------


def test_certified_accuracy_counts_clips_certified_with_their_label_at_the_radius():
    model = HalfSpaces()
    certificates = [sc.certify(plain(model), clip(i), n=300) for i in range(6)] + [abstained()]
    truths = ["0" if model.distance(clip(i).tensor()) > 0 else "1" for i in range(6)] + ["0"]
    radii = sorted(c.radius for c in certificates if c.status == "certified")
    pairs = list(zip(certificates, truths, strict=True))
    for rank, radius in enumerate(radii):
        assert certified_accuracy(pairs, radius) == (len(radii) - rank) / 7
    assert certified_accuracy(pairs, 0.0) == len(radii) / 7
    assert certified_accuracy(pairs, 99.0) == 0.0
    wrong = [(c, "1" if t == "0" else "0") for c, t in pairs]
    assert certified_accuracy(wrong, 0.0) == 0.0
    assert certified_accuracy([], 0.0) == 0.0


def test_the_one_sided_radius_is_sigma_times_the_quantile_by_scipy():
    certificate = sc.certify(plain(constant()), clip(), n=1000, alpha=0.01)
    assert certificate.radius == pytest.approx(SIGMA * float(ndtri(0.01 ** (1 / 1000))), rel=1e-12)


@pytest.mark.parametrize("winner", [32_767, 32_768, 40_000, 65_535, 65_541, 69_999])
def test_of_very_many_classes_the_one_that_won_is_named(winner: int) -> None:
    """A class has to survive the way to the counts: as a 16-bit number 65 541 would be class 5."""

    def net(x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), 70_000)
        logits[:, winner] = 1.0
        return logits

    clip = sc.Clip.from_array(np.arange(-32, 32, dtype=np.int16) * 100, 16_000)
    pipe = sc.Pipeline([sc.stages.GaussianNoise(sigma=0.1), net])
    found = sc.certify(pipe, clip, n0=10, n=100, alpha=0.01)
    assert (found.status, found.candidate, found.count) == ("certified", str(winner), 100)
    assert sc.predict(pipe, clip, n=50, seed=1).label == str(winner)
    from soundcert.certify import Sampling, SmoothedClassifier
    from soundcert.config import Decide

    sampling = Sampling(n0=10, n=200, alpha=0.01, policy=Decide(radii=(0.0, 0.1)))
    (decided,) = SmoothedClassifier(pipe).certify_stream([clip], sampling)
    assert (decided.candidate, decided.radius) == (str(winner), 0.1)


@pytest.mark.parametrize("policy", [None, "decide"])
def test_a_clip_too_long_for_what_lattice_noise_takes_of_alpha_fails_alone(policy: str | None) -> None:
    from soundcert.certify import Sampling, SmoothedClassifier
    from soundcert.config import Decide

    def net(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([-x.mean(1), x.mean(1)], 1)

    # 400 draws of 100 000 values err by 3.6e-10 in all.
    pipe = sc.Pipeline([sc.stages.Quantize(log2_step=-18), sc.stages.LatticeNoise(sigma=2.0), net])
    clips = [
        sc.Clip.from_array(np.full(size, 30_000, dtype=np.int16), 16_000, name)
        for name, size in (("a", 100), ("long", 100_000), ("b", 120))
    ]
    sampling = Sampling(n0=10, n=400, alpha=5e-10, policy=Decide(radii=(0.0, 0.1)) if policy else None)
    failed: dict[str, str] = {}
    done = list(SmoothedClassifier(pipe).certify_stream(clips, sampling, failed=failed))
    assert [c.clip for c in done] == ["a", "b"]
    assert list(failed) == ["long"]
    assert "is too small for 400 draws" in failed["long"]
    with pytest.raises(ConfigError, match="is too small"):
        list(SmoothedClassifier(pipe).certify_stream(clips, sampling))


def test_a_silent_clip_has_a_radius_and_no_level():
    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    pipe = sc.Pipeline([GaussianNoise(0.1), Model(module=First().eval(), labels=("a", "b"))])
    found = sc.certify(pipe, sc.Clip.from_array(np.zeros(400, dtype=np.int16), 8000), n0=10, n=100)
    record = found.to_dict()
    assert found.radius > 0
    assert record["object_norm"] == 0
    assert set(record["views"]) == {"r_over_sigma", "file_radius", "file_lsb"}
    assert found.contract.snr_db is None
    assert "dB" not in str(found.in_space("file"))


@pytest.mark.parametrize("given", ["yes.wav", np.zeros(100), None, [sc.Clip.from_array(np.ones(9), 8000)]])
def test_what_is_no_clip_is_one_line(given):
    pipe = sc.Pipeline([GaussianNoise(0.1), Model(module=nn.Linear(9, 2).eval(), labels=("a", "b"))])
    for call in (sc.certify, sc.predict):
        with pytest.raises(InputError, match=r"expected a Clip, got a .*load_clip\(path\)"):
            call(pipe, given)


def test_numbers_of_numpy_are_numbers():
    alpha = np.float32(0.01)
    found = sc.certify(plain(), clip(), n0=np.int64(20), n=np.int32(200), alpha=alpha, seed=np.uint8(3))
    same = sc.certify(plain(), clip(), n0=20, n=200, alpha=float(alpha), seed=3)
    assert json.dumps(found.to_dict()) == json.dumps(same.to_dict())
