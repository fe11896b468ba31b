"""Whether what is kept of a study is what its config asks for, so that finished work is never told as another's.

Finished runs are not opened again for their own sake: whoever is about to skip them, or to tell of them, asks here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from soundcert.config import Config
from soundcert.data import DataConfig, load_items, without_roots
from soundcert.errors import ConfigError, SoundcertError
from soundcert.pipeline import Pipeline
from soundcert.runs.certify_run import list_digest
from soundcert.runs.directory import read_json
from soundcert.study.cells import Fit


class Lists:
    """The digests of data lists as they are now, each read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Path], str | None] = {}

    def digest(self, data: DataConfig | None, base: Path) -> str | None:
        """Return the digest of a list's names and labels; None for a list that cannot be read here."""
        if data is None:
            return None
        key = (data.model_dump_json(), base if not data.root.is_absolute() else Path())
        if key not in self._known:
            try:
                self._known[key] = list_digest(load_items(data, base))
            except SoundcertError:
                self._known[key] = None
        return self._known[key]


def refuse_changed(fits: Iterable[Fit]) -> None:
    """Raise ConfigError where anything that is kept of the fits was made otherwise than the study now asks for.

    Compared are the pipeline and the recipe that made the weights, and of the runs of validation and testing clips
    their settings, the names and labels of their clips, and the weights that were certified. Lists and weights that are
    not here any more are not compared, so that tables can still be written of what is kept.
    """
    lists = Lists()
    for fit in fits:
        _same_recipe(fit)
        runs = [(fit.folder / "run", fit.testing())]
        if fit.cell.block.choose is not None:
            runs.append((fit.folder / "validation", fit.choosing()))
        begun = [(folder, config) for folder, config in runs if (folder / "run.json").exists()]
        model = model_digest(fit) if begun else None
        for folder, config in begun:
            _same_run(folder, config, lists.digest(config.data, fit.folder), model)


def _same_recipe(fit: Fit) -> None:
    """Raise ConfigError unless the folder's config has the fit's pipeline and recipe; testing settings may follow later."""
    file = fit.folder / "config.yaml"
    if not file.exists():
        return
    before = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    values = fit.config.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    for part in ("pipeline", "train"):
        if without_roots(before.get(part)) != without_roots(values.get(part)):
            raise ConfigError(
                f"{fit.folder} was made with another {part}: remove it, or choose another --out"
            )


def _same_run(folder: Path, config: Config, clips: str | None, model: str | None) -> None:
    facts = read_json(folder / "run.json")
    before, made = facts.get("config", {}), facts.get("identity", {})
    values = config.model_dump(mode="json", exclude_none=True)
    for part in ("certify", "data"):
        if without_roots(before.get(part)) != without_roots(values[part]):
            raise _refusal(folder, f"with another {part}")
    if clips is not None and made.get("data") != clips:
        raise _refusal(folder, "of other clips, or of clips with other labels")
    if model is not None and made.get("model") != model:
        raise _refusal(folder, "with other weights")


def _refusal(folder: Path, how: str) -> ConfigError:
    return ConfigError(f"{folder} was made {how}: remove it to make it anew, or choose another --out")


def model_digest(fit: Fit) -> str | None:
    """Return the digest of a fit's weights, an ensemble's of all its members'; None where they are not here."""
    try:
        model = Pipeline.from_config(fit.config, fit.folder).model
    except SoundcertError:
        return None
    return model.digest if model else None
