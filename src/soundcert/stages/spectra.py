"""What spectral features are made of: frames, their STFT, the DCT. Mel bands are in `mel`.

Conventions: waveforms `(batch, samples)`; spectra `(batch, frames, bins)`. The STFT has `n_fft` points, a periodic window
of `win_length` centred in the frame, and no scaling.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, Protocol

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


def padded(stage: Frames, x: Tensor) -> Tensor:
    """Return waveforms with what `pad_mode` puts on both sides."""
    if stage.pad_mode == "none":
        return x
    half = stage.n_fft // 2
    return F.pad(x.unsqueeze(1), (half, half), mode=stage.pad_mode).squeeze(1)


def stft(stage: Frames, x: Tensor) -> Tensor:
    """Return the STFT's real and imaginary parts, `(batch, frames, n_fft//2 + 1, 2)`."""
    window = frame_window(stage, x.dtype, x.device)
    frames = padded(stage, x).unfold(-1, stage.n_fft, stage.hop) * window
    return torch.view_as_real(torch.fft.rfft(frames))


def spectrum(stage: Frames, x: Tensor) -> Tensor:
    """Return |X|^power, `(batch, frames, n_fft//2 + 1)`."""
    parts = stft(stage, x)
    if stage.power == 1.0:
        return torch.view_as_complex(parts).abs()
    return square(parts).sum(dim=-1)


def square(x: Tensor) -> Tensor:
    """Return squares; x may be overwritten."""
    # In place where no gradient needs the input: a fresh tensor of this size costs more than the squares.
    return x.square() if x.requires_grad else x.square_()


@lru_cache(maxsize=64)
def dct_rows(n_mfcc: int, n_mels: int, lifter: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the DCT, `(n_mfcc, n_mels)`, as a tensor."""
    return tensor_of(dct_matrix(n_mfcc, n_mels, lifter), dtype, device)


def tensor_of(matrix: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a table as a tensor that may meet gradients, whatever the mode it was made in."""
    with torch.inference_mode(False):
        return torch.from_numpy(np.array(matrix, order="C")).to(device=device, dtype=dtype)


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
