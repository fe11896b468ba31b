"""Certify and predict: the published algorithms, and the certificate that says what it covers.

Sources: Cohen, Rosenfeld and Kolter 2019 (arXiv 1902.02918), Algorithm 1 (CERTIFY and PREDICT); for the
abstention of PREDICT, Hung and Fithian 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from soundcert import bounds
from soundcert.audio import Clip
from soundcert.bounds import BoundName, format_down, format_up
from soundcert.contract import Contract, read_contract
from soundcert.diagnostics import burst_level_db, distortion_at, norm_ratio_db
from soundcert.errors import AbstainedError, ConfigError, InputError, TransportError
from soundcert.models.weights import state_digest
from soundcert.pipeline import Pipeline, Route
from soundcert.randomness import NoiseKey, Purpose, fresh_seed
from soundcert.sampling import BaseClassifier, Job, count_votes
from soundcert.stages import Model
from soundcert.transport import Transported, carry

Status = Literal["certified", "abstained"]


@dataclass(frozen=True, eq=False)
class _Origin:
    """Where a certificate was made: what transport needs, and nothing that is stored."""

    route: Route
    points: Sequence[Tensor]
    exact: bool


@dataclass(frozen=True)
class Certificate:
    """What one certification found. `print` it for the statement in plain words.

    status: "certified" or "abstained". An abstained certificate has no label, radius or decibels:
    asking for one raises AbstainedError. candidate: the class that the selection draws chose.
    count of n: fresh draws that gave it; p_lower: the lower bound of its probability at level alpha.
    p_upper, max_other: for the two-class bound, the bound and the count of the strongest rival.
    ceiling: the largest radius that n and alpha allow. All radii are ℓ2, in the certified object.
    """

    clip: str
    digest: str
    status: Status
    candidate: str
    count: int
    n: int
    n0: int
    alpha: float
    seed: int
    bound: BoundName
    sigma: float
    p_lower: float
    ceiling: float
    object_norm: float
    contract: Contract
    p_upper: float | None = None
    max_other: int | None = None
    rate: int | None = None
    lsb: float | None = None
    _radius: float | None = field(default=None, repr=False)
    _origin: _Origin | None = field(default=None, repr=False, compare=False)

    def _certified(self, what: str) -> float:
        if self._radius is None:
            raise AbstainedError(
                f"{self.clip}: the smoothed classifier abstained, so there is no {what}; check `status` first"
            )
        return self._radius

    @property
    def label(self) -> str:
        """The certified label."""
        self._certified("label")
        return self.candidate

    @property
    def radius(self) -> float:
        """The raw radius: ℓ2, in the certified object, in its own unit."""
        return self._certified("radius")

    @property
    def saturated(self) -> bool:
        """Whether the radius is the Monte-Carlo ceiling: more draws would have given more."""
        return self._radius is not None and self._radius >= self.ceiling

    @property
    def snr_db(self) -> float:
        """SNR-equivalent of the radius, in dB, rounded up; waveform objects alone."""
        if not self.contract.about_waveform:
            raise AttributeError(
                f"the certified object is {self.contract.certified_object}: a ratio of feature norms is not an "
                "SNR; see norm_ratio_db"
            )
        return norm_ratio_db(self.object_norm, self._certified("SNR-equivalent"))

    @property
    def norm_ratio_db(self) -> float:
        """20·log10(‖v‖/R), rounded up; outside waveforms it depends on gain, unit and floor."""
        return norm_ratio_db(self.object_norm, self._certified("norm ratio"))

    def in_space(self, name: str) -> Transported:
        """Return the radius carried to another space ("file", or a stage's), with the chain that proves it.

        Raises TransportError where a stage in between has no proven bound.
        """
        radius = self._certified("radius to carry")
        if self._origin is None:
            raise TransportError("this certificate was read from a file: load its clip and certify it again")
        return carry(self._origin.route, self._origin.points, radius, name, exact=self._origin.exact)

    def views(self) -> dict[str, float]:
        """Return the radius in every unit that can be stated for this object (see `radius_views`)."""
        radius = self._certified("radius")
        file = None
        if self._origin is not None:
            try:
                file = self.in_space("file")
            except TransportError:
                file = None
        return radius_views(self, radius, file)

    def to_dict(self) -> dict[str, Any]:
        """Return the record of a run: JSON values; fields that an abstention lacks are left out."""
        out: dict[str, Any] = {
            "clip": self.clip,
            "digest": self.digest,
            "status": self.status,
            "candidate": self.candidate,
            "count": self.count,
            "n": self.n,
            "n0": self.n0,
            "alpha": self.alpha,
            "seed": self.seed,
            "bound": self.bound,
            "sigma": self.sigma,
            "p_lower": self.p_lower,
            "ceiling": self.ceiling,
            "object_norm": self.object_norm,
            "saturated": self.saturated,
        }
        if self.max_other is not None:
            out["max_other"] = self.max_other
            out["p_upper"] = self.p_upper
        if self._radius is not None:
            out["label"] = self.candidate
            out["radius"] = self._radius
            out["views"] = {k: json_number(v) for k, v in self.views().items()}
        for key in ("gain", "displacement", "sensitivity"):
            value = getattr(self.contract, key)
            if value is not None:
                out[key] = value
        return out

    def __str__(self) -> str:
        share = f"{self.count} of {self.n} noisy copies, after {self.n0} others had chosen the class"
        if self._radius is None:
            return (
                f"{self.clip}: abstained. The likeliest label was {self.candidate!r} ({share}), but its probability "
                f"is only proven to be at least {format_down(self.p_lower, significant=4)} at α = {self.alpha:g}: "
                f"not more than its rivals'. Nothing is claimed about this clip."
            )
        lines = [
            f"{self.clip}: certified {self.candidate!r} within radius {format_down(self._radius, significant=4)} "
            f"({self.contract.unit}, ℓ2); {share}; wrong with probability at most α = {self.alpha:g} "
            f"over the noise of seed {self.seed}, which must be fixed before any result is seen."
        ]
        if self.saturated:
            lines.append(
                f"The radius is the Monte-Carlo ceiling for n = {self.n}: every draw agreed, and it tells n, not the model."
            )
        lines.append(self.contract.statement())
        if self._origin is not None and self.contract.perturbation_location != "input":
            try:
                file = self.in_space("file")
                lines.append(
                    f"Proven for the file's samples: radius {format_down(file.radius, significant=4)} (full scale), "
                    f"SNR {format_up(file.snr_db, decimals=2)} dB."
                    if file.radius > 0
                    else "For the file's samples nothing is proven: the chain leaves a radius of 0."
                )
            except TransportError as error:
                lines.append(f"For the file's samples nothing is proven: {error}.")
        return "\n".join(lines)


def json_number(value: float) -> float | None:
    """JSON has no infinity; a radius without limit is null there."""
    return value if math.isfinite(value) else None


def radius_views(cert: Certificate, radius: float, file: Transported | None) -> dict[str, float]:
    """Return a radius in every view that can be stated, by name.

    r_over_sigma; snr_db (waveform objects) or norm_ratio_db; burst_20ms_db: the level if all of the
    perturbation sits in 20 ms, relative to the object's RMS; file_radius, file_snr_db and file_lsb (an
    ℓ2 norm in quantisation steps of the file) where the radius is proven for the file's samples.
    """
    contract = cert.contract
    out = {"r_over_sigma": math.nextafter(radius / cert.sigma, 0.0)}
    if contract.about_waveform:
        out["snr_db"] = norm_ratio_db(cert.object_norm, radius)
        rms = cert.object_norm / math.sqrt(contract.dimension)
        if cert.rate and rms > 0:
            out["burst_20ms_db"] = burst_level_db(radius, rms, cert.rate)
    else:
        out["norm_ratio_db"] = norm_ratio_db(cert.object_norm, radius)
    if file is not None and file.radius > 0:
        out["file_radius"] = file.radius
        out["file_snr_db"] = file.snr_db
        if cert.lsb:
            out["file_lsb"] = file.radius / cert.lsb  # exact: a step is a power of two
    return out


@dataclass(frozen=True)
class Prediction:
    """What the deployed smoothed classifier says of one clip.

    status: "predicted" or "abstained". count: draws for the winner, runner_up: for the second, of n.
    replay: the seed was given, so the draws can be repeated, by an attacker too.
    """

    clip: str
    digest: str
    status: Literal["predicted", "abstained"]
    candidate: str
    count: int
    runner_up: int
    n: int
    alpha: float
    p_value: float
    seed: int
    replay: bool

    @property
    def label(self) -> str:
        """The predicted label; AbstainedError after an abstention."""
        if self.status == "abstained":
            raise AbstainedError(f"{self.clip}: the smoothed classifier abstained; check `status` first")
        return self.candidate

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "clip": self.clip,
            "digest": self.digest,
            "status": self.status,
            "candidate": self.candidate,
            "count": self.count,
            "runner_up": self.runner_up,
            "n": self.n,
            "alpha": self.alpha,
            "p_value": self.p_value,
            "replay": self.replay,
        }
        if self.replay:
            out["seed"] = self.seed
        if self.status == "predicted":
            out["label"] = self.candidate
        return out

    def __str__(self) -> str:
        votes = f"{self.count} against {self.runner_up} votes of {self.n}"
        seed = (
            f"The seed {self.seed} was given: this is a replay. An attacker who knows it faces a fixed vote."
            if self.replay
            else "The noise came from fresh entropy."
        )
        if self.status == "abstained":
            return f"{self.clip}: abstained; {self.candidate!r} leads by {votes}, too few at α = {self.alpha:g}. {seed}"
        return (
            f"{self.clip}: {self.candidate!r}, {votes}. It differs from the smoothed classifier's label with "
            f"probability at most α = {self.alpha:g}. {seed}"
        )


class SmoothedClassifier:
    """A pipeline made ready to certify and predict: checked, optimised, reused over clips."""

    def __init__(self, pipe: Pipeline, *, micro_batch: int | None = None, workers: int | None = None) -> None:
        self.pipe = pipe
        self._micro_batch = micro_batch
        self._workers = workers
        self._bases: dict[object, BaseClassifier] = {}
        self._state: object = None

    def base(self, route: Route, v: Tensor, seed: int, digest: str) -> BaseClassifier:
        """Return the base classifier for objects of this route, checked the first time."""
        key = NoiseKey(seed, "probe", digest)
        # A network may be trained between two calls: what was prepared for other weights or modes is dropped.
        modules = [s.module for s in route.stages if isinstance(s, Model) and isinstance(s.module, nn.Module)]
        state = [(state_digest(m), any(part.training for part in m.modules())) for m in modules]
        if state != self._state:
            self._bases, self._state = {}, state
        place = _place(route)
        if place not in self._bases:
            base = BaseClassifier(route, self._micro_batch)
            base.check_rows(v, key)
            self._bases[place] = base
        return self._bases[place]

    def certify(
        self,
        clip: Clip,
        *,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 1e-3,
        seed: int = 0,
        bound: BoundName = "one-sided",
    ) -> Certificate:
        """Certify one clip; see the module's `certify`."""
        return self.certify_many([clip], n0=n0, n=n, alpha=alpha, seed=seed, bound=bound)[0]

    def certify_many(
        self,
        clips: Sequence[Clip],
        *,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 1e-3,
        seed: int = 0,
        bound: BoundName = "one-sided",
    ) -> list[Certificate]:
        """Certify clips whose certified objects have one shape, packing their draws into shared batches."""
        check_budget(n0, n, alpha, bound)
        if not clips:
            return []
        routes = [self.pipe.route(clip.space) for clip in clips]
        traces = [self.pipe.front_trace(clip) for clip in clips]
        if len({_place(route) for route in routes}) > 1:
            raise ConfigError(
                "certify_many: the clips' certified objects differ in shape; certify them one by one"
            )
        base = self.base(routes[0], traces[0][-1].float(), seed, clips[0].digest)
        objects = [trace[-1].float() for trace in traces]

        def jobs(purpose: Purpose, size: int) -> list[Job]:
            return [
                Job(v, NoiseKey(seed, purpose, c.digest), size) for v, c in zip(objects, clips, strict=True)
            ]

        chosen = count_votes(base, jobs("selection", n0), workers=self._workers).argmax(axis=1)
        counts = count_votes(base, jobs("estimation", n), workers=self._workers)
        return [
            _conclude(
                clip, route, trace, base, int(top), row, n0=n0, n=n, alpha=alpha, seed=seed, bound=bound
            )
            for clip, route, trace, top, row in zip(clips, routes, traces, chosen, counts, strict=True)
        ]

    def predict(
        self, clip: Clip, *, n: int = 1000, alpha: float = 1e-3, seed: int | None = None
    ) -> Prediction:
        """Predict with the deployed smoothed classifier; see the module's `predict`."""
        check_prediction(n, alpha)
        route = self.pipe.route(clip.space)
        v = self.pipe.object_of(clip).float()
        used = fresh_seed() if seed is None else seed
        base = self.base(route, v, used, clip.digest)
        counts = count_votes(
            base, [Job(v, NoiseKey(used, "prediction", clip.digest), n)], workers=self._workers
        )[0]
        top = int(counts.argmax())
        count = int(counts[top])
        runner_up = int(np.delete(counts, top).max(initial=0))
        p_value = bounds.binomial_two_sided_p(count, count + runner_up) if count else 1.0
        return Prediction(
            clip.name,
            clip.digest,
            "predicted" if p_value <= alpha else "abstained",
            base.labels[top],
            count,
            runner_up,
            n,
            alpha,
            p_value,
            used,
            seed is not None,
        )


