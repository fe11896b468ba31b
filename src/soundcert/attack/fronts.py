"""The map from a space above the noise to the certified object, with gradients where a stage has none.

Values are those of the pipeline's own front. Where a stage is flat or stands outside torch's graph, only the
*gradient* is another's (straight-through): that of the identity for rounding, that of the sinc filter for
soxr. An attack is a search, and whatever it finds is measured with the values; so nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from soundcert.audio import Clip
from soundcert.errors import ConfigError, InputError
from soundcert.pipeline import Pipeline, Route
from soundcert.stages import Model, Quantize, Resample, Stage
from soundcert.transport import check_space

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Front:
    """The stages from one space down to the certified object, evaluated in float64.

    x: the clip in that space, `(*shape)`. v: the object that it gives. Called on `(batch, *shape)`.
    """

    route: Route
    space: str
    start: int
    x: Tensor
    v: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        for stage in self.route.front[self.start :]:
            x = straight_through(stage, x)
        return x

    @property
    def is_waveform(self) -> bool:
        """Whether the space holds samples, so that a ratio of norms in it is an SNR."""
        return self.route.spaces[self.start].kind == "waveform"


def front_from(pipe: Pipeline, clip: Clip, space: str = "file") -> Front:
    """Return the front from the first space called `space` ("file", "object", or a stage's).

    Raises TransportError for a name that there is not, InputError for a clip without an object.
    """
    route = pipe.route(clip.space)
    check_space(route, space)
    names = [s.name for s in route.spaces[: route.noise_index + 1]]
    start = {"file": 0, "object": route.noise_index}.get(space)
    if start is None:
        start = names.index(space)
    points = pipe.front_trace(clip)
    # Tensors of inference mode can never meet a gradient; copies can.
    return Front(route, space, start, points[start].clone(), points[-1].clone())


def straight_through(stage: Stage, x: Tensor) -> Tensor:
    """Run a stage, with a gradient that is of use even where its own is zero or missing."""
    if isinstance(stage, Model):
        y = stage(x.float()).to(x.dtype)
    elif x.requires_grad and isinstance(stage, Quantize):
        y = x + (stage(x) - x).detach()
    elif x.requires_grad and isinstance(stage, Resample) and stage.method == "soxr":
        smooth = replace(stage, method="sinc")(x)
        y = smooth + (stage(x) - smooth).detach()
    else:
        y = stage(x)
    if x.requires_grad and not y.requires_grad:
        raise ConfigError(
            f"stage {stage.name} gives no gradient, so there is nothing that an attack could follow: write it with "
            "torch's operations, or attack a space below it"
        )
    return y


def distances(phi: Map, x: Tensor, v: Tensor, delta: Tensor) -> Tensor:
    """Return ‖φ(x + δ) − v‖ for each row of `delta` `(batch, size)`; 0 where φ gives nothing finite."""
    with torch.no_grad():
        moved = phi((x.flatten() + delta).reshape(-1, *x.shape)).flatten(1) - v.flatten()
        out: Tensor = torch.linalg.vector_norm(moved, dim=1).nan_to_num(nan=0.0, posinf=0.0)
    return out


def check_settings(numbers: Sequence[tuple[str, int]]) -> None:
    """Raise ConfigError unless each is a whole number from 1."""
    for name, value in numbers:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number from 1, got {value!r}")


def check_recording(clip: Clip, name: str, digest: str) -> None:
    """Raise InputError unless the clip is the recording that a certificate is about."""
    if clip.digest != digest:
        raise InputError(
            f"{clip.name}: the certificate is about the recording {digest} ({name}), this is {clip.digest}: "
            "attack the clip that was certified"
        )
