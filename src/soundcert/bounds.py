"""Binomial confidence bounds, and the certified radii that follow from them.

Conventions
-----------
- A *count* is how many of `n` independent draws gave the class in question: an integer in [0, n].
- `alpha` is a probability of error, never a confidence: 0.001 means that the statement fails in at
  most one of a thousand repetitions. It lies in [1e-100, 1).
- `sigma` and radii are in the unit of the certified object, radii in ℓ2. A certificate speaks of
  perturbations of norm strictly below its radius.
- An abstention is `None`. It is never a radius of 0.0.
- Everything is float64 and rounded inward: lower bounds and radii down, upper bounds and p-values up.
  `scipy.special.betainc` (the regularised incomplete beta function, so the binomial tail) was measured
  against 50-digit arithmetic: its relative error stays below 2e-11 for n up to 2e6, and `ndtri`'s below
  7e-16. Bounds leave `_tail_error(n)`, 50 times that and more, and radii `_QUANTILE_ERROR`, five times
  that, as room. It costs under 1e-9·sigma of a radius for n up to 1e6, and tests/reference recomputes
  the claims in exact arithmetic.

Sources: Clopper and Pearson (1934), Biometrika 26, 404; Cohen, Rosenfeld and Kolter (2019),
arXiv 1902.02918, below "Cohen et al."; Hung and Fithian (2019), arXiv 1610.03944.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import Literal, NamedTuple, SupportsIndex, get_args

from soundcert.errors import ConfigError, did_you_mean

BoundName = Literal["one-sided", "two-class"]

_SMALLEST_ALPHA = 1e-100
_LARGEST_N = 10**9
_QUANTILE_ERROR = 2.0**-48
_EXACT = Context(prec=1200)  # a double has at most 767 significant decimal digits
_LOGARITHMS = Context(prec=60)


class AccuracyInterval(NamedTuple):
    """A confidence interval for a share of a population; it unpacks to (lower, upper)."""

    lower: float
    upper: float


# --- one binomial proportion -----------------------------------------------------------------------


def binomial_tail(count: SupportsIndex, n: SupportsIndex, p: float) -> float:
    """Return P(Bin(n, p) ≥ count), to nearest: neither rounded up nor down.

    Formula: I_p(count, n − count + 1), the regularised incomplete beta function; 1 for count = 0.
    Source: Abramowitz and Stegun 26.5.24.
    """
    k, size = _count_of(count, n)
    return _tail(k, size, _number("p", p, "0 <= p <= 1", lambda v: 0.0 <= v <= 1.0))


def clopper_pearson_lower(count: SupportsIndex, n: SupportsIndex, alpha: float) -> float:
    """Return a p with P(Bin(n, p) ≥ count) ≤ alpha, and hence P(p > the true p) ≤ alpha.

    Formula: the alpha-quantile of Beta(count, n − count + 1); 0 for count = 0, alpha^(1/n) for
    count = n. Source: Clopper and Pearson (1934); as used by Cohen et al., Algorithm 1.

    The quantile is stepped down until the tail, as computed, is at most alpha·(1 − `_tail_error(n)`),
    so that the tail in exact arithmetic is at most alpha. That is the whole proof of validity: let
    k* be the smallest count whose bound exceeds the true p. Bounds grow with the count, so the bound
    fails exactly when the count reaches k*, and P(Bin(n, p) ≥ k*) ≤ P(Bin(n, bound(k*)) ≥ k*) ≤ alpha.

    >>> clopper_pearson_lower(0, 100, 0.001)
    0.0
    >>> p = clopper_pearson_lower(100, 100, 0.001)
    >>> 0 <= 0.001 ** (1 / 100) - p < 1e-12
    True
    """
    k, size = _count_of(count, n)
    return _lower(k, size, _alpha("alpha", alpha))


def clopper_pearson_upper(count: SupportsIndex, n: SupportsIndex, alpha: float) -> float:
    """Return a p with P(Bin(n, p) ≤ count) ≤ alpha, and hence P(p < the true p) ≤ alpha.

    Formula: 1 − clopper_pearson_lower(n − count, n, alpha), rounded up; 1 for count = n.
    Source: Clopper and Pearson (1934); the failures of Bin(n, p) are Bin(n, 1 − p).
    """
    k, size = _count_of(count, n)
    return _one_minus(_lower(size - k, size, _alpha("alpha", alpha)))


def binomial_two_sided_p(count: SupportsIndex, n: SupportsIndex) -> float:
    """Return the exact two-sided p-value of `count` successes in `n` against p = ½, rounded up.

    Formula: min(1, 2·P(Bin(n, ½) ≥ max(count, n − count))); n = 0 gives 1, since nothing was seen.
    Source: Cohen et al., Algorithm 1 (PREDICT), with count = n_A and n = n_A + n_B for the two classes
    that came up most. That the two were chosen by their counts costs nothing: Hung and Fithian (2019)
    show that the test keeps its level for "the winner is the likeliest class".
    """
    size = _integer("n", n, 0, _LARGEST_N)
    k = _integer("count", count, 0, size)
    if size == 0:
        return 1.0
    # Below 1e-300 the beta function underflows, so a smaller p-value is reported as that.
    tail = max(_tail(max(k, size - k), size, 0.5), 1e-300)
    return min(1.0, 2.0 * tail * (1.0 + _tail_error(size)))


# --- radii -----------------------------------------------------------------------------------------


def radius_one_sided(p_lower: float, sigma: float) -> float | None:
    """Return σΦ⁻¹(p_lower), rounded down, or None where p_lower ≤ ½ (abstain).

    Source: Cohen et al., Theorem 1 with p_B = 1 − p_A, and Algorithm 1.
    """
    p = _number("p_lower", p_lower, "0 <= p_lower < 1", lambda v: 0.0 <= v < 1.0)
    scale = _sigma(sigma)
    if p <= 0.5:
        return None
    return _positive(scale * _quantile_down(p))


def probability_of_radius(radius: float, sigma: float) -> float:
    """Return Φ(radius/sigma), rounded down: what "the radius is at least this" says of the probability."""
    from scipy.special import ndtr

    r = _number("radius", radius, "radius >= 0", lambda v: 0.0 <= v < math.inf)
    p = float(ndtr(r / _sigma(sigma)))
    return max(0.5, p * (1.0 - _QUANTILE_ERROR)) if p < 1.0 else math.nextafter(1.0, 0.0)


def radius_two_class(p_a_lower: float, p_b_upper: float, sigma: float) -> float | None:
    """Return (σ/2)(Φ⁻¹(p_a_lower) − Φ⁻¹(p_b_upper)), rounded down, or None where p_a_lower ≤ p_b_upper.

    Source: Cohen et al., Theorem 1. With p_b_upper = 1 − p_a_lower it equals `radius_one_sided`.
    """
    p_a = _number("p_a_lower", p_a_lower, "0 <= p_a_lower < 1", lambda v: 0.0 <= v < 1.0)
    p_b = _number("p_b_upper", p_b_upper, "0 < p_b_upper <= 1", lambda v: 0.0 < v <= 1.0)
    scale = _sigma(sigma)
    if p_a <= p_b:
        return None
    return _positive(scale * (0.5 * (_quantile_down(p_a) - _quantile_up(p_b))))


def two_class_bounds(
    count_top: SupportsIndex, max_other_count: SupportsIndex, n: SupportsIndex, alpha: float
) -> tuple[float, float]:
    """Return (p_A, p_B) that hold together: P(p_A > the top's true p, or p_B < any other's) ≤ alpha.

    `count_top` counts the class A that *earlier* draws selected; `max_other_count` is the largest count
    among *all* other classes in the same fresh sample of `n`.

    Formula: p_A is the Clopper-Pearson lower bound of count_top at alpha/2; p_B is the upper bound of
    max_other_count at alpha/2.

    Proof. Let c* be the likeliest class other than A. It is fixed before the sample is drawn, if
    unknown, so no correction for the number of classes is needed:
    (1) P(p_A > true p_A) ≤ alpha/2.
    (2) The count of c* is Bin(n, p_c*), so its own upper bound lies below p_c* with probability at most
    alpha/2. The largest count is at least the count of c*, and upper bounds grow with the count: the
    event that upper(largest count) < p_c* is contained in the event that upper(count of c*) < p_c*.
    Every other class c has p_c ≤ p_c*.
    The union bound over (1) and (2) gives alpha; the dependence of the counts does not matter.
    No cap at 1 − p_A is needed: max_other_count ≤ n − count_top, whose upper bound is 1 − p_A.

    The class that is *second in the selection draws* would not do for c*: where it is not the likeliest,
    its bound says nothing of p_c*, and the level is missed many times over (tests/validity shows it).
    Where max_other_count = n − count_top, as always with two classes, the radius is the one-sided one at
    alpha/2: use that at alpha instead.

    Source: the bounds of Cohen et al., Theorem 1; the choice of class and the proof are ours.
    """
    top, size = _count_of(count_top, n, "count_top")
    other = _integer("max_other_count", max_other_count, 0, size - top, "n - count_top")
    half = _alpha("alpha", alpha) / 2.0
    return _lower(top, size, half), _one_minus(_lower(size - other, size, half))


def certified_radius(
    count: SupportsIndex,
    n: SupportsIndex,
    alpha: float,
    sigma: float,
    *,
    bound: BoundName = "one-sided",
    max_other: SupportsIndex | None = None,
) -> float | None:
    """Return the radius that the counts of a fresh sample certify at level alpha, or None (abstain).

    `max_other`, the largest count among the other classes, is needed for the two-class bound alone.
    The bound is chosen before the counts are seen: the larger of both radii holds at 2·alpha only.
    """
    if _bound(bound) == "one-sided":
        return radius_one_sided(clopper_pearson_lower(count, n, alpha), sigma)
    if max_other is None:
        raise ConfigError(
            "max_other: expected the largest count of the other classes for bound='two-class', got None"
        )
    return radius_two_class(*two_class_bounds(count, max_other, n, alpha), sigma)


def monte_carlo_ceiling(
    sigma: float, n: SupportsIndex, alpha: float, bound: BoundName = "one-sided"
) -> float:
    """Return the largest radius that n draws at level alpha allow: every draw gave the top class.

    Formula: σΦ⁻¹(alpha^(1/n)), with alpha/2 for the two-class bound; rounded as `certified_radius`,
    which computes it, so that a saturated certificate equals the ceiling exactly. 0.0 where n is so
    small that every clip abstains (see `minimum_samples`). Source: Cohen et al., section 3.2.

    >>> print(f"{monte_carlo_ceiling(0.0025, 10_000, 0.001):.8f}")
    0.00799644
    >>> monte_carlo_ceiling(0.0025, 9, 0.001)
    0.0
    """
    return certified_radius(n, n, alpha, sigma, bound=bound, max_other=0) or 0.0


def minimum_samples(alpha: float, bound: BoundName = "one-sided") -> int:
    """Return the smallest n for which any certificate is possible.

    Formula: the smallest n > log2(1/alpha), with alpha/2 for the two-class bound, since alpha^(1/n)
    has to exceed ½. The candidates are tried on the code path that certifies.

    >>> minimum_samples(0.001), minimum_samples(0.001, "two-class")
    (10, 11)
    """
    level = _alpha("alpha", alpha) * (1.0 if _bound(bound) == "one-sided" else 0.5)
    n = max(1, math.floor(-math.log2(level)))
    while monte_carlo_ceiling(1.0, n, alpha, bound) == 0.0:
        n += 1
    return n


# --- a data set of certificates --------------------------------------------------------------------


def accuracy_interval(
    successes: SupportsIndex,
    m: SupportsIndex,
    confidence_alpha: float,
    per_clip_alpha: float,
    copies: SupportsIndex = 0,
) -> AccuracyInterval:
    """Return an interval for the certified accuracy of the population that the m clips were drawn from.

    A *success* is a clip that was certified at the radius in question with the correct label. Let S be
    that event for a fresh clip and fresh noise, and T the event that the certificate would be true: the
    smoothed classifier is right on the clip and on all that is nearer than the radius. Then, with
    probability at least 1 − confidence_alpha over clips and noise together, both

        lower ≤ P(S and T) ≤ P(T)          (the certified accuracy in truth)
        upper ≥ P(S) ≥ P(S and T)

    hold: [lower, upper] covers P(S and T), the share of the population that the procedure certifies and
    is right about, and `lower` bounds P(T) too. P(T) has no upper bound, since an abstention proves
    nothing.

    Formula: with [L, U] the Clopper-Pearson interval of successes / m at confidence_alpha/2 for each end
    and a = per_clip_alpha, lower = max(0, (L − a)/(1 − a)), upper = U.

    Proof. The m clips are independent, and so is their noise, so successes is Bin(m, P(S)), and
    L ≤ P(S) ≤ U fails with probability at most confidence_alpha. Whatever the clip, P(S | not T) ≤ a.
    With q = P(S and T) ≤ P(T): P(S) = q + P(S and not T) ≤ q + a(1 − P(T)) ≤ q + a(1 − q), and so
    q ≥ (P(S) − a)/(1 − a). False certificates and the sampling of clips are thus one binomial draw,
    and the confidence need not be split between them. (Conditionally on a test set they are two: see
    `fixed_set_accuracy_lower`.)

    copies: how many of the m clips are copies of others among them, with the same samples and so the same noise. Of
    the m − copies recordings that are left, each once, at least successes − copies and at most successes are
    successes; the ends grow with that number, so each is taken at the one that claims less. The distinct recordings are
    taken to be the independent draws; a list drawn with replacement from recordings of unequal weights is not covered.

    It holds for one radius that was chosen before the counts were seen, not for a whole curve at once
    (`accuracy_band` does), and not for speakers or recordings shared between clips. per_clip_alpha = 0 gives the plain
    interval of an accuracy without certificates.
    Source: ours; Cohen et al., appendix, correct for false certificates on a fixed test set only.
    """
    s, size, level, a = _accuracy_arguments(successes, m, confidence_alpha, per_clip_alpha)
    spare = _integer("copies", copies, 0, size - 1, "m - 1")
    once = size - spare
    raw = Fraction(_lower(max(0, s - spare), once, level / 2.0))
    lower = max(Fraction(0), (raw - Fraction(a)) / (1 - Fraction(a)))
    return AccuracyInterval(_round_down(lower), _one_minus(_lower(once - min(s, once), once, level / 2.0)))


def accuracy_band(
    successes: Sequence[SupportsIndex],
    m: SupportsIndex,
    confidence_alpha: float,
    per_clip_alpha: float,
    copies: SupportsIndex = 0,
) -> list[AccuracyInterval]:
    """Return intervals as `accuracy_interval`, one a radius of a grid, that hold *together* at confidence_alpha.

    successes: how many of the m clips were certified, with their own label, at each radius. The grid is fixed
    before the counts are seen; after that, any of its radii may be picked and quoted.

    Formula: with G radii, `accuracy_interval` at confidence_alpha/G each. Proof: the union bound; each is wrong with
    probability at most confidence_alpha/G, however they depend on each other. G = 10 makes an interval
    about 1.4 times as wide.
    """
    if not successes:
        raise ConfigError("successes: expected a count for each of one radius or more, got none")
    level = _alpha("confidence_alpha", confidence_alpha) / len(successes)
    return [accuracy_interval(s, m, level, per_clip_alpha, copies) for s in successes]


def fixed_set_accuracy_lower(
    successes: SupportsIndex, m: SupportsIndex, confidence_alpha: float, per_clip_alpha: float
) -> float:
    """Return a lower bound for the true certified accuracy on these m clips (no sampling of clips).

    With probability at least 1 − confidence_alpha over the noise, at least this share of the m clips has
    a smoothed classifier that is right within the radius in question. No clip may be a copy of another: copies share
    their noise.

    Formula: (m − f)/m, f the largest number with P(Bin(f, per_clip_alpha) ≥ f − (m − successes)) >
    confidence_alpha.

    Proof. Let F be the number of clips for which the claim is false; it is fixed, if unknown. Each of
    them is certified with probability at most per_clip_alpha, independently, and at least
    F − (m − successes) of them are among the successes. So P(Bin(F, per_clip_alpha) ≥ what was seen) is
    a valid p-value for F, and the test accepts every f up to the largest, since one clip more in f
    raises the threshold by one and the count by at most one. It is never below the usual correction, a
    quantile of Bin(m, per_clip_alpha) taken off the successes.
    Source: Cohen et al., appendix, in the exact form instead of Bernstein's inequality.
    """
    s, size, level, a = _accuracy_arguments(successes, m, confidence_alpha, per_clip_alpha)
    missed = size - s

    def accepted(false: int) -> bool:
        return false == missed or _tail(false - missed, false, a) * (1.0 + _tail_error(size)) > level

    low, high = missed, size + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepted(middle) else (low, middle)
    return _round_down(Fraction(size - low, size))


# --- numbers in print ------------------------------------------------------------------------------


def format_down(x: float, *, decimals: int | None = None, significant: int | None = None) -> str:
    """Write x in decimal, rounded toward −∞ from the exact value of the double.

    Give `decimals` (places after the point) or `significant` (digits; 6 where neither is given). The
    string stands for a number that is never larger than x: a radius of 1.2497 reads 1.24, not 1.25.
    """
    return _format(x, decimals, significant, ROUND_FLOOR)


def format_up(x: float, *, decimals: int | None = None, significant: int | None = None) -> str:
    """Write x in decimal, rounded toward +∞ from the exact value of the double (see `format_down`)."""
    return _format(x, decimals, significant, ROUND_CEILING)


def _format(x: float, decimals: int | None, significant: int | None, rounding: str) -> str:
    if decimals is not None and significant is not None:
        raise ConfigError(f"expected decimals or significant, got both ({decimals} and {significant})")
    exact = Decimal(_number("x", x, "a value (not NaN)", lambda v: not math.isnan(v)))
    if exact.is_infinite():
        return "inf" if exact > 0 else "-inf"
    if decimals is not None:
        places = -_integer("decimals", decimals, 0, 100)
        rounded = exact.quantize(Decimal((0, (1,), places)), rounding, _EXACT)
        return format(rounded.copy_abs() if rounded.is_zero() else rounded, "f")
    digits = 6 if significant is None else _integer("significant", significant, 1, 100)
    if exact.is_zero():
        return "0"
    places = exact.adjusted() - digits + 1
    rounded = exact.quantize(Decimal((0, (1,), places)), rounding, _EXACT)
    # 9.996 may have become 10.00: one digit too many, and that digit is a zero.
    rounded = rounded.quantize(Decimal((0, (1,), rounded.adjusted() - digits + 1)), rounding, _EXACT)
    return format(rounded, "f" if -5 <= rounded.adjusted() < 16 else "e")


# --- arithmetic ------------------------------------------------------------------------------------


def _tail_error(n: int) -> float:
    """Return the room left for the relative error of `_tail`: 1e-9, in proportion to n above a million."""
    return 1e-9 * max(1.0, n / 1e6)


def _tail(k: int, n: int, p: float) -> float:
    """Return P(Bin(n, p) ≥ k) for 0 ≤ k ≤ n."""
    from scipy.special import betainc

    return 1.0 if k == 0 else float(betainc(k, n - k + 1, p))


def _lower(k: int, n: int, alpha: float) -> float:
    """Return the Clopper-Pearson lower bound; arguments are known to be good."""
    from scipy.special import betaincinv

    if k == 0:
        return 0.0
    if k == n:
        return _root_down(alpha, n)
    target = alpha * (1.0 - _tail_error(n))
    p = float(betaincinv(k, n - k + 1, target))
    step = math.ulp(p)
    while not _tail(k, n, p) <= target:
        p = max(0.0, p - step)  # in this order, so that a NaN turns into the trivial bound
        step *= 2.0
    return p


def _root_down(alpha: float, n: int) -> float:
    """Return alpha^(1/n), rounded down: n·ln p ≤ ln alpha, compared at 60 digits."""
    ln_alpha = _LOGARITHMS.ln(Decimal(alpha))
    p = math.nextafter(alpha ** (1.0 / n), 1.0)
    while _LOGARITHMS.multiply(Decimal(n), _LOGARITHMS.ln(Decimal(p))) > ln_alpha:
        p = math.nextafter(p, 0.0)
    return p


def _quantile_down(p: float) -> float:
    """Return Φ⁻¹(p) for 0 < p < 1, rounded down."""
    from scipy.special import ndtri

    z = float(ndtri(p))
    return z - abs(z) * _QUANTILE_ERROR


def _quantile_up(p: float) -> float:
    """Return Φ⁻¹(p) for 0 < p < 1, rounded up."""
    from scipy.special import ndtri

    z = float(ndtri(p))
    return z + abs(z) * _QUANTILE_ERROR


def _positive(radius: float) -> float | None:
    """Round down once more, for the product that made the radius; None where nothing is left."""
    radius = math.nextafter(radius, 0.0)
    return radius if radius > 0.0 else None


def _one_minus(p: float) -> float:
    """Return 1 − p, rounded up."""
    q = 1.0 - p
    return math.nextafter(q, 2.0) if Fraction(q) < 1 - Fraction(p) else q


def _round_down(x: Fraction) -> float:
    nearest = float(x)
    return math.nextafter(nearest, -math.inf) if Fraction(nearest) > x else nearest


# --- arguments -------------------------------------------------------------------------------------


def _number(name: str, x: float, expected: str, good: Callable[[float], bool]) -> float:
    if not (isinstance(x, numbers.Real) and good(float(x))):
        raise ConfigError(f"{name}: expected a number with {expected}, got {x!r}")
    return float(x)


def _alpha(name: str, alpha: float) -> float:
    expected = f"{_SMALLEST_ALPHA} <= {name} < 1 (a probability of error)"
    return _number(name, alpha, expected, lambda a: _SMALLEST_ALPHA <= a < 1.0)


def _sigma(sigma: float) -> float:
    return _number("sigma", sigma, "0 < sigma < inf", lambda s: 0.0 < s < math.inf)


def _bound(bound: BoundName) -> BoundName:
    if bound not in get_args(BoundName):
        known = did_you_mean(str(bound), get_args(BoundName))
        raise ConfigError(f"bound: expected 'one-sided' or 'two-class', got {bound!r}{known}")
    return bound


def _integer(name: str, x: SupportsIndex, low: int, high: int, high_name: str = "") -> int:
    try:
        value = operator.index(x)
    except TypeError:
        value = low - 1
    if not low <= value <= high:
        limit = f"{high_name} = {high}" if high_name else str(high)
        raise ConfigError(f"{name}: expected an integer from {low} to {limit}, got {x!r}")
    return value


def _count_of(count: SupportsIndex, n: SupportsIndex, name: str = "count") -> tuple[int, int]:
    size = _integer("n", n, 1, _LARGEST_N)
    return _integer(name, count, 0, size, "n"), size


def _accuracy_arguments(
    successes: SupportsIndex, m: SupportsIndex, confidence_alpha: float, per_clip_alpha: float
) -> tuple[int, int, float, float]:
    size = _integer("m", m, 1, _LARGEST_N)
    s = _integer("successes", successes, 0, size, "m")
    a = _number("per_clip_alpha", per_clip_alpha, "0 <= per_clip_alpha < 1", lambda v: 0.0 <= v < 1.0)
    return s, size, _alpha("confidence_alpha", confidence_alpha), a
