"""Sampling policies: plans driven by hand, what they cost, and what they refuse."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import soundcert as sc
from soundcert import bounds
from soundcert.certify import Sampling, SmoothedClassifier
from soundcert.config import Budget, Decide, Estimate
from soundcert.errors import ConfigError
from soundcert.pipeline import Pipeline
from soundcert.policies import (
    _COARSE,
    _FINE,
    _PILOT_SHARE,
    LEAD,
    GridTest,
    Pilot,
    Sampled,
    _ratio,
    _sizes,
    check_policy,
    known,
    needed,
    pilot_plan,
    plan_of,
    rules,
    share_out,
)
from soundcert.sampling import CHUNK, Draw, Plan
from soundcert.sequential import DecisionRule, decision_rule, largest_ratio
from soundcert.stages import GaussianNoise

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
CAP, ALPHA, SIGMA = 300, 0.01, 0.5


class Clip:
    """Votes by purpose from fixed streams: class i with probability p[i], no class with the rest."""

    def __init__(self, *p: float, seed: int = 0) -> None:
        self.p = [*p, max(0.0, 1.0 - sum(p))]
        self.seed = seed

    @functools.cache  # noqa: B019 - a clip lives as long as its test
    def stream(self, purpose: str) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *purpose.encode()])
        found = rng.choice(len(self.p), 40_000, p=self.p).astype(np.int16)
        found[found == len(self.p) - 1] = -1
        return found


def drive(plan: Plan, clip: Clip, spare: int = 0) -> tuple[object, list[tuple[Draw, int]]]:
    """Run a plan on the clip's votes; return its result, and each request with how many rows it was given."""
    asked: list[tuple[Draw, int]] = []
    places: dict[str, int] = {}
    try:
        draw = next(plan)
        while True:
            assert 1 <= draw.need <= CHUNK
            given = max(draw.need, min(draw.upto, draw.need + spare))
            asked.append((draw, given))
            start = places.get(draw.purpose, 0)
            places[draw.purpose] = start + given
            draw = plan.send(clip.stream(draw.purpose)[start : start + given])
    except StopIteration as end:
        return end.value, asked


def given_for(asked: list[tuple[Draw, int]], purpose: str) -> int:
    return sum(given for draw, given in asked if draw.purpose == purpose)


def votes(clip: Clip, purpose: str, n: int, top: int) -> int:
    return int((clip.stream(purpose)[:n] == top).sum())


# --- fixed -----------------------------------------------------------------------------------------


def test_fixed_draws_as_published():
    clip = Clip(0.2, 0.6, 0.1)
    sampled, asked = drive(plan_of(None, classes=3, n0=50, n=20_000, alpha=ALPHA, sigma=SIGMA), clip)
    assert isinstance(sampled, Sampled)
    assert [(d.purpose, d.need, d.upto) for d, _ in asked] == [
        ("selection", 50, 0),
        ("estimation", CHUNK, 0),
        ("estimation", 20_000 - CHUNK, 0),
    ]
    assert (sampled.top, sampled.n, sampled.first, sampled.passes) == (1, 20_000, 50, 20_050)
    assert sampled.counts.tolist() == [votes(clip, "estimation", 20_000, c) for c in range(3)]


# --- decide: the tests of a grid ---------------------------------------------------------------------


@functools.cache
def grid() -> tuple[DecisionRule, ...]:
    return tuple(decision_rule(r, CAP, ALPHA, 0.05) for r in (0.0, 0.2, 0.8, 1.5, 2.0))


def one_by_one(tests, failed: np.ndarray) -> tuple[list[str | None], int, int]:
    """Each test by itself over its own looks, to its first verdict; then the first look that settles all."""
    total = np.cumsum(failed)
    first: list[tuple[int, str]] = []
    for test in tests:
        verdicts = [
            (int(n), v) for n in test.looks if (v := test.verdict(int(total[n - 1]), int(n))) is not None
        ]
        first.append(verdicts[0])
    for n in sorted({n for n, _ in first}):
        by_then = [verdict if when <= n else None for when, verdict in first]
        end = by_then.index("rejected") if "rejected" in by_then else len(tests)
        if None not in by_then[:end]:
            # What lies above a rejected radius is not asked any more.
            when_closed = [
                min((w for w, v in first[:i] if v == "rejected"), default=CAP + 1) for i in range(len(tests))
            ]
            kept = [
                v if w <= n and w <= closed else None
                for (w, v), closed in zip(first, when_closed, strict=True)
            ]
            return kept, n, int(total[n - 1])
    raise AssertionError("the cap decides")


