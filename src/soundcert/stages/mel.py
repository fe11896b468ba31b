"""Mel bands: the filters, the band values of waveforms, their logarithm.

Conventions: waveforms `(batch, samples)`; bands `(batch, bands, frames)`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from soundcert.stages.spectra import Frames, frame_window, padded, spectrum, square, stft, tensor_of

if TYPE_CHECKING:
    from soundcert.stages.abreast import Bands


_LEAST_NORMAL = 2.0**-126  # of float32


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
    def __hash__(self) -> int: ...


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
        rows = tensor_of(np.repeat(group[:, first:last], repeat, axis=1), dtype, device)
        groups.append((first * repeat, last * repeat, rows))
    return tuple(groups)


def filter_key(stage: Mel) -> tuple[int, int, int, float, float | None, str, str | None]:
    """Return the arguments of `mel_filters` for these bands."""
    return (stage.rate, stage.n_fft, stage.n_mels, stage.f_min, stage.f_max, stage.mel_scale, stage.mel_norm)


def band_values(stage: Mel, x: Tensor) -> Tensor:
    """Return the bands before floor and logarithm, `(batch, n_mels, frames)`.

    Float32 on the CPU that needs no gradient goes through compiled code (`abreast`), in half the time or less.
    """
    bands = _by_lanes(stage, x)
    return by_products(stage, x) if bands is None else bands


def by_products(stage: Mel, x: Tensor) -> Tensor:
    """Return the bands by products with groups of filters: on any device, in any precision, with gradients."""
    # With powers, one product sums real and imaginary squares and applies the filters.
    values, repeat = (
        (square(stft(stage, x)).flatten(-2), 2) if stage.power == 2.0 else (spectrum(stage, x), 1)
    )
    groups = _filter_groups(filter_key(stage), repeat, x.dtype, x.device)
    # Filters on the left: a product's long side is then the frames of the whole batch, however few the bands.
    frames = values.flatten(0, 1)
    bands = torch.cat([filters @ frames[:, first:last].T for first, last, filters in groups])
    return bands.reshape(len(bands), *values.shape[:2]).transpose(0, 1)


def _by_lanes(stage: Mel, x: Tensor, floor: float = 0.0) -> Tensor | None:
    """Return the bands, or with a floor their logarithm, from compiled code; None where torch must do it."""
    ours = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 2
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if not ours or traced or x.requires_grad:
        return None
    if forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
        return None
    bands = _abreast(stage)
    if bands is None:
        return None
    pad = stage.n_fft // 2 if stage.pad_mode == "constant" else 0
    waves = x if pad else padded(stage, x)
    if waves.shape[1] + 2 * pad < stage.n_fft:
        return None
    try:
        array = waves.contiguous().numpy()
    except RuntimeError:  # no numbers to be had: inside of torch.func's transforms
        return None
    return torch.from_numpy(bands(array, pad, floor))


@lru_cache(maxsize=64)
def _abreast(stage: Mel) -> Bands | None:
    """Return compiled code for a stage's bands, or None where there is none."""
    try:
        from soundcert.stages.abreast import LENGTHS, REACH, Bands, compiled
    except Exception:  # no numba for this Python or numpy
        return None
    filters = mel_filters(*filter_key(stage))
    reach = stage.hop <= stage.n_fft <= (REACH + 1) * stage.hop
    covered = stage.power == 2.0 and stage.n_fft in LENGTHS and reach and np.isfinite(filters).all()
    run = compiled() if covered else None
    if run is None:
        return None
    window = frame_window(stage, torch.float64, torch.device("cpu")).numpy()
    return Bands(run, window, filters, stage.hop)


def log_mel(stage: Mel, x: Tensor) -> Tensor:
    """Return log-mel features, `(batch, n_mels, frames)`."""
    if stage.log == "ln" and stage.floor_mode == "add" and stage.floor >= _LEAST_NORMAL:
        logs = _by_lanes(stage, x, stage.floor)
        if logs is not None:
            return logs
    bands = band_values(stage, x)
    bands = bands + stage.floor if stage.floor_mode == "add" else bands.clamp(min=stage.floor)
    if stage.log == "ln":
        return torch.log(bands)
    return torch.log10(bands) * (10.0 if stage.power == 2.0 else 20.0)
