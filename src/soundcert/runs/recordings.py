"""The recordings that a run is about, found again from what its run.json says.

A recording counts only if its digest is the record's: a file of the same name may be another one by now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcert.audio import Clip
from soundcert.config import Config, validate
from soundcert.data import LIST_SUFFIXES, DataConfig, Item, load_items
from soundcert.errors import InputError, RunError, SoundcertError
from soundcert.runs.directory import RUN


@dataclass(frozen=True)
class Recordings:
    """A run's config, the folder that its relative paths start from, and its data list by name."""

    path: Path
    config: Config
    folder: Path
    items: Mapping[str, Item]

    def clip(self, record: Mapping[str, Any], *, moved: bool = False) -> Clip:
        """Return the recording of a record.

        moved: where no clip of the list has the record's name, take one whose last part is equal: a list may
        start at another folder by now. RunError where the list has no such clip, or holds another recording under
        its name; InputError where the file cannot be read.
        """
        name = record["clip"]
        gone = RunError(
            f"{self.path} has a certificate for {name!r}, which its data list no longer holds: restore the data"
        )
        if name in self.items:
            places = [self.items[name]]
            other: SoundcertError = RunError(
                f"{name!r} is another recording than {self.path} certified (the digest differs): restore the data"
            )
        else:
            places = [item for key, item in self.items.items() if moved and _last(key) == _last(name)]
            other = gone
        problem: SoundcertError = gone
        for item in places:
            try:
                clip = item.load(name)
            except InputError as error:
                problem = error
                continue
            if clip.digest == record.get("digest"):
                return clip
            problem = other
        raise problem


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def config_of(path: Path, info: Mapping[str, Any]) -> Config:
    """Return the config that a run was made with; ConfigError where this version does not know it."""
    return validate(Config, dict(info.get("config") or {}), f"{path / RUN}, config")


def folder_of(info: Mapping[str, Any]) -> Path | None:
    """Return the folder that the config's relative paths start from; None where the run did not record it."""
    folder = info.get("folder")
    return Path(folder) if isinstance(folder, str) else None


def recordings_of(
    path: Path,
    info: Mapping[str, Any],
    *,
    base: Path | None = None,
    otherwise: Path | None = None,
    data: Path | None = None,
) -> Recordings:
    """Return the recordings of a run.

    info: its run.json. base: the folder that the config's relative paths start from, in place of the recorded one.
    otherwise: a folder to try after that. data: a folder or list in place of the config's own. Raises
    RunError where there is no list.
    """
    config = config_of(path, info)
    chosen = config.data
    if data is not None:
        kind = "manifest" if data.suffix.lower() in LIST_SUFFIXES else "folder"
        chosen = validate(DataConfig, {"source": kind, "root": data.resolve()}, "--data")
    if chosen is None:
        raise RunError(f"{path} names no data: give --data, the folder or the list of its clips")
    folders = [f for f in (base or folder_of(info), otherwise) if f is not None]
    if data is not None and not folders:
        folders = [Path()]
    problem = "it did not record where its data lie"
    for folder in folders:
        try:
            items = {item.name: item for item in load_items(chosen, folder)}
        except (SoundcertError, OSError) as error:
            problem = str(error)
            continue
        return Recordings(path, config, folder, items)
    advice = (
        "" if base or otherwise else ": give --base, the folder that the config's relative paths start from"
    )
    raise RunError(f"the recordings of {path} cannot be found: {problem}{advice}")
