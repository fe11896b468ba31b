"""How far may a spectrum's amplitudes move before features that are computed from each of them move by R?

The problem
-----------
Feature i is `scale_i · F(a_i)`, with a_i ≥ 0 an amplitude and F increasing (a logarithm with a floor, say).
A perturbation moves the amplitudes by Δ_i with the budget Σ y_i Δ_i² ≤ S (weights y_i > 0). Sought: the
largest S for which Σ (change of feature i)² ≤ R² is *proven*.

The bound
---------
With v = y_i Δ_i², coordinate i changes by at most, squared,

    g_i(v) = scale_i² · max(F(a_i + Δ) − F(a_i), F(a_i) − F(max(a_i − Δ, 0)))²,     Δ = √(v / y_i),

which grows with v. Weak duality: for every λ ≥ 0 and every T ≥ S,

    Σ g_i(v_i) ≤ λS + φ(λ, T),   φ(λ, T) = Σ_i max over 0 ≤ v ≤ T of (g_i(v) − λv).

So S = min(T, (R² − φ(λ, T))/λ) is proven, whatever λ and T are; both are chosen to make it large. The
maxima are bounded from above on cells [v_k, v_{k+1}], by the smaller of

    g_i(v_{k+1}) − λv_k        and        g_i(v_k) − λv_k + max(0, G − λ)(v_{k+1} − v_k),

G an upper bound of g_i′ on the cell, from the largest slopes of F that it can reach; cells that may hold
the maximum are divided until that changes little. Source: ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# Computed in float64 from a handful of operations a coordinate; sums of up to 10^7 positive terms.
_OUTWARD = 1.0 + 1e-10
# The grid of v: from 0 and then, evenly in its logarithm, over so many decades up to T.
_CELLS, _DECADES = 32, 5.0
# How often cells are divided, and into how many.
_ROUNDS, _PARTS = 3, 4
# Values of λ that are tried to find a good one; of T, at most.
_SEARCH, _TRIES = 16, 8


@dataclass(frozen=True)
class Compression:
    """F, applied to each amplitude: the power of it that is taken, and the logarithm with its floor.

    power 2: F(b) = ln(b² + floor) or ln max(b², floor); power 1: the same of b; without a floor
    (`floor=None`) F(b) = b^power.
    """

    power: Literal[1, 2]
    floor: float | None
    mode: Literal["add", "max"] = "add"

    def __call__(self, b: Tensor) -> Tensor:
        value = b.square() if self.power == 2 else b
        if self.floor is None:
            return value
        return torch.log(value + self.floor if self.mode == "add" else value.clamp(min=self.floor))

    def rise(self, low: Tensor, step: Tensor) -> Tensor:
        """Return F(low + step) − F(low) for low, step ≥ 0, without cancellation where the step is small."""
        base, difference = (low.square(), step * (2 * low + step)) if self.power == 2 else (low, step)
        if self.floor is None:
            return difference
        if self.mode == "add":
            return torch.log1p(difference / (base + self.floor))
        start = base.clamp(min=self.floor)
        return torch.log1p((difference - (start - base)).clamp(min=0.0) / start)

    def steepest(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the largest slope of F on [low, high] ⊂ [0, ∞) (at a kink, the larger one-sided slope)."""
        if self.floor is None:
            return 2 * high if self.power == 2 else torch.ones_like(high)
        if self.mode == "add":
            if self.power == 1:
                return 1 / (low + self.floor)
            # 2b/(b² + ε) rises up to b = √ε and falls from there.
            at = torch.full_like(low, math.sqrt(self.floor))
            at = torch.minimum(torch.maximum(at, low), high)
            return 2 * at / (at.square() + self.floor)
        kink = self.floor if self.power == 1 else math.sqrt(self.floor)
        return torch.where(high >= kink, self.power / low.clamp(min=kink), 0.0)

    @property
    def lipschitz(self) -> float:
        """The largest slope anywhere (∞ for a plain square)."""
        if self.floor is None:
            return 1.0 if self.power == 1 else math.inf
        if self.power == 1:
            return 1 / self.floor
        return (1.0 if self.mode == "add" else 2.0) / math.sqrt(self.floor)


