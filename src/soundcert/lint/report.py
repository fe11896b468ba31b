"""What any report comes down to: fields that say where they stand, curves, and rows of radii."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from soundcert.lint.numbers import Number

if TYPE_CHECKING:
    from numpy import ndarray


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
    allow. recomputed: the radius that the row's counts give. snr, norm: the row's own.
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


@dataclass(frozen=True)
class Report:
    """A report read. form: which reader read it. unread: labels that no field is known for."""

    place: Place
    form: str
    results: tuple[Result, ...]
    unread: tuple[str, ...] = ()

    def has(self, *names: str) -> bool:
        return any(n in r.fields for r in self.results for n in names)
