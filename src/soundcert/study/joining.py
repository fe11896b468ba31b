"""Cells of a study that were done elsewhere: what another machine's `results.json`, or an earlier one, says of them.

Validation shares and counts of testing clips are in there fit by fit, which is all that choices and tables need; weights
and certificates are not. A cell that the study's own folder knows is never taken from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from soundcert.data import without_roots
from soundcert.errors import ConfigError
from soundcert.study.cells import Fit, cells_of, fits_of, members_of
from soundcert.study.config import StudyConfig

FORMAT = 2
#: By a cell's name, what results say of it.
Elsewhere = Mapping[str, Mapping[str, Any]]


def done_elsewhere(
    study: StudyConfig, base: Path, out: Path, files: Iterable[Path], only: Sequence[str] = ()
) -> dict[str, Mapping[str, Any]]:
    """Return the cells of a study that `out` has no folder of, as results files tell of them; the first that does counts.

    only: blocks to work on: their cells are done here, whatever the files tell.

    ConfigError for a file that is no results of this version, has other targets, or has a cell that was made with other
    settings; and for an ensemble to be done here whose members are elsewhere.
    """
    cells = {cell.name: cell for cell in cells_of(study) if cell.block.name not in only}
    found: dict[str, Mapping[str, Any]] = {}
    for file in files:
        results = _read(file)
        if missing := [t for t in study.targets if t not in results["targets"]]:
            raise ConfigError(
                f"{file} has no figures at {missing[0]:g} dB: its study had other `targets` than this one"
            )
        for told in results["cells"]:
            cell = cells.get(told["name"])
            if cell is None or cell.name in found or not _done(told):
                continue
            fits = fits_of(study, cell, base, out)
            if any(fit.folder.exists() for fit in fits):
                continue
            if told["settings"] != settings_digest(fits):
                raise ConfigError(
                    f"{file}: the cell {cell.name} was made with other settings than this study gives it; do it here "
                    "without this file, or give it back its settings"
                )
            found[cell.name] = told
    for cell in cells_of(study):
        done = cell.name in found or (only and cell.block.name not in only)
        for member in () if done else members_of(study, cell):
            if member.name in found:
                raise ConfigError(
                    f"study: the ensemble {cell.name} needs the weights of {member.name}, and results bring none: name the "
                    f"member's block too, --only {member.block.name}, to train it here"
                )
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        results: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError:
        results = None
    strange = ConfigError(f"{file} is not the results.json of a study")
    if not isinstance(results, dict) or "format" not in results:
        raise strange
    if results["format"] != FORMAT:
        raise ConfigError(
            f"{file} has format {results.get('format')}, and cells are taken from format {FORMAT} alone: write it anew with "
            "`soundcert study … --write-only`, where its runs are"
        )
    try:
        for told in results["cells"]:
            (told["name"], told["settings"], [s["split"] for s in told["splits"]], _done(told))
    except (KeyError, TypeError, AttributeError):
        raise strange from None
    if not isinstance(results.get("targets"), list):
        raise strange
    return results


def _done(told: Mapping[str, Any]) -> bool:
    """Whether results tell anything of a cell."""
    return told["training"]["trained_fits"] > 0 or any(
        "validation" in s or "testing" in s for s in told["splits"]
    )


def settings_digest(fits: Sequence[Fit]) -> str:
    """Return what a cell's fits are made with, as 16 hex digits, wherever data and weights lie."""
    values = []
    for fit in fits:
        config = without_roots(fit.config.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
        if "start" in config.get("train", {}):
            config["train"]["start"] = Path(config["train"]["start"]).name
        values.append([config, fit.cell.block.choose])
    return blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


def split_of(told: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """Return what a cell's results say of one of its splits."""
    return next((s for s in told["splits"] if s["split"] == split), {})


def share_at(told: Mapping[str, Any], split: str, targets: Sequence[float]) -> list[float] | None:
    """Return the share of a split's validation clips that reach each target; None where nobody looked."""
    shares = split_of(told, split).get("validation")
    return None if shares is None else [shares[f"{t:g}"] for t in targets]
