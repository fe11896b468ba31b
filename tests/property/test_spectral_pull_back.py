"""Do the radii hold that are carried through spectrogram, log-mel and MFCC? Searched for, option by option.

The attack is the generalised power iteration δ ← r·∇/‖∇‖, ∇ the gradient of ‖s(x + δ) − s(x)‖², from random
and structured starts. Negative controls: bounds that are too large by a known mistake, which it breaks.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from soundcert.pipeline import Route
from soundcert.spaces import Space
from soundcert.stages import FeatureStandardize, GaussianNoise, LogMel, Mfcc, Spectrogram, Stage
from soundcert.stages import spectral_bound as sb
from soundcert.stages.dual import Compression, largest_budget
from soundcert.stages.mel import filter_key, mel_filters
from soundcert.stages.spectra import stft
from soundcert.transport import carry

LENGTH = 400
SMALL = LogMel(n_mels=8, n_fft=64, hop=20, floor=1.0)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the search --------------------------------------------------------------------------------------


def starts(x: Tensor, rng: torch.Generator) -> Tensor:
    """Return candidate δ of any length about one row, `(k, samples)`."""
    d = x.shape[-1]
    free = torch.randn(4, d, generator=rng, dtype=torch.float64)
    time = torch.arange(d, dtype=torch.float64)
    edge = torch.exp(-time / 10) * torch.randn(2, d, generator=rng, dtype=torch.float64)
    middle = torch.zeros(2, d, dtype=torch.float64)
    middle[:, d // 2 : d // 2 + 40] = torch.randn(2, 40, generator=rng, dtype=torch.float64)[:, : d - d // 2]
    one = torch.zeros(2, d, dtype=torch.float64)
    one[0, 0] = one[1, d // 2] = 1.0
    loud = x + 1e-3 * free[:1]
    waves = torch.cos(math.pi * time * torch.tensor([[0.0], [1.0], [0.1]], dtype=torch.float64))
    return torch.cat([free, edge, edge.flip(1), middle, one, loud, -loud, waves])


def furthest(stage: Stage, x: Tensor, r: float, *, steps: int = 12, seed: int = 0) -> float:
    """Return the largest ‖s(x + δ) − s(x)‖ found with ‖δ‖ = r; x is one row, `(1, samples)`."""
    rng = torch.Generator().manual_seed(seed)
    home = stage(x)

    def moved(delta: Tensor) -> Tensor:
        return torch.linalg.vector_norm((stage(x + delta) - home).flatten(1), dim=1)

    delta = starts(x, rng)
    best = 0.0
    for _ in range(steps):
        delta = (delta * (r / torch.linalg.vector_norm(delta, dim=1, keepdim=True))).requires_grad_()
        distance = moved(delta)
        best = max(best, float(distance.detach().max()))
        (slope,) = torch.autograd.grad(distance.square().sum(), delta)
        flat = torch.linalg.vector_norm(slope, dim=1, keepdim=True) == 0
        delta = torch.where(flat, torch.randn(slope.shape, generator=rng, dtype=torch.float64), slope)
    return best


def signal(kind: str, length: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, length, generator=rng, dtype=torch.float64)
    time = torch.arange(length, dtype=torch.float64)
    tone = torch.sin(0.3 * time)[None]
    return {
        "noise": noise,
        "silent": torch.zeros_like(noise),
        "half silent": noise * (time > length / 2),
        "tone": tone + 1e-3 * noise,
        "full scale": noise.sign(),
        "quiet": 1e-4 * noise,
        "offset": 1.0 + 0.01 * noise,
    }[kind]


KINDS = ("noise", "silent", "half silent", "tone", "full scale", "quiet", "offset")


def check(stage: Stage, x: Tensor, radius: float, seed: int = 0) -> float:
    """Assert that nothing is found beyond the pulled-back radius; return (reached distance)/R."""
    pulled = stage.pull_back(x, torch.tensor([radius], dtype=torch.float64))
    assert pulled is not None
    r = float(pulled[0])
    assert r >= 0
    if r == 0:
        return 0.0
    reached = furthest(stage, x, r, seed=seed) / radius
    assert reached <= 1 + 1e-9, (stage, radius, r, reached)
    return reached


OPTIONS = [
    dict(zip(("power", "floor_mode", "log", "pad_mode", "mel_norm"), values, strict=True))
    for values in itertools.product(
        (1.0, 2.0), ("add", "max"), ("ln", "db"), ("constant", "reflect", "none"), (None, "slaney")
    )
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_log_mel_holds_under_every_option(options):
    for number, (kind, floor) in enumerate(itertools.product(("noise", "half silent", "tone"), (1e-4, 1.0))):
        stage = replace(SMALL, floor=floor, **options)
        radius = 0.5 if options["log"] == "ln" else 3.0
        check(stage, signal(kind, LENGTH, number), radius, seed=number)


ANYTHING = {
    "kind": st.sampled_from(KINDS),
    "gain": st.sampled_from([1e-6, 0.1, 1.0, 30.0]),
    "floor": st.sampled_from([1e-10, 1e-5, 1e-2, 1.0, 100.0]),
    "radius": st.sampled_from([1e-3, 0.1, 1.0, 4.0]),
    "n_fft": st.sampled_from([16, 31, 50, 64]),
    "hop": st.integers(3, 80),
    "short": st.booleans(),
    "length": st.integers(70, 300),
    "n_mels": st.integers(1, 12),
    "power": st.sampled_from([1.0, 2.0]),
    "pad": st.sampled_from(["constant", "reflect", "none"]),
    "window": st.sampled_from(["hann", "hamming"]),
    "scale": st.sampled_from(["htk", "slaney"]),
}


def any_log_mel(
    kind, gain, floor, radius, n_fft, hop, short, length, n_mels, power, pad, window, scale, seed=3
) -> None:
    stage = LogMel(
        n_mels=n_mels, n_fft=n_fft, hop=hop, win_length=n_fft // 2 if short else None, power=power,
        floor=floor, pad_mode=pad, window=window, mel_scale=scale,
    )  # fmt: skip
    check(stage, gain * signal(kind, length, 7), radius, seed=seed)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(**ANYTHING)
def test_log_mel_holds_over_shapes_gains_and_floors(**drawn):
    any_log_mel(**drawn)


@pytest.mark.long
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(**ANYTHING, seed=st.integers(0, 1000))
def test_log_mel_holds_in_a_long_search(**drawn):
    any_log_mel(**drawn)


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("pad", ["constant", "reflect", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_spectrogram_holds(power, pad, kind):
    stage = Spectrogram(n_fft=32, hop=12, power=power, pad_mode=pad)
    check(stage, signal(kind, 200, 1), 2.0)


@pytest.mark.parametrize("lifter", [0.0, 3.0, 22.0])
@pytest.mark.parametrize("log", ["ln", "db"])
@pytest.mark.parametrize("kind", ["noise", "half silent", "quiet"])
def test_mfcc_holds(lifter, log, kind):
    stage = Mfcc(n_mfcc=6, n_mels=8, n_fft=64, hop=20, floor=0.1, log=log, lifter=lifter)
    check(stage, signal(kind, LENGTH, 2), 1.0)


@pytest.mark.parametrize("front", [SMALL, Spectrogram(n_fft=14, hop=6)])
def test_fixed_standardisation_counts_each_band_in_its_own_deviation(front):
    rng = np.random.default_rng(0)
    after = FeatureStandardize(mean=0.3, std=tuple(rng.uniform(0.2, 3.0, 8)))
    x = signal("noise", LENGTH, 5)
    radius = torch.tensor([1.0], dtype=torch.float64)
    together = front.pull_back_through(after, x, radius)
    one_by_one = front.pull_back(x, after.pull_back(front(x), radius))
    assert float(together) >= float(one_by_one)

    class Both(Stage):
        def __call__(self, y: Tensor) -> Tensor:
            return after(front(y))

    assert furthest(Both(), x, float(together)) <= 1 + 1e-9
    assert front.pull_back_through(FeatureStandardize(per="clip"), x, radius) is None

    # The chain takes both at once.
    space = Space("file", "waveform", (LENGTH,), 16_000)
    spaces = (space, front.space(space), after.space(front.space(space)))
    points = [x[0], front(x)[0], after(front(x))[0]]
    carried = carry(Route((front, after, GaussianNoise(1.0)), (*spaces, spaces[-1]), 2), points, 1.0)
    assert carried.radius == pytest.approx(float(together), rel=1e-4)
    assert "and feature_standardize" in carried.chain[-1].stage


def test_rows_are_bounded_each_for_itself():
    x = torch.cat([signal(kind, LENGTH, 0) for kind in KINDS])
    radii = torch.linspace(0.1, 2.0, len(x), dtype=torch.float64)
    together = SMALL.pull_back(x, radii)
    alone = torch.cat([SMALL.pull_back(x[i : i + 1], radii[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)


def test_the_bound_is_nearly_attained():
    """On noise at a floor near its own level, the attack comes within a fifth of the bound."""
    ratios = []
    for seed in range(4):
        x = signal("noise", LENGTH, seed)
        stage = replace(SMALL, floor=10.0)
        ratios.append(check(stage, x, 0.3, seed=seed))
    assert np.median(ratios) > 0.8, ratios


# --- negative controls ---------------------------------------------------------------------------------


def test_the_interior_frame_bound_is_broken_at_a_reflected_edge():
    """Reflect padding copies the first samples: the interior's bound ignores that, and an edge attack shows it."""
    stage = replace(SMALL, pad_mode="reflect", floor=10.0)
    x = 0.3 * signal("noise", LENGTH, 3)  # bands near the square root of the floor
    window = sb.frame_window(stage, torch.float64, torch.device("cpu")).numpy()
    interior = 64 * max(np.square(window)[s :: stage.hop].sum() for s in range(stage.hop))
    honest = sb.bound_of(stage, LENGTH)
    assert honest > 1.8 * interior
    r = float(stage.pull_back(x, torch.tensor([0.5], dtype=torch.float64)))
    assert furthest(stage, x, r, steps=40) <= 0.5
    assert furthest(stage, x, r * math.sqrt(honest / interior), steps=40) > 0.55


