"""Whether what is kept of a study is what its config asks for, so that finished work is never told as another's.

Finished runs are not opened again for their own sake: whoever is about to skip them, or to tell of them, asks here.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from soundcert.config import CertifyConfig, Config
from soundcert.data import DataConfig, load_items
from soundcert.errors import ConfigError
from soundcert.pipeline import Pipeline
from soundcert.runs.certify_run import list_digest
from soundcert.runs.directory import read_json
from soundcert.runs.values import leaves
from soundcert.study.cells import Fit


class Lists:
    """The digests of data lists as they are now, each read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Path], str] = {}

    def digest(self, data: DataConfig | None, base: Path) -> str | None:
        """Return the digest of a list's names and labels; None for a list that is not here."""
        if data is None or not (base / data.root.expanduser()).exists():
            return None
        key = (data.model_dump_json(), base if not data.root.is_absolute() else Path())
        if key not in self._known:
            self._known[key] = list_digest(load_items(data, base))
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
        there = [(folder, config) for folder, config in runs if (folder / "run.json").exists()]
        model = model_digest(fit) if there else None
        for folder, config in there:
            _same_run(folder, config, lists.digest(config.data, fit.folder), model)


def begun(fit: Fit) -> bool:
    """Whether more than the config of a fit is here: a stopped run may have made every cell's folder."""
    return fit.folder.exists() and any(not path.name.startswith("config.") for path in fit.folder.iterdir())


def _same_recipe(fit: Fit) -> None:
    """Raise ConfigError unless the folder's config has the fit's pipeline and recipe; testing settings may follow later."""
    file = fit.folder / "config.yaml"
    if not (file.exists() and begun(fit)):
        return
    try:
        before: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise ConfigError(f"{file} is no config: restore it, or remove its folder to make the cell anew")
    values = fit.config.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    then, now = (placeless({part: v.get(part) for part in ("pipeline", "train")}) for v in (before, values))
    began, begins = (str((v["train"] or {}).pop("start", "")) for v in (then, now))
    for part in then:
        if then[part] != now[part]:
            raise _refusal(fit.folder, _other(part, then[part], now[part]))
    if not _same_file(began, begins):
        raise _refusal(fit.folder, f"with another train ({begins or 'no file'} is not what it began with)")


def _same_file(a: str, b: str) -> bool:
    """Whether two places may hold one file: of one name, and of the same bytes as far as both are here."""
    one, other = Path(a), Path(b)
    if one == other or one.name != other.name:
        return one == other
    return not (one.is_file() and other.is_file()) or filecmp.cmp(one, other, shallow=False)


def _same_run(folder: Path, config: Config, clips: str | None, model: str | None) -> None:
    facts = read_json(folder / "run.json")
    before, made = facts.get("config"), facts.get("identity")
    if not (isinstance(before, dict) and isinstance(made, dict)):
        raise ConfigError(f"{folder / 'run.json'} does not say what the run was made with: restore it")
    values = config.model_dump(mode="json", exclude_none=True)
    for part, kind in (("certify", CertifyConfig), ("data", DataConfig)):
        then, now = placeless(_read_again(kind, before.get(part))), placeless(values[part])
        if then != now:
            raise _refusal(folder, _other(part, then, now))
    if clips is not None and made.get("data") != clips:
        raise _refusal(folder, "of other clips, or of clips with other labels")
    if model is not None and made.get("model") != model:
        raise _refusal(folder, "with other weights")


def _read_again(kind: type[BaseModel], values: Any) -> Any:
    """Return settings as this version writes them: one that came later has its default."""
    try:
        return kind.model_validate(values).model_dump(mode="json", exclude_none=True)
    except ValidationError:
        return values


def _other(part: str, then: Any, now: Any) -> str:
    """Return in words that a part of the settings is another, and the first place where it is."""
    different = (leaf for leaf in leaves(then, now, part) if leaf[1] != leaf[2])
    place, a, b = next(different, (part, then, now))
    return f"with another {part} ({place} was {_shown(a)}, the config asks for {_shown(b)})"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _refusal(folder: Path, how: str) -> ConfigError:
    return ConfigError(f"{folder} was made {how}: remove it to make it anew, or choose another --out")


def model_digest(fit: Fit) -> str | None:
    """Return the digest of a fit's weights, an ensemble's of all its members'; None where they are not here."""
    stages = fit.config.model_dump(mode="json", include={"pipeline"})["pipeline"]
    if not all((fit.folder / weights).exists() for weights in _weights(stages)):
        return None
    model = Pipeline.from_config(fit.config, fit.folder).model
    return model.digest if model else None


def _weights(values: Any) -> Iterator[str]:
    """Yield the weights that stages name, ensembles' members included."""
    if isinstance(values, dict):
        for key, value in values.items():
            if key == "weights" and isinstance(value, str):
                yield value
            else:
                yield from _weights(value)
    elif isinstance(values, list):
        for value in values:
            yield from _weights(value)


def placeless(values: Any) -> Any:
    """Return settings without the folders of their data, and numbers to 12 digits: the last differ between machines."""
    if isinstance(values, dict):
        kept = {key: placeless(value) for key, value in values.items() if key != "root"}
        if values.get("source") == "manifest" and "root" in values:  # its list's name says which clips
            kept["root"] = Path(values["root"]).name
        return kept
    if isinstance(values, list):
        return [placeless(value) for value in values]
    return float(f"{values:.12g}") if isinstance(values, float) else values
