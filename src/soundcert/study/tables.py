"""A study's tables: rows of text, made from the collected results, for Markdown and LaTeX alike.

Shares and lower ends are rounded down, upper ends and decibels of a ratio up. No table ranks a raw radius or a norm
ratio of features against an SNR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soundcert.bounds import format_down, format_up
from soundcert.report.shares import percent, percent_of, percents
from soundcert.report.words import duration

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table with its caption. The first `left` columns are text, the others numbers."""

    name: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def tables(results: Results) -> list[Table]:
    """Return every table that the results fill, in the order of the page."""
    out = []
    for block, cells in blocks(results).items():
        tested = [c for c in cells if "testing" in c]
        if tested and not any("validation_share_at_target" in c for c in cells):
            out += [_figures(results, block, tested), _radii(results, block, tested)]
    for reached in results["targets_reached"]:
        out.append(_targets(results, reached))
    out += [t for data in results["data"] if (t := _validation(results, data))]
    out.append(_cost(results))
    return out


def blocks(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    """Return the cells by block, in the order of the grid."""
    out: dict[str, list[Mapping[str, Any]]] = {}
    for cell in results["cells"]:
        out.setdefault(cell["block"], []).append(cell)
    return out


def varied(cell: Mapping[str, Any]) -> str:
    """What sets a cell apart from others of its data set and pipeline."""
    values = ", ".join(
        f"{'σ' if key == 'sigma' else key} = {value:g}"
        if isinstance(value, int | float)
        else f"{key} = {value}"
        for key, value in cell["values"].items()
    )
    return f"{values} ({cell['model']})"


def _figures(results: Results, block: str, cells: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for cell in cells:
        t = cell["testing"]
        snr, ratio = (
            f"{format_up(t[key], decimals=2)} dB" if key in t else "–"
            for key in ("median_snr_db", "median_norm_ratio_db")
        )
        good = round(t.get("smoothed_accuracy", 0.0) * t.get("smoothed_accuracy_over", 0))
        rows.append(
            (
                _title(results, cell),
                cell["pipeline"],
                varied(cell),
                str(t["clips"]),
                _percent(t["clean_accuracy"], t["clean_accuracy_over"]),
                _percent(t.get("smoothed_accuracy", 0.0), t.get("smoothed_accuracy_over", 0)),
                _percent(t["abstained"] / max(1, t["clips"]), t["clips"]),
                format_down(t["median_radius"], significant=4) if "median_radius" in t else "–",
                snr,
                ratio,
                percent_of(t["saturated_share_of_certified"], t["certified"]) if good else "–",
                f"{t['median_displacement']:.4g}" if "median_displacement" in t else "none",
                f"{t['median_sensitivity']:.4g}" if "median_sensitivity" in t else "none",
                f"{t['passes'] / max(1, t['clips']):,.0f}",
            )
        )
    testing = cells[0]["testing"]
    return Table(
        f"{block}-figures",
        f"Block {block}: n = {testing['n']}, α = {testing['alpha']:g}. Accuracies and abstentions are over all clips that "
        "could be read, abstentions counting as wrong; smoothed accuracy is the certified accuracy at a positive radius. "
        "Medians are over certified and correct clips, displacement and sensitivity over all. "
        "Saturated: share of certificates at the Monte-Carlo ceiling. The norm ratio of features is no SNR and is not "
        "comparable with one.",
        ("data", "contract", "cell", "clips", "clean", "smoothed", "abstained", "median radius", "SNR-equivalent",
         "norm ratio (features)", "saturated", "displacement", "sensitivity", "passes a clip"),
        tuple(rows),
        left=3,
    )  # fmt: skip


def _radii(results: Results, block: str, cells: Sequence[Mapping[str, Any]]) -> Table:
    """Certified accuracy at multiples of σ/2: the only axis that cells with different σ share."""
    multiples = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    rows = []
    for cell in cells:
        t = cell["testing"]
        curve = sorted((float(r), share) for r, share in t.get("certified_accuracy_at_radius", {}).items())
        sigma = float(cell["values"]["sigma"])
        shares = [_at(curve, m * sigma) for m in multiples]
        rows.append(
            (
                _title(results, cell), cell["pipeline"], varied(cell),
                *("–" if s is None else _percent(s, t["smoothed_accuracy_over"]) for s in shares),
            )
        )  # fmt: skip
    return Table(
        f"{block}-radii",
        f"Block {block}: certified accuracy at raw radii, in multiples of each cell's own σ.",
        ("data", "contract", "cell", *(f"{m:g}σ" for m in multiples)),
        tuple(rows),
        left=3,
    )


def _at(curve: Sequence[tuple[float, float]], radius: float) -> float | None:
    """Return the share at a radius that the curve names; its keys are rounded down, to six digits."""
    near = [(r, share) for r, share in curve if radius * (1 - 1.1e-5) <= r <= radius * (1 + 1e-12)]
    return max(near)[1] if near else None


def _targets(results: Results, reached: Mapping[str, Any]) -> Table:
    rows = []
    cells = {c["name"]: c for c in results["cells"]}
    for target, figure in reached["per_target"].items():
        one = reached["one_model"][target]
        rows.append(
            (
                f"{target} dB",
                *_counted(figure),
                "; ".join(varied(cells[name]) for name in figure["cells"]),
                "; ".join(dict.fromkeys(_sampled(cells[name]) for name in figure["cells"])),
                *_counted(one),
            )
        )
    overall = next(iter(reached["one_model"].values()))
    names = "; ".join(varied(cells[name]) for name in overall["cells"])
    figures = [*reached["per_target"].values(), *reached["one_model"].values()]
    reasons = list(dict.fromkeys(f["no_interval"] for f in figures if f["interval_95"] is None))
    intervals = (
        f"No intervals of accuracy: {'; '.join(reasons)}."
        if reasons
        else "Intervals of 95 % hold at one target chosen beforehand."
    )
    return Table(
        f"targets-{reached['data']}-{reached['pipeline']}",
        f"{results['data'][reached['data']]['title']}, {reached['contract']} ({reached['pipeline']}): certified accuracy "
        "against every perturbation of the file's samples at the SNR or quieter, proven through the front, "
        f"α = {reached['alpha']:g}, one class against all others. For each target the σ and model that validation clips "
        f"chose for it; and the one that they chose for all targets: {names}. {intervals}",
        (
            "SNR",
            "certified accuracy",
            "95 % interval",
            "chosen by validation",
            "draws a clip",
            "one model",
            "95 % interval",
        ),
        tuple(rows),
    )


def _sampled(cell: Mapping[str, Any]) -> str:
    """Return how a cell's testing clips were sampled, and what computed the classifier that was certified."""
    whole = cell.get("testing")
    parts = [s["testing"] for s in cell["splits"] if "testing" in s]
    n = whole["n"] if whole else next((p["n"] for p in parts if "n" in p), None)
    engine = whole["contract"].get("engine") if whole else next((p.get("engine") for p in parts), None)
    return ", ".join(["–" if n is None else f"up to {n:,}", *([engine] if engine else [])])


def _counted(figure: Mapping[str, Any]) -> tuple[str, str]:
    share = f"{percent(figure['count'], figure['total'])} ({figure['count']}/{figure['total']})"
    if figure["interval_95"] is None:
        return share, "none"
    low, high = percents((figure["interval_95"][0], figure["interval_95"][1]))
    return share, f"{low} to {high}"


def _validation(results: Results, data: str) -> Table | None:
    cells = [c for c in results["cells"] if c["data"] == data and "validation_share_at_target" in c]
    if not cells:
        return None
    targets = [f"{t:g}" for t in results["targets"]]
    rows = [
        (
            c["pipeline"],
            varied(c),
            f"{100 * c['training']['validation_accuracy_under_noise']:.1f} %"
            if c["training"]["trained_fits"]
            else "–",
            *(f"{100 * c['validation_share_at_target'][t]:.1f} %" for t in targets),
        )
        for c in cells
    ]
    return Table(
        f"validation-{data}",
        f"{results['data'][data]['title']}: estimates on validation clips that the choices were made by (mean over folds; "
        "no guarantee): accuracy under noise, and share of clips whose estimated certificate reaches the SNR in the file; "
        "0 % also where so few draws could not show it. A cell is considered for the targets that its testing clips are "
        "asked about.",
        ("contract", "cell", "under noise", *(f"{t} dB" for t in targets)),
        tuple(rows),
        left=2,
    )


def _cost(results: Results) -> Table:
    rows = []
    for c in results["cells"]:
        training, t = c["training"], c.get("testing")
        trained = training["trained_fits"]
        if not trained and not t:
            continue
        rows.append(
            (
                c["name"],
                str(trained),
                f"{sum(training['epochs'])}" if trained else "–",
                duration(training["seconds"]) if trained else "–",
                f"{t['passes']:,}" if t else "–",
                duration(t["wall_seconds"]) if t else "–",
            )
        )
    return Table(
        "cost",
        "What the cells cost. Seconds are wall time on the machine that ran them, of one thread a cell unless its run was "
        "given more.",
        ("cell", "trainings", "epochs", "training", "passes on testing clips", "testing"),
        tuple(rows),
    )


def _title(results: Results, cell: Mapping[str, Any]) -> str:
    return str(results["data"][cell["data"]]["title"])


def _percent(share: float, total: int) -> str:
    return percent_of(share, total) if total else "–"
