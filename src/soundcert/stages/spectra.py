"""What spectral features are made of: the STFT, mel filters, band values, the DCT.

Conventions: waveforms `(batch, samples)`; spectra `(batch, frames, bins)`; bands `(batch, bands, frames)`. The STFT has
`n_fft` points, a periodic window of `win_length` centred in the frame, and no scaling.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PadMode = Literal["constant", "reflect", "none"]


class Frames(Protocol):
    """How a waveform is cut into spectra."""

    @property
    def n_fft(self) -> int: ...
    @property
    def hop(self) -> int: ...
    @property
    def win_length(self) -> int | None: ...
    @property
    def window(self) -> Literal["hann", "hamming"]: ...
    @property
    def pad_mode(self) -> PadMode: ...
    @property
    def power(self) -> float: ...


@runtime_checkable
class Mel(Frames, Protocol):
    """Mel bands of such spectra, and their logarithm."""

    @property
    def rate(self) -> int: ...
    @property
    def n_mels(self) -> int: ...
    @property
    def f_min(self) -> float: ...
    @property
    def f_max(self) -> float | None: ...
    @property
    def mel_scale(self) -> Literal["htk", "slaney"]: ...
    @property
    def mel_norm(self) -> Literal["slaney"] | None: ...
    @property
    def floor(self) -> float: ...
    @property
    def floor_mode(self) -> Literal["add", "max"]: ...
    @property
    def log(self) -> Literal["ln", "db"]: ...


@lru_cache(maxsize=64)
def _window(kind: str, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    a0 = 0.5 if kind == "hann" else 0.54
    # A table made in inference mode could never meet a gradient; it outlives the mode in the cache.
    with torch.inference_mode(False):
        n = torch.arange(length, dtype=torch.float64)
        return (a0 - (1 - a0) * torch.cos(2 * math.pi * n / length)).to(device=device, dtype=dtype)


def frame_window(stage: Frames, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the window as it lies in the frame, `(n_fft,)`."""
    length = stage.win_length or stage.n_fft
    window = _window(stage.window, length, dtype, device)
    left = (stage.n_fft - length) // 2
    return F.pad(window, (left, stage.n_fft - length - left))


def _stft(stage: Frames, x: Tensor) -> Tensor:
    """Return the STFT's real and imaginary parts, `(batch, frames, n_fft//2 + 1, 2)`."""
    window = frame_window(stage, x.dtype, x.device)
    if stage.pad_mode != "none":
        half = stage.n_fft // 2
        x = F.pad(x.unsqueeze(1), (half, half), mode=stage.pad_mode).squeeze(1)
    frames = x.unfold(-1, stage.n_fft, stage.hop) * window
    return torch.view_as_real(torch.fft.rfft(frames))


def spectrum(stage: Frames, x: Tensor) -> Tensor:
    """Return |X|^power, `(batch, frames, n_fft//2 + 1)`."""
    parts = _stft(stage, x)
    if stage.power == 1.0:
        return torch.view_as_complex(parts).abs()
    return _square(parts).sum(dim=-1)


def _square(x: Tensor) -> Tensor:
    # In place where no gradient needs the input: a fresh tensor of this size costs more than the squares.
    return x.square() if x.requires_grad else x.square_()


def _hz_to_mel(hz: np.ndarray | float, scale: str) -> np.ndarray:
    f = np.asarray(hz, dtype=np.float64)
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + f / 700.0))
    # Slaney's Auditory Toolbox: linear below 1 kHz, logarithmic above.
    linear = f * 3 / 200
    step = math.log(6.4) / 27.0
    return np.where(f >= 1000.0, 15.0 + np.log(np.maximum(f, 1000.0) / 1000.0) / step, linear)


def _mel_to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    step = math.log(6.4) / 27.0
    return np.where(mel >= 15.0, 1000.0 * np.exp(step * (np.maximum(mel, 15.0) - 15.0)), mel * 200 / 3)


