"""Pulled-back radii against exact arithmetic, dense matrices, and perturbations that attain them."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from soundcert.errors import InputError
from soundcert.pipeline import Route
from soundcert.spaces import Space
from soundcert.stages import (
    Clip,
    FeatureStandardize,
    Fit,
    FixedGain,
    GaussianNoise,
    Mono,
    PeakNormalize,
    Quantize,
    RemoveOffset,
    Resample,
    RmsNormalize,
    Stage,
    Standardize,
)
from soundcert.transport import carry, rounding_allowance

mp = mpmath.mp.clone()
mp.dps = 50
ROOT2 = math.sqrt(2.0)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def noise(d: int, seed: int = 0) -> Tensor:
    return torch.randn(1, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def r_of(stage: Stage, x: Tensor, radius: float) -> float:
    bound = stage.pull_back(x, torch.tensor([radius], dtype=torch.float64))
    assert bound is not None
    return float(bound[0])


def moved(stage: Stage, x: Tensor, delta: Tensor) -> float:
    return float((stage(x + delta) - stage(x)).norm())


def exact(x: Tensor) -> list:
    return [mp.mpf(float(v)) for v in x.flatten()]


def exact_norm(values: list):
    return mp.sqrt(mp.fsum(v * v for v in values))


def exact_deviation(x: Tensor):
    """‖x − mean(x)‖₂ to 50 digits."""
    values = exact(x)
    mean = mp.fsum(values) / len(values)
    return exact_norm([v - mean for v in values])


# --- the sphere: RMS and standardisation ---------------------------------------------------------------

RATIOS = [
    1e-300, 1e-15, 1e-8, 1e-3, 0.1, 0.5, 0.7, 0.7071, math.sqrt(0.5) - 2e-16, math.sqrt(0.5), 0.70710679,
    0.9, 0.999999, 1 - 1e-9, 1 - 1e-13, 1 + 1e-11, 1.5,
]  # fmt: skip


def exact_sphere(length, radius: float, c):
    """The radius of the closed form, to 50 digits."""
    q = mp.mpf(radius) / (2 * c)
    if q >= 1:
        return mp.inf
    return length * (mp.sin(2 * mp.asin(q)) if 2 * q * q < 1 else 1)


def assert_just_inside(claimed: float, truth) -> None:
    assert claimed <= truth
    assert claimed == math.inf or claimed >= truth * (1 - mp.mpf(3e-12))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("scale", [1e-100, 1e-9, 1.0, 1e6, 1e100])
@pytest.mark.parametrize("d", [1, 7, 400])
def test_rms_agrees_with_exact_arithmetic_and_never_exceeds_it(ratio, scale, d):
    x = scale * noise(d)
    for target in (0.1, 1.0):
        c = mp.mpf(target) * mp.sqrt(d)
        radius = float(2 * c * mp.mpf(ratio))
        truth = exact_sphere(exact_norm(exact(x)), radius, c)
        if truth > 1e-290:
            assert_just_inside(r_of(RmsNormalize(target=target), x, radius), truth)


@pytest.mark.parametrize("ratio", RATIOS[1:])
@pytest.mark.parametrize("loud", [0.0, 1e-9, 0.5, 0.999999, 1.000001, 2.0, 1e6])
def test_floors_agree_with_exact_arithmetic_and_never_exceed_it(ratio, loud):
    d, target, floor = 7, 0.5, 0.03
    c, m = mp.mpf(target) * mp.sqrt(d), mp.mpf(floor) * mp.sqrt(d)
    x = noise(d)
    x = x / x.norm() * float(m) * loud
    n = exact_norm(exact(x))
    radius = float(2 * c * mp.mpf(ratio))
    linear = radius * m / c
    truth = {
        "max": exact_sphere(n, radius, c) if n >= m else (linear if radius < 2 * c else mp.inf),
        "sqrt": exact_sphere(mp.sqrt(n * n + m * m), radius, c),
        "add": exact_sphere(n, radius, c),
    }
    for mode, value in truth.items():
        claimed = r_of(RmsNormalize(target=target, floor=floor, floor_mode=mode), x, radius)
        # A larger proven bound is welcome: both floors that divide are Lipschitz with c/m as well.
        better = {"max": max(value, linear), "sqrt": value, "add": mp.inf}[mode]
        assert value * (1 - mp.mpf(3e-12)) <= claimed <= better


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("offset", [0.0, 0.1, 1e3])
@pytest.mark.parametrize("ratio", RATIOS[1:])
def test_standardise_agrees_with_exact_arithmetic_and_never_exceeds_it(ratio, offset, ddof):
    d = 12
    x = noise(d) + offset
    c = mp.sqrt(d - ddof)
    radius = float(2 * c * mp.mpf(ratio))
    n = exact_deviation(x)
    assert_just_inside(r_of(Standardize(ddof=ddof), x, radius), exact_sphere(n, radius, c))
    m = mp.mpf(0.7) * c
    claimed = r_of(Standardize(ddof=ddof, floor=0.7, floor_mode="sqrt"), x, radius)
    assert_just_inside(claimed, exact_sphere(mp.sqrt(n * n + m * m), radius, c))


def tangent(x: Tensor, r: float, seed: int = 5) -> Tensor:
    """Return δ, ‖δ‖ = r < ‖x‖, that makes x + δ tangent to the ball of radius r about x."""
    unit = x / x.norm()
    across = noise(x.numel(), seed).reshape(x.shape)
    across = across - (across * unit).sum() * unit
    across = across / across.norm()
    sine = r / float(x.norm())
    return r * (-sine * unit + math.sqrt(1 - sine * sine) * across)


@pytest.mark.parametrize("share", [1e-3, 0.1, 0.7, 1.0, 1.3, 1.41, 1.414])
def test_rms_radius_is_attained(share):
    x = 0.2 * noise(40)
    stage = RmsNormalize(target=0.1)
    radius = share * 0.1 * math.sqrt(40)
    r = r_of(stage, x, radius)
    assert moved(stage, x, tangent(x, r)) / radius == pytest.approx(1.0, abs=1e-6 if share > 1.4 else 1e-9)
    assert moved(stage, x, tangent(x, r)) <= radius * (1 + 1e-12)
    if share < 1.4:
        assert moved(stage, x, tangent(x, r * 1.001)) > radius * 1.00001


@pytest.mark.parametrize("share", [1.4143, 1.7, 1.999])
def test_past_a_right_angle_the_rms_radius_is_the_norm_and_no_more(share):
    x = noise(40)
    radius = share * math.sqrt(40)
    assert r_of(RmsNormalize(), x, radius) == pytest.approx(float(x.norm()), rel=1e-11)
    assert moved(RmsNormalize(), x, -x * 1.0001) == pytest.approx(2 * math.sqrt(40))


def test_past_the_diameter_there_is_no_limit():
    for stage in (
        RmsNormalize(),
        RmsNormalize(floor=0.1),
        RmsNormalize(floor=0.1, floor_mode="add"),
        Standardize(),
    ):
        assert r_of(stage, noise(40), 2.0001 * math.sqrt(40)) == math.inf


@pytest.mark.parametrize("stage", [Standardize(), Standardize(ddof=1)])
@pytest.mark.parametrize("share", [1e-3, 0.5, 1.3])
def test_standardise_radius_is_attained(stage, share):
    x = 3 + noise(24)
    centred = x - x.mean()
    radius = share * math.sqrt(24 - stage.ddof)
    r = r_of(stage, x, radius)
    across = RemoveOffset()(noise(24, 5))
    across = across - (across * centred).sum() / (centred * centred).sum() * centred
    sine = r / float(centred.norm())
    delta = r * (math.sqrt(1 - sine**2) * across / across.norm() - sine * centred / centred.norm())
    assert float(delta.norm()) <= r * (1 + 1e-12)
    assert moved(stage, x, delta) / radius == pytest.approx(1.0, abs=1e-9)


def test_floored_radii_are_attained_or_nearly():
    x = noise(40)
    x = x / x.norm() * math.sqrt(40)
    below = RmsNormalize(floor=2.0)
    assert moved(below, x, -x / x.norm() * r_of(below, x, 0.5)) / 0.5 == pytest.approx(1.0, abs=1e-9)
    small = 1e-4
    smooth = RmsNormalize(floor=2.0, floor_mode="sqrt")
    assert moved(smooth, x, tangent(x, r_of(smooth, x, small))) / small == pytest.approx(1.0, abs=1e-6)
    # "add": across x the image moves by c/(‖x‖ + m) a unit, and that is what the claim allows.
    summed = RmsNormalize(floor=2.0, floor_mode="add")
    r = r_of(summed, x, small)
    assert r == pytest.approx(3 * r_of(RmsNormalize(), x, small), rel=1e-6)
    assert moved(summed, x, tangent(x, r)) / small == pytest.approx(1.0, abs=1e-4)


def nearest_violation(n: float, m: float, radius: float, mode: str) -> float:
    """Return min ‖y − u‖ over images more than R apart, ‖u‖ = n, c = 1: y lies in a plane through u."""
    angle = np.linspace(0, math.pi, 1201)[None]
    size = n * np.linspace(0.001, 3, 1500)[:, None]
    image = {
        "max": lambda v: v / np.maximum(v, m),
        "sqrt": lambda v: v / np.sqrt(v * v + m * m),
        "add": lambda v: v / (v + m),
    }[mode]
    here, there = image(np.float64(n)), image(size)
    far = here**2 + there**2 - 2 * here * there * np.cos(angle) > radius * radius
    way = n * n + size * size - 2 * n * size * np.cos(angle)
    return math.sqrt(way[far].min()) if far.any() else math.inf


# mode, floor over norm: how far the nearest violation lies beyond the claim at R/c = 0.3, 0.7 and 1.
SLACK = {
    ("max", 0.5): (1.002, 1.002, 1.002),
    ("max", 1.0): (1.002, 1.002, 1.002),
    ("max", 3.0): (1.002, 1.002, 1.002),
    ("sqrt", 0.1): (1.003, 1.003, 1.004),
    ("sqrt", 0.5): (1.004, 1.016, 1.041),
    ("sqrt", 1.0): (1.006, 1.028, 1.069),
    ("add", 0.1): (1.005, 1.016, 1.036),
    ("add", 0.5): (1.015, 1.088, 1.252),
    ("add", 1.0): (1.034, 1.252, 2.002),
}


@pytest.mark.parametrize(("mode", "floor"), SLACK)
def test_what_floored_radii_leave(mode, floor):
    x = row(1.0, 0.0, 0.0, 0.0)
    stage = RmsNormalize(target=0.5, floor=floor / 2, floor_mode=mode)  # c = 1, m = floor
    for radius, most in zip((0.3, 0.7, 1.0), SLACK[mode, floor], strict=True):
        # 1 % for the grid.
        assert 1 <= nearest_violation(1.0, floor, radius, mode) / r_of(stage, x, radius) <= most * 1.01


# --- bands, each on its own sphere ---------------------------------------------------------------------


def bands_of(levels: tuple[float, ...], frames: int, seed: int = 0) -> Tensor:
    x = noise(len(levels) * frames, seed).reshape(1, len(levels), frames)
    x = x - x.mean(dim=2, keepdim=True)
    return x / x.norm(dim=2, keepdim=True) * torch.tensor(levels, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("share", [1e-3, 0.1, 0.7, 1.0, 1.3, 1.41])
def test_the_radius_of_bands_is_attained_in_the_least(share):
    frames = 24
    x = bands_of((3.0, 0.4, 1.0), frames)
    stage = FeatureStandardize(per="clip", floor=1e-10)
    radius = share * math.sqrt(frames)
    r = r_of(stage, x, radius)
    least = RmsNormalize()
    assert r == pytest.approx(r_of(least, x[:, 1], radius), rel=1e-6)
    unit = x[:, 1] / x[:, 1].norm()
    across = RemoveOffset()(noise(frames, 5))
    across = across - (across * unit).sum() * unit
    sine = r / 0.4
    delta = torch.zeros_like(x)
    delta[:, 1] = r * (math.sqrt(1 - sine**2) * across / across.norm() - sine * unit)
    assert float(delta.norm()) <= r * (1 + 1e-12)
    assert moved(stage, x - 7.5, delta) / radius == pytest.approx(1.0, abs=2e-4)  # rounding is charged


@pytest.mark.parametrize("floor", [1e-5, 1e-2])
@pytest.mark.parametrize("share", [1e-3, 0.3, 0.7])
def test_the_radius_of_bands_at_the_floor(floor, share):
    """A constant band stands at the floor alone: any δ in it moves the image by c·ρ/√(ρ² + m²)."""
    frames = 24
    x = bands_of((3.0, 0.0, 1.0), frames) - 13.8
    stage = FeatureStandardize(per="clip", floor=floor)
    c, m = math.sqrt(frames), math.sqrt(frames * floor)
    radius = share * c
    r = r_of(stage, x, radius)
    assert r == pytest.approx(m * math.sin(2 * math.asin(share / 2)), rel=1e-6)
    delta = torch.zeros_like(x)
    delta[:, 1] = r * RemoveOffset()(noise(frames)) / RemoveOffset()(noise(frames)).norm()
    reached = moved(stage, x, delta)
    assert reached == pytest.approx(c * r / math.hypot(r, m), rel=1e-6)
    assert 1 - 0.65 * share**2 - 2e-6 <= reached / radius <= 1


@pytest.mark.parametrize("share", [0.2, 0.9, 1.2, 1.41])
def test_no_division_of_a_perturbation_among_bands_is_worse_than_the_least_band(share):
    """Σ d_m², d_m = 2·sin(½·arcsin(ρ_m/ν_m)) with c = 1, over a fine grid of Σρ_m² = r²."""
    levels = np.array([0.4, 0.41, 1.0])
    r = 0.4 * math.sin(2 * math.asin(share / 2))
    one, two = np.meshgrid(np.linspace(0, 1, 401), np.linspace(0, 1, 401))
    parts = np.stack([one, two, 1 - one - two])[:, one + two <= 1] * r * r
    angle = np.arcsin(np.sqrt(parts.clip(0)) / levels[:, None])
    worst = np.sqrt((4 * np.sin(angle / 2) ** 2).sum(axis=0))
    assert worst.max() == pytest.approx(share, rel=1e-12)
    assert parts[:, worst.argmax()] == pytest.approx([r * r, 0, 0])


def test_bands_have_a_limit_until_all_spheres_are_crossed():
    x = bands_of((3.0, 0.4, 1.0), 24)
    stage = FeatureStandardize(per="clip", floor=1e-10)
    for share in (1.4143, 1.9, 2.0001, 3.4):
        assert r_of(stage, x, share * math.sqrt(24)) == pytest.approx(0.4, rel=1e-6)
    assert r_of(stage, x, 2 * math.sqrt(3 * 24) * (1 + 1e-6)) == math.inf
    turned = x * torch.tensor([0.0, 2.0001, 0.0]).double()[:, None]
    assert moved(stage, x, -turned) == pytest.approx(2 * math.sqrt(24))  # for 0.4 and a little: 2c at once


@pytest.mark.parametrize("ratio", RATIOS[1:])
@pytest.mark.parametrize("offset", [0.0, -13.8, 1e3])
def test_bands_agree_with_exact_arithmetic_and_never_exceed_it(ratio, offset):
    frames, floor = 12, 1e-5
    x = bands_of((0.5, 0.002, 4.0), frames) + offset
    c = mp.sqrt(frames)
    radius = float(2 * c * mp.mpf(ratio))
    lengths = [mp.sqrt(exact_deviation(band) ** 2 + frames * mp.mpf(floor)) for band in x[0]]
    truth = min(exact_sphere(v, min(radius, 1.9 * float(c)), c) for v in lengths)
    stage = FeatureStandardize(per="clip", floor=floor)
    claimed = r_of(stage, x, radius)
    # About 1e3 the rounding of x itself is part of the deviation: allow for it below, not above.
    charged = 1.1 * float(stage.rounding(float(x.abs().max()), x.numel())) / radius
    # Near √2·c the radius is flat in R, and below it steeper than in proportion, never fourfold.
    assert truth * (1 - mp.mpf(1e-9 if offset else 3e-12) - 4 * charged) <= claimed <= truth


# --- peak --------------------------------------------------------------------------------------------


def exact_peak(x: Tensor, radius: float, target: float):
    """The radius of the closed form, to 50 digits."""
    sizes = sorted((abs(v) for v in exact(x)), reverse=True)
    others = exact_norm(sizes[1:]) / sizes[0]
    goal = mp.mpf(radius) / mp.mpf(target)
    return sizes[0] * goal / mp.sqrt(1 + (others + goal) ** 2)


@pytest.mark.parametrize("target", [0.05, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1.0, 1e100])
@pytest.mark.parametrize("d", [1, 2, 9, 400])
def test_peak_agrees_with_exact_arithmetic_and_never_exceeds_it(target, scale, d):
    for x in (scale * noise(d), scale * torch.eye(1, d, dtype=torch.float64), scale * noise(d).sign()):
        for radius in (1e-12, 1e-3, 0.5, 1.0, 7.0, 1e6):
            assert_just_inside(r_of(PeakNormalize(target), x, radius), exact_peak(x, radius, target))


def lowered_peak(x: Tensor, radius: float, target: float) -> Tensor:
    """Return the δ that attains the radius: the image's other samples raised, on the ray nearest to x."""
    unit = x / x.abs().max()
    others = unit * (unit.abs() < 1)
    goal = radius / target
    image = unit + others * (goal / float(others.norm()))
    assert float(image.abs().max()) == 1.0
    nearest = image * float((unit * image).sum() / image.square().sum())
    return nearest * float(x.abs().max()) - x


