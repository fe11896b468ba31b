"""The grid's cells, and what each trains, chooses on and tests on.

A cell is a data set, a pipeline, a model and a value for every blank of the pipeline. It has one *fit* for each
split of its data: one, or as many as there are folds. A fit is one training, one look at validation clips where
its block chooses, and one run on testing clips; it has a folder of its own. An ensemble's cell trains nothing: it
joins the networks of other cells.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcert.bounds import certified_radius
from soundcert.config import CertifyConfig, Config, TrainConfig, validate
from soundcert.data import DataConfig
from soundcert.errors import ConfigError
from soundcert.stages import FEATURE_STAGES
from soundcert.study.config import Block, Reach, Scalar, StudyConfig, StudyData

#: A fit's weights, in its folder.
WEIGHTS = "model.safetensors"
_BLANK = re.compile(r"\$([a-z_]+)")
#: Level of the estimates on validation clips: as often too large as too small.
ESTIMATE_ALPHA = 0.5
# What transport takes off a radius for the object's rounding to float32 (`transport.rounding_allowance`), and a
# little for rounding inward on the way.
_ROUNDING = 2.0**-24
_INWARD = 1 + 1e-6


@dataclass(frozen=True)
class Split:
    """Clips of one fit. name: empty for official splits."""

    name: str
    training: DataConfig
    validation: DataConfig
    testing: DataConfig


@dataclass(frozen=True)
class Cell:
    """One combination of the grid. values: of the pipeline's blanks that the grid varies, by name."""

    block: Block
    data: str
    pipeline: str
    model: str
    values: Mapping[str, Scalar]

    @property
    def name(self) -> str:
        """Its folder's name, and its name in tables."""
        varied = [
            f"{key}-{value:g}" if isinstance(value, float) else f"{key}-{value}"
            for key, value in self.values.items()
        ]
        return "-".join([self.data, self.pipeline, self.model, *varied])

    @property
    def sigma(self) -> float:
        return float(self.values["sigma"])


@dataclass(frozen=True)
class Fit:
    """One training of a cell, with its folder and its three uses of one pipeline."""

    cell: Cell
    split: Split
    folder: Path
    config: Config

    @property
    def name(self) -> str:
        return f"{self.cell.name}/{self.split.name}" if self.split.name else self.cell.name

    @property
    def trains(self) -> bool:
        """Whether it has weights of its own; those of an ensemble are its members'."""
        return self.config.train is not None

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def testing(self) -> Config:
        return self.config

    def choosing(self) -> Config:
        """The validation clips, with a fixed number of draws: an estimate to choose by, no claim."""
        draws = self.cell.block.choose
        assert draws is not None
        certify = CertifyConfig(
            n0=20, n=draws, alpha=ESTIMATE_ALPHA, seed=self.config.certify.seed,
            engine=self.config.certify.engine, precision=self.config.certify.precision,
        )  # fmt: skip
        return self.config.model_copy(update={"data": self.split.validation, "certify": certify})


def cells_of(study: StudyConfig) -> list[Cell]:
    """Return the grid's cells in the order of the file. ConfigError where two are the same."""
    out: list[Cell] = []
    seen: dict[str, str] = {}
    for block in study.grid:
        for data, pipeline, model in itertools.product(block.data, block.pipeline, block.model):
            for chosen in itertools.product(*block.vary.values()):
                values = dict(zip(block.vary, map(_number, chosen), strict=True))
                cell = Cell(block, data, pipeline, model, values)
                if "sigma" not in values:
                    raise ConfigError(f"study: block {block.name!r} varies no `sigma`: add it under `vary`")
                if cell.name in seen:
                    raise ConfigError(
                        f"study: the cell {cell.name} stands in the grid twice, in {seen[cell.name]!r} and {block.name!r}"
                    )
                seen[cell.name] = block.name
                out.append(cell)
    return out


def fits_of(study: StudyConfig, cell: Cell, base: Path, out: Path) -> list[Fit]:
    """Return a cell's fits. base: where the study's relative paths start; out: the study's folder."""
    data, model = study.data[cell.data], study.models[cell.model]
    recipe = {**data.train, **model.train}
    start = {"start": str((base / recipe["start"]).resolve())} if recipe.get("start") else {}
    fits = []
    for split in splits_of(data, base, cell.block):
        folder = fit_folder(out, cell, split.name)
        stages = _stages(study, cell, split, out)
        settings, certify = _certify(study, cell)
        if cell.block.decide is not None:
            certify = _deciding(certify, study, cell, stages, settings)
        train = None
        if not model.members:
            train = validate(
                TrainConfig,
                {**recipe, "clips": split.training, "validation": split.validation,
                 "extra": [_based(d, base) for d in data.extra], **start},
                f"study: train of {cell.name}",
            )  # fmt: skip
        fits.append(
            Fit(
                cell, split, folder, Config(data=split.testing, pipeline=stages, certify=certify, train=train)
            )
        )
    return fits


