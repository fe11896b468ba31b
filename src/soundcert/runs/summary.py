"""Figures of a run, from its records. Each says over which clips it is taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from sys import intern
from typing import Any

from soundcert.bounds import accuracy_band, accuracy_interval, format_down
from soundcert.certificate import view_medians

SNR_GRID = (84, 60, 50, 45, 40, 35, 30, 25, 20)
CONFIDENCE_ALPHA = 0.05


def summarise(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of a run as JSON values.

    Accuracies are over all clips of known label that could be read, abstentions counting as wrong.
    Medians are over clips that were certified and, where labels are known, correct.
    """
    rows = [_needed(record) for record in records]
    failed = [r for r in rows if r["status"] == "failed"]
    usable = [r for r in rows if r["status"] != "failed"]
    certified = [r for r in usable if r["status"] == "certified"]
    labelled = [r for r in usable if r.get("truth") is not None]
    out: dict[str, Any] = {
        "clips": len(rows),
        "certified": len(certified),
        "abstained": len(usable) - len(certified),
        "failed": len(failed),
        "saturated_share_of_certified": _share([bool(r["saturated"]) for r in certified]),
        "passes": sum(r.get("n", 0) + r.get("n0", 0) for r in usable),
    }
    good = certified
    if labelled:
        good = [r for r in labelled if r["status"] == "certified" and r["label"] == r["truth"]]
        out["smoothed_accuracy"] = len(good) / len(labelled)
        out["smoothed_accuracy_over"] = len(labelled)
        if (reason := tied(labelled)) is not None:
            out["no_interval"] = reason
        else:
            alpha, again = max(r["alpha"] for r in labelled), copies(labelled)
            if again:
                out["copies"] = again
            out["smoothed_accuracy_interval_95"] = list(
                accuracy_interval(len(good), len(labelled), CONFIDENCE_ALPHA, alpha, again)
            )
        out["certified_accuracy_at_radius"] = _curve_of_radii(good, len(labelled))
        for view in ("snr_db", "file_snr_db"):
            # A radius of 0 has no level, nor has anything beside silence: such a clip is certified at none.
            if any(view in r["views"] for r in good):
                out[f"certified_accuracy_at_{view}"] = _curve_of_snr(good, len(labelled), view)
        for curve in [key for key in out if key.startswith("certified_accuracy_at_")]:
            if reason is None and out[curve]:
                alpha = max(r["alpha"] for r in labelled)
                name = curve.replace("accuracy_at", "accuracy_band_95_at")
                out[name] = _band(out[curve], len(labelled), alpha, copies(labelled))
    out["medians_over"] = "certified and correct clips" if labelled else "certified clips"
    if good:
        out["median_radius"] = median(r["radius"] for r in good)
        for view, middle in view_medians([r["views"] for r in good]).items():
            if view != "file_lsb" or _one_step(good):
                out[f"median_{view}"] = middle
        if spaces := list(dict.fromkeys(name for r in good for name in r.get("spaces", ()))):
            out["spaces"] = {name: _in_space(good, name) for name in spaces}
    return out


def _one_step(good: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the files have one quantisation step; radii in steps of several sizes have no median."""
    steps = {
        v["file_radius"] / v["file_lsb"]
        for v in (r["views"] for r in good)
        if v.get("file_lsb") and v.get("file_radius")
    }
    return not steps or math.isclose(min(steps), max(steps), rel_tol=1e-6)


def tied(records: Sequence[Mapping[str, Any]]) -> str | None:
    """Say what makes clips depend on each other, so that no interval over them holds; None where nothing does.

    Under a budget a clip's draws depend on the other clips; clips that were cut from one recording are alike.
    """
    if any(r.get("policy") == "budget" for r in records):
        return "a budget ties the clips together"
    parts = [r["recording"] for r in records if "recording" in r]
    if len(set(parts)) < len(parts):
        return "clips cut from one recording are not independent of each other"
    return None


def copies(records: Sequence[Mapping[str, Any]]) -> int:
    """Return how many clips are copies of others among them: the same samples, and so the same noise."""
    digests = [r["digest"] for r in records if "digest" in r]
    return len(digests) - len(set(digests))


_FIELDS = (
    "clip", "digest", "status", "n", "n0", "alpha", "sigma", "radii", "policy", "truth", "label", "radius", "saturated",
    "views", "spaces", "recording",
)  # fmt: skip


def _needed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the figures are made of, in little memory: equal names and labels of many records are one."""
    out = {name: record[name] for name in _FIELDS if name in record}
    for name in ("status", "policy", "truth", "label"):
        if type(out.get(name)) is str:
            out[name] = intern(out[name])
    if type(out.get("views")) is dict:
        out["views"] = {intern(name): value for name, value in out["views"].items()}
    return out


def _in_space(good: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the median radius carried to a space, and the chain of the clip that has it (the lower median)."""
    there = [(r["clip"], r["spaces"][name]) for r in good if name in r.get("spaces", ())]
    proven = [(clip, s) for clip, s in there if s["proven"]]
    if not proven:
        return {"proven": 0, "of": len(there), "reason": there[0][1]["reason"]}
    # A radius without limit is null.
    size = [math.inf if s["radius"] is None else s["radius"] for _, s in proven]
    clip, middle = proven[sorted(range(len(proven)), key=size.__getitem__)[(len(proven) - 1) // 2]]
    return {
        "proven": len(proven),
        "of": len(there),
        "median_radius": middle["radius"],
        "clip": clip,
        "chain": middle["chain"],
    }


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


def _curve_of_radii(good: Sequence[Mapping[str, Any]], total: int) -> dict[str, float]:
    if not good:
        return {}
    sigma = float(good[0]["sigma"])
    grid = good[0].get("radii") or [0.0, *(sigma * k / 2 for k in range(1, 8))]
    # A key rounded up would claim more than was counted. Every certificate holds at some radius above 0.
    return {format_down(r, significant=6): sum(g["radius"] >= r for g in good) / total for r in grid}


def _curve_of_snr(good: Sequence[Mapping[str, Any]], total: int, view: str) -> dict[str, float]:
    """Share certified against every perturbation at this SNR or quieter: the clip's own SNR is at most it."""
    levels = [g["views"].get(view, math.inf) for g in good]
    return {str(s): sum(level is None or level <= s for level in levels) / total for s in SNR_GRID}


def _band(curve: Mapping[str, float], total: int, alpha: float, again: int) -> dict[str, list[float]]:
    """Return intervals that hold for all points of a curve together (see `bounds.accuracy_band`)."""
    counts = [round(share * total) for share in curve.values()]
    band = accuracy_band(counts, total, CONFIDENCE_ALPHA, alpha, again)
    return {point: list(ends) for point, ends in zip(curve, band, strict=True)}
