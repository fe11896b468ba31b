"""The pipeline: ordered stages, split at the noise.

What stands above the noise is the front φ: it maps a clip to the certified object v. What stands below
is the base classifier f. A pipeline is bound to the space of the file at hand (`route`), since files
differ in rate, channels and length; files of one space share a route.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundcert.audio import Clip
from soundcert.config import Config, StageSpec, build_stages, load_config
from soundcert.errors import ConfigError, InputError, SoundcertError
from soundcert.spaces import Space
from soundcert.stages import Model, NoiseStage, Stage, Windows

#: Largest value at any point of the front: networks and features square and add values in float32.
LOUDEST = 1e12


@dataclass(frozen=True)
class Route:
    """A pipeline bound to one file space: the stages, and the space before each and after the last."""

    stages: tuple[Stage, ...]
    spaces: tuple[Space, ...]
    noise_index: int

    @property
    def front(self) -> tuple[Stage, ...]:
        return self.stages[: self.noise_index]

    @property
    def noise(self) -> NoiseStage:
        stage = self.stages[self.noise_index]
        assert isinstance(stage, NoiseStage)
        return stage

    @property
    def base(self) -> tuple[Stage, ...]:
        return self.stages[self.noise_index + 1 :]

    @property
    def file(self) -> Space:
        return self.spaces[0]

    @property
    def object(self) -> Space:
        """The space that the noise is added in: that of the certified object."""
        return self.spaces[self.noise_index]

    @property
    def _changes(self) -> tuple[tuple[Stage, Space], ...]:
        """Stages directly below the noise that change the object within its kind, each with its output's space."""
        out = []
        for stage, after in zip(self.base, self.spaces[self.noise_index + 2 :], strict=True):
            if after.kind != self.object.kind or stage.family == "model":
                break
            if not isinstance(stage, Windows):
                out.append((stage, after))
        return tuple(out)

    @property
    def post_processing(self) -> tuple[Stage, ...]:
        """Stages directly below the noise that change the object within its own kind of space.

        Clipping or a gain on a noisy waveform is such a change; computing features from it is not, nor is reading
        it window by window: those are the base classifier's own.
        """
        return tuple(stage for stage, _ in self._changes)

    @property
    def keeps_shape(self) -> bool:
        """Whether the changes after the noise keep the object's shape, so that distances can be compared."""
        return all(space.shape == self.object.shape for _, space in self._changes)

    @property
    def cut(self) -> tuple[tuple[Stage, ...], Windows | None, tuple[Stage, ...]]:
        """The base as: stages of the whole object, its windows if there are any, stages of one window.

        Without windows all stages are of the whole object.
        """
        for at, stage in enumerate(self.base):
            if isinstance(stage, Windows):
                return self.base[:at], stage, self.base[at + 1 :]
        return self.base, None, ()

    def run(self, x: Tensor, through: Callable[[Stage, Tensor], Tensor] | None = None) -> Tensor:
        """Run the base classifier on points of the object's space, `(batch, *shape)` to logits `(batch, classes)`.

        through: how a stage is applied, where it is not simply called.
        """
        apply = through or (lambda stage, y: stage(y))
        whole, windows, rest = self.cut
        for stage in whole:
            x = apply(stage, x)
        if windows is None:
            return x

        def answer(y: Tensor) -> Tensor:
            for stage in rest:
                y = apply(stage, y)
            return y

        return windows.run(x, answer)


