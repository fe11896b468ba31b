"""Tables for the terminal. Radii and levels are rounded down, decibels of a ratio up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from soundcert.audit import Audit
from soundcert.bounds import format_down, format_up
from soundcert.certificate import FALLING
from soundcert.data import SourceInfo
from soundcert.flags import Flag
from soundcert.report.shares import percent_of, percents

# view: what it is called, its unit, and whether a larger value claims less (rounded up).
VIEWS: dict[str, tuple[str, str, bool]] = {
    view: (title, unit, view in FALLING)
    for view, title, unit in (
        ("r_over_sigma", "R/σ", ""),
        ("snr_db", "SNR-equivalent", "dB"),
        ("norm_ratio_db", "norm ratio (not an SNR)", "dB"),
        ("burst_20ms_db", "level if all in 20 ms", "dB re clip RMS"),
        ("file_radius", "radius proven for the file", "full scale"),
        ("file_snr_db", "SNR proven for the file", "dB"),
        ("file_lsb", "the same in file LSBs", "LSB"),
    )
}


def shown(view: str, value: float | None) -> str:
    """Format a view rounded inward, with its unit."""
    _, unit, up = VIEWS[view]
    if value is None:
        return "no limit"
    if "dB" in unit:
        text = format_up(value, decimals=2) if up else format_down(value, decimals=2)
    else:
        text = format_down(value, significant=4)
    return f"{text} {unit}".strip()


def plain_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=bool(columns), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _facts(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def flag_lines(flags: Sequence[Flag]) -> list[Text]:
    out = []
    for flag in flags:
        warning = flag.kind.level == "warning"
        line = Text("! " if warning else "· ", style="bold yellow" if warning else "dim")
        line.append(flag.kind.title, style="bold" if warning else "")
        line.append(f" ({flag.detail}). {flag.kind.action}", style="dim")
        out.append(line)
    return out


def audit_view(result: Audit) -> RenderableType:
    """Return an audit for people."""
    parts: list[RenderableType] = []
    if result.contract:
        parts += [Text(result.contract.statement()), Text()]
    median = result.medians()
    rows = [("clips", f"{len(result.clips)} usable, {len(result.failed)} not")]
    if median:
        largest = "largest radius" if result.policy == "decide" else "ceiling"
        rows += [
            ("n0 / n / α / bound", f"{result.n0} / {result.n} / {result.alpha:g} / {result.bound}"),
            (
                "Monte-Carlo ceiling" if largest == "ceiling" else "largest radius asked about",
                f"{format_down(median['ceiling'], significant=6)} (no radius can be larger)",
            ),
            ("median ‖v‖₂", f"{median['object_norm']:.6g}"),
        ]
        if "gain" in median:
            rows.append(("median gain", f"×{median['gain']:.5g}"))
        rows += [(f"median {largest}: {VIEWS[v][0]}", shown(v, median[v])) for v in VIEWS if v in median]
        if "displacement" in median:
            rows.append(
                (
                    "geometry after the noise",
                    f"displacement {median['displacement']:.4g}, sensitivity {median['sensitivity']:.4g} (medians)",
                )
            )
    cost = f"{'' if result.policy == 'fixed' else 'at most '}{result.passes:,} passes"
    if result.minutes is not None:
        cost += f", about {_duration(result.minutes * 60)} on {result.cores} cores"
    rows.append(("expected cost", cost))
    parts.append(_facts(rows))
    if result.flags:
        parts += [Text(), *flag_lines(result.flags)]
    for name, reason in list(result.failed.items())[:10]:
        parts.append(Text(f"✗ {name}: {reason}", style="red"))
    if len(result.failed) > 10:
        parts.append(Text(f"✗ and {len(result.failed) - 10} more", style="red"))
    return Group(*parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _space_line(there: Mapping[str, Any]) -> str:
    """The median radius in a space, and how the bounds lead there, from the certificate up."""
    if not there["proven"]:
        return f"nothing: {there['reason']}"
    share = "" if there["proven"] == there["of"] else f"{there['proven']} of {there['of']} clips; "
    steps = " → ".join(f"{s['stage']}: {_radius(s['radius'])}" for s in there["chain"])
    return f"{share}radius {_radius(there['median_radius'])} of the clip in the middle, {there['clip']} ({steps})"


def _radius(value: float | None) -> str:
    return "without limit" if value is None else format_down(value, significant=4)


def summary_view(
    summary: Mapping[str, Any], contract: Mapping[str, Any] | None = None, asked: bool = False
) -> RenderableType:
    """Return a run's summary for people. contract: the run's. asked: under `decide` radii are the largest asked about."""
    contract = contract or {}
    rows = []
    if kind := contract.get("kind"):
        rows.append(
            ("contract", f"{kind}: an ℓ2 ball around the {contract.get('certified_object', 'object')}")
        )
    rows.append(
        (
            "clips",
            f"{summary['clips']}: {summary['certified']} certified, {summary['abstained']} abstained, "
            f"{summary['failed']} failed",
        )
    )
    curves: list[RenderableType] = []
    if "smoothed_accuracy" in summary:
        total = summary["smoothed_accuracy_over"]
        interval = f"no interval: {summary.get('no_interval') or 'a budget ties the clips together'}"
        if "smoothed_accuracy_interval_95" in summary:
            ends = percents(summary["smoothed_accuracy_interval_95"], decimals=2, gap="")
            interval = f"95 % interval {' to '.join(ends)}"
            if copies := summary.get("copies"):
                interval += f"; {copies} of the clips {'are copies' if copies > 1 else 'is a copy'} of others"
        share = percent_of(summary["smoothed_accuracy"], total, decimals=2, gap="")
        said = f"{share} of {total} clips ({interval}); abstentions count as wrong"
        rows.append(("smoothed accuracy", said))
        right = round(summary["smoothed_accuracy"] * total)
        every = total == summary["certified"] + summary["abstained"]
        if every and (other := summary["certified"] - right):
            rows.append(("certified as another label", f"{other} of {summary['certified']}"))
        curves = [
            _curve_table(
                summary, "radius", f"radius, {contract['unit']}" if contract.get("unit") else "radius"
            ),
            _curve_table(summary, "snr_db", "SNR-equivalent, dB"),
            _curve_table(summary, "file_snr_db", "SNR of the file, dB"),
        ]
    share = percent_of(summary["saturated_share_of_certified"], summary["certified"], gap="")
    most = "at the largest radius asked" if asked else "saturated at the ceiling"
    rows.append((most, f"{share} of the certified clips"))
    rows.append(("cost", f"{summary['passes']:,} passes"))
    if "median_radius" in summary:
        unit = f" ({contract['unit']})" if contract.get("unit") else ""
        middle = format_down(summary["median_radius"], significant=4)
        rows.append(("median radius", f"{middle}{unit}, over {summary['medians_over']}"))
        rows += [
            (f"median {VIEWS[v][0]}", shown(v, summary[f"median_{v}"]))
            for v in VIEWS
            if f"median_{v}" in summary
        ]
    for name, there in summary.get("spaces", {}).items():
        rows.append((f"proven in {name!r}", _space_line(there)))
    return Group(_facts(rows), *(part for curve in curves if curve for part in (Text(), curve)))


def _curve_table(summary: Mapping[str, Any], key: str, name: str) -> RenderableType:
    """Return certified accuracy along one axis up to its first 0; nothing where there is no such curve."""
    curve = summary.get(f"certified_accuracy_at_{key}")
    if not curve:
        return ""
    band = summary.get(f"certified_accuracy_band_95_at_{key}") or {}
    table = plain_table(name, "certified accuracy", *(["95 % band, all rows at once"] if band else []))
    points = list(curve)
    last = next((i for i, point in enumerate(points) if not curve[point]), len(points) - 1)
    for point in points[: last + 1]:
        # A radius keeps the digits that it was counted at, but for zeros at their end.
        shown_point = point.rstrip("0").rstrip(".") if "." in point and "e" not in point else point
        share = percent_of(curve[point], summary["smoothed_accuracy_over"], gap="")
        table.add_row(shown_point, share, *([" to ".join(percents(band[point], gap=""))] if band else []))
    if last + 1 < len(points):
        rest = [band[point] for point in points[last + 1 :]] if band else []
        low, high = min((ends[0] for ends in rest), default=0.0), max((ends[1] for ends in rest), default=0.0)
        share = percent_of(0.0, summary["smoothed_accuracy_over"], gap="")
        table.add_row("further", share, *([" to ".join(percents((low, high), gap=""))] if band else []))
    return table


def attack_view(summary: Mapping[str, Any]) -> RenderableType:
    """Return the summary of a run's attacks for people. Radii proven are rounded down; what was found, to nearest."""
    space = summary["settings"]["space"]
    proven = summary["proven"]
    rows = [
        (
            "clips",
            f"{summary['clips']} certified: {summary['clips'] - summary['failed']} attacked, {summary['failed']} failed",
        )
    ]
    said = f"for {proven['clips']} clips"
    if "median_radius" in proven:
        said = f"median {format_down(proven['median_radius'], significant=4)}, {said}"
    if proven["without_limit"]:
        said += f", {proven['without_limit']} of them without limit"
    rows.append((f"proven in {space!r}", said))
    for goal, name in (("leave", "found to leave the ball"), ("flip", "found to change the label")):
        if goal in summary:
            rows.append((name, _found(summary[goal])))
    if "inside" in summary:
        rows.append(
            (
                "inside the ball",
                f"{summary['inside']['violated']} violations on {summary['inside']['clips']} clips",
            )
        )
    if "bypass" in summary:
        b = summary["bypass"]
        outside = f"{b['outside_as_float32']} of {b['clips']} are outside the ball as float32"
        rows.append(
            (
                "bypass in the file",
                f"median {b['median_below_naive_db']:.2f} dB below what the norm ratio suggests; read back from disk, "
                f"{outside}, {b['outside_at_16_bits']} at 16 bits",
            )
        )
    parts: list[RenderableType] = [_facts(rows)]
    if summary.get("deployed"):
        table = plain_table(
            "deployed with", "same label", "flipped", "abstained", "failed", "median distance / R"
        )
        for row in summary["deployed"]:
            away = f"{row['median_distance']:.3g}" if "median_distance" in row else "-"
            table.add_row(
                Text(row["variant"]), *(str(row[o]) for o in ("same", "flipped", "abstained", "failed")), away
            )
        parts += [Text(), table]
    for violation in summary["violations"]:
        for what in violation["what"]:
            parts.append(
                Text(f"✗ {violation['clip']}: {what}. Evidence: {violation['evidence']}", style="bold red")
            )
    parts.append(
        Text("What was found is an upper bound of the robustness; it proves nothing about less.", style="dim")
    )
    return Group(*parts)


