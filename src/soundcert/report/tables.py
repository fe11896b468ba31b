"""The contract of a run and its main figures, each with the clips that it is over, as rows of two texts."""

from __future__ import annotations

from soundcert.bounds import format_down
from soundcert.report.accuracy import Row, accuracy_rows, figure, grouped, joined, over, policy_of, said
from soundcert.report.shares import percent
from soundcert.report.stated import size_text
from soundcert.report.terminal import VIEWS, shown
from soundcert.report.words import length
from soundcert.runs import Run


def contract_rows(run: Run) -> list[tuple[str, str]]:
    """The contract's fields, as the run recorded them."""
    names = {
        "kind": "Contract",
        "certified_object": "Certified object",
        "perturbation_location": "Perturbation location",
        "dimension": "Dimension",
        "unit": "Unit",
        "norm": "Norm",
        "noise": "Noise",
        "sigma": "σ",
        "gain_policy": "Gain policy",
        "pre_noise": "Above the noise",
        "post_noise": "Post-noise changes",
        "post_noise_stages": "Between noise and model",
        "model": "Model",
        "engine": "Engine",
        "windows": "Windows below the noise",
        "vote": "Vote of the windows",
        "cut": "Clips cut above the noise",
    }
    out = []
    for key, name in names.items():
        if key in run.contract:
            value = run.contract[key]
            if key == "dimension":
                text = size_text(run)
            elif isinstance(value, list | tuple):
                text = ", ".join(str(v) for v in value) or "none"
            else:
                text = {"l2": "ℓ2"}.get(str(value), f"{value:g}" if isinstance(value, float) else str(value))
            out.append((name, text))
    return out


def figure_rows(run: Run) -> list[tuple[str, str]]:
    """The main figures, each with the clips that it is over."""
    s = run.summary
    out = [
        (
            "Clips",
            f"{grouped(run.total)}: {grouped(s['certified'])} certified, {grouped(s['abstained'])} abstained, "
            f"{grouped(s['failed'])} failed"
            + ("" if run.finished else f"; only {grouped(len(run.records))} are recorded"),
        )
    ]
    rows = accuracy_rows(run).get("radius") or []
    if "smoothed_accuracy" in s and rows:
        total = s["smoothed_accuracy_over"]
        count = round(s["smoothed_accuracy"] * total)
        interval = s.get("smoothed_accuracy_interval_95")
        row = Row("0", 0.0, count, total, tuple(interval) if interval else None)
        out.append(("Smoothed accuracy", figure(row)))
    certified = [r for r in run.usable if r["status"] == "certified"]
    if certified:
        full = sum(bool(r["saturated"]) for r in certified)
        span = sorted({float(r["ceiling"]) for r in certified})
        what = "Largest radius asked about" if policy_of(run) == "decide" else "Monte-Carlo ceiling"
        ends = [format_down(x, significant=6) for x in (span[0], span[-1])]
        out.append((what, ends[0] if len(span) == 1 else f"{ends[0]} to {ends[1]}"))
        out.append(
            (
                "Saturated at it",
                f"{grouped(full)}/{grouped(len(certified))} certificates ({joined(percent(full, len(certified)))})",
            )
        )
    if "median_radius" in s:
        out.append(("Median raw radius", f"{length(s['median_radius'])} ({said(run, 'unit')})"))
        out += [
            (f"Median {name.replace('the same', 'radius proven')}", joined(shown(view, s[f"median_{view}"])))
            for view, (name, _, _) in VIEWS.items()
            if f"median_{view}" in s
        ]
        out.append(("Medians over", over(run)))
    for name, there in (s.get("spaces") or {}).items():
        text = (
            f"median radius {length(there['median_radius'])}, proven for {there['proven']} of {there['of']} clips"
            if there["proven"]
            else f"nothing: {there['reason']}"
        )
        out.append((f"Proven in {name!r}", text))
    settings = run.certify
    if settings:
        out.append(
            (
                "Sampling",
                f"policy {policy_of(run)}; n₀ = {settings.get('n0')}, n = {settings.get('n')}, α = {settings.get('alpha')}, "
                f"bound {settings.get('bound')}, seed {settings.get('seed')}",
            )
        )
    out.append(("Passes", grouped(s["passes"])))
    identity = run.info.get("identity") or {}
    out += [
        (f"{what} (BLAKE2b-128)", str(identity[key]))
        for key, what in (("model", "Model state"), ("data", "Data list"))
        if key in identity
    ]
    return out
