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
    # "add" keeps ‖x‖ although the image moves by ‖x‖/(‖x‖ + m) of that only: sound, not tight.
    summed = RmsNormalize(floor=2.0, floor_mode="add")
    assert moved(summed, x, tangent(x, r_of(RmsNormalize(), x, small))) / small == pytest.approx(
        1 / 3, rel=1e-4
    )


# --- peak --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["gauss", "spike", "flat"])
def test_peak_is_tight_to_first_order_and_as_stated(target, kind):
    x = noise(16, 2)
    if kind == "spike":
        x = row(*([0.0] * 15), -0.4)
    if kind == "flat":  # every sample near the peak: the worst crest factor, without a tie
        x = torch.sign(x) * (
            0.5 - 1e-3 * torch.rand(1, 16, generator=torch.Generator().manual_seed(0)).double()
        )
    m, n = float(x.abs().max()), float(x.norm())
    stage = PeakNormalize(target=target)
    for radius in (1e-6, 1e-2, 1.0, 50.0):
        stated = radius * m**2 / (radius * m + target * n)
        assert stated * (1 - 3e-12) <= r_of(stage, x, radius) <= stated
    # First order: ΔT = (p/m)(δ − x·δ_k/x_k); its worst δ is (z, −‖z‖²), z the rest of x over its peak.
    k = int(x.abs().argmax())
    z = x / x[0, k]
    worst = z.clone()
    worst[0, k] = -(float(z.norm()) ** 2 - 1)
    if kind == "spike":
        worst = torch.zeros_like(x)
        worst[0, 0] = 1.0
    radius = 1e-5
    ratios = [moved(stage, x, s * worst / worst.norm() * r_of(stage, x, radius)) / radius for s in (1, -1)]
    assert max(ratios) <= 1 + 1e-9
    assert max(ratios) == pytest.approx(1.0, abs=1e-3)


def test_peak_at_any_radius_spares_no_more_than_its_curvature():
    """A spike: lowering it by a and raising another sample by b moves the image to b/(1 − a)."""
    x = row(1.0, 0.0, 0.0)
    for radius in (0.1, 0.5, 2.0):
        r = r_of(PeakNormalize(), x, radius)
        furthest = max(
            moved(PeakNormalize(), x, r * row(-math.cos(t), math.sin(t), 0.0))
            for t in np.linspace(0, math.pi, 400)
        )
        # The optimum is tan(arcsin r) = r/√(1 − r²); the stated r has 1 − r in place of the root.
        assert furthest == pytest.approx(r / math.sqrt(1 - r * r), rel=1e-4)
        assert furthest <= radius


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
    largest = 0.0
    for samples in (1, 2, 5, 16, 17, 64, 130):
        matrix = dense(stage, samples)
        np.testing.assert_allclose(matrix.numpy(), sinc_matrix(old, new, zeros, rolloff, samples), atol=1e-13)
        true = float(torch.linalg.matrix_norm(matrix, 2))
        schur = math.sqrt(float(matrix.abs().sum(0).max()) * float(matrix.abs().sum(1).max()))
        assert true <= schur * (1 + 1e-12)
        assert schur <= bound
        largest = max(largest, schur)
        assert r_of(stage, noise(samples), 0.3) == pytest.approx(0.3 / bound, rel=1e-11)
    if max(old, new) < 10:  # 130 samples reach the interior: the bound is Schur's there, not a looser one
        reach = math.ceil(zeros * old / (min(old, new) * rolloff))
        if 2 * reach + old < 65:
            assert largest == pytest.approx(bound, rel=1e-11)


@pytest.mark.parametrize(("old", "new"), [(2, 1), (1, 2), (3, 2), (441, 160), (3, 1)])
def test_resampling_norm_is_not_wasteful(old, new):
    """The default filter's true norm is near √(new/old); Schur's bound stays within a factor of 3."""
    stage = Resample(new, source_rate=old)
    true = float(torch.linalg.matrix_norm(dense(stage, 300), 2))
    assert true == pytest.approx(math.sqrt(new / old), rel=0.05)
    assert stage.operator_norm() / true < 3


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


def test_projections_and_fixed_gains():
    projection = dense(RemoveOffset(), 9)
    torch.testing.assert_close(projection @ projection, projection)
    assert r_of(RemoveOffset(), noise(9), 0.3) == 0.3
    assert r_of(Clip(-0.1, 0.2), noise(9), 0.3) == 0.3
    assert moved(Clip(-5, 5), noise(9), row(*[0.1] * 9)) == pytest.approx(0.3)
    for stage, gain in ((FixedGain(factor=-4.0), 4.0), (FixedGain(db=-20.0), 0.1)):
        assert r_of(stage, noise(9), 0.3) == pytest.approx(0.3 / gain, rel=1e-11)
        assert r_of(stage, noise(9), 0.3) <= 0.3 / gain
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
    assert r == pytest.approx(radius - 0.5 * math.sqrt(d), rel=1e-9)
    # The claim is near what is possible: the image moves by R − Δ√d + (almost) Δ√d when edges are met at both ends.
    assert moved(stage, x, torch.full_like(x, 2 * 0.5 + 2e-6)) == pytest.approx(3 * 0.5 * math.sqrt(d))
    assert float(torch.full_like(x, 2 * 0.5 + 2e-6).norm()) == pytest.approx(2 * 0.5 * math.sqrt(d), rel=1e-5)
    assert r_of(stage, x, 0.5) == pytest.approx(1e-6, rel=1e-6)
    assert r_of(stage, x, 0.5) < 1e-6


def test_quantise_on_an_edge_claims_nothing_for_a_small_radius():
    stage = Quantize(step=0.5)
    x = row(0.25, 0.1)
    assert r_of(stage, x, 0.5) == 0.0
    assert r_of(stage, x, 0.7) == 0.0
    assert r_of(stage, x, 1.0) == pytest.approx(1.0 - 0.5 * ROOT2)


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
        (row(1.6e-162, 0.0), 1.0, 0.8e-162),
        (row(1e200, 0.0), 1.0, 0.5e200),
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
