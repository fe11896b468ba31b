"""Sequential tests against exact arithmetic: their error, their operating figures and what they are made of.

Three references, none of which shares a line with the code: integers (one draw at a time, probabilities as
fractions of 2^BITS, so nothing is rounded), all sequences of draws for the smallest caps, and a float
recursion (one draw at a time) for the largest.
"""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from soundcert import sequential
from soundcert.errors import ConfigError
from soundcert.sequential import DecisionRule, decision_rule, largest_ratio

mp = mpmath.mp.clone()
mp.dps = 60
BITS = 100

RATIOS = [0.0, 0.1, 0.5, 1.0, 2.0, 2.5, 3.0, 3.8]
ALPHAS = [0.3, 0.05, 0.01, 0.001, 1e-6]


# --- independent references ------------------------------------------------------------------------


def failing_below(ratio: float) -> int:
    """Φ(−ratio)·2^BITS, rounded down: the smaller it is, the more a test accepts."""
    return int(mp.floor(mp.ncdf(-mp.mpf(ratio)) * 2**BITS))


def limits_of(rule: DecisionRule) -> dict[int, tuple[int, int]]:
    """(accept, reject) by look."""
    rows = zip(rule.looks.tolist(), rule.accept.tolist(), rule.reject.tolist(), strict=True)
    return {n: (accept, reject) for n, accept, reject in rows}


class Exact(NamedTuple):
    """Probabilities and expected draws; acceptance by look; what one count more at the cap would add."""

    accepted: Fraction
    rejected: Fraction
    samples: Fraction
    by_look: list[Fraction]
    one_more: Fraction


def by_integers(rule: DecisionRule, failing: int, *, give_up: bool) -> Exact:
    """What the rule does where a draw fails with probability failing / 2^BITS."""
    agreeing = 2**BITS - failing
    limits = limits_of(rule)
    last = int(rule.accept[-1]) + 1
    low, weights = 0, [1]  # of the (2^BITS)^n outcomes, so many have low, low + 1, … failures and go on
    accepted = rejected = samples = one_more = Fraction(0)
    by_look = []
    for n in range(1, rule.cap + 1):
        weights = [
            w * agreeing + before * failing for w, before in zip([*weights, 0], [0, *weights], strict=True)
        ]
        if not give_up:
            del weights[max(0, last + 1 - low) :]  # too many failures for any acceptance
        if n in limits:
            accept, reject = limits[n]
            ends = max(0, accept + 1 - low)
            down, weights, low = sum(weights[:ends]), weights[ends:], low + ends
            up = sum(weights[max(0, reject - low) :]) if give_up else 0
            if n == rule.cap:
                one_more = Fraction(sum(weights[:1]) if low == last else 0, 1 << (BITS * n))
            if give_up:
                del weights[max(0, reject - low) :]
            stopped = [Fraction(w, 1 << (BITS * n)) for w in (down, up)]
            accepted, rejected = accepted + stopped[0], rejected + stopped[1]
            samples += n * sum(stopped)
            by_look.append(stopped[0])
    if not give_up:
        rejected, samples = 1 - accepted, samples + rule.cap * (1 - accepted)
    return Exact(accepted, rejected, samples, by_look, one_more)


def by_sequences(rule: DecisionRule, failing: Fraction, *, give_up: bool) -> tuple[Fraction, Fraction]:
    """P(accepted) and the expected draws, summed over all 2^cap sequences of draws."""
    accepted = samples = Fraction(0)
    for draws in itertools.product((0, 1), repeat=rule.cap):
        chance = failing ** sum(draws) * (1 - failing) ** (rule.cap - sum(draws))
        for n in range(1, rule.cap + 1):
            verdict = rule.verdict(sum(draws[:n]), n)
            if verdict == "accepted" or (verdict == "rejected" and (give_up or n == rule.cap)):
                break
        accepted += chance * (verdict == "accepted")
        samples += chance * n
    return accepted, samples


