"""Pairs of runs on the same clips: counts, tests and intervals at each point of an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from soundcert.bounds import format_down, monte_carlo_ceiling
from soundcert.compare import statistics
from soundcert.compare.levels import Level, Levels, Record
from soundcert.compare.result import Axis, Caveat, ClipDifference, Difference, Pair
from soundcert.errors import ConfigError

#: From quiet perturbations to loud ones; fixed, so that no result chooses it.
SNRS = (90, 80, 70, 60, 55, 50, 45, 40, 35, 30, 25, 20)
MOST_POINTS = 60
MOST_CLIPS = 5


def default_or_given(
    at: Sequence[float] | None,
    axis: Axis,
    records: Sequence[Mapping[str, Record]],
) -> tuple[float, ...]:
    """Return the points from the weakest statement to the strongest; by default from settings, not from results."""
    if at is not None:
        chosen = {float(a) for a in at}
        if axis == "radius" and min(chosen) <= 0:
            raise ConfigError(f"radii must be positive, got {min(chosen):g}")
        return tuple(sorted(chosen, reverse=axis == "snr_db"))
    if axis == "snr_db":
        return tuple(float(s) for s in SNRS)
    rows = [record for by_digest in records for record in by_digest.values()]
    asked = {r for record in rows for r in record.get("radii") or ()}
    sigmas = sorted({float(record["sigma"]) for record in rows})
    steps = {
        float(format_down(s * k / 2, significant=6)) for s in (sigmas[0], sigmas[-1]) for k in range(1, 8)
    }
    return tuple(sorted(a for a in (asked or steps) if a > 0))


def reaches(level: Level, at: float, axis: Axis) -> bool:
    if axis == "radius":
        return level.radius >= at
    return level.snr_db is not None and level.snr_db <= at


def paired(
    letters: str,
    common: Sequence[str],
    records: Sequence[Mapping[str, Record]],
    right: Sequence[Mapping[str, Record]],
    levels: Sequence[Levels],
    axis: Axis,
    grid: Sequence[float],
    groups: np.ndarray | None,
    *,
    level: float,
    resamples: int,
    seed: int,
) -> tuple[tuple[Pair, ...], int]:
    """Return the first run against each other one, and how many tests that makes. groups: None for no statistics."""
    points: list[float | None] = [None, *grid]
    success = np.zeros((len(right), len(common), len(points)), dtype=bool)
    ceiling = np.zeros((len(right), len(common)), dtype=bool)
    for number, (rows, found) in enumerate(zip(right, levels, strict=True)):
        for row, digest in enumerate(common):
            if digest in rows:
                there = found.by_digest[digest]
                success[number, row] = [p is None or reaches(there, p, axis) for p in points]
                ceiling[number, row] = bool(rows[digest]["saturated"])
    others = range(1, len(right))
    columns = np.concatenate([success[0].astype(int) - success[k].astype(int) for k in others], axis=1)
    first_only, second_only = (columns > 0).sum(axis=0), (columns < 0).sum(axis=0)
    p_values = [statistics.mcnemar(int(b), int(c)) for b, c in zip(first_only, second_only, strict=True)]
    corrected = statistics.holm(p_values)
    found_ends = (
        None
        if groups is None
        else statistics.intervals(columns, groups, level=level, resamples=resamples, seed=seed)
    )
    out = []
    for k in others:
        made = []
        for point, at in enumerate(points):
            column = (k - 1) * len(points) + point
            mine, theirs = success[0, :, point], success[k, :, point]
            ends: dict[str, Any] = {"interval": None, "band": None, "p_value": None, "p_holm": None}
            if found_ends is not None:
                low, high, band_low, band_high = (float(e[column]) for e in found_ends[:4])
                ends = {
                    "interval": (low, high),
                    "band": (band_low, band_high),
                    "p_value": p_values[column],
                    "p_holm": corrected[column],
                }
            limited = [
                int((only & success[n, :, 0] & ceiling[n]).sum()) if at is not None else 0
                for n, only in ((0, theirs & ~mine), (k, mine & ~theirs))
            ]
            made.append(
                Difference(
                    at=at,
                    both=int((mine & theirs).sum()),
                    first_only=int((mine & ~theirs).sum()),
                    second_only=int((theirs & ~mine).sum()),
                    neither=int((~mine & ~theirs).sum()),
                    first_limited=limited[0],
                    second_limited=limited[1],
                    level=level,
                    **ends,
                )
            )
        more = (
            _largest(common, records[0], right[0], right[k], levels[0], levels[k], axis) if grid else ((), ())
        )
        out.append(Pair(letters[0], letters[k], made[0], tuple(made[1:]), *more))
    return tuple(out), len(p_values) if groups is not None else 0


def _largest(
    common: Sequence[str],
    records: Mapping[str, Record],
    first: Mapping[str, Record],
    second: Mapping[str, Record],
    of_first: Levels,
    of_second: Levels,
    axis: Axis,
) -> tuple[tuple[ClipDifference, ...], tuple[ClipDifference, ...]]:
    """Return the clips on which each run certifies most beyond the other; alone before together."""

    def value(rows: Mapping[str, Record], found: Levels, digest: str) -> float | None:
        if digest not in rows:
            return None
        there = found.by_digest[digest]
        if axis == "snr_db":
            return there.snr_db
        return there.radius if there.radius > 0 else None

    def strength(level: float | None) -> float:
        return -math.inf if level is None else (-level if axis == "snr_db" else level)

    made: list[tuple[float, float, ClipDifference]] = []
    for digest in common:
        a, b = value(first, of_first, digest), value(second, of_second, digest)
        if a == b:
            continue
        gap = strength(a) - strength(b) if a is not None and b is not None else None
        record = records[digest]
        made.append(
            (
                strength(a),
                strength(b),
                ClipDifference(str(record["clip"]), str(record.get("truth")), a, b, gap),
            )
        )

    def order(mine: Literal[0, 1]) -> tuple[ClipDifference, ...]:
        ahead = [row for row in made if (row[0] > row[1]) == (mine == 0)]
        ahead.sort(
            key=lambda row: (
                row[2].gap is not None,
                -row[mine] if row[2].gap is None else -abs(row[2].gap),
                row[2].clip,
            )
        )
        return tuple(row[2] for row in ahead[:MOST_CLIPS])

    return order(0), order(1)


def limits(pairs: Sequence[Pair], axis: Axis, unit: str, alpha: float) -> list[Caveat]:
    """Say where a run's own ceiling, and so n, may make it look weaker than it is."""
    out = []
    at_ten_thousand, at_million = (
        format_down(monte_carlo_ceiling(1.0, n, alpha), significant=3) for n in (10_000, 1_000_000)
    )
    for pair in pairs:
        for who, other, limited, alone in (
            (pair.second, pair.first, "second_limited", "first_only"),
            (pair.first, pair.second, "first_limited", "second_only"),
        ):
            worst = max(pair.points, key=lambda d: int(getattr(d, limited)), default=None)
            if worst is None or getattr(worst, limited) == 0 or worst.at is None:
                continue
            point = f"{worst.at:g} dB" if axis == "snr_db" else f"radius {worst.at:g} {unit}".strip()
            out.append(
                Caveat(
                    "ceiling",
                    f"At {point}, {getattr(worst, limited)} of the {getattr(worst, alone)} clips that {other} alone "
                    f"certifies stand at {who}'s Monte-Carlo ceiling: they tell {who}'s n and σ, not how far its model "
                    f"could go. More draws raise the ceiling slowly: R/σ = {at_ten_thousand} at n = 10 000, "
                    f"{at_million} at a million.",
                    True,
                )
            )
    return out
