"""What feature extractors of published models do beyond log-mel: Kaldi's filter bank, frames to a length, a range.

Conventions: waveforms `(batch, samples)`, features `(batch, bands, frames)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from soundcert.errors import ConfigError, InputError
from soundcert.spaces import Space
from soundcert.stages.base import Stage, register, require


@register("kaldi_fbank")
@dataclass(frozen=True)
class KaldiFbank(Stage):
    """Kaldi's log filter bank, `(batch, n_mels, frames)`, as torchaudio.compliance.kaldi.fbank without dither.

    Frames of `win_length` from the first sample on, none beyond the last. Of each frame the mean is removed, then
    y[t] = x[t] − pre_emphasis·x[t−1] (the first sample by itself), a symmetric Hann window, |FFT|², triangles in
    mel, ln(max(·, floor)).
    """

    n_mels: int = 128
    n_fft: int = 512
    hop: int = 160
    win_length: int = 400
    f_min: float = 20.0
    f_max: float | None = None
    pre_emphasis: float = 0.97
    floor: float = 1.1920928955078125e-07
    rate: int = 16_000

    family = "feature"
    always = ("n_mels", "floor")

    def __post_init__(self) -> None:
        require(self.n_mels >= 1, self, "n_mels", "at least 1")
        require(self.hop >= 1, self, "hop", "at least 1")
        require(self.win_length >= 2, self, "win_length", "at least 2")
        require(self.n_fft >= self.win_length, self, "n_fft", f"at least win_length ({self.win_length})")
        require(0 <= self.pre_emphasis < 1, self, "pre_emphasis", "in [0, 1)")
        require(0 < self.floor < math.inf, self, "floor", "positive and finite")
        top = self.rate / 2 if self.f_max is None else self.f_max
        require(0 <= self.f_min < top <= self.rate / 2, self, "f_min", f"from 0 to below f_max ({top:g} Hz)")

    def __call__(self, x: Tensor) -> Tensor:
        frames = x.unfold(-1, self.win_length, self.hop)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        window, filters = _tables(self, x.dtype, x.device)
        parts = torch.view_as_real(
            torch.fft.rfft((frames - self.pre_emphasis * before) * window, n=self.n_fft)
        )
        bands = parts.square().sum(dim=-1) @ filters
        return bands.clamp(min=self.floor).log().transpose(1, 2).contiguous()

    def space(self, before: Space) -> Space:
        if before.kind != "waveform":
            raise ConfigError(f"{self.name} needs a waveform but stands on {before.name}")
        if len(before.shape) != 1:
            raise ConfigError(
                f"{self.name} needs one channel but the clip has {before.shape[0]}: put `mono` above it"
            )
        if before.rate is not None and before.rate != self.rate:
            raise ConfigError(
                f"{self.name} is set for {self.rate} Hz but receives {before.rate} Hz: "
                f"put `resample: {{rate: {self.rate}}}` above it, or set its rate"
            )
        if before.samples < self.win_length:
            raise InputError(
                f"{self.name}: {before.samples} samples are too few for frames of {self.win_length}; put `fit` above it"
            )
        frames = 1 + (before.samples - self.win_length) // self.hop
        return Space("kaldi fbank", "feature", (self.n_mels, frames), before.rate, "nats", before.gain)

    def words(self) -> str:
        return f"Kaldi log filter bank, {self.n_mels} bands, pre-emphasis {self.pre_emphasis:g} in each frame"


@lru_cache(maxsize=16)
def _tables(stage: KaldiFbank, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the window `(win_length,)` and the filters `(n_fft//2 + 1, n_mels)`."""

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return np.asarray(1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0))

    top = stage.rate / 2 if stage.f_max is None else stage.f_max
    edges = np.linspace(float(mel(stage.f_min)), float(mel(top)), stage.n_mels + 2)
    bins = mel(np.arange(stage.n_fft // 2 + 1) * (stage.rate / stage.n_fft))[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(up, down))
    n = np.arange(stage.win_length)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / (stage.win_length - 1))
    with torch.inference_mode(False):  # the tables outlive the mode in the cache, and may meet a gradient
        return (
            torch.tensor(window, dtype=dtype, device=device),
            torch.tensor(filters, dtype=dtype, device=device),
        )


@register("fit_frames")
@dataclass(frozen=True)
class FitFrames(Stage):
    """Crop features to a number of frames, or fill them up with `value`, at the end."""

    frames: int
    value: float = 0.0

    family = "feature"

    def __post_init__(self) -> None:
        require(self.frames >= 1, self, "frames", "at least 1")
        require(math.isfinite(self.value), self, "value", "finite")

    def __call__(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, self.frames - x.shape[-1]), value=self.value)

    def space(self, before: Space) -> Space:
        if before.kind != "feature":
            raise ConfigError(f"{self.name} needs features but stands on {before.name}")
        return before.evolve(shape=(*before.shape[:-1], self.frames))

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """Frames are left out or added as constants: no distance grows."""
        return radius

    def words(self) -> str:
        return f"cropped or filled up to {self.frames} frames"


@register("dynamic_range")
@dataclass(frozen=True)
class DynamicRange(Stage):
    """Raise every value to at least the clip's largest minus `range`: max(x, max(x) − range).

    The floor moves with one value of the clip and moves all that lie on it, so that nothing is proven about how
    far a perturbation goes.
    """

    range: float

    family = "feature"
    per_clip = True

    def __post_init__(self) -> None:
        require(0 < self.range < math.inf, self, "range", "positive and finite")

    def __call__(self, x: Tensor) -> Tensor:
        largest = x.flatten(1).amax(dim=1).reshape(-1, *([1] * (x.dim() - 1)))
        return torch.maximum(x, largest - self.range)

    def space(self, before: Space) -> Space:
        if before.kind != "feature":
            raise ConfigError(f"{self.name} needs features but stands on {before.name}")
        return before

    def words(self) -> str:
        return f"values limited to {self.range:g} below the clip's largest"
