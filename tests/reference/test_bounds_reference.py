"""Bounds and radii against exact arithmetic, closed forms, statsmodels and scipy.stats."""

from __future__ import annotations

import itertools
import math
import random
import sys
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from soundcert import bounds
from soundcert.errors import ConfigError

mp = mpmath.mp.clone()
mp.dps = 50
ALPHAS = [0.05, 0.01, 0.001, 1e-6, 1e-12]


# --- independent references ------------------------------------------------------------------------


def tail_by_fractions(k: int, n: int, p: float) -> Fraction:
    """P(Bin(n, p) ≥ k), exactly, summed term by term."""
    exact = Fraction(p)
    return sum((math.comb(n, j) * exact**j * (1 - exact) ** (n - j) for j in range(k, n + 1)), Fraction(0))


def tail_by_series(k: int, n: int, p: float):
    """P(Bin(n, p) ≥ k) to some 45 digits: the first term from log-gamma, the rest from their ratios."""
    exact = mp.mpf(p)
    if k > n * exact:
        return _far_tail(k, n, exact)
    return 1 - _far_tail(n - k + 1, n, 1 - exact)  # P(X ≤ k − 1), counted in failures


def _far_tail(k: int, n: int, p):
    first = mp.exp(
        mp.loggamma(n + 1)
        - mp.loggamma(k + 1)
        - mp.loggamma(n - k + 1)
        + k * mp.log(p)
        + (n - k) * mp.log1p(-p)
    )
    one = 1 << 180
    odds = int(p / (1 - p) * one)
    term = total = one
    for j in range(k, n):
        term = (term * (n - j) // (j + 1) * odds) >> 180
        total += term
        if term < 1 << 20:
            break
    return first * mp.mpf(total) / one


def normal_cdf_gap(z, p: float):
    """Φ(z) − p without cancellation for p near 1."""
    return (
        (1 - mp.mpf(p)) - mp.erfc(z / mp.sqrt(2)) / 2 if p > 0.5 else mp.erfc(-z / mp.sqrt(2)) / 2 - mp.mpf(p)
    )


def cases(how_many: int, largest: float, seed: int) -> list[tuple[int, int, float]]:
    """Counts of every kind: anywhere, near n and near 0; n spread evenly over its logarithm."""
    rng = random.Random(seed)
    found = []
    for i in range(how_many):
        n = int(10 ** rng.uniform(0, math.log10(largest)))
        near = min(n - 1, int(10 ** rng.uniform(0, math.log10(n + 1))))
        k = max(1, [rng.randint(1, n), n - near, near][i % 3])
        alpha = 10 ** rng.uniform(-14, -0.01) if i % 9 else 10 ** rng.uniform(-99, -14)
        found.append((k, n, alpha))
    return found


def test_the_two_references_agree():
    for k, n, p in [(1, 1, 0.3), (3, 10, 0.1), (3, 10, 0.9), (50, 60, 0.75), (1, 40, 1e-4), (40, 40, 0.999)]:
        exact = tail_by_fractions(k, n, p)
        assert abs(tail_by_series(k, n, p) / (mp.mpf(exact.numerator) / exact.denominator) - 1) < 1e-40


# --- Clopper-Pearson -------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001, 1e-12])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 41])
def test_every_count_in_exact_arithmetic(n, alpha):
    for k in range(n + 1):
        lower = bounds.clopper_pearson_lower(k, n, alpha)
        upper = bounds.clopper_pearson_upper(n - k, n, alpha)
        assert Fraction(upper) >= 1 - Fraction(lower)
        assert upper - (1 - lower) <= math.ulp(1.0)
        if k == 0:
            assert (lower, upper) == (0.0, 1.0)
            continue
        tail = tail_by_fractions(k, n, lower)
        assert Fraction(alpha) * (1 - Fraction(3, 10**9)) <= tail <= Fraction(alpha)
        # P(Bin(n, upper) ≤ n − k) is the tail of the failures
        assert 1 - tail_by_fractions(n - k + 1, n, upper) <= Fraction(alpha)


def check_lower_bounds(found):
    for k, n, alpha in found:
        lower = bounds.clopper_pearson_lower(k, n, alpha)
        tail = tail_by_series(k, n, lower)
        assert tail <= mp.mpf(alpha) * (1 + mp.mpf(10) ** -40), (k, n, alpha)  # the reference has 45 digits
        assert tail >= mp.mpf(alpha) * (1 - 100 * bounds._tail_error(n)), (
            k,
            n,
            alpha,
        )  # and give little away


def test_lower_bounds_keep_their_level_in_exact_arithmetic():
    check_lower_bounds(cases(400, 1e6, seed=1))


def test_lower_bounds_of_a_thousand_million_draws():
    check_lower_bounds([(k, 10**9, 1e-3) for k in (1, 10**9 - 5, 10**9 - 10**6, 10**9)])


@pytest.mark.long
def test_lower_bounds_keep_their_level_in_exact_arithmetic_at_length():
    check_lower_bounds(cases(20_000, 1e6, seed=2))
    check_lower_bounds(cases(200, 1e9, seed=3))


def test_the_room_for_error_is_fifty_times_the_error_measured():
    for k, n, alpha in cases(300, 1e6, seed=4):
        p = bounds.clopper_pearson_lower(k, n, alpha)
        error = abs(mp.mpf(bounds.binomial_tail(k, n, p)) / tail_by_series(k, n, p) - 1)
        assert error * 50 < bounds._tail_error(n), (k, n, alpha)


def test_statsmodels_agrees():
    for k, n, alpha in cases(600, 1e6, seed=5):
        if not 1e-12 < alpha < 0.49:
            continue
        low, high = proportion_confint(k, n, alpha=2 * alpha, method="beta")
        assert bounds.clopper_pearson_lower(k, n, alpha) == pytest.approx(low, rel=1e-8)
        assert bounds.clopper_pearson_lower(k, n, alpha) <= low * (1 + 1e-12)
        assert bounds.clopper_pearson_upper(k, n, alpha) == pytest.approx(high, rel=1e-8)


@pytest.mark.parametrize("alpha", [0.999, 0.5, 0.25, *ALPHAS, 1e-100])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 17, 100, 4096])
def test_all_of_n_is_the_root_of_alpha_rounded_down(n, alpha):
    p = bounds.clopper_pearson_lower(n, n, alpha)
    assert Fraction(p) ** n <= Fraction(alpha)
    assert Fraction(p + 32 * math.ulp(p)) ** n > Fraction(alpha)
    if n == 1:
        assert p == alpha


