"""Stages that change a waveform's channels, rate, length or offset. All are linear.

Conventions: `(batch, samples)` or `(batch, channels, samples)`; rates in hertz. For a linear map A a
radius R is pulled back to R/L with L ≥ ‖A‖₂ proven, since ‖Aδ‖ ≤ L‖δ‖.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from soundcert.errors import ConfigError
from soundcert.spaces import Space
from soundcert.stages.base import INWARD, Stage, as_finite, register, require, waveform_only

MAX_KERNEL = 20_000_000
MAX_WORK = 3e9  # operations for one proven norm: a second or two
MAX_SAMPLES = 2**28


@register("mono")
@dataclass(frozen=True)
class Mono(Stage):
    """Average the channels: `(batch, channels, samples)` to `(batch, samples)`.

    One-channel input passes through. The average of C channels has operator norm 1/√C.
    """

    family = "shape"

    def __call__(self, x: Tensor) -> Tensor:
        return x.mean(dim=1) if x.dim() == 3 else x

    def space(self, before: Space) -> Space:
        waveform_only(self, before)
        if len(before.shape) == 1:
            return before
        return before.evolve(name="waveform", shape=before.shape[-1:])

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        return as_finite(radius * (math.sqrt(x.shape[1]) * INWARD), radius) if x.dim() == 3 else radius

    def words(self) -> str:
        return "channels averaged to one"


@register("resample")
@dataclass(frozen=True)
class Resample(Stage):
    """Change the sampling rate to `rate`.

    method="sinc": a windowed-sinc polyphase filter inside the graph, linear and differentiable, zeros
    assumed outside the clip (after J. O. Smith, "Digital Audio Resampling"; the kernel follows
    julius). method="soxr": the soxr library on load, outside the graph; nothing is proven about it,
    so certificates do not transport past it. `source_rate` is learnt from the clip.
    """

    rate: int
    method: Literal["sinc", "soxr"] = "sinc"
    zeros: int = 24
    rolloff: float = 0.945
    source_rate: int | None = field(default=None, repr=False)

    family = "shape"

    def __post_init__(self) -> None:
        require(self.rate > 0, self, "rate", "a positive number of hertz")
        require(self.method in ("sinc", "soxr"), self, "method", "'sinc' or 'soxr'")
        require(self.zeros >= 1, self, "zeros", "at least 1")
        require(0 < self.rolloff <= 1, self, "rolloff", "in (0, 1]")

    def bind(self, before: Space) -> Self:
        if before.rate is None:
            raise ConfigError("resample needs an input with a sampling rate")
        return replace(self, source_rate=before.rate)

    def space(self, before: Space) -> Space:
        waveform_only(self, before)
        if before.rate == self.rate:
            return before
        bound = self.bind(before)
        if self.method == "sinc":
            bound._check_size()
        length = bound._length(before.samples)
        return before.evolve(name="waveform", shape=(*before.shape[:-1], length), rate=self.rate)

    def _ratio(self) -> tuple[int, int]:
        if self.source_rate is None:
            raise ConfigError("resample: the clip's rate is not known; give source_rate= or use a Pipeline")
        divisor = math.gcd(self.source_rate, self.rate)
        return self.source_rate // divisor, self.rate // divisor

    def _length(self, samples: int) -> int:
        old, new = self._ratio()
        return math.ceil(samples * new / old)

    def _check_size(self) -> None:
        old, new = self._ratio()
        width = math.ceil(self.zeros * old / (min(old, new) * self.rolloff))
        if new * (2 * width + old) > MAX_KERNEL:
            raise ConfigError(
                f"resample: {self.source_rate} Hz to {self.rate} Hz needs a filter of {new} phases; "
                "use `method: soxr` for rates with so small a common divisor"
            )

    def __call__(self, x: Tensor) -> Tensor:
        old, new = self._ratio()
        if old == new:
            return x
        if self.method == "soxr":
            return self._soxr(x)
        self._check_size()
        kernel = _kernel_on(x.device, x.dtype, old, new, self.zeros, self.rolloff)
        width = (kernel.shape[-1] - old) // 2
        length = x.shape[-1]
        flat = F.pad(x.reshape(-1, 1, length), (width, width + old))
        out = F.conv1d(flat, kernel, stride=old).transpose(1, 2).reshape(*x.shape[:-1], -1)
        return out[..., : self._length(length)]

    def _soxr(self, x: Tensor) -> Tensor:
        import soxr

        rows = x.detach().cpu().double().reshape(-1, x.shape[-1]).numpy()
        length = self._length(x.shape[-1])
        out = np.zeros((len(rows), length))
        for row, target in zip(rows, out, strict=True):
            y = soxr.resample(row, self.source_rate, self.rate, quality="VHQ")[:length]
            target[: len(y)] = y
        return torch.from_numpy(out).to(x).reshape(*x.shape[:-1], length)

    def operator_norm(self) -> float:
        """Return L ≥ ‖A‖₂ for any clip length and each channel: the smaller of two proven bounds.

        Over a doubly infinite clip, blocks of `old` samples become blocks of `new` by a matrix A(ω) a
        frequency, and the norm is sup_ω σ_max(A(ω)); zeros outside the clip and a cut end only lower it.
        """
        old, new = self._ratio()
        return 1.0 if old == new else _resampling_norm(old, new, self.zeros, self.rolloff)

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        old, new = self._ratio()
        if old == new:
            return radius
        return None if self.method == "soxr" else as_finite(radius * (INWARD / self.operator_norm()), radius)

    def words(self) -> str:
        how = " on load by soxr (not transportable)" if self.method == "soxr" else ""
        return f"resampled to {self.rate} Hz{how}"


@lru_cache(maxsize=32)
def _sinc_kernel(old: int, new: int, zeros: int, rolloff: float) -> Tensor:
    """Return the polyphase filters `(new, 1, 2·width + old)` in float64."""
    cutoff = min(old, new) * rolloff
    width = math.ceil(zeros * old / cutoff)
    with torch.inference_mode(False):  # the table outlives the mode in the cache, and may meet a gradient
        index = torch.arange(-width, width + old, dtype=torch.float64)
        phase = torch.arange(new, dtype=torch.float64)[:, None]
        t = ((index / old - phase / new) * cutoff).clamp(-zeros, zeros)
        kernel = torch.sinc(t) * torch.cos(t * (math.pi / zeros / 2)) ** 2
        # Unit gain at frequency 0, phase by phase.
        return (kernel / kernel.sum(dim=1, keepdim=True)).unsqueeze(1)


@lru_cache(maxsize=32)
def _kernel_on(
    device: torch.device, dtype: torch.dtype, old: int, new: int, zeros: int, rolloff: float
) -> Tensor:
    with torch.inference_mode(False):
        return _sinc_kernel(old, new, zeros, rolloff).to(device, dtype)


@lru_cache(maxsize=32)
def _resampling_norm(old: int, new: int, zeros: int, rolloff: float) -> float:
    kernel = _sinc_kernel(old, new, zeros, rolloff).squeeze(1)
    # Blocks of taps, (blocks, new, old): the sample at −width is to begin a block or stand inside one.
    lead = -((kernel.shape[1] - old) // 2) % old
    blocks = F.pad(kernel, (lead, -(lead + kernel.shape[1]) % old)).reshape(new, -1, old).transpose(0, 1)
    reach = zeros / (min(old, new) * rolloff)
    with torch.inference_mode():
        return min(_schur_norm(blocks), _symbol_norm(blocks, reach))


def _schur_norm(blocks: Tensor) -> float:
    """Return √(‖A‖₁‖A‖_∞) ≥ ‖A‖₂ (Schur's test): for a low-pass filter about twice too large.

    Row sums: one output phase's |kernel|. Column sums: all outputs that one input sample reaches, over
    phases and shifts.
    """
    magnitude = blocks.abs()
    row, column = magnitude.sum(dim=(0, 2)).max(), magnitude.sum(dim=(0, 1)).max()
    return float(torch.sqrt(row * column)) / INWARD


def _symbol_norm(blocks: Tensor, reach: float) -> float:
    """Return sup_ω σ_max(Σ_q A_q·e^{iqω}), bounded from K equispaced ω: max_k σ_max(A(ω_k))/cos(πρ/K).

    blocks: A_q, `(blocks, new, old)`. reach: ρ, how far in blocks an output hears to either side. Up to
    unitary factors A(ω) has frequencies in [−ρ, ρ], so near its highest point ‖A(ω)*u‖² falls no faster
    than cos²(ρt) (M. Riesz's comparison with a cosine; proof in docs/theory.md, "Linear stages").
    """
    grid = max(8, math.ceil(100 * reach))  # within 5·10⁻⁴ of the supremum
    if blocks.shape[2] < blocks.shape[1]:
        blocks = blocks.transpose(1, 2)  # the smaller of AA* and A*A
    side, others = blocks.shape[1:]
    if grid * (10 * len(blocks) + blocks.numel() + side**3) > MAX_WORK:
        return math.inf
    flat = blocks.reshape(len(blocks), -1).to(torch.complex128)
    shift = torch.arange(len(blocks), dtype=torch.float64)
    largest, half = 0.0, grid // 2 + 1  # A is real, so half of the circle shows the other half
    step = max(1, 2**20 // (len(blocks) + side * others))
    for start in range(0, half, step):
        index = torch.arange(start, min(start + step, half), dtype=torch.float64)
        angle = torch.outer(index * (2 * math.pi / grid), shift)
        symbol = (torch.polar(torch.ones_like(angle), angle) @ flat).reshape(-1, side, others)
        largest = max(largest, float(torch.linalg.eigvalsh(symbol @ symbol.mH).amax()))
    # 10⁻⁹ covers the rounding of sums and eigenvalues, and taps that only rounding keeps from zero.
    return math.sqrt(largest) / math.cos(math.pi * reach / grid) * (1 + 1e-9)


@register("fit")
@dataclass(frozen=True)
class Fit(Stage):
    """Crop or zero-pad to a fixed length, at a fixed place ("start" or "center").

    Give `seconds` (with the rate of the signal) or `samples`. Cropping and padding at fixed places
    never lengthen a perturbation: the operator norm is 1.
    """

    seconds: float | None = None
    samples: int | None = None
    place: Literal["start", "center"] = "center"
    rate: int | None = field(default=None, repr=False)

    family = "shape"

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.samples is None):
            raise ConfigError("fit: give exactly one of seconds and samples")
        require(self.seconds is None or 0 < self.seconds < math.inf, self, "seconds", "positive")
        require(self.samples is None or self.samples >= 1, self, "samples", "at least 1")
        require(self.place in ("start", "center"), self, "place", "'start' or 'center'")

    def bind(self, before: Space) -> Self:
        return replace(self, rate=before.rate) if self.samples is None else self

    def length(self) -> int:
        if self.samples is not None:
            return self.samples
        assert self.seconds is not None
        return max(1, round(self.seconds * (self.rate or 16_000)))

    def space(self, before: Space) -> Space:
        waveform_only(self, before)
        length = self.bind(before).length()
        if length > MAX_SAMPLES:
            raise ConfigError(f"fit: {length} samples are more than a clip can have ({MAX_SAMPLES})")
        if length == before.samples:
            return before
        unit = f"{before.unit} before fit" if before.gain else before.unit
        return before.evolve(name="waveform", shape=(*before.shape[:-1], length), unit=unit)

    def __call__(self, x: Tensor) -> Tensor:
        extra = self.length() - x.shape[-1]
        if extra == 0:
            return x
        before = 0 if self.place == "start" else (extra // 2 if extra > 0 else -(-extra // 2))
        return F.pad(x, (before, extra - before))

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        return radius

    def words(self) -> str:
        size = f"{self.seconds:g} s" if self.samples is None else f"{self.samples} samples"
        return f"cropped or zero-padded to {size}"


@register("remove_offset")
@dataclass(frozen=True)
class RemoveOffset(Stage):
    """Subtract each channel's mean over time: an orthogonal projection, operator norm 1."""

    family = "shape"

    def __call__(self, x: Tensor) -> Tensor:
        # Twice, so that the rounding of a mean much larger than the signal is removed as well.
        x = x - x.mean(dim=-1, keepdim=True)
        return x - x.mean(dim=-1, keepdim=True)

    def space(self, before: Space) -> Space:
        waveform_only(self, before)
        return before.evolve(name="waveform")

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        return radius

    def words(self) -> str:
        return "the mean subtracted"
