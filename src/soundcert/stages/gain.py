"""Stages that scale a waveform: a fixed gain, and gains computed from the clip itself.

Conventions: `(batch, *shape)` waveforms; RMS, peak and norm are taken over all values of a row. A gain
that is computed from the clip stands between the certified object and the file: a certificate below
it is about the normalised waveform, until it is carried back by `pull_back`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from soundcert.errors import ConfigError, InputError
from soundcert.spaces import Space
from soundcert.stages.base import (
    INWARD,
    Stage,
    as_finite,
    per_row,
    register,
    require,
    row_norm,
    waveform_only,
)

FloorMode = Literal["max", "sqrt", "add"]
_SMALLEST = 1e-150


@register("fixed_gain")
@dataclass(frozen=True)
class FixedGain(Stage):
    """Multiply by the same factor whatever the clip: `gain`, or `db` = 20·log10(gain)."""

    factor: float | None = None
    db: float | None = None

    family = "gain"

    def __post_init__(self) -> None:
        if (self.factor is None) == (self.db is None):
            raise ConfigError("fixed_gain: give exactly one of factor and db")
        require(self.db is None or abs(self.db) <= 1000, self, "db", "from -1000 to 1000")
        value = self.value
        if not (math.isfinite(value) and value != 0):
            raise ConfigError(f"fixed_gain: the factor must be finite and not zero, got {value!r}")

    @property
    def value(self) -> float:
        if self.factor is not None:
            return self.factor
        assert self.db is not None
        return math.pow(10.0, self.db / 20)

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.value

    def space(self, before: Space) -> Space:
        waveform_only(self, before)
        return before.evolve(name="waveform", unit="full scale × fixed gain", gain=True)

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        return as_finite(radius / abs(self.value) * INWARD, radius)

    def gain(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), self.value, dtype=x.dtype)

    def words(self) -> str:
        return f"multiplied by the fixed gain {self.value:g}"


def sphere_pull_back(norm: Tensor, radius: Tensor, scale: float, floor: float, mode: FloorMode) -> Tensor:
    """Pull R back through u ↦ c·u/‖u‖ (c = `scale`), with an optional floor m on the norm.

    Without a floor: u + δ lies within the angle arcsin(‖δ‖/‖u‖) of u when ‖δ‖ < ‖u‖, and two points
    of the sphere of radius c at the angle θ are 2c·sin(θ/2) apart. So for R < √2·c,

        r = ‖u‖·sin(2·arcsin(R/(2c))),

    attained by the δ that makes u + δ tangent to the ball; for √2·c ≤ R < 2c every δ shorter than ‖u‖
    stays within a right angle, r = ‖u‖; for R ≥ 2c, the sphere's diameter, there is no limit.

    Floors, with y = u + δ and n = ‖u‖. "max", c·u/max(n, m), and "add", c·u/(n + m), are c/m-Lipschitz,
    so R·m/c holds everywhere.
    "max" where n ≥ m: T(y) = c·t·ŷ with t = min(1, ‖y‖/m) between ‖y‖/n and 1, or 1. ‖û − t·ŷ‖ is convex
    in t, so it is largest at an end: at most r/n at t = ‖y‖/n, and 2·sin(θ/2) at t = 1; both are ≤ R/c.
    "add": with a = n/(n + m), T(u) = c·a·û and T(y) = c·a·t·ŷ with t between ‖y‖/n and 1; by the same
    convexity the distance is at most c·a·max(r/n, 2·sin(θ/2)), so R/a takes the place of R.
    "sqrt", c·u/√(n² + m²): the plain map of (u, m) in one dimension more, then a projection: √(n² + m²)
    in place of n.
    """
    length = torch.sqrt(norm**2 + floor**2) if mode == "sqrt" else norm
    within = radius * ((norm + floor) / norm.clamp(min=_SMALLEST)) if mode == "add" else radius
    ratio = (within / (2 * scale)).clamp(max=1.0)
    angle = torch.where(ratio < math.sqrt(0.5), torch.sin(2 * torch.arcsin(ratio)), 1.0)
    # Squares under- or overflow beyond this range; no radius is claimed there.
    length = torch.where((length > _SMALLEST) & (length < 1 / _SMALLEST), length, 0.0)
    out = length * angle
    if floor > 0 and mode != "sqrt":
        lipschitz = radius * (floor / scale)
        out = (
            torch.maximum(out, lipschitz)
            if mode == "add"
            else torch.where(norm >= floor, torch.maximum(out, lipschitz), lipschitz)
        )
    out = torch.where(
        radius * INWARD >= 2 * scale, math.inf, (out * INWARD).clamp(max=torch.finfo(out.dtype).max)
    )
    return torch.where(radius > 0, out, 0.0)  # a NaN proves nothing


def _floored(norm: Tensor, floor: float, mode: FloorMode, stage: Stage) -> Tensor:
    """Return the divisor: the norm with its floor applied. A silent row without a floor is an error."""
    if floor == 0:
        # Elsewhere than on a CPU the question would stall the device: a silent row becomes NaN, which votes for no class.
        if norm.device.type != "cpu":
            return torch.where(norm == 0, math.nan, norm)
        if bool((norm == 0).any()):
            raise InputError(
                f"{stage.name}: the clip is silent (all samples equal zero), so its gain is undefined; "
                "leave the clip out or give the stage a floor"
            )
        return norm
    if mode == "max":
        return norm.clamp(min=floor)
    return torch.sqrt(norm**2 + floor**2) if mode == "sqrt" else norm + floor


@register("rms_normalize")
@dataclass(frozen=True)
class RmsNormalize(Stage):
    """Scale each clip to root mean square `target`: x·target/RMS(x).

    `floor` (in RMS) limits the gain of quiet clips: `floor_mode` "max" divides by max(RMS, floor),
    "sqrt" by √(RMS² + floor²), "add" by RMS + floor. Without a floor, a silent clip is an InputError.
    """

    target: float = 1.0
    floor: float = 0.0
    floor_mode: FloorMode = "max"

    family = "gain"
    per_clip = True

    def __post_init__(self) -> None:
        require(0 < self.target < math.inf, self, "target", "positive and finite")
        require(0 <= self.floor < math.inf, self, "floor", "zero or positive")
        require(self.floor_mode in ("max", "sqrt", "add"), self, "floor_mode", "'max', 'sqrt' or 'add'")

    def gain(self, x: Tensor) -> Tensor:
        rms = row_norm(x) / math.sqrt(x[0].numel())
        return self.target / _floored(rms, self.floor, self.floor_mode, self)

    def __call__(self, x: Tensor) -> Tensor:
        return x * per_row(self.gain(x), x)

    def space(self, before: Space) -> Space:
        waveform_only(self, before)
        return before.evolve(name="waveform", unit=f"RMS {self.target:g} per clip", gain=True)

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        root = math.sqrt(x[0].numel())
        return sphere_pull_back(row_norm(x), radius, self.target * root, self.floor * root, self.floor_mode)

    def words(self) -> str:
        return f"each clip scaled to RMS {self.target:g}"


@register("standardize")
@dataclass(frozen=True)
class Standardize(Stage):
    """Zero mean and unit variance per clip: (x − mean)/std, with `ddof` 0 or 1.

    The floor acts on the standard deviation as in rms_normalize; `floor_mode="sqrt"` with floor
    √1e-7 is what transformers' `do_normalize` does.
    """

    ddof: int = 0
    floor: float = 0.0
    floor_mode: FloorMode = "sqrt"

    family = "gain"
    per_clip = True

    def __post_init__(self) -> None:
        require(self.ddof in (0, 1), self, "ddof", "0 or 1")
        require(0 <= self.floor < math.inf, self, "floor", "zero or positive")
        require(self.floor_mode in ("max", "sqrt", "add"), self, "floor_mode", "'max', 'sqrt' or 'add'")

    def _centred(self, x: Tensor) -> Tensor:
        # Twice: the rounding of a mean much larger than the deviation would count as deviation.
        flat = x.flatten(1)
        flat = flat - flat.mean(dim=1, keepdim=True)
        return flat - flat.mean(dim=1, keepdim=True)

    def gain(self, x: Tensor) -> Tensor:
        std = row_norm(self._centred(x)) / math.sqrt(x[0].numel() - self.ddof)
        return 1.0 / _floored(std, self.floor, self.floor_mode, self)

    def __call__(self, x: Tensor) -> Tensor:
        return self._centred(x).reshape(x.shape) * per_row(self.gain(x), x)

    def space(self, before: Space) -> Space:
        waveform_only(self, before)
        if before.size <= self.ddof:
            raise ConfigError(f"standardize: ddof={self.ddof} needs more than {before.size} samples")
        return before.evolve(name="waveform", unit="unit variance per clip", gain=True)

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        # Centring is an orthogonal projection, so it never lengthens δ.
        root = math.sqrt(x[0].numel() - self.ddof)
        return sphere_pull_back(row_norm(self._centred(x)), radius, root, self.floor * root, self.floor_mode)

    def words(self) -> str:
        return "each clip brought to zero mean and unit variance"


@register("peak_normalize")
@dataclass(frozen=True)
class PeakNormalize(Stage):
    """Scale each clip so that its largest magnitude is `target`: x·p/‖x‖_∞."""

    target: float = 1.0

    family = "gain"
    per_clip = True

    def __post_init__(self) -> None:
        require(0 < self.target < math.inf, self, "target", "positive and finite")

    def gain(self, x: Tensor) -> Tensor:
        return self.target / _floored(x.flatten(1).abs().amax(dim=1), 0.0, "max", self)

    def __call__(self, x: Tensor) -> Tensor:
        return x * per_row(self.gain(x), x)

    def space(self, before: Space) -> Space:
        waveform_only(self, before)
        return before.evolve(name="waveform", unit=f"peak {self.target:g} per clip", gain=True)

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """r = R·m/√(p² + (p·X + R)²), m = ‖x‖_∞ and X the norm of x/m without one peak sample.

        With w = (x + δ)/‖x + δ‖_∞ fixed, no x + δ on the ray of w is nearer to x than the ray itself. That
        distance is given by D = ‖w − x/m‖ and q = ⟨x/m, w − x/m⟩ alone, and a peak of x cannot grow in w,
        so q ≤ X·D. The rest is one function of q (proof in docs/theory.md, "Gain to a peak"). Attained
        where the other samples can be raised by the factor 1 + R/(p·X) and stay below the peak.
        """
        m, peak = x.flatten(1).abs().max(dim=1)
        others = row_norm((x.flatten(1) / m[:, None]).scatter(1, peak[:, None], 0.0))
        radius = radius.clamp(max=1 / _SMALLEST)  # an infinite R has the limit m
        shrunk = radius / torch.hypot(torch.full_like(m, self.target), self.target * others + radius)
        return torch.where(m > 0, m * shrunk * INWARD, 0.0)

    def words(self) -> str:
        return f"each clip scaled to peak {self.target:g}"
