"""Rules about accuracies: curves, clip counts, intervals, averages."""

from __future__ import annotations

import math
from collections.abc import Iterator

from soundcert.lint.numbers import Number, one_of, parse_interval, show
from soundcert.lint.registry import Hit, alpha_of, report_rule, rule, whole_number
from soundcert.lint.report import Place, Report, Result

_SHARES = ("smoothed_accuracy", "clean_accuracy", "certified_accuracy", "positive_accuracy")
# Data sets of a fixed size, for which a share can be checked where no clip count is given: all, and one fold.
_SIZES = {"esc-50": (2000, 400), "esc50": (2000, 400), "esc-10": (400, 80), "esc10": (400, 80)}


def _accuracies(result: Result) -> Iterator[tuple[str, Number, Place]]:
    for name in _SHARES:
        item = result.fields.get(name)
        if item and item.number and item.number.finite:
            yield item.label, item.number, item.place
    for point in result.curve:
        if point.accuracy.finite:
            yield f"certified accuracy at radius {point.radius.text}", point.accuracy, point.place


def _percent(x: float) -> str:
    return f"{100 * x:.6g} %"


@rule(
    "accuracy-out-of-range", "error",
    raised_if="an accuracy, or the share of saturated certificates, is below 0 or above 100 %.",
    meaning="A share lies between 0 and 1.",
    question="What is the figure a share of?",
)  # fmt: skip
def out_of_range(result: Result) -> Iterator[Hit]:
    shares = list(_accuracies(result))
    saturated = result.fields.get("saturated")
    if saturated and saturated.number and saturated.number.finite:
        shares.append((saturated.label, saturated.number, saturated.place))
    for label, number, place in shares:
        if number.low > 1 or number.high < 0:
            yield Hit(f"{label} {number.text} is no share", place)


@rule(
    "certified-above-smoothed", "error",
    raised_if="a certified accuracy, at any radius, exceeds the smoothed accuracy by more than the digits allow.",
    meaning="A clip that is certified and correct is one that the smoothed classifier gets right, so certified accuracy "
    "cannot exceed smoothed accuracy. (It can exceed the base classifier's, and a smoothed accuracy that was measured "
    "with fewer draws.)",
    question="Are the two taken over the same clips, and were as many draws made for each?",
)  # fmt: skip
def above_smoothed(result: Result) -> Iterator[Hit]:
    smoothed = result.number("smoothed_accuracy")
    if smoothed is None:
        return
    for name in ("certified_accuracy", "positive_accuracy"):
        item = result.fields.get(name)
        if item and item.number and item.number.low > smoothed.high:
            yield Hit(f"{item.label} {item.text} exceeds smoothed accuracy {smoothed.text}", item.place)
    for point in result.curve:
        if point.accuracy.low > smoothed.high:
            yield Hit(
                f"{_percent(point.accuracy.value)} at radius {point.radius.text} exceeds smoothed accuracy "
                f"{_percent(smoothed.value)}",
                point.place,
            )
            return


@rule(
    "curve-grows", "error",
    raised_if="certified accuracy grows with the radius by more than the digits allow.",
    meaning="What is certified at a radius is certified at every smaller one.",
    question="Are the points of one classifier, one σ and one set of clips?",
)  # fmt: skip
def curve_grows(result: Result) -> Iterator[Hit]:
    points = [p for p in result.curve if p.accuracy.finite and p.radius.finite]
    lowest = None
    for point in points:
        if lowest and point.radius.value > lowest.radius.value and point.accuracy.low > lowest.accuracy.high:
            yield Hit(
                f"{_percent(point.accuracy.value)} at radius {point.radius.text}, but "
                f"{_percent(lowest.accuracy.value)} at {lowest.radius.text}",
                point.place,
            )
            return
        if lowest is None or point.accuracy.value < lowest.accuracy.value:
            lowest = point


def _fits(number: Number, m: int) -> bool:
    """Whether some whole number of m clips gives the share within its printed digits."""
    return math.ceil(number.low * m - 1e-9) <= math.floor(number.high * m + 1e-9)


