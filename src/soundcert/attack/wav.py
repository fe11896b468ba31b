"""Perturbed clips as files: written, read back, and measured again, since rounding is part of a perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from soundcert.audio import Clip, load_clip
from soundcert.errors import InputError
from soundcert.pipeline import Pipeline

Encoding = Literal["float32", "16 bits"]
ENCODINGS: tuple[Encoding, ...] = ("float32", "16 bits")
#: Multiples of the perturbation that are tried, in order, until the file that was read back is outside the ball.
SCALES = (1.0, 1.001, 1.01, 1.05, 1.2, 1.5, 2.0, 4.0, 8.0, 16.0, 64.0)


@dataclass(frozen=True)
class SavedWav:
    """One attacked clip as a file that was read back.

    scale: the multiple of the found perturbation that was written, the smallest tried whose file is outside
    (else the largest). norm: of what the file really differs by, rounding and saturation included. distance: of
    its object from the certified one; outside: whether that is more than the radius. saturated: samples that
    16 bits could not hold.
    """

    encoding: Encoding
    path: str
    scale: float
    norm: float
    snr_db: float
    distance: float
    outside: bool
    saturated: int


def save_original(clip: Clip, path: Path) -> Path:
    """Write the clip as it was decoded: at its own bits up to 24, else in float."""
    samples = clip.tensor(torch.float64).reshape(clip.channels, -1).numpy().T
    subtype = {8: "PCM_16", 16: "PCM_16", 24: "PCM_24"}.get(clip.bits or 0, "DOUBLE")
    values = np.round(samples * 2.0**31).astype(np.int32) if subtype.startswith("PCM") else samples
    _write(path, values, clip.rate, subtype)
    return path


def save_outside(
    pipe: Pipeline, clip: Clip, delta: Tensor, v: Tensor, radius: float, path: Path, encoding: Encoding
) -> SavedWav:
    """Write clip + scale·δ for the smallest scale whose file, read back, has its object outside the ball."""
    x = clip.tensor(torch.float64)
    saved = None
    for scale in SCALES:
        attacked = (x + scale * delta).reshape(clip.channels, -1).numpy().T
        saturated = 0
        if encoding == "float32":
            _write(path, attacked.astype(np.float32), clip.rate, "FLOAT")
        else:
            steps = np.round(attacked * 2.0**15)
            saturated = int(((steps < -(2**15)) | (steps > 2**15 - 1)).sum())
            _write(path, steps.clip(-(2**15), 2**15 - 1).astype(np.int16), clip.rate, "PCM_16")
        heard = load_clip(path, name=clip.name)
        norm = float(torch.linalg.vector_norm(heard.tensor(torch.float64) - x))
        try:
            distance = float(torch.linalg.vector_norm(pipe.object_of(heard) - v))
        except InputError:  # the rounded clip is silent, and has no object
            distance = 0.0
        snr = 20 * float(np.log10(float(torch.linalg.vector_norm(x)) / norm)) if norm > 0 else float("inf")
        saved = SavedWav(encoding, str(path), scale, norm, snr, distance, distance > radius, saturated)
        if saved.outside:
            break
    assert saved is not None
    return saved


def _write(path: Path, values: np.ndarray, rate: int, subtype: str) -> None:
    import soundfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, values, rate, format="WAV", subtype=subtype)
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"cannot write {path}: {error}; free some space, or leave --wav out") from None
