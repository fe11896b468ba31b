"""Flags: what deserves a second look before a certificate is quoted.

Each has a page in docs/flags (written from these texts by scripts/make_flag_pages.py): raised if, what
it means, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["note", "warning"]


@dataclass(frozen=True)
class FlagKind:
    """A kind of flag, with the texts of its page."""

    id: str
    level: Level
    title: str
    raised_if: str
    meaning: str
    action: str

    @property
    def page(self) -> str:
        return f"docs/flags/{self.id}.md"


@dataclass(frozen=True)
class Flag:
    """A flag that an audit raised, with what was seen."""

    id: str
    detail: str

    @property
    def kind(self) -> FlagKind:
        return FLAGS[self.id]


_KINDS = (
    FlagKind(
        "per-clip-gain-before-noise",
        "note",
        "A gain computed from each clip stands before the noise",
        "a stage such as rms_normalize, peak_normalize or standardize stands above the noise.",
        "The certified object is the scaled clip, not the file. The same radius is a smaller change of a quiet "
        "file than of a loud one, and an attacker on the file changes the gain too.",
        "Report the gain policy with the radius. For the file's samples use `in_space('file')` or "
        "`--report-in file`, which carry the radius through the gain with proof; or use `fixed_gain`.",
    ),
    FlagKind(
        "clip-after-unit-gain",
        "warning",
        "Clipping after the noise cuts the clean signal",
        "a `clip` or `limiter` stage below the noise changes the clean object v of at least one clip.",
        "A clip scaled to unit RMS has peaks of 4 to 12, far outside [−1, 1]. The model hears a strongly "
        "distorted signal, and the perturbation that it hears has another norm than the certified one: the "
        "displacement in the report is hundreds of times the noise for small σ. The certificate stays valid, "
        "about the object before clipping.",
        "Clip at a level that the clean objects do not reach, or scale to a smaller RMS, or report the contract "
        "as post-processed waveform smoothing with its displacement and sensitivity.",
    ),
    FlagKind(
        "gain-after-noise",
        "warning",
        "A gain computed from the noisy signal stands after the noise",
        "a per-clip gain such as peak_normalize stands below the noise.",
        "Each noisy copy is rescaled by its own factor. The certificate is about the object before that gain; "
        "a distance between signals after it is another number, hundreds of times larger or smaller.",
        "Move the gain above the noise, or report post-processed waveform smoothing with displacement and "
        "sensitivity.",
    ),
    FlagKind(
        "quantise-after-noise",
        "note",
        "Rounding after the noise",
        "a `quantize` stage stands below the noise.",
        "The rounding belongs to the base classifier. The certificate is about the object before it.",
        "Nothing, if that is what is deployed. To certify integer samples, quantise above the noise.",
    ),
    FlagKind(
        "feature-not-waveform",
        "warning",
        "The certificate is about features, not about the waveform",
        "the noise stands below a feature stage.",
        "A waveform attacker is not bounded by this radius: a change of the samples that nobody hears can leave "
        "the feature ball. ‖v‖/R is a norm ratio that depends on gain, unit and floor; it is not an SNR and must "
        "not be ranked against one.",
        "State the certified object with every figure. `in_space('file')` or `--report-in file` carries the radius to "
        "the file's samples with proof: only there compare it with a waveform certificate.",
    ),
    FlagKind(
        "latent-not-waveform",
        "warning",
        "The certificate is about activations inside the model",
        "the noise stands between two parts of the model.",
        "Neither the waveform nor the features are bounded by this radius.",
        "State the certified object with every figure.",
    ),
    FlagKind(
        "log-floor",
        "warning",
        "The log floor lets features explode",
        "a feature object leaves the ball of its Monte-Carlo ceiling when the waveform is changed by white noise "
        "60 dB below the clip.",
        "Quiet bands of log features move by whole nats when almost nothing is added to the samples. The floor "
        "decides how much: at 1e-10 a digital silence moves by twenty nats. A feature certificate then does "
        "not even cover white noise that nobody hears.",
        "Raise the floor (1 to 10 for 512-point power spectra of unit-RMS clips), train with it, and audit again.",
    ),
    FlagKind(
        "below-quantisation",
        "warning",
        "The largest possible radius lies below 16-bit rounding",
        "even the Monte-Carlo ceiling, carried to the file, is smaller than the change that storing the clip "
        "with 16 bits makes (Δ√(d/12) for a uniform error).",
        "The certificate covers perturbations smaller than what saving the file does to it.",
        "Use a larger σ and a model trained for it.",
    ),
    FlagKind(
        "silent-clip",
        "warning",
        "A silent clip has no SNR",
        "all samples of a clip are zero, and no gain refuses it.",
        "Nothing has a level below silence: the clip is certified at no SNR, whatever its raw radius. A per-clip gain "
        "computed from it is undefined.",
        "Leave the clip out, or report its raw radius apart; a per-clip gain needs a floor.",
    ),
    FlagKind(
        "full-scale-clip",
        "note",
        "A recording touches full scale",
        "a file has four or more samples at the largest magnitude that its format holds.",
        "It was probably clipped when it was recorded. The certificate is about the clipped recording.",
        "Nothing to do, unless the recordings can be had again.",
    ),
    FlagKind(
        "mostly-padding",
        "note",
        "More than half of the certified object is padding",
        "`fit` pads a clip to more than twice its length.",
        "RMS and SNR are taken over the padding as well, and the noise is spread over it.",
        "Use a shorter window, or report these clips apart.",
    ),
    FlagKind(
        "cropped",
        "note",
        "`fit` cuts samples away",
        "a clip is longer than the window.",
        "The model does not hear the rest: a perturbation there changes nothing, and nothing is said about it.",
        "If the rest matters, put `windows` below the noise in place of `fit`, or cut the recordings into clips with "
        "`data: {cut: {seconds: …}}` (docs/long-recordings.md).",
    ),
    FlagKind(
        "lengths-differ",
        "note",
        "The certified objects differ in length",
        "clips reach the noise with different numbers of values.",
        "At equal radius and level the SNR-equivalent grows by 10·log10 of the length: a list of SNRs then "
        "partly measures durations.",
        "Use `fit`, or compare R/σ and the 20 ms level, which do not grow with the length.",
    ),
    FlagKind(
        "resampled-on-load",
        "note",
        "Resampling outside the graph",
        "`resample` with method soxr changes the rate of a clip.",
        "Nothing is proven about that library's filter, so a radius does not transport past it to the file.",
        "Use the default method, sinc, where a file-space statement is wanted.",
    ),
    FlagKind(
        "trained-otherwise",
        "note",
        "The model was trained with other stages",
        "a weight file that `soundcert train` wrote names another gain, noise or features than the pipeline.",
        "The certificate is valid, for the pipeline as it stands. But the model hears what it never learnt from, and "
        "may know few clips: a network that was trained with σ = 2 can be worthless at σ = 3, and one that was trained "
        "on frames every 10 ms is worse on frames every 20.",
        "Take gain, noise and features from the model's card or training config, or train with this pipeline.",
    ),
    FlagKind(
        "small-ceiling",
        "note",
        "n allows little more than abstention",
        "the Monte-Carlo ceiling is below σ.",
        "Even when all draws agree, the radius stays below one standard deviation of the noise.",
        "Raise n: the ceiling is σΦ⁻¹(α^(1/n)), 2.4σ at n = 1000 and 3.2σ at 10 000 for α = 0.001.",
    ),
)

FLAGS: dict[str, FlagKind] = {kind.id: kind for kind in _KINDS}