@rule(
    "accuracy-not-of-clips", "warning",
    raised_if="an accuracy is no multiple of one over the number of clips, within its printed digits. Where no number "
    "is stated and the data set is ESC-50 or ESC-10: of neither all its clips nor one fold.",
    meaning="Some clips were left out, some counted twice, or the figure is a mean of something else.",
    question="Over which clips is this accuracy, and how many are they?",
)  # fmt: skip
def not_of_clips(result: Result) -> Iterator[Hit]:
    stated = whole_number(result, "clips")
    if stated is not None:
        sizes: tuple[int, ...] = (stated,)
    else:
        dataset = result.text("dataset")
        sizes = next((s for key, s in _SIZES.items() if one_of([key], dataset)), ())
    if not sizes or result.own:
        return
    for label, number, place in _accuracies(result):
        if number.step > 0 and not any(_fits(number, m) for m in sizes):
            over = " or ".join(show(m) for m in sizes)
            yield Hit(f"{label} {number.text} is no whole number of {over} clips", place)


@report_rule(
    "clips-implied", "note",
    raised_if="no number of clips is stated, and the printed accuracies of one data set fit few small numbers of clips.",
    meaning="Each accuracy is a multiple of one over the number of clips. Several with two decimals pin the number down.",
    question="Is it this many clips, and which are they?",
)  # fmt: skip
def clips_implied(report: Report) -> Iterator[Hit]:
    by_set: dict[str, list[tuple[Number, Place]]] = {}
    spelled: dict[str, str] = {}
    for result in report.results:
        if "clips" in result.fields or result.own or result.rows is not None:
            continue
        dataset = result.text("dataset")
        spelled[dataset] = result.fields["dataset"].text if dataset else ""
        by_set.setdefault(dataset, []).extend(
            (n, place) for _, n, place in _accuracies(result) if 0 < n.step <= 1.0001e-4 and 0 < n.value < 1
        )
    for dataset, found in by_set.items():
        if len({n.text for n, _ in found}) < 2:
            continue
        small = [m for m in range(2, 2001) if all(_nearest(n, m) for n, _ in found)][:4]
        if small:
            where = f" of {spelled[dataset]}" if dataset else ""
            what = ", ".join(dict.fromkeys(n.text for n, _ in found))
            yield Hit(
                f"the smallest numbers of clips that the accuracies{where} ({what}) fit: {', '.join(map(show, small))}",
                found[0][1],
            )


def _nearest(number: Number, m: int) -> bool:
    return abs(round(number.value * m) / m - number.value) <= 0.5001 * number.step


@rule(
    "certified-at-which-radius", "warning",
    raised_if="a certified accuracy is given without its radius.",
    meaning="Certified accuracy is a function of the radius: without it, the figure says nothing that can be compared.",
    question="At which radius, in which unit?",
)  # fmt: skip
def which_radius(result: Result) -> Iterator[Hit]:
    item = result.fields.get("certified_accuracy")
    words = f"{item.label} {item.text}".lower() if item else ""
    if item and not one_of(
        [r"r\b", "radius", "positive", "nonzero", "ε", "eps", "at ", "@"],
        words.partition("accuracy")[2] + " " + item.text.lower(),
    ):
        yield Hit(f"{item.label} {item.text} has no radius", item.place)


@rule(
    "mean-without-curve", "warning",
    raised_if="an average certified radius is given without the certified-accuracy curve.",
    meaning="The average is moved most by the clips that are easiest, and by the ceiling of n: it can rise while "
    "accuracy falls at every radius that matters (arXiv 2410.06895).",
    question="What is the certified accuracy at several radii, in the same unit?",
)  # fmt: skip
def mean_without_curve(result: Result) -> Iterator[Hit]:
    item = result.fields.get("mean_radius")
    if item and len(result.curve) < 2 and result.rows is None:
        yield Hit(f"{item.label} {item.text} stands without a curve", item.place)


@report_rule(
    "best-of-sigma", "warning",
    raised_if="the report speaks of a best σ per radius or clip, of an envelope, or marks the best figure of a column "
    "over several σ.",
    meaning="An envelope over σ on test clips belongs to no classifier: each clip's or radius's σ was chosen by its "
    "result. It holds only with a correction for the choice (σ fixed on validation clips, or α divided).",
    question="Was σ chosen before the test clips were seen, and which single σ is the result?",
)  # fmt: skip
def best_of_sigma(report: Report) -> Iterator[Hit]:
    words = [
        r"best (?:of (?:all )?)?(?:σ|sigma|noise level)", "best-of", r"envelope", r"max(?:imum)? over (?:σ|sigma)",
        r"(?:σ|sigma) (?:was )?chosen (?:for|per) (?:each )?(?:clip|radius|example)", r"per-(?:clip|example) (?:σ|sigma)",
    ]  # fmt: skip
    for result in report.results:
        for item in result.fields.values():
            if one_of(words, f"{item.label} {item.text}"):
                yield Hit(f"{item.label}: {item.text[:100]}", item.place, result=result.name)
                return
    starred = [(r, p) for r in report.results for p in r.curve if "†" in p.accuracy.unit]
    sigmas = {n.value for r, _ in starred if (n := r.number("sigma"))}
    if len(sigmas) > 1:
        yield Hit(
            f"the best figure of each radius is marked, over {len(sigmas)} values of σ", starred[0][1].place
        )


