"""The contract builder: the noise at every place of a pipeline, and what would be certified there.

Nothing is trained and no model is asked. For one clip it says what the best possible certificate would mean
wherever the noise stood: the contract, the Monte-Carlo ceiling in its units, the proof for the file, and how the
stages after the noise distort it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soundcert.audio import Clip
from soundcert.audit import ClipAudit, audit
from soundcert.bounds import format_down, format_up
from soundcert.compare.levels import noise_index
from soundcert.config import StageSpec
from soundcert.demo import demo_folder
from soundcert.errors import ConfigError, InputError, SoundcertError, TransportError
from soundcert.pipeline import Pipeline
from soundcert.report.terminal import VIEWS
from soundcert.report.words import length, view_text, visible
from soundcert.runs import Run
from soundcert.runs.recordings import config_of, folder_of
from soundcert.stages import FEATURE_STAGES
from soundcert.transport import carry

#: Values of one tensor that a page may ask for: a config can name any length.
MOST_VALUES = 4_000_000
DRAWS = 8
SIGMAS = (0.0025, 0.01, 0.05, 0.25, 0.5, 1.0, 2.0)


def _name(spec: StageSpec) -> str:
    return spec if isinstance(spec, str) else next(iter(spec))


@dataclass(frozen=True)
class Recipe:
    """Stages without the noise and the model, and where the noise stood: before `home` of them.

    noise: its stage as the config has it. sigma: its σ. folder: where files that stages name lie.
    """

    key: str
    title: str
    stages: tuple[StageSpec, ...]
    home: int
    noise: StageSpec
    sigma: float
    folder: Path | None = None

    @classmethod
    def of(cls, key: str, title: str, specs: Sequence[StageSpec], folder: Path | None) -> Recipe:
        """Take a config's list of stages apart; everything from the model on is left out."""
        if not all(isinstance(s, str) or (isinstance(s, Mapping) and len(s) == 1) for s in specs):
            raise ConfigError("its pipeline is not a list of stages")
        at = noise_index(specs)
        body = [*specs[:at], *specs[at + 1 :]]
        end = next((i for i, s in enumerate(body) if _name(s) == "model"), len(body))
        if at > end:
            raise ConfigError("its noise stands between two parts of the model: the builder cannot show that")
        noise = specs[at]
        fields = noise[_name(noise)] if isinstance(noise, Mapping) else None
        sigma = fields.get("sigma") if isinstance(fields, Mapping) else None
        if not isinstance(sigma, int | float) or isinstance(sigma, bool):
            raise ConfigError("its noise has no sigma")
        return cls(key, title, tuple(body[:end]), at, noise, float(sigma), folder)

    def noise_at(self, at: int, sigma: float) -> StageSpec:
        """Return the noise for a place: the recipe's own at home; elsewhere Gaussian, which can stand everywhere."""
        if at == self.home and isinstance(self.noise, Mapping):
            return {_name(self.noise): {**(self.noise[_name(self.noise)] or {}), "sigma": sigma}}
        return {"gaussian_noise": {"sigma": sigma}}

    def with_noise(self, at: int, sigma: float) -> list[StageSpec]:
        """Return the stages with the noise before stage `at`."""
        return [*self.stages[:at], self.noise_at(at, sigma), *self.stages[at:]]

    def with_extra(self, extra: str) -> Recipe:
        """Return the recipe with a change of the waveform put in after its gain (or at the end of the waveform)."""
        if extra not in EXTRAS:
            raise ConfigError(f"no such change {extra!r} (known: {', '.join(EXTRAS)})")
        spec = EXTRAS[extra][1]
        if spec is None:
            return self
        names = [_name(s) for s in self.stages]
        gains = [i for i, n in enumerate(names) if n in _GAINS]
        first = next((i for i, n in enumerate(names) if n in FEATURE_STAGES), len(names))
        at = gains[-1] + 1 if gains else first
        stages = (*self.stages[:at], spec, *self.stages[at:])
        return replace(self, stages=stages, home=self.home + (self.home > at))


