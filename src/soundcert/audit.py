"""Audit: what a certificate would mean, before any Monte Carlo.

For each clip: the contract, the gain, ‖v‖₂, the largest radius that it can get in every view, the geometry
after the noise; for all: cost and flags. The model, where there is one, is run for a moment to time it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from soundcert import bounds
from soundcert.audio import Clip, a_clip
from soundcert.bounds import BoundName
from soundcert.certificate import Certificate, PolicyName, json_number, radius_views, view_medians
from soundcert.certify import Sampling, fill_contract
from soundcert.classifier import BaseClassifier
from soundcert.config import Budget, Decide, Policy
from soundcert.contract import Contract, read_contract
from soundcert.errors import ConfigError, InputError, ModelError, SoundcertError, TransportError
from soundcert.flags import Flag
from soundcert.pipeline import Pipeline, Route
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.sampling import cpu_count, single_threaded
from soundcert.stages import Clip as ClipStage
from soundcert.stages import Fit, Limiter, Quantize, Resample
from soundcert.stages.base import row_norm
from soundcert.transport import Transported, carry

FULL_SCALE_SAMPLES = 4
PROBE_DB = 60.0


@dataclass(frozen=True)
class ClipAudit:
    """One clip: its contract with gain and geometry, and the largest radius that it can get in every view.

    `ceiling` is that radius: the Monte-Carlo ceiling, or under `decide` the largest radius asked about.
    """

    clip: str
    digest: str
    contract: Contract
    object_norm: float
    ceiling: float
    views: dict[str, float]
    flags: tuple[Flag, ...]

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "clip": self.clip,
            "digest": self.digest,
            "object_norm": self.object_norm,
            "ceiling": self.ceiling,
            "ceiling_views": {k: json_number(v) for k, v in self.views.items()},
            "flags": [{"id": f.id, "detail": f.detail} for f in self.flags],
        }
        for key in ("gain", "displacement", "sensitivity"):
            value = getattr(self.contract, key)
            if value is not None:
                out[key] = value
        return out


@dataclass(frozen=True)
class Audit:
    """What certificates of these clips would mean. `failed` maps clips that cannot be used to the reason."""

    contract: Contract | None
    n0: int
    n: int
    alpha: float
    bound: BoundName
    clips: tuple[ClipAudit, ...]
    failed: dict[str, str]
    flags: tuple[Flag, ...]
    passes: int
    seconds_a_pass: float | None
    policy: PolicyName = "fixed"
    cores: int = field(default_factory=cpu_count)

    @property
    def minutes(self) -> float | None:
        """Expected minutes on this machine's cores; None without a model to time."""
        return None if self.seconds_a_pass is None else self.passes * self.seconds_a_pass / 60

    def medians(self) -> dict[str, float]:
        """Return medians over the usable clips (see `view_medians`)."""
        out: dict[str, float] = {}
        if not self.clips:
            return out
        out["object_norm"] = median(c.object_norm for c in self.clips)
        out["ceiling"] = median(c.ceiling for c in self.clips)
        for key in ("gain", "displacement", "sensitivity"):
            values = [getattr(c.contract, key) for c in self.clips]
            if all(v is not None for v in values):
                out[key] = median(values)
        return out | view_medians([c.views for c in self.clips])

    def to_dict(self) -> dict[str, Any]:
        return {
            "contract": self.contract.to_dict() if self.contract else None,
            "statement": self.contract.statement() if self.contract else None,
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha,
            "bound": self.bound,
            "policy": self.policy,
            "medians_over_usable_clips": {k: json_number(v) for k, v in self.medians().items()},
            "cost": {"passes": self.passes, "seconds_a_pass": self.seconds_a_pass, "minutes": self.minutes},
            "flags": [
                {"id": f.id, "detail": f.detail, "action": f.kind.action, "page": f.kind.page}
                for f in self.flags
            ],
            "failed": self.failed,
            "clips": [c.to_dict() for c in self.clips],
        }


