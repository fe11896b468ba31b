"""What a user writes under `data:`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..errors import ConfigError, did_you_mean
from .cut import CutConfig
from .items import SPLITS, canonical_split
from .registry import source_names


class DataConfig(BaseModel):
    """Which clips, and which of them. `labels` and `label_map` speak of the data's own labels.

    Filters apply in this order: split and folds, labels, cut, limit. The limit takes the first clips in
    the order of BLAKE2b-128("{shuffle_seed}:{name}"): an unbiased sample (not a balanced one) that
    depends on nothing but the names, and that a larger limit only adds to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        description="How the data is laid out; `soundcert data` describes each.",
        json_schema_extra={"examples": ["folder", "manifest", "speech_commands", "esc10", "esc50"]},
    )
    root: Path = Field(
        description="Folder of the data, or the list of files; relative to the configuration file."
    )
    split: str | None = Field(
        None, description="Keep one split: training, validation or testing, or as a manifest names it."
    )
    folds: tuple[int, ...] | None = Field(
        None, min_length=1, description="Keep these folds (ESC-10, ESC-50 and manifests with a fold column)."
    )
    labels: tuple[str, ...] | None = Field(
        None, min_length=1, description="Keep clips of these labels, as the data names them."
    )
    label_map: dict[str, str] = Field(
        {}, description="The model's name for labels that the data names differently: {data: model}."
    )
    cut: CutConfig | None = Field(
        None,
        description="Cut long recordings into clips, each certified by itself; clips are then its parts.",
    )
    limit: int | None = Field(None, ge=1, description="Keep at most this many clips, an unbiased sample.")
    shuffle_seed: int = Field(0, description="Which sample `limit` takes.")

    # ConfigError is not a ValueError, so pydantic lets it through as the one line that it is.

    @field_validator("source", mode="before")
    @classmethod
    def _known_source(cls, value: Any) -> Any:
        known = source_names()
        if isinstance(value, str) and value not in known:
            raise ConfigError(
                f"data.source: expected a known source, got {value!r}{did_you_mean(value, known)}"
            )
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _text_labels(cls, value: Any) -> Any:
        return [_label(item) for item in value] if isinstance(value, list | tuple) else value

    @field_validator("label_map", mode="before")
    @classmethod
    def _text_map(cls, value: Any) -> Any:
        return (
            {_label(key): _label(item) for key, item in value.items()} if isinstance(value, dict) else value
        )

    @field_validator("split")
    @classmethod
    def _canonical(cls, value: str | None) -> str | None:
        return None if value is None else canonical_split(value)

    @model_validator(mode="after")
    def _what_the_source_has(self) -> DataConfig:
        if self.split is not None and self.source == "folder":
            raise ConfigError(
                f"data.split: expected none for source 'folder', got {self.split!r}; "
                "point data.root at the folder of that split"
            )
        if self.split is not None and self.source in ("esc10", "esc50"):
            raise ConfigError(
                f"data.split: expected none for source {self.source!r}, got {self.split!r}; "
                "ESC is split by folds: use data.folds, for example [5]"
            )
        if self.split is not None and self.source == "speech_commands" and self.split not in SPLITS:
            hint = did_you_mean(self.split, SPLITS)
            raise ConfigError(f"data.split: expected a split of Speech Commands, got {self.split!r}{hint}")
        if self.folds is not None and self.source in ("folder", "speech_commands"):
            use = "data.split" if self.source == "speech_commands" else "a manifest with a fold column"
            raise ConfigError(f"data.folds: source {self.source!r} has no folds; use {use}")
        return self


def without_roots(values: Any) -> Any:
    """Return a dumped configuration without the folders of its data: clips count by their names, not by their place."""
    if isinstance(values, dict):
        return {key: without_roots(item) for key, item in values.items() if key != "root"}
    return [without_roots(item) for item in values] if isinstance(values, list) else values


def split_words(data: Mapping[str, Any]) -> str | None:
    """Return which part of the data a config takes, in words; None where neither it nor the source says."""
    if data.get("split"):
        return str(data["split"])
    if data.get("folds"):
        return f"folds {', '.join(map(str, data['folds']))}"
    return "all clips of the list" if data.get("source") in ("folder", "manifest") else None


def _label(value: Any) -> Any:
    if isinstance(value, bool):
        raise ConfigError(
            f"data labels: expected text, got {value}; YAML reads bare yes, no, on and off as true and "
            'false: put quotes around them ("yes")'
        )
    return str(value) if isinstance(value, int) else value