def test_counting_the_half_twice_is_broken():
    """w_f goes with the two-sided frame bound; with a one-sided norm as well, √2 would be counted twice."""
    stage = replace(SMALL, floor=10.0)
    x = signal("noise", LENGTH, 3)
    r = float(stage.pull_back(x, torch.tensor([0.5], dtype=torch.float64)))
    assert furthest(stage, x, r * math.sqrt(2.0), steps=40) > 0.5


def test_the_power_formula_is_too_large_for_magnitudes():
    """Filtering magnitudes sums them; κ of the power formula would claim too much."""
    stage = replace(SMALL, power=1.0, floor=1.0, n_mels=3)
    x = 0.1 * signal("noise", LENGTH, 4)
    filters = mel_filters(*filter_key(stage))
    right = sb.even_weights(filters, 64, 1.0)[0]
    wrong = sb.even_weights(filters, 64, 2.0)[0]
    assert wrong > right
    r = float(stage.pull_back(x, torch.tensor([0.5], dtype=torch.float64)))
    assert furthest(stage, x, r * math.sqrt(wrong / right), steps=40) > 0.5


# --- the parts of the proof ------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", ["constant", "reflect", "none"])
@pytest.mark.parametrize(("n_fft", "hop", "win"), [(16, 5, None), (15, 4, None), (16, 16, 9), (12, 20, None)])
@pytest.mark.parametrize("length", [40, 57])
def test_the_frame_bound_is_the_largest_eigenvalue(pad, n_fft, hop, win, length):
    stage = Spectrogram(n_fft=n_fft, hop=hop, win_length=win, power=1.0, pad_mode=pad)
    eye = torch.eye(length, dtype=torch.float64)
    parts = torch.view_as_complex(stft(stage, eye)).numpy()  # (length, frames, bins)
    weights = 1 / sb.bin_weights(n_fft)
    rows = (parts * np.sqrt(weights)).reshape(length, -1)
    gram = (rows @ rows.conj().T).real
    assert np.linalg.eigvalsh(gram)[-1] == pytest.approx(sb.bound_of(stage, length), rel=1e-9)