_GAINS = frozenset({"rms_normalize", "peak_normalize", "fixed_gain", "standardize"})
#: Changes that may be put into the pipeline: title and stage.
EXTRAS: dict[str, tuple[str, StageSpec | None]] = {
    "none": ("nothing", None),
    "clip": ("clip to [−1, 1]", {"clip": {"low": -1.0, "high": 1.0}}),
    "limiter": ("a soft limiter at [−1, 1]", {"limiter": {"threshold": 0.8, "ceiling": 1.0}}),
    "peak": ("normalise the peak", {"peak_normalize": {"target": 6.0}}),
    "quantize": ("round to 8 bits", {"quantize": {"bits": 8}}),
}

_START: list[StageSpec] = ["mono", {"resample": {"rate": 16_000}}, {"fit": {"seconds": 1.0}}]
_NOISE: StageSpec = {"gaussian_noise": {"sigma": 0.5}}
STANDARD = (
    Recipe.of(
        "log-mel",
        "Keyword spotter: gain, log-mel",
        [*_START, {"rms_normalize": {"target": 1.0}}, _NOISE, {"log_mel": {"n_mels": 40, "floor": 1.0}}],
        None,
    ),
    Recipe.of("mfcc", "MFCC, no gain", [*_START, _NOISE, {"mfcc": {"n_mels": 40, "floor": 1.0}}], None),
    Recipe.of("raw", "Raw waveform, peak gain", [*_START, {"peak_normalize": {"target": 1.0}}, _NOISE], None),
)


def recipe_of_run(key: str, name: str, run: Run) -> Recipe:
    """Return the recipe of a run's own pipeline; ConfigError where the builder cannot show it."""
    config = config_of(run.path, run.info)
    return Recipe.of(key, name, config.pipeline, folder_of(run.info))


def slots(
    recipe: Recipe, clip: Clip, *, sigma: float, n: int = 10_000, alpha: float = 1e-3
) -> dict[str, Any]:
    """Return what would be certified with the noise at each place, from the file down to the classifier.

    sigma: in the unit of the object, whatever that is there. At home the noise is of the recipe's own family,
    elsewhere Gaussian, which a place then says. Raises ConfigError for numbers that cannot be.
    """
    if not (math.isfinite(sigma) and 0 < sigma <= 1e6):
        raise ConfigError(f"sigma must be a positive number, got {sigma!r}")
    names = []
    places = []
    for at in range(len(recipe.stages) + 1):
        try:
            pipe = Pipeline.from_specs(recipe.with_noise(at, sigma), recipe.folder)
            names = [s.describe() for s in pipe.stages if s is not pipe.noise]
            places.append({**_slot(pipe, clip, n, alpha), "instead": _instead(recipe, at)})
        except (SoundcertError, MemoryError, ArithmeticError, RuntimeError, ValueError) as error:
            places.append({"ok": False, "reason": visible(error)})
    return {
        "stages": [visible(name) for name in names] or [visible(_name(s)) for s in recipe.stages],
        "home": recipe.home,
        "sigma": f"{sigma:g}",
        "n": n,
        "alpha": f"{alpha:g}",
        "places": places,
    }


def _instead(recipe: Recipe, at: int) -> str | None:
    """Say which noise stands at a place, where it is not the recipe's own."""
    own = _name(recipe.noise)
    if _name(recipe.noise_at(at, recipe.sigma)) == own:
        return None
    return f"The run adds {visible(own)}, which stands where it stood; here the figures are those of gaussian_noise."


def sound(pipe: Pipeline, clip: Clip) -> None:
    """Raise InputError where the pipeline would make more values of the clip than a page may ask for."""
    largest = max(space.size for space in pipe.route(clip.space).spaces)
    if largest > MOST_VALUES:
        raise InputError(
            f"the pipeline makes {largest} values of this clip; {MOST_VALUES} at most are shown here"
        )


