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

from soundcert.errors import ConfigError, InputError
from soundcert.spaces import Space
from soundcert.stages.base import INWARD, Stage, as_finite, register, require
from soundcert.stages.gain import sphere_pull_back
from soundcert.stages.mel import filter_key, log_mel, mel_filters
from soundcert.stages.spectra import PadMode, dct_rows, lifter_weights, spectrum
from soundcert.stages.spectral_bound import spectral_radius

#: A config may come from a stranger: filters of these sizes are a quarter of a gigabyte.
MOST_FFT, MOST_BANDS = 2**16, 1024


def _check_spectral(stage: Spectrogram | LogMel | Mfcc) -> None:
    require(2 <= stage.n_fft <= MOST_FFT, stage, "n_fft", f"from 2 to {MOST_FFT}")
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
    require(1 <= stage.n_mels <= MOST_BANDS, stage, "n_mels", f"from 1 to {MOST_BANDS}")
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
    with np.errstate(all="ignore"):
        filters = mel_filters(*filter_key(stage))
    require(
        bool(np.isfinite(filters).all()), stage, "f_max", "so far above f_min that every band has a width"
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
        return spectrum(self, x).transpose(1, 2).contiguous()

    def space(self, before: Space) -> Space:
        name = "power spectrogram" if self.power == 2.0 else "magnitude spectrogram"
        return _feature_space(self, before, bands=self.n_fft // 2 + 1, name=name, unit=f"|X|^{self.power:g}")

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """The dual bound (`spectral_bound`, docs/theory.md): every option is covered."""
        return spectral_radius(self, x, radius)

    def pull_back_through(self, after: Stage, x: Tensor, radius: Tensor) -> Tensor | None:
        """With fixed standardisation after it, each feature counts in its own standard deviation."""
        return _through_standardize(self, after, x, radius)

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
        return log_mel(self, x).contiguous()

    def space(self, before: Space) -> Space:
        unit = "nats" if self.log == "ln" else "dB"
        return _feature_space(self, before, bands=self.n_mels, name="log-mel", unit=unit)

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """The dual bound (`spectral_bound`, docs/theory.md): every option is covered."""
        return spectral_radius(self, x, radius)

    def pull_back_through(self, after: Stage, x: Tensor, radius: Tensor) -> Tensor | None:
        """With fixed standardisation after it, each feature counts in its own standard deviation."""
        return _through_standardize(self, after, x, radius)

    def words(self) -> str:
        return f"log-mel features, {self.n_mels} bands, floor {self.floor:g} ({self.floor_mode})"


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
        dct = dct_rows(self.n_mfcc, self.n_mels, self.lifter, x.dtype, x.device)
        return torch.matmul(dct, log_mel(self, x))

    def space(self, before: Space) -> Space:
        unit = "cepstral nats" if self.log == "ln" else "cepstral dB"
        return _feature_space(self, before, bands=self.n_mfcc, name="mfcc", unit=unit)

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """The rows of the DCT are orthonormal, so R/(largest lifter weight) holds for the log-mel before it."""
        largest = float(np.abs(lifter_weights(self.n_mfcc, self.lifter)).max())
        return spectral_radius(self, x, radius / largest * INWARD)

    def words(self) -> str:
        return f"{self.n_mfcc} MFCCs of {self.n_mels} mel bands, floor {self.floor:g} ({self.floor_mode})"


def _through_standardize(
    stage: Spectrogram | LogMel, after: Stage, x: Tensor, radius: Tensor
) -> Tensor | None:
    if not isinstance(after, FeatureStandardize) or after.per != "fixed":
        return None
    std = torch.tensor(after.std, dtype=torch.float64)
    bands = stage.n_mels if isinstance(stage, LogMel) else stage.n_fft // 2 + 1
    frames = stage.space(Space("waveform", "waveform", (x.shape[-1],))).shape[-1]
    left = radius * INWARD - after.rounding(0.0, bands * frames)
    return spectral_radius(stage, x, left, std.expand(bands))


@lru_cache(maxsize=64)
def _column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as `(bands, 1)`; kept, since on a GPU each copy would wait for it."""
    with torch.inference_mode(False):  # the table outlives the mode in the cache, and may meet a gradient
        return torch.tensor(values, dtype=dtype).to(device)[:, None]


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
        return _column(value, x.dtype, x.device) if isinstance(value, tuple) else value

    def _centred(self, x: Tensor) -> Tensor:
        # Twice: a band that is constant but for rounding would stand out where the floor is small.
        x = x - x.mean(dim=-1, keepdim=True)
        return x - x.mean(dim=-1, keepdim=True)

    def __call__(self, x: Tensor) -> Tensor:
        if self.per == "fixed":
            return (x - self._fixed(self.mean, x)) / self._fixed(self.std, x)
        centred = self._centred(x)
        return centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + self.floor)

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """Fixed statistics: R·min(std), since a coordinate is stretched by 1/std at most.

        A clip's own: each band, over T frames, is the map of `sphere_pull_back` on the centred band, with
        c = √T, floor √(T·floor) and ν its floored norm. A share ρ of δ moves it by at most d(ρ),
        d² = 2c²(1 − √(1 − ρ²/ν²)), which is convex in ρ²: as long as ‖δ‖ is below every ν, nothing is worse
        than all of δ in the band of the smallest ν, so r is the smallest of the bands' radii, and that
        smallest ν from R = √2·c on. There is no limit only from R = 2c√bands.
        """
        radius = (radius - self.rounding(x.flatten(1).abs().amax(dim=1), x[0].numel())).clamp(min=0.0)
        if self.per == "fixed":
            stds = self.std if isinstance(self.std, tuple) else (self.std,)
            return as_finite(radius * (min(stds) * INWARD), radius)
        norms = torch.linalg.vector_norm(self._centred(x), dim=-1).reshape(len(x), -1)
        c = math.sqrt(x.shape[-1])
        # Past √2·c a band's radius is its ν, up to the sphere's diameter; beyond that other bands go on.
        within = radius.clamp(max=1.5 * c)[:, None]
        r = sphere_pull_back(norms, within, c, math.sqrt(x.shape[-1] * self.floor), "sqrt").amin(dim=1)
        return torch.where(radius * INWARD >= 2 * c * math.sqrt(norms.shape[1]), math.inf, r)

    def rounding(self, largest: Tensor | float, values: int) -> Tensor | float:
        """Return what float64 may add to the distance of two outputs of so many values.

        Subtracting a mean errs by a few units of 2⁻⁵³ of what is subtracted, and the division makes that larger.
        `largest`: the largest magnitude of the input, where it is not charged elsewhere.
        """
        unit = 16 * 2.0**-53 * math.sqrt(values)
        if self.per == "clip":
            return unit * 2 * largest / math.sqrt(self.floor)
        means = self.mean if isinstance(self.mean, tuple) else (self.mean,)
        stds = self.std if isinstance(self.std, tuple) else (self.std,)
        return unit * (largest + max(abs(m) for m in means)) / min(stds)

    def words(self) -> str:
        return "features standardised " + ("per clip" if self.per == "clip" else "by fixed statistics")
