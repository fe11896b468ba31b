"""The certified-accuracy curve as data: which share of the clips is certified against how strong an attacker.

Conventions
-----------
An attacker's strength is an x on an *axis*: a length (raw radius, R/σ, ...), where larger is stronger, or a
ratio in decibels (SNR-equivalent, norm ratio), where *smaller* is stronger. A clip counts at x if it was
certified, with its own label where labels are known, and its own value on the axis is at least as strong as x.
Abstentions and wrong labels count as wrong; clips that could not be read, and clips without a label among
labelled ones, are in no share. A clip without a value on an axis is certified at no x of it.

Intervals are those of `bounds.accuracy_interval`: each holds at one x that was chosen before the counts were
seen, and not for the whole curve. Where a budget shared the draws out, clips are not independent: no interval.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from soundcert.bounds import accuracy_interval
from soundcert.report.terminal import VIEWS
from soundcert.runs import Run
from soundcert.runs.summary import CONFIDENCE_ALPHA, copies, tied

_GRID = 40
_WIDEST_DB, _NARROWEST_DB = 60.0, 20.0
_MOST_INTERVALS = 400
_RADIUS = "radius"


@dataclass(frozen=True)
class Axis:
    """What a strength is measured in. `falling`: a smaller value is a stronger attacker (ratios in dB)."""

    name: str
    title: str
    unit: str
    falling: bool


@dataclass(frozen=True)
class Point:
    """How many clips are certified at x, and the interval for the population's share (None: there is none)."""

    x: float
    count: int
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Curve:
    """One axis.

    strengths: the certified clips' own values from weak to strong (signs turned on a falling axis); infinite
    where a certificate has no limit. total: the clips that shares are of. grid: chosen points, with intervals.
    ceiling: the values that the Monte-Carlo ceiling has on this axis, from weak to strong, over the clips; None
    where it cannot be told. domain: the x from which to which the curve is worth drawing, weak to strong.
    """

    axis: Axis
    total: int
    strengths: tuple[float, ...]
    grid: tuple[Point, ...]
    ceiling: tuple[float, float] | None
    domain: tuple[float, float]

    def count_at(self, x: float) -> int:
        """Return how many clips are certified against every attacker of strength x or weaker."""
        return len(self.strengths) - bisect_left(self.strengths, -x if self.axis.falling else x)

    @cached_property
    def steps(self) -> tuple[tuple[float, int], ...]:
        """The corners: up to and including x, `count` clips are certified. From weak to strong."""
        out: list[tuple[float, int]] = []
        for i, s in enumerate(self.strengths):
            if math.isfinite(s) and (i == 0 or s != self.strengths[i - 1]):
                out.append((-s if self.axis.falling else s, len(self.strengths) - i))
        return tuple(out)

    @property
    def unlimited(self) -> int:
        """How many clips are certified without limit."""
        return sum(math.isinf(s) for s in self.strengths)


class Intervals:
    """`accuracy_interval` for counts out of `total`, each computed once; None where there is none."""

    def __init__(self, total: int, alpha: float | None, copies: int = 0) -> None:
        self.total, self._alpha, self._copies = total, alpha, copies
        self._known: dict[int, tuple[float, float]] = {}

    def at(self, count: int) -> tuple[float, float] | None:
        if self._alpha is None or not self.total:
            return None
        if count not in self._known:
            self._known[count] = accuracy_interval(
                count, self.total, CONFIDENCE_ALPHA, self._alpha, self._copies
            )
        return self._known[count]

    def band(self, counts: Sequence[int]) -> list[tuple[float, float]] | None:
        """Return the interval of each count; among very many, one that holds those of its neighbours too."""
        if self._alpha is None or not self.total:
            return None
        distinct = sorted(set(counts))
        every = max(1, math.ceil(len(distinct) / _MOST_INTERVALS))
        chosen = sorted({*distinct[::every], *distinct[-1:]})
        out = []
        for count in counts:
            low = self.at(chosen[bisect_right(chosen, count) - 1])
            high = self.at(chosen[bisect_left(chosen, count)])
            assert low and high
            out.append((low[0], high[1]))
        return out


def intervals_of(run: Run) -> Intervals:
    """Return the intervals for this run's curves."""
    counted = _counted(run)
    alphas = [r["alpha"] for r in counted]
    free = tied(counted) is None
    return Intervals(len(counted), max(alphas) if alphas and free else None, copies(counted))