@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.02, 0.1, 0.2, 0.3, 0.45, 0.6, 1.0]),
    st.lists(st.integers(1, 90), min_size=1, max_size=40),
    st.permutations(range(5)),
    st.integers(1, 5),
)
@QUICK
def test_a_grid_does_not_depend_on_how_the_votes_are_cut(seed, failing, pieces, order, size):
    """Nor does it rest on the radii's order: what counts is accepted from the first up, without a gap."""
    tests = [grid()[i] for i in order[:size]]
    failed = np.random.default_rng(seed).random(CAP) < failing
    expected, n, failures = one_by_one(tests, failed)
    for cut in (pieces, [1], [CAP], [7]):
        test = GridTest(tests)
        place = turn = 0
        while test.open:
            assert test.n == place
            piece = failed[place : place + cut[turn % len(cut)]]
            test.feed(piece)
            place += len(piece)
            turn += 1
        assert (test.verdicts, test.n, test.failures) == (expected, n, failures)
        prefix = [v == "accepted" for v in expected]
        assert test.accepted == (prefix.index(False) if False in prefix else len(prefix))


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.2, 0.3, 0.5, 0.9]))
@QUICK
def test_waiting_for_the_next_look_misses_no_verdict(seed, failing):
    failed = np.random.default_rng(seed).random(CAP) < failing
    test = GridTest(grid())
    while test.open:
        then = test.next_look()
        assert test.n < then <= CAP
        test.feed(failed[test.n : then])
    assert (test.verdicts, test.n, test.failures) == one_by_one(grid(), failed)


def test_every_grid_is_decided_at_the_cap():
    for failures in range(0, CAP, 7):
        test = GridTest(grid())
        for part in np.array_split(np.random.default_rng(failures).permutation(CAP) < failures, 5):
            if test.open:
                test.feed(part)
        assert not test.open


# --- decide: the plan ------------------------------------------------------------------------------

DECIDE = Decide(radii=(0.0, 0.1, 0.4, 0.75), futility=0.05)


def decide(clip: Clip, *, n0: int = 100, spare: int = 0, policy: Decide = DECIDE):
    plan = plan_of(policy, classes=len(clip.p) - 1, n0=n0, n=CAP, alpha=ALPHA, sigma=SIGMA)
    return drive(plan, clip, spare)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("p", [(0.97, 0.01), (0.3, 0.7), (0.5, 0.5), (0.8, 0.1), (0.0, 0.2)])
def test_decide_takes_spare_rows_without_depending_on_them(p, seed):
    clip = Clip(*p, seed=seed)
    alone, asked = decide(clip)
    for spare in (1, 13, 64, 500):
        other, requests = decide(clip, spare=spare)
        assert (other.top, other.n, other.first, other.accepted) == (
            alone.top,
            alone.n,
            alone.first,
            alone.accepted,
        )
        np.testing.assert_array_equal(other.counts, alone.counts)
        assert given_for(requests, "estimation") <= CAP
        assert all(d.upto <= d.need + 64 for d, _ in requests)
    assert given_for(asked, "estimation") == alone.n <= CAP
    assert given_for(asked, "selection") == alone.first <= 100
    assert alone.counts.tolist() == [votes(clip, "estimation", alone.n, c) for c in (0, 1)]
    failed = clip.stream("estimation")[:CAP] != alone.top  # a vote for no class is a failure too
    verdicts, n, _ = one_by_one(rules(DECIDE, SIGMA, CAP, ALPHA), failed)
    assert alone.n == n
    assert alone.accepted == [*[v == "accepted" for v in verdicts], False].index(False)


def test_the_class_is_selected_as_soon_as_it_leads():
    sure, _ = decide(Clip(0.0, 1.0))
    assert (sure.top, sure.first, sure.accepted) == (1, LEAD, 4)
    torn, _ = decide(Clip(0.5, 0.5), n0=15)
    assert torn.first <= 15
    nobody, _ = decide(Clip(0.0, 0.0), n0=33)
    assert (nobody.first, nobody.accepted, nobody.counts.sum()) == (33, 0, 0)
    only, _ = decide(Clip(1.0))
    assert (only.top, only.first) == (0, LEAD)
    few, _ = decide(Clip(1.0, 0.0), n0=3)
    assert few.first == 3