def asks(study: StudyConfig, cell: Cell, target: float) -> bool:
    """Return whether a cell's testing clips are asked about an SNR: not where `most` leaves its radius out."""
    reach = cell.block.decide
    if reach is None or not reach.targets:
        return True
    first = next(iter(members_of(study, cell)), cell)
    norm = _object_norm(_filled(study, first))
    return norm is None or target_radius(target, norm) / cell.sigma <= _most(reach, _certify(study, cell)[1])


def fit_folder(out: Path, cell: Cell, split: str) -> Path:
    """Return the folder of a cell's fit. split: its name."""
    return out / "cells" / cell.name / split


def members_of(study: StudyConfig, cell: Cell) -> list[Cell]:
    """Return the cells whose networks an ensemble's cell joins; none for another. ConfigError where one is missing."""
    grid = {c.name: c for c in cells_of(study)} if study.models[cell.model].members else {}
    found = []
    for member in study.models[cell.model].members:
        values = {**cell.values, **{k: _number(v) for k, v in member.values.items()}}
        name = Cell(cell.block, cell.data, cell.pipeline, member.model, values).name
        if name not in grid:
            raise ConfigError(
                f"study: the ensemble {cell.name} needs the cell {name}, which the grid has not: add it, or correct what "
                "the member sets"
            )
        found.append(grid[name])
    return found


def _stages(study: StudyConfig, cell: Cell, split: Split, out: Path) -> list[Any]:
    """Return the pipeline of a fit, its model included."""
    model = study.models[cell.model]
    if not model.members:
        own = {"network": model.network, "options": dict(model.options), "weights": WEIGHTS}
        return [*_filled(study, cell), {"model": own}]
    cells = members_of(study, cell)
    pipes = [_filled(study, c) for c in cells]
    noise = next((i for i, s in enumerate(pipes[0]) if "noise" in _name(s)), len(pipes[0]))
    features = (i for pipe in pipes for i, s in enumerate(pipe) if i > noise and _name(s) in FEATURE_STAGES)
    cut = min(features, default=len(pipes[0]))
    for member, pipe in zip(cells, pipes, strict=True):
        if pipe[:cut] != pipes[0][:cut]:
            raise ConfigError(
                f"study: the ensemble {cell.name} needs one pipeline down to the features below the noise, and that of "
                f"{member.name} differs from that of {cells[0].name}"
            )
    folder = fit_folder(out, cell, split.name)
    weights = [os.path.relpath(fit_folder(out, c, split.name) / WEIGHTS, folder) for c in cells]
    joined = [[*pipe[cut:], {"model": {"weights": w}}] for pipe, w in zip(pipes, weights, strict=True)]
    consensus = {} if model.consensus is None else {"consensus": model.consensus}
    return [*pipes[0][:cut], {"model": {"ensemble": joined, **consensus}}]


def _filled(study: StudyConfig, cell: Cell) -> list[Any]:
    """Return a cell's pipeline without its model, its blanks filled."""
    values = {**study.data[cell.data].values, **cell.values}
    stages: list[Any] = fill(_with_features(study, cell), values, cell)
    return stages


def _name(stage: object) -> str:
    return str(next(iter(stage)) if isinstance(stage, Mapping) else stage)


def _number(value: Scalar) -> Scalar:
    return float(value) if isinstance(value, int) else value


def _with_features(study: StudyConfig, cell: Cell) -> list[Any]:
    """Return the cell's pipeline with the feature stage that its model asks for, or without any."""
    stages, asked = list(study.pipelines[cell.pipeline]), study.models[cell.model].features
    if not asked:
        return stages
    own = [i for i, s in enumerate(stages) if isinstance(s, Mapping) and not FEATURE_STAGES.isdisjoint(s)]
    if len(own) != 1:
        raise ConfigError(
            f"study: model {cell.model!r} has features of its own, for pipelines with one feature stage; "
            f"{cell.pipeline!r} has {len(own)}"
        )
    # What stands below the features would stand somewhere else without them: the noise, or a standardisation.
    if asked == "none" and own[0] + 1 < len(stages):
        raise ConfigError(
            f"study: model {cell.model!r} hears waveforms, for pipelines whose features stand last and below the noise; in "
            f"{cell.pipeline!r} they do not"
        )
    stages[own[0] : own[0] + 1] = [] if asked == "none" else [asked]
    return stages