def test_alpha_next_to_one_gives_a_bound_below_one():
    assert bounds.clopper_pearson_lower(10**9, 10**9, math.nextafter(1.0, 0.0)) < 1.0


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_monotone(data):
    n = data.draw(st.integers(1, 100_000))
    k = data.draw(st.integers(0, n))
    alpha = data.draw(st.floats(1e-12, 0.9))
    lower, upper = bounds.clopper_pearson_lower, bounds.clopper_pearson_upper
    here = lower(k, n, alpha)
    assert 0.0 <= here < 1.0
    assert here <= lower(k + 1, n + 1, alpha)
    assert lower(k, n + 1, alpha) <= here
    assert lower(k, n, alpha * 0.999) <= here
    assert upper(k, n, alpha) <= upper(k, n, alpha * 0.999)
    if k < n:
        assert here < lower(k + 1, n, alpha)
        assert upper(k, n, alpha) < upper(k + 1, n, alpha) or upper(k + 1, n, alpha) == 1.0
    if alpha <= 0.5:
        assert here <= k / n <= upper(k, n, alpha)


# --- tails and the binomial test -------------------------------------------------------------------


def test_binomial_tail():
    for k, n, p in [(0, 5, 0.3), (5, 5, 0.3), (2, 5, 0.0), (2, 5, 1.0), (3, 40, 0.1), (30, 40, 0.1)]:
        assert bounds.binomial_tail(k, n, p) == pytest.approx(float(tail_by_fractions(k, n, p)), rel=1e-13)


def test_two_sided_p_agrees_with_scipy_and_is_rounded_up():
    for n, step in [(1, 1), (2, 1), (3, 1), (10, 1), (11, 1), (100, 7), (1001, 50)]:
        for k in range(0, n + 1, step):
            ours = bounds.binomial_two_sided_p(k, n)
            assert ours == bounds.binomial_two_sided_p(n - k, n)
            assert ours == pytest.approx(binomtest(k, n, 0.5).pvalue, rel=1e-8)
            assert ours >= min(1.0, 2 * tail_by_series(max(k, n - k), n, 0.5))
    assert bounds.binomial_two_sided_p(0, 0) == 1.0
    assert 0.0 < bounds.binomial_two_sided_p(10_000, 10_000) < 1e-299


