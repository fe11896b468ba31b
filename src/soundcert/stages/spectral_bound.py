"""How far a waveform may move before its spectral features move by R: spectrogram, log-mel, MFCC.

The chain of the proof (docs/theory.md, "Features"), for a perturbation δ with STFT D:

1. Σ |D_tf|²/w_f ≤ B‖δ‖², summed over the frames and the bins that a real signal's spectrum holds, w_f = ½ for bins that
   the two-sided spectrum holds twice and 1 for the others; B is the frame bound of the two-sided STFT.
2. Each band's amplitude moves by at most Δ with Σ y Δ² ≤ B‖δ‖², for weights y that the filters allow.
3. The worst change of the features under such a budget is bounded by duality (`dual`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from soundcert.stages.base import INWARD
from soundcert.stages.dual import Compression, largest_budget
from soundcert.stages.mel import Mel, band_values, filter_key, mel_filters
from soundcert.stages.spectra import Frames, frame_window, spectrum

# ‖computed X − X‖ ≤ _FFT·√B‖x‖. A float64 FFT errs by a few log2(n_fft) units of 1.1e-16 (Higham 2002, section
# 24.1), and filters sum up to n_fft/2 terms of one sign; this is a hundred times that.
_FFT = 1e-12
# Error of one logarithm of a band, relative to 1 + its magnitude: sums and log1p in float64, with room.
_LOG = 1e-12


@lru_cache(maxsize=64)
def frame_bound(n_fft: int, hop: int, pad_mode: str, window: tuple[float, ...], samples: int) -> float:
    """Return B with Σ|D_tf|² ≤ B‖δ‖² over all frames and all n_fft bins, δ of `samples` real values.

    By Parseval a frame's two-sided energy is n_fft·Σ w²|δ|² over the padded samples under it, so
    B = n_fft·max_n Σ OLA[j] over the padded positions j that copy sample n, OLA being the sum of squared
    windows of the frames that exist. It is attained: the Gram operator is diagonal.
    """
    half = 0 if pad_mode == "none" else n_fft // 2
    padded = samples + 2 * half
    squared = np.square(np.array(window))
    overlap = np.zeros(padded)
    for start in range(0, padded - n_fft + 1, hop):
        overlap[start : start + n_fft] += squared
    total = overlap[half : half + samples].copy()
    if pad_mode == "reflect":
        total[1 : half + 1] += overlap[:half][::-1]
        total[samples - 1 - half : samples - 1] += overlap[half + samples :][::-1]
    return float(n_fft * total.max()) * (1 + 1e-12)


def bound_of(stage: Frames, samples: int) -> float:
    window = frame_window(stage, torch.float64, torch.device("cpu"))
    return frame_bound(stage.n_fft, stage.hop, stage.pad_mode, tuple(window.tolist()), samples)


def bin_weights(n_fft: int) -> np.ndarray:
    """Return w_f, `(n_fft//2 + 1,)`: ½ where a real signal's two-sided spectrum holds the bin twice, else 1."""
    weights = np.full(n_fft // 2 + 1, 0.5)
    weights[0] = 1.0
    if n_fft % 2 == 0:
        weights[-1] = 1.0
    return weights


def even_weights(filters: np.ndarray, n_fft: int, power: float) -> np.ndarray:
    """Return y, the same for every band: 1/κ, rounded down.

    power 2: κ = max_f w_f Σ_m M_mf. power 1: κ = ‖M·diag(√w)‖₂².
    """
    w = bin_weights(n_fft)
    kappa = (
        (w * filters.sum(axis=0)).max()
        if power == 2.0
        else np.linalg.norm(filters * np.sqrt(w), 2) ** 2 * (1 + 1e-9)
    )
    return np.full(len(filters), 1 / (kappa * (1 + 1e-12)))


@lru_cache(maxsize=32)
def band_weights(
    stage_key: tuple[int, int, int, float, float | None, str, str | None], n_fft: int, power: float
) -> np.ndarray:
    """Return y for the bands that have any weight at all: `even_weights`, raised where the filters leave room.

    power 2: a linear program, maximise Σ_m y_m·(peak of band m) where w_f Σ_m y_m M_mf ≤ 1 for every bin and
    no y_m is below the even one; so the bound is never worse for it, and much better where filters have
    unequal heights (mel_norm "slaney"). Whatever the solver returns is divided by the largest left side,
    so that none of its tolerances enters the proof.
    """
    from scipy.optimize import linprog

    filters = mel_filters(*stage_key)
    filters = filters[filters.any(axis=1)]
    if not len(filters):
        return np.zeros(0)
    even = even_weights(filters, n_fft, power)
    if power == 1.0:
        return even
    left = (bin_weights(n_fft) * filters).T
    left = left[left.any(axis=1)]
    room = [(y * (1 - 1e-9), None) for y in even]
    found = linprog(-filters.max(axis=1), A_ub=left, b_ub=np.ones(len(left)), bounds=room)
    if not found.success:
        return even
    y = np.maximum(found.x, even)
    weights: np.ndarray = y / (max(1.0, (left @ y).max()) * (1 + 1e-12))
    return weights


_MOST = 1e300


def spectral_radius(stage: Frames, x: Tensor, radius: Tensor, std: Tensor | None = None) -> Tensor:
    """Return, per row of `x`, `(batch, samples)` in float64, a proven r for features that may move by `radius`.

    Linear features (a magnitude spectrogram) have r = R/√B. std: what the features are divided by afterwards,
    `(bands,)`; `radius` is then that of the divided features. 0 where x is too large for its square.
    """
    bound = bound_of(stage, x.shape[-1])
    power: Literal[1, 2] = 2 if stage.power == 2.0 else 1
    if isinstance(stage, Mel):
        key = filter_key(stage)
        keep = torch.from_numpy(mel_filters(*key).any(axis=1))
        f = Compression(power, stage.floor, stage.floor_mode)
        unit = 1.0 if stage.log == "ln" else (10.0 if power == 2 else 20.0) / math.log(10.0)
        values = band_values(stage, x).transpose(1, 2)[..., keep]
        y = torch.from_numpy(band_weights(key, stage.n_fft, stage.power))
    else:
        keep = torch.ones(stage.n_fft // 2 + 1, dtype=torch.bool)
        f, unit = Compression(power, None), 1.0
        values = spectrum(stage, x)
        y = torch.from_numpy(1 / bin_weights(stage.n_fft))
    scale = torch.full((len(keep),), unit, dtype=torch.float64)
    if std is not None:
        scale = scale / std
    amplitudes = (torch.sqrt(values) if power == 2 else values).flatten(1)
    frames = values.shape[1]
    y, scale = y.repeat(frames), scale[keep].repeat(frames)
    norms = torch.linalg.vector_norm(x, dim=1)
    rows = zip(amplitudes, radius.tolist(), norms.tolist(), strict=True)
    return torch.tensor([_row(f, a, y, scale, r, bound, norm) for a, r, norm in rows], dtype=torch.float64)


def _row(
    f: Compression, a: Tensor, y: Tensor, scale: Tensor, radius: float, bound: float, norm: float
) -> float:
    """One row's r. Amplitudes, and the features at x and x + δ, are computed in float64 and err by a little.

    With ‖error of the amplitudes‖ ≤ e in the budget's norm, h(a, Δ) at the true a is at most that at the
    computed a for Δ + e, and F itself differs by at most its slope times e.
    """
    # (Squares of what is smaller than this underflow, and then nothing is claimed either.)
    if not (math.isfinite(norm) and bool(torch.isfinite(a).all())) or not (
        f.floor is None or f.floor > 1e-200
    ):
        return 0.0
    if bound == 0 or len(a) == 0:  # the features are the same whatever the waveform
        return math.inf if radius > 0 else 0.0
    error = _FFT * norm  # of x; like a perturbation of this length
    steepest = (
        f.lipschitz if math.isfinite(f.lipschitz) else float(2 * a.max() + 2 * math.sqrt(bound) * error)
    )
    amplitude_error = math.sqrt(bound) * error * float((scale / torch.sqrt(y)).max()) * steepest
    features = f(a) * scale
    log_error = 2 * _LOG * float(torch.linalg.vector_norm(features.abs() + scale))
    left = radius - amplitude_error - log_error
    budget = largest_budget(f, a, y, scale, left)
    if math.isfinite(radius):  # features grow without bound, so that a finite R has a finite r
        budget = min(budget, _MOST)
    return max(0.0, (math.sqrt(budget / bound) - 3 * error) * INWARD)
