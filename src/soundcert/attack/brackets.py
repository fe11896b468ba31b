"""One clip's attacks beside its certificate: what is proven from below, what was found from above."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from soundcert.attack.ball import LONGEST, Exit, smallest_exit
from soundcert.attack.deployed import Deployed, Deployments
from soundcert.attack.fronts import Front, check_recording, check_settings, front_from
from soundcert.attack.smoothed import TRIES, Claim, Flip, Inside, Target, flip_label, inside_ball
from soundcert.attack.wav import ENCODINGS, SavedWav, save_original, save_outside
from soundcert.audio import Clip, a_clip
from soundcert.bounds import binomial_two_sided_p, format_down, format_up
from soundcert.certificate import Certificate, json_number
from soundcert.certify import SmoothedClassifier, check_prediction, smoothed
from soundcert.errors import ConfigError, TransportError, did_you_mean
from soundcert.pipeline import Pipeline
from soundcert.transport import carry

Goal = Literal["leave", "flip", "inside", "bypass", "deployed"]
GOALS: tuple[Goal, ...] = get_args(Goal)
#: Level at which a violation is claimed: so small that it is not chance over any number of clips.
VIOLATION_LEVEL = 1e-6
# Starts of the geometry search for one descent to another label.
_STARTS_A_DESCENT = 8


@dataclass(frozen=True)
class Settings:
    """What an attack may spend, and what it is after.

    space: where the perturbation is added ("file", "object", or a space above the noise). steps: gradient
    steps of each search; restarts: starts of the geometry search, and one descent to another label for each 8;
    draws: noisy copies a gradient; n: fresh draws that verify what is said, at `level`.
    """

    space: str = "file"
    goals: tuple[Goal, ...] = ("leave", "flip", "inside")
    steps: int = 30
    restarts: int = 16
    draws: int = 32
    n: int = 1000
    level: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "goals", tuple(g for g in GOALS if g in self.goals) if self._known() else ())
        check_settings([("steps", self.steps), ("restarts", self.restarts), ("draws", self.draws)])
        check_prediction(self.n, self.level)
        # A change of the label is verified at several lengths, which share the level.
        if "flip" in self.goals:
            check_prediction(self.n, self.level / (len(TRIES) * self.descents))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigError(f"seed must be a whole number from 0, got {self.seed!r}")

    @property
    def descents(self) -> int:
        """Descents to another label."""
        return max(1, self.restarts // _STARTS_A_DESCENT)

    def _known(self) -> bool:
        for goal in self.goals:
            if goal not in GOALS:
                raise ConfigError(f"there is no goal {goal!r}{did_you_mean(str(goal), GOALS)}")
        if not self.goals:
            raise ConfigError(f"goals must name at least one of {', '.join(GOALS)}")
        return True

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "goals": list(self.goals)}


@dataclass(frozen=True)
class Bypass:
    """How much less than the features suggest it takes in the file to leave a feature certificate's ball.

    naive_radius: ‖x‖·R/‖v‖, what the norm ratio would mean for the file if it were an SNR. found: the smallest
    perturbation found that leaves the ball. below_naive_db: 20·log10(naive_radius/found); positive: the file's
    attacker needs less than the ratio suggests. files: the attacked clip as it was read back from disk.
    """

    naive_radius: float
    naive_db: float
    found: float
    found_snr_db: float
    below_naive_db: float
    files: tuple[SavedWav, ...]


@dataclass(frozen=True, eq=False)
class Attack:
    """What attacks on one certified clip found. `print` it for the statement in plain words.

    norm: of the clip in `space`; waveform: whether ratios of norms there are SNRs. proven: the certified radius
    carried to that space, inf without limit, None where nothing is proven (`unproven` says why). left and
    flipped: the smallest perturbations found, None where nothing was found or the goal was not set. All of
    them are upper bounds: a smaller perturbation may exist that no search has found.
    """

    clip: str
    digest: str
    label: str
    radius: float
    space: str
    norm: float
    waveform: bool
    settings: Settings
    proven: float | None
    unproven: str | None = None
    left: Exit | None = None
    flipped: Flip | None = None
    inside: Inside | None = None
    bypass: Bypass | None = None
    deployed: tuple[Deployed, ...] = field(default=())

    @property
    def violations(self) -> tuple[str, ...]:
        """What should not exist: a sentence for each contradiction between what is proven and what was found."""
        out = []
        if self.inside is not None and self.inside.violated:
            i = self.inside
            where = f"{format_down(i.norm, significant=6)} of {format_down(self.radius, significant=6)}"
            out.append(
                f"inside the certified ball, at {where}, {self.label!r} came up {i.count} times of {i.n}: less than the "
                f"certificate allows (probability at least {format_down(i.guaranteed, significant=4)})"
            )
        if self.proven is not None:
            if self.left is not None and self.left.norm < self.proven:
                out.append(
                    f"a perturbation of norm {self.left.norm!r} leaves the ball, but {self.proven!r} is proven: "
                    "a bound of the transport is wrong"
                )
            if self.flipped is not None and self.flipped.norm < self.proven and _is_sure(self.flipped):
                out.append(
                    f"a perturbation of norm {self.flipped.norm!r} changes the label to {self.flipped.label!r}, but "
                    f"{self.proven!r} is proven"
                )
        return tuple(out)

    def gap(self, found: Exit | Flip) -> tuple[float, float] | None:
        """Return found/proven and the same in decibels; None where nothing finite is proven."""
        if not self.proven or math.isinf(self.proven):
            return None
        ratio = found.norm / self.proven
        return ratio, 20 * math.log10(ratio)

    def to_dict(self) -> dict[str, Any]:
        """Return the record of a run: JSON values; a goal that was not set is left out, null is "nothing found"."""
        out: dict[str, Any] = {
            "clip": self.clip, "digest": self.digest, "status": "attacked", "label": self.label,
            "radius": self.radius, "space": self.space, "norm": self.norm, "settings": self.settings.to_dict(),
            "violations": list(self.violations),
        }  # fmt: skip
        if self.proven is None:
            out["proven"] = {"proven": False, "reason": self.unproven}
        else:
            out["proven"] = {"proven": True, "radius": json_number(self.proven)}
        if "leave" in self.settings.goals:
            left = self.left
            out["leave"] = left and {**self._found(left), "distance": left.distance, "start": left.start}
        if "flip" in self.settings.goals:
            flip = self.flipped
            names = ("label", "count", "runner_up", "n", "level", "tries")
            out["flip"] = flip and {**self._found(flip), **{name: getattr(flip, name) for name in names}}
        if "inside" in self.settings.goals:
            counted = ("norm", "count", "n", "level", "p_upper", "guaranteed", "violated")
            out["inside"] = self.inside and {name: getattr(self.inside, name) for name in counted}
        if self.bypass is not None:
            out["bypass"] = {**asdict(self.bypass), "files": [_file(f) for f in self.bypass.files]}
        if "deployed" in self.settings.goals:
            out["deployed"] = [{k: v for k, v in asdict(d).items() if v is not None} for d in self.deployed]
        return out

    def _found(self, found: Exit | Flip) -> dict[str, Any]:
        out: dict[str, Any] = {"norm": found.norm}
        if self.waveform and self.norm > 0:
            out["snr_db"] = 20 * math.log10(self.norm / found.norm)
        gap = self.gap(found)
        if gap:
            out["ratio"], out["gap_db"] = gap
        return out

    def save_evidence(self, path: Path, more: Mapping[str, Any] | None = None) -> Path:
        """Write every perturbation found, with counts, settings and `more` facts, as an .npz that numpy reads."""
        import json

        arrays: dict[str, Any] = {
            f"{name}_delta": found.delta.numpy()
            for name, found in (("leave", self.left), ("flip", self.flipped), ("inside", self.inside))
            if found is not None
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        record = json.dumps({**self.to_dict(), **(more or {})}, allow_nan=False)
        np.savez_compressed(path, record=np.array(record), **arrays)
        return path

    def __str__(self) -> str:
        lines = [
            f"{self.clip}: certified {self.label!r} at radius {format_down(self.radius, significant=4)}; {self._below()}"
        ]
        goals = self.settings.goals
        if "leave" in goals:
            lines.append(
                f"Smallest perturbation found that leaves the certified ball: {self._above(self.left)}."
                if self.left
                else f"No perturbation was found that leaves the certified ball, up to {LONGEST:g} times the clip's norm."
            )
        if "flip" in goals:
            f = self.flipped
            lines.append(
                f"Smallest found that changes the smoothed label: {self._above(f)}, to {f.label!r} ({f.count} against "
                f"{f.runner_up} of {f.n} fresh draws; wrong with probability at most {f.level:g})."
                if f
                else "No change of the smoothed label was found."
            )
        if self.inside:
            i = self.inside
            lines.append(
                f"Inside the ball, at norm {format_down(i.norm, significant=4)}, the label came up {i.count} times of "
                f"{i.n}: {'a' if i.violated else 'no'} violation."
            )
        if self.bypass:
            b = self.bypass
            lines.append(
                f"Read as an SNR, the certificate's {format_up(b.naive_db, decimals=2)} dB would promise "
                f"{b.naive_radius:.4g} in the file; {b.found:.4g} ({b.found_snr_db:.2f} dB) leaves the ball, "
                f"{b.below_naive_db:.2f} dB less."
            )
        for d in self.deployed:
            where = "" if d.distance is None else f", {d.distance:.3g} certified radii away"
            lines.append(
                f"Deployed with {d.variant}{where}: {d.outcome}{f' ({d.label!r})' if d.outcome == 'flipped' else ''}."
            )
        lines += [f"VIOLATION: {v}." for v in self.violations]
        lines.append(
            "What was found bounds the robustness from above; it proves nothing about smaller perturbations."
        )
        return "\n".join(lines)

    def _below(self) -> str:
        if self.proven is None:
            return f"nothing is proven in the space {self.space!r}: {self.unproven}."
        if math.isinf(self.proven):
            return f"in the space {self.space!r} without limit: no perturbation leaves the ball."
        return f"proven in the space {self.space!r}: {format_down(self.proven, significant=4)}{self._snr(self.proven)}."

    def _above(self, found: Exit | Flip) -> str:
        gap = self.gap(found)
        more = f", {gap[0]:.3g} times what is proven ({gap[1]:.2f} dB)" if gap else ""
        return f"{found.norm:.4g}{self._snr(found.norm)}{more}"

    def _snr(self, norm: float) -> str:
        return (
            f" (SNR {20 * math.log10(self.norm / norm):.2f} dB)"
            if self.waveform and self.norm > 0 and norm > 0
            else ""
        )


def _file(saved: SavedWav) -> dict[str, Any]:
    values = {**asdict(saved), "snr_db": json_number(saved.snr_db)}
    return values if saved.path else {k: v for k, v in values.items() if k != "path"}


def _is_sure(flip: Flip) -> bool:
    return binomial_two_sided_p(flip.count, flip.count + flip.runner_up) * flip.tries <= VIOLATION_LEVEL


class Attacker:
    """A smoothed classifier under attack with one set of settings, made ready once for many clips."""

    def __init__(
        self, classifier: SmoothedClassifier, settings: Settings, deployments: Deployments | None = None
    ) -> None:
        self.classifier, self.settings = classifier, settings
        self.deployments = deployments or (
            Deployments(classifier.pipe) if "deployed" in settings.goals else None
        )

    def attack(self, clip: Clip, claim: Claim, wav: Path | None = None) -> Attack:
        """Attack one certified clip; see the module's `attack`. wav: stem of the files that a bypass keeps."""
        pipe, settings, goals = self.classifier.pipe, self.settings, self.settings.goals
        check_recording(clip, claim.clip, claim.digest)
        if claim.sigma != float(pipe.noise.sigma):
            raise ConfigError(
                f"the certificate was made with σ = {claim.sigma:g}, the pipeline has {float(pipe.noise.sigma):g}: "
                "attack it with the pipeline that was certified"
            )
        front = front_from(pipe, clip, settings.space)
        proven, unproven = _proven(pipe, clip, claim.radius, settings.space)
        left = flipped = inside = bypass = None
        if "leave" in goals and claim.radius > 0:
            left = self._leave(front, claim.radius)
        if "flip" in goals:
            target = Target(front, self.classifier, claim, settings.seed)
            flipped = flip_label(
                target, steps=settings.steps, draws=settings.draws, n=settings.n, level=settings.level,
                descents=settings.descents,
            )  # fmt: skip
        if "inside" in goals:
            target = Target(front_from(pipe, clip, "object"), self.classifier, claim, settings.seed)
            inside = inside_ball(
                target, steps=settings.steps, draws=settings.draws, n=settings.n, level=VIOLATION_LEVEL
            )
        if "bypass" in goals and front.route.object.kind != "waveform" and claim.radius > 0:
            at_file = front if settings.space == "file" else front_from(pipe, clip, "file")
            exit_ = left if settings.space == "file" and left else self._leave(at_file, claim.radius)
            bypass = _bypass(pipe, clip, at_file, exit_, wav) if exit_ else None
        deployed: Sequence[Deployed] = ()
        if self.deployments is not None and "deployed" in goals:
            deployed = tuple(
                self.deployments.try_clip(clip, claim, n=settings.n, level=settings.level, seed=settings.seed)
            )
        return Attack(
            clip.name, claim.digest, claim.label, claim.radius, settings.space,
            float(torch.linalg.vector_norm(front.x)), front.is_waveform, settings, proven, unproven,
            left, flipped, inside, bypass, tuple(deployed),
        )  # fmt: skip

    def _leave(self, front: Front, radius: float) -> Exit | None:
        s = self.settings
        return smallest_exit(front, front.x, radius, steps=s.steps, restarts=s.restarts, seed=s.seed)