def audit(
    pipe: Pipeline,
    clips: Clip | Iterable[Clip | tuple[str, SoundcertError]],
    *,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 1e-3,
    bound: BoundName = "one-sided",
    policy: Policy | None = None,
    engine: str = "torch fp32",
    seed: int = 0,
    draws: int = 16,
) -> Audit:
    """Say what certificates of these clips would mean, without Monte Carlo.

    clips: a clip, clips, or (name, error) for those that could not be read, which are listed as failed. draws:
    noisy copies for the geometry after the noise. policy: how many draws a run would make, n being the most;
    no radius is above the Monte-Carlo ceiling of n draws, under `decide` above the largest asked about. engine: what would
    compute the model, as the contract names it. Raises ConfigError for a budget that certifies nothing.
    """
    sampling = Sampling(n0, n, alpha, seed, bound, policy)
    sampling.check(float(pipe.noise.sigma))
    if type(draws) is not int or draws < 1:
        raise ConfigError(f"draws must be a whole number from 1, got {draws!r}")
    unfit: ConfigError | None = None
    broken = False
    rows: list[ClipAudit] = []
    failed: dict[str, str] = {}
    contract: Contract | None = None
    sizes: set[int] = set()
    seconds = None
    with single_threaded():
        for entry in [clips] if isinstance(clips, Clip) else clips:
            match entry:
                case (str(name), SoundcertError() as error):
                    failed[name] = str(error)
                    broken = True
                    continue
            clip = a_clip(entry)
            try:
                route = pipe.route(clip.space)
                trace = pipe.front_trace(clip)
                left = sampling.at(route)
            except ModelError:
                raise
            except (InputError, ConfigError) as error:
                failed[clip.name] = str(error)
                unfit = unfit or (error if isinstance(error, ConfigError) else None)
                broken = broken or isinstance(error, InputError)
                continue
            if contract is None:
                contract = read_contract(route, engine)
                seconds = _seconds_a_pass(pipe, route, trace[-1], seed, clip.digest)
            sizes.add(route.object.size)
            rows.append(_audit_clip(route, clip, trace, sampling, left, engine, draws))
    if unfit is not None and not rows and not broken:
        raise ConfigError(f"none of the clips fits the pipeline: {unfit}")
    flags = _merge(rows)
    if contract is not None and contract.trained_otherwise:
        flags.append(Flag("trained-otherwise", contract.trained_otherwise))
    if len(sizes) > 1:
        flags.append(Flag("lengths-differ", f"from {min(sizes)} to {max(sizes)} values"))
    return Audit(
        contract,
        n0,
        n,
        alpha,
        bound,
        tuple(rows),
        failed,
        tuple(flags),
        _most_passes(sampling, len(rows)),
        seconds,
        sampling.policy_name,
    )


def _most_passes(sampling: Sampling, clips: int) -> int:
    """Return the passes of a run: exactly without a policy, at most with one."""
    most = clips * (sampling.n0 + sampling.n)
    if isinstance(sampling.policy, Budget) and sampling.policy.passes is not None:
        return min(most, sampling.policy.passes)
    return most


def _audit_clip(
    route: Route, clip: Clip, trace: list[Tensor], asked: Sampling, left: Sampling, engine: str, draws: int
) -> ClipAudit:
    """Audit one clip. left: the sampling at the level that is left of alpha for the bounds."""
    sigma, n, seed = float(route.noise.sigma), asked.n, asked.seed
    # What the draws allow, by which a pipeline is judged; and what `decide` asks about, which may be less.
    most = bounds.monte_carlo_ceiling(sigma, n, left.alpha, asked.bound)
    ceiling = asked.policy.radii[-1] if isinstance(asked.policy, Decide) else most
    norm = float(row_norm(trace[-1].unsqueeze(0))[0])

    def in_file(radius: float) -> Transported | None:
        try:
            return carry(route, trace, radius, "file", exact=clip.exact, pcm_step=clip.pcm_step)
        except TransportError:
            return None

    file = in_file(ceiling)
    best = Certificate(
        clip=clip.name, digest=clip.digest, status="abstained", candidate="", count=0, n=n, n0=asked.n0,
        alpha=asked.alpha, seed=seed, bound=asked.bound, sigma=sigma, p_lower=0.0, ceiling=ceiling, object_norm=norm,
        contract=read_contract(route, engine), rate=route.object.rate, lsb=clip.lsb,
    )  # fmt: skip
    contract = fill_contract(best, route, trace, clip.digest, seed, draws)
    views = radius_views(best, ceiling, file)
    farthest = file if ceiling == most else in_file(most)
    flags = _clip_flags(route, clip, trace, most, farthest.radius if farthest and norm > 0 else None)
    return ClipAudit(clip.name, clip.digest, contract, norm, ceiling, views, tuple(flags))