@lru_cache(maxsize=32)
def mel_filters(
    rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float | None, scale: str, norm: str | None
) -> np.ndarray:
    """Return triangular mel filters `(n_mels, n_fft//2 + 1)` in float64.

    Centres are equally spaced in mel (HTK: 2595·log10(1 + f/700); Slaney: Auditory Toolbox); peaks are
    1, or with norm="slaney" the area is: 2/(width in Hz).
    """
    top = f_max if f_max is not None else rate / 2
    bins = np.linspace(0.0, rate / 2, n_fft // 2 + 1) if n_fft % 2 == 0 else np.fft.rfftfreq(n_fft, 1 / rate)
    edges = _mel_to_hz(np.linspace(_hz_to_mel(f_min, scale), _hz_to_mel(top, scale), n_mels + 2), scale)
    width = np.diff(edges)
    slopes = edges[:, None] - bins[None, :]
    rising = -slopes[:-2] / width[:-1, None]
    falling = slopes[2:] / width[1:, None]
    weights: np.ndarray = np.maximum(0.0, np.minimum(rising, falling))
    if norm == "slaney":
        weights *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    weights.setflags(write=False)
    return weights


@lru_cache(maxsize=64)
def dct_rows(n_mfcc: int, n_mels: int, lifter: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the DCT, `(n_mfcc, n_mels)`, as a tensor."""
    return _tensor(dct_matrix(n_mfcc, n_mels, lifter), dtype, device)


def _tensor(matrix: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(np.array(matrix, order="C")).to(device=device, dtype=dtype)


# A band covers a few bins, so most of a product with all filters is zeros: so many neighbouring bands are taken
# together in a product over their own bins alone.
_TOGETHER = 8


@lru_cache(maxsize=64)
def _filter_groups(
    args: tuple[object, ...], repeat: int, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[int, int, Tensor], ...]:
    """Return, per group of bands, its first and last value and the filters over them, `(bands, values)`.

    repeat: values a bin, 2 where real and imaginary squares are still apart.
    """
    filters = mel_filters(*args)
    groups = []
    for group in np.array_split(filters, -(-len(filters) // _TOGETHER)):
        used = np.flatnonzero(group.any(axis=0))
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        rows = _tensor(np.repeat(group[:, first:last], repeat, axis=1), dtype, device)
        groups.append((first * repeat, last * repeat, rows))
    return tuple(groups)


def filter_key(stage: Mel) -> tuple[int, int, int, float, float | None, str, str | None]:
    """Return the arguments of `mel_filters` for these bands."""
    return (stage.rate, stage.n_fft, stage.n_mels, stage.f_min, stage.f_max, stage.mel_scale, stage.mel_norm)


def band_values(stage: Mel, x: Tensor) -> Tensor:
    """Return the bands before floor and logarithm, `(batch, n_mels, frames)`."""
    # With powers, one product sums real and imaginary squares and applies the filters.
    values, repeat = (
        (_square(_stft(stage, x)).flatten(-2), 2) if stage.power == 2.0 else (spectrum(stage, x), 1)
    )
    groups = _filter_groups(filter_key(stage), repeat, x.dtype, x.device)
    # Filters on the left: a product's long side is then the frames of the whole batch, however few the bands.
    frames = values.flatten(0, 1)
    bands = torch.cat([filters @ frames[:, first:last].T for first, last, filters in groups])
    return bands.reshape(len(bands), *values.shape[:2]).transpose(0, 1)


def log_mel(stage: Mel, x: Tensor) -> Tensor:
    """Return log-mel features, `(batch, n_mels, frames)`."""
    bands = band_values(stage, x)
    bands = bands + stage.floor if stage.floor_mode == "add" else bands.clamp(min=stage.floor)
    if stage.log == "ln":
        return torch.log(bands)
    return torch.log10(bands) * (10.0 if stage.power == 2.0 else 20.0)


@lru_cache(maxsize=32)
def dct_matrix(n_mfcc: int, n_mels: int, lifter: float) -> np.ndarray:
    """Return the orthonormal DCT-II `(n_mfcc, n_mels)`, rows weighted by 1 + (L/2)·sin(π(k+1)/L)."""
    k = np.arange(n_mfcc)[:, None]
    n = np.arange(n_mels)[None, :]
    matrix = np.cos(np.pi * k * (2 * n + 1) / (2 * n_mels)) * math.sqrt(2.0 / n_mels)
    matrix[0] /= math.sqrt(2.0)
    matrix *= lifter_weights(n_mfcc, lifter)[:, None]
    matrix.setflags(write=False)
    return matrix


def lifter_weights(n_mfcc: int, lifter: float) -> np.ndarray:
    """Return the weight of each coefficient, `(n_mfcc,)`: 1 + (L/2)·sin(π(k+1)/L), or 1 for L = 0."""
    k = np.arange(n_mfcc)
    return 1 + (lifter / 2) * np.sin(np.pi * (k + 1) / lifter) if lifter > 0 else np.ones(n_mfcc)