def largest_budget(f: Compression, a: Tensor, y: Tensor, scale: Tensor, radius: float) -> float:
    """Return a proven S: Σ y_i Δ_i² ≤ S implies that the features move by at most `radius`.

    a: amplitudes, y: budget weights, scale: factors of the features, each `(n,)` in float64, y and scale
    positive. 0.0 where radius is not positive; ∞ where it is infinite.
    """
    if not radius > 0:  # a NaN proves nothing
        return 0.0
    if len(a) == 0 or radius == math.inf:
        return math.inf
    row = _Row(f, a, y, scale)
    target = min(radius, 1e100) ** 2 / _OUTWARD
    # What the steepest slope alone proves; it is all where enough coordinates can be steepest at once.
    steepest = f.lipschitz * float((scale / torch.sqrt(y)).max())
    proven = target / (steepest**2 * _OUTWARD) if steepest < math.inf else 0.0
    # One coordinate alone reaches R here: the best S that this relaxation can prove is not larger.
    top = row.alone(target)
    for _ in range(_TRIES):
        proven = max(proven, row.budget(top, target))
        if proven >= 0.5 * top:
            break
        # Under a smaller budget fewer v are possible: T nearer to S proves more, or proves something at all.
        top = math.sqrt(proven) * math.sqrt(top) if proven > 0 else 1e-3 * top
    return proven


def _grid(top: float) -> Tensor:
    tail = torch.logspace(math.log10(top) - _DECADES, math.log10(top), _CELLS, dtype=torch.float64)
    tail[-1] = top
    return torch.cat([torch.zeros(1, dtype=torch.float64), tail])


