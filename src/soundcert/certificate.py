"""The certificate, and the prediction: what one clip's draws allow to be said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from torch import Tensor

from soundcert.bounds import BoundName, format_down, format_up
from soundcert.contract import Contract
from soundcert.diagnostics import burst_level_db, norm_ratio_db
from soundcert.errors import AbstainedError, TransportError
from soundcert.pipeline import Route
from soundcert.transport import Transported, carry

Status = Literal["certified", "abstained"]
PolicyName = Literal["fixed", "decide", "estimate", "budget"]


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a certificate was made: what transport needs, and nothing that is stored."""

    route: Route
    points: Sequence[Tensor]
    exact: bool
    pcm_step: float | None = None


@dataclass(frozen=True)
class Certificate:
    """What one certification found. `print` it for the statement in plain words.

    status: "certified" or "abstained". An abstained certificate has no label, radius or decibels:
    asking for one raises AbstainedError. candidate: the class that the selection draws chose.
    count of n: fresh draws that gave it; p_lower: the lower bound of its probability at level alpha.
    p_upper, max_other: for the two-class bound, the bound and the count of the strongest rival.
    ceiling: the largest radius that n and alpha allow. All radii are ℓ2, in the certified object.
    policy: how n was chosen ("fixed", "decide", "estimate", "budget"); n and n0 are the draws made. Under
    "decide" the radius is the largest of `radii` that was accepted (0: only p > ½ was), p_lower what that
    says of the probability, ceiling the largest radius asked about, and `cap` the most draws. set_aside: the part of
    alpha that pays for the distance of lattice noise from its exact law; the bounds are taken at what is left.
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
    policy: PolicyName = "fixed"
    radii: tuple[float, ...] | None = None
    cap: int | None = None
    set_aside: float | None = None
    _radius: float | None = field(default=None, repr=False)
    _origin: Origin | None = field(default=None, repr=False, compare=False)

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
        return carry(
            self._origin.route,
            self._origin.points,
            radius,
            name,
            exact=self._origin.exact,
            pcm_step=self._origin.pcm_step,
        )

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
        out = _fields(self, "clip", "digest", "status", "candidate", "count", "n", "n0", "alpha", "seed", "bound",
                      "sigma", "p_lower", "ceiling", "object_norm", "saturated", "policy")  # fmt: skip
        if self.max_other is not None:
            out |= _fields(self, "max_other", "p_upper")
        if self.set_aside is not None:
            out["set_aside"] = self.set_aside
        if self.radii is not None:
            out |= {"radii": list(self.radii), "cap": self.cap}
        if self._radius is not None:
            out["label"] = self.candidate
            out["radius"] = self._radius
            out["views"] = {k: json_number(v) for k, v in self.views().items()}
        for key in ("dimension", "gain", "displacement", "sensitivity"):
            value = getattr(self.contract, key)
            if value is not None:
                out[key] = value
        return out

    def __str__(self) -> str:
        share = f"{self.count} of {self.n} noisy copies, after {self.n0} others had chosen the class"
        if self._radius is None:
            proven = (
                f"not even the smallest radius asked about, {self.radii[0]:g}, could be shown"
                if self.radii
                else f"its probability is only proven to be at least {format_down(self.p_lower, significant=4)}: "
                "not more than its rivals'"
            )
            return (
                f"{self.clip}: abstained. The likeliest label was {self.candidate!r} ({share}), but at "
                f"α = {self.alpha:g} {proven}. Nothing is claimed about this clip."
            )
        within = (
            f"within radius {format_down(self._radius, significant=4)} ({self.contract.unit}, ℓ2)"
            if self._radius
            else "as the smoothed classifier's label, at some radius above 0 that was not asked about"
        )
        lines = [
            f"{self.clip}: certified {self.candidate!r} {within}; {share}; wrong with probability at most "
            f"α = {self.alpha:g} over the noise of seed {self.seed}, which must be fixed before any result is seen."
        ]
        if self.saturated and self.radii:
            lines.append("It is the largest radius asked about: the clip may be certifiable at larger ones.")
        elif self.saturated:
            lines.append(
                f"The radius is the Monte-Carlo ceiling for n = {self.n}: every draw agreed, and it tells n, not the model."
            )
        lines.append(self.contract.statement())
        if self._origin is not None and self.contract.perturbation_location != "input":
            try:
                file = self.in_space("file")
                # Beside silence nothing has a level in decibels.
                level = f", SNR {format_up(file.snr_db, decimals=2)} dB" if file.norm > 0 else ""
                lines.append(
                    f"Proven for the file's samples: radius {format_down(file.radius, significant=4)} (full scale){level}."
                    if file.radius > 0
                    else "For the file's samples nothing is proven: the chain leaves a radius of 0."
                )
            except TransportError as error:
                lines.append(f"For the file's samples nothing is proven: {error}.")
        return "\n".join(lines)


def _fields(record: object, *names: str) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def json_number(value: float) -> float | None:
    """JSON has no infinity; a radius without limit is null there."""
    return value if math.isfinite(value) else None


#: Views of which a larger value claims less.
FALLING = frozenset({"snr_db", "norm_ratio_db", "file_snr_db"})


def radius_views(cert: Certificate, radius: float, file: Transported | None) -> dict[str, float]:
    """Return a radius in every view that can be stated, by name.

    r_over_sigma; snr_db (waveform objects) or norm_ratio_db; burst_20ms_db: the level if all of the
    perturbation sits in 20 ms, relative to the object's RMS; file_radius, file_snr_db and file_lsb (an
    ℓ2 norm in quantisation steps of the file) where the radius is proven for the file's samples. Silence has no
    level that another could be so many decibels below: without a norm there is no ratio.
    """
    contract = cert.contract
    out = {"r_over_sigma": math.nextafter(radius / cert.sigma, 0.0)}
    if radius == 0:  # the label alone: no perturbation whose level could be given
        return out
    if cert.object_norm > 0:
        out["snr_db" if contract.about_waveform else "norm_ratio_db"] = norm_ratio_db(
            cert.object_norm, radius
        )
    if contract.about_waveform:
        rms = cert.object_norm / math.sqrt(contract.dimension)
        if cert.rate and rms > 0:
            out["burst_20ms_db"] = burst_level_db(radius, rms, cert.rate, channels=contract.channels or 1)
    if file is not None and file.radius > 0:
        out["file_radius"] = file.radius
        if file.norm > 0:
            out["file_snr_db"] = file.snr_db
        if cert.lsb:
            out["file_lsb"] = file.radius / cert.lsb  # exact: a step is a power of two
    return out


def view_medians(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the median of every view that any of the rows (`radius_views`, null for no limit) has, by name.

    A row without a view, such as silence, which has no SNR, counts as one that claims nothing in it, so that the rest
    keep their median and it claims no more. One that is infinite is left out.
    """
    out: dict[str, float] = {}
    for view in sorted(set[str]().union(*rows)):
        least = math.inf if view in FALLING else -math.inf
        values = [row.get(view, least) for row in rows]
        middle = median(-least if value is None else value for value in values)
        if math.isfinite(middle):
            out[view] = middle
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
        out = _fields(self, "clip", "digest", "status", "candidate", "count", "runner_up", "n", "alpha",
                      "p_value", "replay")  # fmt: skip
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


def certified_accuracy(certificates: Iterable[tuple[Certificate, str]], radius: float) -> float:
    """Return the share of clips certified with their true label at `radius` or more (strictly above 0)."""
    pairs = list(certificates)
    good = sum(c.status == "certified" and c.candidate == truth and c.radius >= radius for c, truth in pairs)
    return good / len(pairs) if pairs else 0.0
