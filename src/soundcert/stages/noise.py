"""Smoothing noise. Where this stage stands in a pipeline decides what a certificate is about.

A noise family knows three things: how to perturb a tensor given standard draws, how a lower bound on
the top class's probability becomes a radius, and the largest radius that (n, α) allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from soundcert.spaces import Space
from soundcert.stages.base import Stage, register, require


class NoiseStage(Stage):
    """Base of noise families."""

    family = "noise"
    norm: ClassVar[str] = "l2"
    sigma: float

    def perturb_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Fill `out` with noise drawn from `generator`, in place."""
        raise TypeError(f"{self.name} does not implement perturb_")

    def __call__(self, x: Tensor) -> Tensor:
        """Return x plus fresh noise (operating-system entropy; use `perturb_` for keyed draws)."""
        generator = torch.Generator(device=x.device)
        generator.seed()
        return x + self.perturb_(torch.empty_like(x), generator)


@register("gaussian_noise")
@dataclass(frozen=True)
class GaussianNoise(NoiseStage):
    """Isotropic Gaussian noise of standard deviation `sigma`, in the unit of the space it stands in."""

    sigma: float

    def __post_init__(self) -> None:
        require(
            isinstance(self.sigma, int | float) and 0 < self.sigma < math.inf,
            self,
            "sigma",
            "positive and finite",
        )

    def perturb_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        return out.normal_(generator=generator).mul_(self.sigma)

    def space(self, before: Space) -> Space:
        return before

    def words(self) -> str:
        return f"Gaussian noise of standard deviation {self.sigma:g} added"
