"""The YAML that a user writes: data, pipeline, certify, train. What is wrong is told in one clear line.

Paths in a config are relative to the file that names them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from soundcert.data import DataConfig
from soundcert.errors import ConfigError, nearest
from soundcert.mistakes import MAX_TOLD, Mistakes, brief
from soundcert.models.loaders import BUILT_IN, PACKAGE, hf, is_loader, loader_of
from soundcert.stages import Model, Stage, known_stages, stage_class
from soundcert.stages.model import BUNDLED

MAX_CONFIG_BYTES = 200_000  # more would take the YAML parser seconds
MAX_KEYS = 20_000
MAX_DIGITS = 400
StageSpec = str | Mapping[str, Mapping[str, Any] | None]


class _Numbers(BaseModel):
    """A block of numbers: YAML's true and on are not taken for 1, and .inf for none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("must not be true or false (in YAML, yes, no, on and off are truth values)")
        return value


class _OneLine(type(BaseModel)):  # type: ignore[misc]
    """Makes a mistake in Python one line as well. What is read from YAML is not called, and `validate` says where it is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except pydantic.ValidationError as error:
            raise ConfigError(f"{self.__name__}: {Mistakes().add_all(error, self)}") from None


class _Policy(_Numbers, metaclass=cast(Any, _OneLine)):  # type: ignore[metaclass]
    """A sampling policy, which Python makes too."""


class Decide(_Policy):
    """Ask of each radius whether it holds, and stop drawing as soon as that is known either way."""

    radii: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(
        min_length=1,
        max_length=200,
        description="radii to decide, in the certified object's unit; 0 asks for p > ½",
    )
    futility: float = Field(
        0.003, ge=0, lt=0.5, description="chance of giving up on a radius that could be certified, at most"
    )

    @field_validator("radii")
    @classmethod
    def _ascending(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if list(radii) != sorted(set(radii)):
            raise ValueError("must be ascending, each radius once")
        return radii


class Estimate(_Policy):
    """Draw as many as bring the radius near to what all n draws would certify."""

    rel_width: float = Field(0.05, gt=0, lt=1, description="share of that radius that may be given away")


class Budget(_Policy):
    """Share a budget over the clips of a run, where it still raises a radius. Name one of the two."""

    passes: int | None = Field(None, ge=1, description="passes over the whole run, pilots included")
    seconds: float | None = Field(None, gt=0, allow_inf_nan=False, description="seconds for the whole run")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.passes is None) == (self.seconds is None):
            raise ValueError("name either passes or seconds")
        return self


Policy = Decide | Estimate | Budget


class CertifyConfig(_Numbers):
    """How certificates are sampled: n draws a clip, or by one of `decide`, `estimate` and `budget`."""

    n0: int = Field(100, ge=1, description="noisy draws that select the class; the most, under a policy")
    n: int = Field(
        10_000, ge=1, description="fresh noisy draws that bound its probability; the most, under a policy"
    )
    decide: Decide | None = Field(None, description="decide given radii, drawing only until that is known")
    estimate: Estimate | None = Field(None, description="estimate the radius with a chosen loss")
    budget: Budget | None = Field(None, description="share a budget over the run")
    alpha: float = Field(0.001, gt=0, lt=1, description="probability that one certificate is wrong, at most")
    tries: int = Field(
        1,
        ge=1,
        description="certificates of a clip (seeds, sigmas, models) that the best will be kept of; each holds at alpha, "
        "and the best at tries times alpha (Bonferroni): set alpha accordingly",
    )
    seed: int = Field(0, ge=0, description="seed of the run's noise, fixed before any result is seen")
    bound: Literal["one-sided", "two-class"] = Field(
        "one-sided", description="bound only the top class, or the top class and its strongest rival"
    )
    micro_batch: int | None = Field(
        None, ge=1, le=4096, description="rows a forward pass; chosen when left out"
    )
    engine: Literal["torch", "onnxruntime", "openvino", "auto"] = Field(
        "torch", description="what runs the model; auto measures what is installed, once a run"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="precision of the model; in bf16 it is another classifier, certified as such"
    )
    device: str = Field(
        "cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="where noise, features and model are computed"
    )

    @model_validator(mode="after")
    def _one_policy(self) -> CertifyConfig:
        named = [name for name in ("decide", "estimate", "budget") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"choose one of {' and '.join(named)}")
        if self.tries * self.alpha >= 1:
            raise ValueError(
                f"the best of {self.tries} certificates at alpha = {self.alpha:g} each holds at no level below 1: "
                f"use alpha/{self.tries} for each"
            )
        if self.device != "cpu" and self.engine != "torch":
            raise ValueError(
                f"engine {self.engine} runs on the CPU only; use engine torch with {self.device}"
            )
        if self.engine == "auto" and self.precision != "fp32":
            raise ValueError("engine auto chooses among fp32; name the engine for bf16")
        if named and self.bound != "one-sided":
            raise ValueError(f"{named[0]} works with the one-sided bound only")
        return self

    @property
    def named_engine(self) -> Literal["torch", "onnxruntime", "openvino"]:
        """The engine, or torch where it is to be measured: fp32 engines compute one classifier."""
        return "torch" if self.engine == "auto" else self.engine

    @property
    def policy(self) -> Policy | None:
        """How many draws to make; None for exactly n."""
        return self.decide or self.estimate or self.budget


class TrainConfig(_Numbers):
    """How the model is trained: with the certifying pipeline, the noise in its own place."""

    epochs: int = Field(30, ge=1, description="passes over the training clips, at most")
    batch: int = Field(64, ge=2, description="clips a step")
    learning_rate: float = Field(3e-3, gt=0, description="peak of the one-cycle schedule")
    weight_decay: float = Field(1e-3, ge=0, description="AdamW's weight decay")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    shift: float = Field(0.1, ge=0, lt=1, description="largest random shift in time, as a share of the clip")
    mix: float = Field(
        0.0, ge=0, description="Beta parameter of mixup (arXiv 1710.09412), clips mixed in pairs; 0 for none"
    )
    mask: float = Field(
        0.0, ge=0, lt=1, description="widest stripe of bands and of frames blanked (SpecAugment), as a share"
    )
    speed: float = Field(0.0, ge=0, lt=0.5, description="largest random change of speed, as a share")
    store: Literal["fp32", "fp16"] = Field(
        "fp32",
        description="how matrices and filters are kept in the weight file; what is certified is what was kept",
    )
    warm_up: int = Field(0, ge=0, description="epochs over which the noise grows to σ (a curriculum)")
    draws: int = Field(1, ge=1, le=16, description="noisy copies of each clip in a step")
    consistency: float = Field(
        0.0,
        ge=0,
        description="weight of the copies' disagreement in the loss (arXiv 2006.04062); needs draws of 2 or more",
    )
    adversarial: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="first move each clip so many σ against its label, by one gradient step (SmoothAdv, arXiv 1906.04584)",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="precision of the network's passes in training; validation and weights stay in fp32",
    )
    patience: int = Field(10, ge=1, description="epochs without a better validation score before stopping")
    validation_draws: int = Field(4, ge=1, description="noisy draws a validation clip")
    seed: int = Field(0, ge=0, description="seed of initialisation, order, augmentation and noise")
    start: str | None = Field(
        None,
        description="weight file (.safetensors) to begin with: layers of the same name and shape are taken from it",
    )
    clips: DataConfig | None = Field(
        None, description="training clips; by default the data's split 'training'"
    )
    validation: DataConfig | None = Field(
        None, description="validation clips; by default the data's split 'validation'"
    )
    extra: tuple[DataConfig, ...] = Field((), description="more training clips, with the same labels")

    @model_validator(mode="after")
    def _copies_to_compare(self) -> TrainConfig:
        if self.consistency and self.draws < 2:
            raise ValueError("consistency compares noisy copies of a clip: set draws to 2 or more")
        return self


class Config(BaseModel):
    """A whole configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataConfig | None = Field(None, description="the clips")
    # Stages are checked by `build_stages`, whose messages say how they are written.
    pipeline: list[Any] = Field(description="the stages, in order")
    certify: CertifyConfig = Field(default_factory=CertifyConfig)
    train: TrainConfig | None = Field(None, description="how to train the model")