def _place(route: Route) -> tuple[str, tuple[int, ...], int | None]:
    """Return what the stages below the noise depend on: objects that share it can share a batch."""
    return route.object.kind, route.object.shape, route.object.rate


def check_budget(n0: int, n: int, alpha: float, bound: BoundName) -> None:
    """Refuse, before any pass, numbers with which no clip could ever be certified."""
    for name, value in (("n0", n0), ("n", n)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number from 1, got {value!r}")
    needed = bounds.minimum_samples(alpha, bound)
    if n < needed:
        raise ConfigError(
            f"n = {n} is too small for alpha = {alpha:g} with the {bound} bound: even if every draw agreed, nothing "
            f"could be certified; use n ≥ {needed}"
        )


def check_prediction(n: int, alpha: float) -> None:
    """Refuse, before any pass, numbers with which every prediction would abstain."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"n must be a whole number from 1, got {n!r}")
    bounds.minimum_samples(alpha)  # refuses what is no probability of error
    if bounds.binomial_two_sided_p(n, n) > alpha:
        needed = next(k for k in range(n, n + 4000) if bounds.binomial_two_sided_p(k, k) <= alpha)
        raise ConfigError(
            f"n = {n} is too small for alpha = {alpha:g}: every prediction would abstain; use n ≥ {needed}"
        )


def _conclude(
    clip: Clip,
    route: Route,
    trace: list[Tensor],
    base: BaseClassifier,
    top: int,
    counts: np.ndarray,
    *,
    n0: int,
    n: int,
    alpha: float,
    seed: int,
    bound: BoundName,
) -> Certificate:
    """Turn the counts of the fresh sample into a certificate."""
    sigma = float(route.noise.sigma)
    count = int(counts[top])
    # The largest count of *all* other classes in the fresh sample, whichever was second in the selection.
    other = int(np.delete(counts, top).max(initial=0))
    radius = bounds.certified_radius(count, n, alpha, sigma, bound=bound, max_other=other)
    if bound == "two-class":
        p_lower, p_upper = bounds.two_class_bounds(count, other, n, alpha)
    else:
        p_lower, p_upper = bounds.clopper_pearson_lower(count, n, alpha), None
    norm = float(torch.linalg.vector_norm(trace[-1]))
    certificate = Certificate(
        clip=clip.name,
        digest=clip.digest,
        status="abstained" if radius is None else "certified",
        candidate=base.labels[top],
        count=count,
        n=n,
        n0=n0,
        alpha=alpha,
        seed=seed,
        bound=bound,
        sigma=sigma,
        p_lower=p_lower,
        p_upper=p_upper,
        max_other=other if bound == "two-class" else None,
        ceiling=bounds.monte_carlo_ceiling(sigma, n, alpha, bound),
        object_norm=norm,
        contract=read_contract(route),
        rate=route.object.rate,
        lsb=clip.lsb,
        _radius=radius,
        _origin=_Origin(route, trace, clip.exact),
    )
    return replace(certificate, contract=fill_contract(certificate, route, trace, clip.digest, seed))


def fill_contract(
    cert: Certificate, route: Route, trace: Sequence[Tensor], digest: str, seed: int, draws: int = 16
) -> Contract:
    """Return the contract with what is known about this clip: gain, norm, radius, geometry."""
    values: dict[str, Any] = {"object_norm": cert.object_norm, "gain": front_gain(route, trace)}
    if cert.status == "certified":
        values["raw_radius"] = cert.radius
        values["snr_db" if cert.contract.about_waveform else "norm_ratio_db"] = cert.norm_ratio_db
    if cert.contract.post_noise and route.keeps_shape:
        try:
            distortion = distortion_at(route, trace[-1], digest, draws=draws, seed=seed)
        except InputError:
            pass  # no value at the clean clip (a gain of silence), and so no geometry
        else:
            values["displacement"] = distortion.displacement
            values["sensitivity"] = distortion.sensitivity
    return cert.contract.for_clip(**values)


def front_gain(route: Route, trace: Sequence[Tensor]) -> float | None:
    """Return the product of the gains that the front applies to this clip; None where it has none."""
    total = None
    for stage, x in zip(route.front, trace, strict=False):
        factor = stage.gain(x.unsqueeze(0))
        if factor is not None:
            total = (1.0 if total is None else total) * float(factor[0])
    return total


def smoothed(pipe: Pipeline) -> SmoothedClassifier:
    """Return the pipeline's smoothed classifier, made once and kept on the pipeline itself.

    A weak dictionary would never let go: the classifier holds the pipeline that would be its key.
    """
    ready = vars(pipe).get("_smoothed")
    if not isinstance(ready, SmoothedClassifier):
        ready = SmoothedClassifier(pipe)
        vars(pipe)["_smoothed"] = ready
    return ready


def certify(
    pipe: Pipeline,
    clip: Clip,
    *,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    bound: BoundName = "one-sided",
) -> Certificate:
    """Certify one clip by randomized smoothing.

    n0 draws select the top class A. n *fresh* draws count it; p is the one-sided Clopper-Pearson lower
    bound of its probability at level alpha; the radius is σΦ⁻¹(p) if p > ½, else the clip is abstained
    on. bound="two-class" bounds A and its strongest rival, radius (σ/2)(Φ⁻¹(p_A) − Φ⁻¹(p_B)). With
    probability at least 1 − alpha over the noise, a certified label is the smoothed classifier's for
    every object strictly nearer than the radius. The seed must be fixed before looking at results.

    Raises ConfigError for numbers that can certify nothing, InputError for an unusable clip, ModelError
    for a model that is not a fixed function of each row; all before the first draw.
    Source: arXiv 1902.02918, Algorithm 1.
    """
    return smoothed(pipe).certify(clip, n0=n0, n=n, alpha=alpha, seed=seed, bound=bound)


def predict(
    pipe: Pipeline, clip: Clip, *, n: int = 1000, alpha: float = 1e-3, seed: int | None = None
) -> Prediction:
    """Predict with the deployed smoothed classifier: the top class of n draws, or an abstention.

    Abstains unless a two-sided binomial test of the top two counts rejects a tie at level alpha. Without
    a seed the noise comes from fresh entropy, as it must where an attacker may know the seed; a seed is
    for replay. Certify-then-predict fails with probability at most the sum of both levels.
    Source: arXiv 1902.02918, PREDICT.
    """
    return smoothed(pipe).predict(clip, n=n, alpha=alpha, seed=seed)


def certified_accuracy(certificates: Iterable[tuple[Certificate, str]], radius: float) -> float:
    """Return the share of clips certified with their true label at `radius` or more (strictly above 0)."""
    pairs = list(certificates)
    good = sum(c.status == "certified" and c.candidate == truth and c.radius >= radius for c, truth in pairs)
    return good / len(pairs) if pairs else 0.0
