"""A torch network from a function, with its weights from safetensors: `{factory: "package.module:make", weights: …}`.

The function is called with `options` and returns an nn.Module; the weights are those of its state_dict. It is code
like any other, and asks for trust. The weights run none.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from soundcert.errors import ConfigError, ModelError
from soundcert.models.loaders.base import (
    Loaded,
    Loader,
    Request,
    file_digest,
    first_line,
    refuse_pickle,
    register_loader,
)
from soundcert.models.loaders.python import found_by_name, source_of


def load_factory(request: Request) -> Loaded:
    """Make the network and load its weights, every one of them; in evaluation mode."""
    if request.weights is None:
        raise ConfigError(
            f"model: {request.source} makes a network: name its `weights`, a safetensors file (of its state_dict(), "
            "with safetensors.torch.save_file)"
        )
    make = found_by_name(request, "factory")
    if not callable(make) or isinstance(make, nn.Module):
        raise ConfigError(
            f"model: {request.source} must be a function that returns an nn.Module, got {type(make).__name__}"
        )
    options = dict(request.options)
    said = f"{request.source}({', '.join(f'{k}={v!r}' for k, v in options.items())})"
    try:
        network = make(**options)
    except Exception as error:  # someone else's code fails with whatever it likes
        raise ModelError(f"{said} fails: {first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{said} must return an nn.Module, got {type(network).__name__}")
    path = request.weights
    _load_into(network, path, said)
    network.eval()
    source = source_of(make)
    size = sum(p.numel() for p in network.parameters())
    return Loaded(
        network,
        request.source,
        f"weights {path.name}",
        digest=f"factory:{file_digest(*([source] if source else []), path)}",
        gradients=True,
        facts={
            "network": f"{type(network).__name__}, {size} parameters",
            "digest is of": "the weights and the factory's own source file"
            if source
            else "the weights alone; the factory's source is not known",
        },
    )


def _load_into(network: nn.Module, path: Path, said: str) -> None:
    if not path.is_file():
        raise ModelError(f"no weights at {path}: correct the path of `weights`")
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        refuse_pickle(path, "a safetensors file")  # not before: the length of its header may look like one
        raise ModelError(f"{path.name} is not a safetensors file: {first_line(error)}") from error
    own: dict[str, Tensor] = network.state_dict()
    wrong = {key: state[key].shape for key in own if key in state and state[key].shape != own[key].shape}
    missing, strange = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    for what, names in (("lacks", missing), ("holds what the network has not:", strange)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"{path.name} {what} {names[0]}{more}: it holds the weights of another network than {said}"
            )
    for key, shape in wrong.items():
        raise ModelError(
            f"{path.name} has {key} of shape {tuple(shape)}, and {said} wants {tuple(own[key].shape)}: correct `options`"
        )
    network.load_state_dict(state)


LOADER = register_loader(
    Loader(
        "factory",
        load_factory,
        "a function that makes a torch network, package.module:function, with `weights` in safetensors",
        names_file=False,
    )
)
