"""Does `certify` keep its level? Repeated certifications, end to end, of classifiers whose truth is known.

A *violation* is a certificate that is false: its radius exceeds the distance at which the smoothed label
changes, or it names another label. All cases change along one direction u only, at signed distance t, so
the smoothed classifier is known exactly. Each certification has noise of its own: the clips of one truth
differ by a vector orthogonal to u, which changes the digest and nothing else.

The number of violations is judged by an exact binomial test against alpha, as in test_bounds_validity:
`assert_within` fails where so many would be seen less than once in a million runs. Truths are put where
the bound has no slack, so the share has to be *near* its level too, or the test could not see a bound
that is off.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import binom
from torch import Tensor, nn

import soundcert as sc
from soundcert import bounds
from soundcert.certificate import Certificate
from soundcert.certify import SmoothedClassifier
from soundcert.pipeline import Pipeline
from soundcert.stages import GaussianNoise

SIGMA = 0.25
N0, N = 11, 200
SURPRISE = 1e-6
# Coordinates reach the model in float32; truths are kept this much (in σ) below an edge.
HAIR = 1e-5


def direction(size: int) -> np.ndarray:
    u = np.random.default_rng(size).standard_normal(size)
    return u / np.linalg.norm(u)


class HalfSpace(nn.Module):
    """Class 0 where t > 0, class 1 elsewhere: linear, radius |t|."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("u", torch.from_numpy(direction(size)).float())
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        t = x @ self.u
        return torch.stack((t, -t), dim=1)


class Layers(HalfSpace):
    """Class 0 above `gap`, class 1 below −gap, and between them two classes by the sign of another value.

    A point at t has p_0 = Φ((t − gap)/σ) and p_1 = Φ((−gap − t)/σ). The label changes from 0 to 1 at t = 0,
    so the true radius t is exactly (σ/2)(Φ⁻¹(p_0) − Φ⁻¹(p_1)): the worst case of the two-class radius.
    """

    gap = 0.1 * SIGMA

    def __init__(self, size: int) -> None:
        super().__init__(size)
        v = np.random.default_rng(size + 1).standard_normal(size)
        v -= (v @ direction(size)) * direction(size)
        self.register_buffer("side", torch.from_numpy(v).float())

    def forward(self, x: Tensor) -> Tensor:
        t, side = x @ self.u, x @ self.side
        between = 10.0 * (t.abs() < self.gap)
        return torch.stack((t, -t, between * (side > 0), between * (side <= 0)), dim=1)


def clips(size: int, t: float, count: int, first: int) -> list[sc.Clip]:
    """Return clips at distance t, different from each other in directions that change nothing of it."""
    u = direction(size)
    out = []
    for index in range(first, first + count):
        w = np.random.default_rng([size, index]).standard_normal(size) * 0.1
        out.append(sc.Clip.from_array(t * u + w - (w @ u) * u, 16_000, f"clip {index}"))
    return out


