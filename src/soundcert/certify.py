"""Certify and predict: the published algorithms, for one clip or for many at once.

Sources: Cohen, Rosenfeld and Kolter 2019 (arXiv 1902.02918), Algorithm 1 (CERTIFY and PREDICT); for the
abstention of PREDICT, Hung and Fithian 2019.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from soundcert import bounds
from soundcert.audio import Clip, a_clip
from soundcert.bounds import BoundName
from soundcert.certificate import Certificate, Origin, PolicyName, Prediction
from soundcert.classifier import BaseClassifier, Fed, refuse_training_mode
from soundcert.config import Budget, CertifyConfig, Decide, Estimate, Policy
from soundcert.contract import Contract, read_contract
from soundcert.diagnostics import distortion_at
from soundcert.engines import Engine, EngineName, Precision
from soundcert.errors import ConfigError, InputError, ModelError
from soundcert.models.weights import state_digest
from soundcert.pipeline import Pipeline, Route
from soundcert.policies import Pilot, Sampled, check_policy, known, pilot_plan, plan_of, share_out
from soundcert.randomness import NoiseKey, fresh_seed
from soundcert.sampling import WATCHDOG, Job, Plan, Task, count_votes, cpu_count, run_tasks
from soundcert.stages import Model
from soundcert.stages.base import row_norm

CHANGED = "expected the recording that its pilot was drawn on, got another: it has changed meanwhile"
# Base classifiers that are kept ready: each shape of object has its own, and recordings may all differ in length.
KEPT = 8
#: Threads that feed a GPU, by default.
GPU_WORKERS = 4


class SmoothedClassifier:
    """A pipeline made ready to certify and predict: checked, optimised, reused over clips."""

    def __init__(
        self,
        pipe: Pipeline,
        *,
        micro_batch: int | None = None,
        workers: int | None = None,
        engine: EngineName = "torch",
        precision: Precision = "fp32",
        device: str = "cpu",
        watchdog: float | None = WATCHDOG,
    ) -> None:
        self.pipe = pipe
        self._watchdog = watchdog
        self._device = device
        self._micro_batch = micro_batch
        # On a GPU a few suffice to keep it busy; each has memory there, and all share one interpreter.
        self._workers = workers or (None if device == "cpu" else min(GPU_WORKERS, cpu_count()))
        self._engine: EngineName = engine
        self._precision: Precision = precision
        self._bases: dict[object, BaseClassifier] = {}
        self._engines: dict[Fed, Engine] = {}
        self._state: object = None

    def base(self, route: Route, v: Tensor, seed: int, digest: str) -> BaseClassifier:
        """Return the base classifier for objects of this route, checked the first time."""
        self._look_at_weights()
        return self._base(route, v, seed, digest)

    def _look_at_weights(self) -> None:
        """Drop what was prepared for other weights or modes: a network may be trained between two calls."""
        modules = [
            s.module for s in self.pipe.stages if isinstance(s, Model) and isinstance(s.module, nn.Module)
        ]
        state = [(state_digest(m), any(part.training for part in m.modules())) for m in modules]
        if state != self._state:
            self._bases, self._engines, self._state = {}, {}, state

    def _base(self, route: Route, v: Tensor, seed: int, digest: str) -> BaseClassifier:
        key = NoiseKey(seed, "probe", digest)
        place = _place(route)
        base = self._bases.pop(place, None)
        if base is None:
            base = BaseClassifier(
                route, self._micro_batch, self._engine, self._precision, self._device, self._engines
            )
            base.check_rows(v, key)
        self._bases[place] = base  # the last of them is the latest
        self._engines[base.fed] = base.engine
        while len(self._bases) > KEPT:
            del self._bases[next(iter(self._bases))]
        while len(self._engines) > KEPT:
            del self._engines[next(iter(self._engines))]
        return base

    def certify(
        self,
        clip: Clip,
        *,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 1e-3,
        seed: int = 0,
        bound: BoundName = "one-sided",
        policy: Policy | None = None,
    ) -> Certificate:
        """Certify one clip; see the module's `certify`."""
        sampling = Sampling(n0, n, alpha, seed, bound, policy)
        (certificate,) = self.certify_stream([clip], sampling)
        return certificate

    def certify_many(
        self,
        clips: Sequence[Clip],
        *,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 1e-3,
        seed: int = 0,
        bound: BoundName = "one-sided",
        policy: Policy | None = None,
    ) -> list[Certificate]:
        """Certify clips together, packing their draws into shared batches."""
        sampling = Sampling(n0, n, alpha, seed, bound, policy)
        sampling.check(float(self.pipe.noise.sigma))
        shares = None
        if isinstance(policy, Budget):
            check_pilots(sampling, len(clips))
            started = time.perf_counter()
            pilots = list(self.pilot_stream(clips, sampling))
            shares = share(pilots, policy, sampling, time.perf_counter() - started)
        return list(self.certify_stream(clips, sampling, shares))

    def pilot_stream(
        self, clips: Iterable[Clip], sampling: Sampling, failed: dict[str, str] | None = None
    ) -> Iterator[tuple[str, Pilot]]:
        """Yield the digest and the pilot of each clip of a budget; see `certify_stream`."""
        sampling.check(float(self.pipe.noise.sigma))
        digests: deque[str] = deque()

        def tasks() -> Iterator[Task[Pilot]]:
            for clip, _, v, base in self._prepared(clips, sampling, failed):
                digests.append(clip.digest)
                yield Task(
                    base, v.to(base.device), sampling.seed, clip.digest, pilot_plan(base.classes, sampling.n0)
                )

        for pilot in run_tasks(tasks(), workers=self._workers, watchdog=self._watchdog):
            yield digests.popleft(), pilot

    def certify_stream(
        self,
        clips: Iterable[Clip],
        sampling: Sampling,
        shares: Mapping[str, tuple[Pilot, int]] | None = None,
        failed: dict[str, str] | None = None,
    ) -> Iterator[Certificate]:
        """Yield a certificate a clip, in order; clips are read as places become free.

        shares: under a budget, each clip's pilot and draws by its digest (see `share`). failed: takes the
        reason, by name, of each clip that cannot be used and is left out; without it, that is raised.
        """
        sampling.check(float(self.pipe.noise.sigma))
        waiting: deque[tuple[Clip, Route, list[Tensor], BaseClassifier]] = deque()

        def tasks() -> Iterator[Task[Sampled]]:
            for clip, trace, v, base in self._prepared(clips, sampling, failed):
                route = self.pipe.route(clip.space)
                if shares is not None and clip.digest not in shares:
                    if failed is None:
                        raise InputError(f"{clip.name!r}: {CHANGED}")
                    failed[clip.name] = f"{clip.name!r}: {CHANGED}"
                    continue
                waiting.append((clip, route, trace, base))
                plan = sampling.at(route).plan(
                    base.classes,
                    float(route.noise.sigma),
                    None if shares is None else shares[clip.digest],
                    base.micro_batch // 8,
                )
                yield Task(base, v.to(base.device), sampling.seed, clip.digest, plan)

        for sampled in run_tasks(tasks(), workers=self._workers, watchdog=self._watchdog):
            clip, route, trace, base = waiting.popleft()
            yield conclude(clip, route, trace, base.labels, base.computed_by, sampled, sampling)

    def _prepared(
        self, clips: Iterable[Clip], sampling: Sampling, failed: dict[str, str] | None
    ) -> Iterator[tuple[Clip, list[Tensor], Tensor, BaseClassifier]]:
        """Yield each clip with its trace through the front, its object as noise is added to it, and its base classifier."""
        self._look_at_weights()  # not for each clip: a large network's digest takes longer than the clip's front
        for clip in clips:
            try:
                route = self.pipe.route(clip.space)
                trace = self.pipe.front_trace(clip)
                v = route.noise.held(trace[-1])
                sampling.at(route)  # a long clip may need more of alpha than there is
            except ModelError:
                raise
            except (InputError, ConfigError) as error:
                if failed is None:
                    raise
                failed[clip.name] = str(error)
                continue
            # Weights are looked at once, but a mode may change between two certificates.
            for stage in route.stages:
                if isinstance(stage, Model) and isinstance(stage.module, nn.Module):
                    refuse_training_mode(stage.network_part())
            yield clip, trace, v, self._base(route, v, sampling.seed, clip.digest)

    def predict(
        self, clip: Clip, *, n: int = 1000, alpha: float = 1e-3, seed: int | None = None
    ) -> Prediction:
        """Predict with the deployed smoothed classifier; see the module's `predict`."""
        check_prediction(n, alpha)
        route = self.pipe.route(clip.space)
        v = route.noise.held(self.pipe.object_of(clip))
        # The draws may differ from the exact law's with a probability that is taken off alpha first.
        level = level_of(alpha, set_aside(route, n, alpha))
        used = fresh_seed() if seed is None else seed
        base = self.base(route, v, used, clip.digest)
        counts = count_votes(
            base,
            [Job(v.to(base.device), NoiseKey(used, "prediction", clip.digest), n)],
            workers=self._workers,
        )[0]
        top = int(counts.argmax())
        count = int(counts[top])
        runner_up = int(np.delete(counts, top).max(initial=0))
        p_value = bounds.binomial_two_sided_p(count, count + runner_up) if count else 1.0
        return Prediction(
            clip.name,
            clip.digest,
            "predicted" if p_value <= level else "abstained",
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


@dataclass(frozen=True)
class Sampling:
    """How certificates are sampled: the `certify` block of a config, without what only concerns speed."""

    n0: int = 100
    n: int = 10_000
    alpha: float = 1e-3
    seed: int = 0
    bound: BoundName = "one-sided"
    policy: Policy | None = None

    def __post_init__(self) -> None:
        for name in ("n0", "n", "alpha", "seed"):
            if isinstance(value := getattr(self, name), np.integer | np.floating):
                object.__setattr__(self, name, value.item())  # JSON knows no NumPy

    @classmethod
    def of(cls, config: CertifyConfig) -> Sampling:
        return cls(config.n0, config.n, config.alpha, config.seed, config.bound, config.policy)

    @property
    def policy_name(self) -> PolicyName:
        names: dict[type, PolicyName] = {Decide: "decide", Estimate: "estimate", Budget: "budget"}
        if self.policy is None:
            return "fixed"
        if type(self.policy) not in names:
            raise ConfigError(f"policy must be a Decide, Estimate or Budget, or None, got {self.policy!r}")
        return names[type(self.policy)]

    def check(self, sigma: float) -> None:
        """Refuse, before any pass, numbers with which no clip could ever be certified."""
        check_budget(self.n0, self.n, self.alpha, self.bound)
        if self.policy and self.bound != "one-sided":
            raise ConfigError(f"{self.policy_name} works with the one-sided bound only")
        check_policy(self.policy, self.n, self.alpha, sigma)

    def at(self, route: Route) -> Sampling:
        """Return this sampling at the level that is left of alpha for the bounds, for objects of a route.

        ConfigError where that level is too small for the policy, or nothing much would be left.
        """
        aside = set_aside(route, self.n, self.alpha)
        if not aside:
            return self
        out = replace(self, alpha=level_of(self.alpha, aside))
        out.check(float(route.noise.sigma))
        return out

    def plan(
        self, classes: int, sigma: float, share: tuple[Pilot, int] | None, least: int = 1
    ) -> Plan[Sampled]:
        """Return the plan of one clip. least: see `policies.plan_of`."""
        if share is not None:
            return known(*share, classes)
        return plan_of(
            self.policy, classes=classes, n0=self.n0, n=self.n, alpha=self.alpha, sigma=sigma, least=least
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what a resumed run must share with its beginning."""
        out: dict[str, Any] = {
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha,
            "seed": self.seed,
            "bound": self.bound,
        }
        if self.policy:
            out[self.policy_name] = self.policy.model_dump(mode="json")
        return out


def share(
    pilots: Sequence[tuple[str, Pilot]], budget: Budget, sampling: Sampling, seconds: float
) -> dict[str, tuple[Pilot, int]]:
    """Return each clip's pilot and fresh draws, by its digest.

    pilots: digest and pilot of every clip, copies of one recording each for itself. seconds: what they took.
    """
    spent = sum(pilot.n for _, pilot in pilots)
    if budget.seconds is not None:
        passes = int(spent * max(0.0, budget.seconds - seconds) / max(seconds, 1e-9))
    else:
        assert budget.passes is not None
        passes = budget.passes - spent
    by_digest = dict(pilots)
    clips = Counter(digest for digest, _ in pilots)
    sizes = share_out(by_digest, max(0, passes), sampling.n, sampling.alpha, clips)
    return {key: (by_digest[key], size) for key, size in sizes.items()}


def check_pilots(sampling: Sampling, clips: int) -> None:
    """Refuse a budget that the pilots of so many clips would already exceed."""
    budget = sampling.policy
    if isinstance(budget, Budget) and budget.passes is not None and clips * sampling.n0 > budget.passes:
        raise ConfigError(
            f"a budget of {budget.passes} passes is less than the pilots of {clips} clips, n0 = {sampling.n0} draws "
            "each: raise `passes`, or lower n0"
        )


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


def set_aside(route: Route, draws: int, alpha: float) -> float:
    """Return the part of alpha that pays for noise that is not drawn exactly: 0 for a family whose error is not known.

    draws: the most fresh draws. If every row is within ε of its law in total variation, all `draws` rows together
    can be made to equal exact ones but with probability draws·ε; so what holds at level α − draws·ε for exact noise
    holds at α. The draws that select a class, or a number of draws, need no correction: whatever they were, the rest
    is valid. Raises ConfigError where more than half of alpha would go.
    """
    error = route.noise.error(route.object.size)
    out = math.nextafter(error * draws, 1.0) if error else 0.0
    if out > alpha / 2:
        raise ConfigError(
            f"alpha = {alpha:g} is too small for {draws} draws of {route.object.size} values of lattice noise, whose error "
            f"adds up to {out:.3g}: use a larger alpha or a larger step"
        )
    return out


def level_of(alpha: float, aside: float) -> float:
    """Return alpha − aside, rounded down: the level of the bounds."""
    return math.nextafter(alpha - aside, 0.0) if aside else alpha


def conclude(
    clip: Clip,
    route: Route,
    trace: list[Tensor],
    labels: Sequence[str],
    computed_by: str,
    sampled: Sampled,
    sampling: Sampling,
) -> Certificate:
    """Turn the counts of the fresh sample into a certificate. labels, computed_by: the base classifier's."""
    aside = set_aside(route, sampling.n, sampling.alpha)
    certificate = Certificate(
        clip=clip.name,
        digest=clip.digest,
        candidate=labels[sampled.top],
        count=int(sampled.counts[sampled.top]),
        n=sampled.n,
        n0=sampled.first,
        alpha=sampling.alpha,
        seed=sampling.seed,
        bound=sampling.bound,
        sigma=float(route.noise.sigma),
        object_norm=float(row_norm(trace[-1].unsqueeze(0))[0]),
        contract=read_contract(route, computed_by),
        rate=route.object.rate,
        lsb=clip.lsb,
        policy=sampling.policy_name,
        set_aside=aside or None,
        _origin=Origin(route, trace, clip.exact, clip.pcm_step),
        **bounds_of(sampled, sampling.at(route), float(route.noise.sigma)),
    )
    return replace(certificate, contract=fill_contract(certificate, route, trace, clip.digest, sampling.seed))


def bounds_of(sampled: Sampled, sampling: Sampling, sigma: float) -> dict[str, Any]:
    """Return status, radius and the bounds behind it, as fields of a `Certificate`. sampling: at its level."""
    count, n, alpha = int(sampled.counts[sampled.top]), sampled.n, sampling.alpha
    # The largest count of *all* other classes in the fresh sample, whichever was second in the selection.
    other = int(np.delete(sampled.counts, sampled.top).max(initial=0))
    p_lower, p_upper, radius = 0.0, None, None
    ceiling = 0.0
    extra: dict[str, Any] = {}
    if isinstance(sampling.policy, Decide):
        radii = sampling.policy.radii
        radius = radii[sampled.accepted - 1] if sampled.accepted else None
        if radius is not None:
            p_lower = bounds.probability_of_radius(radius, sigma)
        ceiling = radii[-1]
        extra = {"radii": radii, "cap": sampling.n}
    elif n:
        radius = bounds.certified_radius(count, n, alpha, sigma, bound=sampling.bound, max_other=other)
        if sampling.bound == "two-class":
            p_lower, p_upper = bounds.two_class_bounds(count, other, n, alpha)
            extra = {"max_other": other}
        else:
            p_lower = bounds.clopper_pearson_lower(count, n, alpha)
        if n >= bounds.minimum_samples(alpha, sampling.bound):
            ceiling = bounds.monte_carlo_ceiling(sigma, n, alpha, sampling.bound)
    return {
        "status": "abstained" if radius is None else "certified",
        "p_lower": p_lower,
        "p_upper": p_upper,
        "ceiling": ceiling,
        "_radius": radius,
        **extra,
    }


def fill_contract(
    cert: Certificate, route: Route, trace: Sequence[Tensor], digest: str, seed: int, draws: int = 16
) -> Contract:
    """Return the contract with what is known about this clip: gain, norm, radius, geometry."""
    values: dict[str, Any] = {"object_norm": cert.object_norm, "gain": front_gain(route, trace)}
    if cert.status == "certified" and cert.radius > 0:
        values["raw_radius"] = cert.radius
        if cert.object_norm > 0:
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
    if not isinstance(pipe, Pipeline):
        raise ConfigError(
            f"expected a Pipeline, got a {type(pipe).__name__}: Pipeline.from_yaml(path) reads a config's"
        )
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
    policy: Policy | None = None,
) -> Certificate:
    """Certify one clip by randomized smoothing.

    n0 draws select the top class A. n *fresh* draws count it; p is the one-sided Clopper-Pearson lower
    bound of its probability at level alpha; the radius is σΦ⁻¹(p) if p > ½, else the clip is abstained
    on. bound="two-class" bounds A and its strongest rival, radius (σ/2)(Φ⁻¹(p_A) − Φ⁻¹(p_B)). With
    probability at least 1 − alpha over the noise, a certified label is the smoothed classifier's for
    every object strictly nearer than the radius. The seed must be fixed before looking at results.

    policy: Decide(radii=…) or Estimate(rel_width=…) draw fewer, with n as the most (see
    `soundcert.policies`); the level stays alpha.

    Raises ConfigError for numbers that can certify nothing, InputError for an unusable clip, ModelError
    for a model that is not a fixed function of each row; all before the first draw.
    Source: arXiv 1902.02918, Algorithm 1.
    """
    return smoothed(pipe).certify(
        a_clip(clip), n0=n0, n=n, alpha=alpha, seed=seed, bound=bound, policy=policy
    )


def predict(
    pipe: Pipeline, clip: Clip, *, n: int = 1000, alpha: float = 1e-3, seed: int | None = None
) -> Prediction:
    """Predict with the deployed smoothed classifier: the top class of n draws, or an abstention.

    Abstains unless a two-sided binomial test of the top two counts rejects a tie at level alpha. Without
    a seed the noise comes from fresh entropy, as it must where an attacker may know the seed; a seed is
    for replay. Certify-then-predict fails with probability at most the sum of both levels.
    Source: arXiv 1902.02918, PREDICT.
    """
    return smoothed(pipe).predict(a_clip(clip), n=n, alpha=alpha, seed=seed)
