"""Runs side by side on the clips that all of them have, or why a ranking would mislead."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from soundcert.compare import judging, pairing, statistics
from soundcert.compare.levels import Levels, Record, Tick, at_alpha, carried, in_object, recorded
from soundcert.compare.result import (
    Axis,
    Caveat,
    Comparison,
    LeftOut,
    Pair,
    Reason,
    Side,
)
from soundcert.errors import ConfigError, RunError
from soundcert.runs.groups import Grouping, grouping
from soundcert.runs.reading import Run, open_run


def compare(
    runs: Sequence[Run | Path | str],
    space: str | None = None,
    *,
    at: Sequence[float] | None = None,
    axis: Axis | None = None,
    alpha: float | None = None,
    base: Path | None = None,
    level: float = 0.05,
    resamples: int = 4000,
    seed: int = 0,
    progress: Tick | None = None,
) -> Comparison:
    """Compare runs on the clips that all of them have: the first with each of the others.

    space: where the perturbation is added; by default the certified object, else "file" or a space above the
    noise that all have, to which the radii are carried with proof. at: SNRs in dB or radii, whichever `axis`
    says (by default SNRs for waveforms, radii for features); fix them before the results are seen. alpha:
    compute every radius at this α from the recorded counts. base: where configs' relative paths start, for
    runs that did not record it. level: of intervals and tests; seed: of the bootstrap.

    Radii are taken from the records where all runs have them there; otherwise all that can are carried anew,
    so that one version's bounds serve for all. Where a ranking would mislead, `comparable` is false and
    `reasons` says why. Raises ConfigError for a call that cannot be, RunError for what is no run or where
    recordings are needed and cannot be had.
    """
    opened = [run if isinstance(run, Run) else open_run(Path(run)) for run in runs]
    _check(opened, at, axis, alpha, level, resamples)
    space = space or "object"
    letters = judging.letters(opened)
    caveats: list[Caveat] = []
    reasons = judging.reasons(opened, space)
    records, left = [], []
    for run in opened:
        by_digest, dropped = _usable(run)
        records.append(by_digest)
        left.append(dropped)
    if alpha is not None:
        records = _recomputed(opened, records, alpha, reasons)
    common = sorted(
        set.intersection(*(set(r) for r in records)), key=lambda d: (str(records[0][d]["clip"]), d)
    )
    _leave_out(opened, records, common, left)
    about_clips = judging.clip_reasons(opened, records, common)
    if not common:  # no space helps: nothing could be paired there
        reasons = [dataclasses.replace(reason, remedy="") for reason in reasons]
    reasons += about_clips
    caveats += _subset(opened, left, common)
    caveats += judging.caveats(opened, records, common, space)
    facts = judging.facts(opened, records, common, space)

    right = [{d: r[d] for d in common if _right(r[d])} for r in records]
    levels = [in_object(run, rows) for run, rows in zip(opened, right, strict=True)]
    carry_out = space != "object" and not reasons
    if carry_out:
        levels = _carried(opened, right, space, base, progress)
        reasons += _of_space(letters, levels, right, space)
        caveats += _of_lengths(levels)
        sources = [found.source for found in levels]
        if len(set(sources)) > 1:
            caveats.append(
                Caveat(
                    "sources",
                    f"The radii in this space come from different places ({judging.each(sources)}): bounds may have "
                    "become tighter between versions.",
                    True,
                )
            )
    comparable = not reasons
    chosen = _axis(axis, levels[0].waveform if comparable else all(found.waveform for found in levels))
    unit = "dB" if chosen == "snr_db" else levels[0].unit
    grid = pairing.default_or_given(at, chosen, records) if comparable else ()
    names = [str(records[0][d]["clip"]) for d in common]
    grouped = grouping(names)
    grouped_by = grouped.what
    index = {name: number for number, name in enumerate(dict.fromkeys(grouped.names))}
    groups = np.array([index[name] for name in grouped.names], dtype=np.int64)
    tied = any(r[d].get("policy") == "budget" for r in records for d in common)
    pairs: tuple[Pair, ...] = ()
    tests = 0
    if common and not about_clips:
        pairs, tests = pairing.paired(
            letters, common, records, right, levels, chosen, grid,
            None if tied else groups, level=level, resamples=resamples, seed=seed,
        )  # fmt: skip
        caveats += pairing.limits(pairs, chosen, unit, records[0][common[0]]["alpha"])
    sides = tuple(
        _side(letter, run, common, rows, found, dropped, (chosen, unit, grid) if comparable else None)
        for letter, run, rows, found, dropped in zip(letters, opened, right, levels, left, strict=True)
    )
    caveats += _of_groups(grouped, tied)
    alphas = [r[d]["alpha"] for r in records for d in common]
    return Comparison(
        comparable=comparable,
        space=space,
        space_words=_space_words(space, opened),
        axis=chosen,
        unit=unit,
        grid=grid,
        common=len(common),
        groups=len(index),
        grouped_by=grouped_by,
        reasons=tuple(reasons),
        caveats=tuple(sorted(caveats, key=lambda c: not c.loud)),
        facts=facts,
        stages=judging.stage_rows(opened) if all(run.contract for run in opened) else (),
        sides=sides,
        pairs=pairs,
        notes=_notes(grouped_by, len(index), len(common), tests, level, resamples, max(alphas, default=0.0))
        if pairs and not tied
        else (),
        resamples=resamples,
        seed=seed,
        level=level,
        tests=tests,
    )


def _check(
    runs: Sequence[Run],
    at: Sequence[float] | None,
    axis: Axis | None,
    alpha: float | None,
    level: float,
    resamples: int,
) -> None:
    if not 2 <= len(runs) <= len(judging.LETTERS):
        raise ConfigError(f"a comparison takes 2 to {len(judging.LETTERS)} runs, got {len(runs)}")
    places = [run.path.resolve() for run in runs]
    twice = next((p for p in places if places.count(p) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is given twice: a run does not differ from itself")
    if at is not None:
        if not 1 <= len(at) <= pairing.MOST_POINTS:
            raise ConfigError(f"give 1 to {pairing.MOST_POINTS} points, got {len(at)}")
        if not all(math.isfinite(a) for a in at):
            raise ConfigError("points must be finite numbers")
        if axis == "radius" and min(at) <= 0:
            raise ConfigError(f"radii must be positive, got {min(at):g}")
    if alpha is not None and not 0 < alpha < 0.5:
        raise ConfigError(f"alpha must lie between 0 and 0.5, got {alpha!r}")
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, got {level!r}")
    if resamples < statistics.SMALLEST_RESAMPLES:
        raise ConfigError(f"resamples must be at least {statistics.SMALLEST_RESAMPLES}, got {resamples}")


def _usable(run: Run) -> tuple[dict[str, Record], list[LeftOut]]:
    """Return the records of a run by digest, and what of the run cannot be compared."""
    out: dict[str, Record] = {}
    twice, nameless, odd = [], [], []
    for record in run.usable:
        digest = record.get("digest")
        if not isinstance(digest, str) or not digest:
            nameless.append(str(record["clip"]))
        elif not _sound(record):
            odd.append(str(record["clip"]))
        elif digest in out:
            twice.append(str(record["clip"]))
        else:
            out[digest] = record
    failed = [str(r["clip"]) for r in run.records if r["status"] == "failed"]
    dropped = [
        ("could not be used by the run", failed),
        ("the same recording under another name", twice),
        ("has no digest of its recording", nameless),
        ("has values that no certificate has", odd),
    ]
    return out, [LeftOut(why, len(clips), tuple(clips[:10])) for why, clips in dropped if clips]


def _sound(record: Record) -> bool:
    """Whether the values that are computed with are numbers of their kind."""
    certified = record["status"] == "certified"
    positive = ("sigma", "alpha", "n")
    if not isinstance(record.get("views", {}), dict) or not isinstance(record.get("spaces", {}), dict):
        return False
    others = [name for name, there in (("radius", certified), ("set_aside", "set_aside" in record)) if there]
    for name in (*positive, "count", "ceiling", "object_norm", *others):
        value = record.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if value < 0 or (value == 0 and name in positive):
            return False
    return True


def _recomputed(
    runs: Sequence[Run], records: Sequence[dict[str, Record]], alpha: float, reasons: list[Reason]
) -> list[dict[str, Record]]:
    out = []
    for letter, rows in zip(judging.letters(runs), records, strict=True):
        try:
            out.append({digest: at_alpha(record, alpha) for digest, record in rows.items()})
        except RunError as error:
            reasons.append(
                Reason("alpha", f"The radii of {letter} cannot be computed at α = {alpha:g}: {error}.")
            )
            out.append(rows)
    return out


def _leave_out(
    runs: Sequence[Run],
    records: Sequence[dict[str, Record]],
    common: Sequence[str],
    left: Sequence[list[LeftOut]],
) -> None:
    shared = set(common)
    for number, rows in enumerate(records):
        failed = [{str(r["clip"]) for r in run.records if r["status"] == "failed"} for run in runs]
        for other, letter in enumerate(judging.letters(runs)):
            if other == number:
                continue
            absent = [str(rows[d]["clip"]) for d in rows if d not in shared and d not in records[other]]
            lost = [clip for clip in absent if clip in failed[other]]
            rest = [clip for clip in absent if clip not in failed[other]]
            for why, clips in ((f"could not be used by {letter}", lost), (f"not in {letter}", rest)):
                if clips:
                    left[number].append(LeftOut(why, len(clips), tuple(clips[:10])))


def _subset(runs: Sequence[Run], left: Sequence[Sequence[LeftOut]], common: Sequence[str]) -> list[Caveat]:
    if not common or not any(left):
        return []
    parts = []
    for letter, run, dropped in zip(judging.letters(runs), runs, left, strict=True):
        if dropped:
            why = "; ".join(f"{d.count} {d.why}" for d in dropped)
            parts.append(f"{letter} leaves out clips of its {len(run.records)}: {why}")
    text = (
        f"The sets of clips differ: only the {len(common)} recordings that all runs certified or abstained on are "
        f"compared. {'. '.join(parts)}. Shares below are over the {len(common)} and not those of the runs' reports."
    )
    if any("could not be used" in d.why for dropped in left for d in dropped):
        text += " A clip that a run could not use is no success of it, and leaving it out favours that run."
    return [Caveat("subset", text, True)]


def _right(record: Record) -> bool:
    return record["status"] == "certified" and record.get("truth") in (None, record["label"])


def _carried(
    runs: Sequence[Run],
    right: Sequence[Mapping[str, Record]],
    space: str,
    base: Path | None,
    progress: Tick | None,
) -> list[Levels]:
    """Return levels in a space: recorded if all runs have them, else carried anew, one version's bounds for all."""
    stored = [recorded(run, rows, space) for run, rows in zip(runs, right, strict=True)]
    if all(found is not None for found in stored):
        return [found for found in stored if found is not None]
    total, before = sum(len(rows) for rows in right), 0
    out = []
    for run, rows, found in zip(runs, right, stored, strict=True):

        def tick(done: int, _: int, name: str, before: int = before) -> None:
            if progress:
                progress(before + done, total, name)

        try:
            out.append(carried(run, rows, space, base, tick))
        except RunError:
            if found is None:
                raise
            out.append(found)
        before += len(rows)
    return out


