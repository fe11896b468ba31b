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
from soundcert.stages.base import INWARD, Stage, register, require


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


@register("quantize")
@dataclass(frozen=True)
class Quantize(Stage):
    """Round to a lattice: `bits` (step 2^(1−bits), saturating at [−1, 1 − step]) or a plain `step`."""

    bits: int | None = None
    step: float | None = None

    family = "range"

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.step is None):
            raise ConfigError("quantize: give exactly one of bits and step")
        require(self.bits is None or 1 <= self.bits <= 32, self, "bits", "from 1 to 32")
        require(self.step is None or 0 < self.step < math.inf, self, "step", "positive and finite")

    @property
    def delta(self) -> float:
        if self.step is not None:
            return self.step
        assert self.bits is not None
        return math.ldexp(1.0, 1 - self.bits)

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.round(x / self.delta) * self.delta
        return out if self.bits is None else out.clamp(-1.0, 1.0 - self.delta)

    def space(self, before: Space) -> Space:
        return before.evolve(name="waveform") if before.kind == "waveform" else before

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """The largest of three proven radii, Δ the step and d the dimension.

        General x: rounding moves x and x+δ by at most Δ√d/2 each, so r = R − Δ√d. On the lattice only
        x+δ is moved, and a coordinate moves at all only when |δ_i| ≥ Δ/2, then by at most 2|δ_i|:
        r = max(R/2, R − Δ√d/2). And while ‖δ‖ is less than the distance to the nearest decision edge,
        nothing moves. Saturation after rounding is 1-Lipschitz and changes none of this.
        """
        flat = x.flatten(1) / self.delta
        root = math.sqrt(flat.shape[1])
        offset = (flat - torch.round(flat)).abs()
        on_lattice = (offset == 0).all(dim=1)
        # x/Δ is rounded where Δ is no power of two, and x itself by the stages above: leave that as room.
        largest = flat.abs().amax(dim=1)
        radius = radius - 2e-15 * largest * self.delta * root
        general = radius - self.delta * root
        lattice = torch.maximum(radius / 2, radius - self.delta * root / 2)
        still = ((0.5 - offset).amin(dim=1) - 1e-12 * largest) * self.delta * (1 - 1e-9)
        best = torch.where(on_lattice, lattice, general)
        return torch.maximum(best, still).clamp(min=0.0) * INWARD

    def words(self) -> str:
        return (
            f"rounded to {self.bits} bits" if self.bits is not None else f"rounded to steps of {self.step:g}"
        )
