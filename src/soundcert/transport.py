"""A radius carried through stages, from the certified object back to the file's decoded samples.

Every step is a proven lower bound (a stage's `pull_back`), evaluated in float64. The model hears the
object after one rounding to float32; R is first reduced by what that rounding can add on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soundcert.errors import TransportError, did_you_mean
from soundcert.pipeline import Route
from soundcert.stages import Quantize
from soundcert.stages.base import row_norm

# Rounding to nearest in float32 moves a value x by at most 2^-24·|x| (or 2^-150 near zero).
_ROUNDING = 2.0**-24
_TINY = 2.0**-149
# The float64 front: a generous bound on the relative error of sums over up to 10^9 values.
_FRONT = 1e-12


@dataclass(frozen=True)
class Step:
    """One link of the chain: a radius before the stage, given the radius after it."""

    stage: str
    space: str
    radius: float


@dataclass(frozen=True)
class Transported:
    """A proven radius in another space, with the chain of bounds that proves it.

    `norm` is the clip's ℓ2 norm in that space. `radius` may be infinite where a stage forgets the
    perturbation altogether.
    """

    space: str
    radius: float
    norm: float
    chain: tuple[Step, ...]

    @property
    def snr_db(self) -> float:
        from soundcert.diagnostics import snr_db

        return snr_db(self.norm, self.radius) if self.radius > 0 else math.inf

    def __str__(self) -> str:
        from soundcert.bounds import format_down, format_up

        lines = [f"Proven in the space {self.space!r}: radius {format_down(self.radius, significant=4)} (ℓ2)"]
        if 0 < self.radius < math.inf and self.norm > 0:
            lines[0] += f", {format_up(self.snr_db, decimals=2)} dB under the clip"
        lines += [f"  {format_down(s.radius, significant=4):>10}  {s.stage}" for s in reversed(self.chain)]
        return "\n".join(lines)


def rounding_allowance(v: Tensor, radius: float) -> float:
    """Return what rounding v and any v′ within `radius` of it to float32 can add to their distance."""
    norm = float(torch.linalg.vector_norm(v))
    per_point = _TINY * math.sqrt(v.numel())
    return (_ROUNDING + _FRONT) * (2 * norm + radius) + 2 * per_point


def check_space(route: Route, name: str) -> None:
    """Raise TransportError unless the pipeline has a space of this name at the noise or above it."""
    known = dict.fromkeys(("file", *(s.name for s in route.spaces[: route.noise_index + 1]), "object"))
    if name not in known:
        raise TransportError(f"there is no space {name!r} above the noise{did_you_mean(name, known)}")


def carry(
    route: Route,
    points: Sequence[Tensor],
    radius: float,
    name: str = "file",
    *,
    exact: bool = False,
    pcm_step: float | None = None,
) -> Transported:
    """Pull `radius` at the certified object back to the first space called `name` (or to the file).

    points: the clip before each stage of the front and after the last, as `Pipeline.front_trace`
    returns them. exact: every file of this format is exact in float32 (integers of 24 bits at most), so
    that a pipeline without a front rounds nothing. pcm_step: the step of a PCM file's format
    (`Clip.pcm_step`): where its multiples are all on the lattice of a `quantize` that comes first, that
    stage changes no file of this format, and the radius is about those. With lattice noise the object is
    heard as it is, and nothing is rounded. name="object" gives the raw radius, which is about the object
    as the model hears it. Raises TransportError for a name that there is not, and where a stage has no
    proven bound.
    """
    check_space(route, name)
    names = [space.name for space in route.spaces[: route.noise_index + 1]]
    stop = route.noise_index if name == "object" else (0 if name == "file" else names.index(name))
    current = radius
    chain = [Step("certificate", names[-1], radius)]
    if name != "object" and not (exact and not route.front) and route.noise.lattice is None:
        current = max(0.0, radius - rounding_allowance(points[-1], radius))
        chain.append(Step("float32 rounding of the object", names[-1], current))
    index = route.noise_index
    while index > stop:
        index -= 1
        stage = route.stages[index]
        target = torch.tensor([current], dtype=torch.float64)
        described = stage.describe()
        bound = None
        if index == 0 and isinstance(stage, Quantize) and pcm_step is not None and stage.keeps(pcm_step):
            bound = target
            described += ", on whose lattice every file of this format lies"
        elif index > stop:
            before = route.stages[index - 1]
            bound = before.pull_back_through(stage, points[index - 1].unsqueeze(0), target)
            if bound is not None:
                index -= 1
                described = f"{before.describe()} and {described}"
        if bound is None:
            bound = stage.pull_back(points[index].unsqueeze(0), target)
        if bound is None:
            raise TransportError(
                f"the certificate does not transport past {stage.name}: nothing is proven about it; "
                f"it holds in the space {names[index + 1]!r}"
            )
        current = max(0.0, float(bound[0]))
        chain.append(Step(described, names[index], current))
    label = name if name in ("file", "object") else names[stop]
    return Transported(label, current, float(row_norm(points[stop].unsqueeze(0))[0]), tuple(chain))
