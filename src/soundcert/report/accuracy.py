"""Certified accuracy by radius and by SNR, and what it is over, for the forms that are tables and text.

Conventions
-----------
Text is plain Unicode, and each form escapes it in its own way. U+00A0 joins a number to its unit and U+202F
parts thousands. Radii and lower ends are rounded down, decibels of a ratio and upper ends up, shares down.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath, PureWindowsPath
from typing import Any

from soundcert.bounds import format_down
from soundcert.report.curve import Curve, Intervals, curves, intervals_of
from soundcert.report.shares import percent, percents
from soundcert.runs import Run
from soundcert.runs.summary import SNR_GRID

#: Axes that a table of certified accuracy has, and how each is read.
TABLE_AXES = {
    "radius": "Raw radius R: perturbations of norm below R",
    "snr_db": "SNR-equivalent of the object: perturbations at this SNR or quieter",
    "file_snr_db": "SNR of the file, proven: perturbations at this SNR or quieter",
}


@dataclass(frozen=True)
class Row:
    """Clips certified against attackers up to a level. interval: outward, of the share (None: there is none)."""

    level: str
    value: float
    count: int
    total: int
    interval: tuple[float, float] | None

    @property
    def share(self) -> float:
        return self.count / self.total

    def interval_text(self) -> str:
        return "none" if self.interval is None else " to ".join(joined(p) for p in percents(self.interval))


def joined(text: str) -> str:
    """A number, with the sign that numbers have, and its unit, kept on one line."""
    return re.sub(r"^-(?=\d)", "−", text).replace(" ", "\u00a0")


def grouped(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def labelled(run: Run) -> bool:
    return any(r.get("truth") is not None for r in run.usable)


def share_name(run: Run) -> str:
    """What a share of certified clips is called: without labels it is no accuracy."""
    return "certified accuracy" if labelled(run) else "certified share (no labels)"


def policy_of(run: Run) -> str:
    """The run's sampling policy: fixed, decide, estimate or budget."""
    named = next((name for name in ("decide", "estimate", "budget") if run.certify.get(name)), None)
    return named or next((str(r["policy"]) for r in run.usable if "policy" in r), "fixed")


def counted_good(run: Run) -> Sequence[Any]:
    """The clips that the summary's medians are over: certified, and correct where any clip has a label."""
    return [r for r in run.good if r.get("truth") is not None] if labelled(run) else run.good


def accuracy_rows(run: Run) -> dict[str, list[Row]]:
    """Return certified accuracy by radius, and by SNR where there is one, by the axis's name.

    Radii are multiples of σ/2 up to the first that no clip can reach, or those asked about under `decide`.
    Empty where no clip could be used.
    """
    intervals = intervals_of(run)
    return {
        c.axis.name: _rows(run, c, intervals)
        for c in curves(run, intervals)
        if c.axis.name in TABLE_AXES and c.total
    }


def _rows(run: Run, curve: Curve, intervals: Intervals) -> list[Row]:
    if curve.axis.name == "radius":
        asked = sorted({x for r in run.usable for x in r.get("radii") or ()})
        points = [(_below(x), x) for x in asked or _half_sigmas(run)]
    else:
        asked, points = [], [(str(s), float(s)) for s in SNR_GRID]
    out = []
    for text, value in points:
        count = curve.count_at(value)
        interval = intervals.at(count)
        out.append(Row(text, value, count, curve.total, interval))
        if not count and not asked:
            break
    return out


def _below(x: float) -> str:
    """Write a radius in six digits, not rounded up: what was counted at x holds there too."""
    text = f"{x:.6g}"
    return text if float(text) <= x else format_down(x, significant=6)


def _half_sigmas(run: Run) -> list[float]:
    sigma = float(run.usable[0]["sigma"])
    top = max(r["ceiling"] for r in run.usable)
    within = [k * sigma / 2 for k in range(0, 40) if k * sigma / 2 <= top]
    return [*within, len(within) * sigma / 2] if len(within) < 40 else within


def some_warnings(run: Run, most: int) -> list[str]:
    """The run's warnings, and how many more there are."""
    more = len(run.warnings) - most
    return [*run.warnings[:most], *([f"and {more} more warnings"] if more > 0 else [])]


def data_name(run: Run) -> str:
    """The data set's name: its source's, or the last part of the folder or manifest that the user named."""
    data = run.config.get("data") or {}
    source = str(data.get("source") or "")
    known = {"speech_commands": "Speech Commands", "esc10": "ESC-10", "esc50": "ESC-50"}
    if source in known:
        return known[source]
    root = PurePath(PureWindowsPath(str(data.get("root") or "")).as_posix()).name
    return f"{source} {root}".strip() or "not recorded"


def said(run: Run, key: str) -> str:
    """A field of the contract, or that it is not recorded."""
    value = run.contract.get(key)
    return "not recorded" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def over(run: Run) -> str:
    """The clips that medians are over."""
    good = counted_good(run)
    kind = "certified and correct clips" if labelled(run) else "certified clips"
    return f"the {grouped(len(good))} {kind}"


def figure(row: Row) -> str:
    text = f"{grouped(row.count)}/{grouped(row.total)} ({joined(percent(row.count, row.total))}"
    return text + (f"; 95\u00a0% interval {row.interval_text()})" if row.interval else ")")
