"""A study read back from its run directories: every figure of its tables, as JSON values.

Folds of a cell are pooled: each clip is tested once, by the fit whose fold it is in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from soundcert.bounds import accuracy_interval
from soundcert.runs import Run, open_run
from soundcert.runs.directory import read_json
from soundcert.runs.summary import CONFIDENCE_ALPHA, summarise, tied
from soundcert.study.cells import Cell, Fit, cells_of, fits_of
from soundcert.study.choosing import Choice, choices, validation_shares
from soundcert.study.config import StudyConfig
from soundcert.study.running import finished, training_record

FORMAT = 1


def collect(study: StudyConfig, base: Path, out: Path) -> dict[str, Any]:
    """Return the study's results. What is not finished is left out and named under `unfinished`."""
    cells = cells_of(study)
    fits = {cell.name: fits_of(study, cell, base, out) for cell in cells}
    picked = choices(study, cells, out)
    used = {c.folder for c in picked}
    unfinished = [
        fit.name
        for group in fits.values()
        for fit in group
        if not finished(fit) and (fit.cell.block.test == "all" or fit.folder in used)
    ]
    return {
        "format": FORMAT,
        "title": study.title,
        "targets": list(study.targets),
        "data": {
            name: {"title": d.title, "note": d.note, "folds": list(d.folds)} for name, d in study.data.items()
        },
        "models": {
            name: {"members": [member.model for member in m.members]}
            if m.members
            else {"network": m.network, "options": m.options}
            for name, m in study.models.items()
        },
        "published": study.published.model_dump() if study.published else None,
        "cells": [_cell(study, cell, fits[cell.name]) for cell in cells],
        "choices": [_choice(c) for c in picked],
        "targets_reached": _reached(study, picked, {fit.folder: fit for g in fits.values() for fit in g}),
        "unfinished": unfinished,
    }


def _cell(study: StudyConfig, cell: Cell, fits: Sequence[Fit]) -> dict[str, Any]:
    trained = [training_record(fit) for fit in fits]
    tested = [fit for fit in fits if finished(fit)]
    runs = [open_run(fit.folder / "run") for fit in tested]
    out: dict[str, Any] = {
        "name": cell.name,
        "block": cell.block.name,
        "data": cell.data,
        "pipeline": cell.pipeline,
        "model": cell.model,
        "values": dict(cell.values),
        "stages": [run.contract.get("kind") for run in runs[:1]],
        "fits": len(fits),
        "tested_fits": len(tested),
        "training": _training(trained),
    }
    seen = [shares for fit in fits if (shares := validation_shares(fit.folder, study.targets)) is not None]
    if seen:
        out["validation_share_at_target"] = {
            f"{t:g}": _mean(column) for t, column in zip(study.targets, zip(*seen, strict=True), strict=True)
        }
    if len(tested) == len(fits):
        out["testing"] = _testing(study, tested, runs)
    return out


def _training(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = [r for r in records if r]
    if not done:
        return {"trained_fits": 0}
    return {
        "trained_fits": len(done),
        "epochs": [r["epochs_run"] for r in done],
        "best_epochs": [r["epoch"] for r in done],
        "validation_accuracy_under_noise": _mean([r["validation_accuracy_under_noise"] for r in done]),
        "seconds": round(sum(r["seconds"] for r in done), 1),
    }


def _testing(study: StudyConfig, fits: Sequence[Fit], runs: Sequence[Run]) -> dict[str, Any]:
    records = [r for run in runs for r in run.records]
    clean = [read_json(fit.folder / "clean.json") for fit in fits]
    usable = [r for run in runs for r in run.usable]
    good = [r for run in runs for r in run.good]
    settings = fits[0].config.certify
    out = summarise(records)
    out |= {
        "contract": runs[0].contract,
        "n": settings.n,
        "alpha": settings.alpha,
        "policy": "decide" if settings.decide else "fixed",
        "clean_accuracy": sum(c["right"] for c in clean) / max(1, sum(c["total"] for c in clean)),
        "clean_accuracy_over": sum(c["total"] for c in clean),
        "ceiling": max((r["ceiling"] for r in usable), default=None),
        "wall_seconds": round(sum(r.get("seconds", 0.0) for r in usable), 1),
        "certified_at_target": {f"{t:g}": _at_target(good, t) / max(1, len(usable)) for t in study.targets},
    }
    for field in ("displacement", "sensitivity"):
        values = [r[field] for r in usable if field in r]
        if values:
            out[f"median_{field}"] = median(values)
    return out


def _at_target(good: Iterable[Mapping[str, Any]], target: float) -> int:
    """Count the clips certified for the file against every perturbation at this SNR or quieter."""
    levels = [r["views"].get("file_snr_db", float("inf")) for r in good]
    return sum(x is None or x <= target for x in levels)


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "data": choice.data,
        "pipeline": choice.pipeline,
        "split": choice.split,
        "target": choice.target,
        "cell": choice.cell,
        "validation_score": choice.score,
    }


def _reached(study: StudyConfig, picked: Sequence[Choice], fits: Mapping[Path, Fit]) -> list[dict[str, Any]]:
    """Return certified accuracy over testing clips at each target, by the cells that validation clips chose.

    `per_target`: the cell chosen for that target, in each fold. `one_model`: the one cell chosen for all targets.
    `interval_95` is null, and `no_interval` says why, where the clips of all folds together are not independent.
    """
    grouped: dict[tuple[str, str], list[Choice]] = defaultdict(list)
    for choice in picked:
        grouped[choice.data, choice.pipeline].append(choice)
    out = []
    for (data, pipeline), members in grouped.items():
        if not all(finished(fits[c.folder]) for c in members):
            continue
        runs = {c.folder: open_run(c.folder / "run") for c in members}
        alpha = max(fits[c.folder].config.certify.alpha for c in members)

        def figure(chosen: Sequence[Choice], target: float) -> dict[str, Any]:
            count = sum(_at_target(runs[c.folder].good, target) for c in chosen)  # noqa: B023
            total = sum(len(runs[c.folder].usable) for c in chosen)  # noqa: B023
            reason = tied([r for c in chosen for r in runs[c.folder].usable])  # noqa: B023
            ends = None if reason else accuracy_interval(count, total, CONFIDENCE_ALPHA, alpha)  # noqa: B023
            return {
                "cells": sorted({c.cell for c in chosen}),
                "count": count,
                "total": total,
                "interval_95": list(ends) if ends else None,
                **({"no_interval": reason} if reason else {}),
                "validation": _mean([c.score for c in chosen]),
            }

        overall = [c for c in members if c.target is None]
        out.append(
            {
                "data": data,
                "pipeline": pipeline,
                "contract": runs[members[0].folder].contract.get("kind"),
                "alpha": alpha,
                "per_target": {
                    f"{t:g}": figure([c for c in members if c.target == t], t) for t in study.targets
                },
                "one_model": {f"{t:g}": figure(overall, t) for t in study.targets},
            }
        )
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