@pytest.mark.parametrize("target", [0.5, 1.0])
@pytest.mark.parametrize("share", [1e-6, 1e-3, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("d", [2, 16, 4000])
def test_peak_radius_is_attained(target, share, d):
    """share: of the R from which the other samples would rise above the peak."""
    x = 0.3 * noise(d, 2).clamp(-2, 2)
    x[0, d // 2] = -0.9
    quiet = x.abs()[x.abs() < 0.9]
    radius = target * share * float(quiet.norm() / 0.9) * (0.9 / float(quiet.max()) - 1) * (1 - 1e-9)
    delta = lowered_peak(x, radius, target)
    stage = PeakNormalize(target)
    assert float(delta.norm()) == pytest.approx(r_of(stage, x, radius), rel=1e-9)
    assert moved(stage, x, delta) / radius == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0])
def test_the_peak_radius_of_a_spike_is_attained(radius):
    x = row(0.0, -0.4, 0.0)
    image = row(radius, -1.0, 0.0)
    nearest = image * float(0.4 / image.square().sum())
    assert float((nearest - x).norm()) == pytest.approx(r_of(PeakNormalize(), x, radius), rel=1e-9)
    assert moved(PeakNormalize(), x, nearest - x) == pytest.approx(radius, rel=1e-9)


@pytest.mark.parametrize("radius", [0.01, 0.3, 0.8, 1.5, 2.2])
@pytest.mark.parametrize("second", [0.0, 0.2, 0.7, 0.95, 1.0])
def test_peak_against_every_image_of_two_samples(radius, second):
    """The nearest point of each ray whose image is at least R away, ray by ray round the square."""
    x = np.array([1.0, second])
    t = np.linspace(-1, 1, 20_001)
    one = np.ones_like(t)
    w = np.concatenate([np.stack(s, axis=1) for s in ((one, t), (-one, t), (t, one), (t, -one))])
    w = w[np.linalg.norm(w - x, axis=1) >= radius]
    assert len(w) > 0
    along = np.maximum(w @ x, 0) / (w * w).sum(axis=1)
    nearest = np.linalg.norm(along[:, None] * w - x, axis=1).min()
    claimed = r_of(PeakNormalize(), row(1.0, second), radius)
    assert claimed <= nearest
    if second + radius < 0.999:  # the other sample has room to rise
        assert nearest <= claimed + 1e-4


# --- linear stages: dense matrices -------------------------------------------------------------------


def dense(stage: Stage, samples: int) -> Tensor:
    """Return the matrix A with stage(x) = A·x."""
    return stage(torch.eye(samples, dtype=torch.float64)).T


def sinc_matrix(old: int, new: int, zeros: int, rolloff: float, samples: int) -> np.ndarray:
    """Windowed-sinc resampling written out sample by sample, zeros outside the clip."""
    length = -(-samples * new // old)
    cutoff = min(old, new) * rolloff
    reach = math.ceil(zeros * old / cutoff)
    out = np.zeros((length, samples))
    for i in range(length):
        frame, phase = divmod(i, new)
        taps = np.arange(frame * old - reach, frame * old + reach + old)
        t = np.clip(((taps - frame * old) / old - phase / new) * cutoff, -zeros, zeros)
        weights = np.sinc(t) * np.cos(t * math.pi / zeros / 2) ** 2
        weights /= weights.sum()
        inside = (taps >= 0) & (taps < samples)
        out[i, taps[inside]] = weights[inside]
    return out


RATES = [(2, 1), (1, 2), (3, 2), (2, 3), (441, 160), (160, 441), (7, 5), (1, 4), (5, 1)]


@pytest.mark.parametrize(("old", "new"), RATES)
@pytest.mark.parametrize(("zeros", "rolloff"), [(24, 0.945), (6, 0.9), (1, 1.0), (3, 0.3)])
def test_resampling_norm_bounds_the_dense_matrix(old, new, zeros, rolloff):
    stage = Resample(new, source_rate=old, zeros=zeros, rolloff=rolloff)
    bound = stage.operator_norm()
    last = 0.0
    for samples in (1, 2, 5, 16, 17, 64, 130):
        matrix = dense(stage, samples)
        np.testing.assert_allclose(matrix.numpy(), sinc_matrix(old, new, zeros, rolloff, samples), atol=1e-13)
        true = float(torch.linalg.matrix_norm(matrix, 2))
        assert last * (1 - 1e-12) <= true <= bound  # a longer clip holds the shorter one
        last = true
        assert r_of(stage, noise(samples), 0.3) == pytest.approx(0.3 / bound, rel=1e-11)


# (old, new): the bound over the norm of a dense matrix of so many samples.
TIGHT = {
    (1, 2): (400, 1.0010),
    (2, 1): (600, 1.0010),
    (3, 1): (600, 1.0020),
    (3, 2): (600, 1.0010),
    (147, 160): (600, 1.0010),
    (441, 160): (900, 1.0010),
    (441, 320): (600, 1.0010),
}


@pytest.mark.parametrize(("old", "new"), TIGHT)
def test_resampling_norm_is_nearly_attained(old, new):
    stage = Resample(new, source_rate=old)
    samples, most = TIGHT[old, new]
    true = float(torch.linalg.matrix_norm(dense(stage, samples), 2))
    assert 1 <= stage.operator_norm() / true <= most
    assert true == pytest.approx(math.sqrt(new / old), rel=0.007)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 2), (441, 160), (7, 5)])