def _good_multiplier(values: Tensor, grid: Tensor, target: float) -> tuple[float, float]:
    """Return the λ that makes (R² − φ)/λ largest on the grid's points, and that value, by golden-section search."""

    def worth(log_lam: float) -> float:
        lam = math.exp(log_lam)
        return (target - float((values - lam * grid).amax(dim=1).sum())) / lam

    # No λ above the steepest secant of any g_i is of use, and hardly one below R²/T.
    low = math.log(target / float(grid[-1])) - 3.0
    high = max(low + 3.0, math.log(max(float((values[:, 1:] / grid[1:]).amax()), 1e-300) * 1.001))
    golden = (math.sqrt(5.0) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    f_left, f_right = worth(left), worth(right)
    for _ in range(_SEARCH):
        # Where one coordinate takes all, small λ are all as good on the grid, and the largest is safest off it.
        if f_left > f_right * (1 + 1e-6):
            high, right, f_right = right, left, f_left
            left = high - golden * (high - low)
            f_left = worth(left)
        else:
            low, left, f_left = left, right, f_right
            right = low + golden * (high - low)
            f_right = worth(right)
    return (math.exp(left), f_left) if f_left > f_right else (math.exp(right), f_right)


class _Row:
    """The features of one clip: `(n,)` amplitudes, budget weights and scales."""

    def __init__(self, f: Compression, a: Tensor, y: Tensor, scale: Tensor) -> None:
        self.f, self.a, self.y, self.scale = f, a, y, scale

    def _at(self, which: Tensor | slice, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        a, y, scale = self.a[which], self.y[which], self.scale[which]
        return (a[:, None], y[:, None], scale[:, None]) if dim == 2 else (a, y, scale)

    def g(self, v: Tensor, which: Tensor | slice) -> Tensor:
        """g_i(v) of the coordinates `which`, a row of v each."""
        a, y, scale = self._at(which, v.dim())
        step = torch.sqrt(v / y)
        up = self.f.rise(a, step)
        down = self.f.rise((a - step).clamp(min=0.0), torch.minimum(step, a))
        return (torch.maximum(up, down) * scale).square()

    def slope(self, low: Tensor, high: Tensor, g_high: Tensor, which: Tensor) -> Tensor:
        """Return an upper bound of g_i′ on [low, high].

        With h(Δ) the change of F: dg/dv = scale²·h·h′/(yΔ). h′ is at most the steepest slope of F that
        Δ in the cell reaches, and h/Δ at most the steepest that any smaller Δ reaches, and at most
        h(Δ_high)/Δ_low.
        """
        a, y, scale = self._at(which, low.dim())
        short, long = torch.sqrt(low / y), torch.sqrt(high / y)
        far = (a - long).clamp(min=0.0)
        steep = torch.maximum(
            self.f.steepest(a + short, a + long), self.f.steepest(far, (a - short).clamp(min=0.0))
        )
        mean = self.f.steepest(far, a + long)
        mean = torch.where(short > 0, torch.minimum(mean, torch.sqrt(g_high) / (scale * short)), mean)
        return steep * mean * scale.square() / y

    def budget(self, top: float, target: float) -> float:
        """Return a proven S ≤ T = `top` for R² = `target`, or 0.0."""
        grid = _grid(top)
        values = self.g(grid.expand(len(self.a), -1), slice(None))
        lam, hoped = _good_multiplier(values, grid, target)
        proven = 0.0
        # The cells' slack counts once a coordinate; a somewhat larger λ may swallow it.
        for wider in (1.0, 1.02, 1.1):
            phi = float(self.maxima(wider * lam, grid, values).sum()) * _OUTWARD
            found = (target - phi) / (wider * lam * _OUTWARD)
            if found > 0:  # written so that a NaN proves nothing
                proven = max(proven, min(top, found))
            if proven >= 0.97 * min(top, hoped):
                break
        return proven

    def alone(self, target: float) -> float:
        """Return a v at which no coordinate alone reaches `target`, within 10⁻⁶ of the smallest at which one does."""
        low, high = -200.0, 200.0
        while high - low > 4e-7:
            middle = (low + high) / 2
            if float(self.g(torch.full_like(self.a, math.pow(10.0, middle)), slice(None)).amax()) >= target:
                high = middle
            else:
                low = middle
        return math.pow(10.0, low)

    def maxima(self, lam: float, grid: Tensor, values: Tensor) -> Tensor:
        """Return upper bounds of max over 0 ≤ v ≤ grid[-1] of g_i(v) − λv, `(n,)`; values: g on the grid."""
        reached = (values - lam * grid).amax(dim=1)  # at points: includes v = 0, so never negative
        cells = ~(values[:, 1:] - lam * grid[:-1] <= reached[:, None])  # a NaN stays open
        which, k = torch.nonzero(cells, as_tuple=True)
        low, high = grid[k], grid[k + 1]
        g_low, g_high = values[which, k], values[which, k + 1]
        parts = torch.arange(1, _PARTS, dtype=torch.float64) / _PARTS
        out = reached
        for last in range(_ROUNDS, -1, -1):
            bound = self._cell_bound(lam, low, high, g_low, g_high, which)
            if last == 0:
                return out.scatter_reduce(0, which, bound, "amax")
            open_ = ~(bound <= reached[which])
            which, low, high, g_low, g_high = (t[open_] for t in (which, low, high, g_low, g_high))
            # Divide evenly in v; the first cell, from 0, as well.
            inner = low[:, None] + (high - low)[:, None] * parts
            g_inner = self.g(inner, which)
            out = out.scatter_reduce(0, which, (g_inner - lam * inner).amax(dim=1), "amax")
            reached = out
            edges = torch.cat([low[:, None], inner, high[:, None]], dim=1)
            g_edges = torch.cat([g_low[:, None], g_inner, g_high[:, None]], dim=1)
            which = which.repeat_interleave(_PARTS)
            low, high = edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1)
            g_low, g_high = g_edges[:, :-1].reshape(-1), g_edges[:, 1:].reshape(-1)
        raise AssertionError("unreachable")

    def _cell_bound(
        self, lam: float, low: Tensor, high: Tensor, g_low: Tensor, g_high: Tensor, which: Tensor
    ) -> Tensor:
        by_ends = g_high - lam * low
        by_slope = (
            g_low - lam * low + (self.slope(low, high, g_high, which) - lam).clamp(min=0.0) * (high - low)
        )
        return torch.minimum(by_ends, by_slope)