@pytest.mark.parametrize("norm", [None, "slaney"])
@pytest.mark.parametrize("n_fft", [31, 64])
def test_band_weights_never_undercut_the_even_ones_and_keep_to_the_budget(norm, n_fft):
    stage = LogMel(n_mels=8, n_fft=n_fft, hop=20, mel_norm=norm)
    filters = mel_filters(*filter_key(stage))
    used = filters[filters.any(axis=1)]
    y = sb.band_weights(filter_key(stage), n_fft, 2.0)
    assert (y >= sb.even_weights(used, n_fft, 2.0) * (1 - 1e-7)).all()
    assert (sb.bin_weights(n_fft) * (y @ used)).max() <= 1
    if norm == "slaney":
        assert y.max() > 1.5 * y.min()


FORMS = [
    Compression(2, 1.0),
    Compression(2, 1.0, "max"),
    Compression(1, 0.5),
    Compression(1, 0.5, "max"),
    Compression(2, None),
    Compression(1, None),
]


def change(f: Compression, a: float, step: np.ndarray) -> np.ndarray:
    at = lambda b: f(torch.from_numpy(np.asarray(b, dtype=np.float64))).numpy()  # noqa: E731
    return np.maximum(at(a + step) - at(a), at(a) - at(np.maximum(a - step, 0)))