def splits_of(data: StudyData, base: Path, block: Block) -> Iterator[Split]:
    """Yield who trains, validates and tests. Of the folds, the one after the tested one validates."""
    clips = _based(data.clips, base)
    limit = block.testing_limit or data.testing_limit

    def part(most: int | None = None, **chosen: Any) -> DataConfig:
        return clips.model_copy(update={**chosen, "limit": most})

    if not data.folds:
        yield Split(
            "",
            part(clips.limit, split="training"),
            part(data.validation_limit, split="validation"),
            part(limit, split="testing"),
        )
        return
    folds = data.folds
    if unknown := set(block.folds) - set(folds):
        raise ConfigError(
            f"study: block {block.name!r} names the folds {sorted(unknown)}, which {data.title} has not"
        )
    for i, fold in enumerate(folds):
        if block.folds and fold not in block.folds:
            continue
        validating = folds[(i + 1) % len(folds)]
        rest = tuple(f for f in folds if f not in (fold, validating))
        if not rest:
            raise ConfigError(f"study: nested folds need at least three, got {len(folds)}")
        yield Split(
            f"fold-{fold}",
            part(clips.limit, folds=rest),
            part(data.validation_limit, folds=(validating,)),
            part(limit, folds=(fold,)),
        )


def fill(template: object, values: Mapping[str, Scalar], cell: Cell) -> Any:
    """Return the template with every `$name` replaced. ConfigError for a name without a value."""
    if isinstance(template, Mapping):
        return {key: fill(value, values, cell) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [fill(value, values, cell) for value in template]
    if isinstance(template, str) and (blank := _BLANK.fullmatch(template)):
        name = blank.group(1)
        if name not in values:
            raise ConfigError(
                f"study: pipeline {cell.pipeline!r} has the blank ${name}, which neither `vary` of block "
                f"{cell.block.name!r} nor `set` of {cell.data!r} fills"
            )
        return values[name]
    return template


def target_radius(snr_db: float, norm: float) -> float:
    """Return the radius of an object RMS-normalised to ‖v‖ = norm that reaches an SNR in the file.

    The attacker moves the file by ‖x‖·10^(−SNR/20); RMS normalisation, c = norm, carries R to
    ‖x‖·sin(2·arcsin(R/(2c))), so R = 2c·sin(½·arcsin(10^(−SNR/20))), and a little more for rounding.
    """
    radius = 2 * norm * math.sin(math.asin(10 ** (-snr_db / 20)) / 2)
    return (radius + _ROUNDING * (2 * norm + radius)) * _INWARD


def _certify(study: StudyConfig, cell: Cell) -> tuple[dict[str, Any], CertifyConfig]:
    """Return a cell's `certify` as written and as read, without the radii that it asks about."""
    settings = {**study.certify, **cell.block.certify}
    return settings, validate(CertifyConfig, settings, f"study: certify of block {cell.block.name!r}")


def _most(reach: Reach, certify: CertifyConfig) -> float:
    """Return the largest radius that is asked about, in σ: none above what all draws of one class could show."""
    return min(reach.most, certified_radius(certify.n, certify.n, certify.alpha, 1.0) or 0.0)


def _deciding(
    certify: CertifyConfig, study: StudyConfig, cell: Cell, stages: list[Any], settings: Mapping[str, Any]
) -> CertifyConfig:
    reach = cell.block.decide
    assert reach is not None
    most = _most(reach, certify)
    if reach.over_sigma:
        ratios: list[float] = list(reach.over_sigma)
    else:
        norm = _object_norm(stages)
        if norm is None:
            raise ConfigError(
                f"study: pipeline {cell.pipeline!r} has no `fit` and `rms_normalize`, in this order, without a floor and "
                "directly before its noise, from which the targets' radii follow: use decide: {over_sigma: […]}"
            )
        ratios = [0.0, *(target_radius(t, norm) / cell.sigma for t in study.targets)]
    radii = sorted({r * cell.sigma for r in ratios if r <= most})
    return validate(CertifyConfig, {**settings, "decide": {"radii": radii}}, f"study: decide of {cell.name}")


def _object_norm(stages: list[Any]) -> float | None:
    """Return ‖v‖ of every clip where it follows from the stages alone, else None: RMS target × √samples.

    It does for `fit`, then `rms_normalize`, then the noise, and without a floor, below which a quiet clip keeps another
    RMS. A stage behind `fit` may change the length, one behind `rms_normalize` the norm; `fit` does so itself.
    Seconds are at the rate of the last `resample`, by default 16 kHz.
    """
    rate: float = 16_000
    samples: int | None = None
    norm: float | None = None
    for stage in stages:
        name, fields = (stage, {}) if isinstance(stage, str) else next(iter(stage.items()))
        fields = fields or {}
        if "noise" in name:
            return norm
        if name == "rms_normalize":
            sure = samples is not None and not fields.get("floor")
            norm = float(fields.get("target", 1.0)) * math.sqrt(samples or 0) if sure else None
            continue
        norm = samples = None
        if name == "resample":
            rate = fields.get("rate", rate)
        elif name == "fit":
            samples = fields.get("samples") or max(1, round(float(fields.get("seconds") or 0) * rate))
    return None


def _based(data: DataConfig, base: Path) -> DataConfig:
    return data.model_copy(update={"root": (base / data.root).resolve()})