def by_floats(rule: DecisionRule, failing: float, *, give_up: bool) -> tuple[float, float, float]:
    """P(accepted), P(rejected) and expected draws: one draw at a time, on a window of failure counts.

    Counts above the last acceptance and far above the mean are left out of the window, which is to
    `by_integers` what float64 is to fractions: 3·cap roundings, so a relative error under 1e-10.
    """
    limits = limits_of(rule)
    low, chance = 0, np.ones(1)
    accepted = rejected = samples = lost = 0.0
    for n in range(1, rule.cap + 1):
        grown = np.empty(len(chance) + 1)
        grown[:-1] = chance * (1.0 - failing)
        grown[-1] = 0.0
        grown[1:] += chance * failing
        chance = grown
        if n in limits:
            accept, reject = limits[n]
            ends = max(0, accept + 1 - low)
            down, chance, low = float(chance[:ends].sum()), chance[ends:], low + ends
            up = 0.0
            if give_up or n == rule.cap:
                keep = max(0, reject - low)
                up, chance = float(chance[keep:].sum()), chance[:keep]
            accepted, rejected, samples = accepted + down, rejected + up, samples + n * (down + up)
            above = np.cumsum(chance[::-1])
            cut = int(np.searchsorted(above, 1e-22))
            if cut:
                lost += float(above[cut - 1])
                chance = chance[:-cut]
    assert lost < 1e-18
    return accepted, rejected, samples


def rules_of(cap: int, alpha: float) -> list[DecisionRule]:
    """The tests of RATIOS that this cap allows, and that of the largest ratio."""
    most = largest_ratio(cap, alpha)
    found = [r for r in RATIOS if r < most] + ([most] if most > 0 else [])
    return [decision_rule(r, cap, alpha) for r in found]


def test_the_references_agree():
    for ratio, cap, alpha in [(0.0, 11, 0.05), (0.3, 10, 0.3), (1.0, 11, 0.3)]:
        rule = decision_rule(ratio, cap, alpha)
        failing = failing_below(ratio)
        for give_up in (False, True):
            exact = by_integers(rule, failing, give_up=give_up)
            assert exact.accepted + exact.rejected == 1
            assert by_sequences(rule, Fraction(failing, 2**BITS), give_up=give_up) == exact[0:3:2]
            floats = by_floats(rule, failing / 2**BITS, give_up=give_up)
            assert floats == pytest.approx([float(x) for x in exact[:3]], rel=1e-13)


# --- the error -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("cap", [1, 2, 3, 10, 11, 40, 120])
def test_the_error_in_exact_arithmetic(cap, alpha):
    """At most alpha over all looks, at most EARLY of it before the last, and not one count could be added."""
    for rule in rules_of(cap, alpha):
        failing = failing_below(rule.ratio)
        exact = by_integers(rule, failing, give_up=False)
        assert exact.accepted <= Fraction(alpha)
        assert sum(exact.by_look[:-1]) <= Fraction(sequential._EARLY) * Fraction(alpha)
        assert exact.by_look[-1] or exact.accepted  # some outcome is accepted
        more = rule.accept.copy()
        more[-1] += 1
        wider = DecisionRule(rule.ratio, alpha, rule.looks, more, np.maximum(rule.reject, more + 1))
        assert by_integers(wider, failing, give_up=False).accepted > Fraction(alpha) * (
            1 - Fraction(2, 10**9)
        )


def test_the_error_of_random_tests_in_exact_arithmetic():
    rng = random.Random(20260611)
    for _ in range(40):
        alpha = 10 ** rng.uniform(-12, -0.3)
        cap = rng.randint(math.ceil(-math.log2(alpha)) + 1, 120)
        ratio = rng.uniform(0, largest_ratio(cap, alpha))
        rule = decision_rule(ratio, cap, alpha, rng.choice([0.0, 0.003, 0.4]))
        assert by_integers(rule, failing_below(ratio), give_up=False).accepted <= Fraction(alpha)


def test_an_alpha_that_just_misses_one_count_more():
    """Alphas a hair below what one count more at the cap would spend: it is not taken."""
    for ratio, cap, first in [(0.0, 20, 0.05), (0.5, 30, 0.3), (1.0, 40, 0.05), (0.2, 12, 0.2)]:
        missed, alpha = 0, first
        for _ in range(8):
            exact = by_integers(decision_rule(ratio, cap, alpha), failing_below(ratio), give_up=False)
            assert exact.accepted <= Fraction(alpha)
            missed += exact.accepted + exact.one_more <= Fraction(alpha) * (1 + Fraction(1, 10**8))
            alpha = float(exact.accepted + exact.one_more) * (1 - 1e-10)
            if alpha >= 0.9:
                break
        assert missed  # such an alpha was tried


def test_the_worst_case_is_the_threshold():
    """More failures, fewer acceptances: exactly, whether the test gives up or not. And giving up only loses."""
    for ratio, cap, alpha in [(0.0, 60, 0.3), (1.0, 100, 0.05), (1.5, 60, 0.3)]:
        rule = decision_rule(ratio, cap, alpha, 0.2)
        failing = failing_below(ratio)
        chances = []
        for more in (0, 1, 10**6, 2**80, 2**95):
            free = by_integers(rule, failing + more, give_up=False).accepted
            stopped = by_integers(rule, failing + more, give_up=True).accepted
            assert stopped <= free
            chances.append(free)
        assert chances == sorted(chances, reverse=True)
        assert chances[0] > chances[-1]


