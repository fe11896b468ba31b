"""Sampling policies: how many draws a certificate takes, each valid at its alpha whatever the data.

Every policy draws in two separate purposes. Selection (or pilot) draws choose the class and the plan;
fresh estimation draws make the statement. Whatever is done with the first cannot bias the second.

- fixed (no policy): n0 draws select, n draws estimate. Cohen et al. 2019, Algorithm 1.
- decide: sequential tests of given radii (`soundcert.sequential`). A radius counts only if every smaller one
  of the grid was accepted: the hypotheses "R ≤ r" are nested, so whoever accepts a false radius has accepted
  the smallest false one too, and that happens with probability at most alpha. No correction for their number.
- estimate: a pilot chooses the class and n; a fresh Clopper-Pearson bound at full alpha from n draws.
- budget: as estimate, with the n of all clips chosen together from all pilots.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from soundcert import bounds
from soundcert.config import Budget, Decide, Estimate, Policy
from soundcert.errors import ConfigError
from soundcert.sampling import CHUNK, Draw, Plan, counting, tally
from soundcert.sequential import DecisionRule, Verdict, decision_rule, largest_ratio

#: Selection ends early, under a policy, where the first class leads by so many votes.
LEAD = 10
# A pilot goes on until it has a twentieth of the draws that it asks for: then its own cost is small.
_PILOT_SHARE = 0.05
# Steps of the sample sizes that are weighed: for one clip, and for all clips of a budget together.
_FINE, _COARSE = 1.01, 1.1


@dataclass(frozen=True)
class Sampled:
    """What the draws of one clip gave.

    top: index of the class. counts: votes per class of the n estimation draws; first: draws that chose the
    class and the plan. accepted: for decide, how many of the radii hold, from the smallest up.
    """

    top: int
    counts: np.ndarray
    n: int
    first: int
    accepted: int = 0

    @property
    def passes(self) -> int:
        return self.first + self.n


def check_policy(policy: Policy | None, n: int, alpha: float, sigma: float) -> None:
    """Refuse, before any pass, what could never be certified. ConfigError says what could."""
    if isinstance(policy, Decide):
        most = largest_ratio(n, alpha) * sigma
        if policy.radii[-1] > most:
            raise ConfigError(
                f"decide: radius {policy.radii[-1]:g} can never be certified with n = {n} draws at alpha = {alpha:g} "
                f"and σ = {sigma:g}: the largest is {bounds.format_down(most, significant=6)}; raise n or leave it out"
            )
        rules(policy, sigma, n, alpha)


def plan_of(
    policy: Policy | None, *, classes: int, n0: int, n: int, alpha: float, sigma: float, least: int = 1
) -> Plan[Sampled]:
    """Return one clip's plan. A budget needs the pilots of all clips: see `pilot_plan`, `share_out` and `known`.

    least: draws that a sequential test asks for at a time, even if fewer might end it. The result is the same: what
    lies beyond the look that ends it is not counted.
    """
    if isinstance(policy, Decide):
        return _decide(rules(policy, sigma, n, alpha), classes, n0, least)
    if isinstance(policy, Estimate):
        return _estimate(policy, classes, n0, n, alpha)
    if isinstance(policy, Budget):
        raise ConfigError("a budget is shared by the clips of a run: certify them together")
    return _fixed(classes, n0, n)


def rules(policy: Decide, sigma: float, n: int, alpha: float) -> list[DecisionRule]:
    """Return the test of each radius."""
    return [decision_rule(r / sigma, n, alpha, policy.futility) for r in policy.radii]


# --- fixed -----------------------------------------------------------------------------------------


def _fixed(classes: int, n0: int, n: int) -> Plan[Sampled]:
    selected = yield from counting("selection", n0, classes)
    counts = yield from counting("estimation", n, classes)
    return Sampled(int(selected.argmax()), counts, n, n0)


# --- decide ----------------------------------------------------------------------------------------


def _select(classes: int, n0: int) -> Plan[tuple[int, int]]:
    """Plan: the class that leads by LEAD votes, or that leads after n0; and the draws it took."""
    counts = np.zeros(classes, dtype=np.int64)
    n = 0
    while n < n0:
        second, first = np.sort(counts)[-2:] if classes > 1 else (0, counts[0])
        if first - second >= LEAD:
            break
        seen = yield Draw("selection", min(n0 - n, LEAD - int(first - second)))
        counts += tally(seen, classes)
        n += len(seen)
    return int(counts.argmax()), n


class GridTest:
    """Where the tests of a grid of radii stand after the draws fed so far."""

    def __init__(self, tests: Sequence[DecisionRule]) -> None:
        self.tests = tests
        self.verdicts: list[Verdict | None] = [None] * len(tests)
        self.failures = self.n = 0

    @property
    def accepted(self) -> int:
        """How many radii hold: those accepted, up to the first that was not."""
        return next((i for i, v in enumerate(self.verdicts) if v != "accepted"), len(self.verdicts))

    @property
    def open(self) -> list[int]:
        """Radii that are still to be decided. What lies above a rejected one cannot count any more."""
        end = next((i for i, v in enumerate(self.verdicts) if v == "rejected"), len(self.verdicts))
        return [i for i in range(end) if self.verdicts[i] is None]

    def next_look(self) -> int:
        return min(self.tests[i].next_look(self.failures, self.n) for i in self.open)

    def feed(self, failed: np.ndarray) -> None:
        """Go through draws in order, `(draws,)` bool, and stop at the look that decides the last radius."""
        total = self.failures + np.cumsum(failed)
        start, end = self.n, self.n + len(failed)
        looks = np.unique(np.concatenate([_between(self.tests[i].looks, start, end) for i in self.open]))
        for n in looks:
            self.n, self.failures = int(n), int(total[n - start - 1])
            for i in self.open:
                self.verdicts[i] = self.tests[i].verdict(self.failures, self.n)
            if not self.open:
                return
        self.n, self.failures = end, int(total[-1])


def _between(looks: np.ndarray, start: int, end: int) -> np.ndarray:
    return looks[np.searchsorted(looks, start, side="right") : np.searchsorted(looks, end, side="right")]


def _decide(tests: Sequence[DecisionRule], classes: int, n0: int, least: int) -> Plan[Sampled]:
    top, first = yield from _select(classes, n0)
    counts = np.zeros(classes, dtype=np.int64)
    grid = GridTest(tests)
    cap = tests[0].cap
    while grid.open:
        need = min(max(grid.next_look() - grid.n, least), cap - grid.n, CHUNK)
        seen = yield Draw("estimation", need, min(need + 64, cap - grid.n))
        before = grid.n
        grid.feed(seen != top)
        counts += tally(seen[: grid.n - before], classes)
    return Sampled(top, counts, grid.n, first, grid.accepted)


# --- estimate --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pilot:
    """Draws that choose the class and how many to draw afresh: `count` of `n` gave class `top`."""

    top: int
    count: int
    n: int

    @property
    def p(self) -> float:
        """The share of the class. Where all agreed nothing speaks for less than 1, and 1 costs the most draws."""
        return self.count / self.n


def _estimate(policy: Estimate, classes: int, n0: int, n: int, alpha: float) -> Plan[Sampled]:
    counts = np.zeros(classes, dtype=np.int64)
    drawn, wanted = 0, n0
    while drawn < wanted:
        seen = yield Draw("pilot", min(wanted - drawn, CHUNK))
        counts += tally(seen, classes)
        drawn += len(seen)
        if drawn >= wanted:
            pilot = Pilot(int(counts.argmax()), int(counts.max()), drawn)
            size = needed(pilot, policy.rel_width, n, alpha)
            wanted = min(max(wanted, math.ceil(_PILOT_SHARE * size)), 2 * drawn)
    return (yield from known(pilot, size, classes))


def known(pilot: Pilot, n: int, classes: int) -> Plan[Sampled]:
    """Plan: n fresh draws for a class that a pilot has chosen; n = 0 abstains."""
    counts = yield from counting("estimation", n, classes)
    return Sampled(pilot.top, counts, n, pilot.n)


def needed(pilot: Pilot, rel_width: float, cap: int, alpha: float) -> int:
    """Return the draws with which the radius is expected within rel_width of that of `cap` draws.

    0 where even the pilot's upper bound at alpha could not be certified with `cap` draws.
    """
    hopeful = bounds.clopper_pearson_upper(pilot.count, pilot.n, alpha)
    if bounds.certified_radius(math.ceil(cap * hopeful), cap, alpha, 1.0) is None:
        return 0
    goal = (1 - rel_width) * _ratio(pilot.p, cap, alpha)
    if goal <= 0:
        return cap
    # Coarse steps first: a bound costs a tenth of a millisecond, and other clips wait for this answer.
    enough = next(size for size in _sizes(cap, alpha, _COARSE) if _ratio(pilot.p, size, alpha) >= goal)
    near = [size for size in _sizes(cap, alpha, _FINE) if enough / _COARSE**2 <= size < enough]
    return next((size for size in near if _ratio(pilot.p, size, alpha) >= goal), enough)


def _sizes(cap: int, alpha: float, step: float) -> list[int]:
    first = bounds.minimum_samples(alpha)
    steps = int(math.log(cap / first, step)) if cap > first else 0
    return [*sorted({min(cap, math.ceil(first * step**i)) for i in range(steps + 1)} - {cap}), cap]


@lru_cache(maxsize=65536)
def _ratio(p: float, n: int, alpha: float) -> float:
    """Return the R/σ that n draws certify if the count is what p lets expect; 0 for none."""
    return bounds.certified_radius(math.floor(n * p), n, alpha, 1.0) or 0.0


# --- budget ----------------------------------------------------------------------------------------


def pilot_plan(classes: int, n0: int) -> Plan[Pilot]:
    """Plan: the pilot of one clip of a budget."""
    counts = yield from counting("pilot", n0, classes)
    return Pilot(int(counts.argmax()), int(counts.max()), n0)


def share_out(
    pilots: Mapping[str, Pilot], passes: int, cap: int, alpha: float, clips: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the draws of each clip, by its key, that add most to the sum of expected R/σ.

    passes: what is left for fresh draws. clips: how many clips share a key (copies of one recording), 1 by
    default: each of them is drawn. Greedy by gain a pass, over sample sizes a tenth apart; a step may jump over
    sizes that gain less, which keeps the gains falling and the greedy choice right.
    """
    sizes = [0, *_sizes(cap, alpha, _COARSE)]
    out = dict.fromkeys(pilots, 0)
    copies = {key: (clips or {}).get(key, 1) for key in pilots}
    heap: list[tuple[float, str, int]] = []
    left = passes

    def offer(key: str) -> None:
        now, p = out[key], pilots[key].p
        here = _ratio(p, now, alpha) if now else 0.0
        steps = [s for s in sizes if now < s <= now + left // copies[key]]
        gain, size = max((((_ratio(p, s, alpha) - here) / (s - now), s) for s in steps), default=(0.0, 0))
        if gain > 0:
            heapq.heappush(heap, (-gain, key, size))

    for key in pilots:
        offer(key)
    while heap:
        _, key, size = heapq.heappop(heap)
        cost = (size - out[key]) * copies[key]
        if cost <= left:
            left -= cost
            out[key] = size
        offer(key)  # what is left may still pay for a smaller step
    return out