class Pipeline:
    """Ordered stages with exactly one noise stage among them.

    `stages` may end with an nn.Module or callable in place of a model stage. Raises ConfigError where
    the order cannot work whatever the clip.
    """

    def __init__(self, stages: Iterable[Stage | nn.Module | Callable[[Tensor], Tensor]]) -> None:
        built = [s if isinstance(s, Stage) else _as_model(s) for s in stages]
        noises = [i for i, s in enumerate(built) if isinstance(s, NoiseStage)]
        if len(noises) != 1:
            raise ConfigError(
                f"a pipeline needs exactly one noise stage, got {len(noises)}: "
                "put `gaussian_noise` (or `lattice_noise`) where the certificate is to live"
            )
        for stage in built:
            _check_fields(stage)
        self.noise_index = noises[0]
        noise = built[self.noise_index]
        assert isinstance(noise, NoiseStage)
        if not vars(type(noise)).get("normal"):
            raise ConfigError(
                f"{noise.name}: every radius here is proven for normal noise, and this class does not say that it draws "
                "such: give it `normal: ClassVar[bool] = True` if its `perturb_` draws N(0, σ²) for each coordinate"
            )
        built[self.noise_index] = noise.below(built[self.noise_index - 1] if self.noise_index else None)
        self.stages: tuple[Stage, ...] = tuple(built)
        for i, stage in enumerate(built[:-1]):
            if stage.family == "model" and not (isinstance(stage, Model) and stage.stop is not None):
                raise ConfigError(
                    f"the model must be the last stage, but {built[i + 1].name} stands below it; "
                    "give the model `stop` to end it between two layers"
                )
        _check_windows(built, self.noise_index)
        if built[-1].family == "model" and isinstance(built[-1], Model) and built[-1].partial:
            raise ConfigError("the pipeline ends with a part of a model: add the rest, with `start`")
        self._routes: dict[Space, Route] = {}

    @classmethod
    def from_yaml(cls, path: str | Path, *, trust: bool = False) -> Pipeline:
        """Build the pipeline of a configuration file. trust: see `build_stages`."""
        return cls.from_config(load_config(path), Path(path).parent, trust=trust)

    @classmethod
    def from_config(
        cls, config: Config, base: Path | None = None, *, training: bool = False, trust: bool = False
    ) -> Pipeline:
        return cls.from_specs(config.pipeline, base, training=training, trust=trust)

    @classmethod
    def from_specs(
        cls,
        specs: Sequence[StageSpec],
        base: Path | None = None,
        *,
        training: bool = False,
        trust: bool = False,
    ) -> Pipeline:
        """Build from the YAML's list: names, or one-entry mappings of a name to its fields."""
        return cls(build_stages(specs, base, training=training, trust=trust))

    @property
    def noise(self) -> NoiseStage:
        stage = self.stages[self.noise_index]
        assert isinstance(stage, NoiseStage)
        return stage

    @property
    def front(self) -> tuple[Stage, ...]:
        """The stages above the noise, not yet bound to a file."""
        return self.stages[: self.noise_index]

    @property
    def base(self) -> tuple[Stage, ...]:
        """The stages below the noise, not yet bound to a file."""
        return self.stages[self.noise_index + 1 :]

    @property
    def model(self) -> Model | None:
        last = self.stages[-1]
        return last if isinstance(last, Model) else None

    @property
    def labels(self) -> tuple[str, ...] | None:
        return self.model.labels if self.model else None

    def route(self, file: Space) -> Route:
        """Bind every stage to the file's space; ConfigError or InputError names the stage that does not fit."""
        if file not in self._routes:
            spaces = [file]
            bound = []
            for number, stage in enumerate(self.stages, start=1):
                try:
                    ready = stage.bind(spaces[-1])
                    spaces.append(ready.space(spaces[-1]))
                except SoundcertError as error:
                    raise type(error)(f"stage {number}: {error}") from None
                bound.append(ready)
            self._routes[file] = Route(tuple(bound), tuple(spaces), self.noise_index)
        return self._routes[file]

    def object_of(self, clip: Clip) -> Tensor:
        """Return the certified object v of a clip, `(*shape)`, evaluated in float64."""
        return self.front_trace(clip)[-1]

    def front_trace(self, clip: Clip) -> list[Tensor]:
        """Return the clip at every point of the front, from the file's samples to v, in float64."""
        route = self.route(clip.space)
        points = [clip.tensor(torch.float64)]
        with torch.inference_mode():
            for stage in route.front:
                x = points[-1].unsqueeze(0)
                points.append(stage(x.float()).double()[0] if stage.family == "model" else stage(x)[0])
        if not bool(torch.isfinite(points[-1]).all()):
            raise InputError(f"{clip.name}: the front gives values that are not finite")
        for point, where in zip(points, ("the file", *(s.name for s in route.front)), strict=True):
            if not bool((point.abs() <= LOUDEST).all()):
                raise InputError(
                    f"{clip.name}: values up to {float(point.abs().max()):.3g} after {where}, more than {LOUDEST:g}: sums "
                    "of their squares leave float32; scale the recording, or use another gain"
                )
        return points

    def __call__(self, x: Tensor) -> Tensor:
        """Run the base classifier on points of the certified object's space, `(batch, *shape)`."""
        if any(isinstance(stage, Windows) for stage in self.base):
            raise ConfigError("a pipeline with windows runs on a clip's route: pipe.route(clip.space).run(x)")
        for stage in self.base:
            x = stage(x)
        return x

    def describe(self) -> list[str]:
        return [stage.describe() for stage in self.stages]

    def to_specs(self) -> list[dict[str, Any]]:
        """Return the YAML's list for this pipeline (a module given from Python appears by its name)."""
        return [_spec(stage) for stage in self.stages]

    def __repr__(self) -> str:
        return f"Pipeline([{', '.join(self.describe())}])"


