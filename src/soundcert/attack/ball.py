"""The smallest perturbation found that leaves a ball: the other side of a pull-back.

Conventions
-----------
φ maps `(batch, *shape)` to objects, row by row, in float64; D(δ) = ‖φ(x + δ) − φ(x)‖. A *ray* is a direction
u, and ρ(u) the length at which it crosses D = R. What is returned was measured: D(δ) > R. It is an upper bound
of the largest radius r with (‖δ‖ ≤ r implies D(δ) ≤ R), whatever the search missed; nothing is proven by it
about smaller perturbations.

How it searches. ρ(u) is minimised over directions. With g = ∇D at δ = ρu, the gradient of log ρ is
u − g/⟨g, u⟩; a step of one along it gives u = g/‖g‖, the power iteration for D² generalised to a φ that is not
linear (and the HLRF step of structural reliability, after Hasofer and Lind 1974, Rackwitz and Fiessler 1978).
Momentum, and steps that are shortened where ρ would grow, are added to it. Starts are many, since a logarithm
makes the problem far from convex: noise everywhere or in one stretch, tones, the clip itself and its negative,
and the top singular vector of φ's derivative at x. The best few are followed further.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from soundcert.attack.fronts import Map, check_settings, distances, front_from
from soundcert.audio import Clip
from soundcert.errors import ConfigError
from soundcert.pipeline import Pipeline

#: Rays are searched from this to that multiple of the clip's norm (or of 0.001·√d for a quieter clip).
SHORTEST, LONGEST = 1e-10, 1e3
_QUIETEST = 1e-3
# A row counts only where the power law that extrapolates it to D = R spans at most this much of log D.
_NEAR = 0.05
_MOST = 2**19  # values a batch: larger ones outgrow the caches


@dataclass(frozen=True, eq=False)
class Exit:
    """A perturbation that leaves the ball: `delta` `(*shape)` of ℓ2 norm `norm`.

    distance: ‖φ(x + δ) − φ(x)‖ as measured, larger than `radius`. start: what the search began from.
    """

    norm: float
    distance: float
    radius: float
    delta: Tensor
    start: str


def leave_ball(
    pipe: Pipeline,
    clip: Clip,
    radius: float,
    *,
    space: str = "file",
    steps: int = 40,
    restarts: int = 16,
    seed: int = 0,
) -> Exit | None:
    """Search the smallest δ in `space` that moves the certified object by more than `radius`.

    space: "file" (the decoded samples), "object", or the name of any space above the noise. steps: gradient
    steps of the best few starts; restarts: starts, of which those that lead furthest are followed.
    Returns None where no ray leaves the ball within 1000 times the clip's norm. A figure from above: compare it with
    `Certificate.in_space`, the proof from below.
    """
    front = front_from(pipe, clip, space)
    return smallest_exit(front, front.x, radius, steps=steps, restarts=restarts, seed=seed)


def smallest_exit(
    phi: Map, x: Tensor, radius: float, *, steps: int = 40, restarts: int = 16, seed: int = 0
) -> Exit | None:
    """Search the smallest δ with ‖φ(x + δ) − φ(x)‖ > radius, for any row-wise map; see `leave_ball`.

    phi maps `(batch, *shape)` and has gradients; x is `(*shape)`, taken to float64.
    """
    if not 0 < radius < math.inf:
        raise ConfigError(f"radius must be positive and finite, got {radius!r}: there is no ball to leave")
    check_settings([("steps", steps), ("restarts", restarts)])
    x = x.detach().double()
    with torch.no_grad():
        v = phi(x.unsqueeze(0))[0].clone()
    search = _Search(phi, x, v, radius)
    names, u = _starts(search, restarts, torch.Generator().manual_seed(seed))
    u, log_rho, alive = search.crossings(u)
    names = [name for name, keep in zip(names, alive.tolist(), strict=True) if keep]
    if not names:
        return None
    # Most starts show within a few steps where they lead.
    for kept, more in ((max(3, restarts // 3), max(1, steps // 5)), (2, steps)):
        u, log_rho = search.descend(u, log_rho, more)
        best = log_rho.argsort()[:kept]
        u, log_rho, names = u[best], log_rho[best], [names[i] for i in best.tolist()]
    found = [
        e
        for row, rho, name in zip(u, log_rho, names, strict=True)
        if (e := search.exit(row, float(rho), name))
    ]
    return min(found, key=lambda e: e.norm, default=None)


class _Search:
    """Rays from x, cut where they cross the sphere of radius R around v."""

    def __init__(self, phi: Map, x: Tensor, v: Tensor, radius: float) -> None:
        self.phi, self.x, self.v, self.radius = phi, x, v, radius
        self.log_radius = math.log(radius)
        self.unit = max(float(torch.linalg.vector_norm(x)), _QUIETEST * math.sqrt(x.numel()))
        self.rows = max(1, _MOST // x.numel())

    def distance(self, delta: Tensor) -> Tensor:
        return torch.cat(
            [distances(self.phi, self.x, self.v, part) for part in torch.split(delta, self.rows)]
        )

    def gradient(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return D `(batch,)` and its gradient `(batch, size)`, which is 0 where D is 0 or not finite."""
        parts = []
        for part in torch.split(delta, self.rows):
            leaf = part.detach().requires_grad_()
            moved = (
                self.phi((self.x.flatten() + leaf).reshape(-1, *self.x.shape)).flatten(1) - self.v.flatten()
            )
            square = moved.square().sum(dim=1)
            (slope,) = torch.autograd.grad(square.sum(), leaf)
            d = square.detach().sqrt()
            parts.append((d.nan_to_num(0.0, 0.0), (slope / (2 * d[:, None])).nan_to_num(0.0, 0.0, 0.0)))
        return torch.cat([d for d, _ in parts]), torch.cat([g for _, g in parts])

    def crossings(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rays that leave the ball, log ρ of their first crossing, and which of `u` they are."""
        grid = torch.linspace(math.log(SHORTEST), math.log(LONGEST), 27, dtype=torch.float64) + math.log(
            self.unit
        )
        high = torch.full((len(u),), math.inf, dtype=torch.float64)
        for level in grid:
            open_ = high.isinf().nonzero()[:, 0]
            if len(open_):
                out = self.distance(u[open_] * level.exp()) > self.radius
                high[open_[out]] = level
        alive = ~high.isinf()
        u, high = u[alive], high[alive]
        low = high - (grid[1] - grid[0])
        for _ in range(4 if len(u) else 0):
            middle = (low + high) / 2
            out = self.distance(u * middle.exp()[:, None]) > self.radius
            low, high = torch.where(out, low, middle), torch.where(out, middle, high)
        return u, high, alive

    def boundary(self, u: Tensor, log_rho: Tensor) -> tuple[Tensor, Tensor]:
        """Return log ρ(u) near the given one, and its gradient; inf where the ray does not cross there."""
        value = torch.full_like(log_rho, math.inf)
        slope = torch.zeros_like(u)
        log_rho, open_ = log_rho.clone(), torch.arange(len(u))
        for _ in range(4):
            rho = log_rho[open_].exp()
            d, g = self.gradient(u[open_] * rho[:, None])
            along = (g * u[open_]).sum(dim=1)
            power = along * rho / d  # D is about a power of ρ along a ray
            good = (power > 0.05) & power.isfinite()
            miss = (self.log_radius - d.log()) / power
            near = good & ((miss * power).abs() <= _NEAR)
            done = open_[near]
            value[done] = (log_rho[open_] + miss)[near]
            slope[done] = (u[open_] - g / along[:, None])[near]
            open_, miss = open_[good & ~near], miss[good & ~near]
            if not len(open_):
                break
            log_rho[open_] += miss.clamp(-1.0, 1.0)
        return value, slope

    def descend(self, u: Tensor, log_rho: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Minimise log ρ over directions; rows never get worse. Shape: `(batch, size)`, `(batch,)`."""
        first = log_rho
        value, slope = self.boundary(u, log_rho)
        moved = torch.zeros_like(u)
        pace = torch.ones_like(log_rho)
        for _ in range(steps):
            step = 0.7 * moved - slope
            step *= (pace / torch.linalg.vector_norm(step, dim=1).clamp(min=1.0))[:, None]
            new = u + step
            new /= torch.linalg.vector_norm(new, dim=1, keepdim=True)
            gain = (slope * step).sum(dim=1).clamp(-0.5, 0.0)
            at = torch.where(value.isfinite(), value + gain, first)
            new_value, new_slope = self.boundary(new, at)
            better = new_value < value
            keep = better[:, None]
            moved = torch.where(keep, new - u, 0.0)
            if bool((better & (value - new_value > 1e-7)).any()) is False and bool((pace < 0.02).all()):
                break
            pace = torch.where(better, (2 * pace).clamp(max=1.0), pace * 0.35)
            u, slope = torch.where(keep, new, u), torch.where(keep, new_slope, slope)
            value = torch.where(better, new_value, value)
        return u, torch.where(value.isfinite(), value, first)

    def exit(self, u: Tensor, log_rho: Tensor | float, start: str) -> Exit | None:
        """Cut a ray exactly: the shortest multiple found that is outside, as measured."""
        rho = math.exp(log_rho) * (1 + 2 * _NEAR)
        scales = torch.linspace(0.0, 1.0, 65, dtype=torch.float64)[1:] * rho
        out = self.distance(u * scales[:, None]) > self.radius
        if not bool(out.any()):
            return None
        first = int(out.int().argmax())
        high = float(scales[first])
        low = float(scales[first - 1]) if first else 0.0
        for _ in range(60):
            middle = (low + high) / 2
            if not low < middle < high:
                break
            if float(self.distance(u[None] * middle)) > self.radius:
                high = middle
            else:
                low = middle
        delta = u * high
        distance = float(self.distance(delta[None]))
        norm = float(torch.linalg.vector_norm(delta))
        return (
            Exit(norm, distance, self.radius, delta.reshape(self.x.shape), start)
            if distance > self.radius
            else None
        )


def _starts(search: _Search, count: int, generator: torch.Generator) -> tuple[list[str], Tensor]:
    """Return `count` directions `(count, size)` of norm 1, and what each is."""
    x = search.x
    size, length = x.numel(), x.shape[-1]

    def noise() -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def stretch(place: float, share: float) -> Tensor:
        """A raised cosine over a share of the clip, centred at `place` in [0, 1]."""
        width = max(4.0, share * length)
        t = (torch.arange(length, dtype=torch.float64) - place * (length - 1)) / width
        return torch.where(t.abs() < 0.5, torch.cos(math.pi * t).square(), 0.0)

    def tone() -> Tensor:
        low, high = math.log(0.002), math.log(0.5)  # cycles per sample
        frequency = math.exp(low + (high - low) * float(torch.rand(1, generator=generator)))
        phase = 2 * math.pi * float(torch.rand(1, generator=generator))
        return torch.cos(2 * math.pi * frequency * torch.arange(length, dtype=torch.float64) + phase).expand(
            x.shape
        )

    power = x.square().reshape(-1, length).sum(dim=0)
    smooth = torch.nn.functional.avg_pool1d(power[None, None], max(1, length // 32), ceil_mode=True)[0, 0]
    order = smooth.argsort()
    places = (order.double() + 0.5) / len(order)
    quiet, loud, middle = float(places[0]), float(places[-1]), float(places[len(order) // 2])
    peak = torch.zeros(size, dtype=torch.float64)
    peak[x.flatten().abs().argmax()] = 1.0
    # The clip's own direction can end in silence exactly, where a gain has no value: not without a little noise.
    jitter = 1e-3 * search.unit / math.sqrt(size)
    kinds = [
        ("noise", noise),
        ("linear", lambda: _linear(search, noise())),
        ("against the clip", lambda: -x + jitter * noise()),
        ("noise in a quiet stretch", lambda: noise() * stretch(quiet, 1 / 8)),
        ("along the clip", lambda: x + jitter * noise()),
        ("noise in a loud stretch", lambda: noise() * stretch(loud, 1 / 8)),
        ("against a loud stretch", lambda: -x * stretch(loud, 1 / 8) + jitter * noise()),
        ("noise at the start", lambda: noise() * stretch(0.0, 1 / 16)),
        ("noise at the end", lambda: noise() * stretch(1.0, 1 / 16)),
        ("a tone", tone),
        ("a short tone in a quiet stretch", lambda: tone() * stretch(quiet, 1 / 16)),
        ("the loudest sample", lambda: peak.reshape(x.shape) * x.sign() + 1e-3 / math.sqrt(size) * noise()),
        ("against the signs", lambda: -x.sign() + 1e-3 * noise()),
        ("noise", noise),
        ("a short tone", lambda: tone() * stretch(float(torch.rand(1, generator=generator)), 1 / 16)),
        ("noise in a middling stretch", lambda: noise() * stretch(middle, 1 / 16)),
        ("a short tone in a loud stretch", lambda: tone() * stretch(loud, 1 / 16)),
    ]
    names, rows = [], []
    for i in range(count):
        name, make = kinds[i] if i < len(kinds) else kinds[(0, -3, 3)[i % 3]]
        row = make().flatten()
        norm = float(torch.linalg.vector_norm(row))
        if norm > 0 and math.isfinite(norm):
            names.append(name)
            rows.append(row / norm)
    return names, torch.stack(rows)


def _linear(search: _Search, u: Tensor, steps: int = 8) -> Tensor:
    """Return about the top right singular vector of φ's derivative at x, by power iteration on short δ."""
    u = u.flatten()[None]
    length = 1e-6 * search.unit
    for _ in range(steps):
        u = u / torch.linalg.vector_norm(u)
        _, g = search.gradient(u * length)
        if not bool((g != 0).any()):
            break
        u = g
    return u[0]
