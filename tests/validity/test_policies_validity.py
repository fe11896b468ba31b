"""Do the sampling policies keep their levels? Runs of clips whose true probability is known.

A *violation* is a false statement; its probability has to be at most alpha, whatever the policy did with
the draws. Violations in many repetitions are judged by an exact binomial test against alpha, as in
test_bounds_validity: `assert_within` fails where so many would be seen less than once in a million runs.
A published rule that looks again and again at a bound for one look is judged alike, and found out.

Draws are simulated many runs at once; `test_the_simulation_is_the_plan` shows that this is the policies'
own procedure, vote by vote.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from soundcert import bounds
from soundcert.config import Decide, Estimate
from soundcert.policies import _PILOT_SHARE, Pilot, _sizes, needed, plan_of, share_out
from soundcert.sequential import DecisionRule, decision_rule

SIGMA = 0.25
LEVELS = [0.05, 0.001]
SURPRISE = 1e-6
SHORT, LONG = 20_000, 1_000_000
BLOCK = 20_000  # runs simulated at once

lower = functools.cache(bounds.clopper_pearson_lower)


def assert_within(violations: int, repetitions: int, alpha: float) -> None:
    assert binom.sf(violations - 1, repetitions, alpha) > SURPRISE, f"{violations / repetitions} > {alpha}"


def assert_attained(violations: int, repetitions: int, alpha: float, share: float) -> None:
    assert_within(violations, repetitions, alpha)
    most = binom.cdf(violations, repetitions, share * alpha)
    assert most > SURPRISE, f"{violations / repetitions} << {share} * {alpha}"


def generator(*key: object) -> np.random.Generator:
    return np.random.default_rng([20260612, *(int(1e6 * float(k)) for k in key)])


# --- decide ----------------------------------------------------------------------------------------


def accepted_radii(
    tests: Sequence[DecisionRule],
    failing: float,
    runs: int,
    rng: np.random.Generator,
    *,
    give_up: bool = True,
) -> np.ndarray:
    """Return how many radii of the grid each run accepts, `(runs,)`. give_up: stop at rejections."""
    accept, reject = {}, {}
    for j, test in enumerate(tests):
        for n, a, r in zip(test.looks.tolist(), test.accept.tolist(), test.reject.tolist(), strict=True):
            accept[n, j], reject[n, j] = a, r
    looks = sorted({n for n, _ in accept})
    verdicts = np.zeros((runs, len(tests)), dtype=np.int8)  # 1 accepted, −1 rejected
    going, failures, before = np.arange(runs), np.zeros(runs, dtype=np.int64), 0
    for n in looks:
        failures += rng.binomial(n - before, failing, len(going))
        before = n
        decided = np.zeros(len(going), dtype=bool)
        for j in range(len(tests)):
            if (n, j) not in accept:
                continue
            mine = verdicts[going, j]
            undecided = mine == 0
            mine[undecided & (failures <= accept[n, j])] = 1
            if give_up:
                mine[undecided & (failures > accept[n, j]) & (failures >= reject[n, j])] = -1
            decided |= mine != verdicts[going, j]
            verdicts[going, j] = mine
        if decided.any():
            now = verdicts[going]
            settled = (np.cumsum(now == -1, axis=1) > 0) | (now == 1)
            keep = ~settled.all(axis=1)
            going, failures = going[keep], failures[keep]
        if not len(going):
            break
    return np.cumprod(verdicts == 1, axis=1).sum(axis=1)


def false_radii(tests, at: int, runs: int, rng, *, give_up: bool) -> int:
    """Runs that accept radius `at` (or a larger one, and then it too), where it equals the true one."""
    failing = float(ndtr(-tests[at].ratio))
    return sum(
        int((accepted_radii(tests, failing, BLOCK, rng, give_up=give_up) > at).sum())
        for _ in range(runs // BLOCK)
    )


GRIDS = {
    "one radius": ([0.0], 400),
    "a coarse grid": ([0.0, 0.5, 1.0, 1.5], 400),
    "a fine grid": ([0.9, 0.95, 1.0, 1.05, 1.1], 600),
    "radii near the largest": ([0.3, 1.5, 1.75], 250),
}
PLACES = [(name, at) for name, (ratios, _) in GRIDS.items() for at in range(len(ratios))]


def check_decide(name: str, at: int, alpha: float, runs: int) -> None:
    ratios, cap = GRIDS[name]
    tests = [decision_rule(r, cap, alpha) for r in ratios]
    rng = generator(len(name), at, alpha, runs)
    assert_within(false_radii(tests, at, runs, rng, give_up=True), runs, alpha)
    # Whoever never gives up loses nothing, and the level is used.
    alone = [tests[at]]
    assert_attained(false_radii(alone, 0, runs, rng, give_up=False), runs, alpha, 0.7)


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize(("name", "at"), [PLACES[0], PLACES[3], PLACES[6], PLACES[-1]])
def test_decide(name, at, alpha):
    check_decide(name, at, alpha, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize(("name", "at"), PLACES)
def test_decide_at_length(name, at, alpha):
    check_decide(name, at, alpha, LONG)


@pytest.mark.long
@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.0, 3.0])
def test_decide_with_the_largest_cap(ratio):
    tests = [decision_rule(r, 100_000, 0.001) for r in (ratio, ratio + 0.05, ratio + 0.1)]
    violations = false_radii(tests, 0, LONG, generator(ratio, 7), give_up=True)
    assert_within(violations, LONG, 0.001)


def drive(plan, draws: dict[str, np.ndarray], spare: int = 0):
    """Run a plan on given votes by purpose; return its result."""
    places = dict.fromkeys(draws, 0)
    try:
        asked = next(plan)
        while True:
            count = max(asked.need, min(asked.upto, asked.need + spare))
            start = places[asked.purpose]
            places[asked.purpose] += count
            asked = plan.send(draws[asked.purpose][start : start + count])
    except StopIteration as end:
        return end.value


def test_the_simulation_is_the_plan():
    """The same binomial increments, spread over single votes, drive the real plan to the same answer."""

    class Recorded:
        """One run's generator: keeps the increments that the simulation drew."""

        def __init__(self, seed: int) -> None:
            self.rng, self.steps = np.random.default_rng(seed), []

        def binomial(self, n: int, p: float, size: int) -> np.ndarray:
            found = self.rng.binomial(n, p, size)
            self.steps.append((n, int(found[0])))
            return found

    policy = Decide(radii=(0.0, 0.125, 0.25, 0.3))
    tests = [decision_rule(r / SIGMA, 400, 0.05) for r in policy.radii]
    seen = set()
    for seed in range(75):
        recorded = Recorded(seed)
        failing = float(ndtr(-[0.2, 0.5, 1.0, 1.2, 2.0][seed % 5]))
        accepted = int(accepted_radii(tests, failing, 1, recorded)[0])
        votes = []
        for n, failed in recorded.steps:
            votes += [int(v) for v in recorded.rng.permutation([1] * failed + [0] * (n - failed))]
        stopped = len(votes)
        votes += [1] * (400 - stopped)
        plan = plan_of(policy, classes=2, n0=10, n=400, alpha=0.05, sigma=SIGMA)
        draws = {"selection": np.zeros(10, dtype=np.int16), "estimation": np.array(votes, dtype=np.int16)}
        sampled = drive(plan, draws, spare=seed % 3 * 40)
        assert (sampled.top, sampled.accepted, sampled.n) == (0, accepted, stopped)
        seen.add(accepted)
    assert seen >= {0, 1, 2, 4}


