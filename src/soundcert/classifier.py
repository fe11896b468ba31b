"""The base classifier made ready to run: the stages below the noise, optimised, and checked row by row."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from soundcert.engines import Engine, EngineName, Precision, choose, choose_micro_batch, prepare
from soundcert.errors import ConfigError, ModelError
from soundcert.pipeline import Route
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.spaces import Space
from soundcert.stages import Model, NoiseStage, Stage

NO_MODEL = "the pipeline has no model below the noise: add `model` as the last stage"

#: The shape of the rows that a network is fed, and for an ensemble the space that its members' features stand on.
Fed = tuple[tuple[int, ...], Space | None]

# On a CPU a micro-batch stays small whatever the user asks to certify: activations of large batches outgrow
# the caches, and at 400 rows a pass costs several times as much (benchmarks/).
MICRO_BATCH = 24
GPU_BATCH = 1024
# A micro-batch of long recordings is smaller, so that its noisy copies take no more memory than this: 32 MiB on a
# CPU, 1 GiB on a GPU. At least one copy of the recording has to fit.
MOST_VALUES: Mapping[str, int] = {"cpu": 2**23, "cuda": 2**28}
# Rows run alone and in company differ by float32 rounding, around 1e-6 of the logits' spread; a network
# that looks at its neighbours differs by far more. bfloat16 rounds a thousand times as coarsely, and otherwise
# at another batch size.
ROW_TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-3, "bf16": 0.2}


class BaseClassifier:
    """The stages below the noise, made ready to run: optimised where that is verified, checked once.

    Calling it maps `(batch, *shape)` to logits `(batch, classes)`. prepared: engines of the same network by what
    they are `fed`, to be used again.
    """

    def __init__(
        self,
        route: Route,
        micro_batch: int | None = None,
        engine: EngineName = "torch",
        precision: Precision = "fp32",
        device: str = "cpu",
        prepared: Mapping[Fed, Engine] | None = None,
    ) -> None:
        self.noise: NoiseStage = route.noise
        self.shape = route.object.shape
        # What the stages between see: a window's shape, or the object's.
        at = route.noise_index + 1
        self._seen = route.spaces[at + len(route.cut[0]) + 1 if route.cut[1] else at].shape
        self.device = usable_device(device)
        self.micro_batch = _within_memory(micro_batch or default_batch(device), device, route.object.size)
        model = route.base[-1] if route.base else None
        if not isinstance(model, Model):
            raise ConfigError(NO_MODEL)
        whole, self.windows, each = route.cut
        # Stages of the whole object, and between a window (or the whole object, without windows) and the model.
        self._whole: tuple[Stage, ...] = whole if self.windows else ()
        self._between: tuple[Stage, ...] = (each if self.windows else whole)[:-1]
        #: Rows that the network sees at a time: windows where there are any, whose number is the recording's.
        self.rows = (
            _within_memory(micro_batch or default_batch(device), device, math.prod(self._seen))
            if self.windows
            else self.micro_batch
        )
        self.runtime = model.runtime
        self._foreign = model.loaded is not None
        if self.runtime is not None and (engine, precision) != ("torch", "fp32"):
            raise ConfigError(
                f"engine {engine!r} with {precision} cannot take over a model that {self.runtime} computes: leave "
                "`engine` and `precision` out"
            )
        network = _moved(model.network_part(), self.device, engine)
        self._whole, self._between = (
            tuple(_placed(s, self.device, engine) for s in part) for part in (self._whole, self._between)
        )
        for stage in route.stages:  # a model above the noise has to be a fixed map too
            if isinstance(stage, Model):
                refuse_training_mode(stage.network_part())
        self.classes = route.spaces[-1].shape[0]
        self.labels = model.labels or tuple(str(i) for i in range(self.classes))
        example = self.example()
        #: What an engine depends on: a network for the same rows is not prepared twice. Members of an ensemble bring
        #: features of their own, which may depend on all that is known of what they stand on, such as the rate.
        self.fed: Fed = (tuple(example.shape), route.spaces[-2] if model.members else None)
        known = (prepared or {}).get(self.fed)
        self.engine: Engine = known or prepare(network, example, engine, precision)
        # Workers have streams of their own, which would not wait for the weights.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def example(self) -> Tensor:
        """Return rows as the network sees them, `(rows, *shape)`: of fixed noise, so that nothing hangs on chance."""
        x = torch.randn(self.rows, *self._seen, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            return self._below(x.to(self.device))

    def _below(self, x: Tensor) -> Tensor:
        for stage in self._between:
            x = stage(x)
        return x

    def __call__(self, x: Tensor) -> Tensor:
        return self._answers(x, self.rows)

    def _answers(self, x: Tensor, most: int) -> Tensor:
        """Return the logits of rows. most: windows that the network is given at a time, where there are any."""
        if self.windows is None:
            return self.engine(self._below(x))
        for stage in self._whole:
            x = stage(x)
        return self.windows.run(x, lambda y: self.engine(self._below(y)), most)

    @property
    def computed_by(self) -> str:
        """What computes the model, as the contract names it."""
        return computed_by(self.engine.engine, self.engine.precision, self.device.type, self.runtime)

    @property
    def optimised(self) -> bool:
        module = self.engine.module
        return module is not None and any(isinstance(m, nn.Identity) for m in module.modules())

    def check_rows(self, v: Tensor, key: NoiseKey) -> None:
        """Refuse a classifier whose answer for a row depends on the rest of the batch, or on chance.

        v: an object as noise is added to it (`NoiseStage.held`). Each probe row is run alone, at another batch
        size, in a full batch of quite different companions and twice; a permutation alone would leave batch
        statistics unchanged and find nothing.
        """
        # Of windows there are batches enough in a few rows.
        size = max(2, min(self.micro_batch, 4) if self.windows else self.micro_batch)
        rows = torch.empty(size, *self.shape, device=self.device)
        rows = noise_stream(key, self.noise).noisy_(rows, v.to(self.device))
        middle = size // 2
        with torch.inference_mode():
            reference = self(rows.clone())
            if bool(reference.isnan().any(dim=1).all()):
                raise ModelError(
                    f"the model returns NaN for every one of {size} noisy copies of the first clip, and NaN votes for no "
                    "class: nothing could be certified. Check the units and the range of what it is fed"
                )
            # The spread of a usual class over the rows: a masked class (-inf, -1e9) must not widen it.
            finite = torch.isfinite(reference)
            high = torch.where(finite, reference, -torch.inf).amax(dim=0)
            low = torch.where(finite, reference, torch.inf).amin(dim=0)
            spreads = (high - low)[high > low]
            tolerance = ROW_TOLERANCE[self.engine.precision] * max(
                float(spreads.median()) if len(spreads) else 0.0, 1e-6
            )

            def compare(
                batch: Tensor, kept: slice, expected: Tensor, how: str, most: int = self.rows
            ) -> None:
                try:
                    got = self._answers(batch.clone(), most)[kept]
                except (RuntimeError, ValueError) as error:
                    reason = str(error).strip().split("\n")[0]
                    raise ModelError(
                        f"the model fails {how}, so it is not a function of each row: {reason}"
                    ) from error
                same = torch.isclose(got, expected, rtol=1e-5, atol=tolerance, equal_nan=True)
                if not bool(same.all()):
                    worst = float((got - expected).abs().nan_to_num(float("inf")).max())
                    raise ModelError(
                        f"the model's answer for a row changes {how} (logits differ by {worst:.3g}): a certificate "
                        "needs a fixed function of each row. Look for batch statistics, normalisation over the "
                        "batch, dropout or other randomness"
                    )

            everything, first, one = slice(None), slice(0, 1), slice(middle, middle + 1)
            compare(rows, everything, reference, "when the same batch is run twice")
            compare(rows[first], everything, reference[first], "when it is run alone")
            compare(rows[one], everything, reference[one], "when it is run alone")
            part = slice(0, middle + 1)
            compare(rows[part], everything, reference[part], "with the size of the batch")
            loud = rows.flip(0).roll(1, 0).mul_(5.0).add_(rows.abs().amax())
            loud[middle] = rows[middle]
            compare(loud, one, reference[one], "with its companions in the batch")
            if self.windows:
                # Batches of windows may end where recordings do, so that companions never mix: not in this number.
                whole = rows[:1]
                for stage in self._whole:
                    whole = stage(whole)
                each = self.windows.count(whole.shape[-1])
                other = next(n for n in count(max(2, self.rows // 2 + 1)) if n != self.rows and each % n)
                compare(rows, everything, reference, "with the windows that are run beside its own", other)
                compare(loud, one, reference[one], "with the windows that are run beside its own", other)
            del loud
            quiet = rows * 0.01
            quiet[0] = rows[0]
            compare(quiet, first, reference[first], "with its companions in the batch")


def computed_by(engine: EngineName, precision: Precision, device: str, runtime: str | None = None) -> str:
    """Return what computes a model, as a contract names it. runtime: of a model that no engine takes over."""
    if runtime is not None:
        return runtime
    where = "" if device == "cpu" else f" on {device.split(':', maxsplit=1)[0]}"
    return f"{engine} {precision}{where}"


def usable_device(name: str) -> torch.device:
    """Return a torch device; ConfigError where it is not there."""
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"device {name!r} asked for, but torch sees no CUDA device here: use device: cpu"
            )
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise ConfigError(
                f"device {name!r} asked for, but torch sees {torch.cuda.device_count()} CUDA devices here, counted from 0"
            )
        _multiply_in_full()
    return device


def _multiply_in_full() -> None:
    """Have torch multiply float32 with all its bits on a GPU: by default its convolutions take 10, which is no fp32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # Where somebody has set the newer switches, the older ones do not reach them.
    backends: Any = torch.backends
    cudnn = backends.cudnn
    parts: tuple[Any, ...] = (getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None), backends.cuda.matmul)
    for part in parts:
        if hasattr(part, "fp32_precision"):
            part.fp32_precision = "ieee"


