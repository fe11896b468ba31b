"""What a comparison holds: plain values, for whoever prints or draws it.

Conventions
-----------
Runs are called A, B, C … in the order given. Shares and differences are fractions of the common clips. On
the axis `snr_db` a smaller value is the stronger statement, on the axis `radius` a larger one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from soundcert.bounds import format_down, format_up

Axis = Literal["snr_db", "radius"]


@dataclass(frozen=True)
class Reason:
    """Why a ranking would mislead. remedy: what to do about it; empty where nothing helps."""

    id: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Caveat:
    """What to keep in mind. loud: no figure should be quoted without it."""

    id: str
    text: str
    loud: bool = False


@dataclass(frozen=True)
class Fact:
    """One property of each run. decides: a difference in it makes a ranking mislead in this space."""

    name: str
    values: tuple[str, ...]
    decides: bool

    @property
    def same(self) -> bool:
        return len(set(self.values)) == 1


@dataclass(frozen=True)
class StageRow:
    """One stage of the pipelines, merged in their order. present: whether each run has it."""

    place: Literal["above", "noise", "below"]
    stage: str
    present: tuple[bool, ...]

    @property
    def same(self) -> bool:
        return all(self.present)


@dataclass(frozen=True)
class LeftOut:
    """Clips of a run that are not compared, and why."""

    why: str
    count: int
    clips: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """One run, over the clips that all runs have.

    curve: share of the common clips certified with their own label, by its `axis` in `unit`: the comparison's
    where it ranks, else the run's own. radii_from: where the levels come from. at_ceiling: correct ones at the run's
    largest radius, which under `decide` is the largest `asked` about.
    """

    letter: str
    name: str
    path: str
    clips: int
    certified: int
    correct: int
    at_ceiling: int
    axis: Axis
    unit: str
    curve: tuple[tuple[float, float], ...]
    radii_from: str
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    asked: bool = False

    @property
    def at_most(self) -> str:
        """How many stand at the run's largest radius, in words that follow the count of the correct ones; or nothing."""
        if not self.at_ceiling:
            return ""
        return f"; {self.at_ceiling} of these at the {'largest radius asked about' if self.asked else 'Monte-Carlo ceiling'}"


@dataclass(frozen=True)
class Difference:
    """The first run's share less the second's on the same clips. at: the point of the axis, None for the label alone.

    Counts: certified by both, by one alone, by neither. first_limited: of the clips that the second alone
    certifies, those that the first certifies at its ceiling, where n limits it and not the model;
    second_limited the other way round. interval holds for this difference, band for all of the comparison at
    once; p_value is McNemar's, p_holm the same corrected for all tests. None where clips are not independent.
    """

    at: float | None
    both: int
    first_only: int
    second_only: int
    neither: int
    first_limited: int
    second_limited: int
    interval: tuple[float, float] | None
    band: tuple[float, float] | None
    p_value: float | None
    p_holm: float | None
    level: float

    @property
    def clips(self) -> int:
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def first_share(self) -> float:
        return (self.both + self.first_only) / self.clips

    @property
    def second_share(self) -> float:
        return (self.both + self.second_only) / self.clips

    @property
    def difference(self) -> float:
        return (self.first_only - self.second_only) / self.clips

    @property
    def shown(self) -> bool:
        """Whether the data show a difference: Holm's p is at most `level`, and the band leaves out 0."""
        if self.band is None or self.p_holm is None:
            return False
        return self.p_holm <= self.level and (self.band[0] > 0 or self.band[1] < 0)


@dataclass(frozen=True)
class ClipDifference:
    """One clip under both runs. first, second: its level on the axis, None where it is not certified as its label.

    gap: how much more the first certifies, in the axis's unit; without a value where one run alone certifies.
    """

    clip: str
    truth: str
    first: float | None
    second: float | None
    gap: float | None


