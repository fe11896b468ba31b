"""Do the bounds keep their levels? Repeated certifications of classifiers whose truth is known.

A *violation* is a certificate that is false. Its probability has to be at most alpha, so the number of
violations in many repetitions is judged by an exact binomial test against alpha: `assert_within` fails
where so many would be seen less than once in a million runs at that level. True probabilities are put
just below the bound of some count, where a Clopper-Pearson bound has no slack, and there the share has
to be *near* alpha too: bounds that are too cautious by a factor would fail `assert_attained`.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binom, multinomial

from soundcert import bounds

SIGMA = 0.25
LEVELS = [0.05, 0.01, 0.001]
SURPRISE = 1e-6

lower = functools.cache(bounds.clopper_pearson_lower)
upper = functools.cache(bounds.clopper_pearson_upper)
two_class = functools.cache(bounds.two_class_bounds)


def assert_within(violations: int, repetitions: int, alpha: float) -> None:
    assert binom.sf(violations - 1, repetitions, alpha) > SURPRISE, f"{violations / repetitions} > {alpha}"


def assert_attained(violations: int, repetitions: int, alpha: float, share: float = 1.0) -> None:
    assert_within(violations, repetitions, alpha)
    most = binom.cdf(violations, repetitions, share * alpha)
    assert most > SURPRISE, f"{violations / repetitions} << {share} * {alpha}"


def generator(*key: object) -> np.random.Generator:
    return np.random.default_rng([20260604, *(int(1e6 * float(k)) for k in key)])


def distinct(*counts):
    """Yield (values, how often) of the rows that occur: each bound is computed once."""
    rows, often = np.unique(np.stack(counts, axis=1), axis=0, return_counts=True)
    yield from zip((tuple(int(v) for v in row) for row in rows), (int(o) for o in often), strict=True)


def edge_below(p: float, n: int, alpha: float) -> float:
    """Return the next probability above p at which the lower bound at alpha has no slack.

    A hair (1e-9) under the bound of a count, so that radii are above the truth after rounding too.
    """
    k = next(k for k in range(int(n * p), n + 1) if lower(k, n, alpha) > p)
    return lower(k, n, alpha) - 1e-9


# --- one-sided -------------------------------------------------------------------------------------


def one_sided_violations(p: float, n: int, alpha: float, repetitions: int, rng) -> int:
    """Radii above the true radius σΦ⁻¹(p) of a half-space, whose smoothed classifier is the half-space."""
    true_radius = SIGMA * float(ndtri(p))
    found = 0
    for (k,), often in distinct(rng.binomial(n, p, repetitions)):
        radius = bounds.certified_radius(k, n, alpha, SIGMA)
        found += often if radius is not None and radius > true_radius else 0
    return found


ONE_SIDED = [(100, 0.6), (100, 0.9), (1000, 0.5), (1000, 0.9), (10_000, 0.55), (10_000, 0.999)]


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize(("n", "p"), ONE_SIDED)
def test_one_sided(n, p, alpha):
    repetitions = 100_000
    rng = generator(n, p, alpha)
    assert_within(one_sided_violations(p, n, alpha, repetitions, rng), repetitions, alpha)
    edge = edge_below(p, n, alpha)
    assert_attained(one_sided_violations(edge, n, alpha, repetitions, rng), repetitions, alpha)


@pytest.mark.long
@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize(("n", "p"), ONE_SIDED)
def test_one_sided_at_length(n, p, alpha):
    repetitions = 5_000_000
    rng = generator(n, p, alpha, 1)
    assert_within(one_sided_violations(p, n, alpha, repetitions, rng), repetitions, alpha)
    edge = edge_below(p, n, alpha)
    assert_attained(one_sided_violations(edge, n, alpha, repetitions, rng), repetitions, alpha)


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("n", [5, 12, 50, 400])
def test_coverage_without_simulation(n, alpha):
    """The probability of a violation, summed over all counts, at every worst-case p and on a grid."""
    bound = np.array([lower(k, n, alpha) for k in range(n + 1)])
    worst = np.array([math.nextafter(b, 0.0) for b in bound[1:]])
    for p in np.concatenate([worst, np.linspace(0.001, 0.999, 500)]):
        failing = int(np.searchsorted(bound, p, side="right"))  # the smallest count whose bound is above p
        assert binom.sf(failing - 1, n, p) <= alpha * (1 + 1e-10)


@pytest.mark.parametrize("alpha", LEVELS)
def test_a_linear_classifier_in_gaussian_noise(alpha):
    """End to end: noise is drawn in eight dimensions and the classifier is asked for each draw."""
    n, repetitions, d = 60, 20_000, 8
    rng = generator(alpha, d)
    w = rng.standard_normal(d)
    w /= np.linalg.norm(w)
    true_radius = SIGMA * float(ndtri(edge_below(0.75, n, alpha)))
    counts = np.concatenate(
        [
            (
                SIGMA * rng.standard_normal((500, n, d), dtype=np.float32) @ w.astype(np.float32)
                > -true_radius
            ).sum(1)
            for _ in range(repetitions // 500)
        ]
    )
    violations = 0
    for (k,), often in distinct(counts):
        radius = bounds.certified_radius(k, n, alpha, SIGMA)
        violations += often if radius is not None and radius > true_radius else 0
    assert_attained(violations, repetitions, alpha)


# --- two-class -------------------------------------------------------------------------------------


def runner_ups(p_a: float, p_b: float, others: int, n: int) -> list[float]:
    """Return p_A, p_B and `others` classes within a standard deviation of p_B, and the rest if any."""
    near = max(0.0, p_b - math.sqrt(p_b / n))
    p = [p_a, p_b, *[near] * others]
    return [*p, max(0.0, 1.0 - sum(p))]


def two_class_violations(p: list[float], n: int, alpha: float, repetitions: int, rng) -> int:
    """Bounds of which one is wrong: p_A above the truth, or p_B below the truth of any other class.

    That is stricter than a radius above the truth, where the slack of one bound can make up for the other.
    The last entry of p is no class: draws that vote for none (NaN).
    """
    counts = rng.multinomial(n, p, repetitions)
    found = 0
    for (top, other), often in distinct(counts[:, 0], counts[:, 1:-1].max(axis=1)):
        p_a, p_b = two_class(top, other, n, alpha)
        found += often if p_a > p[0] or p_b < max(p[1:-1]) else 0
    return found


def multinomials(n: int, alpha: float) -> dict[str, tuple[list[float], float]]:
    """Settings, each with the share of alpha that should be attained.

    At the edges of both bounds that is almost alpha: a high count of the top and low ones of the others
    come together, and the union bound counts them twice.
    """
    a_edge = edge_below(0.55, n, alpha / 2)
    b_edge = 1.0 - edge_below(0.85, n, alpha / 2)
    return {
        "two classes": ([a_edge, 1.0 - a_edge, 0.0], 0.4),
        "both at their edges": ([a_edge, b_edge, 1.0 - a_edge - b_edge], 0.75),
        "a tie with the top": ([0.3, 0.3, 0.2, 0.2, 0.0], 0.0),
        "the wrong class selected": ([0.25, 0.4, 0.35, 0.0], 0.0),
        "two tied runner-ups": ([a_edge, b_edge, b_edge, 1.0 - a_edge - 2 * b_edge], 0.0),
        "many near-tied runner-ups": (runner_ups(0.4, 0.05, 10, n), 0.0),
        "a hundred small classes": ([0.2, *[0.008] * 100, 0.0], 0.0),
        "mostly no vote": ([0.1, 0.02, 0.02, 0.86], 0.0),
    }


SETTINGS = list(multinomials(1000, 0.01))


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_two_class(setting, alpha):
    n, repetitions = 1000, 40_000
    p, share = multinomials(n, alpha)[setting]
    violations = two_class_violations(p, n, alpha, repetitions, generator(alpha, len(setting)))
    assert_attained(violations, repetitions, alpha, share)


@pytest.mark.long
@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("n", [100, 1000, 10_000])
@pytest.mark.parametrize("setting", SETTINGS)
def test_two_class_at_length(setting, n, alpha):
    repetitions = 1_000_000
    p, share = multinomials(n, alpha)[setting]
    rng = generator(alpha, len(setting), n)
    violations = sum(two_class_violations(p, n, alpha, repetitions // 10, rng) for _ in range(10))
    assert_attained(violations, repetitions, alpha, share)


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("n", [12, 30])
def test_three_classes_without_simulation(n, alpha):
    """The probability that a bound is wrong, summed over all outcomes, on and around its worst cases."""
    outcomes = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    pairs = [two_class(int(a), int(max(b, c)), n, alpha) for a, b, c in outcomes]
    p_a, p_b = np.array(pairs).T
    edges_a = [math.nextafter(lower(k, n, alpha / 2), 0.0) for k in range(1, n + 1)]
    edges_b = [math.nextafter(upper(k, n, alpha / 2), 1.0) for k in range(n)]
    worst = 0.0
    for a in edges_a:
        for b in [*edges_b, (1 - a) / 2, 1 - a]:
            if a + b <= 1:
                p = (a, b, max(0.0, 1 - a - b))
                wrong = (p_a > a) | (p_b < max(p[1:]))
                worst = max(worst, float(multinomial.pmf(outcomes[wrong], n, p).sum()))
    assert alpha / 2 < worst <= alpha


def test_argmax_of_scores_in_gaussian_noise():
    """Four classes by the largest of four noisy scores: the smoothed boundary is a tie of two scores."""
    n, repetitions, alpha = 60, 20_000, 0.05
    rng = generator(alpha, 4)
    violations = 0
    v = SIGMA * np.array([0.5, 0.0, 0.0, -0.5], dtype=np.float32)
    true_radius = float(v[0] - v[1]) / math.sqrt(2)
    for _ in range(repetitions // 1000):
        answers = (v + SIGMA * rng.standard_normal((1000, n, 4), dtype=np.float32)).argmax(axis=2)
        counts = (answers[:, :, None] == np.arange(4)).sum(axis=1)
        for (top, other), often in distinct(counts[:, 0], counts[:, 1:].max(axis=1)):
            radius = bounds.certified_radius(top, n, alpha, SIGMA, bound="two-class", max_other=other)
            violations += often if radius is not None and radius > true_radius else 0
    assert_within(violations, repetitions, alpha)


# --- negative controls: wrong variants that the same judgement catches -------------------------------


@pytest.mark.parametrize("alpha", LEVELS)
def test_the_runner_up_of_the_selection_draws_misses_its_level(alpha):
    """p_B for the class that came second among n0 draws, counted in the fresh sample: not a bound.

    Judged by the radius, so in its favour. The share is about that of selections that missed the
    likeliest runner-up, whatever alpha: 10 times alpha = 0.05 and more for smaller ones.
    """
    n0, n, repetitions = 100, 10_000, 20_000
    p = np.array([0.4, 0.12, *[0.08] * 6])
    rng = generator(alpha, n0)
    selection = rng.multinomial(n0, p, repetitions)
    fresh = rng.multinomial(n, p, repetitions)
    second = 1 + selection[:, 1:].argmax(axis=1)
    truth = SIGMA / 2 * float(ndtri(p[0]) - ndtri(p[1]))
    wrong = right = 0
    for (top, other, largest), often in distinct(
        fresh[:, 0], fresh[np.arange(repetitions), second], fresh[:, 1:].max(axis=1)
    ):
        issued = bounds.radius_two_class(lower(top, n, alpha / 2), upper(other, n, alpha / 2), SIGMA)
        wrong += often if issued is not None and issued > truth else 0
        sound = bounds.certified_radius(top, n, alpha, SIGMA, bound="two-class", max_other=largest)
        right += often if sound is not None and sound > truth else 0
    assert_within(right, repetitions, alpha)
    assert wrong > 0.3 * repetitions
    with pytest.raises(AssertionError):
        assert_within(wrong, repetitions, alpha)


@pytest.mark.parametrize("alpha", LEVELS)
def test_counting_the_selection_draws_again_misses_its_level(alpha):
    """One sample for choosing the class and for bounding it: the largest of ten tied counts is no count."""
    n, repetitions = 200, 40_000
    counts = generator(alpha, n).multinomial(n, [0.1] * 10, repetitions)
    reused = sum(often for (k,), often in distinct(counts.max(axis=1)) if lower(k, n, alpha) > 0.1)
    fresh = sum(often for (k,), often in distinct(counts[:, 0]) if lower(k, n, alpha) > 0.1)
    assert_within(fresh, repetitions, alpha)
    with pytest.raises(AssertionError):
        assert_within(reused, repetitions, alpha)


# --- predict ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize(
    "p", [[0.5, 0.5], [0.49, 0.51], [0.25] * 4, [0.34, 0.33, 0.33], [0.3, 0.3, *[0.04] * 10]], ids=len
)
def test_predictions_that_do_not_abstain_are_right(p, alpha):
    """The answer is the top count's class; it is wrong where that is not the likeliest (a tie: class 0)."""
    n, repetitions = 200, 40_000
    counts = generator(alpha, *p).multinomial(n, p, repetitions)
    wrong_answer = counts.argmax(axis=1) != int(np.argmax(p))
    two = np.sort(counts, axis=1)[wrong_answer, -2:]
    p_value = functools.cache(bounds.binomial_two_sided_p)
    found = sum(often for (second, top), often in distinct(*two.T) if p_value(top, top + second) <= alpha)
    assert_within(found, repetitions, alpha)