@pytest.mark.parametrize("futility", [0.003, 0.1])
@pytest.mark.parametrize("cap", [40, 200])
def test_few_true_radii_are_given_up(cap, futility):
    """P(given up while a later look could still accept), at the smallest p for which the radius is true."""
    for ratio in (0.0, 0.5, 1.0):
        rule = decision_rule(ratio, cap, 0.01, futility)
        early = np.where(rule.reject <= rule.accept[-1], rule.reject, rule.looks + 1)
        never = np.full(len(rule.looks), -1)
        giving_up = DecisionRule(ratio, 0.01, rule.looks, never, early)
        given_up = by_integers(giving_up, failing_below(ratio), give_up=True).rejected
        assert given_up <= Fraction(futility) * (1 + Fraction(1, 10**9))
        assert cap < 200 or given_up > Fraction(futility) / 10


LARGE = [(0.0, 0.001, 3000), (1.0, 0.05, 3000), (2.0, 0.001, 10_000), (2.5, 1e-6, 10_000), (3.0, 0.3, 10_000)]
LARGEST = [
    (ratio, alpha, cap)
    for cap in (1000, 10_000, 100_000)
    for alpha in ALPHAS
    for ratio in [*RATIOS, -1.0]  # -1 for the largest
]


def check_large(ratio: float, alpha: float, cap: int) -> None:
    most = largest_ratio(cap, alpha)
    if ratio > most:
        return
    rule = decision_rule(most if ratio < 0 else ratio, cap, alpha)
    failing = float(mp.ncdf(-mp.mpf(rule.ratio)))
    accepted, _, _ = by_floats(rule, failing, give_up=False)
    assert 0.6 * alpha * 0.01 < accepted <= alpha * (1 - 5e-10)
    free = rule.operating(1.0 - failing, give_up=False)
    assert free.accepted == pytest.approx(accepted, rel=1e-7)  # 1 − failing has lost digits of failing


@pytest.mark.parametrize(("ratio", "alpha", "cap"), LARGE)
def test_the_error_of_large_caps(ratio, alpha, cap):
    check_large(ratio, alpha, cap)


@pytest.mark.long
@pytest.mark.parametrize(("ratio", "alpha", "cap"), LARGEST)
def test_the_error_of_large_caps_at_length(ratio, alpha, cap):
    check_large(ratio, alpha, cap)


# --- operating -------------------------------------------------------------------------------------


@pytest.mark.parametrize("give_up", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.5, 0.75, 0.875, 1 - 2**-10, 1.0])  # exact, and 1 − p too
@pytest.mark.parametrize(("ratio", "cap", "alpha"), [(0.0, 100, 0.001), (1.0, 150, 0.01), (2.0, 200, 0.05)])
def test_operating_in_exact_arithmetic(ratio, cap, alpha, p, give_up):
    rule = decision_rule(ratio, cap, alpha)
    exact = by_integers(rule, round((1 - p) * 2**BITS), give_up=give_up)
    found = rule.operating(p, give_up=give_up)
    assert found.accepted == pytest.approx(float(exact.accepted), abs=1e-12)
    assert found.samples == pytest.approx(float(exact.samples), rel=1e-12, abs=1e-9)
    if give_up:
        assert found.rejected == pytest.approx(float(exact.rejected), abs=1e-12)


@pytest.mark.parametrize(("ratio", "p", "cap"), [(0.0, 0.52, 10_000), (1.0, 0.85, 5000), (2.0, 0.99, 20_000)])
def test_operating_of_large_caps(ratio, p, cap):
    rule = decision_rule(ratio, cap, 0.001)
    assert rule.operating(p) == pytest.approx(by_floats(rule, 1.0 - p, give_up=True), rel=1e-9, abs=1e-12)


# --- what the tests are made of --------------------------------------------------------------------


def relative_error(found: float, k: int, n: int, p: float) -> float:
    """|found/P(Bin(n, p) = k) − 1|, from integers; only the last step rounds."""
    top, bottom = p.as_integer_ratio()
    exact = math.comb(n, k) * top**k * (bottom - top) ** (n - k)
    mine, below = found.as_integer_ratio()
    gap = abs(mine * bottom**n - exact * below)
    shift = max(0, exact.bit_length() - 200)
    return float(Fraction(gap >> shift, (exact * below) >> shift))


