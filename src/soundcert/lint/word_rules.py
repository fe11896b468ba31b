"""Rules about what is said in words: what is missing, ambiguous or contradictory."""

from __future__ import annotations

from collections.abc import Iterator

from soundcert.lint.fields import FIELDS
from soundcert.lint.numbers import one_of, show
from soundcert.lint.registry import (
    Hit,
    about_features,
    alpha_of,
    gaussian,
    object_words,
    report_rule,
    rule,
    whole_number,
)
from soundcert.lint.report import RADII, Report, Result

_RADIUS = (*RADII, "radii")


def asked() -> dict[str, tuple[str, str]]:
    """Return what every report is asked for: by field, its title and the question."""
    out = {f.id: (f.title, f.asked) for f in FIELDS.values() if f.asked}
    out["raw_radius"] = (
        "raw radius",
        "What is the raw ℓ2 radius in the certified object, before any change of unit?",
    )
    out["signal_scale"] = (
        "signal-relative scale",
        "How large is the radius beside the signal: an SNR for waveforms, a norm ratio (not called SNR) for features?",
    )
    return out


@report_rule(
    "missing", "missing",
    raised_if="a field that every report is asked for is not stated (the table above), or stated for some of its "
    "results only. Where lines were not read it says \u201cnot found\u201d, and which line may state the field. No scale "
    "is asked for where no clip is certified at a radius above 0.",
    meaning="Without it the certificate cannot be read, compared or recomputed.",
    question="The question of the field.",
)  # fmt: skip
def missing(report: Report) -> Iterator[Hit]:
    for name, (title, question) in asked().items():
        without = [r for r in report.results if not r.says(name)]
        if not without:
            continue
        where = ""
        if len(without) < len(report.results):
            where = f" for {', '.join(r.name or 'the figures said of all' for r in without[:5])}"
            where += f" and {len(without) - 5} more" if len(without) > 5 else ""
        place = report.passed.get(name)
        verb = "not found" if place or report.partly else "not stated"
        if place:
            where += f"; {f'line {place.line}' if place.line else 'text'} that was not read may state it"
        yield Hit(f"{verb}: {title}{where}", place or report.place, question=question)


@rule(
    "stated-twice", "warning",
    raised_if="one field has two different values for one result.",
    meaning="It is not said which of them the figures belong to.",
    question="Which of the two holds?",
)  # fmt: skip
def stated_twice(result: Result) -> Iterator[Hit]:
    for item in result.again[:5]:
        first = result.fields.get(item.name)
        if first:
            yield Hit(f"{first.label} is {first.text}, and {item.label} is {item.text}", item.place)


@rule(
    "confidence-or-alpha", "warning",
    raised_if="a confidence is given in place of α, or its value can only be an α, or α can only be a confidence.",
    meaning="99.9 % may be of each certificate or of all together, and one-sided or two-sided: α is 0.001, or half or a "
    "clip's share of it. The published code calls α its confidence level.",
    question="What is the probability that one certificate is wrong, and is the bound one-sided at that level?",
)  # fmt: skip
def confidence_or_alpha(result: Result) -> Iterator[Hit]:
    item, alpha = result.fields.get("confidence"), result.fields.get("alpha")
    if item and item.number and not alpha:
        yield Hit(f"{item.label} {item.text} is given, and no α", item.place)
    if alpha and alpha.number and alpha.number.finite and not 0 < alpha.number.value < 0.5:
        yield Hit(f"{alpha.label} is {alpha.text}, which cannot be a probability of error", alpha.place)


@rule(
    "samples-of-what", "warning",
    raised_if="`samples` is given as a number without saying of what, and it is also the number of samples in a clip, or "
    "n is given as well.",
    meaning="In audio a sample is one value of the waveform as often as one noisy draw.",
    question="Is it the number of noisy draws a clip, or the clip's length?",
)  # fmt: skip
def samples_of_what(result: Result) -> Iterator[Hit]:
    rate, seconds = result.number("rate"), result.number("seconds")
    lengths = {
        whole_number(result, "dimension"),
        round(rate.value * seconds.value) if rate and seconds else None,
    }
    for item in [result.fields.get("n"), *(i for i in result.again if i.name == "n")]:
        if not item or "samples" not in item.label.lower() or "monte" in item.label.lower():
            continue
        others = [result.fields["n"], *(i for i in result.again if i.name == "n")]
        value = round(item.number.value) if item.number and item.number.finite else None
        if value is not None and (value in lengths or len(others) > 1):
            yield Hit(f"{item.label} {item.text} may be draws or the samples of a clip", item.place)