@pytest.mark.parametrize("f", FORMS, ids=str)
@pytest.mark.parametrize("a", [0.0, 0.3, 1.0, 5.0])
def test_one_coordinate_is_bounded_exactly(f, a):
    """With one coordinate the budget is that at which it changes by R."""
    for radius in (0.01, 0.5, 3.0):
        one = torch.ones(1, dtype=torch.float64)
        budget = largest_budget(f, a * one, 2.0 * one, 3.0 * one, radius)
        assert 3 * change(f, a, np.array([math.sqrt(budget / 2)]))[0] <= radius * (1 + 1e-9)
        assert 3 * change(f, a, np.array([1.02 * math.sqrt(budget / 2)]))[0] >= radius * (1 - 1e-3)


@pytest.mark.parametrize("f", FORMS, ids=str)
def test_no_division_of_the_budget_does_worse(f):
    """Brute force over three coordinates: all divisions of S change the features by at most R."""
    rng = np.random.default_rng(1)
    for radius in (0.2, 1.5):
        a, y, scale = rng.uniform(0, 3, 3), rng.uniform(0.3, 2, 3), rng.uniform(0.5, 2, 3)
        budget = largest_budget(f, *(torch.from_numpy(v) for v in (a, y, scale)), radius)
        share = rng.dirichlet([0.4] * 3, 20_000)
        steps = np.sqrt(share * budget / y)
        total = sum((scale[i] * change(f, a[i], steps[:, i])) ** 2 for i in range(3))
        assert total.max() <= radius**2 * (1 + 1e-9)
        # Weak duality leaves something where g is not concave; here never more than half of the budget.
        assert sum(
            (scale[i] * change(f, a[i], np.sqrt(2) * steps[:, i])) ** 2 for i in range(3)
        ).max() > radius**2 * (1 - 1e-9)


def test_the_linear_case_has_its_closed_form():
    rng = torch.Generator().manual_seed(0)
    a, y, scale = (torch.rand(50, generator=rng, dtype=torch.float64) + 0.1 for _ in range(3))
    got = largest_budget(Compression(1, None), a, y, scale, 2.0)
    assert got == pytest.approx(4.0 * float((y / scale.square()).min()), rel=2e-3)
    assert got <= 4.0 * float((y / scale.square()).min())
    x = signal("noise", LENGTH, 0)
    stage = Spectrogram(n_fft=64, hop=20, power=1.0)
    pulled = float(stage.pull_back(x, torch.tensor([1.0], dtype=torch.float64)))
    assert pulled == pytest.approx(1 / math.sqrt(sb.bound_of(stage, LENGTH)), rel=2e-3)


@pytest.mark.parametrize("stage", [SMALL, replace(SMALL, power=1.0), Spectrogram(n_fft=64, hop=20)])
def test_extremes_prove_nothing_wrong(stage):
    one = torch.tensor([1.0], dtype=torch.float64)
    for value in (1e200, math.inf, math.nan):
        x = torch.full((1, LENGTH), value, dtype=torch.float64)
        assert float(stage.pull_back(x, one)) == 0.0
    x = signal("noise", LENGTH, 0)
    assert float(stage.pull_back(x, 0 * one)) == 0.0
    assert float(stage.pull_back(x, 1e-12 * one)) >= 0.0
    tiny = float(stage.pull_back(x, 1e-4 * one))
    assert 0 < tiny < float(stage.pull_back(x, one))


