"""The model stage: the network at the end of a pipeline, or a part of one with noise in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from soundcert.errors import ConfigError, ModelError, SoundcertError
from soundcert.models import build_network, bundled, check_network, load_weights
from soundcert.models.ensemble import Ensemble
from soundcert.models.loaders import (
    BUILT_IN,
    Adapter,
    Loaded,
    Outputs,
    Request,
    load,
    parse_layout,
    path_of,
    probe_rows,
)
from soundcert.models.weights import state_digest
from soundcert.spaces import Space
from soundcert.stages.base import Stage, register

BUNDLED = "bundled:"
FOREIGN_ONLY = ("trust", "outputs", "classes", "threshold", "layout", "rate", "batch")


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

    Or one of python (`package.module:function`), factory (such a function that makes a torch network of `options`,
    with `weights` in safetensors), onnx, torchscript, exported, tflite (files), hf (a folder, or a name of the hub),
    or loader ({kind: source}, for a kind that a package adds): a model that soundcert did not make. trust: its code
    may be run. outputs: what it returns; classes: how many there are, for class numbers without labels;
    threshold: above which a single probability (or score) means the second label. layout: how it wants a row, as
    `batch, frames, bands`. rate: in hertz, what it was trained on. batch: rows a pass, where it takes no other.
    options: the loader's own. folder: where the config lies, for `python`.

    Or an ensemble: several lists of stages, each of features (or of none) and a model, whose mean log-probability is
    the answer. consensus: members, from the first, that are enough where they agree (see `Ensemble`). members: those
    stages, built.
    """

    weights: str | None = None
    network: str | None = None
    options: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    start: int | None = None
    stop: int | None = None
    python: str | None = None
    onnx: str | None = None
    torchscript: str | None = None
    exported: str | None = None
    tflite: str | None = None
    hf: str | None = None
    factory: str | None = None
    loader: Mapping[str, str] | None = None
    ensemble: tuple[tuple[Any, ...], ...] | None = None
    consensus: int | None = None
    trust: bool = False
    outputs: Outputs = "logits"
    classes: int | None = None
    threshold: float | None = None
    layout: str | None = None
    rate: int | None = None
    batch: int | None = None
    module: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)
    digest: str | None = field(default=None, repr=False, compare=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    folder: Path | None = field(default=None, repr=False, compare=False)
    loaded: Loaded | None = field(default=None, repr=False, compare=False)
    members: Any = field(default=(), repr=False, compare=False)

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
        if self.ensemble is not None or self.members:
            self._join(put)
        elif self.consensus is not None:
            raise ConfigError(
                "model: consensus goes with an ensemble: it says how many members that agree are enough"
            )
        elif self.source is not None:
            if self.module is None:
                self._load_foreign(put)
        elif self.module is None and self.weights is not None:
            path = (
                bundled(self.weights[len(BUNDLED) :])
                if self.weights.startswith(BUNDLED)
                else path_of(self.weights)
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
                "model: give weights (a safetensors file), a network to train, a module from Python, an ensemble, or one "
                f"of {', '.join(BUILT_IN)}"
            )
        if self.loaded is None:
            for name in FOREIGN_ONLY:
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ConfigError(
                        f"model: {name} goes with one of {', '.join(BUILT_IN)}, not with weights or network"
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
    def source(self) -> tuple[str, str] | None:
        """Kind and source of a model that soundcert did not make; None for its own."""
        given = [(kind, value) for kind in BUILT_IN if (value := getattr(self, kind)) is not None]
        given += list((self.loader or {}).items())
        # A factory's network has weights of its own.
        own = [name for name in ("weights", "network") if getattr(self, name) is not None and not (
            name == "weights" and self.factory is not None)]  # fmt: skip
        if len(given) > 1 or (given and own):
            raise ConfigError(
                f"model: choose one of {' and '.join([kind for kind, _ in given] + own)}: each is a whole model"
            )
        return given[0] if given else None

    def _load_foreign(self, put: Callable[[str, object], None]) -> None:
        assert self.source is not None
        kind, source = self.source
        if self.classes is not None and self.labels is not None and self.classes != len(self.labels):
            raise ConfigError(f"model: classes is {self.classes} but there are {len(self.labels)} labels")
        for name, low in (("classes", 2), ("batch", 1), ("rate", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"model: {name} must be from {low}, got {value}")
        if self.threshold is not None and self.outputs == "probabilities" and not 0 < self.threshold < 1:
            raise ConfigError(f"model: threshold must be between 0 and 1, got {self.threshold:g}")
        weights = path_of(self.weights) if kind == "factory" and self.weights is not None else None
        loaded = load(Request(kind, source, self.folder, self.trust, dict(self.options or {}), weights))
        put("loaded", loaded)
        put("labels", self.labels or loaded.labels)
        put("digest", loaded.digest)
        put("rate", self.rate or loaded.rate)
        if self.outputs == "logits" and loaded.outputs is not None:
            put("outputs", loaded.outputs)
        if self.outputs == "labels" and self.classes is None and not self.labels:
            raise ConfigError(
                f"model: {loaded.name} returns class numbers: name its `labels`, or how many `classes`"
            )
        if self.batch is not None and loaded.batch not in (None, self.batch):
            raise ConfigError(
                f"model: {loaded.name} takes {loaded.batch} rows a pass, not batch={self.batch}"
            )
        adapter = self.adapter()
        put("module", loaded.module or adapter)
        if loaded.module is not None:
            for name in ("layout", "batch"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"model: {kind} needs no {name}")

    def _join(self, put: Callable[[str, object], None]) -> None:
        """Make one module of the members."""
        if self.weights is not None or self.network is not None or self.source is not None:
            raise ConfigError("model: an ensemble has its weights in its members")
        if len(self.members) < 2:
            raise ConfigError(
                "model: an ensemble needs two members or more, each a list of stages that ends with a model"
            )
        most = len(self.members) - 1
        if self.consensus is not None and not 2 <= self.consensus <= most:
            raise ConfigError(
                f"model: consensus must be from 2 to {most} with {most + 1} members (of fewer than two nobody agrees, and "
                f"without it all are asked), got {self.consensus}"
            )
        for number, (*features, model) in enumerate(self.members, start=1):
            where = f"model: member {number} of the ensemble"
            if not isinstance(model, Model) or model.start is not None or model.stop is not None:
                raise ConfigError(f"{where} must end with a whole model")
            if not isinstance(model.module, nn.Module) or model.runtime is not None:
                raise ConfigError(f"{where} must be a torch network, got {model.describe()}")
            for stage in features:
                if stage.family != "feature":
                    raise ConfigError(
                        f"{where} has {stage.name}, which changes what is certified: put it above the ensemble, where the "
                        "contract names it"
                    )
            if model.labels != self.members[0][-1].labels:
                raise ConfigError(f"{where} has other labels than the first, or in another order")
        parts = [(features, model.module) for *features, model in self.members]
        put("module", Ensemble(parts, self.consensus))
        put("labels", self.labels or self.members[0][-1].labels)
        digest = blake2b(digest_size=16)
        for *features, model in self.members:
            # Every field: a description leaves out defaults, and the values of a long list.
            digest.update(f"{features!r}|{model.digest}\n".encode())
        if self.consensus is not None:
            digest.update(f"consensus of {self.consensus}".encode())
        put("digest", f"ensemble:{digest.hexdigest()}")

    def bind(self, before: Space) -> Self:
        """Members' features are made ready for `before`, too."""
        bound = []
        for number, member in enumerate(self.members, start=1):
            space, ready = before, []
            for stage in member:
                try:
                    ready.append(stage.bind(space))
                    space = ready[-1].space(space)
                except SoundcertError as error:
                    raise type(error)(f"member {number} of the ensemble: {error}") from None
            bound.append(tuple(ready))
        same = all(
            a is b
            for ready, member in zip(bound, self.members, strict=True)
            for a, b in zip(ready, member, strict=True)
        )
        return self if same else replace(self, members=tuple(bound), module=None)

    def adapter(self) -> Adapter | None:
        """Return what stands between the pipeline and a foreign model; None for soundcert's own."""
        if self.loaded is None:
            return None
        return Adapter(
            self.loaded,
            None if self.layout is None else parse_layout(self.layout),
            self.outputs,
            self.classes or (len(self.labels) if self.labels else None),
            self.threshold,
            self.batch,
        )

    @property
    def runtime(self) -> str | None:
        """What computes a model that no engine can take over, as the contract names it."""
        return self.loaded.runtime if self.loaded else None

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
        adapter = self.adapter()
        if adapter is not None:
            adapter.check(before, self.rate)
        with torch.inference_mode(), _evaluating(self.module):
            probe = torch.zeros(2, *before.shape) if adapter is None else probe_rows(before.shape)
            try:
                out = self(probe)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                first = str(error).strip().split("\n")[0]
                hint = "; if it takes features, put their stage, such as log_mel, above it"
                raise ModelError(
                    f"the model does not accept {before.name} of shape {tuple(before.shape)}: {first}"
                    f"{hint if before.kind == 'waveform' else ''}"
                ) from error
        if not isinstance(out, Tensor) or out.dim() < 2 or len(out) != len(probe):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ModelError(
                f"the model must map (batch, ...) to (batch, classes); for a batch of {len(probe)} it gave {got}"
            )
        if not out.is_floating_point():
            raise ModelError(
                f"the model returns {out.dtype}, not floating-point scores: return logits as float32"
            )
        if self.partial:
            return Space("latent", "latent", tuple(out.shape[1:]), None, "activation")
        if out.dim() != 2:
            raise ModelError(f"the model must return logits (batch, classes), got shape {tuple(out.shape)}")
        if self.labels is not None and out.shape[1] != len(self.labels):
            raise ModelError(f"the model returns {out.shape[1]} classes but names {len(self.labels)} labels")
        if adapter is not None:
            if self.classes is not None and out.shape[1] != self.classes:
                raise ModelError(
                    f"the model returns {out.shape[1]} classes but `classes` says {self.classes}"
                )
            adapter.examine(probe)
        return Space("logits", "logits", tuple(out.shape[1:]), None, "logit")

    def describe(self) -> str:
        return f"model({self.described})"

    @property
    def described(self) -> str:
        """What stands between the brackets of `describe`."""
        part = (
            ""
            if self.start is None and self.stop is None
            else f", layers {self.start or 0}…{self.stop or 'end'}"
        )
        what = self.network or type(self.module).__name__
        if self.members:
            what = "ensemble of " + " and ".join(
                f"{model.described}{''.join(f' on {stage.describe()}' for stage in reversed(features))}"
                for *features, model in self.members
            )
            if self.consensus is not None:
                what += f", where the first {self.consensus} agree those alone"
        if self.loaded is not None and self.source is not None:
            what = f"{self.source[0]} {self.loaded.name}" + (
                f", {self.loaded.note}" if self.loaded.note else ""
            )
            if self.outputs != "logits":
                what += f", {self.outputs}" + ("" if self.threshold is None else f" above {self.threshold:g}")
        return what + part

    def words(self) -> str:
        return "the model" if not self.partial else "the first part of the model"
