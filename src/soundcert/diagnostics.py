"""What a radius means: signal-relative scales, the Monte-Carlo ceiling, the geometry after the noise.

Conventions
-----------
Norms are ℓ2 norms of the certified object. Decibels of a ratio ‖v‖/R are rounded *up*, since a smaller
radius is a larger ratio; levels of a perturbation, and counts of quantisation steps, are rounded *down*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from soundcert.audio import Clip
from soundcert.bounds import BoundName, monte_carlo_ceiling
from soundcert.errors import ConfigError
from soundcert.pipeline import Pipeline, Route
from soundcert.randomness import NoiseKey, noise_stream

__all__ = [
    "BoundName",
    "GeometryDistortion",
    "burst_level_db",
    "geometry_distortion",
    "monte_carlo_ceiling",
    "norm_ratio_db",
    "snr_db",
]

BURST_SECONDS = 0.02


def norm_ratio_db(norm: float, radius: float) -> float:
    """Return 20·log10(norm/radius), rounded up.

    In a feature space this depends on gain, unit and floor: it is a norm ratio, not an SNR.
    """
    if not (norm >= 0 and math.isfinite(norm)):
        raise ConfigError(f"norm must be finite and not negative, got {norm!r}")
    if not radius > 0:
        raise ConfigError(f"radius must be positive, got {radius!r}: an abstention has no ratio")
    if norm == 0:
        return -math.inf
    if math.isinf(radius):
        return -math.inf
    value = 20.0 * (math.log10(norm) - math.log10(radius))
    # log10 is good to an ulp or two; the difference is bounded by a few ulps of its terms.
    room = 1e-14 * (abs(value) + 20.0 * abs(math.log10(norm)) + 20.0 * abs(math.log10(radius)) + 1.0)
    return value + room


def snr_db(norm: float, radius: float) -> float:
    """Return the signal-to-noise ratio 20·log10(‖v‖/R) of a perturbation at the radius, in dB, rounded up.

    For waveforms. A perturbation at this SNR or a *higher* one (a quieter perturbation) is covered. It
    grows by 10·log10 of the clip's length at equal radius and RMS, so compare it at equal lengths only.

    >>> print(f"{snr_db(16_000**0.5, 0.00799644):.2f}, {snr_db(80_000**0.5, 0.00799644):.2f}")  # 1 s and 5 s at RMS 1
    83.98, 90.97
    """
    return norm_ratio_db(norm, radius)


def burst_level_db(
    radius: float, rms: float, rate: int, seconds: float = BURST_SECONDS, channels: int = 1
) -> float:
    """Return the level of a perturbation that spends all of R within 20 ms, in dB of the clip's RMS.

    20·log10((R/√w)/rms) with w = rate·seconds·channels values, rounded down. It does not grow with the clip's length:
    below 0 dB, even a burst is quieter than the clip is on average. rms: over all values of all channels, each of
    which the burst may change.
    """
    if not (radius > 0 and rms > 0 and rate > 0):
        raise ConfigError(f"radius, rms and rate must be positive, got {radius!r}, {rms!r}, {rate!r}")
    window = max(1, math.ceil(round(rate * seconds, 6))) * channels
    return -norm_ratio_db(rms * math.sqrt(window), radius)


@dataclass(frozen=True)
class GeometryDistortion:
    """How the stages after the noise change it, with η the smoothing noise and T those stages.

    displacement: mean of ‖T(v+η) − v‖/‖η‖, what arXiv 2606.04210 measures; it tends to ‖v − T(v)‖/(σ√d)
    for small σ. sensitivity: mean of ‖T(v+η) − T(v)‖/‖η‖, how much of the noise is left.
    """

    displacement: float
    sensitivity: float
    draws: int


def geometry_distortion(pipe: Pipeline, clip: Clip, *, draws: int = 16, seed: int = 0) -> GeometryDistortion:
    """Measure the geometry distortion of the stages that change the object after the noise.

    Both figures are 1 where nothing does. Source: arXiv 2606.04210 for the displacement.
    """
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, got {draws}")
    return distortion_at(pipe.route(clip.space), pipe.object_of(clip), clip.digest, draws=draws, seed=seed)


def distortion_at(route: Route, v: torch.Tensor, digest: str, *, draws: int, seed: int) -> GeometryDistortion:
    """Measure the distortion at an object that is known already (see `geometry_distortion`)."""
    stages = route.post_processing
    if not route.keeps_shape:
        raise ConfigError(
            "geometry distortion compares signals of one shape, but a stage after the noise changes the shape"
        )
    if not stages:
        return GeometryDistortion(1.0, 1.0, draws)
    noise = noise_stream(NoiseKey(seed, "diagnostics", digest), route.noise).fill_(
        torch.empty(draws, *v.shape, dtype=torch.float32)
    )
    eta = noise.to(torch.float64)
    clean, noisy = v.unsqueeze(0), v + eta
    for stage in stages:
        clean, noisy = stage(clean), stage(noisy)
    length = eta.flatten(1).norm(dim=1)
    moved = (noisy - v).flatten(1).norm(dim=1) / length
    left = (noisy - clean).flatten(1).norm(dim=1) / length
    return GeometryDistortion(float(moved.mean()), float(left.mean()), draws)