def walked(rule: DecisionRule) -> list[tuple[int, int, int]]:
    """(draws, low, high) of each step of the calculation, for the counts that carry weight."""
    failing = float(ndtr(-rule.ratio))
    steps = []
    for draws in np.diff(rule.looks, prepend=0).tolist():
        low = int(binom.ppf(1e-18, draws, failing))
        steps.append((draws, low, draws - int(binom.ppf(1e-18, draws, 1.0 - failing))))
    return steps


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_binomial_probabilities_are_as_exact_as_the_room_assumes(ratio):
    """Their relative errors, added over all looks, and those of the sums: together below _ROOM."""
    rng = random.Random(5)
    rule = decision_rule(ratio, 100_000, 0.001)
    failing = float(ndtr(-ratio)) * (1 - 1e-13)
    largest: dict[int, float] = {}
    steps = walked(rule)
    for draws, low, high in steps[:: max(1, len(steps) // 25)]:
        counts = {low, high, *(rng.randint(low, high) for _ in range(3))}
        largest[draws] = max(
            relative_error(float(binom.pmf(k, draws, failing)), k, draws, failing) for k in counts
        )
    width = max(high - low for _, low, high in steps) + 2
    assert max(largest.values()) < 1e-12
    assert len(steps) * (max(largest.values()) + width * 2**-52) < sequential._ROOM


def test_phi_is_rounded_down(monkeypatch):
    """The failure probability that a test is made for is at most Φ(−r/σ), where r/σ is rounded too."""
    used: list[float] = []
    monkeypatch.setattr(sequential, "_boundary", lambda p, looks, _: used.append(p) or np.zeros_like(looks))
    rng = random.Random(6)
    for _ in range(1000):
        sigma = 10 ** rng.uniform(-3, 2)
        r = sigma * rng.uniform(0, 4.4)
        decision_rule.__wrapped__(r / sigma, 2_000_000, 0.3, 0.0)
        exact = mp.ncdf(-mp.mpf(r) / mp.mpf(sigma))
        assert exact * (1 - 2 * mp.mpf(sequential._PHI_ROOM)) < used.pop() <= exact


@pytest.mark.parametrize("step", [0.5, 0.16, 0.97])
def test_what_is_cut_off_is_counted(step):
    """A walk that cuts coarsely, so that it can be seen: never too much probability, and `lost` is no less."""
    walk = sequential._Walk(step, 1e-6)
    top, bottom = step.as_integer_ratio()
    exact, absorbed = {0: Fraction(1)}, 0.0
    missing_seen = False
    for n in (30, 37, 60, 61, 100):
        for _ in range(n - walk.n):
            grown: dict[int, Fraction] = {}
            for k, w in exact.items():
                grown[k] = grown.get(k, Fraction(0)) + w * Fraction(bottom - top, bottom)
                grown[k + 1] = grown.get(k + 1, Fraction(0)) + w * Fraction(top, bottom)
            exact = grown
        walk.advance(n)
        kept = {walk.low + j: d for j, d in enumerate(walk.density.tolist())}
        assert all(d <= float(exact.get(k, 0)) * (1 + 1e-12) for k, d in kept.items())
        missing = float(sum(w - Fraction(kept.get(k, 0.0)) for k, w in exact.items()))
        missing_seen |= missing > 1e-10
        gone = int(n * step - 2.5 * math.sqrt(n * step * (1 - step)))
        end = [exact.pop(k) for k in list(exact) if k <= gone]
        short = float(sum(end)) - walk.absorb_below(gone)
        assert short >= -1e-12
        absorbed += short
        assert missing + absorbed - short <= walk.lost + 1e-12
        assert absorbed <= walk.lost + 1e-12
    assert missing_seen


# --- shape, verdicts and looks ---------------------------------------------------------------------


SHAPES = [
    (0.0, 11, 0.001, 0.003),
    (0.0, 300, 0.001, 0.003),
    (1.0, 200, 0.05, 0.0),
    (1.0, 200, 0.05, 0.45),
    (2.0, 301, 0.001, 0.003),
    (0.5, 5, 0.3, 0.003),
    (0.0, 1, 0.6, 0.003),
    (0.0, 400, 0.9, 0.003),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(shape):
    rule = decision_rule(*shape)
    assert rule.cap == shape[1] == rule.looks[-1]
    assert (np.diff(rule.looks) > 0).all() and rule.looks[0] >= 1
    assert (np.diff(rule.accept) >= 0).all() and 0 <= rule.accept[-1] < rule.cap
    assert (rule.reject > rule.accept).all()
    assert (rule.reject <= rule.accept[-1] + 1).all()
    assert rule.reject[-1] == rule.accept[-1] + 1  # the cap always decides
    if shape[3] == 0.0:
        # It gives up where nothing can be accepted any more, and nowhere else.
        assert (rule.reject == np.minimum(rule.accept[-1], rule.looks) + 1).all()
    assert all(rule.verdict(f, rule.cap) for f in range(rule.cap + 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_verdict_can_fall_before_the_next_look(shape):
    rule = decision_rule(*shape)
    looks = [int(n) for n in rule.looks]
    # What failure counts may be reached at each look without a verdict so far:
    for n in range(rule.cap):
        later = [look for look in looks if look > n]
        for failures in range(0, n + 1, max(1, n // 12)):
            said = rule.next_look(failures, n)
            assert said in later
            for look in later:
                verdicts = {rule.verdict(failures + more, look) for more in (0, look - n)}
                # Verdicts are monotone in the count: if neither end has one, look in between.
                verdicts |= {
                    rule.verdict(f, look)
                    for f in (int(rule.accept[looks.index(look)]), int(rule.reject[looks.index(look)]))
                    if failures <= f <= failures + look - n
                }
                if verdicts != {None}:
                    assert look == said
                    break


def test_verdicts_fall_at_looks_alone():
    rule = decision_rule(0.5, 100, 0.05)
    for n in range(150):
        if n not in rule.looks:
            assert {rule.verdict(f, n) for f in range(n + 1)} == {None}
            continue
        i = int(np.searchsorted(rule.looks, n))
        for f in range(n + 1):
            expected = "accepted" if f <= rule.accept[i] else "rejected" if f >= rule.reject[i] else None
            assert rule.verdict(f, n) == expected


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.9, *ALPHAS, 1e-12])
@pytest.mark.parametrize("cap", [1, 7, 10, 11, 20, 41, 100, 1000])
def test_the_largest_ratio_can_be_accepted_and_no_larger(cap, alpha):
    most = largest_ratio(cap, alpha)
    if most > 0:
        assert decision_rule(most, cap, alpha).accept[-1] == 0
    with pytest.raises(ConfigError, match="can never be certified"):
        decision_rule(max(0.0, most + 1e-6 * (1 + abs(most))), cap, alpha)


def test_an_alpha_near_one_is_refused_or_can_be_accepted():
    assert decision_rule(largest_ratio(10, 0.999), 10, 0.999).accept[-1] == 0


def test_what_is_cached_cannot_be_changed():
    rule = decision_rule(1.0, 100, 0.05)
    assert not any(array.flags.writeable for array in (rule.looks, rule.accept, rule.reject))


def test_what_carries_no_weight_is_not_computed():
    walk = sequential._Walk(0.5, 1e-20)
    walk.advance(40_000)
    rows: list[int] = []
    convolve = np.convolve
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "convolve", lambda a, v: rows.append(len(v)) or convolve(a, v))
        walk.advance(60_000)
    assert rows[0] < 3000  # 20 standard deviations are 1414


@pytest.mark.parametrize(
    ("ratio", "alpha", "needed"), [(0.0, 0.001, 10), (1.0, 0.001, 40), (3.0, 0.001, 5114), (2.0, 0.05, 131)]
)
def test_the_refusal_names_the_smallest_n(ratio, alpha, needed):
    with pytest.raises(ConfigError, match=rf"radius {ratio:g}σ .* n = {needed - 1} .*use n ≥ {needed},"):
        decision_rule(ratio, needed - 1, alpha)
    assert decision_rule(ratio, needed, alpha).accept[-1] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((-0.1, 100, 0.01), "a radius to decide must be from 0"),
        ((math.inf, 100, 0.01), "a radius to decide must be from 0"),
        ((math.nan, 100, 0.01), "a radius to decide must be from 0"),
        ((40.0, 100, 0.01), "more than can be drawn"),
        ((1.0, 100, 0.0), "alpha must be from 1e-12"),
        ((1.0, 100, 1.0), "alpha must be from 1e-12"),
        ((1.0, 100, 1e-13), "alpha must be from 1e-12"),
        ((1.0, 100, math.nan), "alpha must be from 1e-12"),
        ((1.0, 0, 0.01), "n must be from 1"),
        ((1.0, 2_000_001, 0.01), "n must be from 1 to 2000000"),
        ((1.0, 100, 0.01, -0.1), "futility must be"),
        ((1.0, 100, 0.01, 1.0), "futility must be"),
    ],
)
def test_impossible_tests_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        decision_rule(*arguments)
