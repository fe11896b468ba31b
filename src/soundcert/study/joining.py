"""Cells of a study that were done elsewhere: what another machine's `results.json`, or an earlier one, says of them.

Validation shares and counts of testing clips are in there fit by fit, which is all that choices and tables need; weights
and certificates are not. A cell that is begun in the study's own folder is never taken from elsewhere, and neither is one
that is not finished there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soundcert.errors import ConfigError
from soundcert.study.cells import Cell, Fit, cells_of, fits_of, members_of
from soundcert.study.config import StudyConfig
from soundcert.study.keeping import Lists, begun, placeless

FORMAT = 2
#: By a cell's name, what results say of it.
Elsewhere = Mapping[str, Mapping[str, Any]]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Tested(_Facts):
    contract: str | None
    data: str | None = None  # digest of the clips' names and labels, as in run.json
    alpha: float = Field(gt=0, lt=1)
    clips: int = Field(ge=0)
    reached: dict[str, int]
    policy: str | None
    recordings: list[str]


class _Split(_Facts):
    split: str
    validation: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    validation_data: str | None = None
    testing: _Tested | None = None


class _Training(_Facts):
    trained_fits: int


class _Cell(_Facts):
    name: str
    settings: str
    training: _Training
    splits: list[_Split]


class _Results(_Facts):
    format: Literal[2]
    targets: list[float]
    cells: list[_Cell]


def done_elsewhere(
    study: StudyConfig, base: Path, out: Path, files: Iterable[Path], only: Sequence[str] = ()
) -> dict[str, Mapping[str, Any]]:
    """Return the cells of a study that are not begun in `out`, as results files tell of them; the first that does counts.

    only: blocks to work on: their cells are done here, whatever the files tell.

    ConfigError for a file that is no results of this version, has other targets, or has a cell that was made with other
    settings.
    """
    cells = {cell.name: cell for cell in cells_of(study) if cell.block.name not in only}
    found: dict[str, Mapping[str, Any]] = {}
    lists = Lists()
    for file in files:
        results = _read(file)
        if missing := [t for t in study.targets if t not in results["targets"]]:
            raise ConfigError(
                f"{file} has no figures at {missing[0]:g} dB: its study had other `targets` than this one"
            )
        for told in results["cells"]:
            cell = cells.get(told["name"])
            if cell is None or cell.name in found:
                continue
            fits = fits_of(study, cell, base, out)
            if any(map(begun, fits)) or not _finished(told, cell, fits):
                continue
            if not told["settings"]:
                raise ConfigError(
                    f"{file}: the cell {cell.name} cannot be taken, since its members' weights were gone when this was "
                    f"written; name its block, --only {cell.block.name}, to do it here"
                )
            if told["settings"] != settings_digest(study, base, out, cell, fits):
                raise ConfigError(
                    f"{file}: the cell {cell.name} was made with other settings than this study gives it; name its block, "
                    f"--only {cell.block.name}, to do it here, or give it back its settings"
                )
            if any(_of_other_clips(told, fit, lists) for fit in fits):
                raise ConfigError(
                    f"{file}: the cell {cell.name} was made of other clips, or of clips with other labels, than the study's "
                    f"data have now; name its block, --only {cell.block.name}, to do it here"
                )
            try:
                found[cell.name] = _at_targets(told, study, cell)
            except (AttributeError, KeyError, TypeError):
                _refuse(file)
    return found


def weights_are_here(study: StudyConfig, cell: Cell, elsewhere: Elsewhere) -> None:
    """Raise ConfigError where an ensemble is to be done here and a member's weights are not."""
    for member in members_of(study, cell):
        if member.name in elsewhere:
            raise ConfigError(
                f"study: the ensemble {cell.name} needs the weights of {member.name}, and results bring none: name the "
                f"member's block too, --only {member.block.name}, to train it here"
            )


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError:
        _refuse(file)
    try:
        results: Any = json.loads(text)
        if isinstance(results, dict) and isinstance(made := results.get("format"), int) and made != FORMAT:
            raise ConfigError(
                f"{file} has format {made}, and cells are taken from format {FORMAT} alone: write it anew with "
                "`soundcert study … --write-only`, where its runs are"
            )
        _Results.model_validate(results)
    except (RecursionError, json.JSONDecodeError, ValidationError):
        _refuse(file)
    out: dict[str, Any] = results
    return out