def _of_space(
    letters: str, levels: Sequence[Levels], right: Sequence[Mapping[str, Record]], space: str
) -> list[Reason]:
    out = []
    for letter, found, rows in zip(letters, levels, right, strict=True):
        if found.unproven and found.unproven == len(rows):
            out.append(Reason("space", f"No radius of {letter} can be carried to {space!r}: {found.reason}."))
    if len({found.space for found, rows in zip(levels, right, strict=True) if rows}) > 1:
        out.append(
            Reason(
                "space",
                f"The runs make {space!r} by different stages: two spaces of one name.",
                "--in file is one space for all.",
            )
        )
    return out


def _of_lengths(levels: Sequence[Levels]) -> list[Caveat]:
    out = []
    for letter, found in zip(judging.LETTERS, levels, strict=False):
        if found.unproven:
            out.append(
                Caveat(
                    "unproven",
                    f"{found.unproven} certificates of {letter} do not reach this space and count as not certified "
                    f"there: {found.reason}.",
                    True,
                )
            )
    samples = frozenset[int]().union(*(found.samples for found in levels))
    if len(samples) > 1:
        offset = 10 * math.log10(max(samples) / min(samples))
        out.append(
            Caveat(
                "lengths",
                f"The recordings have {min(samples)} to {max(samples)} samples. On each clip an SNR is the same scale for "
                f"all runs; across clips, at equal radius and RMS, the length alone moves it by up to {offset:.1f} dB.",
            )
        )
    elif not samples:
        out.append(
            Caveat(
                "lengths",
                "On each clip an SNR is the same scale for all runs. If recordings differ in length, the curve mixes "
                "lengths: at equal radius and RMS an SNR grows by 10·log10 of the ratio.",
            )
        )
    return out


