"""Reads soundcert's own runs: the directory with its records, or a file of records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soundcert.bounds import certified_radius, monte_carlo_ceiling
from soundcert.certify import level_of
from soundcert.data.config import split_words
from soundcert.errors import SoundcertError
from soundcert.lint.building import Builder
from soundcert.lint.numbers import parse
from soundcert.lint.report import Place, Point, Rows
from soundcert.stages import FEATURE_STAGES

_SUMMARY = {
    "clips": "clips",
    "abstained": "abstained",
    "certified": "certified",
    "saturated_share_of_certified": "saturated",
    "smoothed_accuracy": "smoothed_accuracy",
    "median_radius": "median_radius",
    "median_snr_db": "median_snr",
    "median_norm_ratio_db": "norm_ratio",
    "median_burst_20ms_db": "signal_scale",
    "median_file_snr_db": "file_snr",
    "median_r_over_sigma": "r_over_sigma",
    "medians_over": "medians_over",
}
_CONTRACT = {
    "kind": "kind",
    "certified_object": "certified_object",
    "perturbation_location": "perturbation_location",
    "gain_policy": "gain_policy",
    "norm": "norm",
    "noise": "noise",
    "sigma": "sigma",
    "unit": "unit",
    "dimension": "dimension",
}


def read_run(path: Path, file: str) -> Builder:
    """Read a run directory. Its figures are computed from its records."""
    from soundcert.runs.reading import open_run

    run = open_run(path)
    out = Builder(f"{file}/run.json", "a run directory of soundcert")
    out.own = True
    for key, name in _CONTRACT.items():
        if key in run.contract:
            out.put(name, f"contract.{key}", str(run.contract[key]))
    if "post_noise" in run.contract:
        out.put("post_noise", "contract.post_noise", ", ".join(run.contract["post_noise"]) or "none")
    for key in ("n0", "n", "alpha", "seed"):
        if key in run.certify:
            out.put(key, f"certify.{key}", str(run.certify[key]))
    policy = next((p for p in ("decide", "estimate", "budget") if run.certify.get(p)), "fixed")
    if "bound" in run.certify:
        words = {"two-class": "two-class, with the largest count of all other classes in the fresh sample"}
        bound = str(run.certify["bound"])
        # `estimate` has the plain bound: its n is chosen by a pilot, before the draws that it counts (policies.py).
        if policy == "decide":
            bound = f"{bound}, time-uniform ({policy})"
        out.put("bound", "certify.bound", words.get(bound, bound))
    data = run.config.get("data") or {}
    if data.get("source"):
        where = f" ({data['root']})" if data["source"] in ("folder", "manifest") and "root" in data else ""
        out.put("dataset", "data.source", f"{data['source']}{where}")
    if chosen := split_words(data):
        label = next((key for key in ("split", "folds") if data.get(key)), "root")
        out.put("split", f"data.{label}", chosen)
    if run.contract.get("pre_noise"):
        out.put("pre_noise", "contract.pre_noise", ", ".join(run.contract["pre_noise"]))
    for entry in run.config.get("pipeline") or ():
        for name, fields in entry.items() if isinstance(entry, dict) else ((str(entry), {}),):
            # These refuse any other rate, so that their own is the clip's.
            if name in FEATURE_STAGES and isinstance(fields, dict) and not out.knows("rate"):
                out.put("rate", f"pipeline.{name}.rate", f"{fields.get('rate', 16_000)} Hz")
    take_records(run.records, f"{file}/certificates.jsonl", out, run.summary)
    return out


def take_records(
    records: Sequence[Mapping[str, Any]], file: str, out: Builder, summary: Mapping[str, Any] | None = None
) -> None:
    """Take the rows of certificates.jsonl and the figures that follow from them."""
    from soundcert.runs.summary import summarise, tied

    summary = summarise(records) if summary is None else summary
    for key, name in _SUMMARY.items():
        if summary.get(key) is not None:
            out.put(name, f"summary.{key}", str(summary[key]))
    for view, name, over in (("snr_db", "snr", "median_snr"), ("norm_ratio_db", "norm_ratio", "norm_ratio")):
        if not out.knows(over) and any(np.isfinite(_view(r, view)) for r in records):
            out.put(name, f"views.{view}", "given for each clip")
    if interval := summary.get("smoothed_accuracy_interval_95"):
        out.put("interval", "summary.smoothed_accuracy_interval_95", f"[{interval[0]}, {interval[1]}]")
    elif reason := tied(records):
        out.put("interval", "policy", f"none: {reason}")
    elif "smoothed_accuracy" not in summary:
        out.put("interval", "summary.medians_over", "none: the clips have no labels")
    for radius, share in (summary.get("certified_accuracy_at_radius") or {}).items():
        r, a = parse(radius), parse(repr(share), "share")
        if r and a:
            out.point(Point(r, a, Place(file)))
    usable = [r for r in records if r.get("status") in ("certified", "abstained")]
    for key in ("sigma", "alpha", "seed", "bound"):
        for value in list(dict.fromkeys(str(r[key]) for r in usable if key in r))[:2]:
            if key != "bound" or not out.knows("bound"):
                out.put(key, key, value)
    if not out.knows("n") and (counts := {r["n"] for r in usable if "n" in r}):
        out.put("n", "n", str(max(counts)))
    if not out.knows("n0") and (counts := {r["n0"] for r in usable if "n0" in r}):
        out.put("n0", "n0", str(max(counts)))
    # The smallest gives the largest ceiling, and no radius may lie above that.
    if aside := min((r.get("set_aside", 0.0) for r in usable), default=0.0):
        out.put("set_aside", "set_aside", str(aside))
    lines = {r["clip"]: i for i, r in enumerate(records, start=1)}
    if not usable:
        return
    out.rows(
        Rows(
            Place(file),
            np.array([float(r.get("radius", np.nan)) for r in usable]),
            np.zeros(len(usable)),
            np.array([r["status"] == "abstained" for r in usable]),
            [str(r.get("label", "")) for r in usable],
            [str(r.get("truth", "")) for r in usable],
            np.full(len(usable), -1, np.int8),
            np.array([lines[r["clip"]] for r in usable]),
            [str(r["clip"]) for r in usable],
            ceiling=np.array([_of_counts(r, _ceiling) for r in usable]),
            recomputed=np.array([_of_counts(r, _radius) for r in usable]),
            snr=np.array([_view(r, "snr_db") for r in usable]),
            norm=np.array([float(r.get("object_norm", np.nan)) for r in usable]),
        )
    )


def _view(record: Mapping[str, Any], name: str) -> float:
    value = (record.get("views") or {}).get(name)
    return np.nan if value is None else float(value)


def _of_counts(record: Mapping[str, Any], of: Any) -> float:
    try:
        return float(of(record))
    except (KeyError, TypeError, ValueError, SoundcertError):
        return np.nan


def _level(r: Mapping[str, Any]) -> float:
    """The level of the record's bounds: lattice noise sets a part of alpha aside."""
    return level_of(r["alpha"], r.get("set_aside", 0.0))


def _ceiling(r: Mapping[str, Any]) -> float:
    return monte_carlo_ceiling(r["sigma"], r["n"], _level(r), r.get("bound", "one-sided"))


def _radius(r: Mapping[str, Any]) -> float:
    """The fixed-n radius of the counts; NaN under `decide`, where an earlier look may have accepted more than the last."""
    if r.get("policy") == "decide":
        return np.nan
    radius = certified_radius(
        r["count"], r["n"], _level(r), r["sigma"],
        bound=r.get("bound", "one-sided"), max_other=r.get("max_other"),
    )  # fmt: skip
    return 0.0 if radius is None else radius
