"""The stage: one step of a pipeline, and the registry that names them.

Conventions
-----------
A stage is a small frozen dataclass. It is called on a float tensor `(batch, *shape)` and returns
`(batch, *new_shape)`; rows never influence each other. `space` says what its output is, `pull_back`
carries a radius from its output to its input, and `bind` adapts it to the space that it stands on
(a resampler learns the file's rate there). A stage that a user writes registers a name and is then a
word of the YAML; without `pull_back` it merely does not transport.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor

from soundcert.errors import ConfigError, did_you_mean
from soundcert.spaces import Space

Family = Literal["shape", "gain", "noise", "range", "feature", "window", "model", "other"]

# Proven radii are formed in float64 by a handful of operations; this covers their rounding.
INWARD = 1.0 - 1e-12


def as_finite(r: Tensor, radius: Tensor) -> Tensor:
    """Return r, the largest double where it overflowed: only an infinite radius has no limit before a bijective stage."""
    largest = torch.finfo(r.dtype).max
    return torch.where(radius.isinf(), r, r.clamp(max=largest))


class Stage:
    """Base of every stage. Subclasses are frozen dataclasses and override what they can say."""

    name: ClassVar[str] = "stage"
    family: ClassVar[Family] = "other"
    #: The output depends on the clip through more than a fixed linear map: a gain, a statistic.
    per_clip: ClassVar[bool] = False
    #: Fields that a description names even at their defaults, beside the first.
    always: ClassVar[tuple[str, ...]] = ()

    def __call__(self, x: Tensor) -> Tensor:
        raise TypeError(f"stage {self.name!r} does not implement __call__")

    def space(self, before: Space) -> Space:
        """Return the space of the output, or raise ConfigError where the input does not fit."""
        return before

    def bind(self, before: Space) -> Self:
        """Return this stage made ready for inputs from `before` (the default needs nothing)."""
        return self

    def pull_back(self, x: Tensor, radius: Tensor) -> Tensor | None:
        """Return, per row, r such that ‖δ‖₂ ≤ r implies ‖stage(x+δ) − stage(x)‖₂ ≤ radius.

        `x` is `(batch, *shape)` in float64, `radius` is `(batch,)`. The result is a proven lower
        bound, never an estimate; None where nothing is proven.
        """
        return None

    def pull_back_through(self, after: Stage, x: Tensor, radius: Tensor) -> Tensor | None:
        """Return the pull-back of this stage and the next together, where that proves more than one by one.

        As `pull_back`, with `radius` after both stages. None (the default) where nothing is gained.
        """
        return None

    def gain(self, x: Tensor) -> Tensor | None:
        """Return the factor by which each row is scaled, `(batch,)`, for stages that are gains."""
        return None

    def describe(self) -> str:
        """Return the call that rebuilds this stage, in the words of the YAML."""
        shown: list[str] = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if not field.repr:
                continue
            value = getattr(self, field.name)
            default = field.default is not dataclasses.MISSING and value == field.default
            if value is None or (default and shown and field.name not in self.always):
                continue
            shown.append(
                f"{field.name}={value!r}" if isinstance(value, str) else f"{field.name}={_short(value)}"
            )
        return f"{self.name}({', '.join(shown)})"

    def words(self) -> str:
        """Return what the stage does, as a phrase for the contract's plain-words statement."""
        return self.describe()


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, tuple) and len(value) > 4:
        return f"<{len(value)} values>"
    return str(value)


S = TypeVar("S", bound=type[Stage])
#: The stages of soundcert that make features of a waveform, by name.
FEATURE_STAGES = frozenset({"log_mel", "mfcc", "spectrogram", "kaldi_fbank"})
_REGISTRY: dict[str, type[Stage]] = {}
ENTRY_POINTS = "soundcert.stages"


def register(name: str) -> Callable[[S], S]:
    """Make a Stage subclass a word of the YAML under `name`.

    Third parties may also declare an entry point in the group `soundcert.stages`; it is imported
    the first time a pipeline names it.
    """

    def decorate(cls: S) -> S:
        if _REGISTRY.get(name, cls) is not cls and _REGISTRY[name].__qualname__ != cls.__qualname__:
            raise ConfigError(f"a stage named {name!r} is registered already ({_REGISTRY[name].__module__})")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return decorate


def known_stages() -> dict[str, type[Stage]]:
    """Return every registered stage class by name (entry points not yet imported are left out)."""
    return dict(sorted(_REGISTRY.items()))


def stage_class(name: str) -> type[Stage]:
    """Return the class registered under `name`; ConfigError names the nearest known word."""
    if name not in _REGISTRY:
        for point in entry_points(group=ENTRY_POINTS):
            if point.name == name:
                found = point.load()
                if not (isinstance(found, type) and issubclass(found, Stage)):
                    raise ConfigError(f"entry point {name!r} in {ENTRY_POINTS} is not a Stage subclass")
                register(name)(found)
                break
        else:
            raise ConfigError(f"unknown stage {name!r}{did_you_mean(name, _REGISTRY)}")
    return _REGISTRY[name]


def require(condition: bool, stage: Stage, field: str, expected: str) -> None:
    """Raise ConfigError unless the field holds what was expected of it."""
    if not condition:
        value = getattr(stage, field)
        raise ConfigError(f"{stage.name}: {field} must be {expected}, got {value!r}")


def waveform_only(stage: Stage, before: Space) -> None:
    if before.kind != "waveform":
        raise ConfigError(
            f"{stage.name} works on a waveform but stands on {before.name}: move it above the features"
        )


def row_norm(x: Tensor) -> Tensor:
    """ℓ2 norm of each row, `(batch,)`."""
    flat = x.flatten(1)
    if flat.dtype == torch.float64 and not flat.requires_grad:
        # Summed as a tree. vector_norm adds one by one and is off by 2·10⁻¹² at a million values.
        return flat.square().sum(dim=1).sqrt()
    norm: Tensor = torch.linalg.vector_norm(flat, dim=1)
    return norm


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `(batch,)` so that it broadcasts against `(batch, *shape)`."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))
