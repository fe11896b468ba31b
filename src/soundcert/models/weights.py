"""Weight files: safetensors with the network, its labels and its recipe in the header.

Nothing here runs code from a file. A plain state dict saved by torch is read with weights_only=True;
anything that needs unpickling is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from soundcert.errors import ConfigError, ModelError
from soundcert.models.networks import build_network

HEADER = "soundcert"
FORMAT = 1


@dataclass(frozen=True)
class LoadedModel:
    """A network in evaluation mode with its labels, and what its file says of it."""

    module: nn.Sequential
    labels: tuple[str, ...]
    network: str
    options: Mapping[str, Any]
    meta: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


def state_digest(module: nn.Module) -> str:
    """blake2b-128 over names, types, shapes and bytes of all parameters and buffers."""
    digest = blake2b(digest_size=16)
    for key, value in sorted(module.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{key}|{array.dtype}|{tuple(array.shape)}|".encode())
        digest.update(array.view(torch.uint8).numpy().tobytes() if array.dim() else array.numpy().tobytes())
    return digest.hexdigest()


def save_weights(
    path: Path,
    module: nn.Module,
    *,
    network: str,
    labels: Sequence[str],
    options: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a network's state with its labels and recipe; the file appears whole or not at all.

    half: keep tensors of two and more dimensions in float16; they are read back into float32.
    """
    from safetensors.torch import save_file

    header = {
        "format": FORMAT,
        "network": network,
        "options": dict(options or {}),
        "labels": list(labels),
        "meta": dict(meta or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".part")
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    if half:  # vectors stay: they are small, and running variances can leave float16's range
        state = {key: value.half() if value.dim() > 1 else value for key, value in state.items()}
    save_file(state, partial, metadata={HEADER: json.dumps(header, sort_keys=True)})
    partial.replace(path)


class _Header(BaseModel):
    """What a weight file of ours says of itself."""

    model_config = ConfigDict(strict=True, frozen=True)

    network: str
    options: dict[str, int | float] = {}
    labels: list[str]
    meta: dict[str, Any] = {}


def _header(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        values = json.loads(text)
        if isinstance(values, dict) and values.get("format") != FORMAT:
            raise ModelError(f"{path} has format {values.get('format')!r}; this version reads {FORMAT}")
        return _Header.model_validate(values).model_dump()
    except (ValueError, RecursionError):
        raise ModelError(
            f"{path} has a header that soundcert did not write: save it again with save_weights"
        ) from None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"no weights at {path}: train them with `soundcert train`, or correct the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, (file.metadata() or {}).get(HEADER))
            return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118
    except SafetensorError:
        pass
    try:
        # From the open file: by its name torch would hand *.safetensors to another reader.
        with path.open("rb") as handle:
            state = torch.load(handle, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise ModelError(
            f"{path} is not a safetensors file nor a plain tensor dictionary (damaged, or pickled); pickled objects "
            "run code when read and are refused: save the state dict with safetensors.torch.save_file"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} does not hold a dictionary of tensors; save the model's state_dict()")
    return state, {}


def load_weights(
    path: Path,
    *,
    network: str | None = None,
    options: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
) -> LoadedModel:
    """Read a weight file and build its network in evaluation mode.

    `network`, `options` and `labels` are needed where the file's header does not name them; where both
    do, they must agree.
    """
    state, header = _read(path)
    for what, given in (("network", network), ("labels", list(labels) if labels else None)):
        if given is not None and what in header and header[what] != given:
            raise ConfigError(f"{path} was made with {what} {header[what]!r}, but the config says {given!r}")
    network = network or header.get("network")
    labels = labels or header.get("labels")
    if network is None or not labels:
        raise ConfigError(
            f"{path} does not name its network and labels: give `network` and `labels` to the model stage"
        )
    options = dict(options or header.get("options") or {})
    bad = next((name for name, tensor in state.items() if not bool(tensor.isfinite().all())), None)
    if bad is not None:
        raise ModelError(
            f"{path}: {bad!r} has values that are not finite: the training diverged, do it again"
        )
    module = build_network(network, len(labels), options)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split("\n\t")[-1].split())
        raise ModelError(
            f"the weights in {path} do not fit network {network!r} with options {options} and {len(labels)} labels: {detail}"
        ) from error
    module.eval()
    return LoadedModel(module, tuple(labels), network, options, header.get("meta", {}), state_digest(module))


def bundled(name: str) -> Path:
    """Return the path of a bundled weight file, such as `kws-waveform`."""
    folder = files("soundcert.models") / "zoo"
    path = Path(str(folder / f"{name}.safetensors"))
    if not path.is_file():
        inside = folder.iterdir() if folder.is_dir() else ()
        known = sorted(Path(str(p)).stem for p in inside if str(p).endswith(".safetensors"))
        raise ConfigError(f"no bundled model {name!r} (known: {', '.join(known) or 'none'})")
    return path


def take_weights(module: nn.Module, path: Path) -> list[str]:
    """Copy from a weight file into a network what has the same name and shape; return the names.

    ModelError where the file has nothing for it.
    """
    state, _ = _read(path)
    own = module.state_dict()
    learnt = {name for name, _ in module.named_parameters()}
    taken = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if learnt.isdisjoint(taken):  # counters of normalisation fit every network
        raise ModelError(
            f"{path} has no layer of the same name and shape as the network that is to begin with it"
        )
    if bad := [
        key for key, value in taken.items() if value.is_floating_point() and not value.isfinite().all()
    ]:
        raise ModelError(f"{path} has values that are not finite, in {bad[0]}")
    module.load_state_dict(taken, strict=False)
    return sorted(taken)
