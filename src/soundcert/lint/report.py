"""What any report comes down to: fields that say where they stand, curves, and rows of radii."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from soundcert.lint.numbers import Number

if TYPE_CHECKING:
    from numpy import ndarray

RADII = ("radius", "median_radius", "mean_radius", "max_radius")
_SCALES = ("snr", "median_snr", "norm_ratio", "signal_scale", "file_snr")
#: Under which name (`word_rules.asked`) several fields are asked for.
ASKED_AS = {
    **dict.fromkeys((*RADII, "radii"), "raw_radius"),
    **dict.fromkeys(_SCALES, "signal_scale"),
    "confidence": "alpha",
}


@dataclass(frozen=True)
class Place:
    """Where something stands: the file as it was given, and the line if there are lines."""

    file: str
    line: int | None = None


@dataclass(frozen=True)
class Stated:
    """One field of a report: its name here, the label and text as written, and its number if it is one."""

    name: str
    label: str
    text: str
    place: Place
    number: Number | None = None
    unit: str = ""


@dataclass(frozen=True)
class Point:
    """Certified accuracy at a radius."""

    radius: Number
    accuracy: Number
    place: Place


@dataclass(frozen=True)
class Rows:
    """One row a clip. Arrays of one length; what a row does not have is NaN, -1 or ''.

    radius, step (a unit of the printed digit), abstained (said to be), predicted and label (as written),
    correct (1, 0, or -1 for not given), line. ceiling: the largest radius that the row's own n and α
    allow. recomputed: the radius that the row's counts give. snr, norm: the row's own. certified: said to be, in
    a column of outcomes.
    """

    place: Place
    radius: ndarray
    step: ndarray
    abstained: ndarray
    predicted: list[str]
    label: list[str]
    correct: ndarray
    line: ndarray
    index: list[str] = field(default_factory=list)
    ceiling: ndarray | None = None
    recomputed: ndarray | None = None
    snr: ndarray | None = None
    norm: ndarray | None = None
    certified: ndarray | None = None

    def __len__(self) -> int:
        return len(self.radius)


@dataclass(frozen=True)
class Result:
    """One result of a report: a data set, contract or σ with its figures. name: '' where there is one only.

    again: fields that were stated twice, differently. own: whether it is soundcert's own form.
    """

    name: str
    fields: Mapping[str, Stated]
    curve: tuple[Point, ...] = ()
    rows: Rows | None = None
    again: tuple[Stated, ...] = ()
    own: bool = False

    def number(self, *names: str) -> Number | None:
        """Return the first of these fields that is a finite number."""
        for name in names:
            found = self.fields.get(name)
            if found and found.number and found.number.finite:
                return found.number
        return None

    def text(self, *names: str) -> str:
        """Return what these fields say, in lower case."""
        return " ; ".join(self.fields[n].text for n in names if n in self.fields).lower()

    @property
    def nothing_certified(self) -> bool:
        """Whether no clip has a radius above 0, as far as is said: then there is no level beside the signal."""
        if any((found := self.number(n)) and found.value > 0 for n in RADII):
            return False
        if any(p.radius.value > 0 and p.accuracy.value > 0 for p in self.curve):
            return False
        if self.rows is not None:
            return not bool(((self.rows.radius > 0) & ~self.rows.abstained).any())
        # The medians of ours are over certified and correct clips.
        zero = ("certified", *(("median_radius", "smoothed_accuracy") if self.own else ()))
        return any((found := self.number(n)) is not None and found.value == 0 for n in zero)

    def says(self, name: str) -> bool:
        """Whether what every report is asked for (`word_rules.asked`) is stated, under whichever name."""
        rows = self.rows
        if name == "raw_radius":
            stated = any(n in self.fields for n in (*RADII, "radii")) or rows is not None or bool(self.curve)
            return stated or self.nothing_certified
        if name == "signal_scale":
            return any(n in self.fields for n in _SCALES) or self.nothing_certified
        if name == "alpha":
            return "alpha" in self.fields or "confidence" in self.fields
        if name == "interval" and self.own and "smoothed_accuracy" not in self.fields:
            return True  # of clips without labels there is no accuracy that it could be of
        if name == "unit":
            units = (self.fields[n].unit for n in ("sigma", *RADII, "radii") if n in self.fields)
            return "unit" in self.fields or any(units)
        if name == "clips":
            return "clips" in self.fields or rows is not None
        if name == "abstained":
            by_rows = rows is not None and bool(any(rows.predicted) or rows.abstained.any())
            return "abstained" in self.fields or by_rows
        return name in self.fields


@dataclass(frozen=True)
class Report:
    """A report read. form: which reader read it.

    unread: labels that no field is known for, and lines that were not read and may state what is asked for.
    passed: where words of a field (as `word_rules.asked` names it) first stand in text that was not read.
    partly: whether lines of text were passed over.
    """

    place: Place
    form: str
    results: tuple[Result, ...]
    unread: tuple[str, ...] = ()
    passed: Mapping[str, Place] = field(default_factory=dict)
    partly: bool = False

    def has(self, *names: str) -> bool:
        return any(n in r.fields for r in self.results for n in names)