def _slot(pipe: Pipeline, clip: Clip, n: int, alpha: float) -> dict[str, Any]:
    sound(pipe, clip)
    result = audit(pipe, [clip], n=n, alpha=alpha, draws=DRAWS)
    if not result.clips:
        raise InputError(result.failed[clip.name])
    return {"ok": True, **place_words(pipe, clip, result.clips[0])}


def place_words(pipe: Pipeline, clip: Clip, found: ClipAudit) -> dict[str, Any]:
    """Return an audited clip in words and figures, each rounded inward, as JSON values."""
    contract, route = found.contract, pipe.route(clip.space)
    views = found.views
    size = math.sqrt(contract.dimension)
    rms = found.object_norm / size
    others = [stage for stage in pipe.stages if stage is not pipe.noise]
    out: dict[str, Any] = {
        "kind": contract.kind,
        "space": _colour(contract.perturbation_location, bool(contract.post_noise)),
        "object": visible(contract.certified_object),
        "location": contract.perturbation_location,
        "unit": visible(contract.unit),
        "values": contract.dimension,
        "gain_policy": visible(contract.gain_policy),
        "gain": None if contract.gain is None else f"×{contract.gain:.4g}",
        # Places, among the stages without the noise, of those that change the noisy object.
        "changes": [i for i, s in enumerate(others) if any(s is p for p in route.post_processing)],
        "covers": visible(contract.covers()),
        "not_claimed": [visible(line) for line in contract.not_claimed()],
        "norm": f"{found.object_norm:.4g}",
        "radius": length(found.ceiling),
        "views": [
            {"key": v, "title": VIEWS[v][0], "value": view_text(v, views[v]), "unit": VIEWS[v][1]}
            for v in VIEWS
            if v in views
        ],
        "noise_db": None,
        "file": _file(pipe, clip, found, views),
        "flags": [
            {
                "level": f.kind.level,
                "title": f.kind.title,
                "detail": visible(f.detail),
                "meaning": f.kind.meaning,
                "action": f.kind.action,
            }
            for f in found.flags
        ],
    }
    if rms > 0:
        out["noise_db"] = f"{20 * math.log10(rms / contract.sigma):.1f}"
    if contract.displacement is not None and contract.sensitivity is not None:
        out["geometry"] = [f"{contract.displacement:.3g}", f"{contract.sensitivity:.3g}"]
    elif not route.post_processing:
        out["geometry"] = ["1", "1"]
    else:
        out["geometry"] = None
    return out


def _colour(location: str, post: bool) -> str:
    if location in ("feature", "latent"):
        return location
    return "post" if post else "waveform"


def _file(pipe: Pipeline, clip: Clip, found: ClipAudit, views: Mapping[str, float]) -> dict[str, Any]:
    """Return what is proven for the file's samples, and by which chain; or why nothing is."""
    try:
        there = carry(
            pipe.route(clip.space), pipe.front_trace(clip), found.ceiling, "file",
            exact=clip.exact, pcm_step=clip.pcm_step,
        )  # fmt: skip
    except TransportError as error:
        return {"proven": False, "reason": visible(error)}
    level = there.snr_db if 0 < there.radius < math.inf and there.norm > 0 else None
    return {
        "proven": True,
        "radius": format_down(there.radius, significant=4) if there.radius < math.inf else "without limit",
        "snr_db": None if level is None else format_up(level, decimals=1),
        "level": level,
        "lsb": view_text("file_lsb", views["file_lsb"]) if "file_lsb" in views else None,
        "chain": [
            [visible(s.stage), length(s.radius if math.isfinite(s.radius) else None)] for s in there.chain
        ],
    }


def demo_clips() -> list[Path]:
    """Return the bundled clips, synthetic speech that anybody may have."""
    return sorted(demo_folder().glob("*.flac"))
