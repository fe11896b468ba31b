"""Make a network faster without changing its answer: fold batch normalisation, channels last."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Folding reorders float32 operations; anything beyond their rounding is a changed network.
TOLERANCE = 1e-4


def optimise(module: nn.Module, example: Tensor) -> nn.Module:
    """Return an equivalent, faster copy, or `module` itself where equality does not hold.

    Convolutions followed by batch normalisation inside an nn.Sequential are folded into one, and 4-d
    weights are laid out channels-last. The copy is used only if its logits on `example`
    `(batch, *shape)` agree with the original's to TOLERANCE of their spread.
    """
    with torch.inference_mode():
        expected = module(example.clone())
        try:
            fast = copy.deepcopy(module)
            for parent in fast.modules():
                if isinstance(parent, nn.Sequential):
                    _fold(parent)
            fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            got = fast(example.clone())
        except (RuntimeError, TypeError, ValueError):
            # Some networks cannot be copied, or view activations in a way that another layout breaks.
            return module
    if not isinstance(expected, Tensor) or expected.shape != got.shape:
        return module
    spread = float((expected - expected.mean()).abs().max()) + 1e-12
    equal = bool(torch.isfinite(got).all()) and float((expected - got).abs().max()) <= TOLERANCE * spread
    return fast if equal else module


def _fold(layers: nn.Sequential) -> None:
    for name, (first, second) in zip(
        list(layers._modules), list(zip(layers, list(layers)[1:], strict=False)), strict=False
    ):
        if isinstance(first, nn.Conv2d | nn.Conv1d) and isinstance(second, nn.BatchNorm2d | nn.BatchNorm1d):
            following = list(layers._modules)[list(layers._modules).index(name) + 1]
            layers._modules[name] = fuse_conv_bn_eval(first, second)
            layers._modules[following] = nn.Identity()
