"""Statistics of two shares that are counted on the same clips.

Conventions
-----------
A clip is a success of a run or it is not; a pair of runs gives it the difference 1 (the first alone), 0 or
-1 (the second alone). `differences` has shape `(clips, columns)`: one column for each question that is asked
of the pair. `groups` numbers, from 0, the speaker or recording of each clip; clips of one group are
resampled together. Shares and differences are fractions, not points. Every function is deterministic.

Sources: McNemar (1947), Psychometrika 12, 153; Tango (1998), Statistics in Medicine 17, 891; Agresti and
Min (2005), Statistics in Medicine 24, 729; Holm (1979), Scandinavian Journal of Statistics 6, 65; Davison
and Hinkley (1997), Bootstrap Methods and their Application, sections 3.8 and 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from soundcert.bounds import binomial_two_sided_p
from soundcert.errors import ConfigError

Array = np.ndarray

SMALLEST_RESAMPLES = 2000
_CHUNK = 4_000_000
_TELLING = 10


class Intervals(NamedTuple):
    """Ends for each column, each of shape `(columns,)`.

    lower, upper: hold for one column. band_lower, band_upper: hold for all columns at once. critical: what
    the band's standard errors are multiplied by.
    """

    lower: Array
    upper: Array
    band_lower: Array
    band_upper: Array
    critical: float


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p-value of McNemar's test, rounded up; 1 where no clip tells the runs apart.

    Formula: under equal shares, `first_only` of the clips that only one run certifies is Bin(b + c, ½).
    """
    return binomial_two_sided_p(max(first_only, second_only), first_only + second_only)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's p-values: to reject where one is at most γ makes any false rejection at most γ likely.

    Formula: sorted upwards, max over j ≤ i of (k − j)·p_j, j from 0, at most 1; any dependence is allowed.
    """
    out = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        out[index] = min(1.0, largest)
    return out


def tango(first_only: Array, second_only: Array, clips: Array, critical: float) -> tuple[Array, Array]:
    """Return Tango's score interval of the difference: all Δ whose score is at most `critical` in size.

    The counts need not be whole: of clips in groups they stand for so many independent ones.

    Formula: (b − c − mΔ)² ≤ z²·m(2q + Δ(1 − Δ)), q the likeliest share of the second alone given Δ: the larger
    root of 2mq² − (b + c − (2m − b + c)Δ)q − cΔ(1 − Δ) = 0. It has a width even where no clip differs
    (z²/(m + z²) each way), where a bootstrap has none.
    """
    b, c = first_only.astype(float), second_only.astype(float)

    def outside(delta: Array) -> Array:
        linear = -b - c + (2 * clips - b + c) * delta
        root = np.sqrt(np.maximum(linear**2 + 8 * clips * c * delta * (1 - delta), 0))
        share = (root - linear) / (4 * clips)
        variance = np.maximum(clips * (2 * share + delta * (1 - delta)), 0)
        return np.asarray((b - c - clips * delta) ** 2 > critical**2 * variance)

    ends = []
    for edge in (-1.0, 1.0):
        # The score falls along Δ: inside at the estimate, and past the edge nothing is possible.
        inner, outer = (b - c) / clips, np.full_like(b, edge)
        for _ in range(60):
            middle = (inner + outer) / 2
            out = outside(middle)
            inner, outer = np.where(out, inner, middle), np.where(out, middle, outer)
        ends.append(outer)
    return ends[0], ends[1]


def resampled(differences: Array, groups: Array, resamples: int, seed: int) -> Array:
    """Return the means of each column over resamples of whole groups, `(resamples, columns)`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes, sums = _by_group(differences, groups)
    chance = np.full(len(sizes), 1 / len(sizes))
    step = max(1, _CHUNK // len(sizes))
    parts = []
    for start in range(0, resamples, step):
        drawn = rng.multinomial(len(sizes), chance, size=min(step, resamples - start)).astype(float)
        parts.append((drawn @ sums) / (drawn @ sizes)[:, None])
    return np.concatenate(parts)


def effective_clips(differences: Array, groups: Array) -> Array:
    """Return, for each column, how many independent clips the groups amount to: at most the number of clips.

    Formula: m/d, d the design effect: the variance of the mean over groups by that over clips, at least 1. Where
    fewer than `_TELLING` groups tell the runs apart it cannot be estimated, and the worst is assumed: all clips
    of a group alike, which leaves m²/Σ(size²) (Kish).
    """
    m = len(differences)
    sizes, sums = _by_group(differences, groups)
    worst = m**2 / (sizes**2).sum()
    means = differences.mean(axis=0)
    of_clips = differences.var(axis=0) / max(1, m - 1)
    left = sums - means * sizes[:, None]
    of_groups = (left**2).sum(axis=0) * len(sizes) / max(1, len(sizes) - 1) / m**2
    telling = np.zeros((len(sizes), differences.shape[1]), dtype=bool)
    np.logical_or.at(telling, groups, differences != 0)
    effect = np.divide(of_groups, of_clips, out=np.ones_like(of_clips), where=of_clips > 0)
    estimated = np.minimum(m / np.maximum(effect, 1.0), m)
    return np.asarray(np.where(telling.sum(axis=0) < _TELLING, worst, estimated))


def standard_errors(differences: Array, clips: Array) -> Array:
    """Return Agresti and Min's standard error of each column, over so many independent clips.

    It adds half a clip to each of the four counts, so that it is never 0.
    """
    b = (differences > 0).mean(axis=0) * clips
    c = (differences < 0).mean(axis=0) * clips
    return np.asarray(np.sqrt((b + c + 1) - (b - c) ** 2 / (clips + 2)) / (clips + 2))


def intervals(
    differences: Array, groups: Array, *, level: float = 0.05, resamples: int = 4000, seed: int = 0
) -> Intervals:
    """Return intervals of the mean difference of each column over the population of groups.

    For one column: percentiles of the bootstrap, widened to Tango's score interval (of `effective_clips`) where
    that is wider. For
    all at once: the difference ± q standard errors, q the 1 − level quantile of the bootstrap's largest
    |deviation| in standard errors over the columns and at least the normal quantile; widened to Tango's
    interval at q, and to the interval for one column.
    """
    if resamples < SMALLEST_RESAMPLES:
        raise ConfigError(f"resamples must be at least {SMALLEST_RESAMPLES}, got {resamples}")
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, got {level!r}")
    mean = differences.mean(axis=0)
    clips = effective_clips(differences, groups)
    b, c = (differences > 0).mean(axis=0) * clips, (differences < 0).mean(axis=0) * clips
    errors = standard_errors(differences, clips)
    means = resampled(differences, groups, resamples, seed)
    lower = np.quantile(means, level / 2, axis=0, method="lower")
    upper = np.quantile(means, 1 - level / 2, axis=0, method="higher")
    normal = float(-ndtri(level / 2))
    largest = (np.abs(means - mean) / errors).max(axis=1)
    critical = max(normal, float(np.quantile(largest, 1 - level, method="higher")))
    low, high = tango(b, c, clips, normal)
    lower, upper = np.minimum(lower, low), np.maximum(upper, high)
    low, high = tango(b, c, clips, critical)
    band_lower = np.minimum(np.minimum(mean - critical * errors, low), lower)
    band_upper = np.maximum(np.maximum(mean + critical * errors, high), upper)
    return Intervals(lower, upper, np.maximum(band_lower, -1), np.minimum(band_upper, 1), critical)


def _by_group(differences: Array, groups: Array) -> tuple[Array, Array]:
    """Return how many clips each group has, `(groups,)`, and their sums, `(groups, columns)`."""
    count = int(groups.max()) + 1
    sums = np.zeros((count, differences.shape[1]))
    np.add.at(sums, groups, differences)
    return np.bincount(groups, minlength=count).astype(float), sums
