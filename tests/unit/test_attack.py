"""Attacks against closed forms: never better than what is true, and nearly as good."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor, nn

import soundcert as sc
from helpers import mistakes
from soundcert.attack import (
    Attack,
    Claim,
    Deployments,
    Settings,
    Target,
    deployed_variants,
    flip_label,
    front_from,
    inside_ball,
    leave_ball,
    smallest_exit,
)
from soundcert.certify import smoothed
from soundcert.demo import demo_folder
from soundcert.errors import AbstainedError, ConfigError, InputError, TransportError
from soundcert.runs.attack_schema import attack_schema
from soundcert.stages import (
    FixedGain,
    GaussianNoise,
    LogMel,
    Model,
    Quantize,
    Resample,
    RmsNormalize,
    Stage,
)

SIZE = 400
SIGMA = 0.1
QUICK = {"steps": 12, "restarts": 4, "draws": 16, "n": 400}


class Linear(nn.Module):
    """Two classes on either side of a hyperplane: ⟨w, x⟩ = bias."""

    def __init__(self, w: Tensor, bias: float) -> None:
        super().__init__()
        self.w = nn.Parameter(w.float(), requires_grad=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.w - self.bias
        return torch.stack((z, -z), dim=1)


def samples(seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(SIZE)


def linear(distance: float, *front: Stage, seed: int = 0) -> tuple[sc.Pipeline, sc.Clip]:
    """A linear model whose hyperplane is at `distance` from the certified object of the clip."""
    w = torch.randn(SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w /= torch.linalg.vector_norm(w)
    clip = sc.Clip.from_array(samples(seed), 16_000, "clip")
    v = sc.Pipeline([*front, GaussianNoise(SIGMA), lambda x: x]).object_of(clip)
    module = Linear(w, float(w @ v) - distance).eval()
    return sc.Pipeline([*front, GaussianNoise(SIGMA), Model(module=module, labels=("up", "down"))]), clip


def certified(pipe: sc.Pipeline, clip: sc.Clip, n: int = 400) -> sc.Certificate:
    certificate = sc.certify(pipe, clip, n0=20, n=n)
    assert certificate.status == "certified"
    return certificate


def target(pipe: sc.Pipeline, clip: sc.Clip, space: str) -> Target:
    return Target(front_from(pipe, clip, space), smoothed(pipe), Claim.of(certified(pipe, clip)), seed=0)


# --- leaving a ball --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0, 1.4])
def test_leaving_the_ball_of_a_gain_to_an_rms_is_attained(share: float) -> None:
    x = torch.from_numpy(samples())
    c = math.sqrt(SIZE)
    found = smallest_exit(RmsNormalize(), x, share * c, steps=30, restarts=6)
    exact = float(torch.linalg.vector_norm(x)) * math.sin(2 * math.asin(share / 2))
    assert found is not None
    assert exact * (1 - 1e-9) <= found.norm <= exact * (1 + 1e-3)
    moved = RmsNormalize()((x + found.delta)[None]) - RmsNormalize()(x[None])
    assert found.distance == pytest.approx(float(torch.linalg.vector_norm(moved)), rel=1e-12)
    assert found.distance > share * c
    assert found.norm == pytest.approx(float(torch.linalg.vector_norm(found.delta)), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_leaving_a_ball_through_a_matrix_finds_its_top_singular_vector(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(60, 100, generator=generator, dtype=torch.float64)
    x = torch.randn(100, generator=generator, dtype=torch.float64)
    exact = 2.5 / float(torch.linalg.matrix_norm(matrix, 2))
    found = smallest_exit(lambda z: z @ matrix.T, x, 2.5, steps=60)
    assert found is not None
    assert exact * (1 - 1e-9) <= found.norm <= exact * 1.01


def test_no_ray_leaves_a_ball_that_holds_every_image() -> None:
    x = torch.from_numpy(samples())
    assert smallest_exit(RmsNormalize(), x, 2.01 * math.sqrt(SIZE), steps=3) is None


def test_a_log_mel_ball_is_left_where_the_clip_is_quiet_and_never_within_the_proven_radius() -> None:
    clip = sc.load_clip(demo_folder() / "no-gb-f2.flac")
    pipe = sc.Pipeline(
        [RmsNormalize(), LogMel(n_mels=40, floor=1.0), GaussianNoise(0.5), lambda x: x.flatten(1)]
    )
    found = leave_ball(pipe, clip, 1.5, steps=10, restarts=4)
    assert found is not None
    moved = pipe.object_of(sc.Clip.from_array(clip.tensor() + found.delta, clip.rate)) - pipe.object_of(clip)
    assert float(torch.linalg.vector_norm(moved)) > 1.5
    route = pipe.route(clip.space)
    radius = torch.tensor([1.5], dtype=torch.float64)
    points = pipe.front_trace(clip)
    bound = route.stages[1].pull_back(points[1][None], radius)
    if bound is not None:  # where log-mel has a proven bound
        at_file = route.stages[0].pull_back(points[0][None], bound)
        assert at_file is not None
        assert float(at_file[0]) <= found.norm <= 1.3 * float(at_file[0])


def test_a_search_in_a_space_between_and_in_the_objects() -> None:
    pipe, clip = linear(0.3, FixedGain(factor=4.0), RmsNormalize())
    at_gain = leave_ball(pipe, clip, 2.0, space="waveform", steps=10, restarts=4)
    at_object = leave_ball(pipe, clip, 2.0, space="object", steps=5, restarts=2)
    at_file = leave_ball(pipe, clip, 2.0, steps=10, restarts=4)
    assert at_gain and at_object and at_file
    assert at_object.norm == pytest.approx(2.0, rel=1e-9)
    assert at_gain.norm == pytest.approx(4 * at_file.norm, rel=1e-3)


@pytest.mark.parametrize("stage", [Quantize(bits=10), Resample(8000, method="soxr", source_rate=16_000)])
def test_stages_without_a_gradient_of_their_own_are_gone_straight_through(stage: Stage) -> None:
    pipe = sc.Pipeline([stage, GaussianNoise(SIGMA), lambda x: x])
    clip = sc.Clip.from_array(samples(), 16_000)
    found = leave_ball(pipe, clip, 1.0, steps=10, restarts=4)
    assert found is not None
    moved = pipe.object_of(sc.Clip.from_array(clip.tensor() + found.delta, 16_000)) - pipe.object_of(clip)
    assert float(torch.linalg.vector_norm(moved)) == pytest.approx(found.distance, rel=1e-9)
    assert found.distance > 1.0


@dataclass(frozen=True)
class Detached(Stage):
    name = "detached"
    family = "shape"

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * x.detach()


def test_a_stage_without_any_gradient_is_named() -> None:
    pipe = sc.Pipeline([Detached(), GaussianNoise(SIGMA), lambda x: x])
    with pytest.raises(ConfigError, match="stage detached gives no gradient"):
        leave_ball(pipe, sc.Clip.from_array(samples(), 16_000), 1.0)


# --- the smoothed label ----------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "gain"), [("object", 1.0), ("file", 5.0)])
def test_a_linear_models_label_flips_at_its_hyperplane_and_not_before(space: str, gain: float) -> None:
    front = (FixedGain(factor=gain),) if gain != 1.0 else ()
    pipe, clip = linear(0.3, *front)
    found = flip_label(target(pipe, clip, space), steps=20, draws=32, n=4000)
    exact = 0.3 / gain
    assert found is not None
    assert exact * (1 - 1e-6) <= found.norm <= 1.08 * exact
    assert found.label == "down"
    assert (found.count + found.runner_up, found.n) == (4000, 4000)


def test_a_label_that_nothing_changes_is_found_nowhere() -> None:
    module = Linear(torch.zeros(SIZE), -1.0).eval()
    pipe = sc.Pipeline([GaussianNoise(SIGMA), Model(module=module, labels=("up", "down"))])
    clip = sc.Clip.from_array(samples(), 16_000)
    result = sc.attack(pipe, clip, certified(pipe, clip), goals=("flip",), **QUICK)
    assert result.flipped is None
    assert result.to_dict()["flip"] is None
    assert "No change of the smoothed label was found" in str(result)


# --- inside the ball -------------------------------------------------------------------------------


def test_a_true_certificate_is_not_contradicted() -> None:
    pipe, clip = linear(0.2)
    for seed in range(3):
        certificate = sc.certify(pipe, clip, n0=20, n=1000, seed=seed)
        found = inside_ball(
            Target(front_from(pipe, clip, "object"), smoothed(pipe), Claim.of(certificate), seed), n=1000
        )
        assert found is not None
        assert not found.violated
        assert found.norm < certificate.radius
        # The hyperplane is attacked head on, so the guarantee is nearly attained.
        true = float(ndtr((0.2 - found.norm) / SIGMA))
        assert found.guaranteed <= true <= found.p_upper


def test_a_certificate_with_too_large_a_radius_is_contradicted() -> None:
    pipe, clip = linear(0.2)
    true = certified(pipe, clip)
    false = replace(true, p_lower=float(ndtr(3.5)), _radius=3.5 * SIGMA)
    # With other seeds the search ends where 400 draws show that the label changes, but not surely enough to accuse.
    result = sc.attack(pipe, clip, false, goals=("inside", "flip"), seed=5, **QUICK)
    assert result.inside is not None and result.inside.violated
    assert len(result.violations) == 2
    assert "VIOLATION" in str(result)
    assert not sc.attack(pipe, clip, true, goals=("inside", "flip"), **QUICK).violations


def test_a_two_class_certificate_is_judged_by_its_rival_too() -> None:
    pipe, clip = linear(0.2)
    true = sc.certify(pipe, clip, n0=20, n=400, bound="two-class")
    assert not sc.attack(pipe, clip, true, goals=("inside",), **QUICK).violations
    false = replace(true, p_upper=1e-5, _radius=0.35)
    assert sc.attack(pipe, clip, false, goals=("inside",), **QUICK).violations


@dataclass(frozen=True)
class Boastful(Stage):
    """Doubles, and claims not to."""

    name = "boastful"
    family = "shape"

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * x

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        return radius


def test_a_wrong_pull_back_is_a_violation(tmp_path: Path) -> None:
    pipe, clip = linear(0.3, Boastful())
    certificate = certified(pipe, clip)
    result = sc.attack(pipe, clip, certificate, goals=("leave",), **QUICK)
    assert result.left is not None
    assert result.left.norm == pytest.approx(certificate.radius / 2, rel=1e-9)
    (what,) = result.violations
    assert "a bound of the transport is wrong" in what
    with np.load(result.save_evidence(tmp_path / "a" / "evidence.npz", {"identity": "x"})) as evidence:
        assert np.linalg.norm(evidence["leave_delta"]) == pytest.approx(result.left.norm)
        record = json.loads(str(evidence["record"]))
    assert record["violations"] == [what]
    assert record["identity"] == "x"


# --- one clip, all goals ---------------------------------------------------------------------------


def feature_pipe(floor: float = 1.0) -> sc.Pipeline:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(8 * 11, 3)).eval()
    return sc.Pipeline(
        [RmsNormalize(), LogMel(n_mels=8, n_fft=256, floor=floor), GaussianNoise(0.05), Model(module=module)]
    )


def spoken() -> sc.Clip:
    rng = np.random.default_rng(3)
    values = rng.standard_normal(1600) * np.linspace(0.001, 0.2, 1600)
    return sc.Clip.from_array(np.round(values * 2**15).astype(np.int16), 16_000, "word.wav")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[sc.Pipeline, sc.Clip, Attack, Path]:
    pipe, clip = feature_pipe(), spoken()
    folder = tmp_path_factory.mktemp("wav")
    goals = ("deployed", "bypass", "inside", "flip", "leave")
    result = sc.attack(pipe, clip, certified(pipe, clip), goals=goals, wav=folder / "word", **QUICK)
    return pipe, clip, result, folder


def test_all_goals_of_one_clip(whole) -> None:
    pipe, clip, result, _ = whole
    assert result.settings.goals == ("leave", "flip", "inside", "bypass", "deployed")
    assert result.norm == pytest.approx(float(torch.linalg.vector_norm(clip.tensor())))
    assert result.left is not None and result.bypass is not None
    assert result.left.distance > result.radius
    assert not result.violations
    assert result.proven is None or result.left.norm >= result.proven
    bypass = result.bypass
    assert bypass.naive_radius == pytest.approx(
        result.norm * result.radius / float(torch.linalg.vector_norm(pipe.object_of(clip)))
    )
    assert bypass.below_naive_db == pytest.approx(20 * math.log10(bypass.naive_radius / result.left.norm))
    for words in ("Smallest perturbation found", "Read as an SNR", "Deployed with", "proves nothing"):
        assert words in str(result)


def test_the_record_of_an_attack_conforms_to_its_schema(whole) -> None:
    record = {**json.loads(json.dumps(whole[2].to_dict(), allow_nan=False)), "seconds": 0.1}
    record["settings"]["wav"] = True
    assert not mistakes(record, attack_schema())


def test_the_attacked_files_are_measured_as_they_are_read_back(whole) -> None:
    pipe, clip, result, folder = whole
    assert sc.load_clip(folder / "word.original.wav").digest == clip.digest
    v, x = pipe.object_of(clip), clip.tensor()
    assert [f.encoding for f in result.bypass.files] == ["float32", "16 bits"]
    for saved in result.bypass.files:
        heard = sc.load_clip(saved.path)
        assert heard.bits == (None if saved.encoding == "float32" else 16)
        assert float(torch.linalg.vector_norm(heard.tensor() - x)) == pytest.approx(saved.norm)
        assert float(torch.linalg.vector_norm(pipe.object_of(heard) - v)) == pytest.approx(saved.distance)
        assert saved.outside == (saved.distance > result.radius)
        assert saved.outside


def test_a_bypass_without_a_place_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipe, clip = feature_pipe(), spoken()
    result = sc.attack(pipe, clip, certified(pipe, clip), goals=("bypass",), steps=3, restarts=2)
    assert result.bypass is not None
    assert all("path" not in file for file in result.to_dict()["bypass"]["files"])
    assert list(tmp_path.iterdir()) == []


def test_a_waveform_certificate_has_no_bypass() -> None:
    pipe, clip = linear(0.3)
    result = sc.attack(pipe, clip, certified(pipe, clip), goals=("bypass",), **QUICK)
    assert "bypass" not in result.to_dict()


def test_nothing_proven_is_said_and_compared_with_nothing() -> None:
    pipe = sc.Pipeline(
        [Resample(8000, method="soxr"), GaussianNoise(SIGMA), lambda x: torch.stack((x.sum(1), -x.sum(1)), 1)]
    )
    clip = sc.Clip.from_array(samples() + 0.3, 16_000)
    result = sc.attack(pipe, clip, certified(pipe, clip), goals=("leave",), **QUICK)
    assert result.proven is None
    assert result.left is not None and result.gap(result.left) is None
    assert result.to_dict()["proven"]["proven"] is False
    assert "nothing is proven" in str(result)


def test_one_seed_finds_the_same_twice() -> None:
    pipe, clip = linear(0.3)
    certificate = certified(pipe, clip)
    first, second = (sc.attack(pipe, clip, certificate, **QUICK).to_dict() for _ in range(2))
    assert first == second


# --- a pipeline in use that differs ----------------------------------------------------------------


def test_the_changes_that_deployments_make() -> None:
    pipe = sc.Pipeline([Resample(8000), RmsNormalize(), GaussianNoise(SIGMA), lambda x: x])
    variants = deployed_variants(pipe)
    assert list(variants) == [
        "peak_normalize(target=1) for rms_normalize",
        "no rms_normalize",
        "clip(low=-1, high=1) after rms_normalize",
        "resampled by soxr",
    ]
    assert [s.name for s in variants["no rms_normalize"].stages] == ["resample", "gaussian_noise", "model"]
    names = [s.name for s in variants["clip(low=-1, high=1) after rms_normalize"].stages]
    assert names == ["resample", "rms_normalize", "clip", "gaussian_noise", "model"]
    assert list(deployed_variants(sc.Pipeline([GaussianNoise(1.0), lambda x: x]))) == [
        "clip(low=-1, high=1) of the samples"
    ]


def test_another_gain_flips_a_model_that_hears_loudness() -> None:
    def loud(x: Tensor) -> Tensor:
        z = x.square().mean(dim=1) - 0.3
        return torch.stack((z, -z), dim=1)

    pipe = sc.Pipeline([RmsNormalize(), GaussianNoise(SIGMA), Model(module=loud, labels=("loud", "quiet"))])
    clip = sc.Clip.from_array(samples(), 16_000)
    claim = Claim.of(certified(pipe, clip))
    answers = {d.variant: d for d in Deployments(pipe).try_clip(clip, claim, n=200)}
    assert answers["no rms_normalize"].outcome == "flipped"
    assert answers["no rms_normalize"].label == "quiet"
    assert answers["no rms_normalize"].distance == pytest.approx(
        (math.sqrt(SIZE) - float(torch.linalg.vector_norm(clip.tensor()))) / claim.radius
    )
    assert answers["clip(low=-1, high=1) after rms_normalize"].outcome == "same"


def test_a_variant_that_changes_nothing_for_a_clip_is_left_out_and_one_that_fails_says_why() -> None:
    pipe, clip = linear(0.3)
    claim = Claim.of(certified(pipe, clip))
    assert list(Deployments(pipe).try_clip(clip, claim, n=100)) == []  # no sample is beyond full scale
    silent = sc.Pipeline([FixedGain(factor=1e-200), FixedGain(factor=1e-200), RmsNormalize(), *pipe.stages])
    (answer,) = Deployments(pipe, {"a broken gain": silent}).try_clip(clip, claim, n=100)
    assert answer.outcome == "failed"
    assert "silent" in str(answer.reason)


# --- what cannot be attacked -----------------------------------------------------------------------


def test_what_cannot_be_attacked_is_refused_in_one_line() -> None:
    pipe, clip = linear(0.3)
    certificate = certified(pipe, clip)
    with pytest.raises(InputError, match="attack the clip that was certified"):
        sc.attack(pipe, sc.Clip.from_array(samples(7), 16_000), certificate)
    with pytest.raises(AbstainedError, match="abstained"):
        sc.attack(pipe, clip, replace(certificate, status="abstained", _radius=None))
    with pytest.raises(TransportError, match="'fiel'"):
        sc.attack(pipe, clip, certificate, space="fiel")
    with pytest.raises(ConfigError, match="with the pipeline that was certified"):
        sc.attack(pipe, clip, replace(certificate, sigma=0.2))
    with pytest.raises(ConfigError, match="none of the model's"):
        sc.attack(pipe, clip, replace(certificate, candidate="sideways"), goals=("inside",))
    quiet = sc.Clip.from_array(np.zeros(SIZE), 16_000, "silence.wav")
    with pytest.raises(InputError, match="silent"):
        leave_ball(sc.Pipeline([RmsNormalize(), GaussianNoise(1.0), lambda x: x]), quiet, 1.0)
    with pytest.raises(ConfigError, match="no ball to leave"):
        leave_ball(pipe, clip, 0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"goals": ()}, "at least one"),
        ({"goals": ("leve",)}, "did you mean 'leave'"),
        ({"steps": 0}, "steps must be a whole number from 1"),
        ({"restarts": 1.5}, "restarts must be"),
        ({"draws": True}, "draws must be"),
        ({"n": 3}, "every prediction would abstain"),
        ({"level": 2.0}, "alpha"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Settings(**change)
