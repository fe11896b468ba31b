"""Smoothing noise. Where this stage stands in a pipeline decides what a certificate is about.

A noise family knows three things: what it adds noise to (`held`), how noise is drawn, and how far what is drawn
may be from the law that the radius is proven for (`error`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from soundcert.errors import ConfigError, InputError
from soundcert.rounded_normal import RoundedNormal, rounded_normal
from soundcert.spaces import Space
from soundcert.stages.base import Stage, register, require
from soundcert.stages.range import Quantize


class NoiseStage(Stage):
    """Base of noise families."""

    family = "noise"
    norm: ClassVar[str] = "l2"
    #: Whether `perturb_` draws N(0, σ²) for every coordinate by itself, the law that the radii are proven for. A class
    #: says it of its own draws: it is not inherited.
    normal: ClassVar[bool] = False
    sigma: float

    def below(self, above: Stage | None) -> Self:
        """Return this stage made ready for what stands directly above it; ConfigError where that will not do."""
        return self

    @property
    def law(self) -> RoundedNormal | None:
        """The exact law of one coordinate in lattice steps; None for a family that is not on a lattice."""
        return None

    @property
    def lattice(self) -> float | None:
        """The step of the lattice that objects and noise lie on; None for a family without."""
        return None

    def error(self, coordinates: int) -> float:
        """Upper bound of the total-variation distance between one row of noise and its law; 0 where none is known."""
        law = self.law
        return 0.0 if law is None else law.total_variation * coordinates

    def held(self, v: Tensor) -> Tensor:
        """Return the certified object v, float64 `(*shape)`, as the noise is added to it."""
        return v.float()

    def value(self, held: Tensor) -> Tensor:
        """Return the object, in float64, that `held` stands for."""
        return held.double()

    def perturb_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Fill `out` with noise drawn from `generator`, in place."""
        raise TypeError(f"{self.name} does not implement perturb_")

    def __call__(self, x: Tensor) -> Tensor:
        """Return x plus fresh noise (operating-system entropy; `noise_stream` draws keyed rows)."""
        generator = torch.Generator(device=x.device)
        generator.seed()
        return x + self.perturb_(torch.empty_like(x), generator)


# Noise is drawn in float32, whose numbers have all their bits from 1.2·10⁻³⁸ on and end at 3.4·10³⁸, some nine σ out.
_LEAST, _MOST = 1e-37, 1e37


@register("gaussian_noise")
@dataclass(frozen=True)
class GaussianNoise(NoiseStage):
    """Isotropic Gaussian noise of standard deviation `sigma`, in the unit of the space it stands in."""

    normal: ClassVar[bool] = True
    sigma: float

    def __post_init__(self) -> None:
        require(
            isinstance(self.sigma, int | float) and 0 < self.sigma < math.inf,
            self,
            "sigma",
            "positive and finite",
        )
        require(_LEAST <= self.sigma <= _MOST, self, "sigma", f"from {_LEAST:g} to {_MOST:g}, for float32")

    def perturb_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        return out.normal_(0.0, self.sigma, generator=generator)

    def space(self, before: Space) -> Space:
        return before

    def words(self) -> str:
        return f"Gaussian noise of standard deviation {self.sigma:g} added"


#: A lattice that costs next to nothing: so many steps to σ, at least (see docs/noise.md).
_FINE = 16
# Up to here an integer is exact in float64, so that its conversion to float32 rounds once on any machine.
_WIDEST = 2**53


@register("lattice_noise")
@dataclass(frozen=True)
class LatticeNoise(NoiseStage):
    """Normal noise of standard deviation `sigma`, rounded to the lattice that `quantize` above puts the object on.

    Object and noise are whole numbers of steps, added as integers and converted to float32 once, after the sum:
    what the base classifier hears is a function of those integers. For x on the lattice of step Δ, x + Δ⌊η/Δ + ½⌋ =
    Δ⌊(x + η)/Δ + ½⌋ is post-processing of x + η, so the Gaussian radius holds for every perturbation on the lattice,
    in floating point as on paper. `step` is Δ; left out, it is that of `quantize`.
    """

    normal: ClassVar[bool] = True
    sigma: float
    step: float | None = None

    def __post_init__(self) -> None:
        require(
            isinstance(self.sigma, int | float) and 0 < self.sigma < math.inf,
            self,
            "sigma",
            "positive and finite",
        )
        require(self.step is None or is_power_of_two(self.step), self, "step", "a power of two")
        if self.step is not None:
            rounded_normal(self.sigma / self.step)

    def below(self, above: Stage | None) -> Self:
        if not isinstance(above, Quantize):
            raise ConfigError(
                "lattice_noise needs `quantize` directly above it, which puts the object on a lattice: add "
                f"`- quantize: {{log2_step: {fine_step(self.sigma)}}}`"
            )
        if not is_power_of_two(above.delta):
            raise ConfigError(
                f"lattice_noise needs a lattice whose step is a power of two, got {above.delta!r}: write "
                f"`quantize: {{log2_step: {round(math.log2(above.delta))}}}`"
            )
        if self.step not in (None, above.delta):
            raise ConfigError(
                f"lattice_noise has step {self.step!r}, but `quantize` above it {above.delta!r}: leave `step` out"
            )
        return replace(self, step=above.delta)

    @property
    def lattice(self) -> float:
        if self.step is None:
            raise ConfigError(
                "lattice_noise has no step yet: it takes it from `quantize` above it in a pipeline"
            )
        return self.step

    @property
    def law(self) -> RoundedNormal:
        return rounded_normal(self.sigma / self.lattice)

    def held(self, v: Tensor) -> Tensor:
        """Return v in steps, as int32 where the sum with any noise fits, else int64."""
        steps = v.double() / self.lattice
        if not bool((steps == steps.round()).all()):
            raise InputError(f"the object is not on the lattice of step {self.lattice!r}")
        largest = float(steps.abs().max()) + self.law.most
        if largest >= _WIDEST:
            raise InputError(
                f"the object is too loud for a lattice of step {self.lattice!r}: use a larger step"
            )
        return steps.to(torch.int32 if largest < 2**31 else torch.int64)

    def value(self, held: Tensor) -> Tensor:
        return held.double() * self.lattice

    def perturb_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        words = torch.empty(4, dtype=torch.int64, device=generator.device).random_(2**32, generator=generator)
        low, high = (int(a) | int(b) << 32 for a, b in words.reshape(2, 2).tolist())
        source = np.random.Philox(key=low | high << 64)
        steps = self.law.fill(np.empty((1, out.numel()), dtype=np.int32), [source])
        return out.copy_(torch.from_numpy(steps).reshape(out.shape)).mul_(self.lattice)

    def space(self, before: Space) -> Space:
        return before

    def words(self) -> str:
        return (
            f"normal noise of standard deviation {self.sigma:g}, rounded to whole steps of {self.lattice:g}, added as "
            "integers"
        )


def fine_step(sigma: float) -> int:
    """Return the exponent of a lattice step that is small against σ: what rounding costs is then under 1 % of σ."""
    return math.floor(math.log2(sigma)) - _FINE


def is_power_of_two(x: float) -> bool:
    """Return whether x is a power of two that float32 scales by exactly."""
    number = isinstance(x, int | float) and not isinstance(x, bool) and 2**-60 <= x <= 2**60
    return number and math.frexp(x)[0] == 0.5
