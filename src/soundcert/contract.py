"""The contract: what a certificate covers, read off the pipeline and never typed in.

The fields are those that arXiv 2606.04210 asks every audio study to report: the certified object, the
perturbation location, the gain policy, the raw radius, the signal-relative scale and every change made
after the noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from soundcert.bounds import format_down, format_up
from soundcert.pipeline import Route
from soundcert.stages import GaussianNoise, LatticeNoise, Model, NoiseStage, known_stages

ContractKind = Literal[
    "fixed-gain waveform smoothing",
    "post-processed waveform smoothing",
    "feature-space smoothing",
    "latent smoothing",
]
#: Families of stages that decide what a model hears, and one stage of theirs that hardly does.
_HEARD, _UNHEARD = ("gain", "noise", "range", "feature"), "quantize"
#: Families whose law is tested here.
_NOISES = {kind.name: kind for kind in (GaussianNoise, LatticeNoise)}
Location = Literal["input", "waveform after gain", "waveform", "feature", "latent"]


@dataclass(frozen=True)
class Contract:
    """What is certified. Derived by `read_contract`; the fields from `gain` on are about one clip.

    windows, vote: how the base classifier reads a long recording, below the noise. cut: how recordings were cut
    into clips above it, each with a certificate of its own. trained_otherwise: gains, noise and features that the
    model was trained with, by its weight file, beside those that stand here; None where they are the same, or unknown.
    channels: of a waveform that has several; `dimension` counts the values of all.
    """

    kind: ContractKind
    certified_object: str
    perturbation_location: Location
    gain_policy: str
    norm: str
    unit: str
    noise: str
    sigma: float
    dimension: int
    pre_noise: tuple[str, ...]
    post_noise: tuple[str, ...]
    post_noise_stages: tuple[str, ...]
    model: str
    engine: str = "torch fp32"
    pre_noise_words: tuple[str, ...] = ()
    post_noise_words: tuple[str, ...] = ()
    windows: str | None = None
    vote: str | None = None
    cut: str | None = None
    trained_otherwise: str | None = None
    channels: int | None = None
    gain: float | None = None
    object_norm: float | None = None
    raw_radius: float | None = None
    snr_db: float | None = None
    norm_ratio_db: float | None = None
    displacement: float | None = None
    sensitivity: float | None = None
    lattice_step: float | None = None

    @property
    def about_waveform(self) -> bool:
        """Whether the certified object is a waveform, so that a signal-to-noise ratio makes sense."""
        return self.perturbation_location in ("input", "waveform", "waveform after gain")

    def for_clip(self, **values: Any) -> Contract:
        return replace(self, **values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; fields that say nothing about this clip are left out."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value is not None and not key.endswith("_words")
        }

    def covers(self) -> str:
        """Return what a certificate covers, in plain words."""
        steps = f" ({'; '.join(self.pre_noise_words)})" if self.pre_noise_words else ""
        step = f"{self.lattice_step:g}" if self.lattice_step else ""
        where = f" on the lattice of whole steps of {step}" if step else ""
        text = (
            f"The certified object is the {self.certified_object}{steps}: {self.dimension} values{where}. "
            f"Any change of it{where and ' from lattice point to lattice point'} with an ℓ2 norm strictly below the "
            f"radius leaves the smoothed label as it is. "
            f"The noise has σ = {self.sigma:g} in the object's own unit ({self.unit})."
        )
        if self.windows:
            text += (
                f" The base classifier reads the noisy object in windows of {self.windows}: {self.vote}. Windows and "
                "vote stand below the noise, so that one certificate, one noise and one radius are about the whole "
                "object."
            )
        if step:
            text += (
                " Noise and object are whole steps and are added as integers, so that rounding in floating point takes "
                "nothing from the radius; every input reaches the lattice by the last step before the noise."
            )
        if self.post_noise:
            text += (
                f" After the noise the object is changed ({'; '.join(self.post_noise_words)}); that belongs to "
                "the base classifier and the certificate stays about the object before it."
            )
        if self.cut:
            text += (
                f" The recordings were cut above the noise, into clips of {self.cut}: each is an object of its own, with "
                "its own noise and certificate. A change of the whole recording changes a clip's samples by no more "
                "than its own norm, so that one below the radius that in_space('file') proves for a clip leaves that "
                "clip's label as it is."
            )
        return text

    def not_claimed(self) -> tuple[str, ...]:
        """Return what a reader might wrongly take the certificate to say."""
        out = []
        if self.perturbation_location == "feature":
            out.append(
                "Nothing about an attacker who changes the waveform, but for the radius that in_space('file') "
                "proves: a change of the samples that nobody hears can leave the feature ball. A norm ratio of "
                "features is not a signal-to-noise ratio."
            )
        elif self.perturbation_location == "latent":
            out.append("Nothing about an attacker who changes the waveform or the features.")
        elif self.perturbation_location != "input":
            out.append(
                "Not directly about the file's samples: the steps before the noise stand in between. "
                "in_space('file') gives what can be proven there."
            )
        if "per clip, before the noise" in self.gain_policy and self.about_waveform:
            out.append(
                "The gain is computed from each clip and held: the radius is in units of the scaled clip, so "
                "the same radius is a smaller change of a quiet file."
            )
        if self.windows:
            out.append(
                "Nothing about a single window: its answer may change while the vote stands. The radius is the norm of a "
                "change over the whole recording, which may all be spent in one window."
            )
        if self.cut:
            out.append(
                "No answer for the recording as a whole, and no joint level: each clip's certificate is wrong with "
                "probability α by itself, all m of a recording together with at most m·α."
            )
        if self.post_noise:
            out.append(
                "The radius is not a distance between the signals that the model hears after these changes."
            )
        if self.noise not in _NOISES:
            out.append(
                f"Nothing about whether `{self.noise}` draws normal noise of that σ, coordinate by coordinate: its author "
                "says so."
            )
        if self.lattice_step is None:
            out.append(
                "Nothing about what rounding in floating point does to Gaussian noise: the proof is about real numbers "
                "(`lattice_noise` closes that gap)."
            )
        out.append(
            "Nothing about a model that answers the same input differently from run to run, or about a deployment that "
            "computes otherwise: another engine, precision, library or front end is another classifier."
        )
        out.append(
            "Nothing about lossy codecs, other file headers, louder changes than the radius, another pipeline, "
            "or whether the label is correct."
        )
        return tuple(out)

    def statement(self) -> str:
        """Return the contract as a paragraph, with what is not claimed."""
        lines = [f"Contract: {self.kind}.", self.covers(), f"Gain policy: {self._gain_words()}."]
        if self.raw_radius is not None:
            view = ""
            if self.snr_db is not None:
                view = f"; SNR-equivalent {format_up(self.snr_db, decimals=2)} dB"
            elif self.norm_ratio_db is not None:
                view = f"; norm ratio {format_up(self.norm_ratio_db, decimals=2)} dB (not an SNR)"
            lines.append(f"Raw radius: {format_down(self.raw_radius, significant=4)} ({self.unit}){view}.")
        if self.engine != "torch fp32":
            lines.append(
                f"The base classifier is the model as {self.engine} computes it; run in another engine or "
                "precision, it is another classifier."
            )
        if self.displacement is not None and self.sensitivity is not None:
            lines.append(
                f"Geometry after the noise: displacement {self.displacement:.4g} times the noise, "
                f"sensitivity {self.sensitivity:.4g}."
            )
        lines.append("Not claimed: " + " ".join(self.not_claimed()))
        return "\n".join(lines)

    def _gain_words(self) -> str:
        return self.gain_policy if self.gain is None else f"{self.gain_policy} (this clip: ×{self.gain:.5g})"

    def __str__(self) -> str:
        return self.statement()


def read_contract(route: Route, engine: str = "torch fp32") -> Contract:
    """Read the contract off a bound pipeline. engine: what computes the model, and in which precision."""
    space = route.object
    post = route.post_processing
    location: Location
    if space.kind == "waveform":
        # Read off the stages and not off this clip's shape, so that every clip of a run has one contract.
        location = "input" if not route.front else ("waveform after gain" if space.gain else "waveform")
        kind: ContractKind = "post-processed waveform smoothing" if post else "fixed-gain waveform smoothing"
        objects = {
            "input": "file's samples",
            "waveform": "waveform",
            "waveform after gain": f"gain-normalised waveform ({space.unit})",
        }
        certified = objects[location]
    elif space.kind == "feature":
        location, kind, certified = "feature", "feature-space smoothing", f"{space.name} features"
    else:
        location, kind, certified = "latent", "latent smoothing", "activations between two parts of the model"
    windows = route.cut[1]
    below = route.base[:-1] if route.base and route.base[-1].family == "model" else route.base
    model = route.base[-1].describe() if route.base and route.base[-1].family == "model" else "none"
    return Contract(
        kind=kind,
        certified_object=certified,
        perturbation_location=location,
        gain_policy=_gain_policy(route),
        norm=route.noise.norm,
        unit=space.unit,
        noise=_noise_name(route.noise),
        sigma=float(route.noise.sigma),
        dimension=space.size,
        pre_noise=tuple(stage.describe() for stage in route.front),
        post_noise=tuple(stage.describe() for stage in post),
        post_noise_stages=tuple(stage.describe() for stage in below),
        model=model,
        engine=engine,
        pre_noise_words=tuple(stage.words() for stage in route.front),
        post_noise_words=tuple(
            stage.words().replace("each clip", "each window") if stage in route.cut[2] else stage.words()
            for stage in post
        ),
        lattice_step=route.noise.lattice,
        windows=windows.length_words() + ("" if windows.tail == "keep" else ", the rest left out")
        if windows
        else None,
        vote=windows.vote_words() if windows else None,
        cut=route.file.cut,
        trained_otherwise=_trained_otherwise(route),
        channels=space.channels if space.channels > 1 else None,
    )


def _noise_name(noise: NoiseStage) -> str:
    """Return a noise's name; its class's where it only has inherited the name of another."""
    kind = type(noise)
    return noise.name if _NOISES.get(noise.name, kind) is kind else kind.__qualname__


def _trained_otherwise(route: Route) -> str | None:
    """Compare gains, noise and features with those that weight files of ours say they were trained with."""
    heard = [stage for stage in route.stages if stage.family != "model"]
    found = []
    for stage in route.base:
        for *own, model in stage.members or ((stage,),) if isinstance(stage, Model) else ():
            said: object = model.meta.get("pipeline")
            if not isinstance(said, list) or not all(isinstance(t, str) and t.isprintable() for t in said):
                continue
            # Other stages, such as `fit` or `resample`, are for the recordings and not for the model.
            kinds = {name for name, kind in known_stages().items() if kind.family in _HEARD} - {_UNHEARD}
            # Noise on a lattice is Gaussian noise to the ear.
            here = [
                (GaussianNoise(s.sigma) if isinstance(s, LatticeNoise) else s).describe()
                for s in (*heard, *own)
                if s.name in kinds
            ]
            there = [t.replace("lattice_", "gaussian_") for t in said if t.partition("(")[0] in kinds]
            if here != there:
                fewer = [text for text in there if text not in here]
                more = [text for text in here if text not in there]
                found.append(
                    f"trained with {', '.join(fewer) or 'nothing'} where {', '.join(more) or 'nothing'} stands here"
                    if fewer or more
                    else f"trained in another order: {', '.join(there)}"
                )
    return "; ".join(dict.fromkeys(found)) or None


def _gain_policy(route: Route) -> str:
    parts = []
    whole, _, each = route.cut
    for unit, place, stages in (
        ("clip", "before", route.front), ("clip", "after", whole), ("window", "after", each)
    ):  # fmt: skip
        for stage in stages:
            if stage.family == "gain":
                how = f"per {unit}" if stage.per_clip else "fixed"
                parts.append(f"{how}, {place} the noise: {stage.describe()}")
    return "; ".join(parts) or "none: the samples keep the file's own scale"
