"""Make a network faster without changing its answer: fold batch normalisation, channels last."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from soundcert.models.networks import AddChannel, GlobalMean, Residual, ResidualBlock

# Folding reorders float32 operations; anything beyond their rounding is a changed network.
TOLERANCE = 1e-4
# Layers that compute the same operations whatever their input holds, so that a trace says all of them.
_STRAIGHT = (
    *(nn.Sequential, nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Identity, nn.Flatten),
    *(AddChannel, GlobalMean, Residual, ResidualBlock),
)


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


def freeze(module: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the network as a program with its filters laid out beforehand, or `module` where that is not to be had.

    Only networks of `_STRAIGHT` layers, on a CPU: a trace of others could miss a branch. 7 to 17 % faster than
    `optimise` alone. Compared with the module at three sizes and gains, like any engine.
    """
    if example.device.type != "cpu" or not all(type(part) in _STRAIGHT for part in module.modules()):
        return module
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is old
            traced = torch.jit.trace(module, example.clone(), check_trace=False)  # type: ignore[no-untyped-call]
            program = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
        with torch.inference_mode():
            for probe in (example, 2.0 * example[: len(example) // 2 + 1], 0.25 * example[:1]):
                expected, got = module(probe.clone()), program(probe.clone())
                spread = float((expected - expected.mean()).abs().max()) + 1e-12
                if not float((expected - got).abs().max()) <= TOLERANCE * spread:
                    return module
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return module
    out: Callable[[Tensor], Tensor] = program
    return out


def _fold(layers: nn.Sequential) -> None:
    for name, (first, second) in zip(
        list(layers._modules), list(zip(layers, list(layers)[1:], strict=False)), strict=False
    ):
        if isinstance(first, nn.Conv2d | nn.Conv1d) and isinstance(second, nn.BatchNorm2d | nn.BatchNorm1d):
            following = list(layers._modules)[list(layers._modules).index(name) + 1]
            layers._modules[name] = fuse_conv_bn_eval(first, second)
            layers._modules[following] = nn.Identity()
