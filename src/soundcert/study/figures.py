"""The study's picture: certified accuracy by the SNR of the perturbation, one line a contract, with its band."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping
from typing import Any

from soundcert.report.figures import STYLE
from soundcert.report.forms import optional

Results = Mapping[str, Any]
#: Colour, line and mark together, so that a line is known in grey and by colour-blind people (Okabe and Ito).
_LOOKS = (("#0072B2", "-", "o"), ("#D55E00", "--", "s"), ("#009E73", "-.", "^"), ("#CC79A7", ":", "D"))


def curves_svg(results: Results, data: str) -> str:
    """Return an SVG of a data set's certified accuracy at the targets, by the cells that validation clips chose.

    MissingDependencyError without matplotlib.
    """
    matplotlib = optional("matplotlib", "svg", "figures")
    drawing = optional("matplotlib.figure", "svg", "figures")
    reached = [r for r in results["targets_reached"] if r["data"] == data]
    out = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        image = drawing.Figure(figsize=(6.4, 4.0))
        axes = image.subplots()
        for number, r in enumerate(reached):
            colour, line, mark = _LOOKS[number % len(_LOOKS)]
            levels = [float(t) for t in r["per_target"]]
            points = list(r["per_target"].values())
            ends = [
                p["interval_95"] or (math.nan, math.nan) for p in points
            ]  # no band where there is no interval
            axes.fill_between(
                levels,
                [low for low, _ in ends],
                [high for _, high in ends],
                color=colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
            axes.plot(
                levels,
                [p["count"] / p["total"] for p in points],
                color=colour, linestyle=line, marker=mark, markersize=3.5, linewidth=1.3,
                label=f"{r['pipeline']}: chosen for each target",
            )  # fmt: skip
            axes.plot(
                levels,
                [p["count"] / p["total"] for p in r["one_model"].values()],
                color=colour, linestyle=line, linewidth=0.8, alpha=0.7,
                label=f"{r['pipeline']}: one model for all targets",
            )  # fmt: skip
        axes.invert_xaxis()
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("SNR of the perturbation in the file (dB); louder to the right")
        axes.set_ylabel("certified accuracy")
        axes.grid(color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.legend(loc="lower left", frameon=True, framealpha=0.85, edgecolor="none", fontsize=6.5)
        total = reached[0]["per_target"][next(iter(reached[0]["per_target"]))]["total"]
        about = results["data"][data]
        some = any(p["interval_95"] for r in reached for p in r["per_target"].values())
        holds = "; each 95 % interval holds at one target chosen beforehand" if some else ""
        note = (
            f"{about['title']}, {total} testing clips, α = {reached[0]['alpha']:g}. {about['note']} Points are measured, "
            f"lines between them only guide the eye{holds}."
        )
        lines = textwrap.wrap(note, 118)
        image.subplots_adjust(left=0.09, right=0.985, top=0.97, bottom=0.14 + 0.033 * len(lines))
        image.text(0.01, 0.01, "\n".join(lines), va="bottom", fontsize=6.5)
        image.savefig(
            out, format="svg", metadata={"Title": f"soundcert: {data}", "Creator": None, "Date": None}
        )
    return out.getvalue()