def test_decide_end_to_end():
    """The plan itself, class selection included: three classes, the likeliest of them chosen or not.

    Where the selection draws chose a class with p ≤ ½, any radius is false: it may be claimed as rarely.
    """
    runs, alpha = 300, 0.05
    policy = Decide(radii=(0.0, 0.1, 0.2))
    rng = generator(alpha, 9)
    p = [float(ndtr(0.1 / SIGMA)), 0.25, 0.0]
    p[2] = 1 - sum(p)
    violations = 0
    for _ in range(runs):
        plan = plan_of(policy, classes=3, n0=20, n=200, alpha=alpha, sigma=SIGMA)
        draws = {
            purpose: rng.choice(3, size, p=p).astype(np.int16)
            for purpose, size in (("selection", 20), ("estimation", 200))
        }
        sampled = drive(plan, draws)
        violations += sampled.accepted > (1 if sampled.top == 0 else 0)
    assert_within(violations, runs, alpha)


# --- negative control: a bound for one look, looked at again and again --------------------------------


def retested(failing: float, alpha: float, runs: int, rng, *, batch: int, cap: int) -> int:
    """Runs in which a fixed-n Clopper-Pearson test of the true p accepts after any batch."""
    looks = np.arange(batch, cap + 1, batch)
    # f failures are accepted where lower(n − f) > p, which is P(Bin(n, failing) ≤ f) ≤ alpha.
    most = binom.ppf(alpha, looks, failing).astype(np.int64) - 1
    most[binom.cdf(most + 1, looks, failing) <= alpha] += 1
    for n, f in [(looks[0], most[0]), (looks[-1], most[-1])]:
        assert lower(int(n - f), int(n), alpha) >= 1 - failing > lower(int(n - f - 1), int(n), alpha)
    found = 0
    for _ in range(runs // 2000):
        failures = np.cumsum(rng.binomial(batch, failing, (2000, len(looks))), axis=1)
        found += int((failures <= most).any(axis=1).sum())
    return found


def test_a_fixed_bound_tested_again_after_every_batch_misses_its_level():
    """A published system tests so every 100 draws: 12 to 17 times the level. The same test finds it out."""
    alpha, cap = 0.001, 100_000
    found = retested(0.1, alpha, SHORT, generator(0.1, alpha), batch=100, cap=cap)
    assert found > 8 * alpha * SHORT
    with pytest.raises(AssertionError):
        assert_within(found, SHORT, alpha)
    once = retested(0.1, alpha, SHORT, generator(0.2, alpha), batch=cap, cap=cap)
    assert_within(once, SHORT, alpha)


# --- estimate --------------------------------------------------------------------------------------


def pilots(policy: Estimate, p: float, n0: int, cap: int, alpha: float, runs: int, rng):
    """Yield (pilot, n, how often): the pilots of many runs for a class of probability p, two classes."""

    @functools.cache
    def size_of(count: int, drawn: int) -> int:
        return needed(Pilot(0, count, drawn), policy.rel_width, cap, alpha)

    going = {(0, 0, n0): runs}  # (count, draws, draws wanted): runs
    while going:
        later: dict[tuple[int, int, int], int] = {}
        for (count, drawn, wanted), often in going.items():
            values, times = np.unique(rng.binomial(wanted - drawn, p, often), return_counts=True)
            for more, time in zip(values.tolist(), times.tolist(), strict=True):
                top = max(count + more, wanted - count - more)
                size = size_of(top, wanted)
                further = min(max(wanted, math.ceil(_PILOT_SHARE * size)), 2 * wanted)
                if further > wanted:
                    key = (count + more, wanted, further)
                    later[key] = later.get(key, 0) + time
                else:
                    chosen = 0 if 2 * (count + more) >= wanted else 1
                    yield Pilot(chosen, top, wanted), size, time
        going = later


def false_estimates(policy, p, *, n0, cap, alpha, runs, rng) -> int:
    """Radii above the truth; a certificate for the class that is not the likelier one is false at any radius."""
    found = 0
    for pilot, n, often in pilots(policy, p, n0, cap, alpha, runs, rng):
        if not n:
            continue
        truth = p if pilot.top == 0 else 1 - p
        counts, times = np.unique(rng.binomial(n, truth, often), return_counts=True)
        for count, time in zip(counts.tolist(), times.tolist(), strict=True):
            radius = bounds.radius_one_sided(lower(count, n, alpha), SIGMA)
            found += time if radius is not None and radius > SIGMA * float(ndtri(truth)) else 0
    return found


ESTIMATES = [(0.5, 0.05), (0.55, 0.3), (0.8, 0.05), (0.95, 0.1), (0.995, 0.05)]


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize(("p", "rel_width"), ESTIMATES)
def test_estimate(p, rel_width, alpha):
    found = false_estimates(
        Estimate(rel_width=rel_width), p, n0=50, cap=1000, alpha=alpha, runs=SHORT, rng=generator(p, alpha)
    )
    assert_within(found, SHORT, alpha)
    # Not so cautious either, where n is large enough for counts to be fine.
    assert found > 0.3 * alpha * SHORT - 4 * math.sqrt(alpha * SHORT) or p >= 0.95


@pytest.mark.long
@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize(("p", "rel_width"), ESTIMATES)
@pytest.mark.parametrize("cap", [1000, 20_000])
def test_estimate_at_length(cap, p, rel_width, alpha):
    rng = generator(p, alpha, cap)
    found = false_estimates(
        Estimate(rel_width=rel_width), p, n0=100, cap=cap, alpha=alpha, runs=LONG, rng=rng
    )
    assert_within(found, LONG, alpha)


def test_an_estimate_from_its_own_pilot_misses_its_level():
    """Choosing n by the draws that the bound counts: the best of several looks at one sample, each at alpha."""
    alpha, runs, p = 0.05, SHORT, 0.8
    rng = generator(0.8, 1)
    sizes = [s for s in _sizes(2000, alpha, 1.3) if s >= 100]
    steps = np.diff(sizes, prepend=0)
    counts = np.cumsum(rng.binomial(steps, p, (runs, len(steps))), axis=1)
    best = np.max(
        [[lower(int(c), int(n), alpha) for c in column] for n, column in zip(sizes, counts.T, strict=True)],
        axis=0,
    )
    assert int((best > p).sum()) > 2 * alpha * runs
    with pytest.raises(AssertionError):
        assert_within(int((best > p).sum()), runs, alpha)


# --- budget ----------------------------------------------------------------------------------------

FRESH = 5


def false_in_budgets(alpha: float, repetitions: int, clips: int, rng) -> tuple[int, int]:
    """Return (false radii, certificates): each run shares a budget over clips whose p is drawn from a few.

    Given the pilots and the shares, every fresh sample fails with probability at most alpha: FRESH of each.
    """
    likely = np.array([0.5, 0.52, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999])
    found = 0
    for run in range(repetitions):
        p = rng.choice(likely, clips)
        first = rng.binomial(60, p)
        tops = np.maximum(first, 60 - first)
        keys = {str(i): Pilot(int(first[i] < 30), int(tops[i]), 60) for i in range(clips)}
        passes = [clips * 20, clips * 100, clips * 400][run % 3]
        sizes = share_out(keys, passes, 600, alpha)
        assert sum(sizes.values()) <= passes
        truth = np.where([keys[str(i)].top == 0 for i in range(clips)], p, 1 - p)
        n = np.array([sizes[str(i)] for i in range(clips)])
        for fresh in rng.binomial(n, truth, (FRESH, clips)).tolist():
            for count, size, true in zip(fresh, n.tolist(), truth.tolist(), strict=True):
                bound = lower(count, size, alpha) if size else 0.0
                found += bound > 0.5 and bound > true
    return found, repetitions * clips * FRESH


@pytest.mark.parametrize("alpha", LEVELS)
def test_budget(alpha):
    found, clips = false_in_budgets(alpha, SHORT // (800 * FRESH), 800, generator(alpha, 3))
    assert clips == SHORT
    assert_within(found, clips, alpha)
    assert found > 0.1 * alpha * clips - 4 * math.sqrt(alpha * clips)


@pytest.mark.long
@pytest.mark.parametrize("alpha", LEVELS)
def test_budget_at_length(alpha):
    found, clips = false_in_budgets(alpha, LONG // (2000 * FRESH), 2000, generator(alpha, 4))
    assert_within(found, clips, alpha)
