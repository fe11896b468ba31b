"""Corners of the mathematics that no run reaches by itself: what is left must be smaller, never larger."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

import soundcert as sc
from soundcert.contract import read_contract
from soundcert.diagnostics import burst_level_db
from soundcert.errors import ConfigError
from soundcert.spaces import Space
from soundcert.stages import (
    FixedGain,
    GaussianNoise,
    Limiter,
    LogMel,
    Mono,
    Quantize,
    RmsNormalize,
    Standardize,
    dual,
)
from soundcert.stages import spectral_bound as sb
from soundcert.stages.dual import Compression, largest_budget
from soundcert.stages.mel import filter_key, mel_filters
from soundcert.stages.noise import LatticeNoise, NoiseStage
from soundcert.transport import Step, Transported


def test_fewer_tries_prove_less_and_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    cut_short = 0
    for _ in range(20):
        n = int(rng.integers(20, 200))
        a = torch.from_numpy(10 ** rng.uniform(-4, 1, n))
        y, scale = torch.ones(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
        f = Compression(2, 10 ** float(rng.uniform(-8, 0)), "add")
        radius = float(rng.uniform(1, 20))
        whole = largest_budget(f, a, y, scale, radius)
        monkeypatch.setattr(dual, "_TRIES", 1)
        once = largest_budget(f, a, y, scale, radius)
        monkeypatch.undo()
        assert 0 < once <= whole
        cut_short += once < whole
    assert cut_short > 0


def test_without_a_solution_the_band_weights_are_the_even_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = LogMel(n_mels=8, n_fft=64, hop=20, mel_norm="slaney")
    filters = mel_filters(*filter_key(stage))
    even = sb.even_weights(filters[filters.any(axis=1)], 64, 2.0)
    monkeypatch.setattr("scipy.optimize.linprog", lambda *_args, **_more: SimpleNamespace(success=False))
    np.testing.assert_array_equal(sb.band_weights.__wrapped__(filter_key(stage), 64, 2.0), even)
    monkeypatch.undo()
    assert (sb.band_weights(filter_key(stage), 64, 2.0) >= even * (1 - 1e-7)).all()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "exactly one"),
        ({"factor": 2.0, "db": 6.0}, "exactly one"),
        ({"factor": 0.0}, "finite and not zero"),
        ({"factor": math.inf}, "finite and not zero"),
        ({"db": -1e9}, "from -1000 to 1000"),
        ({"db": 1e9}, "from -1000 to 1000"),
    ],
)
def test_a_fixed_gain_that_is_none_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FixedGain(**fields)


def test_too_few_samples_have_no_deviation() -> None:
    with pytest.raises(ConfigError, match="more than 1 samples"):
        Standardize(ddof=1).space(Space("waveform", "waveform", (1,), 16_000, "full scale"))


def test_a_family_of_noise_without_a_draw_says_so() -> None:
    class Unfinished(NoiseStage):
        name = "unfinished"
        sigma = 1.0

    with pytest.raises(TypeError, match="unfinished does not implement perturb_"):
        Unfinished().perturb_(torch.zeros(3), torch.Generator())


@dataclass(frozen=True)
class Uniform(NoiseStage):
    name: ClassVar[str] = "uniform"
    sigma: float = 0.5

    def perturb_(self, out: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return out.uniform_(-self.sigma, self.sigma, generator=generator)


class Louder(GaussianNoise):
    """A class that draws otherwise than its base says."""

    def perturb_(self, out: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return super().perturb_(out, generator).sign_()


@dataclass(frozen=True)
class Normal(NoiseStage):
    name: ClassVar[str] = "my_normal"
    normal: ClassVar[bool] = True
    sigma: float = 0.5

    def perturb_(self, out: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return out.normal_(0.0, self.sigma, generator=generator)

    def space(self, before: Space) -> Space:
        return before


@pytest.mark.parametrize("noise", [Uniform(), Louder(0.5)])
def test_noise_that_does_not_say_it_is_normal_gets_no_gaussian_radius(noise: NoiseStage) -> None:
    """Found by a reviewer: uniform noise got σΦ⁻¹(p), 1.23 where the smoothed label changes at 0.9."""
    with pytest.raises(ConfigError, match="does not say that it draws such"):
        sc.Pipeline([noise, lambda x: x])


def test_whose_word_it_is_that_noise_is_normal_stands_in_the_contract() -> None:
    clip = sc.Clip.from_array(np.zeros(4), 16_000)

    def said(noise: NoiseStage) -> str:
        pipe = sc.Pipeline([noise, lambda x: torch.stack([x[:, 0], -x[:, 0]], dim=1)])
        return read_contract(pipe.route(clip.space)).statement()

    @dataclass(frozen=True)
    class Derived(GaussianNoise):
        normal: ClassVar[bool] = True

    assert "Nothing about whether `my_normal` draws normal noise" in said(Normal())
    assert "Derived` draws normal noise" in said(Derived(0.5)), "an inherited name is not its own"
    assert "draws normal noise" not in said(GaussianNoise(0.5))


def test_a_burst_may_change_every_channel() -> None:
    """Found by a reviewer: for stereo the level was 3 dB too high."""
    rng = np.random.default_rng(0)
    clip = sc.Clip.from_array(0.1 * rng.standard_normal((2, 1600)), 16_000)
    pipe = sc.Pipeline([GaussianNoise(0.5), lambda x: torch.stack([x[:, 0, 0] + 9, -x[:, 0, 0]], dim=1)])
    cert = sc.certify(pipe, clip, n=200)
    level = cert.views()["burst_20ms_db"]
    rms = cert.object_norm / math.sqrt(3200)
    burst = np.zeros((2, 1600))
    burst[:, 100:420] = rms * 10 ** (level / 20)
    assert np.linalg.norm(burst) <= cert.radius <= np.linalg.norm(burst) * (1 + 1e-9)
    assert cert.contract.channels == 2
    assert burst_level_db(1.0, 1.0, 44_100) == pytest.approx(-20 * math.log10(math.sqrt(882)))
    assert burst_level_db(1.0, 1.0, 22_050 + 1) < -20 * math.log10(math.sqrt(441.02))


@pytest.mark.parametrize(("value", "size"), [(1 / 3, 10**6), (0.1, 3 * 10**6)])
def test_the_norm_in_a_ratio_is_not_too_small(value: float, size: int) -> None:
    """Found by a reviewer: a sum of a million squares, one by one, is short by 2·10⁻¹²."""
    clip = sc.Clip.from_array(np.full(size, value), 16_000)
    pipe = sc.Pipeline([GaussianNoise(0.5), lambda x: torch.stack([x[:, 0] + 9, -x[:, 0]], dim=1)])
    cert = sc.certify(pipe, clip, n=20, n0=5, alpha=0.1)
    exact = 20 * math.log10(float(clip.samples.reshape(-1)[0]) * math.sqrt(size) / cert.radius)
    assert exact <= cert.snr_db <= exact + 1e-10
    assert exact <= cert.views()["file_snr_db"] + 1e-12


def test_noise_in_words() -> None:
    assert GaussianNoise(0.5).words() == "Gaussian noise of standard deviation 0.5 added"
    said = LatticeNoise(0.5, 2.0**-15).words()
    assert "rounded to whole steps of 3.05176e-05" in said
    assert "integers" in said


def test_a_carried_radius_is_printed_with_its_chain_rounded_down() -> None:
    chain = (Step("certificate", "object", 1.99999), Step("rms_normalize", "file", 0.99999))
    text = str(Transported("file", 0.99999, 100.0, chain))
    assert text.splitlines() == [
        "Proven in the space 'file': radius 0.9999 (ℓ2), 40.01 dB under the clip",
        "      0.9999  rms_normalize",
        "       1.999  certificate",
    ]
    assert "dB" not in str(Transported("file", math.inf, 100.0, ()))
    assert Transported("file", 0.0, 1.0, ()).snr_db == math.inf


def test_what_overflows_a_double_is_no_radius_without_limit() -> None:
    """Found by a reviewer: r = ∞ where the true r is 10¹⁵⁰ or 10³²⁰."""
    gain = FixedGain(factor=1e-320)
    x = torch.ones(1, 4, dtype=torch.float64)
    assert gain.pull_back(x, torch.tensor([1.0], dtype=torch.float64)).isfinite().all()  # type: ignore[union-attr]
    assert gain.pull_back(x, torch.tensor([torch.inf], dtype=torch.float64)).isinf().all()  # type: ignore[union-attr]
    features = LogMel(n_mels=4, n_fft=32, hop=8, floor=1e290)
    r = features.pull_back(torch.zeros(1, 64, dtype=torch.float64), torch.tensor([1e9], dtype=torch.float64))
    assert r is not None and r.isfinite().all() and (r > 0).all()


def test_an_infinite_radius_before_rounding_is_infinite_or_nothing() -> None:
    on_an_edge = torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    r = Quantize(log2_step=0).pull_back(on_an_edge, torch.tensor([torch.inf], dtype=torch.float64))
    assert r is not None and r.isinf().all()


def test_what_overflows_before_a_sum_or_a_gain_is_no_radius_without_limit() -> None:
    largest = torch.tensor([1.7e308], dtype=torch.float64)
    stereo = torch.ones(1, 2, 8, dtype=torch.float64)
    assert Mono().pull_back(stereo, largest).isfinite().all()  # type: ignore[union-attr]
    loud = RmsNormalize(target=1.0, floor=1e308, floor_mode="max")
    r = loud.pull_back(torch.ones(1, 16_000, dtype=torch.float64), torch.tensor([1e-3], dtype=torch.float64))
    assert r is not None and r.isfinite().all()


def test_a_soft_limiter_leaves_what_is_below_and_stays_below_its_ceiling() -> None:
    stage = Limiter(threshold=0.5, ceiling=1.0)
    x = torch.tensor([[-50.0, -0.75, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 50.0]], dtype=torch.float64)
    bent = [0.5 + 0.5 * math.tanh(a) for a in (0.5, 1.0)]
    expected = [-1.0, -bent[0], -0.5, 0.0, 0.25, 0.5, bent[0], bent[1], 1.0]
    assert stage(x)[0].tolist() == pytest.approx(expected, rel=1e-15)
    assert (
        stage(torch.tensor([[math.nan]])).isnan().all()
    )  # NaN is for the caller to refuse, not for a stage to hide


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": -0.1},
        {"threshold": 1.0},
        {"ceiling": math.inf},
        {"threshold": math.nan},
        {"threshold": 0.0, "ceiling": 1e-309},
    ],
)
def test_a_limiter_that_is_none_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"limiter: (threshold|ceiling) must be"):
        Limiter(**fields)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (GaussianNoise(True), "gaussian_noise: sigma must be a number, got True"),
        (Quantize(bits=8.5), "quantize: bits must be a whole number, got 8.5"),  # type: ignore[arg-type]
        (sc.stages.Resample(16000.5), "resample: rate must be a whole number, got 16000.5"),  # type: ignore[arg-type]
    ],
)
def test_a_stage_made_in_python_holds_the_numbers_that_it_names(stage: sc.stages.Stage, said: str) -> None:
    """YAML's are checked where they are read."""
    stages = [stage] if isinstance(stage, NoiseStage) else [stage, GaussianNoise(0.5)]
    with pytest.raises(ConfigError, match=said):
        sc.Pipeline(stages)


def test_numpy_numbers_are_numbers() -> None:
    sc.Pipeline([Quantize(bits=np.int64(8)), GaussianNoise(np.float64(0.5))])  # type: ignore[arg-type]


def test_a_limiter_leaves_room_for_the_rounding_of_both_values() -> None:
    stage = Limiter(threshold=0.0, ceiling=1e-30)
    radius = torch.tensor([3e-45, 1e-29], dtype=torch.float64)
    proven = stage.pull_back(torch.zeros(2, 4, dtype=torch.float64), radius)
    assert proven is not None
    assert proven.tolist() == [0.0, pytest.approx(1e-29, rel=1e-11)]
    assert proven[1] < radius[1]
