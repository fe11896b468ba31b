"""Rules and findings. A rule is a small function with the texts of its entry in docs/lint.md.

Levels: `error`, the figures cannot all be true; `warning`, likely to mislead, or ambiguous; `missing`, not
stated; `note`, worth knowing, and no reason to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from soundcert.bounds import BoundName
from soundcert.certify import level_of
from soundcert.lint.numbers import Number, one_of
from soundcert.lint.report import RADII, Place, Report, Result, Stated

Level = Literal["error", "warning", "missing", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "missing", "note")


@dataclass(frozen=True)
class Hit:
    """What a rule saw: a sentence, and where. level and question are given where they differ from the rule's."""

    message: str
    place: Place | None = None
    level: Level | None = None
    question: str = ""
    result: str = ""


Check = Callable[[Result], Iterator[Hit]]
Whole = Callable[[Report], Iterator[Hit]]


@dataclass(frozen=True)
class Rule:
    """A rule: its id and level, and what its entry in docs/lint.md says."""

    id: str
    level: Level
    raised_if: str
    meaning: str
    question: str
    each: Check | None = None
    whole: Whole | None = None

    def hits(self, report: Report) -> Iterator[Hit]:
        if self.whole:
            yield from self.whole(report)
        if self.each:
            for result in report.results:
                for hit in self.each(result):
                    yield Hit(hit.message, hit.place, hit.level, hit.question, result.name)


@dataclass(frozen=True)
class Finding:
    """What was found. result: which result of the report it is about; '' for the report."""

    rule: str
    level: Level
    message: str
    question: str
    place: Place
    result: str = ""


RULES: dict[str, Rule] = {}


def rule(id: str, level: Level, *, raised_if: str, meaning: str, question: str) -> Callable[[Check], Check]:
    """Register a rule that looks at one result at a time."""

    def register(check: Check) -> Check:
        RULES[id] = Rule(id, level, raised_if, meaning, question, each=check)
        return check

    return register


def report_rule(
    id: str, level: Level, *, raised_if: str, meaning: str, question: str
) -> Callable[[Whole], Whole]:
    """Register a rule that looks at the whole report."""

    def register(check: Whole) -> Whole:
        RULES[id] = Rule(id, level, raised_if, meaning, question, whole=check)
        return check

    return register


# --- what several rules ask of a result --------------------------------------------------------------


def alpha_of(result: Result) -> float | None:
    """Return α: as stated, or from a confidence."""
    alpha = result.number("alpha")
    if alpha and 0.0 < alpha.value < 0.5:
        return alpha.value
    confidence = result.number("confidence")
    if alpha is None and confidence and 0.5 < confidence.value < 1.0:
        return 1.0 - confidence.value
    return None


def whole_number(result: Result, name: str) -> int | None:
    found = result.number(name)
    if found and 1 <= found.value <= 1e9 and abs(found.value - round(found.value)) < 1e-6:
        return round(found.value)
    return None


def sigma_of(result: Result) -> float | None:
    found = result.number("sigma")
    return found.value if found and found.value > 0 else None


def bounds_of(result: Result) -> tuple[BoundName, ...]:
    """Return the bounds that may be in use."""
    text = result.text("bound")
    if one_of(
        ["two-class", "two class", "two-sided class", "runner-up", "runner up", "second", r"p_?b\b"], text
    ):
        return ("two-class",)
    return (
        ("one-sided",) if one_of(["one-sided", "one sided", "clopper"], text) else ("one-sided", "two-class")
    )


def bound_level(result: Result) -> float | None:
    """Return the level of the bounds: α without the part that is set aside for the sampler of the noise, if stated."""
    alpha, aside = alpha_of(result), result.number("set_aside")
    if alpha is None or aside is None or not 0 <= aside.value < alpha:
        return alpha
    return level_of(alpha, aside.value)


def gaussian(result: Result) -> bool:
    """Whether the Gaussian radius σΦ⁻¹(p) is what is meant, as far as is said.

    That of lattice noise is: it is Gaussian noise, rounded after it was added, with bounds at `bound_level`.
    """
    noise, norm = result.text("noise"), result.text("norm")
    if noise and not one_of(["gauss", "normal", "awgn", "white", "lattice_noise", "lattice noise"], noise):
        return False
    return not norm or is_l2(norm)


def is_l2(text: str) -> bool:
    return bool(
        one_of(["l ?_?2", "ℓ ?_?2", "ℓ₂", "l₂", "euclid", "2-norm", "2$"], text.replace("$", "").strip())
    )


def about_features(text: str) -> bool:
    """Whether words about an object say that it is no waveform."""
    return one_of(
        ["feature", "log-?mel", "log mel", "mel\\b", "mfcc", "spectr", "latent", "embedding", "activation", "cepstr"],
        text,
    )  # fmt: skip


def object_words(result: Result) -> str:
    return result.text("certified_object", "perturbation_location", "kind")


def radii_of(result: Result) -> Iterator[tuple[Stated, Number]]:
    """The radii of a result that are stated in the noise's own unit, as far as is said."""
    sigma = result.fields.get("sigma")
    for name in RADII:
        found = result.fields.get(name)
        if (
            found
            and found.number
            and found.number.finite
            and _same_unit(found.unit, sigma.unit if sigma else "")
        ):
            yield found, found.number


def _same_unit(a: str, b: str) -> bool:
    a, b = a.lower().strip(), b.lower().strip()
    return not (a and b) or a == b or a in b or b in a