def test_an_unlimited_radius_stays_so():
    assert (
        largest_budget(Compression(2, 1.0), *(torch.ones(2, dtype=torch.float64),) * 3, math.inf) == math.inf
    )


@pytest.mark.parametrize("radius", [1e-3, 0.1, 1.0, 4.0, 10.0, 16.0, 40.0])
@pytest.mark.parametrize("mode", ["add", "max"])
def test_a_larger_radius_proves_more_and_the_slope_alone_is_never_better(radius, mode):
    """At large R one coordinate alone may have e^R times the budget: a grid up to there once proved nothing."""
    for kind in ("noise", "half silent", "silent"):
        x = signal(kind, LENGTH, 0)
        stage = replace(SMALL, floor=1e-6, floor_mode=mode)
        r, more = (
            float(stage.pull_back(x, torch.tensor([value], dtype=torch.float64)))
            for value in (radius, 1.3 * radius)
        )
        slope = (
            radius
            / Compression(2, 1e-6, mode).lipschitz
            * math.sqrt(
                sb.even_weights(mel_filters(*filter_key(stage)), 64, 2.0)[0] / sb.bound_of(stage, LENGTH)
            )
        )
        assert 0 < r < more * (1 + 1e-3)
        assert r >= slope * (1 - 1e-6)
    # Silence in closed form: all coordinates are alike, so the budget is that of the steepest secant of g, or
    # that at which one coordinate alone changes by R, whichever is more.
    quiet = torch.zeros(1, LENGTH, dtype=torch.float64)
    r = float(stage.pull_back(quiet, torch.tensor([radius], dtype=torch.float64)))
    f = Compression(2, 1e-6, mode)
    y = float(sb.even_weights(mel_filters(*filter_key(stage)), 64, 2.0)[0])
    v = (
        1e-6
        * y
        * np.concatenate([np.logspace(-6, 2 * radius, 20_000), 1 + np.linspace(0, 3 * radius, 20_000)])
    )
    g = change(f, 0.0, np.sqrt(v / y)) ** 2
    within = g <= radius**2
    expected = radius**2 / (g[within] / v[within]).max()
    assert r**2 * sb.bound_of(stage, LENGTH) > 0.9 * expected
    if radius <= 16:  # beyond, all coordinates together do not reach R at the steepest secant
        assert r**2 * sb.bound_of(stage, LENGTH) <= expected


def test_features_that_depend_on_nothing_have_no_limit():
    one = torch.tensor([1.0], dtype=torch.float64)
    x = signal("noise", LENGTH, 0)
    for power in (1.0, 2.0):
        empty = LogMel(n_mels=2, n_fft=16, hop=8, f_max=50.0, power=power)
        assert not mel_filters(*filter_key(empty)).any()
        assert float(empty.pull_back(x, one)) == math.inf
    assert float(replace(SMALL, win_length=1).pull_back(x, one)) == math.inf
    assert float(SMALL.pull_back(x, one * math.nan)) == 0.0
    assert 0 < float(SMALL.pull_back(x, one * 1e160)) < math.inf
    assert 0 < float(replace(SMALL, power=1.0, floor=1e-6).pull_back(x, 500 * one)) < math.inf


def test_the_rounding_of_a_standardisation_is_charged():
    """Features far from zero lose digits when their mean is subtracted; a tiny R is then not all proven."""
    rng = torch.Generator().manual_seed(0)
    for stage in (FeatureStandardize(per="clip", floor=1e-12), FeatureStandardize(mean=1e9)):
        x = 100 + torch.randn(1, 4, 50, generator=rng, dtype=torch.float64) * 1e-3
        radius = torch.tensor([1e-6], dtype=torch.float64)
        r = float(stage.pull_back(x, radius))
        for _ in range(50):
            delta = torch.randn(x.shape, generator=rng, dtype=torch.float64)
            delta *= r / torch.linalg.vector_norm(delta)
            assert float(torch.linalg.vector_norm(stage(x + delta) - stage(x))) <= 1e-6 * (1 + 1e-9)
    assert float(FeatureStandardize(per="clip").pull_back(x, radius * math.nan)) == 0.0