def repeat(
    model: HalfSpace,
    t: float,
    repetitions: int,
    *,
    alpha: float,
    bound: bounds.BoundName = "one-sided",
    n: int = N,
) -> list[Certificate]:
    """Certify `repetitions` times: 500 clips of one truth, under as many seeds as it takes."""
    smoothed = SmoothedClassifier(Pipeline([GaussianNoise(SIGMA), model]), micro_batch=128, workers=1)
    out: list[Certificate] = []
    for seed in range(-(-repetitions // 500)):
        batch = clips(len(model.u), t, min(500, repetitions - len(out)), 0)
        out += smoothed.certify_many(batch, n0=N0, n=n, alpha=alpha, seed=seed, bound=bound)
    assert len({(c.digest, c.seed) for c in out}) == repetitions
    return out


def violations(certificates: list[Certificate], t: float) -> int:
    """Count false certificates: a label other than 0, or a radius beyond t > 0."""
    return sum(c.status == "certified" and (c.label != "0" or c.radius > t) for c in certificates)


def assert_within(found: int, repetitions: int, alpha: float) -> None:
    assert binom.sf(found - 1, repetitions, alpha) > SURPRISE, f"{found / repetitions} > {alpha}"


def assert_attained(found: int, repetitions: int, alpha: float) -> None:
    assert_within(found, repetitions, alpha)
    assert binom.cdf(found, repetitions, alpha) > SURPRISE, f"{found / repetitions} << {alpha}"


def assert_beyond(found: int, repetitions: int, alpha: float) -> None:
    """The control: so many violations are a failure."""
    with pytest.raises(AssertionError, match=" > "):
        assert_within(found, repetitions, alpha)


def edge(p: float, n: int, alpha: float) -> tuple[float, float]:
    """Return (t, level): a truth just under the bound of some count, and how often the bound exceeds it."""
    count = next(k for k in range(int(n * p), n + 1) if bounds.clopper_pearson_lower(k, n, alpha) > p)
    z = float(ndtri(bounds.clopper_pearson_lower(count, n, alpha))) - HAIR
    return SIGMA * z, float(binom.sf(count - 1, n, ndtr(z)))


# --- the checks ------------------------------------------------------------------------------------


def check_one_sided(size: int, p: float, alpha: float, repetitions: int) -> None:
    t, level = edge(p, N, alpha)
    assert 0.99 * alpha < level <= alpha
    found = repeat(HalfSpace(size), t, repetitions, alpha=alpha)
    assert_within(violations(found, t), repetitions, alpha)
    # A selection of the other class, at which nothing is certified, takes its share off the violations.
    selected = float(binom.sf(N0 // 2, N0, ndtr(t / SIGMA)))
    assert_attained(violations(found, t), repetitions, selected * level)
    # Were the classifier's true radius smaller by a sixth, the certificates would be caught.
    assert_beyond(violations(found, t / 1.2), repetitions, alpha)
    assert all(c.candidate == "0" for c in found if c.status == "certified")


def check_two_class(size: int, t: float, alpha: float, repetitions: int) -> None:
    found = repeat(Layers(size), t, repetitions, alpha=alpha, bound="two-class")
    assert_within(violations(found, t), repetitions, alpha)
    assert sum(c.status == "certified" for c in found) > 0.8 * repetitions
    # The same counts at ten times the level and more are caught.
    loose = [
        bounds.certified_radius(
            c.count, c.n, min(0.6, 30 * alpha), SIGMA, bound="two-class", max_other=c.max_other
        )
        for c in found
    ]
    assert_beyond(sum(r is not None and r > t for r in loose), repetitions, alpha)


def check_tie(size: int, alpha: float, repetitions: int) -> None:
    """On the boundary every certificate is false, whichever label the selection names."""
    # Of all n near N the one whose level is the nearest to alpha: the sample size is known beforehand.
    levels = {}
    for n in range(N - 20, N + 21):
        counts = range(n // 2, n + 1)
        least = next(k for k in counts if bounds.clopper_pearson_lower(k, n, alpha) > 0.5)
        levels[n] = float(binom.sf(least - 1, n, 0.5))
    n = max(levels, key=levels.__getitem__)
    found = repeat(HalfSpace(size), 0.0, repetitions, alpha=alpha, n=n)
    false = sum(c.status == "certified" for c in found)
    assert_within(false, repetitions, alpha)
    assert_attained(false, repetitions, levels[n])
    assert {c.candidate for c in found} == {"0", "1"}
    # Selecting on the sample that is counted doubles the violations, and is caught where there are enough.
    if alpha * repetitions >= 100:
        selected = (max(c.count, n - c.count) for c in found)
        reused = sum(bounds.clopper_pearson_lower(k, n, alpha) > 0.5 for k in selected)
        assert_beyond(reused, repetitions, alpha)


def test_the_one_sided_bound_keeps_its_level_and_attains_it():
    check_one_sided(8, 0.8, 0.05, 2000)


def test_the_two_class_bound_keeps_its_level():
    check_two_class(16, 0.5 * SIGMA, 0.05, 2000)


def test_the_selection_of_a_class_costs_nothing():
    check_tie(4, 0.05, 2000)


@pytest.mark.long
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
@pytest.mark.parametrize(("size", "p"), [(4, 0.9), (16, 0.6)])
def test_the_one_sided_bound_keeps_its_level_in_twenty_thousand(alpha, size, p):
    check_one_sided(size, p, alpha, 20_000)


@pytest.mark.long
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
def test_the_two_class_bound_keeps_its_level_in_twenty_thousand(alpha):
    check_two_class(8, SIGMA, alpha, 20_000)


@pytest.mark.long
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
def test_the_selection_of_a_class_costs_nothing_in_twenty_thousand(alpha):
    check_tie(8, alpha, 20_000)


# --- that the repetitions are what they say --------------------------------------------------------


@pytest.mark.parametrize(("kind", "shares"), [(HalfSpace, (0.5, -0.5)), (Layers, (0.4, -0.6))])
def test_the_truths_are_true(kind, shares):
    """Shares of the first two classes under fresh noise, against the formulas that the checks rest on."""
    (one,) = clips(8, 0.5 * SIGMA, 1, 3)
    noise = np.random.default_rng(0).standard_normal((200_000, 8)) * SIGMA
    x = torch.from_numpy(one.tensor().numpy() + noise).float()
    counts = torch.bincount(kind(8)(x).argmax(dim=1), minlength=4).numpy()
    for z, count in zip(shares, counts[:2], strict=True):
        share = ndtr(z)
        assert abs(count / 200_000 - share) < 5 * math.sqrt(share * (1 - share) / 200_000)
    assert counts[2:].max() < counts[1]  # so that class 1 is the strongest rival