def _found(figures: Mapping[str, Any]) -> str:
    if "median_norm" not in figures:
        return f"nothing, on {figures['clips']} clips"
    out = f"median {figures['median_norm']:.4g}"
    if "median_snr_db" in figures:
        out += f" (SNR {figures['median_snr_db']:.2f} dB)"
    if "median_ratio" in figures:
        out += f", {figures['median_ratio']:.3g} times what is proven ({figures['median_gap_db']:.2f} dB)"
    return f"{out}; on {figures['found']} of {figures['clips']} clips"


def sources_view(
    sources: Sequence[tuple[SourceInfo, Sequence[str]]], looked: Sequence[str]
) -> RenderableType:
    """Return the kinds of data for people. looked: the folders that were looked into."""
    parts: list[RenderableType] = []
    for info, places in sources:
        parts.append(Text(info.name, style="bold"))
        parts.append(
            _facts(
                [
                    ("  what", info.summary),
                    ("  layout", info.layout),
                    ("  licence", info.licence),
                    ("  on disk", "; ".join(places) if places else "-"),
                ]
            )
        )
    parts.append(Text(f"Looked in {', '.join(looked)}.", style="dim"))
    return Group(*parts)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the command line ends quietly; rich would exit with 1


def print_view(view: RenderableType) -> None:
    # Nothing is cut to the width of a pipe or a file.
    console = _Console()
    if not console.is_terminal:
        console = _Console(width=100, no_color=True)
    console.print(view)