def test_selection_and_estimation_are_other_draws():
    """A clip whose estimation votes go elsewhere: the selected class is kept, and fails."""

    class Turncoat(Clip):
        def stream(self, purpose: str) -> np.ndarray:
            return np.full(1000, 0 if purpose == "selection" else 1, dtype=np.int16)

    sampled, _ = decide(Turncoat(0.5, 0.5))
    assert (sampled.top, sampled.accepted) == (0, 0)
    assert sampled.counts[0] == 0


# --- estimate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", [(0.7, 0.1), (0.05, 0.94), (0.998, 0.0), (0.52, 0.48), (0.3, 0.3)])
def test_estimate_follows_its_pilot(p, seed):
    clip, cap = Clip(*p, seed=seed), 20_000
    sampled, asked = drive(
        plan_of(Estimate(rel_width=0.1), classes=2, n0=50, n=cap, alpha=ALPHA, sigma=SIGMA), clip
    )
    assert [d.purpose for d, _ in asked] == sorted((d.purpose for d, _ in asked), reverse=True)  # pilot first
    pilot = Pilot(
        sampled.top,
        max(votes(clip, "pilot", sampled.first, c) for c in (0, 1)),
        sampled.first,
    )
    assert votes(clip, "pilot", pilot.n, pilot.top) == pilot.count
    size = needed(pilot, 0.1, cap, ALPHA)
    assert (sampled.n, given_for(asked, "estimation")) == (size, size)
    assert given_for(asked, "pilot") == pilot.n >= 50
    assert pilot.n >= _PILOT_SHARE * size
    assert pilot.n <= max(50, 2 * math.ceil(_PILOT_SHARE * cap))
    assert sampled.counts.tolist() == [votes(clip, "estimation", size, c) for c in (0, 1)]


def test_needed():
    cap = 10_000
    assert needed(Pilot(0, 30, 100), 0.05, cap, ALPHA) == 0  # cannot be certified
    assert needed(Pilot(0, 50, 100), 0.05, cap, ALPHA) == cap  # could, if p lies above the pilot's
    for pilot in (Pilot(0, 70, 100), Pilot(0, 990, 1000), Pilot(0, 100, 100)):
        sizes = [needed(pilot, width, cap, ALPHA) for width in (0.001, 0.01, 0.05, 0.2, 0.9)]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] > 5 * sizes[-1] and sizes[0] <= cap
        for width, size in zip((0.01, 0.05, 0.2), sizes[1:4], strict=True):
            goal = (1 - width) * _ratio(pilot.p, cap, ALPHA)
            assert _ratio(pilot.p, size, ALPHA) >= goal
            assert all(_ratio(pilot.p, s, ALPHA) < goal for s in _sizes(cap, ALPHA, _FINE) if s < size)


@pytest.mark.parametrize("step", [_FINE, _COARSE])
def test_sample_sizes_are_ascending_and_at_most_the_cap(step):
    for alpha in (0.3, 0.05, 0.001, 1e-6, 1e-12):
        first = bounds.minimum_samples(alpha)
        for cap in [*range(first, first + 150), 1000, 12_345, 100_000]:
            sizes = _sizes(cap, alpha, step)
            assert sizes[-1] == cap
            assert sizes == sorted(set(sizes))
            assert sizes[0] == first
            assert all(b <= math.ceil(step * a) + 1 for a, b in itertools.pairwise(sizes))


def test_no_sample_size_is_above_the_cap():
    assert _sizes(110, 1e-30, 1.1) == [100, 110]


