"""A folder of audio: with a table of its clips, with one folder a class, or flat and unlabelled."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, InputError
from .items import (
    AUDIO_SUFFIXES,
    SPLITS,
    Item,
    audio_below,
    canonical_split,
    entries,
    is_audio,
    require_folder,
)
from .manifest import metadata_items

_TABLES = ("metadata.csv", "metadata.jsonl")


def folder_items(root: Path) -> list[Item]:
    """The label is as `metadata.csv` says, or else the first folder below the root, however deep the file lies.

    The table is that of Hugging Face's audiofolder layout (`file_name`, `label`); what it leaves out is left out.
    """
    require_folder(root)
    tables = [root / name for name in _TABLES if (root / name).is_file()]
    if len(tables) > 1:
        raise InputError(
            f"{str(root)!r}: expected one table, got {' and '.join(table.name for table in tables)}; remove one"
        )
    if tables:
        return metadata_items(tables[0])
    flat, classes = [], []
    for entry in entries(root):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            # Walking each class by itself also enters classes that are links, as on shared storage.
            classes += [Item(_name(path, root), path, entry.name) for path in audio_below(entry)]
        elif is_audio(entry.name):
            flat.append(Item(entry.name, entry, None))
    if flat and classes:
        raise InputError(
            f"{str(root)!r}: expected class folders or one flat folder, got both "
            f"({flat[0].name!r} lies beside {classes[0].label!r}); move the "
            "loose files, or list the clips in a manifest"
        )
    if not flat and not classes:
        raise InputError(
            f"{str(root)!r}: expected audio files ({', '.join(sorted(AUDIO_SUFFIXES))}), got none; "
            "correct data.root"
        )
    _refuse_splits(root, classes)
    return flat or classes


def _refuse_splits(root: Path, items: list[Item]) -> None:
    """`train/yes/a.wav` would otherwise be labelled `train`."""
    nested = all(item.name.count("/") > 1 for item in items)
    labels = sorted({item.label for item in items if item.label is not None})
    if items and nested and all(canonical_split(label) in SPLITS for label in labels):
        raise ConfigError(
            f"{str(root)!r}: expected class folders, got folders of splits ({', '.join(labels)}); "
            f"point data.root at one of them, for example {str(root / labels[0])!r}"
        )


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
