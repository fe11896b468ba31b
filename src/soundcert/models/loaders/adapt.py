"""Between the pipeline and a foreign model: the layout of its rows, its batches, and what its numbers are.

Shapes: the pipeline gives `(batch, samples)`, `(batch, channels, samples)` or `(batch, bands, frames)`; the
model takes what its file declares, or what `layout` names; the pipeline gets logits `(batch, classes)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from soundcert.errors import ConfigError, ModelError, SoundcertError, did_you_mean
from soundcert.models.loaders.base import Loaded, first_line
from soundcert.spaces import Space

Outputs = Literal["logits", "probabilities", "scores", "labels"]
AXES = ("samples", "channels", "bands", "frames")
# A probability below this counts as this, so that its logarithm is finite.
SMALLEST = 1e-30
# Softmax in 8 bits does not sum to 1 exactly.
SUM_TOLERANCE = 0.05


def parse_layout(layout: str) -> tuple[str, ...]:
    """Return the axes of a row.

    >>> parse_layout("batch, 1, bands, frames")
    ('1', 'bands', 'frames')
    """
    axes = tuple(part.strip() for part in layout.strip("() ").split(","))
    if axes[0] != "batch":
        raise ConfigError(f"model: layout must begin with batch, got {layout!r} (as `batch, frames, bands`)")
    for axis in axes[1:]:
        if axis != "1" and axis not in AXES:
            raise ConfigError(
                f"model: layout {layout!r} has an unknown axis {axis!r}{did_you_mean(axis, AXES)}"
            )
    named = [axis for axis in axes[1:] if axis != "1"]
    if not named or len(set(named)) != len(named):
        raise ConfigError(f"model: layout {layout!r} must name each axis of a row once")
    return axes[1:]


@dataclass(frozen=True)
class Adapter:
    """A foreign model as the pipeline runs it: float32 rows to logits `(batch, classes)`.

    layout: how the model wants a row; None takes the file's word (or the pipeline's shape as it is).
    outputs: what the model returns. classes: how many, for models that return class numbers. threshold: of a
    single probability, above which the second class wins. batch: rows a pass, where fixed.
    """

    loaded: Loaded
    layout: tuple[str, ...] | None = None
    outputs: Outputs = "logits"
    classes: int | None = None
    threshold: float | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.outputs not in get_args(Outputs):
            raise ConfigError(
                f"model: unknown outputs {self.outputs!r}{did_you_mean(self.outputs, get_args(Outputs))}"
            )

    # Layout

    def row(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a row as the model gets it; ModelError where it cannot be laid out."""
        return tuple(self._arrange(torch.empty(1, *shape, device="meta")).shape[1:])

    def _arrange(self, x: Tensor) -> Tensor:
        have = {1: ("samples",), 2: ("bands", "frames")}.get(x.dim() - 1, ())
        if self.layout is not None:
            named = [axis for axis in self.layout if axis != "1"]
            if "channels" in named:
                have = ("channels", "samples")
            if sorted(named) != sorted(have):
                raise ModelError(
                    f"{self.loaded.name}: layout `batch, {', '.join(self.layout)}` does not fit rows of shape "
                    f"{tuple(x.shape[1:])}, whose axes are {' and '.join(have) or 'unknown'}"
                )
            x = x.permute(0, *(1 + have.index(axis) for axis in named))
            for place, axis in enumerate(self.layout, start=1):
                if axis == "1":
                    x = x.unsqueeze(place)
            return x
        wanted = self.loaded.shape
        if wanted is not None and len(wanted) == x.dim() and wanted[0] in (1, None):
            return x.unsqueeze(1)  # (batch, 1, samples) or (batch, 1, bands, frames)
        return x

    def check(self, before: Space, rate: int | None) -> None:
        """Raise ModelError where the pipeline's rows are not those that the model's file declares."""
        name = self.loaded.name
        if rate is not None and before.rate is not None and before.rate != rate:
            raise ModelError(
                f"the model {name} wants {rate} Hz but receives {before.rate} Hz: put `resample: {{rate: {rate}}}` above it"
            )
        wanted = self.loaded.shape
        if wanted is None:
            return
        got = self.row(before.shape)
        if len(got) == len(wanted) and all(w is None or w == g for g, w in zip(got, wanted, strict=True)):
            return
        shape = "(" + ", ".join("batch" if n < 0 else "any" if w is None else str(w)
                                for n, w in [(-1, None), *enumerate(wanted)]) + ")"  # fmt: skip
        raise ModelError(
            f"the model {name} takes {shape} but receives (batch, {', '.join(map(str, got))}), {before}: "
            f"{_advice(before, wanted, got)}"
        )

    # Running

    def __call__(self, x: Tensor) -> Tensor:
        rows = self._arrange(x.float()).contiguous()
        try:
            raw = self._in_batches(rows)
        except SoundcertError:
            raise
        except Exception as error:  # a black box fails with whatever it likes
            raise ModelError(
                f"the model {self.loaded.name} fails on (batch, {', '.join(map(str, rows.shape[1:]))}): {first_line(error)}"
            ) from error
        return self.logits(raw, len(x))

    def _in_batches(self, rows: Tensor) -> Tensor:
        size = self.batch or self.loaded.batch
        if size is None:
            return self.loaded.run(rows)
        out = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            if len(part) < size:  # filled up with copies of its own last row
                part = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
            got = self.loaded.run(part.contiguous())
            if not isinstance(got, Tensor) or got.dim() == 0 or len(got) != size:
                shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
                raise ModelError(
                    f"the model {self.loaded.name} must return (batch, classes); for {size} rows it gave {shape}"
                )
            out.append(got)
        return torch.cat(out)[: len(rows)]

    def logits(self, raw: Tensor, rows: int) -> Tensor:
        """Return what the model returned as logits `(batch, classes)`: the largest one is its vote."""
        name = self.loaded.name
        if not isinstance(raw, Tensor) or raw.dim() == 0 or len(raw) != rows:
            shape = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            raise ModelError(
                f"the model {name} must return (batch, classes); for a batch of {rows} it gave {shape}"
            )
        if self.outputs == "labels":
            return self._one_hot(raw)
        if raw.dim() > 2 and math.prod(raw.shape[1:]) == max(raw.shape[1:]):
            raw = raw.flatten(1)  # (batch, 1, 1, classes)
        if raw.dim() == 1:
            raise ModelError(
                f"the model {name} returns one value a row, (batch,): if it is the number of a class write "
                "`outputs: labels` and the `labels`, if it is one class's score return (batch, 1)"
            )
        if raw.dim() != 2:
            raise ModelError(
                f"the model {name} must return (batch, classes), got {tuple(raw.shape)}: pool over time first"
            )
        out = raw.float()
        if self.outputs == "probabilities":
            if out.shape[1] == 1:
                edge = 0.5 if self.threshold is None else self.threshold
                low = math.log(edge) - math.log1p(-edge)
                p = out.double().clamp(SMALLEST, 1 - 1e-15)
                return torch.cat([torch.zeros_like(out), (p.log() - (-p).log1p() - low).float()], dim=1)
            return out.clamp(min=SMALLEST).log()
        if out.shape[1] == 1:  # one score: the second class wins where it is positive, or above the threshold
            return torch.cat([torch.full_like(out, self.threshold or 0.0), out], dim=1)
        return out

    def _one_hot(self, raw: Tensor) -> Tensor:
        name = self.loaded.name
        numbers = raw.squeeze(-1) if raw.dim() == 2 and raw.shape[1] == 1 else raw
        if numbers.dim() != 1:
            raise ModelError(
                f"the model {name} returns {tuple(raw.shape)} where `outputs: labels` wants one class number a row, "
                "(batch,): leave `outputs` out for logits"
            )
        if self.classes is None:
            raise ConfigError(
                f"the model {name} returns class numbers: name its `labels`, or how many `classes`"
            )
        number = numbers.long()
        wrong = (number != numbers) | (number < 0) | (number >= self.classes)
        if bool(wrong.any()):
            bad = numbers[wrong][0].item()
            raise ModelError(
                f"the model {name} returned class number {bad:g}, which is none of 0 … {self.classes - 1}: correct "
                "`labels`, or `outputs` if these are no class numbers"
            )
        return torch.nn.functional.one_hot(number, self.classes).float()

    # What can be seen of the outputs before any draw

    def examine(self, rows: Tensor) -> None:
        """Refuse NaN for every row, and outputs that are not what `outputs` says."""
        with torch.inference_mode():
            raw = self._raw(rows)
        name = self.loaded.name
        if self.outputs == "labels":
            return
        if bool(raw.isnan().flatten(1).any(dim=1).all()):
            raise ModelError(
                f"the model {name} returns NaN for every probe: it would vote for no class. Check the units and the "
                "range of what it is fed"
            )
        if self.outputs == self.loaded.outputs:
            return
        kind = looks_like(raw)
        if (
            self.outputs == "probabilities"
            and kind != "probabilities"
            and not (raw.shape[1] == 1 and kind == "sigmoids")
        ):
            low, high = float(raw.min()), float(raw.max())
            raise ModelError(
                f"the model {name} does not return probabilities (values from {low:.4g} to {high:.4g}"
                f"{', which do not sum to 1' if kind == 'sigmoids' else ''}): "
                + ("write `outputs: scores`" if kind == "sigmoids" else "leave `outputs` out for logits")
            )
        if self.outputs == "logits" and kind == "probabilities":
            raise ModelError(
                f"the model {name} returns probabilities and not logits: write `outputs: probabilities` (the vote is "
                "the same, and gradients are then taken of their logarithms)"
            )
        if self.outputs == "logits" and kind == "sigmoids":
            raise ModelError(
                f"the model {name} returns values between 0 and 1 that do not sum to 1"
                + (
                    ": one probability: write `outputs: probabilities`, with two `labels`, the second for values above ½ "
                    "(or above `threshold`)"
                    if raw.shape[1] == 1
                    else ", one decision a class: a certificate is about one label. If the largest is the answer, write "
                    "`outputs: scores`; for one class of it, return (batch, 1)"
                )
            )

    def _raw(self, rows: Tensor) -> Tensor:
        raw = self._in_batches(self._arrange(rows.float()).contiguous())
        return raw.reshape(len(raw), -1).float()


