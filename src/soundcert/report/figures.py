"""The certified-accuracy curve as a figure for a paper: SVG with real text, or PDF.

Black on white, readable in grey. The curve is the exact staircase of the counts; among more than 1000 corners the
figure leaves some out, always toward the smaller share. The same run gives the same bytes with one version of
matplotlib: no date, no random identifiers, and none of the user's own matplotlib settings.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from typing import Any, Literal

from soundcert.errors import RunError
from soundcert.report.accuracy import counted_good, grouped, labelled, policy_of, share_name, some_warnings
from soundcert.report.curve import Curve, Intervals, curves, intervals_of
from soundcert.report.forms import optional
from soundcert.report.words import visible
from soundcert.runs import Run
from soundcert.runs.summary import tied

_MOST_CORNERS = 1000
#: Settings of every figure: real text in SVG, no dates, no random identifiers.
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "soundcert",
    "pdf.fonttype": 42,
    "pdf.compression": 6,
}


def figure(run: Run, kind: Literal["svg", "pdf"]) -> bytes:
    """Draw certified accuracy by raw radius and, where there is one, by SNR."""
    matplotlib = optional("matplotlib", kind, "figures")
    drawing = optional("matplotlib.figure", kind, "figures")
    intervals = intervals_of(run)
    found = {c.axis.name: c for c in curves(run, intervals)}
    if not found["radius"].total:
        raise RunError(f"{run.path} has no clip that could be used: there is no curve to draw")
    levels = [found[name] for name in ("snr_db", "file_snr_db") if name in found]
    out = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about signs that the font does not have: they are drawn as boxes
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        width = 6.8 if levels else 3.6
        notes = _notes(run, intervals, 118 if levels else 62)
        height = 2.8 + 0.14 * len(notes)
        image = drawing.Figure(figsize=(width, height))
        panels = image.subplots(1, 2 if levels else 1, squeeze=False)[0]
        _panel(panels[0], [found["radius"]], intervals, run)
        panels[0].set_xlabel(f"raw radius ({_plain(found['radius'].axis.unit)})", parse_math=False)
        panels[0].set_ylabel(share_name(run))
        if levels:
            _panel(panels[1], levels, intervals, run)
            panels[1].set_xlabel("perturbation's SNR (dB); louder to the right")
        image.subplots_adjust(
            left=0.08 if levels else 0.15,
            right=0.985,
            top=0.9,
            bottom=(0.5 + 0.14 * len(notes)) / height,
            wspace=0.16,
        )
        title = f"{run.contract.get('kind', 'no contract')}: {run.contract.get('certified_object', '')}"
        image.text(0.01, 0.985, _plain(title), va="top", weight="bold", parse_math=False)
        image.text(0.01, 0.01, "\n".join(notes), va="bottom", fontsize=6.5, parse_math=False)
        # What a None is given for is left out: dates, and the version of what drew it.
        about: dict[str, Any] = {"Title": _plain(f"soundcert: {title}"), "Creator": None}
        about |= {"Date": None} if kind == "svg" else {"CreationDate": None, "Producer": None}
        image.savefig(out, format=kind, metadata=about)
    return out.getvalue()


def _panel(axes: Any, found: list[Curve], intervals: Intervals, run: Run) -> None:
    falling = found[0].axis.falling
    weak = max(c.domain[0] for c in found) if falling else min(c.domain[0] for c in found)
    strong = min(c.domain[1] for c in found) if falling else max(c.domain[1] for c in found)
    for number, curve in enumerate(found):
        xs, counts = staircase(curve, weak, strong)
        total = curve.total
        band = intervals.band(counts)
        if band:
            low, high = [b[0] for b in band], [b[1] for b in band]
            if number == 0:
                axes.fill_between(xs, low, high, color="0.85", linewidth=0, label="pointwise 95 % interval")
            else:
                for edge in (low, high):
                    axes.plot(xs, edge, color="0.55", linewidth=0.6, linestyle=":")
        names = {"snr_db": "certified object (SNR-equivalent)", "file_snr_db": "file (proven)"}
        axes.plot(
            xs,
            [n / total for n in counts],
            color="black" if number == 0 else "0.35",
            linewidth=1.2,
            linestyle="-" if number == 0 else (0, (4, 1.5)),
            label=names.get(curve.axis.name, share_name(run)),
        )
        if curve.ceiling:
            _ceiling(axes, curve, asked=policy_of(run) == "decide")
    axes.set_xlim(weak, strong)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    many = found[0].count_at(weak) > found[0].total / 2
    axes.legend(
        loc="lower left" if many else "upper right",
        frameon=True,
        framealpha=0.85,
        edgecolor="none",
        fontsize=6.5,
    )


def _ceiling(axes: Any, curve: Curve, *, asked: bool) -> None:
    assert curve.ceiling
    name = "largest radius asked about" if asked else "Monte-Carlo ceiling"
    line = {"color": "0.2", "linewidth": 0.8, "linestyle": "-."}
    low, high = sorted(curve.ceiling)
    if math.isclose(low, high, rel_tol=1e-3):
        axes.axvline(curve.ceiling[1], label=name, **line)
        return
    axes.axvspan(
        low, high, facecolor="none", edgecolor="0.8", hatch="///", linewidth=0, label=f"{name}s of the clips"
    )


def staircase(curve: Curve, weak: float, strong: float) -> tuple[list[float], list[int]]:
    """Return the curve's corners from weak to strong: a vertical step wherever a clip's certificate ends."""
    steps = curve.steps
    every = max(1, math.ceil(len(steps) / _MOST_CORNERS))
    # Counting from the strongest, so that a corner left out gives the smaller share of the next one.
    chosen = steps[::-1][::every][::-1]
    sign = -1.0 if curve.axis.falling else 1.0
    inside = [(x, n) for x, n in chosen if sign * x > sign * weak]
    left = curve.unlimited
    xs, counts = [weak], [inside[0][1] if inside else left]
    for number, (x, n) in enumerate(inside):
        after = inside[number + 1][1] if number + 1 < len(inside) else left
        xs += [x, x]
        counts += [n, after]
    return [*xs, strong], [*counts, counts[-1]]


def _notes(run: Run, intervals: Intervals, width: int) -> list[str]:
    settings = run.certify
    first = run.usable[0]
    n = settings.get("n", first["n"])
    right = " and correct" if labelled(run) else ""
    said = (
        f"σ = {first['sigma']:g}, {'n' if policy_of(run) == 'fixed' else 'at most n'} = {grouped(int(n))}, "
        f"α = {first['alpha']:g}, policy {policy_of(run)}. {grouped(len(counted_good(run)))} of "
        f"{grouped(intervals.total)} clips are certified{right}; abstentions are not. "
    )
    said += (
        f"No intervals: {reason}."
        if (reason := tied(run.usable))
        else "Each 95 % interval holds at one x chosen beforehand, not for the whole curve."
    )
    out = textwrap.wrap(said, width)
    for warning in some_warnings(run, 8):
        out += textwrap.wrap(f"Warning: {_plain(warning)}", width)
    return out


def _plain(text: str) -> str:
    """Text for one line of a figure; what lies beyond the basic plane is named by its number."""
    return "".join(c if ord(c) < 0x10000 else f"[U+{ord(c):X}]" for c in visible(text))