def _axis(axis: Axis | None, waveform: bool) -> Axis:
    if axis == "snr_db" and not waveform:
        raise ConfigError(
            "a ratio of feature norms is not an SNR: compare features by radius, or name a waveform space such as file"
        )
    return axis or ("snr_db" if waveform else "radius")


def _side(
    letter: str,
    run: Run,
    common: Sequence[str],
    right: Mapping[str, Record],
    found: Levels,
    dropped: Sequence[LeftOut],
    shared: tuple[Axis, str, tuple[float, ...]] | None,
) -> Side:
    """Return one run over the common clips, or, where it has none in common, over its own."""
    rows: Sequence[Record] = run.usable
    if shared is None:
        # Its own axis, in its own space: nothing here stands beside another run's.
        good = {str(r.get("digest")): r for r in (right.values() if common else run.good)}
        found = in_object(run, good)
        axis: Axis = "snr_db" if found.waveform else "radius"
        grid = pairing.default_or_given(None, axis, [{str(n): r for n, r in enumerate(rows)}]) if rows else ()
        unit = "dB" if found.waveform else found.unit
    else:
        good, (axis, unit, grid) = dict(right), shared
    count = len(common) or len(rows)
    curve = [
        (at, sum(pairing.reaches(found.by_digest[d], at, axis) for d in good) / count if count else 0.0)
        for at in grid
    ]
    names = set(common)
    own = [r for r in rows if not common or r.get("digest") in names]
    return Side(
        letter=letter,
        name=run.name,
        path=str(run.path),
        clips=count,
        certified=sum(r["status"] == "certified" for r in own),
        correct=len(good),
        at_ceiling=sum(bool(r["saturated"]) for r in good.values()),
        asked=any(r.get("policy") == "decide" for r in good.values()),
        axis=axis,
        unit=unit,
        curve=tuple(curve),
        radii_from=found.source,
        left_out=tuple(dropped),
        warnings=run.warnings,
    )