@dataclass(frozen=True)
class Pair:
    """Two runs on the common clips. accuracy: labels alone. points: along the axis; empty where no ranking is shown.

    first_more, second_more: the clips on which one run certifies most beyond the other.
    """

    first: str
    second: str
    accuracy: Difference | None
    points: tuple[Difference, ...]
    first_more: tuple[ClipDifference, ...]
    second_more: tuple[ClipDifference, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side. `print` it; `to_dict` for machines.

    comparable: whether the curves may be ranked; if not, `reasons` says why and `pairs` holds what can be shown
    nonetheless. space: where the perturbation is added. grid: the points of the axis.
    """

    comparable: bool
    space: str
    space_words: str
    axis: Axis
    unit: str
    grid: tuple[float, ...]
    common: int
    groups: int
    grouped_by: str
    reasons: tuple[Reason, ...]
    caveats: tuple[Caveat, ...]
    facts: tuple[Fact, ...]
    stages: tuple[StageRow, ...]
    sides: tuple[Side, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    resamples: int
    seed: int
    level: float
    tests: int

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values; a level without limit is the text "inf" or "-inf"."""
        out = _json({"format": 1, **asdict(self)})
        assert isinstance(out, dict)
        for facts, fact in zip(out["facts"], self.facts, strict=True):
            facts["same"] = fact.same
        for row, stage in zip(out["stages"], self.stages, strict=True):
            row["same"] = stage.same
        for values, pair in zip(out["pairs"], self.pairs, strict=True):
            if pair.accuracy is not None:
                values["accuracy"] |= _shares(pair.accuracy)
                values["accuracy"]["sentence"] = sentence(pair, pair.accuracy, self)
            for point, difference in zip(values["points"], pair.points, strict=True):
                point.update(_shares(difference), sentence=sentence(pair, difference, self))
        return out

    def __str__(self) -> str:
        from soundcert.compare.terminal import as_text

        return as_text(self)


def _shares(d: Difference) -> dict[str, Any]:
    return {
        "first_share": d.first_share,
        "second_share": d.second_share,
        "difference": d.difference,
        "shown": d.shown,
    }


def _json(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return "-inf" if value < 0 else "inf"
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate is not UTF-8
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    return value


def level_words(at: float, axis: Axis, unit: str) -> str:
    """Write a point of the axis: decibels and radii as they were asked for."""
    return f"{at:g} dB" if axis == "snr_db" else f"radius {at:g}{f' {unit}' if unit else ''}"


def points(value: float) -> str:
    """A difference in points of a hundred, to nearest, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def ends(interval: tuple[float, float]) -> tuple[str, str]:
    """The ends of an interval in points, rounded outward."""
    low = format_down(100 * interval[0], decimals=1)
    high = format_up(100 * interval[1], decimals=1)
    return low.replace("-", "−"), high.replace("-", "−")


def p_words(p: float) -> str:
    """A p-value, rounded up, but for the last digits of a sum of binomial terms: ½ must not read as 0.51."""
    return "< 0.0001" if p < 0.0001 else format_up(p * (1 - 1e-9), significant=2)


def sentence(pair: Pair, d: Difference, comparison: Comparison) -> str:
    """Say one difference in words: never that a run is better, and always with its uncertainty."""
    where = "" if d.at is None else f" at {level_words(d.at, comparison.axis, comparison.unit)}"
    what = "certifies the true label of" if d.at is None else "certifies"
    if d.interval is None or d.band is None or d.p_value is None or d.p_holm is None:
        return (
            f"{pair.first} {what} {100 * d.first_share:.1f} % of clips, {pair.second} {100 * d.second_share:.1f} %{where}, "
            f"on these {d.clips} clips; nothing is said beyond them"
        )
    confidence = f"{100 * (1 - d.level):g} %"
    low, high = ends(d.interval)
    band_low, band_high = ends(d.band)
    seen = (
        f"{confidence} interval {low} to {high}, all together {band_low} to {band_high}; "
        f"McNemar p = {p_words(d.p_value)}, Holm {p_words(d.p_holm)}"
    ).replace("= <", "<")
    if not d.shown:
        gap = points(d.difference)
        return f"no difference shown{where}: {pair.first} − {pair.second} = {gap} points ({seen})"
    more, less = (pair.first, pair.second) if d.difference > 0 else (pair.second, pair.first)
    sign = "" if d.difference > 0 else f"; the interval is of {pair.first} − {pair.second}"
    return f"{more} {what} {100 * abs(d.difference):.1f} points more clips than {less}{where} ({seen}{sign})"
