"""Attacks on the smoothed classifier: inside the certified ball, and to the nearest change of its label.

Conventions
-----------
A perturbation δ is added in a space above the noise, and the front carries it to u = φ(x + δ), rounded to
float32 as the model hears it. The smoothed classifier has no gradient of its own; followed is that of
M(δ) = E[margin of the certified class at u + η], a mean over fresh draws at each step (expectation over noise).
Searches draw noise of purpose "attack". What is *said* is counted with draws of purpose "verification", which
no search has seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soundcert import bounds
from soundcert.attack.fronts import Front, straight_through
from soundcert.certificate import Certificate
from soundcert.certify import SmoothedClassifier
from soundcert.errors import ConfigError
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.sampling import Job, count_votes

#: Multiples of the perturbation that is on the edge by the search's own draws, tried in order with fresh ones.
TRIES = (1.0, 1.01, 1.03, 1.07, 1.15, 1.3, 1.6, 2.0)
#: How near the radius the search inside the ball goes.
INSIDE = 0.999
# A search's average over its steps: how much of the older gradients is kept.
_KEPT = 0.7
# Draws that say where a ray is to be cut, which is then verified with as many as are asked for.
_CUTTING = 300


@dataclass(frozen=True)
class Claim:
    """What a certificate says, as far as an attack on it needs to know.

    label: the certified label; radius: ℓ2, in the certified object; p_lower, p_upper: bounds of its
    probability and of every other class's (two-class bound only).
    """

    clip: str
    digest: str
    label: str
    radius: float
    sigma: float
    p_lower: float
    p_upper: float | None = None

    @classmethod
    def of(cls, certificate: Certificate) -> Claim:
        """AbstainedError where nothing was certified."""
        c = certificate
        return cls(c.clip, c.digest, c.label, c.radius, c.sigma, c.p_lower, c.p_upper)


@dataclass(frozen=True, eq=False)
class Flip:
    """A perturbation after which the smoothed classifier gives another label, wrong with probability ≤ `level`.

    `delta` `(*shape)` has ℓ2 norm `norm`. count of n fresh draws gave `label`, runner_up the second class; tries:
    how many perturbations along the ray were counted, each at level/8.
    """

    norm: float
    delta: Tensor
    label: str
    count: int
    runner_up: int
    n: int
    level: float
    tries: int


@dataclass(frozen=True, eq=False)
class Inside:
    """The strongest perturbation found inside the certified ball, and what n fresh draws say of it.

    guaranteed: the probability of the certified label that the certificate proves at this norm, at least ½ (of
    the one-sided bound); p_upper: its upper bound from `count` of n fresh draws. violated: p_upper < guaranteed,
    or, for the two-class bound, a rival's lower bound above what the certificate allows it or above p_upper. With
    a true certificate that happens with probability at most `level`; and a certificate is false with
    probability at most its own α.
    """

    norm: float
    delta: Tensor
    count: int
    n: int
    level: float
    p_upper: float
    guaranteed: float
    violated: bool


class Target:
    """The smoothed classifier around one clip, as an attack sees it from one space."""

    def __init__(self, front: Front, classifier: SmoothedClassifier, claim: Claim, seed: int) -> None:
        self.front, self.claim, self.seed = front, claim, seed
        self.base = classifier.base(front.route, front.route.noise.held(front.v), seed, claim.digest)
        if claim.label not in self.base.labels:
            raise ConfigError(
                f"the certificate's label {claim.label!r} is none of the model's ({', '.join(self.base.labels)}): "
                "attack it with the model that was certified"
            )
        self.top = self.base.labels.index(claim.label)
        self._noise = noise_stream(self._key("attack"), front.route.noise)

    def _key(self, purpose: str) -> NoiseKey:
        return NoiseKey(self.seed, "attack" if purpose == "attack" else "verification", self.claim.digest)

    def object(self, delta: Tensor) -> Tensor:
        """Return φ(x + δ) as noise is added to it, `(*shape)`; delta is flat.

        On a lattice, a δ of the object itself is rounded towards it, so that it gets no longer.
        """
        with torch.no_grad():
            return self.front.route.noise.held(self._on_lattice(self._moved(delta)[0]))

    def _on_lattice(self, u: Tensor) -> Tensor:
        step = self.front.route.noise.lattice
        return u if step is None else self.front.v + torch.trunc((u - self.front.v) / step) * step

    def _moved(self, delta: Tensor) -> Tensor:
        x = self.front.x
        return self.front((x.flatten() + delta).reshape(1, *x.shape))

    def margin(self, delta: Tensor, draws: int, rival: int | None = None) -> tuple[float, Tensor]:
        """Return the mean margin M over fresh draws, and its gradient by δ (both flat, float64).

        rival: the class to be overtaken; by default the strongest other one, draw by draw.
        """
        leaf = delta.detach().clone().requires_grad_()
        noise = self._noise.fill_(torch.empty(draws, *self.front.v.shape))
        y = self._moved(leaf).float() + noise
        y = self.front.route.run(y, straight_through)
        others = torch.cat([y[:, : self.top], y[:, self.top + 1 :]], dim=1)
        margins = y[:, self.top] - (others.amax(dim=1) if rival is None else y[:, rival])
        margins = margins[margins.isfinite()]
        if not len(margins):
            return 0.0, torch.zeros_like(delta)
        mean = margins.mean()
        (slope,) = torch.autograd.grad(mean, leaf)
        return float(mean.detach()), slope.nan_to_num(0.0, 0.0, 0.0)

    def count(self, u: Tensor, n: int, purpose: str, start: int = 0) -> np.ndarray:
        """Return votes per class, `(classes,)`, of n noisy copies of the held object `u`."""
        job = Job(u.to(self.base.device), self._key(purpose), n, start)
        counts: np.ndarray = count_votes(self.base, [job])[0]
        return counts

    def rivals(self, n: int) -> list[int]:
        """Return the other classes, the likeliest at the clip itself first."""
        counts = self.count(self.object(torch.zeros(self.front.x.numel(), dtype=torch.float64)), n, "attack")
        return [int(c) for c in np.argsort(-counts, kind="stable") if c != self.top]


def flip_label(
    target: Target, *, steps: int = 24, draws: int = 32, n: int = 1000, level: float = 1e-3, descents: int = 1
) -> Flip | None:
    """Search the smallest δ after which the smoothed classifier does not give the certified label.

    M is followed to its zero: each step goes towards the nearest point where the linear model of M is 0 (the
    HLRF and DeepFool step), with gradients averaged over steps. Then the ray is cut where the label changes by
    the search's draws, and this is verified: n fresh draws must make `predict` answer another label, at level/8
    for each of at most eight lengths. descents: the strongest rival of each draw, then the likeliest rivals one
    by one. steps, draws: of each descent. Returns None where no descent was verified.
    """
    rivals = target.rivals(max(100, draws)) if descents > 1 else []
    found: list[Flip] = []
    for number in range(1 + min(descents - 1, len(rivals))):
        delta = _to_the_edge(target, steps, draws, rivals[number - 1] if number else None)
        shortest = min((f.norm for f in found), default=math.inf)
        flip = _cut(target, delta, n, level / (1 + min(descents - 1, len(rivals))), number, shortest)
        if flip:
            found.append(flip)
    return min(found, key=lambda f: f.norm, default=None)


def _to_the_edge(target: Target, steps: int, draws: int, rival: int | None) -> Tensor:
    """Return a δ near the nearest one found with M(δ) = 0, flat; 0 where M has no gradient."""
    delta = torch.zeros(target.front.x.numel(), dtype=torch.float64)
    mean = 0.0
    slope = torch.zeros_like(delta)
    points: list[Tensor] = []
    for step in range(steps):
        value, gradient = target.margin(delta, draws, rival)
        mean, slope = (
            _KEPT * mean + (1 - _KEPT) * (value - float(gradient @ delta)),
            _KEPT * slope + (1 - _KEPT) * gradient,
        )
        square = float(slope @ slope)
        if not square > 0:
            break
        # The averages are of the linear model M(0) + ⟨g, δ⟩: its zero nearest to 0 is −M(0)·g/‖g‖².
        nearest = slope * (-mean / square) if mean > 0 else torch.zeros_like(delta)
        move = 0.4 * (nearest - delta)
        length, most = float(torch.linalg.vector_norm(move)), float(torch.linalg.vector_norm(delta))
        if most and length > most:  # a linear model says little about a point that is twice as far
            move *= most / length
        delta = delta + move
        if step >= steps // 2:
            points.append(delta)
    return torch.stack(points).mean(dim=0) if points else delta


def _cut(target: Target, delta: Tensor, n: int, level: float, number: int, shortest: float) -> Flip | None:
    """Cut the ray through δ where the label changes, and verify it with fresh draws."""
    from scipy.special import ndtri

    norm = float(torch.linalg.vector_norm(delta))
    if not norm > 0:
        return None
    share = level / len(TRIES)
    # A little more than the share that n draws have to show, so that the first length is likely to be verified.
    margin = min(0.45, 1.2 * float(ndtri(1 - share / 2)) / (2 * math.sqrt(n)))

    def changed(scale: float) -> bool:
        counts = target.count(target.object(delta * scale), min(n, _CUTTING), "attack")
        best, second = np.sort(counts)[-1], np.sort(counts)[-2]
        return bool(counts[target.top] < best and best >= (0.5 + margin) * (best + second))

    high = next((s for s in (1.0, 1.5, 2.5, 5.0) if changed(s)), None)
    if high is None or 0.5 * high * norm > shortest:
        return None
    low = 0.0
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (low, middle) if changed(middle) else (middle, high)
    for tried, factor in enumerate(TRIES, start=1):
        start = (1 + number * len(TRIES) + tried) * n
        counts = target.count(target.object(delta * (high * factor)), n, "verification", start)
        order = np.argsort(-counts, kind="stable")
        best, second = int(counts[order[0]]), int(counts[order[1]])
        if order[0] != target.top and best and bounds.binomial_two_sided_p(best, best + second) <= share:
            out = (delta * (high * factor)).reshape(target.front.x.shape)
            size = float(torch.linalg.vector_norm(out))
            return Flip(size, out, target.base.labels[order[0]], best, second, n, level, tried)
    return None


def inside_ball(
    target: Target, *, steps: int = 24, draws: int = 32, n: int = 1000, level: float = 1e-6
) -> Inside | None:
    """Search the δ just inside the certified ball that makes the certified label least likely, and count there.

    target must see the certified object itself (space "object"). Returns None for a radius of 0, which covers no
    perturbation. See `Inside` for what counts as a violation.
    """
    claim, noise, v = target.claim, target.front.route.noise, target.front.v
    length = INSIDE * claim.radius
    if not length > 0:
        return None
    slope = torch.zeros(v.numel(), dtype=torch.float64)
    delta = torch.zeros_like(slope)
    for _ in range(steps):
        _, gradient = target.margin(delta, draws)
        size = float(torch.linalg.vector_norm(gradient))
        if size > 0:
            slope = _KEPT * slope + (1 - _KEPT) * gradient / size
        norm = float(torch.linalg.vector_norm(slope))
        if not norm > 0:
            break
        delta = -slope * (length / norm)
    # The object as the model hears it: what float32 or the lattice makes of v + δ, and how far that really is from v.
    u = target.object(delta)
    moved = noise.value(u) - noise.value(noise.held(v))
    size = float(torch.linalg.vector_norm(moved))
    if not size < claim.radius:
        return None
    counts = target.count(u, n, "verification")
    return _judge(target, moved, size, counts, n, level)


def _judge(target: Target, moved: Tensor, size: float, counts: np.ndarray, n: int, level: float) -> Inside:
    """Compare the counts at v + δ with what the Neyman-Pearson lemma guarantees there."""
    from scipy.special import ndtr, ndtri

    claim = target.claim
    share = level if claim.p_upper is None else level / 2
    count = int(counts[target.top])
    p_upper = bounds.clopper_pearson_upper(count, n, share)
    guaranteed = float(ndtr(ndtri(claim.p_lower) - size / claim.sigma)) * (1 - 1e-9)
    if claim.p_upper is None:
        guaranteed = max(guaranteed, 0.5)  # what the radius itself says, however it was computed
    violated = p_upper < guaranteed
    if claim.p_upper is not None and claim.p_upper < 1:
        allowed = float(ndtr(ndtri(claim.p_upper) + size / claim.sigma)) * (1 + 1e-9)
        rival = int(np.delete(counts, target.top).max(initial=0))
        # Every rival's bound at once, since which is looked at depends on the counts.
        strongest = bounds.clopper_pearson_lower(rival, n, share / max(1, len(counts) - 1))
        violated |= strongest > min(allowed, p_upper)
    return Inside(size, moved, count, n, level, p_upper, guaranteed, bool(violated))
