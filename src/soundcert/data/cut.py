"""Long recordings cut into clips before the pipeline, so that each part is certified by itself.

This is the other way from the stage `windows`, which cuts below the noise: there a whole recording is one certified
object and its windows vote; here every clip is an object with its own noise and certificate.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..audio import length_of
from ..errors import ConfigError, InputError
from .items import Item


class CutConfig(BaseModel):
    """Cut every recording into clips of one length, each certified by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = Field(gt=0, allow_inf_nan=False, description="length of a clip")
    hop: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="from one clip's start to the next; by default the length",
    )
    tail: Literal["keep", "drop"] = Field(
        "keep", description="whether a last part that is shorter is kept, as a shorter clip, or left out"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, values: Any) -> Any:
        for key, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, bool):
                raise ConfigError(f"data.cut.{key}: expected a number of seconds, got {value}")
        return values

    @model_validator(mode="after")
    def _no_gaps(self) -> CutConfig:
        if self.hop is not None and self.hop > self.seconds:
            raise ConfigError(
                f"data.cut.hop: expected at most the length, {self.seconds:g} s, got {self.hop:g}: what lies between "
                "two clips would never be heard"
            )
        return self

    def words(self) -> str:
        """Return how recordings are cut, as the contract says it."""
        every = "" if self.hop is None else f" every {self.hop:g} s"
        return f"{self.seconds:g} s{every}" + ("" if self.tail == "keep" else ", the rest left out")

    def parts(self, frames: int, rate: int) -> list[tuple[int, int]]:
        """Return start and length, in frames, of each clip of a recording; a short one is one clip as it is."""
        length = max(1, round(self.seconds * rate))
        hop = max(1, round((self.hop or self.seconds) * rate))
        if frames <= length:
            return [(0, frames)]
        whole, rest = divmod(frames - length, hop)
        out = [(k * hop, length) for k in range(whole + 1)]
        if rest and self.tail == "keep":
            start = (whole + 1) * hop
            out.append((start, min(length, frames - start)))
        return out


def cut_items(items: Iterable[Item], cut: CutConfig) -> list[Item]:
    """Return the clips that recordings are cut into, named as media fragments: `a.wav#t=1.5,2.5`, in seconds.

    A recording whose length cannot be read stays one item, which fails with its reason when it is loaded.
    """
    out: list[Item] = []
    for item in items:
        try:
            frames, rate = length_of(item.path, name=item.name)
        except InputError:
            out.append(replace(item, cut=cut.words()))
            continue
        for start, length in cut.parts(frames, rate):
            ends = ",".join(_seconds(at / rate) for at in (start, start + length))
            out.append(
                replace(
                    item,
                    name=f"{item.name}#t={ends}",
                    start=start,
                    frames=length,
                    recording=item.name,
                    cut=cut.words(),
                )
            )
    return out


def clips_of_file(path: str | os.PathLike[str], cut: CutConfig | None) -> list[Item]:
    """Return one file as the clips that a config makes of it, by its own path as its name."""
    item = Item(os.fspath(path), Path(path), None)
    return [item] if cut is None else cut_items([item], cut)


def _seconds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