# --- radii -----------------------------------------------------------------------------------------


def probabilities(how_many: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    kinds = [
        lambda: rng.uniform(0.5, 1),
        lambda: 0.5 + 10 ** rng.uniform(-15.9, -1),
        lambda: 1 - 10 ** rng.uniform(-15.9, -1),
    ]
    found = [kinds[i % 3]() for i in range(how_many)]
    return [p for p in found if 0.5 < p < 1] + [math.nextafter(0.5, 1), math.nextafter(1.0, 0.0)]


def test_one_sided_radii_are_rounded_down():
    for p in probabilities(1500, seed=6):
        for sigma in (1.0, 0.0025, 3.7):
            radius = bounds.radius_one_sided(p, sigma)
            z = mp.mpf(radius) / mp.mpf(sigma)
            assert normal_cdf_gap(z, p) <= 0
            assert normal_cdf_gap(z * (1 + mp.mpf(2) ** -46), p) >= 0


def test_two_class_radii_are_rounded_down():
    rng = random.Random(7)
    some = probabilities(300, seed=8) + [10 ** rng.uniform(-12, -0.31) for _ in range(300)]
    for _ in range(1500):
        p_b, p_a = sorted(rng.sample(some, 2))
        radius = bounds.radius_two_class(p_a, p_b, 0.25)
        with mp.workdps(30):
            z_a, z_b = (
                mp.findroot(lambda z, p=p: normal_cdf_gap(z, p), bounds._quantile_down(p)) for p in (p_a, p_b)
            )
            exact = (z_a - z_b) / 8
            assert radius is None or radius <= exact
            assert (radius or 0.0) == pytest.approx(float(exact), rel=1e-11, abs=1e-14)


def test_a_hair_between_the_two_classes_is_an_abstention_or_a_tiny_radius():
    p = 0.3
    assert bounds.radius_two_class(p, p, 1.0) is None
    assert bounds.radius_two_class(math.nextafter(p, 1), p, 1.0) is None  # lost in the rounding
    assert 0 < bounds.radius_two_class(p + 1e-12, p, 1.0) < 2e-12


def test_the_complement_gives_the_one_sided_radius():
    for p in probabilities(900, seed=9):
        assert bounds.radius_two_class(p, 1.0 - p, 0.7) == bounds.radius_one_sided(p, 0.7)


def test_abstentions_are_none_and_radii_are_positive():
    assert bounds.radius_one_sided(0.5, 1.0) is None
    assert bounds.radius_one_sided(0.0, 1.0) is None
    assert bounds.radius_two_class(0.2, 1.0, 1.0) is None
    assert bounds.radius_one_sided(math.nextafter(0.5, 1), 5e-324) is None  # nothing left after rounding
    assert bounds.radius_one_sided(0.999, sys.float_info.max) == sys.float_info.max  # never inf


@given(st.floats(0.5, 1.0, exclude_min=True, exclude_max=True), st.floats(1e-6, 1e6))
@settings(max_examples=200, deadline=None)
def test_radii_grow_with_p_and_sigma(p, sigma):
    radius = bounds.radius_one_sided(p, sigma)
    assert radius > 0
    assert bounds.radius_one_sided(p, sigma * 1.001) > radius
    more = p + (1 - p) / 1000
    if p + 1e-12 < more < 1:
        assert bounds.radius_one_sided(more, sigma) > radius


def test_the_paper_s_ceiling():
    assert bounds.monte_carlo_ceiling(0.0025, 10_000, 0.001) == pytest.approx(0.00799644, abs=5e-9)
    closed = 0.0025 * mp.sqrt(2) * mp.erfinv(2 * mp.mpf(0.001) ** (mp.mpf(1) / 10_000) - 1)
    assert bounds.monte_carlo_ceiling(0.0025, 10_000, 0.001) == pytest.approx(float(closed), rel=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [12, 100, 10_000, 100_000])
def test_the_ceiling_is_the_largest_radius(n, alpha):
    saturated = bounds.certified_radius(n, n, alpha, 0.1)
    ceiling = bounds.monte_carlo_ceiling(0.1, n, alpha)
    assert ceiling == (saturated or 0.0)
    assert (bounds.certified_radius(n - 1, n, alpha, 0.1) or 0.0) <= ceiling
    both = bounds.monte_carlo_ceiling(0.1, n, alpha, "two-class")
    assert both == (bounds.certified_radius(n, n, alpha, 0.1, bound="two-class", max_other=0) or 0.0)
    # With every draw for one class p_B = 1 − p_A: the one-sided radius at half the level
    assert both == bounds.monte_carlo_ceiling(0.1, n, alpha / 2)
    assert both <= ceiling


@pytest.mark.parametrize("bound", ["one-sided", "two-class"])
@pytest.mark.parametrize("alpha", [0.999, 0.5, 2.0**-10, math.nextafter(2.0**-10, 1), *ALPHAS, 1e-100])
def test_the_smallest_n(alpha, bound):
    n = bounds.minimum_samples(alpha, bound)
    level = Fraction(alpha) / (1 if bound == "one-sided" else 2)
    assert bounds.monte_carlo_ceiling(1.0, n, alpha, bound) > 0
    assert Fraction(1, 2**n) < level
    if n > 1:
        assert bounds.monte_carlo_ceiling(1.0, n - 1, alpha, bound) == 0.0
        assert Fraction(1, 2 ** (n - 1)) >= level * (1 - Fraction(1, 2**40))


def test_the_two_class_bounds():
    n, alpha = 1000, 0.01
    lower, upper = bounds.clopper_pearson_lower, bounds.clopper_pearson_upper
    assert bounds.two_class_bounds(600, 100, n, alpha) == (lower(600, n, 0.005), upper(100, n, 0.005))
    p_a, p_b = bounds.two_class_bounds(900, 100, n, alpha)
    assert (p_a, p_b) == (lower(900, n, 0.005), 1 - lower(900, n, 0.005))  # nothing is left for a third
    assert bounds.two_class_bounds(0, 5, n, alpha)[0] == 0.0
    assert bounds.two_class_bounds(0, 1000, n, alpha) == (0.0, 1.0)
    radius = bounds.certified_radius(400, n, alpha, 0.5, bound="two-class", max_other=100)
    assert radius == bounds.radius_two_class(*bounds.two_class_bounds(400, 100, n, alpha), 0.5)
    assert radius > 0  # although p_A is below one half
    assert bounds.certified_radius(400, n, alpha, 0.5) is None
    assert bounds.certified_radius(100, n, alpha, 0.5, bound="two-class", max_other=400) is None


@given(st.integers(1, 5000), st.data())
@settings(max_examples=150, deadline=None)
def test_the_two_class_radius_never_beats_its_counts(n, data):
    top = data.draw(st.integers(0, n))
    other = data.draw(st.integers(0, n - top))
    p_a, p_b = bounds.two_class_bounds(top, other, n, 0.001)
    assert Fraction(p_b) <= 1 - Fraction(p_a) + Fraction(1, 2**52)  # so no cap is needed
    assert p_a <= top / n
    assert p_b >= other / n
    radius = bounds.radius_two_class(p_a, p_b, 1.0)
    if top <= other:
        assert radius is None
    if other and radius is not None:
        assert (
            bounds.certified_radius(top, n, 0.001, 1.0, bound="two-class", max_other=other - 1) or 0
        ) >= radius


# --- data sets -------------------------------------------------------------------------------------


def test_accuracy_interval():
    interval = bounds.accuracy_interval(680, 1000, 0.05, 0.001)
    low, high = proportion_confint(680, 1000, alpha=0.05, method="beta")
    assert interval.lower == pytest.approx((low - 0.001) / 0.999, rel=1e-8)
    assert interval.upper == pytest.approx(high, rel=1e-8)
    assert bounds.accuracy_interval(680, 1000, 0.05, 0.0) == pytest.approx((low, high), rel=1e-8)
    assert bounds.accuracy_interval(0, 10, 0.05, 0.001)[0] == 0.0
    assert bounds.accuracy_interval(3, 1000, 0.05, 0.01).lower == 0.0  # explained by false certificates
    assert bounds.accuracy_interval(10, 10, 0.05, 0.001).upper == 1.0


def test_copies_count_once_whichever_of_them_succeeded():
    """Over every way that c of m clips can be copies of others: the interval holds those of the distinct recordings."""
    m, gamma, alpha = 12, 0.05, 0.001
    for c, s in itertools.product(range(m), range(m + 1)):
        found = bounds.accuracy_interval(s, m, gamma, alpha, c)
        for once in range(max(0, s - c), min(s, m - c) + 1):
            whole = bounds.accuracy_interval(once, m - c, gamma, alpha)
            assert found.lower <= whole.lower <= whole.upper <= found.upper
    assert bounds.accuracy_interval(7, m, gamma, alpha, 0) == bounds.accuracy_interval(7, m, gamma, alpha)
    assert bounds.accuracy_band([3, 7], m, gamma, alpha, 2)[1] == bounds.accuracy_interval(
        7, m, gamma / 2, alpha, 2
    )
    with pytest.raises(ConfigError):
        bounds.accuracy_interval(3, m, gamma, alpha, m)


def test_with_copies_the_interval_covers_as_often():
    """Half of the recordings stand in the list twice, and their certificates with them: 95 % is held."""
    rng = np.random.default_rng(3)
    p, once, gamma = 0.8, 60, 0.05
    missed = plain = 0
    for _ in range(3000):
        right = rng.random(once) < p
        s, m = int(right.sum() + right[: once // 2].sum()), once + once // 2
        low, high = bounds.accuracy_interval(s, m, gamma, 0.0, once // 2)
        missed += not low <= p <= high
        low, high = bounds.accuracy_interval(s, m, gamma, 0.0)
        plain += not low <= p <= high
    assert missed / 3000 <= gamma
    assert plain / 3000 > gamma, "the control: as if all were clips of their own"


def test_a_band_shares_its_alpha_out_over_its_radii():
    band = bounds.accuracy_band([90, 80, 80, 12], 100, 0.05, 0.001)
    assert band == [bounds.accuracy_interval(s, 100, 0.0125, 0.001) for s in (90, 80, 80, 12)]
    assert bounds.accuracy_band([7], 9, 0.05, 0.0) == [bounds.accuracy_interval(7, 9, 0.05, 0.0)]
    with pytest.raises(ConfigError, match="successes: expected a count for each"):
        bounds.accuracy_band([], 9, 0.05, 0.0)


@pytest.mark.parametrize("a", [0.0, 0.001, 0.05, 0.4])
@pytest.mark.parametrize("m", [1, 5, 20])
def test_the_fixed_set_bound_inverts_its_test(m, a):
    for level in (0.2, 0.06, 0.0012):
        for s in range(m + 1):
            missed = m - s
            false = max(
                f for f in range(missed, m + 1) if tail_by_fractions(f - missed, f, a) > Fraction(level)
            )
            bound = bounds.fixed_set_accuracy_lower(s, m, level, a)
            assert Fraction(bound) <= Fraction(m - false, m)
            assert bound == pytest.approx((m - false) / m, rel=1e-15)
            # the usual correction: a quantile of Bin(m, a) off the successes
            quantile = min(
                q for q in range(m + 1) if q == m or tail_by_fractions(q + 1, m, a) <= Fraction(level)
            )
            assert m - false >= s - quantile


# --- numbers in print ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "how", "down", "up"),
    [
        (1.2497, {"decimals": 2}, "1.24", "1.25"),
        (1.2497, {"significant": 3}, "1.24", "1.25"),
        (1.25, {"decimals": 2}, "1.25", "1.25"),
        (0.1, {"decimals": 1}, "0.1", "0.2"),  # the double is above one tenth
        (0.3, {"decimals": 1}, "0.2", "0.3"),  # the double is below three tenths
        (0.3, {"decimals": 0}, "0", "1"),
        (-1.2497, {"decimals": 2}, "-1.25", "-1.24"),
        (-1e-9, {"decimals": 2}, "-0.01", "0.00"),
        (9.996, {"significant": 3}, "9.99", "10.0"),
        (0.00799644378, {}, "0.00799644", "0.00799645"),
        (123456.7, {"significant": 3}, "123000", "124000"),
        (1.505e-9, {"significant": 3}, "1.50e-9", "1.51e-9"),
        (2.0**80, {"significant": 2}, "1.2e+24", "1.3e+24"),
        (0.0, {}, "0", "0"),
        (-0.0, {"decimals": 1}, "0.0", "0.0"),
        (math.inf, {"decimals": 2}, "inf", "inf"),
        (-math.inf, {}, "-inf", "-inf"),
        (np.float32(0.5), {"decimals": 2}, "0.50", "0.50"),
    ],
)
def test_decimal_strings(x, how, down, up):
    assert bounds.format_down(x, **how) == down
    assert bounds.format_up(x, **how) == up


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_decimal_strings_enclose_the_double(x, digits):
    for how in ({"significant": digits}, {"decimals": digits}):
        down, up = Fraction(bounds.format_down(x, **how)), Fraction(bounds.format_up(x, **how))
        assert down <= Fraction(x) <= up
        unit = abs(Fraction(x)) / 10 ** (digits - 1) if "significant" in how else Fraction(1, 10**digits)
        assert up - down <= unit or down == up


# --- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: bounds.clopper_pearson_lower(5, 4, 0.1),
            r"count: expected an integer from 0 to n = 4, got 5",
        ),
        (lambda: bounds.clopper_pearson_lower(-1, 4, 0.1), "count: .* got -1"),
        (lambda: bounds.clopper_pearson_lower(2.0, 4, 0.1), "count: .* got 2.0"),
        (
            lambda: bounds.clopper_pearson_upper(0, 0, 0.1),
            "n: expected an integer from 1 to 1000000000, got 0",
        ),
        (lambda: bounds.clopper_pearson_lower(1, 10**10, 0.1), "n: expected"),
        (lambda: bounds.clopper_pearson_lower(1, 4, 0), "alpha: expected .*1e-100 <= alpha < 1.*, got 0"),
        (lambda: bounds.clopper_pearson_lower(1, 4, 1.0), "alpha: expected"),
        (lambda: bounds.clopper_pearson_lower(1, 4, math.nan), "alpha: expected"),
        (lambda: bounds.clopper_pearson_lower(1, 4, "0.1"), "alpha: .* got '0.1'"),
        (lambda: bounds.two_class_bounds(3, 2, 4, 0.1), r"max_other_count: .* n - count_top = 1, got 2"),
        (lambda: bounds.two_class_bounds(5, 0, 4, 0.1), "count_top: expected"),
        (lambda: bounds.radius_one_sided(1.0, 1.0), "p_lower: expected .* got 1.0"),
        (lambda: bounds.radius_one_sided(math.nan, 1.0), "p_lower: expected"),
        (lambda: bounds.radius_one_sided(0.9, 0.0), "sigma: expected a number with 0 < sigma < inf, got 0.0"),
        (lambda: bounds.radius_one_sided(0.9, math.inf), "sigma: expected"),
        (lambda: bounds.radius_two_class(1.0, 0.1, 1.0), "p_a_lower: expected"),
        (lambda: bounds.radius_two_class(0.9, 0.0, 1.0), "p_b_upper: expected"),
        (lambda: bounds.radius_two_class(0.9, 0.1, -1.0), "sigma: expected"),
        (lambda: bounds.certified_radius(3, 4, 0.1, 1.0, bound="two-class"), "max_other: expected"),
        (
            lambda: bounds.monte_carlo_ceiling(1.0, 10, 0.1, "two_class"),
            "got 'two_class' .did you mean 'two-class'",
        ),
        (lambda: bounds.minimum_samples(2.0), "alpha: expected"),
        (lambda: bounds.binomial_tail(1, 2, 1.5), "p: expected"),
        (lambda: bounds.binomial_two_sided_p(3, 2), "count: expected"),
        (
            lambda: bounds.accuracy_interval(3, 2, 0.05, 0.001),
            "successes: expected an integer from 0 to m = 2",
        ),
        (lambda: bounds.accuracy_interval(3, 5, 0.0, 0.001), "confidence_alpha: expected"),
        (lambda: bounds.fixed_set_accuracy_lower(3, 5, 0.05, 1.0), "per_clip_alpha: expected"),
        (lambda: bounds.format_down(math.nan), "x: expected .* got nan"),
        (lambda: bounds.format_up("1"), "x: expected"),
        (
            lambda: bounds.format_up(1.0, decimals=2, significant=2),
            "expected decimals or significant, got both",
        ),
        (lambda: bounds.format_up(1.0, decimals=-1), "decimals: expected"),
        (lambda: bounds.format_up(1.0, significant=0), "significant: expected"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_numpy_numbers_are_numbers():
    lower = bounds.clopper_pearson_lower(np.int64(90), np.int32(100), np.float64(0.01))
    assert lower == bounds.clopper_pearson_lower(90, 100, 0.01)
    assert type(lower) is float
    assert type(bounds.radius_one_sided(np.float64(0.9), np.float32(0.5))) is float
