"""Stages that limit or quantise sample values.

Conventions: elementwise on `(batch, *shape)`. Above the noise they are part of the front; below it they
belong to the base classifier, and the certificate stays about the point before them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from soundcert.errors import ConfigError
from soundcert.spaces import Space
from soundcert.stages.base import INWARD, Stage, register, require, row_norm


@register("clip")
@dataclass(frozen=True)
class Clip(Stage):
    """Limit every value to [low, high]; 1-Lipschitz, so a radius is pulled back unchanged."""

    low: float = -1.0
    high: float = 1.0

    family = "range"
    always = ("high",)

    def __post_init__(self) -> None:
        require(self.low < self.high, self, "high", f"larger than low ({self.low!r})")

    def __call__(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    def space(self, before: Space) -> Space:
        return before.evolve(name="waveform") if before.kind == "waveform" else before

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        return radius

    def words(self) -> str:
        return f"values limited to [{self.low:g}, {self.high:g}]"


@register("limiter")
@dataclass(frozen=True)
class Limiter(Stage):
    """A soft limiter: values within ±threshold stay, larger ones approach ±ceiling; each sample by itself, without memory.

    With t and c for both and k = c − t, |y| = t + k·tanh((|x| − t)/k) above t. The slope is 1 − tanh² there, so it is
    1-Lipschitz and a radius is pulled back unchanged but for rounding.
    """

    threshold: float = 0.8
    ceiling: float = 1.0

    family = "range"
    always = ("ceiling",)

    def __post_init__(self) -> None:
        require(0 <= self.threshold < math.inf, self, "threshold", "from 0 and finite")
        require(
            self.threshold < self.ceiling < math.inf,
            self,
            "ceiling",
            f"above threshold ({self.threshold!r}) and finite",
        )
        require(
            self.ceiling >= 1e-30,
            self,
            "ceiling",
            "from 1e-30: far below, the room for rounding would be none",
        )

    def __call__(self, x: Tensor) -> Tensor:
        knee = self.ceiling - self.threshold
        bent = self.threshold + knee * torch.tanh((x.abs() - self.threshold) / knee)
        return torch.where(x.abs() > self.threshold, torch.copysign(bent, x), x)

    def space(self, before: Space) -> Space:
        return before.evolve(name="waveform") if before.kind == "waveform" else before

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        # Both values of a bent sample are rounded, by at most 9 units in the last place of the ceiling (tanh by 4 of them).
        room = 4e-15 * self.ceiling * math.sqrt(x.flatten(1).shape[1])
        return (radius - room).clamp(min=0.0) * INWARD

    def words(self) -> str:
        return f"values above {self.threshold:g} bent to stay below {self.ceiling:g}"


@register("quantize")
@dataclass(frozen=True)
class Quantize(Stage):
    """Round to a lattice: `bits` (step 2^(1−bits), saturating at [−1, 1 − step]), a plain `step`, or `log2_step`.

    log2_step: the step is 2^log2_step, as `lattice_noise` needs it.
    """

    bits: int | None = None
    step: float | None = None
    log2_step: int | None = None

    family = "range"

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.bits, self.step, self.log2_step)) != 1:
            raise ConfigError("quantize: give exactly one of bits, step and log2_step")
        require(self.bits is None or 1 <= self.bits <= 32, self, "bits", "from 1 to 32")
        require(self.step is None or 0 < self.step < math.inf, self, "step", "positive and finite")
        require(self.log2_step is None or -60 <= self.log2_step <= 60, self, "log2_step", "from -60 to 60")

    @property
    def delta(self) -> float:
        if self.step is not None:
            return self.step
        if self.log2_step is not None:
            return math.ldexp(1.0, self.log2_step)
        assert self.bits is not None
        return math.ldexp(1.0, 1 - self.bits)

    def keeps(self, step: float) -> bool:
        """Whether every whole multiple of `step` in [−1, 1 − step] is on the lattice, and so left as it is."""
        both = (
            math.frexp(step)[0] == math.frexp(self.delta)[0] == 0.5
        )  # powers of two, so that nothing is rounded
        return both and step >= self.delta

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.round(x / self.delta) * self.delta
        return out if self.bits is None else out.clamp(-1.0, 1.0 - self.delta)

    def space(self, before: Space) -> Space:
        return before.evolve(name="waveform") if before.kind == "waveform" else before

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """The largest of three proven radii; Δ is the step and o_i = |x_i/Δ − round(x_i/Δ)| ≤ ½.

        To move by k ≥ 1 steps, coordinate i must go |δ_i| ≥ Δ(k − a_i), a_i = ½ + o_i. So it moves by at
        most |δ_i| + Δ·a_i, and r = R − Δ‖a‖ (R − Δ√d/2 on the lattice, R − Δ√d at worst). As
        k − a_i ≥ k(1 − a_i), it also moves by at most |δ_i|/(1 − a_i), and r = R·min(1 − a_i) (R/2 on the
        lattice). And nothing moves while ‖δ‖ is below the nearest decision edge, Δ·min(1 − a_i).
        Saturation after rounding is 1-Lipschitz and changes none of this.
        """
        flat = x.flatten(1) / self.delta
        root = math.sqrt(flat.shape[1])
        offset = (flat - torch.round(flat)).abs()
        # x/Δ is rounded where Δ is no power of two, and x itself by the stages above: leave that as room.
        largest = flat.abs().amax(dim=1)
        room = 1e-12 * largest
        radius = radius - 2e-15 * largest * self.delta * root
        long = radius - self.delta * (row_norm(0.5 + offset) + room * root)
        edge = ((0.5 - offset).amin(dim=1) - room).clamp(min=0.0)
        reach = torch.maximum(radius, torch.full_like(radius, self.delta * (1 - 1e-9)))
        short = torch.where(edge > 0, edge * reach, 0.0)  # on an edge, 0·∞ would be NaN
        return torch.maximum(long, short).clamp(min=0.0) * INWARD

    def words(self) -> str:
        return (
            f"rounded to {self.bits} bits" if self.bits is not None else f"rounded to steps of {self.delta:g}"
        )
