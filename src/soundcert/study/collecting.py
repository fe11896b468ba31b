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
from soundcert.runs.summary import CONFIDENCE_ALPHA, copies, summarise, tied
from soundcert.study.cells import Cell, Fit, cells_of, fits_of
from soundcert.study.choosing import Choice, choices, validation_shares
from soundcert.study.config import StudyConfig
from soundcert.study.joining import FORMAT, Elsewhere, settings_digest, split_of
from soundcert.study.keeping import model_digest, refuse_changed
from soundcert.study.running import finished, training_record


def collect(study: StudyConfig, base: Path, out: Path, elsewhere: Elsewhere | None = None) -> dict[str, Any]:
    """Return the study's results. What is not finished is left out and named under `unfinished`.

    ConfigError where a cell was made otherwise than the study now asks for (`keeping`).

    elsewhere: cells that other results tell of (`joining.done_elsewhere`), taken as they are and named under `joined`.
    """
    elsewhere = elsewhere or {}
    cells = cells_of(study)
    fits = {cell.name: fits_of(study, cell, base, out) for cell in cells}
    refuse_changed(fit for cell in cells if cell.name not in elsewhere for fit in fits[cell.name])
    picked = choices(study, cells, out, elsewhere)
    used = {c.folder for c in picked}
    told = [
        elsewhere.get(cell.name)
        or {
            **_cell(study, cell, fits[cell.name]),
            "settings": _settings(study, base, out, cell, fits[cell.name]),
        }
        for cell in cells
    ]
    known = {t["name"]: t for t in told}
    unfinished = [
        fit.name
        for group in fits.values()
        for fit in group
        if "testing" not in split_of(known[fit.cell.name], fit.split.name)
        and (fit.cell.block.test == "all" or fit.folder in used)
    ]
    return {
        "format": FORMAT,
        "title": study.title,
        "targets": list(study.targets),
        "data": {
            name: {"title": d.title, "note": d.note, "folds": list(d.folds)} for name, d in study.data.items()
        },
        "models": {
            name: {
                "members": [member.model for member in m.members],
                **({} if m.consensus is None else {"consensus": m.consensus}),
            }
            if m.members
            else {"network": m.network, "options": m.options}
            for name, m in study.models.items()
        },
        "published": study.published.model_dump() if study.published else None,
        "cells": told,
        "choices": [_choice(c) for c in picked],
        "targets_reached": _reached(study, picked, known),
        "unfinished": unfinished,
        "joined": [cell.name for cell in cells if cell.name in elsewhere],
    }


def _settings(study: StudyConfig, base: Path, out: Path, cell: Cell, fits: Sequence[Fit]) -> str:
    """Return the digest of what a cell was made with; "" where nobody can tell, so that no other study takes it."""
    told = [fit for fit in fits if any((fit.folder / part).exists() for part in ("run", "validation"))]
    if any(not fit.trains and model_digest(fit) is None for fit in told):
        return ""  # the members' weights are gone, and may have been made by other recipes than today's
    return settings_digest(study, base, out, cell, fits)


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
        "splits": [_split(study, fit) for fit in fits],
    }
    seen = [s["validation"] for s in out["splits"] if "validation" in s]
    if seen:
        out["validation_share_at_target"] = {key: _mean([s[key] for s in seen]) for key in seen[0]}
    if len(tested) == len(fits):
        out["testing"] = _testing(study, tested, runs)
    return out


def _split(study: StudyConfig, fit: Fit) -> dict[str, Any]:
    """What choices and targets need to know of a fit."""
    out: dict[str, Any] = {"split": fit.split.name}
    looked = fit.cell.block.choose is not None
    shares = validation_shares(fit.folder, study.targets) if looked else None
    if shares is not None:
        out["validation"] = {f"{t:g}": share for t, share in zip(study.targets, shares, strict=True)}
        out["validation_data"] = open_run(fit.folder / "validation").info["identity"]["data"]
    if finished(fit):
        run = open_run(fit.folder / "run")
        out["testing"] = {
            "contract": run.contract.get("kind"),
            "data": run.info["identity"]["data"],
            "weights": run.info["identity"]["model"],
            "alpha": run.certify["alpha"],
            "n": run.certify["n"],
            "engine": run.contract.get("engine"),
            "clips": len(run.usable),
            "copies": copies(run.usable),
            "reached": {f"{t:g}": _at_target(run.good, t) for t in study.targets},
            # What `tied` asks of records.
            "policy": "budget" if any(r.get("policy") == "budget" for r in run.usable) else None,
            "recordings": [r["recording"] for r in run.usable if "recording" in r],
        }
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
    settings = runs[0].certify
    out = summarise(records)
    out |= {
        "contract": runs[0].contract,
        "n": settings["n"],
        "alpha": settings["alpha"],
        "policy": "decide" if settings.get("decide") else "fixed",
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


def _reached(
    study: StudyConfig, picked: Sequence[Choice], told: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return certified accuracy over testing clips at each target, by the cells that validation clips chose.

    `per_target`: the cell chosen for that target, in each fold. `one_model`: the one cell chosen for all targets.
    `interval_95` is null, and `no_interval` says why, where the clips of all folds together are not independent.
    """
    grouped: dict[tuple[str, str], list[tuple[Choice, Mapping[str, Any]]]] = defaultdict(list)
    for choice in picked:
        tested = split_of(told[choice.cell], choice.split).get("testing", {})
        grouped[choice.data, choice.pipeline].append((choice, tested))
    # Cells of one data set test the same clips; results of earlier versions do not say how many are copies.
    known: dict[tuple[str, str], int] = {}
    for cell in told.values():
        for part in cell["splits"]:
            key, again = (cell["data"], part["split"]), part.get("testing", {}).get("copies", 0)
            known[key] = max(known.get(key, 0), again)
    out = []
    for (data, pipeline), members in grouped.items():
        if not all(tested for _, tested in members):
            continue
        alpha = max(tested["alpha"] for _, tested in members)

        def figure(target: float, chosen_for: float | None) -> dict[str, Any]:
            chosen = [(c, tested) for c, tested in members if c.target == chosen_for]  # noqa: B023
            count = sum(tested["reached"][f"{target:g}"] for _, tested in chosen)
            total = sum(tested["clips"] for _, tested in chosen)
            reason = tied(
                [{"policy": tested["policy"]} for _, tested in chosen]
                + [{"recording": name} for _, tested in chosen for name in tested["recordings"]]
            )
            again = sum(known.get((data, c.split), 0) for c, _ in chosen)  # noqa: B023
            ends = None if reason else accuracy_interval(count, total, CONFIDENCE_ALPHA, alpha, again)  # noqa: B023
            return {
                "cells": sorted({c.cell for c, _ in chosen}),
                "count": count,
                "total": total,
                "interval_95": list(ends) if ends else None,
                **({"no_interval": reason} if reason else {}),
                "validation": _mean([c.score for c, _ in chosen]),
            }

        out.append(
            {
                "data": data,
                "pipeline": pipeline,
                "contract": members[0][1]["contract"],
                "alpha": alpha,
                "per_target": {f"{t:g}": figure(t, t) for t in study.targets},
                "one_model": {f"{t:g}": figure(t, None) for t in study.targets},
            }
        )
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