def _proven(pipe: Pipeline, clip: Clip, radius: float, space: str) -> tuple[float | None, str | None]:
    try:
        route = pipe.route(clip.space)
        return carry(
            route, pipe.front_trace(clip), radius, space, exact=clip.exact, pcm_step=clip.pcm_step
        ).radius, None
    except TransportError as error:
        return None, str(error)


def _bypass(pipe: Pipeline, clip: Clip, front: Front, found: Exit, wav: Path | None) -> Bypass:
    norm, object_norm = (float(torch.linalg.vector_norm(t)) for t in (front.x, front.v))
    naive = norm * found.radius / object_norm if object_norm > 0 else math.inf
    with tempfile.TemporaryDirectory() as scratch:
        stem = wav or Path(scratch) / "clip"
        if wav is not None:
            save_original(clip, stem.with_name(f"{stem.name}.original.wav"))
        files = []
        for encoding in ENCODINGS:
            path = stem.with_name(f"{stem.name}.attacked-{encoding.replace(' ', '-')}.wav")
            saved = save_outside(pipe, clip, found.delta, front.v, found.radius, path, encoding)
            files.append(saved if wav is not None else SavedWav(**{**asdict(saved), "path": ""}))
    return Bypass(
        naive, 20 * math.log10(object_norm / found.radius) if object_norm > 0 else -math.inf,
        found.norm, 20 * math.log10(norm / found.norm) if norm > 0 else -math.inf,
        20 * math.log10(naive / found.norm), tuple(files),
    )  # fmt: skip