def _clip_flags(
    route: Route, clip: Clip, trace: list[Tensor], ceiling: float, in_file: float | None
) -> list[Flag]:
    flags = []
    v, samples = trace[-1], trace[0]
    kind = route.object.kind
    if kind == "feature":
        flags.append(Flag("feature-not-waveform", f"the object is {route.object.name}"))
        moved = _moved_by_probe(route, samples)
        if moved > ceiling:
            flags.append(
                Flag("log-floor", f"white noise {PROBE_DB:g} dB below the clip moves the features by {moved:.3g}, "
                     f"the ceiling is {ceiling:.3g}")
            )  # fmt: skip
    elif kind == "latent":
        flags.append(Flag("latent-not-waveform", f"the object has shape {route.object.shape}"))
    for stage in route.front:
        if stage.family == "gain" and stage.per_clip:
            flags.append(Flag("per-clip-gain-before-noise", stage.describe()))
        if isinstance(stage, Resample) and stage.method == "soxr" and stage.source_rate != stage.rate:
            flags.append(Flag("resampled-on-load", f"{stage.source_rate} Hz to {stage.rate} Hz"))
    for stage, before in zip(route.stages, route.spaces, strict=False):
        if isinstance(stage, Fit) and before.samples > stage.length():
            flags.append(Flag("cropped", f"{before.samples} samples to {stage.length()}"))
        elif isinstance(stage, Fit) and before.samples * 2 < stage.length():
            flags.append(Flag("mostly-padding", f"{before.samples} samples to {stage.length()}"))
    for stage in route.post_processing:
        if stage.family == "gain" and stage.per_clip:
            flags.append(Flag("gain-after-noise", stage.describe()))
        elif isinstance(stage, ClipStage):
            outside = float(((v < stage.low) | (v > stage.high)).double().mean())
            if outside > 0:
                flags.append(
                    Flag("clip-after-unit-gain", f"{stage.describe()} cuts {outside:.2%} of the clean values")
                )
        elif isinstance(stage, Limiter):
            bent = float((v.abs() > stage.threshold).double().mean())
            if bent > 0:
                flags.append(
                    Flag("clip-after-unit-gain", f"{stage.describe()} bends {bent:.2%} of the clean values")
                )
        elif isinstance(stage, Quantize):
            flags.append(Flag("quantise-after-noise", stage.describe()))
    if not bool(samples.any()):
        flags.append(Flag("silent-clip", "all samples are zero"))
    elif clip.bits is not None and _at_full_scale(clip) >= FULL_SCALE_SAMPLES:
        flags.append(Flag("full-scale-clip", f"{_at_full_scale(clip)} samples"))
    rounding = 2.0**-15 * (samples.numel() / 12) ** 0.5
    if in_file is not None and 0 < in_file < rounding:
        flags.append(
            Flag(
                "below-quantisation",
                f"{in_file:.3g} in the file, 16-bit rounding {rounding:.3g}",
            )
        )
    if ceiling < route.noise.sigma:
        flags.append(Flag("small-ceiling", f"{ceiling / route.noise.sigma:.3g}σ"))
    return flags


def _at_full_scale(clip: Clip) -> int:
    bits = clip.bits or 16
    top = 2**31 - 2 ** (32 - bits)
    return int(((clip.samples >= top) | (clip.samples == -(2**31))).sum())


def _moved_by_probe(route: Route, samples: Tensor) -> float:
    """ℓ2 change of the object when white noise PROBE_DB below the clip is added to the file."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(samples.shape, generator=generator, dtype=samples.dtype)
    probe *= torch.linalg.vector_norm(samples) / torch.linalg.vector_norm(probe) * 10 ** (-PROBE_DB / 20)
    pair = torch.stack([samples, samples + probe])
    for stage in route.front:
        pair = stage(pair)
    return float(torch.linalg.vector_norm(pair[1] - pair[0]))


def _merge(rows: Sequence[ClipAudit]) -> list[Flag]:
    """One flag of each kind for the whole list: how many clips raise it, and the first one's detail."""
    seen: dict[str, list[tuple[str, Flag]]] = {}
    for row in rows:
        for flag in row.flags:
            seen.setdefault(flag.id, []).append((row.clip, flag))
    merged = []
    for flag_id, hits in seen.items():
        clip, first = hits[0]
        same = len({flag.detail for _, flag in hits}) == 1
        where = f"{len(hits)} of {len(rows)} clips"
        merged.append(replace(Flag(flag_id, first.detail), detail=f"{where}: {first.detail}" if same else
                              f"{where}; {clip}: {first.detail}"))  # fmt: skip
    order = {"warning": 0, "note": 1}
    return sorted(merged, key=lambda flag: order[flag.kind.level])


def _seconds_a_pass(pipe: Pipeline, route: Route, v: Tensor, seed: int, digest: str) -> float | None:
    """Time a few micro-batches, noise included, on one thread; divided by the cores that will work."""
    if pipe.model is None or pipe.model.module is None:
        return None
    base = BaseClassifier(route)
    stream = noise_stream(NoiseKey(seed, "probe", digest), base.noise)
    rows = torch.zeros(base.micro_batch, *base.shape)
    times = []
    with torch.inference_mode():
        for _ in range(4):
            started = time.perf_counter()
            base(stream.noisy_(rows, base.noise.held(v)))
            times.append(time.perf_counter() - started)
    return median(times[1:]) / base.micro_batch / cpu_count()
