"""Spectral features: spectrogram, log-mel, MFCC, and their standardisation.

Conventions
-----------
Input `(batch, samples)`, output `(batch, bands, frames)`. The STFT X has `n_fft` points, a periodic
window of `win_length` centred in the frame, and no scaling; with `center` the signal is padded by
n_fft/2 on both sides, so there are 1 + samples//hop frames. `power` 2 takes |X|², 1 takes |X|. The
floor is added to the band's value ("add") or bounds it from below ("max") before the logarithm, which
is natural ("ln") or in decibels ("db": 10·log10 of powers, 20·log10 of magnitudes).

All agree with librosa to 1e-6 relative in float64 (tests/reference).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from soundcert.errors import ConfigError, InputError
from soundcert.spaces import Space
from soundcert.stages.base import INWARD, Stage, register, require

PadMode = Literal["constant", "reflect", "none"]


def _check_spectral(stage: Spectrogram | LogMel | Mfcc) -> None:
    require(stage.n_fft >= 2, stage, "n_fft", "at least 2")
    require(stage.hop >= 1, stage, "hop", "at least 1")
    require(
        stage.win_length is None or 1 <= stage.win_length <= stage.n_fft,
        stage,
        "win_length",
        f"from 1 to n_fft ({stage.n_fft})",
    )
    require(stage.power in (1.0, 2.0), stage, "power", "1 (magnitude) or 2 (power)")
    require(
        stage.pad_mode in ("constant", "reflect", "none"),
        stage,
        "pad_mode",
        "'constant', 'reflect' or 'none'",
    )
    require(stage.window in ("hann", "hamming"), stage, "window", "'hann' or 'hamming'")


def _check_log(stage: LogMel | Mfcc) -> None:
    require(stage.n_mels >= 1, stage, "n_mels", "at least 1")
    require(0 < stage.floor < math.inf, stage, "floor", "positive and finite")
    require(stage.floor_mode in ("add", "max"), stage, "floor_mode", "'add' or 'max'")
    require(stage.log in ("ln", "db"), stage, "log", "'ln' or 'db'")
    require(stage.mel_scale in ("htk", "slaney"), stage, "mel_scale", "'htk' or 'slaney'")
    require(stage.mel_norm in (None, "slaney"), stage, "mel_norm", "null or 'slaney'")
    top = stage.f_max if stage.f_max is not None else stage.rate / 2
    require(0 <= stage.f_min < top, stage, "f_min", f"from 0 to below f_max ({top:g} Hz)")
    require(
        stage.f_max is None or stage.f_max <= stage.rate / 2,
        stage,
        "f_max",
        f"at most half the rate ({stage.rate / 2:g} Hz)",
    )


def _feature_space(stage: Stage, before: Space, *, bands: int, name: str, unit: str) -> Space:
    n_fft: int = stage.n_fft  # type: ignore[attr-defined]
    if before.kind != "waveform":
        raise ConfigError(f"{stage.name} needs a waveform but stands on {before.name}")
    if len(before.shape) != 1:
        raise ConfigError(
            f"{stage.name} needs one channel but the clip has {before.shape[0]}: put `mono` above it"
        )
    rate = getattr(stage, "rate", None)
    if rate is not None and before.rate is not None and rate != before.rate:
        raise ConfigError(
            f"{stage.name} is set for {rate} Hz but receives {before.rate} Hz: "
            f"put `resample: {{rate: {rate}}}` above it, or set its rate"
        )
    padded = before.samples + (0 if stage.pad_mode == "none" else 2 * (n_fft // 2))  # type: ignore[attr-defined]
    too_short = padded < n_fft or (stage.pad_mode == "reflect" and before.samples <= n_fft // 2)  # type: ignore[attr-defined]
    if too_short:
        raise InputError(
            f"{stage.name}: {before.samples} samples are too few for frames of {n_fft}; put `fit` above it"
        )
    frames = 1 + (padded - n_fft) // stage.hop  # type: ignore[attr-defined]
    return Space(name, "feature", (bands, frames), before.rate, unit, before.gain)


@lru_cache(maxsize=64)
def _window(kind: str, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    a0 = 0.5 if kind == "hann" else 0.54
    # A table made in inference mode could never meet a gradient; it outlives the mode in the cache.
    with torch.inference_mode(False):
        n = torch.arange(length, dtype=torch.float64)
        return (a0 - (1 - a0) * torch.cos(2 * math.pi * n / length)).to(device=device, dtype=dtype)


def _stft(stage: Spectrogram | LogMel | Mfcc, x: Tensor) -> Tensor:
    """Return the STFT's real and imaginary parts, `(batch, frames, n_fft//2 + 1, 2)`."""
    length = stage.win_length or stage.n_fft
    window = _window(stage.window, length, x.dtype, x.device)
    left = (stage.n_fft - length) // 2
    window = F.pad(window, (left, stage.n_fft - length - left))
    if stage.pad_mode != "none":
        half = stage.n_fft // 2
        x = F.pad(x.unsqueeze(1), (half, half), mode=stage.pad_mode).squeeze(1)
    frames = x.unfold(-1, stage.n_fft, stage.hop) * window
    return torch.view_as_real(torch.fft.rfft(frames))


