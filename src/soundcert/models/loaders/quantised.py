"""Models that take and give small integers: real value = (q − zero point)·scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from soundcert.errors import ConfigError, ModelError

OPTIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")


@dataclass(frozen=True)
class Affine:
    """q = round(x/scale) + zero point, limited to the type's range; and back."""

    dtype: np.dtype[Any]
    scale: float
    zero_point: int

    def quantise(self, x: np.ndarray) -> np.ndarray:
        limits = np.iinfo(self.dtype)
        q = np.rint(x.astype(np.float64) / self.scale) + self.zero_point
        return np.asarray(q.clip(limits.min, limits.max).astype(self.dtype))

    def real(self, q: np.ndarray) -> np.ndarray:
        return np.asarray((q.astype(np.float32) - self.zero_point) * np.float32(self.scale))


def affine(
    side: str, dtype: np.dtype[Any], found: tuple[float, int] | None, options: Mapping[str, Any], name: str
) -> Affine | None:
    """Return how a model's integers are read; None for floats. side: "input" or "output"."""
    if dtype.kind == "f":
        return None
    if dtype.kind not in "iu":
        raise ModelError(f"the model {name} has {side}s of type {dtype}: floats or integers are wanted")
    given = options.get(f"{side}_scale"), options.get(f"{side}_zero_point", 0)
    if given[0] is not None:
        scale, zero = given
        if not isinstance(scale, int | float) or not scale > 0 or not isinstance(zero, int):
            raise ConfigError(
                f"model: {side}_scale must be positive and {side}_zero_point a whole number, got {given}"
            )
        return Affine(dtype, float(scale), zero)
    if found is None:
        raise ModelError(
            f"the model {name} has {side}s of type {dtype}, and its file does not say what they stand for: write "
            f"`options: {{{side}_scale: …, {side}_zero_point: …}}`"
        )
    return Affine(dtype, *found)
