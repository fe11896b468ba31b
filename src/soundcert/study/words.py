"""What a study says about its figures, in paragraphs: each number is computed from the results, or from a formula.

Source of the published figures: arXiv 2606.04210, as its abstract states them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from soundcert.bounds import format_down, format_up, monte_carlo_ceiling
from soundcert.report.shares import percent

Results = Mapping[str, Any]


def explanations(results: Results) -> list[str]:
    """Return the three paragraphs on equal medians, on lengths, and on displacement, as far as the cells allow."""
    cells = [c for c in results["cells"] if "testing" in c and c["testing"]["policy"] == "fixed"]
    return [text for text in (_ceiling(cells), _lengths(results, cells), _displacement(cells)) if text]


def _ceiling(cells: list[Mapping[str, Any]]) -> str | None:
    waveform = [c for c in cells if "median_snr_db" in c["testing"]]
    if not waveform:
        return None
    sigma = min(c["values"]["sigma"] for c in waveform)
    chosen = [c for c in waveform if c["values"]["sigma"] == sigma]
    t = chosen[0]["testing"]
    ceiling = monte_carlo_ceiling(sigma, t["n"], t["alpha"])
    at = [c for c in chosen if math.isclose(c["testing"].get("median_radius", 0.0), ceiling, rel_tol=1e-6)]
    shares = ", ".join(f"{_saturated(c['testing'])} ({c['data']}, {c['pipeline']})" for c in chosen)
    which = "each of" if len(at) == len(chosen) else f"{len(at)} of"
    return (
        f"**Why equal medians are the ceiling.** With n = {t['n']} draws and α = {t['alpha']:g} no certificate can exceed "
        f"σΦ⁻¹(α^(1/n)) = {format_down(ceiling, significant=6)} at σ = {sigma:g}: what a clip gets when all its draws "
        f"agree. The median raw radius is that number in {which} the {len(chosen)} waveform cells with this σ; the share of "
        f"certificates at the ceiling is {shares}. A median at the ceiling tells n, α and σ. It says nothing about models "
        "or data, so two data sets that share it share nothing else."
    )


def _saturated(testing: Mapping[str, Any]) -> str:
    total = testing["certified"]
    return percent(round(testing["saturated_share_of_certified"] * total), total)


def _lengths(results: Results, cells: list[Mapping[str, Any]]) -> str | None:
    by_data: dict[str, Mapping[str, Any]] = {}
    for c in cells:
        if "median_snr_db" in c["testing"] and c["testing"]["contract"].get("dimension"):
            by_data.setdefault(c["data"], c)
    if len(by_data) < 2:
        return None
    (a, first), (b, second) = sorted(
        by_data.items(), key=lambda pair: pair[1]["testing"]["contract"]["dimension"]
    )[:2]
    d1, d2 = (c["testing"]["contract"]["dimension"] for c in (first, second))
    gap = second["testing"]["median_snr_db"] - first["testing"]["median_snr_db"]
    titles = [results["data"][name]["title"] for name in (a, b)]
    return (
        "**Why the SNRs differ by the clips' lengths.** The SNR-equivalent is 20·log₁₀(‖v‖/R), and at unit RMS ‖v‖ = √d. "
        f"Clips of {titles[0]} have d = {d1} samples, those of {titles[1]} {d2}: at one radius the SNRs differ by "
        f"10·log₁₀({d2}/{d1}) = {10 * math.log10(d2 / d1):.2f} dB whatever is in the clips, and the measured medians differ "
        f"by {gap:.2f} dB. It is no difference of robustness. The level of the perturbation if all of it sits in 20 ms does "
        "not depend on the clip's length, and is the same for both."
    )


def _displacement(cells: list[Mapping[str, Any]]) -> str | None:
    moved = [c for c in cells if "median_displacement" in c["testing"]]
    if not moved:
        return None
    listed = "; ".join(
        f"{c['data']}, {c['pipeline']}, σ = {c['values']['sigma']:g}: {c['testing']['median_displacement']:.4g} times the "
        f"noise, of which {c['testing']['median_sensitivity']:.3g} is left"
        for c in moved
    )
    return (
        "**Why displacement scales as 1/σ.** The change T after the noise moves the noisy clip by ‖T(v + η) − v‖, which for "
        "small noise is nearly ‖T(v) − v‖, a property of the clean clip; divided by ‖η‖ ≈ σ√d it grows as 1/σ and tends to "
        "‖v − T(v)‖/(σ√d). It measures how far T moves the clip and not how the noise is changed; for that, take the "
        f"sensitivity ‖T(v + η) − T(v)‖/‖η‖. Here: {listed}. The certificate itself is untouched: T belongs to the base "
        "classifier."
    )


def published(results: Results) -> list[tuple[str, str, str]]:
    """Return (what, the published figure, ours) for each published figure that a cell answers."""
    source = results.get("published")
    if not source:
        return []
    rows = []
    for key, figures in source["figures"].items():
        data, _, pipeline = key.partition("/")
        for name, value in figures.items():
            ours = _ours(results, data, pipeline, name)
            rows.append((f"{key.replace('/', ', ')}: {name.replace('_', ' ')}", f"{value}", ours))
    return rows


def _ours(results: Results, data: str, pipeline: str, name: str) -> str:
    cells = [
        c
        for c in results["cells"]
        if c["data"] == data
        and c["pipeline"] == pipeline
        and "testing" in c
        and c["testing"]["policy"] == "fixed"
    ]
    if not cells:
        return "not run"
    t = min(cells, key=lambda c: c["values"]["sigma"])["testing"]
    if name == "median_radius":
        return format_down(t["median_radius"], significant=4) if "median_radius" in t else "none"
    if name == "snr_db":
        return f"{format_up(t['median_snr_db'], decimals=2)} dB" if "median_snr_db" in t else "none"
    if name == "positive_radius_accuracy":
        total = t["smoothed_accuracy_over"]
        return f"{percent(round(t['smoothed_accuracy'] * total), total)} of {total} clips"
    if name == "displacement":
        return f"{t['median_displacement']:.4g}" if "median_displacement" in t else "none"
    return "no such figure"