def totals(p: float, *, rel_width: float, cap: int, alpha: float, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (passes, R/σ) of many estimates of two classes, by the plan's own rules on binomial counts."""
    rng = np.random.default_rng([5, int(p * 1e6)])
    size_of = functools.cache(lambda count, drawn: needed(Pilot(0, count, drawn), rel_width, cap, alpha))
    radius = functools.cache(lambda count, n: bounds.certified_radius(count, n, alpha, 1.0) or 0.0)
    passes, radii = np.zeros(runs), np.zeros(runs)
    for run in range(runs):
        count = drawn = 0
        wanted = 100
        while drawn < wanted:
            count += int(rng.binomial(wanted - drawn, p))
            drawn = wanted
            size = size_of(count, drawn)
            wanted = min(max(wanted, math.ceil(_PILOT_SHARE * size)), 2 * drawn)
        passes[run] = drawn + size
        radii[run] = radius(int(rng.binomial(size, p)), size) if size else 0.0
    return passes, radii


@pytest.mark.parametrize(("p", "expected"), [(0.8, 7100), (0.95, 4700), (0.999, 34_500)])
def test_what_an_estimate_costs_and_gives_away(p, expected):
    """At alpha 0.001 and rel_width 0.05, of 100 000: pilot and fresh draws, and the radius against all draws'."""
    passes, radii = totals(p, rel_width=0.05, cap=100_000, alpha=0.001, runs=150)
    assert passes.mean() + 3 * passes.std() / math.sqrt(len(passes)) <= expected
    assert passes.max() <= (1 + 2 * _PILOT_SHARE) * 100_000
    full = bounds.certified_radius(round(100_000 * p), 100_000, 0.001, 1.0)
    assert full is not None
    gap = 1 - radii / full
    assert 0.02 < np.median(gap) < 0.06
    assert np.quantile(gap, 0.95) < 0.1


# --- budget ----------------------------------------------------------------------------------------

MIXED = {
    **{f"sure {i}": Pilot(0, 100, 100) for i in range(5)},
    **{f"likely {i}": Pilot(0, 85 + i, 100) for i in range(5)},
    **{f"close {i}": Pilot(0, 57 + i, 100) for i in range(5)},
    **{f"hopeless {i}": Pilot(0, 40, 100) for i in range(5)},
}


def worth(sizes: dict[str, int]) -> float:
    """The sum of the R/σ that the pilots let expect."""
    return sum(_ratio(MIXED[k].p, n, ALPHA) for k, n in sizes.items() if n)


@pytest.mark.parametrize("passes", [0, 6, 7, 60, 500, 4000, 30_000, 100_000, 10**6])
def test_a_budget_is_kept_and_well_spent(passes):
    cap = 5000
    sizes = share_out(MIXED, passes, cap, ALPHA)
    assert sizes.keys() == MIXED.keys()
    assert sum(sizes.values()) <= passes
    assert all(n == 0 or bounds.minimum_samples(ALPHA) <= n <= cap for n in sizes.values())
    assert all(sizes[k] == 0 for k in sizes if k.startswith("hopeless"))
    equal = {k: passes // len(MIXED) for k in MIXED}
    if 500 <= passes <= 30_000:
        assert worth(sizes) > 1.02 * worth({k: min(n, cap) for k, n in equal.items()})
        assert sum(sizes.values()) > 0.8 * passes
    if passes >= 15 * cap:
        assert all(n == cap for k, n in sizes.items() if not k.startswith("hopeless"))
    assert share_out(dict(reversed(MIXED.items())), passes, cap, ALPHA) == sizes  # whatever the order


def test_more_budget_is_worth_more():
    found = [worth(share_out(MIXED, passes, 5000, ALPHA)) for passes in (50, 500, 1000, 3000, 10_000, 40_000)]
    assert found == sorted(found)
    assert found[0] < 0.5 * found[-1]


def test_a_budget_comes_near_the_best_split():
    """Two clips, all splits over the sizes that are weighed: nearly the best of them is found."""
    pair = {"a": Pilot(0, 92, 100), "b": Pilot(0, 70, 100)}
    sizes = [0, *_sizes(2000, ALPHA, _COARSE)]
    value = {k: [_ratio(p.p, s, ALPHA) if s else 0.0 for s in sizes] for k, p in pair.items()}
    for passes in (200, 700, 1500, 3000):
        best = max(
            value["a"][i] + value["b"][j]
            for i, a in enumerate(sizes)
            for j, b in enumerate(sizes)
            if a + b <= passes
        )
        found = share_out(pair, passes, 2000, ALPHA)
        assert sum(value[k][sizes.index(n)] for k, n in found.items()) > 0.95 * best


def test_a_budget_for_one_clip_is_spent_on_it():
    """Even where the step that gains most a pass cannot be paid any more."""
    for count in (75, 90, 100):
        for passes in (50, 100, 1000, 5000):
            pilot = Pilot(0, count, 100)
            found = share_out({"a": pilot}, passes, 100_000, 0.001)["a"]
            best = max(_ratio(pilot.p, s, 0.001) for s in _sizes(100_000, 0.001, _COARSE) if s <= passes)
            assert (_ratio(pilot.p, found, 0.001) if found else 0.0) == best


class Sign(nn.Module):
    """Two classes, by the sign of the first sample."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack((x[:, 0], -x[:, 0]), dim=1)


def certified_within(budget: int, levels: list[float]) -> int:
    """Certify constant clips of these levels under a budget; return the passes that it took."""
    clips = [sc.Clip.from_array(np.full(12, int(level * 32767), dtype=np.int16), 16_000) for level in levels]
    classifier = SmoothedClassifier(Pipeline([GaussianNoise(0.5), Sign().eval()]))
    found = classifier.certify_many(clips, n0=50, n=2000, alpha=0.001, policy=Budget(passes=budget))
    assert all(c.policy == "budget" for c in found)
    return sum(c.n0 + c.n for c in found)


def test_a_budget_is_kept_by_a_run():
    assert 1000 < certified_within(1500, [0.5, 0.6, 0.05]) <= 1500


def test_a_budget_is_kept_where_clips_are_copies():
    assert certified_within(1500, [0.5, 0.5, 0.5]) <= 1500


def test_a_budget_below_its_pilots_is_refused():
    with pytest.raises(ConfigError, match="budget"):
        certified_within(99, [0.5, 0.6])


def test_no_clips_and_no_hope():
    assert share_out({}, 1000, 100, ALPHA) == {}
    assert share_out({"a": Pilot(0, 10, 100)}, 1000, 100, ALPHA) == {"a": 0}


def test_pilots_and_known_sizes():
    clip = Clip(0.1, 0.8)
    pilot, asked = drive(pilot_plan(2, 70), clip)
    assert pilot == Pilot(1, votes(clip, "pilot", 70, 1), 70)
    assert [d.purpose for d, _ in asked] == ["pilot"]
    sampled, asked = drive(known(pilot, 500, 2), clip)
    assert (sampled.top, sampled.n, sampled.first, sampled.passes) == (1, 500, 70, 570)
    assert sampled.counts[1] == votes(clip, "estimation", 500, 1)
    nothing, asked = drive(known(pilot, 0, 2), clip)
    assert (asked, nothing.n, nothing.counts.tolist()) == ([], 0, [0, 0])


# --- what is refused -------------------------------------------------------------------------------


def test_a_radius_that_can_never_be_certified_is_refused_with_the_largest():
    policy = Decide(radii=(0.1, 5.0))
    with pytest.raises(
        ConfigError, match=r"radius 5 can never be certified with n = 300 .* the largest is "
    ) as e:
        check_policy(policy, CAP, ALPHA, SIGMA)
    most = float(str(e.value).split("the largest is ")[1].split(";")[0])
    assert most <= largest_ratio(CAP, ALPHA) * SIGMA < most + 1e-4
    check_policy(Decide(radii=(0.1, most)), CAP, ALPHA, SIGMA)
    sampled, _ = decide(Clip(0.0, 1.0), policy=Decide(radii=(0.1, most)))
    assert sampled.accepted == 2


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (Sampling(n=9, policy=Decide(radii=(0.0,))), "n = 9 is too small"),
        (Sampling(n=100, alpha=1e-20, policy=Decide(radii=(0.0,))), "alpha must be from 1e-12"),
        (Sampling(n=3_000_000, policy=Decide(radii=(0.0,))), "n must be from 1 to 2000000"),
        (Sampling(n=100, bound="two-class", policy=Estimate()), "estimate works with the one-sided bound"),
        (Sampling(n=100, bound="two-class", policy=Decide(radii=(0.0,))), "decide works with the one-sided"),
        (Sampling(n=100, bound="two-class", policy=Budget(passes=5)), "budget works with the one-sided"),
        (Sampling(n0=0, policy=Estimate()), "n0 must be a whole number from 1"),
    ],
)
def test_impossible_policies_are_refused(sampling, said):
    with pytest.raises(ConfigError, match=said):
        sampling.check(SIGMA)


@pytest.mark.parametrize("policy", [None, Decide(radii=(0.0, 0.5)), Estimate(), Budget(passes=10)])
def test_possible_policies_are_not_refused(policy):
    Sampling(n=CAP, policy=policy).check(SIGMA)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Decide(radii=()), "Decide: radii: "),
        (lambda: Decide(radius=1.0), "Decide: unknown field 'radius' \\(did you mean 'radii'\\?\\)"),
        (lambda: Estimate(rel_width=-1), "Estimate: rel_width: should be greater than 0, got -1"),
        (Budget, "Budget: name either passes or seconds"),
    ],
)
def test_a_mistake_in_a_policy_made_in_python_is_one_line(make, said):
    with pytest.raises(ConfigError, match=f"^{said}.*$"):
        make()


def test_a_budget_is_no_plan_of_one_clip():
    with pytest.raises(ConfigError, match="certify them together"):
        plan_of(Budget(passes=10), classes=2, n0=10, n=100, alpha=ALPHA, sigma=SIGMA)