def _spectrum(stage: Spectrogram | LogMel | Mfcc, x: Tensor) -> Tensor:
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
def _dct_columns(n_mfcc: int, n_mels: int, lifter: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the transposed DCT, `(n_mels, n_mfcc)`, to multiply rows with."""
    return _columns(dct_matrix(n_mfcc, n_mels, lifter), dtype, device)


def _columns(matrix: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(np.array(matrix.T, order="C")).to(device=device, dtype=dtype)


# A band covers a few bins, so most of a product with all filters is zeros: neighbouring bands are taken
# together in this many products, each over their own bins. More are slower: their matrices are too narrow.
_GROUPS = 2


@lru_cache(maxsize=64)
def _filter_groups(
    args: tuple[object, ...], repeat: int, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[int, int, Tensor], ...]:
    """Return, per group of bands, its first and last value and the filters over them, `(values, bands)`.

    repeat: values a bin, 2 where real and imaginary squares are still apart.
    """
    filters = mel_filters(*args)
    groups = []
    for group in np.array_split(filters, min(_GROUPS, len(filters))):
        used = np.flatnonzero(group.any(axis=0))
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        columns = _columns(np.repeat(group[:, first:last], repeat, axis=1), dtype, device)
        groups.append((first * repeat, last * repeat, columns))
    return tuple(groups)


def _log_mel(stage: LogMel | Mfcc, x: Tensor) -> Tensor:
    """Return log-mel features, `(batch, frames, n_mels)`."""
    key = (stage.rate, stage.n_fft, stage.n_mels, stage.f_min, stage.f_max, stage.mel_scale, stage.mel_norm)
    # With powers, one product sums real and imaginary squares and applies the filters.
    values, repeat = (
        (_square(_stft(stage, x)).flatten(-2), 2) if stage.power == 2.0 else (_spectrum(stage, x), 1)
    )
    groups = _filter_groups(key, repeat, x.dtype, x.device)
    # As a matrix, whose columns are cut without a copy.
    rows = values.flatten(0, 1)
    bands = torch.cat([rows[:, first:last] @ columns for first, last, columns in groups], dim=1)
    bands = bands.reshape(*values.shape[:2], -1)
    bands = bands + stage.floor if stage.floor_mode == "add" else bands.clamp(min=stage.floor)
    if stage.log == "ln":
        return torch.log(bands)
    return torch.log10(bands) * (10.0 if stage.power == 2.0 else 20.0)


@register("spectrogram")
@dataclass(frozen=True)
class Spectrogram(Stage):
    """Magnitude (power 1) or power (power 2) spectrogram, `(batch, n_fft//2 + 1, frames)`."""

    n_fft: int = 512
    hop: int = 160
    win_length: int | None = None
    power: float = 2.0
    pad_mode: PadMode = "constant"
    window: Literal["hann", "hamming"] = "hann"

    family = "feature"

    def __post_init__(self) -> None:
        _check_spectral(self)

    def __call__(self, x: Tensor) -> Tensor:
        return _spectrum(self, x).transpose(1, 2).contiguous()

    def space(self, before: Space) -> Space:
        name = "power spectrogram" if self.power == 2.0 else "magnitude spectrogram"
        return _feature_space(self, before, bands=self.n_fft // 2 + 1, name=name, unit=f"|X|^{self.power:g}")

    def words(self) -> str:
        return f"{'power' if self.power == 2.0 else 'magnitude'} spectrogram, {self.n_fft} points, hop {self.hop}"


@register("log_mel")
@dataclass(frozen=True)
class LogMel(Stage):
    """Logarithm of mel-band powers, `(batch, n_mels, frames)`.

    The floor decides how far a quiet band moves under a small perturbation, and with it everything
    that a feature certificate can say about a waveform.
    """

    n_mels: int = 40
    n_fft: int = 512
    hop: int = 160
    win_length: int | None = None
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: Literal["htk", "slaney"] = "htk"
    mel_norm: Literal["slaney"] | None = None
    power: float = 2.0
    floor: float = 1e-6
    floor_mode: Literal["add", "max"] = "add"
    log: Literal["ln", "db"] = "ln"
    pad_mode: PadMode = "constant"
    window: Literal["hann", "hamming"] = "hann"
    rate: int = 16_000

    family = "feature"
    always = ("n_mels", "floor")

    def __post_init__(self) -> None:
        _check_spectral(self)
        _check_log(self)

    def __call__(self, x: Tensor) -> Tensor:
        return _log_mel(self, x).transpose(1, 2).contiguous()

    def space(self, before: Space) -> Space:
        unit = "nats" if self.log == "ln" else "dB"
        return _feature_space(self, before, bands=self.n_mels, name="log-mel", unit=unit)

    def words(self) -> str:
        return f"log-mel features, {self.n_mels} bands, floor {self.floor:g} ({self.floor_mode})"


@lru_cache(maxsize=32)
def dct_matrix(n_mfcc: int, n_mels: int, lifter: float) -> np.ndarray:
    """Return the orthonormal DCT-II `(n_mfcc, n_mels)`, rows weighted by 1 + (L/2)·sin(π(k+1)/L)."""
    k = np.arange(n_mfcc)[:, None]
    n = np.arange(n_mels)[None, :]
    matrix = np.cos(np.pi * k * (2 * n + 1) / (2 * n_mels)) * math.sqrt(2.0 / n_mels)
    matrix[0] /= math.sqrt(2.0)
    if lifter > 0:
        matrix *= 1 + (lifter / 2) * np.sin(np.pi * (k + 1) / lifter)
    matrix.setflags(write=False)
    return matrix


@register("mfcc")
@dataclass(frozen=True)
class Mfcc(Stage):
    """Mel-frequency cepstral coefficients, `(batch, n_mfcc, frames)`: the orthonormal DCT-II of log-mel.

    `lifter` > 0 weights coefficient k by 1 + (lifter/2)·sin(π(k+1)/lifter). Log-mel is in decibels by
    default, as in librosa.
    """

    n_mfcc: int = 20
    lifter: float = 0.0
    n_mels: int = 40
    n_fft: int = 512
    hop: int = 160
    win_length: int | None = None
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: Literal["htk", "slaney"] = "htk"
    mel_norm: Literal["slaney"] | None = None
    power: float = 2.0
    floor: float = 1e-6
    floor_mode: Literal["add", "max"] = "add"
    log: Literal["ln", "db"] = "db"
    pad_mode: PadMode = "constant"
    window: Literal["hann", "hamming"] = "hann"
    rate: int = 16_000

    family = "feature"
    always = ("n_mels", "floor")

    def __post_init__(self) -> None:
        _check_spectral(self)
        _check_log(self)
        require(1 <= self.n_mfcc <= self.n_mels, self, "n_mfcc", f"from 1 to n_mels ({self.n_mels})")
        require(self.lifter >= 0, self, "lifter", "zero or positive")

    def __call__(self, x: Tensor) -> Tensor:
        dct = _dct_columns(self.n_mfcc, self.n_mels, self.lifter, x.dtype, x.device)
        return torch.matmul(_log_mel(self, x), dct).transpose(1, 2).contiguous()

    def space(self, before: Space) -> Space:
        unit = "cepstral nats" if self.log == "ln" else "cepstral dB"
        return _feature_space(self, before, bands=self.n_mfcc, name="mfcc", unit=unit)

    def words(self) -> str:
        return f"{self.n_mfcc} MFCCs of {self.n_mels} mel bands, floor {self.floor:g} ({self.floor_mode})"


@register("feature_standardize")
@dataclass(frozen=True)
class FeatureStandardize(Stage):
    """Standardise features: with fixed statistics, or with each clip's own.

    per="fixed": (x − mean)/std with numbers, or one number a band. per="clip": each band of each clip
    to zero mean and unit variance over time (CMVN); `floor` is added to the variance.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    per: Literal["fixed", "clip"] = "fixed"
    floor: float = 1e-5

    family = "feature"

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            value = getattr(self, field)
            if isinstance(value, list):  # YAML gives lists; a frozen, hashable stage needs a tuple
                object.__setattr__(self, field, tuple(float(v) for v in value))
        stds = self.std if isinstance(self.std, tuple) else (self.std,)
        require(all(0 < s < math.inf for s in stds), self, "std", "positive and finite")
        require(self.per in ("fixed", "clip"), self, "per", "'fixed' or 'clip'")
        require(self.floor > 0, self, "floor", "positive")

    @property
    def per_clip(self) -> bool:  # type: ignore[override]
        return self.per == "clip"

    def bind(self, before: Space) -> Self:
        self.space(before)
        return replace(self)

    def space(self, before: Space) -> Space:
        if before.kind != "feature":
            raise ConfigError(f"{self.name} needs features but stands on {before.name}")
        for field in ("mean", "std"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) != before.shape[0]:
                raise ConfigError(
                    f"{self.name}: {field} has {len(value)} values but the features have {before.shape[0]} bands"
                )
        return before.evolve(name=f"standardised {before.name}", unit="standard deviations")

    def _fixed(self, value: float | tuple[float, ...], x: Tensor) -> Tensor | float:
        return (
            torch.tensor(value, dtype=x.dtype, device=x.device)[:, None]
            if isinstance(value, tuple)
            else value
        )

    def __call__(self, x: Tensor) -> Tensor:
        if self.per == "fixed":
            return (x - self._fixed(self.mean, x)) / self._fixed(self.std, x)
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + self.floor)

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """Fixed statistics: R·min(std), since a coordinate is stretched by 1/std at most."""
        if self.per == "clip":
            return None
        stds = self.std if isinstance(self.std, tuple) else (self.std,)
        return radius * (min(stds) * INWARD)

    def words(self) -> str:
        return "features standardised " + ("per clip" if self.per == "clip" else "by fixed statistics")