@pytest.mark.parametrize(("zeros", "rolloff"), [(24, 0.945), (1, 1.0)])
def test_the_supremum_over_frequency_lies_below_the_bound_of_a_grid(old, new, zeros, rolloff):
    """A(ω) written out tap by tap, at frequencies that are on no grid, and Schur's test above both."""
    stage = Resample(new, source_rate=old, zeros=zeros, rolloff=rolloff)
    reach = math.ceil(zeros * old / (min(old, new) * rolloff))
    matrix = sinc_matrix(old, new, zeros, rolloff, (2 * (reach // old + 2) + 1) * old)
    middle = reach // old + 2
    block = matrix[middle * new : (middle + 1) * new].reshape(new, -1, old)
    shift = np.arange(block.shape[1]) - middle
    sup = 0.0
    for omega in np.random.default_rng(0).uniform(0, math.pi, 12 if old > 100 else 600):
        symbol = np.tensordot(block, np.exp(1j * omega * shift), axes=(1, 0))
        sup = max(sup, float(np.linalg.norm(symbol, 2)))
    assert sup <= stage.operator_norm() <= sup * 1.002
    schur = math.sqrt(np.abs(block).sum((1, 2)).max() * np.abs(block).sum((0, 1)).max())
    assert stage.operator_norm() <= schur * (1 + 1e-11)


@pytest.mark.parametrize("degree", [1, 2, 5, 12])
def test_a_non_negative_trigonometric_polynomial_falls_no_faster_than_a_cosine(degree):
    """The lemma behind the grid: p(θ* + t) ≥ p(θ*)·cos²(Dt/2) for |t| ≤ π/D, with equality for cos²."""
    t = np.linspace(-math.pi / degree, math.pi / degree, 401)
    rng = np.random.default_rng(degree)
    theta = np.linspace(0, 2 * math.pi, 5001)
    powers = np.arange(degree + 1)
    for c in (*rng.normal(size=(12, degree + 1)), np.eye(degree + 1)[0] + np.eye(degree + 1)[degree]):

        def p(at: np.ndarray, c: np.ndarray = c) -> np.ndarray:
            return np.abs(np.exp(1j * np.outer(at, powers)) @ c) ** 2

        coarse = theta[p(theta).argmax()]
        near = coarse + np.linspace(-2e-3, 2e-3, 4001)
        top = near[p(near).argmax()]
        highest = float(p(np.array([top]))[0])
        assert (p(top + t) - highest * np.cos(degree * t / 2) ** 2).min() >= -1e-7 * highest
    assert np.allclose(p(t), 4 * np.cos(degree * t / 2) ** 2)  # the last: |1 + e^{iDθ}|²


def test_a_symbol_too_large_to_bound_falls_back_on_schur():
    stage = Resample(1501, source_rate=1500, zeros=1, rolloff=1.0)
    matrix = np.abs(sinc_matrix(1500, 1501, 1, 1.0, 12))
    assert stage.operator_norm() >= math.sqrt(matrix.sum(0).max() * matrix.sum(1).max())
    assert stage.operator_norm() < 1.01


def test_resampling_to_the_same_rate_is_the_identity():
    stage = Resample(16_000, source_rate=16_000)
    assert stage.operator_norm() == 1.0
    assert r_of(stage, noise(9), 0.3) == 0.3


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channel_average_is_attained(channels):
    x = torch.randn(1, channels, 6, dtype=torch.float64)
    r = r_of(Mono(), x, 0.3)
    assert r == pytest.approx(0.3 * math.sqrt(channels), rel=1e-11)
    same = torch.ones_like(x) * (r / math.sqrt(x.numel()))
    assert moved(Mono(), x, same) / 0.3 == pytest.approx(1.0, abs=1e-9)
    assert r_of(Mono(), noise(6), 0.3) == 0.3


@pytest.mark.parametrize("place", ["start", "center"])
@pytest.mark.parametrize(("samples", "length"), list(itertools.product([1, 4, 5, 9], [1, 2, 5, 8, 9, 14])))
def test_fit_keeps_or_drops_whole_samples(samples, length, place):
    stage = Fit(samples=length, place=place)
    matrix = dense(stage, samples)
    assert matrix.shape == (length, samples)
    assert int(matrix.sum()) == int((matrix != 0).sum()) == min(samples, length)
    assert float(torch.linalg.matrix_norm(matrix, 2)) == 1.0
    rows, columns = matrix.nonzero(as_tuple=True)
    assert bool((rows.diff() == 1).all())
    assert bool((columns.diff() == 1).all())
    skipped = int(columns[0] if samples > length else rows[0])
    assert skipped == (0 if place == "start" else abs(samples - length) // 2)
    assert r_of(stage, noise(samples), 0.3) == 0.3
    kept = torch.zeros(1, samples, dtype=torch.float64)
    kept[0, columns[0]] = 0.3
    assert moved(stage, noise(samples), kept) == pytest.approx(0.3, rel=1e-12)


def test_projections_and_fixed_gains():
    projection = dense(RemoveOffset(), 9)
    torch.testing.assert_close(projection @ projection, projection)
    assert r_of(RemoveOffset(), noise(9), 0.3) == 0.3
    level = row(*[0.1] * 4, *[-0.1] * 4, 0.1 * 0) * (0.3 / math.sqrt(8 * 0.01))
    assert moved(RemoveOffset(), noise(9), level) == pytest.approx(0.3, rel=1e-12)
    assert r_of(Clip(-0.1, 0.2), noise(9), 0.3) == 0.3
    assert moved(Clip(-5, 5), noise(9), row(*[0.1] * 9)) == pytest.approx(0.3)
    for stage, gain in ((FixedGain(factor=-4.0), 4.0), (FixedGain(db=-20.0), 0.1)):
        assert r_of(stage, noise(9), 0.3) == pytest.approx(0.3 / gain, rel=1e-11)
        assert r_of(stage, noise(9), 0.3) <= 0.3 / gain
        assert moved(stage, noise(9), r_of(stage, noise(9), 0.3) * row(1.0, *[0.0] * 8)) == pytest.approx(0.3)
    bands = FeatureStandardize(mean=(0.0, 1.0), std=(0.25, 4.0))
    x = torch.randn(1, 2, 3, dtype=torch.float64)
    r = r_of(bands, x, 0.3)
    assert r == pytest.approx(0.3 * 0.25, rel=1e-11)
    hit = torch.zeros_like(x)
    hit[0, 0, 1] = r
    assert moved(bands, x, hit) / 0.3 == pytest.approx(1.0, abs=1e-9)


# --- quantisation ---------------------------------------------------------------------------------------


def exact_quantize_radius(x: float, step: Fraction, radius: float, top: int | None) -> Fraction:
    """One coordinate: the exact distance from x to the nearest y whose level is more than R away."""
    at = Fraction(x) / step

    def level(u: Fraction) -> int:
        k = round(u)
        return k if top is None else max(-top, min(top - 1, k))

    here = level(at)
    best = None
    for k in range(here - 42, here + 42):
        if k != here and level(Fraction(k)) == k and abs(k - here) * step > Fraction(radius):
            edge = Fraction(2 * k - 1, 2) if k > here else Fraction(2 * k + 1, 2)
            gap = abs(edge - at) * step
            best = gap if best is None else min(best, gap)
    assert best is not None
    return best


@pytest.mark.parametrize("bits", [3, 5])
def test_quantise_never_exceeds_the_exact_radius_of_one_coordinate(bits):
    stage, step = Quantize(bits=bits), Fraction(1, 2 ** (bits - 1))
    points = [
        *np.linspace(-1.4, 1.4, 57),
        *(k / 32 for k in range(-40, 40)),
        0.125 - 1e-9,
        0.125 + 1e-9,
        -1.0,
        0.75,
    ]
    for x, share in itertools.product(points, (0.01, 0.49, 0.5, 0.99, 1.0, 1.3, 2.0, 3.5)):
        radius = share * float(step)
        if radius < 1.0:  # some level lies further off than R, wherever x is
            claimed = r_of(stage, row(float(x)), radius)
            assert Fraction(claimed) <= exact_quantize_radius(float(x), step, radius, 2 ** (bits - 1))


def test_quantise_on_the_lattice_is_attained():
    d, stage = 9, Quantize(bits=6)
    step = stage.delta
    x = (noise(d) * 4).round() * step
    for flipped in (1, 2, 4, 9):
        just_less = step * math.sqrt(flipped) * (1 - 1e-7)
        r = r_of(stage, x, just_less)
        assert r == pytest.approx(max(just_less / 2, just_less - step * math.sqrt(d) / 2), rel=1e-6)
        delta = torch.zeros_like(x)
        delta[0, :flipped] = -(step / 2) * (1 + 1e-9) * torch.sign(x[0, :flipped] + step / 4)
        assert moved(stage, x, delta) > just_less
        assert float(delta.norm()) == pytest.approx(r, rel=1e-6)
        assert float(delta.norm()) > r
    # Large R: every coordinate rounds away at once, and R − Δ√d/2 takes over.
    large = 20.5 * step * math.sqrt(d)
    assert r_of(Quantize(step=step), x, large) == pytest.approx(20 * step * math.sqrt(d), rel=1e-9)
    shift = 20.0 * step + step / 2 * (1 + 1e-9) - step / 2
    assert moved(Quantize(step=step), x, torch.full_like(x, shift + step / 2)) > large


def test_quantise_off_the_lattice():
    d, stage = 4, Quantize(step=0.5)
    x = torch.full((1, d), 0.25 - 1e-6, dtype=torch.float64)
    radius = 5.25 * 0.5 * math.sqrt(d)
    r = r_of(stage, x, radius)
    assert r == pytest.approx(radius - 0.5 * (1 - 2e-6) * math.sqrt(d), rel=1e-9)
    # The claim is near what is possible: the image moves by R − Δ√d + (almost) Δ√d when edges are met at both ends.
    assert moved(stage, x, torch.full_like(x, 2 * 0.5 + 2e-6)) == pytest.approx(3 * 0.5 * math.sqrt(d))
    assert float(torch.full_like(x, 2 * 0.5 + 2e-6).norm()) == pytest.approx(2 * 0.5 * math.sqrt(d), rel=1e-5)
    assert r_of(stage, x, 0.5) == pytest.approx(1e-6, rel=1e-6)
    assert r_of(stage, x, 0.5) < 1e-6


@pytest.mark.parametrize("share", [1.5, 2.0, 3.0])
def test_quantise_spares_little_of_a_clip_between_the_steps(share):
    """Samples anywhere between two steps: moved whole steps, towards their near edge, where that is cheapest."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.uniform(-100, 100, (1, 2000)))
    offset = x - x.round()
    way = torch.where(offset < 0, -1.0, 1.0)
    radius = share * math.sqrt(x.numel())
    r = r_of(Quantize(step=1.0), x, radius)
    assert r > radius - 0.77 * math.sqrt(x.numel())  # R − Δ√d would be the claim for the worst clip
    cheapest = math.inf
    for price in np.geomspace(1.01, 20, 300):
        a = 0.5 + offset.abs()
        steps = torch.stack([torch.floor(price * a / (price - 1)) + k for k in (-1, 0, 1)]).clamp(min=0)
        profit = steps.square() - price * torch.where(steps > 0, steps - a, 0.0).square()
        best = steps.gather(0, profit.argmax(dim=0, keepdim=True))[0]
        if float(best.norm()) > radius:
            delta = way * torch.where(best > 0, (best - a) * (1 + 1e-9) + 1e-9, 0.0)
            assert moved(Quantize(step=1.0), x, delta) > radius
            cheapest = min(cheapest, float(delta.norm()))
    assert r < cheapest < 1.06 * r


@pytest.mark.parametrize("d", [1, 3])
def test_quantise_against_every_move_of_few_samples(d):
    """The exact radius: the cheapest choice of whole steps that is longer than R."""
    rng = np.random.default_rng(d)
    for _ in range(60):
        x = rng.uniform(-3, 3, d)
        if rng.random() < 0.3:
            x = np.round(x)
        a = 0.5 + np.abs(x - np.round(x))
        radius = float(rng.uniform(0.05, 4))
        steps = np.array(list(itertools.product(range(8), repeat=d)))
        cost = np.linalg.norm(np.where(steps > 0, steps - a, 0.0), axis=1)
        least = cost[np.linalg.norm(steps, axis=1) > radius].min()
        assert r_of(Quantize(step=1.0), row(*x), radius) <= least


def test_quantise_on_an_edge_claims_nothing_for_a_small_radius():
    stage = Quantize(step=0.5)
    x = row(0.25, 0.1)
    assert r_of(stage, x, 0.5) == 0.0
    assert r_of(stage, x, 0.6) == 0.0
    assert r_of(stage, x, 1.0) == pytest.approx(1.0 - 0.5 * math.hypot(1.0, 0.7))


def test_saturated_samples_keep_the_plain_bound():
    stage = Quantize(bits=4)
    x = row(1.7, -3.06, 0.5)
    assert r_of(stage, x, 1e-3) == pytest.approx(
        0.0025, rel=1e-6
    )  # −3.06 is 0.0025 from an edge, moot or not
    assert moved(stage, x, row(-0.5, 1.9, 0.0)) == 0.0


# --- the model hears float32 -----------------------------------------------------------------------------


def heard_distance(v: Tensor, w: Tensor) -> float:
    return float((w.float().double() - v.float().double()).norm())


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-6, 1.0, 1e5])
@pytest.mark.parametrize("d", [1, 50])
def test_rounding_allowance_holds(scale, d):
    rng = torch.Generator().manual_seed(d)
    for trial in range(60):
        v = scale * torch.randn(d, generator=rng, dtype=torch.float64)
        if trial % 2:  # just off the midpoint of two float32 numbers
            v = v.float()
            v = (v.double() + torch.nextafter(v, torch.full_like(v, math.inf)).double()) / 2
            v = v - 1e-3 * (v - v.float().double()).abs()
        delta = torch.randn(d, generator=rng, dtype=torch.float64)
        radius = scale * 10.0 ** float(torch.randint(-9, 2, (1,), generator=rng))
        delta = delta / delta.norm() * radius
        radius = float(((v + delta) - v).norm())
        assert heard_distance(v, v + delta) <= radius + rounding_allowance(v, radius)


def test_rounding_allowance_is_needed_and_nearly_attained():
    # 1 + 2⁻²⁴ is the number that rounding moves furthest for its size; down at v, up at v′.
    v = torch.full((100,), 1 + 2.0**-24 - 2.0**-40, dtype=torch.float64)
    w = torch.full((100,), 1 + 2.0**-24 + 2.0**-40, dtype=torch.float64)
    radius = float((w - v).norm())
    extra = heard_distance(v, w) - radius
    allowance = rounding_allowance(v, radius)
    assert 0.999 * allowance < extra <= allowance


def test_carrying_reduces_the_radius_before_the_first_stage():
    x = 0.1 * noise(16)[0]
    spaces = (
        Space("file", "waveform", (16,)),
        Space("loud", "waveform", (16,)),
        Space("loud", "waveform", (16,)),
    )
    route = Route((FixedGain(factor=4.0), GaussianNoise(1.0)), spaces, 1)
    carried = carry(route, [x, 4 * x], 0.5)
    rounded = 0.5 - rounding_allowance(4 * x, 0.5)
    assert [step.radius for step in carried.chain] == pytest.approx([0.5, rounded, rounded / 4], rel=1e-11)
    assert carried.radius == carried.chain[-1].radius <= rounded / 4
    assert carry(route, [x, 4 * x], 1e-9).radius == 0.0  # less than rounding alone: nothing is left
    assert carry(route, [x, 4 * x], 0.5, "object").radius == 0.5


# --- gaps -----------------------------------------------------------------------------------------------


def test_edges_of_a_step_that_is_no_power_of_two():
    stage = Quantize(step=0.1)
    x, y = row(0.450000000000022), row(0.45000000000000007)
    r = r_of(stage, x, 1e-4)
    assert float((x - y).abs()) > r or moved(stage, x, y - x) <= 1e-4


def test_lattice_of_a_step_that_is_no_power_of_two():
    stage, radius = Quantize(step=1e-9), 9.99999860697766e-10
    x, y = row(0.755910811), row(0.7559108105000001)
    r = r_of(stage, x, radius)
    assert float((x - y).abs()) > r or moved(stage, x, y - x) <= radius * (1 + 1e-9)


def test_edges_leave_room_for_rounding_above():
    gain, stage = FixedGain(factor=1 / 3), Quantize(bits=16)
    x, y = row(0.7921600341796937), row(0.7921600341796876)
    r = r_of(gain, x, r_of(stage, gain(x), 1e-9))
    assert float((x - y).abs()) > r or float((stage(gain(x)) - stage(gain(y))).norm()) == 0


@pytest.mark.parametrize("level", [1e-15, 1e-13, 1e-12])
def test_a_large_offset_does_not_lengthen_the_clip(level):
    worst = 0.0
    for seed in range(20):
        d = (3, 10, 100)[seed % 3]
        x = 0.7 + 0.01 * seed + level * noise(d, seed)
        radius = 0.5 * math.sqrt(d)
        truth = exact_sphere(exact_deviation(x), radius, mp.sqrt(d))
        worst = max(worst, float(mp.mpf(r_of(Standardize(), x, radius)) / truth))
    assert worst <= 1


@pytest.mark.parametrize("d", [1_000_000])
def test_the_norm_of_a_long_clip_is_not_rounded_beyond_the_truth(d):
    """One value repeated: a sum taken one by one drifts by more than the 10⁻¹² that a radius is lowered by."""
    x = torch.full((1, d), 0.1, dtype=torch.float64)
    truth = exact_sphere(mp.mpf(0.1) * mp.sqrt(d), 1.0, mp.sqrt(d))
    assert_just_inside(r_of(RmsNormalize(), x, 1.0), truth)


@pytest.mark.parametrize(("d", "value"), [(3, 0.1), (1000, 0.7)])
def test_a_constant_clip_has_no_deviation(d, value):
    with pytest.raises(InputError, match="silent"):
        Standardize()(torch.full((1, d), value, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1.6e-162, 1e200])
def test_nothing_is_claimed_where_squares_leave_float64(scale):
    x = row(scale, 0.0, 0.0, 0.0)
    assert r_of(RmsNormalize(), x, 1.0) <= float(exact_sphere(exact_norm(exact(x)), 1.0, mp.mpf(2)))


@pytest.mark.parametrize(
    ("x", "radius", "most"),
    [
        (row(1.6e-162, 0.0), 1.0, 1.6e-162 / ROOT2),
        (row(1e200, 0.0), 1.0, 1e200 / ROOT2),
        (row(0.0, 0.0), 1.0, 0.0),
        (row(0.5, 0.1), math.inf, math.inf),
    ],
)
def test_peak_at_the_ends_of_float64(x, radius, most):
    assert 0 <= r_of(PeakNormalize(), x, radius) <= most


def test_a_file_finer_than_float32_is_rounded_too():
    x = torch.tensor([0.75 + 2.0**-25 - 2.0**-31], dtype=torch.float64)
    y = torch.tensor([0.75 + 2.0**-23 + 2.0**-25 + 2.0**-31], dtype=torch.float64)
    space = Space("file", "waveform", (1,))
    radius = 2.0**-23 + 2.0**-30
    carried = carry(Route((GaussianNoise(1.0),), (space, space), 0), [x], radius, "file")
    assert float((y - x).norm()) > carried.radius or heard_distance(x, y) <= radius