@rule(
    "contract-contradicts", "error",
    raised_if="the contract's name, the certified object and the perturbation location do not fit one another, or the "
    "name says that nothing changes the object after the noise while a change is stated.",
    meaning="The radius lives in the space where the noise is added; the three fields name one space.",
    question="Where is the noise added, and what changes the noisy object before the model?",
)  # fmt: skip
def contract_contradicts(result: Result) -> Iterator[Hit]:
    kind, place, what = (result.text(n) for n in ("kind", "perturbation_location", "certified_object"))
    found = result.fields.get("perturbation_location") or result.fields.get("kind")
    if not found:
        return
    apart = (about_features(place) and _wave(what)) or (_wave(place) and about_features(what))
    if place and what and apart:
        yield Hit(f"certified object {what[:60]!r}, but the noise is added at {place[:60]!r}", found.place)
    elif kind and place and one_of(["feature", "log-?mel"], kind) and _wave(place):
        yield Hit(f"{kind[:60]!r}, but the noise is added at {place[:60]!r}", found.place)
    post = result.fields.get("post_noise")
    if post and one_of(["fixed-gain", "direct waveform"], kind) and one_of(
        ["clip", "peak", "normali", "quanti", "limit", "compress"], post.text
    ) and not one_of([r"no\b", "none", "nothing", "without"], post.text):  # fmt: skip
        yield Hit(f"{kind[:60]!r}, but after the noise: {post.text[:80]}", post.place)


def _wave(text: str) -> bool:
    return one_of(
        ["wave", "audio samples", "raw audio", "file's samples", "pcm", "time domain", "input$"], text
    ) and not (about_features(text))


@report_rule(
    "objects-compared", "note",
    raised_if="results with different certified objects stand side by side with radii or accuracies.",
    meaning="Radii in different spaces are different quantities, and so is certified accuracy at a radius, a positive one "
    "included: more clips certified over features is not more robustness of the waveform.",
    question="What is certified against one attacker, on the file's samples, by each?",
)  # fmt: skip
def objects_compared(report: Report) -> Iterator[Hit]:
    with_figures = [
        r
        for r in report.results
        if any(n in r.fields for n in (*_RADIUS, "positive_accuracy", "certified_accuracy")) or r.curve
    ]
    waves = [r for r in with_figures if _wave(object_words(r)) and not about_features(object_words(r))]
    features = [r for r in with_figures if about_features(r.text("certified_object") or object_words(r))]
    if waves and features:
        yield Hit(
            f"waveforms ({waves[0].name or 'one'}) and features ({features[0].name or 'another'}) stand in one report",
            report.place,
        )


@rule(
    "runner-up-from-n0", "warning",
    raised_if="the bound takes the runner-up from the selection draws. It is a question where a two-class bound does not "
    "say which class it bounds.",
    meaning="The class that came second in n0 draws need not be the likeliest rival: a bound on it misses its level many "
    "times over. It has to be the largest count of all other classes among the fresh draws.",
    question="Which class is p_B about, counted in which draws, and at which level?",
)  # fmt: skip
def runner_up(result: Result) -> Iterator[Hit]:
    item = result.fields.get("bound")
    text = item.text.lower() if item else ""
    two = one_of(["two-class", "two class", "runner-up", "runner up", "p_?b\\b", "second class"], text)
    # 1 − p_A is the one-sided bound.
    if not (item and two) or one_of([r"(?:p_?b\s*=\s*)?1\s*[-−–]\s*p_?a"], text):
        return
    if one_of(["n0", "n_0", "selection", "pilot", "first draws"], text):
        yield Hit(f"{item.label}: {item.text[:100]}", item.place)
    elif not one_of(
        ["largest", "fresh", "all other", "every other", "any other", "union", "bonferroni", "max"], text
    ):
        yield Hit(f"{item.label}: {item.text[:100]} does not say which class p_B is about", item.place)


@rule(
    "sigma-unstated-noise", "note",
    raised_if="a radius is given for noise that is not said to be Gaussian or in ℓ2: the rules about ceilings are left out.",
    meaning="The ceiling σΦ⁻¹(α^(1/n)) is that of Gaussian noise.",
    question="Which formula gives the radius?",
)  # fmt: skip
def not_gaussian(result: Result) -> Iterator[Hit]:
    item = result.fields.get("noise") or result.fields.get("norm")
    if item and not gaussian(result) and alpha_of(result):
        yield Hit(f"{item.label} is {item.text[:60]}: radii are not checked against n and α", item.place)


@rule(
    "interval-for-how-many", "note",
    raised_if="more certificates are claimed to hold together than α allows.",
    meaning="m certificates hold together with probability 1 − mα at least, not 1 − α.",
    question="At which level do all certificates hold at once?",
)  # fmt: skip
def together(result: Result) -> Iterator[Hit]:
    alpha, m = alpha_of(result), whole_number(result, "clips")
    for name in ("interval", "confidence"):
        item = result.fields.get(name)
        if (
            item
            and alpha
            and m
            and alpha * m >= 1
            and one_of(["all certificates", "simultaneous", "jointly"], item.text)
        ):
            yield Hit(f"{item.label}: {item.text[:80]}, for {show(m)} clips at α = {alpha:g}", item.place)