def curves(run: Run, intervals: Intervals | None = None) -> list[Curve]:
    """Return the curve on every axis that this run has; the raw radius comes first, and is always there."""
    intervals = intervals or intervals_of(run)
    total = len(_counted(run))
    unit = str(run.contract.get("unit") or "the object's own unit")
    out = [_radius_curve(run, Axis(_RADIUS, "raw radius", unit, False), total, intervals)]
    for name, (title, dimension, falling) in VIEWS.items():
        if any(name in r["views"] for r in run.good):
            axis = Axis(name, title, dimension, falling)
            out.append(_view_curve(run, axis, total, intervals))
    return out


def _counted(run: Run) -> list[Mapping[str, Any]]:
    labelled = [r for r in run.usable if r.get("truth") is not None]
    return labelled or list(run.usable)


def _good(run: Run) -> list[Mapping[str, Any]]:
    """Return the successes among the counted clips."""
    return [r for r in _counted(run) if r["status"] == "certified" and r.get("truth") in (None, r["label"])]


def _radius_curve(run: Run, axis: Axis, total: int, intervals: Intervals) -> Curve:
    strengths = sorted(r["radius"] for r in _good(run))
    ceilings = [r["ceiling"] for r in run.usable]
    asked = sorted({x for r in run.usable for x in r.get("radii") or ()})
    top = max([*strengths, *ceilings, *asked], default=0.0) or 1.0
    xs = asked or nice_grid(0.0, top)
    span = (min(ceilings), max(ceilings)) if ceilings else None
    return _curve(axis, total, strengths, xs, span, (0.0, 1.04 * top), intervals)


def _view_curve(run: Run, axis: Axis, total: int, intervals: Intervals) -> Curve:
    # null means without limit. A radius of 0 has no level, and so no such view.
    found = [(r, r["views"][axis.name]) for r in _good(run) if axis.name in r["views"]]
    sign = -1.0 if axis.falling else 1.0
    strengths = sorted(math.inf if value is None else sign * value for _, value in found)
    at_ceiling = [
        shifted
        for r, value in found
        if value is not None and (shifted := _at_ceiling(axis, value, r)) is not None
    ]
    span = None
    if at_ceiling and len(at_ceiling) == len(found):
        span = (max(at_ceiling), min(at_ceiling)) if axis.falling else (min(at_ceiling), max(at_ceiling))
    finite = [s for s in strengths if math.isfinite(s)]
    edges = [*finite, *(sign * x for x in span or ())]
    strongest = max(edges, default=1.0)
    if "dB" in axis.unit:
        weakest = max(min(edges, default=0.0), strongest - _WIDEST_DB)
        weakest = min(weakest, strongest - _NARROWEST_DB)
        room = max(1.0, 0.04 * (strongest - weakest))
        low, high = weakest - room, strongest + room
    else:
        low, high = 0.0, 1.04 * (strongest or 1.0)
    xs = [sign * x for x in nice_grid(low, high)]
    return _curve(axis, total, strengths, xs, span, (sign * low, sign * high), intervals)


def _at_ceiling(axis: Axis, value: float, record: Mapping[str, Any]) -> float | None:
    """Return what the view would be at the record's ceiling, where it is a fixed function of the radius."""
    ratio = record["ceiling"] / record["radius"] if record["radius"] else 0.0
    if ratio <= 0:
        return None
    if axis.name == "r_over_sigma":
        return float(value * ratio)
    if axis.name in ("snr_db", "norm_ratio_db", "burst_20ms_db"):
        return float(value + 20 * math.log10(ratio) * (-1 if axis.falling else 1))
    return None


def _curve(
    axis: Axis,
    total: int,
    strengths: Sequence[float],
    xs: Sequence[float],
    ceiling: tuple[float, float] | None,
    domain: tuple[float, float],
    intervals: Intervals,
) -> Curve:
    bare = Curve(axis, total, tuple(strengths), (), ceiling, domain)
    grid = tuple(Point(x, (n := bare.count_at(x)), intervals.at(n)) for x in xs)
    return Curve(axis, total, tuple(strengths), grid, ceiling, domain)


def nice_step(span: float, about: int) -> float:
    """Return a step of 1, 2, 2.5 or 5 times a power of ten that cuts `span` into about so many parts."""
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    return power * min((1, 2, 2.5, 5, 10), key=lambda m: abs(math.log(m * power / raw)))


def nice_grid(low: float, high: float, about: int = _GRID) -> list[float]:
    """Return round numbers from low to high, as they are written in decimal."""
    if not high > low:
        return [low]
    step = nice_step(high - low, about)
    number: Callable[[int], float] = lambda k: float(f"{k * step:.12g}")  # noqa: E731
    return [number(k) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
