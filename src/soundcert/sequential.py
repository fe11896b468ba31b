"""Sequential tests of "the radius is at least r", calibrated exactly.

Conventions
-----------
- A *failure* is a draw that did not give the class in question. Tests count failures f among the n draws
  made so far, since near p = 1 there are few of them.
- A test has *looks*: sample sizes n_1 < … < n_K = cap, fixed beforehand. At look i it accepts if
  f ≤ accept[i] and gives up if f ≥ reject[i].
- `alpha` is the probability that a false statement is accepted at any look, at most. Giving up is
  *non-binding*: the error is computed as if the test never gave up, so whoever goes on loses nothing.
- Everything is float64. What a computation may lose (binomial tails that are cut off, rounding) is counted as
  error already spent.

The boundary is a group-sequential one (Lan and DeMets 1983, Biometrika 70, 659) with the exact binomial
distribution in place of Brownian motion: a spending function says how much of alpha may have been used by
each look, and dynamic programming over the failure count finds the largest acceptance region that uses no
more. P(f ≤ accept[i] at some look) falls as the failure probability rises (draws can be coupled), so the
worst case of "p ≤ τ" is p = τ, where it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from soundcert.errors import ConfigError

Verdict = Literal["accepted", "rejected"]
#: Chance of giving up on a radius that is true, at most.
FUTILITY = 0.003

# How alpha is shared out: EARLY of it by looks before the last, evenly in log n, since the sample size that
# will be needed is not known even in order of magnitude; the rest at the cap, which keeps nearly the power of
# the published test there. Tried on the rows of tests/reference/test_sequential_figures.py.
_EARLY = 0.6
_FIRST = 0.02
# A look at every draw would stop earliest; looks 2 % apart cost 1 % more draws and a hundredth of the work.
_STEP = 1.02
_COARSE_FROM, _COARSE = 8, 1.25
_MAX_CAP = 2_000_000
_SMALLEST_ALPHA = 1e-12
# Relative error of a binomial probability and of the sums of them, and that of Φ: measured below 1e-11 and
# 1e-15 (tests/reference/test_sequential_exact.py).
_ROOM = 1e-9
_PHI_ROOM = 1e-13
# Mass cut off at each look, as a share of the error that may be spent: under _ROOM over all looks together.
_CUT = 1e-14


class Operating(NamedTuple):
    """What a test does where each draw gives the class with probability p."""

    accepted: float
    rejected: float
    samples: float


@dataclass(frozen=True, eq=False)
class DecisionRule:
    """Sequential test of H0: p ≤ Φ(ratio) against p > Φ(ratio), that is of "R > ratio·σ".

    looks, accept, reject: int64 arrays of one length; accept[i] = −1 where look i cannot accept.
    """

    ratio: float
    alpha: float
    looks: np.ndarray
    accept: np.ndarray
    reject: np.ndarray

    @property
    def cap(self) -> int:
        return int(self.looks[-1])

    def verdict(self, failures: int, n: int) -> Verdict | None:
        """Return what look n says, None where it says nothing or where n is no look."""
        i = int(np.searchsorted(self.looks, n))
        if i == len(self.looks) or self.looks[i] != n:
            return None
        if failures <= self.accept[i]:
            return "accepted"
        return "rejected" if failures >= self.reject[i] else None

    def next_look(self, failures: int, n: int) -> int:
        """Return the first look after n draws at which a verdict is possible, whatever the draws give."""
        later = slice(int(np.searchsorted(self.looks, n, side="right")), None)
        looks = self.looks[later]
        possible = (failures <= self.accept[later]) | (failures + looks - n >= self.reject[later])
        return int(looks[int(np.argmax(possible))]) if possible.any() else self.cap

    def operating(self, p: float, *, give_up: bool = True) -> Operating:
        """Return the probabilities of each verdict and the expected draws, exactly but for 1e-12."""
        accepted = rejected = samples = 0.0
        walk = _Walk(1.0 - p, 1e-16)
        for n, low, high in zip(self.looks, self.accept, self.reject, strict=True):
            walk.advance(int(n))
            down = walk.absorb_below(int(low))
            up = walk.absorb_above(int(high)) if give_up else 0.0
            accepted, rejected = accepted + down, rejected + up
            samples += int(n) * (down + up)
        return Operating(accepted, rejected, samples + self.cap * walk.mass)


@lru_cache(maxsize=256)
def decision_rule(ratio: float, cap: int, alpha: float, futility: float = FUTILITY) -> DecisionRule:
    """Return the test of "R > ratio·σ" with at most `cap` draws and error at most alpha.

    ratio: r/σ, from 0. Raises ConfigError where not even `cap` agreeing draws could be accepted.
    Its error is Σ_i P(f ≤ accept[i] at look i and at none before), at failure probability Φ(−ratio).
    """
    from scipy.special import ndtr

    if not (math.isfinite(ratio) and ratio >= 0):
        raise ConfigError(f"a radius to decide must be from 0, got {ratio!r}σ")
    if not _SMALLEST_ALPHA <= alpha < 1:
        raise ConfigError(f"alpha must be from {_SMALLEST_ALPHA:g} and below 1 to decide, got {alpha!r}")
    if not 1 <= cap <= _MAX_CAP:
        raise ConfigError(f"n must be from 1 to {_MAX_CAP} to decide, got {cap!r}")
    if not 0 <= futility < 1:
        raise ConfigError(f"futility must be from 0 and below 1, got {futility!r}")
    # The smaller the failure probability of H0, the more it is accepted: rounded down.
    failing = float(ndtr(-ratio)) * (1.0 - _PHI_ROOM)
    alone = math.log(alpha * (1.0 - 2 * _ROOM)) / math.log1p(-failing) if failing > 0 else math.inf
    if alone > cap:
        raise ConfigError(
            f"radius {ratio:.6g}σ can never be certified with n = {cap} draws at alpha = {alpha:g}: "
            f"use n ≥ {math.ceil(alone) if alone < 1e15 else 'more than can be drawn'}, or a smaller radius"
        )
    first = max(1, int(alone))
    looks = _looks(first, cap)
    shares = _EARLY * _spending(looks, first)
    shares[-1] = 1.0
    accept = _boundary(failing, looks, alpha * (1.0 - _ROOM) * shares)
    # The other way round, successes are counted, and few of them speak for giving up.
    give_up = futility * _spending(looks, int(looks[0]))
    few = _boundary(1.0 - failing, looks, give_up) if futility else np.full(len(looks), -1)
    reject = np.where(few >= 0, looks - few, looks + 1)
    reject = np.minimum(reject, accept[-1] + 1)  # from here on no later look could accept
    reject = np.maximum(reject, accept + 1)
    for array in (looks, accept, reject):
        array.setflags(write=False)
    return DecisionRule(ratio, alpha, looks, accept, reject)


def largest_ratio(cap: int, alpha: float) -> float:
    """Return the largest r/σ that `cap` draws could decide, rounded down: Φ⁻¹(alpha^{1/cap})."""
    from scipy.special import ndtri

    return float(-ndtri(-math.expm1(math.log(alpha * (1.0 - 2 * _ROOM)) / cap))) * (1 - 1e-8) - 1e-8


def _looks(first: int, cap: int) -> np.ndarray:
    """Return the looks: from `first` on, where accepting begins; coarser ones before it only give up."""
    looks = []
    n = min(first, _COARSE_FROM)
    while n < cap:
        looks.append(n)
        n = max(n + 1, math.ceil(n * _STEP)) if n >= first else min(first, math.ceil(n * _COARSE))
    return np.array([*looks, cap], dtype=np.int64)


def _spending(looks: np.ndarray, first: int) -> np.ndarray:
    """Return the share that may have been spent by each look: from _FIRST to 1, evenly in log n from `first`."""
    if looks[-1] <= first:
        return np.ones(len(looks))
    x = np.log(np.maximum(looks / first, 1.0)) / math.log(looks[-1] / first)
    shares: np.ndarray = (x + _FIRST) / (1.0 + _FIRST)
    return shares


def _boundary(failing: float, looks: Sequence[int] | np.ndarray, spend: np.ndarray) -> np.ndarray:
    """Return, per look, the largest count to stop at, such that P(stopped by look i) ≤ spend[i].

    failing: probability that one draw adds to the count. −1 where a look cannot stop yet.
    """
    walk = _Walk(failing, _CUT * float(spend[0]))
    spent = 0.0
    stops = np.empty(len(looks), dtype=np.int64)
    last = -1
    for i, n in enumerate(looks):
        walk.advance(int(n))
        room = spend[i] - spent - walk.lost
        states = int(np.searchsorted(np.cumsum(walk.density), room, side="right"))
        if states:
            last = walk.low + states - 1
            spent += walk.absorb_below(last)
        stops[i] = last
    return stops


class _Walk:
    """Distribution of a count that grows by Bin(draws, step) and is absorbed at its ends.

    `density[j]` is the probability of count `low + j`, not absorbed so far; `lost` bounds what was cut off.
    """

    def __init__(self, step: float, cut: float) -> None:
        self.step, self.cut = step, cut
        self.n, self.low, self.lost = 0, 0, 0.0
        self.density = np.ones(1)

    @property
    def mass(self) -> float:
        return float(self.density.sum())

    def advance(self, n: int) -> None:
        """Go on to n draws."""
        from scipy.stats import binom

        draws, self.n = n - self.n, n
        if not len(self.density):
            return
        low = int(max(0, binom.ppf(self.cut, draws, self.step) - 1))
        # Not isf, which gives up below 1e-16 and keeps every count.
        high = int(draws - max(0, binom.ppf(self.cut, draws, 1.0 - self.step) - 1))
        self.density = np.convolve(self.density, binom.pmf(np.arange(low, high + 1), draws, self.step))
        self.low += low
        self.lost += 2 * self.cut
        tail = int(np.searchsorted(np.cumsum(self.density[::-1]), self.cut, side="right"))
        if tail:
            self.density = self.density[: len(self.density) - tail]
            self.lost += self.cut

    def absorb_below(self, count: int) -> float:
        """Take away the states up to `count` and return their probability."""
        states = max(0, count - self.low + 1)
        taken = float(self.density[:states].sum())
        self.density = self.density[states:]
        self.low += states
        return taken

    def absorb_above(self, count: int) -> float:
        """Take away the states from `count` on and return their probability."""
        states = max(0, count - self.low)
        taken = float(self.density[states:].sum())
        self.density = self.density[:states]
        return taken