M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], values: object, where: str) -> M:
    """Build a pydantic model; ConfigError gives the mistakes in one line, with the nearest words."""
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: {Mistakes().add_all(error, model)}") from None


class _Loader(yaml.SafeLoader):
    """Safe, and strict: of two equal keys the last would win in silence."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # Merge keys of merge keys double what they hold at every step.
        if len(node.value) > MAX_KEYS:
            raise yaml.YAMLError(f"a mapping of more than {MAX_KEYS} keys (line {node.start_mark.line + 1})")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {key.value!r} is given twice (line {line})")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    # Not left to Python's limit: YAML's 1:1:1… is a number to the base 60, and takes the square of its length.
    if len(node.value) > MAX_DIGITS:
        raise yaml.YAMLError(f"a number of {len(node.value)} characters (line {node.start_mark.line + 1})")
    whole = node.tag.endswith(":int")
    return loader.construct_yaml_int(node) if whole else loader.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON mapping safely."""
    if path.is_dir():
        raise ConfigError(
            f"no config at {path}: it is a folder; give a YAML file, which names a folder of clips under its `data:`"
        )
    if not path.is_file():
        raise ConfigError(f"no config at {path}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than a config can be ({MAX_CONFIG_BYTES} bytes)")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    except (yaml.YAMLError, RecursionError, ValueError, OSError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_problem(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping with `pipeline`, got {type(values).__name__}")
    return values


def _problem(error: Exception) -> str:
    """Say what the parser found and where, without the piece of text that it draws an arrow below."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        doing = f" ({error.context})" if error.context else ""
        return f"{error.problem} at line {mark.line + 1}, column {mark.column + 1}{doing}"
    # The text has no name there but this one.
    return " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")


def load_config(path: str | Path) -> Config:
    """Read and check a configuration file. Stages are built later, by `build_stages`."""
    path = Path(path)
    values = read_yaml(path)
    mistakes = Mistakes()
    strange = [key for key in values if key not in Config.model_fields]
    for key in strange:
        mistakes.unknown(key, Config.model_fields)
    meant = {nearest(str(key), Config.model_fields) for key in strange[:MAX_TOLD]}
    if "pipeline" not in meant | values.keys():
        mistakes.add("`pipeline` is missing: a list of stages, with the noise among them")
    # Block by block, since some checks of the data end all others.
    for key in [key for key in values if key in Config.model_fields]:
        try:
            Config.model_validate({"pipeline": [], key: values[key]})
        except pydantic.ValidationError as error:
            mistakes.add_all(error, Config)
        except ConfigError as error:
            mistakes.add(str(error))
    if mistakes:
        stages = values.get("pipeline")
        for number, spec in enumerate(stages if isinstance(stages, list) else (), start=1):
            _named(spec, number, mistakes)
        raise ConfigError(f"{path}: {mistakes}")
    return validate(Config, values, str(path))


def build_stages(
    specs: Iterable[StageSpec], base: Path | None = None, *, training: bool = False, trust: bool = False
) -> list[Stage]:
    """Build stages from the YAML's list; ConfigError names the mistakes of all of them in one line.

    base: folder that weights are relative to. training: do not read weights, the network is to be made. trust:
    models that say `trust: true` may run the code that their files bring.
    """
    mistakes = Mistakes()
    named = [_named(spec, number, mistakes) for number, spec in enumerate(specs, start=1)]
    stages = []
    for stage in named:
        # A model's file is not read for a pipeline that cannot be built.
        if stage is not None and not (mistakes and stage.cls is Model):
            stages.append(_build(stage, mistakes, base, training, trust))
    if mistakes:
        raise ConfigError(str(mistakes))
    return [stage for stage in stages if stage is not None]


@dataclasses.dataclass(frozen=True)
class _Named:
    """A stage as it is written, its name and fields known; `where` begins what is said of it."""

    where: str
    name: str
    cls: type[Stage]
    fields: dict[str, Any]


def _named(spec: object, number: int, mistakes: Mistakes) -> _Named | None:
    """Read one stage, no further than names go; None where they are wrong."""
    where = f"pipeline, stage {number}"
    if isinstance(spec, str):
        name, fields = spec, {}
    elif (
        isinstance(spec, Mapping) and len(spec) == 1 and isinstance(next(iter(spec.values())), Mapping | None)
    ):
        name, given = next(iter(spec.items()))
        fields = dict(given or {})
    else:
        mistakes.add(f"{where}: write one stage a line, as `- name: {{field: value}}`, got {brief(spec)}")
        return None
    try:
        cls = stage_class(str(name))
    except ConfigError as error:
        mistakes.add(f"{where}: {error}")
        return None
    known = {f.name: f for f in dataclasses.fields(cls) if f.repr}  # type: ignore[arg-type]
    if cls is Model:
        fields = _third_party(fields, known)
    where = f"{where} ({name})"
    right = True
    for field in fields:
        if field not in known:
            mistakes.unknown(field, known, f"{where}: ")
            right = False
        elif isinstance(fields[field], bool) and known[field].type != "bool":
            mistakes.add(
                f"{where}: {field} must not be true or false, got {fields[field]!r} "
                "(in YAML, yes, no, on and off are truth values)"
            )
            right = False
    return _Named(where, str(name), cls, fields) if right else None


def _build(stage: _Named, mistakes: Mistakes, base: Path | None, training: bool, trust: bool) -> Stage | None:
    """Make a stage of its fields; None where their values are wrong."""
    fields = stage.fields
    if stage.cls is Model:
        try:
            fields = _resolve_weights(fields, base, training, trust)
        except ConfigError as error:
            mistakes.add(f"{stage.where}: {error}")
            return None
    try:
        # Lax mode turns YAML's lists into tuples and whole numbers into floats, and checks types.
        return cast(Stage, _adapter(stage.cls).validate_python(fields))
    except pydantic.ValidationError as error:
        mistakes.add_all(error, where=f"{stage.where}: ")
    except ConfigError as error:
        mistakes.add(f"{stage.where.removesuffix(f' ({stage.name})')}: {error}")
    return None


def _adapter(cls: type[Stage]) -> TypeAdapter[Any]:
    return TypeAdapter(cls, config=None)


def _third_party(fields: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Take a kind of model that a package adds, `{kind: source}`, for what it is: a loader."""
    out = dict(fields)
    for field in fields:
        if field not in known and isinstance(field, str) and is_loader(field):
            out["loader"] = {field: str(out.pop(field))}
    return out


def _resolve_weights(
    fields: dict[str, Any], base: Path | None, training: bool, trust: bool
) -> dict[str, Any]:
    """Make the paths of a model stage those that `base` gives them, and see that its code is trusted."""
    out = dict(fields)
    loaders = out.get("loader") if isinstance(out.get("loader"), Mapping) else {}
    kinds = [kind for kind in (*BUILT_IN, *(loaders or {})) if kind in out or kind in (loaders or {})]
    if training:
        if "ensemble" in out:
            raise ConfigError("an ensemble is not trained: train its members one by one")
        if kinds:
            raise ConfigError(
                f"a model of kind {kinds[0]} cannot be trained here: give `network` and `weights`"
            )
        return {key: value for key, value in out.items() if key != "weights"}
    if out.get("trust") and not trust:
        raise ConfigError(
            "`trust: true` lets a model run code that its file brings. A config alone may not decide that: if you "
            "trust whoever made the model, add --trust to the command (from Python, trust=True)"
        )
    if "ensemble" in out:
        out["members"] = _members(out["ensemble"], base, trust)
    weights = out.get("weights")
    if base is not None:
        if isinstance(weights, str) and not weights.startswith((BUNDLED, PACKAGE)):
            out["weights"] = str(base / weights)
        for kind in kinds:
            place = loaders if loaders and kind in loaders else out
            source = str(place[kind])
            local = loader_of(kind).names_file and not source.startswith(PACKAGE)
            if local or (kind == "hf" and ((base / source).exists() or not hf.is_hub_name(source))):
                changed = str(base / source)
                out = {**out, "loader": {kind: changed}} if place is loaders else {**out, kind: changed}
        if kinds:
            out["folder"] = base
    return out


def _members(given: object, base: Path | None, trust: bool) -> list[list[Stage]]:
    """Build the stages of an ensemble's members."""
    if not isinstance(given, list | tuple) or not all(isinstance(member, list | tuple) for member in given):
        raise ConfigError("ensemble must be a list of lists of stages, each of which ends with a model")
    out = []
    for number, member in enumerate(given, start=1):
        try:
            out.append(build_stages(member, base, trust=trust))
        except ConfigError as error:
            raise ConfigError(f"member {number} of the ensemble: {error}") from None
    return out


def stage_schemas() -> dict[str, Any]:
    """Return a JSON Schema for each registered stage's fields."""
    out: dict[str, Any] = {}
    for name, cls in known_stages().items():
        properties: dict[str, Any] = {}
        missing = []
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if not field.repr:
                continue
            properties[field.name] = TypeAdapter(_field_type(cls, field.name)).json_schema()
            if field.default is not dataclasses.MISSING:
                properties[field.name]["default"] = field.default
            elif field.default_factory is dataclasses.MISSING:
                missing.append(field.name)
        text = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
        schema: dict[str, Any] = {
            "type": ["object", "null"],
            "description": text,
            "properties": properties,
            "additionalProperties": False,
        }
        if missing:
            schema["required"] = missing
        out[name] = schema
    return out


def _field_type(cls: type[Stage], field: str) -> Any:
    from typing import get_type_hints

    return get_type_hints(cls)[field]


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of configuration files, stages included."""
    schema = Config.model_json_schema()
    stages = stage_schemas()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["pipeline"]["items"] = {
        "anyOf": [
            {"enum": [name for name, s in stages.items() if "required" not in s]},
            *(
                {
                    "type": "object",
                    "properties": {name: stage},
                    "required": [name],
                    "additionalProperties": False,
                }
                for name, stage in stages.items()
            ),
        ]
    }
    return cast(dict[str, Any], json.loads(json.dumps(schema)))