def _refuse(file: Path) -> NoReturn:
    raise ConfigError(f"{file} is not the results.json of a study, or was changed") from None


def _finished(told: Mapping[str, Any], cell: Cell, fits: Sequence[Fit]) -> bool:
    """Whether nothing is left to do for a cell, as far as that does not depend on what other cells are chosen for."""
    if fits[0].trains and told["training"]["trained_fits"] < len(fits):
        return False
    parts = [split_of(told, fit.split.name) for fit in fits]
    looked = cell.block.choose is None or all(p.get("validation") is not None for p in parts)
    return looked and (cell.block.test != "all" or all(p.get("testing") for p in parts))


def _of_other_clips(told: Mapping[str, Any], fit: Fit, lists: Lists) -> bool:
    """Whether a fit's figures are of another list than the config's is now, as far as both are known."""
    part = split_of(told, fit.split.name)
    testing = part.get("testing") or {}
    seen = [(testing.get("data"), fit.testing().data)]
    if fit.cell.block.choose is not None:
        seen.append((part.get("validation_data"), fit.choosing().data))
    return any(
        then is not None and (now := lists.digest(data, fit.folder)) is not None and now != then
        for then, data in seen
    )


def _at_targets(told: Mapping[str, Any], study: StudyConfig, cell: Cell) -> Mapping[str, Any]:
    """Return what is told of a cell, in this study's words and at its targets, in their order."""
    keys = [f"{t:g}" for t in study.targets]
    out = {
        **told,
        "block": cell.block.name,
        "data": cell.data,
        "pipeline": cell.pipeline,
        "model": cell.model,
    }
    out["values"] = dict(cell.values)
    if "validation_share_at_target" in told:
        out["validation_share_at_target"] = {key: told["validation_share_at_target"][key] for key in keys}
    splits = []
    for part in told["splits"]:
        new = {key: value for key, value in part.items() if value is not None}
        if "validation" in new:
            new["validation"] = {key: new["validation"][key] for key in keys}
        if "testing" in new:
            new["testing"] = {
                **new["testing"],
                "reached": {key: new["testing"]["reached"][key] for key in keys},
            }
        splits.append(new)
    out["splits"] = splits
    return out


def settings_digest(study: StudyConfig, base: Path, out: Path, cell: Cell, fits: Sequence[Fit]) -> str:
    """Return what a cell is made with, its members included, as 16 hex digits, wherever data and weights lie."""
    values = [_settings(fit, base) for fit in fits]
    members = [
        settings_digest(study, base, out, member, fits_of(study, member, base, out))
        for member in members_of(study, cell)
    ]
    text = json.dumps([values, members, cell.block.choose], sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _settings(fit: Fit, base: Path) -> list[Any]:
    config = fit.config.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    if "start" in config.get("train", {}):
        config["train"]["start"] = os.path.relpath(config["train"]["start"], base.resolve())
    if fit.config.train is None:  # the weights are the members': their places differ, their settings are told
        *front, last = config["pipeline"]
        consensus = last["model"].get("consensus")
        config["pipeline"] = front if consensus is None else [*front, {"model": {"consensus": consensus}}]
    validation = fit.split.validation.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return [placeless(config), placeless(validation)]


def split_of(told: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """Return what a cell's results say of one of its splits."""
    return next((s for s in told["splits"] if s["split"] == split), {})


def share_at(told: Mapping[str, Any], split: str, targets: Sequence[float]) -> list[float] | None:
    """Return the share of a split's validation clips that reach each target; None where nobody looked."""
    shares = split_of(told, split).get("validation")
    return None if shares is None else [shares[f"{t:g}"] for t in targets]
