"""Rules about radii: the ceiling of n and α, what repeats it, and figures that no count can give."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from soundcert.bounds import BoundName, minimum_samples, monte_carlo_ceiling
from soundcert.lint.numbers import Number, several, show
from soundcert.lint.registry import (
    Hit,
    bound_level,
    bounds_of,
    gaussian,
    is_l2,
    radii_of,
    rule,
    sigma_of,
    whole_number,
)
from soundcert.lint.report import Place, Result, Rows

_USUAL_N = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
_USUAL_ALPHA = (0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001)


def ceilings(result: Result) -> list[tuple[BoundName, float]]:
    """Return the ceiling of each bound that may be in use; [] where σ, n or α is not known."""
    sigma, n, alpha = sigma_of(result), whole_number(result, "n"), bound_level(result)
    if sigma is None or n is None or alpha is None or alpha < 1e-100 or not gaussian(result):
        return []
    return [(bound, monte_carlo_ceiling(sigma, n, alpha, bound)) for bound in bounds_of(result)]


@lru_cache(4096)
def usual_budgets(low: float, high: float, n: int | None, alpha: float | None) -> list[tuple[int, float]]:
    """Return the usual (n, α) whose one-sided ceiling, in units of σ, lies in an interval."""
    ns = (n,) if n else _USUAL_N
    alphas = (alpha,) if alpha else _USUAL_ALPHA
    return [(m, a) for m in ns for a in alphas if low <= unit_ceiling(m, a) <= high]


@lru_cache(4096)
def unit_ceiling(n: int, alpha: float) -> float:
    """Return the ceiling in units of σ; 0 for an α that no bound takes."""
    return monte_carlo_ceiling(1.0, n, alpha) if alpha >= 1e-100 else 0.0


def budgets_of(radius: Number, result: Result) -> str:
    """Return, in words, which usual n and α have this radius for their ceiling; '' if none, or too many might."""
    sigma = sigma_of(result)
    if sigma is None or radius.value <= 0 or radius.step > 2.5e-3 * radius.value or not gaussian(result):
        return ""
    known_n, known_alpha = whole_number(result, "n"), bound_level(result)
    found = usual_budgets(radius.low / sigma, radius.high / sigma, known_n, known_alpha)
    return " or ".join(f"n = {show(n)}, α = {a:g}" for n, a in found[:3])


def said(result: Result) -> bool:
    return "saturated" in result.fields or "ceiling" in result.fields


@rule(
    "radius-above-ceiling", "error",
    raised_if="a radius, or a radius at which some clips are said to be certified, is larger than σΦ⁻¹(α^(1/n)), by "
    "more than its printed digits allow.",
    meaning="Even if all n draws agree, no bound at level α certifies more: p = α^(1/n) gives n agreeing draws with "
    "probability α. So σ, n, α or the radius is not what is stated. (With the Gaussian noise that is assumed "
    "unless another is stated.)",
    question="Which σ, n, α and bound belong to this radius, and in which unit is each?",
)  # fmt: skip
def above_ceiling(result: Result) -> Iterator[Hit]:
    found = ceilings(result)
    if found:
        bound, ceiling = max(found, key=lambda pair: pair[1])
        formula = "α^(1/n)" if bound == "one-sided" else "(α/2)^(1/n)"
        why = f"σΦ⁻¹({formula}) = {show(ceiling)}, the largest that σ, n and α allow"
        for item, number in radii_of(result):
            if number.low > ceiling:
                fits = "; ".join(_other_budgets(number, result))
                yield Hit(f"{item.label} {item.text} lies above {why}{fits}", item.place)
        for point in result.curve:
            room = point.radius.step if point.radius.digits >= 3 else 0.0
            if point.accuracy.low > 0 and point.radius.value - room > ceiling * (1 + 1e-9):
                yield Hit(
                    f"{_percent(point.accuracy)} certified at radius {point.radius.text} above {why}",
                    point.place,
                )
                break
    rows = result.rows
    if rows is None:
        return
    limit = (
        rows.ceiling
        if rows.ceiling is not None
        else np.full(len(rows), max((c for _, c in found), default=np.nan))
    )
    live = certified_rows(rows)
    with np.errstate(invalid="ignore"):
        above = live & (rows.radius - rows.step > limit * (1 + 1e-9))
        rounded = live & ~above & (rows.radius > limit * (1 + 1e-9))
    if above.any():
        first = int(np.argmax(above))
        fits = ""
        if rows.ceiling is None:
            most = int(np.nanargmax(np.where(live, rows.radius, -np.inf)))
            fits = "".join(_other_budgets(number_of(rows, most), result))
        yield Hit(
            f"{int(above.sum())} of {len(rows)} radii, the first of them {show(rows.radius[first])}, lie above their "
            f"ceiling {show(limit[first])}{fits}",
            at_row(rows, first),
        )
    elif rounded.any():
        first = int(np.argmax(rounded))
        yield Hit(
            f"{int(rounded.sum())} printed radii, such as {show(rows.radius[first])}, lie above the ceiling "
            f"{show(limit[first])} by their rounding: what is printed is slightly more than what was proven",
            at_row(rows, first), "note", "Can radii be printed rounded down?",
        )  # fmt: skip


def _other_budgets(number: Number, result: Result) -> list[str]:
    sigma = sigma_of(result)
    if sigma is None or number.step > 2.5e-3 * abs(number.value) or number.value <= 0:
        return []
    fits = usual_budgets(number.low / sigma, number.high / sigma, None, None)
    return (
        [f" (it is the ceiling of {' or '.join(f'n = {show(n)}, α = {a:g}' for n, a in fits[:3])})"]
        if fits
        else []
    )


def _percent(number: Number) -> str:
    return f"{number.value * 100:.4g} %"


def certified_rows(rows: Rows) -> np.ndarray:
    live: np.ndarray = ~rows.abstained & np.isfinite(rows.radius) & (rows.radius > 0)
    return live


def number_of(rows: Rows, i: int) -> Number:
    return Number(float(rows.radius[i]), float(rows.step[i]), text=show(rows.radius[i]))


def at_row(rows: Rows, i: int) -> Place:
    return Place(rows.place.file, int(rows.line[i]) or rows.place.line)


@rule(
    "radius-is-ceiling", "warning",
    raised_if="a radius, or the median or mean of radii, is the Monte-Carlo ceiling within its printed digits: the "
    "ceiling of the stated n and α, or, where these are not stated, of a usual pair. It is a note where the report "
    "itself states its ceiling or the share of saturated certificates.",
    meaning="At the ceiling every draw agreed: the figure tells n, α and σ, and nothing about models or data. Two "
    "results that share it are not equally robust; both ran out of draws.",
    question="What are n and α, how many certificates are saturated, and what is the median with more draws?",
)  # fmt: skip
def is_ceiling(result: Result) -> Iterator[Hit]:
    found = ceilings(result)
    for item, number in radii_of(result):
        hits = [(b, c) for b, c in found if c > 0 and number.may_be(c)]
        if hits and number.step <= 0.05 * number.value:
            bound, ceiling = hits[0]
            why = f"the Monte-Carlo ceiling {show(ceiling)} of its σ, n and α ({bound} bound)"
        elif not found and (budgets := budgets_of(number, result)):
            ratio = show(number.value / (sigma_of(result) or 1.0), 5)
            ceiling = (sigma_of(result) or 1.0) * _first_ceiling(number, result)
            why = f"{ratio} σ, which is the Monte-Carlo ceiling {show(ceiling)} = σΦ⁻¹(α^(1/n)) of {budgets}"
        else:
            continue
        yield Hit(f"{item.label} {item.text} is {why}", item.place, "note" if said(result) else None)


def _first_ceiling(number: Number, result: Result) -> float:
    """Return the ceiling, in units of σ, of the first usual budget that fits."""
    sigma = sigma_of(result) or 1.0
    n, alpha = usual_budgets(
        number.low / sigma, number.high / sigma, whole_number(result, "n"), bound_level(result)
    )[0]
    return unit_ceiling(n, alpha)


@rule(
    "n-too-small", "error",
    raised_if="something is certified although n is not larger than log2(1/α) (with α/2 for the two-class bound).",
    meaning="With so few draws every clip abstains: even n agreeing draws do not show p > ½ at level α.",
    question="What are n and α?",
)  # fmt: skip
def n_too_small(result: Result) -> Iterator[Hit]:
    n, alpha = whole_number(result, "n"), bound_level(result)
    if n is None or alpha is None or alpha < 1e-100 or not gaussian(result):
        return
    least = min(minimum_samples(alpha, bound) for bound in bounds_of(result))
    some = (
        any(x.value > 0 for _, x in radii_of(result))
        or any(p.accuracy.value > 0 for p in result.curve)
        or any((a := result.number(k)) and a.value > 0 for k in ("certified_accuracy", "positive_accuracy"))
        or (
            result.rows is not None
            and result.rows.ceiling is None
            and bool(certified_rows(result.rows).any())
        )
    )
    if n < least and some:
        place = result.fields["n"].place
        yield Hit(f"n = {show(n)} draws at α = {alpha:g} certify nothing: it takes {least}", place)


@rule(
    "ceiling-wrong", "error",
    raised_if="a stated ceiling is not σΦ⁻¹(α^(1/n)) within its digits.",
    meaning="The ceiling follows from σ, n, α and the bound.",
    question="Which σ, n, α and bound is the ceiling of?",
)  # fmt: skip
def ceiling_wrong(result: Result) -> Iterator[Hit]:
    given = result.number("ceiling")
    found = ceilings(result)
    if given and found and not any(given.may_be(c) for _, c in found):
        item = result.fields["ceiling"]
        yield Hit(f"{item.label} {item.text}, but σ, n and α give {show(found[0][1])}", item.place)


@rule(
    "r-over-sigma-wrong", "error",
    raised_if="R/σ is stated and is not the radius divided by σ within the digits.",
    meaning="The three figures do not belong together.",
    question="Which radius and σ does the ratio belong to?",
)  # fmt: skip
def ratio_wrong(result: Result) -> Iterator[Hit]:
    ratio, sigma = result.number("r_over_sigma"), sigma_of(result)
    radius = result.number("median_radius") or result.number("radius")
    if not (ratio and sigma and radius):
        return
    if not (radius.low / sigma <= ratio.high and ratio.low <= radius.high / sigma):
        item = result.fields["r_over_sigma"]
        yield Hit(
            f"{item.label} {item.text}, but the radius is {show(radius.value / sigma, 4)} σ", item.place
        )


@rule(
    "several-values", "warning",
    raised_if="σ, n or α is a list of values while one result has one radius or accuracy.",
    meaning="It is not said which of them the figure belongs to.",
    question="Which value belongs to which figure?",
)  # fmt: skip
def several_values(result: Result) -> Iterator[Hit]:
    figures = [
        n for n in ("radius", "median_radius", "mean_radius", "positive_accuracy") if n in result.fields
    ]
    for name in ("sigma", "n", "alpha"):
        item = result.fields.get(name)
        if item and item.number is None and len(several(item.text)) > 1 and (figures or result.curve):
            yield Hit(f"{item.label} is {item.text}, for one result", item.place)


@rule(
    "other-norm", "warning",
    raised_if="an ε or a radius is quoted in another norm than ℓ2, or the norm is not ℓ2 while the noise is Gaussian. "
    "It is an error where an ℓ∞ radius exceeds the ℓ2 radius divided by √d by more than the digits allow.",
    meaning="Gaussian noise certifies an ℓ2 ball. The ℓ∞ ball inside it has radius R/√d, a hundred times smaller and "
    "more for audio.",
    question="In which norm is the certificate, and how was it converted?",
)  # fmt: skip
def other_norm(result: Result) -> Iterator[Hit]:
    norm, noise = result.fields.get("norm"), result.text("noise")
    if norm and not is_l2(norm.text.lower()) and (not noise or "gauss" in noise or "normal" in noise):
        yield Hit(f"{norm.label} is {norm.text}, and Gaussian noise certifies ℓ2", norm.place)
    for name in ("epsilon", "radius", "median_radius", "max_radius"):
        item = result.fields.get(name)
        words = f"{item.label} {item.text} {item.unit}".lower().replace("∞", "inf") if item else ""
        if item and any(
            w in words for w in ("linf", "ℓinf", "l_inf", "ℓ_inf", "l-inf", "l infinity", "/255")
        ):
            radius, d = result.number("median_radius", "max_radius"), whole_number(result, "dimension")
            if name == "epsilon" and item.number and radius and d and item.number.low > radius.high / d**0.5:
                fits = show(radius.value / d**0.5, 3)
                yield Hit(
                    f"{item.label} {item.text} exceeds R/√d = {fits}, the ℓ∞ ball in the ℓ2 ball",
                    item.place,
                    "error",
                )
            else:
                yield Hit(f"{item.label} {item.text} is not in ℓ2", item.place)
