"""The fields of a report, the labels that they go by, and the questions where one is not stated."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from functools import lru_cache

from soundcert.lint.numbers import Kind, Number, clean, parse, plain


@dataclass(frozen=True)
class FieldKind:
    """A field. names: labels that mean it, in lower case and without punctuation. asked: the question where
    it is not stated; '' where a report may do without it."""

    id: str
    title: str
    kind: Kind
    names: str
    asked: str = ""


_FIELDS = (
    FieldKind(
        "certified_object", "certified object", "text",
        "certified object|object|certified space|smoothing space|space|representation|certified representation",
        "What is certified: the file's samples, the waveform after a gain, log-mel features, something else?",
    ),
    FieldKind(
        "perturbation_location", "perturbation location", "text",
        "perturbation location|noise location|noise position|noise added|noise added to|noise added at|"
        "where noise is added|where the noise is added|smoothing location|location|perturbation model",
        "Where in the pipeline is the noise added, before and after which steps?",
    ),
    FieldKind(
        "gain_policy", "gain policy", "text",
        "gain policy|gain|gain normalisation|gain normalization|normalisation|normalization|"
        "amplitude normalisation|amplitude normalization|level normalisation|level normalization|scaling|loudness",
        "Is a gain applied, fixed or computed from each clip, to what level, before or after the noise?",
    ),
    FieldKind(
        "post_noise", "changes after the noise", "text",
        "post noise|post noise changes|post noise modifications|post noise modification|post noise processing|"
        "post noise geometry changes|changes after the noise|changes after noise|after the noise|post processing|"
        "postprocessing|all post noise changes",
        "Which steps after the noise clip, quantise, rescale or otherwise change the noisy object? If none: say so.",
    ),
    FieldKind("kind", "contract", "text", "contract|kind|contract kind|smoothing contract|smoothing|setting"),
    FieldKind(
        "radius", "raw radius", "number",
        "radius|raw radius|certified radius|l2 radius|raw l2 radius|certified l2 radius|r",
    ),
    FieldKind(
        "median_radius", "median raw radius", "number",
        "median radius|median raw radius|median certified radius|median l2 radius|median raw l2 radius|median r",
    ),
    FieldKind(
        "mean_radius", "average certified radius", "number",
        "mean radius|average radius|average certified radius|mean certified radius|acr|avg radius|avg certified radius",
    ),
    FieldKind("max_radius", "largest radius", "number", "max radius|maximum radius|largest radius|max certified radius"),
    FieldKind(
        "epsilon", "ε", "number",
        "epsilon|eps|perturbation budget|attack radius|linf radius|linf epsilon|l inf radius|linfinity radius",
    ),
    FieldKind(
        "snr", "SNR", "db",
        "snr|snr db|snr equivalent|snr equivalent db|snr equivalent scale|snr scale|signal to noise ratio|"
        "equivalent snr|certified snr",
    ),
    FieldKind(
        "median_snr", "median SNR", "db",
        "median snr|median snr db|median snr equivalent|median snr equivalent db|median equivalent snr",
    ),
    FieldKind("norm_ratio", "norm ratio", "db", "norm ratio|norm ratio db|median norm ratio|median norm ratio db"),
    FieldKind("file_snr", "SNR proven for the file", "db", "file snr|file snr db|median file snr|median file snr db"),
    FieldKind(
        "signal_scale", "signal-relative scale", "text",
        "signal relative scale|signal relative|relative radius|relative scale|perturbation to signal ratio|"
        "burst 20ms db|median burst 20ms db|level",
    ),
    FieldKind(
        "sigma", "σ", "number",
        "sigma|noise level|smoothing level|smoothing sigma|noise sigma|noise std|noise standard deviation|std|"
        "standard deviation|smoothing noise level|noise stddev|sigma noise",
        "What is σ, the standard deviation of the noise?",
    ),
    FieldKind(
        "unit", "unit of σ and of the radius", "text",
        "unit|units|sigma unit|unit of sigma|radius unit|unit of the radius|unit of radius|noise unit",
        "In which unit are σ and the radius: full scale, clip RMS = 1, 16-bit steps, nats, dB?",
    ),
    FieldKind(
        "n0", "n0, draws that select the class", "count",
        "n0|n 0|selection samples|selection draws|n selection|num selection samples|samples for selection",
        "How many draws select the class (n0), and are they apart from the n that bound its probability?",
    ),
    FieldKind(
        "n", "n, draws that bound the probability", "count",
        "n|num samples|number of samples|samples|draws|number of draws|mc samples|monte carlo samples|"
        "monte carlo draws|number of monte carlo samples|noise samples|noise draws|n samples|n mc|"
        "draws per clip|samples per clip|estimation samples",
        "How many fresh draws bound the probability (n)?",
    ),
    FieldKind(
        "alpha", "α", "probability",
        "alpha|failure probability|error probability|probability of error|significance|significance level|"
        "failure rate|probability of failure|alpha per clip",
        "What is α, the probability that one certificate is wrong?",
    ),
    FieldKind("set_aside", "part of α set aside for the sampler", "number", "set aside|alpha set aside"),
    FieldKind(
        "confidence", "confidence", "probability",
        "confidence|confidence level|certification confidence|certificate confidence|statistical confidence",
    ),
    FieldKind(
        "bound", "bound", "text",
        "bound|confidence bound|interval method|confidence interval method|probability bound|bound method|"
        "lower bound|p a bound|bound in use|estimator",
        "Which bound is used: one-sided Clopper-Pearson, with p_B = 1 − p_A, or a bound on the runner-up as well?",
    ),
    FieldKind(
        "norm", "norm", "text", "norm|lp norm|threat norm|perturbation norm|p norm|threat model",
        "In which norm is the radius?",
    ),
    FieldKind(
        "noise", "noise family", "text",
        "noise|noise family|noise distribution|noise type|smoothing distribution|smoothing noise|distribution",
        "Which distribution is the noise: Gaussian, independent for each value?",
    ),
    FieldKind(
        "abstained", "abstention", "number",
        "abstained|abstention|abstentions|abstention rate|abstain|abstain rate|abstaining|abstained clips",
        "How often does the smoothed classifier abstain, and do abstentions count as wrong?",
    ),
    FieldKind(
        "dataset", "data set", "text", "dataset|data set|data|benchmark|corpus",
        "Which data set, in which version?",
    ),
    FieldKind(
        "split", "split", "text", "split|test split|subset|fold|folds|partition|evaluation split",
        "Which split or folds?",
    ),
    FieldKind(
        "clips", "number of clips", "count",
        "clips|number of clips|num clips|test clips|clips certified|number of test clips|examples|"
        "number of examples|test examples|test set size|n clips|num examples|evaluated clips",
        "Over how many clips is each figure taken, and how were they chosen?",
    ),
    FieldKind(
        "rate", "sampling rate", "hertz", "sampling rate|sample rate|rate|fs|sr|sampling frequency",
        "What is the sampling rate where the noise is added?",
    ),
    FieldKind(
        "seconds", "clip length", "seconds",
        "clip length|duration|length|clip duration|audio length|window|window length|seconds per clip|clip seconds",
        "How long is a clip where the noise is added?",
    ),
    FieldKind(
        "seed", "seed", "text", "seed|random seed|noise seed|seeds",
        "Which seed drew the noise, and was it fixed before the results were seen?",
    ),
    FieldKind(
        "interval", "interval for the data set", "text",
        "interval|confidence interval|95 ci|ci|95 confidence interval|accuracy interval|dataset interval|"
        "smoothed accuracy interval|smoothed accuracy interval 95|certified accuracy interval|dataset level interval|"
        "95 interval|interval 95|no interval",
        "Each certificate fails with probability up to α, and the clips are a sample: which interval holds for the "
        "accuracy over the data set?",
    ),
    FieldKind("dimension", "dimension", "count", "dimension|d|dim|number of values|input dimension|dimensionality"),
    FieldKind(
        "object_norm", "norm of the object", "number",
        "object norm|signal norm|norm of v|v norm|signal l2 norm|median norm|median object norm|median signal norm",
    ),
    FieldKind("rms", "RMS", "number", "rms|clip rms|target rms|rms target|signal rms"),
    FieldKind(
        "smoothed_accuracy", "smoothed accuracy", "share",
        "smoothed accuracy|smoothed acc|accuracy of the smoothed classifier|smooth accuracy",
    ),
    FieldKind(
        "clean_accuracy", "clean accuracy", "share",
        "clean accuracy|base accuracy|accuracy|standard accuracy|natural accuracy|clean acc|acc|base classifier accuracy",
    ),
    FieldKind(
        "certified_accuracy", "certified accuracy", "share",
        "certified accuracy|certified acc|certified test accuracy|robust accuracy|certified robust accuracy",
    ),
    FieldKind(
        "positive_accuracy", "certified accuracy at a positive radius", "share",
        "positive radius certified accuracy|certified accuracy at positive radius|certified accuracy positive radius|"
        "certified accuracy at r 0|nonzero radius certified accuracy",
    ),
    FieldKind("certified", "certified", "number", "certified|certified clips|share certified|certified share"),
    FieldKind(
        "saturated", "share of saturated certificates", "share",
        "saturated|saturated share|share saturated|saturation|saturated share of certified|saturated certificates|"
        "share of saturated certificates|share at the ceiling",
    ),
    FieldKind("ceiling", "Monte-Carlo ceiling", "number", "ceiling|monte carlo ceiling|mc ceiling|radius ceiling"),
    FieldKind("r_over_sigma", "R/σ", "number", "r sigma|r over sigma|median r over sigma|radius over sigma|median r sigma"),
    FieldKind("selection", "choice of σ", "text", "sigma selection|choice of sigma|sigma choice|model selection"),
    FieldKind("radii", "radii", "number", "radii|certified radii|raw radii"),
    FieldKind(
        "curve", "certified accuracy by radius", "share",
        "curve|certified accuracy at radius|certified accuracy curve|accuracy at radius|accuracy by radius|"
        "certified accuracy by radius",
    ),
    FieldKind(
        "geometry", "geometry after the noise", "text",
        "displacement|geometry distortion|sensitivity|effective perturbation norm|geometry|effective norm change",
    ),
    FieldKind("pre_noise", "steps before the noise", "text", "pre noise|front|before the noise|preprocessing|front end"),
    FieldKind("medians_over", "clips of the medians", "text", "medians over|median over|radii over"),
)  # fmt: skip

FIELDS: dict[str, FieldKind] = {f.id: f for f in _FIELDS}
_BY_NAME = {name: f.id for f in _FIELDS for name in f.names.split("|")}
_BY_NAME.update({f.id.replace("_", " "): f.id for f in _FIELDS})
GREEK = str.maketrans(
    {
        "σ": " sigma ",
        "α": " alpha ",
        "ε": " epsilon ",
        "ϵ": " epsilon ",
        "ℓ": "l",
        "₀": "0",
        "₂": "2",
        "∞": "inf",
    }
)
_POINT = re.compile(
    r"(?:(?:certified|robust)(?: test)? acc(?:uracy)?\s*(?:\(?\s*(?:@|at)\s*)|(?=(?:r|radius|eps|epsilon|ε)\s*[=≥>]))"
    r"(?:(?:r|radius|eps|epsilon|ε)\s*)?[=≥>]*\s*(\d*[.,]?\d+(?:[eE][+-]?\d+)?)\s*\)?\s*$",
    re.I,
)
_NOT_STATED = re.compile(
    r"^(?:|[-–—?…]+|n/?a|none given|not (?:stated|reported|given|available)|unknown|tbd|todo|null|~)\.?$",
    re.I,
)


@lru_cache(4096)
def resolve(label: str) -> tuple[str, str] | None:
    """Return the field that a label means and the unit that it carries in brackets, or None.

    >>> resolve("SNR-equivalent (dB)")
    ('snr', 'dB')
    """
    text = plain(html.unescape(label)).replace("−", "-")
    bracket = re.search(r"[\[(]([^\[\]()]{1,40})[\])]", text)
    hint = bracket[1].strip() if bracket else ("%" if text.rstrip().endswith("%") else "")
    bare = re.sub(r"[\[(][^\[\]()]{0,80}[\])]", " ", text)
    # `noise level σ` and `σ` are one; `N` is `n`.
    for candidate in (bare, text, bare.rpartition(".")[2]):
        words = re.sub(r"[^a-z0-9]+", " ", candidate.lower().translate(GREEK)).split()
        for start in ("", "the "):
            name = " ".join(words).removeprefix(start)
            if name in _BY_NAME:
                return _BY_NAME[name], hint
        short = " ".join(dict.fromkeys(w for w in words if w not in ("the", "of", "a", "per", "for", "in")))
        if short in _BY_NAME:
            return _BY_NAME[short], hint
        for symbol in ("sigma", "alpha", "epsilon", "n0", "n", "d"):
            if words and words[-1] == symbol and " ".join(words[:-1]) in _BY_NAME:
                return _BY_NAME[" ".join(words[:-1])], hint
            if (
                len(words) > 1
                and words[0] == symbol
                and _BY_NAME.get(" ".join(words[1:])) == _BY_NAME[symbol]
            ):
                return _BY_NAME[symbol], hint
    return None


@lru_cache(4096)
def point_of(label: str) -> Number | None:
    """Return the radius of a label such as `certified accuracy at 0.5` or `r = 0.25`, else None."""
    match = _POINT.search(plain(label))
    return parse(match[1]) if match else None


def stated(text: str) -> bool:
    """Whether a value says anything, rather than that it says nothing."""
    return not _NOT_STATED.match(clean(text).strip())
