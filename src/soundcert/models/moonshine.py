"""Moonshine's speech encoder (Jeffries et al. 2024, arXiv 2410.15608) as a reference network.

Shapes: input `(batch, samples)`, a waveform at 16 kHz, output `(batch, classes)` logits. It has no log-mel above it:
three convolutions make 40 frames of a second, and a transformer with rotary positions reads them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: Of the published `tiny` model.
WIDTH, HEADS, LAYERS, ROTATED = 288, 8, 6, 32


class Louder(nn.Module):
    """`(batch, samples)` to `(batch, 1, samples)`, times `gain`."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.gain).unsqueeze(1)


class FramesFirst(nn.Module):
    """`(batch, channels, frames)` to `(batch, frames, channels)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class MeanFrame(nn.Module):
    """Mean over frames: `(batch, frames, channels)` to `(batch, channels)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def angles(frames: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary positions, `(frames, ROTATED)` each, every angle for two neighbours."""
    speed = 10000.0 ** -(torch.arange(0, ROTATED, 2) / ROTATED)
    turned = (torch.arange(frames)[:, None] * speed).repeat_interleave(2, dim=1)
    return turned.cos(), turned.sin()


class Attention(nn.Module):
    """Self-attention without biases, the first ROTATED of each head's values turned by their frame's position."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        cosine, sine = angles(frames)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def _turned(self, x: Tensor) -> Tensor:
        rest = x[..., ROTATED:]
        x = x[..., :ROTATED]
        swapped = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
        return torch.cat((x * self.cosine + swapped * self.sine, rest), dim=-1).to(rest.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.cosine.shape[0]:
            raise ValueError(f"{x.shape[1]} frames, the network was built for {self.cosine.shape[0]}")
        q, k, v = (
            part(x).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        # Written out: on a CPU, the gradient of torch's own attention costs four times as much for so few frames.
        scores = self._turned(q) @ self._turned(k).transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
        heard = scores.softmax(-1).to(v.dtype) @ v
        out: Tensor = self.out(heard.transpose(1, 2).flatten(-2))
        return out


class Layer(nn.Module):
    """One layer of the encoder: attention, then two linear maps, each on what a norm leaves and added to x."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(WIDTH, bias=False)
        self.attention = Attention(frames)
        self.between = nn.LayerNorm(WIDTH, bias=False)
        self.wide = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        out: Tensor = x + self.wide(self.between(x))
        return out


def moonshine(
    classes: int, *, samples: int = 16000, layers: int = LAYERS, gain: float = 0.1, dropout: float = 0.1
) -> nn.Sequential:
    """Moonshine tiny's encoder and a linear layer on the mean of its frames.

    For a waveform at 16 kHz of `samples`, at RMS about 1: `gain` brings it to where speech was when the encoder was
    trained. `layers`: of the published six, from the bottom; with fewer, the last norm begins at 1.
    `scripts/moonshine.py` writes the published weights (MIT), for `train: {start: …}`. About 7.7 million parameters, and
    370 million multiplications for a second of sound.
    """
    if not 1 <= layers <= LAYERS:
        raise ValueError(f"layers must be from 1 to {LAYERS}, got {layers}")
    frames = samples
    for kernel, stride in ((127, 64), (7, 3), (3, 2)):
        frames = (frames - kernel) // stride + 1
    if frames < 1:
        raise ValueError(f"{samples} samples are less than one frame: at least 895 are needed")
    return nn.Sequential(
        Louder(gain),
        nn.Conv1d(1, WIDTH, 127, stride=64, bias=False),
        nn.Tanh(),
        nn.GroupNorm(1, WIDTH),
        nn.Conv1d(WIDTH, 2 * WIDTH, 7, stride=3),
        nn.GELU(),
        nn.Conv1d(2 * WIDTH, WIDTH, 3, stride=2),
        nn.GELU(),
        FramesFirst(),
        *(Layer(frames) for _ in range(layers)),
        nn.LayerNorm(WIDTH, bias=False),
        MeanFrame(),
        nn.Dropout(dropout),
        nn.Linear(WIDTH, classes),
    )