def looks_like(raw: Tensor) -> str:
    """Say what rows of outputs look like: "probabilities", "sigmoids" (all within 0 and 1) or "logits"."""
    finite = raw[raw.isfinite().all(dim=1)]
    if (
        not len(finite)
        or float(finite.min()) == float(finite.max())
        or float(finite.min()) < 0
        or float(finite.max()) > 1 + 1e-4
    ):
        return "logits"
    sums = finite.sum(dim=1)
    whole = bool(((sums - 1).abs() <= SUM_TOLERANCE).all())
    return "probabilities" if whole and finite.shape[1] > 1 else "sigmoids"


def probe_rows(shape: tuple[int, ...]) -> Tensor:
    """Return four rows of fixed noise at four levels: what is seen of a model must not depend on chance."""
    rows = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    return rows * torch.tensor([0.01, 0.1, 1.0, 10.0]).reshape(4, *([1] * len(shape)))


def _advice(before: Space, wanted: tuple[int | None, ...], got: tuple[int, ...]) -> str:
    inner = tuple(w for w in wanted if w != 1)
    if before.kind == "waveform":
        if len(before.shape) != 1:
            return "put `mono` above it"
        if len(inner) == 1 and inner[0] is not None:
            return f"put `fit: {{samples: {inner[0]}}}` above it"
        return "it wants features: put `log_mel` above it"
    if len(got) == len(wanted) and all(
        w is None or w == g for g, w in zip(reversed(got), wanted, strict=True)
    ):
        return "it wants them transposed: write `layout: batch, frames, bands`"
    if len(inner) == 1:
        return "it wants a waveform: leave the features out"
    axes = [n for n in wanted if n is None or n > 1]
    if len(axes) == 2 and len(wanted) == 3:
        order = "bands, frames" if axes == [*before.shape] else "frames, bands"
        fits = wanted in {(*before.shape, 1), (*before.shape[::-1], 1)}
        if fits:
            return f"write `layout: batch, {order}, 1`"
    return "change the features, `fit`, or `layout`"
