"""Small reference networks.

Shapes: input `(batch, bands, frames)` features (of `moonshine` a waveform), output `(batch, classes)` logits. Every
network is an nn.Sequential, so that a `model` stage can run a part of it (`stop`, `start`) and noise can stand between.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from soundcert.errors import ConfigError, did_you_mean
from soundcert.models.moonshine import moonshine


class AddChannel(nn.Module):
    """`(batch, bands, frames)` to `(batch, 1, bands, frames)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        # In place where no gradient needs the addends: a fresh tensor costs as much as a convolution.
        return x + out if torch.is_grad_enabled() else out.add_(x)


class GlobalMean(nn.Module):
    """Mean over bands and frames: `(batch, channels, bands, frames)` to `(batch, channels)`."""

    def forward(self, x: Tensor) -> Tensor:
        # Not x.mean: pooling has a kernel for the layout that convolutions leave, which a mean would first undo.
        return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)


def _stem(width: int) -> list[nn.Module]:
    """One channel to `width`, bands and frames halved."""
    first = nn.Conv2d(1, width, (5, 5), stride=2, padding=2, bias=False)
    return [AddChannel(), nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(inplace=True))]


def _separable(inside: int, outside: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        nn.Conv2d(inside, inside, 3, stride=stride, padding=1, groups=inside, bias=False),
        nn.BatchNorm2d(inside),
        nn.ReLU(inplace=True),
        nn.Conv2d(inside, outside, 1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )
    return Residual(body) if stride == 1 and inside == outside else body


def ds_cnn(
    classes: int,
    *,
    width: int = 96,
    blocks: int = 5,
    halve: int = 3,
    wide: int | None = None,
    dropout: float = 0.1,
) -> nn.Sequential:
    """Depthwise-separable CNN for one-second keywords (after Zhang et al. 2017, "Hello Edge", DS-CNN).

    The first convolution halves bands and frames, block number `halve` halves them again and goes from
    `width` channels to `wide` (by default the same); blocks that keep their shape are residual. A pass
    costs mostly what stands before that block. About 57 000 parameters at the defaults.
    """
    wide = width if wide is None else wide
    layers = _stem(width)
    for i in range(1, blocks + 1):
        layers.append(
            _separable(width if i <= halve else wide, width if i < halve else wide, 2 if i == halve else 1)
        )
    layers += [GlobalMean(), nn.Dropout(dropout), nn.Linear(wide if blocks >= halve else width, classes)]
    return nn.Sequential(*layers)


def event_cnn(classes: int, *, width: int = 32, dropout: float = 0.2) -> nn.Sequential:
    """Small CNN for five-second environmental sounds: four halvings, widths w, 2w, 3w, 4w."""
    layers = _stem(width)
    for i in range(1, 4):
        layers += [_separable(i * width, (i + 1) * width, 2), _separable((i + 1) * width, (i + 1) * width, 1)]
    layers += [GlobalMean(), nn.Dropout(dropout), nn.Linear(4 * width, classes)]
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """relu(body(x) + shortcut(x)): two 3 × 3 convolutions, the first with the stride."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out.relu()


def res_cnn(
    classes: int, *, width: int = 16, last: int = 96, blocks: int = 3, dropout: float = 0.3
) -> nn.Sequential:
    """Residual network of dense convolutions (after He et al. 2015), halving bands and frames in every block.

    Widths double from `width` and end at `last`. Dense convolutions on few channels cost a CPU a third of a
    DS-CNN's depthwise ones, and a sixth in training. About 219 000 parameters at the defaults.
    """
    widths = [min(width << i, last) for i in range(blocks)] + [last]
    layers = _stem(width)
    layers += [ResidualBlock(a, b, 2) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*layers, GlobalMean(), nn.Dropout(dropout), nn.Linear(last, classes))


class Level(nn.Module):
    """`(batch, bands, frames)` in nats to `(batch, 1, frames, bands)` in bels, `offset` bels louder."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return (x / math.log(10) + self.offset).transpose(1, 2).unsqueeze(1)


class Bent(nn.Module):
    """x above 0, x/5 down to −0.4, and −0.4 below."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(x, 0.2).clamp_min(-0.4)


_PAIR = ((1, 3), (3, 1))  # along bands, along frames
#: The speech embedding's blocks: width, kernels over (frames, bands), and how many of both become one at the end.
_EMBEDDING = (
    (24, ((3, 3), *_PAIR), (2, 2)),
    (48, _PAIR * 2, (1, 2)),
    (72, _PAIR * 2, (2, 2)),
    (96, _PAIR * 2, (1, 2)),
    (96, _PAIR * 2, (2, 2)),
)


def speech_embedding(
    classes: int, *, frames: int = 101, offset: float = 8.6, dropout: float = 0.2
) -> nn.Sequential:
    """Google's speech embedding (Lin et al. 2020, arXiv 2002.01322) with a linear layer on all of its frames.

    For log-mel in nats of 32 bands, 60 to 3800 Hz, Slaney's scale and norm, windows of 25 ms every 10 ms. Convolutions
    along bands and along frames in turn, without padding in time: a frame of the embedding sees 0.76 s. `frames`: of
    the features, at least 76. `offset`: bels between the features and those that it was trained on; 8.6 puts a
    waveform of RMS 1 at an RMS of 2000 in 16 bits. `scripts/speech_embedding.py` writes the published weights, for
    `train: {start: …}`. About 332 000 parameters; a pass costs eight of `res_cnn`'s.
    """
    layers: list[nn.Module] = [Level(offset)]
    inside, left = 1, frames
    for width, kernels, pool in _EMBEDDING:
        for kernel in kernels:
            layers += [nn.Conv2d(inside, width, kernel, padding=(0, kernel[1] // 2)), Bent()]
            inside, left = width, left - kernel[0] + 1
        layers.append(nn.MaxPool2d(pool))
        left //= pool[0]
    layers += [nn.Conv2d(inside, 96, (3, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(96 * (left - 2), classes))


NETWORKS: Mapping[str, Callable[..., nn.Sequential]] = {
    "ds_cnn": ds_cnn,
    "event_cnn": event_cnn,
    "moonshine": moonshine,
    "res_cnn": res_cnn,
    "speech_embedding": speech_embedding,
}


def check_network(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Raise ConfigError unless the network and its options are known."""
    if name not in NETWORKS:
        raise ConfigError(f"unknown network {name!r}{did_you_mean(name, NETWORKS)}")
    known = set(inspect.signature(NETWORKS[name]).parameters) - {"classes"}
    for option in options or {}:
        if option not in known:
            raise ConfigError(f"network {name!r} has no option {option!r}{did_you_mean(option, known)}")


def build_network(name: str, classes: int, options: Mapping[str, Any] | None = None) -> nn.Sequential:
    """Build a reference network by name with freshly initialised weights."""
    check_network(name, options)
    try:
        return NETWORKS[name](classes, **dict(options or {}))
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"network {name!r} cannot be built with options {dict(options or {})}: {error}"
        ) from None