def _of_groups(grouped: Grouping, tied: bool) -> list[Caveat]:
    """Return what to say about clips that belong together."""
    clips, groups, what = len(grouped.names), grouped.groups, grouped.what
    if not clips or tied:
        return []
    out = []
    if what == "clip":
        out.append(
            Caveat(
                "independence",
                "Clips are taken as independent. If several are of one speaker, machine or recording, intervals are too "
                "narrow and p-values too small; nothing in their names tells.",
            )
        )
    elif groups < clips:
        these, others = f"The {clips} clips are", ""
        if grouped.told < clips:
            these = f"By their names {grouped.told} of the {clips} clips are"
            others = (
                f"; the names of the others do not tell, and they are taken as {grouped.untold_groups} more"
            )
        out.append(
            Caveat(
                "independence",
                f"{these} of {grouped.told_groups} {what}s{others}. Intervals resample whole {what}s; McNemar's "
                "test takes clips as independent, so its p-values are too small where one fares alike.",
            )
        )
    if groups < 30:
        out.append(
            Caveat(
                "few",
                f"{groups} independent {what}s are few: bootstrap intervals are then rough, and only large "
                "differences can be shown.",
                True,
            )
        )
    return out


def _space_words(space: str, runs: Sequence[Run]) -> str:
    if space == "file":
        return "the file's samples"
    if space != "object":
        return f"the space {space!r}"
    return judging.each([str(run.contract.get("certified_object") or "nothing") for run in runs])


def _notes(
    grouped_by: str, groups: int, clips: int, tests: int, level: float, resamples: int, alpha: float
) -> tuple[str, ...]:
    confidence = f"{100 * (1 - level):g} %"
    pairs = "pairs" if groups == clips else f"as many independent clips as the {grouped_by}s amount to"
    of_what = f"{groups} {grouped_by}s" if groups < clips else f"{clips} clips"
    return (
        f"Intervals ({confidence}) are for the difference over new {'clips' if grouped_by == 'clip' else grouped_by + 's'} "
        "like these and new noise: percentiles of a "
        f"paired bootstrap over the {of_what} ({resamples} resamples), never narrower than Tango's score interval for "
        f"{pairs}. "
        f"“All together” holds at all questions of this comparison at once ({tests}; largest deviation in standard errors).",
        f"p is McNemar's exact two-sided test on the clips that one run alone certifies; Holm corrects for all ({tests}). "
        f"A difference is called shown where Holm's p is at most {level:g} and the band leaves out 0. Not shown is not "
        "the same as equal.",
        f"Each certificate is wrong with probability at most α = {alpha:g}: for claims that are true, widen each interval "
        f"by {100 * alpha:g} points at both ends.",
    )