@rule(
    "interval-without-accuracy", "error",
    raised_if="the stated interval does not hold the stated smoothed accuracy, or its ends are the wrong way round.",
    meaning="An interval for a share holds the share that was observed.",
    question="Which figure is the interval of?",
)  # fmt: skip
def interval_misses(result: Result) -> Iterator[Hit]:
    item, accuracy = result.fields.get("interval"), result.number("smoothed_accuracy")
    ends = parse_interval(item.text) if item else None
    if not (item and ends):
        return
    low, high = ends
    if low.low > high.high or (accuracy and not (low.low <= accuracy.high and accuracy.low <= high.high)):
        said = f" and smoothed accuracy {accuracy.text}" if accuracy else ""
        yield Hit(f"{item.label} {item.text}{said} do not belong together", item.place)


@rule(
    "interval-too-narrow", "warning",
    raised_if="the stated interval is less than half as wide as the sampling of that many clips makes a 95 % interval.",
    meaning="It was probably taken over seeds or draws, and not over clips.",
    question="What does the interval allow for: false certificates, the sampling of clips, seeds?",
)  # fmt: skip
def interval_narrow(result: Result) -> Iterator[Hit]:
    item, accuracy, m = (
        result.fields.get("interval"),
        result.number("smoothed_accuracy"),
        whole_number(result, "clips"),
    )
    ends = parse_interval(item.text) if item else None
    if not (item and ends and accuracy and m):
        return
    p = min(max(accuracy.value, 1 / m), 1 - 1 / m) if m > 2 else 0.5
    width = 2 * 1.96 * math.sqrt(p * (1 - p) / m)
    if ends[1].high - ends[0].low < width / 2:
        yield Hit(
            f"{item.label} {item.text} is narrow for {show(m)} clips: about {_percent(width)} is usual",
            item.place,
        )


@rule(
    "abstentions-and-accuracy", "error",
    raised_if="smoothed or certified accuracy and the abstention rate add up to more than 1, beyond the digits.",
    meaning="A clip on which the smoothed classifier abstains counts as wrong.",
    question="Is the accuracy over all clips, or over those that did not abstain?",
)  # fmt: skip
def abstentions_and_accuracy(result: Result) -> Iterator[Hit]:
    item, m = result.fields.get("abstained"), whole_number(result, "clips")
    # Ours counts abstentions over all clips, and accuracy over those with a label.
    if not (item and item.number and item.number.finite) or result.own:
        return
    number = item.number
    if item.unit.startswith("%"):
        share = number.low / 100
    elif number.step < 1 and number.value <= 1:
        share = number.low
    elif m:
        share = number.value / m
    else:
        return
    for name in ("smoothed_accuracy", "positive_accuracy"):
        accuracy = result.number(name)
        if accuracy and accuracy.low + share > 1 + 1e-9:
            yield Hit(
                f"{item.label} {item.text} with {result.fields[name].label} {accuracy.text} exceed 100 %",
                item.place,
            )
            return


@rule(
    "false-certificates", "note",
    raised_if="α times the number of clips is 1 or more, and the report gives an interval that is not said to allow "
    "for it, or none.",
    meaning="α is for one certificate. Of m certificates, αm may be expected to be false.",
    question="Does the interval allow for false certificates as well as for the sampling of clips?",
)  # fmt: skip
def false_certificates(result: Result) -> Iterator[Hit]:
    alpha, m = alpha_of(result), whole_number(result, "clips")
    m = m or (len(result.rows) if result.rows is not None else None)
    if alpha and m and alpha * m >= 1 and "interval" not in result.fields:
        yield Hit(
            f"at α = {alpha:g} for each, {alpha * m:.3g} of {show(m)} certificates may be expected to be false",
            None,
        )
