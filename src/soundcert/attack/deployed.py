"""The same certificate, and a pipeline in use that differs from the one that was certified.

A certificate is about the object that its own front makes of a clip. A device that scales, clips or resamples
otherwise hands the model another object, often far outside the ball, without any attacker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from soundcert.attack.smoothed import Claim
from soundcert.audio import Clip
from soundcert.certify import SmoothedClassifier, check_prediction
from soundcert.engines import EngineName, Precision
from soundcert.errors import ConfigError, InputError
from soundcert.pipeline import Pipeline
from soundcert.stages import Clip as ClipStage
from soundcert.stages import PeakNormalize, Resample, RmsNormalize, Stage, Standardize

_GAINS = (RmsNormalize, PeakNormalize, Standardize)


def deployed_variants(pipe: Pipeline) -> dict[str, Pipeline]:
    """Return pipelines that differ from this one as deployments do, by what was changed.

    Another gain policy: the first gain computed from the clip becomes one to a peak or to an RMS (at their
    defaults, full scale), or is left out. Clipping to [−1, 1]: after the last gain above the noise, or at the
    clip's own samples where there is none. Another resampler: sinc and soxr exchanged.
    """
    stages = pipe.stages
    out: dict[str, list[Stage]] = {}
    gains = [i for i, stage in enumerate(stages) if isinstance(stage, _GAINS)]
    if gains:
        at = gains[0]
        for other in (PeakNormalize(), RmsNormalize()):
            if type(other) is not type(stages[at]):
                out[f"{other.describe()} for {stages[at].name}"] = [*stages[:at], other, *stages[at + 1 :]]
        out[f"no {stages[at].name}"] = [*stages[:at], *stages[at + 1 :]]
    above = [i for i, s in enumerate(stages[: pipe.noise_index]) if s.family == "gain"]
    place = above[-1] + 1 if above else 0
    clipping = ClipStage()
    where = f"after {stages[place - 1].name}" if above else "of the samples"
    out[f"{clipping.describe()} {where}"] = [*stages[:place], clipping, *stages[place:]]
    for i, stage in enumerate(stages):
        if isinstance(stage, Resample):
            swapped = Resample(stage.rate, method="soxr" if stage.method == "sinc" else "sinc")
            out[f"resampled by {swapped.method}"] = [*stages[:i], swapped, *stages[i + 1 :]]
    return {name: Pipeline(changed) for name, changed in out.items()}


@dataclass(frozen=True)
class Deployed:
    """What a changed pipeline makes of a certified clip.

    outcome: its smoothed classifier gives the certified label ("same"), another ("flipped"), neither at this
    level ("abstained"); or the clip or the model does not fit it ("failed", with the reason). distance: of its object
    from the certified one, in certified radii; None where the two have different shapes. Counts as in a prediction.
    """

    variant: str
    outcome: Literal["same", "flipped", "abstained", "failed"]
    distance: float | None = None
    label: str | None = None
    count: int | None = None
    runner_up: int | None = None
    n: int | None = None
    level: float | None = None
    reason: str | None = None


class Deployments:
    """The smoothed classifiers of changed pipelines, made ready once for many clips."""

    def __init__(
        self,
        pipe: Pipeline,
        variants: Mapping[str, Pipeline] | None = None,
        *,
        micro_batch: int | None = None,
        engine: EngineName = "torch",
        precision: Precision = "fp32",
        device: str = "cpu",
    ) -> None:
        self.pipe = pipe
        named = deployed_variants(pipe) if variants is None else variants
        self._classifiers = {
            name: SmoothedClassifier(
                changed, micro_batch=micro_batch, engine=engine, precision=precision, device=device
            )
            for name, changed in named.items()
        }

    def try_clip(
        self, clip: Clip, claim: Claim, *, n: int = 1000, level: float = 1e-3, seed: int = 0
    ) -> Iterable[Deployed]:
        """Yield what each changed pipeline answers for a certified clip; those that change nothing are left out.

        The noise is of purpose "prediction": no certificate has seen it. An answer is wrong with probability ≤ level.
        """
        check_prediction(n, level)
        v = self.pipe.object_of(clip)
        for name, classifier in self._classifiers.items():
            try:
                other = classifier.pipe.object_of(clip)
                distance = None
                if other.shape == v.shape:
                    if torch.equal(other, v) and classifier.pipe.base == self.pipe.base:
                        continue
                    gap = float(torch.linalg.vector_norm(other - v))
                    distance = gap / claim.radius if claim.radius > 0 else None
                answer = classifier.predict(clip, n=n, alpha=level, seed=seed)
            except (InputError, ConfigError) as error:
                yield Deployed(name, "failed", reason=str(error))
                continue
            outcome: Literal["same", "flipped", "abstained"] = "abstained"
            if answer.status == "predicted":
                outcome = "same" if answer.candidate == claim.label else "flipped"
            yield Deployed(
                name, outcome, distance, answer.candidate, answer.count, answer.runner_up, n, level
            )
