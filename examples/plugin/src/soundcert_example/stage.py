"""A stage: a soft limiter, with a proof that lets radii be carried through it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from soundcert.spaces import Space
from soundcert.stages import Stage
from soundcert.stages.base import require, waveform_only


@dataclass(frozen=True)
class SoftLimit(Stage):
    """Squash every sample to within ±ceiling: ceiling·tanh(x/ceiling)."""

    ceiling: float = 1.0

    family = "range"

    def __post_init__(self) -> None:
        require(self.ceiling > 0, self, "ceiling", "positive")

    def __call__(self, x: Tensor) -> Tensor:
        return self.ceiling * torch.tanh(x / self.ceiling)

    def space(self, before: Space) -> Space:
        waveform_only(self, before)
        return before.evolve(name="waveform")

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """The slope of tanh is at most 1, so no change grows: a radius is carried as it is."""
        return radius

    def words(self) -> str:
        return f"squashed to within ±{self.ceiling:g}"
