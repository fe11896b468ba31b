"""Rules about rows, one a clip: abstentions, repeats, what the counts give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from soundcert.lint.numbers import show
from soundcert.lint.radius_rules import at_row, budgets_of, ceilings, certified_rows, number_of, said
from soundcert.lint.registry import Hit, radii_of, rule
from soundcert.lint.report import Result


@rule(
    "radius-not-from-counts", "error",
    raised_if="a radius of a record is larger than what its own count, n, α, σ and bound give.",
    meaning="The radius can be recomputed from the record, and does not come out.",
    question="Was the record edited, or computed by another bound than it states?",
)  # fmt: skip
def not_from_counts(result: Result) -> Iterator[Hit]:
    rows = result.rows
    if rows is None or rows.recomputed is None:
        return
    with np.errstate(invalid="ignore"):
        wrong = certified_rows(rows) & (rows.radius > rows.recomputed * (1 + 1e-9))
    if wrong.any():
        i = int(np.argmax(wrong))
        yield Hit(
            f"{int(wrong.sum())} records have a radius above what their counts give; the first has "
            f"{show(rows.radius[i])} and its counts give {show(rows.recomputed[i])}",
            at_row(rows, i),
        )


@rule(
    "many-saturated", "warning",
    raised_if="at least half of the certified rows have the largest radius of all, ten rows or more. It is a note "
    "where the report itself states its ceiling or the share of saturated certificates.",
    meaning="A radius that so many clips share is the Monte-Carlo ceiling. Their median and curve say what n allows.",
    question="Is the largest radius the ceiling of n and α? Raise n, or state the share of saturated certificates.",
)  # fmt: skip
def many_saturated(result: Result) -> Iterator[Hit]:
    rows = result.rows
    if rows is None:
        return
    live = certified_rows(rows)
    if live.sum() < 10:
        return
    top = float(rows.radius[live].max())
    share = float(np.isclose(rows.radius[live], top, rtol=1e-9, atol=0).mean())
    if share < 0.5:
        return
    i = int(np.argmax(live & (rows.radius == top)))
    budgets = budgets_of(number_of(rows, i), result) if not ceilings(result) else ""
    fits = f": the ceiling of {budgets}" if budgets else ""
    yield Hit(
        f"{share:.1%} of the certified clips have the largest radius, {show(top)}{fits}",
        rows.place, "note" if said(result) else None,
    )  # fmt: skip


@rule(
    "radius-not-a-radius", "error",
    raised_if="a radius is negative, infinite or NaN.",
    meaning="A certificate has a positive, finite radius. An abstention has none, and is a status of its own.",
    question="Is this an abstention? Then say so, and leave the radius out.",
)  # fmt: skip
def not_a_radius(result: Result) -> Iterator[Hit]:
    for name in ("radius", "median_radius", "mean_radius", "max_radius"):
        item = result.fields.get(name)
        if item and item.number and (not item.number.finite or item.number.value < 0):
            yield Hit(f"{item.label} {item.text} is no radius", item.place)
    rows = result.rows
    if rows is None:
        return
    with np.errstate(invalid="ignore"):
        wrong = (~rows.abstained & ~np.isfinite(rows.radius)) | (rows.radius < 0)
    if wrong.any():
        i = int(np.argmax(wrong))
        yield Hit(
            f"{int(wrong.sum())} rows have a radius that is negative, infinite or no number", at_row(rows, i)
        )


@rule(
    "abstention-as-class", "warning",
    raised_if="rows have radius 0 and yet a predicted class, or one that is not said to be an abstention. (A row whose "
    "status or outcome says that it is certified, at radius 0, is left alone.)",
    meaning="An abstention that is coded as radius 0 with a class (often class 0) counts as a correct answer wherever "
    "that class is the right one.",
    question="Are rows of radius 0 abstentions, and are they counted as wrong?",
)  # fmt: skip
def abstention_as_class(result: Result) -> Iterator[Hit]:
    rows = result.rows
    zero, certified = np.zeros(0, bool), False
    if rows is not None:
        zero = ~rows.abstained & (rows.radius == 0)
    if rows is not None and rows.certified is not None:
        certified = bool((zero & rows.certified).any())
        zero &= ~rows.certified
    for item, number in radii_of(result):
        if number.value == 0 and item.name in ("radius", "max_radius") and not certified:
            yield Hit(f"{item.label} is 0", item.place)
    if rows is None or result.own:
        return
    if zero.any():
        i = int(np.argmax(zero))
        words = {rows.predicted[k] for k in np.flatnonzero(zero)[:1000]} - {""}
        which = f", all of class {next(iter(words))}" if len(words) == 1 and zero.sum() > 1 else ""
        yield Hit(f"{int(zero.sum())} rows have radius 0 and are not said to abstain{which}", at_row(rows, i))


@rule(
    "abstention-correct", "error",
    raised_if="a row abstains and has a radius above 0 or is counted as correct, or `correct` is not whether the "
    "prediction is the label.",
    meaning="Abstentions count as wrong in every accuracy, and have no radius.",
    question="How were correct answers counted?",
)  # fmt: skip
def abstention_correct(result: Result) -> Iterator[Hit]:
    rows = result.rows
    if rows is None:
        return
    with np.errstate(invalid="ignore"):
        wrong = rows.abstained & ((rows.correct == 1) | (rows.radius > 0))
    if wrong.any():
        i = int(np.argmax(wrong))
        yield Hit(f"{int(wrong.sum())} abstentions have a radius or count as correct", at_row(rows, i))
    pairs = zip(rows.predicted, rows.label, rows.correct.tolist(), strict=True)
    bad = [
        k
        for k, (guess, truth, flag) in enumerate(pairs)
        if flag >= 0 and guess and truth and (guess == truth) != (flag == 1)
    ]
    if bad:
        yield Hit(
            f"in {len(bad)} rows `correct` is not whether prediction and label are equal",
            at_row(rows, bad[0]),
        )


@rule(
    "rows-repeat", "error",
    raised_if="two rows have the same index or clip.",
    meaning="A clip that counts twice shifts every accuracy and median, and its certificates are not independent.",
    question="Were files of several runs joined, or a run appended to itself?",
)  # fmt: skip
def rows_repeat(result: Result) -> Iterator[Hit]:
    rows = result.rows
    if rows is None or not any(rows.index):
        return
    seen: set[str] = set()
    for i, name in enumerate(rows.index):
        if name and name in seen:
            yield Hit(f"{name[:60]!r} stands in more than one row", at_row(rows, i))
            return
        seen.add(name)


@rule(
    "every-kth-clip", "note",
    raised_if="the rows' indices go up in equal steps of more than 1.",
    meaning="A part of the data set was certified (`--skip`). The sampling of clips widens every interval.",
    question="Which part of the data set is it, and was it chosen before the results were seen?",
)  # fmt: skip
def every_kth(result: Result) -> Iterator[Hit]:
    rows = result.rows
    if rows is None or len(rows.index) < 3 or not all(x.isdecimal() and len(x) < 12 for x in rows.index):
        return
    steps = np.diff([int(x) for x in rows.index])
    if steps[0] > 1 and (steps == steps[0]).all():
        yield Hit(f"{len(rows)} rows, every {steps[0]}th of the data set", rows.place)