# --- data sets -------------------------------------------------------------------------------------


def certified_clips(m: int, true_share: float, power: float, a: float, *, repetitions: int, rng):
    """Return (successes, true successes, true clips) of test sets whose false claims pass with chance a."""
    true = rng.binomial(m, true_share, repetitions)
    rightly = rng.binomial(true, power)
    return rightly + rng.binomial(m - true, a), rightly, true


@pytest.mark.parametrize("level", [0.1, 0.01])
@pytest.mark.parametrize("power", [1.0, 0.8])
@pytest.mark.parametrize("true_share", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("a", [0.001, 0.05])
def test_accuracy_intervals(a, true_share, power, level):
    m, repetitions = 200, 20_000
    successes, _, true = certified_clips(
        m, true_share, power, a, repetitions=repetitions, rng=generator(a, true_share, power, level)
    )
    population = missed = fixed = 0
    for (s, t), often in distinct(successes, true):
        interval = functools.cache(bounds.accuracy_interval)(s, m, level, a)
        missed += often if not interval.lower <= true_share * power <= interval.upper else 0
        population += often if interval.lower > true_share else 0
        fixed += often if bounds.fixed_set_accuracy_lower(s, m, level, a) > t / m else 0
    assert_within(missed, repetitions, level)
    assert_within(population, repetitions, level / 2)
    assert_within(fixed, repetitions, level)


def test_an_interval_that_forgets_false_certificates_misses_its_level():
    m, level, a, repetitions = 5000, 0.05, 0.05, 20_000
    successes, _, _ = certified_clips(m, 0.2, 1.0, a, repetitions=repetitions, rng=generator(a, m))
    forgetful = careful = 0
    for (s,), often in distinct(successes):
        forgetful += often if lower(s, m, level / 2) > 0.2 else 0
        careful += often if bounds.accuracy_interval(s, m, level, a).lower > 0.2 else 0
    assert_attained(careful, repetitions, level / 2)
    assert forgetful > 0.9 * repetitions