def _within_memory(rows: int, device: str, size: int) -> int:
    """Return fewer rows where so many copies of `size` values are too much; more than the default is a choice."""
    if rows > default_batch(device):
        return rows
    return max(1, min(rows, MOST_VALUES[device.split(":", maxsplit=1)[0]] // size))


def _placed(stage: Stage, device: torch.device, engine: EngineName) -> Stage:
    """Return a stage between noise and network made ready for the device: another part of a model has weights too."""
    if device.type == "cpu" or not isinstance(stage, Model):
        return stage
    return replace(stage, module=_moved(stage.network_part(), device, engine), start=None, stop=None)


def default_batch(device: str) -> int:
    """Return the rows of a micro-batch where none are given."""
    return MICRO_BATCH if device == "cpu" else GPU_BATCH


def _moved(
    network: Callable[[Tensor], Tensor], device: torch.device, engine: EngineName
) -> Callable[[Tensor], Tensor]:
    """Return a copy of the network on the device; itself on the CPU."""
    if device.type == "cpu":
        return network
    if engine != "torch":
        raise ConfigError(f"engine {engine!r} runs on the CPU only: use engine torch with device {device}")
    if not isinstance(network, nn.Module):
        raise ConfigError(f"device {device} needs an nn.Module as the model, got a {type(network).__name__}")
    return copy.deepcopy(network).to(device)


@dataclass(frozen=True)
class Fastest:
    """What runs the model. rates: rows per CPU-second by "engine precision", where it was measured."""

    engine: EngineName
    precision: Precision
    micro_batch: int
    rates: Mapping[str, float]
    device: str = "cpu"


def fastest(route: Route, micro_batch: int | None = None) -> Fastest:
    """Return the fastest installed fp32 engine for a pipeline's network, and micro-batch where none is given."""
    plain = BaseClassifier(route, micro_batch)
    module = plain.engine.module
    example = plain.example()
    model = route.base[-1]
    assert isinstance(model, Model)
    if module is None:
        return Fastest("torch", "fp32", micro_batch or MICRO_BATCH, {})
    engine, precision, rates = choose(model.network_part(), example)
    if micro_batch is None:
        base = BaseClassifier(route, None, engine, precision)
        micro_batch = choose_micro_batch(base, route.object.shape)
    return Fastest(engine, precision, micro_batch, {f"{e} {p}": round(r, 1) for (e, p), r in rates.items()})


def refuse_training_mode(net: object) -> None:
    """Raise ModelError where a module, or a part of it, is in training mode."""
    if isinstance(net, nn.Module):
        for name, part in net.named_modules():
            # Only layers that behave differently while training matter; containers merely carry the flag.
            if part.training and (not list(part.children()) or name == ""):
                where = f"its layer {name!r} ({type(part).__name__})" if name else "it"
                raise ModelError(
                    f"the model is in training mode ({where}): call model.eval() before certifying"
                )


def votes(logits: Tensor) -> Tensor:
    """Return each row's class `(batch,)`, −1 where a logit is NaN: such a row votes for no class."""
    winner = logits.argmax(dim=1)
    return torch.where(torch.isnan(logits).any(dim=1), -1, winner)
