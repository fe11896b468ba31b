"""The model stage: the network at the end of a pipeline, or a part of one with noise in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundcert.errors import ConfigError, ModelError
from soundcert.models import build_network, bundled, check_network, load_weights
from soundcert.models.weights import state_digest
from soundcert.spaces import Space
from soundcert.stages.base import Stage, register

BUNDLED = "bundled:"


@contextmanager
def _evaluating(module: object) -> Iterator[None]:
    """Put a module into evaluation mode for a probe, and every layer back into its own after it."""
    modes = [(part, part.training) for part in module.modules()] if isinstance(module, nn.Module) else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, was in modes:
            part.training = was


@register("model")
@dataclass(frozen=True)
class Model(Stage):
    """A classifier: `(batch, *shape)` to logits `(batch, classes)`.

    weights: a safetensors file (or `bundled:NAME`), whose header names network and labels.
    network, options: a reference network, for training or for weights without a header.
    start, stop: run only layers start … stop−1 of an nn.Sequential, so that noise can stand between
    two parts of one model. module: a torch module or callable given from Python.
    """

    weights: str | None = None
    network: str | None = None
    options: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    start: int | None = None
    stop: int | None = None
    module: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)
    digest: str | None = field(default=None, repr=False, compare=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    family = "model"

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        if self.network is not None:
            check_network(self.network, self.options)
        if self.labels is not None:
            put("labels", tuple(str(label) for label in self.labels))
            if len(set(self.labels)) != len(self.labels):
                raise ConfigError(f"model: labels must differ from each other, got {list(self.labels)}")
        if self.module is None and self.weights is not None:
            path = (
                bundled(self.weights[len(BUNDLED) :])
                if self.weights.startswith(BUNDLED)
                else Path(self.weights)
            )
            loaded = load_weights(path, network=self.network, options=self.options, labels=self.labels)
            put("module", loaded.module)
            put("labels", loaded.labels)
            put("network", loaded.network)
            put("options", loaded.options)
            put("digest", loaded.digest)
            put("meta", loaded.meta)
        elif self.module is None and self.network is None:
            raise ConfigError(
                "model: give weights (a safetensors file), a network to train, or a module from Python"
            )
        if isinstance(self.module, nn.Module) and self.digest is None:
            put("digest", state_digest(self.module))
        if (self.start is not None or self.stop is not None) and self.module is not None:
            if not isinstance(self.module, nn.Sequential):
                raise ConfigError("model: start and stop need an nn.Sequential, whose layers they count")
            size = len(self.module)
            if not 0 <= (self.start or 0) < (size if self.stop is None else self.stop) <= size:
                raise ConfigError(f"model: start={self.start} and stop={self.stop} do not fit {size} layers")

    @property
    def partial(self) -> bool:
        """Whether this stage ends before the network's last layer."""
        return self.stop is not None and not (
            isinstance(self.module, nn.Sequential) and self.stop == len(self.module)
        )

    def network_part(self) -> Callable[[Tensor], Tensor]:
        """Return the callable that this stage runs (a slice of the module, or all of it)."""
        if self.module is None:
            raise ModelError(
                f"the model {self.network!r} has no weights yet: run `soundcert train`, or give `weights`"
            )
        if isinstance(self.module, nn.Sequential) and (self.start is not None or self.stop is not None):
            part = self.module[self.start : self.stop]
            part.training = self.module.training  # a slice is a new container, which starts in training mode
            return part
        return self.module

    def built(self, classes: int) -> nn.Sequential:
        """Return a freshly initialised network for training."""
        if self.network is None:
            raise ConfigError("model: training needs `network`, one of the reference networks")
        return build_network(self.network, classes, self.options)

    def __call__(self, x: Tensor) -> Tensor:
        return self.network_part()(x)

    def space(self, before: Space) -> Space:
        if self.module is None:
            return Space("logits", "logits", (len(self.labels or ()),), None, "logit")
        with torch.inference_mode(), _evaluating(self.module):
            probe = torch.zeros(2, *before.shape)
            try:
                out = self(probe)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                first = str(error).strip().split("\n")[0]
                raise ModelError(
                    f"the model does not accept {before.name} of shape {tuple(before.shape)}: {first}"
                ) from error
        if not isinstance(out, Tensor) or out.dim() < 2 or len(out) != 2:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ModelError(
                f"the model must map (batch, ...) to (batch, classes); for a batch of 2 it gave {got}"
            )
        if self.partial:
            return Space("latent", "latent", tuple(out.shape[1:]), None, "activation")
        if out.dim() != 2:
            raise ModelError(f"the model must return logits (batch, classes), got shape {tuple(out.shape)}")
        if self.labels is not None and out.shape[1] != len(self.labels):
            raise ModelError(f"the model returns {out.shape[1]} classes but names {len(self.labels)} labels")
        return Space("logits", "logits", tuple(out.shape[1:]), None, "logit")

    def describe(self) -> str:
        part = (
            ""
            if self.start is None and self.stop is None
            else f", layers {self.start or 0}…{self.stop or 'end'}"
        )
        what = self.network or type(self.module).__name__
        return f"model({what}{part})"

    def words(self) -> str:
        return "the model" if not self.partial else "the first part of the model"
