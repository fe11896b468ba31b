"""Which cell serves which target: chosen on validation clips alone, in every fold by itself.

Cells of one data set and one pipeline (σ, floors, models) compete. The score for a target is the share of validation
clips whose estimated certificate reaches it, with the right label. The estimate's level is ½: it is as often too
large as too small and claims nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundcert.runs import open_run
from soundcert.study.cells import Cell, asks, fit_folder
from soundcert.study.config import StudyConfig
from soundcert.study.joining import Elsewhere, share_at


@dataclass(frozen=True)
class Choice:
    """The cell that validation clips chose. target: an SNR in dB, or None for the one model for all targets."""

    data: str
    pipeline: str
    split: str
    target: float | None
    cell: str
    score: float
    folder: Path


def validation_shares(folder: Path, targets: Sequence[float]) -> list[float] | None:
    """Return the share of validation clips that reach each target by a fit's estimates; None before there are any."""
    if not (folder / "validation" / "report.json").exists():
        return None
    run = open_run(folder / "validation")
    total = len(run.usable)
    levels = [r["views"].get("file_snr_db", float("inf")) for r in run.good]
    return [sum(x is None or x <= t for x in levels) / total if total else 0.0 for t in targets]


def choices(
    study: StudyConfig, cells: Iterable[Cell], out: Path, elsewhere: Elsewhere | None = None
) -> list[Choice]:
    """Return what validation clips choose, for each target and for all of them together.

    elsewhere: cells that other results tell of (`joining`), which compete as those in `out` do. Only cells whose every
    fit was looked at take part, and for a target only those whose testing clips are asked about it (all, where none is).
    Ties go to the better sum over all targets, then to the cell that stands first in the grid.
    """
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.block.choose is not None:
            groups[cell.data, cell.pipeline].append(cell)
    found = []
    for (data, pipeline), members in groups.items():
        for split in split_names(study, data):
            shares: dict[str, tuple[Path, list[float]]] = {}
            for cell in members:
                folder = fit_folder(out, cell, split)
                if elsewhere and cell.name in elsewhere:
                    seen = share_at(elsewhere[cell.name], split, study.targets)
                else:
                    seen = validation_shares(folder, study.targets)
                if seen is not None:
                    shares[cell.name] = (folder, seen)
            if not shares:
                continue
            asked = {c.name: [asks(study, c, t) for t in study.targets] for c in members if c.name in shares}
            for target, name, score in best_cells({k: v[1] for k, v in shares.items()}, study.targets, asked):
                found.append(Choice(data, pipeline, split, target, name, score, shares[name][0]))
    return found


def best_cells(
    shares: Mapping[str, Sequence[float]],
    targets: Sequence[float],
    asked: Mapping[str, Sequence[bool]] | None = None,
) -> list[tuple[float | None, str, float]]:
    """Return (target, cell, score) for each target, then (None, cell, mean score) for one cell for all.

    shares: by cell, the score at each target. asked: by cell, whether it competes for each target; by default all do.
    """
    means = {name: sum(values) / len(values) for name, values in shares.items()}
    out: list[tuple[float | None, str, float]] = []
    for i, target in enumerate(targets):
        able = [n for n in shares if asked is None or asked[n][i]] or list(shares)
        name = max(able, key=lambda n: (shares[n][i], means[n]))
        out.append((target, name, shares[name][i]))
    name = max(means, key=lambda n: means[n])
    return [*out, (None, name, means[name])]


def chosen_folders(
    study: StudyConfig, cells: Iterable[Cell], out: Path, elsewhere: Elsewhere | None = None
) -> set[Path]:
    """Return the folders of the fits that any target chose."""
    return {c.folder for c in choices(study, cells, out, elsewhere)}


def split_names(study: StudyConfig, data: str) -> list[str]:
    """Return the names of a data set's splits, as `cells.splits_of` gives them."""
    return [f"fold-{fold}" for fold in study.data[data].folds] or [""]
