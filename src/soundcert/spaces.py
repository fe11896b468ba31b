"""What the values of a tensor are: the spaces that certificates live in.

Conventions
-----------
A shape never includes the batch. Rates are in hertz. A file's samples are in [-1, 1): the decoded
integers divided by 2^(bits-1). One-channel signals have shape `(samples,)`, others
`(channels, samples)`; features have shape `(bands, frames)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["waveform", "feature", "latent", "logits"]


@dataclass(frozen=True)
class Space:
    """A vector space in the pipeline.

    `name` says which one it is ("file", "waveform", "log-mel", ...); `kind` is what a perturbation
    there would be; `unit` is the unit of one coordinate; `gain` is true once a gain was applied; `cut`
    says how the clip was cut out of a longer recording, if it was.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    rate: int | None = None
    unit: str = "full scale"
    gain: bool = False
    cut: str | None = None

    @property
    def size(self) -> int:
        """Number of coordinates, d."""
        return math.prod(self.shape)

    @property
    def samples(self) -> int:
        """Samples along time, for a waveform."""
        return self.shape[-1]

    @property
    def channels(self) -> int:
        """Channels of a waveform; 1 for anything else."""
        return self.shape[0] if self.kind == "waveform" and len(self.shape) > 1 else 1

    def evolve(self, **changes: Any) -> Space:
        return replace(self, **changes)

    def __str__(self) -> str:
        shape = " × ".join(str(n) for n in self.shape)
        rate = f", {self.rate} Hz" if self.rate and self.kind == "waveform" else ""
        return f"{self.name} ({shape}{rate}; {self.unit})"
