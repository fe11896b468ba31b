"""The YAML of a study: data sets, pipelines with blanks, models, and the grid of cells.

A pipeline is written as in a run's config, with `$name` where a cell puts a value of its own: `$sigma`, or
whatever else the grid varies, or what `set` of the data set says.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from soundcert.config import CertifyConfig, read_yaml, validate
from soundcert.data import DataConfig
from soundcert.errors import ConfigError
from soundcert.runs.summary import SNR_GRID

Scalar = float | int | str


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudyData(_Part):
    """A data set: what trains, what chooses and what tests."""

    title: str = Field(description="the data set's name in tables")
    clips: DataConfig = Field(
        description="where the clips are: source and root; a limit is one of training clips"
    )
    folds: tuple[int, ...] = Field(
        (),
        description="folds to test on in turn: the fold after each validates and the others train; "
        "without folds, the official splits are used",
    )
    testing_limit: int | None = Field(None, ge=1, description="at most so many testing clips (of each fold)")
    validation_limit: int | None = Field(None, ge=1, description="at most so many validation clips choose")
    extra: tuple[DataConfig, ...] = Field((), description="more training clips, with the same labels")
    values: dict[str, Scalar] = Field({}, alias="set", description="values for the pipelines' blanks")
    train: dict[str, Any] = Field({}, description="the recipe: fields of a config's `train`")
    note: str = Field("", description="what must be said wherever a figure stands, such as the classes")


class Member(_Part):
    """One of an ensemble: the model of a cell of the grid that is like the ensemble's own."""

    model: str = Field(description="the member's name among the models")
    values: dict[str, Scalar] = Field({}, alias="set", description="its values for the pipelines' blanks")


class StudyModel(_Part):
    """A model: a reference network with its options and what its training does differently, or an ensemble of such."""

    network: str | None = Field(None, description="a reference network")
    members: tuple[Member, ...] = Field(
        (),
        description="or an ensemble: networks that other cells train with the same σ, which answer together",
    )
    consensus: int | None = Field(
        None,
        ge=2,
        description="members, from the first, that are enough where they agree: the others are not asked",
    )
    options: dict[str, int | float] = Field({}, description="the network's options")
    features: dict[str, dict[str, Any]] | Literal["none"] = Field(
        {},
        description="the feature stage that the model asks for, not the pipelines' own; none where it hears waveforms",
    )
    train: dict[str, Any] = Field({}, description="fields of the recipe that differ from the data set's")

    @model_validator(mode="after")
    def _one_kind(self) -> StudyModel:
        if self.members:
            if self.network is not None or self.options or self.features or self.train:
                raise ValueError("an ensemble has nothing of its own beside its members")
            if len(self.members) < 2:
                raise ValueError("an ensemble needs two members or more")
            if self.consensus is not None and self.consensus >= len(self.members):
                raise ValueError(f"consensus must be below the number of members, {len(self.members)}")
        elif self.consensus is not None:
            raise ValueError("consensus goes with members: it says how many that agree are enough")
        elif self.network is None:
            raise ValueError("name a network, or the members of an ensemble")
        return self

    @model_validator(mode="after")
    def _one_stage(self) -> StudyModel:
        if self.features != "none" and len(self.features) > 1:
            raise ValueError("features: name one stage, such as {log_mel: {n_mels: 32}}")
        return self


class Reach(_Part):
    """Radii to decide. Name one: SNRs of a perturbation of the object, or multiples of σ."""

    targets: bool = Field(False, description="the radii of the study's target SNRs, as far as σ reaches")
    over_sigma: tuple[float, ...] = Field((), description="radii, in multiples of σ")
    most: float = Field(2.75, gt=0, description="targets above so many σ are left out: they cost the most")

    @model_validator(mode="after")
    def _one(self) -> Reach:
        if self.targets == bool(self.over_sigma):
            raise ValueError("name either targets: true or over_sigma")
        return self


class Block(_Part):
    """A part of the grid: every combination of what it lists is a cell."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", description="the block's name, which tables are made for")
    data: tuple[str, ...] = Field(min_length=1, description="data sets")
    pipeline: tuple[str, ...] = Field(min_length=1, description="pipelines")
    model: tuple[str, ...] = Field(min_length=1, description="models")
    vary: dict[str, tuple[Scalar, ...]] = Field({}, description="values for the pipelines' blanks, by name")
    folds: tuple[int, ...] = Field((), description="test only these of the data set's folds")
    testing_limit: int | None = Field(None, ge=1, description="at most so many testing clips (of each fold)")
    certify: dict[str, Any] = Field({}, description="fields of `certify` that differ from the study's")
    decide: Reach | None = Field(None, description="radii to decide; without it every clip gets n draws")
    choose: int | None = Field(
        None, ge=20, description="draws on each validation clip, to choose a cell for each target"
    )
    test: Literal["all", "chosen", "none"] = Field(
        "all",
        description="certify testing clips in every cell, only in those that validation clips chose, or in none (members)",
    )

    @model_validator(mode="after")
    def _choosing(self) -> Block:
        if self.test == "chosen" and self.choose is None:
            raise ValueError("test: chosen needs `choose`, the draws on validation clips")
        if self.test == "none" and self.choose is not None:
            raise ValueError(
                "test: none is for cells that train members: without `choose`, since a chosen cell is tested"
            )
        return self


class Published(_Part):
    """Figures of a paper, to stand beside ours. Keys: a data set's name, or `data/pipeline`."""

    source: str = Field(description="whose figures")
    figures: dict[str, dict[str, float | str]] = Field(
        description="by data set or data/pipeline, then by figure"
    )


class StudyConfig(_Part):
    """A whole study."""

    title: str
    data: dict[str, StudyData] = Field(min_length=1)
    pipelines: dict[str, tuple[Any, ...]] = Field(min_length=1)
    models: dict[str, StudyModel] = Field(min_length=1)
    grid: tuple[Block, ...] = Field(min_length=1)
    certify: dict[str, Any] = Field({}, description="fields of a config's `certify`, for every block")
    targets: tuple[float, ...] = Field(
        tuple(map(float, SNR_GRID)), description="SNRs in dB above 0, from weak to strong"
    )
    published: Published | None = None

    @field_validator("targets")
    @classmethod
    def _reachable(cls, targets: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < target < math.inf for target in targets):
            raise ValueError("SNRs above 0 dB: a perturbation as strong as the file itself can silence it")
        return targets

    @model_validator(mode="after")
    def _names(self) -> StudyConfig:
        for block in self.grid:
            for kind, names, known in (
                ("data set", block.data, self.data),
                ("pipeline", block.pipeline, self.pipelines),
                ("model", block.model, self.models),
            ):
                for name in names:
                    if name not in known:
                        raise ConfigError(
                            f"study: block {block.name!r} names the {kind} {name!r}, which the study has not"
                        )
        for name, model in self.models.items():
            for member in model.members:
                if member.model not in self.models or self.models[member.model].members:
                    raise ConfigError(
                        f"study: the ensemble {name!r} names {member.model!r}, which is no network of the study's models"
                    )
        blocks = [block.name for block in self.grid]
        if len(set(blocks)) < len(blocks):
            raise ConfigError("study: two blocks of the grid have one name")
        validate(CertifyConfig, self.certify, "study: certify")
        return self


def load_study(path: Path) -> StudyConfig:
    """Read a study's YAML. ConfigError gives the first mistake in one line."""
    return validate(StudyConfig, read_yaml(path), str(path))