# Types as stages write them, with what a value of theirs is; YAML's are checked where they are read.
_NUMBERS: dict[str, tuple[type, str]] = {"int": (Integral, "a whole number"), "float": (Real, "a number")}


def _check_fields(stage: Stage) -> None:
    """Refuse numbers that are none, and infinities and NaN: no JSON could hold what was certified."""
    for field in dataclasses.fields(stage):  # type: ignore[arg-type]
        value = getattr(stage, field.name)
        kind, _, rest = str(field.type).partition(" | ")
        if kind in _NUMBERS and rest in ("", "None") and not (rest and value is None):
            wanted, words = _NUMBERS[kind]
            if isinstance(value, bool) or not isinstance(value, wanted):
                raise ConfigError(f"{stage.name}: {field.name} must be {words}, got {value!r}")
        values = value if isinstance(value, list | tuple) else (value,)
        if field.repr and any(isinstance(v, float) and not math.isfinite(v) for v in values):
            bad = next(v for v in values if isinstance(v, float) and not math.isfinite(v))
            raise ConfigError(
                f"{stage.name}: {field.name} must be finite, got {bad}: write a number that is large enough"
            )
    for member in stage.members if isinstance(stage, Model) else ():
        for part in member:
            _check_fields(part)


def _spec(stage: Stage) -> dict[str, Any]:
    fields = {
        f.name: getattr(stage, f.name)
        for f in dataclasses.fields(stage)  # type: ignore[arg-type]
        if f.repr and getattr(stage, f.name) != f.default
    }
    if isinstance(stage, Model) and stage.members:
        fields["ensemble"] = [[_spec(part) for part in member] for member in stage.members]
    return {stage.name: {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}


def _check_windows(stages: Sequence[Stage], noise: int) -> None:
    places = [i for i, stage in enumerate(stages) if isinstance(stage, Windows)]
    if any(place < noise for place in places):
        raise ConfigError(
            "windows stand below the noise, where they and their vote belong to the base classifier; to certify the "
            "parts of a recording one by one, cut it before the pipeline: data: {cut: {seconds: …, hop: …}}"
        )
    if len(places) > 1:
        raise ConfigError(f"a pipeline cuts into windows once, got {len(places)} stages of windows")


def _as_model(thing: object) -> Model:
    if not callable(thing):
        raise ConfigError(f"a pipeline is made of stages, got {type(thing).__name__}")
    return Model(module=thing)