def attack(
    pipe: Pipeline,
    clip: Clip,
    certificate: Certificate,
    *,
    space: str = "file",
    goals: Sequence[Goal] = ("leave", "flip", "inside"),
    steps: int = 30,
    restarts: int = 16,
    draws: int = 32,
    n: int = 1000,
    level: float = 1e-3,
    seed: int = 0,
    wav: Path | None = None,
) -> Attack:
    """Attack one certified clip, and return the proven radius beside the smallest perturbations found.

    goals: "leave", the smallest perturbation in `space` that moves the certified object out of its ball; "flip",
    the smallest after which the smoothed classifier gives another label; "inside", a search in the ball for
    what a true certificate excludes; "bypass", for an object that is no waveform, what leaving the ball takes in
    the file against what the norm ratio suggests, as WAV files read back (kept as `wav`.*.wav where it is
    given); "deployed", what pipelines with another gain, clipping or resampler answer. See `Settings` for the rest.

    What is found bounds the robustness from above and proves nothing. Raises AbstainedError for an abstention,
    InputError for another recording than the certificate's, TransportError for an unknown space, ConfigError
    where a stage or the model has no gradient.
    """
    settings = Settings(space, tuple(goals), steps, restarts, draws, n, level, seed)
    claim = Claim.of(certificate)
    return Attacker(smoothed(pipe), settings).attack(a_clip(clip), claim, wav)
